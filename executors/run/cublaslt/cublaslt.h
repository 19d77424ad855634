/* Matrix products on NVIDIA GPUs by cublasLt, opened at run time. The contract of the function's arguments is in
 * executors/run/library.h, which layouts it walks in executors/run/contraction.h.
 * The first call with a state asks the library for algorithms and, where it may (not capturing, not deterministic, results that
 * share no memory with operands), times them: the only synchronization with the host. Choices are kept in the state and in
 * executors/run/tuning.h, on disk too. A captured call does neither; what it takes is settled by a later call that is not captured.
 * Errors: th_matmul_plan_make's; NOT_FOUND without the library; UNIMPLEMENTED where the library knows no algorithm.
 * Threads: thread-safe, one call at a time for each state. */
#ifndef THUNDER_EXECUTORS_RUN_CUBLASLT_H
#define THUNDER_EXECUTORS_RUN_CUBLASLT_H

#include "executors/run/library.h"

th_status th_lib_cublaslt_matmul(const th_library_args *args);

#endif
