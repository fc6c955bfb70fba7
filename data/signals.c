/* signals.c: all signals of a file, in the order in which its parts are needed. See signals.h and,
 * for how it is used, rules.h. */

#include "signals.h"
#include <math.h> /* rint */

#define SIGNAL_NAME(number, name) name,
const char *const signal_name[N_SIGNALS] = { TEXT_SIGNALS(SIGNAL_NAME) CODE_SIGNALS(SIGNAL_NAME)
                                                 LANGUAGE_SIGNALS(SIGNAL_NAME) };

void signal_set(Signals *s, int signal, double value) {
    s->value[signal] = rint(value * 1e8) / 1e8;
    s->state[signal] = SIGNAL_KNOWN;
}

void signal_none(Signals *s, int signal) {
    s->value[signal] = 0;
    s->state[signal] = SIGNAL_NONE;
}

void signal_share(Signals *s, int signal, double part, double whole) {
    if (whole > 0)
        signal_set(s, signal, part / whole);
    else
        signal_none(s, signal);
}

/* ------------------------------------------------------------------------------------------------
 * 1. What kind of file it is */

static bool lang_is(const RuleFile *f, const char *name) { return !strcmp(f->lang, name); }

/* Languages that the released filter drops unseen. */
static const char excluded[] =
    "|adblock filter list|pic|postscript|purebasic|roff manpage|unity3d asset|wavefront object|"
    "pickle|stl|raw token data|x pixmap|2-dimensional array|ags script|bicep|checksums|collada|csv|"
    "directx 3d file|e-mail|g-code|gerber image|git revision list|gnuplot|irc log|jupyter notebook|"
    "kicad layout|kicad legacy layout|kicad schematic|lasso|linux kernel module|max|"
    "microsoft developer studio project|microsoft visual studio solution|pov-ray sdl|public key|"
    "pure data|robots.txt|subrip text|svg|tsv|webvtt|";

void rule_file_kind(RuleFile *f, Str language, Str type) {
    static const struct {
        const char *name;
        int table;
    } tables[] = { { "shell", LANG_SHELL },   { "sql", LANG_SQL },
                   { "python", LANG_PYTHON }, { "cpp", LANG_CPP },
                   { "c", LANG_C },           { "csharp", LANG_CSHARP },
                   { "go", LANG_GO },         { "html", LANG_HTML },
                   { "java", LANG_JAVA },     { "javascript", LANG_JAVASCRIPT } };
    size_t n = language.n < sizeof f->lang ? language.n : sizeof f->lang - 1;
    for (size_t i = 0; i < n; i++) f->lang[i] = (char)tolower((uint8_t)language.s[i]);
    f->lang[n] = 0;
    if (lang_is(f, "c++")) memcpy(f->lang, "cpp", 4);
    if (lang_is(f, "c#")) memcpy(f->lang, "csharp", 7);
    f->type = str_is(type, "text")   ? FILE_TEXT
              : str_is(type, "code") ? FILE_CODE
              : str_is(type, "data") ? FILE_DATA
                                     : FILE_OTHER;
    f->table = f->type == FILE_DATA ? LANG_DATA : LANG_OTHERS;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (lang_is(f, tables[i].name)) f->table = tables[i].table;
    char key[sizeof f->lang + 2];
    snprintf(key, sizeof key, "|%s|", f->lang);
    if (strstr(excluded, key)) f->type = FILE_OTHER;
}

void rule_file_speech(RuleFile *f) {
    size_t letters = 0, han = 0, kana = 0;
    const char *end = f->text.s + f->text.n;
    uni_init();
    for (const char *p = f->text.s; p < end;) {
        size_t len;
        uint32_t c = char_at(p, end, &len);
        uint8_t props = uni_props(c);
        letters += props & UNI_ALPHA;
        han += (props & UNI_HAN) != 0;
        kana += c >= 0x3040 && c < 0x3100;
        p += len;
    }
    f->chinese = 3 * han > letters && 20 * kana < letters;
    f->english = 10 * (han + kana) < letters || !letters;
}

/* ------------------------------------------------------------------------------------------------
 * 2. The parts of a file */

Rules *rules_open(bool fix) {
    Rules *r = (Rules *)xcalloc(1, sizeof *r, "the rules");
    uni_init();
    r->fix = fix;
    return r;
}

