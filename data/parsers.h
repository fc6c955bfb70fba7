/* parsers.h: "must parse", and what only a parser can count, by CPython and Node.js in processes of
 * their own.
 *
 * What to know first: a Parsers is for one thread; a process is started when the first file needs
 * it, and stays. A parser that is not installed is named once on stderr, and its rules pass. One
 * that dies or computes longer than 10 s over a file is started anew, and the file's rules pass. */
#ifndef OC_PARSERS_H
#define OC_PARSERS_H

#include "../json.h" /* JsonDoc */
#include "rules.h"

typedef struct Parsers Parsers;
Parsers *parsers_open(bool fix);
void parsers_close(Parsers *p);
/* Does the file want a parser? */
bool parsers_want(const RuleFile *f);
/* Adds the signals that come from a parser; r has just computed the others of this file. */
void parser_signals(Parsers *p, Rules *r, Signals *out);
/* functions.py's answer to a text: what kinds there are and what they give is said there. False
 * where there is no answer, which lives in `answer`. */
bool parsers_python(Parsers *p, char kind, Str text, JsonDoc *answer);
/* How many files a parser gave up on. */
uint64_t parsers_failed(const Parsers *p);

#endif
