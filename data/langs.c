/* langs.c: signals of C#, Go, and what Python and JavaScript have without a parser. See
 * matchers.h. */

#include "matchers.h"

/* ------------------------------------------------------------------------------------------------
 * 1. C# */

/* \w+\s+\w+\s*\([^)]*\) with an optional <\w+> and white space before it, unless a word that
 * begins with one of `not` stands there. */
static const char *typed_function(const char *p, const char *end, const char *const * not ) {
    if (any_of(p, end, not )) return NULL;
    if (p < end && *p == '<') {
        const char *q = skip_word(p + 1, end);
        if (q == p + 1 || q >= end || *q != '>') return NULL;
        p = skip_space(q + 1, end);
    }
    const char *q = skip_word(p, end), *name = skip_space(q, end);
    if (q == p || name == q) return NULL;
    q = skip_word(name, end);
    return q > name ? behind_parenthesis(skip_space(q, end), end) : NULL;
}

static const char *cs_function(const char *p, const char *end) {
    static const char *const access[] = { "public", "protected", "private", "internal", NULL };
    static const char *const kinds[] = {
        "static", "virtual", "override", "abstract", "async", NULL
    };
    static const char *const not [] = { "public", "private", "protected", "if", "else", NULL };
    const char *start[2] = { spaced_type(p, end, access), p }, *hit = NULL;
    for (int i = 0; i < 2 && !hit; i++) {
        if (!start[i]) continue;
        const char *q = spaced_type(start[i], end, kinds);
        if (q) hit = typed_function(q, end, not );
        if (!hit) hit = typed_function(start[i], end, not );
    }
    return hit;
}

static const char *cs_using(const char *p, const char *end) { /* using\s+[a-zA-Z0-9_.]+\s*; */
    const char *q = spaced_word(p, end, "using"), *name = q;
    while (q && q < end && (isalnum((uint8_t)*q) || *q == '_' || *q == '.')) q++;
    if (q == name) return NULL;
    q = skip_space(q, end);
    return q < end && *q == ';' ? q + 1 : NULL;
}

static const char *cs_return(const char *p, const char *end) { /* return\b(?:\s+[^;\n]+)?\s*; */
    if (!keyword_at(p, end, "return")) return NULL;
    p = skip_space(p + 6, end);
    while (p < end && *p != ';' && *p != '\n') p++;
    p = skip_space(p, end);
    return p < end && *p == ';' ? p + 1 : NULL;
}

static const char *const cs_types[] = { "int",  "float", "double", "char",    "string",
                                        "bool", "byte",  "sbyte",  "short",   "ushort",
                                        "uint", "long",  "ulong",  "decimal", NULL };
static const char *const cs_types_and_var[] = { "int",    "float", "double",  "char",
                                                "string", "var",   "bool",    "byte",
                                                "sbyte",  "short", "ushort",  "uint",
                                                "long",   "ulong", "decimal", NULL };

/* Matches of \b(?:types)\s+\w+, with \s*; behind them where `semicolon`. */
static size_t declarations(Str code, const char *const *types, bool semicolon) {
    const char *p = code.s, *end = p + code.n;
    size_t n = 0;
    while (p < end) {
        const char *word = skip_word(p, end), *q;
        if (word == p) {
            size_t len;
            (void)char_at(p, end, &len);
            p += len;
            continue;
        }
        q = spaced_type(p, end, types);
        if (q) q = semicolon ? name_and_semicolon(q, end) : skip_word(q, end) > q ? q : NULL;
        n += q != NULL;
        p = q ? q : word;
    }
    return n;
}

static size_t cs_classes(Str code) { /* \bclass\s+\w+ */
    const char *p = code.s, *end = p + code.n;
    size_t n = 0, len;
    for (; p < end && (p = (const char *)memmem(p, (size_t)(end - p), "class", 5)); p += 5) {
        const char *q = spaced_word(p, end, "class");
        n += q && is_word(q, end, &len) && !word_before(p, code.s);
    }
    return n;
}

