/* chats.c: `./refine instruct --from CHATS.jsonl`, instructions that real people have written.
 *
 *     ./refine instruct --from wildchat.jsonl --from lmsys.jsonl > real.jsonl
 *     ./refine instruct --from chats.jsonl --turns all --lang en,de > talks.jsonl
 *
 * What to know first: OpenCoder's RealUser part (arXiv 2411.04905, section 4.1) takes questions
 * about code out of collections of conversations; there a model chose and cleaned them, here it is
 * rules of thumb, in this order, each with its reason in the statistics:
 *
 *     marked       toxic, redacted or flagged by a moderation, as the data set says
 *     turns        a question and its answer, or with --turns all all of them in their order
 *     language     what the data set says, else by the characters
 *     code         a fenced block, or two different words of programming in the question
 *     size         of question and answer; an answer cut off in a fenced block; a refusal
 *
 * and then those of judge.c: benchmarks, and near duplicates among the questions.
 *
 * A line is a conversation as in WildChat and LMSYS-Chat-1M ("conversation" of role and content),
 * ShareGPT and Infinity-Instruct ("conversations" of from and value), others ("messages") or a pair
 * (instruction, input, output; prompt, response). Test: tests/test_instruct.py. */

#include "instruct.h"
#include "rules.h" /* rule_file_speech */

static const char *languages = "en,zh", *turns = "first";
static bool any_topic;
static int64_t min_ask = 12, max_ask = 8000, min_answer = 20, max_answer = 16000;

