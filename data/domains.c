/* domains.c: addresses of pages: host, registrable domain, patterns. See recall.h.
 *
 * What to know first: who may register what below which name is a list of 10,000 rules that changes
 * every week (https://publicsuffix.org). Here three rules stand for it:
 *
 *     a.docs.example.org   example.org      the last two labels
 *     www.bbc.co.uk        bbc.co.uk        three, where the last is a country's of two letters and
 *                                           the one before says whom it registers: co, ac, gov, ...
 *     ann.github.io        ann.github.io    three, on sites that give their names to many owners
 *
 * Addresses of machines (10.0.0.1, [::1]) stay whole. Test: tests/test_recall.py. */

#include "recall.h"

static const char registries[] = " ac asn co com edu go gob gouv gov gub gv ltd mil ne net nhs nom "
                                 "or org plc police sch school ";
static const char shared_sites[] =
    " github.io gitlab.io blogspot.com wordpress.com readthedocs.io herokuapp.com netlify.app "
    "pages.dev vercel.app web.app firebaseapp.com appspot.com azurewebsites.net sourceforge.io "
    "bitbucket.io codeberg.page neocities.org tumblr.com substack.com fandom.com gitbook.io ";

static bool in_list(const char *list, const char *name, size_t n) {
    char key[64];
    if (n + 3 > sizeof key) return false;
    snprintf(key, sizeof key, " %.*s ", (int)n, name);
    return strstr(list, key) != NULL;
}

/* Where the host begins: behind scheme:// or //; NULL where there is neither. */
static const char *behind_scheme(Str url) {
    const char *p = (const char *)memmem(url.s, url.n, "//", 2);
    if (!p || (p > url.s && p[-1] != ':')) return NULL;
    for (const char *s = url.s; s + 1 < p; s++)
        if (!isalnum((uint8_t)*s) && !strchr("+-.", *s)) return NULL;
    return p + 2;
}

Str url_host(Str url) {
    const char *end = url.s + url.n, *p = behind_scheme(url), *stop;
    if (!p) return (Str){ "", 0 };
    for (stop = p; stop < end && !strchr("/?#\\", *stop);) stop++;
    const char *at = (const char *)memrchr(p, '@', (size_t)(stop - p));
    if (at) p = at + 1;
    const char *colon = NULL, *bracket = (const char *)memchr(p, ']', (size_t)(stop - p));
    if (p < stop && *p == '[') colon = bracket;
    colon = (const char *)memchr(colon ? colon : p, ':', (size_t)(stop - (colon ? colon : p)));
    if (colon) stop = colon;
    while (stop > p && stop[-1] == '.') stop--;
    return (Str){ p, (size_t)(stop - p) };
}

Str url_section(Str url) {
    Str host = url_host(url);
    const char *end = url.s + url.n, *p = host.n ? host.s + host.n : end, *stop;
    while (p < end && *p != '/' && *p != '?' && *p != '#') p++;
    if (p == end || *p != '/') return (Str){ "", 0 };
    for (stop = ++p; stop < end && !strchr("/?#", *stop);) stop++;
    return (Str){ p, (size_t)(stop - p) };
}

/* The place behind the n-th dot from the end, or the beginning. */
static const char *last_labels(const char *s, size_t len, int n) {
    const char *p = s + len;
    for (; p > s; p--)
        if (p[-1] == '.' && !n--) return p;
    return s;
}

void base_domain(Str host, Buf *out) {
    size_t from = out->n;
    for (size_t i = 0; i < host.n; i++) {
        char c = (char)tolower((uint8_t)host.s[i]);
        buf_add(out, &c, 1);
    }
    if (out->n == from) return;
    const char *s = out->data + from, *end = out->data + out->n;
    size_t n = host.n;
    const char *one = last_labels(s, n, 0), *two = last_labels(s, n, 1);
    if (*s == '[' || (end > one && strspn(one, "0123456789") == (size_t)(end - one))) return;
    bool country = end - one == 2 && one > two;
    bool shared = in_list(shared_sites, two, (size_t)(end - two)) ||
                  (country && in_list(registries, two, (size_t)(one - two) - 1));
    const char *base = shared ? last_labels(s, n, 2) : two;
    size_t cut = (size_t)(base - s);
    memmove(out->data + from, base, n - cut + 1);
    out->n -= cut;
}

/* ------------------------------------------------------------------------------------------------
 * Patterns: % stands for anything, also nothing; \% for itself. Letters of any case are equal. */

static bool matches(Str pattern, Str url) {
    const char *p = pattern.s, *p_end = p + pattern.n, *u = url.s, *u_end = u + url.n;
    const char *star = NULL, *retry = NULL;
    while (u < u_end) {
        bool any = p < p_end && *p == '%';
        const char *c = p + 1 < p_end && *p == '\\' && p[1] == '%' ? p + 1 : p;
        if (any) {
            star = ++p;
            retry = u;
        } else if (p < p_end && tolower((uint8_t)*c) == tolower((uint8_t)*u)) {
            p = c + 1;
            u++;
        } else if (star) { /* the last % takes one more */
            p = star;
            u = ++retry;
        } else {
            return false;
        }
    }
    while (p < p_end && *p == '%') p++;
    return p == p_end;
}

bool patterns_match(const Patterns *p, Str url) {
    const char *host = behind_scheme(url);
    Str rest = { host, host ? (size_t)(url.s + url.n - host) : 0 };
    if (rest.n > 4 && !strncasecmp(rest.s, "www.", 4)) rest.s += 4, rest.n -= 4;
    for (size_t i = 0; i < p->n; i++)
        if (matches(p->pattern[i], url) || (rest.n && matches(p->pattern[i], rest))) return true;
    return false;
}

void patterns_open(Patterns *p, const char *path) {
    int64_t line = 0;
    memset(p, 0, sizeof *p);
    read_file(path, &p->text);
    if (p->text.n >= 3 && !memcmp(p->text.data, "\xEF\xBB\xBF", 3))
        memcpy(p->text.data, "   ", 3); /* a byte order mark, as on Windows */
    for (const char *s = p->text.data, *end = s + p->text.n; s < end; line++) {
        const char *stop = (const char *)memchr(s, '\n', (size_t)(end - s)), *q;
        if (!stop) stop = end;
        for (q = stop; q > s && isspace((uint8_t)q[-1]);) q--;
        while (s < q && isspace((uint8_t)*s)) s++;
        Str one = { s, (size_t)(q - s) };
        s = stop + (stop < end);
        if (!one.n || *one.s == '#') continue;
        size_t wild = 0;
        for (size_t i = 0; i < one.n; i++) wild += one.s[i] == '%';
        if (wild == one.n || one.n > 1000)
            die("%s:%lld: '%.*s', expected a pattern of addresses such as %%example.org/blog%%",
                path, (long long)line + 1, STR(one));
        p->pattern = (Str *)xrealloc(p->pattern, p->n + 1, sizeof *p->pattern, "patterns");
        p->pattern[p->n++] = one;
    }
    if (!p->n) die("%s: no pattern, expected one a line", path);
}

void patterns_free(Patterns *p) {
    buf_free(&p->text);
    free(p->pattern);
    memset(p, 0, sizeof *p);
}
