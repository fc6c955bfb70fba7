/* traincuda.cu: the trainer of train.c on a GPU. make traincuda links it with train.c, whose
 * command line, data, schedules and checkpoints stay as they are; make emu does so without a GPU.
 *
 *     ./traincuda pretrain code.tok --shape 1.5b --tokenizer vocab.gguf -o model.bin --bf16 -m 4
 *
 * What to know first: the functions have the names, the order and the formulas of train.c; what is
 * different is where numbers stand, and which. A is the type of weights and activations:
 *
 *   float   everything is float32: what ./train computes, to the rounding of sums
 *   bf16    (--bf16) products of bf16 with float32 sums, on tensor cores. float32 are the sums in
 *           every kernel, the gradient of the residual stream, the logits, the gradients of
 *           parameters (or bf16: --bf16-gradients), AdamW's moments (or bf16: --bf16-moments), and
 *           the weights that AdamW works on, which are bf16 and a lower half: see cuda/optim.h
 *
 *   Bytes a parameter: weights with master 4, gradients 4 (2), moments 8 (4): 16 down to 10.
 *
 * Products are cuBLAS's; wq, wk, wv stand on top of each other and are one product, gate and up
 * another. What a layer keeps for its backward pass, by recompute level; the rest is made again:
 *
 *   0   x, two normed, qkv, attn_out, mid, gate_up, hidden
 *   1   x, qkv, attn_out, mid, gate_up          norms and SwiGLU again: hardly any time
 *   2   x, qkv, attn_out, mid                   and one product, a sixth of the forward pass
 *   3   x                                       the whole forward pass
 *
 * The bits are the same at every level, and from run to run: no sum depends on who comes first.
 *
 * Several processes (ranks.h) are ZeRO-1: cuda/group.h. Parameters form buckets: the embedding,
 * each layer, the rest. A bucket is cut into equal shares, and share r of every one is rank r's.
 * In the last micro-batch of an update its gradients travel while the backward pass goes on; its
 * new weights travel while AdamW works on the next one and the next forward pass begins.
 *
 * Letters: as in train.c. Sections: 1 the trainer's memory, 2 weights in and out, 3 products,
 *   4 forward, 5 backward, 6 AdamW, 7 what the loop calls.
 * Test: tests/test_traincuda.c, .py, on a CPU against train.c. Speed: bench/traincuda_run.py. */
#include "cuda/flash.h" /* attention_forward, attention_backward */
#include "cuda/group.h" /* Group */
#include "cuda/optim.h" /* adamw_kernel; layers.h */
#include "batch.h"      /* take_batch, fill_angles; opencoder.h: TrainerBackend */

/* ------------------------------------------------------------------------------------------------
 * 1. The trainer's memory */

enum { KEEP_ALL, NO_NORMS, NO_GATE_UP, INPUTS_ONLY }; /* recompute levels */
enum { WEIGHTS, MOMENT_M, MOMENT_V };                 /* what a checkpoint holds of a parameter */
enum { LOGITS = 1 << 28 };                            /* numbers of logits at a time, at most */
enum { STAGE = 1 << 22 };       /* numbers between host and device at a time */
enum { BLAS_BYTES = 32 << 20 }; /* cuBLAS's workspace */

struct Param { /* a tensor: rows x cols numbers of its bucket, from `at` on */
    char name[64];
    int rows, cols, bucket;
    size_t at;
};

/* Parameters that travel together: n numbers from `at` on, among all; the first `decays` of them
 * are those of matrices. n is a multiple of 64 times the ranks: the last numbers may be 0. */
struct Bucket {
    size_t at, n, decays, share; /* share: n / ranks */
};

struct Places { /* of the parameters of a layer, in its bucket */
    size_t qkv, wo, gate_up, down, attn_norm, ffn_norm;
};

struct Kept {                        /* by a layer; see the levels above */
    void *normed, *mid, *normed_ffn; /* (n, C) */
    void *qkv, *attn_out;            /* (n, (H + 2 K) D), (n, H D) */
    void *gate_up, *hidden;          /* (n, 2 F): a row has gate, then up; (n, F) */
    float *lse;                      /* (B, H, T) */
};

struct Layer {
    void *x; /* (n, C) what the layer is given */
    Kept kept;
};

struct Sorted : Tokens {     /* of n tokens: on the host, and the same bytes on the device */
    int *place, *begin, *id; /* see Occurrences in layers.h */
};

struct Trainer {
    Model model; /* config; weights: a copy on the host, made by trainer_model */
    TrainOptions opt;
    Gpu gpu;
    Queue queue;
    cublasHandle_t blas;
    Group group;
    bool fresh, last, shared; /* gradients are 0; the next step is the last; shares are summed */
    int level, n_params, n_buckets, wide, chunk; /* wide: of a row of logits; chunk: their rows */
    Param *param;
    Bucket *bucket;        /* embedding, layers, the rest */
    cudaEvent_t *gathered; /* (buckets) its weights have come from all ranks */
    Places place;
    size_t head_at, norm_at; /* in the last bucket */
    size_t count, most;      /* numbers of all buckets; of the largest */

    uint8_t *weights, *grads; /* (count) of A; of float or bf16 */
    uint8_t *m, *v;           /* own shares, of float or bf16 */
    uint16_t *low;            /* own shares: lower halves of the masters */
    uint8_t *memory;          /* what follows points into it: see lay_out */
    Layer *layer;
    void *x_out, *normed_out;              /* (n, C) */
    void *branch, *dattn, *dqkv, *dhidden; /* (n, C), (n, H D), (n, (H + 2 K) D), (n, F) */
    float *dx;                             /* (n, C) */
    void *dx_rounded;                      /* the same as A */
    float *logits, *parts, *delta;         /* (chunk, wide), (blocks, C), (B, H, T) */
    float *cosine, *sine, *loss;           /* (T, D / 2) twice, (n) */
    double *norms;                         /* (buckets, NORM_BLOCKS) */
    float *stage;                          /* (STAGE) */
    void *workspace;
    Sorted batch, host; /* on the device; pinned */
    size_t batch_bytes;
    int n, n_ids;        /* tokens of the last batch; how many different ones */
    float *host_stage;   /* (STAGE), pinned */
    float *host_bucket;  /* (most) */
    float *host_grads;   /* for trainer_gradients */
    uint8_t *host_model; /* the weights of `model` */
    bool model_is_old;
};

static Group *the_group; /* of the trainer that is open, for cuda_sum */

/* Threads for n things: whole warps, at least one, at most `most`. */
static int threads_for(int n, int most) { return n < most ? (max(n, 1) + 31) / 32 * 32 : most; }
static int div_up(size_t n, int by) { return (int)((n + (size_t)by - 1) / (size_t)by); }
static size_t width(const Trainer *t) { return t->opt.bf16 ? 2 : 4; }
static size_t grad_width(const Trainer *t) { return t->opt.bf16 && t->opt.bf16_grads ? 2 : 4; }
static size_t moment_width(const Trainer *t) { return t->opt.bf16 && t->opt.bf16_moments ? 2 : 4; }
static size_t share_at(const Trainer *t, int b) { return t->bucket[b].at / (size_t)t->group.size; }

struct Piece {
    void *to; /* a pointer to a pointer */
    size_t bytes;
};

