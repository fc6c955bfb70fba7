/* crawl.c: the pages of a web crawl as documents: WARC, WET and JSON Lines. See recall.h.
 *
 * What to know first: a WARC file (ISO 28500) is a chain of records: a line "WARC/1.0", header
 * lines, an empty line, as many bytes as Content-Length says, two line ends. Records of the type
 * `response` hold what a server sent, `conversion` (WET files) and `resource` the thing itself; all
 * others are passed over. One thread finds the records; making text of them is the work of any
 * thread. A record that is cut off or whose length is wrong is counted as broken, and the next line
 * that begins with WARC/1. is where the next one begins, also where it was swallowed.
 * Test: tests/test_recall_read.py. */

#include "recall.h"
#include <strings.h> /* strncasecmp */
#include <time.h>    /* timegm */

enum { MOST_HEADER = 1 << 16 };

typedef struct {
    Source source;
    const char **path;
    int n, at;
    Bytes *bytes; /* of the file that is open, NULL: none */
    const char *name;
    bool warc, lost;  /* its kind; looking for a record */
    int64_t record;   /* or line */
    uint64_t rescued; /* bytes that were put back */
    Buf line;
} Crawl;

/* ------------------------------------------------------------------------------------------------
 * 1. Records */

static bool is_blank(const Buf *line) { return strspn(line->data, "\r\n") == line->n; }

/* The next line in c->line; false at the end of the file and at damage. */
static bool next_line(Crawl *c) {
    c->line.n = 0;
    return bytes_line(c->bytes, &c->line, MOST_HEADER);
}

static bool broken(Crawl *c, Document *d, const char *why) {
    d->broken = why;
    d->from = c->name;
    d->line = c->record;
    return true;
}

/* Puts back what begins with the next record in what was read; else looks for it further on. No
 * file can have it read the same bytes over and over: there is an end to what is put back. */
static void rescue(Crawl *c, const Document *d) {
    c->lost = true;
    if (!d->raw.n) return; /* not one line was read */
    const char *end = d->raw.data + d->raw.n;
    const char *p = (const char *)memmem(d->raw.data, d->raw.n, "\nWARC/1.", 8);
    if (!p || c->rescued > 4 * c->source.done + 4 * (uint64_t)MOST_FILE) return;
    c->rescued += (uint64_t)(end - p);
    bytes_again(c->bytes, p + 1, (size_t)(end - p) - 1);
}

/* Reads header lines up to the empty one into raw; false, with d->broken, where there is no end. */
static bool read_header(Crawl *c, Document *d) {
    while (next_line(c)) {
        buf_add(&d->raw, c->line.data, c->line.n);
        if (is_blank(&c->line)) return true;
        if (d->raw.n > MOST_HEADER) break;
    }
    const char *damage = bytes_damage(c->bytes);
    broken(c, d, damage ? damage : "WARC: a header that does not end");
    rescue(c, d);
    return false;
}

/* Reads n bytes into raw, and the end of the line behind them. */
static bool read_block(Crawl *c, Document *d, size_t n) {
    const char *damage;
    while (n) {
        Str s = bytes_peek(c->bytes);
        size_t k = s.n < n ? s.n : n;
        if (!k) {
            damage = bytes_damage(c->bytes);
            broken(c, d, damage ? damage : "WARC: a record that is cut off");
            rescue(c, d);
            return false;
        }
        buf_add(&d->raw, s.s, k);
        bytes_skip(c->bytes, k);
        n -= k;
    }
    size_t whole = d->raw.n;
    if (!next_line(c) || is_blank(&c->line)) return true; /* the file may end at once */
    if (c->line.n > 7 && !memcmp(c->line.data, "WARC/1.", 7)) {
        bytes_again(c->bytes, c->line.data, c->line.n);
        return true;
    }
    buf_add(&d->raw, c->line.data, c->line.n);
    broken(c, d, "WARC: Content-Length is wrong");
    rescue(c, d);
    d->raw.n = whole;
    return false;
}

