/* Reductions. */
#include <math.h>

#include "ir/lower/helpers.h"

static th_value reduce(th_rule *r, th_op_kind kind, th_value x) {
  int64_t dims[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "dim", th_rank(r->b, x), dims);
  return th_reduce(r->b, kind, x, dims, n, th_rule_bool(r, "keepdim"));
}

static th_value summand(th_rule *r) { /* integers and bools are summed in i64 */
  th_dtype d = th_dtype_of(r->b, r->in[0]);
  return th_convert(r->b, r->in[0], th_rule_dtype(r, "dtype", th_dtype_is_integral(d) ? TH_DTYPE_i64 : d));
}

void th__lower_sum(th_rule *r) { th_rule_return(r, reduce(r, TH_OP_reduce_sum, summand(r))); }
void th__lower_prod(th_rule *r) { th_rule_return(r, reduce(r, TH_OP_reduce_prod, summand(r))); }

static th_value extreme(th_rule *r, th_op_kind kind) {
  th_value x = r->in[0];
  if (th_dtype_of(r->b, x) == TH_DTYPE_bool) kind = kind == TH_OP_reduce_max ? TH_OP_reduce_any : TH_OP_reduce_all;
  return reduce(r, kind, x);
}
void th__lower_amax(th_rule *r) { th_rule_return(r, extreme(r, TH_OP_reduce_max)); }
void th__lower_amin(th_rule *r) { th_rule_return(r, extreme(r, TH_OP_reduce_min)); }
static void quantified(th_rule *r, th_op_kind kind) { /* bools; of u8, u8 */
  th_value y = reduce(r, kind, th_convert(r->b, r->in[0], TH_DTYPE_bool));
  th_rule_return(r, th_dtype_of(r->b, r->in[0]) == TH_DTYPE_u8 ? th_convert(r->b, y, TH_DTYPE_u8) : y);
}
void th__lower_any(th_rule *r) { quantified(r, TH_OP_reduce_any); }
void th__lower_all(th_rule *r) { quantified(r, TH_OP_reduce_all); }

void th__lower_mean(th_rule *r) {
  th_dtype d = th_rule_dtype(r, "dtype", th_dtype_of(r->b, r->in[0]));
  if (th_dtype_is_integral(d)) th_rule_fail(r, "the mean of %s is not defined; convert to a float first", th_dtype_name(d));
  th_value x = th_up(r->b, th_convert(r->b, r->in[0], d));
  int64_t dims[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "dim", th_rank(r->b, x), dims);
  if (r->b->status) return;
  th_type t = th_rule_type(r->b, x);
  th_value sum = th_reduce(r->b, TH_OP_reduce_sum, x, dims, n, th_rule_bool(r, "keepdim"));
  th_value mean = th_div(r->b, sum, th_broadcast_like(r->b, th_count(r->b, &t, dims, n, t.dtype), sum));
  th_rule_return(r, th_convert(r->b, mean, d));
}

static th_value arg(th_rule *r, th_value x, uint32_t dim, th_op_kind kind) {
  return th_build1(r->b, kind, &x, 1, (th_attr[]){th_make_int(th_ctx(r->b), dim)});
}

