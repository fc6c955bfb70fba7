/* test_format.c: the file format and the storage types.
 *
 * GGUF: what is read is what was written, for keys and tensors of every type; every damaged bit and
 * every truncation is noticed; a file beyond 4 GiB has the right offsets; a Config and a Vocab
 * survive the way into a file and back.
 * Types: dequantize equals gguf-py's (tests/data/blocks.gguf, recorded by make_fixtures.py),
 * quantize inverts it, and matmul equals a product in double precision, bit for bit the same for
 * every number of rows and threads. */
#include "../json.h"      /* json_parse */
#include "../opencoder.h" /* everything else that is tested */
#include "test.h"

#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#else
#define omp_set_num_threads(n) (void)(n)
#endif

#define SCRATCH "build/scratch"

static const uint32_t READABLE[] = { T_F32,  T_F16,  T_BF16, T_Q4_0, T_Q4_1, T_Q5_0,
                                     T_Q5_1, T_Q8_0, T_Q4_K, T_Q5_K, T_Q6_K, T_IQ4_NL };
static const uint32_t WRITTEN[] = { T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0 };
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Marsaglia's xorshift: the same numbers on every machine. */
static uint32_t random_bits(void) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}
static float random_float(void) { return (float)random_bits() / 2147483648.0f - 1; }

static float *random_floats(size_t n, float scale) {
    float *x = xcalloc(n, 4, "test numbers");
    for (size_t i = 0; i < n; i++) x[i] = scale * random_float();
    return x;
}

/* ------------------------------------------------------------------------------------------------
 * 1. GGUF: reading what was written */

/* Writes a file with every kind of key and a tensor of every type that is written. */
static void write_sample(const char *path) {
    GgufWriter w = { 0 };
    uint8_t item[13][24] = { { 0 } };
    for (int type = 0; type < GV_COUNT; type++)
        for (int i = 0; i < 3 * gv_size[type]; i++) item[type][i] = (uint8_t)(random_bits() & 1);
    Str text[] = { str_of(""), { "a\0b", 3 }, str_of("caf\xc3\xa9 \xe2\x96\x81"), { "\xff", 1 } };
    gguf_put_u32(&w, "test.u32", 4000000000u);
    gguf_put_f32(&w, "test.f32", 1e-6f);
    gguf_put_bool(&w, "test.bool", true);
    for (int i = 0; i < 4; i++) {
        char key[] = "test.string.0";
        key[12] = (char)('0' + i);
        gguf_put_str(&w, key, text[i]);
    }
    gguf_put_strings(&w, "test.strings", 4, text);
    gguf_put_strings(&w, "test.no strings", 0, text);
    for (uint32_t type = 0; type < GV_COUNT; type++)
        if (gv_size[type]) {
            char key[32];
            snprintf(key, sizeof key, "test.array.%s", gv_name[type]);
            gguf_put_array(&w, key, type, 3, item[type]);
        }
    for (size_t i = 0; i < COUNT(WRITTEN); i++)
        gguf_add(&w, type_name(WRITTEN[i]), WRITTEN[i], i % 2 ? 1 : 3, i < 3 ? 5 : 64);
    gguf_begin(&w, path);
    for (uint64_t i = 0; i < w.n_tensors; i++)
        for (uint64_t left = w.bytes[i]; left; left--) { /* in pieces of one byte */
            uint8_t byte = (uint8_t)random_bits();
            gguf_write(&w, &byte, 1);
        }
    gguf_end(&w);
}

/* Writes a parsed file again, key by key and tensor by tensor. */
static void write_again(const Gguf *g, const char *path) {
    GgufWriter w = { 0 };
    for (uint64_t i = 0; i < g->n_keys; i++)
        if (g->key[i].name.n < 16 || memcmp(g->key[i].name.s, "opencoder.crc32c", 16))
            gguf_put_copy(&w, &g->key[i]);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const Tensor *t = &g->tensor[i];
        char name[65] = "";
        memcpy(name, t->name.s, t->name.n);
        gguf_add(&w, name, t->type, t->rows, t->cols);
    }
    gguf_begin(&w, path);
    for (uint64_t i = 0; i < g->n_tensors; i++)
        gguf_write(&w, g->tensor[i].data, tensor_bytes(&g->tensor[i]));
    gguf_end(&w);
}

