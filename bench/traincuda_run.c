/* traincuda_run.c: how fast cuda_trainer trains, what it makes of a run of batches, whether a large
 * model comes back from its file; started by bench/traincuda_run.py and traincuda_curve.py.
 *
 *     bench_traincuda speed SHAPE LAYERS B T LEVEL STATE MICROS UPDATES    e.g. 8b 0 1 8192 1 g 1 4
 *     bench_traincuda save SHAPE LAYERS T FILE        a new model, two updates, saved and resumed
 *     bench_traincuda curve INIT TOKENS B T UPDATES   from a model and a file of batches, u32
 *
 * LAYERS 0: all of the shape. STATE: m for bf16 moments, g for bf16 gradients, - for neither. The
 * weights of `speed` are random, in one buffer for all tensors; tokens are random in every batch.
 * Prints a line as soon as there is something to say. */
#include "../opencoder.h" /* Model, cuda_trainer */
#include <unistd.h>       /* unlink */

static uint64_t state = 1;

static float noise(void) { return (float)(next_random(&state) >> 40) * 0x1p-23f - 1; }

static Config shape_of(const char *name, const char *layers) {
    const Config *c = config_named(name);
    if (!c) die_usage("%s: no such shape, expected 1.5b, 8b or tiny", name);
    Config mine = *c;
    int n = (int)parse_int("LAYERS", layers, 0, c->n_layers);
    if (n) mine.n_layers = n;
    return mine;
}

/* A model whose tensors all lie in one buffer of the size of the largest. */
static Model random_model(const Config *shape) {
    const Config *c = shape;
    Model m = { .path = "a random model", .config = *shape };
    size_t n = (size_t)c->vocab_size * (size_t)c->dim, up = (size_t)c->hidden_dim * (size_t)c->dim;
    float *weights = xcalloc(n > up ? n : up, sizeof *weights, "weights");
    float *ones = xcalloc((size_t)c->dim, sizeof *ones, "norms");
    for (int i = 0; i < c->dim; i++) ones[i] = 1;
    for (size_t i = 0; i < (n > up ? n : up); i++) /* it repeats, at another phase of the rows */
        weights[i] = i < 1 << 20 ? 0.03f * noise() : weights[i - 1048573];
#define X(field, tensor, count, r, k)                                                              \
    m.weights.field = xcalloc((size_t)(count), sizeof(Tensor), tensor);                            \
    for (int i = 0; i < (count); i++)                                                              \
        m.weights.field[i] = (Tensor){ .name = { tensor, sizeof tensor - 1 },                      \
                                       .type = T_F32,                                              \
                                       .rows = r,                                                  \
                                       .cols = k,                                                  \
                                       .data = (const uint8_t *)((r) == 1 ? ones : weights) };
    TENSORS(X)
#undef X
    return m;
}

static TrainOptions options_of(int B, int T) {
    return (TrainOptions){ .batch = B,
                           .seq_len = T,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .eps = 1e-8f,
                           .weight_decay = 0.1f,
                           .bf16 = true };
}

static uint32_t *random_batch(uint32_t *token, size_t n, int V) {
    if (!token) token = xcalloc(n, sizeof *token, "batch");
    for (size_t i = 0; i < n; i++) token[i] = (uint32_t)(next_random(&state) >> 33) % (uint32_t)V;
    return token;
}

/* What the loop of train.c does for an update, after its micro-batches. */
static double finish_update(Trainer *t, int64_t number, float lr) {
    char bad[64];
    double norm = cuda_trainer.grad_norm(t, bad);
    if (!isfinite(norm)) die("update %lld: not finite, first in %s", (long long)number, bad);
    cuda_trainer.update(t, number, lr, norm > 1 ? (float)(1 / norm) : 1.0f);
    return norm;
}

