/* ranks.h: several processes that train one model together, started by mpirun (make MPI=1).
 *
 * What to know first: every rank holds the whole model and takes its part of the rows of an update;
 * gradients and losses are added up over all, and each makes the same update. Only rank 0 writes
 * and speaks. OUT must be in a place that all of them see, for --resume reads it on each. Without
 * MPI there is one rank, and nothing here does anything. Test: tests/test_trainloop.py. */
#ifndef OC_RANKS_H
#define OC_RANKS_H

#include "files.h" /* die */
#ifdef OC_MPI
#include <mpi.h> /* MPI_Allreduce */
#endif

static int mpi_rank, n_ranks = 1;

OC_API void ranks_open(int *argc, char ***argv) {
#ifdef OC_MPI
    int level; /* threads compute, but only the main one talks to other ranks */
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
#else
    (void)argc, (void)argv;
#endif
}

OC_API void ranks_close(void) {
#ifdef OC_MPI
    MPI_Finalize();
#endif
}

/* Sums over all ranks, in place. */
OC_API void ranks_sum(float *x, size_t n, double *loss, int *stop) {
#ifdef OC_MPI
    const size_t part = 1 << 28; /* MPI counts in int */
    for (size_t i = 0; i < n; i += part)
        MPI_Allreduce(MPI_IN_PLACE, x + i, (int)(n - i < part ? n - i : part), MPI_FLOAT, MPI_SUM,
                      MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, loss, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, stop, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
#else
    (void)x, (void)n, (void)loss, (void)stop;
#endif
}

/* Ends the program unless all ranks begin with the same: updates done, recipe, weights. */
OC_API void ranks_agree(int64_t step, uint32_t recipe, uint32_t weights) {
#ifdef OC_MPI
    int64_t v[6] = { step, recipe, weights, -step, -(int64_t)recipe, -(int64_t)weights };
    MPI_Allreduce(MPI_IN_PLACE, v, 6, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    for (int i = 0; i < 3; i++) /* the least and the largest of all ranks */
        if (v[i] != -v[i + 3])
            die("rank %d: ranks differ in %s, expected the same files in a place that all see",
                mpi_rank,
                i == 0   ? "updates done"
                : i == 1 ? "the recipe"
                         : "weights");
#else
    (void)step, (void)recipe, (void)weights;
#endif
}

#endif
