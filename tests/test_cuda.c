/* test_cuda.c: the engine of runcuda.cu against that of run.c, on models of random weights whose
 * shapes are made to be awkward. Linked with runcuda.cu as cuda/emu.h runs it on the CPU, or,
 * by bench/gpu_test.sh, with what nvcc made of it (OC_NATIVE is set then): the checks are the same.
 * OC_SMALL: only shapes and batches, for compute-sanitizer, which is slow.
 *
 * What holds them together: exact, float32 sums in another order, 1e-5 of the largest logit; the
 * fast types round activations, to 8 bits of mantissa (bf16) or to 127 steps (int8), so a few
 * percent; and what must be the same whatever stands beside it, or run again: every bit. */
#include "../lora.h" /* Lora; Model, cpu_engine, cuda_engine */
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

/* n blocks of random bytes, with scales (and what is added to all numbers) that suit: of the types
 * that quantize() does not know. False for the others. */
static bool random_blocks(uint8_t *at, uint32_t type, size_t n) {
    static const struct {
        uint32_t type;
        int place[2];     /* of two halves in a block; < 0: there is no second */
        uint16_t half[2]; /* 0x2000 is 2^-7, 0x1800 2^-9, 0x0400 2^-14, 0xac00 -2^-4 */
    } t[] = {
        { T_Q4_1, { 0, 2 }, { 0x2000, 0xac00 } }, { T_Q5_0, { 0, -1 }, { 0x2000, 0 } },
        { T_Q5_1, { 0, 2 }, { 0x1c00, 0xac00 } }, { T_Q4_K, { 0, 2 }, { 0x0c00, 0x1800 } },
        { T_Q5_K, { 0, 2 }, { 0x0800, 0x1800 } }, { T_Q6_K, { 208, -1 }, { 0x0400, 0 } },
        { T_IQ4_NL, { 0, -1 }, { 0x1000, 0 } },
    };
    size_t bytes = (size_t)type_info(type)->bytes;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if (t[i].type != type) continue;
        for (size_t k = 0; k < n * bytes; k++) at[k] = (uint8_t)(next_random(&state) >> 56);
        for (size_t b = 0; b < n; b++)
            for (int k = 0; k < 2; k++)
                if (t[i].place[k] >= 0) memcpy(at + b * bytes + t[i].place[k], &t[i].half[k], 2);
        return true;
    }
    return false;
}

