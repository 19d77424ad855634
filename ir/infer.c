/* Result types of the prims, and the entry of inference for all ops. Rules of a kind share a function; what a rule
 * rejects it names: the op, the operand, what it got and what it wants. */
#include <string.h>

#include "ir/build.h"
#include "ir/lower/lower.h"

typedef struct inference {
  th_context *c;
  const th_trace *trace;
  th_op_kind kind;
  const th_value *operands;
  uint32_t n_operands;
  const th_attr *attrs;
  th_type *out;
  uint32_t capacity, n_out;
} inference;

static const th_type *type_in(const inference *f, uint32_t i) { return &f->trace->values[f->operands[i]].type; }

static const char *show(const inference *f, const th_type *t) {
  th_strbuf b = th_strbuf_make(th_context_arena(f->c));
  th_strbuf_printf(&b, "%s[", th_dtype_name(t->dtype));
  for (uint32_t i = 0; i < t->rank; i++) {
    if (i) th_strbuf_add(&b, ", ");
    th_dim_print(f->c, t->dims[i], &b);
  }
  th_strbuf_add(&b, "]");
  return th_strbuf_text(&b);
}

#define BAD(f, ...) th_status_prefix(TH_ERROR(INVALID_ARGUMENT, __VA_ARGS__), "op %s", th_op_name((f)->kind))

static th_status result(inference *f, th_type t) {
  if (f->n_out == f->capacity) return BAD(f, "more than %u results", f->capacity);
  if (t.rank > TH_MAX_RANK) return BAD(f, "rank %u is above the limit of %d", t.rank, TH_MAX_RANK);
  f->out[f->n_out++] = t;
  return TH_OK;
}

static th_status result_dims(inference *f, th_dtype dtype, const th_dim *dims, uint32_t rank) {
  if (rank > TH_MAX_RANK) return BAD(f, "rank %u is above the limit of %d", rank, TH_MAX_RANK);
  return result(f, th_type_make(f->c, dtype, dims, rank));
}

static const th_attr *attr(const inference *f, const char *name) {
  return &f->attrs[th_op_attr_index(f->kind, name)];
}

static th_status ints_of(const inference *f, const char *name, uint32_t count, const th_dim **out) {
  const th_attr *a = attr(f, name);
  *out = NULL;
  if (a->count != count) return BAD(f, "%s has %u entries, want %u", name, a->count, count);
  *out = a->ints;
  return TH_OK;
}

/* A list of dimension numbers: constants in [0, rank), no repeats. */
static th_status dims_of(const inference *f, const char *name, uint32_t rank, int64_t *out, uint32_t *count) {
  const th_attr *a = attr(f, name);
  uint32_t seen = 0;
  if (a->count > rank) return BAD(f, "%s has %u entries, more than the rank %u", name, a->count, rank);
  for (uint32_t i = 0; i < a->count; i++) {
    if (!th_dim_is_const(f->c, a->ints[i], &out[i]) || out[i] < 0 || out[i] >= rank)
      return BAD(f, "%s[%u] is no dimension of a rank %u operand", name, i, rank);
    if (seen >> out[i] & 1) return BAD(f, "%s names dimension %lld twice", name, (long long)out[i]);
    seen |= 1u << out[i];
  }
  *count = a->count;
  return TH_OK;
}

static th_status dim_of(const inference *f, const char *name, uint32_t rank, int64_t *out) {
  const th_attr *a = attr(f, name);
  if (!th_dim_is_const(f->c, a->i, out) || *out < 0 || *out >= rank)
    return BAD(f, "%s is no dimension of a rank %u operand", name, rank);
  return TH_OK;
}

static th_status same_operands(const inference *f, uint32_t first) {
  for (uint32_t i = first + 1; i < f->n_operands; i++)
    if (type_in(f, i)->dtype != type_in(f, first)->dtype || !th_type_same_shape(type_in(f, i), type_in(f, first)))
      return BAD(f, "operands %u and %u differ: %s and %s; prims want equal dtypes and shapes", first, i,
                 show(f, type_in(f, first)), show(f, type_in(f, i)));
  return TH_OK;
}

