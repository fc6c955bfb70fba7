/* budget.c: which documents stay where only so many bytes are wanted. See budget.h. */

#include "budget.h"

static uint64_t fold(uint64_t h, Str s) {
    h = mix64(h + 0x9E3779B97F4A7C15u);
    for (size_t i = 0; i < s.n; i++) h = (h ^ (uint8_t)s.s[i]) * 0x100000001B3u;
    return h;
}

uint64_t document_draw(const Document *d, uint64_t seed) {
    bool named = d->repo.n || d->path.n;
    uint64_t h = fold(fold(seed, d->repo), named ? d->path : d->content);
    return mix64(h) >> 11; /* 53 bits: what a double holds */
}

uint64_t draw_limit(double part) { return (uint64_t)ceil(part * (double)DRAW_ALL); }

void drawns_add(Drawns *a, Drawn d) {
    if (a->n == a->cap) {
        a->cap = a->cap * 2 + 1024;
        a->item = (Drawn *)xrealloc(a->item, a->cap, sizeof *a->item, "sizes of documents");
    }
    a->item[a->n++] = d;
    a->size += d.size;
}

static int by_draw(const void *a, const void *b) {
    uint64_t x = ((const Drawn *)a)->draw, y = ((const Drawn *)b)->draw;
    return (x > y) - (x < y);
}

uint64_t drawns_limit(Drawns *a, double budget, uint64_t *kept) {
    uint64_t limit = 0;
    *kept = 0;
    if (a->n) qsort(a->item, a->n, sizeof *a->item, by_draw);
    for (size_t i = 0, next; i < a->n; i = next) { /* who draws the same stays or goes together */
        uint64_t size = 0;
        for (next = i; next < a->n && a->item[next].draw == a->item[i].draw; next++)
            size += a->item[next].size;
        if ((double)(*kept + size) > budget) return limit;
        *kept += size;
        limit = a->item[i].draw + 1;
    }
    return DRAW_ALL;
}

void drawns_free(Drawns *a) {
    free(a->item);
    memset(a, 0, sizeof *a);
}

double parse_amount(const char *option, const char *text) {
    static const char letters[] = "kMGT";
    char *end = NULL;
    double v = strtod(text, &end);
    const char *letter = end > text && *end ? strchr(letters, *end == 'K' ? 'k' : *end) : NULL;
    if (letter) {
        bool binary = end[1] == 'i';
        for (const char *p = letters; p <= letter; p++) v *= binary ? 1024 : 1000;
        end += 1 + binary;
    }
    if (end > text && *end == 'B') end++;
    if (end == text || *end || !(v >= 0 && v <= 9e18) || !isdigit((unsigned char)*text))
        die_usage("%s: '%s', expected an amount as 200GB, 1.5M or 4096", option, text);
    return v;
}

const char *parse_assignment(const char *option, const char *text, const char *expected,
                             Str *name) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1])
        die_usage("%s: '%s', expected %s", option, text, expected);
    *name = (Str){ text, (size_t)(equals - text) };
    return equals + 1;
}
