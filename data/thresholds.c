/* thresholds.c: which figure of which signal drops a file, per kind of file; and whether it does.
 *
 * What to know first: the values are those of the released filter (pipeline/code_filter_config.py).
 * All code and data share general_rules; a table per kind of file below says what differs there and
 * what is added. Several rules drop only 8 files of 10, at random: here by a hash of the content,
 * the signal and the seed, so that the same file meets the same fate in any order and on any
 * machine. Test: tests/test_filter.py, each rule on both sides. */

#include "rules.h"

#define OFF             RULE_OFF, 0, 0, 1
#define BELOW(x)        RULE_BELOW, x, 0, 1
#define ABOVE(x)        RULE_ABOVE, 0, x, 1
#define OUTSIDE(x, y)   RULE_OUTSIDE, x, y, 1
#define EQUAL(x)        RULE_EQUAL, x, x, 1
#define MOSTLY_ABOVE(x) RULE_ABOVE, 0, x, 0.8
#define IF_TRUE         ABOVE(0.5)
#define IF_FALSE        BELOW(0.5)

/* ------------------------------------------------------------------------------------------------
 * 1. Text */

static const Rule text_rules[] = {
    { DOC_FILE_NAME, OFF },
    { DOC_REPLACEMENT, ABOVE(0.01) },
    { DOC_ENTROPY, BELOW(3) }, /* natural logarithm */
    { DOC_CURLY_BRACKET, OFF },
    { DOC_TOP_2, ABOVE(0.20) },
    { DOC_TOP_3, ABOVE(0.18) },
    { DOC_TOP_4, ABOVE(0.16) },
    { DOC_DUPE_5, ABOVE(0.60) },
    { DOC_DUPE_6, ABOVE(0.60) },
    { DOC_DUPE_7, ABOVE(0.60) },
    { DOC_DUPE_8, ABOVE(0.60) },
    { DOC_DUPE_9, ABOVE(0.60) },
    { DOC_DUPE_10, ABOVE(0.60) },
    { DOC_CHARS_DUPE, ABOVE(0.50) },
    { DOC_LINES_DUPE, ABOVE(0.60) },
    { DOC_READMORE, ABOVE(0.1) },
    { DOC_BULLET, ABOVE(0.9) },
    { DOC_ALL_CAPS, ABOVE(0.5) },
    { DOC_FULL_BRACKET, OFF },
    { DOC_STOP_WORDS, OFF },
    { DOC_UNIQUE, OFF },
    { DOC_WORD_LENGTH, OUTSIDE(3, 10) },
    { DOC_NUM_CHARS, BELOW(50) },
    { DOC_NUM_LINES, BELOW(10) },
    { DOC_NUM_SENTENCES, EQUAL(1) },
    { DOC_NUM_WORDS, BELOW(50) },
    { DOC_HEX_WORDS, ABOVE(0.4) },
    { DOC_LINKS, ABOVE(0.5) },
    { DOC_ALPHABET, BELOW(0.5) },
    { DOC_DIGITAL, ABOVE(0.2) },
    { DOC_WHITESPACE, ABOVE(0.5) },
};

static const Rule chinese_rules[] = {
    /* where Chinese text differs */
    { DOC_READMORE, ABOVE(0.3) },
    { DOC_ALL_CAPS, OFF },
    { DOC_FULL_BRACKET, ABOVE(0.1) },
    { DOC_WORD_LENGTH, OUTSIDE(1.3, 10) },
};

/* ------------------------------------------------------------------------------------------------
 * 2. Code and data */

