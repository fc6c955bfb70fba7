/* lines.c: JSON Lines from files and stdin, and to files and stdout, plain or zstd. See refine.h.
 *
 * What to know first: a file is zstd if it begins like one, whatever its name. Outputs are written
 * under a temporary name and renamed when all is done. Test: tests/test_refine.py. */

#include "refine.h"
#ifdef OC_ZSTD
#include <zstd.h>        /* ZSTD_decompressStream, ZSTD_compressStream2 */
#include <zstd_errors.h> /* ZSTD_getErrorCode */
#endif

enum { BLOCK = REFINE_BLOCK, LEVEL = 3 };
enum { WHOLE, WITHIN, FAILED }; /* where a compressed file stands: between frames, in one, broken */

/* ------------------------------------------------------------------------------------------------
 * 1. In */

typedef struct {
    Source source;
    const char **path;
    int n, at;        /* files; the one that is open */
    int fd, spool;    /* -1: none */
    const char *name; /* of the open file */
    Buf in;           /* bytes of the file that were read and not yet used, from `used` on */
    size_t used;
    char *plain; /* what was decompressed */
    Str left;    /* what of the current block was not yet handed out */
    int64_t line;
    bool zstd, ended;
    int state;
#ifdef OC_ZSTD
    ZSTD_DStream *stream;
#endif
} Lines;

static size_t read_some(Lines *l, char *to, size_t n) {
    ssize_t got;
    do got = read(l->fd, to, n);
    while (got < 0 && errno == EINTR);
    if (got < 0) die("%s: cannot read: %s", l->name, strerror(errno));
    l->source.done += (uint64_t)got;
    return (size_t)got;
}

/* Opens the next file and looks at its first bytes; false where there is none. */
static bool open_next(Lines *l) {
    if (l->at == l->n) return false;
    const char *path = l->path[l->at++];
    bool standard = !strcmp(path, "-"), spool = l->spool >= 0;
    l->name = spool ? "temporary file" : standard ? "stdin" : path;
    l->fd = spool ? dup(l->spool) : standard ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0) die("%s: cannot open: %s", l->name, strerror(errno));
    size_t n = 0, got;
    while (n < 4 && (got = read_some(l, l->in.data + n, BLOCK - n))) n += got;
    l->in.n = n;
    l->used = 0;
    l->line = 0;
    l->ended = n < 4;
    l->state = WHOLE;
    l->left = (Str){ "", 0 };
    l->zstd = n >= 4 && !memcmp(l->in.data, "\x28\xB5\x2F\xFD", 4);
#ifndef OC_ZSTD
    if (l->zstd)
        die("%s: is zstd, expected plain text; this refine was built without zstd", l->name);
#endif
    return true;
}

/* The next bytes of the open file, decompressed, in l->left; false at its end. */
static bool more(Lines *l) {
    if (!l->zstd) {
        l->left = (Str){ l->in.data, l->in.n };
        if (!l->in.n && !l->ended) l->left.n = read_some(l, l->in.data, BLOCK);
        l->in.n = 0;
        return l->left.n > 0;
    }
#ifdef OC_ZSTD
    while (l->state != FAILED) {
        if (l->used == l->in.n && !l->ended) {
            l->in.n = read_some(l, l->in.data, BLOCK);
            l->used = 0;
            l->ended = !l->in.n;
        }
        ZSTD_inBuffer in = { l->in.data, l->in.n, l->used };
        ZSTD_outBuffer out = { l->plain, BLOCK, 0 };
        size_t left = ZSTD_decompressStream(l->stream, &out, &in);
        l->used = in.pos;
        if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation)
            die("%s: zstd: out of memory", l->name);
        if (ZSTD_isError(left)) break;
        if (left == 0) l->state = WHOLE;
        if (left && (in.pos || out.pos)) l->state = WITHIN;
        if (l->ended && !out.pos) return false;
        l->left = (Str){ l->plain, out.pos };
        if (out.pos) return true;
    }
    l->state = FAILED;
#endif
    return false;
}

/* One line, without its line feed; blank ones are passed over. What is longer than MOST_LINE loses
 * its end, and is no JSON any more. */
