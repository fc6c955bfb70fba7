/* int8_avx512.h: products of whole numbers with vpdpbusd (int8_x86.h), for prompts on vectors of 64
 * bytes: 16 rows of a panel x 4 codes, times 4 numbers of one token, which all rows meet.
 *
 * A tile is 32 rows (two vectors) x 6 tokens: 12 sums of integers, 12 of float32, two vectors of
 * weights and a few of x fill the 32 registers, and a step is 8 loads for 12 vpdpbusd, of which no
 * processor does more than two a cycle. q6_k, whose products have a scale for each 16 numbers, has
 * words s (q - 32) instead, and vpdpwssd. Test: tests/test_avx512.py. */
#define VNNI 1
#include "int8_x86.h" /* Codes, unpack_x86, int8_rows_x86 */

enum { PANEL_VECTORS = 2, PANEL_ROWS = 16 * PANEL_VECTORS, PANEL_TOKENS = 6 };

static inline bool words_avx512(uint32_t type) { return type == T_Q6_K; }

/* ------------------------------------------------------------------------------------------------
 * 1. Packing */

/* One superblock of 16 rows: their codes in bytes or words, and d of eight blocks before m of them;
 * as floats, because 16 x 16 dwords are turned as such. */
typedef struct {
    float code[16][SUPER / 2], scale[16][16];
} Sixteen;

/* 32 codes of q6_k times their scales. */
INLINE __m512i scaled_words(__m256i code, const int8_t *s) {
    __m512i words = _mm512_cvtepi8_epi16(_mm256_sub_epi8(code, _mm256_set1_epi8(32)));
    __m512i scales = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set1_epi16(s[0])),
                                        _mm256_set1_epi16(s[1]), 1);
    return _mm512_mullo_epi16(words, scales);
}

INLINE void unpack_row(Sixteen *s, const int r, const uint8_t *row, size_t size,
                       const uint32_t type) {
    uint8_t *code = (uint8_t *)s->code[r];
    int8_t scale[16];
    SuperCopy copy;
    Codes c;
    unpack_x86(&c, whole_super(copy, row, size, type), type);
    part_pairs(&c, type);
    if (type == T_Q6_K) _mm_storeu_si128((__m128i *)scale, c.natural);
    UNROLL for (int j = 0; j < 8; j++) {
        if (type == T_Q6_K)
            _mm512_storeu_si512(code + 64 * j, scaled_words(c.code[j], scale + 2 * j));
        else
            _mm256_storeu_si256((__m256i *)(code + 32 * j), c.code[j]);
    }
    _mm256_storeu_ps(s->scale[r], c.d);
    _mm256_storeu_ps(s->scale[r] + 8, has_min(type) ? c.m : _mm256_setzero_ps());
}

/* d and m of 16 rows, of each block of a superblock, into the panel: 16 d and, `rows` floats
 * further on, 16 m; from block to block `chain` bytes. */
INLINE void pack_scales(uint8_t *panel, size_t chain, const int rows, float scale[16][16]) {
    V v[16];
    UNROLL for (int r = 0; r < 16; r++) v[r] = v_load(scale[r]);
    v_turn(v);
    UNROLL for (size_t j = 0; j < 8; j++) {
        float *out = (float *)(void *)(panel + j * chain);
        v_store(out, v[j]);
        v_store(out + rows, v[8 + j]);
    }
}

/* Superblock i of 16 rows into its lanes of the panel. */
INLINE void pack_sixteen(uint8_t *panel, Sixteen *s, size_t i, size_t places, const uint32_t type) {
    const size_t steps = words_avx512(type) ? 16 : 8, block = (steps + 2) * 4 * PANEL_ROWS;
    V v[16];
    for (size_t at = 0; at < 8 * steps; at += 16) {
        UNROLL for (int r = 0; r < 16; r++) v[r] = v_load(s->code[r] + at);
        v_turn(v);
        UNROLL for (size_t l = 0; l < 16; l++) {
            size_t j = (at + l) / steps, step = (at + l) % steps;
            uint8_t *out = panel + (j * places + i) * block + step * 4 * PANEL_ROWS;
            v_store((float *)(void *)out, v[l]);
        }
    }
    pack_scales(panel + i * block + steps * 4 * PANEL_ROWS, places * block, PANEL_ROWS, s->scale);
}

