/* unichars.h: what a character is (a letter, a digit, white space, ...), lower case, and the
 * normalization of a line, as Python's str methods and unicodedata have them.
 *
 * What to know first: text is UTF-8 that was checked before (valid_text), so that a character is a
 * byte that does not look like 10xxxxxx and the bytes behind it. uni_init comes before all else;
 * after it every function here may run in many threads. */
#ifndef OC_UNICHARS_H
#define OC_UNICHARS_H

#include "../files.h"   /* xrealloc, Str, Buf */
#include "../unicode.h" /* utf8_decode, MALFORMED */

enum {
    UNI_ALPHA = 1,    /* str.isalpha() */
    UNI_DIGIT = 2,    /* str.isdigit() */
    UNI_SPACE = 4,    /* str.isspace(), \s */
    UNI_WORD = 8,     /* \w: str.isalnum() or '_' */
    UNI_UPPER = 16,   /* str.isupper() */
    UNI_LOWER = 32,   /* str.islower() or title case */
    UNI_HAN = 64,     /* a Chinese character */
    UNI_CHANGES = 128 /* not ASCII, and normalization or lower case may make something else of it */
};

/* What bytes are, for loops over bytes; those beyond ASCII are BYTE_HEX. */
enum {
    BYTE_BASE64 = 1, /* [a-zA-Z0-9+/\n=] */
    BYTE_HEX = 2,    /* what lists of numbers in hex are made of: [0-9a-fA-Fx\\,\s] */
    BYTE_WORD = 4,   /* \w */
    BYTE_SPACE = 8,  /* \s */
    BYTE_QUOTE = 16  /* ['"] */
};
extern uint8_t uni_bytes[256];
extern uint8_t uni_table[0x110000];
void uni_init(void);
static inline uint8_t uni_props(uint32_t c) { return c < 0x110000 ? uni_table[c] : 0; }
uint32_t uni_lower_of(uint32_t c);

typedef struct {
    uint32_t *code;
    size_t n, cap;
} Codes;

/* The official normalization of a line, white space aside: control characters out, full-width
 * punctuation to half, ASCII punctuation to spaces, lower case, NFKC. `work` is memory. */
void uni_normalize(Codes *out, Codes *work, const char *s, size_t n);

/* The character at s < end; *len is its length in bytes. */
static inline uint32_t char_at(const char *s, const char *end, size_t *len) {
    uint32_t c = (uint8_t)*s;
    *len = 1;
    if (c >= 0x80) *len = utf8_decode(s, (size_t)(end - s), &c);
    return c;
}

/* The first byte from p on that is not ASCII, or end. */
static inline const char *ascii_end(const char *p, const char *end) {
    for (uint64_t w; end - p >= 8; p += 8) {
        memcpy(&w, p, 8);
        if (w & 0x8080808080808080u) break;
    }
    while (p < end && (uint8_t)*p < 0x80) p++;
    return p;
}

static inline size_t count_chars(const char *s, size_t n) {
    size_t count = n, i = 0;
    for (uint64_t w; i + 8 <= n; i += 8) { /* bytes 10xxxxxx, eight at a time */
        memcpy(&w, s + i, 8);
        count -= (size_t)__builtin_popcountll(w >> 7 & ~(w >> 6) & 0x0101010101010101u);
    }
    for (; i < n; i++) count -= (s[i] & 0xC0) == 0x80;
    return count;
}

#endif
