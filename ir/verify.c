/* The rules of the four levels, checked apart from the passes that keep them (ir/trace.h, th_trace_verify).
 *
 * Every level: values are defined once, before their uses and in their own graph; ops have the operands, attributes and
 * results of their row in ops.def; result types are those inferred; bodies stand after the graphs of their owners; the
 * signature fits graph 0. What differs is which ops may stand where, and what is known of values:
 *   1 torch    torch ops, prims, and library calls that were claimed
 *   2 prims    prims and library calls; bodies of prims
 *   3 regions  fusions, library calls, changes of index, constants, collectives, copies; bodies of prims
 *   4 plan     launches, invocations and the same; strides and a place for every value of graph 0 */
#include <string.h>

#include "ir/batch.h"
#include "ir/build.h"

typedef struct verifier {
  const th_trace *t;
  th_context *c;
  th_level level;
  bool *defined; /* by value */
  th_type *types; /* (room) what inference writes to */
  uint32_t room;
  const th_graph *g;
  uint32_t graph;
  size_t at; /* which op */
  const th_op *op;
} verifier;

#define BAD(v, format, ...)                                                                                                    \
  TH_ERROR(INVALID_ARGUMENT, "level %d: graph @%u op %zu (%s): " format, (v)->level, (v)->graph, (v)->at, th_op_name((v)->op->kind), ##__VA_ARGS__)
#define WRONG(v, format, ...) TH_ERROR(INVALID_ARGUMENT, "level %d: " format, (v)->level, ##__VA_ARGS__)

/* ---- ops ---- */

static bool moves_only(th_op_kind kind) { /* no work, or work that is no executor's */
  switch (kind) {
    case TH_OP_broadcast: case TH_OP_reshape: case TH_OP_transpose: case TH_OP_slice: case TH_OP_barrier: case TH_OP_wait: case TH_OP_copy:
    case TH_OP_const: case TH_OP_rank: return true;
    default: return th_op_spec_get(kind)->traits & TH_EFFECT && th_op_spec_get(kind)->level == TH_LEVEL_PRIM;
  }
}

static bool is_legal(const verifier *v, const th_op *op) {
  th_level own = th_op_spec_get(op->kind)->level;
  bool body = v->graph != 0;
  switch (v->level) {
    case TH_LEVEL_TORCH: return own <= TH_LEVEL_PRIM || op->kind == TH_OP_library;
    case TH_LEVEL_PRIM: return own == TH_LEVEL_PRIM || (op->kind == TH_OP_library && !body) || (own == TH_LEVEL_TORCH && body);
    case TH_LEVEL_REGION: return body ? own <= TH_LEVEL_PRIM : op->kind == TH_OP_fusion || op->kind == TH_OP_library || moves_only(op->kind);
    default: return body ? own <= TH_LEVEL_PRIM : op->kind == TH_OP_launch || op->kind == TH_OP_invoke || moves_only(op->kind);
  }
}

static th_status check_operands(const verifier *v) {
  const th_op *op = v->op;
  const th_op_spec *spec = th_op_spec_get(op->kind);
  bool variadic = spec->n_operands && spec->operands[spec->n_operands - 1].variadic;
  if (variadic ? op->n_operands + 1 < spec->n_operands : op->n_operands != spec->n_operands)
    return BAD(v, "%u operands, want %s%u", op->n_operands, variadic ? "at least " : "", variadic ? spec->n_operands - 1 : spec->n_operands);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    th_value x = op->operands[i];
    const th_operand_spec *o = &spec->operands[i < spec->n_operands ? i : spec->n_operands - 1];
    if (x == TH_NO_VALUE) {
      if (!o->optional) return BAD(v, "operand %s is missing", o->name);
      continue;
    }
    if (x >= v->t->n_values) return BAD(v, "operand %s is value %u of %zu", o->name, x, v->t->n_values);
    if (v->t->values[x].graph != v->graph) return BAD(v, "operand %s is a value of graph @%u", o->name, v->t->values[x].graph);
    if (!v->defined[x]) return BAD(v, "operand %s is read before it is made", o->name);
    bool started = v->t->values[x].def && v->t->values[x].def->kind == TH_OP_all_reduce_start;
    if (started && op->kind != TH_OP_wait) return BAD(v, "operand %s is of a collective that was started; only wait may read it", o->name);
    if (!started && op->kind == TH_OP_wait) return BAD(v, "operand %s is of no collective that was started", o->name);
  }
  return TH_OK;
}

