/* int8_x86.h: products of whole numbers with vectors of 32 bytes (kernels.h, section 3), of rows as
 * they are stored. Included by int8_avx2.h with VNNI 0 and by int8_avx512.h with VNNI 1.
 *
 * With VNNI, vpdpbusd multiplies 32 unsigned bytes by 32 signed ones and adds four neighbours to a
 * sum of 32 bits: every code becomes an unsigned byte, code + offset, and offset times the sum of q
 * is taken away at the end. Without, two instructions do the work: vpmaddubsw adds two neighbours
 * in 16 bits, vpmaddwd multiplies 16 words by 16 words and adds two in 32. The first is twice as
 * wide, but its sums must stay within 16 bits, which they do for codes of at most 5 bits:
 *
 *     type               codes as                 most that 16 bits must hold
 *     q4_0 q4_1          bytes 0..15              15 127 16 = 30480, half a block
 *     q4_k q5_k          bytes 0..31              31 127 8 = 31496, a quarter
 *     q5_0 q5_1          bytes 0..31              31 127 4 = 15748
 *     q8_0 iq4_nl        |w| bytes, x sign(w)     128 127 2 = 32512, one pair
 *     q6_k               bytes 0..63, less 32     63 127 2 = 16002, one pair
 *
 * A block of 16 bytes with two codes each (q4_0, q4_1, q5_0, q5_1, iq4_nl) has number i in the low
 * and number i + 16 in the high half of byte i. Two blocks side by side in a vector, masked once
 * and shifted once, meet x in the same order (Rounded.paired), and both products go to one sum:
 *
 *     | block j, bytes 0..15 | block j + 1, bytes 0..15 |
 *         low:   numbers 0..15 of j | 0..15 of j + 1            x.paired: 0..15   0..15
 *         high:          16..31     | 16..31                              16..31  16..31
 *
 * Test: tests/test_int8.c, tests/test_avx512.py. Measure: make bench-matmul. */

/* Bytes to fetch ahead of their use: the hardware's own prefetch stops at each page. */
enum { AHEAD_INT8 = 1024 };

/* What unpack_x86 has added to a code. */
INLINE int offset_x86(const uint32_t type) {
    if (type == T_Q8_0 || type == T_IQ4_NL) return VNNI ? 128 : 0;
    return type == T_Q4_0 ? 8 : type == T_Q5_0 ? 16 : type == T_Q6_K ? 32 : 0;
}

/* ------------------------------------------------------------------------------------------------
 * 1. A superblock comes apart */

INLINE bool paired_x86(const uint32_t type) {
    return type == T_Q4_0 || type == T_Q4_1 || type == T_Q5_0 || type == T_Q5_1 || type == T_IQ4_NL;
}

/* code + offset_x86: eight blocks of 32 bytes in order, or those of pairs; q6_k: scale holds the 8
 * words s of first halves and, in its high half, the 8 of second halves; natural: the same 16 bytes
 * as stored. */
typedef struct {
    __m256i code[8], scale;
    __m128i natural;
    __m256 d, m;
} Codes;

/* Eight halves, `step` bytes apart. Put together as whole numbers: the vector units have enough to
 * do. */
INLINE uint64_t four_halves(const uint8_t *p, const size_t step) {
    return load16(p) | (uint64_t)load16(p + step) << 16 | (uint64_t)load16(p + 2 * step) << 32 |
           (uint64_t)load16(p + 3 * step) << 48;
}
INLINE __m256 eight_halves(const uint8_t *p, const size_t step) {
    return _mm256_cvtph_ps(_mm_set_epi64x((long long)four_halves(p + 4 * step, step),
                                          (long long)four_halves(p, step)));
}

/* One half, in all lanes. */
INLINE __m256 spread_half(const uint8_t *p) {
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p))));
}

INLINE __m256i load_32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

