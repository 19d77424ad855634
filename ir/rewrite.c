#include <string.h>

#include "ir/pass.h"

static void copy_value_info(th_trace *to, th_value v, const th_value_info *info) {
  th_value_info *out = &to->values[v];
  out->name = info->name;
  out->strides = info->strides;
  out->place = info->place;
  out->place_index = info->place_index;
  out->place_offset = info->place_offset;
}

static void copy_input(th_rewriter *r, uint32_t graph, th_value v) {
  th_trace *to = r->b.trace;
  r->map[v] = th_trace_add_input(to, graph, r->from->values[v].type);
  copy_value_info(to, r->map[v], &r->from->values[v]);
}

static th_rewriter begin(const th_trace *from, size_t n_graphs) {
  th_arena *a = th_context_arena(from->context);
  th_rewriter r = {.from = from, .map = TH_ARENA_ARRAY(a, th_value, from->n_values)};
  for (size_t i = 0; i < from->n_values; i++) r.map[i] = TH_NO_VALUE;
  th_trace *to = th_trace_create(from->context);
  to->symbols = from->symbols;
  th_trace_reserve(to, from->n_values + from->n_values / 8); /* most passes add little */
  r.b = th_builder_make(to, 0);
  for (size_t g = 0; g < n_graphs; g++) {
    th_trace_add_graph(to, from->graphs[g]->name);
    for (uint32_t i = 0; i < from->graphs[g]->n_inputs; i++) {
      copy_input(&r, (uint32_t)g, from->graphs[g]->inputs[i]);
      if (g == 0 && from->inputs) to->inputs[i] = from->inputs[i];
    }
  }
  return r;
}

th_rewriter th_rewrite_begin(const th_trace *from) { return begin(from, from->n_graphs); }
th_rewriter th_rewrite_begin_main(const th_trace *from) { return begin(from, 1); }

void th_rewrite_at(th_rewriter *r, const th_op *op) {
  r->b.no_grad = op->no_grad;
  r->b.autocast = op->autocast;
  r->b.origin = op->origin;
}

static th_op *copy_op(th_builder *b, const th_trace *from, const th_op *op, const th_value *map) {
  enum { FEW = 8 };
  th_arena *a = th_context_arena(b->trace->context);
  th_value few_operands[FEW], *operands = op->n_operands <= FEW ? few_operands : TH_ARENA_ARRAY(a, th_value, op->n_operands);
  th_type few_types[FEW], *types = op->n_results <= FEW ? few_types : TH_ARENA_ARRAY(a, th_type, op->n_results);
  for (uint32_t i = 0; i < op->n_operands; i++) operands[i] = op->operands[i] == TH_NO_VALUE ? TH_NO_VALUE : map[op->operands[i]];
  for (uint32_t i = 0; i < op->n_results; i++) types[i] = from->values[op->result + i].type;
  th_op *copy = th_trace_add_op(b->trace, b->graph, op->kind, operands, op->n_operands, op->attrs, types, op->n_results);
  copy->no_grad = op->no_grad;
  copy->autocast = op->autocast;
  copy->executor = op->executor;
  copy->origin = op->origin;
  for (uint32_t i = 0; i < op->n_results; i++) copy_value_info(b->trace, copy->result + i, &from->values[op->result + i]);
  return copy;
}

th_op *th_rewrite_clone(th_rewriter *r, const th_op *op) {
  if (r->b.status) return NULL;
  th_op *copy = copy_op(&r->b, r->from, op, r->map);
  for (uint32_t i = 0; i < op->n_results; i++) r->map[op->result + i] = copy->result + i;
  return copy;
}

th_op *th_rewrite_clone_with(th_rewriter *r, const th_op *op, const th_value *operands) {
  th_op *copy = th_rewrite_clone(r, op);
  if (copy && op->n_operands) memcpy(copy->operands, operands, op->n_operands * sizeof *operands);
  return copy;
}

