/* int8_neon.h: products of whole numbers for ARM (kernels.h, section 3), included by neon.c with
 * DOTPROD 0 and by dotprod.c with DOTPROD 1.
 *
 * Codes come apart into signed bytes. sdot adds four products of bytes to each lane of 32 bits,
 * sixteen an instruction; processors without it multiply bytes in 16 bits, two products of which
 * have room there (2 128 127 = 32512), and add neighbours in 32. In panels, where a register has
 * codes of four or eight rows, they take
 *
 *     dotprod   bytes   4 rows x 4 k, times 4 k of one token    sdot, by lane
 *     neon      words   8 rows x 1 k, times 1 k of one token    smlal and smlal2, by lane
 *
 * Test: tests/test_int8.c, by tests/test_neon.py. */

enum { AHEAD_NEON = 512 }; /* bytes to fetch ahead of their use */

#if DOTPROD
/* acc += a b; FORM: b is "16b", or "4b[lane]": four bytes that all lanes of a meet. In assembly,
 * because clang before version 16 has the intrinsic only where the whole file may use it; volatile,
 * because in the order that gcc 12 would give them, the sums of a tile do not stay in registers. */
#define SDOT(acc, a, b, FORM)                                                                      \
    __asm__ volatile("sdot %0.4s, %1.16b, %2." FORM : "+w"(acc) : "w"(a), "w"(b))
#endif

/* acc += a b, sixteen products into four lanes. */
INLINE int32x4_t dot_16(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if DOTPROD
    SDOT(acc, a, b, "16b");
    return acc;
#else
    return vpadalq_s16(acc, vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b));
#endif
}

/* ------------------------------------------------------------------------------------------------
 * 1. A superblock comes apart */

/* Eight blocks of two vectors, and their scales and minima; q6_k: the scales of 16 codes each. */
typedef struct {
    int8x16_t code[16], scale;
    V d, m;
} Codes;

/* Eight halves, `step` bytes apart. */
INLINE V eight_halves(const uint8_t *p, const size_t step) {
    const uint16_t half[8] = { load16(p),
                               load16(p + step),
                               load16(p + 2 * step),
                               load16(p + 3 * step),
                               load16(p + 4 * step),
                               load16(p + 5 * step),
                               load16(p + 6 * step),
                               load16(p + 7 * step) };
    return widen_f16(vld1q_u16(half));
}
INLINE V every_half(const uint8_t *p) { return widen_f16(vdupq_n_u16(load16(p))); }

/* 16 in every byte whose bit of the 16 is set. */
INLINE uint8x16_t fifth_bits(const uint8_t *p) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    uint8x16_t v = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return vandq_u8(vtstq_u8(v, bit), vdupq_n_u8(16));
}

INLINE void unpack_32_neon(Codes *c, const uint8_t *p, const uint32_t type) {
    const bool with_min = has_min(type), five = type == T_Q5_0 || type == T_Q5_1;
    const size_t bytes = type == T_Q8_0 ? 34 : (size_t)(18 + 2 * with_min + 4 * five);
    const int8x16_t level = vld1q_s8(iq4_nl_level);
    const int8x16_t offset = vdupq_n_s8(type == T_Q4_0 ? 8 : type == T_Q5_0 ? 16 : 0);
    c->d = eight_halves(p, bytes);
    if (with_min) c->m = eight_halves(p + 2, bytes);
    UNROLL for (int j = 0; j < 8; j++) {
        const uint8_t *b = p + (size_t)j * bytes + (with_min ? 4 : 2);
        if (type == T_Q8_0) {
            c->code[2 * j] = vreinterpretq_s8_u8(vld1q_u8(b));
            c->code[2 * j + 1] = vreinterpretq_s8_u8(vld1q_u8(b + 16));
            continue;
        }
        uint8x16_t v = vld1q_u8(b + (five ? 4 : 0));
        uint8x16_t low = vandq_u8(v, vdupq_n_u8(15)), high = vshrq_n_u8(v, 4);
        if (five) low = vorrq_u8(low, fifth_bits(b)), high = vorrq_u8(high, fifth_bits(b + 2));
        if (type == T_IQ4_NL) {
            c->code[2 * j] = vqtbl1q_s8(level, low);
            c->code[2 * j + 1] = vqtbl1q_s8(level, high);
        } else {
            c->code[2 * j] = vsubq_s8(vreinterpretq_s8_u8(low), offset);
            c->code[2 * j + 1] = vsubq_s8(vreinterpretq_s8_u8(high), offset);
        }
    }
}

