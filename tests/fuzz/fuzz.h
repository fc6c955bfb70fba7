/* fuzz.h: what a fuzz target is, and what it may ask of fuzz.c.
 *
 * What to know first: a target is one file with two functions. It feeds bytes to a reader, and ends
 * with fuzz_fail where the reader broke a promise; memory errors are the sanitizers' to find.
 *
 *     bytes --libFuzzer, AFL++ or replay.c--> fuzz.c --> fuzz_one() --> the reader
 *                                               ^                          |
 *                                               `---- die(): exit(1) ------'
 *
 * Readers end the program on bad input. The linker turns their calls of exit, and of malloc and its
 * kin, into calls of fuzz.c (--wrap, in fuzz.mk), so nothing in a reader knows of this: an exit
 * jumps back, what the reader had allocated is released, and the next input comes. A reader that
 * returns by itself must have released all memory and closed all files. The message of a die()
 * must be one line that begins with "error: ".
 *
 * `make fuzz TIME=60 TARGET=gguf` runs one, tests/test_fuzz.py replays seeds and regressions. */
#ifndef OC_FUZZ_H
#define OC_FUZZ_H

#include "../../files.h" /* Error, OC_PRINTF, OC_NORETURN */

/* Of the target: once, before the first input; what it allocates stays. */
void fuzz_begin(void);
/* Of the target: one input; `data` is a heap block of exactly `size` bytes, which may be 0. */
void fuzz_one(const uint8_t *data, size_t size);

/* A promise was broken: says so, with the number of the run, and aborts. */
OC_NORETURN void fuzz_fail(const char *fmt, ...) OC_PRINTF(1, 2);

/* A file that holds these bytes, in memory; the name is good until the next call. */
const char *fuzz_file(const uint8_t *data, size_t size);
/* A directory in memory where there is one (/dev/shm), that is removed at the end. */
const char *fuzz_directory(void);

/* A reader that returns false says why. */
static inline OC_UNUSED void fuzz_refused(const Error *e) {
    if (!e->text[0]) fuzz_fail("refused without a reason");
}

#endif
