/* test_tokenizer.c: text to ids and back.
 *
 * Against the real libraries: tests/data/tok_cases.gguf holds 500 texts, the ids that Hugging
 * Face's INFLMTokenizer and SentencePiece give them with six small vocabularies, and the texts that
 * these ids decode to, recorded by make_token_fixtures.py. Without them: what an OpenCoder
 * vocabulary encodes decodes to itself, special tokens cut the text, damaged vocabularies and
 * texts do no harm, and time does not grow faster than the text. */
#include "../opencoder.h" /* everything that is tested */
#include "test.h"
#include <time.h> /* clock */

/* Marsaglia's xorshift: the same numbers on every machine. */
static uint32_t random_bits(void) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* ------------------------------------------------------------------------------------------------
 * 1. The recorded cases */

typedef struct {
    Model m; /* a file without tensors: only map, gguf and vocab are used */
    Tokenizer *t;
} Fixture;

static bool open_fixture(Fixture *f, const char *name, bool vocabulary) {
    Error e = { "" };
    Buf path = { 0 };
    memset(f, 0, sizeof *f);
    buf_printf(&path, "tests/data/tok_%s.gguf", name);
    bool ok = map_file(&f->m.map, path.data, &e) &&
              gguf_parse(&f->m.gguf, f->m.map.data, f->m.map.size, &e);
    if (ok && vocabulary)
        ok = vocab_from_gguf(&f->m.vocab, &f->m.gguf, &e) &&
             (f->t = tokenizer_new(&f->m.vocab, &e)) != NULL;
    buf_free(&path);
    return check(ok, e.text, "open %s", name);
}

static void close_fixture(Fixture *f) {
    tokenizer_free(f->t);
    model_close(&f->m);
}

/* Item i of an array of u16. */
static int number(const Gguf *g, const char *key, size_t i) {
    uint16_t v;
    memcpy(&v, gguf_key(g, key)->data + 2 * i, 2);
    return v;
}

/* All items of an array of strings. */
static Str *strings(const Gguf *g, const char *key) {
    const GgufKey *k = gguf_key(g, key);
    Str *s = (Str *)xcalloc(k->count, sizeof *s, key);
    Cursor c = { k->data, k->data + k->bytes };
    for (size_t i = 0; i < k->count; i++)
        if (!gguf_take_str(&c, &s[i])) die("%s: cut off", key);
    return s;
}

static bool same_bytes(const Buf *a, Str b) {
    return a->n == b.n && (b.n == 0 || !memcmp(a->data, b.s, b.n));
}

/* All cases of one model: the same ids from the text, the same text from the ids. */
static void test_cases(const Gguf *g, int model, const char *name) {
    Str *texts = strings(g, "text"), *decoded = strings(g, "decoded");
    Fixture f;
    Ids ids = { 0 };
    Buf back = { 0 };
    char why[512] = "", why_back[512] = "";
    int n = 0, bad = 0, bad_back = 0;
    size_t n_cases = gguf_key(g, "case_text")->count, at = 0, len;
    bool open = open_fixture(&f, name, true);
    for (size_t c = 0; open && c < n_cases; at += len, c++) {
        len = (size_t)number(g, "case_ids", c);
        if (number(g, "case_model", c) != model) continue;
        Str text = texts[number(g, "case_text", c)];
        ids.n = back.n = 0;
        tokenizer_encode(f.t, text.s, text.n, number(g, "case_special", c), &ids);
        bool same = ids.n == len;
        for (size_t i = 0; same && i < len; i++) same = ids.id[i] == number(g, "ids", at + i);
        if (!same && !bad++) snprintf(why, sizeof why, "case %zu, '%.*s'", c, STR(text));
        tokenizer_decode(f.t, ids.id, ids.n, !f.m.vocab.opencoder, &back);
        if (!same_bytes(&back, decoded[c]) && !bad_back++)
            snprintf(why_back, sizeof why_back, "case %zu, '%.*s'", c, STR(text));
        n++;
    }
    check(n >= 400 && bad == 0, why, "%s: the ids of %d cases", name, n);
    check(n >= 400 && bad_back == 0, why_back, "%s: the texts of %d cases", name, n);
    free(texts);
    free(decoded);
    free(ids.id);
    buf_free(&back);
    close_fixture(&f);
}

