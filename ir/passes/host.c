/* host: numbers that are computed from numbers in host memory alone (learning rates, step counters, seeds) stay there: rank 0, pointwise.
 * They are computed before anything runs on the device, which gets them all in one copy. What the device reads of an input in host memory
 * is copied first: `convert` to its own dtype is that copy. A number that leaves the plan as a tensor is made on the device. */
#include "ir/passes/passes.h"

static bool on_host(const th_rewriter *r, const th_op *op) {
  bool any = false;
  if (!(th_op_spec_get(op->kind)->traits & TH_POINTWISE) || op->n_results != 1 || th_type_of(r->from, op->result)->rank) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    const th_value_info *x = &r->b.trace->values[r->map[op->operands[k]]];
    if (!x->type.host && !(x->def && x->def->kind == TH_OP_const)) return false;
    any |= x->type.host;
  }
  return any;
}

static th_value same_number(th_rewriter *r, th_value x, bool host) {
  th_trace *to = r->b.trace;
  th_type type = to->values[x].type;
  th_attr attr = th_make_dtype(type.dtype);
  type.host = host;
  return th_trace_add_op(to, 0, TH_OP_convert, &x, 1, &attr, &type, 1)->result;
}

/* What the device reads for `v` of the old trace. */
static th_value read_by_device(th_rewriter *r, th_value *copies, th_value v) {
  const th_value_info *x = &r->b.trace->values[r->map[v]];
  uint32_t input = x->index;
  if (!x->type.host || x->def) return r->map[v];
  if (!copies[input]) copies[input] = same_number(r, r->map[v], true) + 1;
  return copies[input] - 1;
}

th_status th_pass_host(const th_options *options, const th_trace *in, th_trace **out) {
  (void)options;
  th_rewriter r = th_rewrite_begin(in);
  th_trace *to = r.b.trace;
  const th_graph *g = in->graphs[0];
  th_value *copies = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, g->n_inputs + 1); /* of inputs, plus 1 */
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&r, k);
  r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    bool host = on_host(&r, op);
    th_value *operands = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, op->n_operands);
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value v = op->operands[k];
      operands[k] = v == TH_NO_VALUE || host ? th_rewrite_value(&r, v) : read_by_device(&r, copies, v);
    }
    th_op *copy = th_rewrite_clone_with(&r, op, operands);
    if (op->n_results) to->values[copy->result].type.host = host;
  }
  th_rewrite_outputs(&r, 0);
  th_value *outputs = to->graphs[0]->outputs;
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    th_output_kind kind = in->outputs[o].kind;
    bool leaves = kind == TH_OUTPUT_FRESH || kind == TH_OUTPUT_GRADIENT || kind == TH_OUTPUT_SAVED;
    if (!leaves || !to->values[outputs[o]].type.host) continue;
    th_value x = outputs[o];
    if (!to->values[x].def) x = same_number(&r, x, true);
    outputs[o] = same_number(&r, x, false);
  }
  return th_rewrite_finish(&r, out);
}
