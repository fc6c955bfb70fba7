/* test_attention.c: attention.c and cpu/attend.h on every level of this CPU: e^x over all float32
 * exponents, attention against its formula in double, the same bits however the work is cut. */
#include "../attention.h"
#include "../cpu/kernels.h" /* kernels, float_to_half */
#include "test.h"

#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) (void)(n)
#endif

static const char *const levels[] = { "plain", "avx2", "avx512", "neon", NULL };

static uint64_t random_state = 1;
static float uniform(void) { return (float)(next_random(&random_state) >> 40) * 0x1p-23f - 1; }

/* ------------------------------------------------------------------------------------------------
 * 1. e^x and SwiGLU */

/* How many units of the last place lie between got and the exact value. */
static double ulps(float got, double want) {
    float near = (float)want;
    if (got == near) return 0;
    int exponent;
    frexp(want, &exponent);
    double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
    return fabs((double)got - want) / unit;
}

/* x = m 2^e for every exponent at which e^x is neither 0 nor infinite, both signs. */
static void test_exp(const char *level) {
    enum { PER = 1000 };
    static float x[PER], y[PER];
    double worst = 0, at = 0;
    char why[96];
    for (int exponent = -149; exponent < 8; exponent++)
        for (int sign = -1; sign <= 1; sign += 2) {
            for (int i = 0; i < PER; i++) {
                x[i] = (float)sign * ldexpf(1 + fabsf(uniform()), exponent);
                if (x[i] > 88.7f) x[i] = 88.7f;
                y[i] = x[i];
            }
            kernels()->exp_all(y, PER - (size_t)(exponent & 7)); /* lengths that leave a rest */
            for (int i = 0; i < PER - (exponent & 7); i++) {
                double off = ulps(y[i], exp((double)x[i]));
                if (!(off <= worst)) worst = off, at = (double)x[i];
            }
        }
    snprintf(why, sizeof why, "%.2f units at %.9g", worst, at);
    check(worst < 1.5, why, "%s: e^x (%.2f units of the last place, below 1.5)", level, worst);
    float edge[] = { 0, -0.0f, -INFINITY, INFINITY, NAN, -1e30f, 1e30f, -104.5f, 89, -87.5f, -103 };
    size_t n = sizeof edge / sizeof *edge;
    kernels()->exp_all(edge, n);
    check(edge[0] == 1 && edge[1] == 1, "not 1", "%s: e^0", level);
    check(edge[2] == 0 && edge[5] == 0 && edge[7] == 0, "not 0", "%s: e^-inf", level);
    check(isinf(edge[3]) && isinf(edge[6]) && isinf(edge[8]), "finite", "%s: e^inf", level);
    check(isnan(edge[4]), "a number", "%s: e^NaN", level);
    check(edge[9] > 0 && edge[10] > 0, "0", "%s: e^x below 2^-126", level);
}

