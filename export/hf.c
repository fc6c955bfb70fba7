/* hf.c: reading a Hugging Face checkpoint: its files, safetensors, and the names of tensors.
 *
 * What to know first: a checkpoint is a directory. config.json tells the shape (hfconfig.c). The
 * weights are one file or several, and then an index says which tensor is in which file:
 *
 *     model.safetensors        or  model.safetensors.index.json   {"weight_map": {NAME: FILE, ...}}
 *     pytorch_model.bin        or  pytorch_model.bin.index.json   (read by torchzip.c)
 *
 * A safetensors file names its tensors in a JSON header, which the bytes follow without a gap:
 *
 *     header length u64 | {"NAME": {"dtype": "BF16", "shape": [out, in],
 *                                   "data_offsets": [begin, end]}, ...} spaces | bytes
 *
 * The rules are strict: every byte belongs to exactly one tensor, and every tensor is part of the
 * model. A bias that is silently left out would give a model that runs and is subtly wrong.
 * Test: tests/test_format.c, tests/badinput.py; against transformers: tests/test_run.py. */

#include "../json.h"
#include "export.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Names of tensors: GGUF's and Hugging Face's */

static const struct {
    const char *gguf, *hf;
} names[] = {
    { "token_embd", "model.embed_tokens" },
    { "attn_norm", "input_layernorm" },
    { "attn_q", "self_attn.q_proj" },
    { "attn_k", "self_attn.k_proj" },
    { "attn_v", "self_attn.v_proj" },
    { "attn_output", "self_attn.o_proj" },
    { "ffn_norm", "post_attention_layernorm" },
    { "ffn_gate", "mlp.gate_proj" },
    { "ffn_up", "mlp.up_proj" },
    { "ffn_down", "mlp.down_proj" },
    { "output_norm", "model.norm" },
    { "output", "lm_head" },
};

/* blk.7.attn_q.weight -> model.layers.7.self_attn.q_proj.weight */
void hf_name(char *out, Str gguf_name) {
    char name[64], *part = name;
    long layer = -1;
    snprintf(name, sizeof name, "%.*s", STR(gguf_name));
    if (!strncmp(name, "blk.", 4)) layer = strtol(name + 4, &part, 10), part++;
    *strrchr(part, '.') = 0; /* every name ends in .weight */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i].gguf, part)) continue;
        if (layer < 0)
            snprintf(out, 96, "%s.weight", names[i].hf);
        else
            snprintf(out, 96, "model.layers.%ld.%s.weight", layer, names[i].hf);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. safetensors */

static const struct {
    const char *name;
    uint32_t type, bytes;
} dtypes[] = {
    { "F32", T_F32, 4 },       { "F16", T_F16, 2 },       { "BF16", T_BF16, 2 },
    { "I8", 24, 1 },           { "I16", 25, 2 },          { "I32", 26, 4 },
    { "I64", 27, 8 },          { "F64", 28, 8 },          { "BOOL", T_COUNT, 1 },
    { "U8", T_COUNT, 1 },      { "U16", T_COUNT, 2 },     { "U32", T_COUNT, 4 },
    { "U64", T_COUNT, 8 },     { "F8_E5M2", T_COUNT, 1 }, { "F8_E4M3", T_COUNT, 1 },
    { "F8_E8M0", T_COUNT, 1 }, { "C64", T_COUNT, 8 },
};

/* A tensor of the header: where its bytes are, relative to the end of the header. */
typedef struct {
    int64_t begin, end;
    Tensor t;
} Entry;

