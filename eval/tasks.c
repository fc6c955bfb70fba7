/* tasks.c: task files of every benchmark, read into one struct Task.
 *
 * What to know first: a file is JSON Lines, one task a line, or one array of them. What a task is
 * can be told from its members:
 *
 *     members                                     benchmark            an answer is
 *     test_list, test                             MBPP+                a program
 *     test_list                                   MBPP                 a program
 *     question_content, public_test_cases         LiveCodeBench        a program
 *     name, language, prompt, tests               MultiPL-E            what follows the prompt
 *     entry_point, test                           HumanEval, +         what follows the prompt
 *     task_id, prompt, tests                      our plain form       what follows the prompt
 *
 * The plain form, with what may be left out in brackets:
 *
 *     {"task_id": "max/1", "prompt": "int max(int a, int b)\n{\n", ["language": "c",]
 *      "tests": "int main(void) { return max(1, 2) != 2; }", ["solution": "    return ...",]
 *      ["entry_point": "f", "stop": ["\n}"], "timeout": 3, "whole": true]}
 *
 * "tests" is code that stands behind the program (in Python, asserts that call entry_point), or a
 * list of {"input": "1 2\n", "output": "2\n"}: stdin and stdout of the program; with an
 * entry_point, arguments as JSON, one a line, and the result. "whole": the prompt is a
 * description, the answer all of the program. Members that are not known mean nothing.
 * Test: tests/test_evaluate.py. */
#include "eval.h"

const char *const kind_name[N_KINDS] = { "HumanEval", "MBPP",          "MBPP+",
                                         "MultiPL-E", "LiveCodeBench", "plain" };

/* What a reader of one task works with. */
typedef struct {
    Tasks *t;
    Task *task;
    const Json *json;
    Error *e;
    bool base;
} Reader;

/* A text member; absent: "". */
static bool text_of(Reader *r, const char *key, bool required, Str *out) {
    *out = str_of("");
    return json_str(r->json, key, required, out, r->e);
}

/* Members `key` of a list of texts. */
static bool texts_of(Reader *r, const char *key, bool required, Str **out, int *n) {
    const Json *list;
    *n = 0;
    if (!json_member(r->json, key, required, J_ARRAY, &list, r->e)) return false;
    if (!list) return true;
    *out = arena_alloc(&r->t->arena, list->n, sizeof **out, "task");
    for (const Json *x = json_first(list); x; x = json_next(list, x)) {
        if (x->type != J_STRING)
            return fail(r->e, "key %s: %s in it, expected strings", key, json_type_name[x->type]);
        (*out)[(*n)++] = x->str;
    }
    return true;
}

static Str keep(Reader *r, Buf *b) {
    Str s = arena_copy(&r->t->arena, b->data ? b->data : "", b->n);
    buf_free(b);
    return s;
}

/* Parses a document that lives as long as the tasks. NULL: the reason is in e. */
static const Json *add_doc(Tasks *t, Str text, Error *e) {
    JsonDoc d = { 0 };
    if (!json_parse(&d, text.s, text.n, e)) return NULL;
    t->doc = xrealloc(t->doc, t->n_docs + 1, sizeof *t->doc, "tasks");
    t->doc[t->n_docs++] = d; /* its place may move later, but not its nodes and texts */
    return d.node;
}

/* A document within the text member `key`. */
static const Json *add_inner_doc(Reader *r, const char *key, Str text) {
    Error e;
    const Json *j = add_doc(r->t, text, &e);
    if (!j) fail(r->e, "key %s: %.400s", key, e.text);
    return j;
}

/* ------------------------------------------------------------------------------------------------
 * The formats */

static bool read_humaneval(Reader *r) {
    Task *k = r->task;
    k->timeout = 3;
    return text_of(r, "task_id", true, &k->id) && text_of(r, "prompt", true, &k->prompt) &&
           text_of(r, "entry_point", true, &k->entry) && text_of(r, "test", true, &k->tests) &&
           text_of(r, "canonical_solution", false, &k->solution);
}

/* MBPP numbers its tasks; other files name them "Mbpp/2". */
static bool read_number_or_name(Reader *r, const char *key, Str *out) {
    const Json *id = json_get(r->json, key);
    if (!id || !id->is_int) return text_of(r, key, true, out);
    Buf b = { 0 };
    buf_printf(&b, "%lld", (long long)id->integer);
    *out = keep(r, &b);
    return true;
}

