/* files.h: what every program here needs before any model: errors, memory, options, files.
 *
 * What to know first:
 *  - Every reader is a function over (buffer, length). It returns false and fills an Error instead
 *    of exiting, never trusts a count or an offset before comparing it with the bytes that are
 *    there, and can therefore be fuzzed. Only programs call die().
 *  - Nobody ever sees half a file: output goes to a temporary name, is flushed, then renamed.
 *
 * Sections: 1 errors and memory, 2 the command line, 3 checksum, 4 files in,
 * 5 files out. Compiles as C11 and as C++17 (the .cu files include it).
 * Tests: tests/test_format.c, tests/badinput.py. */
#ifndef OC_FILES_H
#define OC_FILES_H

#ifdef _WIN32
#error "opencoder.c needs POSIX (mmap, fsync, signals): on Windows, build it in WSL"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_NONBLOCK, mkstemp, MAP_* under -std=c11 */
#endif
#include <ctype.h>   /* isspace */
#include <dirent.h>  /* readdir: find what a killed process left */
#include <errno.h>   /* errno, ERANGE */
#include <fcntl.h>   /* open */
#include <math.h>    /* isfinite */
#include <pthread.h> /* pthread_once */
#include <signal.h>  /* sigaction: remove a half-written file on Ctrl-C */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h> /* mmap */
#include <sys/stat.h> /* fstat */
#include <time.h>     /* clock_gettime */
#include <unistd.h>   /* read, write, fsync, close */

#define OC_VERSION "0.1.0"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "opencoder.c reads its little-endian files in place: this machine is big-endian"
#endif
#if SIZE_MAX < UINT64_MAX
#error "opencoder.c maps whole models into memory: it needs a 64-bit machine"
#endif

#if defined(__GNUC__)
#define OC_PRINTF(fmt, args) __attribute__((format(printf, fmt, args), unused))
#define OC_UNUSED            __attribute__((unused))
#define OC_NORETURN          __attribute__((noreturn))
#else
#define OC_PRINTF(fmt, args)
#define OC_UNUSED
#define OC_NORETURN
#endif
#define OC_API static inline OC_UNUSED

/* ------------------------------------------------------------------------------------------------
 * 1. Errors and memory
 * A message reads "<file or option>: <what was found>, <what was expected>[; hint]". Readers put
 * the part behind the file name into an Error; programs add the name and die. Exit codes: 0 ok,
 * 1 bad data or system failure, 2 usage, 130 after Ctrl-C. */

typedef struct {
    char text[512];
} Error;

/* Fills e and returns false, so that a reader can say `return fail(e, "...")`. */
OC_API OC_PRINTF(2, 3) bool fail(Error *e, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, args);
    va_end(args);
    return false;
}

OC_API OC_NORETURN void die_v(int code, const char *fmt, va_list args, const char *hint) {
    static char text[16384]; /* two long paths fit */
    flockfile(stderr); /* never released: where several threads fail, the first has the word */
    vsnprintf(text, sizeof text, fmt, args);
    fflush(stdout); /* text already produced comes before the message */
    fputs("error: ", stderr);
    for (const char *p = text; *p; p++) /* names from outside may hold line feeds or escapes */
        fprintf(stderr, (unsigned char)*p < 32 || *p == 127 ? "\\x%02x" : "%c", *p);
    fprintf(stderr, "%s\n", hint);
    exit(code);
}

/* Bad data or a failing system: one line on stderr, exit code 1. */
OC_API OC_PRINTF(1, 2) OC_NORETURN void die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    die_v(1, fmt, args, "");
    va_end(args);
}

/* A wrong command line: one line on stderr, exit code 2. */
OC_API OC_PRINTF(1, 2) OC_NORETURN void die_usage(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    die_v(2, fmt, args, "; try -h");
    va_end(args);
}

/* The last thing a program does with stdout: a full disk or a closed pipe is not a success. */
OC_API void close_stdout(void) {
    bool bad = ferror(stdout) || fflush(stdout);
    if (bad && errno != EPIPE) die("stdout: cannot write: %s", strerror(errno));
    if (bad) exit(1);
}

/* Zeroed memory for n things of `size` bytes, or death that says for what. n = 0 gives one byte. */
OC_API void *xcalloc(size_t n, size_t size, const char *what) {
    void *p = calloc(n ? n : 1, size);
    if (!p) die("%s: out of memory, %zu x %zu bytes were needed", what, n, size);
    return p;
}

