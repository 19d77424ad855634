/* How a generated kernel is called. buffers: operands, then results, at their first elements. sizes: the integers its
 * instruction gives. Returns 0; bit 0: an index was out of range; bit 1: an integer division by zero. */
#ifndef THUNDER_EXECUTORS_RUN_KERNEL_H
#define THUNDER_EXECUTORS_RUN_KERNEL_H

#include <stdint.h>

typedef struct th_kernel_context { int32_t threads, rank, world; } th_kernel_context;
typedef int (*th_kernel)(void *const *buffers, const int64_t *sizes, const double *scalars, const th_kernel_context *context);
enum { TH_KERNEL_INDEX = 1, TH_KERNEL_DIVISION = 2 };

#endif