/* q4_k, q5_k: the 12 bytes of 6-bit numbers (quants.c: k_scale_min), four at a time. */
INLINE void unpack_k45_neon(Codes *c, const uint8_t *p, const bool five) {
    uint32_t a, b, e;
    memcpy(&a, p + 4, 4);
    memcpy(&b, p + 8, 4);
    memcpy(&e, p + 12, 4);
    uint64_t s = (e & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
    uint64_t t = (e >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
    c->d = v_mul(every_half(p), widen_i8(vcreate_s8(s << 32 | (a & 0x3f3f3f3f))));
    c->m = v_mul(every_half(p + 2), widen_i8(vcreate_s8(t << 32 | (b & 0x3f3f3f3f))));
    c->m = v_sub(v_zero(), c->m);
    const uint8_t *q = p + (five ? 48 : 16);
    UNROLL for (int i = 0; i < 16; i++) { /* vector i is half of block i / 2 */
        uint8x16_t v = vld1q_u8(q + 32 * (i / 4) + 16 * (i & 1));
        v = i & 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
        if (five) {
            uint8x16_t fifth = vld1q_u8(p + 16 + 16 * (i & 1));
            fifth = vtstq_u8(fifth, vdupq_n_u8((uint8_t)(1 << i / 2)));
            v = vorrq_u8(v, vandq_u8(fifth, vdupq_n_u8(16)));
        }
        c->code[i] = vreinterpretq_s8_u8(v);
    }
}

INLINE void unpack_k6_neon(Codes *c, const uint8_t *p) {
    c->d = every_half(p + 208);
    c->scale = vreinterpretq_s8_u8(vld1q_u8(p + 192));
    UNROLL for (int i = 0; i < 16; i++) {
        const int half = i / 8, r = i / 2 % 4, part = 16 * (i & 1); /* quants.c: unpack_k6 */
        uint8x16_t low = vld1q_u8(p + 64 * half + 32 * (r & 1) + part);
        uint8x16_t high = vld1q_u8(p + 128 + 32 * half + part);
        low = r < 2 ? vandq_u8(low, vdupq_n_u8(15)) : vshrq_n_u8(low, 4);
        high = vshlq_u8(high, vdupq_n_s8((int8_t)(4 - 2 * r))); /* to the right where negative */
        low = vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30)));
        c->code[i] = vsubq_s8(vreinterpretq_s8_u8(low), vdupq_n_s8(32));
    }
}

INLINE void unpack_neon(Codes *c, const uint8_t *p, const uint32_t type) {
    if (type == T_Q4_K || type == T_Q5_K)
        unpack_k45_neon(c, p, type == T_Q5_K);
    else if (type == T_Q6_K)
        unpack_k6_neon(c, p);
    else
        unpack_32_neon(c, p, type);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Rows as stored, for one token or a few: eight blocks become a vector of eight dot products */

typedef struct {
    int32x4_t low, high;
} Ints;

/* Lane j: the sum of v[j]'s lanes. */
INLINE Ints sum_lanes(const int32x4_t v[8]) {
    return (Ints){ vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3])),
                   vpaddq_s32(vpaddq_s32(v[4], v[5]), vpaddq_s32(v[6], v[7])) };
}
INLINE V to_float(Ints n) { return BOTH(vcvtq_f32_s32(n.low), vcvtq_f32_s32(n.high)); }

/* The integer products of eight blocks with the 256 numbers q. */
INLINE Ints dots_neon(const Codes *c, const int8_t *q, const uint32_t type) {
    int32x4_t first[8], second[8]; /* q6_k: halves of blocks, which have scales of their own */
    UNROLL for (int j = 0; j < 8; j++) {
        int8x16_t x0 = vld1q_s8(q + 32 * j), x1 = vld1q_s8(q + 32 * j + 16);
        first[j] = dot_16(vdupq_n_s32(0), c->code[2 * j], x0);
        second[j] = type == T_Q6_K ? vdupq_n_s32(0) : first[j];
        second[j] = dot_16(second[j], c->code[2 * j + 1], x1);
    }
    Ints sum = sum_lanes(second);
    if (type != T_Q6_K) return sum;
    Ints a = sum_lanes(first);
    int16x8_t s = vmovl_s8(vget_low_s8(vuzp1q_s8(c->scale, c->scale)));
    int16x8_t t = vmovl_s8(vget_low_s8(vuzp2q_s8(c->scale, c->scale)));
    sum.low = vmulq_s32(sum.low, vmovl_s16(vget_low_s16(t)));
    sum.high = vmulq_s32(sum.high, vmovl_high_s16(t));
    sum.low = vmlaq_s32(sum.low, a.low, vmovl_s16(vget_low_s16(s)));
    sum.high = vmlaq_s32(sum.high, a.high, vmovl_high_s16(s));
    return sum;
}

