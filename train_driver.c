/* ------------------------------------------------------------------------------------------------
 * The rest is the loop around a trainer: rows come from loader.h, steps and updates from the
 * backend's table, and one update is
 *
 *     gather the rows            so that the number of targets is known: scale = 1 / targets
 *     step, micro-batch by micro-batch                              gradients add up
 *     add up over ranks          with MPI
 *     norm -> clip -> update     or skip: no targets, not finite, a spike
 *     validate, log, sample, save
 *
 * A checkpoint holds everything that decides what comes next, so a run that was killed at any
 * moment and resumed ends with the same bytes as one that was not. Test: tests/test_trainloop.py */
#ifndef OC_LIBRARY
#include "checkpoint.h"    /* new weights, OUT.ckpt-NNNNNN */
#include "progress.h"      /* CSV, plot, the line on stderr */
#include "train_options.h" /* opt, the recipe, learning_rate */
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#endif
#ifdef OC_MPI
#include <mpi.h> /* MPI_Allreduce */
#endif

/* ------------------------------------------------------------------------------------------------
 * The state of a run */

enum { STEP, TOKENS, UPDATES, BAD, SPIKES, EMPTY, N_COUNTS }; /* what checkpoints count */
static const char *const count_name[] = { "step",        "tokens",        "updates",
                                          "skipped_bad", "skipped_spike", "skipped_empty" };

typedef struct {
    const char *command;
    const TrainerBackend *backend;
    Trainer *trainer;
    Model init, saved; /* where the weights come from; with LoRA, the checkpoint of the adapter */
    float *arena;      /* the weights of a new model ... */
    TensorSpec *specs; /* ... and the names of its tensors */
    Buf found;         /* name of the checkpoint to go on from */
    Loader data, val;
    Tokenizer *tokenizer;
    int *n_bytes;              /* bytes of text that each token stands for */
    Row *rows;                 /* of one update */
    uint32_t *tokens, pad;     /* a micro-batch; the id that fills up its rows */
    int64_t count[N_COUNTS];   /* UPDATES counts those that AdamW made, for its bias correction */
    double mean_loss;          /* running mean, for --spike */
    int64_t steps, saved_step; /* updates in all; of the newest checkpoint, or -1 */
    Buf recipe;
    Progress progress;
} Run;

static volatile sig_atomic_t interrupted;
static int mpi_rank, n_ranks = 1;

static void on_signal(int sig) { interrupted = sig; }

static void on_bus_error(int sig) {
    static const char text[] = "error: a model or shard was changed while in use\n";
    (void)sig;
    if (write(2, text, sizeof text - 1) < 0) _exit(1);
    _exit(1);
}

