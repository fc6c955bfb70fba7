/* opencoder.h: what a model is, and what crosses between the files of opencoder.c. No math in here.
 *
 * What to know first: the tensors of a model are listed once, in TENSORS below. The struct Weights,
 * the names in the file, the shapes, loading, conversion and training all derive from that list.
 * Sections: 1 configuration, 2 tensors, 3 vocabulary, 4 a model from its file, 5 prototypes.
 * Compiles as C11 and as C++17. Test: tests/test_format.c, tests/badinput.py. */
#ifndef OPENCODER_H
#define OPENCODER_H

#include "gguf.h" /* Gguf, GgufWriter, Tensor, storage types; and files.h: errors, files */

/* ------------------------------------------------------------------------------------------------
 * 1. Configuration: the Llama architecture as OpenCoder uses it (arXiv 2411.04905, table 4)
 *
 *            dim  hidden  layers  heads  kv heads  head_dim  vocab   theta   max ctx
 *   1.5B    2240    6144      24     14        14       160  96640     1e4      4096
 *   8B      4096   14336      32     32         8       128  96640     5e5      8192   */

typedef struct {
    int dim;        /* C: width of the residual stream */
    int hidden_dim; /* F: width of the feed-forward layer */
    int n_layers;   /* L */
    int n_heads;    /* H: query heads */
    int n_kv_heads; /* K: key and value heads; each serves H / K query heads */
    int head_dim;   /* D */
    int vocab_size; /* V: rows of the embedding, unused padding rows included */
    int max_ctx;    /* positions the model was trained for */
    float rope_theta, norm_eps;
    bool tied; /* the output head is the embedding; there is no output.weight */
} Config;

OC_API bool config_range(Error *e, const char *name, long long v, long long min, long long max) {
    if (v >= min && v <= max) return true;
    return fail(e, "%s: %lld, expected %lld to %lld", name, v, min, max);
}

/* Refuses shapes that no Llama has or that would overflow later arithmetic. */
OC_API bool config_check(const Config *c, Error *e) {
    if (!config_range(e, "embedding length", c->dim, 1, 65536) ||
        !config_range(e, "feed-forward length", c->hidden_dim, 1, 1 << 20) ||
        !config_range(e, "number of layers", c->n_layers, 1, 1024) ||
        !config_range(e, "number of heads", c->n_heads, 1, 1024) ||
        !config_range(e, "number of key/value heads", c->n_kv_heads, 1, c->n_heads) ||
        !config_range(e, "head dimension", c->head_dim, 2, 1024) ||
        !config_range(e, "vocabulary size", c->vocab_size, 1, 1 << 20) ||
        !config_range(e, "context length", c->max_ctx, 1, 1 << 24))
        return false;
    if (c->n_heads % c->n_kv_heads)
        return fail(e, "%d heads and %d key/value heads, expected a multiple", c->n_heads,
                    c->n_kv_heads);
    if (c->head_dim % 2) return fail(e, "head dimension: %d, expected an even number", c->head_dim);
    if (!isfinite(c->rope_theta) || c->rope_theta <= 0 || !isfinite(c->norm_eps) ||
        c->norm_eps <= 0)
        return fail(e, "rope theta %g and norm epsilon %g, expected finite numbers above 0",
                    (double)c->rope_theta, (double)c->norm_eps);
    return true;
}

/* The shapes that have a name; tiny has a head dimension as odd as 1.5B's. NULL: no such name. */
OC_API const Config *config_named(const char *name) {
    static const Config shape[] = {
        { 2240, 6144, 24, 14, 14, 160, 96640, 4096, 1e4f, 1e-5f, false },
        { 4096, 14336, 32, 32, 8, 128, 96640, 8192, 5e5f, 1e-5f, false },
        { 320, 864, 6, 4, 2, 80, 4096, 1024, 1e4f, 1e-5f, false },
    };
    static const char *const names[] = { "1.5b", "8b", "tiny" };
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) return &shape[i];
    return NULL;
}

/* Fills c from the llama.* keys; n_vocab is the number of tokenizer entries, used where
 * llama.vocab_size is absent. Keys that would change the math are refused by name. */