void th_rewrite_append_inputs(th_rewriter *r, uint32_t graph) {
  for (uint32_t i = 0; i < r->from->graphs[graph]->n_inputs; i++) copy_input(r, r->b.graph, r->from->graphs[graph]->inputs[i]);
}

void th_rewrite_append_ops(th_rewriter *r, uint32_t graph) {
  for (size_t i = 0; i < r->from->graphs[graph]->n_ops; i++) th_rewrite_clone_deep(r, r->from->graphs[graph]->ops[i]);
}

th_op *th_rewrite_clone_deep(th_rewriter *r, const th_op *op) {
  th_op *copy = th_rewrite_clone(r, op);
  const th_op_spec *spec = th_op_spec_get(op->kind);
  uint32_t before = r->b.graph;
  for (uint32_t i = 0; copy && i < spec->n_attrs; i++) {
    if (copy->attrs[i].kind != TH_ATTR_GRAPH) continue;
    const th_graph *g = r->from->graphs[op->attrs[i].graph];
    copy->attrs[i].graph = r->b.graph = (uint32_t)r->b.trace->n_graphs;
    th_trace_add_graph(r->b.trace, g->name);
    th_rewrite_append_inputs(r, op->attrs[i].graph);
    th_rewrite_append_ops(r, op->attrs[i].graph);
    th_value *outputs = TH_ARENA_ARRAY(th_context_arena(r->from->context), th_value, g->n_outputs);
    for (uint32_t k = 0; k < g->n_outputs; k++) outputs[k] = r->map[g->outputs[k]];
    th_trace_set_outputs(r->b.trace, r->b.graph, outputs, g->n_outputs);
    r->b.graph = before;
  }
  return copy;
}

void th_rewrite_outputs(th_rewriter *r, uint32_t graph) {
  const th_graph *g = r->from->graphs[graph];
  th_arena *a = th_context_arena(r->from->context);
  th_value *outputs = TH_ARENA_ARRAY(a, th_value, g->n_outputs);
  for (uint32_t i = 0; i < g->n_outputs; i++) outputs[i] = r->map[g->outputs[i]];
  th_trace_set_outputs(r->b.trace, graph, outputs, g->n_outputs);
  if (graph == 0 && r->from->outputs)
    r->b.trace->outputs = th_arena_copy(a, r->from->outputs, g->n_outputs * sizeof *r->from->outputs);
}

void th_rewrite_graph(th_rewriter *r, uint32_t graph) {
  const th_graph *g = r->from->graphs[graph];
  uint32_t before = r->b.graph;
  r->b.graph = graph;
  for (size_t i = 0; i < g->n_ops; i++) th_rewrite_clone(r, g->ops[i]);
  th_rewrite_outputs(r, graph);
  r->b.graph = before;
}

th_status th_rewrite_finish(th_rewriter *r, th_trace **out) {
  if (r->b.status) return r->b.status;
  th_trace_default_signature(r->b.trace);
  *out = r->b.trace;
  return TH_OK;
}

th_status th_inline(th_builder *b, const th_trace *from, uint32_t graph, const th_value *in, th_value *out) {
  if (b->status) return TH_OK;
  const th_graph *g = from->graphs[graph];
  th_arena *a = th_context_arena(b->trace->context);
  th_value *map = TH_ARENA_ARRAY(a, th_value, from->n_values);
  for (uint32_t i = 0; i < g->n_inputs; i++) map[g->inputs[i]] = in[i];
  for (size_t i = 0, n = g->n_ops; i < n; i++) {
    const th_op *op = g->ops[i];
    th_op *copy = copy_op(b, from, op, map);
    copy->no_grad |= b->no_grad;
    if (!copy->autocast) copy->autocast = b->autocast;
    if (copy->origin == TH_NONE) copy->origin = b->origin;
    for (uint32_t k = 0; k < op->n_results; k++) map[op->result + k] = copy->result + k;
  }
  for (uint32_t i = 0; i < g->n_outputs; i++) out[i] = map[g->outputs[i]];
  return TH_OK;
}
