/* Sums over products (dot, convolutions) and windows. Accumulated in f64,
 * rounded once. */
#include <math.h>
#include <string.h>

#include "executors/ref/value.h"

static void round_all(th_ref_value *v) {
  for (size_t k = 0; k < v->n; k++) v->cells[k] = th_ref_round(v->dtype, v->cells[k]);
}

/* acc += a * b */
static void multiply_add(th_dtype dtype, th_cell *acc, th_cell a, th_cell b) {
  if (th_dtype_is_float(dtype))
    acc->f += a.f * b.f;
  else
    acc->i = (int64_t)((uint64_t)acc->i + (uint64_t)a.i * (uint64_t)b.i);
}

static th_status dot(const th_ref_call *call) {
  const th_ref_value *l = call->in[0], *r = call->in[1];
  th_ref_value *out = call->out;
  uint32_t nb, nc, rank = 0, lmask = 0, rmask = 0;
  const int64_t *lb = th_ref_ints(call, "lhs_batch", &nb), *rb = th_ref_ints(call, "rhs_batch", NULL);
  const int64_t *lc = th_ref_ints(call, "lhs_contract", &nc), *rc = th_ref_ints(call, "rhs_contract", NULL);
  uint32_t lhs_at[TH_MAX_RANK], rhs_at[TH_MAX_RANK]; /* result dimension of each free or batch dimension
                                                      */
  int64_t sizes[TH_MAX_RANK], index[TH_MAX_RANK] = {0};
  for (uint32_t i = 0; i < nb; i++) lmask |= 1u << lb[i], rmask |= 1u << rb[i], lhs_at[lb[i]] = rhs_at[rb[i]] = rank++;
  for (uint32_t i = 0; i < nc; i++) lmask |= 1u << lc[i], rmask |= 1u << rc[i], sizes[i] = l->dims[lc[i]];
  for (uint32_t i = 0; i < l->rank; i++)
    if (!(lmask >> i & 1)) lhs_at[i] = rank++;
  for (uint32_t i = 0; i < r->rank; i++)
    if (!(rmask >> i & 1)) rhs_at[i] = rank++;
  uint32_t lcm = 0, rcm = 0;
  for (uint32_t i = 0; i < nc; i++) lcm |= 1u << lc[i], rcm |= 1u << rc[i];
  size_t terms = 1;
  for (uint32_t i = 0; i < nc; i++) terms *= (size_t)sizes[i];
  for (size_t k = 0; k < out->n; k++, th_ref_next(index, out->dims, out->rank)) {
    int64_t li[TH_MAX_RANK], ri[TH_MAX_RANK], ci[TH_MAX_RANK] = {0};
    for (uint32_t i = 0; i < l->rank; i++) li[i] = lcm >> i & 1 ? 0 : index[lhs_at[i]];
    for (uint32_t i = 0; i < r->rank; i++) ri[i] = rcm >> i & 1 ? 0 : index[rhs_at[i]];
    for (size_t j = 0; j < terms; j++, th_ref_next(ci, sizes, nc)) {
      for (uint32_t i = 0; i < nc; i++) li[lc[i]] = ri[rc[i]] = ci[i];
      multiply_add(l->dtype, &out->cells[k], l->cells[th_ref_at(l, li)], r->cells[th_ref_at(r, ri)]);
    }
  }
  round_all(out);
  return TH_OK;
}

/* All of conv, conv_grad_x and conv_grad_w walk the same triples (x element, w
 * element, y element). */