/* A matrix of one row: one dimension as a norm, two as the lora_a of rank 1. The number of
 * dimensions stands behind the name, in the list of entries. */
static void test_one_row(void) {
    float x[5] = { 0 };
    for (uint32_t n_dims = 1; n_dims <= 2; n_dims++) {
        GgufWriter w = { 0 };
        Map m;
        Gguf g;
        Error e;
        (n_dims == 1 ? gguf_add : gguf_add_matrix)(&w, "m", T_F32, 1, 5);
        CHECK(w.entries.n == 8 + 1 + 4 + 8 * n_dims + 4 + 8 && w.entries.data[9] == (char)n_dims);
        gguf_begin(&w, SCRATCH "/row.gguf");
        gguf_write(&w, x, sizeof x);
        gguf_end(&w);
        if (!CHECK(map_file(&m, SCRATCH "/row.gguf", &e)) ||
            !CHECK(gguf_parse(&g, m.data, m.size, &e)))
            return;
        CHECK(g.tensor[0].rows == 1 && g.tensor[0].cols == 5);
        gguf_free(&g);
        unmap_file(&m);
    }
}

/* Parses and checks every checksum. */
static bool sound(const uint8_t *data, size_t size, Error *e) {
    Gguf g;
    if (!gguf_parse(&g, data, size, e)) return false;
    bool ok = gguf_check_header(&g, e);
    for (uint64_t i = 0; ok && i < g.n_tensors; i++) ok = gguf_check_tensor(&g, i, e);
    gguf_free(&g);
    return ok;
}

static void test_keys(const Gguf *g) {
    Error e;
    int u32 = 0;
    float f32 = 0;
    bool yes = false;
    Str s = { 0 };
    const GgufKey *k = NULL;
    CHECK(!gguf_int(g, "test.u32", true, 0, 10, &u32, &e)); /* out of range */
    CHECK(!gguf_int(g, "test.f32", true, 0, 10, &u32, &e)); /* another type */
    CHECK(!gguf_int(g, "test.absent", true, 0, 10, &u32, &e));
    CHECK(gguf_int(g, "test.absent", false, 0, 10, &u32, &e) && u32 == 0);
    CHECK(gguf_float(g, "test.f32", true, &f32, &e) && f32 == 1e-6f);
    CHECK(gguf_bool(g, "test.bool", &yes, &e) && yes);
    CHECK(gguf_str(g, "test.string.0", &s, &e) && s.n == 0);
    CHECK(gguf_str(g, "test.string.1", &s, &e) && s.n == 3 && !memcmp(s.s, "a\0b", 3));
    CHECK(gguf_array(g, "test.strings", GV_STR, 4, &k, &e) && k && k->bytes == 4 * 8 + 13);
    CHECK(gguf_array(g, "test.no strings", GV_STR, 0, &k, &e) && k && k->count == 0);
    CHECK(!gguf_array(g, "test.strings", GV_STR, 5, &k, &e));
    CHECK(gguf_array(g, "test.array.f64", GV_F64, 3, &k, &e) && k && k->bytes == 24);
    for (size_t i = 0; i < COUNT(WRITTEN); i++) {
        const Tensor *t = gguf_tensor(g, type_name(WRITTEN[i]));
        CHECK(t && t->type == WRITTEN[i] && t->rows == (i % 2 ? 1 : 3) &&
              t->cols == (i < 3 ? 5 : 64) && (t->data - g->base) % 32 == 0);
    }
}

/* Flips every bit in turn and cuts the file at every length: each must be noticed. The copy has
 * the exact size, so that the address sanitizer sees a reader that goes too far. */
