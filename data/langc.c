/* langc.c: signals of C and C++. See signals.h for what a scanner is. */

#include "matchers.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Function headers:
 *
 *     \b((?:[a-zA-Z_]\w*\s*(?:\*+)?\s+)+(?:\*?\s*[a-zA-Z_]\w*)\((?:[^)]*)\)\s*)
 *
 * in words: two or more names, the last right before (, with at least one space between them, where
 * stars may stand in the space or, one of them, right before the last name; then the next ). */

enum { HEADER_NO, HEADER_YES, HEADER_NEVER }; /* NEVER: no ) is left in the text */

/* At the first name. *at: where to go on. */
static int function_header(const char *p, const char *end, const char **at) {
    for (bool last = false, first = true;; first = false) { /* last: this name must be the last */
        const char *name = p;
        if (!ident_start(p, end)) return *at = p > *at ? p : *at + 1, HEADER_NO;
        p = skip_word(p, end);
        if (p < end && *p == '(' && !first) {
            const char *close = find_byte(p, end, ')');
            if (!close) return HEADER_NEVER;
            return *at = skip_space(close + 1, end), HEADER_YES;
        }
        if (last) return *at = name, HEADER_NO;
        const char *space = skip_space(p, end), *star = space;
        while (star < end && *star == '*') star++;
        const char *behind_stars = skip_space(star, end);
        last = star > space && behind_stars == star;
        if (space == p && (star == space || last)) return *at = p, HEADER_NO; /* no space */
        if (last && star - space > 1) return *at = star, HEADER_NO;
        *at = p;
        p = behind_stars;
    }
}

