/* Gradients of pointwise torch ops whose lowering would give NaN beside a value that is finite (0 * inf in the branch that is
 * not taken), or another subgradient than PyTorch at a kink or at NaN. In the compute dtype, rounded once. */
#include "ir/grad/grad.h"

#include <math.h>

#define B (v->b)

static th_value up_grad(th_vjp *v) { return th_up(B, th_vjp_grad(v, 0)); }
static th_value up_self(th_vjp *v) { return th_up(B, v->in[0]); }
static double number(th_vjp *v, const char *name) { return th_attr_float(th_ctx(B), v->op, name); }

/* Operands in one dtype and shape. Numbers are weak prims here, as lowering rules get them. */
static void unify(th_vjp *v, const th_value *given, uint32_t n, bool wide, th_value *out) {
  th_value in[3];
  for (uint32_t i = 0; i < n; i++) {
    const th_op *def = B->status || given[i] == TH_NO_VALUE ? NULL : B->trace->values[given[i]].def;
    in[i] = def && def->kind == TH_OP_torch_scalar ? th_build1(B, TH_OP_weak, NULL, 0, def->attrs) : given[i];
  }
  th_dtype d = th_result_type(B, in, n);
  th_unify(B, in, n, wide ? th_dtype_compute(th_float_dtype(d)) : d, out);
}

/* g where x is inside, and where it is NaN if `nan_inside`. The limits themselves are outside. */
static th_value inside(th_vjp *v, th_value x, double low, double high, bool nan_inside, th_value g) {
  th_value zero = th_like(B, 0, g), lowest = th_like(B, low, x), highest = th_like(B, high, x);
  if (nan_inside) return th_select(B, th_or(B, th_le(B, x, lowest), th_ge(B, x, highest)), zero, g);
  return th_select(B, th_and(B, th_gt(B, x, lowest), th_lt(B, x, highest)), g, zero);
}

void th__vjp_relu(th_vjp *v) {
  th_value g = v->grad[0], zero = th_like(B, 0, g);
  th_vjp_give(v, 0, th_select(B, th_le(B, v->out, th_like(B, 0, v->out)), zero, g));
}
void th__vjp_relu6(th_vjp *v) { th_vjp_give(v, 0, inside(v, v->in[0], 0, 6, true, v->grad[0])); }
void th__vjp_hardtanh(th_vjp *v) { th_vjp_give(v, 0, inside(v, v->in[0], number(v, "min_val"), number(v, "max_val"), true, v->grad[0])); }
void th__vjp_hardsigmoid(th_vjp *v) {
  th_value g = up_grad(v);
  th_vjp_give(v, 0, inside(v, up_self(v), -3, 3, false, th_div(B, g, th_like(B, 6, g))));
}
void th__vjp_hardswish(th_vjp *v) { /* 0 up to -3, x / 3 + 1 / 2 between, 1 from 3 on and of NaN */
  th_value x = up_self(v), g = up_grad(v), middle = th_mul(B, g, th_add_scalar(B, th_div(B, x, th_like(B, 3, x)), 0.5));
  th_value above = th_select(B, th_lt(B, x, th_like(B, 3, x)), middle, g);
  th_vjp_give(v, 0, th_select(B, th_le(B, x, th_like(B, -3, x)), th_like(B, 0, g), above));
}

static void elu(th_vjp *v, double alpha, double scale, double input_scale) {
  th_value x = up_self(v), g = up_grad(v);
  th_value below = th_mul_scalar(B, th_exp(B, th_mul_scalar(B, x, input_scale)), alpha * scale * input_scale);
  th_vjp_give(v, 0, th_mul(B, g, th_select(B, th_le(B, x, th_like(B, 0, x)), below, th_like(B, scale, x))));
}
void th__vjp_elu(th_vjp *v) { elu(v, number(v, "alpha"), number(v, "scale"), number(v, "input_scale")); }
void th__vjp_celu(th_vjp *v) { elu(v, number(v, "alpha"), 1, 1 / number(v, "alpha")); }
void th__vjp_selu(th_vjp *v) { elu(v, TH_SELU_ALPHA, TH_SELU_SCALE, 1); }

