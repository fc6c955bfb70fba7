/* test_run.c: the engine of run.c against Hugging Face transformers and against itself.
 *
 *     test_run MODEL REFERENCE             logits, hidden states and greedy text as recorded;
 *                                          the same bits however the tokens are grouped
 *     test_run --expanded MODEL REFERENCE  of any storage type: the same bits as a float32 model
 *                                          made of its dequantized weights
 *
 * tests/test_run.py makes the models from tests/data and starts this; tests/make_fixtures.py says
 * what a reference holds. */
#include "../opencoder.h" /* Model, cpu_engine, matmul_choose */
#include "test.h"

#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) (void)(n)
#endif

typedef struct {
    Map map;
    Gguf gguf;
    int n, n_greedy, n_long, n_positions; /* lengths of the arrays */
    int *tokens, *greedy, *long_tokens, *positions;
} Reference;

static int *read_ids(const Gguf *g, const char *name, int *n) {
    Error e;
    const GgufKey *k;
    if (!gguf_array(g, name, GV_I32, 0, &k, &e)) die("%s", e.text);
    if (!k) die("key %s: missing from the reference", name);
    int *ids = xcalloc(k->count, sizeof *ids, name);
    memcpy(ids, k->data, 4 * k->count);
    *n = (int)k->count;
    return ids;
}

static void reference_open(Reference *r, const char *path) {
    Error e;
    if (!map_file(&r->map, path, &e) || !gguf_parse(&r->gguf, r->map.data, r->map.size, &e))
        die("%s: %s", path, e.text);
    r->tokens = read_ids(&r->gguf, "tokens", &r->n);
    r->greedy = read_ids(&r->gguf, "greedy", &r->n_greedy);
    r->long_tokens = read_ids(&r->gguf, "long_tokens", &r->n_long);
    r->positions = read_ids(&r->gguf, "long_positions", &r->n_positions);
}

static void reference_close(Reference *r) {
    free(r->tokens);
    free(r->greedy);
    free(r->long_tokens);
    free(r->positions);
    gguf_free(&r->gguf);
    unmap_file(&r->map);
}

/* A recorded matrix, (rows, cols), which must have n numbers; NULL when it was not recorded. */
static const float *recorded(const Reference *r, const char *name, size_t n) {
    const Tensor *t = gguf_tensor(&r->gguf, name);
    if (t && (t->type != T_F32 || tensor_bytes(t) != 4 * n))
        die("%s: %d x %d in the reference, expected %zu numbers", name, t->rows, t->cols, n);
    return t ? (const float *)(const void *)t->data : NULL;
}

/* Feeds tokens to sequence `seq`, from position `pos` on, `chunk` at a time, and writes the logits
 * of each of them to out, (n, V). */
static void feed(Engine *e, int n_vocab, int seq, int pos, const int *token, int n, int chunk,
                 float *out) {
    int *seqs = xcalloc((size_t)n, sizeof *seqs, "batch");
    int *positions = xcalloc((size_t)n, sizeof *positions, "batch");
    char *want = xcalloc((size_t)n, 1, "batch");
    for (int i = 0; i < n; i++) seqs[i] = seq, positions[i] = pos + i, want[i] = 1;
    for (int i = 0; i < n; i += chunk) {
        int count = n - i < chunk ? n - i : chunk;
        Batch b = { count, token + i, seqs + i, positions + i, want + i };
        const float *logits = cpu_engine.forward(e, &b);
        memcpy(out + (size_t)i * (size_t)n_vocab, logits, (size_t)(count * n_vocab) * sizeof *out);
    }
    free(seqs);
    free(positions);
    free(want);
}

