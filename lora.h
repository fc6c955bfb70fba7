/* lora.h: adapters (LoRA, arXiv:2106.09685): small changes to a model, each in a file of its own.
 *
 * What to know first: fine-tuning moves a weight matrix W (out, in) by a matrix of low rank, the
 * product of two thin ones, which are all that is trained and stored:
 *
 *     W x + scale B (A x)      A (rank, in), B (out, rank), scale = X alpha / rank
 *
 * X is what --lora-scale says. The file is llama.cpp's: GGUF with general.type "adapter", the key
 * adapter.lora.alpha, and for each matrix that is changed A as NAME.lora_a and B as NAME.lora_b.
 * The rows of a B for attn_q and attn_k are in GGUF's order, as those of W are. Any subset of the
 * linear layers may be there. No math in here: run.c applies an adapter beside the products,
 * convert --lora (export/stream.c) merges it into the weights.
 * Compiles as C11 and as C++17. Test: tests/test_lora.py. */
#ifndef OC_LORA_H
#define OC_LORA_H

#include "opencoder.h" /* Config, TensorSpec, Gguf, Tensor */

typedef struct {
    Str name;      /* of the weight; comes first, for name_index */
    Tensor a, b;   /* A (rank, in), B (out, rank) */
    float scale;   /* of their product */
    int rank;      /* each pair may have its own */
    bool permuted; /* as in TensorSpec */
} LoraPair;

struct Lora {
    const char *path;
    Map map;
    Gguf gguf;
    LoraPair *pair; /* n, in the order of the file */
    int n;
    const Str **index;      /* the same, sorted by the weight's name */
    float alpha, factor;    /* factor: X above */
    int max_rank, max_rows; /* the largest rank, and the largest number of rows of a B */
};

/* The pair for the weight of that name. NULL: there is none, no adapter, or its factor is 0. */
OC_API const LoraPair *lora_find(const Lora *l, Str name) {
    if (!l || l->factor == 0) return NULL;
    return (const LoraPair *)name_find(l->index, (uint64_t)l->n, name);
}

OC_API void lora_free(Lora *l) {
    free(l->pair);
    free((void *)l->index);
    gguf_free(&l->gguf);
    unmap_file(&l->map);
    memset(l, 0, sizeof *l);
}

/* The weight's name in front of .lora_a or .lora_b, empty when t's name ends in neither. */
OC_API Str lora_weight(const Tensor *t, const char *suffix) {
    Str name = { t->name.s, 0 };
    if (t->name.n > 7 && !memcmp(t->name.s + t->name.n - 7, suffix, 7)) name.n = t->name.n - 7;
    return name;
}

OC_API bool lora_key(const Gguf *g, const char *key, const char *want, Error *e) {
    Str found = str_of("(missing)");
    if (!gguf_str(g, key, &found, e)) return false;
    if (str_is(found, want)) return true;
    return fail(e, "key %s: %.*s, expected %s, as a LoRA adapter has it", key, STR(found), want);
}

OC_API bool lora_shape(const Tensor *t, int rows, int cols, const char *why, Error *e) {
    if (t->rows == rows && t->cols == cols) return true;
    return fail(e, "tensor %.*s: shape %d x %d, expected %d x %d, %s", STR(t->name), t->rows,
                t->cols, rows, cols, why);
}

