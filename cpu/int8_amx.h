/* int8_amx.h: products of whole numbers for prompts, with AMX: registers that are matrices of 16
 * rows of 64 bytes, and an instruction that multiplies two of them.
 *
 * tdpbssd adds A (16 rows of bytes) times B (rows of 16 dwords) to C (16 x 16 dwords):
 *
 *     C[r][t] += sum over s, i of A[r][4 s + i] B[s][4 t + i]      i = 0..3
 *
 * A are 16 rows of W, a block of each as it is unpacked, so that no code must be turned; B is that
 * block of 16 tokens as matmul packs it. These 8192 products take 16 cycles, a fourth of what
 * vpdpbusd needs. But then their 256 sums, which are exact, go through memory into vectors, whose
 * lanes are tokens, to be scaled and added to the chain, and all in all a block takes four times as
 * long (bench/notes.md). Test: tests/test_int8.c, tests/test_avx512.py. */

/* The side of a square of sums. A panel has four times as many rows, each 16 of which meet a tile
 * of x while that is in L1. In bytes: 32 codes of 16 rows; a block of W, these with 16 d and 16 m;
 * a step of x; in a block of x where 16 dx begin, where 16 dx sum q do, and its end. */
enum {
    AMX_SIDE = 16,
    AMX_SUMS = AMX_SIDE * AMX_SIDE,
    AMX_ROWS = 4 * AMX_SIDE,
    AMX_CODES = 32 * AMX_SIDE,
    AMX_BLOCK = AMX_CODES + 2 * 4 * AMX_SIDE,
    AMX_STEP = 4 * AMX_SIDE,
    AMX_DX = (8 + 1) * AMX_STEP,
    AMX_DX_SUM = AMX_DX + AMX_STEP,
    AMX_X_BLOCK = AMX_DX_SUM + AMX_STEP
};

/* ------------------------------------------------------------------------------------------------
 * 1. Tile registers */

/* Which is which: a block has 32 numbers; of q6_k, halves have a scale each. No enum, because the
 * intrinsics make them part of the register's name. */
#define AMX_C      0
#define AMX_C2     1
#define AMX_A      2
#define AMX_B      3
#define AMX_HALF_A 4
#define AMX_HALF_B 5

