/* Gradients of level 1 ops that have a formula of their own. Computed in the compute dtype, rounded once. */
#include "ir/grad/grad.h"

#include <math.h>

#define B (v->b)
#define X (v->in[0])

static th_value up_grad(th_vjp *v) { return th_up(B, th_vjp_grad(v, 0)); }

void th__vjp_detach(th_vjp *v) { (void)v; }
void th__vjp_straight_through(th_vjp *v) { th_vjp_give(v, 1, v->grad[0]); }

void th__vjp_sigmoid(th_vjp *v) {
  th_value y = th_up(B, v->out);
  th_vjp_give(v, 0, th_mul(B, up_grad(v), th_mul(B, y, th_sub(B, th_like(B, 1, y), y))));
}

void th__vjp_silu(th_vjp *v) { /* s (1 + x (1 - s)) */
  th_value x = th_up(B, X), s = th_sigmoid(B, x);
  th_value slope = th_mul(B, s, th_add_scalar(B, th_mul(B, x, th_sub(B, th_like(B, 1, s), s)), 1));
  th_vjp_give(v, 0, th_mul(B, up_grad(v), slope));
}

void th__vjp_gelu(th_vjp *v) { /* whole, so that a matrix product's epilogue can take it */
  th_value operands[] = {th_vjp_grad(v, 0), X};
  th_vjp_give(v, 0, th_build1(B, TH_OP_torch_gelu_backward, operands, 2, v->op->attrs));
}

/* ---- normalizations ---- */

static th_value mean_of(th_builder *b, th_value x, const int64_t *dims, uint32_t n) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  th_value sum = th_reduce(b, TH_OP_reduce_sum, x, dims, n, false);
  return th_div(b, sum, th_broadcast_like(b, th_count(b, &t, dims, n, t.dtype), sum));
}

/* rstd (gw - mean(gw) - xhat mean(gw xhat)) over dims; without `centred` the first mean is left out. */
static th_value through_statistics(th_vjp *v, th_value gw, th_value xhat, th_value rstd, const int64_t *dims, uint32_t n, bool centred) {
  th_value slope = th_mul(B, xhat, th_spread(B, mean_of(B, th_mul(B, gw, xhat), dims, n), gw, dims, n));
  th_value y = th_sub(B, gw, slope);
  if (centred) y = th_sub(B, y, th_spread(B, mean_of(B, gw, dims, n), gw, dims, n));
  return th_mul(B, y, rstd);
}

static void row_norm(th_vjp *v, bool centred) {
  th_value x = th_up(B, X), g = up_grad(v);
  if (B->status) return;
  int64_t dims[TH_MAX_RANK];
  uint32_t n = th_attr_get(v->op, "normalized_shape")->count;
  th_last_dims(th_rank(B, x), n, dims);
  th_value rstd = th_spread(B, v->out + (centred ? 2 : 1), x, dims, n);
  th_value xhat = th_mul(B, centred ? th_sub(B, x, th_spread(B, v->out + 1, x, dims, n)) : x, rstd);
  th_value weight = v->in[1];
  th_value gw = weight == TH_NO_VALUE ? g : th_mul(B, g, th_broadcast_like(B, th_convert(B, weight, th_dtype_of(B, x)), g));
  if (th_vjp_want(v, 0)) th_vjp_give(v, 0, through_statistics(v, gw, xhat, rstd, dims, n, centred));
  if (th_vjp_want(v, 1)) th_vjp_give(v, 1, th_mul(B, g, xhat));
  if (centred && th_vjp_want(v, 2)) th_vjp_give(v, 2, g);
}
void th__vjp_layer_norm(th_vjp *v) { row_norm(v, true); }
void th__vjp_rms_norm(th_vjp *v) { row_norm(v, false); }

void th__vjp_batch_norm(th_vjp *v) {
  th_value x = th_up(B, X), g = up_grad(v);
  if (B->status) return;
  th_type t = th_rule_type(B, x);
  int64_t dims[TH_MAX_RANK], channel = 1;
  uint32_t n = 0;
  for (uint32_t i = 0; i < t.rank; i++)
    if (i != 1) dims[n++] = i;
  bool running = v->op->kind == TH_OP_torch_batch_norm_no_training;
  th_value mean = v->out + 1, rstd = v->out + 2;
  if (running) {
    mean = th_convert(B, v->in[3], t.dtype);
    rstd = th_rsqrt(B, th_add_scalar(B, th_convert(B, v->in[4], t.dtype), th_attr_float(th_ctx(B), v->op, "eps")));
  }
  mean = th_broadcast(B, mean, t.dims, t.rank, &channel);
  rstd = th_broadcast(B, rstd, t.dims, t.rank, &channel);
  th_value xhat = th_mul(B, th_sub(B, x, mean), rstd), gw = g;
  if (v->in[1] != TH_NO_VALUE) gw = th_mul(B, g, th_broadcast(B, th_convert(B, v->in[1], t.dtype), t.dims, t.rank, &channel));
  if (th_vjp_want(v, 0)) th_vjp_give(v, 0, !running && th_attr_bool(v->op, "training") ? through_statistics(v, gw, xhat, rstd, dims, n, true) : th_mul(B, gw, rstd));
  if (th_vjp_want(v, 1)) th_vjp_give(v, 1, th_reduce(B, TH_OP_reduce_sum, th_mul(B, g, xhat), dims, n, false));
  if (th_vjp_want(v, 2)) th_vjp_give(v, 2, th_reduce(B, TH_OP_reduce_sum, g, dims, n, false));
}