static void test_swiglu(const char *level) {
    enum { N = 5003 };
    static float gate[N], up[N], want[N];
    char name[64];
    for (int i = 0; i < N; i++) {
        gate[i] = 120 * uniform(), up[i] = uniform();
        double g = (double)gate[i];
        want[i] = (float)(g / (1 + exp(-g)) * (double)up[i]);
    }
    swiglu(gate, up, N);
    snprintf(name, sizeof name, "%s: SwiGLU", level);
    check_close(name, gate, want, N, 3e-7);
    float odd[] = { NAN, INFINITY, -200, 1, 2 }, ones[] = { 1, 1, 1, NAN, 0 };
    swiglu(odd, ones, 5);
    check(isnan(odd[0]) && isinf(odd[1]) && odd[2] == 0 && isnan(odd[3]) && odd[4] == 0, "wrong",
          "%s: SwiGLU of NaN, infinity, -200", level);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Attention against its formula */

typedef struct {
    int heads, kv_heads, head_dim, n;
} Shape;

static Config config_of(const Shape *s) {
    return (Config){
        .n_layers = 2, .n_heads = s->heads, .n_kv_heads = s->kv_heads, .head_dim = s->head_dim
    };
}

static float *noise(size_t n, float scale) {
    float *x = xcalloc(n, sizeof *x, "numbers");
    for (size_t i = 0; i < n; i++) x[i] = scale * uniform();
    return x;
}

typedef struct {
    size_t q_row, kv_row;
    float *q, *k, *v; /* (n, H D), (n, K D) twice */
} Data;

static Data data_of(const Shape *s) {
    size_t n = (size_t)s->n, d = (size_t)s->head_dim;
    Data x = { (size_t)s->heads * d, (size_t)s->kv_heads * d, NULL, NULL, NULL };
    x.q = noise(n * x.q_row, 4);
    x.k = noise(n * x.kv_row, 2);
    x.v = noise(n * x.kv_row, 1);
    return x;
}

static void data_free(Data *x) {
    free(x->q);
    free(x->k);
    free(x->v);
}

/* Rows from .. to of the data, as positions of sequence seq, `chunk` at a time. */
static void feed(KvCache *c, const Data *x, int seq, int from, int to, int chunk, float *out) {
    int *seqs = xcalloc((size_t)to, sizeof *seqs, "batch");
    int *pos = xcalloc((size_t)to, sizeof *pos, "batch");
    for (int i = 0; i < to; i++) seqs[i] = seq, pos[i] = i;
    for (int i = from; i < to; i += chunk) {
        size_t at = (size_t)i;
        Batch b = { to - i < chunk ? to - i : chunk, NULL, seqs + i, pos + i, NULL };
        attention(c, 1, &b, out + at * x->q_row, x->q + at * x->q_row, x->k + at * x->kv_row,
                  x->v + at * x->kv_row);
    }
    free(seqs);
    free(pos);
}

/* (n, H D), to be freed. */
static float *result(const Shape *s, const Data *x, uint32_t type, int chunk) {
    Config config = config_of(s);
    KvCache *c = cache_open(&config, s->n, 1, type);
    float *out = xcalloc((size_t)s->n * x->q_row, sizeof *out, "result");
    feed(c, x, 0, 0, s->n, chunk, out);
    cache_close(c);
    return out;
}

/* What the cache makes of the rows of x, each of heads of D numbers. */
static void round_rows(float *x, size_t rows, int head_dim, uint32_t type) {
    for (size_t r = 0; r < rows; r++, x += head_dim)
        for (int i = 0; i < head_dim && type != T_F32; i += 32) {
            int n = head_dim - i < 32 ? head_dim - i : 32;
            float largest = 0;
            for (int j = i; j < i + n; j++) largest = fmaxf(largest, fabsf(x[j]));
            float d = half_to_float(float_to_half(largest / 127));
            for (int j = i; j < i + n; j++)
                x[j] = type == T_F16 ? half_to_float(float_to_half(x[j]))
                                     : d * rintf(fminf(fmaxf(x[j] * (1 / d), -127), 127));
        }
}

/* out (n, H D) in double, the formula as it stands. */
static void twin(const Shape *s, const Data *x, float *out) {
    size_t d = (size_t)s->head_dim;
    double *p = xcalloc((size_t)s->n, sizeof *p, "scores");
    for (int t = 0; t < s->n; t++)
        for (int h = 0; h < s->heads; h++) {
            size_t kv = (size_t)(h / (s->heads / s->kv_heads)) * d;
            const float *q = x->q + (size_t)t * x->q_row + (size_t)h * d;
            double max = -INFINITY, sum = 0;
            for (int u = 0; u <= t; u++) {
                p[u] = 0;
                for (size_t i = 0; i < d; i++)
                    p[u] += (double)q[i] * (double)x->k[(size_t)u * x->kv_row + kv + i];
                p[u] /= sqrt((double)d);
                max = fmax(max, p[u]);
            }
            for (int u = 0; u <= t; u++) sum += p[u] = exp(p[u] - max);
            for (size_t i = 0; i < d; i++) {
                double mix = 0;
                for (int u = 0; u <= t; u++)
                    mix += p[u] * (double)x->v[(size_t)u * x->kv_row + kv + i];
                out[(size_t)t * x->q_row + (size_t)h * d + i] = (float)(mix / sum);
            }
        }
    free(p);
}

static const Shape shapes[] = { { 2, 1, 160, 600 }, { 7, 1, 128, 140 }, { 4, 1, 80, 270 },
                                { 4, 2, 64, 257 },  { 5, 5, 6, 140 },   { 3, 1, 34, 130 },
                                { 2, 1, 2, 33 } };
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void test_formula(const Shape *s, uint32_t type) {
    Data x = data_of(s);
    size_t n = (size_t)s->n * x.q_row;
    float *want = xcalloc(n, sizeof *want, "result");
    char name[96];
    float *got[5] = { NULL };
    for (int i = 0; i < 5; i++) /* with numbers that are not rounded yet */
        if (matmul_choose(levels[i])) got[i] = result(s, &x, type, 77);
    round_rows(x.k, (size_t)(s->n * s->kv_heads), s->head_dim, type);
    round_rows(x.v, (size_t)(s->n * s->kv_heads), s->head_dim, type);
    twin(s, &x, want);
    for (int i = 0; i < 5; i++) {
        if (!got[i]) continue;
        snprintf(name, sizeof name, "%s: %d heads on %d, D = %d, %d positions, %s",
                 levels[i] ? levels[i] : "default", s->heads, s->kv_heads, s->head_dim, s->n,
                 type_name(type));
        check_close(name, got[i], want, n, 1e-5);
        free(got[i]);
    }
    float *wide = result(s, &x, T_F32, s->n), *narrow = result(s, &x, type, s->n);
    if (type == T_F16)
        check_same("f16: as a float32 cache of what was rounded", narrow, wide, 4 * n);
    free(wide);
    free(narrow);
    free(want);
    data_free(&x);
}

/* ------------------------------------------------------------------------------------------------
 * 3. The same bits */

static void test_groups(const Shape *s, uint32_t type) {
    static const int chunks[] = { 1, 7, 64 }, threads[] = { 1, 2, 3, 7 };
    Data x = data_of(s);
    size_t bytes = (size_t)s->n * x.q_row * sizeof(float);
    float *want = result(s, &x, type, s->n);
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 3; i++) {
            if (chunks[i] == 1 && threads[t] % 2 == (s->n > 500)) continue;
            omp_set_num_threads(threads[t]);
            float *got = result(s, &x, type, chunks[i]);
            check(!memcmp(got, want, bytes), "not bit-equal",
                  "%d heads on %d, D = %d, %s: %d threads, %d at a time", s->heads, s->kv_heads,
                  s->head_dim, type_name(type), threads[t], chunks[i]);
            free(got);
        }
    omp_set_num_threads(2);
    free(want);
    data_free(&x);
}

