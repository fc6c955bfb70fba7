/* llama2c_tokenizer.c: fuzzes export/llama2c.c's reader of tokenizer.bin. The first two bytes are
 * the number of tokens, which the format does not have. */

#include "../../export/export.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Vocab v;
    Arena a = { NULL, 0 };
    Error e = { "" };
    uint16_t n;
    if (size < 2) return;
    memcpy(&n, data, 2);
    if (llama2c_vocab_parse(&v, &a, data + 2, size - 2, n, &e)) {
        if (!vocab_check(&v, &e)) fuzz_fail("accepted: %s", e.text);
        vocab_free(&v);
    } else {
        fuzz_refused(&e);
    }
    arena_free(&a);
}
