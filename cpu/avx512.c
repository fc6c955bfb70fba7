/* avx512.c: the level of x86 processors with AVX-512 and its dot products of bytes (VNNI):
 * vectors of 16 float32. `always_inline` with constant arguments makes one routine per tile size or
 * type out of each body. */
#include "kernels.h"
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,f16c,fma"))),  \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,f16c,fma")
#endif
#include "x86.h" /* TILE */

/* ------------------------------------------------------------------------------------------------
 * The vocabulary of kernels.h */

typedef __m512 V;
#define LANES 16

INLINE V v_zero(void) { return _mm512_setzero_ps(); }
INLINE V v_set1(float f) { return _mm512_set1_ps(f); }
INLINE V v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, V a) { _mm512_storeu_ps(p, a); }
INLINE V v_add(V a, V b) { return _mm512_add_ps(a, b); }
INLINE V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
INLINE V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
INLINE V v_max(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V v_round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }

INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
INLINE V v_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void v_store_part(float *p, V a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }

INLINE V widen_f16(__m256i halves) { return _mm512_cvtph_ps(halves); }
INLINE V widen_bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
INLINE __m256i load_16_bits(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m256i load_16_bits_part(const uint8_t *p, int n) {
    return _mm256_maskz_loadu_epi16(first_lanes(n), p);
}
INLINE V v_load_f16(const uint8_t *p) { return widen_f16(load_16_bits(p)); }
INLINE V v_load_bf16(const uint8_t *p) { return widen_bf16(load_16_bits(p)); }
INLINE V v_load_f16_part(const uint8_t *p, int n) { return widen_f16(load_16_bits_part(p, n)); }
INLINE V v_load_bf16_part(const uint8_t *p, int n) { return widen_bf16(load_16_bits_part(p, n)); }
INLINE V v_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE V v_pow2(V n) {
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
INLINE float v_fold(V v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float v_fold_max(V v) {
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* ------------------------------------------------------------------------------------------------
 * matmul */

enum {
    AHEAD = 512
}; /* bytes to fetch ahead of their use: the hardware alone is late (make bench) */

/* 16 numbers of a row from number k on, as float32. */
INLINE __m512 load_avx512(const uint8_t *row, const uint32_t type, int k, __mmask16 mask) {
    if (type == T_F32) return _mm512_maskz_loadu_ps(mask, row + 4 * (size_t)k);
    __m256i half = _mm256_maskz_loadu_epi16(mask, row + 2 * (size_t)k);
    if (type == T_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); /* bf16 */
}

/* R rows from r0 times T tokens from t0: R T accumulators in registers; each step of 16 loads R + T
 * vectors for R T multiply-adds. */
INLINE void float_tile(const uint32_t type, const int R, const int T, const Group *g,
                       const float *x, int r0, int t0) {
    const size_t cols = (size_t)g->cols;
    __m512 acc[ROWS][TOKENS];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) acc[r][t] = _mm512_setzero_ps();
    for (int k = 0; k < g->cols; k += 16) {
        __mmask16 mask = g->cols - k >= 16 ? 0xffff : (__mmask16)((1u << (g->cols - k)) - 1);
        __m512 xt[TOKENS];
        for (int t = 0; t < T; t++)
            xt[t] = _mm512_maskz_loadu_ps(mask, x + (size_t)(t0 + t) * cols + k);
        for (int r = 0; r < R; r++) {
            __m512 w = load_avx512(g->row[r0 + r], type, k, mask);
            for (int t = 0; t < T; t++) acc[r][t] = _mm512_fmadd_ps(xt[t], w, acc[r][t]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            g->y[(size_t)(t0 + t) * g->y_stride + (size_t)(r0 + r)] = v_fold(acc[r][t]);
}

/* Covers a group with tiles; TILE(R, T, r0, t0) names one. Full groups meet TOKENS tokens at a
 * time, then single ones; a group with missing rows, at the end of W, goes one by one. */
#define COVER(TILE)                                                                                \
    do {                                                                                           \
        int t = 0;                                                                                 \
        for (; t + TOKENS <= g->n && g->n_rows == ROWS; t += TOKENS) TILE(ROWS, TOKENS, 0, t);     \
        for (; t < g->n && g->n_rows == ROWS; t++) TILE(ROWS, 1, 0, t);                            \
        for (; t < g->n; t++)                                                                      \
            for (int r = 0; r < g->n_rows; r++) TILE(1, 1, r, t);                                  \
    } while (0)

static void float_group_avx512(const Group *g, const float *x) {
#define F32_TILE(R, T, r, t)  float_tile(T_F32, R, T, g, x, r, t)
#define F16_TILE(R, T, r, t)  float_tile(T_F16, R, T, g, x, r, t)
#define BF16_TILE(R, T, r, t) float_tile(T_BF16, R, T, g, x, r, t)
    if (g->type == T_F32)
        COVER(F32_TILE);
    else if (g->type == T_F16)
        COVER(F16_TILE);
    else
        COVER(BF16_TILE);
}

/* One 32-block as signed bytes: the codes of unpack_block less their offset. */
INLINE __m256i unpack_avx512(const uint8_t *p, const uint32_t type) {
    p += type == T_Q4_1 || type == T_Q5_1 ? 4 : 2;
    if (type == T_Q8_0) return _mm256_loadu_si256((const __m256i *)p);
    uint32_t fifth = 0;
    if (type == T_Q5_0 || type == T_Q5_1) memcpy(&fifth, p, 4), p += 4;
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m256i code =
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
    if (type == T_Q5_0 || type == T_Q5_1)
        code = _mm256_or_si256(code, _mm256_maskz_set1_epi8((__mmask32)fifth, 16));
    if (type == T_Q4_0) code = _mm256_sub_epi8(code, _mm256_set1_epi8(8));
    if (type == T_Q5_0) code = _mm256_sub_epi8(code, _mm256_set1_epi8(16));
    if (type != T_IQ4_NL) return code;
    __m128i level = _mm_loadu_si128((const __m128i *)iq4_nl_level);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(level), code);
}

/* (ab[0] x 8, ab[1] x 8): the scales of a pair of blocks over the lanes they belong to. */
INLINE __m512 each_8(__m128 ab) {
    const __m512i lanes = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(ab));
}
INLINE __m512 two_halves(const uint8_t *a, const uint8_t *b) {
    return each_8(_mm_cvtph_ps(_mm_cvtsi32_si128((int)(load16(a) | (uint32_t)load16(b) << 16))));
}

/* R stored rows times T rounded tokens, two blocks (64 bytes) a step. vpdpbusd multiplies unsigned
 * bytes by signed ones, four products a lane. The unsigned ones are q = x + 128, and what the 128
 * adds, 128 sum w, depends on the row alone: one more vpdpbusd per row and step, for all tokens. */
INLINE void int8_tile(const uint32_t type, const int R, const int T, const Group *g,
                      const Rounded *x, int r0, int t0) {
    const bool has_min = type == T_Q4_1 || type == T_Q5_1, five = type == T_Q5_0 || type == T_Q5_1;
    const size_t bytes = type == T_Q8_0 ? 34 : (size_t)(18 + 2 * has_min + 4 * five);
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    __m512 acc[ROWS][TOKENS];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) acc[r][t] = _mm512_setzero_ps();
    const size_t blocks = (size_t)g->cols / 32;
    for (size_t b = 0; b < blocks; b += 2) {
        __m512i w[ROWS], start[ROWS]; /* the row's bytes; -128 sum w */
        __m512 d[ROWS], m[ROWS];
        for (int r = 0; r < R; r++) {
            const uint8_t *first = g->row[r0 + r] + b * bytes;
            const uint8_t *second =
                b + 1 < blocks ? first + bytes : first; /* a lone last one: dx = 0 */
            _mm_prefetch((const char *)first + AHEAD, _MM_HINT_T0);
            w[r] = _mm512_inserti64x4(_mm512_castsi256_si512(unpack_avx512(first, type)),
                                      unpack_avx512(second, type), 1);
            start[r] = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), w[r]);
            start[r] = _mm512_sub_epi32(zero, start[r]);
            d[r] = two_halves(first, second);
            m[r] = has_min ? two_halves(first + 2, second + 2) : d[r];
        }
        for (int t = 0; t < T; t++) {
            const size_t at = (size_t)(t0 + t) * x->padded + 32 * b;
            __m512i q = _mm512_loadu_si512(x->q + at), sum = zero;
            __m512 dx = each_8(_mm_castpd_ps(_mm_load_sd((const double *)(x->d + at / 32))));
            if (has_min)
                sum = _mm512_sub_epi32(_mm512_dpbusd_epi32(zero, q, ones), _mm512_set1_epi32(512));
            for (int r = 0; r < R; r++) {
                __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start[r], q, w[r]));
                dot = _mm512_mul_ps(dot, d[r]);
                if (has_min) dot = _mm512_fmadd_ps(m[r], _mm512_cvtepi32_ps(sum), dot);
                acc[r][t] = _mm512_fmadd_ps(dot, dx, acc[r][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            g->y[(size_t)(t0 + t) * g->y_stride + (size_t)(r0 + r)] = v_fold(acc[r][t]);
}

static void int8_group_avx512(const Group *g, const Rounded *x) {
#define CASE(TYPE, NAME)                                                                           \
    case TYPE:                                                                                     \
        COVER(NAME);                                                                               \
        break;
#define Q8_0_TILE(R, T, r, t)   int8_tile(T_Q8_0, R, T, g, x, r, t)
#define Q4_0_TILE(R, T, r, t)   int8_tile(T_Q4_0, R, T, g, x, r, t)
#define Q4_1_TILE(R, T, r, t)   int8_tile(T_Q4_1, R, T, g, x, r, t)
#define Q5_0_TILE(R, T, r, t)   int8_tile(T_Q5_0, R, T, g, x, r, t)
#define Q5_1_TILE(R, T, r, t)   int8_tile(T_Q5_1, R, T, g, x, r, t)
#define IQ4_NL_TILE(R, T, r, t) int8_tile(T_IQ4_NL, R, T, g, x, r, t)
    switch (g->type) {
        CASE(T_Q8_0, Q8_0_TILE)
        CASE(T_Q4_0, Q4_0_TILE)
        CASE(T_Q4_1, Q4_1_TILE)
        CASE(T_Q5_0, Q5_0_TILE)
        CASE(T_Q5_1, Q5_1_TILE)
        CASE(T_IQ4_NL, IQ4_NL_TILE)
    default: break;
    }
#undef CASE
}

/* GEMM_BF16: a lane holds a pair of bfloat16, those of steps 2k and 2k + 1 (pair_up), and vdpbf16ps
 * adds both products, the odd one first. It takes subnormal numbers for zero. */
#define PAIRS(a, b, sum) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))

TILE(avx512, 14, 16, __m512, 16, _mm512_, 1, _mm512_fmadd_ps)
TILE(bf16, 14, 16, __m512, 16, _mm512_, 2, PAIRS)

static bool avx512_here(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
static bool bf16_here(void) { return __builtin_cpu_supports("avx512bf16"); }

const Kernels kernels_avx512 = { .name = "avx512",
                                 .here = avx512_here,
                                 .loads_halves = true,
                                 .float_group = float_group_avx512,
                                 .int8_group = int8_group_avx512,
                                 .tile = { 14, 32, tile_avx512, 16, chains_avx512 },
                                 .bf16 = { 14, 32, tile_bf16, 16, chains_bf16 },
                                 .bf16_here = bf16_here,
                                 .turn = turn_avx2,
                                 .copy = copy_avx2 };
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