static th_value unreduce(th_rule *r, th_value v, th_value x, uint32_t dim) { /* puts dim back with size 1 */
  if (r->b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(r->b, x);
  th_dim dims[TH_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) dims[i] = i == dim ? th_k(r->b, 1) : t.dims[i];
  return th_reshape(r->b, v, dims, t.rank);
}

static void extreme_dim(th_rule *r, th_op_kind kind) {
  th_value x = r->in[0];
  th_type t = th_rule_type(r->b, x);
  uint32_t dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  bool keep = th_rule_bool(r, "keepdim");
  if (r->b->status) return;
  if (t.rank == 0) {
    th_rule_return(r, x);
    th_rule_return(r, th_const(r->b, 0, TH_DTYPE_i64));
    return;
  }
  th_value at = unreduce(r, arg(r, x, dim, kind), x, dim);
  th_value value = th_build1(r->b, TH_OP_take_along, (th_value[]){x, at}, 2, (th_attr[]){th_make_int(th_ctx(r->b), dim)});
  th_dim dims[TH_MAX_RANK];
  uint32_t n = 0;
  for (uint32_t i = 0; i < t.rank; i++)
    if (i != dim) dims[n++] = t.dims[i];
  th_rule_return(r, keep ? value : th_reshape(r->b, value, dims, n));
  th_rule_return(r, keep ? at : th_reshape(r->b, at, dims, n));
}
void th__lower_max_dim(th_rule *r) { extreme_dim(r, TH_OP_argmax); }
void th__lower_min_dim(th_rule *r) { extreme_dim(r, TH_OP_argmin); }

static void arg_extreme(th_rule *r, th_op_kind kind) {
  th_value x = r->in[0];
  th_type t = th_rule_type(r->b, x);
  bool keep = th_rule_bool(r, "keepdim"), flat = !th_rule_has(r, "dim");
  if (t.dtype == TH_DTYPE_bool) x = th_convert(r->b, x, TH_DTYPE_u8);
  if (flat || t.rank == 0) {
    th_dim n = th_type_numel(th_ctx(r->b), &t), ones[TH_MAX_RANK];
    th_value at = arg(r, th_reshape(r->b, x, &n, 1), 0, kind);
    for (uint32_t i = 0; i < t.rank; i++) ones[i] = th_k(r->b, 1);
    th_rule_return(r, keep ? th_reshape(r->b, at, ones, t.rank) : at);
    return;
  }
  uint32_t dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  th_value at = arg(r, x, dim, kind);
  th_rule_return(r, keep ? unreduce(r, at, x, dim) : at);
}
void th__lower_argmax(th_rule *r) { arg_extreme(r, TH_OP_argmax); }
void th__lower_argmin(th_rule *r) { arg_extreme(r, TH_OP_argmin); }

/* Variance in two passes: the mean, then the squared deviations over n - correction. Its root: the deviations over the
 * largest of them, so that squares neither overflow nor vanish (PyTorch sums in f64). */
static void variance(th_rule *r, bool root, bool with_mean) {
  th_builder *b = r->b;
  th_value x = th_up(b, r->in[0]);
  th_dtype d = th_dtype_of(b, r->in[0]);
  double correction = th_rule_has(r, "correction") ? th_rule_float(r, "correction") : 1;
  bool keep = th_rule_bool(r, "keepdim");
  int64_t dims[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "dim", th_rank(b, x), dims);
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (isnan(correction)) th_rule_refuse(r, "correction must be a constant");
  if (b->status) return;
  th_type t = th_rule_type(b, x);
  th_value count = th_count(b, &t, dims, n, t.dtype);
  th_value sum = th_reduce(b, TH_OP_reduce_sum, x, dims, n, false);
  th_value mean = th_div(b, sum, th_broadcast_like(b, count, sum));
  th_value deviation = th_sub(b, x, th_spread(b, mean, x, dims, n));
  th_value scale = TH_NO_VALUE;
  if (root) {
    th_value largest = th_reduce(b, TH_OP_reduce_max, th_abs(b, deviation), dims, n, false), zero = th_like(b, 0, largest);
    scale = th_select(b, th_and(b, th_isfinite(b, largest), th_gt(b, largest, zero)), largest, th_like(b, 1, largest));
    deviation = th_div(b, deviation, th_spread(b, scale, x, dims, n));
  }
  th_value squares = th_reduce(b, TH_OP_reduce_sum, th_mul(b, deviation, deviation), dims, n, keep);
  th_value divisor = th_max(b, th_add_scalar(b, count, -correction), th_const(b, 0, t.dtype));
  th_value y = th_div(b, squares, th_broadcast_like(b, divisor, squares));
  if (b->status) return;
  th_type kept = th_rule_type(b, squares);
  if (root) y = th_mul(b, th_sqrt(b, y), th_reshape(b, scale, kept.dims, kept.rank));
  th_rule_return(r, th_convert(b, y, d));
  if (with_mean) th_rule_return(r, th_convert(b, th_reshape(b, mean, kept.dims, kept.rank), d));
}
void th__lower_var(th_rule *r) { variance(r, false, false); }
void th__lower_std(th_rule *r) { variance(r, true, false); }
void th__lower_var_mean(th_rule *r) { variance(r, false, true); }
void th__lower_std_mean(th_rule *r) { variance(r, true, true); }

/* x**power of x >= 0 whose gradient at 0 is 0, as PyTorch's norms have it, and not inf * 0. */
static th_value root(th_builder *b, th_value x, double power) {
  th_value zero = th_eq(b, x, th_like(b, 0, x)), safe = th_select(b, zero, th_like(b, 1, x), x);
  return th_select(b, zero, th_like(b, 0, x), power == 0.5 ? th_sqrt(b, safe) : th_pow(b, safe, th_like(b, power, x)));
}

void th__lower_vector_norm(th_rule *r) {
  th_builder *b = r->b;
  double ord = th_rule_float(r, "ord");
  th_dtype d = th_rule_dtype(r, "dtype", th_dtype_of(b, r->in[0]));
  th_value x = th_up(b, th_convert(b, r->in[0], d)), y;
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (ord == 2) y = root(b, reduce(r, TH_OP_reduce_sum, th_mul(b, x, x)), 0.5);
  else if (ord == 1) y = reduce(r, TH_OP_reduce_sum, th_abs(b, x));
  else if (isinf(ord)) y = reduce(r, ord > 0 ? TH_OP_reduce_max : TH_OP_reduce_min, th_abs(b, x));
  else if (ord == 0) y = reduce(r, TH_OP_reduce_sum, th_convert(b, th_ne(b, x, th_like(b, 0, x)), th_dtype_compute(d)));
  else if (ord > 0) y = root(b, reduce(r, TH_OP_reduce_sum, root(b, th_abs(b, x), ord)), 1 / ord);
  else {
    y = reduce(r, TH_OP_reduce_sum, th_pow(b, th_abs(b, x), th_like(b, ord, x)));
    y = th_pow(b, y, th_like(b, 1 / ord, y));
  }
  th_rule_return(r, th_convert(b, y, d));
}

void th__lower_logsumexp(th_rule *r) {
  th_builder *b = r->b;
  th_dtype d = th_float_dtype(th_dtype_of(b, r->in[0]));
  th_value x = th_up(b, th_convert(b, r->in[0], d));
  int64_t dims[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "dim", th_rank(b, x), dims);
  th_value m = th_reduce(b, TH_OP_reduce_max, x, dims, n, false);
  m = th_select(b, th_isfinite(b, m), m, th_like(b, 0, m)); /* a row of -inf gives -inf, not NaN */
  th_value e = th_exp(b, th_sub(b, x, th_spread(b, m, x, dims, n)));
  th_value y = th_add(b, th_log(b, th_reduce(b, TH_OP_reduce_sum, e, dims, n, false)), m);
  if (th_rule_bool(r, "keepdim") && !b->status) {
    th_type t = th_rule_type(b, x);
    th_dim kept[TH_MAX_RANK];
    for (uint32_t i = 0; i < t.rank; i++) kept[i] = t.dims[i];
    for (uint32_t i = 0; i < n; i++) kept[dims[i]] = th_k(b, 1);
    y = th_reshape(b, y, kept, t.rank);
  }
  th_rule_return(r, th_convert(b, y, d));
}

void th__lower_cumsum(th_rule *r) {
  th_value x = summand(r);
  uint32_t rank = th_rank(r->b, x), dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), rank);
  th_rule_return(r, rank ? th_build1(r->b, TH_OP_cumsum, &x, 1, (th_attr[]){th_make_int(th_ctx(r->b), dim)}) : x);
}
