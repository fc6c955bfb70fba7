/* torchzip.c: pytorch_model*.bin, the file that torch.save writes: a zip archive with the tensors'
 * bytes and a pickle, read by unpickle.c, that says what they are.
 *
 * What to know first: an archive is read from the back. Its central directory has the names, sizes
 * and places of all entries; only where exactly an entry's bytes begin stands in front of them.
 * Nothing is decompressed: torch.save stores. The list of tensors points into the file.
 *
 *     +---------------------------+ <-+
 *     | local header, padding     |   |
 *     | NAME/data.pkl             |   |     NAME is the name under which the file was saved;
 *     +---------------------------+   |     data.pkl is the pickle
 *     | local header, padding     |   |
 *     | NAME/data/0               |   |     a storage's bytes, aligned to 64 by the padding
 *     +---------------------------+   |
 *     | ... NAME/byteorder        |   |     "little"
 *     +---------------------------+   |
 *     | central directory:        | --+     offsets of the local headers
 *     |   name, size, offset, ... | <-+
 *     +---------------------------+   |
 *     | ZIP64 end and its locator |   |     where 16 and 32 bits are not enough (torch: always)
 *     | end of central directory  | --+
 *     +---------------------------+
 *
 * Test: tests/test_format.c. */

#include "torch.h"

/* ------------------------------------------------------------------------------------------------
 * 1. The archive */

typedef struct {
    Str name;
    const uint8_t *data;
    uint64_t size;
} Entry;

typedef struct {
    const uint8_t *base;
    size_t size;
    uint64_t directory, directory_size, n; /* the central directory and its number of entries */
    Entry *entry;                          /* n, sorted by name through index */
    const Str **index;
} Zip;

/* ZIP64: the end record's fields are too narrow for big archives; where they are, they hold all
 * ones, and a locator just before the end record leads to a wider record. */
static bool zip_wide_end(Zip *z, size_t end, Error *e) {
    if (end < 20 || little_endian(z->base + end - 20, 4) != 0x07064b50)
        return true; /* an old archive */
    uint64_t at = little_endian(z->base + end - 12, 8);
    if (at > end - 20 || end - 20 - at < 56 || little_endian(z->base + at, 4) != 0x06064b50)
        return fail(e, "zip: ZIP64 end record at byte %llu, expected one before byte %zu",
                    (unsigned long long)at, end - 20);
    z->n = little_endian(z->base + at + 32, 8);
    z->directory_size = little_endian(z->base + at + 40, 8);
    z->directory = little_endian(z->base + at + 48, 8);
    return true;
}

/* Finds the end record: the last 22 bytes, or earlier by the length of a comment. */
static bool zip_end(Zip *z, Error *e) {
    size_t comment = 0;
    if (z->size < 22) return fail(e, "zip: %zu bytes, too short for an archive", z->size);
    for (;; comment++) {
        const uint8_t *p = z->base + z->size - 22 - comment;
        if (little_endian(p, 4) == 0x06054b50 && little_endian(p + 20, 2) == comment) break;
        if (comment == 65535 || comment == z->size - 22)
            return fail(e, "zip: no end of central directory; truncated download?");
    }
    size_t end = z->size - 22 - comment;
    const uint8_t *p = z->base + end;
    z->n = little_endian(p + 10, 2);
    z->directory_size = little_endian(p + 12, 4);
    z->directory = little_endian(p + 16, 4);
    if (!zip_wide_end(z, end, e)) return false;
    if (z->directory > end || z->directory_size > end - z->directory)
        return fail(e, "zip: central directory at byte %llu, %llu bytes, expected it before %zu",
                    (unsigned long long)z->directory, (unsigned long long)z->directory_size, end);
    if (z->n > z->directory_size / 46)
        return fail(e, "zip: %llu entries, more than a directory of %llu bytes can hold",
                    (unsigned long long)z->n, (unsigned long long)z->directory_size);
    return true;
}

/* The ZIP64 extra field replaces, in this order, those of the sizes and the offset that do not fit
 * into 32 bits. Extra fields are a list of: id u16, length u16, bytes. */
