/* decompose: level 1 to level 2. Every torch op that no executor has claimed is replaced by its lowering, until only
 * prims and claimed composites are left. Bodies of composites are written in place by their rules and go. */
#include "ir/lower/lower.h"
#include "ir/passes/passes.h"

void th__rewrite_lower(th_rewriter *r, const th_op *op) {
  th_arena *a = th_context_arena(r->from->context);
  th_value *operands = TH_ARENA_ARRAY(a, th_value, op->n_operands), *results = TH_ARENA_ARRAY(a, th_value, op->n_results);
  for (uint32_t k = 0; k < op->n_operands; k++) operands[k] = th_rewrite_value(r, op->operands[k]);
  th_fail(&r->b, th_lower_op(&r->b, r->from, op, operands, results));
  if (r->b.status) return;
  for (uint32_t k = 0; k < op->n_results; k++) {
    th_rewrite_map(r, op->result + k, results[k]);
    if (r->from->values[op->result + k].name && !r->b.trace->values[results[k]].name) r->b.trace->values[results[k]].name = r->from->values[op->result + k].name;
  }
}

/* One round; whether a torch op is left that can be lowered further. */
static th_status round_of(const th_trace *in, th_trace **out, bool *again) {
  th_rewriter r = th_rewrite_begin(in);
  const th_graph *g = in->graphs[0];
  *again = false;
  for (size_t i = 0; i < g->n_ops && !r.b.status; i++) {
    const th_op *op = g->ops[i];
    th_rewrite_at(&r, op);
    if (th_op_spec_get(op->kind)->level != TH_LEVEL_TORCH) {
      th_rewrite_clone(&r, op);
      continue;
    }
    size_t before = r.b.trace->graphs[0]->n_ops;
    th__rewrite_lower(&r, op);
    for (size_t k = before; k < r.b.trace->graphs[0]->n_ops; k++)
      *again |= th_op_spec_get(r.b.trace->graphs[0]->ops[k]->kind)->level == TH_LEVEL_TORCH;
  }
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&r, k);
  if (!r.b.status) th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}

th_status th_pass_decompose(const th_options *options, const th_trace *in, th_trace **out) {
  bool again = true;
  th_trace *t = NULL;
  while (again) {
    TH_TRY(round_of(in, &t, &again));
    in = t;
  }
  *out = t;
  return TH_OK;
}
