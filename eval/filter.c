/* filter.c: what a process in a box may ask of the kernel: Landlock rules and a seccomp list.
 *
 * What to know first:
 *  - Landlock (Linux 5.13) is a list of directories with rights; what is not listed cannot be
 *    opened, created or executed, whatever the mounts say. Later versions (ABI) also deny TCP,
 *    and signals and abstract sockets to processes outside.
 *  - seccomp runs a small program of the old packet filter (BPF) before every system call. Ours is
 *    a list of calls that are allowed; everything else gives EPERM. A few calls are allowed by the
 *    value of an argument. Pointers cannot be looked through, so nothing here depends on one.
 *  - Both stay for all descendants and can only become stricter.
 * The constants are spelled out because the kernel may be newer than the headers.
 * Test: tests/test_sandbox.py. */

#include "box.h"
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* ------------------------------------------------------------------------------------------------
 * 1. Landlock */

enum {
    LL_EXECUTE = 1,
    LL_WRITE_FILE = 2,
    LL_READ_FILE = 4,
    LL_READ_DIR = 8,
    LL_REMOVE_DIR = 16,
    LL_REMOVE_FILE = 32,
    LL_MAKE_DIR = 128,
    LL_MAKE_REG = 256,
    LL_MAKE_FIFO = 1024,
    LL_MAKE_SYM = 4096,
    LL_ALL_1 = 8191,      /* all 13 rights of ABI 1 */
    LL_REFER = 8192,      /* ABI 2 */
    LL_TRUNCATE = 16384,  /* ABI 3 */
    LL_IOCTL_DEV = 32768, /* ABI 5 */
    LL_FILE = LL_EXECUTE | LL_WRITE_FILE | LL_READ_FILE | LL_TRUNCATE | LL_IOCTL_DEV,
    LL_CREATE_RULESET = 444,
    LL_ADD_RULE = 445,
    LL_RESTRICT_SELF = 446
};

typedef struct {
    uint64_t fs, net, scoped; /* what is handled: denied unless a rule allows it */
} RulesetAttr;
typedef struct {
    uint64_t access;
    int32_t fd;
} __attribute__((packed)) PathRule;

int landlock_abi(void) {
    long abi = syscall(LL_CREATE_RULESET, NULL, 0, 1);
    return abi > 0 ? (int)abi : 0;
}

/* Allows `access` beneath path. What does not exist, or is nobody's to open, needs no rule. */
static bool allow_path(int rules, const char *path, uint64_t access) {
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT || errno == ENOTDIR || errno == EACCES;
    bool ok = !fstat(fd, &st);
    PathRule rule = { S_ISDIR(st.st_mode) ? access : access & LL_FILE, fd };
    ok = ok && !syscall(LL_ADD_RULE, rules, 1, &rule, 0);
    close(fd);
    return ok;
}

bool landlock_apply(const BoxPlan *p) {
    int abi = landlock_abi();
    if (!abi) return errno = ENOSYS, false;
    bool strict = p->profile == SANDBOX_STRICT || p->profile == SANDBOX_SERVER;
    uint64_t all = LL_ALL_1 | (abi >= 2 ? LL_REFER : 0) | (abi >= 3 ? LL_TRUNCATE : 0) |
                   (abi >= 5 ? LL_IOCTL_DEV : 0);
    uint64_t read = LL_READ_FILE | LL_READ_DIR;
    uint64_t work = read | LL_WRITE_FILE | LL_REMOVE_DIR | LL_REMOVE_FILE | LL_MAKE_DIR |
                    LL_MAKE_REG | LL_REFER | LL_TRUNCATE;
    if (!strict) work |= LL_EXECUTE | LL_MAKE_SYM | LL_MAKE_FIFO;
    if (strict && p->argv[0][0] == '.') work |= LL_EXECUTE;
    RulesetAttr attr = { all, abi >= 4 ? 3 : 0, abi >= 6 ? 3 : 0 };
    size_t size = abi >= 6 ? sizeof attr : abi >= 4 ? 16 : 8;
    int rules = (int)syscall(LL_CREATE_RULESET, &attr, size, 0);
    if (rules < 0) return false;
    bool ok = true;
    for (int i = 0; i < p->n_binds && ok; i++) {
        const Bind *b = &p->bind[i];
        uint64_t access = b->device ? LL_READ_FILE | LL_WRITE_FILE : read;
        ok = allow_path(rules, b->path, access | (b->execute ? LL_EXECUTE : 0));
    }
    if (ok && !strict && p->mode != MODE_NONE) ok = allow_path(rules, "/proc", read);
    if (ok && p->work[1]) ok = allow_path(rules, p->work, work & all);
    ok = ok && !syscall(LL_RESTRICT_SELF, rules, 0);
    close(rules);
    return ok;
}