static bool next_line(Source *s, Document *d) {
    Lines *l = (Lines *)s;
    for (bool any = false;;) {
        if (l->fd < 0 && !open_next(l)) return false;
        if (!l->left.n && !more(l)) { /* the last line may have no line feed */
            bool cut = l->state != WHOLE;
            if (cut && l->spool >= 0)
                die("%s: it came back damaged or cut off; is the disk well?", l->name);
            close(l->fd);
            l->fd = -1;
#ifdef OC_ZSTD
            ZSTD_DCtx_reset(l->stream, ZSTD_reset_session_only);
#endif
            if (cut) d->broken = "zstd: the file is damaged or cut off from here on";
            if (cut) d->from = l->name, d->line = l->line + !any;
            if (any || cut) return true;
            continue;
        }
        if (!any) l->line++, d->from = l->name, d->line = l->line;
        const char *stop = memchr(l->left.s, '\n', l->left.n);
        size_t n = stop ? (size_t)(stop - l->left.s) : l->left.n;
        buf_add(&d->raw, l->left.s, d->raw.n > MOST_LINE ? 0 : n);
        l->left.s += n + (stop != NULL);
        l->left.n -= n + (stop != NULL);
        any = true;
        if (!stop) continue;
        if (d->raw.n && strspn(d->raw.data, " \t\r") < d->raw.n) return true;
        d->raw.n = 0;
        any = false;
    }
}

/* Is there a line to be parsed? A byte order mark before the first one goes. */
static bool check_line(Document *d, Error *e) {
    if (d->broken) return fail(e, "%s", d->broken);
    if (d->raw.n > MOST_LINE)
        return fail(e, "a line of more than %d bytes, expected fewer", MOST_LINE);
    if (d->line == 1 && d->raw.n >= 3 && !memcmp(d->raw.data, "\xEF\xBB\xBF", 3))
        memcpy(d->raw.data, "   ", 3); /* as on Windows */
    return true;
}

bool load_line(const Source *s, Document *d, Error *e) {
    (void)s;
    return check_line(d, e) && document_parse(d, e);
}

bool load_object(Document *d, Error *e) {
    if (!check_line(d, e) || !json_parse(&d->json, d->raw.data, d->raw.n, e)) return false;
    const Json *root = d->json.node;
    return root->type == J_OBJECT || fail(e, "%s, expected an object", json_type_name[root->type]);
}

static void close_lines(Source *s) {
    Lines *l = (Lines *)s;
    if (l->fd >= 0) close(l->fd);
    if (l->spool >= 0) close(l->spool);
#ifdef OC_ZSTD
    ZSTD_freeDStream(l->stream);
#endif
    buf_free(&l->in);
    free(l->plain);
    free((void *)l->path);
    free(l);
}

Source *source_lines(const char **path, int n) {
    Lines *l = xcalloc(1, sizeof *l, "input");
    static const char *const standard = "-";
    l->source = (Source){ next_line, load_line, close_lines, 0, 0 };
    l->n = n ? n : 1;
    l->path = xcalloc((size_t)l->n, sizeof *l->path, "input");
    l->fd = l->spool = -1;
    for (int i = 0; i < l->n; i++) {
        struct stat st;
        l->path[i] = n ? path[i] : standard;
        if (!strcmp(l->path[i], "-")) continue;
        if (stat(path[i], &st)) die("%s: cannot open: %s", path[i], strerror(errno));
        if (S_ISDIR(st.st_mode)) die("%s: a directory, expected JSON Lines; see read", path[i]);
        if (access(path[i], R_OK)) die("%s: cannot open: %s", path[i], strerror(errno));
        if (S_ISREG(st.st_mode)) l->source.total += (uint64_t)st.st_size;
    }
    l->in.data = xcalloc(BLOCK, 1, "input");
    l->in.cap = BLOCK;
#ifdef OC_ZSTD
    l->plain = xcalloc(BLOCK, 1, "input");
    l->stream = ZSTD_createDStream();
    if (!l->stream) die("zstd: out of memory");
#endif
    return &l->source;
}

