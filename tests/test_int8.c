/* test_int8.c: products of whole numbers (matmul.c, cpu/kernels.h section 3), against the same
 * formula written out here, on every level of this CPU.
 *
 * Every type x shapes that end within superblocks, panels and tiles x 1 to 96 tokens x threads: all
 * bit-equal, and within the rounding of x of the exact product. Codes and x at their extremes
 * cannot overflow; Inf and NaN come out as NaN, in their own row alone. */
#include "../cpu/kernels.h" /* unpack_block, has_min, matmul */
#include "test.h"

#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) (void)(n)
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const uint32_t TYPES[] = { T_Q4_0, T_Q4_1, T_Q5_0, T_Q5_1,  T_Q8_0,
                                  T_Q4_K, T_Q5_K, T_Q6_K, T_IQ4_NL };
static uint64_t state = 7;

static uint32_t random_bits(void) { return (uint32_t)(next_random(&state) >> 32); }
static float random_float(void) { return (float)random_bits() / 2147483648.0f - 1; }

/* Where a block of a type holds halves: the scale and, with a minimum, a second one. */
static void set_scales(uint8_t *block, uint32_t type, float d, float m) {
    uint16_t half = float_to_half(d);
    memcpy(block + (type == T_Q6_K ? 208 : 0), &half, 2);
    half = float_to_half(m);
    if (has_min(type)) memcpy(block + 2, &half, 2);
}

/* Random codes under random scales, or with `fill` >= 0 codes of equal bytes. The memory ends where
 * the matrix does, so that the address sanitizer sees a reader that goes too far. */
static Tensor make_matrix(uint32_t type, int rows, int cols, int fill) {
    Tensor w = { str_of("test"), type, rows, cols, NULL };
    size_t size = tensor_bytes(&w), bytes = (size_t)type_info(type)->bytes;
    uint8_t *data = xcalloc(size, 1, "matrix");
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(fill < 0 ? (int)(random_bits() >> 7) : fill);
    for (size_t i = 0; i < size; i += bytes)
        set_scales(data + i, type, 0.01f * random_float(), 0.1f * random_float());
    w.data = data;
    return w;
}

static void free_matrix(Tensor *w) { free((void *)(uintptr_t)w->data); }

static float *make_tokens(int n, int cols) {
    size_t size = (size_t)n * (size_t)cols;
    float *x = xcalloc(size, 4, "x");
    for (size_t i = 0; i < size; i++) x[i] = random_float() * (i % 97 == 0 ? 20 : 1);
    return x;
}

/* One product as kernels.h says it: eight chains of fused multiply-adds. */
static float one_product(const float *x, const Tensor *w, int row) {
    const size_t in_block = (size_t)type_info(w->type)->block;
    const uint8_t *p = w->data + (size_t)row * row_bytes(w->type, (size_t)w->cols);
    float acc[8] = { 0 }, d[8], m[8];
    int16_t code[256];
    for (size_t b = 0; b < (size_t)w->cols / 32; b++) {
        size_t part = b % (in_block / 32);
        int q[32], dot = 0, sum = 0;
        float largest = 0;
        unpack_block(code, d, m, p + 32 * b / in_block * (size_t)type_info(w->type)->bytes,
                     w->type);
        for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[32 * b + (size_t)i]));
        for (size_t i = 0; i < 32; i++) {
            q[i] = largest > 0 ? (int)rintf(x[32 * b + i] * (127 / largest)) : 0;
            dot += code[32 * part + i] * q[i];
            sum += q[i];
        }
        float dx = largest / 127;
        acc[b % 8] = fmaf((float)dot, d[part] * dx, acc[b % 8]);
        if (has_min(w->type)) acc[b % 8] = fmaf(m[part], dx * (float)sum, acc[b % 8]);
    }
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

/* want (n, rows): some of the rows only, for large matrices; y is compared at those. */
static int differences(const float *y, const float *x, const Tensor *w, int n, int every) {
    int differ = 0;
    for (int t = 0; t < n; t++)
        for (int r = t % every; r < w->rows; r += every) {
            float want = one_product(x + (size_t)t * (size_t)w->cols, w, r);
            float got = y[(size_t)t * (size_t)w->rows + (size_t)r];
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
            differ += memcmp(&want, &got, 4) != 0;
#else /* plain has no fused multiply-add, and so rounds more often */
            differ += !(fabsf(want - got) <= 1e-4f + 1e-5f * fabsf(want));
#endif
        }
    return differ;
}

