/* plain.c: the level that runs everywhere, in C that every compiler understands, and the twin that
 * the others are tested against. Sections: 1 the vocabulary, 2 matmul, 3 gemm. */
#include "kernels.h"
#pragma GCC diagnostic ignored "-Wpsabi" /* V as an argument: none of these calls is one */

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
INLINE V v_max(V a, V b) { EACH_LANE(a[l] > b[l] ? a[l] : b[l]); }
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

/* ------------------------------------------------------------------------------------------------
 * 2. matmul */

/* Folds 16 lanes: lane l takes l + 8, then l + 4, l + 2, l + 1. */
static float fold(float lane[16]) {
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* Float path. x: (n, cols); rows of float32. */
void float_group_plain(const Group *g, const float *x) {
    for (int t = 0; t < g->n; t++)
        for (int r = 0; r < g->n_rows; r++) {
            float lane[16] = { 0 };
            const float *a = x + (size_t)t * (size_t)g->cols;
            const float *b = (const float *)(const void *)g->row[r];
            int k = 0;
            for (; k + 16 <= g->cols; k += 16)
                for (int l = 0; l < 16; l++) lane[l] += a[k + l] * b[k + l];
            for (int l = 0; k + l < g->cols; l++) lane[l] += a[k + l] * b[k + l];
            g->y[(size_t)t * g->y_stride + (size_t)r] = fold(lane);
        }
}

/* Int8 path, rows of 32-blocks: the sum over blocks of
 * dx (d sum (code - offset) (q - 128)  +  m sum (q - 128)), inner sums in integers. */
static void int8_row_plain(const Group *g, const Rounded *x, int r) {
    size_t bytes = (size_t)type_info(g->type)->bytes;
    int offset = code_offset(g->type);
    for (int t = 0; t < g->n; t++) g->y[(size_t)t * g->y_stride + (size_t)r] = 0;
    for (size_t b = 0; b < (size_t)g->cols / 32; b++) {
        uint8_t code[32];
        float d, m;
        unpack_block(code, &d, &m, g->row[r] + b * bytes, g->type);
        for (int t = 0; t < g->n; t++) {
            const uint8_t *q = x->q + (size_t)t * x->padded + 32 * b;
            int dot = 0, sum = 0;
            for (int i = 0; i < 32; i++)
                dot += (code[i] - offset) * (q[i] - 128), sum += q[i] - 128;
            float dx = x->d[(size_t)t * x->padded / 32 + b];
            g->y[(size_t)t * g->y_stride + (size_t)r] += dx * (d * (float)dot + m * (float)sum);
        }
    }
}
void int8_group_plain(const Group *g, const Rounded *x) {
    for (int r = 0; r < g->n_rows; r++) int8_row_plain(g, x, r);
}

/* ------------------------------------------------------------------------------------------------
 * 3. gemm */

static void tile_plain(int kc, const float *a, const float *b, float *c, size_t stride, bool add) {
    float sum[4][16] = { { 0 } };
    for (int k = 0; k < kc; k++, a += 8, b += 16)
        for (int i = 0; i < 4; i++)
#pragma omp simd
            for (int j = 0; j < 16; j++) sum[i][j] = MULTIPLY_ADD(a[i], b[j], sum[i][j]);
    for (int i = 0; i < 4; i++, c += stride)
        for (int j = 0; j < 16; j++) c[j] = add ? c[j] + sum[i][j] : sum[i][j];
}

static float chains_plain(long steps) {
    float y[CHAINS][8], sum = 0;
    for (int i = 0; i < CHAINS * 8; i++) y[i / 8][i % 8] = (float)i;
    for (long s = 0; s < steps; s++)
        for (int c = 0; c < CHAINS; c++)
            for (int l = 0; l < 8; l++) y[c][l] = MULTIPLY_ADD(y[c][l], 0.999f, 0.001f);
    for (int i = 0; i < CHAINS * 8; i++) sum += y[i / 8][i % 8];
    return sum;
}

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
                                .float_group = float_group_plain,
                                .int8_group = int8_group_plain,
                                .tile = { 4, 16, tile_plain, 8, chains_plain },
                                .turn = turn_plain,
                                .copy = copy_plain };
