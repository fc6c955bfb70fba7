/* emu.h: CUDA kernels on a CPU, for tests. The same .cu that nvcc compiles is compiled here by
 * any C++ compiler; no toolkit, no GPU.
 *
 *     c++ -std=c++17 -DOC_EMU -x c++ -c runcuda.cu
 *
 * What to know first: a CUDA thread becomes a fiber, a stack of its own that runs until it has to
 * wait for others: at __syncthreads, or where a warp exchanges values (shuffles, ldmatrix, mma).
 * The fibers of one block take turns on one CPU thread, the blocks of a grid come one after the
 * other. What a GPU leaves undefined is made to show:
 *
 *   - the order of blocks, warps and lanes: OC_EMU_ORDER=1 turns it around, 2 and more shuffle it;
 *   - memory nobody has written: device and dynamic shared memory begin as NaN;
 *   - a copy that nobody waits for: cp.async lands at its wait, and what is put into a stream runs
 *     when the host or another stream waits for it, so a staging buffer that is reused too early
 *     gives other numbers; with OC_EMU_ORDER the other streams run as far ahead as they may;
 *   - a barrier that not all threads reach ends the program with the place;
 *   - a kernel launched to overlap the one before it must call pdl_wait() in every thread.
 *
 * It says nothing about speed, registers or bank conflicts, and has no memory model: a missing
 * __threadfence is not found. OC_EMU_DEVICES, OC_EMU_DRIVER, OC_EMU_CC, OC_EMU_MEMORY (bytes;
 * OC_EMU_ROOM: of them in one piece, for cudaMalloc), OC_EMU_SHARED and OC_EMU_FAIL=N (the N-th
 * call fails) play a machine that cannot do it.
 * Sections: 1 types, 2 fibers, 3 a block, 4 what kernels call, 5 the runtime. cuBLAS stands in
 * emu_blas.h, NCCL in emu_nccl.h. Used by gpu.h. Test: tests/test_cuda.c, tests/test_cuda.py. */
#ifndef OC_EMU_H
#define OC_EMU_H

#include <algorithm>  /* std::swap, std::max */
#include <cmath>      /* std::exp2 */
#include <cstdint>    /* uint32_t */
#include <cstdio>     /* fprintf */
#include <cstdlib>    /* getenv, abort */
#include <cstring>    /* memcpy */
#include <deque>      /* std::deque: streams, and what is in them */
#include <functional> /* std::function: a kernel with its arguments */
#include <vector>     /* std::vector */
#if !defined(__x86_64__) || defined(OC_EMU_UCONTEXT)
#include <ucontext.h> /* swapcontext */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Types and qualifiers */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static /* blocks come one after the other */

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return { x, y }; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return { x, y, z, w }; }
inline float2 make_float2(float x, float y) { return { x, y }; }
inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }

/* ------------------------------------------------------------------------------------------------
 * 2. Fibers: on x86-64 a switch is twelve instructions, which keep the registers that a function
 * must keep; elsewhere, or with -DOC_EMU_UCONTEXT, ucontext does it. */

namespace emu {

[[noreturn]] inline void fault(const char *what, const char *where) {
    fprintf(stderr, "emulation: %s at %s\n", what, where);
    abort();
}

inline void fiber_entry();

#if defined(__x86_64__) && !defined(OC_EMU_UCONTEXT)
typedef void *Context;
extern "C" void oc_emu_switch(void **save, void *load);
asm(".text\n.weak oc_emu_switch\n.type oc_emu_switch,@function\noc_emu_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n"
    "    pushq %r15\n    movq %rsp,(%rdi)\n    movq %rsi,%rsp\n    popq %r15\n    popq %r14\n"
    "    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n    ret\n");

inline void switch_to(Context *from, Context *to) { oc_emu_switch(from, *to); }

/* A stack that looks as if it had been left by a switch just before fiber_entry. */
inline void prepare(Context *c, char *stack, size_t size) {
    void **top = (void **)(void *)(stack + size) - 2; /* entry sees rsp = 8 mod 16, as after call */
    *top = (void *)fiber_entry;
    *c = top - 6;
}
#else
typedef ucontext_t Context;
inline void switch_to(Context *from, Context *to) { swapcontext(from, to); }
inline void prepare(Context *c, char *stack, size_t size) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = size;
    c->uc_link = nullptr;
    makecontext(c, fiber_entry, 0);
}
#endif