static bool weak_in(const inference *f) {
  for (uint32_t i = 0; i < f->n_operands; i++)
    if (f->operands[i] != TH_NO_VALUE && type_in(f, i)->weak) return true;
  return false;
}

static th_status infer_pointwise(inference *f) {
  const th_type *x = type_in(f, 0);
  th_dtype_kind kind = th_dtype_kind_of(x->dtype);
  switch (f->kind) {
    case TH_OP_convert:
      return result_dims(f, attr(f, "dtype")->dtype, x->dims, x->rank);
    case TH_OP_isnan:
    case TH_OP_isfinite:
      return result_dims(f, TH_DTYPE_bool, x->dims, x->rank);
    case TH_OP_select:
      if (x->dtype != TH_DTYPE_bool) return BAD(f, "the predicate is %s, want bool", show(f, x));
      TH_TRY(same_operands(f, 1));
      if (!th_type_same_shape(x, type_in(f, 1)))
        return BAD(f, "the predicate is %s, the values %s: shapes differ", show(f, x), show(f, type_in(f, 1)));
      return result_dims(f, type_in(f, 1)->dtype, x->dims, x->rank);
    case TH_OP_eq: case TH_OP_ne: case TH_OP_lt: case TH_OP_le: case TH_OP_gt: case TH_OP_ge:
      TH_TRY(same_operands(f, 0));
      return result_dims(f, TH_DTYPE_bool, x->dims, x->rank);
    case TH_OP_and: case TH_OP_or: case TH_OP_xor: case TH_OP_not: case TH_OP_shl: case TH_OP_shr:
      if (kind > TH_KIND_INT) return BAD(f, "wants integers or bools, got %s", show(f, x));
      break;
    case TH_OP_exp: case TH_OP_exp2: case TH_OP_expm1: case TH_OP_log: case TH_OP_log2: case TH_OP_log1p: case TH_OP_sqrt:
    case TH_OP_rsqrt: case TH_OP_reciprocal: case TH_OP_sin: case TH_OP_cos: case TH_OP_tan: case TH_OP_asin:
    case TH_OP_acos: case TH_OP_atan: case TH_OP_sinh: case TH_OP_cosh: case TH_OP_asinh: case TH_OP_acosh:
    case TH_OP_atanh: case TH_OP_tanh: case TH_OP_erf: case TH_OP_floor: case TH_OP_ceil: case TH_OP_round:
    case TH_OP_trunc: case TH_OP_atan2:
      if (kind < TH_KIND_FLOAT) return BAD(f, "wants floating point, got %s", show(f, x));
      break;
    default: break;
  }
  TH_TRY(same_operands(f, 0));
  return result_dims(f, x->dtype, x->dims, x->rank);
}

static th_status infer_broadcast(inference *f) {
  const th_type *x = type_in(f, 0);
  const th_attr *shape = attr(f, "shape");
  int64_t map[TH_MAX_RANK];
  uint32_t n;
  if (shape->count > TH_MAX_RANK) return BAD(f, "shape has %u entries, at most %d", shape->count, TH_MAX_RANK);
  TH_TRY(dims_of(f, "dims", shape->count, map, &n));
  if (n != x->rank) return BAD(f, "dims has %u entries for the operand %s", n, show(f, x));
  for (uint32_t i = 0; i < n; i++) {
    if (i && map[i] <= map[i - 1]) return BAD(f, "dims must rise");
    if (x->dims[i] != shape->ints[map[i]] && !th_dim_is(f->c, x->dims[i], 1))
      return BAD(f, "dimension %u of %s neither is 1 nor equals entry %lld of the shape", i, show(f, x), (long long)map[i]);
  }
  return result_dims(f, x->dtype, shape->ints, shape->count);
}

