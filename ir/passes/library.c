/* library: prims that an executor hands to a library become one `library` op each, with the prim as its body. */
#include "ir/executor.h"
#include "ir/passes/passes.h"

static const th_executor *taker(const th_options *options, const th_trace *t, const th_op *op, th_library_call *call) {
  for (uint32_t i = 0; i < options->n_executors; i++)
    if (options->executors[i]->library && options->executors[i]->library(options, t, op, call)) return options->executors[i];
  return NULL;
}

th_op *th_library_op(th_trace *t, uint32_t body, const th_executor *executor, const th_library_call *call, const th_value *operands,
                     uint32_t n_operands, const th_type *types, uint32_t n_results) {
  th_attr attrs[5];
  attrs[th_op_attr_index(TH_OP_library, "function")] = th_make_string(t->context, call->function);
  attrs[th_op_attr_index(TH_OP_library, "body")] = th_make_graph(body);
  attrs[th_op_attr_index(TH_OP_library, "ints")] = th_make_ints(t->context, call->ints, call->n_ints);
  attrs[th_op_attr_index(TH_OP_library, "alpha")] = th_make_float(call->alpha);
  attrs[th_op_attr_index(TH_OP_library, "beta")] = th_make_float(call->beta);
  th_op *library = th_trace_add_op(t, 0, TH_OP_library, operands, n_operands, attrs, types, n_results);
  library->executor = th_intern(t->context, executor->name);
  return library;
}

static void wrap(th_rewriter *r, const th_op *op, const th_executor *executor, const th_library_call *call) {
  th_trace *to = r->b.trace;
  th_arena *a = th_context_arena(to->context);
  uint32_t body = (uint32_t)to->n_graphs;
  th_value *inputs = TH_ARENA_ARRAY(a, th_value, op->n_operands), *operands = TH_ARENA_ARRAY(a, th_value, op->n_operands);
  th_type *types = TH_ARENA_ARRAY(a, th_type, op->n_results);
  th_trace_add_graph(to, call->function);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    operands[i] = r->map[op->operands[i]];
    inputs[i] = th_trace_add_input(to, body, *th_type_of(to, operands[i]));
  }
  for (uint32_t i = 0; i < op->n_results; i++) types[i] = *th_type_of(r->from, op->result + i);
  th_op *inner = th_trace_add_op(to, body, op->kind, inputs, op->n_operands, op->attrs, types, op->n_results);
  th_value *outputs = TH_ARENA_ARRAY(a, th_value, op->n_results);
  for (uint32_t i = 0; i < op->n_results; i++) outputs[i] = inner->result + i;
  th_trace_set_outputs(to, body, outputs, op->n_results);
  th_op *library = th_library_op(to, body, executor, call, operands, op->n_operands, types, op->n_results);
  library->origin = inner->origin = op->origin;
  for (uint32_t i = 0; i < op->n_results; i++) th_rewrite_map(r, op->result + i, library->result + i);
}

th_status th_pass_library(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 1; g < in->n_graphs; g++) th_rewrite_graph(&r, g);
  const th_graph *main = in->graphs[0];
  for (size_t i = 0; i < main->n_ops; i++) {
    th_library_call call;
    const th_executor *executor = taker(options, in, main->ops[i], &call);
    if (executor) wrap(&r, main->ops[i], executor, &call);
    else th_rewrite_clone(&r, main->ops[i]);
  }
  th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
