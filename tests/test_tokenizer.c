/* test_tokenizer.c: text to ids and back.
 *
 * Against the real libraries: tests/data/tok_cases.gguf holds 500 texts and the ids that Hugging
 * Face's INFLMTokenizer and SentencePiece give them with six small vocabularies, recorded by
 * make_token_fixtures.py. Without them: what is encoded decodes to itself, special tokens cut the
 * text, hostile vocabularies and texts do no harm, and the time grows with the text, not faster. */
#include "../opencoder.h" /* everything that is tested */
#include "../unicode.h"   /* utf8_decode, MALFORMED */
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

/* Item i of an array of u16 or strings in the file of cases. */
static int number(const Gguf *g, const char *key, size_t i) {
    uint16_t v;
    memcpy(&v, gguf_key(g, key)->data + 2 * i, 2);
    return v;
}
static Str text_of(const Gguf *g, const char *key, size_t i) {
    const GgufKey *k = gguf_key(g, key);
    Cursor c = { k->data, k->data + k->bytes };
    Str s = { "", 0 };
    for (size_t j = 0; j <= i; j++) (void)gguf_take_str(&c, &s);
    return s;
}

/* Whether a text survives: U+2581 comes back as a space, and what is not UTF-8 as U+FFFD except
 * from an OpenCoder vocabulary. */
static bool comes_back(const Vocab *v, Str text) {
    uint32_t code;
    if (v->charsmap.n || v->remove_extra_whitespaces) return false;
    for (size_t i = 0; i < text.n; i += utf8_decode(text.s + i, text.n - i, &code)) {
        (void)utf8_decode(text.s + i, text.n - i, &code);
        if (code == 0x2581 || (code == MALFORMED && !v->opencoder)) return false;
    }
    return true;
}

/* All cases of one model: the same ids, and where nothing is lost, the same text again. */
static void test_cases(const Gguf *g, int model) {
    char name[32], why[512] = "";
    Str s = text_of(g, "model", (size_t)model);
    Fixture f;
    Ids ids = { 0 };
    Buf back = { 0 };
    int n = 0, n_back = 0, bad = 0, bad_back = 0;
    snprintf(name, sizeof name, "%.*s", STR(s));
    if (!open_fixture(&f, name, true)) return;
    size_t n_cases = gguf_key(g, "case_text")->count, at = 0, len;
    for (size_t c = 0; c < n_cases; at += len, c++) {
        len = (size_t)number(g, "case_ids", c);
        if (number(g, "case_model", c) != model) continue;
        Str text = text_of(g, "text", (size_t)number(g, "case_text", c));
        ids.n = back.n = 0;
        tokenizer_encode(f.t, text.s, text.n, number(g, "case_special", c), &ids);
        bool same = ids.n == len;
        for (size_t i = 0; same && i < len; i++) same = ids.id[i] == number(g, "ids", at + i);
        if (!same && !bad++)
            snprintf(why, sizeof why, "case %zu, text '%.*s': other ids", c, STR(text));
        n++;
        if (!comes_back(&f.m.vocab, text)) continue;
        tokenizer_decode(f.t, ids.id, ids.n, false, &back);
        bad_back += back.n != text.n || (text.n && memcmp(back.data, text.s, text.n));
        n_back++;
    }
    check(n >= 400 && bad == 0, why, "%s: the ids of %d cases", name, n);
    check(bad_back == 0, "others do not", "%s: %d texts decode to themselves", name, n_back);
    free(ids.id);
    buf_free(&back);
    close_fixture(&f);
}

/* ------------------------------------------------------------------------------------------------
 * 2. There and back, special tokens */

static Str decoded(const Tokenizer *t, const Ids *ids, bool plain, Buf *out) {
    out->n = 0;
    tokenizer_decode(t, ids->id, ids->n, plain, out);
    return (Str){ out->n ? out->data : "", out->n };
}

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
        ids.n = 0;
        tokenizer_encode(f.t, s.s, s.n, round & 1, &ids);
        bad += str_cmp(decoded(f.t, &ids, false, &back), s) != 0;
        back.n = 0;
        for (size_t i = 0; i < ids.n; i++) {
            piece = tokenizer_piece(f.t, ids.id[i], false);
            buf_add(&back, piece.s, piece.n);
        }
        bad_pieces += back.n != s.n || (s.n && memcmp(back.data, s.s, s.n));
    }
    CHECK_INT(bad, 0);
    CHECK_INT(bad_pieces, 0);
    CHECK_INT(tokenizer_piece(f.t, -1, false).n + tokenizer_piece(f.t, 1 << 30, false).n, 0);
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
    CHECK(str_is(decoded(f.t, &whole, false, &back), text));
    CHECK(str_is(decoded(f.t, &whole, true, &back), "a bb  c"));
    parts.n = 0;
    tokenizer_encode(f.t, text, strlen(text), false, &parts);
    CHECK(parts.n > whole.n && str_is(decoded(f.t, &parts, true, &back), text));
    parts.n = 0;
    f.m.vocab.add_bos = true;
    tokenizer_encode_prompt(f.t, "a", 1, true, &parts);
    CHECK(parts.n == 2 && parts.id[0] == f.m.vocab.bos);
    tokenizer_encode(f.t, "", 0, true, &parts);
    CHECK_INT(parts.n, 2);
    free(whole.id);
    free(parts.id);
    buf_free(&back);
    close_fixture(&f);
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
    CHECK_INT(bad, 0);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Vocabularies that were made to harm */

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
    CHECK_INT(bad, 0);
    for (size_t n = 1; n < 100; n += 33) { /* too short for its length, for its trie */
        f.m.vocab.charsmap = (Str){ real.s, n };
        Tokenizer *t = tokenizer_new(&f.m.vocab, &e);
        check(!t && strstr(e.text, "charsmap"), e.text, "a charsmap of %zu bytes is refused", n);
        tokenizer_free(t);
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
        const Gguf *g = &cases.m.gguf;
        for (int i = 0; i < (int)gguf_key(g, "model")->count; i++) test_cases(g, i);
    }
    close_fixture(&cases);
    test_round_trip();
    test_special();
    test_utf8_complete();
    test_hostile();
    test_time("inflm");
    test_time("bpe");
    test_time("unigram");
    return test_end();
}
