/* document.c: a document from a line of JSON and back. See refine.h.
 *
 * What to know first: json.h checks the line and finds the members that are known. Those that are
 * not are copied as they stand, by walking over the text a second time, which is easy once it is
 * known to be JSON. Test: tests/test_refine.py. */

#include "refine.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Members as text: "a":1,"b":[2] */

static const char *skip_string(const char *p) { /* p at the opening quote */
    for (p++; *p != '"'; p++)
        if (*p == '\\') p++;
    return p + 1;
}

static const char *skip_space(const char *p, const char *end) {
    while (p < end && *p && strchr(" \t\r\n", *p)) p++;
    return p;
}

/* The place behind a value that is known to be JSON. */
static const char *skip_value(const char *p, const char *end) {
    int depth = 0;
    while (p < end) {
        if (*p == '"') {
            p = skip_string(p);
        } else if (!depth && (*p == ',' || *p == '}' || strchr(" \t\r\n", *p))) {
            break;
        } else {
            depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
            p++;
        }
        if (!depth && p > end - 1) break;
    }
    return p;
}

typedef struct {
    Str key, value; /* the key without its quotes, as it was written */
} Member;

/* The member at *p, which moves behind it and its comma; false at the end. */
static bool next_member(const char **p, const char *end, Member *m) {
    const char *s = skip_space(*p, end);
    if (s == end || *s != '"') return false;
    const char *stop = skip_string(s);
    m->key = (Str){ s + 1, (size_t)(stop - s) - 2 };
    s = skip_space(stop, end) + 1; /* the colon */
    s = skip_space(s, end);
    stop = skip_value(s, end);
    m->value = (Str){ s, (size_t)(stop - s) };
    s = skip_space(stop, end);
    *p = s < end && *s == ',' ? s + 1 : s;
    return true;
}

static void add_member(Buf *b, const Member *m) {
    if (b->n) buf_add(b, ",", 1);
    buf_add(b, "\"", 1);
    buf_add(b, m->key.s, m->key.n);
    buf_add(b, "\":", 2);
    buf_add(b, m->value.s, m->value.n);
}

static Str find_member(Str members, const char *key) {
    const char *p = members.s;
    Member m;
    while (members.n && next_member(&p, members.s + members.n, &m))
        if (str_is(m.key, key)) return m.value;
    return (Str){ "", 0 };
}

static void remove_member(Buf *b, const char *key) {
    Str all = { b->data, b->n };
    if (!find_member(all, key).n) return;
    Buf left = { NULL, 0, 0 };
    const char *p = b->data;
    Member m;
    while (next_member(&p, b->data + b->n, &m))
        if (!str_is(m.key, key)) add_member(&left, &m);
    buf_free(b);
    *b = left;
}

/* ------------------------------------------------------------------------------------------------
 * 2. What stages do to a document */

bool document_drop(Document *d, const char *why) {
    d->reason = why;
    return false;
}

void document_count(Document *d, const char *name) {
    Names *c = &d->counts;
    if (c->n == c->cap) {
        c->cap = c->cap * 2 + 8;
        c->item = xrealloc(c->item, c->cap, sizeof *c->item, "counts");
    }
    c->item[c->n].name = name;
    c->item[c->n++].stage = d->at_stage;
}

void document_content(Document *d, Buf *b) {
    Buf old = d->text;
    buf_add(b, "", 0); /* not NULL, and a NUL at its end */
    d->text = *b;
    d->content = (Str){ d->text.data, d->text.n };
    d->changed |= 1u << d->at_stage;
    old.n = 0;
    *b = old;
}

Buf *document_member(Document *d, const char *key) {
    remove_member(&d->added, key);
    remove_member(&d->rest, key);
    d->extra = (Str){ d->rest.data, d->rest.n };
    json_put_key(&d->added, key);
    return &d->added;
}

Str document_find(const Document *d, const char *key) {
    Str found = find_member((Str){ d->added.data, d->added.n }, key);
    return found.n ? found : find_member(d->extra, key);
}

/* ------------------------------------------------------------------------------------------------
 * 3. In and out */

static const char *const known[] = { "repo",  "path",        "ext",  "language", "type",
                                     "stars", "commit_time", "size", "content",  "text" };

