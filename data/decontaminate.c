/* decontaminate.c: `./refine decontaminate`, nothing of a benchmark stays in the training text.
 *
 *     ./refine decontaminate --against HumanEval.jsonl --against mbpp.jsonl clean.jsonl > out.jsonl
 *
 * What to know first: OpenCoder drops what holds the name of a benchmark's function or shares 10
 * words in a row with it (arXiv 2411.04905, section 4.4, about instruction data). Many of those
 * names are plain words ("add", "encode"), so by default a name counts where a function of that
 * name is defined; --entry word is the paper's rule. A task is a line of JSON as in HumanEval
 * (prompt, entry_point, canonical_solution, test) or MBPP (text or prompt, code, test_list); where
 * no entry point is given, it is the first function that its code defines. Words are compared in
 * lower case, names as they are. Test: tests/test_refine.py. */

#include "dedup.h" /* next_word */

static TextList against;
static const char *entry = "definition";
static int64_t ngram = 10;

static const Option options[] = {
    { 'a', "against", NULL, "FILE", OPT_LIST, &against, 0, 0,
      "a benchmark as JSON Lines; repeatable" },
    { 0, "entry", NULL, "HOW", OPT_TEXT, &entry, 0, 0,
      "names of functions count as a definition, a word or none [definition]" },
    { 0, "words", NULL, "N", OPT_INT, &ngram, 2, 64, "words in a row that may not be shared" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* A set of 64-bit hashes, none of them 0. */
typedef struct {
    uint64_t *slot;
    size_t n;
    int bits;
} Set;

static bool set_has(const Set *s, uint64_t h) {
    size_t mask = ((size_t)1 << s->bits) - 1, i = h & mask;
    while (s->slot && s->slot[i] && s->slot[i] != h) i = (i + 1) & mask;
    return s->slot && s->slot[i];
}

static void set_add(Set *s, uint64_t h) {
    if (set_has(s, h)) return;
    if (!s->slot || s->n * 2 >= (size_t)1 << s->bits) {
        Set old = *s;
        *s = (Set){ NULL, 0, old.slot ? old.bits + 1 : 10 };
        s->slot = xcalloc((size_t)1 << s->bits, sizeof *s->slot, "10-grams");
        for (size_t i = 0; old.slot && i < (size_t)1 << old.bits; i++)
            if (old.slot[i]) set_add(s, old.slot[i]);
        free(old.slot);
    }
    size_t mask = ((size_t)1 << s->bits) - 1, i = h & mask;
    while (s->slot[i]) i = (i + 1) & mask;
    s->slot[i] = h;
    s->n++;
}

typedef struct {
    Set grams, names, keywords;
    bool word;
} Bench;

/* Calls a set for the hashes of all ngram words in a row: adds them, or tells whether one is there.
 * The hash is a polynomial of the words' hashes, as in minhash.c. */
static bool walk_grams(Set *s, Str text, bool add) {
    const uint64_t base = 0x9E3779B97F4A7C15u;
    const char *p = text.s, *end = p + text.n;
    uint64_t word[64] = { 0 }, sum = 0, first = 1, w;
    size_t words = 0, k = (size_t)ngram;
    for (size_t i = 0; i < k; i++) first *= base;
    while (next_word(&p, end, true, &w)) {
        uint64_t old = word[words % k]; /* 0 for the first k */
        word[words++ % k] = w;
        sum = sum * base + w - old * first;
        if (words < k) continue;
        uint64_t h = mix64(sum) | 1;
        if (add)
            set_add(s, h);
        else if (set_has(s, h))
            return true;
    }
    return false;
}

static bool walk_names(const Bench *b, Str text) {
    const char *p = text.s, *end = p + text.n;
    uint64_t w, before = 0;
    for (; next_word(&p, end, false, &w); before = w) {
        if (!set_has(&b->names, w)) continue;
        if (b->word || (p < end && *p == '(' && set_has(&b->keywords, before))) return true;
    }
    return false;
}

static void add_name(Set *s, Str name) {
    const char *p = name.s, *end = p + name.n;
    uint64_t w;
    while (next_word(&p, end, false, &w)) set_add(s, w);
}

static void add_strings(Bench *b, const Json *j) {
    if (j && j->type == J_STRING) walk_grams(&b->grams, j->str, true);
    if (j && j->type == J_ARRAY)
        for (const Json *x = json_first(j); x; x = json_next(j, x)) add_strings(b, x);
}

/* What follows the first "def " of Python code, up to its parenthesis. */
static void add_first_function(Bench *b, const Json *code) {
    if (!code || code->type != J_STRING) return;
    const char *s = code->str.s, *end = s + code->str.n, *at = memmem(s, code->str.n, "def ", 4);
    const char *stop = at ? memchr(at, '(', (size_t)(end - at)) : NULL;
    if (stop) add_name(&b->names, (Str){ at + 4, (size_t)(stop - at) - 4 });
}

static void add_task(Bench *b, const Json *task) {
    static const char *const texts[] = { "prompt", "text", "canonical_solution",
                                         "code",   "test", "test_list" };
    const Json *name = json_get(task, "entry_point");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        add_strings(b, json_get(task, texts[i]));
    if (name && name->type == J_STRING)
        add_name(&b->names, name->str);
    else
        add_first_function(b, json_get(task, "code"));
}

static void *bench_open(int n_threads) {
    static const char *const keywords[] = { "def", "function", "func", "fn", "sub", "fun" };
    Bench *b = xcalloc(1, sizeof *b, "benchmarks");
    Document d = { 0 };
    Error e;
    (void)n_threads;
    document_reset(&d);
    if (!against.n) die_usage("--against: not given, expected a benchmark's tasks as JSON Lines");
    if (strcmp(entry, "definition") && strcmp(entry, "word") && strcmp(entry, "none"))
        die_usage("--entry: '%s', expected definition, word or none", entry);
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        add_name(&b->keywords, str_of(keywords[i]));
    Source *s = source_lines(against.text, against.n);
    for (; s->next(s, &d); document_reset(&d)) {
        if (!json_parse(&d.json, d.raw.data, d.raw.n, &e))
            die("%s:%lld: %s", d.from, (long long)d.line, e.text);
        add_task(b, d.json.node);
    }
    source_close(s);
    document_free(&d);
    if (!b->grams.n && !b->names.n)
        die("%s: no prompt, text, code or test in it, expected tasks", against.text[0]);
    b->word = !strcmp(entry, "word");
    if (!strcmp(entry, "none")) free(b->names.slot), b->names = (Set){ NULL, 0, 0 };
    return b;
}

static bool bench_process(void *state, int thread, Document *d) {
    Bench *b = state;
    (void)thread;
    if (walk_names(b, d->content)) return document_drop(d, "entry point");
    return !walk_grams(&b->grams, d->content, false) || document_drop(d, "words in a row");
}

static void bench_close(void *state, Buf *stats) {
    Bench *b = state;
    (void)stats;
    free(b->grams.slot), free(b->names.slot), free(b->keywords.slot);
    free(b);
}

const Stage decontaminate_stage = {
    "decontaminate", "drop what is in a benchmark", "", options, bench_open, bench_process, NULL,
    bench_close,
};
bool decontaminate_wanted(void) { return against.n > 0; }
