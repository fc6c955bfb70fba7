/* avx2.c: the level of x86 processors since 2013: vectors of 8 float32 and fused multiply-adds. */
#include "kernels.h"
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "x86.h" /* TILE */

TILE(avx2, 6, 8, __m256, 8, _mm256_, 1, _mm256_fmadd_ps)

/* 8 x 8 numbers at a time: pairs of rows, then pairs of pairs, then halves change places. */
void turn_avx2(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead) {
    int k = 0;
    for (; k + 8 <= n; k += 8, out += 8 * step) {
        __m256 r[8], p[8];
        UNROLL for (int l = 0; l < 8; l++) {
            r[l] = _mm256_loadu_ps(row[l] + k);
            _mm_prefetch((const char *)((uintptr_t)(row[l] + k) + ahead), _MM_HINT_T0);
        }
        UNROLL for (int l = 0; l < 8; l++) p[l] =
            l & 1 ? _mm256_unpackhi_ps(r[l - 1], r[l]) : _mm256_unpacklo_ps(r[l], r[l + 1]);
        UNROLL for (int l = 0; l < 8; l++) {
            __m256 a = p[(l & 4) + l / 2 % 2], b = p[(l & 4) + l / 2 % 2 + 2];
            r[l] = l & 1 ? _mm256_shuffle_ps(a, b, 0xee) : _mm256_shuffle_ps(a, b, 0x44);
        }
        UNROLL for (int l = 0; l < 4; l++) {
            float *low = out + (size_t)l * step;
            _mm256_storeu_ps(low, _mm256_permute2f128_ps(r[l], r[l + 4], 0x20));
            _mm256_storeu_ps(low + 4 * step, _mm256_permute2f128_ps(r[l], r[l + 4], 0x31));
        }
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
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

const Kernels kernels_avx2 = { .name = "avx2",
                               .here = avx2_here,
                               .float_group = float_group_plain,
                               .int8_group = int8_group_plain,
                               .tile = { 6, 16, tile_avx2, 8, chains_avx2 },
                               .turn = turn_avx2,
                               .copy = copy_avx2 };
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
