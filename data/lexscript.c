/* lexscript.c: comments of Python, shell, JavaScript and HTML. See split.h. */

#include "split.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Python. A string in triple quotes that begins a line is documentation: a comment, without the
 * white space and the letters before it. */

static bool triple(const char *p, const char *end) {
    return end - p >= 3 && (*p == '"' || *p == '\'') && p[1] == *p && p[2] == *p;
}

/* p at the first visible character of a line: documentation there, from *a to what is returned, or
 * NULL. */
static const char *docstring(Cutter *x, const char *p, const char **a) {
    for (int i = 0; i < 2 && p < x->end && *p && strchr("rRuUbB", *p); i++) p++;
    *a = p;
    if (!triple(p, x->end)) return NULL;
    return behind(x, p + 3, *p == '"' ? "\"\"\"" : "'''", *p == '"' ? 'd' : 's');
}

/* p at a quote; up to a line feed that is not escaped, or for triple quotes to their end. */
static const char *python_string(const char *p, const char *end, bool raw) {
    char quote = *p;
    bool three = triple(p, end);
    for (p += three ? 3 : 1; p < end; p++) {
        if (*p == '\\' && p + 1 < end && (!raw || (!three && p[1] == quote) || p[1] == '\\'))
            p++;
        else if (*p == quote && (!three || triple(p, end)))
            return p + (three ? 3 : 1);
        else if (*p == '\n' && !three)
            return p;
    }
    return end;
}

