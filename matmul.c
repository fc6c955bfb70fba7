/* matmul.c: y = x W^T for every storage type. A reader of the model may skip it: run.c needs no
 * more than this sentence.
 *
 * Nearly all the time of a language model goes into this one product. For a single token (decode)
 * every weight is read once and used once, so the speed is the memory's; for a prompt of n tokens
 * each weight that was fetched is used n times, so the speed is the arithmetic's. Two ways to
 * multiply: the float path expands weights to float32 (exact for every type). The int8 path, for
 * the types that store blocks, rounds x to 8 bits as well and multiplies whole numbers: 4 times the
 * throughput, error bounded by DESIGN 4; `exact` turns it off. In the int8 path the two uses are:
 *
 *   decode: rows as stored, 8 blocks at a time     prompt: 16 rows at a time are copied into a
 *                                                  panel, whose lanes are rows; then
 *     row  |b0|b1|b2|b3|b4|b5|b6|b7|b8|...
 *            .  .  .  .  .  .  .  .                             t0   t1   t2   t3   tokens
 *      x   |b0|b1|b2|b3|b4|b5|b6|b7|b8|...           k   r0..7  ::   ::   ::   ::   a number of x
 *            =  =  =  =  =  =  =  =                      r8..15 ::   ::   ::   ::   meets 8 rows
 *     sums |s0|s1|s2|s3|s4|s5|s6|s7|                 k+1 r0..7  ::   ::   ::   ::   at once, and
 *          times scales, into 8 lanes = chains           r8..15 ::   ::   ::   ::   no lanes are
 *                                                    :                              summed
 *
 * Summation order. Int8: sums of 32 products are exact integers; they enter 8 chains of float32
 * multiply-adds, block b in chain b mod 8, which fold 8 -> 4 -> 2 -> 1 (cpu/kernels.h). The same on
 * every level, so levels with fused multiply-adds are bit-equal. Float path: lane l of the level's
 * vectors takes k = l mod LANES in ascending k, and the lanes are added from 0 on (cpu/floats.h).
 * Results are bit-equal for any number of threads and any batch. -ffp-contract=off keeps the
 * compiler from fusing what the plain code keeps apart.
 *
 * The routines of each instruction set stand in cpu/. Sections: 1 to 3 the int8 path, 4 the float
 * path, 5 matmul. Test: tests/test_format.c (all types, odd shapes, threads), tests/test_int8.c.
 * Measure: make bench-matmul. */
#include "cpu/kernels.h" /* FloatRows, Pack, Rounded, kernels */

static size_t at_most(size_t n, size_t limit) { return n < limit ? n : limit; }
static size_t pieces(size_t n, size_t size) { return (n + size - 1) / size; }

enum { DEAL = 32, DEAL_BYTES = 512 << 10 }; /* of rows_at_once: rows; bytes */

/* Rows of W that a thread takes at a time where each is read once: many, as what a beginning waits
 * for is then little beside what is read. They are DEAL_BYTES, but at least a sixteenth of the
 * thread's part of W (large files are read faster so: bench/notes.md), at most a quarter of it, so
 * that there is something to deal, and never less than DEAL rows. Shares are equal but for the
 * last, and their number is a multiple of the threads', so that none idles at the end. */
static size_t rows_at_once(const Tensor *w) {
    const size_t rows = (size_t)w->rows, threads = (size_t)thread_count();
    size_t most = DEAL_BYTES / row_bytes(w->type, (size_t)w->cols);
    if (most < rows / (16 * threads)) most = rows / (16 * threads);
    most = at_most(most, rows / (4 * threads));
    if (most < DEAL) most = DEAL;
    return pieces(rows, threads * pieces(rows, threads * most));
}

/* ------------------------------------------------------------------------------------------------
 * 1. Int8 path: x is rounded to whole numbers */

#define TINY 1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */

/* Finds d = largest magnitude / 127 and q, x / d rounded, of 32 numbers; returns d. An Inf or NaN
 * among them makes d NaN, and with it every product of the row. */
