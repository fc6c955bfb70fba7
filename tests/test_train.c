/* test_train.c: the trainer of train.c against PyTorch and against itself.
 *
 *     test_train MODEL REFERENCE     loss, every gradient, AdamW updates as recorded; the same
 *                                    bits whatever the threads, the memory and the interruptions
 *
 * tests/test_train.py makes the models from tests/data and starts this, full_layer_train.py too;
 * tests/make_train_fixtures.py says what a reference holds. */
#include "../lora.h"   /* Model, cpu_trainer, matmul_choose; Lora */
#include "../shards.h" /* NO_LOSS */
#include "test.h"

#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) (void)(n)
#endif

/* Each at most 10 times what was seen. A tensor's error is in units of its largest number. */
#define GRADIENT_TOLERANCE 3e-5
#define LOSS_TOLERANCE     1e-6
#define NORM_TOLERANCE     1e-5
#define WEIGHT_TOLERANCE   5e-6
#define ROUNDING           5e-6

typedef struct {
    Map map;
    Gguf gguf, adapter; /* adapter: init.* under their own names, empty without LoRA */
    int B, T, n_batches, n_updates;
    uint32_t *tokens; /* (n_batches, B, T + 1) */
    float *scale;     /* (n_batches) */
    double *losses, *norms;
    float loss, lr, clip;
    TrainOptions opt;
} Reference;

/* A copy of an array key, *n items; NULL where it is absent. */
static void *read_array(const Gguf *g, const char *name, uint32_t item, int *n) {
    Error e;
    const GgufKey *k;
    if (!gguf_array(g, name, item, 0, &k, &e)) die("%s", e.text);
    *n = k ? (int)k->count : 0;
    if (!k) return NULL;
    void *copy = xcalloc(k->count, gv_size[item], name);
    memcpy(copy, k->data, k->count * gv_size[item]);
    return copy;
}

/* The tensors init.NAME as a file in which they are called NAME. */
static void read_adapter(Reference *r) {
    Error e;
    Gguf *to = &r->adapter;
    to->tensor = xcalloc(r->gguf.n_tensors, sizeof *to->tensor, "adapter");
    for (uint64_t i = 0; i < r->gguf.n_tensors; i++) {
        Tensor t = r->gguf.tensor[i];
        if (t.name.n < 5 || memcmp(t.name.s, "init.", 5)) continue;
        t.name.s += 5;
        t.name.n -= 5;
        to->tensor[to->n_tensors++] = t;
    }
    if (!name_index(&to->tensor_index, to->tensor, to->n_tensors, sizeof *to->tensor, "tensor", &e))
        die("%s", e.text);
}

static void reference_open(Reference *r, const char *path) {
    Error e;
    int n_tokens, n_norms;
    const Gguf *g = &r->gguf;
    memset(r, 0, sizeof *r);
    if (!map_file(&r->map, path, &e) || !gguf_parse(&r->gguf, r->map.data, r->map.size, &e) ||
        !gguf_int(g, "B", true, 1, 1 << 20, &r->B, &e) ||
        !gguf_int(g, "T", true, 1, 1 << 20, &r->T, &e) ||
        !gguf_float(g, "loss", true, &r->loss, &e) || !gguf_float(g, "lr", false, &r->lr, &e) ||
        !gguf_float(g, "beta1", false, &r->opt.beta1, &e) ||
        !gguf_float(g, "beta2", false, &r->opt.beta2, &e) ||
        !gguf_float(g, "eps", false, &r->opt.eps, &e) ||
        !gguf_float(g, "weight_decay", false, &r->opt.weight_decay, &e) ||
        !gguf_float(g, "clip", false, &r->clip, &e) ||
        !gguf_int(g, "lora_rank", false, 1, 64, &r->opt.lora_rank, &e) ||
        !gguf_float(g, "lora_alpha", false, &r->opt.lora_alpha, &e))
        die("%s: %s", path, e.text);
    r->opt.batch = r->B;
    r->opt.seq_len = r->T;
    r->tokens = read_array(g, "tokens", GV_U32, &n_tokens);
    r->scale = read_array(g, "scale", GV_F32, &r->n_batches);
    r->losses = read_array(g, "losses64", GV_F64, &r->n_updates);
    r->norms = read_array(g, "norms64", GV_F64, &n_norms);
    if (!r->n_batches || n_tokens != r->n_batches * r->B * (r->T + 1) ||
        r->n_updates > r->n_batches || n_norms != r->n_updates)
        die("%s: %d tokens, %d batches, %d updates", path, n_tokens, r->n_batches, r->n_updates);
    read_adapter(r);
}