static th_status check_attrs(const verifier *v) {
  const th_op *op = v->op;
  const th_op_spec *spec = th_op_spec_get(op->kind);
  for (uint32_t i = 0; i < spec->n_attrs; i++) {
    const th_attr *a = &op->attrs[i];
    const th_attr_spec *s = &spec->attrs[i];
    if (a->kind == TH_ATTR_ABSENT) {
      if (!s->optional) return BAD(v, "attribute %s is missing", s->name);
      continue;
    }
    bool number = a->kind == TH_ATTR_INT || a->kind == TH_ATTR_FLOAT || a->kind == TH_ATTR_BOOL;
    if (a->kind != s->kind && !(s->kind == TH_ATTR_SCALAR && number))
      return BAD(v, "attribute %s is a %s, want %s", s->name, th_attr_kind_name(a->kind), th_attr_kind_name(s->kind));
    if (a->kind == TH_ATTR_STRING && !a->s) return BAD(v, "attribute %s has no text", s->name);
    if (a->kind == TH_ATTR_DTYPE && (a->dtype == TH_DTYPE_none || a->dtype >= TH_DTYPE_COUNT)) return BAD(v, "attribute %s is no dtype", s->name);
    if (a->kind == TH_ATTR_GRAPH && (a->graph >= v->t->n_graphs || a->graph <= v->graph))
      return BAD(v, "attribute %s names graph @%u; a body stands after its owner, and there are %zu graphs", s->name, a->graph, v->t->n_graphs);
    if (a->kind == TH_ATTR_INT && a->i >= th_dim_count(v->c)) return BAD(v, "attribute %s is no dimension expression", s->name);
    for (uint32_t k = 0; a->kind == TH_ATTR_INTS && k < a->count; k++)
      if (a->ints[k] >= th_dim_count(v->c)) return BAD(v, "attribute %s has an entry that is no dimension expression", s->name);
  }
  return TH_OK;
}

/* Numbers that are computed from numbers in host memory may be there too (pass `host`). */
static bool stays_on_host(const verifier *v, const th_op *op) {
  if (!(th_op_spec_get(op->kind)->traits & TH_POINTWISE)) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    const th_value_info *x = &v->t->values[op->operands[k]];
    if (!x->type.host && !(x->def && x->def->kind == TH_OP_const)) return false;
  }
  return !th_type_of(v->t, op->result)->rank;
}

static th_status check_types(const verifier *v) {
  const th_op *op = v->op;
  uint32_t n = 0;
  th_type *types = v->types;
  th_status status = th_infer((th_trace *)v->t, op->kind, op->operands, op->n_operands, op->attrs, types, v->room, &n);
  if (status) return th_status_prefix(status, "level %d: graph @%u op %zu", v->level, v->graph, v->at);
  if (n != op->n_results) return BAD(v, "%u results, its rule makes %u", op->n_results, n);
  for (uint32_t i = 0; i < n; i++) {
    const th_type *is = th_type_of(v->t, op->result + i);
    bool crosses = op->kind == TH_OP_copy || (is->host && stays_on_host(v, op)); /* how values come into host memory and out of it */
    if (is->weak != types[i].weak || (is->host != types[i].host && !crosses))
      return BAD(v, "result %u is%s%s; its rule makes one that is%s%s", i, is->weak ? " weak" : " not weak", is->host ? " in host memory" : "", types[i].weak ? " weak" : " not weak", types[i].host ? " in host memory" : "");
    if (is->dtype != types[i].dtype || !th_type_same_shape(is, &types[i]))
      return BAD(v, "result %u is %s of rank %u; its rule makes %s of rank %u, or other sizes", i, th_dtype_name(is->dtype), is->rank, th_dtype_name(types[i].dtype), types[i].rank);
  }
  return TH_OK;
}

static th_status check_type(const verifier *v, th_value x) {
  const th_type *t = th_type_of(v->t, x);
  if (t->dtype == TH_DTYPE_none || t->dtype >= TH_DTYPE_COUNT) return WRONG(v, "value %u has no dtype", x);
  if (t->rank > TH_MAX_RANK) return WRONG(v, "value %u has rank %u, at most %d", x, t->rank, TH_MAX_RANK);
  if (t->weak && t->rank) return WRONG(v, "value %u is weak, a Python number, but has rank %u", x, t->rank);
  for (uint32_t i = 0; i < t->rank; i++)
    if (t->dims[i] >= th_dim_count(v->c)) return WRONG(v, "value %u has a size that is no dimension expression", x);
  for (uint32_t i = 0; i < t->rank; i++) {
    int64_t low, high;
    th_dim_bounds(v->c, t->dims[i], &low, &high);
    if (low < 0 && high < 0) return WRONG(v, "value %u has a negative size in dimension %u", x, i);
  }
  return TH_OK;
}

