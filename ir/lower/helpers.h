/* Small things that the lowering rules share. Private to ir/lower and ir/grad. */
#ifndef THUNDER_IR_LOWER_HELPERS_H
#define THUNDER_IR_LOWER_HELPERS_H

#include <string.h>

#include "ir/lower/lower.h"

static inline th_type th_rule_type(const th_builder *b, th_value v) { return b->trace->values[v].type; }
static inline th_dim th_k(th_builder *b, int64_t v) { return th_dim_const(th_ctx(b), v); }

/* Converts to `dtype` and broadcasts to the common shape of the operands that are there. */
static inline uint32_t th_unify(th_builder *b, const th_value *in, uint32_t n, th_dtype dtype, th_value *out) {
  th_dim dims[TH_MAX_RANK];
  uint32_t rank = th_broadcast_shapes(b, in, n, dims);
  for (uint32_t i = 0; i < n; i++) out[i] = in[i] == TH_NO_VALUE ? in[i] : th_broadcast_to(b, th_convert(b, in[i], dtype), dims, rank);
  return rank;
}

/* x in the dtype its kernel computes in (f32 for narrow floats), and back. */
static inline th_value th_up(th_builder *b, th_value x) { return th_convert(b, x, th_dtype_compute(th_dtype_of(b, x))); }

/* Integers and bools become the default float. */
static inline th_dtype th_float_dtype(th_dtype d) { return th_dtype_is_integral(d) ? TH_DTYPE_f32 : d; }

static inline th_value th_mul_scalar(th_builder *b, th_value x, double s) { return s == 1 ? x : th_mul(b, x, th_like(b, s, x)); }
static inline th_value th_add_scalar(th_builder *b, th_value x, double s) { return s == 0 ? x : th_add(b, x, th_like(b, s, x)); }

/* Rank-0 value of a dimension expression in a dtype. */
static inline th_value th_count(th_builder *b, const th_type *t, const int64_t *dims, uint32_t n, th_dtype dtype) {
  th_dim p = th_k(b, 1);
  for (uint32_t i = 0; i < n; i++) p = th_dim_mul(th_ctx(b), p, t->dims[dims[i]]);
  return th_const_dim(b, p, dtype);
}

/* sigmoid of a float x: 1 / (1 + exp(-x)). */
static inline th_value th_sigmoid(th_builder *b, th_value x) {
  return th_reciprocal(b, th_add_scalar(b, th_exp(b, th_neg(b, x)), 1));
}

/* -1, 0 or 1; 0 of NaN, as PyTorch has it and the prim has not. */
static inline th_value th_sgn(th_builder *b, th_value x) {
  if (!th_dtype_is_float(th_dtype_of(b, x))) return th_sign(b, x);
  return th_select(b, th_isnan(b, x), th_like(b, 0, x), th_sign(b, x));
}

/* x log(y): 0 where x is 0, unless y is NaN. */
static inline th_value th_xlogy(th_builder *b, th_value x, th_value y) {
  th_value zero = th_like(b, 0, x), product = th_mul(b, x, th_log(b, y));
  return th_select(b, th_isnan(b, y), y, th_select(b, th_eq(b, x, zero), zero, product));
}

#define TH_SELU_ALPHA 1.67326324235437728482
#define TH_SELU_SCALE 1.05070098735548049342

/* The dims of a row normalization as a list: the last n. */
static inline void th_last_dims(uint32_t rank, uint32_t n, int64_t *out) {
  for (uint32_t i = 0; i < n; i++) out[i] = rank - n + i;
}

/* Reshapes a reduced value to x's rank with size 1 at `dims`, then broadcasts it to x's shape. */
static inline th_value th_spread(th_builder *b, th_value reduced, th_value x, const int64_t *dims, uint32_t n) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  int64_t map[TH_MAX_RANK];
  uint32_t m = 0, mask = 0;
  for (uint32_t i = 0; i < n; i++) mask |= 1u << dims[i];
  for (uint32_t i = 0; i < t.rank; i++)
    if (!(mask >> i & 1)) map[m++] = i;
  return th_broadcast(b, reduced, t.dims, t.rank, map);
}

#endif