/* What ldtilecfg reads: the shapes of the eight registers. */
typedef struct {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

/* Each thread has its own registers, and shapes them when it packs a panel. They stay in use: what
 * that costs, 8 KB to save where threads change places, is less than to begin anew each time. */
static void shape_tiles(void) {
    static const TileShapes shapes = { .palette = 1,
                                       .row_bytes = { 64, 64, 32, 64, 16, 64 },
                                       .rows = { 16, 16, 16, 8, 16, 4 } };
    _tile_loadconfig(&shapes);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Packing. A chain of the panel is that of 16 rows, then of the next 16; a block is 16 rows of
 * 32 codes, 16 d, 16 m; of q6_k, in the place of m, the scales of the two halves as words */

static bool words_amx(uint32_t type) {
    (void)type;
    return false;
}

/* A superblock of row r of 16, at p: its codes into the panel, its d and m into scale, as a row. */
INLINE void unpack_amx(uint8_t *panel, size_t chain, float scale[16], const uint8_t *p, const int r,
                       const uint32_t type) {
    const __m256i offset = _mm256_set1_epi8((char)offset_x86(type));
    Codes c;
    unpack_x86(&c, p, type);
    part_pairs(&c, type);
    UNROLL for (size_t j = 0; j < 8; j++)
        _mm256_storeu_si256((__m256i *)(panel + j * chain + 32 * r),
                            _mm256_sub_epi8(c.code[j], offset));
    __m256 m = has_min(type) ? c.m : _mm256_setzero_ps();
    if (type == T_Q6_K) m = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(c.natural));
    _mm256_storeu_ps(scale, c.d);
    _mm256_storeu_ps(scale + 8, m);
}

/* AMX_ROWS rows, of which n_rows are there: 16 at a time, a superblock of all of them, the next. */
INLINE void pack_rows_amx(uint8_t *panel, const uint8_t *w, size_t stride, int n_rows, int cols,
                          const uint32_t type) {
    const size_t places = ((size_t)cols + SUPER - 1) / SUPER;
    const size_t chain = AMX_ROWS / AMX_SIDE * places * AMX_BLOCK;
    for (int r0 = 0; r0 < AMX_ROWS; r0 += AMX_SIDE)
        for (size_t i = 0; i < places; i++, panel += AMX_BLOCK) {
            float scale[16][16];
            size_t k = i * SUPER, left = (size_t)cols - k < SUPER ? (size_t)cols - k : SUPER;
            const uint8_t *from = w + row_bytes(type, k);
            for (int r = 0; r < AMX_SIDE; r++) { /* missing rows repeat the last one */
                SuperCopy copy;
                const uint8_t *row =
                    from + (size_t)(r0 + r < n_rows ? r0 + r : n_rows - 1) * stride;
                unpack_amx(panel, chain, scale[r],
                           whole_super(copy, row, row_bytes(type, left), type), r, type);
            }
            pack_scales(panel + AMX_CODES, chain, AMX_SIDE, scale);
        }
}

static void pack_amx(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                     int cols) {
    shape_tiles();
#define PACK_OF(TYPE) pack_rows_amx(panel, w, stride, n_rows, cols, TYPE)
    FOR_TYPE(type, PACK_OF)
#undef PACK_OF
}

/* ------------------------------------------------------------------------------------------------
 * 3. The tile, 16 x 16 sums of float32 in registers, lanes are tokens */

/* The integer products of a block, (row, token); of q6_k, of its two halves. What is read was
 * written in other functions: for gcc loads of tiles have no order among those of memory. */
INLINE void products_amx(int32_t *dot, const uint8_t *w, const uint8_t *x, const uint32_t type) {
    _tile_zero(AMX_C);
    if (type == T_Q6_K) {
        _tile_zero(AMX_C2);
        _tile_loadd(AMX_HALF_A, w, 32);
        _tile_loadd(AMX_HALF_B, x, AMX_STEP);
        _tile_dpbssd(AMX_C, AMX_HALF_A, AMX_HALF_B);
        _tile_loadd(AMX_HALF_A, w + 16, 32);
        _tile_loadd(AMX_HALF_B, x + 4 * AMX_STEP, AMX_STEP);
        _tile_dpbssd(AMX_C2, AMX_HALF_A, AMX_HALF_B);
        _tile_stored(AMX_C2, dot + AMX_SUMS, 64);
    } else {
        _tile_loadd(AMX_A, w, 32);
        _tile_loadd(AMX_B, x, AMX_STEP);
        _tile_dpbssd(AMX_C, AMX_A, AMX_B);
    }
    _tile_stored(AMX_C, dot, 64);
}

/* The scales of halves, of 16 rows. */
INLINE void half_scales(float first[AMX_SIDE], float second[AMX_SIDE], const float *m) {
    int16_t scale[2 * AMX_SIDE];
    memcpy(scale, m, sizeof scale);
    for (int r = 0; r < AMX_SIDE; r++) first[r] = scale[2 * r], second[r] = scale[2 * r + 1];
}

INLINE V load_dots(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

/* One block, of which dot are the products. */
INLINE void scale_amx(V acc[AMX_SIDE], const int32_t *dot, const uint8_t *w, const uint8_t *x,
                      const uint32_t type) {
    const float *d = (const float *)(const void *)(w + AMX_CODES), *m = d + AMX_SIDE;
    const V dx = v_load((const float *)(const void *)(x + AMX_DX));
    const V s = v_load((const float *)(const void *)(x + AMX_DX_SUM));
    float first[AMX_SIDE], second[AMX_SIDE];
    if (type == T_Q6_K) half_scales(first, second, m);
    UNROLL for (int r = 0; r < AMX_SIDE; r++) {
        V sum = load_dots(dot + AMX_SIDE * r);
        if (type == T_Q6_K) /* whole numbers below 2^24: no rounding */
            sum = v_fma(sum, v_set1(first[r]),
                        v_mul(load_dots(dot + AMX_SUMS + AMX_SIDE * r), v_set1(second[r])));
        acc[r] = v_fma(sum, v_mul(dx, v_set1(d[r])), acc[r]);
        if (has_min(type)) acc[r] = v_fma(v_set1(m[r]), s, acc[r]);
    }
}

/* 16 rows of a chain. The products of a block are made while those of the one before are scaled. */
INLINE void chain_amx(V acc[AMX_SIDE], const uint8_t *w, const uint8_t *x, int blocks,
                      const uint32_t type) {
    _Alignas(64) int32_t dot[2][2 * AMX_SUMS];
    UNROLL for (int r = 0; r < AMX_SIDE; r++) acc[r] = v_zero();
    products_amx(dot[0], w, x, type);
    for (int b = 0; b < blocks; b++, w += AMX_BLOCK, x += AMX_X_BLOCK) {
        if (b + 1 < blocks) products_amx(dot[(b + 1) & 1], w + AMX_BLOCK, x + AMX_X_BLOCK, type);
        scale_amx(acc, dot[b & 1], w, x, type);
    }
}

/* A chain of all rows of the panel with the open sums that it closes (kernels.h); as long as it is
 * not the last, its sums are (16 rows, tokens) for each 16 rows. */
INLINE void tile_rows_amx(const Chain *c, const uint32_t type) {
    const size_t sixteen = (size_t)c->blocks * AMX_BLOCK; /* bytes of 16 rows */
    V acc[AMX_SIDE];
    for (size_t i = 0; i < AMX_ROWS / AMX_SIDE; i++) {
        chain_amx(acc, c->w + i * sixteen, c->x, c->blocks, type);
        for (int l = 0; l < c->n_open; l++)
            UNROLL for (int r = 0; r < AMX_SIDE; r++) acc[r] =
                v_add(acc[r], v_load(c->open[l] + i * AMX_SUMS + AMX_SIDE * r));
        const bool last = c->n_open == ALL_OPEN;
        if (last) v_turn(acc); /* rows become lanes */
        float *sum = c->sum + i * (last ? AMX_SIDE : AMX_SUMS);
        UNROLL for (int r = 0; r < AMX_SIDE; r++)
            v_store(sum + (size_t)r * (last ? c->stride : AMX_SIDE), acc[r]);
    }
}

static void tile_amx(const Chain *c) {
#define TILE_OF(TYPE) tile_rows_amx(c, TYPE)
    FOR_TYPE(c->type, TILE_OF)
#undef TILE_OF
}

#define PANELS_AMX                                                                                 \
    { AMX_ROWS, AMX_SIDE, words_amx, NULL, pack_amx, tile_amx }
