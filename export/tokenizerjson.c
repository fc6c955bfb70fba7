/* tokenizerjson.c: writing the vocabulary of a Hugging Face directory, which hfvocab.c reads back.
 *
 * What to know first: transformers loads a tokenizer without code of ours from tokenizer.json, the
 * file of the "tokenizers" library: a pipeline of ready-made steps. These give our ids:
 *
 *                      OpenCoder                        other SentencePiece vocabularies
 *     added_tokens     text is cut at them first, in both
 *     normalizer       none                             charsmap, spaces removed, "_" in front,
 *                                                       space -> "_"
 *     pre_tokenizer    Split by regex, space -> "_"     none: merges may cross words
 *     model            BPE, or Unigram
 *     decoder          "_" -> space, <0x0A> -> its byte, the space in front dropped
 *
 * with _ for U+2581. Its BPE wants a list of merges, first come first served, where SentencePiece
 * has scores of pieces: "abc" may be made of any two neighbours, "a" and "bc" or "ab" and "c", when
 * no pair with a higher score is left. So every split of every piece into two pieces becomes a
 * merge, sorted by the score of the whole.
 *
 * Known differences, none of them in OpenCoder's vocabulary (measured on 6 MB of source code): the
 * library's unigram model adds up scores in double and may choose another of two equal ways, and it
 * takes the text "<0x0A>" for the byte token; its charsmap step replaces a whole character with its
 * accents where SentencePiece replaces one part of it.
 *
 * tokenizer.model stands beside it for llama.cpp's converter and for us; the key "opencoder" in
 * tokenizer_config.json tells hfvocab.c who wrote these files. Test: tests/test_format.c. */

#include "../json.h"
#include "export.h"

/* OpenCoder's splitter (FACTS 2.3), in the syntax of Oniguruma: contractions; letters with one
 * sign before them; up to three digits; signs with line ends behind; line ends with white space
 * before them; white space but for a last one before text. What matches nothing stays a piece. */
#define SPLIT_REGEX                                                                                \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"                       \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)"

/* ------------------------------------------------------------------------------------------------
 * 1. JSON in pieces */

/* JSON as it stands, written with ' for " so that it can be read. */
static void put_raw(Buf *b, const char *json) {
    if (*json != '}' && *json != ']') json_comma(b);
    for (; *json; json++) buf_add(b, *json == '\'' ? "\"" : json, 1);
}

static void put_text(Buf *b, const char *key, Str text) {
    json_put_key(b, key);
    json_put_str(b, text);
}

static void put_flag(Buf *b, const char *key, bool on) {
    json_put_key(b, key);
    json_put_bool(b, on);
}

static void put_id(Buf *b, const char *key, int id) {
    json_put_key(b, key);
    json_put_int(b, id);
}

static void write_file(const char *dir, const char *name, Buf *b) {
    Buf path = { NULL, 0, 0 };
    OutFile out;
    buf_add(&path, dir, strlen(dir));
    buf_add(&path, "/", 1);
    buf_add(&path, name, strlen(name));
    out_open(&out, path.data);
    out_write(&out, b->data, b->n);
    out_commit(&out);
    buf_free(&path);
    buf_free(b);
}

/* Tokens at which text is cut: the same that tokenizer.c cuts at. */
static bool is_added(const Vocab *v, int id) {
    return v->type[id] == TOK_CONTROL || v->type[id] == TOK_UNKNOWN ||
           (v->type[id] == TOK_USER && id >= v->n_pieces);
}

/* ------------------------------------------------------------------------------------------------
 * 2. tokenizer.json: the model */

typedef struct {
    float score;
    int whole, left, right;
} Merge;

static int merge_cmp(const void *a, const void *b) {
    const Merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->whole != y->whole) return x->whole - y->whole;
    if (x->left != y->left) return x->left - y->left;
    return x->right - y->right;
}

/* The id of a piece that merging can reach, or -1. */
static int find_piece(const Vocab *v, const Str **index, const char *s, size_t n) {
    Str text = { s, n };
    const Str *hit = name_find(index, (uint64_t)v->n, text);
    int id = hit ? (int)(hit - v->token) : -1;
    return id < v->n_pieces && id >= 0 && (v->type[id] == TOK_NORMAL || v->type[id] == TOK_USER)
               ? id
               : -1;
}

