/* texts.c: documents from files, directories and JSON Lines; a table of words. See texts.h.
 *
 * Files are mapped, checked when they are listed (UTF-8 without NUL, or they are skipped), given
 * back and mapped again when their turn comes: a million small files is fine. JSON Lines stay
 * mapped. Test: tests/test_vocab.py, tests/test_pack.py. */

#include "texts.h"
#include <dirent.h> /* scandir */
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads, omp_get_thread_num */
#endif

int set_threads(int64_t wanted) {
#ifdef _OPENMP
    if (wanted > 0) omp_set_num_threads((int)wanted);
    return omp_get_max_threads();
#else
    (void)wanted;
    return 1;
#endif
}

int this_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* ------------------------------------------------------------------------------------------------
 * 1. What is there */

void texts_skip(Texts *x, const char *path, uint32_t line, const char *why) {
    char text[1024], at[16] = "";
    x->n_skipped++;
    if (x->named == 5) fputs("(more of them are only counted)\n", stderr);
    if (x->named++ >= 5) return;
    if (line) snprintf(at, sizeof at, ":%u", line);
    snprintf(text, sizeof text, "skipped: %.400s%s: %.500s", path, at, why);
    for (char *p = text; *p; p++) /* names from outside may hold line feeds or escapes */
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    fprintf(stderr, "%s\n", text);
}

/* Eight bytes that are ASCII and none of them NUL: no top bit, and none borrows one. */
static bool plain_ascii(const char *s) {
    uint64_t w;
    memcpy(&w, s, 8);
    return !((w | (w - 0x0101010101010101u)) & 0x8080808080808080u);
}

static bool check_text(const char *s, size_t n, Error *e) {
    for (size_t i = 0; i < n;) {
        if (n - i >= 8 && plain_ascii(s + i)) {
            i += 8;
            continue;
        }
        int len = utf8_length(s + i, s + n);
        if (!len || !s[i])
            return fail(e, "byte %zu is %02x, expected UTF-8 text without NUL", i, (uint8_t)s[i]);
        i += (size_t)len;
    }
    return true;
}

/* A longer array where n things fill it: it grows at powers of two. */
static void *grow(void *p, size_t n, size_t size, const char *what) {
    return n & (n - 1) ? p : xrealloc(p, n ? 2 * n : 1, size, what);
}

static void add_doc(Texts *x, Doc d) {
    x->doc = (Doc *)grow(x->doc, x->n_docs, sizeof d, "documents");
    x->doc[x->n_docs++] = d;
    x->n_bytes += d.n;
}

/* A document for every line that is not blank. */
static void add_lines(Texts *x, uint32_t file) {
    const char *s = (const char *)x->file[file].map.data, *end = s + x->file[file].map.size, *stop;
    const char *p = end - s >= 3 && !memcmp(s, "\xEF\xBB\xBF", 3) ? s + 3 : s; /* as on Windows */
    for (uint32_t line = 1; p < end; p = stop + (stop < end), line++) {
        stop = (const char *)memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        const char *text = p;
        while (text < stop && strchr(" \t\r", *text) && *text) text++;
        if (text < stop)
            add_doc(x, (Doc){ file, line, (uint64_t)(text - s), (uint64_t)(stop - text) });
    }
}

static void add_file(Texts *x, const char *path, size_t size) {
    size_t n = strlen(path);
    TextFile f = { NULL, { NULL, 0 }, n > 6 && !strcmp(path + n - 6, ".jsonl") };
    Error e;
    if (!size) {
        x->n_empty++;
        return;
    }
    if (x->n_files == UINT32_MAX) die("%s: file number 2^32, expected fewer", path);
    bool ok = map_file(&f.map, path, &e);
    if (!ok || (!f.lines && !check_text((const char *)f.map.data, f.map.size, &e))) {
        unmap_file(&f.map);
        texts_skip(x, path, 0, e.text);
        return;
    }
    f.path = strdup(path);
    if (!f.path) die("%s: out of memory for its name", path);
    x->file = (TextFile *)grow(x->file, x->n_files, sizeof f, "files");
    uint32_t at = (uint32_t)x->n_files++;
    if (!f.lines) {
        add_doc(x, (Doc){ at, 0, 0, f.map.size });
        unmap_file(&f.map);
    }
    x->file[at] = f;
    if (f.lines) add_lines(x, at);
}

