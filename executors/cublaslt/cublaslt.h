/* The cublaslt executor's compile half: contractions of floats as calls of cublaslt.matmul (executors/run/library.h). What it may read as
 * it lies is asked of executors/run/contraction.h, which the run half walks products with. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUBLASLT_CUBLASLT_H
#define THUNDER_EXECUTORS_CUBLASLT_CUBLASLT_H

#include "ir/executor.h"

extern const th_executor th_executor_cublaslt;

#endif
