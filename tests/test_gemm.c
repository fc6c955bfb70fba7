/* test_gemm.c: C = A B of matmul.c, every level that this CPU has, against a triple loop in double
 * precision, on shapes that fit no tile; and that neither threads, nor the way C is cut, nor the
 * level change one bit. */
#include "../opencoder.h"
#include "test.h"
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) ((void)(n))
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

static uint64_t state = 1;
static float uniform(void) { /* in [-1, 1) */
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-23f - 1;
}

static float *numbers(size_t n) {
    float *x = xcalloc(n, sizeof *x, "numbers");
    for (size_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}

/* An operand of (rows, cols) in memory: plain, or turned on its side, with gaps between rows. */
static Matrix make_matrix(float **memory, int rows, int cols, bool turned, size_t gap) {
    size_t row = (size_t)(turned ? rows : cols) + gap;
    *memory = numbers((size_t)(turned ? cols : rows) * row);
    return (Matrix){ *memory, turned ? 1 : row, turned ? row : 1, NULL, false };
}

static float element(const Matrix *m, const float *data, int i, int j) {
    return data[(size_t)i * m->row + (size_t)j * m->col];
}

static float to_bf16(float x) {
    uint16_t half;
    quantize((uint8_t *)&half, &x, T_BF16, 1);
    dequantize(&x, (const uint8_t *)&half, T_BF16, 0, 1);
    return x;
}

/* A product and what is expected of it. Its data may come from `stored` tensors of a and b. */
typedef struct {
    int m, n, k, flags;
    size_t stride; /* of C */
    Matrix a, b;
    float *a_data, *b_data, *start; /* float32, by the strides of a and b; C before the product */
} Case;

static void free_case(Case *s) {
    free(s->a_data);
    free(s->b_data);
    free(s->start);
}

static Case make_case(int m, int n, int k, bool a_turned, bool b_turned, size_t gap, int flags) {
    Case s = { .m = m, .n = n, .k = k, .flags = flags, .stride = (size_t)n + gap };
    s.a = make_matrix(&s.a_data, m, k, a_turned, gap);
    s.b = make_matrix(&s.b_data, k, n, b_turned, gap);
    s.start = numbers((size_t)m * s.stride);
    return s;
}

/* Runs s into a copy of its C, by gemm or gemm_here. */
static float *result(const Case *s, bool here) {
    size_t bytes = (size_t)s->m * s->stride * sizeof(float);
    float *c = xcalloc(bytes, 1, "C");
    memcpy(c, s->start, bytes);
    (here ? gemm_here : gemm)(c, s->stride, s->a, s->b, s->m, s->n, s->k, s->flags);
    return c;
}

/* The worst error of c in units of the sum of magnitudes; infinite if a gap was written to. */
static double error_of(const Case *s, const float *c) {
    double worst = 0;
    for (int i = 0; i < s->m; i++)
        for (int j = 0; j < (int)s->stride; j++) {
            size_t at = (size_t)i * s->stride + (size_t)j;
            double sum = s->flags & GEMM_ADD ? (double)s->start[at] : 0, size = 1e-30;
            for (int k = 0; k < s->k && j < s->n; k++) {
                float x = element(&s->a, s->a_data, i, k), y = element(&s->b, s->b_data, k, j);
                if (s->flags & GEMM_BF16 && gemm_has_bf16()) x = to_bf16(x), y = to_bf16(y);
                sum += (double)x * (double)y;
                size += fabs((double)x * (double)y);
            }
            double error = j < s->n ? fabs(sum - (double)c[at]) / (size + fabs(sum))
                                    : (c[at] == s->start[at] ? 0 : INFINITY);
            if (!(error <= worst)) worst = error; /* NaN counts */
        }
    return worst;
}

static double run_case(const Case *s) {
    float *c = result(s, false), *here = result(s, true);
    double error = error_of(s, c);
    if (memcmp(c, here, (size_t)s->m * s->stride * sizeof *c)) error = INFINITY;
    free(c);
    free(here);
    return error;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Shapes, strides and sides */

static void test_shapes(const char *level, int flags) {
    static const int shape[][3] = {
        { 1, 1, 1 },     { 1, 1, 2240 }, { 1, 160, 31 },  { 31, 1, 7 },    { 7, 33, 1 },
        { 5, 15, 255 },  { 6, 16, 256 }, { 7, 17, 257 },  { 14, 32, 512 }, { 15, 33, 513 },
        { 160, 31, 33 }, { 13, 160, 7 }, { 33, 7, 2240 }, { 2240, 3, 9 },  { 2, 2240, 5 },
        { 64, 256, 64 }, { 64, 64, 80 }, { 127, 65, 31 }, { 3, 9, 0 },
    };
    for (size_t i = 0; i < COUNT(shape); i += small_tests() ? 5 : 1) {
        double worst = 0;
        for (int way = 0; way < 16; way++) { /* all four sides, gaps or none, += or = */
            const int *d = shape[i];
            Case s = make_case(d[0], d[1], d[2], way & 1, way & 2, way & 4 ? 3 : 0,
                               flags | (way & 8 ? GEMM_ADD : 0));
            worst = fmax(worst, run_case(&s));
            free_case(&s);
        }
        check(worst <= 3e-7, "not the product", "%s%s: %d x %d, %d steps, error %.1e", level,
              flags ? " bf16" : "", shape[i][0], shape[i][1], shape[i][2], worst);
    }
}

/* Blocks of C: more rows and columns than gemm or gemm_here take at once. */
static void test_blocks(int flags) {
    Case tall = make_case(4100, 35, 260, false, true, 1, flags | GEMM_ADD);
    Case wide = make_case(9, 8300, 270, true, false, 1, flags);
    CHECK(run_case(&tall) <= 3e-7);
    CHECK(run_case(&wide) <= 3e-7);
    free_case(&tall);
    free_case(&wide);
}

/* ------------------------------------------------------------------------------------------------
 * 2. The same bits */

static bool same(const Case *s, const float *want) {
    float *c = result(s, false);
    bool equal = !memcmp(c, want, (size_t)s->m * s->stride * sizeof *c);
    free(c);
    return equal;
}

/* Rows [from, to) of the product alone, compared with the same rows of all. */
static bool same_rows(const Case *s, const float *want, int from, int to) {
    Case part = *s;
    part.a.data += (size_t)from * s->a.row;
    part.start += (size_t)from * s->stride;
    part.m = to - from;
    return same(&part, want + (size_t)from * s->stride);
}

static bool same_columns(const Case *s, const float *want, int from, int to) {
    Case part = *s;
    bool equal = true;
    size_t n = (size_t)s->m * s->stride;
    part.b.data += (size_t)from * s->b.col;
    part.start = xcalloc(n, sizeof(float), "C");
    part.n = to - from;
    memcpy(part.start, s->start + from, (n - (size_t)from) * sizeof(float));
    float *c = result(&part, true);
    for (size_t i = 0; i < (size_t)s->m; i++)
        equal &= !memcmp(c + i * s->stride, want + i * s->stride + from,
                         (size_t)(to - from) * sizeof *c);
    free(part.start);
    free(c);
    return equal;
}

static void test_bits(const char *level, int flags) {
    Case s = make_case(203, 150, 777, false, true, 0, flags | GEMM_ADD);
    float *want = result(&s, true);
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        check(same(&s, want), "not bit-equal", "%s: gemm with %d threads, gemm_here", level,
              threads);
    }
    CHECK(same_rows(&s, want, 0, 1) && same_rows(&s, want, 1, 20) && same_rows(&s, want, 20, 203));
    CHECK(same_columns(&s, want, 0, 7) && same_columns(&s, want, 7, 150));
    free(want);
    free_case(&s);
}

/* gemm_here by several threads at once, each its own product. */
static void test_together(const char *level) {
    enum { N = 8 };
    Case s[N];
    float *want[N], *got[N];
    bool equal = true;
    for (int i = 0; i < N; i++) {
        s[i] = make_case(60 + i, 70, 80, false, i & 1, 0, 0);
        want[i] = result(&s[i], true);
    }
    omp_set_num_threads(4);
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < N; i++) got[i] = result(&s[i], true);
    for (int i = 0; i < N; i++) {
        equal &= !memcmp(got[i], want[i], (size_t)s[i].m * s[i].stride * sizeof **got);
        free(want[i]);
        free(got[i]);
        free_case(&s[i]);
    }
    check(equal, "not bit-equal", "%s: gemm_here on four threads at once", level);
}

