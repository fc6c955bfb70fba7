/* sentencepiece.c: tokenizer.model, the file of the SentencePiece library, to and from a Vocab.
 *
 * What to know first: the file is one Protocol Buffers message, ModelProto. A message is a run of
 * fields in any order; each begins with a number that says which field it is and how its value is
 * stored. Fields that are absent have their default; a field written twice counts as written last;
 * a field nobody knows is skipped, since its storage tells its length:
 *
 *     tag = field << 3 | wire        all integers as varints: 7 bits a byte, lowest first,
 *                                    the top bit of a byte says that another follows
 *     wire 0  varint                 0a 0e | 0a 05 3c 75 6e 6b 3e | 15 00 00 00 00 | 18 02
 *     wire 1  8 bytes                field 1, 14 bytes: a piece
 *     wire 2  varint length, bytes           field 1: "<unk>"       field 2: 0.0f    field 3: 2
 *     wire 5  4 bytes
 *
 * The fields that decide which ids come out, and where they go:
 *
 *     ModelProto     1 pieces        1 text, 2 score, 3 type (the numbers of TOK_*)
 *                    2 trainer_spec  3 model_type, 24 treat_whitespace_as_suffix, 35 byte_fallback,
 *                                    45..48 the texts of unk, bos, eos and pad
 *                    3 normalizer    2 precompiled_charsmap, 3 add_dummy_prefix,
 *                                    4 remove_extra_whitespaces, 5 escape_whitespaces
 *                    5 denormalizer  2 precompiled_charsmap: would change decoded text, refused
 *
 * Everything else in there tells how the model was trained. Test: tests/test_format.c. */

#include "export.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Protocol Buffers */

enum { WIRE_VARINT = 0, WIRE_8 = 1, WIRE_BYTES = 2, WIRE_4 = 5 };

typedef struct {
    uint32_t field, wire;
    uint64_t number; /* of a varint; the bits of wires 1 and 5 */
    Str bytes;       /* of wire 2 */
} Field;

static bool take_varint(Cursor *c, uint64_t *v) {
    uint8_t byte = 0x80;
    *v = 0;
    for (int shift = 0; byte & 0x80; shift += 7) {
        if (shift > 63 || !take(c, &byte, 1)) return false;
        *v |= (uint64_t)(byte & 0x7F) << shift;
    }
    return true;
}

/* The next field of a message; `what` names the message. Call it while c has bytes left. */
static bool next_field(Cursor *c, const char *what, Field *f, Error *e) {
    uint64_t tag;
    f->number = 0;
    f->bytes.s = "";
    f->bytes.n = 0;
    if (!take_varint(c, &tag) || tag >> 3 == 0 || tag >> 3 > (1u << 29) - 1)
        return fail(e, "%s: not a field of a protobuf message, expected a SentencePiece model",
                    what);
    f->field = (uint32_t)(tag >> 3);
    f->wire = tag & 7;
    bool ok = false;
    if (f->wire == WIRE_VARINT)
        ok = take_varint(c, &f->number);
    else if (f->wire == WIRE_8)
        ok = take(c, &f->number, 8);
    else if (f->wire == WIRE_4)
        ok = take(c, &f->number, 4);
    else if (f->wire == WIRE_BYTES) {
        uint64_t n = 0;
        ok = take_varint(c, &n) && (f->bytes.s = (const char *)take_bytes(c, n));
        f->bytes.n = n;
    } else {
        return fail(e, "%s: field %u has wire type %u, expected 0, 1, 2 or 5", what, f->field,
                    f->wire);
    }
    return ok || fail(e, "%s: field %u runs past the end; truncated file?", what, f->field);
}

/* True when f is the wanted field. One stored in another way than it must be is an error. */
static bool wants(const Field *f, uint32_t field, uint32_t wire, const char *name, Error *e) {
    if (f->field != field || e->text[0]) return false;
    return f->wire == wire || fail(e, "%s: wire type %u, expected %u", name, f->wire, wire);
}