OC_API void *xrealloc(void *p, size_t n, size_t size, const char *what) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || !(p = realloc(p, bytes ? bytes : 1)))
        die("%s: out of memory, %zu x %zu bytes were needed", what, n, size);
    return p;
}

/* a * b in *out; false when the product does not fit: what a file header says may be a lie. */
OC_API bool mul_size(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
OC_API bool add_size(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* Bytes that live elsewhere (in a mapped file, say) and may contain NUL: print %.*s with STR(s). */
typedef struct {
    const char *s;
    size_t n;
} Str;
#define STR(x) str_shown(x), (x).s
OC_API int str_shown(Str x) { return (int)(x.n < 80 ? x.n : 80); } /* bytes quoted in messages */

OC_API Str str_of(const char *s) {
    Str r = { s, strlen(s) };
    return r;
}
OC_API bool str_is(Str a, const char *b) { return a.n == strlen(b) && !memcmp(a.s, b, a.n); }
OC_API int str_cmp(Str a, Str b) {
    int c = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

OC_API double now_seconds(void) { /* of a clock that nobody sets */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection in which every bit of the
 * result depends on every bit of x. A counter put through it is a random sequence, and any place in
 * it is at hand. */
OC_API uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/* A growing run of bytes. `data` always has a NUL behind its n bytes once anything was added. */
typedef struct {
    char *data;
    size_t n, cap;
} Buf;

OC_API void buf_add(Buf *b, const void *bytes, size_t n) {
    if (!b->data || b->cap - b->n <= n) { /* room for the NUL too */
        b->cap = (b->n + n + 1) * 3 / 2 + 64;
        b->data = (char *)xrealloc(b->data, b->cap, 1, "buffer");
    }
    if (n) memcpy(b->data + b->n, bytes, n);
    b->data[b->n += n] = 0;
}

OC_API OC_PRINTF(2, 3) void buf_printf(Buf *b, const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof line) die("message: %d bytes, at most 1023 were expected", n);
    buf_add(b, line, (size_t)n);
}

OC_API void buf_free(Buf *b) {
    free(b->data);
    b->data = NULL;
    b->n = b->cap = 0;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The command line. A number must be a whole argument within its limits, or exit 2. */

OC_API long long parse_int(const char *option, const char *text, long long min, long long max) {
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || isspace((unsigned char)*text) || v < min || v > max)
        die_usage("%s: '%s', expected a whole number from %lld to %lld", option, text, min, max);
    return v;
}

OC_API double parse_float(const char *option, const char *text, double min, double max) {
    char *end = NULL;
    double v = strtod(text, &end);
    if (end == text || *end || isspace((unsigned char)*text) || !isfinite(v) || v < min || v > max)
        die_usage("%s: '%s', expected a number from %g to %g", option, text, min, max);
    return v;
}

/* One table per program drives both parsing and help, so they cannot differ. `value` points at the
 * variable, whose content before parsing is the default that help prints. */
enum {
    OPT_FLAG,
    OPT_INT,
    OPT_FLOAT,
    OPT_TEXT,
    OPT_LIST
}; /* bool, int64_t, double, char *, TextList */

typedef struct {
    char letter;       /* -x, or 0 */
    const char *name;  /* --name */
    const char *alias; /* another --name people type, or NULL */
    const char *arg;   /* what follows, for help: "N", "FILE"; NULL for flags */
    int kind;          /* OPT_* */
    void *value;       /* the variable */
    double min, max;   /* limits of OPT_INT and OPT_FLOAT */
    const char *help;
} Option;

typedef struct {
    const char *text[16];
    int n;
} TextList;

OC_API void print_options(const Option *table, const char *usage) {
    printf("%s\noptions:\n", usage);
    for (const Option *o = table; o->name; o++) {
        char left[80], value[64] = "";
        snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        if (o->kind == OPT_INT)
            snprintf(value, sizeof value, " [%lld]", (long long)*(const int64_t *)o->value);
        if (o->kind == OPT_FLOAT) snprintf(value, sizeof value, " [%g]", *(const double *)o->value);
        printf("  %-26s %s%s\n", left, o->help, value);
    }
}

OC_API void set_option(const Option *o, const char *shown, const char *text) {
    TextList *list = (TextList *)o->value;
    switch (o->kind) {
    case OPT_FLAG: *(bool *)o->value = true; break;
    case OPT_INT:
        *(int64_t *)o->value = parse_int(shown, text, (long long)o->min, (long long)o->max);
        break;
    case OPT_FLOAT: *(double *)o->value = parse_float(shown, text, o->min, o->max); break;
    case OPT_TEXT: *(const char **)o->value = text; break;
    default:
        if (list->n == 16) die_usage("%s: given more than 16 times", shown);
        list->text[list->n++] = text;
    }
}

/* The option that the n bytes at a ("-x" or "--name") name; death if there is none. */
OC_API const Option *find_option(const Option *table, const char *a, size_t n) {
    bool is_long = n > 2 && a[1] == '-';
    for (const Option *o = table; o->name; o++) {
        if (!is_long && n == 2 && o->letter && a[1] == o->letter) return o;
        for (int k = 0; is_long && k < 2; k++) {
            const char *name = k ? o->alias : o->name;
            if (name && strlen(name) == n - 2 && !memcmp(name, a + 2, n - 2)) return o;
        }
    }
    die_usage("%.*s: unknown option, expected one of those that -h lists", (int)n, a);
}

/* Parses `-x value`, `--name value` and `--name=value`; what is no option goes to positional[], at
 * most `most` of them. -h and --version are answered here. Returns how many are positional. */
OC_API int parse_options(int argc, char **argv, const Option *table, const char *usage,
                         const char **positional, int most) {
    int n = 0, null;
    if (fcntl(2, F_GETFD) < 0 && (null = open("/dev/null", O_WRONLY)) >= 0 && null != 2) {
        dup2(null, 2); /* or the next file to be opened becomes stderr, and gets the messages */
        close(null);
    }
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *equals = strncmp(a, "--", 2) ? NULL : strchr(a, '=');
        if (!strcmp(a, "-h") || !strcmp(a, "--help"))
            print_options(table, usage), close_stdout(), exit(0);
        if (!strcmp(a, "--version")) puts("opencoder.c " OC_VERSION), close_stdout(), exit(0);
        if (a[0] != '-' || !a[1]) {
            if (n == most) die_usage("'%s': unexpected argument, at most %d expected", a, most);
            positional[n++] = a;
            continue;
        }
        size_t len = equals ? (size_t)(equals - a) : strlen(a);
        const Option *o = find_option(table, a, len);
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", (int)len, a);
        if (o->kind == OPT_FLAG && equals) die_usage("%s: takes no value", shown);
        if (o->kind != OPT_FLAG && !equals && i + 1 == argc)
            die_usage("%s: nothing follows, expected %s", shown, o->arg);
        set_option(o, shown, equals ? equals + 1 : o->kind == OPT_FLAG ? NULL : argv[++i]);
    }
    return n;
}

/* ------------------------------------------------------------------------------------------------
 * 3. CRC32C (Castagnoli, the checksum of iSCSI and ext4): eight tables, eight bytes a step. */

static uint32_t crc32c_table[8][256];

/* table[t][i]: what byte i and t bytes of 0 behind it make of a remainder of 0. */
OC_API void crc32c_fill(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
        crc32c_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) {
            uint32_t c = crc32c_table[t - 1][i];
            crc32c_table[t][i] = (c >> 8) ^ crc32c_table[0][c & 255];
        }
}

/* The checksum of what crc is the checksum of (0: nothing) and n more bytes. From any thread. */
OC_API uint32_t crc32c(uint32_t crc, const void *data, size_t n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint32_t(*table)[256] = crc32c_table;
    pthread_once(&once, crc32c_fill);
    const uint8_t *p = (const uint8_t *)data;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t lo, hi;
        memcpy(&lo, p, 4);
        memcpy(&hi, p + 4, 4);
        lo ^= crc;
        crc = table[7][lo & 255] ^ table[6][lo >> 8 & 255] ^ table[5][lo >> 16 & 255] ^
              table[4][lo >> 24] ^ table[3][hi & 255] ^ table[2][hi >> 8 & 255] ^
              table[1][hi >> 16 & 255] ^ table[0][hi >> 24];
    }
    while (n--) crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 255];
    return ~crc;
}

