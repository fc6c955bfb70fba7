/* language.c: which language a file is written in, by its name. See refine.h.
 *
 * What to know first: as in the paper, a file's whole name decides (Makefile, CMakeLists.txt), else
 * its extension, the longest that is known: a.blade.php is Blade. Names are compared as they are,
 * extensions in lower case. Test: tests/test_refine.py. */

#include "refine.h"
#include "languages.h" /* language_table */

enum { N_LANGUAGES = sizeof language_table / sizeof *language_table };

typedef struct {
    Str key; /* an extension, or a slash and a name */
    int language;
} Entry;

static Language language[N_LANGUAGES];
static Entry *entries;
static size_t n_entries;

static int compare(const void *a, const void *b) {
    return str_cmp(((const Entry *)a)->key, ((const Entry *)b)->key);
}

static void build(void) {
    size_t n = 0, most = 0;
    for (int i = 0; i < N_LANGUAGES; i++)
        for (const char *p = language_table[i].files; *p; p++) most += *p == ' ' || !p[1];
    Entry *all = xcalloc(most, sizeof *all, "languages");
    for (int i = 0; i < N_LANGUAGES; i++) {
        language[i] = (Language){ language_table[i].name, language_table[i].type };
        for (const char *p = language_table[i].files; *p;) {
            size_t len = strcspn(p, " ");
            all[n++] = (Entry){ { p, len }, i };
            p += len + (p[len] == ' ');
        }
    }
    qsort(all, n, sizeof *all, compare);
    n_entries = n;
    entries = all;
}

static const Language *look_up(Str key) {
    Entry wanted = { key, 0 };
#pragma omp critical(languages)
    if (!entries) build();
    const Entry *e = bsearch(&wanted, entries, n_entries, sizeof *entries, compare);
    return e ? &language[e->language] : NULL;
}

const Language *language_of(Str path) {
    char key[258] = "/";
    size_t at = path.n;
    while (at && path.s[at - 1] != '/') at--;
    size_t n = path.n - at;
    if (n > 255) return NULL;
    memcpy(key + 1, path.s + at, n);
    const Language *found = look_up((Str){ key, n + 1 });
    for (size_t i = 1; i <= n; i++)
        if (key[i] >= 'A' && key[i] <= 'Z') key[i] = (char)(key[i] | 32);
    for (size_t i = 1; i <= n && !found; i++)
        if (key[i] == '.') found = look_up((Str){ key + i + 1, n - i });
    return found;
}

const Language *language_named(Str name) {
    look_up(str_of(""));
    for (int i = 0; i < N_LANGUAGES; i++)
        if (str_is(name, language[i].name)) return &language[i];
    return NULL;
}