/* Links inside of directories lead to files only: else a link could lead back up, for ever. */
static void add_path(Texts *x, const char *path, bool inside) {
    struct stat st;
    struct dirent **entry;
    Error e;
    bool link = inside && !lstat(path, &st) && S_ISLNK(st.st_mode);
    if (stat(path, &st)) {
        fail(&e, "cannot open: %s", strerror(errno));
        texts_skip(x, path, 0, e.text);
    } else if (S_ISREG(st.st_mode)) {
        add_file(x, path, (size_t)st.st_size);
    } else if (!S_ISDIR(st.st_mode) || link) {
        texts_skip(x, path, 0, link ? "a link, expected a file" : "not a regular file");
    } else {
        int n = scandir(path, &entry, NULL, alphasort);
        if (n < 0) {
            fail(&e, "cannot read the directory: %s", strerror(errno));
            texts_skip(x, path, 0, e.text);
            return;
        }
        size_t len = strlen(path);
        for (int i = 0; i < n; i++) {
            const char *name = entry[i]->d_name;
            Buf full = { 0 };
            buf_add(&full, path, len);
            if (len && path[len - 1] != '/') buf_add(&full, "/", 1);
            buf_add(&full, name, strlen(name));
            if (strcmp(name, ".") && strcmp(name, "..")) add_path(x, full.data, true);
            buf_free(&full);
            free(entry[i]);
        }
        free(entry);
    }
}

void texts_open(Texts *x, const char **path, int n) {
    memset(x, 0, sizeof *x);
    for (int i = 0; i < n; i++) add_path(x, path[i], false);
}

void texts_protect(const Texts *x, const char *out) {
    if (access(out, F_OK)) return;
    for (size_t i = 0; i < x->n_files; i++)
        if (same_file(x->file[i].path, out))
            die_usage("%s: is read and to be written, expected another name", out);
}

