/* bpe.c: learning byte pair encoding (arXiv 1508.07909) from words and their counts.
 *
 * What to know first: all words begin as rows of characters; then, again and again, the pair of
 * neighbours that is most frequent over all words becomes a piece and is joined wherever it stands:
 *
 *     5 x "_return"    _ r e t u r n   ->   _ re t u r n   ->   _ re tur n   ->  ...
 *     2 x "_are"       _ a r e         ->   _ a re
 *
 * A pair is known by the text it makes: "a" + "bc" and "ab" + "c" are counted together, since the
 * encoder cannot tell them apart either. Words are at any time cut as the encoder would cut them
 * with the pieces made so far. Of equally frequent pairs the shorter one (in characters), then the
 * one that sorts first is taken: the result depends on the words and their counts alone, not on
 * their order.
 *
 * Each symbol remembers in which words it was seen, so that making a piece costs no more than the
 * words that have it, and only the neighbours of a join are counted anew.
 *
 * Sections: 1 symbols and pairs, 2 the best pair, 3 joining. Test: tests/test_vocab.py. */

#include "bpe.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Symbols and pairs */

Str bpe_text(const Learner *l, uint32_t id) {
    const Word *w = &l->names.word[id];
    return (Str){ l->names.text.data + w->at, w->n };
}

uint32_t bpe_symbol(Learner *l, const char *s, size_t n, uint32_t chars) {
    size_t before = l->names.n, id = (size_t)(words_get(&l->names, s, n) - l->names.word);
    if (id < before) return (uint32_t)id;
    if (id == l->symbol_cap) {
        l->symbol_cap = l->symbol_cap * 2 + 1024;
        l->symbol = xrealloc(l->symbol, l->symbol_cap, sizeof *l->symbol, "symbols");
    }
    l->symbol[id] = (Symbol){ .chars = chars, .rank = NONE };
    return (uint32_t)id;
}

static Pair *pair_place(const Learner *l, uint64_t key) {
    size_t mask = ((size_t)1 << l->bits) - 1;
    size_t i = key * 0x9E3779B97F4A7C15u >> (64 - l->bits); /* 2^64 / golden ratio */
    while (l->pair[i].used && l->pair[i].key != key) i = (i + 1) & mask;
    return &l->pair[i];
}

static void grow_pairs(Learner *l) {
    size_t n = l->bits ? (size_t)1 << l->bits : 0;
    Pair *old = l->pair;
    l->bits = l->bits ? l->bits + 1 : 12;
    l->pair = xcalloc((size_t)1 << l->bits, sizeof *l->pair, "pairs");
    for (size_t i = 0; i < n; i++)
        if (old[i].used) *pair_place(l, old[i].key) = old[i];
    free(old);
}

