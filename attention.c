/* attention.c: the cache of keys and values, and softmax(q K^T / sqrt(D)) V over it. Vaswani et
 * al., arXiv:1706.03762; query heads that share a key/value head: GQA, arXiv:2305.13245:
 *
 *   H = 4 query heads, K = 2 kv heads          q0 q1 | q2 q3
 *                                                \ /     \ /
 *   head h reads kv head h / (H / K)              k0      k1
 *
 * For a new token (decode) every number of the cache is used once, or H / K times, so the memory is
 * the limit: it is kept narrow (f16) and read once. For a prompt of n tokens each number meets up
 * to n queries, so arithmetic is the limit: queries of one head go together, up to QUERIES of them,
 * and a tile of the cache that was expanded to float32 meets them all.
 *
 *   positions   0 .. 127        128 .. 255      256 ..      Positions are cut into chunks of 128.
 *   scores    [ s s s s s s ] [ s s s s s s ] [ s s . . ]   A chunk alone gives a query its largest
 *              max, sum, mix   max, sum, mix   ...          score, the sum of e^(s - max), and the
 *                         \         |         /             mix, the sum of e^(s - max) v. Parts
 *                  m = the larger max; sums and mixes,      add up after each was multiplied by
 *                  times e^(max - m), added                 e^(max - m); mix / sum is the result.
 *
 * Chunks of one head are work for several threads, where heads alone are too few.
 *
 * Order of every sum, whatever the threads, the batch and the grouping: a score is one chain of
 * fused multiply-adds over d = 0 .. D - 1 of q_d / sqrt(D) times k_d; e^(s - max) is summed in
 * lanes, lane l of LANES takes u = l mod LANES, then the lanes fold in halves; a mix is one chain
 * over the positions of the chunk; parts are added in the order of the chunks. All levels share it
 * but for LANES. q8_0 and f16 are expanded exactly: the result is that of a float32 cache of the
 * rounded numbers.
 *
 * The cache of one layer, sequence and kv head is made of 32 x 32 tiles (cpu/kernels.h):
 *
 *     keys    for each 32 positions, for each 32 dimensions:   row d:        32 positions
 *     values  for each 32 dimensions, for each 32 positions:   row position: 32 dimensions
 *
 * so that a step of a sum reads one row of 32 numbers and the next row follows it in memory. The
 * inner loops are cpu/attend.h. Test: tests/test_attention.c. */
#include "attention.h"   /* KvCache */
#include "cpu/kernels.h" /* Chunk, kernels */

enum { QUERIES = 96 }; /* of one head that meet an expanded tile: 61 KB of them for D = 160 */

struct KvCache {
    uint32_t type;
    int n_layers, n_seq, n_heads, n_kv_heads, head_dim;
    size_t groups, panels; /* how many 32 positions, 32 dimensions there are */
    size_t tile_bytes;
    void *memory[2];
    uint8_t *keys, *values; /* memory, aligned to 64 bytes */
    int *block;             /* where the blocks of rows begin */
    float *work;            /* scratch of all threads */
    float *parts;           /* of chunks that are jobs of their own */
    size_t work_size, parts_size;
};

/* ------------------------------------------------------------------------------------------------
 * 1. The cache */

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t cache_position_bytes(const Config *c, uint32_t type) {
    size_t panels = round_up((size_t)c->head_dim, SIDE) / SIDE;
    return 2 * (size_t)c->n_layers * (size_t)c->n_kv_heads * panels * cache_tile_bytes(type) / SIDE;
}

/* calloc gives pages that exist only once they are written, so a large context costs nothing until
 * it is used. */
static uint8_t *cache_half(KvCache *c, void **memory, const char *what) {
    size_t tiles = (size_t)c->n_layers * (size_t)c->n_seq * (size_t)c->n_kv_heads * c->panels;
    *memory = xcalloc(tiles * c->groups + 1, c->tile_bytes, what);
    return (uint8_t *)*memory + (64 - (uintptr_t)*memory % 64) % 64;
}

KvCache *cache_open(const Config *config, int n_ctx, int n_seq, uint32_t type) {
    KvCache *c = xcalloc(1, sizeof *c, "cache");
    c->type = type;
    c->n_layers = config->n_layers;
    c->n_seq = n_seq;
    c->n_heads = config->n_heads;
    c->n_kv_heads = config->n_kv_heads;
    c->head_dim = config->head_dim;
    c->groups = round_up((size_t)n_ctx, SIDE) / SIDE;
    c->panels = round_up((size_t)c->head_dim, SIDE) / SIDE;
    c->tile_bytes = cache_tile_bytes(type);
    c->keys = cache_half(c, &c->memory[0], "key cache; a smaller context (-c) needs less");
    c->values = cache_half(c, &c->memory[1], "value cache; a smaller context (-c) needs less");
    return c;
}

