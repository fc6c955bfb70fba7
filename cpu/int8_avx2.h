/* int8_avx2.h: products of whole numbers with vectors of 32 bytes (kernels.h, section 3).
 *
 * Two instructions do the work. vpmaddubsw multiplies 32 unsigned bytes by 32 signed ones and adds
 * neighbours in 16 bits, vpmaddwd 16 words by 16 words in 32 bits. The first is twice as wide, but
 * its sums must stay within 16 bits, which they do for codes of at most 5 bits:
 *
 *     type               codes as                 most that 16 bits must hold
 *     q4_0 q4_1 q4_k     bytes 0..15              15 127 16 = 30480, half a block
 *     q5_0 q5_1 q5_k     bytes 0..31              31 127 8 = 31496, a quarter
 *     q8_0 iq4_nl        |w| bytes, x sign(w)     128 127 2 = 32512, one pair
 *     q6_k               bytes 0..63, less 32     63 127 2 = 16002, one pair
 *
 * In panels, where one number of x meets 8 rows, a sign cannot be moved to x: there the last two
 * rows are words, s (q - 32) or w. Test: tests/test_format.c. Measure: make bench-matmul. */

/* Bytes to fetch ahead of their use: the hardware's own prefetch stops at each page. */
enum { AHEAD_INT8 = 1024 };

static inline bool words_avx2(uint32_t type) {
    return type == T_Q8_0 || type == T_IQ4_NL || type == T_Q6_K;
}

/* ------------------------------------------------------------------------------------------------
 * 1. A superblock comes apart */

/* code: eight blocks of 32 bytes in order; q6_k: scale holds the 8 words s of first halves and, in
 * its high half, the 8 of second halves; natural: the same 16 bytes as they are stored. */
typedef struct {
    __m256i code[8], scale;
    __m128i natural;
    __m256 d, m;
} Codes;

/* Eight halves, `step` bytes apart. */
INLINE __m256 eight_halves(const uint8_t *p, const size_t step) {
    return _mm256_cvtph_ps(_mm_setr_epi16((short)load16(p), (short)load16(p + step),
                                          (short)load16(p + 2 * step), (short)load16(p + 3 * step),
                                          (short)load16(p + 4 * step), (short)load16(p + 5 * step),
                                          (short)load16(p + 6 * step),
                                          (short)load16(p + 7 * step)));
}

INLINE __m256i load_avx2(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

INLINE uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* 16 in every byte whose bit of the 32 is set. */
INLINE __m256i fifth_bits(uint32_t bits) {
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit), _mm256_set1_epi8(16));
}

INLINE void unpack_32_avx2(Codes *c, const uint8_t *p, const uint32_t type) {
    const bool with_min = has_min(type), five = type == T_Q5_0 || type == T_Q5_1;
    const size_t bytes = type == T_Q8_0 ? 34 : (size_t)(18 + 2 * with_min + 4 * five);
    const __m256i low_high = _mm256_setr_epi64x(0, 0, 4, 4), nibble = _mm256_set1_epi8(15);
    const __m256i level =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)iq4_nl_level));
    c->d = eight_halves(p, bytes);
    if (with_min) c->m = eight_halves(p + 2, bytes);
    UNROLL for (int j = 0; j < 8; j++) {
        const uint8_t *b = p + (size_t)j * bytes + (with_min ? 4 : 2);
        if (type == T_Q8_0) {
            c->code[j] = load_avx2(b);
            continue;
        }
        __m256i v =
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(b + (five ? 4 : 0))));
        v = _mm256_and_si256(_mm256_srlv_epi64(v, low_high), nibble);
        if (five) v = _mm256_or_si256(v, fifth_bits(load32(b)));
        c->code[j] = type == T_IQ4_NL ? _mm256_shuffle_epi8(level, v) : v;
    }
}

