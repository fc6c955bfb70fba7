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

/* Counts the pairs (i, i + 1), from <= i < to, of a row of symbols, or takes them away again. */
static void count_pairs(Learner *l, uint32_t word, const uint32_t *row, int from, int to,
                        bool add) {
    uint64_t count = l->word[word].count;
    for (int i = from; i < to; i++) {
        uint32_t id = joined(l, row[i], row[i + 1]);
        if (id == NONE) continue;
        Symbol *s = &l->symbol[id];
        s->count += add ? count : -count;
        if (!add) continue;
        touch(l, id);
        if (s->n_where && s->where[s->n_where - 1] == word) continue;
        if (s->n_where == s->cap) {
            s->cap = s->cap * 2 + 4;
            s->where = xrealloc(s->where, s->cap, sizeof *s->where, "places of pairs");
        }
        s->where[s->n_where++] = word;
    }
}

/* Joins as the encoder does: of all neighbours that make a piece those with the lowest rank, the
 * leftmost of equals, until none are left. Returns the new length. */
static int settle(Learner *l, uint32_t *row, int n) {
    for (;;) {
        uint32_t best = NONE, rank = NONE;
        int at = 0;
        for (int i = 0; i + 1 < n; i++) {
            uint32_t id = joined(l, row[i], row[i + 1]);
            if (id == NONE || l->symbol[id].rank >= rank) continue;
            best = id;
            rank = l->symbol[id].rank;
            at = i;
        }
        if (best == NONE) return n;
        row[at] = best;
        n--;
        memmove(row + at + 1, row + at + 2, (size_t)(n - at - 1) * sizeof *row);
    }
}

/* Joins in one word, and counts the pairs that came and went. */
static void join_in_word(Learner *l, uint32_t word) {
    uint32_t old[LONGEST_WORD], *row = l->chain + l->word[word].at;
    int n_old = (int)l->word[word].n, same = 0, end = 0;
    memcpy(old, row, (size_t)n_old * sizeof *row);
    int n = settle(l, row, n_old);
    if (n == n_old) return;
    while (same < n && row[same] == old[same]) same++;
    while (end < n - same && row[n - 1 - end] == old[n_old - 1 - end]) end++;
    int from = same ? same - 1 : 0; /* pairs from here to those inside of the common end change */
    count_pairs(l, word, old, from, end ? n_old - end : n_old - 1, false);
    count_pairs(l, word, row, from, end ? n - end : n - 1, true);
    l->word[word].n = (uint32_t)n;
}

/* Makes up to n pieces. */
void bpe_learn(Learner *l, uint32_t n) {
    bool shown = isatty(STDERR_FILENO);
    uint32_t id;
    grow_pairs(l);
    l->made = xcalloc(n, sizeof *l->made, "pieces");
    for (uint32_t w = 0; w < l->n_words; w++)
        count_pairs(l, w, l->chain + l->word[w].at, 0, (int)l->word[w].n - 1, true);
    push_touched(l);
    while (l->n_made < n && (id = best_pair(l)) != NONE) {
        uint32_t *where = l->symbol[id].where, n_where = l->symbol[id].n_where;
        l->symbol[id].rank = l->n_made;
        l->symbol[id].where = NULL;
        l->symbol[id].n_where = l->symbol[id].cap = 0;
        l->made[l->n_made++] = id;
        for (uint32_t i = 0; i < n_where; i++) join_in_word(l, where[i]);
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