static void test_damage(const Map *m, size_t data_end) {
    Error e;
    size_t unseen = 0, cut_unseen = 0;
    uint8_t *copy = xcalloc(m->size, 1, "copy");
    memcpy(copy, m->data, m->size);
    CHECK(sound(copy, m->size, &e));
    for (size_t bit = 0; bit < 8 * m->size; bit++) {
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        unseen += sound(copy, m->size, &e);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_INT(unseen, 0);
    free(copy);
    for (size_t size = 0; size < data_end; size++) {
        copy = xcalloc(size, 1, "copy");
        memcpy(copy, m->data, size);
        cut_unseen += sound(copy, size, &e);
        free(copy);
    }
    CHECK_INT(cut_unseen, 0);
}

static void test_gguf(void) {
    Error e;
    Map m, again;
    Gguf g;
    write_sample(SCRATCH "/sample.gguf");
    if (!CHECK(map_file(&m, SCRATCH "/sample.gguf", &e)) ||
        !CHECK(gguf_parse(&g, m.data, m.size, &e)))
        return;
    test_keys(&g);
    write_again(&g, SCRATCH "/again.gguf");
    if (CHECK(map_file(&again, SCRATCH "/again.gguf", &e))) {
        CHECK(again.size == m.size && !memcmp(again.data, m.data, m.size));
        unmap_file(&again);
    }
    const Tensor *last = &g.tensor[g.n_tensors - 1];
    test_damage(&m, (size_t)(last->data - g.base) + tensor_bytes(last));
    gguf_free(&g);
    unmap_file(&m);
}

/* A file of more than 4 GiB that is nearly all hole: offsets and sizes need 64 bits. */
static void test_large(void) {
    Error e;
    Map m;
    Gguf g;
    GgufWriter w = { 0 };
    const char *path = SCRATCH "/large.gguf";
    gguf_add(&w, "first", T_F32, 1 << 17, 1 << 13);
    gguf_add(&w, "second", T_Q8_0, 1 << 15, 1 << 12);
    gguf_begin(&w, path);
    uint64_t data = w.out.pos;
    if (ftruncate(w.out.fd, (off_t)(data + w.at))) {
        printf("skip test_large: no room for a file of 4.1 GiB: %s\n", strerror(errno));
    } else {
        out_commit(&w.out);
        if (CHECK(map_file(&m, path, &e)) && CHECK(gguf_parse(&g, m.data, m.size, &e))) {
            CHECK(tensor_bytes(&g.tensor[0]) == 1ull << 32);
            CHECK_INT(g.tensor[1].data - g.base, data + (1ull << 32));
            gguf_free(&g);
        }
        unmap_file(&m);
        unlink(path);
    }
    buf_free(&w.keys);
    buf_free(&w.entries);
    free(w.bytes);
    free(w.crc);
}

/* ------------------------------------------------------------------------------------------------
 * 2. A Config and a Vocab on their way into a file and back */

static void fill_vocab(Vocab *v, Str *token, float *score, uint8_t *type) {
    static char name[300][8];
    static const char charsmap[] = { 4, 0, 0, 0, 'u', 'n', 'i', 't', 'a', 0, 'b', 0 };
    for (int i = 0; i < 300; i++) {
        snprintf(name[i], sizeof name[i], i < 256 ? "<0x%02X>" : "t%d", (unsigned)i);
        token[i] = str_of(name[i]);
        score[i] = -(float)i;
        type[i] = i < 256 ? TOK_BYTE : TOK_NORMAL;
    }
    token[299] = str_of("<|im_end|>");
    type[299] = TOK_CONTROL;
    *v = (Vocab){ .n = 300, .token = token, .score = score, .type = type, .unigram = true };
    v->opencoder = v->add_bos = v->remove_extra_whitespaces = v->whitespace_suffix = true;
    v->bos = 260;
    v->eos = 261;
    v->unk = 256;
    v->pad = -1;
    v->stop[0] = 299;
    v->n_stop = 1;
    v->n_pieces = 299;
    v->charsmap.s = charsmap;
    v->charsmap.n = sizeof charsmap;
    v->chat_template = str_of("{{ messages }}");
}

/* A vocabulary that one change makes unfit. The readers of files look at most of this themselves,
 * with the place in the file; vocab_check is the last to look, whatever the reader. */
static void test_unfit(void) {
    Str token[300];
    float score[300];
    uint8_t type[300];
    Vocab v;
    Error e = { "" };
    fill_vocab(&v, token, score, type);
    CHECK(vocab_check(&v, &e));
    for (int bad = 0; bad <= TOK_BYTE + 1; bad += TOK_BYTE + 1) {
        type[280] = (uint8_t)bad;
        CHECK(!vocab_check(&v, &e) && strstr(e.text, "token 280: type"));
        type[280] = TOK_NORMAL;
    }
    int *id[] = { &v.bos, &v.eos, &v.unk, &v.pad, &v.stop[0] };
    for (size_t i = 0; i < COUNT(id); i++) {
        int right = *id[i];
        *id[i] = 300;
        CHECK(!vocab_check(&v, &e) && strstr(e.text, "token id 300"));
        *id[i] = -2;
        CHECK(!vocab_check(&v, &e) && strstr(e.text, "token id -2"));
        *id[i] = right;
    }
    CHECK(vocab_check(&v, &e));
}

/* OpenCoder's vocabulary as llama.cpp writes it, which does not say how to cut text. */
static void test_opencoder_shape(void) {
    enum { N = 96640 };
    Vocab v = { .n = N, .bos = -1, .eos = -1, .unk = 0, .pad = -1 }, got;
    Error e = { "" };
    Map m = { 0 };
    Gguf g;
    v.token = xcalloc(N, sizeof *v.token, "tokens");
    v.score = xcalloc(N, sizeof *v.score, "scores");
    v.type = xcalloc(N, 1, "types");
    char(*name)[8] = xcalloc(N, sizeof *name, "names");
    for (int i = 0; i < N; i++) {
        snprintf(name[i], sizeof *name, "t%d", i);
        v.token[i] = str_of(name[i]);
        v.type[i] = i ? TOK_NORMAL : TOK_UNKNOWN;
    }
    for (int marks = 0; marks < 3; marks++) {
        GgufWriter w = { 0 };
        if (marks > 0) v.token[96539] = str_of("<|im_end|>");
        if (marks > 1) v.token[96540] = str_of("<|im_start|>");
        vocab_to_gguf(&w, &v);
        gguf_begin(&w, SCRATCH "/shape.gguf");
        gguf_end(&w);
        if (CHECK(map_file(&m, SCRATCH "/shape.gguf", &e)) &&
            CHECK(gguf_parse(&g, m.data, m.size, &e)) && CHECK(vocab_from_gguf(&got, &g, &e))) {
            CHECK_INT(got.opencoder, marks == 2);
            vocab_free(&got);
            gguf_free(&g);
        }
        unmap_file(&m);
    }
    vocab_free(&v);
    free(name);
}

static void compare_vocab(const Vocab *got, const Vocab *want) {
    int same = 0;
    for (int i = 0; i < want->n; i++)
        same += !str_cmp(got->token[i], want->token[i]) && got->score[i] == want->score[i] &&
                got->type[i] == want->type[i];
    CHECK_INT(got->n, want->n);
    CHECK_INT(same, want->n);
    CHECK(got->unigram == want->unigram && got->opencoder == want->opencoder);
    CHECK(got->add_bos == want->add_bos && got->add_eos == want->add_eos);
    CHECK(got->add_space_prefix == want->add_space_prefix);
    CHECK(got->remove_extra_whitespaces == want->remove_extra_whitespaces);
    CHECK(got->whitespace_suffix == want->whitespace_suffix);
    CHECK(got->bos == want->bos && got->eos == want->eos);
    CHECK(got->unk == want->unk && got->pad == want->pad);
    CHECK(got->n_stop == 1 && got->stop[0] == want->stop[0]);
    CHECK_INT(got->n_pieces, want->n_pieces);
    CHECK(!str_cmp(got->charsmap, want->charsmap));
    CHECK(!str_cmp(got->chat_template, want->chat_template));
}

static void test_model(void) {
    Str token[300];
    float score[300];
    uint8_t type[300];
    Vocab v;
    Config c = { .dim = 40, .hidden_dim = 24, .n_layers = 3, .n_heads = 6, .n_kv_heads = 2 };
    c.head_dim = 14;
    c.vocab_size = 305;
    c.max_ctx = 99;
    c.rope_theta = 12345.5f;
    c.norm_eps = 1e-6f;
    c.tied = true;
    fill_vocab(&v, token, score, type);
    int n;
    TensorSpec *specs = tensor_specs(&c, &n);
    CHECK_INT(n, 3 * 9 + 2);
    GgufWriter w = { 0 };
    config_to_gguf(&w, &c);
    vocab_to_gguf(&w, &v);
    for (int i = 0; i < n; i++) gguf_add(&w, specs[i].name, T_F32, specs[i].rows, specs[i].cols);
    gguf_begin(&w, SCRATCH "/model.gguf");
    for (int i = 0; i < n; i++) {
        size_t numbers = (size_t)specs[i].rows * (size_t)specs[i].cols;
        float *x = random_floats(numbers, 1);
        gguf_write(&w, x, 4 * numbers);
        free(x);
    }
    gguf_end(&w);
    free(specs);
    Model m;
    model_open(&m, SCRATCH "/model.gguf", true);
    CHECK(m.config.dim == c.dim && m.config.hidden_dim == c.hidden_dim);
    CHECK(m.config.n_layers == c.n_layers && m.config.n_heads == c.n_heads);
    CHECK(m.config.n_kv_heads == c.n_kv_heads && m.config.head_dim == c.head_dim);
    CHECK(m.config.vocab_size == c.vocab_size && m.config.max_ctx == c.max_ctx);
    CHECK(m.config.rope_theta == c.rope_theta && m.config.norm_eps == c.norm_eps);
    CHECK(m.config.tied == c.tied);
    CHECK(m.weights.wk[2].rows == 28 && m.weights.w_down[1].cols == 24);
    compare_vocab(&m.vocab, &v);
    model_close(&m);
}

/* Sizes that no file has; the rest of JSON is seen through the files that are made of it. */
static void test_json_sizes(void) {
    JsonDoc doc = { 0 };
    Error e = { "" };
    CHECK(!json_parse(&doc, "", 0, &e) && strstr(e.text, "JSON byte 0: the end of the text"));
    CHECK(!json_parse(&doc, "", (size_t)UINT32_MAX + 1, &e) && strstr(e.text, "4 GB"));
}

/* ------------------------------------------------------------------------------------------------
 * 3. Storage types */

static void test_dequantize(const Gguf *blocks) {
    for (size_t i = 0; i < COUNT(READABLE); i++) {
        uint32_t type = READABLE[i];
        char name[32], check_name[64];
        snprintf(name, sizeof name, "%s.f32", type_name(type));
        const Tensor *t = gguf_tensor(blocks, type_name(type)), *want = gguf_tensor(blocks, name);
        if (type == T_F32) continue;
        if (!CHECK(t && want && t->type == type)) continue;
        size_t n = (size_t)t->rows * (size_t)t->cols, step = (size_t)type_info(type)->block;
        size_t bytes = row_bytes(type, (size_t)t->cols), cols = (size_t)t->cols;
        float *whole = xcalloc(n, 4, "numbers"), *parts = xcalloc(n, 4, "numbers");
        float *expected = xcalloc(n, 4, "numbers");
        memcpy(expected, want->data, 4 * n);
        for (size_t r = 0; r < (size_t)t->rows; r++) {
            dequantize(whole + r * cols, t->data + r * bytes, type, 0, cols);
            for (size_t from = 0; from < cols; from += step)
                dequantize(parts + r * cols + from, t->data + r * bytes, type, from, step);
        }
        snprintf(check_name, sizeof check_name, "dequantize %s", type_name(type));
        check_close(check_name, whole, expected, n, 0);
        check(!memcmp(whole, parts, 4 * n), "blocks one by one give other numbers",
              "dequantize %s in parts", type_name(type));
        free(whole);
        free(parts);
        free(expected);
    }
}

/* Every float16 and bfloat16 comes back as it was, and what lies between two of them goes to the
 * nearer one, or to the even one from the middle. */
static void test_halves(uint32_t type) {
    size_t changed = 0, misplaced = 0;
    uint16_t infinity = type == T_F16 ? 0x7C00 : 0x7F80;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        uint16_t h = (uint16_t)bits, up = (uint16_t)(bits + 1), got;
        float x, next;
        dequantize(&x, (const uint8_t *)&h, type, 0, 1);
        quantize((uint8_t *)&got, &x, type, 1);
        if ((h & 0x7FFF) > infinity) { /* NaN stays NaN */
            changed += !isnan(x) || (got & 0x7FFF) <= infinity;
            continue;
        }
        changed += got != h;
        if ((up & 0x7FFF) >= infinity || (h & 0x7FFF) >= infinity) continue;
        dequantize(&next, (const uint8_t *)&up, type, 0, 1);
        float middle = (float)(((double)x + (double)next) / 2);
        float point[] = { middle, nextafterf(middle, x), nextafterf(middle, next) };
        uint16_t want[] = { h & 1 ? up : h, h, up };
        for (int i = 0; i < 3; i++) {
            quantize((uint8_t *)&got, &point[i], type, 1);
            misplaced += got != want[i];
        }
    }
    check(!changed, "some changed", "quantize %s: all 65536 values come back", type_name(type));
    check(!misplaced, "some do not", "quantize %s: rounds to nearest even", type_name(type));
}

