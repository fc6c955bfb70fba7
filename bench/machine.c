/* machine.c: what this machine can do at most, for bench.py and peers.py to compare with.
 *
 *     machine [MEGABYTES]      prints one line:
 *     read N GB/s, multiply-add N GFLOP/s, N threads, int16 N GOP/s, int8 N GOP/s, bf16 N GFLOP/s
 *
 * read: all threads together read a block of memory far larger than the caches, as the matrices are
 * read when a token is generated, in the way that gets most of it (see below). The others: every
 * thread keeps twelve independent chains of one instruction busy, on vectors that stay in
 * registers; a multiplication and the addition of its product are two operations. What the
 * processor (or the compiler's -march) lacks is left out of the line. */
#define _GNU_SOURCE /* madvise under -std=c11 */
#include <stdbool.h>
#include <stdint.h> /* uint64_t */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>     /* timespec_get */
#include <sys/mman.h> /* madvise */
#ifdef _OPENMP
#include <omp.h> /* omp_get_max_threads, omp_set_schedule */
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

enum { ROUNDS = 7, CHAINS = 12, MAX_THREADS = 1024, PIECE = 2 << 20 };
#ifdef __AVX512BW__
enum { WIDTH = 64 };
#else
enum { WIDTH = 32 };
#endif
typedef float Floats __attribute__((vector_size(WIDTH)));
typedef uint64_t Words __attribute__((vector_size(WIDTH)));

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *checked(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "error: machine: no memory of that size, expected a number of MB\n");
    exit(1);
}

/* ------------------------------------------------------------------------------------------------
 * 1. Reading. One thread has few loads under way at a time; how many depends on the order, so
 * several are tried: a piece of 2 MB (a huge page) from one end to the other, or as 2 or 4 streams
 * side by side; with and without asking for what comes 2 KB later; the pieces shared out
 * beforehand, each thread's one after the other, or dealt to whoever has time. */

typedef struct {
    int streams;
    bool fetch, dealt;
} Way;

static const Way ways[] = {
    { 1, false, false }, { 1, false, true }, { 1, true, true },   { 2, false, false },
    { 2, false, true },  { 4, false, true }, { 4, false, false },
};

/* The exclusive or of all words of a piece, in 8 independent vectors. The caller's `streams` and
 * `fetch` are constants. */
static inline uint64_t read_piece(const char *piece, int streams, bool fetch) {
    const int length = PIECE / streams, step = 4 * WIDTH;
    Words x[8] = { { 0 } };
    for (int i = 0; i < length; i += step)
        for (int s = 0; s < streams; s++) {
            const char *at = piece + (size_t)s * (size_t)length + i;
            const Words *w = (const Words *)at;
            for (int j = 0; fetch && j < step; j += 64) __builtin_prefetch(at + 2048 + j);
            for (int j = 0; j < 4; j++) x[(s & 1) * 4 + j] ^= w[j];
        }
    uint64_t bits = 0;
    for (int i = 1; i < 8; i++) x[0] ^= x[i];
    for (int i = 0; i < WIDTH / 8; i++) bits ^= x[0][i];
    return bits;
}

static uint64_t read_one(const char *piece, Way way) {
    switch (way.streams) {
    case 1: return way.fetch ? read_piece(piece, 1, true) : read_piece(piece, 1, false);
    case 2: return read_piece(piece, 2, false);
    default: return read_piece(piece, 4, false);
    }
}

/* Bytes per second at which `pieces` pieces are read. Every piece is the word 1 and zeros, so that
 * the result shows whether an odd number of them was read; each is needed for it. */
static double read_rate(const char *memory, int pieces, Way way) {
    uint64_t bits = 0;
#ifdef _OPENMP
    omp_set_schedule(way.dealt ? omp_sched_dynamic : omp_sched_static, way.dealt ? 1 : 0);
#endif
    double begun = seconds();
#pragma omp parallel for schedule(runtime) reduction(^ : bits)
    for (int p = 0; p < pieces; p++) bits ^= read_one(memory + (size_t)p * PIECE, way);
    double taken = seconds() - begun;
    if (bits != (uint64_t)(pieces & 1)) fprintf(stderr, "error: memory: wrong sum\n"), exit(1);
    return (double)pieces * PIECE / taken;
}

