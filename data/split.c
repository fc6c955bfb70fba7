/* split.c: code and comments: which lexer a language has, and those that are short. See split.h.
 *
 * Languages that have a table of rules have a lexer of their own, with Perl's by hand as released;
 * others are described in syntax.c; what is left is cut line by line by the rules of thumb of the
 * released filter. */

#include "split.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Short lexers */

/* Cuts a comment of C that begins at p: the place behind it, or NULL where there is none. A // may
 * take its line feed along. */
static const char *cut_comment(Cutter *x, const char *p, bool line_feed) {
    const char *q = NULL;
    if (goes_on(p, x->end, "//"))
        q = line_feed ? next_line(p, x->end) : line_end(p, x->end);
    else if (goes_on(p, x->end, "/*"))
        q = behind(x, p + 2, "*/", '*');
    if (q) cut(x, p, q);
    return q;
}

void lex_java(Cutter *x) {
    for (const char *p = x->s, *q; p < x->end; p = q) {
        q = NULL;
        if (*p == '/') {
            q = cut_comment(x, p, false);
        } else if (*p == '"' && goes_on(p, x->end, "\"\"\"\n")) {
            q = behind(x, p + 4, "\"\"\"", '3');
        } else if (*p == '"') {
            q = escaped_string(x, p);
            if (!q) q = x->end; /* it runs over lines, to the end */
        } else if (*p == '\'') {
            q = char_literal(p, x->end);
        }
        if (!q) q = p + 1;
    }
}

void lex_go(Cutter *x) {
    for (const char *p = x->s, *q; p < x->end; p = q) {
        q = NULL;
        if (*p == '/') {
            q = cut_comment(x, p, false);
        } else if (*p == '`') {
            q = behind(x, p + 1, "`", '`');
        } else if (*p == '"') {
            q = escaped_string(x, p);
        } else if (*p == '\'') {
            q = char_literal(p, x->end);
        }
        if (!q) q = p + 1;
    }
}

void lex_sql(Cutter *x) {
    for (const char *p = x->s, *q; p < x->end; p = q) {
        q = p + 1;
        if (*p == '-' && goes_on(p, x->end, "--")) {
            q = next_line(p, x->end);
            cut(x, p, q);
        } else if (*p == '/' && goes_on(p, x->end, "/*")) { /* nests; to the end if never closed */
            int depth = 1;
            for (q = p + 2; q < x->end && depth; q++) {
                int step = goes_on(q, x->end, "/*") ? 1 : goes_on(q, x->end, "*/") ? -1 : 0;
                depth += step;
                q += step != 0;
            }
            cut(x, p, q);
        } else if (*p == '\'' || *p == '"') { /* doubled inside: two strings, side by side */
            const char mark[2] = { *p, 0 };
            const char *close = behind(x, q, mark, *p);
            if (close) q = close;
        }
    }
}

void lex_php(Cutter *x) { /* between <? and ?>; the rest is code */
    bool inside = false;
    for (const char *p = x->s, *q; p < x->end; p = q) {
        q = NULL;
        if (!inside) {
            q = behind(x, p, "<?", '<');
            inside = q != NULL;
            if (!q) return;
        } else if (*p == '?' && goes_on(p, x->end, "?>")) {
            inside = false;
        } else if (*p == '/') {
            q = cut_comment(x, p, true);
        } else if (*p == '#' && !goes_on(p, x->end, "#[")) {
            q = next_line(p, x->end);
            cut(x, p, q);
        } else if (*p == '"' || *p == '\'') {
            q = escaped_string(x, p);
        }
        if (!q) q = p + 1;
    }
}

static const char *csharp_directive(const char *p, const char *end) { /* p at # */
    static const char *const words[] = {
        "if",   "endif", "else",    "elif",   "define",    "undef",
        "line", "error", "warning", "region", "endregion", "pragma"
    };
    const char *q = p + 1;
    while (q < end && (*q == ' ' || *q == '\t')) q++;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (keyword_at(q, end, words[i])) return next_line(q, end);
    return NULL;
}

static const char *csharp_string(Cutter *x, const char *p) {
    if (p > x->s && p[-1] == '@') {
        for (const char *q = p + 1; (q = find_byte(q, x->end, '"')); q += 2)
            if (q + 1 >= x->end || q[1] != '"') return q + 1;
        return NULL;
    }
    const char *q = p + 1;
    for (; q < x->end && *q != '"' && *q != '\n'; q++) q += *q == '\\';
    return q < x->end ? q + 1 : NULL;
}

