/* eval.h: what the files of eval/ share: tasks, completions, and what became of them.
 *
 * What to know first: a Task is a problem with its tests, whatever benchmark it comes from; a
 * Completion is one answer to it. The way of an answer:
 *
 *     tasks.c        TASKS.jsonl -> Task                     prompts.c   Task -> prompt, stops
 *     generate.c     prompts -> text, by the engine          postprocess.c   text -> program
 *     grade.c        program -> Outcome, in sandbox.c        languages.c   how it is built and run
 *     score.c        outcomes -> pass@k                      report.c    lines, table, bars
 *     store.c        answers and outcomes on disk            evaluate.c  the command line
 *
 * unpack.c reads LiveCodeBench's packed tests, java.c has what only Java needs, and sandbox.h says
 * which files are the sandbox.
 * Test: tests/test_evaluate.py. */
#ifndef OC_EVAL_H
#define OC_EVAL_H

#include "../export/export.h" /* Arena; and opencoder.h: Model, EngineBackend */
#include "../json.h"          /* Json, JsonDoc, json_put_* */
#include "sandbox.h"          /* SANDBOX_*, sandbox_run, python_check */

/* ------------------------------------------------------------------------------------------------
 * Texts */

OC_API void buf_add_str(Buf *b, Str s) { buf_add(b, s.s, s.n); }

/* Is `part` in the text? An empty one is not. */
OC_API bool holds(Str text, Str part) {
    return part.n && text.n && memmem(text.s, text.n, part.s, part.n);
}

OC_API Str strip(Str s) { /* without white space at both ends */
    while (s.n && isspace((unsigned char)s.s[0])) s.s++, s.n--;
    while (s.n && isspace((unsigned char)s.s[s.n - 1])) s.n--;
    return s;
}

/* Takes the first line, and its line feed, off a text; returns it without the line feed. */
OC_API Str take_line(Str *rest) {
    const char *end = rest->n ? memchr(rest->s, '\n', rest->n) : NULL;
    Str line = { rest->s, end ? (size_t)(end - rest->s) : rest->n };
    size_t skip = line.n + (end != NULL);
    rest->s += skip, rest->n -= skip;
    return line;
}

int double_cmp(const void *a, const void *b); /* score.c: for qsort */

/* ------------------------------------------------------------------------------------------------
 * languages.c */

/* A line of the table. Words of commands stand between spaces; {main} is the name of the program:
 * "main", but for Java, where it is that of the class to start. */
typedef struct {
    const char *name, *aliases; /* "cpp", "c++ cxx" */
    const char *file;           /* what the source is called */
    const char *build, *run;    /* commands; no build: NULL. Python: python_check */
    int profile;                /* of the run, SANDBOX_*; a build has SANDBOX_BUILD */
    const char *binds;          /* what of the host is needed, patterns of glob(7) */
    const char *hello;          /* a program that does nothing: is the toolchain in order? */
} Language;

/* The first line of the table with that name or alias; NULL: there is none. */
const Language *language_find(Str name);

/* ------------------------------------------------------------------------------------------------
 * tasks.c */

enum { HUMANEVAL, MBPP, MBPP_PLUS, MULTIPLE, LIVECODE, PLAIN, N_KINDS };
extern const char *const kind_name[N_KINDS];

/* A test by input and output: of a program (stdin, stdout), or, where the task has an entry point,
 * of a function: arguments as JSON, one a line, and the result. */
typedef struct {
    Str input, output;
} Case;

typedef struct {
    int kind;
    const Language *language;
    Str id, prompt;
    Str entry;    /* the function that the tests call, "" where that is not said */
    Str solution; /* a completion that passes, "" where there is none */
    Str setup;    /* MBPP: what stands before the program */
    Str starter;  /* LiveCodeBench: what the answer begins with */
    Str tests;    /* code */
    Str *list;    /* MBPP: asserts, as the prompt shows them */
    Case *cases;  /* tests by input and output, instead of code */
    Str *stop;    /* further stop strings */
    int n_list, n_cases, n_stop;
    bool whole;     /* an answer is a whole program, else what follows the prompt */
    double timeout; /* seconds */
    int64_t number; /* of "HumanEval/7" or 7, -1 for other names */
} Task;

