/* claim: composites that an executor wants whole become one library op each, whose body is the composite's lowering: what
 * it computes stays written down, for the reference executor and for readers. The others are left to `decompose`. */
#include "ir/executor.h"
#include "ir/passes/passes.h"

static const th_executor *claimer(const th_options *options, const th_trace *t, const th_op *op, th_library_call *call) {
  if (th_op_spec_get(op->kind)->level != TH_LEVEL_TORCH) return NULL;
  for (uint32_t i = 0; i < options->n_executors; i++)
    if (options->executors[i]->claims && options->executors[i]->claims(options, t, op, call)) return options->executors[i];
  return NULL;
}

static th_status wrap(th_rewriter *r, const th_op *op, const th_executor *executor, const th_library_call *call) {
  th_trace *to = r->b.trace;
  th_arena *a = th_context_arena(to->context);
  uint32_t body = (uint32_t)to->n_graphs, n = 0;
  th_value *inputs = TH_ARENA_ARRAY(a, th_value, op->n_operands), *operands = TH_ARENA_ARRAY(a, th_value, op->n_operands);
  th_value *results = TH_ARENA_ARRAY(a, th_value, op->n_results);
  th_type *types = TH_ARENA_ARRAY(a, th_type, op->n_results);
  th_trace_add_graph(to, call->function);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    inputs[i] = TH_NO_VALUE;
    if (op->operands[i] == TH_NO_VALUE) continue;
    operands[n++] = r->map[op->operands[i]];
    inputs[i] = th_trace_add_input(to, body, *th_type_of(to, r->map[op->operands[i]]));
  }
  r->b.graph = body;
  TH_TRY(th_lower_op(&r->b, r->from, op, inputs, results));
  r->b.graph = 0;
  for (size_t i = 0; i < to->graphs[body]->n_ops; i++)
    if (th_op_spec_get(to->graphs[body]->ops[i]->kind)->level != TH_LEVEL_PRIM)
      return TH_ERROR(INTERNAL, "the lowering of %s, which %s claims, is not made of prims", th_op_name(op->kind), executor->name);
  for (uint32_t i = 0; i < op->n_results; i++) types[i] = *th_type_of(to, results[i]);
  th_trace_set_outputs(to, body, results, op->n_results);
  th_op *library = th_library_op(to, body, executor, call, operands, n, types, op->n_results);
  library->origin = op->origin;
  for (uint32_t i = 0; i < op->n_results; i++) {
    th_rewrite_map(r, op->result + i, library->result + i);
    to->values[library->result + i].name = r->from->values[op->result + i].name;
  }
  return TH_OK;
}

th_status th_pass_claim(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 1; g < in->n_graphs; g++) th_rewrite_graph(&r, g);
  r.b.graph = 0;
  for (size_t i = 0; i < in->graphs[0]->n_ops && !r.b.status; i++) {
    const th_op *op = in->graphs[0]->ops[i];
    th_library_call call;
    const th_executor *executor = claimer(options, in, op, &call);
    th_rewrite_at(&r, op);
    if (executor) th_fail(&r.b, wrap(&r, op, executor, &call));
    else th_rewrite_clone(&r, op);
  }
  if (!r.b.status) th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
