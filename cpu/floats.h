/* floats.h: the float path of matmul, in the vocabulary of the level that includes it.
 *
 * The order of a sum: chain l of LANES takes k = l, l + LANES, l + 2 LANES, .. by fused
 * multiply-adds from 0 on, and the chains are added one after the other. Two ways to come to it:
 *
 *   few tokens: a chain is a lane                many tokens: a lane is a row of W
 *   row r   | w w w w w w w w |w w w ..          k = 0, 8, 16 ..   | w w w w w w w w |  of 8 rows
 *   token t | x x x x x x x x |x x x ..            * x  each k by itself, a tile of C (tile.h)
 *   sum     | 0 1 2 3 4 5 6 7 |  chains          k = 1, 9, 17 ..   chain by chain, C += its sum
 *
 * On the left, W is read once, as it stands; on the right it is first turned into panels (pack),
 * which takes the time of about 10 tokens, and then a number in a register meets 12 others.
 *
 * Rows of bfloat16 may be taken for rows of half as many numbers of 32 bits, pairs, as x then is,
 * rounded: everything is as above but the multiply-add, v_pairs, which adds two products.
 *
 * Before it is included: V, LANES, v_*; DOT_TOKENS (4 DOT_TOKENS sums and some operands are held in
 * registers). Test: tests/test_format.c. */
#ifndef FLOATS_H
#define FLOATS_H

#include "kernels.h" /* FloatRows, Pack */

enum { DOT_ROWS = 4, AHEAD_FLOATS = 1024 }; /* rows of a tile; bytes to fetch ahead of their use */

/* LANES numbers of a row from number k on as float32, or the last n < LANES. */
INLINE V load_numbers(const uint8_t *row, const uint32_t type, size_t k, int n) {
    const float *f = (const float *)(const void *)row + k;
    if (type == T_F32) return n < LANES ? v_load_part(f, n) : v_load(f);
    row += 2 * k;
    if (type == T_F16) return n < LANES ? v_load_f16_part(row, n) : v_load_f16(row);
    return n < LANES ? v_load_bf16_part(row, n) : v_load_bf16(row);
}

INLINE float in_order(V a) {
    float lane[LANES], sum;
    v_store(lane, a);
    sum = lane[0];
    for (int l = 1; l < LANES; l++) sum += lane[l];
    return sum;
}

/* In place of a type: numbers of 32 bits that are pairs of bfloat16, for v_pairs. */
enum { PAIRS = -1 };
#ifndef HAS_PAIRS
#define v_pairs v_fma
#endif

/* A tile: R rows, `step` bytes apart, and T tokens, `cols` numbers apart; and its sums. */
typedef struct {
    const uint8_t *w;
    size_t step, cols;
    const float *x;
} Operands;
typedef struct {
    V of[DOT_ROWS][DOT_TOKENS];
} Sums;

/* Numbers k to k + n of the rows times those of the tokens: R + T loads for R T multiply-adds.
 * n = LANES but at the end of the rows. Every row is fetched ahead, and what is behind it. */
INLINE void dot_step(Sums *s, const Operands *o, const uint32_t type, const int R, const int T,
                     size_t k, int n) {
    const size_t size = type == T_F16 || type == T_BF16 ? 2 : 4;
    const bool pairs = type == (uint32_t)PAIRS;
    V xt[DOT_TOKENS];
    UNROLL for (int t = 0; t < T; t++) xt[t] =
        load_numbers((const uint8_t *)(o->x + (size_t)t * o->cols), T_F32, k, n);
    UNROLL for (int r = 0; r < R; r++) {
        const uint8_t *row = o->w + (size_t)r * o->step;
        __builtin_prefetch((const void *)((uintptr_t)row + size * k + AHEAD_FLOATS));
        V wr = load_numbers(row, pairs ? T_F32 : type, k, n);
        UNROLL for (int t = 0; t < T; t++) s->of[r][t] =
            pairs ? v_pairs(xt[t], wr, s->of[r][t]) : v_fma(xt[t], wr, s->of[r][t]);
    }
}

