/* Pointwise ops: PyTorch's promotion and broadcasting, then prims. */
#include <math.h>

#include "ir/lower/helpers.h"

/* ---- two operands ---- */

static th_dtype pair(th_rule *r, th_value *x, th_value *y) {
  th_value out[2];
  th_dtype d = th_result_type(r->b, r->in, 2);
  th_unify(r->b, r->in, 2, d, out);
  *x = out[0];
  *y = out[1];
  return d;
}

static th_dtype float_pair(th_rule *r, th_value *x, th_value *y) {
  th_value out[2];
  th_dtype d = th_float_dtype(th_result_type(r->b, r->in, 2));
  th_unify(r->b, r->in, 2, d, out);
  *x = out[0];
  *y = out[1];
  return d;
}

static void scaled(th_rule *r, th_value *y) {
  double alpha = th_rule_float(r, "alpha");
  if (alpha != 1) *y = th_mul(r->b, *y, th_like(r->b, alpha, *y));
}

void th__lower_add(th_rule *r) {
  th_value x, y;
  pair(r, &x, &y);
  scaled(r, &y);
  th_rule_return(r, th_add(r->b, x, y));
}

void th__lower_sub(th_rule *r) {
  th_value x, y;
  if (pair(r, &x, &y) == TH_DTYPE_bool) th_rule_fail(r, "subtraction of bools is not defined; use logical_xor");
  scaled(r, &y);
  th_rule_return(r, th_sub(r->b, x, y));
}

void th__lower_rsub(th_rule *r) {
  th_value x, y;
  pair(r, &x, &y);
  scaled(r, &x);
  th_rule_return(r, th_sub(r->b, y, x));
}

void th__lower_mul(th_rule *r) {
  th_value x, y;
  pair(r, &x, &y);
  th_rule_return(r, th_mul(r->b, x, y));
}

static th_value opposite_signs(th_builder *b, th_value x, th_value y) {
  th_value zero = th_like(b, 0, x);
  return th_xor(b, th_lt(b, x, zero), th_lt(b, y, zero));
}

/* The floor of the quotient as torch computes it: by way of the remainder, exact where the rounded quotient is not. */
static th_value floor_quotient(th_builder *b, th_value x, th_value y, th_dtype d) {
  th_value zero = th_like(b, 0, x), one = th_like(b, 1, x);
  if (th_dtype_is_integral(d)) {
    th_value q = th_div(b, x, y), inexact = th_ne(b, th_mul(b, q, y), x);
    return th_select(b, th_and(b, inexact, opposite_signs(b, x, y)), th_sub(b, q, one), q);
  }
  th_value mod = th_rem(b, x, y), q = th_div(b, th_sub(b, x, mod), y);
  q = th_select(b, th_and(b, th_ne(b, mod, zero), opposite_signs(b, mod, y)), th_sub(b, q, one), q);
  th_value f = th_floor(b, q);
  f = th_select(b, th_gt(b, th_sub(b, q, f), th_like(b, 0.5, x)), th_add(b, f, one), f);
  return th_select(b, th_eq(b, y, zero), th_div(b, x, y), f);
}

void th__lower_div(th_rule *r) {
  th_value x, y;
  const th_attr *mode = th_rule_attr(r, "rounding_mode");
  if (mode->kind != TH_ATTR_STRING) {
    float_pair(r, &x, &y);
    th_rule_return(r, th_div(r->b, x, y));
    return;
  }
  th_dtype d = pair(r, &x, &y);
  if (!strcmp(mode->s, "floor")) th_rule_return(r, floor_quotient(r->b, x, y, d));
  else if (strcmp(mode->s, "trunc")) th_rule_fail(r, "rounding_mode is \"%s\", want floor or trunc", mode->s);
  else th_rule_return(r, th_dtype_is_integral(d) ? th_div(r->b, x, y) : th_trunc(r->b, th_div(r->b, x, y)));
}

