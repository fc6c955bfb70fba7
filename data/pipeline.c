/* pipeline.c: documents in, through the stages, documents out, with counts. See refine.h.
 *
 * What to know first: a batch of documents is in memory at a time. All threads take documents of it
 * and bring each through as many stages as do not need the order; what needs it, and the writing,
 * is done by one thread in the order of the input. So the output does not depend on the number of
 * threads, and memory is that of a batch. Test: tests/test_refine.py. */

#include "refine.h"

enum { BATCH = 2048, BATCH_BYTES = 32 << 20, KEPT_BYTES = 1 << 15 };

/* ------------------------------------------------------------------------------------------------
 * 1. Counts by name */

Count *counts_get(Counts *c, const char *name, size_t n) {
    Word *w = words_get(&c->words, name, n);
    if (!w->value) {
        c->count = xrealloc(c->count, c->n + 1, sizeof *c->count, "counts");
        c->count[c->n] = (Count){ 0, 0 };
        w->value = ++c->n;
    }
    return &c->count[w->value - 1];
}

void counts_free(Counts *c) {
    words_free(&c->words);
    free(c->count);
    memset(c, 0, sizeof *c);
}

static void count(Count *c, uint64_t bytes) {
    c->files++;
    c->bytes += bytes;
}

static void put_count(Buf *b, Str key, Count c) {
    json_put_str(b, key);
    buf_add(b, ":", 1);
    json_open(b, '{');
    json_put_key(b, "files");
    json_put_int(b, (int64_t)c.files);
    json_put_key(b, "bytes");
    json_put_int(b, (int64_t)c.bytes);
    json_close(b, '}');
}

void counts_json(Buf *b, const char *key, const Counts *c) {
    json_put_key(b, key);
    json_open(b, '{');
    for (size_t i = 0; i < c->words.n; i++) { /* the order in which they were first seen */
        const Word *w = &c->words.word[i];
        put_count(b, (Str){ c->words.text.data + w->at, w->n }, c->count[w->value - 1]);
    }
    json_close(b, '}');
}

/* ------------------------------------------------------------------------------------------------
 * 2. One document */

static bool run_stage(const Pipeline *p, int s, int thread, Document *d) {
    d->at_stage = s;
    d->bytes[s] = d->content.n || d->line ? d->content.n : (size_t)d->size; /* of a file to read */
    bool keep = !p->stage[s]->process || p->stage[s]->process(p->state[s], thread, d);
    d->bytes[s + 1] = d->content.n;
    if (!keep) d->dropped_by = s;
    return keep;
}

/* Brings a document through the stages from `first` on, until one has in_order. */
static void run_stages(const Pipeline *p, int first, int end, int thread, Document *d) {
    Error e;
    if (first == 0 && !p->in->load(p->in, d, &e)) {
        d->out.n = 0;
        buf_add(&d->out, e.text, strlen(e.text));
        d->broken = d->out.data;
    }
    if (d->broken) return;
    d->bytes[first] = d->content.n;
    for (int s = first; s < end && d->dropped_by < 0; s++) run_stage(p, s, thread, d);
    bool last = end == p->n_stages && (!end || !p->stage[end - 1]->in_order);
    if (last && d->dropped_by < 0 && p->out) document_line(d, &d->out);
}

static void name_it(const Document *d, const char *what, const char *why) {
    Buf b = { NULL, 0, 0 };
    if (d->line) buf_printf(&b, "%.400s:%lld", d->from, (long long)d->line);
    if (!d->line) buf_printf(&b, "%.400s", d->from[0] || !d->raw.n ? d->from : d->raw.data);
    if (d->path.n && d->from[0])
        buf_printf(&b, " %.*s", (int)(d->path.n < 400 ? d->path.n : 400), d->path.s);
    buf_printf(&b, ": %s%.400s", what, why);
    for (size_t i = 0; i < b.n; i++) /* names from outside may hold line feeds or escapes */
        if ((uint8_t)b.data[i] < 32 || b.data[i] == 127) b.data[i] = '?';
    fprintf(stderr, "%s\n", b.data);
    buf_free(&b);
}

/* Numbers in a message would make every one of them a reason of its own: they become N. What is not
 * ASCII may have been cut off within a character and becomes ?: written as JSON, two reasons that
 * differ there only would be the same key twice. */
