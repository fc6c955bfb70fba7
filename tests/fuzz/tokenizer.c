/* tokenizer.c: fuzzes text -> ids -> text (tokenizer.c). The first byte chooses a vocabulary. Every
 * id is in range, and where the vocabulary keeps every byte, decode(encode(x)) is x. */

#include "../../json.h"
#include "../../opencoder.h"
#include "fuzz.h"

static const char *const names[] = { "inflm", "llama", "bpe", "unigram", "plain", "suffix" };
enum { N = sizeof names / sizeof *names };
static Model model[N];
static Tokenizer *tokenizer[N];

void fuzz_begin(void) {
    Error e;
    for (int i = 0; i < N; i++) {
        static char path[N][64];
        snprintf(path[i], sizeof path[i], "tests/data/tok_%s.gguf", names[i]);
        model_open_vocab(&model[i], path[i]);
        tokenizer[i] = tokenizer_new(&model[i].vocab, &e);
        if (!tokenizer[i]) die("%s: %s", path[i], e.text);
    }
}

/* Text that SentencePiece gives back as it was: UTF-8 without NUL and without its sign for a space,
 * where the vocabulary spells unknown characters in bytes and rewrites nothing. */
static bool kept_by(const Vocab *v, const char *s, size_t n) {
    bool bytes = false;
    if (v->opencoder) return !memmem(s, n, "\xE2\x96\x81", 3);
    for (int i = 0; i < v->n; i++) bytes |= v->type[i] == TOK_BYTE;
    if (!bytes || v->charsmap.n || v->remove_extra_whitespaces || v->whitespace_suffix)
        return false;
    for (const char *p = s, *end = s + n; p < end;) {
        int len = utf8_length(p, end);
        if (!len || !*p || (end - p >= 3 && !memcmp(p, "\xE2\x96\x81", 3))) return false;
        p += len;
    }
    return true;
}

void fuzz_one(const uint8_t *data, size_t size) {
    if (!size) return;
    const Model *m = &model[*data % N];
    const Tokenizer *t = tokenizer[*data % N];
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    Ids ids = { NULL, 0, 0 }, special = { NULL, 0, 0 };
    Buf out = { NULL, 0, 0 };
    tokenizer_encode(t, text, n, false, &ids);
    tokenizer_encode_prompt(t, text, n, true, &special);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] < 0 || ids.id[i] >= m->vocab.n) fuzz_fail("id %d", ids.id[i]);
    for (size_t i = 0; i < special.n; i++)
        if (special.id[i] < 0 || special.id[i] >= m->vocab.n) fuzz_fail("id %d", special.id[i]);
    buf_add(&out, "", 0);
    tokenizer_decode(t, ids.id, ids.n, false, &out);
    if (kept_by(&m->vocab, text, n) && (out.n != n || memcmp(out.data, text, n)))
        fuzz_fail("%s: %zu bytes came back as %zu others", m->path, n, out.n);
    if (utf8_complete(text, n) > n) fuzz_fail("more than there is");
    free(ids.id);
    free(special.id);
    buf_free(&out);
}