void th__lower_floor_divide(th_rule *r) {
  th_value x, y;
  th_dtype d = pair(r, &x, &y);
  th_rule_return(r, floor_quotient(r->b, x, y, d));
}

void th__lower_remainder(th_rule *r) {
  th_value x, y;
  pair(r, &x, &y);
  th_value mod = th_rem(r->b, x, y), zero = th_like(r->b, 0, x);
  th_value wrong = th_and(r->b, th_ne(r->b, mod, zero), opposite_signs(r->b, mod, y));
  th_rule_return(r, th_select(r->b, wrong, th_add(r->b, mod, y), mod));
}

void th__lower_fmod(th_rule *r) {
  th_value x, y;
  pair(r, &x, &y);
  th_rule_return(r, th_rem(r->b, x, y));
}

static bool number_of(const th_builder *b, th_value v, double *out) {
  const th_op *def = b->status ? NULL : b->trace->values[v].def;
  int64_t i;
  if (!def || (def->kind != TH_OP_weak && def->kind != TH_OP_torch_scalar)) return false;
  const th_attr *a = &def->attrs[0];
  if (a->kind == TH_ATTR_FLOAT) *out = a->f;
  else if (a->kind == TH_ATTR_BOOL) *out = a->b;
  else if (a->kind == TH_ATTR_INT && th_dim_is_const(b->trace->context, a->i, &i)) *out = (double)i;
  else return false;
  return true;
}

void th__lower_pow(th_rule *r) {
  th_value x, y;
  double e;
  th_dtype d = pair(r, &x, &y);
  bool number = number_of(r->b, r->in[1], &e);
  if (number && e == 2) th_rule_return(r, th_mul(r->b, x, x));
  else if (number && e == 3) th_rule_return(r, th_mul(r->b, th_mul(r->b, x, x), x));
  else if (number && e == 1) th_rule_return(r, x);
  else if (number && e == 0.5 && th_dtype_is_float(d)) th_rule_return(r, th_sqrt(r->b, x));
  else if (number && e == -0.5 && th_dtype_is_float(d)) th_rule_return(r, th_rsqrt(r->b, x));
  else if (number && e == -1 && th_dtype_is_float(d)) th_rule_return(r, th_reciprocal(r->b, x));
  else if (number && e == -2 && th_dtype_is_float(d)) th_rule_return(r, th_reciprocal(r->b, th_mul(r->b, x, x)));
  else th_rule_return(r, th_pow(r->b, x, y));
}

#define PAIR(name, prim)                              \
  void th__lower_##name(th_rule *r) {                 \
    th_value x, y;                                    \
    pair(r, &x, &y);                                  \
    th_rule_return(r, th_##prim(r->b, x, y));         \
  }
PAIR(maximum, max) PAIR(minimum, min)
PAIR(eq, eq) PAIR(ne, ne) PAIR(lt, lt) PAIR(le, le) PAIR(gt, gt) PAIR(ge, ge)
PAIR(bitwise_and, and) PAIR(bitwise_or, or) PAIR(bitwise_xor, xor)

void th__lower_atan2(th_rule *r) {
  th_value x, y;
  float_pair(r, &x, &y);
  th_rule_return(r, th_atan2(r->b, x, y));
}

void th__lower_xlogy(th_rule *r) {
  th_value x, y;
  th_dtype d = float_pair(r, &x, &y);
  th_rule_return(r, th_convert(r->b, th_xlogy(r->b, th_up(r->b, x), th_up(r->b, y)), d));
}

static void logical(th_rule *r, th_op_kind kind) {
  th_value out[2];
  th_unify(r->b, r->in, 2, TH_DTYPE_bool, out);
  th_rule_return(r, th_build1(r->b, kind, out, 2, NULL));
}
void th__lower_logical_and(th_rule *r) { logical(r, TH_OP_and); }
void th__lower_logical_or(th_rule *r) { logical(r, TH_OP_or); }
void th__lower_logical_xor(th_rule *r) { logical(r, TH_OP_xor); }

