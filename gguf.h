/* gguf.h: GGUF version 3, the file format of a model: storage types, the only reader, the only
 * writer.
 *
 * What to know first: a GGUF file is a list of named values (hyperparameters, tokenizer) followed
 * by a list of named tensors. The reader checks every count, offset and length against the bytes
 * that are there and then only points into the mapped file; nothing is copied. What the values
 * mean for a language model stands in opencoder.h.
 *
 * Sections: 1 storage types, 2 reading, 3 typed access to keys, 4 writing.
 * Format: docs/gguf.md of the ggml project. Test: tests/test_format.c, tests/badinput.py. */
#ifndef OC_GGUF_H
#define OC_GGUF_H

#include "files.h" /* Error, Str, Map, Cursor, OutFile */

/* ------------------------------------------------------------------------------------------------
 * 1. Storage types: a tensor's row is a run of blocks; a block holds `block` numbers in `bytes`
 * bytes. The numbers of the types are GGML's, as they stand in GGUF files. */

enum {
    T_F32 = 0,
    T_F16 = 1,
    T_Q4_0 = 2,
    T_Q4_1 = 3,
    T_Q5_0 = 6,
    T_Q5_1 = 7,
    T_Q8_0 = 8,
    T_Q4_K = 12,
    T_Q5_K = 13,
    T_Q6_K = 14,
    T_IQ4_NL = 20,
    T_BF16 = 30,
    T_COUNT = 40
};

typedef struct {
    const char *name;
    int block, bytes;
} TypeInfo; /* block 0: known, not supported */

OC_API const TypeInfo *type_info(uint32_t type) {
    static const TypeInfo table[T_COUNT] = {
        { "f32", 1, 4 },        { "f16", 1, 2 },        { "q4_0", 32, 18 },
        { "q4_1", 32, 20 },     { "q4_2", 0, 0 },       { "q4_3", 0, 0 },
        { "q5_0", 32, 22 },     { "q5_1", 32, 24 },     { "q8_0", 32, 34 },
        { "q8_1", 0, 0 },       { "q2_k", 0, 0 },       { "q3_k", 0, 0 },
        { "q4_k", 256, 144 },   { "q5_k", 256, 176 },   { "q6_k", 256, 210 },
        { "q8_k", 0, 0 },       { "iq2_xxs", 0, 0 },    { "iq2_xs", 0, 0 },
        { "iq3_xxs", 0, 0 },    { "iq1_s", 0, 0 },      { "iq4_nl", 32, 18 },
        { "iq3_s", 0, 0 },      { "iq2_s", 0, 0 },      { "iq4_xs", 0, 0 },
        { "i8", 0, 0 },         { "i16", 0, 0 },        { "i32", 0, 0 },
        { "i64", 0, 0 },        { "f64", 0, 0 },        { "iq1_m", 0, 0 },
        { "bf16", 1, 2 },       { "q4_0_4_4", 0, 0 },   { "q4_0_4_8", 0, 0 },
        { "q4_0_8_8", 0, 0 },   { "tq1_0", 0, 0 },      { "tq2_0", 0, 0 },
        { "iq4_nl_4_4", 0, 0 }, { "iq4_nl_4_8", 0, 0 }, { "iq4_nl_8_8", 0, 0 },
        { "mxfp4", 0, 0 },
    };
    return type < T_COUNT ? &table[type] : NULL;
}

OC_API const char *type_name(uint32_t type) {
    return type < T_COUNT ? type_info(type)->name : "unknown";
}

/* A matrix as stored: `rows` rows of `cols` numbers, row-major, of storage type `type`. */
typedef struct {
    Str name;
    uint32_t type;
    int rows, cols;
    const uint8_t *data;
} Tensor;

