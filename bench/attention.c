/* attention.c: attention alone, against the limits of the machine.
 *
 *     make bench-attention        build/bench_attention [LEVEL]
 *
 * Decode: one token at a far position reads the cache of every layer, 8 layers so that none is
 * found in the processor's cache; bytes read a second, beside those of a loop that only reads as
 * much memory. Prompt: the last 192 tokens of a prompt; useful multiply-adds a second (no position
 * behind the token counts), beside the peak of matmul_peak. Both in turns with their limit and one
 * layer at a time, because other programs may run beside us; of all rates the best counts, since
 * others only lower them. */
#include "../attention.h"
#include <time.h> /* clock */

enum { ROUNDS = 7, LAYERS = 8, PROMPT = 192 };

/* Of the processor and by each thread, so that others who use it too count less. */
static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC / thread_count(); }

/* GB/s of reading, by all threads: the best of LAYERS parts of n words. */
static double read_part(const uint64_t *p, size_t n) {
    uint64_t sum = 0;
    double start = seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (size_t i = 0; i < n; i += 64)
        for (size_t j = 0; j < 64; j++) sum += p[i + j];
    double rate = (double)n * 8e-9 / (seconds() - start);
    return sum == 1 ? 0 : rate; /* the sum is used, so that it is made */
}

static double read_rate(const uint64_t *p, size_t n) {
    double best = 0;
    for (size_t i = 0; i < LAYERS; i++)
        best = fmax(best, read_part(p + n / LAYERS * i, n / LAYERS));
    return best;
}

typedef struct {
    KvCache *cache;
    float *q, *k, *v, *out;
} Work;

/* The least time of a layer for n tokens, the first at position pos. */
static double forward(Work *w, const Config *c, int n, int pos) {
    int seq[PROMPT] = { 0 }, at[PROMPT];
    Batch b = { n, seq, seq, at, NULL };
    for (int i = 0; i < n; i++) at[i] = pos + i;
    double least = INFINITY;
    for (int layer = 0; layer < c->n_layers; layer++) {
        double start = seconds();
        attention(w->cache, layer, &b, w->out, w->q, w->k, w->v);
        least = fmin(least, seconds() - start);
    }
    return least;
}

static float *noise(size_t n) {
    uint64_t random = 1;
    float *x = xcalloc(n, sizeof *x, "numbers");
    for (size_t i = 0; i < n; i++) x[i] = (float)(next_random(&random) >> 40) * 0x1p-23f - 1;
    return x;
}

static void measure(const char *name, const Config *c, uint32_t type, int n_ctx) {
    size_t q = PROMPT * (size_t)c->n_heads * (size_t)c->head_dim, words = 1u << 25;
    size_t kv = PROMPT * (size_t)c->n_kv_heads * (size_t)c->head_dim;
    Work w = { cache_open(c, n_ctx, 1, type), noise(q), noise(kv), noise(kv), noise(q) };
    uint64_t *memory = xcalloc(words, 8, "memory");
    double decode = 0, reading = 0, prompt = 0, peak = 0;
    for (size_t i = 0; i < words; i++) memory[i] = i;
    for (int i = 0; i < n_ctx; i += PROMPT)
        forward(&w, c, n_ctx - i < PROMPT ? n_ctx - i : PROMPT, i);
    double gb = 1e-9 * n_ctx * (double)cache_position_bytes(c, type) / c->n_layers;
    double flops =
        4e-9 * (double)(c->n_heads * c->head_dim) * PROMPT * (n_ctx - (PROMPT - 1) / 2.0);
    for (int r = 0; r < ROUNDS; r++) {
        reading = fmax(reading, read_rate(memory, words));
        decode = fmax(decode, gb / forward(&w, c, 1, n_ctx - 1));
        decode = fmax(decode, gb / forward(&w, c, 1, n_ctx - 1));
        peak = fmax(peak, matmul_peak(false));
        prompt = fmax(prompt, flops / forward(&w, c, PROMPT, n_ctx - PROMPT));
    }
    printf("%-5s %-5s %7d %9.1f %9.1f %5.0f%% %9.1f %9.1f %5.0f%%\n", name, type_name(type), n_ctx,
           decode, reading, 100 * decode / reading, prompt, peak, 100 * prompt / peak);
    cache_close(w.cache);
    free(w.q), free(w.k), free(w.v), free(w.out), free(memory);
}

int main(int argc, char **argv) {
    static const uint32_t types[] = { T_F32, T_F16, T_Q8_0 };
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!matmul_choose(argc > 1 ? argv[1] : NULL)) die_usage("%s: not on this CPU", argv[1]);
    printf("%s, %d threads\n%-5s %-5s %7s %9s %9s %6s %9s %9s %6s\n", matmul_level(),
           thread_count(), "shape", "cache", "context", "GB/s", "reading", "", "GFLOP/s", "peak",
           "");
    for (int t = 0; t < 3; t++) {
        static const int contexts[] = { 512, 2048, 4000 };
        Config small = *config_named("1.5b"), large = *config_named("8b");
        small.n_layers = large.n_layers = LAYERS;
        for (int i = 0; i < 3; i++) measure("1.5b", &small, types[t], contexts[i]);
        measure("8b", &large, types[t], 2048);
    }
    return 0;
}
