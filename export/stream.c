/* stream.c: a tensor from one storage type to another, a few rows at a time.
 *
 * What to know first: every weight passes through here on its way out, as float32, and is looked
 * at: a model with one NaN in it answers nothing but NaN, and whoever made the file should hear of
 * it now. A chunk of rows is converted by all threads and then written, so memory is one chunk:
 *
 *     mapped input --row order--> dequantize --> finite? --> quantize --> chunk --> sink
 *                       `------------- same type: bytes as they are ------^
 *
 * With an adapter (--lora), what it says is added between dequantize and the look.
 * Test: tests/test_format.c, tests/test_lora.py. */

#include "export.h"
#include <float.h> /* FLT_MAX */

enum { CHUNK_NUMBERS = 4 << 20 }; /* 16 MB as float32 */

bool is_norm(Str name) {
    static const char end[] = "norm.weight";
    size_t n = sizeof end - 1;
    return name.n >= n && !memcmp(name.s + name.n - n, end, n);
}

void progress(const char *what, uint64_t done, uint64_t total) {
    static int shown = -1;
    int percent = total ? (int)((double)done / (double)total * 100) : 100;
    if (percent == shown || !isatty(STDERR_FILENO)) return;
    shown = percent;
    fprintf(stderr, "\r%s %3d %%%s", what, percent, percent == 100 ? "\n" : "");
}

/* The largest magnitude that a type holds. Blocks hold a scale in half precision: for q8_0 it is
 * the largest magnitude / 127, for q4_0 / 8. Beyond that, a scale or number would be infinite. */
static float type_limit(uint32_t type) {
    const float half = 65504;
    return type == T_F16    ? half
           : type == T_BF16 ? 0x1.fep127f
           : type == T_Q8_0 ? 127 * half
           : type == T_Q4_0 ? 8 * half
                            : FLT_MAX;
}

/* A number that cannot be stored; row is in the order of the input. */
typedef struct {
    int row, col; /* row -1: there is none */
    float x;
} BadNumber;

/* What an adapter adds to one tensor. pair NULL: nothing. */
typedef struct {
    const LoraPair *pair;
    float *a;    /* (rank, cols), A as float32 */
    bool halves; /* the rows of the tensor are in Hugging Face's order; those of B are in GGUF's */
} Merge;

static Merge merge_begin(const Source *s, const Tensor *t) {
    Merge m = { lora_find(s->lora, t->name), NULL, false };
    if (!m.pair) return m;
    size_t cols = (size_t)t->cols, rank = (size_t)m.pair->rank;
    m.a = xcalloc(rank * cols, sizeof *m.a, "adapter");
    for (size_t k = 0; k < rank; k++)
        dequantize(m.a + k * cols, m.pair->a.data + k * row_bytes(m.pair->a.type, cols),
                   m.pair->a.type, 0, cols);
    m.halves = m.pair->permuted && s->halves;
    return m;
}

/* x (cols), row `row` of the tensor, += scale b A, where b (rank) is that row of B; all in float32.
 * scratch: (cols + rank). */
static void merge_row(const Merge *m, float *x, int row, int head_dim, float *scratch) {
    size_t cols = (size_t)m->pair->a.cols, rank = (size_t)m->pair->rank;
    const Tensor *stored = &m->pair->b;
    size_t at = (size_t)(m->halves ? unpermute_row(row, head_dim) : row);
    float *delta = scratch, *b = scratch + cols;
    dequantize(b, stored->data + at * row_bytes(stored->type, rank), stored->type, 0, rank);
    memset(delta, 0, cols * sizeof *delta);
    for (size_t k = 0; k < rank; k++)
        for (size_t c = 0; c < cols; c++) delta[c] += b[k] * m->a[k * cols + c];
    for (size_t c = 0; c < cols; c++) x[c] += m->pair->scale * delta[c];
}

