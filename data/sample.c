/* sample.c: `./refine sample`, fewer files of some languages.
 *
 *     ./refine sample clean.jsonl > sampled.jsonl                      as the paper: Java, HTML
 *     ./refine sample --none --ratio CSS=0.1 clean.jsonl > fewer.jsonl
 *     ./refine sample --budget Java=200GB --budget HTML=64GB clean.jsonl > fewer.jsonl
 *     ./refine sample --total 10GB --budget Python=40% clean.jsonl > small.jsonl
 *
 * What to know first: OpenCoder keeps 200 of 449 GB of Java and 64 of 474 GB of HTML, because they
 * are many and alike (arXiv 2411.04905, section 2.1.1). A ratio is the part of a language's files
 * that stays, and needs one pass: a file stays if the number that it draws (budget.h) is less. A
 * budget is an amount of bytes and needs two: with h(L) the bytes of a language's files,
 *
 *     w(L) = min(h(L), budget)                     of a language with a budget
 *     w(L) = h of those that the ratio keeps       of the others
 *     and with --total T, w of the others is multiplied by min(1, (T - budgets' w) / others' w)
 *
 * and of each language the longest run of files, in the order of what they drew, stays whose bytes
 * are at most w(L): it falls short by less than one file. Test: tests/test_refine_sample.py. */

#include "sample.h"
#include "budget.h"

static TextList ratios, budgets;
static int64_t seed = 42;
static double other = 1;
static bool none;
static const char *total_text;