static Cursor cursor_of(Str s) {
    Cursor c = { (const uint8_t *)s.s, (const uint8_t *)s.s + s.n };
    return c;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Reading */

/* What the file says beside the pieces, with the format's defaults. */
typedef struct {
    uint64_t model_type, byte_fallback, whitespace_suffix;         /* trainer_spec */
    uint64_t dummy_prefix, remove_whitespaces, escape_whitespaces; /* normalizer_spec */
    Str unk, bos, eos, pad, charsmap, decoder_charsmap;
    bool has_trainer;
} Specs;

static bool parse_trainer(Specs *s, Str message, Error *e) {
    Cursor c = cursor_of(message);
    Field f;
    while (c.p < c.end) {
        if (!next_field(&c, "trainer_spec", &f, e)) return false;
        if (wants(&f, 3, WIRE_VARINT, "model_type", e)) s->model_type = f.number;
        if (wants(&f, 24, WIRE_VARINT, "treat_whitespace_as_suffix", e))
            s->whitespace_suffix = f.number;
        if (wants(&f, 35, WIRE_VARINT, "byte_fallback", e)) s->byte_fallback = f.number;
        if (wants(&f, 45, WIRE_BYTES, "unk_piece", e)) s->unk = f.bytes;
        if (wants(&f, 46, WIRE_BYTES, "bos_piece", e)) s->bos = f.bytes;
        if (wants(&f, 47, WIRE_BYTES, "eos_piece", e)) s->eos = f.bytes;
        if (wants(&f, 48, WIRE_BYTES, "pad_piece", e)) s->pad = f.bytes;
        if (e->text[0]) return false;
    }
    return true;
}

static bool parse_normalizer(Specs *s, Str message, Error *e) {
    Cursor c = cursor_of(message);
    Field f;
    while (c.p < c.end) {
        if (!next_field(&c, "normalizer_spec", &f, e)) return false;
        if (wants(&f, 2, WIRE_BYTES, "precompiled_charsmap", e)) s->charsmap = f.bytes;
        if (wants(&f, 3, WIRE_VARINT, "add_dummy_prefix", e)) s->dummy_prefix = f.number;
        if (wants(&f, 4, WIRE_VARINT, "remove_extra_whitespaces", e))
            s->remove_whitespaces = f.number;
        if (wants(&f, 5, WIRE_VARINT, "escape_whitespaces", e)) s->escape_whitespaces = f.number;
        if (e->text[0]) return false;
    }
    return true;
}

static bool parse_denormalizer(Specs *s, Str message, Error *e) {
    Cursor c = cursor_of(message);
    Field f;
    while (c.p < c.end) {
        if (!next_field(&c, "denormalizer_spec", &f, e)) return false;
        if (wants(&f, 2, WIRE_BYTES, "denormalizer_spec", e)) s->decoder_charsmap = f.bytes;
        if (e->text[0]) return false;
    }
    return true;
}

/* Piece number i: its text, its score (default 0), its type (default normal). */
static bool parse_piece(Vocab *v, int i, Str message, Error *e) {
    char what[32];
    Cursor c = cursor_of(message);
    Field f;
    snprintf(what, sizeof what, "piece %d", i);
    v->token[i] = str_of(""); /* vocab_check refuses a piece that stays without text */
    v->type[i] = TOK_NORMAL;
    while (c.p < c.end) {
        if (!next_field(&c, what, &f, e)) return false;
        if (wants(&f, 1, WIRE_BYTES, what, e)) v->token[i] = f.bytes;
        if (wants(&f, 2, WIRE_4, what, e)) memcpy(&v->score[i], &f.number, 4); /* low bytes */
        if (wants(&f, 3, WIRE_VARINT, what, e)) {
            if (f.number < TOK_NORMAL || f.number > TOK_BYTE)
                return fail(e, "%s: type %llu, expected 1 to 6", what,
                            (unsigned long long)f.number);
            v->type[i] = (uint8_t)f.number;
        }
        if (e->text[0]) return false;
    }
    return true;
}

/* Walks through the file twice: once to count the pieces, and with them allocated to read them. */
static bool parse_model(Vocab *v, Specs *specs, Str file, bool counting, Error *e) {
    Cursor c = cursor_of(file);
    Field f;
    int i = 0;
    while (c.p < c.end) {
        if (!next_field(&c, "tokenizer model", &f, e)) return false;
        if (wants(&f, 1, WIRE_BYTES, "pieces", e)) {
            if (i == 1 << 20) return fail(e, "pieces: more than the %d expected at most", 1 << 20);
            if (!counting && !parse_piece(v, i, f.bytes, e)) return false;
            i++;
        }
        bool trainer = wants(&f, 2, WIRE_BYTES, "trainer_spec", e);
        bool normalizer = wants(&f, 3, WIRE_BYTES, "normalizer_spec", e);
        bool denormalizer = wants(&f, 5, WIRE_BYTES, "denormalizer_spec", e);
        specs->has_trainer |= trainer;
        if (e->text[0] || (trainer && !parse_trainer(specs, f.bytes, e)) ||
            (normalizer && !parse_normalizer(specs, f.bytes, e)) ||
            (denormalizer && !parse_denormalizer(specs, f.bytes, e)))
            return false;
    }
    v->n = i;
    return true;
}

/* The library knows bos, eos and pad by their texts and takes them only where they are control
 * pieces, whatever the ids in trainer_spec. */
static int find_control(const Vocab *v, Str text) {
    for (int i = 0; i < v->n; i++)
        if (v->type[i] == TOK_CONTROL && !str_cmp(v->token[i], text)) return i;
    return -1;
}

static bool apply_specs(Vocab *v, const Specs *s, Error *e) {
    static const char *const model_type[] = { "0", "unigram", "BPE", "WORD", "CHAR" };
    if (!s->has_trainer) /* it is optional in the format, but every real file has it */
        return fail(e, "trainer_spec: missing, expected it behind the pieces; truncated file?");
    if (s->model_type != 1 && s->model_type != 2)
        return fail(e, "model_type: %s, expected BPE or unigram",
                    s->model_type < 5 ? model_type[s->model_type] : "unknown");
    if (!s->escape_whitespaces)
        return fail(e, "escape_whitespaces: false, expected true (space written as U+2581)");
    if (s->decoder_charsmap.n)
        return fail(e, "denormalizer_spec: a charsmap of %zu bytes, expected none",
                    s->decoder_charsmap.n);
    int n_bytes = 0, n_unknown = 0;
    for (int i = 0; i < v->n; i++) {
        n_bytes += v->type[i] == TOK_BYTE;
        if (v->type[i] != TOK_UNKNOWN) continue;
        v->unk = i;
        n_unknown++;
    }
    if (n_unknown != 1) return fail(e, "pieces: %d of type unknown, expected one", n_unknown);
    if (n_bytes != (s->byte_fallback ? 256 : 0))
        return fail(e, "byte_fallback: %s and %d byte pieces, expected %s",
                    s->byte_fallback ? "true" : "false", n_bytes,
                    s->byte_fallback ? "256" : "none");
    v->unigram = s->model_type == 1;
    v->add_space_prefix = s->dummy_prefix;
    v->remove_extra_whitespaces = s->remove_whitespaces;
    v->whitespace_suffix = s->whitespace_suffix;
    v->charsmap = s->charsmap;
    v->bos = find_control(v, s->bos);
    v->eos = find_control(v, s->eos);
    v->pad = find_control(v, s->pad);
    return vocab_check(v, e);
}

/* Fills v from the bytes of a tokenizer.model, into which its strings point. On failure v is
 * empty. What other files decide (add_bos, opencoder, chat template) is left false. */
bool spm_parse(Vocab *v, Arena *a, const uint8_t *data, size_t size, Error *e) {
    (void)a; /* for readers whose texts are not in the file as they are */
    Specs specs = { .model_type = 1,
                    .dummy_prefix = 1,
                    .remove_whitespaces = 1,
                    .escape_whitespaces = 1,
                    .unk = str_of("<unk>"),
                    .bos = str_of("<s>"),
                    .eos = str_of("</s>"),
                    .pad = str_of("<pad>") };
    Str file = { (const char *)data, size };
    memset(v, 0, sizeof *v);
    e->text[0] = 0; /* wants() leaves its complaint here */
    if (size >= 10 && !memcmp(data, "version ht", 10))
        return fail(e, "a Git LFS pointer, expected the tokenizer itself; run git lfs pull");
    if (!parse_model(v, &specs, file, true, e)) return false;
    if (v->n == 0) return fail(e, "pieces: none, expected a SentencePiece model");
    v->token = xcalloc((size_t)v->n, sizeof *v->token, "vocabulary");
    v->score = xcalloc((size_t)v->n, sizeof *v->score, "vocabulary");
    v->type = xcalloc((size_t)v->n, 1, "vocabulary");
    v->n_pieces = v->n;
    v->bos = v->eos = v->unk = v->pad = -1;
    if (parse_model(v, &specs, file, false, e) && apply_specs(v, &specs, e)) return true;
    vocab_free(v);
    return false;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Writing */

static void put_varint(Buf *out, uint64_t v) {
    do {
        uint8_t byte = (uint8_t)(v & 0x7F) | (v > 0x7F ? 0x80 : 0);
        buf_add(out, &byte, 1);
    } while (v >>= 7);
}

static void put_number(Buf *out, uint32_t field, uint64_t v) {
    put_varint(out, field << 3 | WIRE_VARINT);
    put_varint(out, v);
}

static void put_bytes(Buf *out, uint32_t field, const char *bytes, size_t n) {
    put_varint(out, field << 3 | WIRE_BYTES);
    put_varint(out, n);
    buf_add(out, bytes, n);
}

static void put_piece(Buf *out, Str text, float score, int type) {
    Buf piece = { NULL, 0, 0 };
    put_bytes(&piece, 1, text.s, text.n);
    put_varint(&piece, 2 << 3 | WIRE_4);
    buf_add(&piece, &score, 4);
    if (type != TOK_NORMAL) put_number(&piece, 3, (uint64_t)type);
    put_bytes(out, 1, piece.data, piece.n);
    buf_free(&piece);
}

/* Id and text of one of the four named pieces; -1 and the usual name where there is none among the
 * pieces. Numbers below zero are written as 64-bit two's complement, the protobuf way. */
static void put_special(Buf *out, const Vocab *v, int id, uint32_t field, const char *usual) {
    bool known = id >= 0 && id < v->n_pieces;
    if (!known)
        for (id = v->n_pieces - 1; id >= 0; id--)
            if (str_is(v->token[id], usual) && v->type[id] == TOK_CONTROL) break;
    put_number(out, field, (uint64_t)(int64_t)id);
    if (known) put_bytes(out, field + 5, v->token[id].s, v->token[id].n);
}

static void put_trainer(Buf *out, const Vocab *v, int unk) {
    Buf spec = { NULL, 0, 0 };
    bool bytes = false;
    for (int i = 0; i < v->n_pieces; i++) bytes |= v->type[i] == TOK_BYTE;
    put_number(&spec, 3, v->unigram ? 1 : 2);
    put_number(&spec, 4, (uint64_t)v->n_pieces);
    put_number(&spec, 24, v->whitespace_suffix);
    put_number(&spec, 35, bytes);
    put_number(&spec, 40, (uint64_t)unk);
    put_bytes(&spec, 45, v->token[unk].s, v->token[unk].n);
    put_special(&spec, v, v->bos, 41, "<s>");
    put_special(&spec, v, v->eos, 42, "</s>");
    put_special(&spec, v, v->pad, 43, "<pad>");
    put_bytes(out, 2, spec.data, spec.n);
    buf_free(&spec);
}

/* The library insists on one piece of type unknown. Where byte fallback left v without one, a piece
 * that no text leads to takes its place: one of that name, else an unused one, else the first
 * control token without a task. A new piece would move the ids of the tokens that were added behind
 * the pieces. */
static int unknown_piece(const Vocab *v) {
    int unused = -1, idle = -1;
    if (v->unk >= 0 && v->unk < v->n_pieces) return v->unk;
    for (int i = 0; i < v->n_pieces; i++) {
        if (v->type[i] == TOK_UNKNOWN) return i;
        if (v->type[i] != TOK_CONTROL && v->type[i] != TOK_UNUSED) continue;
        if (str_is(v->token[i], "<unk>")) return i;
        if (v->type[i] == TOK_UNUSED && unused < 0) unused = i;
        bool busy = i == v->bos || i == v->eos || i == v->pad;
        for (int k = 0; k < v->n_stop; k++) busy |= i == v->stop[k];
        if (!busy && idle < 0) idle = i;
    }
    if (unused >= 0) return unused;
    if (idle < 0)
        die("tokenizer.model: no unknown token, expected one, or a control token without a task");
    return idle;
}

/* Appends to out the tokenizer.model of v's first n_pieces entries. Tokens that were added to the
 * vocabulary afterwards stand in files beside it: hfvocab.c. */
void spm_write(Buf *out, const Vocab *v) {
    Buf spec = { NULL, 0, 0 };
    int unk = unknown_piece(v);
    for (int i = 0; i < v->n_pieces; i++) {
        int type = i == unk ? TOK_UNKNOWN : v->type[i] == TOK_UNKNOWN ? TOK_CONTROL : v->type[i];
        put_piece(out, v->token[i], v->score[i], type);
    }
    put_trainer(out, v, unk);
    const char *name = v->charsmap.n ? "user_defined" : "identity";
    put_bytes(&spec, 1, name, strlen(name));
    if (v->charsmap.n) put_bytes(&spec, 2, v->charsmap.s, v->charsmap.n);
    put_number(&spec, 3, v->add_space_prefix);
    put_number(&spec, 4, v->remove_extra_whitespaces);
    put_number(&spec, 5, 1);
    put_bytes(out, 3, spec.data, spec.n);
    buf_free(&spec);
}
