/* notice.h: leading copyright and license notices. */
#ifndef OC_NOTICE_H
#define OC_NOTICE_H

#include "../files.h" /* Str, Buf */

/* Writes the text without the notices among its first comments into out; false where there are
 * none, and out is not touched. lang: as in RuleFile. */
bool notice_remove(const char *lang, Str text, Buf *out);

#endif
