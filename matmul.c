/* matmul.c: y = x W^T for every storage type, and gemm, the products of training. The only C file
 * with intrinsics; a reader of the model may skip it: run.c needs nothing but the first half of the
 * sentence above, train.c the second.
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
 * gemm: an element of C is summed over a K-block of KC = 512 k, ascending, by fused multiply-adds
 * from 0 on, and the K-blocks are added in order, to C itself with GEMM_ADD. Bit-equal for any
 * number of threads and any way to cut C, by gemm and gemm_here, and on all levels (plain: where
 * the target has fused multiply-adds). GEMM_BF16: k in pairs, the odd one first.
 *
 * Two ways to multiply: the float path expands weights to float32 (exact for every type). The int8
 * path, for the types with blocks of 32, rounds x to int8 per block as well and uses integer dot
 * products: 4 times the throughput, error bounded by DESIGN 4; `exact` turns it off.
 *
 * Levels: plain, avx512 and, in gemm alone, avx2, which takes plain's routines for the rest.
 * Sections: 1 numbers, 2 dequantize, 3 quantize, 4 plain level, 5 avx512 level, 6 tiles of gemm,
 * 7 matmul, 8 gemm. Test: tests/test_format.c (all types, odd shapes, threads), tests/test_gemm.c.
 * Measure: make bench, make bench-gemm. */
#include "opencoder.h" /* Tensor, type_info, die */
#include <time.h>      /* timespec_get */
#ifdef _OPENMP
#include <omp.h> /* omp_get_thread_num, omp_get_max_threads */
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
#include <immintrin.h> /* _mm256_*, _mm512_* */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#endif

#define TINY 1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */
enum { ROWS = 4, TOKENS = 4 }; /* tile size: 16 accumulators are held in registers */
enum {
    AHEAD = 512
}; /* bytes to fetch ahead of their use: the hardware alone is late (make bench) */

/* ------------------------------------------------------------------------------------------------
 * 1. Numbers of 16 bits */

static float bits_to_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static uint32_t float_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* IEEE half: 1 sign, 5 exponent, 10 mantissa bits. A half's exponent and mantissa, moved to a
 * float's place, are a number 2^112 times too small; one multiplication mends normal and subnormal
 * numbers alike, and Inf/NaN keep their mantissa under a full exponent. */
static float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff) << 13;
    if (body >= 0x0f800000) return bits_to_float(sign | body | 0x7f800000);
    return bits_to_float(sign | float_to_bits(bits_to_float(body) * 0x1p112f));
}

