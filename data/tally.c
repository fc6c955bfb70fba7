/* tally.c: pages by domain and section, and the file of --domains. See recall.h.
 *
 * What to know first: the file is for people who write patterns of addresses: a line of JSON for
 * each domain, the most pages of code first, with the sections (first parts of the path) that have
 * most of them. Test: tests/test_recall.py. */

#include "recall.h"

Pages *tally_get(Tally *t, const char *s, size_t n) {
    Word *w = words_get(&t->names, s, n);
    if (!w->value) {
        if (t->n == t->cap) {
            t->cap = t->cap * 2 + 64;
            t->pages = (Pages *)xrealloc(t->pages, t->cap, sizeof *t->pages, "domains");
        }
        t->pages[t->n] = (Pages){ 0, 0 };
        w->value = ++t->n;
    }
    return &t->pages[w->value - 1];
}

void tally_clear(Tally *t) {
    words_clear(&t->names);
    t->n = 0;
}

void tally_free(Tally *t) {
    words_free(&t->names);
    free(t->pages);
    memset(t, 0, sizeof *t);
}

enum { MOST_SECTIONS = 5 };

static const Tally *sorting;

static int by_code(const void *a, const void *b) {
    const Pages *x = &sorting->pages[*(const size_t *)a], *y = &sorting->pages[*(const size_t *)b];
    if (x->code != y->code) return (x->code < y->code) - (x->code > y->code);
    if (x->pages != y->pages) return (x->pages < y->pages) - (x->pages > y->pages);
    return (*(const size_t *)a > *(const size_t *)b) - (*(const size_t *)a < *(const size_t *)b);
}

static size_t *by_rank(const Tally *t) {
    size_t *order = (size_t *)xcalloc(t->n, sizeof *order, "domains");
    for (size_t i = 0; i < t->n; i++) order[i] = i;
    sorting = t;
    qsort(order, t->n, sizeof *order, by_code);
    return order;
}

static Str name_of(const Tally *t, size_t i) {
    const Word *w = &t->names.word[i]; /* words and pages come in the same order */
    return (Str){ t->names.text.data + w->at, w->n };
}

static void put_pages(Buf *b, const Pages *p) {
    json_put_key(b, "pages");
    json_put_int(b, (int64_t)p->pages);
    json_put_key(b, "code");
    json_put_int(b, (int64_t)p->code);
}

void write_domains(const char *path, const Tally *domains, const Tally *sections) {
    size_t *order = by_rank(domains), *inner = by_rank(sections);
    Buf *line = (Buf *)xcalloc(domains->n, sizeof *line, "domains");
    uint8_t *count = (uint8_t *)xcalloc(domains->n, 1, "domains");
    OutFile out;
    for (size_t i = 0; i < sections->n; i++) {
        Str key = name_of(sections, inner[i]);
        const char *slash = (const char *)memchr(key.s, '/', key.n); /* no domain has one */
        const Word *w = words_find(&domains->names, key.s, (size_t)(slash - key.s));
        size_t d = w ? w->value - 1 : 0;
        if (!w || count[d]++ >= MOST_SECTIONS) {
            if (w) count[d] = MOST_SECTIONS;
            continue;
        }
        json_open(&line[d], '{');
        json_put_key(&line[d], "section");
        json_put_str(&line[d], (Str){ slash + 1, key.n - (size_t)(slash - key.s) - 1 });
        put_pages(&line[d], &sections->pages[inner[i]]);
        json_close(&line[d], '}');
    }
    out_open(&out, path);
    for (size_t i = 0; i < domains->n; i++) {
        Buf b = { NULL, 0, 0 }, *inside = &line[order[i]];
        const Pages *p = &domains->pages[order[i]];
        json_open(&b, '{');
        json_put_key(&b, "domain");
        json_put_str(&b, name_of(domains, order[i]));
        put_pages(&b, p);
        json_put_key(&b, "code_related");
        json_put_bool(&b, is_code_related(p));
        json_put_key(&b, "sections");
        json_open(&b, '[');
        buf_add(&b, inside->data ? inside->data : "", inside->n);
        buf_add(&b, "]}\n", 3);
        out_write(&out, b.data, b.n);
        buf_free(&b), buf_free(inside);
    }
    out_commit(&out);
    free(order), free(inner), free(line), free(count);
}
