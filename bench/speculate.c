/* speculate.c: what speculate.h makes of a given text, without a model. A trained model would be
 * needed to say it; here the text is forced: what is "sampled" is what stands there, and proposals
 * are right where they agree with it. The clock is one of its own: a pass of n rows takes
 * 1 + C (n - 1) seconds, more or less by up to NOISE of that.
 *
 *     build/bench_speculate VOCAB C NOISE PROMPT TEXT [PROMPT TEXT ...]
 *
 * PROMPT and TEXT are files; TEXT may be `random`, tokens without any order, or `spite`, tokens
 * that are never what lookup expects. Prints a line for each pair: tokens of the prompt and of the
 * text, passes, proposed, accepted, and how much sooner the text is there than one by one; then how
 * often lookup was right after matches of 1, 2, ... tokens. Used by bench/speculate.py. */
#include "../opencoder.h" /* Batch, Tokenizer; and now_seconds, which is replaced below */

static double clock_now;
static double virtual_seconds(void) { return clock_now; }
#define now_seconds virtual_seconds
#include "../speculate.h" /* with that clock */

static double row_cost, noise;
static uint64_t random_state = 2411;
static float no_logits[SPEC_MOST + 1];

static double uniform(void) { return (double)(next_random(&random_state) >> 11) * 0x1p-53; }

static float *forced_forward(Engine *e, const Batch *b) {
    (void)e;
    clock_now += (1 + row_cost * (b->n - 1)) * (1 + noise * (2 * uniform() - 1));
    return no_logits;
}
static void forced_cut(Engine *e, int seq, int pos) { (void)e, (void)seq, (void)pos; }

static long right[SPEC_LONGEST + 1], tried[SPEC_LONGEST + 1];

/* The token at pos of a text that is made up. */
static int made_up(const Speculation *s, bool spite, int n_vocab) {
    int id = (int)(uniform() * (spite ? 8 : n_vocab));
    while (spite && s->n_match && id == s->token[s->match]) id = (id + 1) % 8;
    return id;
}

static void force(const Ids *prompt, const Ids *text, const char *name, int n_vocab) {
    static const EngineBackend forced = { NULL, forced_forward, forced_cut, NULL };
    Speculation s;
    Model one;
    bool spite = !strcmp(name, "spite"), given = !spite && strcmp(name, "random");
    int pos = (int)prompt->n, n = given ? (int)text->n : 2000;
    memset(&s, 0, sizeof s);
    memset(&one, 0, sizeof one);
    one.config.vocab_size = 1;
    spec_open(&s, &forced, NULL, &one, pos + n + 1);
    s.most = 16;
    clock_now = 0;
    spec_prompt(&s, prompt->id, 0, pos);
    spec_prompt_end(&s, pos, fmax(row_cost, 0.02));
    for (int i = 0; i < n; i++, pos++) {
        int length = s.n_match, expected = length ? s.token[s.match] : -1;
        int id = given ? text->id[i] : made_up(&s, spite, n_vocab);
        spec_step(&s, id, pos, (size_t)(n - i));
        if (length) tried[length]++, right[length] += id == expected;
    }
    printf("%s %zu %d %zu %zu %zu %.4f\n", name, prompt->n, n, s.passes, s.proposed, s.accepted,
           n / clock_now);
    spec_close(&s);
}

int main(int argc, char **argv) {
    Model m;
    Error e;
    if (argc < 6 || argc % 2) die_usage("expected VOCAB C NOISE PROMPT TEXT [PROMPT TEXT ...]");
    model_open_vocab(&m, argv[1]);
    row_cost = atof(argv[2]);
    noise = atof(argv[3]);
    Tokenizer *t = tokenizer_new(&m.vocab, &e);
    if (!t) die("%s: %s", argv[1], e.text);
    for (int i = 4; i < argc; i += 2) {
        Ids ids[2] = { { 0 }, { 0 } };
        for (int j = 0; j < 2; j++) {
            Buf text = { 0 };
            if (access(argv[i + j], R_OK)) continue; /* random, spite */
            read_file(argv[i + j], &text);
            tokenizer_encode(t, text.data, text.n, false, &ids[j]);
            buf_free(&text);
        }
        force(&ids[0], &ids[1], argv[i + 1], m.vocab.n);
        free(ids[0].id);
        free(ids[1].id);
    }
    for (int i = 1; i <= SPEC_LONGEST; i++)
        printf("after %d equal: %ld of %ld\n", i, right[i], tried[i]);
    tokenizer_free(t);
    model_close(&m);
    return 0;
}
