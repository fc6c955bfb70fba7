/* vocab.c: `./tokenizer train`, which learns a vocabulary from text.
 *
 *     ./tokenizer train SRC_DIR more.jsonl -o vocab.gguf --vocab 8192 --model tokenizer.model
 *
 * What to know first: byte pair encoding (arXiv 1508.07909). Text is cut into words by the splitter
 * of tokenizer.c, and every different word is kept once, with its count. All words begin as rows of
 * characters; then, again and again, the pair of neighbours that is most frequent over all words
 * becomes a piece of the vocabulary and is joined wherever it stands:
 *
 *     5 x "_return"    _ r e t u r n   ->   _ re t u r n   ->   _ re tur n   ->  ...
 *     2 x "_are"       _ a r e         ->   _ a re
 *
 * The result has the layout of OpenCoder's own vocabulary, which SentencePiece made:
 *
 *     id 0 <unk>   1 <s>   2 </s>   3 <pad>   4 .. 259 the bytes <0x00> .. <0xFF>
 *     then the pieces by falling score, the score being -0, -1, -2, ... in the order they were made
 *     then single characters, the most frequent first, their scores going on
 *     then added tokens: those of --special, <|endoftext|>, <|im_end|>, <|im_start|>
 *
 * A pair is known by the text it makes: "a" + "bc" and "ab" + "c" are counted together, since the
 * encoder cannot tell them apart either. Words are at any time cut as the encoder would cut them
 * with the pieces made so far. Of equally frequent pairs the shorter one (in characters), then the
 * one that sorts first is taken: the result depends on the words and their counts alone, not on
 * their order, and so not on the number of threads.
 *
 * Sections: 1 words, 2 symbols and pairs, 3 the best pair, 4 joining, 5 vocabulary and files, 6 the
 * program. Test: tests/test_vocab.py. */

#include "../export/export.h" /* spm_write */
#include "../unicode.h"       /* utf8_decode, MALFORMED */
#include "texts.h"            /* Texts, Words */

enum { LONGEST_WORD = 256 }; /* bytes; what is longer is learned from in stretches */
enum { LONGEST_PIECE = 64 }; /* characters */
enum { N_FIXED = 4 + 256 };  /* <unk> <s> </s> <pad> and the bytes */
#define NONE UINT32_MAX      /* no symbol: a character outside of the vocabulary, or no such pair */

/* A text that is a piece, or would be if it were joined. Its number is that of its text in names. */
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
    uint32_t *chars, n_chars;
    uint32_t max_chars;
    const Str *added; /* texts that must not become pieces */
    int n_added;
    uint64_t n_all_chars, n_bytes, n_lost; /* of the text; lost: bytes of characters left out */
} Learner;

/* ------------------------------------------------------------------------------------------------
 * 1. Words: every different one, with its count */

static void count_words(const Tokenizer *t, Words *words, Str text) {
    for (size_t len; text.n; text.n -= len) {
        len = tokenizer_next_word(t, text.s, text.n);
        for (size_t left = len, n; left; left -= n, text.s += n) {
            n = left > LONGEST_WORD ? utf8_complete(text.s, LONGEST_WORD) : left;
            words_get(words, text.s, n)->value++;
        }
    }
}

/* Counts the words of all texts, one table a thread, then adds the tables up in the first. */
static void count_texts(Texts *x, const Tokenizer *t, const char *field, Words *words,
                        int n_threads) {
    Part *part = xcalloc(BATCH_PARTS, sizeof *part, "texts");
    Error *why = xcalloc(BATCH_PARTS, sizeof *why, "texts");
    JsonDoc *doc = xcalloc((size_t)n_threads, sizeof *doc, "texts");
    for (size_t n; (n = texts_batch(x, part, (size_t)n_threads << 23, true));) {
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n; i++) {
            Str text;
            int me = this_thread();
            why[i].text[0] = 0;
            if (part_text(x, &part[i], field, &doc[me], &text, &why[i]))
                count_words(t, &words[me], text);
        }
        for (size_t i = 0; i < n; i++) {
            const Doc *d = part[i].doc;
            if (why[i].text[0]) texts_skip(x, x->file[d->file].path, d->line, why[i].text);
        }
        texts_release(x, part, n);
        texts_progress(x, "counting words");
    }
    for (int k = 1; k < n_threads; k++) {
        for (size_t i = 0; i < words[k].n; i++) {
            const Word *w = &words[k].word[i];
            words_get(words, words[k].text.data + w->at, w->n)->value += w->value;
        }
        words_free(&words[k]);
    }
    for (int k = 0; k < n_threads; k++) json_free(&doc[k]);
    free(doc);
    free(why);
    free(part);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Symbols and pairs */

