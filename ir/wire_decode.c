/* Wire form in: a thunder.wire.Trace (proto/trace.proto) checked entry by entry while it is built. Every index, range and
 * count is looked at before it is used; types of results are inferred and compared with what the message says. Bodies
 * stand after the graphs that use them, so no graph can own itself; graphs are built last to first. */
#include <inttypes.h>
#include <string.h>

#include "ir/build.h"
#include "proto/trace.pb-c.h"

typedef struct decoder {
  const Thunder__Wire__Trace *m;
  th_context *c;
  th_arena *a;
  th_trace *t;
  th_dim *dims;
  th_sharding *shardings;
  th_value *map;           /* value on the wire -> value of the trace; TH_NO_VALUE: not yet defined */
  uint32_t *value_graph;   /* graph a value on the wire belongs to */
  uint32_t *first_op, *first_value; /* by graph */
  size_t n_values, n_ops, n_graphs;
  bool autocast;           /* some op stands in an autocast region: dtypes are as before the pass `autocast` */
} decoder;

static void *allocate(void *user, size_t size) { return th_arena_alloc(user, size); }
static void release(void *user, void *pointer) { (void)user, (void)pointer; }

#define BAD(...) TH_ERROR(INVALID_ARGUMENT, "trace: " __VA_ARGS__)

static th_status range(const char *name, const uint32_t *begin, size_t n_begin, size_t entries, size_t pool) {
  if (n_begin != entries + 1) return BAD("%s has %zu entries, want %zu (one more than the table)", name, n_begin, entries + 1);
  if (begin[0] != 0) return BAD("%s starts at %u, want 0", name, begin[0]);
  for (size_t i = 0; i < entries; i++)
    if (begin[i + 1] < begin[i]) return BAD("%s falls from %u to %u at entry %zu", name, begin[i], begin[i + 1], i);
  if (begin[entries] != pool) return BAD("%s ends at %u, the pool has %zu", name, begin[entries], pool);
  return TH_OK;
}

static th_status length(const char *name, size_t have, size_t want) {
  return have == want ? TH_OK : BAD("%s has %zu entries, want %zu", name, have, want);
}

static th_status string_at(const decoder *d, const char *table, uint32_t index, const char **out) {
  if (index >= d->m->n_strings) return BAD("%s refers to string %u of %zu", table, index, d->m->n_strings);
  *out = d->m->strings[index];
  return TH_OK;
}

static th_status dim_at(const decoder *d, const char *table, int64_t index, th_dim *out) {
  if (index < 0 || (uint64_t)index >= d->m->n_dim_kind) return BAD("%s refers to dimension expression %" PRId64 " of %zu", table, index, d->m->n_dim_kind);
  *out = d->dims[index];
  return TH_OK;
}

static th_status decode_symbols(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  size_t n = m->n_symbol_source;
  TH_TRY(length("symbol_value", m->n_symbol_value, n));
  TH_TRY(length("symbol_dim", m->n_symbol_dim, n));
  TH_TRY(length("symbol_min", m->n_symbol_min, n));
  TH_TRY(length("symbol_max", m->n_symbol_max, n));
  TH_TRY(length("symbol_multiple", m->n_symbol_multiple, n));
  uint32_t n_inputs = m->n_graph_inputs ? m->graph_inputs[0] : 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t source = m->symbol_source[i];
    if (source > 1) return BAD("symbol %zu comes from source %u; sizes of inputs (0) and integer inputs (1) are known", i, source);
    if (m->symbol_value[i] >= n_inputs) return BAD("symbol %zu comes from value %u, which is no input", i, m->symbol_value[i]);
    if (m->symbol_min[i] < 0 || (m->symbol_max[i] != -1 && m->symbol_max[i] < m->symbol_min[i]) || m->symbol_multiple[i] < 1)
      return BAD("symbol %zu has the range [%" PRId64 ", %" PRId64 "] in steps of %" PRId64, i, m->symbol_min[i], m->symbol_max[i], m->symbol_multiple[i]);
    th_symbol_add(d->c, (th_symbol){.source = (th_symbol_source)source, .input = m->symbol_value[i], .dimension = m->symbol_dim[i], .min = m->symbol_min[i],
                                    .max = m->symbol_max[i], .multiple = m->symbol_multiple[i]});
  }
  return TH_OK;
}

