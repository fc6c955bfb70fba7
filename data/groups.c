/* groups.c: which contents belong together, and which unit of them stays. See dedup.h.
 *
 * What to know first: contents are found by their key in a hash table with open addressing. Groups
 * are a forest (union-find): joining two contents hangs the root of one under that of the other,
 * the lower number at the top, and every look-up shortens the way. Test: tests/test_dedup.py. */

#include "dedup.h"

bool outranks(const Rank *a, const Rank *b) {
    if (a->stars != b->stars) return a->stars > b->stars;
    if (a->commit_time != b->commit_time) return a->commit_time > b->commit_time;
    return a->id[0] != b->id[0] ? a->id[0] < b->id[0] : a->id[1] < b->id[1];
}

static void grow(Groups *g) {
    g->bits = g->bits ? g->bits + 1 : 12;
    free(g->slot);
    size_t places = (size_t)1 << g->bits;
    g->slot = xcalloc(places, sizeof *g->slot, "contents");
    for (size_t k = 0; k < g->n; k++) {
        size_t i = g->content[k].key[0] & (places - 1);
        while (g->slot[i]) i = (i + 1) & (places - 1);
        g->slot[i] = (uint32_t)k + 1;
    }
}

size_t groups_add(Groups *g, const uint64_t key[2], const Rank *rank, uint64_t unit, bool *fresh) {
    if (g->n * 3 / 2 >= (g->bits ? (size_t)1 << g->bits : 0)) grow(g);
    size_t mask = ((size_t)1 << g->bits) - 1, i = key[0] & mask;
    for (; g->slot[i]; i = (i + 1) & mask) {
        Content *c = &g->content[g->slot[i] - 1];
        if (c->key[0] != key[0] || c->key[1] != key[1]) continue;
        *fresh = false;
        if (outranks(rank, &c->best)) c->best = *rank, c->unit = unit;
        return g->slot[i] - 1;
    }
    if (g->n == UINT32_MAX - 1) die("dedup: 2^32 contents, expected fewer; use --emit");
    if (g->n == g->cap) {
        g->cap = g->cap * 3 / 2 + 1024;
        g->content = xrealloc(g->content, g->cap, sizeof *g->content, "contents");
        if (g->bands)
            g->band = xrealloc(g->band, g->cap, (size_t)g->bands * sizeof *g->band, "bands");
    }
    g->content[g->n] = (Content){ { key[0], key[1] }, *rank, unit };
    g->slot[i] = (uint32_t)++g->n;
    *fresh = true;
    return g->n - 1;
}

static uint32_t root(Groups *g, uint32_t i) {
    while (g->parent[i] != i) i = g->parent[i] = g->parent[g->parent[i]];
    return i;
}

static void join(Groups *g, uint32_t a, uint32_t b) {
    a = root(g, a), b = root(g, b);
    if (a == b) return;
    if (a > b) {
        uint32_t t = a;
        a = b, b = t;
    }
    g->parent[b] = a;
    Content *top = &g->content[a], *under = &g->content[b];
    if (outranks(&under->best, &top->best)) top->best = under->best, top->unit = under->unit;
}

void groups_join(Groups *g) {
    g->parent = xrealloc(g->parent, g->n, sizeof *g->parent, "groups");
    for (size_t i = 0; i < g->n; i++) g->parent[i] = (uint32_t)i;
    if (!g->bands || !g->n) return;
    size_t mask = ((size_t)1 << g->bits) - 1, bands = (size_t)g->bands;
    for (size_t b = 0; b < bands; b++) { /* the table of keys becomes one of this band's numbers */
        memset(g->slot, 0, (mask + 1) * sizeof *g->slot);
        for (size_t k = 0; k < g->n; k++) {
            uint64_t h = g->band[k * bands + b];
            size_t i = h & mask;
            while (g->slot[i] && g->band[(g->slot[i] - 1) * bands + b] != h) i = (i + 1) & mask;
            if (g->slot[i])
                join(g, g->slot[i] - 1, (uint32_t)k);
            else
                g->slot[i] = (uint32_t)k + 1;
        }
    }
}

uint64_t groups_best(Groups *g, size_t i) { return g->content[root(g, (uint32_t)i)].unit; }

void groups_free(Groups *g) {
    free(g->content), free(g->band), free(g->parent), free(g->slot);
    memset(g, 0, sizeof *g);
}