static th_status infer_reshape(inference *f) {
  const th_type *x = type_in(f, 0);
  const th_attr *shape = attr(f, "shape");
  if (shape->count > TH_MAX_RANK) return BAD(f, "shape has %u entries, at most %d", shape->count, TH_MAX_RANK);
  th_dim want = th_dim_product(f->c, shape->ints, shape->count), have = th_type_numel(f->c, x);
  if (want != have) {
    th_type t = {.dtype = x->dtype, .rank = shape->count, .dims = shape->ints};
    return BAD(f, "%s cannot take the shape of %s: the numbers of elements differ", show(f, x), show(f, &t));
  }
  return result_dims(f, x->dtype, shape->ints, shape->count);
}

static th_status infer_transpose(inference *f) {
  const th_type *x = type_in(f, 0);
  int64_t p[TH_MAX_RANK];
  uint32_t n;
  th_dim dims[TH_MAX_RANK];
  TH_TRY(dims_of(f, "permutation", x->rank, p, &n));
  if (n != x->rank) return BAD(f, "permutation has %u entries, the operand is %s", n, show(f, x));
  for (uint32_t i = 0; i < n; i++) dims[i] = x->dims[p[i]];
  return result_dims(f, x->dtype, dims, n);
}

static th_status infer_slice(inference *f) {
  const th_type *x = type_in(f, 0);
  const th_dim *start, *limit, *stride;
  th_dim dims[TH_MAX_RANK], one = th_dim_const(f->c, 1);
  TH_TRY(ints_of(f, "start", x->rank, &start));
  TH_TRY(ints_of(f, "limit", x->rank, &limit));
  TH_TRY(ints_of(f, "stride", x->rank, &stride));
  for (uint32_t i = 0; i < x->rank; i++) {
    int64_t s, l, n, k, lo, hi;
    if (!th_dim_is_const(f->c, stride[i], &k) || k < 1) return BAD(f, "stride[%u] must be a constant of at least 1", i);
    bool cs = th_dim_is_const(f->c, start[i], &s), cl = th_dim_is_const(f->c, limit[i], &l);
    th_dim_bounds(f->c, start[i], &lo, &hi);
    if (lo < 0) return BAD(f, "start[%u] may be negative", i);
    if (cs && cl && s > l) return BAD(f, "start[%u] = %lld is past limit %lld", i, (long long)s, (long long)l);
    if (cl && th_dim_is_const(f->c, x->dims[i], &n) && l > n)
      return BAD(f, "limit[%u] = %lld is past the size of %s", i, (long long)l, show(f, x));
    th_dim length = th_dim_sub(f->c, limit[i], start[i]);
    dims[i] = k == 1 ? length : th_dim_floordiv(f->c, th_dim_add(f->c, length, th_dim_sub(f->c, stride[i], one)), stride[i]);
  }
  return result_dims(f, x->dtype, dims, x->rank);
}

static th_status infer_pad(inference *f) {
  const th_type *x = type_in(f, 0), *v = type_in(f, 1);
  const th_dim *low, *high, *interior;
  th_dim dims[TH_MAX_RANK], one = th_dim_const(f->c, 1);
  if (v->rank || v->dtype != x->dtype) return BAD(f, "the padding value is %s, want a rank-0 %s", show(f, v), th_dtype_name(x->dtype));
  TH_TRY(ints_of(f, "low", x->rank, &low));
  TH_TRY(ints_of(f, "high", x->rank, &high));
  TH_TRY(ints_of(f, "interior", x->rank, &interior));
  for (uint32_t i = 0; i < x->rank; i++) {
    int64_t k, n;
    if (!th_dim_is_const(f->c, interior[i], &k) || k < 0) return BAD(f, "interior[%u] must be a constant of at least 0", i);
    th_dim inner = x->dims[i];
    if (k) { /* n + (n - 1) * k, 0 for an empty dimension */
      th_dim gaps = th_dim_max(f->c, th_dim_sub(f->c, x->dims[i], one), th_dim_const(f->c, 0));
      inner = th_dim_add(f->c, inner, th_dim_mul(f->c, gaps, interior[i]));
    }
    dims[i] = th_dim_add(f->c, th_dim_add(f->c, inner, low[i]), high[i]);
    if (th_dim_is_const(f->c, dims[i], &n) && n < 0) return BAD(f, "dimension %u would be negative", i);
  }
  return result_dims(f, x->dtype, dims, x->rank);
}

