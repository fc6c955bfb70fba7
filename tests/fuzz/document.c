/* document.c: fuzzes data/document.c, a line of JSON Lines as a document of ./refine. What is
 * accepted is written as a line, and that line is read again as the same document. */

#include "../../data/refine.h"
#include "fuzz.h"

void fuzz_begin(void) {}

static bool read_line(Document *d, const char *bytes, size_t size, Error *e) {
    memset(d, 0, sizeof *d);
    document_reset(d);
    buf_add(&d->raw, bytes, size);
    d->line = 1;
    return load_line(NULL, d, e);
}

void fuzz_one(const uint8_t *data, size_t size) {
    Document d, again;
    Buf line = { NULL, 0, 0 };
    Error e = { "" };
    if (read_line(&d, (const char *)data, size, &e)) {
        json_put_int(document_member(&d, "added"), 1);
        document_line(&d, &line);
        if (!read_line(&again, line.data, line.n - 1, &e)) fuzz_fail("written: %s", e.text);
        if (str_cmp(d.content, again.content) || str_cmp(d.path, again.path) ||
            str_cmp(d.repo, again.repo) || str_cmp(d.language, again.language) ||
            d.stars != again.stars || d.commit_time != again.commit_time || d.size != again.size)
            fuzz_fail("another document after writing");
        if (!str_is(document_find(&again, "added"), "1")) fuzz_fail("a member was lost");
        document_free(&again);
    } else {
        fuzz_refused(&e);
    }
    document_free(&d);
    buf_free(&line);
}