static float round_block(int q[32], const float *x) {
    uint32_t most = 0;
    for (int i = 0; i < 32; i++) { /* magnitudes are ordered as their bits are */
        uint32_t magnitude = float_to_bits(x[i]) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    float largest = bits_to_float(most), inverse = 127 / largest;
    if (!(largest > TINY && largest < INFINITY)) inverse = 0;
    for (int i = 0; i < 32; i++) q[i] = (int)rintf(inverse > 0 ? x[i] * inverse : 0);
    return largest < INFINITY ? largest / 127 : NAN;
}

/* A superblock of x: q, the sums of each 16 q, d and d times the sum of each 32 q. Where x has only
 * n numbers left, zeros follow. */
static void round_super(int8_t *q, int16_t *half, float *d, float *s, const float *x, size_t n) {
    for (size_t b = 0; b < SUPER / 32; b++, q += 32) {
        int whole[32] = { 0 }, first = 0, second = 0;
        d[b] = 32 * b < n ? round_block(whole, x + 32 * b) : 0;
        for (int i = 0; i < 32; i++) q[i] = (int8_t)whole[i];
        for (int i = 0; i < 16; i++) first += whole[i];
        for (int i = 16; i < 32; i++) second += whole[i];
        half[2 * b] = (int16_t)first;
        half[2 * b + 1] = (int16_t)second;
        s[b] = d[b] * (float)(first + second);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Int8 path: a token, or a few */

static Rounded rounded_memory(int n, size_t cols) {
    Rounded r = { .n = n, .padded = (cols + SUPER - 1) / SUPER * SUPER };
    size_t numbers = (size_t)n * r.padded;
    r.d = scratch(1, numbers / 32 * 4 * 2 + numbers / 16 * 2 + 2 * numbers);
    r.s = r.d + numbers / 32;
    r.half = (int16_t *)(void *)(r.s + numbers / 32);
    r.q = (int8_t *)(void *)(r.half + numbers / 16);
    r.paired = r.q + numbers;
    return r;
}

static void round_token(const Rounded *r, size_t t, const float *x, size_t cols) {
    for (size_t k = 0; k < r->padded; k += SUPER) {
        size_t at = t * r->padded + k;
        round_super(r->q + at, r->half + at / 16, r->d + at / 32, r->s + at / 32, x + t * cols + k,
                    cols - k);
        for (size_t i = at; i < at + SUPER; i += 16)
            memcpy(r->paired + (i / 64 * 64 + i / 16 % 2 * 32 + i / 32 % 2 * 16), r->q + i, 16);
    }
}

static void int8_few(float *y, const float *x, const Tensor *w, int n) {
    size_t cols = (size_t)w->cols, bytes = row_bytes(w->type, cols);
    Rounded r = rounded_memory(n, cols);
    Int8Rows *rows = kernels()->int8_rows;
    const int deal = (int)rows_at_once(w);
    if (n == 1) {
        round_token(&r, 0, x, cols); /* sooner done alone than shared out and waited for */
    } else {
#pragma omp parallel for schedule(static)
        for (int t = 0; t < n; t++) round_token(&r, (size_t)t, x, cols);
    }
#pragma omp parallel for schedule(dynamic)
    for (int r0 = 0; r0 < w->rows; r0 += deal)
        rows(y + r0, (size_t)w->rows, &r, w->data + (size_t)r0 * bytes, w->type,
             w->rows - r0 < deal ? w->rows - r0 : deal, w->cols);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Int8 path: a prompt, in panels (cpu/kernels.h) */

enum {
    FEW = 8,   /* so many tokens or less take the rows as they are stored */
    MEET = 64, /* tokens that meet a panel of W while it is in the cache */
    MOST_ROWS = 64,
    MOST_TOKENS = 16 /* of a level's tile */
};

typedef struct {
    const Panels *level;
    const Tensor *w;
    int n;                   /* tokens */
    size_t rows, tokens;     /* of a tile */
    size_t steps, places;    /* dwords of a block, blocks of a chain */
    size_t w_block, x_block; /* bytes */
    size_t w_chain, x_chain; /* bytes of a chain of one tile */
    size_t tiles;            /* of tokens */
    size_t share;            /* lines of the next panel's rows to fetch with every tile */
} Product;

static Product product_of(const Tensor *w, int n) {
    const Panels *level = &kernels()->panels;
    Product p = { .level = level, .w = w, .n = n };
    p.rows = (size_t)level->rows;
    p.tokens = (size_t)level->tokens;
    p.steps = level->words(w->type) ? 16 : 8;
    p.places = ((size_t)w->cols + SUPER - 1) / SUPER;
    p.w_block = (p.steps + 2) * 4 * p.rows;
    p.x_block = (p.steps + 3) * 4 * p.tokens;
    p.w_chain = p.places * p.w_block;
    p.x_chain = p.places * p.x_block;
    p.tiles = ((size_t)n + p.tokens - 1) / p.tokens;
    p.share = row_bytes(w->type, (size_t)w->cols) * p.rows / (64 * 8 * p.tiles) + 1;
    return p;
}

/* Superblock i of token t, behind the last token zeros, into its lanes of x in tiles: chain after
 * chain, and in each the tiles in order, which is how they will be read. */
static void pack_token(uint8_t *tiles, const Product *p, const float *x, size_t t, size_t i) {
    static const int16_t in_even[32] = { 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0,
                                         1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0 };
    int8_t q[SUPER];
    int16_t half[SUPER / 16], wide[SUPER];
    float d[SUPER / 32], s[SUPER / 32];
    size_t cols = (size_t)p->w->cols, k = i * SUPER, step = 4 * p->tokens;
    bool there = t < (size_t)p->n;
    round_super(q, half, d, s, there ? x + t * cols + k : NULL, there ? cols - k : 0);
    for (int e = 0; e < SUPER; e++) wide[e] = q[e];
    const uint8_t *in = p->steps == 16 ? (const uint8_t *)wide : (const uint8_t *)q;
    for (size_t j = 0; j < SUPER / 32; j++) {
        uint8_t *out = tiles + (j * p->tiles + t / p->tokens) * p->x_chain + i * p->x_block +
                       4 * (t % p->tokens);
        int all = half[2 * j] + half[2 * j + 1], even = 0;
        for (size_t e = 0; e < 32; e++) even += wide[32 * j + e] * in_even[e];
        uint32_t start = p->level->start ? p->level->start(even, all - even, p->w->type) : 0;
        for (size_t l = 0; l < p->steps; l++, in += 4, out += step) memcpy(out, in, 4);
        memcpy(out, &start, 4);
        memcpy(out + step, &d[j], 4);
        memcpy(out + 2 * step, &s[j], 4);
    }
}

/* One panel of rows, w, of which the first is row r0, times the tiles of tokens [first, behind).
 * The chains come in the order 0 4 2 6 1 5 3 7: the fold 8 -> 4 -> 2 -> 1 adds 0 to 4, 2 to 6,
 * these two sums, and so on, and so only three sums are ever open, of one, two and four chains. A
 * chain is added to those that it closes; the last one closes all, and the result goes to y, of a
 * tile that is not whole by way of `border`. */
static void panel_tiles(float *y, const Product *p, const uint8_t *w, const uint8_t *x, size_t r0,
                        size_t first, size_t behind, uintptr_t *next) {
    static const size_t chain[8] = { 0, 4, 2, 6, 1, 5, 3, 7 };
    static const int closes[8] = { 0, 1, 0, 2, 0, 1, 0, ALL_OPEN };
    float open[ALL_OPEN][MEET * MOST_ROWS], border[MOST_ROWS * MOST_TOKENS];
    const size_t rows = (size_t)p->w->rows, here = at_most(p->rows, rows - r0);
    for (int c = 0; c < 8; c++)
        for (size_t tile = first; tile < behind; tile++) {
            const size_t at = (tile - first) * p->rows * p->tokens, t = tile * p->tokens;
            const size_t tokens = at_most(p->tokens, (size_t)p->n - t);
            const bool last = closes[c] == ALL_OPEN, whole = here == p->rows && tokens == p->tokens;
            float *to = last ? whole ? y + t * rows + r0 : border : open[closes[c]] + at;
            const Chain j = { .w = w + chain[c] * p->w_chain,
                              .x = x + (chain[c] * p->tiles + tile) * p->x_chain,
                              .blocks = (int)p->places,
                              .type = p->w->type,
                              .sum = to,
                              .stride = last && whole ? rows : p->rows,
                              .open = { open[0] + at, open[1] + at, open[2] + at },
                              .n_open = closes[c] };
            for (size_t i = 0; i < p->share; i++, *next += 64)
                __builtin_prefetch((const void *)*next, 0, 2);
            p->level->tile(&j);
            for (size_t i = 0; last && !whole && i < tokens; i++)
                memcpy(y + (t + i) * rows + r0, border + i * p->rows, 4 * here);
        }
}

/* The rows from r0 on of one panel, w, for all tokens, x. */
static void panel_rows(float *y, const Product *p, const uint8_t *w, const uint8_t *x, size_t r0) {
    const size_t together = MEET / p->tokens;
    uintptr_t next = (uintptr_t)p->w->data + (r0 + (size_t)thread_count() * p->rows) *
                                                 row_bytes(p->w->type, (size_t)p->w->cols);
    for (size_t tile = 0; tile < p->tiles; tile += together)
        panel_tiles(y, p, w, x, r0, tile, at_most(tile + together, p->tiles), &next);
}

static void int8_prompt(float *y, const float *x, const Tensor *w, int n) {
    const Product p = product_of(w, n);
    size_t stride = row_bytes(w->type, (size_t)w->cols);
    uint8_t *tokens = scratch(1, 8 * p.tiles * p.x_chain);
    uint8_t *panels = scratch(2, (size_t)thread_count() * 8 * p.w_chain);
#pragma omp parallel
    {
        uint8_t *panel = panels + (size_t)thread_number() * 8 * p.w_chain;
#pragma omp for schedule(static)
        for (size_t at = 0; at < p.tiles * p.tokens * p.places; at++) {
            size_t t = at / p.places;
            pack_token(tokens, &p, x, t, at % p.places);
        }
#pragma omp for schedule(dynamic) nowait
        for (size_t r0 = 0; r0 < (size_t)w->rows; r0 += p.rows) {
            int here = w->rows - (int)r0 < (int)p.rows ? w->rows - (int)r0 : (int)p.rows;
            p.level->pack(panel, w->data + r0 * stride, stride, w->type, here, w->cols);
            panel_rows(y, &p, panel, tokens, r0);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * 4. Float path (cpu/floats.h) */

enum {
    PANELS_FROM = 11,  /* tokens; for fewer, making panels costs more than it saves */
    TOKEN_BLOCK = 512, /* tokens that are panels at once, at most; 5 MB for 2240 columns */
    PIECE = 512,       /* numbers of a row that are expanded at once, a multiple of 256 */
    BLOCK = 2          /* panels of W that a thread multiplies with all tokens */
};

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
    const size_t deal = direct ? rows_at_once(w) : DEAL;
    float *expanded = direct ? NULL : scratch(0, (size_t)thread_count() * DEAL * cols * 4);
#pragma omp parallel for schedule(dynamic)
    for (size_t r = 0; r < rows; r += deal) {
        int count = (int)at_most(deal, rows - r);
        FloatRows j = { w->data + r * bytes, bytes, w->type, count, w->cols, n, x, y + r, rows };
        if (!direct) {
            float *mine = expanded + (size_t)thread_number() * DEAL * cols;
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
    const size_t block = pieces(all, pieces(all, TOKEN_BLOCK)); /* equal ones */
    for (size_t t = 0; t < all; t += block)
        float_many(y + t * rows, x + t * cols, &w, at_most(block, all - t), pairs);
}

/* ------------------------------------------------------------------------------------------------
 * 5. matmul */

/* y (n, rows) = x (n, cols) W^T. Each element of y is one thread's work, which is why their number
 * changes nothing. */
void matmul(float *y, const float *x, const Tensor *w, int n, bool exact) {
    bool int8 = type_info(w->type)->block > 1 && !exact;
    if (!int8)
        float_product(y, x, w, n, exact);
    else if (n <= FEW || !kernels()->panels.rows)
        int8_few(y, x, w, n);
    else
        int8_prompt(y, x, w, n);
}
