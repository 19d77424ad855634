/* The host executor: regions of numbers in host memory, as programs that the runtime runs itself (executors/scalar.h). Beside the
 * executors of a device; on the cpu all is in host memory anyway. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_HOST_HOST_H
#define THUNDER_EXECUTORS_HOST_HOST_H

#include "ir/executor.h"

extern const th_executor th_executor_host;

#endif