/* ------------------------------------------------------------------------------------------------
 * 3. A block: its fibers, the barrier of all and the meeting point of each warp */

/* Whoever arrives last moves `round` on; the others sleep until it has moved. */
struct Meeting {
    unsigned arrived, round;
};
/* A warp's meeting has a box per lane; two sets take turns, so that a fast lane may post its next
 * value while a slow one still reads the last. */
struct Warp : Meeting {
    alignas(16) unsigned char box[2][32][48];
    unsigned live;
};
struct Copy { /* a cp.async on its way */
    void *to;
    const void *from;
    int group;
};
struct Fiber {
    Context context;
    char *stack;
    uint3 thread;
    unsigned lane, warp;
    bool done, waited; /* waited: has called pdl_wait */
    Meeting *asleep;   /* what it waits for, or NULL */
    unsigned round;
    const char *where;
    std::vector<Copy> copies;
    int group; /* the cp.async group that is open */
};

constexpr size_t STACK = 128 << 10;

struct Block { /* the one that runs */
    ~Block() { /* at the end of the program */
        for (char *s : stack) free(s);
    }
    dim3 grid, size;
    uint3 index;
    bool overlapped;
    const std::function<void()> *body;
    std::vector<Fiber> fiber;
    std::vector<Warp> warp;
    std::vector<char *> stack;
    Meeting all;
    unsigned live;
    std::vector<unsigned char> shared;
    Context scheduler;
};
inline Block block;
inline Fiber *self;

inline int order() {
    const char *text = getenv("OC_EMU_ORDER");
    return text ? atoi(text) : 0;
}

/* The i-th of n things in the order that OC_EMU_ORDER asks for. */
inline std::vector<unsigned> ordered(unsigned n, unsigned salt) {
    std::vector<unsigned> v(n);
    int kind = order();
    for (unsigned i = 0; i < n; i++) v[i] = kind == 1 ? n - 1 - i : i;
    uint32_t random = (uint32_t)kind * 2654435761u + salt;
    for (unsigned i = n; kind > 1 && i > 1; i--) {
        random = random * 1664525u + 1013904223u;
        std::swap(v[i - 1], v[(random >> 8) % i]);
    }
    return v;
}

inline void release(Meeting *m) {
    m->arrived = 0;
    m->round++;
}

inline void arrive(Meeting *m, unsigned needed, const char *where) {
    if (++m->arrived >= needed) {
        release(m);
        return;
    }
    self->asleep = m;
    self->round = m->round;
    self->where = where;
    switch_to(&self->context, &block.scheduler);
}

inline void fiber_entry() {
    (*block.body)();
    if (!self->copies.empty()) fault("a thread ends with a cp.async on its way", "its end");
    if (block.overlapped && !self->waited) fault("a thread ends without pdl_wait()", "its end");
    self->done = true;
    Warp *w = &block.warp[self->warp];
    if (--w->live && w->arrived) fault("a lane leaves while others wait for it", "its end");
    if (--block.live && block.all.arrived >= block.live) release(&block.all);
    Context gone;
    switch_to(&gone, &block.scheduler);
}

/* Runs the lanes of a warp until none can go on. Returns whether any moved. */
inline bool run_warp(const std::vector<unsigned> &lanes, unsigned warp, unsigned *left) {
    bool moved = false, again = true;
    while (again) {
        again = false;
        for (unsigned lane : lanes) {
            Fiber *f = &block.fiber[warp * 32 + lane];
            if (f->done || (f->asleep && f->asleep->round == f->round)) continue;
            f->asleep = nullptr;
            self = f;
            again = moved = true;
            switch_to(&block.scheduler, &f->context);
            *left -= f->done;
        }
    }
    return moved;
}

inline void set_up(unsigned n, unsigned number) {
    block.index = { number % block.grid.x, number / block.grid.x % block.grid.y,
                    number / (block.grid.x * block.grid.y) };
    block.all = { 0, 0 };
    block.live = n;
    block.warp.resize(n / 32);
    for (Warp &w : block.warp) w.arrived = w.round = 0, w.live = 32;
    while (block.stack.size() < n) block.stack.push_back((char *)aligned_alloc(64, STACK));
    block.fiber.resize(n);
    for (unsigned i = 0; i < n; i++) {
        Fiber *f = &block.fiber[i];
        f->stack = block.stack[i];
        f->thread = { i % block.size.x, i / block.size.x % block.size.y,
                      i / (block.size.x * block.size.y) };
        f->lane = i % 32, f->warp = i / 32;
        f->done = f->waited = false;
        f->asleep = nullptr;
        f->where = "its start";
        f->group = 0;
        prepare(&f->context, f->stack, STACK - i % 32 * 320); /* not all in one cache set */
    }
    std::fill(block.shared.begin(), block.shared.end(), (unsigned char)0xff); /* NaN */
}

