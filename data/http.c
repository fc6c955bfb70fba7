/* http.c: the answer of a web server as a crawler has stored it. See recall.h.
 *
 * What to know first: some crawlers store what came over the wire, in chunks and compressed, others
 * undo both and leave the header lines that tell of them. So a body is only taken for what its
 * header says if it looks like it. Test: tests/test_recall_read.py. */

#include "recall.h"
#include <strings.h> /* strncasecmp */

static Str trimmed(const char *p, const char *end) {
    while (p < end && isspace((uint8_t)*p)) p++;
    while (end > p && isspace((uint8_t)end[-1])) end--;
    return (Str){ p, (size_t)(end - p) };
}

Str header_find(Str head, const char *name) {
    const char *p = head.s, *end = p + head.n;
    size_t n = strlen(name);
    while (p < end) {
        const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        if ((size_t)(stop - p) > n && p[n] == ':' && !strncasecmp(p, name, n))
            return trimmed(p + n + 1, stop);
        p = stop < end ? stop + 1 : end;
    }
    return (Str){ "", 0 };
}

static bool same_word(Str a, const char *b) {
    return a.n == strlen(b) && !strncasecmp(a.s, b, a.n);
}

Str charset_in(Str s) {
    const char *end = s.s + s.n;
    for (const char *p = s.s; p + 8 <= end; p++) {
        if (strncasecmp(p, "charset=", 8)) continue;
        const char *from = p + 8 + (p + 8 < end && (p[8] == '"' || p[8] == '\'')), *stop = from;
        while (stop < end && (isalnum((uint8_t)*stop) || (*stop && strchr("-_.:+", *stop)))) stop++;
        return (Str){ from, (size_t)(stop - from) };
    }
    return (Str){ "", 0 };
}

Str media_type(Str value) {
    const char *semi = (const char *)memchr(value.s, ';', value.n);
    return trimmed(value.s, semi ? semi : value.s + value.n);
}

/* Chunks are "SIZE[;...]\r\n", SIZE bytes, "\r\n"; one of size 0 is the last. */
static bool join_chunks(Str body, Buf *out, Error *e) {
    const char *p = body.s, *end = p + body.n;
    for (;;) {
        uint64_t size = 0;
        int digits = 0;
        for (; p < end && isxdigit((uint8_t)*p) && digits < 12; p++, digits++)
            size = size * 16 + (uint64_t)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
        const char *line = p < end ? (const char *)memchr(p, '\n', (size_t)(end - p)) : NULL;
        if (!digits || !line) return fail(e, "HTTP chunk: no size, expected one in hexadecimal");
        if (!size) return true;
        p = line + 1;
        if (size > (uint64_t)(end - p)) return fail(e, "HTTP chunk: longer than what is left");
        buf_add(out, p, (size_t)size);
        p += size;
        if (p < end && *p == '\r') p++;
        if (p == end || *p++ != '\n') return fail(e, "HTTP chunk: its size is wrong");
    }
}

static bool looks_chunked(Str body) {
    size_t i = 0;
    while (i < body.n && i < 12 && isxdigit((uint8_t)body.s[i])) i++;
    if (!i) return body.n && !memchr("<\xEF \t\r\n", body.s[0], 6); /* garbage, or HTML */
    return i < body.n && strchr("\r\n; ", body.s[i]) != NULL;
}

/* gzip begins with 1F 8B; zlib with 78, most of the time; bare deflate like anything. */
static bool looks_packed(Str body, bool deflate) {
    if (body.n >= 2 && !memcmp(body.s, "\x1F\x8B", 2)) return true;
    return deflate && body.n && body.s[0] != '<';
}

bool http_answer(Str message, Buf *plain, Answer *a, Error *e) {
    const char *end = message.s + message.n;
    memset(a, 0, sizeof *a);
    if (message.n < 12 || memcmp(message.s, "HTTP/", 5))
        return fail(e, "no HTTP status line, expected HTTP/1.1 200");
    const char *space = (const char *)memchr(message.s, ' ', 12);
    if (space && message.n - (size_t)(space - message.s) >= 4)
        for (int i = 1; i <= 3 && isdigit((uint8_t)space[i]); i++)
            a->status = a->status * 10 + space[i] - '0';
    const char *p = (const char *)memmem(message.s, message.n, "\r\n\r\n", 4);
    const char *q = (const char *)memmem(message.s, message.n, "\n\n", 2);
    const char *stop = p && (!q || p < q) ? p + 4 : q ? q + 2 : NULL;
    if (!stop) return fail(e, "HTTP header: no empty line at its end");
    Str head = { message.s, (size_t)(stop - message.s) };
    a->body = (Str){ stop, (size_t)(end - stop) };
    Str type = header_find(head, "Content-Type");
    a->type = media_type(type);
    a->charset = charset_in(type);
    if (a->status != 200) return true;
    if (same_word(header_find(head, "Transfer-Encoding"), "chunked") && looks_chunked(a->body)) {
        if (!join_chunks(a->body, plain, e)) return false;
        a->body = (Str){ plain->data ? plain->data : "", plain->n };
    }
    Str packed = header_find(head, "Content-Encoding");
    bool deflate = same_word(packed, "deflate");
    if (deflate || same_word(packed, "gzip") || same_word(packed, "x-gzip")) {
        if (!looks_packed(a->body, deflate)) return true;
        Buf bigger = { NULL, 0, 0 };
        bool ok = bytes_inflate(a->body, &bigger, MOST_FILE + 1, e);
        buf_free(plain);
        *plain = bigger;
        a->body = (Str){ plain->data ? plain->data : "", plain->n };
        return ok;
    }
    a->packed = packed.n && !same_word(packed, "identity") && a->body.n && a->body.s[0] != '<';
    return true;
}
