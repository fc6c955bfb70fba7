/* vocab.c: `./tokenizer train`, which learns a vocabulary from text.
 *
 *     ./tokenizer train SRC_DIR more.jsonl -o vocab.gguf --vocab 8192 --model tokenizer.model
 *
 * What to know first: text is cut into words by the splitter of tokenizer.c; every different word
 * is kept once, with its count; bpe.c joins their characters to ever longer pieces.
 * The result has the layout of OpenCoder's own vocabulary, which SentencePiece made:
 *
 *     id 0 <unk>   1 <s>   2 </s>   3 <pad>   4 .. 259 the bytes <0x00> .. <0xFF>
 *     then the pieces by falling score, the score being -0, -1, -2, ... in the order they were made
 *     then single characters, the most frequent first, their scores going on
 *     then added tokens: those of --special, <|endoftext|>, <|im_end|>, <|im_start|>
 *
 * The result depends on the words and their counts alone, and so not on the number of threads.
 * Sections: 1 words, 2 characters, 3 vocabulary and files, 4 the program.
 * Test: tests/test_vocab.py. */

#include "../export/export.h" /* spm_write */
#include "../unicode.h"       /* utf8_decode, MALFORMED */
#include "bpe.h"              /* Learner; and texts.h */

enum { N_FIXED = 4 + 256 }; /* <unk> <s> </s> <pad> and the bytes */

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
 * 2. Characters: words become rows of symbols */

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

/* The characters of the vocabulary, and what the text is beside them. */
typedef struct {
    uint32_t *id, n;     /* symbols, the most frequent first */
    uint32_t *of;        /* the symbol of a code point, NONE for those left to the bytes */
    uint64_t n_bytes;    /* of the text */
    uint64_t lost_bytes; /* of characters that are left to the bytes */
} Alphabet;

/* Makes symbols of the most frequent characters, which together are `coverage` of the text. */
static void choose_chars(Learner *l, Alphabet *a, const Words *words, double coverage) {
    CharCount *c = xcalloc(MALFORMED + 1, sizeof *c, "characters");
    uint64_t total = 0, covered = 0;
    uint32_t code, n = 0;
    for (size_t w = 0; w < words->n; w++) {
        const char *s = words->text.data + words->word[w].at, *end = s + words->word[w].n;
        a->n_bytes += words->word[w].n * words->word[w].value;
        for (; s < end; c[code].count += words->word[w].value)
            s += next_char(s, (size_t)(end - s), &code);
    }
    for (code = 0; code <= MALFORMED; code++) {
        a->of[code] = NONE;
        total += c[code].count;
        if (code < MALFORMED && c[code].count) c[n++] = (CharCount){ c[code].count, code };
    }
    qsort(c, n, sizeof *c, char_before);
    a->id = xcalloc(n, sizeof *a->id, "characters");
    for (uint32_t i = 0; i < n && (double)covered < coverage * (double)total; i++) {
        char text[4];
        size_t len = (size_t)(utf8_put(text, c[i].code) - text);
        a->id[a->n++] = a->of[c[i].code] = bpe_symbol(l, text, len, 1);
        covered += c[i].count;
    }
    free(c);
}

/* Turns counted words into rows of symbols. */
static void load_words(Learner *l, Alphabet *a, const Words *words) {
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
            l->chain[at++] = a->of[code];
            if (a->of[code] == NONE) a->lost_bytes += len * c->count;
        }
    }
    l->n_words = (uint32_t)words->n;
}