/* Three sequences take turns in one batch, one of them behind what it knows already. */
static void test_interleaved(const Shape *s, uint32_t type) {
    enum { N = 3 };
    Data x = data_of(s);
    Config config = config_of(s);
    KvCache *c = cache_open(&config, s->n, N, type);
    int length[N] = { s->n, s->n / 2, s->n / 3 }, known = s->n / 4, n = 0, differ = 0;
    int seq[3 * 600], pos[3 * 600];
    size_t most = (size_t)s->n * N;
    float *q = noise(most * x.q_row, 1), *k = noise(most * x.kv_row, 1);
    float *v = noise(most * x.kv_row, 1), *out = noise(most * x.q_row, 1);
    float *want = result(s, &x, type, s->n);
    feed(c, &x, 2, 0, known, known, out);
    for (int p = 0; p < s->n; p++)
        for (int i = 0; i < N; i++) {
            if (p >= length[i] || (i == 2 && p < known)) continue;
            memcpy(q + (size_t)n * x.q_row, x.q + (size_t)p * x.q_row, x.q_row * sizeof *q);
            memcpy(k + (size_t)n * x.kv_row, x.k + (size_t)p * x.kv_row, x.kv_row * sizeof *k);
            memcpy(v + (size_t)n * x.kv_row, x.v + (size_t)p * x.kv_row, x.kv_row * sizeof *v);
            seq[n] = i, pos[n++] = p;
        }
    Batch b = { n, NULL, seq, pos, NULL };
    attention(c, 1, &b, out, q, k, v);
    for (int i = 0; i < n; i++)
        differ += memcmp(out + (size_t)i * x.q_row, want + (size_t)pos[i] * x.q_row,
                         x.q_row * sizeof *out) != 0;
    check(!differ, "not bit-equal", "three sequences in a batch, D = %d, %s", s->head_dim,
          type_name(type));
    cache_close(c);
    free(q), free(k), free(v), free(out), free(want);
    data_free(&x);
}

