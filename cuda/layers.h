/* layers.h: the ops of train.c but for products and attention, forward and backward, as kernels.
 *
 * What to know first: T is the type of activations and weights, float or bf16; sums, and the
 * gradient dx of the residual stream, are float32. Widths are multiples of 8: a thread works on
 * units of 8 numbers, 16 bytes of bf16. The formulas stand in train.c, at the functions of the same
 * names. Every sum has one order, whatever the device: blocks leave their parts, and one thread
 * adds them up.
 * Sections: 1 sums, 2 norm, 3 rope, SwiGLU, 4 embedding, 5 classifier. Used by traincuda.cu.
 * Test: tests/test_traincuda.c. */
#ifndef OC_LAYERS_H
#define OC_LAYERS_H

#include "weights.h" /* warp_sum; gpu.h: load8, store8 */

enum { NORM_ROWS = 32 }; /* rows whose share of dw one block adds up */

struct Grads { /* gradients of parameters: float32, or bf16 */
    void *p;
    bool narrow;
};

/* g_i = v, or += where `add`. */
__device__ static inline void put_gradient(Grads g, size_t i, float v, bool add) {
    if (g.narrow) {
        bf16 *at = (bf16 *)g.p + i;
        from_float(at, add ? to_float(*at) + v : v);
    } else {
        float *at = (float *)g.p + i;
        *at = add ? *at + v : v;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 1. Sums over a block of whole warps; all threads get them. */

template <int N, class S> __device__ static inline void block_sum(S v[N]) {
    __shared__ S part[N][32];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int i = 0; i < N; i++) {
        for (int o = 16; o; o /= 2) v[i] += __shfl_xor_sync(0xffffffffu, v[i], o);
        if (lane == 0) part[i][warp] = v[i];
    }
    __syncthreads();
    for (int i = 0; i < N; i++) {
        v[i] = 0;
        for (int w = 0; w < (int)blockDim.x / 32; w++) v[i] += part[i][w];
    }
    __syncthreads();
}

/* ------------------------------------------------------------------------------------------------
 * 2. train.c: rmsnorm, and the sum of a branch with the stream before it */

/* mid = x + branch, y = rmsnorm(mid); without a branch mid is x itself and is not written. One warp
 * a row, 8 rows a block. The norm is that of the rounded mid, so that it comes out the same when
 * it is made again from what was kept. */
template <class T>
__global__ void norm_forward_kernel(T *y, T *mid, const T *x, const T *branch, const T *w, int n,
                                    int C, float eps) {
    int t = (int)(blockIdx.x * 8 + threadIdx.x / 32), lane = (int)threadIdx.x % 32;
    if (t >= n) return;
    size_t row = (size_t)t * (size_t)C;
    const T *from = branch ? mid + row : x + row;
    float v[8], a[8], sum = 0;
    for (int i = lane * 8; i < C; i += 256) {
        load8(v, x + row + i);
        if (branch) {
            load8(a, branch + row + i);
            for (int k = 0; k < 8; k++) v[k] += a[k];
            store8(mid + row + i, v);
            load8(v, mid + row + i);
        }
        for (int k = 0; k < 8; k++) sum += v[k] * v[k];
    }
    float r = 1 / sqrtf(warp_sum(sum) / (float)C + eps);
    for (int i = lane * 8; i < C; i += 256) {
        load8(v, from + i);
        load8(a, w + i);
        for (int k = 0; k < 8; k++) v[k] *= r * a[k];
        store8(y + row + i, v);
    }
}

/* dx += the gradient through the norm, rounded = dx as T, and this block's rows of dw to
 * parts (blocks, C). A thread owns columns; dynamic shared memory: C floats. */
template <class T>
__global__ void norm_backward_kernel(float *dx, T *rounded, float *parts, const T *dy, const T *x,
                                     const T *w, int n, int C, float eps) {
    float *dw = (float *)(void *)dynamic_shared();
    int t0 = (int)blockIdx.x * NORM_ROWS, t1 = min(t0 + NORM_ROWS, n), threads = (int)blockDim.x;
    float a[8], b[8], g[8], d[8];
    for (int i = (int)threadIdx.x * 8; i < C; i += threads * 8)
        for (int k = 0; k < 8; k++) dw[i + k] = 0;
    for (int t = t0; t < t1; t++) {
        size_t row = (size_t)t * (size_t)C;
        float sum[2] = { 0, 0 };
        for (int i = (int)threadIdx.x * 8; i < C; i += threads * 8) {
            load8(a, x + row + i);
            load8(g, dy + row + i);
            load8(b, w + i);
            for (int k = 0; k < 8; k++) sum[0] += a[k] * a[k], sum[1] += a[k] * g[k] * b[k];
        }
        block_sum<2>(sum);
        float r = 1 / sqrtf(sum[0] / (float)C + eps), mean = sum[1] / (float)C * r * r;
        for (int i = (int)threadIdx.x * 8; i < C; i += threads * 8) {
            load8(a, x + row + i);
            load8(g, dy + row + i);
            load8(b, w + i);
            load8(d, dx + row + i);
            for (int k = 0; k < 8; k++) {
                d[k] += r * (b[k] * g[k] - a[k] * mean);
                dw[i + k] += g[k] * a[k] * r;
            }
            store8(dx + row + i, d);
            store8(rounded + row + i, d);
        }
    }
    for (int i = (int)threadIdx.x * 8; i < C; i += threads * 8)
        for (int k = 0; k < 8; k++)
            parts[(size_t)blockIdx.x * (size_t)C + (size_t)(i + k)] = dw[i + k];
}

/* g (C) = or += the sum of n rows of parts, in order. */
__global__ static void column_sum_kernel(Grads g, const float *parts, int n, int C, bool add) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= C) return;
    float sum = 0;
