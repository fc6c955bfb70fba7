/* jsonwrite.h: JSON out, into a Buf, and the two UTF-8 functions that JSON needs both ways.
 *
 * What to know first: every json_put_* sets the comma before its value itself where one is needed.
 * None is after white space, so who wants line breaks writes the comma too.
 *
 *     json_open(&b, '{');
 *     json_put_key(&b, "id");
 *     json_put_int(&b, 7);
 *     json_put_key(&b, "text");
 *     json_put_str(&b, str_of("a\tb"));
 *     json_close(&b, '}');                         gives {"id":7,"text":"a\u0009b"}
 *
 * Included by json.h, the reader. Test: tests/test_format.c. */
#ifndef OC_JSONWRITE_H
#define OC_JSONWRITE_H

#include "files.h" /* Buf, Str */

/* Bytes of the UTF-8 character at p, 1 to 4, or 0 where there is none: cut off, overlong, half a
 * surrogate pair, or beyond U+10FFFF. */
OC_API int utf8_length(const char *p, const char *end) {
    const uint8_t *s = (const uint8_t *)p;
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 }; /* for n bytes */
    if (s[0] < 0x80) return 1;
    int n = s[0] < 0xC0 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF8 ? 4 : 0;
    if (n == 0 || end - p < n) return 0;
    uint32_t c = s[0] & (0x7Fu >> n);
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3F);
    }
    return c >= least[n] && c < 0x110000 && (c < 0xD800 || c > 0xDFFF) ? n : 0;
}

OC_API char *utf8_put(char *to, uint32_t c) { /* returns the place behind the character */
    static const uint8_t lead[] = { 0, 0xC0, 0xE0, 0xF0 };
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    *to++ = (char)(lead[more] | c >> (6 * more));
    while (more--) *to++ = (char)(0x80 | (c >> (6 * more) & 0x3F));
    return to;
}

OC_API void json_comma(Buf *b) {
    if (b->n && !strchr("{[:, \n", b->data[b->n - 1])) buf_add(b, ",", 1);
}
OC_API void json_open(Buf *b, char bracket) {
    json_comma(b);
    buf_add(b, &bracket, 1);
}
OC_API void json_close(Buf *b, char bracket) { buf_add(b, &bracket, 1); }

/* ASCII that stands for itself in a string of JSON. */
OC_API bool plain_char(uint8_t c) { return c >= 32 && c < 127 && c != '"' && c != '\\'; }

/* The first byte from p on that does not; eight at a time: the high bit of a byte of `odd` is set
 * where that byte is below 32, a quote, a backslash, above 127, or 127. */
OC_API const char *plain_end(const char *p, const char *end) {
    const uint64_t ones = 0x0101010101010101u;
    for (uint64_t w; end - p >= 8; p += 8) {
        memcpy(&w, p, 8);
        uint64_t quote = (w ^ ones * '"') - ones, slash = (w ^ ones * '\\') - ones;
        uint64_t odd = ((w - ones * 32) | quote | slash | w | (w + ones)) & ones << 7;
        if (odd) return p + __builtin_ctzll(odd) / 8;
    }
    while (p < end && plain_char((uint8_t)*p)) p++;
    return p;
}

/* Bytes that are not UTF-8 (a model may stop within a character) are written as U+FFFD. */
OC_API void json_put_str(Buf *b, Str s) {
    static const char hex[] = "0123456789abcdef";
    json_open(b, '"');
    const char *p = s.s, *end = s.s + s.n, *run = p; /* what stands for itself is added in runs */
    for (;;) {
        p = plain_end(p, end);
        int n = p < end ? utf8_length(p, end) : 0;
        if (n > 1 || (n && *p == 127)) {
            p += n;
            continue;
        }
        if (p > run) buf_add(b, run, (size_t)(p - run));
        if (p == end) break;
        if (n == 0)
            buf_add(b, "\xEF\xBF\xBD", 3);
        else if (*p == '\n')
            buf_add(b, "\\n", 2);
        else if (*p == '"' || *p == '\\')
            buf_add(b, "\\", 1), buf_add(b, p, 1);
        else
            buf_add(b, (const char[]){ '\\', 'u', '0', '0', hex[*p >> 4], hex[*p & 15] }, 6);
        run = ++p;
    }
    buf_add(b, "\"", 1);
}
OC_API void json_put_key(Buf *b, const char *key) {
    json_put_str(b, str_of(key));
    buf_add(b, ":", 1);
}
OC_API void json_put_int(Buf *b, int64_t v) {
    json_comma(b);
    buf_printf(b, "%lld", (long long)v);
}
OC_API void json_put_bool(Buf *b, bool v) {
    json_comma(b);
    buf_printf(b, "%s", v ? "true" : "false");
}

/* A short decimal that reads back as the same double, or as the same float where v is one:
 * 1e-05f is written 1e-05 and not 9.99999974737875e-06. JSON has no NaN: null. */
OC_API void json_put_num(Buf *b, double v, bool is_float) {
    char text[40] = "null";
    for (int digits = 6; isfinite(v) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if ((is_float ? (double)strtof(text, NULL) : strtod(text, NULL)) == v) break;
    }
    json_comma(b);
    buf_printf(b, "%s", text);
}

#endif
