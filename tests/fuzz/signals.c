/* signals.c: fuzzes the signals of ./refine filter and the lexers that cut code from comments
 * (data/signals.c, split.c, lexc.c, langs.c and their kin). The first byte chooses the language,
 * the second whether mistakes are corrected. Every figure is finite. */

#include "../../data/refine.h"
#include "../../data/rules.h"
#include "fuzz.h"

static const struct {
    const char *name, *type;
} kinds[] = {
    { "C", "code" },       { "C++", "code" },    { "C#", "code" },   { "Go", "code" },
    { "Java", "code" },    { "Python", "code" }, { "SQL", "code" },  { "PHP", "code" },
    { "Shell", "code" },   { "HTML", "code" },   { "Vue", "code" },  { "JavaScript", "code" },
    { "Ruby", "code" },    { "TeX", "code" },    { "JSON", "data" }, { "Markdown", "text" },
    { "Haskell", "code" }, { "Lua", "code" },    { "Rust", "code" }, { "TypeScript", "code" },
};
enum { N_LANGUAGES = sizeof kinds / sizeof *kinds };

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    if (size < 2) return;
    RuleFile f = { .text = { (const char *)data + 2, size - 2 }, .name = { "a.b", 3 } };
    Signals s;
    uint8_t hit[N_SIGNALS];
    f.ext = (Str){ "b", 1 };
    f.size = size - 2;
    rule_file_kind(&f, str_of(kinds[*data % N_LANGUAGES].name),
                   str_of(kinds[*data % N_LANGUAGES].type));
    if (f.type == FILE_TEXT) rule_file_speech(&f);
    Rules *r = rules_open(data[1] & 1);
    rules_signals(r, &f, &s);
    for (int i = 0; i < N_SIGNALS; i++)
        if (s.state[i] == SIGNAL_KNOWN && !isfinite(s.value[i]))
            fuzz_fail("%s: %g", signal_name[i], s.value[i]);
    int n = rules_hits(&f, &s, 42, hit);
    if (n < 0 || n > MOST_RULES) fuzz_fail("%d rules", n);
    rules_close(r);
}