static th_status decode_dim_table(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  size_t n = m->n_dim_kind;
  TH_TRY(length("dim_a", m->n_dim_a, n));
  TH_TRY(length("dim_b", m->n_dim_b, n));
  d->dims = TH_ARENA_ARRAY(d->a, th_dim, n);
  for (size_t i = 0; i < n; i++) {
    int64_t a = m->dim_a[i], b = m->dim_b[i];
    uint32_t kind = m->dim_kind[i];
    if (kind == TH_DIM_CONST) {
      d->dims[i] = th_dim_const(d->c, a);
    } else if (kind == TH_DIM_SYMBOL) {
      if (a < 0 || (uint64_t)a >= m->n_symbol_source) return BAD("dimension expression %zu refers to symbol %" PRId64 " of %zu", i, a, m->n_symbol_source);
      d->dims[i] = th_dim_symbol(d->c, (uint32_t)a);
    } else if (kind <= TH_DIM_MAX) {
      if (a < 0 || b < 0 || (uint64_t)a >= i || (uint64_t)b >= i) return BAD("dimension expression %zu refers to %" PRId64 " and %" PRId64 ", want smaller numbers", i, a, b);
      if (kind == TH_DIM_FLOORDIV || kind == TH_DIM_MOD) {
        int64_t low, high;
        th_dim_bounds(d->c, d->dims[b], &low, &high);
        if (low < 1) return BAD("dimension expression %zu divides by something that may not be positive", i);
      }
      d->dims[i] = th_dim_make(d->c, (th_dim_kind)kind, d->dims[a], d->dims[b]);
    } else {
      return BAD("dimension expression %zu is of kind %u, want at most %d", i, kind, TH_DIM_MAX);
    }
  }
  return TH_OK;
}

static th_status decode_dims(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  TH_TRY(decode_dim_table(d));
  if (m->n_equal % 2) return BAD("equal has %zu entries, want pairs", m->n_equal);
  if (m->n_equal > 2 * TH_MAX_ASSUMPTIONS) return BAD("there are %zu equal pairs, want at most %d", m->n_equal / 2, TH_MAX_ASSUMPTIONS);
  for (size_t i = 0; i < m->n_equal; i += 2) {
    uint32_t a = m->equal[i], b = m->equal[i + 1];
    if (a >= m->n_dim_kind || b >= m->n_dim_kind) return BAD("equal pair %zu is of dimension expressions %u and %u; there are %zu", i / 2, a, b, m->n_dim_kind);
    if (!th_dim_assume(d->c, d->dims[a], d->dims[b])) return BAD("dimension expressions %u and %u are said to be equal, and never are", a, b);
  }
  return m->n_equal ? decode_dim_table(d) : TH_OK; /* again, in the one form of what is equal */
}