static th_status infer_concat(inference *f) {
  if (f->n_operands == 0) return BAD(f, "no operands");
  const th_type *x = type_in(f, 0);
  int64_t d;
  th_dim dims[TH_MAX_RANK];
  TH_TRY(dim_of(f, "dim", x->rank, &d));
  memcpy(dims, x->dims, x->rank * sizeof *dims);
  for (uint32_t i = 1; i < f->n_operands; i++) {
    const th_type *y = type_in(f, i);
    bool ok = y->rank == x->rank && y->dtype == x->dtype;
    for (uint32_t k = 0; ok && k < x->rank; k++) ok = k == d || y->dims[k] == x->dims[k];
    if (!ok) return BAD(f, "operands 0 and %u do not fit along dim %lld: %s and %s", i, (long long)d, show(f, x), show(f, y));
    dims[d] = th_dim_add(f->c, dims[d], y->dims[d]);
  }
  return result_dims(f, x->dtype, dims, x->rank);
}

static th_status infer_reduce(inference *f) {
  const th_type *x = type_in(f, 0);
  int64_t reduced[TH_MAX_RANK];
  uint32_t n, rank = 0, mask = 0;
  th_dim dims[TH_MAX_RANK];
  TH_TRY(dims_of(f, "dims", x->rank, reduced, &n));
  if ((f->kind == TH_OP_reduce_any || f->kind == TH_OP_reduce_all) && x->dtype != TH_DTYPE_bool)
    return BAD(f, "wants bools, got %s", show(f, x));
  for (uint32_t i = 0; i < n; i++) mask |= 1u << reduced[i];
  for (uint32_t i = 0; i < x->rank; i++)
    if (!(mask >> i & 1)) dims[rank++] = x->dims[i];
  return result_dims(f, x->dtype, dims, rank);
}

static th_status infer_arg_reduce(inference *f) {
  const th_type *x = type_in(f, 0);
  int64_t d;
  uint32_t rank = 0;
  th_dim dims[TH_MAX_RANK];
  TH_TRY(dim_of(f, "dim", x->rank, &d));
  for (uint32_t i = 0; i < x->rank; i++)
    if (i != d) dims[rank++] = x->dims[i];
  return result_dims(f, TH_DTYPE_i64, dims, rank);
}

static th_status infer_dot(inference *f) {
  const th_type *l = type_in(f, 0), *r = type_in(f, 1);
  int64_t lb[TH_MAX_RANK], rb[TH_MAX_RANK], lc[TH_MAX_RANK], rc[TH_MAX_RANK];
  uint32_t n_lb, n_rb, n_lc, n_rc, rank = 0, lmask = 0, rmask = 0;
  th_dim dims[2 * TH_MAX_RANK];
  if (l->dtype != r->dtype) return BAD(f, "operands differ in dtype: %s and %s", show(f, l), show(f, r));
  if (l->dtype == TH_DTYPE_bool) return BAD(f, "bools cannot be contracted");
  TH_TRY(dims_of(f, "lhs_batch", l->rank, lb, &n_lb));
  TH_TRY(dims_of(f, "rhs_batch", r->rank, rb, &n_rb));
  TH_TRY(dims_of(f, "lhs_contract", l->rank, lc, &n_lc));
  TH_TRY(dims_of(f, "rhs_contract", r->rank, rc, &n_rc));
  if (n_lb != n_rb || n_lc != n_rc) return BAD(f, "the sides name unequal numbers of batch or contracted dimensions");
  for (uint32_t i = 0; i < n_lb; i++) {
    if (l->dims[lb[i]] != r->dims[rb[i]]) return BAD(f, "batch dimensions %u differ: %s and %s", i, show(f, l), show(f, r));
    dims[rank++] = l->dims[lb[i]];
    lmask |= 1u << lb[i];
    rmask |= 1u << rb[i];
  }
  for (uint32_t i = 0; i < n_lc; i++) {
    if (l->dims[lc[i]] != r->dims[rc[i]]) return BAD(f, "contracted dimensions %u differ: %s and %s", i, show(f, l), show(f, r));
    if (lmask >> lc[i] & 1 || rmask >> rc[i] & 1) return BAD(f, "a dimension is both batch and contracted");
    lmask |= 1u << lc[i];
    rmask |= 1u << rc[i];
  }
  for (uint32_t i = 0; i < l->rank; i++)
    if (!(lmask >> i & 1)) dims[rank++] = l->dims[i];
  for (uint32_t i = 0; i < r->rank; i++)
    if (!(rmask >> i & 1)) dims[rank++] = r->dims[i];
  return result_dims(f, l->dtype, dims, rank);
}