OC_API size_t row_bytes(uint32_t type, size_t cols) {
    const TypeInfo *t = type_info(type);
    return cols / (size_t)t->block * (size_t)t->bytes;
}
OC_API size_t tensor_bytes(const Tensor *t) {
    return (size_t)t->rows * row_bytes(t->type, (size_t)t->cols);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Reading
 *
 *   "GGUF" | version u32 | number of tensors u64 | number of keys u64
 *   keys:     name (u64 length, bytes) | value type u32 | value (arrays: item type, count, items)
 *   tensors:  name | n_dims u32 | dimensions u64, fastest first | type u32 | offset u64
 *   padding to `general.alignment` (32) | tensor data, every tensor aligned the same way */

enum {
    GV_U8,
    GV_I8,
    GV_U16,
    GV_I16,
    GV_U32,
    GV_I32,
    GV_F32,
    GV_BOOL,
    GV_STR,
    GV_ARRAY,
    GV_U64,
    GV_I64,
    GV_F64,
    GV_COUNT
};
static const uint8_t gv_size[GV_COUNT] OC_UNUSED = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
static const char *const gv_name[GV_COUNT] OC_UNUSED = { "u8",  "i8",  "u16",  "i16",    "u32",
                                                         "i32", "f32", "bool", "string", "array",
                                                         "u64", "i64", "f64" };

/* One metadata key. data: the value's bytes, unaligned; for strings the text, for arrays the
 * items. */
typedef struct {
    Str name;
    uint32_t type, item;
    uint64_t count;
    const uint8_t *data;
    size_t bytes;
} GgufKey;

typedef struct {
    const uint8_t *base;
    size_t size, data_start; /* tensor data begins at base + data_start */
    GgufKey *key;            /* n_keys, in file order */
    Tensor *tensor;          /* n_tensors, in file order */
    uint64_t n_keys, n_tensors;
    const Str **key_index, **tensor_index; /* the same things sorted by name */
    uint32_t alignment;
} Gguf;

OC_API int name_cmp(const void *a, const void *b) {
    return str_cmp(**(Str *const *)a, **(Str *const *)b);
}

/* Sorts pointers to the names that open n structs of `size` bytes; fails on a name seen twice. */
OC_API bool name_index(const Str ***index, void *things, uint64_t n, size_t size, const char *what,
                       Error *e) {
    *index = (const Str **)xcalloc(n, sizeof **index, "index of names");
    for (uint64_t i = 0; i < n; i++) (*index)[i] = (const Str *)((char *)things + i * size);
    qsort((void *)*index, n, sizeof **index, name_cmp);
    for (uint64_t i = 1; i < n; i++)
        if (!str_cmp(*(*index)[i - 1], *(*index)[i]))
            return fail(e, "%s %.*s: found twice, expected once", what, STR(*(*index)[i]));
    return true;
}

OC_API const void *name_find(const Str **index, uint64_t n, Str name) {
    const Str *want = &name;
    void *hit = n ? bsearch(&want, (void *)index, n, sizeof *index, name_cmp) : NULL;
    return hit ? *(const void **)hit : NULL;
}

OC_API const GgufKey *gguf_key(const Gguf *g, const char *name) {
    return (const GgufKey *)name_find(g->key_index, g->n_keys, str_of(name));
}
OC_API const Tensor *gguf_tensor(const Gguf *g, const char *name) {
    return (const Tensor *)name_find(g->tensor_index, g->n_tensors, str_of(name));
}

OC_API bool gguf_take_str(Cursor *c, Str *s) {
    uint64_t n;
    if (!take(c, &n, 8)) return false;
    s->s = (const char *)take_bytes(c, n);
    s->n = n;
    return s->s != NULL;
}

OC_API bool gguf_parse_key(Cursor *c, GgufKey *k, uint64_t i, Error *e) {
    const char *cut = "key %llu (%.*s): runs past the end of the file";
    k->name = str_of("name");
    if (!gguf_take_str(c, &k->name)) return fail(e, cut, (unsigned long long)i, STR(k->name));
    if (k->name.n == 0 || k->name.n > 65535)
        return fail(e, "key %llu: name of %zu bytes, expected 1 to 65535", (unsigned long long)i,
                    k->name.n);
    if (!take(c, &k->type, 4)) return fail(e, cut, (unsigned long long)i, STR(k->name));
    k->item = k->type;
    k->count = 1;
    if (k->type == GV_ARRAY && (!take(c, &k->item, 4) || !take(c, &k->count, 8)))
        return fail(e, cut, (unsigned long long)i, STR(k->name));
    if (k->item >= GV_COUNT || k->item == GV_ARRAY)
        return fail(e, "key %.*s: value type %u, expected 0 to 12 and no arrays of arrays",
                    STR(k->name), k->item);
    k->data = c->p;
    if (k->item == GV_STR) {
        Str s = { NULL, 0 };
        for (uint64_t j = 0; j < k->count; j++)
            if (!gguf_take_str(c, &s))
                return fail(e, "key %.*s: string %llu of %llu runs past the end of the file",
                            STR(k->name), (unsigned long long)j, (unsigned long long)k->count);
        if (k->type == GV_STR) k->data = (const uint8_t *)s.s; /* the text without its length */
    } else {
        uint64_t bytes;
        if (!mul_size(k->count, gv_size[k->item], &bytes) || !take_bytes(c, bytes))
            return fail(e, "key %.*s: %llu x %s runs past the end of the file", STR(k->name),
                        (unsigned long long)k->count, gv_name[k->item]);
    }
    k->bytes = (size_t)(c->p - k->data);
    return true;
}

/* Reads one tensor's entry; *offset is relative to the start of the data, checked by gguf_place. */
OC_API bool gguf_parse_tensor(Cursor *c, Tensor *t, uint64_t *offset, uint64_t i, Error *e) {
    uint32_t n_dims;
    uint64_t dim[2] = { 1, 1 };
    t->name = str_of("name");
    if (!gguf_take_str(c, &t->name) || !take(c, &n_dims, 4))
        return fail(e, "tensor %llu (%.*s): runs past the end of the file", (unsigned long long)i,
                    STR(t->name));
    if (t->name.n == 0 || t->name.n > 64)
        return fail(e, "tensor %llu: name of %zu bytes, expected 1 to 64", (unsigned long long)i,
                    t->name.n);
    if (n_dims < 1 || n_dims > 2)
        return fail(e, "tensor %.*s: %u dimensions, expected 1 or 2", STR(t->name), n_dims);
    if (!take(c, dim, 8 * n_dims) || !take(c, &t->type, 4) || !take(c, offset, 8))
        return fail(e, "tensor %.*s: its entry runs past the end of the file", STR(t->name));
    if (dim[0] < 1 || dim[0] > INT32_MAX || dim[1] < 1 || dim[1] > INT32_MAX)
        return fail(e, "tensor %.*s: shape %llu x %llu, expected 1 to %d each", STR(t->name),
                    (unsigned long long)dim[1], (unsigned long long)dim[0], INT32_MAX);
    const TypeInfo *info = type_info(t->type);
    if (!info || !info->block)
        return fail(
            e,
            "tensor %.*s: storage type %s (%u), expected f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 "
            "q4_k q5_k q6_k iq4_nl",
            STR(t->name), type_name(t->type), t->type);
    if (dim[0] % (uint64_t)info->block)
        return fail(e, "tensor %.*s: rows of %llu numbers, expected a multiple of %d for %s",
                    STR(t->name), (unsigned long long)dim[0], info->block, info->name);
    t->cols = (int)dim[0];
    t->rows = (int)dim[1];
    return true;
}

/* Turns the tensors' offsets into pointers: aligned, in file order, not overlapping, inside the
 * file. */
OC_API bool gguf_place(Gguf *g, const uint64_t *offset, Error *e) {
    uint64_t end = 0, room = g->size - g->data_start;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        Tensor *t = &g->tensor[i];
        uint64_t bytes, stop;
        if (!mul_size(row_bytes(t->type, (size_t)t->cols), (uint64_t)t->rows, &bytes) ||
            !add_size(offset[i], bytes, &stop) || stop > room)
            return fail(
                e,
                "tensor %.*s: offset %llu + %d x %d of %s, but the file has %llu bytes of data; "
                "truncated download?",
                STR(t->name), (unsigned long long)offset[i], t->rows, t->cols, type_name(t->type),
                (unsigned long long)room);
        if (offset[i] % g->alignment)
            return fail(e, "tensor %.*s: offset %llu, expected a multiple of the alignment %u",
                        STR(t->name), (unsigned long long)offset[i], g->alignment);
        if (offset[i] < end)
            return fail(
                e, "tensor %.*s: offset %llu, overlaps the tensor before it, which ends at %llu",
                STR(t->name), (unsigned long long)offset[i], (unsigned long long)end);
        t->data = g->base + g->data_start + offset[i];
        end = stop;
    }
    return true;
}

