/* torchzip.c: pytorch_model*.bin, the file that torch.save writes: a zip archive with the tensors'
 * bytes, and a pickle that says what they are. Gives a list of tensors that point into the file.
 *
 * What to know first: a pickle is a program for a stack machine, and Python's own reader lets it
 * import and call anything, which is how such files attack people. The machine below knows the few
 * instructions that a dictionary of tensors needs and a handful of names, and it calls nothing: a
 * "call" of a known name makes a value of ours. Whatever else the file asks for is refused by name.
 *
 *     the archive                            data.pkl, for one tensor
 *     +--------------------------------+
 *     | local header, padding          |     GLOBAL   collections OrderedDict   push the name
 *     | NAME/data.pkl                  |     ( ) REDUCE                         "call" it: a dict
 *     | local header, padding          |     MARK
 *     | NAME/data/0      a storage's   |     "model.norm.weight"                a key
 *     | NAME/data/1      bytes, stored |     GLOBAL   torch._utils _rebuild_tensor_v2
 *     |  ...                           |     MARK MARK 'storage' FloatStorage '0' 'cpu' 2240 TUPLE
 *     | NAME/byteorder   "little"      |     BINPERSID                          the storage data/0
 *     | central directory: all names,  |     0 (2240,) (1,) False {} TUPLE      offset, shape,
 *     |   sizes and places             |     REDUCE                             strides: a tensor
 *     | [ZIP64 end and locator]        |     SETITEMS                           everything since MARK
 *     | end of central directory       |     STOP                               into the dict
 *     +--------------------------------+
 *
 * The archive is read by its central directory, from the back. Nothing is decompressed: torch.save
 * stores. Memory is bounded by the size of data.pkl, and no function calls itself, so there is no
 * depth to run out of. Test: tests/test_format.c. */

#include "export.h"

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

static uint64_t little(const uint8_t *p, int n) { /* n bytes, lowest first */
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

/* ZIP64: the end record's fields are too narrow for big archives; where they are, they hold all
 * ones, and a locator just before the end record leads to a wider record. */
static bool zip_wide_end(Zip *z, size_t end, Error *e) {
    if (end < 20 || little(z->base + end - 20, 4) != 0x07064b50) return true; /* an old archive */
    uint64_t at = little(z->base + end - 12, 8);
    if (at > end - 20 || end - 20 - at < 56 || little(z->base + at, 4) != 0x06064b50)
        return fail(e, "zip: ZIP64 end record at byte %llu, expected one before byte %zu",
                    (unsigned long long)at, end - 20);
    z->n = little(z->base + at + 32, 8);
    z->directory_size = little(z->base + at + 40, 8);
    z->directory = little(z->base + at + 48, 8);
    return true;
}

/* Finds the end record: the last 22 bytes, or earlier by the length of a comment. */
static bool zip_end(Zip *z, Error *e) {
    size_t comment = 0;
    if (z->size < 22) return fail(e, "zip: %zu bytes, too short for an archive", z->size);
    for (;; comment++) {
        const uint8_t *p = z->base + z->size - 22 - comment;
        if (little(p, 4) == 0x06054b50 && little(p + 20, 2) == comment) break;
        if (comment == 65535 || comment == z->size - 22)
            return fail(e, "zip: no end of central directory; truncated download?");
    }
    size_t end = z->size - 22 - comment;
    const uint8_t *p = z->base + end;
    z->n = little(p + 10, 2);
    z->directory_size = little(p + 12, 4);
    z->directory = little(p + 16, 4);
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
        size_t n = little(head + 2, 2);
        const uint8_t *p = take_bytes(&extra, n);
        if (!p) return false;
        if (little(head, 2) != 1) continue;
        for (int i = 0; i < 3; i++) {
            if (*wide[i] != 0xFFFFFFFF) continue;
            if (n < 8) return false;
            *wide[i] = little(p, 8);
            p += 8;
            n -= 8;
        }
    }
    return true;
}

/* Where an entry's bytes begin is said only by its local header, whose extra field (torch.save
 * pads there, to align the tensors) differs from the central one. */
