#include "ir/build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/lower/lower.h"

void th_fail(th_builder *b, th_status status) {
  if (b->status) th_status_free(status);
  else b->status = status;
}

/* ---- attributes ---- */

static th_status default_attr(th_context *c, const th_attr_spec *spec, th_attr *out) {
  const char *text = spec->fallback;
  char *end;
  switch (spec->kind) {
    case TH_ATTR_INT: *out = th_make_int(c, strtoll(text, NULL, 10)); return TH_OK;
    case TH_ATTR_FLOAT: *out = th_make_float(strtod(text, NULL)); return TH_OK;
    case TH_ATTR_BOOL: *out = th_make_bool(!strcmp(text, "true")); return TH_OK;
    case TH_ATTR_STRING: *out = th_make_string(c, text); return TH_OK;
    case TH_ATTR_SCALAR: {
      long long i = strtoll(text, &end, 10);
      *out = *end ? th_make_float(strtod(text, NULL)) : th_make_int(c, i);
      return TH_OK;
    }
    case TH_ATTR_INTS: *out = th_make_int64s(c, (int64_t[]){strtoll(text, NULL, 10)}, *text ? 1 : 0); return TH_OK;
    default: return TH_ERROR(INTERNAL, "attribute %s cannot have a default", spec->name);
  }
}

th_status th_attrs_complete(th_context *c, th_op_kind kind, th_attr *attrs) {
  const th_op_spec *spec = th_op_spec_get(kind);
  for (uint32_t i = 0; i < spec->n_attrs; i++) {
    const th_attr_spec *s = &spec->attrs[i];
    th_attr *a = &attrs[i];
    if (a->kind == TH_ATTR_ABSENT) {
      if (s->has_default) TH_TRY(default_attr(c, s, a));
      else if (!s->optional) return TH_ERROR(INVALID_ARGUMENT, "op %s: attribute %s is missing", spec->name, s->name);
      continue;
    }
    if (s->kind == TH_ATTR_FLOAT && a->kind == TH_ATTR_INT) { /* 1 for 1.0 */
      int64_t v;
      if (th_dim_is_const(c, a->i, &v)) *a = th_make_float((double)v);
    }
    if (s->kind == TH_ATTR_INTS && a->kind == TH_ATTR_INT) *a = th_make_ints(c, &a->i, 1);
    bool fits = s->kind == a->kind ||
                (s->kind == TH_ATTR_SCALAR && (a->kind == TH_ATTR_INT || a->kind == TH_ATTR_FLOAT || a->kind == TH_ATTR_BOOL));
    if (!fits)
      return TH_ERROR(INVALID_ARGUMENT, "op %s: attribute %s is a %s, want %s", spec->name, s->name, th_attr_kind_name(a->kind),
                      th_attr_kind_name(s->kind));
    if (a->kind == TH_ATTR_DTYPE && (a->dtype == TH_DTYPE_none || a->dtype >= TH_DTYPE_COUNT))
      return TH_ERROR(INVALID_ARGUMENT, "op %s: attribute %s is no dtype", spec->name, s->name);
  }
  return TH_OK;
}

/* ---- building ---- */

th_op *th_build(th_builder *b, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs) {
  static _Thread_local th_type types[TH_MAX_RESULTS];
  enum { MAX_ATTRS = 16 };
  th_attr completed[MAX_ATTRS] = {0};
  uint32_t n_results, n_attrs = th_op_spec_get(kind)->n_attrs;
  if (b->status) return NULL;
  if (attrs) memcpy(completed, attrs, n_attrs * sizeof *attrs);
  th_status status = th_attrs_complete(th_ctx(b), kind, completed);
  if (!status) status = th_infer(b->trace, kind, operands, n_operands, completed, types, TH_MAX_RESULTS, &n_results);
  if (status) {
    th_fail(b, status);
    return NULL;
  }
  th_op *op = th_trace_add_op(b->trace, b->graph, kind, operands, n_operands, completed, types, n_results);
  op->no_grad = b->no_grad;
  op->autocast = b->autocast;
  op->origin = b->origin;
  return op;
}

