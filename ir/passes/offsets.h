/* Offsets: where in the arena each storage lies, given sizes and lifetimes. Pure: knows no ops.
 *
 * Storages of constant size are packed by best fit, largest first (TensorFlow Lite's greedy-by-size; Pisarchyk and Lee,
 * 2020): in the gap between already placed storages alive at the same time that leaves the least room. Storages whose size
 * depends on a symbol lie after them in slots: a slot is taken over by a later storage of the same size, or of one that is
 * provably not larger, once its owner is dead. Slot offsets are sums of the sizes before, so they are expressions. */
#ifndef THUNDER_IR_PASSES_OFFSETS_H
#define THUNDER_IR_PASSES_OFFSETS_H

#include "ir/context.h"

typedef struct th_lifetime {
  th_dim bytes;        /* in */
  uint32_t begin, end; /* in: first and last instruction that touches it, both included */
  th_dim offset;       /* out: bytes, a multiple of TH_ARENA_ALIGN */
} th_lifetime;

/* Fills the offsets; returns the bytes of the arena. Work memory is the context's. */
th_dim th_offsets_assign(th_context *context, th_lifetime *storages, size_t count);

#endif
