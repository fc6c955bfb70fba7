/* attention.h: the cache of keys and values, and attention over it (attention.c). */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "opencoder.h" /* Config, Batch */

typedef struct KvCache KvCache;

/* Room for n_ctx positions of n_seq sequences; type: T_F32, T_F16 or T_Q8_0. */
KvCache *cache_open(const Config *c, int n_ctx, int n_seq, uint32_t type);
void cache_close(KvCache *c);
size_t cache_position_bytes(const Config *c, uint32_t type); /* of all layers, keys and values */

/* The keys and values of a batch, k and v (n, K, D), join the cache of a layer; then, for every row
 * and head, out = softmax(q keys / sqrt(D)) values over the positions up to the row's own.
 * q, out: (n, H, D). */
void attention(KvCache *c, int layer, const Batch *b, float *out, const float *q, const float *k,
               const float *v);
/* gate_i = silu(gate_i) up_i with silu(g) = g / (1 + e^-g)      (n). SwiGLU, arXiv:2002.05202. */
void swiglu(float *gate, const float *up, size_t n);

#endif
