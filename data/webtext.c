/* webtext.c: what a reader of a page sees, as UTF-8. See recall.h.
 *
 * What to know first: iconv of the C library turns charsets into UTF-8, libxml2 reads the HTML and
 * tells of elements and text as they come, without a tree. Blocks begin on a line of their own, in
 * <pre> white space stays, and scripts, styles and buttons are left out.
 * Test: tests/test_recall_read.py. */

#include "recall.h"
#include "../unicode.h" /* utf8_decode, MALFORMED */
#include <iconv.h>      /* iconv */
#include <strings.h>    /* strcasecmp */
#ifdef OC_LIBXML2
#include <libxml/HTMLparser.h>
#include <libxml/parserInternals.h> /* xmlSwitchEncoding */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Charsets */

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* A copy in which what is no UTF-8 has become U+FFFD, and NUL a space; returns how often. */
static size_t copy_utf8(Str bytes, Buf *out) {
    const char *p = bytes.s, *end = p + bytes.n, *from = p;
    size_t wrong = 0;
    while (p < end) {
        uint32_t c = (uint8_t)*p;
        size_t len = c < 0x80 ? 1 : utf8_decode(p, (size_t)(end - p), &c);
        if (c && c != MALFORMED) {
            p += len;
            continue;
        }
        buf_add(out, from, (size_t)(p - from));
        buf_add(out, c ? replacement : " ", c ? 3 : 1);
        wrong += c != 0;
        from = p += len;
    }
    buf_add(out, from, (size_t)(p - from));
    return wrong;
}

/* `unit`: bytes that are passed over where they are no character; 2 in UTF-16, so that what follows
 * is not read across its units. */
static size_t convert(iconv_t to_utf8, size_t unit, Str bytes, Buf *out) {
    char *in = (char *)(uintptr_t)bytes.s, part[4096];
    size_t left = bytes.n, wrong = 0;
    Buf all = { NULL, 0, 0 };
    for (bool flushed = false; !flushed;) {
        char *to = part;
        size_t room = sizeof part, before = left;
        flushed = !left; /* some charsets keep a letter until they know that no accent follows */
        size_t status = iconv(to_utf8, flushed ? NULL : &in, &left, &to, &room);
        bool full = status == (size_t)-1 && errno == E2BIG;
        buf_add(&all, part, (size_t)(to - part));
        if (flushed || status != (size_t)-1 || (full && left < before)) continue;
        buf_add(&all, replacement, 3); /* bytes that are none of the charset, or a cut character */
        wrong++;
        size_t skip = left < unit ? left : unit;
        in += skip, left -= skip;
    }
    wrong += copy_utf8((Str){ all.data ? all.data : "", all.n }, out);
    buf_free(&all);
    return wrong;
}

/* What <meta charset=...> or <meta http-equiv ... charset=...> says in the first 1024 bytes. Who
 * could read that, does not read UTF-16: then it is UTF-8, as the standard below has it. */
static Str meta_charset(Str html) {
    const char *p = html.s, *end = p + (html.n < 1024 ? html.n : 1024);
    for (; (p = (const char *)memchr(p, '<', (size_t)(end - p))); p++) {
        if (end - p < 5 || strncasecmp(p, "<meta", 5)) continue;
        const char *stop = (const char *)memchr(p, '>', (size_t)(end - p));
        Str found = charset_in((Str){ p, (size_t)((stop ? stop : end) - p) });
        if (found.n >= 6 && !strncasecmp(found.s, "utf-16", 6)) return str_of("utf-8");
        if (found.n) return found;
    }
    return (Str){ "", 0 };
}