static bool content_length(Str head, uint64_t *n) {
    Str s = header_find(head, "Content-Length");
    *n = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (!isdigit((uint8_t)s.s[i]) || i == 18) return false;
        *n = *n * 10 + (uint64_t)(s.s[i] - '0');
    }
    return s.n > 0;
}

static bool is_wanted(Str head) {
    Str type = header_find(head, "WARC-Type");
    return str_is(type, "response") || str_is(type, "conversion") || str_is(type, "resource");
}

/* The next record of a page, in raw, or something broken; false at the end of the file. */
static bool next_record(Crawl *c, Document *d) {
    for (;; d->raw.n = 0) {
        if (!next_line(c)) {
            const char *damage = bytes_damage(c->bytes);
            return damage ? broken(c, d, damage) : false;
        }
        bool begins = c->line.n > 7 && !memcmp(c->line.data, "WARC/1.", 7);
        if (!begins && (c->lost || is_blank(&c->line))) continue;
        if (!begins) {
            c->lost = true;
            return broken(c, d, "WARC: no record, expected a line WARC/1.0");
        }
        c->lost = false;
        c->record++;
        uint64_t n;
        if (!read_header(c, d)) return true;
        d->names.n = 0;
        buf_add(&d->names, &d->raw.n, sizeof d->raw.n); /* where the block begins */
        Str head = { d->raw.data, d->raw.n };
        bool wanted = is_wanted(head);
        if (!content_length(head, &n)) {
            c->lost = true;
            return broken(c, d, "WARC: no Content-Length, expected a whole number");
        }
        d->from = c->name;
        d->line = c->record;
        d->size = (int64_t)n;
        if (n > MOST_FILE) { /* the number may be a lie: go by lines */
            c->lost = true;
            if (!wanted) continue;
            d->reason = "larger than 8 MB";
            return true;
        }
        if (!read_block(c, d, (size_t)n)) return true;
        if (wanted) return true;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. The source */

static bool next_json(Crawl *c, Document *d) {
    for (;;) {
        d->raw.n = 0;
        bool any = bytes_line(c->bytes, &d->raw, MOST_LINE + 1);
        bool whole = any && d->raw.data[d->raw.n - 1] == '\n';
        const char *damage = whole ? NULL : bytes_damage(c->bytes);
        if (any || damage) c->record++;
        if (damage) return broken(c, d, damage);
        if (!any) return false;
        d->from = c->name;
        d->line = c->record;
        if (strspn(d->raw.data, " \t\r\n") < d->raw.n) return true;
    }
}

/* WARC by its first line, or by its name where that is damaged. */
static bool is_warc(Crawl *c) {
    const char *slash = strrchr(c->name, '/'), *name = slash ? slash + 1 : c->name;
    Str s = bytes_peek(c->bytes);
    if (s.n >= 5 && !memcmp(s.s, "WARC/", 5)) return true;
    return !(s.n && *s.s == '{') && (strstr(name, ".warc") || strstr(name, ".wet"));
}

static bool crawl_next(Source *s, Document *d) {
    Crawl *c = (Crawl *)s;
    for (;;) {
        if (!c->bytes) {
            if (c->at == c->n) return false;
            c->name = c->path[c->at++];
            c->bytes = bytes_open(c->name, &s->done);
            c->warc = is_warc(c);
            c->lost = false;
            c->record = 0;
        }
        if (c->warc ? next_record(c, d) : next_json(c, d)) return true;
        bytes_close(c->bytes);
        c->bytes = NULL;
    }
}

static bool same_type(Str a, const char *b) {
    return a.n == strlen(b) && !strncasecmp(a.s, b, a.n);
}

/* "2026-11-28T12:00:00Z" -> seconds since 1970; 0 for what is no time. */
static int64_t seconds_of(Str date) {
    struct tm t = { 0 };
    char text[32];
    snprintf(text, sizeof text, "%.*s", date.n < 31 ? (int)date.n : 31, date.s);
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
    return end ? (int64_t)timegm(&t) : 0;
}

/* The bytes of a page into d->text, as UTF-8 without tags. */
static bool set_text(Document *d, Str body, Str type, Str charset, Error *e) {
    size_t wrong = 0;
    bool html = same_type(type, "text/html") || same_type(type, "application/xhtml+xml") ||
                (!type.n && body.n && *body.s == '<');
    if (!html && type.n && !same_type(type, "text/plain")) {
        d->reason = "no page of text";
        return true;
    }
    if (body.n > MOST_FILE) {
        d->reason = "larger than 8 MB";
        return true;
    }
    d->scratch.n = 0;
    if (!text_utf8(body, charset, html, &d->scratch, &wrong, e)) return false;
    if (wrong) document_count(d, "bytes of another charset");
    if (html) return html_text((Str){ d->scratch.data, d->scratch.n }, &d->text, e);
    buf_add(&d->text, d->scratch.data, d->scratch.n);
    return true;
}

static bool load_record(Document *d, Error *e) {
    size_t n;
    memcpy(&n, d->names.data, sizeof n);
    Str head = { d->raw.data, n }, block = { d->raw.data + n, d->raw.n - n };
    Str type = header_find(head, "Content-Type"), url = header_find(head, "WARC-Target-URI");
    if (url.n > 2 && *url.s == '<') url.s++, url.n -= 2; /* as some writers of WARC/1.0 have it */
    d->commit_time = seconds_of(header_find(head, "WARC-Date"));
    if (url.n) json_put_str(document_member(d, "url"), url);
    buf_add(&d->names, url.s, url.n);
    if (str_is(header_find(head, "WARC-Type"), "response")) {
        Answer a;
        if (!same_type(media_type(type), "application/http")) {
            d->reason = "no answer of a web server";
            return true;
        }
        if (!http_answer(block, &d->keys, &a, e)) return false;
        if (a.status != 200) d->reason = "HTTP status is not 200";
        if (a.packed) d->reason = "a compression that is not read";
        if (!d->reason && !set_text(d, a.body, a.type, a.charset, e)) return false;
    } else if (!set_text(d, block, media_type(type), charset_in(type), e)) {
        return false;
    }
    d->content = (Str){ d->text.data ? d->text.data : "", d->text.n };
    d->size = (int64_t)d->content.n;
    d->language = str_of("Text");
    d->type = str_of("text");
    d->raw.n = 0;
    return true;
}

Str page_url(const Document *d) {
    const size_t n = sizeof(size_t);
    const Json *url = d->names.n ? NULL : json_get(d->json.node, "url");
    if (d->names.n) return (Str){ d->names.data + n, d->names.n - n };
    return url && url->type == J_STRING ? url->str : (Str){ "", 0 };
}

static bool crawl_load(const Source *s, Document *d, Error *e) {
    Str url;
    if (d->broken) return fail(e, "%s", d->broken);
    if (d->reason) return true;
    if (d->names.n) return load_record(d, e);
    return load_line(s, d, e) && json_str(d->json.node, "url", false, &url, e);
}

static void crawl_close(Source *s) {
    Crawl *c = (Crawl *)s;
    bytes_close(c->bytes);
    buf_free(&c->line);
    free(c);
}

Source *source_crawl(const char **path, int n) {
    Crawl *c = (Crawl *)xcalloc(1, sizeof *c, "input");
    c->source = (Source){ crawl_next, crawl_load, crawl_close, 0, 0 };
    c->path = path;
    c->n = n;
    html_init();
    for (int i = 0; i < n; i++) {
        struct stat st;
        if (stat(path[i], &st)) die("%s: cannot open: %s", path[i], strerror(errno));
        if (!S_ISREG(st.st_mode))
            die("%s: not a regular file, expected one: a crawl is read several times", path[i]);
        if (access(path[i], R_OK)) die("%s: cannot open: %s", path[i], strerror(errno));
        c->source.total += (uint64_t)st.st_size;
    }
    return &c->source;
}
