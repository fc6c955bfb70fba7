/* refine.h: what the stages of ./refine share: documents, stages, where they come from and go to.
 *
 * What to know first: RefineCode (arXiv 2411.04905, section 2.1) is a chain of stages, and a stage
 * is a filter from JSON Lines to JSON Lines, one document a line. A stage sees one document at a
 * time, in any of several threads, and keeps, changes or drops it; pipeline.c does the rest:
 * reading, threads, order, counting, progress, writing. The whole of a new stage:
 *
 *     static int64_t limit = 100;
 *     static const Option options[] = {
 *         { 0, "limit", NULL, "N", OPT_INT, &limit, 0, 1e9, "drop what has fewer bytes" }, { 0 } };
 *
 *     static bool process(void *state, int thread, Document *d) {
 *         (void)state, (void)thread;
 *         if (d->content.n < (size_t)limit) return document_drop(d, "short");
 *         Buf text = { NULL, 0, 0 };                            a changed content:
 *         upper_case(&text, d->content);
 *         document_content(d, &text);
 *         buf_free(&text);
 *         json_put_int(document_member(d, "old_size"), d->size); a member more in the output
 *         if (strchr(d->content.s, '\t')) document_count(d, "has tabs"); for the statistics
 *         return true;
 *     }
 *     const Stage short_stage = { "short", "drop short files", "", options, NULL, process, NULL,
 *                                 NULL };
 *
 * and one line in the table of refine.c. `./refine short IN.jsonl > OUT.jsonl` has then -o, -j,
 * --stats, --verbose, --resume, zstd and -h like all others, and `./refine all` can use it.
 * Tests: tests/test_refine.py and the other tests/test_refine_*.py. */
#ifndef OC_REFINE_H
#define OC_REFINE_H

#include "../json.h" /* JsonDoc, json_put_*; and files.h: Str, Buf, Option, Error, OutFile */
#include "texts.h"   /* Words, Texts, set_threads, this_thread */

/* ------------------------------------------------------------------------------------------------
 * 1. Documents. The members of a line, all optional but the content (or "text"):
 *
 *   repo "owner/name", path "src/a.py", ext "py" (no dot, lower case), language "Python" (a name of
 *   github-linguist), type "code", "data" or "text" (for linguist: programming or markup, data,
 *   prose), stars, commit_time (seconds since 1970), size (bytes of the file), content.
 *
 * A Str that was absent is empty, a number 0. Other members pass through byte by byte. The bytes of
 * every Str belong to the document and live until it is written. content has a NUL behind its n
 * bytes, and may have others inside. It is UTF-8: json.h and read see to that. */

enum { MOST_STAGES = 16 };

typedef struct {
    struct {
        const char *name;
        int stage;
    } * item;
    size_t n, cap;
} Names;

typedef struct {
    Str repo, path, ext, language, type, content;
    int64_t stars, commit_time, size;
    Str extra;          /* members that are passed through: "a":1,"b":[2] */
    Buf added;          /* members that stages have added, in the same form */
    const char *reason; /* why it was dropped; NULL: it was not */
    uint64_t number;    /* its place in the input, from 0 */
    const char *from;   /* the file it stood in, ... */
    int64_t line;       /* ... and the number of its line; 0: a file of its own */

    /* What follows belongs to document.c, pipeline.c and the sources. */
    const char *broken; /* next has found something that is no document: why */
    JsonDoc json;
    Buf raw;                       /* what the source gave: a line, the name of a file */
    Buf names;                     /* where a source puts repo and path */
    Buf text, rest;                /* where content and extra live */
    Buf out;                       /* the line to be written */
    Buf scratch, keys;             /* from a stage's process to its in_order */
    Names counts;                  /* what document_count was given */
    int at_stage, dropped_by;      /* indices of stages; dropped_by -1: by none */
    size_t bytes[MOST_STAGES + 1]; /* of content before each stage and behind the last */
    uint32_t changed;              /* a bit for each stage that has replaced the content */
} Document;

/* Drops the document: `return document_drop(d, "why")`. why lives as long as the program. */
bool document_drop(Document *d, const char *why);
/* One more of `name`, in the statistics of the stage; a document may have many. */
void document_count(Document *d, const char *name);
/* The new content; takes b's memory and gives b the document's old one, so that it can be used
 * again for the next document. */
void document_content(Document *d, Buf *b);
/* Begins a member of the output, which replaces one of that name that was passed through; to be
 * followed by one json_put_* or json_open ... json_close on the Buf that is returned. */
Buf *document_member(Document *d, const char *key);
/* A member that is passed through or was added: its JSON text, empty if there is none. */
Str document_find(const Document *d, const char *key);

/* Parses d->raw, which stays; false, with a reason, for what is no document. */
bool document_parse(Document *d, Error *e);
/* Appends the document as one line with its line feed. */
void document_line(const Document *d, Buf *out);
void document_reset(Document *d); /* empty, with its memory kept */
void document_free(Document *d);

/* ------------------------------------------------------------------------------------------------
 * 2. Stages */

typedef struct {
    const char *name, *help; /* "filter"; a line for -h */
    const char *about;       /* more lines for -h, each ending in a line feed; may be "" */
    const Option *options;   /* of this stage alone, ends with { 0 }; values are static variables */
    /* After the options are parsed: checks them, loads tables. May die() or die_usage(). The state
     * it returns goes to all others; with memory for each thread it is an array. May be NULL. */
    void *(*open)(int n_threads);
    /* Any thread, 0 <= thread < n_threads, any order: true keeps the document. */
    bool (*process)(void *state, int thread, Document *d);
    /* One document at a time, in the order of the input, for what process kept. May be NULL. */
    bool (*in_order)(void *state, Document *d);
    /* At the end: frees the state. Appends members of its own to the statistics, if any: begin with
     * json_put_key(stats, ...). May be NULL. */
    void (*close)(void *state, Buf *stats);
} Stage;

