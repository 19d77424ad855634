#include "executors/cudnn/cudnn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/attention.h"
#include "executors/cudnn/conv.h"
#include "ir/base/log.h"
#include "ir/passes/plan.h"

static const char *stub;
void th_cudnn_set_stub(const char *path) { stub = path; }

/* cuDNN's version in the rank, as its number; 0: the rank has none. */
static uint32_t version_of(const th_options *options) {
  unsigned major, minor, patch;
  for (uint32_t i = 0; i < options->target.n_libraries; i++)
    if (sscanf(options->target.libraries[i], "cudnn=%u.%u.%u", &major, &minor, &patch) == 3) return major * 10000 + minor * 100 + patch;
  return 0;
}

static bool is_backward(const th_op *op) { return op->kind == TH_OP_torch_sdpa_backward; }

/* The gradients of q, k and v are parts of the one result. */
static bool is_packed(const th_op *op, bool backward) { return backward && op->n_results == 1; }

/* The tensors' values: q, k, v, out, lse, grad, dq, dk, dv; operands and results of a library op, or operands alone of a composite. */
static void values_of(const th_op *op, bool backward, th_value out[TH_CUDNN_STRIDED]) {
  for (int i = 0; i < TH_CUDNN_STRIDED; i++) out[i] = TH_NO_VALUE;
  for (uint32_t i = 0; i < (backward ? 6u : 3u); i++) out[i] = op->operands[i];
  for (uint32_t i = 0; i < op->n_results && !is_packed(op, backward); i++) out[(backward ? TH_CUDNN_DQ : TH_CUDNN_OUT) + i] = op->result + i;
}

static bool constant(th_context *c, th_dim dim, int64_t *out) { return th_dim_is_const(c, dim, out); }

/* What the op is for cuDNN; `laid`: with the strides that stand on its values, else as if all were row-major. */
static bool describe(const th_options *options, const th_trace *t, const th_op *op, bool backward, bool causal, bool laid, th_cudnn_attention *out) {
  th_context *c = t->context;
  th_value v[TH_CUDNN_STRIDED];
  values_of(op, backward, v);
  const th_type *q = th_type_of(t, v[TH_CUDNN_Q]), *k = th_type_of(t, v[TH_CUDNN_K]), *value = th_type_of(t, v[TH_CUDNN_V]);
  if (q->rank != 4 || k->rank != 4 || value->rank != 4) return false;
  th_cudnn_attention a = {.dtype = q->dtype, .backward = backward, .causal = causal, .deterministic = options->deterministic};
  if (!constant(c, q->dims[0], &a.batch) || !constant(c, q->dims[1], &a.heads) || !constant(c, k->dims[1], &a.key_heads) || !constant(c, q->dims[2], &a.length) ||
      !constant(c, k->dims[2], &a.keys) || !constant(c, q->dims[3], &a.size) || !constant(c, value->dims[3], &a.value_size))
    return false;
  for (int i = 0; i < TH_CUDNN_STRIDED; i++) {
    if (v[i] == TH_NO_VALUE) continue;
    const th_type *type = th_type_of(t, v[i]);
    const th_dim *strides = laid ? t->values[v[i]].strides : th_contiguous_strides(c, type->dims, type->rank);
    if (type->dtype != (i == TH_CUDNN_LSE ? TH_DTYPE_f32 : a.dtype)) return false;
    for (uint32_t d = 0; d < type->rank; d++)
      if (!constant(c, strides[d], &a.strides[i][d])) return false;
    if (i == TH_CUDNN_LSE) a.strides[i][3] = 1;
  }
  if (laid && is_packed(op, backward)) { /* (batch, length, heads * size): rows of it are rows of all heads */
    int64_t rows[2];
    for (int i = 0; i < 2; i++)
      if (!constant(c, t->values[op->result].strides[i], &rows[i])) return false;
    for (int i = TH_CUDNN_DQ; i <= TH_CUDNN_DV; i++) {
      int64_t each = i == TH_CUDNN_DV ? a.value_size : a.size;
      a.strides[i][0] = rows[0], a.strides[i][1] = each, a.strides[i][2] = rows[1], a.strides[i][3] = 1;
    }
  }
  if (backward && !laid) { /* of a composite: results are of their operands' shapes */
    memcpy(a.strides[TH_CUDNN_DQ], a.strides[TH_CUDNN_Q], sizeof a.strides[0]);
    memcpy(a.strides[TH_CUDNN_DK], a.strides[TH_CUDNN_K], sizeof a.strides[0]);
    memcpy(a.strides[TH_CUDNN_DV], a.strides[TH_CUDNN_V], sizeof a.strides[0]);
  }
  th_cudnn_attention_normalize(&a);
  *out = a;
  return true;
}

