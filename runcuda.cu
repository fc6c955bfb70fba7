/* runcuda.cu: the forward pass of run.c on a GPU. make runcuda links it with run.c, whose command
 * line, tokenizer and sampling stay what they are; make emu does the same without a GPU, for tests.
 *
 *     ./runcuda model.bin -i "def fib"
 *
 * What to know first: one new token needs every weight once, so it takes at least (bytes of the
 * weights) / (bytes a second of the memory): 3.4 ms for an 8B model in bf16 at 4.3 TB/s. All of
 * the decode path serves one aim: the memory never waits.
 *
 *   - Five kernels a layer, each with what comes before and after its product built in:
 *         norm, wq wk wv, rope, cache | attention | wo, add | norm, gate up, SwiGLU | down, add
 *   - The next kernel starts while the last one still runs, fetches its first weights, and only
 *     then waits for its input ("programmatic dependent launch").
 *   - All launches of a token are recorded once as a graph; positions stand in device memory.
 *   - Tensor cores do the multiplying. For few tokens that is not for their speed: an instruction
 *     that takes 16 tokens at once makes 2 or 16 of them (speculation, several sequences) as cheap
 *     as 1, and gives the same bits for a token whatever stands beside it.
 *
 * A prompt is the other case: weights are used for all its tokens, the arithmetic is the limit, and
 * cuBLAS does the products. In between stand plain kernels, one for each function of run.c. The
 * plain kernels alone make the exact path, float32 throughout: --exact, --dump-activations, and
 * files that are float32.
 *
 * Dimensions: as in run.c: dim = C, hidden_dim = F, L layers, H heads, K kv heads, head_dim = D, V.
 *   n = tokens of the batch; "few": at most 16, the decode path. Activations stand in rows that are
 *   padded with zeros to a multiple of 128 numbers: `stride`.
 * The types of activations: float32 for x, the residual stream; float32 for everything when exact;
 *   else 16 bits, bf16 where the file has bf16, else f16. Sums are float32.
 * Everything is bit-equal from run to run: no sum depends on who comes first.
 * Files: cuda/gpu.h (CUDA, or cuda/emu.h without a GPU), cuda/weights.h (what stands on the GPU),
 *   cuda/attention.h (attention), cuda/decode.h (the products of decoding), and here the rest:
 * Sections: 1 engine state, 2 upload, 3 plain kernels, 4 forward for many, 5 forward for few, 6 the
 *   engine.
 * Test: tests/test_cuda.c runs all of this on a CPU, against run.c. Speed: make bench-cuda. */
#include "cuda/attention.h" /* attention_kernel */
#include "cuda/decode.h"    /* few_kernel */
#include "opencoder.h"      /* Model, Batch, EngineBackend */
#include "lora.h"           /* LoraPair, lora_find */

/* ------------------------------------------------------------------------------------------------
 * 1. Engine state */

enum { HEAD_ROWS = 256 }; /* rows of logits at a time */
#ifdef OC_EMU             /* small: tests are quicker, and fill more than one buffer */
enum { WORKSPACE = 256, STAGE_BYTES = 256 << 10 };
#else
enum { WORKSPACE = 32 << 20 };   /* bytes for cuBLAS */
enum { STAGE_BYTES = 16 << 20 }; /* of each of the two buffers for uploads */
#endif

/* What a forward pass must know of its batch; on the host and, the same bytes, on the device. */
struct Meta {
    int *token, *pos, *seq; /* (n) */
    int *wanted;            /* rows whose logits are wanted */
    Tile *tile;
};

struct Layer {
    Weight qkv, wo, gate_up,
        down;                    /* wq, wk, wv on top of each other; rows of gate and up in turns */
    float *attn_norm, *ffn_norm; /* (stride of C) */
};

struct Engine {
    const Model *model;
    EngineOptions opt;
    Gpu gpu;
    Queue queue;
    cublasHandle_t blas;
    bool was_few;                          /* the last forward went through section 5 */
    bool exact, flash;                     /* float32 and plain kernels; attention.h can do it */
    int half;                              /* BF16 or F16: the type of activations, unless exact */
    int cache_kind;                        /* F32, BF16 or FP8 */
    int head, n_ctx;                       /* D and positions, padded for the attention kernel */
    int n_splits;                          /* of the positions, when decoding: see attention.h */
    int few;                               /* the most tokens that section 5 takes; 0: none */
    int s_dim, s_q, s_hidden, s_qkv, s_up; /* strides of rows of C, H D, F, (H + 2 K) D, 2 F */

    Layer *layer;
    Weight tok_emb, out;
    float *out_norm;
    float *angles;          /* (n_ctx, D / 2, 2): cosine and sine */
    uint8_t *keys, *values; /* the cache */
    uint8_t *unused;        /* (V): 1 where a row of the embedding is no token */
    uint8_t *scratch;       /* a matrix expanded for cuBLAS */
    void *workspace;

    float *x;          /* (n, C) */
    void *normed;      /* (n, C) activations */
    void *qkv;         /* (n, (H + 2 K) D) */
    void *q;           /* (n, H, head) bf16 for the attention kernel, else float32 */
    void *attn_out;    /* (n, H D) */
    void *up, *hidden; /* (n, 2 F), (n, F) */
    float *logits;     /* (HEAD_ROWS or FEW, V) */
    float *parts;      /* (FEW, H, splits, head + 2): attention before it is merged */
    int *tickets;      /* (FEW K + 1): how many blocks have finished */
    Best *block_best;  /* (blocks, FEW) */
    Best *best;        /* (FEW) */

    Meta meta, meta_few; /* on the device */
    Meta host, host_few; /* pinned */
    size_t meta_bytes, meta_few_bytes;
    float *host_logits;             /* (FEW, V), pinned */
    Best *host_best;                /* (FEW), pinned */
    float *many_logits;             /* for more rows */
    cudaGraphExec_t graph[FEW + 1]; /* for n tokens, made when first needed */
    size_t needed, weight_bytes;    /* bytes on the device, and of matrices among them */
    bool counting;                  /* layout only adds up */
    void **allocated;
    size_t n_allocated;
};

static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static int div_up(int n, int by) { return (n + by - 1) / by; }

[[noreturn]] static void out_of_memory(const Engine *e, size_t available, size_t total) {
    die("GPU: %.2f GB of memory needed for %s with a context of %d, %.2f of %.2f GB free; a "
        "smaller context (-c) or batch (-b) needs less",
        (double)e->needed * 1e-9, e->model->path, e->opt.n_ctx, (double)available * 1e-9,
        (double)total * 1e-9);
}

/* Device memory for `bytes`; while counting, only their number is noted. */
static void *take(Engine *e, size_t bytes) {
    void *p = NULL;
    size_t available, total;
    bytes = (bytes + 255) & ~(size_t)255;
    e->needed += e->counting ? bytes : 0;
    if (e->counting || !bytes) return NULL;
    cudaError_t error = cudaMalloc(&p, bytes);
    if (error == cudaErrorMemoryAllocation) { /* others took it meanwhile, or it is in pieces */
        CUDA(cudaMemGetInfo(&available, &total));
        out_of_memory(e, available, total);
    }
    check_cuda(error, "cudaMalloc");
    e->allocated = (void **)xrealloc(e->allocated, e->n_allocated + 1, sizeof p, "buffers");
    e->allocated[e->n_allocated++] = p;
    CUDA(cudaMemsetAsync(p, 0, bytes, e->queue.stream));
    return p;
}

