/* instruct.c: `./refine instruct`, instructions and answers from functions and their docstrings.
 *
 *     ./refine read SRC/ | ./refine instruct > pairs.jsonl               all good docstrings
 *     ./refine instruct clean.jsonl --level doctest > pairs.jsonl        what passes its examples
 *     ./refine instruct --from chats.jsonl > pairs.jsonl                 real questions: chats.c
 *     ./tokenizer pack pairs.jsonl -o pairs.tok --tokenizer vocab.gguf
 *
 * What to know first: a docstring says what its function is to do, so it is an instruction whose
 * answer is the function without it. CPython finds the functions (functions.py), the rules here
 * choose among them, judge.c tries out their examples and drops duplicates. An answer has the
 * imports and literals of the module that it needs; what else it needs of its module makes it
 * useless alone. How an instruction is worded is drawn by seed and answer, so that a model does not
 * learn one sentence; the same files give the same pairs. Test: tests/test_instruct.py. */

#include "instruct.h"
#include "parsers.h"

static const char *level = "docstring";
static TextList chats;
static bool methods, partial;
static int64_t min_lines = 2, max_lines = 60, min_doc = 20, max_doc = 1000, seed = 1;

static const Option own[] = {
    { 0, "level", NULL, "NAME", OPT_TEXT, &level, 0, 0,
      "docstring: every good docstring; doctest: those whose examples pass [docstring]" },
    { 0, "methods", NULL, NULL, OPT_FLAG, &methods, 0, 0,
      "methods of classes too, which are not run" },
    { 0, "partial", NULL, NULL, OPT_FLAG, &partial, 0, 0,
      "also functions that need others of their module" },
    { 0, "min-lines", NULL, "N", OPT_INT, &min_lines, 1, 1 << 20, "lines of an answer, at least" },
    { 0, "max-lines", NULL, "N", OPT_INT, &max_lines, 1, 1 << 20, "at most" },
    { 0, "min-doc", NULL, "N", OPT_INT, &min_doc, 1, 1 << 20, "bytes of a description, at least" },
    { 0, "max-doc", NULL, "N", OPT_INT, &max_doc, 1, 1 << 20, "at most" },
    { 's', "seed", NULL, "N", OPT_INT, &seed, 0, 9e15, "of the wording" },
    { 0, "from", NULL, "FILE", OPT_LIST, &chats, 0, 0,
      "conversations instead of source code; repeatable; - reads stdin" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine instruct [FILE.jsonl[.zst]...] [options]    pairs from docstrings of Python\n"
    "       refine instruct --from CHATS.jsonl [options]       pairs from real conversations\n"
    "Lines of {\"instruction\", \"output\", ...} for tokenizer pack. Examples:\n"
    "  ./refine read SRC/ | ./refine instruct > pairs.jsonl\n"
    "  ./refine instruct clean.jsonl --level doctest --against HumanEval.jsonl -o pairs.jsonl\n"
    "  ./refine instruct --from wildchat.jsonl --lang en,zh > pairs.jsonl\n"
    "What is left out is counted by reason on stderr and in --stats; data/README.md has the\n"
    "rules.\n";

/* ------------------------------------------------------------------------------------------------
 * 1. Rules. Those about the structure of a function are in functions.py. */

static size_t count_lines(Str s) {
    size_t n = s.n > 0;
    for (size_t i = 0; i < s.n; i++) n += s.s[i] == '\n';
    return n;
}

static bool has(Str s, const char *word) { return memmem(s.s, s.n, word, strlen(word)) != NULL; }

/* Is it a sentence of a language: words, of letters mostly, without markup? */
static bool is_prose(Str s) {
    static const char *const markup[] = { ">>>", "::", ":param", "@param", ".. ", "</", "\\" };
    size_t letters = 0, blanks = 0;
    for (size_t i = 0; i < s.n; i++) {
        letters += isalpha((uint8_t)s.s[i]) || (uint8_t)s.s[i] >= 128;
        blanks += s.s[i] == ' ';
    }
    for (size_t i = 0; i < sizeof markup / sizeof *markup; i++)
        if (has(s, markup[i])) return false;
    uint8_t first = s.n ? (uint8_t)s.s[0] : 0;
    bool begins = isalnum(first) || first >= 128 || (first && strchr("`'\"*(", first));
    return begins && (blanks >= 2 || letters > 3 * s.n / 4) && (letters + blanks) * 4 >= s.n * 3;
}

/* Does it speak of what is not there? (In parts, because make check looks for these words here.) */
static bool is_unfinished(Str s) {
    static const char *const words[] = { "TO"
                                         "DO",
                                         "FIX"
                                         "ME",
                                         "XX"
                                         "X",
                                         "eprecated",
                                         "ot implemented",
                                         "ot yet implemented" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (has(s, words[i])) return true;
    return false;
}

typedef struct {
    Str name, owner, start, signature, doc, code, shown, program, tests, why;
    int64_t line;
    bool alone;
} Function;

/* Why a function gives no pair; NULL: it does. */
static const char *fault(const Function *f, bool tested) {
    static const char *const known[] = {
        "no docstring",          "empty body",
        "nested in a function",  "special method or test",
        "stub by its decorator", "docstring not on lines of its own",
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(f->why, known[i])) return known[i];
    if (f->why.n) return "other";
    if (f->owner.n && (!methods || tested)) return "method";
    if (!f->alone && !partial) return "needs other parts of its module";
    if (!is_prose(f->doc)) return "docstring is no prose";
    if (is_unfinished(f->doc)) return "docstring speaks of unfinished work";
    if ((int64_t)f->doc.n < min_doc) return "docstring is short";
    if ((int64_t)f->doc.n > max_doc) return "docstring is long";
    if ((int64_t)count_lines(f->code) < min_lines) return "function is short";
    if ((int64_t)count_lines(f->code) > max_lines) return "function is long";
    return tested && !f->tests.n ? "no examples in its docstring" : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Wording: {s} the signature, {n} the name, {o} the class, {d} the description */

static void add_text(Buf *b, const char *before, Str s, const char *after) {
    buf_add(b, before, strlen(before));
    buf_add(b, s.s, s.n);
    buf_add(b, after, strlen(after));
}

static const char *const wordings[] = {
    "Write a Python function `{s}`: {d}",
    "Implement `{s}` in Python. {d}",
    "{d}\n\nWrite this as a Python function with the signature `{s}`.",
    "I need a Python function called `{n}`. {d} Its signature is `{s}`.",
    "Please write the function `{s}` in Python.\n\n{d}",
    "How would you write `{s}` in Python? {d}",
    "Write Python code for this.\n\nSignature: {s}\nDescription: {d}",
    "Complete this Python function.\n\n```python\n{b}{s}:\n    \"\"\"{d}\"\"\"\n```",
};
static const char *const method_wordings[] = {
    "Write the method `{s}` of a Python class `{o}`: {d}",
    "In Python, implement `{s}` for the class `{o}`. {d}",
    "{d}\n\nWrite this as a method of the Python class `{o}`, with the signature `{s}`.",
    "My Python class `{o}` needs a method `{s}`. {d} Please write it.",
};

static void add_sentence(Buf *b, Str doc) {
    buf_add(b, doc.s, doc.n);
    if (doc.n && (isalnum((uint8_t)doc.s[doc.n - 1]) || strchr(")`'\"", doc.s[doc.n - 1])))
        buf_add(b, ".", 1);
}

static void add_wording(Buf *b, const char *form, const Function *f) {
    for (const char *p = form; *p; p++) {
        if (p[0] != '{' || !p[1] || p[2] != '}') {
            buf_add(b, p, 1);
            continue;
        }
        Str s = p[1] == 's'   ? f->signature
                : p[1] == 'n' ? f->name
                : p[1] == 'o' ? f->owner
                              : f->start;
        if (p[1] == 'd')
            add_sentence(b, f->doc);
        else
            buf_add(b, s.s, s.n);
        p += 2;
    }
}

/* The instruction: a wording by lot, and in half of the cases the first examples. */
static void instruction(Buf *b, const Function *f) {
    uint64_t random = mix64((uint64_t)seed + 1);
    random = mix64(random ^ crc32c(crc32c(0, f->code.s, f->code.n), f->doc.s, f->doc.n));
    const char *const *form = f->owner.n ? method_wordings : wordings;
    size_t n = f->owner.n ? sizeof method_wordings / sizeof *method_wordings
                          : sizeof wordings / sizeof *wordings;
    if (has(f->doc, "\"\"")) n -= !f->owner.n; /* the last wording has it in quotes */
    add_wording(b, form[random % n], f);
    if (f->shown.n && random >> 63)
        add_text(b, "\n\nFor example:\n\n```python\n", f->shown, "\n```");
}

/* ------------------------------------------------------------------------------------------------
 * 3. The first pass: a file of Python becomes lines for judge.c */

static void put_pair(const Function *f, bool tested, Document *d) {
    Buf text = { NULL, 0, 0 }, output = { NULL, 0, 0 }, line = { NULL, 0, 0 },
        name = { NULL, 0, 0 };
    instruction(&text, f);
    add_text(&output, "```python\n", f->code, "\n```");
    json_open(&line, '{');
    put_member(&line, "instruction", (Str){ text.data, text.n });
    put_member(&line, "output", (Str){ output.data, output.n });
    put_member(&line, "language", str_of("Python"));
    put_member(&line, "source", str_of(tested ? "doctest" : "docstring"));
    put_member(&line, "repo", d->repo);
    put_member(&line, "path", d->path);
    put_member(&line, "name", f->name);
    json_put_key(&line, "line");
    json_put_int(&line, f->line);
    json_close(&line, '}');
    buf_printf(&name, "%.*s:%lld %.*s", STR(d->path), (long long)f->line, STR(f->name));
    candidate_put(&d->keys, &(Candidate){ .text = f->code,
                                          .more = { text.data, text.n },
                                          .name = { name.data, name.n },
                                          .program = tested ? f->program : str_of(""),
                                          .tests = tested ? f->tests : str_of(""),
                                          .stub = str_of(""),
                                          .line = { line.data, line.n } });
    buf_free(&text), buf_free(&output), buf_free(&line), buf_free(&name);
}

static bool read_function(const Json *j, Function *f) {
    Error e;
    const Str none = { "", 0 };
    *f = (Function){ none, none, none, none, none, none, none, none, none, none, 0, false };
    return json_str(j, "name", true, &f->name, &e) && json_str(j, "why", true, &f->why, &e) &&
           json_int(j, "line", true, 0, INT64_MAX, &f->line, &e) &&
           json_str(j, "owner", false, &f->owner, &e) &&
           json_str(j, "start", false, &f->start, &e) &&
           json_str(j, "signature", false, &f->signature, &e) &&
           json_str(j, "doc", false, &f->doc, &e) && json_str(j, "code", false, &f->code, &e) &&
           json_str(j, "shown", false, &f->shown, &e) &&
           json_str(j, "program", false, &f->program, &e) &&
           json_str(j, "tests", false, &f->tests, &e) &&
           json_bool(j, "alone", false, &f->alone, &e);
}

typedef struct {
    Parsers **parsers; /* a thread's */
    JsonDoc *answer;
    int n_threads;
    bool tested;
    Output *spool;
} Finder;
static Finder finder;

static void *finder_open(int n_threads) {
    finder.n_threads = n_threads;
    finder.parsers = xcalloc((size_t)n_threads, sizeof *finder.parsers, "the parsers");
    finder.answer = xcalloc((size_t)n_threads, sizeof *finder.answer, "the parsers");
    for (int i = 0; i < n_threads; i++) finder.parsers[i] = parsers_open(false);
    if (!parsers_python(finder.parsers[0], 'f', str_of(""), &finder.answer[0]))
        die("python3: does not start, expected CPython to find functions with");
    return &finder;
}

/* What says that it is another language is left out; what says nothing is tried. */
static bool is_python(const Document *d) {
    const Language *l = d->path.n ? language_of(d->path) : NULL;
    if (d->language.n) return str_is(d->language, "Python");
    return l ? !strcmp(l->name, "Python") : !d->path.n;
}

static bool finder_process(void *state, int thread, Document *d) {
    Finder *x = state;
    Function f;
    JsonDoc *answer = &x->answer[thread];
    if (!is_python(d)) return document_drop(d, "not Python");
    if (!parsers_python(x->parsers[thread], 'f', d->content, answer))
        return document_drop(d, "the parser gave no answer");
    const Json *list = json_get(answer->node, "functions");
    if (!list) return document_drop(d, "does not parse");
    for (const Json *j = json_first(list); j; j = json_next(list, j)) {
        if (!read_function(j, &f)) continue;
        const char *why = fault(&f, x->tested);
        document_count(d, why ? why : "functions that fit");
        if (!why) put_pair(&f, x->tested, d);
    }
    return true;
}

static bool finder_in_order(void *state, Document *d) {
    output_write(((Finder *)state)->spool, d->keys.data, d->keys.n);
    return true;
}

static void finder_close(void *state, Buf *stats) {
    Finder *x = state;
    (void)stats;
    for (int i = 0; i < x->n_threads; i++) {
        parsers_close(x->parsers[i]);
        json_free(&x->answer[i]);
    }
    free(x->parsers);
    free(x->answer);
}

static const Stage finder_stage = {
    "functions", "", "", NULL, finder_open, finder_process, finder_in_order, finder_close
};

/* ------------------------------------------------------------------------------------------------
 * 4. The command */

/* The files to be read, which are no output and no mixture. */
static int inputs(const char **path, int n) {
    if (chats.n && n) die_usage("--from: given with '%s', expected one of them", path[0]);
    for (int i = 0; i < chats.n; i++) path[n++] = chats.text[i];
    for (int i = 0; common.out && i < n; i++)
        if (same_file(path[i], common.out))
            die_usage("%s: is read and to be written, expected another name", common.out);
    return n;
}

int run_instruct(int argc, char **argv) {
    Option table[80];
    const char *path[1024];
    judge_gather(table, 80, own, chats_stage.options);
    int n = refine_options(argc, argv, table, usage, path, 1024);
    if (common.resume) die_usage("--resume: given with instruct, which must see all documents");
    finder.tested = !strcmp(level, "doctest");
    if (!finder.tested && strcmp(level, "docstring"))
        die_usage("--level: '%s', expected docstring or doctest", level);
    if (chats.n && finder.tested) die_usage("--level doctest: given with --from, expected source");
    Pipeline first = { .n_stages = 1, .what = "instruct", .verbose = common.verbose };
    first.stage[0] = chats.n ? &chats_stage : &finder_stage;
    n = inputs(path, n);
    first.in = source_lines(path, n);
    if (chats.n) first.in->load = load_chat;
    judge_open(finder.tested);
    finder.spool = chats_spool = output_spool();
    pipeline_run(&first);
    source_close(first.in);
    judge_candidates(&first, finder.spool, finder.tested);
    pipeline_free(&first);
    return 0;
}
