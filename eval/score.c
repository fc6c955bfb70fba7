/* score.c: pass@k and how sure one can be of it.
 *
 * What to know first: of n answers to a task, c pass. pass@k is the chance that at least one of k
 * answers does. To count successes among the first k would be unbiased too, but noisier than
 *
 *     pass@k = 1 - C(n - c, k) / C(n, k)       the share of the sets of k that hold a right answer
 *
 * (Chen et al., arXiv:2107.03374, section 2.1), and 1 - (1 - c/n)^k would be biased. The score is
 * the mean over tasks; its interval comes from the bootstrap: tasks are drawn with replacement, as
 * many as there are, 10,000 times, and the middle 95 % of the means is reported. That says how much
 * the score would move with other tasks of this kind, not how the model would do elsewhere.
 * Test: tests/test_evaluate.py, against values computed by hand. */
#include "eval.h"

/* 1 - prod_{i = n-c+1}^{n} (1 - k / i): the fraction above, without its factorials. */
double pass_at_k(int n, int c, int k) {
    double none = 1;
    if (n - c < k) return 1;
    for (int i = n - c + 1; i <= n; i++) none *= 1 - (double)k / i;
    return 1 - none;
}

int double_cmp(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { RESAMPLINGS = 10000 };

/* Fills in the mean of value[n] and its interval; the same numbers give the same interval. */
static void bootstrap(PassAtK *p, const double *value, size_t n) {
    static double mean[RESAMPLINGS];
    uint64_t state = 0x9E3779B97F4A7C15u;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += value[i];
    p->value = p->low = p->high = n ? sum / (double)n : NAN;
    if (n < 2) return;
    for (int r = 0; r < RESAMPLINGS; r++) {
        sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += value[(size_t)((double)(next_random(&state) >> 11) * 0x1p-53 * (double)n)];
        mean[r] = sum / (double)n;
    }
    qsort(mean, RESAMPLINGS, sizeof *mean, double_cmp);
    p->low = mean[RESAMPLINGS / 40];
    p->high = mean[RESAMPLINGS - 1 - RESAMPLINGS / 40];
}

typedef struct {
    int n, passed;
} Count;

void score(Score *s, const Tasks *t, const Completions *all, const Language *language, int kind,
           const int *k, int n_k) {
    Count *count = xcalloc(t->n, sizeof *count, "scores");
    double *value = xcalloc(t->n, sizeof *value, "scores");
    int fewest = INT32_MAX;
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < all->n; i++) {
        const Completion *c = &all->c[i];
        Count *of = &count[c->task - t->task];
        if ((language && c->task->language != language) || (kind >= 0 && c->task->kind != kind) ||
            c->outcome.verdict == NOT_RUN || c->outcome.verdict == NOT_GRADED)
            continue;
        of->n++, s->total++;
        if (c->outcome.verdict == PASSED) of->passed++, s->passed++;
    }
    for (size_t i = 0; i < t->n; i++)
        if (count[i].n) s->n_tasks++, fewest = count[i].n < fewest ? count[i].n : fewest;
    for (int j = 0; j < n_k && s->n_at < 8; j++) {
        size_t n = 0;
        if (k[j] > fewest || !s->n_tasks) continue;
        for (size_t i = 0; i < t->n; i++)
            if (count[i].n) value[n++] = pass_at_k(count[i].n, count[i].passed, k[j]);
        PassAtK *p = &s->at[s->n_at++];
        p->k = k[j];
        bootstrap(p, value, n);
    }
    free(count);
    free(value);
}
