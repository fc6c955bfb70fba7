/* webbytes.c: the bytes of a file of a crawl, plain, gzip or zstd by its first bytes. See recall.h.
 *
 * What to know first: a WARC file is a chain of gzip members, usually one for each record. Where
 * one is damaged, all up to the next beginning of a member is passed over, and the reader hears of
 * it by an empty peek. Zstd frames are treated alike. Test: tests/test_recall_read.py. */

#include "recall.h"
#ifdef OC_ZLIB
#include <zlib.h> /* inflate */
#endif
#ifdef OC_ZSTD
#include <zstd.h>        /* ZSTD_decompressStream */
#include <zstd_errors.h> /* ZSTD_getErrorCode */
#endif

enum { BLOCK = REFINE_BLOCK / 4 };
enum { PLAIN, GZIP, ZSTD };

struct Bytes {
    int fd, kind;
    const char *path;
    uint64_t *done;
    char *in; /* bytes of the file, from `used` to n not yet used */
    size_t used, n;
    size_t again_from; /* the first byte in it where another member may begin within this one */
    uint64_t retried;  /* bytes that were looked at again */
    bool ended;
    char *plain; /* what was decompressed */
    Str left;    /* what peek shows */
    Buf again, was_again;
    bool within, lost; /* in a member; looking for the beginning of one */
    const char *damage;
#ifdef OC_ZLIB
    z_stream z;
#endif
#ifdef OC_ZSTD
    ZSTD_DStream *zstd;
#endif
};

/* At least `wanted` bytes in `in`, if the file has them; false where there is none. */
static bool need(Bytes *b, size_t wanted) {
    if (b->n - b->used < wanted && b->used) {
        memmove(b->in, b->in + b->used, b->n - b->used);
        b->n -= b->used;
        b->again_from = b->used = 0;
    }
    while (b->n - b->used < wanted && !b->ended) {
        ssize_t got = read(b->fd, b->in + b->n, BLOCK - b->n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) die("%s: cannot read: %s", b->path, strerror(errno));
        b->ended = !got;
        b->n += (size_t)got;
        *b->done += (uint64_t)got;
    }
    return b->used < b->n;
}

static bool begins(const Bytes *b, const char *magic, size_t n) {
    return b->n - b->used >= n && !memcmp(b->in + b->used, magic, n);
}

static bool frame_begins(const Bytes *b) { /* of zstd, or one that is to be skipped */
    return begins(b, "\x28\xB5\x2F\xFD", 4) ||
           (b->n - b->used >= 4 && (b->in[b->used] & 0xF0) == 0x50 &&
            !memcmp(b->in + b->used + 1, "\x2A\x4D\x18", 3));
}

Bytes *bytes_open(const char *path, uint64_t *done) {
    Bytes *b = (Bytes *)xcalloc(1, sizeof *b, "input");
    b->path = path;
    b->done = done;
    b->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (b->fd < 0) die("%s: cannot open: %s", path, strerror(errno));
    b->in = (char *)xcalloc(BLOCK, 1, "input");
    b->plain = (char *)xcalloc(BLOCK, 1, "input");
    need(b, 4);
    if (begins(b, "\x1F\x8B", 2)) b->kind = GZIP;
    if (frame_begins(b)) b->kind = ZSTD;
#ifdef OC_ZLIB
    if (b->kind == GZIP && inflateInit2(&b->z, 31) != Z_OK) die("%s: out of memory", path);
#else
    if (b->kind == GZIP)
        die("%s: is gzip, expected plain text; this refine was built without zlib", path);
#endif
#ifdef OC_ZSTD
    if (b->kind == ZSTD && !(b->zstd = ZSTD_createDStream())) die("%s: out of memory", path);
#else
    if (b->kind == ZSTD)
        die("%s: is zstd, expected plain text; this refine was built without zstd", path);
#endif
    return b;
}

void bytes_close(Bytes *b) {
    if (!b) return;
    close(b->fd);
#ifdef OC_ZLIB
    if (b->kind == GZIP) inflateEnd(&b->z);
#endif
#ifdef OC_ZSTD
    ZSTD_freeDStream(b->zstd);
#endif
    buf_free(&b->again), buf_free(&b->was_again);
    free(b->in), free(b->plain), free(b);
}

/* ------------------------------------------------------------------------------------------------
 * Members and frames */

#if defined(OC_ZLIB) || defined(OC_ZSTD)
static bool member_begins(const Bytes *b) {
    if (b->kind == ZSTD) return frame_begins(b);
    return begins(b, "\x1F\x8B\x08", 3) && b->n - b->used > 3 && !(b->in[b->used + 3] & 0xE0);
}

static void lose(Bytes *b, const char *what) {
    b->damage = what;
    b->within = false;
    b->lost = true;
}

/* The next member may begin within what this one has taken for its own, so it is looked for from
 * its second byte on; there is an end to such looking again. */
static void damaged(Bytes *b, const char *what) {
    if (b->used > b->again_from && b->retried < 4 * *b->done + (32 << 20)) {
        b->retried += b->used - b->again_from;
        b->used = b->again_from;
    }
    lose(b, what);
}

/* Moves to the beginning of a member; false at the end of the file and at damage. */
static bool find_member(Bytes *b) {
    static const char *const garbage[] = { "", "gzip: bytes that are no member, expected one",
                                           "zstd: bytes that are no frame, expected one" };
    while (need(b, 4)) {
        if (member_begins(b)) {
            b->lost = false;
            b->within = true;
            b->again_from = b->used + 1;
            return true;
        }
        bool padding = !b->in[b->used];
        if (!b->lost && !padding) {
            lose(b, garbage[b->kind]);
            return false;
        }
        b->used++;
    }
    return false;
}
#endif