th_value th_build1(th_builder *b, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs) {
  th_op *op = th_build(b, kind, operands, n_operands, attrs);
  return op ? op->result : TH_NO_VALUE;
}

/* ---- rules ---- */

static const th_lower_rule lower_rules[TH_OP_COUNT] = {
#define TH_OP(id, name_, level_, o_, operands_, attrs_, results_, traits_, lower_, vjp_, doc_) [TH_OP_##id] = th__lower_##lower_,
#include "ir/ops.def"
#undef TH_OP
};

th_lower_rule th_lower_rule_get(th_op_kind kind) { return lower_rules[kind]; }

static th_status run_rule(th_builder *b, const th_trace *source, th_op_kind kind, const th_attr *attrs, const th_value *in,
                          uint32_t n, th_value *results, uint32_t *n_results) {
  const th_op_spec *spec = th_op_spec_get(kind);
  if (!lower_rules[kind]) return TH_ERROR(UNIMPLEMENTED, "op %s has no lowering", spec->name);
  if (b->status) return TH_OK;
  th_rule rule = {.b = b, .kind = kind, .attrs = attrs, .in = in, .n_in = n, .out = results, .source = source};
  lower_rules[kind](&rule);
  if (b->status) {
    th_status status = b->status;
    b->status = NULL;
    return spec->level == TH_LEVEL_TORCH ? th_status_prefix(status, "op %s", spec->name) : status;
  }
  if (spec->n_results >= 0 && (uint32_t)spec->n_results != rule.n_out)
    return TH_ERROR(INTERNAL, "op %s: its rule made %u results, want %d", spec->name, rule.n_out, spec->n_results);
  *n_results = rule.n_out;
  return TH_OK;
}

th_status th_lower_op(th_builder *b, const th_trace *source, const th_op *op, const th_value *in, th_value *results) {
  static _Thread_local th_value scratch[TH_MAX_RESULTS];
  uint32_t n = 0;
  TH_TRY(run_rule(b, source, op->kind, op->attrs, in, op->n_operands, scratch, &n));
  if (n != op->n_results) return TH_ERROR(INTERNAL, "op %s: its rule made %u results, the op has %u", th_op_name(op->kind), n, op->n_results);
  memcpy(results, scratch, n * sizeof *results);
  return TH_OK;
}

th_status th_infer_by_lowering(th_trace *trace, th_op_kind kind, const th_value *operands, uint32_t n, const th_attr *attrs,
                               th_type *out_types, uint32_t capacity, uint32_t *out_count) {
  /* The rule runs on a graph of its own at the end of the trace, which is then cut off again. Rules recurse, so the
   * result list is taken from the arena. */
  size_t n_values = trace->n_values, n_graphs = trace->n_graphs;
  th_value in[64], *more = in;
  uint32_t n_results = 0;
  if (n > 64) more = TH_ARENA_ARRAY(th_context_arena(trace->context), th_value, n);
  th_trace_add_graph(trace, "infer");
  th_builder b = th_builder_make(trace, (uint32_t)n_graphs);
  b.scratch = true;
  for (uint32_t i = 0; i < n; i++) {
    if (operands[i] == TH_NO_VALUE) more[i] = TH_NO_VALUE;
    else more[i] = th_trace_add_input(trace, b.graph, trace->values[operands[i]].type);
  }
  const th_op_spec *spec = th_op_spec_get(kind);
  uint32_t room = spec->n_results >= 0 ? (uint32_t)spec->n_results + 1 : TH_MAX_RESULTS;
  th_value *results = TH_ARENA_ARRAY(th_context_arena(trace->context), th_value, room);
  th_status status = run_rule(&b, trace, kind, attrs, more, n, results, &n_results);
  for (uint32_t i = 0; !status && i < n_results; i++) {
    if (i == capacity) status = TH_ERROR(INVALID_ARGUMENT, "op %s has more than %u results", spec->name, capacity);
    else {
      out_types[i] = trace->values[results[i]].type;
      if (kind != TH_OP_torch_scalar) out_types[i].weak = false;
    }
  }
  trace->n_values = n_values;
  trace->n_graphs = n_graphs;
  *out_count = n_results;
  return status;
}

