/* langjava.c: signals of Java. See matchers.h. */

#include "matchers.h"

typedef struct {
    size_t functions, modified, legal_functions;
    size_t classes, modified_classes, legal_classes;
    size_t variables, legal_variables;
} JavaCounts;

static const char *const modifiers[] = { "public", "protected", "private", "static", NULL };

/* name\s+name\s*(...) behind any number of modifiers, of which the last, `static`, may be the first
 * name itself; and throws. */
static const char *java_function(const char *p, const char *end) {
    static const char *const not [] = { "public", "private", "protected", "else", "if", NULL };
    const char *at[32] = { p }, *q, *hit = NULL;
    int n = 0;
    while (n < 31 && (q = spaced_type(at[n], end, modifiers))) at[++n] = q;
    for (; n >= 0 && !hit; n--) {
        q = at[n];
        if (any_of(q, end, not )) continue;
        if (q < end && *q == '<') {
            const char *type = skip_word(q + 1, end);
            if (type == q + 1 || type >= end || *type != '>') continue;
            q = skip_space(type + 1, end);
        }
        const char *type_end = skip_word(q, end), *name = skip_space(type_end, end);
        const char *name_end = skip_word(name, end);
        if (type_end > q && name > type_end && name_end > name)
            hit = behind_parenthesis(skip_space(name_end, end), end);
    }
    if (!hit) return NULL;
    q = spaced_word(skip_space(hit, end), end, "throws");
    if (!q) return hit;
    size_t len = 0;
    while (q < end && (*q == ' ' || *q == ',' || is_word(q, end, &len)))
        q += *q == ' ' || *q == ',' ? 1 : len;
    return q;
}

/* Modifiers, a basic type, String or a name that begins with a capital, white space, and a name:
 * the place behind, or NULL. */
static const char *java_declaration(const char *p, const char *end) {
    static const char *const more[] = { "public", "protected", "private", "final", "static", NULL };
    static const char *const types[] = { "int", "float", "boolean", "char", "double", NULL };
    const char *q;
    while ((q = spaced_type(p, end, more))) p = q;
    q = spaced_type(p, end, types);
    if (!q && p < end && isupper((uint8_t)*p)) {
        size_t len;
        for (q = p + 1; q < end && (*q == '<' || *q == '>' || is_word(q, end, &len));)
            q += *q == '<' || *q == '>' ? 1 : len;
        const char *name = skip_space(q, end);
        q = name > q ? name : NULL;
    }
    const char *name_end = q ? skip_word(q, end) : NULL;
    return name_end > q ? name_end : NULL;
}

static const char *java_variable(const char *p, const char *end) { /* ... (= [^;]+)?; */
    p = java_declaration(p, end);
    if (!p) return NULL;
    p = skip_space(p, end);
    if (p < end && *p == '=') {
        const char *stop = find_near(p, end, ';');
        return stop && stop > p + 1 ? stop + 1 : NULL;
    }
    return p < end && *p == ';' ? p + 1 : NULL;
}

static const char *java_simple_variable(const char *p, const char *end) {
    p = java_declaration(p, end);
    if (!p) return NULL;
    p = skip_space(p, end);
    return p < end && *p == ';' ? p + 1 : NULL;
}

static const char *java_import(const char *p, const char *end) { /* import\s+[\w.*]+\s*;\s*$ */
    const char *q = spaced_word(p, end, "import"), *name = q;
    size_t len = 0;
    while (q && q < end && (*q == '.' || *q == '*' || is_word(q, end, &len)))
        q += *q == '.' || *q == '*' ? 1 : len;
    if (q == name) return NULL;
    q = skip_space(q, end);
    return q < end && *q == ';' ? end_of_line(q + 1, end) : NULL;
}

/* return; right before the end of the line, or return and a name or a string and ; */
static const char *java_return(const char *p, const char *end) {
    if (!goes_on(p, end, "return")) return NULL;
    p += 6;
    if (p < end && *p == ';') return p + 1 == end || p[1] == '\n' ? p + 1 : NULL;
    const char *q = skip_space(p, end);
    if (q == p) return NULL;
    if (q < end && *q == '"') {
        for (q++; q < end && *q != '"'; q++)
            if (*q == '\\' && ++q < end && *q == '\n') return NULL;
        q = q < end ? q + 1 : end;
    } else {
        q = skip_word(q, end);
    }
    q = skip_space(q, end);
    return q < end && *q == ';' ? end_of_line(q + 1, end) : NULL;
}