static bool zip_place(const Zip *z, Entry *f, uint64_t at, Error *e) {
    if (at > z->directory || z->directory - at < 30 || little(z->base + at, 4) != 0x04034b50)
        return fail(e, "zip entry %.*s: no local header at byte %llu", STR(f->name),
                    (unsigned long long)at);
    const uint8_t *head = z->base + at;
    uint64_t name = little(head + 26, 2), extra = little(head + 28, 2);
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
    if (!head || little(head, 4) != 0x02014b50)
        return fail(e, "zip: central directory ends early or holds something else");
    uint64_t stored = little(head + 20, 4), at = little(head + 42, 4);
    unsigned flags = (unsigned)little(head + 8, 2), method = (unsigned)little(head + 10, 2);
    f->size = little(head + 24, 4);
    f->name.n = little(head + 28, 2);
    f->name.s = (const char *)take_bytes(c, f->name.n);
    Cursor extra = { c->p, c->p + little(head + 30, 2) };
    if (!f->name.s || !take_bytes(c, little(head + 30, 2)) || !take_bytes(c, little(head + 32, 2)))
        return fail(e, "zip: an entry runs past the end of the central directory");
    if (!zip_wide_entry(extra, &f->size, &stored, &at))
        return fail(e, "zip entry %.*s: broken ZIP64 field", STR(f->name));
    if (flags & 1) return fail(e, "zip entry %.*s: encrypted, expected plain", STR(f->name));
    if (method != 0 || stored != f->size)
        return fail(e, "zip entry %.*s: compressed (method %u), expected stored, as by torch.save",
                    STR(f->name), method);
    return zip_place(z, f, at, e);
}

static bool zip_parse(Zip *z, Arena *a, const uint8_t *data, size_t size, Error *e) {
    memset(z, 0, sizeof *z);
    z->base = data;
    z->size = size;
    if (size >= 10 && !memcmp(data, "version ht", 10))
        return fail(e, "a Git LFS pointer, expected the weights themselves; run git lfs pull");
    if (size >= 2 && data[0] == 0x80 && data[1] <= 5)
        return fail(e, "a bare pickle, as torch.save wrote before version 1.6, expected a zip "
                       "archive; torch.load and torch.save it once");
    if (!zip_end(z, e)) return false;
    z->entry = arena_alloc(a, z->n, sizeof *z->entry, "zip entries");
    Cursor c = { data + z->directory, data + z->directory + z->directory_size };
    for (uint64_t i = 0; i < z->n; i++)
        if (!zip_entry(z, &c, &z->entry[i], e)) return false;
    return name_index(&z->index, z->entry, z->n, sizeof *z->entry, "zip entry", e);
}