/* The imports of a list, a line each. */
static bool read_imports(Reader *r, Buf *out) {
    Str *import;
    int n;
    if (!texts_of(r, "test_imports", false, &import, &n)) return false;
    for (int i = 0; i < n; i++) {
        buf_add(out, import[i].s, import[i].n);
        buf_add(out, "\n", 1);
    }
    return true;
}

/* The first function that an assert calls and the solution defines, "" if there is none. */
static Str called_function(Str assertion, Str solution) {
    for (size_t i = 0, n; i < assertion.n; i += n + 1) {
        const char *name = assertion.s + i;
        Buf def = { 0 };
        for (n = 0; i + n < assertion.n && (isalnum((uint8_t)name[n]) || name[n] == '_');) n++;
        if (!n) continue;
        buf_printf(&def, "def %.*s", (int)(n < 200 ? n : 200), name);
        const char *hit = solution.n ? memmem(solution.s, solution.n, def.data, def.n) : NULL;
        bool whole = hit && hit + def.n < solution.s + solution.n && strchr(" (", hit[def.n]);
        buf_free(&def);
        if (whole) return (Str){ name, n };
    }
    return str_of("");
}

static bool read_mbpp(Reader *r) {
    Task *k = r->task;
    Buf tests = { 0 };
    Str test;
    k->timeout = 3;
    k->whole = true;
    if (!read_number_or_name(r, "task_id", &k->id) ||
        !text_of(r, json_get(r->json, "text") ? "text" : "prompt", true, &k->prompt) ||
        !text_of(r, "code", false, &k->solution) ||
        !text_of(r, "test_setup_code", false, &k->setup) ||
        !text_of(r, "entry_point", false, &k->entry) || !text_of(r, "test", false, &test) ||
        !texts_of(r, "test_list", true, &k->list, &k->n_list))
        return false;
    if (!k->n_list) return fail(r->e, "key test_list: empty, expected tests");
    if (!read_imports(r, &tests)) return false;
    if (!k->entry.n) k->entry = called_function(k->list[0], k->solution);
    if (k->kind == MBPP_PLUS && !r->base) {
        buf_add(&tests, test.s, test.n);
    } else {
        for (int i = 0; i < k->n_list; i++) {
            buf_add(&tests, k->list[i].s, k->list[i].n);
            buf_add(&tests, "\n", 1);
        }
    }
    k->tests = keep(r, &tests);
    return true;
}

static bool read_language(Reader *r, const Language **out) {
    Str name;
    if (!text_of(r, "language", false, &name)) return false;
    if (name.n) *out = language_find(name);
    return *out || fail(r->e, "key language: %.*s, expected one that --languages lists", STR(name));
}

static bool read_multiple(Reader *r) {
    Task *k = r->task;
    k->timeout = 15;
    if (!text_of(r, "name", true, &k->id) || !text_of(r, "prompt", true, &k->prompt) ||
        !read_language(r, &k->language) || !text_of(r, "tests", true, &k->tests) ||
        !text_of(r, "solution", false, &k->solution) ||
        !texts_of(r, "stop_tokens", false, &k->stop, &k->n_stop))
        return false;
    if (!strcmp(k->language->name, "go")) k->language = language_find(str_of("go_test"));
    return true;
}

/* Adds the cases of a list of {"input", "output"}. */
static bool read_cases(Reader *r, const char *key, const Json *list) {
    Task *k = r->task;
    Case *old = k->cases;
    if (list->type != J_ARRAY)
        return fail(r->e, "key %s: %s, expected a list of {\"input\", \"output\"}", key,
                    json_type_name[list->type]);
    k->cases = arena_alloc(&r->t->arena, (size_t)k->n_cases + list->n, sizeof *old, "tests");
    if (k->n_cases) memcpy(k->cases, old, (size_t)k->n_cases * sizeof *old);
    for (const Json *x = json_first(list); x; x = json_next(list, x)) {
        Case *c = &k->cases[k->n_cases++];
        Error e;
        if (x->type != J_OBJECT)
            return fail(r->e, "key %s: %s in it, expected objects", key, json_type_name[x->type]);
        if (!json_str(x, "input", true, &c->input, &e) ||
            !json_str(x, "output", true, &c->output, &e))
            return fail(r->e, "key %s: %.400s", key, e.text);
    }
    return true;
}

