/* neon.c: the level that every 64-bit ARM processor has (aarch64). Test: tests/test_neon.py,
 * elsewhere than on ARM by a cross compiler and qemu. */
#include "kernels.h"
#if defined(__aarch64__) && defined(__GNUC__)
#include "neon.h" /* the vocabulary */
#define DOTPROD 0
#include "floats.h"    /* float_dots, float_pack */
#include "attend.h"    /* attend, exp_all, swiglu */
#include "int8_neon.h" /* int8_rows_neon, PANELS_NEON */

/* ------------------------------------------------------------------------------------------------
 * 1. gemm */

/* 6 x 16 sums in 24 registers; each step loads 4 of B and a register and a half of A, whose lanes
 * vfmaq_lane spreads. */
void tile_neon(int kc, const float *a, const float *b, float *c, size_t stride, bool add) {
    float32x4_t sum[6][4];
    UNROLL for (int i = 0; i < 6; i++) {
        UNROLL for (int j = 0; j < 4; j++) sum[i][j] = vdupq_n_f32(0);
        __builtin_prefetch(c + (size_t)i * stride, 1);
    }
    for (int k = 0; k < kc; k++, a += 8, b += 16) {
        float32x4_t a03 = vld1q_f32(a);
        float32x2_t a45 = vld1_f32(a + 4);
        UNROLL for (int j = 0; j < 4; j++) {
            float32x4_t bj = vld1q_f32(b + 4 * j);
            sum[0][j] = vfmaq_laneq_f32(sum[0][j], bj, a03, 0);
            sum[1][j] = vfmaq_laneq_f32(sum[1][j], bj, a03, 1);
            sum[2][j] = vfmaq_laneq_f32(sum[2][j], bj, a03, 2);
            sum[3][j] = vfmaq_laneq_f32(sum[3][j], bj, a03, 3);
            sum[4][j] = vfmaq_lane_f32(sum[4][j], bj, a45, 0);
            sum[5][j] = vfmaq_lane_f32(sum[5][j], bj, a45, 1);
        }
    }
    UNROLL for (int i = 0; i < 6; i++, c += stride) UNROLL for (int j = 0; j < 4; j++) {
        float32x4_t s = sum[i][j];
        vst1q_f32(c + 4 * j, add ? vaddq_f32(vld1q_f32(c + 4 * j), s) : s);
    }
}

float chains_neon(long steps) {
    V y[CHAINS], x = v_set1(0.999f);
    UNROLL for (int c = 0; c < CHAINS; c++) y[c] = v_set1((float)c);
    for (long s = 0; s < steps; s++)
        UNROLL for (int c = 0; c < CHAINS; c++) y[c] = v_fma(x, x, y[c]);
    UNROLL for (int c = 1; c < CHAINS; c++) y[0] = v_add(y[0], y[c]);
    return v_fold(y[0]);
}

void turn_neon(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead) {
    int k = 0;
    for (; k + 8 <= n; k += 8, out += 8 * step) {
        V r[8];
        UNROLL for (int l = 0; l < 8; l++) {
            r[l] = v_load(row[l] + k);
            __builtin_prefetch((const void *)((uintptr_t)(row[l] + k) + ahead));
        }
        v_turn(r);
        UNROLL for (int l = 0; l < 8; l++) v_store(out + (size_t)l * step, r[l]);
    }
    const float *rest[GROUP];
    for (int l = 0; l < GROUP; l++) rest[l] = row[l] + k;
    turn_plain(out, step, rest, n - k, 0);
}

void copy_neon(float *out, size_t step, const float *in, size_t in_step, int n, int lanes) {
    for (int k = 0; k < n; k++, out += step, in += in_step)
        v_store(out, lanes >= GROUP ? v_load(in) : v_load_part(in, lanes > 0 ? lanes : 0));
}

/* ------------------------------------------------------------------------------------------------
 * 2. The table */

static bool neon_here(void) { return true; }

const Kernels kernels_neon = { .name = "neon", .here = neon_here, NEON_KERNELS };
#endif