const th_attr *th_rule_attr(const th_rule *r, const char *name) {
  static const th_attr absent = {0};
  int i = th_op_attr_index(r->kind, name);
  return i < 0 ? &absent : &r->attrs[i];
}
bool th_rule_has(const th_rule *r, const char *name) { return th_rule_attr(r, name)->kind != TH_ATTR_ABSENT; }

double th_rule_float(th_rule *r, const char *name) {
  const th_attr *a = th_rule_attr(r, name);
  int64_t i;
  if (a->kind == TH_ATTR_FLOAT) return a->f;
  if (a->kind == TH_ATTR_BOOL) return a->b;
  if (a->kind == TH_ATTR_INT && th_dim_is_const(th_ctx(r->b), a->i, &i)) return (double)i;
  if (a->kind == TH_ATTR_INT) th_rule_refuse(r, "%s must be a constant", name);
  return NAN;
}

bool th_rule_bool(const th_rule *r, const char *name) {
  const th_attr *a = th_rule_attr(r, name);
  return a->kind == TH_ATTR_BOOL && a->b;
}

void th_rule_fail(th_rule *r, const char *format, ...) {
  va_list args;
  va_start(args, format);
  th_fail(r->b, th_status_createv(TH_CODE_INVALID_ARGUMENT, __FILE__, __LINE__, format, args));
  va_end(args);
}

void th_rule_refuse(th_rule *r, const char *format, ...) {
  va_list args;
  va_start(args, format);
  th_fail(r->b, th_status_createv(TH_CODE_UNIMPLEMENTED, __FILE__, __LINE__, format, args));
  va_end(args);
}

int64_t th_rule_int(th_rule *r, const char *name) {
  const th_attr *a = th_rule_attr(r, name);
  int64_t i = 0;
  if (a->kind == TH_ATTR_BOOL) return a->b;
  if (a->kind != TH_ATTR_INT || !th_dim_is_const(th_ctx(r->b), a->i, &i)) th_rule_refuse(r, "%s must be a constant integer", name);
  return i;
}

th_dim th_rule_dim(const th_rule *r, const char *name) {
  const th_attr *a = th_rule_attr(r, name);
  return a->kind == TH_ATTR_INT ? a->i : 0;
}

th_dtype th_rule_dtype(const th_rule *r, const char *name, th_dtype fallback) {
  const th_attr *a = th_rule_attr(r, name);
  return a->kind == TH_ATTR_DTYPE ? a->dtype : fallback;
}

uint32_t th_rule_dims(th_rule *r, const char *name, uint32_t rank, int64_t *out) {
  const th_attr *a = th_rule_attr(r, name);
  const th_dim *list = a->kind == TH_ATTR_INTS ? a->ints : a->kind == TH_ATTR_INT ? &a->i : NULL;
  uint32_t n = a->kind == TH_ATTR_INTS ? a->count : a->kind == TH_ATTR_INT ? 1 : 0;
  if (n == 0) {
    for (uint32_t i = 0; i < rank; i++) out[i] = i;
    return rank;
  }
  if (rank == 0) { /* torch lets dim 0 and -1 name the only place of a rank-0 tensor */
    return 0;
  }
  if (n > rank) {
    th_rule_fail(r, "%s has %u entries for a rank %u tensor", name, n, rank);
    return 0;
  }
  for (uint32_t i = 0; i < n; i++) {
    int64_t d = INT64_MIN;
    if (!th_dim_is_const(th_ctx(r->b), list[i], &d)) th_rule_fail(r, "%s must be constants", name);
    out[i] = th_wrap_dim(r->b, d, rank);
    for (uint32_t k = 0; k < i; k++)
      if (out[k] == out[i]) th_rule_fail(r, "%s names dimension %lld twice", name, (long long)out[i]);
  }
  return r->b->status ? 0 : n;
}