OC_API bool config_from_gguf(Config *c, const Gguf *g, int n_vocab, Error *e) {
    Str arch = str_of("(missing)"), scaling = str_of("none");
    int rope_dim, value_dim, n_experts = 0;
    float factor = 1, linear = 1;
    memset(c, 0, sizeof *c);
    if (!gguf_str(g, "general.architecture", &arch, e)) return false;
    if (!str_is(arch, "llama"))
        return fail(e, "key general.architecture: %.*s, expected llama", STR(arch));
    if (!gguf_int(g, "llama.embedding_length", true, 1, 65536, &c->dim, e) ||
        !gguf_int(g, "llama.feed_forward_length", true, 1, 1 << 20, &c->hidden_dim, e) ||
        !gguf_int(g, "llama.block_count", true, 1, 1024, &c->n_layers, e) ||
        !gguf_int(g, "llama.attention.head_count", true, 1, 1024, &c->n_heads, e))
        return false;
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->dim / c->n_heads;
    c->vocab_size = n_vocab;
    c->rope_theta = 10000.0f;
    if (!gguf_int(g, "llama.attention.head_count_kv", false, 1, 1024, &c->n_kv_heads, e) ||
        !gguf_int(g, "llama.attention.key_length", false, 2, 1024, &c->head_dim, e) ||
        !gguf_int(g, "llama.vocab_size", false, 1, 1 << 20, &c->vocab_size, e) ||
        !gguf_int(g, "llama.context_length", true, 1, 1 << 24, &c->max_ctx, e) ||
        !gguf_float(g, "llama.rope.freq_base", false, &c->rope_theta, e) ||
        !gguf_float(g, "llama.attention.layer_norm_rms_epsilon", true, &c->norm_eps, e) ||
        !gguf_str(g, "llama.rope.scaling.type", &scaling, e) ||
        !gguf_int(g, "llama.expert_count", false, 0, 1 << 20, &n_experts, e))
        return false;
    rope_dim = value_dim = c->head_dim;
    if (!gguf_int(g, "llama.rope.dimension_count", false, c->head_dim, c->head_dim, &rope_dim, e) ||
        !gguf_int(g, "llama.attention.value_length", false, c->head_dim, c->head_dim, &value_dim,
                  e))
        return false;
    if (!str_is(scaling, "none") || gguf_tensor(g, "rope_freqs.weight"))
        return fail(e, "rope scaling (%.*s): not supported, expected none", STR(scaling));
    if (!gguf_float(g, "llama.rope.scaling.factor", false, &factor, e) ||
        !gguf_float(g, "llama.rope.scale_linear", false, &linear, e))
        return false;
    if (factor != 1 || linear != 1)
        return fail(e, "rope scaling by %g: not supported, expected 1", (double)(factor * linear));
    if (n_experts) return fail(e, "key llama.expert_count: %d, expected 0 (no experts)", n_experts);
    c->tied = !gguf_tensor(g, "output.weight");
    return config_check(c, e);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Tensors: X(field, name in the file, how many: 1 or one per layer, rows, cols)
 * A weight matrix maps a vector of `cols` numbers to one of `rows`; row-major, as stored. Rows of
 * wq and wk are in GGUF's order, in which RoPE turns the neighbours (2i, 2i+1) of a head. Llama's
 * own code calls w_gate, w_down, w_up by the names w1, w2, w3. */

#define TENSORS(X)                                                                                 \
    X(tok_emb, "token_embd.weight", 1, c->vocab_size, c->dim)                                      \
    X(attn_norm, "blk.%d.attn_norm.weight", c->n_layers, 1, c->dim)                                \
    X(wq, "blk.%d.attn_q.weight", c->n_layers, c->n_heads * c->head_dim, c->dim)                   \
    X(wk, "blk.%d.attn_k.weight", c->n_layers, c->n_kv_heads * c->head_dim, c->dim)                \
    X(wv, "blk.%d.attn_v.weight", c->n_layers, c->n_kv_heads * c->head_dim, c->dim)                \
    X(wo, "blk.%d.attn_output.weight", c->n_layers, c->dim, c->n_heads * c->head_dim)              \
    X(ffn_norm, "blk.%d.ffn_norm.weight", c->n_layers, 1, c->dim)                                  \
    X(w_gate, "blk.%d.ffn_gate.weight", c->n_layers, c->hidden_dim, c->dim)                        \
    X(w_up, "blk.%d.ffn_up.weight", c->n_layers, c->hidden_dim, c->dim)                            \
    X(w_down, "blk.%d.ffn_down.weight", c->n_layers, c->dim, c->hidden_dim)                        \
    X(out_norm, "output_norm.weight", 1, 1, c->dim)                                                \
    X(out, "output.weight", c->tied ? 0 : 1, c->vocab_size, c->dim)

typedef struct {
#define X(field, name, count, rows, cols) Tensor *field; /* [1] or [n_layers] */
    TENSORS(X)
#undef X
} Weights;

/* One tensor of the list, as tensor_specs gives it. */
typedef struct {
    char name[64];
    int rows, cols;
    bool permuted; /* wq and wk: their rows change order between Hugging Face and GGUF */
} TensorSpec;

OC_API void add_spec(TensorSpec *specs, int *n, const char *name, int layer, int rows, int cols) {
    TensorSpec *s = &specs[(*n)++];
    snprintf(s->name, sizeof s->name, name, layer);
    s->rows = rows;
    s->cols = cols;
    s->permuted = strstr(name, "attn_q.") || strstr(name, "attn_k.");
}

/* All tensors of a model of this shape in file order: the embedding, layer by layer, the head.
 * Returns an array of *n to be freed. */
OC_API TensorSpec *tensor_specs(const Config *c, int *n) {
    TensorSpec *specs =
        (TensorSpec *)xcalloc((size_t)c->n_layers * 9 + 3, sizeof *specs, "tensors");
    *n = 0;
    for (int layer = -1; layer <= c->n_layers; layer++) { /* -1: what comes before the layers */
        int place = -1; /* moves on to n_layers at the first "blk" */
#define X(field, name, count, rows, cols)                                                          \
    if (strchr(name, '%')) place = c->n_layers;                                                    \
    if (strchr(name, '%') ? layer >= 0 && layer < c->n_layers : layer == place && (count) > 0)     \
        add_spec(specs, n, name, layer, rows, cols);
        TENSORS(X)
#undef X
    }
    return specs;
}

OC_API bool bind_tensor(Tensor *out, const Gguf *g, const char *name, int layer, int rows, int cols,
                        Error *e) {
    char full[64];
    snprintf(full, sizeof full, name, layer);
    const Tensor *t = gguf_tensor(g, full);
    if (!t) return fail(e, "tensor %s: missing, expected %d x %d", full, rows, cols);
    if (t->rows != rows || t->cols != cols)
        return fail(e, "tensor %s: shape %d x %d, expected %d x %d from the hyperparameters", full,
                    t->rows, t->cols, rows, cols);
    if (rows == 1 && t->type != T_F32)
        return fail(e, "tensor %s: type %s, expected f32", full, type_name(t->type));
    *out = *t;
    return true;
}

OC_API void weights_free(Weights *w) {
#define X(field, name, count, rows, cols) free(w->field);
    TENSORS(X)
#undef X
}

/* opt.m.*, opt.v.*: what a training checkpoint holds beside the weights. */
OC_API bool is_optimizer(Str name) { return name.n > 4 && !memcmp(name.s, "opt.", 4); }

/* Finds every tensor of the list in the file, with its shape, and refuses tensors that are not in
 * the list (biases, experts, ...) but for a training checkpoint's optimizer state, opt.*. */
OC_API bool weights_bind(Weights *w, const Gguf *g, const Config *c, Error *e) {
    uint64_t known = 0;
    memset(w, 0, sizeof *w);
#define X(field, name, count, rows, cols)                                                          \
    w->field = (Tensor *)xcalloc((size_t)(count), sizeof(Tensor), name);                           \
    for (int i = 0; i < (count); i++, known++)                                                     \
        if (!bind_tensor(&w->field[i], g, name, i, rows, cols, e)) return false;
    TENSORS(X)
#undef X
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        Str name = g->tensor[i].name;
        if (is_optimizer(name)) known++;
    }
    if (known == g->n_tensors) return true;
    int n;
    TensorSpec *specs = tensor_specs(c, &n);
    for (uint64_t i = 0, j; i < g->n_tensors; i++) {
        Str name = g->tensor[i].name;
        for (j = 0; j < (uint64_t)n && !str_is(name, specs[j].name); j++) {}
        if (j < (uint64_t)n || is_optimizer(name)) continue;
        fail(e, "tensor %.*s: not part of a Llama model, expected none but the known ones",
             STR(name));
        break;
    }
    free(specs);
    return false;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Vocabulary: the tokenizer as data. tokenizer.c turns it into something that encodes. */

enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };
/* What a chat begins with where it has no system message of its own. */
#define OPENCODER_SYSTEM "You are OpenCoder, created by OpenCoder Team."

