/* hfwrite.c: convert -o hf: a Source as a directory that transformers loads.
 *
 *     OUT/config.json                    hyperparameters, as transformers 4 names them
 *     OUT/model.safetensors              the weights; above 5 GB model-0000X-of-0000Y.safetensors
 *     OUT/model.safetensors.index.json   and an index that says which tensor is in which
 *     OUT/tokenizer.model, ...           what hfvocab.c writes
 *
 * What to know first: a type that safetensors has is kept. Quantized matrices become f16: it has
 * three more bits of precision than bf16, and their scales are f16 already. Norms, f32 in GGUF,
 * take the matrices' type where that loses nothing, as it does not when they came from there.
 *
 * The directory is made as OUT.tmp-PID and renamed when it is complete. An error removes it, and so
 * does Ctrl-C: signals wait while a chunk of rows is written and are looked at behind it. What a
 * killed process has left is removed by the next one.
 * Test: tests/test_run.py, against transformers. */

#include "../json.h"
#include "export.h"
#include <dirent.h> /* readdir, to remove an unfinished directory */

#ifndef HF_SHARD_BYTES
#define HF_SHARD_BYTES 5000000000u /* a file of weights is no larger, as in transformers */
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. The unfinished directory */

static char unfinished[4096]; /* its name */
static DIR *inside; /* NULL when there is none; opened early: to remove it must not need memory */

static void remove_unfinished(void) {
    DIR *d = inside;
    if (!d) return;
    inside = NULL;
    rewinddir(d);
    for (struct dirent *file = readdir(d); file; file = readdir(d))
        (void)unlinkat(dirfd(d), file->d_name, 0); /* . and .. refuse, and should */
    closedir(d);
    (void)rmdir(unfinished); /* at exit, nothing is left to be done about a failure */
}

static void block_signals(int how) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(how, &set, NULL);
}

/* Ends the program, through remove_unfinished, if a signal has come in. */
static void obey_signals(void) {
    static const int known[] = { SIGINT, SIGTERM, SIGHUP };
    sigset_t waiting;
    sigpending(&waiting);
    for (int i = 0; i < 3; i++)
        if (sigismember(&waiting, known[i])) exit(128 + known[i]);
}

static void begin_directory(const char *out) {
    struct stat st;
    DIR *d = opendir(out);
    int entries = 0;
    if (!d && !stat(out, &st)) die("%s: exists and is no directory, expected a new one", out);
    while (d && readdir(d)) entries++;
    if (d) closedir(d);
    if (entries > 2) die("%s: is not empty, expected a new or an empty directory", out);
    if (atexit(remove_unfinished)) die("%s: cannot register a clean-up", out);
    block_signals(SIG_BLOCK);
    char name[sizeof unfinished];
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    int length = snprintf(name, sizeof name, "%.*s.tmp-%ld", (int)n, out, (long)getpid());
    if (length < 0 || (size_t)length > sizeof name - 64) /* room for the names of files in it */
        die("%.60s...: name of %zu bytes, too long", out, n);
    name[n] = 0;
    out_sweep(name);
    name[n] = '.';
    remove_left(name); /* of a killed process with our number, as in containers */
    if (mkdir(name, 0777)) die("%s: cannot create: %s", out, strerror(errno));
    if (!(inside = opendir(name))) {
        int saved = errno;
        (void)rmdir(name); /* the reason to be told is the first */
        die("%s: cannot open: %s", out, strerror(saved));
    }
    memcpy(unfinished, name, sizeof unfinished);
}

static void end_directory(const char *out) {
    obey_signals();
    if (rename(unfinished, out)) die("%s: cannot rename into place: %s", out, strerror(errno));
    out_sync_name(out);
    closedir(inside);
    inside = NULL;
    block_signals(SIG_UNBLOCK);
}

/* The path of a file in it; the result lives until the next call. */
static const char *path_of(const char *file) {
    static char path[sizeof unfinished + 64];
    snprintf(path, sizeof path, "%s/%s", unfinished, file);
    return path;
}

static void write_file(const char *name, const Buf *text) {
    OutFile f;
    out_open(&f, path_of(name));
    out_write(&f, text->data, text->n);
    out_commit(&f);
}

/* ------------------------------------------------------------------------------------------------
 * 2. What goes where */

