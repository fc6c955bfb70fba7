/* torture.c: a library for LD_PRELOAD that lets the N-th call of a kind fail, for torture.py.
 *
 * What to know first: a run without faults only counts, so that the script knows how many calls of
 * each kind there are; then it starts the program once for each of them. The variables
 *
 *     OC_TORTURE=write:3:ENOSPC   the third write has no room; then all goes well again
 *     OC_TORTURE=memory:7:ENOMEM+ the seventh allocation fails, and all that follow
 *     OC_TORTURE=read:2:short     the second read gives half of what was asked for
 *     OC_TORTURE_COUNTS=FILE      at the end, `kind calls` of each kind are written there
 *
 * stdin and stdout become streams over the read and write in here, because the C library does not
 * come by for its own. Programs that are started do not inherit the library. glibc only. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, fopencookie */
#endif
#include <dlfcn.h> /* dlsym: the functions behind ours */
#include <errno.h>
#include <fcntl.h> /* AT_FDCWD */
#include <stdarg.h>
#include <stdatomic.h> /* threads count too */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h> /* SYS_* */
#include <unistd.h>

typedef enum { MEMORY, OPEN, READ, WRITE, SYNC, RENAME, MAP, CLOSE, KINDS } Kind;
static const char *const kind_name[KINDS] = { "memory", "open",   "read", "write",
                                              "sync",   "rename", "map",  "close" };
static atomic_int calls[KINDS];
static int chosen = -1, at, error_number; /* error_number 0: a short count */
static bool from_then_on;
static atomic_bool over; /* what comes now is not the program's work */
enum { MISSPELT = 99 };  /* the exit code of a fault that is none */

/* Counts a call; true with errno set where it is the one that fails. */
static bool fails(Kind kind) {
    if (over) return false;
    int n = atomic_fetch_add(&calls[kind], 1) + 1;
    if ((int)kind != chosen || !error_number || (from_then_on ? n < at : n != at)) return false;
    errno = error_number;
    return true;
}

/* How many of n bytes the call that fails() has just counted is to move. */
static size_t shortened(Kind kind, size_t n) {
    bool cut = !over && (int)kind == chosen && !error_number && calls[kind] == at && n > 1;
    return cut ? n / 2 : n;
}

/* ------------------------------------------------------------------------------------ memory */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n) { return fails(MEMORY) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails(MEMORY) ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails(MEMORY) ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t alignment, size_t n) {
    return fails(MEMORY) ? NULL : __libc_memalign(alignment, n);
}
int posix_memalign(void **p, size_t alignment, size_t n) {
    void *made = fails(MEMORY) ? NULL : __libc_memalign(alignment, n);
    if (made) *p = made;
    return made ? 0 : ENOMEM;
}