/* ------------------------------------------------------------------------------------------------
 * 4. Files in */

typedef struct {
    const uint8_t *data;
    size_t size;
} Map;

/* Maps a regular, non-empty file read-only. Opening with O_NONBLOCK keeps a FIFO from hanging. */
OC_API bool map_file(Map *m, const char *path, Error *e) {
    m->data = NULL;
    m->size = 0;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return fail(e, "cannot open: %s", strerror(errno));
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return fail(e, "not a regular file, expected a file that can be mapped");
    }
    if (st.st_size == 0) {
        close(fd);
        return fail(e, "file is empty (0 bytes), expected something to read");
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    int saved = errno;
    close(fd);
    if (p == MAP_FAILED)
        return fail(e, "cannot map %lld bytes: %s", (long long)st.st_size, strerror(saved));
    m->data = (const uint8_t *)p;
    m->size = (size_t)st.st_size;
    return true;
}

/* A handler of SIGBUS: pages of a mapped file that someone cuts short can no longer be read. */
OC_API void out_of_map(int sig) {
    static const char text[] = "error: a file was changed while in use\n";
    (void)sig;
    _exit(write(2, text, sizeof text - 1) < 0 ? 1
                                              : 1); /* the result matters to the compiler only */
}

OC_API void unmap_file(Map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    m->data = NULL;
    m->size = 0;
}