typedef struct {
    int n;                 /* entries; the model may have more rows than that, never fewer */
    Str *token;            /* bytes of each entry, space written as U+2581 */
    float *score;          /* BPE: higher merges first; unigram: log probability */
    uint8_t *type;         /* TOK_* */
    bool unigram;          /* SentencePiece model type: unigram, or else BPE */
    bool opencoder;        /* cut text with the cl100k-style splitter first (INFLMTokenizer) */
    bool add_bos, add_eos; /* put these around an encoded text */
    bool add_space_prefix, remove_extra_whitespaces, whitespace_suffix; /* SentencePiece's flags */
    int bos, eos, unk, pad;                                             /* ids, -1 when absent */
    int stop[8], n_stop; /* further ids that end generation */
    int n_pieces;      /* the first n_pieces entries came from SentencePiece, the rest were added */
    Str charsmap;      /* precompiled_charsmap of the normalizer, empty: text is not changed */
    Str chat_template; /* as the file has it; the program itself always speaks ChatML */
} Vocab;

OC_API void vocab_free(Vocab *v) {
    free(v->token);
    free(v->score);
    free(v->type);
    memset(v, 0, sizeof *v);
}

OC_API int vocab_find(const Vocab *v, const char *text) { /* linear: for the few special tokens */
    for (int i = 0; i < v->n; i++)
        if (str_is(v->token[i], text)) return i;
    return -1;
}

