/* int8_avx2.h: products of whole numbers without VNNI; int8_x86.h says which codes can be bytes. In
 * panels, where one number of x meets 8 rows, a sign cannot be moved to x: there the codes of q8_0,
 * iq4_nl and q6_k are words, w or s (q - 32). Test: tests/test_int8.c. */
#define VNNI 0
#include "int8_x86.h" /* Codes, unpack_x86, int8_rows_x86 */

/* Says that v is a register from here on. Else gcc reads weights again for each token, and, because
 * the order of integers does not matter, makes all products first and adds them from memory. */
#define PIN(v) __asm__("" : "+x"(v))

/* Panels, for prompts: tiles of 16 rows (two vectors of 8) x 4 tokens. */

enum { PANEL_ROWS = 16, PANEL_TOKENS = 4 };

static inline bool words_avx2(uint32_t type) {
    return type == T_Q8_0 || type == T_IQ4_NL || type == T_Q6_K;
}

/* 8 x 8 dwords: out[l] = dword l of every vector of v. */
INLINE void turn_dwords(__m256i out[8], const __m256i v[8]) {
    __m256i p[8], q[8];
    UNROLL for (int i = 0; i < 4; i++) {
        p[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        p[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++) UNROLL for (int l = 0; l < 2; l++) {
        q[4 * i + 2 * l] = _mm256_unpacklo_epi64(p[4 * i + l], p[4 * i + l + 2]);
        q[4 * i + 2 * l + 1] = _mm256_unpackhi_epi64(p[4 * i + l], p[4 * i + l + 2]);
    }
    UNROLL for (int l = 0; l < 4; l++) {
        out[l] = _mm256_permute2x128_si256(q[l], q[l + 4], 0x20);
        out[l + 4] = _mm256_permute2x128_si256(q[l], q[l + 4], 0x31);
    }
}

/* A block of 8 rows into its half of the panel: 8 or 16 steps of 8 dwords. */
INLINE void pack_block(uint8_t *out, const __m256i code[8], const bool words) {
    __m256i v[8], turned[8];
    for (int part = 0; part < (words ? 2 : 1); part++) {
        UNROLL for (int r = 0; r < 8; r++) v[r] = code[(words ? 2 * r : r) + part];
        turn_dwords(turned, v);
        UNROLL for (int l = 0; l < 8; l++)
            _mm256_storeu_si256((__m256i *)(out + (size_t)(8 * part + l) * 4 * PANEL_ROWS),
                                turned[l]);
    }
}

/* One superblock of 8 rows. code, d, m: [block][row]; with words a row is two vectors. */
typedef struct {
    __m256i code[8][16];
    float d[8][8], m[8][8];
} Eight;

INLINE void unpack_eight(Eight *e, const uint8_t *const row[8], size_t size, const uint32_t type) {
    for (int r = 0; r < 8; r++) {
        float d[8], m[8] = { 0 };
        SuperCopy copy;
        Codes c;
        unpack_x86(&c, whole_super(copy, row[r], size, type), type);
        part_pairs(&c, type);
        _mm256_storeu_ps(d, c.d);
        if (has_min(type)) _mm256_storeu_ps(m, c.m);
        UNROLL for (int j = 0; j < 8; j++) {
            e->d[j][r] = d[j];
            e->m[j][r] = m[j];
            if (!words_avx2(type)) {
                e->code[j][r] = c.code[j];
                continue;
            }
            __m256i v = c.code[j];
            if (type == T_Q6_K) v = _mm256_sub_epi8(v, _mm256_set1_epi8(32));
            __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
            __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1));
            if (type == T_Q6_K) {
                __m256i s = spread_scale(c.scale, j);
                low = _mm256_mullo_epi16(low, _mm256_permute2x128_si256(s, s, 0x00));
                high = _mm256_mullo_epi16(high, _mm256_permute2x128_si256(s, s, 0x11));
            }
            e->code[j][2 * r] = low;
            e->code[j][2 * r + 1] = high;
        }
    }
}

INLINE void pack_rows(uint8_t *panel, const uint8_t *w, size_t stride, int n_rows, int cols,
                      const uint32_t type) {
    const bool words = words_avx2(type);
    const size_t steps = words ? 16 : 8, block = (steps + 2) * 4 * PANEL_ROWS;
    const size_t places = ((size_t)cols + SUPER - 1) / SUPER;
    for (size_t i = 0; i < places; i++)
        for (int r0 = 0; r0 < PANEL_ROWS; r0 += 8) {
            Eight e;
            const uint8_t *row[8];
            size_t k = i * SUPER, left = (size_t)cols - k < SUPER ? (size_t)cols - k : SUPER;
            for (int r = 0; r < 8; r++) /* missing rows repeat the last one */
                row[r] = w + (size_t)(r0 + r < n_rows ? r0 + r : n_rows - 1) * stride +
                         row_bytes(type, k);
            unpack_eight(&e, row, row_bytes(type, left), type);
            for (size_t j = 0; j < 8; j++) {
                uint8_t *out = panel + (j * places + i) * block + 4 * r0;
                pack_block(out, e.code[j], words);
                memcpy(out + steps * 4 * PANEL_ROWS, e.d[j], 32);
                memcpy(out + (steps + 1) * 4 * PANEL_ROWS, e.m[j], 32);
            }
        }
}

