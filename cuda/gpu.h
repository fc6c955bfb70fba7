/* gpu.h: what the .cu files need of CUDA: calls and launches that are checked, numbers of 16 and 8
 * bits, and the few instructions that C++ has no word for.
 *
 * What to know first: everything here exists twice. nvcc gets the real thing; with -DOC_EMU any
 * C++ compiler gets cuda/emu.h, which runs kernels on the CPU. Kernels use nothing of CUDA
 * but what stands in both, so what is tested without a GPU is what runs on one.
 * Sections: 1 checked calls, 2 launches, 3 numbers, 4 instructions. Test: tests/test_cuda.c. */
#ifndef OC_GPU_H
#define OC_GPU_H

#include "../files.h" /* die */
#ifdef OC_EMU
#include "emu.h" /* the same names on a CPU */
#else
#include <cublas_v2.h>    /* cublasGemmEx */
#include <cuda_bf16.h>    /* conversions */
#include <cuda_fp16.h>    /* conversions */
#include <cuda_fp8.h>     /* conversions */
#include <cuda_runtime.h> /* cudaMalloc, ... */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Checked calls: whatever fails ends the program with one line */

static inline void check_cuda(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return;
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
        die("GPU: %s: no code for this device, expected one of make's CUDA_ARCH; see cuda.mk",
            what);
    die("GPU: %s: %s, expected success", what, cudaGetErrorString(e));
}
static inline void check_cublas(cublasStatus_t s, const char *what) {
    if (s != CUBLAS_STATUS_SUCCESS)
        die("GPU: %s: %s, expected success", what, cublasGetStatusString(s));
}
#define CUDA(call)   check_cuda(call, #call)
#define CUBLAS(call) check_cublas(call, #call)

typedef struct {
    char name[256];
    int n_sm, cc;      /* multiprocessors; compute capability, 90 for 9.0 */
    size_t max_shared; /* bytes of shared memory that one block may have */
} Gpu;

/* Takes a device, or ends the program with the reason why that is not possible. Of several
 * processes on a machine each has its own number, and takes the device of that number. */
static inline void gpu_open(Gpu *g, int number) {
    int n = 0, driver = 0, runtime = 0;
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver) {
        CUDA(cudaDriverGetVersion(&driver));
        CUDA(cudaRuntimeGetVersion(&runtime));
        if (!driver) die("GPU: no NVIDIA driver found, expected one; ./run needs no GPU");
        die("GPU: the driver is for CUDA %d.%d, expected %d.%d or newer; update the driver",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n < 1))
        die("GPU: no device found, expected one; ./run needs none");
    check_cuda(e, "cudaGetDeviceCount");
    CUDA(cudaSetDevice(number % n));
    CUDA(cudaGetDeviceProperties(&p, number % n));
    snprintf(g->name, sizeof g->name, "%s", p.name);
    g->n_sm = p.multiProcessorCount;
    g->cc = p.major * 10 + p.minor;
    g->max_shared = p.sharedMemPerBlockOptin;
    if (g->cc < 80)
        die("GPU: %s has compute capability %d.%d, expected 8.0 or newer", g->name, p.major,
            p.minor);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Launches. `overlap`: the kernel may start while the one before it still runs ("programmatic
 * dependent launch", from compute capability 9.0 on), and must call pdl_wait() before it touches
 * what that one writes or reads. */

typedef struct {
    cudaStream_t stream;
    bool overlap;
} Queue;

template <class... P, class... A>
static void launch(const Queue *q, const char *name, void (*kernel)(P...), dim3 grid, int threads,
                   size_t shared, A... args) {
#ifdef OC_EMU
    check_cuda(emu::launch(q->stream, kernel, grid, dim3((unsigned)threads), shared, q->overlap,
                           args...),
               name);
#else
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute overlap[1] = {};
    overlap[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap[0].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = grid;
    c.blockDim = dim3((unsigned)threads);
    c.dynamicSmemBytes = shared;
    c.stream = q->stream;
    c.attrs = overlap;
    c.numAttrs = q->overlap;
    if (shared > 48 << 10)
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)shared),
                   name);
    check_cuda(cudaLaunchKernelEx(&c, kernel, P(args)...), name);
