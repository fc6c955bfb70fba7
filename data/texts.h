/* texts.h: what `tokenizer train` and `tokenizer pack` share: their input, and a table of words.
 *
 * What to know first: the input is files, directories and JSON Lines. texts_open looks at all of it
 * once and lists documents; texts_batch hands them out again in the order of that list, so many at
 * a time that the threads have work and memory stays small. What cannot be used is counted, the
 * first few are named on stderr, and nothing of it stops the run. */
#ifndef OC_TEXTS_H
#define OC_TEXTS_H

#include "../json.h"      /* Json, JsonDoc */
#include "../opencoder.h" /* Map, Str, Buf, Error */

typedef struct {
    char *path;
    Map map;    /* JSON Lines: always; a text file: while parts of it are in use */
    bool lines; /* JSON Lines, a document a line; else one document */
} TextFile;

typedef struct {
    uint32_t file, line; /* line 0: the whole file */
    uint64_t at, n;      /* its bytes in the file */
} Doc;

/* What a thread works on: a document, or a stretch of a long one. */
typedef struct {
    const Doc *doc;
    Str raw;
    bool last; /* the document ends with it */
} Part;

typedef struct {
    TextFile *file;
    Doc *doc;
    size_t n_files, n_docs;
    uint64_t n_bytes, done_bytes; /* of all documents; of those handed out */
    uint64_t n_skipped, n_empty;
    int named;     /* how many of the skipped were named */
    size_t next;   /* the document to hand out, ... */
    uint64_t from; /* ... from this byte on */
} Texts;

enum { PART_BYTES = 1 << 20, BATCH_PARTS = 4096 };

/* Lists the documents of n paths. Directories are read to the bottom, in the order of names. */
void texts_open(Texts *x, const char **path, int n);
void texts_close(Texts *x);
/* Ends the program where the file to write is one of those that are read. */
void texts_protect(const Texts *x, const char *out);
/* The next parts, at most BATCH_PARTS and about `bytes` of text; 0 at the end. `cut`: long files
 * come in parts, cut where OpenCoder's splitter cuts too. texts_release gives a batch back. */
size_t texts_batch(Texts *x, Part *part, size_t bytes, bool cut);
void texts_release(Texts *x, const Part *part, size_t n);
/* Counts something that cannot be used; line 0: none. */
void texts_skip(Texts *x, const char *path, uint32_t line, const char *why);
/* A line on a terminal, nothing elsewhere: how much was handed out. */
void texts_progress(const Texts *x, const char *what);

/* The text of a part, which may be empty. A line is parsed into doc, where the text then lives; it
 * is in `field`, or where that is NULL in "content" or else "text". */
bool part_text(const Texts *x, const Part *p, const char *field, JsonDoc *doc, Str *text, Error *e);
bool record_text(const Json *record, const char *field, Str *text, Error *e);

/* A number for each of many different words; zeroed memory is an empty table. */
typedef struct {
    uint64_t at; /* the word's bytes: text.data + at */
    uint32_t n, hash;
    uint64_t value;
} Word;
typedef struct {
    Word *word; /* in the order they came */
    size_t n, cap;
    uint32_t *slot; /* 2^bits places: 0, or 1 + the number of a word */
    int bits;
    Buf text;
} Words;

/* The word with these bytes, which is new with value 0 where it was not there. Valid until the next
 * call. */
Word *words_get(Words *w, const char *s, size_t n);
const Word *words_find(const Words *w, const char *s, size_t n); /* NULL: it is not there */
void words_clear(Words *w);
void words_free(Words *w);

int set_threads(int64_t wanted); /* 0: all there are; returns how many it will be */
int this_thread(void);

#endif