/* All splits of all pieces into two pieces, best first. An array of *n to be freed. */
static Merge *list_merges(const Vocab *v, size_t *n) {
    Merge *merge = NULL;
    const Str **index;
    size_t cap = 0;
    Error e;
    if (!name_index(&index, v->token, (uint64_t)v->n, sizeof *v->token, "token", &e))
        die("%s", e.text);
    *n = 0;
    for (int i = 0; i < v->n_pieces; i++) {
        Str t = v->token[i];
        if (v->type[i] != TOK_NORMAL && v->type[i] != TOK_USER) continue;
        for (size_t cut = 1; cut < t.n; cut++) {
            if (((uint8_t)t.s[cut] & 0xC0) == 0x80) continue; /* within a character */
            int left = find_piece(v, index, t.s, cut);
            int right = left < 0 ? -1 : find_piece(v, index, t.s + cut, t.n - cut);
            if (right < 0) continue;
            if (*n == cap) {
                cap = cap * 2 + 1024;
                merge = xrealloc(merge, cap, sizeof *merge, "merges");
            }
            merge[(*n)++] = (Merge){ v->score[i], i, left, right };
        }
    }
    free((void *)index);
    if (*n) qsort(merge, *n, sizeof *merge, merge_cmp);
    return merge;
}

static void put_bpe(Buf *b, const Vocab *v, int n, bool bytes) {
    size_t n_merges;
    Merge *merge = list_merges(v, &n_merges);
    put_raw(b, "{'type':'BPE','dropout':null,'continuing_subword_prefix':null,"
               "'end_of_word_suffix':null,'fuse_unk':true,'ignore_merges':false");
    put_flag(b, "byte_fallback", bytes);
    json_put_key(b, "unk_token");
    if (v->unk >= 0)
        json_put_str(b, v->token[v->unk]);
    else
        put_raw(b, "null");
    json_put_key(b, "vocab");
    json_open(b, '{');
    for (int i = 0; i < n; i++) {
        json_put_str(b, v->token[i]);
        buf_printf(b, ":%d", i);
    }
    json_close(b, '}');
    json_put_key(b, "merges");
    json_open(b, '[');
    Buf pair = { NULL, 0, 0 };
    for (size_t i = 0; i < n_merges; i++) { /* "left right": no piece has a space in it */
        Str left = v->token[merge[i].left], right = v->token[merge[i].right];
        pair.n = 0;
        buf_add(&pair, left.s, left.n);
        buf_add(&pair, " ", 1);
        buf_add(&pair, right.s, right.n);
        json_put_str(b, (Str){ pair.data, pair.n });
    }
    buf_free(&pair);
    json_close(b, ']');
    json_close(b, '}');
    free(merge);
}

/* The library gives a character that is in no piece the lowest score of all, less 10, and takes
 * every entry for a piece. So what no text should lead to gets the lowest score of the pieces. */
static void put_unigram(Buf *b, const Vocab *v, int n, bool bytes) {
    float lowest = 0;
    for (int i = 0; i < v->n_pieces; i++)
        if (v->type[i] == TOK_NORMAL && v->score[i] < lowest) lowest = v->score[i];
    put_raw(b, "{'type':'Unigram'");
    put_flag(b, "byte_fallback", bytes);
    json_put_key(b, "unk_id");
    if (v->unk >= 0)
        json_put_int(b, v->unk);
    else
        put_raw(b, "null");
    json_put_key(b, "vocab");
    json_open(b, '[');
    for (int i = 0; i < n; i++) {
        json_open(b, '[');
        json_put_str(b, v->token[i]);
        json_put_num(b, (double)(v->type[i] == TOK_NORMAL ? v->score[i] : lowest), true);
        json_close(b, ']');
    }
    json_close(b, ']');
    json_close(b, '}');
}

/* ------------------------------------------------------------------------------------------------
 * 3. tokenizer.json: the steps around the model */

static void put_base64(Buf *b, Str bytes) { /* three bytes become four letters */
    static const char letter[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes.n; i += 3) {
        uint32_t v = 0;
        char four[4];
        for (size_t k = 0; k < 3; k++) v = v << 8 | (i + k < bytes.n ? (uint8_t)bytes.s[i + k] : 0);
        for (int k = 0; k < 4; k++) four[k] = letter[v >> (18 - 6 * k) & 63];
        if (bytes.n - i < 3) four[3] = '=';
        if (bytes.n - i < 2) four[2] = '=';
        buf_add(b, four, 4);
    }
}

static void put_added_tokens(Buf *b, const Vocab *v) {
    json_put_key(b, "added_tokens");
    json_open(b, '[');
    for (int i = 0; i < v->n; i++) {
        /* SentencePiece's own user tokens also win over all merges, but never across words. */
        if (!is_added(v, i) && (v->type[i] != TOK_USER || v->opencoder)) continue;
        json_open(b, '{');
        put_id(b, "id", i);
        put_text(b, "content", v->token[i]);
        put_raw(b, "'single_word':false,'lstrip':false,'rstrip':false,'normalized':false");
        put_flag(b, "special", v->type[i] != TOK_USER);
        json_close(b, '}');
    }
    json_close(b, ']');
}