static void reference_close(Reference *r) {
    free(r->tokens);
    free(r->scale);
    free(r->losses);
    free(r->norms);
    gguf_free(&r->adapter);
    gguf_free(&r->gguf);
    unmap_file(&r->map);
}

static const uint32_t *batch_of(const Reference *r, int number) {
    return r->tokens + (size_t)number * (size_t)r->B * (size_t)(r->T + 1);
}

static Trainer *open_trainer(const Model *m, const Reference *r, const TrainOptions *o) {
    return cpu_trainer.open(m, o->lora_rank ? &r->adapter : NULL, o);
}

static double step(Trainer *t, const Reference *r, int number) {
    return cpu_trainer.step(t, batch_of(r, number), r->B, r->T, r->scale[number]);
}

/* ------------------------------------------------------------------------------------------------
 * 1. What is trained, and loss and gradients of batch 0 in a trainer of their own */

typedef struct {
    char name[80];
    int rows, cols;
    size_t at; /* its first number among all gradients */
} Part;

/* Tensors in file order, or with LoRA A and B of every matrix of a layer. Returns how many. */
static int list_parts(Part **out, const Config *c, int rank) {
    int n_specs, n = 0;
    size_t at = 0;
    TensorSpec *spec = tensor_specs(c, &n_specs);
    Part *part = *out = xcalloc((size_t)n_specs * 2, sizeof *part, "parts");
    for (int i = 0; i < n_specs; i++)
        for (int half = 0; half < (rank ? 2 : 1); half++) {
            const TensorSpec *s = &spec[i];
            if (rank && (s->rows == 1 || strncmp(s->name, "blk.", 4))) continue;
            Part *p = &part[n++];
            snprintf(p->name, sizeof p->name, "%s%s", s->name,
                     !rank  ? ""
                     : half ? ".lora_b"
                            : ".lora_a");
            p->rows = rank && !half ? rank : s->rows;
            p->cols = rank && half ? rank : s->cols;
            p->at = at;
            at += (size_t)p->rows * (size_t)p->cols;
        }
    free(spec);
    return n;
}

typedef struct {
    double loss;
    float *grad; /* n */
    size_t n;
} Result;

static Result take_result(Trainer *t, double loss) {
    Result result = { .loss = loss };
    const float *grad = cpu_trainer.gradients(t, &result.n);
    result.grad = xcalloc(result.n, sizeof *grad, "gradients");
    memcpy(result.grad, grad, result.n * sizeof *grad);
    return result;
}

static Result first_step(const Model *m, const Reference *r, const TrainOptions *o) {
    Trainer *t = open_trainer(m, r, o);
    Result result = take_result(t, step(t, r, 0));
    cpu_trainer.close(t);
    return result;
}

/* The gradients of wq and wk are 0 but for rounding where every token sees itself alone: what
 * counts as large at least is then the largest of all gradients. */
static double least(const Reference *r, const Part *p, const Result *all) {
    float largest = 0; /* of double, gcc 12 for ARM fails to make vector code (-O3) */
    if (r->T > 1 || !(strstr(p->name, "attn_q") || strstr(p->name, "attn_k"))) return 0;
    for (size_t i = 0; i < all->n; i++) largest = fmaxf(largest, fabsf(all->grad[i]));
    return (double)largest;
}