void lex_csharp(Cutter *x) {
    for (const char *p = x->s, *q; p < x->end; p = q) {
        q = NULL;
        if (p == x->s || p[-1] == '\n') { /* an attribute, up to the first ] */
            const char *open = skip_space(p, x->end);
            if (open < x->end && *open == '[' && (q = behind(x, open, "]", ']'))) continue;
            if (open > p) {
                q = open;
                continue;
            }
        }
        if (*p == '/') {
            q = cut_comment(x, p, true);
        } else if (*p == '"') {
            q = csharp_string(x, p);
        } else if (*p == '\'') {
            q = char_literal(p, x->end);
        } else if (*p == '#') {
            q = csharp_directive(p, x->end);
        }
        if (!q) q = p + 1;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Rules of thumb, line by line. */

static void add_line(Buf *b, const char *p, const char *stop) { buf_add(b, p, (size_t)(stop - p)); }

static bool line_begins(const char *p, const char *stop, const char *const *marks) {
    return any_of(p, stop, marks) > 0;
}

/* As released, a line comment opens a block that only a block's end closes; `fix`: it does not. */
static void split_by_hand(Str text, bool fix, Buf *code, Buf *comment) {
    static const char *const opens[] = { "\"\"\"", "/*", NULL };
    static const char *const lines[] = { "#", "//", "--", NULL };
    bool inside = false;
    for (const char *p = text.s, *end = p + text.n, *stop; p < end; p = stop) {
        stop = next_line(p, end);
        const char *s = skip_space(p, stop), *last = stop;
        while (last > s && uni_props(char_before(last, s)) & UNI_SPACE) do
                last--;
            while (last > s && (*last & 0xC0) == 0x80);
        bool begins = line_begins(s, last, opens);
        bool ends = last - s >= 3 && !memcmp(last - 3, "\"\"\"", 3);
        ends |= last - s >= 2 && !memcmp(last - 2, "*/", 2);
        bool one_line = fix && begins && ends && last - s > 3;
        if (begins || ends) {
            inside = !one_line && !inside;
            add_line(comment, p, stop);
        } else if (inside || line_begins(s, last, lines)) {
            inside |= !fix;
            add_line(comment, p, stop);
        } else {
            add_line(code, p, stop);
        }
    }
}

static void split_perl(Str text, Buf *code, Buf *comment) {
    bool inside = false;
    for (const char *p = text.s, *end = p + text.n, *stop; p < end; p = stop) {
        stop = next_line(p, end);
        const char *s = skip_space(p, stop);
        bool cut_mark = goes_on(s, stop, "=cut"), mark = s < stop && *s == '=';
        if (cut_mark || mark) inside = !cut_mark;
        add_line(cut_mark || mark || inside || (s < stop && *s == '#') ? comment : code, p, stop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. All languages */

/* The text as pygments has it: no byte order mark, \n at the end of lines, none before the first
 * and one behind the last. Copied only where it is not so already. */
static Str plain_text(Rules *r) {
    const char *s = r->text.s, *end = s + r->text.n;
    if (goes_on(s, end, "\xEF\xBB\xBF")) s += 3;
    bool carriage = find_byte(s, end, '\r') != NULL;
    while (!carriage && s < end && *s == '\n') s++;
    while (!carriage && end - s > 1 && end[-1] == '\n' && end[-2] == '\n') end--;
    if (!carriage && end > s && end[-1] == '\n') return (Str){ s, (size_t)(end - s) };
    Buf *b = &r->plain;
    b->n = 0;
    for (const char *stop; s < end; s = stop + 1) {
        stop = carriage ? find_byte(s, end, '\r') : NULL;
        if (!stop) stop = end;
        buf_add(b, s, (size_t)(stop - s));
        if (stop < end) buf_add(b, "\n", 1);
        if (goes_on(stop, end, "\r\n")) stop++;
    }
    size_t from = 0;
    while (from < b->n && b->data[from] == '\n') from++;
    while (b->n > from && b->data[b->n - 1] == '\n') b->n--;
    buf_add(b, "\n", 1);
    return (Str){ b->data + from, b->n - from };
}

static bool split_by_lexer(Rules *r, Str text) {
    Cutter x = { .s = text.s,
                 .end = text.s + text.n,
                 .from = text.s,
                 .code = &r->code_buf,
                 .comment = &r->comment_buf };
    switch (r->file->table) {
    case LANG_C: lex_c(&x, false); break;
    case LANG_CPP: lex_c(&x, true); break;
    case LANG_CSHARP: lex_csharp(&x); break;
    case LANG_GO: lex_go(&x); break;
    case LANG_HTML: lex_html(&x); break;
    case LANG_JAVA: lex_java(&x); break;
    case LANG_JAVASCRIPT: lex_javascript(&x, x.s, x.end); break;
    case LANG_PYTHON: lex_python(&x); break;
    case LANG_SHELL: lex_shell(&x); break;
    case LANG_SQL: lex_sql(&x); break;
    default:
        if (!strcmp(r->file->lang, "typescript") || !strcmp(r->file->lang, "tsx"))
            lex_javascript(&x, x.s, x.end);
        else if (!strcmp(r->file->lang, "php"))
            lex_php(&x);
        else
            return false;
    }
    cut(&x, x.end, x.end);
    return true;
}

void split_code(Rules *r) {
    Str text = plain_text(r);
    r->code_buf.n = r->comment_buf.n = 0;
    if (!strcmp(r->file->lang, "perl"))
        split_perl(r->text, &r->code_buf, &r->comment_buf);
    else if (!split_by_lexer(r, text) &&
             !split_by_syntax(r->file->lang, text, r->fix, &r->code_buf, &r->comment_buf))
        split_by_hand(r->text, r->fix, &r->code_buf, &r->comment_buf);
    r->code = (Str){ r->code_buf.data, r->code_buf.n };
    r->comment = (Str){ r->comment_buf.data, r->comment_buf.n };
    if (!r->code.n) r->code.s = "";
    if (!r->comment.n) r->comment.s = "";
    r->code_chars = count_chars(r->code.s, r->code.n);
    r->comment_chars = count_chars(r->comment.s, r->comment.n);
    lines_of(&r->code_lines, r->code, true);
}