static th_status decode_shardings(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  TH_TRY(length("mesh_size", m->n_mesh_size, m->n_mesh_name));
  if (m->n_mesh_name > 16) return BAD("the mesh has %zu axes, want at most 16", m->n_mesh_name);
  uint32_t axes[16];
  const char *name;
  for (size_t i = 0; i < m->n_mesh_name; i++) {
    TH_TRY(string_at(d, "mesh_name", m->mesh_name[i], &name));
    if (!*name || strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") != strlen(name)) return BAD("mesh axis %zu is called \"%.80s\", want letters, digits, _ and .", i, name);
    if (m->mesh_size[i] >= 1u << 20) return BAD("mesh axis %s has the size %u", name, m->mesh_size[i]);
    axes[i] = th_mesh_axis_add(d->c, th_intern(d->c, name), m->mesh_size[i]);
  }
  size_t n = m->n_sharding_begin ? m->n_sharding_begin - 1 : 0;
  TH_TRY(length("placement", m->n_placement, m->n_placement_axis));
  if (m->n_sharding_begin) TH_TRY(range("sharding_begin", m->sharding_begin, m->n_sharding_begin, n, m->n_placement));
  d->shardings = TH_ARENA_ARRAY(d->a, th_sharding, n + 1);
  for (size_t i = 1; i < n; i++) {
    int32_t *placements = TH_ARENA_ARRAY(d->a, int32_t, th_mesh_axis_count(d->c));
    for (uint32_t k = 0; k < th_mesh_axis_count(d->c); k++) placements[k] = TH_PLACE_REPLICATED;
    for (uint32_t k = m->sharding_begin[i]; k < m->sharding_begin[i + 1]; k++) {
      if (m->placement_axis[k] >= m->n_mesh_name) return BAD("sharding %zu names mesh axis %u of %zu", i, m->placement_axis[k], m->n_mesh_name);
      if (m->placement[k] < TH_PLACE_PARTIAL || m->placement[k] >= TH_MAX_RANK) return BAD("sharding %zu has the placement %d", i, m->placement[k]);
      placements[axes[m->placement_axis[k]]] = m->placement[k];
    }
    d->shardings[i] = th_sharding_make(d->c, placements);
  }
  return TH_OK;
}

static th_status type_at(const decoder *d, const char *what, uint32_t index, th_type *out) {
  const Thunder__Wire__Trace *m = d->m;
  if (index >= m->n_type_dtype) return BAD("%s refers to type %u of %zu", what, index, m->n_type_dtype);
  uint32_t begin = m->type_dims_begin[index], rank = m->type_dims_begin[index + 1] - begin;
  th_dtype dtype = th_dtype_from_wire((int)m->type_dtype[index]);
  if (dtype == TH_DTYPE_none) return BAD("type %u is of dtype %u, which is unknown", index, m->type_dtype[index]);
  if (rank > TH_MAX_RANK) return BAD("type %u has %u dimensions, want at most %d", index, rank, TH_MAX_RANK);
  th_dim dims[TH_MAX_RANK];
  for (uint32_t i = 0; i < rank; i++) {
    int64_t low, high;
    TH_TRY(dim_at(d, "type_dims", m->type_dims[begin + i], &dims[i]));
    th_dim_bounds(d->c, dims[i], &low, &high);
    if (low < 0 && high < 0) return BAD("type %u has a negative size", index);
  }
  *out = th_type_make(d->c, dtype, dims, rank);
  out->weak = m->type_flags[index] & 1;
  out->host = m->type_flags[index] >> 1 & 1;
  if (m->type_sharding[index]) {
    if ((uint64_t)m->type_sharding[index] + 1 >= m->n_sharding_begin) return BAD("type %u has sharding %u of %zu", index, m->type_sharding[index], m->n_sharding_begin);
    out->sharding = d->shardings[m->type_sharding[index]];
  }
  if (out->weak && rank) return BAD("type %u is weak and has dimensions", index);
  return TH_OK;
}

