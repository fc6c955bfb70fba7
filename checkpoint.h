/* checkpoint.h: where a training run begins: with new weights, or with a checkpoint of before.
 *
 * What to know first: checkpoints are GGUF files OUT.ckpt-NNNNNN that ./run opens too; beside the
 * weights they hold AdamW's state, opt.m.* and opt.v.*, and keys opencoder.train.*. Because files.h
 * writes to OUT...tmp-PID and renames, a run that is killed leaves whole checkpoints and, at most,
 * one temporary file, which the next run removes (out_sweep).
 * Sections: 1 new weights, 2 files of a run, 3 reading one. Test: tests/test_trainloop.py. */
#ifndef OC_CHECKPOINT_H
#define OC_CHECKPOINT_H

#include "loader.h"        /* mix_key; opencoder.h: Model */
#include "train_options.h" /* opt: the shape of a new model */

/* ------------------------------------------------------------------------------------------------
 * 1. New weights */

/* A float32 model in memory with all tensors of config and nothing in them. */
OC_API void model_new(Model *m, float **arena, TensorSpec **specs) {
    Error e;
    int n;
    size_t total = 0, at = 0;
    *specs = tensor_specs(&m->config, &n);
    for (int i = 0; i < n; i++) total += (size_t)(*specs)[i].rows * (size_t)(*specs)[i].cols;
    *arena = xcalloc(total, sizeof **arena, "weights of a new model");
    m->gguf.n_tensors = (uint64_t)n;
    m->gguf.tensor = xcalloc((size_t)n, sizeof *m->gguf.tensor, "tensors");
    for (int i = 0; i < n; i++) {
        const TensorSpec *s = &(*specs)[i];
        m->gguf.tensor[i] =
            (Tensor){ str_of(s->name), T_F32, s->rows, s->cols, (uint8_t *)(*arena + at) };
        at += (size_t)s->rows * (size_t)s->cols;
    }
    if (!name_index(&m->gguf.tensor_index, m->gguf.tensor, (uint64_t)n, sizeof(Tensor), "tensor",
                    &e) ||
        !weights_bind(&m->weights, &m->gguf, &m->config, &e))
        die("new model: %s", e.text);
}

/* Norms 1, matrices normal(0, std): each number from its own place and the seed, by Box and
 * Muller's sqrt(-2 log u) cos(2 pi v), so threads do not matter. */