/* The byte that a token named <0x00> to <0xFF> stands for, or -1 for any other name. */
OC_API int byte_token(Str t) {
    const char *hex = "0123456789ABCDEF", *hi, *lo;
    if (t.n != 6 || memcmp(t.s, "<0x", 3) || t.s[5] != '>' || !t.s[3] || !t.s[4]) return -1;
    if (!(hi = strchr(hex, t.s[3])) || !(lo = strchr(hex, t.s[4]))) return -1;
    return (int)((hi - hex) << 4 | (lo - hex));
}

/* The normalizer's table: size of the trie u32, trie (u32 units), texts with a NUL behind each. */
OC_API bool charsmap_check(Str map, Error *e) {
    uint32_t trie = 0;
    if (map.n == 0) return true;
    if (map.n >= 4) memcpy(&trie, map.s, 4);
    if (trie < 4 || trie % 4 || trie >= map.n - 4 || map.s[map.n - 1])
        return fail(e,
                    "precompiled_charsmap: %zu bytes with a trie of %u, expected a multiple of 4 "
                    "and texts behind it",
                    map.n, trie);
    return true;
}

/* Refuses vocabularies that would make an encoder misbehave. */
OC_API bool vocab_check(const Vocab *v, Error *e) {
    int n_bytes = 0, id[] = { v->bos, v->eos, v->unk, v->pad };
    for (int i = 0; i < v->n; i++) {
        Str t = v->token[i];
        if (t.n == 0 || t.n > 65535)
            return fail(e, "token %d: %zu bytes, expected 1 to 65535", i, t.n);
        if (memchr(t.s, 0, t.n)) return fail(e, "token %d: a NUL byte, expected text", i);
        if (!isfinite(v->score[i])) return fail(e, "token %d: score is not finite", i);
        if (v->type[i] < TOK_NORMAL || v->type[i] > TOK_BYTE)
            return fail(e, "token %d: type %d, expected 1 to 6", i, v->type[i]);
        if (v->type[i] != TOK_BYTE) continue;
        if (byte_token(t) < 0)
            return fail(e, "token %d: byte token '%.*s', expected <0x00> to <0xFF>", i, STR(t));
        n_bytes++;
    }
    if (n_bytes && n_bytes != 256) return fail(e, "%d byte tokens, expected 256 or none", n_bytes);
    for (int i = 0; i < 4; i++)
        if (id[i] < -1 || id[i] >= v->n)
            return fail(e, "special token id %d, expected less than the %d tokens", id[i], v->n);
    for (int i = 0; i < v->n_stop; i++)
        if (v->stop[i] < 0 || v->stop[i] >= v->n)
            return fail(e, "stop token id %d, expected less than the %d tokens", v->stop[i], v->n);
    if (!n_bytes && v->unk < 0)
        return fail(e, "no unknown token and no byte tokens, expected one or 256 of them");
    if (!charsmap_check(v->charsmap, e)) return false;
    const Str **index;
    bool unique = name_index(&index, v->token, (uint64_t)v->n, sizeof *v->token, "token", e);
    free((void *)index);
    return unique;
}

OC_API void vocab_add_stop(Vocab *v, int id) {
    for (int i = 0; i < v->n_stop; i++)
        if (v->stop[i] == id) return;
    if (id >= 0 && id != v->eos && v->n_stop < 8) v->stop[v->n_stop++] = id;
}

/* Ends of a turn or a text that models of this family use; all of them end generation. */
OC_API void vocab_add_usual_stops(Vocab *v) {
    vocab_add_stop(v, vocab_find(v, "<|im_end|>"));
    vocab_add_stop(v, vocab_find(v, "<|endoftext|>"));
    vocab_add_stop(v, vocab_find(v, "</s>"));
}

OC_API bool vocab_read_ids(Vocab *v, const Gguf *g, Error *e) {
    int eot = -1;
    const GgufKey *stops;
    if (!gguf_int(g, "tokenizer.ggml.bos_token_id", false, -1, v->n - 1, &v->bos, e) ||
        !gguf_int(g, "tokenizer.ggml.eos_token_id", false, -1, v->n - 1, &v->eos, e) ||
        !gguf_int(g, "tokenizer.ggml.unknown_token_id", false, -1, v->n - 1, &v->unk, e) ||
        !gguf_int(g, "tokenizer.ggml.padding_token_id", false, -1, v->n - 1, &v->pad, e) ||
        !gguf_int(g, "tokenizer.ggml.eot_token_id", false, -1, v->n - 1, &eot, e) ||
        !gguf_array(g, "opencoder.stop_token_ids", GV_U32, 0, &stops, e))
        return false;
    vocab_add_stop(v, eot);
    for (uint64_t i = 0; stops && i < stops->count; i++) {
        uint32_t id;
        memcpy(&id, stops->data + 4 * i, 4);
        if (id >= (uint32_t)v->n)
            return fail(e, "key opencoder.stop_token_ids: id %u, expected less than %d", id, v->n);
        vocab_add_stop(v, (int)id);
    }
    for (int i = 0; v->unk < 0 && i < v->n; i++)
        if (v->type[i] == TOK_UNKNOWN) v->unk = i;
    vocab_add_usual_stops(v);
    return true;
}