void rules_close(Rules *r) {
    if (!r) return;
    WordList *w = &r->words;
    uint32_t *words[] = { w->id, w->len, w->count, w->gram, w->at };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) free(words[i]);
    Buf *bufs[] = { &r->repaired,   &r->plain,   &r->code_buf, &r->comment_buf,
                    &r->small_code, &r->scratch, &r->word };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) buf_free(bufs[i]);
    free(r->codes.code);
    free(r->work.code);
    free(r->code_lines.line);
    free(r->line_hash);
    table_free(&r->table);
    free(r);
}

/* The text, or a copy where what is not UTF-8 became U+FFFD, a byte each. */
static Str valid_text(Buf *b, Str text) {
    const char *end = text.s + text.n, *from = text.s;
    b->n = 0;
    for (const char *p = text.s; (p = ascii_end(p, end)) < end;) {
        size_t len;
        if (char_at(p, end, &len) == MALFORMED) {
            buf_add(b, from, (size_t)(p - from));
            buf_add(b, "\uFFFD", 3);
            from = p + 1;
        }
        p += len;
    }
    if (from == text.s) return (Str){ text.n ? text.s : "", text.n };
    buf_add(b, from, (size_t)(end - from));
    return (Str){ b->data, b->n };
}

void lines_of(Lines *lines, Str text, bool visible_only) {
    const char *end = text.s + text.n;
    lines->n = 0;
    for (const char *p = text.s, *stop; p < end; p = stop) {
        stop = next_line(p, end);
        if (visible_only && skip_space(p, stop) == stop) continue;
        if (lines->n == lines->cap) {
            lines->cap = lines->cap * 2 + 256;
            lines->line =
                (Str *)xrealloc(lines->line, lines->cap, sizeof *lines->line, "lines of a file");
        }
        lines->line[lines->n++] = (Str){ p, (size_t)(stop - p) };
    }
}

void small_letters(Buf *b, Str text) {
    b->n = 0;
    buf_add(b, text.s, text.n);
    char *p = b->data; /* by itself: a store into b->data[i] might change b, and is done singly */
    for (size_t i = 0; i < text.n; i++) p[i] = (char)(p[i] | (p[i] >= 'A' && p[i] <= 'Z' ? 32 : 0));
}

const char *find_word(Str text, const char *word, bool fold) {
    size_t n = strlen(word);
    if (!fold) return text.n < n ? NULL : (const char *)memmem(text.s, text.n, word, n);
    for (size_t i = 0; i + n <= text.n; i++)
        if ((text.s[i] | 32) == (*word | 32) && !strncasecmp(text.s + i, word, n))
            return text.s + i;
    return NULL;
}

size_t lines_with_any(Str text, const char *const *words) {
    const char *p = text.s, *end = p + text.n, *hit[4] = { p, p, p, p };
    size_t n = 0;
    while (p < end) {
        const char *next = end;
        for (int i = 0; i < 4 && words[i]; i++) { /* hit[i]: where word i stands next */
            if (!n || hit[i] < p)
                hit[i] = find_word((Str){ p, (size_t)(end - p) }, words[i], false);
            if (!hit[i]) hit[i] = end;
            if (hit[i] < next) next = hit[i];
        }
        if (next == end) break;
        n++;
        p = next_line(next, end);
    }
    return n;
}

size_t lines_with(const Rules *r, const char *word, const char *other, bool fold) {
    const char *const words[] = { word, other, NULL };
    return lines_with_any((Str){ fold ? r->small_code.data : r->code.s, r->code.n }, words);
}

/* ------------------------------------------------------------------------------------------------
 * 3. All signals */

static void language_signals(Rules *r, Signals *out) {
    switch (r->file->table) {
    case LANG_C:
    case LANG_CPP: c_signals(r, out); break;
    case LANG_CSHARP: csharp_signals(r, out); break;
    case LANG_GO: go_signals(r, out); break;
    case LANG_HTML: html_signals(r, out); break;
    case LANG_JAVA: java_signals(r, out); break;
    case LANG_JAVASCRIPT: javascript_signals(r, out); break;
    case LANG_PYTHON: python_signals(r, out); break;
    default: break;
    }
}

void rules_signals(Rules *r, const RuleFile *f, Signals *out) {
    memset(out, 0, sizeof *out);
    if (f->type == FILE_OTHER) return;
    r->file = f;
    r->text = valid_text(&r->repaired, f->text);
    r->chars = count_chars(r->text.s, r->text.n);
    words_of_text(r);
    word_signals(r, out);
    char_signals(r, out);
    if (f->type == FILE_TEXT) {
        text_signals(r, out);
        return;
    }
    split_code(r);
    small_letters(&r->small_code, r->code);
    code_signals(r, out);
    language_signals(r, out);
}
