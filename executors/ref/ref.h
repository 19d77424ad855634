/* The reference executor: runs a trace op by op, as its definition in ops.def
 * reads. It is the oracle of the tests, never a fallback: floats are computed
 * in f64 and rounded to their dtype after every op, integers wrap to their
 * width, nothing is vectorized, threaded or reordered. Several ranks are played
 * in one thread, in lockstep, so collectives and whatever sharding made of a
 * program can be checked without a cluster.
 *
 * Runs prims, regions and plans (a plan by value: places and kernels are not
 * looked at). Torch ops are lowered first (passes `number` and `decompose`).
 * Complex and fp8 values are UNIMPLEMENTED. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_REF_REF_H
#define THUNDER_EXECUTORS_REF_REF_H

#include "ir/pass.h"

typedef struct th_ref_tensor {
  th_dtype dtype;
  uint32_t rank;
  const int64_t *dims;
  void *data; /* row-major, elements as PyTorch keeps them */
} th_ref_tensor;

/* Runs graph 0 on `world` ranks. `inputs`: world x n_inputs, rank 0's first;
 * only read. `outputs`: world x n_outputs, filled in; memory of the trace's
 * context. The axes of the context's mesh number the ranks row-major; an axis
 * of size 0 takes what is left of `world`. Errors: INVALID_ARGUMENT (inputs
 * that do not fit the signature), OUT_OF_RANGE (an index), UNIMPLEMENTED,
 * INTERNAL (a result whose shape is not the one that stands in the trace). */
th_status th_ref_run(const th_trace *trace, uint32_t world, const th_ref_tensor *inputs, th_ref_tensor *outputs);

#endif