/* What was fed and cut off again, here NaN everywhere, leaves no trace. */
static void test_cut(const Shape *s, uint32_t type) {
    Data x = data_of(s), bad = data_of(s);
    Config config = config_of(s);
    KvCache *c = cache_open(&config, s->n, 1, type);
    size_t n = (size_t)s->n * x.q_row;
    float *want = result(s, &x, type, s->n), *got = noise(n, 1);
    for (size_t i = 0; i < (size_t)s->n * x.kv_row; i++) bad.k[i] = bad.v[i] = NAN;
    feed(c, &bad, 0, 0, s->n, s->n, got);
    int nan = 0;
    for (size_t i = 0; i < n; i++) nan += isnan(got[i]);
    check(nan == (int)n, "a number came out", "NaN stays NaN, %s", type_name(type));
    feed(c, &x, 0, 0, s->n, 5, got);
    check_same("NaN behind the present position is not seen", got, want, n * sizeof *got);
    cache_close(c);
    free(want), free(got);
    data_free(&x);
    data_free(&bad);
}

/* Numbers beyond the range of half precision stay finite and keep their sign; infinity does not
 * become a number. */
static void test_range(uint32_t type) {
    Shape s = { 1, 1, 64, 3 };
    Data x = data_of(&s);
    for (size_t i = 0; i < 64; i++) x.v[i] = i % 2 ? 1e30f : -1e30f, x.k[i] = 1e5f * uniform();
    float *got = result(&s, &x, type, 3);
    float want = type == T_F32 ? 1e30f : type == T_F16 ? 65504 : 127 * 65504.0f;
    check(got[0] == -want && got[63] == want, "another number", "1e30 in a cache of %s is %g",
          type_name(type), (double)want);
    free(got);
    x.v[5] = INFINITY;
    got = result(&s, &x, type, 1);
    check(!isfinite(got[5]), "a number", "infinity in a cache of %s", type_name(type));
    free(got);
    data_free(&x);
}

int main(void) {
    static const uint32_t types[] = { T_F32, T_F16, T_Q8_0 };
    for (int i = 0; i < 5; i++) { /* NULL, the default, is last and stays */
        if (!matmul_choose(levels[i])) continue;
        test_exp(levels[i] ? levels[i] : "default");
        test_swiglu(levels[i] ? levels[i] : "default");
    }
    for (int t = 0; t < 3; t++) {
        for (int i = small_tests() ? N_SHAPES / 2 : 0; i < N_SHAPES; i++) {
            test_formula(&shapes[i], types[t]);
            test_groups(&shapes[i], types[t]);
            test_interleaved(&shapes[i], types[t]);
        }
        test_cut(&shapes[3], types[t]);
        test_range(types[t]);
    }
    return test_end();
}