/* The archive's one folder is named after the file that was saved: NAME/data.pkl tells it. */
static const Entry *zip_find(const Zip *z, Str folder, const char *name) {
    char full[256];
    int n = snprintf(full, sizeof full, "%.*s%s", (int)folder.n, folder.s, name);
    Str s = { full, (size_t)n };
    return n < (int)sizeof full ? name_find(z->index, z->n, s) : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The pickle machine */

enum {
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STR,
    V_TUPLE,
    V_LIST,
    V_DICT,
    V_NAME,
    V_STORAGE,
    V_TENSOR
};

/* One value. A tuple, a storage and a tensor are a range of items[]: n items from `first` on (of a
 * storage its five, of a tensor the arguments of its "call"). A dict is a number; its members are
 * those of pairs[] that carry this number. What lists hold is of no interest. */
typedef struct {
    int kind;
    uint32_t n;
    int64_t first; /* or the number of an int, bool, dict, or row of names[] */
    Str str;
} Value;

typedef struct {
    Str key;
    int64_t dict;
    Value value;
} Pair;

typedef struct {
    Cursor c;
    const uint8_t *start;
    Value *stack, *items, *memo; /* all with room for `most`: a byte of pickle makes at most one */
    size_t *mark;
    Pair *pairs;
    size_t n_stack, n_items, n_marks, n_pairs, most;
    int64_t n_dicts;
    Error *e;
} Machine;

/* Every name a pickle may mention, in the two lines of GLOBAL. */
enum { NAME_DICT, NAME_TENSOR, NAME_PARAMETER, NAME_STORAGE };
static const struct {
    const char *module, *name;
    int what;
    uint32_t type; /* of a storage; T_COUNT: known, but not as weights */
} names[] = {
    { "collections", "OrderedDict", NAME_DICT, 0 },
    { "torch._utils", "_rebuild_tensor_v2", NAME_TENSOR, 0 },
    { "torch._utils", "_rebuild_parameter", NAME_PARAMETER, 0 },
    { "torch", "FloatStorage", NAME_STORAGE, T_F32 },
    { "torch", "HalfStorage", NAME_STORAGE, T_F16 },
    { "torch", "BFloat16Storage", NAME_STORAGE, T_BF16 },
    { "torch", "DoubleStorage", NAME_STORAGE, T_COUNT },
    { "torch", "LongStorage", NAME_STORAGE, T_COUNT },
    { "torch", "IntStorage", NAME_STORAGE, T_COUNT },
    { "torch", "ShortStorage", NAME_STORAGE, T_COUNT },
    { "torch", "CharStorage", NAME_STORAGE, T_COUNT },
    { "torch", "ByteStorage", NAME_STORAGE, T_COUNT },
    { "torch", "BoolStorage", NAME_STORAGE, T_COUNT },
};

static bool broken(const Machine *m, const char *what) {
    return fail(m->e, "data.pkl byte %td: %s, expected a dictionary of tensors", m->c.p - m->start,
                what);
}

static bool push(Machine *m, int kind, int64_t first, uint32_t n) {
    if (m->n_stack == m->most) return broken(m, "stack overflow");
    Value v = { .kind = kind, .n = n, .first = first };
    m->stack[m->n_stack++] = v;
    return true;
}

/* The top k values, or NULL where the stack, down to the latest mark, does not hold as many. */
static Value *top(const Machine *m, size_t k) {
    size_t floor = m->n_marks ? m->mark[m->n_marks - 1] : 0;
    return m->n_stack - floor < k ? NULL : m->stack + m->n_stack - k;
}

/* Moves the top k values into items[] and pushes one value of that kind that refers to them. */
static bool gather(Machine *m, int kind, size_t k) {
    Value *v = top(m, k);
    if (!v || k > m->most - m->n_items) return broken(m, "stack underflow");
    if (k) memcpy(m->items + m->n_items, v, k * sizeof *v);
    m->n_items += k;
    m->n_stack -= k;
    return push(m, kind, (int64_t)(m->n_items - k), (uint32_t)k);
}

static bool pop_mark(Machine *m, size_t *above) { /* how many values stand above it */
    if (m->n_marks == 0) return broken(m, "no mark on the stack");
    *above = m->n_stack - m->mark[--m->n_marks];
    return true;
}

static bool push_text(Machine *m, size_t length_bytes) {
    uint8_t head[8];
    if (!take(&m->c, head, length_bytes)) return broken(m, "a text runs past the end");
    uint64_t n = little(head, (int)length_bytes);
    const uint8_t *text = take_bytes(&m->c, n);
    if (!text) return broken(m, "a text runs past the end");
    if (!push(m, V_STR, 0, 0)) return false;
    m->stack[m->n_stack - 1].str.s = (const char *)text;
    m->stack[m->n_stack - 1].str.n = n;
    return true;
}

/* A whole number of n bytes, lowest first; with `sign`, two's complement. */
static bool push_int(Machine *m, int n, bool sign) {
    uint8_t b[8];
    if (!take(&m->c, b, (size_t)n)) return broken(m, "a number runs past the end");
    uint64_t v = little(b, n);
    if (sign && n && n < 8 && b[n - 1] & 0x80) v |= ~0ull << (8 * n);
    return push(m, V_INT, (int64_t)v, 0);
}

static Str take_line(Machine *m) { /* without its line feed; empty at the end */
    const uint8_t *end = memchr(m->c.p, '\n', (size_t)(m->c.end - m->c.p));
    Str s = { (const char *)m->c.p, end ? (size_t)(end - m->c.p) : 0 };
    if (end) m->c.p = end + 1;
    return s;
}

static bool push_name(Machine *m) {
    Str module = take_line(m), name = take_line(m);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_is(module, names[i].module) && str_is(name, names[i].name))
            return push(m, V_NAME, (int64_t)i, 0);
    return fail(m->e, "data.pkl byte %td: global %.*s.%.*s, expected only what tensors need",
                m->c.p - m->start, STR(module), STR(name));
}

