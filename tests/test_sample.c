/* test_sample.c: sample() of run.c draws from the right probabilities. They are computed here a
 * second time, in double and by ranks instead of a sort; then 20000 draws are counted. The seeds
 * are fixed, so that a result never depends on luck. */
#include "../opencoder.h" /* Sampler, sample */
#include "test.h"

enum { DRAWS = 20000, MOST = 512 }; /* MOST: the largest vocabulary here */

#define SEED 0x9E3779B97F4A7C15ull

static Sampler cut(float temperature, int top_k, float top_p, float min_p) {
    return (Sampler){ .temperature = temperature,
                      .top_k = top_k,
                      .top_p = top_p,
                      .min_p = min_p,
                      .repeat_penalty = 1,
                      .random = SEED };
}

/* Of n tokens generated lately. */
static Sampler penal(Sampler s, float penalty, const int *recent, int n) {
    s.repeat_penalty = penalty;
    s.n_recent = n;
    memcpy(s.recent, recent, (size_t)n * sizeof *recent);
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * The reference: p (n), zero where a token may not be drawn */

static void penalize(double *l, int n, const Sampler *s) {
    for (int id = 0; id < n; id++) {
        bool seen = false;
        for (int i = 0; i < s->n_recent; i++) seen |= s->recent[i] == id;
        if (seen && l[id] > 0)
            l[id] /= (double)s->repeat_penalty;
        else if (seen)
            l[id] *= (double)s->repeat_penalty;
    }
}

/* Divides p by its sum, which it returns. */
static double normalize(double *p, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += p[i];
    for (int i = 0; i < n; i++) p[i] /= sum;
    return sum;
}

/* How many are likelier than token id, or as likely and before it; *mass is their sum. */
static int rank(const double *p, int n, int id, double *mass) {
    int above = 0;
    *mass = 0;
    for (int i = 0; i < n; i++)
        if (p[i] > p[id] || (p[i] == p[id] && i < id)) above++, *mass += p[i];
    return above;
}

static void expect(double *p, const float *logits, int n, const Sampler *s) {
    double best = -INFINITY, above, all[MOST];
    for (int i = 0; i < n; i++) p[i] = (double)logits[i];
    penalize(p, n, s);
    for (int i = 0; i < n; i++) best = fmax(best, p[i]);
    for (int i = 0; i < n; i++) p[i] = exp((p[i] - best) / (double)s->temperature);
    normalize(p, n);
    memcpy(all, p, (size_t)n * sizeof *p);
    best = 0;
    for (int i = 0; i < n; i++) best = fmax(best, p[i]);
    for (int i = 0; i < n; i++) {
        bool out = p[i] < (double)s->min_p * best;
        if (out || (s->top_k && rank(all, n, i, &above) >= s->top_k)) p[i] = 0;
    }
    normalize(p, n); /* top-p counts in what min-p and top-k have left */
    memcpy(all, p, (size_t)n * sizeof *p);
    for (int i = 0; i < n; i++) {
        int place = rank(all, n, i, &above);
        if (s->top_p < 1 && place && above >= (double)s->top_p) p[i] = 0;
    }
    normalize(p, n);
}

/* ------------------------------------------------------------------------------------------------
 * Draws against the reference */

/* Draws from the same logits and the same recent tokens each time; the generator goes on. */
static void draw(int *count, const float *logits, int n, Sampler s, int draws) {
    float scratch[MOST];
    memset(count, 0, (size_t)n * sizeof *count);
    for (int i = 0; i < draws; i++) {
        Sampler one = s;
        memcpy(scratch, logits, (size_t)n * sizeof *scratch);
        int id = sample(&one, scratch, n);
        s.random = one.random;
        if (id < 0 || id >= n) die("sample: token %d, expected less than %d", id, n);
        count[id]++;
    }
}

/* Chi-square over the tokens of at least 5 expected draws, the rest together as one; four standard
 * deviations above its mean are allowed. A token of probability 0 must not come at all. */
static void check_draws(const char *name, const float *logits, int n, Sampler s) {
    double p[MOST], chi = 0, rest = 0, rest_seen = 0;
    int count[MOST], cells = -1, wrong = -1;
    char why[128];
    expect(p, logits, n, &s);
    draw(count, logits, n, s, DRAWS);
    for (int i = 0; i < n; i++) {
        double want = p[i] * DRAWS, seen = count[i];
        if (p[i] <= 0 && count[i]) wrong = i;
        if (want < 5) {
            rest += want, rest_seen += seen;
            continue;
        }
        chi += (seen - want) * (seen - want) / want;
        cells++;
    }
    if (rest >= 5) chi += (rest_seen - rest) * (rest_seen - rest) / rest, cells++;
    snprintf(why, sizeof why, "token %d has probability 0", wrong);
    check(wrong < 0, why, "%s: nothing but candidates", name);
    snprintf(why, sizeof why, "chi-square %.1f, %d degrees of freedom", chi, cells);
    check(chi <= cells + 4 * sqrt(2.0 * cells) + 1e-9, why, "%s: frequencies", name);
}

/* n logits between -4 and 4 without a pattern, the likeliest not in front. */
static void fill(float *logits, int n) {
    for (int i = 0; i < n; i++) logits[i] = (float)((i * 7919 + 13) % 1009) / 126.0f - 4;
}

static void test_frequencies(void) {
    float l[MOST];
    const int some[] = { 3, 3, 11, 20, 20, 36 }, others[] = { 0, 5, 5, 5, 30 };
    const struct {
        const char *name;
        int n;
        Sampler s;
    } cases[] = {
        { "temperature 1", 37, cut(1, 0, 1, 0) },
        { "temperature 0.3", 37, cut(0.3f, 0, 1, 0) },
        { "temperature 5, V 353", 353, cut(5, 0, 1, 0) },
        { "top-k 5", 37, cut(1, 5, 1, 0) },
        { "top-k above V", 37, cut(1, 1000, 1, 0) },
        { "top-p 0.5", 37, cut(1, 0, 0.5f, 0) },
        { "top-p 0.93, V 353", 353, cut(1, 0, 0.93f, 0) },
        { "min-p 0.2", 37, cut(1, 0, 1, 0.2f) },
        { "top-k 9, top-p 0.7", 37, cut(1, 9, 0.7f, 0) },
        { "top-k 9, min-p 0.3", 37, cut(1, 9, 1, 0.3f) },
        { "top-p 0.6, min-p 0.05", 37, cut(1, 0, 0.6f, 0.05f) },
        { "all three, temperature 0.8", 353, cut(0.8f, 60, 0.8f, 0.1f) },
        { "penalty 1.7", 37, penal(cut(1, 0, 1, 0), 1.7f, some, 6) },
        { "penalty 0.5, top-k 12", 37, penal(cut(1, 12, 1, 0), 0.5f, others, 5) },
        { "V 2", 2, cut(1, 0, 1, 0) },
        { "V 1", 1, cut(1, 3, 0.9f, 0.5f) },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fill(l, cases[i].n);
        check_draws(cases[i].name, l, cases[i].n, cases[i].s);
    }
}

/* Equal logits, and those of tokens that are never to be chosen, as mask_unused sets them. */
static void test_ties_and_masks(void) {
    float l[9] = { 1, 2, 2, -1e30f, 2, 2, -1e30f, 1, -1e30f }, masked[5];
    for (int i = 0; i < 5; i++) masked[i] = i == 3 ? -2 : -1e30f;
    check_draws("ties", l, 9, cut(1, 0, 1, 0));
    check_draws("ties, top-k 3", l, 9, cut(1, 3, 1, 0));
    check_draws("ties, top-p 0.3", l, 9, cut(1, 0, 0.3f, 0));
    check_draws("ties, min-p 1", l, 9, cut(1, 0, 1, 1));
    check_draws("masked, temperature 100", l, 9, cut(100, 0, 1, 0));
    check_draws("masked, penalty", l, 9, penal(cut(1, 0, 1, 0), 0.01f, (const int[]){ 3, 6 }, 2));
    check_draws("all but one masked", masked, 5, cut(1, 0, 0.9f, 0));
    check_draws("temperature 1e-40, ties", l, 9, cut(1e-40f, 0, 1, 0));
}

/* ------------------------------------------------------------------------------------------------
 * What is not a matter of chance */

static int once(const float *logits, int n, Sampler s) {
    float scratch[MOST];
    memcpy(scratch, logits, (size_t)n * sizeof *scratch);
    return sample(&s, scratch, n);
}

/* Cases of one candidate: the answer is known, whatever is drawn. */
static void test_certain(void) {
    float l[37], ties[4] = { 1, 3, 3, 3 }, none[1] = { -1e30f };
    int best = 0;
    fill(l, 37);
    for (int i = 0; i < 37; i++)
        if (l[i] > l[best]) best = i;
    for (uint64_t seed = 1; seed < 50; seed++) {
        Sampler one[] = { cut(0, 0, 1, 0), cut(1e-40f, 0, 1, 0), cut(0.001f, 0, 1, 0),
                          cut(1, 1, 1, 0), cut(1, 0, 0, 0),      cut(1, 0, 1e-6f, 0),
                          cut(1, 0, 1, 1) };
        bool all = true;
        for (size_t i = 0; i < sizeof one / sizeof *one; i++) {
            one[i].random = seed * SEED + 1;
            all &= once(l, 37, one[i]) == best;
            all &= once(none, 1, one[i]) == 0;
        }
        check(all, "another token was drawn", "one candidate, seed %d", (int)seed);
    }
    CHECK_INT(once(ties, 4, cut(0, 0, 1, 0)), 1);
    CHECK_INT(once(ties, 4, cut(1, 1, 1, 0)), 1);
    CHECK_INT(once(ties, 4, cut(1, 0, 0, 0)), 1);
}

/* At temperature 0: a penalty of 1000 takes each token out for 64 turns, so 65 take turns. */
static void test_penalty(void) {
    Sampler s = penal(cut(0, 0, 1, 0), 1000, (const int[]){ 0 }, 0);
    int wrong = 0;
    for (int turn = 0; turn < 300; turn++) {
        float l[100];
        for (int i = 0; i < 100; i++) l[i] = (float)(200 - i);
        wrong += sample(&s, l, 100) != turn % 65;
        wrong += s.n_recent != (turn < 63 ? turn + 1 : 64);
    }
    CHECK_INT(wrong, 0);
    float up[2] = { 3, 2 }, down[2] = { -2, -3 };
    Sampler twice = penal(cut(0, 0, 1, 0), 1.4f, (const int[]){ 0, 0, 0 }, 3);
    CHECK_INT(once(up, 2, twice), 0); /* 3 / 1.4 > 2, though 3 / 1.4^3 < 2 */
    twice.repeat_penalty = 1.6f;
    CHECK_INT(once(up, 2, twice), 1);
    CHECK_INT(once(down, 2, twice), 1); /* -2 * 1.6 < -3, though -2 / 1.6 > -3 */
    twice.repeat_penalty = 1.4f;
    CHECK_INT(once(down, 2, twice), 0);
}

static void draws_of(int *ids, uint64_t seed) {
    float l[101];
    Sampler s = cut(1, 0, 1, 0);
    s.random = seed * SEED + 1; /* as session_open does */
    for (int i = 0; i < 200; i++) {
        fill(l, 101);
        ids[i] = sample(&s, l, 101);
    }
}

static void test_seeds(void) {
    int first[200], again[200], other[200], equal;
    draws_of(first, 0);
    draws_of(again, 0);
    check_same("the same seed, the same draws", first, again, sizeof first);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        equal = 0;
        draws_of(other, seed);
        for (int i = 0; i < 200; i++) equal += first[i] == other[i];
        check(equal < 50, "most draws are the same", "seed %d, other draws", (int)seed);
    }
}

int main(void) {
    test_frequencies();
    test_ties_and_masks();
    test_certain();
    test_penalty();
    test_seeds();
    return test_end();
}
