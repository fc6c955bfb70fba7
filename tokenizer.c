/* tokenizer.c: text to token ids and back.
 *
 *   ./tokenizer encode model.gguf -i "def f(x):"       the ids, separated by spaces
 *   ./tokenizer decode model.gguf 1404 285 401         the bytes that these ids stand for
 *   ./tokenizer info   model.gguf                      what vocabulary the file holds
 *   ./tokenizer train ... and pack ...                 data/vocab.c, data/pack.c
 *
 * What to know first: encoding is a pipeline.
 *
 *   text                         "def f(x):<|im_end|>"
 *   cut at special tokens        "def f(x):"   <|im_end|> = 96539       when they are asked for
 *   split into words             "def" " f" "(x" "):"                   OpenCoder vocabularies only
 *   normalize; space = U+2581    "def" "_f" "(x" "):"                   (printed as _ in here)
 *   merge characters             d+e+f -> de+f -> def                   BPE, or else unigram
 *   spell the rest in bytes      a character without a token -> <0xF0> <0x9F> ...
 *
 * The ids are those of Hugging Face's INFLMTokenizer for OpenCoder vocabularies and those of
 * SentencePiece 0.2.3 for all others. Text may be any bytes: what is not UTF-8 becomes byte tokens
 * in OpenCoder vocabularies, so that nothing is lost, and U+FFFD elsewhere, as in SentencePiece.
 * Time grows as n log n with the text, and at worst with the length of the longest token.
 *
 * Sections: 1 trie, 2 splitter, 3 normalizer, 4 BPE, 5 unigram, 6 encoding and decoding,
 * 7 construction, 8 the program. Test: tests/test_tokenizer.c (make test-tokenizer). */
#include "opencoder.h" /* Vocab, Ids, the prototypes of this file; and files.h, gguf.h */
#include "unicode.h"   /* utf8_decode, MALFORMED; which code points are LETTER, NUMBER, SPACE */
#include <float.h>     /* FLT_MAX */
#include <strings.h>   /* strncasecmp */

#define SPACE_SYMBOL "\xE2\x96\x81" /* U+2581, how vocabularies write a space */

/* ------------------------------------------------------------------------------------------------
 * 1. Trie: all token texts as paths of bytes
 * A node stands for a byte string, an edge appends one byte to it. Every edge of the trie lives in
 * one hash table under the key (node << 8 | byte), so a step costs one look-up, and the pieces
 * "de" and "def" share their beginning:   root -d-> . -e-> "de" -f-> "def"
 * Three roots keep three sets of strings apart. */

enum { ROOT_PIECE = 1, ROOT_USER, ROOT_SPECIAL, FIRST_NODE };
#define MAX_NODES (1u << 24) /* so many fit into a key beside the byte */

typedef struct {
    uint32_t key, node; /* key 0: free. node: where the edge leads */
    int id;             /* token that ends at that node, or -1 */
} Edge;

struct Tokenizer {
    const Vocab *vocab;
    Edge *edge; /* the trie: 2^bits places, at most four of five taken */
    int bits;
    uint32_t n_nodes;
    bool has[TOK_BYTE + 1]; /* which types of tokens there are */
    int byte_id[256];       /* token of each byte */
    int first_added;        /* tokens from here on were added beside SentencePiece's own */
    float min_score;        /* of the normal tokens */
    Str *piece;             /* what each token stands for in running text, ... */
    char *piece_bytes;      /* ... and where that is kept */
    uint8_t *class_of;      /* LETTER, NUMBER, SPACE or OTHER for every code point */
    Str charsmap_trie, charsmap_text; /* section 3 */
};

/* Tokens that stand outside of text: what `special` cuts out. */
static bool is_special(const Tokenizer *t, int id) {
    int type = t->vocab->type[id];
    return type == TOK_CONTROL || type == TOK_UNKNOWN || (type == TOK_USER && id >= t->first_added);
}

/* The place of an edge in the table: either it, or the free place where it would go. */
static Edge *trie_place(const Tokenizer *t, uint32_t node, char byte) {
    uint32_t key = node << 8 | (uint8_t)byte, mask = (1u << t->bits) - 1;
    uint32_t i = key * 2654435769u >> (32 - t->bits); /* 2^32 / golden ratio: spreads neighbours */
    while (t->edge[i].key && t->edge[i].key != key) i = (i + 1) & mask;
    return &t->edge[i];
}

