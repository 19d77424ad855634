/* The cudnn executor's compile half: attention and its gradient as calls of cudnn.attention (executors/run/library.h), each with a plan of
 * cuDNN's that is made here, without a GPU. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUDNN_CUDNN_H
#define THUNDER_EXECUTORS_CUDNN_CUDNN_H

#include "ir/executor.h"

extern const th_executor th_executor_cudnn;

/* Where the stand-in for a driver is that cuDNN's planning wants on a machine without one; NULL: there is none. Set once, before compiles. */
void th_cudnn_set_stub(const char *path);

#endif