enum { BUNCH_NEON = 8 };

/* One row and n tokens from t0 on. */
INLINE void row_neon(float *y, size_t y_stride, const Rounded *x, const uint8_t *row, int cols,
                     int t0, const int n, const uint32_t type) {
    const size_t bytes = row_bytes(type, SUPER);
    V acc[BUNCH_NEON];
    SuperCopy copy;
    for (int t = 0; t < n; t++) acc[t] = v_zero();
    for (size_t k = 0; k < (size_t)cols; k += SUPER, row += bytes) {
        Codes c;
        size_t left = (size_t)cols - k < SUPER ? row_bytes(type, (size_t)cols - k) : bytes;
        for (size_t b = 0; b < bytes; b += 64)
            __builtin_prefetch((const void *)((uintptr_t)row + b + AHEAD_NEON));
        unpack_neon(&c, whole_super(copy, row, left, type), type);
        for (int t = 0; t < n; t++) {
            size_t at = (size_t)(t0 + t) * x->padded + k;
            V dot = to_float(dots_neon(&c, x->q + at, type));
            acc[t] = v_fma(dot, v_mul(c.d, v_load(x->d + at / 32)), acc[t]);
            if (has_min(type)) acc[t] = v_fma(c.m, v_load(x->s + at / 32), acc[t]);
        }
    }
    for (int t = 0; t < n; t++) y[(size_t)(t0 + t) * y_stride] = v_fold(acc[t]);
}

INLINE void rows_neon(float *y, size_t y_stride, const Rounded *x, const uint8_t *w, int rows,
                      int cols, const uint32_t type) {
    size_t bytes = row_bytes(type, (size_t)cols);
    for (int r = 0; r < rows; r++, w += bytes)
        if (x->n == 1)
            row_neon(y + r, y_stride, x, w, cols, 0, 1, type);
        else
            for (int t = 0; t < x->n; t += BUNCH_NEON)
                row_neon(y + r, y_stride, x, w, cols, t,
                         x->n - t < BUNCH_NEON ? x->n - t : BUNCH_NEON, type);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Panels, for prompts: tiles of 8 rows x 4 tokens */

enum { PANEL_ROWS = 8, PANEL_TOKENS = 4 };

/* One superblock of 8 rows: their codes, four to a dword, and for each block d and m of each row;
 * q6_k: its pairs of scales, two words, in the place of m. */
typedef struct {
    float dword[PANEL_ROWS][SUPER / 4]; /* only to be copied */
    float d[8][PANEL_ROWS], m[8][PANEL_ROWS];
} Eight;

INLINE void unpack_eight(Eight *e, const uint8_t *const row[8], size_t size, const uint32_t type) {
    for (int r = 0; r < PANEL_ROWS; r++) {
        float d[8], m[8] = { 0 };
        SuperCopy copy;
        Codes c;
        unpack_neon(&c, whole_super(copy, row[r], size, type), type);
        UNROLL for (int i = 0; i < 16; i++)
            vst1q_f32(e->dword[r] + 4 * i, vreinterpretq_f32_s8(c.code[i]));
        v_store(d, c.d);
        if (has_min(type)) v_store(m, c.m);
        if (type == T_Q6_K) {
            vst1q_f32(m, vreinterpretq_f32_s16(vmovl_s8(vget_low_s8(c.scale))));
            vst1q_f32(m + 4, vreinterpretq_f32_s16(vmovl_high_s8(c.scale)));
        }
        for (int j = 0; j < 8; j++) {
            memcpy(&e->d[j][r], &d[j], 4);
            memcpy(&e->m[j][r], &m[j], 4);
        }
    }
}

/* Four words, the low or high ones of pairs. */
INLINE int32x4_t low_words(int32x4_t pairs) { return vshrq_n_s32(vshlq_n_s32(pairs, 16), 16); }
INLINE int32x4_t high_words(int32x4_t pairs) { return vshrq_n_s32(pairs, 16); }
INLINE Ints load_pairs(const void *p) {
    return (Ints){ vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p)),
                   vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + 16)) };
}