static void put_normalizer(Buf *b, const Vocab *v) {
    json_put_key(b, "normalizer");
    if (v->opencoder) {
        put_raw(b, "null");
        return;
    }
    put_raw(b, "{'type':'Sequence','normalizers':[");
    if (v->charsmap.n) {
        put_raw(b, "{'type':'Precompiled','precompiled_charsmap':'");
        put_base64(b, v->charsmap);
        buf_add(b, "\"}", 2);
    }
    if (v->remove_extra_whitespaces)
        put_raw(b, "{'type':'Replace','pattern':{'Regex':'\\\\A +| +\\\\z'},'content':''},"
                   "{'type':'Replace','pattern':{'Regex':' {2,}'},'content':' '}");
    if (v->add_space_prefix) put_raw(b, "{'type':'Prepend','prepend':'\xE2\x96\x81'}");
    put_raw(b, "{'type':'Replace','pattern':{'String':' '},'content':'\xE2\x96\x81'}");
    put_raw(b, "]}");
}

static void put_splitter(Buf *b, const Vocab *v) {
    json_put_key(b, "pre_tokenizer");
    if (!v->opencoder) {
        put_raw(b, "null");
        return;
    }
    put_raw(b, "{'type':'Sequence','pretokenizers':[{'type':'Split','behavior':'Isolated',"
               "'invert':false,'pattern':{");
    put_text(b, "Regex", str_of(SPLIT_REGEX));
    put_raw(b, "}}");
    put_raw(b, "{'type':'Metaspace','replacement':'\xE2\x96\x81','prepend_scheme':'never',"
               "'split':false}");
    put_raw(b, "]}");
}

/* A step that puts bos in front and eos behind, where the vocabulary does so. */
static void put_frame(Buf *b, const Vocab *v) {
    int id[] = { v->add_bos ? v->bos : -1, v->add_eos ? v->eos : -1 };
    json_put_key(b, "post_processor");
    if (id[0] < 0 && id[1] < 0) {
        put_raw(b, "null");
        return;
    }
    put_raw(b, "{'type':'TemplateProcessing'");
    for (int pair = 0; pair < 2; pair++) {
        json_put_key(b, pair ? "pair" : "single");
        json_open(b, '[');
        for (int text = 0; text <= pair; text++)
            for (int i = 0; i < 3; i++) { /* bos, the text, eos */
                if (i != 1 && id[i / 2] < 0) continue;
                put_raw(b, i == 1 ? "{'Sequence':{" : "{'SpecialToken':{");
                put_text(b, "id", i == 1 ? str_of(text ? "B" : "A") : v->token[id[i / 2]]);
                put_id(b, "type_id", text);
                put_raw(b, "}}");
            }
        json_close(b, ']');
    }
    json_put_key(b, "special_tokens");
    json_open(b, '{');
    for (int i = 0; i < 2; i++) {
        if (id[i] < 0 || (i && id[0] == id[1])) continue;
        json_put_str(b, v->token[id[i]]);
        buf_add(b, ":{", 2);
        put_text(b, "id", v->token[id[i]]);
        json_put_key(b, "ids");
        buf_printf(b, "[%d],\"tokens\":[", id[i]);
        json_put_str(b, v->token[id[i]]);
        buf_add(b, "]}", 2);
    }
    put_raw(b, "}}");
}

static void put_decoder(Buf *b, const Vocab *v) {
    json_put_key(b, "decoder");
    put_raw(b, "{'type':'Sequence','decoders':["
               "{'type':'Replace','pattern':{'String':'\xE2\x96\x81'},'content':' '},"
               "{'type':'ByteFallback'},{'type':'Fuse'}");
    if (v->add_space_prefix) put_raw(b, "{'type':'Strip','content':' ','start':1,'stop':0}");
    put_raw(b, "]}");
}