/* As in train.c: points every piece into the memory at `base`, or only counts. */
static size_t place(const Piece *piece, size_t n_pieces, uint8_t *base, size_t used) {
    for (size_t i = 0; i < n_pieces; i++) {
        void *p = base ? base + used : NULL;
        memcpy(piece[i].to, &p, sizeof p);
        used += (piece[i].bytes + 255) & ~(size_t)255;
    }
    return used;
}
#define PLACE(piece, base, used) place(piece, sizeof(piece) / sizeof *(piece), base, used)

/* What the layers keep at a level. */
static size_t lay_out_layers(Trainer *t, uint8_t *base, int level) {
    const Config *c = &t->model.config;
    size_t n = (size_t)t->opt.batch * (size_t)t->opt.seq_len, w = n * width(t), used = 0;
    size_t D = (size_t)c->head_dim, HD = (size_t)c->n_heads * D, KD = (size_t)c->n_kv_heads * D;
    size_t C = (size_t)c->dim, F = (size_t)c->hidden_dim;
    for (int i = 0; i < c->n_layers; i++) {
        Kept *k = &t->layer[i].kept, *first = &t->layer[0].kept;
        Piece x[] = { { &t->layer[i].x, w * C } };
        Piece norms[] = { { &k->normed, w * C }, { &k->normed_ffn, w * C }, { &k->hidden, w * F } };
        Piece up[] = { { &k->gate_up, w * 2 * F } };
        Piece rest[] = { { &k->qkv, w * (HD + 2 * KD) },
                         { &k->attn_out, w * HD },
                         { &k->mid, w * C },
                         { &k->lse, n * (size_t)c->n_heads * sizeof(float) } };
        if (i) *k = *first;
        used = PLACE(x, base, used);
        if (!i || level < NO_NORMS) used = PLACE(norms, base, used);
        if (!i || level < NO_GATE_UP) used = PLACE(up, base, used);
        if (!i || level < INPUTS_ONLY) used = PLACE(rest, base, used);
    }
    return used;
}

/* The arrays of a batch of n tokens, one after the other; returns their bytes. */
static size_t batch_at(Sorted *b, void *base, size_t n) {
    int *p = (int *)base;
    *b = Sorted{ { (uint32_t *)p, (uint32_t *)p + n, p + 2 * n, p + 3 * n },
                 p + 4 * n,
                 p + 5 * n,
                 p + 6 * n + 1 };
    return (7 * n + 1) * sizeof(int);
}

/* Scratch, behind the layers. */
static size_t lay_out_scratch(Trainer *t, uint8_t *base, size_t used) {
    const Config *c = &t->model.config;
    size_t T = (size_t)t->opt.seq_len, n = (size_t)t->opt.batch * T, w = n * width(t);
    size_t D = (size_t)c->head_dim, HD = (size_t)c->n_heads * D, KD = (size_t)c->n_kv_heads * D;
    size_t C = (size_t)c->dim, F = (size_t)c->hidden_dim, H = (size_t)c->n_heads;
    void *batch = NULL;
    t->batch_bytes = batch_at(&t->batch, NULL, n);
    Piece all[] = { { &t->x_out, w * C },
                    { &t->normed_out, w * C },
                    { &t->branch, w * C },
                    { &t->dattn, w * HD },
                    { &t->dqkv, w * (HD + 2 * KD) },
                    { &t->dhidden, w * F },
                    { &t->dx, n * C * 4 },
                    { &t->dx_rounded, w * C },
                    { &t->logits, (size_t)t->chunk * (size_t)t->wide * 4 },
                    { &t->parts, (size_t)div_up(n, NORM_ROWS) * C * 4 },
                    { &t->delta, n * H * 4 },
                    { &t->cosine, T * D / 2 * 4 },
                    { &t->sine, T * D / 2 * 4 },
                    { &t->loss, n * 4 },
                    { &t->norms, (size_t)t->n_buckets * NORM_BLOCKS * sizeof(double) },
                    { &t->stage, (size_t)STAGE * 4 },
                    { &t->workspace, BLAS_BYTES },
                    { &batch, t->batch_bytes } };
    used = PLACE(all, base, used);
    if (base) batch_at(&t->batch, batch, n);
    return used;
}

struct Needs {                                        /* bytes */
    size_t weights, grads, state, scratch, layers[4]; /* layers: by recompute level */
};

static Needs needs_of(Trainer *t) {
    size_t shares = t->count / (size_t)t->group.size;
    Needs n = { t->count * width(t),
                t->count * grad_width(t),
                shares * (2 * moment_width(t) + (t->opt.bf16 ? 2 : 0)),
                lay_out_scratch(t, NULL, 0),
                {} };
    for (int level = 0; level < 4; level++) n.layers[level] = lay_out_layers(t, NULL, level);
    return n;
}

static double total_gb(const Needs *n, int level) {
    return (double)(n->weights + n->grads + n->state + n->scratch + n->layers[level]) * 1e-9;
}

/* Says on stderr what is needed, and ends the program where that is more than there is. */
static void check_memory(Trainer *t) {
    size_t available, total;
    Needs n = needs_of(t);
    double all = total_gb(&n, t->level);
    CUDA(cudaMemGetInfo(&available, &total));
    if (t->group.rank == 0)
        fprintf(stderr,
                "%s, %s: weights %.3g GB, gradients %.3g, AdamW %.3g, layers %.3g (recompute "
                "level %d), logits and scratch %.3g: %.4g GB of %.4g\n",
                t->gpu.name, t->opt.bf16 ? "bf16" : "float32", (double)n.weights * 1e-9,
                (double)n.grads * 1e-9, (double)n.state * 1e-9, (double)n.layers[t->level] * 1e-9,
                t->level, (double)n.scratch * 1e-9, all, (double)total * 1e-9);
    if (all <= (double)available * 1e-9) return;
    die("GPU: %.4g GB of memory needed, %.4g of %.4g GB free; --recompute-level 1, 2, 3 would need "
        "%.4g, %.4g, %.4g; a smaller -m, --bf16, --bf16-moments, --bf16-gradients need less, too",
        all, (double)available * 1e-9, (double)total * 1e-9, total_gb(&n, 1), total_gb(&n, 2),
        total_gb(&n, 3));
}

/* ------------------------------------------------------------------------------------------------
 * 2. Weights in and out */

static void tensor_name(char name[64], const char *text, int layer) {
    snprintf(name, 64, text, layer);
}

static Param *find_param(const Trainer *t, const char *name) {
    for (int i = 0; i < t->n_params; i++)
        if (!strcmp(t->param[i].name, name)) return &t->param[i];
    die("%s: not among the parameters", name);
}

/* Gives every tensor its place: in a layer wq, wk, wv, wo, w_gate, w_up, w_down, then the norms. */
static void list_params(Trainer *t) {
    const Config *c = &t->model.config;
    int L = c->n_layers, n;
    size_t unit = 64 * (size_t)t->group.size;
    free(tensor_specs(c, &n));
    t->param = (Param *)xcalloc((size_t)n, sizeof *t->param, "list of parameters");
    t->n_buckets = L + 2;
    t->bucket = (Bucket *)xcalloc((size_t)t->n_buckets, sizeof *t->bucket, "buckets");
    for (int norms = 0; norms < 2; norms++) {
#define X(field, text, number, r, k)                                                               \
    for (int i = 0; i < (number) && !strstr(text, "norm") == !norms; i++) {                        \
        int b = strchr(text, '%') ? i + 1 : strstr(text, "token") ? 0 : L + 1;                     \
        Param *p = &t->param[t->n_params++];                                                       \
        *p = Param{ "", r, k, b, t->bucket[b].n };                                                 \
        tensor_name(p->name, text, i);                                                             \
        t->bucket[b].n += (size_t)p->rows * (size_t)p->cols;                                       \
        if (!norms) t->bucket[b].decays = t->bucket[b].n;                                          \
    }
        TENSORS(X)
#undef X
    }
    for (int b = 0; b < t->n_buckets; b++) {
        Bucket *k = &t->bucket[b];
        k->n = (k->n + unit - 1) / unit * unit;
        k->at = t->count;
        k->share = k->n / (size_t)t->group.size;
        t->count += k->n;
        if (k->n > t->most) t->most = k->n;
    }
    t->place = Places{
        find_param(t, "blk.0.attn_q.weight")->at,    find_param(t, "blk.0.attn_output.weight")->at,
        find_param(t, "blk.0.ffn_gate.weight")->at,  find_param(t, "blk.0.ffn_down.weight")->at,
        find_param(t, "blk.0.attn_norm.weight")->at, find_param(t, "blk.0.ffn_norm.weight")->at
    };
    t->norm_at = find_param(t, "output_norm.weight")->at;
    if (!c->tied) t->head_at = find_param(t, "output.weight")->at;
}

