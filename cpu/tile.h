/* tile.h: the tiles of gemm.c and of prompts, in the vocabulary of the level that includes it. */
#ifndef TILE_H
#define TILE_H

#include "kernels.h"

/* Independent sums that touch no memory, for matmul_peak: their number hides the latency. */
#define CHAINS_OF(NAME, MULTIPLY_ADD)                                                              \
    static float chains_##NAME(long steps) {                                                       \
        V y[CHAINS], x = v_set1(0.999f);                                                           \
        UNROLL for (int c = 0; c < CHAINS; c++) y[c] = v_set1((float)c);                           \
        for (long s = 0; s < steps; s++)                                                           \
            UNROLL for (int c = 0; c < CHAINS; c++) y[c] = MULTIPLY_ADD(x, x, y[c]);               \
        UNROLL for (int c = 1; c < CHAINS; c++) y[0] = v_add(y[0], y[c]);                          \
        return v_fold(y[0]);                                                                       \
    }

/* The tile of R rows and two vectors. A panels have a step of SLOTS. STEP: how many k a step of the
 * loop takes, 2 where a lane holds a pair of them. */
#define TILE(NAME, R, SLOTS, STEP, MULTIPLY_ADD)                                                   \
    static void tile_##NAME(int kc, const float *a, const float *b, float *c, size_t stride,       \
                            bool add) {                                                            \
        V sum[R][2];                                                                               \
        UNROLL for (int i = 0; i < R; i++) {                                                       \
            sum[i][0] = sum[i][1] = v_zero();                                                      \
            __builtin_prefetch(c + (size_t)i * stride);                                            \
        }                                                                                          \
        for (int k = 0; k < kc; k += STEP, a += SLOTS, b += 2 * LANES) {                           \
            V b0 = v_load(b), b1 = v_load(b + LANES);                                              \
            UNROLL for (int i = 0; i < R; i++) {                                                   \
                V ai = v_set1(a[i]);                                                               \
                sum[i][0] = MULTIPLY_ADD(ai, b0, sum[i][0]);                                       \
                sum[i][1] = MULTIPLY_ADD(ai, b1, sum[i][1]);                                       \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < R; i++, c += stride) {                                          \
            V s = sum[i][0], t = sum[i][1];                                                        \
            v_store(c, add ? v_add(v_load(c), s) : s);                                             \
            v_store(c + LANES, add ? v_add(v_load(c + LANES), t) : t);                             \
        }                                                                                          \
    }                                                                                              \
    CHAINS_OF(NAME, MULTIPLY_ADD)

#endif