static void take_weight(Engine *e, Weight *w) {
    size_t rows = (size_t)round_up(w->rows, 2), codes = code_bytes(w->kind, w->depth);
    size_t scales = has_scales(w->kind) ? (size_t)w->depth / 16 : 0;
    e->weight_bytes += e->counting ? (size_t)w->rows * (codes + scales) : 0;
    w->codes = (uint8_t *)take(e, rows * codes);
    w->scales = (uint16_t *)take(e, rows * scales);
}

/* Bytes of n rows of activations. */
static size_t act_bytes(const Engine *e, int n, int stride) {
    return (size_t)n * (size_t)stride * (e->exact ? 4 : 2);
}

/* The arrays of a batch of up to n tokens in one run of bytes; returns how many those are. */
static size_t meta_at(Meta *m, void *base, int n) {
    int *p = (int *)base;
    *m = Meta{ p, p + n, p + 2 * n, p + 3 * n, (Tile *)(void *)(p + 4 * n) };
    return (size_t)n * 8 * sizeof(int);
}

static void take_buffers(Engine *e) {
    const Config *c = &e->model->config;
    int n = e->opt.n_batch < FEW ? FEW : e->opt.n_batch, H = c->n_heads;
    size_t rows = (size_t)n, V = (size_t)c->vocab_size;
    size_t cache = (size_t)c->n_layers * (size_t)e->opt.n_seq * (size_t)c->n_kv_heads *
                   (size_t)e->n_ctx * (size_t)e->head * cache_size(e->cache_kind);
    e->keys = (uint8_t *)take(e, cache);
    e->values = (uint8_t *)take(e, cache);
    e->x = (float *)take(e, rows * (size_t)e->s_dim * 4);
    e->normed = take(e, act_bytes(e, n, e->s_dim));
    e->qkv = take(e, act_bytes(e, n, e->s_qkv));
    e->q = take(e, rows * (size_t)H * (size_t)e->head * (e->flash ? 2 : 4));
    e->attn_out = take(e, act_bytes(e, n, e->s_q));
    e->up = take(e, act_bytes(e, n, e->s_up));
    e->hidden = take(e, act_bytes(e, n, e->s_hidden));
    e->logits = (float *)take(e, (size_t)(n < HEAD_ROWS ? n : HEAD_ROWS) * V * 4);
    e->parts =
        (float *)take(e, (size_t)FEW * (size_t)H * (size_t)e->n_splits * (size_t)(e->head + 2) * 4);
    e->tickets = (int *)take(e, ((size_t)FEW * (size_t)c->n_kv_heads + 1) * sizeof(int));
    e->block_best = (Best *)take(e, (size_t)e->gpu.n_sm * FEW * sizeof(Best));
    e->best = (Best *)take(e, FEW * sizeof(Best));
    e->meta_bytes = meta_at(&e->meta, NULL, n);
    meta_at(&e->meta, take(e, e->meta_bytes), n);
    e->meta_few_bytes = meta_at(&e->meta_few, NULL, FEW);
    meta_at(&e->meta_few, take(e, e->meta_few_bytes), FEW);
    e->angles = (float *)take(e, (size_t)e->n_ctx * (size_t)c->head_dim * 4);
    e->unused = (uint8_t *)take(e, V);
}

