/* Wire form out: the inverse of wire_decode.c for traces of torch ops and prims. Values are renumbered in order of definition;
 * only the dimension expressions that the trace reads are written. */
#include <inttypes.h>
#include <string.h>

#include "ir/trace.h"
#include "proto/trace.pb-c.h"

typedef struct encoder {
  const th_trace *t;
  th_context *c;
  th_arena *a;
  Thunder__Wire__Trace m;
  uint32_t *dim_at;   /* (th_dim_count) 1 + its place in the table; 0: not read */
  uint32_t *value_at; /* (n_values) number on the wire */
  struct { size_t strings, type_dims, graph_outputs, operands, attrs[4], floats, ints, input_strides, output_strides; } room;
  size_t types_room[5], ops_room;
} encoder;

#define APPEND(e, field, room, value) TH_PUSH((e)->a, (e)->m.field, (e)->m.n_##field, (room), (value))

/* ---- dimension expressions ---- */

static void read_dims(encoder *e, const th_dim *dims, uint32_t n) {
  for (uint32_t i = 0; dims && i < n; i++) e->dim_at[dims[i]] = 1;
}

static void collect_dims(encoder *e) {
  const th_trace *t = e->t;
  for (size_t v = 0; v < t->n_values; v++) read_dims(e, t->values[v].type.dims, t->values[v].type.rank);
  for (size_t g = 0; g < t->n_graphs; g++)
    for (size_t i = 0; i < t->graphs[g]->n_ops; i++) {
      const th_op *op = t->graphs[g]->ops[i];
      for (uint32_t k = 0; k < th_op_spec_get(op->kind)->n_attrs; k++) {
        if (op->attrs[k].kind == TH_ATTR_INT) read_dims(e, &op->attrs[k].i, 1);
        if (op->attrs[k].kind == TH_ATTR_INTS) read_dims(e, op->attrs[k].ints, op->attrs[k].count);
      }
    }
  for (size_t i = 0; i < th_assumption_count(e->c); i++) {
    th_dim b, a = th_assumption_get(e->c, i, &b);
    e->dim_at[a] = e->dim_at[b] = 1;
  }
  const th_graph *g = t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++) read_dims(e, t->inputs[i].strides, th_type_of(t, g->inputs[i])->rank);
  for (uint32_t i = 0; i < g->n_outputs; i++) {
    read_dims(e, t->outputs[i].strides, th_type_of(t, g->outputs[i])->rank);
    read_dims(e, &t->outputs[i].offset, 1);
  }
}

/* Operands are smaller than their expressions: one walk down finds all that are read, one walk up numbers them. */
static void encode_dims(encoder *e) {
  size_t n = th_dim_count(e->c), used = 0;
  e->dim_at = TH_ARENA_ARRAY(e->a, uint32_t, n);
  collect_dims(e);
  for (size_t i = n; i-- > 0;) {
    th_dim_node d = th_dim_node_get(e->c, (th_dim)i);
    if (!e->dim_at[i]) continue;
    used++;
    if (d.kind > TH_DIM_SYMBOL) e->dim_at[d.a] = e->dim_at[d.b] = 1;
  }
  e->m.dim_kind = TH_ARENA_ARRAY(e->a, uint32_t, used);
  e->m.dim_a = TH_ARENA_ARRAY(e->a, int64_t, used);
  e->m.dim_b = TH_ARENA_ARRAY(e->a, int64_t, used);
  size_t at = 0;
  for (size_t i = 0; i < n; i++) {
    th_dim_node d = th_dim_node_get(e->c, (th_dim)i);
    if (!e->dim_at[i]) continue;
    bool leaf = d.kind <= TH_DIM_SYMBOL;
    e->m.dim_kind[at] = (uint32_t)d.kind;
    e->m.dim_a[at] = leaf ? d.value : (int64_t)e->dim_at[d.a] - 1;
    e->m.dim_b[at] = leaf ? 0 : (int64_t)e->dim_at[d.b] - 1;
    e->dim_at[i] = (uint32_t)++at;
  }
  e->m.n_dim_kind = e->m.n_dim_a = e->m.n_dim_b = at;
}

