/* unpickle.c: the pickle in a torch.save archive (torchzip.c): which tensors there are.
 *
 * What to know first: a pickle is a program for a stack machine, and Python's own reader lets it
 * import and call anything, which is how such files attack people. The machine below knows the few
 * instructions that a dictionary of tensors needs and a handful of names, and it calls nothing: a
 * "call" of a known name makes a value of ours. Whatever else the file asks for is refused by name.
 * This is the program for a dictionary of one tensor, without the memo (BINPUT n remembers the top
 * of the stack as number n, BINGET n pushes it again):
 *
 *     GLOBAL    collections OrderedDict           push the name
 *     EMPTY_TUPLE  REDUCE                         "call" it without arguments: a dictionary
 *     MARK
 *     BINUNICODE  model.norm.weight               the key
 *     GLOBAL    torch._utils _rebuild_tensor_v2
 *     MARK
 *       MARK 'storage' torch.FloatStorage '0' 'cpu' 2240 TUPLE
 *       BINPERSID                                 the storage in data/0, 2240 numbers
 *       0  (2240,)  (1,)  False  OrderedDict()    offset, shape, strides; and two of no use here
 *     TUPLE  REDUCE                               the tensor
 *     SETITEMS                                    what stands above the mark goes into the dict
 *     STOP
 *
 * Memory is bounded by the size of the pickle, and no function calls itself, so there is no depth
 * to run out of. Test: tests/test_format.c. */

#include "torch.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Values and the stack */

enum { V_NONE, V_INT, V_STR, V_TUPLE, V_LIST, V_DICT, V_NAME, V_STORAGE, V_TENSOR };

/* One value. Tuples, storages and tensors are n items of items[], from `number` on: a storage its
 * persistent id, a tensor the arguments of its "call". A dict is only a number; its members are the
 * pairs[] that carry it. Floats and what lists hold are of no interest. */
