/* box.c: the life of a box from the inside, from the clone to the last process.
 *
 * What to know first: everything here runs in the child. The parent may have many threads, one of
 * which held the lock of malloc or stdio at the moment of the clone, and that lock is now held for
 * ever. So: system calls and the plan, nothing else; and where libc would tell its (absent) threads
 * about a change, as setuid and fork do, the call is made directly.
 *
 *  1. world: a tmpfs for root, what the host shares read-only, /box; then the host is let go
 *  2. nobody: no capability is left, and no way to regain one
 *  3. payload: limits, Landlock, seccomp, execve
 *  4. init: reaps, waits, cleans up, and sends what is to be collected
 * Test: tests/test_sandbox.py. */

#include "box.h"
#include <dirent.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* Where the new root is built: the one directory that nothing is ever bound from. */
#define NEW_ROOT "/proc"

static void copy_text(char *to, size_t size, const char *from) {
    size_t n = strlen(from);
    if (n >= size) n = size - 1;
    memcpy(to, from, n);
    to[n] = 0;
}

static OC_NORETURN void box_fail(const BoxPlan *p, const char *step, const char *detail) {
    BoxStatus s = { BOX_FAILED, errno, 0, 0, { 0 } };
    size_t n = strlen(step);
    copy_text(s.step, sizeof s.step, step);
    if (detail && n + 2 < sizeof s.step) {
        s.step[n] = ' ';
        copy_text(s.step + n + 1, sizeof s.step - n - 1, detail);
    }
    (void)!write(p->status, &s, sizeof s); /* who cannot even say so is noticed by its end */
    _exit(125);
}

/* Closes every descriptor but 0 to 2 and the plan's: other threads' files are none of ours. */
static void close_others(const BoxPlan *p) {
    int keep[] = { p->in, p->out, p->err, p->control, p->lifeline, p->status, p->go, p->collect };
    unsigned from = 3;
    for (;;) {
        unsigned next = ~0u; /* the lowest kept one that is not below `from` */
        for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
            if (keep[i] >= (int)from && (unsigned)keep[i] < next) next = (unsigned)keep[i];
        if (next > from) syscall(SYS_close_range, from, next == ~0u ? next : next - 1, 0);
        if (next == ~0u) return;
        from = next + 1;
    }
}

/* ------------------------------------------------------------------------------------------------
 * 1. The world */

typedef struct {
    uint64_t set, clear, propagation, userns;
} MountAttr;
enum { ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, RECURSIVE = 0x8000 };

static bool restrict_mount(const char *path, uint64_t set, unsigned flags) {
    MountAttr attr = { set, 0, 0, 0 };
    return !syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attr, sizeof attr);
}

/* The directories on the way to path, in the tmpfs; path itself too if `all`. */
static void make_parents(char *path, bool all) {
    for (char *s = path + 1; *s; s++) {
        if (*s != '/') continue;
        *s = 0;
        (void)mkdir(path, 0755); /* what is there already is as good; what is missing fails later */
        *s = '/';
    }
    if (all) (void)mkdir(path, 0755);
}

/* The path in the new root, in a buffer that the next call overwrites. */
static char *in_new_root(const BoxPlan *p, const char *path) {
    static char full[PATH_MAX + 16];
    if (strlen(path) > PATH_MAX) {
        errno = ENAMETOOLONG;
        box_fail(p, "path", path);
    }
    memcpy(full, NEW_ROOT, sizeof NEW_ROOT);
    copy_text(full + sizeof NEW_ROOT - 1, PATH_MAX, path);
    return full;
}