static void speed(char **a) {
    Config c = shape_of(a[0], a[1]);
    int B = (int)parse_int("B", a[2], 1, 1024), T = (int)parse_int("T", a[3], 1, c.max_ctx);
    int micros = (int)parse_int("MICROS", a[6], 1, 1024);
    int updates = (int)parse_int("UPDATES", a[7], 1, 1000);
    size_t n = (size_t)B * (size_t)(T + 1);
    TrainOptions o = options_of(B, T);
    o.recompute = (int)parse_int("LEVEL", a[4], 0, 3);
    o.bf16_moments = strchr(a[5], 'm'), o.bf16_grads = strchr(a[5], 'g');
    Model m = random_model(&c);
    uint32_t *token = NULL;
    double begun = now_seconds(), loss = 0, norm;
    Trainer *t = cuda_trainer.open(&m, NULL, &o);
    printf("open %.3f\n", now_seconds() - begun);
    for (int i = 0; i < updates + 1; i++) { /* the first one warms up */
        double steps = 0, start = now_seconds();
        loss = 0;
        for (int k = 0; k < micros; k++) {
            token = random_batch(token, n, c.vocab_size);
            begun = now_seconds();
            loss += cuda_trainer.step(t, token, B, T, 1 / (float)(B * T * micros));
            steps += now_seconds() - begun;
        }
        norm = finish_update(t, i + 1, 1e-4f);
        cuda_trainer.loss(t, token, 1, 1); /* until the update is through */
        double all = now_seconds() - start;
        printf("update %d steps %.6f all %.6f loss %.6f norm %.6f\n", i, steps, all, loss, norm);
        fflush(stdout);
    }
    cuda_trainer.close(t);
}

static double two_steps(Trainer *t, const Config *c, int T, int64_t from) {
    double loss = 0;
    for (int64_t i = from; i < from + 2; i++) {
        state = (uint64_t)i + 1;
        uint32_t *token = random_batch(NULL, (size_t)T + 1, c->vocab_size);
        loss = cuda_trainer.step(t, token, 1, T, 1 / (float)T);
        finish_update(t, i + 1, 1e-4f);
        free(token);
    }
    return loss;
}

/* Four updates in one go, and two of them after a file was written and read. */
static void save(char **a) {
    Config c = shape_of(a[0], a[1]);
    int T = (int)parse_int("T", a[2], 1, c.max_ctx);
    TrainOptions o = options_of(1, T);
    Model m = random_model(&c), back = { .path = a[3], .config = c };
    Trainer *t = cuda_trainer.open(&m, NULL, &o);
    GgufWriter w = { 0 };
    Map map;
    Error e;
    two_steps(t, &c, T, 0);
    double begun = now_seconds();
    config_to_gguf(&w, &c);
    cuda_trainer.save(t, &w, a[3], true);
    printf("saved %.3f\n", now_seconds() - begun);
    fflush(stdout);
    double want = two_steps(t, &c, T, 2);
    cuda_trainer.close(t);
    if (!map_file(&map, a[3], &e) || !gguf_parse(&back.gguf, map.data, map.size, &e) ||
        !weights_bind(&back.weights, &back.gguf, &c, &e))
        die("%s: %s", a[3], e.text);
    printf("bytes %zu\n", map.size);
    begun = now_seconds();
    t = cuda_trainer.open(&back, NULL, &o);
    printf("resumed %.3f\n", now_seconds() - begun);
    double got = two_steps(t, &c, T, 2);
    printf("loss %.9f resumed %.9f %s\n", want, got, want == got ? "the same bits" : "DIFFERENT");
    cuda_trainer.close(t);
    unlink(a[3]);
    if (want != got) exit(1);
}

static void curve(char **a) {
    Model m;
    Map map;
    Error e;
    model_open(&m, a[0], false);
    int B = (int)parse_int("B", a[2], 1, 1024), T = (int)parse_int("T", a[3], 1, m.config.max_ctx);
    int updates = (int)parse_int("UPDATES", a[4], 1, 1 << 20);
    size_t n = (size_t)B * (size_t)(T + 1);
    if (!map_file(&map, a[1], &e)) die("%s: %s", a[1], e.text);
    if (map.size < 4 * n * (size_t)updates)
        die("%s: %zu bytes, expected %zu", a[1], map.size, 4 * n * (size_t)updates);
    TrainOptions o = options_of(B, T);
    Trainer *t = cuda_trainer.open(&m, NULL, &o);
    const uint32_t *token = (const uint32_t *)(const void *)map.data;
    for (int i = 0; i < updates; i++, token += n) {
        double loss = cuda_trainer.step(t, token, B, T, 1 / (float)(B * T));
        float lr = 6e-4f * (i < 100 ? (float)(i + 1) / 100 : 1); /* as traincuda_peer.py */
        double norm = finish_update(t, i + 1, lr);
        printf("%d %.6f %.6f\n", i, loss, norm);
        fflush(stdout);
    }
    cuda_trainer.close(t);
    unmap_file(&map);
    model_close(&m);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "speed") && argc == 10)
        speed(argv + 2);
    else if (!strcmp(what, "save") && argc == 6)
        save(argv + 2);
    else if (!strcmp(what, "curve") && argc == 7)
        curve(argv + 2);
    else
        die_usage("%d arguments, expected speed, save or curve and theirs; see the source",
                  argc - 1);
    return 0;
}
