/* Layout: strides for every value of the main graph (level 3).
 *
 * Backward, strides that the outside asks for (an output's signature, the buffer an output is written back into) are
 * carried through views to the op that makes the value: wanted[]. Forward, each op gets its layout: views become strided
 * windows on their operand; kernels write their results as wanted, else row-major; a library call gets a copy of each
 * operand it cannot read as it lies; what no stride can say (some reshapes) is copied before. At the end each output
 * that leaves the plan gets exactly the strides of its signature and bytes of its own. Copies of one value are shared.
 * Written-back outputs are left to memory_plan, which knows the order of reads and writes. */
#include <string.h>

#include "ir/batch.h"
#include "ir/executor.h"
#include "ir/passes/plan.h"

typedef struct copy_entry { th_value from, to; } copy_entry; /* to: as its strides say */

typedef struct layout {
  const th_options *options;
  th_rewriter r;
  th_context *c;
  th_arena *arena;
  const th_dim **wanted; /* by value of the old trace */
  copy_entry *copies;    /* copies made so far, of values of the new trace */
  size_t n_copies, copies_capacity;
} layout;

static th_trace *to(layout *l) { return l->r.b.trace; }
static const th_dim *strides_of(layout *l, th_value v) { return to(l)->values[v].strides; }

/* A body sees its operands' and results' layouts on its own values too. */
static void lay_body(layout *l, const th_op *op) {
  const th_graph *body = to(l)->graphs[th_attr_get(op, "body")->graph];
  for (uint32_t i = 0; i < body->n_inputs; i++) to(l)->values[body->inputs[i]].strides = strides_of(l, op->operands[i]);
  for (uint32_t i = 0; i < body->n_outputs; i++)
    if (to(l)->values[body->outputs[i]].def) to(l)->values[body->outputs[i]].strides = strides_of(l, op->result + i);
}

/* A device copies by a kernel: between two layouts its driver cannot. */
static th_op *copy_kernel(layout *l, th_value v, const th_type *type) {
  th_trace *t = to(l);
  uint32_t body = (uint32_t)t->n_graphs;
  th_attr dtype = th_make_dtype(type->dtype);
  th_trace_add_graph(t, "copy");
  th_value in = th_trace_add_input(t, body, *type), made = th_trace_add_op(t, body, TH_OP_convert, &in, 1, &dtype, type, 1)->result;
  th_trace_set_outputs(t, body, &made, 1);
  return th_fusion_op(t, body, th_main_executor(l->options)->name, &v, 1, type, 1);
}

static th_value copy_as(layout *l, th_value v, const th_dim *strides) {
  const th_type type = *th_type_of(to(l), v);
  bool kernel = th_target_is_cuda(l->options) && !type.host;
  th_op *op = kernel ? copy_kernel(l, v, &type) : th_trace_add_op(to(l), 0, TH_OP_copy, &v, 1, NULL, &type, 1);
  op->origin = l->r.b.origin;
  to(l)->values[op->result].strides = strides ? strides : th_contiguous_strides(l->c, type.dims, type.rank);
  if (kernel) lay_body(l, op);
  return op->result;
}

/* `v`, or a copy of it, with these strides. */
static th_value with_strides(layout *l, th_value v, const th_dim *strides) {
  const th_type *type = th_type_of(to(l), v);
  if (th_strides_equal(l->c, type->dims, type->rank, strides_of(l, v), strides)) return v;
  for (size_t i = 0; i < l->n_copies; i++)
    if (l->copies[i].from == v && th_strides_equal(l->c, type->dims, type->rank, strides_of(l, l->copies[i].to), strides)) return l->copies[i].to;
  copy_entry entry = {v, copy_as(l, v, strides)};
  TH_PUSH(l->arena, l->copies, l->n_copies, l->copies_capacity, entry);
  return entry.to;
}

static th_value contiguous(layout *l, th_value v) { return with_strides(l, v, NULL); }

static const th_dim *result_strides(layout *l, th_value old) {
  const th_type *type = th_type_of(l->r.from, old);
  return l->wanted[old] ? l->wanted[old] : th_contiguous_strides(l->c, type->dims, type->rank);
}

static void lay_region(layout *l, const th_op *op) {
  th_op *copy = th_rewrite_clone(&l->r, op);
  for (uint32_t k = 0; k < op->n_results; k++) to(l)->values[copy->result + k].strides = result_strides(l, op->result + k);
  lay_body(l, copy);
}

