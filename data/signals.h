/* signals.h: what the files that compute signals share: the parts of a file and small scanners.
 *
 * What to know first: rules_signals (signals.c) cuts a file into words, lines, code and comments
 * once; each file of signals then looks at these parts. Scanners replace the regular expressions of
 * the released filter: each says in a comment which one, and finds the same matches in one pass, as
 * a backtracking engine would from left to right. Characters beyond ASCII are letters, digits and
 * spaces as in Python. */
#ifndef OC_SIGNALS_H
#define OC_SIGNALS_H

#include "rules.h"
#include "unichars.h" /* char_at, uni_props, Codes */

/* Numbers for 64-bit keys: entry[0 .. n - 1] in the order in which the keys came, and a hash table
 * of where they are, which is small because it holds 32-bit numbers only. */
typedef struct {
    uint64_t key;
    uint32_t value;
} Entry;
typedef struct {
    Entry *entry;
    uint32_t *slot; /* 2^bits places: 0, or 1 + the number of an entry */
    size_t n, cap;
    int bits, most_bits; /* in use; what the memory is for */
} Table;
void table_clear(Table *t, size_t n); /* empties it; n: how many keys may come, a guess */
void table_grow(Table *t);            /* twice the places */
void table_free(Table *t);

/* The key's entry, with value 0 where it is new. Valid until the next call. */
static inline Entry *table_get(Table *t, uint64_t key) {
    if (2 * t->n >= (size_t)1 << t->bits) table_grow(t);
    size_t i = key * 0x9E3779B97F4A7C15u >> (64 - t->bits); /* the top bits depend on all of it */
    for (uint32_t at; (at = t->slot[i]); i = (i + 1) & (((size_t)1 << t->bits) - 1))
        if (t->entry[at - 1].key == key) return &t->entry[at - 1];
    t->entry[t->n] = (Entry){ key, 0 };
    t->slot[i] = (uint32_t)++t->n;
    return &t->entry[t->n - 1];
}

/* The normalized words of a file, in order: their number among the different ones and length. */
typedef struct {
    uint32_t *id, *len, *count; /* count[id] */
    size_t n, cap, n_different, count_cap;
    uint64_t chars;      /* of all words */
    uint32_t *gram, *at; /* see words.c */
    size_t gram_cap, n_at;
} WordList;

typedef struct {
    Str *line;
    size_t n, cap;
} Lines;

struct Rules {
    bool fix;
    const RuleFile *file;
    Str text;          /* the content as valid UTF-8 */
    size_t chars;      /* its characters */
    Str code, comment; /* the text cut in two, by the lexer of the language */
    size_t code_chars, comment_chars;
    Lines code_lines; /* lines of code with something visible, line feed included */
    WordList words;
    Table table;
    Codes codes, work; /* a line while it is normalized */
    Buf word;          /* a word of such a line, in UTF-8 */
    Buf repaired, plain, code_buf, comment_buf, small_code, scratch; /* small: in lower case */
    uint64_t *line_hash; /* of each line of code, without white space */
    size_t line_hash_cap;
};

void words_of_text(Rules *r);                    /* words.c: fills r->words */
void word_signals(Rules *r, Signals *out);       /* counts, n-grams; of text and of code */
void char_signals(const Rules *r, Signals *out); /* chars.c: letters, digits, lines */
void text_signals(Rules *r, Signals *out);       /* textsignals.c: for FILE_TEXT only */
void code_signals(Rules *r, Signals *out); /* codesignals.c: strings, comments, encoded data */
void split_code(Rules *r);                 /* split.c: code and comment */
bool split_by_syntax(const char *lang, Str text, bool fix, Buf *code, Buf *comment); /* syntax.c */
void c_signals(Rules *r, Signals *out);                                              /* C and C++ */
void csharp_signals(Rules *r, Signals *out);
void go_signals(Rules *r, Signals *out);
void java_signals(Rules *r, Signals *out);
void javascript_signals(Rules *r, Signals *out); /* print only; the rest is the parser's */
void python_signals(Rules *r, Signals *out);     /* pass, import, print; the rest is the parser's */
void html_signals(Rules *r, Signals *out);

void lines_of(Lines *lines, Str text, bool visible_only);
/* Lines of the text that hold one of the words, which a NULL ends. */
size_t lines_with_any(Str text, const char *const *words);
/* Lines of code that hold the word, or the other one if not NULL; `fold`: in any case, and the word
 * is in lower case. */
size_t lines_with(const Rules *r, const char *word, const char *other, bool fold);
void small_letters(Buf *b, Str text); /* b becomes the text with A-Z as a-z */
/* The place of the word in the text, or NULL; `fold`: the word is lower case, the text any. */
const char *find_word(Str text, const char *word, bool fold);
/* Characters in matches of \b0[xX][0-9a-fA-F]+\b */
size_t hex_word_chars(Str text);
uint64_t hash_text(const char *s, size_t n);
uint64_t hash_pair(uint64_t a, uint64_t b);

/* ------------------------------------------------------------------------------------------------
 * Scanners: s <= p <= end; they return the place behind what they took. */

static inline bool is_space(const char *p, const char *end, size_t *len) {
    if (p >= end) return false;
    return uni_props(char_at(p, end, len)) & UNI_SPACE;
}
static inline bool is_word(const char *p, const char *end, size_t *len) {
    if (p >= end) return false;
    return uni_props(char_at(p, end, len)) & UNI_WORD;
}
static inline const char *skip_space(const char *p, const char *end) { /* \s* */
    for (size_t len; is_space(p, end, &len);) p += len;
    return p;
}
static inline const char *skip_word(const char *p, const char *end) { /* \w* */
    for (size_t len; is_word(p, end, &len);) p += len;
    return p;
}
/* The character before p > s. */
static inline uint32_t char_before(const char *p, const char *s) {
    const char *q = p - 1;
    size_t len;
    while (q > s && (*q & 0xC0) == 0x80) q--;
    return char_at(q, p, &len);
}
static inline bool word_before(const char *p, const char *s) {
    return p > s && uni_props(char_before(p, s)) & UNI_WORD;
}
/* Does the text go on with these bytes? */
static inline bool goes_on(const char *p, const char *end, const char *bytes) {
    size_t n = strlen(bytes);
    return (size_t)(end - p) >= n && !memcmp(p, bytes, n);
}
/* The same and \b behind: the whole of a word. */
static inline bool keyword_at(const char *p, const char *end, const char *word) {
    size_t len;
    return goes_on(p, end, word) && !is_word(p + strlen(word), end, &len);
}
/* The words up to a NULL: the length of the first that the text goes on with, or 0. */
static inline size_t any_of(const char *p, const char *end, const char *const *words) {
    for (; *words; words++)
        if (p < end && **words == *p && goes_on(p, end, *words)) return strlen(*words);
    return 0;
}
static inline const char *find_byte(const char *p, const char *end, char c) { /* NULL: none */
    return p < end ? (const char *)memchr(p, c, (size_t)(end - p)) : NULL;
}
static inline const char *next_line(const char *p, const char *end) { /* behind its line feed */
    const char *q = find_byte(p, end, '\n');
    return q ? q + 1 : end;
}
static inline bool ident_start(const char *p, const char *end) { /* [a-zA-Z_] */
    return p < end && (isalpha((uint8_t)*p) || *p == '_') && (uint8_t)*p < 0x80;
}

#endif
