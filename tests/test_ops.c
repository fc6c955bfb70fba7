/* test_ops.c: every op of train.c, one at a time. The forward pass against its formula in double
 * precision; the backward pass against central differences of that formula,
 *
 *     d f / d x_i  =  (f(x + h e_i) - f(x - h e_i)) / 2h,      f = sum of weight times output,
 *
 * where the weights are what the backward pass is given as dY. Small inputs are tried number by
 * number; of large ones a sample, and slopes along random directions, which no number escapes.
 * Also: the range of fast_exp, the edges of the loss, the memory that a trainer takes.
 *
 * The ops are static, so this test, and no other, includes the source; the Makefile links it
 * without train.o. */
#define OC_LIBRARY
#include "../train.c"
#include "test.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define TOLERANCE    8e-6 /* of a tensor's largest number; seen: 9e-7 */

static uint64_t state = 1;
static double uniform(void) { /* in [-1, 1) */
    return (double)(next_random(&state) >> 11) * 0x1p-52 - 1;
}

/* The same numbers twice: as the ops see them and as the formulas do. */
typedef struct {
    float *f;
    double *d;
    size_t n;
} Array;

static Array numbers(size_t n, double size) {
    Array a = { xcalloc(n, sizeof *a.f, "numbers"), xcalloc(n, sizeof *a.d, "numbers"), n };
    for (size_t i = 0; i < n; i++) a.d[i] = (double)(a.f[i] = (float)(size * uniform()));
    return a;
}

static void free_arrays(Array *a, size_t n) {
    for (size_t i = 0; i < n; i++) free(a[i].f), free(a[i].d);
}
#define FREE(...) free_arrays((Array[]){ __VA_ARGS__ }, COUNT(((Array[]){ __VA_ARGS__ })))

static double dot_with(const float *w, const double *y, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)w[i] * y[i];
    return sum;
}

/* ------------------------------------------------------------------------------------------------
 * 1. Comparing. A result that is added to what is there starts at `start` everywhere. */

enum { FEW = 130, SAMPLES = 40, DIRECTIONS = 4 };

typedef double Formula(void *arg); /* f of everything in arg */

static float *filled(size_t n, float value) {
    float *x = xcalloc(n, sizeof *x, "numbers");
    for (size_t i = 0; i < n; i++) x[i] = value;
    return x;
}