static void trie_add(Tokenizer *t, uint32_t root, Str s, int id) {
    for (size_t i = 0; i < s.n; i++) {
        Edge *e = trie_place(t, root, s.s[i]);
        if (!e->key) *e = (Edge){ root << 8 | (uint8_t)s.s[i], t->n_nodes++, -1 };
        if (i + 1 == s.n) e->id = id;
        root = e->node;
    }
}

/* The edge that appends `byte` to a node, NULL when no token goes on like that. */
static const Edge *trie_step(const Tokenizer *t, uint32_t node, char byte) {
    const Edge *e = trie_place(t, node, byte);
    return e->key ? e : NULL;
}

/* The last edge of the path over all n > 0 bytes of s, NULL when it breaks off. */
static const Edge *trie_walk(const Tokenizer *t, uint32_t node, const char *s, size_t n) {
    const Edge *e = trie_step(t, node, s[0]);
    for (size_t i = 1; e && i < n; i++) e = trie_step(t, e->node, s[i]);
    return e;
}

/* The longest string under `root` that s begins with: its length (0: none) and its id. */
static size_t trie_longest(const Tokenizer *t, uint32_t root, const char *s, size_t n, int *id) {
    size_t longest = 0;
    const Edge *e;
    for (size_t i = 0; i < n && (e = trie_step(t, root, s[i])); i++, root = e->node)
        if (e->id >= 0) longest = i + 1, *id = e->id;
    return longest;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Splitter: what one regular expression does in INFLMTokenizer, written out. It is GPT-4's
 * (cl100k_base); words never cross its cuts, so that "):" or "123456" cannot become one token.
 *
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3}
 *   |  ?[^\s\p{L}\p{N}]+[\r\n]*  | \s*[\r\n]+ | \s+(?!\S)                   else one character */

/* Class of the character that opens s, -1 at the end; *len: its length. */
static int char_class(const Tokenizer *t, const char *s, size_t n, size_t *len) {
    uint32_t code;
    *len = n ? utf8_decode(s, n, &code) : 0;
    return n ? t->class_of[code] : -1;
}

/* Where the run of characters of one class that begins at s[i] ends, after at most `max`. */
static size_t run_end(const Tokenizer *t, const char *s, size_t n, size_t i, int class, int max) {
    size_t len;
    while (max-- && char_class(t, s + i, n - i, &len) == class) i += len;
    return i;
}