static void make_bind(const BoxPlan *p, const Bind *b) {
    struct stat st;
    char *to = in_new_root(p, b->path);
    if (lstat(b->path, &st)) return; /* the plan lists what may be there */
    make_parents(to, !b->link && S_ISDIR(st.st_mode));
    if (b->link) {
        if (symlink(b->link, to)) box_fail(p, "link", b->path);
        return;
    }
    if (!S_ISDIR(st.st_mode)) {
        int fd = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (fd >= 0) close(fd);
    }
    if (mount(b->path, to, NULL, MS_BIND | MS_REC, NULL)) box_fail(p, "bind", b->path);
    if (!restrict_mount(to, ATTR_RDONLY | ATTR_NOSUID | (b->device ? 0 : ATTR_NODEV), RECURSIVE))
        box_fail(p, "read-only bind", b->path);
}

/* For compilers and shells, a /proc of their own processes: several find their parts by
 * /proc/self/exe. Containers may refuse it, and the rest works without. */
static void make_proc(const BoxPlan *p) {
    static const char *const link[][2] = { { "/proc/self/fd", "/dev/fd" },
                                           { "/proc/self/fd/0", "/dev/stdin" },
                                           { "/proc/self/fd/1", "/dev/stdout" },
                                           { "/proc/self/fd/2", "/dev/stderr" } };
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    char *to = in_new_root(p, "/proc");
    make_parents(to, true);
    if (mount("proc", to, "proc", flags, "hidepid=invisible,subset=pid")) return;
    for (int i = 0; i < 4; i++) (void)!symlink(link[i][0], in_new_root(p, link[i][1]));
}

static void make_world(const BoxPlan *p) {
    const unsigned long flags = MS_NOSUID | MS_NODEV;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) box_fail(p, "private mounts", NULL);
    if (mount("root", NEW_ROOT, "tmpfs", flags, "size=1m,nr_inodes=4k,mode=755"))
        box_fail(p, "tmpfs", NULL);
    for (int i = 0; i < p->n_binds; i++)
        if (!p->bind[i].covered) make_bind(p, &p->bind[i]);
    if (p->profile == SANDBOX_BUILD || p->profile == SANDBOX_SHELL) make_proc(p);
    if (p->work[1]) {
        char *to = in_new_root(p, p->work);
        make_parents(to, true);
        if (mount("box", to, "tmpfs", flags, p->box_options)) box_fail(p, "tmpfs", p->work);
        if (p->id && p->id != NOBODY) (void)!chown(to, p->id, p->id); /* or become_nobody: EINVAL */
    }
    /* pivot_root(".", ".") puts the old root on top of the new one, where it can be let go. */
    if (chdir(NEW_ROOT) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
        chdir("/"))
        box_fail(p, "pivot_root", NULL);
    if (!restrict_mount("/", ATTR_RDONLY, 0)) box_fail(p, "read-only root", NULL);
    if (sethostname("box", 3)) box_fail(p, "sethostname", NULL);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Nobody. Without its user namespace's capabilities, and as a user that owns nothing. */

static bool become(uint32_t id) {
    return !syscall(SYS_setresgid, id, id, id) && !syscall(SYS_setresuid, id, id, id);
}

static void become_nobody(BoxPlan *p) {
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
    for (unsigned long cap = 0; cap < 64; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* beyond the last one it fails */
    if (p->id) {
        if (syscall(SYS_setgroups, 0, NULL)) box_fail(p, "setgroups", NULL);
        /* EINVAL: root's own namespace has no such number to give. */
        if (!become(p->id) && (errno != EINVAL || !become(p->id = NOBODY)))
            box_fail(p, "setresuid", NULL);
    }
    if (syscall(SYS_capset, &head, none)) box_fail(p, "capset", NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) box_fail(p, "no_new_privs", NULL);
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)) box_fail(p, "dumpable", NULL);
}

static void place_files(const BoxPlan *p) {
    for (int i = 0; i < p->n_files; i++) {
        const SandboxFile *f = &p->files[i];
        char path[PATH_MAX];
        copy_text(path, sizeof path, f->name);
        make_parents(path, false);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC,
                      f->executable ? 0700 : 0600);
        if (fd < 0) box_fail(p, "file", f->name);
        for (size_t at = 0; at < f->n;) {
            ssize_t n = write(fd, (const char *)f->data + at, f->n - at);
            if (n < 0) box_fail(p, "file", f->name);
            at += (size_t)n;
        }
        close(fd);
    }
}