/* ------------------------------------------------------------------------------------------------
 * 2. seccomp. Three lists: for everyone; what compilers and shells need besides; what the Python
 * server needs besides. Calls that only x86-64 has come last: they are older forms of others. */

/* clang-format off */
static const uint16_t for_all[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_close,
    SYS_close_range, SYS_openat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_faccessat,
    SYS_faccessat2, SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_mkdirat,
    SYS_unlinkat, SYS_renameat2, SYS_umask, SYS_ftruncate, SYS_truncate, SYS_fsync, SYS_fdatasync,
    SYS_fallocate, SYS_fadvise64, SYS_statfs, SYS_fstatfs, SYS_dup, SYS_dup3, SYS_pipe2, SYS_ppoll,
    SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2,
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_membarrier,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_sigaltstack,
    SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday,
    SYS_getitimer, SYS_setitimer, SYS_getrandom, SYS_uname, SYS_sysinfo, SYS_times, SYS_getrusage,
    SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_futex, SYS_set_tid_address, SYS_set_robust_list, SYS_get_robust_list, SYS_rseq,
    SYS_sched_yield, SYS_sched_getaffinity, SYS_execve, SYS_exit, SYS_exit_group, SYS_wait4,
    SYS_restart_syscall,
#ifdef __x86_64__
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_rmdir,
    SYS_unlink, SYS_rename, SYS_renameat, SYS_dup2, SYS_pipe, SYS_poll, SYS_select, SYS_epoll_wait,
    SYS_alarm, SYS_time, SYS_getrlimit, SYS_arch_prctl, SYS_pause
#endif
};

static const uint16_t for_builds[] = {
    SYS_waitid, SYS_getpgid, SYS_getsid, SYS_getgroups, SYS_getresuid, SYS_getresgid,
    SYS_symlinkat, SYS_linkat, SYS_fchmod, SYS_fchmodat, SYS_utimensat, SYS_flock, SYS_fchdir,
    SYS_mknodat, SYS_sendfile, SYS_splice, SYS_copy_file_range, SYS_msync, SYS_mincore,
    SYS_rt_sigtimedwait, SYS_rt_sigsuspend, SYS_kill, SYS_tgkill, SYS_tkill, SYS_getpriority,
    SYS_getcpu, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_timerfd_create, SYS_timerfd_settime, SYS_fgetxattr,
    SYS_getxattr, SYS_lgetxattr, SYS_sendmsg, SYS_recvmsg, SYS_sendto, SYS_recvfrom,
    SYS_shutdown, SYS_getsockopt, SYS_getsockname,
#ifdef __x86_64__
    SYS_fork, SYS_vfork, SYS_getpgrp, SYS_symlink, SYS_link, SYS_chmod, SYS_utime, SYS_utimes,
    SYS_mknod
#endif
};

static const uint16_t for_server[] = {
    SYS_recvmsg, SYS_sendto, SYS_getsockname, SYS_getsockopt,
#ifdef __x86_64__
    SYS_fork
#endif
};
/* clang-format on */

static const uint32_t ok_fcntl[] = { F_DUPFD, F_GETFD,  F_SETFD,
                                     F_GETFL, F_SETFL,  F_GETLK,
                                     F_SETLK, F_SETLKW, 1030 /* F_DUPFD_CLOEXEC */,
                                     36,      37,       38 /* F_OFD_ */ };
static const uint32_t ok_ioctl[] = { 0x5401 /* TCGETS */,   0x5413 /* TIOCGWINSZ */,
                                     0x541B /* FIONREAD */, 0x5421 /* FIONBIO */,
                                     0x5450 /* FIONCLEX */, 0x5451 /* FIOCLEX */ };
static const uint32_t ok_prctl[] = { 3 /* GET_DUMPABLE */, 15 /* SET_NAME */, 16 /* GET_NAME */,
                                     23 /* CAPBSET_READ */, 0x53564d41 /* SET_VMA: names */ };

enum { FILTER_MAX = 700 };
typedef struct {
    struct sock_filter code[FILTER_MAX];
    int n;
} Filter;