/* Fills the pair that begins with the tensor a, NAME.lora_a. */
OC_API bool lora_bind_pair(LoraPair *p, const Gguf *g, const Tensor *a, const TensorSpec *specs,
                           int n_specs, Error *e) {
    char name[80];
    int i = 0;
    p->name = lora_weight(a, ".lora_a");
    snprintf(name, sizeof name, "%.*s.lora_b", STR(p->name));
    const Tensor *b = gguf_tensor(g, name);
    while (i < n_specs && !str_is(p->name, specs[i].name)) i++;
    if (i == n_specs || strstr(specs[i].name, "norm.") || strstr(specs[i].name, "token_embd."))
        return fail(e, "tensor %.*s: %s, expected a pair for a linear layer of the model",
                    STR(a->name),
                    i == n_specs ? "the model has no such weight"
                                 : "adapters of norms and of the embedding are not supported");
    if (!b) return fail(e, "tensor %.*s: without %s, expected both", STR(a->name), name);
    if (!lora_shape(a, a->rows, specs[i].cols, "rank x columns of the model's weight", e) ||
        !lora_shape(b, specs[i].rows, a->rows, "rows of the model's weight x rank of lora_a", e))
        return false;
    p->a = *a;
    p->b = *b;
    p->rank = a->rows;
    p->permuted = specs[i].permuted;
    return true;
}

/* Finds the pairs in g and checks that they fit a model of the shape c. l, zeroed before, refers to
 * g from then on. A training checkpoint's optimizer state may stand beside the pairs. */
OC_API bool lora_bind(Lora *l, const Gguf *g, const Config *c, double factor, Error *e) {
    int n_specs;
    if (!lora_key(g, "general.type", "adapter", e) || !lora_key(g, "adapter.type", "lora", e) ||
        !lora_key(g, "general.architecture", "llama", e) ||
        !gguf_float(g, "adapter.lora.alpha", true, &l->alpha, e))
        return false;
    if (gguf_key(g, "adapter.alora.invocation_tokens"))
        return fail(e, "key adapter.alora.invocation_tokens: an adapter that some tokens switch "
                       "on is not supported, expected one for all tokens");
    l->factor = (float)factor;
    l->pair = (LoraPair *)xcalloc(g->n_tensors, sizeof *l->pair, "adapter");
    TensorSpec *specs = tensor_specs(c, &n_specs);
    bool ok = true;
    for (uint64_t i = 0; ok && i < g->n_tensors; i++) {
        const Tensor *t = &g->tensor[i];
        LoraPair *p = &l->pair[l->n];
        char partner[80];
        snprintf(partner, sizeof partner, "%.*s.lora_a", STR(lora_weight(t, ".lora_b")));
        if (is_optimizer(t->name)) continue;
        if (lora_weight(t, ".lora_b").n) {
            if (!gguf_tensor(g, partner))
                ok = fail(e, "tensor %.*s: without %s, expected both", STR(t->name), partner);
        } else if (!lora_weight(t, ".lora_a").n) {
            ok = fail(e, "tensor %.*s: not part of an adapter, expected NAME.lora_a or NAME.lora_b",
                      STR(t->name));
        } else if ((ok = lora_bind_pair(p, g, t, specs, n_specs, e))) {
            p->scale = (float)(factor * (double)l->alpha / p->rank);
            if (p->rank > l->max_rank) l->max_rank = p->rank;
            if (p->b.rows > l->max_rows) l->max_rows = p->b.rows;
            l->n++;
        }
    }
    free(specs);
    if (ok && !l->n) ok = fail(e, "no tensors, expected pairs of .lora_a and .lora_b");
    return ok && name_index(&l->index, l->pair, (uint64_t)l->n, sizeof *l->pair, "pair", e);
}

/* Maps and reads an adapter for a model of the shape c; one that does not fit ends the program. */
OC_API void lora_open(Lora *l, const char *path, const Config *c, double factor) {
    Error e;
    memset(l, 0, sizeof *l);
    l->path = path;
    bool ok = map_file(&l->map, path, &e) && gguf_parse(&l->gguf, l->map.data, l->map.size, &e) &&
              gguf_check_header(&l->gguf, &e) && lora_bind(l, &l->gguf, c, factor, &e);
    for (uint64_t i = 0; ok && i < l->gguf.n_tensors; i++) ok = gguf_check_tensor(&l->gguf, i, &e);
    if (!ok) die("%s: %s", path, e.text);
}

#endif
