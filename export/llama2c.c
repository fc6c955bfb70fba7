/* llama2c.c: the checkpoints and tokenizer.bin of llama2.c (github.com/karpathy/llama2.c).
 *
 * What to know first: a checkpoint is a header and then bare numbers, one kind of tensor after the
 * other with the layers of a kind behind each other. Nothing in it says where a tensor begins: that
 * follows from the seven numbers of the header, and the file's length must be exactly what they
 * imply. Version 0 has no magic number; its sign of the vocabulary size says whether the output
 * head is in the file (negative) or is the embedding (positive).
 *
 *     version 0                          version 1, version 2
 *     7 x i32: dim, hidden_dim,          "ak42" backwards | version i32 | the same 7 x i32
 *       layers, heads, kv heads,         | shared u8 | version 2: group size i32 | zeros to 256
 *       vocabulary, context
 *     embedding                          attention norms
 *     attention norms                    feed-forward norms
 *     wq  wk  wv  wo                     final norm
 *     feed-forward norms                 embedding
 *     w1 (gate)  w2 (down)  w3 (up)      wq  wk  wv  wo
 *     final norm                         w1 (gate)  w2 (down)  w3 (up)
 *     cos and sin of RoPE, not needed    output head, unless shared
 *     output head, if negative
 *
 * All of it is f32, but in version 2 the matrices: n int8 numbers, then n / group f32 factors, and
 * number i is int8[i] * factor[i / group]. Those are written out as f32 once (map_floats). The rows
 * of wq and wk are in GGUF's order, as in Meta's own files. Test: tests/test_format.c. */

#include "export.h"

/* ------------------------------------------------------------------------------------------------
 * 1. The header */

typedef struct {
    int version, group; /* group: 0 but in version 2 */
    size_t size;        /* of the header */
} Header;

static bool config_from_ints(Config *c, const int32_t v[7], Error *e) {
    c->dim = v[0];
    c->hidden_dim = v[1];
    c->n_layers = v[2];
    c->n_heads = v[3];
    c->n_kv_heads = v[4];
    c->vocab_size = v[5];
    c->max_ctx = v[6];
    c->rope_theta = 10000;
    c->norm_eps = 1e-5f;
    if (c->n_heads < 1 || c->dim % c->n_heads)
        return fail(e, "width %d and %d heads, expected a multiple of the heads; a llama2.c file?",
                    c->dim, c->n_heads);
    c->head_dim = c->dim / c->n_heads;
    return config_check(c, e);
}

/* What follows the seven numbers in versions 1 and 2. */
static bool parse_flags(Config *c, Header *h, Cursor *file, Error *e) {
    uint8_t shared, zero;
    if (!take(file, &shared, 1) || (h->version == 2 && !take(file, &h->group, 4)))
        return fail(e, "header: ends early, expected 256 bytes");
    if (shared > 1) return fail(e, "shared classifier: %d, expected 0 or 1", shared);
    if (h->version == 2 && (h->group < 1 || c->dim % h->group))
        return fail(e, "group size: %d, expected a divisor of the width %d", h->group, c->dim);
    for (int at = h->version == 2 ? 41 : 37; at < 256; at++)
        if (!take(file, &zero, 1) || zero)
            return fail(e, "header: byte %d is missing or not 0, expected zeros up to 256", at);
    c->tied = shared;
    return true;
}

