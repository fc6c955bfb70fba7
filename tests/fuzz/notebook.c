/* notebook.c: fuzzes data/notebook.c. A notebook's text is its cells and their fences:
 * it cannot be many times as long. */

#include "../../data/refine.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Buf text = { NULL, 0, 0 };
    Error e = { "" };
    if (!notebook_text((Str){ (const char *)data, size }, &text, &e)) fuzz_refused(&e);
    /* A cell of code takes 30 bytes at least, and gets two fences and a name of a language. */
    if (text.n > 6 * size + 100) fuzz_fail("%zu bytes became %zu", size, text.n);
    buf_free(&text);
}