/* ---- one operand ---- */

static th_value as_float(th_rule *r) {
  return th_convert(r->b, r->in[0], th_float_dtype(th_dtype_of(r->b, r->in[0])));
}

#define FLOAT_UNARY(name) \
  void th__lower_##name(th_rule *r) { th_rule_return(r, th_##name(r->b, as_float(r))); }
FLOAT_UNARY(exp) FLOAT_UNARY(exp2) FLOAT_UNARY(expm1) FLOAT_UNARY(log) FLOAT_UNARY(log2) FLOAT_UNARY(log1p)
FLOAT_UNARY(sqrt) FLOAT_UNARY(rsqrt) FLOAT_UNARY(reciprocal) FLOAT_UNARY(sin) FLOAT_UNARY(cos) FLOAT_UNARY(tan)
FLOAT_UNARY(asin) FLOAT_UNARY(acos) FLOAT_UNARY(atan) FLOAT_UNARY(sinh) FLOAT_UNARY(cosh) FLOAT_UNARY(asinh)
FLOAT_UNARY(acosh) FLOAT_UNARY(atanh) FLOAT_UNARY(tanh) FLOAT_UNARY(erf)

static th_value plain(th_rule *r) { return th_convert(r->b, r->in[0], th_dtype_of(r->b, r->in[0])); } /* without weakness */

void th__lower_neg(th_rule *r) { th_rule_return(r, th_neg(r->b, plain(r))); }
void th__lower_abs(th_rule *r) {
  th_dtype d = th_dtype_of(r->b, r->in[0]);
  if (th_dtype_is_complex(d)) th_rule_refuse(r, "%s is not supported yet", th_dtype_name(d));
  th_rule_return(r, th_abs(r->b, plain(r)));
}
void th__lower_sign(th_rule *r) { th_rule_return(r, th_sgn(r->b, plain(r))); }

static void rounded(th_rule *r, th_op_kind kind) {
  th_value x = plain(r);
  th_rule_return(r, th_dtype_is_integral(th_dtype_of(r->b, x)) ? x : th_build1(r->b, kind, &x, 1, NULL));
}
void th__lower_floor(th_rule *r) { rounded(r, TH_OP_floor); }
void th__lower_ceil(th_rule *r) { rounded(r, TH_OP_ceil); }
void th__lower_round(th_rule *r) { rounded(r, TH_OP_round); }
void th__lower_trunc(th_rule *r) { rounded(r, TH_OP_trunc); }
void th__lower_frac(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, th_sub(r->b, x, th_trunc(r->b, x)));
}

void th__lower_square(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, th_mul(r->b, x, x));
}

/* Composites compute in f32 for narrow floats and round once, as torch's kernels do. */
#define COMPOSITE(name, ...)                                              \
  void th__lower_##name(th_rule *r) {                                     \
    th_builder *b = r->b;                                                 \
    th_value given = as_float(r), x = th_up(b, given), y;                 \
    __VA_ARGS__;                                                          \
    th_rule_return(r, th_convert(b, y, th_dtype_of(b, given)));           \
  }
