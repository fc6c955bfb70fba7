/* archive.c: see inputs.h. Tar, plain or compressed, and zip are libarchive's to read; what git
 * knows is asked of the program git. Test: tests/test_refine_read.py. */

#include "inputs.h"
#include <spawn.h>    /* posix_spawnp */
#include <sys/wait.h> /* waitpid */
#ifdef OC_ARCHIVE
#include <archive.h>
#include <archive_entry.h>
#endif

size_t archive_stem(const char *name) {
    static const char *const end[] = {
        ".tar", ".tar.gz", ".tgz",     ".tar.bz2", ".tar.xz", ".txz",
        ".zip", ".tbz2",   ".tar.zst", ".tar.Z",   ".jar",    ".whl"
    };
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof end / sizeof *end; i++) {
        size_t k = strlen(end[i]);
        if (n > k && !strcmp(name + n - k, end[i])) return n - k;
    }
    return n;
}

#ifdef OC_ARCHIVE
struct Archive {
    struct archive *a;
    struct archive_entry *entry;
    const char *path;
    bool failed, begun;
};

/* The formats whose names archive_stem knows, and no others: all that libarchive has would include
 * some (lrzip, lzop) for which it starts a program of that name, whatever the archive is called. */
static bool choose_formats(struct archive *a) {
    int (*const choose[])(struct archive *) = {
        archive_read_support_filter_gzip,     archive_read_support_filter_bzip2,
        archive_read_support_filter_xz,       archive_read_support_filter_zstd,
        archive_read_support_filter_compress, archive_read_support_format_tar,
        archive_read_support_format_zip,
    };
    for (size_t i = 0; i < sizeof choose / sizeof *choose; i++)
        if (choose[i](a) < ARCHIVE_WARN) return false;
    return true;
}

/* Behind a call that failed. An archive that is damaged, gone or closed to us is left out and
 * counted; where the system fails, the program ends, as for files (read.c): the output would lack
 * what it should have. libarchive does not always tell: without memory to open it has no number,
 * as for some damage later, and without memory to decompress it says "damaged". */
static void blame_system(const Archive *a) {
    static const int usual[] = { -1, EILSEQ, EINVAL, EACCES, EPERM, ENOENT }; /* 3 of its own */
    int number = archive_errno(a->a);
    if (!number && !a->begun) number = ENOMEM;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (number == usual[i]) return;
    if (number) die("%s: libarchive: cannot read: %s", a->path, strerror(number));
}

Archive *archive_open(const char *path) {
    Archive *a = xcalloc(1, sizeof *a, "archive");
    a->a = archive_read_new();
    a->entry = archive_entry_new();
    a->path = path;
    if (!a->a || !a->entry || !choose_formats(a->a)) die("%s: libarchive: out of memory", path);
    a->failed = archive_read_open_filename(a->a, path, REFINE_BLOCK) != ARCHIVE_OK;
    if (a->failed) blame_system(a);
    return a;
}

static bool read_entry(Archive *a, Document *d) {
    char part[65536];
    la_ssize_t got = 1;
    while (got > 0 && d->text.n <= MOST_FILE) {
        got = archive_read_data(a->a, part, sizeof part);
        if (got > 0) buf_add(&d->text, part, (size_t)got);
    }
    if (got < 0) blame_system(a);
    return got >= 0;
}

bool archive_next(Archive *a, Document *d, Str *path, int64_t *time) {
    for (;;) {
        int status = !a->failed ? archive_read_next_header2(a->a, a->entry)
                     : a->begun ? ARCHIVE_EOF
                                : ARCHIVE_FATAL; /* it could not be opened */
        a->begun = true;
        d->from = a->path;
        *path = str_of("");
        *time = 0;
        if (status == ARCHIVE_EOF) return false;
        if (status < ARCHIVE_WARN) {
            blame_system(a);
            a->failed = status == ARCHIVE_FATAL;
            d->broken = "no archive, or one that is damaged or cut off";
            return true;
        }
        if (archive_entry_filetype(a->entry) != AE_IFREG) continue;
        const char *name = archive_entry_pathname(a->entry);
        *path = str_of(name ? name : "");
        *time = (int64_t)archive_entry_mtime(a->entry);
        if (archive_entry_size_is_set(a->entry)) d->size = (int64_t)archive_entry_size(a->entry);
        if (d->size > MOST_FILE) return true;
        if (!read_entry(a, d)) d->broken = "a file of the archive is damaged or encrypted";
        d->size = (int64_t)d->text.n;
        return true;
    }
}

void archive_close(Archive *a) {
    archive_read_free(a->a);
    archive_entry_free(a->entry);
    free(a);
}
#else
Archive *archive_open(const char *path) {
    die("%s: an archive, expected none: this refine was built without libarchive", path);
}
bool archive_next(Archive *a, Document *d, Str *path, int64_t *time) {
    (void)a, (void)d, (void)path, (void)time;
    return false;
}
void archive_close(Archive *a) { (void)a; }
#endif

/* ------------------------------------------------------------------------------------------------
 * git */

/* Lines of `git log`: ":1700000000", then the paths that the commit changed; the newest first. */
static void read_log(FILE *log, const char *dir, Words *times) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    uint64_t time = 0;
    Buf name = { NULL, 0, 0 };
    while ((n = getline(&line, &cap, log)) > 0) {
        if (line[n - 1] == '\n') line[--n] = 0;
        if (line[0] == ':') time = strtoull(line + 1, NULL, 10);
        if (!n || line[0] == ':') continue;
        name.n = 0;
        buf_add(&name, dir, strlen(dir));
        buf_add(&name, line, (size_t)n);
        Word *w = words_get(times, name.data, name.n);
        if (!w->value) w->value = time;
    }
    if (!feof(log)) die("%s: cannot read git log: %s", dir, strerror(errno));
    buf_free(&name);
    free(line);
}

bool git_times(const char *dir, Words *times) {
    char at[4096];
    snprintf(at, sizeof at, "%s", dir);
    char *argv[] = {
        "git",         "-C",           at,  "-c", "core.quotePath=off", "log", "--format=:%ct",
        "--name-only", "--no-renames", NULL
    };
    posix_spawn_file_actions_t act;
    int ends[2], status = 1;
    pid_t pid;
    extern char **environ;
    if (pipe2(ends, O_CLOEXEC)) die("git: cannot make a pipe: %s", strerror(errno));
    if (posix_spawn_file_actions_init(&act) ||
        posix_spawn_file_actions_adddup2(&act, ends[1], STDOUT_FILENO) ||
        posix_spawn_file_actions_addopen(&act, STDIN_FILENO, "/dev/null", O_RDONLY, 0))
        die("git: cannot be started: out of memory");
    int failed = posix_spawnp(&pid, "git", &act, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&act);
    close(ends[1]);
    FILE *log = fdopen(ends[0], "r");
    if (!log) die("git: cannot read from it: %s", strerror(errno));
    if (!failed) read_log(log, dir, times);
    fclose(log);
    if (!failed)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (failed || status) fprintf(stderr, "%s: git log failed; no commit times from it\n", dir);
    return !failed && !status;
}
