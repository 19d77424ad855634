#include "executors/cpu/cpu.h"

#include <math.h>

#include "executors/cpu/codegen.h"

static bool plain_dtype(th_dtype d) { return !th_dtype_is_complex(d) && d != TH_DTYPE_f8e4m3 && d != TH_DTYPE_f8e5m2 && d != TH_DTYPE_none; }

static bool fusible(const th_options *options, const th_trace *t, const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  (void)options;
  if (spec->level != TH_LEVEL_PRIM || spec->traits & TH_EFFECT) return false;
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (op->operands[i] == TH_NO_VALUE || !plain_dtype(th_type_of(t, op->operands[i])->dtype)) return false;
  for (uint32_t i = 0; i < op->n_results; i++)
    if (!plain_dtype(th_type_of(t, op->result + i)->dtype)) return false;
  switch (op->kind) {
    case TH_OP_weak: case TH_OP_conv: case TH_OP_conv_grad_x: case TH_OP_conv_grad_w: case TH_OP_cond: case TH_OP_call: case TH_OP_barrier: case TH_OP_wait: return false;
    default: return true;
  }
}

static bool is_float_op(const th_trace *t, const th_op *op) {
  th_dtype d = th_type_of(t, op->result)->dtype;
  if (d != TH_DTYPE_f32 && d != TH_DTYPE_f64 && d != TH_DTYPE_bf16) return false;
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (th_type_of(t, op->operands[i])->dtype != d) return false;
  return true;
}

static th_dim *append(th_dim *at, const th_attr *a) {
  for (uint32_t i = 0; i < a->count; i++) *at++ = a->ints[i];
  return at;
}

/* The ints stand in executors/run/library.h. */
static bool library(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  th_context *c = t->context;
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 4 * TH_MAX_RANK + 8), *at = ints;
  (void)options;
  if (!is_float_op(t, op)) return false;
  *out = (th_library_call){.ints = ints, .alpha = 1, .beta = 0};
  if (op->kind == TH_OP_dot) {
    static const char *const lists[] = {"lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract"};
    out->function = "dot";
    *at++ = th_dim_const(c, th_attr_get(op, "lhs_batch")->count);
    *at++ = th_dim_const(c, th_attr_get(op, "lhs_contract")->count);
    for (int i = 0; i < 4; i++) at = append(at, th_attr_get(op, lists[i]));
  } else if (op->kind == TH_OP_conv || op->kind == TH_OP_conv_grad_x || op->kind == TH_OP_conv_grad_w) {
    out->function = th_op_name(op->kind);
    *at++ = th_dim_const(c, th_attr_get(op, "stride")->count);
    at = append(at, th_attr_get(op, "stride"));
    at = append(at, th_attr_get(op, "padding"));
    at = append(at, th_attr_get(op, "dilation"));
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

/* The dimensions that are not of size 1; returns how many. */
static uint32_t wide_dims(th_context *c, const th_type *type, uint32_t *out) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < type->rank; i++)
    if (!th_dim_is(c, type->dims[i], 1)) out[n++] = i;
  return n;
}

/* Does `op` read a row's number (a value computed from a reduction) for that very row? Elsewhere it would be computed from another
 * row, which may be overwritten by then. */