/* LiveCodeBench has its lists of tests as text, the private ones packed. */
static bool read_packed_cases(Reader *r, const char *key) {
    const Json *list = json_get(r->json, key);
    if (!list || list->type == J_NULL) return true;
    if (list->type == J_STRING) {
        Str text = list->str;
        Buf unpacked = { 0 };
        Error e;
        if (!text.n) return true;
        if (text.s[0] != '[') {
            bool ok = unpack_tests(&unpacked, text, &e);
            text = keep(r, &unpacked);
            if (!ok)
                return fail(r->e, "key %s: %.400s, expected a list or a packed one", key, e.text);
        }
        list = add_inner_doc(r, key, text);
        if (!list) return false;
    }
    return read_cases(r, key, list);
}

static bool read_livecode(Reader *r) {
    Task *k = r->task;
    Str metadata;
    k->timeout = 6;
    k->whole = true;
    if (!read_number_or_name(r, "question_id", &k->id) ||
        !text_of(r, "question_content", true, &k->prompt) || !read_language(r, &k->language) ||
        !text_of(r, "starter_code", false, &k->starter) ||
        !text_of(r, "solution", false, &k->solution) || !text_of(r, "metadata", false, &metadata) ||
        !read_packed_cases(r, "public_test_cases") || !read_packed_cases(r, "private_test_cases"))
        return false;
    if (!k->n_cases) return fail(r->e, "key public_test_cases: none, expected tests");
    if (metadata.n) {
        const Json *j = add_inner_doc(r, "metadata", metadata);
        if (!j || !json_str(j, "func_name", false, &k->entry, r->e)) return false;
    }
    return true;
}

static bool read_plain(Reader *r) {
    Task *k = r->task;
    const Json *tests = json_get(r->json, "tests");
    k->timeout = 10;
    if (!read_number_or_name(r, "task_id", &k->id) || !text_of(r, "prompt", true, &k->prompt) ||
        !read_language(r, &k->language) || !text_of(r, "entry_point", false, &k->entry) ||
        !text_of(r, "solution", false, &k->solution) ||
        !json_bool(r->json, "whole", false, &k->whole, r->e) ||
        !json_num(r->json, "timeout", false, &k->timeout, r->e) ||
        !texts_of(r, "stop", false, &k->stop, &k->n_stop))
        return false;
    if (!(k->timeout > 0 && k->timeout <= 3600))
        return fail(r->e, "key timeout: %g, expected seconds above 0 to 3600", k->timeout);
    if (tests && tests->type == J_STRING) {
        k->tests = tests->str;
        return true;
    }
    return read_cases(r, "tests", tests) && (k->n_cases || fail(r->e, "key tests: none"));
}

typedef struct {
    int kind;
    const char *needs[4];
    bool (*read)(Reader *r);
} Format;

static const Format formats[] = {
    { MBPP_PLUS, { "test_list", "test" }, read_mbpp },
    { MBPP, { "test_list" }, read_mbpp },
    { LIVECODE, { "question_content", "public_test_cases" }, read_livecode },
    { MULTIPLE, { "name", "language", "prompt", "tests" }, read_multiple },
    { HUMANEVAL, { "entry_point", "test" }, read_humaneval },
    { PLAIN, { "task_id", "prompt", "tests" }, read_plain },
};