static const Rule general_rules[] = {
    { CODE_REPLACEMENT, ABOVE(0.01) },
    { CODE_NUM_WORDS, BELOW(30) },
    { CODE_NUM_CHARS, BELOW(50) },
    { CODE_WORD_LENGTH, OUTSIDE(2, 10) },
    { CODE_UNIQUE, OFF },
    { CODE_TOP_2, ABOVE(0.20) },
    { CODE_TOP_3, ABOVE(0.18) },
    { CODE_TOP_4, ABOVE(0.16) },
    { CODE_DUPE_5, ABOVE(0.80) },
    { CODE_DUPE_6, ABOVE(0.70) },
    { CODE_DUPE_7, ABOVE(0.70) },
    { CODE_DUPE_8, ABOVE(0.70) },
    { CODE_DUPE_9, ABOVE(0.70) },
    { CODE_DUPE_10, ABOVE(0.60) },
    { CODE_LINES_DUPE, ABOVE(0.7) },
    { CODE_SIZE, ABOVE(3e6) },
    { CODE_NUM_LINES, OUTSIDE(10, 100000) },
    { CODE_LINE_MAX, ABOVE(1000) },
    { CODE_LINE_MEAN, OUTSIDE(5, 100) },
    { CODE_ALPHABET, BELOW(0.5) },
    { CODE_DIGITAL, ABOVE(0.2) },
    { CODE_WHITESPACE, ABOVE(0.5) },
    { CODE_COMMENTS, ABOVE(0.8) },
    { CODE_XML_START, IF_TRUE },
    { CODE_AUTOGEN, IF_TRUE },
    { CODE_LONG_STRING, ABOVE(0.2) },
    { CODE_STRING_LENGTH, ABOVE(0.6) },
    { CODE_LONG_WORD, ABOVE(0.4) },
    { CODE_STRING_CONCAT, OFF },
    { CODE_ENCODED_DATA, IF_TRUE },
    { CODE_HEX_WORDS, ABOVE(0.4) },
    { CODE_PROMPT_COMMENTS, ABOVE(0.01) },
    { CODE_ASSERT, ABOVE(0.4) },
};

static const Rule data_rules[] = {
    { CODE_NUM_CHARS, OUTSIDE(50, 5000) }, { CODE_UNIQUE, BELOW(0.4) },   { CODE_LONG_STRING, OFF },
    { CODE_STRING_LENGTH, OFF },           { CODE_PROMPT_COMMENTS, OFF }, { CODE_ASSERT, OFF },
};

static const Rule shell_rules[] = {
    { CODE_LONG_STRING, OFF },
    { CODE_STRING_LENGTH, OFF },
    { CODE_ASSERT, OFF },
};

static const Rule sql_rules[] = { { CODE_DIGITAL, ABOVE(0.3) } };