INLINE void pack_rows(uint8_t *panel, const uint8_t *w, size_t stride, int n_rows, int cols,
                      const uint32_t type) {
    const size_t places = ((size_t)cols + SUPER - 1) / SUPER;
    for (size_t i = 0; i < places; i++)
        for (int r0 = 0; r0 < PANEL_ROWS; r0 += 16) {
            Sixteen s;
            size_t k = i * SUPER, left = (size_t)cols - k < SUPER ? (size_t)cols - k : SUPER;
            const uint8_t *from = w + row_bytes(type, k);
            for (int r = 0; r < 16; r++) /* missing rows repeat the last one */
                unpack_row(&s, r, from + (size_t)(r0 + r < n_rows ? r0 + r : n_rows - 1) * stride,
                           row_bytes(type, left), type);
            pack_sixteen(panel + 4 * r0, &s, i, places, type);
        }
}

static void pack_avx512(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                        int cols){
#define PACK_OF(TYPE) pack_rows(panel, w, stride, n_rows, cols, TYPE)
    FOR_TYPE(type, PACK_OF)
#undef PACK_OF
}

/* ------------------------------------------------------------------------------------------------
 * 2. The tile */

INLINE __m512i broadcast_dword(const uint8_t *p) {
    int32_t n;
    memcpy(&n, p, 4);
    return _mm512_set1_epi32(n);
}
INLINE V broadcast_float(const uint8_t *p) { return v_set1(*(const float *)(const void *)p); }

/* Words have no offset. */
static uint32_t start_avx512(int even, int odd, uint32_t type) {
    return words_avx512(type) ? 0 : (uint32_t)(-offset_x86(type) * (even + odd));
}

/* The integer products of a block. */
INLINE void block_dots(__m512i dot[PANEL_TOKENS][PANEL_VECTORS], const uint8_t *w, const uint8_t *x,
                       const uint32_t type) {
    const bool words = words_avx512(type);
    const int steps = words ? 16 : 8;
    const uint8_t *starts = x + steps * 4 * PANEL_TOKENS;
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
        __m512i start = _mm512_setzero_si512();
        if (!words && offset_x86(type)) start = broadcast_dword(starts + 4 * t);
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) dot[t][v] = start;
    }
    UNROLL for (int s = 0; s < steps; s++, w += 4 * PANEL_ROWS) {
        __m512i wv[PANEL_VECTORS];
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) wv[v] = _mm512_loadu_si512(w + 64 * v);
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++, x += 4) {
            __m512i q = broadcast_dword(x);
            UNROLL for (int v = 0; v < PANEL_VECTORS; v++) dot[t][v] =
                words ? _mm512_dpwssd_epi32(dot[t][v], wv[v], q)
                      : _mm512_dpbusd_epi32(dot[t][v], wv[v], q);
        }
    }
}

INLINE void tile_int8(const Chain *c, const uint32_t type) {
    const uint8_t *w = c->w, *x = c->x;
    const size_t steps = words_avx512(type) ? 16 : 8;
    V acc[PANEL_TOKENS][PANEL_VECTORS];
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
        acc[t][v] = v_zero();
    for (int b = 0; b < c->blocks; b++) {
        __m512i dot[PANEL_TOKENS][PANEL_VECTORS];
        block_dots(dot, w, x, type);
        const float *scales = (const float *)(const void *)(w + steps * 4 * PANEL_ROWS);
        x += (steps + 1) * 4 * PANEL_TOKENS;
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) {
            V d = v_load(scales + 16 * v), m = v_load(scales + PANEL_ROWS + 16 * v);
            UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
                V scale = v_mul(d, broadcast_float(x + 4 * t));
                acc[t][v] = v_fma(_mm512_cvtepi32_ps(dot[t][v]), scale, acc[t][v]);
                if (has_min(type))
                    acc[t][v] = v_fma(m, broadcast_float(x + 4 * (PANEL_TOKENS + t)), acc[t][v]);
            }
        }
        w += (steps + 2) * 4 * PANEL_ROWS;
        x += 2 * 4 * PANEL_TOKENS;
    }
    for (int l = 0; l < c->n_open; l++)
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
            acc[t][v] = v_add(acc[t][v], v_load(c->open[l] + t * PANEL_ROWS + 16 * v));
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
        v_store(c->sum + (size_t)t * c->stride + 16 * v, acc[t][v]);
}

static void tile_int8_avx512(const Chain *c) {
#define TILE_OF(TYPE) tile_int8(c, TYPE)
    FOR_TYPE(c->type, TILE_OF)
#undef TILE_OF
}

#define PANELS_AVX512                                                                              \
    { PANEL_ROWS, PANEL_TOKENS, words_avx512, start_avx512, pack_avx512, tile_int8_avx512 }
