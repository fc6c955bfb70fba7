/* codesignals.c: signals of all code and data: string literals, comments, repeated lines, encoded
 * data. See signals.h. */

#include "signals.h"

/* ------------------------------------------------------------------------------------------------
 * 1. String literals, as the released filter finds them in the code of any language:
 *
 *     '''...'''  or  """..."""  or  '...'  or  "..."     from left to right, shortest first
 *
 * Nothing is escaped, and what opens but never closes is passed over. The signal that counts lines
 * lets '...' and "..." run over lines; the two that count characters do not. */

typedef struct {
    const char *p, *end;
    bool over_lines;
    bool open[4]; /* false: no ''' """ ' " closes any more, from here to the end */
} Literals;

static const char *closing(Literals *x, const char *from, int kind) {
    static const char mark[4][4] = { "'''", "\"\"\"", "'", "\"" };
    const char *hit = NULL;
    if (kind < 2) {
        if (x->open[kind] && from <= x->end)
            hit = (const char *)memmem(from, (size_t)(x->end - from), mark[kind], 3);
    } else if (!x->over_lines) {
        for (hit = from; hit < x->end && *hit != '\n' && *hit != mark[kind][0];) hit++;
        return hit < x->end && *hit != '\n' ? hit : NULL;
    } else if (x->open[kind]) {
        hit = find_byte(from, x->end, mark[kind][0]);
    }
    if (!hit) x->open[kind] = false;
    return hit;
}

/* The inside of the next literal that is not empty. */
static bool next_literal(Literals *x, Str *inside) {
    while (x->p < x->end) {
        const char *p = x->p, *stop = NULL;
        while (p < x->end && !(uni_bytes[(uint8_t)*p] & BYTE_QUOTE)) p++;
        x->p = p;
        if (p == x->end) break;
        char c = *p;
        int single = c == '\'' ? 2 : 3;
        size_t n = x->end - p >= 3 && p[1] == c && p[2] == c ? 3 : 1;
        if (n == 3) stop = closing(x, p + 3, single - 2);
        if (!stop) {
            n = 1;
            stop = closing(x, p + 1, single);
        }
        x->p = stop ? stop + n : p + 1;
        *inside = (Str){ p + n, stop ? (size_t)(stop - p) - n : 0 };
        if (inside->n) return true;
    }
    return false;
}

static Literals literals(Str code, bool over_lines) {
    return (Literals){ code.s, code.s + code.n, over_lines, { true, true, true, true } };
}

/* More than 20 matches of \w+ or [^\w\s]+ ? */
static bool many_words(const char *p, const char *end) {
    int n = 0, kind = 0;
    for (size_t len; p < end && n <= 20; p += len) {
        uint8_t props = uni_props(char_at(p, end, &len));
        int next = props & UNI_WORD ? 1 : props & UNI_SPACE ? 0 : 2;
        n += next != 0 && next != kind;
        kind = next;
    }
    return n > 20;
}

static void long_strings(const Rules *r, Signals *out) {
    Literals x = literals(r->code, true);
    size_t n = 0;
    for (Str in; next_literal(&x, &in);) {
        const char *end = in.s + in.n;
        for (const char *p = in.s; p < end;) {
            const char *stop = next_line(p, end);
            n += many_words(p, stop);
            p = stop;
        }
    }
    signal_share(out, CODE_LONG_STRING, (double)n, (double)r->code_lines.n);
}

static bool holds_url(Str word) { /* .*https?://\S+.* */
    for (const char *p = word.s, *end = p + word.n; (p = find_byte(p, end, 'h')); p++) {
        size_t n = goes_on(p, end, "https://") ? 8 : goes_on(p, end, "http://") ? 7 : 0;
        if (n && p + n < end) return true;
    }
    return false;
}

static void string_chars(const Rules *r, Signals *out) {
    Literals x = literals(r->code, false);
    size_t inside = 0, long_words = 0, len = 0;
    for (Str in; next_literal(&x, &in);) {
        const char *end = in.s + in.n;
        inside += count_chars(in.s, in.n);
        for (const char *p = skip_space(in.s, end), *stop; p < end; p = skip_space(stop, end)) {
            size_t chars = 0;
            for (stop = p; stop < end && !is_space(stop, end, &len); stop += len) chars++;
            if (chars > 20 && !holds_url((Str){ p, (size_t)(stop - p) })) long_words += chars;
        }
    }
    signal_share(out, CODE_STRING_LENGTH, (double)inside, (double)r->code_chars);
    signal_share(out, CODE_LONG_WORD, (double)long_words, (double)r->code_chars);
}

static bool is_quote(char c) { return c == '"' || c == '\''; }

