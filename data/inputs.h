/* inputs.h: the files of a tar or zip archive one after the other, by libarchive; and the commit
 * times of a git repository. Used by read.c alone. */
#ifndef OC_INPUTS_H
#define OC_INPUTS_H

#include "refine.h"

typedef struct Archive Archive;

/* Length of a name without the ending that says it is an archive; all of it if it is none. */
size_t archive_stem(const char *name);
Archive *archive_open(const char *path);
/* The next regular file: its bytes go to d->text, at most MOST_FILE + 1 of them; path lives until
 * the next call. What is damaged gets a d->broken. False at the end. */
bool archive_next(Archive *a, Document *d, Str *path, int64_t *time);
void archive_close(Archive *a);

/* Adds DIR/path -> time of the last commit that changed it, for all files of the repository DIR,
 * which ends in a slash. False, with a line on stderr, where git cannot say. */
bool git_times(const char *dir, Words *times);

#endif