/* Row r0 and others, each `apart` rows behind the last one; tokens from t0 on. */
INLINE void dot_tile(const uint32_t type, const int R, const int T, const FloatRows *j, int r0,
                     size_t apart, int t0) {
    const size_t cols = (size_t)j->cols, end = cols % LANES;
    const Operands o = { j->rows + (size_t)r0 * j->row_bytes, apart * j->row_bytes, cols,
                         j->x + (size_t)t0 * cols };
    Sums s;
    UNROLL for (int i = 0; i < R * T; i++) s.of[i / T][i % T] = v_zero();
    for (size_t k = 0; k < cols - end; k += LANES) dot_step(&s, &o, type, R, T, k, LANES);
    if (end) dot_step(&s, &o, type, R, T, cols - end, (int)end);
    float *y = j->y + (size_t)t0 * j->y_stride + (size_t)r0;
    UNROLL for (int i = 0; i < R * T; i++)
        y[(size_t)(i / R) * j->y_stride + (size_t)(i % R) * apart] = in_order(s.of[i % R][i / R]);
}

INLINE void dot_tokens(const uint32_t type, const int R, const FloatRows *j, int r, size_t apart) {
    int t = 0, n = j->n;
    for (; n - t >= DOT_TOKENS && n - t != DOT_TOKENS + 1; t += DOT_TOKENS)
        dot_tile(type, R, DOT_TOKENS, j, r, apart, t);
    for (; n - t >= 2; t += 2) dot_tile(type, R, 2, j, r, apart, t);
    if (n > t) dot_tile(type, R, 1, j, r, apart, t);
}

/* The rows of a tile are a quarter of all apart: each is a stream through memory of its own, that
 * does not begin anew with every tile (bench/notes.md). */
INLINE void dot_typed(const uint32_t type, const FloatRows *j) {
    const int apart = j->n_rows / DOT_ROWS;
    for (int r = 0; r < apart; r++) dot_tokens(type, DOT_ROWS, j, r, (size_t)apart);
    for (int r = DOT_ROWS * apart; r < j->n_rows; r++) dot_tokens(type, 1, j, r, 0);
}

/* y[t, r] = x_t . row_r for some rows of W and n tokens. */
static void float_dots(const FloatRows *j) {
    if (j->type == T_F32) dot_typed(T_F32, j);
    if (j->type == T_F16) dot_typed(T_F16, j);
    if (j->type == T_BF16) dot_typed(T_BF16, j);
}
#ifdef HAS_PAIRS
static void pair_dots(const FloatRows *j) { dot_typed((uint32_t)PAIRS, j); }
#endif

/* Numbers k to k + n of the LANES rows from i on, of which some are there: as vectors, the rows
 * become columns. */
INLINE void pack_step(const uint32_t type, const Pack *p, int i, int there, size_t k, int n) {
    V v[LANES];
    const uint8_t *row = p->rows + (size_t)i * p->row_bytes;
    UNROLL for (int l = 0; l < LANES; l++, row += p->row_bytes) v[l] =
        l < there ? load_numbers(row, type, k, n) : v_zero();
    v_turn(v);
    float *out = p->out + k / LANES * (size_t)p->width + i;
    UNROLL for (int l = 0; l < LANES; l++) v_store(out + (size_t)l * p->chain, v[l]);
}
INLINE void pack_typed(const uint32_t type, const Pack *p) {
    const size_t cols = (size_t)p->cols, end = cols % LANES;
    for (int i = 0; i < p->width; i += LANES) {
        int there = p->n_rows - i < LANES ? p->n_rows - i : LANES;
        size_t k = 0;
        if (there == LANES)
            for (; k < cols - end; k += LANES) pack_step(type, p, i, LANES, k, LANES);
        for (; k < cols - end; k += LANES) pack_step(type, p, i, there, k, LANES);
        if (end) pack_step(type, p, i, there, k, (int)end);
    }
}
static void float_pack(const Pack *p) {
    if (p->type == T_F32) pack_typed(T_F32, p);
    if (p->type == T_F16) pack_typed(T_F16, p);
    if (p->type == T_BF16) pack_typed(T_BF16, p);
}

#endif
