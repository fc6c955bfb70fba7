/* checksums.h: makes the checksums of a GGUF file right, so that a fuzzer gets past them. */
#ifndef OC_CHECKSUMS_H
#define OC_CHECKSUMS_H

#include "../../gguf.h"

/* In place; what cannot be parsed, or has none, stays as it is. */
static inline void gguf_correct(uint8_t *data, size_t size) {
    Gguf g;
    Error e;
    uint32_t crc = 0;
    if (!gguf_parse(&g, data, size, &e)) return;
    const GgufKey *sums = gguf_key(&g, "opencoder.crc32c");
    const GgufKey *header = gguf_key(&g, "opencoder.crc32c.header");
    if (sums && sums->type == GV_ARRAY && sums->item == GV_U32 && sums->count == g.n_tensors)
        for (uint64_t i = 0; i < g.n_tensors; i++) {
            crc = crc32c(0, g.tensor[i].data, tensor_bytes(&g.tensor[i]));
            memcpy(data + (sums->data - data) + 4 * i, &crc, 4);
        }
    if (header && header->type == GV_U32) {
        size_t at = (size_t)(header->data - data);
        memset(data + at, 0, 4);
        crc = crc32c(0, data, g.data_start);
        memcpy(data + at, &crc, 4);
    }
    gguf_free(&g);
}

#endif
