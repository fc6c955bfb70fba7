/* sandbox.c: sandbox_open, which finds out what can be had, and sandbox_run.
 *
 * What to know first: nothing is guessed from version numbers. sandbox_open starts boxes that only
 * try, from the best kind downwards, and what the first one that works reports is from then on
 * demanded of every box: a box that gets less is not started.
 * Test: tests/test_sandbox.py. */

#include "box.h"
#include "python.h"
#include <ftw.h>
#include <poll.h>
#include <sys/wait.h>

static struct {
    Launcher launcher;
    Protections protections;
    bool unsafe;
    PythonHome python;
} sandbox;

/* ------------------------------------------------------------------------------------------------
 * 1. What this machine grants */

static const struct {
    unsigned bit;
    const char *name, *without;
} protection[] = {
    { PROTECT_USER, "user namespace", "" },
    { PROTECT_PID, "pid namespace", "" },
    { PROTECT_NET, "net namespace", "" },
    { PROTECT_MOUNT, "mount namespace", " (no limit on files)" },
    { PROTECT_LANDLOCK, "Landlock", "" },
    { PROTECT_SCOPE, "Landlock scopes", "" },
    { PROTECT_SECCOMP, "seccomp", " (any system call)" },
    { PROTECT_PROCESSES, "process limit", "" },
};

static void describe(Protections *p, unsigned without) {
    size_t n =
        (size_t)snprintf(p->text, sizeof p->text, "sandbox: %s", p->granted ? "" : "no protection");
    for (int missing = 0; missing < 2; missing++) {
        const char *before = missing ? "; missing: " : "";
        for (size_t i = 0; i < sizeof protection / sizeof *protection; i++) {
            bool lacks = !(p->granted & protection[i].bit);
            if (lacks != (missing == 1) || n >= sizeof p->text) continue;
            n += (size_t)snprintf(p->text + n, sizeof p->text - n, "%s%s%s", before,
                                  protection[i].name, missing ? protection[i].without : "");
            before = ", ";
        }
    }
    if (without && n < sizeof p->text)
        snprintf(p->text + n, sizeof p->text - n, "; some of it was not asked for");
}

/* Starts a box that only tries. Returns what it got, or 0. */
static unsigned probe(int mode, unsigned without) {
    static const char *const nothing[] = { "/nothing", NULL };
    Launcher l = { mode, 0, without };
    BoxPlan p;
    Box b;
    BoxStatus s;
    Error e;
    plan_begin(&p, &l, SANDBOX_STRICT);
    p.probe = true;
    p.argv = p.env = nothing;
    if (mode != MODE_NONE) plan_box(&p, 1 << 20);
    p.memory = p.file_size = 1 << 28;
    p.cpu_seconds = 10;
    p.in = null_fd();
    p.out = null_fd();
    p.err = null_fd();
    if (!box_start(&p, &b, &e)) return 0;
    bool ok = box_status(&b, &s) && s.what == BOX_READY;
    box_kill(&b);
    if (!ok) return 0;
    if (mode != MODE_NONE) s.granted |= PROTECT_PID | PROTECT_NET | PROTECT_MOUNT;
    if (mode == MODE_USER) s.granted |= PROTECT_USER;
    return s.granted;
}

bool sandbox_open(const SandboxOptions *options, Error *e) {
    Protections *p = &sandbox.protections;
    const unsigned spaces = PROTECT_PID | PROTECT_NET | PROTECT_MOUNT;
    memset(&sandbox, 0, sizeof sandbox);
    for (int mode = MODE_USER; mode <= MODE_NONE && !p->granted; mode++) {
        if (mode == MODE_USER && options->without & PROTECT_USER) continue;
        if (mode == MODE_ROOT && (geteuid() || options->without & spaces)) continue;
        sandbox.launcher.mode = mode;
        p->granted = probe(mode, options->without);
    }
    sandbox.launcher.granted = p->granted;
    sandbox.launcher.without = options->without;
    bool calls = p->granted & PROTECT_SECCOMP, boxed = (p->granted & spaces) == spaces;
    p->enough = calls && (boxed || p->granted & PROTECT_LANDLOCK);
    p->enough_to_build = calls && boxed && p->granted & PROTECT_PROCESSES;
    sandbox.unsafe = options->unsafe;
    describe(p, options->without);
    if (!p->enough && !options->unsafe)
        return fail(e, "%.400s; expected seccomp and either namespaces or Landlock",
                    p->text + strlen("sandbox: "));
    /* Root runs programs as nobody, who without a mount namespace must reach Python itself. */
    python_find(options->python, sandbox.launcher.mode == MODE_NONE && !geteuid(), &sandbox.python);
    return true;
}

void sandbox_close(void) {
    python_close();
    python_forget(&sandbox.python);
}

Protections sandbox_protections(void) { return sandbox.protections; }
const Launcher *sandbox_launcher(void) { return &sandbox.launcher; }
const PythonHome *sandbox_python_home(void) { return &sandbox.python; }
const char *sandbox_python(void) { return sandbox.python.path[0]; }

