/* model.c: fuzzes all of ./run on one file: the model is read, its tokenizer built, a text encoded,
 * two tokens fed and one chosen. Whatever the weights and the vocabulary say, every id is in range,
 * and a logit that is not finite ends the program with an error. */

#include "../../opencoder.h"
#include "../../perplexity.h" /* check_finite */
#include "checksums.h"
#include "fuzz.h"

void fuzz_begin(void) {}

static void feed(const Model *m, const Ids *ids) {
    EngineOptions o = { .n_ctx = 8, .n_seq = 1, .n_batch = 4, .cache = T_F32, .quiet = true };
    int seq[2] = { 0, 0 }, pos[2] = { 0, 1 }, n = ids->n < 2 ? (int)ids->n : 2;
    char want[2] = { n == 1, 1 };
    Sampler s = { .temperature = 1, .top_p = 0.9f, .repeat_penalty = 1, .random = 1 };
    Engine *engine = cpu_engine.open(m, &o);
    Batch b = { n, ids->id, seq, pos, want };
    /* A copy, as the engine's memory stays where check_finite ends the program. */
    const size_t n_vocab = (size_t)m->config.vocab_size;
    float *logits = (float *)xcalloc(n_vocab, sizeof *logits, "logits");
    memcpy(logits, cpu_engine.forward(engine, &b), n_vocab * sizeof *logits);
    cpu_engine.close(engine);
    check_finite(m, logits, n);
    int id = sample(&s, logits, m->config.vocab_size);
    if (id < 0 || id >= m->config.vocab_size) fuzz_fail("sampled id %d", id);
    free(logits);
}

static void use(const Model *m) {
    static const char text[] = "b 1\n\xC3\xA9\xFF <|im_end|>";
    Error e = { "" };
    Ids ids = { NULL, 0, 0 };
    Buf out = { NULL, 0, 0 };
    Tokenizer *t = tokenizer_new(&m->vocab, &e);
    if (!t) {
        fuzz_refused(&e);
        return;
    }
    tokenizer_encode_prompt(t, text, sizeof text - 1, true, &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] < 0 || ids.id[i] >= m->vocab.n) fuzz_fail("id %d", ids.id[i]);
    tokenizer_decode(t, ids.id, ids.n, false, &out);
    if (ids.n) feed(m, &ids);
    tokenizer_free(t);
    buf_free(&out);
    free(ids.id);
}

void fuzz_one(const uint8_t *data, size_t size) {
    uint8_t *copy = (uint8_t *)xcalloc(size, 1, "copy");
    Model m;
    Error e = { "" };
    memset(&m, 0, sizeof m);
    m.path = "input";
    if (size) memcpy(copy, data, size);
    gguf_correct(copy, size);
    if (model_parse(&m, copy, size, true, &e))
        use(&m);
    else
        fuzz_refused(&e);
    model_close(&m);
    free(copy);
}