static void write_tokenizer_json(const char *dir, const Vocab *v) {
    Buf b = { NULL, 0, 0 };
    bool bytes = false;
    int n = v->n;
    for (int i = 0; i < v->n; i++) bytes |= v->type[i] == TOK_BYTE;
    while (n > v->n_pieces && v->type[n - 1] == TOK_UNUSED) n--;
    put_raw(&b, "{'version':'1.0','truncation':null,'padding':null");
    put_added_tokens(&b, v);
    put_normalizer(&b, v);
    put_splitter(&b, v);
    put_frame(&b, v);
    put_decoder(&b, v);
    json_put_key(&b, "model");
    if (v->unigram)
        put_unigram(&b, v, n, bytes);
    else
        put_bpe(&b, v, n, bytes);
    put_raw(&b, "}");
    write_file(dir, "tokenizer.json", &b);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The files beside it */

/* bos_token, eos_token, ... and the other special tokens that were added. */
static void put_names(Buf *b, const Vocab *v) {
    const char *key[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    int id[] = { v->bos, v->eos, v->unk, v->pad };
    for (int i = 0; i < 4; i++)
        if (id[i] >= 0) put_text(b, key[i], v->token[id[i]]);
    json_put_key(b, "additional_special_tokens");
    json_open(b, '[');
    for (int i = v->n_pieces; i < v->n; i++)
        if (v->type[i] == TOK_CONTROL) json_put_str(b, v->token[i]);
    json_close(b, ']');
}

static void write_config(const char *dir, const Vocab *v, const Config *c) {
    Buf b = { NULL, 0, 0 };
    json_open(&b, '{');
    put_text(&b, "tokenizer_class", str_of("PreTrainedTokenizerFast"));
    put_flag(&b, "opencoder", v->opencoder);
    put_flag(&b, "add_bos_token", v->add_bos);
    put_flag(&b, "add_eos_token", v->add_eos);
    put_flag(&b, "add_prefix_space", v->add_space_prefix);
    put_flag(&b, "clean_up_tokenization_spaces", false);
    put_id(&b, "model_max_length", c->max_ctx);
    json_put_key(&b, "model_input_names"); /* or Llama's generate() is handed token_type_ids */
    put_raw(&b, "['input_ids','attention_mask']");
    put_names(&b, v);
    json_put_key(&b, "added_tokens_decoder");
    json_open(&b, '{');
    for (int i = 0; i < v->n; i++) {
        char id[16];
        if (!is_added(v, i)) continue;
        snprintf(id, sizeof id, "%d", i);
        json_put_key(&b, id);
        json_open(&b, '{');
        put_text(&b, "content", v->token[i]);
        put_raw(&b, "'lstrip':false,'normalized':false,'rstrip':false,'single_word':false");
        put_flag(&b, "special", v->type[i] != TOK_USER);
        json_close(&b, '}');
    }
    json_close(&b, '}');
    if (v->chat_template.n) put_text(&b, "chat_template", v->chat_template);
    json_close(&b, '}');
    write_file(dir, "tokenizer_config.json", &b);
}

static void write_small_files(const char *dir, const Vocab *v) {
    Buf added = { NULL, 0, 0 }, names = added, generation = added;
    json_open(&added, '{');
    for (int i = v->n_pieces; i < v->n; i++) {
        if (!is_added(v, i)) continue;
        json_put_str(&added, v->token[i]);
        buf_printf(&added, ":%d", i);
    }
    json_close(&added, '}');
    write_file(dir, "added_tokens.json", &added);
    json_open(&names, '{');
    put_names(&names, v);
    json_close(&names, '}');
    write_file(dir, "special_tokens_map.json", &names);
    json_open(&generation, '{');
    if (v->bos >= 0) put_id(&generation, "bos_token_id", v->bos);
    if (v->pad >= 0) put_id(&generation, "pad_token_id", v->pad);
    if (v->eos >= 0) {
        json_put_key(&generation, "eos_token_id");
        if (v->n_stop) json_open(&generation, '[');
        json_put_int(&generation, v->eos);
        for (int i = 0; i < v->n_stop; i++) json_put_int(&generation, v->stop[i]);
        if (v->n_stop) json_close(&generation, ']');
    }
    json_close(&generation, '}');
    write_file(dir, "generation_config.json", &generation);
}

/* ------------------------------------------------------------------------------------------------
 * 5. All together */

/* What no pipeline of ready-made steps does: it must not be written as if it did. */
static void refuse_inexpressible(const Vocab *v) {
    const char *flag = NULL;
    if (v->whitespace_suffix) flag = "whitespace_suffix";
    if (v->opencoder && v->charsmap.n) flag = "precompiled_charsmap in every word";
    if (v->opencoder && v->add_space_prefix) flag = "add_space_prefix in every word";
    if (v->opencoder && v->remove_extra_whitespaces)
        flag = "remove_extra_whitespaces in every word";
    if (flag) die("tokenizer.json: the vocabulary has %s, which the format cannot say", flag);
    for (int i = 0; i < v->n; i++) {
        const char *p = v->token[i].s, *end = p + v->token[i].n;
        for (int n = 1; p < end; p += n)
            if ((n = utf8_length(p, end)) == 0)
                die("tokenizer.json: token %d is not UTF-8, expected text", i);
    }
}

void vocab_to_hf(const char *dir, const Vocab *vocab, const Config *c) {
    Buf model = { NULL, 0, 0 };
    Vocab v = *vocab;
    refuse_inexpressible(&v);
    if (v.n_pieces == v.n) /* a file that does not say: added tokens follow the normal ones */
        while (v.n_pieces && v.type[v.n_pieces - 1] != TOK_NORMAL) v.n_pieces--;
    spm_write(&model, &v);
    write_file(dir, "tokenizer.model", &model);
    write_tokenizer_json(dir, &v);
    write_config(dir, &v, c);
    write_small_files(dir, &v);
}
