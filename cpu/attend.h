/* attend.h: e^x, SwiGLU, and attention over one chunk of the cache, in the vocabulary of the level
 * whose file includes this. attention.c says what a chunk is and how chunks add up.
 *
 * Scores and mix are the same product, a row of numbers times a matrix of SIDE columns:
 *
 *     scores (queries, 32 positions) = q (queries, D) times a group of keys      (D, 32 positions)
 *     mix    (queries, 32 of D)      = p (queries, positions) times a panel of values (positions,
 *                                      32 of D)
 *
 * so the cache keeps both as tiles whose row of 32 numbers is what one step of the product reads,
 * and no sum ever goes across the lanes of a vector: every result is one chain of v_fma.
 * Test: tests/test_attention.c. Measure: build/bench_attention. */

/* e^x within 1.2 units of the last place; e^-inf = 0, e^inf = inf, NaN stays NaN. x = n ln 2 + r
 * with |r| <= ln 2 / 2, ln 2 in two parts of which the first times n is exact; e^r by the
 * polynomial of least relative error, 3.3e-9; 2^n in two factors, because n reaches from -150, half
 * the smallest number, to 128, and a factor alone does not. */
INLINE V v_exp(V x) {
    x = v_min(v_set1(89), v_max(v_set1(-104), x)); /* NaN, as the second operand, passes */
    V n = v_round(v_mul(x, v_set1(1.44269504f)));
    V r = v_fma(n, v_set1(2.12194440e-4f), v_fma(n, v_set1(-0.693359375f), x));
    V g = v_fma(r, v_set1(0.0013813145f), v_set1(0.0083694188f));
    g = v_fma(r, v_fma(r, g, v_set1(0.041668456f)), v_set1(0.16666515f));
    g = v_fma(r, g, v_set1(0.49999994f));
    V power = v_fma(v_mul(r, r), g, v_add(r, v_set1(1)));
    n = v_max(n, v_set1(-151)); /* a number in the place of NaN, which has no 2^n */
    V half = v_round(v_mul(n, v_set1(0.5f)));
    return v_mul(v_mul(power, v_pow2(half)), v_pow2(v_sub(n, half)));
}

/* x_i = e^x_i      (n) */
static void exp_all(float *x, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(x + i, v_exp(v_load(x + i)));
    if (i < n) v_store_part(x + i, v_exp(v_load_part(x + i, (int)(n - i))), (int)(n - i));
}

/* silu(g) u = g / (1 + e^-g) u */
INLINE V gated(V g, V u) { return v_mul(v_div(g, v_add(v_set1(1), v_exp(v_sub(v_zero(), g)))), u); }
static void swiglu(float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(gate + i, gated(v_load(gate + i), v_load(up + i)));
    int rest = (int)(n - i);
    if (rest)
        v_store_part(gate + i, gated(v_load_part(gate + i, rest), v_load_part(up + i, rest)), rest);
}

/* The first `rows` rows of a tile as float32, exactly. q8_0 has a scale for each position: those
 * are the columns of a tile of keys and the rows of a tile of values. */
static void expand_tile(float *out, const uint8_t *tile, uint32_t type, bool of_keys, int rows) {
    float scale[SIDE];
    if (type == T_F16)
        for (int i = 0; i < rows * SIDE; i += LANES) v_store(out + i, v_load_f16(tile + 2 * i));
    if (type != T_Q8_0) return;
    for (int i = 0; i < SIDE; i += LANES) v_store(scale + i, v_load_f16(tile + 2 * i));
    const int8_t *in = (const int8_t *)tile + 2 * SIDE;
    for (int k = 0; k < rows; k++, in += SIDE, out += SIDE)
        for (int i = 0; i < SIDE; i += LANES) {
            V d = of_keys ? v_load(scale + i) : v_set1(scale[k]);
            v_store(out + i, v_mul(d, v_load_i8(in + i)));
        }
}

/* What a product reads: rows of float32 or f16, one behind the other, or tiles of q8_0. */
enum { ROWS_F32, ROWS_F16, TILES_OF_KEYS, TILES_OF_VALUES };
typedef struct {
    int form;
    const uint8_t *data;
} Operand;