static th_status check_op(verifier *v) {
  const th_op *op = v->op;
  if (op->kind >= TH_OP_COUNT) return TH_ERROR(INVALID_ARGUMENT, "level %d: graph @%u op %zu is of kind %d, which is unknown", v->level, v->graph, v->at, (int)op->kind);
  if (!is_legal(v, op)) return BAD(v, "an op of level %d does not stand here", th_op_spec_get(op->kind)->level);
  TH_TRY(check_operands(v));
  TH_TRY(check_attrs(v));
  if (op->n_results && (op->result >= v->t->n_values || op->n_results > v->t->n_values - op->result)) return BAD(v, "its results are values that do not exist");
  TH_TRY(check_types(v));
  for (uint32_t k = 0; k < op->n_results; k++) {
    TH_TRY(check_type(v, op->result + k));
    const th_value_info *i = &v->t->values[op->result + k];
    if (i->def != op || i->index != k || i->graph != v->graph) return BAD(v, "result %u does not say so", k);
    if (v->defined[op->result + k]) return BAD(v, "result %u is made twice", k);
    v->defined[op->result + k] = true;
  }
  bool region = op->kind == TH_OP_fusion || op->kind == TH_OP_library || op->kind == TH_OP_launch || op->kind == TH_OP_invoke;
  if (region && !op->executor) return BAD(v, "no executor has claimed it");
  if (op->kind == TH_OP_fusion || op->kind == TH_OP_launch) {
    th_status status = th_batch_check(v->t, op);
    if (status) return th_status_prefix(status, "level %d: graph @%u op %zu (%s)", v->level, v->graph, v->at, th_op_name(op->kind));
  }
  if (!region && op->executor) return BAD(v, "executor %s stands on it; only regions are claimed", op->executor);
  return TH_OK;
}

/* ---- graphs ---- */

static th_status check_graph(verifier *v, uint32_t graph) {
  v->graph = graph;
  v->g = v->t->graphs[graph];
  for (uint32_t i = 0; i < v->g->n_inputs; i++) {
    th_value x = v->g->inputs[i];
    if (x >= v->t->n_values || v->t->values[x].def || v->t->values[x].graph != graph || v->t->values[x].index != i)
      return WRONG(v, "input %u of graph @%u does not say so", i, graph);
    if (v->defined[x]) return WRONG(v, "input %u of graph @%u stands there twice", i, graph);
    TH_TRY(check_type(v, x));
    v->defined[x] = true;
  }
  for (v->at = 0; v->at < v->g->n_ops; v->at++) {
    v->op = v->g->ops[v->at];
    TH_TRY(check_op(v));
  }
  for (uint32_t i = 0; i < v->g->n_outputs; i++) {
    th_value x = v->g->outputs[i];
    if (x >= v->t->n_values || v->t->values[x].graph != graph || !v->defined[x]) return WRONG(v, "output %u of graph @%u is no value of it", i, graph);
    if (v->t->values[x].def && v->t->values[x].def->kind == TH_OP_all_reduce_start) return WRONG(v, "output %u of graph @%u is of a collective that was started and not waited for", i, graph);
  }
  return TH_OK;
}

/* ---- signature ---- */

static bool same_value(const th_trace *t, th_value x, th_value y) {
  return th_type_of(t, x)->dtype == th_type_of(t, y)->dtype && th_type_same_shape(th_type_of(t, x), th_type_of(t, y));
}

static th_status check_inputs(const verifier *v) {
  const th_trace *t = v->t;
  const th_graph *g = t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const th_input *input = &t->inputs[i];
    const th_type *type = th_type_of(t, g->inputs[i]);
    bool number = input->kind == TH_INPUT_SEED || input->kind == TH_INPUT_OFFSET || input->kind == TH_INPUT_INTEGER;
    if (input->kind >= TH_INPUT_KIND_COUNT) return WRONG(v, "input %u is of kind %d, which is unknown", i, (int)input->kind);
    if (number && (type->rank || type->dtype != TH_DTYPE_i64)) return WRONG(v, "input %u, a number of the run, is %s of rank %u, want i64[]", i, th_dtype_name(type->dtype), type->rank);
    if (input->written_by < -1 || input->written_by >= (int64_t)g->n_outputs) return WRONG(v, "input %u is written by output %d of %u", i, input->written_by, g->n_outputs);
    if (input->written_by >= 0 && (t->outputs[input->written_by].kind != TH_OUTPUT_WRITTEN || t->outputs[input->written_by].base != i))
      return WRONG(v, "input %u is written by output %d, which says otherwise", i, input->written_by);
    if (input->written_by >= 0 && !same_value(t, g->inputs[i], g->outputs[input->written_by]))
      return WRONG(v, "input %u is written by output %d, which is of another type", i, input->written_by);
  }
  return TH_OK;
}

