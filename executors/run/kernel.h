/* How a generated kernel is called. buffers: operands, then results, at their first elements. sizes: the integers its
 * instruction gives. Returns 0; bit 0: an index was out of range; bit 1: an integer division by zero.
 *
 * A kernel for CUDA (module kind "cubin") is a __global__ function of: a pointer for each buffer; a pointer to its scratch, where its
 * instruction has some; each size as int64_t; unsigned *th_bad, zero at first, into which it or-s those bits. They are passed packed, 8 bytes
 * each, so that a kernel may also take them as one struct by value. Its instruction's ints begin with the launch: blocks in x and y, threads of a block, bytes of dynamic shared memory; the sizes follow. */
#ifndef THUNDER_EXECUTORS_RUN_KERNEL_H
#define THUNDER_EXECUTORS_RUN_KERNEL_H

#include <stdint.h>

typedef struct th_kernel_context { int32_t threads, rank, world; } th_kernel_context;
typedef int (*th_kernel)(void *const *buffers, const int64_t *sizes, const double *scalars, const th_kernel_context *context);
enum { TH_KERNEL_INDEX = 1, TH_KERNEL_DIVISION = 2 };

#endif
