/* The part of CUDA's driver API that is used here, declared for ourselves (a build needs no CUDA headers) and opened at run time from
 * libcuda.so.1. A vendor room (cublaslt, cudnn) that needs a call of the driver adds its row to the table. Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_CUDA_DRIVER_H
#define THUNDER_EXECUTORS_RUN_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "ir/base/status.h"

typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
  TH_CU_OUT_OF_MEMORY = 2, TH_CU_NO_DEVICE = 100, TH_CU_INVALID_DEVICE = 101,
  TH_CU_FUNC_SHARED_BYTES = 8,      /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
  TH_CU_CAPTURE_THREAD_LOCAL = 1,   /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
  TH_CU_STREAM_NON_BLOCKING = 1, TH_CU_EVENT_DISABLE_TIMING = 2,
  TH_CU_HOST_PORTABLE = 1, TH_CU_HOST_MAPPED = 2,
  /* CU_DEVICE_ATTRIBUTE_… */
  TH_CU_MULTIPROCESSORS = 16, TH_CU_MEMORY_CLOCK_RATE = 36, TH_CU_MEMORY_BUS_WIDTH = 37, TH_CU_CAPABILITY_MAJOR = 75, TH_CU_CAPABILITY_MINOR = 76,
};
/* Entries of a launch's `extra`: all parameters in one buffer, as they lie in the kernel's parameter space; their bytes (size_t *). */
#define TH_CU_PARAMETERS ((void *)1)      /* CU_LAUNCH_PARAM_BUFFER_POINTER */
#define TH_CU_PARAMETERS_SIZE ((void *)2) /* CU_LAUNCH_PARAM_BUFFER_SIZE */

/* X(function, symbol, arguments) */
#define TH_CUDA_CALLS(X)                                                                                                                              \
  X(init, cuInit, (unsigned flags))                                                                                                                   \
  X(device_get, cuDeviceGet, (CUdevice *out, int ordinal))                                                                                            \
  X(device_attribute, cuDeviceGetAttribute, (int *out, int attribute, CUdevice device))                                                               \
  X(primary_retain, cuDevicePrimaryCtxRetain, (CUcontext *out, CUdevice device))                                                                      \
  X(context_get, cuCtxGetCurrent, (CUcontext *out))                                                                                                   \
  X(context_set, cuCtxSetCurrent, (CUcontext context))                                                                                                \
  X(context_synchronize, cuCtxSynchronize, (void))                                                                                                    \
  X(module_load, cuModuleLoadData, (CUmodule *out, const void *image))                                                                                \
  X(module_unload, cuModuleUnload, (CUmodule module))                                                                                                 \
  X(module_function, cuModuleGetFunction, (CUfunction *out, CUmodule module, const char *name))                                                       \
  X(function_set, cuFuncSetAttribute, (CUfunction function, int attribute, int value))                                                                \
  X(launch, cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,              \
                             unsigned block_z, unsigned shared_bytes, CUstream stream, void **parameters, void **extra))                              \
  X(copy_in, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                                                 \
  X(copy, cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                                                    \
  X(set_8, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t n, CUstream stream))                                                         \
  X(set_16, cuMemsetD16Async, (CUdeviceptr to, unsigned short value, size_t n, CUstream stream))                                                      \
  X(set_32, cuMemsetD32Async, (CUdeviceptr to, unsigned value, size_t n, CUstream stream))                                                            \
  X(stream_create, cuStreamCreate, (CUstream *out, unsigned flags))                                                                                   \
  X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                                                                            \
  X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                                                                       \
  X(stream_wait, cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                                                                 \
  X(stream_capturing, cuStreamIsCapturing, (CUstream stream, int *out_status))                                                                        \
  X(capture_begin, cuStreamBeginCapture_v2, (CUstream stream, int mode))                                                                              \
  X(capture_end, cuStreamEndCapture, (CUstream stream, CUgraph *out))                                                                                 \
  X(graph_instantiate, cuGraphInstantiateWithFlags, (CUgraphExec *out, CUgraph graph, unsigned long long flags))                                      \
  X(graph_launch, cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                                                                 \
  X(graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec exec))                                                                                       \
  X(graph_destroy, cuGraphDestroy, (CUgraph graph))                                                                                                   \
  X(event_create, cuEventCreate, (CUevent *out, unsigned flags))                                                                                      \
  X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                                                                    \
  X(event_synchronize, cuEventSynchronize, (CUevent event))                                                                                           \
  X(event_elapsed, cuEventElapsedTime, (float *out_ms, CUevent start, CUevent end))                                                                   \
  X(event_destroy, cuEventDestroy_v2, (CUevent event))                                                                                                \
  X(host_alloc, cuMemHostAlloc, (void **out, size_t bytes, unsigned flags))                                                                           \
  X(host_free, cuMemFreeHost, (void *host))                                                                                                           \
  X(host_address, cuMemHostGetDevicePointer_v2, (CUdeviceptr *out, void *host, unsigned flags))                                                       \
  X(error_name, cuGetErrorName, (CUresult result, const char **out))                                                                                  \
  X(error_text, cuGetErrorString, (CUresult result, const char **out))

typedef struct th_cuda_driver {
#define X(function, symbol, arguments) CUresult(*function) arguments;
  TH_CUDA_CALLS(X)
#undef X
} th_cuda_driver;

/* The driver, opened and initialized once a process; *out is never freed. NOT_FOUND: there is no libcuda.so.1; UNAVAILABLE: no device. A
 * failure is not remembered. */
th_status th_cuda_driver_open(const th_cuda_driver **out);

/* NULL for 0; else a status that names `call` and CUDA's name and text. RESOURCE_EXHAUSTED out of memory, UNAVAILABLE without a device. */
th_status th_cuda_status(const th_cuda_driver *driver, CUresult result, const char *call, const char *file, int line);
/* TH_CUDA(driver, launch, (function, ...)): the status of one call. */
#define TH_CUDA(driver, function, arguments) th_cuda_status((driver), (driver)->function arguments, #function, __FILE__, __LINE__)

/* Makes `context` current on the calling thread; *out_before: what was, for th_cuda_context_leave, which restores it unless it was none. */
th_status th_cuda_context_enter(const th_cuda_driver *driver, CUcontext context, CUcontext *out_before);
void th_cuda_context_leave(const th_cuda_driver *driver, CUcontext context, CUcontext before);

#endif
