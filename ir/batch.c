#include "ir/batch.h"

#include <string.h>

uint32_t th_op_batch(const th_trace *t, const th_op *op) {
  int64_t n = 1;
  if ((op->kind != TH_OP_fusion && op->kind != TH_OP_launch) || th_attr_absent(op, "batch")) return 1;
  return th_dim_is_const(t->context, th_attr_get(op, "batch")->i, &n) && n > 0 && n <= UINT32_MAX ? (uint32_t)n : 1;
}

th_component th_batch_component(const th_trace *t, const th_op *op, uint32_t which) {
  th_component out = {.op = *op, .body = *t->graphs[th_attr_get(op, "body")->graph]};
  uint32_t n = th_op_batch(t, op);
  out.op.n_operands /= n;
  out.op.n_results /= n;
  out.op.operands += (size_t)which * out.op.n_operands;
  out.op.result += which * out.op.n_results;
  out.body.n_inputs /= n;
  out.body.n_outputs /= n;
  out.body.n_ops /= n;
  out.body.inputs += (size_t)which * out.body.n_inputs;
  out.body.outputs += (size_t)which * out.body.n_outputs;
  out.body.ops += which * out.body.n_ops;
  return out;
}

static bool types_alike(const th_trace *t, th_value a, th_value b) {
  const th_type *x = th_type_of(t, a), *y = th_type_of(t, b);
  return x->dtype == y->dtype && x->host == y->host && !x->rank == !y->rank;
}

/* Of sizes and of dimensions, which differ with ranks. */
static bool is_of_shape(const th_op *op, const char *attr) {
  bool view = op->kind == TH_OP_broadcast || op->kind == TH_OP_reshape, reduces = th_op_spec_get(op->kind)->traits & TH_REDUCTION;
  return (view && !strcmp(attr, "shape")) || ((view || reduces) && !strcmp(attr, "dims"));
}

static bool ops_alike(const th_trace *t, const th_op *x, const th_op *y, const th_value *map) {
  const th_op_spec *spec = th_op_spec_get(x->kind);
  if (x->kind != y->kind || x->n_operands != y->n_operands || x->n_results != y->n_results) return false;
  for (uint32_t i = 0; i < spec->n_attrs; i++)
    if (!is_of_shape(x, spec->attrs[i].name) && !th_attr_equal(&x->attrs[i], &y->attrs[i])) return false;
  for (uint32_t i = 0; i < x->n_operands; i++)
    if ((x->operands[i] == TH_NO_VALUE ? TH_NO_VALUE : map[x->operands[i]]) != y->operands[i]) return false;
  for (uint32_t i = 0; i < x->n_results; i++)
    if (!types_alike(t, x->result + i, y->result + i)) return false;
  return true;
}

bool th_bodies_alike(const th_trace *t, const th_graph *a, const th_graph *b, th_value *map) {
  if (a->n_inputs != b->n_inputs || a->n_ops != b->n_ops || a->n_outputs != b->n_outputs) return false;
  for (uint32_t i = 0; i < a->n_inputs; i++) {
    if (!types_alike(t, a->inputs[i], b->inputs[i])) return false;
    map[a->inputs[i]] = b->inputs[i];
  }
  for (size_t i = 0; i < a->n_ops; i++) {
    if (!ops_alike(t, a->ops[i], b->ops[i], map)) return false;
    for (uint32_t k = 0; k < a->ops[i]->n_results; k++) map[a->ops[i]->result + k] = b->ops[i]->result + k;
  }
  for (uint32_t i = 0; i < a->n_outputs; i++)
    if (map[a->outputs[i]] != b->outputs[i]) return false;
  return true;
}

/* Everything that a component reads or hands out is its own. */
static bool stands_alone(const th_graph *body, bool *own) {
  bool ok = true;
  for (uint32_t i = 0; i < body->n_inputs; i++) own[body->inputs[i]] = true;
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *op = body->ops[i];
    for (uint32_t k = 0; k < op->n_operands; k++) ok &= op->operands[k] == TH_NO_VALUE || own[op->operands[k]];
    for (uint32_t k = 0; k < op->n_results; k++) own[op->result + k] = true;
  }
  for (uint32_t i = 0; i < body->n_outputs; i++) ok &= own[body->outputs[i]];
  for (uint32_t i = 0; i < body->n_inputs; i++) own[body->inputs[i]] = false;
  for (size_t i = 0; i < body->n_ops; i++)
    for (uint32_t k = 0; k < body->ops[i]->n_results; k++) own[body->ops[i]->result + k] = false;
  return ok;
}

th_status th_batch_check(const th_trace *t, const th_op *op) {
  if (th_attr_absent(op, "batch")) return TH_OK;
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  th_arena *a = th_context_arena(t->context);
  uint32_t n = th_op_batch(t, op);
  if (n < 2) return TH_ERROR(INVALID_ARGUMENT, "a batch has two components or more");
  if (body->n_inputs % n || body->n_ops % n || body->n_outputs % n || op->n_operands != body->n_inputs || op->n_results != body->n_outputs)
    return TH_ERROR(INVALID_ARGUMENT, "%u inputs, %zu ops and %u outputs are no batch of %u", body->n_inputs, body->n_ops, body->n_outputs, n);
  th_component first = th_batch_component(t, op, 0);
  th_value *map = TH_ARENA_ARRAY(a, th_value, t->n_values);
  bool *own = TH_ARENA_ARRAY(a, bool, t->n_values);
  if (!stands_alone(&first.body, own)) return TH_ERROR(INVALID_ARGUMENT, "component 0 reads another one");
  for (uint32_t i = 1; i < n; i++) { /* alike: then each reads what the first one reads */
    th_component other = th_batch_component(t, op, i);
    if (!stands_alone(&other.body, own)) return TH_ERROR(INVALID_ARGUMENT, "component %u reads another one", i);
    if (!th_bodies_alike(t, &first.body, &other.body, map)) return TH_ERROR(INVALID_ARGUMENT, "components 0 and %u of the batch differ in more than sizes", i);
  }
  return TH_OK;
}
