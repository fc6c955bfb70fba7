/* speculate.h: several tokens from one pass over the weights, by guessing what comes next.
 *
 * What to know first: generating one token reads every weight once, and a pass of a few tokens
 * hardly takes longer, because the same weights serve all of them. So if somebody proposes the next
 * k tokens, one pass of k + 1 rows says at once what the model itself would choose behind each:
 *
 *     fed       id   p1   p2   p3          the newest token and three proposals
 *     logits    r0   r1   r2   r3          r1 is of use if the token chosen from r0 is p1, ...
 *
 * Rows are used as long as the proposals are what was chosen; the rest is forgotten. This is
 * speculative decoding (Leviathan et al., arXiv:2211.17192). There a proposal is drawn from a
 * distribution q and accepted with probability min(1, p / q), else another token is drawn from what
 * p has more than q, so that the outcome has the distribution p. Here nothing is drawn to propose:
 * q is 1 for the proposal, which is accepted with probability p, else the token is drawn from the
 * others. To draw from p as ever and look whether the proposal came out is the same. So the sampler
 * knows nothing of all this, and the text for a seed is, bit for bit, that of a run without it.
 *
 * Two propose. Lookup: where did the last few tokens stand before? What came after them then may
 * come again; this is free, and right where code is edited or repeats itself. Draft: a small model.
 * How many are proposed is decided before each pass from what was measured: how often proposals
 * were right, what a row more costs. A bad decision costs time, and little: see section 3.
 *
 * Sections: 1 state, 2 lookup, 3 what pays, 4 one token further.
 * Works with any EngineBackend. Test: tests/test_speculate.py. Measure: make bench-speculate. */
#ifndef OC_SPECULATE_H
#define OC_SPECULATE_H

#include "draft.h" /* Draft; and opencoder.h */

/* ------------------------------------------------------------------------------------------------
 * 1. State */

enum { SPEC_MOST = 64, SPEC_LONGEST = 16 };

typedef struct {
    float right, tried; /* how often the next token was the one expected */
} SpecRate;

typedef struct {
    const EngineBackend *backend;
    Engine *engine; /* of the model that decides */
    size_t n_vocab; /* numbers in a row of logits */
    double size;    /* bytes of the model */
    int most, n_ctx;
    bool always; /* propose whether it pays or not */
    Draft draft;
    int *token;         /* (n_ctx) what stands at each position; behind it, what is proposed */
    int match, n_match; /* lookup expects token[match] next, after n_match equal tokens */
    float *logits;      /* of the last pass: row `row` of `rows` is in use */
    int row, rows;
    bool drafted;                    /* the draft made its proposals */
    SpecRate rate[SPEC_LONGEST + 1]; /* [0] the draft's, [n] lookup's after n or more equal */
    /* Seconds: a pass of one row, a row of the prompt, a draft's proposal; the last pass, all of
     * them; what they took more than as many tokens one by one would have. */
    double plain, prompt_row, draft_one, last, total, lost;
    double slope; /* what one more row costs, in passes of one row; below 0: not known yet */
    size_t passes, proposed, accepted;
} Speculation;

OC_API void spec_open(Speculation *s, const EngineBackend *backend, Engine *engine, const Model *m,
                      int n_ctx) {
    s->backend = backend;
    s->engine = engine;
    s->n_ctx = n_ctx;
    s->n_vocab = (size_t)m->config.vocab_size;
    s->size = (double)m->map.size;
    s->token = (int *)xcalloc((size_t)n_ctx, sizeof *s->token, "tokens");
    s->slope = -1;
}