enum { MOST_PIPED = 32 << 20 }; /* bytes that a pipe or device may give: it may never end */

/* Reads an open descriptor (a file, a pipe, stdin) to its end, appending to b. */
OC_API bool read_all(int fd, Buf *b, Error *e) {
    char part[65536];
    struct stat st;
    buf_add(b, "", 0); /* b->data is not NULL, whatever comes */
    size_t most = !fstat(fd, &st) && S_ISREG(st.st_mode) ? (size_t)1 << 40 : (size_t)MOST_PIPED;
    for (;;) {
        ssize_t n = read(fd, part, sizeof part);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(e, "cannot read: %s", strerror(errno));
        if (n == 0) return true;
        buf_add(b, part, (size_t)n);
        if (b->n > most) return fail(e, "more than %zu bytes, expected less; use a file", most);
    }
}

/* Appends a whole file (a regular one or a pipe) to b; death if it cannot be read. */
OC_API void read_file(const char *path, Buf *b) {
    Error e;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die("%s: cannot open: %s", path, strerror(errno));
    if (!read_all(fd, b, &e)) die("%s: %s", path, e.text);
    close(fd);
}

/* Do both names lead to one file that is there? */
OC_API bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A bounds-checked place in a buffer. Every reader of binary data is written with these two. */
typedef struct {
    const uint8_t *p, *end;
} Cursor;

OC_API bool take(Cursor *c, void *out, size_t n) {
    if ((size_t)(c->end - c->p) < n) return false;
    memcpy(out, c->p, n);
    c->p += n;
    return true;
}

OC_API const uint8_t *take_bytes(Cursor *c, uint64_t n) { /* NULL when fewer than n are left */
    if ((uint64_t)(c->end - c->p) < n) return NULL;
    const uint8_t *p = c->p;
    c->p += n;
    return p;
}

/* ------------------------------------------------------------------------------------------------
 * 5. Files out: nobody ever sees half a file. Bytes go to PATH.tmp-PID in the same directory, which
 * out_commit flushes to disk and renames to PATH; an exit or a signal before that removes it. */

typedef struct {
    int fd;
    const char *path;
    uint64_t pos;
} OutFile;

static char oc_unfinished[4096] OC_UNUSED; /* the temporary name, "" when there is none */

OC_API void out_remove_unfinished(void) {
    if (oc_unfinished[0]) unlink(oc_unfinished);
    oc_unfinished[0] = 0;
}

OC_API void out_signal(int sig) {
    out_remove_unfinished();
    _exit(128 + sig);
}

/* Removes a file, or a directory and the files in it. */
OC_API void remove_left(const char *path) {
    if (!unlink(path)) return;
    DIR *dir = opendir(path);
    for (struct dirent *d; dir && (d = readdir(dir));)
        (void)unlinkat(dirfd(dir), d->d_name, 0); /* . and .. refuse, and should */
    if (dir) closedir(dir);
    (void)rmdir(path); /* what cannot be removed stays, and is in nobody's way */
}

/* Removes PATH.tmp-PID and PATH.ANYTHING.tmp-PID, files and directories, of processes that were
 * killed before they could do so themselves. */