/* A random matrix of any type; a single row is a norm, float32. */
static uint8_t *fill_tensor(Tensor *t, uint8_t *at, uint32_t type, int rows, int cols) {
    size_t n = (size_t)cols;
    t->type = rows == 1 ? T_F32 : type;
    t->rows = rows, t->cols = cols;
    t->data = at;
    float *x = xcalloc(n, sizeof *x, "row");
    for (int r = 0; r < rows; r++, at += row_bytes(t->type, n)) {
        if (random_blocks(at, t->type, n / (size_t)type_info(t->type)->block)) continue;
        for (size_t i = 0; i < n; i++)
            x[i] = rows == 1 ? 1 + 0.3f * noise() : noise() / sqrtf((float)cols);
        quantize(at, x, t->type, n);
    }
    free(x);
    return at + (-(uintptr_t)at & 31); /* every tensor aligned, as in a file */
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
    for (int i = 0; i < (count); i++) total += stored_bytes(T_F32, rows, cols) + 32;
    TENSORS(X)
#undef X
    uint8_t *at = m.bytes = xcalloc(total, 1, "weights");
#define X(field, unused, count, r, k)                                                              \
    m.model.weights.field = xcalloc((size_t)(count), sizeof(Tensor), #field);                      \
    for (int i = 0; i < (count); i++) {                                                            \
        uint32_t its_type = other && number++ % other == 0 ? other_type : type;                    \
        at = fill_tensor(&m.model.weights.field[i], at, its_type, r, k);                           \
        m.model.weights.field[i].name = str_of(i ? #field "1" : #field "0");                       \
    }
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
    EngineOptions plain = { .exact = o.exact, .lora = o.lora };
    float *want = logits_of(&cpu_engine, m, token, n, n, plain);
    float *got = logits_of(&cuda_engine, m, token, n, chunk, o);
    snprintf(text, sizeof text, "%s, %d tokens, %d at a time", name, n, chunk);
    check_close(text, got, want, count, tol);
    free(token);
    free(got);
    free(want);
}

static void test_shapes(void) {
    static const struct {
        const char *name;
        int dim, hidden, H, K, D, V, longest;
        uint32_t type;
        double tol;
    } t[] = {
        { "head 160, bf16", 320, 416, 2, 2, 160, 131, 127, T_BF16, 3e-2 },
        { "head 128, grouped 4, tied, q8_0", 128, 256, 4, 1, 128, 97, 127, T_Q8_0, 4e-2 },
        { "head 64, grouped 2, f16", 128, 160, 2, 1, 64, 65, 127, T_F16, 2e-2 },
        { "head 80, grouped 2, q4_0", 160, 288, 2, 1, 80, 129, 65, T_Q4_0, 5e-2 },
        { "head 20, grouped 3, bf16", 60, 100, 6, 2, 20, 77, 65, T_BF16, 3e-2 },
        { "head 200, grouped 3, bf16", 96, 64, 3, 1, 200, 50, 33, T_BF16, 3e-2 },
    };
    EngineOptions fast = { 0 }, exact = { .exact = true };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        Config c = shape(t[i].dim, t[i].hidden, t[i].H, t[i].K, t[i].D, t[i].V);
        c.tied = i == 1;
        Made m = make_model(c, t[i].type, 0, 0);
        char name[64];
        snprintf(name, sizeof name, "%s, exact", t[i].name);
        compare(t[i].name, &m.model, t[i].longest, t[i].longest, fast, t[i].tol);
        if (i < 3) compare(t[i].name, &m.model, 65, 65, fast, t[i].tol);
        compare(t[i].name, &m.model, 67, 13, fast, t[i].tol);
        compare(t[i].name, &m.model, 1, 1, fast, t[i].tol);
        compare(name, &m.model, 33, 33, exact, 1e-5);
        compare(name, &m.model, 5, 1, exact, 1e-5);
        free_model(&m);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Types of weights and of the cache */

static void test_types(void) {
    static const struct {
        const char *name;
        uint32_t type, other_type;
        int other; /* every so many matrices are of the other type */
        double tol;
    } t[] = {
        { "f32", T_F32, 0, 0, 1e-5 }, /* runs exactly without being asked */
        { "q4_0 and q8_0", T_Q4_0, T_Q8_0, 2, 5e-2 },
        { "q8_0 and bf16", T_Q8_0, T_BF16, 3, 5e-2 },
        { "f16 and f32", T_F16, T_F32, 2, 3e-2 },
    };
    Config c = shape(128, 192, 2, 2, 64, 71);
    EngineOptions fast = { 0 }, exact = { .exact = true }, fp8 = { .cache = T_Q8_0 };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char name[64];
        Made m = make_model(c, t[i].type, t[i].other, t[i].other_type);
        snprintf(name, sizeof name, "%s, exact", t[i].name);
        compare(t[i].name, &m.model, 21, 21, fast, t[i].tol);
        compare(t[i].name, &m.model, 9, 4, fast, t[i].tol);
        compare(name, &m.model, 9, 9, exact, 1e-5);
        free_model(&m);
    }
    Made m = make_model(c, T_BF16, 0, 0),
         large = make_model(shape(64, 64, 1, 1, 192, 40), T_F16, 0, 0);
    compare("cache of fp8", &m.model, 70, 70, fp8, 0.15);
    compare("cache of fp8", &m.model, 70, 10, fp8, 0.15);
    compare("cache of fp8, head 192", &large.model, 20, 20, fp8, 0.15);
    free_model(&m);
    free_model(&large);
}

/* The types that become q8 on the device, or float32 if exact. */
static void test_other_types(void) {
    static const uint32_t types[] = { T_Q4_1, T_Q5_0, T_Q5_1, T_Q4_K, T_Q5_K, T_Q6_K, T_IQ4_NL };
    EngineOptions fast = { 0 }, exact = { .exact = true };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char name[64];
        Made m = make_model(shape(256, 256, 2, 1, 128, 71), types[i], 0, 0);
        snprintf(name, sizeof name, "%s as q8", type_name(types[i]));
        compare(name, &m.model, 6, 6, fast, 5e-2);
        compare(name, &m.model, 18, 18, fast, 5e-2);
        snprintf(name, sizeof name, "%s, exact", type_name(types[i]));
        compare(name, &m.model, 4, 4, exact, 1e-5);
        free_model(&m);
    }
}

/* An adapter becomes part of the weights: of one that is fused with others, and of one alone. */
static void test_adapter(void) {
    static const uint32_t types[] = { T_F32, T_Q8_0, T_BF16 };
    enum { RANK = 3 };
    for (int i = 0; i < 3; i++) {
        Made m = make_model(shape(128, 192, 2, 1, 64, 71), types[i], 0, 0);
        const Tensor *changed[] = { &m.model.weights.wk[1], &m.model.weights.w_down[0] };
        LoraPair pair[2];
        Lora lora;
        float *numbers[4];
        Error e;
        memset(&lora, 0, sizeof lora);
        for (int k = 0; k < 2; k++) {
            int rows = changed[k]->rows, cols = changed[k]->cols;
            float *a = numbers[2 * k] = xcalloc((size_t)(RANK * cols), sizeof *a, "adapter");
            float *b = numbers[2 * k + 1] = xcalloc((size_t)(rows * RANK), sizeof *b, "adapter");
            for (int j = 0; j < RANK * cols; j++) a[j] = noise() / sqrtf((float)cols);
            for (int j = 0; j < rows * RANK; j++) b[j] = noise();
            pair[k] = (LoraPair){ .name = changed[k]->name, .scale = 0.5f, .rank = RANK };
            pair[k].a = (Tensor){ { "a", 1 }, T_F32, RANK, cols, (const uint8_t *)a };
            pair[k].b = (Tensor){ { "b", 1 }, T_F32, rows, RANK, (const uint8_t *)b };
            if (rows > lora.max_rows) lora.max_rows = rows;
        }
        lora.pair = pair, lora.n = 2, lora.factor = 1, lora.max_rank = RANK;
        if (!name_index(&lora.index, pair, 2, sizeof *pair, "pair", &e)) die("%s", e.text);
        compare("adapter, exact", &m.model, 6, 6, (EngineOptions){ .exact = true, .lora = &lora },
                1e-5);
        compare("adapter", &m.model, 6, 6, (EngineOptions){ .lora = &lora }, i ? 5e-2 : 1e-5);
        for (int k = 0; k < 4; k++) free(numbers[k]);
        free((void *)lora.index);
        free_model(&m);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Batches: the same bits for a token of a few, whatever is fed with it */

static void test_groups(const Made *m, const int *token, int n, const float *want) {
    static const int chunks[] = { 2, 5, 16 };
    size_t bytes = (size_t)n * (size_t)m->model.config.vocab_size * sizeof(float);
    for (int i = 0; i < 3; i++) {
        float *got = logits_of(&cuda_engine, &m->model, token, n, chunks[i], (EngineOptions){ 0 });
        check(!memcmp(got, want, bytes), "not bit-equal to one at a time", "chunks of %d",
              chunks[i]);
        free(got);
    }
}

/* Two sequences in turns, of which some rows are wanted. The second is one position ahead, so that
 * positions go on where the sequence changes. */
static void test_sequences(const Made *m, const int *token, int n, const float *want) {
    size_t V = (size_t)m->model.config.vocab_size;
    EngineOptions o = { .n_ctx = n, .n_seq = 3, .n_batch = 2 * n };
    Engine *e = cuda_engine.open(&m->model, &o);
    int differ = 0, id[16], seq[16], pos[16];
    char wanted[16];
    float *first = xcalloc(V, sizeof *first, "logits");
    feed(&cuda_engine, e, &m->model, 2, 0, token, 1, 1, first);
    free(first);
    for (int p = 0; p < n - 1; p += 4) {
        int k = 0;
        for (int i = 0; i < 8; i++) {
            int at = p + i / 2 + i % 2;
            if (at >= n) break;
            id[k] = token[at], seq[k] = i % 2 ? 2 : 0, pos[k] = at;
            wanted[k++] = i % 3 != 0;
        }
        Batch b = { k, id, seq, pos, wanted };
        const float *row = cuda_engine.forward(e, &b);
        for (int i = 0; i < k; i++)
            if (wanted[i]) {
                differ += memcmp(row, want + (size_t)pos[i] * V, V * sizeof *row) != 0;
                row += V;
            }
    }
    check(!differ, "not bit-equal", "two sequences in turns, some rows wanted");
    cuda_engine.close(e);
}

/* Proposals that were wrong are cut off again, as speculative decoding does. */
static void test_cut(const Made *m, const int *token, int n, const float *want) {
    int V = m->model.config.vocab_size, keep = n / 2;
    EngineOptions o = { .n_ctx = n, .n_seq = 1, .n_batch = n };
    Engine *e = cuda_engine.open(&m->model, &o);
    float *got = xcalloc((size_t)n * (size_t)V, sizeof *got, "logits");
    feed(&cuda_engine, e, &m->model, 0, 0, token, keep, 16, got);
    feed(&cuda_engine, e, &m->model, 0, keep, token, n - keep, 7, got);
    cuda_engine.cut(e, 0, keep);
    feed(&cuda_engine, e, &m->model, 0, keep, token + keep, n - keep, 3, got);
    check_same("cut back to a half, continued", got, want + (size_t)keep * (size_t)V,
               (size_t)((n - keep) * V) * sizeof *got);
    free(got);
    cuda_engine.close(e);
}

/* A prompt of two sequences in one pass, and nothing wanted of it. */
static void test_prompts(const Made *m, const int *token, int n, const float *want, double tol) {
    size_t V = (size_t)m->model.config.vocab_size;
    EngineOptions o = { .n_ctx = n, .n_seq = 2, .n_batch = 2 * n };
    Engine *e = cuda_engine.open(&m->model, &o);
    int *id = xcalloc((size_t)n * 2, sizeof *id, "batch"),
        *seq = xcalloc((size_t)n * 2, 4, "batch");
    int *pos = xcalloc((size_t)n * 2, sizeof *pos, "batch");
    char *wanted = xcalloc((size_t)n * 2, 1, "batch");
    for (int i = 0; i < 2 * n - 2; i++) /* without their last tokens */
        id[i] = token[i % (n - 1)], pos[i] = i % (n - 1), seq[i] = i / (n - 1);
    Batch b = { 2 * n - 2, id, seq, pos, wanted };
    check(!cuda_engine.forward(e, &b), "logits came", "a prompt of which no row is wanted");
    for (int i = 0; i < 2; i++) {
        float last[256];
        feed(&cuda_engine, e, &m->model, i, n - 1, token + n - 1, 1, 1, last);
        check_close("the token after a prompt", last, want + (size_t)(n - 1) * V, V, tol);
    }
    free(id), free(seq), free(pos), free(wanted);
    cuda_engine.close(e);
}

/* The likeliest token of a row, with the vocabulary's holes left out, and broken logits found. */
static void test_likeliest(const Made *m, const int *token, int n, const float *want) {
    int V = m->model.config.vocab_size, wrong = 0;
    const Vocab *v = &m->model.vocab;
    EngineOptions o = { .n_ctx = n, .n_seq = 1, .n_batch = n, .greedy = true };
    Engine *e = cuda_engine.open(&m->model, &o);
    for (int i = 0; i < n; i++) {
        int seq = 0, best = -1;
        Batch b = { 1, &token[i], &seq, &i, "\1" };
        const float *row = want + (size_t)i * (size_t)V;
        for (int k = 0; k < v->n; k++)
            if (v->type[k] != TOK_UNUSED && (best < 0 || row[k] > row[best])) best = k;
        wrong += cuda_engine.likeliest(e, cuda_engine.forward(e, &b)) != best;
    }
    check_int(__FILE__, __LINE__, "likeliest tokens that are others", wrong, 0);
    cuda_engine.close(e);
    float *norm = (float *)(uintptr_t)m->model.weights.out_norm->data;
    norm[3] = NAN;
    e = cuda_engine.open(&m->model, &o);
    int seq = 0, pos = 0;
    Batch b = { 1, token, &seq, &pos, "\1" };
    CHECK_INT(cuda_engine.likeliest(e, cuda_engine.forward(e, &b)), -1);
    norm[3] = 1;
    cuda_engine.close(e);
}

static void test_batches(void) {
    static const uint32_t types[] = { T_BF16, T_Q4_0 };
    for (int i = 0; i < 2; i++) {
        Made m = make_model(shape(128, 160, 4, 2, 64, 91), types[i], 0, 0);
        int n = 37, *token = random_tokens(&m.model.config, n);
        float *want = logits_of(&cuda_engine, &m.model, token, n, 1, (EngineOptions){ 0 });
        test_groups(&m, token, n, want);
        test_sequences(&m, token, n, want);
        test_cut(&m, token, n, want);
        test_prompts(&m, token, n, want, i ? 8e-2 : 3e-2);
        test_likeliest(&m, token, n, want);
        free(token);
        free(want);
        free_model(&m);
    }
}

/* As many tokens together as the engine promises to treat as if each were alone: 16 at most, fewer
 * where less shared memory must hold their input, 1 where cuBLAS does the products of any batch,
 * all of them if exact. */
static void test_equal_rows(void) {
    static const struct {
        const char *shared; /* bytes of shared memory of the emulation, less than it has */
        bool exact;
        int D, rows;
    } t[] = { { "232448", false, 64, 16 }, { "75500", false, 64, 3 }, { "30000", false, 64, 1 },
              { NULL, false, 200, 1 },     { NULL, true, 64, 17 },    { NULL, true, 200, 17 } };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if (t[i].shared && getenv("OC_NATIVE")) continue;
        Made m = make_model(shape(64, 128, 2, 1, t[i].D, 91), T_BF16, 0, 0);
        int n = 17, *token = random_tokens(&m.model.config, n);
        EngineOptions o = { .n_ctx = n, .n_seq = 1, .n_batch = n, .exact = t[i].exact };
        if (t[i].shared) setenv("OC_EMU_SHARED", t[i].shared, 1);
        Engine *e = cuda_engine.open(&m.model, &o);
        int rows = cuda_engine.equal_rows(e);
        cuda_engine.close(e);
        check_int(__FILE__, __LINE__, "rows that are equal", rows, t[i].rows);
        o.n_ctx = 0;
        float *want = logits_of(&cuda_engine, &m.model, token, n, 1, o);
        float *got = logits_of(&cuda_engine, &m.model, token, n, rows, o);
        check_same("so many at a time", got, want, (size_t)(n * 91) * sizeof *got);
        unsetenv("OC_EMU_SHARED");
        free(token);
        free(got);
        free(want);
        free_model(&m);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 4. The order in which blocks, warps and lanes run, and the number of multiprocessors: no bit
 * depends on the first, none of a token on the second but where sums are split otherwise */

static void test_order(void) {
    Made m = make_model(shape(96, 160, 4, 1, 32, 61), T_Q8_0, 0, 0);
    size_t bytes = 70 * (size_t)m.model.config.vocab_size * sizeof(float);
    int *token = random_tokens(&m.model.config, 70);
    for (int chunk = 14; chunk <= 70; chunk += 56) {
        float *want = logits_of(&cuda_engine, &m.model, token, 70, chunk, (EngineOptions){ 0 });
        for (int order = 0; order < 4; order++) {
            char text[8] = { (char)('0' + order) };
            setenv("OC_EMU_ORDER", text, 1);
            float *got = logits_of(&cuda_engine, &m.model, token, 70, chunk, (EngineOptions){ 0 });
            check(!memcmp(got, want, bytes), "not bit-equal", "order %d, %d at a time", order,
                  chunk);
            free(got);
        }
        unsetenv("OC_EMU_ORDER");
        free(want);
    }
    free(token);
    free_model(&m);
}

int main(void) {
    test_shapes();
    if (getenv("OC_SMALL")) {
        test_batches();
        return test_end();
    }
    test_types();
    test_other_types();
    test_adapter();
    test_batches();
    test_equal_rows();
    test_order();
    return test_end();
}
