/* convert.c: from a checkpoint of any kind to model.bin, and from model.bin to Hugging Face.
 *
 *     ./convert OpenCoder-1.5B-Instruct model.bin -q q8_0      a downloaded directory
 *     ./convert model.bin small.bin -q q4_0                    a GGUF file, requantized
 *     ./convert stories15M.bin s.bin --tokenizer tokenizer.bin a file of llama2.c
 *     ./convert model.bin directory -o hf                      and back
 *     ./convert model.bin tuned.bin --lora adapter.bin         an adapter merged into the weights
 *     ./convert --random 8b m8.bin -q q4_0                     a random model of that shape
 *     ./convert --inspect model.bin      --check model.bin     what is in a file; is it sound
 *
 * What to know first: whatever comes in is a Source, a list of tensors in mapped files (source.c);
 * whatever goes out is written a few rows at a time (stream.c). So there is one loop for all pairs
 * of formats, and memory does not grow with the model. The formats are in the other files here.
 * Build: make convert. Test: tests/test_format.c, tests/test_run.py, tests/badinput.py. */

#include "export.h"
#include <strings.h> /* strcasecmp */

/* What most of the weights are, in the numbers that llama.cpp gives to kinds of files. */
static uint32_t file_type(uint32_t type) {
    static const uint8_t kind[T_COUNT] = {
        [T_F32] = 0,  [T_F16] = 1,   [T_Q4_0] = 2,  [T_Q4_1] = 3,  [T_Q5_0] = 8,    [T_Q5_1] = 9,
        [T_Q8_0] = 7, [T_Q4_K] = 15, [T_Q5_K] = 17, [T_Q6_K] = 18, [T_IQ4_NL] = 25, [T_BF16] = 32,
    };
    return kind[type];
}

uint32_t stored_type(Str name, int cols, uint32_t type) {
    if (is_norm(name)) return T_F32;
    return cols % type_info(type)->block ? T_F16 : type;
}

