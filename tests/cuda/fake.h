/* What the fakes of libcublasLt.so.13 and libcuda.so.1 share with the tests: one struct, `fake` of the fake driver. */
#ifndef THUNDER_TESTS_CUDA_FAKE_H
#define THUNDER_TESTS_CUDA_FAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "ir/base/half.h"

typedef struct fake_control {
  /* set by the test */
  long fail_at;      /* the entry point called as this one (from 1) fails; 0: none */
  void *stream;      /* every stream must be this one */
  bool capturing;    /* events and synchronization are a misuse */
  bool refuse_batch; /* no algorithm for strided batches */
  bool refuse_check; /* cublasLtMatmulAlgoCheck accepts nothing */
  bool counts_tiles; /* candidate 0 takes 4 bytes of workspace where it may, and is slower with them */
  size_t last_workspace;
  double unit; /* milliseconds of the fastest candidate; one further away takes as much more */
  int n_candidates, fastest, broken; /* broken: this candidate fails when it runs; -1: none, -2: all */
  /* counted */
  long calls, live, matmuls, heuristics, checks, synchronizations, memsets, misuses;
  int last_candidate; /* of cublasLtMatmul */
  double clock;       /* ms */
  char misuse[256];   /* the first */
} fake_control;

/* Elements by cudaDataType (executors/run/cublaslt/cublaslt_abi.h). */
static inline double fake_load(int type, const void *p, int64_t i) {
  switch (type) {
    case 1: return ((const double *)p)[i];
    case 2: return th_from_f16(((const uint16_t *)p)[i]);
    case 14: return th_from_bf16(((const uint16_t *)p)[i]);
    default: return ((const float *)p)[i];
  }
}
static inline void fake_store(int type, void *p, int64_t i, double x) {
  switch (type) {
    case 1: ((double *)p)[i] = x; break;
    case 2: ((uint16_t *)p)[i] = th_to_f16((float)x); break;
    case 14: ((uint16_t *)p)[i] = th_to_bf16((float)x); break;
    default: ((float *)p)[i] = (float)x;
  }
}
static inline int64_t fake_size(int type) { return type == 1 ? 8 : type == 0 ? 4 : 2; }

#endif
