/* decode.h: products for few tokens: y (n, rows) = x (n, depth) W^T, n <= 16, at the memory's speed
 *
 * Each block, one a multiprocessor, has a run of consecutive rows of W, the same number of bytes
 * within a pair of rows. It works on tiles of 16 rows; its 8 warps share the columns, and each
 * holds the next DEEP steps of its weights in registers, on their way from memory, whatever tile
 * they belong to. A step is 64 bytes of each row:
 *
 *       lane = 4 g + t              16 bytes a lane from row g, and from row g + 8:
 *       row g:   [t=0][t=1][t=2][t=3]   = 32 numbers of 16 bits, 2 blocks of q8, 4 blocks of q4
 *
 * which is how mma.m16n8 wants its second operand, up to the order of columns; and a dot product
 * may take its columns in any order if x has the same. The first operand is 16 tokens of x, from
 * shared memory. Quantized weights meet x rounded to int8 by blocks of 32, as in matmul.c: sums of
 * a block are exact in int32, then times both scales. The warps' sums meet in shared memory.
 *
 * One kernel is all five steps of a layer: what comes before its product (a norm or not) and after
 * it (rope and the cache, an addition, SwiGLU, the likeliest token) is data, struct Product.
 * Sections: 1 the weights' way in, 2 the input, 3 the product, 4 the output, 5 the kernel.
 * Test: tests/test_cuda.c. The plain twins are the small kernels of runcuda.cu. */
#ifndef OC_DECODE_H
#define OC_DECODE_H

#include "weights.h" /* Weight, Cache, Best */

enum { AFTER_ROPE, AFTER_ADD, AFTER_SWIGLU, AFTER_LOGITS };

struct Product {
    Weight w;
    int n; /* tokens */
    /* Before: x = rmsnorm(residual) norm, where norm is there; else `in`, 16 bits. */
    const float *residual, *norm;
    const void *in;
    int dim, stride; /* of a row of residual or in */
    float eps;
    bool bf16_acts;
    /* After: */
    int after;
    float *out;   /* AFTER_ADD: residual += y; AFTER_LOGITS: y (n, rows) */
    void *hidden; /* AFTER_SWIGLU: (n, rows / 2), 16 bits */
    int out_stride;
    bf16 *q; /* AFTER_ROPE */
    Cache cache;
    const float *angles;
    const int *pos, *seq;
    int n_heads, D;
    const uint8_t *unused; /* AFTER_LOGITS */
    Best *block_best, *best;
    int *ticket;
};

/* ------------------------------------------------------------------------------------------------
 * 1. The weights' way in */

/* How many steps ahead a warp fetches: as many as 64 registers hold, with their scales. */
__host__ __device__ constexpr int deep(int kind, bool many) {
    return kind == Q8 ? (many ? 4 : 5) : kind == Q4 ? (many ? 2 : 4) : many ? 7 : 8;
}

/* Weights of one step: 16 bytes of rows g and g + 8; scales of the rows whose sums this lane has,
 * 2 t, 2 t + 1, and those + 8: of 2 blocks in one word, of 4 blocks in two. */
template <int KIND> struct Step {
    uint4 code[2];
    uint2 scale[KIND >= Q8 ? 4 : 1];
};

/* The place of the next step to fetch. */
struct Place {
    int row, end;       /* first row of the tile; behind the block's last row */
    int step, first, n; /* of the warp's steps: the next, the first, how many */
    int limit;          /* steps in a row */
};

template <int KIND> __device__ static inline void fetch(Step<KIND> *s, const Weight *w, Place *c) {
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    bool there = c->step < c->limit;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = c->row + g + 8 * half;
        s->code[half] = make_uint4(0, 0, 0, 0);
        if (there && row < c->end)
            s->code[half] = load_stream(w->codes + (size_t)row * code_bytes(KIND, w->depth) +
                                        c->step * STEP + t * 16);
    }
    if (KIND >= Q8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = c->row + 2 * t + i % 2 + i / 2 * 8;
            const uint16_t *p = w->scales + (size_t)row * (size_t)(w->depth / 32);
            s->scale[i] = make_uint2(0, 0);
            if (!there || row >= c->end) continue;
            if (KIND == Q8)
                s->scale[i].x = __ldg((const uint32_t *)(const void *)p + c->step);
            else
                s->scale[i] = __ldg((const uint2 *)(const void *)p + c->step);
        }
    }
    if (++c->step == c->first + c->n) c->step = c->first, c->row += 16;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The input: x of all tokens in shared memory */

