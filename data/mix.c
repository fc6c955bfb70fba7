/* mix.c: `./refine anneal --mix`, one mixture of several parts by their shares.
 *
 *     ./refine anneal --mix original=clean.jsonl algorithmic=algorithmic.jsonl \
 *         snippets=snippets.jsonl textbooks=textbooks.jsonl --total 1GB -o mixture.jsonl
 *
 * What to know first: OpenCoder anneals on 83.94 B tokens of the distribution that it was trained
 * on, 12.44 B of the algorithmic corpus, 2.71 B of synthetic snippets and 0.91 B of textbooks
 * (arXiv 2411.04905, table 3). Files are read twice: the first pass measures each document, then it
 * is known which of them stay (budget.h: a part's amount is kept to within a document), and the
 * second pass copies their lines byte by byte. It always goes on with the part that is furthest
 * behind, so that any piece of the mixture has about the shares of the whole; who wants the
 * documents in no order at all shuffles afterwards, as `tokenizer pack` does.
 *
 * Memory: 16 bytes for each document, 32 for those of the part that is chosen from. */

#include "mix.h"
#include "../opencoder.h" /* Model, Tokenizer */
#include "budget.h"

MixOptions mix_options = { .repeat = 1, .seed = 42 };

typedef struct {
    Str name;
    double share; /* of all: 0 to 1 */
    const char **path;
    int n_paths;
    Drawns line;        /* of each line of the files, in their order; broken ones are never drawn */
    uint64_t documents; /* those that are not */
    double want;
    uint64_t whole, limit; /* how many times it is used whole; then once what draws less */
    uint64_t size, n;      /* what that comes to */

    Source *in; /* while it is copied */
    size_t at;
    uint64_t time, size_written, n_written;
} MixPart;

enum { MOST_PARTS = 64 };

static struct {
    MixPart part[MOST_PARTS], *measured;
    int n;
    Model model;
    Tokenizer *tokenizer;
    Count broken;
} mix;

/* ------------------------------------------------------------------------------------------------
 * 1. The command line: files, shares */

static MixPart *part_named(Str name) {
    for (int i = 0; i < mix.n; i++)
        if (!str_cmp(mix.part[i].name, name)) return &mix.part[i];
    return NULL;
}

