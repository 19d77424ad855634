/* Softmax and losses: computed in the compute dtype, rounded once. */
#include "ir/lower/helpers.h"

enum { REDUCTION_NONE, REDUCTION_MEAN, REDUCTION_SUM };

static th_dtype softmax_dtype(th_rule *r) {
  th_dtype d = th_rule_dtype(r, "dtype", th_dtype_of(r->b, r->in[0]));
  return th_rule_bool(r, "half_to_float") ? TH_DTYPE_f32 : d;
}

/* x in compute dtype, minus its row maximum; exp of it; the sum of that. */
static th_value shifted(th_builder *b, th_value x, int64_t dim, th_value *exps, th_value *sum, th_value *maximum) {
  *maximum = th_reduce(b, TH_OP_reduce_max, x, &dim, 1, false);
  th_value y = th_sub(b, x, th_spread(b, *maximum, x, &dim, 1));
  *exps = th_exp(b, y);
  *sum = th_reduce(b, TH_OP_reduce_sum, *exps, &dim, 1, false);
  return y;
}

static void softmax(th_rule *r, bool logarithm) {
  th_builder *b = r->b;
  th_dtype d = softmax_dtype(r);
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (b->status) return;
  th_value x = th_up(b, th_convert(b, r->in[0], d)), exps, sum, maximum;
  uint32_t rank = th_rank(b, x);
  int64_t dim = th_wrap_dim(b, th_rule_int(r, "dim"), rank);
  if (b->status) return;
  if (rank == 0) {
    th_rule_return(r, th_convert(b, th_like(b, logarithm ? 0 : 1, x), d));
    return;
  }
  th_value y = shifted(b, x, dim, &exps, &sum, &maximum);
  y = logarithm ? th_sub(b, y, th_spread(b, th_log(b, sum), x, &dim, 1)) : th_div(b, exps, th_spread(b, sum, x, &dim, 1));
  th_rule_return(r, th_convert(b, y, d));
}
void th__lower_softmax(th_rule *r) { softmax(r, false); }
void th__lower_log_softmax(th_rule *r) { softmax(r, true); }

static th_value sum_all(th_builder *b, th_value x) {
  if (b->status) return TH_NO_VALUE;
  int64_t dims[TH_MAX_RANK];
  uint32_t rank = th_rank(b, x);
  th_last_dims(rank, rank, dims);
  return th_reduce(b, TH_OP_reduce_sum, x, dims, rank, false);
}

static th_value reduced(th_rule *r, th_value loss) {
  th_builder *b = r->b;
  int64_t reduction = th_rule_int(r, "reduction");
  if (b->status || reduction == REDUCTION_NONE) return loss;
  if (reduction != REDUCTION_MEAN && reduction != REDUCTION_SUM) th_rule_fail(r, "reduction is %lld, want 0, 1 or 2", (long long)reduction);
  th_value sum = sum_all(b, loss);
  if (b->status || reduction == REDUCTION_SUM) return sum;
  th_type t = th_rule_type(b, loss);
  return th_div(b, sum, th_const_dim(b, th_type_numel(th_ctx(b), &t), t.dtype));
}

/* What the losses over class indices share: which entries count, the class to read, its weight. */
typedef struct classes {
  int64_t dim;          /* of the classes in the scores */
  th_value valid, safe; /* shaped as the target */
  th_value weight;      /* of each entry, 0 where ignored */
} classes;

static classes find_classes(th_rule *r, th_value x, th_value target, th_value weight) {
  th_builder *b = r->b;
  classes k = {.dim = th_rank(b, x) == 1 ? 0 : 1};
  th_type t = th_rule_type(b, x), tt = th_rule_type(b, target);
  bool shapes = tt.rank + 1 == t.rank;
  for (uint32_t i = 0, j = 0; shapes && i < t.rank; i++)
    if (i != k.dim) shapes = t.dims[i] == tt.dims[j++];
  if (!shapes) th_rule_fail(r, "the target's shape is not the input's without its class dimension");
  if (!th_dtype_is_integral(tt.dtype)) th_rule_fail(r, "class indices must be integers, got %s", th_dtype_name(tt.dtype));
  if (b->status) return k;
  target = th_convert(b, target, TH_DTYPE_i64);
  k.valid = th_ne(b, target, th_like(b, (double)th_rule_int(r, "ignore_index"), target));
  k.safe = th_select(b, k.valid, target, th_like(b, 0, target));
  if (weight == TH_NO_VALUE) k.weight = th_convert(b, k.valid, t.dtype);
  else {
    th_value w = th_take(b, th_convert(b, weight, t.dtype), k.safe, 0);
    k.weight = th_select(b, k.valid, w, th_like(b, 0, w));
  }
  return k;
}