static bool stays_in_row(const th_trace *t, const th_op *op, const th_type *domain, const th_op *reduction) {
  th_context *c = t->context;
  uint32_t of_domain[TH_MAX_RANK], of_operand[TH_MAX_RANK], of_result[TH_MAX_RANK], kept[TH_MAX_RANK], n_kept = 0;
  const th_type *from = th_type_of(t, op->operands[0]), *to = th_type_of(t, op->result);
  uint32_t n = wide_dims(c, domain, of_domain), n_from = wide_dims(c, from, of_operand), n_to = wide_dims(c, to, of_result);
  if (op->kind == TH_OP_reshape) { /* only dimensions of size 1 come and go */
    if (n_from != n_to) return false;
    for (uint32_t i = 0; i < n_to; i++)
      if (from->dims[of_operand[i]] != to->dims[of_result[i]]) return false;
    return true;
  }
  if (op->kind != TH_OP_broadcast || !th_type_same_shape(to, domain)) return false;
  for (uint32_t i = 0; i < n; i++)
    if (!th_gen_reduces(c, reduction, of_domain[i])) kept[n_kept++] = of_domain[i];
  if (n_from != n_kept) return false;
  for (uint32_t i = 0; i < n_kept; i++)
    if (!th_dim_is(c, th_attr_get(op, "dims")->ints[of_operand[i]], kept[i])) return false;
  return true;
}

/* Is the body one row of loops over `type` (codegen.c, rows): reductions of it that end with the last dimension, what is computed
 * once a row, then all elements? A row is then read for the last time where its elements are written, each after it was read. */
static bool is_rows(const th_trace *t, const th_graph *body, const th_type *type) {
  const th_op *first = NULL;
  bool *of_row = TH_ARENA_ARRAY(th_context_arena(t->context), bool, t->n_values); /* computed from a reduction, not an element */
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *op = body->ops[i];
    bool reads = false, row = false;
    for (uint32_t k = 0; k < op->n_operands; k++) {
      reads |= th_type_same_shape(th_type_of(t, op->operands[k]), type);
      row |= of_row[op->operands[k]];
    }
    if (th_op_is_special(op)) return false;
    if (th_op_is_reduction(op)) {
      if (!reads || !type->rank || !th_gen_reduces(t->context, op, type->rank - 1)) return false;
      if (!first) first = op;
      else if (!th_attr_equal(th_attr_get(op, "dims"), th_attr_get(first, "dims"))) return false;
      of_row[op->result] = true;
    } else if (th_op_spec_get(op->kind)->traits & TH_POINTWISE) {
      of_row[op->result] = row && !reads;
    } else {
      if (reads || (row && !stays_in_row(t, op, type, first))) return false;
      of_row[op->result] = row && !th_type_same_shape(th_type_of(t, op->result), type);
    }
  }
  if (!first) return false;
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (!th_type_same_shape(th_type_of(t, body->outputs[k]), type) && !th_type_same_shape(th_type_of(t, body->outputs[k]), th_type_of(t, first->result))) return false;
  return true;
}

/* Each element is read, then written: only where the body is pointwise and nothing is read through another index, or goes row by row. */
static bool in_place(const th_trace *t, const th_op *op, uint32_t operand, uint32_t result) {
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  const th_type *type = th_type_of(t, op->result + result);
  th_value x = body->inputs[operand];
  if (is_rows(t, body, type)) return true;
  for (uint32_t k = 0; k < op->n_results; k++)
    if (!th_type_same_shape(th_type_of(t, op->result + k), type)) return false;
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *inner = body->ops[i];
    bool pointwise = th_op_spec_get(inner->kind)->traits & TH_POINTWISE;
    if (!pointwise && inner->kind != TH_OP_const && inner->kind != TH_OP_broadcast && inner->kind != TH_OP_iota && inner->kind != TH_OP_uniform) return false;
    for (uint32_t k = 0; k < inner->n_operands && !pointwise; k++)
      if (inner->operands[k] == x) return false;
    /* a broadcast of something computed from x would read it through another index */
    if (inner->kind == TH_OP_broadcast && th_type_same_shape(th_type_of(t, inner->operands[0]), type)) return false;
  }
  return true;
}

static const char *prelude(const th_options *options) {
  (void)options;
  return th_cpu_prelude;
}

const th_executor th_executor_cpu = {
    .name = "cpu", .claims = claims, .library = library, .library_takes = library_takes, .fusible = fusible, .in_place = in_place, .emit = th_cpu_emit, .prelude = prelude, .compile = th_cpu_compile,
};
