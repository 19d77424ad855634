/* Ops whose element i depends on the operands' elements i alone. */
#include <math.h>

#include "executors/ref/value.h"

static double sign(double x) { return isnan(x) ? x : (x > 0) - (x < 0); }

static bool float_unary(th_op_kind kind, double x, double *y) {
  switch (kind) {
    case TH_OP_neg: *y = -x; return true;
    case TH_OP_abs: *y = fabs(x); return true;
    case TH_OP_sign: *y = sign(x); return true;
    case TH_OP_exp: *y = exp(x); return true;
    case TH_OP_exp2: *y = exp2(x); return true;
    case TH_OP_expm1: *y = expm1(x); return true;
    case TH_OP_log: *y = log(x); return true;
    case TH_OP_log2: *y = log2(x); return true;
    case TH_OP_log1p: *y = log1p(x); return true;
    case TH_OP_sqrt: *y = sqrt(x); return true;
    case TH_OP_rsqrt: *y = 1 / sqrt(x); return true;
    case TH_OP_reciprocal: *y = 1 / x; return true;
    case TH_OP_sin: *y = sin(x); return true;
    case TH_OP_cos: *y = cos(x); return true;
    case TH_OP_tan: *y = tan(x); return true;
    case TH_OP_asin: *y = asin(x); return true;
    case TH_OP_acos: *y = acos(x); return true;
    case TH_OP_atan: *y = atan(x); return true;
    case TH_OP_sinh: *y = sinh(x); return true;
    case TH_OP_cosh: *y = cosh(x); return true;
    case TH_OP_asinh: *y = asinh(x); return true;
    case TH_OP_acosh: *y = acosh(x); return true;
    case TH_OP_atanh: *y = atanh(x); return true;
    case TH_OP_tanh: *y = tanh(x); return true;
    case TH_OP_erf: *y = erf(x); return true;
    case TH_OP_floor: *y = floor(x); return true;
    case TH_OP_ceil: *y = ceil(x); return true;
    case TH_OP_round: *y = nearbyint(x); return true;
    case TH_OP_trunc: *y = trunc(x); return true;
    default: return false;
  }
}

static bool int_unary(th_op_kind kind, th_dtype dtype, int64_t x, int64_t *y) {
  bool is_signed = th_dtype_kind_of(dtype) == TH_KIND_INT;
  switch (kind) {
    case TH_OP_neg: *y = (int64_t)(0 - (uint64_t)x); return true;
    case TH_OP_abs: *y = is_signed && x < 0 ? (int64_t)(0 - (uint64_t)x) : x; return true;
    case TH_OP_sign: *y = is_signed ? (x > 0) - (x < 0) : x != 0; return true;
    case TH_OP_not: *y = dtype == TH_DTYPE_bool ? !x : ~x; return true;
    case TH_OP_floor:
    case TH_OP_ceil:
    case TH_OP_round:
    case TH_OP_trunc: *y = x; return true;
    default: return false;
  }
}

static bool float_binary(th_op_kind kind, double x, double y, double *z) {
  switch (kind) {
    case TH_OP_add: *z = x + y; return true;
    case TH_OP_sub: *z = x - y; return true;
    case TH_OP_mul: *z = x * y; return true;
    case TH_OP_div: *z = x / y; return true;
    case TH_OP_rem: *z = fmod(x, y); return true;
    case TH_OP_pow: *z = pow(x, y); return true;
    case TH_OP_atan2: *z = atan2(x, y); return true;
    case TH_OP_max: *z = isnan(x) || x > y ? x : y; return true;
    case TH_OP_min: *z = isnan(x) || x < y ? x : y; return true;
    default: return false;
  }
}

static int64_t int_pow(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
  uint64_t z = 1, base = (uint64_t)x;
  for (uint64_t n = (uint64_t)y; n; n >>= 1, base *= base)
    if (n & 1) z *= base;
  return (int64_t)z;
}

static int compare_ints(th_dtype dtype, int64_t x, int64_t y) {
  if (dtype == TH_DTYPE_u64) return ((uint64_t)x > (uint64_t)y) - ((uint64_t)x < (uint64_t)y);
  return (x > y) - (x < y);
}