/* Reads {"dtype":, "shape":, "data_offsets":} and checks that they agree with each other. */
static bool entry_read(Entry *out, const Json *j, int64_t room, Error *e) {
    const Json *shape, *offsets;
    Str dtype = str_of("");
    uint64_t dim[2] = { 1, 1 }, bytes = 0;
    if (!json_str(j, "dtype", true, &dtype, e) ||
        !json_member(j, "shape", true, J_ARRAY, &shape, e) ||
        !json_member(j, "data_offsets", true, J_ARRAY, &offsets, e))
        return false;
    const Json *begin = json_first(offsets), *end = begin ? json_next(offsets, begin) : NULL;
    if (offsets->n != 2 || !begin->is_int || !end->is_int)
        return fail(e, "data_offsets: %u values, expected two whole numbers", offsets->n);
    if (begin->integer < 0 || begin->integer > end->integer || end->integer > room)
        return fail(e,
                    "data_offsets: %lld to %lld, expected a part of the %lld bytes of data; "
                    "truncated download?",
                    (long long)begin->integer, (long long)end->integer, (long long)room);
    if (shape->n > 2) return fail(e, "%u dimensions, expected at most 2", shape->n);
    size_t i = 2 - shape->n;
    for (const Json *x = json_first(shape); x; x = json_next(shape, x)) {
        if (!x->is_int || x->integer < 0 || x->integer > INT32_MAX)
            return fail(e, "dimension %g, expected a whole number from 0 to %d", x->num, INT32_MAX);
        dim[i++] = (uint64_t)x->integer;
    }
    for (i = 0; i < sizeof dtypes / sizeof *dtypes && !str_is(dtype, dtypes[i].name); i++) {}
    if (i == sizeof dtypes / sizeof *dtypes) return fail(e, "dtype %.*s, unknown", STR(dtype));
    if (!mul_size(dim[0] * dim[1], dtypes[i].bytes, &bytes) ||
        bytes != (uint64_t)(end->integer - begin->integer))
        return fail(e, "%llu x %llu of %s in %lld bytes, expected as many as the shape takes",
                    (unsigned long long)dim[0], (unsigned long long)dim[1], dtypes[i].name,
                    (long long)(end->integer - begin->integer));
    out->begin = begin->integer;
    out->end = end->integer;
    out->t = (Tensor){ str_of(""), dtypes[i].type, (int)dim[0], (int)dim[1], NULL };
    return true;
}

static bool metadata_check(const Json *j, Error *e) {
    if (j->type != J_OBJECT)
        return fail(e, "__metadata__: %s, expected an object", json_type_name[j->type]);
    for (const Json *x = json_first(j); x; x = json_next(j, x))
        if (x->type != J_STRING)
            return fail(e, "__metadata__: %s as %.*s, expected strings only",
                        json_type_name[x->type], STR(x->key));
    return true;
}

