/* engine.h: the forward pass as others see it. run.c exports cpu_engine, runcuda.cu cuda_engine;
 * the main of run.c picks one.
 *
 *     Engine *e = cpu_engine.open(&model, &options);
 *     float *logits = cpu_engine.forward(e, &batch);     (wanted, V)
 *
 * What to know first: an engine has n_seq sequences of up to n_ctx positions and remembers the keys
 * and values of each. A batch is any mixture of their next tokens: a prompt is many of one, several
 * texts at once are one of each. Included by opencoder.h. Test: tests/test_run.c, test_cuda.c. */
#ifndef OC_ENGINE_H
#define OC_ENGINE_H

#include "opencoder.h" /* Model */
#ifdef __cplusplus
extern "C" {
#endif

typedef struct Engine Engine;

/* n tokens of one or several sequences: token[i] stands at position pos[i] of sequence seq[i]; the
 * positions of a sequence are fed in order, without gaps. want[i]: logits of row i are needed. */
typedef struct {
    int n;
    const int *token, *seq, *pos;
    const char *want;
} Batch;

typedef struct {
    int n_ctx, n_seq, n_batch; /* positions a sequence, sequences, most tokens a forward */
    bool exact;                /* float32 activations everywhere: see matmul */
    uint32_t cache;            /* how keys and values are kept: T_F32, T_F16, T_Q8_0 */
    /* If set, called with every intermediate result, (rows, cols), as the forward pass makes it. */
    void (*watch)(void *arg, const char *name, int layer, const float *data, int rows, int cols);
    void *watch_arg;
    const Lora *lora;   /* NULL: the model as it is. It outlives the engine. */
    bool quiet, greedy; /* no progress on stderr; only likeliest() reads the logits */
} EngineOptions;

typedef struct {
    Engine *(*open)(const Model *m, const EngineOptions *o);
    /* The logits of the wanted rows, (wanted, V) float32, valid until the next call. */
    float *(*forward)(Engine *e, const Batch *b);
    /* Forget what follows position pos of sequence seq: rewind, reuse a prompt. */
    void (*cut)(Engine *e, int seq, int pos);
    void (*close)(Engine *e);
    int (*likeliest)(Engine *e, const float *logits); /* of such a row; -1: not finite; or NULL */
    /* The most tokens that may go together so that each gets the bits it would get alone; NULL: any
     * number. Speculation, and who feeds several texts at once, keeps to it: the same text. */
    int (*equal_rows)(const Engine *e);
} EngineBackend;
extern const EngineBackend cpu_engine, cuda_engine;

#ifdef __cplusplus
}
#endif

/* Ends the program where b would index outside the buffers: the callers' bug, not the users'. */
OC_API void check_batch(const Batch *b, const EngineOptions *o, int vocab_size) {
    if (b->n < 1 || b->n > o->n_batch) die("batch: %d tokens, expected 1 to %d", b->n, o->n_batch);
    for (int i = 0; i < b->n; i++)
        if (b->token[i] < 0 || b->token[i] >= vocab_size || b->seq[i] < 0 ||
            b->seq[i] >= o->n_seq || b->pos[i] < 0 || b->pos[i] >= o->n_ctx)
            die("batch: token %d at position %d of sequence %d, expected less than %d, %d, %d",
                b->token[i], b->pos[i], b->seq[i], vocab_size, o->n_ctx, o->n_seq);
}

/* How many tokens may go together in one pass of this engine, up to `most`: see equal_rows. */
OC_API int rows_together(const EngineBackend *backend, const Engine *e, int most) {
    int equal = backend->equal_rows ? backend->equal_rows(e) : most;
    return equal < most ? equal : most;
}

/* Before a row of logits, (V), becomes a token: a logit that is not finite says that the weights or
 * the arithmetic are broken. pos: where the token stands whose row it is. */
OC_API void check_finite(const Model *m, const float *logits, int pos) {
    for (int i = 0; i < m->config.vocab_size; i++)
        if (!isfinite(logits[i]))
            die("%s: logit %d at position %d is %f, expected a finite number; damaged weights?",
                m->path, i, pos, (double)logits[i]);
}

/* Rows of the embedding without a token, or with an unused one, are never chosen. */
OC_API void mask_unused(const Model *m, float *logits) {
    for (int i = 0; i < m->config.vocab_size; i++)
        if (i >= m->vocab.n || m->vocab.type[i] == TOK_UNUSED) logits[i] = -1e30f;
}

/* The same as check_finite, mask_unused and argmax, where the logits stand. */
OC_API int likeliest(const EngineBackend *backend, Engine *e, const Model *m, const float *logits,
                     int pos) {
    int id = backend->likeliest(e, logits);
    if (id < 0)
        die("%s: a logit at position %d is not finite, expected a number; damaged weights?",
            m->path, pos);
    return id;
}

/* Does the token end a text? */
OC_API bool is_stop(const Vocab *v, int id) {
    if (id == v->eos || id == v->bos) return true;
    for (int i = 0; i < v->n_stop; i++)
        if (id == v->stop[i]) return true;
    return false;
}

#endif