static void count_broken(Pipeline *p, const Document *d) {
    char why[128];
    size_t n = 0;
    for (const char *s = d->broken; *s && n < sizeof why - 1; s++) {
        bool digit = isdigit((unsigned char)*s);
        if (!digit || !n || why[n - 1] != 'N')
            why[n++] = digit ? 'N' : (uint8_t)*s < 128 ? *s : '?';
    }
    count(&p->broken, d->raw.n);
    count(counts_get(&p->broken_why, why, n), d->raw.n);
    if (p->verbose) name_it(d, "", d->broken);
}

static void count_document(Pipeline *p, const Document *d) {
    for (int s = 0; s < p->n_stages; s++) {
        StageStats *t = &p->stats[s];
        Str lang = d->language.n ? d->language : str_of("unknown");
        count(&t->in, d->bytes[s]);
        count(counts_get(&t->languages_in, lang.s, lang.n), d->bytes[s]);
        if (d->changed & 1u << s) count(&t->changed, d->bytes[s + 1]);
        if (d->dropped_by == s) {
            const char *why = d->reason ? d->reason : "dropped";
            count(counts_get(&t->reasons, why, strlen(why)), d->bytes[s]);
            if (p->verbose) name_it(d, "dropped: ", why);
            break;
        }
        count(&t->out, d->bytes[s + 1]);
        count(counts_get(&t->languages_out, lang.s, lang.n), d->bytes[s + 1]);
    }
    for (size_t i = 0; i < d->counts.n; i++) {
        int s = d->counts.item[i].stage;
        const char *name = d->counts.item[i].name;
        count(counts_get(&p->stats[s].counts, name, strlen(name)), d->bytes[s]);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. All of them */

static size_t fill(Pipeline *p, Document *d, uint64_t *number) {
    size_t n = 0, bytes = 0;
    while (n < BATCH && bytes < BATCH_BYTES) {
        document_reset(&d[n]);
        if (!p->in->next(p->in, &d[n])) break;
        d[n].number = (*number)++;
        bytes += d[n].raw.n > (size_t)d[n].size ? d[n].raw.n : (size_t)d[n].size;
        n++;
    }
    return n;
}

static void show(const Pipeline *p, uint64_t number, double begun, bool last) {
    static double shown;
    double t = now_seconds();
    if (common.quiet || !isatty(STDERR_FILENO) || (!last && t - shown < 0.1)) return;
    shown = t;
    fprintf(stderr, "\r\033[K%s", p->what);
    if (p->in->total)
        fprintf(stderr, " %.0f %%", 100.0 * (double)p->in->done / (double)p->in->total);
    fprintf(stderr, "  %llu documents  %.1f MB/s%s", (unsigned long long)number,
            (double)p->in->done / 1e6 / (t - begun + 1e-9), last ? "\n" : "");
}

static void run_batch(Pipeline *p, Document *d, size_t n) {
    int a = 0, b;
    do { /* stages a .. b - 1, of which only the last may need the order */
        for (b = a; b < p->n_stages && !(b > a && p->stage[b - 1]->in_order);) b++;
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n; i++)
            if (d[i].dropped_by < 0 && !d[i].broken) run_stages(p, a, b, this_thread(), &d[i]);
        const Stage *last = b ? p->stage[b - 1] : NULL;
        if (last && last->in_order)
            for (size_t i = 0; i < n; i++)
                if (d[i].dropped_by < 0 && !d[i].broken && !last->in_order(p->state[b - 1], &d[i]))
                    d[i].dropped_by = b - 1;
        a = b;
    } while (b < p->n_stages);
    for (size_t i = 0; i < n; i++) {
        if (d[i].broken) {
            count_broken(p, &d[i]);
            continue;
        }
        count_document(p, &d[i]);
        if (d[i].dropped_by >= 0 || !p->out) continue;
        if (!d[i].out.n) document_line(&d[i], &d[i].out);
        output_write(p->out, d[i].out.data, d[i].out.n);
    }
}

void pipeline_run(Pipeline *p) {
    double begun = now_seconds();
    uint64_t number = 0;
    Document *d = xcalloc(BATCH, sizeof *d, "documents");
    for (int s = 0; s < p->n_stages; s++) {
        p->stats[s].name = p->stage[s]->name;
        p->state[s] = p->stage[s]->open ? p->stage[s]->open(common.n_threads) : NULL;
    }
    for (size_t n; (n = fill(p, d, &number));) {
        run_batch(p, d, n);
        for (size_t i = 0; i < n; i++) /* long documents do not stay */
            if (d[i].raw.cap > KEPT_BYTES || d[i].text.cap > KEPT_BYTES) document_free(&d[i]);
        show(p, number, begun, false);
    }
    show(p, number, begun, true);
    for (int s = 0; s < p->n_stages; s++)
        if (p->stage[s]->close) p->stage[s]->close(p->state[s], &p->stats[s].more);
    for (size_t i = 0; i < BATCH; i++) document_free(&d[i]);
    free(d);
    p->seconds = now_seconds() - begun;
}

/* ------------------------------------------------------------------------------------------------
 * 4. What came of it */

void pipeline_stats(const Pipeline *p, Buf *b) {
    json_open(b, '[');
    for (int s = 0; s < p->n_stages; s++) {
        const StageStats *t = &p->stats[s];
        json_open(b, '{');
        json_put_key(b, "stage");
        json_put_str(b, str_of(t->name));
        put_count(b, str_of("in"), t->in);
        put_count(b, str_of("out"), t->out);
        put_count(b, str_of("changed"), t->changed);
        counts_json(b, "dropped", &t->reasons);
        counts_json(b, "counts", &t->counts);
        counts_json(b, "languages_in", &t->languages_in);
        counts_json(b, "languages_out", &t->languages_out);
        if (t->more.n) json_comma(b);
        buf_add(b, t->more.data, t->more.n);
        json_close(b, '}');
    }
    json_close(b, ']');
}

void write_stats(const Pipeline *p, const char *path) {
    OutFile out;
    Buf b = { NULL, 0, 0 };
    json_open(&b, '{');
    put_count(&b, str_of("broken"), p->broken);
    counts_json(&b, "broken_why", &p->broken_why);
    json_put_key(&b, "seconds");
    json_put_num(&b, p->seconds, false);
    json_put_key(&b, "threads");
    json_put_int(&b, common.n_threads);
    json_put_key(&b, "stages");
    pipeline_stats(p, &b);
    json_close(&b, '}');
    buf_add(&b, "\n", 1);
    out_open(&out, path);
    out_write(&out, b.data, b.n);
    out_commit(&out);
    buf_free(&b);
}

const char *grouped(uint64_t v, char text[32]) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)v), k = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) text[k++] = ',';
        text[k++] = digits[i];
    }
    text[k] = 0;
    return text;
}

