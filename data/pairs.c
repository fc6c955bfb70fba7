/* pairs.c: `./refine dedup` in three programs around a sort, for what does not fit into memory.
 *
 *     --emit    documents -> a line for each key:     KEY <tab> UNIT
 *     sort      any program that brings lines with the same KEY together
 *     --group   sorted lines -> for each pair of neighbours with the same KEY:  UNIT <tab> UNIT
 *     --drop    documents and pairs -> the documents that stay
 *
 * What to know first: a UNIT is its rank in 64 hexadecimal digits, such that the better one sorts
 * first: 2^64 - 1 - stars, the same of the time, the id. So pairs tell all that is needed, in any
 * order and from any number of --emit and --group, and memory is that of the duplicates alone. KEY
 * is e and the key of the content, or n, the band and its number. Test: tests/test_dedup.py: the
 * same documents stay as in memory. */

#include "dedup.h"

enum { UNIT_HEX = 64 };

typedef struct {
    uint64_t part[4]; /* as it sorts: smaller is better */
} Name;

static Name name_of(const Rank *r) {
    return (Name){ { UINT64_MAX - (uint64_t)r->stars,
                     UINT64_MAX - ((uint64_t)r->commit_time ^ 1ull << 63), r->id[0], r->id[1] } };
}

static int compare_names(const Name *a, const Name *b) {
    for (int i = 0; i < 4; i++)
        if (a->part[i] != b->part[i]) return a->part[i] < b->part[i] ? -1 : 1;
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * 1. --emit */

static struct {
    MinHash hash;
    Repos repos;
    Output *out;
} run;

static void put_line(Buf *b, char kind, uint64_t key, uint64_t more, const Rank *r) {
    Name n = name_of(r);
    buf_printf(b, "%c%016llx%016llx\t%016llx%016llx%016llx%016llx\n", kind, (unsigned long long)key,
               (unsigned long long)more, (unsigned long long)n.part[0],
               (unsigned long long)n.part[1], (unsigned long long)n.part[2],
               (unsigned long long)n.part[3]);
}

static void put_keys(Buf *b, const uint64_t key[2], const uint32_t *signature, const Rank *r) {
    uint64_t *band = xcalloc((size_t)run.hash.bands, sizeof *band, "bands");
    if (dedup_options.exact) put_line(b, 'e', key[0], key[1], r);
    if (dedup_options.near) minhash_bands(&run.hash, signature, band);
    for (int i = 0; i < run.hash.bands && dedup_options.near; i++)
        put_line(b, 'n', (uint64_t)i, band[i], r);
    free(band);
}

static void *emit_open(int n_threads) {
    (void)n_threads;
    minhash_open(&run.hash, (int)dedup_options.ngram, (int)dedup_options.bands,
                 (int)dedup_options.rows, (uint64_t)dedup_options.seed);
    run.repos.width = (size_t)run.hash.bands * (size_t)run.hash.rows;
    run.out = output_open(common.out, common.zstd);
    return NULL;
}

static bool emit_process(void *state, int thread, Document *d) {
    size_t n, width = run.repos.width;
    uint32_t *signature = xcalloc(width, sizeof *signature, "signature");
    (void)state, (void)thread;
    units_cut(d);
    const Unit *u = units_of(d, &n);
    for (size_t i = 0; i < n; i++) {
        Rank rank = unit_rank(d, &u[i]);
        memset(signature, 255, width * sizeof *signature);
        if (dedup_options.near) minhash_add(&run.hash, unit_text(d, &u[i]), signature);
        if (dedup_options.level == LEVEL_REPO)
            buf_add(&d->keys, signature, width * sizeof *signature);
        else
            put_keys(&d->keys, u[i].key, signature, &rank);
    }
    free(signature);
    return true;
}

static bool emit_in_order(void *state, Document *d) {
    size_t n;
    (void)state;
    if (dedup_options.level == LEVEL_REPO)
        repos_add(&run.repos, d, units_of(d, &n), (const uint32_t *)(const void *)d->keys.data);
    else
        output_write(run.out, d->keys.data, d->keys.n);
    return true;
}

static void emit_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    Buf lines = { NULL, 0, 0 };
    for (size_t i = 0; i < run.repos.n; i++, lines.n = 0) {
        const Repo *r = &run.repos.repo[i];
        put_keys(&lines, r->key, run.repos.signature + i * run.repos.width, &r->best);
        output_write(run.out, lines.data, lines.n);
    }
    output_commit(run.out);
    buf_free(&lines);
    repos_free(&run.repos);
    minhash_close(&run.hash);
}

const Stage dedup_emit = {
    "emit", "", "", NULL, emit_open, emit_process, emit_in_order, emit_close
};

/* ------------------------------------------------------------------------------------------------
 * 2. --group */

/* KEY <tab> UNIT, with 64 digits in UNIT; *key is the length of KEY. */
static bool split(Str line, size_t *key) {
    const char *tab = memchr(line.s, '\t', line.n);
    *key = tab ? (size_t)(tab - line.s) : 0;
    if (!tab || line.n - *key - 1 != UNIT_HEX) return false;
    for (const char *p = tab + 1; p < line.s + line.n; p++)
        if (!isxdigit((uint8_t)*p)) return false;
    return true;
}

