/* number: gives every op without one its number as origin, and every random op a tag. The value of a random op is a
 * function of (seed, offset, tag, index), so a recomputed op repeats it and no two ops share a stream. */
#include "ir/passes/passes.h"

static bool is_random(const th_trace *t, const th_op *op) {
  if (op->kind == TH_OP_torch_sdpa) return th_attr_float(t->context, op, "dropout_p") > 0;
  return (th_op_spec_get(op->kind)->traits & TH_RANDOM) && op->kind != TH_OP_torch_dropout_mask;
}

th_status th_pass_number(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  uint32_t number = 0, tag = 0;
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops; i++, number++) {
      const th_op *op = in->graphs[g]->ops[i];
      th_op *copy = th_rewrite_clone(&r, op);
      if (copy->origin == TH_NONE) copy->origin = number;
      if (is_random(in, op)) copy->attrs[th_op_attr_index(op->kind, "tag")] = th_make_int(in->context, tag++);
    }
    th_rewrite_outputs(&r, g);
  }
  return th_rewrite_finish(&r, out);
}
