/* recall.c: `./refine recall`, pages about code from a web crawl.
 *
 *     ./refine recall CRAWL.warc.gz --seed SEED.jsonl --patterns data/patterns_zh.txt > web.jsonl
 *     ./refine recall FINEWEB.jsonl.zst --model code.bin > web.jsonl      with a trained one
 *
 * What to know first: as in the paper (arXiv 2411.04905, section 2.1.2), three times over: fastText
 * learns the seed from other pages of the crawl; what it then takes for code is recalled; a base
 * domain of which more than 10 % of the pages are taken for code is code-related; and people write
 * down patterns of addresses there, whose pages are recalled too, and join the seed where the
 * classifier has missed them. What is recalled once stays. The crawl is read once for the sample
 * and once in each iteration, and never held: in memory are a byte for each page, 8 bytes for each
 * page that may be recalled in an iteration, the names and counts of domains, and the keys of the
 * seed. What may be recalled waits in a temporary file, since a domain is known at the end only.
 * Test: tests/test_recall.py. */

#include "recall.h"
#include "signals.h" /* hash_text */

static struct {
    TextList seed;
    const char *patterns, *domains, *model, *save_model;
    int64_t iterations, sample, sample_seed, min_pages;
    double threshold, domain_threshold, share;
} opt = { .iterations = 3, .min_pages = 1, .threshold = 0.5, .domain_threshold = 1, .share = 10 };

