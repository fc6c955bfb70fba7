/* matmul.c: y = x W^T for every storage type. A reader of the model may skip it: run.c needs no
 * more than this sentence.
 *
 * Nearly all the time of a language model goes into this one product. For a single token (decode)
 * every weight is read once and used once, so the speed is the memory's; for a prompt of n tokens
 * each weight that was fetched is used n times, so the speed is the arithmetic's. The same routines
 * serve both, a few rows of W and a few tokens of x at a time:
 *
 *               x: n tokens               A group of rows is unpacked once (to float32, or for the
 *             +-----------------+         int8 path to one byte each) and then meets all tokens,
 *      rows   |  t0 t1 t2 t3 .. |         TOKENS at a time. One accumulator of 16 lanes belongs
 *      of W   |  y  y  y  y     |  r0     to each (row, token), so that each y is summed the same
 *             |  y  y  y  y     |  r1     way whether n is 1 or 500.
 *             +-----------------+
 *
 * Summation order (float path): lane l of 16 takes k = l mod 16 in ascending k, then the lanes fold
 * 16 -> 8 -> 4 -> 2 -> 1. Int8 path, plain: blocks of 32 in index order; avx512: lane l takes bytes
 * 4l..4l+3 of each pair of blocks, pairs in index order, then the same fold. The order depends on
 * the level only: results are bit-equal for any number of threads and any batch, and agree between
 * levels within rounding. -ffp-contract=off keeps the compiler from fusing what the plain code
 * keeps apart.
 *
 * Two ways to multiply: the float path expands weights to float32 (exact for every type). The int8
 * path, for the types with blocks of 32, rounds x to int8 per block as well and uses integer dot
 * products: 4 times the throughput, error bounded by DESIGN 4; `exact` turns it off.
 *
 * The routines of each instruction set stand in cpu/. Test: tests/test_format.c (all types, odd
 * shapes, threads). Measure: make bench. */
#include "cpu/kernels.h" /* Group, Rounded, kernels */

#define TINY 1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */

static void round_token(const Rounded *r, int t, const float *x, int cols) {
    uint8_t *q = r->q + (size_t)t * r->padded;
    float *d = r->d + (size_t)t * r->padded / 32;
    d[r->padded / 32 - 1] = 0;
    for (int b = 0; b < cols; b += 32) {
        float largest = 0, bad = 0; /* bad: NaN as soon as one number is Inf or NaN */
        for (int i = 0; i < 32; i++) {
            largest = fmaxf(largest, fabsf(x[b + i]));
            bad += x[b + i] * 0;
        }
        float inverse = largest > TINY && bad == 0 ? 127 / largest : 0;
        d[b / 32] = largest / 127 + bad;
        for (int i = 0; i < 32; i++)
            q[b + i] = inverse > 0 ? (uint8_t)(rintf(x[b + i] * inverse) + 128) : 128;
    }
}

/* The rows of one group; float path: unpacked to float32 unless the level reads them directly. */
static void group_rows(Group *g, const Tensor *w, int r0, float *unpacked) {
    size_t cols = (size_t)w->cols, bytes = row_bytes(w->type, cols);
    g->n_rows = w->rows - r0 < ROWS ? w->rows - r0 : ROWS;
    g->type = unpacked ? T_F32 : w->type;
    for (int r = 0; r < g->n_rows; r++) {
        g->row[r] = w->data + (size_t)(r0 + r) * bytes;
        if (!unpacked) continue;
        float *out = unpacked + ((size_t)thread_number() * ROWS + (size_t)r) * cols;
        dequantize(out, g->row[r], w->type, 0, cols);
        g->row[r] = (const uint8_t *)out;
    }
}

/* y (n, rows) = x (n, cols) W^T. Threads share the groups of rows; each element of y is one
 * thread's work, which is why their number changes nothing. Tensors are aligned in the file
 * (gguf_place), so rows of float32 can be read in place. */
void matmul(float *y, const float *x, const Tensor *w, int n, bool exact) {
    const Kernels *level = kernels();
    size_t cols = (size_t)w->cols, padded = (cols + 63) / 64 * 64;
    bool int8 = type_info(w->type)->block == 32 && !exact;
    bool as_stored = int8 || w->type == T_F32 ||
                     (level->loads_halves && (w->type == T_F16 || w->type == T_BF16));
    float *unpacked = as_stored ? NULL : scratch(0, (size_t)thread_count() * ROWS * cols * 4);
    Rounded rounded = { NULL, NULL, padded };
    if (int8) {
        rounded.q = scratch(1, (size_t)n * padded);
        rounded.d = scratch(2, (size_t)n * padded / 8);
    }
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int t = 0; t < (int8 ? n : 0); t++)
            round_token(&rounded, t, x + (size_t)t * cols, w->cols);
#pragma omp for schedule(static)
        for (int r0 = 0; r0 < w->rows; r0 += ROWS) {
            Group g = { .cols = w->cols, .n = n, .y = y + r0, .y_stride = (size_t)w->rows };
            group_rows(&g, w, r0, unpacked);
            if (int8)
                level->int8_group(&g, &rounded);
            else
                level->float_group(&g, x);
        }
    }
}
