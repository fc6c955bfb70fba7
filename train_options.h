/* train_options.h: the command line of train: the table, the defaults, the checks, and the learning
 * rate that comes of it.
 *
 * What to know first: an option that decides the result stands in the table before -o. Those are
 * the recipe: it is written into every checkpoint, line by line, and a run that is resumed must
 * have the same; what stands behind -o may change from one start to the next, as may the machine:
 * number of ranks, CPU or GPU, and with that how finely products are rounded.
 * Sections: 1 the table, 2 defaults, checks, 3 the recipe, 4 the learning rate. */
#ifndef OC_TRAIN_OPTIONS_H
#define OC_TRAIN_OPTIONS_H

#include "loader.h" /* Loader; opencoder.h: cpu_trainer; files.h: Option */
#include "ranks.h"  /* n_ranks */

#ifdef OC_CUDA /* ./traincuda is this program with the trainer of traincuda.cu */
#define TRAINER  cuda_trainer
#define PEAK     cuda_peak(opt.bf16)
#define HAS_BF16 true
double cuda_peak(bool bf16);
#else
#define TRAINER  cpu_trainer
#define PEAK     (matmul_peak(opt.bf16) * 1e9) /* measuring takes 0.1 s */
#define HAS_BF16 gemm_has_bf16()
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. The table */

static struct {
    const char *out, *init, *shape, *tokenizer, *schedule, *loss_mean, *cpu, *prompt, *plot;
    TextList val;
    int64_t stage, dim, layers, heads, kv_heads, head_dim, hidden, ctx, seed;
    int64_t steps, tokens, seq_len, batch, batch_tokens, micro_batch, warmup, lora, skip_bad;
    int64_t save_every, keep, val_every, val_rows, sample_every, log_every, threads;
    double theta, init_std, epochs, lr, min_lr, decay_fraction, beta1, beta2, eps, weight_decay;
    double clip, lora_alpha, spike, val_fraction, temperature;
    int64_t recompute_level;
    bool tied, init_scaled, doc_mask, pack, recompute, bf16, bf16_moments, bf16_grads, resume,
        verify, plan;
} opt;

static const char usage[] =
    "usage: train pretrain|anneal|sft DATA[=WEIGHT]... -o OUT [options]\n"
    "DATA is a .tok shard of ./tokenizer pack; WEIGHT is its share of the rows, without any all\n"
    "shards are seen equally often. `train sft --stage 2 -h` shows the defaults of that stage.\n"
    "  ./train pretrain code.tok --shape tiny --tokenizer vocab.gguf -o tiny.bin --epochs 4\n"
    "  ./train anneal best.tok=3 code.tok=1 --init tiny.bin.ckpt-001000 -o base.bin\n"
    "  ./train sft chat.tok --init base.bin -o instruct.bin\n"
    "Writes OUT, OUT.csv and OUT.ckpt-NNNNNN. Defaults: (p) of OpenCoder's paper or scripts, (o)\n"
    "ours where those are silent.\n";

