/* attention.h: attention on tensor cores, for prompts and for decoding. Scores never leave the
 * registers (FlashAttention, arXiv:2205.14135, 2307.08691).
 *
 *            64 positions a step                 A block has a Tile of tokens and one kv head. Its
 *          +---------------------+              64 rows are the pairs (token, query head) that read
 *   rows   |  S = Q K^T / sqrt D |              this kv head, 16 a warp. For each step of 64 keys:
 *   (token,|  causal mask        |                S = Q K^T, m' = max(m, S), P = e^(S - m'),
 *   head)  |  P = e^(S - m)      |                O = O e^(m - m') + P V, l = l e^(m - m') + sum P
 *          +---------------------+              and at the end O / l. e^x is computed as 2^x'.
 *
 * Decoding has few rows and many keys: there, block `split` of n_splits takes steps split, split +
 * n_splits, ... and leaves O, m, l; the block of a kv head that comes last merges them in order.
 * Which keys a split has depends on their position alone, so a token gets the same bits whatever
 * tokens are fed with it. Keys and values pass through shared memory in rows of D + 8 numbers: the
 * 8 make ldmatrix free of bank conflicts for D = 64, 80, 128 and 160 alike.
 * Test: tests/test_cuda.c. The plain twin is attention_plain_kernel in runcuda.cu. */
#ifndef OC_CUDA_ATTENTION_H
#define OC_CUDA_ATTENTION_H

#include "weights.h" /* Cache, Tile */

struct Attention {
    void *out; /* (n, H D), 16 bits */
    const bf16 *q;
    Cache cache;
    const Tile *tile;
    float *parts; /* NULL: one split */
    int *tickets;
    int n_heads, D, stride;
    bool out_bf16;
};

/* 64 rows of D numbers into shared memory, as bf16. */
template <int D> __device__ static inline void copy_rows(bf16 *to, const bf16 *from) {
    for (int i = (int)threadIdx.x; i < TILE_KEYS * (D / 8); i += 128)
        cp_async16(to + i / (D / 8) * (D + 8) + i % (D / 8) * 8, from + (size_t)i * 8);
    cp_async_commit();
}
template <int D> __device__ static inline void copy_rows(bf16 *to, const fp8 *from) {
    for (int i = (int)threadIdx.x; i < TILE_KEYS * (D / 8); i += 128) {
        float v[8];
        load8(v, from + (size_t)i * 8);
        store8(to + i / (D / 8) * (D + 8) + i % (D / 8) * 8, v);
    }
    cp_async_commit();
}

/* Queries of the tile through shared memory into registers; rows beyond the last repeat it. */
template <int D>
__device__ static inline void load_queries(uint32_t q[D / 16][4], bf16 *shared, const Attention *a,
                                           Tile tile, int kv_head, int group) {
    int rows = tile.count * group, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int i = (int)threadIdx.x; i < TILE_ROWS * (D / 8); i += 128) {
        int r = min(i / (D / 8), rows - 1), c = i % (D / 8) * 8;
        size_t head = (size_t)(tile.first + r / group) * (size_t)a->n_heads +
                      (size_t)(kv_head * group + r % group);
        cp_async16(shared + i / (D / 8) * (D + 8) + c, a->q + head * D + c);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int j = 0; j < D / 16; j++)
        ldmatrix_x4<false>(q[j],
                           shared + (warp * 16 + lane % 16) * (D + 8) + j * 16 + lane / 16 * 8);
    __syncthreads();
}

/* The state of a warp's 16 rows: this lane has rows lane / 4 and that + 8. */
template <int D> struct Running { float o[D / 8][4], m[2], l[2]; };

/* s (16, 64) = Q K^T */
template <int D>
__device__ static inline void score_tile(float s[TILE_KEYS / 8][4], const uint32_t q[D / 16][4],
                                         const bf16 *keys) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILE_KEYS / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int j = 0; j < D / 16; j++)
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4<false>(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * (D + 8) + j * 16 +
                                      lane / 8 % 2 * 8);
            mma_bf16(s[2 * n], q[j], b);
            mma_bf16(s[2 * n + 1], q[j], b + 2);
        }
}

