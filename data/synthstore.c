/* synthstore.c: answers in a file, so that none is written twice. See synth.h.
 *
 * What to know first: while a run goes on the file only grows, a whole line at a time; what a
 * killed run leaves is cut back to its last line feed by the next. An answer belongs to the
 * question with its key, a hash of the prompt; answers that come from elsewhere may say the number
 * of their seed instead. Answers to other questions stay in the file and are not used.
 * Test: tests/test_synth.py. */

#include "synth.h"

static struct {
    const char *path;
    int fd;
} store = { NULL, -1 };

static int by_key(const void *a, const void *b) {
    const Question *x = *(Question *const *)a, *y = *(Question *const *)b;
    return (x->key > y->key) - (x->key < y->key);
}

/* The question that a line answers, or NULL with the reason in e. */
static Question *question_of(const Json *j, Question *q, Question **sorted, size_t n, Error *e) {
    Str key = { "", 0 };
    int64_t seed = -1, sample = 0;
    char hex[20];
    if (!json_str(j, "key", false, &key, e) ||
        !json_int(j, "seed", !key.n, 0, INT64_MAX, &seed, e) ||
        !json_int(j, "sample", false, 0, INT64_MAX, &sample, e))
        return NULL;
    if (!key.n) {
        size_t seeds = q[n - 1].seed + 1, samples = n / seeds; /* they stand in this order */
        if ((uint64_t)seed < seeds && (uint64_t)sample < samples)
            return &q[(size_t)seed * samples + (size_t)sample];
    } else {
        snprintf(hex, sizeof hex, "%.*s", (int)(key.n < 17 ? key.n : 17), key.s);
        Question wanted = { .key = strtoull(hex, NULL, 16) }, *p = &wanted;
        Question **hit = bsearch((void *)&p, (void *)sorted, n, sizeof *sorted, by_key);
        if (hit) return *hit;
    }
    fail(e, "no question of this run, expected one of them");
    return NULL;
}

static bool take_answer(const Json *j, Question *q, Question **sorted, size_t n, Error *e) {
    static const char *const names[] = { "stop", "length", "context" };
    Str text = { "", 0 }, finish = { "stop", 4 };
    const char *known = NULL;
    Question *x = question_of(j, q, sorted, n, e);
    if (!x || !json_str(j, "completion", true, &text, e) ||
        !json_str(j, json_get(j, "end") ? "end" : "finish", false, &finish, e))
        return false;
    if (x->finish) return fail(e, "a second answer to its question, expected one");
    for (int i = 0; i < 3; i++)
        if (str_is(finish, names[i])) known = names[i];
    if (!known) return fail(e, "ended by '%.*s', expected stop, length or context", STR(finish));
    x->finish = known;
    buf_add(&x->answer, text.s, text.n);
    return true;
}

size_t answers_read(Question *q, size_t n, const char *path) {
    Question **sorted = xcalloc(n, sizeof *sorted, "questions");
    Source *s = source_lines(&path, 1);
    Document d = { 0 };
    size_t found = 0, left_out = 0;
    Error e;
    for (size_t i = 0; i < n; i++) sorted[i] = &q[i];
    qsort((void *)sorted, n, sizeof *sorted, by_key);
    document_reset(&d);
    for (; s->next(s, &d); document_reset(&d)) {
        bool ok = load_object(&d, &e) && take_answer(d.json.node, q, sorted, n, &e);
        found += ok;
        left_out += !ok;
        if (!ok && common.verbose)
            fprintf(stderr, "%s:%lld: %s\n", path, (long long)d.line, e.text);
    }
    if (left_out && !common.quiet)
        fprintf(stderr, "%s: %zu lines that answer no question%s\n", path, left_out,
                common.verbose ? "" : "; --verbose says why");
    source_close(s);
    document_free(&d);
    free((void *)sorted);
    return found;
}

static void append(const char *s, size_t n) {
    while (n) {
        ssize_t k = write(store.fd, s, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            die("%s: cannot write: %s", store.path, k ? strerror(errno) : "nothing was written");
        s += k;
        n -= (size_t)k;
    }
}

/* What stands behind the last line feed: the last line of a file that people have made is kept and
 * ended, half a line of ours is cut off. Both begin with a brace; what does not is no such file. */
static void end_line(const char *path, Str rest, size_t whole) {
    JsonDoc doc = { 0 };
    Error e;
    while (rest.n && isspace((uint8_t)*rest.s)) rest.s++, rest.n--;
    if (!rest.n) return;
    if (*rest.s != '{')
        die("%s: ends in '%.*s', expected lines of JSON, each an object", path, STR(rest));
    if (json_parse(&doc, rest.s, rest.n, &e))
        append("\n", 1);
    else if (ftruncate(store.fd, (off_t)whole))
        die("%s: cannot cut: %s", path, strerror(errno));
    json_free(&doc);
}

void answers_open(const char *path) {
    Buf text = { NULL, 0, 0 };
    store.path = path;
    store.fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (store.fd < 0) die("%s: cannot open: %s", path, strerror(errno));
    read_file(path, &text);
    size_t whole = text.n;
    while (whole && text.data[whole - 1] != '\n') whole--;
    end_line(path, (Str){ text.data + whole, text.n - whole }, whole);
    buf_free(&text);
}

void put_question(Buf *line, const Question *q) {
    json_open(line, '{');
    json_put_key(line, "key");
    buf_printf(line, "\"%016llx\"", (unsigned long long)q->key);
    json_put_key(line, "seed");
    json_put_int(line, (int64_t)q->seed);
    json_put_key(line, "sample");
    json_put_int(line, q->sample);
}

void answers_add(const Question *q) {
    Buf line = { NULL, 0, 0 };
    put_question(&line, q);
    json_put_key(&line, "finish");
    json_put_str(&line, str_of(q->finish));
    json_put_key(&line, "completion");
    json_put_str(&line, (Str){ q->answer.data ? q->answer.data : "", q->answer.n });
    buf_add(&line, "}\n", 2);
    if (store.fd >= 0) append(line.data, line.n); /* else nobody wants to keep them */
    buf_free(&line);
}

void answers_close(void) {
    if (store.fd >= 0 && close(store.fd)) die("%s: cannot close: %s", store.path, strerror(errno));
    store.fd = -1;
}