int dedup_group(const char **path, int n) {
    Source *in = source_lines(path, n);
    Output *out = output_open(common.out, common.zstd);
    Document a = { 0 }, b = { 0 }, *last = &a, *now = &b;
    size_t last_key = 0, key;
    document_reset(last), document_reset(now);
    for (; in->next(in, now); document_reset(now)) {
        if (!split((Str){ now->raw.data, now->raw.n }, &key))
            die("%s:%lld: '%.60s', expected a line of dedup --emit", now->from,
                (long long)now->line, now->raw.data);
        if (key == last_key && !memcmp(now->raw.data, last->raw.data, key)) {
            Buf pair = { NULL, 0, 0 };
            buf_add(&pair, last->raw.data + key + 1, UNIT_HEX);
            buf_add(&pair, now->raw.data + key, UNIT_HEX + 1);
            buf_add(&pair, "\n", 1);
            output_write(out, pair.data, pair.n);
            buf_free(&pair);
        }
        last_key = key;
        Document *other = last;
        last = now, now = other;
    }
    output_commit(out);
    source_close(in);
    document_free(last);
    document_free(now);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * 3. --drop */

static struct {
    Words words; /* the bytes of a Name, of a repository those of its id -> 1 + its number */
    Name *name;
    uint32_t *parent; /* of a forest; the best of a group is at its root */
    bool *passed;     /* the unit was let pass: others with the same name are dropped */
    size_t n, cap;
    Source *pairs;
} drop;

static uint32_t find_root(uint32_t i) {
    while (drop.parent[i] != i) i = drop.parent[i] = drop.parent[drop.parent[i]];
    return i;
}

/* The rank of a repository is known to --emit only, which has seen all of its files. */
static Str name_bytes(const Name *name) {
    size_t from = dedup_options.level == LEVEL_REPO ? 2 : 0;
    return (Str){ (const char *)(name->part + from), (4 - from) * sizeof *name->part };
}

static uint32_t unit_number(const Name *name) {
    Str bytes = name_bytes(name);
    Word *w = words_get(&drop.words, bytes.s, bytes.n);
    if (w->value) return (uint32_t)w->value - 1;
    if (drop.n == drop.cap) {
        drop.cap = drop.cap * 3 / 2 + 1024;
        drop.name = xrealloc(drop.name, drop.cap, sizeof *drop.name, "pairs");
        drop.parent = xrealloc(drop.parent, drop.cap, sizeof *drop.parent, "pairs");
        drop.passed = xrealloc(drop.passed, drop.cap, sizeof *drop.passed, "pairs");
    }
    drop.name[drop.n] = *name;
    drop.parent[drop.n] = (uint32_t)drop.n;
    drop.passed[drop.n] = false;
    w->value = ++drop.n;
    return (uint32_t)drop.n - 1;
}

static void parse_name(const char *hex, Name *name) {
    char part[17] = "";
    for (int i = 0; i < 4; i++) {
        memcpy(part, hex + 16 * i, 16);
        name->part[i] = strtoull(part, NULL, 16);
    }
}

static void *drop_open(int n_threads) {
    Document d = { 0 };
    size_t key;
    (void)n_threads;
    drop.pairs = source_lines(&dedup_edges, 1);
    document_reset(&d);
    for (; drop.pairs->next(drop.pairs, &d); document_reset(&d)) {
        Name a, b;
        if (!split((Str){ d.raw.data, d.raw.n }, &key) || key != UNIT_HEX)
            die("%s:%lld: '%.60s', expected a line of dedup --group", d.from, (long long)d.line,
                d.raw.data);
        parse_name(d.raw.data, &a);
        parse_name(d.raw.data + UNIT_HEX + 1, &b);
        uint32_t x = find_root(unit_number(&a)), y = find_root(unit_number(&b));
        if (x == y) continue;
        if (compare_names(&drop.name[x], &drop.name[y]) < 0)
            drop.parent[y] = x;
        else
            drop.parent[x] = y;
    }
    source_close(drop.pairs);
    document_free(&d);
    return NULL;
}

static bool drop_process(void *state, int thread, Document *d) {
    (void)state, (void)thread;
    units_cut(d);
    return true;
}

/* Is it in no pair, or the first of those with the best name of its group? All files of a
 * repository have the same one. */
static bool stays(const Rank *rank) {
    Name name = name_of(rank);
    Str bytes = name_bytes(&name);
    const Word *w = words_find(&drop.words, bytes.s, bytes.n);
    if (!w) return true;
    uint32_t i = (uint32_t)w->value - 1;
    bool again = drop.passed[i] && dedup_options.level != LEVEL_REPO;
    if (find_root(i) != i || again) return false;
    return drop.passed[i] = true;
}

static bool drop_in_order(void *state, Document *d) {
    size_t n;
    Unit *u = units_of(d, &n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        Rank rank = unit_rank(d, &u[i]);
        if (dedup_options.level == LEVEL_REPO) repo_id(d, rank.id);
        u[i].keep = stays(&rank);
    }
    return units_keep(d, "duplicate");
}

static void drop_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    words_free(&drop.words);
    free(drop.name), free(drop.parent), free(drop.passed);
}

const Stage dedup_drop = {
    "dedup", "", "", NULL, drop_open, drop_process, drop_in_order, drop_close
};
