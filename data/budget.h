/* budget.h: which documents stay where only so many bytes, or tokens, are wanted.
 *
 * What to know first: every document draws a number, which depends on what it is and on the seed
 * alone. Documents stand in the order of those numbers, and what stays is the longest beginning of
 * that order whose sizes fit the budget: a number is the limit, and whoever draws less stays. So
 * the same documents stay in whatever order or pieces they come, a larger budget keeps all that a
 * smaller one keeps, and what is kept falls short of the budget by less than one document. */
#ifndef OC_BUDGET_H
#define OC_BUDGET_H

#include "refine.h"

typedef struct {
    uint64_t draw, size;
} Drawn;
typedef struct {
    Drawn *item;
    size_t n, cap;
    uint64_t size; /* of all */
} Drawns;

#define DRAW_ALL ((uint64_t)1 << 53) /* draws are less */

/* The number of a document: of its repo and path, or where it has neither, of its content. */
uint64_t document_draw(const Document *d, uint64_t seed);
/* The limit below which about this part of all documents draw, 0 to 1. */
uint64_t draw_limit(double part);

void drawns_add(Drawns *a, Drawn d);
/* Sorts; the limit that keeps the most of at most `budget`. *kept becomes the size of that. */
uint64_t drawns_limit(Drawns *a, double budget, uint64_t *kept);
void drawns_free(Drawns *a);

/* "200GB": 1000s by k, M, G, T, 1024s by Ki, Mi, Gi, Ti, a B behind any of them or none. */
double parse_amount(const char *option, const char *text);
/* Splits "NAME=VALUE" and returns VALUE; an error says that `expected` was expected. */
const char *parse_assignment(const char *option, const char *text, const char *expected, Str *name);

#endif
