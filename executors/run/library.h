/* The functions a plan's library calls name. Operands and results are strided views of any layout; what a vendor library
 * cannot walk is packed here. ints:
 *   dot          n_batch n_contract | lhs_batch rhs_batch lhs_contract rhs_contract
 *                results: batch, free dimensions of lhs, free dimensions of rhs
 *   conv, conv_grad_x, conv_grad_w
 *                n | stride padding dilation (n each) | groups      operands as the prims in ir/ops.def
 *   attention    causal; alpha: factor on the scores      q (batch, heads, length, size), k, v (batch, key heads, keys, size);
 *                results: out, log-sum-exp of each row of scores (batch, heads, length)
 *   attention_backward   the same; operands q, k, v, out, log-sum-exp, gradient of out; results: gradients of q, k, v
 * f32, f64; bf16 through f32, attention not.
 * Functions of plans for CUDA (executors/run/cuda and the vendor rooms beside it):
 *   cublaslt.matmul   as dot, then an epilogue (enum th_matmul_epilogue) and whether TF32 is allowed; alpha. The result may be
 *                wider than the operands (bf16 in, f32 out). Further operands and results as the epilogue says
 *   cudnn.attention, cudnn.attention_backward   as attention; f16, bf16; log-sum-exp in f32; blob: the plan, or none; scratch as
 *                th_cudnn_scratch_bytes says. Once for each attention before a graph is captured (executors/cudnn/attention.h)
 *   cudnn.conv, cudnn.conv_grad_x, cudnn.conv_grad_w   as conv, then whether TF32 is allowed; f32, f16, bf16, up to three spatial dimensions;
 *                channels-last or not, as the views say; blob: the plan, or none; scratch as th_cudnn_conv_scratch_limit says (executors/cudnn/conv.h)
 * Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_LIBRARY_H
#define THUNDER_EXECUTORS_RUN_LIBRARY_H

#include <stdbool.h>

#include "executors/run/kernel.h"
#include "ir/base/dtype.h"
#include "ir/base/status.h"

enum { TH_RUN_RANK = 24 };

/* What cublaslt.matmul does with each product P (rows: free dimensions of lhs; columns: free dimensions of rhs). gelu is the tanh form. */
typedef enum th_matmul_epilogue {
  TH_EPILOGUE_NONE,
  TH_EPILOGUE_BIAS,        /* operand 2: bias of a column;              result 0: P + bias */
  TH_EPILOGUE_GELU,        /*                                           result 0: gelu(P), result 1: P */
  TH_EPILOGUE_BIAS_GELU,   /* operand 2: bias;                          result 0: gelu(P + bias), result 1: P + bias */
  TH_EPILOGUE_DGELU,       /* operand 2: x, shaped as P;                result 0: P gelu'(x) */
  TH_EPILOGUE_DGELU_SUM,   /* operand 2: x;                             result 0: P gelu'(x), result 1: its sum over the rows */
  TH_EPILOGUE_ADD,         /* operand 2: c, shaped as P, of result 0's dtype; result 0: P + c. May be c's memory, lying alike */
  TH_EPILOGUE_LHS_SUM,     /* result 0: P; result 1: sum of lhs over the contracted dimension (a bias gradient beside a weight gradient) */
  TH_EPILOGUE_COUNT
} th_matmul_epilogue;

typedef struct th_view { /* a typed, strided window */
  void *data;
  th_dtype dtype;
  uint32_t rank;
  int64_t dims[TH_RUN_RANK], strides[TH_RUN_RANK]; /* strides in elements */
} th_view;

/* What a function keeps for one instruction of a plan from call to call (descriptors, a chosen algorithm). */
typedef struct th_library_state th_library_state;
struct th_library_state { void (*release)(th_library_state *state); };

typedef struct th_library_args {
  const th_view *operands, *results;
  uint32_t n_operands, n_results, n_ints;
  const int64_t *ints;
  double alpha, beta;
  const th_kernel_context *context;
  /* Of plans for a device; NULL and 0 on the host. */
  void *stream;               /* CUstream: the work is put there and nothing waits for it */
  int32_t device;             /* its number; its primary context is current */
  void *scratch;              /* device memory, 256-byte aligned, for this call alone */
  size_t scratch_bytes;
  const uint8_t *blob;        /* what the compile half prepared, or NULL */
  size_t blob_size;
  bool capturing;             /* into a CUDA graph: no synchronization, no timing, no allocation */
  bool deterministic;
  th_library_state **state;   /* of this instruction; *state is NULL at first. One call at a time. */
} th_library_args;

typedef th_status (*th_library_fn)(const th_library_args *args);
/* NULL: there is none. A name with a dot is a function of plans for a device, one without of plans for the host. */
th_library_fn th_library_find(const char *name);
/* One more function, found before those that are linked in; `name` must live on. Before plans are loaded, by one thread. */
th_status th_library_add(const char *name, th_library_fn fn);

th_status th_lib_dot(const th_library_args *args);
th_status th_lib_conv(const th_library_args *args);
th_status th_lib_conv_grad_x(const th_library_args *args);
th_status th_lib_conv_grad_w(const th_library_args *args);
th_status th_lib_attention(const th_library_args *args);
th_status th_lib_attention_backward(const th_library_args *args);
th_status th_lib_cublaslt_matmul(const th_library_args *args);          /* cublaslt/matmul.c */
th_status th_lib_cudnn_attention(const th_library_args *args);          /* cudnn/attention.c */
th_status th_lib_cudnn_attention_backward(const th_library_args *args);
th_status th_lib_cudnn_conv(const th_library_args *args);               /* cudnn/conv.c */
th_status th_lib_cudnn_conv_grad_x(const th_library_args *args);
th_status th_lib_cudnn_conv_grad_w(const th_library_args *args);

/* Copies elements of `from` to `to` (equal dims; dtypes equal, or both floats of f32, bf16, f64). */
void th_view_copy(const th_view *from, const th_view *to, int32_t threads);
int64_t th_view_numel(const th_view *view);
/* A row-major f32/f64 copy of `view` (bf16 widens to f32) in malloc'ed memory. */
th_status th_view_pack(const th_view *view, int32_t threads, th_view *out);

/* C = A B for matrices in row-major order (leading dimensions lda, …; a transposed operand is stored so), `batch` times with
 * the pointers given. f32 or f64. */
typedef struct th_gemm {
  th_dtype dtype;
  bool trans_a, trans_b;
  int64_t m, n, k, lda, ldb, ldc, batch;
  const void *const *a, *const *b;
  void *const *c;
  double alpha, beta;
} th_gemm;
th_status th_gemm_run(const th_gemm *gemm);
/* From here on the calling thread's products use `threads` threads (0: as many as the library likes), where the library can
 * be told so for one thread; returns what it was. Around parallel regions that call th_gemm_run in each thread. */
int th_gemm_threads(int threads);
/* The library th_gemm_run uses: "mkl (torch)", "openblas"; or the error. */
th_status th_gemm_name(const char **out);

#endif
