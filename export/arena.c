/* arena.c: memory that lives as long as a Source, and the growing list of a foreign file's tensors.
 *
 * What to know first: a reader makes many small things (names, texts without their escapes) that
 * nobody wants to free one by one. They hang on the arena and go with it, also after an error
 * half-way. Test: tests/test_format.c. */

#include "export.h" /* Arena, TensorList */

/* The list of blocks has room for the next power of two above n, so it is full exactly when n
 * itself is a power of two: no capacity needs to be stored. */
static void *arena_keep(Arena *a, void *block) {
    if ((a->n & (a->n - 1)) == 0)
        a->block = xrealloc(a->block, a->n ? 2 * a->n : 1, sizeof *a->block, "arena");
    return a->block[a->n++] = block;
}

void *arena_alloc(Arena *a, size_t n, size_t size, const char *what) {
    return arena_keep(a, xcalloc(n, size, what));
}

/* A copy with a NUL behind it, for the readers of C strings. */
Str arena_copy(Arena *a, const char *bytes, size_t n) {
    char *copy = arena_alloc(a, n + 1, 1, "text");
    if (n) memcpy(copy, bytes, n);
    Str s = { copy, n };
    return s;
}

void arena_free(Arena *a) {
    for (size_t i = 0; i < a->n; i++) free(a->block[i]);
    free(a->block);
    memset(a, 0, sizeof *a);
}

void tensor_list_add(TensorList *l, Tensor t) {
    if (l->n == l->cap) {
        l->cap = 2 * l->cap + 16;
        l->tensor = xrealloc(l->tensor, l->cap, sizeof *l->tensor, "list of tensors");
    }
    l->tensor[l->n++] = t;
}
