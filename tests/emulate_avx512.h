/* emulate_avx512.h: AVX-512 as SIMDe (libsimde-dev) computes it on a CPU with AVX2 and FMA, what
 * its version 0.7.4 lacks, and AMX. cpu/avx512.c includes this in the place of immintrin.h when
 * tests/test_avx512.py compiles it. */
#ifndef EMULATE_AVX512_H
#define EMULATE_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

/* A vector of 512 bits as what it consists of. */
typedef union {
    __m512 f;
    __m512i i;
    __m256 half[2];
    __m256i half_i[2];
    float lane[16];
} Parts;

#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps(a, b, c) emulate_fmadd(a, b, c)
static inline __m512 emulate_fmadd(__m512 a, __m512 b, __m512 c) {
    Parts p = { .f = a }, q = { .f = b }, r = { .f = c };
    for (int h = 0; h < 2; h++) r.half[h] = _mm256_fmadd_ps(p.half[h], q.half[h], r.half[h]);
    return r.f;
}
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, p) emulate_load(mask, p)
static inline __m512 emulate_load(__mmask16 mask, const float *p) {
    Parts r = { .lane = { 0 } };
    for (int l = 0; l < 16; l++)
        if (mask >> l & 1) r.lane[l] = p[l];
    return r.f;
}
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(p, mask, a) emulate_store(p, mask, a)
static inline void emulate_store(float *p, __mmask16 mask, __m512 a) {
    Parts r = { .f = a };
    for (int l = 0; l < 16; l++)
        if (mask >> l & 1) p[l] = r.lane[l];
}
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16(mask, p) emulate_load_16(mask, p)
static inline __m256i emulate_load_16(__mmask16 mask, const uint8_t *p) {
    uint16_t lane[16] = { 0 };
    for (int l = 0; l < 16; l++)
        if (mask >> l & 1) memcpy(lane + l, p + 2 * l, 2);
    return _mm256_loadu_si256((const __m256i *)(const void *)lane);
}
#undef _mm256_mask_add_epi8
#define _mm256_mask_add_epi8(keep, mask, a, b) emulate_add_8(keep, mask, a, b)
static inline __m256i emulate_add_8(__m256i keep, __mmask32 mask, __m256i a, __m256i b) {
    uint8_t from[32], sum[32];
    _mm256_storeu_si256((__m256i *)(void *)from, keep);
    _mm256_storeu_si256((__m256i *)(void *)sum, _mm256_add_epi8(a, b));
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) from[l] = sum[l];
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(a, h) emulate_half(a, h)
static inline __m256 emulate_half(__m512 a, int h) { return ((Parts){ .f = a }).half[h]; }

#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(h) emulate_cvtph(h)
static inline __m512 emulate_cvtph(__m256i h) {
    Parts r;
    r.half[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    r.half[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
    return r.f;
}
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(h) emulate_cvtepu16(h)
static inline __m512i emulate_cvtepu16(__m256i h) {
    Parts r;
    r.half_i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h));
    r.half_i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1));
    return r.i;
}
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32(b) emulate_cvtepi8(b)
static inline __m512i emulate_cvtepi8(__m128i b) {
    Parts r;
    r.half_i[0] = _mm256_cvtepi8_epi32(b);
    r.half_i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(b, 8));
    return r.i;
}
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32(a) emulate_cvtps(a)
static inline __m512i emulate_cvtps(__m512 a) {
    Parts r = { .f = a };
    for (int h = 0; h < 2; h++) r.half_i[h] = _mm256_cvtps_epi32(r.half[h]);
    return r.i;
}
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(a) emulate_cvtepi32(a)
static inline __m512 emulate_cvtepi32(__m512i a) {
    Parts r = { .i = a };
    for (int h = 0; h < 2; h++) r.half[h] = _mm256_cvtepi32_ps(r.half_i[h]);
    return r.f;
}
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, order) emulate_quarters(a, b, order)
static inline __m512 emulate_quarters(__m512 a, __m512 b, int order) {
    Parts p = { .f = a }, q = { .f = b }, r;
    for (int l = 0; l < 16; l++) {
        int quarter = order >> (l / 4 * 2) & 3;
        r.lane[l] = (l < 8 ? &p : &q)->lane[quarter * 4 + l % 4];
    }
    return r.f;
}

/* AMX: the registers of a thread. A row that is shorter than 64 bytes ends there, and tdpbssd wants
 * shapes that fit each other. */
typedef struct {
    int rows, bytes;
    int8_t byte[16][64];
} EmulatedTile;
static _Thread_local EmulatedTile emulated_tile[8];

#undef _tile_loadconfig
#define _tile_loadconfig(shapes) emulate_shapes((const uint8_t *)(shapes))
static inline void emulate_shapes(const uint8_t *shapes) {
    for (int t = 0; t < 8; t++) {
        int rows = shapes[48 + t], bytes = shapes[16 + 2 * t] | shapes[17 + 2 * t] << 8;
        if (shapes[0] != 1 || rows > 16 || bytes > 64)
            die("emulation: tile register %d: %d x %d bytes, expected at most 16 x 64", t, rows,
                bytes);
        emulated_tile[t] = (EmulatedTile){ .rows = rows, .bytes = bytes };
    }
}
#undef _tile_zero
#define _tile_zero(t) memset(emulated_tile[t].byte, 0, sizeof emulated_tile[t].byte)
#undef _tile_loadd
#define _tile_loadd(t, p, step) emulate_tile_load(&emulated_tile[t], p, step)
static inline void emulate_tile_load(EmulatedTile *t, const uint8_t *p, size_t step) {
    for (int r = 0; r < t->rows; r++) memcpy(t->byte[r], p + (size_t)r * step, (size_t)t->bytes);
}
#undef _tile_stored
#define _tile_stored(t, p, step) emulate_tile_store(&emulated_tile[t], (uint8_t *)(p), step)
static inline void emulate_tile_store(const EmulatedTile *t, uint8_t *p, size_t step) {
    for (int r = 0; r < t->rows; r++) memcpy(p + (size_t)r * step, t->byte[r], (size_t)t->bytes);
}
#undef _tile_dpbssd
#define _tile_dpbssd(c, a, b)                                                                      \
    emulate_dpbssd(&emulated_tile[c], &emulated_tile[a], &emulated_tile[b])
static inline void emulate_dpbssd(EmulatedTile *c, const EmulatedTile *a, const EmulatedTile *b) {
    if (!c->rows || c->rows != a->rows || c->bytes != b->bytes || a->bytes != 4 * b->rows)
        die("emulation: tdpbssd of %d x %d, %d x %d and %d x %d bytes, expected shapes that fit",
            c->rows, c->bytes, a->rows, a->bytes, b->rows, b->bytes);
    for (int r = 0; r < c->rows; r++)
        for (int l = 0; l < c->bytes / 4; l++) {
            int32_t sum;
            memcpy(&sum, &c->byte[r][4 * l], 4);
            for (int k = 0; k < a->bytes; k++) sum += a->byte[r][k] * b->byte[k / 4][4 * l + k % 4];
            memcpy(&c->byte[r][4 * l], &sum, 4);
        }
}

#endif