/* \s*=\s*["'].+?["']\s*\+\s*["'].+?["'].* somewhere in the line. The first place where = and a
 * quote stand is enough: what fits behind a later one fits behind it too. */
static bool concatenates(Str line) {
    const char *end = line.s + line.n, *p = find_byte(line.s, end, '='), *last = end;
    if (!p) return false;
    while (last > p && !is_quote(last[-1])) last--;
    for (; p < last && (p = find_byte(p, last, '=')); p++) {
        const char *q = skip_space(p + 1, last);
        if (q >= last || !is_quote(*q)) continue;
        for (q += 2; q < last; q++) {
            if (!is_quote(*q)) continue;
            const char *plus = skip_space(q + 1, last);
            if (plus >= last || *plus != '+') continue;
            const char *next = skip_space(plus + 1, last);
            if (next < last && is_quote(*next) && last - next > 2) return true;
        }
        return false;
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------
 * 2. Lines */

static uint64_t hash_squeezed(Buf *b, Str line, bool *counts) {
    const char *end = line.s + line.n;
    size_t n = 0, len;
    b->n = 0;
    buf_add(b, line.s, line.n); /* makes room; overwritten from its start */
    char *to = b->data;
    for (const char *p = line.s; p < end;) {
        if ((uint8_t)*p < 0x80) {
            to[n] = *p;
            n += !(uni_bytes[(uint8_t)*p++] & BYTE_SPACE);
            continue;
        }
        bool space = uni_props(char_at(p, end, &len)) & UNI_SPACE;
        for (size_t i = 0; i < len && !space; i++) to[n++] = p[i];
        p += len;
    }
    *counts = count_chars(to, n) != 1 && !str_is((Str){ to, n }, "},");
    return hash_text(to, n) | 1;
}

/* Lines that are there more than once, white space aside. One character, or "},", is no line to
 * speak of: it counts as a line, but never as a repeated one. */
static void repeated_lines(Rules *r, Signals *out) {
    const Lines *lines = &r->code_lines;
    size_t n = 0;
    if (!r->text.n) {
        signal_none(out, CODE_LINES_DUPE);
        return;
    }
    if (r->line_hash_cap < lines->n) {
        r->line_hash_cap = lines->cap;
        r->line_hash =
            (uint64_t *)xrealloc(r->line_hash, lines->cap, sizeof *r->line_hash, "lines");
    }
    table_clear(&r->table, lines->n);
    for (size_t i = 0; i < lines->n; i++) {
        bool counts;
        uint64_t hash = hash_squeezed(&r->scratch, lines->line[i], &counts);
        table_get(&r->table, hash)->value++;
        r->line_hash[i] = counts ? hash : 0;
    }
    for (size_t i = 0; i < lines->n; i++)
        n += r->line_hash[i] && table_get(&r->table, r->line_hash[i])->value > 1;
    signal_share(out, CODE_LINES_DUPE, (double)n, (double)lines->n);
}

static void line_words(Rules *r, Signals *out) {
    static const char *const prompts[] = { "your code here", "fixme", "todo", NULL };
    const char *p = r->text.s, *end = p + r->text.n;
    size_t n_lines = 0, concat = 0;
    for (; p < end; n_lines++) p = next_line(p, end);
    small_letters(&r->scratch, r->comment);
    Str comment = { r->scratch.data, r->scratch.n };
    signal_share(out, CODE_PROMPT_COMMENTS, (double)lines_with_any(comment, prompts),
                 (double)n_lines);
    for (size_t i = 0; i < r->code_lines.n; i++) concat += concatenates(r->code_lines.line[i]);
    signal_share(out, CODE_STRING_CONCAT, (double)concat, (double)r->code_lines.n);
    signal_share(out, CODE_ASSERT, (double)lines_with(r, "assert", NULL, true),
                 (double)r->code_lines.n);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Encoded data */

typedef struct {
    size_t total, longest; /* characters in all matches; of the longest */
} Runs;

static void add_run(Runs *runs, size_t chars) {
    runs->total += chars;
    if (chars > runs->longest) runs->longest = chars;
}

/* The next longest stretch of bytes of that class, of at least `least`, behind zone->s + zone->n.
 * Only every least-th byte is looked at first: such a stretch cannot hide between two of them. */
static bool next_zone(Str text, uint8_t class, size_t least, Str *zone) {
    size_t done = (size_t)(zone->s - text.s) + zone->n, i = done + least - 1;
    for (; i < text.n; i += least) {
        if (!(uni_bytes[(uint8_t)text.s[i]] & class)) continue;
        size_t from = i, to = i + 1;
        while (from > done && uni_bytes[(uint8_t)text.s[from - 1]] & class) from--;
        while (to < text.n && uni_bytes[(uint8_t)text.s[to]] & class) to++;
        *zone = (Str){ text.s + from, to - from };
        if (to - from >= least) return true;
        done = i = to;
    }
    return false;
}

static void base64_runs(Str text, Runs *runs) { /* [a-zA-Z0-9+/\n=]{64,} */
    for (Str zone = { text.s, 0 }; next_zone(text, BYTE_BASE64, 64, &zone);) add_run(runs, zone.n);
}

/* One item of hex_runs, from its word boundary on, or NULL. */
static const char *hex_item(const char *p, const char *s, const char *end) {
    size_t len;
    if (p >= end || word_before(p, s) == is_word(p, end, &len)) return NULL; /* no \b */
    if (end - p > 1 && ((*p == '0' && p[1] == 'x') || (*p == '\\' && p[1] == 'x'))) p += 2;
    if (end - p < 2 || !isxdigit((uint8_t)*p) || !isxdigit((uint8_t)p[1])) return NULL;
    p += 2;
    if (p < end && *p == ',') return p + 1;
    return is_word(p, end, &len) ? NULL : skip_space(p, end);
}

/* (?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,} , which is at least 23 bytes. */
static void hex_runs(Str text, Runs *runs) {
    Str zone = { text.s, 0 };
    while (next_zone(text, BYTE_HEX, 23, &zone)) {
        const char *stop = zone.s + zone.n, *next;
        for (const char *p = zone.s; p < stop;) {
            const char *q = p;
            size_t n = 0;
            for (; (next = hex_item(q, text.s, text.s + text.n)); n++) q = next;
            if (n >= 8) add_run(runs, count_chars(p, (size_t)(q - p)));
            p = n ? q : p + 1; /* a start in a run that is too short finds an even shorter one */
        }
    }
}

static void escape_runs(Str text, Runs *runs) { /* (?:\\u[0-9a-fA-F]{4}){8,} */
    const char *end = text.s + text.n, *p = text.s;
    while ((p = find_byte(p, end, '\\'))) {
        const char *q = p;
        int digits = 4;
        while (end - q >= 6 && q[0] == '\\' && q[1] == 'u' && digits == 4) {
            for (digits = 0; digits < 4 && isxdigit((uint8_t)q[2 + digits]);) digits++;
            if (digits == 4) q += 6;
        }
        if (q - p >= 8 * 6) add_run(runs, (size_t)(q - p));
        p = q > p ? q : p + 1;
    }
}

size_t hex_word_chars(Str text) {
    const char *s = text.s, *end = s + text.n, *p = s;
    size_t n = 0, len;
    for (; (p = find_byte(p, end, '0')); p++) {
        if (end - p < 3 || (p[1] | 32) != 'x' || word_before(p, s)) continue;
        const char *q = p + 2;
        while (q < end && isxdigit((uint8_t)*q)) q++;
        if (q > p + 2 && !is_word(q, end, &len)) n += (size_t)(q - p);
    }
    return n;
}

static void encoded_data(const Rules *r, Signals *out) {
    Runs runs = { 0, 0 };
    base64_runs(r->text, &runs);
    hex_runs(r->text, &runs);
    escape_runs(r->text, &runs);
    signal_set(out, CODE_ENCODED_DATA,
               runs.longest > 1024 || (double)runs.total > 0.5 * (double)r->chars);
}

/* ------------------------------------------------------------------------------------------------
 * 4. The start of the file */

static Str first_chars(Str text, size_t n) {
    const char *p = text.s, *end = p + text.n;
    for (size_t len; n && p < end; n--, p += len) (void)char_at(p, end, &len);
    return (Str){ text.s, (size_t)(p - text.s) };
}

static bool looks_generated(Str start) {
    return find_word(start, "generate", true) || find_word(start, "autogen", true) ||
           find_word(start, "do not edit", true);
}

void code_signals(Rules *r, Signals *out) {
    signal_set(out, CODE_SIZE, (double)r->file->size);
    signal_set(out, CODE_XML_START,
               find_word(first_chars(r->text, 100), "<?xml version=", false) != NULL);
    signal_set(out, CODE_AUTOGEN, looks_generated(first_chars(r->text, 200)));
    signal_share(out, CODE_COMMENTS, (double)r->comment_chars, (double)r->chars);
    repeated_lines(r, out);
    long_strings(r, out);
    string_chars(r, out);
    line_words(r, out);
    encoded_data(r, out);
    signal_share(out, CODE_HEX_WORDS, (double)hex_word_chars(r->code), (double)r->code_chars);
}
