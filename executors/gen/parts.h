/* Kernels over compilers that run side by side. Thread-safe. */
#ifndef THUNDER_EXECUTORS_GEN_PARTS_H
#define THUNDER_EXECUTORS_GEN_PARTS_H

#include "ir/base/arena.h"

/* Texts to be compiled, each `prelude` and some of the `n` kernels (at least one): one a processor, `most` at most. Their number; *out_sources has them,
 * part_of[i] (NULL: nobody asks) says which one kernel i is in. Arena memory. */
size_t th_gen_share_out(th_arena *arena, const char *prelude, const char *const *kernels, size_t n, size_t most, const char ***out_sources, uint32_t *part_of);

#endif
