/* train.c: training. Forward and backward pass, AdamW, and the loop around them, for the Llama
 * architecture of OpenCoder on the CPU.
 *
 *     ./train pretrain corpus.tok -o model.bin --shape tiny --tokenizer vocab.gguf    see -h
 *
 * What to know first: the forward pass is a chain of functions that ends in one number, the loss.
 * The backward pass walks the chain from its end and turns, function by function, the derivative of
 * the loss by a function's output into the derivatives by its inputs. dY here always means
 * d loss / d Y and has the shape of Y. So every op stands as a pair, x_forward and x_backward, with
 * the formula above it; the model is the list of forwards, its gradient the same list from the end.
 *
 *     x = embedding[token]
 *     for each layer:  mid = x + wo attention(rope(wq y), rope(wk y), wv y),       y = rmsnorm(x)
 *                      x' = mid + w_down (silu(w_gate y) * w_up y),                y = rmsnorm(mid)
 *     loss = mean over targets of -log softmax(head rmsnorm(x))[target]
 *
 * Contract of the whole file: gradients of activations are overwritten (=), gradients of parameters
 * add up (+=) until zero() is called, the gradient dx of the residual stream adds up along the way
 * down, because x goes on to the next layer and is also read by this one. Sums over tokens are cut
 * up in a way that does not depend on the number of threads, so the result does not either.
 *
 * Letters: B rows of T tokens, n = B T; C dim, H query heads, K key/value heads, D head_dim, F
 *          hidden_dim, V vocabulary, L layers. Loops: b, t, u (an earlier t), h, d.
 * Memory:  16 bytes a parameter (value, gradient, two moments), and activations, in floats:
 *            n L (2C + 2HD + 2KD + 2F + H + 2)              kept for the backward pass
 *          + n (4C + 2HD + 2KD + F + 2 + 2 rank) + T D      scratch
 *          + max(256, 2^23 / V) V + 128 T threads           some rows of logits, of scores
 *          (and the batch, panels of gemm: some 20 MB; of a new model the weights twice at first).
 *          With --recompute the layers share all they keep but their inputs: n L C + n (C + ...).
 * Sections: 1 arithmetic, 2 ops in pairs, 3 attention, 4 the trainer, 5 forward, 6 backward,
 *           7 AdamW, 8 files; and the loop: 9 a run, 10 checkpoints, 11 an update, 12 main.
 * Tests: tests/test_train.c (PyTorch), test_ops.c (finite differences), test_agree.c (run.c). */
#include "opencoder.h" /* Model, gemm, TrainerBackend */
#include "batch.h"     /* take_batch, check_weights; shards.h: NO_LOSS, TOKEN_ID */
#include "lora.h"      /* LoraPair: the adapter in training, for samples */
#ifndef OC_LIBRARY
#include "checkpoint.h"    /* new weights, OUT.ckpt-NNNNNN */
#include "progress.h"      /* CSV, plot, the line on stderr, samples, signals */
#include "ranks.h"         /* several processes, with MPI */
#include "train_options.h" /* opt, the recipe, learning_rate */
#endif
#ifdef _OPENMP
#include <omp.h> /* omp_get_thread_num, omp_set_num_threads */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Arithmetic: e^x, and names for the matrices that gemm multiplies */

/* e^x within 2 units of the last place, without a branch or a call, so that loops over it become
 * vector code (expf does not). x = n ln 2 + r with |r| <= ln 2 / 2: e^r by its series, 2^n by
 * adding n to the exponent. Below -87 it stays at e^-87 = 1.6e-38; NaN stays NaN. */
static inline float fast_exp(float x) {
    const float shift = 12582912; /* 1.5 2^23: the sum's low bits are x / ln 2 rounded, n */
    x = x < -87 ? -87 : x;
    x = x > 88 ? 88 : x;
    float z = x * 1.44269504f + shift, n = z - shift;
    float r = x - n * 0.693145752f - n * 1.42860677e-6f; /* ln 2 in two parts, the first exact */
    float series = 1.0f / 720 + r * (1.0f / 5040);
    series = 1.0f / 24 + r * (1.0f / 120 + r * series);
    series = 1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * series)));
    uint32_t bits;
    memcpy(&bits, &z, 4);
    bits = (bits << 23) + 0x3f800000;
    memcpy(&n, &bits, 4);
    return series * n;
}

/* The largest of n numbers, in 16 lanes: a form that every compiler makes vector code of. */
static float largest(const float *x, int n) {
    float lane[16];
    for (int l = 0; l < 16; l++) lane[l] = x[0];
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < 16; l++) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

/* x (rows, cols), row after row; rows `stride` floats apart. */
static Matrix strided(const float *x, size_t stride) {
    return (Matrix){ .data = x, .row = stride, .col = 1 };
}
static Matrix transposed(const float *x, size_t stride) {
    return (Matrix){ .data = x, .row = 1, .col = stride };
}

/* W (rows, cols), or W^T, of any storage type. */
static Matrix weight(const Tensor *w, bool transpose) {
    const float *data = (const float *)(const void *)w->data;
    if (w->type != T_F32) return (Matrix){ .stored = w, .transposed = transpose };
    return transpose ? transposed(data, (size_t)w->cols) : strided(data, (size_t)w->cols);
}

static const float *floats(const Tensor *w) { return (const float *)(const void *)w->data; }

/* ------------------------------------------------------------------------------------------------
 * 2. The ops, forward and backward in pairs. Test of each: tests/test_ops.c. */

/* y_i = x_i r w_i with r = 1 / sqrt(mean(x^2) + eps); r (n) is kept, x and y are (n, C), w (C).
 * Zhang and Sennrich, arXiv:1910.07467. */
static void rmsnorm_forward(float *y, float *r, const float *x, const float *w, int n, int C,
                            float eps) {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        const float *x_t = x + (size_t)t * (size_t)C;
        float *y_t = y + (size_t)t * (size_t)C, sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < C; i++) sum += x_t[i] * x_t[i];
        float r_t = r[t] = 1 / sqrtf(sum / (float)C + eps);
        for (int i = 0; i < C; i++) y_t[i] = x_t[i] * r_t * w[i];
    }
}

/* dw_i += sum_t dy_ti x_ti r_t                                               where dw is wanted
 * dx_i += r (w_i dy_i - x_i r^2 mean_j(w_j dy_j x_j))       since dr/dx_i = -r^3 x_i / C  */
static void rmsnorm_backward(float *dx, float *dw, const float *dy, const float *x, const float *w,
                             const float *r, int n, int C) {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        size_t row = (size_t)t * (size_t)C;
        const float *x_t = x + row, *dy_t = dy + row;
        float *dx_t = dx + row, r_t = r[t], sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < C; i++) sum += w[i] * dy_t[i] * x_t[i];
        float mean = sum / (float)C * r_t * r_t;
        for (int i = 0; i < C; i++) dx_t[i] += r_t * (w[i] * dy_t[i] - x_t[i] * mean);
    }
#pragma omp parallel for schedule(static)
    for (int i0 = 0; i0 < C; i0 += 64) { /* a thread owns columns: the order of t is fixed */
        int i1 = i0 + 64 < C ? i0 + 64 : C;
        for (int t = 0; t < n && dw; t++) {
            const float *x_t = x + (size_t)t * (size_t)C, *dy_t = dy + (size_t)t * (size_t)C;
            for (int i = i0; i < i1; i++) dw[i] += dy_t[i] * x_t[i] * r[t];
        }
    }
}

/* Turns every head of v (n, heads, D) in place: pair i of a token at position p by the angle
 * p theta^(-2i/D), arXiv:2104.09864; cosine, sine: (positions, D/2). The backward pass is the
 * rotation by the opposite angle, sign = -1, because a rotation's inverse is its transpose. */
