/* The cpu executor's compile half: generated C, compiled by the host's C compiler. Elements are written by executors/gen; codegen.c writes the loops
 * around them, special.c the ops that are no function of a few elements.
 * Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CPU_CPU_H
#define THUNDER_EXECUTORS_CPU_CPU_H

#include "executors/gen/gen.h"

extern const th_executor th_executor_cpu;

/* Text before the kernels of a module. */
extern const char th_cpu_prelude[];
/* executor.h, compile. */
th_status th_cpu_compile(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts,
                         size_t *out_n_parts, uint32_t *part_of, const char **out_kind);

/* ---- codegen.c and special.c ---- */

void th_cpu_special(th_gen *g, const th_op *op);
/* for (…) over a dimension as two loops, the inner one over at most `block` of them. */
const char *th_cpu_blocks(th_gen *g, th_dim size, int64_t block);
/* A reduction as a loop of its own (th_gen.reduce). */
const char *th_cpu_reduction(th_gen *g, const th_op *op, const char *const *index);
/* Name of the OpenMP reduction. */
const char *th_cpu_reduce_clause(th_op_kind kind, th_dtype dtype);
/* Is it an f32 sum of more than `most` elements (or of a number not known), which is to be added in blocks? Sums of blocks are f64. */
bool th_cpu_adds_in_blocks(th_gen *g, const th_op *op, int64_t most);

#endif
