/* executor.h, emit, for the cpu executor. */
#ifndef THUNDER_EXECUTORS_CPU_CODEGEN_H
#define THUNDER_EXECUTORS_CPU_CODEGEN_H

#include "ir/executor.h"

th_status th_cpu_emit(const th_options *options, const th_trace *trace, const th_op *op, th_kernel_source *out);

#endif