const th_dim *th_rule_sizes(th_rule *r, const char *name, uint32_t n) {
  const th_attr *a = th_rule_attr(r, name);
  th_dim *out = TH_ARENA_ARRAY(th_context_arena(th_ctx(r->b)), th_dim, n + 1);
  if (a->kind != TH_ATTR_INTS || (a->count != n && a->count != 1)) {
    th_rule_fail(r, "%s has %u entries, want %u", name, a->kind == TH_ATTR_INTS ? a->count : 0, n);
    return out;
  }
  for (uint32_t i = 0; i < n; i++) out[i] = a->ints[a->count == 1 ? 0 : i];
  return out;
}

static th_value run_time_input(th_builder *b, th_input_kind kind) {
  th_trace *t = b->trace;
  th_type type = th_type_scalar(TH_DTYPE_i64);
  type.host = true;
  if (b->scratch) return th_trace_add_input(t, b->graph, type);
  if (b->graph != 0) {
    th_fail(b, TH_ERROR(UNIMPLEMENTED, "a random op inside a sub-graph that is not inlined"));
    return TH_NO_VALUE;
  }
  for (uint32_t i = 0; i < t->graphs[0]->n_inputs; i++)
    if (t->inputs[i].kind == kind) return t->graphs[0]->inputs[i];
  th_value v = th_trace_add_input(t, 0, type);
  t->inputs[t->graphs[0]->n_inputs - 1].kind = kind;
  return v;
}

th_value th_seed(th_builder *b) { return run_time_input(b, TH_INPUT_SEED); }
th_value th_offset(th_builder *b) {
  run_time_input(b, TH_INPUT_SEED); /* always in this order */
  return run_time_input(b, TH_INPUT_OFFSET);
}

/* ---- prims as functions ---- */

static const th_type *type_of(const th_builder *b, th_value v) { return &b->trace->values[v].type; }
uint32_t th_rank(const th_builder *b, th_value x) { return b->status || x == TH_NO_VALUE ? 0 : type_of(b, x)->rank; }
th_dtype th_dtype_of(const th_builder *b, th_value x) { return b->status || x == TH_NO_VALUE ? TH_DTYPE_f32 : type_of(b, x)->dtype; }

th_dim th_size(th_builder *b, th_value x, int64_t dim) {
  if (b->status) return 0;
  uint32_t d = th_wrap_dim(b, dim, type_of(b, x)->rank);
  return b->status ? 0 : type_of(b, x)->dims[d];
}

uint32_t th_wrap_dim(th_builder *b, int64_t dim, uint32_t rank) {
  int64_t n = rank ? rank : 1;
  if (dim < -n || dim >= n) {
    th_fail(b, TH_ERROR(OUT_OF_RANGE, "dimension %lld is out of range for rank %u (want %lld to %lld)", (long long)dim, rank,
                        (long long)-n, (long long)n - 1));
    return 0;
  }
  return (uint32_t)(dim < 0 ? dim + n : dim);
}

th_value th_convert(th_builder *b, th_value x, th_dtype dtype) {
  if (b->status) return TH_NO_VALUE;
  const th_type *t = type_of(b, x);
  if (t->dtype == dtype && !t->weak) return x;
  const th_op *def = b->trace->values[x].def;
  if (t->weak && def && def->kind == TH_OP_weak) { /* a Python number becomes a constant of the dtype */
    th_attr attrs[] = {def->attrs[0], th_make_dtype(dtype)};
    return th_build1(b, TH_OP_const, NULL, 0, attrs);
  }
  return th_build1(b, TH_OP_convert, &x, 1, (th_attr[]){th_make_dtype(dtype)});
}

th_value th_const(th_builder *b, double value, th_dtype dtype) {
  th_attr v = th_make_float(value);
  if (!th_dtype_is_float(dtype) && !th_dtype_is_complex(dtype) && value == floor(value) && fabs(value) < 9007199254740992.0)
    v = th_make_int(th_ctx(b), (int64_t)value);
  return th_build1(b, TH_OP_const, NULL, 0, (th_attr[]){v, th_make_dtype(dtype)});
}

