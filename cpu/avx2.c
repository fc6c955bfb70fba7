/* avx2.c: the level of x86 processors since 2013: vectors of 8 float32 and fused multiply-adds. */
#include "kernels.h"
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include <cpuid.h>     /* __get_cpuid */
#include <immintrin.h> /* _mm256_* */

/* ------------------------------------------------------------------------------------------------
 * The vocabulary of kernels.h */

typedef __m256 V;
#define LANES 8

INLINE V v_zero(void) { return _mm256_setzero_ps(); }
INLINE V v_set1(float f) { return _mm256_set1_ps(f); }
INLINE V v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, V a) { _mm256_storeu_ps(p, a); }
INLINE V v_add(V a, V b) { return _mm256_add_ps(a, b); }
INLINE V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
INLINE V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
INLINE V v_div(V a, V b) { return _mm256_div_ps(a, b); }
INLINE V v_max(V a, V b) { return _mm256_max_ps(a, b); }
INLINE V v_min(V a, V b) { return _mm256_min_ps(a, b); }
INLINE V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
INLINE V v_round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

INLINE __m256i first_lanes(int n) {
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), number);
}
INLINE V v_load_part(const float *p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void v_store_part(float *p, V a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a); }

INLINE V widen_f16(__m128i halves) { return _mm256_cvtph_ps(halves); }
INLINE V widen_bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
INLINE __m128i load_16_bits(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m128i load_16_bits_part(const uint8_t *p, int n) {
    uint8_t copy[16] = { 0 };
    memcpy(copy, p, 2 * (size_t)n);
    return load_16_bits(copy);
}
INLINE V v_load_f16(const uint8_t *p) { return widen_f16(load_16_bits(p)); }
INLINE V v_load_bf16(const uint8_t *p) { return widen_bf16(load_16_bits(p)); }
INLINE V v_load_f16_part(const uint8_t *p, int n) { return widen_f16(load_16_bits_part(p, n)); }
INLINE V v_load_bf16_part(const uint8_t *p, int n) { return widen_bf16(load_16_bits_part(p, n)); }
INLINE V v_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE V v_pow2(V n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
INLINE float v_fold(V a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float v_fold_max(V a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
/* Pairs of rows, then pairs of pairs, then halves change places. */
INLINE void v_turn(V r[8]) {
    V p[8];
    UNROLL for (int l = 0; l < 8; l += 2) {
        p[l] = _mm256_unpacklo_ps(r[l], r[l + 1]);
        p[l + 1] = _mm256_unpackhi_ps(r[l], r[l + 1]);
    }
    UNROLL for (int l = 0; l < 8; l++) {
        V a = p[(l & 4) + l / 2 % 2], b = p[(l & 4) + l / 2 % 2 + 2];
        r[l] = l & 1 ? _mm256_shuffle_ps(a, b, 0xee) : _mm256_shuffle_ps(a, b, 0x44);
    }
    UNROLL for (int l = 0; l < 4; l++) {
        V a = r[l], b = r[l + 4];
        r[l] = _mm256_permute2f128_ps(a, b, 0x20);
        r[l + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

/* ------------------------------------------------------------------------------------------------
 * matmul */

enum { DOT_TOKENS = 3 };
#include "floats.h"    /* float_dots, float_pack */
#include "int8_avx2.h" /* int8_rows_x86, PANELS_AVX2 */

/* ------------------------------------------------------------------------------------------------
 * attention, gemm */

#include "attend.h" /* attend, exp_all, swiglu */
#include "tile.h"   /* TILE */

TILE(avx2, 6, 8, 1, v_fma)

void turn_avx2(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead) {
    int k = 0;
    for (; k + 8 <= n; k += 8, out += 8 * step) {
        __m256 r[8];
        UNROLL for (int l = 0; l < 8; l++) {
            r[l] = _mm256_loadu_ps(row[l] + k);
            _mm_prefetch((const char *)((uintptr_t)(row[l] + k) + ahead), _MM_HINT_T0);
        }
        v_turn(r);
        UNROLL for (int l = 0; l < 8; l++) v_store(out + (size_t)l * step, r[l]);
    }
    const float *rest[GROUP];
    for (int l = 0; l < GROUP; l++) rest[l] = row[l] + k;
    turn_plain(out, step, rest, n - k, 0);
}

void copy_avx2(float *out, size_t step, const float *in, size_t in_step, int n, int lanes) {
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), number);
    for (int k = 0; k < n; k++, out += step, in += in_step) {
        _mm_prefetch((const char *)((uintptr_t)in + 64 * in_step), _MM_HINT_T0); /* 16 rows on */
        _mm256_storeu_ps(out, _mm256_maskload_ps(in, mask));
    }
}

static bool avx2_here(void) {
    unsigned a, b, c = 0, d; /* f16c has no name in clang 14 */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

const Kernels kernels_avx2 = { .name = "avx2",
                               .here = avx2_here,
                               .float_dots = float_dots,
                               .float_pack = float_pack,
                               .int8_rows = int8_rows_x86,
                               .panels = PANELS_AVX2,
                               .tile = { 6, 16, tile_avx2, 8, 8, chains_avx2 },
                               .turn = turn_avx2,
                               .copy = copy_avx2,
                               .attend = attend,
                               .exp_all = exp_all,
                               .swiglu = swiglu };
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