static bool is_known(Str key, bool text_is_content) {
    for (size_t i = 0; i < sizeof known / sizeof *known - !text_is_content; i++)
        if (str_is(key, known[i])) return true;
    return false;
}

/* Copies what is not known; the nodes say which member is which, however its name is escaped. */
static void keep_extra(Document *d, bool text_is_content) {
    const Json *root = d->json.node;
    const char *p = skip_space(d->raw.data, d->raw.data + d->raw.n) + 1;
    Member m;
    bool any = false;
    for (const Json *x = json_first(root); x && !any; x = json_next(root, x))
        any = !is_known(x->key, text_is_content);
    for (const Json *x = any ? json_first(root) : NULL; x; x = json_next(root, x)) {
        next_member(&p, d->raw.data + d->raw.n, &m);
        if (!is_known(x->key, text_is_content)) add_member(&d->rest, &m);
    }
    d->extra = (Str){ d->rest.data, d->rest.n };
}

bool document_parse(Document *d, Error *e) {
    const int64_t most = INT64_MAX;
    Str text = { NULL, 0 };
    if (!json_parse(&d->json, d->raw.data, d->raw.n, e)) return false;
    const Json *root = d->json.node;
    if (root->type != J_OBJECT)
        return fail(e, "%s, expected an object", json_type_name[root->type]);
    bool other = !json_get(root, "content");
    d->size = -1;
    if (!json_str(root, other ? "text" : "content", true, &text, e) ||
        !json_str(root, "repo", false, &d->repo, e) ||
        !json_str(root, "path", false, &d->path, e) || !json_str(root, "ext", false, &d->ext, e) ||
        !json_str(root, "language", false, &d->language, e) ||
        !json_str(root, "type", false, &d->type, e) ||
        !json_int(root, "stars", false, 0, most, &d->stars, e) ||
        !json_int(root, "commit_time", false, -most, most, &d->commit_time, e) ||
        !json_int(root, "size", false, 0, most, &d->size, e))
        return false;
    buf_add(&d->text, text.s, text.n);
    d->content = (Str){ d->text.data, d->text.n };
    if (d->size < 0) d->size = (int64_t)text.n;
    keep_extra(d, other);
    return true;
}

static void put_str(Buf *b, const char *key, Str s) {
    if (!s.n) return;
    json_put_key(b, key);
    json_put_str(b, s);
}

static void put_int(Buf *b, const char *key, int64_t v) {
    json_put_key(b, key);
    json_put_int(b, v);
}

void document_line(const Document *d, Buf *out) {
    Str added = { d->added.data, d->added.n };
    buf_add(out, "{", 1);
    put_str(out, "repo", d->repo);
    put_str(out, "path", d->path);
    put_str(out, "ext", d->ext);
    put_str(out, "language", d->language);
    put_str(out, "type", d->type);
    put_int(out, "stars", d->stars);
    put_int(out, "commit_time", d->commit_time);
    put_int(out, "size", d->size);
    for (int i = 0; i < 2; i++) {
        Str members = i ? added : d->extra;
        if (members.n) buf_add(out, ",", 1);
        buf_add(out, members.s, members.n);
    }
    json_put_key(out, "content");
    json_put_str(out, d->content);
    buf_add(out, "}\n", 2);
}

void document_reset(Document *d) {
    Document empty = { .dropped_by = -1, .from = "" };
    const Str none = { "", 0 };
    Document old = *d;
    *d = empty;
    d->repo = d->path = d->ext = d->language = d->type = d->content = d->extra = none;
    d->json = old.json;
    d->raw = old.raw, d->text = old.text, d->rest = old.rest, d->added = old.added;
    d->out = old.out, d->counts = old.counts, d->names = old.names;
    d->scratch = old.scratch, d->keys = old.keys;
    d->scratch.n = d->keys.n = 0;
    d->raw.n = d->names.n = d->text.n = d->rest.n = d->added.n = d->out.n = d->counts.n = 0;
}

void document_free(Document *d) {
    json_free(&d->json);
    buf_free(&d->raw), buf_free(&d->text), buf_free(&d->rest);
    buf_free(&d->added), buf_free(&d->out), buf_free(&d->names);
    buf_free(&d->scratch), buf_free(&d->keys);
    free(d->counts.item);
    memset(d, 0, sizeof *d);
    document_reset(d);
}
