/* instruct.h: what `./refine instruct` and `./refine synth` share: pairs that are not yet believed.
 *
 * What to know first: the first pass finds or generates candidates and puts each into a temporary
 * file as a line of JSON (candidate_put). The second one, judge_candidates, is the same for all:
 *
 *     tests          the program of a candidate is run with its tests in the sandbox of eval/, as
 *                    evaluate does: the program in one box, what compares in another
 *     decontaminate  the stage of that name, where --against is given
 *     unique         exact and near duplicates of what stays, and of other texts where there are
 *                    some, are dropped: of several the first one stays
 *
 * Tests: tests/test_instruct.py, test_synth.py. */
#ifndef OC_INSTRUCT_H
#define OC_INSTRUCT_H

#include "refine.h"

typedef struct {
    Str text;           /* what near duplicates are found by */
    Str more;           /* what may not be in a benchmark either */
    Str name;           /* for --verbose: "src/a.py:12 f" */
    Str program, tests; /* tests empty: nothing is run */
    Str stub; /* a program with which the tests must fail, or they test nothing; or empty */
    Str line; /* an object of JSON: what is written if the candidate stays */
} Candidate;

/* A member of an object of JSON, unless it is empty. */
void put_member(Buf *b, const char *key, Str s);
/* Appends the candidate as a line for judge_candidates. */
void candidate_put(Buf *out, const Candidate *c);

typedef struct {
    double seconds;                     /* for the tests of a candidate */
    int64_t memory, ngram, bands, rows; /* MiB; as in dedup */
    int64_t limit;                      /* 0: no limit */
    bool unsafe;
} JudgeOptions;
extern JudgeOptions judge_options;
/* Own options and more of them, or NULL, then those of judging and of decontaminate. */
void judge_gather(Option *table, int most, const Option *own, const Option *more);

/* Before the first pass: opens the output and, with `run`, the sandbox, or ends the program. */
void judge_open(bool run);
/* A text whose near duplicates are dropped too; behind judge_open. */
void judge_known(Str text);
/* Judges what was put into the spool, writes what stays to -o, and reports on both passes. `run`:
 * tests are run. */
void judge_candidates(Pipeline *first, Output *spool, bool run);

int run_instruct(int argc, char **argv);
int run_synth(int argc, char **argv);

/* chats.c: the first pass over conversations: the stage, where it puts candidates, and what loads
 * its documents. */
extern const Stage chats_stage;
extern Output *chats_spool;
bool load_chat(const Source *s, Document *d, Error *e);

#endif
