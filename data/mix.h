/* mix.h: `./refine anneal --mix`, and its options, which stand in the table of anneal.c. */
#ifndef OC_MIX_H
#define OC_MIX_H

#include "refine.h"

typedef struct {
    bool wanted;
    TextList shares;
    const char *total, *tokenizer; /* NULL: not given */
    int64_t repeat, seed;
} MixOptions;
extern MixOptions mix_options;

/* Mixes files, each given as PART=FILE, if the options say so; false: they do not. */
bool run_mix(const char **path, int n);

#endif