/* `rows` rows of consecutive tiles, expanded to float32 where that pays: for few queries it costs
 * more than widening the numbers on their way into the registers. */
static Operand operand(const Chunk *c, const uint8_t *tile, bool of_keys, int rows) {
    if (c->type == T_F32) return (Operand){ ROWS_F32, tile };
    if (c->n <= 4 && c->type == T_F16) return (Operand){ ROWS_F16, tile };
    if (c->n <= 4) return (Operand){ of_keys ? TILES_OF_KEYS : TILES_OF_VALUES, tile };
    for (int k = 0; k < rows; k += SIDE, tile += cache_tile_bytes(c->type))
        expand_tile(c->expanded + (size_t)k * SIDE, tile, c->type, of_keys,
                    rows - k < SIDE ? rows - k : SIDE);
    return (Operand){ ROWS_F32, (const uint8_t *)c->expanded };
}

/* LANES numbers of row k from column i on. */
INLINE V load_row(const int form, const uint8_t *p, const float *scale, int k, int i) {
    size_t at = (size_t)k * SIDE + (size_t)i;
    if (form == ROWS_F32) return v_load((const float *)(const void *)p + at);
    if (form == ROWS_F16) return v_load_f16(p + 2 * at);
    V d = form == TILES_OF_KEYS ? v_load(scale + i) : v_set1(scale[k]);
    return v_mul(d, v_load_i8((const int8_t *)p + 2 * SIDE + at));
}

/* Asks for what row k is followed by, 4 KB later: one query alone is faster than what the hardware
 * fetches on its own, by 15 % for f16, 35 % for q8_0, and not for float32 (make bench-attention,
 * 2 x Zen 3). */
INLINE void fetch_ahead(const int form, const uint8_t *p, int k) {
    size_t row = form == ROWS_F16 ? 2 * SIDE : SIDE;
    __builtin_prefetch((const void *)((uintptr_t)p + 4096 + row * (size_t)k));
}

/* c_t (SIDE) = the sum over k in from..to of a_t[k] b[k] (SIDE), for T rows t; += where from > 0.
 * T C sums are held in registers, C vectors of columns at a time. */
INLINE void product(const int form, const int T, const int C, float *c, size_t c_step,
                    const float *a, size_t a_step, const uint8_t *b, int from, int to) {
    const bool tiles = form == TILES_OF_KEYS || form == TILES_OF_VALUES;
    for (int column = 0; column < SIDE; column += C * LANES) {
        V sum[8][8];
        UNROLL for (int t = 0; t < T; t++) UNROLL for (int i = 0; i < C; i++) sum[t][i] =
            from ? v_load(c + (size_t)t * c_step + column + i * LANES) : v_zero();
        for (int k = from, begin = 0, end = to; k < to;) {
            const uint8_t *p = b;
            float scale[SIDE];
            if (tiles) {
                begin = k / SIDE * SIDE;
                end = begin + SIDE < to ? begin + SIDE : to;
                p = b + (size_t)(begin / SIDE) * cache_tile_bytes(T_Q8_0);
                for (int i = 0; i < SIDE; i += LANES) v_store(scale + i, v_load_f16(p + 2 * i));
            }
            for (; k < end; k++) {
                if (form != ROWS_F32) fetch_ahead(form, p, k - begin);
                V row[8];
                UNROLL for (int i = 0; i < C; i++) row[i] =
                    load_row(form, p, scale, k - begin, column + i * LANES);
                UNROLL for (int t = 0; t < T; t++) {
                    V x = v_set1(a[(size_t)t * a_step + (size_t)k]);
                    UNROLL for (int i = 0; i < C; i++) sum[t][i] = v_fma(x, row[i], sum[t][i]);
                }
            }
        }
        UNROLL for (int t = 0; t < T; t++) UNROLL for (int i = 0; i < C; i++)
            v_store(c + (size_t)t * c_step + column + i * LANES, sum[t][i]);
    }
}

