/* synth.h: what the files of `./refine synth` share: questions to a model, and its answers.
 *
 *     synth.c        the command: seeds, kinds, judging        synthmodel.c   the model answers
 *     synthprompt.c  what is asked                     synthstore.c   answers in a file, which a
 *                                                                     later run takes up
 *
 * Test: tests/test_synth.py. */
#ifndef OC_SYNTH_H
#define OC_SYNTH_H

#include "instruct.h"

enum { SNIPPET, TEXTBOOK, EDUCATIONAL, PACKAGE, N_KINDS };

typedef struct {
    Buf text, name;            /* name: of its file, or of the function */
    Buf library, title, about; /* package: the library, the function, its signature */
} Seed;

typedef struct {
    size_t seed;        /* the number of its seed */
    int64_t sample;     /* the number of the answer to the same seed */
    uint64_t key;       /* a hash of the prompt and the sample: which answer belongs to it */
    Buf prompt, answer; /* the user's message; what the model wrote */
    const char *finish; /* "stop", "length" or "context"; NULL: there is no answer yet */
} Question;

typedef struct {
    const char *model, *lora;
    int64_t n_new, ctx, n_seq, seed, top_k;
    double temperature, top_p;
    bool plain; /* a model without a chat's markers: the message is continued as a text */
} WriteOptions;

/* The parts of a prompt around the user's message: OpenCoder's template (run.c, section 7). */
#define CHAT_HEAD "<|im_start|>system\n" OPENCODER_SYSTEM "<|im_end|>\n<|im_start|>"
#define CHAT_USER "user\n"
#define CHAT_TAIL "<|im_end|>\n<|im_start|>assistant\n"

/* Writes the prompt of a question, whose seed and sample are set, and its key. */
void write_prompt(int kind, Question *q, const Seed *s);

/* Answers every question that has no answer, several at a time, and calls done() for each. An
 * answer depends on its prompt and the options alone. */
void write_answers(Question *q, size_t n, const WriteOptions *o, void (*done)(const Question *q));

/* Opens an object of JSON and says which question it is about: "key", "seed", "sample". */
void put_question(Buf *line, const Question *q);

/* Answers to these questions in a file of JSON Lines, "key" or "seed" and "sample", "completion",
 * "finish" (or "end"): "stop", "length" or "context", or neither member, which is "stop". What
 * cannot be used is counted. Returns how many questions got one. */
size_t answers_read(Question *q, size_t n, const char *path);
/* Opens the file for more of them, behind its last whole line. Dies where the file ends in
 * something that is no line of it, nor the beginning of one. */
void answers_open(const char *path);
void answers_add(const Question *q);
void answers_close(void);

#endif
