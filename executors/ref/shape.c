/* Constants, index changes and reductions. */
#include <math.h>
#include <string.h>

#include "executors/philox.h"
#include "executors/ref/value.h"

TH_PHILOX

static th_status constant(const th_ref_call *call) {
  const th_attr *a = th_attr_get(call->op, "value");
  th_cell c = {.i = 0};
  th_dtype from = TH_DTYPE_i64;
  if (a->kind == TH_ATTR_FLOAT)
    c.f = a->f, from = TH_DTYPE_f64;
  else if (a->kind == TH_ATTR_BOOL)
    c.i = a->b;
  else
    c.i = th_dim_eval(call->trace->context, a->i, call->symbols);
  call->out->cells[0] = th_ref_convert(call->out->dtype, from, c);
  return TH_OK;
}

static th_status uniform(const th_ref_call *call) {
  uint64_t seed = (uint64_t)call->in[0]->cells[0].i, offset = (uint64_t)call->in[1]->cells[0].i, tag = (uint64_t)th_ref_int(call, "tag");
  bool wide = call->out->dtype == TH_DTYPE_f64;
  for (size_t k = 0; k < call->out->n; k++)
    call->out->cells[k] =
        th_ref_round(call->out->dtype, (th_cell){.f = wide ? th_uniform(seed, offset, tag, k) : th_uniform_f(seed, offset, tag, k)});
  return TH_OK;
}

/* Index of the operand's element for element `to` of the result, for ops that
 * only move elements. */
static size_t source(const th_ref_call *call, const int64_t *to, const int64_t *const *lists, uint32_t count) {
  const th_ref_value *x = call->in[0];
  int64_t from[TH_MAX_RANK];
  switch (call->op->kind) {
    case TH_OP_broadcast:
      for (uint32_t i = 0; i < x->rank; i++) from[i] = x->dims[i] == 1 ? 0 : to[lists[0][i]];
      break;
    case TH_OP_transpose:
      for (uint32_t i = 0; i < x->rank; i++) from[lists[0][i]] = to[i];
      break;
    case TH_OP_slice:
      for (uint32_t i = 0; i < x->rank; i++) from[i] = lists[0][i] + to[i] * lists[1][i];
      break;
    default: /* reverse */
      memcpy(from, to, x->rank * sizeof *from);
      for (uint32_t i = 0; i < count; i++) from[lists[0][i]] = x->dims[lists[0][i]] - 1 - to[lists[0][i]];
  }
  return th_ref_at(x, from);
}

static th_status move(const th_ref_call *call, const char *first, const char *second) {
  uint32_t count;
  const int64_t *lists[2] = {th_ref_ints(call, first, &count), second ? th_ref_ints(call, second, NULL) : NULL};
  th_ref_value *out = call->out;
  int64_t index[TH_MAX_RANK] = {0};
  for (size_t k = 0; k < out->n; k++, th_ref_next(index, out->dims, out->rank)) {
    size_t at = source(call, index, lists, count);
    if (at >= call->in[0]->n) return TH_ERROR(OUT_OF_RANGE, "op %s reads past its operand", th_op_name(call->op->kind));
    out->cells[k] = call->in[0]->cells[at];
  }
  return TH_OK;
}

static th_status pad(const th_ref_call *call) {
  const th_ref_value *x = call->in[0];
  th_ref_value *out = call->out;
  const int64_t *low = th_ref_ints(call, "low", NULL), *interior = th_ref_ints(call, "interior", NULL);
  int64_t index[TH_MAX_RANK] = {0}, to[TH_MAX_RANK];
  for (size_t k = 0; k < out->n; k++) out->cells[k] = call->in[1]->cells[0];
  for (size_t k = 0; k < x->n; k++, th_ref_next(index, x->dims, x->rank)) {
    bool inside = true;
    for (uint32_t i = 0; i < x->rank; i++) {
      to[i] = low[i] + index[i] * (interior[i] + 1);
      inside = inside && to[i] >= 0 && to[i] < out->dims[i];
    }
    if (inside) out->cells[th_ref_at(out, to)] = x->cells[k];
  }
  return TH_OK;
}

static th_status concat(const th_ref_call *call) {
  int64_t dim = th_ref_int(call, "dim"), start = 0;
  for (uint32_t p = 0; p < call->op->n_operands; p++) {
    const th_ref_value *x = call->in[p];
    int64_t index[TH_MAX_RANK] = {0};
    for (size_t k = 0; k < x->n; k++, th_ref_next(index, x->dims, x->rank)) {
      int64_t to[TH_MAX_RANK];
      memcpy(to, index, sizeof to);
      to[dim] += start;
      call->out->cells[th_ref_at(call->out, to)] = x->cells[k];
    }
    start += x->dims[dim];
  }
  return TH_OK;
}

static th_status cumsum(const th_ref_call *call) {
  const th_ref_value *x = call->in[0];
  int64_t dim = th_ref_int(call, "dim"), index[TH_MAX_RANK] = {0};
  size_t step = 1;
  for (uint32_t i = (uint32_t)dim + 1; i < x->rank; i++) step *= (size_t)x->dims[i];
  th_cell *sums = TH_ARENA_ARRAY(call->arena, th_cell, x->n); /* unrounded */
  for (size_t k = 0; k < x->n; k++, th_ref_next(index, x->dims, x->rank)) {
    sums[k] = index[dim] ? th_ref_combine(TH_OP_add, x->dtype, sums[k - step], x->cells[k]) : x->cells[k];
    call->out->cells[k] = th_ref_round(x->dtype, sums[k]);
  }
  return TH_OK;
}

