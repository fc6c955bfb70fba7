/* progress.h: what a training run tells: a line on stderr, a line of CSV, a plot.
 *
 * What to know first: the CSV is the record. It gets one line an update, written out at once; a
 * resumed run cuts it back to the step of its checkpoint and goes on, so it ends up as if nothing
 * had happened but for the columns of time; and the plot is drawn from it.
 * Sections: 1 the CSV, 2 the plot, 3 the line on stderr, 4 samples, 5 signals.
 * Test: tests/test_trainloop.py. */
#ifndef OC_PROGRESS_H
#define OC_PROGRESS_H

#include "opencoder.h" /* cpu_engine, sample */
#include "svg.h"       /* svg_plot */

/* What one update reports; NaN where there is nothing to report. */
typedef struct {
    int64_t step, tokens; /* of the run so far, this update included */
    double loss, norm, lr, val_loss, val_bits;
    int64_t new_tokens;  /* of this update */
    const char *skipped; /* why no weight changed, or NULL */
} Update;

typedef struct {
    char *path; /* of the CSV */
    FILE *csv;
    int64_t steps, log_every; /* updates in all; between lines on stderr */
    double flops, peak;       /* of a token; of the machine in a second */
    double begun, last;       /* seconds: the run, the end of the last update */
    double pace, rate, shown; /* seconds an update, tokens a second (smoothed); last line */
} Progress;

/* ------------------------------------------------------------------------------------------------
 * 1. The CSV */

static const char csv_header[] = "step,tokens,loss,grad_norm,lr,val_loss,val_bits_per_byte,"
                                 "seconds,tokens_per_second\n";

/* Bytes of CSV text up to and with the line of `step`. */
OC_API size_t csv_until(const Buf *text, int64_t step) {
    size_t at = sizeof csv_header - 1;
    for (char *end; at < text->n; at = (size_t)(end - text->data) + 1) {
        end = memchr(text->data + at, '\n', text->n - at);
        if (!end || strtoll(text->data + at, NULL, 10) > step) break;
    }
    return at;
}

/* Opens OUT.csv behind the line of `step`; an empty one when a run begins. Only a file that train
 * has made is cut. */
OC_API void csv_open(Progress *p, const char *out, int64_t step) {
    Buf text = { NULL, 0, 0 }, path = { NULL, 0, 0 };
    buf_add(&path, out, strlen(out));
    buf_add(&path, ".csv", 4);
    p->path = path.data;
    size_t keep = 0, head = sizeof csv_header - 1;
    static const char lost[sizeof csv_header]; /* by a power failure: zeros for the first line */
    struct stat st;
    if (!stat(p->path, &st)) {
        if (!S_ISREG(st.st_mode))
            die("%s: exists and is not a regular file, expected the record of a run", p->path);
        read_file(p->path, &text);
        size_t n = text.n < head ? text.n : head;
        if (n && memcmp(text.data, csv_header, n) && memcmp(text.data, lost, n))
            die("%s: first line is not that of train, expected the record of a run", p->path);
        if (step > 0 && n == head && text.data[0]) keep = csv_until(&text, step);
        if (truncate(p->path, (off_t)keep)) die("%s: cannot cut: %s", p->path, strerror(errno));
    }
    p->csv = fopen(p->path, keep ? "a" : "w");
    if (!p->csv || (!keep && fputs(csv_header, p->csv) < 0) || fflush(p->csv))
        die("%s: cannot write: %s", p->path, strerror(errno));
    buf_free(&text);
}

OC_API void csv_number(FILE *f, const char *format, double v) {
    fputc(',', f);
    if (isfinite(v)) fprintf(f, format, v);
}

OC_API void csv_add(Progress *p, const Update *u, double seconds, double rate) {
    fprintf(p->csv, "%lld,%lld", (long long)u->step, (long long)u->tokens);
    const double value[] = { u->loss, u->norm, u->lr, u->val_loss, u->val_bits };
    for (int i = 0; i < 5; i++) csv_number(p->csv, "%.9g", value[i]);
    csv_number(p->csv, "%.3f", seconds);
    csv_number(p->csv, "%.1f", rate);
    if (fputc('\n', p->csv) < 0 || fflush(p->csv))
        die("%s: cannot write: %s", p->path, strerror(errno));
}