OC_API bool gguf_parse_magic(Cursor *c, Gguf *g, Error *e) {
    char magic[4];
    uint32_t version;
    if (g->size >= 10 && !memcmp(g->base, "version ht", 10))
        return fail(e, "a Git LFS pointer, expected the model itself; run git lfs pull");
    if (!take(c, magic, 4) || memcmp(magic, "GGUF", 4))
        return fail(
            e, "does not start with \"GGUF\", expected a GGUF model file; ./convert makes one");
    if (!take(c, &version, 4)) return fail(e, "file of %zu bytes ends within the header", g->size);
    if (version == 0x03000000u || version == 0x02000000u)
        return fail(e, "GGUF version bytes are swapped: a big-endian file, expected little-endian");
    if (version != 3 && version != 2) return fail(e, "GGUF version %u, expected 3 (or 2)", version);
    if (!take(c, &g->n_tensors, 8) || !take(c, &g->n_keys, 8))
        return fail(e, "file of %zu bytes ends within the header", g->size);
    /* An entry takes at least 13 (key) or 32 (tensor) bytes: counts beyond that are lies. */
    if (g->n_keys > g->size / 13 || g->n_tensors > g->size / 32 || g->n_keys > 1 << 20 ||
        g->n_tensors > 1 << 20)
        return fail(e, "%llu keys and %llu tensors, more than a file of %zu bytes can hold",
                    (unsigned long long)g->n_keys, (unsigned long long)g->n_tensors, g->size);
    return true;
}

