/* Layout: strides for every value of the main graph (level 3).
 *
 * Backward, strides that the outside asks for (an output's signature, the buffer an output is written back into) are
 * carried through views to the op that makes the value: wanted[]. Forward, each op gets its layout: views become strided
 * windows on their operand; kernels write their results as wanted, else row-major; a library call gets a copy of each
 * operand it cannot read as it lies; what no stride can say (some reshapes) is copied before. At the end each output
 * that leaves the plan gets exactly the strides of its signature and bytes of its own. Copies of one value are shared.
 * Written-back outputs are left to memory_plan, which knows the order of reads and writes. */
#include <string.h>

#include "executors/executor.h"
#include "ir/passes/plan.h"

typedef struct copy_entry { th_value from, to; } copy_entry;

typedef struct layout {
  const th_options *options;
  th_rewriter r;
  th_context *c;
  th_arena *arena;
  const th_dim **wanted; /* by value of the old trace */
  copy_entry *copies;    /* row-major copies made so far, of values of the new trace */
  size_t n_copies, copies_capacity;
} layout;

static th_trace *to(layout *l) { return l->r.b.trace; }
static const th_dim *strides_of(layout *l, th_value v) { return to(l)->values[v].strides; }

static th_value copy_as(layout *l, th_value v, const th_dim *strides) {
  const th_type type = *th_type_of(to(l), v);
  th_op *op = th_trace_add_op(to(l), 0, TH_OP_copy, &v, 1, NULL, &type, 1);
  op->origin = l->r.b.origin;
  to(l)->values[op->result].strides = strides ? strides : th_contiguous_strides(l->c, type.dims, type.rank);
  return op->result;
}

static th_value contiguous(layout *l, th_value v) {
  if (th_strides_contiguous(l->c, th_type_of(to(l), v), strides_of(l, v))) return v;
  for (size_t i = 0; i < l->n_copies; i++)
    if (l->copies[i].from == v) return l->copies[i].to;
  copy_entry entry = {v, copy_as(l, v, NULL)};
  TH_PUSH(l->arena, l->copies, l->n_copies, l->copies_capacity, entry);
  return entry.to;
}

/* What the outside asks of output `o`; NULL with *out_any: anything will do. */
static const th_dim *asked(const th_trace *t, uint32_t o, bool *out_any) {
  const th_output *output = &t->outputs[o];
  const th_type *type = th_type_of(t, t->graphs[0]->outputs[o]);
  *out_any = false;
  switch (output->kind) {
    case TH_OUTPUT_FRESH: case TH_OUTPUT_GRADIENT: case TH_OUTPUT_SAVED:
      return output->strides ? output->strides : th_contiguous_strides(t->context, type->dims, type->rank);
    default: break;
  }
  for (uint32_t i = 0; i < t->graphs[0]->n_inputs; i++)
    if (t->inputs[i].written_by == (int32_t)o)
      return t->inputs[i].strides ? t->inputs[i].strides : th_contiguous_strides(t->context, type->dims, type->rank);
  *out_any = true;
  return NULL;
}

static void fill_wanted(layout *l) {
  const th_trace *t = l->r.from;
  const th_graph *g = t->graphs[0];
  bool any;
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    const th_dim *strides = asked(t, o, &any);
    th_value v = g->outputs[o];
    if (!any && !l->wanted[v] && th_strides_dense(l->c, th_type_of(t, v), strides)) l->wanted[v] = strides;
  }
  for (size_t i = g->n_ops; i-- > 0;) {
    const th_op *op = g->ops[i];
    if (!th_op_is_alias(op) || op->kind == TH_OP_wait) continue;
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value x = op->operands[k];
      if (l->wanted[op->result + k] && !l->wanted[x]) l->wanted[x] = th_alias_wanted(t, op, l->wanted[op->result + k]);
    }
  }
}

static const th_dim *result_strides(layout *l, th_value old) {
  const th_type *type = th_type_of(l->r.from, old);
  return l->wanted[old] ? l->wanted[old] : th_contiguous_strides(l->c, type->dims, type->rank);
}

/* A body sees its operands' and results' layouts on its own values too. */
static void lay_body(layout *l, const th_op *op) {
  const th_graph *body = to(l)->graphs[th_attr_get(op, "body")->graph];
  for (uint32_t i = 0; i < body->n_inputs; i++) to(l)->values[body->inputs[i]].strides = strides_of(l, op->operands[i]);
  for (uint32_t i = 0; i < body->n_outputs; i++)
    if (to(l)->values[body->outputs[i]].def) to(l)->values[body->outputs[i]].strides = strides_of(l, op->result + i);
}

static void lay_region(layout *l, const th_op *op) {
  th_op *copy = th_rewrite_clone(&l->r, op);
  for (uint32_t k = 0; k < op->n_results; k++) to(l)->values[copy->result + k].strides = result_strides(l, op->result + k);
  lay_body(l, copy);
}

static th_status lay_library(layout *l, const th_op *op) {
  const th_executor *executor = th_executor_of(op);
  th_value *operands = TH_ARENA_ARRAY(l->arena, th_value, op->n_operands);
  for (uint32_t k = 0; k < op->n_operands; k++) {
    operands[k] = l->r.map[op->operands[k]];
    if (executor && executor->library_takes && !executor->library_takes(to(l), op, k, strides_of(l, operands[k])))
      operands[k] = contiguous(l, operands[k]);
  }
  th_op *copy = th_rewrite_clone(&l->r, op);
  memcpy(copy->operands, operands, op->n_operands * sizeof *operands);
  for (uint32_t k = 0; k < op->n_results; k++) {
    const th_type *type = th_type_of(l->r.from, op->result + k);
    const th_dim *strides = result_strides(l, op->result + k);
    (void)type;
    to(l)->values[copy->result + k].strides = strides;
  }
  lay_body(l, copy);
  return TH_OK;
}