/* Length of 's 't 're 've 'm 'll 'd in any case, or 0. U+017F is a lower case s to Unicode. */
static size_t contraction(const char *s, size_t n) {
    static const char *const tail[] = { "s", "t", "m", "d", "re", "ve", "ll", "\xC5\xBF" };
    for (int i = 0; i < 8 && s[0] == '\''; i++)
        if (n > strlen(tail[i]) && !strncasecmp(s + 1, tail[i], strlen(tail[i])))
            return 1 + strlen(tail[i]);
    return 0;
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

/* Length of the first word of s, n > 0: the alternatives of the expression, in its order. */
size_t tokenizer_next_word(const Tokenizer *t, const char *s, size_t n) {
    size_t first, len, i, last = 0, after_newline = 0;
    int class = char_class(t, s, n, &first);
    if ((i = contraction(s, n))) return i;
    if (class == LETTER) return run_end(t, s, n, first, LETTER, -1);
    if (class != NUMBER && !is_newline(s[0]) && char_class(t, s + first, n - first, &len) == LETTER)
        return run_end(t, s, n, first + len, LETTER, -1);
    if (class == NUMBER) return run_end(t, s, n, first, NUMBER, 2);
    i = s[0] == ' ';
    if (char_class(t, s + i, n - i, &len) == OTHER) {
        i = run_end(t, s, n, i + len, OTHER, -1);
        while (i < n && is_newline(s[i])) i++;
        return i;
    }
    for (i = 0; char_class(t, s + i, n - i, &len) == SPACE; i += len) { /* white space is left */
        if (is_newline(s[i])) after_newline = i + 1;
        last = i;
    }
    if (after_newline) return after_newline; /* lines end with their last newline, ... */
    return i < n && last ? last : i;         /* ... the last space opens the next word */
}

/* ------------------------------------------------------------------------------------------------
 * 3. Normalizer: SentencePiece's rewriting of the text before it is cut into tokens
 * The precompiled_charsmap of a vocabulary is a list of rules "these bytes become those", for
 * instance the NFKC forms of Unicode; the longest rule that fits is used. It is stored as
 *
 *   size of the trie u32 | trie: units u32 | the new texts, each with a NUL behind it
 *
 * where the trie is a double array (as the Darts library lays it out). Node 0 is the root; the
 * child of a node over byte b stands at unit (node ^ offset ^ b) and says so with its label, b:
 *
 *   bit   31   30 ... 10   9                            8        7 ... 0
 *         0    offset      offset is shifted by 8 more  a leaf   label
 *
 * A leaf's value, where its text begins, is the unit at (its place ^ its offset). The units come
 * from a file and may say anything: every index is compared with the array's length. */

enum { LONGEST_RULE = 1024 }; /* bytes on either side that are looked at; real ones have 50 */

static uint32_t charsmap_unit(const Tokenizer *t, uint32_t i) {
    uint32_t unit;
    memcpy(&unit, t->charsmap_trie.s + 4 * (size_t)i, 4);
    return unit;
}

static uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The longest rule that s begins with: its length, 0 for none, and what it becomes. */
static size_t charsmap_rule(const Tokenizer *t, const char *s, size_t n, Str *to) {
    size_t longest = 0, n_units = t->charsmap_trie.n / 4;
    if (!n_units) return 0;
    uint32_t at = unit_offset(charsmap_unit(t, 0));
    for (size_t i = 0; i < n && i < LONGEST_RULE; i++) {
        at ^= (uint8_t)s[i];
        if (at >= n_units) break;
        uint32_t unit = charsmap_unit(t, at);
        if ((unit & 0x800000FF) != (uint8_t)s[i]) break;
        at ^= unit_offset(unit);
        if (!(unit >> 8 & 1) || at >= n_units) continue;
        uint32_t value = charsmap_unit(t, at) & 0x7FFFFFFF;
        if (value >= t->charsmap_text.n) continue;
        size_t room = t->charsmap_text.n - value;
        to->s = t->charsmap_text.s + value;
        to->n = strnlen(to->s, room < LONGEST_RULE ? room : LONGEST_RULE);
        longest = i + 1;
    }
    return longest;
}

/* Takes the shortest piece of text that is rewritten as a whole off s: returns its length. */
static size_t normalize_next(const Tokenizer *t, const char *s, size_t n, Str *to) {
    int id;
    uint32_t code;
    size_t len = t->has[TOK_USER] ? trie_longest(t, ROOT_USER, s, n, &id) : 0;
    to->s = s;
    if (len) return to->n = len; /* the vocabulary's own symbols are sacred */
    if ((len = charsmap_rule(t, s, n, to))) return len;
    to->n = len = utf8_decode(s, n, &code);
    if (code == MALFORMED && !t->vocab->opencoder) *to = str_of("\xEF\xBF\xBD"); /* U+FFFD */
    return len;
}

/* out = the normalized text. With remove_extra_whitespaces, runs of spaces become one and those at
 * either end go; with add_space_prefix a word at the start looks like one in the middle. */
static void normalize(const Tokenizer *t, const char *s, size_t n, Buf *out) {
    const Vocab *v = t->vocab;
    bool squeeze = v->remove_extra_whitespaces, after_space = squeeze, blank = squeeze;
    Str to;
    out->n = 0;
    if (v->add_space_prefix && !v->whitespace_suffix) buf_add(out, SPACE_SYMBOL, 3);
    for (size_t i = 0; i < n;) {
        i += normalize_next(t, s + i, n - i, &to);
        blank &= str_is(to, " ");
        for (; after_space && to.n && to.s[0] == ' '; to.n--) to.s++;
        for (size_t k = 0; k < to.n; k++)
            buf_add(out, to.s[k] == ' ' ? SPACE_SYMBOL : to.s + k, to.s[k] == ' ' ? 3 : 1);
        if (to.n) after_space = squeeze && to.s[to.n - 1] == ' ';
    }
    while (squeeze && out->n >= 3 && !memcmp(out->data + out->n - 3, SPACE_SYMBOL, 3)) out->n -= 3;
    if (v->add_space_prefix && v->whitespace_suffix && !blank) buf_add(out, SPACE_SYMBOL, 3);
}

/* ------------------------------------------------------------------------------------------------
 * 4. BPE (arXiv 1508.07909), by score: of all neighbours whose joined text is a token, join the
 * pair whose token has the highest score, the leftmost of equals, and repeat until none is left.
 *
 * A symbol is kept at the place where its first byte stands, so its right neighbour is found by
 * its length, and joining needs no other bookkeeping:
 *
 *   text    d  e  f  _  x              text    d  e  f  _  x
 *   len     1  1  1  3  .  .  1   ->   len     2  0  1  3  .  .  1     after joining d and e
 *
 * Candidates wait in a heap. Those that an earlier join has overtaken stay in there and are told
 * by their size, which the two neighbours no longer add up to. */

typedef struct {
    uint32_t len;     /* bytes; 0 once it was joined to its left neighbour */
    uint32_t prev;    /* where the left neighbour begins */
    const Edge *edge; /* where its text ends in the trie, NULL: no token begins like this */
    bool frozen;      /* a user-defined symbol: never joined */
} Symbol;

typedef struct {
    float score;
    uint32_t left, size; /* the left symbol and the bytes of both together */
    const Edge *edge;    /* the joined text in the trie */
} Join;

/* What one call of tokenizer_encode works with. */
typedef struct {
    const Tokenizer *t;
    Ids *ids;
    Buf text;    /* one normalized word */
    void *table; /* Symbol[] or Best[], one for each byte of text and one behind it */
    Join *heap;  /* heap[0] is the best join; heap[i] comes before heap[2i + 1] and heap[2i + 2] */
    size_t table_cap, n_heap, heap_cap;
    uint32_t *first_part; /* by id of unused tokens: the length of the left part; NULL: none yet */
    bool after_unknown;   /* the last token was the unknown token */
} Encoder;

void ids_add(Ids *ids, int id) {
    if (ids->n == ids->cap) {
        ids->cap = ids->cap * 2 + 64;
        ids->id = (int *)xrealloc(ids->id, ids->cap, sizeof *ids->id, "ids");
    }
    ids->id[ids->n++] = id;
}

/* Puts out the token of text[at .. at + len); without one, its bytes, or the unknown token, once
 * for a run of unknown characters. */
static void emit(Encoder *e, int id, uint32_t at, uint32_t len) {
    if (id >= 0)
        ids_add(e->ids, id);
    else if (!e->t->has[TOK_BYTE] && !e->after_unknown)
        ids_add(e->ids, e->t->vocab->unk);
    for (uint32_t i = at; id < 0 && e->t->has[TOK_BYTE] && i < at + len; i++)
        ids_add(e->ids, e->t->byte_id[(uint8_t)e->text.data[i]]);
    e->after_unknown = id < 0;
}

static bool join_before(const Join *a, const Join *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void heap_push(Encoder *e, Join j) {
    if (e->n_heap == e->heap_cap) {
        e->heap_cap = e->heap_cap * 2 + 64;
        e->heap = (Join *)xrealloc(e->heap, e->heap_cap, sizeof *e->heap, "encoder");
    }
    size_t i = e->n_heap++;
    for (; i && join_before(&j, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = j;
}

static Join heap_pop(Encoder *e) {
    Join top = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && join_before(&e->heap[child + 1], &e->heap[child])) child++;
        if (!join_before(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return top;
}

/* Queues the join of the symbol at `left` with its right neighbour, if that is a token. */
static void consider_join(Encoder *e, uint32_t left) {
    const Symbol *a = (Symbol *)e->table + left, *b = a + a->len;
    if (b->len == 0 || a->frozen || b->frozen || !a->edge) return;
    const Edge *edge = trie_walk(e->t, a->edge->node, e->text.data + left + a->len, b->len);
    const Vocab *v = e->t->vocab;
    if (!edge || edge->id < 0) return;
    heap_push(e, (Join){ v->score[edge->id], left, a->len + b->len, edge });
    if (v->type[edge->id] != TOK_UNUSED) return;
    if (!e->first_part) e->first_part = (uint32_t *)xcalloc((size_t)v->n, 4, "encoder");
    e->first_part[edge->id] = a->len;
}

static void set_symbol(Encoder *e, uint32_t at, uint32_t len, uint32_t prev, bool frozen) {
    const Edge *edge = trie_walk(e->t, ROOT_PIECE, e->text.data + at, len);
    ((Symbol *)e->table)[at] = (Symbol){ len, prev, edge, frozen };
}

/* Puts out the symbols' tokens. An unused token may help to join, but is taken apart again. */
static void emit_symbols(Encoder *e, uint32_t n) {
    for (uint32_t i = 0; i < n;) {
        const Symbol *s = (Symbol *)e->table + i;
        int id = s->edge ? s->edge->id : -1;
        bool unused = id >= 0 && e->t->vocab->type[id] == TOK_UNUSED;
        uint32_t part = unused && e->first_part ? e->first_part[id] : 0;
        if (!part) {
            emit(e, unused ? -1 : id, i, s->len);
            i += s->len;
            continue;
        }
        set_symbol(e, i + part, s->len - part, i, false);
        set_symbol(e, i, part, i, false);
    }
}

static void encode_bpe(Encoder *e) {
    Symbol *symbol = (Symbol *)e->table;
    uint32_t n = (uint32_t)e->text.n;
    for (uint32_t i = 0, prev = 0, code; i < n; prev = i, i += symbol[i].len) {
        const char *s = e->text.data + i;
        int id;
        size_t user = e->t->has[TOK_USER] ? trie_longest(e->t, ROOT_USER, s, n - i, &id) : 0;
        set_symbol(e, i, (uint32_t)(user ? user : utf8_decode(s, n - i, &code)), prev, user > 0);
    }
    symbol[n].len = 0; /* no neighbour behind the end */
    for (uint32_t i = 0; i < n; i += symbol[i].len) consider_join(e, i);
    while (e->n_heap) {
        Join j = heap_pop(e);
        Symbol *a = &symbol[j.left], *b = a + a->len;
        if (a->len + b->len != j.size) continue; /* overtaken */
        b->len = 0;
        a->len = j.size;
        a->edge = j.edge;
        symbol[j.left + j.size].prev = j.left;
        if (j.left) consider_join(e, a->prev);
        consider_join(e, j.left);
    }
    emit_symbols(e, n);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Unigram (arXiv 1804.10959): of all ways to cut the text into tokens, the one with the largest
 * sum of scores, which are log probabilities. Viterbi's algorithm, from left to right:
 *
 *   best(0) = 0      best(end) = max over tokens text[start .. end) of best(start) + score(token)
 *
 * Of equals the one found first stays. Sums are floats, as in SentencePiece, so that ties are the
 * same; as they lose precision when they grow, they start over now and then, as they do there. */

typedef struct { /* the best way to cut text[0 .. here) */
    int id;
    float score;
    uint32_t start, next; /* where its last token begins; where the next one on the path ends */
} Best;

static void reach(Best *end, uint32_t start, int id, float score) {
    if (end->start == UINT32_MAX || score > end->score) *end = (Best){ id, score, start, 0 };
}

static void encode_unigram(Encoder *e) {
    const Tokenizer *t = e->t;
    const Vocab *v = t->vocab;
    Best *best = (Best *)e->table;
    uint32_t n = (uint32_t)e->text.n, len, code, furthest = 0;
    for (uint32_t i = 0; i <= n; i++) best[i] = (Best){ -1, 0, UINT32_MAX, 0 };
    for (uint32_t i = 0; i < n; i += len) {
        uint32_t node = ROOT_PIECE;
        const Edge *edge;
        bool covered = false; /* some token is just this character */
        float sum = best[i].score;
        if (fabsf(sum) > 1e5f) {
            for (uint32_t k = i; k <= furthest; k++) best[k].score -= sum;
            sum = 0;
        }
        len = (uint32_t)utf8_decode(e->text.data + i, n - i, &code);
        for (uint32_t k = i; k < n && (edge = trie_step(t, node, e->text.data[k])); k++) {
            uint32_t bytes = k + 1 - i;
            node = edge->node;
            if (edge->id < 0 || v->type[edge->id] == TOK_UNUSED) continue;
            float score = v->score[edge->id];
            if (v->type[edge->id] == TOK_USER) score = (float)(0.1 * (bytes - 1)); /* the best */
            reach(&best[k + 1], i, edge->id, score + sum);
            covered |= bytes == len;
            if (k + 1 > furthest) furthest = k + 1;
        }
        /* a character without a token: worse than any token */
        if (!covered) reach(&best[i + len], i, -1, t->min_score - 10 + sum);
        if (i + len > furthest) furthest = i + len;
    }
    for (uint32_t i = n; i > 0; i = best[i].start) best[best[i].start].next = i;
    for (uint32_t i = 0; i < n; i = best[i].next)
        emit(e, best[best[i].next].id, i, best[i].next - i);
}

/* ------------------------------------------------------------------------------------------------
 * 6. Encoding and decoding */

static void encode_run(Encoder *e, const char *s, size_t n) {
    bool unigram = e->t->vocab->unigram;
    for (size_t len = n; n; s += len, n -= len) {
        if (e->t->vocab->opencoder) len = tokenizer_next_word(e->t, s, n);
        normalize(e->t, s, len, &e->text);
        if (e->text.n > UINT32_MAX - 2)
            die("text: a stretch of %zu bytes, expected less than 4 GiB at once", e->text.n);
        if (e->text.n >= e->table_cap) {
            free(e->table);
            e->table_cap = e->text.n + e->text.n / 2 + 64;
            e->table = xcalloc(e->table_cap, unigram ? sizeof(Best) : sizeof(Symbol), "encoder");
        }
        e->after_unknown = false;
        unigram ? encode_unigram(e) : encode_bpe(e);
    }
}

void tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, Ids *ids) {
    Encoder e = { .t = t, .ids = ids };
    size_t start = 0, len;
    int id;
    for (size_t i = 0; special && i < n; i += len ? len : 1) {
        len = trie_longest(t, ROOT_SPECIAL, text + i, n - i, &id);
        if (!len) continue;
        encode_run(&e, text + start, i - start);
        ids_add(ids, id);
        start = i + len;
    }
    encode_run(&e, text + start, n - start);
    buf_free(&e.text);
    free(e.table);
    free(e.heap);
    free(e.first_part);
}

void tokenizer_encode_prompt(const Tokenizer *t, const char *text, size_t n, bool special,
                             Ids *ids) {
    if (t->vocab->add_bos) ids_add(ids, t->vocab->bos);
    tokenizer_encode(t, text, n, special, ids);
}

Str tokenizer_piece(const Tokenizer *t, int id, bool plain) {
    int type = id >= 0 && id < t->vocab->n ? t->vocab->type[id] : 0;
    if (type == 0 || (plain && type == TOK_CONTROL)) return str_of("");
    if (plain && type == TOK_UNKNOWN) /* SentencePiece shows that something was lost */
        return str_of(t->vocab->opencoder ? "" : " \xE2\x81\x87 ");
    return t->piece[id];
}

void tokenizer_decode(const Tokenizer *t, const int *id, size_t n, bool plain, Buf *out) {
    const Vocab *v = t->vocab;
    bool strip = v->add_space_prefix || v->remove_extra_whitespaces, at_start = true;
    for (size_t i = 0; i < n; i++) {
        Str s = tokenizer_piece(t, id[i], plain);
        if (id[i] < 0 || id[i] >= v->n) continue;
        if (is_special(t, id[i])) {
            at_start = v->type[id[i]] != TOK_UNKNOWN; /* a new run of text begins */
        } else if (at_start && strip && s.n && s.s[0] == ' ' && v->type[id[i]] != TOK_BYTE) {
            s = (Str){ s.s + 1, s.n - 1 }; /* the prefix that normalize put there */
            at_start = v->remove_extra_whitespaces && s.n == 0;
        } else {
            at_start = false;
        }
        buf_add(out, s.s, s.n);
    }
}

size_t utf8_complete(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = (uint8_t)s[n - back];
        size_t len = c < 0xC0 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF8 ? 4 : 0;
        if (c < 0x80 || len) return len > back ? n - back : n; /* else inside a character */
    }
    return n;
}

/* ------------------------------------------------------------------------------------------------
 * 7. Construction: every table that encoding and decoding read, and never write */

static void load_charsmap(Tokenizer *t) {
    Str map = t->vocab->charsmap; /* its parts have been measured by charsmap_check */
    uint32_t size;                /* of the trie */
    if (map.n == 0) return;
    memcpy(&size, map.s, 4);
    t->charsmap_trie = (Str){ map.s + 4, size };
    t->charsmap_text = (Str){ map.s + 4 + size, map.n - 4 - size };
}

/* What token i stands for in running text, written to `to`; returns how many bytes. */
static size_t load_piece(const Tokenizer *t, int i, char *to) {
    Str from = t->vocab->token[i];
    size_t n = 0;
    if (t->vocab->type[i] == TOK_BYTE) return *to = (char)byte_token(from), 1;
    for (size_t k = 0; k < from.n; k++) {
        bool space = from.n - k >= 3 && !memcmp(from.s + k, SPACE_SYMBOL, 3) && !is_special(t, i);
        to[n++] = space ? ' ' : from.s[k];
        k += space ? 2 : 0;
    }
    return n;
}

/* Enters token i wherever it is looked for. */
static void load_token(Tokenizer *t, int i) {
    Str s = t->vocab->token[i];
    int type = t->vocab->type[i];
    t->has[type] = true;
    if (type == TOK_BYTE) t->byte_id[byte_token(s)] = i;
    if (type == TOK_NORMAL) t->min_score = fminf(t->min_score, t->vocab->score[i]);
    if (is_special(t, i)) trie_add(t, ROOT_SPECIAL, s, i);
    if (i >= t->first_added) return; /* SentencePiece knows nothing of the others */
    if (type == TOK_NORMAL || type == TOK_USER || type == TOK_UNUSED) trie_add(t, ROOT_PIECE, s, i);
    if (type == TOK_USER) trie_add(t, ROOT_USER, s, i);
}

Tokenizer *tokenizer_new(const Vocab *v, Error *e) {
    Tokenizer *t = (Tokenizer *)xcalloc(1, sizeof *t, "tokenizer");
    size_t bytes = 0, nodes = FIRST_NODE; /* at most */
    *t = (Tokenizer){ .vocab = v, .min_score = FLT_MAX, .first_added = v->n_pieces };
    if (v->n_pieces == v->n) /* a file that does not say: added tokens follow the normal ones */
        while (t->first_added && v->type[t->first_added - 1] != TOK_NORMAL) t->first_added--;
    for (int i = 0; i < v->n; i++) {
        bytes += v->token[i].n;
        nodes += v->token[i].n * (v->type[i] == TOK_USER ? 2 : 1); /* under two roots */
    }
    if (nodes >= MAX_NODES) {
        fail(e, "tokens of %zu bytes, expected less than 16M", bytes);
        free(t);
        return NULL;
    }
    load_charsmap(t);
    t->class_of = (uint8_t *)xcalloc(MALFORMED + 1, 1, "classes of code points");
    unicode_classes(t->class_of);
    t->n_nodes = FIRST_NODE;
    while ((size_t)1 << ++t->bits < nodes + nodes / 4) {}
    t->edge = (Edge *)xcalloc((size_t)1 << t->bits, sizeof(Edge), "trie");
    t->piece = (Str *)xcalloc((size_t)v->n, sizeof *t->piece, "pieces");
    char *to = t->piece_bytes = (char *)xcalloc(bytes, 1, "pieces");
    for (int i = 0; i < v->n; i++) {
        load_token(t, i);
        t->piece[i] = (Str){ to, load_piece(t, i, to) };
        to += t->piece[i].n;
    }
    return t;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    free(t->edge);
    free(t->piece);
    free(t->piece_bytes);
    free(t->class_of);
    free(t);
}

/* ------------------------------------------------------------------------------------------------
 * 8. The program */
#ifndef OC_LIBRARY

static const char *opt_text, *opt_file;
static bool opt_no_special, opt_plain;

static const Option options[] = {
    { 'i', "input", "prompt", "TEXT", OPT_TEXT, &opt_text, 0, 0, "encode: text [-, stdin]" },
    { 'f', "file", NULL, "FILE", OPT_TEXT, &opt_file, 0, 0, "encode: the bytes of a file" },
    { 0, "no-special", NULL, NULL, OPT_FLAG, &opt_no_special, 0, 0, "encode: <|im_end|> is text" },
    { 0, "plain", NULL, NULL, OPT_FLAG, &opt_plain, 0, 0, "decode: leave special tokens out" },
    { 0 },
};

static const char usage[] =
    "usage: tokenizer encode MODEL [-i TEXT | -f FILE]    text -> ids\n"
    "       tokenizer decode MODEL [ID ...]               ids -> bytes; ids from stdin if none\n"
    "       tokenizer info   MODEL                        what the vocabulary is\n"
    "       tokenizer train | pack -h                     learn a vocabulary; text -> shards\n"
    "MODEL is a GGUF file, with or without tensors.\n";

static void encode_command(const Tokenizer *t) {
    Buf text = { 0 };
    Ids ids = { 0 };
    Error e;
    if (opt_text && opt_file) die_usage("-i and -f: both given, expected one of them");
    buf_add(&text, "", 0); /* data is not NULL, even for an empty text */
    if (opt_file)
        read_file(opt_file, &text);
    else if (opt_text && strcmp(opt_text, "-"))
        buf_add(&text, opt_text, strlen(opt_text));
    else if (!read_all(0, &text, &e))
        die("stdin: %s", e.text);
    tokenizer_encode_prompt(t, text.data, text.n, !opt_no_special, &ids);
    for (size_t i = 0; i < ids.n; i++) printf(i ? " %d" : "%d", ids.id[i]);
    putchar('\n');
    free(ids.id);
    buf_free(&text);
}

static void decode_command(const Tokenizer *t, const char **word, int n) {
    int last = t->vocab->n - 1;
    Buf input = { 0 }, text = { 0 };
    Ids ids = { 0 };
    const char *blank = " \t\r\n";
    Error e;
    for (int i = 0; i < n; i++) ids_add(&ids, (int)parse_int("id", word[i], 0, last));
    if (n == 0 && !read_all(0, &input, &e)) die("stdin: %s", e.text);
    buf_add(&input, "", 1); /* so that there is data to look for ids in */
    for (char *w = input.data, *end; (w += strspn(w, blank)) < input.data + input.n - 1; w = end) {
        long long id = strtoll(w, &end, 10); /* what does not fit is LLONG_MAX or LLONG_MIN */
        if (end == w || !strchr(blank, *end) || id < 0 || id > last)
            die("stdin: id '%.40s', expected a number from 0 to %d", w, last);
        ids_add(&ids, (int)id);
    }
    tokenizer_decode(t, ids.id, ids.n, opt_plain, &text);
    if (text.n) fwrite(text.data, 1, text.n, stdout);
    free(ids.id);
    buf_free(&input);
    buf_free(&text);
}

static void info_command(const Vocab *v) {
    static const char *kind[] = { "", "normal", "unknown", "control", "user", "unused", "byte" };
    int n[TOK_BYTE + 1] = { 0 };
    for (int i = 0; i < v->n; i++) n[v->type[i]]++;
    printf("%s, %d tokens:", v->unigram ? "unigram" : "BPE", v->n);
    for (int i = TOK_NORMAL; i <= TOK_BYTE; i++) printf(" %d %s", n[i], kind[i]);
    printf("\nbos %d, eos %d, unk %d, pad %d, stop", v->bos, v->eos, v->unk, v->pad);
    for (int i = 0; i < v->n_stop; i++) printf(" %d", v->stop[i]);
    printf("\nopencoder %d, add_bos %d, add_space_prefix %d, ", v->opencoder, v->add_bos,
           v->add_space_prefix);
    printf("remove_extra_whitespaces %d, whitespace_suffix %d, charsmap of %zu bytes\n",
           v->remove_extra_whitespaces, v->whitespace_suffix, v->charsmap.n);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "train")) return vocab_train_main(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "pack")) return vocab_pack_main(argc - 1, argv + 1);
    const char **word = (const char **)xcalloc((size_t)argc, sizeof *word, "arguments");
    int n = parse_options(argc, argv, options, usage, word, argc);
    const char *command = n > 0 ? word[0] : "(none)";
    bool encode = !strcmp(command, "encode"), decode = !strcmp(command, "decode");
    Error e;
    if (!encode && !decode && strcmp(command, "info"))
        die_usage("command %s: expected encode, decode, info, train or pack", command);
    if (n < 2) die_usage("%s: no model given, expected a GGUF file", command);
    if (n > 2 && !decode) die_usage("'%s': unexpected argument", word[2]);
    Model m;
    model_open_vocab(&m, word[1]);
    Tokenizer *t = tokenizer_new(&m.vocab, &e);
    if (!t) die("%s: %s", m.path, e.text);
    if (encode) encode_command(t);
    if (decode) decode_command(t, word + 2, n - 2);
    if (!encode && !decode) info_command(&m.vocab);
    close_stdout();
    tokenizer_free(t);
    model_close(&m);
    free((void *)word);
    return 0;
}
#endif
