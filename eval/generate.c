/* generate.c: answers of a model, many at a time.
 *
 * What to know first: the engine (run.c, or runcuda.cu in evaluate-cuda) takes tokens of several
 * sequences in one pass. Here every sequence is a slot that works on one answer: first its prompt
 * goes in, as many tokens as there is room for, then a token at a time comes out; a slot whose
 * answer is finished takes the next one at once, so that passes stay full. What an answer is does
 * not depend on the others: logits are the same in any batch, and each has its own random numbers,
 * from the seed, the task and the number of the sample. Test: tests/test_evaluate.py. */
#include "eval.h"

#ifdef OC_CUDA /* ./evaluate-cuda is this program with the engine of runcuda.cu */
#define ENGINE cuda_engine
enum { BATCH = 4096 };
#else
#define ENGINE cpu_engine
enum { BATCH = 256 };
#endif

typedef struct {
    Completion *c; /* NULL: nothing left to do */
    Ids ids;       /* the prompt, then what was generated */
    size_t fed, n_prompt;
    Str stop[MAX_STOPS];
    int n_stops;
    Sampler sampler;
} Slot;

typedef struct {
    const Tasks *tasks;
    const GenerateOptions *opt;
    const PromptOptions *prompt;
    Completion *const *todo;
    size_t n, next, finished, n_tokens;
    void (*done)(Completion *c);
    Model model;
    Lora lora;
    Tokenizer *tokenizer;
    const EngineBackend *backend;
    Engine *engine;
    bool greedy; /* the engine finds the likeliest token */
    int n_ctx, n_slots, im_start, im_end;
    Slot *slot;
    double begun, shown;
} Generator;

/* ------------------------------------------------------------------------------------------------
 * Prompts as tokens */

static void add_message(const Generator *g, Ids *ids, const char *role, Str content, bool open) {
    Buf text = { 0 };
    ids_add(ids, g->im_start);
    buf_printf(&text, "%s\n", role);
    buf_add(&text, content.s, content.n);
    tokenizer_encode(g->tokenizer, text.data, text.n, false, ids);
    buf_free(&text);
    if (open) return;
    ids_add(ids, g->im_end);
    tokenizer_encode(g->tokenizer, "\n", 1, false, ids);
}

/* The chat template of OpenCoder (run.c, section 7), or the text alone. */
static void encode_prompt(const Generator *g, const Task *task, Ids *ids) {
    Buf text = { 0 };
    prompt_text(g->tasks, task, g->prompt, &text);
    ids->n = 0;
    if (g->prompt->chat) {
        add_message(g, ids, "system", str_of(OPENCODER_SYSTEM), false);
        add_message(g, ids, "user", (Str){ text.data, text.n }, false);
        add_message(g, ids, "assistant", str_of(""), true);
        if (g->prompt->compat) memmove(ids->id, ids->id + 1, --ids->n * sizeof *ids->id);
    } else {
        tokenizer_encode_prompt(g->tokenizer, text.data, text.n, false, ids);
    }
    buf_free(&text);
}

/* ------------------------------------------------------------------------------------------------
 * Slots */

static void finish(Generator *g, Slot *s, const char *why) {
    s->c->finish = why;
    s->c->text.n = utf8_complete(s->c->text.data, s->c->text.n);
    s->c->text.data[s->c->text.n] = 0;
    g->finished++;
    g->done(s->c);
    s->c = NULL;
}

static Sampler sampler_for(const Generator *g, const Completion *c) {
    uint64_t place = mix64((uint64_t)g->opt->seed + 1);
    place = mix64(place ^ crc32c(0, c->task->id.s, c->task->id.n));
    place = mix64(place + (uint64_t)c->sample);
    return (Sampler){ .temperature = (float)g->opt->temperature,
                      .top_p = (float)g->opt->top_p,
                      .top_k = (int)g->opt->top_k,
                      .repeat_penalty = 1,
                      .random = place | 1 };
}

