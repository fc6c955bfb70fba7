/* group.h: several processes with a GPU each that train one model, through NCCL.
 *
 * What to know first: NCCL is there where make found it (NCCL=1), and in the emulation, whose
 * processes meet in shared memory (emu_nccl.h). Without it there is one process, and nothing here
 * does anything. Three collectives are enough for ZeRO-1 (arXiv:1910.02054), in which every rank
 * holds all weights and gradients, but the optimizer's state of its own share alone:
 *
 *     gradients   |  share 0  |  share 1  |  share 2  |     each rank has its own sums
 *        group_scatter: rank r gets share r, added up over all ranks
 *        AdamW on that share
 *        group_gather: everybody gets the new weights of all shares
 *
 * Collectives run on a stream of their own: gradients travel beside the backward pass, weights
 * beside AdamW and the next forward pass. All ranks call the same ones in the same order; events
 * (group_after, group_before, Trainer's `gathered`) say what waits for what. The emulation runs a
 * stream only when somebody waits for it, so a wait that is missing changes the numbers.
 * Test: tests/test_traincuda.py. */
#ifndef OC_GROUP_H
#define OC_GROUP_H

#include "gpu.h" /* CUDA */
#if defined(OC_EMU)
#include "emu_nccl.h" /* ncclReduceScatter, ... on the CPU */
#define OC_HAS_NCCL
#elif defined(OC_NCCL)
#include <nccl.h> /* ncclReduceScatter, ... */
#define OC_HAS_NCCL
#endif

struct Group {
    int rank, size;
    cudaStream_t stream;
    cudaEvent_t ready; /* what the stream waits for */
#ifdef OC_HAS_NCCL
    ncclComm_t comm;
#endif
};

#ifdef OC_HAS_NCCL
static inline void check_nccl(ncclResult_t r, const char *what) {
    if (r != ncclSuccess) die("ranks: %s: %s, expected success", what, ncclGetErrorString(r));
}
#define NCCL(call) check_nccl(call, #call)
#else
#define NCCL(call) (void)0 /* never reached: group_open has refused */
#endif

/* share(bytes, n): gives those of rank 0 to all. */
static inline void group_open(Group *g, int rank, int size, void (*share)(void *, size_t)) {
    g->rank = rank;
    g->size = size;
    if (size == 1) return;
#ifdef OC_HAS_NCCL
    ncclUniqueId id;
    if (rank == 0) NCCL(ncclGetUniqueId(&id));
    share(&id, sizeof id);
    NCCL(ncclCommInitRank(&g->comm, size, id, rank));
    CUDA(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking));
    CUDA(cudaEventCreateWithFlags(&g->ready, cudaEventDisableTiming));
#else
    (void)share;
    die("ranks: %d processes, expected 1 of a program that was built without NCCL; make NCCL=1",
        size);
#endif
}

static inline void group_close(Group *g) {
    if (g->size == 1) return;
    CUDA(cudaStreamSynchronize(g->stream));
    NCCL(ncclCommDestroy(g->comm));
    CUDA(cudaEventDestroy(g->ready));
    CUDA(cudaStreamDestroy(g->stream));
}

/* What is put into the group's stream from now on waits for what `from` has been given so far. */
static inline void group_after(Group *g, cudaStream_t from) {
    CUDA(cudaEventRecord(g->ready, from));
    CUDA(cudaStreamWaitEvent(g->stream, g->ready, 0));
}
/* The other way around. */
static inline void group_before(Group *g, cudaStream_t to) {
    CUDA(cudaEventRecord(g->ready, g->stream));
    CUDA(cudaStreamWaitEvent(to, g->ready, 0));
}

/* x: size shares of n numbers, float32 or bf16. Share `rank` becomes the sum over all ranks, the
 * others are then of no use. */
static inline void group_scatter(Group *g, void *x, bool narrow, size_t n) {
    NCCL(ncclReduceScatter(x, (uint8_t *)x + (size_t)g->rank * n * (narrow ? 2 : 4), n,
                           narrow ? ncclBfloat16 : ncclFloat32, ncclSum, g->comm, g->stream));
    (void)g, (void)x, (void)narrow, (void)n;
}

/* x: size shares of n bytes; everybody gets those of all. */
static inline void group_gather(Group *g, void *x, size_t n) {
    NCCL(ncclAllGather((const uint8_t *)x + (size_t)g->rank * n, x, n, ncclUint8, g->comm,
                       g->stream));
    (void)g, (void)x, (void)n;
}

/* x (n) on the device becomes its sum over all ranks. */
static inline void group_sum(Group *g, double *x, size_t n) {
    NCCL(ncclAllReduce(x, x, n, ncclFloat64, ncclSum, g->comm, g->stream));
    (void)g, (void)x, (void)n;
}

#endif