static void rope(float *v, const float *cosine, const float *sine, const int *pos, int n, int heads,
                 int D, float sign) {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        const float *cos_t = cosine + (size_t)pos[t] * (size_t)(D / 2);
        const float *sin_t = sine + (size_t)pos[t] * (size_t)(D / 2);
        float *v_t = v + (size_t)t * (size_t)heads * (size_t)D;
        for (int h = 0; h < heads; h++, v_t += D)
            for (int i = 0; i < D / 2; i++) {
                float a = v_t[2 * i], b = v_t[2 * i + 1], s = sign * sin_t[i];
                v_t[2 * i] = a * cos_t[i] - b * s;
                v_t[2 * i + 1] = a * s + b * cos_t[i];
            }
    }
}

/* hidden = silu(gate) up,  silu(g) = g s(g),  s(g) = 1 / (1 + e^-g)     (n) numbers each.
 * SwiGLU, arXiv:2002.05202. */
static void swiglu_forward(float *hidden, const float *gate, const float *up, size_t n) {
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) hidden[i] = gate[i] / (1 + fast_exp(-gate[i])) * up[i];
}

/* dup = dhidden silu(g),  dgate = dhidden up silu'(g),  silu'(g) = s + g s (1 - s), as s' = s(1-s).
 * In place: gate, up become dgate, dup, and dhidden becomes hidden, which w_down's gradient needs
 * and which was not kept. */
static void swiglu_backward(float *gate, float *up, float *dhidden, size_t n) {
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dhidden[i], s = 1 / (1 + fast_exp(-g));
        gate[i] = d * u * s * (1 + g * (1 - s));
        up[i] = d * g * s;
        dhidden[i] = g * s * u;
    }
}

/* x (n, C) = rows of the embedding (V, C), of any storage type, that the tokens name. */
static void embedding_forward(float *x, const Tensor *w, const uint32_t *token, int n) {
    size_t C = (size_t)w->cols;
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        const uint8_t *row = w->data + (size_t)token[t] * row_bytes(w->type, C);
        dequantize(x + (size_t)t * C, row, w->type, 0, C);
    }
}

/* dw[token_t] += dx_t. A token may come twice, so threads own columns, not tokens. */
static void embedding_backward(float *dw, const float *dx, const uint32_t *token, int n, int C) {
#pragma omp parallel for schedule(static)
    for (int i0 = 0; i0 < C; i0 += 64) {
        int i1 = i0 + 64 < C ? i0 + 64 : C;
        for (int t = 0; t < n; t++) {
            const float *dx_t = dx + (size_t)t * (size_t)C;
            float *dw_t = dw + (size_t)token[t] * (size_t)C;
            for (int i = i0; i < i1; i++) dw_t[i] += dx_t[i];
        }
    }
}

/* Loss of n rows of logits (n, V) against their targets: loss_t = -log p_t[target], p = softmax, or
 * 0 where the target is marked NO_LOSS. The logits become their own gradient,
 *   dlogits_i = scale (p_i - [i = target]),   from   loss = log sum_j e^(l_j) - l_target. */
static void cross_entropy(float *logits, float *loss, const uint32_t *target, int n, int V,
                          float scale) {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        float *l = logits + (size_t)t * (size_t)V, max = largest(l, V), sum = 0;
        int id = TOKEN_ID(target[t]);
        bool counts = !(target[t] & NO_LOSS);
        loss[t] = 0;
        if (!counts) memset(l, 0, (size_t)V * sizeof *l);
        if (!counts) continue;
        float target_logit = l[id] - max;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < V; i++) {
            float p = fast_exp(l[i] - max);
            sum += p;
            l[i] = p;
        }
        loss[t] = logf(sum) - target_logit;
        float factor = scale / sum;
        for (int i = 0; i < V; i++) l[i] *= factor;
        l[id] -= scale;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. Attention, Vaswani et al., arXiv:1706.03762, with shared key/value heads (GQA,
 * arXiv:2305.13245): out = softmax(q k^T / sqrt(D)) v for one head, a block of QUERIES rows at a
 * time against all keys that the last of them sees:
 *
 *               keys  first ........ t0 ... t1     scores (QUERIES, keys), T^2 in all, are never
 *     query t0        x x x x x x x  x              kept: the forward pass leaves one number a
 *           ..        x x x x x x x  x x            query, lse = log sum exp(scores), from which
 *           t1 - 1    . . x x x x x  x x x          the backward pass makes them again
 *                                                   (FlashAttention, arXiv:2205.14135)
 *
 * first_t is where the document of token t begins; what stands before it is not seen. */

enum { QUERIES = 64 };

/* What one head of one row of the batch works on. Tokens are `q_row` and `kv_row` floats apart. */
typedef struct {
    const float *q, *k, *v, *out, *dout; /* (T, D) each, of this head */
    const int *first;                    /* (T) */
    size_t q_row, kv_row;
    int D;
    float scale; /* 1 / sqrt(D) */
} Head;

/* scores (t1 - t0, keys) = q k^T of queries t0.. against the keys from `first` up to t1. */
static int head_scores(float *scores, const Head *a, int t0, int t1) {
    int first = a->first[t0], keys = t1 - first;
    gemm_here(scores, (size_t)keys, strided(a->q + (size_t)t0 * a->q_row, a->q_row),
              transposed(a->k + (size_t)first * a->kv_row, a->kv_row), t1 - t0, keys, a->D, 0);
    return keys;
}

/* p_u = e^(s_u scale - lse) for the keys that query t sees, 0 for the others. */
static void head_probabilities(float *p, const Head *a, int t, int from, int keys, float lse) {
    int begin = a->first[t] - from, end = t + 1 - from;
    for (int u = 0; u < begin; u++) p[u] = 0;
    for (int u = begin; u < end; u++) p[u] = fast_exp(p[u] * a->scale - lse);
    for (int u = end; u < keys; u++) p[u] = 0;
}

/* lse = log sum_u e^(s_u scale) over the keys that query t sees. */
static float head_lse(const float *s, const Head *a, int t, int from) {
    int begin = a->first[t] - from, end = t + 1 - from;
    float max = largest(s + begin, end - begin), sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int u = begin; u < end; u++) sum += fast_exp((s[u] - max) * a->scale);
    return max * a->scale + logf(sum);
}

/* out (T, D) of one head and lse, H floats from token to token; scores: scratch (QUERIES, T). */
static void head_forward(float *out, float *lse, int H, const Head *a, int T, float *scores) {
    for (int t0 = 0; t0 < T; t0 += QUERIES) {
        int t1 = t0 + QUERIES < T ? t0 + QUERIES : T, first = a->first[t0];
        int keys = head_scores(scores, a, t0, t1);
        for (int t = t0; t < t1; t++) {
            float *s = scores + (size_t)(t - t0) * (size_t)keys;
            float *lse_t = lse + (size_t)t * (size_t)H;
            *lse_t = head_lse(s, a, t, first);
            head_probabilities(s, a, t, first, keys, *lse_t);
        }
        gemm_here(out + (size_t)t0 * a->q_row, a->q_row, strided(scores, (size_t)keys),
                  strided(a->v + (size_t)first * a->kv_row, a->kv_row), t1 - t0, a->D, keys, 0);
    }
}

/* With p = softmax(s), s = q k^T scale, o = p v, for a query:
 *   dv_u += p_u do                 dp_u = do . v_u
 *   ds_u  = p_u (dp_u - sum_w p_w dp_w) = p_u (dp_u - do . o),   as dp_u/ds_w = p_u ([u=w] - p_w)
 *   dq    = scale sum_u ds_u k_u   dk_u += scale ds_u q
 * dq (T, D) is overwritten, dk and dv (T, D) add up over the query heads that share them. p, ds:
 * scratch (QUERIES, T) each. */