th_value th_const_dim(th_builder *b, th_dim value, th_dtype dtype) {
  return th_build1(b, TH_OP_const, NULL, 0, (th_attr[]){th_make_dim(value), th_make_dtype(dtype)});
}

th_value th_full(th_builder *b, double value, th_dtype dtype, const th_dim *dims, uint32_t rank) {
  return th_broadcast_to(b, th_const(b, value, dtype), dims, rank);
}

th_value th_like(th_builder *b, double value, th_value x) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, x);
  return th_full(b, value, t.dtype, t.dims, t.rank);
}

th_value th_iota(th_builder *b, const th_dim *dims, uint32_t rank, uint32_t dim, th_dtype dtype) {
  th_attr attrs[] = {th_make_ints(th_ctx(b), dims, rank), th_make_int(th_ctx(b), dim), th_make_dtype(dtype)};
  return th_build1(b, TH_OP_iota, NULL, 0, attrs);
}

th_value th_broadcast(th_builder *b, th_value x, const th_dim *dims, uint32_t rank, const int64_t *map) {
  if (b->status) return TH_NO_VALUE;
  const th_type *t = type_of(b, x);
  if (t->rank == rank && (rank == 0 || !memcmp(t->dims, dims, rank * sizeof *dims))) return x;
  th_attr attrs[] = {th_make_ints(th_ctx(b), dims, rank), th_make_int64s(th_ctx(b), map, t->rank)};
  return th_build1(b, TH_OP_broadcast, &x, 1, attrs);
}

th_value th_broadcast_to(th_builder *b, th_value x, const th_dim *dims, uint32_t rank) {
  if (b->status) return TH_NO_VALUE;
  int64_t map[TH_MAX_RANK];
  uint32_t r = type_of(b, x)->rank;
  if (r > rank || rank > TH_MAX_RANK) {
    th_fail(b, TH_ERROR(INVALID_ARGUMENT, "a rank %u value cannot be expanded to rank %u", r, rank));
    return TH_NO_VALUE;
  }
  for (uint32_t i = 0; i < r; i++) map[i] = rank - r + i;
  return th_broadcast(b, x, dims, rank, map);
}

th_value th_broadcast_like(th_builder *b, th_value x, th_value like) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, like);
  return th_broadcast_to(b, x, t.dims, t.rank);
}

th_value th_reshape(th_builder *b, th_value x, const th_dim *dims, uint32_t rank) {
  if (b->status) return TH_NO_VALUE;
  const th_type *t = type_of(b, x);
  if (t->rank == rank && (rank == 0 || !memcmp(t->dims, dims, rank * sizeof *dims))) return x;
  return th_build1(b, TH_OP_reshape, &x, 1, (th_attr[]){th_make_ints(th_ctx(b), dims, rank)});
}

th_value th_transpose(th_builder *b, th_value x, const int64_t *permutation) {
  if (b->status) return TH_NO_VALUE;
  uint32_t rank = type_of(b, x)->rank, fixed = 0;
  while (fixed < rank && permutation[fixed] == fixed) fixed++;
  if (fixed == rank) return x;
  return th_build1(b, TH_OP_transpose, &x, 1, (th_attr[]){th_make_int64s(th_ctx(b), permutation, rank)});
}

th_value th_swap_dims(th_builder *b, th_value x, uint32_t i, uint32_t j) {
  int64_t p[TH_MAX_RANK];
  if (b->status) return TH_NO_VALUE;
  for (uint32_t k = 0; k < type_of(b, x)->rank; k++) p[k] = k == i ? j : k == j ? i : k;
  return th_transpose(b, x, p);
}

