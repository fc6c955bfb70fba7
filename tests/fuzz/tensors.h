/* tensors.h: what the targets for files of tensors share: what a reader accepts can be read. */
#ifndef OC_FUZZ_TENSORS_H
#define OC_FUZZ_TENSORS_H

#include "../../export/export.h"
#include "fuzz.h"

typedef bool TensorsParse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e);

/* Every byte of every tensor, where the type is one that can be read. */
static inline void fuzz_tensors(TensorsParse *parse, const uint8_t *data, size_t size) {
    TensorList l = { NULL, 0, 0 };
    Arena a = { NULL, 0 };
    Error e = { "" };
    uint32_t sum = 0;
    bool ok = parse(&l, &a, data, size, &e);
    if (!ok) fuzz_refused(&e);
    for (size_t i = 0; ok && i < l.n; i++) {
        const Tensor *t = &l.tensor[i];
        if (t->type < T_COUNT && type_info(t->type)->block)
            sum = crc32c(sum, t->data, tensor_bytes(t));
    }
    free(l.tensor);
    arena_free(&a);
}

#endif