void texts_close(Texts *x) {
    for (size_t i = 0; i < x->n_files; i++) {
        unmap_file(&x->file[i].map);
        free(x->file[i].path);
    }
    free(x->file);
    free(x->doc);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Handing it out */

/* The first place behind s[from] where the splitter of tokenizer.c cuts, whatever stands before: a
 * word may end with line feeds, but none goes on behind them with something visible. */
static size_t safe_cut(const char *s, size_t n, size_t from) {
    for (size_t i = from + 1; i < n; i++)
        if (s[i - 1] == '\n' && s[i] > ' ' && s[i] < 127) return i;
    return n;
}

size_t texts_batch(Texts *x, Part *part, size_t bytes, bool cut) {
    size_t n = 0, total = 0;
    Error e;
    while (x->next < x->n_docs && n < BATCH_PARTS && total < bytes) {
        const Doc *d = &x->doc[x->next];
        TextFile *f = &x->file[d->file];
        if (!f->map.data && (!map_file(&f->map, f->path, &e) || f->map.size != d->n)) {
            texts_skip(x, f->path, 0, f->map.data ? "its size has changed" : e.text);
            unmap_file(&f->map);
            x->next++;
            continue;
        }
        const char *s = (const char *)f->map.data + d->at;
        uint64_t from = x->from, end = d->n;
        if (cut && !f->lines && end - from > PART_BYTES) end = safe_cut(s, end, from + PART_BYTES);
        part[n++] = (Part){ d, { s + from, end - from }, end == d->n };
        total += end - from;
        x->from = end == d->n ? 0 : end;
        x->next += end == d->n;
    }
    x->done_bytes += total;
    return n;
}

void texts_release(Texts *x, const Part *part, size_t n) {
    for (size_t i = 0; i < n; i++) {
        TextFile *f = &x->file[part[i].doc->file];
        if (part[i].last && !f->lines) unmap_file(&f->map);
    }
}

void texts_progress(const Texts *x, const char *what) {
    double share = x->n_bytes ? (double)x->done_bytes / (double)x->n_bytes : 1;
    char bar[33];
    if (!isatty(STDERR_FILENO)) return;
    for (int i = 0; i < 32; i++) bar[i] = i < (int)(32 * share) ? '#' : '.';
    bar[32] = 0;
    fprintf(stderr, "\r%s %s %3d %%%s", what, bar, (int)(100 * share), share >= 1 ? "\n" : "");
}

bool record_text(const Json *record, const char *field, Str *text, Error *e) {
    if (record->type != J_OBJECT)
        return fail(e, "%s, expected an object", json_type_name[record->type]);
    if (!field) field = json_get(record, "content") ? "content" : "text";
    if (!json_str(record, field, true, text, e)) return false;
    return !memchr(text->s, 0, text->n) || fail(e, "key %s: a NUL, expected text", field);
}

bool part_text(const Texts *x, const Part *p, const char *field, JsonDoc *doc, Str *text,
               Error *e) {
    *text = p->raw;
    if (!x->file[p->doc->file].lines) return true;
    return json_parse(doc, p->raw.s, p->raw.n, e) && record_text(doc->node, field, text, e);
}

/* ------------------------------------------------------------------------------------------------
 * 3. The table of words */

static uint32_t hash_bytes(const char *s, size_t n) {
    const uint64_t k = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio */
    uint64_t h = n * k, w;
    for (; n; s += w, n -= w) {
        uint64_t eight = 0;
        w = n < 8 ? n : 8;
        memcpy(&eight, s, w);
        h = (h ^ eight) * k;
        h ^= h >> 29;
    }
    return (uint32_t)(h * k >> 32);
}

static void words_rehash(Words *w) {
    w->bits = w->bits ? w->bits + 1 : 10;
    free(w->slot);
    w->slot = (uint32_t *)xcalloc((size_t)1 << w->bits, sizeof *w->slot, "words");
    uint32_t mask = (uint32_t)(((size_t)1 << w->bits) - 1);
    for (size_t k = 0; k < w->n; k++) {
        uint32_t i = w->word[k].hash & mask;
        while (w->slot[i]) i = (i + 1) & mask;
        w->slot[i] = (uint32_t)k + 1;
    }
}

/* The slot of the word with these bytes, or the empty one where it belongs; there are slots. */
static uint32_t find_slot(const Words *w, const char *s, size_t n, uint32_t hash) {
    uint32_t mask = (uint32_t)(((size_t)1 << w->bits) - 1), i = hash & mask;
    for (; w->slot[i]; i = (i + 1) & mask) {
        const Word *found = &w->word[w->slot[i] - 1];
        if (found->hash == hash && found->n == n && !memcmp(w->text.data + found->at, s, n)) break;
    }
    return i;
}

const Word *words_find(const Words *w, const char *s, size_t n) {
    uint32_t i = w->bits ? find_slot(w, s, n, hash_bytes(s, n)) : 0;
    return w->bits && w->slot[i] ? &w->word[w->slot[i] - 1] : NULL;
}

Word *words_get(Words *w, const char *s, size_t n) {
    if (w->n * 2 >= (w->bits ? (size_t)1 << w->bits : 0)) words_rehash(w);
    uint32_t hash = hash_bytes(s, n), i = find_slot(w, s, n, hash);
    if (w->slot[i]) return &w->word[w->slot[i] - 1];
    if (w->n == 1u << 30) die("words: 2^30 different ones, expected fewer");
    if (w->n == w->cap) {
        w->cap = w->cap * 3 / 2 + 512;
        w->word = (Word *)xrealloc(w->word, w->cap, sizeof *w->word, "words");
    }
    w->word[w->n] = (Word){ w->text.n, (uint32_t)n, hash, 0 };
    w->slot[i] = (uint32_t)++w->n;
    buf_add(&w->text, s, n);
    return &w->word[w->n - 1];
}

void words_clear(Words *w) {
    w->n = w->text.n = 0;
    if (w->bits) memset(w->slot, 0, sizeof *w->slot << w->bits);
}

void words_free(Words *w) {
    free(w->word);
    free(w->slot);
    buf_free(&w->text);
    memset(w, 0, sizeof *w);
}
