/* rules.h: the heuristic filter of RefineCode (arXiv 2411.04905, appendix A): 118 signals of a
 * file and the thresholds that drop it.
 *
 * What to know first: a signal is a figure, such as the share of digits among the visible
 * characters, under the name it has in the released filter (OpenCoder-llm/opc_data_filtering):
 * qsc_doc_* for text, qsc_code_* for code and data, qsc_codepython_* ... for eight languages. A
 * rule is a signal and a threshold (thresholds.c); a file is dropped if any rule hits. A signal
 * without a value (an average over no lines) is NONE and passes, as one that was never computed.
 *
 *     Rules *r = rules_open(fix);                          one for each thread: it is all memory
 *     rules_signals(r, &file, &signals);                   everything that needs no parser
 *     if (!rules_hits(&file, &signals, seed, hit)) ...     hit[s]: rule of signal s has dropped it
 *     rules_close(r);
 *
 * Figures follow the released filter, with its mistakes, so that they can be compared; `fix`
 * corrects them (rules_fixed, at the end). Test: tests/test_filter.py; bench/refine_parity.py puts
 * both filters side by side. */
#ifndef OC_RULES_H
#define OC_RULES_H

#include "../files.h" /* Str, Buf */

/*        number                        name, as in the released filter */
#define TEXT_SIGNALS(X)                                                                            \
    X(DOC_CURLY_BRACKET, "qsc_doc_frac_chars_curly_bracket")                                       \
    X(DOC_STOP_WORDS, "qsc_doc_frac_words_redpajama_stop")                                         \
    X(DOC_NUM_SENTENCES, "qsc_doc_num_sentences")                                                  \
    X(DOC_NUM_WORDS, "qsc_doc_num_words")                                                          \
    X(DOC_NUM_CHARS, "qsc_doc_num_chars")                                                          \
    X(DOC_NUM_LINES, "qsc_doc_num_lines")                                                          \
    X(DOC_WORD_LENGTH, "qsc_doc_mean_word_length")                                                 \
    X(DOC_FULL_BRACKET, "qsc_doc_frac_words_full_bracket")                                         \
    X(DOC_READMORE, "qsc_doc_frac_lines_end_with_readmore")                                        \
    X(DOC_BULLET, "qsc_doc_frac_lines_start_with_bullet")                                          \
    X(DOC_UNIQUE, "qsc_doc_frac_words_unique")                                                     \
    X(DOC_ENTROPY, "qsc_doc_entropy_unigram")                                                      \
    X(DOC_ALL_CAPS, "qsc_doc_frac_words_all_caps")                                                 \
    X(DOC_LINES_DUPE, "qsc_doc_frac_lines_dupe_lines")                                             \
    X(DOC_CHARS_DUPE, "qsc_doc_frac_chars_dupe_lines")                                             \
    X(DOC_TOP_2, "qsc_doc_frac_chars_top_2grams")                                                  \
    X(DOC_TOP_3, "qsc_doc_frac_chars_top_3grams")                                                  \
    X(DOC_TOP_4, "qsc_doc_frac_chars_top_4grams")                                                  \
    X(DOC_DUPE_5, "qsc_doc_frac_chars_dupe_5grams")                                                \
    X(DOC_DUPE_6, "qsc_doc_frac_chars_dupe_6grams")                                                \
    X(DOC_DUPE_7, "qsc_doc_frac_chars_dupe_7grams")                                                \
    X(DOC_DUPE_8, "qsc_doc_frac_chars_dupe_8grams")                                                \
    X(DOC_DUPE_9, "qsc_doc_frac_chars_dupe_9grams")                                                \
    X(DOC_DUPE_10, "qsc_doc_frac_chars_dupe_10grams")                                              \
    X(DOC_REPLACEMENT, "qsc_doc_frac_chars_replacement_symbols")                                   \
    X(DOC_FILE_NAME, "qsc_doc_cate_code_related_file_name")                                        \
    X(DOC_SENTENCE_LENGTH, "qsc_doc_num_chars_sentence_length_mean")                               \
    X(DOC_LINKS, "qsc_doc_frac_chars_hyperlink_html_tag")                                          \
    X(DOC_ALPHABET, "qsc_doc_frac_chars_alphabet")                                                 \
    X(DOC_DIGITAL, "qsc_doc_frac_chars_digital")                                                   \
    X(DOC_WHITESPACE, "qsc_doc_frac_chars_whitespace")                                             \
    X(DOC_HEX_WORDS, "qsc_doc_frac_chars_hex_words")

