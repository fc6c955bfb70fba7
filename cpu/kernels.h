/* kernels.h: what an instruction set must offer, and how the others come by it.
 *
 * The products of a model are written once, in matmul.c and gemm.c, over a few small routines that
 * keep their sums in registers. Those exist once for every instruction set, in a file each: plain.c
 * (C that every compiler understands, the twin that the others are tested against), avx2.c,
 * avx512.c, neon.c. No other file has intrinsics. A file is a table, Kernels; levels.c picks one at
 * start.
 *
 * Sections: 1 numbers of 16 bits, 2 what matmul hands to a kernel, 3 int8, 4 what gemm does, 5 what
 * attention does, 6 the table. Test: tests/test_format.c, tests/test_int8.c, tests/test_gemm.c,
 * tests/test_attention.c hold every level of this CPU against plain. */
#ifndef KERNELS_H
#define KERNELS_H

#include "../opencoder.h" /* storage types, OC_API */

/* A routine with constant arguments becomes one for these arguments, in the place of the call. */
#define INLINE static inline __attribute__((always_inline, unused))
#ifdef __OPTIMIZE__
#define UNROLL _Pragma("GCC unroll 16") /* gcc: without it the sums move to memory */
#else
#define UNROLL /* gcc -O0 warns where it leaves such a loop as it is */
#endif

/* The vocabulary of vectors. A level's file says what these mean there; what is written with them
 * is the same code on every level. V: a vector of LANES float32.
 *   v_zero() v_set1(f)             every lane 0, f
 *   v_load(p) v_store(p, a)        LANES numbers from p on, at any address
 *   v_load_part(p, n)              the first n < LANES of them, 0 in the other lanes
 *   v_store_part(p, a, n)          the first n
 *   v_load_f16(p) v_load_bf16(p)   and _part: numbers of 16 bits, widened
 *   v_load_i8(p)                   LANES int8, as float32
 *   v_add v_sub v_mul v_div(a, b)  lane by lane
 *   v_max v_min(a, b)              a > b ? a : b, a < b ? a : b, so b where one of them is NaN
 *   v_fma(a, b, c)                 a b + c in one rounding (plain: where the target has that)
 *   v_round(a)                     to the nearest whole number, of two the even one
 *   v_pow2(n)                      2^n, n whole and from -126 to 127
 *   v_turn(a)                      array of LANES vectors: rows become columns
 *   v_fold(a) v_fold_max(a)        sum, maximum of the lanes: lane l takes l + LANES/2, .. l + 1 */

/* ------------------------------------------------------------------------------------------------
 * 1. Numbers of 16 bits */

OC_API float bits_to_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
OC_API uint32_t float_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* IEEE half: 1 sign, 5 exponent, 10 mantissa bits. At a float's place they are a number whose
 * exponent is 112 too small, where Inf and NaN keep their mantissa. A subnormal one is a mantissa
 * times 2^-24; one multiplication by 2^112 would do for all, but processors take a hundred cycles
 * for floats that are subnormal themselves. */
OC_API float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff) << 13;
    if (body >= 0x0f800000) return bits_to_float(sign | body | 0x7f800000);
    if (body >= 0x00800000) return bits_to_float(sign | (body + (112u << 23)));
    return bits_to_float(sign | float_to_bits((float)(h & 0x3ff) * 0x1p-24f));
}