/* ------------------------------------------------------------------------------------------------
 * 3. The payload */

static void set_limit(const BoxPlan *p, int what, rlim_t value) {
    /* SIGXCPU says that it was the processor; who ignores it is killed a second later. */
    struct rlimit old, new = { value, what == RLIMIT_CPU ? value + 1 : value };
    if (!getrlimit(what, &old) && old.rlim_max < new.rlim_max) new.rlim_max = old.rlim_max;
    if (new.rlim_cur > new.rlim_max) new.rlim_cur = new.rlim_max;
    if (setrlimit(what, &new)) box_fail(p, "setrlimit", NULL);
}

/* Is the user, in its namespace, this box's alone? */
static bool counts_alone(const BoxPlan *p) {
    return p->mode == MODE_USER || (p->mode == MODE_ROOT && p->id != NOBODY);
}

static void set_limits(const BoxPlan *p) {
    bool build = p->profile == SANDBOX_BUILD || p->profile == SANDBOX_SHELL;
    set_limit(p, RLIMIT_CORE, 0);
    set_limit(p, build ? RLIMIT_DATA : RLIMIT_AS, p->memory);
    set_limit(p, RLIMIT_CPU, p->cpu_seconds);
    set_limit(p, RLIMIT_FSIZE, p->file_size);
    set_limit(p, RLIMIT_NOFILE, build ? 1024 : 64);
    set_limit(p, RLIMIT_STACK, build ? 8 << 20 : 64 << 20);
    set_limit(p, RLIMIT_MEMLOCK, 0);
    set_limit(p, RLIMIT_MSGQUEUE, 0);
    set_limit(p, RLIMIT_SIGPENDING, 64);
    set_limit(p, RLIMIT_NICE, 0);
    set_limit(p, RLIMIT_RTPRIO, 0);
    /* Counted for each user of each user namespace, init too. Where that is not the box's own, the
     * boxes of all programs add up: no promise, but a bound. */
    if (p->processes && p->mode != MODE_NONE)
        set_limit(p, RLIMIT_NPROC, counts_alone(p) ? p->processes + 1 : 16 * p->processes);
}

/* Does the kernel count? It does not for root, whom a single mapped id may still be. */
static bool forks_are_counted(const BoxPlan *p) {
    if (!counts_alone(p)) return false;
    set_limit(p, RLIMIT_NPROC, 0);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (!pid) _exit(0);
    return pid < 0;
}

/* Landlock and seccomp: which of them hold now. Fails where one that is wanted does not. */
static unsigned restrict_calls(const BoxPlan *p) {
    unsigned granted = 0;
    if (!(p->without & PROTECT_LANDLOCK) && landlock_apply(p))
        granted |= PROTECT_LANDLOCK | (landlock_abi() >= 6 ? PROTECT_SCOPE : 0);
    if (p->want & ~granted & (PROTECT_LANDLOCK | PROTECT_SCOPE)) box_fail(p, "Landlock", NULL);
    if (!(p->without & PROTECT_SECCOMP) && filter_apply(p)) granted |= PROTECT_SECCOMP;
    if (p->want & ~granted & PROTECT_SECCOMP) box_fail(p, "seccomp", NULL);
    return granted;
}

