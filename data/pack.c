/* pack.c: `./tokenizer pack`, from text to a .tok shard (shards.h) that ./train reads.
 *
 *     ./tokenizer pack SRC_DIR -o train.tok --tokenizer vocab.gguf        a file, a document
 *     ./tokenizer pack texts.jsonl -o train.tok --tokenizer vocab.gguf    a line, a document
 *     ./tokenizer pack chats.jsonl -o sft.tok --tokenizer vocab.gguf      a line, a conversation
 *
 * What to know first: documents are put in an order (shuffled by seed, or as they came); batches of
 * them are tokenized by all threads and written in that order, so that the file has the same bytes
 * for any number of threads, and memory is that of one batch. Special tokens in a text are plain
 * text: nobody ends a document, or speaks for the assistant, by writing <|im_end|>.
 *
 * A text is its tokens and the end id. A conversation follows OpenCoder's chat template and what
 * its training script makes of it (sft/tools/finetune.py in OpenCoder-llm): answers end with a line
 * feed and <|im_end|>, and only they are learned. Marked NO_LOSS is what has no ^ below:
 *
 *   <|im_start|> system \n You are ... <|im_end|> \n
 *   <|im_start|> user \n How ... ? <|im_end|> \n
 *   <|im_start|> assistant \n Like ... this. \n <|im_end|> \n <|im_start|> user ... <end id>
 *                             ^    ^   ^    ^   ^
 * "assistant\nLike ... this.\n" is tokenized in one piece, and as many of its tokens are marked as
 * "assistant\n" alone has: an answer that begins with a line feed shifts that border, as it does
 * there. Test: tests/test_pack.py, tests/test_shards.c. */

#include "../shards.h" /* ShardWriter, NO_LOSS */
#include "texts.h"     /* Texts, Words */

/* What became of a part. */
enum { DONE, BAD, EMPTY, NO_ANSWER, MIXED };

typedef struct {
    int state;
    uint32_t *token; /* of a part that is DONE */
    size_t n;
    uint64_t n_bytes; /* of the text */
    Error why;        /* BAD, MIXED */
} Packed;

/* What a thread works with. Words that come again and again are looked up: a word of an OpenCoder
 * vocabulary has the same ids wherever it stands. */
typedef struct {
    JsonDoc doc;
    Words words; /* value: where its ids begin in `known` << 8 | how many */
    Ids known, ids;
    Buf run; /* what is tokenized in one piece */
} Worker;

typedef struct {
    const Tokenizer *t;
    const Vocab *vocab;
    int kind, end, im_start, im_end;
    Ids newline;     /* the ids of "\n" */
    size_t n_header; /* how many ids "assistant\n" has */
} Packer;

static struct {
    const char *out, *tokenizer, *field, *kind;
    bool no_shuffle;
    int64_t threads, seed;
} opt = { .seed = 42 };

/* ------------------------------------------------------------------------------------------------
 * 1. Text to ids */

enum { KNOWN_WORDS = 1 << 18, KNOWN_LENGTH = 64 };

static void encode_word(const Packer *p, Worker *w, const char *s, size_t n) {
    Word *word = words_get(&w->words, s, n);
    if (!word->value) {
        size_t at = w->known.n;
        tokenizer_encode(p->t, s, n, false, &w->known);
        word->value = (uint64_t)at << 8 | (w->known.n - at);
    }
    const int *id = w->known.id + (word->value >> 8);
    for (uint64_t i = 0; i < (word->value & 255); i++) ids_add(&w->ids, id[i]);
}

/* Appends the ids of a text to w->ids. */
static void encode(const Packer *p, Worker *w, Str text) {
    if (!p->vocab->opencoder) {
        tokenizer_encode(p->t, text.s, text.n, false, &w->ids);
        return;
    }
    for (size_t n; text.n; text.s += n, text.n -= n) {
        n = tokenizer_next_word(p->t, text.s, text.n);
        if (n > KNOWN_LENGTH)
            tokenizer_encode(p->t, text.s, n, false, &w->ids);
        else
            encode_word(p, w, text.s, n);
        if (w->words.n < KNOWN_WORDS) continue;
        words_clear(&w->words);
        w->known.n = 0;
    }
}

