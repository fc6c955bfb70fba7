/* json.h: one small strict JSON reader (RFC 8259) for everyone; jsonwrite.h has the writer.
 *
 * What to know first: a document becomes one flat array of nodes in the order of the text. A node's
 * first child stands right behind it, its next sibling `skip` nodes (its whole subtree) further:
 *
 *     {"a": [1, 2], "b": null}        node   0 object   1 "a" array   2 1   3 2   4 "b" null
 *                                     skip   5          3             1     1     1
 *
 * Refused, with the place: anything after the document, a member name used twice, nesting deeper
 * than 64, bytes that are not UTF-8, half a surrogate pair, numbers beyond a double. In use:
 *
 *     JsonDoc doc = { 0 };
 *     if (json_parse(&doc, text, n, &e) && json_int(doc.node, "layers", true, 1, 64, &layers, &e))
 *         for (const Json *x = json_first(doc.node); x; x = json_next(doc.node, x)) ...
 *     json_free(&doc);
 * Test: tests/test_format.c, tests/badinput.py. */
#ifndef OC_JSON_H
#define OC_JSON_H

#include "files.h"     /* Error, Str */
#include "jsonwrite.h" /* utf8_length, utf8_put; and for who includes json.h: json_put_* */

enum { J_NULL, J_BOOL, J_NUMBER, J_STRING, J_ARRAY, J_OBJECT, JSON_MAX_DEPTH = 64 };
static const char *const json_type_name[] OC_UNUSED = { "null",     "true or false", "a number",
                                                        "a string", "an array",      "an object" };

typedef struct {
    Str key, str; /* the member's name, where the parent is an object; a string's bytes */
    double num;
    int64_t integer; /* 0 or 1 of a bool; a number that is_int: exact to 63 bits where written as */
    bool is_int;     /* digits only, to 2^53 where written as 1e3 or 2.0 */
    uint8_t type;
    uint32_t n, skip; /* members or items; nodes of this subtree, itself included */
} Json;

/* node[0] is the document. Strings are copied, so the text may go; a JsonDoc may be parsed into
 * again (JSON Lines), which reuses its memory. */
typedef struct {
    Json *node;
    size_t n, cap;
    char *text; /* text_n bytes: all strings, unescaped */
    size_t text_n;
} JsonDoc;

OC_API void json_free(JsonDoc *d) {
    free(d->node);
    free(d->text);
    memset(d, 0, sizeof *d);
}

/* ------------------------------------------------------------------------------------------------
 * 1. Access. The functions that take a key leave *out alone where the member is absent or null,
 * unless it is required; a member of the wrong type is an error either way. */

OC_API const Json *json_first(const Json *parent) { return parent->n ? parent + 1 : NULL; }
OC_API const Json *json_next(const Json *parent, const Json *child) {
    const Json *next = child + child->skip;
    return next < parent + parent->skip ? next : NULL;
}

/* The member of that name or NULL, also where obj is NULL or no object. Linear: to look up
 * thousands of members, walk through them once instead. */
OC_API const Json *json_get(const Json *obj, const char *key) {
    if (!obj || obj->type != J_OBJECT) return NULL;
    for (const Json *x = json_first(obj); x; x = json_next(obj, x))
        if (str_is(x->key, key)) return x;
    return NULL;
}

/* Finds obj's member of that type; *out is NULL where it may be and is absent or null. */
OC_API bool json_member(const Json *obj, const char *key, bool required, uint8_t type,
                        const Json **out, Error *e) {
    const Json *j = json_get(obj, key);
    *out = j && j->type == type ? j : NULL;
    if (*out || (!required && (!j || j->type == J_NULL))) return true;
    return fail(e, "key %s: %s, expected %s", key, j ? json_type_name[j->type] : "missing",
                json_type_name[type]);
}

OC_API bool json_int(const Json *obj, const char *key, bool required, int64_t min, int64_t max,
                     int64_t *out, Error *e) {
    const Json *j;
    if (!json_member(obj, key, required, J_NUMBER, &j, e)) return false;
    if (j && !j->is_int)
        return fail(e, "key %s: %.17g, expected a whole number of at most 63 bits", key, j->num);
    if (j && (j->integer < min || j->integer > max))
        return fail(e, "key %s: %lld, expected %lld to %lld", key, (long long)j->integer,
                    (long long)min, (long long)max);
    if (j) *out = j->integer;
    return true;
}

