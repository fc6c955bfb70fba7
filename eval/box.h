/* box.h: what the files of the sandbox share, and nobody else needs: one box from the inside.
 *
 * What to know first: the parent (sandbox.c, python.c) writes down everything a box needs in a
 * BoxPlan and clones. The child (box.c) may be the copy of a program with many threads, so it uses
 * system calls and this plan only: no malloc, no stdio, no locks.
 *
 *     parent ---- lifeline ---> init of the box (process 1 of its pid namespace, our code)
 *       ^ \                       |  \ forks                        reaps orphans, ends when the
 *       |  `-- stdin/out/err -----|---> payload (execve)            lifeline or the payload does
 *       `------- status ----------'
 * Test: tests/test_sandbox.py. */
#ifndef OC_BOX_H
#define OC_BOX_H

#include "sandbox.h"
#include <linux/filter.h> /* struct sock_filter */
#include <stddef.h>       /* offsetof */
#include <sys/resource.h> /* rlim_t */
#include <sys/syscall.h>  /* numbers of system calls; those that older headers lack: */
#include <sys/types.h>    /* pid_t */
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

enum { SANDBOX_SERVER = SANDBOX_SHELL + 1 }; /* python.c's: a Python that forks, no /box */
enum { MODE_USER, MODE_ROOT, MODE_NONE };    /* namespaces; those root has without a user's; none */
enum { NOBODY = 65534, BIND_MAX = 96, FD_CONTROL = 3 };
/* Plus the pid of its init: the user and group of a box of MODE_ROOT. */
enum { OWN_ID = 1330000000 };

/* What the parent hears on the status pipe. */
enum { BOX_READY, BOX_FAILED, BOX_ENDED };
typedef struct {
    int32_t what;
    int32_t value;    /* FAILED: errno; ENDED: the wait status of the payload */
    uint32_t granted; /* READY: PROTECT_* */
    uint32_t cpu_ms;  /* ENDED: processor time of the payload and its children */
    char step[80];    /* FAILED: what did not work */
} BoxStatus;

typedef struct {
    char *path;
    char *link;   /* not bound, but made: a link to there; or NULL */
    bool execute; /* programs may be started from it (a rule of Landlock) */
    bool device;
    bool covered; /* beneath a directory that is bound anyway */
} Bind;

typedef struct {
    int mode, profile;
    unsigned want;    /* PROTECT_* that must be had: without them nothing is started */
    unsigned without; /* PROTECT_* not to ask for */
    bool probe;       /* report BOX_READY instead of starting anything */
    const char *const *argv;
    const char *const *env;
    Bind bind[BIND_MAX];
    int n_binds;
    const SandboxFile *files;
    int n_files;
    const char *work; /* working directory: "/box", a scratch directory of MODE_NONE, or "/" */
    uint64_t memory, file_size;
    uint32_t cpu_seconds, processes;
    uint32_t id;               /* whom root becomes once the mounts are made; 0: it is not root */
    char box_options[96];      /* of the tmpfs at `work` */
    int in, out, err, control; /* the payload's; control: its descriptor 3, or -1 */
    int lifeline, status, go, collect; /* init's; go: `id`, when the ids are mapped */
} BoxPlan;

/* filter.c */
int landlock_abi(void);                /* 0: none */
bool landlock_apply(const BoxPlan *p); /* false: errno */
bool filter_apply(const BoxPlan *p);

/* box.c, collect.c: the child's whole life, right after clone. */
OC_NORETURN void box_main(BoxPlan *p);
/* Sends every regular file under the directory `dir` to `to`. */
void box_collect(int dir, int to);
/* The other end: fills r->files, without those that were placed. Too much are more than `limit`
 * bytes; it fails where the stream is broken, cannot be read, or is not done at `deadline`
 * (now_seconds). */
typedef enum { COLLECTED, COLLECT_TOO_MUCH, COLLECT_FAILED } Collected;
Collected collect_read(const SandboxJob *job, int from, uint64_t limit, double deadline,
                       SandboxResult *r);

/* launch.c: the parent's side. */
typedef struct {
    int mode;         /* MODE_* */
    unsigned granted; /* PROTECT_* that a box gets, and without which none is started from now on */
    unsigned without; /* PROTECT_* to do without, for tests */
} Launcher;
typedef struct {
    pid_t pid; /* init; 0: no box */
    int lifeline, status;
} Box;
/* What every box of that profile has. plan_bind adds a path of the host, if it exists. */
void plan_begin(BoxPlan *p, const Launcher *l, int profile);
void plan_bind(BoxPlan *p, const char *path, bool execute);
void plan_box(BoxPlan *p, uint64_t bytes); /* /box, a tmpfs of that size, to work in */
void plan_end(BoxPlan *p);                 /* frees it and closes its descriptors */
/* Starts the box and ends the plan, in any case. */
bool box_start(BoxPlan *p, Box *b, Error *e);
bool box_status(const Box *b, BoxStatus *s); /* waits for the next; false: the box is gone */
void box_kill(Box *b);                       /* and waits until all of it is gone */
/* sandbox.c: what sandbox_open has found. */
const Launcher *sandbox_launcher(void);

uint64_t tree_memory(pid_t pid, int depth); /* bytes of a process and its descendants; depth 0 */
void close_fd(int *fd);                     /* and sets it to -1 */
int high_fd(int fd);                        /* the same file, above 9; -1 stays -1 */
bool make_pipe(int *from, int *to);
int null_fd(void);
int sealed_file(const Str *part, int n_parts); /* a readable file of these bytes, or -1 */

#endif