OC_API void out_sweep(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    Buf name = { NULL, 0, 0 };
    buf_add(&name, slash ? path : "./", slash ? (size_t)(slash - path) + 1 : 2);
    size_t dir_len = name.n, len = strlen(base);
    DIR *dir = opendir(name.data);
    for (struct dirent *d; dir && (d = readdir(dir));) { /* NULL: out_open says why */
        if (strncmp(d->d_name, base, len) || d->d_name[len] != '.') continue;
        const char *tmp = strstr(d->d_name + len, ".tmp-");
        if (!tmp || tmp[5 + strspn(tmp + 5, "0123456789")]) continue;
        long pid = strtol(tmp + 5, NULL, 10);
        if (pid <= 0 || pid > INT32_MAX || pid == getpid()) continue;
        if (!kill((pid_t)pid, 0) || errno != ESRCH) continue; /* it lives */
        name.n = dir_len;
        buf_add(&name, d->d_name, strlen(d->d_name));
        remove_left(name.data);
    }
    if (dir) closedir(dir);
    buf_free(&name);
}

/* Makes PATH.tmp-PID, empty. */
OC_API void out_create(OutFile *o, const char *path) {
    static bool registered;
    struct stat st;
    if (!registered && atexit(out_remove_unfinished)) die("%s: cannot register a clean-up", path);
    registered = true;
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        die("%s: exists and is not a regular file, expected a file that may be replaced", path);
    out_sweep(path);
    int n = snprintf(oc_unfinished, sizeof oc_unfinished, "%s.tmp-%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof oc_unfinished) {
        oc_unfinished[0] = 0;
        die("%.60s...: name of %zu bytes, too long", path, strlen(path));
    }
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of write like any other */
    remove_left(oc_unfinished); /* of a killed process with our number, as in containers */
    o->fd = open(oc_unfinished, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd < 0) {
        int saved = errno;
        oc_unfinished[0] = 0;
        die("%s: cannot create: %s", path, strerror(saved));
    }
    o->path = path;
    o->pos = 0;
}

OC_API void out_open(OutFile *o, const char *path) {
    int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction act, old;
    memset(&act, 0, sizeof act);
    act.sa_handler = out_signal;
    for (int i = 0; i < 3; i++) /* what the program handles or ignores stays in force */
        if (!sigaction(signals[i], NULL, &old) && old.sa_handler == SIG_DFL)
            sigaction(signals[i], &act, NULL);
    out_create(o, path);
}

/* Writes n bytes at offset `at`; a full disk or a failing device ends the program. */
OC_API void out_write_at(OutFile *o, uint64_t at, const void *bytes, size_t n) {
    const char *p = (const char *)bytes;
    while (n) {
        ssize_t k = pwrite(o->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            die("%s: cannot write at byte %llu: %s", o->path, (unsigned long long)at,
                k ? strerror(errno) : "nothing was written");
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
}

OC_API void out_write(OutFile *o, const void *bytes, size_t n) {
    out_write_at(o, o->pos, bytes, n);
    o->pos += n;
}

/* fsync the directory that PATH is in: a new name is on the disk only then. */
OC_API void out_sync_name(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n && path[n - 1] != '/') n--;
    Buf dir = { NULL, 0, 0 };
    buf_add(&dir, n ? path : ".", n ? n : 1);
    int fd = open(dir.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* some file systems refuse it for directories */
        close(fd);
    }
    buf_free(&dir);
}

/* fsync the file, rename it into place, fsync the directory: in this order, so that after a power
 * cut there is either the old file or the whole new one. */
OC_API void out_commit(OutFile *o) {
    if (fsync(o->fd) || close(o->fd)) die("%s: cannot flush to disk: %s", o->path, strerror(errno));
    if (rename(oc_unfinished, o->path))
        die("%s: cannot rename into place: %s", o->path, strerror(errno));
    oc_unfinished[0] = 0;
    out_sync_name(o->path);
}

/* Can PATH be written, and is it no other name of OTHER (or NULL)? To be known before the work.
 * Handles no signals: they are for the source file that writes later, which has a name of its own
 * in oc_unfinished. */
OC_API void out_try(const char *path, const char *other) {
    OutFile o;
    char name[4096];
    out_create(&o, path);
    close(o.fd);
    snprintf(name, sizeof name, "%s.tmp-%ld", other ? other : "", (long)getpid());
    bool same = other && same_file(oc_unfinished, name);
    out_remove_unfinished();
    if (same) die_usage("%s: is to be written twice, expected another name than %s", path, other);
}

#endif
