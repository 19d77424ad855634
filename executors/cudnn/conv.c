/* A convolution as one operation of cuDNN's, and its plans. */
#include "executors/cudnn/conv.h"

#include <stdio.h>
#include <string.h>

#include "executors/cudnn/engine.h"

/* The numbers of a plan's header: dtype (its wire number), kind, flags (1 TF32, 2 deterministic), n, groups, stride, padding, dilation, 3 x 5 extents, 3 x 5 strides. */
enum { TENSOR_NUMBERS = TH_CUDNN_CONV_TENSORS * TH_CUDNN_CONV_RANK, NUMBERS = 5 + 9 + 2 * TENSOR_NUMBERS };
_Static_assert((int)NUMBERS <= (int)TH__CUDNN_NUMBERS && sizeof(th_cudnn_conv) <= TH__CUDNN_WHAT, "engine.h has room");

/* ---- descriptions ---- */

/* Dense strides of the order (N, C, …) or (N, …, C). */
static void dense(uint32_t rank, const int64_t *dims, bool last, int64_t *out) {
  int64_t n = 1;
  if (last) out[1] = n, n *= dims[1];
  for (uint32_t i = rank; i-- > 0;)
    if (i != 1 || !last) out[i] = n, n *= dims[i];
}

static bool fits(uint32_t rank, const int64_t *dims, const int64_t *strides, bool last) {
  int64_t want[TH_CUDNN_CONV_RANK];
  dense(rank, dims, last, want);
  for (uint32_t i = 0; i < rank; i++)
    if (dims[i] != 1 && strides[i] != want[i]) return false;
  return true;
}

/* The order of the tensor that has only one, the largest first asked. */
static bool is_last(const th_cudnn_conv *c) {
  static const th_cudnn_conv_tensor order[] = {TH_CUDNN_X, TH_CUDNN_Y, TH_CUDNN_W};
  for (int i = 0; i < 3; i++) {
    const int64_t *d = c->dims[order[i]], *s = c->strides[order[i]];
    bool last = fits(c->n + 2, d, s, true), first = fits(c->n + 2, d, s, false);
    if (last != first) return last;
  }
  return false;
}

static void normalize(th_cudnn_conv *c) {
  bool last = is_last(c);
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS; t++) {
    int64_t *s = c->strides[t], want[TH_CUDNN_CONV_RANK];
    bool other = !fits(c->n + 2, c->dims[t], s, last);
    dense(c->n + 2, c->dims[t], last != other, want);
    for (uint32_t i = 0; i < c->n + 2; i++)
      if (c->dims[t][i] == 1 || !other) s[i] = want[i];
  }
}

bool th_cudnn_conv_make(th_cudnn_conv *c, uint32_t n, const int64_t *numbers, int64_t groups, const int64_t *const dims[TH_CUDNN_CONV_TENSORS],
                        const int64_t *const strides[TH_CUDNN_CONV_TENSORS]) {
  if (n < 1 || n > 3) return false;
  uint32_t more = n == 1;
  *c = (th_cudnn_conv){.dtype = c->dtype, .kind = c->kind, .tf32 = c->tf32 && c->dtype == TH_DTYPE_f32, .deterministic = c->deterministic, .n = n + more, .groups = groups,
                       .stride = {1}, .padding = {0}, .dilation = {1}};
  for (uint32_t i = 0; i < n; i++) c->stride[i + more] = numbers[i], c->padding[i + more] = numbers[n + i], c->dilation[i + more] = numbers[2 * n + i];
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS; t++) {
    if (more) c->dims[t][2] = 1;
    for (uint32_t i = 0; i < n + 2; i++) {
      uint32_t to = i < 2 ? i : i + more;
      c->dims[t][to] = dims[t][i];
      c->strides[t][to] = strides[t][i];
    }
  }
  normalize(c);
  return true;
}

static void put(const void *what, int64_t *out) {
  const th_cudnn_conv *c = what;
  int64_t head[5] = {th_dtype_to_wire(c->dtype), c->kind, c->tf32 + 2 * c->deterministic, c->n, c->groups};
  memcpy(out, head, sizeof head);
  memcpy(out + 5, c->stride, sizeof c->stride);
  memcpy(out + 8, c->padding, sizeof c->padding);
  memcpy(out + 11, c->dilation, sizeof c->dilation);
  memcpy(out + 14, c->dims, sizeof c->dims);
  memcpy(out + 14 + TENSOR_NUMBERS, c->strides, sizeof c->strides);
}