void source_close(Source *s) {
    if (s) s->close(s);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Out */

struct Output {
    OutFile file;
    const char *path; /* NULL: stdout or a spool */
    FILE *stream;     /* stdout or the spool */
    char *block;
    size_t n;
#ifdef OC_ZSTD
    ZSTD_CStream *zstd;
#endif
};

static void put(Output *o, const char *bytes, size_t n) {
    if (!o->stream) {
        out_write(&o->file, bytes, n);
        return;
    }
    if (fwrite(bytes, 1, n, o->stream) != n) {
        if (errno == EPIPE) exit(1); /* the reader has gone; it knows why */
        die("%s: cannot write: %s", o->stream == stdout ? "stdout" : "temporary file",
            strerror(errno));
    }
}

#ifdef OC_ZSTD
static void compress(Output *o, const char *bytes, size_t n, ZSTD_EndDirective how) {
    ZSTD_inBuffer in = { bytes, n, 0 };
    size_t left = 1;
    while (in.pos < n || (how == ZSTD_e_end && left)) {
        ZSTD_outBuffer out = { o->block, BLOCK, 0 };
        left = ZSTD_compressStream2(o->zstd, &out, &in, how);
        if (ZSTD_isError(left)) die("zstd: %s", ZSTD_getErrorName(left));
        put(o, o->block, out.pos);
    }
}
#endif

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static void start_zstd(Output *o, int level) {
#ifdef OC_ZSTD
    o->zstd = ZSTD_createCStream();
    if (!o->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(o->zstd, ZSTD_c_compressionLevel, level)))
        die("zstd: out of memory");
#else
    (void)o, (void)level;
    die("%s: zstd was asked for, but this refine was built without it; install libzstd-dev",
        o->path ? o->path : "--zstd");
#endif
}

Output *output_open(const char *path, bool zstd) {
    Output *o = xcalloc(1, sizeof *o, "output");
    signal(SIGPIPE, SIG_IGN);
    o->block = xcalloc(BLOCK, 1, "output");
    if (path && strcmp(path, "-")) {
        o->path = path;
        out_open(&o->file, path);
        zstd |= ends_with(path, ".zst");
    } else {
        o->stream = stdout;
    }
    if (zstd) start_zstd(o, LEVEL);
    return o;
}

void output_write(Output *o, const char *bytes, size_t n) {
#ifdef OC_ZSTD
    if (o->zstd) {
        compress(o, bytes, n, ZSTD_e_continue);
        return;
    }
#endif
    if (o->n + n > BLOCK) {
        put(o, o->block, o->n);
        o->n = 0;
    }
    if (n > BLOCK) {
        put(o, bytes, n);
    } else {
        memcpy(o->block + o->n, bytes, n);
        o->n += n;
    }
}

static void finish(Output *o) {
#ifdef OC_ZSTD
    if (o->zstd) compress(o, "", 0, ZSTD_e_end);
    ZSTD_freeCStream(o->zstd);
    o->zstd = NULL;
#endif
    put(o, o->block, o->n);
    o->n = 0;
    free(o->block);
}

void output_commit(Output *o) {
    finish(o);
    if (o->stream == stdout) close_stdout();
    if (!o->stream) out_commit(&o->file);
    free(o);
}

/* ------------------------------------------------------------------------------------------------
 * 3. A spool: written once, then read once. The file has no name: nothing of it is ever left. */

Output *output_spool(void) {
    Output *o = xcalloc(1, sizeof *o, "output");
    o->block = xcalloc(BLOCK, 1, "output");
    const char *dir = getenv("TMPDIR");
    Buf name = { NULL, 0, 0 };
    buf_printf(&name, "%.900s/refine-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(name.data);
    if (fd < 0)
        die("%s: cannot create: %s; TMPDIR names another place", name.data, strerror(errno));
    unlink(name.data);
    buf_free(&name);
    o->stream = fdopen(fd, "w+");
    if (!o->stream) die("temporary file: %s", strerror(errno));
#ifdef OC_ZSTD
    start_zstd(o, 1);
#endif
    return o;
}

Source *source_spool(Output *o) {
    finish(o);
    if (fflush(o->stream)) die("temporary file: cannot write: %s", strerror(errno));
    int fd = dup(fileno(o->stream));
    if (fd < 0 || lseek(fd, 0, SEEK_SET)) die("temporary file: %s", strerror(errno));
    fclose(o->stream);
    free(o);
    Source *s = source_lines(NULL, 0);
    Lines *l = (Lines *)s;
    struct stat st;
    if (!fstat(fd, &st)) s->total = (uint64_t)st.st_size;
    l->spool = fd;
    return s;
}
