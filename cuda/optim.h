/* optim.h: AdamW on the GPU, and the numbers it works on.
 *
 * What to know first: bf16 has 8 bits of mantissa, too few to add small updates to. So each weight
 * has an exact float32 master that costs two bytes more, its lower half:
 *
 *     master   s eeeeeeee mmmmmmm | mmmmmmmmmmmmmmmm        bf16 weight: the upper half, rounded
 *                 upper half            `low`               to nearest, ties away from zero
 *
 * Rounding has carried into the upper half exactly where the top bit of `low` is set, so the two
 * give the master back, bit for bit (`join`). Moments are float32, or bf16 with stochastic
 * rounding: up with the probability of what is cut off, so that the mean is right
 * (arXiv:2010.06192). The random bits are a hash of place and update: any number of ranks draws
 * the same.
 * Sections: 1 numbers, 2 AdamW, 3 norms, 4 to and from the host. Test: tests/test_traincuda.c. */
#ifndef OC_OPTIM_H
#define OC_OPTIM_H

#include "layers.h" /* block_sum */

/* ------------------------------------------------------------------------------------------------
 * 1. Numbers */

__device__ static inline float join(bf16 upper, uint16_t low) {
    return __uint_as_float(((uint32_t)upper.bits - (low >> 15)) << 16 | low);
}
__device__ static inline void split(bf16 *upper, uint16_t *low, float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000) u = 0x7fc00000; /* the carry would make a number of a NaN */
    upper->bits = (uint16_t)((u + 0x8000) >> 16);
    *low = (uint16_t)u;
}

__device__ static inline uint32_t mix32(uint32_t x) { /* every bit of x decides every bit */
    x = (x ^ x >> 16) * 0x7feb352d;
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}
/* 16 random bits in each half, for number i of an update. */
__device__ static inline uint32_t random_bits(uint64_t i, uint32_t update) {
    return mix32((uint32_t)i ^ mix32((uint32_t)(i >> 32) ^ mix32(update)));
}
__device__ static inline void round_random(float *y, float x, uint32_t) { *y = x; }
__device__ static inline void round_random(bf16 *y, float x, uint32_t bits) {
    y->bits = (uint16_t)((__float_as_uint(x) + (bits & 0xffff)) >> 16);
}

/* Eight masters, from weights that are float32 themselves or have lower halves. */
__device__ static inline void load_masters(float v[8], const float *w, const uint16_t *) {
    load8(v, w);
}
__device__ static inline void load_masters(float v[8], const bf16 *w, const uint16_t *low) {
    uint4 a = *(const uint4 *)(const void *)w, b = *(const uint4 *)(const void *)low;
    const uint32_t upper[4] = { a.x, a.y, a.z, a.w }, lower[4] = { b.x, b.y, b.z, b.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = join(bf16{ (uint16_t)upper[i] }, (uint16_t)lower[i]);
        v[2 * i + 1] = join(bf16{ (uint16_t)(upper[i] >> 16) }, (uint16_t)(lower[i] >> 16));
    }
}
__device__ static inline void store_masters(float *w, uint16_t *, const float v[8]) {
    store8(w, v);
}
__device__ static inline void store_masters(bf16 *w, uint16_t *low, const float v[8]) {
    uint32_t upper[4], lower[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bf16 a, b;
        uint16_t c, d;
        split(&a, &c, v[2 * i]);
        split(&b, &d, v[2 * i + 1]);
        upper[i] = a.bits | (uint32_t)b.bits << 16;
        lower[i] = c | (uint32_t)d << 16;
    }
    *(uint4 *)(void *)w = make_uint4(upper[0], upper[1], upper[2], upper[3]);
    *(uint4 *)(void *)low = make_uint4(lower[0], lower[1], lower[2], lower[3]);
}

/* ------------------------------------------------------------------------------------------------
 * 2. AdamW, train.c: trainer_update */

struct AdamW {
    float beta1, beta2, eps, factor; /* factor: of the gradients, from clipping */
    float rate, root, keep;          /* lr / (1 - beta1^n); sqrt(1 - beta2^n); 1 - lr decay */
    uint32_t update;                 /* n */
};

/* n numbers, a multiple of 8: weights w with their lower halves, gradients, moments. The first
 * `decays` of them are pulled towards 0. index: of the first, for random bits. */
template <class W, class G, class M>
__global__ void adamw_kernel(W *w, uint16_t *low, const G *g, M *m, M *v, size_t n, size_t decays,
                             uint64_t index, AdamW o) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= n) return;
    float x[8], d[8], a[8], b[8];
    load_masters(x, w + i, low + i);
    load8(d, g + i);
    load8(a, m + i);
    load8(b, v + i);
    M round_a[8], round_b[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float dw = d[k] * o.factor, keep = i + (size_t)k < decays ? o.keep : 1;
        a[k] = o.beta1 * a[k] + (1 - o.beta1) * dw;
        b[k] = o.beta2 * b[k] + (1 - o.beta2) * dw * dw;
        x[k] = x[k] * keep - o.rate * a[k] / (sqrtf(b[k]) / o.root + o.eps);
        uint32_t bits = random_bits(index + i + (uint64_t)k, o.update);
        round_random(&round_a[k], a[k], bits);
        round_random(&round_b[k], b[k], bits >> 16);
    }
    store_masters(w + i, low + i, x);
    for (int k = 0; k < 8; k++) a[k] = to_float(round_a[k]), b[k] = to_float(round_b[k]);
    store8(m + i, a);
    store8(v + i, b);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Norms */

enum { NORM_BLOCKS = 256 }; /* at most, of 4096 numbers or more */

/* part[block] = sum of squares of its part of x, which is the same on every device. */
template <class G> __global__ void squares_kernel(double *part, const G *x, size_t n) {
    double sum[1] = { 0 };
    for (size_t i = (size_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (size_t)gridDim.x * 256) {
        double v = (double)to_float(x[i]);
        sum[0] += v * v;
    }
    block_sum<1>(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum[0];
}

/* ------------------------------------------------------------------------------------------------
 * 4. To and from the host everything travels as float32. low: NULL where another rank has it. */

template <class W> __device__ static inline void set_master(W *w, uint16_t *low, float x);
template <> __device__ inline void set_master<float>(float *w, uint16_t *, float x) { *w = x; }
template <> __device__ inline void set_master<bf16>(bf16 *w, uint16_t *low, float x) {
    uint16_t lower;
    split(w, &lower, x);
    if (low) *low = lower;
}
template <class W>
__global__ void set_masters_kernel(W *w, uint16_t *low, const float *from, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) set_master(w + i, low ? low + i : NULL, from[i]);
}
__device__ static inline float get_master(const float *w, const uint16_t *) { return *w; }
__device__ static inline float get_master(const bf16 *w, const uint16_t *low) {
    return join(*w, *low);
}
template <class W>
__global__ void get_masters_kernel(float *to, const W *w, const uint16_t *low, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = get_master(w + i, low + i);
}

template <class A, class B> __global__ void convert_kernel(A *to, const B *from, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) from_float(to + i, to_float(from[i]));
}

#endif