static uint32_t dim_of(const encoder *e, th_dim d) { return e->dim_at[d] - 1; }

/* ---- tables ---- */

static uint32_t string_of(encoder *e, const char *text) {
  if (!text) text = "";
  for (size_t i = 0; i < e->m.n_strings; i++)
    if (!strcmp(e->m.strings[i], text)) return (uint32_t)i;
  APPEND(e, strings, e->room.strings, (char *)text);
  return (uint32_t)e->m.n_strings - 1;
}

static bool type_is(const encoder *e, size_t i, const th_type *type, uint32_t dtype, uint32_t flags) {
  uint32_t begin = e->m.type_dims_begin[i];
  if (e->m.type_dtype[i] != dtype || e->m.type_flags[i] != flags || e->m.type_sharding[i] != type->sharding || e->m.type_dims_begin[i + 1] - begin != type->rank) return false;
  for (uint32_t k = 0; k < type->rank; k++)
    if (e->m.type_dims[begin + k] != dim_of(e, type->dims[k])) return false;
  return true;
}

static uint32_t type_of(encoder *e, const th_type *type) {
  uint32_t dtype = (uint32_t)th_dtype_to_wire(type->dtype), flags = (type->weak ? 1u : 0u) | (type->host ? 2u : 0u);
  for (size_t i = 0; i < e->m.n_type_dtype; i++)
    if (type_is(e, i, type, dtype, flags)) return (uint32_t)i;
  for (uint32_t k = 0; k < type->rank; k++) APPEND(e, type_dims, e->room.type_dims, dim_of(e, type->dims[k]));
  APPEND(e, type_dtype, e->types_room[0], dtype);
  APPEND(e, type_dims_begin, e->types_room[1], (uint32_t)e->m.n_type_dims);
  APPEND(e, type_sharding, e->types_room[2], type->sharding);
  APPEND(e, type_flags, e->types_room[3], flags);
  return (uint32_t)e->m.n_type_dtype - 1;
}

static th_status encode_symbols(encoder *e) {
  size_t n = th_symbol_count(e->c);
  Thunder__Wire__Trace *m = &e->m;
  m->n_symbol_source = m->n_symbol_value = m->n_symbol_dim = m->n_symbol_min = m->n_symbol_max = m->n_symbol_multiple = n;
  m->symbol_source = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->symbol_value = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->symbol_dim = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->symbol_min = TH_ARENA_ARRAY(e->a, int64_t, n);
  m->symbol_max = TH_ARENA_ARRAY(e->a, int64_t, n);
  m->symbol_multiple = TH_ARENA_ARRAY(e->a, int64_t, n);
  m->n_equal = 2 * th_assumption_count(e->c);
  m->equal = TH_ARENA_ARRAY(e->a, uint32_t, m->n_equal + 1);
  for (size_t i = 0; i < th_assumption_count(e->c); i++) {
    th_dim b, a = th_assumption_get(e->c, i, &b);
    m->equal[2 * i] = dim_of(e, a), m->equal[2 * i + 1] = dim_of(e, b);
  }
  for (uint32_t i = 0; i < n; i++) {
    const th_symbol *s = th_trace_symbol(e->t, i);
    if (s->input == TH_NONE) return TH_ERROR(INVALID_ARGUMENT, "trace: symbol s%u is bound to no input: such a trace is one half of a program, which the wire form does not carry", i);
    m->symbol_source[i] = (uint32_t)s->source;
    m->symbol_value[i] = s->input;
    m->symbol_dim[i] = s->dimension;
    m->symbol_min[i] = s->min;
    m->symbol_max[i] = s->max;
    m->symbol_multiple[i] = s->multiple;
  }
  return TH_OK;
}