/* Strings point into the file's bytes; the rest is copied, because arrays are not aligned. */
OC_API bool vocab_read_tokens(Vocab *v, const Gguf *g, Error *e) {
    const GgufKey *tokens, *scores, *types;
    if (!gguf_array(g, "tokenizer.ggml.tokens", GV_STR, 0, &tokens, e)) return false;
    if (!tokens || tokens->count < 1 || tokens->count > 1 << 20)
        return fail(e, "key tokenizer.ggml.tokens: %llu tokens, expected 1 to %d",
                    tokens ? (unsigned long long)tokens->count : 0ull, 1 << 20);
    if (!gguf_array(g, "tokenizer.ggml.scores", GV_F32, tokens->count, &scores, e) ||
        !gguf_array(g, "tokenizer.ggml.token_type", GV_I32, tokens->count, &types, e))
        return false;
    if (!scores || !types)
        return fail(e, "key tokenizer.ggml.%s: missing", scores ? "token_type" : "scores");
    v->n = (int)tokens->count;
    v->token = (Str *)xcalloc((size_t)v->n, sizeof *v->token, "vocabulary");
    v->score = (float *)xcalloc((size_t)v->n, sizeof *v->score, "vocabulary");
    v->type = (uint8_t *)xcalloc((size_t)v->n, 1, "vocabulary");
    Cursor c = { tokens->data, tokens->data + tokens->bytes };
    for (int i = 0; i < v->n; i++) {
        int32_t type;
        if (!gguf_take_str(&c, &v->token[i])) return fail(e, "key tokenizer.ggml.tokens: cut off");
        memcpy(&type, types->data + 4 * (size_t)i, 4);
        if (type < TOK_NORMAL || type > TOK_BYTE)
            return fail(e, "key tokenizer.ggml.token_type: %d for token %d, expected 1 to 6", type,
                        i);
        v->type[i] = (uint8_t)type;
    }
    memcpy(v->score, scores->data, 4 * (size_t)v->n);
    return true;
}

/* Fills v from the tokenizer.ggml.* keys; v's strings live as long as the file stays mapped. */
OC_API bool vocab_from_gguf(Vocab *v, const Gguf *g, Error *e) {
    Str model = str_of("(missing)"), pre = str_of("default");
    const GgufKey *map;
    memset(v, 0, sizeof *v);
    if (!gguf_str(g, "tokenizer.ggml.model", &model, e)) return false;
    v->unigram = str_is(model, "t5");
    if (!v->unigram && !str_is(model, "llama"))
        return fail(e, "key tokenizer.ggml.model: %.*s, expected llama or t5", STR(model));
    if (!vocab_read_tokens(v, g, e)) return false;
    v->bos = v->eos = v->unk = v->pad = -1;
    bool foreign = !gguf_key(g, "opencoder.sentencepiece_count");
    if (foreign && !v->unigram && v->n > 2 && v->type[1] == TOK_CONTROL) v->bos = 1, v->eos = 2;
    if (!vocab_read_ids(v, g, e)) return false;
    v->add_bos = !v->unigram; /* these, and the ids above, are what GGUF says for missing keys */
    v->add_eos = v->unigram;
    v->add_space_prefix = true;
    v->n_pieces = v->n;
    if (!gguf_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos, e) ||
        !gguf_bool(g, "tokenizer.ggml.add_eos_token", &v->add_eos, e) ||
        !gguf_bool(g, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix, e) ||
        !gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &v->remove_extra_whitespaces, e) ||
        !gguf_bool(g, "opencoder.whitespace_suffix", &v->whitespace_suffix, e) ||
        !gguf_int(g, "opencoder.sentencepiece_count", false, 0, v->n, &v->n_pieces, e) ||
        !gguf_str(g, "tokenizer.ggml.pre", &pre, e) ||
        !gguf_str(g, "tokenizer.chat_template", &v->chat_template, e) ||
        !gguf_array(g, "tokenizer.ggml.precompiled_charsmap", GV_U8, 0, &map, e))
        return false;
    if (map) v->charsmap.s = (const char *)map->data, v->charsmap.n = map->bytes;
    v->opencoder = str_is(pre, "opencoder");
    /* A GGUF that llama.cpp made of OpenCoder says "default": known by the shape of its
     * vocabulary. */
    if (v->n == 96640 && str_is(v->token[96539], "<|im_end|>") &&
        str_is(v->token[96540], "<|im_start|>"))
        v->opencoder = true;
    if (v->add_bos && v->bos < 0) v->add_bos = false;
    if (v->add_eos && v->eos < 0) v->add_eos = false;
    return vocab_check(v, e);
}