static size_t count_functions(Str code) {
    const char *p = code.s, *end = p + code.n;
    size_t n = 0;
    while (p < end) {
        if (!ident_start(p, end) || word_before(p, code.s)) {
            size_t len;
            (void)char_at(p, end, &len);
            p += len;
            continue;
        }
        const char *at = p;
        int header = function_header(p, end, &at);
        if (header == HEADER_NEVER) return n;
        n += header == HEADER_YES;
        p = at > p ? at : p + 1;
    }
    return n;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Other lines without logic. Each match_ function looks at the first visible character of a line
 * and returns the place behind the match, or NULL. */

static const char *match_include(const char *p, const char *end) {
    if (*p != '#') return NULL; /* #\s*include\s+["<][^">]+[">] */
    p = skip_space(p + 1, end);
    if (!goes_on(p, end, "include")) return NULL;
    const char *q = skip_space(p + 7, end), *name = q + 1;
    if (q == p + 7 || q >= end || (*q != '"' && *q != '<')) return NULL;
    if (end - name > 4096) end = name + 4096; /* a name of a file is not longer */
    for (q = name; q < end && *q != '"' && *q != '>';) q++;
    return q > name && q < end ? q + 1 : NULL;
}

static const char *match_class(const char *p, const char *end) {
    const char *q = spaced_word(p, end, "class"); /* class\s+\w+\s*(:[^{]*)?\{ */
    if (!q) return NULL;
    p = skip_word(q, end);
    if (p == q) return NULL;
    p = skip_space(p, end);
    if (p < end && *p == ':') p = find_near(p, end, '{');
    return p && p < end && *p == '{' ? p + 1 : NULL;
}

static const char *match_variable(const char *p, const char *end) {
    static const char *const types[] = { "int",  "float",       "double", "char",
                                         "bool", "std::string", "auto",   NULL };
    const char *q = spaced_word(p, end, "unsigned");
    return name_and_semicolon(spaced_type(q ? q : p, end, types), end);
}

static const char *quoted(const char *p, const char *end) { /* a string with escapes, or NULL */
    char quote = *p;
    for (p++; p < end && *p != quote; p++) p += *p == '\\';
    return p < end ? p + 1 : NULL;
}

/* return\s*(?:(\w+|a string)\s*)?;\s*$ */
static const char *match_return(const char *p, const char *end) {
    if (!goes_on(p, end, "return")) return NULL;
    p = skip_space(p + 6, end);
    const char *q = p < end && (*p == '"' || *p == '\'') ? quoted(p, end) : skip_word(p, end);
    p = q ? skip_space(q, end) : end;
    return p < end && *p == ';' ? end_of_line(p + 1, end) : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 3. The signals */

static size_t count_main(Str code) { /* \bmain\s*\([^)]*\)\s*\{ */
    const char *p = code.s, *end = p + code.n, *close = p, *brace = p;
    size_t n = 0;
    while (p < end && (p = (const char *)memmem(p, (size_t)(end - p), "main", 4))) {
        const char *q = skip_space(p + 4, end);
        bool is = !word_before(p, code.s) && q < end && *q == '(';
        if (is && close < q) { /* many may share it, and what is behind it */
            close = find_byte(q, end, ')');
            if (!close) return n;
            brace = skip_space(close + 1, end);
        }
        bool hit = is && brace < end && *brace == '{';
        n += hit;
        p = hit ? brace : p + 4;
    }
    return n;
}

/* Is there a declaration? The released expression finds one where a word, white space, perhaps
 * stars, and a name stand before ; or = ... ; or a comma and more of the same. */
static bool declares(Str code) {
    const char *p = code.s, *end = p + code.n, *last = end;
    size_t len = 0;
    while (last > p && last[-1] != ';') last--; /* behind the last semicolon */
    for (const char *q; p<last; p = q> p ? q : p + 1) {
        q = skip_word(p, last);
        if (q == p) continue;
        const char *t = skip_space(q, last);
        if (t == q) continue;
        for (;;) {
            while (t < last && *t == '*') t++;
            t = skip_space(t, last);
            const char *name = t;
            while (t < last && (*t == '[' || *t == ']' || is_word(t, last, &len)))
                t += *t == '[' || *t == ']' ? 1 : len;
            if (t == name) break;
            t = skip_space(t, last);
            if (t < last && (*t == ';' || *t == '=')) return true;
            if (t >= last || *t != ',') break;
            t = skip_space(t + 1, last);
        }
    }
    return false;
}

/* The next # with the name of a directive behind it, or end. */
static const char *next_directive(const char *p, const char *end) {
    static const char *const words[] = { "include", "define", "if",      "else",  "elif", "endif",
                                         "error",   "pragma", "warning", "undef", "line", NULL };
    for (; (p = find_byte(p, end, '#')); p++)
        if (any_of(skip_space(p + 1, end), end, words)) return p;
    return end;
}

/* Lines with a directive, struct or using. */
static size_t count_directives(Str code) {
    static const char *const words[] = { "struct", "using" };
    const char *p = code.s, *end = p + code.n, *hit[3] = { p, p, p };
    size_t n = 0;
    for (; p < end; n++) {
        for (int i = 0; i < 3; i++) {
            if (n && hit[i] >= p) continue;
            hit[i] = i == 2 ? next_directive(p, end)
                            : find_word((Str){ p, (size_t)(end - p) }, words[i], false);
            if (!hit[i]) hit[i] = end;
        }
        p = hit[0] < hit[1] ? hit[0] : hit[1];
        if (hit[2] < p) p = hit[2];
        if (p == end) break;
        p = next_line(p, end);
    }
    return n;
}

static void directives(const Rules *r, int signal, Signals *out) {
    static const char *const headers[] = { "h", "hpp", "hxx", "hh", "h++" };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        if (str_is(r->file->ext, headers[i])) {
            signal_none(out, signal);
            return;
        }
    signal_share(out, signal, (double)count_directives(r->code), (double)r->code_lines.n);
}

static bool bits_stdc(const Rules *r) { /* among the first 200 characters */
    const char *s = skip_space(r->code.s, r->code.s + r->code.n);
    size_t n = (size_t)(r->code.s + r->code.n - s);
    return find_word((Str){ s, n < 200 ? n : 200 }, "bits/stdc++.h", true) != NULL;
}

void c_signals(Rules *r, Signals *out) {
    bool cpp = r->file->table == LANG_CPP;
    double lines = (double)r->code_lines.n;
    size_t functions = count_functions(r->code);
    size_t print = lines_with(r, "printf", cpp ? "cout" : NULL, false);
    size_t no_logic = functions + count_lines(r->code, match_include) +
                      count_lines(r->code, match_variable) + count_lines(r->code, match_return) +
                      count_lines(r->code, match_class);
    signal_share(out, cpp ? CPP_FUNC_RATIO : C_FUNC_RATIO, (double)functions, lines);
    signal_set(out, cpp ? CPP_BITSSTDC : C_BITSSTDC, bits_stdc(r));
    signal_set(out, cpp ? CPP_MAIN : C_MAIN, (double)count_main(r->code));
    signal_share(out, cpp ? CPP_GOTO : C_GOTO, (double)lines_with(r, "goto", NULL, false), lines);
    signal_set(out, cpp ? CPP_VAR_ZERO : C_VAR_ZERO, !declares(r->code));
    signal_share(out, cpp ? CPP_NO_LOGIC : C_NO_LOGIC, (double)no_logic, lines);
    directives(r, cpp ? CPP_PREPROCESSOR : C_PREPROCESSOR, out);
    signal_share(out, cpp ? CPP_PRINT : C_PRINT, (double)print, lines);
}