static th_status check_outputs(const verifier *v) {
  const th_trace *t = v->t;
  const th_graph *g = t->graphs[0];
  bool half = th_trace_is_backward_half(t);
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    const th_output *output = &t->outputs[o];
    uint32_t bound = output->kind == TH_OUTPUT_VIEW_OF_OUTPUT ? g->n_outputs : g->n_inputs;
    if (output->kind >= TH_OUTPUT_KIND_COUNT) return WRONG(v, "output %u is of kind %d, which is unknown", o, (int)output->kind);
    if (output->kind == TH_OUTPUT_FRESH || output->kind == TH_OUTPUT_SAVED || (output->kind == TH_OUTPUT_GRADIENT && half)) continue;
    if (output->base >= bound) return WRONG(v, "output %u is based on %s %u of %u", o, output->kind == TH_OUTPUT_VIEW_OF_OUTPUT ? "output" : "input", output->base, bound);
    if (output->kind == TH_OUTPUT_VIEW_OF_OUTPUT && t->outputs[output->base].kind == TH_OUTPUT_VIEW_OF_OUTPUT)
      return WRONG(v, "output %u is a view of output %u, which is a view itself", o, output->base);
    if (output->kind == TH_OUTPUT_WRITTEN && t->inputs[output->base].written_by != (int32_t)o)
      return WRONG(v, "output %u is written into input %u, which says it is written by output %d", o, output->base, t->inputs[output->base].written_by);
    if (output->kind == TH_OUTPUT_WRITTEN && th_type_of(t, g->inputs[output->base])->weak)
      return WRONG(v, "output %u is written into input %u, which is weak, a Python number", o, output->base);
    if ((output->kind == TH_OUTPUT_WRITTEN || output->kind == TH_OUTPUT_GRADIENT) && !same_value(t, g->inputs[output->base], g->outputs[o]))
      return WRONG(v, "output %u belongs to input %u, but is of another type", o, output->base);
  }
  return TH_OK;
}

static th_status check_symbols(const verifier *v) {
  const th_graph *g = v->t->graphs[0];
  for (uint32_t s = 0; s < th_symbol_count(v->c); s++) {
    const th_symbol *symbol = th_trace_symbol(v->t, s);
    if (symbol->input == TH_NONE || symbol->source == TH_SYMBOL_RESULT) continue;
    if (symbol->input >= g->n_inputs) return WRONG(v, "symbol s%u comes from input %u of %u", s, symbol->input, g->n_inputs);
    const th_type *type = th_type_of(v->t, g->inputs[symbol->input]);
    if (symbol->source == TH_SYMBOL_SIZE && symbol->dimension >= type->rank) return WRONG(v, "symbol s%u is dimension %u of input %u, which has rank %u", s, symbol->dimension, symbol->input, type->rank);
    if (symbol->source == TH_SYMBOL_INTEGER && (type->rank || type->dtype != TH_DTYPE_i64)) return WRONG(v, "symbol s%u comes from input %u, which is no integer", s, symbol->input);
  }
  return TH_OK;
}

static th_status check_places(const verifier *v) {
  for (th_value x = 0; x < v->t->n_values; x++) {
    const th_value_info *i = &v->t->values[x];
    if (i->graph || !v->defined[x]) continue;
    if (!i->strides) return WRONG(v, "value %u has no strides", x);
    if (i->place == TH_PLACE_NONE) return WRONG(v, "value %u has no place", x);
    uint32_t steps = 0;
    for (th_value y = x; v->t->values[y].place == TH_PLACE_ALIAS; y = v->t->values[y].place_index)
      if (v->t->values[y].place_index >= v->t->n_values || ++steps > v->t->n_values) return WRONG(v, "value %u is an alias of nothing", x);
  }
  return TH_OK;
}

th_status th_trace_verify(const th_trace *t, th_level level) {
  verifier v = {.t = t, .c = t->context, .level = level, .defined = TH_ARENA_ARRAY(th_context_arena(t->context), bool, t->n_values)};
  if (!t->n_graphs) return TH_ERROR(INVALID_ARGUMENT, "level %d: there is no graph", level);
  if ((t->graphs[0]->n_inputs && !t->inputs) || (t->graphs[0]->n_outputs && !t->outputs)) return TH_ERROR(INVALID_ARGUMENT, "level %d: there is no signature", level);
  size_t n = t->n_values;
  v.room = 4096;
  for (size_t g = 0; g < t->n_graphs; g++)
    for (size_t i = 0; i < t->graphs[g]->n_ops; i++)
      if (t->graphs[g]->ops[i]->n_results >= v.room) v.room = t->graphs[g]->ops[i]->n_results + 1;
  v.types = TH_ARENA_ARRAY(th_context_arena(t->context), th_type, v.room);
  for (uint32_t g = 0; g < t->n_graphs; g++) TH_TRY(check_graph(&v, g));
  if (t->n_values != n) return TH_ERROR(INTERNAL, "inference left %zu values behind", t->n_values - n);
  TH_TRY(check_inputs(&v));
  TH_TRY(check_outputs(&v));
  TH_TRY(check_symbols(&v));
  return level == TH_LEVEL_PLAN ? check_places(&v) : TH_OK;
}