OC_API void init_weights(const Model *m, float *at, uint64_t seed, double init_std, bool scaled) {
    for (uint64_t i = 0; i < m->gguf.n_tensors; i++) {
        const Tensor *t = &m->gguf.tensor[i];
        char name[65];
        snprintf(name, sizeof name, "%.*s", STR(t->name));
        bool residual = strstr(name, "attn_output.") || strstr(name, "ffn_down.");
        double std = init_std / (scaled && residual ? sqrt(2 * m->config.n_layers) : 1);
        int64_t n = (int64_t)t->rows * t->cols;
#pragma omp parallel for
        for (int64_t k = 0; k < n; k++) {
            uint64_t h = mix_key(seed, i, (uint64_t)k);
            double u = ((double)(h >> 32) + 0.5) / 4294967296.0;
            double v = (double)(h & 0xffffffff) / 4294967296.0;
            at[k] =
                t->rows == 1 ? 1 : (float)(std * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        }
        at += n;
    }
}

OC_API int either(int64_t option, int otherwise) { return option ? (int)option : otherwise; }

/* The shape of a new model: one by name, changed by --dim and its kin. The vocabulary is the
 * tokenizer's, in a file that stays mapped; --plan does without. */
OC_API void new_shape(Model *m) {
    const Config *shape = opt.shape ? config_named(opt.shape) : NULL;
    Config c = { .max_ctx = 1024, .rope_theta = 1e4f, .norm_eps = 1e-5f };
    if (opt.shape && !shape) die_usage("--shape: '%s', expected 1.5b, 8b or tiny", opt.shape);
    if (!opt.tokenizer && !(opt.plan && shape))
        die_usage("--tokenizer: not given, expected one for a new model; or --init");
    if (!shape && !(opt.dim && opt.layers && opt.heads))
        die_usage("new model: expected --shape, or --dim, --layers and --heads");
    if (shape) c = *shape;
    c.dim = either(opt.dim, c.dim);
    c.n_layers = either(opt.layers, c.n_layers);
    c.n_heads = either(opt.heads, c.n_heads);
    c.n_kv_heads = either(opt.kv_heads, shape ? c.n_kv_heads : c.n_heads);
    c.head_dim = either(opt.head_dim, shape ? c.head_dim : c.dim / c.n_heads);
    c.hidden_dim = either(opt.hidden, shape ? c.hidden_dim : (c.dim * 8 / 3 + 31) / 32 * 32);
    c.max_ctx = either(opt.ctx, c.max_ctx);
    if (opt.theta > 0) c.rope_theta = (float)opt.theta;
    c.tied |= opt.tied;
    if (opt.tokenizer) {
        model_open_vocab(m, opt.tokenizer);
        gguf_free(&m->gguf);
        c.vocab_size = m->vocab.n;
    }
    m->config = c;
    Error e;
    if (!config_check(&m->config, &e)) die_usage("new model: %s", e.text);
}

OC_API void start_new(Model *m, float **arena, TensorSpec **specs) {
    new_shape(m);
    model_new(m, arena, specs);
    init_weights(m, *arena, (uint64_t)opt.seed, opt.init_std, opt.init_scaled);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Files of a run */

/* Collects the numbers of PATH.ckpt-N, ascending, in *steps (to be freed). Returns how many. */
OC_API int scan_outputs(const char *path, int64_t **steps) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t len = strlen(base);
    int n = 0;
    Buf name = { 0 };
    buf_add(&name, slash ? path : "./", slash ? (size_t)(slash - path) + 1 : 2);
    DIR *dir = opendir(name.data);
    if (!dir) die("%s: cannot read its directory: %s", path, strerror(errno));
    *steps = NULL;
    for (struct dirent *d; (d = readdir(dir));) {
        if (strncmp(d->d_name, base, len) || d->d_name[len] != '.') continue;
        const char *ckpt = d->d_name + len;
        if (!strncmp(ckpt, ".ckpt-", 6) && ckpt[6] && strlen(ckpt + 6) < 18 &&
            !ckpt[6 + strspn(ckpt + 6, "0123456789")]) {
            *steps = xrealloc(*steps, (size_t)n + 1, sizeof **steps, "checkpoints");
            int64_t step = strtoll(ckpt + 6, NULL, 10), i = n++;
            for (; i > 0 && (*steps)[i - 1] > step; i--) (*steps)[i] = (*steps)[i - 1];
            (*steps)[i] = step;
        }
    }
    closedir(dir);
    buf_free(&name);
    return n;
}

OC_API void checkpoint_path(Buf *path, const char *out, int64_t step) {
    path->n = 0;
    buf_add(path, out, strlen(out));
    buf_printf(path, ".ckpt-%06lld", (long long)step);
}

/* Removes the oldest checkpoints but for `keep`. Those with a step above `step` are ones that
 * --resume passed over as damaged: the run will write them anew. */
OC_API void prune_checkpoints(const char *out, int64_t step, int64_t keep) {
    Buf path = { NULL, 0, 0 };
    int64_t *steps;
    int n = scan_outputs(out, &steps);
    while (n && steps[n - 1] > step) n--;
    for (int i = 0; i + keep < n; i++) {
        checkpoint_path(&path, out, steps[i]);
        unlink(path.data);
    }
    free(steps);
    buf_free(&path);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Reading one */

/* Hides a checkpoint's opt.* from the trainer: only an annealing goes on with them. */
OC_API void forget_optimizer(Gguf *g) {
    Error e;
    uint64_t kept = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++)
        if (!is_optimizer(g->tensor[i].name)) g->tensor[kept++] = g->tensor[i];
    g->n_tensors = kept;
    free((void *)g->tensor_index);
    if (!name_index(&g->tensor_index, g->tensor, kept, sizeof(Tensor), "tensor", &e))
        die("%s", e.text);
}

/* Number opencoder.train.NAME of a checkpoint; false, and *out stays, when it is not there. */
OC_API bool get_count(const Gguf *g, const char *name, int64_t *out) {
    char key[64];
    snprintf(key, sizeof key, "opencoder.train.%s", name);
    const GgufKey *k = gguf_key(g, key);
    if (!k || k->type != GV_U64) return false;
    int64_t value;
    memcpy(&value, k->data, 8);
    if (value < 0 || value >> 56) return false; /* sums of a few stay below 2^63 */
    *out = value;
    return true;
}

/* Do m and v of the optimizer stand beside every weight, in its shape? */
OC_API bool has_moments(const Gguf *g, Error *e) {
    for (uint64_t i = 0; i < 2 * g->n_tensors; i++) {
        const Tensor *w = &g->tensor[i / 2];
        if (is_optimizer(w->name)) continue;
        char name[96];
        snprintf(name, sizeof name, "opt.%c.%.*s", i % 2 ? 'v' : 'm', STR(w->name));
        const Tensor *o = gguf_tensor(g, name);
        if (!o || o->type != T_F32 || o->rows != w->rows || o->cols != w->cols)
            return fail(e, "tensor %s: missing or wrong, expected f32 %d x %d", name, w->rows,
                        w->cols);
    }
    return true;
}

/* The model of a file. An annealing goes on with the optimizer's state of a checkpoint, whose
 * number of updates is then in *updates; nothing else does. */
OC_API void start_from(Model *m, const char *path, bool anneal, int64_t *updates) {
    if (opt.shape || opt.tokenizer || opt.dim || opt.layers || opt.heads || opt.kv_heads ||
        opt.head_dim || opt.hidden || opt.ctx || opt.theta > 0 || opt.tied || opt.init_scaled)
        die_usage("--init: given with options for a new model, expected one or the other");
    model_open(m, path, opt.verify);
    anneal = anneal && !opt.lora;
    Error e;
    if (anneal && has_moments(&m->gguf, &e) && get_count(&m->gguf, "updates", updates)) return;
    forget_optimizer(&m->gguf);
    if (anneal)
        fprintf(stderr, "%s: no optimizer state, as a checkpoint has: AdamW begins anew\n", path);
}

/* Opens a checkpoint with all its checksums; false and e when it cannot be used. */
OC_API bool open_checkpoint(Model *m, const char *path, bool adapter, Error *e) {
    memset(m, 0, sizeof *m);
    m->path = path;
    bool ok = map_file(&m->map, path, e);
    if (ok && !adapter) ok = model_parse(m, m->map.data, m->map.size, true, e);
    if (ok && adapter) {
        ok = gguf_parse(&m->gguf, m->map.data, m->map.size, e) && gguf_check_header(&m->gguf, e);
        for (uint64_t i = 0; ok && i < m->gguf.n_tensors; i++)
            ok = gguf_check_tensor(&m->gguf, i, e);
    }
    if (ok && !gguf_key(&m->gguf, "opencoder.train.recipe"))
        ok = fail(e, "key opencoder.train.recipe: missing, expected a checkpoint of train");
    ok = ok && has_moments(&m->gguf, e);
    if (!ok) model_close(m);
    return ok;
}

/* Opens the newest checkpoint of `out` that is whole, telling stderr what happens unless `quiet`;
 * false when there is none. Where none of several can be used the program ends: to begin anew would
 * write over them and the record. `path` holds the name for as long as m is in use. */
OC_API bool find_checkpoint(Model *m, const char *out, bool adapter, bool quiet, Buf *path) {
    Error e;
    int64_t *steps;
    int n = scan_outputs(out, &steps);
    bool found = false;
    while (n && !found) {
        checkpoint_path(path, out, steps[--n]);
        found = open_checkpoint(m, path->data, adapter, &e);
        if (!found && !n)
            die("%s: %s; expected a checkpoint to go on from, and it is the last one", path->data,
                e.text);
        if (quiet) continue;
        if (found)
            fprintf(stderr, "going on from %s\n", path->data);
        else
            fprintf(stderr, "%s: %s; passed over\n", path->data, e.text);
    }
    if (!found && !quiet) fprintf(stderr, "no checkpoint of %s to go on from: a new run\n", out);
    free(steps);
    return found;
}

#endif
