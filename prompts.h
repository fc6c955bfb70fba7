/* prompts.h: many prompts through one engine, several at once.
 *
 * What to know first: the next token of one text needs every weight once, and so do the next tokens
 * of eight texts together. So each of the engine's sequences holds a text of its own, and a pass
 * makes one token of each; where a text ends, the next prompt takes its place at once:
 *
 *     pass           1    2    3    4    5    6
 *     sequence 0     a1   a2   a3   d1   d2   d3        one column is one pass
 *     sequence 1     b1   b2   b3   b4   b5   e1
 *     sequence 2     c1   c2   f1   f2   f3   f4
 *
 * A text is, bit for bit, what its prompt alone gives: prompts are fed one after the other, a pass
 * has no more rows than the engine promises to treat as if each were alone (engine.h: equal_rows),
 * and each text is drawn by a sampler of its own, from the same seed or its own one.
 * Sections: 1 a text grows, 2 all texts.
 * Used by ./run --prompts, with any EngineBackend. Test: tests/test_prompts.py. */
#ifndef OC_PROMPTS_H
#define OC_PROMPTS_H

#include "opencoder.h" /* Model, Batch, EngineBackend, check_finite, Sampler, tokenizer */
#include <signal.h>    /* sig_atomic_t */

enum { PROMPTS_MOST = 256 }; /* at once */

/* ------------------------------------------------------------------------------------------------
 * 1. A text grows */

typedef struct {
    Ids prompt;
    uint64_t own;    /* mixed into the sampler's seed, so that equal prompts may differ; or 0 */
    bool drop_space; /* the space that SentencePiece puts before a first word is none of the text */
    Buf text;        /* what the model wrote */
    int n;           /* tokens of it */
    const char *end; /* why it ended: "stop", "length" or "context"; NULL: it has not */
} Completion;

/* A sequence of the engine at work. */
typedef struct {
    Completion *c; /* NULL: free */
    Sampler sampler;
    int id, pos; /* the newest token, and where it is to be fed */
} Writer;

typedef struct {
    const Model *model;
    const Tokenizer *tokenizer;
    const EngineBackend *backend;
    Engine *engine;
    int n_ctx, n_seq, n_batch; /* as the engine was opened, or less */
    int n_new;                 /* tokens of a text; 0: until it stops */
    bool greedy;               /* the engine finds the likeliest token */
    const TextList *stop;      /* a text ends before the first of these */
    Sampler sampler;           /* as it is when a text begins */
    const volatile sig_atomic_t *interrupted;
    void (*ended)(void *arg, Completion *c); /* a text has ended */
    void *arg;
    size_t n_prompt, n_written, n_later, passes; /* n_later: tokens that came from so many passes */
    double prompt_seconds, seconds;
} Prompts;

/* Bytes of a token join the text. True if that made a stop text whole; then it is cut off. */
OC_API bool writer_add(const Prompts *p, Completion *c, Str piece) {
    size_t before = c->text.n, end = SIZE_MAX;
    if (c->drop_space && piece.n && *piece.s == ' ') piece.s++, piece.n--;
    c->drop_space = false;
    buf_add(&c->text, piece.s, piece.n);
    for (int i = 0; i < p->stop->n; i++) {
        size_t n = strlen(p->stop->text[i]), from = before > n ? before - n : 0;
        const char *hit =
            (const char *)memmem(c->text.data + from, c->text.n - from, p->stop->text[i], n);
        if (hit && (size_t)(hit - c->text.data) < end) end = (size_t)(hit - c->text.data);
    }
    if (end < c->text.n) c->text.data[c->text.n = end] = 0;
    return end != SIZE_MAX;
}

