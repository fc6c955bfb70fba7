/* test_shards.c: .tok files as shards.h writes and reads them; every kind of damage is refused with
 * a message that names it. What goes into shards is test_pack.py's matter. */

#include "../shards.h"
#include "test.h"

static const char path[] = "build/scratch/shards.tok";

/* Writes n tokens in runs of uneven length; the id 9 ends documents. */
static void write_shard(const uint32_t *token, size_t n, uint32_t width, uint32_t kind) {
    ShardWriter w = { 0 };
    w.head.vocab_size = 60000;
    w.head.width = width;
    w.head.kind = kind;
    w.head.end_id = 9;
    w.head.vocab_crc = 77;
    w.head.n_bytes = 3 * n;
    shard_begin(&w, path);
    for (size_t i = 0, k = 1; i < n; i += k, k = (3 * k + 1) % 9001 + 1)
        shard_write(&w, token + i, k < n - i ? k : n - i);
    shard_end(&w);
}

static void test_round_trip(uint32_t width, uint32_t kind) {
    enum { N = 30000 };
    static uint32_t token[N];
    size_t ends = 0, wrong = 0;
    for (uint32_t i = 0; i < N; i++) {
        token[i] = i * 2654435761u % 60000;
        if (i % 100 == 99) token[i] = 9;
        ends += token[i] == 9;
        if (kind == SHARD_CHAT && i % 3) token[i] |= NO_LOSS;
    }
    write_shard(token, N, width, kind);
    Shard s;
    shard_open(&s, path, true);
    CHECK_INT(s.head.n_tokens, N);
    CHECK_INT(s.head.n_documents, ends);
    CHECK_INT(s.head.n_bytes, 3 * N);
    CHECK_INT(s.head.width, width);
    CHECK_INT(s.head.kind, kind);
    CHECK_INT(s.head.vocab_crc, 77);
    CHECK_INT(s.map.size, SHARD_HEADER + N * width);
    for (uint64_t i = 0; i < N; i++) wrong += shard_token(&s, i) != token[i];
    CHECK_INT(wrong, 0);
    unmap_file(&s.map);
}

/* What shard_parse says of the bytes must contain `words`; NULL: they are fine. */
static bool says(const char *what, const uint8_t *data, size_t n, const char *words) {
    Shard s;
    Error e = { "" };
    uint8_t *copy = malloc(n ? n : 1); /* of exactly that size, for ASan */
    memcpy(copy, data, n);
    bool ok = shard_parse(&s, copy, n, true, &e);
    free(copy);
    return check(words ? !ok && strstr(e.text, words) : ok, e.text, "%s", what);
}

/* Changes four bytes of the header and sets its checksum right. */
static void patch(uint8_t *to, const uint8_t *from, size_t n, size_t at, uint32_t value) {
    memcpy(to, from, n);
    memcpy(to + at, &value, 4);
    uint32_t crc = crc32c(0, to, 60);
    memcpy(to + 60, &crc, 4);
}

static void test_damage(void) {
    enum { N = 50, SIZE = SHARD_HEADER + 2 * N };
    static const struct {
        int at;
        uint32_t value;
        const char *what, *words;
    } lie[] = {
        { 0, 0, "magic", "octokens" },
        { 8, 2, "version", "version 2, expected 1" },
        { 12, 0, "no vocabulary", "end id 9 of 0 tokens" },
        { 12, 9, "end id beyond it", "end id 9 of 9 tokens" },
        { 12, 1 << 21, "a huge vocabulary", "of 2097152 tokens" },
        { 16, N + 1, "one token more", "expected 1024 + 2 x 51" },
        { 20, 1u << 31, "2^63 tokens", "bytes, expected 1024 + 2 x" },
        { 24, N + 1, "more documents than tokens", "51 documents in 50 tokens" },
        { 40, 4, "width", "expected 1024 + 4 x 50" },
        { 40, 3, "a width that is none", "3 bytes a token" },
        { 48, 1, "a chat of 2 bytes a token", "kind 1 with 2 bytes" },
        { 48, 2, "a kind that is none", "kind 2" },
        { 56, 1, "checksum of the tokens", "tokens: CRC32C" },
        { 64, 1, "a byte behind the header", "byte 64 of the header is 1" },
        { 1020, 1u << 24, "the last of them", "byte 1023 of the header is 1" },
    };
    static uint8_t data[SIZE], bad[SIZE];
    uint32_t token[N], missed = 0;
    Shard s;
    Error e;
    for (uint32_t i = 0; i < N; i++) token[i] = i % 10;
    write_shard(token, N, 2, SHARD_TEXT);
    shard_open(&s, path, true);
    CHECK_INT(s.map.size, SIZE);
    memcpy(data, s.map.data, SIZE);
    unmap_file(&s.map);
    says("as written", data, SIZE, NULL);
    for (size_t i = 0; i < sizeof lie / sizeof *lie; i++) {
        patch(bad, data, SIZE, (size_t)lie[i].at, lie[i].value);
        says(lie[i].what, bad, SIZE, lie[i].words);
    }
    for (size_t bit = 0; bit < 8 * SIZE; bit++) { /* any single bit */
        memcpy(bad, data, SIZE);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        missed += shard_parse(&s, bad, SIZE, true, &e);
    }
    CHECK_INT(missed, 0);
    for (size_t n = 0; n < SIZE; n++) missed += shard_parse(&s, data, n, true, &e);
    CHECK_INT(missed, 0);
    says("nothing", data, 0, "0 bytes, expected a header of 1024");
    says("half a header", data, 512, "512 bytes, expected a header of 1024");
    says("the last token is cut", data, SIZE - 1, "truncated?");
}

/* No tokens at all: allowed in the format, though `pack` never writes it. */
static void test_empty(void) {
    Shard s;
    write_shard(NULL, 0, 4, SHARD_CHAT);
    shard_open(&s, path, true);
    CHECK_INT(s.head.n_tokens, 0);
    unmap_file(&s.map);
}

static void test_vocab_crc(void) {
    Str text[] = { { "ab", 2 }, { "c", 1 } }, other[] = { { "a", 1 }, { "bc", 2 } };
    float score[] = { -1, -2 }, sooner[] = { -2, -1 };
    uint8_t type[] = { TOK_NORMAL, TOK_NORMAL }, byte[] = { TOK_NORMAL, TOK_BYTE };
    Vocab v = { .n = 2, .token = text, .score = score, .type = type }, w = v;
    CHECK(vocab_crc(&v) == vocab_crc(&w));
    w.token = other;
    CHECK(vocab_crc(&v) != vocab_crc(&w));
    w = v;
    w.score = sooner;
    CHECK(vocab_crc(&v) != vocab_crc(&w));
    w = v;
    w.type = byte;
    CHECK(vocab_crc(&v) != vocab_crc(&w));
}

int main(void) {
    mkdir("build/scratch", 0777);
    test_round_trip(2, SHARD_TEXT);
    test_round_trip(4, SHARD_TEXT);
    test_round_trip(4, SHARD_CHAT);
    test_damage();
    test_empty();
    test_vocab_crc();
    return test_end();
}
