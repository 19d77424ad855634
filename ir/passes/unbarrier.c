/* unbarrier: barriers have kept recomputed values apart from the first ones through cse; now they go, so that regions can
 * form across them. */
#include "ir/passes/passes.h"

th_status th_pass_unbarrier(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops; i++) {
      const th_op *op = in->graphs[g]->ops[i];
      if (op->kind != TH_OP_barrier) th_rewrite_clone(&r, op);
      else
        for (uint32_t k = 0; k < op->n_results; k++) th_rewrite_map(&r, op->result + k, th_rewrite_value(&r, op->operands[k]));
    }
    th_rewrite_outputs(&r, g);
  }
  return th_rewrite_finish(&r, out);
}
