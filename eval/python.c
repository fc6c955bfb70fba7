/* python.c: python_check: a checker that has the tests, a worker that has the program.
 *
 * What to know first: starting Python and importing `typing` takes longer than most programs run.
 * So both ends are servers (server.py) in boxes of their own, which are warm and fork for each
 * task:
 *
 *      here -- verdict <- checker ==== questions, answers ==== worker
 *                          (box)                                (box)
 *
 * The pipes are made here for one task and handed over with it. The worker's server is not used
 * again unless its child ended as it should; where the kernel does not refuse a child of it to
 * fork, it is used once only.
 * Test: tests/test_pycheck.py. */

#include "../jsonwrite.h" /* utf8_length */
#include "python.h"
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const char server_py[] = {
#include "../build/eval/server.inc"
    0
};

const char *const python_verdict_name[] = { "passed", "wrong answer", "exception",       "timeout",
                                            "memory", "syntax",       "broke the rules", "failed" };

enum { CHECKER, WORKER, PY_GONE = PY_FAILED + 1, EXIT_MEMORY = 3, START_SECONDS = 20 };
static const uint64_t SERVER_MEMORY = 8ull << 30, CHECKER_MEMORY = 1ull << 30;

typedef struct {
    Box box;
    int control;
    bool once; /* a child of it may fork: not to be used a second time */
} Server;

typedef struct Pair {
    Server server[2];
    struct Pair *next; /* in the list of those that nobody uses */
} Pair;

static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static Pair *idle;

/* ------------------------------------------------------------------------------------------------
 * 1. Servers */

static void end_server(Server *s) {
    box_kill(&s->box);
    close_fd(&s->control);
}

/* A message of at most size - 1 bytes from the server; false if there is none until `deadline`. */
static bool hear(const Server *s, char *text, size_t size, double deadline) {
    for (;;) {
        struct pollfd p = { s->control, POLLIN, 0 };
        double left = deadline - now_seconds();
        int ready = poll(&p, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
        if (ready < 0 && errno == EINTR) continue;
        ssize_t n = ready > 0 ? recv(s->control, text, size - 1, 0) : -1;
        text[n > 0 ? n : 0] = 0;
        return n > 0;
    }
}

static bool tell(const Server *s, const char *text, const int *fds, int n_fds) {
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = { (void *)(uintptr_t)text, strlen(text) };
    struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes };
    memset(&control, 0, sizeof control);
    m.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
    struct cmsghdr *head = CMSG_FIRSTHDR(&m);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
    memcpy(CMSG_DATA(head), fds, (size_t)n_fds * sizeof(int));
    return sendmsg(s->control, &m, MSG_NOSIGNAL) == (ssize_t)part.iov_len;
}

/* Starts it without waiting for it to be warm. */
static bool start_server(Server *s, Error *e) {
    static const char *const env[] = {
        "HOME=/", "LANG=C.UTF-8", "PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1",
        NULL
    };
    const PythonHome *home = sandbox_python_home();
    const char *argv[] = {
        home->path[0], "-s", "-S", "-B", "-c", server_py, home->packages ? home->packages : "", NULL
    };
    BoxPlan p;
    int ends[2];
    if (!home->path[0]) return fail(e, "python3: not found");
    plan_begin(&p, sandbox_launcher(), SANDBOX_SERVER);
    python_bind(home, &p);
    plan_bind(&p, home->path[0], true);
    p.argv = argv;
    p.env = env;
    p.memory = SERVER_MEMORY;
    p.cpu_seconds = UINT32_MAX;
    p.processes = 8;
    p.in = null_fd();
    p.out = null_fd();
    p.err = null_fd();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
        plan_end(&p);
        return fail(e, "sandbox: socketpair: %s", strerror(errno));
    }
    s->control = high_fd(ends[0]);
    p.control = high_fd(ends[1]);
    return box_start(&p, &s->box, e);
}

/* Waits until it is warm. */
static bool await_server(Server *s, Error *e) {
    char text[64];
    BoxStatus status;
    if (hear(s, text, sizeof text, now_seconds() + START_SECONDS)) {
        s->once = strcmp(text, "ready 1") != 0;
        return true;
    }
    struct pollfd p = { s->box.status, POLLIN, 0 };
    if (poll(&p, 1, 0) > 0 && box_status(&s->box, &status) && status.what == BOX_FAILED)
        return fail(e, "sandbox: %s: %s", status.step, strerror(status.value));
    return fail(e, "%.300s: does not start in a box", sandbox_python());
}

/* A pair with both servers warm, or NULL. */
static Pair *take_pair(Error *e) {
    pthread_mutex_lock(&idle_lock);
    Pair *pair = idle;
    if (pair) idle = pair->next;
    pthread_mutex_unlock(&idle_lock);
    if (!pair) {
        pair = xcalloc(1, sizeof *pair, "sandbox");
        for (int i = 0; i < 2; i++) pair->server[i] = (Server){ { 0, -1, -1 }, -1, false };
    }
    bool ok = true, cold[2];
    for (int i = 0; i < 2; i++) {
        cold[i] = pair->server[i].box.pid == 0;
        ok = ok && (!cold[i] || start_server(&pair->server[i], e));
    }
    for (int i = 0; i < 2; i++) ok = ok && (!cold[i] || await_server(&pair->server[i], e));
    if (ok) return pair;
    for (int i = 0; i < 2; i++) end_server(&pair->server[i]);
    free(pair);
    return NULL;
}

static void give_pair(Pair *pair) {
    pthread_mutex_lock(&idle_lock);
    pair->next = idle;
    idle = pair;
    pthread_mutex_unlock(&idle_lock);
}

