/* canonicalize: one form for equal things, so that later passes need to know one. On prims:
 *   constants stand on the right of a commutative op; x + (-0), x - 0, x * 1, x / 1 are x, and x + 0 of integers (-0.0 + 0 is 0.0); --x is x
 *   conversions there and back without loss vanish; chains of reshapes, transposes and broadcasts become one
 *   reductions over dimensions of size 1 are reshapes; division by a power of two is a product */
#include <math.h>
#include <stdlib.h>

#include "ir/passes/passes.h"

static const th_op *def_of(const th_rewriter *r, th_value v) { return v == TH_NO_VALUE ? NULL : r->b.trace->values[v].def; }
static const th_type *type_of(const th_rewriter *r, th_value v) { return &r->b.trace->values[v].type; }

/* A constant, as it is or broadcast. */
static bool number_of(const th_rewriter *r, th_value v, double *out) {
  const th_op *op = def_of(r, v);
  if (op && op->kind == TH_OP_broadcast) op = def_of(r, op->operands[0]);
  if (!op || op->kind != TH_OP_const) return false;
  int64_t i;
  const th_attr *a = &op->attrs[0];
  if (a->kind == TH_ATTR_FLOAT) *out = a->f;
  else if (a->kind == TH_ATTR_BOOL) *out = a->b;
  else if (a->kind == TH_ATTR_INT && th_dim_is_const(r->b.trace->context, a->i, &i)) *out = (double)i;
  else return false;
  return true;
}

/* Every value of dtype a is one of dtype b. */
static bool holds(th_dtype a, th_dtype b) {
  if (a == b) return true;
  if (a == TH_DTYPE_bool) return b != TH_DTYPE_none;
  if (th_dtype_is_float(a) && th_dtype_is_float(b)) {
    if (b == TH_DTYPE_f64) return true;
    return b == TH_DTYPE_f32 && a != TH_DTYPE_f64;
  }
  return th_dtype_kind_of(a) == TH_KIND_INT && th_dtype_kind_of(b) == TH_KIND_INT && th_dtype_size(a) <= th_dtype_size(b);
}

static th_value convert(th_rewriter *r, const th_op *op, th_value x) {
  th_dtype to = th_attr_get(op, "dtype")->dtype;
  const th_op *def = def_of(r, x);
  if (type_of(r, x)->dtype == to && !type_of(r, x)->weak) return x;
  if (def && def->kind == TH_OP_convert) {
    th_dtype from = type_of(r, def->operands[0])->dtype;
    if (!type_of(r, def->operands[0])->weak && holds(from, type_of(r, x)->dtype) && (from == to || holds(from, to) || th_dtype_is_float(from) == th_dtype_is_float(to)))
      return th_convert(&r->b, def->operands[0], to);
  }
  return TH_NO_VALUE;
}

static bool constants_of(const th_rewriter *r, const th_attr *a, int64_t *out) {
  for (uint32_t i = 0; i < a->count; i++)
    if (!th_dim_is_const(r->b.trace->context, a->ints[i], &out[i])) return false;
  return true;
}

static th_value movement(th_rewriter *r, const th_op *op, th_value x) {
  const th_op *def = def_of(r, x);
  const th_type *type = &r->from->values[op->result].type;
  if (op->kind == TH_OP_reshape) {
    if (th_type_same_shape(type, type_of(r, x))) return x;
    if (def && def->kind == TH_OP_reshape) return th_reshape(&r->b, def->operands[0], type->dims, type->rank);
  }
  int64_t outer[TH_MAX_RANK], inner[TH_MAX_RANK], both[TH_MAX_RANK];
  if (op->kind == TH_OP_transpose && constants_of(r, &op->attrs[0], outer)) {
    uint32_t fixed = 0;
    while (fixed < type->rank && outer[fixed] == fixed) fixed++;
    if (fixed == type->rank) return x;
    if (def && def->kind == TH_OP_transpose && constants_of(r, &def->attrs[0], inner)) {
      for (uint32_t i = 0; i < type->rank; i++) both[i] = inner[outer[i]];
      return th_transpose(&r->b, def->operands[0], both);
    }
  }
  if (op->kind == TH_OP_broadcast && constants_of(r, &op->attrs[1], outer)) {
    if (th_type_same_shape(type, type_of(r, x))) {
      uint32_t fixed = 0;
      while (fixed < type->rank && outer[fixed] == fixed) fixed++;
      if (fixed == type->rank) return x;
    }
    if (def && def->kind == TH_OP_broadcast && constants_of(r, &def->attrs[1], inner)) {
      uint32_t rank = type_of(r, def->operands[0])->rank;
      for (uint32_t i = 0; i < rank; i++) both[i] = outer[inner[i]];
      return th_broadcast(&r->b, def->operands[0], type->dims, type->rank, both);
    }
  }
  return TH_NO_VALUE;
}