/* ------------------------------------------------------------------------------------------------
 * 2. The plot */

/* Draws losses and learning rate of a CSV file as SVG, under the name of the model. */
OC_API void draw_plot(const char *csv, const char *svg, const char *model) {
    enum { X, LOSS, RATE, VAL, SMOOTH, COLUMNS };
    static const int field[] = { X, -1, LOSS, -1, RATE, VAL };
    double *column[COLUMNS], mean = NAN;
    Buf text = { NULL, 0, 0 }, picture = { NULL, 0, 0 };
    size_t n = 0, most = 0;
    read_file(csv, &text);
    for (size_t i = 0; i < text.n; i++) most += text.data[i] == '\n';
    for (int c = 0; c < COLUMNS; c++) column[c] = (double *)xcalloc(most, sizeof(double), csv);
    const char *line = strchr(text.data, '\n'), *end;
    for (; line && (end = strchr(++line, '\n')) && n < most; line = end, n++) {
        for (int c = 0; c < COLUMNS; c++) column[c][n] = NAN;
        for (int f = 0; f < 6 && line <= end; f++, line += strcspn(line, ",\n") + 1)
            if (field[f] >= 0 && *line != ',' && *line != '\n')
                column[field[f]][n] = strtod(line, NULL);
    }
    for (size_t i = 0; i < n; i++) { /* a running mean over a fiftieth of the run */
        double l = column[LOSS][i], share = 1 / (1 + (double)(i < n / 50 ? i : n / 50));
        if (isfinite(l)) mean = isfinite(mean) ? mean + share * (l - mean) : l;
        column[SMOOTH][i] = mean;
    }
    size_t n_val = 0; /* only the updates that validated, joined to one line */
    double *val_x = (double *)xcalloc(most, sizeof *val_x, csv);
    for (size_t i = 0; i < n; i++)
        if (isfinite(column[VAL][i]))
            val_x[n_val] = column[X][i], column[VAL][n_val++] = column[VAL][i];
    SvgLine lines[] = {
        { "training loss", "#9ecae1", 1, 0.7, false, column[X], column[LOSS], n },
        { "smoothed", "#1f77b4", 2, 1, false, column[X], column[SMOOTH], n },
        { "validation loss", "#d62728", 2, 1, false, val_x, column[VAL], n_val },
        { "learning rate", "gray", 0.7, 1, true, column[X], column[RATE], n },
    };
    const char *slash = strrchr(model, '/');
    SvgPlot plot = {
        slash ? slash + 1 : model, "update", "nats a token", "learning rate", false, lines, 4
    };
    svg_plot(&picture, &plot);
    OutFile out;
    out_open(&out, svg);
    out_write(&out, picture.data, picture.n);
    out_commit(&out);
    for (int c = 0; c < COLUMNS; c++) free(column[c]);
    free(val_x);
    buf_free(&text);
    buf_free(&picture);
}

/* ------------------------------------------------------------------------------------------------
 * 3. The line on stderr */

/* "step 120/1000  loss 3.2145  norm 0.87  lr 3.0e-04  12345 tok/s  41 % of peak  0:12:05 left":
 * every log_every updates; at a terminal also up to ten times a second in between, in place. */
OC_API void show_update(Progress *p, const Update *u) {
    bool full =
        u->step % p->log_every == 0 || u->step == p->steps || u->skipped || isfinite(u->val_loss);
    double t = now_seconds();
    if (!full && (!isatty(2) || t - p->shown < 0.1)) return;
    Buf b = { NULL, 0, 0 };
    long long left = (long long)(p->pace * (double)(p->steps - u->step));
    buf_printf(&b, "step %lld/%lld  loss %.4f  norm %.3g  lr %.2e  %.0f tok/s", (long long)u->step,
               (long long)p->steps, u->loss, u->norm, u->lr, p->rate);
    if (p->peak > 0) buf_printf(&b, "  %.0f %% of peak", 100 * p->rate * p->flops / p->peak);
    buf_printf(&b, "  %lld:%02lld:%02lld left", left / 3600, left / 60 % 60, left % 60);
    if (isfinite(u->val_loss))
        buf_printf(&b, "  val %.4f, %.4f bits a byte", u->val_loss, u->val_bits);
    if (u->skipped) buf_printf(&b, "  skipped: %s", u->skipped);
    fprintf(stderr, "%s%s%s", isatty(2) ? "\r\033[K" : "", b.data, full ? "\n" : "");
    p->shown = t;
    buf_free(&b);
}