static int entry_cmp(const void *a, const void *b) { /* by begin; an empty tensor comes first */
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Fills entry[] (*n of them) from the header and checks that the tensors, put in order, cover the
 * data exactly: bytes that belong to two tensors or to none have no business in a checkpoint. */
static bool entries_read(Entry *entry, size_t *n, const Json *root, int64_t room, Arena *a,
                         Error *e) {
    int64_t end = 0;
    for (const Json *j = json_first(root); j; j = json_next(root, j)) {
        if (str_is(j->key, "__metadata__")) {
            if (!metadata_check(j, e)) return false;
            continue;
        }
        if (!entry_read(&entry[*n], j, room, e)) {
            Error inner = *e;
            return fail(e, "tensor %.*s: %s", STR(j->key), inner.text);
        }
        entry[(*n)++].t.name = arena_copy(a, j->key.s, j->key.n);
    }
    qsort(entry, *n, sizeof *entry, entry_cmp);
    for (size_t i = 0; i < *n; i++) {
        if (entry[i].begin != end)
            return fail(e, "tensor %.*s: begins at %lld, expected %lld, where the one before ends",
                        STR(entry[i].t.name), (long long)entry[i].begin, (long long)end);
        end = entry[i].end;
    }
    return end == room || fail(e, "%lld bytes of tensors, expected %lld as the file has",
                               (long long)end, (long long)room);
}

bool safetensors_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e) {
    uint64_t n = 0;
    JsonDoc doc = { 0 };
    if (size >= 10 && !memcmp(data, "version ht", 10))
        return fail(e, "a Git LFS pointer, expected the tensors themselves; run git lfs pull");
    if (size < 8) return fail(e, "file of %zu bytes, expected a header length of 8", size);
    memcpy(&n, data, 8);
    if (n > 100000000 || n > size - 8)
        return fail(e, "header of %llu bytes, expected at most 100 MB and the file's %zu",
                    (unsigned long long)n, size - 8);
    const char *text = (const char *)data + 8;
    size_t used = n;
    while (used && text[used - 1] == ' ') used--;
    if (!used || text[0] != '{' || text[used - 1] != '}')
        return fail(e, "header is not one JSON object, expected {...} and spaces behind it");
    if (!json_parse(&doc, text, used, e)) return fail_in(e, "header");
    size_t n_entries = 0;
    Entry *entry = xcalloc(doc.node->n, sizeof *entry, "safetensors header");
    bool ok = entries_read(entry, &n_entries, doc.node, (int64_t)(size - 8 - n), a, e);
    for (size_t i = 0; ok && i < n_entries; i++) {
        entry[i].t.data = data + 8 + n + entry[i].begin;
        tensor_list_add(l, entry[i].t);
    }
    free(entry);
    json_free(&doc);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 3. The tensors of a model among those of the files */

/* Buffers that old checkpoints carry along and that follow from config.json. */
static bool is_buffer(Str name) {
    static const char end[] = "rotary_emb.inv_freq";
    size_t n = sizeof end - 1;
    return name.n >= n && !memcmp(name.s + name.n - n, end, n);
}

static bool bind_one(Tensor *out, const Tensor *t, const TensorSpec *spec, const char *name,
                     Error *e) {
    if (!t) return fail(e, "tensor %s: missing, expected %d x %d", name, spec->rows, spec->cols);
    if (t->type != T_F32 && t->type != T_F16 && t->type != T_BF16)
        return fail(e, "tensor %s: numbers of type %s, expected f32, f16 or bf16", name,
                    type_name(t->type));
    if (t->rows != spec->rows || t->cols != spec->cols)
        return fail(e, "tensor %s: shape %d x %d, expected %d x %d from config.json", name, t->rows,
                    t->cols, spec->rows, spec->cols);
    *out = *t;
    return true;
}

/* A tied model's head is its embedding. A file may store it once more; a different one would be
 * silently dropped by transformers, and whoever trained it should know. */
static bool check_tied(const Tensor *head, const Tensor *embedding, Error *e) {
    if (head->type == embedding->type && head->rows == embedding->rows &&
        head->cols == embedding->cols && !memcmp(head->data, embedding->data, tensor_bytes(head)))
        return true;
    return fail(e, "tensor lm_head.weight: differs from model.embed_tokens.weight, expected the "
                   "same numbers because config.json says tie_word_embeddings; set that to false "
                   "to keep this head");
}

/* Fills s->tensor from the list. */
static bool bind_all(Source *s, const Str **index, const TensorList *l, Error *e) {
    TensorSpec *spec = tensor_specs(&s->config, &s->n_tensors);
    s->tensor = xcalloc((size_t)s->n_tensors, sizeof *s->tensor, "tensors");
    bool ok = true;
    for (int i = 0; ok && i < s->n_tensors; i++) {
        char name[96] = "";
        hf_name(name, str_of(spec[i].name));
        const Tensor *t = name_find(index, l->n, str_of(name));
        ok = bind_one(&s->tensor[i], t, &spec[i], name, e);
        s->tensor[i].name = arena_copy(&s->arena, spec[i].name, strlen(spec[i].name));
    }
    const Tensor *head = name_find(index, l->n, str_of("lm_head.weight"));
    if (ok && s->config.tied && head) ok = check_tied(head, &s->tensor[0], e);
    free(spec);
    return ok;
}

/* Names the first tensor of the list that is no part of the model, such as a bias. */
static bool refuse_unknown(const Source *s, const TensorList *l, Error *e) {
    for (size_t i = 0; i < l->n; i++) {
        const Str name = l->tensor[i].name;
        bool known = is_buffer(name) || (s->config.tied && str_is(name, "lm_head.weight"));
        for (int k = 0; k < s->n_tensors && !known; k++) {
            char hf[96] = "";
            hf_name(hf, s->tensor[k].name);
            known = str_is(name, hf);
        }
        if (!known)
            return fail(e, "tensor %.*s: not part of a Llama model, expected only known ones",
                        STR(name));
    }
    return true;
}

static bool source_bind_hf(Source *s, const TensorList *l, Error *e) {
    const Str **index = NULL;
    bool ok = name_index(&index, l->tensor, l->n, sizeof *l->tensor, "tensor", e) &&
              bind_all(s, index, l, e) && refuse_unknown(s, l, e);
    free((void *)index);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 4. The directory */

static char *join(Arena *a, const char *dir, const char *file) {
    size_t n = strlen(dir) + strlen(file) + 2;
    char *path = arena_alloc(a, n, 1, "path");
    snprintf(path, n, "%s/%s", dir, file);
    return path;
}

/* Maps one file of weights and lists its tensors. */
static bool read_weights(Source *s, TensorList *l, const char *path, bool safe, Error *e) {
    Map m;
    if (!source_map(s, path, &m, e)) return false;
    bool ok = safe ? safetensors_parse(l, &s->arena, m.data, m.size, e)
                   : torchzip_parse(l, &s->arena, m.data, m.size, e);
    return ok || fail_in(e, path);
}

/* The files that an index names, and how many tensors the list had before each. There are fewer
 * than MAX_FILES: source_map counts them together with the index. */
typedef struct {
    Str name[MAX_FILES];
    size_t first[MAX_FILES + 1];
    int n;
} Shards;

static int find_shard(const Shards *f, Str name) { /* f->n: not there yet */
    int i = 0;
    while (i < f->n && str_cmp(name, f->name[i])) i++;
    return i;
}

/* Every tensor that the index names must have come out of the file it names; more may be there. */
static bool check_index(const TensorList *l, const Shards *f, const Json *map, Error *e) {
    const Str **index = NULL;
    bool ok = name_index(&index, l->tensor, l->n, sizeof *l->tensor, "tensor", e);
    for (const Json *j = json_first(map); ok && j; j = json_next(map, j)) {
        const Tensor *t = name_find(index, l->n, j->key);
        int i = find_shard(f, j->str);
        if (!t || t < l->tensor + f->first[i] || t >= l->tensor + f->first[i + 1])
            ok = fail(e, "weight_map: tensor %.*s is %s, expected in %.*s", STR(j->key),
                      t ? "in another file" : "missing", STR(j->str));
    }
    free((void *)index);
    return ok;
}

/* Reads each file that the index names, once. Messages about the files name them in front. */
static bool read_shards(Source *s, TensorList *l, Shards *f, const char *dir, const Json *map,
                        bool safe, Error *e) {
    for (const Json *j = json_first(map); j; j = json_next(map, j)) {
        if (j->type != J_STRING || !j->str.n || memchr(j->str.s, 0, j->str.n) ||
            memchr(j->str.s, '/', j->str.n))
            return fail(e, "%s: weight_map: %.*s in '%.*s', expected a file of that directory", dir,
                        STR(j->key), STR(j->str));
        if (find_shard(f, j->str) < f->n) continue;
        f->name[f->n] = arena_copy(&s->arena, j->str.s, j->str.n);
        f->first[f->n] = l->n;
        const char *path = join(&s->arena, dir, f->name[f->n].s);
        if (!read_weights(s, l, path, safe, e)) return false;
        f->first[++f->n] = l->n;
    }
    return true;
}

static bool read_index(Source *s, TensorList *l, const char *dir, const char *path, bool safe,
                       Error *e) {
    Map m;
    JsonDoc doc = { 0 };
    const Json *map;
    Shards f = { .n = 0 };
    if (!source_map(s, path, &m, e)) return false;
    bool ok = (json_parse(&doc, (const char *)m.data, m.size, e) &&
               json_member(doc.node, "weight_map", true, J_OBJECT, &map, e)) ||
              fail_in(e, path);
    ok = ok && read_shards(s, l, &f, dir, map, safe, e);
    ok = ok && (check_index(l, &f, map, e) || fail_in(e, path));
    json_free(&doc);
    return ok;
}

/* The weights: safetensors before PyTorch's format where a directory has both, as transformers. */
static bool read_all_weights(Source *s, TensorList *l, const char *dir, Error *e) {
    static const char *const name[] = { "model.safetensors", "model.safetensors.index.json",
                                        "pytorch_model.bin", "pytorch_model.bin.index.json" };
    for (int i = 0; i < 4; i++) {
        const char *path = join(&s->arena, dir, name[i]);
        if (access(path, F_OK)) continue;
        return i % 2 ? read_index(s, l, dir, path, i < 2, e) : read_weights(s, l, path, i < 2, e);
    }
    return fail(e, "%s: no weights, expected %s, %s, or the same of %s", dir, name[0], name[1],
                name[2]);
}

bool source_open_hf(Source *s, const char *dir, Error *e) {
    Map m;
    TensorList l = { 0 };
    const char *path = join(&s->arena, dir, "config.json");
    if (!source_map(s, path, &m, e)) return false;
    if (!config_json_parse(&s->config, (const char *)m.data, m.size, e)) return fail_in(e, path);
    s->halves = true;
    bool ok = read_all_weights(s, &l, dir, e) && (source_bind_hf(s, &l, e) || fail_in(e, dir)) &&
              vocab_from_hf(s, dir, e);
    free(l.tensor);
    return ok;
}