/* Names that mean more on the web than they say: https://encoding.spec.whatwg.org */
static const char *web_charset(const char *name) {
    static const char *const means[][2] = { { "iso-8859-1", "CP1252" },   { "latin1", "CP1252" },
                                            { "us-ascii", "CP1252" },     { "ascii", "CP1252" },
                                            { "iso-8859-9", "CP1254" },   { "tis-620", "CP874" },
                                            { "gb2312", "GB18030" },      { "gbk", "GB18030" },
                                            { "big5", "BIG5-HKSCS" },     { "shift_jis", "CP932" },
                                            { "x-sjis", "CP932" },        { "euc-kr", "CP949" },
                                            { "ks_c_5601-1987", "CP949" } };
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        if (!strcasecmp(name, means[i][0])) return means[i][1];
    return name;
}

static Str charset_of(Str *bytes, Str charset, bool html) {
    static const struct {
        const char *mark;
        size_t n;
        const char *name;
    } marks[] = { { "\xEF\xBB\xBF", 3, "UTF-8" },
                  { "\xFF\xFE", 2, "UTF-16LE" },
                  { "\xFE\xFF", 2, "UTF-16BE" } };
    for (size_t i = 0; i < 3; i++)
        if (bytes->n >= marks[i].n && !memcmp(bytes->s, marks[i].mark, marks[i].n)) {
            bytes->s += marks[i].n, bytes->n -= marks[i].n;
            return str_of(marks[i].name);
        }
    return charset.n || !html ? charset : meta_charset(*bytes);
}

bool text_utf8(Str bytes, Str charset, bool html, Buf *out, size_t *n_wrong, Error *e) {
    char name[48];
    size_t from = out->n;
    charset = charset_of(&bytes, charset, html);
    snprintf(name, sizeof name, "%.*s", charset.n < 40 ? (int)charset.n : 40, charset.s);
    bool utf8 = !strcasecmp(name, "utf-8") || !strcasecmp(name, "utf8");
    size_t unit = !strncasecmp(name, "utf-16", 6) ? 2 : !strncasecmp(name, "utf-32", 6) ? 4 : 1;
    iconv_t to_utf8 = (iconv_t)-1;
    if (charset.n && !utf8) to_utf8 = iconv_open("UTF-8", web_charset(name));
    if (to_utf8 == (iconv_t)-1) { /* UTF-8, or not known, or not said */
        *n_wrong = copy_utf8(bytes, out);
        if (*n_wrong && !utf8) to_utf8 = iconv_open("UTF-8", "CP1252"), unit = 1;
        if (to_utf8 != (iconv_t)-1) out->n = from;
    }
    if (to_utf8 != (iconv_t)-1) {
        *n_wrong = convert(to_utf8, unit, bytes, out);
        iconv_close(to_utf8);
    }
    return *n_wrong * 100 <= bytes.n || fail(e, "charset: more than 1 of 100 bytes is none of it");
}

/* ------------------------------------------------------------------------------------------------
 * 2. HTML */

#ifdef OC_LIBXML2
typedef struct {
    Buf *out;
    size_t from;          /* where the page begins in it */
    int hidden, pre;      /* elements that are open */
    bool title, titled;   /* within the page's title, which is read; it has been */
    bool space, any_line; /* white space is due; the line has something */
    int feeds;            /* line feeds that are due */
} Reader;

static bool one_of(const char *name, const char *names) {
    char key[24];
    if (strlen(name) > 20) return false;
    snprintf(key, sizeof key, " %s ", name);
    return strstr(names, key) != NULL;
}

static bool hides(const char *name) {
    return one_of(name, " script style noscript template svg iframe object select textarea button "
                        "nav head ");
}

static bool is_block(const char *name) {
    return one_of(name, " p div h1 h2 h3 h4 h5 h6 ul ol dl pre table blockquote section article "
                        "header footer main aside form figure hr address details body title ");
}

static bool is_line(const char *name) {
    return one_of(name, " li tr dt dd br option figcaption caption summary ");
}

static void feed(Reader *r, int feeds) {
    if (r->feeds < feeds) r->feeds = feeds;
    r->space = false;
}

