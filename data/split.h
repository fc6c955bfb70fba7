/* split.h: cutting a file into code and comments. split.c picks the lexer of the language; each
 * lexer knows just enough of its language to tell comments from the strings that look like them.
 *
 * The released filter asks pygments. Where pygments has a rule of its own, ours follows it: what
 * counts as a comment are its types Comment.Single, .Multiline, .Hashbang, .Special and String.Doc;
 * a string that is not closed is no string; a // comment takes its line feed along in C and C#, but
 * not in Java, Go and JavaScript. */
#ifndef OC_SPLIT_H
#define OC_SPLIT_H

#include "signals.h"

typedef struct {
    const char *s, *end;
    const char *from; /* up to here everything was written */
    Buf *code, *comment;
    bool open[128];        /* after a search that found none: nothing more closes this mark */
    const char *next[128]; /* where the last search found the mark */
    int misses;            /* of behind_own */
} Cutter;

/* [from, a) is code and [a, b) a comment. */
static inline void cut(Cutter *x, const char *a, const char *b) {
    buf_add(x->code, x->from, (size_t)(a - x->from));
    buf_add(x->comment, a, (size_t)(b - a));
    x->from = b;
}

/* The place behind the next `mark`, or NULL. No part of the text is searched twice, whether the
 * mark is there or not; so places must be asked for in ascending order, or a later mark than the
 * next is found. `id` is a number for it, by habit its first character, and for no other mark of
 * the lexer.
 *
 * Lexers that look over blank lines for what a line begins with go on from what they saw: each of
 * many blank lines would look from there again. */
static inline const char *behind(Cutter *x, const char *p, const char *mark, int id) {
    size_t n = strlen(mark);
    const char *hit = x->next[id];
    if (x->open[id] || p >= x->end)
        hit = NULL;
    else if (!hit || hit < p)
        hit = (const char *)memmem(p, (size_t)(x->end - p), mark, n);
    x->next[id] = hit;
    if (!hit) x->open[id] = true;
    return hit ? hit + n : NULL;
}

/* The place behind the next mark of n bytes, of which each string of a file may have its own, or
 * NULL. Each that is open is a search to the end of the file; behind 16 of them, what follows is
 * taken for code. */
static inline const char *behind_own(Cutter *x, const char *p, const char *mark, size_t n) {
    const char *hit = NULL;
    if (x->misses < 16) hit = (const char *)memmem(p, (size_t)(x->end - p), mark, n);
    x->misses += !hit;
    return hit ? hit + n : NULL;
}

/* The place behind the string that opens at p with *p and is closed by the same, where a backslash
 * escapes anything; NULL where it is not closed. */
static inline const char *escaped_string(Cutter *x, const char *p) {
    int quote = *p;
    const char *q = p + 1;
    if (x->open[quote]) return NULL;
    for (; q < x->end && *q != quote; q++) q += *q == '\\';
    if (q < x->end) return q + 1;
    x->open[quote] = true;
    return NULL;
}

/* '\x' or 'x': the place behind, or NULL. */
static inline const char *char_literal(const char *p, const char *end) {
    const char *q = p + 1;
    size_t len = 1;
    if (q < end && *q == '\\') q++;
    if (q < end) (void)char_at(q, end, &len);
    q += len;
    return q < end && *q == '\'' ? q + 1 : NULL;
}

static inline const char *line_end(const char *p, const char *end) { /* its line feed, or end */
    const char *q = find_byte(p, end, '\n');
    return q ? q : end;
}

void lex_c(Cutter *x, bool cpp); /* lexc.c */
void lex_csharp(Cutter *x);      /* split.c */
void lex_go(Cutter *x);
void lex_java(Cutter *x);
void lex_sql(Cutter *x);
void lex_php(Cutter *x);
void lex_python(Cutter *x); /* lexscript.c */
void lex_shell(Cutter *x);
void lex_javascript(Cutter *x, const char *p, const char *end); /* of x, as in a <script> */
void lex_html(Cutter *x);

#endif
