/* recall.h: what the files of `./refine recall` share: bytes of a crawl, its pages, their text and
 * addresses, and the classifier.
 *
 * What to know first: a crawl goes through four hands. webbytes.c makes plain bytes of files,
 * gzip, zstd or not; crawl.c finds records in them, which a thread turns into documents; http.c and
 * webtext.c make text of what a server has sent; classifier.c says how much the text is like code,
 * as it has learned from what training.c keeps. domains.c knows addresses, tally.c counts them.
 * recall.c repeats all that as often as asked for.
 * Tests: tests/test_recall.py, tests/test_recall_read.py. */
#ifndef OC_RECALL_H
#define OC_RECALL_H

#include "refine.h"

/* ------------------------------------------------------------------------------------------------
 * 1. webbytes.c: bytes of a file. Each gzip member and zstd frame stands alone, so what is damaged
 * costs no more than the rest of its own. */

typedef struct Bytes Bytes;
/* Opens a file, or dies. Counts what is read of it in *done. */
Bytes *bytes_open(const char *path, uint64_t *done);
void bytes_close(Bytes *b);
/* What is at hand, without using it up; empty at the end and where the file is damaged. */
Str bytes_peek(Bytes *b);
void bytes_skip(Bytes *b, size_t n);                 /* n of what peek has shown */
void bytes_again(Bytes *b, const char *s, size_t n); /* puts bytes back, to be read next */
/* After an empty peek: NULL at the end; else what is damaged, and reading goes on behind it. */
const char *bytes_damage(Bytes *b);
/* Appends a line with its line feed, all of it used up; what is longer than `most` is cut. False
 * where peek is empty at once. */
bool bytes_line(Bytes *b, Buf *line, size_t most);
/* Inflates gzip, zlib or bare deflate; at most `most` bytes. */
bool bytes_inflate(Str in, Buf *out, size_t most, Error *e);

/* ------------------------------------------------------------------------------------------------
 * 2. crawl.c: pages of WARC, WET and JSON Lines as documents, with a member "url". Pages that are
 * no text have a d->reason. Files are read from the start by each new source. */

Source *source_crawl(const char **path, int n);
Str page_url(const Document *d); /* its address; empty where a line has none */
/* The value of a header field, without white space around it; empty: it is not there. */
Str header_find(Str head, const char *name);

/* http.c: the parts of an answer of a web server. Bodies in chunks or compressed come to lie in
 * `plain`. False, with the reason, for what is no answer or is damaged. */
typedef struct {
    int status;
    Str type, charset, body; /* "text/html", "utf-8", as sent */
    bool packed;             /* in a compression that is not read here */
} Answer;
bool http_answer(Str message, Buf *plain, Answer *a, Error *e);
Str media_type(Str value); /* "text/html; charset=x" -> "text/html" */
Str charset_in(Str s);     /* what follows charset=, quoted or not; empty: nothing does */

/* webtext.c: appends the bytes as UTF-8. The charset is that of a byte order mark, else `charset`,
 * else what the HTML says, else UTF-8 where it is UTF-8, else windows-1252. What is not in it
 * becomes U+FFFD, *n_wrong times; false where that is more than 1 of 100. */
bool text_utf8(Str bytes, Str charset, bool html, Buf *out, size_t *n_wrong, Error *e);
/* Appends what a reader of the page sees: UTF-8 in, UTF-8 out. False without libxml2. */
bool html_text(Str html, Buf *out, Error *e);
void html_init(void); /* before the first thread calls html_text */

/* ------------------------------------------------------------------------------------------------
 * 3. domains.c: addresses */

/* The host of an address, without user, port and a dot at its end; empty where there is none. */
Str url_host(Str url);
/* Appends the registrable domain of a host in lower case: its last two labels, or three where the
 * last two are a registry such as co.uk or a site of many owners such as github.io. */
void base_domain(Str host, Buf *out);
/* The first part of the path: "questions" of https://a.org/questions/1. */
Str url_section(Str url);

typedef struct {
    Buf text;
    Str *pattern;
    size_t n;
} Patterns;
void patterns_open(Patterns *p, const char *path); /* a pattern a line; dies of a bad one */
/* Does one of them match all of the address, or all behind its http://, https:// and www.? */
bool patterns_match(const Patterns *p, Str url);
void patterns_free(Patterns *p);

/* ------------------------------------------------------------------------------------------------
 * 4. classifier.c: fastText as a child process, https://arxiv.org/abs/1607.01759 */

extern const Option classifier_options[];
/* Looks for the program, opens the tokenizer; dies where one is not there. */
void classifier_check(void);
const char *classifier_tokenizer(void); /* the file of --tokenizer, or NULL */
/* Appends the words of a text as fastText wants them, in one line without a line feed. */
void classifier_words(Str text, Buf *line);
/* Trains on a file of lines "__label__code WORDS" and "__label__other WORDS"; writes PREFIX.bin. */
void classifier_train(const char *input, const char *prefix, const char *log);
typedef struct Classifier Classifier; /* for one thread */
Classifier *classifier_open(const char *model);
double classifier_score(Classifier *c, Str line); /* the probability of code, 0 to 1 */
void classifier_close(Classifier *c);
void classifier_done(void); /* frees what check has opened */
void classifier_kill(void); /* the training that runs; may be called by a handler of signals */

/* ------------------------------------------------------------------------------------------------
 * 5. training.c: what it learns from; a line is what classifier_words has made */

/* A directory for temporary files, which goes at training_close, at the end and by signals; comes
 * behind output_open, whose file goes then too. */
void training_open(void);
void training_close(void);
void training_seed(Str line); /* one page more that is code-related */
uint64_t training_seeds(void);
void training_sample_begin(uint64_t most); /* forgets the sample and begins a new one, of `most` */
void training_sample(uint64_t hash, Str line);
uint64_t training_sampled(void); /* how many it has */
/* Trains on the seed and `wanted` pages of the sample, *n_other where it has fewer; the model. */
const char *training_run(uint64_t wanted, uint64_t *n_other);

/* ------------------------------------------------------------------------------------------------
 * 6. tally.c: pages, and those of them that are code, by name */

typedef struct {
    uint64_t pages, code;
} Pages;

typedef struct {
    Words names; /* -> 1 + index */
    Pages *pages;
    size_t n, cap;
} Tally;
Pages *tally_get(Tally *t, const char *name, size_t n); /* 0 of 0 where it is new */
void tally_clear(Tally *t);
void tally_free(Tally *t);
bool is_code_related(const Pages *domain); /* recall.c: by --domain-share and --min-pages */
/* Sections are named "example.org/questions". */
void write_domains(const char *path, const Tally *domains, const Tally *sections);

int run_recall(int argc, char **argv);

#endif