OC_API bool json_num(const Json *obj, const char *key, bool required, double *out, Error *e) {
    const Json *j;
    bool ok = json_member(obj, key, required, J_NUMBER, &j, e);
    if (j) *out = j->num;
    return ok;
}
OC_API bool json_bool(const Json *obj, const char *key, bool required, bool *out, Error *e) {
    const Json *j;
    bool ok = json_member(obj, key, required, J_BOOL, &j, e);
    if (j) *out = j->integer;
    return ok;
}
OC_API bool json_str(const Json *obj, const char *key, bool required, Str *out, Error *e) {
    const Json *j;
    bool ok = json_member(obj, key, required, J_STRING, &j, e);
    if (j) *out = j->str;
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Reading: one function per rule of the grammar; r->p is the next byte to look at. */

typedef struct {
    JsonDoc *doc;
    const char *text, *p, *end;
    Error *e;
} JsonReader;

OC_API bool json_fail(const JsonReader *r, const char *expected) {
    char found[24] = "the end of the text";
    int c = r->p < r->end ? (uint8_t)*r->p : -1;
    if (c >= 0) snprintf(found, sizeof found, c > 32 && c < 127 ? "'%c'" : "byte %02x", c);
    return fail(r->e, "JSON byte %td: %s, expected %s", r->p - r->text, found, expected);
}

OC_API bool json_hex(JsonReader *r, uint32_t *c) { /* the four digits of \uXXXX */
    *c = 0;
    for (int i = 0; i < 4; i++, r->p++) {
        if (r->p == r->end || !isxdigit((uint8_t)*r->p)) return json_fail(r, "4 hex digits");
        *c = *c << 4 | (uint32_t)(isdigit((uint8_t)*r->p) ? *r->p - '0' : (*r->p | 32) - 'a' + 10);
    }
    return true;
}

/* One escape, r->p behind its backslash; *to moves on. Never writes more bytes than it reads. */
OC_API bool json_escape(JsonReader *r, char **to) {
    static const char letter[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    const char *hit = r->p < r->end && *r->p ? strchr(letter, *r->p) : NULL;
    uint32_t c = hit ? (uint32_t)meaning[hit - letter] : 0, low = 0;
    if (!hit && (r->p == r->end || *r->p != 'u')) return json_fail(r, "one of \"\\/bfnrtu");
    r->p++;
    if (!hit && !json_hex(r, &c)) return false;
    if (c >= 0xD800 && c < 0xE000) { /* two escapes make one character beyond U+FFFF */
        bool pair = c < 0xDC00 && r->end - r->p >= 6 && r->p[0] == '\\' && r->p[1] == 'u';
        r->p += pair ? 2 : 0;
        if (pair && !json_hex(r, &low)) return false;
        if (low < 0xDC00 || low > 0xDFFF) return json_fail(r, "both halves of a surrogate pair");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    *to = utf8_put(*to, c);
    return true;
}

OC_API bool json_string(JsonReader *r, Str *out) { /* r->p at the opening quote */
    char *start = r->doc->text + r->doc->text_n, *to = start;
    for (r->p++;;) {
        size_t run = (size_t)(plain_end(r->p, r->end) - r->p); /* most are plain */
        memcpy(to, r->p, run);
        to += run, r->p += run;
        if (r->p == r->end || *r->p == '"') break;
        int n = utf8_length(r->p, r->end);
        if (!n) return json_fail(r, "UTF-8");
        if ((uint8_t)*r->p < 32) return json_fail(r, "control characters in strings as \\uXXXX");
        bool escape = *r->p == '\\';
        if (escape && (r->p++, !json_escape(r, &to))) return false;
        while (!escape && n--) *to++ = *r->p++;
    }
    if (r->p == r->end) return json_fail(r, "the closing quote of a string");
    r->p++;
    *out = (Str){ start, (size_t)(to - start) };
    r->doc->text_n += out->n;
    return true;
}

OC_API bool json_digits(JsonReader *r) {
    const char *start = r->p;
    while (r->p < r->end && isdigit((uint8_t)*r->p)) r->p++;
    return r->p > start || json_fail(r, "a digit");
}

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? */
OC_API bool json_number(JsonReader *r, Json *j) {
    const char *start = r->p, *whole = start + (*start == '-');
    char digits[512]; /* a copy that ends in NUL, which the text may not */
    r->p = whole;
    if (!json_digits(r)) return false;
    if (*whole == '0' && r->p - whole > 1) return json_fail(r, "no digits after a leading 0");
    whole = r->p; /* the end of the part before point and exponent */
    if (r->p < r->end && *r->p == '.' && (r->p++, !json_digits(r))) return false;
    if (r->p < r->end && (*r->p | 32) == 'e') {
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-')) r->p++;
        if (!json_digits(r)) return false;
    }
    int n = (int)(r->p - start < 512 ? r->p - start : 512);
    if (n == 512) return json_fail(r, "at most 511 characters in the number before it");
    snprintf(digits, sizeof digits, "%.*s", n, start);
    j->type = J_NUMBER;
    j->num = strtod(digits, NULL);
    if (!isfinite(j->num)) return json_fail(r, "a number in the range of a double before it");
    errno = 0;
    j->integer = strtoll(digits, NULL, 10);
    j->is_int = whole == r->p && !errno;
    if (!j->is_int && fabs(j->num) <= 0x1p53 && j->num == nearbyint(j->num)) {
        j->integer = (int64_t)j->num;
        j->is_int = true;
    }
    return true;
}

OC_API int json_key_cmp(const void *a, const void *b) {
    return str_cmp(**(Str *const *)a, **(Str *const *)b);
}

/* Refuses a member name that an object has twice: programs differ in which one they believe. */
OC_API bool json_unique(const Json *obj, Error *e) {
    const Str **key = (const Str **)xcalloc(obj->n, sizeof *key, "JSON names"), *twice = NULL;
    uint32_t n = 0;
    for (const Json *x = json_first(obj); x; x = json_next(obj, x)) key[n++] = &x->key;
    qsort((void *)key, n, sizeof *key, json_key_cmp);
    for (uint32_t i = 1; i < n && !twice; i++)
        if (!str_cmp(*key[i - 1], *key[i])) twice = key[i];
    free((void *)key);
    return !twice || fail(e, "JSON key %.*s: found twice in an object, expected once", STR(*twice));
}

OC_API int json_peek(JsonReader *r) { /* the next byte that is not white space, or -1 */
    while (r->p < r->end && *r->p && strchr(" \n\t\r", *r->p)) r->p++;
    return r->p < r->end ? (uint8_t)*r->p : -1;
}

OC_API bool json_value(JsonReader *r, Str key, int depth); /* and it calls json_container */

OC_API bool json_container(JsonReader *r, size_t at, int depth) {
    int close = *r->p++ == '{' ? '}' : ']', more = json_peek(r) != close;
    if (depth >= JSON_MAX_DEPTH) return json_fail(r, "at most 64 levels of nesting");
    for (; more; r->p += more) {
        Str key = str_of("");
        if (close == '}') {
            if (json_peek(r) != '"') return json_fail(r, "a member name in quotes");
            if (!json_string(r, &key)) return false;
            if (json_peek(r) != ':') return json_fail(r, "':'");
            r->p++;
        }
        if (!json_value(r, key, depth + 1)) return false;
        r->doc->node[at].n++;
        more = json_peek(r) == ',';
    }
    if (json_peek(r) != close) return json_fail(r, close == '}' ? "',' or '}'" : "',' or ']'");
    r->p++;
    Json *j = &r->doc->node[at]; /* only now: the array of nodes moves as it grows */
    j->type = close == '}' ? J_OBJECT : J_ARRAY;
    j->skip = (uint32_t)(r->doc->n - at);
    return j->type == J_ARRAY || json_unique(j, r->e);
}

OC_API bool json_value(JsonReader *r, Str key, int depth) {
    static const char *const word[] = { "null", "false", "true" };
    JsonDoc *d = r->doc;
    if (d->n == d->cap) {
        d->cap = d->cap * 2 + 16;
        d->node = (Json *)xrealloc(d->node, d->cap, sizeof *d->node, "JSON nodes");
    }
    Json *j = &d->node[d->n++];
    memset(j, 0, sizeof *j);
    j->key = key;
    j->skip = 1;
    int c = json_peek(r);
    if (c == '{' || c == '[') return json_container(r, d->n - 1, depth);
    if (c == '-' || (c >= '0' && c <= '9')) return json_number(r, j);
    if (c == '"') {
        j->type = J_STRING;
        return json_string(r, &j->str);
    }
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(word[i]);
        if ((size_t)(r->end - r->p) < n || memcmp(r->p, word[i], n)) continue;
        r->p += n;
        j->type = i ? J_BOOL : J_NULL;
        j->integer = i == 2;
        return true;
    }
    return json_fail(r, "a value");
}

/* Parses the whole of (text, n) into d; on failure e says where and why, and d is empty. */
OC_API bool json_parse(JsonDoc *d, const char *text, size_t n, Error *e) {
    JsonReader r = { d, text, text, text + n, e };
    d->n = d->text_n = 0;
    bool ok = n <= UINT32_MAX || fail(e, "JSON of %zu bytes, expected less than 4 GB", n);
    if (ok) d->text = (char *)xrealloc(d->text, n, 1, "JSON strings"); /* unescaping never grows */
    ok = ok && json_value(&r, str_of(""), 0);
    if (ok && json_peek(&r) >= 0) ok = json_fail(&r, "nothing more");
    if (!ok) json_free(d);
    return ok;
}

#endif
