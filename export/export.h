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

#include "../lora.h" /* Lora; and opencoder.h: Config, Vocab, Tensor, Gguf */

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

enum { SOURCE_GGUF, SOURCE_HF, SOURCE_LLAMA2C };
enum { MAX_FILES = 1024 }; /* of one Source */

typedef struct {
    int kind; /* SOURCE_* */
    Config config;
    Vocab vocab;    /* token, score, type are heap memory (vocab_free), strings are not */
    uint32_t type;  /* storage type of most of the weights */
    Tensor *tensor; /* n_tensors in the order of tensor_specs(), under GGUF names; heap memory */
    int n_tensors;
    bool halves;        /* rows of wq and wk are in Hugging Face order: see permute_row */
    Gguf gguf;          /* of a GGUF input, for what is carried over; else empty */
    const Lora *lora;   /* an adapter that is merged into what is written, or NULL */
    Map map[MAX_FILES]; /* every file that is mapped */
    int n_maps;
    Arena arena;
} Source;

/* ------------------------------------------------------------------------------------------------
 * source.c: opening any input */

/* Row of a Hugging Face q or k matrix that stands at `row` in GGUF. Hugging Face turns the pairs
 * (i, i + D/2) of a head, GGUF the neighbours (2i, 2i + 1):
 *     GGUF row   0  1    2  3      ...          of each head of D rows
 *     HF row     0  D/2  1  D/2+1  ...                                                         */
int permute_row(int row, int head_dim);
int unpermute_row(int row, int head_dim); /* its inverse: the GGUF row that stands at HF's `row` */

/* Maps a file into s->map; the Map is valid until source_close. e begins with the path. */
bool source_map(Source *s, const char *path, Map *m, Error *e);
/* Opens whatever `path` is; `tokenizer` is the --tokenizer option or NULL. Messages of e begin with
 * the name of the file they are about. source_close also after a failure. */
bool source_open(Source *s, const char *path, const char *tokenizer, Error *e);
bool source_open_gguf(Source *s, const char *path, Error *e);
/* hf.c */
bool source_open_hf(Source *s, const char *dir, Error *e);
/* llama2c.c */
bool source_open_llama2c(Source *s, const char *path, const char *tokenizer, Error *e);
void source_close(Source *s);
/* Checks the stored checksum of tensor t, where the input has any. */
bool source_verify(const Source *s, const Tensor *t, Error *e);
/* Puts "file: " before the text of e; returns false. */
OC_API bool fail_in(Error *e, const char *file) {
    Error inner = *e;
    return fail(e, "%s: %s", file, inner.text);
}

/* ------------------------------------------------------------------------------------------------
 * stream.c: a tensor from its stored form to another, a few rows at a time */

/* Where the converted bytes go: gguf_write or a safetensors file. */
typedef struct {
    void (*write)(void *to, const void *bytes, size_t n);
    void *to;
} Sink;

/* Which stored row is to stand at `row` of the output: permute_row, unpermute_row, or NULL. */
typedef int RowOrder(int row, int head_dim);

/* Writes t, which belongs to s, as storage type `type` with its rows in that order, bytes unchanged
 * where the type is the same and s->lora has nothing for t. False where a number is not finite or
 * too large for the type, saying which one. Pages of t that were read are given back, so memory
 * stays small whatever the model. */
bool stream_tensor(const Source *s, const Tensor *t, uint32_t type, RowOrder *order, Sink sink,
                   Error *e);
/* Looks for numbers that are not finite, as stream_tensor does, and writes nothing. */
bool scan_tensor(const Source *s, const Tensor *t, Error *e);
bool is_norm(Str name); /* norms are stored as f32 in every GGUF file */
/* A line on a terminal, nothing elsewhere: how much of `total` bytes is done. */
void progress(const char *what, uint64_t done, uint64_t total);

/* ------------------------------------------------------------------------------------------------
 * The formats. hfconfig.c: config.json. */
bool config_json_parse(Config *c, const char *text, size_t n, Error *e);
/* hf.c: safetensors, and the names of tensors. */
/* A dtype that no weight can have is listed under its number in type_info (f64, i64, ...) or as
 * T_COUNT; it is refused only where a weight has it. */
bool safetensors_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e);
/* The Hugging Face name of a GGUF tensor, into a buffer of 96 bytes. */
void hf_name(char *out, Str gguf_name);
/* convert.c: the storage type of a tensor where the matrices are to have `type`: norms are f32,
 * matrices whose rows are no whole number of blocks f16. */
uint32_t stored_type(Str name, int cols, uint32_t type);
/* The keys that every file we write has; `type` is that of most of the weights. */
void put_model_keys(GgufWriter *w, const Config *c, const Vocab *v, Str name, uint32_t type);
/* hfwrite.c: a directory that transformers loads. type T_COUNT: the source's own types. Ends the
 * program on failure, after removing what it wrote. */
void hf_write(const Source *s, const char *in, const char *out, uint32_t type);
/* random.c: a model of that shape (1.5b, 8b, tiny), random weights and a synthetic vocabulary. */
void random_write(const char *shape, const char *out, uint32_t type, uint64_t seed);
/* inspect.c */
void inspect(const Source *s, const char *path);
void check(const Source *s, const char *path); /* ends the program at the first problem */
/* torchzip.c: PyTorch's zip format (pytorch_model*.bin). */
bool torchzip_parse(TensorList *l, Arena *a, const uint8_t *data, size_t size, Error *e);

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
bool llama2c_vocab_parse(Vocab *v, Arena *a, const uint8_t *data, size_t size, int n_vocab,
                         Error *e);

#endif