OC_API void gguf_free(Gguf *g) {
    free(g->key);
    free(g->tensor);
    free((void *)g->key_index);
    free((void *)g->tensor_index);
    memset(g, 0, sizeof *g);
}

/* Parses a whole GGUF file held in (data, size). On success g refers to those bytes and is
 * released by gguf_free; on failure e says what is wrong and g is already empty. */
OC_API bool gguf_parse(Gguf *g, const uint8_t *data, size_t size, Error *e) {
    memset(g, 0, sizeof *g);
    g->base = data;
    g->size = size;
    g->alignment = 32;
    Cursor c = { data, data + size };
    if (!gguf_parse_magic(&c, g, e)) return false;
    g->key = (GgufKey *)xcalloc(g->n_keys, sizeof *g->key, "GGUF keys");
    g->tensor = (Tensor *)xcalloc(g->n_tensors, sizeof *g->tensor, "GGUF tensors");
    uint64_t *offset = (uint64_t *)xcalloc(g->n_tensors, sizeof *offset, "GGUF tensor offsets");
    bool ok = true;
    for (uint64_t i = 0; ok && i < g->n_keys; i++) ok = gguf_parse_key(&c, &g->key[i], i, e);
    ok = ok && name_index(&g->key_index, g->key, g->n_keys, sizeof *g->key, "key", e);
    const GgufKey *align = ok ? gguf_key(g, "general.alignment") : NULL;
    if (align) {
        if (align->type == GV_U32) memcpy(&g->alignment, align->data, 4);
        if (align->type != GV_U32 || g->alignment < 8 || g->alignment > 65536 ||
            (g->alignment & (g->alignment - 1)))
            ok = fail(e, "key general.alignment: %u, expected a u32 power of two from 8 to 65536",
                      g->alignment);
    }
    for (uint64_t i = 0; ok && i < g->n_tensors; i++)
        ok = gguf_parse_tensor(&c, &g->tensor[i], &offset[i], i, e);
    ok =
        ok && name_index(&g->tensor_index, g->tensor, g->n_tensors, sizeof *g->tensor, "tensor", e);
    if (ok) {
        uint64_t header = (uint64_t)(c.p - data), pad = -header & (g->alignment - 1);
        if (pad > size - header && g->n_tensors)
            ok =
                fail(e, "file of %zu bytes ends before its tensor data; truncated download?", size);
        g->data_start = pad > size - header ? size : header + pad;
    }
    ok = ok && gguf_place(g, offset, e);
    free(offset);
    if (!ok) gguf_free(g);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Typed access to keys. Each leaves *out alone when the key is absent, unless it is required. */
OC_API bool gguf_int(const Gguf *g, const char *name, bool required, int64_t min, int64_t max,
                     int *out, Error *e) {
    const GgufKey *k = gguf_key(g, name);
    if (!k) return required ? fail(e, "key %s: missing, expected a whole number", name) : true;
    uint64_t u = 0;
    int64_t v;
    if (k->type > GV_I32 && k->type != GV_U64 && k->type != GV_I64)
        return fail(e, "key %s: a value of type %s, expected a whole number", name,
                    gv_name[k->type]);
    memcpy(&u, k->data, gv_size[k->type]);
    v = k->type == GV_I8    ? (int8_t)u
        : k->type == GV_I16 ? (int16_t)u
        : k->type == GV_I32 ? (int32_t)u
                            : (int64_t)u;
    if (v < min || v > max)
        return fail(e, "key %s: %lld, expected %lld to %lld", name, (long long)v, (long long)min,
                    (long long)max);
    *out = (int)v;
    return true;
}

OC_API bool gguf_float(const Gguf *g, const char *name, bool required, float *out, Error *e) {
    const GgufKey *k = gguf_key(g, name);
    if (!k) return required ? fail(e, "key %s: missing, expected an f32", name) : true;
    if (k->type != GV_F32) return fail(e, "key %s: not of type f32", name);
    memcpy(out, k->data, 4);
    if (!isfinite(*out) || *out <= 0)
        return fail(e, "key %s: %g, expected a finite number above 0", name, (double)*out);
    return true;
}

OC_API bool gguf_bool(const Gguf *g, const char *name, bool *out, Error *e) {
    const GgufKey *k = gguf_key(g, name);
    if (!k) return true;
    if (k->type != GV_BOOL || *k->data > 1)
        return fail(e, "key %s: expected a bool (0 or 1)", name);
    *out = *k->data;
    return true;
}

OC_API bool gguf_str(const Gguf *g, const char *name, Str *out, Error *e) {
    const GgufKey *k = gguf_key(g, name);
    if (!k) return true;
    if (k->type != GV_STR) return fail(e, "key %s: expected a string", name);
    out->s = (const char *)k->data;
    out->n = k->bytes;
    return true;
}

/* An array key of the given item type with exactly `count` items (count 0: any); NULL in *out if
 * absent. */
OC_API bool gguf_array(const Gguf *g, const char *name, uint32_t item, uint64_t count,
                       const GgufKey **out, Error *e) {
    const GgufKey *k = *out = gguf_key(g, name);
    if (!k) return true;
    if (k->type != GV_ARRAY || k->item != item || (count && k->count != count))
        return fail(e, "key %s: %llu x %s, expected an array of %llu x %s", name,
                    (unsigned long long)k->count, gv_name[k->item], (unsigned long long)count,
                    gv_name[item]);
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 4. Writing: gguf_put_* for every key, gguf_add for every tensor, gguf_begin, gguf_write for the
 * tensors' bytes in the order of gguf_add, in pieces of any size, gguf_end. Two keys of our own are
 * added: opencoder.crc32c, a CRC32C per tensor in file order, and opencoder.crc32c.header, the
 * CRC32C of all bytes before the tensor data with its own four bytes taken as zero. */

typedef struct {
    OutFile out;
    Buf keys, entries; /* the two lists of the header, growing */
    uint64_t n_keys, n_tensors;
    uint64_t *bytes, at;          /* bytes per tensor; offset of the next one */
    uint32_t *crc;                /* CRC32C per tensor */
    uint64_t tensor, done;        /* the one being written, and how much of it is */
    size_t crc_at, header_crc_at; /* where the checksums stand in keys */
} GgufWriter;

OC_API void gguf_put_raw(GgufWriter *w, Str name, uint32_t type, const void *value, size_t bytes) {
    uint64_t n = name.n;
    buf_add(&w->keys, &n, 8);
    buf_add(&w->keys, name.s, name.n);
    buf_add(&w->keys, &type, 4);
    buf_add(&w->keys, value, bytes);
    w->n_keys++;
}
OC_API void gguf_put_u32(GgufWriter *w, const char *name, uint32_t v) {
    gguf_put_raw(w, str_of(name), GV_U32, &v, 4);
}
OC_API void gguf_put_f32(GgufWriter *w, const char *name, float v) {
    gguf_put_raw(w, str_of(name), GV_F32, &v, 4);
}
OC_API void gguf_put_bool(GgufWriter *w, const char *name, bool v) {
    uint8_t byte = v;
    gguf_put_raw(w, str_of(name), GV_BOOL, &byte, 1);
}
OC_API void gguf_put_str(GgufWriter *w, const char *name, Str v) {
    uint64_t n = v.n;
    gguf_put_raw(w, str_of(name), GV_STR, &n, 8);
    buf_add(&w->keys, v.s, v.n);
}

/* An array of n items of a fixed-size type. */
OC_API void gguf_put_array(GgufWriter *w, const char *name, uint32_t item, uint64_t n,
                           const void *items) {
    gguf_put_raw(w, str_of(name), GV_ARRAY, &item, 4);
    buf_add(&w->keys, &n, 8);
    buf_add(&w->keys, items, (size_t)n * gv_size[item]);
}
OC_API void gguf_put_strings(GgufWriter *w, const char *name, uint64_t n, const Str *items) {
    uint32_t item = GV_STR;
    gguf_put_raw(w, str_of(name), GV_ARRAY, &item, 4);
    buf_add(&w->keys, &n, 8);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len = items[i].n;
        buf_add(&w->keys, &len, 8);
        buf_add(&w->keys, items[i].s, items[i].n);
    }
}

/* Copies a key of another file as it stands. */
OC_API void gguf_put_copy(GgufWriter *w, const GgufKey *k) {
    gguf_put_raw(w, k->name, k->type, NULL, 0);
    if (k->type == GV_ARRAY) {
        buf_add(&w->keys, &k->item, 4);
        buf_add(&w->keys, &k->count, 8);
    }
    uint64_t n = k->bytes;
    if (k->type == GV_STR) buf_add(&w->keys, &n, 8);
    buf_add(&w->keys, k->data, k->bytes);
}

/* Announces a tensor of n_dims dimensions; one of 1 has 1 row. */
OC_API void gguf_add_dims(GgufWriter *w, const char *name, uint32_t type, uint32_t n_dims, int rows,
                          int cols) {
    uint64_t n = strlen(name), dim[2] = { (uint64_t)cols, (uint64_t)rows };
    buf_add(&w->entries, &n, 8);
    buf_add(&w->entries, name, n);
    buf_add(&w->entries, &n_dims, 4);
    buf_add(&w->entries, dim, 8 * n_dims);
    buf_add(&w->entries, &type, 4);
    buf_add(&w->entries, &w->at, 8);
    w->bytes = (uint64_t *)xrealloc(w->bytes, w->n_tensors + 1, 8, "GGUF writer");
    w->bytes[w->n_tensors] = (uint64_t)rows * row_bytes(type, (size_t)cols);
    w->at += (w->bytes[w->n_tensors++] + 31) & ~(uint64_t)31;
}

/* Announces a tensor; rows = 1 is written as one dimension, as norms are. */
OC_API void gguf_add(GgufWriter *w, const char *name, uint32_t type, int rows, int cols) {
    gguf_add_dims(w, name, type, rows == 1 ? 1 : 2, rows, cols);
}

/* The same for what is a matrix even with one row, such as the lora_a of an adapter of rank 1. */
OC_API void gguf_add_matrix(GgufWriter *w, const char *name, uint32_t type, int rows, int cols) {
    gguf_add_dims(w, name, type, 2, rows, cols);
}

OC_API void gguf_begin(GgufWriter *w, const char *path) {
    static const uint8_t zero[32] = { 0 };
    uint64_t n_keys = w->n_keys + 2;
    uint32_t version = 3;
    w->crc = (uint32_t *)xcalloc(w->n_tensors, 4, "GGUF writer");
    gguf_put_array(w, "opencoder.crc32c", GV_U32, w->n_tensors, w->crc);
    w->crc_at = 24 + w->keys.n - 4 * w->n_tensors;
    gguf_put_u32(w, "opencoder.crc32c.header", 0);
    w->header_crc_at = 24 + w->keys.n - 4;
    out_open(&w->out, path);
    out_write(&w->out, "GGUF", 4);
    out_write(&w->out, &version, 4);
    out_write(&w->out, &w->n_tensors, 8);
    out_write(&w->out, &n_keys, 8);
    out_write(&w->out, w->keys.data, w->keys.n);
    out_write(&w->out, w->entries.data, w->entries.n);
    out_write(&w->out, zero, -w->out.pos & 31);
    w->tensor = w->done = 0;
}

OC_API void gguf_write(GgufWriter *w, const void *bytes, size_t n) {
    static const uint8_t zero[32] = { 0 };
    if (w->tensor >= w->n_tensors || n > w->bytes[w->tensor] - w->done)
        die("%s: more tensor data written than announced", w->out.path);
    out_write(&w->out, bytes, n);
    w->crc[w->tensor] = crc32c(w->crc[w->tensor], bytes, n);
    if ((w->done += n) < w->bytes[w->tensor]) return;
    out_write(&w->out, zero, -w->out.pos & 31);
    w->tensor++;
    w->done = 0;
}

/* Fills in the checksums, puts the file in its place and releases the writer. */
OC_API void gguf_end(GgufWriter *w) {
    if (w->tensor != w->n_tensors) die("%s: less tensor data written than announced", w->out.path);
    out_write_at(&w->out, w->crc_at, w->crc, 4 * w->n_tensors);
    memcpy(w->keys.data + w->crc_at - 24, w->crc, 4 * w->n_tensors);
    uint32_t version = 3, crc;
    static const uint8_t zero[32] = { 0 };
    crc = crc32c(0, "GGUF", 4);
    crc = crc32c(crc, &version, 4);
    crc = crc32c(crc, &w->n_tensors, 8);
    crc = crc32c(crc, &w->n_keys, 8);
    crc = crc32c(crc, w->keys.data, w->keys.n);
    crc = crc32c(crc, w->entries.data, w->entries.n);
    crc = crc32c(crc, zero, -(24 + w->keys.n + w->entries.n) & 31);
    out_write_at(&w->out, w->header_crc_at, &crc, 4);
    out_commit(&w->out);
    buf_free(&w->keys);
    buf_free(&w->entries);
    free(w->bytes);
    free(w->crc);
}

/* A file's own checksums count where they are its last two keys, as gguf_begin wrote them: programs
 * that rewrite a GGUF (llama-quantize) carry the keys along and put theirs behind. */
OC_API bool gguf_has_checksums(const Gguf *g) {
    return g->n_keys >= 2 && str_is(g->key[g->n_keys - 2].name, "opencoder.crc32c") &&
           str_is(g->key[g->n_keys - 1].name, "opencoder.crc32c.header");
}

/* Checks the header's own checksum, where the file has one (foreign files do not). */
OC_API bool gguf_check_header(const Gguf *g, Error *e) {
    const GgufKey *k = gguf_key(g, "opencoder.crc32c.header");
    if (!k != !gguf_key(g, "opencoder.crc32c")) /* a damaged name must not hide the checksums */
        return fail(e,
                    "opencoder.crc32c and opencoder.crc32c.header: one is missing, expected both");
    if (!gguf_has_checksums(g)) return true;
    if (k->type != GV_U32) return fail(e, "key opencoder.crc32c.header: expected a u32");
    uint32_t want, got, zero = 0;
    size_t at = (size_t)(k->data - g->base);
    memcpy(&want, k->data, 4);
    got = crc32c(0, g->base, at);
    got = crc32c(got, &zero, 4);
    got = crc32c(got, g->base + at + 4, g->data_start - at - 4);
    if (got == want) return true;
    return fail(e, "header: CRC32C %08x, expected %08x; the file is damaged", got, want);
}

/* Checks tensor i against its stored checksum and the padding behind it against zero. */
OC_API bool gguf_check_tensor(const Gguf *g, uint64_t i, Error *e) {
    const GgufKey *k;
    if (!gguf_has_checksums(g)) return true;
    if (!gguf_array(g, "opencoder.crc32c", GV_U32, g->n_tensors, &k, e)) return false;
    const Tensor *t = &g->tensor[i];
    const uint8_t *end = t->data + tensor_bytes(t), *stop = g->base + g->size;
    if (i + 1 < g->n_tensors) stop = g->tensor[i + 1].data;
    uint32_t want, got = crc32c(0, t->data, tensor_bytes(t));
    memcpy(&want, k->data + 4 * i, 4);
    if (got != want)
        return fail(e, "tensor %.*s: CRC32C %08x, expected %08x; the file is damaged", STR(t->name),
                    got, want);
    if (stop - end >= 32)
        return fail(e, "tensor %.*s: %td bytes follow it, expected padding of less than 32",
                    STR(t->name), stop - end);
    for (; end < stop; end++)
        if (*end) return fail(e, "tensor %.*s: padding is not zero", STR(t->name));
    return true;
}

#endif
