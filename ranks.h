/* ranks.h: several processes that train one model together: started by mpirun (make MPI=1), or of
 * ./traincuda by anything that sets RANK and WORLD_SIZE, as torchrun does.
 *
 * What to know first: every rank takes its part of the rows of an update; gradients and losses are
 * added up over all, and all have the same new weights. Only rank 0 writes and speaks. OUT must be
 * in a place that all of them see, for --resume reads it on each. On CPUs MPI adds up; on GPUs the
 * trainer does (cuda/group.h), and MPI, or else files beside OUT, only bring the ranks together.
 * Without any of this there is one rank, and nothing here does anything.
 * Test: tests/test_trainloop.py, tests/test_traincuda.py. */
#ifndef OC_RANKS_H
#define OC_RANKS_H

#include "files.h" /* die */
#ifdef OC_MPI
#include <mpi.h> /* MPI_Allreduce */
#endif

static int mpi_rank, n_ranks = 1;
static OC_UNUSED const char *ranks_meet; /* OUT: ranks without MPI meet at OUT.ranks */
#ifdef OC_CUDA
void cuda_sum(double *x, int n); /* traincuda.cu: x (n) becomes its sum over all ranks */
#endif

/* A whole number of the environment, or `otherwise`. */
OC_API int ranks_setting(const char *name, int otherwise, int most) {
    const char *text = getenv(name);
    return text ? (int)parse_int(name, text, 0, most) : otherwise;
}

OC_API void ranks_open(int *argc, char ***argv) {
    (void)argc, (void)argv;
#ifdef OC_MPI
    int level; /* threads compute, but only the main one talks to other ranks */
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
#elif defined(OC_CUDA)
    n_ranks = ranks_setting("WORLD_SIZE", 1, 1 << 16);
    mpi_rank = ranks_setting("RANK", 0, 1 << 16);
    if (mpi_rank >= n_ranks)
        die_usage("RANK, WORLD_SIZE: %d, %d, expected a rank below the number of processes",
                  mpi_rank, n_ranks);
#endif
}

OC_API void ranks_close(void) {
#ifdef OC_MPI
    MPI_Finalize();
#endif
}

/* This process's number among those of its machine: the GPU it takes. */
OC_API int ranks_device(void) {
    int n = ranks_setting("SLURM_LOCALID", mpi_rank, 1 << 16);
    n = ranks_setting("OMPI_COMM_WORLD_LOCAL_RANK", n, 1 << 16);
    return ranks_setting("LOCAL_RANK", n, 1 << 16);
}

/* Sums over all ranks, in place. n is 0 where the trainer has added up its gradients itself. */
OC_API void ranks_sum(float *x, size_t n, double *loss, int *stop) {
#ifdef OC_CUDA
    double v[2] = { *loss, *stop };
    cuda_sum(v, 2);
    *loss = v[0], *stop = v[1] > 0;
    (void)x, (void)n;
#elif defined(OC_MPI)
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
    int differ[3] = { 0, 0, 0 };
#ifdef OC_CUDA
    double mine[3] = { (double)step, recipe, weights }, first[3], wrong[3];
    for (int i = 0; i < 3; i++) first[i] = mpi_rank ? 0 : mine[i];
    cuda_sum(first, 3);
    for (int i = 0; i < 3; i++) wrong[i] = mine[i] != first[i];
    cuda_sum(wrong, 3);
    for (int i = 0; i < 3; i++) differ[i] = wrong[i] > 0;
#elif defined(OC_MPI)
    int64_t v[6] = { step, recipe, weights, -step, -(int64_t)recipe, -(int64_t)weights };
    MPI_Allreduce(MPI_IN_PLACE, v, 6, MPI_INT64_T, MPI_MIN, MPI_COMM_WORLD);
    for (int i = 0; i < 3; i++) differ[i] = v[i] != -v[i + 3]; /* the least and the largest */
#else
    (void)step, (void)recipe, (void)weights;
#endif
    for (int i = 0; i < 3; i++)
        if (differ[i])
            die("rank %d: ranks differ in %s, expected the same files in a place that all see",
                mpi_rank,
                i == 0   ? "updates done"
                : i == 1 ? "the recipe"
                         : "weights");
}