static void pack_avx2(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                      int cols){
#define PACK_OF(TYPE) pack_rows(panel, w, stride, n_rows, cols, TYPE)
    FOR_TYPE(type, PACK_OF)
#undef PACK_OF
}

INLINE __m256i broadcast_dword(const uint8_t *p) {
    return _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)p));
}
INLINE __m256 broadcast_float(const uint8_t *p) {
    return _mm256_broadcast_ss((const float *)(const void *)p);
}

static inline bool five_bits(uint32_t type) {
    return type == T_Q5_0 || type == T_Q5_1 || type == T_Q5_K;
}

/* Bytes: sums of 16 bits wrap around, and start from -offset sum q, so that what remains is a sum
 * of signed codes: at most 16 127 16 = 32512. Types of 5 bits with a minimum, whose codes begin at
 * 0, start there too and are given it back. */
static uint32_t start_avx2(int even, int odd, uint32_t type) {
    int offset = five_bits(type) ? 16 : type == T_Q4_0 ? 8 : 0;
    return (uint32_t)(uint16_t)(-offset * even) | (uint32_t)(uint16_t)(-offset * odd) << 16;
}

/* The integer products of a block, 2 vectors of rows x 4 tokens. */
INLINE void block_dots(__m256i dot[2][PANEL_TOKENS], const uint8_t *w, const uint8_t *x,
                       const uint32_t type) {
    const bool words = words_avx2(type);
    const size_t steps = words ? 16 : 8;
    const uint8_t *starts = x + steps * 4 * PANEL_TOKENS;
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) dot[0][t] = dot[1][t] =
        five_bits(type) || type == T_Q4_0 ? broadcast_dword(starts + 4 * t)
                                          : _mm256_setzero_si256();
    UNROLL for (size_t s = 0; s < steps; s++, w += 4 * PANEL_ROWS) {
        __m256i w0 = load_32(w), w1 = load_32(w + 32);
        PIN(w0);
        PIN(w1);
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++, x += 4) {
            __m256i q = broadcast_dword(x);
            if (words) {
                dot[0][t] = _mm256_add_epi32(dot[0][t], _mm256_madd_epi16(w0, q));
                dot[1][t] = _mm256_add_epi32(dot[1][t], _mm256_madd_epi16(w1, q));
            } else {
                dot[0][t] = _mm256_add_epi16(dot[0][t], _mm256_maddubs_epi16(w0, q));
                dot[1][t] = _mm256_add_epi16(dot[1][t], _mm256_maddubs_epi16(w1, q));
            }
            PIN(dot[0][t]);
            PIN(dot[1][t]);
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (int t = 0; t < PANEL_TOKENS && !words; t++) {
        dot[0][t] = _mm256_madd_epi16(dot[0][t], ones);
        dot[1][t] = _mm256_madd_epi16(dot[1][t], ones);
        if (five_bits(type) && has_min(type)) {
            __m256i start = _mm256_madd_epi16(broadcast_dword(starts + 4 * t), ones);
            dot[0][t] = _mm256_sub_epi32(dot[0][t], start);
            dot[1][t] = _mm256_sub_epi32(dot[1][t], start);
        }
    }
}

INLINE void tile_int8(const Chain *c, const uint32_t type) {
    const uint8_t *w = c->w, *x = c->x;
    const size_t steps = words_avx2(type) ? 16 : 8;
    __m256 acc[2][PANEL_TOKENS];
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    for (int b = 0; b < c->blocks; b++) {
        __m256i dot[2][PANEL_TOKENS];
        block_dots(dot, w, x, type);
        w += steps * 4 * PANEL_ROWS;
        x += (steps + 1) * 4 * PANEL_TOKENS;
        UNROLL for (int v = 0; v < 2; v++) {
            __m256 d = _mm256_loadu_ps((const float *)(const void *)w + 8 * v);
            __m256 m = _mm256_loadu_ps((const float *)(const void *)w + PANEL_ROWS + 8 * v);
            UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
                __m256 dx = broadcast_float(x + 4 * t);
                acc[v][t] =
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[v][t]), _mm256_mul_ps(d, dx), acc[v][t]);
                if (has_min(type))
                    acc[v][t] =
                        _mm256_fmadd_ps(m, broadcast_float(x + 4 * (PANEL_TOKENS + t)), acc[v][t]);
            }
        }
        w += 2 * 4 * PANEL_ROWS;
        x += 2 * 4 * PANEL_TOKENS;
    }
    for (int l = 0; l < c->n_open; l++)
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < 2; v++) acc[v][t] =
            _mm256_add_ps(acc[v][t], _mm256_loadu_ps(c->open[l] + t * PANEL_ROWS + 8 * v));
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < 2; v++)
        _mm256_storeu_ps(c->sum + (size_t)t * c->stride + 8 * v, acc[v][t]);
}

static void tile_int8_avx2(const Chain *c) {
#define TILE_OF(TYPE) tile_int8(c, TYPE)
    FOR_TYPE(c->type, TILE_OF)
#undef TILE_OF
}

#define PANELS_AVX2                                                                                \
    { PANEL_ROWS, PANEL_TOKENS, words_avx2, start_avx2, pack_avx2, tile_int8_avx2 }
