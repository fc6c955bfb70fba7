/* test_cuda.c: the engine of runcuda.cu against that of run.c, on models of random weights whose
 * shapes are made to be awkward. Linked with runcuda.cu as cuda/emu.h runs it on the CPU, or,
 * by make test-gpu, with the one that nvcc made: the checks are the same.
 *
 *     test_cuda [PART]       forward, types, batches, order, errors (all of them without PART)
 *
 * What holds them together: exact, float32 sums in another order, 1e-5 of the largest logit; the
 * fast types round activations, to 8 bits of mantissa (bf16) or to 127 steps (int8), so a few
 * percent; and what must be the same whatever stands beside it, or run again: every bit. */
#include "../opencoder.h" /* Model, cpu_engine, cuda_engine */
#include "test.h"

typedef struct {
    Model model;
    uint8_t *bytes; /* of all tensors */
} Made;

static uint64_t state = 1;

static float noise(void) { /* uniform, variance 1 */
    return ((float)(next_random(&state) >> 40) * 0x1p-23f - 1) * 1.7320508f;
}

static size_t stored_bytes(uint32_t type, int rows, int cols) {
    return (size_t)rows * row_bytes(rows == 1 ? T_F32 : type, (size_t)cols);
}

/* A random weight of a type that quantize() knows, or, for q5_0 and the like, of random bytes. */
static uint8_t *fill_tensor(Tensor *t, uint8_t *at, uint32_t type, int rows, int cols) {
    size_t n = (size_t)cols;
    t->type = rows == 1 ? T_F32 : type;
    t->rows = rows, t->cols = cols;
    t->data = at;
    float *x = xcalloc(n, sizeof *x, "row");
    for (int r = 0; r < rows; r++, at += row_bytes(t->type, n)) {
        for (size_t i = 0; i < n; i++)
            x[i] = rows == 1 ? 1 + 0.3f * noise() : noise() / sqrtf((float)cols);
        if (t->type == T_Q5_0) { /* a scale and 20 random bytes a block */
            for (size_t i = 0; i < n / 32 * 22; i++) at[i] = (uint8_t)(next_random(&state) >> 56);
            for (size_t b = 0; b < n / 32; b++) at[22 * b] = 0, at[22 * b + 1] = 0x20;
        } else {
            quantize(at, x, t->type, n);
        }
    }
    free(x);
    return at;
}

/* type: of the matrices; every `other`-th tensor is of other_type (0: none). */
static Made make_model(Config config, uint32_t type, int other, uint32_t other_type) {
    Made m;
    const Config *c = &config;
    size_t total = 0;
    int number = 0;
    memset(&m, 0, sizeof m);
    m.model.path = "a random model";
    m.model.config = config;
    m.model.vocab.n = config.vocab_size - 3;
    m.model.vocab.type = xcalloc((size_t)config.vocab_size, 1, "vocabulary");
    for (int i = 0; i < m.model.vocab.n; i++)
        m.model.vocab.type[i] = i % 7 == 3 ? TOK_UNUSED : TOK_NORMAL;
#define X(field, name, count, rows, cols)                                                          \
    for (int i = 0; i < (count); i++) total += stored_bytes(T_F32, rows, cols);
    TENSORS(X)
#undef X
    uint8_t *at = m.bytes = xcalloc(total, 1, "weights");
#define X(field, name, count, rows, cols)                                                          \
    m.model.weights.field = xcalloc((size_t)(count), sizeof(Tensor), name);                        \
    for (int i = 0; i < (count); i++)                                                              \
        at = fill_tensor(&m.model.weights.field[i], at,                                            \
                         other && number++ % other == 0 ? other_type : type, rows, cols);
    TENSORS(X)
#undef X
    return m;
}

static void free_model(Made *m) {
    weights_free(&m->model.weights);
    free(m->model.vocab.type);
    free(m->bytes);
}