INLINE uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* v, and 16 more in every byte whose bit of the 32 is set. */
INLINE __m256i with_fifth(__m256i v, uint32_t bits) {
#if VNNI
    return _mm256_mask_add_epi8(v, bits, v, _mm256_set1_epi8(16));
#else
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i b = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    b = _mm256_cmpeq_epi8(_mm256_and_si256(b, bit), bit);
    return _mm256_or_si256(v, _mm256_and_si256(b, _mm256_set1_epi8(16)));
#endif
}

INLINE void unpack_32_x86(Codes *c, const uint8_t *p, const uint32_t type) {
    const bool with_min = has_min(type), five = type == T_Q5_0 || type == T_Q5_1;
    const size_t bytes = type == T_Q8_0 ? 34 : (size_t)(18 + 2 * with_min + 4 * five);
    const __m256i nibble = _mm256_set1_epi8(15), offset = _mm256_set1_epi8((char)offset_x86(type));
    const __m256i level =
        _mm256_add_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)iq4_nl_level)),
                        offset);
    c->d = eight_halves(p, bytes);
    if (with_min) c->m = eight_halves(p + 2, bytes);
    p += with_min ? 4 : 2;
    if (type == T_Q8_0) {
        UNROLL for (int j = 0; j < 8; j++) c->code[j] =
            _mm256_add_epi8(load_32(p + (size_t)j * bytes), offset);
        return;
    }
    UNROLL for (int j = 0; j < 8; j += 2) {
        const uint8_t *b = p + (size_t)j * bytes;
        __m128i first = _mm_loadu_si128((const __m128i *)(b + 4 * five));
        __m128i second = _mm_loadu_si128((const __m128i *)(b + bytes + 4 * five));
        __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
        __m256i low = _mm256_and_si256(v, nibble);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
        if (five) {
            uint32_t bits = load32(b), more = load32(b + bytes);
            low = with_fifth(low, (bits & 0xffff) | more << 16);
            high = with_fifth(high, bits >> 16 | (more & 0xffff0000));
        }
        c->code[j] = type == T_IQ4_NL ? _mm256_shuffle_epi8(level, low) : low;
        c->code[j + 1] = type == T_IQ4_NL ? _mm256_shuffle_epi8(level, high) : high;
    }
}

/* q4_k, q5_k: the 12 bytes of 6-bit numbers (quants.c: k_scale_min), four at a time. */
INLINE void unpack_k45_x86(Codes *c, const uint8_t *p, const bool five) {
    uint32_t a = load32(p + 4), b = load32(p + 8), e = load32(p + 12), low6 = 0x3f3f3f3f;
    uint32_t s = (e & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
    uint32_t t = (e >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
    __m256i scale = _mm256_cvtepu8_epi32(_mm_setr_epi32((int)(a & low6), (int)s, 0, 0));
    __m256i min = _mm256_cvtepu8_epi32(_mm_setr_epi32((int)(b & low6), (int)t, 0, 0));
    c->d = _mm256_mul_ps(spread_half(p), _mm256_cvtepi32_ps(scale));
    c->m = _mm256_mul_ps(spread_half(p + 2), _mm256_cvtepi32_ps(min));
    c->m = _mm256_xor_ps(c->m, _mm256_set1_ps(-0.0f));
    const __m256i nibble = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16);
    const __m256i fifth = load_32(p + 16);
    const uint8_t *q = p + (five ? 48 : 16);
    UNROLL for (int j = 0; j < 8; j++) {
        __m256i v = load_32(q + 32 * (j / 2));
        v = _mm256_and_si256(j & 1 ? _mm256_srli_epi16(v, 4) : v, nibble);
        __m256i up = j < 4 ? _mm256_slli_epi16(fifth, 4 - j) : _mm256_srli_epi16(fifth, j - 4);
        c->code[j] = five ? _mm256_or_si256(v, _mm256_and_si256(up, bit)) : v;
    }
}

INLINE void unpack_k6_x86(Codes *c, const uint8_t *p) {
    const __m128i halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i nibble = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    c->d = spread_half(p + 208);
    c->natural = _mm_loadu_si128((const __m128i *)(p + 192));
    c->scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(c->natural, halves));
    UNROLL for (int j = 0; j < 8; j++) {
        __m256i low = load_32(p + 64 * (j / 4) + 32 * (j & 1));
        __m256i high = load_32(p + 128 + 32 * (j / 4));
        low = _mm256_and_si256(j & 2 ? _mm256_srli_epi16(low, 4) : low, nibble);
        high = j % 4 == 3 ? _mm256_srli_epi16(high, 2) : _mm256_slli_epi16(high, 4 - 2 * (j % 4));
        c->code[j] = _mm256_or_si256(low, _mm256_and_si256(high, two));
    }
}

