/* gemm.c: C = A B, the products of training: y = x W^T, dx = dy W, dW = dy^T x, over thousands of
 * tokens. What stands below cuts C into blocks and tiles and copies the operands into panels; the
 * tiles themselves are summed by the routines of each instruction set (cpu/).
 *
 * Summation order: an element of C is summed over a K-block of KC = 512 k, ascending, by fused
 * multiply-adds from 0 on, and the K-blocks are added in order, to C itself with GEMM_ADD.
 * Bit-equal for any number of threads and any way to cut C, by gemm and gemm_here, and on all
 * levels (plain: where the target has fused multiply-adds). GEMM_BF16: k in pairs, the odd first.
 *
 * Test: tests/test_gemm.c. Measure: make bench-gemm, make bench-train. */
#include "cpu/kernels.h" /* Tile, kernels, scratch */

/* ------------------------------------------------------------------------------------------------
 * 1. Blocks, panels and jobs
 *
 *        K-blocks: KC of k         B: a block of columns      C: a block
 *       +----+----+--             +---------------------+    +---------------------+
 *     A |////|    |           x   |/////////////////////|  = |  job   :  job   :   |
 *       +----+----+--             +---------------------+    +---------------------+
 *
 * For each block of C and each K-block, all threads first copy the numbers of A and B (hatched)
 * into panels, then share the tiles of C, a job of some dozens at a time, whose panels stay in the
 * caches. In which block, job, thread or place of a tile an element of C is summed does not change
 * the order of its sum. */

enum { BLOCK_ROWS = 4032, BLOCK_COLS = 4096 }; /* of C, for all threads: panels of 20 MB */
enum { HERE_ROWS = 84, HERE_FLOATS = (2 * HERE_ROWS + 128) * KC }; /* for one: 600 kB */
enum { JOB_ROWS = 126, JOB_COLS = 128, UNIT = 128 };               /* UNIT: lanes copied as a job */
enum { STORED_UNIT = 256, WIDEST = 512 }; /* 256 lanes touch two blocks of 256 at most */

/* A, its rows as lanes, or B, its columns: element (lane, k) at data[lane * lane_step + k * step],
 * or in `stored`. A panel holds `width` lanes in `slots` places. */
typedef struct {
    const float *data;
    size_t lane_step, step;
    const Tensor *stored;
    bool rows; /* a lane is a row of memory: its numbers are neighbours */
    int width, slots, unit;
    int from, count; /* lanes of the block in work ... */
    float *panels;   /* ... and their copies */
} Operand;

typedef struct {
    Operand a, b;
    Tile tile;
    float *c;
    size_t stride;
    int k0, kc, job_rows; /* the K-block in work; how many rows of C are a job */
    bool add, pairs;
} Product;

static int at_most(int n, int limit) { return n < limit ? n : limit; }
static int pieces(int n, int size) { return (n + size - 1) / size; }

static Operand operand(Matrix m, bool lanes_are_rows, int width) {
    Operand o = { .width = width, .slots = pieces(width, GROUP) * GROUP };
    if (m.stored && m.stored->type == T_F32) { /* aligned in the file: see matmul */
        m.data = (const float *)(const void *)m.stored->data;
        m.row = m.transposed ? 1 : (size_t)m.stored->cols;
        m.col = m.transposed ? (size_t)m.stored->cols : 1;
        m.stored = NULL;
    }
    o.data = m.data;
    o.stored = m.stored;
    o.lane_step = lanes_are_rows ? m.row : m.col;
    o.step = lanes_are_rows ? m.col : m.row;
    o.rows = m.stored ? lanes_are_rows != m.transposed : o.step == 1;
    o.unit = (m.stored ? STORED_UNIT : UNIT) / width * width;
    return o;
}

/* n numbers of a stored row from `from` on, both multiples of the block. */
static void stored_row(float *out, const Tensor *t, int row, int from, int n) {
    const uint8_t *data = t->data + (size_t)row * row_bytes(t->type, (size_t)t->cols);
    dequantize(out, data, t->type, (size_t)from, (size_t)n);
}