/* ------------------------------------------------------------------------------------------------
 * 2. There and back, special tokens */

/* Any bytes come back from an OpenCoder vocabulary, with and without special tokens. */
static void test_round_trip(void) {
    Fixture f;
    Ids ids = { 0 };
    Buf back = { 0 };
    int bad = 0, bad_pieces = 0;
    if (!open_fixture(&f, "inflm", true)) return;
    for (int round = 0; round < 3000; round++) {
        char text[64];
        Str s = { text, random_bits() % sizeof text }, piece;
        uint32_t ascii = random_bits() & 1 ? 0x7F : 0xFF;
        for (size_t i = 0; i < s.n; i++) text[i] = (char)(random_bits() & ascii);
        if (memmem(s.s, s.n, "\xE2\x96\x81", 3)) continue; /* the one thing that is a space after */
        ids.n = back.n = 0;
        tokenizer_encode(f.t, s.s, s.n, round & 1, &ids);
        tokenizer_decode(f.t, ids.id, ids.n, false, &back);
        bad += !same_bytes(&back, s);
        back.n = 0;
        for (size_t i = 0; i < ids.n; i++) {
            piece = tokenizer_piece(f.t, ids.id[i], false);
            buf_add(&back, piece.s, piece.n);
        }
        bad_pieces += !same_bytes(&back, s);
    }
    check(bad == 0, "some do not", "random bytes come back");
    check(bad_pieces == 0, "some do not", "random bytes come back piece by piece");
    CHECK(!tokenizer_piece(f.t, -1, false).n && !tokenizer_piece(f.t, 1 << 30, false).n);
    free(ids.id);
    buf_free(&back);
    close_fixture(&f);
}