INLINE void unpack_x86(Codes *c, const uint8_t *p, const uint32_t type) {
    if (type == T_Q4_K || type == T_Q5_K)
        unpack_k45_x86(c, p, type == T_Q5_K);
    else if (type == T_Q6_K)
        unpack_k6_x86(c, p);
    else
        unpack_32_x86(c, p, type);
}

/* Blocks in order, for panels. */
INLINE void part_pairs(Codes *c, const uint32_t type) {
    if (!paired_x86(type)) return;
    UNROLL for (int j = 0; j < 8; j += 2) {
        __m256i low = c->code[j], high = c->code[j + 1];
        c->code[j] = _mm256_permute2x128_si256(low, high, 0x20);
        c->code[j + 1] = _mm256_permute2x128_si256(low, high, 0x31);
    }
}

/* Block j's word of `scale`, in all words of the half that it belongs to. */
INLINE __m256i spread_scale(__m256i scale, const int j) {
    return _mm256_shuffle_epi8(scale, _mm256_set1_epi16((short)(0x0100 + 0x0202 * j)));
}

/* Sizes of a superblock's memory: K types one block, the others eight. */
INLINE size_t super_bytes(const uint32_t type) { return row_bytes(type, SUPER); }

/* ------------------------------------------------------------------------------------------------
 * 2. Rows as stored, for one token or a few: eight blocks become a vector of eight dot products */

/* Two vectors become one of their sums: in each half of 128 bits the quarters of a (or pairs of
 * quarters) added up, then those of b. vphaddd does the same in twice the time. */
INLINE __m256i merge(__m256i a, __m256i b, const bool words) {
    __m256i low = _mm256_unpacklo_epi64(a, b), high = _mm256_unpackhi_epi64(a, b);
    return words ? _mm256_add_epi16(low, high) : _mm256_add_epi32(low, high);
}
INLINE __m256i merge_pairs(__m256i ab, __m256i cd, const bool words) {
    __m256 a = _mm256_castsi256_ps(ab), c = _mm256_castsi256_ps(cd);
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, c, 0x88));
    __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(a, c, 0xdd));
    return words ? _mm256_add_epi16(even, odd) : _mm256_add_epi32(even, odd);
}
/* In each half of 128 bits, lane j: the sum of that half of v[j]. */
INLINE __m256i merge_four(const __m256i v[4], const bool words) {
    return merge_pairs(merge(v[0], v[1], words), merge(v[2], v[3], words), words);
}

/* Lane j of the result is the sum of v[j], 8 numbers of 32 bits or 16 words; of words, 8 are added
 * up in 16 bits, then two such sums in 32. */
INLINE __m256i sum_each(const __m256i v[8], const bool words) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a = merge_four(v, words), b = merge_four(v + 4, words);
    if (words) a = _mm256_madd_epi16(a, ones), b = _mm256_madd_epi16(b, ones);
    return _mm256_add_epi32(_mm256_blend_epi32(a, b, 0xf0), _mm256_permute2x128_si256(a, b, 0x21));
}

