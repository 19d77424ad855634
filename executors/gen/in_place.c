/* Which regions may be computed over one of their operands. */
#include "executors/gen/gen.h"
#include "ir/batch.h"

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
  for (size_t i = 0; i < body->n_ops && !first; i++)
    if (th_op_is_reduction(body->ops[i]) && type->rank && th_gen_reduces(t->context, body->ops[i], type->rank - 1)) first = body->ops[i];
  if (!first) return false; /* as most bodies: before memory for every value is asked for */
  first = NULL;
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
      if (!reads || !type->rank) return false;
      if (!th_gen_reduces(t->context, op, type->rank - 1)) continue; /* columns: each element is read once more where it is written */
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
  for (uint32_t k = 0; k < body->n_outputs; k++) {
    const th_type *result = th_type_of(t, body->outputs[k]);
    const th_op *made = t->values[body->outputs[k]].def;
    bool sum = made && th_op_is_reduction(made) && !th_gen_reduces(t->context, made, type->rank - 1);
    if (!sum && !th_type_same_shape(result, type) && !th_type_same_shape(result, th_type_of(t, first->result))) return false;
  }
  return true;
}

/* A sum of columns or of everything that is made in the pass over the elements (executors that keep such sums beside them). */
static bool sums_beside(const th_trace *t, const th_op *op, const th_type *type) {
  if (!th_op_is_reduction(op) || !type->rank || !th_type_same_shape(th_type_of(t, op->operands[0]), type)) return false;
  return !th_type_of(t, op->result)->rank || !th_gen_reduces(t->context, op, type->rank - 1);
}

/* Each element is read, then written: only where the body is pointwise and nothing is read through another index. */
static bool is_elementwise(const th_trace *t, const th_graph *body, uint32_t operand, const th_type *type) {
  th_value x = body->inputs[operand];
  for (uint32_t k = 0; k < body->n_outputs; k++) {
    const th_op *made = t->values[body->outputs[k]].def;
    bool sum = made && th_op_is_reduction(made);
    if (!sum && !th_type_same_shape(th_type_of(t, body->outputs[k]), type)) return false;
  }
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *inner = body->ops[i];
    if (sums_beside(t, inner, type)) continue;
    bool pointwise = th_op_spec_get(inner->kind)->traits & TH_POINTWISE;
    if (!pointwise && inner->kind != TH_OP_const && inner->kind != TH_OP_broadcast && inner->kind != TH_OP_iota && inner->kind != TH_OP_uniform) return false;
    for (uint32_t k = 0; k < inner->n_operands && !pointwise; k++)
      if (inner->operands[k] == x) return false;
    /* a broadcast of something computed from x would read it through another index */
    if (inner->kind == TH_OP_broadcast && th_type_same_shape(th_type_of(t, inner->operands[0]), type)) return false;
  }
  return true;
}

bool th_gen_in_place(const th_trace *t, const th_op *op, uint32_t operand, uint32_t result) {
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  const th_type *type = th_type_of(t, op->result + result);
  uint32_t batch = th_op_batch(t, op);
  if (batch > 1) { /* blocks of other components run at any time */
    uint32_t n_in = op->n_operands / batch, n_out = op->n_results / batch;
    th_component part = th_batch_component(t, op, result / n_out);
    return operand / n_in == result / n_out && is_elementwise(t, &part.body, operand % n_in, type);
  }
  return is_rows(t, body, type) || is_elementwise(t, body, operand, type);
}
