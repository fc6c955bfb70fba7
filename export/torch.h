/* torch.h: between torchzip.c, which knows the archive, and unpickle.c, which knows what its
 * data.pkl says. */
#ifndef OC_TORCH_H
#define OC_TORCH_H

#include "export.h" /* Arena, Str, Error */

/* A tensor as the pickle tells of it; nothing but the number of dimensions is checked yet. It is a
 * view into a storage: `count` numbers of one type, which several tensors may share. */
typedef struct {
    Str name;
    uint32_t type, width; /* storage type, T_COUNT: not one of type_info; bytes of a number */
    Str storage;          /* the archive's entry data/STORAGE */
    int64_t count, offset;
    uint32_t n_dims;
    int64_t size[2], stride[2]; /* slowest dimension first */
} TorchTensor;

static inline uint64_t little_endian(const uint8_t *p, int n) { /* n bytes, lowest first */
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

/* Runs the pickle in (data, size) and lists the tensors of the dictionary that it makes. */
bool unpickle_tensors(TorchTensor **list, size_t *n, Arena *a, const uint8_t *data, size_t size,
                      Error *e);

#endif