/* x[class] of each entry. */
static th_value pick(th_builder *b, th_value x, const classes *k) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x), ts = th_rule_type(b, k->safe);
  th_dim dims[TH_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) dims[i] = i == k->dim ? th_k(b, 1) : t.dims[i];
  th_value at = th_reshape(b, k->safe, dims, t.rank);
  th_value y = th_build1(b, TH_OP_take_along, (th_value[]){x, at}, 2, (th_attr[]){th_make_int(th_ctx(b), k->dim)});
  return th_reshape(b, y, ts.dims, ts.rank);
}

/* Losses of entries, already times their weight and zero where ignored. */
static th_value reduced_by_weight(th_rule *r, th_value loss, const classes *k) {
  th_builder *b = r->b;
  int64_t reduction = th_rule_int(r, "reduction");
  if (b->status || reduction == REDUCTION_NONE) return loss;
  th_value sum = sum_all(b, loss);
  return reduction == REDUCTION_SUM ? sum : th_div(b, sum, sum_all(b, k->weight));
}

static th_value zero_where_ignored(th_builder *b, th_value x, const classes *k) {
  return b->status ? TH_NO_VALUE : th_select(b, k->valid, x, th_like(b, 0, x));
}

void th__lower_nll_loss(th_rule *r) {
  th_builder *b = r->b;
  th_dtype d = th_dtype_of(b, r->in[0]);
  th_value x = th_up(b, r->in[0]);
  classes k = find_classes(r, x, r->in[1], r->in[2]);
  th_value loss = zero_where_ignored(b, th_mul(b, th_neg(b, pick(b, x, &k)), k.weight), &k);
  th_rule_return(r, th_convert(b, reduced_by_weight(r, loss, &k), d));
}

/* torch.nn.functional.cross_entropy, "classes as indices" and "as probabilities". */
void th__lower_cross_entropy_loss(th_rule *r) {
  th_builder *b = r->b;
  th_dtype d = th_dtype_of(b, r->in[0]);
  if (!th_dtype_is_float(d)) th_rule_fail(r, "wants floating point, got %s", th_dtype_name(d));
  if (th_rank(b, r->in[0]) < 1) th_rule_fail(r, "input has rank 0");
  if (r->in[2] != TH_NO_VALUE && th_rank(b, r->in[2]) != 1) th_rule_fail(r, "weight has rank %u, want 1: a number for each class", th_rank(b, r->in[2]));
  if (b->status) return;
  th_value x = th_up(b, r->in[0]), target = r->in[1], weight = r->in[2], exps, sum, maximum, loss;
  th_type t = th_rule_type(b, x), tt = th_rule_type(b, target);
  int64_t dim = t.rank == 1 ? 0 : 1;
  double smoothing = th_rule_float(r, "label_smoothing");
  if (!(smoothing >= 0 && smoothing <= 1)) th_rule_fail(r, "label_smoothing is %g, want 0 to 1", smoothing);
  shifted(b, x, dim, &exps, &sum, &maximum);
  th_value lse = th_add(b, th_log(b, sum), maximum);
  th_value share = th_const_dim(b, t.dims[dim], t.dtype); /* smoothing / classes, where wanted */
  share = th_div(b, th_const(b, smoothing, t.dtype), share);
  th_value log_p = th_sub(b, x, th_spread(b, lse, x, &dim, 1));
  th_value w = TH_NO_VALUE; /* class weights over x's shape */
  if (weight != TH_NO_VALUE) w = th_broadcast(b, th_convert(b, weight, t.dtype), t.dims, t.rank, (int64_t[]){dim});
  if (b->status) return;
  if (th_dtype_is_float(tt.dtype)) {
    if (!th_type_same_shape(&t, &tt)) th_rule_fail(r, "class probabilities must have the input's shape");
    if (b->status) return;
    th_value p = th_convert(b, target, t.dtype);
    if (smoothing > 0) p = th_add(b, th_mul_scalar(b, p, 1 - smoothing), th_broadcast_like(b, share, p));
    th_value terms = th_mul(b, log_p, p);
    if (w != TH_NO_VALUE) terms = th_mul(b, terms, w);
    loss = th_neg(b, th_reduce(b, TH_OP_reduce_sum, terms, &dim, 1, false));
    loss = reduced(r, loss);
  } else {
    classes k = find_classes(r, x, target, weight);
    loss = th_mul(b, th_sub(b, lse, pick(b, x, &k)), k.weight);
    if (smoothing > 0) {
      th_value terms = w == TH_NO_VALUE ? log_p : th_mul(b, log_p, w);
      th_value smooth = th_neg(b, th_reduce(b, TH_OP_reduce_sum, terms, &dim, 1, false));
      smooth = th_mul(b, smooth, th_broadcast_like(b, share, smooth));
      loss = th_add(b, th_mul_scalar(b, loss, 1 - smoothing), smooth);
    }
    loss = reduced_by_weight(r, zero_where_ignored(b, loss, &k), &k);
  }
  th_rule_return(r, th_convert(b, loss, d));
  th_rule_return(r, lse);
}

