/* broken.c: a target that breaks the promises of fuzz.h one at a time, by the first byte, so that
 * tests/test_fuzz.py can see that fuzz.c notices. Never fuzzed. */

#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    static void *volatile kept; /* so that no compiler leaves the malloc out */
    static volatile uint8_t behind;
    const Error no_reason = { "" };
    (void)kept, (void)behind;
    switch (size ? *data : 0) {
    case 'l': kept = malloc(7); break;                                       /* leaks */
    case 'f': (void)!open("/dev/null", O_RDONLY); break;                     /* a file stays open */
    case 'o': behind = data[size]; break;                                    /* reads too far */
    case 's': exit(1);                                                       /* silent */
    case 'z': fputs("error: input: it ends well, oddly\n", stderr), exit(0); /* a bad exit code */
    case 't': fputs("error: one: line\nerror: two: lines\n", stderr), exit(1);
    case 'r': fuzz_refused(&no_reason); break;
    case 'd': kept = malloc(7), die("input: a 'd', expected anything else"); /* as it should be */
    }
}
