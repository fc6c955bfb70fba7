/* run.c: inference. Maps a GGUF model and continues a text, or many at once, answers in a chat, or
 * measures perplexity.
 *
 *     ./run model.bin -i "def fib"            see ./run -h
 *
 * What to know first: a language model maps the tokens so far to one number (logit) per entry of
 * the vocabulary; the next token is chosen from those, appended, and the same is done again. The
 * model is a stack of L equal layers that each add something to x, the running state of every
 * position:
 *
 *     x = embedding[token]                                               (C) per position
 *     for each layer:   x += attention(rmsnorm(x))      looks back at earlier positions
 *                       x += ffn(rmsnorm(x))            works on each position alone
 *     logits = head rmsnorm(x)                                           (V)
 *
 * What attention needs of earlier positions, their keys and values, is computed once and kept in a
 * cache, so that a new token costs one pass over the weights. Several tokens (a prompt, or tokens
 * of several sequences) go through in one pass as rows of a batch; results do not depend on how
 * they were grouped, bit for bit.
 *
 * Dimensions: dim = C, hidden_dim = F, n_layers = L, n_heads = H, n_kv_heads = K, head_dim = D,
 *             q_dim = H D, kv_dim = K D, vocab_size = V, n = tokens in the batch.
 * Sections: 1 engine state, 2 the operations, 3 forward, 4 sampling, 5 text out, 6 generation,
 *           7 chat, 8 many prompts, perplexity and dumps, 9 command line.
 * Test: tests/test_run.c (logits against Hugging Face), tests/test_cli.py. The architecture is
 * that of LlamaForCausalLM in Hugging Face transformers; OpenCoder is arXiv 2411.04905. */
#include "opencoder.h"  /* Model, Batch, EngineBackend, is_stop, matmul, tokenizer */
#include "attention.h"  /* KvCache, attention, swiglu */
#include "lora.h"       /* Lora, lora_open, lora_find */
#include "speculate.h"  /* Speculation: several tokens from one pass */
#include "json.h"       /* json strings for --logprobs and --prompts */
#include "perplexity.h" /* argmax, score_text, dump_watch */
#include "prompts.h"    /* several prompts at once */
#include <time.h>       /* time: the default seed */
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Engine state: buffers for one batch of n rows, and the cache of keys and values */

struct Engine {
    const Model *model;
    EngineOptions opt;
    KvCache *cache;
    float *x;             /* (n, C) the residual stream */
    float *normed;        /* (n, C) */
    float *q, *attn_out;  /* (n, H D) */
    float *k, *v;         /* (n, K D) */
    float *gate, *up;     /* (n, F) */
    float *cosine, *sine; /* (n, D / 2) of the RoPE angles */
    float *logits;        /* (wanted, V) */
    float *low, *delta;   /* (n, rank), (n, rows): A x and B A x of an adapter */
};

static float *new_floats(size_t n, const char *what) { return xcalloc(n, sizeof(float), what); }

static Engine *engine_open(const Model *m, const EngineOptions *o) {
    const Config *c = &m->config;
    Engine *e = xcalloc(1, sizeof *e, "engine");
    size_t n = (size_t)o->n_batch, q_dim = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t kv_dim = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    e->model = m;
    e->opt = *o;
    e->cache = cache_open(c, o->n_ctx, o->n_seq, o->cache);
    e->x = new_floats(n * (size_t)c->dim, "residual stream");
    e->normed = new_floats(n * (size_t)c->dim, "normed");
    e->q = new_floats(n * q_dim, "queries");
    e->attn_out = new_floats(n * q_dim, "attention output");
    e->k = new_floats(n * kv_dim, "keys");
    e->v = new_floats(n * kv_dim, "values");
    e->gate = new_floats(n * (size_t)c->hidden_dim, "feed-forward gate");
    e->up = new_floats(n * (size_t)c->hidden_dim, "feed-forward up");
    e->cosine = new_floats(n * (size_t)c->head_dim / 2, "rope");
    e->sine = new_floats(n * (size_t)c->head_dim / 2, "rope");
    e->low = new_floats(o->lora ? n * (size_t)o->lora->max_rank : 0, "adapter");
    e->delta = new_floats(o->lora ? n * (size_t)o->lora->max_rows : 0, "adapter");
    return e;
}

static void engine_close(Engine *e) {
    float *all[] = { e->x,  e->normed, e->q,    e->attn_out, e->k,   e->v,    e->gate,
                     e->up, e->cosine, e->sine, e->logits,   e->low, e->delta };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    cache_close(e->cache);
    free(e);
}

/* ------------------------------------------------------------------------------------------------
 * 2. The operations */

/* a . b of n numbers, in the order of matmul.c: 16 lanes, folded 8, 4, 2, 1. */
static float dot(const float *a, const float *b, int n) {
    float lane[16] = { 0 };
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i + l < n; l++) lane[l] += a[i + l] * b[i + l];
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* y (n, W.rows) = x (n, W.cols) W^T. Where an adapter has a pair A, B for W, += scale (x A^T) B^T,
 * in float32 whatever W is stored as: every linear layer of the model goes through here. */
static void linear(Engine *e, float *y, const float *x, const Tensor *w, int n) {
    const LoraPair *p = lora_find(e->opt.lora, w->name);
    matmul(y, x, w, n, e->opt.exact);
    if (!p) return;
    matmul(e->low, x, &p->a, n, true);
    matmul(e->delta, e->low, &p->b, n, true);
    for (size_t i = 0; i < (size_t)n * (size_t)w->rows; i++) y[i] += p->scale * e->delta[i];
}