/* Chooses from the logits behind what a writer has fed. Where that ends its text, it is free. */
OC_API void writer_choose(Prompts *p, Writer *w, float *logits) {
    const Model *m = p->model;
    Completion *c = w->c;
    int pos = w->pos - 1, n_vocab = m->config.vocab_size;
    if (!p->greedy) check_finite(m, logits, pos), mask_unused(m, logits);
    w->id = p->greedy ? likeliest(p->backend, p->engine, m, logits, pos)
                      : sample(&w->sampler, logits, n_vocab);
    if (is_stop(&m->vocab, w->id)) {
        c->end = "stop";
    } else {
        p->n_written++;
        if (writer_add(p, c, tokenizer_piece(p->tokenizer, w->id, false)))
            c->end = "stop";
        else if (++c->n == p->n_new)
            c->end = "length";
        else if (w->pos == p->n_ctx)
            c->end = "context";
    }
    if (!c->end) return;
    w->c = NULL;
    p->ended(p->arg, c);
}

/* ------------------------------------------------------------------------------------------------
 * 2. All texts */

/* Feeds a prompt to sequence `seq`, and chooses its first token. */
OC_API void prompts_begin(Prompts *p, Writer *w, int seq, Completion *c) {
    int *at = (int *)xcalloc((size_t)p->n_batch, 2 * sizeof *at, "batch"), *seqs = at + p->n_batch;
    char *want = (char *)xcalloc((size_t)p->n_batch, 1, "batch");
    int n = (int)c->prompt.n;
    float *logits = NULL;
    double start = now_seconds();
    *w = (Writer){ c, p->sampler, 0, 0 };
    if (c->own) w->sampler.random = mix64(w->sampler.random ^ c->own) | 1;
    p->backend->cut(p->engine, seq, 0);
    for (int i = 0; i < p->n_batch; i++) seqs[i] = seq;
    while (w->pos < n && !*p->interrupted) {
        int k = n - w->pos < p->n_batch ? n - w->pos : p->n_batch;
        for (int i = 0; i < k; i++) at[i] = w->pos + i;
        want[k - 1] = w->pos + k == n;
        Batch b = { k, c->prompt.id + w->pos, seqs, at, want };
        logits = p->backend->forward(p->engine, &b);
        w->pos += k;
    }
    p->n_prompt += (size_t)w->pos;
    p->prompt_seconds += now_seconds() - start;
    if (w->pos == n) writer_choose(p, w, logits);
    free(at);
    free(want);
}

/* One pass: the newest token of each text. */
OC_API void prompts_pass(Prompts *p, Writer *writer, int n) {
    int token[PROMPTS_MOST], seq[PROMPTS_MOST], pos[PROMPTS_MOST], k = 0;
    char want[PROMPTS_MOST];
    for (int i = 0; i < n; i++) {
        if (!writer[i].c) continue;
        token[k] = writer[i].id, seq[k] = i, pos[k] = writer[i].pos++;
        want[k++] = 1;
    }
    Batch b = { k, token, seq, pos, want };
    float *logits = p->backend->forward(p->engine, &b);
    p->passes++;
    p->n_later += (size_t)k;
    for (int i = 0; i < k; i++)
        writer_choose(p, &writer[seq[i]], logits + (size_t)i * (size_t)p->model->config.vocab_size);
}

/* Continues all n prompts, until Ctrl-C. Each has 1 to n_ctx tokens. */
OC_API void prompts_run(Prompts *p, Completion *all, size_t n) {
    int n_seq = rows_together(p->backend, p->engine, p->n_seq);
    Writer *writer = (Writer *)xcalloc((size_t)n_seq, sizeof *writer, "texts");
    size_t begun = 0, busy = 1;
    double start = now_seconds();
    while (busy && !*p->interrupted) {
        busy = 0;
        for (int i = 0; i < n_seq; i++) {
            while (!writer[i].c && begun < n && !*p->interrupted)
                prompts_begin(p, &writer[i], i, &all[begun++]);
            busy += writer[i].c != NULL;
        }
        if (busy && !*p->interrupted) prompts_pass(p, writer, n_seq);
    }
    p->seconds = now_seconds() - start - p->prompt_seconds;
    free(writer);
}

#endif
