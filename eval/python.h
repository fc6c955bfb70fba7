/* python.h: what sandbox.c and python.c say to each other: an interpreter and how to bind it. */
#ifndef OC_PYTHON_H
#define OC_PYTHON_H

#include "box.h"

enum { HOME_MAX = 8 };
typedef struct {
    char *path[HOME_MAX]; /* the interpreter, then the directories of its library; NULL: no more */
    char *packages;       /* the directory that numpy is in, or NULL */
} PythonHome;

/* Asks `name` (NULL: python3) what it stands for, outside of any box: it may be a shim. With
 * `for_anyone`, one that every user may start is looked for, if need be in the usual places. */
void python_find(const char *name, bool for_anyone, PythonHome *home);
void python_forget(PythonHome *home);
void python_bind(const PythonHome *home, BoxPlan *p);
const PythonHome *sandbox_python_home(void); /* sandbox.c: what sandbox_open has found */
void python_close(void);                     /* ends the boxes that python_check keeps */

#endif