static th_status infer_conv(inference *f) {
  const th_type *x = type_in(f, 0), *w = type_in(f, 1);
  uint32_t n = x->rank >= 2 ? x->rank - 2 : 0;
  const th_dim *stride, *padding, *dilation;
  th_dim dims[TH_MAX_RANK], one = th_dim_const(f->c, 1);
  if (x->rank != w->rank || x->rank < 3 || x->dtype != w->dtype || !th_dtype_is_float(x->dtype))
    return BAD(f, "wants floating point operands of one dtype, (N, C, …) and (O, C/groups, …); got %s and %s", show(f, x), show(f, w));
  TH_TRY(ints_of(f, "stride", n, &stride));
  TH_TRY(ints_of(f, "padding", n, &padding));
  TH_TRY(ints_of(f, "dilation", n, &dilation));
  if (f->kind != TH_OP_conv) {
    const th_dim *shape;
    TH_TRY(ints_of(f, "shape", x->rank, &shape));
    return result_dims(f, x->dtype, shape, x->rank);
  }
  int64_t groups, s;
  if (!th_dim_is_const(f->c, attr(f, "groups")->i, &groups) || groups < 1) return BAD(f, "groups must be a constant of at least 1");
  if (th_dim_mul(f->c, w->dims[1], attr(f, "groups")->i) != x->dims[1])
    return BAD(f, "%s has %lld groups of channels that do not fit the weight %s", show(f, x), (long long)groups, show(f, w));
  if (!th_dim_divisible(f->c, w->dims[0], groups)) return BAD(f, "groups = %lld does not divide the output channels of %s", (long long)groups, show(f, w));
  dims[0] = x->dims[0];
  dims[1] = w->dims[0];
  for (uint32_t i = 0; i < n; i++) {
    if (!th_dim_is_const(f->c, stride[i], &s) || s < 1) return BAD(f, "stride[%u] must be a constant of at least 1", i);
    th_dim reach = th_dim_add(f->c, th_dim_mul(f->c, dilation[i], th_dim_sub(f->c, w->dims[2 + i], one)), one);
    th_dim span = th_dim_sub(f->c, th_dim_add(f->c, x->dims[2 + i], th_dim_mul(f->c, padding[i], th_dim_const(f->c, 2))), reach);
    dims[2 + i] = th_dim_add(f->c, th_dim_floordiv(f->c, span, stride[i]), one);
    if (th_dim_is_const(f->c, dims[2 + i], &s) && s < 0) return BAD(f, "the kernel %s is larger than the padded input %s", show(f, w), show(f, x));
  }
  return result_dims(f, x->dtype, dims, x->rank);
}

static th_status infer_window(inference *f) {
  const th_type *x = type_in(f, 0);
  const th_attr *kernel = attr(f, "kernel"), *shape = attr(f, "shape");
  th_dim dims[TH_MAX_RANK];
  const th_dim *ignored;
  uint32_t n = kernel->count;
  if (n > x->rank || shape->count != n) return BAD(f, "kernel and shape have %u and %u entries for %s", n, shape->count, show(f, x));
  TH_TRY(ints_of(f, "stride", n, &ignored));
  TH_TRY(ints_of(f, "padding", n, &ignored));
  TH_TRY(ints_of(f, "dilation", n, &ignored));
  for (uint32_t i = 0; i < x->rank; i++) dims[i] = i < x->rank - n ? x->dims[i] : shape->ints[i - (x->rank - n)];
  TH_TRY(result_dims(f, x->dtype, dims, x->rank));
  if (f->kind == TH_OP_window_max_grad && (type_in(f, 1)->dtype != TH_DTYPE_i64 || !th_type_same_shape(x, type_in(f, 1)))) return BAD(f, "the indices of %s are %s", show(f, x), show(f, type_in(f, 1)));
  return f->kind == TH_OP_window_max ? result_dims(f, TH_DTYPE_i64, dims, x->rank) : TH_OK;
}

