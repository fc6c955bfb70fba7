/* train_step.c: the seconds of a training step of ours, for train.py to compare with PyTorch's.
 *
 *     bench_train DIM HIDDEN LAYERS HEADS KV_HEADS HEAD_DIM VOCAB BATCH LENGTH [bf16]
 *
 * Makes a Llama of that shape with random weights and a batch of random tokens, both in memory,
 * and trains on it, which is one step, grad_norm and update: see TrainerBackend. After a warming up
 * it prints `ready`, and then answers each line of stdin with the seconds of a step and its loss.
 * Between the lines it sleeps. */
#include "../opencoder.h" /* Model, cpu_trainer, thread_count */

static uint64_t state = 1;

/* The next number of xorshift64*, which is good enough for weights nobody will use. */
static uint32_t random_u32(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 0x2545F4914F6CDD1Du >> 32);
}

/* A matrix of numbers with deviation 0.02, or the ones of a norm. */
static void fill(Tensor *t, const char *name, int layer, int rows, int cols) {
    char *full = xcalloc(64, 1, name);
    size_t n = (size_t)rows * (size_t)cols;
    float *x = xcalloc(n, sizeof *x, name);
    snprintf(full, 64, name, layer);
    for (size_t i = 0; i < n; i++) /* evenly from -s to s: the deviation is s / sqrt(3) */
        x[i] = rows == 1 ? 1 : ((float)random_u32() / 4294967296.0f - 0.5f) * 0.0693f;
    *t = (Tensor){ str_of(full), T_F32, rows, cols, (const uint8_t *)x };
}

static void make_weights(Weights *w, const Config *c) {
#define X(field, name, count, rows, cols)                                                          \
    w->field = xcalloc((size_t)(count), sizeof(Tensor), name);                                     \
    for (int i = 0; i < (count); i++) fill(&w->field[i], name, i, rows, cols);
    TENSORS(X)
#undef X
}

static void unfill(Tensor *t) {
    free((void *)t->data);
    free((void *)t->name.s);
}

static void free_weights(Weights *w, const Config *c) {
#define X(field, name, count, rows, cols)                                                          \
    for (int i = 0; i < (count); i++) unfill(&w->field[i]);
    TENSORS(X)
#undef X
    weights_free(w);
}

/* What the optimizer is given is what train_peer.py gives to PyTorch's. */
static double one_step(Trainer *t, const uint32_t *tokens, int B, int T, int64_t number) {
    char bad[64];
    double loss = cpu_trainer.step(t, tokens, B, T, 1.0f / (float)(B * T));
    double norm = cpu_trainer.grad_norm(t, bad);
    if (!isfinite(norm)) die("%s: a gradient that is not finite, expected a number", bad);
    cpu_trainer.update(t, number, 1e-4f, norm > 1 ? (float)(1 / norm) : 1.0f);
    return loss;
}

int main(int argc, char **argv) {
    int number[9], n_numbers = (int)(sizeof number / sizeof *number);
    bool bf16 = argc == n_numbers + 2 && !strcmp(argv[n_numbers + 1], "bf16");
    if (argc != n_numbers + 1 && !bf16)
        die_usage("%d arguments, expected 9 numbers and at most bf16", argc - 1);
    for (int i = 0; i < n_numbers; i++)
        number[i] = (int)parse_int("number", argv[i + 1], 1, 1 << 20);
    int B = number[7], T = number[8];
    Model m = { .path = "random" };
    m.config = (Config){ number[0], number[1], number[2], number[3], number[4], number[5],
                         number[6], T,         1e4f,      1e-5f,     false };
    Error e;
    if (!config_check(&m.config, &e)) die_usage("%s", e.text);
    if (B < 1 || B > 65536) die_usage("batch: %d, expected 1 to 65536", B);
    make_weights(&m.weights, &m.config);
    size_t n_tokens = (size_t)B * ((size_t)T + 1);
    uint32_t *tokens = xcalloc(n_tokens, sizeof *tokens, "batch");
    for (size_t i = 0; i < n_tokens; i++) tokens[i] = random_u32() % (uint32_t)m.config.vocab_size;
    TrainOptions o = { .batch = B,
                       .seq_len = T,
                       .beta1 = 0.9f,
                       .beta2 = 0.95f,
                       .eps = 1e-8f,
                       .weight_decay = 0.1f,
                       .bf16 = bf16 };
    Trainer *t = cpu_trainer.open(&m, NULL, &o);
    int64_t step = 0;
    while (step < 2) one_step(t, tokens, B, T, ++step);
    printf("ready %d threads, %s level\n", thread_count(), matmul_level());
    fflush(stdout);
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n') continue;
        double begun = now_seconds(), loss = one_step(t, tokens, B, T, ++step);
        printf("%.6f %.6f\n", now_seconds() - begun, loss);
        fflush(stdout);
    }
    cpu_trainer.close(t);
    free_weights(&m.weights, &m.config);
    free(tokens);
    return 0;
}
