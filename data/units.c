/* units.c: files, repositories and chunks as the units of `./refine dedup`. See dedup.h.
 *
 * What to know first: a unit has the key of its content and an id of its own, from repo, path,
 * content and, for a chunk, its place: what has the same id is the same in every respect. Test:
 * tests/test_dedup.py. */

#include "dedup.h"

static void add_unit(Document *d, size_t from, size_t n, uint64_t chunk) {
    Unit u = { .from = from, .n = n };
    uint8_t digest[32];
    Buf name = { NULL, 0, 0 };
    sha256(d->content.s + from, n, digest);
    memcpy(u.key, digest, sizeof u.key);
    buf_add(&name, d->repo.s, d->repo.n);
    buf_add(&name, "", 1);
    buf_add(&name, d->path.s, d->path.n);
    buf_add(&name, "", 1);
    buf_add(&name, u.key, sizeof u.key);
    buf_add(&name, &chunk, sizeof chunk);
    sha256(name.data, name.n, digest);
    memcpy(u.id, digest, sizeof u.id);
    buf_free(&name);
    buf_add(&d->scratch, &u, sizeof u);
}

/* Bytes of the next chunk: at least `bytes`, then to the end of the line, if that is not far. */
static size_t chunk_length(Str rest, size_t bytes) {
    if (rest.n <= bytes) return rest.n;
    size_t far = rest.n - bytes < bytes ? rest.n - bytes : bytes;
    const char *end = memchr(rest.s + bytes - 1, '\n', far);
    if (end) return (size_t)(end - rest.s) + 1;
    while (bytes < rest.n && ((uint8_t)rest.s[bytes] & 0xC0) == 0x80) bytes++; /* in a character */
    return bytes;
}

void units_cut(Document *d) {
    size_t at = 0, chunk = 0;
    d->scratch.n = 0;
    if (dedup_options.level != LEVEL_CHUNK) {
        add_unit(d, 0, d->content.n, 0);
        return;
    }
    do {
        Str rest = { d->content.s + at, d->content.n - at };
        size_t n = chunk_length(rest, (size_t)dedup_options.chunk);
        add_unit(d, at, n, chunk++);
        at += n;
    } while (at < d->content.n);
}

Unit *units_of(const Document *d, size_t *n) {
    *n = d->scratch.n / sizeof(Unit);
    return (Unit *)(void *)d->scratch.data;
}

Rank unit_rank(const Document *d, const Unit *u) {
    return (Rank){ d->stars, d->commit_time, { u->id[0], u->id[1] } };
}

Str unit_text(const Document *d, const Unit *u) { return (Str){ d->content.s + u->from, u->n }; }

bool units_keep(Document *d, const char *why) {
    size_t n, kept = 0;
    const Unit *u = units_of(d, &n);
    for (size_t i = 0; i < n; i++) kept += u[i].keep;
    for (size_t i = 0; i < n && n > 1; i++)
        document_count(d, u[i].keep ? "chunks kept" : "chunks dropped");
    if (kept == n) return true;
    if (!kept) return document_drop(d, why);
    Buf text = { NULL, 0, 0 };
    for (size_t i = 0; i < n; i++)
        if (u[i].keep) buf_add(&text, d->content.s + u[i].from, u[i].n);
    document_content(d, &text);
    buf_free(&text);
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * Repositories */

static Str repo_name(const Document *d) { return d->repo.n ? d->repo : d->path; }

void repo_id(const Document *d, uint64_t id[2]) {
    Str name = repo_name(d);
    uint8_t digest[32];
    sha256(name.s, name.n, digest);
    memcpy(id, digest, 2 * sizeof *id);
}

size_t repos_find(Repos *r, const Document *d) {
    Str name = repo_name(d);
    Word *w = words_get(&r->names, name.s, name.n);
    if (w->value) return w->value - 1;
    if (r->n == r->cap) {
        r->cap = r->cap * 3 / 2 + 64;
        r->repo = xrealloc(r->repo, r->cap, sizeof *r->repo, "repositories");
        r->signature = xrealloc(r->signature, r->cap, r->width * sizeof *r->signature,
                                "signatures of repositories");
    }
    Repo *repo = &r->repo[r->n];
    *repo = (Repo){ { 0, 0 }, { 0, INT64_MIN, { 0, 0 } } };
    repo_id(d, repo->best.id);
    memset(r->signature + r->n * r->width, 255, r->width * sizeof *r->signature);
    w->value = ++r->n;
    return r->n - 1;
}

/* The key of a repository is the sum of those of its files: the order does not matter. */
void repos_add(Repos *r, const Document *d, const Unit *u, const uint32_t *signature) {
    size_t i = repos_find(r, d);
    Repo *repo = &r->repo[i];
    uint32_t *own = r->signature + i * r->width;
    repo->key[0] += u->key[0];
    repo->key[1] += mix64(u->key[0] ^ u->key[1]);
    if (d->stars > repo->best.stars) repo->best.stars = d->stars;
    if (d->commit_time > repo->best.commit_time) repo->best.commit_time = d->commit_time;
    for (size_t k = 0; signature && k < r->width; k++)
        if (signature[k] < own[k]) own[k] = signature[k];
}

void repos_free(Repos *r) {
    words_free(&r->names);
    free(r->repo);
    free(r->signature);
    memset(r, 0, sizeof *r);
}
