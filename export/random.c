/* random.c: convert --random: a model of OpenCoder's shape without OpenCoder's weights.
 *
 * What to know first: speed, memory and file formats do not depend on what the weights are, so a
 * machine can be measured, and the whole path from file to text tried, without a download. The
 * text such a model writes is noise. Every number is a function of (seed, tensor, row, column), so
 * the file is the same for any number of threads.
 *
 * The vocabulary has the layout of OpenCoder's, smaller for tiny: special pieces, 256 byte tokens,
 * ordinary pieces by falling score, added tokens at the end, and unused rows that pad it:
 *
 *     id   0 1 2 3              4 .. 259        260 .. n_pieces - 1       + 42       to vocab_size
 *          <unk> <s> </s> <pad> <0x00>..<0xFF>  characters, words, ...    <|im_end|> [PAD96541]..
 *
 * `time ./convert --random 8b m8.bin -q q4_0` takes 51 s of processor time.
 * Test: tests/test_format.c. */

#include "export.h"

/* ------------------------------------------------------------------------------------------------
 * 1. The vocabulary */

enum { N_ADDED = 42, N_PADDING = 99, FIRST_PIECE = 260 };

/* Pieces so far, and a hash table of their ids + 1, because no text may come twice. */
typedef struct {
    Vocab v;
    Arena *arena;
    int *slot;
    uint32_t mask;
} Pieces;

static void add_token(Pieces *p, const char *text, int type, float score) {
    Vocab *v = &p->v;
    v->token[v->n] = arena_copy(p->arena, text, strlen(text));
    v->score[v->n] = score;
    v->type[v->n++] = (uint8_t)type;
}

/* Adds an ordinary piece unless it is there or there is no room; the earlier, the higher ranked. */
static void add_piece(Pieces *p, const char *text) {
    uint32_t h = crc32c(0, text, strlen(text)) & p->mask;
    for (; p->slot[h]; h = (h + 1) & p->mask)
        if (str_is(p->v.token[p->slot[h] - 1], text)) return;
    if (p->v.n >= p->v.n_pieces) return;
    p->slot[h] = p->v.n + 1;
    add_token(p, text, TOK_NORMAL, (float)(FIRST_PIECE - p->v.n));
}

/* A word and all its beginnings, with and without the space before it (U+2581): BPE joins two
 * neighbours at a time and can only reach a word whose beginnings are pieces, too. */
static void add_word(Pieces *p, const char *word) {
    char text[32];
    for (int n = 1; n <= (int)strlen(word); n++) {
        snprintf(text, sizeof text, "%.*s", n, word);
        add_piece(p, text);
        snprintf(text, sizeof text, "\xE2\x96\x81%.*s", n, word);
        add_piece(p, text);
    }
}

static void add_ordinary(Pieces *p) {
    static const char *const words[] = {
        "def",    "return",  "self",     "import", "from",  "class",  "for",    "while",  "if",
        "else",   "elif",    "print",    "range",  "len",   "None",   "True",   "False",  "int",
        "str",    "list",    "dict",     "static", "const", "void",   "char",   "struct", "include",
        "public", "private", "function", "var",    "let",   "string", "number", "value",  "index",
        "array",  "object",  "error",    "result", "data",  "name",   "type",   "file",   "line",
        "text",   "test",    "assert",   "lambda", "yield", "async",  "await",  "try",    "except",
        "->",     "==",      "!=",       "<=",     ">=",    "&&",     "||",     "//",     "()",
        "[]",     "{}",      "):",       "();",    "++",    "+=",     "::",     "...",    "\"\"\"",
    };
    char text[32], c[2] = "", spaces[3 * 16 + 1];
    for (*c = '!'; *c <= '~'; (*c)++) add_piece(p, c);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) add_word(p, words[i]);
    for (int n = 0; n < 16; n++) { /* indentation */
        memcpy(spaces + 3 * n, "\xE2\x96\x81", 4);
        add_piece(p, spaces);
    }
    /* Invented words of one, two and three syllables fill the rest. */
    const char *consonant = "bcdfghjklmnpqrstvwxyz", *vowel = "aeiou";
    const int n_syllables = 21 * 5;
    for (int i = 0; p->v.n < p->v.n_pieces; i++) {
        char *to = text;
        for (int rest = i + 1; rest; rest /= n_syllables + 1) {
            int k = rest % (n_syllables + 1) - 1;
            if (k < 0) continue;
            *to++ = consonant[k / 5];
            *to++ = vowel[k % 5];
        }
        *to = 0;
        add_word(p, text);
    }
}

