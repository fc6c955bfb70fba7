/* loader.h: rows of tokens for training, from shards.
 *
 *   text shard, T = 4:     t0 t1 t2 t3 t4 t5 t6 t7 t8 t9 ...      one long row of documents
 *   row 0                  t0 t1 t2 t3 t4                         T + 1 tokens: position i reads
 *   row 1                              t4 t5 t6 t7 t8             token i and predicts token i + 1,
 *   row 2                                          t8 t9 ...      so every token is a target once
 *
 * What to know first: the rows of an epoch are visited in a shuffled order that is computed, not
 * stored: a permutation of 0 .. n - 1 that a key (seed, source, epoch) chooses and that answers
 * "which row comes k-th?" for any k at once. So the place in the data is two numbers a source: how
 * many pieces (chunks of text, or chat examples) and how many rows were drawn. A checkpoint keeps
 * them and a resumed run goes on exactly there. Which rows an update has depends on the shards,
 * their weights, the seed, T and the rows before it, and on nothing else.
 *
 * In a chat shard one document is one example: cut to T tokens, without its end id, one example a
 * row; or with `pack`, as many whole examples a row as fit T + 1 tokens.
 *
 * Sections: 1 the shuffled order, 2 sources, 3 rows, 4 batches. Test: tests/test_loader.c. */
#ifndef OC_LOADER_H
#define OC_LOADER_H

#include "shards.h" /* Shard, NO_LOSS, STARTS */

/* ------------------------------------------------------------------------------------------------
 * 1. The shuffled order: a Feistel network is a permutation of the numbers of 2 h bits whatever its
 * round function f is, because each round can be undone: (left, right) -> (right, left ^ f(right)).
 * To permute 0 .. n - 1, n no power of 4, walk on from results that are too large: the walk follows
 * a cycle of the larger permutation, so it comes back below n, and to each number from one place
 * only (Black and Rogaway 2002, "cycle walking"). At most 4 steps are expected. */

/* A key from three numbers. */
OC_API uint64_t mix_key(uint64_t a, uint64_t b, uint64_t c) {
    const uint64_t odd = 0x9E3779B97F4A7C15ull;
    return mix64(mix64(mix64(a + odd) + b + odd) + c + odd);
}

