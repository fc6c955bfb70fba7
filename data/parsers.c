/* parsers.c: asks other programs whether a file parses. See parsers.h; parserscripts.h has what
 * they are told to do. Test: tests/test_filter.py. */

#include "parsers.h"
#include "matchers.h"
#include "parserscripts.h"
#include <poll.h>       /* poll */
#include <spawn.h>      /* posix_spawnp */
#include <sys/socket.h> /* socketpair, send */
#include <sys/wait.h>   /* waitpid */

extern char **environ;

/* functions.py and answers.py, as numbers. */
static const char functions_script[] = {
#include "../build/data/functions.inc"
    0
};

enum { PYTHON, JAVASCRIPT, FUNCTIONS, N_PARSERS, MOST_NUMBERS = 11 };
enum { MOST_ANSWER = 64 << 20 /* bytes */ };
/* Seconds for a file: of its processor time, so that a busy machine gives the same answers; and by
 * the clock, for a worker that waits for something. */
enum { PATIENCE = 10, MOST_PATIENCE = 600 };

typedef struct {
    pid_t pid; /* 0: not started; -1: there is none */
    int socket;
    double until, last; /* when to look how busy it was, and when to give up, of now_seconds() */
    double begun;       /* its processor time when it was asked */
} Worker;

struct Parsers {
    bool fix;
    Worker worker[N_PARSERS];
    Buf answer;
    uint64_t failed;
};

/* ------------------------------------------------------------------------------------------------
 * 1. Processes */

static const char *const programs[N_PARSERS][6] = {
    { "python3", "-I", "-Wignore", "-c", python_script, NULL },
    { "node", "--expose-internals", "--stack-size=4000", "-e", javascript_script, NULL },
    { "python3", "-I", "-Wignore", "-c", functions_script, NULL },
};

static void report_missing(const char *program) {
    static int reported[N_PARSERS];
    int i = !strcmp(program, "node");
    if (__atomic_exchange_n(&reported[i], 1, __ATOMIC_RELAXED)) return;
    fprintf(stderr, "note: %s is not installed: %s\n", program,
            i ? "JavaScript is not parsed" : "Python and HTML are not parsed");
}

/* A socket, not a pipe: writing to one whose reader has died is an error, without a signal. */
static bool start(Worker *w, const char *const *argv) {
    int pair[2];
    posix_spawn_file_actions_t actions;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        die("%s: cannot make a socket: %s", argv[0], strerror(errno));
    int bad = posix_spawn_file_actions_init(&actions);
    if (!bad) bad = posix_spawn_file_actions_adddup2(&actions, pair[1], 0);
    if (!bad) bad = posix_spawn_file_actions_adddup2(&actions, pair[1], 1);
    if (!bad) bad = posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    if (!bad)
        bad =
            posix_spawnp(&w->pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions); /* only frees */
    close(pair[1]);
    w->socket = pair[0];
    if (!bad) return true;
    if (bad != ENOENT) die("%s: cannot be started: %s", argv[0], strerror(bad));
    close(pair[0]);
    w->pid = -1;
    report_missing(argv[0]);
    return false;
}

static void stop(Worker *w) {
    if (w->pid <= 0) return;
    close(w->socket);
    kill(w->pid, SIGKILL);
    while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR) {}
    w->pid = 0;
}

/* Seconds of processor time of a child; without such a clock, of the other one. */
static double busy_seconds(pid_t pid) {
    (void)pid;
#ifdef __linux__
    clockid_t clock;
    struct timespec t;
    if (!clock_getcpuclockid(pid, &clock) && !clock_gettime(clock, &t))
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
    return now_seconds();
}

static void begin_waiting(Worker *w) {
    w->until = now_seconds() + PATIENCE;
    w->last = now_seconds() + MOST_PATIENCE;
    w->begun = busy_seconds(w->pid);
}

static bool wait_for(Worker *w, short event) {
    for (;;) {
        double now = now_seconds(), used = busy_seconds(w->pid) - w->begun;
        if (now >= w->until && used < PATIENCE && now < w->last) w->until = now + 1;
        if (now >= w->until) return false;
        struct pollfd p = { w->socket, event, 0 };
        int n = poll(&p, 1, (int)((w->until - now) * 1000) + 1);
        if (n > 0) return true;
        if (n < 0 && errno != EINTR) return false;
    }
}

static bool send_all(Worker *w, const char *s, size_t n) {
    while (n) {
        ssize_t sent = send(w->socket, s, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            if (!wait_for(w, POLLOUT)) return false;
        } else if (sent < 0 && errno != EINTR) {
            return false;
        } else if (sent > 0) {
            s += sent;
            n -= (size_t)sent;
        }
    }
    return true;
}