static th_status infer_take(inference *f) {
  const th_type *x = type_in(f, 0), *at = type_in(f, 1);
  int64_t d;
  uint32_t rank = 0;
  th_dim dims[2 * TH_MAX_RANK];
  TH_TRY(dim_of(f, "dim", x->rank, &d));
  if (th_dtype_kind_of(at->dtype) > TH_KIND_INT || at->dtype == TH_DTYPE_bool) return BAD(f, "indices are %s, want integers", show(f, at));
  for (uint32_t i = 0; i < d; i++) dims[rank++] = x->dims[i];
  for (uint32_t i = 0; i < at->rank; i++) dims[rank++] = at->dims[i];
  for (uint32_t i = (uint32_t)d + 1; i < x->rank; i++) dims[rank++] = x->dims[i];
  if (f->kind == TH_OP_take) return result_dims(f, x->dtype, dims, rank);
  const th_type *u = type_in(f, 2);
  th_type want = {.dtype = x->dtype, .rank = rank, .dims = dims};
  if (u->dtype != x->dtype || !th_type_same_shape(u, &want)) return BAD(f, "updates are %s, want %s", show(f, u), show(f, &want));
  return result_dims(f, x->dtype, x->dims, x->rank);
}

static th_status infer_along(inference *f) {
  const th_type *x = type_in(f, 0), *at = type_in(f, 1);
  int64_t d;
  TH_TRY(dim_of(f, "dim", x->rank, &d));
  if (at->rank != x->rank || th_dtype_kind_of(at->dtype) > TH_KIND_INT || at->dtype == TH_DTYPE_bool)
    return BAD(f, "indices are %s, want integers of the rank of %s", show(f, at), show(f, x));
  if (f->kind == TH_OP_take_along) return result_dims(f, x->dtype, at->dims, at->rank);
  const th_type *u = type_in(f, 2);
  if (u->dtype != x->dtype || !th_type_same_shape(u, at)) return BAD(f, "updates are %s, want the shape of the indices %s and the dtype of %s", show(f, u), show(f, at), show(f, x));
  return result_dims(f, x->dtype, x->dims, x->rank);
}

static th_status infer_gather_scatter_ranks(inference *f) { /* all_gather, reduce_scatter */
  const th_type *x = type_in(f, 0);
  int64_t d;
  th_dim dims[TH_MAX_RANK];
  const char *axis = attr(f, "axis")->s;
  TH_TRY(dim_of(f, "dim", x->rank, &d));
  memcpy(dims, x->dims, x->rank * sizeof *dims);
  for (uint32_t i = 0; i < th_mesh_axis_count(f->c); i++) {
    th_mesh_axis m = th_mesh_axis_get(f->c, i);
    if (strcmp(m.name, axis)) continue;
    th_dim n = th_dim_const(f->c, m.size);
    if (f->kind == TH_OP_all_gather) dims[d] = th_dim_mul(f->c, dims[d], n);
    else if (!th_dim_exact_div(f->c, dims[d], n, &dims[d]))
      return BAD(f, "dimension %lld of %s does not divide over %u ranks; pad it first", (long long)d, show(f, x), m.size);
    return result_dims(f, x->dtype, dims, x->rank);
  }
  return BAD(f, "there is no mesh axis %s", axis);
}