/* REDUCE: pops a tuple of arguments and a name, pushes what a call would have returned. */
static bool reduce(Machine *m) {
    Value *v = top(m, 2);
    if (!v || v[0].kind != V_NAME || v[1].kind != V_TUPLE)
        return broken(m, "a call of something that is not a name");
    const Value *arg = m->items + v[1].first;
    switch (names[v->first].what) {
    case NAME_DICT:
        if (v[1].n) return broken(m, "OrderedDict with arguments");
        v->kind = V_DICT;
        v->first = m->n_dicts++;
        break;
    case NAME_TENSOR:
        if (v[1].n < 6 || v[1].n > 7) return broken(m, "_rebuild_tensor_v2 with odd arguments");
        *v = v[1];
        v->kind = V_TENSOR;
        break;
    case NAME_PARAMETER:
        if (v[1].n != 3 || arg->kind != V_TENSOR)
            return broken(m, "_rebuild_parameter without a tensor");
        *v = *arg;
        break;
    default: return broken(m, "a call of a storage type");
    }
    m->n_stack--;
    return true;
}

/* BINPERSID: pops the tuple ('storage', type, key, place, count), pushes the storage. */
static bool persistent(Machine *m) {
    Value *v = top(m, 1);
    const Value *arg = v && v->kind == V_TUPLE ? m->items + v->first : NULL;
    if (!arg || v->n != 5 || arg[0].kind != V_STR || !str_is(arg[0].str, "storage") ||
        arg[1].kind != V_NAME || names[arg[1].first].what != NAME_STORAGE || arg[2].kind != V_STR ||
        arg[4].kind != V_INT)
        return broken(m, "a persistent id that is no storage");
    v->kind = V_STORAGE;
    return true;
}

/* SETITEM, SETITEMS: k values, key and value in turn, go into the dict below them. */
static bool set_items(Machine *m, size_t k) {
    Value *v = top(m, k + 1);
    if (!v || v->kind != V_DICT || k % 2 || k / 2 > m->most - m->n_pairs)
        return broken(m, "items for something that is not a dictionary");
    for (size_t i = 1; i < k + 1; i += 2) {
        if (v[i].kind != V_STR) return broken(m, "a key that is not a text");
        Pair pair = { v[i].str, v->first, v[i + 1] };
        m->pairs[m->n_pairs++] = pair;
    }
    m->n_stack -= k;
    return true;
}

static bool memo_put(Machine *m, size_t bytes) {
    uint8_t b[4];
    if (!take(&m->c, b, bytes)) return broken(m, "a memo number runs past the end");
    uint64_t i = little(b, (int)bytes);
    const Value *v = top(m, 1);
    if (!v || i >= m->most) return broken(m, "a memo number out of range");
    m->memo[i] = *v;
    return true;
}

static bool memo_get(Machine *m, size_t bytes) {
    uint8_t b[4];
    if (!take(&m->c, b, bytes)) return broken(m, "a memo number runs past the end");
    uint64_t i = little(b, (int)bytes);
    if (i >= m->most || !push(m, 0, 0, 0)) return broken(m, "a memo number out of range");
    m->stack[m->n_stack - 1] = m->memo[i];
    return true;
}

/* APPENDS, BUILD: drops the top k values, which must stand on one of that kind. BUILD would set
 * attributes: torch's dictionaries carry version numbers in one, of no use here. */
static bool drop(Machine *m, size_t k, int kind) {
    const Value *v = top(m, k + 1);
    if (!v || v->kind != kind) return broken(m, "a list or attributes in an odd place");
    m->n_stack -= k;
    return true;
}

static bool push_float(Machine *m) {
    return take_bytes(&m->c, 8) ? push(m, V_FLOAT, 0, 0) : broken(m, "a number past the end");
}

