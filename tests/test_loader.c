/* test_loader.c: which rows a run sees. The shuffled order is a permutation; every token is a
 * target once an epoch and never one of validation; sources keep their shares; what a checkpoint
 * keeps is enough to go on; documents, chat examples and packed rows look as they should. Shards
 * that cannot be used end the program: tests/test_trainloop.py. */
#include "../loader.h" /* what is tested */
#include "test.h"

enum { V = 1000, END = 2, CRC = 77 };

/* ------------------------------------------------------------------------------------------------
 * Shards to test with */

static const char *write_tokens(const char *name, const uint32_t *token, size_t n, uint32_t kind) {
    static char path[8][64];
    static int turn;
    ShardWriter w = { 0 };
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "build/scratch/%s.tok", name);
    w.head.vocab_size = V;
    w.head.width = kind == SHARD_CHAT ? 4 : 2;
    w.head.end_id = END;
    w.head.kind = kind;
    w.head.vocab_crc = CRC;
    shard_begin(&w, p);
    shard_write(&w, token, n);
    shard_end(&w);
    return p;
}

/* n tokens, each its own place + 3 (so below V), but for an end id after every `document`. */
static const char *write_text(const char *name, int n, int document) {
    uint32_t *token = xcalloc((size_t)n, sizeof *token, "tokens");
    for (int i = 0; i < n; i++)
        token[i] = document && i % document == document - 1 ? END : (uint32_t)(i + 3);
    const char *path = write_tokens(name, token, (size_t)n, SHARD_TEXT);
    free(token);
    return path;
}

/* n examples; number i has a prompt of 1 + i % 3 tokens and an answer of 1 + i % 7, all of them
 * 3 + i, and every fifth document is empty. */
static const char *write_chat(const char *name, int n) {
    uint32_t *token = xcalloc((size_t)n * 16, sizeof *token, "tokens");
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < 1 + i % 3; j++) token[at++] = (uint32_t)(3 + i) | NO_LOSS;
        for (int j = 0; j < 1 + i % 7; j++) token[at++] = (uint32_t)(3 + i);
        token[at++] = END | NO_LOSS;
        if (i % 5 == 0) token[at++] = END | NO_LOSS;
    }
    const char *path = write_tokens(name, token, at, SHARD_CHAT);
    free(token);
    return path;
}

static int chat_length(int i) { return 2 + i % 3 + i % 7; }

static Loader loader(int T, uint64_t seed) {
    return (Loader){ .T = T, .vocab_size = V, .vocab_crc = CRC, .seed = seed };
}

/* ------------------------------------------------------------------------------------------------
 * The tests */

static void test_permutation(void) {
    static const uint64_t sizes[] = { 1, 2, 3, 4, 5, 15, 16, 17, 64, 100, 1000, 4096, 5000 };
    static char seen[5000];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        uint64_t n = sizes[k], hits = 0, fixed = 0, same = 0;
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = permute(i, n, 11);
            if (p < n && !seen[p]) seen[p] = 1, hits++;
            fixed += p == i;
            same += p == permute(i, n, 12);
        }
        check_int(__FILE__, __LINE__, "places hit once", (long long)hits, (long long)n);
        if (n >= 100) CHECK(fixed < 10 && same < 10); /* about 1 of each are expected */
    }
    uint64_t huge = (uint64_t)3 << 60, p = permute(12345, huge, 1);
    CHECK(p < huge && p != permute(12346, huge, 1));
    long long up = 0; /* neighbours: no order is left */
    for (uint64_t i = 1; i < 5000; i++) up += permute(i, 5000, 3) > permute(i - 1, 5000, 3);
    CHECK(up > 2300 && up < 2700);
}

/* One epoch of a text shard: every token but the first is a target once, at its place. */
static void test_epoch(int n, int T) {
    Loader l = loader(T, 5);
    int seen[V] = { 0 }, wrong = 0, padded = 0;
    loader_add(&l, write_text("epoch", n, 0), 0, true);
    loader_ready(&l);
    CHECK_INT(loader_rows(&l), (n - 1 + T - 1) / T);
    Row *row = rows_new(1, T);
    for (uint64_t i = 0; i < loader_rows(&l); i++) {
        loader_next(&l, row);
        padded += row->n < T + 1;
        CHECK_INT(row->targets, row->n - 1);
        for (int j = 1; j < row->n; j++) {
            wrong += row->token[j] != row->token[j - 1] + 1;
            seen[row->token[j]]++;
        }
    }
    for (int i = 1; i < n; i++) wrong += seen[i + 3] != 1;
    CHECK_INT(wrong, 0);
    CHECK_INT(seen[3], 0);
    CHECK_INT(padded, (n - 1) % T != 0);
    uint32_t first[64], again[64];
    for (int i = 0; i < 64; i++) loader_next(&l, row), first[i] = row->token[0];
    l.source->used = loader_rows(&l) * 7;
    for (int i = 0; i < 64; i++) loader_next(&l, row), again[i] = row->token[0];
    CHECK(loader_rows(&l) < 20 || memcmp(first, again, sizeof first)); /* epochs differ in order */
    free(row);
    loader_close(&l);
}

