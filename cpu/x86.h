/* x86.h: what avx2.c and avx512.c share. The file that includes it has said before which
 * instructions it may use. */
#ifndef X86_H
#define X86_H

#include "kernels.h"
#include <immintrin.h> /* _mm256_*, _mm512_* */

/* The tile of R rows and two vectors, for an instruction set with vectors V of L lanes, whose names
 * begin with P; A panels have a step of SLOTS, and one step of the loop is STEP of k. */
#define TILE(NAME, R, SLOTS, V, L, P, STEP, FMA)                                                   \
    static void tile_##NAME(int kc, const float *a, const float *b, float *c, size_t stride,       \
                            bool add) {                                                            \
        V sum[R][2];                                                                               \
        UNROLL for (int i = 0; i < R; i++) {                                                       \
            sum[i][0] = sum[i][1] = P##setzero_ps();                                               \
            _mm_prefetch((const char *)(c + (size_t)i * stride), _MM_HINT_T0);                     \
        }                                                                                          \
        for (int k = 0; k < kc; k += STEP, a += SLOTS, b += 2 * L) {                               \
            V b0 = P##loadu_ps(b), b1 = P##loadu_ps(b + L);                                        \
            UNROLL for (int i = 0; i < R; i++) {                                                   \
                V ai = P##set1_ps(a[i]);                                                           \
                sum[i][0] = FMA(ai, b0, sum[i][0]);                                                \
                sum[i][1] = FMA(ai, b1, sum[i][1]);                                                \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < R; i++, c += stride) {                                          \
            V s = sum[i][0], t = sum[i][1];                                                        \
            P##storeu_ps(c, add ? P##add_ps(P##loadu_ps(c), s) : s);                               \
            P##storeu_ps(c + L, add ? P##add_ps(P##loadu_ps(c + L), t) : t);                       \
        }                                                                                          \
    }                                                                                              \
    static float chains_##NAME(long steps) {                                                       \
        V y[CHAINS], x = P##set1_ps(0.999f);                                                       \
        UNROLL for (int c = 0; c < CHAINS; c++) y[c] = P##set1_ps((float)c);                       \
        for (long s = 0; s < steps; s++)                                                           \
            UNROLL for (int c = 0; c < CHAINS; c++) y[c] = FMA(x, x, y[c]);                        \
        UNROLL for (int c = 1; c < CHAINS; c++) y[0] = P##add_ps(y[0], y[c]);                      \
        float sum[L];                                                                              \
        P##storeu_ps(sum, y[0]);                                                                   \
        return sum[0];                                                                             \
    }

void turn_avx2(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
void copy_avx2(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);

#endif
