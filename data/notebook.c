/* notebook.c: a Jupyter notebook as Markdown: its text cells as they are, its code cells as fenced
 * blocks in the notebook's language. Outputs, which hold pictures and logs, are left out.
 *
 * What to know first: a notebook is JSON, in format 4 {"cells": [...]}, before that {"worksheets":
 * [{"cells": [...]}]}; a cell's source is a string or an array of lines. Test:
 * tests/test_refine.py. */

#include "refine.h"

static void add(Buf *text, const Json *line) {
    if (line->type == J_STRING && line->str.n <= MOST_LINE) buf_add(text, line->str.s, line->str.n);
}

static void add_source(Buf *text, const Json *source) {
    if (!source) return;
    add(text, source);
    if (source->type != J_ARRAY) return;
    for (const Json *x = json_first(source); x; x = json_next(source, x)) add(text, x);
}

enum { MOST_NAME = 64 }; /* bytes; every cell of code gets it */

/* The name behind ``` : language_info.name, else kernelspec.language, else python. */
static Str fence_language(const Json *root) {
    const Json *meta = json_get(root, "metadata");
    const Json *name = json_get(json_get(meta, "language_info"), "name");
    if (!name || name->type != J_STRING) name = json_get(json_get(meta, "kernelspec"), "language");
    if (!name || name->type != J_STRING || name->str.n > MOST_NAME ||
        memchr(name->str.s, '\n', name->str.n))
        return str_of("python");
    return name->str;
}

/* A fence must be longer than every run of ` in the code. */
static int fence_length(const char *s, size_t n) {
    int longest = 2, run = 0;
    for (size_t i = 0; i < n; i++) {
        run = s[i] == '`' ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    return longest + 1;
}

static void add_fence(Buf *text, int n) {
    while (n-- > 0) buf_add(text, "`", 1);
}

static void add_cell(Buf *text, const Json *cell, Str language) {
    const Json *type = json_get(cell, "cell_type"), *source = json_get(cell, "source");
    Buf own = { NULL, 0, 0 };
    bool code = type && type->type == J_STRING && str_is(type->str, "code");
    add_source(&own, source ? source : json_get(cell, "input"));
    while (own.n && strchr(" \n\r\t", own.data[own.n - 1])) own.n--;
    if (own.n) {
        int fence = fence_length(own.data, own.n);
        if (text->n) buf_add(text, "\n", 1);
        if (code) {
            add_fence(text, fence);
            buf_add(text, language.s, language.n);
            buf_add(text, "\n", 1);
        }
        buf_add(text, own.data, own.n);
        buf_add(text, "\n", 1);
        if (code) {
            add_fence(text, fence);
            buf_add(text, "\n", 1);
        }
    }
    buf_free(&own);
}

static void add_cells(Buf *text, const Json *cells, Str language) {
    if (!cells || cells->type != J_ARRAY) return;
    for (const Json *x = json_first(cells); x; x = json_next(cells, x)) add_cell(text, x, language);
}

bool notebook_text(Str notebook, Buf *text, Error *e) {
    JsonDoc doc = { NULL, 0, 0, NULL, 0 };
    if (!json_parse(&doc, notebook.s, notebook.n, e)) return false;
    const Json *cells = json_get(doc.node, "cells"), *sheets = json_get(doc.node, "worksheets");
    Str language = fence_language(doc.node);
    bool ok = cells || (sheets && sheets->type == J_ARRAY);
    add_cells(text, cells, language);
    if (!cells && ok)
        for (const Json *x = json_first(sheets); x; x = json_next(sheets, x))
            add_cells(text, json_get(x, "cells"), language);
    json_free(&doc);
    return ok || fail(e, "JSON without cells, expected a notebook");
}