void put_model_keys(GgufWriter *w, const Config *c, const Vocab *v, Str name, uint32_t type) {
    config_to_gguf(w, c);
    gguf_put_str(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", file_type(type));
    vocab_to_gguf(w, v);
}

/* ------------------------------------------------------------------------------------------------
 * Any source to GGUF */

static bool begins(Str s, const char *with) {
    return s.n >= strlen(with) && !memcmp(s.s, with, strlen(with));
}

/* models/My-1B/ -> My-1B, model.bin -> model */
static Str base_name(const char *path) {
    static const char *const end[] = { ".gguf", ".bin" };
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t start = n;
    while (start && path[start - 1] != '/') start--;
    Str name = { path + start, n - start };
    for (int i = 0; i < 2; i++) {
        size_t n_end = strlen(end[i]);
        if (name.n > n_end && !memcmp(name.s + name.n - n_end, end[i], n_end)) name.n -= n_end;
    }
    return name;
}

/* Author, license and the like of another file's header; what we write ourselves is left out. */
static void copy_keys(GgufWriter *w, const Gguf *from, bool keep_optimizer) {
    static const char *const ours[] = { "architecture", "alignment", "quantization_version", "name",
                                        "file_type" };
    for (uint64_t i = 0; i < from->n_keys; i++) {
        Str name = from->key[i].name;
        bool copy = begins(name, "general.");
        for (size_t k = 0; k < sizeof ours / sizeof *ours && copy; k++)
            copy = !(name.n == 8 + strlen(ours[k]) &&
                     begins((Str){ name.s + 8, name.n - 8 }, ours[k]));
        if (copy || (keep_optimizer && begins(name, "opencoder.train.")))
            gguf_put_copy(w, &from->key[i]);
    }
}

static void add_tensor(GgufWriter *w, const Tensor *t, uint32_t type) {
    char name[80];
    snprintf(name, sizeof name, "%.*s", STR(t->name));
    gguf_add(w, name, type, t->rows, t->cols);
}

static void write_gguf(void *to, const void *bytes, size_t n) { gguf_write(to, bytes, n); }

/* The tensors to write: those of the model and, if wanted, the optimizer's. To be freed. */
static Tensor *list_tensors(const Source *s, bool keep_optimizer, int *n) {
    Tensor *list = xcalloc((size_t)s->n_tensors + s->gguf.n_tensors, sizeof *list, "tensors");
    *n = s->n_tensors;
    memcpy(list, s->tensor, (size_t)*n * sizeof *list);
    for (uint64_t i = 0; i < s->gguf.n_tensors && keep_optimizer; i++)
        if (is_optimizer(s->gguf.tensor[i].name)) list[(*n)++] = s->gguf.tensor[i];
    return list;
}

/* A merged matrix is stored anew: its type must be one that can be written. */
static void check_merged_types(const Source *s, const char *in) {
    for (int i = 0; i < s->n_tensors; i++) {
        uint32_t type = s->tensor[i].type;
        if (lora_find(s->lora, s->tensor[i].name) && type != T_F32 && type != T_F16 &&
            type != T_BF16 && type != T_Q8_0 && type != T_Q4_0)
            die("%s: tensor %.*s: type %s cannot be written again, expected -q with one that can",
                in, STR(s->tensor[i].name), type_name(type));
    }
}

/* type T_COUNT: as in the source. */
static uint32_t target_type(const Tensor *t, uint32_t type) {
    if (is_optimizer(t->name)) return t->type;
    if (type != T_COUNT || is_norm(t->name)) return stored_type(t->name, t->cols, type);
    return t->type;
}

static void convert_gguf(const Source *s, const char *in, const char *out, uint32_t type,
                         bool keep_optimizer) {
    GgufWriter w = { 0 };
    Sink sink = { write_gguf, &w };
    Error e;
    Str name = base_name(in);
    int n, n_specs;
    if (type == T_COUNT) check_merged_types(s, in);
    Tensor *list = list_tensors(s, keep_optimizer, &n);
    TensorSpec *spec = tensor_specs(&s->config, &n_specs);
    if (s->kind == SOURCE_GGUF && !gguf_str(&s->gguf, "general.name", &name, &e))
        die("%s: %s", in, e.text);
    put_model_keys(&w, &s->config, &s->vocab, name, type == T_COUNT ? s->type : type);
    copy_keys(&w, &s->gguf, keep_optimizer);
    for (int i = 0; i < n; i++) add_tensor(&w, &list[i], target_type(&list[i], type));
    uint64_t total = w.at;
    gguf_begin(&w, out);
    for (int i = 0; i < n; i++) {
        RowOrder *order = i < n_specs && spec[i].permuted && s->halves ? permute_row : NULL;
        if (!source_verify(s, &list[i], &e) ||
            !stream_tensor(s, &list[i], target_type(&list[i], type), order, sink, &e))
            die("%s: %s", in, e.text);
        progress("converting", w.out.pos, total);
    }
    gguf_end(&w);
    progress("converting", total, total);
    free(list);
    free(spec);
}

/* ------------------------------------------------------------------------------------------------
 * The command line */

static uint32_t parse_type(const char *text) {
    static const uint32_t types[] = { T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0 };
    for (size_t i = 0; text && i < sizeof types / sizeof *types; i++)
        if (!strcasecmp(text, type_name(types[i]))) return types[i];
    if (text) die_usage("-q: '%s', expected f32, f16, bf16, q8_0 or q4_0", text);
    return T_COUNT;
}

/* Reading a mapped file while it is replaced would work, but no one means it. */
static void refuse_same_file(const char *what, const char *in, const char *out) {
    if (same_file(in, out)) die_usage("%s: OUT is %s itself, expected another name", out, what);
}

/* From now on every text begins with this token, behind which documents began in training. */
static void begin_with(Vocab *v, const char *token, const char *in) {
    int id = vocab_find(v, token);
    if (id < 0) die("%s: no token '%s', expected one of its vocabulary", in, token);
    v->bos = id;
    v->add_bos = true;
}

#ifndef OC_LIBRARY
static const char usage[] = "usage: convert IN OUT [-q TYPE] [-o gguf|hf] [--lora FILE]\n"
                            "       convert --random 1.5b|8b|tiny OUT [-q TYPE] [--seed N]\n"
                            "       convert --inspect F\n"
                            "       convert --check F\n"
                            "IN and F: a Hugging Face directory, a GGUF file, or a llama2.c .bin";

int main(int argc, char **argv) {
    const char *file[2] = { NULL }, *type_text = NULL, *format = "gguf", *tokenizer = NULL,
               *shape = NULL;
    const char *inspect_file = NULL, *check_file = NULL, *lora_file = NULL;
    const char *begin = NULL;
    double lora_scale = 1;
    bool keep_optimizer = false;
    int64_t seed = 42, ctx = 0;
    const Option table[] = {
        { 'q', "quantize", "type", "TYPE", OPT_TEXT, &type_text, 0, 0,
          "f32, f16, bf16, q8_0 or q4_0 for every matrix [the types of IN]" },
        { 'o', "output-format", NULL, "FORMAT", OPT_TEXT, &format, 0, 0,
          "gguf, or hf: a directory for transformers [gguf]" },
        { 0, "tokenizer", NULL, "FILE", OPT_TEXT, &tokenizer, 0, 0,
          "tokenizer.bin or a SentencePiece .model for a llama2.c file" },
        { 0, "begin", NULL, "TOKEN", OPT_TEXT, &begin, 0, 0,
          "texts begin with this token, such as <|endoftext|> [as in IN]" },
        { 0, "ctx", NULL, "N", OPT_INT, &ctx, 1, INT32_MAX,
          "context that OUT names, where training saw no longer one [as in IN]" },
        { 0, "keep-optimizer", NULL, NULL, OPT_FLAG, &keep_optimizer, 0, 0,
          "keep the optimizer's state of a training checkpoint" },
        { 0, "lora", NULL, "FILE", OPT_TEXT, &lora_file, 0, 0,
          "merge an adapter into the weights" },
        { 0, "lora-scale", NULL, "X", OPT_FLOAT, &lora_scale, -1000, 1000,
          "merge it X times; 0: not at all" },
        { 0, "random", NULL, "SHAPE", OPT_TEXT, &shape, 0, 0,
          "write random weights of the shape 1.5b, 8b or tiny" },
        { 0, "seed", NULL, "N", OPT_INT, &seed, 0, 9e15, "which random weights" },
        { 0, "inspect", NULL, "F", OPT_TEXT, &inspect_file, 0, 0,
          "print hyperparameters, tokenizer and tensors of F" },
        { 0, "check", NULL, "F", OPT_TEXT, &check_file, 0, 0,
          "verify every checksum of F, look for NaN and infinity" },
        { 0 },
    };
    int n = parse_options(argc, argv, table, usage, file, 2);
    uint32_t type = parse_type(type_text);
    bool hf = !strcmp(format, "hf"), looks = inspect_file || check_file;
    const char *in = inspect_file ? inspect_file : check_file ? check_file : file[0];
    Source s;
    Lora lora = { 0 };
    Error e;

    if (!hf && strcmp(format, "gguf")) die_usage("-o: '%s', expected gguf or hf", format);
    if ((inspect_file != NULL) + (check_file != NULL) + (shape != NULL) > 1)
        die_usage("--inspect, --check and --random together, expected one of them");
    if (n != (looks ? 0 : shape ? 1 : 2))
        die_usage("%d file names, expected %s", n,
                  looks   ? "none but F"
                  : shape ? "OUT"
                          : "IN and OUT");
    if (shape && hf) die_usage("--random with -o hf, expected gguf");
    if (hf && (type == T_Q8_0 || type == T_Q4_0))
        die_usage("-q: '%s' with -o hf, expected f32, f16 or bf16", type_text);
    if (hf && keep_optimizer) die_usage("--keep-optimizer with -o hf, expected gguf");
    if (lora_file && keep_optimizer)
        die_usage("--keep-optimizer with --lora: it is not that of merged weights, expected one");
    if (lora_scale != 1 && !lora_file) die_usage("--lora-scale without --lora, expected both");
    if (looks && (type_text || hf || keep_optimizer || lora_file || begin || ctx))
        die_usage("%s takes no option but --tokenizer", inspect_file ? "--inspect" : "--check");
    if (shape && (keep_optimizer || tokenizer || lora_file || begin || ctx))
        die_usage("--random takes no options but -q and --seed");
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of write like others */
    if (shape) {
        random_write(shape, file[0], type == T_COUNT ? T_BF16 : type, (uint64_t)seed);
        return 0;
    }
    if (!looks) refuse_same_file("IN", file[0], file[1]);
    if (lora_file) refuse_same_file("the adapter", lora_file, file[1]);
    if (!source_open(&s, in, tokenizer, &e)) die("%s", e.text);
    if (begin) begin_with(&s.vocab, begin, in);
    if (ctx > s.config.max_ctx)
        die("--ctx: %lld, expected at most %d, as %s has", (long long)ctx, s.config.max_ctx, in);
    if (ctx) s.config.max_ctx = (int)ctx;
    if (lora_file) lora_open(&lora, lora_file, &s.config, lora_scale), s.lora = &lora;
    if (inspect_file)
        inspect(&s, in);
    else if (check_file)
        check(&s, in);
    else if (hf)
        hf_write(&s, in, file[1], type);
    else
        convert_gguf(&s, in, file[1], type, keep_optimizer);
    source_close(&s);
    lora_free(&lora);
    close_stdout();
    return 0;
}
#endif
