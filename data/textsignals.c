/* textsignals.c: signals of text in a natural language: sentences, bullets, links, repeated lines.
 * See signals.h. */

#include "signals.h"
#include "stopwords.h"

/* ------------------------------------------------------------------------------------------------
 * 1. Words as they stand: \w+ or [^\w\s]+ */

static bool is_stop_word(const char *s, size_t n) {
    size_t low = 0, high = sizeof stop_words / sizeof *stop_words;
    Str word = { s, n };
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = str_cmp(str_of(stop_words[mid]), word);
        if (!order) return true;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

/* str.isupper(): a capital and no small letter. */
static bool all_caps(const char *p, const char *end) {
    bool upper = false;
    for (size_t len; p < end; p += len) {
        uint8_t props = uni_props(char_at(p, end, &len));
        if (props & UNI_LOWER) return false;
        upper |= (props & UNI_UPPER) != 0;
    }
    return upper;
}

static void raw_word_signals(const Rules *r, Signals *out) {
    const char *end = r->text.s + r->text.n, *p = skip_space(r->text.s, end);
    size_t n = 0, caps = 0, brackets = 0, stops = 0, len = 0;
    for (; p < end; p = skip_space(p, end), n++) {
        const char *stop = skip_word(p, end);
        if (stop > p) {
            caps += all_caps(p, stop);
            stops += is_stop_word(p, (size_t)(stop - p));
        } else {
            while (stop < end && !is_word(stop, end, &len) && !is_space(stop, end, &len))
                stop += len;
            Str symbols = { p, (size_t)(stop - p) };
            brackets += str_is(symbols, "\u3010") || str_is(symbols, "\u3011");
        }
        p = stop;
    }
    signal_share(out, DOC_ALL_CAPS, (double)caps, (double)n);
    signal_share(out, DOC_FULL_BRACKET, (double)brackets, (double)n);
    if (!r->file->english)
        signal_none(out, DOC_STOP_WORDS);
    else
        signal_set(out, DOC_STOP_WORDS, r->words.n && n ? (double)stops / (double)n : 0);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Lines */

static const char *strip_end(const char *s, const char *end) { /* rstrip() */
    while (end > s && uni_props(char_before(end, s)) & UNI_SPACE) do
            end--;
        while (end > s && (*end & 0xC0) == 0x80);
    return end;
}

static bool ends_with(const char *s, const char *end, const char *const *what) {
    for (; *what; what++) {
        size_t n = strlen(*what);
        if ((size_t)(end - s) >= n && !memcmp(end - n, *what, n)) return true;
    }
    return false;
}

static bool ends_with_readmore(const char *s, const char *end) {
    static const char *const closing[] = { "]", "\u3011", ")", ">", "\u300b", NULL };
    static const char *const more[] = {
        "...",
        "\u2026",
        "\u5168\u6587",
        "\u8be6\u60c5",
        "\u8be6\u7ec6",
        "\u66f4\u591a",
        "\u0627\u0644\u0645\u0632\u064a\u062f",
        "\u062a\u0641\u0627\u0635\u064a\u0644",
        "\u0627\u0642\u0631\u0623 \u0627\u0644\u0645\u0632\u064a\u062f",
        "\u3082\u3063\u3068",
        "\u8a73\u7d30",
        "\u3082\u3063\u3068\u8aad\u3080",
        NULL
    };
    end = strip_end(s, end);
    for (const char *const *c = closing; *c;) {
        size_t n = strlen(*c);
        bool hit = (size_t)(end - s) >= n && !memcmp(end - n, *c, n);
        end -= hit ? n : 0;
        c = hit ? closing : c + 1;
    }
    return ends_with(s, end, more);
}

static bool is_bullet(uint32_t c) {
    static const uint16_t bullets[] = {
        0x2022, 0x2023, 0x2043, 0x204C, 0x204D, 0x2219, 0x25A0, 0x25A1, 0x25A2, 0x25A3, 0x25A4,
        0x25A5, 0x25A6, 0x25A7, 0x25A8, 0x25A9, 0x25AA, 0x25AB, 0x25AC, 0x25AD, 0x25AE, 0x25AF,
        0x25CB, 0x25CF, 0x25E6, 0x25C6, 0x25C7, 0x25C8, 0x25C9, 0x25CA, 0x25D0, 0x25D1, 0x25D2,
        0x25D3, 0x25D4, 0x25D5, 0x25D6, 0x25D8, 0x25D9, 0x25E2, 0x25E3, 0x25E4, 0x25E5, 0x25EF,
        0x2611, 0x2612, 0x2B1B, 0x2B1C, 0x2B24, 0x2B1E, 0x2B1F, 0x29BE,
    };
    for (size_t i = 0; c > 0x2000 && i < sizeof bullets / sizeof *bullets; i++)
        if (bullets[i] == c) return true;
    return false;
}

/* How many characters are in lines that are there more than once, and how many such lines. */
static void raw_line_signals(Rules *r, Signals *out) {
    const char *end = r->text.s + r->text.n;
    size_t n = 0, more = 0, bullet = 0, full = 0, len, lines_dupe = 0, chars_dupe = 0, chars = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (!pass) table_clear(&r->table, r->text.n / 32);
        for (const char *p = r->text.s; p < end;) {
            const char *stop = next_line(p, end), *s = skip_space(p, stop);
            const char *last = strip_end(s, stop);
            uint32_t *count = &table_get(&r->table, hash_text(s, (size_t)(last - s)) | 1)->value;
            if (!pass) {
                ++*count;
                more += ends_with_readmore(p, stop);
                bullet += s < stop && is_bullet(char_at(s, stop, &len));
                n++;
                full += s < last;
            } else if (s < last) {
                size_t c = count_chars(s, (size_t)(last - s));
                chars += c;
                chars_dupe += *count > 1 ? c : 0;
                lines_dupe += *count > 1;
            }
            p = stop;
        }
    }
    signal_share(out, DOC_READMORE, (double)more, (double)n);
    signal_share(out, DOC_BULLET, (double)bullet, (double)n);
    signal_share(out, DOC_LINES_DUPE, (double)lines_dupe, (double)full);
    signal_share(out, DOC_CHARS_DUPE, (double)chars_dupe, (double)chars);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Sentences and links */

static bool ends_sentence(uint32_t c) {
    return c == '.' || c == '!' || c == '?' || c == 0x3002 || c == 0xFF01 || c == 0xFF1F ||
           c == 0x61F;
}

/* Matches of \b[^.!?...]+[.!?...]* : they begin where a word begins or ends. */
static size_t count_sentences(Str text) {
    const char *p = text.s, *end = p + text.n;
    size_t n = 0, len;
    bool word = false; /* is the character before one of a word? */
    while (p < end) {
        uint32_t c = char_at(p, end, &len);
        bool is = uni_props(c) & UNI_WORD;
        if (is == word || ends_sentence(c)) {
            p += len;
            word = is;
            continue;
        }
        for (n++; p < end && !ends_sentence(c = char_at(p, end, &len)); p += len)
            word = uni_props(c) & UNI_WORD;
        for (; p < end && ends_sentence(char_at(p, end, &len)); p += len) word = false;
    }
    return n;
}

static double mean_sentence(Str text, size_t chars) { /* cut at each . ? ! and line feed */
    size_t cuts = 0;
    for (size_t i = 0; i < text.n; i++)
        cuts += text.s[i] == '.' || text.s[i] == '?' || text.s[i] == '!' || text.s[i] == '\n';
    return (double)(chars - cuts) / (double)(cuts + 1);
}

/* Characters in matches of \(https?://\S+\) : up to the last ) before the next space. */
static size_t link_chars(Str text) {
    const char *end = text.s + text.n, *p = text.s;
    size_t n = 0, len;
    while ((p = find_byte(p, end, '('))) {
        const char *q = p + 1, *last = NULL;
        q += goes_on(q, end, "https://") ? 8 : goes_on(q, end, "http://") ? 7 : 0;
        for (const char *from = q; q > p + 1 && q < end && !is_space(q, end, &len); q += len) {
            char_at(q, end, &len);
            if (*q == ')' && q > from) last = q;
        }
        if (last) n += count_chars(p, (size_t)(last + 1 - p));
        p = last ? last + 1 : q;
    }
    return n;
}

/* Characters in matches of <.*?> : both ends on one line. */
static size_t tag_chars(Str text) {
    const char *end = text.s + text.n, *p = text.s, *line = p;
    size_t n = 0;
    while ((p = find_byte(p, end, '<'))) {
        if (p >= line) line = next_line(p, end);
        const char *close = find_byte(p, line, '>');
        if (close) n += count_chars(p, (size_t)(close + 1 - p));
        p = close ? close + 1 : line;
    }
    return n;
}

/* A file that is likely to be about code, by its name. */
static bool code_related_name(Str name) {
    static const char *const names[] = { "readme", "notes", "todo", "description", "cmakelists" };
    const char *dot = find_byte(name.s, name.s + name.n, '.');
    Str stem = { name.s, dot ? (size_t)(dot - name.s) : name.n };
    if (find_word(stem, "requirement", true)) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (stem.n == strlen(names[i]) && find_word(stem, names[i], true)) return true;
    return false;
}

void text_signals(Rules *r, Signals *out) {
    signal_set(out, DOC_FILE_NAME, code_related_name(r->file->name));
    raw_word_signals(r, out);
    raw_line_signals(r, out);
    signal_set(out, DOC_NUM_SENTENCES, (double)count_sentences(r->text));
    signal_set(out, DOC_SENTENCE_LENGTH, mean_sentence(r->text, r->chars));
    signal_share(out, DOC_HEX_WORDS, (double)hex_word_chars(r->text), (double)r->chars);
    signal_share(out, DOC_LINKS, (double)(link_chars(r->text) + tag_chars(r->text)),
                 (double)r->chars);
}
