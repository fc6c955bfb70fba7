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
 * Summation order (float path): chain l of the level's LANES takes k = l mod LANES in ascending k,
 * then the chains are added in order (cpu/floats.h). Int8 path, plain: blocks of 32 in index order;
 * avx512: lane l takes bytes 4l..4l+3 of each pair of blocks, pairs in index order, then the lanes
 * fold 16 -> 8 -> 4 -> 2 -> 1. The order depends on the level only: results are bit-equal for any
 * number of threads and any batch, and agree between levels within rounding. -ffp-contract=off
 * keeps the compiler from fusing what the plain code keeps apart.
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

/* ------------------------------------------------------------------------------------------------
 * The float path (cpu/floats.h) */

enum {
    PANELS_FROM = 11,  /* tokens; for fewer, making panels costs more than it saves */
    TOKEN_BLOCK = 504, /* tokens that are panels at once: a multiple of every level's tile */
    PIECE = 512,       /* numbers of a row that are expanded at once, a multiple of 256 */
    CHUNK = 16,        /* rows of W that are a job for few tokens */
    BLOCK = 2          /* panels of W that a thread multiplies with all tokens */
};

static size_t at_most(size_t n, size_t limit) { return n < limit ? n : limit; }
static size_t pieces(size_t n, size_t size) { return (n + size - 1) / size; }
static bool float_type(const Tensor *w) { return type_info(w->type)->block == 1; }

/* Numbers [from, from + n) of `count` rows from r on, as float32. */
static void expand(float *out, const Tensor *w, size_t r, size_t count, size_t from, size_t n) {
    size_t bytes = row_bytes(w->type, (size_t)w->cols);
    for (size_t i = 0; i < count; i++)
        dequantize(out + i * n, w->data + (r + i) * bytes, w->type, from, n);
}

/* Few tokens: W is read as it stands, some rows at a time. */
static void float_few(float *y, const float *x, const Tensor *w, int n, bool pairs) {
    const size_t rows = (size_t)w->rows, cols = (size_t)w->cols, bytes = row_bytes(w->type, cols);
    const bool direct = float_type(w);
    float *expanded = direct ? NULL : scratch(0, (size_t)thread_count() * CHUNK * cols * 4);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r += CHUNK) {
        int count = (int)at_most(CHUNK, rows - r);
        FloatRows j = { w->data + r * bytes, bytes, w->type, count, w->cols, n, x, y + r, rows };
        if (!direct) {
            float *mine = expanded + (size_t)thread_number() * CHUNK * cols;
            expand(mine, w, r, (size_t)count, 0, cols);
            j.rows = (const uint8_t *)mine;
            j.row_bytes = 4 * cols;
            j.type = T_F32;
        }
        (pairs ? kernels()->pair_dots : kernels()->float_dots)(&j);
    }
}

/* The rows of W from r on as a panel; `expanded` has room for PIECE numbers of each. */
static void pack_weights(float *panel, const Tile *tile, const Tensor *w, size_t r,
                         float *expanded) {
    const size_t cols = (size_t)w->cols, lanes = (size_t)tile->lanes, width = (size_t)tile->cols;
    const size_t count = at_most(width, (size_t)w->rows - r), bytes = row_bytes(w->type, cols);
    Pack p = { .out = panel, .chain = pieces(cols, lanes) * width, .width = tile->cols };
    p.n_rows = (int)count;
    for (size_t k = 0, n; k < cols; k += n, p.out += n / lanes * width) {
        n = float_type(w) ? cols : at_most(PIECE, cols - k);
        p.rows = float_type(w) ? w->data + r * bytes : (const uint8_t *)expanded;
        p.row_bytes = float_type(w) ? bytes : 4 * n;
        p.type = float_type(w) ? w->type : T_F32;
        p.cols = (int)n;
        if (!float_type(w)) expand(expanded, w, r, count, k, n);
        kernels()->float_pack(&p);
    }
}

/* What is common to all blocks of one product with many tokens. Panels of x: (tiles, lanes, steps,
 * slots); of W: (BLOCK, lanes, steps, width). */
typedef struct {
    const Tile *tile;
    const Tensor *w;
    size_t n, tokens; /* tokens, and with those that fill the last tile */
    size_t steps;     /* of a chain ... */
    int kc;           /* ... and what tile->run calls them: two k a step if they are pairs */
    float *x_panels;
    float *y;
} Many;

/* Rows [r, r + count) of W: their panels; then sums (tokens, width) chain by chain, into y. */
static void float_block(const Many *m, size_t r, size_t count, float *panels) {
    const Tile *tile = m->tile;
    const size_t rows = (size_t)m->w->rows, width = (size_t)tile->cols, high = (size_t)tile->rows;
    const size_t lanes = (size_t)tile->lanes, slots = (size_t)tile->slots;
    const size_t blocks = pieces(count, width), panel = m->steps * lanes * width;
    float *sums = panels + BLOCK * panel, *expanded = sums + BLOCK * width * m->tokens;
    for (size_t b = 0; b < blocks; b++)
        pack_weights(panels + b * panel, tile, m->w, r + b * width, expanded);
    const size_t bytes = count * row_bytes(m->w->type, (size_t)m->w->cols);
    const size_t share = bytes / (lanes * (m->tokens / high) * blocks) + 1;
    uintptr_t next = (uintptr_t)m->w->data + (r / count + (size_t)thread_count()) * bytes;
    for (size_t l = 0; l < lanes; l++)
        for (size_t t = 0; t < m->tokens; t += high)
            for (size_t b = 0; b < blocks; b++, next += share) {
                const float *x = m->x_panels + (t / high * lanes + l) * m->steps * slots;
                float *sum = sums + (b * m->tokens + t) * width;
                for (size_t i = 0; i < share; i += 64) /* what this thread will pack next */
                    __builtin_prefetch((const void *)(next + i), 0, 2);
                tile->run(m->kc, x, panels + b * panel + l * m->steps * width, sum, width, l > 0);
            }
    for (size_t b = 0; b < blocks; b++)
        for (size_t t = 0; t < m->n; t++)
            memcpy(m->y + t * rows + r + b * width, sums + (b * m->tokens + t) * width,
                   at_most(width, rows - r - b * width) * 4);
}