inline void run_block(unsigned number) {
    unsigned n = block.size.x * block.size.y * block.size.z, left = n;
    if (n % 32 || n == 0 || n > 1024) fault("a block is no 1 to 32 whole warps", "launch");
    set_up(n, number);
    std::vector<unsigned> warps = ordered(n / 32, number), lanes = ordered(32, number + 7);
    while (left) {
        bool moved = false;
        for (unsigned w : warps) moved |= run_warp(lanes, w, &left);
        for (unsigned i = 0; left && !moved && i < n; i++)
            if (!block.fiber[i].done) fault("threads wait for ever", block.fiber[i].where);
    }
}

inline void run_grid(dim3 grid, dim3 size, size_t shared, bool overlapped,
                     const std::function<void()> &body) {
    block.grid = grid;
    block.size = size;
    block.overlapped = overlapped;
    block.body = &body;
    block.shared.resize(shared + 16);
    for (unsigned number : ordered(grid.x * grid.y * grid.z, 3)) run_block(number);
}

/* All 32 lanes post a value, then each calls use(box), where box(l) is what lane l posted. */
template <class T, class Use> inline auto exchange(const T &value, const char *where, Use use) {
    static_assert(sizeof(T) <= 48, "a box of a warp is too small");
    Warp *w = &block.warp[self->warp];
    if (w->live != 32) fault("a lane has left its warp", where);
    auto &box = w->box[w->round & 1];
    memcpy(box[self->lane], &value, sizeof value);
    arrive(w, 32, where);
    return use([&box](unsigned lane) {
        T got;
        memcpy(&got, box[lane & 31], sizeof got);
        return got;
    });
}

} // namespace emu

/* ------------------------------------------------------------------------------------------------
 * 4. What kernels call */

#define threadIdx       (emu::self->thread)
#define blockIdx        (emu::block.index)
#define blockDim        (emu::block.size)
#define gridDim         (emu::block.grid)
#define EMU_TEXT2(x)    #x
#define EMU_TEXT(x)     EMU_TEXT2(x)
#define EMU_HERE        __FILE__ ":" EMU_TEXT(__LINE__)
#define __syncthreads() emu::arrive(&emu::block.all, emu::block.live, EMU_HERE)

inline unsigned char *dynamic_shared() {
    uintptr_t at = (uintptr_t)emu::block.shared.data();
    return (unsigned char *)((at + 15) & ~(uintptr_t)15);
}

