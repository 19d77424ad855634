/* Gradients of prims that move, reduce, gather or exchange elements. */
#include "ir/grad/grad.h"

#define B (v->b)
#define X (v->in[0])
#define G (v->grad[0])
#define TO(i, expression)                          \
  do {                                             \
    if (th_vjp_want(v, i)) v->in_grad[i] = (expression); \
  } while (0)

static th_value zeros_like(th_builder *b, th_value x) { return th_like(b, 0, x); }
static const th_attr *attr(const th_vjp *v, const char *name) { return th_attr_get(v->op, name); }

static void constants(th_vjp *v, const char *name, int64_t *out) {
  const th_attr *a = attr(v, name);
  for (uint32_t i = 0; i < a->count; i++)
    if (!th_dim_is_const(th_ctx(B), a->ints[i], &out[i])) th_fail(B, TH_ERROR(INVALID_ARGUMENT, "op %s: %s must be constants", th_op_name(v->op->kind), name));
}

void th__vjp_broadcast(th_vjp *v) {
  int64_t map[TH_MAX_RANK], reduced[TH_MAX_RANK];
  uint32_t n = 0, mask = 0;
  constants(v, "dims", map);
  if (B->status) return;
  th_type t = th_rule_type(B, X), tg = th_rule_type(B, G);
  for (uint32_t i = 0; i < t.rank; i++)
    if (t.dims[i] == tg.dims[map[i]]) mask |= 1u << map[i];
  for (uint32_t i = 0; i < tg.rank; i++)
    if (!(mask >> i & 1)) reduced[n++] = i;
  TO(0, th_reshape(B, th_reduce(B, TH_OP_reduce_sum, G, reduced, n, false), t.dims, t.rank));
}

void th__vjp_reshape(th_vjp *v) {
  th_type t = th_rule_type(B, X);
  TO(0, th_reshape(B, G, t.dims, t.rank));
}

void th__vjp_transpose(th_vjp *v) {
  int64_t p[TH_MAX_RANK], inverse[TH_MAX_RANK];
  constants(v, "permutation", p);
  for (uint32_t i = 0; i < attr(v, "permutation")->count; i++) inverse[p[i]] = i;
  TO(0, th_transpose(B, G, inverse));
}

void th__vjp_slice(th_vjp *v) { /* zeros around and between */
  th_context *c = th_ctx(B);
  th_type t = th_rule_type(B, X), tg = th_rule_type(B, G);
  const th_dim *start = attr(v, "start")->ints, *stride = attr(v, "stride")->ints;
  th_dim high[TH_MAX_RANK], interior[TH_MAX_RANK], one = th_dim_const(c, 1);
  for (uint32_t i = 0; i < t.rank; i++) {
    if (th_dim_is(c, tg.dims[i], 0)) {
      v->in_grad[0] = zeros_like(B, X);
      return;
    }
    th_dim end = th_dim_add(c, th_dim_add(c, start[i], th_dim_mul(c, th_dim_sub(c, tg.dims[i], one), stride[i])), one);
    high[i] = th_dim_sub(c, t.dims[i], end);
    interior[i] = th_dim_sub(c, stride[i], one);
  }
  TO(0, th_pad(B, G, th_const(B, 0, t.dtype), start, high, interior));
}

void th__vjp_pad(th_vjp *v) { /* the borders cut off (or put back), then every (interior + 1)th */
  th_context *c = th_ctx(B);
  th_type t = th_rule_type(B, X);
  const th_dim *low = attr(v, "low")->ints, *high = attr(v, "high")->ints, *interior = attr(v, "interior")->ints;
  th_dim l[TH_MAX_RANK], h[TH_MAX_RANK], start[TH_MAX_RANK], stride[TH_MAX_RANK], zero = th_dim_const(c, 0);
  for (uint32_t i = 0; i < t.rank; i++) {
    l[i] = th_dim_sub(c, zero, low[i]);
    h[i] = th_dim_sub(c, zero, high[i]);
    start[i] = zero;
    stride[i] = th_dim_add(c, interior[i], th_dim_const(c, 1));
  }
  th_value inner = th_pad(B, G, th_const(B, 0, t.dtype), l, h, NULL);
  if (B->status) return;
  th_type ti = th_rule_type(B, inner);
  inner = th_slice(B, inner, start, ti.dims, stride);
  TO(0, inner);
  if (th_vjp_want(v, 1)) {
    int64_t all[TH_MAX_RANK];
    th_last_dims(t.rank, t.rank, all);
    v->in_grad[1] = th_sub(B, th_reduce(B, TH_OP_reduce_sum, G, all, t.rank, false), th_reduce(B, TH_OP_reduce_sum, inner, all, t.rank, false));
  }
}

