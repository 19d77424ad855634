/* Convolutions by cuDNN as a plan's library calls: views into a description, the plan of the blob or one made here, and its run. */
#include "executors/cudnn/conv.h"

#include <stdlib.h>

#include "executors/run/library.h"
#include "ir/base/log.h"

/* The plans of one instruction, one for each convolution it was called with (run-time sizes), newest first. None is dropped before the
 * instruction is: a CUDA graph may hold its kernels. */
typedef struct kept_plan { struct kept_plan *next; th_cudnn_conv_plan *plan; } kept_plan;
typedef struct conv_state {
  th_library_state base;
  th_cudnn_handle *handle;
  kept_plan *plans;
} conv_state;

static void release(th_library_state *base) {
  conv_state *state = (conv_state *)base;
  for (kept_plan *p = state->plans, *next; p; p = next) {
    next = p->next;
    th_cudnn_conv_destroy(p->plan);
    free(p);
  }
  free(state);
}

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

static th_status prepare_state(const th_library_args *args, conv_state **out) {
  *out = (conv_state *)*args->state;
  if (*out) return TH_OK;
  conv_state *state = calloc(1, sizeof *state);
  if (!state) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn.conv: no memory for its state");
  state->base.release = release;
  th_status status = th_cudnn_handle_get(args->device, &state->handle);
  if (status) {
    free(state);
    return status;
  }
  *args->state = &state->base;
  *out = state;
  return TH_OK;
}

/* The blob's plan where it fits, else one made here. */
static th_status make_plan(const th_library_args *args, const th_cudnn_conv *c, conv_state *state, th_cudnn_conv_plan **out) {
  char why[1024] = "none came with the program", what[512];
  if (args->blob) {
    th_status status = th_cudnn_conv_read(args->blob, args->blob_size, c, state->handle, NULL, out);
    if (!status) return TH_OK;
    th_status_format(status, why, sizeof why);
    th_status_free(status);
  }
  th_cudnn_conv_format(c, what, sizeof what);
  th_log_level level = args->blob ? TH_LOG_WARNING : TH_LOG_INFO;
  if (level <= th_log_level_get()) th_log_write(level, "cudnn: a plan for %s is made in this process (%s)", what, why);
  return th_cudnn_conv_create(c, state->handle, out);
}

static th_status find_plan(const th_library_args *args, const th_cudnn_conv *c, conv_state **out_state, th_cudnn_conv_plan **out) {
  conv_state *state = (conv_state *)*args->state;
  char what[512];
  for (kept_plan *p = state ? state->plans : NULL; p; p = p->next)
    if (th_cudnn_conv_equal(th_cudnn_conv_of(p->plan), c)) {
      *out_state = state;
      *out = p->plan;
      return TH_OK;
    }
  if (args->capturing) {
    th_cudnn_conv_format(c, what, sizeof what);
    return TH_ERROR(FAILED_PRECONDITION, "cudnn: %s has no plan yet and none can be made while a CUDA graph is captured; run once before", what);
  }
  TH_TRY(prepare_state(args, &state));
  kept_plan *kept = calloc(1, sizeof *kept);
  if (!kept) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn.conv: no memory for a plan");
  th_status status = make_plan(args, c, state, &kept->plan);
  if (status) {
    free(kept);
    return status;
  }
  kept->next = state->plans;
  state->plans = kept;
  *out_state = state;
  *out = kept->plan;
  return TH_OK;
}

static th_status run(const th_library_args *args, th_cudnn_conv_kind kind) {
  th_cudnn_conv c;
  void *data[TH_CUDNN_CONV_TENSORS];
  conv_state *state;
  th_cudnn_conv_plan *plan;
  TH_TRY(describe(args, kind, &c, data));
  TH_TRY(find_plan(args, &c, &state, &plan));
  return th_cudnn_conv_execute(plan, state->handle, data, args->stream, args->scratch, args->scratch_bytes);
}

th_status th_lib_cudnn_conv(const th_library_args *args) { return run(args, TH_CUDNN_CONV); }
th_status th_lib_cudnn_conv_grad_x(const th_library_args *args) { return run(args, TH_CUDNN_CONV_GRAD_X); }
th_status th_lib_cudnn_conv_grad_w(const th_library_args *args) { return run(args, TH_CUDNN_CONV_GRAD_W); }
