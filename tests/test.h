/* test.h: what a C test needs. Every check prints one line and counts; run_tests.py adds them up.
 *
 *     ok NAME                  FAIL NAME: why                  skip NAME: why
 *
 * A test program ends with `return test_end();`. It is run from the root of the repository. */
#ifndef OC_TEST_H
#define OC_TEST_H

#include <math.h>    /* fabs, isfinite */
#include <stdarg.h>  /* va_list */
#include <stdbool.h> /* bool */
#include <stdio.h>   /* printf */
#include <stdlib.h>  /* EXIT_FAILURE, size_t */

#if defined(__GNUC__)
#define TEST_API          static __attribute__((unused))
#define TEST_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define TEST_API static
#define TEST_PRINTF(f, a)
#endif

/* For matmul_choose; what this CPU lacks is passed over. */
#define LEVEL_NAMES "plain", "avx2", "avx512", "avx512bf16", "amx", "neon", "dotprod"

static int test_passed, test_failed;

/* Under an emulator (test_neon.py): a few small shapes, and not the level plain, are enough. */
TEST_API bool small_tests(void) { return getenv("OC_SMALL"); }

/* One result. The name may carry numbers; on failure `why` tells what was found and expected. */
TEST_API bool check(bool ok, const char *why, const char *name, ...) TEST_PRINTF(3, 4);
TEST_API bool check(bool ok, const char *why, const char *name, ...) {
    va_list args;
    va_start(args, name);
    fputs(ok ? "ok " : "FAIL ", stdout);
    vprintf(name, args);
    va_end(args);
    if (!ok) printf(": %s", why);
    putchar('\n');
    fflush(stdout); /* what was reached stays visible when the next line crashes */
    ok ? test_passed++ : test_failed++;
    return ok;
}

/* CHECK(n > 0): any condition.  CHECK_INT(n, 3): two whole numbers, printed when they differ. */
#define CHECK(expr) check((expr), "is false", "%s:%d %s", __FILE__, __LINE__, #expr)
#define CHECK_INT(got, want)                                                                       \
    check_int(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))

TEST_API bool check_int(const char *file, int line, const char *expr, long long got,
                        long long want) {
    char why[96];
    snprintf(why, sizeof why, "got %lld, expected %lld", got, want);
    return check(got == want, why, "%s:%d %s", file, line, expr);
}

/* max |got - want| / max |want|; *worst is where. NaN and Inf anywhere give an infinite error, and
 * so do zeros in the place of a reference that is not zero. */
TEST_API double relative_error(const float *got, const float *want, size_t n, size_t *worst) {
    double scale = 1e-30, most = 0, seen = 0;
    *worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!isfinite(d)) return *worst = i, INFINITY;
        if (d > most) most = d, *worst = i;
        scale = fmax(scale, fabs((double)want[i]));
        seen = fmax(seen, fabs((double)got[i]));
    }
    return seen == 0 && scale > 1e-30 ? INFINITY : most / scale;
}

TEST_API bool check_close(const char *name, const float *got, const float *want, size_t n,
                          double tol) {
    size_t i;
    char why[192];
    double error = relative_error(got, want, n, &i);
    snprintf(why, sizeof why, "at %zu of %zu got %.9g, expected %.9g", i, n, n ? (double)got[i] : 0,
             n ? (double)want[i] : 0);
    return check(n > 0 && error <= tol, why, "%s (error %.1e, at most %.0e)", name, error, tol);
}

/* The same bytes. */
TEST_API bool check_same(const char *name, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    char why[96];
    size_t i = 0;
    while (i < bytes && a[i] == b[i]) i++;
    snprintf(why, sizeof why, "byte %zu of %zu is the first to differ", i, bytes);
    return check(i == bytes, why, "%s", name);
}

TEST_API int test_end(void) {
    if (test_passed + test_failed == 0) printf("FAIL %s: no check was made\n", __FILE__);
    return test_failed || !test_passed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