/* A block of 32 is at most `steps` of its scale away, and quantizing it again changes nothing. */
static void test_blocks_of_32(uint32_t type, int levels, float steps) {
    enum { N = 32 * 64 };
    static const float scales[] = { 1, 1e-3f, 300, 1e-6f };
    size_t bytes = row_bytes(type, N);
    uint8_t *first = xcalloc(bytes, 1, "blocks"), *second = xcalloc(bytes, 1, "blocks");
    float *y = xcalloc(N, 4, "numbers");
    size_t far = 0, changed = 0;
    for (size_t s = 0; s < COUNT(scales); s++) {
        float *x = random_floats(N, scales[s]);
        memset(x + 32, 0, 4 * 32); /* a block of zeros */
        quantize(first, x, type, N);
        dequantize(y, first, type, 0, N);
        quantize(second, y, type, N);
        if (scales[s] > 1e-5f) changed += memcmp(first, second, bytes) != 0;
        for (int b = 0; b < N; b += 32) {
            float most = 0;
            for (int i = b; i < b + 32; i++) most = fmaxf(most, fabsf(x[i]));
            /* A scale below 2^-14 is a subnormal half, which is only right within 2^-25. */
            float bound = steps * most / (float)levels + 0x1p-25f * (float)levels;
            for (int i = b; i < b + 32; i++) far += !(fabsf(x[i] - y[i]) <= bound);
        }
        free(x);
    }
    check(!far, "some are not", "quantize %s: all within %g of a step", type_name(type),
          (double)steps);
    check(!changed, "some changed", "quantize %s: dequantized values come back", type_name(type));
    free(first);
    free(second);
    free(y);
}