static void encode_mesh(encoder *e) {
  uint32_t axes = th_mesh_axis_count(e->c), shardings = th_sharding_count(e->c);
  size_t room[5] = {0};
  for (uint32_t i = 0; i < axes; i++) {
    th_mesh_axis axis = th_mesh_axis_get(e->c, i);
    APPEND(e, mesh_name, room[0], string_of(e, axis.name));
    APPEND(e, mesh_size, room[1], axis.size);
  }
  APPEND(e, sharding_begin, room[2], 0);
  for (uint32_t s = 0; s < shardings; s++) {
    for (uint32_t i = 0; s && i < axes; i++) {
      APPEND(e, placement_axis, room[3], i);
      APPEND(e, placement, room[4], th_sharding_placement(e->c, s, i));
    }
    APPEND(e, sharding_begin, room[2], (uint32_t)e->m.n_placement);
  }
}

/* ---- graphs ---- */

static th_status encode_attr(encoder *e, const char *name, const th_attr *attr) {
  int64_t value = 0;
  uint32_t count = 0;
  switch (attr->kind) {
    case TH_ATTR_INT: value = dim_of(e, attr->i); break;
    case TH_ATTR_FLOAT:
      value = (int64_t)e->m.n_floats;
      APPEND(e, floats, e->room.floats, attr->f);
      break;
    case TH_ATTR_BOOL: value = attr->b; break;
    case TH_ATTR_STRING: value = string_of(e, attr->s); break;
    case TH_ATTR_DTYPE: value = th_dtype_to_wire(attr->dtype); break;
    case TH_ATTR_GRAPH: value = attr->graph; break;
    case TH_ATTR_INTS:
    case TH_ATTR_BOOLS:
      value = (int64_t)e->m.n_attr_ints;
      count = attr->count;
      for (uint32_t i = 0; i < count; i++) APPEND(e, attr_ints, e->room.ints, attr->kind == TH_ATTR_INTS ? (int64_t)dim_of(e, attr->ints[i]) : (int64_t)attr->bools[i]);
      break;
    default: return TH_ERROR(INTERNAL, "attribute %s is of kind %d", name, (int)attr->kind);
  }
  APPEND(e, attr_name, e->room.attrs[0], string_of(e, name));
  APPEND(e, attr_kind, e->room.attrs[1], (uint32_t)attr->kind);
  APPEND(e, attr_value, e->room.attrs[2], value);
  APPEND(e, attr_count, e->room.attrs[3], count);
  return TH_OK;
}

static th_status encode_op(encoder *e, const th_op *op, size_t at) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  Thunder__Wire__Trace *m = &e->m;
  if (spec->level >= TH_LEVEL_REGION) return TH_ERROR(INVALID_ARGUMENT, "trace: op %zu (%s) is of level %d; the wire form carries torch ops and prims", at, spec->name, (int)spec->level);
  for (uint32_t k = 0; k < op->n_results; k++)
    if (th_type_of(e->t, op->result + k)->host)
      return TH_ERROR(INVALID_ARGUMENT, "trace: result %u of op %zu (%s) is in host memory by the pass host; the wire form carries what was captured", k, at, spec->name);
  m->op_name[at] = string_of(e, spec->name);
  for (uint32_t i = 0; i < op->n_operands; i++) APPEND(e, operands, e->room.operands, op->operands[i] == TH_NO_VALUE ? TH_NO_VALUE : e->value_at[op->operands[i]]);
  m->op_operands_begin[at + 1] = (uint32_t)m->n_operands;
  m->op_results[at] = op->n_results;
  for (uint32_t i = 0; i < spec->n_attrs; i++)
    if (op->attrs[i].kind != TH_ATTR_ABSENT) TH_TRY(encode_attr(e, spec->attrs[i].name, &op->attrs[i]));
  m->op_attrs_begin[at + 1] = (uint32_t)m->n_attr_name;
  m->op_flags[at] = op->no_grad;
  m->op_autocast[at] = op->autocast ? (uint32_t)th_dtype_to_wire(op->autocast) : 0;
  m->op_executor[at] = op->executor ? string_of(e, op->executor) : 0;
  return TH_OK;
}

