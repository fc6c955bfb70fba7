/* chars.c: signals that are counts of characters and lines. See signals.h. */

#include "signals.h"

typedef struct {
    size_t alpha, digit, space, brace, replacement;
} CharCounts;

/* A histogram of the ASCII bytes; each other character by itself. */
static CharCounts count_kinds(Str text) {
    size_t byte[128] = { 0 };
    CharCounts n = { 0, 0, 0, 0, 0 };
    const char *end = text.s + text.n;
    for (const char *p = text.s; p < end;) {
        size_t len;
        uint32_t c = char_at(p, end, &len);
        p += len;
        if (c < 0x80) {
            byte[c]++;
            continue;
        }
        uint8_t props = uni_props(c);
        n.alpha += (props & UNI_ALPHA) != 0;
        n.digit += (props & UNI_DIGIT) != 0;
        n.space += (props & UNI_SPACE) != 0;
        n.replacement += c == 0xFFFD;
    }
    for (uint32_t c = 0; c < 128; c++) {
        uint8_t props = uni_props(c);
        n.alpha += props & UNI_ALPHA ? byte[c] : 0;
        n.digit += props & UNI_DIGIT ? byte[c] : 0;
        n.space += props & UNI_SPACE ? byte[c] : 0;
    }
    n.brace = byte['{'] + byte['}'];
    return n;
}

static void line_signals(const Rules *r, Signals *out) {
    const char *end = r->text.s + r->text.n;
    size_t n_lines = 0, longest = 0;
    for (const char *p = r->text.s; p < end; n_lines++) {
        const char *stop = next_line(p, end);
        size_t chars = (size_t)(stop - p) <= longest ? 0 : count_chars(p, (size_t)(stop - p));
        if (chars > longest) longest = chars;
        p = stop;
    }
    if (r->file->type == FILE_TEXT) {
        signal_set(out, DOC_NUM_LINES, (double)n_lines);
        return;
    }
    signal_set(out, CODE_NUM_LINES, (double)n_lines);
    signal_set(out, CODE_LINE_MAX, (double)longest); /* its line feed counts, as released */
    signal_set(out, CODE_LINE_MEAN, n_lines ? (double)r->chars / (double)n_lines : 0);
}

/* 0 or 1 of nothing, where the released filter has that. */
static void share_or(Signals *out, int signal, size_t part, size_t whole, double of_nothing) {
    signal_set(out, signal, whole ? (double)part / (double)whole : of_nothing);
}

void char_signals(const Rules *r, Signals *out) {
    CharCounts n = count_kinds(r->text);
    size_t visible = r->chars - n.space;
    bool text = r->file->type == FILE_TEXT;
    signal_set(out, text ? DOC_NUM_CHARS : CODE_NUM_CHARS, (double)r->chars);
    signal_share(out, text ? DOC_REPLACEMENT : CODE_REPLACEMENT, (double)n.replacement,
                 (double)r->chars);
    share_or(out, text ? DOC_DIGITAL : CODE_DIGITAL, n.digit, visible, 1);
    share_or(out, text ? DOC_WHITESPACE : CODE_WHITESPACE, n.space, r->chars, 1);
    if (text && visible && !r->file->english)
        signal_none(out, DOC_ALPHABET);
    else
        share_or(out, text ? DOC_ALPHABET : CODE_ALPHABET, n.alpha, visible, 0);
    if (text) share_or(out, DOC_CURLY_BRACKET, n.brace, r->chars, 0);
    line_signals(r, out);
}