/* Writes v as GGUF keys, the inverse of vocab_from_gguf. */
OC_API void vocab_to_gguf(GgufWriter *w, const Vocab *v) {
    int32_t *type = (int32_t *)xcalloc((size_t)v->n, 4, "vocabulary");
    for (int i = 0; i < v->n; i++) type[i] = v->type[i];
    gguf_put_str(w, "tokenizer.ggml.model", str_of(v->unigram ? "t5" : "llama"));
    gguf_put_str(w, "tokenizer.ggml.pre", str_of(v->opencoder ? "opencoder" : "default"));
    gguf_put_strings(w, "tokenizer.ggml.tokens", (uint64_t)v->n, v->token);
    gguf_put_array(w, "tokenizer.ggml.scores", GV_F32, (uint64_t)v->n, v->score);
    gguf_put_array(w, "tokenizer.ggml.token_type", GV_I32, (uint64_t)v->n, type);
    const char *name[] = { "bos", "eos", "unknown", "padding" };
    int id[] = { v->bos, v->eos, v->unk, v->pad };
    for (int i = 0; i < 4; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name[i]);
        if (id[i] >= 0) gguf_put_u32(w, key, (uint32_t)id[i]);
    }
    if (v->n_stop)
        gguf_put_array(w, "opencoder.stop_token_ids", GV_U32, (uint64_t)v->n_stop, v->stop);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    gguf_put_bool(w, "tokenizer.ggml.remove_extra_whitespaces", v->remove_extra_whitespaces);
    if (v->whitespace_suffix) gguf_put_bool(w, "opencoder.whitespace_suffix", true);
    gguf_put_u32(w, "opencoder.sentencepiece_count", (uint32_t)v->n_pieces);
    if (v->charsmap.n)
        gguf_put_array(w, "tokenizer.ggml.precompiled_charsmap", GV_U8, v->charsmap.n,
                       v->charsmap.s);
    if (v->chat_template.n) gguf_put_str(w, "tokenizer.chat_template", v->chat_template);
    free(type);
}

/* Writes c as GGUF keys, the inverse of config_from_gguf. */
OC_API void config_to_gguf(GgufWriter *w, const Config *c) {
    gguf_put_str(w, "general.architecture", str_of("llama"));
    gguf_put_u32(w, "general.alignment", 32);
    gguf_put_u32(w, "general.quantization_version", 2);
    gguf_put_u32(w, "llama.vocab_size", (uint32_t)c->vocab_size);
    gguf_put_u32(w, "llama.context_length", (uint32_t)c->max_ctx);
    gguf_put_u32(w, "llama.embedding_length", (uint32_t)c->dim);
    gguf_put_u32(w, "llama.block_count", (uint32_t)c->n_layers);
    gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)c->hidden_dim);
    gguf_put_u32(w, "llama.attention.head_count", (uint32_t)c->n_heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)c->n_kv_heads);
    gguf_put_u32(w, "llama.attention.key_length", (uint32_t)c->head_dim);
    gguf_put_u32(w, "llama.attention.value_length", (uint32_t)c->head_dim);
    gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)c->head_dim);
    gguf_put_f32(w, "llama.rope.freq_base", c->rope_theta);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", c->norm_eps);
}

/* ------------------------------------------------------------------------------------------------
 * 4. A model from its file */

typedef struct {
    const char *path;
    Map map;
    Gguf gguf;
    Config config;
    Weights weights;
    Vocab vocab;
} Model;

OC_API void model_close(Model *m) {
    weights_free(&m->weights);
    vocab_free(&m->vocab);
    gguf_free(&m->gguf);
    unmap_file(&m->map);
    memset(m, 0, sizeof *m);
}

/* Reads a model from bytes. Checksums of tensors: with `verify`, and in files of up to 256 MB. */
OC_API bool model_parse(Model *m, const uint8_t *data, size_t size, bool verify, Error *e) {
    Str kind = str_of("model");
    if (!gguf_parse(&m->gguf, data, size, e) || !gguf_check_header(&m->gguf, e) ||
        !gguf_str(&m->gguf, "general.type", &kind, e))
        return false;
    if (str_is(kind, "adapter")) return fail(e, "an adapter, expected a model; use --lora");
    if (!vocab_from_gguf(&m->vocab, &m->gguf, e) ||
        !config_from_gguf(&m->config, &m->gguf, m->vocab.n, e))
        return false;
    if (m->config.vocab_size < m->vocab.n)
        return fail(e, "%d tokens and %d rows of embedding, expected a row for every token",
                    m->vocab.n, m->config.vocab_size);
    if (!weights_bind(&m->weights, &m->gguf, &m->config, e)) return false;
    for (uint64_t i = 0; (verify || size <= 256u << 20) && i < m->gguf.n_tensors; i++)
        if (!gguf_check_tensor(&m->gguf, i, e)) return false;
    return true;
}