#define CODE_SIGNALS(X)                                                                            \
    X(CODE_NUM_WORDS, "qsc_code_num_words")                                                        \
    X(CODE_NUM_CHARS, "qsc_code_num_chars")                                                        \
    X(CODE_WORD_LENGTH, "qsc_code_mean_word_length")                                               \
    X(CODE_UNIQUE, "qsc_code_frac_words_unique")                                                   \
    X(CODE_TOP_2, "qsc_code_frac_chars_top_2grams")                                                \
    X(CODE_TOP_3, "qsc_code_frac_chars_top_3grams")                                                \
    X(CODE_TOP_4, "qsc_code_frac_chars_top_4grams")                                                \
    X(CODE_DUPE_5, "qsc_code_frac_chars_dupe_5grams")                                              \
    X(CODE_DUPE_6, "qsc_code_frac_chars_dupe_6grams")                                              \
    X(CODE_DUPE_7, "qsc_code_frac_chars_dupe_7grams")                                              \
    X(CODE_DUPE_8, "qsc_code_frac_chars_dupe_8grams")                                              \
    X(CODE_DUPE_9, "qsc_code_frac_chars_dupe_9grams")                                              \
    X(CODE_DUPE_10, "qsc_code_frac_chars_dupe_10grams")                                            \
    X(CODE_REPLACEMENT, "qsc_code_frac_chars_replacement_symbols")                                 \
    X(CODE_DIGITAL, "qsc_code_frac_chars_digital")                                                 \
    X(CODE_WHITESPACE, "qsc_code_frac_chars_whitespace")                                           \
    X(CODE_SIZE, "qsc_code_size_file_byte")                                                        \
    X(CODE_NUM_LINES, "qsc_code_num_lines")                                                        \
    X(CODE_LINE_MAX, "qsc_code_num_chars_line_max")                                                \
    X(CODE_LINE_MEAN, "qsc_code_num_chars_line_mean")                                              \
    X(CODE_ALPHABET, "qsc_code_frac_chars_alphabet")                                               \
    X(CODE_COMMENTS, "qsc_code_frac_chars_comments")                                               \
    X(CODE_XML_START, "qsc_code_cate_xml_start")                                                   \
    X(CODE_LINES_DUPE, "qsc_code_frac_lines_dupe_lines")                                           \
    X(CODE_AUTOGEN, "qsc_code_cate_autogen")                                                       \
    X(CODE_LONG_STRING, "qsc_code_frac_lines_long_string")                                         \
    X(CODE_STRING_LENGTH, "qsc_code_frac_chars_string_length")                                     \
    X(CODE_LONG_WORD, "qsc_code_frac_chars_long_word_length")                                      \
    X(CODE_STRING_CONCAT, "qsc_code_frac_lines_string_concat")                                     \
    X(CODE_ENCODED_DATA, "qsc_code_cate_encoded_data")                                             \
    X(CODE_HEX_WORDS, "qsc_code_frac_chars_hex_words")                                             \
    X(CODE_PROMPT_COMMENTS, "qsc_code_frac_lines_prompt_comments")                                 \
    X(CODE_ASSERT, "qsc_code_frac_lines_assert")