static double percent(uint64_t part, uint64_t whole) {
    return whole ? 100.0 * (double)part / (double)whole : 100;
}

void pipeline_report(const Pipeline *p) {
    char a[32], b[32];
    if (common.quiet) return;
    if (p->broken.files)
        fprintf(stderr, "left out: %s that are no documents%s\n", grouped(p->broken.files, a),
                p->verbose ? "" : "; --verbose names them");
    fprintf(stderr, "%-14s %12s %16s %9s %9s\n", "stage", "files", "bytes", "% files", "% bytes");
    for (int s = 0; s < p->n_stages; s++) {
        const StageStats *t = &p->stats[s];
        if (!s)
            fprintf(stderr, "%-14s %12s %16s\n", "(in)", grouped(t->in.files, a),
                    grouped(t->in.bytes, b));
        fprintf(stderr, "%-14s %12s %16s %9.2f %9.2f\n", t->name, grouped(t->out.files, a),
                grouped(t->out.bytes, b), percent(t->out.files, t->in.files),
                percent(t->out.bytes, t->in.bytes));
    }
}

void pipeline_free(Pipeline *p) {
    for (int s = 0; s < p->n_stages; s++) {
        StageStats *t = &p->stats[s];
        counts_free(&t->reasons), counts_free(&t->counts);
        counts_free(&t->languages_in), counts_free(&t->languages_out);
        buf_free(&t->more);
    }
    counts_free(&p->broken_why);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Two passes */

static bool readable_twice(const char **path, int n) {
    struct stat st;
    for (int i = 0; i < n; i++)
        if (!strcmp(path[i], "-") || stat(path[i], &st) || !S_ISREG(st.st_mode)) return false;
    return n > 0;
}

void pipeline_twice(Pipeline *first, void (*decide)(void), Pipeline *second, const char **path,
                    int n) {
    bool again = readable_twice(path, n);
    first->in = source_lines(path, n);
    first->out = again ? NULL : output_spool();
    first->verbose = common.verbose;
    second->out = output_open(common.out, common.zstd);
    pipeline_run(first);
    decide();
    source_close(first->in);
    second->in = again ? source_lines(path, n) : source_spool(first->out);
    pipeline_run(second);
    output_commit(second->out);
    second->broken = first->broken;
    second->seconds += first->seconds;
    if (common.stats) write_stats(second, common.stats);
    pipeline_report(second);
    source_close(second->in);
    pipeline_free(first);
    pipeline_free(second);
}
