/* quants.c: the formats that weights are stored in, to and from float32.
 *
 * A block of 32 or 256 weights shares a scale, so that a weight costs 4 to 8 bits instead of 32.
 * What a format means stands here, once, in plain C; the fast routines of cpu/ are tested against
 * these. Sections: 1 dequantize, 2 quantize. Test: tests/test_format.c. */
#include "cpu/kernels.h" /* half and bfloat16, iq4_nl_level */

#define SMALLEST_HALF 0x1p-24f
#define TINY          1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */

/* ------------------------------------------------------------------------------------------------
 * 1. Dequantize: one function per block layout, out = the block's numbers in order
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

/* Every block comes apart into codes, whole numbers, and for each 32 of them a scale and a minimum:
 * number i = d[i / 32] code[i] + m[i / 32]. Codes are exact, and so is d: s stands in it (q4_k,
 * q5_k) or, where 16 numbers share an s, in the codes (q6_k). */

static void unpack_32(int16_t code[32], float *d, float *m, const uint8_t *block, uint32_t type) {
    bool with_min = has_min(type), five = type == T_Q5_0 || type == T_Q5_1;
    int offset = type == T_Q4_0 ? 8 : type == T_Q5_0 ? 16 : 0;
    *d = load_half(block);
    *m = with_min ? load_half(block + 2) : 0;
    block += with_min ? 4 : 2;
    uint32_t fifth = 0;
    if (five) memcpy(&fifth, block, 4), block += 4;
    for (int i = 0; i < 32 && type == T_Q8_0; i++) code[i] = (int8_t)block[i];
    for (int i = 0; i < 16 && type != T_Q8_0; i++) {
        int low = block[i] & 15, high = block[i] >> 4;
        low |= (int)(fifth >> i & 1) << 4;
        high |= (int)(fifth >> (i + 16) & 1) << 4;
        code[i] = (int16_t)(type == T_IQ4_NL ? iq4_nl_level[low] : low - offset);
        code[i + 16] = (int16_t)(type == T_IQ4_NL ? iq4_nl_level[high] : high - offset);
    }
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
static void unpack_k45(int16_t *code, float d[8], float m[8], const uint8_t *block, bool five) {
    float scale, min;
    const uint8_t *fifth = block + 16, *q = block + (five ? 48 : 16);
    for (int j = 0; j < 8; j++) {
        k_scale_min(block + 4, j, &scale, &min);
        d[j] = load_half(block) * scale;
        m[j] = -(load_half(block + 2) * min);
        for (int i = 0; i < 32; i++) {
            int bits = j & 1 ? q[j / 2 * 32 + i] >> 4 : q[j / 2 * 32 + i] & 15;
            if (five) bits |= (fifth[i] >> j & 1) << 4;
            *code++ = (int16_t)bits;
        }
    }
}

/* q6_k: two halves of 128; in a half, sub-row r of 4 (32 elements) takes the low (r < 2) or high
 * nibbles of 32 bytes (r odd: the second 32) and bits 2r, 2r+1 of the 2-bit bytes. */
static void unpack_k6(int16_t *code, float d[8], float m[8], const uint8_t *block) {
    for (int j = 0; j < 8; j++) {
        int half = j / 4, r = j % 4;
        const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
        const uint8_t *scale = block + 192 + 8 * half;
        d[j] = load_half(block + 208);
        m[j] = 0;
        for (int i = 0; i < 32; i++) {
            int nibble = r < 2 ? low[32 * (r & 1) + i] & 15 : low[32 * (r & 1) + i] >> 4;
            int q = (nibble | (high[i] >> 2 * r & 3) << 4) - 32;
            *code++ = (int16_t)((int8_t)scale[2 * r + i / 16] * q);
        }
    }
}

void unpack_block(int16_t *code, float *d, float *m, const uint8_t *block, uint32_t type) {
    if (type == T_Q4_K || type == T_Q5_K)
        unpack_k45(code, d, m, block, type == T_Q5_K);
    else if (type == T_Q6_K)
        unpack_k6(code, d, m, block);
    else
        unpack_32(code, d, m, block, type);
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
    int16_t code[256];
    float d[8], m[8];
    for (; n; n -= (size_t)info->block, p += info->bytes) {
        unpack_block(code, d, m, p, type);
        for (int i = 0; i < info->block; i++) *out++ = d[i / 32] * (float)code[i] + m[i / 32];
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Quantize, for the types that convert writes */

/* d = largest magnitude / 127, q = x / d rounded. */
static void quantize_q8_0(uint8_t *block, const float *x) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float d = largest / 127, inverse = d > TINY ? 1 / d : 0;
    uint16_t half = float_to_half(d);
    memcpy(block, &half, 2);
    for (int i = 0; i < 32; i++) block[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

/* q4_0 has 16 levels d q, q from -8 to 7, and d of either sign. The block's d is searched for that
 * makes sum_i (x_i - d q_i)^2 least. For given q that is a parabola in d, whose lowest point is
 *
 *     d = sum x q / sum q^2      and there      sum x^2 - (sum x q)^2 / sum q^2
 *
 * so the best q have the largest (sum x q)^2 / sum q^2. They are looked for among those that SCALES
 * values of 1/d give: with extreme, the number of largest magnitude, for the unit, it goes to level
 * 5 to 7.8, or to -7.25 to -9.5, which is to be cut off at -8. On average the error is the least
 * that any half gives within 0.02 %; with extreme at -8 in every block it was 13 % larger (make
 * test-format). The lanes of the inner loops are the scales: compilers make vector code of them.
 * Weighting the errors, by |x| or x^2, gave a larger KL of a trained model: bench/results. */
enum { SCALES = 24, NEAR = 4 };

/* The code of the level nearest to x, which is in units of d: 8 more than the level. */
static int q4_0_code(float x) {
    x = fabsf(x + 8) - fabsf(x - 7); /* from -15 to 15: cut off */
    return (int)(0.5f * x + 8);
}

static float q4_0_search(const float *x, float extreme) {
    float inverse[SCALES], xq[SCALES] = { 0 }, qq[SCALES] = { 0 }, one = 1 / extreme;
    for (int s = 0; s < SCALES; s++)
        inverse[s] = s < 8 ? 5 + 0.4f * (float)s : -7.25f - 0.15f * (float)(s - 8);
    for (int i = 0; i < 32; i++)
        for (int s = 0; s < SCALES; s++) {
            float unit = x[i] * one, q = (float)(q4_0_code(unit * inverse[s]) - 8);
            xq[s] += unit * q;
            qq[s] += q * q;
        }
    int best = 0;
    for (int s = 1; s < SCALES; s++)
        if (xq[s] * xq[s] * qq[best] > xq[best] * xq[best] * qq[s]) best = s;
    return xq[best] / qq[best] * extreme;
}

/* d is stored as a half: of the halves next to the best d, and the one that puts extreme at -8, the
 * one of the least error, counted as it will be read. */
static float q4_0_round(const float *x, float d, float extreme) {
    float scale[NEAR], inverse[NEAR], error[NEAR] = { 0 };
    int half = float_to_half(fabsf(d));
    half = half < 2 ? 2 : half > 0x7bfe ? 0x7bfe : half; /* above 0 and finite, as are the next */
    for (int s = 0; s < 3; s++) scale[s] = copysignf(half_to_float((uint16_t)(half + 1 - s)), d);
    scale[3] = half_to_float(float_to_half(extreme / -8));
    for (int s = 0; s < NEAR; s++) inverse[s] = scale[s] != 0 ? 1 / scale[s] : 0;
    for (int i = 0; i < 32; i++)
        for (int s = 0; s < NEAR; s++) {
            float miss = x[i] - scale[s] * (float)(q4_0_code(x[i] * inverse[s]) - 8);
            error[s] += miss * miss;
        }
    int best = 0;
    for (int s = 1; s < NEAR; s++)
        if (error[s] < error[best]) best = s;
    return scale[best];
}

static void quantize_q4_0(uint8_t *block, const float *x) {
    float largest[8] = { 0 };
    int at = 0;
    for (int i = 0; i < 32; i += 8)
        for (int l = 0; l < 8; l++)
            largest[l] = fabsf(x[i + l]) > largest[l] ? fabsf(x[i + l]) : largest[l];
    for (int half = 4; half; half /= 2)
        for (int l = 0; l < half; l++)
            largest[l] = largest[l + half] > largest[l] ? largest[l + half] : largest[l];
    while (fabsf(x[at]) < largest[0]) at++;
    float extreme = x[at], d = fabsf(extreme) > SMALLEST_HALF / 2
                                   ? q4_0_round(x, q4_0_search(x, extreme), extreme)
                                   : 0; /* nothing but zeros comes closer */
    float inverse = d != 0 ? 1 / d : 0;
    int code[32], least = 15;
    for (int i = 0; i < 32; i++) {
        code[i] = q4_0_code(x[i] * inverse);
        least = code[i] < least ? code[i] : least;
    }
    /* Without a -8 all signs may be turned: d is then positive, so that what was dequantized
     * comes back as the same bytes. */
    bool turn = d < 0 && least > 0;
    for (int i = 0; i < 32 && turn; i++) code[i] = 16 - code[i];
    uint16_t half = float_to_half(turn ? -d : d);
    memcpy(block, &half, 2);
    for (int i = 0; i < 16; i++) block[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
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