inline void __syncwarp() {
    emu::exchange(0, "__syncwarp", [](auto) { return 0; });
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    unsigned lane = emu::self->lane;
    return emu::exchange(value, "__shfl_xor_sync",
                         [=](auto box) { return box(lane ^ (unsigned)mask); });
}
template <class T> T __shfl_sync(unsigned, T value, int from, int = 32) {
    return emu::exchange(value, "__shfl_sync", [=](auto box) { return box((unsigned)from); });
}
inline int atomicAdd(int *p, int v) {
    int old = *p;
    *p = old + v;
    return old;
}
inline void __threadfence() {}
template <class T> T __ldg(const T *p) { return *p; }
inline uint32_t __float_as_uint(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

/* The numbers of 16 and 8 bits, as in hardware: to nearest, ties to even. */
inline float bf16_bits_to_float(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
inline uint16_t float_to_bf16_bits(float f) {
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
/* Any small float: `exponent` and `mantissa` bits, no infinity where the largest is finite. */
inline float small_to_float(unsigned h, int exponent, int mantissa) {
    int bias = (1 << (exponent - 1)) - 1, e = (int)(h >> mantissa) & ((1 << exponent) - 1);
    float m = (float)(h & ((1u << mantissa) - 1)) / (float)(1 << mantissa);
    float v = e ? std::ldexp(1 + m, e - bias) : std::ldexp(m, 1 - bias);
    return h >> (exponent + mantissa) & 1 ? -v : v;
}
inline unsigned float_to_small(float f, int exponent, int mantissa) {
    int bias = (1 << (exponent - 1)) - 1, e;
    float a = std::fabs(f);
    std::frexp(a, &e);
    e = a > 0 ? std::max(e - 1, 1 - bias) : 1 - bias; /* below that, subnormal */
    unsigned steps = (unsigned)std::nearbyint(std::ldexp(a, mantissa - e));
    unsigned h = steps + ((unsigned)(e + bias - 1) << mantissa); /* a carry raises the exponent */
    return h | (std::signbit(f) ? 1u << (exponent + mantissa) : 0);
}
inline float half_bits_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff) << 13;
    if (body >= 0x0f800000) return __uint_as_float(sign | body | 0x7f800000);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(body) * 0x1p112f));
}
inline uint16_t float_to_half_bits(float f) { /* of at most 65504 */
    return std::isnan(f) ? 0x7e00 : (uint16_t)float_to_small(f, 5, 10);
}
inline float e4m3_to_float(uint8_t h) { return (h & 0x7f) == 0x7f ? NAN : small_to_float(h, 4, 3); }
inline uint8_t float_to_e4m3(float f) { /* saturates at 448 */
    if (std::isnan(f)) return 0x7f;
    return (uint8_t)float_to_small(std::fmax(-448.0f, std::fmin(448.0f, f)), 4, 3);
}

inline uint4 load_stream(const void *p) {
    uint4 v;
    if ((uintptr_t)p % 16) emu::fault("a load is not aligned", "load_stream");
    memcpy(&v, p, 16);
    return v;
}
inline void pdl_wait() { emu::self->waited = true; }
inline void pdl_launch() {}

inline void cp_async16(void *to, const void *from) {
    if (((uintptr_t)to | (uintptr_t)from) % 16) emu::fault("a copy is not aligned", "cp_async16");
    emu::self->copies.push_back({ to, from, emu::self->group });
}
inline void cp_async_commit() { emu::self->group++; }
template <int N> inline void cp_async_wait() { /* all but the N youngest groups land */
    auto &copies = emu::self->copies;
    size_t kept = 0;
    for (emu::Copy &c : copies)
        if (c.group < emu::self->group - N)
            memcpy(c.to, c.from, 16);
        else
            copies[kept++] = c;
    copies.resize(kept);
}

/* Four 8 x 8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8 and
 * gets, of each matrix, numbers 2 (l % 4) and the next of row l / 4; TRANSPOSED: column l / 4. */
template <bool TRANSPOSED> inline void ldmatrix_x4(uint32_t r[4], const void *row) {
    struct Row {
        uint16_t number[8];
    } mine;
    if ((uintptr_t)row % 16) emu::fault("a row is not aligned", "ldmatrix");
    memcpy(&mine, row, sizeof mine);
    unsigned l = emu::self->lane, i = l / 4, j = l % 4 * 2;
    emu::exchange(mine, "ldmatrix", [&](auto box) {
        for (unsigned m = 0; m < 4; m++) {
            uint16_t lo = TRANSPOSED ? box(m * 8 + j).number[i] : box(m * 8 + i).number[j];
            uint16_t hi = TRANSPOSED ? box(m * 8 + j + 1).number[i] : box(m * 8 + i).number[j + 1];
            r[m] = lo | (uint32_t)hi << 16;
        }
        return 0;
    });
}

/* c (16, 8) += a (16, k) b (k, 8), of 32-bit words that hold k / 8 numbers each: lane l has of a
 * rows l / 4 and l / 4 + 8, of b column l / 4, and both at words l % 4 and l % 4 + 4 of the row;
 * of c rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next. dot(x, y) multiplies two words. */
