/* What the tests' libcudnn.so.9 was asked for; `fake_cudnn` is exported by it. */
#ifndef THUNDER_TESTS_CUDA_FAKE_CUDNN_H
#define THUNDER_TESTS_CUDA_FAKE_CUDNN_H

#include <stdint.h>

typedef struct fake_cudnn_counts {
  int handles, streams, plans_made, plans_read, packs, runs, alive; /* alive: descriptors */
  void *stream, *workspace;                                         /* of the last call */
  int64_t n, ids[32];
  void *data[32];
  int64_t workspace_wanted; /* what plans say that they need */
  int fail_runs;
} fake_cudnn_counts;

#endif
