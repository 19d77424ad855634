/* Attention by cuDNN as a plan's library call: views into a description, and the run of its plan. */
#include "executors/cudnn/attention.h"

#include "executors/run/cudnn/kept.h"
#include "executors/run/library.h"

static th_status shape_error(const char *what) {
  return TH_ERROR(INVALID_ARGUMENT, "cudnn.attention: %s", what);
}

/* Where each of the tensors is among operands (0 …) and results (8 + …), by th_cudnn_tensor; -1: the pass has none. */
static const int8_t FORWARD[TH_CUDNN_STRIDED] = {0, 1, 2, 8, 9, -1, -1, -1, -1}, BACKWARD[TH_CUDNN_STRIDED] = {0, 1, 2, 3, 4, 5, 8, 9, 10};

static const th_view *view_of(const th_library_args *args, bool backward, int tensor) {
  int at = (backward ? BACKWARD : FORWARD)[tensor];
  return at < 0 ? NULL : at < 8 ? &args->operands[at] : &args->results[at - 8];
}

static th_status describe(const th_library_args *args, bool backward, th_cudnn_attention *out, void *data[TH_CUDNN_STRIDED]) {
  if (args->n_operands != (backward ? 6u : 3u) || args->n_results != (backward ? 3u : 2u) || args->n_ints != 1) return shape_error("wrong number of operands, results or ints");
  const th_view *q = &args->operands[TH_CUDNN_Q], *k = &args->operands[TH_CUDNN_K], *v = &args->operands[TH_CUDNN_V];
  if (q->rank != 4 || k->rank != 4 || v->rank != 4) return shape_error("query, key and value have four dimensions");
  *out = (th_cudnn_attention){.dtype = q->dtype, .backward = backward, .causal = args->ints[0] != 0, .deterministic = args->deterministic, .batch = q->dims[0],
                              .heads = q->dims[1], .key_heads = k->dims[1], .length = q->dims[2], .keys = k->dims[2], .size = q->dims[3], .value_size = v->dims[3]};
  for (int t = 0; t < TH_CUDNN_STRIDED; t++) {
    const th_view *view = view_of(args, backward, t);
    int64_t dims[4];
    data[t] = view ? view->data : NULL;
    if (!view) continue;
    th_cudnn_attention_dims(out, (th_cudnn_tensor)t, dims);
    uint32_t rank = t == TH_CUDNN_LSE ? 3 : 4;
    bool fits = view->rank == rank && view->dtype == (t == TH_CUDNN_LSE ? TH_DTYPE_f32 : q->dtype);
    for (uint32_t i = 0; fits && i < rank; i++) fits = view->dims[i] == dims[i];
    if (!fits) return TH_ERROR(INVALID_ARGUMENT, "cudnn.attention: tensor %d does not fit the query, key and value", t);
    out->strides[t][3] = 1;
    for (uint32_t i = 0; i < rank; i++) out->strides[t][i] = view->strides[i];
  }
  th_cudnn_attention_normalize(out);
  return TH_OK;
}

/* One result (batch, length, heads * size + key heads * (size + value size)): the gradients of q, k and v side by side. */
static th_status unpack(const th_library_args *args, th_view parts[3]) {
  const th_view *whole = &args->results[0];
  int64_t at = 0;
  for (int i = 0; i < 3; i++) {
    const th_view *like = &args->operands[i];
    if (like->rank != 4 || whole->rank != 3 || whole->dims[0] != like->dims[0] || whole->dims[1] != like->dims[2]) return shape_error("the gradients do not fit one result");
    parts[i] = *like;
    parts[i].data = (char *)whole->data + at * (int64_t)th_dtype_size(whole->dtype);
    parts[i].strides[0] = whole->strides[0], parts[i].strides[1] = like->dims[3], parts[i].strides[2] = whole->strides[1], parts[i].strides[3] = 1;
    at += like->dims[1] * like->dims[3];
  }
  return at == whole->dims[2] && whole->strides[2] == 1 ? TH_OK : shape_error("the gradients do not fill one result");
}

static th_status run(const th_library_args *given, bool backward) {
  th_cudnn_attention a;
  void *data[TH_CUDNN_STRIDED];
  th_cudnn_handle *handle;
  th_cudnn_plan *plan;
  th_view parts[3];
  th_library_args copy = *given, *args = &copy;
  if (backward && given->n_results == 1 && given->n_operands == 6) {
    TH_TRY(unpack(given, parts));
    copy.results = parts;
    copy.n_results = 3;
  }
  TH_TRY(describe(args, backward, &a, data));
  if (a.batch == 0 || (a.length == 0 && !backward)) return TH_OK; /* nothing to write */
  TH_TRY(th__cudnn_kept(args, TH_CUDNN_ATTENTION, &a, &plan, &handle));
  return th_cudnn_attention_execute(plan, handle, data, (float)args->alpha, args->stream, args->scratch, args->scratch_bytes);
}

th_status th_lib_cudnn_attention(const th_library_args *args) { return run(args, false); }
th_status th_lib_cudnn_attention_backward(const th_library_args *args) { return run(args, true); }
