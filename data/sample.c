/* sample.c: `./refine sample`, fewer files of some languages.
 *
 *     ./refine sample clean.jsonl > sampled.jsonl                      as the paper: Java, HTML
 *     ./refine sample --none --ratio CSS=0.1 clean.jsonl > fewer.jsonl
 *
 * What to know first: OpenCoder keeps 200 of 449 GB of Java and 64 of 474 GB of HTML, because they
 * are many and alike (arXiv 2411.04905, section 2.1.1). Whether a file stays is decided by a number
 * drawn from its repo, path and the seed alone: the same files stay, however the input is ordered
 * or cut in pieces. Test: tests/test_refine.py. */

#include "refine.h"

static TextList ratios;
static int64_t seed = 42;
static double other = 1;
static bool none;

static const Option options[] = {
    { 'r', "ratio", NULL, "LANG=X", OPT_LIST, &ratios, 0, 0,
      "keep this part of a language's files; repeatable" },
    { 0, "other", NULL, "X", OPT_FLOAT, &other, 0, 1, "part of all other languages" },
    { 0, "none", NULL, NULL, OPT_FLAG, &none, 0, 0, "without the paper's Java=0.445, HTML=0.135" },
    { 's', "seed", NULL, "N", OPT_INT, &seed, 0, 9e15, "of the random numbers" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

typedef struct {
    Str language[18];
    double part[18];
    int n;
} Sample;

static void *sample_open(int n_threads) {
    Sample *s = xcalloc(1, sizeof *s, "sample");
    (void)n_threads;
    for (int i = 0; i < ratios.n; i++) {
        const char *text = ratios.text[i], *equals = strrchr(text, '=');
        if (!equals || equals == text)
            die_usage("--ratio: '%s', expected LANGUAGE=PART as in Java=0.445", text);
        s->language[s->n] = (Str){ text, (size_t)(equals - text) };
        s->part[s->n++] = parse_float("--ratio", equals + 1, 0, 1);
    }
    if (none) return s;
    s->language[s->n] = str_of("Java"), s->part[s->n++] = 200.0 / 449;
    s->language[s->n] = str_of("HTML"), s->part[s->n++] = 64.0 / 474;
    return s;
}

/* A number in [0, 1) that depends on all bytes of both. */
static double draw(const Document *d) {
    uint64_t h = (uint64_t)seed;
    const Str part[] = { d->repo, d->path };
    for (int k = 0; k < 2; k++) {
        h = mix64(h + 0x9E3779B97F4A7C15u);
        for (size_t i = 0; i < part[k].n; i++) h = (h ^ (uint8_t)part[k].s[i]) * 0x100000001B3u;
    }
    return (double)(mix64(h) >> 11) * 0x1p-53;
}

static bool sample_process(void *state, int thread, Document *d) {
    const Sample *s = state;
    double part = other;
    (void)thread;
    for (int i = s->n - 1; i >= 0; i--) /* what was given comes before the paper's */
        if (!str_cmp(s->language[i], d->language)) part = s->part[i];
    return draw(d) < part || document_drop(d, "sampled");
}

static void sample_close(void *state, Buf *stats) {
    (void)stats;
    free(state);
}

const Stage sample_stage = {
    "sample",    "keep a part of each language's files",
    "",          options,
    sample_open, sample_process,
    NULL,        sample_close,
};