/* Gives a free slot the next answer; one whose prompt leaves no room is finished at once. */
static void take_next(Generator *g, Slot *s) {
    while (!s->c && g->next < g->n) {
        s->c = g->todo[g->next++];
        s->c->text.n = 0;
        buf_add(&s->c->text, "", 0);
        encode_prompt(g, s->c->task, &s->ids);
        s->n_prompt = s->ids.n;
        s->fed = 0;
        s->n_stops = prompt_stops(s->c->task, g->prompt, s->stop);
        s->sampler = sampler_for(g, s->c);
        if (!s->ids.n || s->ids.n >= (size_t)g->n_ctx) finish(g, s, "context");
    }
    if (s->c) g->backend->cut(g->engine, (int)(s - g->slot), 0);
}

/* Does the text, of which the last n bytes are new, hold a stop? Then it is cut before it. */
static bool cut_at_stop(Slot *s, size_t n) {
    Buf *text = &s->c->text;
    size_t end = text->n + 1;
    for (int i = 0; i < s->n_stops; i++) {
        size_t back = n + s->stop[i].n - 1, from = text->n > back ? text->n - back : 0;
        const char *hit = memmem(text->data + from, text->n - from, s->stop[i].s, s->stop[i].n);
        if (hit && (size_t)(hit - text->data) < end) end = (size_t)(hit - text->data);
    }
    if (end > text->n) return false;
    text->data[text->n = end] = 0;
    return true;
}

static int choose(const Generator *g, Slot *s, float *logits) {
    const Model *m = &g->model;
    int pos = (int)s->fed - 1;
    if (g->greedy) return likeliest(g->backend, g->engine, m, logits, pos);
    check_finite(m, logits, pos);
    mask_unused(m, logits);
    return sample(&s->sampler, logits, m->config.vocab_size);
}

/* The next token of a slot from its logits. */
static void advance(Generator *g, Slot *s, float *logits) {
    int id = choose(g, s, logits);
    size_t made = s->ids.n - s->n_prompt + 1;
    g->n_tokens++;
    if (is_stop(&g->model.vocab, id)) {
        finish(g, s, "stop");
        return;
    }
    Str piece = tokenizer_piece(g->tokenizer, id, true);
    buf_add(&s->c->text, piece.s, piece.n);
    ids_add(&s->ids, id);
    if (cut_at_stop(s, piece.n))
        finish(g, s, "stop");
    else if (made >= (size_t)g->opt->n_new)
        finish(g, s, "length");
    else if (s->ids.n >= (size_t)g->n_ctx)
        finish(g, s, "context");
}

static void show_progress(Generator *g, bool last) {
    double now = now_seconds(), spent = now - g->begun;
    if (g->opt->quiet || !isatty(2) || (!last && now - g->shown < 0.2)) return;
    g->shown = now;
    fprintf(stderr, "\rgenerating: %zu of %zu answers, %zu tokens, %.1f tok/s%s", g->finished, g->n,
            g->n_tokens, spent > 0 ? (double)g->n_tokens / spent : 0, last ? "\n" : "");
}

/* Where large batches round in another way than small ones (engine.h: equal_rows), a prompt goes
 * alone, so that an answer does not depend on its neighbours; elsewhere NULL. */
static const Slot *waiting_prompt(const Generator *g) {
    for (int i = 0; i < g->n_slots && g->backend->equal_rows; i++)
        if (g->slot[i].c && g->slot[i].fed < g->slot[i].n_prompt) return &g->slot[i];
    return NULL;
}

/* One pass: a token of every slot that is generating, and of the prompts what there is room for. */
static void pass(Generator *g, int *token, int *seq, int *pos, char *want) {
    Batch b = { 0, token, seq, pos, want };
    Slot *owner[BATCH];
    int n_wanted = 0;
    const Slot *alone = waiting_prompt(g);
    for (int prompts = 0; prompts < 2; prompts++)
        for (int i = 0; i < g->n_slots; i++) {
            Slot *s = &g->slot[i];
            if (!s->c || (s->fed < s->n_prompt) != prompts || (alone && s != alone)) continue;
            for (; s->fed < s->ids.n && b.n < BATCH; b.n++, s->fed++) {
                token[b.n] = s->ids.id[s->fed];
                seq[b.n] = i;
                pos[b.n] = (int)s->fed;
                want[b.n] = s->fed + 1 == s->ids.n;
                if (want[b.n]) owner[n_wanted++] = s;
            }
        }
    float *logits = g->backend->forward(g->engine, &b);
    for (int i = 0; i < n_wanted; i++)
        advance(g, owner[i], logits + (size_t)i * (size_t)g->model.config.vocab_size);
    for (int i = 0; i < g->n_slots; i++)
        if (!g->slot[i].c) take_next(g, &g->slot[i]);
}