static bool int_binary(th_op_kind kind, th_dtype dtype, int64_t x, int64_t y, int64_t *z) {
  uint64_t a = (uint64_t)x, b = (uint64_t)y;
  bool u64 = dtype == TH_DTYPE_u64, is_bool = dtype == TH_DTYPE_bool;
  switch (kind) {
    case TH_OP_add: *z = is_bool ? x | y : (int64_t)(a + b); return true;
    case TH_OP_sub: *z = (int64_t)(a - b); return true;
    case TH_OP_mul: *z = (int64_t)(a * b); return true;
    case TH_OP_div: *z = u64 ? (int64_t)(a / b) : y == -1 ? (int64_t)(0 - a) : x / y; return true;
    case TH_OP_rem: *z = u64 ? (int64_t)(a % b) : y == -1 ? 0 : x % y; return true;
    case TH_OP_pow: *z = int_pow(x, y); return true;
    case TH_OP_max: *z = compare_ints(dtype, x, y) > 0 ? x : y; return true;
    case TH_OP_min: *z = compare_ints(dtype, x, y) < 0 ? x : y; return true;
    case TH_OP_and: *z = x & y; return true;
    case TH_OP_or: *z = x | y; return true;
    case TH_OP_xor: *z = x ^ y; return true;
    case TH_OP_shl: *z = y < 0 || y > 63 ? 0 : (int64_t)(a << b); return true;
    case TH_OP_shr: *z = u64 ? (y < 0 || y > 63 ? 0 : (int64_t)(a >> b)) : x >> (y < 0 || y > 63 ? 63 : y); return true;
    default: return false;
  }
}

static bool compares(th_op_kind kind, int order, bool unordered, int64_t *z) {
  switch (kind) {
    case TH_OP_eq: *z = !unordered && order == 0; return true;
    case TH_OP_ne: *z = unordered || order != 0; return true;
    case TH_OP_lt: *z = !unordered && order < 0; return true;
    case TH_OP_le: *z = !unordered && order <= 0; return true;
    case TH_OP_gt: *z = !unordered && order > 0; return true;
    case TH_OP_ge: *z = !unordered && order >= 0; return true;
    default: return false;
  }
}

th_cell th_ref_combine(th_op_kind kind, th_dtype dtype, th_cell a, th_cell b) {
  th_cell z = a;
  if (th_dtype_is_float(dtype))
    float_binary(kind, a.f, b.f, &z.f);
  else
    int_binary(kind, dtype, a.i, b.i, &z.i);
  return th_dtype_is_float(dtype) ? z : th_ref_round(dtype, z);
}

static bool element(const th_ref_call *call, size_t k, th_cell *z) {
  th_op_kind kind = call->op->kind;
  const th_ref_value *x = call->in[0], *y = call->op->n_operands > 1 ? call->in[1] : NULL;
  th_cell a = x->cells[k], b = y ? y->cells[k] : a;
  bool floats = th_dtype_is_float(x->dtype);
  if (kind == TH_OP_convert) return *z = th_ref_convert(call->out->dtype, x->dtype, a), true;
  if (kind == TH_OP_select) return *z = a.i ? b : call->in[2]->cells[k], true;
  if (kind == TH_OP_isnan) return z->i = floats && isnan(a.f), true;
  if (kind == TH_OP_isfinite) return z->i = !floats || isfinite(a.f), true;
  if (!y) return floats ? float_unary(kind, a.f, &z->f) : int_unary(kind, x->dtype, a.i, &z->i);
  int order = floats ? (a.f > b.f) - (a.f < b.f) : compare_ints(x->dtype, a.i, b.i);
  if (compares(kind, order, floats && (isnan(a.f) || isnan(b.f)), &z->i)) return true;
  return floats ? float_binary(kind, a.f, b.f, &z->f) : int_binary(kind, x->dtype, a.i, b.i, &z->i);
}

th_status th_ref_pointwise(const th_ref_call *call) {
  th_ref_value *out = call->out;
  th_op_kind kind = call->op->kind;
  bool divides = (kind == TH_OP_div || kind == TH_OP_rem) && !th_dtype_is_float(out->dtype);
  for (uint32_t i = 0; i < call->op->n_operands; i++)
    if (call->in[i]->n != out->n)
      return TH_ERROR(INTERNAL, "op %s: operand %u has %zu elements, the result %zu", th_op_name(kind), i, call->in[i]->n, out->n);
  for (size_t k = 0; k < out->n; k++) {
    if (divides && !call->in[1]->cells[k].i) return TH_ERROR(INVALID_ARGUMENT, "op %s: integer division by zero", th_op_name(kind));
    if (!element(call, k, &out->cells[k]))
      return TH_ERROR(UNIMPLEMENTED, "op %s on %s has no meaning in the reference executor", th_op_name(kind), th_dtype_name(call->in[0]->dtype));
    out->cells[k] = th_ref_round(out->dtype, out->cells[k]);
  }
  return TH_OK;
}