template <class T, class Dot>
inline void mma(T c[4], const uint32_t a[4], const uint32_t b[2], const char *where, Dot dot) {
    struct Post {
        uint32_t a[4], b[2];
    };
    unsigned l = emu::self->lane, row = l / 4, col = l % 4 * 2;
    Post mine = { { a[0], a[1], a[2], a[3] }, { b[0], b[1] } };
    emu::exchange(mine, where, [&](auto box) {
        for (unsigned half = 0; half < 2; half++)
            for (unsigned word = 0; word < 4; word++) {
                Post p = box(row * 4 + word);
                for (unsigned j = 0; j < 2; j++) {
                    uint32_t q = box((col + j) * 4 + word).b[half];
                    c[j] += dot(p.a[half * 2], q);
                    c[2 + j] += dot(p.a[half * 2 + 1], q);
                }
            }
        return 0;
    });
}
inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    mma(c, a, b, "mma_bf16", [](uint32_t x, uint32_t y) {
        return __uint_as_float(x << 16) * __uint_as_float(y << 16) +
               __uint_as_float(x & 0xffff0000) * __uint_as_float(y & 0xffff0000);
    });
}
inline void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    mma(c, a, b, "mma_f16", [](uint32_t x, uint32_t y) {
        return half_bits_to_float((uint16_t)x) * half_bits_to_float((uint16_t)y) +
               half_bits_to_float((uint16_t)(x >> 16)) * half_bits_to_float((uint16_t)(y >> 16));
    });
}
inline void mma_s8(int c[4], const uint32_t a[4], const uint32_t b[2]) {
    mma(c, a, b, "mma_s8", [](uint32_t x, uint32_t y) {
        int sum = 0;
        for (int i = 0; i < 32; i += 8) sum += (int8_t)(x >> i) * (int8_t)(y >> i);
        return sum;
    });
}

/* ------------------------------------------------------------------------------------------------
 * 5. The runtime: one device with streams of work, which run when somebody waits for them */

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking, cudaEventDisableTiming, cudaStreamCaptureModeThreadLocal };

struct cudaDeviceProp {
    char name[64];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin;
};

namespace emu {
typedef std::function<void()> Op;
typedef std::vector<Op> Ops;
struct Stream;
struct Event { /* `at` operations of the stream have run; without a stream: always so */
    Stream *stream;
    size_t at;
};
struct Step {
    Op op;
    Event after; /* what it waits for */
};
struct Stream {
    std::deque<Step> left; /* submitted and not run yet */
    size_t done;           /* how many have run */
    bool open;
};
inline std::deque<Stream> streams(1); /* the first is CUDA's default, the NULL one */
inline Ops *capturing;                /* not NULL: what is submitted goes into a graph */
inline size_t used;                   /* bytes of device memory */

inline long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

inline Stream *stream_of(Stream *s) { return s ? s : &streams.front(); }

inline void submit(Stream *s, Op op) {
    if (capturing) return capturing->push_back(std::move(op));
    stream_of(s)->left.push_back({ std::move(op), { nullptr, 0 } });
}

inline bool reached(Event e) { return !e.stream || e.stream->done >= e.at; }

inline void run_next(Stream *s) {
    Op op = std::move(s->left.front().op);
    s->left.pop_front();
    op();
    s->done++;
}

/* Runs a stream until n of its operations are done, and of others what those wait for; with
 * OC_EMU_ORDER the others go first, as far as they can. */
inline void run_until(Stream *s, size_t n) {
    while (s->done < n && !s->left.empty()) {
        for (Stream &other : streams)
            while (order() && &other != s && !other.left.empty() &&
                   reached(other.left.front().after))
                run_next(&other);
        Event after = s->left.front().after;
        if (reached(after))
            run_next(s);
        else
            run_until(after.stream, after.at);
    }
}

/* Every call of the runtime passes here, and may be the one that OC_EMU_FAIL names. */
inline cudaError_t call() {
    static long count;
    return ++count == setting("OC_EMU_FAIL", 0) ? cudaErrorUnknown : cudaSuccess;
}

template <class... P, class... A>
cudaError_t launch(Stream *stream, void (*kernel)(P...), dim3 grid, dim3 size, size_t shared,
                   bool overlapped, A... args) {
    submit(stream, [=] { run_grid(grid, size, shared, overlapped, [=] { kernel(P(args)...); }); });
    return call();
}
} // namespace emu

typedef emu::Stream *cudaStream_t;
typedef emu::Event *cudaEvent_t;
typedef emu::Ops *cudaGraph_t;
typedef emu::Ops *cudaGraphExec_t;

inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation         ? "out of memory"
           : e == cudaErrorNoDevice               ? "no CUDA-capable device is detected"
           : e == cudaErrorInsufficientDriver     ? "the driver is older than the runtime"
           : e == cudaErrorNoKernelImageForDevice ? "no kernel image for the device"
                                                  : "an error made by OC_EMU_FAIL";
}
inline cudaError_t cudaGetDeviceCount(int *n) {
    *n = (int)emu::setting("OC_EMU_DEVICES", 1);
    if (emu::setting("OC_EMU_DRIVER", 13000) < 13000) return cudaErrorInsufficientDriver;
    return *n ? emu::call() : cudaErrorNoDevice;
}
inline cudaError_t cudaDriverGetVersion(int *v) {
    *v = (int)emu::setting("OC_EMU_DRIVER", 13000);
    return emu::call();
}
inline cudaError_t cudaRuntimeGetVersion(int *v) { return *v = 13000, emu::call(); }
inline cudaError_t cudaSetDevice(int) { return emu::call(); }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    int cc = (int)emu::setting("OC_EMU_CC", 90);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulation");
    p->major = cc / 10, p->minor = cc % 10;
    p->multiProcessorCount = (int)emu::setting("OC_EMU_SMS", 3);
    p->sharedMemPerBlockOptin = (size_t)emu::setting("OC_EMU_SHARED", 227 << 10);
    return emu::call();
}
inline cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = (size_t)emu::setting("OC_EMU_MEMORY", 8L << 30);
    *free_bytes = *total > emu::used ? *total - emu::used : 0;
    return emu::call();
}
inline cudaError_t emu_malloc(void **p, size_t n) {
    *p = aligned_alloc(256, (n + 255) & ~(size_t)255);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, n); /* NaN */
    return emu::call();
}
template <class T> cudaError_t cudaMallocHost(T **p, size_t n) { return emu_malloc((void **)p, n); }
inline cudaError_t cudaFreeHost(void *p) { return free(p), emu::call(); }
/* On the device, at most OC_EMU_MEMORY; the 256 bytes in front hold the size. */
template <class T> cudaError_t cudaMalloc(T **p, size_t n) {
    char *bytes;
    if (emu::used + n >
        (size_t)emu::setting("OC_EMU_ROOM", emu::setting("OC_EMU_MEMORY", 8L << 30)))
        return cudaErrorMemoryAllocation;
    cudaError_t e = emu_malloc((void **)&bytes, n + 256);
    memcpy(bytes, &n, sizeof n);
    emu::used += n;
    *p = (T *)(void *)(bytes + 256);
    return e;
}
inline cudaError_t cudaFree(void *p) {
    size_t n;
    if (!p) return emu::call();
    memcpy(&n, (char *)p - 256, sizeof n);
    emu::used -= n;
    free((char *)p - 256);
    return emu::call();
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind,
                                   cudaStream_t stream) {
    emu::submit(stream, [=] { memcpy(to, from, n); });
    return emu::call();
}
inline cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t pitch,
                                     size_t width, size_t rows, cudaMemcpyKind,
                                     cudaStream_t stream) {
    emu::submit(stream, [=] {
        for (size_t r = 0; r < rows; r++)
            memcpy((char *)to + r * to_pitch, (const char *)from + r * pitch, width);
    });
    return emu::call();
}
inline cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
    emu::submit(stream, [=] { memset(p, value, n); });
    return emu::call();
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    size_t i = 1;
    while (i < emu::streams.size() && emu::streams[i].open) i++;
    if (i == emu::streams.size()) emu::streams.emplace_back();
    *s = &emu::streams[i];
    (*s)->open = true;
    return emu::call();
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    emu::run_until(emu::stream_of(s), SIZE_MAX);
    return emu::call();
}
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
    s->open = false;
    return cudaStreamSynchronize(s);
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    return *e = new emu::Event{ nullptr, 0 }, emu::call();
}
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, emu::call(); }
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
    emu::Stream *s = emu::stream_of(stream);
    return *e = { s, s->done + s->left.size() }, emu::call();
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    emu::stream_of(s)->left.push_back({ [] {}, *e });
    return emu::call();
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    if (e->stream) emu::run_until(e->stream, e->at);
    return emu::call();
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
    return emu::capturing = new emu::Ops, emu::call();
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g) {
    *g = emu::capturing;
    emu::capturing = nullptr;
    return emu::call();
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned) {
    return *x = new emu::Ops(*g), emu::call();
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t stream) {
    for (auto &op : *x) emu::submit(stream, op);
    return emu::call();
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, emu::call(); }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { return delete x, emu::call(); }

#include "emu_blas.h" /* cublasGemmEx */

#endif