COMPOSITE(log10, y = th_mul_scalar(b, th_log(b, x), 0.43429448190325182765))
COMPOSITE(sigmoid, y = th_sigmoid(b, x))
COMPOSITE(silu, y = th_mul(b, x, th_sigmoid(b, x)))
COMPOSITE(erfc, y = th_sub(b, th_like(b, 1, x), th_erf(b, x)))
COMPOSITE(hardsigmoid, y = th_div(b, th_min(b, th_max(b, th_add_scalar(b, x, 3), th_like(b, 0, x)), th_like(b, 6, x)), th_like(b, 6, x)))
COMPOSITE(hardswish, y = th_div(b, th_mul(b, x, th_min(b, th_max(b, th_add_scalar(b, x, 3), th_like(b, 0, x)), th_like(b, 6, x))), th_like(b, 6, x)))
/* log(sigmoid(x)) = min(x, 0) - log1p(exp(-|x|)) */
COMPOSITE(logsigmoid, y = th_sub(b, th_min(b, x, th_like(b, 0, x)), th_log1p(b, th_exp(b, th_neg(b, th_abs(b, x))))))
COMPOSITE(mish, y = th_mul(b, x, th_tanh(b, th_log1p(b, th_exp(b, x)))))
static th_value elu(th_builder *b, th_value x, double alpha, double scale, double in) {
  th_value positive = th_gt(b, x, th_like(b, 0, x));
  return th_select(b, positive, th_mul_scalar(b, x, scale), th_mul_scalar(b, th_expm1(b, th_mul_scalar(b, x, in)), alpha * scale));
}
COMPOSITE(elu, y = elu(b, x, th_rule_float(r, "alpha"), th_rule_float(r, "scale"), th_rule_float(r, "input_scale")))
COMPOSITE(celu, {
  double alpha = th_rule_float(r, "alpha");
  if (alpha == 0) th_rule_fail(r, "alpha is 0");
  y = elu(b, x, alpha, 1, 1 / alpha);
})
COMPOSITE(selu, y = elu(b, x, TH_SELU_ALPHA, TH_SELU_SCALE, 1))
COMPOSITE(sinc, {
  th_value u = th_mul_scalar(b, x, 3.14159265358979323846);
  y = th_select(b, th_eq(b, x, th_like(b, 0, x)), th_like(b, 1, x), th_div(b, th_sin(b, u), u));
})
COMPOSITE(softplus, {
  double beta = th_rule_float(r, "beta"), threshold = th_rule_float(r, "threshold");
  th_value scaled_x = th_mul_scalar(b, x, beta);
  y = th_select(b, th_gt(b, scaled_x, th_like(b, threshold, x)), x, th_div(b, th_log1p(b, th_exp(b, scaled_x)), th_like(b, beta, x)));
})
COMPOSITE(gelu, {
  const char *form = th_rule_attr(r, "approximate")->s;
  th_value inner;
  if (!strcmp(form, "tanh")) { /* x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) */
    th_value cube = th_mul(b, th_mul(b, x, x), x);
    inner = th_tanh(b, th_mul_scalar(b, th_add(b, x, th_mul_scalar(b, cube, 0.044715)), 0.79788456080286535588));
  } else {
    if (strcmp(form, "none")) th_rule_fail(r, "approximate is \"%s\", want none or tanh", form);
    inner = th_erf(b, th_mul_scalar(b, x, 0.70710678118654752440));
  }
  y = th_mul(b, th_mul_scalar(b, x, 0.5), th_add_scalar(b, inner, 1));
})

void th__lower_gelu_backward(th_rule *r) {
  th_builder *b = r->b;
  th_value o[2], slope;
  const char *form = th_rule_attr(r, "approximate")->s;
  th_dtype d = th_float_dtype(th_result_type(b, r->in, 2));
  th_unify(b, r->in, 2, th_dtype_compute(d), o);
  th_value x = o[1];
  if (!strcmp(form, "tanh")) { /* y = x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3) */
    const double k = 0.79788456080286535588, a = 0.044715;
    th_value x2 = th_mul(b, x, x);
    th_value t = th_tanh(b, th_mul(b, th_mul_scalar(b, x, k), th_add_scalar(b, th_mul_scalar(b, x2, a), 1)));
    th_value du = th_mul_scalar(b, th_add_scalar(b, th_mul_scalar(b, x2, 3 * a), 1), k);
    th_value bend = th_mul(b, th_mul(b, x, th_sub(b, th_like(b, 1, t), th_mul(b, t, t))), du);
    slope = th_mul_scalar(b, th_add(b, th_add_scalar(b, t, 1), bend), 0.5);
  } else { /* Phi(x) + x phi(x) */
    if (strcmp(form, "none")) th_rule_fail(r, "approximate is \"%s\", want none or tanh", form);
    th_value cdf = th_mul_scalar(b, th_add_scalar(b, th_erf(b, th_mul_scalar(b, x, 0.70710678118654752440)), 1), 0.5);
    th_value pdf = th_mul_scalar(b, th_exp(b, th_mul_scalar(b, th_mul(b, x, x), -0.5)), 0.39894228040143267794);
    slope = th_add(b, cdf, th_mul(b, x, pdf));
  }
  th_rule_return(r, th_convert(b, th_mul(b, o[0], slope), d));
}

