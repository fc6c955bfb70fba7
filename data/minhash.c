/* minhash.c: near duplicates by MinHash and locality-sensitive hashing. See dedup.h.
 *
 * What to know first (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4):
 *
 *     text     -> words        runs of letters, digits, _ and all bytes above 127
 *              -> shingles     every 5 words in a row, hashed to 32 bits: a set
 *              -> signature    for each of 2048 random permutations the least member of the set
 *              -> 16 bands     of 128 rows: two texts meet if all 128 minima of a band are equal
 *
 * The least of a random permutation is the same for two sets with the probability J, their Jaccard
 * similarity: they meet in some band with probability 1 - (1 - J^128)^16: 0.7 at J = 0.98.
 *
 * The time goes into shingles x 2048 steps. A function is (x ^ flip) * mul mod 2^32 with an odd
 * mul, a permutation of the 32-bit numbers, on x that are random already; its loop has one xor, one
 * multiplication and one minimum, for 16 functions at a time with AVX-512, and no memory beyond
 * registers: about 0.1 ns a step. Test: tests/test_dedup.py holds it to that formula. */

#include "dedup.h"

enum { LANES = 64, PIECE = 2048, SEEN = 4096 };

void minhash_open(MinHash *m, int ngram, int bands, int rows, uint64_t seed) {
    size_t n = (size_t)bands * (size_t)rows, all = (n + LANES - 1) / LANES * LANES;
    *m = (MinHash){ ngram, bands, rows, NULL, NULL };
    m->mul = xcalloc(all, sizeof *m->mul, "hash functions");
    m->flip = xcalloc(all, sizeof *m->flip, "hash functions");
    for (size_t i = 0; i < all; i++) {
        uint64_t random = mix64((seed << 32) + (i + 1) * 0x9E3779B97F4A7C15u);
        m->mul[i] = (uint32_t)random | 1;
        m->flip[i] = (uint32_t)(random >> 32);
    }
}

void minhash_close(MinHash *m) {
    free(m->mul);
    free(m->flip);
}

double minhash_chance(const MinHash *m, double j) { return 1 - pow(1 - pow(j, m->rows), m->bands); }

/* LANES functions over n shingles. */
static void lanes_min(const uint32_t *x, size_t n, const uint32_t *mul, const uint32_t *flip,
                      uint32_t *least) {
    uint32_t a[LANES], f[LANES], m[LANES];
    memcpy(a, mul, sizeof a);
    memcpy(f, flip, sizeof f);
    memcpy(m, least, sizeof m);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < LANES; k++) {
            uint32_t h = (x[i] ^ f[k]) * a[k];
            m[k] = h < m[k] ? h : m[k];
        }
    memcpy(least, m, sizeof m);
}

static void add_shingles(const MinHash *m, const uint32_t *x, size_t n, uint32_t *signature) {
    size_t all = (size_t)m->bands * (size_t)m->rows, i = 0;
    for (; i + LANES <= all; i += LANES) lanes_min(x, n, m->mul + i, m->flip + i, signature + i);
    if (i == all) return;
    uint32_t rest[LANES];
    memcpy(rest, signature + i, (all - i) * sizeof *rest);
    memset(rest + (all - i), 0, (LANES - (all - i)) * sizeof *rest);
    lanes_min(x, n, m->mul + i, m->flip + i, rest);
    memcpy(signature + i, rest, (all - i) * sizeof *rest);
}

static bool in_word(uint8_t c) {
    return c >= 128 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

bool next_word(const char **p, const char *end, bool lower, uint64_t *hash) {
    const char *s = *p;
    while (s < end && !in_word((uint8_t)*s)) s++;
    if (s == end) return false;
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (; s < end && in_word((uint8_t)*s); s++) {
        uint8_t c = (uint8_t)*s;
        h = (h ^ (lower && c >= 'A' && c <= 'Z' ? c | 32u : c)) * 0x100000001B3u;
    }
    *p = s;
    *hash = mix64(h);
    return true;
}

/* A shingle's hash is the polynomial of its words' hashes, so that it moves on by one word in two
 * steps. What was seen shortly before is passed over: it changes no minimum. A text of fewer words
 * is one shingle; one without words is its bytes. */
void minhash_add(const MinHash *m, Str text, uint32_t *signature) {
    const uint64_t base = 0x9E3779B97F4A7C15u;
    const char *p = text.s, *end = p + text.n;
    uint64_t word[64] = { 0 }, first = 1, sum = 0, w;
    uint32_t piece[PIECE], seen[SEEN] = { 0 };
    size_t n = 0, words = 0, k = (size_t)m->ngram;
    for (size_t i = 0; i < k; i++) first *= base; /* of the word that leaves */
    while (next_word(&p, end, false, &w)) {
        uint64_t old = word[words % k]; /* 0 for the first k */
        word[words++ % k] = w;
        sum = sum * base + w - old * first;
        if (words < k) continue;
        uint32_t x = (uint32_t)(mix64(sum) >> 32) | (mix64(sum) >> 32 == 0); /* 0: none seen */
        if (seen[x % SEEN] == x) continue;
        seen[x % SEEN] = piece[n++] = x;
        if (n == PIECE) add_shingles(m, piece, n, signature), n = 0;
    }
    if (words < k) {
        uint8_t digest[32];
        sha256(text.s, words ? 0 : text.n, digest);
        memcpy(&w, digest, sizeof w);
        piece[n++] = (uint32_t)(mix64(words ? sum : w) >> 32);
    }
    if (n) add_shingles(m, piece, n, signature);
}

void minhash_bands(const MinHash *m, const uint32_t *signature, uint64_t *band) {
    for (int b = 0; b < m->bands; b++) {
        uint64_t h = (uint64_t)b + 1;
        for (int r = 0; r < m->rows; r++) h = mix64(h * 0x9E3779B97F4A7C15u + *signature++);
        band[b] = h;
    }
}