static void head_backward(float *dq, float *dk, float *dv, const float *lse, int H, const Head *a,
                          int T, float *p, float *ds) {
    for (int t0 = 0; t0 < T; t0 += QUERIES) {
        int t1 = t0 + QUERIES < T ? t0 + QUERIES : T, first = a->first[t0], n = t1 - t0;
        int keys = head_scores(p, a, t0, t1);
        const float *q = a->q + (size_t)t0 * a->q_row, *dout = a->dout + (size_t)t0 * a->q_row;
        size_t past = (size_t)first * a->kv_row;
        gemm_here(ds, (size_t)keys, strided(dout, a->q_row), transposed(a->v + past, a->kv_row), n,
                  keys, a->D, 0); /* dp for now */
        for (int t = t0; t < t1; t++) {
            size_t row = (size_t)(t - t0) * (size_t)keys;
            const float *o_t = a->out + (size_t)t * a->q_row;
            const float *do_t = a->dout + (size_t)t * a->q_row;
            float sum = 0;
            head_probabilities(p + row, a, t, first, keys, lse[(size_t)t * (size_t)H]);
#pragma omp simd reduction(+ : sum)
            for (int d = 0; d < a->D; d++) sum += do_t[d] * o_t[d];
            for (size_t u = row; u < row + (size_t)keys; u++)
                ds[u] = p[u] * (ds[u] - sum) * a->scale;
        }
        gemm_here(dv + past, a->kv_row, transposed(p, (size_t)keys), strided(dout, a->q_row), keys,
                  a->D, n, GEMM_ADD);
        gemm_here(dq + (size_t)t0 * a->q_row, a->q_row, strided(ds, (size_t)keys),
                  strided(a->k + past, a->kv_row), n, a->D, keys, 0);
        gemm_here(dk + past, a->kv_row, transposed(ds, (size_t)keys), strided(q, a->q_row), keys,
                  a->D, n, GEMM_ADD);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 4. The trainer: what is trained, and memory for everything, laid out once */

/* One tensor that is trained: a piece of the four equal blocks params, grads, m, v. */
typedef struct {
    char name[64];
    int rows, cols;
    bool decays; /* matrices are pulled towards 0 by the weight decay, norms are not */
    size_t at;   /* its first number in each block */
} Param;

/* y = W x, or with LoRA (arXiv:2106.09685) y = W x + (alpha / rank) B A x, where W stays as the
 * file has it, A (rank, in) and B (out, rank) are trained. NULL: not trained, not there. */
typedef struct {
    const Tensor *w;
    float *dw, *a, *da, *b, *db;
} Linear;

enum { WQ, WK, WV, WO, GATE, UP, DOWN, LINEARS };

/* What the forward pass of a layer keeps for its backward pass. */
typedef struct {
    float *r_attn, *r_ffn;  /* (n) 1 / rms of x and of mid */
    float *q, *k, *v;       /* (n, H D), (n, K D), (n, K D), q and k turned by RoPE */
    float *attn_out, *lse;  /* (n, H D), (n, H) */
    float *mid, *gate, *up; /* (n, C) x + attention; (n, F) twice */
} Kept;

typedef struct { /* a layer: what it multiplies with, what it was given, what it keeps */
    Linear linear[LINEARS];
    const Tensor *attn_norm, *ffn_norm; /* (C) */
    float *d_attn_norm, *d_ffn_norm;    /* NULL with LoRA */
    float *x;                           /* (n, C) what the layer is given */
    Kept kept;                          /* with --recompute all layers share one */
} Layer;

struct Trainer {
    Model model; /* the weights as tensors: pieces of params, or with LoRA those of the file */
    TrainOptions opt;
    int n_params, n_threads, flags; /* flags: of gemm */
    Param *param;
    float *params, *grads, *m, *v; /* (count) each: value, gradient, AdamW's two moments */
    size_t count;
    Lora adapter; /* the same as an engine takes it */
    Layer *layer;
    const Tensor *embedding, *head, *out_norm;
    float *d_embedding, *d_head, *d_out_norm; /* NULL with LoRA */
    float *memory;                            /* what follows points into it: see lay_out */
    float *cosine, *sine;                     /* (T, D/2) */
    float *x_out, *r_out;                     /* (n, C), (n): the last layer's output */
    float *normed, *dnormed, *dx;             /* (n, C) */
    float *dq, *dattn, *dk, *dv;              /* (n, H D) twice, (n, K D) twice */
    float *hidden;                            /* (n, F) */
    float *logits, *loss;                     /* (chunk, V), (n) */
    float *scores;                            /* (threads, 2, QUERIES, T) */
    float *z, *dz;                            /* (n, rank): LoRA's middle */
    Tokens batch;                             /* (n): ids, targets, places; see Head for `first` */
};

/* Rows of logits that exist at a time: the head works in chunks, since (n, V) would be the largest
 * thing of all. */
static size_t chunk_rows(const Config *c) {
    size_t rows = ((size_t)1 << 23) / (size_t)c->vocab_size;
    return rows < 256 ? 256 : rows;
}

typedef struct {
    float **to;
    size_t n;
} Piece;

/* Points every piece into the memory at `base`, whole cache lines each; or, where that is NULL,
 * only counts. Returns how many floats are used so far. */
static size_t place(const Piece *piece, size_t n_pieces, float *base, size_t used) {
    for (size_t i = 0; i < n_pieces; i++) {
        *piece[i].to = base ? base + used : NULL;
        used += (piece[i].n + 15) & ~(size_t)15;
    }
    return used;
}
#define PLACE(piece, base, used) place(piece, sizeof(piece) / sizeof *(piece), base, used)

/* All activations, saved ones and scratch. */
static size_t lay_out(Trainer *t, float *base) {
    const Config *c = &t->model.config;
    size_t T = (size_t)t->opt.seq_len, n = (size_t)t->opt.batch * T, D = (size_t)c->head_dim;
    size_t C = (size_t)c->dim, F = (size_t)c->hidden_dim, H = (size_t)c->n_heads, HD = H * D;
    size_t KD = (size_t)c->n_kv_heads * D, V = (size_t)c->vocab_size, used = 0;
    size_t rank = (size_t)t->opt.lora_rank;
    for (int i = 0; i < c->n_layers; i++) {
        Layer *l = &t->layer[i];
        Kept *k = &l->kept;
        Piece input[] = { { &l->x, n * C } };
        Piece kept[] = { { &k->r_attn, n },        { &k->r_ffn, n },   { &k->q, n * HD },
                         { &k->k, n * KD },        { &k->v, n * KD },  { &k->mid, n * C },
                         { &k->attn_out, n * HD }, { &k->lse, n * H }, { &k->gate, n * F },
                         { &k->up, n * F } };
        used = PLACE(input, base, used);
        if (i && t->opt.recompute)
            *k = t->layer->kept;
        else
            used = PLACE(kept, base, used);
    }
    Piece rest[] = { { &t->cosine, T * D / 2 },
                     { &t->sine, T * D / 2 },
                     { &t->x_out, n * C },
                     { &t->r_out, n },
                     { &t->normed, n * C },
                     { &t->dnormed, n * C },
                     { &t->dx, n * C },
                     { &t->dq, n * HD },
                     { &t->dattn, n * HD },
                     { &t->dk, n * KD },
                     { &t->dv, n * KD },
                     { &t->hidden, n * F },
                     { &t->loss, n },
                     { &t->logits, chunk_rows(c) * V },
                     { &t->z, n * rank },
                     { &t->dz, n * rank },
                     { &t->scores, (size_t)t->n_threads * 2 * QUERIES * T } };
    return PLACE(rest, base, used);
}

static void add_param(Trainer *t, const char *name, const char *suffix, int rows, int cols) {
    Param *p = &t->param[t->n_params++];
    snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    p->rows = rows;
    p->cols = cols;
    p->decays = rows > 1 || *suffix;
    p->at = t->count;
    t->count += (size_t)rows * (size_t)cols;
}

/* The seven matrices of a layer by their place in the list of tensors. */
static Tensor *layer_matrix(const Weights *w, int layer, int which) {
    Tensor *all[LINEARS] = { w->wq, w->wk, w->wv, w->wo, w->w_gate, w->w_up, w->w_down };
    return &all[which][layer];
}

/* Lists what is trained: every tensor of the model, or with LoRA a pair for every matrix in a
 * layer. */
static void list_params(Trainer *t) {
    const Config *c = &t->model.config;
    int n, rank = t->opt.lora_rank;
    TensorSpec *spec = tensor_specs(c, &n);
    t->param = xcalloc((size_t)n * 2, sizeof *t->param, "list of parameters");
    for (int i = 0; i < n; i++) {
        const TensorSpec *s = &spec[i];
        if (!rank) add_param(t, s->name, "", s->rows, s->cols);
        if (!rank || s->rows == 1 || strncmp(s->name, "blk.", 4)) continue;
        add_param(t, s->name, ".lora_a", rank, s->cols);
        add_param(t, s->name, ".lora_b", s->rows, rank);
    }
    free(spec);
}

/* The parameter called name + suffix in one of the four blocks; NULL where there is none. */
static float *param_in(const Trainer *t, float *block, Str name, const char *suffix) {
    for (int i = 0; i < t->n_params; i++) {
        const char *p = t->param[i].name;
        if (!strncmp(p, name.s, name.n) && !strcmp(p + name.n, suffix))
            return block + t->param[i].at;
    }
    return NULL;
}

/* Without LoRA the model's tensors become pieces of params, with the values of the file in f32. */
static void adopt_weights(Trainer *t, const Tensor *from, Tensor *to) {
    float *values = param_in(t, t->params, from->name, "");
    size_t cols = (size_t)from->cols, bytes = row_bytes(from->type, cols);
    for (size_t r = 0; r < (size_t)from->rows; r++)
        dequantize(values + r * cols, from->data + r * bytes, from->type, 0, cols);
    *to = *from;
    to->type = T_F32;
    to->data = (const uint8_t *)values;
}

static void connect_linear(Trainer *t, Linear *l, const Tensor *w) {
    l->w = w;
    l->dw = param_in(t, t->grads, w->name, "");
    l->a = param_in(t, t->params, w->name, ".lora_a");
    l->da = param_in(t, t->grads, w->name, ".lora_a");
    l->b = param_in(t, t->params, w->name, ".lora_b");
    l->db = param_in(t, t->grads, w->name, ".lora_b");
}

/* Fills the layers' pointers from the model's tensors and the list of parameters. */
static void connect(Trainer *t) {
    const Weights *w = &t->model.weights;
    for (int i = 0; i < t->model.config.n_layers; i++) {
        Layer *l = &t->layer[i];
        for (int k = 0; k < LINEARS; k++) connect_linear(t, &l->linear[k], layer_matrix(w, i, k));
        l->attn_norm = &w->attn_norm[i];
        l->ffn_norm = &w->ffn_norm[i];
        l->d_attn_norm = param_in(t, t->grads, l->attn_norm->name, "");
        l->d_ffn_norm = param_in(t, t->grads, l->ffn_norm->name, "");
    }
    t->embedding = w->tok_emb;
    t->head = t->model.config.tied ? w->tok_emb : w->out;
    t->out_norm = w->out_norm;
    t->d_embedding = param_in(t, t->grads, t->embedding->name, "");
    t->d_head = param_in(t, t->grads, t->head->name, "");
    t->d_out_norm = param_in(t, t->grads, t->out_norm->name, "");
}

/* A starts uniform in +-1 / sqrt(in), B at 0, so that training starts from the model as it is. */
static void init_adapter(Trainer *t) {
    uint64_t state = 2 * t->opt.seed + 1; /* not 0 */
    for (int i = 0; i < t->n_params; i += 2) {
        float *a = t->params + t->param[i].at, bound = 1 / sqrtf((float)t->param[i].cols);
        size_t n = (size_t)t->param[i].rows * (size_t)t->param[i].cols;
        for (size_t k = 0; k < n; k++)
            a[k] = ((float)(next_random(&state) >> 40) * 0x1p-23f - 1) * bound;
    }
}

/* The adapter in training as pairs of tensors, for an engine. */
static void list_pairs(Trainer *t) {
    Lora *l = &t->adapter;
    Error e;
    *l = (Lora){ .n = t->n_params / 2, .alpha = t->opt.lora_alpha, .factor = 1 };
    l->pair = xcalloc((size_t)l->n, sizeof *l->pair, "adapter");
    l->max_rank = t->opt.lora_rank;
    for (int i = 0; i < l->n; i++) {
        const Param *a = &t->param[2 * i], *b = a + 1;
        LoraPair *p = &l->pair[i];
        p->name = (Str){ a->name, strlen(a->name) - strlen(".lora_a") };
        p->a = (Tensor){ p->name, T_F32, a->rows, a->cols, (uint8_t *)(t->params + a->at) };
        p->b = (Tensor){ p->name, T_F32, b->rows, b->cols, (uint8_t *)(t->params + b->at) };
        p->scale = l->alpha / (float)l->max_rank;
        p->rank = l->max_rank;
        if (b->rows > l->max_rows) l->max_rows = b->rows;
    }
    if (!name_index(&l->index, l->pair, (uint64_t)l->n, sizeof *l->pair, "pair", &e))
        die("adapter: %s", e.text);
}

/* block = the tensors prefix + name of the file, f32, where it has them; death if the shape is not
 * the parameter's. False where one is missing. */
static bool load_block(const Trainer *t, float *block, const Gguf *g, const char *prefix) {
    bool all = true;
    for (int i = 0; i < t->n_params; i++) {
        char name[80];
        const Param *p = &t->param[i];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        const Tensor *from = gguf_tensor(g, name);
        if (!from) all = false;
        if (!from) continue;
        if (from->type != T_F32 || from->rows != p->rows || from->cols != p->cols)
            die("tensor %s: %s %d x %d, expected f32 %d x %d", name, type_name(from->type),
                from->rows, from->cols, p->rows, p->cols);
        memcpy(block + p->at, from->data, tensor_bytes(from));
    }
    return all;
}

/* The optimizer's state, all of it or none. */
static void load_moments(Trainer *t, const Gguf *g) {
    if (load_block(t, t->m, g, "opt.m.") && load_block(t, t->v, g, "opt.v.")) return;
    memset(t->m, 0, t->count * sizeof *t->m);
    memset(t->v, 0, t->count * sizeof *t->v);
}

static void share_weights(Trainer *t, const Model *init) {
    Weights *to = &t->model.weights;
    const Weights *from = &init->weights;
    const Config *c = &t->model.config;
#define X(field, name, n, rows, cols)                                                              \
    to->field = xcalloc((size_t)(n), sizeof(Tensor), "tensors");                                   \
    for (int i = 0; i < (n); i++) {                                                                \
        to->field[i] = from->field[i];                                                             \
        if (!t->opt.lora_rank) adopt_weights(t, &from->field[i], &to->field[i]);                   \
    }
    TENSORS(X)
#undef X
}

static Trainer *trainer_open(const Model *init, const Gguf *adapter, const TrainOptions *o) {
    Trainer *t = xcalloc(1, sizeof *t, "trainer");
    size_t n = (size_t)o->batch * (size_t)o->seq_len;
    t->model = *init;
    t->opt = *o;
    t->n_threads = thread_count();
    t->flags = o->bf16 ? GEMM_BF16 : 0;
    t->layer = xcalloc((size_t)init->config.n_layers, sizeof *t->layer, "layers");
    list_params(t);
    t->params = xcalloc(t->count, 4 * sizeof(float), "parameters, 16 bytes each");
    t->grads = t->params + t->count;
    t->m = t->grads + t->count;
    t->v = t->m + t->count;
    share_weights(t, init);
    connect(t);
    t->memory = xcalloc(lay_out(t, NULL), sizeof(float), "activations; see --recompute");
    lay_out(t, t->memory);
    uint32_t *batch = xcalloc(n, 2 * sizeof *batch, "batch");
    int *places = xcalloc(n, 2 * sizeof *places, "batch");
    t->batch = (Tokens){ batch, batch + n, places, places + n };
    fill_angles(t->cosine, t->sine, o->seq_len, &init->config);
    if (o->lora_rank) init_adapter(t), list_pairs(t);
    if (adapter && !load_block(t, t->params, adapter, ""))
        die("adapter: a tensor is missing, expected %d for rank %d", t->n_params, o->lora_rank);
    load_moments(t, adapter ? adapter : &init->gguf);
    return t;
}

static void trainer_close(Trainer *t) {
    void *all[] = { t->param, t->params, t->layer, t->memory, t->batch.token, t->batch.pos };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    weights_free(&t->model.weights);
    lora_free(&t->adapter);
    free(t);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Forward: keeps in every layer what the backward pass needs, and ends with x_out */

/* z (n, rank) = alpha / rank x A^T: what LoRA's B is given. */
static void lora_middle(Trainer *t, const float *x, const Linear *l, int n) {
    int in = l->w->cols, rank = t->opt.lora_rank;
    float scale = t->opt.lora_alpha / (float)rank;
    gemm(t->z, (size_t)rank, strided(x, (size_t)in), transposed(l->a, (size_t)in), n, rank, in, 0);
    for (size_t i = 0; i < (size_t)n * (size_t)rank; i++) t->z[i] *= scale;
}

/* y (n, out) = x (n, in) W^T, or += with GEMM_ADD. */
static void linear_forward(Trainer *t, float *y, const float *x, const Linear *l, int n, int add) {
    int in = l->w->cols, out = l->w->rows, rank = t->opt.lora_rank;
    gemm(y, (size_t)out, strided(x, (size_t)in), weight(l->w, true), n, out, in, add | t->flags);
    if (!l->a) return;
    lora_middle(t, x, l, n);
    gemm(y, (size_t)out, strided(t->z, (size_t)rank), transposed(l->b, (size_t)rank), n, out, rank,
         GEMM_ADD);
}

/* dz (n, rank) = alpha / rank dy B: LoRA's middle on the way back. */
static void lora_middle_backward(Trainer *t, const float *dy, const Linear *l, int n) {
    int out = l->w->rows, rank = t->opt.lora_rank;
    float scale = t->opt.lora_alpha / (float)rank;
    gemm(t->dz, (size_t)rank, strided(dy, (size_t)out), strided(l->b, (size_t)rank), n, rank, out,
         0);
    for (size_t i = 0; i < (size_t)n * (size_t)rank; i++) t->dz[i] *= scale;
}

/* dx (n, in) = dy W, or += with GEMM_ADD, since y_o = sum_i W_oi x_i.       LoRA: dx += dz A */
static void linear_backward_x(Trainer *t, float *dx, const float *dy, const Linear *l, int n,
                              int add) {
    int in = l->w->cols, out = l->w->rows, rank = t->opt.lora_rank;
    gemm(dx, (size_t)in, strided(dy, (size_t)out), weight(l->w, false), n, in, out, add | t->flags);
    if (!l->a) return;
    lora_middle_backward(t, dy, l, n);
    gemm(dx, (size_t)in, strided(t->dz, (size_t)rank), strided(l->a, (size_t)in), n, in, rank,
         GEMM_ADD);
}

/* dW (out, in) += dy^T x.      LoRA: dB (out, rank) += dy^T z,  dA (rank, in) += dz^T x */
static void linear_backward_w(Trainer *t, const float *dy, const float *x, const Linear *l, int n) {
    int in = l->w->cols, out = l->w->rows, rank = t->opt.lora_rank;
    Matrix dy_t = transposed(dy, (size_t)out), inputs = strided(x, (size_t)in);
    if (l->dw) gemm(l->dw, (size_t)in, dy_t, inputs, out, in, n, GEMM_ADD | t->flags);
    if (!l->a) return;
    lora_middle(t, x, l, n);
    gemm(l->db, (size_t)rank, dy_t, strided(t->z, (size_t)rank), out, rank, n, GEMM_ADD);
    lora_middle_backward(t, dy, l, n);
    gemm(l->da, (size_t)in, transposed(t->dz, (size_t)rank), inputs, rank, in, n, GEMM_ADD);
}

/* Head h of row b of the batch; with its key/value head, h / (H / K). */
static Head head_of(const Trainer *t, const Kept *k, int b, int h, int T) {
    const Config *c = &t->model.config;
    size_t D = (size_t)c->head_dim, row = (size_t)b * (size_t)T;
    size_t q_row = (size_t)c->n_heads * D, kv_row = (size_t)c->n_kv_heads * D;
    size_t q = row * q_row + (size_t)h * D;
    size_t kv = row * kv_row + (size_t)(h / (c->n_heads / c->n_kv_heads)) * D;
    return (Head){ .q = k->q + q,
                   .k = k->k + kv,
                   .v = k->v + kv,
                   .out = k->attn_out + q,
                   .dout = t->dattn + q,
                   .first = t->batch.first + row,
                   .q_row = q_row,
                   .kv_row = kv_row,
                   .D = c->head_dim,
                   .scale = 1 / sqrtf((float)c->head_dim) };
}

static float *thread_scores(const Trainer *t) {
    int thread = 0;
#ifdef _OPENMP
    thread = omp_get_thread_num();
#endif
    return t->scores + (size_t)thread * 2 * QUERIES * (size_t)t->opt.seq_len;
}

/* attn_out (n, H D) and lse (n, H), heads and rows shared among the threads. */
static void attention_forward(Trainer *t, Kept *k, int B, int T) {
    const Config *c = &t->model.config;
    int H = c->n_heads;
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int job = 0; job < B * H; job++) {
        Head a = head_of(t, k, job / H, job % H, T);
        float *lse = k->lse + (size_t)(job / H) * (size_t)T * (size_t)H + (size_t)(job % H);
        head_forward(k->attn_out + (a.out - k->attn_out), lse, H, &a, T, thread_scores(t));
    }
}

/* dq, dk, dv from dattn. A job is a key/value head, so that no two threads add to the same dk. */
static void attention_backward(Trainer *t, const Kept *k, int B, int T) {
    const Config *c = &t->model.config;
    int H = c->n_heads, K = c->n_kv_heads, shared = H / K;
    size_t kv = (size_t)B * (size_t)T * (size_t)K * (size_t)c->head_dim;
    memset(t->dk, 0, kv * sizeof *t->dk);
    memset(t->dv, 0, kv * sizeof *t->dv);
#pragma omp parallel for schedule(dynamic) num_threads(t->n_threads)
    for (int job = 0; job < B * K; job++)
        for (int h = job % K * shared; h < (job % K + 1) * shared; h++) {
            Head a = head_of(t, k, job / K, h, T);
            const float *lse = k->lse + (size_t)(job / K) * (size_t)T * (size_t)H + (size_t)h;
            float *p = thread_scores(t), *ds = p + QUERIES * (size_t)t->opt.seq_len;
            head_backward(t->dq + (a.q - k->q), t->dk + (a.k - k->k), t->dv + (a.v - k->v), lse, H,
                          &a, T, p, ds);
        }
}

/* One layer, x -> x_next, both (n, C). */
static void layer_forward(Trainer *t, Layer *l, float *x_next, int B, int T) {
    const Config *c = &t->model.config;
    const Linear *w = l->linear;
    Kept *k = &l->kept;
    int n = B * T, C = c->dim, H = c->n_heads, K = c->n_kv_heads, D = c->head_dim;
    size_t bytes = (size_t)n * (size_t)C * sizeof(float);
    float eps = c->norm_eps;
    /* 1 */ rmsnorm_forward(t->normed, k->r_attn, l->x, floats(l->attn_norm), n, C, eps);
    /* 2 */ linear_forward(t, k->q, t->normed, &w[WQ], n, 0);
    /*   */ linear_forward(t, k->k, t->normed, &w[WK], n, 0);
    /*   */ linear_forward(t, k->v, t->normed, &w[WV], n, 0);
    /* 3 */ rope(k->q, t->cosine, t->sine, t->batch.pos, n, H, D, 1);
    /*   */ rope(k->k, t->cosine, t->sine, t->batch.pos, n, K, D, 1);
    /* 4 */ attention_forward(t, k, B, T);
    /* 5 */ memcpy(k->mid, l->x, bytes);
    /*   */ linear_forward(t, k->mid, k->attn_out, &w[WO], n, GEMM_ADD);
    /* 6 */ rmsnorm_forward(t->normed, k->r_ffn, k->mid, floats(l->ffn_norm), n, C, eps);
    /* 7 */ linear_forward(t, k->gate, t->normed, &w[GATE], n, 0);
    /*   */ linear_forward(t, k->up, t->normed, &w[UP], n, 0);
    /* 8 */ swiglu_forward(t->hidden, k->gate, k->up, (size_t)n * (size_t)c->hidden_dim);
    /* 9 */ memcpy(x_next, k->mid, bytes);
    /*   */ linear_forward(t, x_next, t->hidden, &w[DOWN], n, GEMM_ADD);
}

static void forward(Trainer *t, const uint32_t *tokens, int B, int T) {
    int L = t->model.config.n_layers;
    take_batch(&t->batch, tokens, B, T, &t->opt, t->model.config.vocab_size);
    embedding_forward(t->layer[0].x, t->embedding, t->batch.token, B * T);
    for (int i = 0; i < L; i++)
        layer_forward(t, &t->layer[i], i + 1 < L ? t->layer[i + 1].x : t->x_out, B, T);
    rmsnorm_forward(t->normed, t->r_out, t->x_out, floats(t->out_norm), B * T, t->model.config.dim,
                    t->model.config.norm_eps);
}

/* Sum of the losses of n tokens from `normed`, a chunk of rows at a time. With `train` also their
 * gradients, times scale: dnormed = dlogits W and dW += dlogits^T normed. */
static double head_loss(Trainer *t, int n, bool train, float scale) {
    size_t C = (size_t)t->model.config.dim, V = (size_t)t->model.config.vocab_size, rows;
    double sum = 0;
    for (size_t i = 0; i < (size_t)n; i += rows) {
        rows = chunk_rows(&t->model.config);
        if (rows > (size_t)n - i) rows = (size_t)n - i;
        Matrix x = strided(t->normed + i * C, C);
        gemm(t->logits, V, x, weight(t->head, true), (int)rows, (int)V, (int)C, t->flags);
        cross_entropy(t->logits, t->loss + i, t->batch.target + i, (int)rows, (int)V, scale);
        if (!train) continue;
        gemm(t->dnormed + i * C, C, strided(t->logits, V), weight(t->head, false), (int)rows,
             (int)C, (int)V, t->flags);
        if (t->d_head)
            gemm(t->d_head, C, transposed(t->logits, V), x, (int)V, (int)C, (int)rows,
                 GEMM_ADD | t->flags);
    }
    for (int i = 0; i < n; i++) sum += (double)t->loss[i];
    return sum;
}

/* ------------------------------------------------------------------------------------------------
 * 6. Backward: the numbers are those of layer_forward, from the last to the first */

/* dx (n, C) is d loss / d x' of the layer on the way in, d loss / d x on the way out. gate and up
 * make room for their gradients. */
static void layer_backward(Trainer *t, Layer *l, int B, int T) {
    const Config *c = &t->model.config;
    const Linear *w = l->linear;
    Kept *k = &l->kept;
    int n = B * T, C = c->dim, H = c->n_heads, K = c->n_kv_heads, D = c->head_dim;
    float *dgate = k->gate, *dup = k->up, eps = c->norm_eps;
    const float *attn_norm = floats(l->attn_norm), *ffn_norm = floats(l->ffn_norm);
    /* 9 */ linear_backward_x(t, t->hidden, t->dx, &w[DOWN], n, 0);
    /* 8 */ swiglu_backward(k->gate, k->up, t->hidden, (size_t)n * (size_t)c->hidden_dim);
    /* 9 */ linear_backward_w(t, t->dx, t->hidden, &w[DOWN], n); /* hidden is there only now */
    /* 7 */ rmsnorm_forward(t->normed, k->r_ffn, k->mid, ffn_norm, n, C, eps); /* was not kept */
    /*   */ linear_backward_w(t, dgate, t->normed, &w[GATE], n);
    /*   */ linear_backward_w(t, dup, t->normed, &w[UP], n);
    /*   */ linear_backward_x(t, t->dnormed, dgate, &w[GATE], n, 0);
    /*   */ linear_backward_x(t, t->dnormed, dup, &w[UP], n, GEMM_ADD);
    /* 6 */ rmsnorm_backward(t->dx, l->d_ffn_norm, t->dnormed, k->mid, ffn_norm, k->r_ffn, n, C);
    /* 5 */ linear_backward_w(t, t->dx, k->attn_out, &w[WO], n);
    /*   */ linear_backward_x(t, t->dattn, t->dx, &w[WO], n, 0);
    /* 4 */ attention_backward(t, k, B, T);
    /* 3 */ rope(t->dq, t->cosine, t->sine, t->batch.pos, n, H, D, -1);
    /*   */ rope(t->dk, t->cosine, t->sine, t->batch.pos, n, K, D, -1);
    /* 2 */ rmsnorm_forward(t->normed, k->r_attn, l->x, attn_norm, n, C, eps);
    /*   */ linear_backward_w(t, t->dq, t->normed, &w[WQ], n);
    /*   */ linear_backward_w(t, t->dk, t->normed, &w[WK], n);
    /*   */ linear_backward_w(t, t->dv, t->normed, &w[WV], n);
    /*   */ linear_backward_x(t, t->dnormed, t->dq, &w[WQ], n, 0);
    /*   */ linear_backward_x(t, t->dnormed, t->dk, &w[WK], n, GEMM_ADD);
    /*   */ linear_backward_x(t, t->dnormed, t->dv, &w[WV], n, GEMM_ADD);
    /* 1 */ rmsnorm_backward(t->dx, l->d_attn_norm, t->dnormed, l->x, attn_norm, k->r_attn, n, C);
}

/* From dnormed, the gradient of the head's input, down to the embedding. */
static void backward(Trainer *t, int B, int T) {
    const Config *c = &t->model.config;
    int n = B * T;
    memset(t->dx, 0, (size_t)n * (size_t)c->dim * sizeof *t->dx);
    rmsnorm_backward(t->dx, t->d_out_norm, t->dnormed, t->x_out, floats(t->out_norm), t->r_out, n,
                     c->dim);
    for (int i = c->n_layers - 1; i >= 0; i--) {
        Layer *l = &t->layer[i];
        if (t->opt.recompute && i + 1 < c->n_layers) layer_forward(t, l, t->x_out, B, T);
        layer_backward(t, l, B, T);
    }
    if (t->d_embedding) embedding_backward(t->d_embedding, t->dx, t->batch.token, n, c->dim);
}

static double trainer_step(Trainer *t, const uint32_t *tokens, int B, int T, float scale) {
    forward(t, tokens, B, T);
    double sum = head_loss(t, B * T, true, scale);
    backward(t, B, T);
    return sum * (double)scale;
}

static double trainer_loss(Trainer *t, const uint32_t *tokens, int B, int T) {
    forward(t, tokens, B, T);
    return head_loss(t, B * T, false, 1);
}

/* ------------------------------------------------------------------------------------------------
 * 7. AdamW, Loshchilov and Hutter, arXiv:1711.05101, as torch.optim.AdamW computes it */

/* m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g^2    with g = factor dw
 * w = w (1 - lr decay) - lr (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps) */
static void trainer_update(Trainer *t, int64_t step, float lr, float factor) {
    const TrainOptions *o = &t->opt;
    float rate = lr / (float)(1 - pow((double)o->beta1, (double)step));
    float root = (float)sqrt(1 - pow((double)o->beta2, (double)step));
    for (int i = 0; i < t->n_params; i++) {
        const Param *p = &t->param[i];
        size_t n = (size_t)p->rows * (size_t)p->cols;
        float *w = t->params + p->at, *dw = t->grads + p->at, *m = t->m + p->at, *v = t->v + p->at;
        float keep = p->decays ? 1 - lr * o->weight_decay : 1;
#pragma omp parallel for simd schedule(static)
        for (size_t k = 0; k < n; k++) {
            float g = dw[k] * factor;
            m[k] = o->beta1 * m[k] + (1 - o->beta1) * g;
            v[k] = o->beta2 * v[k] + (1 - o->beta2) * g * g;
            w[k] = w[k] * keep - rate * m[k] / (sqrtf(v[k]) / root + o->eps);
            dw[k] = 0;
        }
    }
}

static void trainer_zero(Trainer *t) { memset(t->grads, 0, t->count * sizeof *t->grads); }

/* Sum of squares, in blocks that do not depend on the number of threads. */
static double sum_of_squares(const float *x, size_t n) {
    enum { BLOCK = 1 << 14 };
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    double *part = xcalloc(blocks, sizeof *part, "gradient norm"), sum = 0;
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < blocks; b++) {
        size_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (size_t i = b * BLOCK; i < end; i++) s += (double)x[i] * (double)x[i];
        part[b] = s;
    }
    for (size_t b = 0; b < blocks; b++) sum += part[b];
    free(part);
    return sum;
}

static double param_norm(const Trainer *t, const float *block, int i) {
    const Param *p = &t->param[i];
    return sum_of_squares(block + p->at, (size_t)p->rows * (size_t)p->cols);
}

/* The first thing on the way that is not finite: a weight, what a layer was given, a gradient. */
static void find_bad(const Trainer *t, char bad[64]) {
    size_t x = (size_t)t->opt.batch * (size_t)t->opt.seq_len * (size_t)t->model.config.dim;
    for (int i = 0; i < t->n_params && !*bad; i++)
        if (!isfinite(param_norm(t, t->params, i))) snprintf(bad, 64, "%s", t->param[i].name);
    for (int i = 0; i < t->model.config.n_layers && !*bad; i++)
        if (!isfinite(sum_of_squares(t->layer[i].x, x)))
            snprintf(bad, 64, "the input of blk.%d", i);
    for (int i = t->n_params - 1; i >= 0 && !*bad; i--)
        if (!isfinite(param_norm(t, t->grads, i))) snprintf(bad, 64, "%s", t->param[i].name);
}

static double trainer_grad_norm(Trainer *t, char bad[64]) {
    double total = 0;
    *bad = 0;
    for (int i = 0; i < t->n_params; i++) total += param_norm(t, t->grads, i);
    if (!isfinite(total)) find_bad(t, bad);
    return sqrt(total);
}

static float *trainer_gradients(Trainer *t, size_t *n) {
    *n = t->count;
    return t->grads;
}

static const Model *trainer_model(Trainer *t, const Lora **adapter) {
    *adapter = t->opt.lora_rank ? &t->adapter : NULL;
    return &t->model;
}

/* ------------------------------------------------------------------------------------------------
 * 8. What a checkpoint holds: weights, and the optimizer's m and v under opt.m.NAME, opt.v.NAME */

static void trainer_save(Trainer *t, GgufWriter *w, const char *path, bool optimizer) {
    if (!w) return;
    static const char *const prefix[] = { "", "opt.m.", "opt.v." };
    const float *block[] = { t->params, t->m, t->v };
    int n = t->n_params, all = optimizer ? 3 * n : n;
    for (int i = 0; i < all; i++) {
        char name[80];
        const Param *p = &t->param[i % n]; /* an A of rank 1 has two dimensions, too */
        snprintf(name, sizeof name, "%s%s", prefix[i / n], p->name);
        gguf_add_dims(w, name, T_F32, p->decays ? 2 : 1, p->rows, p->cols);
    }
    gguf_begin(w, path);
    for (int i = 0; i < all; i++) {
        const Param *p = &t->param[i % n];
        gguf_write(w, block[i / n] + p->at, (size_t)p->rows * (size_t)p->cols * sizeof(float));
    }
    gguf_end(w);
}

static void trainer_plan(const Config *c, const TrainOptions *o) {
    Trainer t = { .model = { .config = *c }, .opt = *o, .n_threads = thread_count() };
    double gb = 1e-9 * sizeof(float), kept[2];
    t.layer = xcalloc((size_t)c->n_layers, sizeof *t.layer, "layers");
    list_params(&t);
    for (t.opt.recompute = 0; t.opt.recompute < 2; t.opt.recompute++)
        kept[t.opt.recompute] = (double)lay_out(&t, NULL) * gb;
    double state = 4 * (double)t.count * gb;
    printf("%zu parameters in training, %d x %d tokens at a time, float32\n"
           "weights, gradients, AdamW %8.4g GB%s\n"
           "activations               %8.4g    in all %.4g\n"
           "with --recompute          %8.4g    in all %.4g\n",
           t.count, o->batch, o->seq_len, state, o->lora_rank ? ", beside the model's file" : "",
           kept[0], state + kept[0], kept[1], state + kept[1]);
    free(t.layer);
    free(t.param);
}

const TrainerBackend cpu_trainer = {
    .open = trainer_open,
    .step = trainer_step,
    .loss = trainer_loss,
    .grad_norm = trainer_grad_norm,
    .update = trainer_update,
    .zero = trainer_zero,
    .gradients = trainer_gradients,
    .model = trainer_model,
    .save = trainer_save,
    .close = trainer_close,
    .plan = trainer_plan,
};

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
/* ------------------------------------------------------------------------------------------------
 * 9. The state of a run */

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

/* ------------------------------------------------------------------------------------------------
 * 10. Checkpoints: OUT.ckpt-NNNNNN */

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
    if (r->saved_step == r->count[STEP]) return;
    r->saved_step = r->count[STEP];
    if (mpi_rank) {
        r->backend->save(r->trainer, NULL, NULL, true);
        return;
    }
    if (fsync(fileno(r->progress.csv))) /* a checkpoint is never newer than the record */
        die("%s.csv: cannot flush to disk: %s", opt.out, strerror(errno));
    checkpoint_path(&path, opt.out, r->count[STEP]);
    write_model(r, path.data, true);
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
    if (!cursors || !mean || mean->type != GV_F64 || r->count[STEP] > r->steps)
        die("%s: keys opencoder.train.cursors, mean_loss, step: expected u64, f64, at most %lld",
            m->path, (long long)r->steps);
    memcpy(&r->mean_loss, mean->data, 8);
    for (int i = 0; i < r->data.n_sources; i++) {
        memcpy(&r->data.source[i].used, cursors->data + 16 * i, 8);
        memcpy(&r->data.source[i].rows, cursors->data + 16 * i + 8, 8);
    }
    r->saved_step = r->count[STEP];
}

