/* matmul.c: how close y = x W^T comes to what the machine can do at most.
 *
 *     make bench-matmul          build/bench_matmul [LEVEL] [TYPE]...
 *
 * Decode: one token (and 4) with as many matrices of the 1.5B's shapes as fill 400 MB, so that each
 * comes from memory, against a loop that only reads the same bytes. Prompt: 512 tokens, against the
 * float32 multiply-add peak (matmul_peak); AVX2's products of words can reach 2 times that and of
 * bytes 4 times. Both are measured in turns with their limit, and of many short measurements a good
 * one counts, because other programs may run beside us. */
#include "../cpu/kernels.h" /* matmul, has_min, float_to_half */
#include <time.h>           /* clock */

enum { ROUNDS = 10, MEGABYTES = 400, MOST = 512 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes per second at which all threads together read `size` bytes. */
static double read_rate(const uint8_t *memory, size_t size) {
    enum { PIECE = 1 << 18 };
    uint64_t bits = 0;
    double begun = now_seconds();
#pragma omp parallel for schedule(dynamic) reduction(^ : bits)
    for (size_t p = 0; p < size / PIECE; p++) {
        const uint64_t *word = (const uint64_t *)(const void *)(memory + p * PIECE);
        uint64_t sum[16] = { 0 };
        for (size_t i = 0; i < PIECE / 8; i += 16) {
            __builtin_prefetch(word + i + 256);
            __builtin_prefetch(word + i + 264);
            for (size_t j = 0; j < 16; j++) sum[j] ^= word[i + j];
        }
        for (int j = 0; j < 16; j++) bits ^= sum[j];
    }
    double rate = (double)(size / PIECE * PIECE) / (now_seconds() - begun);
    return bits == 1 ? 0 : rate; /* the sum is needed */
}

/* Random codes; scales that are numbers. */
static void fill(uint8_t *memory, size_t size, uint32_t type) {
    uint64_t state = 1;
    size_t bytes = (size_t)type_info(type)->bytes;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t v = next_random(&state);
        memcpy(memory + i, &v, 8);
    }
    for (size_t i = 0; i + bytes <= size && type_info(type)->block > 1; i += bytes) {
        uint16_t d = float_to_half(0.01f);
        memcpy(memory + i + (type == T_Q6_K ? 208 : 0), &d, 2);
        if (has_min(type)) memcpy(memory + i + 2, &d, 2);
    }
    for (size_t i = 0; i + 4 <= size && type_info(type)->block == 1; i += 4)
        memcpy(memory + i, &(float){ 1 }, 4); /* as halves 0, 0x3f80: numbers too */
}

/* Of many short measurements the 9th of 10, in ascending order: most others were interrupted. */
static double good(double *v, size_t n) {
    qsort(v, n, sizeof *v, ascending);
    return v[n * 9 / 10];
}

/* GB/s of n tokens, and as a share of reading: matrix after matrix of those that fill the memory is
 * read, the one half a round further on multiplied. */
static void decode(uint8_t *memory, uint32_t type, int rows, int cols, int n, const float *x,
                   float *y) {
    static double rate[2000], limit[2000];
    Tensor w = { str_of("w"), type, rows, cols, memory };
    size_t size = tensor_bytes(&w), count = ((size_t)MEGABYTES << 20) / size;
    for (size_t m = 0; m < count; m++) {
        limit[m] = read_rate(memory + m * size, size);
        w.data = memory + (m + count / 2) % count * size;
        double begun = now_seconds();
        matmul(y, x, &w, n, false);
        rate[m] = (double)size / (now_seconds() - begun);
    }
    double best = good(rate, count);
    printf(" %6.1f %4.0f%%", best / 1e9, 100 * best / good(limit, count));
    fflush(stdout);
}

/* GOP/s of a prompt, and as a multiple of the float32 peak. It lasts too long to go uninterrupted:
 * the processor's time counts, shared out among the threads. */
static void prompt(uint8_t *memory, uint32_t type, int rows, int cols, int n, const float *x,
                   float *y) {
    double rate[ROUNDS], limit[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        Tensor w = { str_of("w"), type, rows, cols, memory };
        limit[i] = matmul_peak(false);
        clock_t begun = clock();
        matmul(y, x, &w, n, false);
        double taken = (double)(clock() - begun) / CLOCKS_PER_SEC / thread_count();
        rate[i] = 2.0 * rows * cols * n / taken * 1e-9;
    }
    double best = good(rate, ROUNDS);
    printf(" %7.0f %5.2fx", best, best / good(limit, ROUNDS));
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const uint32_t types[] = { T_Q8_0, T_Q4_0, T_Q4_1, T_Q5_0, T_Q5_1, T_IQ4_NL,
                                      T_Q4_K, T_Q5_K, T_Q6_K, T_F32,  T_F16,  T_BF16 };
    int n_types = 0;
    for (int i = 1; i < argc; i++)
        if (!matmul_choose(argv[i])) n_types++;
    size_t size = (size_t)MEGABYTES << 20;
    uint8_t *memory = xcalloc(size, 1, "matrices");
    float *x = xcalloc((size_t)MOST * 6144, 4, "x"), *y = xcalloc((size_t)MOST * 6144, 4, "y");
    uint64_t state = 1;
    for (size_t i = 0; i < (size_t)MOST * 6144; i++)
        x[i] = (float)(int32_t)(next_random(&state) >> 32) / 2147483648.0f;
    printf("level %s, %d threads\n%-7s %13s %13s %13s %15s %15s\n", matmul_level(), thread_count(),
           "", "1, 6144x2240", "1, 2240x6144", "4, 6144x2240", "512, 6144x2240", "512, 2240x6144");
    printf("%-7s %6s %6s %6s %6s %6s %6s %7s %7s %7s %7s\n", "", "GB/s", "read", "GB/s", "read",
           "GB/s", "read", "GOP/s", "peak", "GOP/s", "peak");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        bool wanted = n_types == 0;
        for (int j = 1; j < argc; j++) wanted |= !strcmp(argv[j], type_name(types[i]));
        if (!wanted) continue;
        int cols = type_info(types[i])->block == 256 ? 2304 : 2240; /* K types: whole blocks */
        fill(memory, size, types[i]);
        printf("%-7s", type_name(types[i]));
        decode(memory, types[i], 6144, cols, 1, x, y);
        decode(memory, types[i], 2240, 6144, 1, x, y);
        decode(memory, types[i], 6144, cols, 4, x, y);
        prompt(memory, types[i], 6144, cols, MOST, x, y);
        prompt(memory, types[i], 2240, 6144, MOST, x, y);
        printf("\n");
    }
    free(memory);
    free(x);
    free(y);
    return 0;
}
