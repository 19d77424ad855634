/* Convolutions through cuDNN: y = x * w, and the gradients of x and w, each as one operation and the plan that cuDNN makes of it, as attention in
 * plan.h: for a device that is not there, or on the spot. No IR and no CUDA headers.
 *
 * Tensors, all of one dtype (f32, f16, bf16), sums in f32, strides in elements:
 *   x (N, C, …)     w (O, C / groups, …)     y (N, O, …)
 * w is not turned around (PyTorch's convolution), padding is the same on both sides. With n spatial dimensions, the tensors of one are given as
 * of two, the first of extent 1.
 *
 * Threads: thread-safe but for a th_cudnn_conv_plan, which is used by one thread at a time. */
#ifndef THUNDER_EXECUTORS_CUDNN_CONV_H
#define THUNDER_EXECUTORS_CUDNN_CONV_H

#include "executors/cudnn/plan.h"

typedef enum th_cudnn_conv_tensor { TH_CUDNN_X, TH_CUDNN_W, TH_CUDNN_Y, TH_CUDNN_CONV_TENSORS } th_cudnn_conv_tensor;
typedef enum th_cudnn_conv_kind { /* by what is computed */
  TH_CUDNN_CONV,        /* y of x, w */
  TH_CUDNN_CONV_GRAD_X, /* x of y, w */
  TH_CUDNN_CONV_GRAD_W, /* w of x, y */
  TH_CUDNN_CONV_KINDS
} th_cudnn_conv_kind;
enum { TH_CUDNN_CONV_RANK = 5 };

typedef struct th_cudnn_conv {
  th_dtype dtype;
  th_cudnn_conv_kind kind;
  bool tf32;          /* products of f32 may be made in TF32 */
  bool deterministic; /* every run gives the same bits */
  uint32_t n;         /* spatial dimensions: 2, 3 */
  int64_t groups, stride[3], padding[3], dilation[3];
  int64_t dims[TH_CUDNN_CONV_TENSORS][TH_CUDNN_CONV_RANK], strides[TH_CUDNN_CONV_TENSORS][TH_CUDNN_CONV_RANK];
} th_cudnn_conv;

/* From the dimensions and strides of a convolution over 1 to 3 spatial dimensions; `numbers`: stride, padding, dilation (n each). Normalized: strides of
 * dimensions of extent 1 mean nothing and are set to what the dense order would have, channels-last where that fits the other tensors. false: more dimensions. */
bool th_cudnn_conv_make(th_cudnn_conv *out, uint32_t n, const int64_t *numbers, int64_t groups, const int64_t *const dims[TH_CUDNN_CONV_TENSORS],
                        const int64_t *const strides[TH_CUDNN_CONV_TENSORS]);
/* The fields that th_cudnn_conv_make does not know have to be set before. */
bool th_cudnn_conv_equal(const th_cudnn_conv *a, const th_cudnn_conv *b);
/* Whether the numbers make a convolution that cuDNN may know (it has the last word). UNIMPLEMENTED or INVALID_ARGUMENT with them. */
th_status th_cudnn_conv_check(const th_cudnn_conv *c);
/* "conv bf16 channels-last, x 32x64x56x56, w 64x64x3x3, y 32x64x56x56, stride 1x1, padding 1x1, dilation 1x1, groups 1"; the length that was wanted. */
size_t th_cudnn_conv_format(const th_cudnn_conv *c, char *buffer, size_t size);
/* The most scratch that a plan of it may ask for, from its sizes: plans that want more are not chosen. */
size_t th_cudnn_conv_scratch_limit(const th_cudnn_conv *c);

typedef struct th_cudnn_conv_plan th_cudnn_conv_plan;
typedef struct th_cudnn_conv_info { uint32_t version; int64_t workspace; th_cudnn_conv conv; } th_cudnn_conv_info;

/* As th_cudnn_plan_prepare, _inspect, _read, _create, _destroy. */
th_status th_cudnn_conv_prepare(const th_cudnn_conv *c, const char *device_json, uint8_t **out_bytes, size_t *out_size);
th_status th_cudnn_conv_inspect(const uint8_t *bytes, size_t size, th_cudnn_conv_info *out);
th_status th_cudnn_conv_read(const uint8_t *bytes, size_t size, const th_cudnn_conv *wanted, th_cudnn_handle *handle, const char *device_json, th_cudnn_conv_plan **out);
th_status th_cudnn_conv_create(const th_cudnn_conv *c, th_cudnn_handle *handle, th_cudnn_conv_plan **out);
void th_cudnn_conv_destroy(th_cudnn_conv_plan *plan);
const th_cudnn_conv *th_cudnn_conv_of(const th_cudnn_conv_plan *plan);
size_t th_cudnn_conv_scratch_bytes(const th_cudnn_conv_plan *plan);

/* Puts the work on `stream` and does not wait. As th_cudnn_plan_execute. */
th_status th_cudnn_conv_execute(th_cudnn_conv_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_CONV_TENSORS], void *stream, void *scratch, size_t scratch_bytes);

#endif