/* 8 steps of 8 dwords become 32 steps of 8 words, each times the scale of its row. */
INLINE void widen_block(uint8_t *out, const float *dword, const float *pairs, const uint32_t type) {
    const uint8x16_t evens = { 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29 };
    Ints s = load_pairs(pairs);
    for (int step = 0; step < 8; step++, dword += PANEL_ROWS) {
        const uint8_t *p = (const uint8_t *)dword;
        int8x16x2_t v = { { vreinterpretq_s8_u8(vld1q_u8(p)),
                            vreinterpretq_s8_u8(vld1q_u8(p + 16)) } };
        for (int k = 0; k < 4; k += 2, out += 32) {
            int8x16_t two = vqtbl2q_s8(v, vaddq_u8(evens, vdupq_n_u8((uint8_t)k)));
            int16x8_t a = vmovl_s8(vget_low_s8(two)), b = vmovl_high_s8(two);
            if (type == T_Q6_K) {
                int32x4_t low = step < 4 ? low_words(s.low) : high_words(s.low);
                int32x4_t high = step < 4 ? low_words(s.high) : high_words(s.high);
                int16x8_t scale = vmovn_high_s32(vmovn_s32(low), high);
                a = vmulq_s16(a, scale);
                b = vmulq_s16(b, scale);
            }
            vst1q_u8(out, vreinterpretq_u8_s16(a));
            vst1q_u8(out + 16, vreinterpretq_u8_s16(b));
        }
    }
}

INLINE void pack_rows(uint8_t *panel, const uint8_t *w, size_t stride, int n_rows, int cols,
                      const uint32_t type) {
    const size_t codes = (DOTPROD ? 8 : 16) * 4 * PANEL_ROWS, block = codes + 2 * 4 * PANEL_ROWS;
    const size_t places = ((size_t)cols + SUPER - 1) / SUPER;
    for (size_t i = 0; i < places; i++) {
        Eight e;
        const uint8_t *row[PANEL_ROWS];
        size_t k = i * SUPER, left = (size_t)cols - k < SUPER ? (size_t)cols - k : SUPER;
        for (int r = 0; r < PANEL_ROWS; r++) /* missing rows repeat the last one */
            row[r] = w + (size_t)(r < n_rows ? r : n_rows - 1) * stride + row_bytes(type, k);
        unpack_eight(&e, row, row_bytes(type, left), type);
        for (size_t j = 0; j < 8; j++) {
            float turned[8 * PANEL_ROWS];
            const float *lane[GROUP];
            uint8_t *out = panel + (j * places + i) * block;
            for (int r = 0; r < PANEL_ROWS; r++) lane[r] = e.dword[r] + 8 * j;
            turn_neon(turned, PANEL_ROWS, lane, 8, 0);
            if (DOTPROD)
                memcpy(out, turned, sizeof turned);
            else
                widen_block(out, turned, e.m[j], type);
            memcpy(out + codes, e.d[j], sizeof e.d[j]);
            memcpy(out + codes + sizeof e.d[j], e.m[j], sizeof e.m[j]);
        }
    }
}

#if DOTPROD
/* dot (tokens) += so many steps of bytes. */
INLINE void byte_steps(Ints dot[PANEL_TOKENS], const uint8_t *w, const uint8_t *x, int steps) {
    UNROLL for (int s = 0; s < steps; s++, w += 4 * PANEL_ROWS, x += 4 * PANEL_TOKENS) {
        uint8x16_t w0 = vld1q_u8(w), w1 = vld1q_u8(w + 16), q = vld1q_u8(x);
        SDOT(dot[0].low, w0, q, "4b[0]");
        SDOT(dot[0].high, w1, q, "4b[0]");
        SDOT(dot[1].low, w0, q, "4b[1]");
        SDOT(dot[1].high, w1, q, "4b[1]");
        SDOT(dot[2].low, w0, q, "4b[2]");
        SDOT(dot[2].high, w1, q, "4b[2]");
        SDOT(dot[3].low, w0, q, "4b[3]");
        SDOT(dot[3].high, w1, q, "4b[3]");
    }
}
#else
/* dot (tokens) += 16 steps of words. A step of x has two words of each token, of k and k + 1, and
 * one of w those of k for 8 rows, then those of k + 1. */
#define WORDS(t, k, w)                                                                             \
    dot[t].low = vmlal_laneq_s16(dot[t].low, vget_low_s16(w), q, 2 * t + k);                       \
    dot[t].high = vmlal_high_laneq_s16(dot[t].high, w, q, 2 * t + k)
