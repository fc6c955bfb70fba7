/* test_traincuda.c: the trainer of traincuda.cu against that of train.c, on random models of
 * awkward shapes. Linked with traincuda.cu as cuda/emu.h runs it on the CPU, or, by
 * bench/traincuda_test.sh, with what nvcc made of it: the checks are the same.
 *
 * What holds them together: float32, sums in another order, 1e-4 of a tensor's largest number; bf16
 * rounds weights and activations to 8 bits, so a few percent of a gradient's length; and what must
 * be the same however it is made, every bit: recompute levels, orders of threads, a run that was
 * saved and resumed, masters that went to bf16 and a lower half and back. */
#include "../lora.h"   /* Model, cpu_trainer, cuda_trainer */
#include "../shards.h" /* NO_LOSS, STARTS */
#include "test.h"
#include <unistd.h> /* unlink, getpid */

typedef struct {
    const char *name;
    Config config;
    int B, T;
    bool documents; /* several a row, and targets that do not count */
} Case;

/*                        C,  F, L, H, K,   D,   V, context, theta, epsilon, tied */
static const Case cases[] = {
    { "head_dim 160", { 32, 48, 2, 2, 2, 160, 99, 256, 1e4f, 1e-5f, false }, 1, 70, false },
    { "head_dim 128, GQA", { 48, 40, 2, 2, 1, 128, 131, 256, 5e5f, 1e-6f, false }, 1, 66, true },
    { "head_dim 64, one kv head",
      { 40, 64, 2, 3, 1, 64, 77, 256, 1e4f, 1e-5f, true },
      1,
      200,
      true },
    { "head_dim 24, plain", { 72, 56, 2, 4, 2, 24, 513, 256, 1e4f, 1e-5f, true }, 2, 33, true },
    { "one token", { 32, 48, 1, 1, 1, 64, 50, 256, 1e4f, 1e-5f, false }, 2, 1, false },
};
enum { CASES = sizeof cases / sizeof *cases, BATCHES = 3 };

static uint64_t state = 1;