/* The rule that the search for a scale replaced, as it stood: the number of largest magnitude takes
 * the level -8. Returns the sum of squared errors over a block. */
static double error_of_old_rule(const float *x) {
    float extreme = 0, d;
    double error = 0;
    uint16_t half;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    float scale = extreme / -8, inverse = fabsf(scale) > 1e-30f ? 1 / scale : 0;
    quantize((uint8_t *)&half, &scale, T_F16, 1);
    dequantize(&d, (const uint8_t *)&half, T_F16, 0, 1);
    for (int i = 0; i < 32; i++) {
        int q = (int)(x[i] * inverse + 8.5f);
        error += pow((double)x[i] - (double)d * ((q > 15 ? 15 : q) - 8), 2);
    }
    return error;
}

/* The least sum of squared errors that any half as scale allows. */
static double least_error(const float *x) {
    double least = INFINITY;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        uint16_t half = (uint16_t)bits;
        float d, extreme = 0;
        double error = 0;
        dequantize(&d, (const uint8_t *)&half, T_F16, 0, 1);
        for (int i = 0; i < 32; i++) extreme = fmaxf(extreme, fabsf(x[i]));
        if (!isfinite(d) || fabsf(d) < extreme / 20 || fabsf(d) > extreme) continue;
        for (int i = 0; i < 32 && error < least; i++) {
            double q = fmin(fmax(rint((double)x[i] / (double)d), -8), 7);
            error += pow((double)x[i] - (double)d * q, 2);
        }
        least = fmin(least, error);
    }
    return least;
}

