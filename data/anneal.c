/* anneal.c: `./refine anneal`, the algorithmic corpus of the annealing stage.
 *
 *     ./refine anneal clean.jsonl > algorithmic.jsonl
 *     ./refine anneal --phrase "dynamic programming" --phrase codeforces clean.jsonl > own.jsonl
 *     ./refine anneal --mix original=clean.jsonl algorithmic=algorithmic.jsonl > mixture.jsonl
 *
 * What to know first: OpenCoder anneals on its own distribution and on what is denser in
 * algorithms: files in which one of three phrases occurs (arXiv 2411.04905, section 2.2.1). Case is
 * ignored in A to Z: the paper writes the phrases in small letters, and code has "LeetCode" and
 * "class Solution". A phrase may stand within longer words ("def solutions"), and its space is one
 * space. Mixing is in mix.c. Test: tests/test_anneal.py. */

#include "mix.h"
#include "signals.h" /* small_letters */

static TextList phrases;
static bool keep_case;

static const char *const papers[] = { "leetcode", "def solution", "class solution" };

static const Option options[] = {
    { 0, "phrase", NULL, "TEXT", OPT_LIST, &phrases, 0, 0,
      "keep files with this in them, in place of the paper's phrases; repeatable" },
    { 0, "case", NULL, NULL, OPT_FLAG, &keep_case, 0, 0, "capital letters are others than small" },
    { 0, "mix", NULL, NULL, OPT_FLAG, &mix_options.wanted, 0, 0,
      "files are PART=FILE: write one mixture of them" },
    { 0, "share", NULL, "PART=X", OPT_LIST, &mix_options.shares, 0, 0,
      "of the mixture, in percent or any unit; repeatable" },
    { 0, "total", NULL, "SIZE", OPT_TEXT, &mix_options.total, 0, 0,
      "of the mixture, as 10GB; default: the most of which no part is short" },
    { 0, "repeat", NULL, "N", OPT_INT, &mix_options.repeat, 1, 1000,
      "use what is short up to N times" },
    { 0, "tokenizer", NULL, "MODEL", OPT_TEXT, &mix_options.tokenizer, 0, 0,
      "sizes are tokens of this GGUF; default: bytes" },
    { 's', "seed", NULL, "N", OPT_INT, &mix_options.seed, 0, 9e15, "of the choice" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

typedef struct {
    Str phrase[16]; /* in small letters, unless case counts */
    const char *name[16];
    Buf small[16];
    int n, n_threads;
    Buf *text; /* a thread's content in small letters */
} Anneal;

static void *anneal_open(int n_threads) {
    Anneal *a = xcalloc(1, sizeof *a, "phrases");
    a->text = xcalloc((size_t)n_threads, sizeof *a->text, "phrases");
    a->n_threads = n_threads;
    a->n = phrases.n ? phrases.n : (int)(sizeof papers / sizeof *papers);
    for (int i = 0; i < a->n; i++) {
        Str s = str_of(a->name[i] = phrases.n ? phrases.text[i] : papers[i]);
        if (!s.n) die_usage("--phrase: is empty, expected a text");
        small_letters(&a->small[i], s);
        a->phrase[i] = keep_case ? s : (Str){ a->small[i].data, s.n };
    }
    return a;
}

static bool anneal_process(void *state, int thread, Document *d) {
    Anneal *a = state;
    Str text = d->content;
    bool any = false;
    if (!keep_case) {
        small_letters(&a->text[thread], text);
        text = (Str){ a->text[thread].data, text.n };
    }
    for (int i = 0; i < a->n; i++) {
        if (!memmem(text.s, text.n, a->phrase[i].s, a->phrase[i].n)) continue;
        document_count(d, a->name[i]);
        any = true;
    }
    return any || document_drop(d, "no key phrase");
}

static void anneal_close(void *state, Buf *stats) {
    Anneal *a = state;
    (void)stats;
    for (int i = 0; i < a->n_threads; i++) buf_free(&a->text[i]);
    for (int i = 0; i < a->n; i++) buf_free(&a->small[i]);
    free(a->text);
    free(a);
}

const Stage anneal_stage = {
    "anneal",
    "keep the algorithmic files; with --mix, mix parts by their shares",
    "Kept is what has one of leetcode, \"def solution\", \"class solution\", in capitals or not.\n"
    "With --mix: PART=FILE..., a part may have several files. Shares of the paper in percent:\n"
    "original 84, algorithmic 12.4, snippets 2.7, textbooks 0.9; of any other part, --share.\n",
    options,
    anneal_open,
    anneal_process,
    NULL,
    anneal_close,
};