static const Rule python_rules[] = {
    { PY_AST, IF_FALSE },
    { PY_FUNC_RATIO, ABOVE(0.2) },
    { PY_VAR_ZERO, IF_TRUE },
    { PY_PASS, ABOVE(0.05) },
    { PY_IMPORT, ABOVE(0.3) },
    { PY_SIMPLEFUNC, ABOVE(0.1) },
    { PY_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { PY_PRINT, ABOVE(0.4) },
};

static const Rule cpp_rules[] = {
    { CPP_FUNC_RATIO, ABOVE(0.2) },
    { CPP_BITSSTDC, OFF },
    { CPP_MAIN, ABOVE(1) },
    { CPP_GOTO, OFF },
    { CPP_VAR_ZERO, OFF },
    { CPP_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { CPP_PREPROCESSOR, ABOVE(0.8) },
    { CPP_PRINT, ABOVE(0.4) },
};

static const Rule c_rules[] = {
    { C_FUNC_RATIO, ABOVE(0.2) },
    { C_BITSSTDC, OFF },
    { C_MAIN, ABOVE(1) },
    { C_GOTO, OFF },
    { C_VAR_ZERO, OFF },
    { C_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { C_PREPROCESSOR, ABOVE(0.8) },
    { C_PRINT, ABOVE(0.4) },
};

static const Rule csharp_rules[] = {
    { CS_FUNC_RATIO, ABOVE(0.2) },
    { CS_VAR_ZERO, IF_TRUE },
    { CS_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { CS_PRINT, ABOVE(0.4) },
};

static const Rule go_rules[] = {
    { CODE_ASSERT, OFF },     { GO_TESTFILE, MOSTLY_ABOVE(0.5) }, { GO_FUNC_RATIO, ABOVE(0.2) },
    { GO_VAR_ZERO, IF_TRUE }, { GO_NO_LOGIC, MOSTLY_ABOVE(0.5) }, { GO_PRINT, ABOVE(0.4) },
};

static const Rule html_rules[] = {
    { CODE_DUPE_5, ABOVE(0.60) },   { CODE_DUPE_6, ABOVE(0.60) },  { CODE_DUPE_7, ABOVE(0.60) },
    { CODE_DUPE_8, ABOVE(0.60) },   { CODE_DUPE_9, ABOVE(0.60) },  { CODE_COMMENTS, OFF },
    { CODE_LONG_STRING, OFF },      { CODE_STRING_LENGTH, OFF },   { CODE_LONG_WORD, OFF },
    { CODE_PROMPT_COMMENTS, OFF },  { CODE_ASSERT, OFF },          { HTML_AST, IF_FALSE },
    { HTML_FRAC_TEXT, BELOW(0.2) }, { HTML_NUM_TEXT, BELOW(100) },
};

static const Rule java_rules[] = {
    { JAVA_VAR_ZERO, IF_TRUE },
    { JAVA_FUNC_RATIO, ABOVE(0.2) },
    { JAVA_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { JAVA_NO_MODIFIER, OFF },
    { JAVA_VAR_NAME, OFF },
    { JAVA_FUNC_NAME, OFF },
    { JAVA_CLASS_NAME, OFF },
    { JAVA_PRINT, ABOVE(0.4) },
};

static const Rule javascript_rules[] = {
    { JS_AST, IF_FALSE },
    { JS_VAR_ZERO, IF_TRUE },
    { JS_FUNC_RATIO, ABOVE(0.2) },
    { JS_STATEMENTS, OFF },
    { JS_NO_LOGIC, MOSTLY_ABOVE(0.5) },
    { JS_VAR_NAME, OFF },
    { JS_FUNC_NAME, OFF },
    { JS_CLASS_NAME, OFF },
    { JS_PRINT, ABOVE(0.4) },
};

/* ------------------------------------------------------------------------------------------------
 * 3. Deciding */

#define TABLE(rules)                                                                               \
    { rules, sizeof(rules) / sizeof *(rules) }
static const struct {
    const Rule *rule;
    size_t n;
} tables[N_TABLES] = {
    [LANG_DATA] = TABLE(data_rules),
    [LANG_SHELL] = TABLE(shell_rules),
    [LANG_SQL] = TABLE(sql_rules),
    [LANG_PYTHON] = TABLE(python_rules),
    [LANG_CPP] = TABLE(cpp_rules),
    [LANG_C] = TABLE(c_rules),
    [LANG_CSHARP] = TABLE(csharp_rules),
    [LANG_GO] = TABLE(go_rules),
    [LANG_HTML] = TABLE(html_rules),
    [LANG_JAVA] = TABLE(java_rules),
    [LANG_JAVASCRIPT] = TABLE(javascript_rules),
};

int rules_of(const RuleFile *f, Rule *out) {
    bool text = f->type == FILE_TEXT;
    const Rule *base = text ? text_rules : general_rules;
    size_t n = text ? sizeof text_rules / sizeof *base : sizeof general_rules / sizeof *base;
    const Rule *own = text ? chinese_rules : tables[f->table].rule;
    size_t n_own = text ? f->chinese * (sizeof chinese_rules / sizeof *own) : tables[f->table].n;
    if (f->type == FILE_OTHER) return 0;
    memcpy(out, base, n * sizeof *base);
    for (size_t i = 0; i < n_own; i++) {
        size_t k = 0;
        while (k < n && out[k].signal != own[i].signal) k++;
        out[k] = own[i];
        n += k == n;
    }
    return (int)n;
}

static uint64_t content_hash(Str text) {
    uint64_t h = text.n, eight;
    for (size_t i = 0; i < text.n; i += 8) {
        eight = 0;
        memcpy(&eight, text.s + i, text.n - i < 8 ? text.n - i : 8);
        h = mix64(h ^ eight);
    }
    return h;
}

static bool drops(const Rule *rule, double value) {
    switch (rule->test) {
    case RULE_BELOW: return value < rule->low;
    case RULE_ABOVE: return value > rule->high;
    case RULE_OUTSIDE: return value < rule->low || value > rule->high;
    case RULE_EQUAL: return value == rule->low;
    default: return false;
    }
}

int rules_hits(const RuleFile *f, const Signals *s, uint64_t seed, uint8_t *hit) {
    Rule rule[MOST_RULES];
    int n = rules_of(f, rule), hits = 0;
    memset(hit, 0, N_SIGNALS);
    for (int i = 0; i < n; i++) {
        int signal = rule[i].signal;
        if (s->state[signal] != SIGNAL_KNOWN || !drops(&rule[i], s->value[signal])) continue;
        if (rule[i].share < 1) {
            uint64_t random = mix64(content_hash(f->text) ^ mix64(seed + (uint64_t)signal));
            if ((double)(random >> 11) * 0x1p-53 >= rule[i].share) continue;
        }
        hit[signal] = 1;
        hits++;
    }
    return hits;
}

const char rules_fixed[] =
    "--fix corrects:\n"
    "  C#, Go: \"no variable\" drops (as released, a list is compared with 0 and never equals it)\n"
    "  Go: all lines of an import block count; files named _test.go are recognized\n"
    "  Java: the share without modifier counts those without, not those with one\n"
    "  JavaScript: syntax newer than 2017 parses\n"
    "  comments: those count that pygments has as plain Comment (make, CSS, Erlang, ...); in\n"
    "      languages without a lexer a line comment ends with its line\n";
