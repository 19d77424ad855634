#include "ir/trace.h"

#include <assert.h>
#include <math.h>
#include <string.h>

th_trace *th_trace_create(th_context *context) {
  th_trace *t = TH_ARENA_NEW(th_context_arena(context), th_trace);
  t->context = context;
  return t;
}

th_graph *th_trace_add_graph(th_trace *t, const char *name) {
  th_arena *a = th_context_arena(t->context);
  th_graph *g = TH_ARENA_NEW(a, th_graph);
  g->name = th_intern(t->context, name);
  TH_PUSH(a, t->graphs, t->n_graphs, t->graphs_capacity, g);
  return g;
}

void th_trace_reserve(th_trace *t, size_t n_values) {
  if (n_values <= t->values_capacity) return;
  th_value_info *values = TH_ARENA_ARRAY(th_context_arena(t->context), th_value_info, n_values);
  if (t->n_values) memcpy(values, t->values, t->n_values * sizeof *values);
  t->values = values;
  t->values_capacity = n_values;
}

static th_value add_value(th_trace *t, th_value_info info) {
  TH_PUSH(th_context_arena(t->context), t->values, t->n_values, t->values_capacity, info);
  return (th_value)(t->n_values - 1);
}

th_value th_trace_add_input(th_trace *t, uint32_t graph, th_type type) {
  th_arena *a = th_context_arena(t->context);
  th_graph *g = t->graphs[graph];
  th_value v = add_value(t, (th_value_info){.type = type, .graph = graph, .index = g->n_inputs});
  size_t n = g->n_inputs;
  if (graph == 0) { /* the signature's entries grow with the inputs */
    size_t capacity = g->inputs_capacity;
    t->inputs = th_arena_grow(a, t->inputs, n, &capacity, sizeof *t->inputs);
    t->inputs[n] = (th_input){.kind = TH_INPUT_USER, .written_by = -1};
  }
  g->inputs = th_arena_grow(a, g->inputs, n, &g->inputs_capacity, sizeof *g->inputs);
  g->inputs[n] = v;
  g->n_inputs++;
  return v;
}

void th_trace_set_outputs(th_trace *t, uint32_t graph, const th_value *values, uint32_t count) {
  th_graph *g = t->graphs[graph];
  g->outputs = th_arena_copy(th_context_arena(t->context), values, count * sizeof *values);
  g->n_outputs = count;
}

th_op *th_trace_add_op(th_trace *t, uint32_t graph, th_op_kind kind, const th_value *operands, uint32_t n_operands,
                       const th_attr *attrs, const th_type *types, uint32_t n_results) {
  th_arena *a = th_context_arena(t->context);
  th_graph *g = t->graphs[graph];
  th_op *op = TH_ARENA_NEW(a, th_op);
  op->kind = kind;
  op->origin = TH_NONE;
  op->n_operands = n_operands;
  op->n_results = n_results;
  op->operands = th_arena_copy(a, operands, n_operands * sizeof *operands);
  uint32_t n_attrs = th_op_spec_get(kind)->n_attrs;
  if (n_attrs) op->attrs = attrs ? th_arena_copy(a, attrs, n_attrs * sizeof *attrs) : TH_ARENA_ARRAY(a, th_attr, n_attrs);
  op->result = (th_value)t->n_values;
  for (uint32_t i = 0; i < n_results; i++)
    add_value(t, (th_value_info){.type = types[i], .def = op, .graph = graph, .index = i});
  TH_PUSH(a, g->ops, g->n_ops, g->ops_capacity, op);
  return op;
}

void th_trace_default_signature(th_trace *t) {
  if (t->outputs) return;
  uint32_t n = t->graphs[0]->n_outputs;
  t->outputs = TH_ARENA_ARRAY(th_context_arena(t->context), th_output, n);
}

bool th_type_same_shape(const th_type *a, const th_type *b) {
  return a->rank == b->rank && (a->rank == 0 || !memcmp(a->dims, b->dims, a->rank * sizeof *a->dims));
}

bool th_type_equal(const th_type *a, const th_type *b) {
  return a->dtype == b->dtype && a->weak == b->weak && a->sharding == b->sharding && th_type_same_shape(a, b);
}

th_type th_type_make(th_context *c, th_dtype dtype, const th_dim *dims, uint32_t rank) {
  return (th_type){.dtype = dtype, .rank = rank, .dims = th_arena_copy(th_context_arena(c), dims, rank * sizeof *dims)};
}

th_type th_type_scalar(th_dtype dtype) { return (th_type){.dtype = dtype}; }

th_dim th_type_numel(th_context *c, const th_type *type) { return th_dim_product(c, type->dims, type->rank); }

const th_dim *th_contiguous_strides(th_context *c, const th_dim *dims, uint32_t rank) {
  th_dim *s = TH_ARENA_ARRAY(th_context_arena(c), th_dim, rank);
  th_dim run = th_dim_const(c, 1);
  for (uint32_t i = rank; i-- > 0;) {
    s[i] = run;
    run = th_dim_mul(c, run, th_dim_max(c, dims[i], th_dim_const(c, 1)));
  }
  return s;
}

const th_attr *th_attr_get(const th_op *op, const char *name) {
  int i = th_op_attr_index(op->kind, name);
  assert(i >= 0 && "the op has no such attribute");
  return &op->attrs[i];
}

bool th_attr_absent(const th_op *op, const char *name) { return th_attr_get(op, name)->kind == TH_ATTR_ABSENT; }