static void add_file(const char *text, int most) {
    struct stat st;
    Str name;
    const char *path = parse_assignment("--mix", text, "PART=FILE as in original=a.jsonl", &name);
    MixPart *p = part_named(name);
    if (!p) {
        if (mix.n == MOST_PARTS) die_usage("--mix: more than %d parts, expected fewer", mix.n);
        p = &mix.part[mix.n++];
        *p = (MixPart){ .name = name, .share = -1 };
        p->path = xcalloc((size_t)most, sizeof *p->path, "files");
    }
    if (stat(path, &st)) die("%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) die("%s: no regular file, expected one: it is read twice", path);
    if ((common.out && same_file(path, common.out)) ||
        (common.stats && same_file(path, common.stats)))
        die_usage("%s: is read and to be written, expected another name", path);
    p->path[p->n_paths++] = path;
}

static void set_shares(void) {
    static const struct {
        const char *name;
        double percent;
    } papers[] = {
        { "original", 84 }, { "algorithmic", 12.4 }, { "snippets", 2.7 }, { "textbooks", 0.9 }
    };
    double sum = 0;
    for (int i = 0; i < mix_options.shares.n; i++) {
        Str name;
        const char *text = mix_options.shares.text[i];
        const char *x = parse_assignment("--share", text, "PART=X as in original=84", &name);
        MixPart *p = part_named(name);
        if (!p) die_usage("--share: '%s', expected a part of which there are files", text);
        p->share = parse_float("--share", x, 0, 1e9);
    }
    for (int i = 0; i < mix.n; i++) {
        MixPart *p = &mix.part[i];
        for (size_t k = 0; k < sizeof papers / sizeof *papers; k++)
            if (p->share < 0 && str_is(p->name, papers[k].name)) p->share = papers[k].percent;
        if (p->share < 0)
            die_usage("--mix: part '%.*s' has no share in the paper, expected --share %.*s=X",
                      STR(p->name), STR(p->name));
        sum += p->share;
    }
    if (!(sum > 0)) die_usage("--share: all of them are 0, expected one that is not");
    for (int i = 0; i < mix.n; i++) mix.part[i].share /= sum;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The first pass: how large everything is */

static bool measure_process(void *state, int thread, Document *d) {
    uint64_t size = d->content.n;
    (void)state, (void)thread;
    if (mix.tokenizer) {
        Ids ids = { NULL, 0, 0 };
        tokenizer_encode(mix.tokenizer, d->content.s, d->content.n, false, &ids);
        size = ids.n;
        free(ids.id);
    }
    buf_add(&d->scratch, &size, sizeof size);
    return true;
}

static bool measure_in_order(void *state, Document *d) {
    MixPart *p = mix.measured;
    Drawn drawn = { document_draw(d, (uint64_t)mix_options.seed), 0 };
    (void)state;
    memcpy(&drawn.size, d->scratch.data, sizeof drawn.size);
    while (p->line.n < d->number) drawns_add(&p->line, (Drawn){ UINT64_MAX, 0 });
    drawns_add(&p->line, drawn);
    p->documents++;
    return true;
}

static const Stage measure_stage = { "sizes",          "",  "", NULL, NULL, measure_process,
                                     measure_in_order, NULL };

static void measure(MixPart *p) {
    Pipeline run = { .stage = { &measure_stage }, .n_stages = 1, .what = "sizes" };
    mix.measured = p;
    run.verbose = common.verbose;
    run.in = source_lines(p->path, p->n_paths);
    pipeline_run(&run);
    source_close(run.in);
    mix.broken.files += run.broken.files;
    mix.broken.bytes += run.broken.bytes;
    pipeline_free(&run);
}

/* ------------------------------------------------------------------------------------------------
 * 3. What stays */

/* The most of which no part is short. */
static double default_total(void) {
    double least = INFINITY;
    for (int i = 0; i < mix.n; i++) {
        const MixPart *p = &mix.part[i];
        if (p->share > 0 && !p->line.size)
            die("%s: nothing in it, expected documents of part %.*s", p->path[0], STR(p->name));
        double most = (double)p->line.size * (double)mix_options.repeat / p->share;
        if (p->share > 0 && most < least) least = most;
    }
    return least;
}

static void choose(MixPart *p, double total) {
    double have = (double)p->line.size, repeat = (double)mix_options.repeat;
    uint64_t rest = 0;
    p->want = round(total * p->share);
    if (have > 0) p->whole = (uint64_t)fmin(floor(p->want / have), repeat);
    if ((double)p->whole < repeat) {
        Drawns sorted = { NULL, 0, 0, 0 };
        for (size_t i = 0; i < p->line.n; i++)
            if (p->line.item[i].draw < DRAW_ALL) drawns_add(&sorted, p->line.item[i]);
        p->limit = drawns_limit(&sorted, p->want - (double)p->whole * have, &rest);
        drawns_free(&sorted);
    }
    p->size = p->whole * p->line.size + rest;
    p->n = p->whole * p->documents;
    for (size_t i = 0; i < p->line.n; i++) p->n += p->line.item[i].draw < p->limit;
}

/* ------------------------------------------------------------------------------------------------
 * 4. The second pass */

/* The next document of a part that stays; it is known that there is one. */
static Str next_chosen(MixPart *p, Document *d, uint64_t *size) {
    for (;;) {
        document_reset(d);
        if (!p->in) p->in = source_lines(p->path, p->n_paths), p->at = 0;
        if (!p->in->next(p->in, d)) {
            if (p->at < p->line.n) break;
            source_close(p->in);
            p->in = NULL;
            p->time++;
            continue;
        }
        const Drawn *line = &p->line.item[p->at];
        if (p->at++ >= p->line.n || line->draw >= (p->time < p->whole ? DRAW_ALL : p->limit))
            continue;
        if (d->broken) break;
        bool mark = d->line == 1 && d->raw.n >= 3 && !memcmp(d->raw.data, "\xEF\xBB\xBF", 3);
        *size = line->size;
        return mark ? (Str){ d->raw.data + 3, d->raw.n - 3 } : (Str){ d->raw.data, d->raw.n };
    }
    die("%s: has changed while it was read", d->from[0] ? d->from : p->path[0]);
}

/* The part that is furthest behind; NULL when all is written. */
static MixPart *furthest_behind(void) {
    MixPart *best = NULL;
    double least = INFINITY;
    for (int i = 0; i < mix.n; i++) {
        MixPart *p = &mix.part[i];
        if (p->n_written == p->n) continue;
        double done = p->size ? (double)p->size_written / (double)p->size : 0;
        if (done < least) best = p, least = done;
    }
    return best;
}

static void copy_all(void) {
    Output *out = output_open(common.out, common.zstd);
    Document d = { 0 };
    uint64_t size;
    for (MixPart *p; (p = furthest_behind());) {
        Str line = next_chosen(p, &d, &size);
        output_write(out, line.s, line.n);
        output_write(out, "\n", 1);
        p->size_written += size;
        p->n_written++;
    }
    output_commit(out);
    document_free(&d);
}

/* ------------------------------------------------------------------------------------------------
 * 5. What came of it */

static const char *unit(void) { return mix.tokenizer ? "tokens" : "bytes"; }

static bool is_short(const MixPart *p) {
    return (double)p->line.size * (double)mix_options.repeat < p->want;
}

static void report(void) {
    char a[32], b[32], c[32], d[32];
    uint64_t all = 0, n = 0;
    if (!common.quiet && mix.broken.files)
        fprintf(stderr, "left out: %s that are no documents%s\n", grouped(mix.broken.files, a),
                common.verbose ? "" : "; --verbose names them");
    for (int i = 0; i < mix.n; i++) all += mix.part[i].size, n += mix.part[i].n;
    if (!common.quiet)
        fprintf(stderr, "%-14s %12s %16s %16s %7s %7s %6s\n", "part", "documents", unit(),
                "there are", "share %", "is %", "times");
    for (int i = 0; i < mix.n && !common.quiet; i++) {
        const MixPart *p = &mix.part[i];
        fprintf(stderr, "%-14.*s %12s %16s %16s %7.2f %7.2f %6.2f\n", STR(p->name),
                grouped(p->n, a), grouped(p->size, b), grouped(p->line.size, c), 100 * p->share,
                all ? 100.0 * (double)p->size / (double)all : 0,
                p->line.size ? (double)p->size / (double)p->line.size : 0);
    }
    if (!common.quiet) fprintf(stderr, "%-14s %12s %16s\n", "all", grouped(n, a), grouped(all, b));
    for (int i = 0; i < mix.n; i++) { /* said in any case: the mixture is another than wanted */
        const MixPart *p = &mix.part[i];
        if (is_short(p))
            fprintf(stderr,
                    "short: %.*s has %s %s, used %s, of %s wanted; --repeat uses it again\n",
                    STR(p->name), grouped(p->line.size, a), unit(), grouped(p->size, b),
                    grouped((uint64_t)p->want, d));
    }
}

static void put_part(Buf *b, const MixPart *p) {
    const struct {
        const char *key;
        uint64_t value;
    } number[] = { { "documents_in", p->documents },
                   { "size_in", p->line.size },
                   { "wanted", (uint64_t)p->want },
                   { "documents", p->n },
                   { "size", p->size } };
    json_open(b, '{');
    json_put_key(b, "part");
    json_put_str(b, p->name);
    json_put_key(b, "share");
    json_put_num(b, p->share, false);
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        json_put_key(b, number[i].key);
        json_put_int(b, (int64_t)number[i].value);
    }
    json_put_key(b, "short");
    json_put_bool(b, is_short(p));
    json_close(b, '}');
}

static void write_mix_stats(const char *path) {
    OutFile out;
    Buf b = { NULL, 0, 0 };
    json_open(&b, '{');
    json_put_key(&b, "unit");
    json_put_str(&b, str_of(unit()));
    json_put_key(&b, "broken");
    json_put_int(&b, (int64_t)mix.broken.files);
    json_put_key(&b, "parts");
    json_open(&b, '[');
    for (int i = 0; i < mix.n; i++) put_part(&b, &mix.part[i]);
    json_close(&b, ']');
    json_close(&b, '}');
    buf_add(&b, "\n", 1);
    out_open(&out, path);
    out_write(&out, b.data, b.n);
    out_commit(&out);
    buf_free(&b);
}

static void open_tokenizer(const char *path) {
    Error e;
    model_open_vocab(&mix.model, path);
    mix.tokenizer = tokenizer_new(&mix.model.vocab, &e);
    if (!mix.tokenizer) die("%s: %s", path, e.text);
}

static void refuse_leftovers(void) {
    const MixOptions *o = &mix_options;
    const char *name = o->shares.n     ? "share"
                       : o->total      ? "total"
                       : o->tokenizer  ? "tokenizer"
                       : o->repeat > 1 ? "repeat"
                                       : NULL;
    if (name) die_usage("--%s: given without --mix, expected both", name);
}

bool run_mix(const char **path, int n) {
    if (!mix_options.wanted) {
        refuse_leftovers();
        return false;
    }
    if (!n) die_usage("--mix: no files, expected PART=FILE as in original=clean.jsonl");
    if (common.resume) die_usage("--resume: given with --mix, which must see all documents");
    double total = mix_options.total ? parse_amount("--total", mix_options.total) : 0;
    for (int i = 0; i < n; i++) add_file(path[i], n);
    set_shares();
    if (common.out && strcmp(common.out, "-")) out_try(common.out, NULL); /* before the work */
    if (mix_options.tokenizer) open_tokenizer(mix_options.tokenizer);
    for (int i = 0; i < mix.n; i++) measure(&mix.part[i]);
    if (!mix_options.total) total = default_total();
    for (int i = 0; i < mix.n; i++) choose(&mix.part[i], total);
    copy_all();
    report();
    if (common.stats) write_mix_stats(common.stats);
    for (int i = 0; i < mix.n; i++) {
        source_close(mix.part[i].in);
        drawns_free(&mix.part[i].line);
        free((void *)mix.part[i].path);
    }
    if (mix.tokenizer) tokenizer_free(mix.tokenizer), model_close(&mix.model);
    return true;
}