static bool zip_wide_entry(Cursor extra, uint64_t *full, uint64_t *stored, uint64_t *at) {
    uint64_t *wide[] = { full, stored, at };
    uint8_t head[4];
    while (take(&extra, head, 4)) {
        size_t n = little_endian(head + 2, 2);
        const uint8_t *p = take_bytes(&extra, n);
        if (!p) return false;
        if (little_endian(head, 2) != 1) continue;
        for (int i = 0; i < 3; i++) {
            if (*wide[i] != 0xFFFFFFFF) continue;
            if (n < 8) return false;
            *wide[i] = little_endian(p, 8);
            p += 8;
            n -= 8;
        }
    }
    return true;
}

/* Where an entry's bytes begin is said only by its local header, whose extra field (torch.save
 * pads there, to align the tensors) differs from the central one. */
static bool zip_place(const Zip *z, Entry *f, uint64_t at, Error *e) {
    if (at > z->directory || z->directory - at < 30 || little_endian(z->base + at, 4) != 0x04034b50)
        return fail(e, "zip entry %.*s: no local header at byte %llu", STR(f->name),
                    (unsigned long long)at);
    const uint8_t *head = z->base + at;
    uint64_t name = little_endian(head + 26, 2), extra = little_endian(head + 28, 2);
    uint64_t room = z->directory - at - 30;
    if (name != f->name.n || name > room || memcmp(head + 30, f->name.s, name))
        return fail(e, "zip entry %.*s: its local header has another name", STR(f->name));
    if (extra > room - name || f->size > room - name - extra)
        return fail(e, "zip entry %.*s: %llu bytes at byte %llu, expected them before byte %llu",
                    STR(f->name), (unsigned long long)f->size, (unsigned long long)at,
                    (unsigned long long)z->directory);
    f->data = head + 30 + name + extra;
    return true;
}

static bool zip_entry(const Zip *z, Cursor *c, Entry *f, Error *e) {
    const uint8_t *head = take_bytes(c, 46);
    if (!head || little_endian(head, 4) != 0x02014b50)
        return fail(e, "zip: central directory ends early or holds something else");
    uint64_t stored = little_endian(head + 20, 4), at = little_endian(head + 42, 4);
    unsigned flags = (unsigned)little_endian(head + 8, 2),
             method = (unsigned)little_endian(head + 10, 2);
    f->size = little_endian(head + 24, 4);
    f->name.n = little_endian(head + 28, 2);
    f->name.s = (const char *)take_bytes(c, f->name.n);
    Cursor extra = { .p = take_bytes(c, little_endian(head + 30, 2)) };
    extra.end = c->p;
    if (!f->name.s || !extra.p || !take_bytes(c, little_endian(head + 32, 2)))
        return fail(e, "zip: an entry runs past the end of the central directory");
    if (!zip_wide_entry(extra, &f->size, &stored, &at))
        return fail(e, "zip entry %.*s: broken ZIP64 field", STR(f->name));
    if (flags & 1) return fail(e, "zip entry %.*s: encrypted, expected plain", STR(f->name));
    if (method != 0 || stored != f->size)
        return fail(e, "zip entry %.*s: compressed (method %u), expected stored, as by torch.save",
                    STR(f->name), method);
    return zip_place(z, f, at, e);
}

static bool zip_parse(Zip *z, Arena *a, Error *e) {
    const uint8_t *data = z->base;
    if (z->size >= 10 && !memcmp(data, "version ht", 10))
        return fail(e, "a Git LFS pointer, expected the weights themselves; run git lfs pull");
    if (z->size >= 2 && data[0] == 0x80 && data[1] <= 5)
        return fail(e, "a bare pickle, as torch.save wrote before version 1.6, expected a zip "
                       "archive; torch.load and torch.save it once");
    if (!zip_end(z, e)) return false;
    z->entry = arena_alloc(a, z->n, sizeof *z->entry, "zip entries");
    Cursor c = { data + z->directory, data + z->directory + z->directory_size };
    for (uint64_t i = 0; i < z->n; i++)
        if (!zip_entry(z, &c, &z->entry[i], e)) return false;
    return name_index(&z->index, z->entry, z->n, sizeof *z->entry, "zip entry", e);
}

