/* pii.h: personal data and secrets in source files, and what stands for them afterwards. */
#ifndef OC_PII_H
#define OC_PII_H

#include "../files.h" /* Str, Buf */

/*        number    placeholder    what it was */
#define PII_KINDS(X)                                                                               \
    X(PII_EMAIL, "<email>", "e-mail address")                                                      \
    X(PII_IP, "<ip_address>", "IP address")                                                        \
    X(PII_KEY, "<key>", "key or token")                                                            \
    X(PII_PASSWORD, "<password>", "password")                                                      \
    X(PII_NAME, "<name>", "name of an author")

#define PII_NUMBER(number, placeholder, what) number,
enum { PII_KINDS(PII_NUMBER) N_PII };
extern const char *const pii_placeholder[N_PII], *const pii_what[N_PII];

/* Appends the text to out with each hit replaced, and counts hits. False where there are none; out
 * is then as it was. */
bool pii_replace(Str text, Buf *out, size_t count[N_PII]);

#endif