/* q6_k: each half of a block has its scale, and 32 times it times the sum of q too much. */
INLINE __m256i sum_scaled(__m256i v[8], const Codes *c, const int16_t *half) {
    __m256i less = _mm256_madd_epi16(_mm256_cvtepi8_epi16(c->natural), load_32(half));
#if VNNI
    __m256i a = merge_four(v, false), b = merge_four(v + 4, false);
    __m256i first = _mm256_permute2x128_si256(a, b, 0x20);
    __m256i second = _mm256_permute2x128_si256(a, b, 0x31);
    first = _mm256_mullo_epi32(first, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(c->scale)));
    second =
        _mm256_mullo_epi32(second, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(c->scale, 1)));
    __m256i sum = _mm256_add_epi32(first, second);
#else
    UNROLL for (int j = 0; j < 8; j++) v[j] = _mm256_madd_epi16(v[j], spread_scale(c->scale, j));
    __m256i sum = sum_each(v, false);
#endif
    return _mm256_sub_epi32(sum, _mm256_slli_epi32(less, 5));
}

/* Of pairs: the halves of sum[j] belong to blocks 2 j and 2 j + 1. */
INLINE __m256i sum_pairs(const __m256i sum[4], const bool words) {
    __m256i a = merge_four(sum, words);
    if (words) a = _mm256_madd_epi16(a, _mm256_set1_epi16(1));
    return _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* sum, and the products of 32 codes and 32 numbers: VNNI in dwords, else in words or, if they are
 * signed, dwords. */
INLINE __m256i add_products(__m256i sum, __m256i code, const int8_t *q, const bool has_sign) {
    __m256i x = load_32(q);
#if VNNI
    (void)has_sign;
    return _mm256_dpbusd_epi32(sum, code, x);
#else
    if (!has_sign) return _mm256_add_epi16(sum, _mm256_maddubs_epi16(code, x));
    x = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
#endif
}

/* The integer products of eight blocks with x: q of 256 numbers, in the order of the codes, and the
 * 16 sums of its halves. */
INLINE __m256i dots_x86(const Codes *c, const int8_t *q, const int16_t *half, const uint32_t type) {
    const bool has_sign = type == T_Q8_0 || type == T_IQ4_NL, words = !VNNI && !has_sign;
    const __m256i offset = _mm256_set1_epi16((short)offset_x86(type));
    __m256i v[8], sum;
    if (paired_x86(type)) {
        UNROLL for (int j = 0; j < 4; j++) {
            v[j] = add_products(_mm256_setzero_si256(), c->code[2 * j], q + 64 * j, has_sign);
            v[j] = add_products(v[j], c->code[2 * j + 1], q + 64 * j + 32, has_sign);
            if (words && type != T_Q4_0 && type != T_Q4_1)
                v[j] = _mm256_madd_epi16(v[j], _mm256_set1_epi16(1));
        }
        sum = sum_pairs(v, words && (type == T_Q4_0 || type == T_Q4_1));
    } else {
        UNROLL for (int j = 0; j < 8; j++) v[j] =
            add_products(_mm256_setzero_si256(), c->code[j], q + 32 * j, has_sign);
        if (type == T_Q6_K) return sum_scaled(v, c, half);
        sum = sum_each(v, words);
    }
    if (!offset_x86(type)) return sum;
    return _mm256_sub_epi32(sum, _mm256_madd_epi16(load_32(half), offset));
}

INLINE float fold_8(__m256 a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* Rows of memory that are read at once, for one token. One after the other, each would wait at the
 * page's end; together, three others go on (bench/notes.md). */
enum { BUNCH = 8, STREAMS = 4 };

/* A superblock of a row, at p, meets those of n tokens, `at` numbers on in x; sum: one of each
 * token. The row owns `count` blocks of it; of what stands behind, the scales become zero. */
INLINE void super_x86(__m256 *sum, const Rounded *x, size_t at, const int n, const uint8_t *p,
                      const int count, const uint32_t type) {
    const int8_t *q = paired_x86(type) ? x->paired : x->q;
    Codes c;
    unpack_x86(&c, p, type);
    if (count < 8) {
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256 own = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
        c.d = _mm256_and_ps(c.d, own);
        if (has_min(type)) c.m = _mm256_and_ps(c.m, own);
    }
    for (int t = 0; t < n; t++, at += x->padded) {
        __m256i dot = dots_x86(&c, q + at, x->half + at / 16, type);
        __m256 d = _mm256_mul_ps(c.d, _mm256_loadu_ps(x->d + at / 32));
        sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), d, sum[t]);
        if (has_min(type)) sum[t] = _mm256_fmadd_ps(c.m, _mm256_loadu_ps(x->s + at / 32), sum[t]);
    }
}

