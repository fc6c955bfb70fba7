/* llama2c.c: fuzzes export/llama2c.c's reader of models, versions 0, 1 and 2. Every byte of a
 * tensor that was accepted can be read. */

#include "../../export/export.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    static Source s;
    Error e = { "" };
    uint32_t sum = 0;
    memset(&s, 0, sizeof s);
    if (llama2c_parse(&s, data, size, &e))
        for (int i = 0; i < s.n_tensors; i++)
            sum = crc32c(sum, s.tensor[i].data, tensor_bytes(&s.tensor[i]));
    else
        fuzz_refused(&e);
    source_close(&s);
}