/* Round to nearest, ties to even. Too large becomes Inf, as IEEE has it. */
OC_API uint16_t float_to_half(float f) {
    uint32_t bits = float_to_bits(f), sign = bits >> 16 & 0x8000, body = bits & 0x7fffffff;
    if (body > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (body >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    if (body < 0x38800000) {                                  /* below 2^-14: let the FPU round */
        float shifted = bits_to_float(body) + 0.5f;           /* mantissa's last bit is 2^-24 */
        return (uint16_t)(sign | (float_to_bits(shifted) - float_to_bits(0.5f)));
    }
    body += 0xfff + (body >> 13 & 1);
    return (uint16_t)(sign | (body - 0x38000000) >> 13);
}

/* bfloat16 is the upper half of a float32. */
OC_API float bf16_to_float(uint16_t h) { return bits_to_float((uint32_t)h << 16); }

OC_API uint16_t float_to_bf16(float f) {
    uint32_t bits = float_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* keep NaN a NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

OC_API uint16_t load16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
OC_API float load_half(const uint8_t *p) { return half_to_float(load16(p)); }

/* ------------------------------------------------------------------------------------------------
 * 2. What matmul hands to a kernel */

/* The 16 levels of iq4_nl: closer together around zero, where weights are. */
static const int8_t iq4_nl_level[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113 };

/* quants.c: one stored block as whole numbers, and for each 32 of them a scale and a minimum:
 * number i = d[i / 32] code[i] + m[i / 32]. */
void unpack_block(int16_t *code, float *d, float *m, const uint8_t *block, uint32_t type);

/* Rows of W as stored, f32, f16 or bf16, and where their products with n tokens of float32 go:
 * y[t y_stride + r] = x_t . row_r. */
typedef struct {
    const uint8_t *rows; /* n_rows of them, row_bytes apart */
    size_t row_bytes;
    uint32_t type;
    int n_rows, cols, n;
    const float *x; /* (n, cols) */
    float *y;
    size_t y_stride;
} FloatRows;

/* A panel of rows as lanes, the chains of its sums one after the other (floats.h): number k of row
 * i at out[k % LANES chain + k / LANES width + i]. Lanes without a row or a number are zeros. */
typedef struct {
    float *out;
    size_t chain;
    int width; /* a multiple of LANES */
    const uint8_t *rows;
    size_t row_bytes;
    uint32_t type; /* f32, f16, bf16 */
    int n_rows, cols;
} Pack;

/* ------------------------------------------------------------------------------------------------
 * 3. Int8: whole numbers times whole numbers
 *
 * A weight is d code + m (unpack_block). x is rounded to whole numbers as well, 32 by 32: x ~ dx q,
 * q from -127 to 127. The product of two blocks of 32 is then exact but for two scales:
 *
 *     sum w x  =  d dx (sum code q)  +  m dx (sum q)              sums over 32, in integers
 *
 * Eight chains of multiply-adds take the blocks of a row in turns, chain j the blocks b = j mod 8:
 *     acc_j = fma(sum code q, d dx, acc_j), and for types with a minimum acc_j = fma(m, dx sum q,
 *     acc_j)
 * in ascending b; then they fold 8 -> 4 -> 2 -> 1. Because integers have no rounding, a level may
 * sum them in any order and still be equal to every other level, bit for bit.
 *
 * Eight blocks, the 256 numbers that the K types store together, are a superblock here for all
 * types. Where a row ends within one, x goes on with zeros. */

enum { SUPER = 256 };

OC_API bool has_min(uint32_t type) {
    return type == T_Q4_1 || type == T_Q5_1 || type == T_Q4_K || type == T_Q5_K;
}

/* CALL(TYPE) for the type at hand, so that each becomes a routine of its own. */
#define FOR_TYPE(type, CALL)                                                                       \
    switch (type) {                                                                                \
    case T_Q4_0: CALL(T_Q4_0); break;                                                              \
    case T_Q4_1: CALL(T_Q4_1); break;                                                              \
    case T_Q5_0: CALL(T_Q5_0); break;                                                              \
    case T_Q5_1: CALL(T_Q5_1); break;                                                              \
    case T_Q8_0: CALL(T_Q8_0); break;                                                              \
    case T_Q4_K: CALL(T_Q4_K); break;                                                              \
    case T_Q5_K: CALL(T_Q5_K); break;                                                              \
    case T_Q6_K: CALL(T_Q6_K); break;                                                              \
    case T_IQ4_NL: CALL(T_IQ4_NL); break;                                                          \
    default: break;                                                                                \
    }

/* Memory for a superblock of any type. */
typedef uint8_t SuperCopy[SUPER / 32 * 34];

/* A whole superblock: p, if `size` bytes from there are one; else a copy of them, zeros behind. */
INLINE const uint8_t *whole_super(SuperCopy copy, const uint8_t *p, size_t size,
                                  const uint32_t type) {
    const size_t bytes = row_bytes(type, SUPER);
    if (size >= bytes) return p;
    memset(copy + size, 0, bytes - size);
    if (size) memcpy(copy, p, size);
    return copy;
}

/* n rounded tokens, `padded` numbers each, a multiple of SUPER. */
typedef struct {
    int n;
    size_t padded;
    int8_t *q;      /* (n, padded) */
    int8_t *paired; /* the same, of each two blocks their first halves, then their second ones */
    int16_t *half;  /* (n, padded / 16) sums of 16 q */
    float *d, *s;   /* (n, padded / 32) dx, and dx times the sum of 32 q */
} Rounded;

/* y[t y_stride + r] = x_t . row r for `rows` rows of `cols` numbers, stored one behind the other
 * from w on, and all tokens of x. Each weight is unpacked once. */
typedef void Int8Rows(float *y, size_t y_stride, const Rounded *x, const uint8_t *w, uint32_t type,
                      int rows, int cols);

/* For prompts: panels, whose lanes are rows, so that one number of x, broadcast, meets a vector of
 * weights and nothing is left to sum across lanes (amx: lanes are tokens). A tile is `rows` x
 * `tokens` sums in registers. Both of its operands are copied in the order in which it reads them,
 * chain by chain; a dword is 4 codes in bytes or, for types whose products need it, 2 in words of
 * 16 bits, of consecutive k:
 *
 *     a block of W: 8 (words: 16) steps of `rows` dwords | `rows` floats d | `rows` floats m
 *     a block of x: 8 (words: 16) steps of `tokens` dwords | `tokens` dwords: what sums of products
 *                   start from | `tokens` floats dx | `tokens` floats dx sum q
 *
 * What a byte holds is the level's affair (code + offset, where its instruction wants that; sums
 * then start from -offset sum q), and so is the order within a chain of W. */

/* One chain of a tile: its sums, with open[0], then open[1] and so on added to them, go to `sum`.
 * The last chain closes ALL_OPEN of them, and its sums are y: (tokens, rows), tokens `stride`
 * numbers apart. Those of the others are as the level likes, without gaps. */
enum { ALL_OPEN = 3 };
typedef struct {
    const uint8_t *w, *x; /* its first blocks in the panel and in the tile of tokens */
    int blocks;
    uint32_t type;
    float *sum;
    size_t stride;
    const float *open[ALL_OPEN]; /* sums of one, two and four chains before it (panel_tiles) ... */
    int n_open;                  /* ... of which so many are closed */
} Chain;

typedef struct {
    int rows, tokens;             /* 0: this level has no panels */
    bool (*words)(uint32_t type); /* two codes a dword, not four */
    /* The start of a block's sums, of the sums of q of even and of odd pairs; NULL: 0 */
    uint32_t (*start)(int even, int odd, uint32_t type);
    /* Rows of W (n_rows <= rows, `stride` bytes apart) as panel: block b stands in chain b mod 8,
     * at place b / 8; chains have padded / SUPER blocks. Blocks that are missing are 0, rows may be
     * anything. The thread that has packed a panel is the one that calls `tile` with it. */
    void (*pack)(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                 int cols);
    void (*tile)(const Chain *c);
} Panels;

/* ------------------------------------------------------------------------------------------------
 * 4. What gemm hands to a kernel
 *
 * A tile of C, 6 x 16 elements for avx2, is summed in registers while k runs. Each step loads 16
 * numbers of B and spreads 6 numbers of A for 96 multiply-adds, so that arithmetic is the limit:
 *
 *                          B panel: for each k the numbers of 16 columns
 *                          k=0   b b b b b b b b b b b b b b b b
 *    A panel: for          k=1   b b b b b b b b b b b b b b b b     Panels are copies, a K-block
 *    each k the numbers     :                                        of KC steps deep, in which
 *    of 6 rows, 2 unused          c c c c c c c c c c c c c c c c    the next step always stands
 *    k=0 a a a a a a - -          c c c c c c c c c c c c c c c c    behind the last one: no
 *    k=1 a a a a a a - -     C += c c c c c c c c c c c c c c c c    strides, types or borders are
 *     :                           :                                  left for the tile to know.
 *
 * Lanes come in groups of 8, the width of the vectors that copy them; lanes without a row or
 * column are zeros, whose products are never looked at. Section 8 makes tiles and panels. */

enum { KC = 512, GROUP = 8, CHAINS = 12 }; /* KC: a multiple of 256, so that no block is cut */

/* c (rows, cols) of the tile, rows `stride` apart, = or with `add` += the sum over kc steps. */
typedef void RunTile(int kc, const float *a, const float *b, float *c, size_t stride, bool add);
typedef struct {
    int rows, cols;
    RunTile *run; /* NULL: this level has no such tile */
    int slots;    /* the step of an A panel */
    int lanes;    /* of a vector; `chains` runs CHAINS independent sums, for matmul_peak */
    float (*chains)(long steps);
} Tile;

/* ------------------------------------------------------------------------------------------------
 * 5. What attention hands to a kernel: queries of one head and a chunk of CHUNK positions
 *
 * The cache keeps SIDE x SIDE tiles: of keys (dimension, position), of values (position,
 * dimension), row-major. q8_0 puts the scales, f16, of the tile's positions before its bytes. */

enum { SIDE = 32, CHUNK = 128, PART_MIX = 16 };

OC_API size_t cache_tile_bytes(uint32_t type) {
    size_t bytes = type == T_F32 ? 4 : type == T_F16 ? 2 : 1;
    return SIDE * SIDE * bytes + (type == T_Q8_0 ? 2 * SIDE : 0);
}

typedef struct {
    uint32_t type; /* T_F32, T_F16, T_Q8_0 */
    int head_dim, n;
    const float *q; /* (n, D), rows q_step apart, already divided by sqrt(D) */
    size_t q_step;
    const int *limit;    /* (n), ascending: how many positions of the chunk each query sees, > 0 */
    const uint8_t *keys; /* for each 32 positions, the tiles of all dimensions */
    const uint8_t *values; /* for each 32 dimensions, the tiles of all positions, ... */
    size_t panel_bytes;    /* ... which is so far from there to the next 32 dimensions */
    float *scores;         /* scratch (n, CHUNK) */
    float *expanded;       /* scratch for SIDE positions and for CHUNK x SIDE values */
    /* Out, for each query: the largest score, the sum of e^(score - largest) and, from number
     * PART_MIX on, the sum of e^(score - largest) times values (D, rounded up to SIDE). */
    float *part;
    size_t part_step;
} Chunk;

/* ------------------------------------------------------------------------------------------------
 * 6. The table */

typedef struct {
    const char *name;
    bool (*here)(void); /* does this CPU have it? */
    bool (*slow)(void); /* does it have it in name only? then --cpu must ask for it; NULL: no */
    /* matmul */
    void (*float_dots)(const FloatRows *j);
    void (*pair_dots)(const FloatRows *j); /* rows and x of pairs of bfloat16; NULL: not here */
    void (*float_pack)(const Pack *p);
    Int8Rows *int8_rows;
    Panels panels;
    /* gemm */
    Tile tile, bf16; /* bf16: of pairs of bfloat16 */
    /* out[k step + l] = row_l[k] for n steps of k: a group whose lanes are rows of memory. `ahead`:
     * bytes from a row to the one that the same lane will hold next. */
    void (*turn)(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
    /* out[k step + l] = in[k in_step + l], zeros from lane `lanes` on: its lanes are columns. */
    void (*copy)(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);
    /* attend.h */
    void (*attend)(const Chunk *c);
    void (*exp_all)(float *x, size_t n);                    /* x_i = e^x_i */
    void (*swiglu)(float *gate, const float *up, size_t n); /* gate_i = silu(gate_i) up_i */
} Kernels;

extern const Kernels kernels_plain, kernels_avx2, kernels_avx512, kernels_avx512bf16, kernels_amx,
    kernels_neon, kernels_dotprod;

/* plain.c, for the levels that have nothing better. */
Int8Rows int8_rows_plain;
void turn_plain(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);

/* avx2.c, for avx512 too */
void turn_avx2(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
void copy_avx2(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);
const Kernels *kernels(void); /* the level in use; chosen now if it was not */
int thread_number(void);      /* of the caller among the threads, from 0 */
/* Scratch memory that grows and stays: a fresh block per product would be paged in each time. One
 * block per slot (0 to 3), aligned to 64 bytes, for callers on one thread. */
void *scratch(int slot, size_t bytes);

#endif
