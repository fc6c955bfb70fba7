/* launch.c: the parent's side of a box: what every box has, starting one, ending one.
 *
 * What to know first: a user namespace is what lets an ordinary user have all the others, and its
 * ids must be written from outside, so the child waits for a byte. Root maps itself (for the mounts
 * only) and nobody; a user maps itself as nobody. Where the kernel refuses user namespaces, root
 * can still have the others (MODE_ROOT); an ordinary user is left with Landlock, seccomp and limits
 * (MODE_NONE).
 * Test: tests/test_sandbox.py. */

#include "box.h"
#include <sched.h>
#include <sys/wait.h>

/* ------------------------------------------------------------------------------------------------
 * 1. The plan */

static bool below(const char *path, const char *directory) {
    size_t n = strlen(directory);
    return !strncmp(path, directory, n) && (path[n] == '/' || !path[n]);
}

static char *copy_of(const char *text) {
    char *copy = strdup(text);
    if (!copy) die("sandbox: out of memory");
    return copy;
}

static Bind *add_bind(BoxPlan *p, char *path) {
    if (p->n_binds == BIND_MAX) die("sandbox: more than %d binds", BIND_MAX);
    Bind *b = &p->bind[p->n_binds++];
    memset(b, 0, sizeof *b);
    b->path = path;
    for (Bind *other = p->bind; other < b; other++)
        b->covered = b->covered ||
                     (below(path, other->path) && (!other->link || !strcmp(path, other->path)));
    return b;
}

/* The length of the shortest beginning of path that is a link; 0: there is none. */
static size_t first_link(const char *path) {
    char prefix[PATH_MAX];
    struct stat st;
    for (size_t n = 1; n <= strlen(path); n++) {
        if (path[n] && path[n] != '/') continue;
        memcpy(prefix, path, n);
        prefix[n] = 0;
        if (!lstat(prefix, &st) && S_ISLNK(st.st_mode)) return n;
    }
    return 0;
}

/* Where a directory on the way is a link, the box has one too, and what it leads to is bound. */
void plan_bind(BoxPlan *p, const char *path, bool execute) {
    char at[PATH_MAX], real[PATH_MAX], rest[PATH_MAX];
    size_t n = strlen(path);
    if (path[0] != '/' || n >= sizeof at || !realpath(path, real)) return;
    memcpy(at, path, n + 1);
    while ((n = first_link(at))) {
        memcpy(rest, at + n, strlen(at + n) + 1);
        at[n] = 0;
        if (!realpath(at, real) || strlen(real) + strlen(rest) >= sizeof at) return;
        add_bind(p, copy_of(at))->link = copy_of(real);
        n = strlen(real);
        memcpy(at, real, n);
        memcpy(at + n, rest, strlen(rest) + 1);
    }
    add_bind(p, copy_of(at))->execute = execute;
}

void plan_begin(BoxPlan *p, const Launcher *l, int profile) {
    static const char *const shared[] = { "/lib",
                                          "/lib64",
                                          "/usr/lib",
                                          "/usr/lib64",
                                          "/usr/local/lib",
                                          "/usr/libexec",
                                          "/usr/share/zoneinfo",
                                          "/etc/ld.so.cache" };
    static const char *const loader[] = { "/lib64/ld-linux-x86-64.so.2",
                                          "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1",
                                          "/lib/ld-musl-aarch64.so.1" };
    static const char *const device[] = { "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random" };
    bool build = profile == SANDBOX_BUILD || profile == SANDBOX_SHELL;
    memset(p, 0, sizeof *p);
    p->mode = l->mode;
    p->want = l->granted;
    p->without = l->without;
    p->profile = profile;
    p->work = "/";
    p->in = p->out = p->err = p->control = p->lifeline = p->status = p->go = p->collect = -1;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) plan_bind(p, shared[i], build);
    for (size_t i = 0; i < sizeof loader / sizeof *loader; i++) plan_bind(p, loader[i], true);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) {
        add_bind(p, copy_of(device[i]))->device = true;
    }
}

void plan_box(BoxPlan *p, uint64_t bytes) {
    p->work = "/box";
    snprintf(p->box_options, sizeof p->box_options,
             "size=%llu,nr_inodes=20000,mode=700,uid=%d,gid=%d", (unsigned long long)bytes, NOBODY,
             NOBODY);
}