/* Feeds n tokens of a sequence from position pos on, `chunk` at a time; every logit to out. */
static void feed(const EngineBackend *b, Engine *e, const Model *m, int seq, int pos,
                 const int *token, int n, int chunk, float *out) {
    size_t V = (size_t)m->config.vocab_size;
    int *seqs = xcalloc((size_t)n, sizeof *seqs, "batch"), *at = xcalloc((size_t)n, 4, "batch");
    char *want = xcalloc((size_t)n, 1, "batch");
    for (int i = 0; i < n; i++) seqs[i] = seq, at[i] = pos + i, want[i] = 1;
    for (int i = 0; i < n; i += chunk) {
        int k = n - i < chunk ? n - i : chunk;
        Batch batch = { k, token + i, seqs + i, at + i, want + i };
        memcpy(out + (size_t)i * V, b->forward(e, &batch), (size_t)k * V * sizeof *out);
    }
    free(seqs);
    free(at);
    free(want);
}

static int *random_tokens(const Config *c, int n) {
    int *token = xcalloc((size_t)n, sizeof *token, "tokens");
    for (int i = 0; i < n; i++) token[i] = (int)(next_random(&state) >> 33) % c->vocab_size;
    return token;
}

static float *logits_of(const EngineBackend *b, const Model *m, const int *token, int n, int chunk,
                        EngineOptions o) {
    o.n_ctx = o.n_ctx ? o.n_ctx : n, o.n_seq = 1, o.n_batch = n;
    float *out = xcalloc((size_t)n * (size_t)m->config.vocab_size, sizeof *out, "logits");
    Engine *e = b->open(m, &o);
    feed(b, e, m, 0, 0, token, n, chunk, out);
    b->close(e);
    return out;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Shapes: both engines, as a prompt and token by token */

static Config shape(int dim, int hidden, int H, int K, int D, int V) {
    return (Config){ dim, hidden, 2, H, K, D, V, 512, 1e4f, 1e-5f, false };
}

static void compare(const char *name, const Model *m, int n, int chunk, EngineOptions o,
                    double tol) {
    char text[128];
    size_t count = (size_t)n * (size_t)m->config.vocab_size;
    int *token = random_tokens(&m->config, n);
    EngineOptions exact = { .exact = true };
    float *want = logits_of(&cpu_engine, m, token, n, n, o.exact ? exact : (EngineOptions){ 0 });
    float *got = logits_of(&cuda_engine, m, token, n, chunk, o);
    snprintf(text, sizeof text, "%s, %d tokens, %d at a time", name, n, chunk);
    check_close(text, got, want, count, tol);
    free(token);
    free(got);
    free(want);
}

static void test_forward(void) {
    static const struct {
        const char *name;
        int dim, hidden, H, K, D, V;
        uint32_t type;
        double tol;
    } t[] = {
        { "head 160, bf16", 320, 416, 2, 2, 160, 131, T_BF16, 3e-2 },
        { "head 128, grouped 4, q8_0", 128, 256, 4, 1, 128, 97, T_Q8_0, 3e-2 },
        { "head 64, f16", 128, 160, 2, 1, 64, 65, T_F16, 2e-2 },
        { "head 80, grouped 2, q4_0", 160, 288, 2, 1, 80, 129, T_Q4_0, 4e-2 },
        { "head 20, bf16", 60, 100, 6, 2, 20, 77, T_BF16, 3e-2 },
        { "head 200, grouped 3, bf16", 96, 64, 3, 1, 200, 50, T_BF16, 3e-2 },
    };
    static const int lengths[] = { 1, 65, 127 };
    EngineOptions fast = { 0 }, exact = { .exact = true };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        Config c = shape(t[i].dim, t[i].hidden, t[i].H, t[i].K, t[i].D, t[i].V);
        c.tied = i == 1;
        Made m = make_model(c, t[i].type, 0, 0);
        char name[64];
        for (int k = 0; k < 3; k++)
            compare(t[i].name, &m.model, lengths[k], lengths[k], fast, t[i].tol);
        compare(t[i].name, &m.model, 17, 1, fast, t[i].tol);
        snprintf(name, sizeof name, "%s, exact", t[i].name);
        compare(name, &m.model, 65, 65, exact, 1e-5);
        compare(name, &m.model, 9, 1, exact, 1e-5);
        free_model(&m);
    }
}

int main(void) {
    test_forward();
    return test_end();
}
