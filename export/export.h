/* export.h: what the files of export/ share: foreign checkpoints as one list of tensors.
 *
 * What to know first: whatever the input is, a reader turns it into a Source: a Config, a Vocab and
 * one Tensor per entry of TENSORS (opencoder.h), pointing into the mapped input. convert.c then
 * writes any Source as any output, a few rows at a time, so memory stays small for every model.
 *
 * Every *_parse function works on (buffer, length), returns false with the reason in e, never exits
 * and keeps nothing but pointers into the buffer and memory of the Source's arena. */
#ifndef OC_EXPORT_H
#define OC_EXPORT_H

#include "../opencoder.h" /* Config, Vocab, Tensor, Gguf */

/* Small things that live as long as the Source: names, token texts, tables. */
typedef struct {
    void **block;
    size_t n;
} Arena;

void *arena_alloc(Arena *a, size_t n, size_t size, const char *what); /* zeroed, as xcalloc */
Str arena_copy(Arena *a, const char *bytes, size_t n);
void arena_free(Arena *a);

/* Tensors of a foreign file under that file's own names. Vectors have rows = 1. */
typedef struct {
    Tensor *tensor;
    size_t n, cap;
} TensorList;

void tensor_list_add(TensorList *l, Tensor t);

typedef struct {
    Config config;
    Vocab vocab;          /* token, score, type are heap memory (vocab_free), strings are not */
    uint32_t type;        /* storage type of most of the weights, the default of the output */
    Tensor *tensor;       /* n_tensors in the order of tensor_specs(); under GGUF names */
    int n_tensors;
    bool halves;          /* rows of wq and wk are in Hugging Face order: see permute_row */
    Gguf gguf;            /* of a GGUF input, for keys that are carried over; else empty */
    Map map[256];         /* every file that is mapped */
    int n_maps;
    Arena arena;
} Source;

/* Row of a Hugging Face q or k matrix that stands at `row` in GGUF. Hugging Face turns the pairs
 * (i, i + D/2) of a head, GGUF the neighbours (2i, 2i + 1):
 *     GGUF row   0  1    2  3      ...          of each head of D rows
 *     HF row     0  D/2  1  D/2+1  ...                                                         */
int permute_row(int row, int head_dim);

/* Maps a file into s->map; the Map is valid until source_close. */
bool source_map(Source *s, const char *path, Map *m, Error *e);
/* Each opens one kind of input. `tokenizer` is the --tokenizer option or NULL. */
bool source_open_gguf(Source *s, const char *path, Error *e);                                /* convert.c */
bool source_open_hf(Source *s, const char *dir, Error *e);                                   /* hf.c */
bool source_open_llama2c(Source *s, const char *path, const char *tokenizer, Error *e);      /* llama2c.c */
void source_close(Source *s);

/* hf.c: config.json and safetensors. *type is torch_dtype as a storage type (T_F32 when absent). */
bool config_json_parse(Config *c, uint32_t *type, const char *text, size_t n, Error *e);
bool safetensors_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e);
/* torchzip.c: PyTorch's zip format (pytorch_model*.bin). */
bool torchzip_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e);
/* hfwrite.c: the directory of -o hf; the tensors' bytes come from write_tensor's callback order. */

/* sentencepiece.c: tokenizer.model, a protobuf, to and from a Vocab. */
bool spm_parse(Vocab *v, Arena *a, const uint8_t *data, size_t size, Error *e);
void spm_write(Buf *out, const Vocab *v);
/* hfvocab.c: tokenizer.model and the JSON files beside it in `dir`, all together. The vocabulary
 * is padded to config->vocab_size with unused tokens. */
bool vocab_from_hf(Source *s, const char *dir, Error *e);
/* hfvocab.c: writes tokenizer.model, tokenizer.json, tokenizer_config.json, added_tokens.json,
 * special_tokens_map.json and generation_config.json into `dir`. */
void vocab_to_hf(const char *dir, const Vocab *v, const Config *c);

/* llama2c.c: versions 0 (no magic), 1 and 2 (magic "ak42"), and its tokenizer.bin. Version 2 (int8
 * in groups) is dequantized into the arena when its groups are not 32 wide. */
bool llama2c_parse(Source *s, const uint8_t *data, size_t size, Error *e);
bool llama2c_vocab_parse(Vocab *v, Arena *a, const uint8_t *data, size_t size, int n_vocab, Error *e);

#endif