/* To be called at the end of every update: both records. */
OC_API void report_update(Progress *p, const Update *u) {
    double t = now_seconds(), seconds = t - p->last, rate = (double)u->new_tokens / seconds;
    double share = p->pace > 0 ? 0.1 : 1;
    p->pace += share * (seconds - p->pace);
    p->rate += share * (rate - p->rate);
    if (p->peak > 0)
        p->peak = fmax(p->peak, p->rate * p->flops); /* it was measured beside others */
    p->last = t;
    csv_add(p, u, t - p->begun, rate);
    show_update(p, u);
}

/* How many numbers a model of this shape has; `multiplied`: those that a token is multiplied with,
 * all but the norms and the embedding's table. */
OC_API double parameters(const Config *c, bool multiplied) {
    int n;
    double sum = 0;
    TensorSpec *s = tensor_specs(c, &n);
    for (int i = 0; i < n; i++)
        if (!multiplied || (s[i].rows > 1 && (i || c->tied)))
            sum += (double)s[i].rows * (double)s[i].cols;
    free(s);
    return sum;
}

/* ------------------------------------------------------------------------------------------------
 * 4. Samples */

/* Continues a prompt by up to 64 tokens with the weights as they are. */
OC_API void print_sample(const Model *m, const Lora *adapter, const Tokenizer *t,
                         const char *prompt, double temperature, uint64_t seed, int64_t step) {
    const Vocab *v = &m->vocab;
    Sampler s = { .temperature = (float)temperature, .top_p = 1, .repeat_penalty = 1 };
    s.random = seed | 1;
    Ids ids = { NULL, 0, 0 };
    Buf text = { NULL, 0, 0 };
    tokenizer_encode_prompt(t, prompt, strlen(prompt), true, &ids);
    if (!ids.n) ids_add(&ids, v->eos < 0 ? 0 : v->eos);
    int most = m->config.max_ctx, n = (int)ids.n < most ? (int)ids.n : most, id = -1;
    EngineOptions o = { .n_ctx = n + 64 < most ? n + 64 : most, .n_seq = 1, .n_batch = n };
    o.lora = adapter;
    Engine *e = cpu_engine.open(m, &o);
    int *seq = xcalloc((size_t)n, sizeof *seq, "sample"), *pos = xcalloc((size_t)n, 4, "sample");
    char *want = xcalloc((size_t)n, 1, "sample");
    for (int i = 0; i < n; i++) pos[i] = i;
    want[n - 1] = 1;
    Batch b = { n, ids.id, seq, pos, want };
    for (int at = n; at <= o.n_ctx; at++) {
        float *logits = cpu_engine.forward(e, &b);
        id = sample(&s, logits, v->n);
        for (int i = 0; i < v->n_stop; i++)
            if (v->stop[i] == id) id = v->eos;
        if (id == v->eos) break;
        ids_add(&ids, id);
        pos[0] = at, want[0] = 1;
        b = (Batch){ 1, &id, seq, pos, want };
    }
    tokenizer_decode(t, ids.id, ids.n, true, &text);
    fprintf(stderr, "%s--- sample after %lld updates\n%.*s\n---\n", isatty(2) ? "\r\033[K" : "",
            (long long)step, (int)text.n, text.data ? text.data : "");
    cpu_engine.close(e);
    free(seq), free(pos), free(want), free(ids.id);
    buf_free(&text);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Signals */

static volatile sig_atomic_t interrupted;

OC_API void on_signal(int sig) { interrupted = sig; }

/* Ctrl-C and its kin end the run after a micro-batch, unless ignored (nohup); a lost stderr not. */
OC_API void catch_signals(void) {
    int ends[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;
    for (int i = 0; i < 3; i++)
        if (sigaction(ends[i], NULL, &old) ||
            (old.sa_handler != SIG_IGN && sigaction(ends[i], &act, NULL)))
            die("signals: cannot install handlers: %s", strerror(errno));
    act.sa_handler = out_of_map;
    if (sigaction(SIGBUS, &act, NULL) || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        die("signals: cannot install handlers: %s", strerror(errno));
}

#endif
