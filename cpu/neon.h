/* neon.h: what neon.c and dotprod.c share, the vocabulary of kernels.h. A register has 4 float32;
 * the vocabulary's vector is two of them, 8 lanes as in plain.c and avx2.c, so that sums have the
 * bits of those levels. */
#ifndef NEON_H
#define NEON_H

#include "kernels.h"
#include <arm_neon.h> /* v..q_f32 and the like */

typedef struct {
    float32x4_t low, high; /* lanes 0 to 3, 4 to 7 */
} V;
#define LANES 8
enum { DOT_TOKENS = 2 }; /* floats.h: 4 x 2 sums in 16 registers */
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
INLINE V v_div(V a, V b) { return BOTH(vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)); }
INLINE V v_fma(V a, V b, V c) {
    return BOTH(vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high));
}
INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE V v_max(V a, V b) { return BOTH(larger(a.low, b.low), larger(a.high, b.high)); }
INLINE float32x4_t smaller(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
INLINE V v_min(V a, V b) { return BOTH(smaller(a.low, b.low), smaller(a.high, b.high)); }
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

INLINE V widen_i8(int8x8_t n) {
    int16x8_t wide = vmovl_s8(n);
    return BOTH(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide)));
}
INLINE V v_load_i8(const int8_t *p) { return widen_i8(vld1_s8(p)); }
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

/* 4 x 4 numbers change places: rows 0 and 2, 1 and 3 in turns, then these in turns. */
INLINE void turn_4x4(float32x4_t r[4]) {
    float32x4x2_t even = vzipq_f32(r[0], r[2]), odd = vzipq_f32(r[1], r[3]);
    float32x4x2_t low = vzipq_f32(even.val[0], odd.val[0]),
                  high = vzipq_f32(even.val[1], odd.val[1]);
    r[0] = low.val[0], r[1] = low.val[1], r[2] = high.val[0], r[3] = high.val[1];
}
INLINE void v_turn(V r[LANES]) {
    float32x4_t a[4], b[4], c[4], d[4]; /* the quarters: a b over c d become a c over b d */
    UNROLL for (int l = 0; l < 4; l++) {
        a[l] = r[l].low, b[l] = r[l].high;
        c[l] = r[l + 4].low, d[l] = r[l + 4].high;
    }
    turn_4x4(a), turn_4x4(b), turn_4x4(c), turn_4x4(d);
    UNROLL for (int l = 0; l < 4; l++) r[l] = BOTH(a[l], c[l]), r[l + 4] = BOTH(b[l], d[l]);
}

/* neon.c */
void tile_neon(int kc, const float *a, const float *b, float *c, size_t stride, bool add);
float chains_neon(long steps);
void turn_neon(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
void copy_neon(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);

/* What the tables of neon.c and dotprod.c hold; each has its own int8 routines of these names. */
#define NEON_KERNELS                                                                               \
    .float_dots = float_dots, .float_pack = float_pack, .int8_rows = int8_rows_neon,               \
    .panels = PANELS_NEON, .tile = { 6, 16, tile_neon, 8, 8, chains_neon }, .turn = turn_neon,     \
    .copy = copy_neon, .attend = attend, .exp_all = exp_all, .swiglu = swiglu

#endif