/* Round to nearest, ties to even. Too large becomes Inf, as IEEE has it. */
static uint16_t float_to_half(float f) {
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
static float bf16_to_float(uint16_t h) { return bits_to_float((uint32_t)h << 16); }

static uint16_t float_to_bf16(float f) {
    uint32_t bits = float_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* keep NaN a NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t load16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static float load_half(const uint8_t *p) { return half_to_float(load16(p)); }

/* ------------------------------------------------------------------------------------------------
 * 2. Dequantize: one function per block layout, out = the block's numbers in order
 *
 * Blocks of 32 (d, m are halves; element e < 16 is the low nibble of byte e, else the high one):
 *   q8_0:   d | 32 int8                          x = d q
 *   q4_0:   d | 16 bytes of nibbles              x = d (q - 8)
 *   q4_1:   d m | 16 bytes                       x = d q + m
 *   q5_0:   d | 32 fifth bits | 16 bytes         x = d (q - 16)
 *   q5_1:   d m | 32 fifth bits | 16 bytes       x = d q + m
 *   iq4_nl: d | 16 bytes                         x = d table[q]
 * Blocks of 256 in sub-blocks with small integer scales s and minima t of their own:
 *   q4_k:   d dmin | 12 bytes s,t | 128 nibbles            x = d s q - dmin t     8 x 32
 *   q5_k:   d dmin | 12 bytes s,t | 32 bytes | 128         x = d s q - dmin t     8 x 32
 *   q6_k:   128 low nibbles | 64 bytes of 2 bits | 16 s | d   x = d s (q - 32)   16 x 16 */

/* The 16 levels of iq4_nl: closer together around zero, where weights are. */
static const int8_t iq4_nl_level[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113 };

/* The bytes of a 32-block as small unsigned codes; returns where its scale stands in *d, *m. */
static void unpack_block(uint8_t code[32], float *d, float *m, const uint8_t *block,
                         uint32_t type) {
    bool has_min = type == T_Q4_1 || type == T_Q5_1, five = type == T_Q5_0 || type == T_Q5_1;
    *d = load_half(block);
    *m = has_min ? load_half(block + 2) : 0;
    block += has_min ? 4 : 2;
    uint32_t fifth = 0;
    if (five) memcpy(&fifth, block, 4), block += 4;
    if (type == T_Q8_0) {
        for (int i = 0; i < 32; i++) code[i] = block[i] ^ 0x80;
        return;
    }
    for (int i = 0; i < 16; i++) {
        code[i] = (uint8_t)((block[i] & 15) | (fifth >> i & 1) << 4);
        code[i + 16] = (uint8_t)(block[i] >> 4 | (fifth >> (i + 16) & 1) << 4);
    }
    if (type == T_IQ4_NL)
        for (int i = 0; i < 32; i++) code[i] = (uint8_t)(iq4_nl_level[code[i]] + 128);
}

/* What to subtract from a code to get the signed number it stands for. */
static int code_offset(uint32_t type) {
    return type == T_Q8_0 || type == T_IQ4_NL ? 128 : type == T_Q4_0 ? 8 : type == T_Q5_0 ? 16 : 0;
}

static void dequantize_32(float *out, const uint8_t *block, uint32_t type) {
    uint8_t code[32];
    float d, m;
    int offset = code_offset(type);
    unpack_block(code, &d, &m, block, type);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(code[i] - offset) + m;
}

/* Scale and minimum number j of 8, 6 bits each, packed into 12 bytes: the first four are the low 6
 * bits of bytes 0-7, the last four are split into nibbles (bytes 8-11) and top bits (bytes 0-7). */
static void k_scale_min(const uint8_t *p, int j, float *scale, float *min) {
    if (j < 4) {
        *scale = (float)(p[j] & 63);
        *min = (float)(p[j + 4] & 63);
    } else {
        *scale = (float)((p[j + 4] & 15) | (p[j - 4] >> 6) << 4);
        *min = (float)(p[j + 4] >> 4 | (p[j] >> 6) << 4);
    }
}

/* q4_k and q5_k: sub-blocks 2i and 2i+1 are the low and high nibbles of 32 bytes; the fifth bit of
 * element e of sub-block j is bit j of byte e. */
static void dequantize_k45(float *out, const uint8_t *block, bool five) {
    float d = load_half(block), dmin = load_half(block + 2), scale, min;
    const uint8_t *fifth = block + 16, *q = block + (five ? 48 : 16);
    for (int j = 0; j < 8; j++) {
        k_scale_min(block + 4, j, &scale, &min);
        for (int i = 0; i < 32; i++) {
            int code = j & 1 ? q[j / 2 * 32 + i] >> 4 : q[j / 2 * 32 + i] & 15;
            if (five) code |= (fifth[i] >> j & 1) << 4;
            out[32 * j + i] = d * scale * (float)code - dmin * min;
        }
    }
}

/* q6_k: two halves of 128; in a half, sub-row r of 4 (32 elements) takes the low (r < 2) or high
 * nibbles of 32 bytes (r odd: the second 32) and bits 2r, 2r+1 of the 2-bit bytes. */
static void dequantize_k6(float *out, const uint8_t *block) {
    float d = load_half(block + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
        const uint8_t *scale = block + 192 + 8 * half;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 32; i++) {
                int nibble = r < 2 ? low[32 * (r & 1) + i] & 15 : low[32 * (r & 1) + i] >> 4;
                int q = (nibble | (high[i] >> 2 * r & 3) << 4) - 32;
                *out++ = d * (float)(int8_t)scale[2 * r + i / 16] * (float)q;
            }
    }
}

void dequantize(float *out, const uint8_t *row, uint32_t type, size_t from, size_t n) {
    const TypeInfo *info = type_info(type);
    const uint8_t *p = row + row_bytes(type, from);
    switch (type) {
    case T_F32: memcpy(out, p, 4 * n); return;
    case T_F16:
        for (size_t i = 0; i < n; i++) out[i] = load_half(p + 2 * i);
        return;
    case T_BF16:
        for (size_t i = 0; i < n; i++) out[i] = bf16_to_float(load16(p + 2 * i));
        return;
    default: break;
    }
    for (size_t i = 0; i < n; i += (size_t)info->block, p += info->bytes) {
        if (type == T_Q4_K || type == T_Q5_K)
            dequantize_k45(out + i, p, type == T_Q5_K);
        else if (type == T_Q6_K)
            dequantize_k6(out + i, p);
        else
            dequantize_32(out + i, p, type);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Quantize, for the types that convert writes */

/* d = largest magnitude / 127, q = x / d rounded. */
static void quantize_q8_0(uint8_t *block, const float *x) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float d = largest / 127, inverse = d > TINY ? 1 / d : 0;
    uint16_t half = float_to_half(d);
    memcpy(block, &half, 2);
    for (int i = 0; i < 32; i++) block[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

/* 16 levels from -8 to 7: the number of largest magnitude, with its sign, takes the level -8. */
static void quantize_q4_0(uint8_t *block, const float *x) {
    float extreme = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    float d = extreme / -8, inverse = fabsf(d) > TINY ? 1 / d : 0;
    uint16_t half = float_to_half(d);
    memcpy(block, &half, 2);
    for (int i = 0; i < 16; i++) {
        int low = (int)(x[i] * inverse + 8.5f), high = (int)(x[i + 16] * inverse + 8.5f);
        block[2 + i] = (uint8_t)((low > 15 ? 15 : low) | (high > 15 ? 15 : high) << 4);
    }
}

/* row = the n numbers of x stored as `type`; n is a multiple of the type's block, x is finite. */
void quantize(uint8_t *row, const float *x, uint32_t type, size_t n) {
    for (size_t i = 0; i < n && (type == T_F16 || type == T_BF16); i++) {
        uint16_t h = type == T_F16 ? float_to_half(x[i]) : float_to_bf16(x[i]);
        memcpy(row + 2 * i, &h, 2);
    }
    if (type == T_F32) memcpy(row, x, 4 * n);
    for (size_t i = 0; i < n / 32 && type == T_Q8_0; i++) quantize_q8_0(row + 34 * i, x + 32 * i);
    for (size_t i = 0; i < n / 32 && type == T_Q4_0; i++) quantize_q4_0(row + 18 * i, x + 32 * i);
}

/* Activations rounded to 8 bits, block by block of 32: x ~ d (q - 128). Rows are padded with zero
 * blocks to an even number of them, because avx512 works on pairs. */
typedef struct {
    uint8_t *q; /* (n, padded) */
    float *d;   /* (n, padded / 32) */
    size_t padded;
} Rounded;

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
 * 4. The plain level: C that every compiler understands, and the twin the others are tested
 * against */

/* Folds 16 lanes: lane l takes l + 8, then l + 4, l + 2, l + 1. */
static float fold(float lane[16]) {
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* A group of rows of W and where their products go: y[t y_stride + r] = x_t . row_r, n tokens. */
typedef struct {
    const uint8_t *row[ROWS];
    int n_rows, cols, n;
    uint32_t type; /* of the rows */
    float *y;
    size_t y_stride;
} Group;

/* Float path. x: (n, cols); rows of float32. */
static void float_group_plain(const Group *g, const float *x) {
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
static void int8_group_plain(const Group *g, const Rounded *x) {
    for (int r = 0; r < g->n_rows; r++) int8_row_plain(g, x, r);
}

/* ------------------------------------------------------------------------------------------------
 * 5. The avx512 level (with VNNI): the same loops with the accumulators in registers.
 * `always_inline` with constant arguments makes one routine per tile size or type out of each
 * body. */
#ifdef HAVE_X86
#define INLINE static inline __attribute__((always_inline)) AVX512

INLINE float fold_avx512(__m512 v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* 16 numbers of a row from number k on, as float32. */
INLINE __m512 load_avx512(const uint8_t *row, const uint32_t type, int k, __mmask16 mask) {
    if (type == T_F32) return _mm512_maskz_loadu_ps(mask, row + 4 * (size_t)k);
    __m256i half = _mm256_maskz_loadu_epi16(mask, row + 2 * (size_t)k);
    if (type == T_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); /* bf16 */
}

/* R rows from r0 times T tokens from t0: R T accumulators in registers; each step of 16 loads R + T
 * vectors for R T multiply-adds. */
INLINE void float_tile(const uint32_t type, const int R, const int T, const Group *g,
                       const float *x, int r0, int t0) {
    const size_t cols = (size_t)g->cols;
    __m512 acc[ROWS][TOKENS];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) acc[r][t] = _mm512_setzero_ps();
    for (int k = 0; k < g->cols; k += 16) {
        __mmask16 mask = g->cols - k >= 16 ? 0xffff : (__mmask16)((1u << (g->cols - k)) - 1);
        __m512 xt[TOKENS];
        for (int t = 0; t < T; t++)
            xt[t] = _mm512_maskz_loadu_ps(mask, x + (size_t)(t0 + t) * cols + k);
        for (int r = 0; r < R; r++) {
            __m512 w = load_avx512(g->row[r0 + r], type, k, mask);
            for (int t = 0; t < T; t++) acc[r][t] = _mm512_fmadd_ps(xt[t], w, acc[r][t]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            g->y[(size_t)(t0 + t) * g->y_stride + (size_t)(r0 + r)] = fold_avx512(acc[r][t]);
}

/* Covers a group with tiles; TILE(R, T, r0, t0) names one. Full groups meet TOKENS tokens at a
 * time, then single ones; a group with missing rows, at the end of W, goes one by one. */
#define COVER(TILE)                                                                                \
    do {                                                                                           \
        int t = 0;                                                                                 \
        for (; t + TOKENS <= g->n && g->n_rows == ROWS; t += TOKENS) TILE(ROWS, TOKENS, 0, t);     \
        for (; t < g->n && g->n_rows == ROWS; t++) TILE(ROWS, 1, 0, t);                            \
        for (; t < g->n; t++)                                                                      \
            for (int r = 0; r < g->n_rows; r++) TILE(1, 1, r, t);                                  \
    } while (0)

AVX512 static void float_group_avx512(const Group *g, const float *x) {
#define F32_TILE(R, T, r, t)  float_tile(T_F32, R, T, g, x, r, t)
#define F16_TILE(R, T, r, t)  float_tile(T_F16, R, T, g, x, r, t)
#define BF16_TILE(R, T, r, t) float_tile(T_BF16, R, T, g, x, r, t)
    if (g->type == T_F32)
        COVER(F32_TILE);
    else if (g->type == T_F16)
        COVER(F16_TILE);
    else
        COVER(BF16_TILE);
}

/* One 32-block as signed bytes: the codes of unpack_block less their offset. */
INLINE __m256i unpack_avx512(const uint8_t *p, const uint32_t type) {
    p += type == T_Q4_1 || type == T_Q5_1 ? 4 : 2;
    if (type == T_Q8_0) return _mm256_loadu_si256((const __m256i *)p);
    uint32_t fifth = 0;
    if (type == T_Q5_0 || type == T_Q5_1) memcpy(&fifth, p, 4), p += 4;
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m256i code =
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
    if (type == T_Q5_0 || type == T_Q5_1)
        code = _mm256_or_si256(code, _mm256_maskz_set1_epi8((__mmask32)fifth, 16));
    if (type == T_Q4_0) code = _mm256_sub_epi8(code, _mm256_set1_epi8(8));
    if (type == T_Q5_0) code = _mm256_sub_epi8(code, _mm256_set1_epi8(16));
    if (type != T_IQ4_NL) return code;
    __m128i level = _mm_loadu_si128((const __m128i *)iq4_nl_level);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(level), code);
}

/* (ab[0] x 8, ab[1] x 8): the scales of a pair of blocks over the lanes they belong to. */
INLINE __m512 each_8(__m128 ab) {
    const __m512i lanes = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(ab));
}
INLINE __m512 two_halves(const uint8_t *a, const uint8_t *b) {
    return each_8(_mm_cvtph_ps(_mm_cvtsi32_si128((int)(load16(a) | (uint32_t)load16(b) << 16))));
}

/* R stored rows times T rounded tokens, two blocks (64 bytes) a step. vpdpbusd multiplies unsigned
 * bytes by signed ones, four products a lane. The unsigned ones are q = x + 128, and what the 128
 * adds, 128 sum w, depends on the row alone: one more vpdpbusd per row and step, for all tokens. */
INLINE void int8_tile(const uint32_t type, const int R, const int T, const Group *g,
                      const Rounded *x, int r0, int t0) {
    const bool has_min = type == T_Q4_1 || type == T_Q5_1, five = type == T_Q5_0 || type == T_Q5_1;
    const size_t bytes = type == T_Q8_0 ? 34 : (size_t)(18 + 2 * has_min + 4 * five);
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    __m512 acc[ROWS][TOKENS];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) acc[r][t] = _mm512_setzero_ps();
    const size_t blocks = (size_t)g->cols / 32;
    for (size_t b = 0; b < blocks; b += 2) {
        __m512i w[ROWS], start[ROWS]; /* the row's bytes; -128 sum w */
        __m512 d[ROWS], m[ROWS];
        for (int r = 0; r < R; r++) {
            const uint8_t *first = g->row[r0 + r] + b * bytes;
            const uint8_t *second =
                b + 1 < blocks ? first + bytes : first; /* a lone last one: dx = 0 */
            _mm_prefetch((const char *)first + AHEAD, _MM_HINT_T0);
            w[r] = _mm512_inserti64x4(_mm512_castsi256_si512(unpack_avx512(first, type)),
                                      unpack_avx512(second, type), 1);
            start[r] = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), w[r]);
            start[r] = _mm512_sub_epi32(zero, start[r]);
            d[r] = two_halves(first, second);
            m[r] = has_min ? two_halves(first + 2, second + 2) : d[r];
        }
        for (int t = 0; t < T; t++) {
            const size_t at = (size_t)(t0 + t) * x->padded + 32 * b;
            __m512i q = _mm512_loadu_si512(x->q + at), sum = zero;
            __m512 dx = each_8(_mm_castpd_ps(_mm_load_sd((const double *)(x->d + at / 32))));
            if (has_min)
                sum = _mm512_sub_epi32(_mm512_dpbusd_epi32(zero, q, ones), _mm512_set1_epi32(512));
            for (int r = 0; r < R; r++) {
                __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start[r], q, w[r]));
                dot = _mm512_mul_ps(dot, d[r]);
                if (has_min) dot = _mm512_fmadd_ps(m[r], _mm512_cvtepi32_ps(sum), dot);
                acc[r][t] = _mm512_fmadd_ps(dot, dx, acc[r][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            g->y[(size_t)(t0 + t) * g->y_stride + (size_t)(r0 + r)] = fold_avx512(acc[r][t]);
}

AVX512 static void int8_group_avx512(const Group *g, const Rounded *x) {
#define CASE(TYPE, NAME)                                                                           \
    case TYPE:                                                                                     \
        COVER(NAME);                                                                               \
        break;
#define Q8_0_TILE(R, T, r, t)   int8_tile(T_Q8_0, R, T, g, x, r, t)
#define Q4_0_TILE(R, T, r, t)   int8_tile(T_Q4_0, R, T, g, x, r, t)
#define Q4_1_TILE(R, T, r, t)   int8_tile(T_Q4_1, R, T, g, x, r, t)
#define Q5_0_TILE(R, T, r, t)   int8_tile(T_Q5_0, R, T, g, x, r, t)
#define Q5_1_TILE(R, T, r, t)   int8_tile(T_Q5_1, R, T, g, x, r, t)
#define IQ4_NL_TILE(R, T, r, t) int8_tile(T_IQ4_NL, R, T, g, x, r, t)
    switch (g->type) {
        CASE(T_Q8_0, Q8_0_TILE)
        CASE(T_Q4_0, Q4_0_TILE)
        CASE(T_Q4_1, Q4_1_TILE)
        CASE(T_Q5_0, Q5_0_TILE)
        CASE(T_Q5_1, Q5_1_TILE)
        CASE(T_IQ4_NL, IQ4_NL_TILE)
    default: break;
    }
#undef CASE
}

static bool avx512_here(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
static bool bf16_here(void) { return __builtin_cpu_supports("avx512bf16"); }
#endif

/* ------------------------------------------------------------------------------------------------
 * 6. Tiles of gemm: C = A B for training, in registers
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

/* One rounding for a b + c where the target has such an instruction; the library's fmaf is slow. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

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

/* out[k step + l] = row_l[k] for n steps of k: a group whose lanes are rows of memory. `ahead`:
 * bytes from a row to the one that the same lane will hold next. */
static void turn_plain(float *out, size_t step, const float *const row[GROUP], int n,
                       size_t ahead) {
    (void)ahead;
    for (int k = 0; k < n; k++, out += step)
        for (int l = 0; l < GROUP; l++) out[l] = row[l][k];
}

/* out[k step + l] = in[k in_step + l], zeros from lane `lanes` on: its lanes are columns. */
static void copy_plain(float *out, size_t step, const float *in, size_t in_step, int n, int lanes) {
    for (int k = 0; k < n; k++, out += step, in += in_step)
        for (int l = 0; l < GROUP; l++) out[l] = l < lanes ? in[l] : 0;
}

#ifdef HAVE_X86
#define AVX2        __attribute__((target("avx2,fma")))
#define AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))
#define UNROLL      _Pragma("GCC unroll 16") /* gcc: without it the sums move to memory */

/* The tile of R rows and two vectors, for an instruction set with vectors V of L lanes, whose names
 * begin with P; A panels have a step of SLOTS, and one step of the loop is STEP of k. */
#define TILE(NAME, TARGET, R, SLOTS, V, L, P, STEP, FMA)                                           \
    TARGET static void tile_##NAME(int kc, const float *a, const float *b, float *c,               \
                                   size_t stride, bool add) {                                      \
        V sum[R][2];                                                                               \
        UNROLL for (int i = 0; i < R; i++) {                                                       \
            sum[i][0] = sum[i][1] = P##setzero_ps();                                               \
            _mm_prefetch((const char *)(c + (size_t)i * stride), _MM_HINT_T0);                     \
        }                                                                                          \
        for (int k = 0; k < kc; k += STEP, a += SLOTS, b += 2 * L) {                               \
            V b0 = P##loadu_ps(b), b1 = P##loadu_ps(b + L);                                        \
            UNROLL for (int i = 0; i < R; i++) {                                                   \
                V ai = P##set1_ps(a[i]);                                                           \
                sum[i][0] = FMA(ai, b0, sum[i][0]);                                                \
                sum[i][1] = FMA(ai, b1, sum[i][1]);                                                \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < R; i++, c += stride) {                                          \
            V s = sum[i][0], t = sum[i][1];                                                        \
            P##storeu_ps(c, add ? P##add_ps(P##loadu_ps(c), s) : s);                               \
            P##storeu_ps(c + L, add ? P##add_ps(P##loadu_ps(c + L), t) : t);                       \
        }                                                                                          \
    }                                                                                              \
    TARGET static float chains_##NAME(long steps) {                                                \
        V y[CHAINS], x = P##set1_ps(0.999f);                                                       \
        UNROLL for (int c = 0; c < CHAINS; c++) y[c] = P##set1_ps((float)c);                       \
        for (long s = 0; s < steps; s++)                                                           \
            UNROLL for (int c = 0; c < CHAINS; c++) y[c] = FMA(x, x, y[c]);                        \
        UNROLL for (int c = 1; c < CHAINS; c++) y[0] = P##add_ps(y[0], y[c]);                      \
        float sum[L];                                                                              \
        P##storeu_ps(sum, y[0]);                                                                   \
        return sum[0];                                                                             \
    }

/* GEMM_BF16: a lane holds a pair of bfloat16, those of steps 2k and 2k + 1 (pair_up), and vdpbf16ps
 * adds both products, the odd one first. It takes subnormal numbers for zero. */
#define PAIRS(a, b, sum) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))

TILE(avx2, AVX2, 6, 8, __m256, 8, _mm256_, 1, _mm256_fmadd_ps)
TILE(avx512, AVX512, 14, 16, __m512, 16, _mm512_, 1, _mm512_fmadd_ps)
TILE(bf16, AVX512_BF16, 14, 16, __m512, 16, _mm512_, 2, PAIRS)

/* 8 x 8 numbers at a time: pairs of rows, then pairs of pairs, then halves change places. */
AVX2 static void turn_avx2(float *out, size_t step, const float *const row[GROUP], int n,
                           size_t ahead) {
    int k = 0;
    for (; k + 8 <= n; k += 8, out += 8 * step) {
        __m256 r[8], p[8];
        UNROLL for (int l = 0; l < 8; l++) {
            r[l] = _mm256_loadu_ps(row[l] + k);
            _mm_prefetch((const char *)((uintptr_t)(row[l] + k) + ahead), _MM_HINT_T0);
        }
        UNROLL for (int l = 0; l < 8; l++) p[l] =
            l & 1 ? _mm256_unpackhi_ps(r[l - 1], r[l]) : _mm256_unpacklo_ps(r[l], r[l + 1]);
        UNROLL for (int l = 0; l < 8; l++) {
            __m256 a = p[(l & 4) + l / 2 % 2], b = p[(l & 4) + l / 2 % 2 + 2];
            r[l] = l & 1 ? _mm256_shuffle_ps(a, b, 0xee) : _mm256_shuffle_ps(a, b, 0x44);
        }
        UNROLL for (int l = 0; l < 4; l++) {
            float *low = out + (size_t)l * step;
            _mm256_storeu_ps(low, _mm256_permute2f128_ps(r[l], r[l + 4], 0x20));
            _mm256_storeu_ps(low + 4 * step, _mm256_permute2f128_ps(r[l], r[l + 4], 0x31));
        }
    }
    const float *rest[GROUP];
    for (int l = 0; l < GROUP; l++) rest[l] = row[l] + k;
    turn_plain(out, step, rest, n - k, 0);
}

AVX2 static void copy_avx2(float *out, size_t step, const float *in, size_t in_step, int n,
                           int lanes) {
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), number);
    for (int k = 0; k < n; k++, out += step, in += in_step) {
        _mm_prefetch((const char *)((uintptr_t)in + 64 * in_step), _MM_HINT_T0); /* 16 rows on */
        _mm256_storeu_ps(out, _mm256_maskload_ps(in, mask));
    }
}

static bool avx2_here(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

/* ------------------------------------------------------------------------------------------------
 * 7. matmul: picks the level once, then shares the rows among the threads */

static bool plain_here(void) { return true; }

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
    void (*turn)(float *out, size_t step, const float *const row[GROUP], int n, size_t ahead);
    void (*copy)(float *out, size_t step, const float *in, size_t in_step, int n, int lanes);
} Level;

static const Level levels[] = { /* best first */
#ifdef HAVE_X86
                                { "avx512",
                                  avx512_here,
                                  true,
                                  float_group_avx512,
                                  int8_group_avx512,
                                  { 14, 32, tile_avx512, 16, chains_avx512 },
                                  { 14, 32, tile_bf16, 16, chains_bf16 },
                                  bf16_here,
                                  turn_avx2,
                                  copy_avx2 },
                                { "avx2",
                                  avx2_here,
                                  false,
                                  float_group_plain,
                                  int8_group_plain,
                                  { 6, 16, tile_avx2, 8, chains_avx2 },
                                  { 0 },
                                  NULL,
                                  turn_avx2,
                                  copy_avx2 },
#endif
                                { "plain",
                                  plain_here,
                                  false,
                                  float_group_plain,
                                  int8_group_plain,
                                  { 4, 16, tile_plain, 8, chains_plain },
                                  { 0 },
                                  NULL,
                                  turn_plain,
                                  copy_plain }
};
/* The one in use. Atomic, because gemm_here may be the first to ask for it, on several threads. */
static const Level *_Atomic level;

bool matmul_choose(const char *name) {
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (levels[i].here() && (!name || !strcmp(name, levels[i].name))) {
            level = &levels[i];
            return true;
        }
    return false;
}

const char *matmul_level(void) {
    if (!level) matmul_choose(NULL);
    return level->name;
}

int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}
static int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Scratch memory that grows and stays: a fresh block per product would be paged in each time. */
static void *scratch(int slot, size_t bytes) {
    static void *memory[4];
    static size_t size[4];
    if (bytes > size[slot]) {
        free(memory[slot]);
        memory[slot] = NULL;
        if (posix_memalign(&memory[slot], 64, bytes))
            die("matmul: out of memory for %zu bytes", bytes);
        size[slot] = bytes;
    }
    return memory[slot];
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
    if (!level) matmul_choose(NULL);
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

/* ------------------------------------------------------------------------------------------------
 * 8. gemm: cuts C into blocks and tiles, and makes the panels
 *
 *        K-blocks: KC of k         B: a block of columns      C: a block
 *       +----+----+--             +---------------------+    +---------------------+
 *     A |////|    |           x   |/////////////////////|  = |  job   :  job   :   |
 *       +----+----+--             +---------------------+    +---------------------+
 *
 * For each block of C and each K-block, all threads first copy the numbers of A and B (hatched)
 * into panels, then share the tiles of C, a job of some dozens at a time, whose panels stay in the
 * caches. In which block, job, thread or place of a tile an element of C is summed does not change
 * the order of its sum. */

enum { BLOCK_ROWS = 4032, BLOCK_COLS = 4096 }; /* of C, for all threads: panels of 20 MB */
enum { HERE_ROWS = 84, HERE_FLOATS = (2 * HERE_ROWS + 128) * KC }; /* for one: 600 kB */
enum { JOB_ROWS = 126, JOB_COLS = 128, UNIT = 128 };               /* UNIT: lanes copied as a job */
enum { STORED_UNIT = 256, WIDEST = 512 }; /* 256 lanes touch two blocks of 256 at most */

/* A, its rows as lanes, or B, its columns: element (lane, k) at data[lane * lane_step + k * step],
 * or in `stored`. A panel holds `width` lanes in `slots` places. */
typedef struct {
    const float *data;
    size_t lane_step, step;
    const Tensor *stored;
    bool rows; /* a lane is a row of memory: its numbers are neighbours */
    int width, slots, unit;
    int from, count; /* lanes of the block in work ... */
    float *panels;   /* ... and their copies */
} Operand;

typedef struct {
    Operand a, b;
    Tile tile;
    float *c;
    size_t stride;
    int k0, kc, job_rows; /* the K-block in work; how many rows of C are a job */
    bool add, pairs;
} Product;

static int at_most(int n, int limit) { return n < limit ? n : limit; }
static int pieces(int n, int size) { return (n + size - 1) / size; }

static Operand operand(Matrix m, bool lanes_are_rows, int width) {
    Operand o = { .width = width, .slots = pieces(width, GROUP) * GROUP };
    if (m.stored && m.stored->type == T_F32) { /* aligned in the file: see matmul */
        m.data = (const float *)(const void *)m.stored->data;
        m.row = m.transposed ? 1 : (size_t)m.stored->cols;
        m.col = m.transposed ? (size_t)m.stored->cols : 1;
        m.stored = NULL;
    }
    o.data = m.data;
    o.stored = m.stored;
    o.lane_step = lanes_are_rows ? m.row : m.col;
    o.step = lanes_are_rows ? m.col : m.row;
    o.rows = m.stored ? lanes_are_rows != m.transposed : o.step == 1;
    o.unit = (m.stored ? STORED_UNIT : UNIT) / width * width;
    return o;
}

/* n numbers of a stored row from `from` on, both multiples of the block. */
static void stored_row(float *out, const Tensor *t, int row, int from, int n) {
    const uint8_t *data = t->data + (size_t)row * row_bytes(t->type, (size_t)t->cols);
    dequantize(out, data, t->type, (size_t)from, (size_t)n);
}

/* One panel, whose lanes are rows of memory. */
static void pack_rows(const Operand *o, float *panel, int first, int count, int k0, int kc) {
    static const float zeros[KC];
    float unpacked[GROUP][KC];
    size_t ahead = o->stored ? 0 : GROUP * o->lane_step * sizeof(float);
    for (int s = 0; s < o->slots; s += GROUP) {
        const float *row[GROUP];
        for (int l = 0; l < GROUP; l++) {
            int lane = first + s + l;
            row[l] = zeros;
            if (s + l >= count) continue;
            if (o->stored) stored_row(unpacked[l], o->stored, lane, k0, kc);
            row[l] = o->stored ? unpacked[l] : o->data + (size_t)lane * o->lane_step + k0;
        }
        level->turn(panel + s, (size_t)o->slots, row, kc, ahead);
    }
}

/* The panels of `count` lanes, which are columns of memory; 8 rows of it at a time. */
static void pack_columns(const Operand *o, float *panels, int first, int count, int k0, int kc) {
    float unpacked[8][WIDEST];
    for (int k = 0; k < kc; k += 8) {
        int n = at_most(8, kc - k);
        const float *in = o->stored ? NULL : o->data + (size_t)(k0 + k) * o->step + first;
        if (o->stored) {
            int block = type_info(o->stored->type)->block, from = first / block * block;
            int width = pieces(first + count - from, block) * block;
            for (int i = 0; i < n; i++) stored_row(unpacked[i], o->stored, k0 + k + i, from, width);
            in = unpacked[0] + (first - from);
        }
        for (int l = 0; l < count; l += o->width)
            for (int s = 0; s < o->slots; s += GROUP) {
                float *out = panels + (size_t)(l / o->width * kc + k) * (size_t)o->slots + s;
                int lanes = at_most(o->width, count - l) - s;
                level->copy(out, (size_t)o->slots, lanes > 0 ? in + l + s : in,
                            o->stored ? WIDEST : o->step, n, lanes);
            }
    }
}

/* Steps 2k and 2k + 1 of a panel become one step of pairs of bfloat16, in place. */
static void pair_up(float *panel, int slots, int kc) {
    for (int k = 0; k < kc; k += 2)
        for (int l = 0; l < slots; l++) {
            const float *even = panel + (size_t)k * (size_t)slots + l;
            uint32_t odd = k + 1 < kc ? float_to_bf16(even[slots]) : 0;
            uint32_t pair = float_to_bf16(*even) | odd << 16;
            memcpy(panel + (size_t)(k / 2) * (size_t)slots + l, &pair, 4);
        }
}

/* Job: a unit of lanes of A, or behind those of A one of B. */
static void pack_job(const Product *p, int job) {
    int of_a = pieces(p->a.count, p->a.unit), unit = job < of_a ? job : job - of_a;
    const Operand *o = job < of_a ? &p->a : &p->b;
    size_t panel = (size_t)o->slots * (size_t)p->kc;
    int first = unit * o->unit, count = at_most(o->unit, o->count - first);
    float *panels = o->panels + (size_t)(first / o->width) * panel;
    first += o->from;
    if (!o->rows) pack_columns(o, panels, first, count, p->k0, p->kc);
    for (int l = 0; l < count; l += o->width, panels += panel) {
        if (o->rows) pack_rows(o, panels, first + l, at_most(o->width, count - l), p->k0, p->kc);
        if (p->pairs) pair_up(panels, o->slots, p->kc);
    }
}

/* The tile of C at (i, j) of the block. One that C's border cuts is summed elsewhere, and its
 * elements inside C are taken. */
static void one_tile(const Product *p, int i, int j) {
    const int rows = p->tile.rows, cols = p->tile.cols;
    const float *a = p->a.panels + (size_t)(i / rows * p->a.slots) * (size_t)p->kc;
    const float *b = p->b.panels + (size_t)(j / cols * p->b.slots) * (size_t)p->kc;
    float *c = p->c + (size_t)(p->a.from + i) * p->stride + (size_t)(p->b.from + j);
    int m = at_most(rows, p->a.count - i), n = at_most(cols, p->b.count - j);
    if (m == rows && n == cols) {
        p->tile.run(p->kc, a, b, c, p->stride, p->add);
        return;
    }
    float whole[14 * 32];
    p->tile.run(p->kc, a, b, whole, (size_t)cols, false);
    for (int r = 0; r < m; r++, c += p->stride)
        for (int q = 0; q < n; q++)
            c[q] = p->add ? c[q] + whole[r * cols + q] : whole[r * cols + q];
}

static void tile_job(const Product *p, int job) {
    int across = pieces(p->b.count, JOB_COLS);
    int i0 = job / across * p->job_rows, j0 = job % across * JOB_COLS;
    int i1 = at_most(i0 + p->job_rows, p->a.count), j1 = at_most(j0 + JOB_COLS, p->b.count);
    for (int i = i0; i < i1; i += p->tile.rows)
        for (int j = j0; j < j1; j += p->tile.cols) one_tile(p, i, j);
}

static void run_jobs(const Product *p, void (*job)(const Product *, int), int n, bool share) {
    if (!share) {
        for (int i = 0; i < n; i++) job(p, i);
        return;
    }
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) job(p, i);
}

/* One K-block of one block of C, in jobs of fewer rows where there are more threads than work. */
static void block_product(Product *p, bool share) {
    int across = pieces(p->b.count, JOB_COLS), enough = share ? 4 * thread_count() : 1;
    run_jobs(p, pack_job, pieces(p->a.count, p->a.unit) + pieces(p->b.count, p->b.unit), share);
    int tiles = JOB_ROWS / p->tile.rows;
    while (tiles > 1 && across * pieces(p->a.count, tiles * p->tile.rows) < enough) tiles /= 2;
    p->job_rows = tiles * p->tile.rows;
    run_jobs(p, tile_job, across * pieces(p->a.count, p->job_rows), share);
}

bool gemm_has_bf16(void) {
    if (!level) matmul_choose(NULL);
    return level->bf16_here && level->bf16_here();
}

static void product(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags,
                    bool share) {
    static _Thread_local _Alignas(64) float own[HERE_FLOATS];
    const bool pairs = flags & GEMM_BF16 && gemm_has_bf16();
    if (!level) matmul_choose(NULL);
    Product p = { .c = c, .stride = stride, .pairs = pairs };
    p.tile = pairs ? level->bf16 : level->tile;
    p.a = operand(a, true, p.tile.rows);
    p.b = operand(b, false, p.tile.cols);
    const int deep = k < 1 ? 1 : at_most(k, KC), rows = at_most(m, share ? BLOCK_ROWS : HERE_ROWS);
    const int slots = pieces(rows, p.a.width) * p.a.slots;
    const int cols = at_most(n, share ? BLOCK_COLS : (HERE_FLOATS / deep - slots) / 32 * 32);
    const int b_slots = pieces(cols, p.b.width) * p.b.slots;
    p.a.panels = share ? scratch(3, (size_t)(slots + b_slots) * (size_t)deep * 4) : own;
    p.b.panels = p.a.panels + (size_t)slots * (size_t)deep;
    for (p.b.from = 0; p.b.from < n; p.b.from += cols)
        for (p.a.from = 0; p.a.from < m; p.a.from += rows) {
            p.b.count = at_most(cols, n - p.b.from);
            p.a.count = at_most(rows, m - p.a.from);
            p.k0 = 0;
            do { /* once even if there is nothing to sum: C = 0 */
                p.kc = at_most(KC, k - p.k0);
                p.add = flags & GEMM_ADD || p.k0;
                block_product(&p, share);
            } while ((p.k0 += KC) < k);
        }
}

void gemm(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags) {
    product(c, stride, a, b, m, n, k, flags, true);
}
void gemm_here(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags) {
    product(c, stride, a, b, m, n, k, flags, false);
}

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Rounds of a few milliseconds, for a tenth of a second; the best counts, because other programs
 * can only make them slower. */
double matmul_peak(bool bf16) {
    const bool pairs = bf16 && gemm_has_bf16();
    if (!level) matmul_choose(NULL);
    const Tile *t = pairs ? &level->bf16 : &level->tile;
    const long steps = 400000;
    double best = 0, begun = seconds(), flops = (pairs ? 4.0 : 2.0) * CHAINS * t->lanes;
    do {
        double start = seconds();
        float sum = 0;
#pragma omp parallel reduction(+ : sum)
        sum += t->chains(steps);
        double taken = seconds() - start;
        if (sum > 0) best = fmax(best, flops * (double)steps * thread_count() / taken);
    } while (seconds() - begun < 0.1);
    return best * 1e-9;
}
