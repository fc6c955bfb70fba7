/* fuzz.c: between the engine that makes inputs and the target that takes them; see fuzz.h.
 *
 * The functions __wrap_* stand for those of libc in everything that is linked here, libFuzzer
 * included: outside of a run they only pass on. Built for GNU ld and lld, on Linux. */

#include "fuzz.h"
#include <ftw.h>    /* nftw: remove a directory */
#include <setjmp.h> /* setjmp */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool running;    /* within fuzz_one */
static jmp_buf to_loop; /* where an exit leads */
static int exit_code;
static unsigned long long n_runs;
static int memory_file = -1, first_fd; /* the first descriptor that a run opens */
static char *said;                     /* what the reader wrote to stderr; 64 KB */
enum { SAID = 1 << 16 };
enum { MOST_OPEN = 8 }; /* files that a reader has open when it ends the program */

void fuzz_fail(const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    dprintf(2, "fuzz: run %llu: %s\n", n_runs, text);
    abort();
}

/* ------------------------------------------------------------------------------------------------
 * What a run has allocated or mapped, in a hash table with open addressing. A place whose block was
 * released keeps the mark GONE, so that others are still found behind it; when half of the table is
 * in use, it is laid out anew without these. Small, so that it stays in the cache. */

enum { BITS = 14, PLACES = 1 << BITS };
#define GONE ((void *)1)

typedef struct {
    void *p;
    size_t mapped; /* bytes of a mapping, 0: of the heap */
} Block;

static Block block[PLACES];
static uint32_t used[PLACES / 2]; /* places that are not empty */
static size_t n_used, n_live;

static Block *place_of(const void *p) { /* the block's place, or the empty one where it would go */
    size_t i = (size_t)(mix64((uint64_t)(uintptr_t)p) >> (64 - BITS));
    while (block[i].p && block[i].p != p) i = (i + 1) % PLACES;
    return &block[i];
}

static void tidy(void) {
    static Block live[PLACES / 2];
    size_t n = 0;
    for (size_t i = 0; i < n_used; i++) {
        if (block[used[i]].p != GONE) live[n++] = block[used[i]];
        block[used[i]].p = NULL;
    }
    if (n > PLACES / 4)
        fuzz_fail("%zu blocks of memory at once, expected at most %d", n, PLACES / 4);
    for (n_used = 0; n_used < n; n_used++) {
        Block *b = place_of(live[n_used].p);
        *b = live[n_used];
        used[n_used] = (uint32_t)(b - block);
    }
}

static void note(void *p, size_t mapped) {
    if (!running || !p) return;
    if (n_used == PLACES / 2) tidy();
    Block *b = place_of(p);
    if (!b->p) used[n_used++] = (uint32_t)(b - block);
    *b = (Block){ p, mapped };
    n_live++;
}

static void forget(void *p) {
    Block *b = running && p ? place_of(p) : NULL;
    if (!b || !b->p) return; /* of before, or of a library */
    b->p = GONE;
    n_live--;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
int __real_munmap(void *p, size_t n);
OC_NORETURN void __real_exit(int code);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
int __wrap_munmap(void *p, size_t n);
OC_NORETURN void __wrap_exit(int code);

void *__wrap_malloc(size_t n) {
    void *p = __real_malloc(n);
    note(p, 0);
    return p;
}

void *__wrap_calloc(size_t n, size_t size) {
    void *p = __real_calloc(n, size);
    note(p, 0);
    return p;
}

void *__wrap_realloc(void *p, size_t n) {
    void *q = __real_realloc(p, n);
    if (!q) return q;
    forget(p);
    note(q, 0);
    return q;
}

void __wrap_free(void *p) {
    forget(p);
    __real_free(p);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) {
    void *p = __real_mmap(at, n, prot, flags, fd, from);
    if (p != MAP_FAILED) note(p, n);
    return p;
}

int __wrap_munmap(void *p, size_t n) {
    forget(p);
    return __real_munmap(p, n);
}

/* Empties the table; what is still in it is released. */
static void release_all(void) {
    for (size_t i = 0; i < n_used; i++) {
        Block *b = &block[used[i]];
        if (b->p != GONE && b->mapped) __real_munmap(b->p, b->mapped);
        if (b->p != GONE && !b->mapped) __real_free(b->p);
        *b = (Block){ NULL, 0 };
    }
    n_used = n_live = 0;
}

/* ------------------------------------------------------------------------------------------------
 * One run */

void __wrap_exit(int code) {
    if (!running) __real_exit(code);
    running = false;
    exit_code = code;
    longjmp(to_loop, 1);
}

/* stderr and stdout go to memory and nowhere: a line at a time to a terminal would be slow. */
static void quieten(void) {
    said = (char *)xcalloc(SAID, 1, "messages");
    FILE *err = fmemopen(said, SAID, "w"), *out = fopen("/dev/null", "w");
    if (!err || !out) fuzz_fail("cannot open a file in memory");
#ifdef __GLIBC__ /* where these are variables */
    stderr = err;
    stdout = out;
#endif
}

/* The reader ended the program: with one line that says why. */
static void check_message(void) {
    fflush(stderr);
    long n = ftell(stderr);
    const char *end = n > 0 ? strchr(said, '\n') : NULL;
    if (exit_code != 1 && exit_code != 2) fuzz_fail("exit code %d, expected 1 or 2", exit_code);
    if (!end || end + 1 != said + n || memcmp(said, "error: ", 7) || end - said < 12)
        fuzz_fail("ended with '%.200s', expected one line that begins with \"error: \"", said);
    for (int fd = first_fd; fd < first_fd + MOST_OPEN; fd++) close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    memory_file = memfd_create("input", 0);
    if (memory_file < 0) fuzz_fail("cannot make a file in memory: %s", strerror(errno));
    fuzz_begin();
    quieten();
    first_fd = dup(memory_file);
    close(first_fd);
    return 0;
}

/* The target gets a copy of its own: AFL++ passes a buffer that does not end where the input does,
 * so no sanitizer would see the first byte that is read behind it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *const exact = (uint8_t *)__real_malloc(size ? size : 1);
    if (!exact) fuzz_fail("out of memory");
    if (size) memcpy(exact, data, size);
    n_runs++;
    rewind(stderr);
    running = true;
    if (setjmp(to_loop)) {
        check_message();
    } else {
        fuzz_one(exact, size);
        running = false;
        if (n_live) fuzz_fail("%zu blocks of memory were not released", n_live);
        if (fcntl(first_fd, F_GETFD) >= 0) fuzz_fail("a file was left open");
    }
    release_all();
    __real_free(exact);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Files */

const char *fuzz_file(const uint8_t *data, size_t size) {
    static char name[64];
    if (ftruncate(memory_file, 0) || pwrite(memory_file, data, size, 0) != (ssize_t)size)
        fuzz_fail("cannot write to memory: %s", strerror(errno));
    snprintf(name, sizeof name, "/proc/self/fd/%d", memory_file);
    return name;
}

static char directory[64];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *place) {
    (void)st, (void)kind, (void)place;
    return remove(path);
}

static void remove_directory(void) { nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

const char *fuzz_directory(void) {
    if (directory[0]) return directory;
    snprintf(directory, sizeof directory, "%s/oc-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(directory)) fuzz_fail("%s: cannot create: %s", directory, strerror(errno));
    atexit(remove_directory);
    return directory;
}