/* Tokens that the text takes with the pieces made. */
static uint64_t count_tokens(const Learner *l, const Alphabet *a) {
    uint64_t n = a->lost_bytes;
    for (uint32_t w = 0; w < l->n_words; w++)
        for (uint32_t i = 0; i < l->word[w].n; i++)
            if (l->chain[l->word[w].at + i] != NONE) n += l->word[w].count;
    return n;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Vocabulary and files */

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

/* What Hugging Face and llama-server make prompts with: ChatML, as in run.c. */
static const char chat_template[] =
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" OPENCODER_SYSTEM "<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static void end_vocab(Vocab *v, const Learner *l, const Alphabet *a) {
    for (uint32_t i = 0; i < l->n_made; i++)
        add_token(v, bpe_text(l, l->made[i]), -(float)i, TOK_NORMAL);
    for (uint32_t i = 0; i < a->n; i++)
        add_token(v, bpe_text(l, a->id[i]), -(float)(l->n_made + i), TOK_NORMAL);
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
 * 4. The program */

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

static void report(const Texts *x, const Learner *l, const Alphabet *a, int n, double begun) {
    uint64_t tokens = count_tokens(l, a);
    if (x->n_skipped || x->n_empty)
        fprintf(stderr, "left out: %llu that cannot be used, %llu empty files\n",
                (unsigned long long)x->n_skipped, (unsigned long long)x->n_empty);
    fprintf(stderr,
            "%llu bytes, %u different words; %d tokens: %d fixed, %u pieces, %u characters, "
            "%d added; %.3f bytes a token, %.1f s\n",
            (unsigned long long)a->n_bytes, l->n_words, n, N_FIXED, l->n_made, a->n, l->n_added,
            (double)a->n_bytes / (double)tokens, now_seconds() - begun);
}

/* Learns v, of opt.vocab tokens, from the words. */
static void make_vocab(Learner *l, Alphabet *a, Vocab *v, const Words *words) {
    a->of = xcalloc(MALFORMED + 1, sizeof *a->of, "characters");
    choose_chars(l, a, words, opt.coverage);
    load_words(l, a, words);
    long long least = (long long)N_FIXED + a->n + l->n_added, room = opt.vocab - least;
    if (room < 0)
        die("--vocab: %lld, expected at least %lld: %d fixed tokens, %u characters, %d added",
            (long long)opt.vocab, least, N_FIXED, a->n, l->n_added);
    bpe_learn(l, (uint32_t)room);
    if (l->n_made < room)
        die("--vocab: %lld, expected at most %lld: the text holds %u pieces that come twice, "
            "beside %u characters",
            (long long)opt.vocab, least + l->n_made, l->n_made, a->n);
    end_vocab(v, l, a);
}

int vocab_train_main(int argc, char **argv) {
    const char **path = xcalloc((size_t)argc, sizeof *path, "arguments");
    int n = parse_options(argc, argv, options, usage, path, argc), n_added = 0;
    double begun = now_seconds();
    Str added[16 + 3];
    Texts x;
    Vocab v;
    Error e;
    if (!n) die_usage("train: no text given, expected files or directories");
    if (!opt.out) die_usage("train: no -o, expected the file to write");
    if (opt.model && !strcmp(opt.model, opt.out))
        die_usage("train: --model and -o name the same file, expected two");
    if (!opt.vocab) die_usage("train: no --vocab, expected the number of tokens");
    for (int i = 0; i < opt.special.n; i++) added[n_added++] = str_of(opt.special.text[i]);
    added[n_added++] = str_of("<|endoftext|>");
    added[n_added++] = str_of("<|im_end|>");
    added[n_added++] = str_of("<|im_start|>");
    int n_threads = set_threads(opt.threads);
    Words *words = xcalloc((size_t)n_threads, sizeof *words, "words");
    Alphabet a = { 0 };
    Learner l = { .max_chars = (uint32_t)opt.max_piece, .added = added, .n_added = n_added };
    texts_open(&x, path, n);
    texts_protect(&x, opt.out);
    if (opt.model) texts_protect(&x, opt.model);
    out_try(opt.out, opt.model);
    if (opt.model) out_try(opt.model, NULL);
    begin_vocab(&v, opt.vocab > N_FIXED ? (int)opt.vocab : N_FIXED);
    Tokenizer *splitter = tokenizer_new(&v, &e);
    if (!splitter) die("splitter: %s", e.text);
    count_texts(&x, splitter, opt.field, words, n_threads);
    tokenizer_free(splitter);
    if (!words->n)
        die("%s: no text in it, expected UTF-8 files; %llu cannot be used, %llu are empty", path[0],
            (unsigned long long)x.n_skipped, (unsigned long long)x.n_empty);
    make_vocab(&l, &a, &v, words);
    words_free(words);
    if (!vocab_check(&v, &e)) die("%s: %s", opt.out, e.text);
    write_vocab(&v, opt.out, opt.model);
    report(&x, &l, &a, v.n, begun);
    free(words);
    bpe_free(&l);
    free(a.id);
    free(a.of);
    vocab_free(&v);
    texts_close(&x);
    free((void *)path);
    return 0;
}
