/* quants.c: the formats that weights are stored in, to and from float32.
 *
 * A block of 32 or 256 weights shares a scale, so that a weight costs 4 to 8 bits instead of 32.
 * What a format means stands here, once, in plain C; the fast routines of cpu/ are tested against
 * these. Sections: 1 dequantize, 2 quantize. Test: tests/test_format.c. */
#include "cpu/kernels.h" /* half and bfloat16, unpack_block */

#define TINY 1e-30f /* blocks of smaller numbers are zero: their inverse would overflow */

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

/* The bytes of a 32-block as small unsigned codes; returns where its scale stands in *d, *m. */
void unpack_block(uint8_t code[32], float *d, float *m, const uint8_t *block, uint32_t type) {
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
int code_offset(uint32_t type) {
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
