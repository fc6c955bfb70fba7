/* sandbox.h: programs that nobody trusts, run where they can neither harm nor cheat.
 *
 * What to know first:
 *  - A box is a process tree in namespaces of its own (user, pid, net, mount, ipc, uts, cgroup) on
 *    an empty tmpfs, with what it needs of the host bound read-only, no network, no /proc, an empty
 *    environment, no capability, Landlock rules, a seccomp list of allowed calls and limits. Who
 *    kills its first process kills all of it, and nothing is left behind.
 *  - sandbox_run is for every language: tests and program run together in a box, so a program may
 *    forge its own success; say so where such a result is reported.
 *  - python_check is for Python, where nothing can be forged: the tests are run by a checker in one
 *    box, the program by a worker in another. The worker gets calls and arguments over a pipe and
 *    answers with literals; it never sees a test or an expected value.
 *  - Everything here is safe to call from several threads at once. Call sandbox_open first, once.
 *
 *     sandbox.c   what this machine grants; jobs      launch.c       starting and ending a box
 *     box.c       a box from the inside               filter.c       Landlock and seccomp
 *     collect.c   bringing files out of a box         interpreter.c  finding Python
 *     python.c    python_check                        server.py      a warm Python that forks
 *     checker.py  runs the tests                      worker.py      runs the program
 *     wire.py     how these two talk
 *
 * Tests: tests/test_sandbox.py and test_pycheck.py, which start eval/sandbox_main.c. */
#ifndef OC_SANDBOX_H
#define OC_SANDBOX_H

#include "../files.h" /* Str, Buf, Error */

/* ------------------------------------------------------------------------------------------------
 * 1. What the kernel grants */

/* Bits of Protections. */
enum {
    PROTECT_USER = 1,        /* user namespace: nobody inside, no capability outside */
    PROTECT_PID = 2,         /* pid namespace: sees no other process, dies as one */
    PROTECT_NET = 4,         /* net namespace: not even a loopback */
    PROTECT_MOUNT = 8,       /* mount, ipc, uts namespaces; pivot_root onto a tmpfs with a size */
    PROTECT_LANDLOCK = 16,   /* file rules that hold whatever the mounts say */
    PROTECT_SCOPE = 32,      /* Landlock of ABI 6: no signals, no abstract sockets to the outside */
    PROTECT_SECCOMP = 64,    /* the list of allowed system calls */
    PROTECT_PROCESSES = 128, /* a limit on the processes of a box that the kernel enforces */
    PROTECT_ALL = 255
};

typedef struct {
    unsigned granted;     /* PROTECT_* that a box really got: tried at sandbox_open, not guessed */
    bool enough;          /* false: nothing is run unless SandboxOptions.unsafe */
    bool enough_to_build; /* as `enough`, for jobs with files (every language but Python): they
                           * need a place to write to whose size is bounded */
    char text[512]; /* one line for people: what is there, what is missing and what that means */
} Protections;

typedef struct {
    const char *python; /* an interpreter or a shim of one; NULL: python3 of PATH */
    bool unsafe;        /* run although too little is left */
    unsigned without;   /* PROTECT_* to do without, as if the kernel refused them; for tests */
} SandboxOptions;

/* Finds out what this machine grants, and where Python is. False, with the reason in e, where too
 * little is left and `unsafe` is not set. A machine without Python is no error here:
 * sandbox_python() is NULL then. May be called again after sandbox_close. */
bool sandbox_open(const SandboxOptions *options, Error *e);
void sandbox_close(void); /* ends every box; no call may be under way */
Protections sandbox_protections(void);
const char *sandbox_python(void); /* the interpreter itself, absolute; NULL: there is none */

/* ------------------------------------------------------------------------------------------------
 * 2. Any program */

/* SandboxJob.profile. STRICT is for programs: no fork, no exec but the first, threads only up to
 * `processes`; the memory limit is one of address space. BUILD is for compilers, the JVM, Go,
 * Node.js: fork, exec and threads, and a /proc of their own processes; memory is the sum over all
 * of them. SHELL is BUILD with /bin and /usr/bin to start programs from. */
enum { SANDBOX_STRICT, SANDBOX_BUILD, SANDBOX_SHELL };

typedef struct {
    const char *name; /* relative, as "Main.java" or "a/b.h"; no "..", no leading '/' */
    const void *data;
    size_t n;
    bool executable;
} SandboxFile;