/* Random blocks: even, with many small numbers, and near normal without and with an outlier. */
static void random_block(float *x, int shape, float scale) {
    for (int i = 0; i < 32; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) sum += random_float();
        x[i] = scale * (shape == 0 ? random_float() : shape == 1 ? sum * sum * sum : sum);
    }
    if (shape == 2) x[random_bits() % 32] *= 8;
}

/* q4_0's scale: on no block worse than the old rule, and nearly the best of all halves. */
static void test_q4_0(void) {
    enum { BLOCKS = 2000, SEARCHED = 60 };
    static const float scales[] = { 1, 0.02f, 1e-4f, 3e-6f, 4e-8f, 1e-12f, 60000 };
    size_t worse = 0, wrong = 0;
    double found = 0, best = 0, old = 0, most = 1;
    for (int b = 0; b < BLOCKS; b++) {
        float x[32], y[32];
        uint8_t block[18];
        double error = 0;
        float scale = scales[b < SEARCHED ? b % 2 : b % (int)COUNT(scales)];
        random_block(x, b / 7 % 4, scale);
        quantize(block, x, T_Q4_0, 32);
        dequantize(y, block, T_Q4_0, 0, 32);
        for (int i = 0; i < 32; i++) {
            error += pow((double)x[i] - (double)y[i], 2);
            wrong += !isfinite(y[i]);
        }
        worse += error > error_of_old_rule(x) * (1 + 1e-5); /* compared there in float32 */
        if (b >= SEARCHED) continue;
        double least = least_error(x);
        found += error / least;
        old += error_of_old_rule(x) / least;
        best += 1;
        most = fmax(most, error / least);
    }
    check(!worse, "some have", "quantize q4_0: no block has a larger error than by the old rule");
    check(!wrong, "some are not", "quantize q4_0: all sizes stay finite");
    check(found / best < 1.002 && most < 1.05, "it is more",
          "quantize q4_0: error %.5f of the least there is, at most %.4f; the old rule's %.4f",
          found / best, most, old / best);
}