static th_cell reduction_start(th_op_kind kind, th_dtype dtype) {
  bool floats = th_dtype_is_float(dtype), is_signed = th_dtype_kind_of(dtype) == TH_KIND_INT;
  int64_t bits = (int64_t)th_dtype_size(dtype) * 8;
  int64_t high = dtype == TH_DTYPE_bool ? 1 : is_signed ? (int64_t)(UINT64_MAX >> (65 - bits)) : (int64_t)(UINT64_MAX >> (64 - bits));
  int64_t low = is_signed ? -high - 1 : 0;
  switch (kind) {
    case TH_OP_reduce_prod: return floats ? (th_cell){.f = 1} : (th_cell){.i = 1};
    case TH_OP_reduce_max: return floats ? (th_cell){.f = -INFINITY} : (th_cell){.i = low};
    case TH_OP_reduce_min: return floats ? (th_cell){.f = INFINITY} : (th_cell){.i = high};
    case TH_OP_reduce_all: return (th_cell){.i = 1};
    default: return floats ? (th_cell){.f = 0} : (th_cell){.i = 0};
  }
}

static th_op_kind reduction_step(th_op_kind kind) {
  switch (kind) {
    case TH_OP_reduce_prod: return TH_OP_mul;
    case TH_OP_reduce_max: return TH_OP_max;
    case TH_OP_reduce_min: return TH_OP_min;
    case TH_OP_reduce_any: return TH_OP_or;
    case TH_OP_reduce_all: return TH_OP_and;
    default: return TH_OP_add;
  }
}

static th_status reduce(const th_ref_call *call) {
  const th_ref_value *x = call->in[0];
  th_ref_value *out = call->out;
  uint32_t n, mask = 0;
  const int64_t *dims = th_ref_ints(call, "dims", &n);
  int64_t index[TH_MAX_RANK] = {0};
  for (uint32_t i = 0; i < n; i++) mask |= 1u << dims[i];
  for (size_t k = 0; k < out->n; k++) out->cells[k] = reduction_start(call->op->kind, x->dtype);
  for (size_t k = 0; k < x->n; k++, th_ref_next(index, x->dims, x->rank)) {
    size_t at = 0;
    for (uint32_t i = 0; i < x->rank; i++)
      if (!(mask >> i & 1)) at = at * (size_t)x->dims[i] + (size_t)index[i];
    out->cells[at] = th_ref_combine(reduction_step(call->op->kind), x->dtype, out->cells[at], x->cells[k]);
  }
  for (size_t k = 0; k < out->n; k++) out->cells[k] = th_ref_round(out->dtype, out->cells[k]);
  return TH_OK;
}

static th_status arg_reduce(const th_ref_call *call) {
  const th_ref_value *x = call->in[0];
  uint32_t dim = (uint32_t)th_ref_int(call, "dim");
  size_t inner = 1, length = (size_t)x->dims[dim];
  th_op_kind step = call->op->kind == TH_OP_argmax ? TH_OP_max : TH_OP_min;
  bool floats = th_dtype_is_float(x->dtype);
  for (uint32_t i = dim + 1; i < x->rank; i++) inner *= (size_t)x->dims[i];
  if (!length && call->out->n) return TH_ERROR(INVALID_ARGUMENT, "op %s over an empty dimension", th_op_name(call->op->kind));
  for (size_t k = 0; k < call->out->n; k++) {
    const th_cell *row = x->cells + k / inner * inner * length + k % inner;
    size_t best = 0;
    for (size_t i = 1; i < length; i++) {
      th_cell a = row[best * inner], b = row[i * inner], z = th_ref_combine(step, x->dtype, a, b);
      bool better = floats ? !isnan(a.f) && (isnan(b.f) || (z.f == b.f && a.f != b.f)) : z.i == b.i && a.i != b.i;
      if (better) best = i;
    }
    call->out->cells[k].i = (int64_t)best;
  }
  return TH_OK;
}

th_status th_ref_shape(const th_ref_call *call) {
  th_ref_value *out = call->out;
  int64_t index[TH_MAX_RANK] = {0};
  switch (call->op->kind) {
    case TH_OP_const:
    case TH_OP_weak: return constant(call);
    case TH_OP_iota: {
      int64_t dim = th_ref_int(call, "dim");
      for (size_t k = 0; k < out->n; k++, th_ref_next(index, out->dims, out->rank))
        out->cells[k] = th_ref_convert(out->dtype, TH_DTYPE_i64, (th_cell){.i = index[dim]});
      return TH_OK;
    }
    case TH_OP_uniform: return uniform(call);
    case TH_OP_broadcast: return move(call, "dims", NULL);
    case TH_OP_transpose: return move(call, "permutation", NULL);
    case TH_OP_slice: return move(call, "start", "stride");
    case TH_OP_reverse: return move(call, "dims", NULL);
    case TH_OP_reshape:
      if (out->n != call->in[0]->n) return TH_ERROR(INTERNAL, "op reshape: %zu elements become %zu", call->in[0]->n, out->n);
      memcpy(out->cells, call->in[0]->cells, out->n * sizeof *out->cells);
      return TH_OK;
    case TH_OP_pad: return pad(call);
    case TH_OP_concat: return concat(call);
    case TH_OP_cumsum: return cumsum(call);
    case TH_OP_argmax:
    case TH_OP_argmin: return arg_reduce(call);
    default: return reduce(call);
  }
}
