/* sandbox_main.c: the sandbox alone, as a program: for its tests and for the curious.
 *
 *     echo '{"argv": ["/bin/ls", "-l"], "profile": "shell"}' | build/sandbox
 *     echo '{"program": "def f(): return 1", "tests": "assert f() == 1"}' | build/sandbox
 *
 * What to know first: a line on stdin is a job (it has "argv"; see SandboxJob for the other
 * members; files are {"name": "text"}, executable where they begin with #!) or a Python task (it
 * has "program"; see PythonTask). The first line on stdout says what the kernel grants, every other
 * is the result of a line, in their order.
 * Build: make build/sandbox. Tests: tests/test_sandbox.py, test_pycheck.py, which use it. */

#include "../json.h"
#include "sandbox.h"
#include <pthread.h>

typedef struct {
    Str *line;
    Buf *result;
    size_t n, next;
    pthread_mutex_t lock;
} Work;

enum { LIST_MAX = 64 };

/* What a line needs until it is done. */
typedef struct {
    void *block[5 * LIST_MAX];
    int n;
} Owned;

static void *own(Owned *o, void *block) { return o->block[o->n++] = block; }

/* A NUL-terminated copy. */
static const char *text_of(Owned *o, Str s) {
    char *copy = own(o, xcalloc(s.n + 1, 1, "text"));
    memcpy(copy, s.s, s.n);
    return copy;
}

/* An array of strings as a list that ends with NULL. */
static const char *const *list_of(Owned *o, const Json *obj, const char *key) {
    const Json *array = json_get(obj, key);
    const char **list = own(o, xcalloc(LIST_MAX, sizeof *list, key));
    int n = 0;
    for (const Json *x = array ? json_first(array) : NULL; x; x = json_next(array, x)) {
        if (x->type != J_STRING || n == LIST_MAX - 1) die("%s: expected up to 63 strings", key);
        list[n++] = text_of(o, x->str);
    }
    return list;
}

static double number(const Json *obj, const char *key) {
    double value = 0;
    Error e;
    if (!json_num(obj, key, false, &value, &e)) die("%s", e.text);
    return value;
}

static Str string(const Json *obj, const char *key) {
    Str value = str_of("");
    Error e;
    if (!json_str(obj, key, false, &value, &e)) die("%s", e.text);
    return value;
}

static void put(Buf *b, const char *key, Str value) {
    json_put_key(b, key);
    json_put_str(b, value);
}

/* Output is bytes; what is not UTF-8 is shown as '?'. */
static void put_bytes(Buf *b, const char *key, Buf *bytes) {
    for (size_t i = 0; i < bytes->n;) {
        int n = utf8_length(bytes->data + i, bytes->data + bytes->n);
        if (!n) bytes->data[i] = '?';
        i += n ? (size_t)n : 1;
    }
    put(b, key, (Str){ bytes->data ? bytes->data : "", bytes->n });
}

static void run_job(Owned *o, const Json *obj, Buf *b) {
    static const char *const profile[] = { "strict", "build", "shell" };
    static const char *const reason[] = {
        "exit", "signal", "timeout", "memory", "output", "failed"
    };
    const Json *files = json_get(obj, "files");
    SandboxFile file[LIST_MAX];
    SandboxResult r;
    SandboxJob job = { .argv = list_of(o, obj, "argv"),
                       .binds = list_of(o, obj, "binds"),
                       .env = list_of(o, obj, "env"),
                       .files = file,
                       .input = string(obj, "stdin"),
                       .seconds = number(obj, "seconds"),
                       .cpu_seconds = number(obj, "cpu_seconds"),
                       .memory = (uint64_t)number(obj, "memory"),
                       .processes = (int)number(obj, "processes"),
                       .output = (uint64_t)number(obj, "output"),
                       .file_size = (uint64_t)number(obj, "file_size"),
                       .box_size = (uint64_t)number(obj, "box_size"),
                       .collect = number(obj, "collect") != 0 };
    for (int i = 0; i < 3; i++)
        if (str_is(string(obj, "profile"), profile[i])) job.profile = i;
    for (const Json *x = files ? json_first(files) : NULL; x; x = json_next(files, x)) {
        if (x->type != J_STRING || job.n_files == LIST_MAX) die("files: expected up to 64 texts");
        bool script = x->str.n > 2 && !memcmp(x->str.s, "#!", 2);
        file[job.n_files++] = (SandboxFile){ text_of(o, x->key), x->str.s, x->str.n, script };
    }
    sandbox_run(&job, &r);
    put(b, "reason", str_of(reason[r.reason]));
    json_put_key(b, "code");
    json_put_int(b, r.code);
    put_bytes(b, "out", &r.out);
    put_bytes(b, "err", &r.err);
    put(b, "message", str_of(r.message));
    json_put_key(b, "seconds");
    json_put_num(b, r.seconds, false);
    json_put_key(b, "files");
    json_open(b, '[');
    for (int i = 0; i < r.n_files; i++) json_put_str(b, str_of(r.files[i].name));
    json_close(b, ']');
    sandbox_free(&r);
}