/* The names of INF-34B's and OpenCoder's added tokens, as far as they are known. */
static void add_added(Pieces *p) {
    static const char *const known[] = { "start",       "end",      "message", "tool_start",
                                         "tool_excute", "tool_end", "pad",     "endoftext" };
    char text[32];
    for (int i = 0; i < N_ADDED; i++) {
        if (i < 8)
            snprintf(text, sizeof text, "<|%s|>", known[i]);
        else if (i < N_ADDED - 2)
            snprintf(text, sizeof text, "<|reserved_%d|>", i);
        else
            snprintf(text, sizeof text, i == N_ADDED - 2 ? "<|im_end|>" : "<|im_start|>");
        add_token(p, text, TOK_CONTROL, -1000);
    }
    for (int i = 0; i < N_PADDING; i++) {
        snprintf(text, sizeof text, "[PAD%d]", p->v.n);
        add_token(p, text, TOK_UNUSED, -10000);
    }
}

static Vocab random_vocab(int size, Arena *arena) {
    static const char *const special[] = { "<unk>", "<s>", "</s>", "<pad>" };
    Pieces p = { .arena = arena, .mask = (1u << 18) - 1 };
    Vocab *v = &p.v;
    v->token = xcalloc((size_t)size, sizeof *v->token, "vocabulary");
    v->score = xcalloc((size_t)size, sizeof *v->score, "vocabulary");
    v->type = xcalloc((size_t)size, sizeof *v->type, "vocabulary");
    p.slot = xcalloc((size_t)p.mask + 1, sizeof *p.slot, "vocabulary");
    v->n_pieces = size - N_ADDED - N_PADDING;
    for (int i = 0; i < 4; i++) add_token(&p, special[i], i ? TOK_CONTROL : TOK_UNKNOWN, 0);
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        add_token(&p, text, TOK_BYTE, 0);
    }
    add_ordinary(&p);
    v->unk = 0;
    v->pad = 3;
    v->eos = v->n_pieces + N_ADDED - 2;
    v->bos = v->n_pieces + N_ADDED - 1;
    add_added(&p);
    v->opencoder = true;
    vocab_add_usual_stops(v);
    free(p.slot);
    return *v;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The weights */

/* n numbers of the given mean and standard deviation. The sum of four 16-bit numbers has the shape
 * of a bell, to 3.46 deviations on either side, and no logarithm. */
static void fill_random(float *x, size_t n, uint64_t key, float mean, float deviation) {
    const float unit = deviation / 37836.7f; /* sqrt(4/12) 2^16: the deviation of the sum */
    for (size_t i = 0; i < n; i++) {
        uint64_t r = mix64(key + i * 0x9E3779B97F4A7C15u);
        int sum =
            (int)(r & 0xFFFF) + (int)(r >> 16 & 0xFFFF) + (int)(r >> 32 & 0xFFFF) + (int)(r >> 48);
        x[i] = mean + (float)(sum - 2 * 65535) * unit;
    }
}

/* Writes one tensor, rows made and quantized by all threads, a chunk at a time. */
static void write_random(GgufWriter *w, const TensorSpec *spec, uint32_t type, uint64_t key) {
    const bool norm = is_norm(str_of(spec->name));
    const size_t cols = (size_t)spec->cols, bytes = row_bytes(type, cols);
    const int step = 1 + (1 << 22) / spec->cols;
    uint8_t *chunk = xcalloc((size_t)step, bytes, "a chunk of rows");
    for (int first = 0; first < spec->rows; first += step) {
        int rows = spec->rows - first < step ? spec->rows - first : step;
#pragma omp parallel
        {
            float *x = xcalloc(cols, sizeof *x, "one row");
#pragma omp for
            for (int r = 0; r < rows; r++) {
                uint64_t row_key = mix64(key + (uint64_t)(first + r));
                fill_random(x, cols, row_key, norm ? 1.0f : 0.0f, norm ? 0.05f : 0.02f);
                quantize(chunk + (size_t)r * bytes, x, type, cols);
            }
            free(x);
        }
        gguf_write(w, chunk, (size_t)rows * bytes);
    }
    free(chunk);
}

void random_write(const char *shape, const char *out, uint32_t type, uint64_t seed) {
    const Config *c = config_named(shape);
    if (!c) die_usage("--random: '%s', expected 1.5b, 8b or tiny", shape);
    Arena arena = { 0 };
    GgufWriter w = { 0 };
    char name[32];
    int n;
    Vocab v = random_vocab(c->vocab_size, &arena);
    TensorSpec *spec = tensor_specs(c, &n);
    snprintf(name, sizeof name, "random-%s", shape);
    put_model_keys(&w, c, &v, str_of(name), type);
    for (int t = 0; t < n; t++)
        gguf_add(&w, spec[t].name, stored_type(str_of(spec[t].name), spec[t].cols, type),
                 spec[t].rows, spec[t].cols);
    uint64_t total = w.at;
    gguf_begin(&w, out);
    for (int t = 0; t < n; t++) {
        uint32_t stored = stored_type(str_of(spec[t].name), spec[t].cols, type);
        write_random(&w, &spec[t], stored, mix64(seed * 0x9E3779B97F4A7C15u + (uint64_t)t + 1));
        progress("writing", w.out.pos, total);
    }
    gguf_end(&w);
    progress("writing", total, total);
    free(spec);
    vocab_free(&v);
    arena_free(&arena);
}
