/* The plans that an instruction calls cuDNN with. */
#ifndef THUNDER_EXECUTORS_RUN_CUDNN_KEPT_H
#define THUNDER_EXECUTORS_RUN_CUDNN_KEPT_H

#include "executors/cudnn/plan.h"
#include "executors/run/library.h"

/* The plan of `what` (normalized) and the device's handle: kept from an earlier call of this instruction, read from its blob, or made here with a line in the
 * log. FAILED_PRECONDITION while a graph is captured where none was kept. The plan lives as long as the instruction. One thread at a time. */
th_status th__cudnn_kept(const th_library_args *args, const th_cudnn_kind *kind, const void *what, th_cudnn_plan **out_plan, th_cudnn_handle **out_handle);

#endif