/* Masks keys behind `last`, the positions of this lane's two rows; s becomes P, and what was summed
 * so far is scaled. first: position of the tile's first key. */
template <int D>
__device__ static inline void soften(Running<D> *r, float s[TILE_KEYS / 8][4], const int last[2],
                                     int first, float scale) {
    int col = first + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float m = r->m[half];
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = col + n * 8 + i % 2 <= last[half] ? s[n][i] * scale : -INFINITY;
                m = fmaxf(m, s[n][i]);
            }
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        float base = m == -INFINITY ? 0 : m; /* no key so far: every e^x is 0 */
        float old = exp2f(r->m[half] - base);
        r->m[half] = m;
        r->l[half] *= old;
#pragma unroll
        for (int n = 0; n < D / 8; n++) r->o[n][2 * half] *= old, r->o[n][2 * half + 1] *= old;
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++)
                r->l[half] += s[n][i] = exp2f(s[n][i] - base);
    }
}

/* O += P V */
template <int D>
__device__ static inline void add_values(Running<D> *r, const float p[TILE_KEYS / 8][4],
                                         const bf16 *values) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < TILE_KEYS / 16; j++) {
        const float *x = p[2 * j], *y = p[2 * j + 1];
        const uint32_t a[4] = { pack<bf16>(x[0], x[1]), pack<bf16>(x[2], x[3]),
                                pack<bf16>(y[0], y[1]), pack<bf16>(y[2], y[3]) };
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4<true>(b, values + (j * 16 + lane % 16) * (D + 8) + n * 16 + lane / 16 * 8);
            mma_bf16(r->o[2 * n], a, b);
            mma_bf16(r->o[2 * n + 1], a, b + 2);
        }
    }
}

/* Where split s of a token's head leaves its head + 2 numbers: O, then m and l. */
__device__ static inline float *part_at(const Attention *a, int token, int head, int n_splits,
                                        int s) {
    size_t row = (size_t)token * (size_t)a->n_heads + (size_t)head;
    return a->parts + (row * (size_t)n_splits + (size_t)s) * (size_t)(a->cache.head + 2);
}

/* One number of O: to its place, or to the parts. */
template <int D>
__device__ static inline void write_rows(const Attention *a, Running<D> *r, Tile tile, int kv_head,
                                         int group) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int half = 0; half < 2; half++) { /* 4 lanes share a row */
        r->l[half] += __shfl_xor_sync(0xffffffffu, r->l[half], 1);
        r->l[half] += __shfl_xor_sync(0xffffffffu, r->l[half], 2);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float l = r->l[half];
        int row = warp * 16 + lane / 4 + half * 8;
        if (row >= tile.count * group) continue;
        int token = tile.first + row / group, head = kv_head * group + row % group;
        float *part = a->parts ? part_at(a, token, head, (int)gridDim.x, (int)blockIdx.x) : NULL;
        size_t at = (size_t)token * (size_t)a->stride + (size_t)(head * a->D);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int d = n * 8 + lane % 4 * 2 + i;
                float v = r->o[n][2 * half + i];
                if (part)
                    part[d] = v;
                else if (d < a->D)
                    put_half(a->out, a->out_bf16, at + (size_t)d, v / l);
            }
        if (part && lane % 4 == 0) part[D] = r->m[half], part[D + 1] = l;
    }
}

/* out = sum_s 2^(m_s - m) O_s / sum_s 2^(m_s - m) l_s over the splits that had keys, in order, by
 * the block that finishes last. */