typedef struct {
    const char *path;
    Task *task;
    size_t n;
    Task shot[3]; /* MBPP: the examples in a prompt, tasks 1, 2 and 3 */
    int n_shots;
    Arena arena; /* what strings point into, beside the documents */
    JsonDoc *doc;
    size_t n_docs;
    bool selected; /* by --tasks: there are others in the file */
} Tasks;

/* Reads a task file; one that cannot be used ends the program. base: the tests of MBPP+ are those
 * of MBPP. language: of tasks that do not name one, NULL for Python. */
void tasks_open(Tasks *t, const char *path, bool base, const Language *language);
void tasks_close(Tasks *t);
/* The task of that name; a bare number, or one behind another prefix, is a task's number. */
const Task *tasks_find(const Tasks *t, Str id);
/* Leaves only tasks whose number is in "A-B", or that are among the first N: "N". */
void tasks_select(Tasks *t, const char *range);
OC_API bool is_python(const Task *task) { return !strcmp(task->language->name, "python"); }
/* unpack.c: the text in LiveCodeBench's packed private tests, appended to out. */
bool unpack_tests(Buf *out, Str packed, Error *e);

/* ------------------------------------------------------------------------------------------------
 * prompts.c */

typedef struct {
    bool chat;                   /* the model answers messages, else it continues text */
    bool zero_shot;              /* MBPP without examples */
    bool compat;                 /* with OpenCodeEval's errors: see prompts.c */
    const char *prefix, *suffix; /* around a chat's prompt, NULL: OpenCodeEval's own */
} PromptOptions;

/* What the model is to continue (chat: the user's message), appended to out. */
void prompt_text(const Tasks *t, const Task *task, const PromptOptions *o, Buf *out);
/* The texts at which an answer ends; returns how many. */
enum { MAX_STOPS = 64 };
int prompt_stops(const Task *task, const PromptOptions *o, Str stop[MAX_STOPS]);
/* OpenCodeEval's refine_text, through which prompts and answers go: a tab becomes four spaces, CR
 * and CR LF become a line feed, white space at both ends goes, and one line feed ends the text. */
void refine_text(Buf *text);

/* ------------------------------------------------------------------------------------------------
 * What became of an answer */

typedef enum {
    NOT_GRADED,
    PASSED,
    WRONG_ANSWER, /* a test failed */
    EXCEPTION,    /* the program ended by an error of its own */
    TIMEOUT,
    MEMORY,
    OUTPUT_LIMIT, /* it wrote too much */
    SYNTAX,       /* Python does not parse it */
    BUILD,        /* the compiler refuses it */
    VIOLATION,    /* it did what the sandbox does not let happen */
    NOT_RUN,      /* no toolchain, no box: counted neither way */
    N_VERDICTS
} Verdict;
extern const char *const verdict_name[N_VERDICTS];

typedef struct {
    Verdict verdict;
    double seconds;
    char reason[200]; /* one line: the exception, the failed assertion */
} Outcome;

typedef struct {
    const Task *task;
    int sample;
    Buf text;           /* what the model wrote */
    Buf program;        /* all of the code without tests; no data until postprocess.c made it */
    const char *finish; /* why the model stopped: "stop", "length", "context", NULL unknown */
    uint32_t run;       /* checksum of what it was made from, 0 for answers from elsewhere */
    Outcome outcome;
} Completion;

typedef struct {
    Completion *c;
    size_t n, cap;
} Completions;

/* ------------------------------------------------------------------------------------------------
 * store.c: answers and results on disk, so that a run goes on where it stopped */

Completion *completions_add(Completions *all, const Task *task, int sample);
void completions_free(Completions *all);
/* Reads JSON Lines of answers: task_id (or name) and completion or solution; what cannot be used
 * ends the program. Sorted by task and sample. */
void completions_read(Completions *all, const Tasks *t, const char *path);

/* A file that grows by whole lines. */
typedef struct {
    const char *path;
    int fd; /* -1: there is none, and lines go nowhere */
} Journal;

/* Opens a file for appending, behind its last whole line. */
void journal_open(Journal *j, const char *path);
void journal_add(Journal *j, const Buf *line);
void journal_close(Journal *j);
/* Takes the text of every answer in `all` that path has, made by the same run; returns how many. */
size_t completions_resume(Completions *all, const Tasks *t, const char *path);
/* The same for outcomes: key(c) is what a completion's outcome depends on. */
size_t results_resume(Completions *all, const Tasks *t, const char *path,
                      uint32_t (*key)(const Completion *c));

