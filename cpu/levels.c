/* levels.c: which instruction set is in use, how many threads, and the scratch memory that products
 * share. */
#include "kernels.h"
#ifdef _OPENMP
#include <omp.h> /* omp_get_thread_num, omp_get_max_threads */
#endif

/* Best first. */
#if defined(__x86_64__) && defined(__GNUC__)
static const Kernels *const levels[] = { &kernels_amx, &kernels_avx512bf16, &kernels_avx512,
                                         &kernels_avx2, &kernels_plain };
const char matmul_levels[] =
    "instruction set that this CPU has: amx, avx512bf16, avx512, avx2 or plain";
#elif defined(__aarch64__) && defined(__GNUC__)
static const Kernels *const levels[] = { &kernels_dotprod, &kernels_neon, &kernels_plain };
const char matmul_levels[] = "instruction set that this CPU has: dotprod, neon or plain";
#else
static const Kernels *const levels[] = { &kernels_plain };
const char matmul_levels[] = "instruction set that this CPU has: plain";
#endif
/* The one in use. Atomic, because gemm_here may be the first to ask for it, on several threads. */
static const Kernels *_Atomic level;

bool matmul_choose(const char *name) {
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        const Kernels *k = levels[i];
        if (name ? strcmp(name, k->name) != 0 : k->slow && k->slow()) continue;
        if (!k->here()) continue;
        level = k;
        return true;
    }
    return false;
}

const Kernels *kernels(void) {
    if (!level) matmul_choose(NULL);
    return level;
}

const char *matmul_level(void) { return kernels()->name; }

int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}
int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

void *scratch(int slot, size_t bytes) {
    static void *memory[4];
    static size_t size[4];
    if (bytes > size[slot]) {
        free(memory[slot]);
        memory[slot] = NULL;
        if (posix_memalign(&memory[slot], 64, bytes))
            die("matmul: out of memory for %zu bytes", bytes);
        size[slot] = bytes;
    }
    return memory[slot];
}
