/* products: torch's matrix products as prims, before `claim` looks at what stands around them. (Where gradients are taken they are already.) */
#include "ir/passes/passes.h"

static bool is_product(const th_op *op) {
  switch (op->kind) {
    case TH_OP_torch_linear: case TH_OP_torch_matmul: case TH_OP_torch_mm: case TH_OP_torch_bmm: case TH_OP_torch_addmm: case TH_OP_torch_baddbmm: return true;
    default: return false;
  }
}

th_status th_pass_products(const th_options *options, const th_trace *in, th_trace **out) {
  (void)options;
  th_rewriter r = th_rewrite_begin(in);
  const th_graph *g = in->graphs[0];
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&r, k);
  r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops && !r.b.status; i++) {
    const th_op *op = g->ops[i];
    th_rewrite_at(&r, op);
    if (is_product(op)) th__rewrite_lower(&r, op);
    else th_rewrite_clone(&r, op);
  }
  if (!r.b.status) th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
