/* lexc.c: comments of C and C++. See split.h.
 *
 * Three places where pygments surprises: inside of a preprocessor line there are no strings, so the
 * // of "http://..." begins a comment there; what follows the file of an #include on its line is
 * a comment; and what #if 0 removes is code. */

#include "split.h"

static const char *string_end(const char *p, const char *end) { /* behind it, or at a line feed */
    for (p++; p < end && *p != '"' && *p != '\n'; p++)
        if (*p == '\\' && p + 1 < end && p[1] && strchr("\\abfnrtv\"'\n", p[1])) p++;
    return p < end && *p == '"' ? p + 1 : p;
}

static const char *blanks(const char *p, const char *end) { /* \s* or \s* comment \s* on a line */
    p = skip_space(p, end);
    if (!goes_on(p, end, "/*")) return p;
    const char *line = line_end(p, end);
    const char *close = (const char *)memmem(p + 2, (size_t)(line - p) - 2, "*/", 2);
    return close ? skip_space(close + 2, end) : p;
}

/* #include and a file in quotes or brackets: the rest of the line, white space included, is a
 * comment. The place behind, or NULL. */
static const char *include_line(Cutter *x, const char *p) {
    p = blanks(p, x->end);
    if (!goes_on(p, x->end, "include")) return NULL;
    p = blanks(p + 7, x->end);
    if (p >= x->end || (*p != '"' && *p != '<')) return NULL;
    const char mark[2] = { *p == '"' ? '"' : '>', 0 }, *close = behind(x, p + 1, mark, mark[0]);
    if (!close || close == p + 2) return NULL;
    p = line_end(close, x->end);
    cut(x, close, p);
    return p;
}

/* A preprocessor line, p behind its #, which a backslash continues: the place behind it. */
static const char *macro(Cutter *x, const char *p) {
    const char *include = include_line(x, p);
    if (include) p = include;
    while (p < x->end) {
        const char *close;
        if (*p == '\n') {
            if (p[-1] != '\\') return p + 1;
            p++;
        } else if (goes_on(p, x->end, "/*") && (close = behind(x, p + 2, "*/", '*'))) {
            cut(x, p, close);
            p = close;
        } else if (goes_on(p, x->end, "//")) {
            const char *stop = next_line(p, x->end);
            cut(x, p, stop);
            return stop;
        } else {
            p++;
        }
    }
    return p;
}

/* Lines behind #if 0 up to the #else, #elif or #endif that ends it; as in pygments an #else inside
 * ends an #if inside. */
static const char *if_0(const char *p, const char *end) {
    for (int depth = 1; p < end && depth;) {
        p = skip_space(next_line(p, end), end);
        if (goes_on(p, end, "#if"))
            depth++;
        else if (goes_on(p, end, "#else") || goes_on(p, end, "#elif") || goes_on(p, end, "#endif"))
            depth--;
    }
    return p < end ? next_line(p, end) : end;
}

/* At the start of a line: the place behind a preprocessor line there; where there is none, the
 * first visible character. */
static const char *directive(Cutter *x, const char *p) {
    const char *hash = blanks(p, x->end);
    if (hash >= x->end || *hash != '#') return skip_space(p, x->end);
    const char *comment = skip_space(p, hash);
    if (comment < hash) {
        const char *close = (const char *)memmem(comment, (size_t)(hash - comment), "*/", 2);
        if (close) cut(x, comment, close + 2);
    }
    const char *q = hash + 3, *zero = goes_on(hash, x->end, "#if") ? skip_space(q, x->end) : q;
    if (zero > q && zero < x->end && *zero == '0') return if_0(zero, x->end);
    return macro(x, hash + 1);
}

/* // to the end of a line that no backslash continues, line feed included. */
static const char *single(const char *p, const char *end) {
    do p = next_line(p, end);
    while (p < end && p[-2] == '\\');
    return p;
}

/* R"mark( ... )mark", p at the quote: the place behind it, or NULL. */
static const char *raw_string(Cutter *x, const char *p) {
    char close[20] = ")";
    size_t n = 0;
    const char *q = p + 1;
    while (q + n < x->end && n < 16 && !strchr("\\() \t\n", q[n])) n++;
    if (q + n >= x->end || q[n] != '(') return NULL;
    memcpy(close + 1, q, n);
    close[n + 1] = '"';
    return behind_own(x, q, close, n + 2);
}

void lex_c(Cutter *x, bool cpp) {
    const char *p = x->s, *end = x->end, *q;
    while (p < end) {
        if (p == x->s || p[-1] == '\n') {
            q = directive(x, p);
            if (q > p) {
                p = q;
                continue;
            }
        }
        if (*p == '/' && goes_on(p, end, "//")) {
            q = single(p, end);
            cut(x, p, q);
        } else if (*p == '/' && goes_on(p, end, "/*")) {
            q = behind(x, p + 2, "*/", '*');
            if (!q) q = end; /* to the end of the file */
            cut(x, p, q);
        } else if (*p == '"') {
            q = cpp && p > x->s && p[-1] == 'R' ? raw_string(x, p) : NULL;
            if (!q) q = string_end(p, end);
        } else if (*p == '\'' && !(p > x->s && isxdigit((uint8_t)p[-1]) && p + 1 < end &&
                                   isxdigit((uint8_t)p[1]))) { /* but not the one in 1'000 */
            q = char_literal(p, end);
            if (!q || p[1] == '\n' || p[1] == '\'') q = p + 1;
        } else {
            q = p + 1;
        }
        p = q;
    }
}