/* x of the block, in shared memory. Rows are (depth bytes or 2 depth) | 64 apart, so that the 8
 * lanes that read 2 tokens at once meet no bank twice. */
struct Staged {
    uint8_t *x;
    float *d; /* (n, depth / 32): scales of the int8 blocks */
    int line, blocks;
};
__host__ __device__ static inline int staged_line(int kind, int depth) {
    return (kind >= Q8 ? depth : 2 * depth) | 64;
}
/* Bytes of shared memory for a product; see Staged and leave(). */
static size_t few_shared(int kind, int depth, int n) {
    size_t line = (size_t)staged_line(kind, depth) + (kind >= Q8 ? (size_t)depth / 8 : 0);
    int each = (depth / step_numbers(kind) + WARPS - 1) / WARPS;
    size_t slots = 2 * (size_t)(deep(kind, n > 8) / each + 1);
    return (size_t)n * line + slots * WARPS * 16 * (n > 8 ? 16 : 8) * 4 + FEW * WARPS * 4;
}

/* v[0 .. 7] = unit u of token i of the input; scale: 1 / root mean square, if there is a norm. */
__device__ static inline void load_input(float v[8], const Product *p, int i, int u, float scale) {
    size_t at = (size_t)i * (size_t)p->stride + (size_t)(UNIT * u);
    if (!p->norm) {
        if (p->bf16_acts)
            load8(v, (const bf16 *)p->in + at);
        else
            load8(v, (const f16 *)p->in + at);
        return;
    }
    float w[8];
    load8(v, p->residual + at);
    load8(w, p->norm + UNIT * u);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = v[k] * scale * w[k];
}

/* matmul.c: round_token, by 4 threads a block: v rounded to int8, d its scale. All lanes call. */
__device__ static inline uint2 round_unit(const float v[8], float *d) {
    float largest = 0, bad = 0; /* bad: NaN as soon as one number is Inf or NaN */
#pragma unroll
    for (int k = 0; k < 8; k++) largest = fmaxf(largest, fabsf(v[k])), bad += v[k] * 0;
    for (int o = 1; o <= 2; o *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
        bad += __shfl_xor_sync(0xffffffffu, bad, o);
    }
    float inverse = largest > 1e-30f && bad == 0 ? 127 / largest : 0;
    uint32_t word[2] = { 0, 0 };
#pragma unroll
    for (int k = 0; k < 8; k++)
        word[k / 4] |= (uint32_t)(uint8_t)(int8_t)rintf(bad == 0 ? v[k] * inverse : 0) << k % 4 * 8;
    *d = largest / 127 + bad;
    return make_uint2(word[0], word[1]);
}

/* Brings the input of all tokens into shared memory. */
template <int KIND> __device__ static inline void stage(const Product *p, Staged *x, float *part) {
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int i = 0; p->norm && i < p->n; i++) {
        float v[8], sum = 0;
        for (int u = (int)threadIdx.x; u < p->stride / UNIT; u += THREADS) {
            load8(v, p->residual + (size_t)i * (size_t)p->stride + UNIT * u);
#pragma unroll
            for (int k = 0; k < 8; k++) sum += v[k] * v[k];
        }
        sum = warp_sum(sum);
        if (lane == 0) part[i * WARPS + warp] = sum;
    }
    __syncthreads();
    for (int i = 0; i < p->n; i++) {
        float sum = 0;
        for (int k = 0; p->norm && k < WARPS; k++) sum += part[i * WARPS + k];
        float scale = 1 / sqrtf(sum / (float)p->dim + p->eps);
        for (int first = warp * 32; first < p->w.depth / UNIT; first += THREADS) {
            int u = first + lane;
            bool there = u < p->w.depth / UNIT;
            float v[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
            if (there) load_input(v, p, i, u, scale);
            uint8_t *to = x->x + i * x->line;
            if (KIND == BF16 && there) store8((bf16 *)(void *)to + UNIT * u, v);
            if (KIND == F16 && there) store8((f16 *)(void *)to + UNIT * u, v);
            if (KIND < Q8) continue;
            float d;
            uint2 codes = round_unit(v, &d);
            if (!there) continue;
            *(uint2 *)(void *)(to + u / 8 * STEP + u % 4 * 16 + u / 4 % 2 * 8) = codes;
            if (u % 4 == 0) x->d[i * x->blocks + u / 4] = d;
        }
    }
    __syncthreads();
}

