/* judge.c: which candidates stay: their tests, the benchmarks, their likes. See instruct.h.
 *
 * What to know first: tests and program are equally strange here, a docstring's examples as much as
 * a model's asserts. functions.py has made them such that nothing is gained by cheating: examples
 * are run by the program's side, which never sees what is expected, and only strings are compared
 * on the other side; asserts are plain ones. What the sandbox promises is in eval/README.md.
 * Tests: tests/test_instruct.py, test_synth.py. */

#include "../eval/sandbox.h" /* python_check */
#include "dedup.h"           /* MinHash, sha256 */
#include "instruct.h"

JudgeOptions judge_options = { 3, 512, 5, 16, 8, 0, false };

static const Option options[] = {
    { 0, "timeout", NULL, "S", OPT_FLOAT, &judge_options.seconds, 0.05, 3600,
      "seconds that the tests of one candidate may take" },
    { 0, "memory", NULL, "MiB", OPT_INT, &judge_options.memory, 64, 1 << 20,
      "memory that they may take" },
    { 0, "unsafe", NULL, NULL, OPT_FLAG, &judge_options.unsafe, 0, 0,
      "run them although this machine's kernel refuses the sandbox" },
    { 0, "ngram", NULL, "N", OPT_INT, &judge_options.ngram, 1, 64,
      "near duplicates: words of a shingle" },
    { 0, "bands", NULL, "N", OPT_INT, &judge_options.bands, 1, 256, "bands" },
    { 0, "rows", NULL, "N", OPT_INT, &judge_options.rows, 1, 256,
      "hash functions of a band; 16 x 8 finds a similarity of 0.7 in 61 %, 0.8 in 95 %" },
    { 0, "limit", NULL, "N", OPT_INT, &judge_options.limit, 0, 9e15,
      "write N of them, spread evenly over all; 0: all" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

void judge_gather(Option *table, int most, const Option *own, const Option *more) {
    const Option *part[] = { own, more, options, decontaminate_stage.options };
    int n = 0;
    for (int k = 0; k < 4; k++)
        for (const Option *o = part[k]; o && o->name; o++) {
            if (n == most - 1) die("options: %d, expected fewer", n);
            table[n++] = *o;
        }
    table[n] = (Option){ 0 };
}

/* ------------------------------------------------------------------------------------------------
 * 1. Candidates as documents */

void put_member(Buf *b, const char *key, Str s) {
    if (!s.n) return;
    json_put_key(b, key);
    json_put_str(b, s);
}

void candidate_put(Buf *out, const Candidate *c) {
    Buf text = { NULL, 0, 0 };
    buf_add(&text, c->text.s, c->text.n);
    buf_add(&text, "\n", 1);
    buf_add(&text, c->more.s, c->more.n);
    buf_add(out, "{", 1);
    put_member(out, "content", (Str){ text.data, text.n });
    json_put_key(out, "compared");
    json_put_int(out, (int64_t)c->text.n);
    put_member(out, "path", c->name);
    put_member(out, "program", c->program);
    put_member(out, "tests", c->tests);
    put_member(out, "stub", c->stub);
    json_put_key(out, "line");
    json_put_str(out, c->line); /* as a string: its bytes stay as they are */
    buf_add(out, "}\n", 2);
    buf_free(&text);
}

static Str member(const Document *d, const char *key) {
    Error e;
    Str s = { "", 0 };
    (void)json_str(d->json.node, key, false, &s, &e); /* candidate_put has written it */
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Tests */

static struct {
    MinHash hash;
    Words seen; /* 8 bytes of a key */
} unique;
static Output *judged; /* opened before the work, so that it is not done in vain */

void judge_open(bool run) {
    SandboxOptions o = { .unsafe = judge_options.unsafe };
    Error e;
    judged = output_open(common.out, common.zstd);
    minhash_open(&unique.hash, (int)judge_options.ngram, (int)judge_options.bands,
                 (int)judge_options.rows, 1);
    if (!run) return;
    if (!sandbox_open(&o, &e)) die("sandbox: %s", e.text);
    if (!sandbox_python()) die("python3: not found, expected CPython to run tests with");
    Protections p = sandbox_protections();
    if (p.granted != PROTECT_ALL && !common.quiet) fprintf(stderr, "%s\n", p.text);
}

/* Why the tests did not pass; NULL: they did. */
static const char *fault(const PythonResult *r) {
    static const struct {
        const char *start, *reason;
    } known[] = {
        { "ModuleNotFoundError", "tests: a module is not here" },
        { "ImportError", "tests: a module is not here" },
        { "NameError", "tests: a name is not defined" },
    };
    static const char *const reason[] = {
        [PY_PASSED] = NULL,
        [PY_WRONG] = "tests: wrong answer",
        [PY_EXCEPTION] = "tests: exception",
        [PY_TIMEOUT] = "tests: time limit",
        [PY_MEMORY] = "tests: memory",
        [PY_SYNTAX] = "tests: syntax",
        [PY_CHEATED] = "tests: broke the rules",
        [PY_FAILED] = "tests: not run",
    };
    for (size_t i = 0; r->verdict != PY_PASSED && i < sizeof known / sizeof *known; i++)
        if (!strncmp(r->message, known[i].start, strlen(known[i].start))) return known[i].reason;
    return reason[r->verdict];
}

static bool tests_process(void *state, int thread, Document *d) {
    PythonTask task = { .tests = member(d, "tests"),
                        .program = member(d, "program"),
                        .seconds = judge_options.seconds,
                        .memory = (uint64_t)judge_options.memory << 20 };
    PythonResult r;
    (void)state, (void)thread;
    if (!task.tests.n) return true;
    python_check(&task, &r);
    if (fault(&r)) return document_drop(d, fault(&r));
    task.program = member(d, "stub");
    if (!task.program.n) return true;
    python_check(&task, &r);
    if (r.verdict == PY_FAILED) return document_drop(d, fault(&r)); /* nothing is known of them */
    return r.verdict != PY_PASSED ||
           document_drop(d, "tests: passed by a function that does nothing");
}

static const Stage tests_stage = { "tests", "", "", NULL, NULL, tests_process, NULL, NULL };

/* ------------------------------------------------------------------------------------------------
 * 3. Duplicates: the keys of a text are its SHA-256 and the number of each band */

static void text_keys(Str text, Buf *keys) {
    size_t width = (size_t)unique.hash.bands * (size_t)unique.hash.rows,
           bands = (size_t)unique.hash.bands;
    uint32_t *signature = xcalloc(width, sizeof *signature, "signature");
    uint64_t *key = xcalloc(bands + 1, sizeof *key, "bands");
    uint8_t digest[32];
    sha256(text.s, text.n, digest);
    memcpy(key, digest, sizeof *key);
    memset(signature, 255, width * sizeof *signature);
    minhash_add(&unique.hash, text, signature);
    minhash_bands(&unique.hash, signature, key + 1);
    keys->n = 0;
    buf_add(keys, key, (bands + 1) * sizeof *key);
    free(signature);
    free(key);
}

static void *unique_open(int n_threads) {
    (void)n_threads;
    return &unique;
}

static bool unique_process(void *state, int thread, Document *d) {
    Error e;
    int64_t n = 0;
    (void)state, (void)thread;
    (void)json_int(d->json.node, "compared", true, 0, (int64_t)d->content.n, &n, &e);
    text_keys((Str){ d->content.s, (size_t)n }, &d->keys);
    return true;
}

static void add_keys(const Buf *keys) {
    for (size_t at = 0; at < keys->n; at += 8)
        words_get(&unique.seen, keys->data + at, 8)->value = 1;
}

static bool unique_in_order(void *state, Document *d) {
    (void)state;
    for (size_t at = 0; at < d->keys.n; at += 8)
        if (words_find(&unique.seen, d->keys.data + at, 8))
            return document_drop(d, at ? "near duplicate" : "exact duplicate");
    add_keys(&d->keys);
    Str line = member(d, "line");
    buf_add(&d->out, line.s, line.n);
    buf_add(&d->out, "\n", 1);
    return true;
}

static void unique_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    words_free(&unique.seen);
    minhash_close(&unique.hash);
}

static const Stage unique_stage = {
    "unique", "", "", NULL, unique_open, unique_process, unique_in_order, unique_close
};

void judge_known(Str text) {
    Buf keys = { NULL, 0, 0 };
    text_keys(text, &keys);
    add_keys(&keys);
    buf_free(&keys);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The second pass */

/* `limit` of the n lines, spread evenly: line i where limit (i + 1) / n is a new whole number; due
 * is the rest of that division. */
static void write_some(Output *spool, uint64_t n, uint64_t limit) {
    Source *s = source_spool(spool);
    Document d = { 0 };
    uint64_t due = 0;
    document_reset(&d);
    for (; s->next(s, &d); document_reset(&d)) {
        due += limit < n ? limit : n;
        if (due < n) continue;
        due -= n;
        buf_add(&d.raw, "\n", 1);
        output_write(judged, d.raw.data, d.raw.n);
    }
    source_close(s);
    document_free(&d);
}

static void report(Pipeline *first, const Pipeline *second) {
    Pipeline total = { .n_stages = first->n_stages + second->n_stages, .broken = first->broken };
    total.broken_why = first->broken_why;
    total.seconds = first->seconds + second->seconds;
    memcpy(total.stats, first->stats, (size_t)first->n_stages * sizeof *first->stats);
    memcpy(total.stats + first->n_stages, second->stats,
           (size_t)second->n_stages * sizeof *second->stats);
    if (common.stats) write_stats(&total, common.stats);
    pipeline_report(second);
    if (common.quiet) return;
    for (int s = 0; s < total.n_stages; s++) {
        const StageStats *t = &total.stats[s];
        const char *name = t->name; /* before its first line */
        for (int k = 0; k < 2; k++) {
            const Counts *c = k ? &t->counts : &t->reasons;
            for (size_t i = 0; i < c->words.n; i++, name = "") {
                const Word *w = &c->words.word[i];
                char text[32];
                fprintf(stderr, "  %-14s %12s %.*s\n", name,
                        grouped(c->count[w->value - 1].files, text), (int)w->n,
                        c->words.text.data + w->at);
            }
        }
    }
}

void judge_candidates(Pipeline *first, Output *spool, bool run) {
    Pipeline second = { .what = "judging", .verbose = common.verbose };
    if (run) second.stage[second.n_stages++] = &tests_stage;
    if (decontaminate_wanted()) second.stage[second.n_stages++] = &decontaminate_stage;
    second.stage[second.n_stages++] = &unique_stage;
    second.in = source_spool(spool);
    second.out = judge_options.limit ? output_spool() : judged;
    pipeline_run(&second);
    second.broken = first->broken;
    if (judge_options.limit)
        write_some(second.out, second.stats[second.n_stages - 1].out.files,
                   (uint64_t)judge_options.limit);
    output_commit(judged);
    if (run) sandbox_close();
    report(first, &second);
    source_close(second.in);
    pipeline_free(&second);
}
