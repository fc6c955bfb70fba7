/* matchers.h: scanners that several languages share. A match_ function is given the first visible
 * character of a line, and returns the place behind what it matches, or NULL. */
#ifndef OC_MATCHERS_H
#define OC_MATCHERS_H

#include "signals.h"

typedef const char *(*Matcher)(const char *p, const char *end);

/* The next c within 16 KB, or NULL: what is longer is no header or declaration, and to look to the
 * end of a file from each of its lines would take too long. */
static inline const char *find_near(const char *p, const char *end, char c) {
    return find_byte(p, end - p > 16384 ? p + 16384 : end, c);
}

/* Matches of ^\s*X in multi-line mode: white space before X may go over blank lines. */
static inline size_t count_lines(Str code, Matcher match) {
    const char *p = code.s, *end = p + code.n;
    size_t n = 0;
    while ((p = skip_space(p, end)) < end) {
        const char *stop = match(p, end);
        n += stop != NULL;
        if (stop && stop > code.s && stop[-1] == '\n')
            p = stop;
        else
            p = next_line(stop ? stop : p, end);
    }
    return n;
}

/* word\s+ : the place behind, or NULL. */
static inline const char *spaced_word(const char *p, const char *end, const char *word) {
    if (!goes_on(p, end, word)) return NULL;
    p += strlen(word);
    const char *q = skip_space(p, end);
    return q > p ? q : NULL;
}

/* (?:one|of|them)\s+ : the place behind, or NULL. */
static inline const char *spaced_type(const char *p, const char *end, const char *const *types) {
    for (; p < end && *types; types++) {
        const char *q = **types == *p ? spaced_word(p, end, *types) : NULL;
        if (q) return q;
    }
    return NULL;
}

/* \w+\s*; at p, which may be NULL: the place behind, or NULL. */
static inline const char *name_and_semicolon(const char *p, const char *end) {
    const char *q = p ? skip_word(p, end) : p;
    if (q == p) return NULL;
    q = skip_space(q, end);
    return q < end && *q == ';' ? q + 1 : NULL;
}

/* \s*$ in multi-line mode: the last line feed of the white space at p, or the end of the text. */
static inline const char *end_of_line(const char *p, const char *end) {
    const char *q = skip_space(p, end);
    if (q == end) return end;
    while (q > p && *q != '\n') q--;
    return *q == '\n' ? q : NULL;
}

/* [^)]*\) behind the ( at p, which may be NULL: the place behind, or NULL. */
static inline const char *behind_parenthesis(const char *p, const char *end) {
    const char *close = p && p < end && *p == '(' ? find_near(p, end, ')') : NULL;
    return close ? close + 1 : NULL;
}

#endif
