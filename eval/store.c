/* store.c: answers and outcomes in files, and how a run goes on where it stopped.
 *
 * What to know first: while a run goes on, completions.jsonl and results.jsonl only grow, a whole
 * line at a time. What a killed run leaves is cut back to its last line feed and taken up: an
 * answer if it was made from the same model, prompt and settings (`run`, a checksum of those), an
 * outcome if it belongs to the same program, tests and limits (`key`). All else is done again. At
 * the end the files are written anew, in the order of the tasks. Test: tests/test_evaluate.py. */
#include "eval.h"

Completion *completions_add(Completions *all, const Task *task, int sample) {
    if (all->n == all->cap) {
        all->cap = all->cap * 2 + 64;
        all->c = xrealloc(all->c, all->cap, sizeof *all->c, "answers");
    }
    Completion *c = &all->c[all->n++];
    memset(c, 0, sizeof *c);
    c->task = task;
    c->sample = sample;
    return c;
}

void completions_free(Completions *all) {
    for (size_t i = 0; i < all->n; i++) {
        buf_free(&all->c[i].text);
        buf_free(&all->c[i].program);
    }
    free(all->c);
    memset(all, 0, sizeof *all);
}

/* ------------------------------------------------------------------------------------------------
 * Lines of JSON */

/* What a line says, of either file. */
typedef struct {
    const Task *task;
    int64_t sample; /* -1: not said */
    Str completion, solution, finish, result, reason;
    double seconds;
    uint32_t sum; /* run or key */
} Record;

static bool record_id(const Json *j, const Tasks *t, Record *r, Error *e) {
    const char *key = json_get(j, "task_id") ? "task_id" : "name";
    const Json *id = json_get(j, key);
    char number[32];
    Str name = str_of("");
    if (j->type != J_OBJECT) return fail(e, "%s, expected an object", json_type_name[j->type]);
    if (id && id->is_int) {
        snprintf(number, sizeof number, "%lld", (long long)id->integer);
        name = str_of(number);
    } else if (!json_str(j, key, true, &name, e)) {
        return false;
    }
    r->task = tasks_find(t, name);
    return r->task || t->selected ||
           fail(e, "task %.*s: not in %s, expected one of its tasks", STR(name), t->path);
}

static bool record_read(const Json *j, const Tasks *t, Record *r, Error *e) {
    Str sum = str_of("");
    *r = (Record){ .sample = -1 };
    if (!record_id(j, t, r, e) || !json_int(j, "sample", false, 0, INT32_MAX, &r->sample, e) ||
        !json_str(j, "completion", false, &r->completion, e) ||
        !json_str(j, "solution", false, &r->solution, e) ||
        !json_str(j, "finish", false, &r->finish, e) ||
        !json_str(j, "result", false, &r->result, e) ||
        !json_str(j, "reason", false, &r->reason, e) ||
        !json_num(j, "seconds", false, &r->seconds, e) ||
        !json_str(j, json_get(j, "run") ? "run" : "key", false, &sum, e))
        return false;
    char hex[16];
    snprintf(hex, sizeof hex, "%.*s", (int)(sum.n < 15 ? sum.n : 15), sum.n ? sum.s : "");
    r->sum = (uint32_t)strtoul(hex, NULL, 16);
    return true;
}

/* Calls use() for every line; it returns false with the reason in e. strict: what cannot be used
 * ends the program, else it is passed over. */
static void each_record(const Tasks *t, const char *path, bool strict,
                        bool (*use)(void *arg, const Record *r, Error *e), void *arg) {
    Buf text = { 0 };
    JsonDoc doc = { 0 };
    Record r;
    Error e;
    read_file(path, &text);
    Str rest = { text.data, text.n };
    for (size_t number = 1; rest.n; number++) {
        Str line = take_line(&rest);
        if (!strip(line).n) continue;
        bool ok = json_parse(&doc, line.s, line.n, &e) && record_read(doc.node, t, &r, &e) &&
                  (!r.task || use(arg, &r, &e));
        if (!ok && strict) die("%s:%zu: %s", path, number, e.text);
    }
    json_free(&doc);
    buf_free(&text);
}

/* "stop", "length" or "context" as a string that lives on. */
static const char *finish_name(Str s) {
    static const char *const names[] = { "stop", "length", "context" };
    for (int i = 0; i < 3; i++)
        if (str_is(s, names[i])) return names[i];
    return NULL;
}

static void take_text(Completion *c, const Record *r) {
    c->text.n = 0;
    buf_add(&c->text, r->completion.s, r->completion.n);
    if (r->solution.s) {
        c->program.n = 0;
        buf_add(&c->program, r->solution.s, r->solution.n);
    }
    c->finish = finish_name(r->finish);
}