/* ------------------------------------------------------------------------------------------------
 * 4. matmul */

/* A random matrix: recorded blocks in random order, or random numbers in the types without. */
static Tensor random_matrix(const Gguf *blocks, uint32_t type, int rows, int cols) {
    Tensor t = { str_of("test"), type, rows, cols, NULL };
    size_t n = (size_t)rows * (size_t)cols, size = tensor_bytes(&t);
    uint8_t *data = xcalloc(size, 1, "matrix");
    if (type_info(type)->block == 1) {
        float *x = random_floats(n, 1);
        quantize(data, x, type, n);
        free(x);
    } else {
        const Tensor *from = gguf_tensor(blocks, type_name(type));
        size_t bytes = (size_t)type_info(type)->bytes, count = tensor_bytes(from) / bytes;
        for (size_t i = 0; i < size / bytes; i++)
            memcpy(data + i * bytes, from->data + random_bits() % count * bytes, bytes);
    }
    t.data = data;
    return t;
}

/* want (n, rows) = x (n, cols) W^T, summed in double precision. */
static void plain_matmul(float *want, const float *x, const Tensor *w, int n) {
    size_t cols = (size_t)w->cols, rows = (size_t)w->rows, bytes = row_bytes(w->type, cols);
    float *row = xcalloc(cols, 4, "row");
    for (size_t r = 0; r < rows; r++) {
        dequantize(row, w->data + r * bytes, w->type, 0, cols);
        for (size_t i = 0; i < (size_t)n; i++) {
            double sum = 0;
            for (size_t k = 0; k < cols; k++) sum += (double)row[k] * (double)x[i * cols + k];
            want[i * rows + r] = (float)sum;
        }
    }
    free(row);
}

