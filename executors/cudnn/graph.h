/* An attention as cuDNN's operations. Thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUDNN_GRAPH_H
#define THUNDER_EXECUTORS_CUDNN_GRAPH_H

#include "executors/cudnn/attention.h"
#include "executors/cudnn/cudnn_abi.h"

/* The finished operation graph of a checked, normalized attention; NULL and pool->status where it fails. Its descriptors are the pool's.
 * `handle` may be NULL: then heuristics and plans are given a device instead. */
cudnnBackendDescriptor_t th__cudnn_graph(th__cudnn_pool *pool, const th_cudnn_attention *a, cudnnHandle_t handle);

/* The tensors that a plan of it wants pointers for. */
bool th__cudnn_graph_uses(const th_cudnn_attention *a, th_cudnn_tensor tensor);

#endif