static th_status convolution(const th_ref_call *call) {
  th_op_kind kind = call->op->kind;
  const th_ref_value *x = kind == TH_OP_conv_grad_x ? call->out : call->in[0];
  const th_ref_value *w = kind == TH_OP_conv_grad_w ? call->out : call->in[1];
  const th_ref_value *y = kind == TH_OP_conv ? call->out : kind == TH_OP_conv_grad_x ? call->in[0] : call->in[1];
  const int64_t *stride = th_ref_ints(call, "stride", NULL), *padding = th_ref_ints(call, "padding", NULL),
                *dilation = th_ref_ints(call, "dilation", NULL);
  int64_t groups = th_ref_int(call, "groups"), per = w->dims[0] / groups, yi[TH_MAX_RANK] = {0};
  for (size_t k = 0; k < y->n; k++, th_ref_next(yi, y->dims, y->rank)) {
    int64_t wi[TH_MAX_RANK] = {0}, xi[TH_MAX_RANK], inner[TH_MAX_RANK];
    memcpy(inner, w->dims, w->rank * sizeof *inner);
    inner[0] = 1; /* the output channel is y's */
    size_t count = w->n / (size_t)(w->dims[0] ? w->dims[0] : 1);
    for (size_t j = 0; j < count; j++, th_ref_next(wi, inner, w->rank)) {
      bool inside = true;
      xi[0] = yi[0];
      xi[1] = yi[1] / per * w->dims[1] + wi[1];
      for (uint32_t i = 2; i < x->rank; i++) {
        xi[i] = yi[i] * stride[i - 2] - padding[i - 2] + wi[i] * dilation[i - 2];
        inside = inside && xi[i] >= 0 && xi[i] < x->dims[i];
      }
      if (!inside) continue;
      int64_t at[TH_MAX_RANK];
      memcpy(at, wi, w->rank * sizeof *at);
      at[0] = yi[1];
      th_cell *cx = &x->cells[th_ref_at(x, xi)], *cw = &w->cells[th_ref_at(w, at)], *cy = &y->cells[k];
      if (kind == TH_OP_conv)
        multiply_add(x->dtype, cy, *cx, *cw);
      else if (kind == TH_OP_conv_grad_x)
        multiply_add(x->dtype, cx, *cy, *cw);
      else
        multiply_add(x->dtype, cw, *cx, *cy);
    }
  }
  round_all(call->out);
  return TH_OK;
}

static th_status window(const th_ref_call *call) {
  th_op_kind kind = call->op->kind;
  bool to_largest = kind == TH_OP_window_max_grad, transposed = kind == TH_OP_window_sum_grad || to_largest;
  const th_ref_value *x = transposed ? call->out : call->in[0], *y = transposed ? call->in[0] : call->out;
  uint32_t n;
  const int64_t *kernel = th_ref_ints(call, "kernel", &n), *stride = th_ref_ints(call, "stride", NULL);
  const int64_t *padding = th_ref_ints(call, "padding", NULL), *dilation = th_ref_ints(call, "dilation", NULL);
  uint32_t lead = x->rank - n;
  int64_t yi[TH_MAX_RANK] = {0};
  size_t count = 1;
  for (uint32_t i = 0; i < n; i++) count *= (size_t)kernel[i];
  for (size_t k = 0; k < y->n; k++, th_ref_next(yi, y->dims, y->rank)) {
    int64_t ki[TH_MAX_RANK] = {0}, xi[TH_MAX_RANK];
    bool first = true;
    memcpy(xi, yi, lead * sizeof *xi);
    for (size_t j = 0; j < count; j++, th_ref_next(ki, kernel, n)) {
      bool inside = true;
      int64_t flat = 0;
      for (uint32_t i = 0; i < n; i++) {
        xi[lead + i] = yi[lead + i] * stride[i] - padding[i] + ki[i] * dilation[i];
        inside = inside && xi[lead + i] >= 0 && xi[lead + i] < x->dims[lead + i];
        flat = flat * x->dims[lead + i] + xi[lead + i];
      }
      if (!inside || (to_largest && flat != call->in[1]->cells[k].i)) continue;
      th_cell *cx = &x->cells[th_ref_at(x, xi)], *cy = &y->cells[k];
      if (transposed) {
        *cx = th_ref_combine(TH_OP_add, x->dtype, *cx, *cy);
      } else if (kind == TH_OP_window_sum) {
        *cy = th_ref_combine(TH_OP_add, x->dtype, *cy, *cx);
      } else {
        bool better = first || (th_dtype_is_float(x->dtype) ? cx->f > cy->f || isnan(cx->f) : cx->i > cy->i);
        if (better) *cy = *cx, call->out[1].cells[k].i = flat;
        first = false;
      }
    }
    if (kind == TH_OP_window_max && first) return TH_ERROR(INVALID_ARGUMENT, "op window_max: a window lies in the padding alone");
  }
  round_all(call->out);
  return TH_OK;
}

th_status th_ref_contraction(const th_ref_call *call) {
  switch (call->op->kind) {
    case TH_OP_dot: return dot(call);
    case TH_OP_conv:
    case TH_OP_conv_grad_x:
    case TH_OP_conv_grad_w: return convolution(call);
    default: return window(call);
  }
}