static th_status check_tables(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  d->n_graphs = m->n_graph_name;
  d->n_ops = m->n_op_name;
  d->n_values = m->n_value_type;
  if (!d->n_graphs) return BAD("there is no graph");
  TH_TRY(length("type_sharding", m->n_type_sharding, m->n_type_dtype));
  TH_TRY(length("type_flags", m->n_type_flags, m->n_type_dtype));
  TH_TRY(range("type_dims_begin", m->type_dims_begin, m->n_type_dims_begin, m->n_type_dtype, m->n_type_dims));
  TH_TRY(length("graph_inputs", m->n_graph_inputs, d->n_graphs));
  TH_TRY(length("graph_ops", m->n_graph_ops, d->n_graphs));
  TH_TRY(range("graph_outputs_begin", m->graph_outputs_begin, m->n_graph_outputs_begin, d->n_graphs, m->n_graph_outputs));
  TH_TRY(range("op_operands_begin", m->op_operands_begin, m->n_op_operands_begin, d->n_ops, m->n_operands));
  TH_TRY(range("op_attrs_begin", m->op_attrs_begin, m->n_op_attrs_begin, d->n_ops, m->n_attr_name));
  TH_TRY(length("op_results", m->n_op_results, d->n_ops));
  TH_TRY(length("op_flags", m->n_op_flags, d->n_ops));
  TH_TRY(length("op_autocast", m->n_op_autocast, d->n_ops));
  TH_TRY(length("op_executor", m->n_op_executor, d->n_ops));
  TH_TRY(length("attr_kind", m->n_attr_kind, m->n_attr_name));
  TH_TRY(length("attr_value", m->n_attr_value, m->n_attr_name));
  TH_TRY(length("attr_count", m->n_attr_count, m->n_attr_name));
  uint32_t inputs = m->graph_inputs[0];
  size_t outputs = m->graph_outputs_begin[1];
  TH_TRY(length("input_kind", m->n_input_kind, inputs));
  TH_TRY(length("input_flags", m->n_input_flags, inputs));
  TH_TRY(length("input_written_by", m->n_input_written_by, inputs));
  TH_TRY(range("input_strides_begin", m->input_strides_begin, m->n_input_strides_begin, inputs, m->n_input_strides));
  TH_TRY(length("output_kind", m->n_output_kind, outputs));
  TH_TRY(length("output_base", m->n_output_base, outputs));
  TH_TRY(length("output_offset", m->n_output_offset, outputs));
  return range("output_strides_begin", m->output_strides_begin, m->n_output_strides_begin, outputs, m->n_output_strides);
}

static th_status number_graphs(decoder *d) { /* which values and ops belong to which graph */
  const Thunder__Wire__Trace *m = d->m;
  d->first_op = TH_ARENA_ARRAY(d->a, uint32_t, d->n_graphs + 1);
  d->first_value = TH_ARENA_ARRAY(d->a, uint32_t, d->n_graphs + 1);
  d->value_graph = TH_ARENA_ARRAY(d->a, uint32_t, d->n_values);
  d->map = TH_ARENA_ARRAY(d->a, th_value, d->n_values);
  uint64_t op = 0, value = 0;
  for (size_t g = 0; g < d->n_graphs; g++) {
    d->first_op[g] = (uint32_t)op;
    d->first_value[g] = (uint32_t)value;
    value += m->graph_inputs[g];
    if (op + m->graph_ops[g] > d->n_ops) return BAD("the graphs have more ops than the table, which has %zu", d->n_ops);
    for (uint32_t i = 0; i < m->graph_ops[g]; i++) value += m->op_results[op++];
    if (value > d->n_values) return BAD("the graphs have more values than value_type, which has %zu", d->n_values);
    for (uint32_t v = d->first_value[g]; v < value; v++) d->value_graph[v] = (uint32_t)g, d->map[v] = TH_NO_VALUE;
  }
  if (op != d->n_ops) return BAD("the graphs have %" PRIu64 " ops, the table %zu", op, d->n_ops);
  if (value != d->n_values) return BAD("the graphs have %" PRIu64 " values, value_type %zu", value, d->n_values);
  d->first_op[d->n_graphs] = (uint32_t)op;
  d->first_value[d->n_graphs] = (uint32_t)value;
  return TH_OK;
}

