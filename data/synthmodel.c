/* synthmodel.c: a model answers the questions of `./refine synth`. See synth.h.
 *
 * What to know first: the engine of run.c, several answers at a time by prompts.h, as ./run
 * --prompts does. A question is OpenCoder's chat with the default system message; the markers are
 * tokens, the message between them is plain text, whatever it holds. Test: tests/test_synth.py. */

#include "synth.h"

#include "../lora.h"    /* lora_open */
#include "../prompts.h" /* prompts_run */

enum { BATCH = 256 };

typedef struct {
    Question **question; /* of each completion */
    Completion *all;
    Prompts prompts;
    size_t n, ended;
    double begun, shown;
    void (*done)(const Question *q);
} Writing;

static void show(Writing *w, bool last) {
    double now = now_seconds();
    if (common.quiet || !isatty(2) || (!last && now - w->shown < 0.2)) return;
    w->shown = now;
    fprintf(stderr, "\r\033[Kwriting: %zu of %zu answers, %zu tokens, %.1f tok/s%s", w->ended, w->n,
            w->prompts.n_written, (double)w->prompts.n_written / (now - w->begun + 1e-9),
            last ? "\n" : "");
}

static void answer_ended(void *arg, Completion *c) {
    Writing *w = arg;
    Question *q = w->question[c - w->all];
    q->answer = c->text;
    q->answer.n = c->text.data ? utf8_complete(c->text.data, c->text.n) : 0;
    q->finish = c->end;
    c->text = (Buf){ NULL, 0, 0 };
    w->ended++;
    w->done(q);
    show(w, w->ended == w->n);
}

static void encode_question(const Tokenizer *t, const Question *q, bool plain, Ids *ids) {
    if (plain) {
        tokenizer_encode_prompt(t, q->prompt.data, q->prompt.n, false, ids);
        return;
    }
    Buf text = { NULL, 0, 0 };
    buf_add(&text, CHAT_USER, sizeof CHAT_USER - 1);
    buf_add(&text, q->prompt.data, q->prompt.n);
    tokenizer_encode(t, CHAT_HEAD, sizeof CHAT_HEAD - 1, true, ids);
    tokenizer_encode(t, text.data, text.n, false, ids);
    tokenizer_encode(t, CHAT_TAIL, sizeof CHAT_TAIL - 1, true, ids);
    buf_free(&text);
}

/* The prompts as tokens; one that leaves no room for an answer gets none. Returns the longest. */
static size_t take_questions(Writing *w, Question *q, size_t n, const WriteOptions *o) {
    size_t longest = 0, most = (size_t)(o->ctx ? o->ctx : w->prompts.model->config.max_ctx);
    w->question = xcalloc(n, sizeof *w->question, "questions");
    w->all = xcalloc(n, sizeof *w->all, "questions");
    for (size_t i = 0; i < n; i++) {
        Completion c = { .own = q[i].key };
        if (q[i].finish) continue;
        encode_question(w->prompts.tokenizer, &q[i], o->plain, &c.prompt);
        if (!c.prompt.n || c.prompt.n >= most) {
            q[i].finish = "context";
            free(c.prompt.id);
            continue;
        }
        longest = c.prompt.n > longest ? c.prompt.n : longest;
        w->question[w->n] = &q[i];
        w->all[w->n++] = c;
    }
    return longest;
}

static void open_engine(Prompts *p, const Lora *lora, size_t longest, size_t n,
                        const WriteOptions *o) {
    const Model *m = p->model;
    size_t wanted = longest + (size_t)o->n_new, most = (size_t)m->config.max_ctx;
    p->n_ctx = o->ctx ? (int)o->ctx : (int)(wanted < most ? wanted : most);
    p->n_seq = (int)((size_t)o->n_seq < n ? (size_t)o->n_seq : n);
    p->n_batch = BATCH < p->n_ctx ? BATCH : p->n_ctx;
    EngineOptions e = { .n_ctx = p->n_ctx,
                        .n_seq = p->n_seq,
                        .n_batch = p->n_batch > p->n_seq ? p->n_batch : p->n_seq,
                        .cache = m->weights.wq->type == T_F32 ? T_F32 : T_F16,
                        .lora = lora,
                        .quiet = true };
    p->backend = &cpu_engine;
    p->engine = p->backend->open(m, &e);
    if (!common.quiet)
        fprintf(stderr, "%s: %zu answers to write, %d at a time, %d threads\n", m->path, n,
                p->n_seq, thread_count());
}

void write_answers(Question *q, size_t n, const WriteOptions *o, void (*done)(const Question *q)) {
    static const volatile sig_atomic_t never = 0; /* Ctrl-C ends the program; what is done stays */
    static const TextList no_stops;
    Writing w = { .done = done, .begun = now_seconds() };
    Model m;
    Lora lora = { 0 };
    Error e;
    model_open(&m, o->model, false);
    Tokenizer *t = tokenizer_new(&m.vocab, &e);
    if (!t) die("%s: %s", o->model, e.text);
    if (!o->plain &&
        (vocab_find(&m.vocab, "<|im_start|>") < 0 || vocab_find(&m.vocab, "<|im_end|>") < 0))
        die("%s: no <|im_start|> and <|im_end|> in the vocabulary, expected a chat model; see "
            "--plain",
            o->model);
    if (o->ctx > m.config.max_ctx)
        die_usage("-c: %lld, expected at most %d, what the model was trained for",
                  (long long)o->ctx, m.config.max_ctx);
    if (o->lora) lora_open(&lora, o->lora, &m.config, 1);
    w.prompts = (Prompts){ .model = &m,
                           .tokenizer = t,
                           .n_new = (int)o->n_new,
                           .stop = &no_stops,
                           .interrupted = &never,
                           .ended = answer_ended,
                           .arg = &w,
                           .sampler = { .temperature = (float)o->temperature,
                                        .top_p = (float)o->top_p,
                                        .top_k = (int)o->top_k,
                                        .repeat_penalty = 1,
                                        .random = mix64((uint64_t)o->seed + 1) | 1 } };
    size_t longest = take_questions(&w, q, n, o);
    if (w.n) {
        open_engine(&w.prompts, o->lora ? &lora : NULL, longest, w.n, o);
        prompts_run(&w.prompts, w.all, w.n);
        w.prompts.backend->close(w.prompts.engine);
    }
    for (size_t i = 0; i < w.n; i++) free(w.all[i].prompt.id);
    free(w.all);
    free(w.question);
    lora_free(&lora);
    tokenizer_free(t);
    model_close(&m);
}