static const Option own[] = {
    { 0, "seed", NULL, "FILE", OPT_LIST, &opt.seed, 0, 0,
      "pages that are code-related, in any form a crawl may have; repeatable" },
    { 0, "patterns", NULL, "FILE", OPT_TEXT, &opt.patterns, 0, 0,
      "addresses to recall, a pattern a line; % is anything, # a comment" },
    { 0, "iterations", NULL, "N", OPT_INT, &opt.iterations, 1, MOST_STAGES, "how often" },
    { 0, "threshold", NULL, "P", OPT_FLOAT, &opt.threshold, 0, 1,
      "least probability of a page that is code" },
    { 0, "domain-share", NULL, "%", OPT_FLOAT, &opt.share, 0, 100,
      "of its pages are code in a domain that is code-related: more than" },
    { 0, "domain-threshold", NULL, "P", OPT_FLOAT, &opt.domain_threshold, 0, 1,
      "least probability of other pages there; 1: none" },
    { 0, "min-pages", NULL, "N", OPT_INT, &opt.min_pages, 1, 1e9, "least pages of such a domain" },
    { 0, "sample", NULL, "N", OPT_INT, &opt.sample, 0, 1e9,
      "pages of the crawl to tell the seed from; 0: as many as the seed has" },
    { 0, "sample-seed", NULL, "N", OPT_INT, &opt.sample_seed, 0, 1 << 30, "which ones" },
    { 0, "domains", NULL, "FILE", OPT_TEXT, &opt.domains, 0, 0,
      "write domains, their pages and sections: where to look for patterns" },
    { 0, "save-model", NULL, "FILE", OPT_TEXT, &opt.save_model, 0, 0, "keep the last classifier" },
    { 0, "model", NULL, "FILE", OPT_TEXT, &opt.model, 0, 0,
      "a classifier of --save-model; nothing is learned, one iteration" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine recall CRAWL... --seed FILE [options]   pages about code from a web crawl\n"
    "CRAWL and seed: WARC, WET or JSON Lines with url and text or content, plain, gzip or zstd.\n"
    "Writes the pages with url, domain, score, iteration and why: classifier, pattern or domain.\n"
    "fastText's program does the learning (the Debian package fasttext). Temporary files lie in\n"
    "$TMPDIR: the words of the seed and its like, a classifier, what one iteration may recall.\n";

static struct {
    int iteration;
    uint8_t *kept; /* of each page of the crawl: it was recalled */
    uint64_t n_kept;
    uint64_t *candidate; /* the pages in the temporary file */
    size_t n_candidates, cap;
    Words seed;              /* addresses and hashes of contents */
    Tally domains, sections; /* of this iteration; "example.org/questions" */
    Patterns patterns;
    Classifier **classifier; /* a thread's */
    const char *model;
    uint64_t n_code, n_joined;
} run;

/* ------------------------------------------------------------------------------------------------
 * 1. Pages */

/* What process leaves for in_order in d->keys; the words are in d->scratch. */
typedef struct {
    double score;
    bool listed; /* a pattern says so */
} Verdict;

static bool page_words(Document *d) {
    if (d->reason) return false;
    d->scratch.n = d->keys.n = 0;
    classifier_words(d->content, &d->scratch);
    return d->scratch.n || document_drop(d, "empty");
}

static Str words_of(const Document *d) { return (Str){ d->scratch.data, d->scratch.n }; }

/* True where it is new: neither its address nor its content were in the seed. */
static bool seed_add(const Document *d) {
    Str url = page_url(d), words = words_of(d);
    uint64_t hash = hash_text(words.s, words.n);
    Word *text = words_get(&run.seed, (const char *)&hash, sizeof hash);
    bool fresh = !text->value;
    text->value = 1;
    Word *address = url.n ? words_get(&run.seed, url.s, url.n) : NULL;
    fresh = fresh && !(address && address->value);
    if (address) address->value = 1;
    return fresh;
}

static bool in_seed(const Document *d) {
    Str url = page_url(d), words = words_of(d);
    uint64_t hash = hash_text(words.s, words.n);
    return words_find(&run.seed, (const char *)&hash, sizeof hash) ||
           (url.n && words_find(&run.seed, url.s, url.n));
}

/* A page that stands for the rest of the crawl, perhaps. */
static void sample_add(const Document *d) {
    Str url = page_url(d), words = words_of(d);
    uint64_t hash = url.n ? hash_text(url.s, url.n) : hash_text(words.s, words.n);
    if (!in_seed(d)) training_sample(mix64(hash ^ mix64((uint64_t)opt.sample_seed)), words);
}

bool is_code_related(const Pages *p) {
    return p->pages >= (uint64_t)opt.min_pages &&
           100.0 * (double)p->code > opt.share * (double)p->pages;
}

static void count_domain(Str domain, Str url, bool code) {
    Pages *p = tally_get(&run.domains, domain.s, domain.n);
    p->pages++;
    p->code += code;
    if (!opt.domains) return;
    Str section = url_section(url);
    Buf key = { NULL, 0, 0 };
    buf_add(&key, domain.s, domain.n);
    buf_add(&key, "/", 1);
    buf_add(&key, section.s, section.n < 100 ? section.n : 100);
    p = tally_get(&run.sections, key.data, key.n);
    p->pages++;
    p->code += code;
    buf_free(&key);
}

/* ------------------------------------------------------------------------------------------------
 * 2. The stages: seed, sample, recall, decide */

static bool words_process(void *state, int thread, Document *d) {
    (void)state, (void)thread;
    return page_words(d);
}

static bool seed_in_order(void *state, Document *d) {
    (void)state;
    if (!seed_add(d)) return document_drop(d, "twice in the seed");
    training_seed(words_of(d));
    return true;
}

static bool sample_in_order(void *state, Document *d) {
    (void)state;
    if (!run.patterns.n || !patterns_match(&run.patterns, page_url(d))) sample_add(d);
    return true;
}

static bool recall_process(void *state, int thread, Document *d) {
    Verdict v = { 0, false };
    (void)state;
    if (!page_words(d)) return false;
    Classifier **c = &run.classifier[thread];
    if (!*c) *c = classifier_open(run.model);
    buf_add(&d->scratch, "\n", 1);
    v.score = classifier_score(*c, words_of(d));
    d->scratch.n--;
    v.listed = run.patterns.n && patterns_match(&run.patterns, page_url(d));
    buf_add(&d->keys, &v, sizeof v);
    return true;
}

static bool is_kept(uint64_t page) { return page < run.n_kept && run.kept[page]; }

static void keep(uint64_t page) {
    if (page >= run.n_kept) {
        uint64_t n = page + page / 2 + 4096;
        run.kept = (uint8_t *)xrealloc(run.kept, n, 1, "pages");
        memset(run.kept + run.n_kept, 0, n - run.n_kept);
        run.n_kept = n;
    }
    run.kept[page] = 1;
}

static void add_candidate(uint64_t page) {
    if (run.n_candidates == run.cap) {
        run.cap = run.cap * 2 + 4096;
        run.candidate =
            (uint64_t *)xrealloc(run.candidate, run.cap, sizeof *run.candidate, "candidates");
    }
    run.candidate[run.n_candidates++] = page;
}

static bool recall_in_order(void *state, Document *d) {
    Verdict v;
    Str url = page_url(d);
    Buf domain = { NULL, 0, 0 };
    (void)state;
    memcpy(&v, d->keys.data, sizeof v);
    base_domain(url_host(url), &domain);
    Str name = { domain.data ? domain.data : "", domain.n };
    bool code = v.score >= opt.threshold;
    const char *why = code ? "classifier" : v.listed ? "pattern" : "domain";
    run.n_code += code;
    if (name.n) count_domain(name, url, code);
    if (!opt.model && !code && v.listed && seed_add(d)) {
        training_seed(words_of(d));
        run.n_joined++;
    }
    bool may = code || v.listed || (name.n && v.score >= opt.domain_threshold);
    if (!opt.model && !code && !v.listed && !is_kept(d->number)) sample_add(d);
    if (may && !is_kept(d->number)) {
        add_candidate(d->number);
        json_put_str(document_member(d, "domain"), name);
        json_put_num(document_member(d, "score"), v.score, false);
        json_put_int(document_member(d, "iteration"), run.iteration);
        json_put_str(document_member(d, "why"), str_of(why));
    }
    buf_free(&domain);
    if (!may) return document_drop(d, "not code");
    return !is_kept(d->number) || document_drop(d, "recalled before");
}

static void recall_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    for (int i = 0; i < common.n_threads; i++) classifier_close(run.classifier[i]);
    memset(run.classifier, 0, (size_t)common.n_threads * sizeof *run.classifier);
}

/* Reads what recall has written: its members are all there. */
static bool decide_in_order(void *state, Document *d) {
    static const char *const reasons[] = { "classifier", "pattern", "domain" };
    Str domain = { "", 0 }, why = { "", 0 };
    Error e;
    (void)state;
    if (!json_str(d->json.node, "domain", true, &domain, &e) ||
        !json_str(d->json.node, "why", true, &why, &e) || d->number >= run.n_candidates)
        die("temporary file: a page without domain, expected one");
    if (str_is(why, "domain") && !is_code_related(tally_get(&run.domains, domain.s, domain.n)))
        return document_drop(d, "not code");
    keep(run.candidate[d->number]);
    for (int i = 0; i < 3; i++)
        if (str_is(why, reasons[i])) document_count(d, reasons[i]);
    return true;
}

static const Stage seed_stage = { "seed", "", "", NULL, NULL, words_process, seed_in_order, NULL };
static const Stage sampling = {
    "sample", "", "", NULL, NULL, words_process, sample_in_order, NULL
};
static const Stage recalling = { "recall",        "",          "", NULL, NULL, recall_process,
                                 recall_in_order, recall_close };
static const Stage deciding = { "recall", "", "", NULL, NULL, NULL, decide_in_order, NULL };

/* ------------------------------------------------------------------------------------------------
 * 3. Passes */

static void pass(Pipeline *p, const Stage *stage, Source *in, Output *out, const char *what) {
    *p = (Pipeline){ .in = in, .stage = { stage }, .n_stages = 1, .out = out, .what = what };
    p->verbose = common.verbose && (!run.iteration || (opt.model && stage == &recalling));
    pipeline_run(p);
    if (in) source_close(in);
}

/* The seed, and a first sample of the crawl; what is broken in it is counted here. */
static void first_passes(const char **path, int n, Pipeline *total) {
    Pipeline p;
    training_open();
    pass(&p, &seed_stage, source_crawl(opt.seed.text, opt.seed.n), NULL, "recall: seed");
    if (p.broken.files && !common.quiet)
        fprintf(stderr, "seed: left out: %llu that are no pages\n",
                (unsigned long long)p.broken.files);
    pipeline_free(&p);
    training_sample_begin(opt.sample ? (uint64_t)opt.sample : 2 * training_seeds() + 1000);
    pass(&p, &sampling, source_crawl(path, n), NULL, "recall: sample");
    total->broken = p.broken;
    total->broken_why = p.broken_why;
    memset(&p.broken_why, 0, sizeof p.broken_why);
    total->seconds += p.seconds;
    pipeline_free(&p);
}

static void put(Buf *b, const char *key, uint64_t value) {
    json_put_key(b, key);
    json_put_int(b, (int64_t)value);
}

typedef struct {
    uint64_t seed, sample, domains, related;
} Figures;

/* An iteration's figures as one stage of the statistics, and as a line of the table. */
static void report(StageStats *s, const StageStats *decided, const Figures *f) {
    static char names[MOST_STAGES][16];
    static const char *const why[] = { "classifier", "pattern", "domain" };
    char text[8][32];
    uint64_t by[3];
    snprintf(names[run.iteration - 1], 16, "recall %d", run.iteration);
    s->name = names[run.iteration - 1];
    s->out = decided->out;
    for (int i = 0; i < 3; i++) {
        const Word *w = words_find(&decided->counts.words, why[i], strlen(why[i]));
        Count c = w ? decided->counts.count[w->value - 1] : (Count){ 0, 0 };
        if (c.files) *counts_get(&s->counts, why[i], strlen(why[i])) = c;
        by[i] = c.files;
    }
    Count *no = counts_get(&s->reasons, "not code", 8);
    no->files += decided->in.files - decided->out.files;
    no->bytes += decided->in.bytes - decided->out.bytes;
    put(&s->more, "seed", f->seed), put(&s->more, "sample", f->sample);
    put(&s->more, "like_code", run.n_code), put(&s->more, "domains", f->domains);
    put(&s->more, "code_domains", f->related), put(&s->more, "joined_seed", run.n_joined);
    if (common.quiet) return;
    if (run.iteration == 1)
        fprintf(stderr, "%9s %10s %10s %12s %12s %11s %11s %11s %10s %10s\n", "iteration", "seed",
                "sample", "pages", "like code", "classifier", "pattern", "domain", "domains",
                "of code");
    fprintf(stderr, "%9d %10s %10s %12s %12s %11s %11s", run.iteration, grouped(f->seed, text[0]),
            grouped(f->sample, text[1]), grouped(s->in.files, text[2]),
            grouped(run.n_code, text[3]), grouped(by[0], text[4]), grouped(by[1], text[5]));
    fprintf(stderr, " %11s %10s %10s\n", grouped(by[2], text[4]), grouped(f->domains, text[6]),
            grouped(f->related, text[7]));
}

static void iterate(const char **path, int n, Pipeline *total) {
    Figures f = { 0, 0, 0, 0 };
    Pipeline recall, decide;
    Output *spool = output_spool();
    char what[32];
    f.seed = opt.model ? 0 : training_seeds();
    if (!opt.model) {
        run.model = training_run(opt.sample ? (uint64_t)opt.sample : f.seed, &f.sample);
        training_sample_begin(opt.sample ? (uint64_t)opt.sample : 2 * f.seed + 1000);
    }
    run.n_code = run.n_joined = run.n_candidates = 0;
    tally_clear(&run.domains), tally_clear(&run.sections);
    run.iteration++;
    snprintf(what, sizeof what, "recall: iteration %d", run.iteration);
    pass(&recall, &recalling, source_crawl(path, n), spool, what);
    pass(&decide, &deciding, source_spool(spool), total->out, what);
    for (size_t i = 0; i < run.domains.n; i++) f.related += is_code_related(&run.domains.pages[i]);
    f.domains = run.domains.n;
    report(&recall.stats[0], &decide.stats[0], &f);
    if (opt.model) {
        total->broken = recall.broken;
        total->broken_why = recall.broken_why;
        memset(&recall.broken_why, 0, sizeof recall.broken_why);
    }
    total->stats[total->n_stages++] = recall.stats[0];
    memset(&recall.stats[0], 0, sizeof recall.stats[0]);
    total->seconds += recall.seconds + decide.seconds;
    pipeline_free(&recall);
    pipeline_free(&decide);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The command */

static void copy_model(void) {
    OutFile out;
    Map map;
    Error e;
    if (!map_file(&map, run.model, &e)) die("%s: %s", run.model, e.text);
    out_open(&out, opt.save_model);
    out_write(&out, map.data, map.size);
    out_commit(&out);
    unmap_file(&map);
}

enum { N_OUTPUTS = 4 };

static const char *output_path(int k) { /* NULL: not wanted */
    const char *const path[N_OUTPUTS] = { common.out, common.stats, opt.domains, opt.save_model };
    return !k && path[0] && !strcmp(path[0], "-") ? NULL : path[k];
}

static void protect(const char *const *in, int n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < N_OUTPUTS; k++)
            if (in[i] && output_path(k) && same_file(in[i], output_path(k)))
                die_usage("%s: is read and to be written, expected another name", output_path(k));
}

/* Before hours of work: can all be written, to different names? */
static void try_outputs(void) {
    for (int k = 0; k < N_OUTPUTS; k++) {
        if (!output_path(k)) continue;
        out_try(output_path(k), NULL);
        for (int i = 0; i < k; i++)
            if (output_path(i)) out_try(output_path(k), output_path(i));
    }
}

static void check_options(const char **path, int n) {
    const char *const more[] = { opt.patterns, opt.model, classifier_tokenizer() };
    if (common.resume) die_usage("--resume: given with recall, which must see all pages");
    if (!n) die_usage("no crawl, expected files of WARC, WET or JSON Lines");
    if (!opt.seed.n && !opt.model)
        die_usage("--seed: missing, expected pages that are code-related");
    if (opt.model && (opt.seed.n || opt.save_model))
        die_usage("--model: given with --seed or --save-model, expected one of them");
    protect(path, n);
    protect(opt.seed.text, opt.seed.n);
    protect(more, 3);
    try_outputs();
    if (opt.model && access(opt.model, R_OK))
        die("%s: cannot open: %s", opt.model, strerror(errno));
}

static void free_all(void) {
    words_free(&run.seed), tally_free(&run.domains), tally_free(&run.sections);
    free(run.kept), free(run.candidate), free(run.classifier);
    patterns_free(&run.patterns);
    classifier_done();
}

int run_recall(int argc, char **argv) {
    enum { MOST_PATHS = 65536 };
    Option table[40];
    const char **path = (const char **)xcalloc(MOST_PATHS, sizeof *path, "input");
    size_t k = sizeof own / sizeof *own - 1, i = 0;
    char text[32];
    memcpy(table, own, sizeof own);
    do table[k++] = classifier_options[i];
    while (classifier_options[i++].name);
    int n = refine_options(argc, argv, table, usage, path, MOST_PATHS);
    Pipeline total = { .verbose = common.verbose };
    check_options(path, n);
    classifier_check();
    if (opt.patterns) patterns_open(&run.patterns, opt.patterns);
    source_close(source_crawl(opt.seed.text, opt.seed.n)); /* is all there, before work begins? */
    source_close(source_crawl(path, n));
    run.classifier =
        (Classifier **)xcalloc((size_t)common.n_threads, sizeof(Classifier *), "threads");
    run.model = opt.model;
    total.out = output_open(common.out, common.zstd);
    if (!opt.model) first_passes(path, n, &total);
    for (int64_t it = 0; it < (opt.model ? 1 : opt.iterations); it++) {
        if (it && !training_sampled()) { /* there is no other side any more */
            if (!common.quiet) fprintf(stderr, "all pages were recalled: nothing more to learn\n");
            break;
        }
        iterate(path, n, &total);
    }
    output_commit(total.out);
    if (opt.domains) write_domains(opt.domains, &run.domains, &run.sections);
    if (opt.save_model) copy_model();
    if (common.stats) write_stats(&total, common.stats);
    if (total.broken.files && !common.quiet)
        fprintf(stderr, "left out: %s that are no pages%s\n", grouped(total.broken.files, text),
                common.verbose ? "" : "; --verbose names them");
    pipeline_free(&total);
    if (!opt.model) training_close();
    free_all();
    free(path);
    return 0;
}