/* ------------------------------------------------------------------------------------------------
 * ranks_share: n bytes of rank 0 to all. Without MPI they come through files. A file may be left
 * over from a run that was killed, so each rank shows a number of its own, and believes only an
 * answer that has it:
 *
 *     rank r   writes its number to OUT.rank-r, reads OUT.ranks until it is there, removes its own
 *     rank 0   writes all numbers and the bytes to OUT.ranks, anew whenever a number has changed,
 *              until every OUT.rank-r has been there and is gone; removes OUT.ranks            */

#if defined(OC_CUDA) && !defined(OC_MPI)
OC_API void ranks_write(const char *path, const void *bytes, size_t n) {
    Buf temporary = { NULL, 0, 0 };
    buf_printf(&temporary, "%s.tmp-%ld", path, (long)getpid());
    FILE *f = fopen(temporary.data, "wb");
    bool ok = f && fwrite(bytes, 1, n, f) == n;
    if ((f && fclose(f)) || !ok || rename(temporary.data, path))
        die("%s: cannot write: %s", path, strerror(errno));
    buf_free(&temporary);
}

/* False unless the file is there with n bytes. */
OC_API bool ranks_read(const char *path, void *bytes, size_t n) {
    FILE *f = fopen(path, "rb");
    bool ok = f && fread(bytes, 1, n, f) == n;
    if (f) fclose(f);
    return ok;
}

/* One look at the file of rank r, as rank 0: has it come and gone? *changed: a new number. */
OC_API bool ranks_look(int r, uint64_t *number, bool *changed) {
    char path[4096];
    uint64_t now;
    snprintf(path, sizeof path, "%s.rank-%d", ranks_meet, r);
    if (!ranks_read(path, &now, sizeof now)) return *number != 0;
    *changed |= now != *number;
    *number = now;
    return false;
}

OC_API void ranks_wait(double since, const char *whom) {
    struct timespec pause = { 0, 20 * 1000 * 1000 };
    nanosleep(&pause, NULL);
    if (now_seconds() - since > 300)
        die("%s: %s did not come within 5 minutes, expected %d processes that see this place",
            ranks_meet, whom, n_ranks);
}
#endif

OC_API void ranks_share(void *bytes, size_t n) {
#ifdef OC_MPI
    MPI_Bcast(bytes, (int)n, MPI_BYTE, 0, MPI_COMM_WORLD);
#elif defined(OC_CUDA)
    size_t head = (size_t)n_ranks * sizeof(uint64_t);
    uint8_t *all = (uint8_t *)xcalloc(head + n, 1, "ranks");
    uint64_t *number = (uint64_t *)(void *)all;
    double begun = now_seconds();
    char meeting[4096], mine[4096];
    snprintf(meeting, sizeof meeting, "%s.ranks", ranks_meet);
    snprintf(mine, sizeof mine, "%s.rank-%d", ranks_meet, mpi_rank);
    if (mpi_rank) {
        uint64_t seed = (uint64_t)(begun * 1e9) ^ (uint64_t)getpid() << 40 ^ (uintptr_t)all;
        uint64_t own = mix64(seed) | 1; /* not 0 */
        ranks_write(mine, &own, sizeof own);
        while (!ranks_read(meeting, all, head + n) || number[mpi_rank] != own)
            ranks_wait(begun, "rank 0");
        memcpy(bytes, all + head, n);
        unlink(mine);
    } else {
        memcpy(all + head, bytes, n);
        for (int here = 1; here < n_ranks;) {
            bool changed = false;
            here = 1;
            for (int r = 1; r < n_ranks; r++) here += ranks_look(r, &number[r], &changed);
            if (changed) ranks_write(meeting, all, head + n);
            if (here < n_ranks) ranks_wait(begun, "a rank");
        }
        unlink(meeting);
    }
    free(all);
#else
    (void)bytes, (void)n;
#endif
}

#endif
