/* Optimizer steps of one parameter, as torch.optim computes them (single-tensor forms). Step sizes and bias
 * corrections are rank-0 f64, as Python's numbers are; tensors are computed in the parameter's compute dtype. */
#include "ir/lower/helpers.h"

/* A rank-0 number over x's shape, in x's dtype. */
static th_value over(th_builder *b, th_value number, th_value x) {
  return b->status ? TH_NO_VALUE : th_broadcast_like(b, th_convert(b, number, th_dtype_of(b, x)), x);
}

static th_value one_minus(th_builder *b, th_value number) { return th_sub(b, th_like(b, 1, number), number); }

/* The gradient in the parameter's compute dtype, its sign as `maximize` says. */
static th_value gradient(th_rule *r, th_value param) {
  th_value g = th_convert(r->b, r->in[1], th_dtype_of(r->b, param));
  return th_rule_bool(r, "maximize") ? th_neg(r->b, g) : g;
}

static th_value back(th_rule *r, th_value x, uint32_t operand) { return th_convert(r->b, x, th_dtype_of(r->b, r->in[operand])); }

void th__lower_sgd_step(th_rule *r) {
  th_builder *b = r->b;
  th_value param = th_up(b, r->in[0]), grad = gradient(r, param);
  th_value lr = r->in[3], momentum = r->in[4], dampening = r->in[5], decay = r->in[6], buffer = TH_NO_VALUE;
  if (th_rule_bool(r, "weight_decay_on")) grad = th_add(b, grad, th_mul(b, param, over(b, decay, param)));
  if (r->in[2] != TH_NO_VALUE) {
    if (th_rule_bool(r, "first_step")) buffer = grad;
    else {
      th_value old = th_convert(b, r->in[2], th_dtype_of(b, param));
      buffer = th_add(b, th_mul(b, old, over(b, momentum, old)), th_mul(b, grad, over(b, one_minus(b, dampening), grad)));
    }
    grad = th_rule_bool(r, "nesterov") ? th_add(b, grad, th_mul(b, buffer, over(b, momentum, buffer))) : buffer;
  }
  th_value now = back(r, th_sub(b, param, th_mul(b, grad, over(b, lr, grad))), 0);
  th_rule_return(r, now);
  th_rule_return(r, buffer == TH_NO_VALUE ? now : back(r, buffer, 2));
}

/* Kingma and Ba, 2015, algorithm 1; decoupled: Loshchilov and Hutter, 2019, algorithm 2; amsgrad: Reddi et al., 2018. */
void th__lower_adam_step(th_rule *r) {
  th_builder *b = r->b;
  th_value param = th_up(b, r->in[0]), grad = gradient(r, param), step = r->in[2];
  th_dtype d = th_dtype_of(b, param);
  th_value m = th_convert(b, r->in[3], d), v = th_convert(b, r->in[4], d);
  th_value lr = r->in[6], beta1 = r->in[7], beta2 = r->in[8], eps = r->in[9], decay = r->in[10];
  bool amsgrad = th_rule_bool(r, "amsgrad");
  if (amsgrad && r->in[5] == TH_NO_VALUE) th_rule_fail(r, "amsgrad needs max_exp_avg_sq");
  if (b->status) return;
  step = th_add_scalar(b, step, 1);
  th_value t = th_convert(b, step, TH_DTYPE_f64);
  if (th_rule_bool(r, "weight_decay_on")) {
    if (th_rule_bool(r, "decoupled")) param = th_mul(b, param, over(b, one_minus(b, th_mul(b, lr, decay)), param));
    else grad = th_add(b, grad, th_mul(b, param, over(b, decay, param)));
  }
  m = th_add(b, m, th_mul(b, th_sub(b, grad, m), over(b, one_minus(b, beta1), m)));
  v = th_add(b, th_mul(b, v, over(b, beta2, v)), th_mul(b, th_mul(b, grad, grad), over(b, one_minus(b, beta2), v)));
  th_value correction1 = one_minus(b, th_pow(b, beta1, t)), correction2 = th_sqrt(b, one_minus(b, th_pow(b, beta2, t)));
  th_value largest = amsgrad ? th_max(b, th_convert(b, r->in[5], d), v) : v;
  th_value denominator = th_add(b, th_div(b, th_sqrt(b, largest), over(b, correction2, v)), over(b, eps, v));
  th_value size = th_div(b, lr, correction1);
  param = th_sub(b, param, th_mul(b, over(b, size, m), th_div(b, m, denominator)));
  th_rule_return(r, back(r, param, 0));
  th_rule_return(r, step);
  th_rule_return(r, back(r, m, 3));
  th_rule_return(r, back(r, v, 4));
  th_rule_return(r, amsgrad ? back(r, largest, 5) : back(r, v, 4));
}