/* The logits of every token of one sequence, (n, V), to be freed. */
static float *logits_of(const Model *m, const int *token, int n, int chunk, bool exact) {
    EngineOptions o = { .n_ctx = n, .n_seq = 1, .n_batch = chunk, .exact = exact };
    Engine *e = cpu_engine.open(m, &o);
    float *out = xcalloc((size_t)n * (size_t)m->config.vocab_size, sizeof *out, "logits");
    feed(e, m->config.vocab_size, 0, 0, token, n, chunk, out);
    cpu_engine.close(e);
    return out;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Against transformers */

static void test_logits(const Model *m, const Reference *r) {
    static const char *levels[] = { LEVEL_NAMES, NULL };
    size_t n_vocab = (size_t)m->config.vocab_size, n = (size_t)r->n * n_vocab;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) { /* NULL, the default, stays */
        char name[64];
        if (!matmul_choose(levels[i])) continue;
        float *got = logits_of(m, r->tokens, r->n, r->n, true);
        snprintf(name, sizeof name, "logits, %s level", levels[i] ? levels[i] : "default");
        check_close(name, got, recorded(r, "logits", n), n, 2e-5);
        free(got);
    }
    float *all = logits_of(m, r->long_tokens, r->n_long, 64, true);
    float *rows = xcalloc((size_t)r->n_positions * n_vocab, sizeof *rows, "logits");
    for (size_t i = 0; i < (size_t)r->n_positions; i++)
        memcpy(rows + i * n_vocab, all + (size_t)r->positions[i] * n_vocab, n_vocab * sizeof *rows);
    n = (size_t)r->n_positions * n_vocab;
    check_close("logits at far positions", rows, recorded(r, "long_logits", n), n, 2e-5);
    free(all);
    free(rows);
}

static void test_greedy(const Model *m, const Reference *r) {
    int n_vocab = m->config.vocab_size, pos = r->n - 1, same = 0;
    EngineOptions o = { .n_ctx = r->n + r->n_greedy, .n_seq = 1, .n_batch = r->n, .exact = true };
    Engine *e = cpu_engine.open(m, &o);
    float *logits = xcalloc((size_t)r->n * (size_t)n_vocab, sizeof *logits, "logits");
    feed(e, n_vocab, 0, 0, r->tokens, r->n, r->n, logits);
    const float *last = logits + (size_t)pos * (size_t)n_vocab;
    for (; same < r->n_greedy; same++) {
        int best = 0;
        for (int i = 1; i < n_vocab; i++)
            if (last[i] > last[best]) best = i;
        if (best != r->greedy[same]) break;
        feed(e, n_vocab, 0, ++pos, &best, 1, 1, logits);
        last = logits;
    }
    char why[64];
    snprintf(why, sizeof why, "only the first %d are", same);
    check(same == r->n_greedy, why, "greedy: %d tokens as recorded", r->n_greedy);
    free(logits);
    cpu_engine.close(e);
}

typedef struct {
    const Reference *r;
    int n_layers;
} Hidden;

/* hidden.0 is the embedding, hidden.i what layer i - 1 leaves; the last one is normed. */
static void compare_hidden(void *arg, const char *name, int layer, const float *data, int rows,
                           int cols) {
    const Hidden *h = arg;
    char key[32];
    int number = -1;
    if (!strcmp(name, "embedding")) number = 0;
    if (!strcmp(name, "layer") && layer + 1 < h->n_layers) number = layer + 1;
    if (!strcmp(name, "output_norm")) number = h->n_layers;
    if (number < 0) return;
    size_t n = (size_t)rows * (size_t)cols;
    snprintf(key, sizeof key, "hidden.%d", number);
    const float *want = recorded(h->r, key, n);
    if (want) check_close(key, data, want, n, 2e-5);
}