/* Ctrl-C and its kin end the run after the running micro-batch, unless they are ignored (nohup). */
static void catch_signals(void) {
    int ends[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;
    for (int i = 0; i < 3; i++)
        if (sigaction(ends[i], NULL, &old) ||
            (old.sa_handler != SIG_IGN && sigaction(ends[i], &act, NULL)))
            die("signals: cannot install handlers: %s", strerror(errno));
    act.sa_handler = on_bus_error;
    if (sigaction(SIGBUS, &act, NULL) || signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
        die("signals: cannot install handlers: %s", strerror(errno));
}

/* Sums over all ranks, in place; without MPI there is one. */
static void sum_ranks(float *x, size_t n, double *loss, int *stop) {
#ifdef OC_MPI
    const size_t part = 1 << 28; /* MPI counts in int */
    for (size_t i = 0; i < n; i += part)
        MPI_Allreduce(MPI_IN_PLACE, x + i, (int)(n - i < part ? n - i : part), MPI_FLOAT, MPI_SUM,
                      MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, loss, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, stop, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
#else
    (void)x, (void)n, (void)loss, (void)stop;
#endif
}

/* ------------------------------------------------------------------------------------------------
 * The model to start from */

static int either(int64_t option, int otherwise) { return option ? (int)option : otherwise; }

/* A shape by name, changed by --dim and its kin; the vocabulary is the tokenizer's. */
static void start_new(Run *r) {
    Model tokenizer, *m = &r->init;
    const Config *shape = opt.shape ? config_named(opt.shape) : NULL;
    Config c = { .max_ctx = 1024, .rope_theta = 1e4f, .norm_eps = 1e-5f };
    if (opt.shape && !shape) die_usage("--shape: '%s', expected 1.5b, 8b or tiny", opt.shape);
    if (!opt.tokenizer)
        die_usage("--tokenizer: not given, expected one for a new model; or --init");
    if (!shape && !(opt.dim && opt.layers && opt.heads))
        die_usage("new model: expected --shape, or --dim, --layers and --heads");
    if (shape) c = *shape;
    c.dim = either(opt.dim, c.dim);
    c.n_layers = either(opt.layers, c.n_layers);
    c.n_heads = either(opt.heads, c.n_heads);
    c.n_kv_heads = either(opt.kv_heads, shape ? c.n_kv_heads : c.n_heads);
    c.head_dim = either(opt.head_dim, shape ? c.head_dim : c.dim / c.n_heads);
    c.hidden_dim = either(opt.hidden, shape ? c.hidden_dim : (c.dim * 8 / 3 + 31) / 32 * 32);
    c.max_ctx = either(opt.ctx, c.max_ctx);
    if (opt.theta > 0) c.rope_theta = (float)opt.theta;
    c.tied |= opt.tied;
    model_open_vocab(&tokenizer, opt.tokenizer);
    gguf_free(&tokenizer.gguf);
    *m = tokenizer; /* its vocabulary points into the mapped file */
    c.vocab_size = m->vocab.n;
    m->config = c;
    model_new(m, &r->arena, &r->specs);
    init_weights(m, r->arena, (uint64_t)opt.seed, opt.init_std, opt.init_scaled);
}

static void start_from(Run *r, const char *path) {
    if (opt.shape || opt.tokenizer || opt.dim || opt.layers || opt.heads || opt.kv_heads ||
        opt.head_dim || opt.hidden || opt.ctx || opt.theta > 0 || opt.tied || opt.init_scaled)
        die_usage("--init: given with options for a new model, expected one or the other");
    model_open(&r->init, path, opt.verify);
    bool carry = !strcmp(r->command, "anneal") && !opt.lora &&
                 get_count(&r->init.gguf, count_name[UPDATES], &r->count[UPDATES]);
    if (!carry) forget_optimizer(&r->init.gguf);
    if (!carry && !mpi_rank && !strcmp(r->command, "anneal") && !opt.lora)
        fprintf(stderr, "%s: no optimizer state, as a checkpoint has: AdamW begins anew\n", path);
}

/* ------------------------------------------------------------------------------------------------
 * Checkpoints: OUT.ckpt-NNNNNN */

static void write_model(Run *r, const char *path, bool checkpoint) {
    GgufWriter w = { 0 };
    const char *slash = strrchr(opt.out, '/');
    if (opt.lora) {
        gguf_put_str(&w, "general.architecture", str_of("llama"));
        gguf_put_str(&w, "general.type", str_of("adapter"));
        gguf_put_str(&w, "adapter.type", str_of("lora"));
        gguf_put_f32(&w, "adapter.lora.alpha", (float)opt.lora_alpha);
    } else {
        config_to_gguf(&w, &r->init.config);
        vocab_to_gguf(&w, &r->init.vocab);
    }
    gguf_put_str(&w, "general.name", str_of(slash ? slash + 1 : opt.out));
    for (int i = 0; checkpoint && i < N_COUNTS; i++) {
        char key[64];
        snprintf(key, sizeof key, "opencoder.train.%s", count_name[i]);
        gguf_put_raw(&w, str_of(key), GV_U64, &r->count[i], 8);
    }
    if (checkpoint) {
        uint64_t *cursor = xcalloc((size_t)r->data.n_sources, 16, "cursors");
        for (int i = 0; i < r->data.n_sources; i++) {
            cursor[2 * i] = r->data.source[i].used;
            cursor[2 * i + 1] = r->data.source[i].rows;
        }
        gguf_put_array(&w, "opencoder.train.cursors", GV_U64, 2 * (uint64_t)r->data.n_sources,
                       cursor);
        gguf_put_raw(&w, str_of("opencoder.train.mean_loss"), GV_F64, &r->mean_loss, 8);
        gguf_put_str(&w, "opencoder.train.recipe", (Str){ r->recipe.data, r->recipe.n });
        free(cursor);
    }
    r->backend->save(r->trainer, &w, path, checkpoint);
}

static void save_checkpoint(Run *r) {
    Buf path = { 0 };
    if (mpi_rank || r->saved_step == r->count[STEP]) return;
    (void)fsync(fileno(r->progress.csv)); /* a checkpoint is never newer than the record */
    checkpoint_path(&path, opt.out, r->count[STEP]);
    write_model(r, path.data, true);
    r->saved_step = r->count[STEP];
    prune_checkpoints(opt.out, r->saved_step, opt.keep);
    buf_free(&path);
}

/* The counters and the place in the data of a checkpoint, after its recipe was found to be ours. */
static void load_state(Run *r, const Model *m) {
    Error e;
    Str theirs = { "", 0 };
    const GgufKey *cursors, *mean = gguf_key(&m->gguf, "opencoder.train.mean_loss");
    if (!gguf_str(&m->gguf, "opencoder.train.recipe", &theirs, &e)) die("%s: %s", m->path, e.text);
    const char *a = r->recipe.data, *b = theirs.s, *b_end = theirs.s + theirs.n;
    while (*a && b < b_end) {
        const char *b_line = memchr(b, '\n', (size_t)(b_end - b));
        size_t n = strcspn(a, "\n"), k = (size_t)((b_line ? b_line : b_end) - b);
        if (n != k || memcmp(a, b, n))
            die_usage("%.*s: expected %.*s as in %s", (int)n, a, (int)k, b, m->path);
        a += n + 1;
        b += k + 1;
    }
    if (*a || b < b_end) die_usage("%s: has another number of settings or shards", m->path);
    for (int i = 0; i < N_COUNTS; i++)
        if (!get_count(&m->gguf, count_name[i], &r->count[i]))
            die("%s: key opencoder.train.%s: missing or no u64", m->path, count_name[i]);
    if (!gguf_array(&m->gguf, "opencoder.train.cursors", GV_U64, 2 * (uint64_t)r->data.n_sources,
                    &cursors, &e))
        die("%s: %s", m->path, e.text);
    if (!cursors || !mean || mean->type != GV_F64)
        die("%s: keys opencoder.train.cursors, mean_loss: expected u64 and f64", m->path);
    memcpy(&r->mean_loss, mean->data, 8);
    for (int i = 0; i < r->data.n_sources; i++) {
        memcpy(&r->data.source[i].used, cursors->data + 16 * i, 8);
        memcpy(&r->data.source[i].rows, cursors->data + 16 * i + 8, 8);
    }
    r->saved_step = r->count[STEP];
}

/* ------------------------------------------------------------------------------------------------
 * One update */

/* Longer rows first: micro-batches of equal rows have little padding. */
static int row_cmp(const void *a, const void *b) {
    const Row *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : (x->place > y->place) - (x->place < y->place);
}

/* Micro-batch q of a rank: rows rank + n_ranks (qB + i), i < B. Returns T, 0 when it has no
 * targets, or -1 behind the last one. */
static int fill_micro(Run *r, int rank, int64_t q, int *n, int64_t *targets) {
    int64_t first = rank + q * opt.micro_batch * n_ranks;
    if (first >= opt.batch) return -1;
    int64_t left = (opt.batch - first + n_ranks - 1) / n_ranks;
    *n = (int)(left < opt.micro_batch ? left : opt.micro_batch);
    int T = batch_fill(r->tokens, r->rows + first, *n, n_ranks, r->pad, targets);
    return *targets ? T : 0;
}

/* Draws the rows of an update; returns their targets. */
static int64_t gather(Run *r, Update *u) {
    int64_t targets = 0;
    for (int64_t i = 0; i < opt.batch; i++) {
        loader_next(&r->data, &r->rows[i]);
        r->rows[i].place = i;
        targets += r->rows[i].targets;
        u->new_tokens += r->rows[i].n - 1;
    }
    if (opt.loss_mean[0] == 't') qsort(r->rows, (size_t)opt.batch, sizeof *r->rows, row_cmp);
    return targets;
}

/* Adds up the gradients of an update; false when a signal came. scale = 1 / targets makes the loss
 * the mean over all targets of the update; "hf" takes the mean over micro-batches of their means,
 * as the trainer of Hugging Face does (4.37). */
static bool accumulate(Run *r, int64_t targets, double *loss) {
    int n, T, micros = 0, stop = 0;
    int64_t part;
    for (int rank = 0; opt.loss_mean[0] == 'h' && rank < n_ranks; rank++)
        for (int64_t q = 0; (T = fill_micro(r, rank, q, &n, &part)) >= 0; q++) micros += T > 0;
    *loss = 0;
    for (int64_t q = 0; !stop && (T = fill_micro(r, mpi_rank, q, &n, &part)) >= 0; q++) {
        double each = micros ? (double)micros * (double)part : (double)targets;
        if (T) *loss += r->backend->step(r->trainer, r->tokens, n, T, (float)(1 / each));
        stop = interrupted != 0;
    }
    if (n_ranks > 1) {
        size_t size;
        float *gradients = r->backend->gradients(r->trainer, &size);
        sum_ranks(gradients, size, loss, &stop);
    }
    return !stop;
}

/* Why the gradients must not be used, or NULL. Dies when --skip-bad allows no more. */
static const char *judge(Run *r, const Update *u, const char *bad) {
    int64_t good = r->count[STEP] - r->count[BAD] - r->count[SPIKES] - r->count[EMPTY];
    if (!isfinite(u->loss) || !isfinite(u->norm)) {
        if (++r->count[BAD] <= opt.skip_bad) return "not finite";
        die("update %lld: loss %g, gradient norm %g, first in %s, expected finite numbers; "
            "checkpoints stay as they are, see --skip-bad and --lr",
            (long long)u->step, u->loss, u->norm, bad[0] ? bad : "the loss");
    }
    if (opt.spike > 0 && good >= 20 && u->loss > opt.spike * r->mean_loss)
        return r->count[SPIKES]++, "a spike of the loss";
    r->mean_loss += (u->loss - r->mean_loss) / (double)(good < 99 ? good + 1 : 100);
    return NULL;
}

/* One update, from rows to new weights; false when a signal came first: nothing has changed. */
static bool run_update(Run *r, Update *u) {
    Loader *d = &r->data;
    Source *before = xcalloc((size_t)d->n_sources, sizeof *before, "cursors");
    memcpy(before, d->source, (size_t)d->n_sources * sizeof *before);
    char bad[64] = "";
    int64_t targets = gather(r, u);
    u->step = r->count[STEP] + 1;
    u->lr = learning_rate(r->count[STEP], r->steps, opt.warmup);
    bool done = targets ? accumulate(r, targets, &u->loss) : n_ranks > 1 || !interrupted;
    if (!done) {
        memcpy(d->source, before, (size_t)d->n_sources * sizeof *before);
        r->backend->zero(r->trainer);
    }
    free(before);
    if (!done) return false;
    if (!targets) {
        r->count[EMPTY]++;
        u->skipped = "no targets";
    } else {
        u->norm = r->backend->grad_norm(r->trainer, bad);
        u->skipped = judge(r, u, bad);
        double factor = opt.clip > 0 ? opt.clip / (u->norm + 1e-6) : 1; /* as PyTorch clips */
        if (u->skipped)
            r->backend->zero(r->trainer);
        else
            r->backend->update(r->trainer, ++r->count[UPDATES], (float)u->lr,
                               factor < 1 ? (float)factor : 1);
    }
    r->count[STEP]++;
    u->tokens = r->count[TOKENS] += u->new_tokens;
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * Validation and samples */

/* Nats a token and bits per byte of text, over --val-rows rows spread evenly over what there is. */
static void validate(Run *r, Update *u) {
    int64_t all = (int64_t)loader_rows(&r->val), n = all < opt.val_rows ? all : opt.val_rows;
    int64_t targets = 0, bytes = 0, part, B = opt.micro_batch;
    double nats = 0;
    Row *rows = rows_new((size_t)B, r->data.T);
    for (int64_t at = 0, k; at < n; at += k) {
        k = n - at < B ? n - at : B;
        for (int64_t i = 0; i < k; i++) {
            loader_at(&r->val, (uint64_t)((at + i) * all / n), &rows[i]);
            for (int j = 1; j < rows[i].n; j++)
                if (!(rows[i].token[j] & NO_LOSS)) bytes += r->n_bytes[TOKEN_ID(rows[i].token[j])];
        }
        int T = batch_fill(r->tokens, rows, (int)k, 1, r->pad, &part);
        if (part) nats += r->backend->loss(r->trainer, r->tokens, (int)k, T);
        targets += part;
    }
    if (targets) u->val_loss = nats / (double)targets;
    if (bytes) u->val_bits = nats / log(2) / (double)bytes;
    free(rows);
}

/* Continues --prompt by up to 64 tokens with the weights as they are. */
static void print_sample(Run *r) {
    const Vocab *v = &r->init.vocab;
    Sampler s = { .temperature = (float)opt.temperature, .top_p = 1, .repeat_penalty = 1 };
    s.random = mix_key((uint64_t)opt.seed, (uint64_t)r->count[STEP], 0) | 1;
    Ids ids = { 0 };
    Buf text = { 0 };
    tokenizer_encode_prompt(r->tokenizer, opt.prompt, strlen(opt.prompt), true, &ids);
    if (!ids.n) ids_add(&ids, v->eos < 0 ? 0 : v->eos);
    int most = r->init.config.max_ctx, n = (int)ids.n < most ? (int)ids.n : most, id = -1;
    EngineOptions o = { n + 64 < most ? n + 64 : most, 1, n, false, NULL, NULL };
    Engine *e = cpu_engine.open(r->backend->model(r->trainer), &o);
    int *seq = xcalloc((size_t)n, sizeof *seq, "sample"), *pos = xcalloc((size_t)n, 4, "sample");
    char *want = xcalloc((size_t)n, 1, "sample");
    for (int i = 0; i < n; i++) pos[i] = i;
    want[n - 1] = 1;
    Batch b = { n, ids.id, seq, pos, want };
    for (int at = n; at <= o.n_ctx; at++) {
        float *logits = cpu_engine.forward(e, &b);
        id = sample(&s, logits, v->n);
        for (int i = 0; i < v->n_stop; i++)
            if (v->stop[i] == id) id = v->eos;
        if (id == v->eos) break;
        ids_add(&ids, id);
        pos[0] = at, want[0] = 1;
        b = (Batch){ 1, &id, seq, pos, want };
    }
    tokenizer_decode(r->tokenizer, ids.id, ids.n, true, &text);
    fprintf(stderr, "%s--- sample after %lld updates\n%.*s\n---\n", isatty(2) ? "\r\033[K" : "",
            (long long)r->count[STEP], (int)text.n, text.data ? text.data : "");
    cpu_engine.close(e);
    free(seq), free(pos), free(want), free(ids.id);
    buf_free(&text);
}

/* ------------------------------------------------------------------------------------------------
 * Setting up, and the loop */

/* DATA[=WEIGHT]: the weight stands behind the last '=', unless a file has the whole name. */
static void add_source(Loader *l, const char *word, bool *weighted) {
    char *equals = access(word, F_OK) ? strrchr((char *)(uintptr_t)word, '=') : NULL;
    if (l->n_sources && *weighted != (equals != NULL))
        die_usage("%s: expected a weight for every shard or for none", word);
    double weight = equals ? parse_float(word, equals + 1, 1e-9, 1e9) : 0;
    if (equals) *equals = 0; /* what is left of the argument is the path */
    *weighted = equals != NULL;
    loader_add(l, word, weight, opt.verify);
}

static double parameters(const Config *c, bool multiplied) {
    int n;
    double sum = 0;
    TensorSpec *s = tensor_specs(c, &n);
    for (int i = 0; i < n; i++)
        if (!multiplied || (s[i].rows > 1 && (i || c->tied)))
            sum += (double)s[i].rows * (double)s[i].cols;
    free(s);
    return sum;
}

/* Opens shards, and what validation wants of them. */
static void open_data(Run *r, const char **word, int n) {
    const Model *m = &r->init;
    int64_t most = !strcmp(r->command, "sft") ? opt.stage == 2 ? 1500 : 1216 : 8192;
    bool weighted = false;
    if (opt.seq_len > m->config.max_ctx)
        die_usage("--seq-len: %lld, expected at most the context, %d", (long long)opt.seq_len,
                  m->config.max_ctx);
    if (!opt.seq_len) opt.seq_len = most < m->config.max_ctx ? most : m->config.max_ctx;
    r->data = (Loader){ .T = (int)opt.seq_len,
                        .vocab_size = m->config.vocab_size,
                        .vocab_crc = vocab_crc(&m->vocab),
                        .seed = (uint64_t)opt.seed,
                        .doc_mask = opt.doc_mask };
    r->val = r->data; /* validation never packs */
    r->data.pack = opt.pack;
    for (int i = 0; i < n; i++) add_source(&r->data, word[i], &weighted);
    bool chat = !opt.pack;
    for (int i = 0; i < n; i++) chat |= is_chat(&r->data.source[i]);
    if (!chat) die_usage("--pack: given without a chat shard, expected one");
    for (int i = 0; i < opt.val.n; i++) loader_add(&r->val, opt.val.text[i], 0, opt.verify);
    if (!opt.val.n && opt.val_fraction > 0) loader_split(&r->data, &r->val, opt.val_fraction);
    loader_ready(&r->data);
    loader_ready(&r->val);
    Error e;
    r->tokenizer = tokenizer_new(&m->vocab, &e);
    if (!r->tokenizer) die("%s: %s", m->path, e.text);
    r->n_bytes = xcalloc((size_t)m->config.vocab_size, sizeof *r->n_bytes, "lengths of tokens");
    for (int i = 0; i < m->vocab.n; i++)
        r->n_bytes[i] = (int)tokenizer_piece(r->tokenizer, i, true).n;
    for (int i = 0; i < r->val.n_sources; i++) r->n_bytes[r->val.source[i].shard.head.end_id] = 0;
    r->pad = (uint32_t)(m->vocab.pad >= 0 ? m->vocab.pad : m->vocab.eos >= 0 ? m->vocab.eos : 0);
}

/* Turns what is left open (0) into numbers, as the model and the data say. */
static void resolve(Run *r) {
    double rows = (double)loader_rows(&r->data), epochs = opt.stage == 2 ? 3 : 1;
    bool sft = !strcmp(r->command, "sft");
    if (opt.epochs > 0) epochs = opt.epochs;
    if (opt.batch_tokens) opt.batch = opt.batch_tokens / opt.seq_len;
    if (!opt.batch && !opt.batch_tokens)
        opt.batch = parameters(&r->init.config, false) > 1e9 ? 1024 : 32768 / opt.seq_len;
    if (!opt.batch) opt.batch = 1;
    if (!opt.micro_batch) opt.micro_batch = opt.seq_len < 4096 ? 4096 / opt.seq_len : 1;
    if (opt.micro_batch > opt.batch) opt.micro_batch = opt.batch;
    if (opt.tokens) opt.steps = opt.tokens / (opt.batch * opt.seq_len);
    if (!opt.tokens && !opt.steps) opt.steps = (int64_t)(epochs * rows / (double)opt.batch);
    if (!opt.steps) opt.steps = 1;
    int64_t most = sft ? 100 : 2000;
    if (opt.warmup < 0) opt.warmup = most < opt.steps / 20 ? most : opt.steps / 20;
    if (opt.lora && opt.lora_alpha <= 0) opt.lora_alpha = 2.0 * (double)opt.lora;
    r->steps = opt.steps;
}

/* Opens the trainer; the weights of a new model are then its own. */
static void open_trainer(Run *r, bool resumed) {
    const Config *c = &r->init.config;
    TrainOptions o = { .batch = (int)opt.micro_batch,
                       .seq_len = (int)opt.seq_len,
                       .beta1 = (float)opt.beta1,
                       .beta2 = (float)opt.beta2,
                       .eps = (float)opt.eps,
                       .weight_decay = (float)opt.weight_decay,
                       .recompute = opt.recompute,
                       .bf16 = opt.bf16,
                       .lora_rank = (int)opt.lora,
                       .lora_alpha = (float)opt.lora_alpha,
                       .seed = (uint64_t)opt.seed };
    r->trainer = r->backend->open(&r->init, opt.lora && resumed ? &r->saved.gguf : NULL, &o);
    free(r->arena);
    r->rows = rows_new((size_t)opt.batch, (int)opt.seq_len);
    r->tokens = xcalloc((size_t)opt.micro_batch * ((size_t)opt.seq_len + 1), sizeof *r->tokens,
                        "micro-batch");
    if (mpi_rank) return;
    Progress *p = &r->progress;
    p->steps = r->steps;
    p->log_every = opt.log_every;
    /* 2 operations a weight forward, 2 for each of its two gradients (with LoRA, one); attention:
     * scores and values of T / 2 earlier positions on average. */
    p->flops = (opt.lora ? 4 : 6) * parameters(c, true) +
               6.0 * c->n_layers * c->n_heads * c->head_dim * (double)opt.seq_len;
    p->peak = matmul_peak(opt.bf16) * 1e9;
    fprintf(stderr,
            "%s: %.4g parameters, %llu rows of %lld an epoch, %lld updates of %lld rows, "
            "%llu rows for validation, %s, %d threads\n",
            r->command, parameters(c, false), (unsigned long long)loader_rows(&r->data),
            (long long)opt.seq_len, (long long)r->steps, (long long)opt.batch,
            (unsigned long long)loader_rows(&r->val), matmul_level(), thread_count());
    csv_open(p, opt.out, r->count[STEP]);
    if (opt.plot) draw_plot(p->path, opt.plot, opt.out); /* if it cannot be written, say so now */
    p->begun = p->last = now_seconds();
}

/* What follows an update that is through. */
static void after_update(Run *r, Update *u) {
    bool last = u->step == r->steps;
    bool check = last || (opt.val_every && u->step % opt.val_every == 0);
    if (mpi_rank) return;
    if (check && r->val.n_sources && opt.val_rows) validate(r, u);
    report_update(&r->progress, u);
    if (check && opt.plot) draw_plot(r->progress.path, opt.plot, opt.out);
    if (opt.sample_every && u->step % opt.sample_every == 0) print_sample(r);
    if (last || (opt.save_every && u->step % opt.save_every == 0)) save_checkpoint(r);
}

static void close_run(Run *r) {
    r->backend->close(r->trainer);
    tokenizer_free(r->tokenizer);
    loader_close(&r->val);
    loader_close(&r->data);
    model_close(&r->init);
    model_close(&r->saved);
    free(r->specs);
    free(r->n_bytes);
    free(r->rows);
    free(r->tokens);
    free(r->progress.path);
    buf_free(&r->recipe);
    buf_free(&r->found);
    if (r->progress.csv && fclose(r->progress.csv)) die("%s.csv: cannot write", opt.out);
}

/* Parses the command line; its defaults depend on the command, so that -h shows the right ones. */
static int read_command(Run *r, int argc, char **argv, const char **word) {
    int stage = 1;
    bool named = argc > 1 && argv[1][0] != '-';
    r->command = named ? argv[1] : "pretrain";
    if (!one_of(r->command, "pretrain anneal sft"))
        die_usage("command %s: expected pretrain, anneal or sft", r->command);
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], "--stage=2") ||
            (!strcmp(argv[i], "2") && !strcmp(argv[i - 1], "--stage")))
            stage = 2;
    set_defaults(r->command, stage);
    int n = parse_options(argc - named, argv + named, options, usage, word, argc);
    if (!named) die_usage("no command given, expected pretrain, anneal or sft before the options");
    if (!n) die_usage("%s: no data given, expected .tok shards", r->command);
    check_options(r->command);
    return n;
}

int main(int argc, char **argv) {
    Run run = { .backend = &cpu_trainer, .saved_step = -1 }, *r = &run;
    const char **word = (const char **)xcalloc((size_t)argc + 1, sizeof *word, "arguments");
    int64_t *steps;
    struct stat st;
    if (argc == 1) return fputs(usage, stderr), 2;
#ifdef OC_MPI
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
#endif
    int n = read_command(r, argc, argv, word);
    if (!matmul_choose(opt.cpu)) die_usage("--cpu: '%s', not an instruction set here", opt.cpu);
#ifdef _OPENMP
    if (opt.threads) omp_set_num_threads((int)opt.threads);
#endif
    if (!stat(opt.out, &st) && !S_ISREG(st.st_mode))
        die("%s: exists and is not a regular file, expected a file that may be replaced", opt.out);
    int before = scan_outputs(opt.out, &steps);
    if (before && !opt.resume)
        die("%s.ckpt-%06lld: exists, expected no checkpoint; --resume goes on from it", opt.out,
            (long long)steps[before - 1]);
    free(steps);
    bool resumed =
        opt.resume && find_checkpoint(&r->saved, opt.out, opt.lora > 0, mpi_rank > 0, &r->found);
    if (resumed && !opt.lora)
        r->init = r->saved, memset(&r->saved, 0, sizeof r->saved);
    else if (opt.init)
        start_from(r, opt.init);
    else
        start_new(r);
    open_data(r, word, n);
    resolve(r);
    write_recipe(&r->recipe, r->command, &r->data);
    if (resumed) load_state(r, opt.lora ? &r->saved : &r->init);
    open_trainer(r, resumed);
    catch_signals();
    bool whole = true;
    while (whole && r->count[STEP] < r->steps) {
        Update u = { .loss = NAN, .norm = NAN, .val_loss = NAN, .val_bits = NAN };
        whole = run_update(r, &u);
        if (whole) after_update(r, &u);
    }
    save_checkpoint(r);
    if (!whole && !mpi_rank)
        fprintf(stderr, "%sstopped after %lld of %lld updates; --resume goes on from there\n",
                isatty(2) ? "\r\033[K" : "", (long long)r->count[STEP], (long long)r->steps);
    if (whole && !mpi_rank) {
        write_model(r, opt.out, false);
        fprintf(stderr, "wrote %s after %lld updates, %lld of them skipped\n", opt.out,
                (long long)r->steps,
                (long long)(r->count[BAD] + r->count[SPIKES] + r->count[EMPTY]));
    }
    close_run(r);
    free((void *)word);
#ifdef OC_MPI
    MPI_Finalize();
#endif
    return whole ? 0 : 130;
}
#endif