static bool claims(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  bool back = is_backward(op);
  th_context *c = t->context;
  uint32_t version = version_of(options);
  th_cudnn_attention a;
  if ((op->kind != TH_OP_torch_sdpa && !back) || !version) return false;
  if (op->operands[back ? 6 : 3] != TH_NO_VALUE || (!back && th_attr_float(c, op, "dropout_p") != 0)) return false;
  const th_type *q = th_type_of(t, op->operands[0]), *k = th_type_of(t, op->operands[1]), *v = th_type_of(t, op->operands[2]);
  if (q->rank != 4 || k->rank != 4 || v->rank != 4 || q->dims[0] != k->dims[0] || q->dims[0] != v->dims[0] || k->dims[1] != v->dims[1] || k->dims[2] != v->dims[2] || q->dims[3] != k->dims[3]) return false;
  if (!describe(options, t, op, back, th_attr_bool(op, "is_causal"), false, &a)) return false;
  if (a.heads != a.key_heads && !back && !th_attr_bool(op, "enable_gqa")) return false;
  th_status status = th_cudnn_attention_check(&a, version);
  if (status) { /* left to the other executors */
    th_status_free(status);
    return false;
  }
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 1);
  ints[0] = th_dim_const(c, a.causal);
  double scale = !th_attr_absent(op, "scale") ? th_attr_float(c, op, "scale") : 1 / sqrt((double)a.size);
  *out = (th_library_call){.function = back ? "cudnn.attention_backward" : "cudnn.attention", .n_ints = 1, .ints = ints, .alpha = scale};
  return true;
}

/* How a gradient of (batch, heads, length, size) goes into a part of (batch, length, all heads * size): transpose, reshape, pad. The part's
 * first column; -1 where it does not. */
static int64_t packs(const th_trace *t, const th_users *users, th_value gradient, th_absorbed *s, const th_op **out_pad) {
  static const int64_t order[] = {0, 2, 1, 3};
  th_context *c = t->context;
  int64_t low = -1;
  const th_op *turned = th_only_reader(users, gradient), *flat = turned && turned->kind == TH_OP_transpose ? th_only_reader(users, turned->result) : NULL;
  const th_op *pad = flat && flat->kind == TH_OP_reshape && th_type_of(t, flat->result)->rank == 3 ? th_only_reader(users, flat->result) : NULL;
  if (!pad || pad->kind != TH_OP_pad || pad->operands[0] != flat->result) return -1;
  for (int i = 0; i < 4; i++)
    if (!th_dim_is(c, th_attr_get(turned, "permutation")->ints[i], order[i])) return -1;
  for (int i = 0; i < 3; i++) {
    if (!th_dim_is(c, th_attr_get(pad, "interior")->ints[i], 0)) return -1;
    if (i < 2 && (!th_dim_is(c, th_attr_get(pad, "low")->ints[i], 0) || !th_dim_is(c, th_attr_get(pad, "high")->ints[i], 0))) return -1;
  }
  if (!th_dim_is_const(c, th_attr_get(pad, "low")->ints[2], &low) || t->values[pad->operands[1]].def->kind != TH_OP_const || th_attr_float(c, t->values[pad->operands[1]].def, "value") != 0) return -1;
  s->ops[s->n_ops++] = turned;
  s->ops[s->n_ops++] = flat;
  s->ops[s->n_ops++] = pad;
  *out_pad = pad;
  return low;
}