/* The entry `name` in that folder, or NULL. */
static const Entry *zip_find(const Zip *z, Str folder, const char *name) {
    char full[256];
    int n = snprintf(full, sizeof full, "%.*s%s", (int)folder.n, folder.s, name);
    Str s = { full, (size_t)n };
    return n < (int)sizeof full ? name_find(z->index, z->n, s) : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Tensors */

/* Shape and strides: row-major without gaps, so that the bytes are a Tensor as they stand. */
static bool tensor_shape(const TorchTensor *t, Tensor *out, uint64_t *count, Error *e) {
    *count = 1;
    for (uint32_t i = t->n_dims; i-- > 0; *count *= (uint64_t)t->size[i]) {
        if (t->size[i] < 1 || t->size[i] > INT32_MAX)
            return fail(e, "tensor %.*s: dimension %u is %lld, expected 1 to %d", STR(t->name), i,
                        (long long)t->size[i], INT32_MAX);
        if (t->size[i] > 1 && (uint64_t)t->stride[i] != *count)
            return fail(e, "tensor %.*s: stride %lld in dimension %u, expected %llu (contiguous)",
                        STR(t->name), (long long)t->stride[i], i, (unsigned long long)*count);
    }
    out->name = t->name;
    out->rows = t->n_dims == 2 ? (int)t->size[0] : 1;
    out->cols = t->n_dims > 0 ? (int)t->size[t->n_dims - 1] : 1;
    return true;
}

/* The bytes: `count` numbers from the tensor's offset on, all of them within the storage's entry,
 * whose size must be what the pickle says. */
static bool tensor_data(const Zip *z, Str folder, const TorchTensor *t, uint64_t count, Tensor *out,
                        Error *e) {
    char name[80];
    snprintf(name, sizeof name, "data/%.*s", t->storage.n < 64 ? (int)t->storage.n : 64,
             t->storage.s);
    const Entry *f = zip_find(z, folder, name);
    if (!f) return fail(e, "tensor %.*s: no entry %s in the archive", STR(t->name), name);
    uint64_t width = t->width, room = f->size / width, from = (uint64_t)t->offset;
    if (t->count < 0 || (uint64_t)t->count != room || f->size % width)
        return fail(e, "tensor %.*s: storage of %lld x %llu bytes, but entry %s has %llu",
                    STR(t->name), (long long)t->count, (unsigned long long)width, name,
                    (unsigned long long)f->size);
    if (t->offset < 0 || from > room || count > room - from)
        return fail(e, "tensor %.*s: %d x %d from number %lld on, expected them within %llu",
                    STR(t->name), out->rows, out->cols, (long long)t->offset,
                    (unsigned long long)room);
    out->type = t->type;
    out->data = f->data + width * from;
    return true;
}

/* The archive's one folder, with its slash: that of the entry NAME/data.pkl. */
static bool find_pickle(const Zip *z, const Entry **pkl, Str *folder, Error *e) {
    *pkl = NULL;
    for (uint64_t i = 0; i < z->n; i++) {
        Str s = z->entry[i].name;
        if (s.n < 9 || memcmp(s.s + s.n - 9, "/data.pkl", 9)) continue;
        if (*pkl) return fail(e, "zip: two entries data.pkl, expected one");
        *pkl = &z->entry[i];
        folder->s = s.s;
        folder->n = s.n - 8;
    }
    if (!*pkl) return fail(e, "zip: no entry data.pkl, expected an archive of torch.save");
    const Entry *order = zip_find(z, *folder, "byteorder");
    if (order && (order->size != 6 || memcmp(order->data, "little", 6)))
        return fail(e, "zip entry byteorder: not \"little\", expected a little-endian file");
    return true;
}

/* Lists the tensors of a saved state_dict; they and their names point into (data, size). Types that
 * no weight can have are listed too, as in safetensors_parse. */
bool torchzip_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e) {
    Zip z = { .base = data, .size = size };
    Arena scratch = { NULL, 0 };
    TorchTensor *t = NULL;
    const Entry *pkl = NULL;
    Str folder = { NULL, 0 };
    size_t n = 0;
    (void)a; /* all that is kept points into the file */
    bool ok = zip_parse(&z, &scratch, e) && find_pickle(&z, &pkl, &folder, e) &&
              unpickle_tensors(&t, &n, &scratch, pkl->data, pkl->size, e);
    for (size_t i = 0; ok && i < n; i++) {
        Tensor out = { .rows = 0 };
        uint64_t count = 0;
        ok = tensor_shape(&t[i], &out, &count, e) && tensor_data(&z, folder, &t[i], count, &out, e);
        if (ok) tensor_list_add(l, out);
    }
    free((void *)z.index);
    arena_free(&scratch);
    return ok;
}
