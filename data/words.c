/* words.c: the words of a file after normalization, and their repetitions: word counts, the most
 * frequent n-grams, the share of repeated n-grams.
 *
 * What to know first: a word becomes a number, and so does each n-gram, exactly: the (n-1)-gram at
 * i and the word at i+n-1 make a 64-bit key. An n-gram can only be there twice where the two
 * (n-1)-grams in it are, so each step looks at fewer places than the one before, and most of a file
 * is gone after a few. Test: tests/test_filter.py. */

#include "signals.h"
#include "../jsonwrite.h" /* utf8_put */
#include <math.h>         /* log */

/* ------------------------------------------------------------------------------------------------
 * 1. Tables */

uint64_t hash_pair(uint64_t a, uint64_t b) { return mix64(a * 0x9E3779B97F4A7C15u ^ b); }

uint64_t hash_text(const char *s, size_t n) {
    uint64_t h = n, eight;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&eight, s, 8);
        h = hash_pair(h, eight);
    }
    eight = 0;
    memcpy(&eight, s, n);
    return hash_pair(h, eight);
}

static void clear_slots(Table *t) {
    size_t size = (size_t)1 << t->bits;
    if (t->bits > t->most_bits) {
        t->most_bits = t->bits;
        t->cap = size / 2 + 1;
        t->slot = (uint32_t *)xrealloc(t->slot, size, sizeof *t->slot, "a table");
        t->entry = (Entry *)xrealloc(t->entry, t->cap, sizeof *t->entry, "a table");
    }
    memset(t->slot, 0, size * sizeof *t->slot);
}

void table_clear(Table *t, size_t n) {
    for (t->bits = 6; (size_t)1 << t->bits < 2 * n;) t->bits++;
    t->n = 0;
    clear_slots(t);
}

void table_grow(Table *t) {
    t->bits++;
    clear_slots(t);
    for (size_t k = 0; k < t->n; k++) {
        size_t i = t->entry[k].key * 0x9E3779B97F4A7C15u >> (64 - t->bits);
        while (t->slot[i]) i = (i + 1) & (((size_t)1 << t->bits) - 1);
        t->slot[i] = (uint32_t)(k + 1);
    }
}