void csharp_signals(Rules *r, Signals *out) {
    double lines = (double)r->code_lines.n;
    size_t functions = count_lines(r->code, cs_function);
    size_t no_logic = functions + count_lines(r->code, cs_using) +
                      declarations(r->code, cs_types, true) + count_lines(r->code, cs_return) +
                      cs_classes(r->code);
    signal_share(out, CS_FUNC_RATIO, (double)functions, lines);
    /* As released, a list is compared with 0: never equal. */
    signal_set(out, CS_VAR_ZERO, r->fix && !declarations(r->code, cs_types_and_var, false));
    signal_share(out, CS_NO_LOGIC, (double)no_logic, lines);
    signal_share(out, CS_PRINT, (double)lines_with(r, "Console.WriteLine", NULL, false), lines);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Go */

/* func, at the very start of a line, a receiver (name *Type), a name, (...), results. */
static const char *go_function(const char *p, const char *end) {
    if (!goes_on(p, end, "func")) return NULL;
    const char *q = skip_space(p + 4, end);
    if (q == p + 4) return NULL;
    if (q < end && *q == '(') {
        const char *name = skip_space(q + 1, end), *behind = skip_word(name, end);
        const char *type = skip_space(behind, end);
        if (behind == name || type == behind) return NULL;
        type += type < end && *type == '*';
        q = skip_word(type, end);
        if (q == type) return NULL;
        q = skip_space(q, end);
        if (q >= end || *q != ')') return NULL;
        q = skip_space(q + 1, end);
    }
    const char *name = q;
    q = skip_word(q, end);
    q = q > name ? behind_parenthesis(skip_space(q, end), end) : NULL;
    if (!q) return NULL;
    q = skip_space(q, end);
    const char *close = behind_parenthesis(q, end);
    if (close && close > q + 2) return skip_space(close, end);
    for (size_t len = 0; q < end && (*q == '[' || *q == ']' || is_word(q, end, &len));)
        q += *q == '[' || *q == ']' ? 1 : len;
    return skip_space(q, end);
}

static size_t go_functions(Str code) {
    const char *p = code.s, *end = p + code.n;
    size_t n = 0;
    while (p < end) {
        const char *stop = go_function(p, end);
        n += stop != NULL;
        p = stop && stop[-1] == '\n' ? stop : next_line(stop ? stop : p, end);
    }
    return n;
}

/* Lines that import; as released, of a block import ( ... ) only the first, `fix`: all of them. */
static size_t go_imports(Str code, bool fix) {
    const char *end = code.s + code.n;
    size_t n = 0;
    bool inside = false;
    for (const char *p = code.s, *stop; p < end; p = stop) {
        stop = next_line(p, end);
        const char *s = skip_space(p, stop), *name = spaced_word(s, stop, "import");
        const char *last = stop;
        while (last > s && isspace((uint8_t)last[-1])) last--;
        const char *close = name && *name == '"' ? find_byte(name + 1, last, '"') : NULL;
        bool opens = last - s == 8 && !memcmp(s, "import (", 8);
        n += (close && close + 1 == last && close > name + 1) || opens || inside;
        if (fix && (opens || inside)) inside = opens || last - s != 1 || *s != ')';
    }
    return n;
}

static const char *go_type(const char *p, const char *end) { /* type\s+\w+\s+(struct|...)\s*\{ } */
    static const char *const kinds[] = { "struct", "interface", NULL };
    const char *q = spaced_word(p, end, "type"), *name = q;
    if (!q) return NULL;
    q = skip_word(q, end);
    const char *kind = skip_space(q, end);
    size_t n = any_of(kind, end, kinds);
    if (q == name || kind == q || !n) return NULL;
    q = skip_space(kind + n, end);
    if (q >= end || *q != '{') return NULL;
    q = find_near(q, end, '}');
    return q ? q + 1 : NULL;
}

static const char *go_return(const char *p, const char *end) { /* return(?:\s+[^;\n]+)?\s*;?\s*$ */
    if (!goes_on(p, end, "return")) return NULL;
    const char *q = skip_space(p + 6, end), *stop = q;
    if (q > p + 6)
        while (stop < end && *stop != ';' && *stop != '\n') stop++;
    const char *hit = NULL;
    for (int i = 0; i < 2 && !hit; i++) { /* with what follows on the line, or without it */
        const char *rest = skip_space(i ? p + 6 : stop, end);
        if (rest < end && *rest == ';') hit = end_of_line(rest + 1, end);
        if (!hit) hit = end_of_line(i ? p + 6 : stop, end);
    }
    return hit;
}

static const char *go_variable(const char *p, const char *end) { /* var\s+\w+\s+\w+\s*;?\s*$ */
    const char *q = spaced_word(p, end, "var"), *name = q;
    if (!q) return NULL;
    q = skip_word(q, end);
    const char *type = skip_space(q, end);
    if (q == name || type == q) return NULL;
    q = skip_word(type, end);
    if (q == type) return NULL;
    const char *semicolon = skip_space(q, end), *hit = NULL;
    if (semicolon < end && *semicolon == ';') hit = end_of_line(semicolon + 1, end);
    return hit ? hit : end_of_line(q, end);
}

/* var or const and a name, or := somewhere. */
static bool go_declares(Str code) {
    const char *p = code.s, *end = p + code.n;
    for (; (p = skip_space(p, end)) < end; p = next_line(p, end))
        if (spaced_word(p, end, "var") || spaced_word(p, end, "const")) return true;
    return find_word(code, ":=", false) != NULL;
}

static bool ends_with_test(Str name) {
    return name.n >= 8 && find_word((Str){ name.s + name.n - 8, 8 }, "_test.go", true);
}

void go_signals(Rules *r, Signals *out) {
    double lines = (double)r->code_lines.n;
    size_t functions = go_functions(r->code);
    size_t no_logic = functions + go_imports(r->code, r->fix) + count_lines(r->code, go_variable) +
                      count_lines(r->code, go_return) + count_lines(r->code, go_type);
    /* As released, the name comes without its extension, and so never ends with it. */
    signal_set(out, GO_TESTFILE, r->fix && ends_with_test(r->file->name));
    signal_share(out, GO_FUNC_RATIO, (double)functions, lines);
    signal_set(out, GO_VAR_ZERO, r->fix && !go_declares(r->code)); /* as in C#: never */
    signal_share(out, GO_NO_LOGIC, (double)no_logic, lines);
    signal_share(out, GO_PRINT, (double)lines_with(r, "fmt.Print", NULL, false), lines);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Python and JavaScript, without what their parsers add (parsers.c) */

static double share(size_t part, size_t whole) { return whole ? (double)part / (double)whole : 0; }

void python_signals(Rules *r, Signals *out) {
    size_t lines = r->code_lines.n;
    signal_set(out, PY_PASS, share(lines_with(r, "pass", NULL, true), lines));
    signal_set(out, PY_IMPORT, share(lines_with(r, "import", NULL, true), lines));
    signal_share(out, PY_PRINT, (double)lines_with(r, "print", NULL, false), (double)lines);
}

void javascript_signals(Rules *r, Signals *out) {
    signal_share(out, JS_PRINT, (double)lines_with(r, "console.log", NULL, false),
                 (double)r->code_lines.n);
}
