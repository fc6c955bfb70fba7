/* notice.c: finds and removes leading copyright notices. See notice.h.
 *
 * What to know first: about 15 % of files begin with a notice (arXiv 2411.04905, section 2.1.1).
 * The first comments of a file are looked at, behind what has to come first (#!, an encoding,
 * <?php, <?xml ...>, a byte order mark). A comment is cut into paragraphs at its empty lines; those
 * that speak of copyright or licenses go, and with the last of them the comment itself. What else a
 * comment says about the file stays. Test: tests/test_transform.py. */

#include "notice.h"
#include "syntax.h"

enum { MOST_COMMENTS = 4, MOST_BYTES = 64 << 10 /* a longer comment is no notice */ };

/* Any of them makes a paragraph part of a notice. */
static const char *const phrases[] = {
    "copyright",
    "(c) 19",
    "(c) 20",
    "\u00a9",
    "spdx-",
    "all rights reserved",
    "licensed under",
    "license as published by",
    "public license",
    "apache license",
    "mit license",
    "bsd license",
    "bsd-style license",
    "this program is free software",
    "this library is free software",
    "this file is free software",
    "is distributed in the hope",
    "you should have received a copy",
    "permission is hereby granted",
    "permission to use, copy",
    "redistribution and use",
    "redistributions of source",
    "redistributions in binary",
    "without specific prior written",
    "above copyright notice",
    "this software is provided",
    "the software is provided",
    "provided by the copyright holders",
    "is provided \"as is\"",
    "\"as is\" basis",
    "warranties of merchantability",
    "implied warranties",
    "in no event shall",
    "may not use this file except",
    "in compliance with the license",
    "license for the specific",
    "unless required by applicable law",
    "a copy of the license",
    "file is part of",
    "licence",
    "creative commons",
    "public domain",
    "see the file license",
    "see license",
    "terms of the license",
    "under the terms of",
    "third-party license",
    "@license",
    "may be used to endorse",
    "@licstart",
    "@licend",
    "proprietary and confidential",
    NULL,
};

static bool holds(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    for (; (size_t)(end - p) >= n; p++)
        if (((uint8_t)*p | 32) == ((uint8_t)*word | 32) && !strncasecmp(p, word, n)) return true;
    return false;
}