template <int D>
__device__ static inline void merge_splits(const Attention *a, Tile tile, int kv_head, int group,
                                           int active) {
    __shared__ int last;
    int *ticket = a->tickets + blockIdx.z * gridDim.y + blockIdx.y;
    float *share = (float *)(void *)dynamic_shared(); /* (rows, active) */
    int rows = tile.count * group;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(ticket, 1) == active - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *ticket = 0;
    for (int r = (int)threadIdx.x; r < rows; r += 128) {
        float m = -INFINITY, l = 0;
        const float *p =
            part_at(a, tile.first + r / group, kv_head * group + r % group, (int)gridDim.x, 0) + D;
        for (int s = 0; s < active; s++) m = fmaxf(m, p[s * (D + 2)]);
        for (int s = 0; s < active; s++) {
            float w = exp2f(p[s * (D + 2)] - m);
            share[r * active + s] = w;
            l += w * p[s * (D + 2) + 1];
        }
        for (int s = 0; s < active; s++) share[r * active + s] /= l;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < rows * a->D; i += 128) {
        int r = i / a->D, d = i % a->D, token = tile.first + r / group;
        int head = kv_head * group + r % group;
        const float *p = part_at(a, token, head, (int)gridDim.x, 0) + d;
        float v = 0;
        for (int s = 0; s < active; s++) v += share[r * active + s] * p[s * (D + 2)];
        put_half(a->out, a->out_bf16, (size_t)token * (size_t)a->stride + (size_t)(head * a->D + d),
                 v);
    }
}

/* Grid: (splits, kv heads, tiles); 128 threads. D is a.cache.head, the padded head_dim. */
template <int D, class C> __global__ void __launch_bounds__(128, 2) attention_kernel(Attention a) {
    bf16 *keys = (bf16 *)(void *)dynamic_shared(), *values = keys + TILE_KEYS * (D + 8);
    pdl_launch();
    pdl_wait();
    Tile tile = a.tile[gridDim.z - 1 - blockIdx.z]; /* the longest first: they end together */
    int kv_head = (int)blockIdx.y, group = a.n_heads / a.cache.n_kv_heads;
    int steps = tile.count ? (tile.pos + tile.count - 1) / TILE_KEYS + 1 : 0;
    int split = (int)blockIdx.x, n_splits = (int)gridDim.x, warp = (int)threadIdx.x / 32;
    if (split >= steps) return;
    size_t base = cache_at(&a.cache, tile.seq, kv_head, 0);
    const C *k = (const C *)(const void *)a.cache.keys + base;
    const C *v = (const C *)(const void *)a.cache.values + base;
    uint32_t q[D / 16][4];
    load_queries<D>(q, keys, &a, tile, kv_head, group);
    Running<D> r;
#pragma unroll
    for (int n = 0; n < D / 8; n++) r.o[n][0] = r.o[n][1] = r.o[n][2] = r.o[n][3] = 0;
    r.m[0] = r.m[1] = -INFINITY;
    r.l[0] = r.l[1] = 0;
    float scale = 1.4426950408889634f / sqrtf((float)a.D); /* log2 e / sqrt D */
    bool busy = warp * 16 < tile.count * group;
    int row = warp * 16 + (int)threadIdx.x % 32 / 4;
    const int last[2] = { tile.pos + row / group, tile.pos + (row + 8) / group };
    copy_rows<D>(keys, k + (size_t)split * TILE_KEYS * D);
    for (int step = split; step < steps; step += n_splits) {
        float s[TILE_KEYS / 8][4];
        copy_rows<D>(values, v + (size_t)step * TILE_KEYS * D);
        cp_async_wait<1>(); /* keys are there, values on their way */
        __syncthreads();
        if (busy) score_tile<D>(s, q, keys);
        __syncthreads();
        int next = step + n_splits;
        if (next < steps)
            copy_rows<D>(keys, k + (size_t)next * TILE_KEYS * D);
        else
            cp_async_commit();
        if (busy) soften<D>(&r, s, last, step * TILE_KEYS, scale);
        cp_async_wait<1>(); /* values are there, the next keys on their way */
        __syncthreads();
        if (busy) add_values<D>(&r, s, values);
        __syncthreads();
    }
    write_rows<D>(&a, &r, tile, kv_head, group);
    if (a.parts) merge_splits<D>(&a, tile, kv_head, group, min(n_splits, steps));
}

#endif