/* q4_k, q5_k: the 12 bytes of 6-bit numbers (quants.c: k_scale_min), four at a time. */
INLINE void unpack_k45_avx2(Codes *c, const uint8_t *p, const bool five) {
    uint32_t a = load32(p + 4), b = load32(p + 8), e = load32(p + 12), low6 = 0x3f3f3f3f;
    uint32_t s = (e & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
    uint32_t t = (e >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
    __m256i scale = _mm256_cvtepu8_epi32(_mm_setr_epi32((int)(a & low6), (int)s, 0, 0));
    __m256i min = _mm256_cvtepu8_epi32(_mm_setr_epi32((int)(b & low6), (int)t, 0, 0));
    c->d = _mm256_mul_ps(_mm256_set1_ps(load_half(p)), _mm256_cvtepi32_ps(scale));
    c->m = _mm256_mul_ps(_mm256_set1_ps(-load_half(p + 2)), _mm256_cvtepi32_ps(min));
    const __m256i nibble = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16);
    const __m256i fifth = load_avx2(p + 16);
    const uint8_t *q = p + (five ? 48 : 16);
    UNROLL for (int j = 0; j < 8; j++) {
        __m256i v = load_avx2(q + 32 * (j / 2));
        v = _mm256_and_si256(j & 1 ? _mm256_srli_epi16(v, 4) : v, nibble);
        __m256i up = j < 4 ? _mm256_slli_epi16(fifth, 4 - j) : _mm256_srli_epi16(fifth, j - 4);
        c->code[j] = five ? _mm256_or_si256(v, _mm256_and_si256(up, bit)) : v;
    }
}

INLINE void unpack_k6_avx2(Codes *c, const uint8_t *p) {
    const __m128i halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i nibble = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    c->d = _mm256_set1_ps(load_half(p + 208));
    c->natural = _mm_loadu_si128((const __m128i *)(p + 192));
    c->scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(c->natural, halves));
    UNROLL for (int j = 0; j < 8; j++) {
        __m256i low = load_avx2(p + 64 * (j / 4) + 32 * (j & 1));
        __m256i high = load_avx2(p + 128 + 32 * (j / 4));
        low = _mm256_and_si256(j & 2 ? _mm256_srli_epi16(low, 4) : low, nibble);
        high = j % 4 == 3 ? _mm256_srli_epi16(high, 2) : _mm256_slli_epi16(high, 4 - 2 * (j % 4));
        c->code[j] = _mm256_or_si256(low, _mm256_and_si256(high, two));
    }
}

INLINE void unpack_avx2(Codes *c, const uint8_t *p, const uint32_t type) {
    if (type == T_Q4_K || type == T_Q5_K)
        unpack_k45_avx2(c, p, type == T_Q5_K);
    else if (type == T_Q6_K)
        unpack_k6_avx2(c, p);
    else
        unpack_32_avx2(c, p, type);
}

/* Block j's word of `scale`, in all words of the half that it belongs to. */
INLINE __m256i spread_scale(__m256i scale, const int j) {
    return _mm256_shuffle_epi8(scale, _mm256_set1_epi16((short)(0x0100 + 0x0202 * j)));
}

/* Sizes of a superblock's memory: K types one block, the others eight. */
INLINE size_t super_bytes(const uint32_t type) { return row_bytes(type, SUPER); }

/* ------------------------------------------------------------------------------------------------
 * 2. Rows as stored, for one token or a few: eight blocks become a vector of eight dot products */

/* (a0+a1, a2+a3, b0+b1, b2+b3) twice, in 32 bits: the sums of 4 vectors' halves lie side by side;
 * then halves are added: lane j of the result is the sum of v[j]'s eight lanes. */
INLINE __m256i sum_lanes(const __m256i v[8]) {
    __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}
/* The same for vectors of 16 words: two steps in 16 bits, the last in 32. */
INLINE __m256i sum_words(const __m256i v[8]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a = _mm256_hadd_epi16(_mm256_hadd_epi16(v[0], v[1]), _mm256_hadd_epi16(v[2], v[3]));
    __m256i b = _mm256_hadd_epi16(_mm256_hadd_epi16(v[4], v[5]), _mm256_hadd_epi16(v[6], v[7]));
    a = _mm256_madd_epi16(a, ones);
    b = _mm256_madd_epi16(b, ones);
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}

