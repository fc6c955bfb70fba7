/* dedup.c: `./refine dedup`, exact and near duplicates of files, repositories or chunks.
 *
 *     ./refine dedup files.jsonl > unique.jsonl                         exact, then near
 *     ./refine dedup --exact files.jsonl > distinct.jsonl
 *     ./refine dedup --near --emit files.jsonl | LC_ALL=C sort | ./refine dedup --group > pairs
 *     ./refine dedup --drop pairs files.jsonl > unique.jsonl            the same, any size
 *
 * What to know first: OpenCoder (arXiv 2411.04905, 2.1.1) drops files with the same SHA-256, then
 * those that share one of 16 bands of 128 out of 2048 MinHash values over 5 words each, and
 * keeps the one with the most stars, then the latest commit. What shares a band is joined, and of
 * what hangs together one unit stays. Documents are read twice: the first pass computes keys and
 * keeps them, the second lets pass what stays, in the order of the input. Signatures are computed
 * once for each different content. Test: tests/test_dedup.py. */

#include "dedup.h"

DedupOptions dedup_options = { "file", LEVEL_FILE, false, false, 5, 16, 128, 16384, 1 };
const char *dedup_edges;
static bool emit, group;

const Option dedup_table[] = {
    { 0, "exact", NULL, NULL, OPT_FLAG, &dedup_options.exact, 0, 0,
      "equal content only; default: both" },
    { 0, "near", NULL, NULL, OPT_FLAG, &dedup_options.near, 0, 0, "near and equal content" },
    { 0, "level", NULL, "NAME", OPT_TEXT, &dedup_options.level_name, 0, 0,
      "what is compared: file, repository or chunk [file]" },
    { 0, "ngram", NULL, "N", OPT_INT, &dedup_options.ngram, 1, 64, "words of a shingle" },
    { 0, "bands", NULL, "N", OPT_INT, &dedup_options.bands, 1, 4096, "bands" },
    { 0, "rows", NULL, "N", OPT_INT, &dedup_options.rows, 1, 4096, "hash functions of a band" },
    { 0, "chunk-bytes", NULL, "N", OPT_INT, &dedup_options.chunk, 64, 1 << 24,
      "least bytes of a chunk; 4096 tokens are about" },
    { 0, "hash-seed", NULL, "N", OPT_INT, &dedup_options.seed, 0, 1 << 30, "of the functions" },
    { 0, "emit", NULL, NULL, OPT_FLAG, &emit, 0, 0,
      "write keys for sort(1), Hadoop Streaming or Spark's pipe" },
    { 0, "group", NULL, NULL, OPT_FLAG, &group, 0, 0, "sorted keys in, pairs of duplicates out" },
    { 0, "drop", NULL, "PAIRS", OPT_TEXT, &dedup_edges, 0, 0, "drop what these pairs say" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine dedup [FILE.jsonl[.zst]...] [options]   drop exact and near duplicates\n"
    "Kept is what has the most stars, then the latest commit. Memory: 64 bytes for each different\n"
    "content and 1 for each unit; --near: 8 x bands (128) bytes a content more, at level\n"
    "repository 4 x bands x rows (8192) bytes a repository. From stdin: documents wait on disk,\n"
    "in $TMPDIR. Two texts of Jaccard similarity J share a band with 1 - (1 - J^rows)^bands.\n";

/* What lives from the first pass to the second. */
static struct {
    Groups groups;
    Repos repos;
    MinHash hash;
    uint8_t *state; /* of each unit */
    uint64_t n_units, next;
    uint32_t **signature; /* a thread's */
    int n_threads;
} run;

enum { EXACT, NEAR, KEPT };

void dedup_check(void) {
    static const char *const names[] = { "file", "repository", "chunk" };
    DedupOptions *o = &dedup_options;
    o->level = -1;
    for (int i = 0; i < 3; i++)
        if (!strcmp(o->level_name, names[i])) o->level = i;
    if (o->level < 0) die_usage("--level: '%s', expected file, repository or chunk", o->level_name);
    if (!o->exact && !o->near) o->exact = o->near = true;
    if (o->bands * o->rows > 1 << 16)
        die_usage("--bands, --rows: %lld x %lld functions, expected at most 65536",
                  (long long)o->bands, (long long)o->rows);
}

/* ------------------------------------------------------------------------------------------------
 * 1. The first pass */

static void *keys_open(int n_threads) {
    memset(&run, 0, sizeof run);
    run.n_threads = n_threads;
    minhash_open(&run.hash, (int)dedup_options.ngram, (int)dedup_options.bands,
                 (int)dedup_options.rows, (uint64_t)dedup_options.seed);
    run.repos.width = dedup_options.near ? (size_t)run.hash.bands * (size_t)run.hash.rows : 0;
    run.groups.bands = dedup_options.near ? run.hash.bands : 0;
    return NULL;
}

static bool keys_process(void *state, int thread, Document *d) {
    (void)state, (void)thread;
    units_cut(d);
    return true;
}

static bool keys_in_order(void *state, Document *d) {
    size_t n;
    Unit *u = units_of(d, &n);
    (void)state;
    for (size_t i = 0; i < n && dedup_options.level != LEVEL_REPO; i++) {
        Rank rank = unit_rank(d, &u[i]);
        u[i].content =
            (uint32_t)groups_add(&run.groups, u[i].key, &rank, run.n_units++, &u[i].fresh);
    }
    if (dedup_options.level == LEVEL_REPO && !dedup_options.near) repos_add(&run.repos, d, u, NULL);
    return true;
}

const Stage dedup_exact_keys = { "exact keys",  "",  "", NULL, keys_open, keys_process,
                                 keys_in_order, NULL };

/* Signatures follow the units in scratch: of a repository's file whole, else the bands of what is
 * new. */
static bool near_process(void *state, int thread, Document *d) {
    size_t n, width = (size_t)run.hash.bands * (size_t)run.hash.rows;
    uint32_t *signature = xcalloc(width, sizeof *signature, "signature");
    uint64_t *band = xcalloc((size_t)run.hash.bands, sizeof *band, "bands");
    (void)state, (void)thread;
    units_of(d, &n);
    for (size_t i = 0; i < n; i++) {
        const Unit *u = units_of(d, &n) + i;
        if (!u->fresh && dedup_options.level != LEVEL_REPO) continue;
        memset(signature, 255, width * sizeof *signature);
        minhash_add(&run.hash, unit_text(d, u), signature);
        minhash_bands(&run.hash, signature, band);
        if (dedup_options.level == LEVEL_REPO)
            buf_add(&d->keys, signature, width * sizeof *signature);
        else
            buf_add(&d->keys, band, (size_t)run.hash.bands * sizeof *band);
    }
    free(signature);
    free(band);
    return true;
}

static bool near_in_order(void *state, Document *d) {
    size_t n, bands = (size_t)run.hash.bands, at = 0;
    const Unit *u = units_of(d, &n);
    const void *keys = d->keys.data;
    (void)state;
    if (dedup_options.level == LEVEL_REPO) {
        repos_add(&run.repos, d, u, keys);
        return true;
    }
    for (size_t i = 0; i < n; i++)
        if (u[i].fresh)
            memcpy(run.groups.band + u[i].content * bands, (const uint64_t *)keys + bands * at++,
                   bands * sizeof(uint64_t));
    return true;
}

const Stage dedup_near_keys = {
    "near keys", "", "", NULL, NULL, near_process, near_in_order, NULL
};

/* ------------------------------------------------------------------------------------------------
 * 2. In between */

void dedup_decide(void) {
    Groups *g = &run.groups;
    for (size_t i = 0; i < run.repos.n; i++) {
        const Repo *r = &run.repos.repo[i];
        bool fresh;
        size_t c = groups_add(g, r->key, &r->best, i, &fresh);
        if (fresh && g->bands)
            minhash_bands(&run.hash, run.repos.signature + i * run.repos.width,
                          g->band + c * (size_t)g->bands);
    }
    if (dedup_options.level == LEVEL_REPO) run.n_units = run.repos.n;
    run.state = xcalloc(run.n_units, 1, "units");
    for (size_t i = 0; i < g->n; i++) run.state[g->content[i].unit] = NEAR;
    groups_join(g);
    for (size_t i = 0; i < g->n; i++) run.state[groups_best(g, i)] = KEPT;
    groups_free(g);
    minhash_close(&run.hash);
}

/* ------------------------------------------------------------------------------------------------
 * 3. The second pass */

static bool keep_process(void *state, int thread, Document *d) {
    (void)state, (void)thread;
    if (dedup_options.level == LEVEL_CHUNK) units_cut(d);
    return true;
}

static bool keep_in_order(void *state, Document *d) {
    static const char *const why[] = { "exact duplicate", "near duplicate" };
    size_t n = 1;
    uint8_t s = EXACT;
    Unit *u = units_of(d, &n);
    (void)state;
    if (dedup_options.level == LEVEL_REPO) {
        size_t i = repos_find(&run.repos, d);
        s = i < run.n_units ? run.state[i] : EXACT;
        return s == KEPT || document_drop(d, why[s]);
    }
    if (dedup_options.level == LEVEL_FILE) n = 1;
    for (size_t i = 0; i < n; i++) {
        if (run.next == run.n_units) die("dedup: the input has changed while it was read");
        s = run.state[run.next++];
        if (dedup_options.level == LEVEL_CHUNK) u[i].keep = s == KEPT;
    }
    if (dedup_options.level == LEVEL_CHUNK) return units_keep(d, "chunks are duplicates");
    return s == KEPT || document_drop(d, why[s]);
}

static void keep_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    free(run.state);
    repos_free(&run.repos);
}

const Stage dedup_keep = { "dedup", "", "", NULL, NULL, keep_process, keep_in_order, keep_close };

/* ------------------------------------------------------------------------------------------------
 * 4. The command */

static void two_passes(const char **path, int n) {
    Pipeline first = { .stage = { &dedup_exact_keys, &dedup_near_keys }, .what = "dedup: keys" };
    Pipeline second = { .stage = { &dedup_keep }, .n_stages = 1, .what = "dedup: keeping" };
    first.n_stages = dedup_options.near ? 2 : 1;
    pipeline_twice(&first, dedup_decide, &second, path, n);
}

static void one_pass(const Stage *stage, const char **path, int n, bool documents) {
    Pipeline p = { .stage = { stage }, .n_stages = 1, .what = "dedup" };
    p.verbose = common.verbose;
    p.in = source_lines(path, n);
    p.out = documents ? output_open(common.out, common.zstd) : NULL;
    pipeline_run(&p);
    if (p.out) output_commit(p.out);
    if (common.stats) write_stats(&p, common.stats);
    pipeline_report(&p);
    source_close(p.in);
    pipeline_free(&p);
}

int run_dedup(int argc, char **argv) {
    const char *path[1024];
    int n = refine_options(argc, argv, dedup_table, usage, path, 1024);
    if (common.resume) die_usage("--resume: given with dedup, which must see all documents");
    if (emit + group + (dedup_edges != NULL) > 1)
        die_usage("--emit, --group, --drop: expected one of them");
    dedup_check();
    for (int i = 0; common.out && i < n; i++)
        if (same_file(path[i], common.out))
            die_usage("%s: is read and to be written, expected another name", common.out);
    if (group) return dedup_group(path, n);
    if (emit)
        one_pass(&dedup_emit, path, n, false);
    else if (dedup_edges)
        one_pass(&dedup_drop, path, n, true);
    else
        two_passes(path, n);
    return 0;
}
