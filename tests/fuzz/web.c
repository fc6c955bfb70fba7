/* web.c: fuzzes what ./refine recall makes of the answer of a web server: its header and body
 * (data/http.c), its text (data/webtext.c), addresses (data/domains.c). The first byte chooses. */

#include "../../data/recall.h"
#include "fuzz.h"

enum { MOST = 1 << 20 };

void fuzz_begin(void) { html_init(); } /* tables of libxml2 stay */

static void read_answer(Str s) {
    Buf plain = { NULL, 0, 0 };
    Answer a;
    Error e = { "" };
    if (!http_answer(s, &plain, &a, &e)) fuzz_refused(&e);
    buf_free(&plain);
}

static void read_text(Str s, const char *charset, bool html) {
    Buf text = { NULL, 0, 0 }, seen = { NULL, 0, 0 };
    Error e = { "" };
    size_t n_wrong = 0;
    bool ok = text_utf8(s, str_of(charset), html, &text, &n_wrong, &e);
    if (!ok) fuzz_refused(&e);
    for (const char *p = text.data, *end = p + text.n; ok && p < end;) {
        int n = utf8_length(p, end);
        if (!n) fuzz_fail("%s is not UTF-8 afterwards", charset);
        p += n;
    }
    if (ok && html) (void)html_text((Str){ text.data, text.n }, &seen, &e);
    buf_free(&text);
    buf_free(&seen);
}

static void read_address(Str s) {
    Buf domain = { NULL, 0, 0 };
    Str host = url_host(s), section = url_section(s);
    if (host.n > s.n || section.n > s.n) fuzz_fail("more than the address");
    base_domain(host, &domain);
    if (domain.n > host.n) fuzz_fail("more than the host");
    buf_free(&domain);
    (void)media_type(s);
    (void)charset_in(s);
}

static void inflate(Str s) {
    Buf out = { NULL, 0, 0 };
    Error e = { "" };
    if (!bytes_inflate(s, &out, MOST, &e)) fuzz_refused(&e);
    if (out.n > MOST) fuzz_fail("%zu bytes, expected at most %d", out.n, MOST);
    buf_free(&out);
}

void fuzz_one(const uint8_t *data, size_t size) {
    static const char *const charset[] = { "", "utf-8", "gbk", "shift_jis", "utf-16", "latin1" };
    if (!size) return;
    Str s = { (const char *)data + 1, size - 1 };
    int what = *data % 4;
    if (what == 0) read_answer(s);
    if (what == 1) read_text(s, charset[*data / 8 % 6], *data & 4);
    if (what == 2) read_address(s);
    if (what == 3) inflate(s);
}
