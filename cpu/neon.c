/* neon.c: the two levels of 64-bit ARM processors (aarch64). "neon" is what all of them have, and
 * "dotprod" has the dot products of bytes as well, as most do since 2018.
 *
 * A register has 4 float32. The vocabulary's vector is two of them, 8 lanes as in plain.c and
 * avx2.c, so that sums have the bits of those levels. Test: tests/test_neon.py, elsewhere than on
 * ARM by a cross compiler and qemu. */
#include "kernels.h"
#if defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h> /* v..q_f32 and the like */
#ifdef __linux__
#include <asm/hwcap.h> /* HWCAP_ASIMDDP */
#include <sys/auxv.h>  /* getauxval */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. The vocabulary of kernels.h */

typedef struct {
    float32x4_t low, high; /* lanes 0 to 3, 4 to 7 */
} V;
#define LANES 8
#define BOTH(expression_low, expression_high)                                                      \
    (V) { (expression_low), (expression_high) }

INLINE V v_set1(float f) { return BOTH(vdupq_n_f32(f), vdupq_n_f32(f)); }
INLINE V v_zero(void) { return v_set1(0); }
INLINE V v_load(const float *p) { return BOTH(vld1q_f32(p), vld1q_f32(p + 4)); }
INLINE void v_store(float *p, V a) {
    vst1q_f32(p, a.low);
    vst1q_f32(p + 4, a.high);
}
INLINE V v_add(V a, V b) { return BOTH(vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)); }
INLINE V v_sub(V a, V b) { return BOTH(vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)); }
INLINE V v_mul(V a, V b) { return BOTH(vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)); }
INLINE V v_fma(V a, V b, V c) {
    return BOTH(vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high));
}
INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE V v_max(V a, V b) { return BOTH(larger(a.low, b.low), larger(a.high, b.high)); }
INLINE V v_round(V a) { return BOTH(vrndnq_f32(a.low), vrndnq_f32(a.high)); }

/* Numbers at the border: through memory. */
INLINE V v_load_part(const float *p, int n) {
    float copy[LANES] = { 0 };
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load(copy);
}
INLINE void v_store_part(float *p, V a, int n) {
    float copy[LANES];
    v_store(copy, a);
    memcpy(p, copy, (size_t)n * sizeof *p);
}

INLINE uint16x8_t load_16_bits(const uint8_t *p) { return vreinterpretq_u16_u8(vld1q_u8(p)); }
INLINE uint16x8_t load_16_bits_part(const uint8_t *p, int n) {
    uint8_t copy[2 * LANES] = { 0 };
    memcpy(copy, p, 2 * (size_t)n);
    return load_16_bits(copy);
}
INLINE V widen_f16(uint16x8_t halves) {
    float16x8_t h = vreinterpretq_f16_u16(halves);
    return BOTH(vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h));
}
INLINE V widen_bf16(uint16x8_t h) {
    return BOTH(vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)));
}
INLINE V v_load_f16(const uint8_t *p) { return widen_f16(load_16_bits(p)); }
INLINE V v_load_bf16(const uint8_t *p) { return widen_bf16(load_16_bits(p)); }
INLINE V v_load_f16_part(const uint8_t *p, int n) { return widen_f16(load_16_bits_part(p, n)); }
INLINE V v_load_bf16_part(const uint8_t *p, int n) { return widen_bf16(load_16_bits_part(p, n)); }

INLINE V v_load_i8(const int8_t *p) {
    int16x8_t wide = vmovl_s8(vld1_s8(p));
    return BOTH(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide)));
}
INLINE float32x4_t pow2(float32x4_t n) {
    int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
INLINE V v_pow2(V n) { return BOTH(pow2(n.low), pow2(n.high)); }

INLINE float v_fold(V a) {
    float32x4_t b = vaddq_f32(a.low, a.high);
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
INLINE float v_fold_max(V a) {
    float32x4_t b = larger(a.low, a.high);
    b = larger(b, vextq_f32(b, b, 2));
    return vgetq_lane_f32(larger(b, vextq_f32(b, b, 1)), 0);
}

/* ------------------------------------------------------------------------------------------------
 * 2. gemm */

/* 6 x 16 sums in 24 registers; each step loads 4 of B and a register and a half of A, whose lanes
 * vfmaq_lane spreads. */
static void tile_neon(int kc, const float *a, const float *b, float *c, size_t stride, bool add) {
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

static float chains_neon(long steps) {
    V y[CHAINS], x = v_set1(0.999f);
    UNROLL for (int c = 0; c < CHAINS; c++) y[c] = v_set1((float)c);
    for (long s = 0; s < steps; s++)
        UNROLL for (int c = 0; c < CHAINS; c++) y[c] = v_fma(x, x, y[c]);
    UNROLL for (int c = 1; c < CHAINS; c++) y[0] = v_add(y[0], y[c]);
    return v_fold(y[0]);
}

/* 4 x 4 numbers change places: pairs of rows, then pairs of pairs. */
INLINE void turn_4x4(float *out, size_t step, const float *const row[4], int k) {
    float32x4_t r[4];
    for (int l = 0; l < 4; l++) r[l] = vld1q_f32(row[l] + k);
    float32x4x2_t p = vzipq_f32(r[0], r[2]), q = vzipq_f32(r[1], r[3]); /* 0 2 0 2; 1 3 1 3 */
    float32x4x2_t low = vzipq_f32(p.val[0], q.val[0]), high = vzipq_f32(p.val[1], q.val[1]);
    vst1q_f32(out, low.val[0]);
    vst1q_f32(out + step, low.val[1]);
    vst1q_f32(out + 2 * step, high.val[0]);
    vst1q_f32(out + 3 * step, high.val[1]);
}
static void turn_neon(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead) {
    int k = 0;
    for (; k + 4 <= n; k += 4, out += 4 * step)
        for (int l = 0; l < GROUP; l += 4) turn_4x4(out + l, step, row + l, k);
    const float *rest[GROUP];
    for (int l = 0; l < GROUP; l++) rest[l] = row[l] + k;
    turn_plain(out, step, rest, n - k, ahead);
}

static void copy_neon(float *out, size_t step, const float *in, size_t in_step, int n, int lanes) {
    for (int k = 0; k < n; k++, out += step, in += in_step)
        v_store(out, lanes >= GROUP ? v_load(in) : v_load_part(in, lanes > 0 ? lanes : 0));
}

/* ------------------------------------------------------------------------------------------------
 * 3. The tables */

static bool neon_here(void) { return true; }

const Kernels kernels_neon = { .name = "neon",
                               .here = neon_here,
                               .float_group = float_group_plain,
                               .int8_group = int8_group_plain,
                               .tile = { 6, 16, tile_neon, 8, chains_neon },
                               .turn = turn_neon,
                               .copy = copy_neon };
#endif