static bool push_mark(Machine *m) {
    if (m->n_marks == m->most) return broken(m, "too many marks");
    m->mark[m->n_marks++] = m->n_stack;
    return true;
}

/* Carries out one instruction. The letters are those of pickle protocol 2, which torch.save uses
 * whatever the Python. */
static bool step(Machine *m, uint8_t op) {
    uint8_t n;
    size_t k;
    switch (op) {
    case 0x80: return take(&m->c, &n, 1) && n == 2 ? true : broken(m, "protocol not 2");
    case '(': return push_mark(m);
    case ')': return push(m, V_TUPLE, 0, 0);
    case 0x85: return gather(m, V_TUPLE, 1);
    case 0x86: return gather(m, V_TUPLE, 2);
    case 0x87: return gather(m, V_TUPLE, 3);
    case 't': return pop_mark(m, &k) && gather(m, V_TUPLE, k);
    case '}': return push(m, V_DICT, m->n_dicts++, 0);
    case 's': return set_items(m, 2);
    case 'u': return pop_mark(m, &k) && set_items(m, k);
    case ']': return push(m, V_LIST, 0, 0);
    case 'a': return drop(m, 1, V_LIST);
    case 'e': return pop_mark(m, &k) && drop(m, k, V_LIST);
    case 'X': return push_text(m, 4);
    case 'N': return push(m, V_NONE, 0, 0);
    case 0x88: return push(m, V_BOOL, 1, 0);
    case 0x89: return push(m, V_BOOL, 0, 0);
    case 'J': return push_int(m, 4, true);
    case 'K': return push_int(m, 1, false);
    case 'M': return push_int(m, 2, false);
    case 0x8a: return take(&m->c, &n, 1) && n <= 8 ? push_int(m, n, true) : broken(m, "a long");
    case 'G': return push_float(m);
    case 'c': return push_name(m);
    case 'R': return reduce(m);
    case 'b': return drop(m, 1, V_DICT);
    case 'Q': return persistent(m);
    case 'q': return memo_put(m, 1);
    case 'r': return memo_put(m, 4);
    case 'h': return memo_get(m, 1);
    case 'j': return memo_get(m, 4);
    default:
        return fail(m->e,
                    "data.pkl byte %td: instruction %02x, expected those of a dictionary "
                    "of tensors",
                    m->c.p - m->start - 1, op);
    }
}