/* The kernel of a batch walks all tensors of a component's shape as one dimension: they get one dense layout, its first operand's. */
static void lay_batch(layout *l, const th_op *op) {
  const th_trace *t = l->r.from;
  uint32_t n = th_op_batch(t, op);
  th_value *operands = TH_ARENA_ARRAY(l->arena, th_value, op->n_operands);
  const th_dim **strides = TH_ARENA_ARRAY(l->arena, const th_dim *, op->n_results);
  for (uint32_t i = 0; i < n; i++) {
    th_component part = th_batch_component(t, op, i);
    const th_dim *like = NULL;
    for (uint32_t k = 0; k < part.op.n_operands; k++) {
      th_value v = l->r.map[part.op.operands[k]];
      const th_type *type = th_type_of(to(l), v);
      if (type->rank && !like) like = th_strides_dense(l->c, type, strides_of(l, v)) ? strides_of(l, v) : th_contiguous_strides(l->c, type->dims, type->rank);
      operands[i * part.op.n_operands + k] = type->rank ? with_strides(l, v, like) : v;
    }
    for (uint32_t k = 0; k < part.op.n_results; k++)
      strides[i * part.op.n_results + k] = th_type_of(t, part.op.result + k)->rank && like ? like : result_strides(l, part.op.result + k);
  }
  th_op *copy = th_rewrite_clone_with(&l->r, op, operands);
  for (uint32_t k = 0; k < op->n_results; k++) to(l)->values[copy->result + k].strides = strides[k];
  lay_body(l, copy);
}

static th_status lay_library(layout *l, const th_op *op) {
  const th_executor *executor = th_executor_of(l->options, op);
  th_value *operands = TH_ARENA_ARRAY(l->arena, th_value, op->n_operands);
  const th_dim **lie = TH_ARENA_ARRAY(l->arena, const th_dim *, op->n_operands), **results = TH_ARENA_ARRAY(l->arena, const th_dim *, op->n_results);
  for (uint32_t k = 0; k < op->n_operands; k++) lie[k] = strides_of(l, l->r.map[op->operands[k]]);
  for (uint32_t k = 0; k < op->n_results; k++) results[k] = l->wanted[op->result + k];
  bool laid = executor && executor->lay && executor->lay(l->options, l->r.from, op, lie, results);
  for (uint32_t k = 0; k < op->n_operands; k++) {
    operands[k] = l->r.map[op->operands[k]];
    if (laid) operands[k] = with_strides(l, operands[k], lie[k]);
    else if (executor && executor->library_takes && !executor->library_takes(l->r.from, op, k, strides_of(l, operands[k])))
      operands[k] = contiguous(l, operands[k]);
  }
  th_op *copy = th_rewrite_clone_with(&l->r, op, operands);
  for (uint32_t k = 0; k < op->n_results; k++) to(l)->values[copy->result + k].strides = laid ? results[k] : result_strides(l, op->result + k);
  lay_body(l, copy);
  return TH_OK;
}

static void lay_alias(layout *l, const th_op *op) {
  th_value *operands = TH_ARENA_ARRAY(l->arena, th_value, op->n_operands);
  bool each = op->kind == TH_OP_barrier || op->kind == TH_OP_wait;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    const th_dim *strides;
    th_dim offset;
    operands[k] = l->r.map[op->operands[k]];
    if (!each && !th_alias_window(l->r.from, op, k, strides_of(l, operands[k]), &strides, &offset)) operands[k] = contiguous(l, operands[k]);
  }
  th_op *copy = th_rewrite_clone_with(&l->r, op, operands);
  for (uint32_t k = 0; k < op->n_results; k++) {
    const th_dim *strides = strides_of(l, operands[each ? k : 0]);
    th_dim offset;
    if (!each) th_alias_window(to(l), copy, k, strides, &strides, &offset);
    to(l)->values[copy->result + k].strides = strides;
  }
}

static void lay_collective(layout *l, const th_op *op) {
  th_value *operands = TH_ARENA_ARRAY(l->arena, th_value, op->n_operands);
  for (uint32_t k = 0; k < op->n_operands; k++) operands[k] = contiguous(l, l->r.map[op->operands[k]]);
  th_op *copy = th_rewrite_clone_with(&l->r, op, operands);
  for (uint32_t k = 0; k < op->n_results; k++) {
    const th_type *type = th_type_of(to(l), copy->result + k);
    to(l)->values[copy->result + k].strides = th_contiguous_strides(l->c, type->dims, type->rank);
  }
}

static th_value root_of(const th_trace *t, th_value v) {
  while (t->values[v].def && th_op_is_alias(t->values[v].def)) {
    const th_op *op = t->values[v].def;
    v = op->operands[op->kind == TH_OP_barrier || op->kind == TH_OP_wait ? v - op->result : 0];
  }
  return v;
}