/* Number i of bucket b among weights, gradients. */
template <class A> static A *weight_at(const Trainer *t, int b, size_t i) {
    return (A *)(void *)t->weights + t->bucket[b].at + i;
}
static Grads grad_at(const Trainer *t, int b, size_t i) {
    size_t w = grad_width(t);
    return Grads{ t->grads + (t->bucket[b].at + i) * w, w == 2 };
}

/* The lower halves that go with number i of share r of bucket b; NULL: another rank has them. */
static uint16_t *low_at(const Trainer *t, int b, int r, size_t i) {
    return r == t->group.rank && t->low ? t->low + share_at(t, b) + i : NULL;
}

/* Puts n numbers of `stage` at number i of share r of bucket b. */
static void put_stage(Trainer *t, int what, int b, int r, size_t i, size_t n) {
    dim3 blocks((unsigned)div_up(n, 256));
    size_t at = (size_t)r * t->bucket[b].share + i, mine = share_at(t, b) + i;
    uint8_t *moment = (what == MOMENT_M ? t->m : t->v) + mine * moment_width(t);
    if (what == WEIGHTS && t->opt.bf16)
        launch(&t->queue, "set_masters", set_masters_kernel<bf16>, blocks, 256, 0,
               weight_at<bf16>(t, b, at), low_at(t, b, r, i), t->stage, n);
    else if (what == WEIGHTS)
        launch(&t->queue, "set_masters", set_masters_kernel<float>, blocks, 256, 0,
               weight_at<float>(t, b, at), (uint16_t *)NULL, t->stage, n);
    else if (moment_width(t) == 2)
        launch(&t->queue, "convert", convert_kernel<bf16, float>, blocks, 256, 0,
               (bf16 *)(void *)moment, t->stage, n);
    else
        launch(&t->queue, "convert", convert_kernel<float, float>, blocks, 256, 0,
               (float *)(void *)moment, t->stage, n);
}

/* The other way around: from this rank's share to its place in `to`. */
static void get_stage(Trainer *t, float *to, int what, int b, size_t i, size_t n) {
    dim3 blocks((unsigned)div_up(n, 256));
    size_t at = (size_t)t->group.rank * t->bucket[b].share + i, mine = share_at(t, b) + i;
    uint8_t *moment = (what == MOMENT_M ? t->m : t->v) + mine * moment_width(t);
    if (what == WEIGHTS && t->opt.bf16)
        launch(&t->queue, "get_masters", get_masters_kernel<bf16>, blocks, 256, 0, to,
               weight_at<bf16>(t, b, at), t->low + mine, n);
    else if (what == WEIGHTS)
        launch(&t->queue, "convert", convert_kernel<float, float>, blocks, 256, 0, to,
               weight_at<float>(t, b, at), n);
    else if (moment_width(t) == 2)
        launch(&t->queue, "convert", convert_kernel<float, bf16>, blocks, 256, 0, to,
               (bf16 *)(void *)moment, n);
    else
        launch(&t->queue, "convert", convert_kernel<float, float>, blocks, 256, 0, to,
               (float *)(void *)moment, n);
}

/* host_bucket to the device: weights whole, of moments this rank's share. */
static void upload_bucket(Trainer *t, int what, int b) {
    size_t share = t->bucket[b].share;
    for (int r = 0; r < t->group.size; r++)
        for (size_t i = 0, n; i < share && (what == WEIGHTS || r == t->group.rank); i += n) {
            n = share - i < STAGE ? share - i : (size_t)STAGE;
            memcpy(t->host_stage, t->host_bucket + (size_t)r * share + i, n * 4);
            CUDA(cudaMemcpyAsync(t->stage, t->host_stage, n * 4, cudaMemcpyHostToDevice,
                                 t->queue.stream));
            put_stage(t, what, b, r, i, n);
            CUDA(cudaStreamSynchronize(t->queue.stream));
        }
}

/* The device's bucket, gathered from all ranks, to host_bucket. */
static void download_bucket(Trainer *t, int what, int b) {
    size_t share = t->bucket[b].share, size = (size_t)t->group.size, most = STAGE / size, n;
    for (size_t i = 0; i < share; i += n) {
        n = share - i < most ? share - i : most;
        get_stage(t, t->stage + (size_t)t->group.rank * n, what, b, i, n);
        if (size > 1) {
            group_after(&t->group, t->queue.stream);
            group_gather(&t->group, t->stage, n * 4);
            group_before(&t->group, t->queue.stream);
        }
        CUDA(cudaMemcpyAsync(t->host_stage, t->stage, size * n * 4, cudaMemcpyDeviceToHost,
                             t->queue.stream));
        CUDA(cudaStreamSynchronize(t->queue.stream));
        for (size_t r = 0; r < size; r++)
            memcpy(t->host_bucket + r * share + i, t->host_stage + r * n, n * 4);
    }
}

/* Values of a tensor to its place in host_bucket; death if the shape is not the parameter's. */
static void fill_param(Trainer *t, const Param *p, const Tensor *from) {
    size_t cols = (size_t)p->cols, bytes = row_bytes(from->type, cols);
    if (from->rows != p->rows || from->cols != p->cols)
        die("tensor %s: %d x %d, expected %d x %d", p->name, from->rows, from->cols, p->rows,
            p->cols);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < p->rows; r++)
        dequantize(t->host_bucket + p->at + (size_t)r * cols, from->data + (size_t)r * bytes,
                   from->type, 0, cols);
}

/* Weights of `init`, which need not be in a file. */
static void load_weights(Trainer *t, const Model *init) {
    const Weights *w = &init->weights;
    const Config *c = &t->model.config;
    for (int b = 0; b < t->n_buckets; b++) {
        memset(t->host_bucket, 0, t->bucket[b].n * 4);
#define X(field, text, number, r, k)                                                               \
    for (int i = 0; i < (number); i++) {                                                           \
        char name[64];                                                                             \
        tensor_name(name, text, i);                                                                \
        const Param *p = find_param(t, name);                                                      \
        if (p->bucket == b) fill_param(t, p, &w->field[i]);                                        \
    }
        TENSORS(X)
#undef X
        upload_bucket(t, WEIGHTS, b);
    }
}