static bool has_all(const Json *j, const char *const needs[4]) {
    for (int i = 0; i < 4 && needs[i]; i++)
        if (!json_get(j, needs[i])) return false;
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * The file */

/* The number at the end of "HumanEval/7" or "7"; -1 where there is none. */
static int64_t number_of(Str id) {
    size_t i = id.n;
    while (i && isdigit((unsigned char)id.s[i - 1])) i--;
    if (i == id.n || id.n - i > 15 || (i && id.s[i - 1] != '/')) return -1;
    return strtoll(id.s + i, NULL, 10);
}

static bool read_task(Tasks *t, const Json *j, bool base, const Language *language, Error *e) {
    Task k = { .language = language ? language : language_find(str_of("python")) };
    Reader r = { t, &k, j, e, base };
    size_t f = 0, n = sizeof formats / sizeof *formats;
    if (j->type != J_OBJECT) return fail(e, "%s, expected an object", json_type_name[j->type]);
    while (f < n && !has_all(j, formats[f].needs)) f++;
    if (f == n)
        return fail(e, "not a known kind of task, expected for instance \"task_id\", \"prompt\" "
                       "and \"tests\"; see evaluate -h");
    k.kind = formats[f].kind;
    k.entry = k.solution = k.setup = k.starter = k.tests = str_of("");
    if (!formats[f].read(&r)) return false;
    Buf id = { 0 }; /* with a NUL behind it, for number_of */
    buf_add(&id, k.id.s, k.id.n);
    k.id = keep(&r, &id);
    if (!k.id.n) return fail(e, "an empty name, expected one");
    k.number = number_of(k.id);
    if (!(t->n & (t->n + 1))) /* room for the next power of two */
        t->task = xrealloc(t->task, 2 * t->n + 2, sizeof k, "tasks");
    t->task[t->n++] = k;
    if (k.kind == MBPP && k.number >= 1 && k.number <= 3 && t->n_shots + 1 == k.number)
        t->shot[t->n_shots++] = k;
    return true;
}

static int task_cmp(const void *a, const void *b) {
    return str_cmp((*(const Task *const *)a)->id, (*(const Task *const *)b)->id);
}

static void check_unique(const Tasks *t) {
    const Task **by_name = xcalloc(t->n, sizeof *by_name, "tasks");
    for (size_t i = 0; i < t->n; i++) by_name[i] = &t->task[i];
    qsort((void *)by_name, t->n, sizeof *by_name, task_cmp);
    for (size_t i = 1; i < t->n; i++)
        if (!task_cmp(&by_name[i - 1], &by_name[i]))
            die("%s: task %.*s: found twice, expected once", t->path, STR(by_name[i]->id));
    free((void *)by_name);
}

void tasks_open(Tasks *t, const char *path, bool base, const Language *language) {
    Buf text = { 0 };
    Error e;
    size_t number = 1; /* of a line, or of an item of the array */
    memset(t, 0, sizeof *t);
    t->path = path;
    read_file(path, &text);
    Str rest = { text.data, text.n };
    if (strip(rest).n && *strip(rest).s == '[') {
        const Json *all = add_doc(t, rest, &e);
        if (!all) die("%s: %s", path, e.text);
        for (const Json *j = json_first(all); j; j = json_next(all, j), number++)
            if (!read_task(t, j, base, language, &e)) die("%s: item %zu: %s", path, number, e.text);
    } else {
        for (; rest.n; number++) {
            Str line = take_line(&rest);
            if (!strip(line).n) continue;
            const Json *j = add_doc(t, line, &e);
            if (!j || !read_task(t, j, base, language, &e)) die("%s:%zu: %s", path, number, e.text);
        }
    }
    if (!t->n) die("%s: no tasks in it, expected JSON Lines with one a line", path);
    check_unique(t);
    buf_free(&text);
}

void tasks_close(Tasks *t) {
    for (size_t i = 0; i < t->n_docs; i++) json_free(&t->doc[i]);
    arena_free(&t->arena);
    free(t->doc);
    free(t->task);
    memset(t, 0, sizeof *t);
}

static bool all_digits(Str s) {
    for (size_t i = 0; i < s.n; i++)
        if (!isdigit((unsigned char)s.s[i])) return false;
    return s.n > 0;
}

const Task *tasks_find(const Tasks *t, Str id) {
    Buf name = { 0 };
    const Task *found = NULL;
    int n_found = 0;
    for (size_t i = 0; i < t->n; i++)
        if (!str_cmp(t->task[i].id, id)) return &t->task[i];
    buf_add(&name, id.s, id.n);
    int64_t number = number_of((Str){ name.data, name.n });
    for (size_t i = 0; i < t->n && number >= 0; i++) {
        const Task *k = &t->task[i];
        if (k->number == number && (all_digits(id) || all_digits(k->id))) found = k, n_found++;
    }
    buf_free(&name);
    return n_found == 1 ? found : NULL;
}

void tasks_select(Tasks *t, const char *range) {
    size_t kept = 0;
    const char *dash = strchr(range, '-');
    Buf first = { 0 };
    buf_add(&first, range, dash ? (size_t)(dash - range) : strlen(range));
    int64_t a = parse_int("--tasks", first.data, 0, INT32_MAX);
    int64_t b = dash ? parse_int("--tasks", dash + 1, a, INT32_MAX) : a;
    buf_free(&first);
    for (size_t i = 0; i < t->n; i++) {
        const Task *k = &t->task[i];
        if (dash ? k->number >= a && k->number <= b : (int64_t)i < a) t->task[kept++] = *k;
    }
    if (!kept) die_usage("--tasks: %s, expected some of the %zu tasks of %s", range, t->n, t->path);
    t->n = kept;
    t->selected = true;
}