/* Slope of f when x moves along `along` by h either way. */
static double slope(Formula *f, void *arg, double *x, const double *along, size_t n, double h) {
    double *keep = xcalloc(n, sizeof *keep, "numbers");
    memcpy(keep, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = keep[i] + h * along[i];
    double up = f(arg);
    for (size_t i = 0; i < n; i++) x[i] = keep[i] - h * along[i];
    double down = f(arg);
    memcpy(x, keep, n * sizeof *x);
    free(keep);
    return (up - down) / (2 * h);
}

static double one_slope(Formula *f, void *arg, double *x, size_t i) {
    const double h = 1e-5;
    double keep = x[i];
    x[i] = keep + h;
    double up = f(arg);
    x[i] = keep - h;
    double down = f(arg);
    x[i] = keep;
    return (up - down) / (2 * h);
}

/* The worst |difference quotient - got| in units of the largest number of got; along a direction,
 * of the length of got. Units are as for numbers of 0.1 at least: some gradients are 0. */
static double gradient_error(Formula *f, void *arg, double *x, size_t n, const float *got,
                             float start) {
    double largest = 0.1, length = 0.01 * (double)n, worst = 0;
    size_t stride = n <= FEW ? 1 : n / SAMPLES | 1;
    for (size_t i = 0; i < n; i++) {
        double g = (double)got[i] - (double)start;
        largest = fmax(largest, fabs(g));
        length += g * g;
    }
    for (size_t i = 0; i < n; i += stride) {
        double d = fabs(one_slope(f, arg, x, i) - ((double)got[i] - (double)start)) / largest;
        if (!(d <= worst)) worst = d; /* NaN too */
    }
    double *along = xcalloc(n, sizeof *along, "direction");
    for (int k = 0; k < DIRECTIONS && n > FEW; k++) {
        double want = 0;
        for (size_t i = 0; i < n; i++) {
            along[i] = uniform() < 0 ? -1 : 1;
            want += along[i] * ((double)got[i] - (double)start);
        }
        double got_slope = slope(f, arg, x, along, n, 1e-4 / sqrt((double)n));
        double d = fabs(got_slope - want) / sqrt(length);
        if (!(d <= worst)) worst = d;
    }
    free(along);
    return worst;
}

/* max |got - start - want| / max |want|. */
static double value_error(const float *got, const double *want, size_t n, double start) {
    double largest = 1e-30, worst = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - start - want[i]) / largest;
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* One line for an op at one size: the errors of its outputs and gradients. */
static void report(const char *name, const double *error, int n, double tol) {
    char why[160] = "errors";
    double worst = 0;
    for (int i = 0; i < n; i++) {
        size_t used = strlen(why);
        snprintf(why + used, sizeof why - used, " %.1e", error[i]);
        if (!(error[i] <= worst)) worst = error[i];
    }
    check(worst <= tol, why, "%s (error %.1e, at most %.0e)", name, worst, tol);
}
#define REPORT(name, tol, ...)                                                                     \
    report(name, (double[]){ __VA_ARGS__ }, (int)COUNT(((double[]){ __VA_ARGS__ })), tol)

/* ------------------------------------------------------------------------------------------------
 * 2. e^x */

static void test_exp(void) {
    double worst = 0;
    for (double x = -87; x <= 88; x += 1e-4) {
        float in = (float)x;
        double want = exp((double)in), ulp = ldexp(1, ilogb(want) - 23);
        worst = fmax(worst, fabs((double)fast_exp(in) - want) / ulp);
    }
    check(worst <= 2, "too far away", "e^x: %.2f units of the last place, at most 2", worst);
    CHECK(isnan(fast_exp(NAN)));
    CHECK(fast_exp(0) == 1);
    CHECK(fast_exp(-INFINITY) == fast_exp(-87) && fast_exp(-1e30f) == fast_exp(-87));
    CHECK(fast_exp(-87) > 0 && fast_exp(-87) < 2e-38f);
    CHECK(fast_exp(INFINITY) == fast_exp(88) && fast_exp(1e30f) == fast_exp(88));
    CHECK(isfinite(fast_exp(88)) && fast_exp(88) > 1e38f);
}

/* ------------------------------------------------------------------------------------------------
 * 3. RMSNorm, RoPE, SwiGLU, embedding */

typedef struct {
    int n, C;
    double eps;
    double *x, *w, *y; /* y is written */
    const float *dy;
} Norm;

static double norm_formula(void *arg) {
    const Norm *a = arg;
    size_t C = (size_t)a->C;
    for (size_t t = 0; t < (size_t)a->n; t++) {
        double sum = 0;
        for (size_t i = 0; i < C; i++) sum += a->x[t * C + i] * a->x[t * C + i];
        for (size_t i = 0; i < C; i++)
            a->y[t * C + i] = a->x[t * C + i] / sqrt(sum / a->C + a->eps) * a->w[i];
    }
    return dot_with(a->dy, a->y, (size_t)a->n * C);
}

static void test_rmsnorm(int n, int C) {
    size_t size = (size_t)n * (size_t)C;
    float eps = 1e-2f; /* large enough to be noticed */
    Array x = numbers(size, 1), w = numbers((size_t)C, 2), dy = numbers(size, 1);
    Array y = numbers(size, 1), r = numbers((size_t)n, 1);
    Norm a = { n, C, (double)eps, x.d, w.d, y.d, dy.f };
    float *dx = filled(size, 1), *dw = filled((size_t)C, 1), *alone = filled(size, 1);
    char name[48];
    rmsnorm_forward(y.f, r.f, x.f, w.f, n, C, eps);
    norm_formula(&a);
    double forward_error = value_error(y.f, y.d, size, 0);
    rmsnorm_backward(dx, dw, dy.f, x.f, w.f, r.f, n, C);
    rmsnorm_backward(alone, NULL, dy.f, x.f, w.f, r.f, n, C);
    snprintf(name, sizeof name, "rmsnorm n %d C %d", n, C);
    REPORT(name, TOLERANCE, forward_error, gradient_error(norm_formula, &a, x.d, size, dx, 1),
           gradient_error(norm_formula, &a, w.d, (size_t)C, dw, 1));
    CHECK(!memcmp(dx, alone, size * sizeof *dx));
    FREE(x, w, dy, y, r);
    free(dx);
    free(dw);
    free(alone);
}

typedef struct {
    int n, heads, D;
    const double *cosine, *sine;
    const int *pos;
    double *v, *y;
    const float *dy;
} Rope;

static double rope_formula(void *arg) {
    const Rope *a = arg;
    size_t half = (size_t)a->D / 2, pairs = (size_t)a->n * (size_t)a->heads * half;
    for (size_t k = 0; k < pairs; k++) {
        size_t t = k / ((size_t)a->heads * half), at = (size_t)a->pos[t] * half + k % half;
        a->y[2 * k] = a->v[2 * k] * a->cosine[at] - a->v[2 * k + 1] * a->sine[at];
        a->y[2 * k + 1] = a->v[2 * k] * a->sine[at] + a->v[2 * k + 1] * a->cosine[at];
    }
    return dot_with(a->dy, a->y, 2 * pairs);
}

static void test_rope(int n, int heads, int D) {
    size_t size = (size_t)n * (size_t)heads * (size_t)D, angles = 9 * (size_t)D / 2;
    Array v = numbers(size, 1), y = numbers(size, 1), dy = numbers(size, 1);
    Array cosine = numbers(angles, 1), sine = numbers(angles, 1);
    int *pos = xcalloc((size_t)n, sizeof *pos, "positions");
    char name[48];
    for (int t = 0; t < n; t++) pos[t] = (5 * t + 3) % 9;
    for (size_t i = 0; i < angles; i++) {
        double angle = 10 * uniform();
        cosine.d[i] = (double)(cosine.f[i] = (float)cos(angle));
        sine.d[i] = (double)(sine.f[i] = (float)sin(angle));
    }
    Rope a = { n, heads, D, cosine.d, sine.d, pos, v.d, y.d, dy.f };
    memcpy(y.f, v.f, size * sizeof *y.f);
    rope(y.f, cosine.f, sine.f, pos, n, heads, D, 1);
    rope_formula(&a);
    double forward_error = value_error(y.f, y.d, size, 0);
    memcpy(y.f, dy.f, size * sizeof *y.f);
    rope(y.f, cosine.f, sine.f, pos, n, heads, D, -1);
    snprintf(name, sizeof name, "rope n %d heads %d D %d", n, heads, D);
    REPORT(name, TOLERANCE, forward_error, gradient_error(rope_formula, &a, v.d, size, y.f, 0));
    FREE(v, y, dy, cosine, sine);
    free(pos);
}

typedef struct {
    size_t n;
    double *gate, *up, *hidden;
    const float *dhidden;
} Glu;

static double swiglu_formula(void *arg) {
    const Glu *a = arg;
    for (size_t i = 0; i < a->n; i++) a->hidden[i] = a->gate[i] / (1 + exp(-a->gate[i])) * a->up[i];
    return dot_with(a->dhidden, a->hidden, a->n);
}

/* In place: gate, up, dhidden become dgate, dup, hidden. Gates of +-100 are beyond fast_exp. */
static void test_swiglu(size_t n, double size) {
    Array gate = numbers(n, size), up = numbers(n, 1), dhidden = numbers(n, 1);
    Array hidden = numbers(n, 1);
    Array weight = { filled(n, 0), NULL, n };
    char name[48];
    memcpy(weight.f, dhidden.f, n * sizeof *weight.f);
    Glu a = { n, gate.d, up.d, hidden.d, weight.f };
    swiglu_forward(hidden.f, gate.f, up.f, n);
    swiglu_backward(gate.f, up.f, dhidden.f, n);
    swiglu_formula(&a);
    double errors[] = { value_error(hidden.f, hidden.d, n, 0),
                        value_error(dhidden.f, hidden.d, n, 0) };
    snprintf(name, sizeof name, "swiglu n %zu, gates to %.0f", n, size);
    REPORT(name, TOLERANCE, errors[0], errors[1],
           gradient_error(swiglu_formula, &a, gate.d, n, gate.f, 0),
           gradient_error(swiglu_formula, &a, up.d, n, up.f, 0));
    FREE(gate, up, dhidden, hidden, weight);
}

/* Marks are taken off tokens and stay on targets; a document begins where its mark is. */
static void test_take_batch(void) {
    const uint32_t row[4] = { 5 | STARTS, 3 | NO_LOSS, 7 | STARTS | NO_LOSS, 1 };
    uint32_t token[3], target[3];
    int pos[3], first[3];
    Tokens to = { token, target, pos, first };
    take_batch(&to, row, 1, 3, &(TrainOptions){ .batch = 1, .seq_len = 3 }, 8);
    CHECK(token[0] == 5 && token[1] == 3 && token[2] == 7);
    CHECK(target[0] == row[1] && target[1] == row[2] && target[2] == 1);
    CHECK(pos[0] == 0 && pos[1] == 1 && pos[2] == 0);
    CHECK(first[0] == 0 && first[1] == 0 && first[2] == 2);
}

/* Every row is its token's; tokens that come twice get both gradients. */
static void test_embedding(int n, int V, int C) {
    size_t size = (size_t)n * (size_t)C, c = (size_t)C;
    Array w = numbers((size_t)V * c, 1), x = numbers(size, 1), dx = numbers(size, 1);
    Array dw = { filled((size_t)V * c, 1), xcalloc((size_t)V * c, sizeof(double), "dw"), 0 };
    uint32_t *token = xcalloc((size_t)n, sizeof *token, "tokens");
    uint8_t *half = xcalloc((size_t)V, 2 * c, "bf16");
    Tensor f32 = { .type = T_F32, .rows = V, .cols = C, .data = (const uint8_t *)w.f };
    Tensor bf16 = { .type = T_BF16, .rows = V, .cols = C, .data = half };
    char name[48];
    double apart = 0;
    for (int t = 0; t < n; t++) token[t] = (uint32_t)(t * 3 % V);
    for (size_t v = 0; v < (size_t)V; v++) quantize(half + v * 2 * c, w.f + v * c, T_BF16, c);
    embedding_forward(x.f, &bf16, token, n);
    for (size_t i = 0; i < size; i++) {
        double want = w.d[(size_t)token[i / c] * c + i % c];
        apart = fmax(apart, fabs((double)x.f[i] - want) / fmax(fabs(want), 1e-30));
    }
    embedding_forward(x.f, &f32, token, n);
    for (size_t i = 0; i < size; i++) {
        x.d[i] = w.d[(size_t)token[i / c] * c + i % c];
        dw.d[(size_t)token[i / c] * c + i % c] += dx.d[i];
    }
    embedding_backward(dw.f, dx.f, token, n, C);
    snprintf(name, sizeof name, "embedding n %d V %d C %d", n, V, C);
    REPORT(name, TOLERANCE, value_error(x.f, x.d, size, 0),
           value_error(dw.f, dw.d, (size_t)V * c, 1));
    check(apart <= 1.0 / 256, "too far away", "%s of bfloat16 (%.1e)", name, apart);
    FREE(w, x, dx, dw);
    free(token);
    free(half);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The loss */

typedef struct {
    int n, V;
    double scale;
    double *logits, *loss;
    const uint32_t *target;
} Loss;

static double loss_formula(void *arg) {
    const Loss *a = arg;
    double total = 0;
    for (int t = 0; t < a->n; t++) {
        const double *l = a->logits + (size_t)t * (size_t)a->V;
        double max = l[0], sum = 0;
        for (int i = 0; i < a->V; i++) max = fmax(max, l[i]);
        for (int i = 0; i < a->V; i++) sum += exp(l[i] - max);
        a->loss[t] = a->target[t] & NO_LOSS ? 0 : log(sum) + max - l[TOKEN_ID(a->target[t])];
        total += a->scale * a->loss[t];
    }
    return total;
}

static void test_cross_entropy(int n, int V, double size) {
    size_t count = (size_t)n * (size_t)V;
    Array logits = numbers(count, size), loss = numbers((size_t)n, 1);
    uint32_t *target = xcalloc((size_t)n, sizeof *target, "targets");
    char name[64];
    float scale = 0.375f;
    for (int t = 0; t < n; t++)
        target[t] = (uint32_t)(t * 11 % V) | (t % 3 == 1 ? NO_LOSS : 0) | (t % 2 ? STARTS : 0);
    Loss a = { n, V, (double)scale, logits.d, loss.d, target };
    cross_entropy(logits.f, loss.f, target, n, V, scale);
    loss_formula(&a);
    double forward_error = V > 1 ? value_error(loss.f, loss.d, (size_t)n, 0) : 0;
    int marked = 0;
    for (size_t i = 0; i < count; i++)
        marked += target[i / (size_t)V] & NO_LOSS && logits.f[i] != 0;
    for (int t = 0; t < n; t++) marked += target[t] & NO_LOSS && loss.f[t] != 0;
    snprintf(name, sizeof name, "loss n %d V %d, logits to %.0f", n, V, size);
    REPORT(name, TOLERANCE, forward_error,
           gradient_error(loss_formula, &a, logits.d, count, logits.f, 0), marked);
    FREE(logits, loss);
    free(target);
}

static void test_loss_edges(void) {
    float l[4] = { 5, 5, 5, 5 }, loss = 0;
    uint32_t target = 2;
    cross_entropy(l, &loss, &target, 1, 4, 1);
    CHECK(fabsf(loss - logf(4)) < 1e-6f);
    CHECK(l[0] == 0.25f && l[1] == 0.25f && l[2] == -0.75f && l[3] == 0.25f);
    float far[3] = { -1e4f, 1e4f, 0 }; /* the target is 20000 below the likeliest */
    target = 0;
    cross_entropy(far, &loss, &target, 1, 3, 2);
    CHECK(loss == 2e4f && far[0] == -2 && far[1] == 2 && far[2] >= 0 && far[2] < 1e-30f);
    float sure[3] = { -1e4f, 1e4f, 0 };
    target = 1;
    cross_entropy(sure, &loss, &target, 1, 3, 1);
    CHECK(loss == 0 && sure[1] == 0 && sure[0] < 1e-30f);
    float broken[3] = { 0, NAN, 0 };
    cross_entropy(broken, &loss, &target, 1, 3, 1);
    CHECK(isnan(loss) && isnan(broken[0]));
}

/* ------------------------------------------------------------------------------------------------
 * 5. Attention, all heads of a batch */

typedef struct {
    int B, T, H, K, D;
    double *q, *k, *v, *out;
    const int *first;
    const float *dout;
} Attention;

static void attend(const Attention *a, int b, int h, int t, double *p) {
    int kv = h / (a->H / a->K), D = a->D, first = a->first[b * a->T + t];
    const double *q = a->q + (size_t)(((b * a->T + t) * a->H + h) * D);
    double *out = a->out + (q - a->q), max = -INFINITY, sum = 0;
    for (int u = first; u <= t; u++) {
        const double *k = a->k + (size_t)(((b * a->T + u) * a->K + kv) * D);
        p[u] = 0;
        for (int d = 0; d < D; d++) p[u] += q[d] * k[d];
        p[u] /= sqrt(D);
        max = fmax(max, p[u]);
    }
    for (int u = first; u <= t; u++) sum += p[u] = exp(p[u] - max);
    for (int d = 0; d < D; d++) out[d] = 0;
    for (int u = first; u <= t; u++) {
        const double *v = a->v + (size_t)(((b * a->T + u) * a->K + kv) * D);
        for (int d = 0; d < D; d++) out[d] += p[u] / sum * v[d];
    }
}

static double attention_formula(void *arg) {
    const Attention *a = arg;
    double p[256];
    for (int b = 0; b < a->B; b++)
        for (int h = 0; h < a->H; h++)
            for (int t = 0; t < a->T; t++) attend(a, b, h, t, p);
    return dot_with(a->dout, a->out, (size_t)(a->B * a->T * a->H * a->D));
}

/* A new document begins every `document` tokens, at other places in every row; 0: one a row. */
static void test_attention(int B, int T, int H, int K, int D, int document) {
    size_t n = (size_t)(B * T), q_size = n * (size_t)(H * D), kv_size = n * (size_t)(K * D);
    Array q = numbers(q_size, 2), k = numbers(kv_size, 2), v = numbers(kv_size, 1);
    Array out = numbers(q_size, 1), dout = numbers(q_size, 1), lse = numbers(n * (size_t)H, 1);
    Array dq = numbers(q_size, 1), dk = numbers(kv_size, 1), dv = numbers(kv_size, 1);
    int *first = xcalloc(n, sizeof *first, "documents");
    for (int b = 0, i = 0; b < B; b++)
        for (int t = 0, from = 0; t < T; t++, i++) {
            if (document && (t + b) % document == 0) from = t;
            first[i] = from;
        }
    Trainer t = { .n_threads = thread_count(), .batch = { .first = first }, .dattn = dout.f };
    t.model.config = (Config){ .n_heads = H, .n_kv_heads = K, .head_dim = D };
    t.opt.seq_len = T + 1; /* room for more */
    t.dq = dq.f;
    t.dk = dk.f;
    t.dv = dv.f;
    t.scores = filled((size_t)t.n_threads * 2 * QUERIES * (size_t)t.opt.seq_len, NAN);
    Kept kept = { .q = q.f, .k = k.f, .v = v.f, .attn_out = out.f, .lse = lse.f };
    Attention a = { .B = B, .T = T, .H = H, .K = K, .D = D, .first = first, .dout = dout.f };
    a.q = q.d;
    a.k = k.d;
    a.v = v.d;
    a.out = out.d;
    attention_forward(&t, &kept, B, T);
    attention_formula(&a);
    double forward_error = value_error(out.f, out.d, q_size, 0);
    attention_backward(&t, &kept, B, T);
    char name[96];
    snprintf(name, sizeof name, "attention B %d T %d H %d K %d D %d, documents of %d", B, T, H, K,
             D, document);
    REPORT(name, TOLERANCE, forward_error,
           gradient_error(attention_formula, &a, q.d, q_size, dq.f, 0),
           gradient_error(attention_formula, &a, k.d, kv_size, dk.f, 0),
           gradient_error(attention_formula, &a, v.d, kv_size, dv.f, 0));
    FREE(q, k, v, out, dout, lse, dq, dk, dv);
    free(first);
    free(t.scores);
}

/* ------------------------------------------------------------------------------------------------
 * 6. Products, with and without LoRA */

typedef struct {
    int n, in, out, rank; /* rank 0: no adapter */
    double scale;
    double *x, *w, *a, *b, *y;
    const float *dy;
} Product;

static double product_formula(void *arg) {
    const Product *p = arg;
    size_t in = (size_t)p->in, out = (size_t)p->out, rank = (size_t)p->rank;
    for (size_t i = 0; i < (size_t)p->n * out; i++) {
        const double *x = p->x + i / out * in;
        size_t o = i % out;
        p->y[i] = 0;
        for (size_t k = 0; k < in; k++) p->y[i] += p->w[o * in + k] * x[k];
        for (size_t r = 0; r < rank; r++)
            for (size_t k = 0; k < in; k++)
                p->y[i] += p->scale * p->b[o * rank + r] * p->a[r * in + k] * x[k];
    }
    return dot_with(p->dy, p->y, (size_t)p->n * out);
}

static void test_linear(int n, int in, int out, int rank) {
    size_t n_in = (size_t)(n * in), n_out = (size_t)(n * out), n_low = (size_t)(n * rank);
    Array x = numbers(n_in, 1), w = numbers((size_t)(in * out), 1), dy = numbers(n_out, 1);
    Array a = numbers((size_t)(rank * in), 1), b = numbers((size_t)(out * rank), 1);
    Array y = numbers(n_out, 1), z = numbers(n_low, 1), dz = numbers(n_low, 1);
    float *dx = filled(n_in, 3), *dw = filled(w.n, 1), *da = filled(a.n, 1), *db = filled(b.n, 1);
    Tensor weights = { .type = T_F32, .rows = out, .cols = in, .data = (const uint8_t *)w.f };
    Trainer t = { .z = z.f, .dz = dz.f };
    t.opt.lora_rank = rank;
    t.opt.lora_alpha = 5;
    Linear l = { .w = &weights, .dw = dw };
    if (rank) l = (Linear){ .w = &weights, .a = a.f, .da = da, .b = b.f, .db = db };
    Product p = { n, in, out, rank, rank ? 5.0 / rank : 0, x.d, w.d, a.d, b.d, y.d, dy.f };
    char name[64];
    product_formula(&p);
    double errors[6] = { 0 };
    linear_forward(&t, y.f, x.f, &l, n, 0);
    errors[0] = value_error(y.f, y.d, n_out, 0);
    for (size_t i = 0; i < n_out; i++) y.f[i] = 1;
    linear_forward(&t, y.f, x.f, &l, n, GEMM_ADD);
    errors[1] = value_error(y.f, y.d, n_out, 1);
    linear_backward_x(&t, dx, dy.f, &l, n, 0); /* overwrites the 3s */
    errors[2] = gradient_error(product_formula, &p, x.d, n_in, dx, 0);
    linear_backward_x(&t, dx, dy.f, &l, n, GEMM_ADD);
    for (size_t i = 0; i < n_in; i++) dx[i] /= 2;
    errors[3] = gradient_error(product_formula, &p, x.d, n_in, dx, 0);
    linear_backward_w(&t, dy.f, x.f, &l, n);
    if (!rank) errors[4] = gradient_error(product_formula, &p, w.d, w.n, dw, 1);
    if (rank) errors[4] = gradient_error(product_formula, &p, a.d, a.n, da, 1);
    if (rank) errors[5] = gradient_error(product_formula, &p, b.d, b.n, db, 1);
    snprintf(name, sizeof name, "linear n %d in %d out %d rank %d", n, in, out, rank);
    report(name, errors, 6, TOLERANCE);
    FREE(x, w, dy, a, b, y, z, dz);
    free(dx);
    free(dw);
    free(da);
    free(db);
}

/* ------------------------------------------------------------------------------------------------
 * 7. Memory, and a head that works in several chunks */

/* Numbers of what the head of train.c promises: all of them multiples of 16, so nothing is lost
 * between the pieces. */
static size_t promised(const Config *c, const TrainOptions *o) {
    size_t n = (size_t)o->batch * (size_t)o->seq_len, L = (size_t)c->n_layers, C = (size_t)c->dim;
    size_t HD = (size_t)c->n_heads * (size_t)c->head_dim, F = (size_t)c->hidden_dim;
    size_t KD = (size_t)c->n_kv_heads * (size_t)c->head_dim, V = (size_t)c->vocab_size;
    size_t layer = C + 2 * HD + 2 * KD + 2 * F + (size_t)c->n_heads + 2; /* x is kept apart */
    size_t chunk = (1 << 23) / V > 256 ? (1 << 23) / V : 256, T = (size_t)o->seq_len;
    return n * (L * C + (o->recompute ? 1 : L) * layer) +
           n * (4 * C + 2 * HD + 2 * KD + F + 2 + 2 * (size_t)o->lora_rank) + chunk * V +
           T * (size_t)(c->head_dim + 128 * thread_count());
}

static void test_memory(const Config *c, const TrainOptions *options) {
    for (int recompute = 0; recompute < 2; recompute++) {
        TrainOptions o = *options;
        o.recompute = recompute;
        Trainer t = { .opt = o, .n_threads = thread_count() };
        t.model.config = *c;
        t.layer = xcalloc((size_t)c->n_layers, sizeof *t.layer, "layers");
        CHECK_INT(lay_out(&t, NULL), promised(c, &o));
        free(t.layer);
    }
}

static void make_tensor(Tensor *t, const char *name, int layer, int rows, int cols) {
    char *full = xcalloc(64, 1, name);
    Array values = numbers((size_t)rows * (size_t)cols, 1);
    snprintf(full, 64, name, layer);
    *t = (Tensor){ str_of(full), T_F32, rows, cols, (const uint8_t *)values.f };
    free(values.d);
}

static void free_tensor(const Tensor *t) {
    free((void *)(uintptr_t)t->name.s);
    free((void *)(uintptr_t)t->data);
}

/* A model of random weights. */
static void make_model(Model *m, const Config *config) {
    const Config *c = &m->config;
    memset(m, 0, sizeof *m);
    m->config = *config;
#define X(field, text, count, rows, cols)                                                          \
    m->weights.field = xcalloc((size_t)(count), sizeof(Tensor), text);                             \
    for (int i = 0; i < (count); i++) make_tensor(&m->weights.field[i], text, i, rows, cols);
    TENSORS(X)
#undef X
}

static void free_model(Model *m) {
    const Config *c = &m->config;
#define X(field, text, count, rows, cols)                                                          \
    for (int i = 0; i < (count); i++) free_tensor(&m->weights.field[i]);
    TENSORS(X)
#undef X
    weights_free(&m->weights);
}

/* 300 tokens are more than a chunk of so large a vocabulary: the same as three times 100. */
static void test_chunks(void) {
    enum { T = 100 };
    Config c = { 3, 5, 1, 1, 1, 2, 40000, 128, 1e4f, 1e-5f, true };
    TrainOptions o = { .batch = 3, .seq_len = T };
    Model m;
    uint32_t token[3 * (T + 1)];
    size_t n;
    make_model(&m, &c);
    for (int i = 0; i < 3 * (T + 1); i++) token[i] = (uint32_t)(i * 997 % c.vocab_size);
    Trainer *t = cpu_trainer.open(&m, NULL, &o);
    CHECK(chunk_rows(&c) < 3 * T);
    CHECK_INT(t->count, (size_t)(40000 * 3 + 3 * 3 + 4 * 2 * 3 + 3 * 5 * 3));
    double all = cpu_trainer.step(t, token, 3, T, 0.01f), sum = 0;
    float *grad = cpu_trainer.gradients(t, &n), *want = xcalloc(n, sizeof *want, "gradients");
    double *wide = xcalloc(n, sizeof *wide, "gradients");
    memcpy(want, grad, n * sizeof *want);
    cpu_trainer.zero(t);
    for (int b = 0; b < 3; b++) sum += cpu_trainer.step(t, token + b * (T + 1), 1, T, 0.01f);
    for (size_t i = 0; i < n; i++) wide[i] = (double)grad[i];
    REPORT("a head of two chunks", TOLERANCE, fabs(all / sum - 1), value_error(want, wide, n, 0));
    cpu_trainer.close(t);
    free_model(&m);
    free(want);
    free(wide);
}

/* ---------------------------------------------------------------------------------------------- */

static void test_small_ops(void) {
    static const int size[] = { 1, 7, 65, 130 };
    for (int i = 0; i < 4; i++) {
        test_rmsnorm(1, size[i]);
        test_rmsnorm(5, size[i]);
        test_embedding(7, 5, size[i]);
        test_swiglu((size_t)size[i], 4);
    }
    test_swiglu(1000, 100);
    test_embedding(1, 1, 1);
    test_rope(1, 1, 2);
    test_rope(7, 3, 6);
    test_rope(3, 2, 160);
    for (int i = 0; i < 3; i++) {
        test_cross_entropy(1, size[i], 3);
        test_cross_entropy(7, size[i], 3);
    }
    test_cross_entropy(5, 383, 30);
    test_cross_entropy(4, 65, 1e4);
    test_loss_edges();
}

int main(void) {
    static const int T[] = { 1, 63, 64, 65, 130 };
#ifdef _OPENMP
    omp_set_num_threads(2);
#endif
    test_take_batch();
    test_exp();
    test_small_ops();
    for (int i = 0; i < 5; i++)
        for (int documents = 0; documents < 2; documents++)
            test_attention(i % 2 + 1, T[i], 4, 2, i == 4 ? 6 : 2, documents ? 29 : 0);
    test_attention(1, 9, 6, 2, 160, 0);
    test_attention(2, 66, 2, 1, 160, 33);
    test_attention(1, 70, 3, 3, 6, 1);
    for (int rank = 0; rank < 4; rank += 3) {
        test_linear(1, 1, 1, rank);
        test_linear(3, 7, 65, rank);
        test_linear(5, 65, 7, rank);
        test_linear(65, 6, 1, rank);
    }
    test_linear(3, 7, 5, 1);
    test_memory(&(Config){ 48, 96, 3, 4, 2, 16, 65536, 64, 1e4f, 1e-5f, false },
                &(TrainOptions){ .batch = 2, .seq_len = 32 });
    test_memory(&(Config){ 160, 32, 2, 3, 1, 32, 1024, 64, 1e4f, 1e-5f, true },
                &(TrainOptions){ .batch = 1, .seq_len = 16, .lora_rank = 4 });
    test_chunks();
    return test_end();
}
