/* Gradients of pointwise prims. */
#include "ir/grad/grad.h"

#define B (v->b)
#define X (v->in[0])
#define Y (v->in[1])
#define OUT (v->out)
#define G (v->grad[0])
#define TO(i, expression)                          \
  do {                                             \
    if (th_vjp_want(v, i)) v->in_grad[i] = (expression); \
  } while (0)
#define C(value, like) th_like(B, (value), (like))

void th__vjp_zero(th_vjp *v) { TO(0, C(0, X)); }
void th__vjp_neg(th_vjp *v) { TO(0, th_neg(B, G)); }
void th__vjp_abs(th_vjp *v) { TO(0, th_mul(B, G, th_sgn(B, X))); }
void th__vjp_exp(th_vjp *v) { TO(0, th_mul(B, G, OUT)); }
void th__vjp_exp2(th_vjp *v) { TO(0, th_mul(B, th_mul(B, G, OUT), C(0.693147180559945309417, X))); }
void th__vjp_expm1(th_vjp *v) { TO(0, th_mul(B, G, th_add_scalar(B, OUT, 1))); }
void th__vjp_log(th_vjp *v) { TO(0, th_div(B, G, X)); }
void th__vjp_log2(th_vjp *v) { TO(0, th_div(B, G, th_mul_scalar(B, X, 0.693147180559945309417))); }
void th__vjp_log1p(th_vjp *v) { TO(0, th_div(B, G, th_add_scalar(B, X, 1))); }
void th__vjp_sqrt(th_vjp *v) { TO(0, th_div(B, G, th_mul_scalar(B, OUT, 2))); }
void th__vjp_rsqrt(th_vjp *v) { TO(0, th_mul(B, th_mul_scalar(B, G, -0.5), th_mul(B, OUT, th_mul(B, OUT, OUT)))); }
void th__vjp_reciprocal(th_vjp *v) { TO(0, th_neg(B, th_mul(B, G, th_mul(B, OUT, OUT)))); }
void th__vjp_sin(th_vjp *v) { TO(0, th_mul(B, G, th_cos(B, X))); }
void th__vjp_cos(th_vjp *v) { TO(0, th_neg(B, th_mul(B, G, th_sin(B, X)))); }
void th__vjp_tan(th_vjp *v) { TO(0, th_mul(B, G, th_add_scalar(B, th_mul(B, OUT, OUT), 1))); }
static th_value one_minus_square(th_builder *b, th_value x) { return th_sub(b, th_like(b, 1, x), th_mul(b, x, x)); }
void th__vjp_asin(th_vjp *v) { TO(0, th_mul(B, G, th_rsqrt(B, one_minus_square(B, X)))); }
void th__vjp_acos(th_vjp *v) { TO(0, th_neg(B, th_mul(B, G, th_rsqrt(B, one_minus_square(B, X))))); }
void th__vjp_atan(th_vjp *v) { TO(0, th_div(B, G, th_add_scalar(B, th_mul(B, X, X), 1))); }
void th__vjp_sinh(th_vjp *v) { TO(0, th_mul(B, G, th_cosh(B, X))); }
void th__vjp_cosh(th_vjp *v) { TO(0, th_mul(B, G, th_sinh(B, X))); }
void th__vjp_asinh(th_vjp *v) { TO(0, th_mul(B, G, th_rsqrt(B, th_add_scalar(B, th_mul(B, X, X), 1)))); }
void th__vjp_acosh(th_vjp *v) { TO(0, th_mul(B, G, th_rsqrt(B, th_add_scalar(B, th_mul(B, X, X), -1)))); }
void th__vjp_atanh(th_vjp *v) { TO(0, th_div(B, G, one_minus_square(B, X))); }
void th__vjp_tanh(th_vjp *v) { TO(0, th_mul(B, G, one_minus_square(B, OUT))); }
void th__vjp_erf(th_vjp *v) { /* 2 / sqrt(pi) exp(-x^2) */
  TO(0, th_mul(B, G, th_mul_scalar(B, th_exp(B, th_neg(B, th_mul(B, X, X))), 1.12837916709551257390)));
}
void th__vjp_convert(th_vjp *v) { TO(0, th_convert(B, G, th_dtype_of(B, X))); }

void th__vjp_add(th_vjp *v) {
  TO(0, G);
  TO(1, G);
}
void th__vjp_sub(th_vjp *v) {
  TO(0, G);
  TO(1, th_neg(B, G));
}
void th__vjp_mul(th_vjp *v) {
  TO(0, th_mul(B, G, Y));
  TO(1, th_mul(B, G, X));
}
void th__vjp_div(th_vjp *v) {
  TO(0, th_div(B, G, Y));
  TO(1, th_neg(B, th_div(B, th_mul(B, G, OUT), Y)));
}
void th__vjp_rem(th_vjp *v) { /* x - trunc(x / y) y */
  TO(0, G);
  TO(1, th_neg(B, th_mul(B, G, th_trunc(B, th_div(B, X, Y)))));
}
void th__vjp_pow_prim(th_vjp *v) { /* as torch: zero for exponent 0, and for 0 ** y with y >= 0 in the exponent */
  th_value zero = C(0, X);
  if (th_vjp_want(v, 0)) {
    th_value slope = th_mul(B, Y, th_pow(B, X, th_add_scalar(B, Y, -1)));
    v->in_grad[0] = th_select(B, th_eq(B, Y, zero), zero, th_mul(B, G, slope));
  }
  if (th_vjp_want(v, 1)) {
    th_value flat = th_and(B, th_eq(B, X, zero), th_ge(B, Y, zero));
    v->in_grad[1] = th_mul(B, G, th_select(B, flat, zero, th_mul(B, OUT, th_log(B, X))));
  }
}
/* Ties share the gradient, and both get it where one is NaN, as torch.maximum does. */
static void larger(th_vjp *v, bool max) {
  th_value half = th_mul_scalar(B, G, 0.5), zero = C(0, X), tie = th_eq(B, X, Y);
  th_value not_first = max ? th_lt(B, X, Y) : th_gt(B, X, Y), not_second = max ? th_gt(B, X, Y) : th_lt(B, X, Y);
  TO(0, th_select(B, tie, half, th_select(B, not_first, zero, G)));
  TO(1, th_select(B, tie, half, th_select(B, not_second, zero, G)));
}
void th__vjp_max(th_vjp *v) { larger(v, true); }
void th__vjp_min(th_vjp *v) { larger(v, false); }
void th__vjp_atan2(th_vjp *v) { /* of (y, x) in that order: x / (x^2 + y^2), -y / (x^2 + y^2) */
  th_value r = th_add(B, th_mul(B, X, X), th_mul(B, Y, Y));
  th_value zero = C(0, X), share = th_select(B, th_eq(B, r, zero), zero, th_div(B, G, r));
  TO(0, th_mul(B, share, Y));
  TO(1, th_neg(B, th_mul(B, share, X)));
}
void th__vjp_select(th_vjp *v) {
  TO(1, th_select(B, X, G, C(0, G)));
  TO(2, th_select(B, X, C(0, G), G));
}