static void number_values(encoder *e) {
  uint32_t n = 0;
  e->value_at = TH_ARENA_ARRAY(e->a, uint32_t, e->t->n_values);
  e->m.value_type = TH_ARENA_ARRAY(e->a, uint32_t, e->t->n_values);
  for (size_t g = 0; g < e->t->n_graphs; g++) {
    const th_graph *graph = e->t->graphs[g];
    for (uint32_t i = 0; i < graph->n_inputs; i++) e->value_at[graph->inputs[i]] = n++;
    for (size_t i = 0; i < graph->n_ops; i++)
      for (uint32_t k = 0; k < graph->ops[i]->n_results; k++) e->value_at[graph->ops[i]->result + k] = n++;
  }
  e->m.n_value_type = n;
  for (size_t g = 0; g < e->t->n_graphs; g++) {
    const th_graph *graph = e->t->graphs[g];
    for (uint32_t i = 0; i < graph->n_inputs; i++) e->m.value_type[e->value_at[graph->inputs[i]]] = type_of(e, th_type_of(e->t, graph->inputs[i]));
    for (size_t i = 0; i < graph->n_ops; i++)
      for (uint32_t k = 0; k < graph->ops[i]->n_results; k++)
        e->m.value_type[e->value_at[graph->ops[i]->result + k]] = type_of(e, th_type_of(e->t, graph->ops[i]->result + k));
  }
}

static th_status encode_graphs(encoder *e) {
  const th_trace *t = e->t;
  Thunder__Wire__Trace *m = &e->m;
  size_t n = t->n_graphs, ops = 0, at = 0;
  for (size_t g = 0; g < n; g++) ops += t->graphs[g]->n_ops;
  m->n_graph_name = m->n_graph_inputs = m->n_graph_ops = n;
  m->n_graph_outputs_begin = n + 1;
  m->graph_name = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->graph_inputs = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->graph_ops = TH_ARENA_ARRAY(e->a, uint32_t, n);
  m->graph_outputs_begin = TH_ARENA_ARRAY(e->a, uint32_t, n + 1);
  m->n_op_name = m->n_op_results = m->n_op_flags = m->n_op_autocast = m->n_op_executor = ops;
  m->n_op_operands_begin = m->n_op_attrs_begin = ops + 1;
  m->op_name = TH_ARENA_ARRAY(e->a, uint32_t, ops);
  m->op_results = TH_ARENA_ARRAY(e->a, uint32_t, ops);
  m->op_flags = TH_ARENA_ARRAY(e->a, uint32_t, ops);
  m->op_autocast = TH_ARENA_ARRAY(e->a, uint32_t, ops);
  m->op_executor = TH_ARENA_ARRAY(e->a, uint32_t, ops);
  m->op_operands_begin = TH_ARENA_ARRAY(e->a, uint32_t, ops + 1);
  m->op_attrs_begin = TH_ARENA_ARRAY(e->a, uint32_t, ops + 1);
  for (size_t g = 0; g < n; g++) {
    const th_graph *graph = t->graphs[g];
    m->graph_name[g] = string_of(e, graph->name);
    m->graph_inputs[g] = graph->n_inputs;
    m->graph_ops[g] = (uint32_t)graph->n_ops;
    for (size_t i = 0; i < graph->n_ops; i++) TH_TRY(encode_op(e, graph->ops[i], at++));
    for (uint32_t i = 0; i < graph->n_outputs; i++) APPEND(e, graph_outputs, e->room.graph_outputs, e->value_at[graph->outputs[i]]);
    m->graph_outputs_begin[g + 1] = (uint32_t)m->n_graph_outputs;
  }
  return TH_OK;
}

