/* Convolutions through cuDNN: y = x * w, and the gradients of x and w, each as one operation.
 *
 * Tensors, all of one dtype (f32, f16, bf16), sums in f32, strides in elements:
 *   x (N, C, …)     w (O, C / groups, …)     y (N, O, …)
 * w is not turned around (PyTorch's convolution), padding is the same on both sides. With n spatial dimensions, the tensors of one are given as
 * of two, the first of extent 1.
 *
 * Threads: as plan.h. */
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
 * dimensions of extent 1 mean nothing and are set to what the dense order would have, channels-last where that fits the other tensors.
 * dtype, kind, tf32 and deterministic of *out have to be set before. false: more dimensions. */
bool th_cudnn_conv_make(th_cudnn_conv *out, uint32_t n, const int64_t *numbers, int64_t groups, const int64_t *const dims[TH_CUDNN_CONV_TENSORS],
                        const int64_t *const strides[TH_CUDNN_CONV_TENSORS]);
/* Whether the numbers make a convolution that cuDNN may know (it has the last word). UNIMPLEMENTED or INVALID_ARGUMENT with them. */
th_status th_cudnn_conv_check(const th_cudnn_conv *c);
/* "conv bf16 channels-last, x 32x64x56x56, w 64x64x3x3, y 32x64x56x56, stride 1x1, padding 1x1, dilation 1x1, groups 1"; the length that was wanted. */
size_t th_cudnn_conv_format(const th_cudnn_conv *c, char *buffer, size_t size);
/* The most scratch that a plan of it may ask for, from its sizes: plans that want more are not chosen. */
size_t th_cudnn_conv_scratch_limit(const th_cudnn_conv *c);

extern const th_cudnn_kind *const TH_CUDNN_CONVOLUTION;

/* Puts the work of a plan of a convolution on `stream` and does not wait. As th_cudnn_attention_execute. */
th_status th_cudnn_conv_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_CONV_TENSORS], void *stream, void *scratch, size_t scratch_bytes);

#endif