typedef struct {
    const Source *s;
    const char *in;
    uint32_t type; /* of the matrices; T_COUNT: each its own */
    TensorSpec *spec;
    uint32_t *stored; /* of each tensor: storage type */
    int *shard;       /* of each tensor: which file, from 0 */
    int n, n_shards;
    uint64_t total, done; /* bytes */
    OutFile file;
} HfWriter;

static uint32_t float_type(uint32_t type) {
    return type == T_F32 || type == T_F16 || type == T_BF16 ? type : T_F16;
}

static bool survives(const Tensor *t, uint32_t type) { /* no number of it would change */
    size_t n = (size_t)t->rows * (size_t)t->cols;
    float *x = xcalloc(2 * n, sizeof *x, "a norm"), *y = x + n;
    uint8_t *bytes = xcalloc(n, 4, "a norm");
    dequantize(x, t->data, t->type, 0, n);
    quantize(bytes, x, type, n);
    dequantize(y, bytes, type, 0, n);
    bool same = !memcmp(x, y, n * sizeof *x);
    free(x);
    free(bytes);
    return same;
}

static uint64_t stored_bytes(const HfWriter *w, int i) {
    return (uint64_t)w->spec[i].rows * row_bytes(w->stored[i], (size_t)w->spec[i].cols);
}

static void plan(HfWriter *w) {
    const Source *s = w->s;
    uint32_t usual = float_type(w->type == T_COUNT ? s->type : w->type);
    uint64_t in_shard = 0;
    w->spec = tensor_specs(&s->config, &w->n);
    w->stored = xcalloc((size_t)w->n, sizeof *w->stored, "types");
    w->shard = xcalloc((size_t)w->n, sizeof *w->shard, "shards");
    for (int i = 0; i < w->n; i++) {
        const Tensor *t = &s->tensor[i];
        if (is_norm(t->name))
            w->stored[i] = survives(t, usual) ? usual : T_F32;
        else
            w->stored[i] = w->type == T_COUNT ? float_type(t->type) : w->type;
        uint64_t bytes = stored_bytes(w, i);
        if (in_shard && in_shard + bytes > HF_SHARD_BYTES) {
            w->n_shards++;
            in_shard = 0;
        }
        w->shard[i] = w->n_shards;
        in_shard += bytes;
        w->total += bytes;
    }
    w->n_shards++;
}

/* ------------------------------------------------------------------------------------------------
 * 3. safetensors */

static void shard_name(char name[64], const HfWriter *w, int shard) {
    snprintf(name, 64, "model.safetensors");
    if (w->n_shards > 1)
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, w->n_shards);
}

/* header length u64 | header, to a multiple of 8 with spaces | the bytes of the tensors */
static void write_header(HfWriter *w, int shard) {
    Buf b = { 0 };
    uint64_t at = 0;
    json_open(&b, '{');
    json_put_key(&b, "__metadata__");
    json_open(&b, '{');
    json_put_key(&b, "format");
    json_put_str(&b, str_of("pt"));
    json_close(&b, '}');
    for (int i = 0; i < w->n; i++) {
        char name[96] = "";
        if (w->shard[i] != shard) continue;
        hf_name(name, str_of(w->spec[i].name));
        json_put_key(&b, name);
        json_open(&b, '{');
        json_put_key(&b, "dtype");
        json_put_str(&b, str_of(w->stored[i] == T_F32   ? "F32"
                                : w->stored[i] == T_F16 ? "F16"
                                                        : "BF16"));
        json_put_key(&b, "shape");
        json_open(&b, '[');
        if (!is_norm(str_of(w->spec[i].name))) json_put_int(&b, w->spec[i].rows);
        json_put_int(&b, w->spec[i].cols);
        json_close(&b, ']');
        json_put_key(&b, "data_offsets");
        json_open(&b, '[');
        json_put_int(&b, (int64_t)at);
        at += stored_bytes(w, i);
        json_put_int(&b, (int64_t)at);
        json_close(&b, ']');
        json_close(&b, '}');
    }
    json_close(&b, '}');
    while (b.n % 8) buf_add(&b, " ", 1);
    uint64_t n = b.n;
    out_write(&w->file, &n, 8);
    out_write(&w->file, b.data, b.n);
    buf_free(&b);
}

static void write_rows(void *to, const void *bytes, size_t n) {
    HfWriter *w = to;
    obey_signals();
    out_write(&w->file, bytes, n);
    w->done += n;
    progress("converting", w->done, w->total);
}

