/* Normalizations: statistics and results in the compute dtype, rounded once at the end. */
#include <float.h>

#include "ir/lower/helpers.h"

/* The dims a row normalization covers: the last ones, which must equal normalized_shape. */
static uint32_t row_dims(th_rule *r, th_value x, int64_t *dims) {
  const th_attr *shape = th_rule_attr(r, "normalized_shape");
  th_type t = th_rule_type(r->b, x);
  if (shape->count == 0 || shape->count > t.rank) {
    th_rule_fail(r, "normalized_shape has %u entries, input has rank %u", shape->count, t.rank);
    return 0;
  }
  th_last_dims(t.rank, shape->count, dims);
  for (uint32_t i = 0; i < shape->count; i++)
    if (shape->ints[i] != t.dims[dims[i]]) th_rule_fail(r, "normalized_shape differs from the input's last dimensions at entry %u", i);
  return shape->count;
}

static th_value mean_over(th_builder *b, th_value x, const int64_t *dims, uint32_t n) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  th_value sum = th_reduce(b, TH_OP_reduce_sum, x, dims, n, false);
  return th_div(b, sum, th_broadcast_like(b, th_count(b, &t, dims, n, t.dtype), sum));
}

/* mean, 1 / sqrt(var + eps) and x centred, over dims. */
static th_value statistics(th_builder *b, th_value x, const int64_t *dims, uint32_t n, double eps, th_value *mean, th_value *var,
                           th_value *rstd) {
  *mean = mean_over(b, x, dims, n);
  th_value centred = th_sub(b, x, th_spread(b, *mean, x, dims, n));
  *var = mean_over(b, th_mul(b, centred, centred), dims, n);
  *rstd = b->status ? TH_NO_VALUE : th_rsqrt(b, th_add_scalar(b, *var, eps));
  return centred;
}

static th_value affine(th_builder *b, th_value y, th_value weight, th_value bias) {
  th_dtype d = th_dtype_of(b, y);
  if (weight != TH_NO_VALUE) y = th_mul(b, y, th_broadcast_like(b, th_convert(b, weight, d), y));
  if (bias != TH_NO_VALUE) y = th_add(b, y, th_broadcast_like(b, th_convert(b, bias, d), y));
  return y;
}

void th__lower_layer_norm(th_rule *r) {
  th_builder *b = r->b;
  th_dtype d = th_dtype_of(b, r->in[0]);
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (b->status) return;
  th_value x = th_up(b, r->in[0]), mean, var, rstd;
  int64_t dims[TH_MAX_RANK];
  uint32_t n = row_dims(r, x, dims);
  if (b->status) return;
  th_value centred = statistics(b, x, dims, n, th_rule_float(r, "eps"), &mean, &var, &rstd);
  th_value y = affine(b, th_mul(b, centred, th_spread(b, rstd, x, dims, n)), r->in[1], r->in[2]);
  th_rule_return(r, th_convert(b, y, d));
  th_rule_return(r, mean);
  th_rule_return(r, rstd);
}

/* Without one given: that of the dtype it is computed in, as in torch >= 2.7 (for bf16 not bf16's own, 0.0078). */
static double rms_norm_eps(th_rule *r, th_value x) {
  if (th_rule_has(r, "eps")) return th_rule_float(r, "eps");
  return th_dtype_of(r->b, x) == TH_DTYPE_f64 ? DBL_EPSILON : FLT_EPSILON;
}

void th__lower_rms_norm(th_rule *r) {
  th_builder *b = r->b;
  th_dtype d = th_dtype_of(b, r->in[0]);
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (b->status) return;
  th_value x = th_up(b, r->in[0]);
  int64_t dims[TH_MAX_RANK];
  uint32_t n = row_dims(r, x, dims);
  if (b->status) return;
  th_value rrms = th_rsqrt(b, th_add_scalar(b, mean_over(b, th_mul(b, x, x), dims, n), rms_norm_eps(r, x)));
  th_value y = affine(b, th_mul(b, x, th_spread(b, rrms, x, dims, n)), r->in[1], TH_NO_VALUE);
  th_rule_return(r, th_convert(b, y, d));
  th_rule_return(r, rrms);
}

/* What there is a value of for each channel: weight, bias, running statistics. */
static void want_vector(th_rule *r, const char *name, th_value v) {
  if (r->b->status || v == TH_NO_VALUE) return;
  uint32_t rank = th_rule_type(r->b, v).rank;
  if (rank != 1) th_rule_fail(r, "%s has rank %u, want 1: a value for each channel", name, rank);
}

/* A vector over channels, as a value of x's shape (channels are dimension 1). */
static th_value by_channel(th_builder *b, th_value vector, th_value x) {
  if (b->status || vector == TH_NO_VALUE) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  return th_broadcast(b, th_convert(b, vector, t.dtype), t.dims, t.rank, (int64_t[]){1});
}