/* ---- losses of two tensors of one shape ---- */

static bool operands(th_rule *r, th_value *x, th_value *y, th_dtype *d) {
  th_value out[2];
  *d = th_float_dtype(th_result_type(r->b, r->in, 2));
  th_unify(r->b, r->in, 2, *d, out);
  *x = th_up(r->b, out[0]);
  *y = th_up(r->b, out[1]);
  return !r->b->status;
}

void th__lower_mse_loss(th_rule *r) {
  th_value x, y;
  th_dtype d;
  if (!operands(r, &x, &y, &d)) return;
  th_value e = th_sub(r->b, x, y);
  th_rule_return(r, th_convert(r->b, reduced(r, th_mul(r->b, e, e)), d));
}

void th__lower_l1_loss(th_rule *r) {
  th_value x, y;
  th_dtype d;
  if (!operands(r, &x, &y, &d)) return;
  th_rule_return(r, th_convert(r->b, reduced(r, th_abs(r->b, th_sub(r->b, x, y))), d));
}

/* 0.5 e^2 below the edge, edge * (|e| - edge / 2) above, over `divisor`. */
static void huber(th_rule *r, double edge, double divisor) {
  th_value x, y;
  th_dtype d;
  if (!operands(r, &x, &y, &d)) return;
  th_builder *b = r->b;
  th_value e = th_sub(b, x, y), a = th_abs(b, e);
  th_value square = th_mul_scalar(b, th_mul(b, e, e), 0.5 / divisor);
  th_value line = th_mul_scalar(b, th_add_scalar(b, a, -0.5 * edge), edge / divisor);
  th_value loss = th_select(b, th_lt(b, a, th_like(b, edge, a)), square, line);
  th_rule_return(r, th_convert(b, reduced(r, loss), d));
}

void th__lower_smooth_l1_loss(th_rule *r) {
  double beta = th_rule_float(r, "beta");
  if (!(beta >= 0)) th_rule_fail(r, "beta is %g, want 0 or more", beta);
  else if (beta == 0) th__lower_l1_loss(r);
  else huber(r, beta, beta);
}
void th__lower_huber_loss(th_rule *r) {
  double delta = th_rule_float(r, "delta");
  if (!(delta > 0)) th_rule_fail(r, "delta is %g, want more than 0", delta);
  else huber(r, delta, 1);
}

/* -(y log(x) + (1 - y) log(1 - x)), the logarithms not below -100. */
void th__lower_binary_cross_entropy(th_rule *r) {
  th_value x, y;
  th_dtype d;
  if (!operands(r, &x, &y, &d)) return;
  th_builder *b = r->b;
  th_value least = th_like(b, -100, x), no = th_max(b, th_log1p(b, th_neg(b, x)), least), yes = th_max(b, th_log(b, x), least);
  th_value loss = th_sub(b, th_mul(b, th_add_scalar(b, y, -1), no), th_mul(b, y, yes));
  if (r->in[2] != TH_NO_VALUE) loss = th_mul(b, loss, th_broadcast_like(b, th_convert(b, r->in[2], th_dtype_of(b, x)), loss));
  th_rule_return(r, th_convert(b, reduced(r, loss), d));
}

/* (1 - y) x + (1 + (pos_weight - 1) y) log(1 + exp(-x)), the logarithm taken on the safe side. */
void th__lower_bce_with_logits(th_rule *r) {
  th_value x, y;
  th_dtype d;
  if (!operands(r, &x, &y, &d)) return;
  th_builder *b = r->b;
  th_dtype wide = th_dtype_of(b, x);
  th_value soft = th_add(b, th_log1p(b, th_exp(b, th_neg(b, th_abs(b, x)))), th_max(b, th_neg(b, x), th_like(b, 0, x)));
  if (r->in[3] != TH_NO_VALUE) {
    th_value p = th_broadcast_like(b, th_convert(b, r->in[3], wide), x);
    soft = th_mul(b, soft, th_add_scalar(b, th_mul(b, th_add_scalar(b, p, -1), y), 1));
  }
  th_value loss = th_add(b, th_mul(b, th_sub(b, th_like(b, 1, y), y), x), soft);
  if (r->in[2] != TH_NO_VALUE) loss = th_mul(b, loss, th_broadcast_like(b, th_convert(b, r->in[2], wide), loss));
  th_rule_return(r, th_convert(b, reduced(r, loss), d));
}