/* A line, without its line feed; false for none in time. */
static bool receive(Worker *w, Buf *line) {
    char block[1 << 14];
    line->n = 0;
    while (!line->n || line->data[line->n - 1] != '\n') {
        if (line->n > MOST_ANSWER || !wait_for(w, POLLIN)) return false;
        ssize_t got = recv(w->socket, block, sizeof block, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        buf_add(line, block, (size_t)got);
    }
    line->data[--line->n] = 0;
    return true;
}

/* The answer to a text of a kind; false where there is none. */
static bool ask_line(Parsers *p, int which, char kind, Str text, Buf *line) {
    Worker *w = &p->worker[which];
    char head[16];
    if (text.n > 99999999 || w->pid < 0 || (!w->pid && !start(w, programs[which]))) return false;
    snprintf(head, sizeof head, "%c%08zu\n", kind, text.n);
    begin_waiting(w);
    if (send_all(w, head, 10) && send_all(w, text.s, text.n) && receive(w, line)) return true;
    stop(w);
    p->failed++;
    return false;
}

/* The numbers of an answer; returns how many, 0 where there is none. */
static int ask(Parsers *p, int which, char kind, Str text, long long *number) {
    int count = 0;
    if (!ask_line(p, which, kind, text, &p->answer)) return 0;
    for (char *s = p->answer.data, *end; count < MOST_NUMBERS; s = end) {
        long long v = strtoll(s, &end, 10);
        if (end == s) break;
        number[count++] = v;
    }
    return count;
}

bool parsers_python(Parsers *p, char kind, Str text, JsonDoc *answer) {
    Error e;
    return ask_line(p, FUNCTIONS, kind, text, &p->answer) &&
           json_parse(answer, p->answer.data, p->answer.n, &e) && answer->node->type == J_OBJECT;
}

Parsers *parsers_open(bool fix) {
    Parsers *p = (Parsers *)xcalloc(1, sizeof *p, "the parsers");
    p->fix = fix;
    return p;
}

void parsers_close(Parsers *p) {
    if (!p) return;
    for (int i = 0; i < N_PARSERS; i++) stop(&p->worker[i]);
    buf_free(&p->answer);
    free(p);
}

uint64_t parsers_failed(const Parsers *p) { return p->failed; }

/* ------------------------------------------------------------------------------------------------
 * 2. Signals */

static const char *python_return(const char *p, const char *end) { /* return(\s+.+)?\s*$ */
    if (!goes_on(p, end, "return")) return NULL;
    const char *q = skip_space(p + 6, end);
    if (q == end) return end;
    return q > p + 6 ? end_of_line(next_line(q, end) - 1, end) : NULL;
}

static void python_parsed(Parsers *p, Rules *r, Signals *out) {
    long long n[MOST_NUMBERS];
    double lines = (double)r->code_lines.n;
    int count = ask(p, PYTHON, 'p', r->text, n);
    if (count < 7) {
        if (count) signal_set(out, PY_AST, 0);
        return;
    }
    signal_share(out, CODE_COMMENTS, (double)n[6], (double)r->chars);
    signal_set(out, PY_AST, (double)n[0]);
    if (!n[0]) {
        static const int none[] = { PY_FUNC_RATIO, PY_VAR_ZERO, PY_SIMPLEFUNC, PY_NO_LOGIC };
        for (int i = 0; i < 4; i++) signal_none(out, none[i]);
        return;
    }
    size_t imports = lines_with(r, "import", NULL, true);
    size_t returns = count_lines(r->code, python_return);
    double no_logic = (double)(n[1] + n[4] + n[5]) + (double)(imports + returns);
    signal_share(out, PY_FUNC_RATIO, (double)n[1], lines);
    signal_set(out, PY_VAR_ZERO, n[2] == 0);
    signal_share(out, PY_SIMPLEFUNC, (double)n[3], lines);
    signal_share(out, PY_NO_LOGIC, no_logic, lines);
}

static void javascript_parsed(Parsers *p, Rules *r, Signals *out) {
    long long n[MOST_NUMBERS];
    double lines = (double)r->code_lines.n;
    int count = ask(p, JAVASCRIPT, p->fix ? 'k' : 'j', r->text, n);
    if (!count) return;
    signal_set(out, JS_AST, (double)n[0]);
    if (count < MOST_NUMBERS) {
        for (int i = JS_VAR_ZERO; i < JS_PRINT; i++) signal_none(out, i);
        return;
    }
    signal_set(out, JS_VAR_ZERO, n[1] == 0);
    signal_share(out, JS_FUNC_RATIO, (double)n[2], lines);
    signal_share(out, JS_STATEMENTS, (double)n[3], lines);
    signal_share(out, JS_NO_LOGIC, (double)(n[2] + n[4] + n[5] + n[6] + n[7]), lines);
    signal_share(out, JS_VAR_NAME, (double)n[8], (double)n[1]);
    signal_share(out, JS_FUNC_NAME, (double)n[9], (double)n[2]);
    signal_share(out, JS_CLASS_NAME, (double)n[10], (double)n[7]);
}

bool parsers_want(const RuleFile *f) {
    return f->type != FILE_TEXT &&
           (f->table == LANG_PYTHON || f->table == LANG_JAVASCRIPT || f->table == LANG_HTML);
}

void parser_signals(Parsers *p, Rules *r, Signals *out) {
    long long n[MOST_NUMBERS];
    switch (r->file->table) {
    case LANG_PYTHON: python_parsed(p, r, out); break;
    case LANG_JAVASCRIPT: javascript_parsed(p, r, out); break;
    default:
        if (ask(p, PYTHON, 'h', r->text, n)) signal_set(out, HTML_AST, (double)n[0]);
    }
}
