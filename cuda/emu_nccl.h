/* emu_nccl.h: the functions of NCCL that group.h calls, between processes on one machine.
 *
 * What to know first: ranks share a file that is mapped into all of them. For a collective each
 * writes down what it was asked for and a piece of its data, all meet, each takes what it needs,
 * all meet again. Where ranks ask for different things, or one does not come within a minute, the
 * program ends and says so: NCCL itself would hang. Sums are made in the order of the ranks.
 * Used by group.h. Test: tests/test_traincuda.py. */
#ifndef OC_EMU_NCCL_H
#define OC_EMU_NCCL_H

#include "emu.h"      /* emu::submit */
#include <atomic>     /* std::atomic */
#include <ctime>      /* nanosleep */
#include <fcntl.h>    /* open */
#include <sys/mman.h> /* mmap */
#include <unistd.h>   /* ftruncate, unlink */

enum ncclResult_t { ncclSuccess };
enum ncclDataType_t { ncclUint8 = 1, ncclFloat32 = 7, ncclFloat64 = 8, ncclBfloat16 = 9 };
enum ncclRedOp_t { ncclSum };
struct ncclUniqueId {
    char internal[128];
};
inline const char *ncclGetErrorString(ncclResult_t) { return "an error"; }

namespace emu {
enum { NCCL_RANKS = 16, NCCL_PIECE = 1 << 16 };

struct Desk { /* one rank's part of the shared file */
    char asked[64];
    alignas(16) unsigned char data[NCCL_PIECE];
};
struct Hall {
    std::atomic<int> arrived, round;
    Desk desk[NCCL_RANKS];
};
struct Comm {
    Hall *hall;
    int rank, size;
};

inline void meet(Comm *c, const char *what) {
    int round = c->hall->round.load();
    if (c->hall->arrived.fetch_add(1) == c->size - 1) {
        c->hall->arrived.store(0);
        c->hall->round.fetch_add(1);
        return;
    }
    struct timespec pause = { 0, 50000 };
    for (long waited = 0; c->hall->round.load() == round; waited++) {
        if (waited > 600000) fault("a rank does not come", what); /* some 60 s */
        nanosleep(&pause, nullptr);
    }
}

/* Everybody's piece of n bytes lies on the desks while use() runs. */
template <class Use>
inline void collect(Comm *c, const char *what, size_t total, const void *mine, size_t n, Use use) {
    Desk *d = &c->hall->desk[c->rank];
    snprintf(d->asked, sizeof d->asked, "%s %zu", what, total);
    memcpy(d->data, mine, n);
    meet(c, what);
    for (int r = 0; r < c->size; r++)
        if (strcmp(c->hall->desk[r].asked, d->asked)) fault("ranks ask for different things", what);
    use();
    meet(c, what);
}

inline size_t width(ncclDataType_t t) {
    return t == ncclUint8 ? 1 : t == ncclBfloat16 ? 2 : t == ncclFloat32 ? 4 : 8;
}

/* out (n) = sum over ranks of what lies on the desks. */
inline void add_desks(Comm *c, void *out, size_t n, ncclDataType_t t) {
    for (size_t i = 0; i < n; i++) {
        double wide = 0;
        float sum = 0;
        for (int r = 0; r < c->size; r++) {
            const unsigned char *p = c->hall->desk[r].data + i * width(t);
            if (t == ncclFloat64) wide += *(const double *)(const void *)p;
            if (t == ncclFloat32) sum += *(const float *)(const void *)p;
            if (t == ncclBfloat16) sum += bf16_bits_to_float(*(const uint16_t *)(const void *)p);
        }
        if (t == ncclFloat64) ((double *)out)[i] = wide;
        if (t == ncclFloat32) ((float *)out)[i] = sum;
        if (t == ncclBfloat16) ((uint16_t *)out)[i] = float_to_bf16_bits(sum);
    }
}
} // namespace emu

typedef emu::Comm *ncclComm_t;

inline ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof *id);
    const char *directory = getenv("TMPDIR");
    snprintf(id->internal, sizeof id->internal, "%s/opencoder-ranks-XXXXXX",
             directory ? directory : "/tmp");
    int fd = mkstemp(id->internal);
    if (fd < 0 || ftruncate(fd, sizeof(emu::Hall))) emu::fault("no file for ranks", id->internal);
    close(fd);
    return ncclSuccess;
}
inline ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
    if (size > emu::NCCL_RANKS) emu::fault("more than 16 ranks", "ncclCommInitRank");
    int fd = open(id.internal, O_RDWR);
    void *p = mmap(nullptr, sizeof(emu::Hall), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || p == MAP_FAILED) emu::fault("cannot map the file of ranks", id.internal);
    close(fd);
    *comm = new emu::Comm{ (emu::Hall *)p, rank, size };
    emu::meet(*comm, "ncclCommInitRank");
    if (rank == 0) unlink(id.internal);
    return ncclSuccess;
}
inline ncclResult_t ncclCommDestroy(ncclComm_t c) {
    munmap(c->hall, sizeof(emu::Hall));
    delete c;
    return ncclSuccess;
}
inline ncclResult_t ncclReduceScatter(const void *x, void *out, size_t n, ncclDataType_t t,
                                      ncclRedOp_t, ncclComm_t c, cudaStream_t stream) {
    emu::submit(stream, [=] {
        size_t w = emu::width(t), piece = emu::NCCL_PIECE / w;
        for (int to = 0; to < c->size; to++) /* out may be share `rank` of x: all read it before */
            for (size_t i = 0; i < n; i += piece) {
                size_t k = std::min(piece, n - i);
                const char *mine = (const char *)x + ((size_t)to * n + i) * w;
                emu::collect(c, "ncclReduceScatter", n * w, mine, k * w, [=] {
                    if (to == c->rank) emu::add_desks(c, (char *)out + i * w, k, t);
                });
            }
    });
    return ncclSuccess;
}
inline ncclResult_t ncclAllGather(const void *x, void *out, size_t n, ncclDataType_t t,
                                  ncclComm_t c, cudaStream_t stream) {
    emu::submit(stream, [=] {
        size_t bytes = n * emu::width(t);
        for (size_t i = 0; i < bytes; i += emu::NCCL_PIECE) {
            size_t k = std::min((size_t)emu::NCCL_PIECE, bytes - i);
            emu::collect(c, "ncclAllGather", bytes, (const char *)x + i, k, [=] {
                for (size_t r = 0; r < (size_t)c->size; r++)
                    memcpy((char *)out + r * bytes + i, c->hall->desk[r].data, k);
            });
        }
    });
    return ncclSuccess;
}
inline ncclResult_t ncclAllReduce(const void *x, void *out, size_t n, ncclDataType_t t, ncclRedOp_t,
                                  ncclComm_t c, cudaStream_t stream) {
    emu::submit(stream, [=] {
        size_t w = emu::width(t);
        if (n * w > emu::NCCL_PIECE) emu::fault("too many numbers", "ncclAllReduce");
        emu::collect(c, "ncclAllReduce", n * w, x, n * w, [=] { emu::add_desks(c, out, n, t); });
    });
    return ncclSuccess;
}

#endif