void python_close(void) {
    while (idle) {
        Pair *pair = idle;
        idle = pair->next;
        for (int i = 0; i < 2; i++) end_server(&pair->server[i]);
        free(pair);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 2. Tasks */

static void set_verdict(PythonResult *r, int verdict, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void set_verdict(PythonResult *r, int verdict, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->message, sizeof r->message, fmt, args);
    va_end(args);
    const char *end = r->message + strlen(r->message);
    for (char *s = r->message; s < end;) { /* the text is hostile, and may have been cut */
        int n = utf8_length(s, end);
        if (n < 2 && ((unsigned char)*s < 32 || (unsigned char)*s > 126)) *s = n ? ' ' : '?';
        s += n ? n : 1;
    }
    r->verdict = verdict;
}

/* Both ends get their task. Everything but the end where the verdict comes out is given away. */
static bool send_task(Pair *pair, const PythonTask *t, int *verdict) {
    Str entry = str_of(t->entry ? t->entry : "");
    char sizes[128], order[64];
    int fds[4] = { -1, -1, -1, -1 }, worker[2] = { -1, -1 };
    int seconds = (int)(t->seconds + 2);
    snprintf(sizes, sizeof sizes, "%zu %zu %zu %zu\n", t->program.n, t->setup.n, t->tests.n,
             entry.n);
    Str part[] = { str_of(sizes), t->program, t->setup, t->tests, entry };
    fds[0] = sealed_file(part, 5);
    bool ok = fds[0] >= 0 && make_pipe(&fds[1], &worker[1]) && make_pipe(&worker[0], &fds[2]) &&
              make_pipe(verdict, &fds[3]);
    snprintf(order, sizeof order, "checker %llu %d", (unsigned long long)CHECKER_MEMORY, seconds);
    ok = ok && tell(&pair->server[CHECKER], order, fds, 4);
    snprintf(order, sizeof order, "worker %llu %d", (unsigned long long)t->memory, seconds);
    ok = ok && tell(&pair->server[WORKER], order, worker, 2);
    for (int i = 0; i < 4; i++) close_fd(&fds[i]);
    for (int i = 0; i < 2; i++) close_fd(&worker[i]);
    return ok;
}

/* What the checker says, or PY_TIMEOUT. */
static void read_verdict(const PythonTask *t, int from, double deadline, PythonResult *r) {
    char text[1025];
    struct pollfd p = { from, POLLIN, 0 };
    int ready = -1;
    while (ready < 0) {
        double left = deadline - now_seconds();
        ready = left > 0 ? poll(&p, 1, (int)(left * 1000) + 1) : 0;
    }
    if (!ready) {
        set_verdict(r, PY_TIMEOUT, "timeout after %.1f s", t->seconds);
        return;
    }
    ssize_t n;
    do n = read(from, text, sizeof text - 1); /* one write, of at most 1000 bytes */
    while (n < 0 && errno == EINTR);
    text[n > 0 ? n : 0] = 0;
    if (n < 0)
        set_verdict(r, PY_FAILED, "sandbox: cannot read: %s", strerror(errno));
    else if (n < 2 || text[0] < '0' || text[0] > '0' + PY_GONE)
        set_verdict(r, PY_EXCEPTION, "the answer ended the checker");
    else
        set_verdict(r, text[0] - '0', "%.250s", text + 2);
}

/* The worker ended before the tests did: status says how. */
static void judge_end(PythonResult *r, bool known, int status) {
    if (!known)
        set_verdict(r, PY_CHEATED, "stopped answering");
    else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_MEMORY)
        set_verdict(r, PY_MEMORY, "MemoryError");
    else if (WIFEXITED(status))
        set_verdict(r, PY_CHEATED, "ended itself with exit code %d", WEXITSTATUS(status));
    else if (WTERMSIG(status) == SIGKILL)
        set_verdict(r, PY_MEMORY, "killed by the system");
    else if (WTERMSIG(status) == SIGXCPU)
        set_verdict(r, PY_TIMEOUT, "timeout of processor time");
    else
        set_verdict(r, WTERMSIG(status) == SIGSYS ? PY_CHEATED : PY_EXCEPTION,
                    "crashed: signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

/* How the server's child ended; a server where that is unusual is ended too. */
static bool end_task(Server *s, int *status, double patience) {
    char text[64];
    bool known = patience > 0 && hear(s, text, sizeof text, now_seconds() + patience);
    *status = known ? (int)strtol(text, NULL, 10) : -1;
    if (*status != 0 || s->once) end_server(s);
    return known;
}

void python_check(const PythonTask *task, PythonResult *r) {
    PythonTask t = *task;
    Error e = { "" };
    int verdict = -1, status;
    memset(r, 0, sizeof *r);
    if (t.seconds <= 0) t.seconds = 3;
    if (!t.memory) t.memory = 1u << 30;
    Pair *pair = take_pair(&e);
    if (!pair) {
        set_verdict(r, PY_FAILED, "%.250s", e.text);
        return;
    }
    double begun = now_seconds();
    if (send_task(pair, &t, &verdict))
        read_verdict(&t, verdict, begun + t.seconds, r);
    else
        set_verdict(r, PY_FAILED, "sandbox: %s", strerror(errno));
    close_fd(&verdict);
    r->seconds = now_seconds() - begun;
    bool quiet = r->verdict != PY_TIMEOUT && r->verdict != PY_FAILED;
    double patience = r->verdict == PY_GONE ? 2 : 0.3; /* gone: how it ended must be known */
    bool known = end_task(&pair->server[WORKER], &status, quiet ? patience : 0);
    if (r->verdict == PY_GONE) judge_end(r, known, status);
    end_task(&pair->server[CHECKER], &status, quiet ? 0.3 : 0);
    give_pair(pair);
}