static uint32_t input_of(const th_trace *t, th_value v) { return t->values[v].def ? TH_NONE : t->values[v].index; }

static bool is_written(const th_trace *t, uint32_t input) {
  if (t->inputs[input].written_by >= 0) return true;
  for (uint32_t o = 0; o < t->graphs[0]->n_outputs; o++)
    if (t->outputs[o].kind == TH_OUTPUT_WRITTEN && t->outputs[o].base == input) return true;
  return false;
}

/* The value that is handed out as output `o`: itself where it has the strides asked for and bytes that are its own to give. */
static th_value lay_output(layout *l, uint32_t o, th_value v, uint8_t *taken) {
  const th_trace *t = to(l);
  const th_output *output = &l->r.from->outputs[o];
  th_value root = root_of(t, v);
  uint32_t input = input_of(t, root);
  const th_type *type = th_type_of(t, v);
  bool any;
  if (output->kind == TH_OUTPUT_WRITTEN) { /* one input's old value into another: out of the way first */
    const th_dim *back = l->r.from->inputs[output->base].strides;
    if (!back) back = th_contiguous_strides(l->c, type->dims, type->rank);
    if (th_target_is_cuda(l->options) && !th_strides_equal(l->c, type->dims, type->rank, strides_of(l, v), back)) return copy_as(l, v, back);
    if (input != TH_NONE && input != output->base) return copy_as(l, v, NULL);
    return input == TH_NONE || v == root ? v : copy_as(l, v, NULL);
  }
  const th_dim *strides = th_output_asked(l->r.from, o, &any);
  if (any) return v;
  bool same = th_strides_equal(l->c, type->dims, type->rank, strides_of(l, v), strides);
  if (same && output->kind == TH_OUTPUT_SAVED && input != TH_NONE && !is_written(t, input)) return v;
  if (same && output->kind == TH_OUTPUT_SAVED && taken[root] == 2) return v;
  bool whole = same && th_type_numel(l->c, type) == th_type_numel(l->c, th_type_of(t, root)) && th_strides_dense(l->c, type, strides);
  if (whole && input == TH_NONE && t->values[root].def->kind != TH_OP_const && !taken[root]) {
    taken[root] = output->kind == TH_OUTPUT_SAVED ? 2 : 1;
    return v;
  }
  return copy_as(l, v, strides);
}

th_status th_pass_layout(const th_options *options, const th_trace *in, th_trace **out) {
  layout l = {.options = options, .r = th_rewrite_begin(in), .c = in->context, .arena = th_context_arena(in->context)};
  const th_graph *g = in->graphs[0];
  l.wanted = th_wanted_strides(options, in);
  for (uint32_t i = 1; i < in->n_graphs; i++) th_rewrite_graph(&l.r, i);
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const th_type *type = th_type_of(in, g->inputs[i]);
    to(&l)->values[to(&l)->graphs[0]->inputs[i]].strides = in->inputs[i].strides ? in->inputs[i].strides : th_contiguous_strides(l.c, type->dims, type->rank);
  }
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    if (th_op_batch(in, op) > 1) lay_batch(&l, op);
    else if (op->kind == TH_OP_fusion) lay_region(&l, op);
    else if (op->kind == TH_OP_library) TH_TRY(lay_library(&l, op));
    else if (th_op_is_alias(op)) lay_alias(&l, op);
    else if (th_op_spec_get(op->kind)->traits & TH_EFFECT) lay_collective(&l, op);
    else if (op->kind == TH_OP_const || op->kind == TH_OP_rank) {
      th_op *copy = th_rewrite_clone(&l.r, op);
      to(&l)->values[copy->result].strides = th_contiguous_strides(l.c, NULL, 0);
    } else {
      return TH_ERROR(UNIMPLEMENTED, "op %s (of captured op %u) was taken by no executor", th_op_name(op->kind), op->origin);
    }
  }
  th_rewrite_outputs(&l.r, 0);
  uint8_t *taken = TH_ARENA_ARRAY(l.arena, uint8_t, to(&l)->n_values + g->n_outputs + 1);
  th_value *outputs = to(&l)->graphs[0]->outputs;
  for (int saved = 0; saved < 2; saved++) /* what the user gets first: saved values share less */
    for (uint32_t o = 0; o < g->n_outputs; o++)
      if ((in->outputs[o].kind == TH_OUTPUT_SAVED) == saved) outputs[o] = lay_output(&l, o, outputs[o], taken);
  return th_rewrite_finish(&l.r, out);
}
