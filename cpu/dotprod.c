/* dotprod.c: the level of ARM processors with dot products of bytes, most since 2018: as neon.c,
 * but for the products of whole numbers. */
#if !defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__) && !defined(__clang__)
#pragma GCC target("arch=armv8.2-a+dotprod") /* in the place of another: for all that follows */
#endif
#include "kernels.h"
#if defined(__aarch64__) && defined(__GNUC__)
#include "neon.h" /* the vocabulary */
#ifdef __linux__
#include <asm/hwcap.h> /* HWCAP_ASIMDDP */
#include <sys/auxv.h>  /* getauxval */
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#endif
#define DOTPROD 1
#include "floats.h"    /* float_dots, float_pack */
#include "attend.h"    /* attend, exp_all, swiglu */
#include "int8_neon.h" /* int8_rows_neon, PANELS_NEON */

static bool dotprod_here(void) {
#ifdef __linux__
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    return true; /* as on every Mac */
#endif
}

const Kernels kernels_dotprod = { .name = "dotprod", .here = dotprod_here, NEON_KERNELS };
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