/* y = x / sqrt(mean(x^2) + eps) * w      (n) each. Zhang and Sennrich, arXiv:1910.07467. */
static void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    float scale = 1 / sqrtf(dot(x, x, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

/* x_i = exp(x_i - max) / sum exp(x_j - max)      (n). The maximum keeps exp from overflowing. */
static void softmax(float *x, int n) {
    float max = x[0], sum = 0;
    for (int i = 1; i < n; i++) max = fmaxf(max, x[i]);
    for (int i = 0; i < n; i++) sum += x[i] = expf(x[i] - max);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

/* Rotary position embedding, arXiv:2104.09864: pair i of a head is turned by the angle
 * pos theta^(-2i/D), so that the dot product of a query and a key depends on their distance.
 * cosine, sine: (D/2). In float32 as Hugging Face computes it, so that far positions agree too. */
static void rope_angles(float *cosine, float *sine, int pos, int head_dim, float theta) {
    for (int i = 0; i < head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        float frequency = 1 / (float)pow((double)theta, (double)exponent);
        float angle = (float)pos * frequency;
        cosine[i] = (float)cos((double)angle);
        sine[i] = (float)sin((double)angle);
    }
}

/* Turns every head of v (n_heads, D) in place. A pair is two neighbours: GGUF's order of rows. */
static void rope(float *v, const float *cosine, const float *sine, int n_heads, int head_dim) {
    for (int h = 0; h < n_heads; h++, v += head_dim)
        for (int i = 0; i < head_dim / 2; i++) {
            float a = v[2 * i], b = v[2 * i + 1];
            v[2 * i] = a * cosine[i] - b * sine[i];
            v[2 * i + 1] = a * sine[i] + b * cosine[i];
        }
}

/* x += y      (n) */
static void add(float *x, const float *y, size_t n) {
#pragma omp parallel for schedule(static) if (n > 16384)
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void rmsnorm_rows(float *y, const float *x, const Tensor *w, int n, const Config *c) {
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        size_t row = (size_t)i * (size_t)c->dim;
        rmsnorm(y + row, x + row, (const float *)(const void *)w->data, c->dim, c->norm_eps);
    }
}

/* Turns the queries and keys of all rows. */
static void rope_rows(Engine *e, int n, const Config *c) {
    size_t half = (size_t)c->head_dim / 2;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        const float *cosine = e->cosine + (size_t)i * half, *sine = e->sine + (size_t)i * half;
        size_t q_row = (size_t)i * 2 * half * (size_t)c->n_heads;
        size_t k_row = (size_t)i * 2 * half * (size_t)c->n_kv_heads;
        rope(e->q + q_row, cosine, sine, c->n_heads, c->head_dim);
        rope(e->k + k_row, cosine, sine, c->n_kv_heads, c->head_dim);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Forward: logits of the wanted rows
 *
 *        x ----------------------------+-------------------------------+---->  next layer
 *        |                             |                               ^
 *        +-> norm -> wq -> rope -> attention -> wo -> + -> norm -> gate,up -> silu(g) u -> down
 *                    wk -> rope -> keys
 *                    wv ---------> values                                                        */

static void watch(const Engine *e, const char *name, int layer, const float *data, int n,
                  int cols) {
    if (e->opt.watch) e->opt.watch(e->opt.watch_arg, name, layer, data, n, cols);
}

/* x (n, C) += wo attention(rmsnorm(x)), where the attention of a row and head, with the keys and
 * values K, V of its sequence up to the row itself, is softmax(q K^T / sqrt(D)) V. */
static void attention_block(Engine *e, const Batch *b, int layer) {
    const Config *c = &e->model->config;
    const Weights *w = &e->model->weights;
    int n = b->n, q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    rmsnorm_rows(e->normed, e->x, &w->attn_norm[layer], n, c);
    watch(e, "attn_norm", layer, e->normed, n, c->dim);
    linear(e, e->q, e->normed, &w->wq[layer], n);
    linear(e, e->k, e->normed, &w->wk[layer], n);
    linear(e, e->v, e->normed, &w->wv[layer], n);
    rope_rows(e, n, c);
    watch(e, "q", layer, e->q, n, q_dim);
    watch(e, "k", layer, e->k, n, kv_dim);
    watch(e, "v", layer, e->v, n, kv_dim);
    attention(e->cache, layer, b, e->attn_out, e->q, e->k, e->v);
    watch(e, "attn_out", layer, e->attn_out, n, q_dim);
    linear(e, e->normed, e->attn_out, &w->wo[layer], n);
    add(e->x, e->normed, (size_t)n * (size_t)c->dim);
}

/* x (n, C) += w_down (silu(w_gate y) * (w_up y)),  y = rmsnorm(x) */
static void ffn_block(Engine *e, int n, int layer) {
    const Config *c = &e->model->config;
    const Weights *w = &e->model->weights;
    rmsnorm_rows(e->normed, e->x, &w->ffn_norm[layer], n, c);
    watch(e, "ffn_norm", layer, e->normed, n, c->dim);
    linear(e, e->gate, e->normed, &w->w_gate[layer], n);
    linear(e, e->up, e->normed, &w->w_up[layer], n);
    swiglu(e->gate, e->up, (size_t)n * (size_t)c->hidden_dim);
    watch(e, "ffn_hidden", layer, e->gate, n, c->hidden_dim);
    linear(e, e->normed, e->gate, &w->w_down[layer], n);
    add(e->x, e->normed, (size_t)n * (size_t)c->dim);
}

static float *engine_forward(Engine *e, const Batch *b) {
    const Config *c = &e->model->config;
    const Weights *w = &e->model->weights;
    size_t dim = (size_t)c->dim, half = (size_t)c->head_dim / 2;
    int wanted = 0;
    check_batch(b, &e->opt, c->vocab_size);
#pragma omp parallel for schedule(static) if (b->n > 1)
    for (int i = 0; i < b->n; i++) {
        const Tensor *t = w->tok_emb;
        const uint8_t *row = t->data + (size_t)b->token[i] * row_bytes(t->type, dim);
        dequantize(e->x + (size_t)i * dim, row, t->type, 0, dim);
        rope_angles(e->cosine + (size_t)i * half, e->sine + (size_t)i * half, b->pos[i],
                    c->head_dim, c->rope_theta);
    }
    watch(e, "embedding", -1, e->x, b->n, c->dim);
    for (int layer = 0; layer < c->n_layers; layer++) {
        attention_block(e, b, layer);
        ffn_block(e, b->n, layer);
        watch(e, "layer", layer, e->x, b->n, c->dim);
    }
    for (int i = 0; i < b->n; i++) /* the wanted rows move to the front */
        if (b->want[i]) memmove(e->x + dim * (size_t)wanted++, e->x + dim * (size_t)i, dim * 4);
    if (!wanted) return NULL;
    rmsnorm_rows(e->normed, e->x, w->out_norm, wanted, c);
    watch(e, "output_norm", -1, e->normed, wanted, c->dim);
    size_t n_logits = (size_t)wanted * (size_t)c->vocab_size;
    e->logits = xrealloc(e->logits, n_logits, sizeof *e->logits, "logits");
    linear(e, e->logits, e->normed, c->tied ? w->tok_emb : w->out, wanted);
    watch(e, "logits", -1, e->logits, wanted, c->vocab_size);
    return e->logits;
}

/* Nothing to undo: attention uses positions 0..pos only, and what follows is written again. */
static void engine_cut(Engine *e, int seq, int pos) { (void)e, (void)seq, (void)pos; }

const EngineBackend cpu_engine = {
    engine_open, engine_forward, engine_cut, engine_close, NULL, NULL
};

/* ------------------------------------------------------------------------------------------------
 * 4. Sampling: logits to the next token */

typedef struct {
    float p;
    int id;
} Candidate;

/* Descending probability, then ascending id: a total order, so every sort gives the same result. */
static int candidate_cmp(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* Tokens generated lately become less likely: a positive logit is divided by the penalty, a
 * negative one multiplied (CTRL, arXiv:1909.05858), once per distinct token. */
static void penalize_repeats(float *logits, const Sampler *s) {
    for (int i = 0; i < s->n_recent; i++) {
        bool seen = false;
        for (int j = 0; j < i; j++) seen |= s->recent[j] == s->recent[i];
        float *l = &logits[s->recent[i]];
        if (!seen) *l = *l > 0 ? *l / s->repeat_penalty : *l * s->repeat_penalty;
    }
}

/* Sorts what may be sampled to the front of c and returns how many there are. Three cuts in this
 * order: at least min_p times the best; of those the top_k likeliest; of those the fewest that
 * together have top_p of their probability. */
static int cut_candidates(Candidate *c, int n, const Sampler *s) {
    float best = 0, total = 0, sum = 0;
    int kept = 0, last = 0;
    for (int i = 0; i < n; i++) best = fmaxf(best, c[i].p);
    for (int i = 0; i < n; i++)
        if (c[i].p >= s->min_p * best) total += c[i].p, c[kept++] = c[i];
    /* Together, tokens below this floor have at most 1 - top_p: they go before the sort. */
    if (s->top_k == 0 && s->top_p < 1) {
        float floor = fminf((1 - s->top_p) * total / (float)kept, best);
        for (n = kept, kept = 0; last < n; last++)
            if (c[last].p >= floor) c[kept++] = c[last];
    }
    qsort(c, (size_t)kept, sizeof *c, candidate_cmp);
    if (s->top_k > 0 && kept > s->top_k) kept = s->top_k;
    if (s->top_k > 0) total = 0;
    for (int i = 0; i < kept && s->top_k > 0; i++) total += c[i].p;
    for (last = 0; last < kept && sum < s->top_p * total; last++) sum += c[last].p;
    return s->top_p < 1 ? last : kept;
}

/* The next token from V logits, which it changes. Temperature 0 takes the likeliest; else the
 * probabilities softmax(logits / temperature) are cut to candidates and one of those is drawn. */
int sample(Sampler *s, float *logits, int n_vocab) {
    if (s->repeat_penalty != 1) penalize_repeats(logits, s);
    int id = argmax(logits, n_vocab);
    if (s->temperature > 0) {
        Candidate *c = xcalloc((size_t)n_vocab, sizeof *c, "candidates");
        float max = logits[id]; /* taken off first: a tiny temperature must not give infinities */
        for (int i = 0; i < n_vocab; i++) logits[i] = (logits[i] - max) / s->temperature;
        softmax(logits, n_vocab);
        for (int i = 0; i < n_vocab; i++) c[i].p = logits[i], c[i].id = i;
        int n = cut_candidates(c, n_vocab, s);
        float sum = 0, drawn = (float)(next_random(&s->random) >> 40) * 0x1p-24f;
        for (int i = 0; i < n; i++) sum += c[i].p;
        drawn *= sum;
        int i = 0;
        for (sum = c[0].p; i < n - 1 && sum <= drawn; sum += c[i].p) i++;
        id = c[i].id;
        free(c);
    }
    if (s->n_recent == 64) memmove(s->recent, s->recent + 1, 63 * sizeof *s->recent), s->n_recent--;
    s->recent[s->n_recent++] = id;
    return id;
}

#ifndef OC_LIBRARY
/* ------------------------------------------------------------------------------------------------
 * 5. Text out: bytes of tokens become text on stdout, whole UTF-8 characters at a time. What might
 * be the beginning of a stop string is held back until it is decided. */

#ifdef OC_CUDA /* ./runcuda is this program with the engine of runcuda.cu */
#define ENGINE cuda_engine
enum { BATCH = 4096, PROPOSALS = 15 };
#else
#define ENGINE cpu_engine
enum { BATCH = 256, PROPOSALS = 16 };
#endif

static volatile sig_atomic_t interrupted; /* Ctrl-C was pressed */

typedef struct {
    Buf pending;          /* bytes that are not printed yet */
    const TextList *stop; /* stop strings; the text ends before the first of them */
    bool stopped;
    bool mute;       /* --logprobs prints its own lines; the text is searched for stops only */
    bool drop_space; /* SentencePiece put a space before the text's first word */
} TextOut;

/* stdout is this program's product: when it cannot be written there is no point in going on. */
static void print_bytes(const char *s, size_t n) {
    if (fwrite(s, 1, n, stdout) == n && !fflush(stdout)) return;
    if (errno == EINTR && interrupted) exit(130);
    if (errno == EPIPE) exit(1);
    die("stdout: cannot write: %s", strerror(errno));
}

static void text_flush(TextOut *t, size_t n) {
    if (!t->mute) print_bytes(t->pending.data, n);
    memmove(t->pending.data, t->pending.data + n, t->pending.n - n + 1);
    t->pending.n -= n;
}

static void text_add(TextOut *t, const char *bytes, size_t n) {
    buf_add(&t->pending, bytes, n);
    const char *p = t->pending.data;
    size_t size = t->pending.n, safe = utf8_complete(p, size), end = size + 1;
    for (int i = 0; i < t->stop->n; i++) {
        size_t len = strlen(t->stop->text[i]);
        const char *hit = memmem(p, size, t->stop->text[i], len);
        if (hit && (size_t)(hit - p) < end) end = (size_t)(hit - p);
        for (size_t k = len < size ? len - 1 : size; k > 0; k--) /* the longest begun stop string */
            if (!memcmp(p + size - k, t->stop->text[i], k)) {
                if (size - k < safe) safe = size - k;
                break;
            }
    }
    if (end <= size) {
        t->stopped = true;
        safe = end;
    }
    if (safe) text_flush(t, safe);
}

/* Prints what was held back, unless it was the beginning of the stop. */
static void text_end(TextOut *t) {
    if (t->pending.n && !t->stopped) text_flush(t, t->pending.n);
    buf_free(&t->pending);
}

/* ------------------------------------------------------------------------------------------------
 * 6. Generation */

/* The command line's values; the table in section 9 describes them. */
static struct {
    const char *model, *prompt, *file, *mode, *system, *tokenizer, *cpu, *cache, *perplexity,
        *against, *dump, *lora, *draft, *prompts;
    int64_t n_new, ctx, threads, batch, seed, top_k, logprobs, speculate, together;
    double temperature, top_p, min_p, repeat_penalty, lora_scale;
    bool exact, no_echo, no_special, verify, quiet, speculate_always;
    TextList stop;
} opt = { .mode = "generate",
          .n_new = 256,
          .batch = BATCH,
          .seed = -1,
          .top_p = 0.9,
          .repeat_penalty = 1,
          .speculate = PROPOSALS,
          .together = 8 };

typedef struct {
    Model *model;
    Tokenizer *tokenizer;
    const EngineBackend *backend;
    Engine *engine;
    bool greedy;            /* the engine finds the likeliest token */
    const char *cache_name; /* how it keeps keys and values */
    Lora lora;
    Sampler sampler;
    Speculation speculation;
    Model draft;             /* --draft; its weights are mapped only if opt.draft is set */
    int n_ctx, n_batch, pos; /* pos: tokens of the sequence so far */
    size_t n_prompt, n_generated, n_decoded; /* n_decoded: generated tokens that were fed again */
    double prompt_seconds, seconds;
} Session;

/* Feeds n tokens behind what the sequence holds, in batches, and returns the logits of the last one
 * (of every one, if all is not NULL: copied there, (n, V)). */
static float *feed(Session *s, const int *token, size_t n, float *all) {
    int max = s->n_batch, *seq = xcalloc((size_t)max, 2 * sizeof *seq, "batch"), *pos = seq + max;
    char *want = xcalloc((size_t)max, 1, "batch");
    size_t vocab = (size_t)s->model->config.vocab_size;
    float *logits = NULL;
    double start = now_seconds();
    for (size_t done = 0; done < n && !interrupted;) {
        int k = n - done < (size_t)max ? (int)(n - done) : max;
        for (int i = 0; i < k; i++) {
            pos[i] = s->pos + i;
            want[i] = all != NULL || done + (size_t)i + 1 == n;
        }
        Batch b = { k, token + done, seq, pos, want };
        logits = s->backend->forward(s->engine, &b);
        spec_prompt(&s->speculation, token + done, s->pos, k);
        if (all) memcpy(all + done * vocab, logits, (size_t)k * vocab * sizeof *all);
        s->pos += k;
        done += (size_t)k;
        if (!opt.quiet && isatty(2) && n > (size_t)max && now_seconds() - start > 1)
            fprintf(stderr, "\rprompt: %zu of %zu tokens%s", done, n, done == n ? "\n" : "");
    }
    free(seq);
    free(want);
    return logits;
}

static void check_logits(const Session *s, const float *logits) {
    check_finite(s->model, logits, s->pos - 1);
}

static void put_logprob(Buf *line, const Session *s, const float *logits, int id, double log_sum) {
    Str piece = tokenizer_piece(s->tokenizer, id, false);
    json_put_key(line, "id");
    json_put_int(line, id);
    json_put_key(line, "token");
    json_put_str(line, piece);
    json_put_key(line, "bytes"); /* the token exactly, where it is only a part of a character */
    json_open(line, '[');
    for (size_t i = 0; i < piece.n; i++) json_put_int(line, (uint8_t)piece.s[i]);
    json_close(line, ']');
    json_put_key(line, "logprob");
    json_put_num(line, (double)(float)((double)logits[id] - log_sum), true);
}

/* One JSON line per generated token: its log probability and those of the N likeliest tokens, in
 * nats, before temperature and penalties. */
static void print_logprobs(const Session *s, const float *logits, int id) {
    int n = s->model->config.vocab_size, best = argmax(logits, n);
    double sum = 0;
    Buf line = { 0 };
    Candidate *c = xcalloc((size_t)n, sizeof *c, "candidates");
    for (int i = 0; i < n; i++) {
        sum += exp((double)(logits[i] - logits[best]));
        c[i].p = logits[i], c[i].id = i;
    }
    qsort(c, (size_t)n, sizeof *c, candidate_cmp);
    double log_sum = (double)logits[best] + log(sum);
    json_open(&line, '{');
    put_logprob(&line, s, logits, id, log_sum);
    json_put_key(&line, "top");
    json_open(&line, '[');
    for (int i = 0; i < s->model->vocab.n && i < opt.logprobs; i++) {
        json_open(&line, '{');
        put_logprob(&line, s, logits, c[i].id, log_sum);
        json_close(&line, '}');
    }
    buf_add(&line, "]}\n", 3);
    print_bytes(line.data, line.n);
    buf_free(&line);
    free(c);
}

/* Continues from the logits of the last prompt token until a stop token, a stop string, n_new
 * tokens or the end of the context. Text goes to stdout. Returns the last token where the engine
 * has not seen it yet, for whoever goes on from there, or -1. */
static int generate(Session *s, float *logits, TextOut *out) {
    const Vocab *v = &s->model->vocab;
    size_t n_vocab = (size_t)s->model->config.vocab_size;
    float *before = opt.logprobs ? xcalloc(n_vocab, sizeof *before, "logits") : NULL;
    int id = -1;
    double start = now_seconds();
    for (size_t made = 0; !interrupted && !out->stopped; made++) {
        if (made && s->pos == s->n_ctx) {
            if (!opt.quiet) fprintf(stderr, "\ncontext of %d tokens is full\n", s->n_ctx);
            break;
        }
        size_t left = opt.n_new ? (size_t)opt.n_new - made : SIZE_MAX;
        if (made) logits = spec_step(&s->speculation, id, s->pos++, left), s->n_decoded++;
        id = -1;
        if (!s->greedy) check_logits(s, logits), mask_unused(s->model, logits);
        if (before) memcpy(before, logits, n_vocab * sizeof *before);
        int next = s->greedy ? likeliest(s->backend, s->engine, s->model, logits, s->pos - 1)
                             : sample(&s->sampler, logits, (int)n_vocab);
        if (is_stop(v, next)) break;
        id = next;
        s->n_generated++;
        if (before) print_logprobs(s, before, id);
        Str piece = tokenizer_piece(s->tokenizer, id, false);
        if (out->drop_space && piece.n && *piece.s == ' ') piece.s++, piece.n--;
        out->drop_space = false;
        text_add(out, piece.s, piece.n);
        if (opt.n_new && made + 1 == (size_t)opt.n_new) break;
    }
    text_end(out);
    free(before);
    s->seconds += now_seconds() - start;
    return id;
}

/* How keys and values are kept: --cache, or half precision where the model is no wider. The GPU has
 * other formats of the same sizes, and float32 only with --exact. */
#ifdef OC_CUDA
#define CACHE_TYPES "bf16 or fp8"
static const char *const cache_names[] = { "f32", "bf16", "fp8" };
enum { FIRST_CACHE = 1 }; /* that may be asked for */
#else
#define CACHE_TYPES "f32, f16 or q8_0"
static const char *const cache_names[] = { "f32", "f16", "q8_0" };
enum { FIRST_CACHE = 0 };
#endif
static uint32_t cache_type(const Model *m, const char **name) {
    static const uint32_t types[] = { T_F32, T_F16, T_Q8_0 };
    int i = opt.exact || m->weights.wq->type == T_F32 ? 0 : 1;
    if (opt.cache)
        for (i = FIRST_CACHE; i < 3 && strcmp(opt.cache, cache_names[i]); i++) {}
    if (i == 3) die_usage("--cache: '%s', expected " CACHE_TYPES, opt.cache);
    if (name) *name = cache_names[i];
    return types[i];
}

/* Weights read for one more token, in bytes: everything but the embedding, of which one row is
 * read, plus the cache at the present position. */
static double bytes_per_token(const Model *m, int pos) {
    const Config *c = &m->config;
    double bytes = 0;
    int n;
    TensorSpec *specs = tensor_specs(c, &n);
    for (int i = 0; i < n; i++) {
        bool embedding = !strcmp(specs[i].name, "token_embd.weight");
        if (!embedding || c->tied)
            bytes += (double)tensor_bytes(gguf_tensor(&m->gguf, specs[i].name));
    }
    free(specs);
    return bytes + (double)cache_position_bytes(c, cache_type(m, NULL)) * pos;
}

static void print_rates(const Session *s) {
    if (opt.quiet) return;
    const Speculation *p = &s->speculation;
    double per_second = s->seconds > 0 ? 1 / s->seconds : 0;
    double bytes = (double)p->passes * bytes_per_token(s->model, s->pos);
    if (opt.draft) bytes += (double)p->draft.passes * bytes_per_token(&s->draft, s->pos);
    if (p->proposed)
        fprintf(stderr, "speculation: %zu proposed, %zu accepted, %.2f tokens a pass\n",
                p->proposed, p->accepted, (double)s->n_decoded / (double)p->passes);
    if (s->sampler.temperature > 0) fprintf(stderr, "seed %lld\n", (long long)opt.seed);
    fprintf(stderr, "prompt %zu tokens %.2f tok/s, generated %zu tokens %.2f tok/s, %.2f GB/s\n",
            s->n_prompt, s->prompt_seconds > 0 ? (double)s->n_prompt / s->prompt_seconds : 0,
            s->n_generated, (double)s->n_decoded * per_second, bytes * per_second * 1e-9);
}

/* The logits after a whole prompt, which must fit into the context. Ctrl-C may cut it short. */
static float *feed_prompt(Session *s, const Ids *ids) {
    double start = now_seconds();
    int before = s->pos;
    float *logits = feed(s, ids->id, ids->n, NULL);
    spec_prompt_end(&s->speculation, s->pos, (now_seconds() - start) / (double)ids->n);
    s->prompt_seconds += now_seconds() - start;
    s->n_prompt += (size_t)(s->pos - before);
    return logits;
}

static void run_generate(Session *s, const Buf *prompt) {
    Ids ids = { 0 };
    TextOut out = { .stop = &opt.stop, .mute = opt.logprobs > 0 };
    out.drop_space = !prompt->n && s->model->vocab.add_space_prefix;
    tokenizer_encode_prompt(s->tokenizer, prompt->data, prompt->n, !opt.no_special, &ids);
    if (ids.n == 0)
        die_usage("-i: an empty prompt, but this model starts no text by itself; give a prompt");
    if (ids.n > (size_t)s->n_ctx)
        die("prompt: %zu tokens, expected at most %d, the context; see -c", ids.n, s->n_ctx);
    if (!opt.no_echo && !opt.logprobs && prompt->n) print_bytes(prompt->data, prompt->n);
    generate(s, feed_prompt(s, &ids), &out);
    if (!opt.logprobs) print_bytes("\n", 1);
    print_rates(s);
    free(ids.id);
}

/* ------------------------------------------------------------------------------------------------
 * 7. Chat in ChatML, byte for byte as OpenCoder was trained (FACTS 2.4):
 * <|im_start|>system NL ... <|im_end|> NL <|im_start|>user NL ... <|im_end|> NL
 * <|im_start|>assistant NL Only the two markers are tokens of their own; what people type is text,
 * whatever it looks like. */

typedef struct {
    Session *s;
    Ids ids; /* what is to be fed before the next answer */
    int im_start, im_end;
} Chat;

/* <|im_start|>role NL content <|im_end|> NL; `open` leaves the message open at its content. */
static void add_message(Chat *c, const char *role, const char *content, size_t n, bool open) {
    Buf text = { 0 };
    ids_add(&c->ids, c->im_start);
    buf_add(&text, role, strlen(role));
    buf_add(&text, "\n", 1);
    buf_add(&text, content, n);
    tokenizer_encode(c->s->tokenizer, text.data, text.n, false, &c->ids);
    buf_free(&text);
    if (open) return;
    ids_add(&c->ids, c->im_end);
    tokenizer_encode(c->s->tokenizer, "\n", 1, false, &c->ids);
}

static void chat_reset(Chat *c) {
    c->s->backend->cut(c->s->engine, 0, c->s->pos = 0);
    c->s->sampler.n_recent = 0;
    c->ids.n = 0;
    add_message(c, "system", opt.system, strlen(opt.system), false);
}

/* Answers one user message; afterwards ids holds what closes the answer. Ctrl-C stops the answer,
 * not the program; before the answer has begun, it takes the message back. */
static void chat_turn(Chat *c, const char *text, size_t n) {
    Session *s = c->s;
    TextOut out = { .stop = &opt.stop, .mute = opt.logprobs > 0 };
    size_t mark = c->ids.n;
    int start = s->pos;
    add_message(c, "user", text, n, false);
    add_message(c, "assistant", "", 0, true);
    if (c->ids.n > (size_t)(s->n_ctx - s->pos)) {
        fprintf(stderr,
                "this message needs %zu tokens and the context of %d has %d left; "
                "/reset starts over\n",
                c->ids.n, s->n_ctx, s->n_ctx - s->pos);
        c->ids.n = mark;
        return;
    }
    float *logits = feed_prompt(s, &c->ids);
    if (interrupted) {
        s->backend->cut(s->engine, 0, s->pos = start);
        c->ids.n = mark;
    } else {
        int last = generate(s, logits, &out);
        c->ids.n = 0;
        if (last >= 0) ids_add(&c->ids, last);
        ids_add(&c->ids, c->im_end);
        tokenizer_encode(s->tokenizer, "\n", 1, false, &c->ids);
    }
    interrupted = 0;
    if (!opt.logprobs) print_bytes("\n", 1);
}

/* Reads a message from stdin: a line; lines that end in a backslash go on; """ opens and closes a
 * block of lines. Ctrl-C throws away what was typed. False at the end of the input. */
static bool read_message(Buf *text) {
    char *line = NULL;
    size_t cap = 0;
    bool block = false, more = true, ended = false, first = true;
    text->n = 0;
    for (const char *prompt = "> "; more && !ended; prompt = ". ") {
        if (isatty(0)) fputs(prompt, stderr);
        ssize_t n = getline(&line, &cap, stdin);
        ended = n < 0;
        if (ended && !interrupted && !feof(stdin)) die("stdin: cannot read: %s", strerror(errno));
        if (ended) break;
        if (n && line[n - 1] == '\n') n--;
        bool fence = n == 3 && !memcmp(line, "\"\"\"", 3);
        bool joined = !block && n && line[n - 1] == '\\';
        if (!fence && !first) buf_add(text, "\n", 1);
        if (!fence) buf_add(text, line, (size_t)(n - joined));
        first &= fence;
        block ^= fence;
        more = block || joined;
    }
    free(line);
    if (ended && isatty(0)) fputs("\n", stderr);
    if (ended && interrupted) {
        interrupted = 0;
        clearerr(stdin);
        text->n = 0;
        return true;
    }
    interrupted = 0; /* a Ctrl-C between two answers means nothing */
    return !ended || text->n;
}

static void run_chat(Session *s, const Buf *first) {
    Chat c = { s,
               { 0 },
               vocab_find(&s->model->vocab, "<|im_start|>"),
               vocab_find(&s->model->vocab, "<|im_end|>") };
    Buf text = { 0 };
    if (c.im_start < 0 || c.im_end < 0)
        die("%s: no <|im_start|> and <|im_end|> in the vocabulary, expected a chat model",
            s->model->path);
    chat_reset(&c);
    if (first->n) chat_turn(&c, first->data, first->n);
    while (read_message(&text)) {
        if (text.n == 6 && !memcmp(text.data, "/reset", 6))
            chat_reset(&c);
        else if (text.n == 5 && !memcmp(text.data, "/exit", 5))
            break;
        else if (text.n)
            chat_turn(&c, text.data, text.n);
    }
    print_rates(s);
    buf_free(&text);
    free(c.ids.id);
}

/* ------------------------------------------------------------------------------------------------
 * 8. Many prompts (prompts.h), perplexity and dumps (perplexity.h), between the command line and
 * the text */

/* The lines of --prompts, each a JSON object, and what becomes of them. */
typedef struct {
    Str *line;
    Completion *all;
    size_t n, printed;
} PromptFile;

/* A line comes out as it went in, with three members more. */
static void print_completion(Str line, const Completion *c) {
    Buf out = { 0 };
    size_t n = line.n ? line.n - 1 : 0; /* without its } */
    while (n && strchr(" \t\r", line.s[n - 1])) n--;
    buf_add(&out, line.s, n);
    json_put_key(&out, "completion");
    json_put_str(&out, (Str){ c->text.data ? c->text.data : "", c->text.n });
    json_put_key(&out, "tokens");
    json_put_int(&out, c->n);
    json_put_key(&out, "end");
    json_put_str(&out, str_of(c->end));
    buf_add(&out, "}\n", 2);
    print_bytes(out.data, out.n);
    buf_free(&out);
}

/* Texts end in any order and are printed in that of the file. */
static void completion_ended(void *arg, Completion *c) {
    PromptFile *f = arg;
    (void)c;
    for (; f->printed < f->n && f->all[f->printed].end; f->printed++) {
        print_completion(f->line[f->printed], &f->all[f->printed]);
        buf_free(&f->all[f->printed].text);
    }
}

/* Takes the prompt of a line, or says what is wrong with it. */
static bool take_prompt(const Session *s, Completion *c, Str line, JsonDoc *doc, Error *e) {
    static const char *const ours[] = { "completion", "tokens", "end" };
    Str text = { NULL, 0 };
    if (!json_parse(doc, line.s, line.n, e) || !json_str(doc->node, "prompt", true, &text, e))
        return false;
    for (int i = 0; i < 3; i++)
        if (json_get(doc->node, ours[i]))
            return fail(e, "key %s: found, expected none: it is written here", ours[i]);
    tokenizer_encode_prompt(s->tokenizer, text.s, text.n, !opt.no_special, &c->prompt);
    c->drop_space = !text.n && s->model->vocab.add_space_prefix;
    if (!c->prompt.n) return fail(e, "an empty prompt, but this model starts no text by itself");
    return c->prompt.n <= (size_t)s->n_ctx ||
           fail(e, "a prompt of %zu tokens, expected at most %d, the context; see -c", c->prompt.n,
                s->n_ctx);
}

static void read_prompts(const Session *s, PromptFile *f, const Buf *text) {
    JsonDoc doc = { 0 };
    Error e;
    const char *p = text->data, *end = p + text->n;
    size_t cap = 0;
    for (size_t number = 1; p < end; number++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        Str line = { p, (size_t)((stop ? stop : end) - p) };
        p += line.n + (stop != NULL);
        while (line.n && strchr(" \t\r", line.s[line.n - 1])) line.n--;
        if (!line.n) continue;
        if (f->n == cap) {
            cap = cap * 2 + 64;
            f->line = xrealloc(f->line, cap, sizeof *f->line, "prompts");
            f->all = xrealloc(f->all, cap, sizeof *f->all, "prompts");
        }
        f->line[f->n] = line;
        f->all[f->n] = (Completion){ 0 };
        if (!take_prompt(s, &f->all[f->n++], line, &doc, &e))
            die("%s: line %zu: %s", opt.prompts, number, e.text);
    }
    json_free(&doc);
    if (!f->n) die("%s: no prompt, expected JSON Lines", opt.prompts);
}

static void run_prompts(Session *s, const Buf *text) {
    PromptFile f = { 0 };
    read_prompts(s, &f, text);
    Prompts p = { .model = s->model,
                  .tokenizer = s->tokenizer,
                  .backend = s->backend,
                  .engine = s->engine,
                  .n_ctx = s->n_ctx,
                  .n_seq = (int)opt.together,
                  .n_batch = s->n_batch,
                  .n_new = (int)opt.n_new,
                  .greedy = s->greedy,
                  .stop = &opt.stop,
                  .sampler = s->sampler,
                  .interrupted = &interrupted,
                  .ended = completion_ended,
                  .arg = &f };
    prompts_run(&p, f.all, f.n);
    if (!opt.quiet)
        fprintf(stderr,
                "%zu prompts %zu tokens %.2f tok/s, generated %zu tokens %.2f tok/s, %.2f a pass\n",
                f.n, p.n_prompt, p.prompt_seconds > 0 ? (double)p.n_prompt / p.prompt_seconds : 0,
                p.n_written, p.seconds > 0 ? (double)p.n_later / p.seconds : 0,
                p.passes ? (double)p.n_later / (double)p.passes : 0);
    for (size_t i = 0; i < f.n; i++) free(f.all[i].prompt.id), buf_free(&f.all[i].text);
    free(f.all);
    free(f.line);
}

/* Opens --against's model to predict the same windows, with float32 activations. */
static Predictor open_base(Model *m, const Session *s) {
    model_open(m, opt.against, opt.verify);
    if (m->config.vocab_size != s->model->config.vocab_size)
        die("--against %s: a vocabulary of %d, expected the model's %d", opt.against,
            m->config.vocab_size, s->model->config.vocab_size);
    if (s->n_ctx > m->config.max_ctx)
        die_usage("-c: %d, expected at most %d, what %s was trained for", s->n_ctx,
                  m->config.max_ctx, opt.against);
    EngineOptions o = { .n_ctx = s->n_ctx, .n_seq = 1, .n_batch = s->n_batch, .exact = true };
    return (Predictor){ m, s->backend, s->backend->open(m, &o), s->n_ctx, s->n_batch };
}

static void run_perplexity(Session *s, const Buf *text) {
    Ids ids = { 0 };
    Model other;
    Predictor p = { s->model, s->backend, s->engine, s->n_ctx, s->n_batch }, base = { 0 };
    tokenizer_encode_prompt(s->tokenizer, text->data, text->n, false, &ids);
    if (ids.n < 2) die("%s: %zu tokens, expected at least 2", opt.perplexity, ids.n);
    if (s->n_ctx < 2) die_usage("-c: %d, expected at least 2 for --perplexity", s->n_ctx);
    if (opt.against) base = open_base(&other, s);
    Score score = score_text(&p, opt.against ? &base : NULL, ids.id, ids.n, &interrupted,
                             !opt.quiet && isatty(2));
    /* The first token is predicted only if BOS stands before it; else its bytes do not count. */
    size_t skipped =
        s->model->vocab.add_bos ? 0 : tokenizer_piece(s->tokenizer, ids.id[0], false).n;
    if (!interrupted) print_score(&score, text->n - skipped);
    if (!interrupted && opt.against) print_score_against(&score, opt.against);
    if (opt.against) base.backend->close(base.engine), model_close(&other);
    free(ids.id);
}

static void run_dump(Session *s, const Buf *prompt, Dump *d) {
    Ids ids = { 0 };
    tokenizer_encode_prompt(s->tokenizer, prompt->data, prompt->n, !opt.no_special, &ids);
    if (ids.n == 0 || ids.n > (size_t)s->n_batch)
        die_usage("--dump-activations: a prompt of %zu tokens, expected 1 to %d; see -b", ids.n,
                  s->n_batch);
    feed_prompt(s, &ids);
    if (interrupted) die("--dump-activations: interrupted, expected the whole prompt");
    dump_write(d, opt.dump, ids.id, ids.n);
    free(ids.id);
}

/* ------------------------------------------------------------------------------------------------
 * 9. Command line */

static const char usage[] =
    "usage: run [MODEL] -i PROMPT [options]      continue a text\n"
    "       run [MODEL] -m chat [options]        talk; /reset starts over, /exit or Ctrl-D ends\n"
    "       run [MODEL] --prompts FILE           continue many texts at once\n"
    "MODEL is a GGUF file; without one, models/tiny.bin beside this program.\n"
    "  ./run model.bin -i \"def fib\"\n"
    "  ./run model.bin -f prompt.txt -n 0 --stop \"\\n\\n\" > out.txt\n"
    "The text goes to stdout, everything else to stderr.\n";

static const Option options[] = {
    { 'i', "prompt", NULL, "TEXT", OPT_TEXT, &opt.prompt, 0, 0, "text to continue; - reads stdin" },
    { 'f', "file", "prompt-file", "FILE", OPT_TEXT, &opt.file, 0, 0,
      "read the prompt from a file" },
    { 'n', "n-predict", "max-tokens", "N", OPT_INT, &opt.n_new, 0, 1 << 30,
      "new tokens; 0: until a stop token or a full context" },
    { 't', "temp", "temperature", "T", OPT_FLOAT, &opt.temperature, 0, 100,
      "0: always the likeliest token" },
    { 'p', "top-p", NULL, "P", OPT_FLOAT, &opt.top_p, 0, 1,
      "sample from the likeliest that reach P" },
    { 0, "top-k", NULL, "K", OPT_INT, &opt.top_k, 0, 1 << 20,
      "sample from the K likeliest; 0: all" },
    { 0, "min-p", NULL, "P", OPT_FLOAT, &opt.min_p, 0, 1, "sample from those of P times the best" },
    { 0, "repeat-penalty", NULL, "X", OPT_FLOAT, &opt.repeat_penalty, 0.01, 100,
      "make the last 64 generated tokens less likely" },
    { 's', "seed", NULL, "N", OPT_INT, &opt.seed, -1, 9e15, "of the sampling; -1: from the clock" },
    { 'r', "stop", "reverse-prompt", "TEXT", OPT_LIST, &opt.stop, 0, 0,
      "stop before this text; repeatable" },
    { 'm', "mode", NULL, "MODE", OPT_TEXT, &opt.mode, 0, 0, "generate or chat" },
    { 'y', "system", "system-prompt", "TEXT", OPT_TEXT, &opt.system, 0, 0,
      "system message of a chat" },
    { 'c', "ctx-size", "ctx", "N", OPT_INT, &opt.ctx, 0, 1 << 24,
      "context in tokens; 0: the model's" },
    { 0, "prompts", NULL, "FILE", OPT_TEXT, &opt.prompts, 0, 0,
      "JSON lines with a \"prompt\": continue each, several at once; - reads stdin" },
    { 0, "batch", "parallel", "N", OPT_INT, &opt.together, 1, PROMPTS_MOST,
      "so many of them at once: the same texts, sooner" },
    { 'b', "batch-size", NULL, "N", OPT_INT, &opt.batch, 1, 65536, "prompt tokens in one pass" },
    { 'j', "threads", NULL, "N", OPT_INT, &opt.threads, 0, 1024,
      "0: as many as the machine offers" },
    { 0, "lora", NULL, "FILE", OPT_TEXT, &opt.lora, 0, 0, "apply an adapter to the model" },
    { 0, "lora-scale", NULL, "X", OPT_FLOAT, &opt.lora_scale, -1000, 1000,
      "apply it X times; 0: not at all" },
    { 0, "speculate", NULL, "N", OPT_INT, &opt.speculate, 0, SPEC_MOST,
      "guess up to N tokens ahead where it pays: same text, sooner; 0: never" },
    { 0, "speculate-always", NULL, NULL, OPT_FLAG, &opt.speculate_always, 0, 0,
      "guess whether it pays or not" },
    { 0, "draft", "draft-model", "FILE", OPT_TEXT, &opt.draft, 0, 0,
      "a small model with the same vocabulary that guesses" },
    { 0, "exact", NULL, NULL, OPT_FLAG, &opt.exact, 0, 0, "float32 activations for every type" },
    { 0, "cache", "cache-type", "TYPE", OPT_TEXT, &opt.cache, 0, 0,
      "keys and values as " CACHE_TYPES "; f32 with --exact and for f32 models, else 16 bits" },
    { 0, "cpu", NULL, "NAME", OPT_TEXT, &opt.cpu, 0, 0, matmul_levels },
    { 'z', "tokenizer", NULL, "FILE", OPT_TEXT, &opt.tokenizer, 0, 0,
      "vocabulary of another GGUF file" },
    { 0, "no-echo", "no-display-prompt", NULL, OPT_FLAG, &opt.no_echo, 0, 0,
      "do not print the prompt" },
    { 0, "no-special", NULL, NULL, OPT_FLAG, &opt.no_special, 0, 0,
      "<|im_end|> and the like in the prompt are plain text" },
    { 0, "logprobs", NULL, "N", OPT_INT, &opt.logprobs, 0, 1000,
      "JSON lines: each token and the N likeliest" },
    { 0, "perplexity", NULL, "FILE", OPT_TEXT, &opt.perplexity, 0, 0,
      "how well the model predicts a text" },
    { 0, "against", NULL, "BASE", OPT_TEXT, &opt.against, 0, 0,
      "and how far from what the model BASE predicts" },
    { 0, "dump-activations", NULL, "FILE", OPT_TEXT, &opt.dump, 0, 0,
      "write all intermediate results as GGUF" },
    { 0, "verify", NULL, NULL, OPT_FLAG, &opt.verify, 0, 0,
      "check the checksums of large files too" },
    { 'q', "quiet", NULL, NULL, OPT_FLAG, &opt.quiet, 0, 0, "nothing on stderr but errors" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static void catch_signals(void) {
    struct sigaction bus = { .sa_handler = out_of_map }, ignore = { .sa_handler = SIG_IGN };
    if (sigaction(SIGBUS, &bus, NULL) || sigaction(SIGPIPE, &ignore, NULL))
        die("signals: cannot install handlers: %s", strerror(errno));
}

/* Until the model is open, Ctrl-C simply ends the program. */
static void catch_interrupt(void) {
    struct sigaction interrupt = { .sa_handler = on_interrupt };
    if (sigaction(SIGINT, &interrupt, NULL))
        die("signals: cannot install handlers: %s", strerror(errno));
}

static const char no_model_hint[] = ": ./run model.bin -i TEXT, made by ./convert CHECKPOINT_DIR "
                                    "model.bin or ./convert --random tiny model.bin -q q8_0";

/* The prompt of -i, -f or -i -; or all of --prompts: no more than there are go together. */
static void read_prompt(Buf *prompt) {
    Error e;
    bool from_stdin = opt.prompt && !strcmp(opt.prompt, "-");
    if (opt.prompt && opt.file) die_usage("-i and -f: both given, expected one of them");
    const char *file = opt.prompts && strcmp(opt.prompts, "-") ? opt.prompts : opt.file;
    from_stdin |= opt.prompts && !file;
    buf_add(prompt, "", 0); /* without -i and -f there is an empty prompt */
    if (opt.prompt && !from_stdin) buf_add(prompt, opt.prompt, strlen(opt.prompt));
    if (from_stdin && !read_all(0, prompt, &e)) die("stdin: %s", e.text);
    if (file) read_file(file, prompt);
    int64_t lines = 1;
    for (size_t i = 0; opt.prompts && i < prompt->n; i++) lines += prompt->data[i] == '\n';
    if (opt.together > lines) opt.together = lines;
}

static void session_open(Session *s, Model *m, Dump *dump) {
    Error e;
    memset(s, 0, sizeof *s);
    if (opt.tokenizer) {
        static Model other;
        model_open_vocab(&other, opt.tokenizer);
        if (other.vocab.n > m->config.vocab_size)
            die("%s: %d tokens, expected at most the model's %d", opt.tokenizer, other.vocab.n,
                m->config.vocab_size);
        vocab_free(&m->vocab);
        m->vocab = other.vocab;
    }
    s->model = m;
    s->tokenizer = tokenizer_new(&m->vocab, &e);
    if (!s->tokenizer) die("%s: %s", opt.tokenizer ? opt.tokenizer : m->path, e.text);
    s->n_ctx = opt.ctx ? (int)opt.ctx : m->config.max_ctx;
    if (s->n_ctx > m->config.max_ctx)
        die_usage("-c: %d, expected at most %d, what the model was trained for", s->n_ctx,
                  m->config.max_ctx);
    s->n_batch = opt.batch < s->n_ctx ? (int)opt.batch : s->n_ctx;
    EngineOptions o = { .n_ctx = s->n_ctx, .n_seq = 1, .n_batch = s->n_batch, .exact = opt.exact };
    o.cache = cache_type(m, &s->cache_name);
    if (o.n_batch <= opt.speculate) o.n_batch = (int)opt.speculate + 1;
    if (opt.prompts) o.n_seq = (int)opt.together;
    if (o.n_batch < o.n_seq) o.n_batch = o.n_seq;
    if (opt.dump) o.watch = dump_watch, o.watch_arg = dump;
    if (opt.lora) lora_open(&s->lora, opt.lora, &m->config, opt.lora_scale), o.lora = &s->lora;
    s->backend = &ENGINE;
    s->greedy = s->backend->likeliest && opt.temperature == 0 && opt.repeat_penalty == 1 &&
                !opt.logprobs && !opt.perplexity && !opt.dump;
    o.greedy = s->greedy;
    o.quiet = opt.quiet;
    s->engine = s->backend->open(m, &o);
    spec_open(&s->speculation, s->backend, s->engine, m, s->n_ctx);
    s->speculation.most = rows_together(s->backend, s->engine, (int)opt.speculate + 1) - 1;
    s->speculation.always = opt.speculate_always;
    s->speculation.draft.interrupted = &interrupted;
    if (opt.draft) {
        model_open(&s->draft, opt.draft, opt.verify);
        draft_open(&s->speculation.draft, &s->draft, &m->vocab, s->backend, &o);
    }
    if (opt.seed < 0) opt.seed = (int64_t)time(NULL);
    s->sampler = (Sampler){ .temperature = (float)opt.temperature,
                            .top_p = (float)opt.top_p,
                            .min_p = (float)opt.min_p,
                            .top_k = (int)opt.top_k,
                            .repeat_penalty = (float)opt.repeat_penalty,
                            .random = (uint64_t)opt.seed * 0x9E3779B97F4A7C15ull + 1 };
}

static void session_close(Session *s) {
    spec_close(&s->speculation);
    if (opt.draft) model_close(&s->draft);
    s->backend->close(s->engine);
    tokenizer_free(s->tokenizer);
    lora_free(&s->lora);
    model_close(s->model);
}

static void print_model(const Session *s) {
    const Config *c = &s->model->config;
    if (opt.quiet) return;
    fprintf(stderr,
            "%s: %d layers of %d, vocabulary %d, %s, context %d, cache %s, %s, %d threads\n",
            s->model->path, c->n_layers, c->dim, c->vocab_size,
            type_name(s->model->weights.wq->type), s->n_ctx, s->cache_name, matmul_level(),
            thread_count());
    if (s->lora.n)
        fprintf(stderr, "%s: an adapter of %d matrices, rank %d, alpha %g, %g times\n",
                s->lora.path, s->lora.n, s->lora.max_rank, (double)s->lora.alpha,
                (double)s->lora.factor);
}

int main(int argc, char **argv) {
    Model model;
    Session s;
    Dump dump = { 0 };
    Buf text = { 0 };
    opt.system = OPENCODER_SYSTEM;
    opt.lora_scale = 1;
    if (argc == 1) {
        fputs(usage, stderr);
        return 2;
    }
    parse_options(argc, argv, options, usage, &opt.model, 1);
    bool chat = !strcmp(opt.mode, "chat");
    if (!chat && strcmp(opt.mode, "generate"))
        die_usage("-m: '%s', expected generate or chat", opt.mode);
    if (chat + (opt.perplexity != NULL) + (opt.dump != NULL) + (opt.prompts != NULL) > 1)
        die_usage("-m chat, --prompts, --perplexity and --dump-activations together, expected one "
                  "of them");
    if (opt.prompts && (opt.prompt || opt.file || opt.logprobs || opt.draft))
        die_usage("--prompts with -i, -f, --logprobs or --draft, expected it without them");
    if (opt.draft && !opt.speculate) die_usage("--draft with --speculate 0, expected one of them");
    if (opt.against && !opt.perplexity) die_usage("--against without --perplexity, expected both");
    if (opt.lora_scale != 1 && !opt.lora) die_usage("--lora-scale without --lora, expected both");
    for (int i = 0; i < opt.stop.n; i++)
        if (!opt.stop.text[i][0]) die_usage("--stop: '', expected a text that is not empty");
    if (!matmul_choose(opt.cpu)) die_usage("--cpu: '%s', expected an %s", opt.cpu, matmul_levels);
#ifdef _OPENMP
    if (opt.threads) omp_set_num_threads((int)opt.threads);
#endif
    catch_signals();
    if (opt.perplexity)
        read_file(opt.perplexity, &text);
    else
        read_prompt(&text);
    model_open(&model, opt.model ? opt.model : default_model(no_model_hint), opt.verify);
    session_open(&s, &model, &dump);
    catch_interrupt();
    print_model(&s);
    if (opt.perplexity)
        run_perplexity(&s, &text);
    else if (opt.prompts)
        run_prompts(&s, &text);
    else if (opt.dump)
        run_dump(&s, &text, &dump);
    else if (chat)
        run_chat(&s, &text);
    else
        run_generate(&s, &text);
    session_close(&s);
    buf_free(&text);
    close_stdout();
    return interrupted ? 130 : 0;
}
#endif