static void test_split(void) {
    Loader l = loader(10, 1), val = l;
    char train[V] = { 0 }, held[V] = { 0 };
    int both = 0, missed = 0;
    loader_add(&l, write_text("split", 900, 30), 0, true);
    loader_add(&l, write_text("small", 50, 10), 0, true); /* 5 tokens are less than a row */
    loader_split(&l, &val, 0.1);
    loader_ready(&l);
    loader_ready(&val);
    CHECK_INT(val.n_sources, 1);
    CHECK_INT(val.source->end - val.source->begin, 90); /* 810 is where a document begins */
    CHECK(is_end(val.source, val.source->begin - 1));
    Row *row = rows_new(1, 10);
    for (uint64_t i = 0; i < 3 * loader_rows(&l); i++) {
        loader_next(&l, row);
        for (int j = 0; j < row->n; j++) train[row->token[j]] = 1;
    }
    for (uint64_t i = 0; i < loader_rows(&val); i++) {
        loader_at(&val, i, row);
        for (int j = 0; j < row->n; j++) held[row->token[j]] = 1;
    }
    for (int i = 3; i < 903; i++) {
        both += train[i] && held[i];
        missed += i % 30 != 2 && !train[i] && !held[i];
    }
    CHECK_INT(both, 0);
    CHECK_INT(missed, 0);
    free(row);
    loader_close(&val);
    loader_close(&l);

    l = loader(10, 1), val = l;
    loader_add(&l, write_text("one", 900, 0), 0, true); /* no document begins at the end */
    loader_split(&l, &val, 0.1);
    CHECK_INT(val.n_sources, 0);
    loader_close(&val);
    loader_close(&l);
}

static void test_shares(void) {
    Loader l = loader(10, 1);
    long long rows[3] = { 0 }, worst = 0;
    loader_add(&l, write_text("share0", 901, 0), 5, true);
    loader_add(&l, write_text("share1", 501, 0), 3, true);
    loader_add(&l, write_text("share2", 101, 0), 2, true);
    loader_ready(&l);
    Row *row = rows_new(1, 10);
    for (long long k = 1; k <= 1000; k++) {
        loader_next(&l, row);
        for (int i = 0; i < 3; i++) {
            rows[i] = (long long)l.source[i].rows;
            long long off = llabs(rows[i] * 10 - k * (i == 0 ? 5 : i == 1 ? 3 : 2));
            worst = off > worst ? off : worst;
        }
    }
    CHECK_INT(rows[0], 500);
    CHECK_INT(rows[1], 300);
    CHECK_INT(rows[2], 200);
    CHECK(worst < 10); /* never a whole row from its share */
    free(row);
    loader_close(&l);

    l = loader(10, 1); /* without weights, epochs end together */
    loader_add(&l, write_text("share0", 901, 0), 0, true);
    loader_add(&l, write_text("share1", 301, 0), 0, true);
    loader_ready(&l);
    row = rows_new(1, 10);
    for (uint64_t i = 0; i < loader_rows(&l); i++) loader_next(&l, row);
    CHECK_INT(l.source[0].rows, 90);
    CHECK_INT(l.source[1].rows, 30);
    free(row);
    loader_close(&l);
}

/* Two numbers a source, carried over at any moment, give the same rows. */
static void test_resume(bool pack) {
    Loader a = loader(12, 9), b = a;
    a.pack = b.pack = pack;
    for (int i = 0; i < 2; i++) {
        Loader *l = i ? &b : &a;
        loader_add(l, write_text("resume", 300, 17), 2, true);
        loader_add(l, write_chat("resume_chat", 60), 1, true);
        loader_ready(l);
    }
    Row *x = rows_new(1, 12), *y = rows_new(1, 12);
    int wrong = 0;
    for (int k = 0; k < 300; k++) {
        for (int i = 0; i < 2; i++) {
            b.source[i].used = a.source[i].used;
            b.source[i].rows = a.source[i].rows;
        }
        loader_next(&a, x);
        loader_next(&b, y);
        wrong += x->n != y->n || x->targets != y->targets ||
                 memcmp(x->token, y->token, (size_t)x->n * sizeof *x->token);
    }
    CHECK_INT(wrong, 0);
    free(x);
    free(y);
    loader_close(&a);
    loader_close(&b);
}

