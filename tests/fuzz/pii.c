/* pii.c: fuzzes ./refine transform: personal data (data/pii.c) and notices (data/notice.c). The
 * first byte chooses the language. Text without a hit is not touched, a hit leaves its sign. */

#include "../../data/notice.h"
#include "../../data/pii.h"
#include "fuzz.h"

static const char *const languages[] = { "c",   "cpp",  "python", "shell",  "html", "sql",
                                         "lua", "ruby", "tex",    "pascal", "go",   "text" };
enum { N_LANGUAGES = sizeof languages / sizeof *languages };

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    if (!size) return;
    Str text = { (const char *)data + 1, size - 1 };
    Buf out = { NULL, 0, 0 };
    size_t count[N_PII] = { 0 }, hits = 0;
    bool found = pii_replace(text, &out, count);
    for (int i = 0; i < N_PII; i++) {
        hits += count[i];
        if (found && count[i] &&
            !memmem(out.data, out.n, pii_placeholder[i], strlen(pii_placeholder[i])))
            fuzz_fail("%zu of %s and no placeholder", count[i], pii_what[i]);
    }
    if (found != (hits > 0) || (!found && out.n)) fuzz_fail("%zu hits, said %d", hits, found);
    out.n = 0;
    if (notice_remove(languages[*data % N_LANGUAGES], text, &out) && out.n > text.n)
        fuzz_fail("%zu bytes became %zu", text.n, out.n);
    buf_free(&out);
}