static void run_task(Owned *o, const Json *obj, Buf *b) {
    Str entry = string(obj, "entry");
    PythonResult r;
    PythonTask t = { .program = string(obj, "program"),
                     .setup = string(obj, "setup"),
                     .tests = string(obj, "tests"),
                     .entry = entry.n ? text_of(o, entry) : NULL,
                     .seconds = number(obj, "seconds"),
                     .memory = (uint64_t)number(obj, "memory") };
    python_check(&t, &r);
    put(b, "verdict", str_of(python_verdict_name[r.verdict]));
    put(b, "message", str_of(r.message));
    json_put_key(b, "seconds");
    json_put_num(b, r.seconds, false);
}

static void *work(void *to) {
    Work *all = to;
    for (;;) {
        pthread_mutex_lock(&all->lock);
        size_t i = all->next++;
        pthread_mutex_unlock(&all->lock);
        if (i >= all->n) return NULL;
        JsonDoc doc = { 0 };
        Error e;
        if (!json_parse(&doc, all->line[i].s, all->line[i].n, &e))
            die("line %zu: %s", i + 1, e.text);
        Owned owned = { .n = 0 };
        json_open(&all->result[i], '{');
        if (json_get(doc.node, "argv"))
            run_job(&owned, doc.node, &all->result[i]);
        else
            run_task(&owned, doc.node, &all->result[i]);
        json_close(&all->result[i], '}');
        while (owned.n) free(owned.block[--owned.n]);
        json_free(&doc);
    }
}

static void read_lines(Work *all, Buf *b) {
    Error e;
    if (!read_all(0, b, &e)) die("stdin: %s", e.text);
    for (size_t at = 0; at < b->n;) {
        const char *stop = memchr(b->data + at, '\n', b->n - at);
        size_t end = stop ? (size_t)(stop - b->data) : b->n;
        all->line = xrealloc(all->line, all->n + 1, sizeof *all->line, "lines");
        if (end > at) all->line[all->n++] = (Str){ b->data + at, end - at };
        at = end + 1;
    }
    all->result = xcalloc(all->n, sizeof *all->result, "results");
}

int main(int argc, char **argv) {
    SandboxOptions o = { 0 };
    int64_t threads = 2, without = 0;
    const Option table[] = {
        { 'j', "jobs", NULL, "N", OPT_INT, &threads, 1, 64, "at once" },
        { 0, "python", NULL, "FILE", OPT_TEXT, &o.python, 0, 0, "interpreter; default python3" },
        { 0, "without", NULL, "N", OPT_INT, &without, 0, PROTECT_ALL,
          "protections to do without, the sum of their bits in sandbox.h" },
        { 0, "unsafe", NULL, NULL, OPT_FLAG, &o.unsafe, 0, 0, "run with too little protection" },
        { 0 }
    };
    const char *usage = "usage: build/sandbox [options] < jobs.jsonl > results.jsonl";
    if (parse_options(argc, argv, table, usage, NULL, 0) != 0) die_usage("expected no file");
    Work all = { .lock = PTHREAD_MUTEX_INITIALIZER };
    pthread_t thread[64];
    Buf b = { 0 };
    Error e;
    o.without = (unsigned)without;
    if (!sandbox_open(&o, &e)) die("%s", e.text);
    Protections p = sandbox_protections();
    json_open(&b, '{');
    json_put_key(&b, "granted");
    json_put_int(&b, p.granted);
    json_put_key(&b, "enough_to_build");
    json_put_bool(&b, p.enough_to_build);
    put(&b, "text", str_of(p.text));
    put(&b, "python", str_of(sandbox_python() ? sandbox_python() : ""));
    json_close(&b, '}');
    printf("%s\n", b.data);
    b.n = 0;
    read_lines(&all, &b);
    for (int64_t i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, work, &all)) die("cannot start a thread");
    for (int64_t i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    for (size_t i = 0; i < all.n; i++) {
        printf("%s\n", all.result[i].data);
        buf_free(&all.result[i]);
    }
    sandbox_close();
    free(all.line);
    free(all.result);
    buf_free(&b);
    close_stdout();
    return 0;
}