/* One shape at the chosen level. tol is for the path that may round x; the exact one has 2e-6. */
static void test_product(const Gguf *blocks, uint32_t type, int rows, int cols, double tol) {
    enum { MOST = 64 };
    static const int batch[] = { 1, 2, 3, 4, 7, 10, 11, 17, MOST }, threads[] = { 1, 2, 3, 7 };
    const size_t n_threads = small_tests() ? 1 : COUNT(threads);
    Tensor w = random_matrix(blocks, type, rows, cols);
    size_t n = (size_t)MOST * (size_t)rows;
    float *x = random_floats((size_t)MOST * (size_t)cols, 1);
    float *want = xcalloc(n, 4, "y"), *once = xcalloc(n, 4, "y"), *y = xcalloc(n, 4, "y");
    plain_matmul(want, x, &w, MOST);
    for (int exact = 0; exact < 2; exact++) {
        char name[80];
        snprintf(name, sizeof name, "matmul %s %s %s %d x %d", matmul_level(),
                 exact ? "exact" : "fast", type_name(type), rows, cols);
        omp_set_num_threads(2);
        for (int i = 0; i < MOST; i++)
            matmul(once + i * rows, x + (size_t)i * (size_t)cols, &w, 1, exact);
        check_close(name, once, want, n, exact ? 2e-6 : tol);
        int differ = 0;
        for (size_t t = 0; t < n_threads; t++)
            for (size_t b = 0; b < COUNT(batch); b++) {
                omp_set_num_threads(threads[t]);
                memset(y, 0xff, 4 * n); /* NaN: what is not written shows */
                matmul(y, x, &w, batch[b], exact);
                differ += memcmp(y, once, 4 * (size_t)batch[b] * (size_t)rows) != 0;
            }
        check(!differ, "not bit-equal", "%s: any batch, any number of threads", name);
    }
    free((void *)(uintptr_t)w.data);
    free(x);
    free(want);
    free(once);
    free(y);
}

/* More tokens than the float path takes at once are those tokens one by one. */
static void test_many_tokens(uint32_t type) {
    enum { N = 1043, ROWS = 37, COLS = 91 };
    Tensor w = random_matrix(NULL, type, ROWS, COLS);
    float *x = random_floats((size_t)N * COLS, 1), *once = xcalloc((size_t)N * ROWS, 4, "y");
    float *y = xcalloc((size_t)N * ROWS, 4, "y");
    for (size_t t = 0; t < N; t++) matmul(once + t * ROWS, x + t * COLS, &w, 1, false);
    for (int n = 511; n <= N; n += n == 513 ? N - n : 1) {
        memset(y, 0xff, (size_t)N * ROWS * 4);
        matmul(y, x, &w, n, false);
        check(!memcmp(y, once, (size_t)n * ROWS * 4), "not bit-equal", "matmul %s %s: %d tokens",
              matmul_level(), type_name(type), n);
    }
    free((void *)(uintptr_t)w.data);
    free(x);
    free(once);
    free(y);
}

static void test_matmul(const Gguf *blocks) {
    test_many_tokens(T_BF16);
    for (size_t i = 0; i < COUNT(READABLE); i++) {
        uint32_t type = READABLE[i];
        int block = type_info(type)->block;
        double tol = type == T_F32 ? 2e-6 : block == 1 ? 1e-2 : 2e-2;
        if (block == 1) test_product(blocks, type, 5, 90, tol);
        if (block > 1) test_product(blocks, type, 19, 3 * block, tol);
        if (small_tests()) continue;
        test_product(blocks, type, 1, block, tol);
        test_product(blocks, type, 66, 3 * block, tol);
        test_product(blocks, type, 13, block == 256 ? 2304 : 2240, tol);
        test_product(blocks, type, 10, 6144, tol);
        if (block == 1) test_product(blocks, type, 33, 1001, tol);
    }
}

int main(void) {
    Error e;
    Map m;
    Gguf blocks;
    mkdir("build", 0777); /* both may be there already */
    mkdir(SCRATCH, 0777);
    CHECK(crc32c(0, "123456789", 9) == 0xE3069283u); /* the check value of RFC 3720 */
    test_gguf();
    test_one_row();
    if (!small_tests()) test_large();
    test_model();
    test_unfit();
    test_opencoder_shape();
    test_json_sizes();
    if (!CHECK(map_file(&m, "tests/data/blocks.gguf", &e)) ||
        !CHECK(gguf_parse(&blocks, m.data, m.size, &e)))
        return test_end();
    test_dequantize(&blocks);
    test_halves(T_F16);
    test_halves(T_BF16);
    test_blocks_of_32(T_Q8_0, 127, 0.57f); /* half a step, and the rounding of the scale */
    test_blocks_of_32(T_Q4_0, 8, 2);       /* outliers may be cut off where that pays */
    test_q4_0();
    static const char *levels[] = { LEVEL_NAMES };
    for (size_t i = small_tests(); i < COUNT(levels); i++)
        if (matmul_choose(levels[i])) test_matmul(&blocks);
    gguf_free(&blocks);
    unmap_file(&m);
    return test_end();
}