double th_attr_float(th_context *c, const th_op *op, const char *name) {
  const th_attr *a = th_attr_get(op, name);
  int64_t i;
  if (a->kind == TH_ATTR_FLOAT) return a->f;
  if (a->kind == TH_ATTR_BOOL) return a->b;
  if (a->kind == TH_ATTR_INT && th_dim_is_const(c, a->i, &i)) return (double)i;
  return NAN;
}

bool th_attr_bool(const th_op *op, const char *name) {
  const th_attr *a = th_attr_get(op, name);
  return a->kind == TH_ATTR_BOOL && a->b;
}

int64_t th_attr_int(const th_op *op, th_context *c, const char *name) {
  const th_attr *a = th_attr_get(op, name);
  int64_t i = 0;
  bool constant = a->kind == TH_ATTR_INT && th_dim_is_const(c, a->i, &i);
  assert(constant && "a constant integer attribute");
  (void)constant;
  return i;
}

th_attr th_make_int(th_context *c, int64_t value) { return (th_attr){.kind = TH_ATTR_INT, .i = th_dim_const(c, value)}; }
th_attr th_make_dim(th_dim dim) { return (th_attr){.kind = TH_ATTR_INT, .i = dim}; }
th_attr th_make_float(double value) { return (th_attr){.kind = TH_ATTR_FLOAT, .f = value}; }
th_attr th_make_bool(bool value) { return (th_attr){.kind = TH_ATTR_BOOL, .b = value}; }
th_attr th_make_string(th_context *c, const char *text) { return (th_attr){.kind = TH_ATTR_STRING, .s = th_intern(c, text)}; }
th_attr th_make_dtype(th_dtype dtype) { return (th_attr){.kind = TH_ATTR_DTYPE, .dtype = dtype}; }
th_attr th_make_graph(uint32_t graph) { return (th_attr){.kind = TH_ATTR_GRAPH, .graph = graph}; }
th_attr th_make_ints(th_context *c, const th_dim *ints, uint32_t count) {
  return (th_attr){.kind = TH_ATTR_INTS, .count = count,
                   .ints = th_arena_copy(th_context_arena(c), ints, count * sizeof *ints)};
}
th_attr th_make_int64s(th_context *c, const int64_t *ints, uint32_t count) {
  th_dim *dims = TH_ARENA_ARRAY(th_context_arena(c), th_dim, count);
  for (uint32_t i = 0; i < count; i++) dims[i] = th_dim_const(c, ints[i]);
  return (th_attr){.kind = TH_ATTR_INTS, .count = count, .ints = dims};
}

bool th_attr_equal(const th_attr *a, const th_attr *b) {
  if (a->kind != b->kind || a->count != b->count) return false;
  switch (a->kind) {
    case TH_ATTR_ABSENT: return true;
    case TH_ATTR_INT: return a->i == b->i;
    case TH_ATTR_FLOAT: return !memcmp(&a->f, &b->f, sizeof a->f);
    case TH_ATTR_BOOL: return a->b == b->b;
    case TH_ATTR_STRING: return a->s == b->s;
    case TH_ATTR_DTYPE: return a->dtype == b->dtype;
    case TH_ATTR_GRAPH: return a->graph == b->graph;
    case TH_ATTR_INTS: return !memcmp(a->ints, b->ints, a->count * sizeof *a->ints);
    case TH_ATTR_BOOLS: return !memcmp(a->bools, b->bools, a->count * sizeof *a->bools);
    default: return false;
  }
}

uint32_t *th_trace_fill_uses(const th_trace *t) {
  uint32_t *uses = TH_ARENA_ARRAY(th_context_arena(t->context), uint32_t, t->n_values);
  for (size_t g = 0; g < t->n_graphs; g++) {
    const th_graph *graph = t->graphs[g];
    for (size_t i = 0; i < graph->n_ops; i++)
      for (uint32_t k = 0; k < graph->ops[i]->n_operands; k++)
        if (graph->ops[i]->operands[k] != TH_NO_VALUE) uses[graph->ops[i]->operands[k]]++;
    for (uint32_t i = 0; i < graph->n_outputs; i++) uses[graph->outputs[i]]++;
  }
  return uses;
}

th_level th_trace_level(const th_trace *t) {
  bool torch = false, regions = false;
  for (size_t v = 0; v < t->n_values; v++) { /* what is known of values tells the lower levels */
    if (t->values[v].graph) continue;
    if (t->values[v].place != TH_PLACE_NONE) return TH_LEVEL_PLAN;
    regions |= t->values[v].strides != NULL;
  }
  for (size_t g = 0; g < t->n_graphs; g++)
    for (size_t i = 0; i < t->graphs[g]->n_ops; i++) {
      th_op_kind kind = t->graphs[g]->ops[i]->kind;
      torch |= th_op_spec_get(kind)->level == TH_LEVEL_TORCH;
      regions |= kind == TH_OP_fusion;
    }
  return regions ? TH_LEVEL_REGION : torch ? TH_LEVEL_TORCH : TH_LEVEL_PRIM;
}

bool th_trace_is_backward_half(const th_trace *t) {
  bool tangent = false;
  for (uint32_t i = 0; i < t->graphs[0]->n_inputs; i++) {
    th_input_kind k = t->inputs[i].kind;
    if (k != TH_INPUT_SAVED && k != TH_INPUT_TANGENT && k != TH_INPUT_SEED && k != TH_INPUT_OFFSET && k != TH_INPUT_INTEGER) return false;
    tangent |= k == TH_INPUT_TANGENT;
  }
  return tangent;
}