void th__vjp_concat(th_vjp *v) {
  th_context *c = th_ctx(B);
  uint32_t dim = (uint32_t)th_attr_int(v->op, c, "dim");
  th_dim at = th_dim_const(c, 0);
  for (uint32_t i = 0; i < v->op->n_operands && !B->status; i++) {
    th_dim end = th_dim_add(c, at, th_size(B, v->in[i], dim));
    TO(i, th_slice_dim(B, G, dim, at, end, th_dim_const(c, 1)));
    at = end;
  }
}

void th__vjp_reverse(th_vjp *v) {
  int64_t dims[TH_MAX_RANK];
  constants(v, "dims", dims);
  TO(0, th_reverse(B, G, dims, attr(v, "dims")->count));
}

/* ---- reductions ---- */

static uint32_t reduced_dims(th_vjp *v, int64_t *dims) {
  constants(v, "dims", dims);
  return attr(v, "dims")->count;
}

void th__vjp_reduce_sum(th_vjp *v) {
  int64_t dims[TH_MAX_RANK];
  uint32_t n = reduced_dims(v, dims);
  TO(0, th_spread(B, G, X, dims, n));
}

void th__vjp_reduce_max(th_vjp *v) { /* shared evenly between ties, as torch.amax does */
  int64_t dims[TH_MAX_RANK];
  uint32_t n = reduced_dims(v, dims);
  th_dtype d = th_dtype_of(B, X);
  th_value hit = th_convert(B, th_eq(B, X, th_spread(B, v->out, X, dims, n)), d);
  th_value share = th_div(B, G, th_reduce(B, TH_OP_reduce_sum, hit, dims, n, false));
  TO(0, th_mul(B, hit, th_spread(B, share, X, dims, n)));
}

void th__vjp_reduce_prod(th_vjp *v) { /* the product of the others, also where some are zero */
  int64_t dims[TH_MAX_RANK];
  uint32_t n = reduced_dims(v, dims);
  th_value zero = zeros_like(B, X), one = th_like(B, 1, X), is_zero = th_eq(B, X, zero);
  th_value zeros = th_spread(B, th_reduce(B, TH_OP_reduce_sum, th_convert(B, is_zero, th_dtype_of(B, X)), dims, n, false), X, dims, n);
  th_value safe = th_select(B, is_zero, one, X);
  th_value rest = th_spread(B, th_reduce(B, TH_OP_reduce_prod, safe, dims, n, false), X, dims, n);
  th_value others = th_select(B, is_zero, th_select(B, th_eq(B, zeros, one), rest, zero),
                              th_select(B, th_eq(B, zeros, zero), th_div(B, rest, safe), zero));
  TO(0, th_mul(B, th_spread(B, G, X, dims, n), others));
}

void th__vjp_cumsum(th_vjp *v) {
  int64_t dim = th_attr_int(v->op, th_ctx(B), "dim");
  th_value back = th_reverse(B, G, &dim, 1);
  back = th_build1(B, TH_OP_cumsum, &back, 1, v->op->attrs);
  TO(0, th_reverse(B, back, &dim, 1));
}

/* ---- contractions ---- */