/* ------------------------------------------------------------------------------------------------
 * The model */

/* Positions a sequence needs: the longest prompt and as many new tokens as are allowed. */
static int needed_context(const Generator *g) {
    size_t longest = 0;
    Ids ids = { 0 };
    const Task *before = NULL;
    for (size_t i = 0; i < g->n; i++) {
        if (g->todo[i]->task != before) encode_prompt(g, g->todo[i]->task, &ids);
        before = g->todo[i]->task;
        if (ids.n > longest) longest = ids.n;
    }
    free(ids.id);
    size_t most = (size_t)g->model.config.max_ctx, all = longest + (size_t)g->opt->n_new;
    if (g->prompt->compat && all > (size_t)g->opt->n_new) all = (size_t)g->opt->n_new;
    return (int)(all < most ? all : most);
}

static void open_model(Generator *g) {
    const GenerateOptions *o = g->opt;
    Error e;
    model_open(&g->model, o->model, o->verify);
    g->tokenizer = tokenizer_new(&g->model.vocab, &e);
    if (!g->tokenizer) die("%s: %s", o->model, e.text);
    g->im_start = vocab_find(&g->model.vocab, "<|im_start|>");
    g->im_end = vocab_find(&g->model.vocab, "<|im_end|>");
    if (g->prompt->chat && (g->im_start < 0 || g->im_end < 0))
        die("%s: no <|im_start|> and <|im_end|> in the vocabulary, expected a chat model",
            o->model);
    if (o->ctx > g->model.config.max_ctx)
        die_usage("-c: %lld, expected at most %d, what the model was trained for",
                  (long long)o->ctx, g->model.config.max_ctx);
    g->n_ctx = o->ctx ? (int)o->ctx : needed_context(g);
    g->n_slots = (int)((size_t)o->n_seq < g->n ? (size_t)o->n_seq : g->n);
    bool wide = o->exact || g->model.weights.wq->type == T_F32;
    EngineOptions e_opt = { .n_ctx = g->n_ctx,
                            .n_seq = g->n_slots,
                            .n_batch = BATCH,
                            .exact = o->exact,
                            .quiet = true,
                            .cache = wide ? T_F32 : T_F16 };
    g->backend = &ENGINE;
    e_opt.greedy = g->greedy = g->backend->likeliest && o->temperature <= 0;
    if (o->lora) lora_open(&g->lora, o->lora, &g->model.config, 1), e_opt.lora = &g->lora;
    g->engine = g->backend->open(&g->model, &e_opt);
    g->n_slots = rows_together(g->backend, g->engine, g->n_slots);
}

void generate(const Tasks *t, Completion *const *todo, size_t n, const GenerateOptions *o,
              const PromptOptions *p, void (*done)(Completion *c)) {
    static int token[BATCH], seq[BATCH], pos[BATCH];
    static char want[BATCH];
    Generator g = { .tasks = t, .opt = o, .prompt = p, .todo = todo, .n = n, .done = done };
    open_model(&g);
    g.slot = xcalloc((size_t)g.n_slots, sizeof *g.slot, "sequences");
    g.begun = now_seconds();
    for (int i = 0; i < g.n_slots; i++) take_next(&g, &g.slot[i]);
    while (g.finished < g.n) {
        pass(&g, token, seq, pos, want);
        show_progress(&g, g.finished == g.n);
    }
    double spent = now_seconds() - g.begun;
    if (!o->quiet)
        fprintf(stderr, "generated %zu answers, %zu tokens, %.2f tok/s in %d sequences\n", n,
                g.n_tokens, spent > 0 ? (double)g.n_tokens / spent : 0, g.n_slots);
    for (int i = 0; i < g.n_slots; i++) free(g.slot[i].ids.id);
    free(g.slot);
    g.backend->close(g.engine);
    lora_free(&g.lora);
    tokenizer_free(g.tokenizer);
    model_close(&g.model);
}