/* All levels multiply and add the same numbers in the same order, plain where it has FMA. */
static void test_levels(void) {
    static const char *const name[] = { LEVEL_NAMES };
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    const size_t first = 0;
#else
    const size_t first = 1;
#endif
    Case s = make_case(77, 83, 700, true, false, 2, GEMM_ADD);
    float *want = NULL;
    for (size_t i = first; i < COUNT(name); i++) {
        if (!matmul_choose(name[i])) continue;
        if (!want) want = result(&s, false);
        check(same(&s, want), "not bit-equal", "%s: the bits of the first level", name[i]);
    }
    free(want);
    free_case(&s);
}

/* ------------------------------------------------------------------------------------------------
 * 3. NaN and Inf come out where they belong, and nowhere else */

static void test_not_finite(const char *level, int flags) {
    Case s = make_case(9, 19, 35, false, false, 0, flags);
    for (int at = 0; at < 2; at++) {
        float bad = at ? INFINITY : NAN;
        int wrong = 0;
        for (int i = 0; i < s.m; i++)
            for (int k = 0; k < s.k; k += 17) {
                float *x = s.a_data + (size_t)i * s.a.row + k, was = *x;
                *x = bad;
                float *c = result(&s, false);
                for (int e = 0; e < s.m * s.n; e++)
                    wrong += isfinite(c[e]) ? e / s.n == i : e / s.n != i;
                *x = was;
                free(c);
            }
        for (int j = 0; j < s.n; j++) {
            float *y = s.b_data + (size_t)34 * s.b.row + j, was = *y;
            *y = bad;
            float *c = result(&s, false);
            for (int e = 0; e < s.m * s.n; e++)
                wrong += isfinite(c[e]) ? e % s.n == j : e % s.n != j;
            *y = was;
            free(c);
        }
        check(!wrong, "lost, or in a wrong place", "%s: %s", level, at ? "Inf" : "NaN");
    }
    free_case(&s);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Stored operands, of every type, both ways round */

/* `rows` x `cols` numbers of any bytes of this type, finite and of a size that can be compared. */
static Tensor make_stored(const Gguf *blocks, uint32_t type, int rows, int cols) {
    Tensor t = { .type = type, .rows = rows, .cols = cols };
    size_t row = row_bytes(type, (size_t)cols), bytes = (size_t)rows * row;
    uint8_t *data = xcalloc(bytes, 1, "tensor");
    const TypeInfo *info = type_info(type);
    if (info->block == 1) {
        float *x = numbers((size_t)rows * (size_t)cols);
        quantize(data, x, type, (size_t)rows * (size_t)cols);
        free(x);
    } else { /* real blocks in a random order */
        const Tensor *from = gguf_tensor(blocks, info->name);
        size_t n = from ? tensor_bytes(from) / (size_t)info->bytes : 0, size = (size_t)info->bytes;
        check(n > 0, "not in tests/data/blocks.gguf", "blocks of %s", info->name);
        for (size_t i = 0; n && i < bytes / size; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            memcpy(data + i * size, from->data + (state >> 33) % n * size, size);
        }
    }
    t.data = data;
    return t;
}

/* Products with W (rows, cols) as either operand, either way round, are those with its numbers. */
static void test_stored(const Gguf *blocks, uint32_t type, int rows, int cols) {
    Tensor w = make_stored(blocks, type, rows, cols);
    float *x = xcalloc((size_t)rows * (size_t)cols, sizeof *x, "weights");
    bool equal = true;
    size_t width = (size_t)cols;
    for (int r = 0; r < rows; r++)
        dequantize(x + (size_t)r * width, w.data + (size_t)r * row_bytes(type, width), type, 0,
                   width);
    for (int way = 0; way < 4; way++) {
        bool turned = way & 1, is_a = way & 2;
        int wide = turned ? rows : cols, high = turned ? cols : rows, other = 21;
        Case s = is_a ? make_case(high, other, wide, turned, false, 0, 0)
                      : make_case(other, wide, high, false, turned, 0, 0);
        Matrix *m = is_a ? &s.a : &s.b;
        m->data = x;
        float *want = result(&s, false);
        m->data = NULL;
        m->stored = &w;
        m->transposed = turned;
        equal &= same(&s, want);
        float *here = result(&s, true);
        equal &= !memcmp(here, want, (size_t)s.m * s.stride * sizeof *here);
        free(want);
        free(here);
        free_case(&s);
    }
    check(equal, "not those of the numbers", "%s (%d, %d) as an operand", type_name(type), rows,
          cols);
    free((void *)(uintptr_t)w.data);
    free(x);
}

static void test_all_stored(void) {
    Map map;
    Gguf blocks;
    Error e;
    if (!CHECK(map_file(&map, "tests/data/blocks.gguf", &e)) ||
        !CHECK(gguf_parse(&blocks, map.data, map.size, &e)))
        return;
    for (uint32_t type = 0; type < T_COUNT; type++) {
        int block = type_info(type)->block;
        if (!block) continue;
        test_stored(&blocks, type, 37, block == 1 ? 301 : block == 32 ? 352 : 768);
        test_stored(&blocks, type, 300, block);
    }
    gguf_free(&blocks);
    unmap_file(&map);
}

int main(void) {
    static const char *const level[] = { LEVEL_NAMES };
    for (size_t i = small_tests(); i < COUNT(level); i++) {
        if (!matmul_choose(level[i])) continue;
        if (small_tests() && !strcmp(level[i], "dotprod")) continue; /* it has neon's routines */
        for (int flags = 0; flags <= (gemm_has_bf16() ? GEMM_BF16 : 0); flags += GEMM_BF16) {
            test_shapes(level[i], flags);
            if (!small_tests()) test_blocks(flags);
            test_bits(level[i], flags);
            test_not_finite(level[i], flags);
        }
        test_together(level[i]);
        if (small_tests()) continue; /* an emulator's peak takes it seconds */
        test_all_stored();
        CHECK(matmul_peak(false) > 0 && matmul_peak(true) > 0);
    }
    test_levels();
    return test_end();
}
