/* collect.c: bringing files out of a box: what a compiler has made there, for the next box.
 *
 * What to know first: init walks /box when everything else in the box is dead, so nothing changes
 * under its feet; but names, links and sizes are still the hostile program's. Directories are
 * entered and files opened without following links, only regular files count, depth and number are
 * limited, and the reader believes nothing: a stream of CollectHead, name, bytes; then its end.
 * Test: tests/test_sandbox.py. */

#include "box.h"
#include <poll.h>

enum { COLLECT_DEPTH = 8, COLLECT_NAME = 512, COLLECT_FILES = 4096 };

typedef struct {
    uint64_t size;
    uint32_t name_size, executable;
} CollectHead;

/* ------------------------------------------------------------------------------------------------
 * 1. In the box: system calls only, see box.c */

typedef struct {
    int to, files;
    size_t name_size;
    char name[COLLECT_NAME];
} Walk;

typedef struct {
    uint64_t inode;
    int64_t next;
    uint16_t size;
    uint8_t type;
    char name[];
} DirEntry; /* struct linux_dirent64 */

static bool send_all(int to, const void *bytes, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t sent = write(to, (const char *)bytes + at, n - at);
        if (sent < 0) return false;
        at += (size_t)sent;
    }
    return true;
}

static bool send_file(Walk *w, int dir, const char *name) {
    static char block[1 << 16];
    struct stat st;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return true; /* a link, or unreadable: not collected */
    bool ok = true;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && w->files++ < COLLECT_FILES) {
        CollectHead head = { (uint64_t)st.st_size, (uint32_t)w->name_size, !!(st.st_mode & 0100) };
        ok = send_all(w->to, &head, sizeof head) && send_all(w->to, w->name, w->name_size);
        for (uint64_t left = head.size; left && ok;) {
            ssize_t n = read(fd, block, left < sizeof block ? (size_t)left : sizeof block);
            ok = n > 0 && send_all(w->to, block, (size_t)n);
            left -= ok ? (uint64_t)n : 0;
        }
    }
    close(fd);
    return ok;
}

/* Everything in the open directory, whose name with a '/' behind it is in w. Closes it. */
static bool send_directory(Walk *w, int dir, int depth) {
    static char block[COLLECT_DEPTH + 1][8192];
    size_t base = w->name_size;
    bool ok = true;
    for (long n; ok && (n = syscall(SYS_getdents64, dir, block[depth], sizeof block[depth])) > 0;)
        for (long at = 0; at < n && ok;) {
            DirEntry e;
            const char *name = block[depth] + at + offsetof(DirEntry, name);
            memcpy(&e, block[depth] + at, offsetof(DirEntry, name));
            size_t length = strlen(name);
            at += e.size;
            if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
            if (base + length + 2 > COLLECT_NAME) continue;
            memcpy(w->name + base, name, length);
            w->name_size = base + length;
            int inner = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (inner < 0) {
                ok = send_file(w, dir, name);
            } else if (depth < COLLECT_DEPTH) {
                w->name[w->name_size++] = '/';
                ok = send_directory(w, inner, depth + 1);
            } else {
                close(inner);
            }
            w->name_size = base;
        }
    close(dir);
    return ok;
}

void box_collect(int dir, int to) {
    static Walk w;
    w.to = to;
    (void)send_directory(&w, dir, 0); /* half a stream is noticed by its reader */
}

/* ------------------------------------------------------------------------------------------------
 * 2. Outside */

static bool placed(const SandboxJob *job, const char *name) {
    for (int i = 0; i < job->n_files; i++)
        if (!strcmp(job->files[i].name, name)) return true;
    return false;
}

/* Cuts the stream into r->files. */
static bool parse_stream(const SandboxJob *job, const Buf *b, SandboxResult *r) {
    CollectHead head;
    r->files = xcalloc(COLLECT_FILES, sizeof *r->files, "collected files");
    for (size_t at = 0; at < b->n;) {
        if (b->n - at < sizeof head) return false;
        memcpy(&head, b->data + at, sizeof head);
        at += sizeof head;
        if (head.name_size > COLLECT_NAME || head.name_size > b->n - at) return false;
        if (head.size > b->n - at - head.name_size || r->n_files == COLLECT_FILES) return false;
        char *name = xcalloc(head.name_size + 1, 1, "collected files");
        memcpy(name, b->data + at, head.name_size);
        at += head.name_size;
        if (placed(job, name)) {
            free(name);
        } else {
            void *bytes = xcalloc(head.size, 1, "collected files");
            if (head.size) memcpy(bytes, b->data + at, head.size);
            r->files[r->n_files++] = (SandboxFile){ name, bytes, head.size, head.executable };
        }
        at += head.size;
    }
    return true;
}

/* As read; at the deadline -1, too. */
static ssize_t read_until(int from, void *block, size_t size, double deadline) {
    for (double left; (left = deadline - now_seconds()) > 0;) {
        struct pollfd p = { from, POLLIN, 0 };
        int ready = poll(&p, 1, (int)(left * 1000) + 1);
        ssize_t n = ready > 0 ? read(from, block, size) : ready;
        if (n < 0 ? errno != EINTR : ready > 0) return n;
    }
    return -1;
}

Collected collect_read(const SandboxJob *job, int from, uint64_t limit, double deadline,
                       SandboxResult *r) {
    Buf b = { 0 };
    char block[1 << 16];
    ssize_t n;
    while ((n = read_until(from, block, sizeof block, deadline)) > 0 && b.n + (size_t)n <= limit)
        buf_add(&b, block, (size_t)n);
    Collected end = n > 0 ? COLLECT_TOO_MUCH : COLLECTED;
    if (n < 0 || (!end && !parse_stream(job, &b, r))) end = COLLECT_FAILED;
    buf_free(&b);
    return end;
}
