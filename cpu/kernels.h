/* kernels.h: what an instruction set must offer, and how the others come by it.
 *
 * The products of a model are written once, in matmul.c and gemm.c, over a few small routines that
 * keep their sums in registers. Those exist once for every instruction set, in a file each: plain.c
 * (C that every compiler understands, the twin that the others are tested against), avx2.c,
 * avx512.c. No other file has intrinsics. A file is a table, Kernels; levels.c picks one at start.
 *
 * Sections: 1 numbers of 16 bits, 2 what matmul hands to a kernel, 3 what gemm does, 4 the table.
 * Test: tests/test_format.c, tests/test_gemm.c hold every level of this CPU against plain. */
#ifndef KERNELS_H
#define KERNELS_H

#include "../opencoder.h" /* storage types, OC_API */

/* A routine with constant arguments becomes one for these arguments, in the place of the call. */
#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16") /* gcc: without it the sums move to memory */

/* The vocabulary of vectors. A level's file says what these mean there; what is written with them
 * is the same code on every level. V: a vector of LANES float32.
 *   v_zero() v_set1(f)             every lane 0, f
 *   v_load(p) v_store(p, a)        LANES numbers from p on, at any address
 *   v_load_part(p, n)              the first n < LANES of them, 0 in the other lanes
 *   v_store_part(p, a, n)          the first n
 *   v_load_f16(p) v_load_bf16(p)   and _part: numbers of 16 bits, widened
 *   v_load_i8(p)                   LANES int8, as float32
 *   v_add v_sub v_mul(a, b)        lane by lane
 *   v_max(a, b)                    a > b ? a : b, so b where one of them is NaN
 *   v_fma(a, b, c)                 a b + c in one rounding (plain: where the target has that)
 *   v_round(a)                     to the nearest whole number, of two the even one
 *   v_pow2(n)                      2^n, n whole and from -126 to 127
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

/* IEEE half: 1 sign, 5 exponent, 10 mantissa bits. A half's exponent and mantissa, moved to a
 * float's place, are a number 2^112 times too small; one multiplication mends normal and subnormal
 * numbers alike, and Inf/NaN keep their mantissa under a full exponent. */
OC_API float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff) << 13;
    if (body >= 0x0f800000) return bits_to_float(sign | body | 0x7f800000);
    return bits_to_float(sign | float_to_bits(bits_to_float(body) * 0x1p112f));
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

enum { ROWS = 4, TOKENS = 4 }; /* tile size: 16 accumulators are held in registers */

/* The 16 levels of iq4_nl: closer together around zero, where weights are. */
static const int8_t iq4_nl_level[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113 };

/* quants.c: the bytes of a 32-block as small unsigned codes, its scale d and its minimum m. */
void unpack_block(uint8_t code[32], float *d, float *m, const uint8_t *block, uint32_t type);
int code_offset(uint32_t type); /* to subtract from a code for the signed number it stands for */

/* Activations rounded to 8 bits, block by block of 32: x ~ d (q - 128). Rows are padded with zero
 * blocks to an even number of them, because avx512 works on pairs. */
typedef struct {
    uint8_t *q; /* (n, padded) */
    float *d;   /* (n, padded / 32) */
    size_t padded;
} Rounded;

/* A group of rows of W and where their products go: y[t y_stride + r] = x_t . row_r, n tokens. */
typedef struct {
    const uint8_t *row[ROWS];
    int n_rows, cols, n;
    uint32_t type; /* of the rows */
    float *y;
    size_t y_stride;
} Group;

/* ------------------------------------------------------------------------------------------------
 * 3. What gemm hands to a kernel
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
    int lanes;    /* of a vector; `chains` runs CHAINS independent sums, for matmul_peak */
    float (*chains)(long steps);
} Tile;

/* ------------------------------------------------------------------------------------------------
 * 4. The table */

typedef struct {
    const char *name;
    bool (*here)(void); /* does this CPU have it? */
    /* matmul */
    bool loads_halves; /* float_group takes rows of f16 and bf16 as they are, not only f32 */
    void (*float_group)(const Group *g, const float *x);
    void (*int8_group)(const Group *g, const Rounded *x);
    /* gemm */
    Tile tile, bf16;
    bool (*bf16_here)(void);
    /* out[k step + l] = row_l[k] for n steps of k: a group whose lanes are rows of memory. `ahead`:
     * bytes from a row to the one that the same lane will hold next. */
    void (*turn)(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
    /* out[k step + l] = in[k in_step + l], zeros from lane `lanes` on: its lanes are columns. */
    void (*copy)(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);
} Kernels;

extern const Kernels kernels_plain, kernels_avx2, kernels_avx512;

/* plain.c, for the levels that have nothing better. */
void float_group_plain(const Group *g, const float *x);
void int8_group_plain(const Group *g, const Rounded *x);
void turn_plain(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);

const Kernels *kernels(void); /* the level in use; chosen now if it was not */
int thread_number(void);      /* of the caller among the threads, from 0 */
/* Scratch memory that grows and stays: a fresh block per product would be paged in each time. One
 * block per slot (0 to 3), aligned to 64 bytes, for callers on one thread. */
void *scratch(int slot, size_t bytes);

#endif
