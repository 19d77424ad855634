/* pick: one element of each row of a value that is computed, x[i, k[i]], becomes a sum over the row of what is left where the column is
 * k[i]: so it is made in the kernel that goes over the rows anyway (the target's logit of a cross-entropy), and x need not be stored.
 * Exact: all other terms are zeros. */
#include "ir/passes/passes.h"

static bool is_stored(const th_trace *t, th_value v) { /* an input, or made by what is no part of a kernel */
  const th_op *op = t->values[v].def;
  return !op || !(th_op_spec_get(op->kind)->traits & TH_POINTWISE);
}

static bool picks(const th_trace *t, const th_op *op) {
  if (op->kind != TH_OP_take_along || is_stored(t, op->operands[0])) return false;
  const th_type *x = th_type_of(t, op->operands[0]), *at = th_type_of(t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, t->context, "dim");
  if (!th_dtype_is_float(x->dtype) || dim + 1 != x->rank || !th_dim_is(t->context, at->dims[dim], 1)) return false;
  for (uint32_t i = 0; i < dim; i++)
    if (x->dims[i] != at->dims[i]) return false;
  return true;
}

static th_value sum_of_one(th_rewriter *r, const th_op *op) {
  th_builder *b = &r->b;
  th_value x = r->map[op->operands[0]], at = r->map[op->operands[1]];
  th_type t = *th_type_of(b->trace, x), index = *th_type_of(b->trace, at);
  int64_t dim = t.rank - 1;
  th_value hit = th_eq(b, th_iota(b, t.dims, t.rank, (uint32_t)dim, index.dtype), th_broadcast_like(b, at, x));
  return th_reduce(b, TH_OP_reduce_sum, th_select(b, hit, x, th_like(b, 0, x)), &dim, 1, true);
}

th_status th_pass_pick(const th_options *options, const th_trace *in, th_trace **out) {
  (void)options;
  th_rewriter r = th_rewrite_begin(in);
  const th_graph *g = in->graphs[0];
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&r, k);
  r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops && !r.b.status; i++) {
    th_rewrite_at(&r, g->ops[i]);
    if (picks(in, g->ops[i])) th_rewrite_map(&r, g->ops[i]->result, sum_of_one(&r, g->ops[i]));
    else th_rewrite_clone(&r, g->ops[i]);
  }
  if (!r.b.status) th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