/* ------------------------------------------------------------------------------------------------
 * 11. One update */

/* Micro-batch q of this rank: rows rank + n_ranks (qB + i), i < B. Returns T, 0 when it has no
 * targets, or -1 behind the last one. */
static int fill_micro(Run *r, int64_t q, int *n, int64_t *targets) {
    int64_t first = mpi_rank + q * opt.micro_batch * n_ranks;
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
    for (int64_t q = 0; opt.loss_mean[0] == 'h' && (T = fill_micro(r, q, &n, &part)) >= 0; q++)
        micros += T > 0;
    *loss = 0;
    for (int64_t q = 0; !stop && (T = fill_micro(r, q, &n, &part)) >= 0; q++) {
        double each = micros ? (double)micros * (double)part : (double)targets;
        bool last = mpi_rank + (q + 1) * opt.micro_batch * n_ranks >= opt.batch;
        if (last && r->backend->ready) r->backend->ready(r->trainer);
        if (T) *loss += r->backend->step(r->trainer, r->tokens, n, T, (float)(1 / each));
        stop = interrupted != 0;
    }
    if (n_ranks > 1) {
        size_t size;
        float *gradients = r->backend->gradients(r->trainer, &size);
        ranks_sum(gradients, size, loss, &stop);
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
    bool spike = opt.spike > 0 && good >= 20 && u->loss > opt.spike * r->mean_loss;
    r->mean_loss += (u->loss - r->mean_loss) / (double)(good < 99 ? good + 1 : 100);
    r->count[SPIKES] += spike; /* the mean moves on even so: a loss that stays is no spike */
    return spike ? "a spike of the loss" : NULL;
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
 * Validation */

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

/* ------------------------------------------------------------------------------------------------
 * 12. Setting up, and the loop */

/* Opens shards, and what validation wants of them. */
static void open_data(Run *r, const char **word, int n) {
    const Model *m = &r->init;
    bool weighted = false;
    choose_seq_len(r->command, m->config.max_ctx);
    r->data = (Loader){ .T = (int)opt.seq_len,
                        .vocab_size = m->config.vocab_size,
                        .vocab_crc = vocab_crc(&m->vocab),
                        .seed = (uint64_t)opt.seed,
                        .doc_mask = opt.doc_mask };
    r->val = r->data; /* validation never packs */
    r->data.pack = opt.pack;
    for (int i = 0; i < n; i++) loader_add_word(&r->data, word[i], &weighted, opt.verify);
    bool packable = false;
    for (int i = 0; i < n; i++) packable |= is_chat(&r->data.source[i]);
    if (opt.pack && !packable) die_usage("--pack: given without a chat shard, expected one");
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
    if (!opt.batch && !opt.batch_tokens) {
        bool large = parameters(&r->init.config, false) > 1e9;
        opt.batch = sft ? (opt.stage == 1 ? 4096 : 512) : large ? 1024 : 32768 / opt.seq_len;
        if ((double)opt.batch > rows) opt.batch = (int64_t)rows;
    }
    if (!opt.batch) opt.batch = 1;
    choose_micro_batch();
    if (opt.tokens) opt.steps = opt.tokens / (opt.batch * opt.seq_len);
    if (!opt.tokens && !opt.steps) opt.steps = (int64_t)(epochs * rows / (double)opt.batch);
    if (!opt.steps) opt.steps = 1;
    int64_t most = sft ? 100 : 2000;
    if (opt.warmup < 0) opt.warmup = most < opt.steps / 20 ? most : opt.steps / 20;
    if (opt.lora && opt.lora_alpha <= 0) opt.lora_alpha = 2.0 * (double)opt.lora;
    r->steps = opt.steps;
}

static TrainOptions trainer_options(void) {
    return (TrainOptions){ .batch = (int)opt.micro_batch,
                           .seq_len = (int)opt.seq_len,
                           .beta1 = (float)opt.beta1,
                           .beta2 = (float)opt.beta2,
                           .eps = (float)opt.eps,
                           .weight_decay = (float)opt.weight_decay,
                           .recompute = opt.recompute ? 3 : (int)opt.recompute_level,
                           .bf16 = opt.bf16,
                           .bf16_moments = opt.bf16_moments,
                           .bf16_grads = opt.bf16_grads,
                           .lora_rank = (int)opt.lora,
                           .lora_alpha = (float)opt.lora_alpha,
                           .seed = (uint64_t)opt.seed,
                           .rank = mpi_rank,
                           .n_ranks = n_ranks,
                           .device = ranks_device(),
                           .share = ranks_share };
}

/* Opens the trainer; the weights of a new model are then its own. */
static void open_trainer(Run *r, bool resumed) {
    const Config *c = &r->init.config;
    TrainOptions o = trainer_options();
    ranks_meet = opt.out;
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
    p->peak = r->steps > 20 ? PEAK : 0;
    fprintf(stderr,
            "%s: %.4g parameters, %llu rows of %lld an epoch, %lld updates of %lld rows, "
            "%llu rows for validation, %s, %d threads\n",
            r->command, parameters(c, false), (unsigned long long)loader_rows(&r->data),
            (long long)opt.seq_len, (long long)r->steps, (long long)opt.batch,
            (unsigned long long)loader_rows(&r->val), matmul_level(), thread_count());
    check_outputs(&r->data);
    csv_open(p, opt.out, r->count[STEP]);
    if (opt.plot) draw_plot(p->path, opt.plot, opt.out); /* if it cannot be written, say so now */
    p->begun = p->last = now_seconds();
}

/* What follows an update that is through. */
static void after_update(Run *r, Update *u) {
    bool last = u->step == r->steps;
    bool check = last || (opt.val_every && u->step % opt.val_every == 0);
    bool save = last || (opt.save_every && u->step % opt.save_every == 0);
    if (mpi_rank && save) save_checkpoint(r);
    if (mpi_rank) return;
    if (check && r->val.n_sources && opt.val_rows) validate(r, u);
    report_update(&r->progress, u);
    if (check && opt.plot) draw_plot(r->progress.path, opt.plot, opt.out);
    if (opt.sample_every && u->step % opt.sample_every == 0) {
        const Lora *adapter;
        const Model *m = r->backend->model(r->trainer, &adapter);
        print_sample(m, adapter, r->tokenizer, opt.prompt, opt.temperature,
                     mix_key((uint64_t)opt.seed, (uint64_t)u->step, 0), u->step);
    }
    if (save) save_checkpoint(r);
}

static void close_run(Run *r) {
    r->backend->close(r->trainer);
    tokenizer_free(r->tokenizer);
    loader_close(&r->val);
    loader_close(&r->data);
    model_close(&r->init);
    model_close(&r->saved);
    void *all[] = { r->specs,         r->n_bytes,     r->rows,      r->tokens,
                    r->progress.path, r->recipe.data, r->found.data };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
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
    if (!n && !opt.plan) die_usage("%s: no data given, expected .tok shards", r->command);
    check_options(r->command);
    return n;
}

/* --plan: the memory of a run, told before a weight is made or a device is asked. */
static void show_plan(Run *r) {
    if (opt.init)
        start_from(&r->init, opt.init, false, NULL);
    else
        new_shape(&r->init);
    choose_seq_len(r->command, r->init.config.max_ctx);
    if (!opt.batch) opt.batch = opt.batch_tokens ? opt.batch_tokens / opt.seq_len : 1 << 24;
    if (!opt.batch) opt.batch = 1;
    choose_micro_batch();
    TrainOptions o = trainer_options();
    if (!mpi_rank) r->backend->plan(&r->init.config, &o);
    model_close(&r->init);
}

int main(int argc, char **argv) {
    Run run = { .backend = &TRAINER, .saved_step = -1 }, *r = &run;
    int64_t *steps;
    struct stat st;
    if (argc == 1) return fputs(usage, stderr), 2;
    const char **word = (const char **)xcalloc((size_t)argc + 1, sizeof *word, "arguments");
    ranks_open(&argc, &argv);
    int n = read_command(r, argc, argv, word);
    if (!matmul_choose(opt.cpu)) die_usage("--cpu: '%s', expected an %s", opt.cpu, matmul_levels);
    if (opt.bf16 && !HAS_BF16) die_usage("--bf16: %s, expected avx512bf16", matmul_level());
#ifdef _OPENMP
    if (opt.threads) omp_set_num_threads((int)opt.threads);
#endif
    if (opt.plan) {
        show_plan(r);
        free((void *)word);
        ranks_close();
        return 0;
    }
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
        start_from(&r->init, opt.init, !strcmp(r->command, "anneal"), &r->count[UPDATES]);
    else
        start_new(&r->init, &r->arena, &r->specs);
    if (!opt.skip_bad) check_weights(&r->init); /* else updates tell, and are passed over */
    open_data(r, word, n);
    resolve(r);
    write_recipe(&r->recipe, r->command, &r->data);
    if (opt.lora) /* the header holds the checksums of all tensors */
        buf_printf(&r->recipe, "--init CRC32C %08x\n",
                   crc32c(0, r->init.map.data, r->init.gguf.data_start));
    if (resumed) load_state(r, opt.lora ? &r->saved : &r->init);
    open_trainer(r, resumed);
    if (n_ranks > 1) {
        const Lora *adapter;
        const Tensor *embedding = r->backend->model(r->trainer, &adapter)->weights.tok_emb;
        ranks_agree(r->count[STEP], crc32c(0, r->recipe.data, r->recipe.n),
                    crc32c(0, embedding->data, tensor_bytes(embedding)));
    }
    if (resumed && !mpi_rank) /* a run that broke off may not have come to it */
        prune_checkpoints(opt.out, r->saved_step, opt.keep);
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
    if (whole && mpi_rank) r->backend->save(r->trainer, NULL, NULL, false);
    if (whole && !mpi_rank) {
        write_model(r, opt.out, false);
        fprintf(stderr, "wrote %s after %lld updates, %lld of them skipped\n", opt.out,
                (long long)r->steps, (long long)r->count[BAD] + r->count[SPIKES] + r->count[EMPTY]);
    }
    close_run(r);
    free((void *)word);
    ranks_close();
    return whole ? 0 : 130;
}
#endif