/* The symbol that two neighbours make, or NONE. */
static uint32_t joined(Learner *l, uint32_t left, uint32_t right) {
    char text[2 * 4 * LONGEST_PIECE];
    if (left == NONE || right == NONE) return NONE;
    uint32_t chars = l->symbol[left].chars + l->symbol[right].chars;
    if (chars > l->max_chars) return NONE;
    uint64_t key = (uint64_t)left << 32 | right;
    Pair *p = pair_place(l, key);
    if (p->used) return p->id;
    if (++l->n_pairs * 2 > (size_t)1 << l->bits) {
        grow_pairs(l);
        p = pair_place(l, key);
    }
    Str a = bpe_text(l, left), b = bpe_text(l, right), both = { text, a.n + b.n };
    memcpy(text, a.s, a.n);
    memcpy(text + a.n, b.s, b.n);
    *p = (Pair){ key, bpe_symbol(l, text, both.n, chars), true };
    for (int i = 0; i < l->n_added; i++)
        if (!str_cmp(l->added[i], both)) p->id = NONE;
    return p->id;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The best pair: a heap of (count, symbol). A symbol may be in there several times: once more
 * whenever its count has grown. Counts that have sunk are set right when they come to the top. */

static bool entry_before(const Learner *l, Entry a, Entry b) {
    if (a.count != b.count) return a.count > b.count;
    if (l->symbol[a.id].chars != l->symbol[b.id].chars)
        return l->symbol[a.id].chars < l->symbol[b.id].chars;
    return str_cmp(bpe_text(l, a.id), bpe_text(l, b.id)) < 0;
}

static void heap_push(Learner *l, Entry e) {
    if (l->n_heap == l->heap_cap) {
        l->heap_cap = l->heap_cap * 2 + 1024;
        l->heap = xrealloc(l->heap, l->heap_cap, sizeof *l->heap, "heap of pairs");
    }
    size_t i = l->n_heap++;
    for (; i && entry_before(l, e, l->heap[(i - 1) / 2]); i = (i - 1) / 2)
        l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = e;
}

static Entry heap_pop(Learner *l) {
    Entry top = l->heap[0], last = l->heap[--l->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < l->n_heap; i = child) {
        if (child + 1 < l->n_heap && entry_before(l, l->heap[child + 1], l->heap[child])) child++;
        if (!entry_before(l, l->heap[child], last)) break;
        l->heap[i] = l->heap[child];
    }
    l->heap[i] = last;
    return top;
}

/* The most frequent pair that stands in the text twice or more often; NONE when there is none. */
static uint32_t best_pair(Learner *l) {
    while (l->n_heap) {
        Entry e = heap_pop(l);
        const Symbol *s = &l->symbol[e.id];
        if (s->rank != NONE || s->count > e.count) continue; /* made, or in there with more */
        if (s->count == e.count) return e.id;
        if (s->count > 1) heap_push(l, (Entry){ s->count, e.id });
    }
    return NONE;
}

static void push_touched(Learner *l) {
    for (uint32_t i = 0; i < l->n_touched; i++) {
        Symbol *s = &l->symbol[l->touched[i]];
        s->touched = false;
        if (s->count > 1) heap_push(l, (Entry){ s->count, l->touched[i] });
    }
    l->n_touched = 0;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Joining */

static void touch(Learner *l, uint32_t id) {
    if (l->symbol[id].touched) return;
    l->symbol[id].touched = true;
    if (l->n_touched == l->touched_cap) {
        l->touched_cap = l->touched_cap * 2 + 1024;
        l->touched = xrealloc(l->touched, l->touched_cap, sizeof *l->touched, "pairs");
    }
    l->touched[l->n_touched++] = id;
}

/* Counts the pair that opens a row of symbols of `word`, or takes it away again. */
static void count_pair(Learner *l, uint32_t word, const uint32_t *row, bool add) {
    uint64_t count = l->word[word].count;
    uint32_t id = joined(l, row[0], row[1]);
    if (id == NONE) return;
    Symbol *s = &l->symbol[id];
    s->count += add ? count : -count;
    if (!add) return;
    touch(l, id);
    if (s->n_where && s->where[s->n_where - 1] == word) return;
    if (s->n_where == s->cap) {
        s->cap = s->cap * 2 + 4;
        s->where = xrealloc(s->where, s->cap, sizeof *s->where, "places of pairs");
    }
    s->where[s->n_where++] = word;
}

/* The rank of the piece that two neighbours make, NONE where they make none. */
static uint32_t rank_of(Learner *l, const uint32_t *row) {
    uint32_t id = joined(l, row[0], row[1]);
    return id == NONE ? NONE : l->symbol[id].rank;
}

static uint32_t chars_of(const Learner *l, uint32_t id) { /* NONE is one character too */
    return id == NONE ? 1 : l->symbol[id].chars;
}

/* Joins as the encoder does: of all neighbours that make a piece those with the lowest rank, the
 * leftmost of equals, until none are left. Before piece number `id` was made there were none, so at
 * first only it can be. Returns the new length. */
static int settle(Learner *l, uint32_t *row, int n, uint32_t id) {
    uint32_t rank[LONGEST_WORD]; /* of row[i] and row[i + 1] together; the last has none */
    uint32_t chars = l->symbol[id].chars;
    for (int i = 0; i < n; i++) {
        bool fits = i + 1 < n && chars_of(l, row[i]) + chars_of(l, row[i + 1]) == chars;
        rank[i] = fits ? rank_of(l, row + i) : NONE;
    }
    for (;;) {
        int at = 0;
        for (int i = 1; i < n; i++)
            if (rank[i] < rank[at]) at = i;
        if (rank[at] == NONE) return n;
        row[at] = l->made[rank[at]];
        n--;
        memmove(row + at + 1, row + at + 2, (size_t)(n - at - 1) * sizeof *row);
        memmove(rank + at + 1, rank + at + 2, (size_t)(n - at - 1) * sizeof *rank);
        rank[at] = at + 1 < n ? rank_of(l, row + at) : NONE;
        if (at) rank[at - 1] = rank_of(l, row + at - 1);
    }
}

/* Joins in one word, and counts the pairs that came and went. Both rows are gone through side by
 * side, at character `from` of the word in the old one and `to` in the new one: a pair that stands
 * in both at the same place has not changed. */
static void join_in_word(Learner *l, uint32_t word, uint32_t id) {
    uint32_t old[LONGEST_WORD], *row = l->chain + l->word[word].at, from = 0, to = 0;
    int n_old = (int)l->word[word].n, i = 0, k = 0;
    memcpy(old, row, (size_t)n_old * sizeof *row);
    int n = settle(l, row, n_old, id);
    if (n == n_old) return;
    while (i + 1 < n_old || k + 1 < n) {
        bool in_old = i + 1 < n_old, in_new = k + 1 < n;
        bool same = in_old && in_new && from == to && old[i] == row[k] && old[i + 1] == row[k + 1];
        bool first = in_old && (from <= to || !in_new); /* the pair of the old row comes first */
        if (!same) count_pair(l, word, first ? old + i : row + k, !first);
        if (same || first) from += chars_of(l, old[i++]);
        if (same || !first) to += chars_of(l, row[k++]);
    }
    l->word[word].n = (uint32_t)n;
}

/* Makes up to n pieces. */
void bpe_learn(Learner *l, uint32_t n) {
    bool shown = isatty(STDERR_FILENO);
    uint32_t id;
    grow_pairs(l);
    l->made = xcalloc(n, sizeof *l->made, "pieces");
    for (uint32_t w = 0; w < l->n_words; w++)
        for (uint32_t i = 0; i + 1 < l->word[w].n; i++)
            count_pair(l, w, l->chain + l->word[w].at + i, true);
    push_touched(l);
    while (l->n_made < n && (id = best_pair(l)) != NONE) {
        uint32_t *where = l->symbol[id].where, n_where = l->symbol[id].n_where;
        l->symbol[id].rank = l->n_made;
        l->symbol[id].where = NULL;
        l->symbol[id].n_where = l->symbol[id].cap = 0;
        l->made[l->n_made++] = id;
        for (uint32_t i = 0; i < n_where; i++) join_in_word(l, where[i], id);
        free(where);
        push_touched(l);
        if (shown && (l->n_made % 64 == 0 || l->n_made == n))
            fprintf(stderr, "\rlearning %u of %u pieces%s", l->n_made, n,
                    l->n_made == n ? "\n" : "");
    }
}

void bpe_free(Learner *l) {
    for (size_t i = 0; i < l->names.n; i++) free(l->symbol[i].where);
    words_free(&l->names);
    free(l->symbol);
    free(l->pair);
    free(l->word);
    free(l->chain);
    free(l->heap);
    free(l->touched);
    free(l->made);
}
