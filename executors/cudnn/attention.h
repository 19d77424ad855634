/* Attention through cuDNN: softmax(scale q k^T) v and its gradients as one operation graph for cuDNN's fused kernels.
 *
 * Tensors, all of one dtype (f16 or bf16) but the log-sum-exp (f32), with strides in elements:
 *   q, dq          (batch, heads, length, size)            out, grad    (batch, heads, length, value_size)
 *   k, dk          (batch, key_heads, keys, size)          v, dv        (batch, key_heads, keys, value_size)
 *   log-sum-exp    (batch, heads, length)                  of each row of scaled, masked scores, base e
 * heads is a multiple of key_heads: neighbouring query heads share a key head. causal: row i sees keys 0 … i, whatever the number of
 * keys (the mask begins at the upper left corner, as torch's is_causal). Threads: as plan.h. */
#ifndef THUNDER_EXECUTORS_CUDNN_ATTENTION_H
#define THUNDER_EXECUTORS_CUDNN_ATTENTION_H

#include "executors/cudnn/plan.h"

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

extern const th_cudnn_kind *const TH_CUDNN_ATTENTION;

/* Puts the work of a plan of an attention on `stream` (CUstream) and does not wait. `data`: device pointers of the caller's tensors, 16-byte aligned; those
 * that the pass does not have are not read. `scratch`: device memory of this call, 256-byte aligned. RESOURCE_EXHAUSTED naming both numbers where it is
 * too small. Also while the stream is captured; a plan's first run should come before. */
th_status th_cudnn_attention_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_STRIDED], float scale, void *stream, void *scratch,
                                     size_t scratch_bytes);

#endif