/* SentencePiece with a space prefix: each run of text between special tokens has its own. */
static void test_special(void) {
    Fixture f;
    Ids whole = { 0 }, parts = { 0 };
    Buf back = { 0 };
    if (!open_fixture(&f, "llama", true)) return;
    const char *text = "a b</s>b  c<s>";
    tokenizer_encode(f.t, text, strlen(text), true, &whole);
    tokenizer_encode(f.t, "a b", 3, true, &parts);
    ids_add(&parts, f.m.vocab.eos);
    tokenizer_encode(f.t, "b  c", 4, true, &parts);
    ids_add(&parts, f.m.vocab.bos);
    CHECK(whole.n == parts.n && !memcmp(whole.id, parts.id, whole.n * sizeof *whole.id));
    tokenizer_decode(f.t, whole.id, whole.n, false, &back);
    CHECK(same_bytes(&back, str_of(text)));
    back.n = 0;
    tokenizer_decode(f.t, whole.id, whole.n, true, &back);
    CHECK(same_bytes(&back, str_of("a bb  c")));
    parts.n = 0;
    tokenizer_encode(f.t, text, strlen(text), false, &parts);
    back.n = 0;
    tokenizer_decode(f.t, parts.id, parts.n, true, &back);
    CHECK(parts.n > whole.n && same_bytes(&back, str_of(text)));
    parts.n = 0;
    f.m.vocab.add_bos = true;
    tokenizer_encode_prompt(f.t, "a", 1, true, &parts);
    CHECK(parts.n == 2 && parts.id[0] == f.m.vocab.bos);
    tokenizer_encode(f.t, "", 0, true, &parts);
    CHECK_INT(parts.n, 2);
    back.n = 0;
    tokenizer_decode(f.t, (int[]){ vocab_find(&f.m.vocab, "<0x20>") }, 1, true, &back);
    CHECK(same_bytes(&back, str_of(" "))); /* a byte is no prefix */
    free(whole.id);
    free(parts.id);
    buf_free(&back);
    close_fixture(&f);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Vocabularies of a few tokens, where one rule decides. The first token is <unk>. */

typedef struct {
    const char *text;
    float score;
    int type;
} Entry;

/* `want` is the ids as text. v carries the flags; its tokens come from `entry`, the last one is
 * {0}. */
static void check_small(const char *name, Vocab v, const Entry *entry, const char *text,
                        bool special, const char *want) {
    Str token[8];
    float score[8];
    uint8_t type[8];
    Ids ids = { 0 };
    Buf got = { 0 };
    Error e = { "" };
    v.token = token, v.score = score, v.type = type;
    for (; entry[v.n].text; v.n++) {
        token[v.n] = str_of(entry[v.n].text);
        score[v.n] = entry[v.n].score;
        type[v.n] = (uint8_t)entry[v.n].type;
    }
    if (!v.n_pieces) v.n_pieces = v.n;
    Tokenizer *t = tokenizer_new(&v, &e);
    if (t) tokenizer_encode(t, text, strlen(text), special, &ids);
    for (size_t i = 0; i < ids.n; i++) buf_printf(&got, i ? " %d" : "%d", ids.id[i]);
    check(t && same_bytes(&got, str_of(want)), got.n ? got.data : e.text, "%s: %s", name, want);
    tokenizer_free(t);
    free(ids.id);
    buf_free(&got);
}

static void test_rules(void) {
    const Entry frozen[] = { { "<unk>", 0, TOK_UNKNOWN }, { "a", -9, TOK_NORMAL },
                             { "b", -9, TOK_NORMAL },     { "c", -9, TOK_NORMAL },
                             { "ab", 0, TOK_USER },       { "abc", -1, TOK_NORMAL },
                             { "</s>", 0, TOK_CONTROL },  { 0 } };
    const Entry words[] = { { "<unk>", 0, TOK_UNKNOWN },     { "'", -9, TOK_NORMAL },
                            { "\xC5\xBF", -9, TOK_NORMAL },  { "h", -9, TOK_NORMAL },
                            { "\xC5\xBFh", -1, TOK_NORMAL }, { "\n", -9, TOK_NORMAL },
                            { "\nh", -1, TOK_NORMAL },       { 0 } };
    const Entry added[] = { { "<unk>", 0, TOK_UNKNOWN },
                            { "a", -9, TOK_NORMAL },
                            { "b", -9, TOK_NORMAL },
                            { "ab", 0, TOK_USER },
                            { 0 } };
    const Entry penalty[] = {
        { "<unk>", 0, TOK_UNKNOWN }, { "xy", -9, TOK_NORMAL }, { "y", 0.5f, TOK_NORMAL }, { 0 }
    };
    const Entry bonus[] = { { "<unk>", 0, TOK_UNKNOWN },
                            { "ab", 0, TOK_USER },
                            { "a", 0.04f, TOK_NORMAL },
                            { "b", 0.04f, TOK_NORMAL },
                            { 0 } };
    Vocab bpe = { 0 }, opencoder = { .opencoder = true }, unigram = { .unigram = true };
    check_small("a user-defined symbol is not joined", bpe, frozen, "abc", false, "4 3");
    check_small("unknown characters of a run are one", bpe, frozen, "ZZ</s>Z", true, "0 6 0");
    check_small("words end at apostrophes and lines", opencoder, words, "'\xC5\xBFh\nh", false,
                "1 2 3 5 3");
    check_small("an added token is cut out", (Vocab){ .n_pieces = 3 }, added, "ab", true, "3");
    check_small("an added token is spelled", (Vocab){ .n_pieces = 3 }, added, "ab", false, "1 2");
    check_small("unigram: an unknown character costs", unigram, penalty, "xy", false, "1");
    check_small("unigram: a user-defined symbol wins", unigram, bonus, "ab", false, "1");
}

/* Sums of scores that grow to 2e7, where a float has whole numbers only, must not blur choices. */
static void test_long_sums(void) {
    Str token[] = { str_of("<unk>"), str_of("a"), str_of("b"), str_of("ab") };
    float score[] = { 0, -100.3f, -100.2f, -200.6f };
    uint8_t type[] = { TOK_UNKNOWN, TOK_NORMAL, TOK_NORMAL, TOK_NORMAL };
    Vocab v = { .n = 4, .n_pieces = 4, .token = token, .score = score, .type = type };
    Ids ids = { 0 };
    Error e;
    char text[200000];
    size_t bad = 0;
    v.unigram = true;
    for (size_t i = 0; i < sizeof text; i++) text[i] = i & 1 ? 'b' : 'a';
    Tokenizer *t = tokenizer_new(&v, &e);
    if (t) tokenizer_encode(t, text, sizeof text, false, &ids);
    for (size_t i = 0; i < ids.n; i++) bad += ids.id[i] != 1 + (int)(i & 1);
    check(ids.n == sizeof text && bad == 0, "not a b a b ...", "unigram: 200 000 characters");
    tokenizer_free(t);
    free(ids.id);
}

static void test_utf8_complete(void) {
    int bad = 0;
    static const struct {
        const char *s;
        size_t whole;
    } table[] = {
        { "", 0 },
        { "a", 1 },
        { "\xC3", 0 },
        { "a\xC3\xA9", 3 },
        { "\xE2\x96", 0 },
        { "\xE2\x96\x81", 3 },
        { "x\xF0\x9F\x98", 1 },
        { "\xF0\x9F\x98\x80", 4 },
        { "\xF0\x9F\x98\x80\xE2", 4 },
        { "\x80\x80\x80", 3 },
        { "\xFF", 1 },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        bad += utf8_complete(table[i].s, strlen(table[i].s)) != table[i].whole;
    check(bad == 0, "other numbers", "utf8_complete");
}

/* ------------------------------------------------------------------------------------------------
 * 4. Vocabularies that were made to harm */

/* Fills v, which has room for v->n tokens, with random short tokens of random types. */
static void random_vocab(Vocab *v, char *bytes) {
    static const char *letter[] = { "a", "b", "\xE2\x96\x81", "\xC3", "\xA9", "\xF0\x9F" };
    v->n_pieces = v->n - (int)(random_bits() % 4);
    for (int i = 0; i < v->n; i++) {
        int parts = 1 + (int)(random_bits() % 6);
        v->token[i] = (Str){ bytes, 0 };
        for (int k = 0; k < parts; k++) {
            const char *s = letter[random_bits() % 6];
            memcpy(bytes + v->token[i].n, s, strlen(s));
            v->token[i].n += strlen(s);
        }
        bytes += v->token[i].n;
        v->score[i] = (float)(random_bits() % 7) - 9;
        v->type[i] = (uint8_t)(TOK_NORMAL + random_bits() % 5);
    }
    v->unigram = random_bits() & 1;
    v->opencoder = random_bits() & 1;
    v->add_space_prefix = random_bits() & 1;
    v->remove_extra_whitespaces = random_bits() & 1;
    v->whitespace_suffix = random_bits() & 1;
}

/* Ids that a model or a user may come up with. */
static void test_odd_ids(void) {
    Fixture f;
    Buf text = { 0 };
    if (!open_fixture(&f, "bpe", true)) return;
    tokenizer_decode(f.t, (int[]){ -1, f.m.vocab.n, INT32_MAX, INT32_MIN }, 4, false, &text);
    CHECK_INT(text.n, 0); /* they stand for nothing */
    CHECK_INT(tokenizer_piece(f.t, f.m.vocab.n, false).n, 0);
    buf_free(&text);
    close_fixture(&f);
}

/* Random tokens, a real charsmap with damage, text that is half made of its rules. */
static void test_hostile(void) {
    static const char *const word[] = { "a",
                                        "b",
                                        " ",
                                        "\xC3\xA9",
                                        "\xE2\x96\x81",
                                        "\xEF\xBD\xB6",
                                        "\xEF\xBE\x9E",
                                        "\xC2\xA0",
                                        "e\xCC\x81",
                                        "\xE2\x91\xA0" };
    Str token[40];
    float score[40];
    uint8_t type[40];
    char bytes[40 * 24];
    int bad = 0;
    Error e;
    Fixture f;
    if (!open_fixture(&f, "bpe", true)) return;
    Str real = f.m.vocab.charsmap;
    char *map = (char *)xcalloc(real.n, 1, "charsmap");
    for (int round = 0; round < 3000; round++) {
        Vocab v = { .n = 40, .token = token, .score = score, .type = type, .unk = 0 };
        Ids ids = { 0 };
        Buf text = { 0 }, back = { 0 };
        random_vocab(&v, bytes);
        memcpy(map, real.s, real.n);
        for (uint32_t i = random_bits() % 2000; i > 0; i--)
            map[4 + random_bits() % (real.n - 4)] = (char)random_bits();
        v.charsmap = (Str){ map, round % 8 ? real.n : 0 };
        for (int i = 0; i < 60; i++) {
            char any = (char)random_bits();
            const char *s = random_bits() & 3 ? word[random_bits() % 10] : NULL;
            buf_add(&text, s ? s : &any, s ? strlen(s) : 1);
        }
        Tokenizer *t = tokenizer_new(&v, &e);
        if (t) tokenizer_encode(t, text.data, text.n, round & 1, &ids);
        for (size_t i = 0; i < ids.n; i++) bad += ids.id[i] < 0 || ids.id[i] >= v.n;
        if (t) tokenizer_decode(t, ids.id, ids.n, round & 2, &back);
        bad += !t;
        tokenizer_free(t);
        free(ids.id);
        buf_free(&text);
        buf_free(&back);
    }
    check(bad == 0, "some are", "no id of a damaged vocabulary is out of range");
    for (size_t n = 1; n < 100; n += 33) {             /* too short for its length, for its trie */
        char *cut = (char *)xcalloc(n, 1, "charsmap"); /* its end is where a sanitizer looks */
        memcpy(cut, real.s, n);
        bool ok = charsmap_check((Str){ cut, n }, &e);
        check(!ok && strstr(e.text, "charsmap"), e.text, "a charsmap of %zu bytes is refused", n);
        free(cut);
    }
    free(map);
    close_fixture(&f);
}

/* A megabyte of one letter, of spaces and of newlines: quadratic time would take minutes. */
static void test_time(const char *name) {
    Fixture f;
    size_t n = 1 << 20;
    if (!open_fixture(&f, name, true)) return;
    char *text = (char *)xcalloc(n, 1, "text");
    for (const char *c = "a \n\xE2"; *c; c++) {
        Ids ids = { 0 };
        char why[64];
        clock_t start = clock();
        memset(text, *c, n);
        tokenizer_encode(f.t, text, n, true, &ids);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        snprintf(why, sizeof why, "%.1f s, %zu ids", seconds, ids.n);
        check(seconds < 30 && (ids.n > 0 || *c != 'a'), why, "%s: a megabyte of byte %d", name,
              (uint8_t)*c);
        free(ids.id);
    }
    free(text);
    close_fixture(&f);
}

int main(void) {
    Fixture cases;
    if (open_fixture(&cases, "cases", false)) {
        Str *model = strings(&cases.m.gguf, "model");
        for (int i = 0; i < (int)gguf_key(&cases.m.gguf, "model")->count; i++) {
            char name[32];
            snprintf(name, sizeof name, "%.*s", STR(model[i]));
            test_cases(&cases.m.gguf, i, name);
        }
        free(model);
    }
    close_fixture(&cases);
    test_round_trip();
    test_special();
    test_rules();
    test_long_sums();
    test_utf8_complete();
    test_odd_ids();
    test_hostile();
    test_time("inflm");
    test_time("bpe");
    test_time("unigram");
    return test_end();
}
