/* plain.c: the level that runs everywhere, in C that every compiler understands, and the twin that
 * the others are tested against. Sections: 1 the vocabulary, 2 matmul, 3 gemm. */
#include "kernels.h"

/* ------------------------------------------------------------------------------------------------
 * 1. The vocabulary of kernels.h, in the vectors of C that gcc and clang know for every target */

typedef float V __attribute__((vector_size(32)));
#define LANES 8

/* One rounding for a b + c where the target has such an instruction; the library's fmaf is slow. */
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* v[l] = what the expression gives for lane l; a copy in memory, because compilers make vector code
 * of loops over arrays. */
#define EACH_LANE(expression)                                                                      \
    float lane[LANES];                                                                             \
    for (int l = 0; l < LANES; l++) lane[l] = (expression);                                        \
    return v_load(lane)

INLINE V v_zero(void) { return (V){ 0 }; }
INLINE V v_set1(float f) { return (V){ f, f, f, f, f, f, f, f }; }
INLINE V v_load(const float *p) {
    V a;
    memcpy(&a, p, sizeof a);
    return a;
}
INLINE void v_store(float *p, V a) { memcpy(p, &a, sizeof a); }
INLINE V v_add(V a, V b) { return a + b; }
INLINE V v_sub(V a, V b) { return a - b; }
INLINE V v_mul(V a, V b) { return a * b; }
INLINE V v_div(V a, V b) { return a / b; }
INLINE V v_max(V a, V b) { EACH_LANE(a[l] > b[l] ? a[l] : b[l]); }
INLINE V v_min(V a, V b) { EACH_LANE(a[l] < b[l] ? a[l] : b[l]); }
INLINE V v_fma(V a, V b, V c) { EACH_LANE(MULTIPLY_ADD(a[l], b[l], c[l])); }
INLINE V v_round(V a) { EACH_LANE(rintf(a[l])); }
INLINE V v_pow2(V n) { EACH_LANE(bits_to_float((uint32_t)((int)n[l] + 127) << 23)); }

INLINE V v_load_part(const float *p, int n) { EACH_LANE(l < n ? p[l] : 0); }
INLINE void v_store_part(float *p, V a, int n) { memcpy(p, &a, (size_t)n * sizeof *p); }
INLINE V v_load_f16_part(const uint8_t *p, int n) { EACH_LANE(l < n ? load_half(p + 2 * l) : 0); }
INLINE V v_load_bf16_part(const uint8_t *p, int n) {
    EACH_LANE(l < n ? bf16_to_float(load16(p + 2 * l)) : 0);
}
INLINE V v_load_f16(const uint8_t *p) { return v_load_f16_part(p, LANES); }
INLINE V v_load_bf16(const uint8_t *p) { return v_load_bf16_part(p, LANES); }
INLINE V v_load_i8(const int8_t *p) { EACH_LANE((float)p[l]); }

INLINE void v_turn(V r[LANES]) {
    float m[LANES][LANES], turned[LANES][LANES];
    memcpy(m, r, sizeof m);
    for (int i = 0; i < LANES; i++)
        for (int l = 0; l < LANES; l++) turned[i][l] = m[l][i];
    memcpy(r, turned, sizeof turned);
}
INLINE float v_fold(V a) {
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) a[l] += a[l + half];
    return a[0];
}
INLINE float v_fold_max(V a) {
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) a[l] = a[l] > a[l + half] ? a[l] : a[l + half];
    return a[0];
}

#include "attend.h" /* attend, exp_all, swiglu */

/* ------------------------------------------------------------------------------------------------
 * 2. matmul */

enum { DOT_TOKENS = 2 };
#include "floats.h" /* float_dots, float_pack */

enum { BUNCH = 16 }; /* tokens that meet a superblock of a row while it is unpacked */

/* Int8 path: a superblock of a row comes apart once and meets all tokens of a bunch. */
static void int8_row_plain(float *y, size_t y_stride, const Rounded *x, const uint8_t *row,
                           uint32_t type, int cols, int t0, int n) {
    float acc[BUNCH][8] = { { 0 } };
    const size_t in_super = (size_t)type_info(type)->block, bytes = (size_t)type_info(type)->bytes;
    for (size_t k0 = 0; k0 < (size_t)cols; k0 += SUPER) {
        int16_t code[SUPER];
        float d[8], m[8];
        size_t n_blocks = (size_t)cols - k0 < SUPER ? ((size_t)cols - k0) / 32 : 8;
        for (size_t k = 0; k < 32 * n_blocks; k += in_super, row += bytes)
            unpack_block(code + k, d + k / 32, m + k / 32, row, type);
        for (int t = 0; t < n; t++)
            for (size_t j = 0; j < n_blocks; j++) {
                size_t at = (size_t)(t0 + t) * x->padded + k0 + 32 * j;
                int dot = 0;
                for (size_t i = 0; i < 32; i++) dot += code[32 * j + i] * x->q[at + i];
                acc[t][j] = MULTIPLY_ADD((float)dot, d[j] * x->d[at / 32], acc[t][j]);
                if (has_min(type)) acc[t][j] = MULTIPLY_ADD(m[j], x->s[at / 32], acc[t][j]);
            }
    }
    for (int t = 0; t < n; t++) {
        for (int half = 4; half; half /= 2)
            for (int l = 0; l < half; l++) acc[t][l] += acc[t][l + half];
        y[(size_t)(t0 + t) * y_stride] = acc[t][0];
    }
}
void int8_rows_plain(float *y, size_t y_stride, const Rounded *x, const uint8_t *w, uint32_t type,
                     int rows, int cols) {
    size_t bytes = row_bytes(type, (size_t)cols);
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < x->n; t += BUNCH)
            int8_row_plain(y + r, y_stride, x, w + (size_t)r * bytes, type, cols, t,
                           x->n - t < BUNCH ? x->n - t : BUNCH);
}

/* ------------------------------------------------------------------------------------------------
 * 3. gemm */

#include "tile.h" /* TILE */

TILE(plain, 4, 8, 1, v_fma)

void turn_plain(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead) {
    (void)ahead;
    for (int k = 0; k < n; k++, out += step)
        for (int l = 0; l < GROUP; l++) out[l] = row[l][k];
}

static void copy_plain(float *out, size_t step, const float *in, size_t in_step, int n, int lanes) {
    for (int k = 0; k < n; k++, out += step, in += in_step)
        for (int l = 0; l < GROUP; l++) out[l] = l < lanes ? in[l] : 0;
}

static bool plain_here(void) { return true; }

const Kernels kernels_plain = { .name = "plain",
                                .here = plain_here,
                                .float_dots = float_dots,
                                .float_pack = float_pack,
                                .int8_rows = int8_rows_plain,
                                .tile = { 4, 16, tile_plain, 8, 8, chains_plain },
                                .turn = turn_plain,
                                .copy = copy_plain,
                                .attend = attend,
                                .exp_all = exp_all,
                                .swiglu = swiglu };