/* Maps and reads a model file; a file that cannot be used ends the program. */
OC_API void model_open(Model *m, const char *path, bool verify) {
    Error e;
    memset(m, 0, sizeof *m);
    m->path = path;
    if (!map_file(&m->map, path, &e) || !model_parse(m, m->map.data, m->map.size, verify, &e))
        die("%s: %s", path, e.text);
}

/* The model where none is named: models/tiny.bin beside the executable. hint: what else the user
 * may do, behind "name one". */
OC_API const char *default_model(const char *hint) {
    static char path[4096 + 32], program[4096 + 1];
    ssize_t n = readlink("/proc/self/exe", program, 4096);
    char *slash = n > 0 ? strrchr(program, '/') : NULL;
    snprintf(path, sizeof path, "%.*smodels/tiny.bin", slash ? (int)(slash + 1 - program) : 0,
             program);
    if (access(path, R_OK))
        die("%s: not there, expected the default model; name one%s", path, hint);
    return path;
}

/* Maps a GGUF file for its vocabulary alone; it need not hold tensors. Ends the program on
 * failure. */
OC_API void model_open_vocab(Model *m, const char *path) {
    Error e;
    memset(m, 0, sizeof *m);
    m->path = path;
    if (!map_file(&m->map, path, &e) || !gguf_parse(&m->gguf, m->map.data, m->map.size, &e) ||
        !gguf_check_header(&m->gguf, &e) || !vocab_from_gguf(&m->vocab, &m->gguf, &e))
        die("%s: %s", path, e.text);
}

/* xorshift64*, as good as a sampler needs and the same on every machine. */
OC_API uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

/* ------------------------------------------------------------------------------------------------
 * 5. Prototypes across files */
#ifdef __cplusplus
extern "C" {
#endif

/* matmul.c: the products where the time goes, for every storage type. */

/* y (n, W.rows) = x (n, W.cols) W^T for the n rows of x. Every element of y is one dot product,
 * summed in an order that depends on neither n nor the number of threads. Unless `exact`, types
 * narrower than f32 may round x to the width of the machine's instruction (DESIGN 4). */
void matmul(float *y, const float *x, const Tensor *w, int n, bool exact);
/* out (n) = numbers `from` to `from + n` of a stored row; from and n are multiples of the block. */
void dequantize(float *out, const uint8_t *row, uint32_t type, size_t from, size_t n);
/* The inverse for the types that convert writes: f32, f16, bf16, q8_0, q4_0. */
void quantize(uint8_t *row, const float *x, uint32_t type, size_t n);
/* Chooses an instruction set by name, NULL: the best here. False when this CPU does not have it. */
bool matmul_choose(const char *name);
int thread_count(void);            /* threads that the next product will use, 1 without OpenMP */
const char *matmul_level(void);    /* the one in use: "plain", "avx2", ... */
extern const char matmul_levels[]; /* help for matmul_choose: "... avx512, avx2 or plain" */

/* A matrix of float32 in memory, element (i, j) at data[i * row + j * col]; or, where `stored` is
 * set, a Tensor of any type in its own order, or turned on its side. */
typedef struct {
    const float *data;
    size_t row, col;      /* strides in elements; one of them is 1 */
    const Tensor *stored; /* element (i, j) is weight (i, j), ... */
    bool transposed;      /* ... or weight (j, i) */
} Matrix;

enum { GEMM_ADD = 1, GEMM_BF16 = 2 };
/* C (m, n), rows `stride` floats apart, = A (m, k) B (k, n), or += with GEMM_ADD. GEMM_BF16 rounds
 * A and B to bfloat16 where the CPU multiplies those faster. Each element of C is summed over k in
 * one fixed order, whatever m, n and the number of threads. gemm shares the work among all threads;
 * gemm_here is for callers that are one of many. A stored operand takes part as a whole. */
void gemm(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags);
void gemm_here(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags);
bool gemm_has_bf16(void);      /* does GEMM_BF16 change anything here? */
double matmul_peak(bool bf16); /* GFLOP/s of all threads' multiply-adds, measured for 0.1 s */

/* tokenizer.c: text <-> ids. */
typedef struct Tokenizer Tokenizer;
typedef struct {
    int *id;
    size_t n, cap;
} Ids;

/* Builds the lookup tables for v, which must outlive the tokenizer. NULL and e on failure. */
Tokenizer *tokenizer_new(const Vocab *v, Error *e);
void tokenizer_free(Tokenizer *t);
/* Appends the ids of text (n bytes, any bytes). `special`: token texts such as <|im_end|> in the
 * text become that token, as in Hugging Face; otherwise they are spelled out as ordinary text. */
void tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, Ids *ids);
/* The same as a prompt: BOS in front where the vocabulary adds one. EOS is never added. */
void tokenizer_encode_prompt(const Tokenizer *t, const char *text, size_t n, bool special,
                             Ids *ids);