/* Everything on the device. Called twice: to add up, and to allocate. */
static void take_all(Engine *e) {
    const Config *c = &e->model->config;
    size_t largest = 0;
    for (int l = 0; l < c->n_layers; l++) {
        Layer *y = &e->layer[l];
        Weight *w[] = { &y->qkv, &y->wo, &y->gate_up, &y->down };
        for (int i = 0; i < 4; i++) {
            size_t n = (size_t)w[i]->rows * (size_t)w[i]->depth * 2;
            take_weight(e, w[i]);
            if (has_scales(w[i]->kind) && n > largest) largest = n;
        }
        y->attn_norm = (float *)take(e, (size_t)e->s_dim * 4);
        y->ffn_norm = (float *)take(e, (size_t)e->s_dim * 4);
    }
    e->out_norm = (float *)take(e, (size_t)e->s_dim * 4);
    take_weight(e, &e->tok_emb);
    if (c->tied)
        e->out = e->tok_emb;
    else
        take_weight(e, &e->out);
    size_t head = (size_t)e->out.rows * (size_t)e->out.depth * 2;
    if (has_scales(e->out.kind) && head > largest) largest = head;
    e->scratch = (uint8_t *)take(e, e->exact ? 0 : largest);
    e->workspace = take(e, e->exact ? 0 : WORKSPACE);
    take_buffers(e);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Upload: rows of the file are brought into the form that weights.h shows, by all threads of the
 * CPU, in one of two pinned buffers, while the other one is on its way to the device. */

/* How a tensor is stored on the device. Exact: as it is, or float32. */
static int kind_of(const Engine *e, const Tensor *t) {
    bool changed = lora_find(e->opt.lora, t->name) != NULL;
    switch (t->type) {
    case T_F32: return e->exact ? F32 : e->half;
    case T_F16: return !e->exact ? e->half : changed ? F32 : F16;
    case T_BF16: return !e->exact ? e->half : changed ? F32 : BF16;
    case T_Q8_0:
    case T_Q4_0:
        if (!changed) return t->type == T_Q8_0 ? Q8 : Q4;
        return e->exact ? F32 : e->half;
    default: return e->exact ? F32 : changed ? e->half : Q8; /* the other quantized types */
    }
}

/* A matrix on the device made of up to three of the file, which then must be of one kind. */
struct Source {
    const Tensor *part[3];
    int n;
    bool in_turns; /* rows of part 0 and part 1 alternate */
};

/* Parts of different kinds become one: q8 if all have blocks, else 16 bits; exact, float32. */
static void plan_weight(const Engine *e, Weight *w, const Source *s) {
    memset(w, 0, sizeof *w);
    w->kind = kind_of(e, s->part[0]);
    w->cols = s->part[0]->cols;
    for (int i = 0; i < s->n; i++) {
        int kind = kind_of(e, s->part[i]);
        w->rows += s->part[i]->rows;
        if (kind != w->kind)
            w->kind = e->exact ? F32 : has_scales(kind) && has_scales(w->kind) ? Q8 : e->half;
    }
    w->depth = round_up(w->cols, w->kind == F32 ? 32 : step_numbers(w->kind));
}

/* The tensor that has a row of the matrix, and which row of it that is. */
static const Tensor *source_row(const Source *s, int row, int *at) {
    int i = 0;
    if (s->in_turns) return *at = row / 2, s->part[row % 2];
    while (row >= s->part[i]->rows) row -= s->part[i++]->rows;
    *at = row;
    return s->part[i];
}

/* Takes a row of n / 32 blocks of q8_0 or q4_0 apart, into the order that weights.h shows. */
static void pack_row(int kind, uint8_t *codes, uint16_t *scales, const uint8_t *row, int n) {
    for (int b = 0; b < n / 32; b++, row += kind == Q8 ? 34 : 18) {
        memcpy(&scales[b], row, 2);
        for (int t = 0; t < 4; t++) {
            if (kind == Q8) {
                memcpy(codes + b / 2 * STEP + t * 16 + b % 2 * 8, row + 2 + 8 * t, 8);
                continue;
            }
            for (int i = 0; i < 4; i++) { /* number k < 16 is the low half of byte k, else high */
                int k = 8 * t + i, shift = t < 2 ? 0 : 4;
                int low = row[2 + k % 16] >> shift & 15, high = row[2 + (k + 4) % 16] >> shift & 15;
                codes[b / 4 * STEP + t * 16 + b % 4 * 4 + i] = (uint8_t)((low | high << 4) ^ 0x88);
            }
        }
    }
}

/* x (cols) += scale B_row A: an adapter becomes part of the weights. */
static void add_adapter(float *x, const LoraPair *p, int row) {
    size_t cols = (size_t)p->a.cols, rank = (size_t)p->rank;
    float *a = (float *)xcalloc(cols + rank, sizeof *a, "adapter"), *b = a + cols;
    dequantize(b, p->b.data + (size_t)row * row_bytes(p->b.type, rank), p->b.type, 0, rank);
    for (size_t j = 0; j < rank; j++) {
        dequantize(a, p->a.data + j * row_bytes(p->a.type, cols), p->a.type, 0, cols);
        for (size_t i = 0; i < cols; i++) x[i] += p->scale * b[j] * a[i];
    }
    free(a);
}

/* Row `row` of a matrix as the device wants it: codes, and scales where the kind has them. What the
 * file has in another type, or an adapter changes, goes through float32. */
static void fill_row(const Engine *e, const Weight *w, const Source *s, int row, uint8_t *codes,
                     uint16_t *scales) {
    static const uint32_t native[] = { T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0 };
    int at;
    const Tensor *t = source_row(s, row, &at);
    const LoraPair *p = lora_find(e->opt.lora, t->name);
    size_t cols = (size_t)t->cols;
    uint32_t type = native[w->kind];
    const uint8_t *raw = t->data + (size_t)at * row_bytes(t->type, cols);
    uint8_t *made = NULL;
    memset(codes, 0, code_bytes(w->kind, w->depth));
    if (has_scales(w->kind)) memset(scales, 0, (size_t)w->depth / 16);
    if (p || t->type != type) {
        float *x = (float *)xcalloc(cols, 8, "a row"); /* float32, and room for any type */
        made = (uint8_t *)x;
        dequantize(x, raw, t->type, 0, cols);
        if (p) add_adapter(x, p, at);
        if (type != T_F32) quantize((uint8_t *)(x + cols), x, type, cols);
        raw = type == T_F32 ? made : (uint8_t *)(x + cols);
    }
    if (has_scales(w->kind))
        pack_row(w->kind, codes, scales, raw, w->cols);
    else
        memcpy(codes, raw, row_bytes(type, cols));
    free(made);
}

struct Uploader {
    Engine *e;
    uint8_t *stage[2];
    cudaEvent_t free_again[2];
    int next;
    double total, done, begun, shown; /* bytes, seconds */
};

static void show_upload(Uploader *u, size_t bytes) {
    double now = now_seconds();
    u->done += (double)bytes;
    if (u->e->opt.quiet || !isatty(2) || now - u->begun < 1) return;
    bool all = u->done >= u->total;
    if (now - u->shown < 0.1 && !all) return;
    u->shown = now;
    fprintf(stderr, "\rGPU: %.1f of %.1f GB, %.1f GB/s%s", u->done * 1e-9, u->total * 1e-9,
            u->done * 1e-9 / (now - u->begun), all ? "\n" : "");
}

/* Waits until the staging buffer whose turn it is has left, and returns it. */
static uint8_t *stage_next(Uploader *u) {
    CUDA(cudaEventSynchronize(u->free_again[u->next ^= 1]));
    return u->stage[u->next];
}
static void stage_sent(Uploader *u) {
    CUDA(cudaEventRecord(u->free_again[u->next], u->e->queue.stream));
}

/* As many rows at a time as a staging buffer holds: codes of all of them, then scales. */
static void upload_weight(Uploader *u, const Weight *w, const Source *s) {
    size_t line = code_bytes(w->kind, w->depth);
    size_t scale_line = has_scales(w->kind) ? (size_t)w->depth / 16 : 0;
    int most = (int)(STAGE_BYTES / (line + scale_line));
    if (most < 1) die("GPU: a row of %d columns, expected at most %d", w->cols, STAGE_BYTES / 4);
    for (int row = 0; row < w->rows; row += most) {
        int n = w->rows - row < most ? w->rows - row : most;
        uint8_t *stage = stage_next(u), *scales = stage + (size_t)n * line;
        size_t at = (size_t)row, count = (size_t)n;
#pragma omp parallel for schedule(static)
        for (int i = 0; i < n; i++)
            fill_row(u->e, w, s, row + i, stage + (size_t)i * line,
                     (uint16_t *)(void *)(scales + (size_t)i * scale_line));
        CUDA(cudaMemcpyAsync((uint8_t *)(uintptr_t)w->codes + at * line, stage, count * line,
                             cudaMemcpyHostToDevice, u->e->queue.stream));
        if (scale_line)
            CUDA(cudaMemcpyAsync((uint8_t *)(uintptr_t)w->scales + at * scale_line, scales,
                                 count * scale_line, cudaMemcpyHostToDevice, u->e->queue.stream));
        stage_sent(u);
        show_upload(u, count * (line + scale_line));
    }
}

static void upload_bytes(Uploader *u, void *to, const void *from, size_t n) {
    for (size_t done = 0; done < n; done += STAGE_BYTES) {
        size_t part = n - done < STAGE_BYTES ? n - done : (size_t)STAGE_BYTES;
        uint8_t *stage = stage_next(u);
        memcpy(stage, (const uint8_t *)from + done, part);
        CUDA(cudaMemcpyAsync((uint8_t *)to + done, stage, part, cudaMemcpyHostToDevice,
                             u->e->queue.stream));
        stage_sent(u);
    }
}

/* 0 to 3: the matrices of a layer in the order of struct Layer; 4 the embedding, 5 the head. */
static Source source_of(const Engine *e, int layer, int which) {
    const Weights *w = &e->model->weights;
    switch (which) {
    case 0: return { { &w->wq[layer], &w->wk[layer], &w->wv[layer] }, 3, false };
    case 1: return { { &w->wo[layer] }, 1, false };
    case 2: return { { &w->w_gate[layer], &w->w_up[layer] }, 2, true };
    case 3: return { { &w->w_down[layer] }, 1, false };
    case 4: return { { w->tok_emb }, 1, false };
    default: return { { w->out }, 1, false };
    }
}

/* run.c: rope_angles, for all positions. */
static void upload_angles(Uploader *u) {
    const Config *c = &u->e->model->config;
    int half = c->head_dim / 2, n_ctx = u->e->opt.n_ctx;
    float *angles = (float *)xcalloc((size_t)n_ctx * (size_t)half, 2 * sizeof *angles, "rope");
    for (int i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)c->head_dim;
        float frequency = 1 / (float)pow((double)c->rope_theta, (double)exponent);
        for (int pos = 0; pos < n_ctx; pos++) {
            float *a = angles + 2 * ((size_t)pos * (size_t)half + (size_t)i);
            a[0] = (float)cos((double)((float)pos * frequency));
            a[1] = (float)sin((double)((float)pos * frequency));
        }
    }
    upload_bytes(u, u->e->angles, angles, (size_t)n_ctx * (size_t)half * 2 * sizeof *angles);
    free(angles);
}