#pragma unroll 8
    for (int t = 0; t < n; t++) sum += parts[(size_t)t * (size_t)C + (size_t)i];
    put_gradient(g, (size_t)i, sum, add);
}

/* ------------------------------------------------------------------------------------------------
 * 3. train.c: rope, swiglu */

/* Turns q and k of qkv in place; sign = -1 turns back. One block a token. */
template <class T>
__global__ void rope_kernel(T *qkv, const float *cosine, const float *sine, const int *pos,
                            int heads, int D, size_t stride, float sign) {
    T *row = qkv + (size_t)blockIdx.x * stride;
    size_t angles = (size_t)pos[blockIdx.x] * (size_t)(D / 2);
    for (int i = (int)threadIdx.x; i < heads * D / 2; i += (int)blockDim.x) {
        float a = to_float(row[2 * i]), b = to_float(row[2 * i + 1]);
        float c = cosine[angles + (size_t)(i % (D / 2))];
        float s = sine[angles + (size_t)(i % (D / 2))] * sign;
        from_float(row + 2 * i, a * c - b * s);
        from_float(row + 2 * i + 1, a * s + b * c);
    }
}

/* hidden (n, F) = silu(gate) up, from rows of gate_up (n, 2 F). One thread a unit. */
template <class T>
__global__ void swiglu_forward_kernel(T *hidden, const T *gate_up, size_t n, size_t F) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8, row = i / F, col = i % F;
    if (row >= n) return;
    float g[8], u[8];
    load8(g, gate_up + row * 2 * F + col);
    load8(u, gate_up + row * 2 * F + F + col);
    for (int k = 0; k < 8; k++) g[k] = g[k] / (1 + expf(-g[k])) * u[k];
    store8(hidden + i, g);
}

/* gate_up becomes its gradient, dhidden becomes hidden. */
template <class T>
__global__ void swiglu_backward_kernel(T *gate_up, T *dhidden, size_t n, size_t F) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8, row = i / F, col = i % F;
    if (row >= n) return;
    T *gate = gate_up + row * 2 * F + col, *up = gate + F;
    float g[8], u[8], d[8];
    load8(g, gate);
    load8(u, up);
    load8(d, dhidden + i);
    for (int k = 0; k < 8; k++) {
        float s = 1 / (1 + expf(-g[k])), x = g[k], y = u[k];
        g[k] = d[k] * y * s * (1 + x * (1 - s));
        u[k] = d[k] * x * s;
        d[k] = x / (1 + expf(-x)) * y; /* the bits of the forward pass */
    }
    store8(gate, g);
    store8(up, u);
    store8(dhidden + i, d);
}

/* ------------------------------------------------------------------------------------------------
 * 4. train.c: embedding */