void th__lower_relu(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, th_max(r->b, x, th_like(r->b, 0, x)));
}

static th_value cut(th_builder *b, th_value x, th_value low, th_value high) { /* NaN if one of them is */
  if (low != TH_NO_VALUE) x = th_max(b, x, low);
  if (high != TH_NO_VALUE) x = th_min(b, x, high);
  return x;
}

COMPOSITE(logit, {
  th_value one = th_like(b, 1, x);
  if (th_rule_has(r, "eps")) x = cut(b, x, th_like(b, th_rule_float(r, "eps"), x), th_like(b, 1 - th_rule_float(r, "eps"), x));
  y = th_log(b, th_div(b, x, th_sub(b, one, x)));
})

void th__lower_relu6(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, cut(r->b, x, th_like(r->b, 0, x), th_like(r->b, 6, x)));
}

void th__lower_hardtanh(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, cut(r->b, x, th_like(r->b, th_rule_float(r, "min_val"), x), th_like(r->b, th_rule_float(r, "max_val"), x)));
}

void th__lower_leaky_relu(th_rule *r) {
  th_value x = plain(r), positive = th_gt(r->b, x, th_like(r->b, 0, x));
  th_rule_return(r, th_select(r->b, positive, x, th_mul_scalar(r->b, x, th_rule_float(r, "negative_slope"))));
}

void th__lower_isnan(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, th_dtype_is_float(th_dtype_of(r->b, x)) ? th_isnan(r->b, x) : th_like(r->b, 0, th_convert(r->b, x, TH_DTYPE_bool)));
}
void th__lower_isfinite(th_rule *r) {
  th_value x = plain(r);
  th_rule_return(r, th_dtype_is_float(th_dtype_of(r->b, x)) ? th_isfinite(r->b, x) : th_like(r->b, 1, th_convert(r->b, x, TH_DTYPE_bool)));
}
void th__lower_isinf(th_rule *r) {
  th_value x = plain(r);
  if (!th_dtype_is_float(th_dtype_of(r->b, x))) {
    th_rule_return(r, th_like(r->b, 0, th_convert(r->b, x, TH_DTYPE_bool)));
    return;
  }
  th_rule_return(r, th_not(r->b, th_or(r->b, th_isfinite(r->b, x), th_isnan(r->b, x))));
}
void th__lower_logical_not(th_rule *r) { th_rule_return(r, th_not(r->b, th_convert(r->b, r->in[0], TH_DTYPE_bool))); }
void th__lower_bitwise_not(th_rule *r) { th_rule_return(r, th_not(r->b, plain(r))); }

/* ---- three operands ---- */

void th__lower_where(th_rule *r) {
  th_value in[3] = {r->in[0], r->in[1], r->in[2]}, out[3];
  th_dtype d = th_result_type(r->b, r->in + 1, 2);
  if (th_dtype_of(r->b, in[0]) != TH_DTYPE_bool) in[0] = th_convert(r->b, in[0], TH_DTYPE_bool);
  for (int i = 1; i < 3; i++) in[i] = th_convert(r->b, in[i], d);
  th_dim dims[TH_MAX_RANK];
  uint32_t rank = th_broadcast_shapes(r->b, in, 3, dims);
  for (int i = 0; i < 3; i++) out[i] = th_broadcast_to(r->b, in[i], dims, rank);
  th_rule_return(r, th_select(r->b, out[0], out[1], out[2]));
}

