/* Creation: constants, ranges, triangles, random numbers. */
#include <math.h>

#include "ir/lower/helpers.h"

static th_dtype scalar_dtype(const th_attr *a) { /* torch.full's dtype for a Python number */
  return a->kind == TH_ATTR_FLOAT ? TH_DTYPE_f32 : a->kind == TH_ATTR_BOOL ? TH_DTYPE_bool : TH_DTYPE_i64;
}

static th_value number(th_rule *r, const char *name, th_dtype dtype) {
  return th_build1(r->b, TH_OP_const, NULL, 0, (th_attr[]){*th_rule_attr(r, name), th_make_dtype(dtype)});
}

static void filled(th_rule *r, th_value scalar, const th_attr *size) {
  th_rule_return(r, th_broadcast_to(r->b, scalar, size->ints, size->count));
}

void th__lower_full(th_rule *r) {
  th_dtype d = th_rule_dtype(r, "dtype", scalar_dtype(th_rule_attr(r, "fill_value")));
  filled(r, number(r, "fill_value", d), th_rule_attr(r, "size"));
}
void th__lower_zeros(th_rule *r) { filled(r, th_const(r->b, 0, th_rule_dtype(r, "dtype", TH_DTYPE_f32)), th_rule_attr(r, "size")); }
void th__lower_ones(th_rule *r) { filled(r, th_const(r->b, 1, th_rule_dtype(r, "dtype", TH_DTYPE_f32)), th_rule_attr(r, "size")); }

static th_dtype own(th_rule *r) { return th_rule_dtype(r, "dtype", th_dtype_of(r->b, r->in[0])); }
void th__lower_full_like(th_rule *r) { th_rule_return(r, th_broadcast_like(r->b, number(r, "fill_value", own(r)), r->in[0])); }
void th__lower_zeros_like(th_rule *r) { th_rule_return(r, th_broadcast_like(r->b, th_const(r->b, 0, own(r)), r->in[0])); }
void th__lower_ones_like(th_rule *r) { th_rule_return(r, th_broadcast_like(r->b, th_const(r->b, 1, own(r)), r->in[0])); }
void th__lower_new_zeros(th_rule *r) { filled(r, th_const(r->b, 0, own(r)), th_rule_attr(r, "size")); }
void th__lower_new_ones(th_rule *r) { filled(r, th_const(r->b, 1, own(r)), th_rule_attr(r, "size")); }
void th__lower_new_full(th_rule *r) { filled(r, number(r, "fill_value", own(r)), th_rule_attr(r, "size")); }
void th__lower_scalar_tensor(th_rule *r) { th_rule_return(r, number(r, "s", th_rule_dtype(r, "dtype", scalar_dtype(th_rule_attr(r, "s"))))); }

void th__lower_arange(th_rule *r) {
  const th_attr *start = th_rule_attr(r, "start"), *end = th_rule_attr(r, "end"), *step = th_rule_attr(r, "step");
  th_context *c = th_ctx(r->b);
  bool whole = start->kind == TH_ATTR_INT && end->kind == TH_ATTR_INT && step->kind == TH_ATTR_INT;
  th_dtype d = th_rule_dtype(r, "dtype", whole ? TH_DTYPE_i64 : TH_DTYPE_f32);
  th_dim n;
  if (whole) {
    int64_t s;
    if (!th_dim_is_const(c, step->i, &s) || s == 0) {
      th_rule_refuse(r, "step must be a constant other than 0");
      return;
    }
    th_dim span = s > 0 ? th_dim_sub(c, end->i, start->i) : th_dim_sub(c, start->i, end->i);
    int64_t by = s > 0 ? s : -s;
    n = th_dim_max(c, th_dim_floordiv(c, th_dim_add(c, span, th_k(r->b, by - 1)), th_k(r->b, by)), th_k(r->b, 0));
  } else {
    double count = ceil((th_rule_float(r, "end") - th_rule_float(r, "start")) / th_rule_float(r, "step"));
    if (!(count >= 0 && count < 1e15)) {
      th_rule_fail(r, "the bounds and the step give no count");
      return;
    }
    n = th_k(r->b, (int64_t)count);
  }
  th_dtype wide = th_dtype_is_float(d) ? TH_DTYPE_f64 : TH_DTYPE_i64; /* torch accumulates in the wide type */
  th_value i = th_iota(r->b, &n, 1, 0, wide);
  if (!(step->kind == TH_ATTR_INT && th_dim_is(c, step->i, 1))) i = th_mul(r->b, i, th_broadcast_like(r->b, number(r, "step", wide), i));
  if (!(start->kind == TH_ATTR_INT && th_dim_is(c, start->i, 0))) i = th_add(r->b, i, th_broadcast_like(r->b, number(r, "start", wide), i));
  th_rule_return(r, th_convert(r->b, i, d));
}