static void test_shape(uint32_t type, int rows, int cols, const int *batch, size_t n_batch) {
    int most = 0, differ = 0, threads_differ = 0, every = rows > 1000 ? 97 : 1;
    for (size_t i = 0; i < n_batch; i++) most = batch[i] > most ? batch[i] : most;
    Tensor w = make_matrix(type, rows, cols, -1);
    float *x = make_tokens(most, cols);
    size_t size = (size_t)most * (size_t)rows;
    float *y = xcalloc(size, 4, "y"), *other = xcalloc(size, 4, "y");
    for (size_t b = 0; b < n_batch; b++) {
        size_t bytes = 4 * (size_t)batch[b] * (size_t)rows;
        memset(y, 0xff, bytes); /* NaN: what is not written shows */
        memset(other, 0xff, bytes);
        omp_set_num_threads(2);
        matmul(y, x, &w, batch[b], false);
        omp_set_num_threads(b % 2 ? 3 : 1);
        matmul(other, x, &w, batch[b], false);
        differ += differences(y, x, &w, batch[b], every);
        threads_differ += memcmp(y, other, bytes) != 0;
    }
    check(!differ && !threads_differ, "not bit-equal", "int8 %s %s %d x %d (%d, %d differ)",
          matmul_level(), type_name(type), rows, cols, differ, threads_differ);
    free_matrix(&w);
    free(x);
    free(y);
    free(other);
}

static void test_shapes(uint32_t type) {
    static const int batch[] = { 1, 2, 3, 8, 9, 13, 33, 96 }, few[] = { 1, 2, 13 };
    static const int tiles[] = { 13, 17, 33 }; /* whole ones and a rest, for tiles of 6 and of 16 */
    int block = type_info(type)->block;
    test_shape(type, 66, block == 32 ? 288 : 512, tiles, COUNT(tiles));
    if (small_tests()) {
        test_shape(type, 33, 3 * block, few, COUNT(few));
        test_shape(type, 2, block == 32 ? 2240 : 2304, few, COUNT(few));
        return;
    }
    test_shape(type, 1, block, batch, COUNT(batch));
    test_shape(type, 33, 3 * block, batch, COUNT(batch));
    test_shape(type, 19, block == 32 ? 2240 : 2304, batch, COUNT(batch));
    test_shape(type, 5, 6144, batch, COUNT(batch));
    test_shape(type, 96640, block, few, COUNT(few));
}

/* All codes equal, x +-1 everywhere, in step with the codes' signs or not. */
static void test_extremes(uint32_t type) {
    static const int fill[] = { 0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0 };
    enum { N = 14, COLS = 512 };
    float x[N * COLS], y[N * 17];
    int differ = 0;
    for (size_t i = 0; i < COUNT(fill); i++) {
        Tensor w = make_matrix(type, 17, COLS, fill[i]);
        for (int e = 0; e < N * COLS; e++) {
            int t = e / COLS;
            x[e] = t == 0              ? 1
                   : t == 1            ? -1
                   : t == 2            ? (e % 2 ? 1 : -1)
                   : random_bits() & 1 ? 1
                                       : -1;
        }
        matmul(y, x, &w, N, false);
        differ += differences(y, x, &w, N, 1);
        for (int t = 0; t < N; t++) {
            matmul(y, x + t * COLS, &w, 1, false);
            differ += differences(y, x + t * COLS, &w, 1, 1);
        }
        free_matrix(&w);
    }
    check(!differ, "sums overflow", "int8 %s %s: codes and x at their extremes (%d differ)",
          matmul_level(), type_name(type), differ);
}

/* One bad number makes its token's products NaN and leaves the others as they are; tiny and zero
 * blocks are zeros. */