static void write_shard(HfWriter *w, int shard) {
    const Source *s = w->s;
    char name[64];
    Error e;
    shard_name(name, w, shard);
    out_open(&w->file, path_of(name));
    write_header(w, shard);
    for (int i = 0; i < w->n; i++) {
        const Tensor *t = &s->tensor[i];
        if (w->shard[i] != shard) continue;
        RowOrder *order = w->spec[i].permuted && !s->halves ? unpermute_row : NULL;
        if (!source_verify(s, t, &e) ||
            !stream_tensor(s, t, w->stored[i], order, (Sink){ write_rows, w }, &e))
            die("%s: %s", w->in, e.text);
    }
    out_commit(&w->file);
}

static void write_index(const HfWriter *w) {
    Buf b = { 0 };
    json_open(&b, '{');
    json_put_key(&b, "metadata");
    json_open(&b, '{');
    json_put_key(&b, "total_size");
    json_put_int(&b, (int64_t)w->total);
    json_close(&b, '}');
    json_put_key(&b, "weight_map");
    json_open(&b, '{');
    for (int i = 0; i < w->n; i++) {
        char name[96] = "", file[64];
        hf_name(name, str_of(w->spec[i].name));
        shard_name(file, w, w->shard[i]);
        json_put_key(&b, name);
        json_put_str(&b, str_of(file));
    }
    json_close(&b, '}');
    json_close(&b, '}');
    write_file("model.safetensors.index.json", &b);
    buf_free(&b);
}

/* ------------------------------------------------------------------------------------------------
 * 4. config.json, and all together */

static void put_int(Buf *b, const char *key, int value) {
    buf_printf(b, ",\n  \"%s\": %d", key, value);
}

static void put_float(Buf *b, const char *key, float value) {
    buf_printf(b, ",\n  \"%s\": ", key);
    size_t start = b->n;
    json_put_num(b, (double)value, true);
    if (!strpbrk(b->data + start, ".e")) buf_add(b, ".0", 2); /* to Python, 500000 is no float */
}

static void write_config(const HfWriter *w) {
    const Config *c = &w->s->config;
    const Vocab *v = &w->s->vocab;
    uint32_t type = float_type(w->type == T_COUNT ? w->s->type : w->type);
    Buf b = { 0 };
    buf_printf(&b, "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\"");
    buf_printf(&b, ",\n  \"torch_dtype\": \"%s\"",
               type == T_F32   ? "float32"
               : type == T_F16 ? "float16"
                               : "bfloat16");
    put_int(&b, "hidden_size", c->dim);
    put_int(&b, "intermediate_size", c->hidden_dim);
    put_int(&b, "num_hidden_layers", c->n_layers);
    put_int(&b, "num_attention_heads", c->n_heads);
    put_int(&b, "num_key_value_heads", c->n_kv_heads);
    put_int(&b, "head_dim", c->head_dim);
    put_int(&b, "vocab_size", c->vocab_size);
    put_int(&b, "max_position_embeddings", c->max_ctx);
    put_float(&b, "rope_theta", c->rope_theta);
    put_float(&b, "rms_norm_eps", c->norm_eps);
    buf_printf(&b, ",\n  \"tie_word_embeddings\": %s", c->tied ? "true" : "false");
    buf_printf(&b, ",\n  \"hidden_act\": \"silu\",\n  \"rope_scaling\": null");
    buf_printf(&b, ",\n  \"attention_bias\": false,\n  \"mlp_bias\": false");
    if (v->bos >= 0) put_int(&b, "bos_token_id", v->bos);
    if (v->eos >= 0) put_int(&b, "eos_token_id", v->eos);
    if (v->pad >= 0) put_int(&b, "pad_token_id", v->pad);
    buf_printf(&b, "\n}\n");
    write_file("config.json", &b);
    buf_free(&b);
}

void hf_write(const Source *s, const char *in, const char *out, uint32_t type) {
    HfWriter w = { .s = s, .in = in, .type = type };
    begin_directory(out);
    plan(&w);
    write_config(&w);
    vocab_to_hf(unfinished, &s->vocab, &s->config);
    for (int i = 0; i < w.n_shards; i++) write_shard(&w, i);
    if (w.n_shards > 1) write_index(&w);
    end_directory(out);
    free(w.spec);
    free(w.stored);
    free(w.shard);
}