/* The integer products of eight blocks with x: q of 256 numbers and the 16 sums of its halves. */
INLINE __m256i dots_avx2(const Codes *c, const int8_t *q, const int16_t *half,
                         const uint32_t type) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i v[8];
    UNROLL for (int j = 0; j < 8; j++) {
        __m256i x = load_avx2(q + 32 * j), code = c->code[j];
        if (type == T_Q8_0 || type == T_IQ4_NL) {
            v[j] = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
            v[j] = _mm256_madd_epi16(v[j], ones);
        } else {
            v[j] = _mm256_maddubs_epi16(code, x);
        }
        if (type == T_Q6_K) v[j] = _mm256_madd_epi16(v[j], spread_scale(c->scale, j));
    }
    if (type == T_Q8_0 || type == T_IQ4_NL) return sum_lanes(v);
    if (type == T_Q6_K) {
        __m256i less = _mm256_madd_epi16(_mm256_cvtepi8_epi16(c->natural), load_avx2(half));
        return _mm256_sub_epi32(sum_lanes(v), _mm256_slli_epi32(less, 5));
    }
    __m256i sum = sum_words(v);
    if (type != T_Q4_0 && type != T_Q5_0) return sum;
    const __m256i offset = _mm256_set1_epi16(type == T_Q4_0 ? 8 : 16);
    return _mm256_sub_epi32(sum, _mm256_madd_epi16(load_avx2(half), offset));
}

enum { BUNCH_AVX2 = 8 };

/* One row and n tokens from t0 on. */
INLINE void row_avx2(float *y, size_t y_stride, const Rounded *x, const uint8_t *row, int cols,
                     int t0, const int n, const uint32_t type) {
    const size_t bytes = super_bytes(type);
    __m256 acc[BUNCH_AVX2];
    uint8_t end[SUPER / 32 * 34] = { 0 }; /* the last superblock, where it is not whole */
    for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
    for (size_t k = 0; k < (size_t)cols; k += SUPER, row += bytes) {
        Codes c;
        const uint8_t *p = row;
        if ((size_t)cols - k < SUPER) {
            memcpy(end, row, row_bytes(type, (size_t)cols - k));
            p = end;
        }
        for (size_t b = 0; b < bytes; b += 64)
            _mm_prefetch((const char *)row + b + AHEAD_INT8, _MM_HINT_T0);
        unpack_avx2(&c, p, type);
        for (int t = 0; t < n; t++) {
            size_t at = (size_t)(t0 + t) * x->padded + k;
            __m256i dot = dots_avx2(&c, x->q + at, x->half + at / 16, type);
            __m256 d = _mm256_mul_ps(c.d, _mm256_loadu_ps(x->d + at / 32));
            acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), d, acc[t]);
            if (has_min(type))
                acc[t] = _mm256_fmadd_ps(c.m, _mm256_loadu_ps(x->s + at / 32), acc[t]);
        }
    }
    for (int t = 0; t < n; t++) y[(size_t)(t0 + t) * y_stride] = v_fold(acc[t]);
}

INLINE void rows_avx2(float *y, size_t y_stride, const Rounded *x, const uint8_t *w, int rows,
                      int cols, const uint32_t type) {
    size_t bytes = row_bytes(type, (size_t)cols);
    for (int r = 0; r < rows; r++, w += bytes)
        if (x->n == 1)
            row_avx2(y + r, y_stride, x, w, cols, 0, 1, type);
        else
            for (int t = 0; t < x->n; t += BUNCH_AVX2)
                row_avx2(y + r, y_stride, x, w, cols, t,
                         x->n - t < BUNCH_AVX2 ? x->n - t : BUNCH_AVX2, type);
}

static void int8_rows_avx2(float *y, size_t y_stride, const Rounded *x, const uint8_t *w,
                           uint32_t type, int rows, int cols) {
#define ROWS_OF(TYPE) rows_avx2(y, y_stride, x, w, rows, cols, TYPE)
    FOR_TYPE(type, ROWS_OF)
#undef ROWS_OF
}

/* ------------------------------------------------------------------------------------------------
 * 3. Panels, for prompts: tiles of 16 rows (two vectors of 8) x 4 tokens */

enum { PANEL_ROWS = 16, PANEL_TOKENS = 4 };