/* Calls for what is read after the `bytes` at p; behind the end of W that does nothing. */
INLINE void fetch_x86(const uint8_t *p, const size_t bytes) {
    for (size_t b = 0; b < bytes; b += 64)
        _mm_prefetch((const char *)p + b + AHEAD_INT8, _MM_HINT_T0);
}

/* n_rows rows from w on, `apart` rows from each other, and n tokens from t0 on. Where a row's last
 * superblock is not whole, what is missing is read from the rows behind it, as a copy costs more
 * than the products; only where that would go past `stop`, the end of W, is it copied. */
INLINE void row_x86(float *y, size_t y_stride, const Rounded *x, const uint8_t *w,
                    const uint8_t *stop, size_t apart, const int n_rows, int cols, int t0,
                    const int n, const uint32_t type) {
    const size_t bytes = super_bytes(type), step = apart * row_bytes(type, (size_t)cols);
    const size_t whole = (size_t)cols / SUPER * SUPER, at = (size_t)t0 * x->padded;
    const int left = (int)((size_t)cols - whole) / 32;
    __m256 acc[STREAMS * BUNCH];
    for (int i = 0; i < n_rows * n; i++) acc[i] = _mm256_setzero_ps();
    for (size_t k = 0; k < whole; k += SUPER, w += bytes) {
        UNROLL for (int r = 0; r < n_rows; r++) {
            const uint8_t *p = w + (size_t)r * step;
            fetch_x86(p, bytes);
            super_x86(acc + r * n, x, at + k, n, p, 8, type);
        }
    }
    if (left > 0) {
        UNROLL for (int r = 0; r < n_rows; r++) {
            SuperCopy copy;
            const uint8_t *p = w + (size_t)r * step;
            fetch_x86(p, bytes);
            if ((size_t)(stop - p) < bytes)
                p = whole_super(copy, p, row_bytes(type, (size_t)left * 32), type);
            super_x86(acc + r * n, x, at + whole, n, p, left, type);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < n; t++)
            y[(size_t)(t0 + t) * y_stride + (size_t)r * apart] = fold_8(acc[r * n + t]);
}

INLINE void rows_x86(float *y, size_t y_stride, const Rounded *x, const uint8_t *w, int rows,
                     int cols, const uint32_t type) {
    const size_t bytes = row_bytes(type, (size_t)cols);
    const uint8_t *stop = w + (size_t)rows * bytes;
    int r = 0, apart = rows / STREAMS;
    if (x->n == 1) {
        for (; r < apart; r++)
            row_x86(y + r, y_stride, x, w + (size_t)r * bytes, stop, (size_t)apart, STREAMS, cols,
                    0, 1, type);
        r *= STREAMS;
    }
    for (; r < rows; r++)
        for (int t = 0; t < x->n; t += BUNCH)
            row_x86(y + r, y_stride, x, w + (size_t)r * bytes, stop, 0, 1, cols, t,
                    x->n - t < BUNCH ? x->n - t : BUNCH, type);
}

static void int8_rows_x86(float *y, size_t y_stride, const Rounded *x, const uint8_t *w,
                          uint32_t type, int rows, int cols) {
#define ROWS_OF(TYPE) rows_x86(y, y_stride, x, w, rows, cols, TYPE)
    FOR_TYPE(type, ROWS_OF)
#undef ROWS_OF
}
