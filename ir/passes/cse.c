/* cse: equal ops on equal operands are computed once. Ops with effects, barriers and ops that own graphs are left. */
#include <string.h>

#include "ir/passes/passes.h"

static uint64_t mix(uint64_t h, uint64_t x) { return (h ^ x) * UINT64_C(0x9E3779B97F4A7C15) ^ (h >> 29); }

static uint64_t hash_of(const th_op *op, const th_value *operands) {
  uint64_t h = mix(17, op->kind), bits;
  for (uint32_t i = 0; i < op->n_operands; i++) h = mix(h, operands[i]);
  for (uint32_t i = 0; i < th_op_spec_get(op->kind)->n_attrs; i++) {
    const th_attr *a = &op->attrs[i];
    h = mix(h, a->kind);
    if (a->kind == TH_ATTR_FLOAT) {
      memcpy(&bits, &a->f, sizeof bits);
      h = mix(h, bits);
    } else if (a->kind == TH_ATTR_INT) h = mix(h, a->i);
    else if (a->kind == TH_ATTR_INTS)
      for (uint32_t k = 0; k < a->count; k++) h = mix(h, a->ints[k]);
  }
  return h;
}

static bool same(const th_op *a, const th_op *b, const th_value *operands) { /* a: written; b: to be, with `operands` */
  if (a->kind != b->kind || a->n_operands != b->n_operands || a->n_results != b->n_results || a->executor != b->executor) return false;
  if (a->n_operands && memcmp(a->operands, operands, a->n_operands * sizeof *operands)) return false;
  for (uint32_t i = 0; i < th_op_spec_get(a->kind)->n_attrs; i++)
    if (!th_attr_equal(&a->attrs[i], &b->attrs[i])) return false;
  return true;
}

static bool mergeable(const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  if ((spec->traits & TH_EFFECT) || op->kind == TH_OP_barrier) return false;
  for (uint32_t i = 0; i < spec->n_attrs; i++)
    if (op->attrs[i].kind == TH_ATTR_GRAPH) return false;
  return true;
}

static void one_graph(th_rewriter *r, uint32_t graph) {
  const th_trace *in = r->from;
  const th_graph *g = in->graphs[graph];
  th_arena *a = th_context_arena(in->context);
  size_t size = 64;
  while (size < 2 * g->n_ops) size *= 2;
  const th_op **table = TH_ARENA_ARRAY(a, const th_op *, size);
  r->b.graph = graph;
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    if (!mergeable(op)) {
      th_rewrite_clone(r, op);
      continue;
    }
    th_value *operands = TH_ARENA_ARRAY(a, th_value, op->n_operands);
    for (uint32_t k = 0; k < op->n_operands; k++) operands[k] = th_rewrite_value(r, op->operands[k]);
    size_t at = hash_of(op, operands) & (size - 1);
    while (table[at] && !same(table[at], op, operands)) at = (at + 1) & (size - 1);
    if (!table[at]) {
      table[at] = th_rewrite_clone(r, op);
      continue;
    }
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value kept = table[at]->result + k;
      th_rewrite_map(r, op->result + k, kept);
      if (!r->b.trace->values[kept].name) r->b.trace->values[kept].name = in->values[op->result + k].name;
    }
  }
  th_rewrite_outputs(r, graph);
}

th_status th_pass_cse(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) one_graph(&r, g);
  return th_rewrite_finish(&r, out);
}