/* The gradient of one side of a dot: g contracted with the other side over that side's free dims. */
static th_value dot_side(th_vjp *v, bool left) {
  th_value self = v->in[left ? 0 : 1], other = v->in[left ? 1 : 0];
  th_type ts = th_rule_type(B, self), to = th_rule_type(B, other);
  int64_t sb[TH_MAX_RANK], ob[TH_MAX_RANK], sc[TH_MAX_RANK], oc[TH_MAX_RANK];
  constants(v, left ? "lhs_batch" : "rhs_batch", sb);
  constants(v, left ? "rhs_batch" : "lhs_batch", ob);
  constants(v, left ? "lhs_contract" : "rhs_contract", sc);
  constants(v, left ? "rhs_contract" : "lhs_contract", oc);
  uint32_t n_batch = attr(v, "lhs_batch")->count, n_contract = attr(v, "lhs_contract")->count;
  if (B->status) return TH_NO_VALUE;
  uint32_t self_taken = 0, other_taken = 0;
  for (uint32_t i = 0; i < n_batch; i++) {
    self_taken |= 1u << sb[i];
    other_taken |= 1u << ob[i];
  }
  for (uint32_t i = 0; i < n_contract; i++) {
    self_taken |= 1u << sc[i];
    other_taken |= 1u << oc[i];
  }
  uint32_t self_free = ts.rank - n_batch - n_contract, other_free = to.rank - n_batch - n_contract, n = 0;
  int64_t g_batch[TH_MAX_RANK], g_contract[TH_MAX_RANK], o_contract[TH_MAX_RANK], at[TH_MAX_RANK];
  for (uint32_t i = 0; i < n_batch; i++) g_batch[i] = i;
  for (uint32_t i = 0; i < other_free; i++) g_contract[i] = n_batch + (left ? self_free : 0) + i;
  for (uint32_t i = 0; i < to.rank; i++)
    if (!(other_taken >> i & 1)) o_contract[n++] = i;
  th_value y = th_dot(B, G, other, g_batch, ob, n_batch, g_contract, o_contract, other_free);
  /* y's dims: batch, self's free ones, then the contracted ones in the order they stand in `other`. */
  n = 0;
  for (uint32_t i = 0; i < n_batch; i++) at[sb[i]] = n++;
  for (uint32_t i = 0; i < ts.rank; i++)
    if (!(self_taken >> i & 1)) at[i] = n++;
  for (uint32_t i = 0; i < to.rank; i++)
    for (uint32_t k = 0; k < n_contract; k++)
      if (oc[k] == i) at[sc[k]] = n++;
  return th_transpose(B, y, at);
}

void th__vjp_dot(th_vjp *v) {
  TO(0, dot_side(v, true));
  TO(1, dot_side(v, false));
}

static th_value conv_of(th_vjp *v, th_op_kind kind, th_value a, th_value b, th_value shaped) {
  th_context *c = th_ctx(B);
  if (B->status) return TH_NO_VALUE;
  th_attr stride = *attr(v, "stride"), padding = *attr(v, "padding"), dilation = *attr(v, "dilation"), groups = *attr(v, "groups");
  if (kind == TH_OP_conv) return th_build1(B, kind, (th_value[]){a, b}, 2, (th_attr[]){stride, padding, dilation, groups});
  th_type t = th_rule_type(B, shaped);
  return th_build1(B, kind, (th_value[]){a, b}, 2, (th_attr[]){th_make_ints(c, t.dims, t.rank), stride, padding, dilation, groups});
}
void th__vjp_conv(th_vjp *v) {
  TO(0, conv_of(v, TH_OP_conv_grad_x, G, v->in[1], X));
  TO(1, conv_of(v, TH_OP_conv_grad_w, X, G, v->in[1]));
}
void th__vjp_conv_grad_x(th_vjp *v) { /* linear in both, as conv is: (grad, w) */
  TO(0, conv_of(v, TH_OP_conv, G, v->in[1], X));
  TO(1, conv_of(v, TH_OP_conv_grad_w, G, X, v->in[1]));
}
void th__vjp_conv_grad_w(th_vjp *v) { /* (x, grad) */
  TO(0, conv_of(v, TH_OP_conv_grad_x, v->in[1], G, X));
  TO(1, conv_of(v, TH_OP_conv, X, G, v->in[1]));
}

