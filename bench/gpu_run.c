/* gpu_run.c: how fast cuda_engine decodes and reads prompts; started by bench/gpu_run.py.
 *
 *     bench_gpu SHAPE TYPE CONTEXT PROMPT...     e.g. bench_gpu 8b q8_0 4000 512 8192
 *
 * The model is random and never a file: its tensors all lie in one buffer of the size of the
 * largest, whose bytes are valid blocks of the type. On the device each has a place of its own, so
 * the memory has the same work. Prints a line for every figure as soon as it is there: seconds, as
 * the median of several passes. Decoding is one token at a time, greedily, from position 16 and
 * from position CONTEXT on. */
#include "../opencoder.h" /* Model, cuda_engine */

enum { DECODED = 64 }; /* at most; fewer in a rehearsal */

static uint64_t state = 1;

/* n bytes of blocks of `type`: small scales, random codes. */
static uint8_t *random_blocks(uint32_t type, size_t n) {
    const TypeInfo *info = type_info(type);
    uint8_t *p = xcalloc(n, 1, "weights");
    size_t once = n < 1 << 22 ? n : 1 << 22; /* then it repeats, at another phase of the rows */
    once -= once % ((size_t)info->block * (size_t)info->bytes);
    float x[32];
    for (size_t at = 0; at + (size_t)info->bytes <= once; at += (size_t)info->bytes) {
        for (int i = 0; i < info->block; i++)
            x[i] = ((float)(next_random(&state) >> 40) * 0x1p-23f - 1) * 0.03f;
        quantize(p + at, x, type, (size_t)info->block);
    }
    for (size_t at = once; at < n; at += once) memcpy(p + at, p, n - at < once ? n - at : once);
    return p;
}

static void make_model(Model *m, const Config *shape, uint32_t type) {
    const Config *c = shape;
    size_t most = 0;
    memset(m, 0, sizeof *m);
    m->path = "a random model";
    m->config = *shape;
    m->vocab.n = shape->vocab_size;
    m->vocab.type = xcalloc((size_t)shape->vocab_size, 1, "vocabulary");
    memset(m->vocab.type, TOK_NORMAL, (size_t)shape->vocab_size);
#define X(field, name, count, rows, cols)                                                          \
    if ((size_t)(rows)*row_bytes(type, (size_t)(cols)) > most)                                     \
        most = (size_t)(rows)*row_bytes(type, (size_t)(cols));
    TENSORS(X)
#undef X
    const uint8_t *weights = random_blocks(type, most);
    float *ones = xcalloc((size_t)shape->dim, sizeof *ones, "norms");
    for (int i = 0; i < shape->dim; i++) ones[i] = 1;
#define X(field, tensor, number, r, k)                                                             \
    m->weights.field = xcalloc((size_t)(number), sizeof(Tensor), tensor);                          \
    for (int i = 0; i < (number); i++)                                                             \
        m->weights.field[i] = (Tensor){ .name = { tensor, sizeof tensor - 1 },                     \
                                        .type = (r) == 1 ? T_F32 : type,                           \
                                        .rows = r,                                                 \
                                        .cols = k,                                                 \
                                        .data = (r) == 1 ? (const uint8_t *)ones : weights };
    TENSORS(X)
#undef X
}

static int cmp(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Feeds n tokens from position pos on in one pass; returns its seconds. */
static double feed(Engine *e, const Model *m, int pos, int n, int *id) {
    int *token = xcalloc((size_t)n, 3 * sizeof *token, "batch"), *seq = token + n, *at = seq + n;
    char *want = xcalloc((size_t)n, 1, "batch");
    for (int i = 0; i < n; i++) {
        token[i] = n == 1 ? *id : (int)(next_random(&state) >> 33) % m->config.vocab_size;
        at[i] = pos + i;
    }
    want[n - 1] = 1;
    Batch b = { n, token, seq, at, want };
    double start = now_seconds();
    *id = cuda_engine.likeliest(e, cuda_engine.forward(e, &b));
    double seconds = now_seconds() - start;
    if (*id < 0) die("a logit at position %d is not finite", pos + n - 1);
    free(token);
    free(want);
    return seconds;
}

static void report(const char *what, int n, double *seconds, int count) {
    qsort(seconds, (size_t)count, sizeof *seconds, cmp);
    printf("%s %d %.9f\n", what, n, seconds[count / 2]);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const uint32_t types[] = { T_BF16, T_F16, T_Q8_0, T_Q4_0 };
    Model m;
    int id = 1, context, longest = 512, decoded;
    uint32_t type = T_COUNT;
    double seconds[DECODED];
    if (argc < 5) die_usage("%d arguments, expected SHAPE TYPE CONTEXT PROMPT...", argc - 1);
    const Config *shape = config_named(argv[1]);
    for (int i = 0; i < 4; i++)
        if (!strcmp(argv[2], type_name(types[i]))) type = types[i];
    if (!shape || type == T_COUNT) die_usage("%s %s: no such model", argv[1], argv[2]);
    make_model(&m, shape, type);
    decoded = shape->vocab_size < 10000 ? 4 : DECODED;
    context = (int)parse_int("CONTEXT", argv[3], 17, shape->max_ctx - DECODED);
    for (int i = 4; i < argc; i++) {
        int n = (int)parse_int("PROMPT", argv[i], 1, shape->max_ctx);
        longest = n > longest ? n : longest;
    }
    EngineOptions o = { .n_ctx = shape->max_ctx, .n_seq = 1, .n_batch = longest, .greedy = true };
    double start = now_seconds();
    Engine *e = cuda_engine.open(&m, &o);
    printf("open 0 %.9f\n", now_seconds() - start);
    for (int far = 0; far < 2; far++) {
        int begin = far ? context : 16;
        for (int at = 0; at < begin; at += longest)
            feed(e, &m, at, begin - at < longest ? begin - at : longest, &id);
        for (int i = 0; i < 4; i++) feed(e, &m, begin, 1, &id); /* the graph is made here */
        for (int i = 0; i < decoded; i++) seconds[i] = feed(e, &m, begin + i, 1, &id);
        report("decode", begin, seconds, decoded);
    }
    for (int i = 4; i < argc; i++) {
        int n = (int)parse_int("PROMPT", argv[i], 1, shape->max_ctx);
        for (int k = -2; k < 5; k++) {
            double taken = feed(e, &m, 0, n, &id);
            if (k >= 0) seconds[k] = taken;
        }
        report("prompt", n, seconds, 5);
    }
    cuda_engine.close(e);
    return 0;
}