OC_API void spec_close(Speculation *s) {
    draft_close(&s->draft);
    free(s->token);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Lookup */

OC_API void spec_learn(SpecRate *r, bool right) {
    r->right += right;
    if (++r->tried >= 64) r->right /= 2, r->tried /= 2; /* the past counts less and less */
}

/* token[pos] was chosen: was it expected? Then the match is one longer, else the longest is looked
 * for, and the latest of those. Reads 4 bytes a position; attention reads thousands. */
OC_API void spec_match(Speculation *s, int pos) {
    const int *t = s->token;
    if (s->n_match) {
        bool right = t[s->match++] == t[pos];
        spec_learn(&s->rate[s->n_match], right);
        if (right && s->n_match < SPEC_LONGEST) s->n_match++;
        if (right) return;
    }
    s->n_match = 0;
    for (int i = pos - 1; i >= 0; i--) {
        int n = 0;
        while (n <= i && n < SPEC_LONGEST && t[i - n] == t[pos - n]) n++;
        if (n > s->n_match) s->n_match = n, s->match = i + 1;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. What pays
 *
 * With n proposals a pass takes 1 + n c, in passes of one row, where c is what a proposal costs to
 * make and to check. It yields 1 + a1 + a1 a2 + ... + a1 .. an tokens, where a_i is the chance that
 * proposal i is right if those before it were. The best n is where tokens for time is largest.
 * Chances are counted, whether lookup's guess was proposed or not, and costs measured. Both may
 * mislead, so what proposals have cost more than they brought is limited to a part of the time. */

#define SPEC_LIMIT   0.03 /* of the time may be lost by proposals that were expected to pay ... */
#define SPEC_EXPLORE 0.01 /* ... or by single ones, made to see whether they do */

/* The chance of the draft, i = 0, or of lookup after a match of i tokens. What is believed at first
 * weighs as much as 4 results; i / (i + 2.5) is how it is in code (make bench-speculate). */
OC_API double spec_chance(const Speculation *s, int i) {
    double belief = i ? i / (i + 2.5) : 0.7;
    return (s->rate[i].right + 4 * belief) / (s->rate[i].tried + 4);
}

/* The best number of proposals, up to `most`, and its tokens for time: more than 1 if it pays. */
OC_API int spec_best(const Speculation *s, int most, bool draft, double cost, double *gain) {
    double tokens = 1, all_right = 1;
    int best = 0;
    *gain = 1;
    for (int n = 1; n <= most; n++) {
        int i = s->n_match + n - 1;
        all_right *= spec_chance(s, draft ? 0 : i < SPEC_LONGEST ? i : SPEC_LONGEST);
        tokens += all_right;
        if (tokens / (1 + n * cost) > *gain) *gain = tokens / (1 + n * cost), best = n;
    }
    return best;
}

/* How many tokens to propose behind token[pos], by the draft or else by lookup, and what one
 * costs. */
OC_API int spec_plan(const Speculation *s, int pos, int most, bool *draft, double *cost) {
    bool can_draft = s->draft.model && pos + most < s->draft.n_ctx;
    double gain = 0, draft_gain = 0, draft_cost = s->slope + s->draft_one / s->plain;
    int n = 0, n_draft = 0;
    *draft = can_draft;
    *cost = 0;
    if (most <= 0 || (!can_draft && !s->n_match)) return 0;
    if (s->always) return most;
    if (s->plain <= 0) return 0; /* the first pass shows what one row costs */
    if (s->n_match) n = spec_best(s, most, false, s->slope, &gain);
    if (can_draft) n_draft = spec_best(s, most, true, draft_cost, &draft_gain);
    *draft = draft_gain > gain;
    *cost = *draft ? draft_cost : s->slope;
    if (*draft) n = n_draft;
    double loss = s->lost / s->plain, time = s->total / s->plain;
    if (!n && (*draft || spec_chance(s, s->n_match) > 0.5) && loss + *cost < time * SPEC_EXPLORE)
        return 1;
    double first = can_draft ? 8 : 1; /* who asks for a draft wants it tried */
    while (n > 0 && loss + n * *cost > first + time * SPEC_LIMIT) n--;
    return n;
}

/* Learns from a pass: seconds of the model for s->rows rows, and before that of the draft. */
OC_API void spec_measure(Speculation *s, double seconds, int n_drafted, double draft_seconds) {
    if (s->rows == 1 && !n_drafted) { /* others run on this machine, too: no leaps */
        double t = s->plain > 0 ? fmin(seconds, 2 * s->plain) : seconds;
        s->plain += (t - s->plain) / (s->plain > 0 ? 8 : 1);
    }
    if (s->slope < 0 && s->plain > 0) { /* a row of a prompt costs at least what a row more does */
        s->slope = fmin(0.5, s->prompt_row / s->plain);
        if (s->draft.model) s->draft_one = s->plain * (double)s->draft.model->map.size / s->size;
    }
    if (s->rows > 1 && s->plain > 0)
        s->slope += (fmax(0, (seconds / s->plain - 1) / (s->rows - 1)) - s->slope) / 4;
    if (n_drafted) s->draft_one += (draft_seconds / n_drafted - s->draft_one) / 4;
    s->last = seconds + draft_seconds;
    s->total += s->last;
    s->passes++;
}

/* ------------------------------------------------------------------------------------------------
 * 4. One token further */

/* Ends the last pass: what of it was not used is forgotten, what it brought is counted. */
OC_API void spec_settle(Speculation *s, int pos) {
    if (s->rows > 1) {
        s->backend->cut(s->engine, 0, pos);
        /* Gains pay for later losses, but only for a few. */
        s->lost = fmax(s->lost + s->last - (s->row + 1) * s->plain, -8 * s->plain);
        for (int i = 0; s->drafted && i < s->rows - 1 && i <= s->row; i++)
            spec_learn(&s->rate[0], i < s->row);
    }
    s->rows = s->row = 0;
}

/* Tokens of a prompt, which the engine was fed at pos. */
OC_API void spec_prompt(Speculation *s, const int *token, int pos, int n) {
    spec_settle(s, pos);
    memcpy(s->token + pos, token, (size_t)n * sizeof *token);
    s->n_match = 0;
}

/* A prompt ends before pos and took so long a token; the draft reads it, too. */
OC_API void spec_prompt_end(Speculation *s, int pos, double seconds_per_token) {
    s->prompt_row = seconds_per_token;
    size_t passes = s->draft.passes; /* those of generation are counted */
    if (s->draft.model && pos && pos <= s->draft.n_ctx) draft_feed(&s->draft, s->token, pos);
    s->draft.passes = passes;
}

/* Feeds token[pos] and n proposals behind it: logits of all rows. */
OC_API float *spec_forward(const Speculation *s, int pos, int n) {
    int seq[SPEC_MOST + 1] = { 0 }, at[SPEC_MOST + 1];
    char want[SPEC_MOST + 1];
    for (int i = 0; i <= n; i++) at[i] = pos + i, want[i] = true;
    Batch b = { n + 1, s->token + pos, seq, at, want };
    return s->backend->forward(s->engine, &b);
}

/* The logits behind the token `id` that was chosen for position pos; the engine has seen it only if
 * it was proposed. `left`: so many more tokens may be generated. */
OC_API float *spec_step(Speculation *s, int id, int pos, size_t left) {
    bool draft = false, right = s->row + 1 < s->rows && s->token[pos] == id;
    double cost = 0, start = now_seconds();
    int most = s->most < s->n_ctx - 1 - pos ? s->most : s->n_ctx - 1 - pos;
    if ((size_t)most >= left) most = (int)left - 1;
    s->token[pos] = id;
    if (s->most) spec_match(s, pos);
    if (right) {
        s->accepted++;
        return s->logits + (size_t)++s->row * s->n_vocab;
    }
    spec_settle(s, pos);
    int n = spec_plan(s, pos, most, &draft, &cost);
    if (draft && n) n = draft_propose(&s->draft, s->token, pos + 1, n, cost);
    for (int i = 1; !draft && i <= n; i++) /* may read what it has just written, as in LZ77 */
        s->token[pos + i] = s->token[s->match + i - 1];
    double middle = now_seconds();
    s->logits = spec_forward(s, pos, n);
    s->rows = n + 1;
    s->drafted = draft;
    s->proposed += (size_t)n;
    spec_measure(s, now_seconds() - middle, draft ? n : 0, middle - start);
    return s->logits;
}

#endif