static th_value reduction(th_rewriter *r, const th_op *op, th_value x) {
  if (op->kind == TH_OP_argmax || op->kind == TH_OP_argmin) return TH_NO_VALUE;
  const th_attr *dims = th_attr_get(op, "dims");
  const th_type *t = type_of(r, x), *to = &r->from->values[op->result].type;
  for (uint32_t i = 0; i < dims->count; i++) {
    int64_t d;
    if (!th_dim_is_const(th_ctx(&r->b), dims->ints[i], &d) || !th_dim_is(th_ctx(&r->b), t->dims[d], 1)) return TH_NO_VALUE;
  }
  return th_reshape(&r->b, x, to->dims, to->rank);
}

static th_value arithmetic(th_rewriter *r, const th_op *op, th_value x, th_value y) {
  double c = 0, other;
  bool right = number_of(r, y, &c);
  bool exact = th_dtype_is_float(type_of(r, x)->dtype);
  int e;
  switch (op->kind) {
    case TH_OP_add: case TH_OP_sub:
      if (right && c == 0 && type_of(r, x)->dtype != TH_DTYPE_bool && (!exact || !signbit(c) == (op->kind == TH_OP_sub))) return x;
      break;
    case TH_OP_mul: if (right && c == 1 && type_of(r, x)->dtype != TH_DTYPE_bool) return x; break;
    case TH_OP_div:
      if (right && c == 1) return x;
      if (right && exact && c != 0 && isfinite(c) && fabs(frexp(c, &e)) == 0.5 && abs(e) < 100)
        return th_mul(&r->b, x, th_like(&r->b, 1 / c, x));
      break;
    default: break;
  }
  if ((th_op_spec_get(op->kind)->traits & TH_COMMUTES) && !right && number_of(r, x, &other))
    return th_build1(&r->b, op->kind, (th_value[]){y, x}, 2, NULL);
  return TH_NO_VALUE;
}

static th_value simpler(th_rewriter *r, const th_op *op) {
  if (op->n_results != 1 || op->n_operands < 1 || op->operands[0] == TH_NO_VALUE) return TH_NO_VALUE;
  th_value x = th_rewrite_value(r, op->operands[0]);
  switch (op->kind) {
    case TH_OP_convert: return convert(r, op, x);
    case TH_OP_reshape: case TH_OP_transpose: case TH_OP_broadcast: return movement(r, op, x);
    case TH_OP_neg: {
      const th_op *def = def_of(r, x);
      return def && def->kind == TH_OP_neg ? def->operands[0] : TH_NO_VALUE;
    }
    default: break;
  }
  uint32_t traits = th_op_spec_get(op->kind)->traits;
  if (traits & TH_REDUCTION) return reduction(r, op, x);
  if ((traits & TH_POINTWISE) && op->n_operands == 2) {
    th_value y = th_rewrite_value(r, op->operands[1]), z = arithmetic(r, op, x, y);
    while (z != TH_NO_VALUE && z != x && z != y) { /* a swap may open another rule */
      const th_op *now = def_of(r, z);
      if (!now || now->kind != op->kind || now->n_operands != 2) break;
      th_value again = arithmetic(r, now, now->operands[0], now->operands[1]);
      if (again == TH_NO_VALUE) break;
      z = again;
    }
    return z;
  }
  return TH_NO_VALUE;
}

th_status th_pass_canonicalize(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops && !r.b.status; i++) {
      const th_op *op = in->graphs[g]->ops[i];
      th_rewrite_at(&r, op);
      th_value v = simpler(&r, op);
      if (v == TH_NO_VALUE) {
        if (!r.b.status) th_rewrite_clone(&r, op);
        continue;
      }
      th_rewrite_map(&r, op->result, v);
      if (!r.b.trace->values[v].name) r.b.trace->values[v].name = in->values[op->result].name;
    }
    if (!r.b.status) th_rewrite_outputs(&r, g);
  }
  return th_rewrite_finish(&r, out);
}
