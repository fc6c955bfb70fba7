/* flash.h: attention for training, forward and backward (FlashAttention, arXiv:2205.14135,
 * 2307.08691), on tensor cores for heads of 64, 128 and 160 numbers in bf16, and plainly for every
 * other head and for float32.
 *
 * What to know first: q, k and v of a token stand side by side, as one product makes them:
 *
 *     row of qkv:   q head 0 .. q head H-1 | k head 0 .. k head K-1 | v head 0 .. v head K-1
 *
 * and dqkv has the same form. Query t sees the keys first[t] .. t, its document so far. first never
 * falls along a row, so the keys that a tile of queries sees are one run of tiles, and so are the
 * queries that see a tile of keys. Scores never leave the registers; the forward pass leaves one
 * number a query and head, lse = log2 sum 2^(score), from which p = 2^(score - lse) comes again:
 *
 *     forward     a block has 64 queries, goes through their keys        O = sum p v
 *     backward    a block has 64 keys, goes through their queries        dV = P^T dO, dK = dS^T Q
 *                 a block has 64 queries, goes through their keys        dQ = dS K
 *     where       dS = P (dP - delta), dP = dO V^T, delta_t = dO_t . O_t
 *
 * P is made twice on the way back, so that every sum has one block and one order: the same bits in
 * every run, for 7 products instead of 5 (bench/notes.md counts why atomics would not be faster).
 * All tiles pass through shared memory in rows of D + 8 numbers, which makes ldmatrix free of bank
 * conflicts; while one is used the next is on its way (cp.async). The sizes of tiles come from the
 * registers: 4 warps of 16 rows each, as the mma has 16, and a lane holds D / 2 numbers of every
 * (64, D) sum, 80 of 255 registers for D = 160; of dK and dV together twice that, which leaves room
 * for 32 queries at a time and no more.
 * Sections: 1 tiles, 2 forward, 3 backward, 4 plain, 5 launches. Test: tests/test_traincuda.c. */
#ifndef OC_FLASH_H
#define OC_FLASH_H

#include "attention.h" /* score_tile, add_values, Running; warp_sum */

#define LOG2_E 1.4426950408889634f

template <class T> struct Heads { /* what attention works on; bits of T */
    const T *qkv;                 /* (B T, (H + 2 K) D), q and k turned by RoPE */
    T *out;                       /* (B T, H D) */
    float *lse;                   /* (B, H, T) */
    const T *dout;                /* (B T, H D) */
    float *delta;                 /* (B, H, T) */
    T *dqkv;                      /* (B T, (H + 2 K) D) */
    const int *first;             /* (B T) */
    int n, H, K, D;               /* n: tokens of a row of the batch, T elsewhere */
    float root;                   /* 1 / sqrt(D) */
};

template <class T> __device__ static inline size_t row_numbers(const Heads<T> *a) {
    return (size_t)(a->H + 2 * a->K) * (size_t)a->D;
}
template <class T> __device__ static inline size_t lse_at(const Heads<T> *a, int b, int h, int t) {
    return ((size_t)b * (size_t)a->H + (size_t)h) * (size_t)a->n + (size_t)t;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Tiles. A block has 4 warps; a warp has 16 of its 64 rows, and of a tile of 16 x 8 products
 * lane l has rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next. */

/* N rows of D numbers, `stride` apart, into shared memory; the last of `rows` stands for those that
 * are not there. */
template <int D, int N>
__device__ static inline void fetch(bf16 *to, const bf16 *from, size_t stride, int rows) {
    for (int i = (int)threadIdx.x; i < N * (D / 8); i += 128) {
        int r = min(i / (D / 8), rows - 1), c = i % (D / 8) * 8;
        cp_async16(to + i / (D / 8) * (D + 8) + c, from + (size_t)r * stride + c);
    }
}

/* s (16, N) = a b^T: 16 rows of this warp and N rows, both in shared memory. */
template <int D, int N>
__device__ static inline void rows_by_rows(float s[N / 8][4], const bf16 *a, const bf16 *b) {
    int lane = (int)threadIdx.x % 32;
    const bf16 *mine = a + ((int)threadIdx.x / 32 * 16 + lane % 16) * (D + 8) + lane / 16 * 8;
    const bf16 *theirs = b + (lane / 16 * 8 + lane % 8) * (D + 8) + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < N / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
        uint32_t x[4], y[4];
        ldmatrix_x4<false>(x, mine + j * 16);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            ldmatrix_x4<false>(y, theirs + n * 16 * (D + 8) + j * 16);
            mma_bf16(s[2 * n], x, y);
            mma_bf16(s[2 * n + 1], x, y + 2);
        }
    }
}

