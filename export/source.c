/* source.c: opening any input of convert as a Source, and closing it.
 *
 * What to know first: nothing is copied. The files stay mapped while the Source is open, and its
 * tensors point into them. A directory is a Hugging Face checkpoint, a file that begins with "GGUF"
 * is one of ours or llama.cpp's, and any other file is taken for llama2.c's, whose oldest version
 * has no magic to know it by. Test: tests/test_format.c, tests/badinput.py. */

#include "export.h"

int permute_row(int row, int head_dim) {
    int head = row / head_dim, i = row % head_dim;
    return head * head_dim + i / 2 + (i % 2) * (head_dim / 2);
}

int unpermute_row(int row, int head_dim) {
    int head = row / head_dim, i = row % head_dim, half = head_dim / 2;
    return head * head_dim + (i < half ? 2 * i : 2 * (i - half) + 1);
}

bool source_map(Source *s, const char *path, Map *m, Error *e) {
    if (s->n_maps == MAX_FILES)
        return fail(e, "%s: one file more than the %d expected", path, MAX_FILES);
    if (!map_file(m, path, e)) return fail_in(e, path);
    s->map[s->n_maps++] = *m;
    return true;
}

void source_close(Source *s) {
    for (int i = 0; i < s->n_maps; i++) unmap_file(&s->map[i]);
    vocab_free(&s->vocab);
    gguf_free(&s->gguf);
    arena_free(&s->arena);
    free(s->tensor);
    memset(s, 0, sizeof *s);
}

bool source_open_gguf(Source *s, const char *path, Error *e) {
    Map map;
    Model m;
    memset(&m, 0, sizeof m);
    if (!source_map(s, path, &map, e)) return false;
    bool ok = model_parse(&m, map.data, map.size, false, e);
    weights_free(&m.weights); /* what model_parse checked by name is taken in file order below */
    s->config = m.config;
    s->vocab = m.vocab;
    s->gguf = m.gguf;
    if (!ok) return fail_in(e, path);
    TensorSpec *spec = tensor_specs(&s->config, &s->n_tensors);
    s->tensor = xcalloc((size_t)s->n_tensors, sizeof *s->tensor, "tensors");
    for (int i = 0; i < s->n_tensors; i++) s->tensor[i] = *gguf_tensor(&s->gguf, spec[i].name);
    free(spec);
    return true;
}

bool source_verify(const Source *s, const Tensor *t, Error *e) {
    const Tensor *stored =
        s->gguf.n_tensors ? name_find(s->gguf.tensor_index, s->gguf.n_tensors, t->name) : NULL;
    return !stored || gguf_check_tensor(&s->gguf, (uint64_t)(stored - s->gguf.tensor), e);
}

/* The type that most bytes of the tensors have: what the file as a whole is said to be. */
static uint32_t main_type(const Source *s) {
    uint64_t bytes[T_COUNT] = { 0 };
    uint32_t best = T_F32;
    for (int i = 0; i < s->n_tensors; i++) bytes[s->tensor[i].type] += tensor_bytes(&s->tensor[i]);
    for (uint32_t type = 0; type < T_COUNT; type++)
        if (bytes[type] > bytes[best]) best = type;
    return best;
}

/* Tells the kind of a file by its first bytes, and a checkpoint's part from the whole. */
static bool source_kind(const char *path, int *kind, Error *e) {
    struct stat st;
    Map m;
    *kind = SOURCE_HF;
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) return true;
    if (!map_file(&m, path, e)) return false;
    bool zip = m.size > 4 && !memcmp(m.data, "PK\3\4", 4);
    bool tensors = m.size > 9 && m.data[8] == '{' && !m.data[7] && !m.data[6];
    bool gguf = m.size >= 4 && !memcmp(m.data, "GGUF", 4);
    bool pointer = m.size >= 10 && !memcmp(m.data, "version ht", 10); /* gguf_parse explains it */
    unmap_file(&m);
    if (zip || tensors)
        return fail(e, "%s file, expected the directory it is in, with its config.json",
                    zip ? "a PyTorch" : "a safetensors");
    *kind = gguf || pointer ? SOURCE_GGUF : SOURCE_LLAMA2C;
    return true;
}

bool source_open(Source *s, const char *path, const char *tokenizer, Error *e) {
    bool ok;
    memset(s, 0, sizeof *s);
    if (!source_kind(path, &s->kind, e)) return fail_in(e, path);
    if (tokenizer && s->kind != SOURCE_LLAMA2C)
        return fail(e, "--tokenizer: %s has its own, expected only with a llama2.c file", path);
    if (s->kind == SOURCE_HF)
        ok = source_open_hf(s, path, e);
    else if (s->kind == SOURCE_GGUF)
        ok = source_open_gguf(s, path, e);
    else
        ok = source_open_llama2c(s, path, tokenizer, e);
    if (ok) s->type = main_type(s);
    return ok;
}