/* 8 x 8 dwords: out[l] = dword l of every vector of v. */
INLINE void turn_dwords(__m256i out[8], const __m256i v[8]) {
    __m256i p[8], q[8];
    UNROLL for (int i = 0; i < 4; i++) {
        p[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        p[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++) UNROLL for (int l = 0; l < 2; l++) {
        q[4 * i + 2 * l] = _mm256_unpacklo_epi64(p[4 * i + l], p[4 * i + l + 2]);
        q[4 * i + 2 * l + 1] = _mm256_unpackhi_epi64(p[4 * i + l], p[4 * i + l + 2]);
    }
    UNROLL for (int l = 0; l < 4; l++) {
        out[l] = _mm256_permute2x128_si256(q[l], q[l + 4], 0x20);
        out[l + 4] = _mm256_permute2x128_si256(q[l], q[l + 4], 0x31);
    }
}

/* A block of 8 rows into its half of the panel: 8 or 16 steps of 8 dwords. */
INLINE void pack_block(uint8_t *out, const __m256i code[8], const bool words) {
    __m256i v[8], turned[8];
    for (int part = 0; part < (words ? 2 : 1); part++) {
        UNROLL for (int r = 0; r < 8; r++) v[r] = code[(words ? 2 * r : r) + part];
        turn_dwords(turned, v);
        UNROLL for (int l = 0; l < 8; l++)
            _mm256_storeu_si256((__m256i *)(out + (size_t)(8 * part + l) * 4 * PANEL_ROWS),
                                turned[l]);
    }
}

/* One superblock of 8 rows. code, d, m: [block][row]; with words a row is two vectors. */
typedef struct {
    __m256i code[8][16];
    float d[8][8], m[8][8];
} Eight;

INLINE void unpack_eight(Eight *e, const uint8_t *const row[8], size_t size, const uint32_t type) {
    for (int r = 0; r < 8; r++) {
        uint8_t end[SUPER / 32 * 34] = { 0 };
        float d[8], m[8] = { 0 };
        Codes c;
        const uint8_t *p = row[r];
        if (size < super_bytes(type)) p = size ? memcpy(end, row[r], size) : end;
        unpack_avx2(&c, p, type);
        _mm256_storeu_ps(d, c.d);
        if (has_min(type)) _mm256_storeu_ps(m, c.m);
        UNROLL for (int j = 0; j < 8; j++) {
            e->d[j][r] = d[j];
            e->m[j][r] = m[j];
            if (!words_avx2(type)) {
                e->code[j][r] = c.code[j];
                continue;
            }
            __m256i v = c.code[j];
            if (type == T_Q6_K) v = _mm256_sub_epi8(v, _mm256_set1_epi8(32));
            __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
            __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1));
            if (type == T_Q6_K) {
                __m256i s = spread_scale(c.scale, j);
                low = _mm256_mullo_epi16(low, _mm256_permute2x128_si256(s, s, 0x00));
                high = _mm256_mullo_epi16(high, _mm256_permute2x128_si256(s, s, 0x11));
            }
            e->code[j][2 * r] = low;
            e->code[j][2 * r + 1] = high;
        }
    }
}

INLINE void pack_rows(uint8_t *panel, const uint8_t *w, size_t stride, int n_rows, int cols,
                      const uint32_t type) {
    const bool words = words_avx2(type);
    const size_t steps = words ? 16 : 8, block = (steps + 2) * 4 * PANEL_ROWS;
    const size_t places = ((size_t)cols + SUPER - 1) / SUPER;
    for (size_t i = 0; i < places; i++)
        for (int r0 = 0; r0 < PANEL_ROWS; r0 += 8) {
            Eight e;
            const uint8_t *row[8];
            size_t k = i * SUPER, left = (size_t)cols - k < SUPER ? (size_t)cols - k : SUPER;
            for (int r = 0; r < 8; r++) /* missing rows repeat the last one */
                row[r] = w + (size_t)(r0 + r < n_rows ? r0 + r : n_rows - 1) * stride +
                         row_bytes(type, k);
            unpack_eight(&e, row, row_bytes(type, left), type);
            for (size_t j = 0; j < 8; j++) {
                uint8_t *out = panel + (j * places + i) * block + 4 * r0;
                pack_block(out, e.code[j], words);
                memcpy(out + steps * 4 * PANEL_ROWS, e.d[j], 32);
                memcpy(out + (steps + 1) * 4 * PANEL_ROWS, e.m[j], 32);
            }
        }
}

static void pack_avx2(uint8_t *panel, const uint8_t *w, size_t stride, uint32_t type, int n_rows,
                      int cols){
#define PACK_OF(TYPE) pack_rows(panel, w, stride, n_rows, cols, TYPE)
    FOR_TYPE(type, PACK_OF)
#undef PACK_OF
}

INLINE __m256i broadcast_dword(const uint8_t *p) {
    return _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)p));
}
INLINE __m256 broadcast_float(const uint8_t *p) {
    return _mm256_broadcast_ss((const float *)(const void *)p);
}

/* The integer products of a block, 2 vectors of rows x 4 tokens. Bytes: sums of 16 bits wrap
 * around, and start from -offset sum q, so that what remains is a sum of signed codes: at most
 * 16 127 16 = 32512. */