/* AdamW's state from a checkpoint; all of it is 0 unless it is there whole. */
static void load_moments(Trainer *t, const Gguf *g) {
    static const char *const prefix[] = { "", "opt.m.", "opt.v." };
    for (int i = 0; i < 2 * t->n_params; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s%s", prefix[1 + i % 2], t->param[i / 2].name);
        if (!gguf_tensor(g, name)) return;
    }
    for (int what = MOMENT_M; what <= MOMENT_V; what++)
        for (int b = 0; b < t->n_buckets; b++) {
            memset(t->host_bucket, 0, t->bucket[b].n * 4);
            for (int i = 0; i < t->n_params; i++) {
                char name[80];
                snprintf(name, sizeof name, "%s%s", prefix[what], t->param[i].name);
                if (t->param[i].bucket == b) fill_param(t, &t->param[i], gguf_tensor(g, name));
            }
            upload_bucket(t, what, b);
        }
}

/* Copies n numbers of float or bf16 from device to host, as float32. */
static void download(Trainer *t, float *to, const uint8_t *from, size_t w, size_t n) {
    for (size_t i = 0, k; i < n; i += k) {
        k = n - i < STAGE ? n - i : (size_t)STAGE;
        dim3 blocks((unsigned)div_up(k, 256));
        if (w == 2)
            launch(&t->queue, "convert", convert_kernel<float, bf16>, blocks, 256, 0, t->stage,
                   (const bf16 *)(const void *)from + i, k);
        else
            launch(&t->queue, "convert", convert_kernel<float, float>, blocks, 256, 0, t->stage,
                   (const float *)(const void *)from + i, k);
        CUDA(cudaMemcpyAsync(t->host_stage, t->stage, k * 4, cudaMemcpyDeviceToHost,
                             t->queue.stream));
        CUDA(cudaStreamSynchronize(t->queue.stream));
        memcpy(to + i, t->host_stage, k * 4);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Products. cuBLAS counts column after column, so that our rows are its columns. */

static cudaDataType_t blas_type(size_t w) { return w == 2 ? CUDA_R_16BF : CUDA_R_32F; }

/* c (n, m) = or += b a^T, sums of k products: a is (m, k) or, without a_rows, (k, m); b is (n, k)
 * or, without b_rows, (k, n); rows are lda, ldb, ldc numbers apart.
 *
 * CUBLAS_GEMM_DEFAULT takes what the heuristics of cublasLt say, so there is nothing to win by
 * calling that ourselves but a search by the clock, whose choice, and with it the bits, would be
 * another one from start to start; and none of its epilogues is an op of ours. */
static void multiply(Trainer *t, void *c, size_t c_width, int ldc, const void *a, bool a_rows,
                     int lda, const void *b, bool b_rows, int ldb, int m, int n, int k, bool add) {
    const float one = 1, beta = add ? 1 : 0;
    cudaDataType_t type = blas_type(width(t));
    CUBLAS(cublasGemmEx(t->blas, a_rows ? CUBLAS_OP_T : CUBLAS_OP_N,
                        b_rows ? CUBLAS_OP_N : CUBLAS_OP_T, m, n, k, &one, a, type, lda, b, type,
                        ldb, &beta, c, blas_type(c_width), ldc, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT));
}

/* y (n, out) = x (n, in) W^T */
static void linear_forward(Trainer *t, void *y, const void *x, const void *w, int n, int in,
                           int out) {
    multiply(t, y, width(t), out, w, true, in, x, true, in, out, n, in, false);
}
/* dx (n, in) = dy (n, out) W */
static void linear_backward_x(Trainer *t, void *dx, const void *dy, const void *w, int n, int in,
                              int out) {
    multiply(t, dx, width(t), in, w, false, in, dy, true, out, in, n, out, false);
}
/* dW (out, in) = or += dy^T (out, n) x (n, in) */
static void linear_backward_w(Trainer *t, Grads dw, const void *dy, const void *x, int n, int in,
                              int out) {
    multiply(t, dw.p, dw.narrow ? 2 : 4, in, x, false, in, dy, false, out, in, out, n, !t->fresh);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Forward */

template <class A>
static void norm_forward(Trainer *t, void *y, void *mid, const void *x, const void *branch,
                         const A *w, int n) {
    launch(&t->queue, "norm_forward", norm_forward_kernel<A>, dim3((unsigned)div_up((size_t)n, 8)),
           256, 0, (A *)y, (A *)mid, (const A *)x, (const A *)branch, w, n, t->model.config.dim,
           t->model.config.norm_eps);
}

template <class A> static void rope(Trainer *t, void *qkv, int n, float sign) {
    const Config *c = &t->model.config;
    int heads = c->n_heads + c->n_kv_heads;
    size_t row = (size_t)(heads + c->n_kv_heads) * (size_t)c->head_dim;
    launch(&t->queue, "rope", rope_kernel<A>, dim3((unsigned)n),
           threads_for(heads * c->head_dim / 2, 256), 0, (A *)qkv, t->cosine, t->sine, t->batch.pos,
           heads, c->head_dim, row, sign);
}

template <class A> static Heads<A> heads_of(const Trainer *t, const Kept *k, int T) {
    const Config *c = &t->model.config;
    return Heads<A>{
        (const A *)k->qkv, (A *)k->attn_out, k->lse,         (const A *)t->dattn,
        t->delta,          (A *)t->dqkv,     t->batch.first, T,
        c->n_heads,        c->n_kv_heads,    c->head_dim,    1 / sqrtf((float)c->head_dim)
    };
}

template <class A> static dim3 units(int n, int width) {
    return dim3((unsigned)div_up((size_t)n * (size_t)width, 8 * 256));
}

/* One layer from x, up to and with `branch`, which the next norm adds to mid. With `again` x is
 * there, and the last two steps are not wanted. */
template <class A> static void layer_forward(Trainer *t, int i, int B, int T, bool again) {
    const Config *c = &t->model.config;
    Layer *l = &t->layer[i];
    Kept *k = &l->kept;
    const A *w = weight_at<A>(t, i + 1, 0);
    const Places *p = &t->place;
    int n = B * T, C = c->dim, F = c->hidden_dim, HD = c->n_heads * c->head_dim;
    int row = HD + 2 * c->n_kv_heads * c->head_dim;
    bool sum = i && !again; /* x = mid + branch of the layer before */
    /* 1 */ norm_forward<A>(t, k->normed, l->x, sum ? l[-1].kept.mid : l->x, sum ? t->branch : NULL,
                            w + p->attn_norm, n);
    /* 2 */ linear_forward(t, k->qkv, k->normed, w + p->qkv, n, C, row);
    /* 3 */ rope<A>(t, k->qkv, n, 1);
    Heads<A> heads = heads_of<A>(t, k, T);
    /* 4 */ attention_forward(&t->queue, &heads, B);
    /* 5 */ linear_forward(t, t->branch, k->attn_out, w + p->wo, n, HD, C);
    /* 6 */ norm_forward<A>(t, k->normed_ffn, k->mid, l->x, t->branch, w + p->ffn_norm, n);
    /* 7 */ linear_forward(t, k->gate_up, k->normed_ffn, w + p->gate_up, n, C, 2 * F);
    if (again) return;
    /* 8 */ launch(&t->queue, "swiglu_forward", swiglu_forward_kernel<A>, units<A>(n, F), 256, 0,
                   (A *)k->hidden, (const A *)k->gate_up, (size_t)n, (size_t)F);
    /* 9 */ linear_forward(t, t->branch, k->hidden, w + p->down, n, F, C);
}

/* Where the occurrences of each id are: a counting sort, as the ids are small. */
static int sort_tokens(Trainer *t, int n) {
    Sorted *h = &t->host;
    size_t V = (size_t)t->model.config.vocab_size;
    int *at = (int *)xcalloc(V + 1, sizeof *at, "tokens of a batch"), ids = 0;
    for (int i = 0; i < n; i++) at[h->token[i] + 1]++;
    for (size_t v = 0; v < V; v++) {
        if (at[v + 1]) h->id[ids] = (int)v, h->begin[ids++] = at[v];
        at[v + 1] += at[v];
    }
    h->begin[ids] = n;
    for (int i = 0; i < n; i++) h->place[at[h->token[i]]++] = i;
    free(at);
    return ids;
}

/* The batch of the next forward pass, on the device. */
static void upload_batch(Trainer *t, const uint32_t *tokens, int B, int T) {
    take_batch(&t->host, tokens, B, T, &t->opt, t->model.config.vocab_size);
    t->n = B * T;
    t->n_ids = sort_tokens(t, t->n);
    CUDA(cudaMemcpyAsync(t->batch.token, t->host.token, t->batch_bytes, cudaMemcpyHostToDevice,
                         t->queue.stream));
}

/* What is launched from now on may read the weights of bucket b. */
static void await_weights(Trainer *t, int b) {
    if (t->group.size > 1) CUDA(cudaStreamWaitEvent(t->queue.stream, t->gathered[b], 0));
}

template <class A> static void forward(Trainer *t, const uint32_t *tokens, int B, int T) {
    const Config *c = &t->model.config;
    int n = B * T, L = c->n_layers;
    upload_batch(t, tokens, B, T);
    await_weights(t, 0);
    launch(&t->queue, "embedding_forward", embedding_forward_kernel<A>, dim3((unsigned)n),
           threads_for(c->dim / 8, 128), 0, (A *)t->layer[0].x, (const A *)weight_at<A>(t, 0, 0),
           t->batch.token, c->dim);
    for (int i = 0; i < L; i++) {
        await_weights(t, i + 1);
        layer_forward<A>(t, i, B, T, false);
    }
    await_weights(t, L + 1);
    norm_forward<A>(t, t->normed_out, t->x_out, t->layer[L - 1].kept.mid, t->branch,
                    weight_at<A>(t, L + 1, t->norm_at), n);
}

/* train.c: head_loss. The loss of each token; with `train` also branch = dnormed, and dW. */
template <class A> static void head_loss(Trainer *t, int n, bool train, float scale) {
    const Config *c = &t->model.config;
    int C = c->dim, V = c->vocab_size, b = c->tied ? 0 : c->n_layers + 1, rows;
    size_t at = c->tied ? 0 : t->head_at;
    const A *w = weight_at<A>(t, b, at);
    Grads dw = grad_at(t, b, at);
    int row = t->wide * (int)(4 / width(t)); /* of the logits' gradients, in numbers of A */
    for (int i = 0; i < n; i += rows) {
        rows = n - i < t->chunk ? n - i : t->chunk;
        const A *x = (const A *)t->normed_out + (size_t)i * (size_t)C;
        A *dx = (A *)t->branch + (size_t)i * (size_t)C;
        multiply(t, t->logits, 4, t->wide, w, true, C, x, true, C, V, rows, C, false);
        launch(&t->queue, "cross_entropy", cross_entropy_kernel<A>, dim3((unsigned)rows),
               threads_for(V / 16, CE_THREADS), 0, t->logits, t->loss + i, t->batch.target + i, V,
               t->wide, scale, train);
        if (!train) continue;
        multiply(t, dx, width(t), C, w, false, C, t->logits, true, row, C, rows, V, false);
        multiply(t, dw.p, dw.narrow ? 2 : 4, C, x, false, C, t->logits, false, row, C, V, rows,
                 !t->fresh || i);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 5. Backward: the numbers are those of layer_forward, from the last to the first */

/* dx += the gradient through a norm, branch = dy; dw at number `at` of bucket b. */
template <class A> static void norm_backward(Trainer *t, const void *x, int b, size_t at, int n) {
    int C = t->model.config.dim, blocks = div_up((size_t)n, NORM_ROWS);
    launch(&t->queue, "norm_backward", norm_backward_kernel<A>, dim3((unsigned)blocks),
           threads_for(C / 8, 512), (size_t)C * 4, t->dx, (A *)t->dx_rounded, t->parts,
           (const A *)t->branch, (const A *)x, (const A *)weight_at<A>(t, b, at), n, C,
           t->model.config.norm_eps);
    launch(&t->queue, "column_sum", column_sum_kernel, dim3((unsigned)div_up((size_t)C, 128)), 128,
           0, grad_at(t, b, at), t->parts, blocks, C, !t->fresh);
}

template <class A> static void layer_backward(Trainer *t, int i, int B, int T) {
    const Config *c = &t->model.config;
    Layer *l = &t->layer[i];
    Kept *k = &l->kept;
    const A *w = weight_at<A>(t, i + 1, 0);
    const Places *p = &t->place;
    int n = B * T, C = c->dim, F = c->hidden_dim, HD = c->n_heads * c->head_dim, b = i + 1;
    int row = HD + 2 * c->n_kv_heads * c->head_dim;
    Heads<A> heads = heads_of<A>(t, k, T);
    /* 6 */ if (t->level >= NO_NORMS)
        norm_forward<A>(t, k->normed_ffn, NULL, k->mid, NULL, w + p->ffn_norm, n);
    /* 7 */ if (t->level == NO_GATE_UP)
        linear_forward(t, k->gate_up, k->normed_ffn, w + p->gate_up, n, C, 2 * F);
    /* 9 */ linear_backward_x(t, t->dhidden, t->dx_rounded, w + p->down, n, F, C);
    /* 8 */ launch(&t->queue, "swiglu_backward", swiglu_backward_kernel<A>, units<A>(n, F), 256, 0,
                   (A *)k->gate_up, (A *)t->dhidden, (size_t)n, (size_t)F);
    /* 9 */ linear_backward_w(t, grad_at(t, b, p->down), t->dx_rounded, t->dhidden, n, F, C);
    /* 7 */ linear_backward_w(t, grad_at(t, b, p->gate_up), k->gate_up, k->normed_ffn, n, C, 2 * F);
    /*   */ linear_backward_x(t, t->branch, k->gate_up, w + p->gate_up, n, C, 2 * F);
    /* 6 */ norm_backward<A>(t, k->mid, b, p->ffn_norm, n);
    /* 5 */ linear_backward_w(t, grad_at(t, b, p->wo), t->dx_rounded, k->attn_out, n, HD, C);
    /*   */ linear_backward_x(t, t->dattn, t->dx_rounded, w + p->wo, n, HD, C);
    /* 4 */ attention_backward(&t->queue, &heads, B);
    /* 3 */ rope<A>(t, t->dqkv, n, -1);
    /* 1 */ if (t->level >= NO_NORMS)
        norm_forward<A>(t, k->normed, NULL, l->x, NULL, w + p->attn_norm, n);
    /* 2 */ linear_backward_w(t, grad_at(t, b, p->qkv), t->dqkv, k->normed, n, C, row);
    /*   */ linear_backward_x(t, t->branch, t->dqkv, w + p->qkv, n, C, row);
    /* 1 */ norm_backward<A>(t, l->x, b, p->attn_norm, n);
}

/* Several ranks: the sums of bucket b are on their way, from here on. */
static void share_bucket(Trainer *t, int b) {
    if (t->group.size == 1) return;
    group_after(&t->group, t->queue.stream);
    group_scatter(&t->group, grad_at(t, b, 0).p, grad_width(t) == 2, t->bucket[b].share);
}

/* From branch, the gradient of the head's input, down to the embedding. */
template <class A> static void backward(Trainer *t, int B, int T) {
    const Config *c = &t->model.config;
    int n = B * T, L = c->n_layers;
    CUDA(cudaMemsetAsync(t->dx, 0, (size_t)n * (size_t)c->dim * 4, t->queue.stream));
    norm_backward<A>(t, t->x_out, L + 1, t->norm_at, n);
    if (t->last) share_bucket(t, L + 1);
    for (int i = L - 1; i >= 0; i--) {
        if (t->level == INPUTS_ONLY && i + 1 < L) layer_forward<A>(t, i, B, T, true);
        layer_backward<A>(t, i, B, T);
        if (t->last) share_bucket(t, i + 1);
    }
    Grads dw = grad_at(t, 0, 0);
    if (t->fresh && !c->tied)
        CUDA(cudaMemsetAsync(dw.p, 0, t->bucket[0].n * grad_width(t), t->queue.stream));
    launch(&t->queue, "embedding_backward", embedding_backward_kernel, dim3((unsigned)t->n_ids),
           threads_for(c->dim / 8, 128), 0, dw, t->dx,
           Occurrences{ t->batch.place, t->batch.begin, t->batch.id }, c->dim);
    if (t->last) share_bucket(t, 0);
    t->shared = t->last;
    t->fresh = t->last = false;
}

/* Sum of the losses of n tokens, when they are there. */
static double sum_losses(Trainer *t, int n) {
    double sum = 0;
    CUDA(cudaMemcpyAsync(t->host_stage, t->loss, (size_t)n * 4, cudaMemcpyDeviceToHost,
                         t->queue.stream));
    CUDA(cudaStreamSynchronize(t->queue.stream));
    for (int i = 0; i < n; i++) sum += (double)t->host_stage[i];
    return sum;
}

template <class A>
static double step_of(Trainer *t, const uint32_t *tokens, int B, int T, bool train, float scale) {
    forward<A>(t, tokens, B, T);
    head_loss<A>(t, B * T, train, scale);
    if (train) backward<A>(t, B, T);
    return sum_losses(t, B * T) * (double)scale;
}

static double trainer_step(Trainer *t, const uint32_t *tokens, int B, int T, float scale) {
    return t->opt.bf16 ? step_of<bf16>(t, tokens, B, T, true, scale)
                       : step_of<float>(t, tokens, B, T, true, scale);
}
static double trainer_loss(Trainer *t, const uint32_t *tokens, int B, int T) {
    return t->opt.bf16 ? step_of<bf16>(t, tokens, B, T, false, 1)
                       : step_of<float>(t, tokens, B, T, false, 1);
}

/* ------------------------------------------------------------------------------------------------
 * 6. AdamW */

static void trainer_zero(Trainer *t) {
    t->fresh = true;
    t->last = t->shared = false;
}

static void trainer_ready(Trainer *t) { t->last = t->group.size > 1; }

/* All gradients are numbers, and with several ranks own shares are sums over all of them. */
static void settle(Trainer *t) {
    if (t->fresh) CUDA(cudaMemsetAsync(t->grads, 0, t->count * grad_width(t), t->queue.stream));
    t->fresh = false;
    for (int b = t->n_buckets - 1; b >= 0 && !t->shared; b--) share_bucket(t, b);
    t->shared = true;
    if (t->group.size > 1) group_before(&t->group, t->queue.stream);
}

/* The sum of squares of n numbers of w bytes, block by block, to part. */
static void squares(Trainer *t, double *part, const uint8_t *x, size_t w, size_t n) {
    int blocks = n < NORM_BLOCKS * 4096 ? div_up(n, 4096) : NORM_BLOCKS;
    CUDA(cudaMemsetAsync(part, 0, NORM_BLOCKS * sizeof *part, t->queue.stream));
    if (w == 2)
        launch(&t->queue, "squares", squares_kernel<bf16>, dim3((unsigned)blocks), 256, 0, part,
               (const bf16 *)(const void *)x, n);
    else
        launch(&t->queue, "squares", squares_kernel<float>, dim3((unsigned)blocks), 256, 0, part,
               (const float *)(const void *)x, n);
}

static double sum_norms(Trainer *t, int n) {
    double *part = (double *)(void *)t->host_stage, sum = 0;
    size_t all = (size_t)n * NORM_BLOCKS;
    CUDA(cudaMemcpyAsync(part, t->norms, all * sizeof *part, cudaMemcpyDeviceToHost,
                         t->queue.stream));
    CUDA(cudaStreamSynchronize(t->queue.stream));
    for (size_t i = 0; i < all; i++) sum += part[i];
    return sum;
}

static bool is_finite(Trainer *t, const uint8_t *x, size_t w, size_t n) {
    squares(t, t->norms, x, w, n);
    return isfinite(sum_norms(t, 1));
}

/* train.c: find_bad */
static void find_bad(Trainer *t, char bad[64]) {
    size_t n = (size_t)t->n * (size_t)t->model.config.dim;
    for (int i = 0; i < t->n_params && !*bad; i++) {
        const Param *p = &t->param[i];
        const uint8_t *w = t->weights + (t->bucket[p->bucket].at + p->at) * width(t);
        if (!is_finite(t, w, width(t), (size_t)p->rows * (size_t)p->cols))
            snprintf(bad, 64, "%s", p->name);
    }
    for (int i = 0; i < t->model.config.n_layers && !*bad; i++)
        if (!is_finite(t, (const uint8_t *)t->layer[i].x, width(t), n))
            snprintf(bad, 64, "the input of blk.%d", i);
    for (int i = t->n_params - 1; i >= 0 && !*bad; i--) {
        const Param *p = &t->param[i];
        if (!is_finite(t, (const uint8_t *)grad_at(t, p->bucket, p->at).p, grad_width(t),
                       (size_t)p->rows * (size_t)p->cols))
            snprintf(bad, 64, "%s", p->name);
    }
}

extern "C" void cuda_sum(double *x, int n) {
    Group *g = the_group;
    double *on_device = NULL;
    CUDA(cudaMalloc(&on_device, (size_t)n * sizeof *x));
    CUDA(cudaMemcpyAsync(on_device, x, (size_t)n * sizeof *x, cudaMemcpyHostToDevice, g->stream));
    group_sum(g, on_device, (size_t)n);
    CUDA(cudaMemcpyAsync(x, on_device, (size_t)n * sizeof *x, cudaMemcpyDeviceToHost, g->stream));
    CUDA(cudaStreamSynchronize(g->stream));
    CUDA(cudaFree(on_device));
}

static double trainer_grad_norm(Trainer *t, char bad[64]) {
    *bad = 0;
    settle(t);
    for (int b = 0; b < t->n_buckets; b++)
        squares(t, t->norms + (size_t)b * NORM_BLOCKS,
                (const uint8_t *)grad_at(t, b, (size_t)t->group.rank * t->bucket[b].share).p,
                grad_width(t), t->bucket[b].share);
    double total = sum_norms(t, t->n_buckets);
    if (t->group.size > 1) cuda_sum(&total, 1);
    if (!isfinite(total)) find_bad(t, bad);
    return sqrt(total);
}

template <class W, class G, class M> static void update_bucket(Trainer *t, int b, const AdamW *o) {
    const Bucket *k = &t->bucket[b];
    size_t first = (size_t)t->group.rank * k->share, mine = share_at(t, b);
    size_t decays = k->decays < first ? 0 : k->decays - first;
    W *w = weight_at<W>(t, b, first);
    launch(&t->queue, "adamw", adamw_kernel<W, G, M>, dim3((unsigned)div_up(k->share, 8 * 256)),
           256, 0, w, t->low ? t->low + mine : (uint16_t *)(void *)w,
           (const G *)grad_at(t, b, first).p, (M *)(void *)t->m + mine, (M *)(void *)t->v + mine,
           k->share, decays, ((uint64_t)b << 40) + first, *o);
}

static void trainer_update(Trainer *t, int64_t step, float lr, float factor) {
    const TrainOptions *o = &t->opt;
    AdamW a = { o->beta1,
                o->beta2,
                o->eps,
                factor,
                lr / (float)(1 - pow((double)o->beta1, (double)step)),
                (float)sqrt(1 - pow((double)o->beta2, (double)step)),
                1 - lr * o->weight_decay,
                (uint32_t)step };
    settle(t);
    for (int b = 0; b < t->n_buckets; b++) {
        bool g2 = grad_width(t) == 2, m2 = moment_width(t) == 2;
        if (!o->bf16) update_bucket<float, float, float>(t, b, &a);
        if (o->bf16 && !g2 && !m2) update_bucket<bf16, float, float>(t, b, &a);
        if (o->bf16 && !g2 && m2) update_bucket<bf16, float, bf16>(t, b, &a);
        if (o->bf16 && g2 && !m2) update_bucket<bf16, bf16, float>(t, b, &a);
        if (o->bf16 && g2 && m2) update_bucket<bf16, bf16, bf16>(t, b, &a);
        if (t->group.size == 1) continue;
        group_after(&t->group, t->queue.stream);
        group_gather(&t->group, t->weights + t->bucket[b].at * width(t),
                     t->bucket[b].share * width(t));
        CUDA(cudaEventRecord(t->gathered[b], t->group.stream));
    }
    t->model_is_old = true;
    trainer_zero(t);
}

/* ------------------------------------------------------------------------------------------------
 * 7. What the loop calls */

/* Rows of logits at a time, a multiple of 128 where that makes a difference. */
static int chunk_rows(const Trainer *t) {
    size_t n = (size_t)t->opt.batch * (size_t)t->opt.seq_len, rows = LOGITS / (size_t)t->wide;
    if (rows > 128) rows -= rows % 128;
    return (int)(rows < n ? rows : n);
}

/* What this trainer cannot do. */
static void check_shape(const Trainer *t) {
    const Config *c = &t->model.config;
    if (t->opt.lora_rank) die_usage("--lora: expected ./train; on the GPU all weights are trained");
    if (c->dim % 8 || c->hidden_dim % 8 || c->n_heads * c->head_dim % 8 ||
        c->n_kv_heads * c->head_dim % 8)
        die("%s: widths %d, %d, %d x %d, %d x %d, expected multiples of 8; ./train takes any",
            t->model.path, c->dim, c->hidden_dim, c->n_heads, c->head_dim, c->n_kv_heads,
            c->head_dim);
    if (c->head_dim > PLAIN_D || (size_t)c->dim * 4 > t->gpu.max_shared)
        die("%s: a head of %d and a width of %d, expected at most %d and %zu", t->model.path,
            c->head_dim, c->dim, (int)PLAIN_D, t->gpu.max_shared / 4);
}

static void upload_angles(Trainer *t) {
    size_t n = (size_t)t->opt.seq_len * (size_t)(t->model.config.head_dim / 2);
    float *cosine = (float *)xcalloc(n, 2 * sizeof *cosine, "rope"), *sine = cosine + n;
    fill_angles(cosine, sine, t->opt.seq_len, &t->model.config);
    CUDA(cudaMemcpyAsync(t->cosine, cosine, n * 4, cudaMemcpyHostToDevice, t->queue.stream));
    CUDA(cudaMemcpyAsync(t->sine, sine, n * 4, cudaMemcpyHostToDevice, t->queue.stream));
    CUDA(cudaStreamSynchronize(t->queue.stream));
    free(cosine);
}

/* `bytes` of device memory, all 0. */
template <class P> static void allocate(Trainer *t, P **p, size_t bytes) {
    CUDA(cudaMalloc(p, bytes));
    CUDA(cudaMemsetAsync(*p, 0, bytes, t->queue.stream));
}

static void allocate_all(Trainer *t) {
    size_t n = (size_t)t->opt.batch * (size_t)t->opt.seq_len;
    size_t shares = t->count / (size_t)t->group.size;
    check_memory(t);
    allocate(t, &t->weights, t->count * width(t));
    allocate(t, &t->grads, t->count * grad_width(t));
    allocate(t, &t->m, shares * moment_width(t));
    allocate(t, &t->v, shares * moment_width(t));
    if (t->opt.bf16) allocate(t, &t->low, shares * 2);
    size_t layers = lay_out_layers(t, NULL, t->level);
    CUDA(cudaMalloc(&t->memory, lay_out_scratch(t, NULL, layers)));
    lay_out_layers(t, t->memory, t->level);
    lay_out_scratch(t, t->memory, layers);
    void *host;
    CUDA(cudaMallocHost(&host, t->batch_bytes));
    memset(host, 0, t->batch_bytes);
    batch_at(&t->host, host, n);
    CUDA(cudaMallocHost(&t->host_stage, (n > STAGE ? n : (size_t)STAGE) * 4));
    t->host_bucket = (float *)xcalloc(t->most, 4, "a bucket of parameters");
}

static void open_group(Trainer *t) {
    group_open(&t->group, t->group.rank, t->group.size, t->opt.share);
    the_group = &t->group;
    if (t->group.size == 1) return;
    t->gathered = (cudaEvent_t *)xcalloc((size_t)t->n_buckets, sizeof *t->gathered, "events");
    for (int b = 0; b < t->n_buckets; b++)
        CUDA(cudaEventCreateWithFlags(&t->gathered[b], cudaEventDisableTiming));
}

/* A trainer that knows all its sizes, and has nothing yet. */
static Trainer *trainer_new(const Config *c, const TrainOptions *o) {
    Trainer *t = (Trainer *)xcalloc(1, sizeof *t, "trainer");
    t->model.config = *c;
    t->opt = *o;
    t->level = o->recompute;
    t->group.rank = o->rank;
    t->group.size = o->n_ranks ? o->n_ranks : 1;
    t->layer = (Layer *)xcalloc((size_t)c->n_layers, sizeof *t->layer, "layers");
    list_params(t);
    t->wide = (c->vocab_size + 7) / 8 * 8;
    t->chunk = chunk_rows(t);
    return t;
}

static void free_lists(Trainer *t) {
    void *list[] = { t->param, t->bucket, t->layer, t->gathered };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) free(list[i]);
    free(t);
}

static void trainer_plan(const Config *c, const TrainOptions *o) {
    Trainer *t = trainer_new(c, o);
    t->model.path = "this model";
    t->gpu.max_shared = SIZE_MAX;
    check_shape(t);
    Needs n = needs_of(t);
    printf("%.4g parameters, %d x %d tokens at a time, %s, on each of %d GPU%s:\n"
           "weights              %8.4g GB\n"
           "gradients            %8.4g\n"
           "AdamW                %8.4g\n"
           "logits and scratch   %8.4g\n",
           (double)t->count, o->batch, o->seq_len, o->bf16 ? "bf16" : "float32", t->group.size,
           t->group.size > 1 ? "s" : "", (double)n.weights * 1e-9, (double)n.grads * 1e-9,
           (double)n.state * 1e-9, (double)n.scratch * 1e-9);
    for (int level = 0; level < 4; level++)
        printf("--recompute-level %d: %8.4g    in all %.4g\n", level,
               (double)n.layers[level] * 1e-9, total_gb(&n, level));
    printf("CUDA%s take%s about 1 GB more.\n", t->group.size > 1 ? " and NCCL" : "",
           t->group.size > 1 ? "" : "s");
    free_lists(t);
}

static Trainer *trainer_open(const Model *init, const Gguf *, const TrainOptions *o) {
    Trainer *t = trainer_new(&init->config, o);
    t->model = *init;
    gpu_open(&t->gpu, o->device);
    check_shape(t);
    CUDA(cudaStreamCreateWithFlags(&t->queue.stream, cudaStreamNonBlocking));
    open_group(t);
    allocate_all(t);
    CUBLAS(cublasCreate(&t->blas));
    CUBLAS(cublasSetStream(t->blas, t->queue.stream));
    CUBLAS(cublasSetWorkspace(t->blas, t->workspace, BLAS_BYTES));
    CUBLAS(cublasSetMathMode(t->blas,
                             (cublasMath_t)(CUBLAS_DEFAULT_MATH |
                                            CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
    upload_angles(t);
    load_weights(t, init);
    load_moments(t, &init->gguf);
    memset(&t->model.weights, 0, sizeof t->model.weights);
    t->model_is_old = true;
    trainer_zero(t);
    return t;
}

static void trainer_close(Trainer *t) {
    CUDA(cudaStreamSynchronize(t->queue.stream));
    CUBLAS(cublasDestroy(t->blas));
    for (int b = 0; b < t->n_buckets && t->gathered; b++) CUDA(cudaEventDestroy(t->gathered[b]));
    group_close(&t->group);
    void *device[] = { t->weights, t->grads, t->m, t->v, t->low, t->memory };
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) CUDA(cudaFree(device[i]));
    CUDA(cudaFreeHost(t->host.token));
    CUDA(cudaFreeHost(t->host_stage));
    CUDA(cudaStreamDestroy(t->queue.stream));
    void *host[] = { t->host_bucket, t->host_grads, t->host_model };
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    weights_free(&t->model.weights);
    free_lists(t);
}

/* One rank: all gradients, in the order of tensor_specs. Several: they are added up over ranks,
 * each has the sums of its share, and there is nothing for the caller to add. */
static float *trainer_gradients(Trainer *t, size_t *n) {
    int n_specs;
    settle(t);
    *n = 0;
    if (t->group.size > 1) return NULL;
    TensorSpec *spec = tensor_specs(&t->model.config, &n_specs);
    if (!t->host_grads) t->host_grads = (float *)xcalloc(t->count, 4, "gradients");
    for (int i = 0; i < n_specs; i++) {
        const Param *p = find_param(t, spec[i].name);
        size_t count = (size_t)p->rows * (size_t)p->cols;
        download(t, t->host_grads + *n, (const uint8_t *)grad_at(t, p->bucket, p->at).p,
                 grad_width(t), count);
        *n += count;
    }
    free(spec);
    return t->host_grads;
}

/* The tensors of `model`: norms float32, matrices of the type that products have. */
static void make_model(Trainer *t) {
    const Config *c = &t->model.config;
    Weights *w = &t->model.weights;
    size_t at = 0;
    t->host_model = (uint8_t *)xcalloc(t->count, 4, "a copy of the weights");
#define X(field, text, number, r, k)                                                               \
    w->field = (Tensor *)xcalloc((size_t)(number), sizeof(Tensor), "tensors");                     \
    for (int i = 0; i < (number); i++) {                                                           \
        char name[64];                                                                             \
        tensor_name(name, text, i);                                                                \
        const Param *p = find_param(t, name);                                                      \
        uint32_t type = t->opt.bf16 && !strstr(text, "norm") ? T_BF16 : T_F32;                     \
        w->field[i] = Tensor{ str_of(p->name), type, p->rows, p->cols, t->host_model + at };       \
        at += tensor_bytes(&w->field[i]);                                                          \
    }
    TENSORS(X)
#undef X
}

/* Values of a tensor of `model` from the device. */
static void refresh(Trainer *t, Tensor *to) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", STR(to->name));
    const Param *p = find_param(t, name);
    size_t n = (size_t)p->rows * (size_t)p->cols;
    const uint8_t *from = t->weights + (t->bucket[p->bucket].at + p->at) * width(t);
    uint8_t *bytes = (uint8_t *)(uintptr_t)to->data;
    if (to->type == T_F32) return download(t, (float *)(void *)bytes, from, width(t), n);
    for (size_t i = 0, k; i < n; i += k) {
        k = n - i < STAGE ? n - i : (size_t)STAGE;
        CUDA(cudaMemcpyAsync(t->host_stage, from + 2 * i, 2 * k, cudaMemcpyDeviceToHost,
                             t->queue.stream));
        CUDA(cudaStreamSynchronize(t->queue.stream));
        memcpy(bytes + 2 * i, t->host_stage, 2 * k);
    }
}

static const Model *trainer_model(Trainer *t, const Lora **adapter) {
    const Config *c = &t->model.config;
    *adapter = NULL;
    if (!t->host_model) make_model(t);
    for (int b = 0; b < t->n_buckets; b++) await_weights(t, b);
    if (t->model_is_old) {
#define X(field, text, number, r, k)                                                               \
    for (int i = 0; i < (number); i++) refresh(t, &t->model.weights.field[i]);
        TENSORS(X)
#undef X
    }
    t->model_is_old = false;
    return &t->model;
}

/* As in train.c. Every rank takes part, that of number 0 writes. */
static void trainer_save(Trainer *t, GgufWriter *w, const char *path, bool optimizer) {
    static const char *const prefix[] = { "", "opt.m.", "opt.v." };
    int n, all = optimizer ? 3 : 1;
    bool writes = t->group.rank == 0;
    TensorSpec *spec = tensor_specs(&t->model.config, &n);
    for (int i = 0; writes && i < all * n; i++) {
        char name[80];
        const TensorSpec *s = &spec[i % n];
        snprintf(name, sizeof name, "%s%s", prefix[i / n], s->name);
        gguf_add_dims(w, name, T_F32, s->rows > 1 ? 2 : 1, s->rows, s->cols);
    }
    if (writes) gguf_begin(w, path);
    for (int i = 0, last = -1; i < all * n; i++) {
        const Param *p = find_param(t, spec[i % n].name);
        if (p->bucket != last) download_bucket(t, i / n, p->bucket); /* they come one by one */
        last = p->bucket;
        if (i % n == n - 1) last = -1;
        size_t bytes = (size_t)p->rows * (size_t)p->cols * sizeof(float);
        if (writes) gguf_write(w, t->host_bucket + p->at, bytes);
    }
    if (writes) gguf_end(w);
    free(spec);
}

/* Floating-point operations a second that a device of this kind can do at most; 0: not known. */
extern "C" double cuda_peak(bool bf16) {
    cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, 0));
    if (p.major == 9) return bf16 ? 989e12 : 67e12;
    return p.major == 8 && p.minor == 0 ? (bf16 ? 312e12 : 19.5e12) : 0;
}

extern "C" const TrainerBackend cuda_trainer = { trainer_open,      trainer_step,   trainer_loss,
                                                 trainer_grad_norm, trainer_update, trainer_zero,
                                                 trainer_gradients, trainer_model,  trainer_save,
                                                 trainer_close,     trainer_ready,  trainer_plan };