/* The bytes of one token in running text: U+2581 is a space, a byte token is its byte; control
 * tokens are their name, or empty when `plain`. The result lives as long as the tokenizer. */
Str tokenizer_piece(const Tokenizer *t, int id, bool plain);
/* The whole text of n ids. With the space prefix of SentencePiece, the first space is dropped. */
void tokenizer_decode(const Tokenizer *t, const int *id, size_t n, bool plain, Buf *out);
void ids_add(Ids *ids, int id);
/* Length of the first word of s, n > 0, as OpenCoder's splitter cuts. */
size_t tokenizer_next_word(const Tokenizer *t, const char *s, size_t n);
/* How many of the n bytes can be printed without splitting a UTF-8 character that has begun. */
size_t utf8_complete(const char *s, size_t n);
/* data/vocab.c, data/pack.c: `./tokenizer train` and `./tokenizer pack`; argv[0] is that word. */
int vocab_train_main(int argc, char **argv);
int vocab_pack_main(int argc, char **argv);

typedef struct Lora Lora; /* an adapter: lora.h */

/* Trainers: train.c exports cpu_trainer, traincuda.cu cuda_trainer. A batch is B rows of T + 1
 * tokens: token t + 1 is the target of position t, unless marked NO_LOSS (shards.h). STARTS marks
 * the first token of a document: attention does not look behind it, and positions begin at 0.
 * Losses and gradients are sums over targets, times `scale`. */
typedef struct Trainer Trainer;
typedef struct {
    int batch, seq_len;                    /* the largest B and T that will come */
    float beta1, beta2, eps, weight_decay; /* AdamW; decay for matrices only, not for norms */
    int recompute;                         /* 0: keep all activations .. 3: only layer inputs */
    bool bf16, bf16_moments, bf16_grads;   /* bfloat16: products; on a GPU these, too */
    int lora_rank;                         /* 0: all weights are trained */
    float lora_alpha;                      /* the adapter's product is scaled by alpha / rank */
    uint64_t seed;                         /* of the adapter's first values */
    int rank, n_ranks, device;             /* GPU: processes that train together; ranks.h */
    void (*share)(void *bytes, size_t n);  /* from rank 0 to all */
} TrainOptions;

typedef struct {
    /* Starts from the weights of `init`, and from its opt.m.*, opt.v.* where it has them; with
     * lora_rank, from the adapter (and its opt.*) in `adapter` where that is not NULL. */
    Trainer *(*open)(const Model *init, const Gguf *adapter, const TrainOptions *o);
    /* Adds the gradients of one micro-batch; returns the sum of its losses times scale. */
    double (*step)(Trainer *t, const uint32_t *tokens, int B, int T, float scale);
    /* The sum of the losses in nats, unscaled; gradients stay as they are. */
    double (*loss)(Trainer *t, const uint32_t *tokens, int B, int T);
    /* The norm of all gradients together; not finite: `bad` names the first tensor to blame. */
    double (*grad_norm)(Trainer *t, char bad[64]);
    /* AdamW update number `step` (1 is the first) with the gradients times `factor`, then zero. */
    void (*update)(Trainer *t, int64_t step, float lr, float factor);
    void (*zero)(Trainer *t); /* forget the gradients */
    /* All gradients as one run of numbers, for adding up over ranks. */
    float *(*gradients)(Trainer *t, size_t *n);
    /* The weights as an engine runs them, and with LoRA the adapter; updates change both. */
    const Model *(*model)(Trainer *t, const Lora **adapter);
    /* Writes the tensors (LoRA: the adapter), with AdamW's state or not; w NULL: rank 0 does. */
    void (*save)(Trainer *t, GgufWriter *w, const char *path, bool optimizer);
    void (*close)(Trainer *t);
    void (*ready)(Trainer *t); /* the next step is the last of an update; or NULL */
    /* Prints what memory all this takes. Makes nothing, needs no weights and no device. */
    void (*plan)(const Config *c, const TrainOptions *o);
} TrainerBackend;
extern const TrainerBackend cpu_trainer, cuda_trainer;

/* run.c: the next token from V logits, which it changes; see there. */
typedef struct {
    float temperature, top_p, min_p, repeat_penalty; /* 0, 1, 0, 1: always the likeliest token */
    int top_k, n_recent, recent[64];                 /* the last tokens chosen, for the penalty */
    uint64_t random;                                 /* state of the generator, not 0 */
} Sampler;
int sample(Sampler *s, float *logits, int n_vocab);

#ifdef __cplusplus
}
#endif

#include "engine.h" /* Batch, EngineOptions, EngineBackend */
#endif