/* The same for the first of n rows; returns how many went together. */
static int products(int n, float *c, size_t c_step, const float *a, size_t a_step, Operand b,
                    int from, int to) {
    enum { ALL = SIDE / LANES, MOST = LANES == 16 ? 8 : 6 };
#define PRODUCT(FORM, T, C)                                                                        \
    if (b.form == FORM && n >= T) {                                                                \
        product(FORM, T, C, c, c_step, a, a_step, b.data, from, to);                               \
        return T;                                                                                  \
    }
    PRODUCT(ROWS_F32, MOST, 2)
    PRODUCT(ROWS_F32, 3, ALL)
    PRODUCT(ROWS_F32, 2, ALL)
    PRODUCT(ROWS_F32, 1, ALL)
    PRODUCT(ROWS_F16, 4, 2)
    PRODUCT(ROWS_F16, 2, ALL)
    PRODUCT(ROWS_F16, 1, ALL)
    PRODUCT(TILES_OF_KEYS, 4, 2)
    PRODUCT(TILES_OF_KEYS, 1, ALL)
    PRODUCT(TILES_OF_VALUES, 4, 2)
    PRODUCT(TILES_OF_VALUES, 1, ALL)
#undef PRODUCT
    return n;
}

/* Scores of every query against the positions of the chunk, 32 at a time. Those behind a query's
 * limit come out too and are not looked at: they are other lanes. */
static void chunk_scores(const Chunk *c) {
    size_t step = (size_t)((c->head_dim + SIDE - 1) / SIDE) * cache_tile_bytes(c->type);
    int first = 0;
    for (int u = 0; u < c->limit[c->n - 1]; u += SIDE) {
        Operand keys = operand(c, c->keys + (size_t)(u / SIDE) * step, true, c->head_dim);
        while (c->limit[first] <= u) first++;
        for (int t = first; t < c->n;)
            t += products(c->n - t, c->scores + (size_t)t * CHUNK + u, CHUNK,
                          c->q + (size_t)t * c->q_step, c->q_step, keys, 0, c->head_dim);
    }
}

/* s_u = e^(s_u - max) for the n scores of a query; their maximum and sum go to part[0], part[1]. */
static void chunk_softmax(float *s, int n, float *part) {
    V max = v_set1(s[0]), sum = v_zero();
    int u = 0, rest = n % LANES;
    for (; u < n - rest; u += LANES) max = v_max(max, v_load(s + u));
    if (rest) {
        float last[LANES];
        for (int l = 0; l < LANES; l++) last[l] = s[l < rest ? u + l : 0];
        max = v_max(max, v_load(last));
    }
    part[0] = v_fold_max(max);
    max = v_set1(part[0]);
    for (u = 0; u < n - rest; u += LANES) {
        V e = v_exp(v_sub(v_load(s + u), max));
        v_store(s + u, e);
        sum = v_add(sum, e);
    }
    if (rest) { /* the lanes that are no position get zeros */
        v_store_part(s + u, v_exp(v_sub(v_load_part(s + u, rest), max)), rest);
        sum = v_add(sum, v_load_part(s + u, rest));
    }
    part[1] = v_fold(sum);
}

/* mix (queries, D) = p V. Queries that go together share the positions up to the first one's limit;
 * the few more that the others see follow one query at a time. */
static void chunk_mix(const Chunk *c) {
    for (int d = 0; d < c->head_dim; d += SIDE) {
        const uint8_t *panel = c->values + (size_t)(d / SIDE) * c->panel_bytes;
        Operand values = operand(c, panel, false, c->limit[c->n - 1]);
        float *mix = c->part + PART_MIX + d;
        for (int t = 0, end; t < c->n; t = end) {
            int from = c->limit[t];
            end = t + products(c->n - t, mix + (size_t)t * c->part_step, c->part_step,
                               c->scores + (size_t)t * CHUNK, CHUNK, values, 0, from);
            for (int i = t + 1; i < end; i++)
                if (c->limit[i] > from)
                    products(1, mix + (size_t)i * c->part_step, c->part_step,
                             c->scores + (size_t)i * CHUNK, CHUNK, values, from, c->limit[i]);
        }
    }
}

static void attend(const Chunk *c) {
    chunk_scores(c);
    for (int t = 0; t < c->n; t++)
        chunk_softmax(c->scores + (size_t)t * CHUNK, c->limit[t],
                      c->part + (size_t)t * c->part_step);
    chunk_mix(c);
}
