/* test_agree.c: the forward pass of train.c is that of run.c. The math stands in both files, with
 * other products, other sums and other loops around it; this keeps it the same.
 *
 *     test_agree MODEL     -log p of every next token: the trainer's loss, all other targets
 *                          marked NO_LOSS, against softmax of the engine's logits; documents in a
 *                          row against sequences of their own; both again with an adapter
 *
 * tests/test_agree.py makes the models and starts this. */
#include "../lora.h"   /* Model, cpu_engine, cpu_trainer; Lora */
#include "../shards.h" /* NO_LOSS, STARTS */
#include "test.h"

enum { T = 70, RANK = 3, EVERY = 3 }; /* every third position is compared, and the last */

static uint64_t state = 1;

/* -log p of every next token, want (T): documents begin where `starts` is set. */
static void engine_losses(const Model *m, const Lora *lora, const uint32_t *token,
                          const char *starts, float *want) {
    int id[T], seq[T], pos[T], V = m->config.vocab_size;
    char wanted[T];
    for (int t = 0; t < T; t++) {
        bool new_one = t == 0 || starts[t];
        id[t] = TOKEN_ID(token[t]);
        seq[t] = t == 0 ? 0 : seq[t - 1] + new_one;
        pos[t] = new_one ? 0 : pos[t - 1] + 1;
        wanted[t] = 1;
    }
    EngineOptions o = { .n_ctx = T, .n_seq = seq[T - 1] + 1, .n_batch = T, .exact = true };
    o.lora = lora;
    Engine *e = cpu_engine.open(m, &o);
    Batch b = { T, id, seq, pos, wanted };
    const float *logits = cpu_engine.forward(e, &b);
    for (int t = 0; t < T; t++, logits += V) {
        float max = logits[0]; /* of double, gcc 12 for ARM fails to make vector code (-O3) */
        double sum = 0;
        for (int i = 0; i < V; i++) max = fmaxf(max, logits[i]);
        for (int i = 0; i < V; i++) sum += exp((double)logits[i] - (double)max);
        want[t] = (float)(log(sum) + (double)max - (double)logits[TOKEN_ID(token[t + 1])]);
    }
    cpu_engine.close(e);
}

static void compare(const char *name, const Model *m, const Lora *lora, bool documents) {
    uint32_t token[T + 1];
    char starts[T + 1];
    float want[T], got[T];
    int n = 0;
    for (int t = 0; t <= T; t++) {
        token[t] = (uint32_t)(next_random(&state) >> 33) % (uint32_t)m->config.vocab_size;
        starts[t] = documents && next_random(&state) % 8 == 0;
    }
    engine_losses(m, lora, token, starts, want);
    TrainOptions o = { .batch = 1, .seq_len = T, .lora_rank = lora ? RANK : 0 };
    o.lora_alpha = lora ? lora->alpha : 0;
    Trainer *t = cpu_trainer.open(m, lora ? &lora->gguf : NULL, &o);
    for (int i = 0; i <= T; i++) token[i] |= NO_LOSS | (starts[i] ? STARTS : 0);
    for (int i = 0; i < T; i++) {
        if (i % EVERY && i != T - 1) continue;
        token[i + 1] &= ~NO_LOSS;
        want[n] = want[i];
        got[n++] = (float)cpu_trainer.loss(t, token, 1, T);
        token[i + 1] |= NO_LOSS;
    }
    check_close(name, got, want, (size_t)n, 5e-6);
    cpu_trainer.close(t);
}

/* An adapter of random numbers for every matrix of every layer. */
static void write_adapter(const char *path, const Config *c) {
    GgufWriter w;
    int n;
    TensorSpec *spec = tensor_specs(c, &n);
    memset(&w, 0, sizeof w);
    gguf_put_str(&w, "general.type", str_of("adapter"));
    gguf_put_str(&w, "adapter.type", str_of("lora"));
    gguf_put_str(&w, "general.architecture", str_of("llama"));
    gguf_put_f32(&w, "adapter.lora.alpha", 5);
    for (int writing = 0; writing < 2; writing++) {
        for (int i = 0; i < n; i++) {
            const TensorSpec *s = &spec[i];
            if (s->rows == 1 || strncmp(s->name, "blk.", 4)) continue;
            for (int half = 0; half < 2; half++) { /* A (rank, in), then B (out, rank) */
                char name[80];
                int rows = half ? s->rows : RANK, cols = half ? RANK : s->cols;
                snprintf(name, sizeof name, "%s.lora_%c", s->name, "ab"[half]);
                if (!writing) gguf_add_matrix(&w, name, T_F32, rows, cols);
                for (int k = 0; writing && k < rows * cols; k++) {
                    float x = (float)(next_random(&state) >> 40) * 0x1p-23f - 1;
                    x *= half ? 0.3f : 1 / sqrtf((float)cols);
                    gguf_write(&w, &x, sizeof x);
                }
            }
        }
        if (!writing) gguf_begin(&w, path);
    }
    gguf_end(&w);
    free(spec);
}

int main(int argc, char **argv) {
    Model m;
    Lora lora;
    char path[64];
    if (argc != 2) die_usage("%d arguments, expected MODEL", argc - 1);
    model_open(&m, argv[1], true);
    snprintf(path, sizeof path, "build/scratch/agree-%ld", (long)getpid());
    write_adapter(path, &m.config);
    lora_open(&lora, path, &m.config, 1);
    unlink(path);
    compare("one document", &m, NULL, false);
    compare("several documents in a row", &m, NULL, true);
    compare("with an adapter", &m, &lora, false);
    compare("several documents, with an adapter", &m, &lora, true);
    lora_free(&lora);
    model_close(&m);
    return test_end();
}