static bool is_notice(const char *p, const char *end) {
    for (int i = 0; phrases[i]; i++)
        if (holds(p, end, phrases[i])) return true;
    return false;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Where comments are */

static const char *line_behind(const char *p, const char *end) {
    const char *q = p < end ? (const char *)memchr(p, '\n', (size_t)(end - p)) : NULL;
    return q ? q + 1 : end;
}

static const char *blank(const char *p, const char *end) { /* on one line */
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    return p;
}

/* Behind the lines that begin at p and are blank to their line feed. */
static const char *behind_blank_lines(const char *p, const char *end) {
    for (const char *q; (q = blank(p, end)) < end && *q == '\n';) p = q + 1;
    return p;
}

static bool begins(const char *p, const char *end, const char *mark) {
    size_t n = strlen(mark);
    return (size_t)(end - p) >= n && !memcmp(p, mark, n);
}

/* Behind what must stay in front: a byte order mark, #! and encoding lines, <?php and the like. */
static const char *behind_prologue(const char *p, const char *end) {
    static const char *const first[] = { "#!",       "<?php",        "<?xml",
                                         "<?hh",     "<!DOCTYPE",    "<!doctype",
                                         "@charset", "'use strict'", "\"use strict\"",
                                         NULL };
    if (begins(p, end, "\xEF\xBB\xBF")) p += 3;
    for (bool more = true; more && p < end;) {
        const char *line = line_behind(p, end), *q = blank(p, line);
        more = q == line || *q == '\n';
        for (int i = 0; first[i] && !more; i++) more = begins(q, line, first[i]);
        more |= q < line && *q == '#' && holds(q, line, "coding") && !holds(q, line, "copyright");
        if (more) p = line;
    }
    return p;
}

static const Syntax *comment_syntax(const char *lang) {
    static const Syntax more[] = {
        { "|c|cpp|csharp|go|java|javascript|typescript|tsx|css|less|scss|",
          { "//" },
          { "/*", "*/", NULL, NULL },
          0 },
        { "|python|", { "#" }, { "\"\"\"", "\"\"\"", "'''", "'''" }, 0 },
        { "|shell|perl|makefile|cmake|dockerfile|tcl|", { "#" }, { NULL, NULL, NULL, NULL }, 0 },
        { "|sql|", { "--" }, { "/*", "*/", NULL, NULL }, 0 },
        { "|html|markdown|", { NULL }, { "<!--", "-->", NULL, NULL }, 0 },
        { "|tex|", { "%" }, { NULL, NULL, NULL, NULL }, 0 },
        { "|php|", { "//", "#" }, { "/*", "*/", NULL, NULL }, 0 },
        { "|emacs lisp|common lisp|assembly|unix assembly|",
          { ";", "#" },
          { "/*", "*/", NULL, NULL },
          0 },
        { "|vim script|", { "\"" }, { NULL, NULL, NULL, NULL }, 0 },
        { "|batchfile|", { "::", "REM", "rem" }, { NULL, NULL, NULL, NULL }, 0 },
        { "|visual basic .net|", { "'" }, { NULL, NULL, NULL, NULL }, 0 },
        { "|m4|m4sugar|", { "dnl", "#" }, { NULL, NULL, NULL, NULL }, 0 },
    };
    char key[64];
    snprintf(key, sizeof key, "|%.60s|", lang);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (strstr(more[i].names, key)) return &more[i];
    return syntax_of(lang);
}

static bool is_line_comment(const Syntax *s, const char *p, const char *end) {
    for (int i = 0; i < 3 && s->line[i]; i++)
        if (begins(p, end, s->line[i])) return true;
    return false;
}

/* The lines of the comment that begins at the line p, to behind its last line feed; NULL: there is
 * none, or code follows on its last line. `open` and `close` are its marks, NULL for lines. */
static const char *comment_lines(const Syntax *s, const char *p, const char *end, const char **open,
                                 const char **close) {
    const char *q = blank(p, end);
    for (int i = 0; i < 4 && s->block[i]; i += 2) {
        if (!begins(q, end, s->block[i])) continue;
        *open = s->block[i];
        *close = s->block[i + 1];
        const char *inside = q + strlen(*open);
        size_t n = (size_t)(end - inside) < MOST_BYTES ? (size_t)(end - inside) : MOST_BYTES;
        const char *stop = (const char *)memmem(inside, n, *close, strlen(*close));
        if (!stop) return NULL;
        stop = blank(stop + strlen(*close), end);
        return stop == end || *stop == '\n' ? line_behind(stop, end) : NULL;
    }
    *open = *close = NULL;
    while (q < end && is_line_comment(s, q, end)) {
        p = line_behind(p, end);
        q = blank(p, end);
    }
    return p;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Paragraphs */

/* Has the line letters or digits, its marks aside? */
static bool says_something(const Syntax *s, const char *p, const char *end) {
    p = blank(p, end);
    for (int i = 0; i < 3 && s->line[i]; i++)
        if (begins(p, end, s->line[i])) p += strlen(s->line[i]);
    for (; p < end; p++)
        if (isalnum((uint8_t)*p) || (uint8_t)*p >= 0x80) return true;
    return false;
}

/* The end of the paragraph that begins at p: behind its last line that says something. */
static const char *paragraph_end(const Syntax *s, const char *p, const char *end) {
    while (p < end) {
        const char *line = line_behind(p, end);
        if (!says_something(s, p, line)) break;
        p = line;
    }
    return p;
}

typedef struct {
    size_t said, removed; /* paragraphs */
} Cut;

/* Writes what stays of the comment [p, end), line by line. Opening and closing marks stay. */
static Cut cut_comment(const Syntax *s, const char *p, const char *end, const char *open,
                       const char *close, Buf *out) {
    Cut cut = { 0, 0 };
    const char *start = p, *last_mark = end - (close ? strlen(close) : 0);
    while (close && last_mark > p && !begins(last_mark, end, close)) last_mark--;
    bool dropped = false; /* the paragraph before went: so does the empty line behind it */
    while (p < end) {
        const char *stop = paragraph_end(s, p, end);
        if (stop == p) {
            stop = line_behind(p, end);
            if (!dropped || (close && stop > last_mark)) buf_add(out, p, (size_t)(stop - p));
            dropped = false;
        } else if (cut.said++, is_notice(p, stop)) {
            cut.removed++;
            dropped = true;
            if (open && p == start) buf_printf(out, "%s\n", open);
            if (close && stop > last_mark) buf_printf(out, " %s\n", close);
        } else {
            dropped = false;
            buf_add(out, p, (size_t)(stop - p));
        }
        p = stop;
    }
    return cut;
}

bool notice_remove(const char *lang, Str text, Buf *out) {
    const Syntax *s = comment_syntax(lang);
    const char *end = text.s + text.n, *open, *close;
    bool changed = false;
    if (!s) return false;
    const char *p = behind_prologue(text.s, end), *done = text.s;
    size_t old = out->n;
    for (int i = 0; i < MOST_COMMENTS; i++) {
        p = behind_blank_lines(p, end);
        const char *stop = comment_lines(s, p, end, &open, &close);
        if (!stop || stop == p) break;
        Buf rest = { NULL, 0, 0 };
        Cut cut = is_notice(p, stop) ? cut_comment(s, p, stop, open, close, &rest) : (Cut){ 0, 0 };
        if (cut.removed) {
            buf_add(out, done, (size_t)(p - done));
            if (cut.removed < cut.said) buf_add(out, rest.data, rest.n);
            /* With the whole comment go the empty lines behind it. */
            done = cut.removed == cut.said ? behind_blank_lines(stop, end) : stop;
            changed = true;
        }
        buf_free(&rest);
        p = done > stop ? done : stop;
    }
    if (changed)
        buf_add(out, done, (size_t)(end - done));
    else
        out->n = old;
    return changed;
}
