/* train_stub.c: a throw-away stand-in for the trainer of train.c: next token from this token alone,
 * logits = head . embedding[token], trained exactly with AdamW. Not for merging. */
#include "opencoder.h"
#include "loader.h"
#include <time.h>

typedef struct {
    char name[64];
    int rows, cols;
    float *w, *g, *m, *v;
} Param;

struct Trainer {
    TrainOptions o;
    Config c;
    Model model;
    float *arena;
    TensorSpec *specs;
    int n_specs, n_params;
    Param p[3];
    float *grads;
    size_t n_grads;
};

double matmul_peak(bool bf16);
double matmul_peak(bool bf16) { return bf16 ? 0 : 50; }

static void load(const Gguf *g, const char *prefix, const char *name, float *out, size_t n) {
    char full[96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const Tensor *t = gguf_tensor(g, full);
    if (!t) return;
    if ((size_t)t->rows * (size_t)t->cols != n) die("%s: shape", full);
    for (int r = 0; r < t->rows; r++)
        dequantize(out + (size_t)r * (size_t)t->cols,
                   t->data + (size_t)r * row_bytes(t->type, (size_t)t->cols), t->type, 0,
                   (size_t)t->cols);
}

static void add_param(Trainer *t, const char *name, int rows, int cols, float *w) {
    Param *p = &t->p[t->n_params++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->rows = rows, p->cols = cols, p->w = w;
    t->n_grads += (size_t)rows * (size_t)cols;
}

static Trainer *stub_open(const Model *init, const Gguf *adapter, const TrainOptions *o) {
    Trainer *t = xcalloc(1, sizeof *t, "trainer");
    Error e;
    size_t total = 0, at = 0;
    t->o = *o;
    t->c = init->config;
    t->model.config = t->c;
    t->specs = tensor_specs(&t->c, &t->n_specs);
    for (int i = 0; i < t->n_specs; i++)
        total += (size_t)t->specs[i].rows * (size_t)t->specs[i].cols;
    t->arena = xcalloc(total, 4, "weights");
    Gguf *g = &t->model.gguf;
    g->n_tensors = (uint64_t)t->n_specs;
    g->tensor = xcalloc((size_t)t->n_specs, sizeof(Tensor), "tensors");
    for (int i = 0; i < t->n_specs; i++) {
        const TensorSpec *s = &t->specs[i];
        size_t n = (size_t)s->rows * (size_t)s->cols;
        load(&init->gguf, "", s->name, t->arena + at, n);
        g->tensor[i] =
            (Tensor){ str_of(s->name), T_F32, s->rows, s->cols, (uint8_t *)(t->arena + at) };
        if (!o->lora_rank &&
            (!strcmp(s->name, "token_embd.weight") || !strcmp(s->name, "output.weight")))
            add_param(t, s->name, s->rows, s->cols, t->arena + at);
        at += n;
    }
    if (!name_index(&g->tensor_index, g->tensor, g->n_tensors, sizeof(Tensor), "tensor", &e) ||
        !weights_bind(&t->model.weights, g, &t->c, &e))
        die("%s", e.text);
    if (o->lora_rank) {
        size_t a = (size_t)o->lora_rank * (size_t)t->c.dim;
        size_t b = (size_t)o->lora_rank * (size_t)t->c.vocab_size;
        float *A = xcalloc(a, 4, "a"), *B = xcalloc(b, 4, "b");
        for (size_t i = 0; i < a; i++)
            A[i] = (float)((double)(mix_key(o->seed, 7, i) >> 40) / 1e7 - 0.8) * 0.05f;
        add_param(t, "output.weight.lora_a", o->lora_rank, t->c.dim, A);
        add_param(t, "output.weight.lora_b", t->c.vocab_size, o->lora_rank, B);
    }
    t->grads = xcalloc(t->n_grads, 4, "gradients");
    at = 0;
    const Gguf *from = adapter ? adapter : &init->gguf;
    for (int i = 0; i < t->n_params; i++) {
        Param *p = &t->p[i];
        size_t n = (size_t)p->rows * (size_t)p->cols;
        p->g = t->grads + at;
        p->m = xcalloc(n, 4, "m");
        p->v = xcalloc(n, 4, "v");
        if (adapter) load(from, "", p->name, p->w, n);
        if (adapter || !o->lora_rank) {
            load(from, "opt.m.", p->name, p->m, n);
            load(from, "opt.v.", p->name, p->v, n);
        }
        at += n;
    }
    return t;
}

/* Loss of one pair; with dl, leaves dlogits there. */
static double pair(Trainer *t, int id, int target, float *l) {
    const Config *c = &t->c;
    const float *e = (const float *)t->model.weights.tok_emb->data + (size_t)id * (size_t)c->dim;
    const float *out =
        (const float *)(c->tied ? t->model.weights.tok_emb : t->model.weights.out)->data;
    float ae[64] = { 0 }, s = t->o.lora_rank ? t->o.lora_alpha / (float)t->o.lora_rank : 0;
    for (int r = 0; r < t->o.lora_rank; r++)
        for (int i = 0; i < c->dim; i++) ae[r] += t->p[0].w[r * c->dim + i] * e[i];
    double sum = 0;
    float max = -INFINITY;
    for (int v = 0; v < c->vocab_size; v++) {
        float d = 0;
        for (int i = 0; i < c->dim; i++) d += out[(size_t)v * (size_t)c->dim + (size_t)i] * e[i];
        for (int r = 0; r < t->o.lora_rank; r++) d += s * ae[r] * t->p[1].w[v * t->o.lora_rank + r];
        l[v] = d;
        max = fmaxf(max, d);
    }
    for (int v = 0; v < c->vocab_size; v++) sum += exp((double)(l[v] - max));
    double loss = (double)max + log(sum) - (double)l[target];
    for (int v = 0; v < c->vocab_size; v++)
        l[v] = (float)(exp((double)(l[v] - max)) / sum) - (v == target);
    return loss;
}

static double run(Trainer *t, const uint32_t *tokens, int B, int T, float scale, bool grad) {
    const Config *c = &t->c;
    float *l = xcalloc((size_t)c->vocab_size, 4, "logits"), *de = xcalloc((size_t)c->dim, 4, "de");
    double loss = 0;
    for (int b = 0; b < B; b++)
        for (int i = 0; i < T; i++) {
            const uint32_t *at = tokens + (size_t)b * ((size_t)T + 1) + (size_t)i;
            if (at[1] & NO_LOSS) continue;
            int id = TOKEN_ID(at[0]), target = TOKEN_ID(at[1]);
            loss += pair(t, id, target, l);
            if (!grad) continue;
            const float *e =
                (const float *)t->model.weights.tok_emb->data + (size_t)id * (size_t)c->dim;
            if (t->o.lora_rank) {
                int R = t->o.lora_rank;
                float s = t->o.lora_alpha / (float)R * scale;
                for (int r = 0; r < R; r++) {
                    float ae = 0, bl = 0;
                    for (int k = 0; k < c->dim; k++) ae += t->p[0].w[r * c->dim + k] * e[k];
                    for (int v = 0; v < c->vocab_size; v++) {
                        bl += t->p[1].w[v * R + r] * l[v];
                        t->p[1].g[v * R + r] += s * l[v] * ae;
                    }
                    for (int k = 0; k < c->dim; k++) t->p[0].g[r * c->dim + k] += s * bl * e[k];
                }
                continue;
            }
            Param *emb = &t->p[0], *out = &t->p[c->tied ? 0 : 1];
            memset(de, 0, (size_t)c->dim * 4);
            for (int v = 0; v < c->vocab_size; v++)
                for (int k = 0; k < c->dim; k++) {
                    de[k] += l[v] * out->w[v * c->dim + k] * scale;
                    out->g[v * c->dim + k] += l[v] * e[k] * scale;
                }
            for (int k = 0; k < c->dim; k++) emb->g[id * c->dim + k] += de[k];
        }
    free(l);
    free(de);
    return loss;
}

static double stub_step(Trainer *t, const uint32_t *tokens, int B, int T, float scale) {
    static int calls;
    const char *nan_at = getenv("STUB_NAN"), *slow = getenv("STUB_SLOW");
    calls++;
    if (slow) nanosleep(&(struct timespec){ 0, atoi(slow) * 1000000 }, NULL);
    double loss = run(t, tokens, B, T, scale, true) * (double)scale;
    if (nan_at && calls == atoi(nan_at)) t->grads[0] = NAN, loss = NAN;
    return loss;
}
static double stub_loss(Trainer *t, const uint32_t *tokens, int B, int T) {
    return run(t, tokens, B, T, 1, false);
}
static double stub_norm(Trainer *t, char bad[64]) {
    double sum = 0;
    for (int i = 0; i < t->n_params; i++)
        for (size_t k = 0; k < (size_t)t->p[i].rows * (size_t)t->p[i].cols; k++) {
            if (!isfinite(t->p[i].g[k]) && !bad[0]) snprintf(bad, 64, "%s", t->p[i].name);
            sum += (double)t->p[i].g[k] * (double)t->p[i].g[k];
        }
    return sqrt(sum);
}
static void stub_zero(Trainer *t) { memset(t->grads, 0, t->n_grads * 4); }
static void stub_update(Trainer *t, int64_t step, float lr, float factor) {
    float c1 = 1 - powf(t->o.beta1, (float)step), c2 = 1 - powf(t->o.beta2, (float)step);
    for (int i = 0; i < t->n_params; i++)
        for (size_t k = 0; k < (size_t)t->p[i].rows * (size_t)t->p[i].cols; k++) {
            Param *p = &t->p[i];
            float g = p->g[k] * factor;
            p->m[k] = t->o.beta1 * p->m[k] + (1 - t->o.beta1) * g;
            p->v[k] = t->o.beta2 * p->v[k] + (1 - t->o.beta2) * g * g;
            p->w[k] -= lr * (p->m[k] / c1 / (sqrtf(p->v[k] / c2) + t->o.eps) +
                             t->o.weight_decay * p->w[k]);
        }
    stub_zero(t);
}
static float *stub_gradients(Trainer *t, size_t *n) { return *n = t->n_grads, t->grads; }
static const Model *stub_model(Trainer *t) { return &t->model; }
static void stub_save(Trainer *t, GgufWriter *w, const char *path, bool optimizer) {
    bool lora = t->o.lora_rank > 0;
    for (int i = 0; !lora && i < t->n_specs; i++)
        gguf_add(w, t->specs[i].name, T_F32, t->specs[i].rows, t->specs[i].cols);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < t->n_params; i++) {
            char name[96];
            snprintf(name, sizeof name, "%s%s",
                     k == 1   ? "opt.m."
                     : k == 2 ? "opt.v."
                              : "",
                     t->p[i].name);
            if (k ? optimizer : lora) gguf_add(w, name, T_F32, t->p[i].rows, t->p[i].cols);
        }
    gguf_begin(w, path);
    for (int i = 0; !lora && i < t->n_specs; i++)
        gguf_write(w, gguf_tensor(&t->model.gguf, t->specs[i].name)->data,
                   (size_t)t->specs[i].rows * (size_t)t->specs[i].cols * 4);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < t->n_params; i++) {
            Param *p = &t->p[i];
            const float *x = k == 1 ? p->m : k == 2 ? p->v : p->w;
            if (k ? optimizer : lora) gguf_write(w, x, (size_t)p->rows * (size_t)p->cols * 4);
        }
    gguf_end(w);
}
static void stub_close(Trainer *t) {
    for (int i = 0; i < t->n_params; i++) {
        free(t->p[i].m);
        free(t->p[i].v);
        if (t->o.lora_rank) free(t->p[i].w);
    }
    model_close(&t->model);
    free(t->arena);
    free(t->specs);
    free(t->grads);
    free(t);
}

const TrainerBackend cpu_trainer = { stub_open, stub_step,      stub_loss,  stub_norm, stub_update,
                                     stub_zero, stub_gradients, stub_model, stub_save, stub_close };
