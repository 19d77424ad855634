/* An attention as cuDNN's operations, and the JSON of what comes of it. Thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUDNN_GRAPH_H
#define THUNDER_EXECUTORS_CUDNN_GRAPH_H

#include "executors/cudnn/cudnn_abi.h"
#include "executors/cudnn/plan.h"

/* The finished operation graph of a checked, normalized attention; NULL and pool->status where it fails. Its descriptors are the pool's.
 * `handle` may be NULL: then heuristics and plans are given a device instead. */
cudnnBackendDescriptor_t th__cudnn_graph(th__cudnn_pool *pool, const th_cudnn_attention *a, cudnnHandle_t handle);

/* The tensors that a plan of it wants pointers for. */
bool th__cudnn_graph_uses(const th_cudnn_attention *a, th_cudnn_tensor tensor);

/* Sets the bytes of a plan's JSON that cuDNN leaves to chance to 0, in place. `a`: NULL where it is of no attention. */
void th__cudnn_scrub(char *json, size_t size, const th_cudnn_attention *a);

#endif
