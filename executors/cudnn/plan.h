/* Attention through cuDNN: softmax(scale q k^T) v and its gradients as one operation graph for cuDNN's fused kernels, and the
 * plans that cuDNN makes of it. A plan is made for a device that is not there (compile half: its bytes travel with the plan of the
 * trace), or on the spot (run half: shapes known only then). No IR and no CUDA headers; cuDNN is opened at run time.
 *
 * Tensors, all of one dtype (f16 or bf16) but the log-sum-exp (f32), with strides in elements:
 *   q, dq          (batch, heads, length, size)            out, grad    (batch, heads, length, value_size)
 *   k, dk          (batch, key_heads, keys, size)          v, dv        (batch, key_heads, keys, value_size)
 *   log-sum-exp    (batch, heads, length)                  of each row of scaled, masked scores, base e
 * heads is a multiple of key_heads: neighbouring query heads share a key head. causal: row i sees keys 0 … i, whatever the number of
 * keys (the mask begins at the upper left corner, as torch's is_causal).
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

/* ---- what is to be computed ---- */

typedef enum th_cudnn_tensor { /* + 1: cuDNN's unique id of it */
  TH_CUDNN_Q,
  TH_CUDNN_K,
  TH_CUDNN_V,
  TH_CUDNN_OUT,
  TH_CUDNN_LSE,
  TH_CUDNN_GRAD, /* backward only, as those below: gradient of out */
  TH_CUDNN_DQ,
  TH_CUDNN_DK,
  TH_CUDNN_DV,
  TH_CUDNN_STRIDED, /* so many are the caller's tensors */
  TH_CUDNN_ROW_SUMS = TH_CUDNN_STRIDED, /* in the scratch, f32 (batch, heads, length): sum over out * grad */
  TH_CUDNN_DQ_SUMS,                     /* in the scratch, f32 (batch, heads, length, size): dq before it is rounded */
  TH_CUDNN_SCALE,                       /* numbers of the host, by value */
  TH_CUDNN_MINUS_INFINITY,
  TH_CUDNN_ONE,
  TH_CUDNN_TENSORS
} th_cudnn_tensor;

typedef struct th_cudnn_attention {
  th_dtype dtype;     /* f16, bf16 */
  bool backward;      /* from q, k, v, out, log-sum-exp, grad to dq, dk, dv; else from q, k, v to out, log-sum-exp */
  bool causal;
  bool deterministic; /* backward: dq without atomics, so every run gives the same bits; more workspace and time */
  int64_t batch, heads, key_heads, length, keys, size, value_size;
  int64_t strides[TH_CUDNN_STRIDED][4]; /* in elements, as the dimensions above; the log-sum-exp's fourth is 1 */
} th_cudnn_attention;

/* The dimensions of one of the caller's tensors; the log-sum-exp's fourth is 1. */
void th_cudnn_attention_dims(const th_cudnn_attention *a, th_cudnn_tensor tensor, int64_t out_dims[4]);
/* Strides of dimensions of extent 1 mean nothing: sets them to what the dense order would have, and those of tensors that the pass
 * does not have to 0, so that equal attentions have equal bytes. The functions below do so for themselves. */
void th_cudnn_attention_normalize(th_cudnn_attention *a);
/* After normalizing. */
bool th_cudnn_attention_equal(const th_cudnn_attention *a, const th_cudnn_attention *b);
/* Whether cuDNN `version` is known to do this on sm_90: f16 or bf16; sizes multiples of 8 up to 256; unit stride in the last
 * dimension and multiples of 8 in the others; for keys not a multiple of 128 version 9.16 or later. No library is opened. UNIMPLEMENTED
 * (what another executor may do) or INVALID_ARGUMENT (what nobody can) with the numbers. Tensors also have to be 16-byte aligned. */
th_status th_cudnn_attention_check(const th_cudnn_attention *a, uint32_t version);
/* "attention backward bf16, batch 4, heads 32/8, length 4096 x 4096, size 64/64, causal"; returns the length that was wanted. */
size_t th_cudnn_attention_format(const th_cudnn_attention *a, char *buffer, size_t size);

/* Bytes of scratch a call needs: cuDNN's workspace, and for backward the row sums and dq's sums, each from a multiple of 256 on. `workspace`
 * is th_cudnn_plan_info.workspace; -1 where no plan was made yet: then what cuDNN 9.19 was seen to ask for, as a bound. SIZE_MAX: more than can be counted.
 * The bound, for who writes it as an expression of run-time sizes (align = up to a multiple of 256):
 *   forward                  256
 *   backward                 256 + align(4 batch heads length) + align(4 batch heads length size)
 *   … and heads > key_heads  + 2 batch heads keys (size + value_size) + 256 */
size_t th_cudnn_scratch_bytes(const th_cudnn_attention *a, int64_t workspace);

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

/* The handle of device number `device`, whose primary context must be current; made at the first call, never destroyed. Not while a
 * stream is captured, the first time. Opens cuDNN as in a rank. */
th_status th_cudnn_handle_get(int32_t device, th_cudnn_handle **out);

/* Makes a plan for the device in `device_json` without one (th_cudnn_open was called with a stub), and its bytes: a header (format, cuDNN's
 * version, the attention, the workspace) and cuDNN's own JSON with the kernel in it; about 80 to 120 KB, 0.3 to 1 s. The same inputs
 * and libraries give the same bytes. *out_bytes is malloc'ed and the caller's. UNIMPLEMENTED where cuDNN has no engine. */
th_status th_cudnn_plan_prepare(const th_cudnn_attention *a, const char *device_json, uint8_t **out_bytes, size_t *out_size);

typedef struct th_cudnn_plan_info { uint32_t version; int64_t workspace; th_cudnn_attention attention; } th_cudnn_plan_info;
/* Reads the header of such bytes; no library is opened. INVALID_ARGUMENT where they are not such bytes. */
th_status th_cudnn_plan_inspect(const uint8_t *bytes, size_t size, th_cudnn_plan_info *out);

/* A plan of such bytes, about 1 to 10 ms. FAILED_PRECONDITION naming both where they were made by another version of cuDNN or for another
 * attention than `wanted` (NULL: any). Exactly one of `handle` and `device_json` is given; with the latter the plan can only be inspected. */
th_status th_cudnn_plan_read(const uint8_t *bytes, size_t size, const th_cudnn_attention *wanted, th_cudnn_handle *handle, const char *device_json,
                             th_cudnn_plan **out);
/* A plan for the handle's device, on the spot: 0.3 to 1 s. Not while a stream is captured. */
th_status th_cudnn_plan_create(const th_cudnn_attention *a, th_cudnn_handle *handle, th_cudnn_plan **out);
void th_cudnn_plan_destroy(th_cudnn_plan *plan); /* NULL is fine. Its kernels are unloaded: no CUDA graph may still hold them */
const th_cudnn_attention *th_cudnn_plan_attention(const th_cudnn_plan *plan); /* normalized; the plan's */
size_t th_cudnn_plan_scratch_bytes(const th_cudnn_plan *plan);

/* Puts the work on `stream` (CUstream) and does not wait. `data`: device pointers of the caller's tensors, 16-byte aligned; those that the pass
 * does not have are not read. `scratch`: device memory of this call, 256-byte aligned. RESOURCE_EXHAUSTED naming both numbers where it is
 * too small. Also while the stream is captured; a plan's first run should come before. */
th_status th_cudnn_plan_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_STRIDED], float scale, void *stream, void *scratch,
                                size_t scratch_bytes);

#endif
