/* avx512.c: the levels of x86 processors with AVX-512 and its dot products of bytes (VNNI):
 * vectors of 16 float32. `always_inline` with constant arguments makes one routine per tile size or
 * type out of each body. */
#include "kernels.h"
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef OC_SIMDE /* tests/test_avx512.py */
#include "../tests/emulate_avx512.h"
#else
#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,f16c,fma,"     \
                          "amx-tile,amx-int8"))),                                                  \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,f16c,fma")
#pragma GCC target("amx-tile,amx-int8")
#endif
#include <cpuid.h>     /* __get_cpuid_count */
#include <immintrin.h> /* _mm512_*, _tile_* */
#ifdef __linux__
#include <sys/syscall.h> /* SYS_arch_prctl */
#endif
#endif

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
INLINE V v_div(V a, V b) { return _mm512_div_ps(a, b); }
INLINE V v_max(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V v_min(V a, V b) { return _mm512_min_ps(a, b); }
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
/* Pairs of rows, then pairs of pairs, then quarters change places, twice. */
INLINE void v_turn(V r[16]) {
    V p[16], q[16];
    UNROLL for (int l = 0; l < 16; l += 2) {
        p[l] = _mm512_unpacklo_ps(r[l], r[l + 1]);
        p[l + 1] = _mm512_unpackhi_ps(r[l], r[l + 1]);
    }
    UNROLL for (int l = 0; l < 16; l++) { /* quarter c of q[4 g + l % 4]: column 4 c + l % 4 */
        V a = p[(l & 12) + l / 2 % 2], b = p[(l & 12) + l / 2 % 2 + 2];
        q[l] = l & 1 ? _mm512_shuffle_ps(a, b, 0xee) : _mm512_shuffle_ps(a, b, 0x44);
    }
    UNROLL for (int l = 0; l < 4; l++) {
        V a = _mm512_shuffle_f32x4(q[l], q[l + 4], 0x44);
        V b = _mm512_shuffle_f32x4(q[l], q[l + 4], 0xee);
        V c = _mm512_shuffle_f32x4(q[l + 8], q[l + 12], 0x44);
        V d = _mm512_shuffle_f32x4(q[l + 8], q[l + 12], 0xee);
        r[l] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[l + 4] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[l + 8] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[l + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#include "attend.h" /* attend, exp_all, swiglu */

/* ------------------------------------------------------------------------------------------------
 * matmul */

/* A lane holds a pair of bfloat16, of numbers 2k and 2k + 1, and vdpbf16ps adds both products, the
 * odd one first. It takes subnormal numbers for zero. */
INLINE V v_pairs(V a, V b, V sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#define HAS_PAIRS

enum { DOT_TOKENS = 6 };
#include "floats.h"      /* float_dots, float_pack */
#include "int8_avx512.h" /* int8_rows_x86, PANELS_AVX512 */
#include "int8_amx.h"    /* PANELS_AMX */
#include "tile.h"        /* TILE */

TILE(avx512, 14, 16, 1, v_fma)
TILE(bf16, 14, 16, 2, v_pairs)

#ifdef OC_SIMDE
static bool avx512_here(void) { return true; }
static bool bf16_here(void) { return true; }
static bool amx_here(void) { return true; }
#else
static bool avx512_here(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
static bool bf16_here(void) { return avx512_here() && __builtin_cpu_supports("avx512bf16"); }

/* The processor must have tile registers and products of bytes, and Linux must be asked for them.
 * From then on what it saves of a thread has 8 KB more, in frames of signals too. */
static bool amx_here(void) {
#ifdef __linux__
    enum {
        AMX_TILE = 1 << 24,
        AMX_INT8 = 1 << 25,
        ARCH_REQ_XCOMP_PERM = 0x1023,
        XFEATURE_XTILEDATA = 18
    };
    unsigned a, b, c, features;
    return avx512_here() && __get_cpuid_count(7, 0, &a, &b, &c, &features) && features & AMX_TILE &&
           features & AMX_INT8 &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
#endif

/* Intel's processors take more than four times as long for vdpbf16ps as for a multiply-add of
 * float32, of which two do the same (build/machine measures both; bench/notes.md). */
static bool bf16_slow(void) { return __builtin_cpu_is("intel"); }

/* Three levels. A level's name stands for its results: sums of pairs have other roundings. Those of
 * amx, whose sums of whole numbers are exact, are avx512's. */
#define AVX512                                                                                     \
    .float_dots = float_dots, .float_pack = float_pack, .int8_rows = int8_rows_x86,                \
    .tile = { 14, 32, tile_avx512, 16, 16, chains_avx512 }, .turn = turn_avx2, .copy = copy_avx2,  \
    .attend = attend, .exp_all = exp_all, .swiglu = swiglu

const Kernels kernels_avx512 = {
    .name = "avx512", .here = avx512_here, AVX512, .panels = PANELS_AVX512
};
const Kernels kernels_avx512bf16 = { .name = "avx512bf16",
                                     .here = bf16_here,
                                     .slow = bf16_slow,
                                     AVX512,
                                     .panels = PANELS_AVX512,
                                     .pair_dots = pair_dots,
                                     .bf16 = { 14, 32, tile_bf16, 16, 16, chains_bf16 } };
const Kernels kernels_amx = { .name = "amx", .here = amx_here, AVX512, .panels = PANELS_AMX };
#if defined(__clang__) && !defined(OC_SIMDE)
#pragma clang attribute pop
#endif
#endif