static th_status infer_body(inference *f, const char *attribute, uint32_t skip) {
  uint32_t g = attr(f, attribute)->graph;
  if (g >= f->trace->n_graphs || g == 0) return BAD(f, "%s names graph %u, the trace has %zu", attribute, g, f->trace->n_graphs);
  const th_graph *body = f->trace->graphs[g];
  if (body->n_inputs != f->n_operands - skip) return BAD(f, "@%s takes %u inputs, the op has %u", body->name, body->n_inputs, f->n_operands - skip);
  for (uint32_t i = 0; i < body->n_inputs; i++) {
    const th_type *want = &f->trace->values[body->inputs[i]].type, *got = type_in(f, i + skip);
    if (got->dtype != want->dtype || !th_type_same_shape(got, want))
      return BAD(f, "input %u of @%s is %s, the operand %s", i, body->name, show(f, want), show(f, got));
  }
  for (uint32_t i = 0; i < body->n_outputs; i++) {
    th_type t = f->trace->values[body->outputs[i]].type;
    t.weak = false;
    TH_TRY(result(f, t));
  }
  return TH_OK;
}

static th_status infer_prim(inference *f) {
  const th_op_spec *spec = th_op_spec_get(f->kind);
  if (f->kind != TH_OP_weak && f->kind != TH_OP_convert && spec->level == TH_LEVEL_PRIM && weak_in(f))
    return BAD(f, "a Python number must be converted before it meets a prim");
  switch (f->kind) {
    case TH_OP_const: {
      th_dtype d = attr(f, "dtype")->dtype;
      if (d == TH_DTYPE_none) return BAD(f, "no dtype");
      return result_dims(f, d, NULL, 0);
    }
    case TH_OP_weak: {
      const th_attr *a = attr(f, "value");
      th_type t = th_type_scalar(a->kind == TH_ATTR_FLOAT ? TH_DTYPE_f64 : a->kind == TH_ATTR_BOOL ? TH_DTYPE_bool : TH_DTYPE_i64);
      t.weak = true;
      return result(f, t);
    }
    case TH_OP_iota: {
      const th_attr *shape = attr(f, "shape");
      int64_t d;
      TH_TRY(dim_of(f, "dim", shape->count, &d));
      return result_dims(f, attr(f, "dtype")->dtype, shape->ints, shape->count);
    }
    case TH_OP_uniform: {
      const th_attr *shape = attr(f, "shape");
      th_dtype d = attr(f, "dtype")->dtype;
      if (!th_dtype_is_float(d)) return BAD(f, "dtype %s is not floating point", th_dtype_name(d));
      for (uint32_t i = 0; i < 2; i++)
        if (type_in(f, i)->rank || type_in(f, i)->dtype != TH_DTYPE_i64) return BAD(f, "seed and offset are rank-0 i64, got %s", show(f, type_in(f, i)));
      return result_dims(f, d, shape->ints, shape->count);
    }
    case TH_OP_broadcast: return infer_broadcast(f);
    case TH_OP_reshape: return infer_reshape(f);
    case TH_OP_transpose: return infer_transpose(f);
    case TH_OP_slice: return infer_slice(f);
    case TH_OP_pad: return infer_pad(f);
    case TH_OP_concat: return infer_concat(f);
    case TH_OP_reverse: {
      int64_t d[TH_MAX_RANK];
      uint32_t n;
      TH_TRY(dims_of(f, "dims", type_in(f, 0)->rank, d, &n));
      return result_dims(f, type_in(f, 0)->dtype, type_in(f, 0)->dims, type_in(f, 0)->rank);
    }
    case TH_OP_cumsum: {
      int64_t d;
      TH_TRY(dim_of(f, "dim", type_in(f, 0)->rank, &d));
      return result_dims(f, type_in(f, 0)->dtype, type_in(f, 0)->dims, type_in(f, 0)->rank);
    }
    case TH_OP_argmax: case TH_OP_argmin: return infer_arg_reduce(f);
    case TH_OP_dot: return infer_dot(f);
    case TH_OP_conv: case TH_OP_conv_grad_x: case TH_OP_conv_grad_w: return infer_conv(f);
    case TH_OP_window_max: case TH_OP_window_sum: case TH_OP_window_sum_grad: case TH_OP_window_max_grad: return infer_window(f);
    case TH_OP_take: case TH_OP_scatter_add: return infer_take(f);
    case TH_OP_take_along: case TH_OP_scatter_add_along: case TH_OP_scatter_along: return infer_along(f);
    case TH_OP_all_reduce: return result_dims(f, type_in(f, 0)->dtype, type_in(f, 0)->dims, type_in(f, 0)->rank);
    case TH_OP_all_gather: case TH_OP_reduce_scatter: return infer_gather_scatter_ranks(f);
    case TH_OP_all_reduce_start: case TH_OP_wait: case TH_OP_barrier: case TH_OP_copy:
      for (uint32_t i = 0; i < f->n_operands; i++) TH_TRY(result(f, *type_in(f, i)));
      return TH_OK;
    case TH_OP_rank: return result_dims(f, TH_DTYPE_i64, NULL, 0);
    case TH_OP_call: case TH_OP_fusion: case TH_OP_library: case TH_OP_launch: case TH_OP_invoke: return infer_body(f, "body", 0);
    case TH_OP_cond: {
      inference other = *f;
      th_type types[64];
      other.out = types;
      other.capacity = 64;
      if (type_in(f, 0)->rank || type_in(f, 0)->dtype != TH_DTYPE_bool) return BAD(f, "the predicate is %s, want a rank-0 bool", show(f, type_in(f, 0)));
      TH_TRY(infer_body(f, "yes", 1));
      TH_TRY(infer_body(&other, "no", 1));
      if (other.n_out != f->n_out) return BAD(f, "the branches have %u and %u results", f->n_out, other.n_out);
      for (uint32_t i = 0; i < f->n_out; i++)
        if (!th_type_equal(&f->out[i], &types[i])) return BAD(f, "result %u of the branches differs: %s and %s", i, show(f, &f->out[i]), show(f, &types[i]));
      return TH_OK;
    }
    default: break;
  }
  if (spec->traits & TH_POINTWISE) return infer_pointwise(f);
  if (spec->traits & TH_REDUCTION) return infer_reduce(f);
  return TH_ERROR(INTERNAL, "op %s has no inference rule", spec->name);
}