/* One block a token. */
template <class T>
__global__ void embedding_forward_kernel(T *x, const T *w, const uint32_t *token, int C) {
    const T *from = w + (size_t)token[blockIdx.x] * (size_t)C;
    float v[8];
    for (int i = (int)threadIdx.x * 8; i < C; i += (int)blockDim.x * 8) {
        load8(v, from + i);
        store8(x + (size_t)blockIdx.x * (size_t)C + i, v);
    }
}

/* What the tokens of a batch have in common: occurrences of the same id, one after the other. */
struct Occurrences {
    const int *place; /* (n) tokens, sorted by id, then by place */
    const int *begin; /* (ids + 1) where in `place` those of an id begin */
    const int *id;    /* (ids) */
};

/* dw[id] += dx of its occurrences, in order. One block an id; a thread owns columns. */
__global__ static void embedding_backward_kernel(Grads dw, const float *dx, Occurrences o, int C) {
    int begin = o.begin[blockIdx.x], end = o.begin[blockIdx.x + 1];
    size_t row = (size_t)o.id[blockIdx.x] * (size_t)C;
    for (int i = (int)threadIdx.x * 8; i < C; i += (int)blockDim.x * 8) {
        float v[8], sum[8] = { 0 };
#pragma unroll 4
        for (int k = begin; k < end; k++) {
            load8(v, dx + (size_t)o.place[k] * (size_t)C + i);
            for (int j = 0; j < 8; j++) sum[j] += v[j];
        }
        for (int j = 0; j < 8; j++) put_gradient(dw, row + (size_t)(i + j), sum[j], true);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 5. The classifier, train.c: cross_entropy */

enum { CE_THREADS = 512 }; /* at most */

/* Joins (m, l) of two parts of a row, where l is the sum of e^(logit - m). */
__device__ static inline void join_parts(float *m, float *l, float m2, float l2) {
    float most = fmaxf(*m, m2), base = most == -INFINITY ? 0 : most;
    *l = *l * expf(*m - base) + l2 * expf(m2 - base);
    *m = most;
}

/* m, l of a row by all threads of the block. */
__device__ static inline void row_parts(float *m, float *l, const float *row, int V) {
    __shared__ float most[CE_THREADS / 32], sum[CE_THREADS / 32];
    int threads = (int)blockDim.x;
    *m = -INFINITY, *l = 0;
    for (int i = (int)threadIdx.x; i < V; i += 4 * threads) {
        float x[4];
#pragma unroll
        for (int k = 0; k < 4; k++) x[k] = i + k * threads < V ? row[i + k * threads] : *m;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (x[k] > *m) *l *= expf(*m - x[k]), *m = x[k];
            if (i + k * threads < V) *l += expf(x[k] - *m);
        }
    }
    for (int o = 16; o; o /= 2)
        join_parts(m, l, __shfl_xor_sync(0xffffffffu, *m, o), __shfl_xor_sync(0xffffffffu, *l, o));
    if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = *m, sum[threadIdx.x / 32] = *l;
    __syncthreads();
    *m = most[0], *l = sum[0];
    for (int w = 1; w < threads / 32; w++) join_parts(m, l, most[w], sum[w]);
}

/* The loss of each row of logits (rows, wide) of which V count. With `train` the logits become
 * their own gradient, of type T, at the beginning of the row's memory: a block reads a stretch,
 * meets, and writes it where it has read before. One block a row. */
template <class T>
__global__ void __launch_bounds__(CE_THREADS)
    cross_entropy_kernel(float *logits, float *loss, const uint32_t *target, int V, int wide,
                         float scale, bool train) {
    float *row = logits + (size_t)blockIdx.x * (size_t)wide, m, l;
    uint32_t mark = target[blockIdx.x];
    bool counts = !(mark >> 31);
    int id = (int)(mark & 0x3fffffff), threads = (int)blockDim.x;
    row_parts(&m, &l, row, V);
    if (threadIdx.x == 0) loss[blockIdx.x] = counts ? logf(l) + m - row[id] : 0;
    if (!train) return;
    float factor = counts ? scale / l : 0;
    __syncthreads(); /* row[id] has been read */
    for (int start = 0; start < V; start += 4 * threads) {
        int at = start + (int)threadIdx.x;
        float d[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int i = at + k * threads;
            d[k] = i < V && counts ? expf(row[i] - m) * factor - (i == id ? scale : 0) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (at + k * threads < V) from_float((T *)(void *)row + at + k * threads, d[k]);
    }
}

#endif