static bool parse_header(Config *c, Header *h, const uint8_t *data, size_t size, Error *e) {
    Cursor file = { data, data + size };
    int32_t number[7], magic = 0;
    memset(h, 0, sizeof *h);
    memset(c, 0, sizeof *c);
    if (size >= 4 && !memcmp(data, "ak42", 4))
        return fail(e, "magic number is swapped: a big-endian file, expected little-endian");
    if (size >= 4) memcpy(&magic, data, 4);
    if (magic == 0x616b3432 && (!take(&file, &magic, 4) || !take(&file, &h->version, 4) ||
                                h->version < 1 || h->version > 2))
        return fail(e, "llama2.c version: %d, expected 1 or 2 behind \"ak42\"", h->version);
    if (!take(&file, number, sizeof number))
        return fail(e, "file of %zu bytes ends within the header of a llama2.c model", size);
    if (h->version == 0) {
        if (number[5] == INT32_MIN)
            return fail(e, "vocabulary size: %d, expected 1 to %d", number[5], 1 << 20);
        c->tied = number[5] > 0;
        number[5] = abs(number[5]);
    }
    if (!config_from_ints(c, number, e) || (h->version && !parse_flags(c, h, &file, e)))
        return false;
    h->size = (size_t)(file.p - data);
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The tensors */

/* GGUF's names in the order of the file; NULL stands for RoPE's two tables. */
static const char *const version_0[] = { "token_embd.weight",      "blk.%d.attn_norm.weight",
                                         "blk.%d.attn_q.weight",   "blk.%d.attn_k.weight",
                                         "blk.%d.attn_v.weight",   "blk.%d.attn_output.weight",
                                         "blk.%d.ffn_norm.weight", "blk.%d.ffn_gate.weight",
                                         "blk.%d.ffn_down.weight", "blk.%d.ffn_up.weight",
                                         "output_norm.weight",     NULL,
                                         "output.weight" };
static const char *const version_1[] = { "blk.%d.attn_norm.weight", "blk.%d.ffn_norm.weight",
                                         "output_norm.weight",      "token_embd.weight",
                                         "blk.%d.attn_q.weight",    "blk.%d.attn_k.weight",
                                         "blk.%d.attn_v.weight",    "blk.%d.attn_output.weight",
                                         "blk.%d.ffn_gate.weight",  "blk.%d.ffn_down.weight",
                                         "blk.%d.ffn_up.weight",    "output.weight" };

/* Room for n floats that is not counted as the program's memory: a file without a name, mapped.
 * A version-2 model may be larger than the memory there is; its pages go to disk when it is. */
static float *map_floats(Source *s, size_t n, Error *e) {
    FILE *f = tmpfile();
    int failed = f ? posix_fallocate(fileno(f), 0, (off_t)(n * sizeof(float))) : errno;
    void *p = MAP_FAILED;
    if (!failed) {
        p = mmap(NULL, n * sizeof(float), PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
        failed = p == MAP_FAILED ? errno : 0;
    }
    if (f) fclose(f);
    if (p == MAP_FAILED) {
        fail(e, "temporary file: cannot map %zu floats: %s", n, strerror(failed));
        return NULL;
    }
    Map *m = &s->map[s->n_maps++];
    m->data = p;
    m->size = n * sizeof(float);
    return p;
}

static void dequantize_groups(float *out, const uint8_t *from, size_t n, size_t group) {
    const uint8_t *factors = from + n;
    for (size_t i = 0; i < n; i += group) {
        float factor;
        memcpy(&factor, factors + i / group * 4, 4);
        for (size_t j = i; j < i + group; j++) out[j] = (float)(int8_t)from[j] * factor;
    }
}

/* Version 2 leaves the norms in f32. */
static bool in_groups(const TensorSpec *t, const Header *h) {
    return h->group && !is_norm(str_of(t->name));
}

/* Bytes of a tensor in the file. The limits of config_check keep every product here far below
 * 2^64: rows and columns 2^26 at most, and some 2^13 tensors. */
static size_t stored_bytes(const TensorSpec *t, const Header *h) {
    size_t n = (size_t)t->rows * (size_t)t->cols;
    return in_groups(t, h) ? n + n / (size_t)h->group * 4 : n * 4;
}

/* Walks through the file in the order of `names`. Without `data` it only adds up; with it, tensor
 * after tensor gets its place. Returns the file's length. */
static size_t walk(Source *s, const TensorSpec *specs, const Header *h, const uint8_t *data,
                   float *floats) {
    const Config *c = &s->config;
    const char *const *names = h->version ? version_1 : version_0;
    size_t at = h->size, rope = (size_t)c->max_ctx * (size_t)c->head_dim * 4;
    int n_names = h->version ? 12 : 13;
    for (int i = 0; i < n_names; i++) {
        if (!names[i]) at += rope;
        int layer = 0; /* the specs have a kind's layers in order, with other kinds between them */
        for (int k = 0; names[i] && k < s->n_tensors; k++) {
            char name[64];
            snprintf(name, sizeof name, names[i], layer);
            if (strcmp(specs[k].name, name)) continue;
            size_t n = (size_t)specs[k].rows * (size_t)specs[k].cols;
            if (data && in_groups(&specs[k], h)) {
                dequantize_groups(floats, data + at, n, (size_t)h->group);
                s->tensor[k].data = (const uint8_t *)floats;
                floats += n;
            } else if (data) {
                s->tensor[k].data = data + at;
            }
            at += stored_bytes(&specs[k], h);
            layer++;
        }
    }
    return at;
}

/* Fills s->config and s->tensor from a checkpoint's bytes, into which the tensors point. */
bool llama2c_parse(Source *s, const uint8_t *data, size_t size, Error *e) {
    Header h;
    float *floats = NULL;
    if (!parse_header(&s->config, &h, data, size, e)) return false;
    s->type = T_F32;
    s->halves = false;
    TensorSpec *specs = tensor_specs(&s->config, &s->n_tensors);
    size_t want = walk(s, specs, &h, NULL, NULL), n_floats = 0;
    bool ok = size == want || fail(e,
                                   "file is %zu bytes, the header implies %zu; truncated download, "
                                   "or not a llama2.c model?",
                                   size, want);
    if (ok) {
        s->tensor = xcalloc((size_t)s->n_tensors, sizeof *s->tensor, "tensors");
        for (int i = 0; i < s->n_tensors; i++) {
            Tensor *t = &s->tensor[i];
            t->name = arena_copy(&s->arena, specs[i].name, strlen(specs[i].name));
            t->type = T_F32;
            t->rows = specs[i].rows;
            t->cols = specs[i].cols;
            if (in_groups(&specs[i], &h)) n_floats += (size_t)t->rows * (size_t)t->cols;
        }
        ok = !h.group || (floats = map_floats(s, n_floats, e));
        if (ok) walk(s, specs, &h, data, floats);
    }
    free(specs);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 3. tokenizer.bin: a SentencePiece BPE vocabulary without its flags, and without its length
 *
 *     longest token u32 | per token: score f32, length i32, bytes
 *
 * Spaces are written as spaces instead of U+2581; ids 1 and 2, bos and eos, as "\n<s>\n" and
 * "\n</s>\n"; the byte tokens <0x00> to <0xFF> have the ids 3 to 258. */

static Str with_blocks(Arena *a, Str text) { /* every space becomes U+2581 */
    size_t n = text.n, at = 0;
    for (size_t i = 0; i < text.n; i++) n += text.s[i] == ' ' ? 2 : 0;
    if (n == text.n) return text;
    char *out = arena_alloc(a, n, 1, "token");
    static const char block[3] = { '\xE2', '\x96', '\x81' };
    for (size_t i = 0; i < text.n; i++) {
        if (text.s[i] == ' ') {
            memcpy(out + at, block, sizeof block);
            at += sizeof block;
        } else {
            out[at++] = text.s[i];
        }
    }
    Str s = { out, n };
    return s;
}

static bool parse_token(Vocab *v, Arena *a, int i, Cursor *c, uint32_t longest, Error *e) {
    int32_t n;
    Str text;
    if (!take(c, &v->score[i], 4) || !take(c, &n, 4))
        return fail(e, "token %d of %d: the file ends before it", i, v->n);
    if (n < 1 || (uint32_t)n > longest)
        return fail(e, "token %d: %d bytes, expected 1 to the %u that the file begins with", i, n,
                    longest);
    text.n = (size_t)n;
    text.s = (const char *)take_bytes(c, text.n);
    if (!text.s) return fail(e, "token %d of %d: the file ends within it", i, v->n);
    if (i == 1 || i == 2) {
        const char *usual = i == 1 ? "\n<s>\n" : "\n</s>\n";
        if (str_is(text, usual)) text.s += 1, text.n -= 2;
        v->type[i] = TOK_CONTROL;
    } else if (i >= 3 && i < 259) {
        if (byte_token(text) != i - 3)
            return fail(e, "token %d: '%.*s', expected the byte token <0x%02X>", i, STR(text),
                        (unsigned)i - 3);
        v->type[i] = TOK_BYTE;
    } else {
        v->type[i] = i ? TOK_NORMAL : TOK_UNKNOWN;
    }
    v->token[i] = with_blocks(a, text);
    return true;
}

/* The vocabulary of n_vocab tokens in a tokenizer.bin, with the flags that llama2.c takes for
 * granted. On failure v is empty. */
bool llama2c_vocab_parse(Vocab *v, Arena *a, const uint8_t *data, size_t size, int n_vocab,
                         Error *e) {
    Cursor c = { data, data + size };
    uint32_t longest = 0;
    memset(v, 0, sizeof *v);
    if (!take(&c, &longest, 4) || longest < 1 || longest > 65535)
        return fail(e, "longest token: %u bytes, expected 1 to 65535; a tokenizer.bin?", longest);
    if (n_vocab < 259 || (size_t)n_vocab > size / 9)
        return fail(e, "%d tokens in a file of %zu bytes, expected at least 259, 9 bytes each",
                    n_vocab, size);
    v->n = v->n_pieces = n_vocab;
    v->token = xcalloc((size_t)v->n, sizeof *v->token, "vocabulary");
    v->score = xcalloc((size_t)v->n, sizeof *v->score, "vocabulary");
    v->type = xcalloc((size_t)v->n, 1, "vocabulary");
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    v->pad = -1;
    v->add_bos = v->add_space_prefix = true;
    bool ok = true;
    for (int i = 0; ok && i < v->n; i++) ok = parse_token(v, a, i, &c, longest, e);
    if (ok && c.p < c.end)
        ok = fail(e,
                  "%td bytes behind the %d tokens, expected none; the vocabulary of another "
                  "model?",
                  c.end - c.p, v->n);
    if (ok && vocab_find(v, "\xE2\x96\x81") < 0)
        ok = fail(e, "no token for a space, expected one (texts begin with it)");
    ok = ok && vocab_check(v, e);
    if (!ok) vocab_free(v);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 4. Both together */

/* A SentencePiece model begins with field 1, a message that begins with its own field 1. */
static bool looks_like_spm(const Map *m) {
    return m->size > 3 && m->data[0] == 0x0A && m->data[1] != 0 && m->data[2] == 0x0A;
}

static bool parse_tokenizer(Source *s, const Map *m, Error *e) {
    Vocab *v = &s->vocab;
    if (!looks_like_spm(m))
        return llama2c_vocab_parse(v, &s->arena, m->data, m->size, s->config.vocab_size, e);
    if (!spm_parse(v, &s->arena, m->data, m->size, e)) return false;
    if (v->n > s->config.vocab_size)
        return fail(e, "%d pieces, expected at most the %d rows of the model's embedding", v->n,
                    s->config.vocab_size);
    v->add_bos = v->bos >= 0;
    return true;
}

bool source_open_llama2c(Source *s, const char *path, const char *tokenizer, Error *e) {
    Map m;
    if (!source_map(s, path, &m, e)) return false;
    if (!llama2c_parse(s, m.data, m.size, e)) return fail_in(e, path);
    if (!tokenizer)
        return fail(e,
                    "%s: a llama2.c model without a vocabulary, expected --tokenizer FILE: "
                    "its tokenizer.bin or a SentencePiece .model",
                    path);
    if (!source_map(s, tokenizer, &m, e)) return false;
    if (!parse_tokenizer(s, &m, e)) return fail_in(e, tokenizer);
    vocab_add_usual_stops(&s->vocab);
    return true;
}
