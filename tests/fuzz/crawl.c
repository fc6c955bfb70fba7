/* crawl.c: fuzzes the reader of crawls of refine recall (data/crawl.c, data/webbytes.c): WARC, WET,
 * JSON Lines, plain, gzip and zstd. What is a page has text that is UTF-8. */

#include "../../data/recall.h"
#include "fuzz.h"

void fuzz_begin(void) { html_init(); } /* tables of libxml2 stay */

static void check_page(const Document *d) {
    for (const char *p = d->content.s, *end = p + d->content.n; p < end;) {
        int n = utf8_length(p, end);
        if (!n) fuzz_fail("a page that is not UTF-8");
        p += n;
    }
    if (page_url(d).n > d->added.n + d->rest.n + d->raw.n) fuzz_fail("an address from nowhere");
}

void fuzz_one(const uint8_t *data, size_t size) {
    const char *path = fuzz_file(data, size);
    Document d = { 0 };
    Error e = { "" };
    Source *s = source_crawl(&path, 1);
    document_reset(&d);
    for (; s->next(s, &d); document_reset(&d), e.text[0] = 0)
        if (!s->load(s, &d, &e))
            fuzz_refused(&e);
        else if (!d.reason)
            check_page(&d);
    source_close(s);
    document_free(&d);
}