static float noise(void) { /* uniform, variance 1 */
    return ((float)(next_random(&state) >> 40) * 0x1p-23f - 1) * 1.7320508f;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Models, batches, results */

static void tensor_name(char *name, const char *text, int layer) {
    snprintf(name, 64, text, layer);
}

static Model make_model(const Config *c) {
    Model m;
    memset(&m, 0, sizeof m);
    m.path = "a random model";
    m.config = *c;
#define X(field, text, count, r, k)                                                                \
    m.weights.field = xcalloc((size_t)(count), sizeof(Tensor), #field);                            \
    for (int i = 0; i < (count); i++) {                                                            \
        size_t n = (size_t)(r) * (size_t)(k);                                                      \
        float *x = xcalloc(n, sizeof *x, #field);                                                  \
        char *name = xcalloc(64, 1, #field);                                                       \
        tensor_name(name, text, i);                                                                \
        for (size_t j = 0; j < n; j++)                                                             \
            x[j] = (r) == 1 ? 1 + 0.3f * noise() : noise() / sqrtf((float)(k));                    \
        m.weights.field[i] = (Tensor){ str_of(name), T_F32, r, k, (const uint8_t *)x };            \
    }
    TENSORS(X)
#undef X
    return m;
}

static void free_model(Model *m) {
    const Config *c = &m->config;
#define X(field, text, count, r, k)                                                                \
    for (int i = 0; i < (count); i++) {                                                            \
        free((void *)(uintptr_t)m->weights.field[i].data);                                         \
        free((void *)(uintptr_t)m->weights.field[i].name.s);                                       \
    }
    TENSORS(X)
#undef X
    weights_free(&m->weights);
}

/* BATCHES batches of B rows of T + 1 tokens. */
static uint32_t *make_tokens(const Case *k) {
    size_t n = BATCHES * (size_t)k->B * (size_t)(k->T + 1);
    uint32_t *token = xcalloc(n, sizeof *token, "tokens"), V = (uint32_t)k->config.vocab_size;
    for (size_t i = 0; i < n; i++) {
        token[i] = (uint32_t)(next_random(&state) >> 33) % (i % 3 ? V : V / 8); /* some repeat */
        uint64_t luck = next_random(&state) >> 59;
        if (k->documents && luck < 2) token[i] |= STARTS;
        if (k->documents && luck > 25) token[i] |= NO_LOSS;
    }
    return token;
}

static TrainOptions options_of(const Case *k) {
    return (TrainOptions){ .batch = k->B,
                           .seq_len = k->T,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .eps = 1e-8f,
                           .weight_decay = 0.1f };
}

static const uint32_t *batch_of(const Case *k, const uint32_t *tokens, int i) {
    return tokens + (size_t)(i % BATCHES) * (size_t)k->B * (size_t)(k->T + 1);
}

/* An update; returns its loss. */
static double one_update(const TrainerBackend *b, Trainer *t, const Case *k, const uint32_t *tokens,
                         int number, double *norm) {
    char bad[64];
    float scale = 1 / (float)(k->B * k->T);
    double loss = b->step(t, batch_of(k, tokens, number), k->B, k->T, scale);
    *norm = b->grad_norm(t, bad);
    b->update(t, number + 1, 3e-3f, *norm > 1 ? (float)(1 / *norm) : 1.0f);
    return loss;
}

/* What came of a run: everything in one row of floats, to be compared by bytes or by size. */
typedef struct {
    float *x;
    size_t n, gradients; /* the first so many are the gradients of two micro-batches */
} Result;

static size_t parameters_of(const Config *c) {
    int n;
    size_t total = 0;
    TensorSpec *spec = tensor_specs(c, &n);
    for (int i = 0; i < n; i++) total += (size_t)spec[i].rows * (size_t)spec[i].cols;
    free(spec);
    return total;
}

static float *append_model(float *at, const Model *m) {
    const Config *c = &m->config;
#define X(field, text, count, r, k)                                                                \
    for (int i = 0; i < (count); i++) {                                                            \
        const Tensor *t = &m->weights.field[i];                                                    \
        dequantize(at, t->data, t->type, 0, (size_t)(r) * (size_t)(k));                            \
        at += (size_t)(r) * (size_t)(k);                                                           \
    }
    TENSORS(X)
#undef X
    return at;
}

/* Gradients and loss of two micro-batches; then, if there are updates, their losses and norms, a
 * loss without training, and the weights. */
static Result run(const TrainerBackend *b, const Model *m, const Case *k, const uint32_t *tokens,
                  const TrainOptions *o, int updates) {
    size_t n = parameters_of(&k->config), got;
    Result r = { xcalloc(2 * n + 3 + 2 * (size_t)updates, sizeof(float), "result"), 0, n };
    float *at = r.x, scale = 1 / (float)(k->B * k->T);
    Trainer *t = b->open(m, NULL, o);
    double loss = b->step(t, batch_of(k, tokens, 0), k->B, k->T, scale), norm;
    loss += b->step(t, batch_of(k, tokens, 1), k->B, k->T, scale);
    const float *gradients = b->gradients(t, &got);
    if (got != n) die("gradients: %zu, expected %zu", got, n);
    memcpy(at, gradients, n * sizeof *at);
    at += n;
    *at++ = (float)loss;
    b->zero(t);
    r.n = (size_t)(at - r.x);
    for (int i = 0; i < updates; i++) {
        *at++ = (float)one_update(b, t, k, tokens, i, &norm);
        *at++ = (float)norm;
    }
    if (updates) {
        const Lora *adapter;
        *at++ = (float)b->loss(t, batch_of(k, tokens, 2), k->B, k->T);
        at = append_model(at, b->model(t, &adapter));
        r.n = (size_t)(at - r.x);
    }
    b->close(t);
    return r;
}

/* The length of the error in units of the length of what was wanted. */
static double error_length(const float *got, const float *want, size_t n) {
    double d = 0, own = 1e-30;
    for (size_t i = 0; i < n; i++) {
        d += pow((double)got[i] - (double)want[i], 2);
        own += pow((double)want[i], 2);
    }
    return isfinite(d) ? sqrt(d / own) : INFINITY;
}

/* Each tensor's gradient: the largest error in units of its largest number, or error_length.
 * Returns the worst, *which its tensor. */
static double worst_gradient(const Case *k, const float *got, const float *want, bool length,
                             char which[64]) {
    int n;
    size_t at = 0, i;
    double worst = 0;
    TensorSpec *spec = tensor_specs(&k->config, &n);
    for (int s = 0; s < n; s++) {
        size_t count = (size_t)spec[s].rows * (size_t)spec[s].cols;
        double error = length ? error_length(got + at, want + at, count)
                              : relative_error(got + at, want + at, count, &i);
        if (!(error <= worst)) worst = error, snprintf(which, 64, "%s", spec[s].name);
        at += count;
    }
    free(spec);
    return worst;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Against train.c */

static void check_case(const Case *k, const Result *want, const Result *got, bool bf16) {
    char which[64] = "", why[160];
    size_t n = want->gradients, rest = want->n - 2 * n, i;
    double limit = bf16 ? 0.04 : 1e-4, error;
    /* one token: its attention has no choice, so the gradients of wq and wk are 0 */
    error = k->T == 1 ? relative_error(got->x, want->x, n, &i)
                      : worst_gradient(k, got->x, want->x, bf16, which);
    snprintf(why, sizeof why, "%.1e in %s, expected at most %.0e", error, which, limit);
    check(error <= limit, why, "%s, %s: gradients (%.1e)", k->name, bf16 ? "bf16" : "float32",
          error);
    snprintf(why, sizeof why, "%s, %s: losses and norms of ten updates", k->name,
             bf16 ? "bf16" : "float32");
    check_close(why, got->x + n, want->x + n, rest, bf16 ? 0.02 : 1e-4);
    if (k->T == 1) return;
    error = error_length(got->x + n + rest, want->x + n + rest, n);
    snprintf(why, sizeof why, "%.1e, expected at most %.0e", error, bf16 ? 0.1 : 3e-4);
    check(error <= (bf16 ? 0.1 : 3e-4), why, "%s, %s: weights after ten updates (%.1e)", k->name,
          bf16 ? "bf16" : "float32", error);
}

static void test_case(const Case *k) {
    Model m = make_model(&k->config);
    uint32_t *tokens = make_tokens(k);
    TrainOptions o = options_of(k);
    Result cpu = run(&cpu_trainer, &m, k, tokens, &o, 10);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        o.bf16 = bf16;
        Result gpu = run(&cuda_trainer, &m, k, tokens, &o, 10);
        check_case(k, &cpu, &gpu, bf16);
        for (o.recompute = 1; o.recompute < 4; o.recompute++) {
            char name[128];
            Result again = run(&cuda_trainer, &m, k, tokens, &o, 0);
            snprintf(name, sizeof name, "%s, %s: gradients at recompute level %d", k->name,
                     bf16 ? "bf16" : "float32", o.recompute);
            check_same(name, again.x, gpu.x, again.n * sizeof *gpu.x);
            free(again.x);
        }
        o.recompute = 0;
        free(gpu.x);
    }
    free(cpu.x);
    free(tokens);
    free_model(&m);
}

/* ------------------------------------------------------------------------------------------------
 * 3. bf16 for moments and gradients; orders of threads */

static void test_state(const Case *k) {
    Model m = make_model(&k->config);
    uint32_t *tokens = make_tokens(k);
    TrainOptions o = options_of(k);
    o.bf16 = true;
    Result want = run(&cuda_trainer, &m, k, tokens, &o, 2);
    size_t rest = want.n - 2 * want.gradients;
    for (int kind = 1; kind < 4; kind++) {
        char name[64], which[64];
        o.bf16_moments = kind & 1, o.bf16_grads = kind >> 1;
        snprintf(name, sizeof name, "bf16%s%s", kind & 1 ? " moments" : "",
                 kind & 2 ? " gradients" : "");
        Result got = run(&cuda_trainer, &m, k, tokens, &o, 2);
        check_close(name, got.x + got.gradients, want.x + want.gradients, rest, 0.01);
        double error = worst_gradient(k, got.x, want.x, true, which);
        check(error <= (kind & 2 ? 0.005 : 0), "too large", "%s: gradients (%.1e)", name, error);
        free(got.x);
    }
    o.bf16_moments = o.bf16_grads = false;
    for (int order = 1; order < 3; order++) {
        char text[8];
        snprintf(text, sizeof text, "%d", order);
        setenv("OC_EMU_ORDER", text, 1);
        Result got = run(&cuda_trainer, &m, k, tokens, &o, 2);
        check_same("another order of threads", got.x, want.x, want.n * sizeof *want.x);
        free(got.x);
    }
    unsetenv("OC_EMU_ORDER");
    free(want.x);
    free(tokens);
    free_model(&m);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Files: what is saved and loaded goes on with the same bits, on either side */

static void save(const TrainerBackend *b, Trainer *t, const Config *c, const char *path) {
    GgufWriter w = { 0 };
    Vocab none = { 0 };
    config_to_gguf(&w, c);
    vocab_to_gguf(&w, &none);
    b->save(t, &w, path, true);
}

typedef struct {
    Model model;
    Map map;
} File;

/* The tensors of a file as a model: weights by name, and AdamW's state for whoever asks. */
static void open_file(File *f, const Config *c, const char *path) {
    Error e;
    memset(f, 0, sizeof *f);
    f->model.path = path;
    f->model.config = *c;
    if (!map_file(&f->map, path, &e) || !gguf_parse(&f->model.gguf, f->map.data, f->map.size, &e) ||
        !weights_bind(&f->model.weights, &f->model.gguf, c, &e))
        die("%s: %s", path, e.text);
}
static void close_file(File *f) {
    weights_free(&f->model.weights);
    gguf_free(&f->model.gguf);
    unmap_file(&f->map);
}

/* Updates from..to with b, from the file `in`, or from m where that is NULL; then to file out. */
static void go_on(const TrainerBackend *b, const Model *m, const char *in, const char *out,
                  const Case *k, const uint32_t *tokens, const TrainOptions *o, int from, int to) {
    File f;
    double norm;
    if (in) open_file(&f, &k->config, in);
    Trainer *t = b->open(in ? &f.model : m, NULL, o);
    for (int i = from; i < to; i++) one_update(b, t, k, tokens, i, &norm);
    save(b, t, &k->config, out);
    b->close(t);
    if (in) close_file(&f);
}

static void same_files(const char *name, const char *a, const char *b, double tolerance) {
    Map x, y;
    Gguf g, h;
    Error e;
    double worst = 0;
    if (!map_file(&x, a, &e) || !map_file(&y, b, &e) || !gguf_parse(&g, x.data, x.size, &e) ||
        !gguf_parse(&h, y.data, y.size, &e))
        die("%s", e.text);
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        size_t n = tensor_bytes(&g.tensor[i]) / 4, at;
        const float *p = (const float *)(const void *)g.tensor[i].data;
        const float *q = (const float *)(const void *)h.tensor[i].data;
        double error = relative_error(p, q, n, &at);
        if (!(error <= worst)) worst = error;
    }
    check(g.n_tensors == h.n_tensors && worst <= tolerance, "they differ", "%s (%.1e)", name,
          worst);
    gguf_free(&g), gguf_free(&h);
    unmap_file(&x), unmap_file(&y);
}

static void test_files(const Case *k) {
    char path[4][64], name[96];
    Model m = make_model(&k->config);
    uint32_t *tokens = make_tokens(k);
    for (int i = 0; i < 4; i++)
        snprintf(path[i], sizeof path[i], "build/scratch/traincuda-%d-%ld", i, (long)getpid());
    for (int kind = 0; kind < 3; kind++) {
        TrainOptions o = options_of(k);
        o.bf16 = kind > 0, o.bf16_moments = kind > 1;
        const char *what = kind == 0 ? "float32" : kind == 1 ? "bf16" : "bf16 with bf16 moments";
        go_on(&cuda_trainer, &m, NULL, path[0], k, tokens, &o, 0, 4);
        go_on(&cuda_trainer, &m, NULL, path[1], k, tokens, &o, 0, 2);
        go_on(&cuda_trainer, NULL, path[1], path[2], k, tokens, &o, 2, 4);
        snprintf(name, sizeof name, "%s: saved and resumed, the same bits", what);
        same_files(name, path[2], path[0], 0);
        go_on(&cuda_trainer, NULL, path[0], path[3], k, tokens, &o, 4, 4);
        snprintf(name, sizeof name, "%s: loaded and saved, the same bits", what);
        same_files(name, path[3], path[0], 0);
    }
    /* From one to the other: the file crosses bit for bit; the updates that follow agree with those
     * of the run that began in the same way. (Two runs that begin differently may not: where a
     * gradient is next to zero AdamW's first step is its sign, and that is the rounding's.) */
    static const TrainerBackend *const first[] = { &cpu_trainer, &cuda_trainer };
    static const char *const names[] = { "CPU", "GPU" };
    TrainOptions o = options_of(k);
    for (int i = 0; i < 2; i++) {
        const TrainerBackend *a = first[i], *b = first[1 - i];
        go_on(a, &m, NULL, path[0], k, tokens, &o, 0, 4);
        go_on(a, &m, NULL, path[1], k, tokens, &o, 0, 2);
        go_on(b, NULL, path[1], path[2], k, tokens, &o, 2, 2);
        snprintf(name, sizeof name, "saved on the %s, loaded and saved on the other", names[i]);
        same_files(name, path[2], path[1], 0);
        go_on(b, NULL, path[1], path[2], k, tokens, &o, 2, 4);
        snprintf(name, sizeof name, "begun on the %s, resumed on the other", names[i]);
        same_files(name, path[2], path[0], 1e-4);
    }
    for (int i = 0; i < 4; i++) unlink(path[i]);
    free(tokens);
    free_model(&m);
}

/* ------------------------------------------------------------------------------------------------
 * 5. What is not finite is named */

static void test_bad(const Case *k) {
    Model m = make_model(&k->config);
    uint32_t *tokens = make_tokens(k);
    TrainOptions o = options_of(k);
    char bad[64];
    float *gate = (float *)(uintptr_t)m.weights.w_gate[1].data;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        gate[7] = bf16 ? INFINITY : NAN;
        o.bf16 = bf16;
        Trainer *t = cuda_trainer.open(&m, NULL, &o);
        cuda_trainer.step(t, tokens, k->B, k->T, 1);
        CHECK(!isfinite(cuda_trainer.grad_norm(t, bad)));
        check(!strcmp(bad, "blk.1.ffn_gate.weight"), bad, "the weight to blame");
        cuda_trainer.close(t);
    }
    free(tokens);
    free_model(&m);
}

int main(void) {
    for (int i = 0; i < CASES; i++) test_case(&cases[i]);
    test_state(&cases[1]);
    test_files(&cases[3]);
    test_bad(&cases[1]);
    return test_end();
}