/* ------------------------------------------------------------------------------------------------
 * Answers from elsewhere */

typedef struct {
    Completions *all;
    const Tasks *tasks;
    int *n; /* answers of each task */
} Reading;

static bool use_completion(void *arg, const Record *r, Error *e) {
    Reading *x = arg;
    if (!r->completion.s && !r->solution.s)
        return fail(e, "key completion: missing, expected the answer's text");
    int *n = &x->n[r->task - x->tasks->task];
    Completion *c = completions_add(x->all, r->task, (*n)++);
    take_text(c, r);
    c->run = r->sum;
    return true;
}

static int completion_cmp(const void *a, const void *b) {
    const Completion *x = a, *y = b;
    if (x->task != y->task) return x->task < y->task ? -1 : 1;
    return (x->sample > y->sample) - (x->sample < y->sample);
}

void completions_read(Completions *all, const Tasks *t, const char *path) {
    Reading x = { all, t, xcalloc(t->n, sizeof(int), "answers") };
    each_record(t, path, true, use_completion, &x);
    if (!all->n) die("%s: no answers in it, expected JSON Lines of task_id and completion", path);
    qsort(all->c, all->n, sizeof *all->c, completion_cmp);
    free(x.n);
}

/* ------------------------------------------------------------------------------------------------
 * Where a run stopped */

typedef struct {
    Completions *all;
    uint32_t (*key)(const Completion *c);
    size_t n, others;
} Resuming;

/* `all` is in the order of completion_cmp. */
static Completion *find(Completions *all, const Record *r) {
    Completion key = { .task = r->task, .sample = (int)r->sample };
    return all->n ? bsearch(&key, all->c, all->n, sizeof key, completion_cmp) : NULL;
}

static bool resume_completion(void *arg, const Record *r, Error *e) {
    Resuming *x = arg;
    Completion *c = find(x->all, r);
    (void)e;
    if (!r->completion.s) return true;
    if (!c || c->run != r->sum) {
        x->others++;
        return true;
    }
    Record text_only = *r; /* how it becomes a program may have changed */
    text_only.solution.s = NULL;
    x->n += c->text.data == NULL;
    take_text(c, &text_only);
    return true;
}

static bool resume_result(void *arg, const Record *r, Error *e) {
    Resuming *x = arg;
    Completion *c = find(x->all, r);
    (void)e;
    if (!c || c->outcome.verdict || !r->result.s || x->key(c) != r->sum) return true;
    for (int v = PASSED; v < NOT_RUN; v++)
        if (str_is(r->result, verdict_name[v])) c->outcome.verdict = (Verdict)v;
    c->outcome.seconds = r->seconds;
    if (r->reason.s)
        snprintf(c->outcome.reason, sizeof c->outcome.reason, "%.*s",
                 (int)(r->reason.n < 199 ? r->reason.n : 199), r->reason.s);
    x->n += c->outcome.verdict != NOT_GRADED;
    return true;
}

size_t completions_resume(Completions *all, const Tasks *t, const char *path) {
    Resuming x = { all, NULL, 0, 0 };
    if (!access(path, F_OK)) each_record(t, path, false, resume_completion, &x);
    if (x.others)
        die("%s: %zu answers by another model, or with other settings or tasks, expected none; "
            "use another directory for -o, or --restart",
            path, x.others);
    return x.n;
}

size_t results_resume(Completions *all, const Tasks *t, const char *path,
                      uint32_t (*key)(const Completion *c)) {
    Resuming x = { all, key, 0, 0 };
    if (!access(path, F_OK)) each_record(t, path, false, resume_result, &x);
    return x.n;
}

void journal_open(Journal *j, const char *path) {
    Buf text = { 0 };
    j->path = path;
    j->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (j->fd < 0) die("%s: cannot open: %s", path, strerror(errno));
    read_file(path, &text);
    size_t whole = text.n;
    while (whole && text.data[whole - 1] != '\n') whole--;
    if (whole < text.n && ftruncate(j->fd, (off_t)whole))
        die("%s: cannot cut: %s", path, strerror(errno));
    buf_free(&text);
}

void journal_add(Journal *j, const Buf *line) {
    size_t done = 0;
    while (j->fd >= 0 && done < line->n) {
        ssize_t k = write(j->fd, line->data + done, line->n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) die("%s: cannot write: %s", j->path, strerror(errno));
        done += (size_t)k;
    }
}

void journal_close(Journal *j) {
    if (j->fd >= 0) close(j->fd);
    j->fd = -1;
}