/* Converts `rows` rows from output row `first` on into out, or, without out, only looks at them. */
static BadNumber convert_rows(const Tensor *t, uint32_t type, RowOrder *order, int head_dim,
                              const Merge *merge, int first, int rows, uint8_t *out) {
    size_t cols = (size_t)t->cols, in_bytes = row_bytes(t->type, cols);
    size_t out_bytes = out ? row_bytes(type, cols) : 0;
    size_t rank = merge->pair ? (size_t)merge->pair->rank : 0;
    const bool as_stored = t->type == type && !merge->pair;
    const float limit = as_stored ? FLT_MAX : type_limit(type);
    BadNumber bad = { -1, 0, 0 };
#pragma omp parallel
    {
        float *x = xcalloc(2 * cols + rank, sizeof *x, "one row");
#pragma omp for
        for (int r = 0; r < rows; r++) {
            int from = order ? order(first + r, head_dim) : first + r;
            const uint8_t *row = t->data + (size_t)from * in_bytes;
            dequantize(x, row, t->type, 0, cols);
            if (merge->pair) merge_row(merge, x, from, head_dim, x + cols);
            size_t c = 0;
            while (c < cols && fabsf(x[c]) <= limit) c++; /* false for NaN, too */
            if (c < cols) {
#pragma omp critical
                if (bad.row < 0 || from < bad.row) bad = (BadNumber){ from, (int)c, x[c] };
            } else if (out && as_stored) {
                memcpy(out + (size_t)r * out_bytes, row, out_bytes);
            } else if (out) {
                quantize(out + (size_t)r * out_bytes, x, type, cols);
            }
        }
        free(x);
    }
    return bad;
}

/* Gives back the mapped pages of n bytes at p, which can be read from the file again. Memory that
 * is no file's, such as what a reader made in the arena, must stay. */
static void drop_pages(const Source *s, const uint8_t *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p, to = from + n;
    from = (from + page - 1) / page * page;
    to = to / page * page;
    for (int i = 0; i < s->n_maps && to > from; i++)
        if (p >= s->map[i].data && p < s->map[i].data + s->map[i].size)
            (void)madvise((void *)from, to - from, MADV_DONTNEED); /* advice may be refused */
}

bool stream_tensor(const Source *s, const Tensor *t, uint32_t type, RowOrder *order, Sink sink,
                   Error *e) {
    int step = t->cols < CHUNK_NUMBERS ? CHUNK_NUMBERS / t->cols : 1;
    size_t in_bytes = row_bytes(t->type, (size_t)t->cols);
    size_t out_bytes = sink.write ? row_bytes(type, (size_t)t->cols) : 0;
    if (step > t->rows) step = t->rows;
    if (step > s->config.head_dim) step -= step % s->config.head_dim; /* whole heads: row order */
    uint8_t *chunk = sink.write ? xcalloc((size_t)step, out_bytes, "a chunk of rows") : NULL;
    Merge merge = merge_begin(s, t);
    BadNumber bad = { -1, 0, 0 };
    for (int first = 0; first < t->rows && bad.row < 0; first += step) {
        int rows = t->rows - first < step ? t->rows - first : step;
        bad = convert_rows(t, type, order, s->config.head_dim, &merge, first, rows, chunk);
        if (bad.row < 0 && chunk) sink.write(sink.to, chunk, (size_t)rows * out_bytes);
        drop_pages(s, t->data + (size_t)first * in_bytes, (size_t)rows * in_bytes);
    }
    free(chunk);
    free(merge.a);
    if (bad.row < 0) return true;
    if (!isfinite(bad.x))
        return fail(e, "tensor %.*s, row %d, column %d: %f, expected a finite number", STR(t->name),
                    bad.row, bad.col, (double)bad.x);
    return fail(e, "tensor %.*s, row %d, column %d: %g, expected at most %g for %s; try -q bf16",
                STR(t->name), bad.row, bad.col, (double)bad.x, (double)type_limit(type),
                type_name(type));
}

bool scan_tensor(const Source *s, const Tensor *t, Error *e) {
    return stream_tensor(s, t, t->type, NULL, (Sink){ NULL, NULL }, e);
}
