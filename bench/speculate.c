/* speculate.c: what speculate.h makes of a given text, without a model. A trained model would be
 * needed to say it; here the text is forced: what is "sampled" is what stands there, and proposals
 * are right where they agree with it. The clock is one of its own: a pass of n rows takes
 * 1 + C (n - 1) seconds, more or less by up to NOISE of that.
 *
 *     build/bench_speculate VOCAB C NOISE D A PROMPT TEXT [PROMPT TEXT ...]
 *
 * With D above 0 there is a draft, too: a token takes it D seconds, it is right with probability A,
 * and always that sure. PROMPT and TEXT are files; TEXT may be `random`, tokens without any order,
 * or `spite`, tokens that are never what lookup expects. Prints a line for each pair: TEXT, tokens
 * of the prompt and of the text, passes, proposed, accepted, and how much sooner the text is there
 * than one by one; then how often lookup was right after matches of 1, 2, ... tokens. Used by
 * bench/speculate.py. */
#include "../opencoder.h" /* Batch, Tokenizer; and now_seconds, which is replaced below */

static double clock_now;
static double virtual_seconds(void) { return clock_now; }
#define now_seconds virtual_seconds
#include "../speculate.h" /* with that clock */

static double row_cost, noise, draft_cost, draft_right;
static uint64_t random_state = 2411;
static Model model;   /* the vocabulary */
static Ids whole;     /* prompt and text, so far as they are known */
static Engine *draft; /* not NULL: so the two engines differ */
static float *draft_logits;
static long right[SPEC_LONGEST + 1], tried[SPEC_LONGEST + 1];

static double uniform(void) { return (double)(next_random(&random_state) >> 11) * 0x1p-53; }

static float *forced_forward(Engine *e, const Batch *b) {
    static float no_logits[SPEC_MOST + 1];
    double seconds = (e ? draft_cost : 1) * (1 + row_cost * (b->n - 1));
    clock_now += seconds * (1 + noise * (2 * uniform() - 1));
    if (!e) return no_logits;
    int n = model.vocab.n, pos = b->pos[b->n - 1] + 1;
    int id = (size_t)pos < whole.n && uniform() < draft_right ? whole.id[pos] : 0;
    memset(draft_logits, 0, (size_t)n * sizeof *draft_logits);
    draft_logits[id] = (float)log(draft_right * (n - 1) / (1 - draft_right));
    return draft_logits;
}
static void forced_cut(Engine *e, int seq, int pos) { (void)e, (void)seq, (void)pos; }

/* The token at pos of a text that is made up. */
static int made_up(const Speculation *s, bool spite) {
    int id = (int)(uniform() * (spite ? 8 : model.vocab.n));
    while (spite && s->n_match && id == s->token[s->match]) id = (id + 1) % 8;
    return id;
}

/* Says the text, of which whole.n - pos tokens are given. */
static void force(int pos, const char *name) {
    static const EngineBackend forced = { NULL, forced_forward, forced_cut, NULL };
    static const volatile sig_atomic_t interrupted = 0;
    Speculation s;
    Model one; /* a row of logits has one number, which nobody reads */
    bool spite = !strcmp(name, "spite"), given = !spite && strcmp(name, "random");
    int first = pos, n = given ? (int)whole.n - pos : 2000;
    memset(&s, 0, sizeof s);
    memset(&one, 0, sizeof one);
    one.config.vocab_size = 1;
    one.map.size = (size_t)((double)model.map.size / fmax(draft_cost, 0.01));
    spec_open(&s, &forced, NULL, &one, pos + n + 1);
    s.most = 16;
    clock_now = 0;
    if (draft_cost > 0) {
        int *cached = xcalloc((size_t)s.n_ctx, sizeof *cached, "tokens");
        s.draft = (Draft){ &model, &forced, draft, s.n_ctx, 0, cached, 0, &interrupted };
    }
    spec_prompt(&s, whole.id, 0, pos);
    spec_prompt_end(&s, pos, fmax(row_cost, 0.02));
    clock_now = 0;
    for (int i = 0; i < n; i++, pos++) {
        int length = s.n_match, expected = length ? s.token[s.match] : -1;
        int id = given ? whole.id[pos] : made_up(&s, spite);
        spec_step(&s, id, pos, (size_t)(n - i));
        if (length) tried[length]++, right[length] += id == expected;
    }
    printf("%s %d %d %zu %zu %zu %.4f\n", name, first, n, s.passes, s.proposed, s.accepted,
           n / clock_now);
    free(s.draft.cached);
    free(s.token);
}

int main(int argc, char **argv) {
    Error e;
    if (argc < 8 || argc % 2) die_usage("expected VOCAB C NOISE D A PROMPT TEXT ...");
    model_open_vocab(&model, argv[1]);
    double *number[] = { &row_cost, &noise, &draft_cost, &draft_right };
    for (int i = 0; i < 4; i++) *number[i] = atof(argv[i + 2]);
    Tokenizer *t = tokenizer_new(&model.vocab, &e);
    if (!t) die("%s: %s", argv[1], e.text);
    draft_logits = xcalloc((size_t)model.vocab.n, sizeof *draft_logits, "logits");
    draft = (Engine *)(void *)draft_logits;
    for (int i = 6; i < argc; i += 2) {
        size_t begins = 0;
        whole.n = 0;
        for (int j = 0; j < 2; j++) {
            Buf text = { 0 };
            if (access(argv[i + j], R_OK)) continue; /* random, spite */
            read_file(argv[i + j], &text);
            tokenizer_encode(t, text.data, text.n, false, &whole);
            if (!j) begins = whole.n;
            buf_free(&text);
        }
        force((int)begins, argv[i + 1]);
    }
    for (int i = 1; i <= SPEC_LONGEST; i++)
        printf("after %d equal: %ld of %ld\n", i, right[i], tried[i]);
    free(whole.id);
    free(draft_logits);
    tokenizer_free(t);
    model_close(&model);
    return 0;
}