static void check_bits(const char *name, Result got, const Result *want) {
    char why[96];
    size_t i = 0;
    while (i < want->n && !memcmp(&got.grad[i], &want->grad[i], sizeof *got.grad)) i++;
    snprintf(why, sizeof why, "loss %.17g and %.17g, gradients differ from %zu of %zu on", got.loss,
             want->loss, i, want->n);
    check(got.n == want->n && i == want->n && !memcmp(&got.loss, &want->loss, sizeof got.loss), why,
          "%s: the same loss and gradients", name);
    free(got.grad);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Against PyTorch */

typedef struct {
    double error; /* the largest |got - want| / max |want| of any tensor, and whose it is */
    char name[96];
    int n; /* tensors compared */
} Worst;

/* `large`: see least(). */
static void compare(Worst *w, const Tensor *want, const float *got, double large) {
    const float *x = (const float *)(const void *)want->data;
    double scale = large, most = 0;
    for (size_t i = 0; i < (size_t)want->rows * (size_t)want->cols; i++) {
        double apart = fabs((double)got[i] - (double)x[i]);
        if (!(apart <= most)) most = apart; /* NaN too */
        scale = fmax(scale, fabs((double)x[i]));
    }
    w->n++;
    if (w->n > 1 && most / scale <= w->error) return;
    w->error = most / scale;
    snprintf(w->name, sizeof w->name, "%.*s", STR(want->name));
}

static const Tensor *recorded(const Reference *r, const char *what, const char *name,
                              const char *suffix) {
    char full[128];
    snprintf(full, sizeof full, "%s%s%s", what, name, suffix);
    const Tensor *t = gguf_tensor(&r->gguf, full);
    if (t && t->type != T_F32) die("%s: %s, expected f32", full, type_name(t->type));
    return t;
}

/* The rows of x (rows, cols) that a reference keeps: row j is row j R / r. */
static float *sampled(const float *x, int rows, int cols, const Tensor *want) {
    if (want->cols != cols || want->rows > rows)
        die("%.*s: %d x %d, expected at most %d x %d", STR(want->name), want->rows, want->cols,
            rows, cols);
    float *out = xcalloc((size_t)want->rows * (size_t)cols, sizeof *out, "rows");
    for (size_t j = 0; j < (size_t)want->rows; j++)
        memcpy(out + j * (size_t)cols, x + j * (size_t)rows / (size_t)want->rows * (size_t)cols,
               (size_t)cols * sizeof *x);
    return out;
}

/* Sums of the gradient times probe, over each row or over each column. */
static float *probed(const float *x, const Part *p, const float *probe, bool rows) {
    size_t R = (size_t)p->rows, C = (size_t)p->cols, n = rows ? R : C;
    float *out = xcalloc(n, sizeof *out, "sums");
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t k = 0; k < (rows ? C : R); k++)
            sum += (double)probe[k] * (double)(rows ? x[i * C + k] : x[k * C + i]);
        out[i] = (float)sum;
    }
    return out;
}

static void compare_part(Worst *w, const Reference *r, const Part *p, const float *x,
                         double large) {
    const Tensor *want = recorded(r, "grad.", p->name, ""), *probe = recorded(r, "probe", "", "");
    if (!want || !probe) die("grad.%s: missing from the reference", p->name);
    float *rows = sampled(x, p->rows, p->cols, want);
    compare(w, want, rows, large);
    free(rows);
    for (int i = 0; i < 2 && want->rows < p->rows; i++) {
        const Tensor *sums = recorded(r, "grad.", p->name, i ? ".rowsum" : ".colsum");
        if (!sums || sums->cols != (i ? p->rows : p->cols))
            die("grad.%s: sums are missing from the reference", p->name);
        float *got = probed(x, p, (const float *)(const void *)probe->data, i);
        compare(w, sums, got, large);
        free(got);
    }
}

static void check_worst(const Worst *w, const char *level, const char *what, double tol) {
    char why[128];
    snprintf(why, sizeof why, "%s is too far away", w->name);
    check(w->n > 0 && w->error <= tol, why, "%s: %d %s (error %.1e at %s, at most %.0e)", level,
          w->n, what, w->error, w->name, tol);
}

static void check_number(const char *name, double got, double want, double tol) {
    char why[96];
    snprintf(why, sizeof why, "got %.9g, expected %.9g", got, want);
    double error = fabs(got - want) / fabs(want);
    check(error <= tol, why, "%s (error %.1e, at most %.0e)", name, error, tol);
}