/* ------------------------------------------------------------------------------------------------
 * 3. The product of one step */

/* acc[half] (16 tokens, 8 rows) += x W^T over one step; a lane has of tokens g and g + 8 the rows
 * 2 t and 2 t + 1. MANY: there are more than 8 tokens. Numbers of 16 bits: two times 16 columns. */
template <int KIND, bool MANY>
__device__ static inline void multiply_16(float acc[2][4], const Step<KIND> *s,
                                          const uint8_t *x_one, const uint8_t *x_two, int step) {
    uint4 a = *(const uint4 *)(const void *)(x_one + step * STEP), b = make_uint4(0, 0, 0, 0);
    if (MANY) b = *(const uint4 *)(const void *)(x_two + step * STEP);
    const uint32_t low[4] = { a.x, b.x, a.y, b.y }, high[4] = { a.z, b.z, a.w, b.w };
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint4 c = s->code[half];
        const uint32_t first[2] = { c.x, c.y }, second[2] = { c.z, c.w };
        if (KIND == F16) {
            mma_f16(acc[half], low, first);
            mma_f16(acc[half], high, second);
        } else {
            mma_bf16(acc[half], low, first);
            mma_bf16(acc[half], high, second);
        }
    }
}

/* Block `i` of a step, for tokens x (the first operand) with scales d_one, d_two. Codes of q4 stand
 * in the upper halves of bytes, 16 times too large. */
template <int KIND, bool MANY>
__device__ static inline void multiply_block(float acc[2][4], const Step<KIND> *s, int i,
                                             const uint32_t x[4], float d_one, float d_two) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 c = s->code[half];
        const uint2 even = s->scale[2 * half], odd = s->scale[2 * half + 1];
        uint32_t codes[2] = { i ? c.z : c.x, i ? c.w : c.y };
        if (KIND == Q4) {
            uint32_t word = i == 0 ? c.x : i == 1 ? c.y : i == 2 ? c.z : c.w;
            codes[0] = word << 4 & 0xf0f0f0f0u;
            codes[1] = word & 0xf0f0f0f0u;
        }
        int sum[4] = { 0, 0, 0, 0 };
        mma_s8(sum, x, codes);
        uint32_t se = (i < 2 ? even.x : even.y) >> i % 2 * 16;
        uint32_t so = (i < 2 ? odd.x : odd.y) >> i % 2 * 16;
        float we = to_float(f16{ (uint16_t)se }) * (KIND == Q4 ? 1.0f / 16 : 1);
        float wo = to_float(f16{ (uint16_t)so }) * (KIND == Q4 ? 1.0f / 16 : 1);
        acc[half][0] += (float)sum[0] * (we * d_one);
        acc[half][1] += (float)sum[1] * (wo * d_one);
        if (!MANY) continue;
        acc[half][2] += (float)sum[2] * (we * d_two);
        acc[half][3] += (float)sum[3] * (wo * d_two);
    }
}

/* The same over one step of int8: 2 blocks of 32 columns, or 4 of q4. */
template <int KIND, bool MANY>
__device__ static inline void multiply_8(float acc[2][4], const Step<KIND> *s, const uint8_t *x_one,
                                         const uint8_t *x_two, const float *d_one,
                                         const float *d_two, int step) {
    constexpr int PAIRS = KIND == Q4 ? 2 : 1; /* of blocks in a step */
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
        int at = step * PAIRS + pair; /* of the pairs of a row */
        uint4 a = *(const uint4 *)(const void *)(x_one + at * STEP), b = make_uint4(0, 0, 0, 0);
        if (MANY) b = *(const uint4 *)(const void *)(x_two + at * STEP);
        float2 d = *(const float2 *)(const void *)(d_one + 2 * at), e = d;
        if (MANY) e = *(const float2 *)(const void *)(d_two + 2 * at);
        const uint32_t first[4] = { a.x, b.x, a.y, b.y }, second[4] = { a.z, b.z, a.w, b.w };
        multiply_block<KIND, MANY>(acc, s, 2 * pair, first, d.x, e.x);
        multiply_block<KIND, MANY>(acc, s, 2 * pair + 1, second, d.y, e.y);
    }
}