static th_status check_operands(const th_trace *trace, th_op_kind kind, const th_value *operands, uint32_t n) {
  const th_op_spec *spec = th_op_spec_get(kind);
  bool variadic = spec->n_operands && spec->operands[spec->n_operands - 1].variadic;
  if (variadic ? n < spec->n_operands - 1 : n != spec->n_operands)
    return TH_ERROR(INVALID_ARGUMENT, "op %s has %u operands, want %s%u", spec->name, n, variadic ? "at least " : "",
                    variadic ? spec->n_operands - 1 : spec->n_operands);
  for (uint32_t i = 0; i < n; i++) {
    const th_operand_spec *o = &spec->operands[i < spec->n_operands ? i : spec->n_operands - 1];
    if (operands[i] == TH_NO_VALUE) {
      if (!o->optional) return TH_ERROR(INVALID_ARGUMENT, "op %s: operand %s is missing", spec->name, o->name);
    } else if (operands[i] >= trace->n_values) {
      return TH_ERROR(INVALID_ARGUMENT, "op %s: operand %s is value %u, there are %zu", spec->name, o->name, operands[i], trace->n_values);
    }
  }
  return TH_OK;
}

th_status th_infer(th_trace *trace, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs,
                   th_type *out_types, uint32_t capacity, uint32_t *out_count) {
  *out_count = 0;
  TH_TRY(check_operands(trace, kind, operands, n_operands));
  if (th_op_spec_get(kind)->level == TH_LEVEL_TORCH)
    return th_infer_by_lowering(trace, kind, operands, n_operands, attrs, out_types, capacity, out_count);
  inference f = {.c = trace->context, .trace = trace, .kind = kind, .operands = operands, .n_operands = n_operands,
                 .attrs = attrs, .out = out_types, .capacity = capacity};
  TH_TRY(infer_prim(&f));
  *out_count = f.n_out;
  return TH_OK;
}
