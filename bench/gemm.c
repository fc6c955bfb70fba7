/* gemm.c: how close the matrix products of training come to what the processor can do at most.
 *
 *     make bench-gemm          build/bench_gemm [LEVEL] [bf16]
 *
 * For weights W (rows, cols) and n tokens the three products of a training step, as train.c makes
 * them, packing included; then those of one attention head, by one thread. Peak: multiply-adds that
 * touch no memory (matmul_peak), measured in turns with the products, because other programs may
 * run beside us; of all rates the best counts, since others can only lower them. */
#include "../opencoder.h"
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#endif

enum { ROUNDS = 5 };
static int flags;

typedef struct {
    const char *form;
    int m, n, k;
    bool a_turned, b_turned; /* in memory as (k, m), (n, k) */
    size_t a_stride, b_stride;
    int add;
} Case;

/* Best GFLOP/s of many runs during 0.1 s. */
static double rate(const Case *s, float *c, const float *a, const float *b, bool here) {
    Matrix x = { a, s->a_turned ? 1 : s->a_stride, s->a_turned ? s->a_stride : 1, NULL, false };
    Matrix y = { b, s->b_turned ? 1 : s->b_stride, s->b_turned ? s->b_stride : 1, NULL, false };
    double best = 0, begun = now_seconds();
    int repeat = here ? 20 : 1; /* a small one is too short for the clock */
    do {
        double start = now_seconds();
        for (int i = 0; i < repeat; i++)
            (here ? gemm_here : gemm)(c, (size_t)s->n, x, y, s->m, s->n, s->k, s->add | flags);
        double flops = 2.0 * s->m * s->n * s->k * repeat / (now_seconds() - start);
        if (flops > best) best = flops;
    } while (now_seconds() - begun < 0.1);
    return best * 1e-9;
}

static void measure(const Case *s, bool here) {
    size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k;
    size_t a_size = (s->a_turned ? k : m) * s->a_stride,
           b_size = (s->b_turned ? n : k) * s->b_stride;
    float *a = xcalloc(a_size, 4, "A"), *b = xcalloc(b_size, 4, "B"), *c = xcalloc(m * n, 4, "C");
    double best = 0, peak = 0;
    for (size_t i = 0; i < a_size; i++) a[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < b_size; i++) b[i] = (float)(i % 5) - 2;
    for (int r = 0; r < ROUNDS; r++) {
        peak = fmax(peak, matmul_peak(flags & GEMM_BF16));
        best = fmax(best, rate(s, c, a, b, here));
    }
    printf("%-10s %6d %6d %6d %10.1f %10.1f %6.1f%%\n", s->form, s->m, s->n, s->k, best, peak,
           100 * best / peak);
    free(a);
    free(b);
    free(c);
}

/* Y = X W^T, dX = dY W, dW += dY^T X. */
static void measure_layer(int rows, int cols, int n) {
    size_t r = (size_t)rows, c = (size_t)cols;
    measure(&(Case){ "forward", n, rows, cols, false, true, c, c, 0 }, false);
    measure(&(Case){ "dX", n, cols, rows, false, false, r, c, 0 }, false);
    measure(&(Case){ "dW", rows, cols, n, true, false, r, c, GEMM_ADD }, false);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "bf16"))
            flags = GEMM_BF16;
        else if (!matmul_choose(argv[i]))
            die_usage("%s: not a level of this CPU, expected plain, avx2, ..", argv[i]);
    }
    if (flags && !gemm_has_bf16()) die_usage("bf16: not an instruction of this level");
    printf("level %s%s, %d threads\n\n%-10s %6s %6s %6s %10s %10s %7s\n", matmul_level(),
           flags ? " bf16" : "", thread_count(), "product", "m", "n", "k", "GFLOP/s", "peak", "");
    const int layer[][2] = { { 1536, 512 }, { 512, 1536 }, { 512, 512 }, { 8192, 512 } };
    for (int i = 0; i < 4; i++) measure_layer(layer[i][0], layer[i][1], 2048);
    printf("\none head, one thread\n");
#ifdef _OPENMP
    omp_set_num_threads(1);
#endif
    size_t row = 8 * 64; /* 8 heads of 64 side by side */
    measure(&(Case){ "Q K^T", 64, 256, 64, false, true, row, row, 0 }, true);
    measure(&(Case){ "P V", 64, 64, 256, false, false, 256, row, 0 }, true);
    measure(&(Case){ "P^T dO", 256, 64, 64, true, false, 256, row, GEMM_ADD }, true);
    return 0;
}
