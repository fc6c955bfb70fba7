/* hfvocab.c: reading the vocabulary of a Hugging Face directory. Writing one: tokenizerjson.c.
 *
 * What to know first: the vocabulary is spread over several files, which may contradict each other.
 *
 *     tokenizer.model          ids 0 to n_pieces - 1: SentencePiece's pieces, scores and flags
 *     added_tokens.json        {"<|im_end|>": 96539, ...}: tokens that were added later
 *     tokenizer_config.json    added_tokens_decoder: {"96539": {"content": "<|im_end|>", "special":
 *                              true, "lstrip": false, ...}}; the class and its switches, such as
 *                              add_bos_token; which tokens are bos, eos, ...; the chat template
 *     special_tokens_map.json  which tokens are bos, eos, ..., once more
 *     chat_template.jinja      the template, as newer versions write it
 *     generation_config.json   ids of bos and of the tokens that end a generation; they win over
 *     config.json              its own ids of both, and these over the names above
 *
 *     id   0        n_pieces            96541              vocab_size
 *          | pieces | added tokens      | unused rows      |
 *                     control or user     "[PAD96541]", ...
 *
 * What all added tokens have in common is that text is cut at them before SentencePiece sees it.
 * Those called special are control tokens here, the others user tokens; an added token that is also
 * a piece becomes a control token either way, because only those are cut out of text (tokenizer.c).
 * Test: tests/test_format.c, tests/badinput.py. */

#include "../json.h"
#include "export.h"

/* A JSON file of the directory; where there is none, a document without nodes. */
typedef struct {
    const char *path;
    JsonDoc doc;
} File;

typedef struct {
    File config, generation, tokenizer, special, added;
} Files;

/* The root, or NULL where the file is absent: then json_get and its like find nothing. */
static const Json *root(const File *f) { return f->doc.n ? f->doc.node : NULL; }

static const char *path_in(Arena *a, const char *dir, const char *name) {
    Buf path = { NULL, 0, 0 };
    buf_add(&path, dir, strlen(dir));
    buf_add(&path, "/", 1);
    buf_add(&path, name, strlen(name));
    Str s = arena_copy(a, path.data, path.n);
    buf_free(&path);
    return s.s;
}

static bool read_json(File *f, Arena *a, const char *dir, const char *name, Error *e) {
    Map m;
    f->path = path_in(a, dir, name);
    if (access(f->path, F_OK)) return true;
    if (!map_file(&m, f->path, e)) return fail_in(e, f->path);
    bool ok = json_parse(&f->doc, (const char *)m.data, m.size, e);
    if (ok && f->doc.node->type != J_OBJECT)
        ok = fail(e, "%s, expected an object", json_type_name[f->doc.node->type]);
    unmap_file(&m);
    return ok || fail_in(e, f->path);
}

/* ------------------------------------------------------------------------------------------------
 * 1. Added tokens */

/* Room for all rows of the model behind the pieces; those that stay without a token are unused. */
static void make_rows(Source *s) {
    Vocab *v = &s->vocab;
    int rows = s->config.vocab_size;
    v->token = xrealloc(v->token, (size_t)rows, sizeof *v->token, "vocabulary");
    v->score = xrealloc(v->score, (size_t)rows, sizeof *v->score, "vocabulary");
    v->type = xrealloc(v->type, (size_t)rows, 1, "vocabulary");
    for (; v->n < rows; v->n++) {
        v->token[v->n].s = NULL; /* no name yet */
        v->token[v->n].n = 0;
        v->score[v->n] = -10000; /* as llama.cpp's converter has it, and -1000 below */
        v->type[v->n] = TOK_UNUSED;
    }
}

/* Token `id` is called `name`: a row gets its name, or a piece turns out to be an added token. */
static bool add_token(Source *s, int64_t id, Str name, bool special, Error *e) {
    Vocab *v = &s->vocab;
    if (id < 0 || id >= v->n)
        return fail(e, "token '%.*s': id %lld, expected less than the vocab_size %d of config.json",
                    STR(name), (long long)id, v->n);
    Str *token = &v->token[id];
    if (token->s && str_cmp(*token, name))
        return fail(e, "token '%.*s': id %lld, but that is '%.*s'", STR(name), (long long)id,
                    STR(*token));
    if (!token->s) {
        *token = arena_copy(&s->arena, name.s, name.n);
        v->score[id] = -1000; /* never looked at: text is cut at added tokens */
        v->type[id] = TOK_USER;
    }
    if (v->type[id] == TOK_BYTE)
        return fail(e, "token '%.*s': a byte token, expected it not to be added", STR(name));
    if ((special || id < v->n_pieces) && v->type[id] != TOK_UNKNOWN) v->type[id] = TOK_CONTROL;
    return true;
}