/* Many tokens: first panels of x, shared by all; then each thread takes blocks of rows. */
static void float_many(float *y, const float *x, const Tensor *w, size_t n, bool pairs) {
    const Tile *tile = pairs ? &kernels()->bf16 : &kernels()->tile;
    const size_t rows = (size_t)w->rows, cols = (size_t)w->cols, lanes = (size_t)tile->lanes;
    const size_t steps = pieces(cols, lanes), width = (size_t)tile->cols, high = (size_t)tile->rows;
    const size_t tokens = pieces(n, high) * high, slots = (size_t)tile->slots;
    const size_t own = BLOCK * width * (steps * lanes + tokens) + width * PIECE;
    size_t block = BLOCK;
    while (block > 1 && rows < 4 * (size_t)thread_count() * block * width) block /= 2;
    float *memory = scratch(0, (size_t)thread_count() * own * 4);
    const Many m = { .tile = tile,
                     .w = w,
                     .n = n,
                     .tokens = tokens,
                     .steps = steps,
                     .kc = (int)steps * (pairs ? 2 : 1),
                     .x_panels = scratch(1, tokens / high * steps * lanes * slots * 4),
                     .y = y };
#pragma omp parallel
    {
        float *mine = memory + (size_t)thread_number() * own;
#pragma omp for schedule(static)
        for (size_t t = 0; t < n; t += high)
            kernels()->float_pack(&(Pack){ m.x_panels + t / high * steps * lanes * slots,
                                           steps * slots, (int)slots,
                                           (const uint8_t *)(x + t * cols), 4 * cols, T_F32,
                                           (int)at_most(high, n - t), w->cols });
#pragma omp for schedule(dynamic)
        for (size_t r = 0; r < rows; r += block * width)
            float_block(&m, r, at_most(block * width, rows - r), mine);
    }
}

/* Rows of bfloat16 as rows of pairs, x rounded to pairs: on levels that multiply them as such. */
static const float *take_pairs(Tensor *w, const float *x, size_t n) {
    const size_t cols = (size_t)w->cols;
    uint8_t *rounded = scratch(2, n * cols * 2);
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < n; t++) quantize(rounded + t * cols * 2, x + t * cols, T_BF16, cols);
    w->type = T_F32;
    w->cols /= 2;
    return (const float *)(const void *)rounded;
}

static void float_product(float *y, const float *x, const Tensor *weights, int n, bool exact) {
    Tensor w = *weights;
    const bool pairs =
        w.type == T_BF16 && w.cols % 2 == 0 && !exact && kernels()->pair_dots != NULL;
    if (pairs) x = take_pairs(&w, x, (size_t)n);
    if (n < PANELS_FROM) {
        float_few(y, x, &w, n, pairs);
        return;
    }
    const size_t all = (size_t)n, cols = (size_t)w.cols, rows = (size_t)w.rows;
    for (size_t t = 0; t < all; t += TOKEN_BLOCK)
        float_many(y + t * rows, x + t * cols, &w, at_most(TOKEN_BLOCK, all - t), pairs);
}

/* y (n, rows) = x (n, cols) W^T. Threads share the groups of rows; each element of y is one
 * thread's work, which is why their number changes nothing. Tensors are aligned in the file
 * (gguf_place), so rows of float32 can be read in place. */
void matmul(float *y, const float *x, const Tensor *w, int n, bool exact) {
    const Kernels *level = kernels();
    size_t cols = (size_t)w->cols, padded = (cols + 63) / 64 * 64;
    bool int8 = type_info(w->type)->block == 32 && !exact;
    if (!int8) {
        float_product(y, x, w, n, exact);
        return;
    }
    Rounded rounded = { NULL, NULL, padded };
    rounded.q = scratch(1, (size_t)n * padded);
    rounded.d = scratch(2, (size_t)n * padded / 8);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int t = 0; t < n; t++) round_token(&rounded, t, x + (size_t)t * cols, w->cols);
#pragma omp for schedule(static)
        for (int r0 = 0; r0 < w->rows; r0 += ROWS) {
            Group g = { .cols = w->cols, .n = n, .y = y + r0, .y_stride = (size_t)w->rows };
            g.n_rows = w->rows - r0 < ROWS ? w->rows - r0 : ROWS;
            g.type = w->type;
            for (int r = 0; r < g.n_rows; r++)
                g.row[r] = w->data + (size_t)(r0 + r) * row_bytes(w->type, cols);
            level->int8_group(&g, &rounded);
        }
    }
}