/* Where i goes in the permutation of 0 .. n - 1 that `key` chooses; i < n. */
OC_API uint64_t permute(uint64_t i, uint64_t n, uint64_t key) {
    int half = 1;
    while (half < 32 && (uint64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint64_t next = left ^ (mix_key(key, round, right) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Sources: shards with weights. A piece is what the order shuffles: a chunk of T targets of a
 * text shard, an example of a chat shard. */

typedef struct {
    Shard shard;
    double weight;       /* share of the rows; 0 everywhere: as many as the shard has */
    uint64_t begin, end; /* the part that is read: tokens of text, examples of chat */
    uint64_t *start;     /* chat: the first token of each example */
    bool borrowed;       /* shard and start belong to the loader this was split from */
    uint64_t n;          /* pieces in an epoch */
    uint64_t n_rows;     /* rows in an epoch: fewer than n only when examples are packed */
    uint64_t used, rows; /* pieces and rows drawn so far: all the state there is */
} Source;

typedef struct {
    Source *source;
    int n_sources;
    int T;              /* positions of a row */
    int vocab_size;     /* every id is smaller */
    uint32_t vocab_crc; /* the model's; a shard's must be the same */
    uint64_t seed;
    bool doc_mask; /* mark where documents begin inside a row */
    bool pack;     /* several chat examples a row */
} Loader;

OC_API bool is_chat(const Source *s) { return s->shard.head.kind == SHARD_CHAT; }

OC_API bool is_end(const Source *s, uint64_t i) {
    return (shard_token(&s->shard, i) & ~NO_LOSS) == s->shard.head.end_id;
}

/* Finds the examples of a chat shard; empty documents are none. */
OC_API void index_examples(Source *s) {
    uint64_t n_tokens = s->shard.head.n_tokens, from = 0;
    s->start = (uint64_t *)xcalloc(s->shard.head.n_documents, sizeof *s->start, s->shard.path);
    for (uint64_t i = 0; i < n_tokens; i++) {
        if (!is_end(s, i)) continue;
        if (s->end == s->shard.head.n_documents)
            die("%s: more than %llu documents, expected as many as its header says", s->shard.path,
                (unsigned long long)s->shard.head.n_documents);
        if (i > from) s->start[s->end++] = from;
        from = i + 1;
    }
    if (from != n_tokens)
        die("%s: %llu tokens follow the last end id %u, expected every example to end with it",
            s->shard.path, (unsigned long long)(n_tokens - from), s->shard.head.end_id);
}

/* Opens a shard as one more source; one that does not fit the model ends the program. */
OC_API void loader_add(Loader *l, const char *path, double weight, bool verify) {
    l->source = (Source *)xrealloc(l->source, (size_t)l->n_sources + 1, sizeof *l->source, path);
    Source *s = &l->source[l->n_sources++];
    memset(s, 0, sizeof *s);
    shard_open(&s->shard, path, verify);
    s->weight = weight;
    if (s->shard.head.vocab_size > (uint32_t)l->vocab_size)
        die("%s: ids of a vocabulary of %u, expected at most the model's %d", path,
            s->shard.head.vocab_size, l->vocab_size);
    if (s->shard.head.vocab_crc != l->vocab_crc)
        die("%s: packed with vocabulary %08x, expected the model's %08x; pack it with this model",
            path, s->shard.head.vocab_crc, l->vocab_crc);
    if (is_chat(s))
        index_examples(s);
    else
        s->end = s->shard.head.n_tokens;
}

/* DATA[=WEIGHT]: the weight stands behind the last '=', unless a file has the whole name. */
OC_API void loader_add_word(Loader *l, const char *word, bool *weighted, bool verify) {
    char *equals = access(word, F_OK) ? strrchr((char *)(uintptr_t)word, '=') : NULL;
    if (l->n_sources && *weighted != (equals != NULL))
        die_usage("%s: expected a weight for every shard or for none", word);
    double weight = equals ? parse_float(word, equals + 1, 1e-9, 1e9) : 0;
    if (equals) *equals = 0; /* what is left of the argument is the path */
    *weighted = equals != NULL;
    loader_add(l, word, weight, verify);
}

/* Takes the last `fraction` of a source away from training, from the start of a document on.
 * False, and nothing changes, when that would be less than a row or most of the shard. */
OC_API bool source_split(Source *s, Source *val, double fraction, int T) {
    uint64_t size = s->end - s->begin, part = (uint64_t)((double)size * fraction);
    uint64_t cut = s->end - part;
    if (part < (is_chat(s) ? 1 : (uint64_t)T + 1)) return false;
    while (!is_chat(s) && cut > s->begin && !is_end(s, cut - 1)) cut--;
    if (cut - s->begin < size / 2) return false;
    *val = *s;
    val->begin = s->end = cut;
    val->borrowed = true;
    return true;
}

/* The last `fraction` of every source becomes a source of val. */
OC_API void loader_split(Loader *l, Loader *val, double fraction) {
    val->source = (Source *)xcalloc((size_t)l->n_sources, sizeof *val->source, "sources");
    for (int i = 0; i < l->n_sources; i++)
        val->n_sources += source_split(&l->source[i], &val->source[val->n_sources], fraction, l->T);
}

OC_API void loader_close(Loader *l) {
    for (int i = 0; i < l->n_sources; i++) {
        if (l->source[i].borrowed) continue;
        free(l->source[i].start);
        unmap_file(&l->source[i].shard.map);
    }
    free(l->source);
    memset(l, 0, sizeof *l);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Rows */

typedef struct {
    uint32_t *token; /* room for T + 1; ids with the marks NO_LOSS and STARTS */
    int n;           /* tokens */
    int targets;     /* how many of token[1 ..] the model is asked to predict */
    int64_t place;   /* in its update */
} Row;

/* Token i of a source with its mark, its id checked. */
OC_API uint32_t source_token(const Loader *l, const Source *s, uint64_t i) {
    uint32_t t = shard_token(&s->shard, i), id = is_chat(s) ? t & ~NO_LOSS : t;
    if (id >= (uint32_t)l->vocab_size)
        die("%s: token %llu: id %u, expected less than the vocabulary's %d", s->shard.path,
            (unsigned long long)i, id, l->vocab_size);
    return t;
}

/* Chunk i of a text shard; the last one may be shorter. */
OC_API void add_chunk(const Loader *l, const Source *s, uint64_t i, Row *row) {
    uint64_t from = s->begin + i * (uint64_t)l->T, left = s->end - from;
    int n = left < (uint64_t)l->T + 1 ? (int)left : l->T + 1;
    for (int j = 0; j < n; j++) {
        uint32_t t = source_token(l, s, from + (uint64_t)j);
        bool starts = l->doc_mask && j && (row->token[j - 1] & ~STARTS) == s->shard.head.end_id;
        row->token[j] = starts ? t | STARTS : t;
    }
    row->n = n;
    row->targets = n - 1;
}

/* Tokens of chat example i: up to its end id, at most T. */
OC_API int example_length(const Loader *l, const Source *s, uint64_t i) {
    int n = 0;
    while (n < l->T && !is_end(s, s->start[i] + (uint64_t)n)) n++;
    return n;
}

/* Appends chat example i, n tokens. Nothing before it in the row predicts its first token. */
OC_API void add_example(const Loader *l, const Source *s, uint64_t i, int n, Row *row) {
    for (int j = 0; j < n; j++) {
        uint32_t t = source_token(l, s, s->start[i] + (uint64_t)j);
        row->token[row->n++] = j ? t : t | STARTS | NO_LOSS;
        row->targets += j && !(t & NO_LOSS);
    }
}

/* Piece i of a source, in the order of the file, as a row of its own. */
OC_API void source_row(const Loader *l, const Source *s, uint64_t i, Row *row) {
    row->n = row->targets = 0;
    if (is_chat(s))
        add_example(l, s, s->begin + i, example_length(l, s, s->begin + i), row);
    else
        add_chunk(l, s, i, row);
}

/* The piece that source number `which` gives k-th, k counting on from epoch to epoch. */
OC_API uint64_t shuffled(const Loader *l, int which, uint64_t k) {
    uint64_t n = l->source[which].n;
    return permute(k % n, n, mix_key(l->seed, (uint64_t)which, k / n));
}

/* The next examples of source `which`, as many as fit a row; without `row`, they are only counted.
 * Returns where the example behind them is. */
OC_API uint64_t pack_row(const Loader *l, int which, uint64_t used, Row *row) {
    const Source *s = &l->source[which];
    for (int filled = 0;; used++) {
        uint64_t i = s->begin + shuffled(l, which, used);
        int n = example_length(l, s, i);
        if (filled && filled + n > l->T + 1) return used;
        if (row) add_example(l, s, i, n, row);
        filled += n;
    }
}

/* To be called when all sources are there: counts rows, makes the weights add up to 1. */
OC_API void loader_ready(Loader *l) {
    double sum = 0, rows = 0;
    for (int i = 0; i < l->n_sources; i++) {
        Source *s = &l->source[i];
        uint64_t size = s->end - s->begin, T = (uint64_t)l->T;
        s->n = is_chat(s) ? size : size < 2 ? 0 : (size - 2) / T + 1; /* (size - 1) / T, up */
        if (s->n == 0)
            die("%s: %llu %s to read, expected at least %d", s->shard.path,
                (unsigned long long)size, is_chat(s) ? "examples" : "tokens", is_chat(s) ? 1 : 2);
        s->n_rows = s->n;
        if (is_chat(s) && l->pack) {
            s->n_rows = 0;
            for (uint64_t k = 0; k < s->n; k = pack_row(l, i, k, NULL)) s->n_rows++;
        }
        sum += s->weight;
        rows += (double)s->n_rows;
    }
    for (int i = 0; i < l->n_sources; i++) {
        Source *s = &l->source[i];
        s->weight = sum > 0 ? s->weight / sum : (double)s->n_rows / rows;
    }
}

/* Rows in an epoch of all sources together. */
OC_API uint64_t loader_rows(const Loader *l) {
    uint64_t n = 0;
    for (int i = 0; i < l->n_sources; i++) n += l->source[i].n_rows;
    return n;
}

/* The next row of training: from the source that is furthest behind its share of the rows. */
OC_API void loader_next(Loader *l, Row *row) {
    int which = 0;
    double total = 1, most = -INFINITY;
    for (int i = 0; i < l->n_sources; i++) total += (double)l->source[i].rows;
    for (int i = 0; i < l->n_sources; i++) {
        double behind = l->source[i].weight * total - (double)l->source[i].rows;
        if (behind > most) most = behind, which = i;
    }
    Source *s = &l->source[which];
    s->rows++;
    row->n = row->targets = 0;
    if (is_chat(s) && l->pack)
        s->used = pack_row(l, which, s->used, row);
    else
        source_row(l, s, shuffled(l, which, s->used++), row);
}

/* Row i of all sources, one after the other as they stand: for validation. */
OC_API void loader_at(const Loader *l, uint64_t i, Row *row) {
    const Source *s = l->source;
    for (; i >= s->n; s++) i -= s->n;
    source_row(l, s, i, row);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Batches */

/* n rows with room for T + 1 tokens each, in one allocation: free() takes it back. */
OC_API Row *rows_new(size_t n, int T) {
    size_t each = sizeof(Row) + ((size_t)T + 1) * sizeof(uint32_t);
    Row *row = (Row *)xcalloc(n, each, "rows of an update");
    uint32_t *token = (uint32_t *)(void *)(row + n);
    for (size_t i = 0; i < n; i++) row[i].token = token + i * ((size_t)T + 1);
    return row;
}

/* Packs rows[0], rows[every], ... (n of them) into out, (n, T + 1) with T + 1 the longest, padded
 * on the right with the id `pad`, which is no target. Returns T; *targets is their sum. */
OC_API int batch_fill(uint32_t *out, const Row *rows, int n, int every, uint32_t pad,
                      int64_t *targets) {
    int width = 0;
    *targets = 0;
    for (int i = 0; i < n; i++) {
        const Row *r = &rows[(size_t)i * (size_t)every];
        width = r->n > width ? r->n : width;
        *targets += r->targets;
    }
    for (int i = 0; i < n; i++) {
        const Row *r = &rows[(size_t)i * (size_t)every];
        memcpy(out, r->token, (size_t)r->n * sizeof *out);
        for (int j = r->n; j < width; j++) out[j] = pad | NO_LOSS;
        out += width;
    }
    return width - 1;
}

/* Longer rows first: micro-batches of equal rows have little padding. */
OC_API int row_cmp(const void *a, const void *b) {
    const Row *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : (x->place > y->place) - (x->place < y->place);
}

#endif