static void test_gradients(const Model *m, const Reference *r, const char *level) {
    Part *part;
    int n = list_parts(&part, &m->config, r->opt.lora_rank);
    Result got = first_step(m, r, &r->opt);
    Worst worst = { .n = 0 };
    char name[64];
    size_t count = part[n - 1].at + (size_t)part[n - 1].rows * (size_t)part[n - 1].cols;
    if (got.n != count) die("%zu gradients, expected %zu", got.n, count);
    for (int i = 0; i < n; i++)
        compare_part(&worst, r, &part[i], got.grad + part[i].at, least(r, &part[i], &got));
    snprintf(name, sizeof name, "%s: loss", level);
    check_number(name, got.loss, (double)r->loss, 1e-6);
    check_worst(&worst, level, "gradients", GRADIENT_TOLERANCE);
    free(got.grad);
    free(part);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Files */

static void save(Trainer *t, const Model *m, const Reference *r, const char *path, bool optimizer) {
    GgufWriter w;
    memset(&w, 0, sizeof w);
    if (r->opt.lora_rank) {
        gguf_put_str(&w, "general.type", str_of("adapter"));
        gguf_put_str(&w, "adapter.type", str_of("lora"));
        gguf_put_str(&w, "general.architecture", str_of("llama"));
        gguf_put_f32(&w, "adapter.lora.alpha", r->opt.lora_alpha);
    } else {
        config_to_gguf(&w, &m->config);
        vocab_to_gguf(&w, &m->vocab);
    }
    cpu_trainer.save(t, &w, path, optimizer);
}

/* A trainer that starts from the file `path`; m takes the file where that is a model. */
static Trainer *reopen(Model *m, Lora *l, const Model *base, const Reference *r, const char *path,
                       const TrainOptions *o) {
    memset(m, 0, sizeof *m);
    memset(l, 0, sizeof *l);
    if (r->opt.lora_rank)
        lora_open(l, path, &base->config, 1);
    else
        model_open(m, path, true);
    return cpu_trainer.open(r->opt.lora_rank ? base : m, r->opt.lora_rank ? &l->gguf : NULL, o);
}

static void check_files(const char *name, const char *a, const char *b, bool same) {
    Error e;
    Map x, y;
    if (!map_file(&x, a, &e) || !map_file(&y, b, &e)) die("%s", e.text);
    bool equal = x.size == y.size && !memcmp(x.data, y.data, x.size);
    check(equal == same, same ? "the files differ" : "the files are equal", "%s", name);
    unmap_file(&x);
    unmap_file(&y);
}

static char path_a[64], path_b[64]; /* of this process alone */

/* Update number `number` on the batch before it. */
static void update(Trainer *t, const Reference *r, int number) {
    char bad[64];
    step(t, r, number - 1);
    double norm = cpu_trainer.grad_norm(t, bad);
    float factor = (float)fmin(1, (double)r->clip / (norm + 1e-6));
    cpu_trainer.update(t, number, r->lr, factor);
}

/* As recorded: the loss and the norm of every update, and the weights after the last. */
static void test_updates(const Model *m, const Reference *r) {
    Trainer *t = open_trainer(m, r, &r->opt);
    double loss = 0, norm = 0;
    char bad[64];
    for (int i = 0; i < r->n_updates; i++) {
        double got = step(t, r, i), length = cpu_trainer.grad_norm(t, bad);
        loss = fmax(loss, fabs(got / r->losses[i] - 1));
        norm = fmax(norm, fabs(length / r->norms[i] - 1));
        cpu_trainer.update(t, i + 1, r->lr, (float)fmin(1, (double)r->clip / (length + 1e-6)));
        if (!isfinite(got) || !isfinite(length)) loss = norm = INFINITY; /* fmax drops a NaN */
    }
    check(loss <= LOSS_TOLERANCE, "too far away", "losses of %d updates (error %.1e, at most %.0e)",
          r->n_updates, loss, LOSS_TOLERANCE);
    check(norm <= NORM_TOLERANCE, "too far away", "norms of %d updates (error %.1e, at most %.0e)",
          r->n_updates, norm, NORM_TOLERANCE);
    save(t, m, r, path_a, false);
    cpu_trainer.close(t);

    Part *part;
    Model after;
    Lora lora;
    TrainOptions o = r->opt;
    int n = list_parts(&part, &m->config, r->opt.lora_rank);
    Trainer *again = reopen(&after, &lora, m, r, path_a, &o);
    const Gguf *g = r->opt.lora_rank ? &lora.gguf : &after.gguf;
    Worst worst = { .n = 0 };
    CHECK_INT(g->n_tensors, n);
    for (int i = 0; i < n; i++) {
        const Tensor *want = recorded(r, "after.", part[i].name, "");
        const Tensor *got = gguf_tensor(g, part[i].name);
        if (!got) die("%s: not saved", part[i].name);
        if (!want) continue;
        const float *values = (const float *)(const void *)got->data;
        float *rows = sampled(values, part[i].rows, part[i].cols, want);
        compare(&worst, want, rows, 0);
        free(rows);
    }
    if (worst.n) check_worst(&worst, "updates", "weights after them", WEIGHT_TOLERANCE);
    free(part);
    cpu_trainer.close(again);
    lora_free(&lora);
    model_close(&after);
}

/* Three updates, saved and opened again: the same file once more, and the same next update. */
static void test_save(const Model *m, const Reference *r) {
    Model model;
    Lora lora;
    Trainer *t = open_trainer(m, r, &r->opt);
    for (int i = 1; i <= 3; i++) update(t, r, i);
    save(t, m, r, path_a, true);
    Trainer *again = reopen(&model, &lora, m, r, path_a, &r->opt);
    save(again, m, r, path_b, true);
    check_files("saved, opened, saved: the same file", path_a, path_b, true);
    Result want = take_result(t, step(t, r, 3));
    check_bits("step 4 after a restart", take_result(again, step(again, r, 3)), &want);
    cpu_trainer.update(t, 4, r->lr, 1);
    cpu_trainer.update(again, 4, r->lr, 1);
    save(t, m, r, path_a, true);
    save(again, m, r, path_b, true);
    check_files("update 4 after a restart: the same weights and moments", path_a, path_b, true);
    save(again, m, r, path_b, false);
    check_files("without the optimizer: another file", path_a, path_b, false);
    cpu_trainer.close(t);
    cpu_trainer.close(again);
    lora_free(&lora);
    model_close(&model);
    free(want.grad);
}

/* A new adapter of rank 1: the model as it is, since B is 0; an A that the seed decides. */
static void test_fresh_adapter(const Model *m, const Reference *r) {
    uint32_t n_dims, n = 0, inside = 0;
    TrainOptions o = r->opt, plain = r->opt;
    Lora lora;
    o.lora_rank = 1;
    plain.lora_rank = 0;
    for (int i = 0; i < 3; i++) {
        o.seed = i == 1 ? 7 : 8;
        Trainer *t = cpu_trainer.open(m, NULL, &o);
        if (i == 0) {
            Trainer *base = cpu_trainer.open(m, NULL, &plain);
            check_number("a new adapter changes nothing", step(t, r, 0), step(base, r, 0), 0);
            cpu_trainer.close(base);
        }
        save(t, m, r, i ? path_b : path_a, false);
        if (i == 1) check_files("another seed, another adapter", path_a, path_b, false);
        if (i == 2) check_files("the same seed, the same adapter", path_a, path_b, true);
        cpu_trainer.close(t);
    }
    lora_open(&lora, path_a, &m->config, 1);
    for (uint64_t i = 0; i < lora.gguf.n_tensors; i++) {
        const Tensor *a = &lora.gguf.tensor[i];
        memcpy(&n_dims, a->name.s + a->name.n, 4);
        if (n_dims != 2) die("%.*s: %u dimensions, expected a matrix", STR(a->name), n_dims);
        const float *x = (const float *)(const void *)a->data;
        for (int k = 0; k < a->cols && a->rows == 1; k++, n++)
            inside += x[k] != 0 && x[k] * x[k] * (float)a->cols <= 1.0001f;
    }
    CHECK(n > 0);
    CHECK_INT(inside, n); /* numbers of A within +-1 / sqrt(in) */
    lora_free(&lora);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Against itself */

/* Neither memory, threads nor room for more change a bit. */
static void test_variants(const Model *m, const Reference *r) {
    static const int threads[] = { 1, 3, 2 }; /* 2 stays */
    Result want = first_step(m, r, &r->opt);
    TrainOptions o = r->opt;
    o.recompute = true;
    check_bits("recompute", first_step(m, r, &o), &want);
    o = r->opt;
    o.batch += 1;
    o.seq_len += 3;
    check_bits("room for more", first_step(m, r, &o), &want);
    for (int i = 0; i < 3; i++) {
        char name[32];
        omp_set_num_threads(threads[i]);
        snprintf(name, sizeof name, "%d threads", threads[i]);
        check_bits(name, first_step(m, r, &r->opt), &want);
    }
    free(want.grad);
}

/* The largest |got - want| of each part in units of its largest number, the worst of them. */
static double apart(const Model *m, const Reference *r, const float *got, const Result *want) {
    Part *part;
    double worst = 0;
    int n = list_parts(&part, &m->config, r->opt.lora_rank);
    for (int i = 0; i < n; i++) {
        double most = 0, scale = least(r, &part[i], want);
        size_t end = part[i].at + (size_t)part[i].rows * (size_t)part[i].cols;
        for (size_t k = part[i].at; k < end; k++) {
            double d = fabs((double)got[k] - (double)want->grad[k]);
            if (!(d <= most)) most = d;
            scale = fmax(scale, fabs((double)want->grad[k]));
        }
        if (!(most / scale <= worst)) worst = most / scale;
    }
    free(part);
    return worst;
}

/* Row by row, and twice over: gradients add up. loss() says what step() says, and changes none. */
static void test_batches(const Model *m, const Reference *r) {
    Trainer *t = open_trainer(m, r, &r->opt);
    const uint32_t *batch = batch_of(r, 0);
    Result want = take_result(t, step(t, r, 0));
    double loss = cpu_trainer.loss(t, batch, r->B, r->T) * (double)r->scale[0], sum = 0;
    check_number("loss() and step()", loss, want.loss, 0);
    check_bits("loss() leaves the gradients", take_result(t, loss), &want);
    step(t, r, 0);
    Result twice = take_result(t, 0);
    for (size_t i = 0; i < want.n; i++) twice.grad[i] /= 2;
    double error = apart(m, r, twice.grad, &want);
    check(error <= ROUNDING, "too far away", "two steps (error %.1e, at most %.0e)", error,
          ROUNDING);
    cpu_trainer.zero(t);
    step(t, r, 0);
    check_bits("zero() and step()", take_result(t, want.loss), &want);
    cpu_trainer.zero(t);
    for (int b = 0; b < r->B; b++)
        sum += cpu_trainer.step(t, batch + (size_t)b * (size_t)(r->T + 1), 1, r->T, r->scale[0]);
    check_number("loss row by row", sum, want.loss, 1e-12);
    Result rows = take_result(t, sum);
    error = apart(m, r, rows.grad, &want);
    check(error <= ROUNDING, "too far away", "row by row (error %.1e, at most %.0e)", error,
          ROUNDING);
    free(rows.grad);
    free(twice.grad);
    free(want.grad);
    cpu_trainer.close(t);
}

/* The norm, and the name of the tensor with a number that is none. Both ways to forget. */
static void test_norm(const Model *m, const Reference *r) {
    Part *part;
    size_t count;
    double sum = 0;
    char bad[64];
    int n = list_parts(&part, &m->config, r->opt.lora_rank), blamed = 0, left = 0;
    Trainer *t = open_trainer(m, r, &r->opt);
    float *grad = cpu_trainer.gradients(t, &count);
    step(t, r, 0);
    for (size_t i = 0; i < count; i++) sum += (double)grad[i] * (double)grad[i];
    check_number("norm", cpu_trainer.grad_norm(t, bad), sqrt(sum), 1e-12);
    check(!*bad, bad, "finite gradients: no tensor to blame");
    for (int i = 0; i < n; i++) {
        size_t at = part[i].at + (size_t)part[i].rows * (size_t)part[i].cols - 1;
        float keep = grad[at];
        grad[at] = i % 2 ? NAN : -INFINITY;
        blamed += !isfinite(cpu_trainer.grad_norm(t, bad)) && !strcmp(bad, part[i].name);
        grad[at] = keep;
    }
    CHECK_INT(blamed, n);
    cpu_trainer.update(t, 1, 0, 1);
    for (size_t i = 0; i < count; i++) left += grad[i] != 0;
    step(t, r, 0);
    cpu_trainer.zero(t);
    for (size_t i = 0; i < count; i++) left += grad[i] != 0;
    CHECK_INT(left, 0); /* after an update, and after zero() */
    cpu_trainer.close(t);
    free(part);
}

int main(int argc, char **argv) {
    static const char *const levels[] = { LEVEL_NAMES };
    Model m;
    Reference r;
    if (argc != 3) die_usage("%d arguments, expected MODEL REFERENCE", argc - 1);
    snprintf(path_a, sizeof path_a, "build/scratch/train-%ld.a", (long)getpid());
    snprintf(path_b, sizeof path_b, "build/scratch/train-%ld.b", (long)getpid());
    omp_set_num_threads(2);
    model_open(&m, argv[1], true);
    reference_open(&r, argv[2]);
    if (m.config.vocab_size < 4096) { /* not one of full_layer_train.py, which take minutes */
        for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
            if (matmul_choose(levels[i])) test_gradients(&m, &r, levels[i]);
        matmul_choose(NULL);
        test_variants(&m, &r);
        test_batches(&m, &r);
        test_norm(&m, &r);
    } else {
        test_gradients(&m, &r, matmul_level());
    }
    if (r.n_updates) {
        test_updates(&m, &r);
        test_save(&m, &r);
        if (r.opt.lora_rank) test_fresh_adapter(&m, &r);
        unlink(path_a);
        unlink(path_b);
    }
    reference_close(&r);
    model_close(&m);
    return test_end();
}