/* The gradient of attention whose q, k and v are parts of one product: written into the gradient of that product, with no copy. */
static bool absorbs(const th_options *options, const th_trace *t, const th_users *users, const th_op *seed, th_absorbed *out) {
  th_library_call call;
  th_cudnn_attention a;
  const th_op *pads[3];
  if (!is_backward(seed) || !claims(options, t, seed, &call) || !describe(options, t, seed, true, false, false, &a)) return false;
  *out = (th_absorbed){.n_operands = 6, .n_ops = 1, .ops = {seed}};
  int64_t begin[3], wide[3] = {a.heads * a.size, a.key_heads * a.size, a.key_heads * a.value_size};
  for (int i = 0; i < 3; i++)
    if ((begin[i] = packs(t, users, seed->result + (th_value)i, out, &pads[i])) < 0) return false;
  const th_op *inner = NULL, *sum = NULL; /* of two, of all */
  for (int i = 0; i < 3; i++) {
    const th_op *reader = th_only_reader(users, pads[i]->result), *next = reader && reader->kind == TH_OP_add ? th_only_reader(users, reader->result) : NULL;
    if (!reader || reader->kind != TH_OP_add) return false;
    if (next && next->kind == TH_OP_add && next != reader && !inner) inner = reader, sum = next;
  }
  if (!inner) return false;
  for (int i = 0; i < 3; i++)
    if (th_only_reader(users, pads[i]->result) != inner && th_only_reader(users, pads[i]->result) != sum) return false;
  int64_t total;
  const th_type *whole = th_type_of(t, sum->result);
  if (!th_dim_is_const(t->context, whole->dims[2], &total) || begin[0] != 0 || begin[1] != wide[0] || begin[2] != wide[0] + wide[1] || total != wide[0] + wide[1] + wide[2]) return false;
  out->ops[out->n_ops++] = inner;
  out->ops[out->n_ops++] = sum;
  for (uint32_t i = 0; i < 6; i++) out->operands[i] = seed->operands[i];
  out->results[out->n_results++] = sum->result;
  out->call = call;
  return true;
}

static bool library_takes(const th_trace *t, const th_op *op, uint32_t operand, const th_dim *strides) {
  const th_type *type = th_type_of(t, op->operands[operand]);
  if (type->rank == 3) return th_strides_contiguous(t->context, type, strides); /* log-sum-exp */
  for (uint32_t i = 0; i + 1 < type->rank; i++)
    if (!th_dim_is(t->context, type->dims[i], 1) && (!th_dim_divisible(t->context, strides[i], 8) || th_dim_is(t->context, strides[i], 0))) return false;
  return th_dim_is(t->context, strides[type->rank - 1], 1) || th_dim_is(t->context, type->dims[type->rank - 1], 1);
}

/* ---- convolutions ---- */

/* The prim in a library op's body; NULL where it is no convolution. */
static const th_op *conv_in(const th_trace *t, const th_op *op) {
  const th_op *inner = t->graphs[th_attr_get(op, "body")->graph]->ops[0];
  return inner->kind == TH_OP_conv || inner->kind == TH_OP_conv_grad_x || inner->kind == TH_OP_conv_grad_w ? inner : NULL;
}

static th_cudnn_conv_kind kind_of(th_op_kind kind) { return kind == TH_OP_conv ? TH_CUDNN_CONV : kind == TH_OP_conv_grad_x ? TH_CUDNN_CONV_GRAD_X : TH_CUDNN_CONV_GRAD_W; }

/* (N, C, …) in the order N, …, C; `v`'s type. */
static const th_dim *channels_last(th_context *c, const th_type *type) {
  th_dim *out = TH_ARENA_ARRAY(th_context_arena(c), th_dim, type->rank), n = type->dims[1];
  out[1] = th_dim_const(c, 1);
  for (uint32_t i = type->rank; i-- > 0;)
    if (i != 1) out[i] = n, n = th_dim_mul(c, n, type->dims[i]);
  return out;
}

