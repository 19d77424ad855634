#include "ir/executor.h"

#include <string.h>

const th_executor *th_executor_of(const th_options *options, const th_op *op) {
  for (uint32_t i = 0; op->executor && i < options->n_executors; i++)
    if (!strcmp(options->executors[i]->name, op->executor)) return options->executors[i];
  return NULL;
}

th_dim *th_append_dot(th_context *c, th_dim *at, const th_op *dot) {
  static const char *const lists[] = {"lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract"};
  *at++ = th_dim_const(c, th_attr_get(dot, "lhs_batch")->count);
  *at++ = th_dim_const(c, th_attr_get(dot, "lhs_contract")->count);
  for (int i = 0; i < 4; i++) at = th_append_ints(at, th_attr_get(dot, lists[i]));
  return at;
}

th_op *th_fusion_op(th_trace *t, uint32_t body, const char *executor, const th_value *operands, uint32_t n_operands, const th_type *types, uint32_t n_results) {
  th_attr *attrs = TH_ARENA_ARRAY(th_context_arena(t->context), th_attr, th_op_spec_get(TH_OP_fusion)->n_attrs);
  attrs[th_op_attr_index(TH_OP_fusion, "body")] = th_make_graph(body);
  th_op *op = th_trace_add_op(t, 0, TH_OP_fusion, operands, n_operands, attrs, types, n_results);
  op->executor = th_intern(t->context, executor);
  return op;
}

const th_executor *th_main_executor(const th_options *options) {
  for (uint32_t i = 0; i < options->n_executors; i++)
    if (options->executors[i]->fusible && !options->executors[i]->scalars) return options->executors[i];
  return NULL;
}
