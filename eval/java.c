/* java.c: what Java needs beyond a line of the table in languages.c: the name of the class to
 * start, which must be that of the file, and the tuples that MultiPL-E's tasks import from a
 * library, org.javatuples, that few machines have. The few methods of it that programs use are
 * written here, into the program. Test: tests/test_evaluate.py. */
#include "eval.h"

/* Is there a word of its own at p, of `from`? */
static bool word_begins(const char *from, const char *p) {
    return p == from || (!isalnum((uint8_t)p[-1]) && p[-1] != '_' && p[-1] != '.');
}

/* The public class, or else the last one before main. */
void java_main(const Buf *source, char name[128]) {
    const char *text = source->data, *best = NULL, *start = strstr(text, "static void main");
    bool best_public = false;
    for (const char *at = text; (at = strstr(at, "class ")); at += 6) {
        bool is_public = at - text >= 7 && !memcmp(at - 7, "public ", 7);
        if (!word_begins(text, at) || (best_public && !is_public)) continue;
        if (!is_public && best && start && at > start) continue;
        best = at + 6;
        best_public = is_public;
    }
    size_t n = 0;
    while (best && n < 100 && (isalnum((uint8_t)best[n]) || best[n] == '_')) n++;
    snprintf(name, 128, "%.*s", n ? (int)n : 4, n ? best : "Main");
}

/* "A, B, C" or, with a pattern, "A a, B b, C c". */
static void add_list(Buf *out, int n, const char *pattern) {
    for (int i = 0; i < n; i++) {
        if (i) buf_add(out, ", ", 2);
        for (const char *p = pattern; *p; p++) {
            char letter = (char)((*p == 'A' ? 'A' : 'a') + i);
            buf_add(out, *p == 'A' || *p == 'a' ? &letter : p, 1);
        }
    }
}

/* final class Pair<A, B>, or one with more or fewer values. */
static void add_tuple(Buf *out, const char *name, int n) {
    buf_printf(out, "\nfinal class %s<", name);
    add_list(out, n, "A");
    buf_printf(out, "> {\n    private final java.util.List<Object> values;\n    %s(", name);
    add_list(out, n, "A a");
    buf_printf(out, ") { values = java.util.Arrays.asList(");
    add_list(out, n, "a");
    buf_printf(out, "); }\n    static <");
    add_list(out, n, "A");
    buf_printf(out, "> %s<", name);
    add_list(out, n, "A");
    buf_printf(out, "> with(");
    add_list(out, n, "A a");
    buf_printf(out, ") { return new %s<>(", name);
    add_list(out, n, "a");
    buf_printf(out, "); }\n");
    for (int i = 0; i < n; i++)
        buf_printf(out,
                   "    @SuppressWarnings(\"unchecked\")\n"
                   "    %c getValue%d() { return (%c) values.get(%d); }\n",
                   'A' + i, i, 'A' + i, i);
    buf_printf(out,
               "    Object getValue(int i) { return values.get(i); }\n"
               "    java.util.List<Object> toList() { return values; }\n"
               "    int getSize() { return values.size(); }\n"
               "    @Override public int hashCode() { return values.hashCode(); }\n"
               "    @Override public String toString() { return values.toString(); }\n"
               "    @Override public boolean equals(Object o) {\n"
               "        return o instanceof %s && ((%s<",
               name, name);
    add_list(out, n, "?");
    buf_printf(out, ">) o).values.equals(values);\n    }\n}\n");
}

void java_add_tuples(Buf *source) {
    static const char *const names[] = { "Unit",   "Pair",   "Triplet", "Quartet", "Quintet",
                                         "Sextet", "Septet", "Octet",   "Ennead",  "Decade" };
    static const char import[] = "import org.javatuples.";
    bool used[10] = { false };
    char *at = strstr(source->data, import);
    if (!at) return;
    for (; at; at = strstr(at, import))
        while (*at && *at != ';') *at++ = ' '; /* line numbers stay */
    for (int i = 0; i < 10; i++)
        for (at = source->data; (at = strstr(at, names[i])) && !used[i]; at++)
            used[i] = word_begins(source->data, at) && !isalnum((uint8_t)at[strlen(names[i])]);
    for (int i = 0; i < 10; i++)
        if (used[i]) add_tuple(source, names[i], i + 1);
}