INLINE void word_steps(Ints dot[PANEL_TOKENS], const uint8_t *w, const uint8_t *x) {
    for (int s = 0; s < 16; s++, w += 4 * PANEL_ROWS, x += 4 * PANEL_TOKENS) {
        int16x8_t w0 = vreinterpretq_s16_u8(vld1q_u8(w)), q = vreinterpretq_s16_u8(vld1q_u8(x));
        int16x8_t w1 = vreinterpretq_s16_u8(vld1q_u8(w + 16));
        WORDS(0, 0, w0);
        WORDS(1, 0, w0);
        WORDS(2, 0, w0);
        WORDS(3, 0, w0);
        WORDS(0, 1, w1);
        WORDS(1, 1, w1);
        WORDS(2, 1, w1);
        WORDS(3, 1, w1);
    }
}
#endif

/* The integer products of a block. `pairs`: where q6_k has its scales. */
INLINE void block_dots(Ints dot[PANEL_TOKENS], const uint8_t *w, const uint8_t *x,
                       const uint8_t *pairs, const uint32_t type) {
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) dot[t].low = dot[t].high = vdupq_n_s32(0);
#if DOTPROD
    if (type != T_Q6_K) {
        byte_steps(dot, w, x, 8);
        return;
    }
    Ints second[PANEL_TOKENS], s = load_pairs(pairs);
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) second[t] = dot[t];
    byte_steps(dot, w, x, 4);
    byte_steps(second, w + 4 * 4 * PANEL_ROWS, x + 4 * 4 * PANEL_TOKENS, 4);
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
        dot[t].low = vmulq_s32(dot[t].low, low_words(s.low));
        dot[t].high = vmulq_s32(dot[t].high, low_words(s.high));
        dot[t].low = vmlaq_s32(dot[t].low, second[t].low, high_words(s.low));
        dot[t].high = vmlaq_s32(dot[t].high, second[t].high, high_words(s.high));
    }
#else
    (void)pairs, (void)type; /* words have their scale already */
    word_steps(dot, w, x);
#endif
}

INLINE void tile_int8(const Chain *c, const uint32_t type) {
    const uint8_t *w = c->w, *x = c->x;
    const size_t steps = DOTPROD ? 8 : 16, w_codes = steps * 4 * PANEL_ROWS;
    V acc[PANEL_TOKENS];
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) acc[t] = v_zero();
    for (int b = 0; b < c->blocks; b++) {
        Ints dot[PANEL_TOKENS];
        block_dots(dot, w, x, w + w_codes + 4 * PANEL_ROWS, type);
        const float *scale = (const float *)(const void *)(w + w_codes);
        const float *dx = (const float *)(const void *)(x + (steps + 1) * 4 * PANEL_TOKENS);
        V d = v_load(scale), m = v_load(scale + PANEL_ROWS);
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
            acc[t] = v_fma(to_float(dot[t]), v_mul(d, v_set1(dx[t])), acc[t]);
            if (has_min(type)) acc[t] = v_fma(m, v_set1(dx[PANEL_TOKENS + t]), acc[t]);
        }
        w += w_codes + 2 * 4 * PANEL_ROWS;
        x += (steps + 3) * 4 * PANEL_TOKENS;
    }
    for (int l = 0; l < c->n_open; l++)
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++) acc[t] =
            v_add(acc[t], v_load(c->open[l] + t * PANEL_ROWS));
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) v_store(c->sum + (size_t)t * c->stride, acc[t]);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The routines of a level, one for each type */

static void int8_rows_neon(float *y, size_t y_stride, const Rounded *x, const uint8_t *w,
                           uint32_t type, int rows, int cols) {
#define ROWS_OF(TYPE) rows_neon(y, y_stride, x, w, rows, cols, TYPE)
    FOR_TYPE(type, ROWS_OF)
}
static void pack_neon(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                      int cols) {
#define PACK_OF(TYPE) pack_rows(panel, w, stride, n_rows, cols, TYPE)
    FOR_TYPE(type, PACK_OF)
}
static void tile_int8_neon(const Chain *c) {
#define TILE_OF(TYPE) tile_int8(c, TYPE)
    FOR_TYPE(c->type, TILE_OF)
}
static bool words_neon(uint32_t type) {
    (void)type;
    return !DOTPROD;
}

#define PANELS_NEON                                                                                \
    { PANEL_ROWS, PANEL_TOKENS, words_neon, NULL, pack_neon, tile_int8_neon }