static void test_bad_numbers(uint32_t type) {
    enum { N = 14, COLS = 512, ROWS_HERE = 17 };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    Tensor w = make_matrix(type, ROWS_HERE, COLS, -1);
    float y[N * ROWS_HERE];
    int wrong = 0;
    for (int n = 1; n <= N; n += N - 1) {
        float *x = make_tokens(N, COLS);
        for (int i = 0; i < 3 && n > 1; i++) x[(3 * i + 2) * COLS + 100 * i] = bad[i];
        memset(x + 4 * COLS, 0, 4 * COLS);
        for (int i = 0; i < COLS; i++) x[6 * COLS + i] *= 1e-38f;
        if (n == 1) x[7] = bad[1];
        matmul(y, x, &w, n, false);
        for (int i = 0; i < n * ROWS_HERE; i++) {
            int t = i / ROWS_HERE;
            bool nan = n == 1 || t == 2 || t == 5 || t == 8, zero = n > 1 && t == 4;
            wrong += isnan(y[i]) != nan || (zero && y[i] != 0) || (t == 6 && fabsf(y[i]) > 1e-30f);
        }
        free(x);
    }
    check(!wrong, "found elsewhere", "int8 %s %s: Inf and NaN become NaN in their row (%d wrong)",
          matmul_level(), type_name(type), wrong);
    free_matrix(&w);
}

/* A scale or minimum that is no number spoils its own row, also where the row before ends within a
 * superblock and the kernel reads on. */
static void test_bad_scales(uint32_t type) {
    enum { N = 13, ROWS_HERE = 17, BAD = 6 };
    static const int batch[] = { 1, 2, N };
    const int cols = type_info(type)->block == 32 ? 288 : 512;
    int wrong = 0;
    for (size_t b = 0; b < COUNT(batch); b++)
        for (int minimum = 0; minimum <= has_min(type); minimum++) {
            Tensor w = make_matrix(type, ROWS_HERE, cols, -1);
            const int n = batch[b];
            float y[N * ROWS_HERE], *x = make_tokens(n, cols);
            uint8_t *row = (uint8_t *)(uintptr_t)w.data + BAD * row_bytes(type, (size_t)cols);
            set_scales(row, type, minimum ? 1 : INFINITY, minimum ? NAN : 1);
            matmul(y, x, &w, n, false);
            for (int i = 0; i < n * ROWS_HERE; i++)
                wrong += !isfinite(y[i]) != (i % ROWS_HERE == BAD);
            free(x);
            free_matrix(&w);
        }
    check(!wrong, "found elsewhere", "int8 %s %s: bad scales stay in their row (%d wrong)",
          matmul_level(), type_name(type), wrong);
}

/* Against the product with x as it is: x is rounded by at most dx / 2 = largest / 254. */
static void test_bound(uint32_t type) {
    enum { COLS = 512, ROWS_HERE = 8 };
    Tensor w = make_matrix(type, ROWS_HERE, COLS, -1);
    float *x = make_tokens(1, COLS), row[COLS], y[ROWS_HERE];
    int far = 0;
    matmul(y, x, &w, 1, false);
    for (size_t r = 0; r < ROWS_HERE; r++) {
        double exact = 0, bound = 0;
        dequantize(row, w.data + r * row_bytes(type, COLS), type, 0, COLS);
        for (int b = 0; b < COLS; b += 32) {
            float largest = 0;
            for (int i = b; i < b + 32; i++) largest = fmaxf(largest, fabsf(x[i]));
            for (int i = b; i < b + 32; i++) {
                exact += (double)row[i] * (double)x[i];
                bound += fabs((double)row[i]) * (double)largest / 253;
            }
        }
        far += !(fabs((double)y[r] - exact) <= bound);
    }
    check(!far, "some are not", "int8 %s %s: within the rounding of x", matmul_level(),
          type_name(type));
    free(x);
    free_matrix(&w);
}

int main(void) {
    static const char *levels[] = { LEVEL_NAMES };
    for (size_t l = small_tests(); l < COUNT(levels); l++)
        for (size_t i = 0; i < COUNT(TYPES) && matmul_choose(levels[l]); i++) {
            test_shapes(TYPES[i]);
            test_extremes(TYPES[i]);
            test_bad_numbers(TYPES[i]);
            test_bad_scales(TYPES[i]);
            test_bound(TYPES[i]);
        }
    return test_end();
}