/* ---- softmax, losses ---- */

static int64_t softmax_dim(th_vjp *v, th_value y) { return th_wrap_dim(B, th_attr_int(v->op, th_ctx(B), "dim"), th_rank(B, y)); }

void th__vjp_softmax(th_vjp *v) { /* y (g - sum(g y)) */
  th_value y = th_up(B, v->out), g = up_grad(v);
  int64_t dim = softmax_dim(v, y);
  if (th_rank(B, y) == 0) th_vjp_give(v, 0, th_like(B, 0, y));
  else th_vjp_give(v, 0, th_mul(B, y, th_sub(B, g, th_spread(B, th_reduce(B, TH_OP_reduce_sum, th_mul(B, g, y), &dim, 1, false), y, &dim, 1))));
}

void th__vjp_log_softmax(th_vjp *v) { /* g - exp(y) sum(g) */
  th_value y = th_up(B, v->out), g = up_grad(v);
  int64_t dim = softmax_dim(v, y);
  if (th_rank(B, y) == 0) th_vjp_give(v, 0, th_like(B, 0, y));
  else th_vjp_give(v, 0, th_sub(B, g, th_mul(B, th_exp(B, y), th_spread(B, th_reduce(B, TH_OP_reduce_sum, g, &dim, 1, false), y, &dim, 1))));
}

/* (softmax - one hot) times what each entry's loss weighs; class indices without smoothing. */
void th__vjp_cross_entropy_loss(th_vjp *v) {
  th_value x = th_up(B, X), g = up_grad(v), target = th_convert(B, v->in[1], TH_DTYPE_i64);
  if (B->status) return;
  th_type t = th_rule_type(B, x), tt = th_rule_type(B, target);
  int64_t dim = t.rank == 1 ? 0 : 1, reduction = th_attr_int(v->op, th_ctx(B), "reduction"), all[TH_MAX_RANK];
  th_value valid = th_ne(B, target, th_like(B, (double)th_attr_int(v->op, th_ctx(B), "ignore_index"), target));
  th_value weight;
  if (v->in[2] == TH_NO_VALUE) weight = th_convert(B, valid, t.dtype);
  else {
    th_value w = th_take(B, th_convert(B, v->in[2], t.dtype), th_select(B, valid, target, th_like(B, 0, target)), 0);
    weight = th_select(B, valid, w, th_like(B, 0, w));
  }
  th_last_dims(tt.rank, tt.rank, all);
  if (reduction == 1) g = th_div(B, g, th_reduce(B, TH_OP_reduce_sum, weight, all, tt.rank, false));
  th_value coefficient = th_mul(B, th_broadcast_like(B, g, weight), weight);
  coefficient = th_select(B, valid, coefficient, th_like(B, 0, coefficient)); /* all ignored: g is a quotient by 0 */
  th_value p = th_exp(B, th_sub(B, x, th_spread(B, v->out + 1, x, &dim, 1)));
  th_value hit = th_eq(B, th_iota(B, t.dims, t.rank, (uint32_t)dim, TH_DTYPE_i64), th_spread(B, target, x, &dim, 1));
  th_vjp_give(v, 0, th_mul(B, th_sub(B, p, th_convert(B, hit, t.dtype)), th_spread(B, coefficient, x, &dim, 1)));
}

/* (x - y) / (x (1 - x)), the divisor not below 1e-12: finite at 0 and 1, as PyTorch has it. */
void th__vjp_binary_cross_entropy(th_vjp *v) {
  th_value g = up_grad(v), o[2];
  th_unify(B, v->in, 2, th_dtype_compute(th_float_dtype(th_result_type(B, v->in, 2))), o);
  if (B->status) return;
  th_value x = o[0], y = o[1], left = th_sub(B, th_like(B, 1, x), x);
  th_type t = th_rule_type(B, x);
  int64_t all[TH_MAX_RANK];
  th_last_dims(t.rank, t.rank, all);
  if (th_attr_int(v->op, th_ctx(B), "reduction") == 1) g = th_div(B, g, th_count(B, &t, all, t.rank, t.dtype));
  g = th_broadcast_like(B, g, x);
  if (v->in[2] != TH_NO_VALUE) g = th_mul(B, g, th_broadcast_like(B, th_convert(B, v->in[2], t.dtype), x));
  if (th_vjp_want(v, 0)) th_vjp_give(v, 0, th_div(B, th_mul(B, g, th_sub(B, x, y)), th_max(B, th_mul(B, left, x), th_like(B, 1e-12f, x))));
  if (th_vjp_want(v, 1)) th_vjp_give(v, 1, th_mul(B, g, th_sub(B, th_log(B, left), th_log(B, x))));
}

