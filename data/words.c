/* words.c: the words of a file after normalization, and their repetitions: word counts, the most
 * frequent n-grams, the share of repeated n-grams.
 *
 * What to know first: a word becomes a number, and so does each n-gram, exactly: the (n-1)-gram at
 * i and the word at i+n-1 make a 64-bit key. An n-gram can only be there twice where the two
 * (n-1)-grams in it are, so each step looks at fewer places than the one before, and most of a file
 * is gone after a few. Test: tests/test_filter.py. */

#include "signals.h"
#include <math.h> /* log */

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

void table_clear(Table *t, size_t n) {
    size_t size = 64;
    t->shift = 58;
    for (; size < n + n / 2; t->shift--) size *= 2;
    if (size > t->cap) {
        free(t->entry);
        t->entry = (Entry *)xcalloc(size, sizeof *t->entry, "a table");
        t->cap = size;
    } else {
        memset(t->entry, 0, size * sizeof *t->entry);
    }
    t->mask = size - 1;
    t->n = 0;
}

static Entry *find_entry(const Table *t, uint64_t key) {
    size_t i = key * 0x9E3779B97F4A7C15u >> t->shift; /* the top bits depend on all of the key */
    while (t->entry[i].key && t->entry[i].key != key) i = (i + 1) & t->mask;
    t->entry[i].place = (uint32_t)i;
    return &t->entry[i];
}

static void grow_table(Table *t) {
    Table old = *t;
    memset(t, 0, sizeof *t);
    table_clear(t, 2 * (old.mask + 1));
    for (size_t i = 0; i <= old.mask; i++) {
        if (!old.entry[i].key) continue;
        Entry *e = find_entry(t, old.entry[i].key);
        e->key = old.entry[i].key;
        e->value = old.entry[i].value;
    }
    t->n = old.n;
    free(old.entry);
}

Entry *table_get(Table *t, uint64_t key) {
    Entry *e = find_entry(t, key);
    if (e->key) return e;
    if (4 * t->n > 3 * t->mask) {
        grow_table(t);
        e = find_entry(t, key);
    }
    e->key = key;
    t->n++;
    return e;
}

void table_free(Table *t) {
    free(t->entry);
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

static void add_word(Rules *r, uint64_t hash, uint32_t len) {
    WordList *w = &r->words;
    if (w->n == w->cap) {
        w->cap = w->cap * 2 + 1024;
        w->id = (uint32_t *)xrealloc(w->id, w->cap, sizeof *w->id, "words");
        w->len = (uint32_t *)xrealloc(w->len, w->cap, sizeof *w->len, "words");
    }
    Entry *e = table_get(&r->table, hash | 1);
    if (!e->value) {
        if (w->n_different == w->count_cap) {
            w->count_cap = w->count_cap * 2 + 1024;
            w->count = (uint32_t *)xrealloc(w->count, w->count_cap, sizeof *w->count, "words");
        }
        w->count[w->n_different] = 0;
        e->value = (uint32_t)++w->n_different; /* 1 + the number */
    }
    w->count[e->value - 1]++;
    w->id[w->n] = e->value - 1;
    w->len[w->n++] = len;
    w->chars += len;
}

/* A word while it is read; four characters at a time go into the hash. */
typedef struct {
    uint64_t hash, bytes;
    uint32_t len;
    int kind; /* LETTERS, SYMBOL, or GAP: no word */
} Word;

static void end_word(Rules *r, Word *w) {
    if (w->kind != GAP) add_word(r, hash_pair(w->hash + w->len, w->bytes), w->len);
    *w = (Word){ 0, 0, 0, GAP };
}

static inline void add_char(Rules *r, Word *w, uint32_t c, int kind) {
    if (kind != w->kind) end_word(r, w);
    w->kind = kind;
    if (kind == GAP) return;
    w->bytes = w->bytes << 16 ^ c;
    if (++w->len % 4 == 0) {
        w->hash = hash_pair(w->hash, w->bytes);
        w->bytes = 0;
    }
}

static void ascii_words(Rules *r, const uint8_t *class, const char *s, size_t n) {
    Word w = { 0, 0, 0, GAP };
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)s[i], kind = class[c];
        if (kind == NOTHING) continue;
        add_char(r, &w, c >= 'A' && c <= 'Z' ? c | 32u : c, kind);
    }
    end_word(r, &w);
}

/* Chinese has no spaces: a run of its characters counts as words of two. The released filter asks
 * the dictionary of jieba, whose words are 1.5 to 2 characters long on average. */
static void unicode_words(Rules *r, const char *s, size_t n) {
    Word w = { 0, 0, 0, GAP };
    uni_normalize(&r->codes, &r->work, s, n);
    for (size_t i = 0; i < r->codes.n; i++) {
        uint32_t c = r->codes.code[i];
        uint8_t p = uni_props(c);
        int kind = p & UNI_WORD ? LETTERS : p & UNI_SPACE ? GAP : SYMBOL;
        if (r->file->chinese && p & UNI_HAN && w.len % 2 == 0) end_word(r, &w);
        add_char(r, &w, c, kind);
    }
    end_word(r, &w);
}

void words_of_text(Rules *r) {
    uint8_t class[128];
    const char *s = r->text.s, *end = s + r->text.n;
    for (int c = 0; c < 128; c++) class[c] = class_of_ascii(c);
    r->words.n = r->words.n_different = 0;
    r->words.chars = 0;
    table_clear(&r->table, r->text.n / 32);
    while (s < end) {
        const char *stop = next_line(s, end);
        uint8_t high = 0;
        for (const char *p = s; p < stop; p++) high |= (uint8_t)*p;
        if (high < 0x80)
            ascii_words(r, class, s, (size_t)(stop - s));
        else
            unicode_words(r, s, (size_t)(stop - s));
        s = stop;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. n-grams: gram[i] is the number of the n-gram that begins at word i, or NONE where it is there
 * only once; at[] are the n_at places where it is not NONE, in order. */

static const uint32_t NONE = UINT32_MAX;

typedef struct {
    size_t at; /* the most frequent n-gram, of several the first: the word it first begins at */
    uint32_t count;
} Top;

/* From gram of n-1 words to gram of n: the numbers are places in the table, which counts. */
static Top longer_grams(Rules *r, size_t n) {
    WordList *w = &r->words;
    Top top = { 0, 1 };
    size_t kept = 0;
    table_clear(&r->table, w->n_at);
    for (size_t k = 0; k < w->n_at; k++) {
        size_t i = w->at[k];
        if (i + n > w->n || w->gram[i + 1] == NONE) {
            w->gram[i] = NONE;
            continue;
        }
        uint64_t key = (uint64_t)w->gram[i] << 32 | w->id[i + n - 1];
        Entry *e = table_get(&r->table, key + 1); /* 0 is no key */
        e->value++;
        w->gram[i] = e->place;
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