/* The convolution `prim` of values that are `operands` and `result` in `t`; `laid`: as they lie there, else row-major. */
static bool describe_conv(const th_options *options, const th_trace *t, const th_op *prim, const th_value *operands, th_value result, bool laid, th_cudnn_conv *out) {
  static const char *const lists[] = {"stride", "padding", "dilation"};
  th_context *c = t->context;
  th_cudnn_conv_kind kind = kind_of(prim->kind);
  th_value values[TH_CUDNN_CONV_TENSORS] = {kind == TH_CUDNN_CONV_GRAD_X ? result : operands[0], kind == TH_CUDNN_CONV_GRAD_W ? result : operands[1],
                                            kind == TH_CUDNN_CONV ? result : operands[kind == TH_CUDNN_CONV_GRAD_W]};
  int64_t numbers[9], groups, dims[TH_CUDNN_CONV_TENSORS][TH_CUDNN_CONV_RANK], strides[TH_CUDNN_CONV_TENSORS][TH_CUDNN_CONV_RANK];
  const int64_t *d[TH_CUDNN_CONV_TENSORS] = {dims[0], dims[1], dims[2]}, *s[TH_CUDNN_CONV_TENSORS] = {strides[0], strides[1], strides[2]};
  uint32_t n = th_attr_get(prim, "stride")->count;
  if (n < 1 || n > 3 || !constant(c, th_attr_get(prim, "groups")->i, &groups)) return false;
  for (uint32_t k = 0; k < 3; k++)
    for (uint32_t i = 0; i < n; i++)
      if (!constant(c, th_attr_get(prim, lists[k])->ints[i], &numbers[k * n + i])) return false;
  for (int k = 0; k < TH_CUDNN_CONV_TENSORS; k++) {
    const th_type *type = th_type_of(t, values[k]);
    const th_dim *lie = laid ? t->values[values[k]].strides : th_contiguous_strides(c, type->dims, type->rank);
    if (type->dtype != th_type_of(t, result)->dtype || type->rank != n + 2) return false;
    for (uint32_t i = 0; i < n + 2; i++)
      if (!constant(c, type->dims[i], &dims[k][i]) || !constant(c, lie[i], &strides[k][i])) return false;
  }
  *out = (th_cudnn_conv){.dtype = th_type_of(t, result)->dtype, .kind = kind, .tf32 = options->tf32, .deterministic = options->deterministic};
  return th_cudnn_conv_make(out, n, numbers, groups, d, s);
}

/* The ints stand in executors/run/library.h. */
static bool library(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  static const char *const functions[] = {"cudnn.conv", "cudnn.conv_grad_x", "cudnn.conv_grad_w"};
  th_context *c = t->context;
  th_cudnn_conv conv;
  if ((op->kind != TH_OP_conv && op->kind != TH_OP_conv_grad_x && op->kind != TH_OP_conv_grad_w) || !version_of(options)) return false;
  if (!describe_conv(options, t, op, op->operands, op->result, false, &conv)) return false;
  th_status status = th_cudnn_conv_check(&conv);
  if (status) {
    th_status_free(status);
    return false;
  }
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 3 + 3 * 3), *at = ints;
  *at++ = th_dim_const(c, th_attr_get(op, "stride")->count);
  at = th_append_ints(th_append_ints(th_append_ints(at, th_attr_get(op, "stride")), th_attr_get(op, "padding")), th_attr_get(op, "dilation"));
  *at++ = th_attr_get(op, "groups")->i;
  *at++ = th_dim_const(c, conv.tf32);
  *out = (th_library_call){.function = functions[conv.kind], .ints = ints, .n_ints = (uint32_t)(at - ints), .alpha = 1, .beta = 0};
  return true;
}

static bool is_channels_last(const th_options *options, const th_trace *t, const th_op *op) {
  th_dtype d = th_type_of(t, op->result)->dtype;
  return version_of(options) && (op->kind == TH_OP_conv || op->kind == TH_OP_conv_grad_x || op->kind == TH_OP_conv_grad_w) && th_type_of(t, op->result)->rank >= 4 && (d != TH_DTYPE_f32 || options->tf32);
}

/* All tensors of a convolution lie in one order: channels last where tensor cores compute (cuDNN has no others for them, and turns
 * what lies otherwise around), else as the larger operand does. */