#define LANGUAGE_SIGNALS(X)                                                                        \
    X(PY_AST, "qsc_codepython_cate_ast")                                                           \
    X(PY_FUNC_RATIO, "qsc_codepython_frac_lines_func_ratio")                                       \
    X(PY_VAR_ZERO, "qsc_codepython_cate_var_zero")                                                 \
    X(PY_PASS, "qsc_codepython_frac_lines_pass")                                                   \
    X(PY_IMPORT, "qsc_codepython_frac_lines_import")                                               \
    X(PY_SIMPLEFUNC, "qsc_codepython_frac_lines_simplefunc")                                       \
    X(PY_NO_LOGIC, "qsc_codepython_score_lines_no_logic")                                          \
    X(PY_PRINT, "qsc_codepython_frac_lines_print")                                                 \
    X(CPP_FUNC_RATIO, "qsc_codecpp_frac_lines_func_ratio")                                         \
    X(CPP_BITSSTDC, "qsc_codecpp_cate_bitsstdc")                                                   \
    X(CPP_MAIN, "qsc_codecpp_nums_lines_main")                                                     \
    X(CPP_GOTO, "qsc_codecpp_frac_lines_goto")                                                     \
    X(CPP_VAR_ZERO, "qsc_codecpp_cate_var_zero")                                                   \
    X(CPP_NO_LOGIC, "qsc_codecpp_score_lines_no_logic")                                            \
    X(CPP_PREPROCESSOR, "qsc_codecpp_frac_lines_preprocessor_directives")                          \
    X(CPP_PRINT, "qsc_codecpp_frac_lines_print")                                                   \
    X(C_FUNC_RATIO, "qsc_codec_frac_lines_func_ratio")                                             \
    X(C_BITSSTDC, "qsc_codec_cate_bitsstdc")                                                       \
    X(C_MAIN, "qsc_codec_nums_lines_main")                                                         \
    X(C_GOTO, "qsc_codec_frac_lines_goto")                                                         \
    X(C_VAR_ZERO, "qsc_codec_cate_var_zero")                                                       \
    X(C_NO_LOGIC, "qsc_codec_score_lines_no_logic")                                                \
    X(C_PREPROCESSOR, "qsc_codec_frac_lines_preprocessor_directives")                              \
    X(C_PRINT, "qsc_codec_frac_lines_print")                                                       \
    X(CS_FUNC_RATIO, "qsc_codecsharp_frac_lines_func_ratio")                                       \
    X(CS_VAR_ZERO, "qsc_codecsharp_cate_var_zero")                                                 \
    X(CS_NO_LOGIC, "qsc_codecsharp_score_lines_no_logic")                                          \
    X(CS_PRINT, "qsc_codecsharp_frac_lines_print")                                                 \
    X(GO_TESTFILE, "qsc_codego_cate_testfile")                                                     \
    X(GO_FUNC_RATIO, "qsc_codego_frac_lines_func_ratio")                                           \
    X(GO_VAR_ZERO, "qsc_codego_cate_var_zero")                                                     \
    X(GO_NO_LOGIC, "qsc_codego_score_lines_no_logic")                                              \
    X(GO_PRINT, "qsc_codego_frac_lines_print")                                                     \
    X(HTML_AST, "qsc_codehtml_cate_ast")                                                           \
    X(HTML_FRAC_TEXT, "qsc_codehtml_frac_words_text")                                              \
    X(HTML_NUM_TEXT, "qsc_codehtml_num_chars_text")                                                \
    X(JAVA_VAR_ZERO, "qsc_codejava_cate_var_zero")                                                 \
    X(JAVA_FUNC_RATIO, "qsc_codejava_frac_lines_func_ratio")                                       \
    X(JAVA_NO_LOGIC, "qsc_codejava_score_lines_no_logic")                                          \
    X(JAVA_NO_MODIFIER, "qsc_codejava_frac_words_no_modifier")                                     \
    X(JAVA_VAR_NAME, "qsc_codejava_frac_words_legal_var_name")                                     \
    X(JAVA_FUNC_NAME, "qsc_codejava_frac_words_legal_func_name")                                   \
    X(JAVA_CLASS_NAME, "qsc_codejava_frac_words_legal_class_name")                                 \
    X(JAVA_PRINT, "qsc_codejava_frac_lines_print")                                                 \
    X(JS_AST, "qsc_codejavascript_cate_ast")                                                       \
    X(JS_VAR_ZERO, "qsc_codejavascript_cate_var_zero")                                             \
    X(JS_FUNC_RATIO, "qsc_codejavascript_frac_lines_func_ratio")                                   \
    X(JS_STATEMENTS, "qsc_codejavascript_num_statement_line")                                      \
    X(JS_NO_LOGIC, "qsc_codejavascript_score_lines_no_logic")                                      \
    X(JS_VAR_NAME, "qsc_codejavascript_frac_words_legal_var_name")                                 \
    X(JS_FUNC_NAME, "qsc_codejavascript_frac_words_legal_func_name")                               \
    X(JS_CLASS_NAME, "qsc_codejavascript_frac_words_legal_class_name")                             \
    X(JS_PRINT, "qsc_codejavascript_frac_lines_print")

