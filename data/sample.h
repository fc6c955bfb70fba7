/* sample.h: budgets of `./refine sample`, for refine.c and all.c. */
#ifndef OC_SAMPLE_H
#define OC_SAMPLE_H

#include "refine.h"

/* Where --budget or --total was given: the stage that must have seen all documents, and then
 * sample_decide, before sample_stage sees the first. Else NULL. */
const Stage *sample_before(void);
void sample_decide(void);
/* Samples in two passes where budgets were given; false: they were not. */
bool run_budgets(const char **path, int n);

#endif
