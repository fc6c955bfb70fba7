/* machine.c: what this machine can do at most, for bench.py to compare with.
 *
 *     machine [MEGABYTES]      prints   read N GB/s, multiply-add N GFLOP/s, N threads
 *
 * read: all threads together sum a block of memory far larger than the caches, each its own part
 * from one end to the other, as a matrix is read when a token is generated. multiply-add: all
 * threads keep twelve independent chains of float32 vectors busy, two operations each. Both are the
 * best of several rounds, because a shared machine can only make them slower. */
#include <stdint.h> /* uint64_t */
#include <stdio.h>
#include <stdlib.h>
#include <time.h> /* timespec_get */
#ifdef _OPENMP
#include <omp.h> /* omp_get_max_threads */
#endif

#ifdef __AVX512F__
enum { ROUNDS = 7, CHAINS = 12, LANES = 16 };
#else
enum { ROUNDS = 7, CHAINS = 12, LANES = 8 };
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes per second at which n words are read. */
static double read_rate(const uint64_t *word, size_t n) {
    uint64_t sum = 0;
    double begun = seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += word[i];
    double taken = seconds() - begun;
    if (sum != n) fprintf(stderr, "error: memory: wrong sum\n"), exit(1); /* the sum is needed */
    return (double)n * sizeof *word / taken;
}

/* y = y a + b on vectors that stay in registers; returns a number that depends on all of them, so
 * that nothing can be left out. Compiled with -ffp-contract=fast: one instruction each. */
static float multiply_add(long steps) {
    Vector y[CHAINS] = { { 0 } };
    float sum = 0;
    for (int c = 0; c < CHAINS; c++) y[c] += (float)c; /* equal chains would be computed once */
    for (long s = 0; s < steps; s++)
        for (int c = 0; c < CHAINS; c++) y[c] = y[c] * 0.999f + 0.001f;
    for (int c = 0; c < CHAINS; c++)
        for (int l = 0; l < LANES; l++) sum += y[c][l];
    return sum;
}

/* Floating-point operations per second of all threads. */
static double multiply_add_rate(int threads) {
    const long steps = 4000000;
    float sum = 0;
    double begun = seconds();
#pragma omp parallel for schedule(static, 1) reduction(+ : sum)
    for (int t = 0; t < threads; t++) sum += multiply_add(steps);
    double taken = seconds() - begun;
    if (!(sum > 0)) fprintf(stderr, "error: arithmetic: wrong sum\n"), exit(1);
    return 2.0 * CHAINS * LANES * (double)steps * threads / taken;
}

int main(int argc, char **argv) {
    size_t n = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1536) * (1 << 20) / sizeof(uint64_t);
    uint64_t *word = n ? malloc(n * sizeof *word) : NULL;
    int threads = 1;
    if (!word) {
        fprintf(stderr, "error: machine: no memory of that size, expected a number of MB\n");
        return 1;
    }
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) word[i] = 1; /* by the thread that will read it */
    double read = 0, flops = 0;
    for (int r = 0; r < ROUNDS; r++) {
        double rate = read_rate(word, n), arithmetic = multiply_add_rate(threads);
        if (rate > read) read = rate;
        if (arithmetic > flops) flops = arithmetic;
    }
    printf("read %.2f GB/s, multiply-add %.1f GFLOP/s, %d threads\n", read / 1e9, flops / 1e9,
           threads);
    free(word);
    return 0;
}