void table_free(Table *t) {
    free(t->entry);
    free(t->slot);
    memset(t, 0, sizeof *t);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Words. A line of ASCII is read as it is; one with characters that normalization may change is
 * normalized first. */

enum { GAP, LETTERS, SYMBOL, NOTHING }; /* what a byte of ASCII is after normalization */

static uint8_t class_of_ascii(int c) {
    if (isalnum(c)) return LETTERS;
    if (c < 8 || (c > 13 && c < 32 && c != 27)) return NOTHING;
    return isspace(c) || ispunct(c) ? GAP : SYMBOL;
}

/* The word of n bytes at s, behind which there are 8 more; it has `chars` characters. */
static void add_word(Rules *r, const char *s, size_t n, size_t chars) {
    WordList *w = &r->words;
    uint64_t hash = n, eight;
    if (!n) return;
    if (w->n == w->cap) {
        w->cap = w->cap * 2 + 1024;
        w->id = (uint32_t *)xrealloc(w->id, w->cap, sizeof *w->id, "words");
        w->len = (uint32_t *)xrealloc(w->len, w->cap, sizeof *w->len, "words");
    }
    for (; n > 8; s += 8, n -= 8) {
        memcpy(&eight, s, 8);
        hash = hash_pair(hash, eight);
    }
    memcpy(&eight, s, 8);
    Entry *e = table_get(&r->table, hash_pair(hash, eight << (64 - 8 * n)));
    e->value++;
    w->id[w->n] = (uint32_t)(e - r->table.entry);
    w->len[w->n++] = (uint32_t)chars;
    w->chars += chars;
}

/* The words of a line in lower case, behind which there are 8 bytes more. What is NOTHING joins
 * what is before and behind it: it is taken out first. */
static void ascii_words(Rules *r, const uint8_t *class, char *s, size_t n) {
    const char *end = s + n;
    for (const char *p = s, *q; p < end; p = q) {
        uint8_t kind = class[(uint8_t)*p];
        for (q = p + 1; q < end && class[(uint8_t)*q] == kind;) q++;
        if (kind == NOTHING || (q < end && class[(uint8_t)*q] == NOTHING)) {
            size_t kept = (size_t)(p - s);
            for (q = p; q < end; q++)
                if (class[(uint8_t)*q] != NOTHING) s[kept++] = *q;
            end = s + kept;
            q = p;
        } else if (kind != GAP) {
            add_word(r, p, (size_t)(q - p), (size_t)(q - p));
        }
    }
}

static void end_word(Rules *r, Buf *word, size_t *chars) {
    size_t n = word->n;
    buf_add(word, "\0\0\0\0\0\0\0", 8);
    add_word(r, word->data, n, *chars);
    word->n = *chars = 0;
}

/* Chinese has no spaces: a run of its characters counts as words of two. The released filter asks
 * the dictionary of jieba, whose words are 1.5 to 2 characters long on average. */
static void unicode_words(Rules *r, const char *s, size_t n) {
    Buf *word = &r->word;
    size_t chars = 0;
    int before = GAP;
    uni_normalize(&r->codes, &r->work, s, n);
    for (size_t i = 0; i < r->codes.n; i++) {
        char utf8[4];
        uint32_t c = r->codes.code[i];
        uint8_t p = uni_props(c);
        int kind = p & UNI_WORD ? LETTERS : p & UNI_SPACE ? GAP : SYMBOL;
        bool two = r->file->chinese && p & UNI_HAN && chars % 2 == 0;
        if (chars && (kind != before || two)) end_word(r, word, &chars);
        before = kind;
        if (kind == GAP) continue;
        buf_add(word, utf8, (size_t)(utf8_put(utf8, c) - utf8));
        chars++;
    }
    if (chars) end_word(r, word, &chars);
}

void words_of_text(Rules *r) {
    uint8_t class[128];
    WordList *w = &r->words;
    for (int c = 0; c < 128; c++) class[c] = class_of_ascii(c);
    w->n = w->chars = r->word.n = 0;
    table_clear(&r->table, r->text.n / 32);
    small_letters(&r->scratch, r->text);
    buf_add(&r->scratch, "\0\0\0\0\0\0\0", 8);
    char *s = r->scratch.data, *end = s + r->text.n, *stop;
    for (; s < end; s = stop) {
        uint8_t high = 0;
        stop = s + (next_line(s, end) - s);
        for (const char *p = s; p < stop; p++) high |= (uint8_t)*p;
        if (high < 0x80)
            ascii_words(r, class, s, (size_t)(stop - s));
        else
            unicode_words(r, s, (size_t)(stop - s));
    }
    w->n_different = r->table.n;
    if (w->count_cap < w->n_different) {
        w->count_cap = w->n_different * 2;
        w->count = (uint32_t *)xrealloc(w->count, w->count_cap, sizeof *w->count, "words");
    }
    for (size_t i = 0; i < w->n_different; i++) w->count[i] = r->table.entry[i].value;
}

/* ------------------------------------------------------------------------------------------------
 * 3. n-grams: gram[i] is the number of the n-gram that begins at word i, or NONE where it is there
 * only once; at[] are the n_at places where it is not NONE, in order. */

static const uint32_t NONE = UINT32_MAX;

typedef struct {
    size_t at; /* the most frequent n-gram, of several the first: the word it first begins at */
    uint32_t count;
} Top;

/* From gram of n-1 words to gram of n: the numbers are those of the table, which counts. */
static Top longer_grams(Rules *r, size_t n) {
    WordList *w = &r->words;
    Top top = { 0, 1 };
    size_t kept = 0;
    table_clear(&r->table, w->n_at / 4);
    for (size_t k = 0; k < w->n_at; k++) {
        size_t i = w->at[k];
        if (i + n > w->n || w->gram[i + 1] == NONE) {
            w->gram[i] = NONE;
            continue;
        }
        uint64_t key = (uint64_t)w->gram[i] << 32 | w->id[i + n - 1];
        Entry *e = table_get(&r->table, key);
        e->value++;
        w->gram[i] = (uint32_t)(e - r->table.entry);
        w->at[kept++] = (uint32_t)i;
    }
    w->n_at = 0;
    for (size_t k = 0; k < kept; k++) {
        size_t i = w->at[k];
        uint32_t count = r->table.entry[w->gram[i]].value;
        if (count > top.count) top = (Top){ i, count };
        if (count < 2)
            w->gram[i] = NONE;
        else
            w->at[w->n_at++] = (uint32_t)i;
    }
    return top;
}

/* Characters of the words in n-grams that are there more than once. */
static uint64_t covered_chars(const WordList *w, size_t n) {
    uint64_t chars = 0;
    size_t until = 0; /* words before it are counted */
    for (size_t k = 0; k < w->n_at; k++) {
        size_t i = w->at[k];
        if (until < i) until = i;
        for (; until < i + n; until++) chars += w->len[until];
    }
    return chars;
}

static void single_words(WordList *w) {
    if (w->gram_cap < w->n + 1) {
        w->gram_cap = w->cap + 1;
        w->gram = (uint32_t *)xrealloc(w->gram, w->gram_cap, sizeof *w->gram, "n-grams");
        w->at = (uint32_t *)xrealloc(w->at, w->gram_cap, sizeof *w->at, "n-grams");
    }
    w->n_at = 0;
    for (size_t i = 0; i < w->n; i++) {
        w->gram[i] = w->count[w->id[i]] > 1 ? w->id[i] : NONE;
        if (w->gram[i] != NONE) w->at[w->n_at++] = (uint32_t)i;
    }
    w->gram[w->n] = NONE;
}

static void gram_signals(Rules *r, int top_2, int dupe_5, Signals *out) {
    WordList *w = &r->words;
    single_words(w);
    for (size_t n = 2; n <= 10; n++) {
        Top top = longer_grams(r, n);
        uint64_t chars = 0;
        if (n > 4)
            chars = covered_chars(w, n);
        else if (top.count > 1)
            for (size_t k = 0; k < n; k++) chars += (uint64_t)w->len[top.at + k] * top.count;
        int signal = n > 4 ? dupe_5 + (int)n - 5 : top_2 + (int)n - 2;
        signal_set(out, signal, w->chars ? (double)chars / (double)w->chars : 0);
    }
}

void word_signals(Rules *r, Signals *out) {
    WordList *w = &r->words;
    bool text = r->file->type == FILE_TEXT;
    double n = (double)w->n, entropy = 0;
    signal_set(out, text ? DOC_NUM_WORDS : CODE_NUM_WORDS, n);
    signal_share(out, text ? DOC_WORD_LENGTH : CODE_WORD_LENGTH, (double)w->chars, n);
    signal_share(out, text ? DOC_UNIQUE : CODE_UNIQUE, (double)w->n_different, n);
    if (text) {
        for (size_t i = 0; i < w->n_different; i++)
            entropy -= w->count[i] / n * log(w->count[i] / n);
        if (w->n)
            signal_set(out, DOC_ENTROPY, entropy);
        else
            signal_none(out, DOC_ENTROPY);
    }
    gram_signals(r, text ? DOC_TOP_2 : CODE_TOP_2, text ? DOC_DUPE_5 : CODE_DUPE_5, out);
}