/* The product of one step. This lane reads tokens g and g + 8; beyond the last token that one
 * again, whose sums nobody uses. */
template <int KIND, bool MANY>
__device__ static inline void multiply(float acc[2][4], const Step<KIND> *s, const Staged *x,
                                       int step, int n) {
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    int one = min(g, n - 1), two = min(g + 8, n - 1);
    const uint8_t *x_one = x->x + one * x->line + t * 16, *x_two = x->x + two * x->line + t * 16;
    if constexpr (KIND < Q8)
        multiply_16<KIND, MANY>(acc, s, x_one, x_two, step);
    else
        multiply_8<KIND, MANY>(acc, s, x_one, x_two, x->d + one * x->blocks, x->d + two * x->blocks,
                               step);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The output */

/* What is done with y of a token and a row. other: y of the row that makes a pair with this one,
 * row ^ 1: both turn together (rope), or are gate and up. */
__device__ static inline void finish_rope(const Product *p, int token, int row, float v,
                                          float other) {
    int h = row / p->D, d = row % p->D, kv = h - p->n_heads, pos = p->pos[token];
    if (kv < p->cache.n_kv_heads) {
        const float *a = p->angles + ((size_t)pos * (size_t)(p->D / 2) + (size_t)(d / 2)) * 2;
        v = d % 2 ? other * a[1] + v * a[0] : v * a[0] - other * a[1];
    }
    if (kv < 0) {
        size_t at = (size_t)token * (size_t)p->n_heads + (size_t)h;
        from_float(p->q + at * (size_t)p->cache.head + d, v);
        return;
    }
    size_t at = cache_at(&p->cache, p->seq[token], kv % p->cache.n_kv_heads, pos) + (size_t)d;
    cache_put(kv < p->cache.n_kv_heads ? p->cache.keys : p->cache.values, p->cache.kind, at, v);
}

__device__ static inline bool better(float v, int id, Best b) {
    return v > b.value || (v == b.value && id < b.id);
}

__device__ static inline void finish(const Product *p, int token, int row, float v, float other,
                                     Best *best) {
    size_t at = (size_t)token * (size_t)p->out_stride + (size_t)row;
    if (p->after == AFTER_ROPE) finish_rope(p, token, row, v, other);
    if (p->after == AFTER_ADD) p->out[at] += v;
    if (p->after == AFTER_SWIGLU && row % 2 == 0)
        put_half(p->hidden, p->bf16_acts, (size_t)token * (size_t)p->out_stride + (size_t)(row / 2),
                 silu(v) * other);
    if (p->after != AFTER_LOGITS) return;
    p->out[at] = v;
    if (!(fabsf(v) < INFINITY)) *best = Best{ INFINITY, -1 }; /* broken, whatever else comes */
    if (better(v, row, *best) && !p->unused[row]) *best = Best{ v, row };
}

/* Tiles whose sums the warps have left in shared memory: `shares` (slots, WARPS, tokens, 16). Each
 * thread adds up and finishes one number of each. */
__device__ static inline void finish_tiles(const Product *p, const float *shares, int slots,
                                           int tok, int tile, int n_tiles, int first_row, int end,
                                           Best *best) {
    int row = (int)threadIdx.x % 16, token = (int)threadIdx.x / 16;
    if ((int)threadIdx.x / 32 * 2 >= p->n) return; /* whole warps */
    for (int i = tile; i < tile + n_tiles; i++) {
        const float *s = shares + (i % slots * WARPS * tok + min(token, tok - 1)) * 16 + row;
        float v = 0;
        for (int w = 0; w < WARPS; w++) v += s[w * tok * 16];
        float other = __shfl_xor_sync(0xffffffffu, v, 1);
        int r = first_row + i * 16 + row;
        if (token < p->n && r < end && r < p->w.rows) finish(p, token, r, v, other, best);
    }
}

/* The likeliest token of each row of the batch: threads, then blocks, of which the last decides. */
__device__ static inline void finish_best(const Product *p, Best mine) {
    __shared__ int last;
    int token = (int)threadIdx.x / 16;
    for (int o = 8; o; o /= 2) {
        Best other = { __shfl_xor_sync(0xffffffffu, mine.value, o),
                       __shfl_xor_sync(0xffffffffu, mine.id, o) };
        if (better(other.value, other.id, mine)) mine = other;
    }
    if (threadIdx.x % 16 == 0 && token < p->n) p->block_best[blockIdx.x * FEW + token] = mine;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(p->ticket, 1) == (int)gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *p->ticket = 0;
    if ((int)threadIdx.x >= p->n) return;
    mine = p->block_best[threadIdx.x];
    for (unsigned b = 1; b < gridDim.x; b++) {
        Best other = p->block_best[b * FEW + threadIdx.x];
        if (better(other.value, other.id, mine)) mine = other;
    }
    p->best[threadIdx.x] = mine;
}

/* Leaves a warp's sums of a tile in its slot. */
__device__ static inline void leave(float *shares, int slot, int tok, const float acc[2][4]) {
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    float *s = shares + ((slot * WARPS + warp) * tok + g) * 16 + 2 * t;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        *(float2 *)(void *)(s + 8 * half) = make_float2(acc[half][0], acc[half][1]);
        if (tok > 8)
            *(float2 *)(void *)(s + 8 * 16 + 8 * half) = make_float2(acc[half][2], acc[half][3]);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 5. The kernel */

/* Grid: at most one block a multiprocessor. At 128 registers two fit there: this one, and the
 * next kernel's, which is already fetching its weights. */
template <int KIND, bool MANY> __global__ void __launch_bounds__(THREADS, 2) few_kernel(Product p) {
    constexpr int DEEP = deep(KIND, MANY), tok = MANY ? 16 : 8;
    int steps = p.w.depth / step_numbers(KIND), each = (steps + WARPS - 1) / WARPS;
    int pairs = (p.w.rows + 1) / 2, warp = (int)threadIdx.x / 32;
    long long blocks = gridDim.x, b = blockIdx.x;
    int row = 2 * (int)(pairs * b / blocks), end = 2 * (int)(pairs * (b + 1) / blocks);
    int tiles = (end - row + 15) / 16, total = tiles * each, slots = 2 * (DEEP / each + 1);
    Place c = { row, end, warp * each, warp * each, each, steps };
    Step<KIND> ring[DEEP];
#pragma unroll
    for (int i = 0; i < DEEP; i++) fetch<KIND>(&ring[i], &p.w, &c); /* weights: before the wait */
    pdl_launch();
    pdl_wait(); /* from here on, what the kernel before this one wrote may be read */
    Staged x;
    x.x = dynamic_shared();
    x.line = staged_line(KIND, p.w.depth);
    x.blocks = p.w.depth / 32;
    x.d = (float *)(void *)(x.x + p.n * x.line);
    float *shares = x.d + (KIND >= Q8 ? p.n * x.blocks : 0);
    float acc[2][4] = { { 0, 0, 0, 0 }, { 0, 0, 0, 0 } };
    stage<KIND>(&p, &x, shares + slots * WARPS * tok * 16);
    Best best = { -INFINITY, 0x7fffffff };
    int step = 0, tile = 0, finished = 0; /* step: of this warp's, within the tile */
    for (int done = 0; done < total; done += DEEP) {
#pragma unroll
        for (int i = 0; i < DEEP; i++) {
            if (done + i >= total) continue;
            if (warp * each + step < steps)
                multiply<KIND, MANY>(acc, &ring[i], &x, warp * each + step, p.n);
            fetch<KIND>(&ring[i], &p.w, &c);
            if (++step < each) continue;
            /* The warp has done its columns of this tile and goes on with the next. */
            leave(shares, tile++ % slots, tok, acc);
            step = 0;
#pragma unroll
            for (int k = 0; k < 4; k++) acc[0][k] = acc[1][k] = 0;
        }
        if (tile == finished) continue;
        __syncthreads(); /* the shares of all warps are there; slots last until the next barrier */
        finish_tiles(&p, shares, slots, tok, finished, tile - finished, row, end, &best);
        finished = tile;
    }
    if (p.after == AFTER_LOGITS) finish_best(&p, best);
}

#endif