static void put(Reader *r, const char *s, size_t n) {
    Buf *out = r->out;
    while (r->feeds && out->n > r->from && strchr(" \n", out->data[out->n - 1])) out->n--;
    if (out->n > r->from && r->feeds) buf_add(out, "\n\n", (size_t)r->feeds);
    if (r->feeds) r->any_line = false;
    if (r->space && r->any_line) buf_add(out, " ", 1);
    r->feeds = 0;
    r->space = false;
    r->any_line = true;
    buf_add(out, s, n);
}

static void on_text(void *user, const xmlChar *text, int len) {
    Reader *r = (Reader *)user;
    const char *p = (const char *)text, *end = p + len;
    if (r->hidden && !r->title) return;
    if (r->pre) {
        if (len) put(r, p, (size_t)len);
        return;
    }
    while (p < end) {
        const char *q = p;
        while (q < end && !isspace((uint8_t)*q)) q++;
        if (q > p) put(r, p, (size_t)(q - p));
        if (q < end) r->space = true;
        while (q < end && isspace((uint8_t)*q)) q++;
        p = q;
    }
}

static void on_start(void *user, const xmlChar *element, const xmlChar **attributes) {
    Reader *r = (Reader *)user;
    const char *name = (const char *)element;
    (void)attributes;
    if (!strcmp(name, "title")) r->title = !r->titled; /* pictures in <svg> may have one too */
    if (hides(name)) r->hidden++;
    if (r->pre && !strcmp(name, "br")) put(r, "\n", 1);
    if (r->pre && strcmp(name, "pre")) return;
    if (is_block(name)) feed(r, 2);
    if (is_line(name)) feed(r, 1);
    if (!strcmp(name, "li") && !r->hidden) put(r, "-", 1), r->space = true;
    if (one_of(name, " td th ")) r->space = true;
    if (!strcmp(name, "pre")) r->pre++;
}

static void on_end(void *user, const xmlChar *element) {
    Reader *r = (Reader *)user;
    const char *name = (const char *)element;
    if (!strcmp(name, "title")) r->title = false, r->titled = true;
    if (hides(name) && r->hidden) r->hidden--;
    if (!strcmp(name, "pre") && r->pre) r->pre--;
    if (!r->pre && is_block(name)) feed(r, 2);
    if (!r->pre && is_line(name)) feed(r, 1);
}
#endif

#ifdef OC_LIBXML2
/* Memory for libxml2, which without it goes on with half a page or for ever. */
static void *give_memory(void *p, size_t n) { return xrealloc(p, n, 1, "HTML"); }
static void *give_new_memory(size_t n) { return give_memory(NULL, n); }
static char *give_copy(const char *text) {
    size_t n = strlen(text) + 1;
    return (char *)memcpy(give_new_memory(n), text, n);
}

void html_init(void) {
    xmlMemSetup(free, give_new_memory, give_memory, give_copy);
    xmlInitParser();
}

bool html_text(Str html, Buf *out, Error *e) {
    (void)e;
    Reader r = { .out = out, .from = out->n };
    if (!html.n) return true;
    htmlParserCtxtPtr ctxt = htmlCreateMemoryParserCtxt(html.s, (int)html.n);
    if (!ctxt) die("HTML: libxml2 makes no parser");
    xmlSwitchEncoding(ctxt, XML_CHAR_ENCODING_UTF8);
    memset(ctxt->sax, 0, sizeof *ctxt->sax);
    ctxt->sax->startElement = on_start;
    ctxt->sax->endElement = on_end;
    ctxt->sax->characters = ctxt->sax->ignorableWhitespace = on_text;
    ctxt->userData = &r;
    htmlCtxtUseOptions(ctxt, HTML_PARSE_RECOVER | HTML_PARSE_NONET | HTML_PARSE_IGNORE_ENC |
                                 HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING);
    htmlParseDocument(ctxt); /* whatever it says: what it could read has come */
    htmlFreeParserCtxt(ctxt);
    xmlResetLastError(); /* which it keeps */
    return true;
}
#else
void html_init(void) {}
bool html_text(Str html, Buf *out, Error *e) {
    (void)html, (void)out;
    return fail(e, "HTML; this refine was built without libxml2, which libxml2-dev has");
}
#endif