/* ------------------------------------------------------------------------------------------------
 * languages.c again: programs */

typedef struct {
    Str source;       /* all of the program */
    const Str *input; /* [n]; n = 0: one run with nothing on stdin */
    int n;
    double seconds;
    uint64_t memory;
} ProgramJob;
/* Builds the source and, where that goes well, runs it once for each input, until done() says
 * false. Of a build that fails, done() hears once, with built = false. */
void language_run(const Language *l, const ProgramJob *job,
                  bool (*done)(void *arg, int i, bool built, const SandboxResult *r), void *arg);
/* java.c */
void java_main(const Buf *source, char name[128]); /* the name of the class to start */
void java_add_tuples(Buf *source); /* the org.javatuples that it imports are put into it */
/* Tries out the languages of these answers (NULL: all there are), for language_here. */
void languages_try(const Completions *wanted);
/* The line for the same language that works here, or NULL and why. */
const Language *language_here(const Language *l, const char **why);
void languages_print(void); /* the table on stdout: which ones work here */

/* ------------------------------------------------------------------------------------------------
 * generate.c */

typedef struct {
    const char *model;
    int64_t n_samples, n_new, ctx, n_seq, seed, top_k;
    double temperature, top_p;
    bool exact, verify, quiet;
    const char *lora;
} GenerateOptions;

/* Fills in every completion of the n in `todo`, and calls done() for each as it is finished. */
void generate(const Tasks *t, Completion *const *todo, size_t n, const GenerateOptions *o,
              const PromptOptions *p, void (*done)(Completion *c));

/* ------------------------------------------------------------------------------------------------
 * postprocess.c */

enum { POST_NONE, POST_FENCE, POST_OPENCODEEVAL };
extern const char post_names[];  /* for help and errors */
int post_find(const char *name); /* -1: no such name */
/* c->program from c->text. Called by several threads. */
void postprocess(Completion *c, int how, const PromptOptions *o);

/* ------------------------------------------------------------------------------------------------
 * grade.c */

typedef struct {
    double timeout;  /* seconds, 0: the task's own */
    int64_t memory;  /* MiB */
    bool no_imports; /* no imports before Python programs */
    bool quiet;      /* nothing on stderr */
    bool unsafe;     /* run without the protections that the kernel refuses */
} GradeOptions;

/* Says on stderr what the sandbox lacks here, or ends the program where that is too much. */
void grade_open(const GradeOptions *o);
/* Builds and runs one answer with its tests. Called by several threads. */
void grade(Completion *c, const GradeOptions *o);
/* A checksum of all that the outcome depends on. */
uint32_t grade_key(const Completion *c, const GradeOptions *o);

/* ------------------------------------------------------------------------------------------------
 * score.c */

/* 1 - C(n - c, k) / C(n, k): the chance that one of k answers, drawn from n of which c pass, does
 * (Chen et al., arXiv:2107.03374). n >= k. */
double pass_at_k(int n, int c, int k);

typedef struct {
    int k;
    double value, low, high; /* the mean over tasks; 95 % of 10,000 resamplings of tasks */
} PassAtK;

typedef struct {
    char name[48];
    size_t passed, total; /* answers */
    size_t n_tasks;       /* that have answers */
    PassAtK at[8];
    int n_at;
} Score;

/* Scores of all answers whose tasks have that language (and kind; NULL, -1: any). k: numbers to
 * report; those above the fewest answers of a task are left out. */
void score(Score *s, const Tasks *t, const Completions *all, const Language *language, int kind,
           const int *k, int n_k);

/* ------------------------------------------------------------------------------------------------
 * report.c */

/* One line of DIR/completions.jsonl or of DIR/results.jsonl. */
void put_completion(Buf *line, const Completion *c);
void put_result(Buf *line, const Completion *c, uint32_t key);
/* The table of scores, of reasons and of failures, as text. */
void put_summary(Buf *out, const Score *score, int n, const Completions *all,
                 int64_t most_failures);
void draw_bars(Buf *out, const Score *score, int n, const char *title);

#endif