th_value th_slice(th_builder *b, th_value x, const th_dim *start, const th_dim *limit, const th_dim *stride) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, x);
  bool whole = true;
  for (uint32_t i = 0; i < t.rank; i++)
    whole &= th_dim_is(th_ctx(b), start[i], 0) && limit[i] == t.dims[i] && th_dim_is(th_ctx(b), stride[i], 1);
  if (whole) return x;
  th_attr attrs[] = {th_make_ints(th_ctx(b), start, t.rank), th_make_ints(th_ctx(b), limit, t.rank),
                     th_make_ints(th_ctx(b), stride, t.rank)};
  return th_build1(b, TH_OP_slice, &x, 1, attrs);
}

th_value th_slice_dim(th_builder *b, th_value x, uint32_t dim, th_dim start, th_dim limit, th_dim stride) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, x);
  th_dim s[TH_MAX_RANK], l[TH_MAX_RANK], k[TH_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) {
    s[i] = i == dim ? start : th_dim_const(th_ctx(b), 0);
    l[i] = i == dim ? limit : t.dims[i];
    k[i] = i == dim ? stride : th_dim_const(th_ctx(b), 1);
  }
  return th_slice(b, x, s, l, k);
}

th_value th_pad(th_builder *b, th_value x, th_value value, const th_dim *low, const th_dim *high, const th_dim *interior) {
  if (b->status) return TH_NO_VALUE;
  uint32_t rank = type_of(b, x)->rank;
  th_dim zero = th_dim_const(th_ctx(b), 0), none[TH_MAX_RANK];
  bool nothing = true;
  for (uint32_t i = 0; i < rank; i++) {
    none[i] = zero;
    nothing &= low[i] == zero && high[i] == zero && (!interior || interior[i] == zero);
  }
  if (nothing) return x;
  th_attr attrs[] = {th_make_ints(th_ctx(b), low, rank), th_make_ints(th_ctx(b), high, rank),
                     th_make_ints(th_ctx(b), interior ? interior : none, rank)};
  return th_build1(b, TH_OP_pad, (th_value[]){x, value}, 2, attrs);
}

th_value th_concat(th_builder *b, const th_value *xs, uint32_t count, uint32_t dim) {
  if (count == 1) return xs[0];
  return th_build1(b, TH_OP_concat, xs, count, (th_attr[]){th_make_int(th_ctx(b), dim)});
}

th_value th_reverse(th_builder *b, th_value x, const int64_t *dims, uint32_t count) {
  return th_build1(b, TH_OP_reverse, &x, 1, (th_attr[]){th_make_int64s(th_ctx(b), dims, count)});
}

th_value th_reduce(th_builder *b, th_op_kind kind, th_value x, const int64_t *dims, uint32_t count, bool keepdim) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, x);
  th_value y = count ? th_build1(b, kind, &x, 1, (th_attr[]){th_make_int64s(th_ctx(b), dims, count)}) : x;
  if (!keepdim || b->status) return y;
  th_dim kept[TH_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) kept[i] = t.dims[i];
  for (uint32_t i = 0; i < count; i++) kept[dims[i]] = th_dim_const(th_ctx(b), 1);
  return th_reshape(b, y, kept, t.rank);
}

th_value th_sum_to(th_builder *b, th_value x, const th_dim *dims, uint32_t rank) {
  if (b->status) return TH_NO_VALUE;
  th_type t = *type_of(b, x);
  int64_t reduced[TH_MAX_RANK];
  uint32_t n = 0, lead = t.rank - rank;
  for (uint32_t i = 0; i < t.rank; i++)
    if (i < lead || dims[i - lead] != t.dims[i]) reduced[n++] = i;
  return th_reshape(b, th_reduce(b, TH_OP_reduce_sum, x, reduced, n, false), dims, rank);
}

th_value th_dot(th_builder *b, th_value lhs, th_value rhs, const int64_t *lhs_batch, const int64_t *rhs_batch, uint32_t n_batch,
                const int64_t *lhs_contract, const int64_t *rhs_contract, uint32_t n_contract) {
  th_context *c = th_ctx(b);
  th_attr attrs[] = {th_make_int64s(c, lhs_batch, n_batch), th_make_int64s(c, rhs_batch, n_batch),
                     th_make_int64s(c, lhs_contract, n_contract), th_make_int64s(c, rhs_contract, n_contract)};
  return th_build1(b, TH_OP_dot, (th_value[]){lhs, rhs}, 2, attrs);
}