static void get(const int64_t *in, void *what) {
  th_cudnn_conv *c = what;
  *c = (th_cudnn_conv){.dtype = in[0] >= 0 && in[0] < 256 ? th_dtype_from_wire((int)in[0]) : TH_DTYPE_none, .kind = in[1] >= 0 && in[1] < TH_CUDNN_CONV_KINDS ? (th_cudnn_conv_kind)in[1] : TH_CUDNN_CONV,
                       .tf32 = in[2] & 1, .deterministic = in[2] >> 1 & 1, .n = in[3] == 3 ? 3 : 2, .groups = in[4]};
  memcpy(c->stride, in + 5, sizeof c->stride);
  memcpy(c->padding, in + 8, sizeof c->padding);
  memcpy(c->dilation, in + 11, sizeof c->dilation);
  memcpy(c->dims, in + 14, sizeof c->dims);
  memcpy(c->strides, in + 14 + TENSOR_NUMBERS, sizeof c->strides);
}

static const char *const KINDS[] = {"conv", "conv_grad_x", "conv_grad_w"};

static size_t list(char *buffer, size_t size, const char *before, const int64_t *numbers, uint32_t n) {
  size_t at = (size_t)snprintf(buffer, size, "%s", before);
  for (uint32_t i = 0; i < n; i++) at += (size_t)snprintf(at < size ? buffer + at : NULL, at < size ? size - at : 0, "%s%lld", i ? "x" : "", (long long)numbers[i]);
  return at;
}

size_t th_cudnn_conv_format(const th_cudnn_conv *c, char *buffer, size_t size) {
  const struct { const char *before; const int64_t *numbers; uint32_t n; } parts[] = {
      {", x ", c->dims[TH_CUDNN_X], c->n + 2}, {", w ", c->dims[TH_CUDNN_W], c->n + 2}, {", y ", c->dims[TH_CUDNN_Y], c->n + 2}, {", stride ", c->stride, c->n},
      {", padding ", c->padding, c->n},        {", dilation ", c->dilation, c->n},      {", groups ", &c->groups, 1}};
  size_t at = (size_t)snprintf(buffer, size, "%s %s%s%s%s", KINDS[c->kind], th_dtype_name(c->dtype), c->tf32 ? " in tf32" : "", is_last(c) ? " channels-last" : "",
                               c->deterministic ? " deterministic" : "");
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) at += list(at < size ? buffer + at : NULL, at < size ? size - at : 0, parts[i].before, parts[i].numbers, parts[i].n);
  return at;
}

th_status th_cudnn_conv_check(const th_cudnn_conv *c) {
  const int64_t *x = c->dims[TH_CUDNN_X], *w = c->dims[TH_CUDNN_W], *y = c->dims[TH_CUDNN_Y];
  char text[512];
  th_cudnn_conv_format(c, text, sizeof text);
  if (c->dtype != TH_DTYPE_f32 && c->dtype != TH_DTYPE_f16 && c->dtype != TH_DTYPE_bf16) return TH_ERROR(UNIMPLEMENTED, "cudnn conv: of f32, f16 and bf16, not of %s", th_dtype_name(c->dtype));
  bool fine = (c->n == 2 || c->n == 3) && c->groups >= 1 && x[0] == y[0] && w[0] == y[1] && w[1] * c->groups == x[1] && w[0] % c->groups == 0;
  for (uint32_t i = 0; fine && i < c->n; i++) {
    int64_t span = c->dilation[i] * (w[2 + i] - 1) + 1, room = x[2 + i] + 2 * c->padding[i] - span;
    fine = c->stride[i] >= 1 && c->dilation[i] >= 1 && c->padding[i] >= 0 && room >= 0 && y[2 + i] == room / c->stride[i] + 1;
  }
  if (!fine) return TH_ERROR(INVALID_ARGUMENT, "cudnn: %s: the sizes do not fit one another", text);
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS; t++)
    for (uint32_t i = 0; i < c->n + 2; i++)
      if (c->dims[t][i] < 1 || c->dims[t][i] > INT32_MAX || c->strides[t][i] < 1)
        return TH_ERROR(UNIMPLEMENTED, "cudnn: %s: every extent is from 1 to 2^31 - 1 and no stride below 1", text);
  return TH_OK;
}

size_t th_cudnn_conv_scratch_limit(const th_cudnn_conv *c) {
  enum { LEAST = 4 << 20, MOST = 64 << 20 };
  size_t total = 0; /* twice the tensors: a copy of each in another layout fits */
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS; t++) {
    size_t n = 2 * th_dtype_size(c->dtype);
    for (uint32_t i = 0; i < c->n + 2; i++)
      if (__builtin_mul_overflow(n, (size_t)c->dims[t][i], &n)) return MOST;
    if (__builtin_add_overflow(total, n, &total)) return MOST;
  }
  return total < LEAST ? LEAST : total > MOST ? MOST : (total + 255) & ~(size_t)255;
}

/* ---- the operation ---- */