typedef struct {
    int kind;
    uint32_t n;
    int64_t number; /* also of an int; of a name its row in names[] */
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

/* Every name a pickle may mention, in the two parts of GLOBAL; of a storage its type, as in
 * type_info (T_COUNT: none of those), and the bytes of a number. */
enum { NAME_DICT, NAME_TENSOR, NAME_PARAMETER, NAME_STORAGE };
static const struct {
    const char *module, *name;
    int what;
    uint32_t type, width;
} names[] = {
    { "collections", "OrderedDict", NAME_DICT, 0, 0 },
    { "torch._utils", "_rebuild_tensor_v2", NAME_TENSOR, 0, 0 },
    { "torch._utils", "_rebuild_parameter", NAME_PARAMETER, 0, 0 },
    { "torch", "FloatStorage", NAME_STORAGE, T_F32, 4 },
    { "torch", "HalfStorage", NAME_STORAGE, T_F16, 2 },
    { "torch", "BFloat16Storage", NAME_STORAGE, T_BF16, 2 },
    { "torch", "DoubleStorage", NAME_STORAGE, 28, 8 },
    { "torch", "LongStorage", NAME_STORAGE, 27, 8 },
    { "torch", "IntStorage", NAME_STORAGE, 26, 4 },
    { "torch", "ShortStorage", NAME_STORAGE, 25, 2 },
    { "torch", "CharStorage", NAME_STORAGE, 24, 1 },
    { "torch", "ByteStorage", NAME_STORAGE, T_COUNT, 1 },
    { "torch", "BoolStorage", NAME_STORAGE, T_COUNT, 1 },
};

static bool broken(const Machine *m, const char *what) {
    return fail(m->e, "data.pkl byte %td: %s, expected a dictionary of tensors", m->c.p - m->start,
                what);
}

static bool push(Machine *m, int kind, int64_t number, uint32_t n) {
    if (m->n_stack == m->most) return broken(m, "stack overflow");
    Value v = { .kind = kind, .n = n, .number = number };
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

/* ------------------------------------------------------------------------------------------------
 * 2. Instructions */

static bool push_text(Machine *m) { /* length u32, bytes */
    uint8_t head[4];
    const uint8_t *text = take(&m->c, head, 4) ? take_bytes(&m->c, little_endian(head, 4)) : NULL;
    if (!text) return broken(m, "a text runs past the end");
    if (!push(m, V_STR, 0, 0)) return false;
    m->stack[m->n_stack - 1].str.s = (const char *)text;
    m->stack[m->n_stack - 1].str.n = little_endian(head, 4);
    return true;
}

/* A whole number of n bytes, lowest first; with `sign`, two's complement. */
static bool push_int(Machine *m, int n, bool sign) {
    uint8_t b[8];
    if (!take(&m->c, b, (size_t)n)) return broken(m, "a number runs past the end");
    uint64_t v = little_endian(b, n);
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
    const Value *arg = m->items + v[1].number;
    switch (names[v->number].what) {
    case NAME_DICT:
        if (v[1].n) return broken(m, "OrderedDict with arguments");
        v->kind = V_DICT;
        v->number = m->n_dicts++;
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
    const Value *arg = v && v->kind == V_TUPLE ? m->items + v->number : NULL;
    if (!arg || v->n != 5 || arg[0].kind != V_STR || !str_is(arg[0].str, "storage") ||
        arg[1].kind != V_NAME || names[arg[1].number].what != NAME_STORAGE ||
        arg[2].kind != V_STR || arg[4].kind != V_INT)
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
        Pair pair = { v[i].str, v->number, v[i + 1] };
        m->pairs[m->n_pairs++] = pair;
    }
    m->n_stack -= k;
    return true;
}

static bool memo_put(Machine *m, size_t bytes) {
    uint8_t b[4];
    if (!take(&m->c, b, bytes)) return broken(m, "a memo number runs past the end");
    uint64_t i = little_endian(b, (int)bytes);
    const Value *v = top(m, 1);
    if (!v || i >= m->most) return broken(m, "a memo number out of range");
    m->memo[i] = *v;
    return true;
}

static bool memo_get(Machine *m, size_t bytes) {
    uint8_t b[4];
    if (!take(&m->c, b, bytes)) return broken(m, "a memo number runs past the end");
    uint64_t i = little_endian(b, (int)bytes);
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
    return take_bytes(&m->c, 8) ? push(m, V_NONE, 0, 0) : broken(m, "a number past the end");
}

static bool push_mark(Machine *m) {
    if (m->n_marks == m->most) return broken(m, "too many marks");
    m->mark[m->n_marks++] = m->n_stack;
    return true;
}

/* Carries out one instruction of pickle protocol 2, which torch.save uses whatever the Python. Each
 * is one byte, many of them a letter. */
static bool step(Machine *m, uint8_t op) {
    uint8_t n;
    size_t k = 0;
    switch (op) {
    case 0x80: /* PROTO */ return take(&m->c, &n, 1) && n == 2 ? true : broken(m, "protocol not 2");
    case '(': /* MARK */ return push_mark(m);
    case ')': /* EMPTY_TUPLE */ return push(m, V_TUPLE, 0, 0);
    case 0x85: /* TUPLE1 */ return gather(m, V_TUPLE, 1);
    case 0x86: /* TUPLE2 */ return gather(m, V_TUPLE, 2);
    case 0x87: /* TUPLE3 */ return gather(m, V_TUPLE, 3);
    case 't': /* TUPLE */ return pop_mark(m, &k) && gather(m, V_TUPLE, k);
    case '}': /* EMPTY_DICT */ return push(m, V_DICT, m->n_dicts++, 0);
    case 's': /* SETITEM */ return set_items(m, 2);
    case 'u': /* SETITEMS */ return pop_mark(m, &k) && set_items(m, k);
    case ']': /* EMPTY_LIST */ return push(m, V_LIST, 0, 0);
    case 'a': /* APPEND */ return drop(m, 1, V_LIST);
    case 'e': /* APPENDS */ return pop_mark(m, &k) && drop(m, k, V_LIST);
    case 'X': /* BINUNICODE */ return push_text(m);
    case 'N': /* NONE */ return push(m, V_NONE, 0, 0);
    case 0x88: /* NEWTRUE */ return push(m, V_INT, 1, 0);
    case 0x89: /* NEWFALSE */ return push(m, V_INT, 0, 0);
    case 'J': /* BININT */ return push_int(m, 4, true);
    case 'K': /* BININT1 */ return push_int(m, 1, false);
    case 'M': /* BININT2 */ return push_int(m, 2, false);
    case 0x8a: /* LONG1 */
        return take(&m->c, &n, 1) && n <= 8 ? push_int(m, n, true) : broken(m, "a long");
    case 'G': /* BINFLOAT */ return push_float(m);
    case 'c': /* GLOBAL */ return push_name(m);
    case 'R': /* REDUCE */ return reduce(m);
    case 'b': /* BUILD */ return drop(m, 1, V_DICT);
    case 'Q': /* BINPERSID */ return persistent(m);
    case 'q': /* BINPUT */ return memo_put(m, 1);
    case 'r': /* LONG_BINPUT */ return memo_put(m, 4);
    case 'h': /* BINGET */ return memo_get(m, 1);
    case 'j': /* LONG_BINGET */ return memo_get(m, 4);
    default:
        return fail(m->e,
                    "data.pkl byte %td: instruction %02x, expected those that torch.save uses",
                    m->c.p - m->start - 1, op);
    }
}

/* Runs the program; the dict it leaves on the stack is *root. */
static bool run_program(Machine *m, int64_t *root) {
    uint8_t op;
    do {
        if (!take(&m->c, &op, 1)) return broken(m, "the end before STOP");
        if (op != '.' && !step(m, op)) return false;
    } while (op != '.');
    const Value *v = top(m, 1);
    if (!v || v->kind != V_DICT) return broken(m, "something else");
    *root = v->number;
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 3. From values to tensors: arguments 0 storage, 1 offset, 2 shape, 3 strides */

static bool tensor_of(const Machine *m, const Pair *p, TorchTensor *t, Error *e) {
    if (p->value.kind != V_TENSOR)
        return fail(e, "key %.*s: not a tensor, expected only tensors", STR(p->key));
    const Value *arg = m->items + p->value.number;
    if (arg[0].kind != V_STORAGE || arg[1].kind != V_INT || arg[2].kind != V_TUPLE ||
        arg[3].kind != V_TUPLE || arg[2].n != arg[3].n)
        return fail(e, "tensor %.*s: odd arguments, expected storage, offset, shape and strides",
                    STR(p->key));
    const Value *id = m->items + arg[0].number; /* 'storage', type, key, device, count */
    t->name = p->key;
    t->type = names[id[1].number].type;
    t->width = names[id[1].number].width;
    t->storage = id[2].str;
    t->count = id[4].number;
    t->offset = arg[1].number;
    t->n_dims = arg[2].n;
    if (t->n_dims > 2)
        return fail(e, "tensor %.*s: %u dimensions, expected at most 2", STR(p->key), t->n_dims);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const Value *size = m->items + arg[2].number + i, *stride = m->items + arg[3].number + i;
        if (size->kind != V_INT || stride->kind != V_INT)
            return fail(e, "tensor %.*s: dimension %u is not a number", STR(p->key), i);
        t->size[i] = size->number;
        t->stride[i] = stride->number;
    }
    return true;
}

bool unpickle_tensors(TorchTensor **list, size_t *n, Arena *a, const uint8_t *data, size_t size,
                      Error *e) {
    Machine m = { .c = { data, data + size }, .start = data, .most = size, .e = e };
    int64_t root = 0;
    *n = 0;
    if (size > 1u << 20) return fail(e, "data.pkl: %zu bytes, expected at most %u", size, 1u << 20);
    m.stack = arena_alloc(a, size, sizeof *m.stack, "pickle stack");
    m.items = arena_alloc(a, size, sizeof *m.items, "pickle tuples");
    m.memo = arena_alloc(a, size, sizeof *m.memo, "pickle memo");
    m.mark = arena_alloc(a, size, sizeof *m.mark, "pickle marks");
    m.pairs = arena_alloc(a, size, sizeof *m.pairs, "pickle dictionaries");
    if (!run_program(&m, &root)) return false;
    *list = arena_alloc(a, m.n_pairs, sizeof **list, "list of tensors");
    for (size_t i = 0; i < m.n_pairs; i++)
        if (m.pairs[i].dict == root && !tensor_of(&m, &m.pairs[i], &(*list)[(*n)++], e))
            return false;
    return true;
}