static bool lay(const th_options *options, const th_trace *t, const th_op *op, const th_dim **operands, const th_dim **results) {
  const th_op *prim = conv_in(t, op);
  th_context *c = t->context;
  if (!prim) return false;
  const th_type *first = th_type_of(t, op->operands[0]);
  bool last = is_channels_last(options, t, prim);
  if (!last) last = th_strides_equal(c, first->dims, first->rank, operands[0], channels_last(c, first)) && !th_strides_contiguous(c, first, operands[0]);
  for (uint32_t k = 0; k < 3; k++) {
    const th_type *type = th_type_of(t, k < 2 ? op->operands[k] : op->result);
    const th_dim *strides = last ? channels_last(c, type) : th_contiguous_strides(c, type->dims, type->rank);
    *(k < 2 ? &operands[k] : &results[0]) = strides;
  }
  return true;
}

/* ---- calls ---- */

static bool describe_call(const th_options *options, const th_trace *t, const th_op *op, th_cudnn_attention *out) {
  int64_t causal = 0;
  bool backward = !strcmp(th_attr_get(op, "function")->s, "cudnn.attention_backward");
  th_dim_is_const(t->context, th_attr_get(op, "ints")->ints[0], &causal);
  return describe(options, t, op, backward, causal != 0, true, out);
}

static bool describe_conv_call(const th_options *options, const th_trace *t, const th_op *op, th_cudnn_conv *out) {
  return describe_conv(options, t, conv_in(t, op), op->operands, op->result, true, out);
}

static th_dim scratch(const th_options *options, const th_trace *t, const th_op *op) {
  th_cudnn_attention a;
  th_cudnn_conv conv;
  if (conv_in(t, op)) return th_dim_const(t->context, describe_conv_call(options, t, op, &conv) ? (int64_t)th_cudnn_conv_scratch_limit(&conv) : 0);
  if (!describe_call(options, t, op, &a)) return th_dim_const(t->context, 0);
  return th_dim_const(t->context, (int64_t)th_cudnn_scratch_bytes(&a, -1));
}

/* The plan; none (the rank makes it) where this machine has no cuDNN of the rank's version. */
static th_status prepare(const th_options *options, const th_trace *t, const th_op *op, th_arena *arena, th_binary *out, const char **out_kind) {
  th_cudnn_attention a;
  th_cudnn_conv conv;
  bool is_conv = conv_in(t, op);
  uint32_t version = 0;
  char json[2048];
  uint8_t *bytes;
  size_t size;
  *out = (th_binary){0};
  *out_kind = "cudnn-plan";
  if (!(is_conv ? describe_conv_call(options, t, op, &conv) : describe_call(options, t, op, &a))) return TH_ERROR(INTERNAL, "cudnn: a call whose sizes are not known");
  th_status status = th_cudnn_open(stub, &version);
  if (!status && version != version_of(options)) status = TH_ERROR(FAILED_PRECONDITION, "cuDNN here is %u, in the rank %u", version, version_of(options));
  int arch = atoi(options->target.arch + 3);
  th_cudnn_device device = {.sm_major = arch / 10, .sm_minor = arch % 10, .sms = (int32_t)options->target.sms, .shared_per_block_optin = (int32_t)options->target.shared,
                            .l2_bytes = (int64_t)options->target.l2, .memory_bytes = (int64_t)options->target.memory};
  if (!status) {
    th_cudnn_device_json(&device, json, sizeof json);
    status = is_conv ? th_cudnn_plan_prepare(TH_CUDNN_CONVOLUTION, &conv, json, &bytes, &size) : th_cudnn_plan_prepare(TH_CUDNN_ATTENTION, &a, json, &bytes, &size);
  }
  if (status) {
    TH_LOG(INFO, "%s is planned in the rank: %s", is_conv ? "a convolution" : "attention", th_status_message(status));
    th_status_free(status);
    return TH_OK;
  }
  *out = (th_binary){th_arena_copy(arena, bytes, size), size};
  free(bytes);
  return TH_OK;
}

const th_executor th_executor_cudnn = {.name = "cudnn", .claims = claims, .absorbs = absorbs, .library = library, .channels_last = is_channels_last, .lay = lay, .library_takes = library_takes, .scratch = scratch, .prepare = prepare};