static cudnnBackendDescriptor_t tensor(th__cudnn_pool *pool, const th_cudnn_conv *c, th_cudnn_conv_tensor which) {
  static const int64_t alignment = 16;
  int64_t id = which + 1;
  cudnnBackendDescriptor_t d = th__cudnn_make(pool, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  th__cudnn_set_int(pool, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, c->dtype == TH_DTYPE_f32 ? CUDNN_DATA_FLOAT : c->dtype == TH_DTYPE_f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16);
  th__cudnn_set(pool, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, c->n + 2, c->dims[which]);
  th__cudnn_set(pool, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, c->n + 2, c->strides[which]);
  th__cudnn_set(pool, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  th__cudnn_set(pool, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  th__cudnn_finish(pool, d);
  return d;
}

typedef struct operation { int type, conv, x, w, y, alpha, beta; } operation; /* cuDNN's names of one kind's attributes */
static const operation OPERATIONS[TH_CUDNN_CONV_KINDS] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

static cudnnBackendDescriptor_t graph_of(th__cudnn_pool *pool, const void *what, cudnnHandle_t handle) {
  static const float one = 1, zero = 0;
  const th_cudnn_conv *c = what;
  const operation *o = &OPERATIONS[c->kind];
  const int64_t n = c->n;
  cudnnBackendDescriptor_t conv = th__cudnn_make(pool, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  th__cudnn_set_int(pool, conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  th__cudnn_set_int(pool, conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION);
  th__cudnn_set(pool, conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &n);
  th__cudnn_set(pool, conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, n, c->stride);
  th__cudnn_set(pool, conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, n, c->padding);
  th__cudnn_set(pool, conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, n, c->padding);
  th__cudnn_set(pool, conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, n, c->dilation);
  th__cudnn_finish(pool, conv);
  cudnnBackendDescriptor_t x = tensor(pool, c, TH_CUDNN_X), w = tensor(pool, c, TH_CUDNN_W), y = tensor(pool, c, TH_CUDNN_Y);
  cudnnBackendDescriptor_t made = th__cudnn_make(pool, o->type);
  th__cudnn_set_descriptor(pool, made, o->conv, conv);
  th__cudnn_set_descriptor(pool, made, o->x, x);
  th__cudnn_set_descriptor(pool, made, o->w, w);
  th__cudnn_set_descriptor(pool, made, o->y, y);
  th__cudnn_set(pool, made, o->alpha, CUDNN_TYPE_FLOAT, 1, &one);
  th__cudnn_set(pool, made, o->beta, CUDNN_TYPE_FLOAT, 1, &zero);
  th__cudnn_finish(pool, made);
  cudnnBackendDescriptor_t whole = th__cudnn_make(pool, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (handle) th__cudnn_set(pool, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  th__cudnn_set_descriptor(pool, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, made);
  th__cudnn_finish(pool, whole);
  return pool->status ? NULL : whole;
}

/* ---- plans ---- */

static th__cudnn_rules rules(const void *what) {
  const th_cudnn_conv *c = what;
  th__cudnn_rules rules = {.workspace = (int64_t)th_cudnn_conv_scratch_limit(c)};
  if (c->dtype == TH_DTYPE_f32) rules.refused |= 1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
  if (c->dtype == TH_DTYPE_f32 && !c->tf32) rules.refused |= 1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
  if (c->deterministic) rules.refused |= 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
  return rules;
}

static size_t text_of(const void *what, char *buffer, size_t size) { return th_cudnn_conv_format(what, buffer, size); }
static th_status check(const void *what, uint32_t version) { return (void)version, th_cudnn_conv_check(what); }
static size_t scratch_of(const void *what, int64_t workspace) { return (void)what, ((size_t)workspace + 255) & ~(size_t)255; }

static const th_cudnn_kind KIND = {.format = {"THCUCNV\n", 1, NUMBERS}, .bytes = sizeof(th_cudnn_conv), .put = put, .get = get, .text = text_of, .check = check, .rules = rules,
                                   .graph = graph_of, .scratch = scratch_of};
const th_cudnn_kind *const TH_CUDNN_CONVOLUTION = &KIND;

th_status th_cudnn_conv_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_CONV_TENSORS], void *stream, void *scratch, size_t scratch_bytes) {
  static const int64_t ids[TH_CUDNN_CONV_TENSORS] = {TH_CUDNN_X + 1, TH_CUDNN_W + 1, TH_CUDNN_Y + 1};
  size_t wanted = th_cudnn_plan_scratch_bytes(plan);
  char text[512];
  th_status status = TH_OK;
  if (scratch_bytes < wanted || (wanted && !scratch)) status = TH_ERROR(RESOURCE_EXHAUSTED, "it needs %zu bytes of scratch and has %zu", wanted, scratch_bytes);
  for (int t = 0; t < TH_CUDNN_CONV_TENSORS && !status; t++)
    if (!data[t] || (uintptr_t)data[t] % 16) status = TH_ERROR(INVALID_ARGUMENT, "tensor %d lies at %p, which is not a multiple of 16", t, data[t]);
  if (!status) status = th__cudnn_run(handle, &plan->made, &plan->pack, ids, data, TH_CUDNN_CONV_TENSORS, scratch, stream);
  if (!status) return TH_OK;
  th_cudnn_format(plan->kind, plan->what.bytes, text, sizeof text);
  return th_status_prefix(status, "cudnn: %s", text);
}