static th_status decode_attr(const decoder *d, size_t k, uint32_t graph, th_attr *out) {
  const Thunder__Wire__Trace *m = d->m;
  int64_t v = m->attr_value[k];
  uint32_t count = m->attr_count[k];
  const char *text;
  th_dim dim;
  switch (m->attr_kind[k]) {
    case TH_ATTR_INT:
      TH_TRY(dim_at(d, "attr_value", v, &dim));
      *out = th_make_dim(dim);
      return TH_OK;
    case TH_ATTR_FLOAT:
      if (v < 0 || (uint64_t)v >= m->n_floats) return TH_ERROR(INVALID_ARGUMENT, "float %" PRId64 " of %zu", v, m->n_floats);
      *out = th_make_float(m->floats[v]);
      return TH_OK;
    case TH_ATTR_BOOL: *out = th_make_bool(v != 0); return TH_OK;
    case TH_ATTR_STRING:
      if (v < 0 || v > UINT32_MAX) return TH_ERROR(INVALID_ARGUMENT, "string %" PRId64, v);
      TH_TRY(string_at(d, "attr_value", (uint32_t)v, &text));
      *out = th_make_string(d->c, text);
      return TH_OK;
    case TH_ATTR_DTYPE: *out = th_make_dtype(v < 0 || v > 255 ? TH_DTYPE_none : th_dtype_from_wire((int)v)); return TH_OK;
    case TH_ATTR_GRAPH:
      if (v <= graph || (uint64_t)v >= d->n_graphs) return TH_ERROR(INVALID_ARGUMENT, "graph %" PRId64 ", want one after its own (%u) of %zu", v, graph, d->n_graphs);
      *out = th_make_graph((uint32_t)v);
      return TH_OK;
    case TH_ATTR_INTS:
    case TH_ATTR_BOOLS:
      if (v < 0 || (uint64_t)v > m->n_attr_ints || count > m->n_attr_ints - (uint64_t)v)
        return TH_ERROR(INVALID_ARGUMENT, "a list [%" PRId64 ", +%u) of %zu", v, count, m->n_attr_ints);
      if (m->attr_kind[k] == TH_ATTR_BOOLS) {
        bool *bools = TH_ARENA_ARRAY(d->a, bool, count);
        for (uint32_t i = 0; i < count; i++) bools[i] = m->attr_ints[v + i] != 0;
        *out = (th_attr){.kind = TH_ATTR_BOOLS, .count = count, .bools = bools};
      } else {
        th_dim *ints = TH_ARENA_ARRAY(d->a, th_dim, count);
        for (uint32_t i = 0; i < count; i++) TH_TRY(dim_at(d, "attr_ints", m->attr_ints[v + i], &ints[i]));
        *out = (th_attr){.kind = TH_ATTR_INTS, .count = count, .ints = ints};
      }
      return TH_OK;
    default: return TH_ERROR(INVALID_ARGUMENT, "kind %u, which is unknown", m->attr_kind[k]);
  }
}

static th_status operand_at(const decoder *d, uint32_t graph, uint32_t v, th_value *out) {
  *out = TH_NO_VALUE;
  if (v == TH_NO_VALUE) return TH_OK;
  if (v >= d->n_values) return TH_ERROR(INVALID_ARGUMENT, "value %u of %zu", v, d->n_values);
  if (d->value_graph[v] != graph) return TH_ERROR(INVALID_ARGUMENT, "value %u of another graph (%u)", v, d->value_graph[v]);
  if (d->map[v] == TH_NO_VALUE) return TH_ERROR(INVALID_ARGUMENT, "value %u, which is defined later", v);
  *out = d->map[v];
  return TH_OK;
}

static th_status check_operands(const th_op_spec *spec, const th_value *operands, uint32_t n) {
  bool variadic = spec->n_operands && spec->operands[spec->n_operands - 1].variadic;
  uint32_t fixed = spec->n_operands - variadic;
  if (n < fixed || (n > fixed && !variadic)) return TH_ERROR(INVALID_ARGUMENT, "has %u operands, want %s%u", n, variadic ? "at least " : "", fixed);
  for (uint32_t i = 0; i < fixed; i++)
    if (operands[i] == TH_NO_VALUE && !spec->operands[i].optional) return TH_ERROR(INVALID_ARGUMENT, "operand %s is absent", spec->operands[i].name);
  return TH_OK;
}

