/* torchzip.c: fuzzes export/torchzip.c and export/unpickle.c, the readers of PyTorch's zip files.
 * Every byte of a tensor that was accepted can be read. */

#include "../../export/export.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    TensorList l = { NULL, 0, 0 };
    Arena a = { NULL, 0 };
    Error e = { "" };
    uint32_t sum = 0;
    if (!torchzip_parse(&l, &a, data, size, &e)) fuzz_refused(&e);
    for (size_t i = 0; i < l.n && !e.text[0]; i++) {
        const Tensor *t = &l.tensor[i];
        if (t->type < T_COUNT && type_info(t->type)->block)
            sum = crc32c(sum, t->data, tensor_bytes(t));
    }
    free(l.tensor);
    arena_free(&a);
}
