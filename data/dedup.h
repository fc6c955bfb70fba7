/* dedup.h: what the files of `./refine dedup` share: keys of texts, and who stays of a group.
 *
 * What to know first: what is kept or dropped is a unit: a file, a repository or a chunk. Of units
 * that are duplicates of one another the one of the highest rank stays: most stars, then the latest
 * commit, then, so that the result never depends on an order, the lowest id. */
#ifndef OC_DEDUP_H
#define OC_DEDUP_H

#include "refine.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Keys */

void sha256(const void *bytes, size_t n, uint8_t digest[32]);

typedef struct {
    int ngram, bands, rows; /* words of a shingle; bands of rows hash functions */
    uint32_t *mul, *flip;   /* of each function: x -> (x ^ flip) * mul, mul is odd */
} MinHash;

/* The hash of the next word from *p on, which moves behind it; false where there is none. A word is
 * a run of letters, digits, _ and bytes above 127. `lower`: A to Z count as a to z. */
bool next_word(const char **p, const char *end, bool lower, uint64_t *hash);

void minhash_open(MinHash *m, int ngram, int bands, int rows, uint64_t seed);
void minhash_close(MinHash *m);
/* signature[i] = min(signature[i], function i over all shingles of the text); bands x rows numbers.
 * Begin with all bits 1. */
void minhash_add(const MinHash *m, Str text, uint32_t *signature);
/* One number for the rows of each band: texts of which one of them is equal are candidates. */
void minhash_bands(const MinHash *m, const uint32_t *signature, uint64_t *band);
/* The chance that two texts of Jaccard similarity j share a band. */
double minhash_chance(const MinHash *m, double j);

/* ------------------------------------------------------------------------------------------------
 * 2. Ranks and groups */

typedef struct {
    int64_t stars, commit_time;
    uint64_t id[2];
} Rank;

bool outranks(const Rank *a, const Rank *b); /* false where they are equal */

typedef struct {
    uint64_t key[2]; /* the first half of the SHA-256 */
    Rank best;       /* of all units with this content ... */
    uint64_t unit;   /* ... and the number of that unit */
} Content;

/* All different contents, and which of them belong together. */
typedef struct {
    Content *content;
    uint64_t *band;   /* [n][bands], where near duplicates are wanted */
    uint32_t *parent; /* of a forest whose trees are the groups; made by groups_join */
    uint32_t *slot;   /* 2^bits places: 0, or 1 + the number of a content */
    size_t n, cap;
    int bits, bands;
} Groups;

/* The content with that key; *fresh: it was not there. */
size_t groups_add(Groups *g, const uint64_t key[2], const Rank *rank, uint64_t unit, bool *fresh);
void groups_join(Groups *g); /* joins all contents that share a band */
/* The number of the unit that stays of content i's group. */
uint64_t groups_best(Groups *g, size_t i);
void groups_free(Groups *g);

/* ------------------------------------------------------------------------------------------------
 * 3. The stages, which all.c chains too */

enum { LEVEL_FILE, LEVEL_REPO, LEVEL_CHUNK };

typedef struct {
    const char *level_name;
    int level;
    bool exact, near;
    int64_t ngram, bands, rows, chunk, seed;
} DedupOptions;
extern DedupOptions dedup_options;
extern const Option dedup_table[];
void dedup_check(void); /* the options; to be called before the first stage opens */

/* Keys in the first pass, keeping in the second; in between dedup_decide. */
extern const Stage dedup_exact_keys, dedup_near_keys, dedup_keep;
void dedup_decide(void);

/* What a stage leaves in d->scratch: a Unit for the document or for each of its chunks. */
typedef struct {
    uint64_t key[2], id[2];
    size_t from, n; /* its bytes in the content */
    uint32_t content;
    bool fresh, keep;
} Unit;

void units_cut(Document *d);                  /* fills d->scratch */
Unit *units_of(const Document *d, size_t *n); /* what is there */
Rank unit_rank(const Document *d, const Unit *u);
Str unit_text(const Document *d, const Unit *u);
/* Keeps what has `keep`; false, for the reason given, where nothing is left. */
bool units_keep(Document *d, const char *why);
/* Repositories, whose signature is the minimum over their files. */
typedef struct {
    uint64_t key[2];
    Rank best;
} Repo;
typedef struct {
    Words names; /* -> 1 + index */
    Repo *repo;
    uint32_t *signature; /* [n][bands x rows] */
    size_t n, cap, width;
} Repos;
void repo_id(const Document *d, uint64_t id[2]);
/* The repository of a document, or the document itself where it has none; its number. */
size_t repos_find(Repos *r, const Document *d);
void repos_add(Repos *r, const Document *d, const Unit *u, const uint32_t *signature);
void repos_free(Repos *r);

/* emit | sort | group, for what does not fit into memory. */
extern const Stage dedup_emit, dedup_drop;
extern const char *dedup_edges; /* the file for --drop */
int dedup_group(const char **path, int n);
int run_dedup(int argc, char **argv);
int run_all(int argc, char **argv);
bool decontaminate_wanted(void); /* --against was given */

#endif