#ifdef OC_CUDA_SYNC /* make CUDA_SYNC=1: an error is reported by the kernel that made it */
    check_cuda(cudaStreamSynchronize(q->stream), name);
#endif
#endif
}

/* ------------------------------------------------------------------------------------------------
 * 3. Numbers: bits in types of their own, so that templates tell them apart */

struct bf16 {
    uint16_t bits; /* the upper half of a float */
};
struct f16 {
    uint16_t bits; /* IEEE half; what is larger than 65504 becomes 65504 */
};
struct fp8 {
    uint8_t bits; /* e4m3: 4 bits of exponent, 3 of mantissa, up to 448 */
};

__device__ static inline float to_float(float x) { return x; }
__device__ static inline float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

#ifdef OC_EMU
static inline float to_float(f16 x) { return half_bits_to_float(x.bits); }
static inline float to_float(fp8 x) { return e4m3_to_float(x.bits); }
static inline uint16_t bf16_bits(float x) { return float_to_bf16_bits(x); }
static inline uint16_t f16_bits(float x) { return float_to_half_bits(x); }
static inline uint8_t fp8_bits(float x) { return float_to_e4m3(x); }
#else
__device__ static inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ static inline float to_float(fp8 x) {
    __half_raw h = __nv_cvt_fp8_to_halfraw(x.bits, __NV_E4M3);
    return __half2float(__half(h));
}
__device__ static inline uint16_t bf16_bits(float x) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ static inline uint16_t f16_bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ static inline uint8_t fp8_bits(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
#endif

__device__ static inline void from_float(float *y, float x) { *y = x; }
__device__ static inline void from_float(bf16 *y, float x) { y->bits = bf16_bits(x); }
__device__ static inline void from_float(fp8 *y, float x) { y->bits = fp8_bits(x); }
__device__ static inline void from_float(f16 *y, float x) {
    y->bits = f16_bits(x > 65504 ? 65504 : x < -65504 ? -65504 : x); /* NaN stays NaN */
}

/* Two numbers in one word, the first in the lower half. */
template <class T> __device__ static inline uint32_t pack(float lo, float hi) {
    T a, b;
    from_float(&a, lo);
    from_float(&b, hi);
    return a.bits | (uint32_t)b.bits << 16;
}

/* v[0 .. 7] = eight numbers from memory that is aligned to all of them, and back. */
template <class T> __device__ static inline void load8(float v[8], const T *p) {
    uint4 u = *(const uint4 *)(const void *)p;
    const uint32_t word[4] = { u.x, u.y, u.z, u.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = to_float(T{ (uint16_t)word[i] });
        v[2 * i + 1] = to_float(T{ (uint16_t)(word[i] >> 16) });
    }
}
template <> __device__ inline void load8<float>(float v[8], const float *p) {
    float4 a = ((const float4 *)(const void *)p)[0], b = ((const float4 *)(const void *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
template <> __device__ inline void load8<fp8>(float v[8], const fp8 *p) {
    uint2 u = *(const uint2 *)(const void *)p;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = to_float(fp8{ (uint8_t)(u.x >> 8 * i) });
        v[i + 4] = to_float(fp8{ (uint8_t)(u.y >> 8 * i) });
    }
}
template <class T> __device__ static inline void store8(T *p, const float v[8]) {
    *(uint4 *)(void *)p = make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]),
                                     pack<T>(v[6], v[7]));
}
template <> __device__ inline void store8<float>(float *p, const float v[8]) {
    ((float4 *)(void *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)(void *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Instructions. The comments in cuda/emu.h say which lane holds what. */
#ifndef OC_EMU

__device__ static inline unsigned char *dynamic_shared(void) {
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return shared_bytes;
}
__device__ static inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes that are read once: past the first cache. */
__device__ static inline uint4 load_stream(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ static inline void pdl_wait(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ static inline void pdl_launch(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Copies 16 bytes into shared memory on their own; a thread's copies form groups. */
__device__ static inline void cp_async16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
}
__device__ static inline void cp_async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> __device__ static inline void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

template <bool TRANSPOSED>
__device__ static inline void ldmatrix_x4(uint32_t r[4], const void *row) {
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
}

/* c (16, 8) += a (16, k) b (k, 8): k is 16 for numbers of 16 bits, 32 for int8. */
__device__ static inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ static inline void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ static inline void mma_s8(int c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#endif
