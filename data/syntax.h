/* syntax.h: how comments are written in some 250 languages. */
#ifndef OC_SYNTAX_H
#define OC_SYNTAX_H

#include <stdbool.h>

enum {
    LINE_FEED = 1,   /* a line comment takes its line feed along */
    PLAIN_LINE = 2,  /* pygments gives line comments a type that the released filter passes over */
    PLAIN_BLOCK = 4, /* the same of blocks */
    NO_STRINGS = 8,  /* quotes mean nothing, or not that comments may not begin behind them */
    FIRST_COLUMN = 16, /* the mark * counts at the start of a line only */
    BEHIND_SPACE = 32, /* a mark counts behind white space and at the start of a line */
    FIRST_ON_LINE = 64 /* a mark counts where only white space is before it on the line */
};

typedef struct {
    const char *names;    /* of the languages, as in RuleFile.lang, each between '|' */
    const char *line[3];  /* what begins a comment to the end of the line */
    const char *block[4]; /* what opens and closes one that may go over lines: two pairs */
    int flags;
} Syntax;

/* That of the language, or NULL. */
const Syntax *syntax_of(const char *lang);

#endif