static const char *type_text(decoder *d, const th_type *type) {
  th_strbuf s = th_strbuf_make(d->a);
  th_strbuf_printf(&s, "%s[", th_dtype_name(type->dtype));
  for (uint32_t i = 0; i < type->rank; i++) {
    if (i) th_strbuf_add(&s, ", ");
    th_dim_print(d->c, type->dims[i], &s);
  }
  th_strbuf_add(&s, "]");
  return th_strbuf_text(&s);
}

static bool may_be_equal(const decoder *d, const th_type *a, const th_type *b) {
  int64_t x, y;
  if (a->rank != b->rank || (a->dtype != b->dtype && !d->autocast)) return false;
  for (uint32_t i = 0; i < a->rank; i++)
    if (th_dim_is_const(d->c, a->dims[i], &x) && th_dim_is_const(d->c, b->dims[i], &y) && x != y) return false;
  return true;
}

static th_status decode_op(decoder *d, uint32_t graph, uint32_t number, uint32_t *value) {
  const Thunder__Wire__Trace *m = d->m;
  enum { MAX_ATTRS = 16 };
  const char *name, *attr_name, *executor;
  th_attr attrs[MAX_ATTRS] = {0};
  TH_TRY(string_at(d, "op_name", m->op_name[number], &name));
  th_op_kind kind = th_op_find(name, strlen(name));
  if (kind == TH_OP_COUNT) return TH_ERROR(INVALID_ARGUMENT, "there is no op called \"%.80s\"", name);
  const th_op_spec *spec = th_op_spec_get(kind);
  if (spec->level >= TH_LEVEL_REGION) return TH_ERROR(INVALID_ARGUMENT, "%s is of level %d; a job's trace has torch ops and prims", name, spec->level);
  for (uint32_t k = m->op_attrs_begin[number]; k < m->op_attrs_begin[number + 1]; k++) {
    TH_TRY(string_at(d, "attr_name", m->attr_name[k], &attr_name));
    int at = th_op_attr_index(kind, attr_name);
    if (at < 0) return TH_ERROR(INVALID_ARGUMENT, "%s has no attribute \"%.80s\"", name, attr_name);
    th_status status = decode_attr(d, k, graph, &attrs[at]);
    if (status) return th_status_prefix(status, "attribute %s refers to", attr_name);
  }
  uint32_t n = m->op_operands_begin[number + 1] - m->op_operands_begin[number];
  th_value *operands = TH_ARENA_ARRAY(d->a, th_value, n);
  for (uint32_t k = 0; k < n; k++) {
    th_status status = operand_at(d, graph, m->operands[m->op_operands_begin[number] + k], &operands[k]);
    if (status) return th_status_prefix(status, "%s: operand %u refers to", name, k);
  }
  TH_TRY(check_operands(spec, operands, n));
  th_builder b = th_builder_make(d->t, graph);
  b.no_grad = m->op_flags[number] & 1;
  b.origin = number;
  if (m->op_autocast[number]) {
    b.autocast = th_dtype_from_wire((int)m->op_autocast[number]);
    if (!th_dtype_is_float(b.autocast)) return TH_ERROR(INVALID_ARGUMENT, "is in an autocast region of dtype %u, want a float", m->op_autocast[number]);
  }
  th_op *op = th_build(&b, kind, operands, n, attrs);
  if (!op) return b.status;
  if (m->op_executor[number]) {
    TH_TRY(string_at(d, "op_executor", m->op_executor[number], &executor));
    op->executor = th_intern(d->c, executor);
  }
  uint32_t said = m->op_results[number];
  if (said > op->n_results) return TH_ERROR(INVALID_ARGUMENT, "%s has %u results, want at most %u", name, said, op->n_results);
  for (uint32_t k = 0; k < said; k++, ++*value) {
    th_type type;
    d->map[*value] = op->result + k;
    if (m->value_type[*value] == TH_NONE) continue; /* not said: as inferred */
    TH_TRY(type_at(d, "value_type", m->value_type[*value], &type));
    if (!may_be_equal(d, &type, th_type_of(d->t, op->result + k)))
      return TH_ERROR(INVALID_ARGUMENT, "%s: result %u is said to be %s, but is %s", name, k, type_text(d, &type), type_text(d, th_type_of(d->t, op->result + k)));
    d->t->values[op->result + k].type.sharding = type.sharding;
  }
  return TH_OK;
}