static const Option options[] = {
    { 0, "init", NULL, "MODEL", OPT_TEXT, &opt.init, 0, 0, "start from this model or checkpoint" },
    { 0, "shape", NULL, "NAME", OPT_TEXT, &opt.shape, 0, 0, "a new model: 1.5b, 8b (p) or tiny" },
    { 'z', "tokenizer", NULL, "FILE", OPT_TEXT, &opt.tokenizer, 0, 0, "vocabulary of a new model" },
    { 0, "dim", NULL, "N", OPT_INT, &opt.dim, 0, 65536, "width; 0: the shape's, and so below" },
    { 0, "layers", NULL, "N", OPT_INT, &opt.layers, 0, 1024, "layers" },
    { 0, "heads", NULL, "N", OPT_INT, &opt.heads, 0, 1024, "query heads" },
    { 0, "kv-heads", NULL, "N", OPT_INT, &opt.kv_heads, 0, 1024, "key and value heads" },
    { 0, "head-dim", NULL, "N", OPT_INT, &opt.head_dim, 0, 1024, "width of a head" },
    { 0, "hidden", NULL, "N", OPT_INT, &opt.hidden, 0, 1 << 20, "width of the feed-forward layer" },
    { 0, "ctx", NULL, "N", OPT_INT, &opt.ctx, 0, 1 << 24, "longest context" },
    { 0, "theta", NULL, "X", OPT_FLOAT, &opt.theta, 0, 1e12, "base of the RoPE angles" },
    { 0, "tied", NULL, NULL, OPT_FLAG, &opt.tied, 0, 0, "the embedding is the output head too" },
    { 0, "init-std", NULL, "X", OPT_FLOAT, &opt.init_std, 0, 10, "new weights: normal(0, X) (o)" },
    { 0, "init-scaled", NULL, NULL, OPT_FLAG, &opt.init_scaled, 0, 0,
      "wo and w_down of a new model by 1 / sqrt(2 layers)" },
    { 's', "seed", NULL, "N", OPT_INT, &opt.seed, 0, 9e15, "of new weights and order of rows" },
    { 0, "stage", NULL, "N", OPT_INT, &opt.stage, 1, 2, "of sft: 1 or 2 (p)" },
    { 'n', "steps", NULL, "N", OPT_INT, &opt.steps, 0, 1 << 30, "updates in all, or ..." },
    { 0, "epochs", NULL, "X", OPT_FLOAT, &opt.epochs, 0, 1e6,
      "... passes over all rows; 0: 1 (sft stage 2: 3 (p)), or ..." },
    { 0, "tokens", NULL, "N", OPT_INT, &opt.tokens, 0, 9e15, "... positions in all" },
    { 't', "seq-len", NULL, "T", OPT_INT, &opt.seq_len, 0, 1 << 24,
      "positions a row; 0: 1216, in stage 2 1500 (p), else 8192 (p), or the context" },
    { 'b', "batch", NULL, "N", OPT_INT, &opt.batch, 0, 1 << 24,
      "rows an update, at most an epoch; 0: 1024 (p) above 1e9 parameters, else 32768 tokens (o), "
      "sft 4096, in stage 2 512 (p)" },
    { 0, "batch-tokens", NULL, "N", OPT_INT, &opt.batch_tokens, 0, 1 << 30, "the same in tokens" },
    { 'm', "micro-batch", NULL, "B", OPT_INT, &opt.micro_batch, 0, 65536,
      "rows at a time; 0: about 4096 tokens (o)" },
    { 0, "lr", NULL, "X", OPT_FLOAT, &opt.lr, 0, 10, "peak learning rate (p)" },
    { 0, "min-lr", NULL, "X", OPT_FLOAT, &opt.min_lr, 0, 10, "where a decay ends (p)" },
    { 0, "warmup", NULL, "N", OPT_INT, &opt.warmup, -1, 1 << 30,
      "updates of warm-up; -1: 2000, sft 100 (p), at most 5 % of the run (o)" },
    { 0, "schedule", NULL, "NAME", OPT_TEXT, &opt.schedule, 0, 0,
      "wsd (pretrain), exp (anneal), cosine (sft) (p), constant, linear" },
    { 0, "decay-fraction", NULL, "X", OPT_FLOAT, &opt.decay_fraction, 0, 1,
      "part of a wsd run that decays exponentially at its end" },
    { 0, "beta1", NULL, "X", OPT_FLOAT, &opt.beta1, 0, 0.999999, "AdamW: decay of the mean (o)" },
    { 0, "beta2", NULL, "X", OPT_FLOAT, &opt.beta2, 0, 0.999999,
      "AdamW: of the square (o; sft: p)" },
    { 0, "eps", NULL, "X", OPT_FLOAT, &opt.eps, 1e-30, 1, "AdamW: epsilon (o)" },
    { 0, "weight-decay", NULL, "X", OPT_FLOAT, &opt.weight_decay, 0, 10, "AdamW (o; sft: p)" },
    { 0, "clip", NULL, "X", OPT_FLOAT, &opt.clip, 0, 1e9, "largest gradient norm; 0: any (o)" },
    { 0, "loss-mean", NULL, "HOW", OPT_TEXT, &opt.loss_mean, 0, 0,
      "over an update's tokens, or hf: of each micro-batch's mean" },
    { 0, "doc-mask", NULL, NULL, OPT_FLAG, &opt.doc_mask, 0, 0, "attention stays in its document" },
    { 0, "pack", NULL, NULL, OPT_FLAG, &opt.pack, 0, 0, "several chat examples a row" },
    { 0, "val-fraction", NULL, "X", OPT_FLOAT, &opt.val_fraction, 0, 0.5,
      "end of each shard kept for validation where no --val is given (o)" },
    { 0, "lora", NULL, "R", OPT_INT, &opt.lora, 0, 4096, "train an adapter of rank R alone" },
    { 0, "lora-alpha", NULL, "A", OPT_FLOAT, &opt.lora_alpha, 0, 1e6, "its scale; 0: 2 R (o)" },
    { 0, "spike", NULL, "X", OPT_FLOAT, &opt.spike, 0, 1e9,
      "skip updates with a loss above X times the running mean; 0: none" },
    { 'o', "output", NULL, "OUT", OPT_TEXT, &opt.out, 0, 0, "the model, or adapter, to write" },
    { 0, "resume", NULL, NULL, OPT_FLAG, &opt.resume, 0, 0, "go on from OUT's last checkpoint" },
    { 0, "plan", NULL, NULL, OPT_FLAG, &opt.plan, 0, 0,
      "only say what memory such a run takes; needs no DATA" },
    { 0, "recompute", NULL, NULL, OPT_FLAG, &opt.recompute, 0, 0, "less memory, one more forward" },
#ifdef OC_CUDA
    { 0, "recompute-level", NULL, "N", OPT_INT, &opt.recompute_level, 0, 3,
      "the same in part: 1 norms and SwiGLU, 2 gate and up too, 3 whole layers" },
    { 0, "bf16", NULL, NULL, OPT_FLAG, &opt.bf16, 0, 0,
      "bfloat16 weights and activations with float32 masters, else float32" },
    { 0, "bf16-moments", NULL, NULL, OPT_FLAG, &opt.bf16_moments, 0, 0,
      "with --bf16: AdamW's state too, stochastically rounded; 4 bytes a weight less" },
    { 0, "bf16-gradients", NULL, NULL, OPT_FLAG, &opt.bf16_grads, 0, 0,
      "with --bf16: gradients too; 2 bytes a weight less" },
#else
    { 0, "bf16", NULL, NULL, OPT_FLAG, &opt.bf16, 0, 0,
      "bfloat16 products where the CPU has them" },
#endif
    { 0, "save-every", NULL, "N", OPT_INT, &opt.save_every, 0, 1 << 30,
      "updates between checkpoints; 0: only at the end" },
    { 0, "keep", NULL, "K", OPT_INT, &opt.keep, 1, 1 << 20, "checkpoints to keep" },
    { 0, "val", NULL, "FILE", OPT_LIST, &opt.val, 0, 0, "shard for validation; repeatable" },
    { 0, "val-every", NULL, "N", OPT_INT, &opt.val_every, 0, 1 << 30, "updates; 0: at the end" },
    { 0, "val-rows", NULL, "N", OPT_INT, &opt.val_rows, 0, 1 << 30, "at most; 0: no validation" },
    { 0, "sample-every", NULL, "N", OPT_INT, &opt.sample_every, 0, 1 << 30,
      "updates between texts of 64 tokens" },
    { 'i', "prompt", NULL, "TEXT", OPT_TEXT, &opt.prompt, 0, 0, "how those texts begin" },
    { 0, "temp", "temperature", "T", OPT_FLOAT, &opt.temperature, 0, 100, "of those texts" },
    { 0, "plot", NULL, "FILE", OPT_TEXT, &opt.plot, 0, 0, "draw the losses as SVG" },
    { 0, "log-every", NULL, "N", OPT_INT, &opt.log_every, 1, 1 << 30, "updates between lines" },
    { 0, "skip-bad", NULL, "N", OPT_INT, &opt.skip_bad, 0, 1 << 30,
      "skip so many updates that are not finite before giving up" },
    { 'j', "threads", NULL, "N", OPT_INT, &opt.threads, 0, 1024, "0: as the machine offers" },
    { 0, "cpu", NULL, "NAME", OPT_TEXT, &opt.cpu, 0, 0, matmul_levels },
    { 0, "verify", NULL, NULL, OPT_FLAG, &opt.verify, 0, 0, "check checksums of large files too" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* ------------------------------------------------------------------------------------------------
 * 2. Defaults and checks */

/* The values of OpenCoder's paper and SFT scripts, and our own values where those are silent. */
OC_API void set_defaults(const char *command, int stage) {
    bool sft = !strcmp(command, "sft"), anneal = !strcmp(command, "anneal");
    memset(&opt, 0, sizeof opt);
    opt.stage = stage;
    opt.seed = 42;
    opt.schedule = sft ? "cosine" : anneal ? "exp" : "wsd";
    opt.lr = !sft ? 3e-4 : stage == 1 ? 2e-5 : 5e-5;
    opt.min_lr = sft ? 0 : 1e-5;
    opt.warmup = anneal ? 0 : -1;
    opt.beta1 = 0.9, opt.beta2 = sft ? 0.999 : 0.95;
    opt.weight_decay = sft ? 0 : 0.1;
    opt.eps = 1e-8, opt.clip = 1, opt.init_std = 0.02, opt.temperature = 0.8;
    opt.loss_mean = "tokens";
    opt.val_fraction = 0.01, opt.val_rows = 256;
    opt.save_every = 1000, opt.keep = 2, opt.log_every = 10;
}

OC_API bool one_of(const char *text, const char *words) {
    const char *at = strstr(words, text);
    size_t n = strlen(text);
    return n && !strchr(text, ' ') && at && (at == words || at[-1] == ' ') &&
           (at[n] == ' ' || !at[n]);
}

/* What can be said before any file is open. */
OC_API void check_options(const char *command) {
    bool sft = !strcmp(command, "sft");
    if ((!opt.out || !*opt.out) && !opt.plan)
        die_usage("-o: not given, expected the file to write");
    if (!one_of(opt.schedule, "wsd exp cosine constant linear"))
        die_usage("--schedule: '%s', expected wsd, exp, cosine, constant or linear", opt.schedule);
    if (!one_of(opt.loss_mean, "tokens hf"))
        die_usage("--loss-mean: '%s', expected tokens or hf", opt.loss_mean);
    if ((opt.min_lr <= 0 || opt.lr <= 0) && (opt.schedule[0] == 'e' || opt.decay_fraction > 0))
        die_usage("--lr, --min-lr: %g, %g, expected more than 0 for an exponential decay", opt.lr,
                  opt.min_lr);
    if (opt.decay_fraction > 0 && opt.schedule[0] != 'w')
        die_usage("--decay-fraction: given with --schedule %s, expected wsd", opt.schedule);
    if (opt.stage != 1 && !sft) die_usage("--stage: given with %s, expected sft", command);
    if ((opt.steps > 0) + (opt.epochs > 0) + (opt.tokens > 0) > 1)
        die_usage("--steps, --epochs, --tokens: expected one of them");
    if (opt.batch && opt.batch_tokens)
        die_usage("--batch and --batch-tokens: both given, expected one of them");
    if (opt.loss_mean[0] == 'h' && n_ranks > 1)
        die_usage("--loss-mean: hf with %d ranks, whose micro-batches differ; expected tokens",
                  n_ranks);
    if (opt.lora && !opt.init) die_usage("--lora: expected --init, the model to adapt");
    if (opt.lora_alpha > 0 && !opt.lora) die_usage("--lora-alpha: given without --lora");
    if ((opt.bf16_moments || opt.bf16_grads) && !opt.bf16)
        die_usage("--bf16-%s: given without --bf16", opt.bf16_grads ? "gradients" : "moments");
    if ((opt.sample_every > 0) != (opt.prompt != NULL))
        die_usage("--sample-every and --prompt: one is given, expected both or none");
}

OC_API void choose_seq_len(const char *command, int context) {
    int most = !strcmp(command, "sft") ? opt.stage == 2 ? 1500 : 1216 : 8192;
    if (opt.seq_len > context)
        die_usage("--seq-len: %lld, expected at most the context, %d", (long long)opt.seq_len,
                  context);
    if (!opt.seq_len) opt.seq_len = most < context ? most : context;
}

/* Rows at a time; the trainer counts their tokens in int. */
OC_API void choose_micro_batch(void) {
    if (!opt.micro_batch) opt.micro_batch = opt.seq_len < 4096 ? 4096 / opt.seq_len : 1;
    if (opt.micro_batch > opt.batch) opt.micro_batch = opt.batch;
    if (opt.micro_batch * opt.seq_len > 1 << 30)
        die_usage("--micro-batch: %lld x %lld positions, expected at most 2^30",
                  (long long)opt.micro_batch, (long long)opt.seq_len);
}

/* What is read must not be written over. */
OC_API void protect_inputs(const char *out, const Loader *l) {
    bool same =
        (opt.init && same_file(out, opt.init)) || (opt.tokenizer && same_file(out, opt.tokenizer));
    for (int i = 0; i < opt.val.n; i++) same |= same_file(out, opt.val.text[i]);
    for (int i = 0; i < l->n_sources; i++) same |= same_file(out, l->source[i].shard.path);
    if (same) die_usage("%s: is read and to be written, expected another name", out);
}
/* Will it be possible to write? To be known now, not after hours of training. */
OC_API void check_outputs(const Loader *l) {
    Buf csv = { 0 }, last = { 0 };
    buf_add(&last, opt.out, strlen(opt.out));
    buf_add(&csv, opt.out, strlen(opt.out));
    buf_add(&csv, ".csv", 4);
    buf_printf(&last, ".ckpt-%06lld", (long long)opt.steps);
    protect_inputs(opt.out, l);
    protect_inputs(csv.data, l);
    out_sweep(opt.out);
    if (opt.plot) {
        protect_inputs(opt.plot, l);
        out_try(opt.plot, opt.out);
        out_try(opt.plot, csv.data);
    }
    out_try(last.data, NULL); /* a checkpoint has the longest name */
    buf_free(&csv);
    buf_free(&last);
}

/* ------------------------------------------------------------------------------------------------
 * 3. The recipe */

/* Writes everything that decides the result, one setting a line. */
OC_API void write_recipe(Buf *b, const char *command, const Loader *l) {
    buf_printf(b, "command %s\n", command);
    for (const Option *o = options; o->value != &opt.out; o++) {
        buf_printf(b, "--%s ", o->name);
        const char *text = o->kind == OPT_TEXT ? *(const char *const *)o->value : NULL;
        if (text) buf_add(b, text, strlen(text));
        if (o->kind == OPT_FLAG) buf_printf(b, *(const bool *)o->value ? "yes" : "no");
        if (o->kind == OPT_INT) buf_printf(b, "%lld", (long long)*(const int64_t *)o->value);
        if (o->kind == OPT_FLOAT) buf_printf(b, "%.17g", *(const double *)o->value);
        buf_printf(b, "\n");
    }
    for (int i = 0; i < l->n_sources; i++) {
        const Source *s = &l->source[i];
        buf_add(b, s->shard.path, strlen(s->shard.path));
        buf_printf(b, ": %llu tokens, CRC32C %08x, %llu pieces, weight %.9g\n",
                   (unsigned long long)s->shard.head.n_tokens, s->shard.head.data_crc,
                   (unsigned long long)s->n, s->weight);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 4. The learning rate after `done` of n updates, w of them warm-up; x = (done - w) / (n - w)
 *
 *     peak    ___________________        exp       peak (min / peak)^x             annealing
 *           /|                   \       cosine    min + (peak - min) (1 + cos(pi x)) / 2
 *          / | wsd                \      linear    peak + (min - peak) x
 *         /__|_____________________\     wsd       peak, then exp over the decay fraction
 *          w                        n
 * WSD is Hu et al., arXiv:2404.06395; OpenCoder anneals in a run of its own. */
OC_API double learning_rate(int64_t done, int64_t n, int64_t w) {
    double peak = opt.lr, min = opt.min_lr, x = (double)(done - w) / (double)(n > w ? n - w : 1);
    if (done < w) return peak * (double)(done + 1) / (double)w;
    switch (opt.schedule[0]) {
    case 'w':
        x = opt.decay_fraction > 0 ? 1 - ((double)(n - done) / ((double)n * opt.decay_fraction))
                                   : 0;
        return x <= 0 ? peak : peak * pow(min / peak, x);
    case 'e': return peak * pow(min / peak, x);
    case 'l': return peak + (min - peak) * x;
    default: return opt.schedule[2] == 's' ? min + (peak - min) * (1 + cos(M_PI * x)) / 2 : peak;
    }
}

#endif
