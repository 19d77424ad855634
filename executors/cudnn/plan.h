/* Plans of cuDNN's: what it makes of an operation graph, for its fused kernels and its own. A plan is made for a device that is not there (compile
 * half: its bytes travel with the plan of the trace), or on the spot (run half: shapes known only then). What a graph computes is described by
 * attention.h and conv.h. No IR and no CUDA headers; cuDNN is opened at run time.
 *
 * Threads: thread-safe but for a th_cudnn_plan, which is used by one thread at a time. */
#ifndef THUNDER_EXECUTORS_CUDNN_PLAN_H
#define THUNDER_EXECUTORS_CUDNN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/base/dtype.h"
#include "ir/base/status.h"

/* Opens cuDNN and the libraries it wants beside it (NVRTC, cuBLASLt) and gives back its version: 91900 for 9.19.0. The first call
 * that succeeds decides; later ones only read the version. `driver_stub` is NULL in a rank. In a compile worker it is the path of
 * build/lib/cuda-stub/libcuda.so.1, taken where the machine has no libcuda.so.1: cuDNN wants one even where it only plans. Never give
 * it in a process that may use a GPU. NOT_FOUND naming the library that is missing, what was searched and what to install. */
th_status th_cudnn_open(const char *driver_stub, uint32_t *out_version);

/* ---- devices that are not there ---- */

typedef struct th_cudnn_device {
  int32_t sm_major, sm_minor;        /* 9, 0 */
  int32_t sms;                       /* multiprocessors: 132 */
  int32_t shared_per_block_optin;    /* bytes: 232448 */
  int64_t l2_bytes, memory_bytes;    /* 52428800, 85017493504 */
  int32_t sm_clock_khz, memory_clock_khz, memory_bus_bits; /* 0: those of an H100 SXM (1980000, 2619000, 5120) */
  int32_t driver_version;            /* CUDA's: 13000; 0: that */
  const char *name;                  /* printable, without quotes; NULL: "sm_90" */
} th_cudnn_device;

/* The device as cuDNN's JSON into `buffer`; returns the length that was wanted, as snprintf (below 1500). What is not in the record (threads
 * and registers of a multiprocessor, grid limits) is the same for sm_80 to sm_90. */
size_t th_cudnn_device_json(const th_cudnn_device *device, char *buffer, size_t size);

/* ---- plans ---- */

typedef struct th_cudnn_handle th_cudnn_handle; /* cuDNN's handle of one device */
typedef struct th_cudnn_plan th_cudnn_plan;
/* A kind of computation: TH_CUDNN_ATTENTION, TH_CUDNN_CONVOLUTION. Below, `what` is a description of the kind: a th_cudnn_attention, a th_cudnn_conv. */
typedef struct th_cudnn_kind th_cudnn_kind;

/* The handle of device number `device`, whose primary context must be current; made at the first call, never destroyed. Not while a
 * stream is captured, the first time. Opens cuDNN as in a rank. */
th_status th_cudnn_handle_get(int32_t device, th_cudnn_handle **out);

/* Whether two normalized descriptions say the same. */
bool th_cudnn_equal(const th_cudnn_kind *kind, const void *a, const void *b);
/* The description in words; returns the length that was wanted, as snprintf. */
size_t th_cudnn_format(const th_cudnn_kind *kind, const void *what, char *buffer, size_t size);

/* Makes a plan for the device in `device_json` without one (th_cudnn_open was called with a stub), and its bytes: a header (format, cuDNN's
 * version, the description, the workspace) and cuDNN's own JSON, with the kernel in it where cuDNN compiles one; attention: 80 to 120 KB, 0.3 to 1 s.
 * The same inputs and libraries give the same bytes. *out_bytes is malloc'ed and the caller's. UNIMPLEMENTED where cuDNN has no engine. */
th_status th_cudnn_plan_prepare(const th_cudnn_kind *kind, const void *what, const char *device_json, uint8_t **out_bytes, size_t *out_size);

typedef struct th_cudnn_plan_info { uint32_t version; int64_t workspace; } th_cudnn_plan_info;
/* Reads the header of such bytes; no library is opened. INVALID_ARGUMENT where they are not such bytes. */
th_status th_cudnn_plan_inspect(const th_cudnn_kind *kind, const uint8_t *bytes, size_t size, th_cudnn_plan_info *out, void *out_what);

/* A plan of such bytes, about 1 to 10 ms. FAILED_PRECONDITION naming both where they were made by another version of cuDNN or for something
 * else than `wanted` (NULL: anything). Exactly one of `handle` and `device_json` is given; with the latter the plan can only be inspected. */
th_status th_cudnn_plan_read(const th_cudnn_kind *kind, const uint8_t *bytes, size_t size, const void *wanted, th_cudnn_handle *handle, const char *device_json,
                             th_cudnn_plan **out);
/* A plan for the handle's device, on the spot: 0.3 to 1 s for attention. Not while a stream is captured. */
th_status th_cudnn_plan_create(const th_cudnn_kind *kind, const void *what, th_cudnn_handle *handle, th_cudnn_plan **out);
void th_cudnn_plan_destroy(th_cudnn_plan *plan); /* NULL is fine. Its kernels are unloaded: no CUDA graph may still hold them */
const void *th_cudnn_plan_what(const th_cudnn_plan *plan); /* normalized; the plan's */
size_t th_cudnn_plan_scratch_bytes(const th_cudnn_plan *plan);

#endif