/* One panel, whose lanes are rows of memory. */
static void pack_rows(const Operand *o, float *panel, int first, int count, int k0, int kc) {
    static const float zeros[KC];
    float unpacked[GROUP][KC];
    size_t ahead = o->stored ? 0 : GROUP * o->lane_step * sizeof(float);
    for (int s = 0; s < o->slots; s += GROUP) {
        const float *row[GROUP];
        for (int l = 0; l < GROUP; l++) {
            int lane = first + s + l;
            row[l] = zeros;
            if (s + l >= count) continue;
            if (o->stored) stored_row(unpacked[l], o->stored, lane, k0, kc);
            row[l] = o->stored ? unpacked[l] : o->data + (size_t)lane * o->lane_step + k0;
        }
        kernels()->turn(panel + s, (size_t)o->slots, row, kc, ahead);
    }
}

/* The panels of `count` lanes, which are columns of memory; 8 rows of it at a time. */
static void pack_columns(const Operand *o, float *panels, int first, int count, int k0, int kc) {
    float unpacked[8][WIDEST];
    for (int k = 0; k < kc; k += 8) {
        int n = at_most(8, kc - k);
        const float *in = o->stored ? NULL : o->data + (size_t)(k0 + k) * o->step + first;
        if (o->stored) {
            int block = type_info(o->stored->type)->block, from = first / block * block;
            int width = pieces(first + count - from, block) * block;
            for (int i = 0; i < n; i++) stored_row(unpacked[i], o->stored, k0 + k + i, from, width);
            in = unpacked[0] + (first - from);
        }
        for (int l = 0; l < count; l += o->width)
            for (int s = 0; s < o->slots; s += GROUP) {
                float *out = panels + (size_t)(l / o->width * kc + k) * (size_t)o->slots + s;
                int lanes = at_most(o->width, count - l) - s;
                kernels()->copy(out, (size_t)o->slots, lanes > 0 ? in + l + s : in,
                                o->stored ? WIDEST : o->step, n, lanes);
            }
    }
}

/* Steps 2k and 2k + 1 of a panel become one step of pairs of bfloat16, in place. */
static void pair_up(float *panel, int slots, int kc) {
    for (int k = 0; k < kc; k += 2)
        for (int l = 0; l < slots; l++) {
            const float *even = panel + (size_t)k * (size_t)slots + l;
            uint32_t odd = k + 1 < kc ? float_to_bf16(even[slots]) : 0;
            uint32_t pair = float_to_bf16(*even) | odd << 16;
            memcpy(panel + (size_t)(k / 2) * (size_t)slots + l, &pair, 4);
        }
}

/* Job: a unit of lanes of A, or behind those of A one of B. */
static void pack_job(const Product *p, int job) {
    int of_a = pieces(p->a.count, p->a.unit), unit = job < of_a ? job : job - of_a;
    const Operand *o = job < of_a ? &p->a : &p->b;
    size_t panel = (size_t)o->slots * (size_t)p->kc;
    int first = unit * o->unit, count = at_most(o->unit, o->count - first);
    float *panels = o->panels + (size_t)(first / o->width) * panel;
    first += o->from;
    if (!o->rows) pack_columns(o, panels, first, count, p->k0, p->kc);
    for (int l = 0; l < count; l += o->width, panels += panel) {
        if (o->rows) pack_rows(o, panels, first + l, at_most(o->width, count - l), p->k0, p->kc);
        if (p->pairs) pair_up(panels, o->slots, p->kc);
    }
}

/* The tile of C at (i, j) of the block. One that C's border cuts is summed elsewhere, and its
 * elements inside C are taken. */
static void one_tile(const Product *p, int i, int j) {
    const int rows = p->tile.rows, cols = p->tile.cols;
    const float *a = p->a.panels + (size_t)(i / rows * p->a.slots) * (size_t)p->kc;
    const float *b = p->b.panels + (size_t)(j / cols * p->b.slots) * (size_t)p->kc;
    float *c = p->c + (size_t)(p->a.from + i) * p->stride + (size_t)(p->b.from + j);
    int m = at_most(rows, p->a.count - i), n = at_most(cols, p->b.count - j);
    if (m == rows && n == cols) {
        p->tile.run(p->kc, a, b, c, p->stride, p->add);
        return;
    }
    float whole[14 * 32];
    p->tile.run(p->kc, a, b, whole, (size_t)cols, false);
    for (int r = 0; r < m; r++, c += p->stride)
        for (int q = 0; q < n; q++)
            c[q] = p->add ? c[q] + whole[r * cols + q] : whole[r * cols + q];
}

