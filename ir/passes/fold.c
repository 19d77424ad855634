/* fold: rank-0 prims on constants become constants, computed as the dtype would be (f32 and f64 natively, narrower
 * floats not at all, integers in i64 when nothing overflows). */
#include <math.h>

#include "ir/passes/passes.h"

typedef struct number {
  bool is_float;
  double f;
  int64_t i;
} number;

static bool constant(const th_trace *t, th_value v, number *out) {
  const th_op *op = v == TH_NO_VALUE ? NULL : t->values[v].def;
  if (!op || op->kind != TH_OP_const) return false;
  th_dtype d = t->values[v].type.dtype;
  const th_attr *a = &op->attrs[0];
  out->is_float = th_dtype_is_float(d);
  if (out->is_float && d != TH_DTYPE_f32 && d != TH_DTYPE_f64) return false;
  if (!out->is_float && d != TH_DTYPE_i64 && d != TH_DTYPE_i32) return false;
  int64_t i = 0;
  if (a->kind == TH_ATTR_INT && !th_dim_is_const(t->context, a->i, &i)) return false;
  if (a->kind == TH_ATTR_FLOAT && !out->is_float) return false;
  out->f = a->kind == TH_ATTR_FLOAT ? a->f : a->kind == TH_ATTR_BOOL ? a->b : (double)i;
  out->i = a->kind == TH_ATTR_BOOL ? a->b : i;
  if (d == TH_DTYPE_f32) out->f = (float)out->f;
  return true;
}

static bool float_result(th_op_kind kind, double x, double y, bool f32, double *out) {
  double z;
  switch (kind) {
    case TH_OP_neg: z = -x; break;
    case TH_OP_abs: z = fabs(x); break;
    case TH_OP_sqrt: z = f32 ? sqrtf((float)x) : sqrt(x); break;
    case TH_OP_reciprocal: z = 1 / x; break;
    case TH_OP_add: z = x + y; break;
    case TH_OP_sub: z = x - y; break;
    case TH_OP_mul: z = x * y; break;
    case TH_OP_div: z = x / y; break;
    case TH_OP_max: z = isnan(x) || isnan(y) ? NAN : fmax(x, y); break;
    case TH_OP_min: z = isnan(x) || isnan(y) ? NAN : fmin(x, y); break;
    default: return false;
  }
  *out = f32 ? (float)z : z; /* one rounding: two f32 in f64 arithmetic round once more to the same f32 */
  return true;
}

static bool int_result(th_op_kind kind, int64_t x, int64_t y, int64_t *out) {
  switch (kind) {
    case TH_OP_add: return !__builtin_add_overflow(x, y, out);
    case TH_OP_sub: return !__builtin_sub_overflow(x, y, out);
    case TH_OP_mul: return !__builtin_mul_overflow(x, y, out);
    default: return false;
  }
}

static th_value folded(th_rewriter *r, const th_op *op) {
  const th_trace *t = r->b.trace;
  th_type type = r->from->values[op->n_results ? op->result : 0].type;
  number x = {0}, y = {0};
  if (op->n_results != 1 || type.rank || op->n_operands < 1 || op->n_operands > 2) return TH_NO_VALUE;
  if (!constant(t, th_rewrite_value(r, op->operands[0]), &x)) return TH_NO_VALUE;
  if (op->n_operands == 2 && !constant(t, th_rewrite_value(r, op->operands[1]), &y)) return TH_NO_VALUE;
  if (op->kind == TH_OP_convert) {
    if (type.dtype != TH_DTYPE_f32 && type.dtype != TH_DTYPE_f64) return TH_NO_VALUE;
    return th_const(&r->b, x.is_float ? x.f : (double)x.i, type.dtype);
  }
  double f;
  int64_t i;
  if (x.is_float && th_dtype_is_float(type.dtype) && float_result(op->kind, x.f, y.f, type.dtype == TH_DTYPE_f32, &f))
    return th_const(&r->b, f, type.dtype);
  if (!x.is_float && type.dtype == TH_DTYPE_i64 && int_result(op->kind, x.i, y.i, &i))
    return th_const_dim(&r->b, th_dim_const(th_ctx(&r->b), i), type.dtype);
  return TH_NO_VALUE;
}

th_status th_pass_fold(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops && !r.b.status; i++) {
      const th_op *op = in->graphs[g]->ops[i];
      th_rewrite_at(&r, op);
      th_value v = folded(&r, op);
      if (v == TH_NO_VALUE) th_rewrite_clone(&r, op);
      else th_rewrite_map(&r, op->result, v);
    }
    if (!r.b.status) th_rewrite_outputs(&r, g);
  }
  return th_rewrite_finish(&r, out);
}
