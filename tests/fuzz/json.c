/* json.c: fuzzes json.h. What is accepted can be walked through, its strings are UTF-8, and what
 * jsonwrite.h writes of it is read again as the same document. */

#include "../../json.h"
#include "fuzz.h"

void fuzz_begin(void) {}

static void check_utf8(Str s) {
    for (const char *p = s.s, *end = s.s + s.n; p < end;) {
        int n = utf8_length(p, end);
        if (!n) fuzz_fail("a string that is not UTF-8");
        p += n;
    }
}

static void write_value(Buf *b, const Json *j) {
    uint32_t nodes = 1;
    if (j->type == J_NUMBER && j->is_int) json_put_int(b, j->integer);
    if (j->type == J_NUMBER && !j->is_int) json_put_num(b, j->num, false);
    if (j->type == J_STRING) json_put_str(b, j->str);
    if (j->type == J_BOOL) json_put_bool(b, j->integer);
    if (j->type == J_NULL) json_comma(b), buf_add(b, "null", 4);
    if (j->type == J_STRING) check_utf8(j->str);
    if (j->type >= J_ARRAY) {
        json_open(b, j->type == J_ARRAY ? '[' : '{');
        for (const Json *x = json_first(j); x; x = json_next(j, x)) {
            if (j->type == J_OBJECT) json_put_str(b, x->key), buf_add(b, ":", 1);
            write_value(b, x);
            nodes += x->skip;
        }
        json_close(b, j->type == J_ARRAY ? ']' : '}');
    }
    if (nodes != j->skip) fuzz_fail("a value of %u nodes says %u", nodes, j->skip);
}

static void compare(const JsonDoc *a, const JsonDoc *b) {
    if (a->n != b->n) fuzz_fail("%zu nodes, read again %zu", a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        const Json *x = &a->node[i], *y = &b->node[i];
        bool same = x->is_int ? y->is_int && x->integer == y->integer : x->num == y->num;
        if (x->type != y->type || x->n != y->n || x->skip != y->skip)
            fuzz_fail("node %zu: another value", i);
        if (x->type == J_NUMBER && !same)
            fuzz_fail("node %zu: %.17g, read again %.17g", i, x->num, y->num);
        if (str_cmp(x->key, y->key)) fuzz_fail("node %zu: another name", i);
        if (x->type == J_STRING && str_cmp(x->str, y->str)) fuzz_fail("node %zu: another text", i);
    }
}

void fuzz_one(const uint8_t *data, size_t size) {
    JsonDoc doc = { 0 }, again = { 0 };
    Buf out = { NULL, 0, 0 };
    Error e = { "" };
    if (!json_parse(&doc, (const char *)data, size, &e)) {
        fuzz_refused(&e);
        return;
    }
    write_value(&out, doc.node);
    if (!json_parse(&again, out.data, out.n, &e)) fuzz_fail("what was written: %s", e.text);
    compare(&doc, &again);
    json_free(&doc);
    json_free(&again);
    buf_free(&out);
}
