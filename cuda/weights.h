/* weights.h: what stands on the GPU: matrices, the cache, and the words that kernels share.
 *
 * What to know first: a matrix keeps the type of its file. Whatever type that is, a kernel that
 * need not be fast reads 8 numbers at a time with load_unit; decode.h reads the same memory 16
 * bytes at a time, and the order of the numbers is made for that.
 * Sections: 1 weights, 2 the cache, 3 small things. Used by runcuda.cu. */
#ifndef OC_WEIGHTS_H
#define OC_WEIGHTS_H

#include "gpu.h" /* to_float, load8 */

/* ------------------------------------------------------------------------------------------------
 * 1. Weights. A matrix is stored row by row, each row padded with zeros to `depth` numbers. Blocks
 * of q8_0 and q4_0 (34 and 18 bytes) cannot be read 16 bytes at a time, so they are taken apart:
 * codes in one array, scales in another. Within a row the codes of two (q4: four) blocks of 32 are
 * interleaved for decode.h, where 4 threads share a row and each takes 8 numbers of every block:
 *
 *   q8: 64 bytes = 2 blocks:    thread 0 [block 0: 0..7][block 1: 0..7]  thread 1 [8..15] ...
 *   q4: 64 bytes = 4 blocks:    thread 0 [0: 0..7][1: 0..7][2: 0..7][3: 0..7]  thread 1 [8..15] ...
 *       a byte holds number i (low half) and i + 4 of its 8; codes are signed: q - 8 */

enum Kind { F32, F16, BF16, Q8, Q4, FP8 }; /* FP8: of the cache alone */
enum { UNIT = 8, STEP = 64 }; /* numbers handled at once; bytes of a row that 4 threads load */

struct Weight {
    int kind, rows, cols, depth;
    const uint8_t *codes;   /* (rows, stride bytes) */
    const uint16_t *scales; /* (rows, depth / 32) halves; q8 and q4 only */
};

/* Bytes of one row of codes; numbers in STEP of them. */
__host__ __device__ static inline size_t code_bytes(int kind, int depth) {
    size_t n = (size_t)depth;
    return kind == F32 ? 4 * n : kind == Q8 ? n : kind == Q4 ? n / 2 : 2 * n;
}
__host__ __device__ constexpr int step_numbers(int kind) {
    return kind == F32 ? 16 : kind == Q8 ? 64 : kind == Q4 ? 128 : 32;
}
__host__ __device__ static inline bool has_scales(int kind) { return kind == Q8 || kind == Q4; }

__device__ static inline float scale_at(const Weight *w, size_t row, int block) {
    return to_float(f16{ w->scales[row * (size_t)(w->depth / 32) + (size_t)block] });
}

/* v[0 .. 7] = numbers 8 u .. 8 u + 7 of a row, as float32. */
__device__ static inline void load_unit(float v[8], const Weight *w, size_t row, int u) {
    const uint8_t *p = w->codes + row * code_bytes(w->kind, w->depth);
    if (w->kind == F32) return load8(v, (const float *)(const void *)p + 8 * u);
    if (w->kind == F16) return load8(v, (const f16 *)(const void *)p + 8 * u);
    if (w->kind == BF16) return load8(v, (const bf16 *)(const void *)p + 8 * u);
    int block = u / 4, t = u % 4;
    float d = scale_at(w, row, block);
    if (w->kind == Q8) {
        uint2 c = *(const uint2 *)(const void *)(p + block / 2 * STEP + t * 16 + block % 2 * 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = d * (float)(int8_t)(c.x >> 8 * i);
            v[i + 4] = d * (float)(int8_t)(c.y >> 8 * i);
        }
        return;
    }
    uint32_t c = *(const uint32_t *)(const void *)(p + block / 4 * STEP + t * 16 + block % 4 * 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = d * (float)((int32_t)(c << (28 - 8 * i)) >> 28);
        v[i + 4] = d * (float)((int32_t)(c << (24 - 8 * i)) >> 28);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. The cache: [layer][sequence][kv head][position][head], as in run.c; head is D, padded for the
 * attention kernel; positions are padded to whole tiles of 64, and all of it begins as zeros. */

/* Where keys and values of one layer stand. */
struct Cache {
    uint8_t *keys, *values;
    int kind; /* F32, BF16, or FP8 */
    int n_ctx, n_kv_heads, head;
};
__host__ __device__ static inline size_t cache_size(int kind) {
    return kind == F32 ? 4 : kind == FP8 ? 1 : 2;
}
/* Number of the first element of a position in a layer's cache. */
__device__ static inline size_t cache_at(const Cache *c, int seq, int kv_head, int pos) {
    size_t line = (size_t)seq * (size_t)c->n_kv_heads + (size_t)kv_head;
    return (line * (size_t)c->n_ctx + (size_t)pos) * (size_t)c->head;
}
__device__ static inline void cache_put(uint8_t *p, int kind, size_t i, float v) {
    if (kind == F32) ((float *)(void *)p)[i] = v;
    if (kind == BF16) from_float((bf16 *)(void *)p + i, v);
    if (kind == FP8) from_float((fp8 *)(void *)p + i, v);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Small things */

enum { FEW = 16 };       /* tokens that one tensor-core instruction takes */
enum { TILE_KEYS = 64 }; /* attention works on 64 positions at a time, */
enum { TILE_ROWS = 64 }; /* and on 64 pairs of a token and a query head */
enum { WARPS = 8, THREADS = 256 };

/* Tokens of a batch that follow each other in one sequence: attention treats them together. */
struct Tile {
    int first, count; /* rows of the batch */
    int seq, pos;     /* of the first one */
};

struct Best {
    float value;
    int id;
};

__device__ static inline float warp_sum(float v) {
    for (int o = 16; o; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

__device__ static inline void put_half(void *p, bool is_bf16, size_t i, float v) {
    if (is_bf16)
        from_float((bf16 *)p + i, v);
    else
        from_float((f16 *)p + i, v);
}

__device__ static inline float silu(float g) { return g / (1 + expf(-g)); }

#endif