extern const Stage sample_stage, decontaminate_stage, filter_stage, transform_stage, anneal_stage;
/* The stage of that name in the table of refine.c, or NULL. */
const Stage *find_stage(const char *name);

/* The languages of github-linguist; NULL: none has a file of that name. */
typedef struct {
    const char *name, *type; /* "C++"; "code", "data" or "text" */
} Language;
const Language *language_of(Str path); /* by file name, then by extension, the longest first */
const Language *language_named(Str name);

/* ------------------------------------------------------------------------------------------------
 * 3. Sources and outputs */

/* Where documents come from. next is called by one thread and finds the next document, as little
 * more than its place; load is called by any thread and makes the rest of it. */
typedef struct Source Source;
struct Source {
    bool (*next)(Source *s, Document *d);                 /* false at the end */
    bool (*load)(const Source *s, Document *d, Error *e); /* false: broken, counted, left out */
    void (*close)(Source *s);
    uint64_t done, total; /* bytes, for the line of progress; total 0: unknown */
};

enum { MOST_FILE = 8 << 20, MOST_LINE = 64 << 20 }; /* bytes; 8 MB is the paper's limit */

/* Bytes read or written at once. Fuzzing takes fewer (fuzz.mk), so that a short input, too, is cut
 * between blocks at every place. */
#ifndef REFINE_BLOCK
#define REFINE_BLOCK (1 << 20)
#endif

/* JSON Lines of n files, plain or zstd by their first bytes; none or "-": stdin. A file that cannot
 * be opened is an error here, what is broken in it is counted later. */
Source *source_lines(const char **path, int n);
/* Makes a document of the line in raw; the load of a source of lines. */
bool load_line(const Source *s, Document *d, Error *e);
/* Parses the line in raw into d->json, an object of any members; false, with a reason, where it is
 * broken, too long or none. */
bool load_object(Document *d, Error *e);
void source_close(Source *s);
/* Files of directories, archives and JSON Lines; read_stage is to be the first stage behind it. */
Source *source_files(const char **path, int n);
extern const Stage read_stage;
/* The cells of a Jupyter notebook as Markdown. */
bool notebook_text(Str notebook, Buf *text, Error *e);

/* Where they go: PATH (written under a temporary name, renamed by output_commit), or stdout for
 * NULL and "-". A PATH that ends in .zst, or `zstd`, is compressed. */
typedef struct Output Output;
Output *output_open(const char *path, bool zstd);
void output_write(Output *o, const char *bytes, size_t n);
void output_commit(Output *o);
/* An output without a name in the directory of temporary files, and after output_commit the source
 * of what was written: for stages that must see all documents before they can drop the first. */
Output *output_spool(void);
Source *source_spool(Output *o);

/* ------------------------------------------------------------------------------------------------
 * 4. Running stages */

typedef struct {
    uint64_t files, bytes;
} Count;

/* Counts by name; zeroed memory is an empty table. */
typedef struct {
    Words words; /* name -> 1 + index */
    Count *count;
    size_t n;
} Counts;
Count *counts_get(Counts *c, const char *name, size_t n);
void counts_free(Counts *c);
void counts_json(Buf *b, const char *key, const Counts *c); /* {"name":{"files":1,"bytes":2},...} */

typedef struct {
    const char *name;
    Count in, out, changed;
    Counts reasons, counts, languages_in, languages_out;
    Buf more; /* members that the stage has added */
} StageStats;

typedef struct {
    Source *in;
    const Stage *stage[MOST_STAGES];
    void *state[MOST_STAGES];
    int n_stages;
    Output *out;  /* NULL: nowhere */
    bool verbose; /* name what is broken on stderr, and what is dropped, with the reason */
    StageStats stats[MOST_STAGES];
    Count broken; /* lines and files that are no document */
    Counts broken_why;
    double seconds;
    const char *what; /* for the line of progress */
} Pipeline;

/* Opens the stages, runs all documents through them and closes them. The same output for any number
 * of threads. */
void pipeline_run(Pipeline *p);
void pipeline_stats(const Pipeline *p, Buf *json); /* an array of one object for each stage */
void pipeline_report(const Pipeline *p);           /* the funnel as a table on stderr */
void pipeline_free(Pipeline *p);
/* For a stage that must know all documents before it can drop the first: runs `first` over all of
 * them, then decide(), then `second` over them again. Its files are read twice; what cannot be
 * waits on disk, in $TMPDIR. */
void pipeline_twice(Pipeline *first, void (*decide)(void), Pipeline *second, const char **path,
                    int n);

/* Options that all commands have. */
typedef struct {
    const char *out, *stats;
    int64_t threads;
    bool verbose, quiet, zstd, resume;
    int n_threads; /* as set */
} Common;
extern Common common;
/* Parses the stage's and the common options; returns the number of files in path[]. */
int refine_options(int argc, char **argv, const Option *own, const char *usage, const char **path,
                   int most);
void write_stats(const Pipeline *p, const char *path);
const char *grouped(uint64_t v, char text[32]); /* 1234567 -> 1,234,567 */
int run_stats(int argc, char **argv);

#endif
