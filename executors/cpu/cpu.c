#include "executors/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "executors/cpu/codegen.h"

static bool fusible(const th_options *options, const th_trace *t, const th_op *op) {
  (void)options;
  return th_gen_fusible(t, op);
}

static bool is_float_op(const th_trace *t, const th_op *op) {
  th_dtype d = th_type_of(t, op->result)->dtype;
  if (d != TH_DTYPE_f32 && d != TH_DTYPE_f64 && d != TH_DTYPE_bf16) return false;
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (th_type_of(t, op->operands[i])->dtype != d) return false;
  return true;
}

/* The ints stand in executors/run/library.h. */
static bool library(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  th_context *c = t->context;
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 4 * TH_MAX_RANK + 8), *at = ints;
  (void)options;
  if (!is_float_op(t, op)) return false;
  *out = (th_library_call){.ints = ints, .alpha = 1, .beta = 0};
  if (op->kind == TH_OP_dot) {
    out->function = "dot";
    at = th_append_dot(c, at, op);
  } else if (op->kind == TH_OP_conv || op->kind == TH_OP_conv_grad_x || op->kind == TH_OP_conv_grad_w) {
    out->function = th_op_name(op->kind);
    *at++ = th_dim_const(c, th_attr_get(op, "stride")->count);
    at = th_append_ints(th_append_ints(th_append_ints(at, th_attr_get(op, "stride")), th_attr_get(op, "padding")), th_attr_get(op, "dilation"));
    *at++ = th_attr_get(op, "groups")->i;
  } else {
    return false;
  }
  out->n_ints = (uint32_t)(at - ints);
  return true;
}

/* Attention and its gradient: (batch, heads, length, size) each, one dtype, no mask but the causal one, no dropout. */
static bool claims(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  bool back = op->kind == TH_OP_torch_sdpa_backward;
  th_context *c = t->context;
  (void)options;
  if (op->kind != TH_OP_torch_sdpa && !back) return false;
  if (op->operands[back ? 6 : 3] != TH_NO_VALUE || (!back && th_attr_float(c, op, "dropout_p") != 0)) return false;
  const th_type *q = th_type_of(t, op->operands[0]), *k = th_type_of(t, op->operands[1]), *v = th_type_of(t, op->operands[2]);
  int64_t heads, key_heads, size;
  if (q->rank != 4 || k->rank != 4 || v->rank != 4 || (q->dtype != TH_DTYPE_f32 && q->dtype != TH_DTYPE_f64) || k->dtype != q->dtype || v->dtype != q->dtype) return false;
  if (q->dims[0] != k->dims[0] || q->dims[0] != v->dims[0] || k->dims[1] != v->dims[1] || k->dims[2] != v->dims[2] || q->dims[3] != k->dims[3]) return false;
  if (!th_dim_is_const(c, q->dims[1], &heads) || !th_dim_is_const(c, k->dims[1], &key_heads) || !th_dim_is_const(c, q->dims[3], &size)) return false;
  if (key_heads < 1 || heads % key_heads || size < 1) return false;
  if (!back && heads != key_heads && !th_attr_bool(op, "enable_gqa")) return false;
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 1);
  ints[0] = th_dim_const(c, th_attr_bool(op, "is_causal"));
  double scale = !th_attr_absent(op, "scale") ? th_attr_float(c, op, "scale") : 1 / sqrt((double)size);
  *out = (th_library_call){.function = back ? "attention_backward" : "attention", .n_ints = 1, .ints = ints, .alpha = scale};
  return true;
}

static bool library_takes(const th_trace *t, const th_op *op, uint32_t k, const th_dim *strides) {
  (void)t, (void)op, (void)k, (void)strides;
  return true; /* the runtime packs what a library cannot walk */
}

/* On the tests' target (CUDA's kernels, run by the host): so that they see what is made for a GPU. */
static bool channels_last(const th_options *options, const th_trace *t, const th_op *op) {
  return !strcmp(options->target.arch, "simt") && th_type_of(t, op->result)->rank >= 4;
}

static const char *prelude(const th_options *options) {
  (void)options;
  return th_cpu_prelude;
}

const th_executor th_executor_cpu = {
    .name = "cpu", .claims = claims, .library = library, .channels_last = channels_last, .library_takes = library_takes, .fusible = fusible, .in_place = th_gen_in_place, .emit = th_cpu_emit, .prelude = prelude, .compile = th_cpu_compile,
};