/* o (16, D) += p (16, N) b: p in registers, the N rows of b in shared memory. */
template <int D, int N>
__device__ static inline void add_rows(float o[D / 8][4], const float p[N / 8][4], const bf16 *b) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
        const float *x = p[2 * j], *y = p[2 * j + 1];
        const uint32_t a[4] = { pack<bf16>(x[0], x[1]), pack<bf16>(x[2], x[3]),
                                pack<bf16>(y[0], y[1]), pack<bf16>(y[2], y[3]) };
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t r[4];
            ldmatrix_x4<true>(r, b + (j * 16 + lane % 16) * (D + 8) + n * 16 + lane / 16 * 8);
            mma_bf16(o[2 * n], a, r);
            mma_bf16(o[2 * n + 1], a, r + 2);
        }
    }
}

/* This warp's 16 rows of o, times a factor for each half, to rows of memory that are there. */
template <int D>
__device__ static inline void put_rows(bf16 *to, size_t stride, int rows, const float o[D / 8][4],
                                       float lower, float upper) {
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++, row += 8) {
        float f = half ? upper : lower;
        bf16 *at = to + (size_t)row * stride + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            if (row < rows)
                *(uint32_t *)(void *)(at + n * 8) =
                    pack<bf16>(o[n][2 * half] * f, o[n][2 * half + 1] * f);
    }
}