void cache_close(KvCache *c) {
    free(c->memory[0]);
    free(c->memory[1]);
    free(c->block);
    free(c->work);
    free(c->parts);
    free(c);
}

/* The number of the first tile of one head of one sequence, in keys and in values. */
static size_t cache_head(const KvCache *c, int layer, int seq, int kv_head) {
    size_t sequence = (size_t)layer * (size_t)c->n_seq + (size_t)seq;
    return (sequence * (size_t)c->n_kv_heads + (size_t)kv_head) * c->groups * c->panels;
}

/* To nearest, but a finite number stays finite. float_to_half without branches, so that loops over
 * it become vector code: below 2^-14 the addition of 1/2 rounds to multiples of 2^-24. */
static inline uint16_t half_of(float f) {
    uint32_t bits = float_to_bits(f), size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    uint32_t kept = size < 0x477fe000 ? size : 0x477fe000; /* 65504 */
    uint32_t normal = (kept + 0xfff + (kept >> 13 & 1) - 0x38000000) >> 13;
    uint32_t small = float_to_bits(bits_to_float(kept) + 0.5f) - 0x3f000000;
    uint32_t half = kept < 0x38800000 ? small : normal;
    half = size == 0x7f800000 ? 0x7c00 : size > 0x7f800000 ? 0x7e00 : half;
    return (uint16_t)(sign | half);
}

/* n <= 32 numbers of one position, x, as q8_0: number i goes to q[i step], their scale to *scale.
 * One that is not finite makes NaN of all. */
static void store_q8_0(uint8_t *scale, uint8_t *q, size_t step, const float *x, int n) {
    float largest = 0, bad = 0; /* bad: NaN as soon as one number is Inf or NaN */
    for (int i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
        bad += x[i] * 0;
    }
    uint16_t half = half_of(largest / 127 + bad);
    float d = half_to_float(half), inverse = d > 0 ? 1 / d : 0;
    memcpy(scale, &half, 2);
    for (int i = 0; i < n; i++) {
        float y = rintf(fminf(fmaxf(x[i] * inverse, -127), 127));
        q[(size_t)i * step] = (uint8_t)(int8_t)(bad == 0 ? y : 1);
    }
}

/* One position's keys (D), or values, into the tiles: the first at `tile`, `next` bytes from one 32
 * dimensions to the next. */
static void store_row(const KvCache *c, uint8_t *tile, size_t next, const float *x, bool of_keys,
                      int pos) {
    size_t at = (size_t)pos % SIDE, step = of_keys ? SIDE : 1, begin = of_keys ? at : SIDE * at;
    for (int d = 0; d < c->head_dim; d += SIDE, tile += next) {
        int n = c->head_dim - d < SIDE ? c->head_dim - d : SIDE;
        if (c->type == T_Q8_0) store_q8_0(tile + 2 * at, tile + 2 * SIDE + begin, step, x + d, n);
        uint16_t half[SIDE];
        for (int i = 0; i < n && c->type == T_F16; i++) half[i] = half_of(x[d + i]);
        for (int i = 0; i < n && c->type == T_F16; i++)
            memcpy(tile + 2 * (begin + (size_t)i * step), &half[i], 2);
        for (int i = 0; i < n && c->type == T_F32; i++)
            memcpy(tile + 4 * (begin + (size_t)i * step), &x[d + i], 4);
    }
}

