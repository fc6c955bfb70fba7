/* bpe.h: learning byte pair encoding from words: what vocab.c asks of bpe.c. */
#ifndef OC_BPE_H
#define OC_BPE_H

#include "texts.h" /* Words */

enum { LONGEST_WORD = 256 }; /* bytes; what is longer is learned from in stretches */
enum { LONGEST_PIECE = 64 }; /* characters */
#define NONE UINT32_MAX      /* no symbol: a character outside of the vocabulary, or no such pair */

/* A text that is a piece, or would be if it were joined. Its number is its text's in names. */
typedef struct {
    uint64_t count;  /* how often two neighbours make this text */
    uint32_t chars;  /* its length */
    uint32_t rank;   /* of a piece: how many were made before it; else NONE */
    uint32_t *where; /* words it stood in when it was counted; it may be gone from there again */
    uint32_t n_where, cap;
    bool touched; /* its count has grown, the heap does not know yet */
} Symbol;

typedef struct {
    uint64_t key; /* left << 32 | right */
    uint32_t id;  /* the symbol that they make; NONE: not allowed */
    bool used;
} Pair;

typedef struct {
    uint64_t count;
    uint32_t id;
} Entry;

typedef struct {
    uint64_t count;
    size_t at; /* its symbols are chain[at], chain[at + 1], ... */
    uint32_t n;
} Chain;

typedef struct {
    Words names; /* the texts of symbols */
    Symbol *symbol;
    size_t symbol_cap;
    Pair *pair; /* a hash table of 2^bits places */
    size_t n_pairs;
    int bits;
    Chain *word;
    uint32_t *chain, n_words;
    Entry *heap; /* heap[0] is the best; heap[i] comes before heap[2i + 1] and heap[2i + 2] */
    size_t n_heap, heap_cap;
    uint32_t *touched, n_touched, touched_cap;
    uint32_t *made, n_made; /* the pieces, in order */
    uint32_t max_chars;
    const Str *added; /* texts that must not become pieces */
    int n_added;
} Learner;

/* The symbol of a text of so many characters; a new one where there is none. */
uint32_t bpe_symbol(Learner *l, const char *s, size_t n, uint32_t chars);
Str bpe_text(const Learner *l, uint32_t id); /* valid until the next new symbol */
/* Makes up to n pieces of the words in l->word, which hold single characters. */
void bpe_learn(Learner *l, uint32_t n);
void bpe_free(Learner *l);

#endif