static void encode_signature(encoder *e) {
  const th_trace *t = e->t;
  const th_graph *g = t->graphs[0];
  Thunder__Wire__Trace *m = &e->m;
  m->n_input_kind = m->n_input_flags = m->n_input_written_by = g->n_inputs;
  m->n_output_kind = m->n_output_base = m->n_output_offset = g->n_outputs;
  m->n_input_strides_begin = g->n_inputs + 1;
  m->n_output_strides_begin = g->n_outputs + 1;
  m->input_kind = TH_ARENA_ARRAY(e->a, uint32_t, g->n_inputs);
  m->input_flags = TH_ARENA_ARRAY(e->a, uint32_t, g->n_inputs);
  m->input_written_by = TH_ARENA_ARRAY(e->a, int32_t, g->n_inputs);
  m->input_strides_begin = TH_ARENA_ARRAY(e->a, uint32_t, g->n_inputs + 1);
  m->output_kind = TH_ARENA_ARRAY(e->a, uint32_t, g->n_outputs);
  m->output_base = TH_ARENA_ARRAY(e->a, uint32_t, g->n_outputs);
  m->output_offset = TH_ARENA_ARRAY(e->a, uint32_t, g->n_outputs);
  m->output_strides_begin = TH_ARENA_ARRAY(e->a, uint32_t, g->n_outputs + 1);
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const th_input *input = &t->inputs[i];
    m->input_kind[i] = (uint32_t)input->kind;
    m->input_flags[i] = (input->donated ? 1u : 0u) | (input->requires_grad ? 2u : 0u);
    m->input_written_by[i] = input->written_by;
    for (uint32_t k = 0; input->strides && k < th_type_of(t, g->inputs[i])->rank; k++) APPEND(e, input_strides, e->room.input_strides, dim_of(e, input->strides[k]));
    m->input_strides_begin[i + 1] = (uint32_t)m->n_input_strides;
  }
  for (uint32_t i = 0; i < g->n_outputs; i++) {
    const th_output *output = &t->outputs[i];
    m->output_kind[i] = (uint32_t)output->kind;
    m->output_base[i] = output->base;
    m->output_offset[i] = dim_of(e, output->offset);
    for (uint32_t k = 0; output->strides && k < th_type_of(t, g->outputs[i])->rank; k++) APPEND(e, output_strides, e->room.output_strides, dim_of(e, output->strides[k]));
    m->output_strides_begin[i + 1] = (uint32_t)m->n_output_strides;
  }
}

th_status th_trace_encode(const th_trace *t, uint8_t **out_bytes, size_t *out_size) {
  encoder e = {.t = t, .c = t->context, .a = th_context_arena(t->context), .m = THUNDER__WIRE__TRACE__INIT};
  if (!t->n_graphs) return TH_ERROR(INVALID_ARGUMENT, "trace: there is no graph");
  if (th_trace_level(t) >= TH_LEVEL_REGION) return TH_ERROR(INVALID_ARGUMENT, "trace: it is of level %d; the wire form carries torch ops and prims", (int)th_trace_level(t));
  if (th_trace_is_backward_half(t)) return TH_ERROR(INVALID_ARGUMENT, "trace: it is the backward half of a program; the wire form carries whole programs");
  e.m.has_version = true;
  e.m.version = 1;
  string_of(&e, "");
  APPEND(&e, type_dims_begin, e.types_room[1], 0);
  encode_dims(&e);
  TH_TRY(encode_symbols(&e));
  encode_mesh(&e);
  number_values(&e);
  TH_TRY(encode_graphs(&e));
  encode_signature(&e);
  *out_size = thunder__wire__trace__get_packed_size(&e.m);
  *out_bytes = th_arena_alloc(e.a, *out_size);
  thunder__wire__trace__pack(&e.m, *out_bytes);
  return TH_OK;
}
