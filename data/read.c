/* read.c: `./refine read`, documents from directories, git repositories, archives and notebooks.
 *
 *     ./refine read src/ linux.tar.xz > files.jsonl     a directory, an archive: a repository each
 *     ./refine read --repo-depth 2 github/ --meta stars.jsonl > files.jsonl     github/OWNER/NAME/
 *
 * What to know first: the source below walks over what it is given and hands out one file at a
 * time, by name only where it lies in a directory; the stage `read`, in any thread, looks at the
 * bytes. What is no text in a known language is dropped and counted, never fatal: too large, empty,
 * binary, not UTF-8, unreadable, a link, of no known language. Links are not followed: one could
 * lead back up, for ever. Test: tests/test_refine_read.py. */

#include "inputs.h"
#include "refine.h"
#include <dirent.h> /* scandir */

static struct {
    const char *repo, *meta;
    int64_t depth, stars, min_stars, commit_time;
    bool git_log, mtime, unknown;
} opt;

static const Option options[] = {
    { 0, "repo", NULL, "NAME", OPT_TEXT, &opt.repo, 0, 0, "name of the repository [the input's]" },
    { 0, "repo-depth", NULL, "N", OPT_INT, &opt.depth, 0, 16,
      "repositories lie N directories below the input, whose names are theirs" },
    { 0, "stars", NULL, "N", OPT_INT, &opt.stars, 0, 1e12, "stars of the repositories" },
    { 0, "min-stars", NULL, "N", OPT_INT, &opt.min_stars, 0, 1e12,
      "leave out repositories with fewer" },
    { 0, "commit-time", NULL, "T", OPT_INT, &opt.commit_time, 0, 1e12, "seconds since 1970" },
    { 0, "meta", NULL, "FILE", OPT_TEXT, &opt.meta, 0, 0,
      "JSON Lines with repo, stars, commit_time" },
    { 0, "git-log", NULL, NULL, OPT_FLAG, &opt.git_log, 0, 0,
      "commit times of files in git repositories, by git log" },
    { 0, "mtime", NULL, NULL, OPT_FLAG, &opt.mtime, 0, 0,
      "the file's time, where no commit time is known" },
    { 0, "unknown", NULL, NULL, OPT_FLAG, &opt.unknown, 0, 0,
      "keep files of no known language too" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* ------------------------------------------------------------------------------------------------
 * 1. What is known about repositories */

typedef struct {
    int64_t stars, commit_time;
} Meta;

typedef struct {
    char *dir;     /* "" or its path with a slash */
    char *repo;    /* the repository that its files belong to */
    size_t prefix; /* bytes of dir before the path within the repository */
    int depth;
    Meta meta;
    struct dirent **entry;
    int n, next;
    bool git; /* times are in Files.git */
} Dir;

typedef struct {
    Source source;
    const char **path;
    int n, at;
    Dir *dir; /* from the input down to where the walk is */
    size_t n_dirs;
    Archive *archive;
    Source *lines;
    Meta meta; /* of the archive */
    char *repo;
    Words metas, git; /* repo -> 1 + index in meta_of; path -> time of its last commit */
    Meta *meta_of;
} Files;

static char *copy(const char *s, size_t n) {
    char *p = xcalloc(n + 1, 1, "name");
    memcpy(p, s, n);
    return p;
}

static void read_meta(Files *f) {
    Document d = { 0 };
    Error e;
    size_t n = 0;
    Source *s = source_lines(&opt.meta, 1);
    document_reset(&d);
    for (; s->next(s, &d); document_reset(&d)) {
        Meta m = { opt.stars, opt.commit_time };
        Str repo = { "", 0 };
        if (!json_parse(&d.json, d.raw.data, d.raw.n, &e) ||
            !json_str(d.json.node, "repo", true, &repo, &e) ||
            !json_int(d.json.node, "stars", false, 0, INT64_MAX, &m.stars, &e) ||
            !json_int(d.json.node, "commit_time", false, 0, INT64_MAX, &m.commit_time, &e))
            die("%s:%lld: %s", opt.meta, (long long)d.line, e.text);
        Word *w = words_get(&f->metas, repo.s, repo.n);
        f->meta_of = xrealloc(f->meta_of, n + 1, sizeof m, "meta");
        f->meta_of[n++] = m;
        w->value = n;
    }
    source_close(s);
    document_free(&d);
}

static Meta meta_of(Files *f, const char *repo) {
    Word *w = words_get(&f->metas, repo, strlen(repo));
    return w->value ? f->meta_of[w->value - 1] : (Meta){ opt.stars, opt.commit_time };
}

/* ------------------------------------------------------------------------------------------------
 * 2. Directories */

static bool exists_in(const char *dir, const char *name) {
    Buf b = { NULL, 0, 0 };
    buf_add(&b, dir, strlen(dir));
    buf_add(&b, name, strlen(name));
    bool there = !access(b.data, F_OK);
    buf_free(&b);
    return there;
}

/* The name of the repository that an input is: its last directory's, also where that is ".". */
static char *name_input(const char *path) {
    if (opt.repo) return copy(opt.repo, strlen(opt.repo));
    char *real = realpath(path, NULL);
    if (!real && errno == ENOMEM) die("%s: out of memory", path);
    const char *name = real ? real : path, *slash = strrchr(name, '/');
    char *repo = slash && slash[1] ? copy(slash + 1, strlen(slash + 1)) : copy(name, strlen(name));
    free(real);
    return repo;
}

/* Starts on a directory; `path` ends in a slash. False, with the reason, where it cannot be read.
 * Its files belong to the repository above, but for a .git or at the depth asked for, where one
 * begins: its name is that of the directories since the input. */
static bool enter(Files *f, const char *path, Error *e) {
    const Dir *up = f->n_dirs ? &f->dir[f->n_dirs - 1] : NULL;
    Dir d = { .depth = up ? up->depth + 1 : 0, .git = up && up->git };
    size_t len = strlen(path), root = up ? strlen(f->dir[0].dir) : 0;
    bool git = exists_in(path, ".git"), begins = !up || git || d.depth <= opt.depth;
    d.n = scandir(path, &d.entry, NULL, alphasort);
    if (d.n < 0) return fail(e, "cannot read the directory: %s", strerror(errno));
    d.dir = copy(path, len);
    d.prefix = begins ? len : up->prefix;
    if (!begins) d.repo = copy(up->repo, strlen(up->repo));
    if (begins && up) d.repo = copy(path + root, len - root - 1);
    if (!up) d.repo = name_input(path);
    d.meta = begins ? meta_of(f, d.repo) : up->meta;
    if (git && opt.git_log) d.git = git_times(path, &f->git);
    f->dir = xrealloc(f->dir, f->n_dirs + 1, sizeof d, "directories");
    f->dir[f->n_dirs++] = d;
    return true;
}

static void leave(Files *f) {
    Dir *d = &f->dir[--f->n_dirs];
    while (d->next < d->n) free(d->entry[d->next++]);
    free(d->entry);
    free(d->dir);
    free(d->repo);
}

static void set_place(Document *d, const char *repo, const char *path, Meta m) {
    size_t n = strlen(repo), k = strlen(path);
    d->names.n = 0;
    buf_add(&d->names, repo, n + 1);
    buf_add(&d->names, path, k + 1);
    d->repo = (Str){ d->names.data, n };
    d->path = (Str){ d->names.data + n + 1, k };
    d->stars = m.stars;
    d->commit_time = m.commit_time;
}

/* What may not be read, or has gone, is dropped and counted; where the system fails (too many open
 * files, no memory, a bad disk) the program ends: the output would lack what it should have. */
static bool unreadable(Document *d) {
    static const int usual[] = { EACCES, EPERM, ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG };
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (errno == usual[i]) return document_drop(d, "unreadable");
    die("%s: cannot read: %s", d->raw.data, strerror(errno));
}

/* The entry of the walk's directory becomes a document, with the name to open in raw; false where
 * it is a directory or none of ours. */
static bool take_entry(Files *f, const char *name, Document *d) {
    static const char *const hidden[] = { ".", "..", ".git", ".hg", ".svn", ".bzr" };
    Dir *dir = &f->dir[f->n_dirs - 1];
    struct stat st;
    Error e;
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (!strcmp(name, hidden[i])) return false;
    d->raw.n = 0;
    buf_add(&d->raw, dir->dir, strlen(dir->dir));
    buf_add(&d->raw, name, strlen(name));
    set_place(d, dir->repo, d->raw.data + dir->prefix, dir->meta);
    if (lstat(d->raw.data, &st)) {
        unreadable(d);
    } else if (S_ISDIR(st.st_mode)) {
        buf_add(&d->raw, "/", 1);
        if (enter(f, d->raw.data, &e)) return false;
        unreadable(d);
    } else if (!S_ISREG(st.st_mode)) {
        d->reason = S_ISLNK(st.st_mode) ? "a link" : "not a regular file";
    } else {
        uint64_t time = dir->git ? words_get(&f->git, d->raw.data, d->raw.n)->value : 0;
        d->size = (int64_t)st.st_size;
        if (time) d->commit_time = (int64_t)time;
        if (!d->commit_time && opt.mtime) d->commit_time = (int64_t)st.st_mtime;
        f->source.done += (uint64_t)st.st_size;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * 3. The source */

static bool next_in_archive(Files *f, Document *d) {
    Str path;
    int64_t time;
    if (!archive_next(f->archive, d, &path, &time)) {
        archive_close(f->archive);
        f->archive = NULL;
        return false;
    }
    while (path.n > 2 && !memcmp(path.s, "./", 2)) path.s += 2, path.n -= 2;
    set_place(d, f->repo, path.s, f->meta);
    if (!d->commit_time && time > 0) d->commit_time = time;
    f->source.done += (uint64_t)d->size;
    return true;
}

static bool next_in_lines(Files *f, Document *d) {
    if (f->lines->next(f->lines, d)) return true;
    source_close(f->lines);
    f->lines = NULL;
    return false;
}

/* The file's own name without directories and without what says that it is an archive. */
static void name_archive(Files *f, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = archive_stem(name);
    free(f->repo);
    f->repo = opt.repo ? copy(opt.repo, strlen(opt.repo)) : copy(name, n);
    f->meta = meta_of(f, f->repo);
}

static bool is_lines(const char *path) {
    size_t n = strlen(path);
    return !strcmp(path, "-") || (n > 6 && !strcmp(path + n - 6, ".jsonl")) ||
           (n > 10 && !strcmp(path + n - 10, ".jsonl.zst"));
}

/* Begins with the next path that was given; a single file is a document at once. */
static bool next_path(Files *f, Document *d) {
    const char *path = f->path[f->at++];
    struct stat st;
    Error e;
    if (is_lines(path)) {
        f->lines = source_lines(&path, 1);
        return false;
    }
    if (stat(path, &st)) die("%s: cannot open: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        Buf dir = { NULL, 0, 0 };
        buf_add(&dir, path, strlen(path));
        if (dir.data[dir.n - 1] != '/') buf_add(&dir, "/", 1);
        if (!enter(f, dir.data, &e)) die("%s: %s", path, e.text);
        buf_free(&dir);
        return false;
    }
    if (archive_stem(path) < strlen(path)) {
        name_archive(f, path);
        f->archive = archive_open(path);
        return false;
    }
    const char *slash = strrchr(path, '/');
    buf_add(&d->raw, path, strlen(path));
    set_place(d, opt.repo ? opt.repo : "", slash ? slash + 1 : path,
              (Meta){ opt.stars, opt.commit_time });
    d->size = (int64_t)st.st_size;
    f->source.done += (uint64_t)st.st_size;
    return true;
}

static bool files_next(Source *s, Document *d) {
    Files *f = (Files *)s;
    for (;;) {
        if (f->n_dirs) {
            Dir *dir = &f->dir[f->n_dirs - 1];
            if (dir->next == dir->n) {
                leave(f);
                continue;
            }
            struct dirent *entry = dir->entry[dir->next++];
            bool found = take_entry(f, entry->d_name, d);
            free(entry);
            if (found) return true;
        } else if (f->archive) {
            if (next_in_archive(f, d)) return true;
        } else if (f->lines) {
            if (next_in_lines(f, d)) return true;
        } else if (f->at == f->n) {
            return false;
        } else if (next_path(f, d)) {
            return true;
        }
        document_reset(d);
    }
}

/* A line is parsed here; the bytes of files are the stage's. */
static bool files_load(const Source *s, Document *d, Error *e) {
    if (d->line) return load_line(s, d, e);
    return !d->broken || fail(e, "%s", d->broken);
}

static void files_close(Source *s) {
    Files *f = (Files *)s;
    while (f->n_dirs) leave(f);
    if (f->archive) archive_close(f->archive);
    source_close(f->lines);
    free(f->dir), free(f->repo), free(f->meta_of);
    words_free(&f->metas), words_free(&f->git);
    free(f);
}

Source *source_files(const char **path, int n) {
    Files *f = xcalloc(1, sizeof *f, "input");
    f->source = (Source){ files_next, files_load, files_close, 0, 0 };
    f->path = path;
    f->n = n;
    if (!n) die_usage("no input, expected directories, archives or files to read");
    for (int i = 0; i < n; i++)
        if (strcmp(path[i], "-") && access(path[i], R_OK))
            die("%s: cannot open: %s", path[i], strerror(errno));
    if (opt.meta) read_meta(f);
    return &f->source;
}

/* ------------------------------------------------------------------------------------------------
 * 4. The stage: from bytes to a document */

/* Reads the file that raw names into text; no more than is allowed, even if it grows. A directory
 * or a pipe may have come in its place since the walk, and opens like a file. */
static bool read_bytes(Document *d) {
    struct stat st;
    int fd = open(d->raw.data, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return unreadable(d);
    bool known = !fstat(fd, &st);
    if (!known || !S_ISREG(st.st_mode)) {
        close(fd);
        return known ? document_drop(d, "not a regular file") : unreadable(d);
    }
    Buf *b = &d->text;
    buf_add(b, "", 0);
    if (b->cap < (size_t)d->size + 1) {
        b->cap = (size_t)d->size + 1;
        b->data = xrealloc(b->data, b->cap, 1, "file");
    }
    ssize_t got = 1;
    while (b->n <= MOST_FILE && got) {
        char more[4096];
        size_t room = b->cap - 1 - b->n;
        got = room ? read(fd, b->data + b->n, room) : read(fd, more, sizeof more);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return unreadable(d); /* and ends */
        if (room)
            b->n += (size_t)got;
        else
            buf_add(b, more, (size_t)got);
    }
    close(fd);
    b->data[b->n] = 0;
    d->size = (int64_t)b->n;
    return true;
}

static bool is_utf8(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint64_t w;
        if (n - i >= 8 && (memcpy(&w, s + i, 8), !(w & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        int len = utf8_length(s + i, s + n);
        if (!len) return false;
        i += (size_t)len;
    }
    return true;
}

static void set_language(Document *d) {
    const Language *l = language_of(d->path);
    const char *dot = d->path.n ? memrchr(d->path.s, '.', d->path.n) : NULL;
    if (l) d->language = str_of(l->name), d->type = str_of(l->type);
    if (d->ext.n || !dot || memchr(dot, '/', (size_t)(d->path.s + d->path.n - dot))) return;
    if (dot > d->path.s && dot[-1] != '/')
        d->ext = (Str){ dot + 1, (size_t)(d->path.s + d->path.n - dot) - 1 };
}

static bool read_process(void *state, int thread, Document *d) {
    (void)state, (void)thread;
    bool line = d->line > 0;
    if (d->reason) return false;
    if (d->stars < opt.min_stars) return document_drop(d, "few stars");
    if (!d->language.n) set_language(d);
    if (!d->language.n && !opt.unknown) return document_drop(d, "unknown language");
    if (d->size > MOST_FILE) return document_drop(d, "larger than 8 MB");
    if (!line && d->from[0] == 0 && !read_bytes(d)) return false;
    if (d->text.n > MOST_FILE) return document_drop(d, "larger than 8 MB");
    d->content = (Str){ d->text.data, d->text.n };
    if (!d->text.n) return document_drop(d, "empty");
    if (memchr(d->text.data, 0, d->text.n)) return document_drop(d, "binary");
    if (!is_utf8(d->text.data, d->text.n)) return document_drop(d, "not UTF-8");
    if (!str_is(d->ext, "ipynb")) return true;
    Buf text = { NULL, 0, 0 };
    Error e;
    bool ok = notebook_text(d->content, &text, &e);
    if (ok) document_content(d, &text);
    buf_free(&text);
    return ok ? d->content.n || document_drop(d, "empty") : document_drop(d, "broken notebook");
}

const Stage read_stage = {
    "read",
    "documents from directories, git, tar, zip, notebooks",
    "Inputs are directories, .tar[.gz|.bz2|.xz|.zst], .tgz, .zip, .jsonl[.zst] and single files.\n"
    "Files above 8 MB, binary ones and those of no known language are left out and counted.\n",
    options,
    NULL,
    read_process,
    NULL,
    NULL,
};
