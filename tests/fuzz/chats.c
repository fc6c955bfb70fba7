/* chats.c: fuzzes the records of conversations that `tokenizer pack` reads (data/pack.c). Ids are
 * in range, and a message begins where the record has one: no text makes a <|im_start|>. */

#include "../../data/pack.c" /* its static functions */
#include "fuzz.h"

static Model model;
static Packer packer;

void fuzz_begin(void) {
    Error e;
    model_open_vocab(&model, "tests/data/tok_inflm.gguf");
    Tokenizer *t = tokenizer_new(&model.vocab, &e);
    if (!t) die("%s", e.text);
    prepare(&packer, &model, t, SHARD_CHAT);
}

/* How many messages a record has: a default system message counts. */
static size_t messages(const Json *record) {
    const Json *list = json_get(record, "messages"), *first = list ? json_first(list) : NULL;
    Str role = { "", 0 };
    Error e;
    if (!list) return 3;
    (void)json_str(first, "role", false, &role, &e);
    return list->n + !str_is(role, "system");
}

void fuzz_one(const uint8_t *data, size_t size) {
    static const char *const name = "input.jsonl";
    Doc doc = { 0, 1, 0, size };
    Part part = { &doc, { (const char *)data, size }, true };
    TextFile file = { (char *)(uintptr_t)name, { data, size }, true };
    Texts x = { .file = &file, .doc = &doc, .n_files = 1, .n_docs = 1 };
    Worker w = { 0 };
    Packed out;
    size_t starts = 0;
    pack_part(&x, &packer, &w, &part, &out);
    if (out.state == BAD || out.state == MIXED) fuzz_refused(&out.why);
    for (size_t i = 0; out.state == DONE && i < out.n; i++) {
        int id = (int)(out.token[i] & ~NO_LOSS);
        if (id >= model.vocab.n) fuzz_fail("id %d", id);
        starts += id == packer.im_start;
    }
    if (out.state == DONE && starts != messages(w.doc.node))
        fuzz_fail("%zu messages begin, expected %zu", starts, messages(w.doc.node));
    if (out.state == DONE) free(out.token);
    json_free(&w.doc);
    words_free(&w.words);
    buf_free(&w.run);
    free(w.known.id);
    free(w.ids.id);
}