static bool read_added(Source *s, const Json *tokens, Error *e) {
    for (const Json *x = tokens ? json_first(tokens) : NULL; x; x = json_next(tokens, x)) {
        if (!x->is_int) return fail(e, "token '%.*s': no id, expected a whole number", STR(x->key));
        if (!add_token(s, x->integer, x->key, false, e)) return false;
    }
    return true;
}

/* A token as an object; what its flags can ask for beyond a plain cut is not done here. */
static bool read_flags(const Json *token, Str *name, bool *special, Error *e) {
    static const char *const flag[] = { "lstrip", "rstrip", "single_word" };
    if (!json_str(token, "content", true, name, e) ||
        !json_bool(token, "special", false, special, e))
        return false;
    for (int i = 0; i < 3; i++) {
        bool on = false;
        if (!json_bool(token, flag[i], false, &on, e)) return false;
        if (on) return fail(e, "token '%.*s': %s is true, expected false", STR(*name), flag[i]);
    }
    return true;
}

static bool read_decoder(Source *s, const Json *config, Error *e) {
    const Json *tokens;
    if (!json_member(config, "added_tokens_decoder", false, J_OBJECT, &tokens, e)) return false;
    for (const Json *x = tokens ? json_first(tokens) : NULL; x; x = json_next(tokens, x)) {
        int64_t id = 0;
        Str name;
        bool special = false;
        if (x->key.n == 0 || x->key.n > 9)
            return fail(e, "added_tokens_decoder: id '%.*s', expected a number", STR(x->key));
        for (size_t i = 0; i < x->key.n; i++) {
            if (!isdigit((uint8_t)x->key.s[i]))
                return fail(e, "added_tokens_decoder: id '%.*s', expected a number", STR(x->key));
            id = 10 * id + x->key.s[i] - '0';
        }
        if (!read_flags(x, &name, &special, e) || !add_token(s, id, name, special, e)) return false;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Special tokens by name */

/* All tokens sorted by name, and the ids that the tokenizer's files give to three of them. Two
 * files may say so; tokenizer_config.json, which is read first, wins. */
typedef struct {
    const Str **index;
    int bos, eos, pad;
} Names;

/* Marks the token that j names, a text or an object with flags, as special; *id is where it is.
 * Nothing, null and "" name none. */
static bool name_special(Source *s, const Names *names, const Json *j, const char *key, int *id,
                         Error *e) {
    bool special;
    if (!j || j->type == J_NULL || (j->type == J_STRING && j->str.n == 0)) return true;
    Str name = j->str;
    if (j->type != J_STRING && j->type != J_OBJECT)
        return fail(e, "key %s: %s, expected a token", key, json_type_name[j->type]);
    if (j->type == J_OBJECT && !read_flags(j, &name, &special, e)) return false;
    const Str *token = name_find(names->index, (uint64_t)s->vocab.n, name);
    if (!token)
        return fail(e,
                    "key %s: '%.*s' is not in the vocabulary, expected a piece of "
                    "tokenizer.model or an added token",
                    key, STR(name));
    int found = (int)(token - s->vocab.token);
    if (*id < 0) *id = found;
    return add_token(s, found, name, true, e);
}

static bool read_names(Source *s, const Json *file, Names *n, Error *e) {
    int other = -1;
    static const char *const list[] = { "additional_special_tokens", "extra_special_tokens" };
    static const char *const rest[] = { "unk_token", "sep_token", "cls_token", "mask_token" };
    if (!name_special(s, n, json_get(file, "bos_token"), "bos_token", &n->bos, e) ||
        !name_special(s, n, json_get(file, "eos_token"), "eos_token", &n->eos, e) ||
        !name_special(s, n, json_get(file, "pad_token"), "pad_token", &n->pad, e))
        return false;
    for (int i = 0; i < 4; i++)
        if (!name_special(s, n, json_get(file, rest[i]), rest[i], &other, e)) return false;
    for (int i = 0; i < 2; i++) {
        const Json *tokens = json_get(file, list[i]);
        if (!tokens || tokens->type == J_NULL) continue;
        if (tokens->type != J_ARRAY && tokens->type != J_OBJECT)
            return fail(e, "key %s: %s, expected an array of tokens", list[i],
                        json_type_name[tokens->type]);
        for (const Json *x = json_first(tokens); x; x = json_next(tokens, x))
            if (!name_special(s, n, x, list[i], &other, e)) return false;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Ids in generation_config.json and config.json */

static bool check_id(const Vocab *v, const Json *j, const char *key, Error *e) {
    if (j->type == J_NUMBER && j->is_int && j->integer >= 0 && j->integer < v->n) return true;
    return fail(e, "key %s: not an id, expected a whole number less than vocab_size %d", key, v->n);
}

/* *id becomes the id under that key, if there is one. */
static bool read_id(const Vocab *v, const Json *file, const char *key, int *id, Error *e) {
    const Json *j = json_get(file, key);
    if (!j || j->type == J_NULL) return true;
    if (!check_id(v, j, key, e)) return false;
    *id = (int)j->integer;
    return true;
}

/* eos_token_id is an id or a list of ids; the first is eos, all of them end generation. */
static bool read_eos(Vocab *v, const Json *file, Error *e) {
    const char *key = "eos_token_id";
    const Json *j = json_get(file, key);
    if (!j || j->type == J_NULL) return true;
    v->n_stop = 0;
    if (j->type != J_ARRAY) return read_id(v, file, key, &v->eos, e);
    if (j->n < 1 || j->n > 9) return fail(e, "key %s: %u ids, expected 1 to 9", key, j->n);
    for (const Json *x = json_first(j); x; x = json_next(j, x))
        if (!check_id(v, x, key, e)) return false;
    v->eos = (int)json_first(j)->integer;
    for (const Json *x = json_first(j); x; x = json_next(j, x)) vocab_add_stop(v, (int)x->integer);
    return true;
}

/* From the weakest source to the strongest, each overwriting the one before. What is put around
 * texts is the tokenizer's own; INFLMTokenizer takes SentencePiece's even for that. */
static bool read_ids(Vocab *v, const Files *f, const Names *names, bool inflm, Error *e) {
    int own_bos = inflm || names->bos < 0 ? v->bos : names->bos;
    int own_eos = inflm || names->eos < 0 ? v->eos : names->eos;
    bool ours = json_get(root(&f->tokenizer), "opencoder"); /* whose files leave nothing out */
    v->bos = names->bos >= 0 || ours ? names->bos : v->bos;
    v->eos = names->eos >= 0 || ours ? names->eos : v->eos;
    v->pad = names->pad >= 0 || ours ? names->pad : v->pad;
    if (!read_id(v, root(&f->config), "bos_token_id", &v->bos, e) ||
        !read_eos(v, root(&f->config), e))
        return fail_in(e, f->config.path);
    if (!read_id(v, root(&f->generation), "bos_token_id", &v->bos, e) ||
        !read_eos(v, root(&f->generation), e))
        return fail_in(e, f->generation.path);
    if (v->add_bos && own_bos != v->bos) {
        vocab_add_stop(v, v->bos); /* it ends generation, as every bos does */
        v->bos = own_bos;
    }
    if (v->add_eos && own_eos != v->eos) {
        int end = v->eos;
        v->eos = own_eos;
        vocab_add_stop(v, end);
    }
    if (v->bos < 0) v->add_bos = false;
    if (v->eos < 0) v->add_eos = false;
    vocab_add_stop(v, names->eos);
    vocab_add_usual_stops(v);
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 4. The class and its switches */

/* Which tokenizer the directory asks for: OpenCoder's own, Llama's, or one that -o hf wrote, which
 * says so under the key "opencoder". Others treat text in ways of their own. */
static bool read_class(Vocab *v, const Json *config, bool *inflm, Error *e) {
    Str class = str_of("LlamaTokenizer");
    bool ours = json_get(config, "opencoder");
    const Json *map, *names;
    if (!json_str(config, "tokenizer_class", false, &class, e) ||
        !json_bool(config, "opencoder", false, &v->opencoder, e) ||
        !json_member(config, "auto_map", false, J_OBJECT, &map, e))
        return false;
    *inflm = str_is(class, "INFLMTokenizer");
    names = json_get(map, "AutoTokenizer"); /* ["tokenization_inflm.INFLMTokenizer", null] */
    if (names && names->type == J_ARRAY) names = json_first(names);
    if (names && names->type == J_STRING)
        *inflm |= memmem(names->str.s, names->str.n, "tokenization_inflm", 18) != NULL;
    if (*inflm) v->opencoder = true;
    if (!*inflm && !ours && !str_is(class, "LlamaTokenizer") &&
        !str_is(class, "LlamaTokenizerFast"))
        return fail(e, "key tokenizer_class: %.*s, expected INFLMTokenizer or LlamaTokenizer",
                    STR(class));
    v->add_bos = !*inflm && !ours;
    if (!json_bool(config, "add_bos_token", false, &v->add_bos, e) ||
        !json_bool(config, "add_eos_token", false, &v->add_eos, e))
        return false;
    /* Llama's class overrules SentencePiece's flag, INFLM's does not know this key. */
    return *inflm || json_bool(config, "add_prefix_space", false, &v->add_space_prefix, e);
}

/* One template, or a list of named ones, of which "default" is meant. */
static bool read_template(Source *s, const Json *config, Error *e) {
    const Json *j = json_get(config, "chat_template");
    Str text = { NULL, 0 }, name = text;
    if (!j || j->type == J_NULL) return true;
    if (j->type == J_STRING)
        text = j->str;
    else if (j->type != J_ARRAY)
        return fail(e, "key chat_template: %s, expected a text or an array",
                    json_type_name[j->type]);
    for (const Json *x = j->type == J_ARRAY ? json_first(j) : NULL; x; x = json_next(j, x))
        if (!json_str(x, "name", true, &name, e) ||
            (str_is(name, "default") && !json_str(x, "template", true, &text, e)))
            return false;
    s->vocab.chat_template = arena_copy(&s->arena, text.s, text.n);
    return true;
}

static bool read_template_file(Source *s, const char *dir, Error *e) {
    Map m;
    const char *path = path_in(&s->arena, dir, "chat_template.jinja");
    if (access(path, F_OK)) return true;
    if (!map_file(&m, path, e)) return fail_in(e, path);
    s->vocab.chat_template = arena_copy(&s->arena, (const char *)m.data, m.size);
    unmap_file(&m);
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 5. All together */

static bool read_pieces(Source *s, const char *dir, Error *e) {
    const char *path = path_in(&s->arena, dir, "tokenizer.model");
    Map m;
    if (access(path, F_OK))
        return fail(e,
                    "%s: missing, expected the SentencePiece model of the vocabulary; a "
                    "tokenizer.json alone is not enough",
                    path);
    if (!source_map(s, path, &m, e)) return false;
    bool ok = spm_parse(&s->vocab, &s->arena, m.data, m.size, e);
    if (ok && s->vocab.n > s->config.vocab_size)
        ok = fail(e, "%d pieces, expected at most the vocab_size %d of config.json", s->vocab.n,
                  s->config.vocab_size);
    return ok || fail_in(e, path);
}

/* Names the rows without a token, as llama.cpp's converter does. No text leads to them. */
static void name_unused(Source *s) {
    Vocab *v = &s->vocab;
    int n = 0;
    for (int i = 0; i < v->n; i++) n += !v->token[i].s;
    char(*name)[20] = arena_alloc(&s->arena, (size_t)n, sizeof *name, "unused tokens");
    for (int i = v->n; i-- > 0;) {
        if (v->token[i].s) continue;
        snprintf(name[--n], sizeof *name, "[PAD%d]", i);
        v->token[i] = str_of(name[n]);
    }
}

static bool read_files(Files *f, Arena *a, const char *dir, Error *e) {
    return read_json(&f->config, a, dir, "config.json", e) &&
           read_json(&f->generation, a, dir, "generation_config.json", e) &&
           read_json(&f->tokenizer, a, dir, "tokenizer_config.json", e) &&
           read_json(&f->special, a, dir, "special_tokens_map.json", e) &&
           read_json(&f->added, a, dir, "added_tokens.json", e);
}

static bool apply_files(Source *s, const char *dir, const Files *f, Error *e) {
    const Json *config = root(&f->tokenizer);
    Vocab *v = &s->vocab;
    Names names = { NULL, -1, -1, -1 };
    bool inflm;
    if (!read_pieces(s, dir, e)) return false;
    make_rows(s);
    if (!read_added(s, root(&f->added), e)) return fail_in(e, f->added.path);
    if (!read_decoder(s, config, e) || !read_class(v, config, &inflm, e) ||
        !read_template(s, config, e))
        return fail_in(e, f->tokenizer.path);
    name_unused(s);
    bool ok = name_index(&names.index, v->token, (uint64_t)v->n, sizeof *v->token, "token", e) ||
              fail_in(e, dir);
    ok = ok && (read_names(s, config, &names, e) || fail_in(e, f->tokenizer.path)) &&
         (read_names(s, root(&f->special), &names, e) || fail_in(e, f->special.path)) &&
         read_template_file(s, dir, e) && read_ids(v, f, &names, inflm, e) &&
         (vocab_check(v, e) || fail_in(e, dir));
    free((void *)names.index);
    return ok;
}

bool vocab_from_hf(Source *s, const char *dir, Error *e) {
    Files f;
    memset(&f, 0, sizeof f);
    bool ok = read_files(&f, &s->arena, dir, e) && apply_files(s, dir, &f, e);
    json_free(&f.config.doc);
    json_free(&f.generation.doc);
    json_free(&f.tokenizer.doc);
    json_free(&f.special.doc);
    json_free(&f.added.doc);
    return ok;
}