static void test_hidden(const Model *m, const Reference *r) {
    Hidden h = { r, m->config.n_layers };
    if (!gguf_tensor(&r->gguf, "hidden.0")) return;
    EngineOptions o = { .n_ctx = r->n, .n_seq = 1, .n_batch = r->n, .exact = true };
    o.watch = compare_hidden;
    o.watch_arg = &h;
    int before = test_passed + test_failed;
    Engine *e = cpu_engine.open(m, &o);
    float *out = xcalloc((size_t)r->n * (size_t)m->config.vocab_size, sizeof *out, "logits");
    feed(e, m->config.vocab_size, 0, 0, r->tokens, r->n, r->n, out);
    check(test_passed + test_failed - before == m->config.n_layers + 1, "some were not",
          "every layer was compared");
    free(out);
    cpu_engine.close(e);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Against itself: the same bits */

static void test_groups(const Model *m, const Reference *r, bool exact) {
    static const int chunks[] = { 1, 7, 64 }, threads[] = { 1, 2, 3, 7 };
    size_t bytes = (size_t)r->n * (size_t)m->config.vocab_size * sizeof(float);
    float *want = logits_of(m, r->tokens, r->n, r->n, exact);
    for (int t = 0; t < 4; t++)
        for (int c = 0; c < 3; c++) {
            omp_set_num_threads(threads[t]);
            float *got = logits_of(m, r->tokens, r->n, chunks[c], exact);
            check(!memcmp(got, want, bytes), "not bit-equal", "%s: %d threads, chunks of %d",
                  exact ? "exact" : "fast", threads[t], chunks[c]);
            free(got);
        }
    omp_set_num_threads(2);
    free(want);
}

/* Three sequences of different lengths take turns within one batch. */
static void test_interleaved(const Model *m, const Reference *r) {
    enum { SEQUENCES = 3 };
    int length[SEQUENCES] = { r->n, r->n / 2, r->n / 3 }, n = 0;
    size_t n_vocab = (size_t)m->config.vocab_size;
    int token[3 * 64], seq[3 * 64], pos[3 * 64];
    char want[3 * 64];
    if (r->n > 64) die("%d tokens in the reference, expected at most 64", r->n);
    for (int p = 0; p < r->n; p++)
        for (int s = SEQUENCES - 1; s >= 0; s--)
            if (p < length[s]) {
                token[n] = r->tokens[r->n - length[s] + p]; /* each a different part */
                seq[n] = s;
                pos[n] = p;
                want[n++] = 1;
            }
    EngineOptions o = { .n_ctx = r->n, .n_seq = SEQUENCES, .n_batch = n };
    Engine *e = cpu_engine.open(m, &o);
    Batch b = { n, token, seq, pos, want };
    const float *mixed = cpu_engine.forward(e, &b);
    for (int s = 0; s < SEQUENCES; s++) {
        float *alone = logits_of(m, r->tokens + r->n - length[s], length[s], 5, false);
        int differ = 0;
        for (int i = 0; i < n; i++)
            differ += seq[i] == s && memcmp(mixed + (size_t)i * n_vocab,
                                            alone + (size_t)pos[i] * n_vocab, 4 * n_vocab);
        check(!differ, "not bit-equal", "sequence %d of %d in one batch", s, SEQUENCES);
        free(alone);
    }
    cpu_engine.close(e);
}

/* Only some rows are wanted: they are the same, and in order. */
static void test_wanted(const Model *m, const Reference *r) {
    size_t n_vocab = (size_t)m->config.vocab_size;
    int seq[64] = { 0 }, pos[64], differ = 0, row = 0;
    char want[64];
    if (r->n > 64) die("%d tokens in the reference, expected at most 64", r->n);
    for (int i = 0; i < r->n; i++) pos[i] = i, want[i] = i % 3 == 1;
    EngineOptions o = { .n_ctx = r->n, .n_seq = 1, .n_batch = r->n };
    Engine *e = cpu_engine.open(m, &o);
    Batch b = { r->n, r->tokens, seq, pos, want };
    float *all = logits_of(m, r->tokens, r->n, r->n, false);
    const float *some = cpu_engine.forward(e, &b);
    for (int i = 0; i < r->n; i++)
        if (want[i])
            differ +=
                memcmp(some + (size_t)row++ * n_vocab, all + (size_t)i * n_vocab, 4 * n_vocab) != 0;
    check(!differ, "not bit-equal", "%d wanted rows of %d", row, r->n);
    free(all);
    cpu_engine.close(e);
}

/* A rewound sequence continues as if what was cut off had never been fed. */
static void test_cut(const Model *m, const Reference *r) {
    int keep = r->n / 3, rest = r->n - keep, n_vocab = m->config.vocab_size;
    EngineOptions o = { .n_ctx = r->n, .n_seq = 2, .n_batch = r->n };
    Engine *e = cpu_engine.open(m, &o);
    size_t row = (size_t)n_vocab, bytes = (size_t)rest * row * sizeof(float);
    float *got = xcalloc((size_t)r->n * row, sizeof *got, "logits");
    float *want = logits_of(m, r->tokens, r->n, r->n, false);
    feed(e, n_vocab, 1, 0, r->tokens, keep, keep, got);
    feed(e, n_vocab, 1, keep, r->tokens, rest, rest, got); /* other tokens than the reference's */
    check(memcmp(got, want + (size_t)keep * row, bytes) != 0, "same logits", "other tokens");
    cpu_engine.cut(e, 1, keep);
    feed(e, n_vocab, 1, keep, r->tokens + keep, rest, 4, got);
    check_same("cut back to a third, continued", got, want + (size_t)keep * row, bytes);
    cpu_engine.cut(e, 1, 0);
    feed(e, n_vocab, 1, 0, r->tokens, r->n, 9, got);
    check_same("cut back to nothing, fed again", got, want, (size_t)r->n * row * sizeof *got);
    free(got);
    free(want);
    cpu_engine.close(e);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Storage types */

static void expand(Tensor *t) {
    size_t cols = (size_t)t->cols, bytes = row_bytes(t->type, cols);
    float *x = xcalloc((size_t)t->rows * cols, sizeof *x, "weights");
    for (size_t r = 0; r < (size_t)t->rows; r++)
        dequantize(x + r * cols, t->data + r * bytes, t->type, 0, cols);
    t->data = (const uint8_t *)x;
    t->type = T_F32;
}

static void test_expanded(const Model *m, const Reference *r) {
    Model wide = *m;
    const Config *c = &m->config;
    size_t n = (size_t)r->n * (size_t)c->vocab_size, worst;
#define X(field, name, count, rows, cols)                                                          \
    wide.weights.field = xcalloc((size_t)(count), sizeof(Tensor), name);                           \
    for (int i = 0; i < (count); i++) {                                                            \
        wide.weights.field[i] = m->weights.field[i];                                               \
        expand(&wide.weights.field[i]);                                                            \
    }
    TENSORS(X)
#undef X
    float *want = logits_of(&wide, r->tokens, r->n, r->n, true);
    float *exact = logits_of(m, r->tokens, r->n, 8, true);
    float *fast = logits_of(m, r->tokens, r->n, 8, false);
    check_same("exact path and expanded weights", exact, want, 4 * n);
    double error = relative_error(fast, want, n, &worst);
    char why[64];
    snprintf(why, sizeof why, "error %.1e", error);
    check(error < 0.1, why, "fast path is near the exact one (error %.1e, below 0.1)", error);
    free(want);
    free(exact);
    free(fast);
#define X(field, name, count, rows, cols)                                                          \
    for (int i = 0; i < (count); i++) free((void *)(uintptr_t)wide.weights.field[i].data);         \
    free(wide.weights.field);
    TENSORS(X)
#undef X
}

int main(int argc, char **argv) {
    Model m;
    Reference r;
    bool expanded = argc == 4 && !strcmp(argv[1], "--expanded");
    if (argc != 3 + expanded) die_usage("%d arguments, expected MODEL REFERENCE", argc - 1);
    model_open(&m, argv[argc - 2], true);
    reference_open(&r, argv[argc - 1]);
    test_groups(&m, &r, false);
    if (expanded) {
        test_expanded(&m, &r);
    } else {
        test_logits(&m, &r);
        test_greedy(&m, &r);
        test_hidden(&m, &r);
        test_groups(&m, &r, true);
        test_interleaved(&m, &r);
        test_wanted(&m, &r);
        test_cut(&m, &r);
    }
    reference_close(&r);
    model_close(&m);
    return test_end();
}
