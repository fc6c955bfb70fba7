/* inspect.c: convert --inspect, what is in a model, and convert --check, whether it is sound.
 *
 * What to know first: both take any Source. Only GGUF files that we wrote have checksums; for all
 * others --check can do no more than look at every number. Texts from a file are printed with
 * everything but printable ASCII escaped: a token may hold terminal control sequences.
 * Test: tests/test_format.c, tests/badinput.py. */

#include "export.h"

static void print_text(Str s) {
    for (size_t i = 0; i < s.n && i < 60; i++) {
        uint8_t c = (uint8_t)s.s[i];
        if (c >= 32 && c < 127 && c != '\\')
            putchar(c);
        else
            printf("\\x%02x", c);
    }
}

static void print_bytes(uint64_t n) {
    if (n < 10000)
        printf("%9llu B ", (unsigned long long)n);
    else if (n < 10000000)
        printf("%9.2f kB", (double)n / 1e3);
    else if (n < 10000000000)
        printf("%9.2f MB", (double)n / 1e6);
    else
        printf("%9.2f GB", (double)n / 1e9);
}

static void print_config(const Config *c) {
    printf("layers %d, width %d, feed-forward %d, heads %d of %d, key/value heads %d\n",
           c->n_layers, c->dim, c->hidden_dim, c->n_heads, c->head_dim, c->n_kv_heads);
    printf("vocabulary %d, context %d, rope theta %g, norm epsilon %g, output head %s\n",
           c->vocab_size, c->max_ctx, (double)c->rope_theta, (double)c->norm_eps,
           c->tied ? "tied to the embedding" : "of its own");
}

static void print_id(const char *what, const Vocab *v, int id) {
    if (id < 0) return;
    printf(" %s %d ", what, id);
    print_text(v->token[id]);
}

static void print_vocab(const Vocab *v) {
    static const char *const kind[] = { "",     "ordinary", "unknown", "control",
                                        "user", "unused",   "byte" };
    int count[TOK_BYTE + 1] = { 0 };
    for (int i = 0; i < v->n; i++) count[v->type[i]]++;
    printf("tokenizer %s, %d tokens, %d of SentencePiece:", v->unigram ? "unigram" : "BPE", v->n,
           v->n_pieces);
    for (int i = TOK_NORMAL; i <= TOK_BYTE; i++)
        if (count[i]) printf(" %d %s", count[i], kind[i]);
    printf("\ntext is%s cut by OpenCoder's splitter, add_bos %d, add_eos %d, add_space_prefix %d, "
           "remove_extra_whitespaces %d\n",
           v->opencoder ? "" : " not", v->add_bos, v->add_eos, v->add_space_prefix,
           v->remove_extra_whitespaces);
    printf("special tokens:");
    print_id("bos", v, v->bos);
    print_id("eos", v, v->eos);
    print_id("unknown", v, v->unk);
    print_id("padding", v, v->pad);
    for (int i = 0; i < v->n_stop; i++) print_id("stop", v, v->stop[i]);
    printf("\nchat template %zu bytes, normalizer %zu bytes\n", v->chat_template.n, v->charsmap.n);
}

/* Everything that is stored: a GGUF file may hold the optimizer's tensors besides the model's. */
static const Tensor *all_tensors(const Source *s, uint64_t *n) {
    *n = s->kind == SOURCE_GGUF ? s->gguf.n_tensors : (uint64_t)s->n_tensors;
    return s->kind == SOURCE_GGUF ? s->gguf.tensor : s->tensor;
}

void inspect(const Source *s, const char *path) {
    static const char *const kind[] = { "GGUF", "Hugging Face", "llama2.c" };
    uint64_t n, bytes = 0, numbers = 0, model = 0;
    const Tensor *t = all_tensors(s, &n);
    Str name = { NULL, 0 };
    Error ignored; /* a name of another type is no name */
    printf("%s: %s", path, kind[s->kind]);
    if (s->kind == SOURCE_GGUF && gguf_str(&s->gguf, "general.name", &name, &ignored) && name.n) {
        printf(", ");
        print_text(name);
    }
    printf("\n");
    print_config(&s->config);
    print_vocab(&s->vocab);
    for (int i = 0; i < s->n_tensors; i++)
        model += (uint64_t)s->tensor[i].rows * (uint64_t)s->tensor[i].cols;
    for (uint64_t i = 0; i < n; i++) {
        printf("%6llu  %-6s %7d x %-7d ", (unsigned long long)i, type_name(t[i].type), t[i].rows,
               t[i].cols);
        print_bytes(tensor_bytes(&t[i]));
        printf("  ");
        print_text(t[i].name);
        printf("\n");
        bytes += tensor_bytes(&t[i]);
        numbers += (uint64_t)t[i].rows * (uint64_t)t[i].cols;
    }
    printf("%llu tensors, %llu parameters, ", (unsigned long long)n, (unsigned long long)model);
    if (numbers > model)
        printf("%llu numbers of the optimizer, ", (unsigned long long)(numbers - model));
    print_bytes(bytes);
    printf(", %.3f bits each, mostly %s\n", 8.0 * (double)bytes / (double)numbers,
           type_name(s->type));
}

void check(const Source *s, const char *path) {
    uint64_t n, bytes = 0, done = 0, numbers = 0;
    const Tensor *t = all_tensors(s, &n);
    Error e;
    bool sums = s->kind == SOURCE_GGUF && gguf_has_checksums(&s->gguf);
    for (uint64_t i = 0; i < n; i++) bytes += tensor_bytes(&t[i]);
    for (uint64_t i = 0; i < n; i++) {
        if (!source_verify(s, &t[i], &e) || !scan_tensor(s, &t[i], &e)) die("%s: %s", path, e.text);
        done += tensor_bytes(&t[i]);
        numbers += (uint64_t)t[i].rows * (uint64_t)t[i].cols;
        progress("checking", done, bytes);
    }
    if (s->kind == SOURCE_GGUF && gguf_has_checksums(&s->gguf))
        printf("%s: header: CRC32C is right\n", path);
    if (sums)
        printf("%s: %llu tensors: CRC32C of each is right, padding is zero\n", path,
               (unsigned long long)n);
    else
        printf("%s: has no checksums (not written by opencoder.c), damage can go unnoticed\n",
               path);
    printf("%s: %llu tensors: all %llu numbers are finite\n", path, (unsigned long long)n,
           (unsigned long long)numbers);
}