static void tile_job(const Product *p, int job) {
    int across = pieces(p->b.count, JOB_COLS);
    int i0 = job / across * p->job_rows, j0 = job % across * JOB_COLS;
    int i1 = at_most(i0 + p->job_rows, p->a.count), j1 = at_most(j0 + JOB_COLS, p->b.count);
    for (int i = i0; i < i1; i += p->tile.rows)
        for (int j = j0; j < j1; j += p->tile.cols) one_tile(p, i, j);
}

static void run_jobs(const Product *p, void (*job)(const Product *, int), int n, bool share) {
    if (!share) {
        for (int i = 0; i < n; i++) job(p, i);
        return;
    }
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) job(p, i);
}

/* One K-block of one block of C, in jobs of fewer rows where there are more threads than work. */
static void block_product(Product *p, bool share) {
    int across = pieces(p->b.count, JOB_COLS), enough = share ? 4 * thread_count() : 1;
    run_jobs(p, pack_job, pieces(p->a.count, p->a.unit) + pieces(p->b.count, p->b.unit), share);
    int tiles = JOB_ROWS / p->tile.rows;
    while (tiles > 1 && across * pieces(p->a.count, tiles * p->tile.rows) < enough) tiles /= 2;
    p->job_rows = tiles * p->tile.rows;
    run_jobs(p, tile_job, across * pieces(p->a.count, p->job_rows), share);
}

bool gemm_has_bf16(void) { return kernels()->bf16.run; }

static void product(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags,
                    bool share) {
    static _Thread_local _Alignas(64) float own[HERE_FLOATS];
    const bool pairs = flags & GEMM_BF16 && gemm_has_bf16();
    Product p = { .c = c, .stride = stride, .pairs = pairs };
    p.tile = pairs ? kernels()->bf16 : kernels()->tile;
    p.a = operand(a, true, p.tile.rows);
    p.b = operand(b, false, p.tile.cols);
    const int deep = k < 1 ? 1 : at_most(k, KC), rows = at_most(m, share ? BLOCK_ROWS : HERE_ROWS);
    const int slots = pieces(rows, p.a.width) * p.a.slots;
    const int cols = at_most(n, share ? BLOCK_COLS : (HERE_FLOATS / deep - slots) / 32 * 32);
    const int b_slots = pieces(cols, p.b.width) * p.b.slots;
    p.a.panels = share ? scratch(3, (size_t)(slots + b_slots) * (size_t)deep * 4) : own;
    p.b.panels = p.a.panels + (size_t)slots * (size_t)deep;
    for (p.b.from = 0; p.b.from < n; p.b.from += cols)
        for (p.a.from = 0; p.a.from < m; p.a.from += rows) {
            p.b.count = at_most(cols, n - p.b.from);
            p.a.count = at_most(rows, m - p.a.from);
            p.k0 = 0;
            do { /* once even if there is nothing to sum: C = 0 */
                p.kc = at_most(KC, k - p.k0);
                p.add = flags & GEMM_ADD || p.k0;
                block_product(&p, share);
            } while ((p.k0 += KC) < k);
        }
}

void gemm(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags) {
    product(c, stride, a, b, m, n, k, flags, true);
}
void gemm_here(float *c, size_t stride, Matrix a, Matrix b, int m, int n, int k, int flags) {
    product(c, stride, a, b, m, n, k, flags, false);
}

/* Rounds of a few milliseconds, for a tenth of a second; the best counts, because other programs
 * can only make them slower. */
double matmul_peak(bool bf16) {
    const bool pairs = bf16 && gemm_has_bf16();
    const Tile *t = pairs ? &kernels()->bf16 : &kernels()->tile;
    const long steps = 400000;
    double best = 0, begun = now_seconds(), flops = (pairs ? 4.0 : 2.0) * CHAINS * t->lanes;
    do {
        double start = now_seconds();
        float sum = 0;
#pragma omp parallel reduction(+ : sum)
        sum += t->chains(steps);
        double taken = now_seconds() - start;
        if (sum > 0) best = fmax(best, flops * (double)steps * thread_count() / taken);
    } while (now_seconds() - begun < 0.1);
    return best * 1e-9;
}
