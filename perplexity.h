/* perplexity.h: what ./run measures where it writes no text: how well a model predicts a text, how
 * far its predictions are from another model's, and all that a prompt computes, number by number.
 *
 * What to know first: after the tokens so far, a model gives every token i of the vocabulary a
 * probability, the softmax of its logits. With q from the model, and p from another that is the
 * measure (the same weights before they were rounded, say):
 *
 *     surprise   -log q_next                       of the token that the text has next
 *     perplexity exp(mean surprise)                as if so many tokens were equally likely
 *     KL(p || q) = sum_i p_i log(p_i / q_i) >= 0   what q costs where p is right; 0: the same
 *
 * all in nats. Perplexity asks one token a position, and what rounding does to it may cancel out;
 * KL asks the whole vocabulary, and nothing cancels. Sums are taken in double precision.
 * Sections: 1 one row of logits, 2 a text in windows, 3 dumps of activations.
 * Test: tests/test_cli.py. Measure: bench/quality.py. */
#ifndef OC_PERPLEXITY_H
#define OC_PERPLEXITY_H

#include "opencoder.h" /* Model, EngineBackend, Batch, check_finite */

/* ------------------------------------------------------------------------------------------------
 * 1. One row of logits, (V) */

OC_API int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* log sum_i exp(logits_i): a logit minus this is the logarithm of a probability. */
OC_API double log_sum_exp(const float *logits, int n) {
    double sum = 0;
    float max = logits[argmax(logits, n)];
    for (int i = 0; i < n; i++) sum += exp((double)(logits[i] - max));
    return (double)max + log(sum);
}

/* KL(p || q) of two rows whose log_sum_exp is at hand. Rounding must not make it negative. */
OC_API double divergence(const float *p, double p_sum, const float *q, double q_sum, int n) {
    double kl = 0;
    for (int i = 0; i < n; i++) {
        double log_p = (double)p[i] - p_sum, log_q = (double)q[i] - q_sum;
        kl += exp(log_p) * (log_p - log_q);
    }
    return kl > 0 ? kl : 0;
}

/* ------------------------------------------------------------------------------------------------
 * 2. A text in windows */

/* A model at work on one sequence. */
typedef struct {
    const Model *model;
    const EngineBackend *backend;
    Engine *engine;
    int n_ctx, n_batch;
} Predictor;

/* Sums over the positions that count. */
typedef struct {
    size_t tokens;
    double nats;                      /* surprise */
    double base_nats, kl, largest_kl; /* of the base, and from it */
    size_t same;                      /* how often both have the same likeliest token */
} Score;

/* The logits, (n, V), of n tokens at positions pos, pos + 1, ...; valid until the next call. */
OC_API const float *predict(const Predictor *p, const int *token, int pos, int n) {
    int *seq = (int *)xcalloc((size_t)n, 2 * sizeof *seq, "batch"), *at = seq + n;
    char *want = (char *)xcalloc((size_t)n, 1, "batch");
    for (int i = 0; i < n; i++) at[i] = pos + i, want[i] = 1;
    Batch b = { n, token, seq, at, want };
    const float *logits = p->backend->forward(p->engine, &b);
    free(seq);
    free(want);
    return logits;
}

/* Adds what one position says; base: its logits in the other model, or NULL. */
OC_API void score_add(Score *s, const float *logits, const float *base, int n_vocab, int next) {
    double sum = log_sum_exp(logits, n_vocab);
    s->nats += sum - (double)logits[next];
    s->tokens++;
    if (!base) return;
    double base_sum = log_sum_exp(base, n_vocab);
    double kl = divergence(base, base_sum, logits, sum, n_vocab);
    s->base_nats += base_sum - (double)base[next];
    s->kl += kl;
    s->largest_kl = fmax(s->largest_kl, kl);
    s->same += argmax(logits, n_vocab) == argmax(base, n_vocab);
}

/* Predicts the n tokens of a text, by p alone or by p and base. Windows of n_ctx tokens advance by
 * half their length and only the second half counts (in the first window, all of it), so every
 * token but the first is predicted once, from at least n_ctx / 2 tokens where the text has them.
 * Ends early when *stop is set. */