th_value th_take(th_builder *b, th_value x, th_value indices, uint32_t dim) {
  return th_build1(b, TH_OP_take, (th_value[]){x, indices}, 2, (th_attr[]){th_make_int(th_ctx(b), dim)});
}

/* ---- shapes and promotion ---- */

uint32_t th_broadcast_shapes(th_builder *b, const th_value *xs, uint32_t count, th_dim *dims) {
  uint32_t rank = 0;
  if (b->status) return 0;
  for (uint32_t i = 0; i < count; i++)
    if (xs[i] != TH_NO_VALUE && type_of(b, xs[i])->rank > rank) rank = type_of(b, xs[i])->rank;
  th_dim one = th_dim_const(th_ctx(b), 1);
  for (uint32_t d = 0; d < rank; d++) dims[d] = one;
  for (uint32_t i = 0; i < count; i++) {
    if (xs[i] == TH_NO_VALUE) continue;
    const th_type *t = type_of(b, xs[i]);
    for (uint32_t d = 0; d < t->rank; d++) {
      th_dim *slot = &dims[rank - t->rank + d];
      if (t->dims[d] == *slot || t->dims[d] == one) continue;
      if (*slot == one) {
        *slot = t->dims[d];
        continue;
      }
      th_strbuf text = th_strbuf_make(th_context_arena(th_ctx(b)));
      for (uint32_t k = 0; k < count; k++) {
        if (xs[k] == TH_NO_VALUE) continue;
        th_strbuf_add(&text, k ? " and [" : "[");
        for (uint32_t m = 0; m < type_of(b, xs[k])->rank; m++) {
          if (m) th_strbuf_add(&text, ", ");
          th_dim_print(th_ctx(b), type_of(b, xs[k])->dims[m], &text);
        }
        th_strbuf_add(&text, "]");
      }
      th_fail(b, TH_ERROR(INVALID_ARGUMENT, "shapes %s cannot be broadcast together (dimension %d)", th_strbuf_text(&text),
                          (int)d - (int)t->rank));
      return 0;
    }
  }
  return rank;
}

/* PyTorch, "Type promotion": tensors with dimensions outrank rank-0 tensors, which outrank numbers, unless the lower
 * class is of a higher category; then the higher category's dtype (a default one for numbers) wins. */
th_dtype th_result_type(th_builder *b, const th_value *xs, uint32_t count) {
  th_dtype by_class[3] = {TH_DTYPE_none, TH_DTYPE_none, TH_DTYPE_none}; /* dimensioned, rank 0, numbers */
  if (b->status) return TH_DTYPE_f32;
  for (uint32_t i = 0; i < count; i++) {
    if (xs[i] == TH_NO_VALUE) continue;
    const th_type *t = type_of(b, xs[i]);
    int k = t->weak ? 2 : t->rank ? 0 : 1;
    th_dtype d = t->weak && t->dtype == TH_DTYPE_f64 ? TH_DTYPE_f32 : t->dtype; /* the default dtype */
    by_class[k] = th_dtype_promote(by_class[k], d);
  }
  th_dtype result = by_class[0];
  for (int k = 1; k < 3; k++) {
    if (by_class[k] == TH_DTYPE_none) continue;
    if (result == TH_DTYPE_none) {
      result = by_class[k];
      continue;
    }
    th_dtype_kind low = th_dtype_kind_of(result), high = th_dtype_kind_of(by_class[k]);
    if (low == TH_KIND_UINT) low = TH_KIND_INT;
    if (high == TH_KIND_UINT) high = TH_KIND_INT;
    if (high > low) result = high == TH_KIND_COMPLEX && low == TH_KIND_FLOAT ? th_dtype_promote(result, by_class[k]) : by_class[k];
  }
  return result == TH_DTYPE_none ? TH_DTYPE_f32 : result;
}