/* ------------------------------------------------------------------------------------------------
 * 2. A job: start the box, listen to its three pipes, decide why it ended */

typedef struct {
    SandboxJob job; /* with the defaults in place */
    SandboxResult *r;
    Box box;
    int out, err, collect;
    double begun;
    char scratch[64]; /* a directory instead of the tmpfs, without namespaces */
} Run;

static bool set_reason(Run *run, int reason, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Returns false, so that the loop ends. */
static bool set_reason(Run *run, int reason, int code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(run->r->message, sizeof run->r->message, fmt, args);
    va_end(args);
    run->r->reason = reason;
    run->r->code = code;
    return false;
}

/* Names are put into a directory: they must stay in it. */
static bool good_name(const char *name) {
    for (const char *s = name;; s = strchr(s, '/') + 1) {
        size_t n = strcspn(s, "/");
        if (!n || (n == 1 && s[0] == '.') || (n == 2 && !strncmp(s, "..", 2))) return false;
        if (!s[n]) return strlen(name) < 512;
    }
}

static bool check_job(Run *run) {
    const SandboxJob *j = &run->job;
    const Protections *p = &sandbox.protections;
    for (int i = 0; i < j->n_files; i++)
        if (!good_name(j->files[i].name))
            return set_reason(run, RUN_FAILED, 0, "file '%.80s': expected a path inside the box",
                              j->files[i].name);
    if (!j->argv || !j->argv[0] || (j->argv[0][0] != '/' && strncmp(j->argv[0], "./", 2)))
        return set_reason(run, RUN_FAILED, 0, "program '%.80s': expected /path or ./name",
                          j->argv && j->argv[0] ? j->argv[0] : "");
    if (!p->enough_to_build && !sandbox.unsafe)
        return set_reason(run, RUN_FAILED, 0, "%.200s", p->text);
    return true;
}

static void set_defaults(SandboxJob *j) {
    if (j->seconds <= 0) j->seconds = 10;
    if (j->cpu_seconds <= 0) j->cpu_seconds = j->seconds + 1;
    if (!j->memory) j->memory = 1u << 30;
    if (j->processes <= 0) j->processes = 64;
    if (!j->output) j->output = 1 << 16;
    if (!j->file_size) j->file_size = 16 << 20;
    if (!j->box_size) j->box_size = 64 << 20;
}

enum { ENV_MAX = 64 };

static void set_environment(const SandboxJob *j, const char *env[ENV_MAX]) {
    static const char *const base[] = { "HOME=/box", "TMPDIR=/box", "LANG=C.UTF-8",
                                        "PATH=/usr/local/bin:/usr/bin:/bin" };
    int n = 0;
    while (n < 4) env[n] = base[n], n++;
    for (const char *const *more = j->env; more && *more && n < ENV_MAX - 1; more++)
        env[n++] = *more;
    env[n] = NULL;
}

static bool scratch_directory(Run *run, BoxPlan *p) {
    snprintf(run->scratch, sizeof run->scratch, "/tmp/sandbox-XXXXXX");
    if (!mkdtemp(run->scratch)) return false;
    p->work = run->scratch;
    return geteuid() || !chown(run->scratch, NOBODY, NOBODY);
}

static bool start_job(Run *run, Error *e) {
    const SandboxJob *j = &run->job;
    const char *env[ENV_MAX];
    BoxPlan p;
    plan_begin(&p, &sandbox.launcher, j->profile);
    plan_box(&p, j->box_size);
    bool strict = j->profile == SANDBOX_STRICT;
    if (j->argv[0][0] == '/') plan_bind(&p, j->argv[0], true);
    if (sandbox.python.path[0] && !strcmp(j->argv[0], sandbox.python.path[0]))
        python_bind(&sandbox.python, &p);
    for (const char *const *bind = j->binds; bind && *bind; bind++) plan_bind(&p, *bind, !strict);
    if (!strict) plan_bind(&p, "/etc/alternatives", false);
    if (j->profile == SANDBOX_SHELL) {
        plan_bind(&p, "/bin", true);
        plan_bind(&p, "/usr/bin", true);
    }
    set_environment(j, env);
    p.argv = j->argv;
    p.env = env;
    p.files = j->files;
    p.n_files = j->n_files;
    p.memory = j->memory;
    p.file_size = j->file_size;
    p.cpu_seconds = (uint32_t)(j->cpu_seconds + 0.999);
    p.processes = (uint32_t)j->processes;
    p.in = sealed_file(&j->input, 1);
    bool ok = p.in >= 0 && make_pipe(&run->out, &p.out) && make_pipe(&run->err, &p.err) &&
              (!j->collect || make_pipe(&run->collect, &p.collect)) &&
              (p.mode != MODE_NONE || scratch_directory(run, &p));
    if (ok) return box_start(&p, &run->box, e);
    plan_end(&p);
    return fail(e, "sandbox: %s", strerror(errno));
}

/* Takes what is there. False: nothing more will come, or it was too much. */
static bool take_output(Run *run, int *fd, Buf *to) {
    char block[1 << 15];
    ssize_t n = read(*fd, block, sizeof block);
    if (n < 0 && errno == EINTR) return true;
    if (n <= 0) {
        close_fd(fd);
        return false;
    }
    uint64_t room = run->job.output - to->n;
    buf_add(to, block, (uint64_t)n < room ? (size_t)n : room);
    if ((uint64_t)n <= room) return true;
    return set_reason(run, RUN_OUTPUT, 0, "more than %llu bytes of output",
                      (unsigned long long)run->job.output);
}

static void judge(Run *run, const BoxStatus *s) {
    double cpu = run->job.cpu_seconds;
    if (s->what != BOX_ENDED) {
        set_reason(run, RUN_FAILED, s->value, "sandbox: %s: %s", s->step, strerror(s->value));
    } else if (WIFEXITED(s->value)) {
        set_reason(run, RUN_EXIT, WEXITSTATUS(s->value), "exit code %d", WEXITSTATUS(s->value));
    } else if (WTERMSIG(s->value) == SIGXCPU || s->cpu_ms >= cpu * 1000) {
        set_reason(run, RUN_TIMEOUT, 0, "timeout after %.1f s of processor time", cpu);
    } else {
        int signal = WTERMSIG(s->value);
        set_reason(run, RUN_SIGNAL, signal, "signal %d (%s)", signal, strsignal(signal));
    }
}

/* One look at everything; false when the job has ended or is to be ended. */
static bool watch(Run *run) {
    const SandboxJob *j = &run->job;
    struct pollfd fd[] = { { run->box.status, POLLIN, 0 },
                           { run->out, POLLIN, 0 },
                           { run->err, POLLIN, 0 } };
    double left = run->begun + j->seconds - now_seconds();
    bool summed = j->profile != SANDBOX_STRICT;
    if (left <= 0) return set_reason(run, RUN_TIMEOUT, 0, "timeout after %.1f s", j->seconds);
    int wait = summed && left > 0.02 ? 20 : (int)(left * 1000) + 1;
    if (poll(fd, 3, wait) < 0) return errno == EINTR;
    if (fd[1].revents) take_output(run, &run->out, &run->r->out);
    if (fd[2].revents) take_output(run, &run->err, &run->r->err);
    if (run->r->reason == RUN_OUTPUT) return false;
    if (fd[0].revents) {
        BoxStatus s = { BOX_FAILED, ECHILD, 0, 0, "the box is gone" };
        (void)box_status(&run->box, &s);
        judge(run, &s);
        return false;
    }
    if (summed && tree_memory(run->box.pid, 0) > j->memory)
        return set_reason(run, RUN_MEMORY, 0, "more than %llu MiB of memory",
                          (unsigned long long)(j->memory >> 20));
    return true;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    (void)remove(path); /* what remains makes the removal of its directory fail: seen there */
    return 0;
}

static void end_job(Run *run) {
    const SandboxJob *j = &run->job;
    SandboxResult *r = run->r;
    bool ended = r->reason == RUN_EXIT || r->reason == RUN_SIGNAL;
    Collected end = COLLECTED;
    if (j->collect && r->reason == RUN_EXIT && !r->code)
        end = collect_read(j, run->collect, 2 * j->box_size, now_seconds() + 10, r);
    if (end == COLLECT_TOO_MUCH)
        set_reason(run, RUN_OUTPUT, 0, "more than %llu MiB of files",
                   (unsigned long long)(j->box_size >> 20));
    if (end == COLLECT_FAILED)
        set_reason(run, RUN_FAILED, 0, "sandbox: cannot read what the compiler has made");
    if (!ended || run->box.pid <= 0) box_kill(&run->box);
    while (ended && run->out >= 0 && take_output(run, &run->out, &r->out)) continue;
    while (ended && run->err >= 0 && take_output(run, &run->err, &r->err)) continue;
    box_kill(&run->box);
    close_fd(&run->out);
    close_fd(&run->err);
    close_fd(&run->collect);
    if (run->scratch[0]) nftw(run->scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void sandbox_run(const SandboxJob *job, SandboxResult *r) {
    Run run = { *job, r, { 0, -1, -1 }, -1, -1, -1, now_seconds(), "" };
    Error e;
    memset(r, 0, sizeof *r);
    set_defaults(&run.job);
    r->reason = -1;
    if (!check_job(&run)) return;
    if (!start_job(&run, &e)) set_reason(&run, RUN_FAILED, 0, "%.255s", e.text);
    while (r->reason < 0 && watch(&run)) continue;
    end_job(&run);
    r->seconds = now_seconds() - run.begun;
}

void sandbox_free(SandboxResult *r) {
    buf_free(&r->out);
    buf_free(&r->err);
    for (int i = 0; i < r->n_files; i++) {
        free((void *)(uintptr_t)r->files[i].name);
        free((void *)(uintptr_t)r->files[i].data);
    }
    free(r->files);
    r->files = NULL;
    r->n_files = 0;
}