static th_value window_attrs(th_vjp *v, th_op_kind kind, th_value shaped, th_value at) {
  th_context *c = th_ctx(B);
  if (B->status) return TH_NO_VALUE;
  th_type t = th_rule_type(B, shaped);
  uint32_t n = attr(v, "kernel")->count;
  th_attr attrs[] = {*attr(v, "kernel"), *attr(v, "stride"), *attr(v, "padding"), *attr(v, "dilation"), th_make_ints(c, t.dims + t.rank - n, n)};
  return th_build1(B, kind, (th_value[]){v->grad[0], at}, at == TH_NO_VALUE ? 1 : 2, attrs);
}
void th__vjp_window_sum(th_vjp *v) { TO(0, window_attrs(v, TH_OP_window_sum_grad, X, TH_NO_VALUE)); }
void th__vjp_window_sum_grad(th_vjp *v) { TO(0, window_attrs(v, TH_OP_window_sum, X, TH_NO_VALUE)); }
void th__vjp_window_max(th_vjp *v) { TO(0, window_attrs(v, TH_OP_window_max_grad, X, v->out + 1)); }

void th__vjp_window_max_grad(th_vjp *v) { /* linear in the gradient: what stood where each largest was */
  th_context *c = th_ctx(B);
  th_type t = th_rule_type(B, X), tg = th_rule_type(B, G);
  uint32_t n = attr(v, "kernel")->count, lead = t.rank - n;
  th_dim in[TH_MAX_RANK], out[TH_MAX_RANK];
  for (uint32_t i = 0; i < lead; i++) in[i] = out[i] = t.dims[i];
  in[lead] = th_dim_product(c, tg.dims + lead, n);
  out[lead] = th_dim_product(c, t.dims + lead, n);
  th_value at = th_reshape(B, v->in[1], out, lead + 1), flat = th_reshape(B, G, in, lead + 1);
  th_value y = th_build1(B, TH_OP_take_along, (th_value[]){flat, at}, 2, (th_attr[]){th_make_int(c, lead)});
  TO(0, th_reshape(B, y, t.dims, t.rank));
}

/* ---- indices ---- */

static th_value with_attrs(th_vjp *v, th_op_kind kind, const th_value *operands, uint32_t n) {
  return th_build1(B, kind, operands, n, v->op->attrs); /* all of them have `dim` alone */
}
void th__vjp_take(th_vjp *v) { TO(0, with_attrs(v, TH_OP_scatter_add, (th_value[]){zeros_like(B, X), v->in[1], G}, 3)); }
void th__vjp_take_along(th_vjp *v) { TO(0, with_attrs(v, TH_OP_scatter_add_along, (th_value[]){zeros_like(B, X), v->in[1], G}, 3)); }
void th__vjp_scatter_add(th_vjp *v) {
  TO(0, G);
  TO(2, with_attrs(v, TH_OP_take, (th_value[]){G, v->in[1]}, 2));
}
void th__vjp_scatter_add_along(th_vjp *v) {
  TO(0, G);
  TO(2, with_attrs(v, TH_OP_take_along, (th_value[]){G, v->in[1]}, 2));
}
void th__vjp_scatter_along(th_vjp *v) {
  TO(0, with_attrs(v, TH_OP_scatter_along, (th_value[]){G, v->in[1], zeros_like(B, v->in[2])}, 3));
  TO(2, with_attrs(v, TH_OP_take_along, (th_value[]){G, v->in[1]}, 2));
}

/* ---- collectives: each is the transpose of another ---- */

void th__vjp_all_reduce(th_vjp *v) { TO(0, th_build1(B, TH_OP_all_reduce, &v->grad[0], 1, v->op->attrs)); }
void th__vjp_all_gather(th_vjp *v) {
  th_attr attrs[] = {*attr(v, "axis"), *attr(v, "dim"), th_make_string(th_ctx(B), "sum")};
  TO(0, th_build1(B, TH_OP_reduce_scatter, &v->grad[0], 1, attrs));
}
void th__vjp_reduce_scatter(th_vjp *v) {
  th_attr attrs[] = {*attr(v, "axis"), *attr(v, "dim")};
  TO(0, th_build1(B, TH_OP_all_gather, &v->grad[0], 1, attrs));
}