static th_status decode_graph(decoder *d, uint32_t g) {
  const Thunder__Wire__Trace *m = d->m;
  uint32_t value = d->first_value[g] + m->graph_inputs[g];
  for (uint32_t i = d->first_op[g]; i < d->first_op[g + 1]; i++) {
    th_status status = decode_op(d, g, i, &value);
    if (!status) continue;
    return g ? th_status_prefix(status, "graph %u op %u", g, i - d->first_op[g]) : th_status_prefix(status, "op %u", i);
  }
  uint32_t begin = m->graph_outputs_begin[g], n = m->graph_outputs_begin[g + 1] - begin;
  th_value *outputs = TH_ARENA_ARRAY(d->a, th_value, n);
  for (uint32_t i = 0; i < n; i++) {
    th_status status = operand_at(d, g, m->graph_outputs[begin + i], &outputs[i]);
    if (!status && outputs[i] == TH_NO_VALUE) status = TH_ERROR(INVALID_ARGUMENT, "nothing");
    if (status) return th_status_prefix(status, "trace: output %u of graph %u is", i, g);
  }
  th_trace_set_outputs(d->t, g, outputs, n);
  return TH_OK;
}

static th_status strides_at(decoder *d, const char *what, uint32_t i, const uint32_t *begin, const uint32_t *pool, uint32_t rank, const th_dim **out) {
  uint32_t n = begin[i + 1] - begin[i];
  *out = NULL;
  if (!n) return TH_OK;
  if (n != rank) return BAD("%s %u has %u strides, want %u", what, i, n, rank);
  th_dim *strides = TH_ARENA_ARRAY(d->a, th_dim, n);
  for (uint32_t k = 0; k < n; k++) TH_TRY(dim_at(d, "strides", pool[begin[i] + k], &strides[k]));
  *out = strides;
  return TH_OK;
}

