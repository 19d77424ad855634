/* Convolutions by cuDNN as a plan's library calls: views into a description, and the run of its plan. */
#include "executors/cudnn/conv.h"

#include "executors/run/cudnn/kept.h"
#include "executors/run/library.h"

static th_status shape_error(const char *what) { return TH_ERROR(INVALID_ARGUMENT, "cudnn.conv: %s", what); }

/* x, w and y among operands and result. */
static th_status describe(const th_library_args *args, th_cudnn_conv_kind kind, th_cudnn_conv *out, void *data[TH_CUDNN_CONV_TENSORS]) {
  if (args->n_operands != 2 || args->n_results != 1 || args->n_ints < 1 || args->ints[0] < 1 || args->ints[0] > 3 || args->n_ints != 3 + 3 * args->ints[0])
    return shape_error("wrong number of operands, results or ints");
  uint32_t n = (uint32_t)args->ints[0];
  const th_view *first = &args->operands[0], *second = &args->operands[1], *result = &args->results[0];
  const th_view *views[TH_CUDNN_CONV_TENSORS] = {kind == TH_CUDNN_CONV_GRAD_X ? result : first, kind == TH_CUDNN_CONV_GRAD_W ? result : second,
                                                 kind == TH_CUDNN_CONV ? result : kind == TH_CUDNN_CONV_GRAD_X ? first : second};
  const int64_t *dims[TH_CUDNN_CONV_TENSORS], *strides[TH_CUDNN_CONV_TENSORS];
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS; t++) {
    if (views[t]->rank != n + 2 || views[t]->dtype != result->dtype) return shape_error("ranks or dtypes do not fit");
    dims[t] = views[t]->dims;
    strides[t] = views[t]->strides;
    data[t] = views[t]->data;
  }
  *out = (th_cudnn_conv){.dtype = result->dtype, .kind = kind, .tf32 = args->ints[2 + 3 * n] != 0, .deterministic = args->deterministic};
  th_cudnn_conv_make(out, n, args->ints + 1, args->ints[1 + 3 * n], dims, strides);
  return TH_OK;
}

static th_status run(const th_library_args *args, th_cudnn_conv_kind kind) {
  th_cudnn_conv c;
  void *data[TH_CUDNN_CONV_TENSORS];
  th_cudnn_handle *handle;
  th_cudnn_plan *plan;
  TH_TRY(describe(args, kind, &c, data));
  TH_TRY(th__cudnn_kept(args, TH_CUDNN_CONVOLUTION, &c, &plan, &handle));
  return th_cudnn_conv_execute(plan, handle, data, args->stream, args->scratch, args->scratch_bytes);
}

th_status th_lib_cudnn_conv(const th_library_args *args) { return run(args, TH_CUDNN_CONV); }
th_status th_lib_cudnn_conv_grad_x(const th_library_args *args) { return run(args, TH_CUDNN_CONV_GRAD_X); }
th_status th_lib_cudnn_conv_grad_w(const th_library_args *args) { return run(args, TH_CUDNN_CONV_GRAD_W); }