/* Runs the program; the dict it leaves is *root. */
static bool run_pickle(Machine *m, Arena *a, const Entry *pkl, int64_t *root, Error *e) {
    memset(m, 0, sizeof *m);
    if (pkl->size > 16u << 20)
        return fail(e, "data.pkl: %llu bytes, expected at most 16 MB",
                    (unsigned long long)pkl->size);
    m->c.p = m->start = pkl->data;
    m->c.end = pkl->data + pkl->size;
    m->most = pkl->size;
    m->e = e;
    m->stack = arena_alloc(a, m->most, sizeof *m->stack, "pickle stack");
    m->items = arena_alloc(a, m->most, sizeof *m->items, "pickle tuples");
    m->memo = arena_alloc(a, m->most, sizeof *m->memo, "pickle memo");
    m->mark = arena_alloc(a, m->most, sizeof *m->mark, "pickle marks");
    m->pairs = arena_alloc(a, m->most, sizeof *m->pairs, "pickle dictionaries");
    uint8_t op;
    for (;;) {
        if (!take(&m->c, &op, 1)) return broken(m, "the end before STOP");
        if (op == '.') break;
        if (!step(m, op)) return false;
    }
    const Value *v = top(m, 1);
    if (!v || v->kind != V_DICT) return broken(m, "something else");
    *root = v->first;
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Tensors */

/* Shape and strides: row-major without gaps, so that the bytes are a Tensor as they stand. */
static bool tensor_shape(const Machine *m, const Pair *p, Tensor *t, uint64_t *count, Error *e) {
    const Value *arg = m->items + p->value.first;
    const Value *size = m->items + arg[2].first, *stride = m->items + arg[3].first;
    uint32_t n = arg[2].n;
    if (arg[2].kind != V_TUPLE || arg[3].kind != V_TUPLE || arg[3].n != n || n > 2)
        return fail(e, "tensor %.*s: %u dimensions, expected at most 2", STR(p->key), n);
    *count = 1;
    for (uint32_t i = n; i-- > 0; *count *= (uint64_t)size[i].first) {
        if (size[i].kind != V_INT || size[i].first < 1 || size[i].first > INT32_MAX)
            return fail(e, "tensor %.*s: dimension %u is %lld, expected 1 to %d", STR(p->key), i,
                        (long long)size[i].first, INT32_MAX);
        if (stride[i].kind != V_INT || (size[i].first > 1 && (uint64_t)stride[i].first != *count))
            return fail(e, "tensor %.*s: stride %lld in dimension %u, expected %llu (contiguous)",
                        STR(p->key), (long long)stride[i].first, i, (unsigned long long)*count);
    }
    t->name = p->key;
    t->rows = n == 2 ? (int)size[0].first : 1;
    t->cols = n > 0 ? (int)size[n - 1].first : 1;
    return true;
}

static bool tensor_data(const Machine *m, const Zip *z, Str folder, const Pair *p, Tensor *t,
                        uint64_t count, Error *e) {
    const Value *arg = m->items + p->value.first;
    if (arg[0].kind != V_STORAGE || arg[1].kind != V_INT)
        return fail(e, "tensor %.*s: no storage, expected one", STR(p->key));
    const Value *storage = m->items + arg[0].first;
    char name[80];
    snprintf(name, sizeof name, "data/%.*s", (int)(storage[2].str.n < 64 ? storage[2].str.n : 64),
             storage[2].str.s);
    const Entry *f = zip_find(z, folder, name);
    if (!f) return fail(e, "tensor %.*s: no entry %s in the archive", STR(p->key), name);
    t->type = names[storage[1].first].type;
    if (t->type == T_COUNT)
        return fail(e, "tensor %.*s: %s, expected FloatStorage, HalfStorage or BFloat16Storage",
                    STR(p->key), names[storage[1].first].name);
    uint64_t width = t->type == T_F32 ? 4 : 2, room = f->size / width;
    if (storage[4].first < 0 || (uint64_t)storage[4].first != room || f->size % width)
        return fail(e, "tensor %.*s: storage of %lld numbers of %llu bytes, entry %s has %llu",
                    STR(p->key), (long long)storage[4].first, (unsigned long long)width, name,
                    (unsigned long long)f->size);
    if (arg[1].first < 0 || (uint64_t)arg[1].first > room || count > room - (uint64_t)arg[1].first)
        return fail(e, "tensor %.*s: %d x %d from %lld on, expected them within %llu numbers",
                    STR(p->key), t->rows, t->cols, (long long)arg[1].first,
                    (unsigned long long)room);
    t->data = f->data + width * (uint64_t)arg[1].first;
    return true;
}

/* The folder's name with its slash, from the one entry called NAME/data.pkl. */
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

/* Lists the tensors of a saved state_dict; they and their names point into (data, size). */
bool torchzip_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e) {
    Zip z;
    Machine m;
    Arena scratch = { NULL, 0 };
    const Entry *pkl;
    Str folder;
    int64_t root;
    (void)a; /* all that is kept points into the file */
    bool ok = zip_parse(&z, &scratch, data, size, e) && find_pickle(&z, &pkl, &folder, e) &&
              run_pickle(&m, &scratch, pkl, &root, e);
    for (size_t i = 0; ok && i < m.n_pairs; i++) {
        const Pair *p = &m.pairs[i];
        Tensor t = { .rows = 0 };
        uint64_t count;
        if (p->dict != root) continue;
        if (p->value.kind != V_TENSOR)
            ok = fail(e, "key %.*s: not a tensor, expected only tensors", STR(p->key));
        ok = ok && tensor_shape(&m, p, &t, &count, e) &&
             tensor_data(&m, &z, folder, p, &t, count, e);
        if (ok) tensor_list_add(l, t);
    }
    free((void *)z.index);
    arena_free(&scratch);
    return ok;
}