/* Fields left 0 get the defaults in brackets. Nothing here is kept after sandbox_run returns. */
typedef struct {
    const char *const *argv;  /* ends with NULL. argv[0] is an absolute path of the host, which is
                              * bound, or "./name" for one of `files` that is executable */
    const SandboxFile *files; /* placed in the working directory /box, a tmpfs, before the start */
    int n_files;
    const char *const *binds; /* ends with NULL, or is NULL: absolute host paths, files or whole
                               * directories, that are there under the same name, read-only.
                               * /usr/lib, /lib, /lib64, /usr/local/lib are there always, and
                               * Python's own directories where argv[0] is sandbox_python(). What
                               * does not exist on the host is left out */
    const char *const *env;   /* ends with NULL, or is NULL: more NAME=VALUE; without it there are
                               * only PATH, HOME=/box, LANG=C.UTF-8, TMPDIR=/box */
    Str input;                /* what it reads from its standard input, then end of file */
    int profile;              /* SANDBOX_* */
    double seconds;           /* wall clock [10] */
    double cpu_seconds;       /* of each process [`seconds` + 1, rounded up] */
    uint64_t memory;    /* bytes; STRICT: address space of the process, else the sum [1 GiB] */
    int processes;      /* at any time, threads included [64] */
    uint64_t output;    /* bytes of stdout and stderr each; more ends the job [64 KiB] */
    uint64_t file_size; /* of one file [16 MiB] */
    uint64_t box_size;  /* of all files together [64 MiB] */
    bool collect;       /* return what the job left in /box if it ended with exit code 0 */
} SandboxJob;

/* SandboxResult.reason */
enum {
    RUN_EXIT,    /* ended by itself: code is its exit code */
    RUN_SIGNAL,  /* code is the signal that ended it: a crash, or a call that is not allowed */
    RUN_TIMEOUT, /* of wall clock or processor */
    RUN_MEMORY,  /* the summed memory was passed. (In STRICT an allocation fails, and the program
                  * ends as RUN_EXIT or RUN_SIGNAL, however it takes that) */
    RUN_OUTPUT,  /* wrote more than `output` */
    RUN_FAILED   /* never started: message says why. Not the program's fault: not to be counted */
};

typedef struct {
    int reason, code;
    Buf out, err;       /* what it wrote, up to the limit; bytes, not text */
    double seconds;     /* from the start to the end */
    SandboxFile *files; /* `collect`: regular files with names relative to /box, without those */
    int n_files;        /* that were placed there and are unchanged */
    char message[256];  /* one line for people, as "timeout after 3.0 s" */
} SandboxResult;

/* Runs the job to its end. Always fills r, which sandbox_free empties. */
void sandbox_run(const SandboxJob *job, SandboxResult *r);
void sandbox_free(SandboxResult *r);

/* ------------------------------------------------------------------------------------------------
 * 3. Python programs with tests that they cannot see
 *
 * The checker executes `setup` and then `tests`, both as they stand in the task file. Names that
 * `tests` use and that neither `setup`, nor the tests, nor Python define, and `entry` whatever
 * defines it, are bound to the candidate's: calls, attributes, iteration and the like go through
 * the pipe. Passed means that the last line of `tests` was reached without an exception.
 *
 *     HumanEval: setup = imports + prompt + "    pass\n", tests = test + "\ncheck(" entry ")\n"
 *     MBPP:      setup = imports, tests = test_setup_code + "\n" + asserts joined by "\n"; entry =
 *                the function that they call (task 126 wants one called `sum`)
 *
 * Plain values cross in both directions: None, bool, int, float, complex, str, bytes, bytearray,
 * list, tuple, set, frozenset, dict, range, and of the library Decimal, Fraction, deque, Counter,
 * OrderedDict, defaultdict, date, time, datetime, timedelta. Subclasses arrive as what they are
 * built on. Any other object stays where it is and the other side gets a handle. Lists, dicts, sets
 * and bytearrays that the candidate changes in place are changed for the tests too. Exceptions
 * arrive as the built-in exception they are or come from. */

typedef struct {
    Str program;       /* hostile: the whole program, with the prompt where it continues one */
    Str setup, tests;  /* trusted */
    const char *entry; /* a name that is the candidate's even if setup defines it, or NULL */
    double seconds;    /* wall clock for all of it [3] */
    uint64_t memory;   /* address space of the worker [1 GiB] */
} PythonTask;

/* PythonResult.verdict */
enum {
    PY_PASSED,    /* the tests ran to their end */
    PY_WRONG,     /* an assertion of the tests does not hold */
    PY_EXCEPTION, /* the program raised anything else, or the tests did over its answer */
    PY_TIMEOUT,
    PY_MEMORY,
    PY_SYNTAX,  /* the program does not compile */
    PY_CHEATED, /* ended itself, broke the protocol, was killed for a call that is not allowed */
    PY_FAILED   /* not the program's fault: no Python, no box, or the tests do not compile */
};
extern const char *const python_verdict_name[]; /* "passed", "wrong answer", "exception", ... */

typedef struct {
    int verdict;
    double seconds;
    char message[256]; /* one line, printable: as "ZeroDivisionError: division by zero" or, of a
                        * wrong answer, the assertion that failed */
} PythonResult;

/* Runs one task to its verdict. Boxes with a warm interpreter are kept for the next call, as many
 * as there were calls at once; one in which anything unusual happened is ended and replaced. */
void python_check(const PythonTask *task, PythonResult *r);

#endif