/* ------------------------------------------------------------------------------ system calls */
int openat(int dir, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return fails(OPEN) ? -1 : (int)syscall(SYS_openat, dir, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return fails(OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int dup(int fd) { return fails(OPEN) ? -1 : (int)syscall(SYS_dup, fd); }
int mkdir(const char *path, mode_t mode) {
    return fails(OPEN) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
ssize_t read(int fd, void *to, size_t n) {
    return fails(READ) ? -1 : syscall(SYS_read, fd, to, shortened(READ, n));
}
ssize_t pread(int fd, void *to, size_t n, off_t from) {
    return fails(READ) ? -1 : syscall(SYS_pread64, fd, to, shortened(READ, n), from);
}
ssize_t write(int fd, const void *bytes, size_t n) {
    return fails(WRITE) ? -1 : syscall(SYS_write, fd, bytes, shortened(WRITE, n));
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t to) {
    return fails(WRITE) ? -1 : syscall(SYS_pwrite64, fd, bytes, shortened(WRITE, n), to);
}
int ftruncate(int fd, off_t n) { return fails(WRITE) ? -1 : (int)syscall(SYS_ftruncate, fd, n); }
int truncate(const char *path, off_t n) {
    return fails(WRITE) ? -1 : (int)syscall(SYS_truncate, path, n);
}
int fsync(int fd) { return fails(SYNC) ? -1 : (int)syscall(SYS_fsync, fd); }
int rename(const char *from, const char *to) {
    return fails(RENAME) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
void *mmap(void *where, size_t n, int prot, int flags, int fd, off_t from) {
    return fails(MAP) ? (void *)-1 : (void *)syscall(SYS_mmap, where, n, prot, flags, fd, from);
}
int close(int fd) { /* the descriptor is gone, whatever is said */
    bool bad = fails(CLOSE);
    int saved = errno, result = (int)syscall(SYS_close, fd);
    if (bad) errno = saved;
    return bad ? -1 : result;
}

/* ----------------------------------------------------------------------------------- streams */
static FILE *(*real_fopen)(const char *, const char *);
static FILE *(*real_fdopen)(int, const char *);
static FILE *(*real_tmpfile)(void);
static void *(*real_opendir)(const char *);
static int (*real_mkstemp)(char *);
static int (*real_fclose)(FILE *);

FILE *fopen(const char *path, const char *mode) {
    return fails(OPEN) ? NULL : real_fopen(path, mode);
}
FILE *fdopen(int fd, const char *mode) { return fails(OPEN) ? NULL : real_fdopen(fd, mode); }
FILE *tmpfile(void) { return fails(OPEN) ? NULL : real_tmpfile(); }
void *opendir(const char *path) { return fails(OPEN) ? NULL : real_opendir(path); }
int mkstemp(char *path) { return fails(OPEN) ? -1 : real_mkstemp(path); }

/* What a failed call leaves behind in a stream: ferror() is true. */
static void spoil(FILE *f) { f->_flags |= 0x20; /* _IO_ERR_SEEN */ }

size_t fread(void *to, size_t size, size_t n, FILE *f) {
    bool bad = fails(READ);
    if (bad) spoil(f);
    return bad ? 0 : fread_unlocked(to, size, n, f);
}
size_t fwrite(const void *bytes, size_t size, size_t n, FILE *f) {
    if (f == stderr) return fwrite_unlocked(bytes, size, n, f);
    bool bad = fails(WRITE);
    if (bad) spoil(f);
    return bad ? 0 : fwrite_unlocked(bytes, size, n, f);
}
int fflush(FILE *f) {
    if (f == stderr || !f) return fflush_unlocked(f);
    bool bad = fails(WRITE);
    if (bad) spoil(f);
    return bad ? EOF : fflush_unlocked(f);
}
int fclose(FILE *f) {
    bool bad = fails(CLOSE);
    int saved = errno, result = real_fclose(f);
    if (bad) errno = saved;
    return bad ? EOF : result;
}

/* stdin, and stdout as the C library writes it: on until all is gone, or an error. */
static ssize_t from_stdin(void *cookie, char *to, size_t n) {
    (void)cookie;
    return read(0, to, n);
}
static ssize_t to_stdout(void *cookie, const char *bytes, size_t n) {
    (void)cookie;
    for (size_t done = 0; done < n;) {
        ssize_t k = write(1, bytes + done, n - done);
        if (k <= 0) return 0;
        done += (size_t)k;
    }
    return (ssize_t)n;
}

/* -------------------------------------------------------------------------- start and end */
static void find(void *function, const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(function, &found, sizeof found);
}

/* The number of an error by its name, which may end in +; 0 of "short"; -1 where there is none. */
static int number_of(const char *name) {
    static const struct {
        const char *name;
        int number;
    } known[] = { { "EIO", EIO },       { "ENOSPC", ENOSPC }, { "EINTR", EINTR },
                  { "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM }, { "EMFILE", EMFILE },
                  { "short", 0 } };
    size_t n = strcspn(name, "+");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && !strncmp(name, known[i].name, n)) return known[i].number;
    return -1;
}

__attribute__((constructor)) static void begin(void) {
    find(&real_fopen, "fopen");
    find(&real_fdopen, "fdopen");
    find(&real_tmpfile, "tmpfile");
    find(&real_opendir, "opendir");
    find(&real_mkstemp, "mkstemp");
    find(&real_fclose, "fclose");
    stdin = fopencookie(NULL, "r", (cookie_io_functions_t){ .read = from_stdin });
    stdout = fopencookie(NULL, "w", (cookie_io_functions_t){ .write = to_stdout });
    const char *wanted = getenv("OC_TORTURE");
    unsetenv("LD_PRELOAD");
    for (int k = 0; k < KINDS; k++) atomic_store(&calls[k], 0);
    char kind[16], how[16];
    if (!wanted) return;
    bool known = sscanf(wanted, "%15[a-z]:%d:%15s", kind, &at, how) == 3;
    error_number = known ? number_of(how) : -1;
    from_then_on = known && strchr(how, '+');
    for (int k = 0; known && k < KINDS; k++)
        if (!strcmp(kind, kind_name[k])) chosen = k;
    if (error_number < 0 || chosen < 0) _exit(MISSPELT); /* and no run that tests nothing */
    for (int k = 0; k < KINDS; k++) atomic_store(&calls[k], 0);
}

/* The program is over when the linker ends its libraries: main has returned or exit was called, and
 * what was registered with atexit is done. What compilers do from there on, such as writing the
 * counts of `make coverage`, neither counts nor fails. */
static void (*end_libraries)(void);
static void end_program(void) {
    over = true;
    end_libraries();
}
typedef int Main(int, char **, char **);
int __libc_start_main(Main *program, int n, char **words, void (*init)(void), void (*fini)(void),
                      void (*linker_fini)(void), void *stack) {
    int (*real)(Main *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    find(&real, "__libc_start_main");
    end_libraries = linker_fini;
    return real(program, n, words, init, fini, end_program, stack);
}

__attribute__((destructor)) static void finish(void) {
    const char *path = getenv("OC_TORTURE_COUNTS");
    if (!path) return;
    char line[64];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    for (int k = 0; k < KINDS && fd >= 0; k++) {
        int n = snprintf(line, sizeof line, "%s %d\n", kind_name[k], atomic_load(&calls[k]));
        if (write(fd, line, (size_t)n) != n) _exit(3);
    }
}