#ifdef OC_ZLIB
static size_t step_gzip(Bytes *b) {
    if (!b->within) {
        if (!find_member(b)) return 0;
        if (inflateReset2(&b->z, 31) != Z_OK) die("%s: out of memory", b->path);
    }
    size_t before = b->n - b->used;
    b->z.next_in = (Bytef *)b->in + b->used;
    b->z.avail_in = (uInt)before;
    b->z.next_out = (Bytef *)b->plain;
    b->z.avail_out = BLOCK;
    int status = inflate(&b->z, Z_NO_FLUSH);
    b->used = b->n - b->z.avail_in;
    if (status == Z_MEM_ERROR) die("%s: zlib: out of memory", b->path);
    if (status == Z_STREAM_END) b->within = false;
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        damaged(b, "gzip: damaged from here on, up to the next member");
    return BLOCK - b->z.avail_out;
}
#endif

#ifdef OC_ZSTD
static size_t step_zstd(Bytes *b) {
    if (!b->within) {
        if (!find_member(b)) return 0;
        ZSTD_DCtx_reset(b->zstd, ZSTD_reset_session_only);
    }
    ZSTD_inBuffer in = { b->in, b->n, b->used };
    ZSTD_outBuffer out = { b->plain, BLOCK, 0 };
    size_t left = ZSTD_decompressStream(b->zstd, &out, &in);
    if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation)
        die("%s: zstd: out of memory", b->path);
    if (ZSTD_isError(left)) { /* the library does not say where */
        b->used++;
        damaged(b, "zstd: damaged from here on, up to the next frame");
        return 0;
    }
    b->used = in.pos;
    if (left == 0) b->within = false;
    return out.pos;
}
#endif

static size_t step(Bytes *b) {
    (void)b; /* without both libraries */
#ifdef OC_ZLIB
    if (b->kind == GZIP) return step_gzip(b);
#endif
#ifdef OC_ZSTD
    if (b->kind == ZSTD) return step_zstd(b);
#endif
    return 0;
}

Str bytes_peek(Bytes *b) {
    const Str none = { "", 0 };
    if (b->left.n) return b->left;
    while (!b->damage) {
        if (b->again.n) { /* to be read next, and behind it what was at hand before */
            Buf t = b->was_again;
            b->was_again = b->again;
            b->again = t;
            b->again.n = 0;
            return b->left = (Str){ b->was_again.data, b->was_again.n };
        }
        bool any = need(b, 1);
        if (b->kind == PLAIN) {
            b->left = (Str){ b->in + b->used, b->n - b->used };
            b->used = b->n;
            return any ? b->left : none;
        }
        if (!any && b->within) {
            b->damage = "compressed data is cut off";
            b->within = false;
            break;
        }
        if (!any) break;
        size_t n = step(b);
        b->left = (Str){ b->plain, n };
        if (n) return b->left;
    }
    return none;
}

void bytes_skip(Bytes *b, size_t n) {
    b->left.s += n;
    b->left.n -= n;
}

void bytes_again(Bytes *b, const char *s, size_t n) {
    Buf all = { NULL, 0, 0 };
    buf_add(&all, s, n);
    buf_add(&all, b->left.s, b->left.n);
    buf_free(&b->again);
    b->again = all;
    b->left.n = 0;
}

const char *bytes_damage(Bytes *b) {
    const char *what = b->damage;
    b->damage = NULL;
    return what;
}

bool bytes_line(Bytes *b, Buf *line, size_t most) {
    size_t from = line->n;
    for (bool any = false;; any = true) {
        Str s = bytes_peek(b);
        if (!s.n) return any;
        const char *stop = (const char *)memchr(s.s, '\n', s.n);
        size_t n = stop ? (size_t)(stop - s.s) + 1 : s.n, room = most - (line->n - from);
        buf_add(line, s.s, n < room ? n : room);
        bytes_skip(b, n);
        if (stop) return true;
    }
}

bool bytes_inflate(Str in, Buf *out, size_t most, Error *e) {
#ifdef OC_ZLIB
    static const int windows[] = { 47, -15 }; /* gzip or zlib by its header; without one */
    for (int k = 0; k < 2; k++) {
        z_stream z = { 0 };
        char part[16384];
        int status = Z_OK;
        out->n = 0;
        if (inflateInit2(&z, windows[k]) != Z_OK) die("zlib: out of memory");
        z.next_in = (Bytef *)(uintptr_t)in.s;
        z.avail_in = (uInt)in.n;
        while (status == Z_OK && out->n < most) {
            z.next_out = (Bytef *)part;
            z.avail_out = sizeof part;
            status = inflate(&z, Z_NO_FLUSH);
            if (status == Z_MEM_ERROR) die("zlib: out of memory");
            buf_add(out, part, sizeof part - z.avail_out);
        }
        inflateEnd(&z);
        bool enough = out->n >= most;
        if (enough) out->n = most;
        if (status == Z_STREAM_END || enough) return true;
    }
    return fail(e, "Content-Encoding: the body is damaged or cut off");
#else
    (void)in, (void)out, (void)most;
    return fail(e, "Content-Encoding: a compressed body; this refine was built without zlib");
#endif
}