/* Rows i of the batch, (K, D) keys and values: those of one kv head. */
static void store(KvCache *c, int layer, const Batch *b, int i, int kv_head, const float *k,
                  const float *v) {
    size_t row = (size_t)i * (size_t)c->n_kv_heads + (size_t)kv_head, d = (size_t)c->head_dim;
    size_t head = cache_head(c, layer, b->seq[i], kv_head), group = (size_t)b->pos[i] / SIDE;
    store_row(c, c->keys + (head + group * c->panels) * c->tile_bytes, c->tile_bytes, k + row * d,
              true, b->pos[i]);
    store_row(c, c->values + (head + group) * c->tile_bytes, c->groups * c->tile_bytes, v + row * d,
              false, b->pos[i]);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Attention */

/* One call. The rows of the batch are cut into blocks, each of one sequence; a job is a block, a kv
 * head, and all chunks of positions or, `split`, one of them. */
typedef struct {
    KvCache *cache;
    const Kernels *level;
    const Batch *b;
    const float *q;
    float *out;
    int layer, shared;          /* query heads that share a kv head: H / K */
    int most, n_blocks, chunks; /* most queries of a job; most chunks of a row */
    bool split;
    size_t padded, part_step, work_floats; /* D rounded up; floats of a part, of a job's scratch */
} Call;

/* Adds a part to the sum of those before it. */
static void add_part(const Call *a, float *sum, const float *part) {
    float max = sum[0] > part[0] ? sum[0] : part[0];
    float weight[2] = { sum[0] - max, part[0] - max };
    a->level->exp_all(weight, 2);
    sum[0] = max;
    sum[1] = sum[1] * weight[0] + part[1] * weight[1];
    for (size_t d = PART_MIX; d < a->part_step; d++)
        sum[d] = sum[d] * weight[0] + part[d] * weight[1];
}

/* out (D) of a row and head = mix / sum */
static void finish(const Call *a, const float *sum, int row, int head) {
    int D = a->cache->head_dim;
    float *out = a->out + ((size_t)row * (size_t)a->cache->n_heads + (size_t)head) * (size_t)D;
    for (int d = 0; d < D; d++) out[d] = sum[PART_MIX + d] / sum[1];
}

/* Where the part of a row, head and chunk is kept when chunks are jobs of their own. */
static float *kept_part(const Call *a, int row, int head, int chunk) {
    size_t query = (size_t)row * (size_t)a->cache->n_heads + (size_t)head;
    return a->cache->parts + (query * (size_t)a->chunks + (size_t)chunk) * a->part_step;
}

/* Query t of a job that begins with row `first` is this row and head. */
static int row_of(const Call *a, int first, int t) { return first + t / a->shared; }
static int head_of(const Call *a, int kv_head, int t) {
    return kv_head * a->shared + t % a->shared;
}

/* Chunk `chunk` for the queries t0 .. n of a job, q (n, padded), into part (n - t0). */
static void attend_chunk(const Call *a, float *part, const float *q, float *scratch, int first,
                         int t0, int n, int kv_head, int chunk) {
    const KvCache *c = a->cache;
    int limit[1024]; /* n is at most that: config_check */
    size_t head = cache_head(c, a->layer, a->b->seq[first], kv_head);
    size_t group = (size_t)chunk * (CHUNK / SIDE);
    for (int t = t0; t < n; t++) {
        int seen = a->b->pos[row_of(a, first, t)] + 1 - chunk * CHUNK;
        limit[t] = seen < CHUNK ? seen : CHUNK;
    }
    Chunk job = { .type = c->type,
                  .head_dim = c->head_dim,
                  .n = n - t0,
                  .q = q + (size_t)t0 * a->padded,
                  .q_step = a->padded,
                  .limit = limit + t0,
                  .keys = c->keys + (head + group * c->panels) * c->tile_bytes,
                  .values = c->values + (head + group) * c->tile_bytes,
                  .panel_bytes = c->groups * c->tile_bytes,
                  .scores = scratch,
                  .expanded = scratch + (size_t)a->most * CHUNK,
                  .part = part,
                  .part_step = a->part_step };
    a->level->attend(&job);
}

/* Rows first .. first + n_rows of the batch and the query heads of one kv head, over the chunks
 * from .. to. */
static void attend_block(const Call *a, float *work, int first, int n_rows, int kv_head, int from,
                         int to) {
    size_t D = (size_t)a->cache->head_dim, most = (size_t)a->most;
    float *q = work, *sums = q + most * a->padded, *parts = sums + most * a->part_step;
    float *scratch = parts + most * a->part_step, scale = 1 / sqrtf((float)D);
    int n = n_rows * a->shared, t0 = 0;
    for (int t = 0; t < n; t++) {
        const float *in = a->q + ((size_t)row_of(a, first, t) * (size_t)a->cache->n_heads +
                                  (size_t)head_of(a, kv_head, t)) *
                                     D;
        for (size_t d = 0; d < D; d++) q[(size_t)t * a->padded + d] = in[d] * scale;
    }
    for (int chunk = from; chunk < to; chunk++) { /* queries from t0 on see some of it */
        while (t0 < n && a->b->pos[row_of(a, first, t0)] < chunk * CHUNK) t0++;
        if (t0 == n) break;
        float *part = chunk == from ? sums + (size_t)t0 * a->part_step : parts;
        attend_chunk(a, part, q, scratch, first, t0, n, kv_head, chunk);
        for (int t = t0; t < n; t++) {
            float *sum = sums + (size_t)t * a->part_step;
            if (a->split)
                memcpy(kept_part(a, row_of(a, first, t), head_of(a, kv_head, t), chunk), sum,
                       a->part_step * sizeof *sum);
            else if (chunk > from)
                add_part(a, sum, parts + (size_t)(t - t0) * a->part_step);
        }
    }
    for (int t = 0; t < n && !a->split; t++)
        finish(a, sums + (size_t)t * a->part_step, row_of(a, first, t), head_of(a, kv_head, t));
}

/* The parts of one row and head, kept by the jobs of its chunks, become its result. */
static void join_parts(const Call *a, int row, int head) {
    float *sum = kept_part(a, row, head, 0);
    for (int chunk = 1; chunk * CHUNK <= a->b->pos[row]; chunk++)
        add_part(a, sum, kept_part(a, row, head, chunk));
    finish(a, sum, row, head);
}

/* Grows *p to n floats, aligned to 64 bytes; their old contents are of no use. */
static void grow(float **p, size_t *have, size_t n) {
    if (n <= *have) return;
    void *memory = NULL;
    free(*p);
    if (posix_memalign(&memory, 64, n * sizeof **p))
        die("attention: out of memory for %zu numbers", n);
    *p = memory;
    *have = n;
}

/* Cuts the batch into blocks of at most `rows` rows of one sequence; block i is rows block[i] to
 * block[i + 1]. Returns how many there are. */
static int cut_blocks(KvCache *c, const Batch *b, int rows) {
    int n = 0;
    c->block = xrealloc(c->block, (size_t)b->n + 1, sizeof *c->block, "attention");
    for (int i = 0; i < b->n; i++)
        if (i == 0 || b->seq[i] != b->seq[i - 1] || i - c->block[n - 1] == rows) c->block[n++] = i;
    c->block[n] = b->n;
    return n;
}

/* Sizes of the jobs: large enough to reuse what is expanded, and four for each thread; where rows
 * and heads do not give as many, the chunks of positions do. */
static void plan(Call *a) {
    KvCache *c = a->cache;
    int wanted = 4 * thread_count(), rows = a->b->n * c->n_kv_heads / wanted, last = 0;
    int least = 8, largest = QUERIES / a->shared ? QUERIES / a->shared : 1;
    rows = rows < least ? least : rows;
    rows = rows > largest ? largest : rows;
    for (int i = 0; i < a->b->n; i++) last = a->b->pos[i] > last ? a->b->pos[i] : last;
    a->n_blocks = cut_blocks(c, a->b, rows);
    a->chunks = last / CHUNK + 1;
    a->split = a->n_blocks * c->n_kv_heads < wanted && a->chunks > 1;
    a->most = rows * a->shared;
    a->padded = c->panels * SIDE;
    a->part_step = PART_MIX + a->padded;
    size_t expanded = (a->padded > CHUNK ? a->padded : CHUNK) * SIDE;
    a->work_floats = (size_t)a->most * (a->padded + 2 * a->part_step + CHUNK) + expanded;
    grow(&c->work, &c->work_size, a->work_floats * (size_t)thread_count());
    if (a->split)
        grow(&c->parts, &c->parts_size,
             (size_t)a->b->n * (size_t)c->n_heads * (size_t)a->chunks * a->part_step);
}

void attention(KvCache *c, int layer, const Batch *b, float *out, const float *q, const float *k,
               const float *v) {
    Call a = { .cache = c, .level = kernels(), .b = b, .q = q, .out = out, .layer = layer };
    int heads = c->n_kv_heads;
    a.shared = c->n_heads / heads;
    plan(&a);
    int chunk_jobs = a.split ? a.chunks : 1;
#pragma omp parallel
    {
        float *work = c->work + (size_t)thread_number() * a.work_floats;
#pragma omp for schedule(static)
        for (int job = 0; job < (b->n + SIDE - 1) / SIDE * heads; job++)
            for (int i = job / heads * SIDE; i < b->n && i < (job / heads + 1) * SIDE; i++)
                store(c, layer, b, i, job % heads, k, v);
#pragma omp for schedule(dynamic)
        for (int job = a.n_blocks * heads * chunk_jobs - 1; job >= 0; job--) { /* long ones first */
            int block = job / chunk_jobs / heads, head = job / chunk_jobs % heads;
            int chunk = job % chunk_jobs;
            attend_block(&a, work, c->block[block], c->block[block + 1] - c->block[block], head,
                         chunk, a.split ? chunk + 1 : a.chunks);
        }
#pragma omp for schedule(static)
        for (int job = 0; job < (a.split ? b->n * c->n_heads : 0); job++)
            join_parts(&a, job / c->n_heads, job % c->n_heads);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. SwiGLU, which needs the e^x of softmax */

void swiglu(float *gate, const float *up, size_t n) {
    enum { STEP = 2048 };
    const Kernels *level = kernels();
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i += STEP)
        level->swiglu(gate + i, up + i, n - i < STEP ? n - i : STEP);
}