static th_status decode_signature(decoder *d) {
  const Thunder__Wire__Trace *m = d->m;
  th_trace *t = d->t;
  const th_graph *g = t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    th_input *input = &t->inputs[i];
    if (m->input_kind[i] >= TH_INPUT_KIND_COUNT) return BAD("input %u is of kind %u, which is unknown", i, m->input_kind[i]);
    input->kind = (th_input_kind)m->input_kind[i];
    input->donated = m->input_flags[i] & 1;
    input->requires_grad = m->input_flags[i] >> 1 & 1;
    input->written_by = m->input_written_by[i];
    if (input->written_by < -1 || input->written_by >= (int64_t)g->n_outputs) return BAD("input %u is written by output %d of %u", i, input->written_by, g->n_outputs);
    TH_TRY(strides_at(d, "input", i, m->input_strides_begin, m->input_strides, th_type_of(t, g->inputs[i])->rank, &input->strides));
    if (input->kind == TH_INPUT_INTEGER && (th_type_of(t, g->inputs[i])->rank || th_type_of(t, g->inputs[i])->dtype != TH_DTYPE_i64))
      return BAD("input %u is an integer, but not of type i64[]", i);
    if (input->written_by >= 0 && (!th_type_same_shape(th_type_of(t, g->inputs[i]), th_type_of(t, g->outputs[input->written_by])) ||
                                   th_type_of(t, g->inputs[i])->dtype != th_type_of(t, g->outputs[input->written_by])->dtype))
      return BAD("output %d is written into input %u, but is of another type", input->written_by, i);
  }
  t->outputs = TH_ARENA_ARRAY(d->a, th_output, g->n_outputs);
  for (uint32_t i = 0; i < g->n_outputs; i++) {
    th_output *output = &t->outputs[i];
    if (m->output_kind[i] >= TH_OUTPUT_KIND_COUNT) return BAD("output %u is of kind %u, which is unknown", i, m->output_kind[i]);
    output->kind = (th_output_kind)m->output_kind[i];
    output->base = m->output_base[i];
    bool of_output = output->kind == TH_OUTPUT_VIEW_OF_OUTPUT, based = output->kind != TH_OUTPUT_FRESH && output->kind != TH_OUTPUT_SAVED;
    if (based && (output->base >= (of_output ? g->n_outputs : g->n_inputs) || (of_output && m->output_kind[output->base] == TH_OUTPUT_VIEW_OF_OUTPUT))) return BAD("output %u is based on %s %u", i, of_output ? "output" : "input", output->base);
    TH_TRY(strides_at(d, "output", i, m->output_strides_begin, m->output_strides, th_type_of(t, g->outputs[i])->rank, &output->strides));
    TH_TRY(dim_at(d, "output_offset", m->output_offset[i], &output->offset));
    if (output->kind == TH_OUTPUT_WRITTEN && t->inputs[output->base].written_by < 0) t->inputs[output->base].written_by = (int32_t)i;
  }
  for (uint32_t i = 0; i < th_symbol_count(d->c); i++) {
    const th_symbol *s = th_symbol_get(d->c, i);
    const th_type *type = th_type_of(t, g->inputs[s->input]);
    if (s->source == TH_SYMBOL_SIZE ? s->dimension >= type->rank : t->inputs[s->input].kind != TH_INPUT_INTEGER)
      return BAD("symbol %u comes from input %u, which does not give it", i, s->input);
  }
  return TH_OK;
}

th_status th_trace_decode(th_context *c, const uint8_t *bytes, size_t size, th_trace **out) {
  th_arena *a = th_context_arena(c);
  ProtobufCAllocator allocator = {allocate, release, a};
  decoder d = {.c = c, .a = a};
  d.m = thunder__wire__trace__unpack(&allocator, size, bytes);
  if (!d.m) return BAD("these %zu bytes are not a Trace message", size);
  if (d.m->version != 1) return BAD("version %u; this build reads version 1", d.m->version);
  if (th_symbol_count(c)) return TH_ERROR(INTERNAL, "a trace is decoded into a context that has symbols already");
  d.t = th_trace_create(c);
  TH_TRY(check_tables(&d));
  TH_TRY(decode_symbols(&d));
  TH_TRY(decode_dims(&d));
  TH_TRY(decode_shardings(&d));
  TH_TRY(number_graphs(&d));
  for (size_t i = 0; i < d.n_ops; i++) d.autocast |= d.m->op_autocast[i] != 0;
  for (uint32_t g = 0; g < d.n_graphs; g++) {
    const char *name;
    TH_TRY(string_at(&d, "graph_name", d.m->graph_name[g], &name));
    th_trace_add_graph(d.t, name);
    for (uint32_t i = 0; i < d.m->graph_inputs[g]; i++) {
      th_type type;
      uint32_t v = d.first_value[g] + i;
      TH_TRY(type_at(&d, "value_type", d.m->value_type[v], &type));
      d.map[v] = th_trace_add_input(d.t, g, type);
    }
  }
  for (uint32_t g = (uint32_t)d.n_graphs; g-- > 0;) TH_TRY(decode_graph(&d, g));
  TH_TRY(decode_signature(&d));
  *out = d.t;
  return TH_OK;
}