/* A modifier, final or abstract, class and a name: the place behind; *name: where it begins. */
static const char *java_class(const char *p, const char *end, const char **name) {
    static const char *const access[] = { "public", "protected", "private", NULL };
    static const char *const kinds[] = { "final", "abstract", NULL };
    const char *q = spaced_type(p, end, access);
    size_t len = 0;
    if (q) p = q;
    q = spaced_type(p, end, kinds);
    *name = spaced_word(q ? q : p, end, "class");
    if (!*name) return NULL;
    for (q = *name; q < end && (*q == '<' || *q == '>' || is_word(q, end, &len));)
        q += *q == '<' || *q == '>' ? 1 : len;
    return q > *name ? q : NULL;
}

/* [first][a-zA-Z0-9]* : `upper` and `lower` say what the first may be. */
static bool legal_name(const char *p, const char *end, bool upper, bool lower) {
    if (p >= end || !((upper && isupper((uint8_t)*p)) || (lower && islower((uint8_t)*p))))
        return false;
    while (p < end && isalnum((uint8_t)*p)) p++;
    return p == end;
}

static bool has_access(const char *p, const char *end) {
    Str s = { p, (size_t)(end - p) };
    return find_word(s, "public", false) || find_word(s, "protected", false) ||
           find_word(s, "private", false);
}

/* The released filter looks at the second character of the match where it means the name. */
static JavaCounts count_java(const Rules *r) {
    JavaCounts n = { 0 };
    const char *end = r->code.s + r->code.n, *name, *stop;
    for (const char *p = r->code.s; (p = skip_space(p, end)) < end; p = next_line(stop, end)) {
        stop = java_function(p, end);
        n.functions += stop != NULL;
        n.modified += stop && has_access(p, stop);
        n.legal_functions += stop && isalpha((uint8_t)p[1]);
        if (!stop) stop = p;
    }
    for (const char *p = r->code.s; (p = skip_space(p, end)) < end; p = next_line(stop, end)) {
        stop = java_class(p, end, &name);
        n.classes += stop != NULL;
        n.modified_classes += stop && r->fix && has_access(p, name);
        n.legal_classes += stop && legal_name(name, stop, true, false);
        if (!stop) stop = p;
    }
    for (const char *p = r->code.s; (p = skip_space(p, end)) < end; p = next_line(stop, end)) {
        stop = java_variable(p, end);
        n.variables += stop != NULL;
        n.legal_variables += stop && islower((uint8_t)p[1]);
        if (!stop) stop = p;
    }
    return n;
}

void java_signals(Rules *r, Signals *out) {
    JavaCounts n = count_java(r);
    double lines = (double)r->code_lines.n;
    size_t no_logic = n.functions + count_lines(r->code, java_import) +
                      count_lines(r->code, java_simple_variable) +
                      count_lines(r->code, java_return) + n.classes;
    size_t all = n.functions + n.classes, modified = n.modified + n.modified_classes;
    signal_set(out, JAVA_VAR_ZERO, !n.variables);
    signal_share(out, JAVA_FUNC_RATIO, (double)n.functions, lines);
    signal_share(out, JAVA_NO_LOGIC, (double)no_logic, lines);
    /* As released it counts those that have one; fixed, those that have none. */
    signal_share(out, JAVA_NO_MODIFIER, (double)(r->fix ? all - modified : modified), (double)all);
    signal_share(out, JAVA_VAR_NAME, (double)n.legal_variables, (double)n.variables);
    signal_share(out, JAVA_FUNC_NAME, (double)n.legal_functions, (double)n.functions);
    signal_share(out, JAVA_CLASS_NAME, (double)n.legal_classes, (double)n.classes);
    signal_share(out, JAVA_PRINT, (double)lines_with(r, "System.out.print", NULL, false), lines);
}