void lex_python(Cutter *x) {
    const char *q, *a;
    for (const char *p = x->s; p < x->end; p = q) {
        bool line = p == x->s || p[-1] == '\n';
        const char *word = line ? skip_space(p, x->end) : p;
        if (line && (q = docstring(x, word, &a))) {
            cut(x, a, q);
        } else if (word > p) {
            q = word;
        } else if (*p == '#') {
            q = line_end(p, x->end);
            cut(x, p, q);
        } else if (*p == '"' || *p == '\'') {
            bool raw = p > x->s && (p[-1] | 32) == 'r';
            raw |= p - x->s > 1 && (p[-1] | 32) == 'b' && (p[-2] | 32) == 'r';
            q = python_string(p, x->end, raw);
        } else {
            q = p + 1;
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Shell. A # begins a comment where a word begins, and not inside of "...", ${...} or $((...)),
 * which nest. */

enum { SH_ROOT, SH_STRING, SH_CURLY, SH_PAREN, SH_MATH, SH_TICKS, SH_DEPTH = 64 };

typedef struct {
    uint8_t state[SH_DEPTH]; /* deeper ones count as the deepest */
    int depth;
} Shell;

static void sh_push(Shell *sh, uint8_t state) {
    if (sh->depth + 1 < SH_DEPTH) sh->state[++sh->depth] = state;
}
static void sh_pop(Shell *sh) { sh->depth -= sh->depth > 0; }

/* << WORD ... WORD, as pygments has it: up to the next place where the word stands. */
static const char *here_document(Cutter *x, const char *p) {
    const char *end = x->end, *q = p + 2 + (p + 2 < end && p[2] == '-');
    q = skip_space(q, end);
    if (q < end && *q == '\'') q++;
    if (q < end && *q == '\\') q++;
    const char *stop = skip_word(q, end);
    if (stop == q || stop >= end || *p != '<') return NULL;
    return behind_own(x, stop + 1, q, (size_t)(stop - q));
}

/* What begins with $; p is at it. */
static const char *sh_dollar(Shell *sh, const char *p, const char *end) {
    if (goes_on(p, end, "$((")) return sh_push(sh, SH_MATH), p + 3;
    if (goes_on(p, end, "$(")) return sh_push(sh, SH_PAREN), p + 2;
    if (goes_on(p, end, "${")) return sh_push(sh, SH_CURLY), p + (goes_on(p, end, "${#") ? 3 : 2);
    if (p + 1 < end && p[1] && strchr("#$?!_*@-", p[1])) return p + 2;
    return p + 1;
}

/* One step in root or what is nested like it, p not at the end. */
static const char *sh_step(Cutter *x, Shell *sh, const char *p) {
    const char *q;
    uint8_t state = sh->state[sh->depth];
    switch (*p) {
    case '#':
        q = next_line(p, x->end);
        cut(x, p, q);
        return q;
    case '\\': return p + 2 < x->end ? p + 2 : x->end;
    case '"': return sh_push(sh, SH_STRING), p + 1;
    case '\'':
        if (p > x->s && p[-1] == '$' && (q = escaped_string(x, p))) return q;
        q = behind(x, p + 1, "'", '\'');
        return q ? q : p + 1;
    case '`':
        if (state == SH_TICKS)
            sh_pop(sh);
        else
            sh_push(sh, SH_TICKS);
        return p + 1;
    case '$': return sh_dollar(sh, p, x->end);
    case '<':
        if (goes_on(p, x->end, "<<<")) return p + 3;
        q = goes_on(p, x->end, "<<") ? here_document(x, p) : NULL;
        return q ? q : p + 1;
    case ')':
        if (state == SH_PAREN || (state == SH_MATH && goes_on(p, x->end, "))"))) {
            sh_pop(sh);
            return p + (state == SH_MATH ? 2 : 1);
        }
        return p + 1;
    case '}': return state == SH_CURLY ? sh_pop(sh), p + 1 : p + 1;
    case '=':
    case '[':
    case ']':
    case '{':
    case '(':
    case '&':
    case '|':
    case ';': return p + 1;
    default: break;
    }
    if (isspace((uint8_t)*p)) return p + 1;
    for (q = p; q < x->end && !strchr("=[]{}()$\"'`\\<&|;", *q) && !isspace((uint8_t)*q);) q++;
    return q > p ? q : p + 1; /* a word; a # inside belongs to it; a NUL is one too */
}

void lex_shell(Cutter *x) {
    Shell sh = { { SH_ROOT }, 0 };
    for (const char *p = x->s; p < x->end;) {
        uint8_t state = sh.state[sh.depth];
        if (state == SH_STRING && *p != '$') {
            if (*p == '"') sh_pop(&sh);
            p += *p == '\\' && p + 1 < x->end ? 2 : 1;
        } else if (state == SH_CURLY && *p && !strchr("}:\"'`$\\", *p)) {
            p++;
        } else if (state == SH_MATH && *p == '#') {
            p++;
        } else {
            p = sh_step(x, &sh, p);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. JavaScript. A / begins a regular expression where an operand is expected: behind an operator,
 * an opening bracket or some keywords. Where it should and does not, the rest of the line is passed
 * over. */

static const char *regex_literal(const char *p, const char *end) {
    for (p++; p < end && *p != '/'; p++) {
        if (*p == '\n') return NULL;
        if (*p == '\\') p++;
        if (*p != '[' || p[-1] == '\\') continue;
        for (p++; p < end && *p != ']'; p++) {
            if (*p == '\n') return NULL;
            p += *p == '\\';
        }
    }
    if (p >= end) return NULL;
    size_t len;
    for (p++; p < end && *p && strchr("gimuysd", *p);) p++;
    return is_word(p, end, &len) ? NULL : p;
}

/* Words that an operand follows. */
static bool before_operand(const char *p, size_t n) {
    static const char words[] =
        " typeof instanceof in void delete new for while do break return continue switch case "
        "default if else throw try catch finally yield await async this of static export import "
        "debugger extends super var let const with function class ";
    char word[16] = " ";
    if (n > 12) return false;
    memcpy(word + 1, p, n);
    word[n + 1] = ' ';
    return strstr(words, word) != NULL;
}

typedef struct {
    bool operand; /* is an operand expected? */
    int depth;    /* odd: in a `template`; even and more than 0: in ${...} of one */
} Script;

static const char *js_template(Script *js, const char *p, const char *end) {
    for (; p < end; p++) {
        if (*p == '\\')
            p++;
        else if (*p == '`')
            return js->depth--, p + 1;
        else if (goes_on(p, end, "${"))
            return js->depth++, p + 2;
    }
    return end;
}

/* One step of what is neither white space nor a comment. */
static const char *js_step(Cutter *x, Script *js, const char *p, const char *end) {
    const char *q = NULL;
    bool operand = js->operand;
    size_t len;
    if (*p == '/' && operand) {
        js->operand = false;
        q = regex_literal(p, end);
        return q ? q : line_end(p, end);
    }
    js->operand = false;
    if (*p == '"' || *p == '\'') {
        q = escaped_string(x, p);
        return q && q <= end ? q : p + 1;
    }
    if (*p == '`') return js->depth++, p + 1;
    if (*p == '}' && js->depth) return js->depth--, p + 1;
    if (is_word(p, end, &len) || *p == '$') {
        for (q = p; q < end && (*q == '$' || is_word(q, end, &len));) q += *q == '$' ? 1 : len;
        js->operand = before_operand(p, (size_t)(q - p));
        return q;
    }
    if (goes_on(p, end, "=>")) return p + 2;
    js->operand = *p && strchr("+-~?:<>=!*|&%^/{([;,", *p);
    return p + 1;
}

void lex_javascript(Cutter *x, const char *p, const char *end) {
    Script js = { true, 0 };
    const char *start = p, *q;
    if (p == x->s && (goes_on(p, end, "#!/") || goes_on(p, end, "#! /"))) {
        q = line_end(p, end);
        cut(x, p, q);
        p = q;
    }
    while (p < end) {
        if (js.depth % 2) {
            p = js_template(&js, p, end);
            continue;
        }
        if ((p == start || p[-1] == '\n') && (*p == '/' || goes_on(p, end, "<!--")))
            js.operand = true;
        if (isspace((uint8_t)*p)) {
            p++;
        } else if (*p == '/' && goes_on(p, end, "//")) {
            q = line_end(p, end);
            cut(x, p, q);
            p = q;
        } else if (*p == '/' && goes_on(p, end, "/*") && (q = behind(x, p + 2, "*/", '*')) &&
                   q <= end) {
            cut(x, p, q);
            p = q;
        } else {
            p = js_step(x, &js, p, end);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * 4. HTML */

static bool name_is(const char *p, const char *end, const char *name) {
    size_t n = strlen(name);
    return (size_t)(end - p) >= n && !strncasecmp(p, name, n);
}

/* The < of </script >, from p on, or NULL. */
static const char *closing_tag(const char *p, const char *end, const char *name) {
    for (; (p = find_byte(p, end, '<')); p++) {
        const char *q = skip_space(p + 1, end);
        if (q >= end || *q != '/') continue;
        q = skip_space(q + 1, end);
        if (!name_is(q, end, name)) continue;
        q = skip_space(q + strlen(name), end);
        if (q < end && *q == '>') return p;
    }
    return NULL;
}

/* Inside of a tag, behind its name: the place behind its >. */
static const char *tag_end(Cutter *x, const char *p) {
    for (const char *q; p < x->end; p = q) {
        if (*p == '>') return p + 1;
        q = p + 1;
        if (*p != '=') continue;
        q = skip_space(q, x->end);
        if (q < x->end && (*q == '"' || *q == '\'')) {
            const char mark[2] = { *q, 0 }, *close = behind(x, q + 1, mark, *q);
            q = close ? close : q + 1;
        }
    }
    return p;
}

static const char *script_or_style(Cutter *x, const char *p, bool script) {
    int id = script ? 'S' : 'Y';
    const char *stop = x->open[id] ? NULL : closing_tag(p, x->end, script ? "script" : "style");
    if (!stop) { /* never closed: only its first line */
        x->open[id] = true;
        stop = next_line(p, x->end);
    }
    if (script) lex_javascript(x, p, stop);
    return stop;
}

void lex_html(Cutter *x) {
    size_t len;
    for (const char *p = x->s, *q; p && (p = find_byte(p, x->end, '<')); p = q) {
        q = NULL;
        if (goes_on(p, x->end, "<![CDATA[")) q = behind(x, p, "]]>", ']');
        if (!q && goes_on(p, x->end, "<!--") && (q = behind(x, p + 4, "-->", '-'))) cut(x, p, q);
        if (!q && goes_on(p, x->end, "<?")) q = behind(x, p, "?>", '?');
        if (!q && goes_on(p, x->end, "<!")) q = behind(x, p, ">", '>');
        if (q) continue;
        q = skip_space(p + 1, x->end);
        bool script = name_is(q, x->end, "script"), style = name_is(q, x->end, "style");
        if (!is_word(q, x->end, &len)) {
            q = p + 1;
            continue;
        }
        q = tag_end(x, q);
        if (script || style) q = script_or_style(x, q, script);
    }
}