static Str text_of(const Learner *l, uint32_t id) {
    const Word *w = &l->names.word[id];
    return (Str){ l->names.text.data + w->at, w->n };
}

static uint32_t symbol_of(Learner *l, const char *s, size_t n, uint32_t chars) {
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
    Str a = text_of(l, left), b = text_of(l, right), both = { text, a.n + b.n };
    memcpy(text, a.s, a.n);
    memcpy(text + a.n, b.s, b.n);
    *p = (Pair){ key, symbol_of(l, text, both.n, chars), true };
    for (int i = 0; i < l->n_added; i++)
        if (!str_cmp(l->added[i], both)) p->id = NONE;
    return p->id;
}

/* ------------------------------------------------------------------------------------------------
 * 3. The best pair: a heap of (count, symbol). A symbol may be in there several times: once more
 * whenever its count has grown. Counts that have sunk are set right when they come to the top. */

static bool entry_before(const Learner *l, Entry a, Entry b) {
    if (a.count != b.count) return a.count > b.count;
    if (l->symbol[a.id].chars != l->symbol[b.id].chars)
        return l->symbol[a.id].chars < l->symbol[b.id].chars;
    return str_cmp(text_of(l, a.id), text_of(l, b.id)) < 0;
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
 * 4. Joining */

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
static void learn(Learner *l, uint32_t n) {
    bool shown = isatty(STDERR_FILENO);
    uint32_t id;
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

/* ------------------------------------------------------------------------------------------------
 * 5. Characters in, vocabulary out */

typedef struct {
    uint64_t count;
    uint32_t code;
} CharCount;

static int char_before(const void *a, const void *b) {
    const CharCount *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x->code < y->code ? -1 : x->code > y->code;
}

/* The next character of a word, a space as U+2581; returns its bytes. */
static size_t next_char(const char *s, size_t n, uint32_t *code) {
    size_t len = utf8_decode(s, n, code);
    if (*code == ' ') *code = 0x2581;
    return len;
}

/* Makes symbols of the most frequent characters, which together are `coverage` of the text;
 * char_id[code] is the symbol or NONE. */
static void choose_chars(Learner *l, const Words *words, double coverage, uint32_t *char_id) {
    CharCount *c = xcalloc(MALFORMED + 1, sizeof *c, "characters");
    uint64_t covered = 0;
    uint32_t code, n = 0;
    for (size_t w = 0; w < words->n; w++) {
        const char *s = words->text.data + words->word[w].at, *end = s + words->word[w].n;
        l->n_bytes += words->word[w].n * words->word[w].value;
        for (; s < end; c[code].count += words->word[w].value)
            s += next_char(s, (size_t)(end - s), &code);
    }
    for (code = 0; code <= MALFORMED; code++) {
        char_id[code] = NONE;
        l->n_all_chars += c[code].count;
        if (code < MALFORMED && c[code].count) c[n++] = (CharCount){ c[code].count, code };
    }
    qsort(c, n, sizeof *c, char_before);
    l->chars = xcalloc(n, sizeof *l->chars, "characters");
    for (uint32_t i = 0; i < n && (double)covered < coverage * (double)l->n_all_chars; i++) {
        char text[4];
        size_t len = (size_t)(utf8_put(text, c[i].code) - text);
        l->chars[l->n_chars++] = char_id[c[i].code] = symbol_of(l, text, len, 1);
        covered += c[i].count;
    }
    free(c);
}

/* Turns counted words into rows of symbols. */
static void load_words(Learner *l, const Words *words, const uint32_t *char_id) {
    uint32_t code;
    size_t at = 0, len;
    l->word = xcalloc(words->n, sizeof *l->word, "words");
    l->chain = xcalloc(words->text.n, sizeof *l->chain, "words"); /* a symbol a byte at most */
    for (size_t w = 0; w < words->n; w++) {
        const char *s = words->text.data + words->word[w].at, *end = s + words->word[w].n;
        Chain *c = &l->word[w];
        *c = (Chain){ words->word[w].value, at, 0 };
        for (; s < end; s += len, c->n++) {
            len = next_char(s, (size_t)(end - s), &code);
            l->chain[at++] = char_id[code];
            if (char_id[code] == NONE) l->n_lost += len * c->count;
        }
    }
    l->n_words = (uint32_t)words->n;
}

/* Tokens that the text takes with the pieces made. */
static uint64_t count_tokens(const Learner *l) {
    uint64_t n = l->n_lost;
    for (uint32_t w = 0; w < l->n_words; w++)
        for (uint32_t i = 0; i < l->word[w].n; i++)
            if (l->chain[l->word[w].at + i] != NONE) n += l->word[w].count;
    return n;
}

static void free_learner(Learner *l) {
    for (size_t i = 0; i < l->names.n; i++) free(l->symbol[i].where);
    words_free(&l->names);
    free(l->symbol);
    free(l->pair);
    free(l->word);
    free(l->chain);
    free(l->heap);
    free(l->touched);
    free(l->made);
    free(l->chars);
}

static void add_token(Vocab *v, Str text, float score, int type) {
    v->token[v->n] = text;
    v->score[v->n] = score;
    v->type[v->n++] = (uint8_t)type;
}

/* A vocabulary with room for n tokens that holds the first 260: enough to split text with. */
static void begin_vocab(Vocab *v, int n) {
    static const char *const name[] = { "<unk>", "<s>", "</s>", "<pad>" };
    static char bytes[256][8];
    memset(v, 0, sizeof *v);
    v->token = xcalloc((size_t)n, sizeof *v->token, "vocabulary");
    v->score = xcalloc((size_t)n, sizeof *v->score, "vocabulary");
    v->type = xcalloc((size_t)n, 1, "vocabulary");
    for (int i = 0; i < 4; i++) add_token(v, str_of(name[i]), 0, i ? TOK_CONTROL : TOK_UNKNOWN);
    for (int i = 0; i < 256; i++) {
        snprintf(bytes[i], sizeof bytes[i], "<0x%02X>", i);
        add_token(v, str_of(bytes[i]), 0, TOK_BYTE);
    }
    v->opencoder = true;
    v->unk = 0;
    v->pad = 3;
    v->bos = v->eos = -1;
    v->n_pieces = v->n;
}

/* What Hugging Face's apply_chat_template and llama-server make prompts with: ChatML, as in run.c */
static const char chat_template[] =
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" OPENCODER_SYSTEM "<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static void end_vocab(Vocab *v, const Learner *l) {
    for (uint32_t i = 0; i < l->n_made; i++)
        add_token(v, text_of(l, l->made[i]), -(float)i, TOK_NORMAL);
    for (uint32_t i = 0; i < l->n_chars; i++)
        add_token(v, text_of(l, l->chars[i]), -(float)(l->n_made + i), TOK_NORMAL);
    v->n_pieces = v->n;
    for (int i = 0; i < l->n_added; i++) add_token(v, l->added[i], -1000, TOK_CONTROL);
    v->bos = v->n - 1; /* <|im_start|> and <|im_end|>, as in OpenCoder */
    v->eos = v->n - 2;
    v->chat_template = str_of(chat_template);
    vocab_add_usual_stops(v);
}

static void write_vocab(const Vocab *v, const char *path, const char *model) {
    GgufWriter w = { 0 };
    gguf_put_str(&w, "general.architecture", str_of("llama"));
    gguf_put_u32(&w, "general.alignment", 32);
    vocab_to_gguf(&w, v);
    gguf_begin(&w, path);
    gguf_end(&w);
    if (!model) return;
    OutFile out;
    Buf spm = { 0 };
    spm_write(&spm, v);
    out_open(&out, model);
    out_write(&out, spm.data, spm.n);
    out_commit(&out);
    buf_free(&spm);
}

/* ------------------------------------------------------------------------------------------------
 * 6. The program */

static struct {
    const char *out, *model, *field;
    TextList special;
    int64_t vocab, threads, max_piece;
    double coverage;
} opt = { .max_piece = 16, .coverage = 0.9995 };

static const Option options[] = {
    { 'o', "output", NULL, "FILE", OPT_TEXT, &opt.out, 0, 0, "the vocabulary, a GGUF file" },
    { 0, "vocab", NULL, "N", OPT_INT, &opt.vocab, 1, 1 << 20, "how many tokens, all included" },
    { 0, "model", NULL, "FILE", OPT_TEXT, &opt.model, 0, 0, "also write a SentencePiece .model" },
    { 0, "special", NULL, "TEXT", OPT_LIST, &opt.special, 0, 0,
      "a token added before <|endoftext|>; may be repeated" },
    { 0, "coverage", NULL, "SHARE", OPT_FLOAT, &opt.coverage, 0.5, 1,
      "characters: so much of the text; bytes spell the rest" },
    { 0, "max-piece", NULL, "N", OPT_INT, &opt.max_piece, 1, LONGEST_PIECE,
      "characters a piece may have" },
    { 0, "field", NULL, "NAME", OPT_TEXT, &opt.field, 0, 0,
      "JSON Lines: where the text is [content, or else text]" },
    { 'j', "threads", NULL, "N", OPT_INT, &opt.threads, 0, 1024, "0: all there are" },
    { 0 },
};

static const char usage[] =
    "usage: tokenizer train TEXT... -o FILE --vocab N    learns a vocabulary from text\n"
    "TEXT: files, directories, JSON Lines in files named .jsonl\n";

static void report(const Texts *x, const Learner *l, int n, double begun) {
    if (x->n_skipped || x->n_empty)
        fprintf(stderr, "left out: %llu that cannot be used, %llu empty files\n",
                (unsigned long long)x->n_skipped, (unsigned long long)x->n_empty);
    fprintf(stderr,
            "%llu texts of %llu bytes, %u words; %d tokens: %u pieces, %u characters, %d added; "
            "%.3f bytes a token, %.1f s\n",
            (unsigned long long)x->n_docs, (unsigned long long)l->n_bytes, l->n_words, n, l->n_made,
            l->n_chars, l->n_added, (double)l->n_bytes / (double)count_tokens(l),
            seconds() - begun);
}

/* Learns v, of opt.vocab tokens, from the words. */
static void make_vocab(Learner *l, Vocab *v, const Words *words) {
    uint32_t *char_id = xcalloc(MALFORMED + 1, sizeof *char_id, "characters");
    choose_chars(l, words, opt.coverage, char_id);
    load_words(l, words, char_id);
    free(char_id);
    int64_t room = opt.vocab - N_FIXED - l->n_chars - l->n_added;
    if (room < 0)
        die("--vocab: %lld, expected at least %lld: %d fixed tokens, %u characters, %d added",
            (long long)opt.vocab, (long long)(opt.vocab - room), N_FIXED, l->n_chars, l->n_added);
    grow_pairs(l);
    learn(l, (uint32_t)room);
    if (l->n_made < room)
        die("--vocab: %lld, expected at most %lld: the text holds %u pairs that come twice, "
            "beside %u characters",
            (long long)opt.vocab, (long long)(opt.vocab - room + l->n_made), l->n_made, l->n_chars);
    end_vocab(v, l);
}

int vocab_train_main(int argc, char **argv) {
    const char **path = xcalloc((size_t)argc, sizeof *path, "arguments");
    int n = parse_options(argc, argv, options, usage, path, argc), n_added = 0;
    double begun = seconds();
    Str added[16 + 3];
    Texts x;
    Vocab v;
    Error e;
    if (!n) die_usage("train: no text given, expected files or directories");
    if (!opt.out) die_usage("train: no -o, expected the file to write");
    if (!opt.vocab) die_usage("train: no --vocab, expected the number of tokens");
    for (int i = 0; i < opt.special.n; i++) added[n_added++] = str_of(opt.special.text[i]);
    added[n_added++] = str_of("<|endoftext|>");
    added[n_added++] = str_of("<|im_end|>");
    added[n_added++] = str_of("<|im_start|>");
    int n_threads = set_threads(opt.threads);
    Words *words = xcalloc((size_t)n_threads, sizeof *words, "words");
    Learner l = { .max_chars = (uint32_t)opt.max_piece, .added = added, .n_added = n_added };
    texts_open(&x, path, n);
    begin_vocab(&v, opt.vocab > N_FIXED ? (int)opt.vocab : N_FIXED);
    Tokenizer *splitter = tokenizer_new(&v, &e);
    if (!splitter) die("splitter: %s", e.text);
    count_texts(&x, splitter, opt.field, words, n_threads);
    tokenizer_free(splitter);
    if (!words->n)
        die("%s: no text in it, expected UTF-8 files; %llu cannot be used, %llu are empty", path[0],
            (unsigned long long)x.n_skipped, (unsigned long long)x.n_empty);
    make_vocab(&l, &v, words);
    words_free(words);
    if (!vocab_check(&v, &e)) die("%s: %s", opt.out, e.text);
    write_vocab(&v, opt.out, opt.model);
    report(&x, &l, v.n, begun);
    free(words);
    free_learner(&l);
    vocab_free(&v);
    texts_close(&x);
    free((void *)path);
    return 0;
}
