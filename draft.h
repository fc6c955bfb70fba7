/* draft.h: a small model that says what a large one will probably say next, for speculate.h.
 *
 * What to know first: a draft is only as useful as it is quick and right, and never decides
 * anything. It must have the large model's vocabulary, because ids are what it proposes. It keeps a
 * cache of its own, which is behind where nobody asked it for a while, and wrong behind the first
 * proposal that was not taken; so the cache remembers which tokens it was made from, and counts as
 * far as they agree with what stands there now.
 * Works with any EngineBackend. Test: tests/test_speculate.py. */
#ifndef OC_DRAFT_H
#define OC_DRAFT_H

#include "opencoder.h" /* EngineBackend, Batch, Model, Vocab */
#include <signal.h>    /* sig_atomic_t */

enum { DRAFT_BATCH = 64 };

typedef struct {
    const Model *model; /* NULL: there is no draft */
    const EngineBackend *backend;
    Engine *engine;
    int n_ctx, n_cached; /* positions there are, and how many of them the cache holds ... */
    int *cached;         /* ... made of these tokens, (n_ctx) */
    size_t passes;
    const volatile sig_atomic_t *interrupted; /* Ctrl-C ends a long prompt */
} Draft;

/* The same ids must mean the same texts. */
OC_API bool draft_check_vocab(const Vocab *draft, const Vocab *v, Error *e) {
    if (draft->n != v->n)
        return fail(e, "%d tokens, expected the model's %d: a draft has its vocabulary", draft->n,
                    v->n);
    for (int i = 0; i < v->n; i++)
        if (draft->token[i].n != v->token[i].n ||
            memcmp(draft->token[i].s, v->token[i].s, v->token[i].n))
            return fail(e, "token %d is '%.*s', expected the model's '%.*s'", i,
                        STR(draft->token[i]), STR(v->token[i]));
    return true;
}

/* o: how the model's engine was opened. A draft of another vocabulary ends the program. */
OC_API void draft_open(Draft *d, const Model *m, const Vocab *v, const EngineBackend *backend,
                       const EngineOptions *o) {
    EngineOptions own;
    Error e;
    if (!draft_check_vocab(&m->vocab, v, &e)) die("%s: %s", m->path, e.text);
    memset(&own, 0, sizeof own);
    own.n_seq = 1;
    own.exact = o->exact;
    own.n_ctx = o->n_ctx < m->config.max_ctx ? o->n_ctx : m->config.max_ctx;
    own.n_batch = own.n_ctx < DRAFT_BATCH ? own.n_ctx : DRAFT_BATCH;
    d->model = m;
    d->backend = backend;
    d->n_ctx = own.n_ctx;
    d->cached = (int *)xcalloc((size_t)own.n_ctx, sizeof *d->cached, "tokens");
    d->engine = backend->open(m, &own);
}

OC_API void draft_close(Draft *d) {
    if (d->model) d->backend->close(d->engine);
    free(d->cached);
    memset(d, 0, sizeof *d);
}

/* The logits behind the first n tokens, n >= 1; NULL after Ctrl-C. */
OC_API const float *draft_feed(Draft *d, const int *token, int n) {
    const float *logits = NULL;
    int same = 0, seq[DRAFT_BATCH] = { 0 }, pos[DRAFT_BATCH];
    while (same < n - 1 && same < d->n_cached && d->cached[same] == token[same]) same++;
    d->backend->cut(d->engine, 0, same);
    for (d->n_cached = same; d->n_cached < n && !*d->interrupted;) {
        int k = n - d->n_cached < DRAFT_BATCH ? n - d->n_cached : DRAFT_BATCH;
        char want[DRAFT_BATCH] = { 0 };
        want[k - 1] = d->n_cached + k == n;
        for (int i = 0; i < k; i++) pos[i] = d->n_cached + i;
        Batch b = { k, token + d->n_cached, seq, pos, want };
        logits = d->backend->forward(d->engine, &b);
        memcpy(d->cached + d->n_cached, b.token, (size_t)k * sizeof *token);
        d->n_cached += k;
        d->passes++;
    }
    return d->n_cached == n ? logits : NULL;
}

/* The likeliest token of a row of logits, and its probability. */
OC_API int draft_choice(const Draft *d, const float *logits, double *p) {
    const Vocab *v = &d->model->vocab;
    int best = -1;
    double sum = 0;
    for (int i = 0; i < v->n; i++)
        if (v->type[i] != TOK_UNUSED && (best < 0 || logits[i] > logits[best])) best = i;
    for (int i = 0; i < v->n && best >= 0; i++) sum += exp((double)(logits[i] - logits[best]));
    *p = 1 / sum;
    return best;
}

/* Writes up to n tokens behind the first n_tokens and returns how many: it stops after the first
 * where it believes in all of them together with a probability below `worth`. */
OC_API int draft_propose(Draft *d, int *token, int n_tokens, int n, double worth) {
    double p, sure = 1;
    int made = 0;
    for (; made < n; made++) {
        const float *logits = draft_feed(d, token, n_tokens + made);
        int id = logits ? draft_choice(d, logits, &p) : -1;
        if (id < 0 || ((sure *= p) < worth && made)) break;
        token[n_tokens + made] = id;
    }
    return made;
}

#endif
