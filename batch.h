/* batch.h: what the trainers of train.c and traincuda.cu do alike before there is anything to
 * compute: look at the weights, take a batch apart, and fill in the angles of RoPE.
 *
 * What to know first: a batch comes as B rows of T + 1 ids with marks (shards.h); what the ops are
 * given of it is (B T) each, row after row. Test: tests/test_train.c, tests/test_traincuda.c. */
#ifndef OC_BATCH_H
#define OC_BATCH_H

#include "shards.h" /* NO_LOSS, STARTS, TOKEN_ID; opencoder.h: TrainOptions, Config */

/* Death where a weight is no finite number. Where it stands in a row that no text uses the loss
 * would not tell, and every checkpoint would have it. */
OC_API void check_tensor(const Model *m, const Tensor *t) {
    enum { PIECE = 256 }; /* the longest block */
    size_t cols = (size_t)t->cols, bytes = row_bytes(t->type, cols);
#pragma omp parallel for schedule(static)
    for (int r = 0; r < t->rows; r++)
        for (size_t from = 0, n; from < cols; from += n) {
            float x[PIECE];
            n = cols - from < PIECE ? cols - from : (size_t)PIECE;
            dequantize(x, t->data + (size_t)r * bytes, t->type, from, n);
            for (size_t i = 0; i < n; i++)
                if (!isfinite(x[i]))
                    die("%s: tensor %.*s, row %d: %f, expected finite numbers", m->path,
                        STR(t->name), r, (double)x[i]);
        }
}

OC_API void check_weights(const Model *m) {
    const Config *c = &m->config;
#define X(field, name, n, rows, cols)                                                              \
    for (int i = 0; i < (n); i++) check_tensor(m, &m->weights.field[i]);
    TENSORS(X)
#undef X
}

typedef struct {              /* (B, T) each */
    uint32_t *token, *target; /* ids; the next ones, which may be marked NO_LOSS */
    int *pos, *first;         /* place in its document; where in its row that begins */
} Tokens;

/* Takes the batch apart. Death where it is larger than was agreed, or an id is none. */
OC_API void take_batch(Tokens *to, const uint32_t *tokens, int B, int T, const TrainOptions *o,
                       int V) {
    if (B < 1 || B > o->batch || T < 1 || T > o->seq_len)
        die("batch: %d x %d, expected at most %d x %d", B, T, o->batch, o->seq_len);
    for (int b = 0, i = 0; b < B; b++)
        for (int t = 0, first = 0; t < T; t++, i++) {
            const uint32_t *at = tokens + (size_t)b * (size_t)(T + 1) + t;
            int id = TOKEN_ID(at[0]), next = TOKEN_ID(at[1]);
            if (id >= V || next >= V)
                die("batch: token %d, expected less than %d", id >= V ? id : next, V);
            if (at[0] & STARTS) first = t;
            to->token[i] = (uint32_t)id;
            to->target[i] = at[1];
            to->first[i] = first;
            to->pos[i] = t - first;
        }
}

/* cosine, sine (T, D / 2) of the angles p theta^(-2 i / D), as run.c: rope_angles computes them. */
OC_API void fill_angles(float *cosine, float *sine, int T, const Config *c) {
    int D = c->head_dim;
    for (int p = 0; p < T; p++)
        for (int i = 0; i < D / 2; i++) {
            double exponent = (double)((float)(2 * i) / (float)D);
            float frequency = 1 / (float)pow((double)c->rope_theta, exponent);
            double angle = (double)((float)p * frequency);
            size_t at = (size_t)p * (size_t)(D / 2) + (size_t)i;
            cosine[at] = (float)cos(angle);
            sine[at] = (float)sin(angle);
        }
}

#endif