/* ---- variance ---- */

/* Of the variance 2 (x - mean) / (n - correction); of its root that over twice the root, and 0 where the root is 0. With
 * correction >= n as PyTorch has it: by the formula, but for a variance of all elements NaN and inf. */
static void statistics(th_vjp *v, bool root) {
  th_context *c = th_ctx(B);
  if (B->status) return;
  th_value x = th_up(B, X), contribution = TH_NO_VALUE;
  th_type t = th_rule_type(B, x);
  const th_attr *attr = th_attr_get(v->op, "dim");
  bool whole = attr->kind != TH_ATTR_INTS || t.rank == 0;
  int64_t dims[TH_MAX_RANK], d;
  uint32_t n = 0;
  for (uint32_t i = 0; !whole && i < attr->count; i++)
    if (th_dim_is_const(c, attr->ints[i], &d)) dims[n++] = th_wrap_dim(B, d, t.rank);
  if (n == 0) th_last_dims(t.rank, n = t.rank, dims);
  th_value count = th_count(B, &t, dims, n, t.dtype);
  th_value mean = th_reduce(B, TH_OP_reduce_sum, x, dims, n, false);
  if (B->status) return;
  th_type reduced = th_rule_type(B, mean);
  mean = th_spread(B, th_div(B, mean, th_broadcast_like(B, count, mean)), x, dims, n);
  if (v->grad[0] != TH_NO_VALUE) {
    th_value g = th_reshape(B, up_grad(v), reduced.dims, reduced.rank);
    if (root) {
      th_value y = th_reshape(B, th_up(B, v->out), reduced.dims, reduced.rank), zero = th_like(B, 0, y);
      g = th_select(B, th_eq(B, y, zero), zero, th_div(B, g, th_mul_scalar(B, y, 2)));
    }
    double correction = th_attr_absent(v->op, "correction") ? 1 : th_attr_float(c, v->op, "correction");
    th_value left = th_add_scalar(B, count, -correction), slope = th_sub(B, x, mean);
    slope = th_mul(B, th_broadcast_like(B, th_div(B, th_like(B, 2, left), left), x), slope);
    th_dim size = th_k(B, 1);
    for (uint32_t i = 0; i < n; i++) size = th_dim_mul(c, size, t.dims[dims[i]]);
    if (whole && !(th_dim_is_const(c, size, &d) && (double)d > correction)) {
      th_value none = th_select(B, th_eq(B, x, mean), th_like(B, NAN, x), th_like(B, INFINITY, x));
      slope = th_select(B, th_broadcast_like(B, th_le(B, left, th_like(B, 0, left)), x), none, slope);
    }
    contribution = th_mul(B, th_spread(B, g, x, dims, n), slope);
  }
  if (v->op->n_results > 1 && v->grad[1] != TH_NO_VALUE) {
    th_value g = th_reshape(B, th_up(B, v->grad[1]), reduced.dims, reduced.rank);
    g = th_spread(B, th_div(B, g, th_broadcast_like(B, count, g)), x, dims, n);
    contribution = contribution == TH_NO_VALUE ? g : th_add(B, contribution, g);
  }
  if (contribution != TH_NO_VALUE) th_vjp_give(v, 0, contribution);
}
void th__vjp_variance(th_vjp *v) { statistics(v, false); }
void th__vjp_deviation(th_vjp *v) { statistics(v, true); }

/* ---- attention, embedding, dropout ---- */

void th__vjp_sdpa(th_vjp *v) {
  th_context *c = th_ctx(B);
  int64_t e;
  if (B->status) return;
  th_attr scale = *th_attr_get(v->op, "scale");
  if (scale.kind == TH_ATTR_ABSENT && th_dim_is_const(c, th_size(B, X, -1), &e)) scale = th_make_float(e > 0 ? 1 / sqrt((double)e) : 1);
  th_value operands[7] = {v->in[0], v->in[1], v->in[2], v->out, v->out + 1, v->grad[0], v->in[3]};
  th_op *back = th_build(B, TH_OP_torch_sdpa_backward, operands, 7, (th_attr[]){*th_attr_get(v->op, "is_causal"), scale});
  for (uint32_t i = 0; back && i < 3; i++)
    if (th_vjp_want(v, i)) v->in_grad[i] = back->result + i;
}

