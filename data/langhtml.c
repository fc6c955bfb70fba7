/* langhtml.c: signals of HTML: how much of the file is text that a reader sees.
 *
 * The released filter asks BeautifulSoup over Python's html.parser for get_text(): all text but
 * that of script, style, template, rt and rp, comments and declarations. A piece of text that is
 * white space alone counts as one character, except in pre and textarea. */

#include "matchers.h"

typedef struct {
    size_t chars;        /* of text so far */
    size_t piece, blank; /* characters of the piece of text that is open; of these white space */
    int hidden, kept;    /* how many elements are open that hide text; that keep white space */
} Reader;

static void end_piece(Reader *x) {
    bool all_blank = x->piece == x->blank && x->piece && !x->kept;
    if (!x->hidden) x->chars += all_blank ? 1 : x->piece;
    x->piece = x->blank = 0;
}

/* Text up to stop; an entity such as &amp; or &#65; is one character. */
static void read_text(Reader *x, const char *p, const char *stop) {
    for (size_t len; p < stop; p += len) {
        uint32_t c = char_at(p, stop, &len);
        x->piece++;
        x->blank += c == ' ' || (c >= 9 && c <= 13);
        if (c != '&' || p + 1 >= stop) continue;
        const char *q = p + 1 + (p[1] == '#');
        if (p[1] == '#' && q < stop && (*q | 32) == 'x') q++;
        const char *name = q;
        while (q < stop && isalnum((uint8_t)*q)) q++;
        if (q > name) len = (size_t)(q - p) + (q < stop && *q == ';');
    }
}

static bool one_of(const char *name, size_t n, const char *names) {
    char key[16] = " ";
    if (n > 12) return false;
    for (size_t i = 0; i < n; i++) key[i + 1] = (char)tolower((uint8_t)name[i]);
    key[n + 1] = ' ';
    return strstr(names, key) != NULL;
}

/* The place behind the > of a tag, with quotes in mind; NULL where there is none. */
static const char *tag_close(const char *p, const char *end) {
    char quote = 0;
    for (char before = ' '; p < end; p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '>')
            return p + 1;
        else if ((*p == '"' || *p == '\'') && before == '=')
            quote = *p;
        if (!isspace((uint8_t)*p)) before = *p;
    }
    return NULL;
}

/* </script or </style: where the text of the element ends. */
static const char *raw_end(const char *p, const char *end, const char *name, size_t n) {
    for (; (p = find_byte(p, end, '<')); p++)
        if ((size_t)(end - p) >= n + 2 && p[1] == '/' && !strncasecmp(p + 2, name, n)) return p;
    return end;
}

/* What begins with < at p: the place behind it, or NULL where it is text. */
static const char *read_tag(Reader *x, const char *p, const char *end) {
    bool closes = end - p > 1 && p[1] == '/';
    const char *name = p + 1 + closes, *q = name;
    if (goes_on(p, end, "<!--")) {
        q = (const char *)memmem(p + 4, (size_t)(end - p) - 4, "-->", 3);
        return q ? q + 3 : end;
    }
    if (end - p > 1 && (p[1] == '!' || p[1] == '?')) {
        q = find_byte(p, end, '>');
        return q ? q + 1 : end;
    }
    if (q >= end || !isalpha((uint8_t)*q)) return NULL;
    while (q < end && !isspace((uint8_t)*q) && *q != '>' && *q != '/') q++;
    const char *behind = tag_close(q, end);
    if (!behind) return end;
    size_t n = (size_t)(q - name);
    int step = closes ? -1 : behind[-2] == '/' ? 0 : 1;
    end_piece(x);
    if (one_of(name, n, " script style template rt rp ")) x->hidden += step;
    if (one_of(name, n, " pre textarea ")) x->kept += step;
    if (x->hidden < 0) x->hidden = 0;
    if (x->kept < 0) x->kept = 0;
    bool raw = step > 0 && one_of(name, n, " script style ");
    return raw ? raw_end(behind, end, name, n) : behind;
}

void html_signals(Rules *r, Signals *out) {
    Reader x = { 0, 0, 0, 0, 0 };
    const char *p = r->text.s, *end = p + r->text.n;
    while (p < end) {
        const char *open = find_byte(p, end, '<');
        if (!open) open = end;
        read_text(&x, p, open);
        if (open == end) break;
        p = read_tag(&x, open, end);
        if (!p) {
            x.piece++;
            p = open + 1;
        } else if (open + 1 < end && (open[1] == '!' || open[1] == '?')) {
            end_piece(&x);
        }
    }
    end_piece(&x);
    signal_share(out, HTML_FRAC_TEXT, (double)x.chars, (double)r->chars);
    signal_set(out, HTML_NUM_TEXT, (double)x.chars);
}
