/* shards.h: .tok files, text as token ids, ready for training.
 *
 *   offset 0   "octokens"            the first 8 bytes
 *          8   version u32           1
 *         12   vocab_size u32        every id is smaller
 *         16   n_tokens u64          how many tokens follow the header
 *         24   n_documents u64       how many of them are the end id
 *         32   n_bytes u64           length of the text that was packed
 *         40   width u32             bytes a token: 2, or 4 where ids or marks need it
 *         44   end_id u32            the token that ends every document, and nothing else
 *         48   kind u32              SHARD_TEXT or SHARD_CHAT
 *         52   vocab_crc u32         vocab_crc() of the vocabulary that made the ids
 *         56   data_crc u32          CRC32C of the tokens
 *         60   header_crc u32        CRC32C of the 60 bytes before
 *       1024   the tokens            u16 or u32; all bytes between 64 and 1024 are zero
 *
 * What to know first: a shard is one long row of documents, each closed by the end id. In chat
 * shards (always u32) the top bit of a token says that the model is not asked to predict it:
 * prompts are there to be read, answers to be learned. The end id of a chat shard only separates
 * documents; the loader takes it out.
 *
 * `./tokenizer pack` writes shards, train reads them. Test: tests/test_shards.c. */
#ifndef OC_SHARDS_H
#define OC_SHARDS_H

#include "opencoder.h" /* Vocab, Model; files.h: Map, OutFile, crc32c */

enum { SHARD_TEXT = 0, SHARD_CHAT = 1, SHARD_HEADER = 1024 };
#define NO_LOSS     0x80000000u /* mark on a token: not a target (chat shards, batches) */
#define STARTS      0x40000000u /* mark on a token of a batch: attention does not look behind it */
#define TOKEN_ID(t) ((int)((t)&0x3fffffffu))

typedef struct {
    char magic[8];
    uint32_t version, vocab_size;
    uint64_t n_tokens, n_documents, n_bytes;
    uint32_t width, end_id, kind, vocab_crc, data_crc, header_crc;
} ShardHeader;

typedef struct {
    const char *path;
    Map map;
    ShardHeader head;
    const uint8_t *data; /* n_tokens of `width` bytes */
} Shard;

/* What two vocabularies must share to give the same ids: texts, scores and types. */
OC_API uint32_t vocab_crc(const Vocab *v) {
    uint32_t crc = 0;
    for (int i = 0; i < v->n; i++) {
        uint64_t n = v->token[i].n;
        crc = crc32c(crc, &n, sizeof n);
        crc = crc32c(crc, v->token[i].s, v->token[i].n);
    }
    crc = crc32c(crc, v->score, (size_t)v->n * sizeof *v->score);
    return crc32c(crc, v->type, (size_t)v->n);
}

/* Token i with its mark. */
OC_API uint32_t shard_token(const Shard *s, uint64_t i) {
    uint16_t narrow;
    uint32_t wide;
    if (s->head.width == 2) {
        memcpy(&narrow, s->data + 2 * i, 2);
        return narrow;
    }
    memcpy(&wide, s->data + 4 * i, 4);
    return wide;
}