static const Option options[] = {
    { 0, "lang", NULL, "LIST", OPT_TEXT, &languages, 0, 0,
      "--from: languages as en,zh,German; or all [en,zh]" },
    { 0, "turns", NULL, "WHICH", OPT_TEXT, &turns, 0, 0,
      "--from: first, a pair; or all, as \"messages\" [first]" },
    { 0, "any-topic", NULL, NULL, OPT_FLAG, &any_topic, 0, 0, "--from: not about code alone" },
    { 0, "min-ask", NULL, "N", OPT_INT, &min_ask, 1, 1 << 24, "--from: bytes of a question" },
    { 0, "max-ask", NULL, "N", OPT_INT, &max_ask, 1, 1 << 24, "--from: at most" },
    { 0, "min-answer", NULL, "N", OPT_INT, &min_answer, 1, 1 << 24, "--from: bytes of an answer" },
    { 0, "max-answer", NULL, "N", OPT_INT, &max_answer, 1, 1 << 24, "--from: at most" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

Output *chats_spool;

enum { USER, ASSISTANT, SYSTEM, MOST_TURNS = 512 };
typedef struct {
    int role;
    Str text;
} Turn;

/* ------------------------------------------------------------------------------------------------
 * 1. Turns */

static Str text_of(const Json *j, const char *const *keys, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const Json *x = json_get(j, keys[i]);
        if (x && x->type == J_STRING) return x->str;
    }
    return (Str){ "", 0 };
}
#define TEXT_OF(j, ...)                                                                            \
    text_of(j, (const char *const[]){ __VA_ARGS__ },                                               \
            sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static int role_of(Str name) {
    static const struct {
        const char *name;
        int role;
    } known[] = {
        { "user", USER },           { "human", USER },      { "prompter", USER },
        { "assistant", ASSISTANT }, { "gpt", ASSISTANT },   { "chatgpt", ASSISTANT },
        { "bot", ASSISTANT },       { "model", ASSISTANT }, { "system", SYSTEM },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(name, known[i].name)) return known[i].role;
    return -1;
}

static bool add_turn(Turn *t, int *n, int role, Str text) {
    if (*n == MOST_TURNS) return false;
    t[(*n)++] = (Turn){ role, text };
    return true;
}

/* The turns of a conversation; NULL, or why there are none. */
static const char *read_turns(const Json *root, Turn *t, int *n) {
    static const char *const lists[] = { "conversation", "conversations", "messages", "items" };
    const Json *list = NULL;
    *n = 0;
    for (size_t i = 0; i < sizeof lists / sizeof *lists && !list; i++)
        list = json_get(root, lists[i]);
    if (!list) {
        Str ask = TEXT_OF(root, "instruction", "prompt", "question", "query");
        Str answer = TEXT_OF(root, "output", "response", "completion", "answer");
        if (!ask.n || !answer.n) return "no conversation";
        add_turn(t, n, USER, ask);
        add_turn(t, n, ASSISTANT, answer);
        return NULL;
    }
    if (list->type != J_ARRAY || !list->n) return "no conversation";
    for (const Json *x = json_first(list); x; x = json_next(list, x)) {
        int role = role_of(TEXT_OF(x, "role", "from"));
        Str text = TEXT_OF(x, "content", "value", "text");
        if (role < 0) return "a turn by nobody known";
        if (role == SYSTEM && *n) return "a system message within";
        if (role != SYSTEM && !text.n) return "a turn without text";
        if (!add_turn(t, n, role, text)) return "more than 512 turns";
    }
    return NULL;
}

/* Leaves a question and an answer in turn, from *t on; NULL, or why that cannot be. */
static const char *pair_turns(Turn **t, int *n) {
    if (*n && (*t)->role == SYSTEM && (!(*t)->text.n || strcmp(turns, "all"))) ++*t, --*n;
    int first = *n && (*t)->role == SYSTEM, k = first;
    if (*n == first || (*t)[first].role != USER) return "begins without a question";
    while (k < *n && (*t)[k].role == (k - first) % 2) k++; /* USER 0, ASSISTANT 1 */
    k -= (k - first) % 2;
    if (k == first) return "a question without an answer";
    *n = strcmp(turns, "all") ? first + 2 : k;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Rules */

static bool is_true(const Json *j, const char *key) {
    const Json *x = json_get(j, key);
    return x && x->type == J_BOOL && x->integer;
}

static const char *marked(const Json *root) {
    const Json *checks = json_get(root, "openai_moderation");
    if (is_true(root, "toxic")) return "marked as toxic";
    if (is_true(root, "redacted")) return "marked as redacted";
    if (checks && checks->type == J_ARRAY)
        for (const Json *x = json_first(checks); x; x = json_next(checks, x))
            if (is_true(x, "flagged")) return "marked by a moderation";
    return NULL;
}

static bool same_word(Str a, const char *b) {
    return a.n == strlen(b) && !strncasecmp(a.s, b, a.n);
}

static bool is_listed(const char *name) {
    for (const char *p = languages; *p;) {
        Str word = { p, strcspn(p, ",") };
        if (same_word(word, name) || same_word(word, "all")) return true;
        p += word.n + (p[word.n] == ',');
    }
    return false;
}

/* A language is wanted by its name or its code of two letters; zh-CN is zh. */
static bool wanted_language(const Json *root, Str ask) {
    static const char *const names[][2] = {
        { "en", "English" },    { "zh", "Chinese" }, { "de", "German" },   { "fr", "French" },
        { "es", "Spanish" },    { "ru", "Russian" }, { "ja", "Japanese" }, { "ko", "Korean" },
        { "pt", "Portuguese" }, { "it", "Italian" },
    };
    char name[32];
    RuleFile f = { .text = ask };
    Str said = TEXT_OF(root, "language", "langdetect", "lang");
    if (!said.n) {
        size_t latin = 0, other = 0;
        for (size_t i = 0; i < ask.n; i++) {
            latin += isalpha((uint8_t)ask.s[i]) != 0;
            other += (uint8_t)ask.s[i] >= 192; /* the first byte of a character */
        }
        rule_file_speech(&f);
        said = str_of(f.chinese ? "zh" : latin >= 9 * other ? "en" : "other");
    }
    snprintf(name, sizeof name, "%.*s", (int)(said.n < 31 ? said.n : 31), said.s);
    if (is_listed(name)) return true;
    if (strchr(name, '-')) *strchr(name, '-') = 0;
    if (is_listed(name)) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 2; k++)
            if (!strcasecmp(name, names[i][k]) && is_listed(names[i][1 - k])) return true;
    return false;
}

static size_t fences(Str s) {
    size_t n = 0;
    for (const char *p = s.s, *end = s.s + s.n; (p = memmem(p, (size_t)(end - p), "```", 3)); n++)
        p += 3;
    return n;
}

/* Two different ones of these make a question one about code. */
static const char *const code_words[] = {
    "python",    "javascript", "typescript", "java",      "c++",       "c#",       "rust",
    "golang",    "php",        "ruby",       "kotlin",    "swift",     "html",     "css",
    "sql",       "bash",       "matlab",     "regex",     "json",      "xml",      "api",
    "react",     "django",     "flask",      "pandas",    "numpy",     "pytorch",  "tensorflow",
    "docker",    "git",        "linux",      "code",      "coding",    "program",  "programming",
    "function",  "method",     "class",      "script",    "algorithm", "array",    "string",
    "variable",  "loop",       "recursion",  "recursive", "compile",   "compiler", "debug",
    "bug",       "exception",  "error",      "stack",     "database",  "query",    "library",
    "framework", "implement",  "parse",      "thread",    "pointer",   "sort",     "integer",
    "leetcode",  "unit",       "refactor",   "syntax",
};

/* Does a word of the list, or its plural, stand at the beginning of s and end there? */
static bool is_word(Str s, const char *word) {
    size_t n = strlen(word);
    if (s.n < n || (s.s[0] | 32) != (word[0] | 32) || strncasecmp(s.s, word, n)) return false;
    if (s.n > n && s.s[n] == 's') n++;
    return s.n == n || !isalnum((uint8_t)s.s[n]);
}

static bool is_code(Str ask, Str answer) {
    enum { N = sizeof code_words / sizeof *code_words };
    bool seen[N] = { false };
    int hits = 0;
    if (fences(ask) || fences(answer)) return true;
    for (size_t at = 0; at < ask.n && hits < 2; at++) {
        if (at && isalnum((uint8_t)ask.s[at - 1])) continue;
        for (int i = 0; i < N; i++) {
            if (seen[i] || !is_word((Str){ ask.s + at, ask.n - at }, code_words[i])) continue;
            seen[i] = true;
            hits++;
        }
    }
    return hits >= 2;
}

static bool is_refusal(Str s) {
    static const char *const starts[] = {
        "I'm sorry, but",   "I am sorry, but",         "I\xE2\x80\x99m sorry, but",
        "I apologize, but", "Sorry, but I can",        "I cannot assist",
        "I can't assist",   "As an AI language model", "As an AI model",
    };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (s.n >= strlen(starts[i]) && !strncasecmp(s.s, starts[i], strlen(starts[i])))
            return true;
    return false;
}

/* Of every question and answer. */
static const char *size_fault(const Turn *t, int n) {
    for (int i = 0; i < n; i++) {
        int64_t bytes = (int64_t)t[i].text.n;
        if (t[i].role == USER && (bytes < (i < 2 ? min_ask : 1) || bytes > max_ask))
            return bytes > max_ask ? "question is long" : "question is short";
        if (t[i].role != ASSISTANT) continue;
        if (bytes < min_answer || bytes > max_answer)
            return bytes > max_answer ? "answer is long" : "answer is short";
        if (fences(t[i].text) % 2) return "answer is cut off";
        if (is_refusal(t[i].text)) return "answer is a refusal";
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 3. The stage */

/* What a question is about, in a member of its own of a pair, or empty. */
static Str input_of(const Json *root, const Turn *ask) {
    bool pair = ask->text.s == TEXT_OF(root, "instruction").s;
    return pair ? TEXT_OF(root, "input") : str_of("");
}

/* `ask` and `input`: the first question as a pair has it, in two members. */
static void put_turns(Buf *line, const Json *root, const Turn *t, int n, Str ask, Str input) {
    static const char *const role[] = { "user", "assistant", "system" };
    json_open(line, '{');
    if (strcmp(turns, "all")) {
        put_member(line, "instruction", ask);
        put_member(line, "input", input);
        put_member(line, "output", t[1].text);
    } else {
        json_put_key(line, "messages");
        json_open(line, '[');
        for (int i = 0; i < n; i++) {
            json_open(line, '{');
            put_member(line, "role", str_of(role[t[i].role]));
            json_put_key(line, "content");
            json_put_str(line, t[i].text);
            json_close(line, '}');
        }
        json_close(line, ']');
    }
    put_member(line, "language", TEXT_OF(root, "language", "langdetect", "lang"));
    put_member(line, "source", str_of("chat"));
    put_member(line, "id", TEXT_OF(root, "conversation_hash", "conversation_id", "id"));
    put_member(line, "model", TEXT_OF(root, "model"));
    json_close(line, '}');
}

static void *chats_open(int n_threads) {
    RuleFile f = { .text = str_of("") };
    (void)n_threads;
    if (strcmp(turns, "first") && strcmp(turns, "all"))
        die_usage("--turns: '%s', expected first or all", turns);
    rule_file_speech(&f); /* fills its tables, before there are threads */
    return NULL;
}

static bool chats_process(void *state, int thread, Document *d) {
    const Json *root = d->json.node;
    Turn space[MOST_TURNS], *t = space;
    int n;
    (void)state, (void)thread;
    const char *why = marked(root);
    if (!why) why = read_turns(root, t, &n);
    if (!why) why = pair_turns(&t, &n);
    if (why) return document_drop(d, why);
    int first = t->role == SYSTEM;
    Str ask = t[first].text, input = input_of(root, &t[first]);
    if (input.n) { /* one question, as tokenizer pack makes of the two */
        buf_add(&d->scratch, ask.s, ask.n);
        buf_add(&d->scratch, "\n", 1);
        buf_add(&d->scratch, input.s, input.n);
        t[first].text = (Str){ d->scratch.data, d->scratch.n };
    }
    if (!wanted_language(root, t[first].text)) return document_drop(d, "other language");
    if (!any_topic && !is_code(t[first].text, t[first + 1].text))
        return document_drop(d, "not about code");
    if ((why = size_fault(t, n))) return document_drop(d, why);
    Buf line = { NULL, 0, 0 }, more = { NULL, 0, 0 };
    put_turns(&line, root, t, n, ask, input);
    for (int i = first + 1; i < n; i++) {
        buf_add(&more, t[i].text.s, t[i].text.n);
        buf_add(&more, "\n", 1);
    }
    candidate_put(&d->keys,
                  &(Candidate){ .text = t[first].text,
                                .more = { more.data, more.n },
                                .name = TEXT_OF(root, "conversation_hash", "conversation_id", "id"),
                                .program = { "", 0 },
                                .tests = { "", 0 },
                                .stub = { "", 0 },
                                .line = { line.data, line.n } });
    buf_free(&line), buf_free(&more);
    return true;
}

static bool chats_in_order(void *state, Document *d) {
    (void)state;
    output_write(chats_spool, d->keys.data, d->keys.n);
    return true;
}

const Stage chats_stage = { "chats",        "",  "", options, chats_open, chats_process,
                            chats_in_order, NULL };

bool load_chat(const Source *s, Document *d, Error *e) {
    (void)s;
    d->size = (int64_t)d->raw.n;
    return load_object(d, e);
}
