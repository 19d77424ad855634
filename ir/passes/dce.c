/* dce: ops whose results nobody reads go, and graphs that no op names. Ops with effects (collectives) stay. */
#include "ir/passes/passes.h"

static void mark_graphs(const th_trace *t, uint32_t graph, bool *used) {
  if (used[graph]) return;
  used[graph] = true;
  for (size_t i = 0; i < t->graphs[graph]->n_ops; i++) {
    const th_op *op = t->graphs[graph]->ops[i];
    uint32_t n = th_op_spec_get(op->kind)->n_attrs;
    for (uint32_t k = 0; k < n; k++)
      if (op->attrs[k].kind == TH_ATTR_GRAPH) mark_graphs(t, op->attrs[k].graph, used);
  }
}

static void mark(const th_trace *t, const th_graph *g, bool *live) {
  for (uint32_t i = 0; i < g->n_outputs; i++) live[g->outputs[i]] = true;
  for (size_t i = g->n_ops; i-- > 0;) {
    const th_op *op = g->ops[i];
    bool keep = th_op_spec_get(op->kind)->traits & TH_EFFECT;
    for (uint32_t k = 0; k < op->n_results; k++) keep |= live[op->result + k];
    if (!keep) continue;
    for (uint32_t k = 0; k < op->n_results; k++) live[op->result + k] = true;
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (op->operands[k] != TH_NO_VALUE) live[op->operands[k]] = true;
  }
}

th_status th_pass_dce(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  bool *live = TH_ARENA_ARRAY(a, bool, in->n_values), *used = TH_ARENA_ARRAY(a, bool, in->n_graphs);
  uint32_t *number = TH_ARENA_ARRAY(a, uint32_t, in->n_graphs), n_graphs = 0;
  for (uint32_t g = 0; g < in->n_graphs; g++) mark(in, in->graphs[g], live);
  /* a graph is used when an op that stays names it */
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops; i++) {
      const th_op *op = in->graphs[g]->ops[i];
      bool keep = th_op_spec_get(op->kind)->traits & TH_EFFECT;
      for (uint32_t k = 0; k < op->n_results; k++) keep |= live[op->result + k];
      if (keep) th_rewrite_clone(&r, op);
    }
    th_rewrite_outputs(&r, g);
  }
  th_trace *t;
  TH_TRY(th_rewrite_finish(&r, &t));
  mark_graphs(t, 0, used);
  for (uint32_t g = 0; g < t->n_graphs; g++)
    if (used[g]) {
      number[g] = n_graphs;
      t->graphs[n_graphs++] = t->graphs[g];
    }
  t->n_graphs = n_graphs;
  for (uint32_t g = 0; g < n_graphs; g++)
    for (size_t i = 0; i < t->graphs[g]->n_ops; i++) {
      th_op *op = t->graphs[g]->ops[i];
      for (uint32_t k = 0; k < th_op_spec_get(op->kind)->n_attrs; k++)
        if (op->attrs[k].kind == TH_ATTR_GRAPH) op->attrs[k].graph = number[op->attrs[k].graph];
    }
  for (size_t v = 0; v < t->n_values; v++)
    if (t->values[v].graph < in->n_graphs) t->values[v].graph = number[t->values[v].graph];
  *out = t;
  return TH_OK;
}
