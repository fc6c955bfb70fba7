/* shards.c: fuzzes the reader of .tok shards and what training does with one (shards.h, loader.h).
 * Each input comes as it is, and with right checksums. Ids are in range, rows fit their room. */

#include "../../loader.h"
#include "fuzz.h"

enum { T = 8 };

void fuzz_begin(void) {}

static void correct(uint8_t *data, size_t size) {
    ShardHeader h;
    if (size < SHARD_HEADER) return;
    memcpy(&h, data, sizeof h);
    h.data_crc = crc32c(0, data + SHARD_HEADER, size - SHARD_HEADER);
    h.header_crc = crc32c(0, &h, 60);
    memcpy(data, &h, sizeof h);
}

static void check_row(const Loader *l, const Row *row) {
    if (row->n < 1 || row->n > T + 1) fuzz_fail("a row of %d tokens", row->n);
    if (row->targets < 0 || row->targets >= row->n)
        fuzz_fail("%d targets in a row of %d", row->targets, row->n);
    for (int i = 0; i < row->n; i++)
        if (TOKEN_ID(row->token[i]) >= l->vocab_size) fuzz_fail("id %d", TOKEN_ID(row->token[i]));
}

static void load(const uint8_t *data, size_t size, const ShardHeader *h) {
    Loader l = { .T = T,
                 .vocab_size = 64,
                 .vocab_crc = h->vocab_crc,
                 .seed = 1,
                 .doc_mask = h->n_bytes & 1,
                 .pack = h->n_bytes & 2 };
    Row *row = rows_new(1, T);
    loader_add(&l, fuzz_file(data, size), 1, true);
    loader_ready(&l);
    for (int i = 0; i < 4; i++) {
        loader_next(&l, row);
        check_row(&l, row);
    }
    loader_at(&l, l.source[0].n - 1, row);
    check_row(&l, row);
    free(row);
    loader_close(&l);
}

void fuzz_one(const uint8_t *data, size_t size) {
    uint8_t *copy = (uint8_t *)xcalloc(size, 1, "copy");
    Shard s = { .path = "input" };
    Error e = { "" };
    if (!shard_parse(&s, data, size, true, &e)) fuzz_refused(&e);
    if (size) memcpy(copy, data, size);
    correct(copy, size);
    e.text[0] = 0;
    if (shard_parse(&s, copy, size, true, &e))
        load(copy, size, &s.head);
    else
        fuzz_refused(&e);
    free(copy);
}