static void upload_all(Engine *e) {
    const Model *m = e->model;
    const Config *c = &m->config;
    size_t norm = (size_t)c->dim * sizeof(float), V = (size_t)c->vocab_size;
    Uploader u = { e, { NULL, NULL }, { NULL, NULL }, 0, 0, 0, now_seconds(), 0 };
    u.total = (double)e->weight_bytes;
    for (int i = 0; i < 2; i++) {
        CUDA(cudaMallocHost(&u.stage[i], STAGE_BYTES));
        CUDA(cudaEventCreateWithFlags(&u.free_again[i], cudaEventDisableTiming));
    }
    for (int l = 0; l < c->n_layers; l++) {
        Layer *y = &e->layer[l];
        Weight *w[] = { &y->qkv, &y->wo, &y->gate_up, &y->down };
        for (int i = 0; i < 4; i++) {
            Source s = source_of(e, l, i);
            upload_weight(&u, w[i], &s);
        }
        upload_bytes(&u, y->attn_norm, m->weights.attn_norm[l].data, norm);
        upload_bytes(&u, y->ffn_norm, m->weights.ffn_norm[l].data, norm);
    }
    Source emb = source_of(e, 0, 4), out = source_of(e, 0, 5);
    upload_weight(&u, &e->tok_emb, &emb);
    if (!c->tied) upload_weight(&u, &e->out, &out);
    upload_bytes(&u, e->out_norm, m->weights.out_norm->data, norm);
    upload_angles(&u);
    uint8_t *unused = (uint8_t *)xcalloc(V, 1, "vocabulary");
    for (size_t i = 0; i < V; i++)
        unused[i] = i >= (size_t)m->vocab.n || m->vocab.type[i] == TOK_UNUSED;
    upload_bytes(&u, e->unused, unused, V);
    CUDA(cudaStreamSynchronize(e->queue.stream));
    free(unused);
    for (int i = 0; i < 2; i++) {
        CUDA(cudaFreeHost(u.stage[i]));
        CUDA(cudaEventDestroy(u.free_again[i]));
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Plain kernels: one for each function of run.c. A is the type of the activations. */

/* x (n, C) = rows of the embedding. One block a token. */
__global__ void embed_kernel(float *x, Weight w, const int *token, int stride) {
    size_t i = blockIdx.x, row = (size_t)token[i];
    for (int u = (int)threadIdx.x; u < w.depth / UNIT; u += (int)blockDim.x) {
        float v[8];
        load_unit(v, &w, row, u);
        if (UNIT * u < stride) store8(x + i * (size_t)stride + UNIT * u, v);
    }
}

/* run.c: rmsnorm. y (n, C) = rows of x, each times norm / its root mean square; row i of y is made
 * of row from[i] of x, or i. One block a row. */
template <class A>
__global__ void norm_kernel(void *y, const float *x, const float *norm, const int *from, int dim,
                            int stride, float eps) {
    __shared__ float part[WARPS];
    size_t row = blockIdx.x;
    const float *in = x + (from ? (size_t)from[row] : row) * (size_t)stride;
    float v[8], w[8], sum = 0;
    for (int u = (int)threadIdx.x; u < stride / UNIT; u += THREADS) {
        load8(v, in + UNIT * u);
        for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < WARPS; i++) sum += part[i];
    float scale = 1 / sqrtf(sum / (float)dim + eps);
    for (int u = (int)threadIdx.x; u < stride / UNIT; u += THREADS) {
        load8(v, in + UNIT * u);
        load8(w, norm + UNIT * u);
        for (int i = 0; i < 8; i++) v[i] = v[i] * scale * w[i];
        store8((A *)y + row * (size_t)stride + UNIT * u, v);
    }
}

/* run.c: rope, cache_store. qkv (n, (H + 2 K) D): queries are turned and go to q (n, H, head),
 * keys are turned in place and go to the cache, values go to the cache. One block a token, one
 * thread a pair of numbers. */
template <class A>
__global__ void rope_kernel(void *q, void *qkv, Cache cache, const float *angles, const int *pos,
                            const int *seq, int n_heads, int D, int stride, bool q_float) {
    size_t i = blockIdx.x;
    int half = D / 2, heads = n_heads + 2 * cache.n_kv_heads, p = pos[i];
    A *row = (A *)qkv + i * (size_t)stride;
    for (int pair = (int)threadIdx.x; pair < heads * half; pair += THREADS) {
        int h = pair / half, d = 2 * (pair % half), kv = h - n_heads;
        float a = to_float(row[2 * pair]), b = to_float(row[2 * pair + 1]), r = a, s = b;
        if (kv < cache.n_kv_heads) {
            const float *t = angles + ((size_t)p * (size_t)half + (size_t)(d / 2)) * 2;
            r = a * t[0] - b * t[1];
            s = a * t[1] + b * t[0];
            from_float(row + 2 * pair, r);
            from_float(row + 2 * pair + 1, s);
        }
        if (kv < 0) {
            size_t at = (i * (size_t)n_heads + (size_t)h) * (size_t)cache.head + (size_t)d;
            cache_put((uint8_t *)q, q_float ? F32 : BF16, at, r);
            cache_put((uint8_t *)q, q_float ? F32 : BF16, at + 1, s);
            continue;
        }
        int head = kv % cache.n_kv_heads;
        size_t at = cache_at(&cache, seq[i], head, p) + (size_t)d;
        uint8_t *to = kv < cache.n_kv_heads ? cache.keys : cache.values;
        cache_put(to, cache.kind, at, r);
        cache_put(to, cache.kind, at + 1, s);
    }
}

/* run.c: attention_head, for any D, any type of cache and float32 queries. One block for a token
 * and a head; its 4 warps take every 4th position each and keep a running softmax: when a new
 * maximum m' comes, what was summed so far is scaled by e^(m - m'). Lanes share D. */
template <class A, class C>
__global__ void attention_plain_kernel(void *out, const float *q, Cache cache, const int *pos,
                                       const int *seq, int n_heads, int D, int stride) {
    float *acc = (float *)(void *)dynamic_shared(); /* (4, D), then (4) maxima and (4) sums */
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, h = (int)blockIdx.y;
    size_t i = blockIdx.x;
    float *max = acc + 4 * D, *sum = max + 4, *mine = acc + warp * D;
    const float *query = q + (i * (size_t)n_heads + (size_t)h) * (size_t)cache.head;
    size_t base = cache_at(&cache, seq[i], h / (n_heads / cache.n_kv_heads), 0);
    const C *keys = (const C *)(const void *)cache.keys + base;
    const C *values = (const C *)(const void *)cache.values + base;
    float m = -INFINITY, l = 0, scale = 1 / sqrtf((float)D);
    for (int d = lane; d < D; d += 32) mine[d] = 0;
    for (int u = warp; u <= pos[i]; u += 4) {
        size_t at = (size_t)u * (size_t)cache.head;
        float s = 0;
        for (int d = lane; d < D; d += 32) s += query[d] * to_float(keys[at + (size_t)d]);
        s = warp_sum(s) * scale;
        float before = m;
        m = fmaxf(m, s);
        float old = expf(before - m), p = expf(s - m);
        l = l * old + p;
        for (int d = lane; d < D; d += 32)
            mine[d] = mine[d] * old + p * to_float(values[at + (size_t)d]);
    }
    if (lane == 0) max[warp] = m, sum[warp] = l;
    __syncthreads();
    m = fmaxf(fmaxf(max[0], max[1]), fmaxf(max[2], max[3]));
    l = 0;
    for (int w = 0; w < 4; w++) l += sum[w] * expf(max[w] - m);
    for (int d = (int)threadIdx.x; d < D; d += 128) {
        float v = 0;
        for (int w = 0; w < 4; w++) v += acc[w * D + d] * expf(max[w] - m);
        from_float((A *)out + i * (size_t)stride + (size_t)(h * D + d), v / l);
    }
}

/* run.c: swiglu. hidden (n, F) = silu(up[2 i]) up[2 i + 1]: rows of gate and up alternate in the
 * matrix. One block a token. */
template <class A>
__global__ void swiglu_kernel(void *hidden, const void *up, int s_hidden, int s_up) {
    size_t row = blockIdx.x;
    for (int u = (int)threadIdx.x; u < s_hidden / UNIT; u += THREADS) {
        float a[8], b[8], v[8];
        load8(a, (const A *)up + row * (size_t)s_up + 2 * UNIT * u);
        load8(b, (const A *)up + row * (size_t)s_up + 2 * UNIT * u + UNIT);
        for (int i = 0; i < 4; i++) {
            v[i] = silu(a[2 * i]) * a[2 * i + 1];
            v[i + 4] = silu(b[2 * i]) * b[2 * i + 1];
        }
        store8((A *)hidden + row * (size_t)s_hidden + UNIT * u, v);
    }
}

/* matmul.c: matmul, exact. y (n, w.rows) = or += x (n, w.cols) W^T in float32 for every kind. One
 * warp for a row of W and 4 tokens: lanes take units of 8 in turns, then fold. */
__global__ void product_kernel(float *y, int y_stride, const float *x, int x_stride, Weight w,
                               int n, bool add) {
    int row = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int first = (int)blockIdx.y * 4;
    float sum[4] = { 0, 0, 0, 0 };
    for (int u = lane; row < w.rows && u < w.depth / UNIT; u += 32) {
        float a[8], b[8];
        load_unit(a, &w, (size_t)row, u);
#pragma unroll
        for (int t = 0; t < 4; t++) {
            int token = min(first + t, n - 1);
            load8(b, x + (size_t)token * (size_t)x_stride + UNIT * u);
            for (int i = 0; i < 8; i++) sum[t] += a[i] * b[i];
        }
    }
#pragma unroll
    for (int t = 0; t < 4; t++) {
        float v = warp_sum(sum[t]);
        float *to = y + (size_t)(first + t) * (size_t)y_stride + row;
        if (lane == 0 && row < w.rows && first + t < n) *to = add ? *to + v : v;
    }
}

/* out (rows, depth) = W in 16 bits, for cuBLAS. One thread a unit. */
template <class A> __global__ void expand_kernel(void *out, Weight w) {
    size_t units = (size_t)w.depth / UNIT, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    float v[8];
    if (i >= (size_t)w.rows * units) return;
    load_unit(v, &w, i / units, (int)(i % units));
    store8((A *)out + i * UNIT, v);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Forward for many tokens: the functions of run.c one after the other. Three types of
 * activations make three versions of the small kernels; ACTS names the right one. */

#define ACTS(e, name, kernel, grid, ...)                                                           \
    do {                                                                                           \
        if ((e)->exact)                                                                            \
            launch(&(e)->queue, name, kernel<float>, grid, THREADS, 0, __VA_ARGS__);               \
        else if ((e)->half == BF16)                                                                \
            launch(&(e)->queue, name, kernel<bf16>, grid, THREADS, 0, __VA_ARGS__);                \
        else                                                                                       \
            launch(&(e)->queue, name, kernel<f16>, grid, THREADS, 0, __VA_ARGS__);                 \
    } while (0)

static Cache cache_of(const Engine *e, int layer) {
    const Config *c = &e->model->config;
    Cache k = { e->keys, e->values, e->cache_kind, e->n_ctx, c->n_kv_heads, e->head };
    size_t bytes = (size_t)layer * (size_t)e->opt.n_seq * (size_t)c->n_kv_heads * (size_t)e->n_ctx *
                   (size_t)e->head * cache_size(e->cache_kind);
    k.keys += bytes;
    k.values += bytes;
    return k;
}

/* y (n, w.rows) = or += x W^T. y is float32, or activations with `narrow`. */
static void product(Engine *e, void *y, int y_stride, const void *x, int x_stride, const Weight *w,
                    int n, bool add, bool narrow) {
    if (e->exact) {
        dim3 grid((unsigned)div_up(w->rows, WARPS), (unsigned)div_up(n, 4));
        launch(&e->queue, "product_kernel", product_kernel, grid, THREADS, 0, (float *)y, y_stride,
               (const float *)x, x_stride, *w, n, add);
        return;
    }
    cudaDataType_t type = e->half == BF16 ? CUDA_R_16BF : CUDA_R_16F;
    const void *codes = w->codes;
    float one = 1, beta = add;
    if (has_scales(w->kind)) {
        size_t units = (size_t)w->rows * (size_t)w->depth / UNIT;
        dim3 grid((unsigned)((units + THREADS - 1) / THREADS));
        ACTS(e, "expand_kernel", expand_kernel, grid, e->scratch, *w);
        codes = e->scratch;
    }
    CUBLAS(cublasGemmEx(e->blas, CUBLAS_OP_T, CUBLAS_OP_N, w->rows, n, w->depth, &one, codes, type,
                        w->depth, x, type, x_stride, &beta, y, narrow ? type : CUDA_R_32F, y_stride,
                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

/* Shared memory of the attention kernel: keys and values, or the shares of a merge. */
static size_t attention_shared(const Engine *e, int group) {
    size_t tiles = 2 * TILE_KEYS * (size_t)(e->head + 8) * 2;
    size_t shares = (size_t)(TILE_ROWS / group * group) * (size_t)e->n_splits * 4;
    return tiles > shares ? tiles : shares;
}

template <int D> static void launch_attention(Engine *e, const Attention *a, dim3 grid) {
    size_t shared = attention_shared(e, a->n_heads / a->cache.n_kv_heads);
    if (a->cache.kind == FP8)
        launch(&e->queue, "attention_kernel", attention_kernel<D, fp8>, grid, 128, shared, *a);
    else
        launch(&e->queue, "attention_kernel", attention_kernel<D, bf16>, grid, 128, shared, *a);
}

/* attn_out of n tokens, which n_tiles tiles (those of `m` on the device) cover. */
static void attend(Engine *e, const Meta *m, int layer, int n_tiles, int n_splits) {
    const Config *c = &e->model->config;
    Attention a = { e->attn_out,
                    (const bf16 *)e->q,
                    cache_of(e, layer),
                    m->tile,
                    n_splits > 1 ? e->parts : NULL,
                    e->tickets,
                    c->n_heads,
                    c->head_dim,
                    e->s_q,
                    e->half == BF16 };
    dim3 grid((unsigned)n_splits, (unsigned)c->n_kv_heads, (unsigned)n_tiles);
    if (e->head == 32) launch_attention<32>(e, &a, grid);
    if (e->head == 64) launch_attention<64>(e, &a, grid);
    if (e->head == 80) launch_attention<80>(e, &a, grid);
    if (e->head == 128) launch_attention<128>(e, &a, grid);
    if (e->head == 160) launch_attention<160>(e, &a, grid);
}

template <class A, class C> static void attend_plain(Engine *e, int layer, int n) {
    const Config *c = &e->model->config;
    size_t shared = (size_t)(4 * c->head_dim + 8) * 4;
    launch(&e->queue, "attention_plain_kernel", attention_plain_kernel<A, C>,
           dim3((unsigned)n, (unsigned)c->n_heads), 128, shared, e->attn_out, (const float *)e->q,
           cache_of(e, layer), (const int *)e->meta.pos, (const int *)e->meta.seq, c->n_heads,
           c->head_dim, e->s_q);
}

static void attend_many(Engine *e, int layer, int n, int n_tiles) {
    bool narrow = e->cache_kind == FP8, half = e->half == BF16;
    if (e->flash) return attend(e, &e->meta, layer, n_tiles, 1);
    if (e->exact) return attend_plain<float, float>(e, layer, n);
    if (half)
        return narrow ? attend_plain<bf16, fp8>(e, layer, n)
                      : attend_plain<bf16, bf16>(e, layer, n);
    return narrow ? attend_plain<f16, fp8>(e, layer, n) : attend_plain<f16, bf16>(e, layer, n);
}

/* run.c: watch. Columns from .. from + cols of a float32 buffer with rows `stride` apart. */
static void watch(Engine *e, const char *name, int layer, const void *data, int stride, int from,
                  int n, int cols) {
    if (!e->opt.watch) return;
    size_t width = (size_t)cols * 4;
    float *copy = (float *)xcalloc((size_t)n, width, name);
    CUDA(cudaMemcpy2DAsync(copy, width, (const float *)data + from, (size_t)stride * 4, width,
                           (size_t)n, cudaMemcpyDeviceToHost, e->queue.stream));
    CUDA(cudaStreamSynchronize(e->queue.stream));
    e->opt.watch(e->opt.watch_arg, name, layer, copy, n, cols);
    free(copy);
}

/* x (n, C) += attention(rmsnorm(x)) */
static void attention_block(Engine *e, int layer, int n, int n_tiles) {
    const Config *c = &e->model->config;
    const Layer *y = &e->layer[layer];
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    dim3 rows((unsigned)n);
    ACTS(e, "norm_kernel", norm_kernel, rows, e->normed, e->x, y->attn_norm, NULL, c->dim, e->s_dim,
         c->norm_eps);
    watch(e, "attn_norm", layer, e->normed, e->s_dim, 0, n, c->dim);
    product(e, e->qkv, e->s_qkv, e->normed, e->s_dim, &y->qkv, n, false, true);
    ACTS(e, "rope_kernel", rope_kernel, rows, e->q, e->qkv, cache_of(e, layer), e->angles,
         e->meta.pos, e->meta.seq, c->n_heads, c->head_dim, e->s_qkv, !e->flash);
    watch(e, "q", layer, e->qkv, e->s_qkv, 0, n, q_dim);
    watch(e, "k", layer, e->qkv, e->s_qkv, q_dim, n, kv_dim);
    watch(e, "v", layer, e->qkv, e->s_qkv, q_dim + kv_dim, n, kv_dim);
    attend_many(e, layer, n, n_tiles);
    watch(e, "attn_out", layer, e->attn_out, e->s_q, 0, n, q_dim);
    product(e, e->x, e->s_dim, e->attn_out, e->s_q, &y->wo, n, true, false);
}

/* x (n, C) += w_down (silu(w_gate y) * (w_up y)),  y = rmsnorm(x) */
static void ffn_block(Engine *e, int layer, int n) {
    const Config *c = &e->model->config;
    const Layer *y = &e->layer[layer];
    dim3 rows((unsigned)n);
    ACTS(e, "norm_kernel", norm_kernel, rows, e->normed, e->x, y->ffn_norm, NULL, c->dim, e->s_dim,
         c->norm_eps);
    watch(e, "ffn_norm", layer, e->normed, e->s_dim, 0, n, c->dim);
    product(e, e->up, e->s_up, e->normed, e->s_dim, &y->gate_up, n, false, true);
    ACTS(e, "swiglu_kernel", swiglu_kernel, rows, e->hidden, e->up, e->s_hidden, e->s_up);
    watch(e, "ffn_hidden", layer, e->hidden, e->s_hidden, 0, n, c->hidden_dim);
    product(e, e->x, e->s_dim, e->hidden, e->s_hidden, &y->down, n, true, false);
    watch(e, "layer", layer, e->x, e->s_dim, 0, n, c->dim);
}

/* Logits of the wanted rows, HEAD_ROWS at a time. */
static float *head_many(Engine *e, int wanted) {
    const Config *c = &e->model->config;
    size_t V = (size_t)c->vocab_size;
    if (!wanted) return NULL;
    e->many_logits = (float *)xrealloc(e->many_logits, (size_t)wanted * V, 4, "logits");
    for (int i = 0; i < wanted; i += HEAD_ROWS) {
        int n = wanted - i < HEAD_ROWS ? wanted - i : HEAD_ROWS;
        ACTS(e, "norm_kernel", norm_kernel, dim3((unsigned)n), e->normed, e->x, e->out_norm,
             e->meta.wanted + i, c->dim, e->s_dim, c->norm_eps);
        watch(e, "output_norm", -1, e->normed, e->s_dim, 0, n, c->dim);
        product(e, e->logits, c->vocab_size, e->normed, e->s_dim, &e->out, n, false, false);
        watch(e, "logits", -1, e->logits, c->vocab_size, 0, n, c->vocab_size);
        CUDA(cudaMemcpyAsync(e->many_logits + (size_t)i * V, e->logits, (size_t)n * V * 4,
                             cudaMemcpyDeviceToHost, e->queue.stream));
    }
    return e->many_logits;
}

/* The pass of the n tokens in `host`, which n_tiles tiles cover. */
static float *forward_many(Engine *e, int n, int n_tiles, int wanted) {
    const Config *c = &e->model->config;
    CUDA(cudaMemcpyAsync(e->meta.token, e->host.token, e->meta_bytes, cudaMemcpyHostToDevice,
                         e->queue.stream));
    launch(&e->queue, "embed_kernel", embed_kernel, dim3((unsigned)n), THREADS, 0, e->x, e->tok_emb,
           e->meta.token, e->s_dim);
    watch(e, "embedding", -1, e->x, e->s_dim, 0, n, c->dim);
    for (int layer = 0; layer < c->n_layers; layer++) {
        attention_block(e, layer, n, n_tiles);
        ffn_block(e, layer, n);
    }
    float *logits = head_many(e, wanted);
    CUDA(cudaStreamSynchronize(e->queue.stream));
    return logits;
}

/* ------------------------------------------------------------------------------------------------
 * 5. Forward for few tokens: five kernels a layer, recorded once for each n as a graph */

/* Launches a product of decode.h: a block on each multiprocessor, with at least two rows. */
static void few(Engine *e, const Product *p, const char *name) {
    Queue q = { e->queue.stream, e->gpu.cc >= 90 };
    size_t shared = few_shared(p->w.kind, p->w.depth, p->n);
    int most = div_up(p->w.rows, 2);
    dim3 grid((unsigned)(e->gpu.n_sm < most ? e->gpu.n_sm : most));
    static void (*const kernel[][2])(Product) = {
        { NULL, NULL }, /* float32 takes the plain kernels */
        { few_kernel<F16, false>, few_kernel<F16, true> },
        { few_kernel<BF16, false>, few_kernel<BF16, true> },
        { few_kernel<Q8, false>, few_kernel<Q8, true> },
        { few_kernel<Q4, false>, few_kernel<Q4, true> },
    };
    launch(&q, name, kernel[p->w.kind][p->n > 8], grid, THREADS, shared, *p);
}

/* What all products have in common. */
static Product product_of(const Engine *e, const Weight *w, int n, int after) {
    const Config *c = &e->model->config;
    Product p;
    memset(&p, 0, sizeof p);
    p.w = *w;
    p.n = n;
    p.after = after;
    p.residual = e->x;
    p.dim = c->dim;
    p.stride = e->s_dim;
    p.eps = c->norm_eps;
    p.bf16_acts = e->half == BF16;
    p.out = e->x;
    p.out_stride = e->s_dim;
    return p;
}

/* run.c: attention_block and ffn_block, in five launches. Each may begin while the one before it
 * ends. */
static void layer_few(Engine *e, int layer, int n) {
    const Config *c = &e->model->config;
    const Layer *y = &e->layer[layer];
    Product qkv = product_of(e, &y->qkv, n, AFTER_ROPE), wo = product_of(e, &y->wo, n, AFTER_ADD);
    Product up = product_of(e, &y->gate_up, n, AFTER_SWIGLU);
    Product down = product_of(e, &y->down, n, AFTER_ADD);
    qkv.norm = y->attn_norm;
    qkv.q = (bf16 *)e->q;
    qkv.cache = cache_of(e, layer);
    qkv.angles = e->angles;
    qkv.pos = e->meta_few.pos;
    qkv.seq = e->meta_few.seq;
    qkv.n_heads = c->n_heads;
    qkv.D = c->head_dim;
    few(e, &qkv, "few_kernel: norm, wq wk wv, rope");
    Queue before = e->queue;
    e->queue.overlap = e->gpu.cc >= 90;
    attend(e, &e->meta_few, layer, n, e->n_splits);
    e->queue = before;
    wo.in = e->attn_out;
    wo.stride = e->s_q;
    few(e, &wo, "few_kernel: wo, add");
    up.norm = y->ffn_norm;
    up.hidden = e->hidden;
    up.out_stride = e->s_hidden;
    few(e, &up, "few_kernel: norm, gate up, SwiGLU");
    down.in = e->hidden;
    down.stride = e->s_hidden;
    few(e, &down, "few_kernel: down, add");
}

/* All launches of a pass of n tokens, from the embedding to the likeliest token of each row. */
static void record_few(Engine *e, int n) {
    const Config *c = &e->model->config;
    launch(&e->queue, "embed_kernel", embed_kernel, dim3((unsigned)n), THREADS, 0, e->x, e->tok_emb,
           e->meta_few.token, e->s_dim);
    for (int layer = 0; layer < c->n_layers; layer++) layer_few(e, layer, n);
    Product out = product_of(e, &e->out, n, AFTER_LOGITS);
    out.norm = e->out_norm;
    out.out = e->logits;
    out.out_stride = c->vocab_size;
    out.unused = e->unused;
    out.block_best = e->block_best;
    out.best = e->best;
    out.ticket = e->tickets + FEW * c->n_kv_heads;
    few(e, &out, "few_kernel: norm, head");
}

/* Starts the forward pass of the n tokens in host_few. */
static void start_few(Engine *e, int n) {
    CUDA(cudaMemcpyAsync(e->meta_few.token, e->host_few.token, e->meta_few_bytes,
                         cudaMemcpyHostToDevice, e->queue.stream));
    if (!e->graph[n]) {
        cudaGraph_t graph;
        CUDA(cudaStreamBeginCapture(e->queue.stream, cudaStreamCaptureModeThreadLocal));
        record_few(e, n);
        CUDA(cudaStreamEndCapture(e->queue.stream, &graph));
        CUDA(cudaGraphInstantiate(&e->graph[n], graph, 0));
        CUDA(cudaGraphDestroy(graph));
    }
    CUDA(cudaGraphLaunch(e->graph[n], e->queue.stream));
}

/* All rows have logits; only the wanted ones travel, and if greedy, only the likeliest of each. */
static float *forward_few(Engine *e, int n, int wanted) {
    size_t V = (size_t)e->model->config.vocab_size;
    start_few(e, n);
    CUDA(cudaMemcpyAsync(e->host_best, e->best, (size_t)n * sizeof(Best), cudaMemcpyDeviceToHost,
                         e->queue.stream));
    for (int i = 0; !e->opt.greedy && i < wanted; i++)
        CUDA(cudaMemcpyAsync(e->host_logits + (size_t)i * V,
                             e->logits + (size_t)e->host_few.wanted[i] * V, V * 4,
                             cudaMemcpyDeviceToHost, e->queue.stream));
    CUDA(cudaStreamSynchronize(e->queue.stream));
    return wanted ? e->host_logits : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 6. The engine */

/* The smallest size that the attention kernel exists for; 0: it does not. */
static int padded_head(int D) {
    static const int sizes[] = { 32, 64, 80, 128, 160 };
    for (int i = 0; i < 5; i++)
        if (D <= sizes[i]) return sizes[i];
    return 0;
}

/* Types, strides and limits that follow from the model and the device. */
static void plan(Engine *e) {
    const Config *c = &e->model->config;
    bool wide = true;
    e->half = F16;
    for (int l = 0; l < c->n_layers; l++)
        for (int i = 0; i < 4; i++) {
            Source s = source_of(e, l, i);
            for (int k = 0; k < s.n; k++) {
                wide &= s.part[k]->type == T_F32;
                if (s.part[k]->type == T_BF16 || s.part[k]->type == T_F32) e->half = BF16;
            }
        }
    e->exact = e->opt.exact || e->opt.watch || wide;
    e->head = padded_head(c->head_dim);
    e->flash = !e->exact && e->head && c->n_heads / c->n_kv_heads <= TILE_ROWS;
    if (!e->flash) e->head = round_up(c->head_dim, 8);
    e->cache_kind = e->exact ? F32 : e->opt.cache == T_Q8_0 ? FP8 : BF16;
    e->n_ctx = round_up(e->opt.n_ctx, TILE_KEYS);
    e->s_dim = round_up(c->dim, 128);
    e->s_q = round_up(c->n_heads * c->head_dim, 128);
    e->s_hidden = round_up(c->hidden_dim, 128);
    e->s_up = 2 * e->s_hidden;
    e->s_qkv = round_up((c->n_heads + 2 * c->n_kv_heads) * c->head_dim, 128);
    e->n_splits = 2 * e->gpu.n_sm / c->n_kv_heads;
    if (e->n_splits > 32) e->n_splits = 32;
    if (e->n_splits < 2) e->n_splits = 2;
    e->layer = (Layer *)xcalloc((size_t)c->n_layers, sizeof *e->layer, "layers");
    for (int l = 0; l < c->n_layers; l++) {
        Weight *w[] = { &e->layer[l].qkv, &e->layer[l].wo, &e->layer[l].gate_up,
                        &e->layer[l].down };
        for (int i = 0; i < 4; i++) {
            Source s = source_of(e, l, i);
            plan_weight(e, w[i], &s);
        }
    }
    Source emb = source_of(e, 0, 4), out = source_of(e, 0, 5);
    plan_weight(e, &e->tok_emb, &emb);
    if (!c->tied) plan_weight(e, &e->out, &out);
}

/* How many tokens the decode path takes: as many as fit the shared memory of every product. */
static int plan_few(const Engine *e) {
    const Config *c = &e->model->config;
    int n = e->flash ? FEW : 0;
    for (int l = 0; l < c->n_layers; l++) {
        const Layer *y = &e->layer[l];
        const Weight *w[] = { &y->qkv, &y->wo, &y->gate_up, &y->down, &e->out };
        for (int i = 0; i < 5; i++)
            while (n && few_shared(w[i]->kind, w[i]->depth, n) > e->gpu.max_shared) n--;
    }
    return n;
}

static void check_memory(const Engine *e) {
    size_t available, total;
    CUDA(cudaMemGetInfo(&available, &total));
    if (e->needed > available) out_of_memory(e, available, total);
}

static Engine *engine_open(const Model *m, const EngineOptions *o) {
    Engine *e = (Engine *)xcalloc(1, sizeof *e, "engine");
    size_t V = (size_t)m->config.vocab_size;
    e->model = m;
    e->opt = *o;
    gpu_open(&e->gpu, 0);
    CUDA(cudaStreamCreateWithFlags(&e->queue.stream, cudaStreamNonBlocking));
    plan(e);
    e->counting = true;
    take_all(e);
    check_memory(e);
    e->counting = false;
    take_all(e);
    e->few = plan_few(e);
    void *host, *host_few;
    CUDA(cudaMallocHost(&host, e->meta_bytes));
    CUDA(cudaMallocHost(&host_few, e->meta_few_bytes));
    CUDA(cudaMallocHost(&e->host_logits, FEW * V * 4));
    CUDA(cudaMallocHost(&e->host_best, FEW * sizeof(Best)));
    memset(host, 0, e->meta_bytes);
    memset(host_few, 0, e->meta_few_bytes);
    meta_at(&e->host, host, e->opt.n_batch < FEW ? FEW : e->opt.n_batch);
    meta_at(&e->host_few, host_few, FEW);
    if (!e->exact) {
        CUBLAS(cublasCreate(&e->blas));
        CUBLAS(cublasSetStream(e->blas, e->queue.stream));
        CUBLAS(cublasSetWorkspace(e->blas, e->workspace, WORKSPACE));
    }
    upload_all(e);
    return e;
}

static void engine_close(Engine *e) {
    for (int n = 0; n <= FEW; n++)
        if (e->graph[n]) CUDA(cudaGraphExecDestroy(e->graph[n]));
    if (!e->exact) CUBLAS(cublasDestroy(e->blas));
    for (size_t i = 0; i < e->n_allocated; i++) CUDA(cudaFree(e->allocated[i]));
    CUDA(cudaFreeHost(e->host.token));
    CUDA(cudaFreeHost(e->host_few.token));
    CUDA(cudaFreeHost(e->host_logits));
    CUDA(cudaFreeHost(e->host_best));
    CUDA(cudaStreamDestroy(e->queue.stream));
    free(e->allocated);
    free(e->many_logits);
    free(e->layer);
    free(e);
}

/* Fills m from the batch. Tiles that are not used have no tokens. Returns how many are used. */
static int fill_meta(const Engine *e, Meta *m, const Batch *b, int *wanted) {
    const Config *c = &e->model->config;
    int most = TILE_ROWS / (c->n_heads / c->n_kv_heads), n_tiles = 0;
    *wanted = 0;
    for (int i = 0; i < b->n; i++) {
        Tile *t = &m->tile[n_tiles];
        m->token[i] = b->token[i];
        m->pos[i] = b->pos[i];
        m->seq[i] = b->seq[i];
        if (b->want[i]) m->wanted[(*wanted)++] = i;
        m->tile[i] = Tile{ 0, 0, 0, 0 };
        if (n_tiles && t[-1].seq == b->seq[i] && t[-1].pos + t[-1].count == b->pos[i] &&
            t[-1].count < most)
            t[-1].count++;
        else
            *t = Tile{ i, 1, b->seq[i], b->pos[i] }, n_tiles++;
    }
    return n_tiles;
}

static float *engine_forward(Engine *e, const Batch *b) {
    bool is_few = e->was_few = b->n <= e->few;
    int wanted;
    check_batch(b, &e->opt, e->model->config.vocab_size);
    int n_tiles = fill_meta(e, is_few ? &e->host_few : &e->host, b, &wanted);
    return is_few ? forward_few(e, b->n, wanted) : forward_many(e, b->n, n_tiles, wanted);
}

/* Nothing to undo, as in run.c. */
static void engine_cut(Engine *e, int seq, int pos) { (void)e, (void)seq, (void)pos; }

static int engine_likeliest(Engine *e, const float *logits) {
    int V = e->model->config.vocab_size, best = -1;
    if (e->was_few) return e->host_best[e->host_few.wanted[(logits - e->host_logits) / V]].id;
    for (int i = 0; i < V; i++) {
        if (!isfinite(logits[i])) return -1;
        bool known = i < e->model->vocab.n && e->model->vocab.type[i] != TOK_UNUSED;
        if (known && (best < 0 || logits[i] > logits[best])) best = i;
    }
    return best;
}

/* The kernels of section 5 and the plain ones treat each token as if it were alone; cuBLAS sums in
 * an order that it chooses by the number of tokens. */
static int engine_equal_rows(const Engine *e) {
    return e->exact ? e->opt.n_batch : e->few > 1 ? e->few : 1;
}

extern "C" const EngineBackend cuda_engine = { engine_open,  engine_forward,   engine_cut,
                                               engine_close, engine_likeliest, engine_equal_rows };