/* The best rate of all ways, in turns. */
static double best_read_rate(int pieces) {
    const int n_ways = sizeof ways / sizeof *ways;
    size_t bytes = (size_t)pieces * PIECE;
    char *memory = checked(bytes ? aligned_alloc(PIECE, bytes) : NULL);
    double best = 0;
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* advice may be refused */
#endif
#pragma omp parallel for schedule(static)
    for (int p = 0; p < pieces; p++) { /* by the thread that will read it, when not dealt */
        memset(memory + (size_t)p * PIECE, 0, PIECE);
        memory[(size_t)p * PIECE] = 1;
    }
    for (int i = 0; i < ROUNDS * n_ways; i++) {
        double rate = read_rate(memory, pieces, ways[i % n_ways]);
        if (rate > best) best = rate;
    }
    free(memory);
    return best;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Multiplying. A chain's next value needs its last, and the twelve differ: nothing can be
 * computed once for all or left out. Products that an instruction does not add up itself are added
 * by a second one, as in every dot product. */

/* y = y a + b. Compiled with -ffp-contract=fast: one instruction each. */
static float multiply_floats(long steps) {
    Floats y[CHAINS] = { { 0 } };
    float sum = 0;
    for (int c = 0; c < CHAINS; c++) y[c] += (float)c;
    for (long s = 0; s < steps; s++)
        for (int c = 0; c < CHAINS; c++) y[c] = y[c] * 0.999f + 0.001f;
    for (int c = 0; c < CHAINS; c++)
        for (int l = 0; l < WIDTH / 4; l++) sum += y[c][l];
    return sum;
}

#ifdef __AVX2__
/* CHAIN(name, Vector, next) defines name(steps): y = next, an expression of y and a. */
#define CHAIN(name, Vector, next)                                                                  \
    static float name(long steps) {                                                                \
        Vector chain[CHAINS], a = (Vector)((Words){ 0 } + (uint64_t)steps);                        \
        Words all = { 0 };                                                                         \
        for (int c = 0; c < CHAINS; c++) chain[c] = (Vector)((Words)a * (uint64_t)c);              \
        for (long s = 0; s < steps; s++)                                                           \
            _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) {                            \
                Vector y = chain[c];                                                               \
                chain[c] = next;                                                                   \
            }                                                                                      \
        _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) all ^= (Words)chain[c];          \
        return 1 + (float)(all[0] & 1);                                                            \
    }
#ifdef __AVX512BW__
#define MM(operation) _mm512_##operation
typedef __m512i Integers;
#else
#define MM(operation) _mm256_##operation
typedef __m256i Integers;
#endif
CHAIN(multiply_int16, Integers, MM(add_epi32)(y, MM(madd_epi16)(y, a)))
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
CHAIN(multiply_int8, Integers, _mm512_dpbusd_epi32(y, y, a))
#elif defined(__AVXVNNI__) && !defined(__AVX512BW__)
CHAIN(multiply_int8, Integers, _mm256_dpbusd_avx_epi32(y, y, a))
#else
CHAIN(multiply_int8, Integers, MM(add_epi16)(y, MM(maddubs_epi16)(y, a)))
#endif
#ifdef __AVX512BF16__
CHAIN(multiply_bf16, __m512, _mm512_dpbf16_ps(y, (__m512bh)y, (__m512bh)a))
#endif
#endif

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints the operations per second of all threads, `products` of them times two with every
 * instruction. Each thread's rate is the median of many slices of time, shorter than those that a
 * scheduler deals out, so that few of them are interrupted. */
static void print_rate(const char *name, const char *unit, float (*multiply)(long), int products) {
    enum { SLICES = 101, STEPS = 100000 };
    double rate = 0;
    float sum = 0;
#pragma omp parallel reduction(+ : rate, sum)
    {
        double taken[SLICES];
        for (int i = 0; i < SLICES; i++) {
            double begun = seconds();
            sum += multiply(STEPS);
            taken[i] = seconds() - begun;
        }
        qsort(taken, SLICES, sizeof *taken, ascending);
        rate += 2.0 * CHAINS * products * STEPS / taken[SLICES / 2];
    }
    if (!(sum > 0)) fprintf(stderr, "error: arithmetic: wrong sum\n"), exit(1);
    printf(", %s %.1f %s", name, rate / 1e9, unit);
}

int main(int argc, char **argv) {
    long megabytes = argc > 1 ? strtol(argv[1], NULL, 10) : 1536;
    int threads = 1;
    if (megabytes < 2 || megabytes > 1 << 20) checked(NULL);
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    printf("read %.2f GB/s", best_read_rate((int)(megabytes * (1 << 20) / PIECE)) / 1e9);
    print_rate("multiply-add", "GFLOP/s", multiply_floats, WIDTH / 4);
    printf(", %d threads", threads);
#ifdef __AVX2__
    print_rate("int16", "GOP/s", multiply_int16, WIDTH / 2);
    print_rate("int8", "GOP/s", multiply_int8, WIDTH);
#endif
#ifdef __AVX512BF16__
    print_rate("bf16", "GFLOP/s", multiply_bf16, WIDTH / 2);
#endif
    printf("\n");
    return 0;
}
