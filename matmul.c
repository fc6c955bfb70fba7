/* matmul.c: y = x W^T for every storage type. The only C file with intrinsics; a reader of the
 * model may skip it: run.c needs nothing but the sentence above.
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
 * Sections: 1 numbers, 2 dequantize, 3 quantize, 4 plain level, 5 avx512 level, 6 matmul.
 * Test: tests/test_format.c (all types, odd shapes, threads). Measure: make bench. */
#include "opencoder.h" /* Tensor, type_info, die */
#ifdef _OPENMP
#include <omp.h> /* omp_get_thread_num, omp_get_max_threads */
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_AVX512 1
#include <immintrin.h> /* _mm512_* */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#endif

#define TINY 1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */
enum { ROWS = 4, TOKENS = 4, INT8_TOKENS = 8 }; /* tile sizes: rows and tokens held in registers */

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

/* Activations rounded to int8, block by block of 32: x ~ d q. Rows are padded with zero blocks to
 * an even number of them, because avx512 works on pairs. */
typedef struct {
    int8_t *q;    /* (n, padded) */
    float *d;     /* (n, padded / 32) */
    int32_t *sum; /* (n, padded / 4): sums of four neighbours of q, what code offsets multiply */
    size_t padded;
} Rounded;

static void round_token(const Rounded *r, int t, const float *x, int cols) {
    int8_t *q = r->q + (size_t)t * r->padded;
    float *d = r->d + (size_t)t * r->padded / 32;
    int32_t *sum = r->sum + (size_t)t * r->padded / 4;
    memset(q + cols, 0, r->padded - (size_t)cols);
    d[r->padded / 32 - 1] = 0;
    for (int b = 0; b < cols; b += 32) {
        float largest = 0, bad = 0; /* bad: NaN as soon as one number is Inf or NaN */
        for (int i = 0; i < 32; i++) {
            largest = fmaxf(largest, fabsf(x[b + i]));
            bad += x[b + i] * 0;
        }
        float inverse = largest > TINY && bad == 0 ? 127 / largest : 0;
        d[b / 32] = largest / 127 + bad;
        for (int i = 0; i < 32; i++) q[b + i] = inverse > 0 ? (int8_t)rintf(x[b + i] * inverse) : 0;
    }
    for (size_t i = 0; i < r->padded / 4; i++) {
        const int8_t *p = q + 4 * i;
        sum[i] = p[0] + p[1] + p[2] + p[3];
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

/* y[t y_stride + r] = x_t . w_r for n_rows <= ROWS rows of float32 and n tokens. */
static void float_tile_plain(float *y, size_t y_stride, const float *x, const float *const *w,
                             int n_rows, int cols, int n) {
    for (int t = 0; t < n; t++)
        for (int r = 0; r < n_rows; r++) {
            float lane[16] = { 0 };
            const float *a = x + (size_t)t * (size_t)cols, *b = w[r];
            int k = 0;
            for (; k + 16 <= cols; k += 16)
                for (int l = 0; l < 16; l++) lane[l] += a[k + l] * b[k + l];
            for (int l = 0; k + l < cols; l++) lane[l] += a[k + l] * b[k + l];
            y[(size_t)t * y_stride + (size_t)r] = fold(lane);
        }
}

/* y[t y_stride] = x_t . row for n rounded tokens and one stored row of 32-blocks:
 * sum over blocks of dx (d sum (code - offset) q  +  m sum q), sums in integers. */
static void int8_row_plain(float *y, size_t y_stride, const Rounded *x, const uint8_t *row,
                           uint32_t type, int cols, int n) {
    int bytes = type_info(type)->bytes, offset = code_offset(type);
    for (int t = 0; t < n; t++) {
        const int8_t *q = x->q + (size_t)t * x->padded;
        float total = 0;
        for (int b = 0; b < cols / 32; b++, q += 32) {
            uint8_t code[32];
            float d, m;
            int dot = 0, sum = 0;
            unpack_block(code, &d, &m, row + (size_t)b * (size_t)bytes, type);
            for (int i = 0; i < 32; i++) dot += (code[i] - offset) * q[i], sum += q[i];
            float dx = x->d[(size_t)t * x->padded / 32 + (size_t)b];
            total += dx * (d * (float)dot + m * (float)sum);
        }
        y[(size_t)t * y_stride] = total;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 5. The avx512 level (with VNNI): the same loops with the accumulators in registers.
 * `always_inline` with constant arguments makes one routine per tile size or type out of each
 * body. */
#ifdef HAVE_AVX512
#define INLINE static inline __attribute__((always_inline)) AVX512

INLINE float fold_avx512(__m512 v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* R rows times T tokens: R T accumulators; each step loads R + T vectors for R T multiply-adds. */
INLINE void float_tile_rt(const int R, const int T, float *y, size_t y_stride, const float *x,
                          const float *const *w, int cols) {
    __m512 acc[ROWS][TOKENS];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) acc[r][t] = _mm512_setzero_ps();
    for (int k = 0; k < cols; k += 16) {
        __mmask16 mask = cols - k >= 16 ? 0xffff : (__mmask16)((1u << (cols - k)) - 1);
        __m512 a[TOKENS];
        for (int t = 0; t < T; t++)
            a[t] = _mm512_maskz_loadu_ps(mask, x + (size_t)t * (size_t)cols + k);
        for (int r = 0; r < R; r++) {
            __m512 b = _mm512_maskz_loadu_ps(mask, w[r] + k);
            for (int t = 0; t < T; t++) acc[r][t] = _mm512_fmadd_ps(a[t], b, acc[r][t]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) y[(size_t)t * y_stride + (size_t)r] = fold_avx512(acc[r][t]);
}

AVX512 static void float_tile_avx512(float *y, size_t y_stride, const float *x,
                                     const float *const *w, int n_rows, int cols, int n) {
    int t = 0;
    for (; t + TOKENS <= n && n_rows == ROWS; t += TOKENS)
        float_tile_rt(ROWS, TOKENS, y + (size_t)t * y_stride, y_stride,
                      x + (size_t)t * (size_t)cols, w, cols);
    for (; t < n; t++)
        for (int r = 0; r < n_rows; r++)
            float_tile_rt(1, 1, y + (size_t)t * y_stride + r, y_stride,
                          x + (size_t)t * (size_t)cols, w + r, cols);
}

/* f16 and bf16 rows to float32, 16 numbers a step; the other types go through dequantize. */
AVX512 static void expand_avx512(float *out, const uint8_t *row, uint32_t type, int cols) {
    int k = 0;
    for (; k + 16 <= cols && (type == T_F16 || type == T_BF16); k += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(row + 2 * (size_t)k));
        __m512 f = type == T_F16
                       ? _mm512_cvtph_ps(h)
                       : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
        _mm512_storeu_ps(out + k, f);
    }
    if (k < cols) dequantize(out + k, row, type, (size_t)k, (size_t)(cols - k));
}

/* One 32-block as bytes: see unpack_block. */
INLINE __m256i unpack_avx512(const uint8_t *p, const uint32_t type) {
    p += type == T_Q4_1 || type == T_Q5_1 ? 4 : 2;
    if (type == T_Q8_0)
        return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi8(-128));
    uint32_t fifth = 0;
    if (type == T_Q5_0 || type == T_Q5_1) memcpy(&fifth, p, 4), p += 4;
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m256i code =
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
    if (type == T_Q5_0 || type == T_Q5_1)
        code = _mm256_or_si256(code, _mm256_maskz_set1_epi8((__mmask32)fifth, 16));
    if (type == T_IQ4_NL) {
        __m128i level = _mm_loadu_si128((const __m128i *)iq4_nl_level);
        level = _mm_xor_si128(level, _mm_set1_epi8(-128));
        code = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(level), code);
    }
    return code;
}

/* (a x 8, b x 8): what belongs to the two blocks of a pair. */
INLINE __m512 two_avx512(float a, float b) {
    return _mm512_insertf32x8(_mm512_set1_ps(a), _mm256_set1_ps(b), 1);
}

/* One stored row times T rounded tokens, two blocks (64 bytes) a step. vpdpbusd multiplies unsigned
 * codes by signed q; the codes' offset is taken back with the stored sums of q:
 * sum (code - offset) q = sum code q - offset sum q, lane by lane. */
INLINE void int8_row_t(const uint32_t type, const int T, float *y, size_t y_stride,
                       const Rounded *x, int t0, const uint8_t *row, int cols) {
    const int bytes = type == T_Q8_0   ? 34
                      : type == T_Q5_1 ? 24
                      : type == T_Q5_0 ? 22
                      : type == T_Q4_1 ? 20
                                       : 18;
    const __m512i offset = _mm512_set1_epi32(-code_offset(type));
    const bool has_min = type == T_Q4_1 || type == T_Q5_1;
    __m512 acc[INT8_TOKENS];
    for (int t = 0; t < T; t++) acc[t] = _mm512_setzero_ps();
    for (int b = 0; b < cols / 32; b += 2, row += 2 * bytes) {
        const bool pair = b + 1 < cols / 32;
        const uint8_t *second = pair ? row + bytes : row; /* a lone last block meets q = 0 there */
        __m512i code = _mm512_inserti64x4(_mm512_castsi256_si512(unpack_avx512(row, type)),
                                          unpack_avx512(second, type), 1);
        __m512 d = two_avx512(_cvtsh_ss(load16(row)), _cvtsh_ss(load16(second)));
        __m512 m = d;
        if (has_min) m = two_avx512(_cvtsh_ss(load16(row + 2)), _cvtsh_ss(load16(second + 2)));
        for (int t = 0; t < T; t++) {
            size_t at = (size_t)(t0 + t) * x->padded + 32 * (size_t)b;
            __m512i q = _mm512_loadu_si512(x->q + at);
            __m512i sum = _mm512_loadu_si512(x->sum + at / 4);
            __m512i start = has_min ? _mm512_setzero_si512() : _mm512_mullo_epi32(sum, offset);
            __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, code, q));
            __m512 dx = two_avx512(x->d[at / 32], x->d[at / 32 + 1]);
            dot = _mm512_mul_ps(dot, d);
            if (has_min) dot = _mm512_fmadd_ps(m, _mm512_cvtepi32_ps(sum), dot);
            acc[t] = _mm512_fmadd_ps(dot, dx, acc[t]);
        }
    }
    for (int t = 0; t < T; t++) y[(size_t)t * y_stride] = fold_avx512(acc[t]);
}

AVX512 static void int8_row_avx512(float *y, size_t y_stride, const Rounded *x, const uint8_t *row,
                                   uint32_t type, int cols, int n) {
#define ROW(TYPE)                                                                                  \
    case TYPE:                                                                                     \
        for (; t + INT8_TOKENS <= n; t += INT8_TOKENS)                                             \
            int8_row_t(TYPE, INT8_TOKENS, y + (size_t)t * y_stride, y_stride, x, t, row, cols);    \
        for (; t < n; t++)                                                                         \
            int8_row_t(TYPE, 1, y + (size_t)t * y_stride, y_stride, x, t, row, cols);              \
        break;
    int t = 0;
    switch (type) {
        ROW(T_Q8_0)
        ROW(T_Q4_0)
        ROW(T_Q4_1)
        ROW(T_Q5_0)
        ROW(T_Q5_1)
        ROW(T_IQ4_NL)
    default: break;
    }
#undef ROW
}

static bool avx512_here(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

/* ------------------------------------------------------------------------------------------------
 * 6. matmul: picks the level once, then shares the rows among the threads */

static void expand_plain(float *out, const uint8_t *row, uint32_t type, int cols) {
    dequantize(out, row, type, 0, (size_t)cols);
}
static bool plain_here(void) { return true; }

typedef struct {
    const char *name;
    bool (*here)(void); /* does this CPU have it? */
    void (*expand)(float *out, const uint8_t *row, uint32_t type, int cols);
    void (*float_tile)(float *y, size_t y_stride, const float *x, const float *const *w, int n_rows,
                       int cols, int n);
    void (*int8_row)(float *y, size_t y_stride, const Rounded *x, const uint8_t *row, uint32_t type,
                     int cols, int n);
} Level;

static const Level levels[] = { /* best first */
#ifdef HAVE_AVX512
                                { "avx512", avx512_here, expand_avx512, float_tile_avx512,
                                  int8_row_avx512 },
#endif
                                { "plain", plain_here, expand_plain, float_tile_plain,
                                  int8_row_plain }
};
static const Level *level;

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

static int thread_count(void) {
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

static void matmul_float(float *y, const float *x, const Tensor *w, int n) {
    size_t bytes = row_bytes(w->type, (size_t)w->cols), cols = (size_t)w->cols;
    float *expanded =
        w->type == T_F32 ? NULL : scratch(0, (size_t)thread_count() * ROWS * cols * 4);
#pragma omp parallel for schedule(static)
    for (int r0 = 0; r0 < w->rows; r0 += ROWS) {
        int n_rows = w->rows - r0 < ROWS ? w->rows - r0 : ROWS;
        const float *row[ROWS];
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *stored = w->data + (size_t)(r0 + r) * bytes;
            row[r] = (const float *)(const void *)stored;
            if (!expanded) continue;
            float *out = expanded + ((size_t)thread_number() * ROWS + (size_t)r) * cols;
            level->expand(out, stored, w->type, w->cols);
            row[r] = out;
        }
        level->float_tile(y + r0, (size_t)w->rows, x, row, n_rows, w->cols, n);
    }
}

static void matmul_int8(float *y, const float *x, const Tensor *w, int n) {
    size_t bytes = row_bytes(w->type, (size_t)w->cols), padded = ((size_t)w->cols + 63) / 64 * 64;
    Rounded r = { scratch(1, (size_t)n * padded), scratch(2, (size_t)n * padded / 8),
                  scratch(3, (size_t)n * padded), padded };
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int t = 0; t < n; t++) round_token(&r, t, x + (size_t)t * (size_t)w->cols, w->cols);
#pragma omp for schedule(static)
        for (int row = 0; row < w->rows; row++)
            level->int8_row(y + row, (size_t)w->rows, &r, w->data + (size_t)row * bytes, w->type,
                            w->cols, n);
    }
}

/* y (n, rows) = x (n, cols) W^T. Tensors are 32-byte aligned in the file, so f32 rows are used in
 * place. */
void matmul(float *y, const float *x, const Tensor *w, int n, bool exact) {
    if (!level) matmul_choose(NULL);
    bool blocks_of_32 = type_info(w->type)->block == 32;
    if (blocks_of_32 && !exact)
        matmul_int8(y, x, w, n);
    else
        matmul_float(y, x, w, n);
}