void th__lower_group_norm(th_rule *r) {
  th_builder *b = r->b;
  th_type t = th_rule_type(b, r->in[0]);
  if (t.rank < 2) th_rule_fail(r, "input has rank %u, want 2 or more", t.rank);
  want_vector(r, "weight", r->in[1]);
  want_vector(r, "bias", r->in[2]);
  if (b->status) return;
  th_dim groups = th_rule_dim(r, "num_groups"), dims[3] = {t.dims[0], groups, 0};
  th_dim rest = th_dim_product(th_ctx(b), t.dims + 2, t.rank - 2), per_group;
  if (!th_dim_exact_div(th_ctx(b), t.dims[1], groups, &per_group)) {
    th_rule_fail(r, "num_groups does not divide the channels");
    return;
  }
  dims[2] = th_dim_mul(th_ctx(b), per_group, rest);
  th_value x = th_reshape(b, th_up(b, r->in[0]), dims, 3), mean, var, rstd;
  int64_t last = 2;
  th_value centred = statistics(b, x, &last, 1, th_rule_float(r, "eps"), &mean, &var, &rstd);
  th_value y = th_reshape(b, th_mul(b, centred, th_spread(b, rstd, x, &last, 1)), t.dims, t.rank);
  if (r->in[1] != TH_NO_VALUE) y = th_mul(b, y, by_channel(b, r->in[1], y));
  if (r->in[2] != TH_NO_VALUE) y = th_add(b, y, by_channel(b, r->in[2], y));
  th_rule_return(r, th_convert(b, y, t.dtype));
}

static uint32_t all_but_channels(uint32_t rank, int64_t *dims) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < rank; i++)
    if (i != 1) dims[n++] = i;
  return n;
}

/* out, mean, 1/std, and with training the new running statistics. */
static void batch_norm(th_rule *r, bool training, th_value running_mean, th_value running_var, bool functional) {
  th_builder *b = r->b;
  th_type t = th_rule_type(b, r->in[0]);
  double eps = th_rule_float(r, "eps"), momentum = th_rule_float(r, "momentum");
  bool updates = training && running_mean != TH_NO_VALUE && running_var != TH_NO_VALUE;
  if (t.rank < 2) th_rule_fail(r, "input has rank %u, want 2 or more", t.rank);
  if (!th_dtype_is_float(t.dtype)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(t.dtype));
  if (!training && (running_mean == TH_NO_VALUE || running_var == TH_NO_VALUE)) th_rule_fail(r, "evaluation needs running statistics");
  want_vector(r, "weight", r->in[1]);
  want_vector(r, "bias", r->in[2]);
  want_vector(r, "running_mean", running_mean);
  want_vector(r, "running_var", running_var);
  if (b->status) return;
  th_value x = th_up(b, r->in[0]), mean, var, rstd, centred;
  th_dtype wide = th_dtype_of(b, x);
  int64_t dims[TH_MAX_RANK];
  uint32_t n = all_but_channels(t.rank, dims);
  if (training) {
    centred = statistics(b, x, dims, n, eps, &mean, &var, &rstd);
  } else {
    mean = th_convert(b, running_mean, wide);
    rstd = th_rsqrt(b, th_add_scalar(b, th_convert(b, running_var, wide), eps));
    centred = th_sub(b, x, by_channel(b, mean, x));
  }
  th_value y = th_mul(b, centred, by_channel(b, rstd, x));
  if (r->in[1] != TH_NO_VALUE) y = th_mul(b, y, by_channel(b, r->in[1], y));
  if (r->in[2] != TH_NO_VALUE) y = th_add(b, y, by_channel(b, r->in[2], y));
  th_rule_return(r, th_convert(b, y, t.dtype));
  if (!functional) return;
  th_rule_return(r, mean);
  th_rule_return(r, rstd);
  if (!updates || b->status) {
    if (running_mean != TH_NO_VALUE) th_rule_return(r, running_mean);
    if (running_var != TH_NO_VALUE) th_rule_return(r, running_var);
    return;
  }
  /* running = (1 - momentum) * running + momentum * batch; the variance there is the unbiased one. */
  th_value count = th_count(b, &t, dims, n, wide);
  th_value unbias = th_div(b, count, th_add_scalar(b, count, -1));
  th_value unbiased = th_mul(b, var, th_broadcast_like(b, unbias, var));
  th_value old[2] = {running_mean, running_var}, now[2] = {mean, unbiased};
  for (int i = 0; i < 2 && !b->status; i++) {
    th_dtype d = th_dtype_of(b, old[i]);
    th_value o = th_mul_scalar(b, th_convert(b, old[i], wide), 1 - momentum), m = th_mul_scalar(b, now[i], momentum);
    th_rule_return(r, th_convert(b, th_add(b, o, m), d));
  }
}

void th__lower_batch_norm(th_rule *r) {
  bool training = th_rule_bool(r, "training");
  if (training && r->in[3] != TH_NO_VALUE) {
    th_rule_fail(r, "running statistics would be written in place; the functional form returns them");
    return;
  }
  batch_norm(r, training, r->in[3], r->in[4], false);
}

void th__lower_batch_norm_functional(th_rule *r) {
  batch_norm(r, th_rule_bool(r, "training"), r->in[3], r->in[4], true);
}

void th__lower_batch_norm_no_stats(th_rule *r) { batch_norm(r, true, TH_NO_VALUE, TH_NO_VALUE, true); }

void th__lower_batch_norm_no_training(th_rule *r) { /* the statistics are results in name only: ATen's are empty */
  th_dim none = th_k(r->b, 0);
  batch_norm(r, false, r->in[3], r->in[4], false);
  for (int i = 0; i < 2 && !r->b->status; i++) th_rule_return(r, th_broadcast(r->b, th_const(r->b, 0, th_dtype_of(r->b, r->in[0])), &none, 1, NULL));
}