void th__lower_masked_fill(th_rule *r) {
  th_value in[3] = {plain(r), r->in[1], r->in[2]}, out[3];
  th_dtype d = th_dtype_of(r->b, in[0]);
  if (th_rank(r->b, in[2])) th_rule_fail(r, "the value must have rank 0");
  in[2] = th_convert(r->b, in[2], d);
  th_dim dims[TH_MAX_RANK];
  uint32_t rank = th_broadcast_shapes(r->b, in, 3, dims);
  for (int i = 0; i < 3; i++) out[i] = th_broadcast_to(r->b, in[i], dims, rank);
  th_rule_return(r, th_select(r->b, out[1], out[2], out[0]));
}

static void clamp(th_rule *r, th_value low, th_value high) {
  th_value in[3] = {r->in[0], low, high}, out[3];
  if (low == TH_NO_VALUE && high == TH_NO_VALUE) th_rule_fail(r, "neither min nor max is given");
  th_unify(r->b, in, 3, th_result_type(r->b, in, 3), out);
  th_rule_return(r, cut(r->b, out[0], out[1], out[2]));
}
void th__lower_clamp(th_rule *r) { clamp(r, r->in[1], r->in[2]); }
void th__lower_clamp_min(th_rule *r) { clamp(r, r->in[1], TH_NO_VALUE); }
void th__lower_clamp_max(th_rule *r) { clamp(r, TH_NO_VALUE, r->in[1]); }

void th__lower_lerp(th_rule *r) {
  th_value o[3];
  th_unify(r->b, r->in, 3, th_result_type(r->b, r->in, 2), o);
  th_builder *b = r->b;
  /* torch's formula: from the nearer end, so that weight 1 gives `end` exactly */
  th_value span = th_sub(b, o[1], o[0]), near = th_lt(b, th_abs(b, o[2]), th_like(b, 0.5, o[2]));
  th_value low = th_add(b, o[0], th_mul(b, o[2], span));
  th_value high = th_sub(b, o[1], th_mul(b, span, th_sub(b, th_like(b, 1, o[2]), o[2])));
  th_rule_return(r, th_select(b, near, low, high));
}

void th__lower_addcmul(th_rule *r) {
  th_value o[3];
  th_unify(r->b, r->in, 3, th_result_type(r->b, r->in, 3), o);
  th_rule_return(r, th_add(r->b, o[0], th_mul(r->b, th_mul_scalar(r->b, o[1], th_rule_float(r, "value")), o[2])));
}

void th__lower_addcdiv(th_rule *r) {
  th_value o[3];
  th_unify(r->b, r->in, 3, th_result_type(r->b, r->in, 3), o);
  th_rule_return(r, th_add(r->b, o[0], th_div(r->b, th_mul_scalar(r->b, o[1], th_rule_float(r, "value")), o[2])));
}

/* ---- dtype and copies ---- */

void th__lower_scalar(th_rule *r) { th_rule_return(r, th_build1(r->b, TH_OP_weak, NULL, 0, r->attrs)); }
void th__lower_to(th_rule *r) { th_rule_return(r, th_convert(r->b, r->in[0], th_rule_dtype(r, "dtype", th_dtype_of(r->b, r->in[0])))); }
void th__lower_type_as(th_rule *r) { th_rule_return(r, th_convert(r->b, r->in[0], th_dtype_of(r->b, r->in[1]))); }
void th__lower_clone(th_rule *r) { th_rule_return(r, plain(r)); }
void th__lower_straight_through(th_rule *r) {
  if (r->b->status) return;
  th_type value = th_rule_type(r->b, r->in[0]), source = th_rule_type(r->b, r->in[1]);
  if (value.dtype != source.dtype || !th_type_same_shape(&value, &source)) th_rule_fail(r, "value and source must have one dtype and shape");
  th_rule_return(r, plain(r));
}
void th__lower_copy(th_rule *r) {
  th_rule_return(r, th_broadcast_like(r->b, th_convert(r->b, r->in[1], th_dtype_of(r->b, r->in[0])), r->in[0]));
}