INLINE void block_dots(__m256i dot[2][PANEL_TOKENS], const uint8_t *w, const uint8_t *x,
                       const uint32_t type) {
    const bool words = words_avx2(type);
    const bool five = type == T_Q5_0 || type == T_Q5_1 || type == T_Q5_K;
    const size_t steps = words ? 16 : 8;
    const uint8_t *sums = x + steps * 4 * PANEL_TOKENS;
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
        __m256i start = _mm256_setzero_si256();
        if (five || type == T_Q4_0)
            start = _mm256_sub_epi16(start, _mm256_slli_epi16(broadcast_dword(sums + 4 * t),
                                                              five ? 4 : 3));
        dot[0][t] = dot[1][t] = start;
    }
    UNROLL for (size_t s = 0; s < steps; s++, w += 4 * PANEL_ROWS) {
        __m256i w0 = load_avx2(w), w1 = load_avx2(w + 32);
        UNROLL for (int t = 0; t < PANEL_TOKENS; t++, x += 4) {
            __m256i q = broadcast_dword(x);
            if (words) {
                dot[0][t] = _mm256_add_epi32(dot[0][t], _mm256_madd_epi16(w0, q));
                dot[1][t] = _mm256_add_epi32(dot[1][t], _mm256_madd_epi16(w1, q));
            } else {
                dot[0][t] = _mm256_add_epi16(dot[0][t], _mm256_maddubs_epi16(w0, q));
                dot[1][t] = _mm256_add_epi16(dot[1][t], _mm256_maddubs_epi16(w1, q));
            }
        }
    }
    const __m256i ones = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    UNROLL for (int t = 0; t < PANEL_TOKENS && !words; t++) {
        dot[0][t] = _mm256_madd_epi16(dot[0][t], ones);
        dot[1][t] = _mm256_madd_epi16(dot[1][t], ones);
        if (five && type != T_Q5_0) { /* these have a minimum, and codes from 0 */
            __m256i sum = _mm256_madd_epi16(broadcast_dword(sums + 4 * t), sixteen);
            dot[0][t] = _mm256_add_epi32(dot[0][t], sum);
            dot[1][t] = _mm256_add_epi32(dot[1][t], sum);
        }
    }
}

INLINE void tile_int8(float *sum, const uint8_t *w, const uint8_t *x, int blocks,
                      const uint32_t type) {
    const size_t steps = words_avx2(type) ? 16 : 8;
    __m256 acc[2][PANEL_TOKENS];
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    for (int b = 0; b < blocks; b++) {
        __m256i dot[2][PANEL_TOKENS];
        block_dots(dot, w, x, type);
        w += steps * 4 * PANEL_ROWS;
        x += (steps + 1) * 4 * PANEL_TOKENS;
        UNROLL for (int v = 0; v < 2; v++) {
            __m256 d = _mm256_loadu_ps((const float *)(const void *)w + 8 * v);
            __m256 m = _mm256_loadu_ps((const float *)(const void *)w + PANEL_ROWS + 8 * v);
            UNROLL for (int t = 0; t < PANEL_TOKENS; t++) {
                __m256 dx = broadcast_float(x + 4 * t);
                acc[v][t] =
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[v][t]), _mm256_mul_ps(d, dx), acc[v][t]);
                if (has_min(type))
                    acc[v][t] =
                        _mm256_fmadd_ps(m, broadcast_float(x + 4 * (PANEL_TOKENS + t)), acc[v][t]);
            }
        }
        w += 2 * 4 * PANEL_ROWS;
        x += 2 * 4 * PANEL_TOKENS;
    }
    UNROLL for (int t = 0; t < PANEL_TOKENS; t++) UNROLL for (int v = 0; v < 2; v++)
        _mm256_storeu_ps(sum + t * PANEL_ROWS + 8 * v, acc[v][t]);
}

static void tile_int8_avx2(float *sum, const uint8_t *panel, const uint8_t *x, int blocks,
                           uint32_t type) {
#define TILE_OF(TYPE) tile_int8(sum, panel, x, blocks, TYPE)
    FOR_TYPE(type, TILE_OF)
#undef TILE_OF
}

#define PANELS_AVX2                                                                                \
    { PANEL_ROWS, PANEL_TOKENS, words_avx2, pack_avx2, tile_int8_avx2 }