template <int D> __device__ static inline void clear(float o[D / 8][4]) {
#pragma unroll
    for (int n = 0; n < D / 8; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Forward */

/* As soften() of attention.h, where the keys that a row sees have a beginning too: low .. last. */
template <int D>
__device__ static inline void soften_between(Running<D> *r, float s[TILE_KEYS / 8][4],
                                             const int low[2], const int last[2], int first,
                                             float scale) {
    int col = first + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (col + n * 8 + i % 2 < low[i / 2]) s[n][i] = -INFINITY;
    soften<D>(r, s, last, first, scale);
}

/* Grid: (tiles of 64 queries, heads, rows of the batch); 128 threads. */
template <int D> __global__ void __launch_bounds__(128, 2) flash_forward_kernel(Heads<bf16> a) {
    bf16 *keys = (bf16 *)(void *)dynamic_shared(), *values = keys + TILE_KEYS * (D + 8);
    int tile = (int)(gridDim.x - 1 - blockIdx.x); /* the longest first: they end together */
    int h = (int)blockIdx.y, b = (int)blockIdx.z, t0 = tile * TILE_ROWS;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, rows = min(64, a.n - t0);
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n;
    const bf16 *q = a.qkv + (base + (size_t)t0) * stride + h * D;
    const bf16 *k = a.qkv + base * stride + (a.H + h / (a.H / a.K)) * D, *v = k + a.K * D;
    const int *first = a.first + base;
    uint32_t x[D / 16][4];
    fetch<D, 64>(keys, q, stride, rows);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int j = 0; j < D / 16; j++)
        ldmatrix_x4<false>(x[j], keys + (warp * 16 + lane % 16) * (D + 8) + j * 16 + lane / 16 * 8);
    __syncthreads();
    Running<D> r;
    clear<D>(r.o);
    r.m[0] = r.m[1] = -INFINITY;
    r.l[0] = r.l[1] = 0;
    int row = warp * 16 + lane / 4;
    const int last[2] = { min(t0 + row, a.n - 1), min(t0 + row + 8, a.n - 1) };
    const int low[2] = { first[last[0]], first[last[1]] };
    float scale = LOG2_E * a.root; /* log2 e / sqrt D */
    int step = first[t0] / TILE_KEYS;
    fetch<D, 64>(keys, k + (size_t)(step * TILE_KEYS) * stride, stride, a.n - step * TILE_KEYS);
    cp_async_commit();
    for (; step <= tile; step++) {
        float s[TILE_KEYS / 8][4];
        int at = step * TILE_KEYS, next = at + TILE_KEYS;
        fetch<D, 64>(values, v + (size_t)at * stride, stride, a.n - at);
        cp_async_commit();
        cp_async_wait<1>(); /* keys are there, values on their way */
        __syncthreads();
        score_tile<D>(s, x, keys);
        __syncthreads();
        if (step < tile) fetch<D, 64>(keys, k + (size_t)next * stride, stride, a.n - next);
        cp_async_commit();
        soften_between<D>(&r, s, low, last, at, scale);
        cp_async_wait<1>(); /* values are there, the next keys on their way */
        __syncthreads();
        add_values<D>(&r, s, values);
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) { /* 4 lanes share a row */
        r.l[half] += __shfl_xor_sync(0xffffffffu, r.l[half], 1);
        r.l[half] += __shfl_xor_sync(0xffffffffu, r.l[half], 2);
        if (lane % 4 == 0 && row + 8 * half < rows)
            a.lse[lse_at(&a, b, h, t0 + row + 8 * half)] = r.m[half] + log2f(r.l[half]);
    }
    size_t out = (size_t)(a.H * D);
    put_rows<D>(a.out + (base + (size_t)t0) * out + h * D, out, rows, r.o, 1 / r.l[0], 1 / r.l[1]);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Backward */

/* delta (B, H, T) = dO . O. One warp a token and head; grid: (tokens, heads / 8 upwards). */
template <class T> __global__ void delta_kernel(Heads<T> a) {
    int h = (int)(blockIdx.y * 8 + threadIdx.x / 32), lane = (int)threadIdx.x % 32;
    if (h >= a.H) return;
    size_t at = ((size_t)blockIdx.x * (size_t)a.H + (size_t)h) * (size_t)a.D;
    float sum = 0;
    for (int d = lane; d < a.D; d += 32)
        sum += to_float(a.dout[at + (size_t)d]) * to_float(a.out[at + (size_t)d]);
    sum = warp_sum(sum);
    int b = (int)blockIdx.x / a.n, t = (int)blockIdx.x % a.n;
    if (lane == 0) a.delta[lse_at(&a, b, h, t)] = sum;
}

/* A tile of N queries in shared memory: Q and dO, and of each query lse, delta and first. Queries
 * that are not there have lse = infinity, so that their p is 0. */
template <int D, int N> struct Queries {
    bf16 q[N * (D + 8)], dout[N * (D + 8)];
    float lse[N], delta[N];
    int first[N];
};

template <int D, int N>
__device__ static inline void fetch_queries(Queries<D, N> *to, const Heads<bf16> *a, int b, int h,
                                            int t0) {
    int rows = min(N, a->n - t0), i = (int)threadIdx.x;
    size_t stride = row_numbers(a), out = (size_t)(a->H * D);
    size_t at = (size_t)b * (size_t)a->n + (size_t)t0;
    fetch<D, N>(to->q, a->qkv + at * stride + h * D, stride, rows);
    fetch<D, N>(to->dout, a->dout + at * out + h * D, out, rows);
    if (i < N) {
        size_t stat = lse_at(a, b, h, t0 + i);
        to->lse[i] = i < rows ? a->lse[stat] : INFINITY;
        to->delta[i] = i < rows ? a->delta[stat] : 0;
        to->first[i] = i < rows ? a->first[at + (size_t)i] : 0;
    }
}

/* The first tile of N queries that sees no key up to u: tiles after it do not either. */
__device__ static inline int tiles_until(const int *first, int u, int n, int N) {
    int low = u / N + 1, high = (n + N - 1) / N;
    while (low < high) {
        int middle = (low + high) / 2;
        if (first[middle * N] <= u)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* s and dp become P^T and dS^T: this lane's rows are keys u and u + 8, its columns queries. */
template <int D, int N>
__device__ static inline void soften_queries(float s[N / 8][4], float dp[N / 8][4],
                                             const Queries<D, N> *y, int u, int t0, float scale) {
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int c = n * 8 + (int)threadIdx.x % 4 * 2 + i % 2, key = u + i / 2 * 8;
            bool seen = key <= t0 + c && key >= y->first[c];
            s[n][i] = seen ? exp2f(s[n][i] * scale - y->lse[c]) : 0;
            dp[n][i] = s[n][i] * (dp[n][i] - y->delta[c]);
        }
}

/* dK and dV of 64 keys. Grid: (tiles of keys, kv heads, rows of the batch); 128 threads. */
template <int D, int N>
__global__ void __launch_bounds__(128) flash_backward_kv_kernel(Heads<bf16> a) {
    bf16 *keys = (bf16 *)(void *)dynamic_shared(), *values = keys + TILE_KEYS * (D + 8);
    Queries<D, N> *queries = (Queries<D, N> *)(void *)(values + TILE_KEYS * (D + 8));
    int kv = (int)blockIdx.y, b = (int)blockIdx.z, u0 = (int)blockIdx.x * TILE_KEYS;
    int rows = min(TILE_KEYS, a.n - u0), group = a.H / a.K;
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n;
    size_t k_at = (base + (size_t)u0) * stride + (size_t)((a.H + kv) * D);
    size_t v_at = k_at + (size_t)(a.K * D);
    int begin = u0 / N, end = tiles_until(a.first + base, u0 + rows - 1, a.n, N);
    int u = u0 + (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    float scale = LOG2_E * a.root, dk[D / 8][4], dv[D / 8][4];
    clear<D>(dk);
    clear<D>(dv);
    fetch<D, 64>(keys, a.qkv + k_at, stride, rows);
    fetch<D, 64>(values, a.qkv + v_at, stride, rows);
    fetch_queries<D, N>(queries, &a, b, kv * group, begin * N);
    cp_async_commit();
    int tile = begin, h = kv * group, place = 0; /* of the tile in use */
    for (int left = (end - begin) * group; left > 0; left--) {
        int t0 = tile * N;
        if (++tile == end) tile = begin, h++;
        if (left > 1) fetch_queries<D, N>(queries + (place ^ 1), &a, b, h, tile * N);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const Queries<D, N> *y = queries + place;
        place ^= 1;
        float s[N / 8][4], dp[N / 8][4];
        rows_by_rows<D, N>(s, keys, y->q);
        rows_by_rows<D, N>(dp, values, y->dout);
        soften_queries<D, N>(s, dp, y, u, t0, scale);
        add_rows<D, N>(dv, s, y->dout);
        add_rows<D, N>(dk, dp, y->q);
        __syncthreads(); /* before this tile's place is taken */
    }
    put_rows<D>(a.dqkv + k_at, stride, rows, dk, a.root, a.root);
    put_rows<D>(a.dqkv + v_at, stride, rows, dv, 1, 1);
}

/* s and dp become dS: this lane's rows are queries, its columns the keys from u0 on. */
template <int N>
__device__ static inline void soften_keys(float s[N / 8][4], const float dp[N / 8][4],
                                          const int low[2], const int last[2], const float lse[2],
                                          const float delta[2], int u0, float scale) {
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int u = u0 + n * 8 + (int)threadIdx.x % 4 * 2 + i % 2, half = i / 2;
            bool seen = u <= last[half] && u >= low[half];
            float p = seen ? exp2f(s[n][i] * scale - lse[half]) : 0;
            s[n][i] = p * (dp[n][i] - delta[half]);
        }
}

/* dQ of 64 queries, by tiles of N keys. Grid: (tiles of queries, heads, rows of the batch). */
template <int D, int N>
__global__ void __launch_bounds__(128) flash_backward_q_kernel(Heads<bf16> a) {
    bf16 *q = (bf16 *)(void *)dynamic_shared(), *dout = q + TILE_ROWS * (D + 8);
    bf16 *keys = dout + TILE_ROWS * (D + 8), *values = keys + 2 * N * (D + 8);
    int tile = (int)(gridDim.x - 1 - blockIdx.x), h = (int)blockIdx.y, b = (int)blockIdx.z;
    int t0 = tile * TILE_ROWS, rows = min(TILE_ROWS, a.n - t0);
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n, out = (size_t)(a.H * D);
    size_t q_at = (base + (size_t)t0) * stride + (size_t)(h * D);
    const bf16 *k = a.qkv + base * stride + (a.H + h / (a.H / a.K)) * D, *v = k + a.K * D;
    int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    const int last[2] = { min(t0 + row, a.n - 1), min(t0 + row + 8, a.n - 1) };
    const int low[2] = { a.first[base + (size_t)last[0]], a.first[base + (size_t)last[1]] };
    const float lse[2] = { a.lse[lse_at(&a, b, h, last[0])], a.lse[lse_at(&a, b, h, last[1])] };
    const float delta[2] = { a.delta[lse_at(&a, b, h, last[0])],
                             a.delta[lse_at(&a, b, h, last[1])] };
    float scale = LOG2_E * a.root, dq[D / 8][4];
    int begin = a.first[base + (size_t)t0] / N, end = (t0 + rows + N - 1) / N;
    clear<D>(dq);
    fetch<D, 64>(q, a.qkv + q_at, stride, rows);
    fetch<D, 64>(dout, a.dout + (base + (size_t)t0) * out + h * D, out, rows);
    for (int i = begin - 1; i < end; i++) { /* the first round only fetches */
        int next = (i + 1) * N, place = (i + 1) % 2 * N * (D + 8);
        if (i + 1 < end) {
            fetch<D, N>(keys + place, k + (size_t)next * stride, stride, a.n - next);
            fetch<D, N>(values + place, v + (size_t)next * stride, stride, a.n - next);
        }
        cp_async_commit();
        if (i < begin) continue;
        cp_async_wait<1>();
        __syncthreads();
        float s[N / 8][4], dp[N / 8][4];
        place = i % 2 * N * (D + 8);
        rows_by_rows<D, N>(s, q, keys + place);
        rows_by_rows<D, N>(dp, dout, values + place);
        soften_keys<N>(s, dp, low, last, lse, delta, i * N, scale);
        add_rows<D, N>(dq, s, keys + place);
        __syncthreads();
    }
    put_rows<D>(a.dqkv + q_at, stride, rows, dq, a.root, a.root);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Plain: any head of up to 256 numbers, float32 or bf16. A warp has one query, or one key; each
 * of its lanes looks at one of 32 partners, then owns the numbers d = lane, lane + 32, ... */

enum { PLAIN_D = 256, PLAIN_PARTS = PLAIN_D / 32 };

template <class T> __device__ static inline float plain_dot(const T *x, const T *y, int D) {
    float sum = 0;
#pragma unroll 4
    for (int d = 0; d < D; d++) sum += to_float(x[d]) * to_float(y[d]);
    return sum;
}

/* o[d] += sum_j p_j row_j[d] over the partners j of the 32 lanes; rows are `stride` apart. */
template <class T>
__device__ static inline void plain_add(float o[PLAIN_PARTS], float p, const T *row, size_t stride,
                                        int count, int D) {
    __shared__ float shared[4][32];
    int lane = (int)threadIdx.x % 32;
    float *all = shared[threadIdx.x / 32]; /* p of the 32 lanes */
    __syncwarp();
    all[lane] = p;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PLAIN_PARTS; i++) {
        if (32 * i >= D) break;
        const T *at = row + min(lane + 32 * i, D - 1); /* the last stands for what is not there */
#pragma unroll 1
        for (int j = 0; j < count; j++) o[i] += all[j] * to_float(at[(size_t)j * stride]);
    }
}

template <class T>
__device__ static inline void plain_put(T *to, const float o[PLAIN_PARTS], float factor, int D) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < PLAIN_PARTS; i++)
        if (lane + 32 * i < D) from_float(to + lane + 32 * i, o[i] * factor);
}

__device__ static inline float warp_max(float v) {
    for (int o = 16; o; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

/* out and lse of one query a warp. Grid of all plain kernels: (rows of T / 4 upwards, heads, B). */
template <class T> __global__ void __launch_bounds__(128) plain_forward_kernel(Heads<T> a) {
    int t = (int)(blockIdx.x * 4 + threadIdx.x / 32), h = (int)blockIdx.y, b = (int)blockIdx.z;
    if (t >= a.n) return;
    int lane = (int)threadIdx.x % 32, first = a.first[b * a.n + t];
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n, D = (size_t)a.D;
    const T *q = a.qkv + (base + (size_t)t) * stride + (size_t)h * D;
    const T *k = a.qkv + base * stride + (size_t)(a.H + h / (a.H / a.K)) * D;
    const T *v = k + (size_t)a.K * D;
    float o[PLAIN_PARTS] = { 0 }, m = -INFINITY, l = 0;
    float scale = LOG2_E * a.root;
    for (int u = first; u <= t; u += 32) {
        int count = min(32, t + 1 - u);
        size_t at = (size_t)(u + min(lane, count - 1)) * stride;
        float s = lane < count ? plain_dot(q, k + at, a.D) * scale : -INFINITY;
        float most = fmaxf(m, warp_max(s)), old = exp2f(m - most), p = exp2f(s - most);
        m = most;
        l = l * old + warp_sum(p);
#pragma unroll
        for (int i = 0; i < PLAIN_PARTS; i++) o[i] *= old;
        plain_add(o, p, v + (size_t)u * stride, stride, count, a.D);
    }
    plain_put(a.out + ((base + (size_t)t) * (size_t)a.H + (size_t)h) * D, o, 1 / l, a.D);
    if (lane == 0) a.lse[lse_at(&a, b, h, t)] = m + log2f(l);
}

/* P and dS of query t and key u. */
template <class T>
__device__ static inline void plain_pair(const Heads<T> *a, int b, int h, int t, int u, float *p,
                                         float *ds) {
    size_t stride = row_numbers(a), base = (size_t)b * (size_t)a->n, D = (size_t)a->D;
    const T *q = a->qkv + (base + (size_t)t) * stride + (size_t)h * D;
    const T *k = a->qkv + (base + (size_t)u) * stride + (size_t)(a->H + h / (a->H / a->K)) * D;
    const T *dout = a->dout + ((base + (size_t)t) * (size_t)a->H + (size_t)h) * D;
    const T *v = k + (size_t)a->K * D;
    size_t at = lse_at(a, b, h, t);
    float score = 0, dp = 0;
#pragma unroll 4
    for (int d = 0; d < a->D; d++) {
        score += to_float(q[d]) * to_float(k[d]);
        dp += to_float(dout[d]) * to_float(v[d]);
    }
    *p = exp2f(score * (LOG2_E * a->root) - a->lse[at]);
    *ds = *p * (dp - a->delta[at]);
}

template <class T> __global__ void __launch_bounds__(128) plain_backward_q_kernel(Heads<T> a) {
    int t = (int)(blockIdx.x * 4 + threadIdx.x / 32), h = (int)blockIdx.y, b = (int)blockIdx.z;
    if (t >= a.n) return;
    int lane = (int)threadIdx.x % 32;
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n, D = (size_t)a.D;
    const T *k = a.qkv + base * stride + (size_t)(a.H + h / (a.H / a.K)) * D;
    float dq[PLAIN_PARTS] = { 0 }, p, ds;
    for (int u = a.first[b * a.n + t]; u <= t; u += 32) {
        int count = min(32, t + 1 - u);
        plain_pair(&a, b, h, t, u + min(lane, count - 1), &p, &ds);
        plain_add(dq, ds, k + (size_t)u * stride, stride, count, a.D);
    }
    plain_put(a.dqkv + (base + (size_t)t) * stride + (size_t)h * D, dq, a.root, a.D);
}

/* dV of one key a warp, or, without VALUES, dK. */
template <class T, bool VALUES>
__global__ void __launch_bounds__(128) plain_backward_kv_kernel(Heads<T> a) {
    int u = (int)(blockIdx.x * 4 + threadIdx.x / 32), kv = (int)blockIdx.y, b = (int)blockIdx.z;
    if (u >= a.n) return;
    int lane = (int)threadIdx.x % 32, group = a.H / a.K;
    size_t stride = row_numbers(&a), base = (size_t)b * (size_t)a.n, D = (size_t)a.D;
    size_t at = (base + (size_t)u) * stride + (size_t)(a.H + kv) * D, out = (size_t)a.H * D;
    const T *rows = VALUES ? a.dout : a.qkv; /* what is added up: dO or Q */
    size_t apart = VALUES ? out : stride;
    float sum[PLAIN_PARTS] = { 0 }, p, ds;
    int end = tiles_until(a.first + base, u, a.n, 1);
    int steps = (end - u + 31) / 32;
    for (int i = 0; i < group * steps; i++) { /* all queries of a head, then the next head */
        int h = kv * group + i / steps, t = u + i % steps * 32, count = min(32, end - t);
        plain_pair(&a, b, h, t + min(lane, count - 1), u, &p, &ds);
        plain_add(sum, VALUES ? p : ds, rows + (base + (size_t)t) * apart + (size_t)h * D, apart,
                  count, a.D);
    }
    plain_put(a.dqkv + at + (VALUES ? (size_t)a.K * D : 0), sum, VALUES ? 1 : a.root, a.D);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Launches */

template <class T> static dim3 grid_of(const Heads<T> *a, int B, int tile, int heads) {
    return dim3((unsigned)((a->n + tile - 1) / tile), (unsigned)heads, (unsigned)B);
}

template <class T> static void plain_forward(const Queue *q, const Heads<T> *a, int B) {
    launch(q, "plain_forward", plain_forward_kernel<T>, grid_of(a, B, 4, a->H), 128, 0, *a);
}

template <class T> static void plain_backward(const Queue *q, const Heads<T> *a, int B) {
    dim3 keys = grid_of(a, B, 4, a->K);
    launch(q, "plain_backward_v", plain_backward_kv_kernel<T, true>, keys, 128, 0, *a);
    launch(q, "plain_backward_k", plain_backward_kv_kernel<T, false>, keys, 128, 0, *a);
    launch(q, "plain_backward_q", plain_backward_q_kernel<T>, grid_of(a, B, 4, a->H), 128, 0, *a);
}

enum { KV_QUERIES = 32 }; /* queries that a block of keys looks at together */

template <int D> static void flash_forward(const Queue *q, const Heads<bf16> *a, int B) {
    launch(q, "flash_forward", flash_forward_kernel<D>, grid_of(a, B, 64, a->H), 128,
           2 * 64 * (D + 8) * sizeof(bf16), *a);
}

template <int D> static void flash_backward(const Queue *q, const Heads<bf16> *a, int B) {
    const int N = D > 64 ? 32 : 64; /* keys at once: less than 99 KB, so that several blocks fit */
    launch(q, "flash_backward_kv", flash_backward_kv_kernel<D, KV_QUERIES>, grid_of(a, B, 64, a->K),
           128, 2 * 64 * (D + 8) * sizeof(bf16) + 2 * sizeof(Queries<D, KV_QUERIES>), *a);
    launch(q, "flash_backward_q", flash_backward_q_kernel<D, N>, grid_of(a, B, 64, a->H), 128,
           (2 * 64 + 4 * N) * (D + 8) * sizeof(bf16), *a);
}

/* Is there a kernel for tensor cores? */
static inline bool has_flash(int D) { return D == 64 || D == 128 || D == 160; }

/* out and lse from qkv. */
static inline void attention_forward(const Queue *q, const Heads<float> *a, int B) {
    plain_forward(q, a, B);
}
static inline void attention_forward(const Queue *q, const Heads<bf16> *a, int B) {
    if (a->D == 64) return flash_forward<64>(q, a, B);
    if (a->D == 128) return flash_forward<128>(q, a, B);
    if (a->D == 160) return flash_forward<160>(q, a, B);
    plain_forward(q, a, B);
}

/* dqkv from dout, and what forward had and made. */
template <class T> static void attention_delta(const Queue *q, const Heads<T> *a, int B) {
    launch(q, "delta", delta_kernel<T>, dim3((unsigned)(B * a->n), (unsigned)(a->H + 7) / 8),
           32 * min(a->H, 8), 0, *a);
}
static inline void attention_backward(const Queue *q, const Heads<float> *a, int B) {
    attention_delta(q, a, B);
    plain_backward(q, a, B);
}
static inline void attention_backward(const Queue *q, const Heads<bf16> *a, int B) {
    attention_delta(q, a, B);
    if (a->D == 64) return flash_backward<64>(q, a, B);
    if (a->D == 128) return flash_backward<128>(q, a, B);
    if (a->D == 160) return flash_backward<160>(q, a, B);
    plain_backward(q, a, B);
}

#endif