static const Option options[] = {
    { 'r', "ratio", NULL, "LANG=X", OPT_LIST, &ratios, 0, 0,
      "keep this part of a language's files; repeatable" },
    { 0, "other", NULL, "X", OPT_FLOAT, &other, 0, 1, "part of all other languages" },
    { 0, "none", NULL, NULL, OPT_FLAG, &none, 0, 0, "without the paper's Java=0.445, HTML=0.135" },
    { 0, "budget", NULL, "LANG=SIZE", OPT_LIST, &budgets, 0, 0,
      "keep at most this of a language, as 200GB, or 5% of --total; repeatable" },
    { 0, "total", NULL, "SIZE", OPT_TEXT, &total_text, 0, 0,
      "keep at most this of all; what has no budget shrinks by the same factor" },
    { 's', "seed", NULL, "N", OPT_INT, &seed, 0, 9e15, "of the random numbers" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* A language that was named or seen. */
typedef struct {
    double part, budget; /* of its files; in bytes, -1: none */
    uint64_t limit;      /* files that draw less stay */
    Drawns files;
    uint64_t kept; /* bytes, where files are known */
} Quota;

static struct {
    Words languages; /* -> 1 + index */
    Quota *quota;
    size_t n;
    double total; /* bytes, -1: no limit */
    bool decided; /* limits are those of budgets */
} known;

static Quota *quota_of(Str language) {
    if (!language.n) language = str_of("unknown");
    Word *w = words_get(&known.languages, language.s, language.n);
    if (!w->value) {
        known.quota = (Quota *)xrealloc(known.quota, known.n + 1, sizeof *known.quota, "quota");
        known.quota[known.n] = (Quota){ .part = other, .budget = -1 };
        w->value = ++known.n;
    }
    return &known.quota[w->value - 1];
}

/* ------------------------------------------------------------------------------------------------
 * 1. The command line */

static double parse_budget(const char *text) {
    size_t n = strlen(text);
    char number[32];
    if (text[n - 1] != '%') return parse_amount("--budget", text);
    if (known.total < 0) die_usage("--budget: '%s', expected --total with it", text);
    snprintf(number, sizeof number, "%.*s", (int)(n - 1 < 31 ? n - 1 : 31), text);
    return known.total * parse_float("--budget", number, 0, 100) / 100;
}

static void parse_all(void) {
    double sum = 0;
    Str name;
    known.total = total_text ? parse_amount("--total", total_text) : -1;
    if (!none) quota_of(str_of("Java"))->part = 200.0 / 449;
    if (!none) quota_of(str_of("HTML"))->part = 64.0 / 474;
    for (int i = 0; i < ratios.n; i++) {
        const char *x =
            parse_assignment("--ratio", ratios.text[i], "LANGUAGE=PART as in Java=0.445", &name);
        quota_of(name)->part = parse_float("--ratio", x, 0, 1);
    }
    for (int i = 0; i < budgets.n; i++) {
        const char *x =
            parse_assignment("--budget", budgets.text[i], "LANGUAGE=SIZE as in Java=200GB", &name);
        quota_of(name)->budget = parse_budget(x);
    }
    for (size_t i = 0; i < known.n; i++)
        if (known.quota[i].budget > 0) sum += known.quota[i].budget;
    if (known.total >= 0 && sum > known.total * (1 + 1e-9))
        die_usage("--budget: %.0f bytes in all, expected at most the %.0f of --total", sum,
                  known.total);
    for (size_t i = 0; i < known.n; i++) known.quota[i].limit = draw_limit(known.quota[i].part);
}

/* ------------------------------------------------------------------------------------------------
 * 2. The first pass of budgets: sizes, then limits */

static void *sizes_open(int n_threads) {
    (void)n_threads;
    parse_all();
    return NULL;
}

static bool sizes_in_order(void *state, Document *d) {
    (void)state;
    drawns_add(&quota_of(d->language)->files,
               (Drawn){ document_draw(d, (uint64_t)seed), d->content.n });
    return true;
}

static uint64_t size_below(const Drawns *a, uint64_t limit) {
    uint64_t size = 0;
    for (size_t i = 0; i < a->n; i++) size += a->item[i].draw < limit ? a->item[i].size : 0;
    return size;
}

void sample_decide(void) {
    double of_budgets = 0, of_others = 0, factor = 1;
    for (size_t i = 0; i < known.n; i++) {
        Quota *q = &known.quota[i];
        q->limit = draw_limit(q->budget < 0 ? q->part : 1);
        q->kept = size_below(&q->files, q->limit);
        if (q->budget < 0)
            of_others += (double)q->kept;
        else
            of_budgets += fmin((double)q->kept, q->budget);
    }
    if (known.total >= 0 && of_budgets + of_others > known.total)
        factor = fmax(0, known.total - of_budgets) / of_others;
    for (size_t i = 0; i < known.n; i++) {
        Quota *q = &known.quota[i];
        double want = q->budget < 0 ? (double)q->kept * factor : q->budget;
        if ((double)q->kept > want) q->limit = drawns_limit(&q->files, want, &q->kept);
    }
    known.decided = true;
}

static const Stage sizes_stage = { "sizes", "", "", NULL, sizes_open, NULL, sizes_in_order, NULL };

const Stage *sample_before(void) { return budgets.n || total_text ? &sizes_stage : NULL; }

/* ------------------------------------------------------------------------------------------------
 * 3. The stage */

static void *sample_open(int n_threads) {
    (void)n_threads;
    if (!known.decided) parse_all();
    return NULL;
}

static bool sample_process(void *state, int thread, Document *d) {
    Str name = d->language.n ? d->language : str_of("unknown");
    const Word *w = words_find(&known.languages, name.s, name.n);
    uint64_t limit = w ? known.quota[w->value - 1].limit : draw_limit(other);
    (void)state, (void)thread;
    return document_draw(d, (uint64_t)seed) < limit || document_drop(d, "sampled");
}

static void report_short(const char *name, size_t n, const Quota *q) {
    char a[32], b[32];
    if (!common.quiet && (double)q->files.size < q->budget)
        fprintf(stderr, "short: %.*s has %s bytes, %s are wanted\n", (int)(n < 80 ? n : 80), name,
                grouped(q->files.size, a), grouped((uint64_t)q->budget, b));
}

static void sample_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    for (size_t i = 0; i < known.n; i++) {
        const Word *w = &known.languages.word[i];
        if (known.decided) report_short(known.languages.text.data + w->at, w->n, &known.quota[i]);
        drawns_free(&known.quota[i].files);
    }
    words_free(&known.languages);
    free(known.quota);
    memset(&known, 0, sizeof known);
}

const Stage sample_stage = {
    "sample",
    "keep a part of each language's files, or an amount",
    "Budgets are bytes of content, and need two passes: files are read twice, stdin waits on disk\n"
    "in $TMPDIR; 16 bytes of memory for each document. A language with a budget has no ratio.\n",
    options,
    sample_open,
    sample_process,
    NULL,
    sample_close,
};

bool run_budgets(const char **path, int n) {
    struct stat st;
    Pipeline first = { .stage = { sample_before() }, .n_stages = 1, .what = "sample: sizes" };
    Pipeline second = { .stage = { &sample_stage }, .n_stages = 1, .what = "sample" };
    if (!first.stage[0]) return false;
    if (common.resume) die_usage("--resume: given with budgets, which must see all documents");
    if (common.out && !stat(common.out, &st) && S_ISDIR(st.st_mode))
        die_usage("-o: %s is a directory, expected a file: budgets are of all documents",
                  common.out);
    for (int i = 0; common.out && i < n; i++)
        if (same_file(path[i], common.out))
            die_usage("%s: is read and to be written, expected another name", common.out);
    pipeline_twice(&first, sample_decide, &second, path, n);
    return true;
}