/* Moves the ids that the worker has gathered into the part's own memory. */
static void keep(const Worker *w, Packed *out) {
    out->n = w->ids.n;
    out->token = xcalloc(out->n, sizeof *out->token, "tokens");
    if (out->n) memcpy(out->token, w->ids.id, out->n * sizeof *out->token);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Conversations */

/* Adds an id that is read and not learned. */
static void add_unlearned(Worker *w, int id) { ids_add(&w->ids, (int)((uint32_t)id | NO_LOSS)); }

/* <|im_start|> role \n content <|im_end|> */
static void add_message(const Packer *p, Worker *w, Str role, Str content, Str more) {
    Buf *run = &w->run;
    bool answer = str_is(role, "assistant");
    add_unlearned(w, p->im_start);
    run->n = 0;
    buf_add(run, role.s, role.n);
    buf_add(run, "\n", 1);
    buf_add(run, content.s, content.n);
    if (more.n) {
        buf_add(run, "\n", 1);
        buf_add(run, more.s, more.n);
    }
    if (answer) buf_add(run, "\n", 1);
    size_t from = w->ids.n;
    encode(p, w, (Str){ run->data, run->n });
    size_t to = answer && w->ids.n - from > p->n_header ? from + p->n_header : w->ids.n;
    for (size_t i = from; i < to; i++) w->ids.id[i] = (int)((uint32_t)w->ids.id[i] | NO_LOSS);
    answer ? ids_add(&w->ids, p->im_end) : add_unlearned(w, p->im_end);
}

/* The line feed between a message and the next. */
static void add_newline(const Packer *p, Worker *w) {
    for (size_t i = 0; i < p->newline.n; i++) add_unlearned(w, p->newline.id[i]);
}

static void add_default_system(const Packer *p, Worker *w) {
    add_message(p, w, str_of("system"), str_of(OPENCODER_SYSTEM), str_of(""));
    add_newline(p, w);
}

/* {"instruction", "input" or not, "output" or "response"} */
static bool add_pair(const Packer *p, Worker *w, const Json *record, Packed *out) {
    Str ask, input = str_of(""), answer;
    const char *key = json_get(record, "output") ? "output" : "response";
    if (!json_str(record, "instruction", true, &ask, &out->why) ||
        !json_str(record, "input", false, &input, &out->why) ||
        !json_str(record, key, true, &answer, &out->why))
        return false;
    out->n_bytes = ask.n + input.n + answer.n;
    add_default_system(p, w);
    add_message(p, w, str_of("user"), ask, input);
    add_newline(p, w);
    add_message(p, w, str_of("assistant"), answer, str_of(""));
    out->state = DONE;
    return true;
}

/* {"messages": [{"role", "content"}, ...]} */
static bool add_messages(const Packer *p, Worker *w, const Json *record, Packed *out) {
    const Json *list;
    if (!json_member(record, "messages", true, J_ARRAY, &list, &out->why)) return false;
    out->state = list->n ? NO_ANSWER : EMPTY;
    for (const Json *m = json_first(list); m; m = json_next(list, m)) {
        Str role, content;
        if (m->type != J_OBJECT)
            return fail(&out->why, "messages: %s among them, expected objects",
                        json_type_name[m->type]);
        if (!json_str(m, "role", true, &role, &out->why) ||
            !json_str(m, "content", true, &content, &out->why))
            return false;
        if (m != json_first(list))
            add_newline(p, w);
        else if (!str_is(role, "system"))
            add_default_system(p, w);
        add_message(p, w, role, content, str_of(""));
        out->n_bytes += content.n;
        if (str_is(role, "assistant")) out->state = DONE;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 3. A part, by any thread */

/* What a record is, -1 for nothing we know. Where it could be both, what is wanted (-1: a chat). */
static int kind_of(const Json *record, int wanted) {
    bool chat = json_get(record, "messages") || json_get(record, "instruction");
    bool text = json_get(record, "content") || json_get(record, "text");
    if (chat && text && wanted >= 0) return wanted;
    return chat ? SHARD_CHAT : text ? SHARD_TEXT : -1;
}

static const char *const kind_name[] = { "text", "chat" };

static bool mixed(const Packer *p, int found, Packed *out) {
    out->state = MIXED;
    return fail(&out->why, "a %s, expected %ss only, as the first was; see --kind",
                kind_name[found], kind_name[p->kind]);
}

static bool pack_chat(const Packer *p, Worker *w, const Part *part, Packed *out) {
    if (!part->doc->line) return mixed(p, SHARD_TEXT, out);
    if (!json_parse(&w->doc, part->raw.s, part->raw.n, &out->why)) return false;
    int found = kind_of(w->doc.node, p->kind);
    if (found == SHARD_TEXT) return mixed(p, found, out);
    if (found < 0)
        return fail(&out->why, "no \"messages\" and no \"instruction\", expected a conversation");
    bool pair = !json_get(w->doc.node, "messages");
    return pair ? add_pair(p, w, w->doc.node, out) : add_messages(p, w, w->doc.node, out);
}

static bool pack_text(const Texts *x, const Packer *p, Worker *w, const Part *part, Packed *out) {
    Str text;
    if (!part_text(x, part, opt.field, &w->doc, &text, &out->why)) {
        bool chat = w->doc.n && !opt.field && kind_of(w->doc.node, p->kind) == SHARD_CHAT;
        return chat ? mixed(p, SHARD_CHAT, out) : false;
    }
    out->n_bytes = text.n;
    out->state = text.n ? DONE : EMPTY;
    encode(p, w, text);
    return true;
}

/* Fills `out` with the tokens of a part, or with what is wrong. */
static void pack_part(const Texts *x, const Packer *p, Worker *w, const Part *part, Packed *out) {
    bool chat = p->kind == SHARD_CHAT;
    w->ids.n = 0;
    memset(out, 0, sizeof *out);
    if (!(chat ? pack_chat(p, w, part, out) : pack_text(x, p, w, part, out))) {
        if (out->state != MIXED) out->state = BAD;
        return;
    }
    if (out->state != DONE) return;
    if (part->last) chat ? add_unlearned(w, p->end) : ids_add(&w->ids, p->end);
    keep(w, out);
}

/* ------------------------------------------------------------------------------------------------
 * 4. All parts, in order */

typedef struct {
    ShardWriter shard;
    uint64_t n_empty, n_no_answer;
} Output;

static void write_part(Texts *x, Output *o, const Part *part, Packed *out) {
    const char *path = x->file[part->doc->file].path;
    uint32_t line = part->doc->line;
    if (out->state == MIXED && line) die("%s:%u: %s", path, line, out->why.text);
    if (out->state == MIXED) die("%s: %s", path, out->why.text);
    if (out->state == BAD) texts_skip(x, path, line, out->why.text);
    o->n_empty += out->state == EMPTY;
    o->n_no_answer += out->state == NO_ANSWER;
    if (out->state == DONE) {
        shard_write(&o->shard, out->token, out->n);
        o->shard.head.n_bytes += out->n_bytes;
    }
    free(out->token);
}

static void pack_all(Texts *x, const Packer *p, Output *o, int n_threads) {
    Part *part = xcalloc(BATCH_PARTS, sizeof *part, "documents");
    Packed *out = xcalloc(BATCH_PARTS, sizeof *out, "documents");
    Worker *worker = xcalloc((size_t)n_threads, sizeof *worker, "documents");
    size_t bytes = ((size_t)n_threads + 2) << 21;
    for (size_t n; (n = texts_batch(x, part, bytes, p->vocab->opencoder));) {
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n; i++) pack_part(x, p, &worker[this_thread()], &part[i], &out[i]);
        for (size_t i = 0; i < n; i++) write_part(x, o, &part[i], &out[i]);
        texts_release(x, part, n);
        texts_progress(x, "packing");
    }
    for (int i = 0; i < n_threads; i++) {
        json_free(&worker[i].doc);
        words_free(&worker[i].words);
        buf_free(&worker[i].run);
        free(worker[i].known.id);
        free(worker[i].ids.id);
    }
    free(worker);
    free(out);
    free(part);
}

/* Fisher and Yates: every order is equally likely; the same one for the same seed. */
static void shuffle(Texts *x, uint64_t seed) {
    uint64_t state = mix64(seed);
    for (size_t i = x->n_docs; i > 1; i--) {
        state += 0x9E3779B97F4A7C15u;
        size_t k = (size_t)(mix64(state) % i);
        Doc d = x->doc[i - 1];
        x->doc[i - 1] = x->doc[k];
        x->doc[k] = d;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 5. The program */

/* SHARD_TEXT or SHARD_CHAT: what --kind says, or what the first record that can be read is. */
static int choose_kind(const Texts *x) {
    JsonDoc doc = { 0 };
    Error e;
    int kind = -1;
    for (int i = 0; opt.kind && i < 2; i++)
        if (!strcmp(opt.kind, kind_name[i])) kind = i;
    if (opt.kind && kind < 0) die_usage("--kind: '%s', expected text or chat", opt.kind);
    if (opt.field && kind == SHARD_CHAT) die_usage("--field with --kind chat, expected text");
    if (opt.field) kind = SHARD_TEXT;
    for (size_t i = 0; kind < 0 && i < x->n_docs; i++) {
        const Doc *d = &x->doc[i];
        const char *s = (const char *)x->file[d->file].map.data;
        if (!d->line)
            kind = SHARD_TEXT;
        else if (json_parse(&doc, s + d->at, d->n, &e))
            kind = kind_of(doc.node, -1);
    }
    json_free(&doc);
    return kind < 0 ? SHARD_TEXT : kind;
}

/* The token that ends documents and can come out of no text. */
static int find_end(const Vocab *v, const char *path, bool chat) {
    int id[] = { vocab_find(v, "<|endoftext|>"), v->eos, vocab_find(v, "</s>") };
    for (int i = 0; i < 3; i++)
        if (id[i] >= 0 && v->type[id[i]] == TOK_CONTROL &&
            !(chat && str_is(v->token[id[i]], "<|im_end|>")))
            return id[i];
    die("%s: no token that ends a document, expected <|endoftext|> or an eos token", path);
}

static void prepare(Packer *p, const Model *m, const Tokenizer *t, int kind) {
    bool chat = kind == SHARD_CHAT;
    Ids header = { 0 };
    *p = (Packer){ .t = t, .vocab = &m->vocab, .kind = kind };
    p->end = find_end(&m->vocab, m->path, chat);
    p->im_start = vocab_find(&m->vocab, "<|im_start|>");
    p->im_end = vocab_find(&m->vocab, "<|im_end|>");
    if (chat && (p->im_start < 0 || p->im_end < 0))
        die("%s: no token %s, expected a vocabulary for chats", m->path,
            p->im_start < 0 ? "<|im_start|>" : "<|im_end|>");
    tokenizer_encode(t, "\n", 1, false, &p->newline);
    tokenizer_encode(t, "assistant\n", 10, false, &header);
    p->n_header = header.n;
    free(header.id);
}

static const Option options[] = {
    { 'o', "output", NULL, "FILE", OPT_TEXT, &opt.out, 0, 0, "the shard, a .tok file" },
    { 0, "tokenizer", NULL, "MODEL", OPT_TEXT, &opt.tokenizer, 0, 0,
      "a GGUF file with the vocabulary" },
    { 0, "kind", NULL, "KIND", OPT_TEXT, &opt.kind, 0, 0,
      "text or chat [what the first record is]" },
    { 0, "field", NULL, "NAME", OPT_TEXT, &opt.field, 0, 0,
      "JSON Lines: where the text is [content, or else text]" },
    { 0, "seed", NULL, "N", OPT_INT, &opt.seed, 0, 9e15, "which order documents are put in" },
    { 0, "no-shuffle", NULL, NULL, OPT_FLAG, &opt.no_shuffle, 0, 0, "keep the order of the input" },
    { 'j', "threads", NULL, "N", OPT_INT, &opt.threads, 0, 1024, "0: all there are" },
    { 0 },
};

static const char usage[] =
    "usage: tokenizer pack IN... -o FILE --tokenizer MODEL    text to a shard for ./train\n"
    "IN: files and directories, a document a file; JSON Lines in files named .jsonl, a document a\n"
    "line: {\"content\"} or {\"text\"}; or conversations: {\"instruction\", \"output\"} or\n"
    "{\"messages\": [{\"role\", \"content\"}, ...]}\n";

static void report(const Texts *x, const Output *o, double begun) {
    const ShardHeader *h = &o->shard.head;
    double bytes = (double)h->n_bytes, time = now_seconds() - begun;
    if (x->n_skipped || x->n_empty || o->n_empty)
        fprintf(stderr, "left out: %llu that cannot be used, %llu empty ones\n",
                (unsigned long long)x->n_skipped, (unsigned long long)x->n_empty + o->n_empty);
    if (o->n_no_answer)
        fprintf(stderr, "left out: %llu conversations without an answer of the assistant\n",
                (unsigned long long)o->n_no_answer);
    fprintf(stderr, "%llu documents, %llu tokens, %llu bytes, %.3f bytes a token, %.1f MB/s\n",
            (unsigned long long)h->n_documents, (unsigned long long)h->n_tokens,
            (unsigned long long)h->n_bytes, bytes / (double)h->n_tokens, bytes / time / 1e6);
}

int vocab_pack_main(int argc, char **argv) {
    const char **path = xcalloc((size_t)argc, sizeof *path, "arguments");
    int n = parse_options(argc, argv, options, usage, path, argc);
    double begun = now_seconds();
    Texts x;
    Model m;
    Packer p;
    Output o = { 0 };
    Error e;
    if (!n) die_usage("pack: no input given, expected files or directories");
    if (!opt.out) die_usage("pack: no -o, expected the file to write");
    if (!opt.tokenizer) die_usage("pack: no --tokenizer, expected a GGUF file");
    if (same_file(opt.out, opt.tokenizer))
        die_usage("%s: is --tokenizer and to be written, expected another name", opt.out);
    model_open_vocab(&m, opt.tokenizer);
    Tokenizer *t = tokenizer_new(&m.vocab, &e);
    if (!t) die("%s: %s", m.path, e.text);
    texts_open(&x, path, n);
    texts_protect(&x, opt.out);
    prepare(&p, &m, t, choose_kind(&x));
    if (!opt.no_shuffle) shuffle(&x, (uint64_t)opt.seed);
    ShardHeader *h = &o.shard.head;
    h->vocab_size = (uint32_t)m.vocab.n;
    h->width = p.kind == SHARD_TEXT && m.vocab.n <= 65535 ? 2 : 4;
    h->end_id = (uint32_t)p.end;
    h->kind = (uint32_t)p.kind;
    h->vocab_crc = vocab_crc(&m.vocab);
    shard_begin(&o.shard, opt.out);
    pack_all(&x, &p, &o, set_threads(opt.threads));
    if (!h->n_documents)
        die("%s: nothing to pack, expected text; %llu cannot be used, %llu are empty", path[0],
            (unsigned long long)x.n_skipped, (unsigned long long)x.n_empty + o.n_empty);
    shard_end(&o.shard);
    report(&x, &o, begun);
    free(p.newline.id);
    texts_close(&x);
    tokenizer_free(t);
    model_close(&m);
    free((void *)path);
    return 0;
}