static void put(Filter *f, uint16_t code, uint8_t yes, uint8_t no, uint32_t k) {
    if (f->n < FILTER_MAX) f->code[f->n++] = (struct sock_filter){ code, yes, no, k };
}
static void put_return(Filter *f, uint32_t what) { put(f, BPF_RET | BPF_K, 0, 0, what); }
static void put_error(Filter *f, int code) {
    put_return(f, SECCOMP_RET_ERRNO | ((uint32_t)code & SECCOMP_RET_DATA));
}
static void put_load(Filter *f, size_t offset) {
    put(f, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}
/* The next `skip` instructions only if what was loaded is k. */
static void put_if(Filter *f, uint32_t k, int skip) {
    put(f, BPF_JMP | BPF_JEQ | BPF_K, 0, (uint8_t)skip, k);
}
/* Low or high half of argument i; little-endian machines only, as files.h says. */
static void put_argument(Filter *f, int i, int high) {
    put_load(f, offsetof(struct seccomp_data, args) + 8 * (size_t)i + 4 * (size_t)high);
}

static void put_allowed(Filter *f, const uint16_t *calls, size_t n) {
    for (size_t i = 0; i < n; i++) {
        put_if(f, calls[i], 1);
        put_return(f, SECCOMP_RET_ALLOW);
    }
}

/* `call` is allowed if argument `arg` is one of the n values, else it gives `code`. */
static void put_by_value(Filter *f, uint32_t call, int arg, const uint32_t *ok, size_t n,
                         int code) {
    put_if(f, call, 2 + 2 * (int)n);
    put_argument(f, arg, 0);
    for (size_t i = 0; i < n; i++) {
        put_if(f, ok[i], 1);
        put_return(f, SECCOMP_RET_ALLOW);
    }
    put_error(f, code);
}

/* clone: threads for everyone whose number has a limit; processes for those that may fork;
 * namespaces for nobody. clone3 has its flags behind a pointer, so it "does not exist", and libc
 * falls back to clone. */
static void put_clone(Filter *f, bool may_fork, bool may_thread) {
    const uint32_t namespaces = 0x7E020000; /* every CLONE_NEW* */
    put_if(f, SYS_clone3, 1);
    put_error(f, ENOSYS);
    put_if(f, SYS_clone, 5);
    put_argument(f, 0, 0);
    put(f, BPF_JMP | BPF_JSET | BPF_K, 2, 0, namespaces);
    put(f, BPF_JMP | BPF_JSET | BPF_K, 0, may_fork ? 0 : 1, CLONE_THREAD);
    put_return(f, may_thread ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | EAGAIN);
    put_error(f, EPERM);
}

/* prlimit64 on itself: reading, and for the server's children also lowering. */
static void put_prlimit(Filter *f, bool may_set) {
    put_if(f, SYS_prlimit64, may_set ? 4 : 8);
    put_argument(f, 0, 0);
    put_if(f, 0, may_set ? 1 : 5);
    if (!may_set) {
        put_argument(f, 2, 0);
        put_if(f, 0, 3);
        put_argument(f, 2, 1);
        put_if(f, 0, 1);
    }
    put_return(f, SECCOMP_RET_ALLOW);
    put_error(f, EPERM);
}

/* Leaves the number of the call loaded. Another architecture's calls have other numbers. */
static void put_header(Filter *f) {
#ifdef __x86_64__
    const uint32_t arch = AUDIT_ARCH_X86_64, beyond = 0x40000000; /* x32: a third set of numbers */
#else
    const uint32_t arch = AUDIT_ARCH_AARCH64, beyond = 0x80000000;
#endif
    put_load(f, offsetof(struct seccomp_data, arch));
    put_if(f, arch, 2);
    put_load(f, offsetof(struct seccomp_data, nr));
    put(f, BPF_JMP | BPF_JGE | BPF_K, 0, 1, beyond);
    put_return(f, SECCOMP_RET_KILL_PROCESS);
}

#define COUNT(list) (sizeof(list) / sizeof *(list))

bool filter_apply(const BoxPlan *p) {
    static Filter f; /* of this process alone: it is a copy */
    const uint32_t me[] = { (uint32_t)getpid() }, unix_only[] = { 1 };
    bool server = p->profile == SANDBOX_SERVER;
    bool build = p->profile == SANDBOX_BUILD || p->profile == SANDBOX_SHELL;
    f.n = 0;
    put_header(&f);
    /* Signals reach the box only, where it has a pid namespace, else the process itself only. */
    if (!server && (!build || p->mode == MODE_NONE)) {
        put_by_value(&f, SYS_kill, 0, me, 1, EPERM);
        put_by_value(&f, SYS_tgkill, 0, me, 1, EPERM);
        put_by_value(&f, SYS_tkill, 0, NULL, 0, EPERM);
    }
    put_allowed(&f, for_all, COUNT(for_all));
    if (build) put_allowed(&f, for_builds, COUNT(for_builds));
    if (build) put_by_value(&f, SYS_socketpair, 0, unix_only, 1, EPERM);
    if (server) put_allowed(&f, for_server, COUNT(for_server));
    put_by_value(&f, SYS_fcntl, 1, ok_fcntl, COUNT(ok_fcntl), EPERM);
    put_by_value(&f, SYS_ioctl, 1, ok_ioctl, COUNT(ok_ioctl), ENOTTY);
    put_by_value(&f, SYS_prctl, 0, ok_prctl, COUNT(ok_prctl), EPERM);
    put_clone(&f, build || server, build || server || p->mode != MODE_NONE);
    put_prlimit(&f, server);
    put_error(&f, EPERM);
    struct sock_fprog program = { (unsigned short)f.n, f.code };
    if (f.n == FILTER_MAX) return errno = ENOSPC, false;
    return !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
