/* unicode.c: properties of characters and the normalization that the filter counts words after.
 * See unichars.h. The tables of unitables.h follow Python, so the figures agree with the official
 * filter's. Test: tests/test_filter.py. */

#include "unichars.h"
#include <pthread.h> /* pthread_once */
#include "unitables.h"

enum { HANGUL = 0xAC00, LEAD = 0x1100, VOWEL = 0x1161, TAIL = 0x11A7, SYLLABLES = 11172 };

uint8_t uni_table[0x110000], uni_bytes[256];

static void fill_table(void) {
    size_t n = sizeof uni_run / sizeof *uni_run;
    for (size_t i = 0; i < n; i++) {
        uint32_t from = uni_run[i] >> 8, to = i + 1 < n ? uni_run[i + 1] >> 8 : 0x110000;
        memset(uni_table + from, uni_run[i] & 0xFF, to - from);
    }
    memset(uni_bytes + 128, BYTE_HEX, 128); /* among them are spaces */
    for (int c = 1; c < 128; c++)
        uni_bytes[c] = (isalnum(c) || strchr("+/\n=", c) ? BYTE_BASE64 : 0) |
                       (isxdigit(c) || isspace(c) || strchr("x\\,", c) ? BYTE_HEX : 0) |
                       (uni_table[c] & UNI_WORD ? BYTE_WORD : 0) |
                       (uni_table[c] & UNI_SPACE ? BYTE_SPACE : 0) |
                       (c == '"' || c == '\'' ? BYTE_QUOTE : 0);
}

void uni_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, fill_table); /* fails for a bad `once` only */
}

/* Where key stands among the n sorted ones, or n. */
static size_t find32(const uint32_t *sorted, size_t n, uint32_t key) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (sorted[mid] < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && sorted[low] == key ? low : n;
}
#define FIND(table, key) find32(table, sizeof(table) / sizeof *(table), key)
#define FOUND(table, at) ((at) < sizeof(table) / sizeof *(table))

uint32_t uni_lower_of(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c | 32 : c;
    size_t i = FIND(uni_lower, c);
    return FOUND(uni_lower, i) ? uni_lower_to[i] : c;
}

static void put(Codes *out, uint32_t c) {
    if (out->n == out->cap) {
        out->cap = out->cap * 2 + 64;
        out->code = (uint32_t *)xrealloc(out->code, out->cap, sizeof *out->code, "a line");
    }
    out->code[out->n++] = c;
}

static uint8_t combining_class(uint32_t c) {
    size_t i = c < 0x300 ? SIZE_MAX : FIND(uni_ccc, c);
    return FOUND(uni_ccc, i) ? uni_ccc_to[i] : 0;
}

/* Steps 1 to 5 of the official normalization on one character: control characters out, half width,
 * ASCII punctuation to spaces, lower case. Writes none, one or two characters. */
static void put_plain(Codes *out, uint32_t c, bool final_sigma) {
    if (c < 8 || (c > 13 && c < 32 && c != 27) || c == 0x202C) return;
    if (c == 0x2009 || c == 0x200B) c = ' ';
    size_t i = c < 0x80 ? SIZE_MAX : FIND(uni_half, c);
    if (FOUND(uni_half, i)) c = uni_half_to[i];
    if (c < 0x80 && ispunct((int)c)) c = ' ';
    if (c == 0x130) { /* the one letter whose lower case is two characters */
        put(out, 'i');
        c = 0x307;
    } else {
        c = c == 0x3A3 && final_sigma ? 0x3C2 : uni_lower_of(c);
    }
    put(out, c);
}

static void put_decomposed(Codes *out, uint32_t c) {
    size_t i = c < 0x80 ? SIZE_MAX : FIND(uni_nfkd, c);
    if (c - HANGUL < SYLLABLES) {
        uint32_t s = c - HANGUL;
        put(out, LEAD + s / 588);
        put(out, VOWEL + s % 588 / 28);
        if (s % 28) put(out, TAIL + s % 28);
    } else if (FOUND(uni_nfkd, i)) {
        for (uint32_t k = uni_nfkd_start[i]; k < uni_nfkd_start[i + 1]; k++)
            put(out, uni_nfkd_to[k]);
    } else {
        put(out, c);
    }
}

/* What NFC puts together from a and b, or 0. */
static uint32_t composed(uint32_t a, uint32_t b) {
    if (a - LEAD < 19 && b - VOWEL < 21) return HANGUL + ((a - LEAD) * 21 + (b - VOWEL)) * 28;
    if (a - HANGUL < SYLLABLES && (a - HANGUL) % 28 == 0 && b - TAIL - 1 < 27) return a + b - TAIL;
    uint64_t key = (uint64_t)a << 32 | b;
    size_t low = 0, n = sizeof uni_pair / sizeof *uni_pair, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (uni_pair[mid] < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && uni_pair[low] == key ? uni_pair_to[low] : 0;
}

/* Puts combining marks in the order of their classes: a stable insertion sort of each run. */
static void order_marks(Codes *x) {
    for (size_t i = 1; i < x->n; i++) {
        uint32_t c = x->code[i];
        uint8_t class = combining_class(c);
        size_t k = i;
        /* A run of thousands of marks is no text: it is left as it is behind the 64th place. */
        for (; class && k && i - k < 64 && combining_class(x->code[k - 1]) > class; k--)
            x->code[k] = x->code[k - 1];
        x->code[k] = c;
    }
}

static void compose(Codes *x) {
    size_t starter = SIZE_MAX, n = 0;
    uint8_t last = 0; /* class of the character before */
    for (size_t i = 0; i < x->n; i++) {
        uint32_t c = x->code[i], both = 0;
        uint8_t class = combining_class(c);
        bool adjacent = starter != SIZE_MAX && starter + 1 == n;
        if (starter != SIZE_MAX && (adjacent || last < class)) both = composed(x->code[starter], c);
        if (both) {
            x->code[starter] = both;
            continue;
        }
        if (!class) starter = n;
        last = class;
        x->code[n++] = c;
    }
    x->n = n;
}

/* Of a line without characters that change, only ASCII is touched. */
static bool normalize_ascii(Codes *out, const char *s, size_t n) {
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = (uint8_t)s[i];
        len = c < 0x80 ? 1 : utf8_decode(s + i, n - i, &c);
        if (c >= 0x80 && (c == MALFORMED || uni_props(c) & UNI_CHANGES)) return false;
        c < 0x80 ? put_plain(out, c, false) : put(out, c);
    }
    return true;
}

void uni_normalize(Codes *out, Codes *work, const char *s, size_t n) {
    out->n = work->n = 0;
    if (normalize_ascii(out, s, n)) return;
    out->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c, next = ' ', before = i && work->n ? work->code[work->n - 1] : ' ';
        i += utf8_decode(s + i, n - i, &c);
        if (c == 0x3A3 && i < n) (void)utf8_decode(s + i, n - i, &next);
        bool final = uni_props(before) & UNI_ALPHA && !(uni_props(next) & UNI_ALPHA);
        put_plain(work, c == MALFORMED ? 0xFFFD : c, final);
    }
    for (size_t i = 0; i < work->n; i++) put_decomposed(out, work->code[i]);
    order_marks(out);
    compose(out);
}