void th__vjp_embedding(th_vjp *v) {
  th_value g = up_grad(v), at = v->in[1];
  if (th_attr_bool(v->op, "scale_grad_by_freq")) th_fail(B, TH_ERROR(UNIMPLEMENTED, "op torch.embedding: scale_grad_by_freq has no gradient rule"));
  if (B->status) return;
  th_type t = th_rule_type(B, X), ti = th_rule_type(B, at);
  int64_t padding = th_attr_int(v->op, th_ctx(B), "padding_idx"), map[TH_MAX_RANK];
  if (padding >= 0) {
    for (uint32_t i = 0; i < ti.rank; i++) map[i] = i;
    th_type tg = th_rule_type(B, g);
    th_value keep = th_broadcast(B, th_ne(B, at, th_like(B, (double)padding, at)), tg.dims, tg.rank, map);
    g = th_select(B, keep, g, th_like(B, 0, g));
  }
  th_value zero = th_full(B, 0, th_dtype_of(B, g), t.dims, t.rank);
  th_vjp_give(v, 0, th_build1(B, TH_OP_scatter_add, (th_value[]){zero, at, g}, 3, (th_attr[]){th_make_int(th_ctx(B), 0)}));
}

void th__vjp_dropout(th_vjp *v) { /* the mask is made again: equal tags give equal values */
  th_context *c = th_ctx(B);
  double p = th_attr_float(c, v->op, "p");
  th_value g = v->grad[0];
  if (th_attr_bool(v->op, "train") && p > 0 && !B->status) {
    th_type t = th_rule_type(B, X);
    th_attr tag = th_attr_absent(v->op, "tag") ? th_make_int(c, 0) : *th_attr_get(v->op, "tag");
    th_attr attrs[] = {th_make_ints(c, t.dims, t.rank), th_make_float(p), tag, th_make_dtype(t.dtype)};
    g = th_mul(B, g, th_build1(B, TH_OP_torch_dropout_mask, NULL, 0, attrs));
  }
  th_vjp_give(v, 0, g);
}

/* ---- ops that own graphs ---- */

void th__vjp_checkpoint(th_vjp *v) { /* the body again, kept apart from the first run by a barrier that waits for the gradient */
  uint32_t n = v->op->n_operands, n_grads = 0;
  th_arena *a = th_context_arena(th_ctx(B));
  th_value *operands = TH_ARENA_ARRAY(a, th_value, n + v->op->n_results), *grads = TH_ARENA_ARRAY(a, th_value, v->op->n_results);
  for (uint32_t i = 0; i < n; i++) operands[i] = v->in[i];
  for (uint32_t i = 0; i < v->op->n_results; i++)
    if (v->grad[i] != TH_NO_VALUE) operands[n + n_grads++] = v->grad[i];
  th_op *barrier = th_build(B, TH_OP_barrier, operands, n + n_grads, NULL);
  if (!barrier) return;
  for (uint32_t i = 0; i < n; i++) operands[i] = barrier->result + i;
  for (uint32_t i = 0, k = 0; i < v->op->n_results; i++) grads[i] = v->grad[i] == TH_NO_VALUE ? TH_NO_VALUE : barrier->result + n + k++;
  th_differentiate_body(v, th_attr_get(v->op, "body")->graph, operands, grads, v->wanted, v->in_grad);
}

void th__vjp_custom_grad(th_vjp *v) { /* bwd(gradients of the outputs, saved) */
  th_context *c = th_ctx(B);
  const th_trace *source = th_vjp_source(v);
  uint32_t graph = th_attr_get(v->op, "bwd")->graph, n_out = (uint32_t)th_attr_int(v->op, c, "n_outputs");
  const th_graph *g = source->graphs[graph];
  if (n_out > v->op->n_results || g->n_inputs != v->op->n_results || g->n_outputs != v->op->n_operands) {
    th_fail(B, TH_ERROR(INVALID_ARGUMENT, "op torch.custom_grad: @%s has %u inputs and %u outputs, want %u and %u", g->name, g->n_inputs,
                        g->n_outputs, v->op->n_results, v->op->n_operands));
    return;
  }
  th_arena *a = th_context_arena(c);
  th_value *in = TH_ARENA_ARRAY(a, th_value, g->n_inputs), *out = TH_ARENA_ARRAY(a, th_value, g->n_outputs);
  for (uint32_t i = 0; i < g->n_inputs; i++) in[i] = i < n_out ? th_vjp_grad(v, i) : v->out + i;
  th_fail(B, th_inline(B, source, graph, in, out));
  for (uint32_t i = 0; i < g->n_outputs && !B->status; i++)
    if (th_vjp_want(v, i)) th_vjp_give(v, i, out[i]);
}