static OC_NORETURN void run_payload(BoxPlan *p) {
    sigset_t none;
    sigemptyset(&none);
    struct sigaction standard = { .sa_handler = SIG_DFL };
    sigaction(SIGCHLD, &standard, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(p->in, 0) < 0 || dup2(p->out, 1) < 0 || dup2(p->err, 2) < 0) box_fail(p, "dup2", NULL);
    if (p->control >= 0 && dup2(p->control, FD_CONTROL) < 0) box_fail(p, "dup2", NULL);
    if (fcntl(p->status, F_SETFD, FD_CLOEXEC)) box_fail(p, "fcntl", NULL);
    unsigned first = p->control >= 0 ? FD_CONTROL + 1 : 3, status = (unsigned)p->status;
    if (status > first) syscall(SYS_close_range, first, status - 1, 0);
    syscall(SYS_close_range, status + 1, ~0u, 0);
    set_limits(p);
    unsigned granted = p->probe && forks_are_counted(p) ? PROTECT_PROCESSES : 0;
    granted |= restrict_calls(p);
    if (p->probe) {
        BoxStatus s = { BOX_READY, 0, granted, 0, { 0 } };
        (void)!write(p->status, &s, sizeof s);
        _exit(0);
    }
    execve(p->argv[0], (char *const *)p->argv, (char *const *)p->env);
    box_fail(p, "cannot start", p->argv[0]);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Init. Being process 1 of its namespace it gets no signal from inside it, and everything in
 * there dies with it. */

static void wake(int signal) { (void)signal; }

/* Reaps whatever has ended; true when the payload is among it. */
static bool reap(pid_t payload, int *status) {
    int s;
    bool found = false;
    for (pid_t pid; (pid = waitpid(-1, &s, WNOHANG)) > 0;) {
        if (pid == payload) *status = s;
        found = found || pid == payload;
    }
    return found;
}

static uint32_t children_ms(void) {
    struct rusage u;
    if (getrusage(RUSAGE_CHILDREN, &u)) return 0;
    long long us = (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000ll + u.ru_utime.tv_usec +
                   u.ru_stime.tv_usec;
    return (uint32_t)(us / 1000);
}

static OC_NORETURN void run_init(const BoxPlan *p, pid_t payload) {
    BoxStatus s = { BOX_ENDED, 0, 0, 0, { 0 } };
    sigset_t none;
    sigemptyset(&none);
    struct pollfd lifeline = { p->lifeline, POLLIN, 0 };
    /* The payload's ends of its pipes are the payload's alone, so that their end is seen. */
    close(p->in);
    close(p->out);
    close(p->err);
    if (p->control >= 0) close(p->control);
    while (!reap(payload, &s.value))
        if (ppoll(&lifeline, 1, NULL, &none) > 0) { /* nobody writes to it: the parent is gone */
            kill(p->mode == MODE_NONE ? 0 : -1, SIGKILL);
            _exit(124);
        }
    if (p->mode != MODE_NONE) {
        kill(-1, SIGKILL); /* what the payload has left, but not init itself */
        while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) continue;
    }
    s.cpu_ms = children_ms();
    (void)!write(p->status, &s, sizeof s);
    if (p->collect >= 0 && WIFEXITED(s.value) && !WEXITSTATUS(s.value)) {
        int dir = open(p->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0) box_collect(dir, p->collect);
    }
    if (p->mode == MODE_NONE) kill(0, SIGKILL); /* the group, and so itself */
    _exit(0);
}

void box_main(BoxPlan *p) {
    struct sigaction standard = { .sa_handler = SIG_DFL }, waking = { .sa_handler = wake };
    sigset_t child;
    close_others(p);
    for (int i = 1; i < 65; i++)
        (void)sigaction(i, &standard, NULL); /* the parent's are not ours */
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &child, NULL);
    sigaction(SIGCHLD, &waking, NULL);
    setsid(); /* one group for signals, and no terminal to type into */
    if (read(p->go, &p->id, sizeof p->id) != sizeof p->id) _exit(125);
    close(p->go);
    umask(022);
    if (p->mode != MODE_NONE) make_world(p);
    become_nobody(p);
    umask(077);
    if (chdir(p->work)) box_fail(p, "chdir", p->work);
    place_files(p);
    pid_t payload = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (payload < 0) box_fail(p, "fork", NULL);
    if (!payload) run_payload(p);
    run_init(p, payload);
}
