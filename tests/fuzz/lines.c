/* lines.c: fuzzes data/lines.c, files of JSON Lines, plain and zstd. */

#include "../../data/refine.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    const char *path = fuzz_file(data, size);
    Document d = { 0 };
    Error e = { "" };
    Source *s = source_lines(&path, 1);
    document_reset(&d);
    for (; s->next(s, &d); document_reset(&d), e.text[0] = 0)
        if (!s->load(s, &d, &e)) fuzz_refused(&e);
    source_close(s);
    document_free(&d);
}