void plan_end(BoxPlan *p) {
    for (int i = 0; i < p->n_binds; i++) {
        free(p->bind[i].path);
        free(p->bind[i].link);
    }
    p->n_binds = 0;
    int *fd[] = { &p->in,       &p->out,    &p->err, &p->control,
                  &p->lifeline, &p->status, &p->go,  &p->collect };
    for (size_t i = 0; i < sizeof fd / sizeof *fd; i++) close_fd(fd[i]);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Descriptors: beyond those that the child gives to its payload, and closed by every exec */

void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

int high_fd(int fd) {
    if (fd < 0 || fd > 9) return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    close(fd);
    return high;
}

int null_fd(void) { return high_fd(open("/dev/null", O_RDWR | O_CLOEXEC)); }

bool make_pipe(int *from, int *to) {
    int fd[2];
    if (pipe2(fd, O_CLOEXEC)) return false;
    *from = high_fd(fd[0]);
    *to = high_fd(fd[1]);
    return *from >= 0 && *to >= 0;
}

/* A file in memory that nobody can change any more: no pipe to fill while its reader stalls. */
int sealed_file(const Str *part, int n_parts) {
    int fd = high_fd(memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    bool ok = fd >= 0;
    for (int i = 0; i < n_parts; i++)
        for (size_t at = 0; at < part[i].n && ok;) {
            ssize_t n = write(fd, part[i].s + at, part[i].n - at);
            ok = n > 0 || (n < 0 && errno == EINTR);
            at += n > 0 ? (size_t)n : 0;
        }
    ok = ok && !fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) &&
         !lseek(fd, 0, SEEK_SET);
    if (!ok) close_fd(&fd);
    return fd;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Starting and ending */

static bool write_map(pid_t pid, const char *name, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
    return ok;
}

/* Root is mapped twice, so that it can build the world and then be somebody who owns nothing even
 * outside; where root's own namespace has no NOBODY to give, and for users, one id must do. *id:
 * whom the box is to become. */
static bool map_ids(pid_t pid, uint32_t *id) {
    char users[64], groups[64];
    snprintf(users, sizeof users, "0 0 1\n%d %d 1\n", NOBODY, NOBODY);
    *id = geteuid() == 0 && write_map(pid, "uid_map", users) ? NOBODY : 0;
    if (*id) return write_map(pid, "gid_map", users);
    snprintf(users, sizeof users, "%d %u 1\n", NOBODY, (unsigned)geteuid());
    snprintf(groups, sizeof groups, "%d %u 1\n", NOBODY, (unsigned)getegid());
    return write_map(pid, "uid_map", users) && write_map(pid, "setgroups", "deny") &&
           write_map(pid, "gid_map", groups);
}

typedef struct { /* struct clone_args */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
} CloneArgs;

static pid_t clone_box(int mode) {
    const uint64_t others =
        CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    CloneArgs args = { .flags = mode == MODE_NONE ? 0 : others, .exit_signal = SIGCHLD };
    if (mode == MODE_USER) args.flags |= CLONE_NEWUSER;
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

bool box_start(BoxPlan *p, Box *b, Error *e) {
    int go = -1;
    *b = (Box){ 0, -1, -1 };
    bool ok = make_pipe(&p->lifeline, &b->lifeline) && make_pipe(&b->status, &p->status) &&
              make_pipe(&p->go, &go);
    if (ok) b->pid = clone_box(p->mode);
    if (ok && b->pid == 0) box_main(p);
    if (!ok || b->pid < 0) {
        ok = fail(e, "sandbox: cannot start a box: %s", strerror(errno));
        b->pid = 0;
    } else {
        uint32_t id = p->mode == MODE_ROOT ? OWN_ID + (uint32_t)b->pid : geteuid() ? 0 : NOBODY;
        ok = (p->mode != MODE_USER || map_ids(b->pid, &id)) &&
             write(go, &id, sizeof id) == sizeof id;
        if (!ok) fail(e, "sandbox: cannot map the ids of a box: %s", strerror(errno));
    }
    close_fd(&go);
    plan_end(p);
    if (!ok) box_kill(b);
    return ok;
}

/* What init or, before it is started, the payload has to say. */
bool box_status(const Box *b, BoxStatus *s) {
    ssize_t n;
    while ((n = read(b->status, s, sizeof *s)) < 0 && errno == EINTR) continue;
    s->step[sizeof s->step - 1] = 0;
    return n == (ssize_t)sizeof *s;
}

/* With a pid namespace the kernel ends everything in it before init can be waited for. */
void box_kill(Box *b) {
    if (b->pid > 0) {
        kill(-b->pid, SIGKILL);
        kill(b->pid, SIGKILL);
        while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR) continue;
    }
    close_fd(&b->lifeline);
    close_fd(&b->status);
    b->pid = 0;
}

/* ------------------------------------------------------------------------------------------------
 * 4. How much memory all processes of a box use: what is theirs alone, and what they share with
 * each other (counted for each), but not pages of files. */

static uint64_t kilobytes(const char *text, const char *field) {
    const char *at = strstr(text, field);
    return at ? strtoull(at + strlen(field), NULL, 10) : 0;
}

static size_t read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

uint64_t tree_memory(pid_t pid, int depth) {
    char path[300], text[8192];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    read_text(path, text, sizeof text);
    uint64_t sum =
        (kilobytes(text, "RssAnon:") + kilobytes(text, "RssShmem:") + kilobytes(text, "VmSwap:")) *
        1024;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = depth < 256 ? opendir(path) : NULL;
    for (struct dirent *t; tasks && (t = readdir(tasks));) {
        if (t->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, t->d_name);
        read_text(path, text, sizeof text);
        char *at = text, *end;
        for (long child; (child = strtol(at, &end, 10)) > 0 && end != at; at = end)
            sum += tree_memory((pid_t)child, depth + 1);
    }
    if (tasks) closedir(tasks);
    return sum;
}