static void triangle(th_rule *r, th_op_kind keep) {
  th_value x = r->in[0];
  th_type t = th_rule_type(r->b, x);
  if (t.rank < 2) {
    th_rule_fail(r, "wants at least two dimensions, got %u", t.rank);
    return;
  }
  th_value row = th_iota(r->b, t.dims, t.rank, t.rank - 2, TH_DTYPE_i64), column = th_iota(r->b, t.dims, t.rank, t.rank - 1, TH_DTYPE_i64);
  th_value diagonal = th_broadcast_like(r->b, th_const_dim(r->b, th_rule_dim(r, "diagonal"), TH_DTYPE_i64), row);
  th_value inside = th_build1(r->b, keep, (th_value[]){th_sub(r->b, column, row), diagonal}, 2, NULL);
  th_rule_return(r, th_select(r->b, inside, x, th_like(r->b, 0, x)));
}
void th__lower_tril(th_rule *r) { triangle(r, TH_OP_le); }
void th__lower_triu(th_rule *r) { triangle(r, TH_OP_ge); }

/* ---- random numbers ---- */

static th_value uniform(th_rule *r, const th_dim *dims, uint32_t rank, th_dtype dtype, int64_t stream) {
  th_context *c = th_ctx(r->b);
  th_dim tag = th_rule_has(r, "tag") ? th_rule_dim(r, "tag") : th_k(r->b, 0);
  tag = th_dim_add(c, th_dim_mul(c, tag, th_k(r->b, 2)), th_k(r->b, stream)); /* two streams a tag */
  th_value seed = th_seed(r->b), offset = th_offset(r->b);
  th_attr attrs[] = {th_make_ints(c, dims, rank), th_make_dim(tag), th_make_dtype(dtype)};
  return th_build1(r->b, TH_OP_uniform, (th_value[]){seed, offset}, 2, attrs);
}

static void random_like(th_rule *r, const th_dim *dims, uint32_t rank, th_dtype d, bool normal) {
  th_builder *b = r->b;
  th_dtype wide = th_dtype_compute(d);
  th_value u = uniform(r, dims, rank, wide, 0);
  if (normal) { /* Box and Muller, 1958: sqrt(-2 log(1 - u)) cos(2 pi v) */
    th_value v = uniform(r, dims, rank, wide, 1);
    th_value radius = th_sqrt(b, th_mul_scalar(b, th_log1p(b, th_neg(b, u)), -2));
    u = th_mul(b, radius, th_cos(b, th_mul_scalar(b, v, 6.28318530717958647693)));
  }
  th_rule_return(r, th_convert(b, u, d));
}

void th__lower_rand(th_rule *r) {
  const th_attr *size = th_rule_attr(r, "size");
  random_like(r, size->ints, size->count, th_rule_dtype(r, "dtype", TH_DTYPE_f32), false);
}
void th__lower_randn(th_rule *r) {
  const th_attr *size = th_rule_attr(r, "size");
  random_like(r, size->ints, size->count, th_rule_dtype(r, "dtype", TH_DTYPE_f32), true);
}
void th__lower_rand_like(th_rule *r) {
  th_type t = th_rule_type(r->b, r->in[0]);
  random_like(r, t.dims, t.rank, own(r), false);
}
void th__lower_randn_like(th_rule *r) {
  th_type t = th_rule_type(r->b, r->in[0]);
  random_like(r, t.dims, t.rank, own(r), true);
}
void th__lower_bernoulli(th_rule *r) {
  th_type t = th_rule_type(r->b, r->in[0]);
  th_value p = th_up(r->b, r->in[0]);
  th_value u = uniform(r, t.dims, t.rank, th_dtype_of(r->b, p), 0);
  th_rule_return(r, th_convert(r->b, th_lt(r->b, u, p), t.dtype));
}

void th__lower_dropout_mask(th_rule *r) {
  const th_attr *size = th_rule_attr(r, "size");
  double p = th_rule_float(r, "p");
  th_dtype d = th_rule_dtype(r, "dtype", TH_DTYPE_f32), wide = th_dtype_compute(d);
  th_value u = uniform(r, size->ints, size->count, wide, 0);
  th_value keep = th_ge(r->b, u, th_like(r->b, p, u));
  th_value scale = th_full(r->b, p < 1 ? 1 / (1 - p) : 0, d, size->ints, size->count);
  th_rule_return(r, th_select(r->b, keep, scale, th_like(r->b, 0, scale)));
}

void th__lower_dropout(th_rule *r) {
  th_value x = r->in[0];
  double p = th_rule_float(r, "p");
  if (!(p >= 0 && p <= 1)) th_rule_fail(r, "p is %g, want 0 to 1", p);
  if (!th_rule_bool(r, "train") || p == 0) {
    th_rule_return(r, x);
    return;
  }
  th_type t = th_rule_type(r->b, x);
  th_attr tag = th_rule_has(r, "tag") ? *th_rule_attr(r, "tag") : th_make_int(th_ctx(r->b), 0);
  th_attr attrs[] = {th_make_ints(th_ctx(r->b), t.dims, t.rank), th_make_float(p), tag, th_make_dtype(t.dtype)};
  th_rule_return(r, th_mul(r->b, x, th_build1(r->b, TH_OP_torch_dropout_mask, NULL, 0, attrs)));
}
