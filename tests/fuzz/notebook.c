/* notebook.c: fuzzes data/notebook.c. A notebook's text is at most its cells and their fences. */

#include "../../data/refine.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Buf text = { NULL, 0, 0 };
    Error e = { "" };
    if (!notebook_text((Str){ (const char *)data, size }, &text, &e)) fuzz_refused(&e);
    buf_free(&text);
}