OC_API bool shard_check_header(const ShardHeader *h, size_t size, Error *e) {
    if (memcmp(h->magic, "octokens", 8))
        return fail(e, "does not start with \"octokens\", expected a .tok shard; "
                       "./tokenizer pack makes one");
    if (h->version != 1) return fail(e, "shard version %u, expected 1", h->version);
    uint32_t crc = crc32c(0, h, 60);
    if (crc != h->header_crc)
        return fail(e, "header: CRC32C %08x, expected %08x; the file is damaged", crc,
                    h->header_crc);
    if (h->width != 2 && h->width != 4)
        return fail(e, "%u bytes a token, expected 2 or 4", h->width);
    if (h->kind > SHARD_CHAT || (h->kind == SHARD_CHAT && h->width != 4))
        return fail(e, "kind %u with %u bytes a token, expected text, or chat with 4", h->kind,
                    h->width);
    if (h->vocab_size < 1 || h->vocab_size > 1 << 20 || h->end_id >= h->vocab_size)
        return fail(e, "end id %u of %u tokens, expected a token", h->end_id, h->vocab_size);
    if (h->n_tokens > (UINT64_MAX - SHARD_HEADER) / h->width ||
        SHARD_HEADER + h->n_tokens * h->width != size)
        return fail(e, "file of %zu bytes, expected %d + %u x %llu tokens; truncated?", size,
                    SHARD_HEADER, h->width, (unsigned long long)h->n_tokens);
    if (h->n_documents > h->n_tokens)
        return fail(e, "%llu documents in %llu tokens, expected at most as many",
                    (unsigned long long)h->n_documents, (unsigned long long)h->n_tokens);
    return true;
}

/* Reads a shard from bytes, which must stay. The checksum of the tokens: with `verify`, and in
 * files of up to 256 MB. Ids are checked when they are used. */
OC_API bool shard_parse(Shard *s, const uint8_t *data, size_t size, bool verify, Error *e) {
    if (size < SHARD_HEADER)
        return fail(e, "file of %zu bytes, expected a header of %d", size, SHARD_HEADER);
    memcpy(&s->head, data, sizeof s->head);
    s->data = data + SHARD_HEADER;
    if (!shard_check_header(&s->head, size, e)) return false;
    for (size_t i = sizeof s->head; i < SHARD_HEADER; i++)
        if (data[i]) return fail(e, "byte %zu of the header is %d, expected 0", i, data[i]);
    if (!verify && size > 256u << 20) return true;
    uint32_t crc = crc32c(0, s->data, size - SHARD_HEADER);
    if (crc == s->head.data_crc) return true;
    return fail(e, "tokens: CRC32C %08x, expected %08x; the file is damaged", crc,
                s->head.data_crc);
}

/* Maps and reads a shard; one that cannot be used ends the program. */
OC_API void shard_open(Shard *s, const char *path, bool verify) {
    Error e;
    memset(s, 0, sizeof *s);
    s->path = path;
    if (!map_file(&s->map, path, &e) || !shard_parse(s, s->map.data, s->map.size, verify, &e))
        die("%s: %s", path, e.text);
}

/* ------------------------------------------------------------------------------------------------
 * Writing: fill in vocab_size, width, end_id, kind, vocab_crc of `head`, shard_begin, shard_write
 * for runs of tokens, shard_end. */

typedef struct {
    OutFile out;
    ShardHeader head;
} ShardWriter;

OC_API void shard_begin(ShardWriter *w, const char *path) {
    static const char zero[SHARD_HEADER] = { 0 };
    memcpy(w->head.magic, "octokens", 8);
    w->head.version = 1;
    out_open(&w->out, path);
    out_write(&w->out, zero, sizeof zero);
}

/* n tokens with their marks. */
OC_API void shard_write(ShardWriter *w, const uint32_t *token, size_t n) {
    uint16_t narrow[4096];
    for (size_t done = 0, k; done < n; done += k) {
        k = n - done < 4096 ? n - done : 4096;
        const void *bytes = token + done;
        for (size_t i = 0; i < k; i++) {
            w->head.n_documents += (token[done + i] & ~NO_LOSS) == w->head.end_id;
            narrow[i] = (uint16_t)token[done + i];
        }
        if (w->head.width == 2) bytes = narrow;
        out_write(&w->out, bytes, k * w->head.width);
        w->head.data_crc = crc32c(w->head.data_crc, bytes, k * w->head.width);
    }
    w->head.n_tokens += n;
}

OC_API void shard_end(ShardWriter *w) {
    w->head.header_crc = crc32c(0, &w->head, 60);
    out_write_at(&w->out, 0, &w->head, sizeof w->head);
    out_commit(&w->out);
}

#endif