#define SIGNAL_NUMBER(number, name) number,
enum {
    TEXT_SIGNALS(SIGNAL_NUMBER) CODE_SIGNALS(SIGNAL_NUMBER) LANGUAGE_SIGNALS(SIGNAL_NUMBER)
        N_SIGNALS
};

extern const char *const signal_name[N_SIGNALS];

enum { SIGNAL_MISSING, SIGNAL_NONE, SIGNAL_KNOWN }; /* not computed; without a value; a value */
typedef struct {
    double value[N_SIGNALS];
    uint8_t state[N_SIGNALS];
} Signals;
void signal_set(Signals *s, int signal, double value); /* rounded to 8 decimals, as released */
void signal_none(Signals *s, int signal);
/* part / whole; NONE where whole is 0. */
void signal_share(Signals *s, int signal, double part, double whole);

/* What the file is, after the released filter's own names of languages. */
enum { FILE_TEXT, FILE_CODE, FILE_DATA, FILE_OTHER };
enum {
    LANG_OTHERS,
    LANG_DATA,
    LANG_SHELL,
    LANG_SQL,
    LANG_PYTHON,
    LANG_CPP,
    LANG_C,
    LANG_CSHARP,
    LANG_GO,
    LANG_HTML,
    LANG_JAVA,
    LANG_JAVASCRIPT,
    N_TABLES
};

typedef struct {
    Str text;      /* the content: UTF-8; what is not counts as U+FFFD, a byte each */
    Str name;      /* the file's name, without its directory */
    Str ext;       /* without the dot */
    char lang[48]; /* as the released filter calls it: "cpp", "python", "emacs lisp" */
    int type;      /* FILE_* */
    int table;     /* LANG_*, by lang and type */
    bool chinese;  /* a text in Chinese: words and thresholds of their own */
    bool english;  /* a text in English: alphabet and stop words are looked at */
    size_t size;   /* bytes of the file */
} RuleFile;

/* Fills lang, type and table from linguist's name of the language ("C++") and the type ("code"). */
void rule_file_kind(RuleFile *f, Str language, Str type);
/* chinese and english by the share of Chinese and Japanese characters. */
void rule_file_speech(RuleFile *f);

typedef struct Rules Rules;
Rules *rules_open(bool fix);
void rules_close(Rules *r);
/* All signals of the file but those that need a parser (parsers.h). */
void rules_signals(Rules *r, const RuleFile *f, Signals *out);

/* A rule: drop the file when the signal is below or above (OUTSIDE: either) or equal, and, where
 * `share` is less than 1, with that probability only. */
enum { RULE_OFF, RULE_BELOW, RULE_ABOVE, RULE_OUTSIDE, RULE_EQUAL };
typedef struct {
    int signal, test;
    double low, high, share;
} Rule;
/* Writes the rules of that kind of file into out (MOST_RULES) and returns how many there are. */
enum { MOST_RULES = 64 };
int rules_of(const RuleFile *f, Rule *out);
/* Puts 1 into hit[signal] for each rule that drops the file, else 0; returns how many do. The
 * random rules depend on seed and content alone. */
int rules_hits(const RuleFile *f, const Signals *s, uint64_t seed, uint8_t *hit);

/* The mistakes of the released filter that `fix` corrects, one a line, for -h and the README. */
extern const char rules_fixed[];

#endif
