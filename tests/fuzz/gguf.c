/* gguf.c: fuzzes the reader of GGUF files, gguf.h, and what the programs read from one: a model
 * (opencoder.h), an adapter (lora.h), a checkpoint (checkpoint.h). Each input comes as it is, and
 * with right checksums. */

#include "../../checkpoint.h"
#include "../../lora.h"
#include "../../progress.h"
#include "checksums.h"
#include "fuzz.h"

static const Config shape = { 2, 2, 1, 1, 1, 2, 6, 8, 1e4f, 1e-5f, false }; /* of the seeds */

void fuzz_begin(void) {}

static void read_model(const uint8_t *data, size_t size) {
    Model m;
    Error e = { "" };
    memset(&m, 0, sizeof m);
    if (!model_parse(&m, data, size, true, &e)) fuzz_refused(&e);
    model_close(&m);
}

/* What --resume and --init look at in a checkpoint. */
static void read_checkpoint(Gguf *g) {
    Error e = { "" };
    int64_t updates = 0;
    if (!has_moments(g, &e)) fuzz_refused(&e);
    if (get_count(g, "updates", &updates) && updates < 0) fuzz_fail("a count below 0");
    forget_optimizer(g);
}

static void read_others(const uint8_t *data, size_t size) {
    Gguf g;
    Lora l = { 0 };
    Error e = { "" };
    if (!gguf_parse(&g, data, size, &e)) {
        fuzz_refused(&e);
        return;
    }
    bool ok = gguf_check_header(&g, &e) && lora_bind(&l, &g, &shape, 1, &e);
    for (uint64_t i = 0; ok && i < g.n_tensors; i++) ok = gguf_check_tensor(&g, i, &e);
    if (!ok) fuzz_refused(&e);
    lora_free(&l);
    read_checkpoint(&g);
    gguf_free(&g);
}

void fuzz_one(const uint8_t *data, size_t size) {
    uint8_t *copy = (uint8_t *)xcalloc(size, 1, "copy");
    read_model(data, size);
    if (size) memcpy(copy, data, size);
    gguf_correct(copy, size);
    read_model(copy, size);
    read_others(copy, size);
    free(copy);
}