static void test_documents(void) {
    Loader l = loader(20, 1);
    int wrong = 0, marks = 0;
    l.doc_mask = true;
    loader_add(&l, write_text("docs", 400, 7), 0, true);
    loader_ready(&l);
    Row *row = rows_new(1, 20);
    for (uint64_t i = 0; i < loader_rows(&l); i++) {
        loader_at(&l, i, row);
        for (int j = 1; j < row->n; j++) {
            bool starts = row->token[j] & STARTS;
            wrong += starts != (TOKEN_ID(row->token[j - 1]) == END);
            marks += starts;
        }
    }
    CHECK_INT(wrong, 0);
    CHECK(marks > 40);
    free(row);
    loader_close(&l);
}

static void test_chat(void) {
    Loader l = loader(9, 3);
    int seen[60] = { 0 }, wrong = 0;
    loader_add(&l, write_chat("chat", 60), 0, true);
    loader_ready(&l);
    CHECK_INT(loader_rows(&l), 60); /* empty documents are none */
    Row *row = rows_new(1, 9);
    for (int k = 0; k < 60; k++) {
        loader_next(&l, row);
        int i = TOKEN_ID(row->token[0]) - 3, n = chat_length(i) < 9 ? chat_length(i) : 9;
        int prompt = 1 + i % 3;
        seen[i]++;
        wrong += row->n != n || row->targets != n - prompt;
        for (int j = 0; j < row->n; j++) {
            wrong += TOKEN_ID(row->token[j]) != i + 3;
            wrong += !(row->token[j] & NO_LOSS) != (j >= prompt);
        }
    }
    for (int i = 0; i < 60; i++) wrong += seen[i] != 1;
    CHECK_INT(wrong, 0);
    free(row);
    loader_close(&l);
}

static void test_packing(void) {
    Loader l = loader(24, 3);
    int seen[60] = { 0 }, wrong = 0, tokens = 0, rows = 0, full = 0;
    l.pack = true;
    loader_add(&l, write_chat("pack", 60), 0, true);
    loader_ready(&l);
    Row *row = rows_new(1, 24);
    uint64_t n_rows = loader_rows(&l);
    while (l.source->used < 60) {
        loader_next(&l, row);
        rows++;
        wrong += row->n > 25;
        tokens += row->n;
        full += row->n > 14; /* the longest example has 10 tokens: less would have had room */
        for (int j = 0, i, n; j < row->n; j += n) {
            i = TOKEN_ID(row->token[j]) - 3;
            n = chat_length(i);
            seen[i]++;
            wrong += (row->token[j] & (STARTS | NO_LOSS)) != (STARTS | NO_LOSS);
            for (int k = 1; k < n; k++)
                wrong += TOKEN_ID(row->token[j + k]) != i + 3 || row->token[j + k] & STARTS;
        }
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(rows, n_rows);
    CHECK_INT(full, rows);
    for (int i = 0; i < 60; i++) tokens -= chat_length(i), wrong += !seen[i];
    CHECK_INT(wrong, 0);
    CHECK(tokens >= 0 && tokens < 25); /* the last row goes on with the next epoch */
    free(row);
    loader_close(&l);
}

static void test_batch(void) {
    Row *rows = rows_new(5, 8);
    uint32_t out[5 * 9];
    int64_t targets;
    for (int i = 0; i < 5; i++) {
        rows[i].n = i + 2;
        rows[i].targets = i;
        for (int j = 0; j < rows[i].n; j++) rows[i].token[j] = (uint32_t)(10 * i + j);
    }
    CHECK_INT(batch_fill(out, rows, 2, 2, 7, &targets), 3); /* rows 0 and 2 */
    CHECK_INT(targets, 2);
    const uint32_t want[] = { 0, 1, 7 | NO_LOSS, 7 | NO_LOSS, 20, 21, 22, 23 };
    check_same("rows padded to the longest", out, want, sizeof want);
    free(rows);
}

int main(void) {
    if (mkdir("build/scratch", 0777) && errno != EEXIST) die("build/scratch: cannot make it");
    test_permutation();
    test_epoch(801, 10);
    test_epoch(900, 13);
    test_epoch(50, 64);
    test_split();
    test_shares();
    test_resume(false);
    test_resume(true);
    test_documents();
    test_chat();
    test_packing();
    test_batch();
    return test_end();
}