OC_API Score score_text(const Predictor *p, const Predictor *base, const int *token, size_t n,
                        const volatile sig_atomic_t *stop, bool progress) {
    Score s = { 0, 0, 0, 0, 0, 0 };
    size_t n_vocab = (size_t)p->model->config.vocab_size, n_ctx = (size_t)p->n_ctx;
    for (size_t start = 0, done = 1, end; done < n && !*stop; start += n_ctx / 2, done = end) {
        end = n - start < n_ctx ? n : start + n_ctx;
        p->backend->cut(p->engine, 0, 0);
        if (base) base->backend->cut(base->engine, 0, 0);
        for (size_t i = start; i < end && !*stop; i += (size_t)p->n_batch) {
            int k = end - i < (size_t)p->n_batch ? (int)(end - i) : p->n_batch;
            int pos = (int)(i - start);
            const float *a = predict(p, token + i, pos, k), *b = NULL;
            if (base) b = predict(base, token + i, pos, k);
            for (int j = 0; j < k && i + (size_t)j + 1 < n; j++, a += n_vocab) {
                size_t next = i + (size_t)j + 1;
                const float *b_j = b ? b + (size_t)j * n_vocab : NULL;
                check_finite(p->model, a, pos + j);
                if (b_j) check_finite(base->model, b_j, pos + j);
                if (next >= done && next < end) score_add(&s, a, b_j, (int)n_vocab, token[next]);
            }
        }
        if (progress) fprintf(stderr, "\r%zu of %zu tokens", end, n);
    }
    if (progress) fputs("\n", stderr);
    return s;
}

/* bytes: of the text that is predicted. */
OC_API void print_score(const Score *s, size_t bytes) {
    double mean = s->nats / (double)s->tokens, bits = bytes ? s->nats / log(2) / (double)bytes : 0;
    printf("perplexity %.4f, %.4f nats a token, %.4f bits per byte, %zu tokens, %zu bytes\n",
           exp(mean), mean, bits, s->tokens, bytes);
}

OC_API void print_score_against(const Score *s, const char *base) {
    double n = (double)s->tokens;
    printf("against %s: KL %.6f nats a token (largest %.4f), same top token %.2f %%, "
           "perplexity %.4f, ours %+.3f %%\n",
           base, s->kl / n, s->largest_kl, 100 * (double)s->same / n, exp(s->base_nats / n),
           100 * expm1((s->nats - s->base_nats) / n));
}

/* ------------------------------------------------------------------------------------------------
 * 3. Dumps: everything the forward pass of a prompt computes, as tensors of one GGUF file:
 * blk.N.NAME, or NAME for what is outside the layers. */

typedef struct {
    char name[64];
    float *data;
    int rows, cols;
} Dumped;
typedef struct {
    Dumped *item;
    size_t n;
} Dump;

/* The engine's `watch`: keeps a copy. */
OC_API void dump_watch(void *arg, const char *name, int layer, const float *data, int rows,
                       int cols) {
    Dump *d = (Dump *)arg;
    size_t bytes = (size_t)rows * (size_t)cols * sizeof *data;
    d->item = (Dumped *)xrealloc(d->item, d->n + 1, sizeof *d->item, "activations");
    Dumped *item = &d->item[d->n++];
    if (layer < 0)
        snprintf(item->name, sizeof item->name, "%s", name);
    else
        snprintf(item->name, sizeof item->name, "blk.%d.%s", layer, name);
    item->data = (float *)memcpy(xcalloc(bytes, 1, "activations"), data, bytes);
    item->rows = rows;
    item->cols = cols;
}

/* Writes what was kept, and the n tokens it was computed from, and frees it. */
OC_API void dump_write(Dump *d, const char *path, const int *token, size_t n) {
    GgufWriter w;
    memset(&w, 0, sizeof w);
    gguf_put_str(&w, "general.architecture", str_of("activations"));
    gguf_put_array(&w, "tokens", GV_I32, n, token);
    for (size_t i = 0; i < d->n; i++)
        gguf_add(&w, d->item[i].name, T_F32, d->item[i].rows, d->item[i].cols);
    gguf_begin(&w, path);
    for (size_t i = 0; i < d->n; i++) {
        gguf_write(&w, d->item[i].data, (size_t)d->item[i].rows * (size_t)d->item[i].cols * 4);
        free(d->item[i].data);
    }
    gguf_end(&w);
    free(d->item);
    d->item = NULL;
    d->n = 0;
}

#endif