void th__vjp_softplus(th_vjp *v) {
  th_value x = th_mul_scalar(B, up_self(v), number(v, "beta")), g = up_grad(v);
  th_vjp_give(v, 0, th_select(B, th_gt(B, x, th_like(B, number(v, "threshold"), x)), g, th_mul(B, g, th_sigmoid(B, x))));
}

void th__vjp_mish(th_vjp *v) { /* t + x s (1 - t^2), t = tanh(softplus(x)), s = sigmoid(x) */
  th_value x = up_self(v), t = th_tanh(B, th_log1p(B, th_exp(B, x)));
  th_value bend = th_mul(B, th_mul(B, x, th_sigmoid(B, x)), th_sub(B, th_like(B, 1, t), th_mul(B, t, t)));
  th_vjp_give(v, 0, th_mul(B, up_grad(v), th_add(B, t, bend)));
}

void th__vjp_sinc(th_vjp *v) { /* (u cos u - sin u) / (u x), u = pi x */
  th_value x = up_self(v), u = th_mul_scalar(B, x, 3.14159265358979323846), square = th_mul(B, u, x);
  th_value slope = th_div(B, th_sub(B, th_mul(B, u, th_cos(B, u)), th_sin(B, u)), square), zero = th_like(B, 0, x);
  th_vjp_give(v, 0, th_select(B, th_eq(B, square, zero), zero, th_mul(B, up_grad(v), slope)));
}

void th__vjp_logit(th_vjp *v) {
  th_value x = up_self(v), g = up_grad(v), one = th_like(B, 1, x);
  bool cut = !th_attr_absent(v->op, "eps");
  double eps = cut ? number(v, "eps") : 0;
  th_value within = th_and(B, th_ge(B, x, th_like(B, eps, x)), th_le(B, x, th_like(B, 1 - eps, x)));
  th_vjp_give(v, 0, th_select(B, within, th_div(B, g, th_mul(B, x, th_sub(B, one, x))), th_like(B, cut ? 0 : NAN, x)));
}

void th__vjp_xlogy(th_vjp *v) {
  th_value o[2], g = up_grad(v);
  unify(v, v->in, 2, true, o);
  th_value x = o[0], y = o[1], zero = th_like(B, 0, x);
  if (th_vjp_want(v, 0)) {
    th_value none = th_and(B, th_eq(B, x, zero), th_le(B, y, zero));
    th_vjp_give(v, 0, th_select(B, none, zero, th_xlogy(B, g, y)));
  }
  if (th_vjp_want(v, 1)) th_vjp_give(v, 1, th_div(B, th_mul(B, g, x), y));
}

/* self's where it lies within, the limits counted in; a limit's where it is the result; none where there is a NaN. */
static void clamp(th_vjp *v, int low, int high) {
  th_value in[3] = {v->in[0], low ? v->in[low] : TH_NO_VALUE, high ? v->in[high] : TH_NO_VALUE}, o[3], within = TH_NO_VALUE;
  unify(v, in, 3, false, o);
  if (B->status) return;
  th_value g = v->grad[0], zero = th_like(B, 0, g), min = o[1], max = o[2];
  if (min != TH_NO_VALUE) within = th_ge(B, o[0], min);
  if (max != TH_NO_VALUE) within = min == TH_NO_VALUE ? th_le(B, o[0], max) : th_and(B, within, th_le(B, o[0], max));
  if (th_vjp_want(v, 0)) th_vjp_give(v, 0, th_select(B, within, g, zero));
  if (min != TH_NO_VALUE && th_vjp_want(v, (uint32_t)low)) {
    th_value below = th_lt(B, o[0], min);
    if (max != TH_NO_VALUE) below = th_and(B, below, th_lt(B, min, max));
    th_vjp_give(v, (uint32_t)low, th_select(B, below, g, zero));
  }
  if (max != TH_NO_VALUE && th_vjp_want(v, (uint32_t)high)) {
    th_value above = th_gt(B, o[0], max);
    if (min != TH_NO_VALUE) above = th_or(B, above, th_lt(B, max, min));
    th_vjp_give(v, (uint32_t)high, th_select(B, above, g, zero));
  }
}
void th__vjp_clamp(th_vjp *v) { clamp(v, 1, 2); }
void th__vjp_clamp_min(th_vjp *v) { clamp(v, 1, 0); }
void th__vjp_clamp_max(th_vjp *v) { clamp(v, 0, 1); }
