/* stats.c: `./refine stats`, what is in documents, and what became of them.
 *
 *     ./refine stats clean.jsonl --svg languages.svg            files, bytes, lines by language
 *     ./refine stats clean.jsonl --tokenizer model.bin          and tokens
 *     ./refine stats --run stats.json --svg funnel.svg          what a run wrote with --stats
 *
 * What to know first: with --run, nothing is counted anew: the statistics that any command writes
 * are shown as a funnel, stage by stage, with the reasons for which files were dropped. The table
 * goes to stdout, bars as SVG to a file. Test: tests/test_refine.py. */

#include "../opencoder.h" /* Model, Tokenizer */
#include "../svg.h"       /* svg_text */
#include "refine.h"

static const char *svg, *tokenizer, *run_file;
static int64_t most = 30;

static const Option options[] = {
    { 0, "run", NULL, "FILE", OPT_TEXT, &run_file, 0, 0, "show the statistics of a run instead" },
    { 0, "svg", NULL, "FILE", OPT_TEXT, &svg, 0, 0, "draw bars" },
    { 0, "tokenizer", NULL, "MODEL", OPT_TEXT, &tokenizer, 0, 0, "count the tokens of this GGUF" },
    { 'n', "top", NULL, "N", OPT_INT, &most, 1, 10000, "languages or reasons to show" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine stats [FILE.jsonl[.zst]...] [options]   files, bytes, lines by language\n"
    "       refine stats --run STATS.json [options]        the funnel of a run\n";

/* ------------------------------------------------------------------------------------------------
 * 1. Bars */

typedef struct {
    char name[96];
    double value;
    char label[64];
} Bar;

enum { BAR_H = 20, BAR_LEFT = 260, BAR_WIDE = 420, BAR_TOP = 40 };

static void draw_bars(const char *path, const char *title, const Bar *bar, size_t n) {
    Buf b = { NULL, 0, 0 };
    double largest = 0;
    OutFile out;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, bar[i].value);
    buf_printf(&b,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\">\n"
               "<style>text { font: 12px sans-serif }</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               SVG_W, BAR_TOP + BAR_H * (int)n + 20);
    svg_text(&b, SVG_W / 2.0, 22, "text-anchor=\"middle\"", title);
    for (size_t i = 0; i < n; i++) {
        double y = BAR_TOP + BAR_H * (double)i;
        double wide = largest > 0 ? BAR_WIDE * bar[i].value / largest : 0;
        svg_text(&b, BAR_LEFT - 8, y + 13, "text-anchor=\"end\"", bar[i].name);
        buf_printf(&b,
                   "<rect x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"%d\" fill=\"#1f77b4\"/>\n",
                   BAR_LEFT, y, wide, BAR_H - 5);
        svg_text(&b, BAR_LEFT + wide + 6, y + 13, "", bar[i].label);
    }
    buf_printf(&b, "</svg>\n");
    out_open(&out, path);
    out_write(&out, b.data, b.n);
    out_commit(&out);
    buf_free(&b);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Documents */

typedef struct {
    uint64_t files, bytes, lines, tokens;
} Sum;

static struct {
    Words languages; /* -> 1 + index */
    Sum *sum, all;
    size_t n;
    Model model;
    Tokenizer *tokenizer;
} count;

static void *count_open(int n_threads) {
    Error e;
    (void)n_threads;
    if (!tokenizer) return NULL;
    model_open_vocab(&count.model, tokenizer);
    count.tokenizer = tokenizer_new(&count.model.vocab, &e);
    if (!count.tokenizer) die("%s: %s", tokenizer, e.text);
    return NULL;
}

static bool count_process(void *state, int thread, Document *d) {
    uint64_t sum[2] = { 0, 0 };
    const char *p = d->content.s, *end = p + d->content.n;
    (void)state, (void)thread;
    for (; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++) sum[0]++;
    if (count.tokenizer) {
        Ids ids = { NULL, 0, 0 };
        tokenizer_encode(count.tokenizer, d->content.s, d->content.n, false, &ids);
        sum[1] = ids.n;
        free(ids.id);
    }
    buf_add(&d->scratch, sum, sizeof sum);
    return true;
}

static void add(Sum *s, const Document *d, const uint64_t sum[2]) {
    s->files++;
    s->bytes += d->content.n;
    s->lines += sum[0];
    s->tokens += sum[1];
}

static bool count_in_order(void *state, Document *d) {
    Str name = d->language.n ? d->language : str_of("unknown");
    Word *w = words_get(&count.languages, name.s, name.n);
    uint64_t sum[2];
    (void)state;
    memcpy(sum, d->scratch.data, sizeof sum);
    if (!w->value) {
        count.sum = xrealloc(count.sum, count.n + 1, sizeof *count.sum, "languages");
        count.sum[count.n] = (Sum){ 0, 0, 0, 0 };
        w->value = ++count.n;
    }
    add(&count.sum[w->value - 1], d, sum);
    add(&count.all, d, sum);
    return true;
}

static const Stage count_stage = { "stats",        "",  "", options, count_open, count_process,
                                   count_in_order, NULL };

static void print_sum(const char *name, const Sum *s, uint64_t bytes) {
    char a[32], b[32], c[32], d[32];
    printf("%-28s %11s %16s %13s %7.2f", name, grouped(s->files, a), grouped(s->bytes, b),
           grouped(s->lines, c), bytes ? 100.0 * (double)s->bytes / (double)bytes : 0);
    if (tokenizer) printf(" %15s", grouped(s->tokens, d));
    printf("\n");
}

static int by_bytes(const void *a, const void *b) {
    uint64_t x = count.sum[*(const size_t *)a].bytes, y = count.sum[*(const size_t *)b].bytes;
    return (x < y) - (x > y);
}

static void print_languages(void) {
    size_t *order = xcalloc(count.n, sizeof *order, "languages");
    Bar *bar = xcalloc((size_t)most, sizeof *bar, "bars");
    size_t shown = count.n < (size_t)most ? count.n : (size_t)most;
    for (size_t i = 0; i < count.n; i++) order[i] = i;
    qsort(order, count.n, sizeof *order, by_bytes);
    printf("%-28s %11s %16s %13s %7s%s\n", "language", "files", "bytes", "lines", "% bytes",
           tokenizer ? "          tokens" : "");
    for (size_t i = 0; i < shown; i++) {
        const Word *w = &count.languages.word[order[i]];
        const Sum *s = &count.sum[order[i]];
        snprintf(bar[i].name, sizeof bar[i].name, "%.*s", (int)w->n,
                 count.languages.text.data + w->at);
        bar[i].value = (double)s->bytes;
        snprintf(bar[i].label, sizeof bar[i].label, "%.1f MB, %llu files", bar[i].value / 1e6,
                 (unsigned long long)s->files);
        print_sum(bar[i].name, s, count.all.bytes);
    }
    print_sum("all", &count.all, count.all.bytes);
    if (svg) draw_bars(svg, "bytes by language", bar, shown);
    free(order);
    free(bar);
}

/* ------------------------------------------------------------------------------------------------
 * 3. A run */

static Sum counts_of(const Json *stage, const char *key) {
    const Json *c = json_get(stage, key), *f = json_get(c, "files"), *b = json_get(c, "bytes");
    return (Sum){ f ? (uint64_t)f->integer : 0, b ? (uint64_t)b->integer : 0, 0, 0 };
}

static double share(uint64_t part, uint64_t whole) {
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static int by_files(const void *a, const void *b) {
    const Json *x = json_get(*(const Json *const *)a, "files");
    const Json *y = json_get(*(const Json *const *)b, "files");
    return (x->integer < y->integer) - (x->integer > y->integer);
}

/* The members of stage's object `key`, the most files first. */
static void print_reasons(const Json *stage, const char *key, const char *what) {
    const Json *all = json_get(stage, key);
    if (!all || all->type != J_OBJECT || !all->n) return;
    const Json **list = (const Json **)xcalloc(all->n, sizeof *list, "reasons");
    size_t n = 0;
    char a[32], b[32];
    for (const Json *x = json_first(all); x; x = json_next(all, x))
        if (json_get(x, "files") && json_get(x, "bytes")) list[n++] = x;
    qsort((void *)list, n, sizeof *list, by_files);
    uint64_t in = counts_of(stage, "in").files;
    for (size_t i = 0; i < n && i < (size_t)most; i++) {
        uint64_t files = (uint64_t)json_get(list[i], "files")->integer;
        printf("    %s %-39.*s %11s %16s %7.2f\n", what, STR(list[i]->key), grouped(files, a),
               grouped((uint64_t)json_get(list[i], "bytes")->integer, b), share(files, in));
    }
    free((void *)list);
}

static int print_run(void) {
    Buf text = { NULL, 0, 0 };
    JsonDoc doc = { NULL, 0, 0, NULL, 0 };
    Bar bar[MOST_STAGES + 1] = { 0 };
    char a[32], b[32];
    size_t n = 0;
    Error e;
    read_file(run_file, &text);
    if (!json_parse(&doc, text.data, text.n, &e)) die("%s: %s", run_file, e.text);
    const Json *stages = json_get(doc.node, "stages");
    if (!stages || stages->type != J_ARRAY || !stages->n)
        die("%s: no \"stages\", expected what --stats writes", run_file);
    printf("%-51s %11s %16s %7s\n", "stage", "files", "bytes", "% files");
    for (const Json *s = json_first(stages); s && n < MOST_STAGES; s = json_next(stages, s)) {
        const Json *name = json_get(s, "stage");
        Sum in = counts_of(s, "in"), out = counts_of(s, "out"), changed = counts_of(s, "changed");
        snprintf(bar[n].name, sizeof bar[n].name, "%.*s",
                 name && name->type == J_STRING ? (int)name->str.n : 1,
                 name && name->type == J_STRING ? name->str.s : "?");
        if (!n) printf("%-51s %11s %16s\n", "(in)", grouped(in.files, a), grouped(in.bytes, b));
        printf("%-51s %11s %16s %7.2f\n", bar[n].name, grouped(out.files, a), grouped(out.bytes, b),
               share(out.files, in.files));
        if (changed.files)
            printf("    changed %-39s %11s %16s %7.2f\n", "", grouped(changed.files, a),
                   grouped(changed.bytes, b), share(changed.files, in.files));
        print_reasons(s, "dropped", "dropped");
        print_reasons(s, "counts", "counted");
        bar[n].value = (double)out.bytes;
        snprintf(bar[n].label, sizeof bar[n].label, "%.1f MB, %llu files", bar[n].value / 1e6,
                 (unsigned long long)out.files);
        n++;
    }
    if (svg) draw_bars(svg, "bytes behind each stage", bar, n);
    json_free(&doc);
    buf_free(&text);
    return 0;
}

int run_stats(int argc, char **argv) {
    const char *path[1024];
    int n = refine_options(argc, argv, options, usage, path, 1024);
    Pipeline p = { .stage = { &count_stage }, .n_stages = 1, .what = "stats" };
    if (common.out) die_usage("-o: given with stats, whose table goes to stdout");
    if (run_file && n) die_usage("--run: given with documents, expected one of both");
    if (run_file) {
        print_run();
        close_stdout();
        return 0;
    }
    p.in = source_lines(path, n);
    p.verbose = common.verbose;
    pipeline_run(&p);
    if (p.broken.files)
        fprintf(stderr, "left out: %llu that are no documents\n",
                (unsigned long long)p.broken.files);
    print_languages();
    close_stdout();
    source_close(p.in);
    pipeline_free(&p);
    words_free(&count.languages);
    free(count.sum);
    if (count.tokenizer) {
        tokenizer_free(count.tokenizer);
        model_close(&count.model);
    }
    return 0;
}
