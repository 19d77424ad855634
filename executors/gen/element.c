/* One element of a value as C. Every prim whose result element is a function of few elements of its operands is an index
 * map or an expression here; a reduction is a loop. Elements that are already at hand in an open scope are not computed
 * again, so the loops around decide what is computed once a row and what once an element. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "executors/gen/gen.h"

void th_gen_fail(th_gen *g, th_status status) {
  if (g->status) th_status_free(status);
  else g->status = status;
}

static void put_indent(th_gen *g) {
  for (int i = 0; i < g->indent; i++) th_strbuf_add(&g->s, "  ");
}

static void put(th_gen *g, const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, format, again);
  va_end(again);
  char *text = th_arena_alloc(g->a, (size_t)n + 1);
  vsnprintf(text, (size_t)n + 1, format, args);
  th_strbuf_add(&g->s, text);
}

void th_gen_line(th_gen *g, const char *format, ...) {
  va_list args;
  put_indent(g);
  va_start(args, format);
  put(g, format, args);
  va_end(args);
  th_strbuf_add(&g->s, "\n");
}

void th_gen_open(th_gen *g, const char *format, ...) {
  va_list args;
  put_indent(g);
  va_start(args, format);
  put(g, format, args);
  va_end(args);
  th_strbuf_add(&g->s, " {\n");
  g->indent++;
}

void th_gen_close(th_gen *g) {
  g->indent--;
  put_indent(g);
  th_strbuf_add(&g->s, "}\n");
}

const char *th_gen_name(th_gen *g, const char *prefix) { return th_arena_printf(g->a, "%s%u", prefix, g->next++); }

const char *th_gen_dim(th_gen *g, th_dim dim) {
  int64_t value;
  if (th_dim_is_const(g->c, dim, &value)) return th_arena_printf(g->a, "%" PRId64, value);
  size_t k = 0;
  while (k < g->n_sizes && g->sizes[k] != dim) k++;
  if (k == g->n_sizes) TH_PUSH(g->a, g->sizes, g->n_sizes, g->sizes_capacity, dim);
  return th_arena_printf(g->a, g->sizes_by_name ? "n%zu" : "sizes[%zu]", k);
}

const char *th_gen_ctype(th_dtype dtype) {
  switch (dtype) {
    case TH_DTYPE_f16: case TH_DTYPE_bf16: case TH_DTYPE_f32: return "float";
    default: return th_dtype_c_name(dtype);
  }
}

const char *th_gen_load_text(th_gen *g, th_dtype dtype, const char *p, const char *offset) {
  if (dtype == TH_DTYPE_bf16) return th_arena_printf(g->a, "th_load_bf16(%s[%s])", p, offset);
  if (dtype == TH_DTYPE_f16) return th_arena_printf(g->a, "th_load_f16(%s[%s])", p, offset);
  return th_arena_printf(g->a, "%s[%s]", p, offset);
}

const char *th_gen_store_text(th_gen *g, th_dtype dtype, const char *name) {
  for (size_t i = g->n_raws; i-- > 0;) /* rounded before: not again */
    if (!strcmp(g->raws[i].name, name) && g->raws[i].value == (th_value)dtype) return g->raws[i].index;
  if (dtype == TH_DTYPE_bf16) return th_arena_printf(g->a, "th_store_bf16(%s)", name);
  if (dtype == TH_DTYPE_f16) return th_arena_printf(g->a, "th_store_f16(%s)", name);
  return name;
}

const char *th_gen_offset(th_gen *g, const th_type *type, const th_dim *strides, const char *const *index) {
  th_strbuf s = th_strbuf_make(g->a);
  for (uint32_t i = 0; i < type->rank; i++) {
    if (th_dim_is(g->c, strides[i], 0) || th_dim_is(g->c, type->dims[i], 1) || !strcmp(index[i], "0")) continue;
    if (s.length) th_strbuf_add(&s, " + ");
    th_strbuf_add(&s, index[i]);
    if (!th_dim_is(g->c, strides[i], 1)) th_strbuf_printf(&s, " * %s", th_gen_dim(g, strides[i]));
  }
  return s.length ? th_strbuf_text(&s) : "0";
}

/* Row-major linear index. */
static const char *linear(th_gen *g, const th_dim *dims, uint32_t rank, const char *const *index) {
  if (g->flat) return g->flat;
  th_type type = {.rank = rank, .dims = dims};
  return th_arena_printf(g->a, "(%s)", th_gen_offset(g, &type, th_contiguous_strides(g->c, dims, rank), index));
}

const char *th_gen_for(th_gen *g, const char *prefix, th_dim size) {
  const char *i = th_gen_name(g, prefix), *n = th_gen_dim(g, size);
  th_gen_open(g, "for (%s %s = 0; %s < %s; %s++)", g->index_type, i, i, n, i);
  return i;
}

bool th_op_is_special(const th_op *op) {
  switch (op->kind) {
    case TH_OP_argmax: case TH_OP_argmin: case TH_OP_cumsum: case TH_OP_window_max: case TH_OP_scatter_add: case TH_OP_scatter_add_along: case TH_OP_scatter_along:
      return true;
    default: return false;
  }
}

uint32_t th_gen_output_of(const th_gen *g, th_value v) {
  for (uint32_t k = 0; k < g->body->n_outputs; k++)
    if (g->body->outputs[k] == v) return k;
  return TH_NONE;
}


bool th_gen_reduces(th_context *context, const th_op *op, uint32_t dim) {
  const th_attr *dims = th_attr_get(op, "dims");
  for (uint32_t i = 0; i < dims->count; i++)
    if (th_dim_is(context, dims->ints[i], dim)) return true;
  return false;
}

const char *th_gen_key(th_gen *g, const th_type *type, const char *const *index) { /* a dimension of size 1 has one index, whatever its name */
  th_strbuf s = th_strbuf_make(g->a);
  if (g->flat && type->rank) return g->flat;
  for (uint32_t i = 0; i < type->rank; i++) th_strbuf_printf(&s, "%s,", th_dim_is(g->c, type->dims[i], 1) ? "0" : index[i]);
  return th_strbuf_text(&s);
}

const char *th_gen_remember(th_gen *g, th_value v, const char *index, const char *name) {
  th_memo memo = {v, index, name};
  TH_PUSH(g->a, g->memos, g->n_memos, g->memos_capacity, memo);
  return name;
}

static const char *define(th_gen *g, const char *type, const char *prefix, const char *text) {
  const char *name = th_gen_name(g, prefix), *line = th_arena_printf(g->a, "const %s %s = %s;", type, name, text);
  if (!g->before || !g->before(g, name, line)) th_gen_line(g, "%s", line);
  return name;
}

const char *th_gen_variable(th_gen *g, th_dtype dtype, const char *text) { return define(g, th_gen_ctype(dtype), "v", text); }
const char *th_gen_index(th_gen *g, const char *text) { return define(g, g->index_type, "q", text); }

static const char *number(th_gen *g, double v, th_dtype dtype) {
  if (!th_dtype_is_float(dtype)) return v <= -9223372036854775808.0 ? "INT64_MIN" : th_arena_printf(g->a, "((%s)%.0f)", th_gen_ctype(dtype), v);
  bool f = dtype != TH_DTYPE_f64;
  if (isnan(v)) return "NAN";
  if (isinf(v)) return v < 0 ? "(-INFINITY)" : "INFINITY";
  return th_arena_printf(g->a, f ? "((float)%#.17g)" : "((double)%#.17g)", v);
}

static const char *constant(th_gen *g, const th_op *op, th_dtype dtype) {
  const th_attr *value = th_attr_get(op, "value");
  int64_t i;
  if (value->kind == TH_ATTR_BOOL) return th_dtype_is_float(dtype) ? number(g, value->b, dtype) : value->b ? "1" : "0";
  if (value->kind == TH_ATTR_FLOAT) {
    if (dtype == TH_DTYPE_bool) return value->f != 0 ? "1" : "0";
    return number(g, value->f, dtype);
  }
  if (!th_dim_is_const(g->c, value->i, &i)) return th_arena_printf(g->a, "((%s)%s)", th_gen_ctype(dtype), th_gen_dim(g, value->i));
  if (th_dtype_is_float(dtype)) return number(g, (double)i, dtype);
  if (dtype == TH_DTYPE_bool) return i ? "1" : "0";
  if (i == INT64_MIN) return "INT64_MIN";
  return th_arena_printf(g->a, "((%s)INT64_C(%" PRId64 "))", th_gen_ctype(dtype), i);
}

const char *th_gen_load(th_gen *g, uint32_t k, const char *const *index) {
  th_value v = g->op->operands[k];
  const th_type *type = &g->t->values[v].type;
  const char *p = th_arena_printf(g->a, "p%u", k);
  const char *offset = g->flat && type->rank ? g->flat : th_gen_offset(g, type, g->t->values[v].strides, index);
  return th_gen_variable(g, type->dtype, th_gen_load_text(g, type->dtype, p, offset));
}

static const char *call1(th_gen *g, const char *f32, const char *f64, th_dtype dtype, const char *x) {
  return th_arena_printf(g->a, "%s(%s)", dtype == TH_DTYPE_f64 ? f64 : f32, x);
}

static const char *convert(th_gen *g, const char *x, th_dtype from, th_dtype to) {
  if (to == TH_DTYPE_bool) return th_arena_printf(g->a, "(uint8_t)(%s != 0)", x);
  if (to == TH_DTYPE_bf16 && from != TH_DTYPE_bf16) return th_arena_printf(g->a, "th_load_bf16(th_store_bf16((float)%s))", x);
  if (to == TH_DTYPE_f16 && from != TH_DTYPE_f16) return th_arena_printf(g->a, "th_load_f16(th_store_f16((float)%s))", x);
  return th_arena_printf(g->a, "(%s)%s", th_gen_ctype(to), x);
}

static const char *pointwise(th_gen *g, const th_op *op, const char *const *x) {
  th_dtype in = op->n_operands ? th_type_of(g->t, op->operands[op->n_operands - 1])->dtype : TH_DTYPE_f32;
  bool is_float = th_dtype_is_float(in), is_bool = in == TH_DTYPE_bool;
  const char *T = th_gen_ctype(in);
  th_arena *a = g->a;
#define UNARY(kind, f32, f64) case TH_OP_##kind: return call1(g, f32, f64, in, x[0])
#define BINARY(kind, sign) case TH_OP_##kind: return th_arena_printf(a, "(%s)(%s " sign " %s)", T, x[0], x[1])
#define COMPARE(kind, sign) case TH_OP_##kind: return th_arena_printf(a, "(uint8_t)(%s " sign " %s)", x[0], x[1])
  switch (op->kind) {
    case TH_OP_neg: return is_float ? th_arena_printf(a, "-%s", x[0]) : th_arena_printf(a, "(%s)(0 - (uint64_t)%s)", T, x[0]);
    case TH_OP_abs: return is_float ? call1(g, "__builtin_fabsf", "__builtin_fabs", in, x[0]) : th_arena_printf(a, "(%s)(%s < 0 ? 0 - (uint64_t)%s : (uint64_t)%s)", T, x[0], x[0], x[0]);
    case TH_OP_sign: return th_arena_printf(a, "(%s)(%s != %s ? %s : (%s > 0) - (%s < 0))", T, x[0], x[0], x[0], x[0], x[0]);
    UNARY(exp, g->exp ? g->exp : "th_expf", "exp"); UNARY(exp2, "exp2f", "exp2"); UNARY(expm1, "expm1f", "expm1"); UNARY(log, "th_logf", "log");
    UNARY(log2, "log2f", "log2"); UNARY(log1p, "log1pf", "log1p"); UNARY(sqrt, "__builtin_sqrtf", "__builtin_sqrt");
    case TH_OP_rsqrt: return in == TH_DTYPE_f64 ? th_arena_printf(a, "1.0 / __builtin_sqrt(%s)", x[0]) : th_arena_printf(a, "1.0f / __builtin_sqrtf(%s)", x[0]);
    case TH_OP_reciprocal: return th_arena_printf(a, "(%s)1 / %s", T, x[0]);
    UNARY(sin, "sinf", "sin"); UNARY(cos, "cosf", "cos"); UNARY(tan, "tanf", "tan"); UNARY(asin, "asinf", "asin"); UNARY(acos, "acosf", "acos");
    UNARY(atan, "atanf", "atan"); UNARY(sinh, "sinhf", "sinh"); UNARY(cosh, "coshf", "cosh"); UNARY(asinh, "asinhf", "asinh");
    UNARY(acosh, "acoshf", "acosh"); UNARY(atanh, "atanhf", "atanh"); UNARY(tanh, "th_tanhf", "tanh"); UNARY(erf, "th_erff", "erf");
    case TH_OP_floor: case TH_OP_ceil: case TH_OP_round: case TH_OP_trunc: {
      static const char *const f[4][2] = {{"__builtin_floorf", "__builtin_floor"}, {"__builtin_ceilf", "__builtin_ceil"}, {"__builtin_rintf", "__builtin_rint"}, {"__builtin_truncf", "__builtin_trunc"}};
      int k = op->kind == TH_OP_floor ? 0 : op->kind == TH_OP_ceil ? 1 : op->kind == TH_OP_round ? 2 : 3;
      return is_float ? call1(g, f[k][0], f[k][1], in, x[0]) : x[0];
    }
    case TH_OP_isnan: return th_arena_printf(a, "(uint8_t)(%s != %s)", x[0], x[0]);
    case TH_OP_isfinite: return is_float ? th_arena_printf(a, "(uint8_t)(%s - %s == 0)", x[0], x[0]) : "(uint8_t)1";
    case TH_OP_not: return is_bool ? th_arena_printf(a, "(uint8_t)!%s", x[0]) : th_arena_printf(a, "(%s)~%s", T, x[0]);
    case TH_OP_convert: return convert(g, x[0], in, th_attr_get(op, "dtype")->dtype);
    case TH_OP_add: return th_arena_printf(a, is_bool ? "(%s)(%s | %s)" : "(%s)(%s + %s)", T, x[0], x[1]);
    BINARY(sub, "-");
    case TH_OP_mul: return th_arena_printf(a, is_bool ? "(%s)(%s & %s)" : "(%s)(%s * %s)", T, x[0], x[1]);
    case TH_OP_div: return th_arena_printf(a, is_float ? "(%s)%s / %s" : "TH_DIV_INT(%s, %s, %s)", T, x[0], x[1]);
    case TH_OP_rem: return is_float ? th_arena_printf(a, "%s(%s, %s)", in == TH_DTYPE_f64 ? "fmod" : "fmodf", x[0], x[1]) : th_arena_printf(a, "TH_REM_INT(%s, %s, %s)", T, x[0], x[1]);
    case TH_OP_pow: return is_float ? th_arena_printf(a, "%s(%s, %s)", in == TH_DTYPE_f64 ? "pow" : "powf", x[0], x[1]) : th_arena_printf(a, "(%s)th_pow_int((uint64_t)%s, (uint64_t)%s, %s < 0)", T, x[0], x[1], x[1]);
    case TH_OP_atan2: return th_arena_printf(a, "%s(%s, %s)", in == TH_DTYPE_f64 ? "atan2" : "atan2f", x[0], x[1]);
    case TH_OP_max: return th_arena_printf(a, "TH_MAX(%s, %s)", x[0], x[1]);
    case TH_OP_min: return th_arena_printf(a, "TH_MIN(%s, %s)", x[0], x[1]);
    BINARY(and, "&"); BINARY(or, "|"); BINARY(xor, "^");
    case TH_OP_shl: return th_arena_printf(a, "(%s)((uint64_t)%s << %s)", T, x[0], x[1]);
    BINARY(shr, ">>");
    COMPARE(eq, "=="); COMPARE(ne, "!="); COMPARE(lt, "<"); COMPARE(le, "<="); COMPARE(gt, ">"); COMPARE(ge, ">=");
    case TH_OP_select: return th_arena_printf(a, "%s ? %s : %s", x[0], x[1], x[2]);
    default: return NULL;
  }
}

/* ---- reductions ---- */

const char *th_gen_reduce_start(th_op_kind kind, th_dtype dtype) {
  bool f = th_dtype_is_float(dtype);
  switch (kind) {
    case TH_OP_reduce_prod: case TH_OP_reduce_all: return "1";
    case TH_OP_reduce_max: return f ? "-INFINITY" : dtype == TH_DTYPE_i64 ? "INT64_MIN" : dtype == TH_DTYPE_i32 ? "INT32_MIN" : dtype == TH_DTYPE_i16 ? "INT16_MIN" : dtype == TH_DTYPE_i8 ? "INT8_MIN" : "0";
    case TH_OP_reduce_min: return f ? "INFINITY" : dtype == TH_DTYPE_i64 ? "INT64_MAX" : dtype == TH_DTYPE_i32 ? "INT32_MAX" : dtype == TH_DTYPE_i16 ? "INT16_MAX" : dtype == TH_DTYPE_i8 ? "INT8_MAX" : dtype == TH_DTYPE_bool ? "1" : "UINT8_MAX";
    default: return "0";
  }
}

const char *th_gen_reduce_step(th_gen *g, th_op_kind kind, th_dtype dtype, const char *acc, const char *x) {
  switch (kind) {
    case TH_OP_reduce_sum: return th_arena_printf(g->a, dtype == TH_DTYPE_bool ? "%s |= %s;" : "%s += %s;", acc, x);
    case TH_OP_reduce_prod: return th_arena_printf(g->a, "%s *= %s;", acc, x);
    case TH_OP_reduce_max: return th_arena_printf(g->a, "%s = TH_MAX(%s, %s);", acc, acc, x);
    case TH_OP_reduce_min: return th_arena_printf(g->a, "%s = TH_MIN(%s, %s);", acc, acc, x);
    case TH_OP_reduce_any: return th_arena_printf(g->a, "%s |= (%s != 0);", acc, x);
    default: return th_arena_printf(g->a, "%s &= (%s != 0);", acc, x);
  }
}

/* ---- index maps ---- */

static const char *reshaped(th_gen *g, const th_op *op, const char *const *index) {
  th_value x = op->operands[0];
  const th_type *from = th_type_of(g->t, x), *to = th_type_of(g->t, op->result);
  const char *inner[TH_MAX_RANK];
  uint32_t i = 0, k = 0;
  for (; i < from->rank; i++) { /* only dimensions of size 1 come and go: names stay */
    if (th_dim_is(g->c, from->dims[i], 1)) {
      inner[i] = "0";
      continue;
    }
    while (k < to->rank && th_dim_is(g->c, to->dims[k], 1)) k++;
    if (k == to->rank || to->dims[k] != from->dims[i]) break;
    inner[i] = index[k++];
  }
  if (i == from->rank) return th_gen_element(g, x, inner);
  const char *rest = th_gen_index(g, linear(g, to->dims, to->rank, index));
  for (i = from->rank; i-- > 0;) {
    const char *size = th_gen_dim(g, from->dims[i]);
    inner[i] = i ? th_gen_index(g, th_arena_printf(g->a, "%s %% %s", rest, size)) : rest;
    if (i) rest = th_gen_index(g, th_arena_printf(g->a, "%s / %s", rest, size));
  }
  return th_gen_element(g, x, inner);
}

/* A branch: "v" of `dtype` is the element of `x` at `inner` where `condition` holds. */
static void branch(th_gen *g, const char *name, const char *head, th_value x, const char *const *inner) {
  size_t mark = th_gen_mark(g);
  th_gen_open(g, "%s", head);
  g->guards++;
  th_gen_line(g, "%s = %s;", name, th_gen_element(g, x, inner));
  g->guards--;
  th_gen_close(g);
  th_gen_forget(g, mark);
}

static const char *padded(th_gen *g, const th_op *op, const char *const *index) {
  const th_type *from = th_type_of(g->t, op->operands[0]);
  const char *inner[TH_MAX_RANK];
  th_strbuf in = th_strbuf_make(g->a);
  const th_attr *low = th_attr_get(op, "low"), *interior = th_attr_get(op, "interior");
  const char *fill = th_gen_element(g, op->operands[1], NULL);
  for (uint32_t i = 0; i < from->rank; i++) {
    const char *q = th_gen_index(g, th_arena_printf(g->a, "%s - %s", index[i], th_gen_dim(g, low->ints[i])));
    bool dense = th_dim_is(g->c, interior->ints[i], 0);
    th_dim step = th_dim_add(g->c, interior->ints[i], th_dim_const(g->c, 1));
    th_strbuf_printf(&in, "%s%s >= 0", in.length ? " && " : "", q);
    if (!dense) {
      th_strbuf_printf(&in, " && %s %% %s == 0", q, th_gen_dim(g, step));
      q = th_gen_index(g, th_arena_printf(g->a, "%s / %s", q, th_gen_dim(g, step)));
    }
    th_strbuf_printf(&in, " && %s < %s", q, th_gen_dim(g, from->dims[i]));
    inner[i] = q;
  }
  const char *name = th_gen_name(g, "v");
  th_gen_line(g, "%s %s = %s;", th_gen_ctype(from->dtype), name, fill);
  branch(g, name, in.length ? th_arena_printf(g->a, "if (%s)", th_strbuf_text(&in)) : "", op->operands[0], inner);
  return name;
}

static const char *concatenated(th_gen *g, const th_op *op, const char *const *index) {
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim"), rank = th_type_of(g->t, op->result)->rank;
  const char *inner[TH_MAX_RANK], *name = th_gen_name(g, "v");
  th_dim begin = th_dim_const(g->c, 0);
  th_gen_line(g, "%s %s;", th_gen_ctype(th_type_of(g->t, op->result)->dtype), name);
  for (uint32_t k = 0; k < op->n_operands; k++) {
    th_dim end = th_dim_add(g->c, begin, th_type_of(g->t, op->operands[k])->dims[dim]);
    for (uint32_t i = 0; i < rank; i++) inner[i] = index[i];
    inner[dim] = th_arena_printf(g->a, "(%s - %s)", index[dim], th_gen_dim(g, begin));
    const char *head = k + 1 == op->n_operands ? k ? "else" : "" : th_arena_printf(g->a, "%sif (%s < %s)", k ? "else " : "", index[dim], th_gen_dim(g, end));
    branch(g, name, head, op->operands[k], inner);
    begin = end;
  }
  return name;
}

/* The index that element `index` of `indices` is, checked against `size`; out of range is noted, and 0 taken. */
static const char *checked_index(th_gen *g, th_value indices, const char *const *index, th_dim size) {
  const char *i = th_gen_element(g, indices, index), *n = th_gen_dim(g, size), *where = th_arena_printf(g->a, "%s<%s", i, n);
  for (size_t k = g->n_memos; k-- > 0;)
    if (g->memos[k].value == indices && !strcmp(g->memos[k].index, where)) return g->memos[k].name;
  return th_gen_remember(g, indices, where, define(g, "int64_t", "q", th_arena_printf(g->a, "(uint64_t)%s < (uint64_t)%s ? %s : (th_bad |= 1, 0)", i, n, i)));
}

static const char *taken(th_gen *g, const th_op *op, const char *const *index) {
  const th_type *x = th_type_of(g->t, op->operands[0]), *indices = th_type_of(g->t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  const char *inner[TH_MAX_RANK];
  if (op->kind == TH_OP_take_along) {
    for (uint32_t i = 0; i < x->rank; i++) inner[i] = index[i];
    inner[dim] = checked_index(g, op->operands[1], index, x->dims[dim]);
    return th_gen_element(g, op->operands[0], inner);
  }
  for (uint32_t i = 0; i < dim; i++) inner[i] = index[i];
  for (uint32_t i = dim + 1; i < x->rank; i++) inner[i] = index[i + indices->rank - 1];
  inner[dim] = checked_index(g, op->operands[1], index + dim, x->dims[dim]);
  return th_gen_element(g, op->operands[0], inner);
}

static const char *window_sum(th_gen *g, const th_op *op, const char *const *index) {
  const th_type *x = th_type_of(g->t, op->operands[0]);
  const th_attr *kernel = th_attr_get(op, "kernel"), *stride = th_attr_get(op, "stride"), *padding = th_attr_get(op, "padding"), *dilation = th_attr_get(op, "dilation");
  uint32_t n = kernel->count, first = x->rank - n;
  const char *inner[TH_MAX_RANK], *acc = th_gen_name(g, "a");
  bool to_largest = op->kind == TH_OP_window_max_grad, grad = op->kind == TH_OP_window_sum_grad || to_largest;
  const th_type *result = th_type_of(g->t, op->result);
  const char *here = to_largest ? th_gen_index(g, linear(g, result->dims + first, n, index + first)) : NULL;
  size_t mark = th_gen_mark(g);
  th_gen_line(g, "%s %s = 0;", th_gen_ctype(x->dtype), acc);
  for (uint32_t i = 0; i < first; i++) inner[i] = index[i];
  for (uint32_t i = 0; i < n; i++) {
    const char *k = th_gen_for(g, "k", kernel->ints[i]), *q;
    if (!grad) {
      q = th_gen_index(g, th_arena_printf(g->a, "%s * %s + %s * %s - %s", index[first + i], th_gen_dim(g, stride->ints[i]), k, th_gen_dim(g, dilation->ints[i]), th_gen_dim(g, padding->ints[i])));
    } else { /* the outputs whose window holds this element */
      const char *p = th_gen_index(g, th_arena_printf(g->a, "%s + %s - %s * %s", index[first + i], th_gen_dim(g, padding->ints[i]), k, th_gen_dim(g, dilation->ints[i])));
      th_gen_line(g, "if (%s < 0 || %s %% %s) continue;", p, p, th_gen_dim(g, stride->ints[i]));
      q = th_gen_index(g, th_arena_printf(g->a, "%s / %s", p, th_gen_dim(g, stride->ints[i])));
    }
    th_gen_line(g, "if (%s < 0 || %s >= %s) continue;", q, q, th_gen_dim(g, x->dims[first + i]));
    inner[first + i] = q;
  }
  if (to_largest) th_gen_line(g, "if (%s != %s) continue;", th_gen_element(g, op->operands[1], inner), here);
  th_gen_line(g, "%s += %s;", acc, th_gen_element(g, op->operands[0], inner));
  for (uint32_t i = 0; i < n; i++) th_gen_close(g);
  th_gen_forget(g, mark);
  return acc;
}

/* A contraction element by element: what no library takes (integers). */
static const char *contraction(th_gen *g, const th_op *op, const char *const *index) {
  const th_attr *attrs[4] = {th_attr_get(op, "lhs_batch"), th_attr_get(op, "rhs_batch"), th_attr_get(op, "lhs_contract"), th_attr_get(op, "rhs_contract")};
  const th_type *lhs = th_type_of(g->t, op->operands[0]), *rhs = th_type_of(g->t, op->operands[1]);
  const char *l[TH_MAX_RANK] = {0}, *r[TH_MAX_RANK] = {0}, *acc = th_gen_name(g, "a");
  uint32_t next = 0;
  int64_t d, e;
  for (uint32_t i = 0; i < attrs[0]->count; i++, next++) {
    th_dim_is_const(g->c, attrs[0]->ints[i], &d);
    th_dim_is_const(g->c, attrs[1]->ints[i], &e);
    l[d] = r[e] = index[next];
  }
  th_gen_line(g, "%s %s = 0;", th_gen_ctype(lhs->dtype), acc);
  bool contracted_l[TH_MAX_RANK] = {0}, contracted_r[TH_MAX_RANK] = {0};
  for (uint32_t i = 0; i < attrs[2]->count; i++) {
    th_dim_is_const(g->c, attrs[2]->ints[i], &d);
    th_dim_is_const(g->c, attrs[3]->ints[i], &e);
    contracted_l[d] = contracted_r[e] = true;
  }
  for (uint32_t i = 0; i < lhs->rank; i++)
    if (!l[i] && !contracted_l[i]) l[i] = index[next++];
  for (uint32_t i = 0; i < rhs->rank; i++)
    if (!r[i] && !contracted_r[i]) r[i] = index[next++];
  size_t mark = th_gen_mark(g);
  for (uint32_t i = 0; i < attrs[2]->count; i++) {
    th_dim_is_const(g->c, attrs[2]->ints[i], &d);
    th_dim_is_const(g->c, attrs[3]->ints[i], &e);
    l[d] = r[e] = th_gen_for(g, "k", lhs->dims[d]);
  }
  const char *x = th_gen_element(g, op->operands[0], l), *y = th_gen_element(g, op->operands[1], r);
  th_gen_line(g, "%s += %s * %s;", acc, x, y);
  for (uint32_t i = 0; i < attrs[2]->count; i++) th_gen_close(g);
  th_gen_forget(g, mark);
  return acc;
}

static const char *mapped(th_gen *g, const th_op *op, const char *const *index) {
  th_value x = op->n_operands ? op->operands[0] : TH_NO_VALUE;
  uint32_t rank = x == TH_NO_VALUE ? 0 : th_type_of(g->t, x)->rank;
  const char *inner[TH_MAX_RANK];
  int64_t d;
  switch (op->kind) {
    case TH_OP_broadcast: {
      const th_attr *dims = th_attr_get(op, "dims");
      for (uint32_t i = 0; i < rank; i++) {
        th_dim_is_const(g->c, dims->ints[i], &d);
        inner[i] = th_dim_is(g->c, th_type_of(g->t, x)->dims[i], 1) ? "0" : index[d];
      }
      return th_gen_element(g, x, inner);
    }
    case TH_OP_transpose: {
      const th_attr *p = th_attr_get(op, "permutation");
      for (uint32_t i = 0; i < rank; i++) {
        th_dim_is_const(g->c, p->ints[i], &d);
        inner[d] = index[i];
      }
      return th_gen_element(g, x, inner);
    }
    case TH_OP_slice: {
      const th_attr *start = th_attr_get(op, "start"), *stride = th_attr_get(op, "stride");
      for (uint32_t i = 0; i < rank; i++) {
        bool from0 = th_dim_is(g->c, start->ints[i], 0), by1 = th_dim_is(g->c, stride->ints[i], 1);
        inner[i] = from0 && by1 ? index[i] : th_arena_printf(g->a, "(%s * %s + %s)", index[i], th_gen_dim(g, stride->ints[i]), th_gen_dim(g, start->ints[i]));
      }
      return th_gen_element(g, x, inner);
    }
    case TH_OP_reverse:
      for (uint32_t i = 0; i < rank; i++)
        inner[i] = th_gen_reduces(g->c, op, i) ? th_arena_printf(g->a, "(%s - 1 - %s)", th_gen_dim(g, th_type_of(g->t, x)->dims[i]), index[i]) : index[i];
      return th_gen_element(g, x, inner);
    case TH_OP_reshape: return reshaped(g, op, index);
    case TH_OP_pad: return padded(g, op, index);
    case TH_OP_concat: return concatenated(g, op, index);
    case TH_OP_take: case TH_OP_take_along: return taken(g, op, index);
    case TH_OP_window_sum: case TH_OP_window_sum_grad: case TH_OP_window_max_grad: return window_sum(g, op, index);
    case TH_OP_dot: return contraction(g, op, index);
    default: return NULL;
  }
}

/* x as a narrow float, and its bits, which a store takes as they are. */
static const char *rounded(th_gen *g, th_dtype dtype, const char *x) {
  const char *bits = define(g, "uint16_t", "b", th_arena_printf(g->a, "%s((float)%s)", dtype == TH_DTYPE_bf16 ? "th_store_bf16" : "th_store_f16", x));
  const char *name = th_gen_variable(g, dtype, th_arena_printf(g->a, "%s(%s)", dtype == TH_DTYPE_bf16 ? "th_load_bf16" : "th_load_f16", bits));
  th_memo raw = {(th_value)dtype, bits, name};
  TH_PUSH(g->a, g->raws, g->n_raws, g->raws_capacity, raw);
  return name;
}

/* An index against a 64-bit integer, compared as indices are: what is no index equals none. NULL where `op` is something else. */
static const char *index_equals(th_gen *g, const th_op *op, const char *const *index) {
  if (th_type_of(g->t, op->operands[0])->dtype != TH_DTYPE_i64 || strcmp(g->index_type, "int")) return NULL;
  for (int k = 0; k < 2; k++) {
    const th_op *iota = g->t->values[op->operands[k]].def;
    if (!iota || iota->kind != TH_OP_iota) continue;
    const char *other = th_gen_element(g, op->operands[1 - k], index);
    const char *narrow = th_gen_index(g, th_arena_printf(g->a, "(uint64_t)%s < 2147483647u ? (int)%s : -1", other, other));
    return th_arena_printf(g->a, "(uint8_t)(%s == %s)", index[th_attr_int(iota, g->c, "dim")], narrow);
  }
  return NULL;
}

const char *th_gen_element(th_gen *g, th_value v, const char *const *index) {
  if (g->status) return "0";
  const th_type *type = th_type_of(g->t, v);
  const char *where = th_gen_key(g, type, index);
  for (size_t i = g->n_memos; i-- > 0;)
    if (g->memos[i].value == v && !strcmp(g->memos[i].index, where)) return g->memos[i].name;
  const th_op *op = g->t->values[v].def;
  if (!op) return th_gen_remember(g, v, where, g->load(g, g->t->values[v].index, index));
  if (op->kind == TH_OP_const) return constant(g, op, type->dtype);
  if (op->kind == TH_OP_iota) {
    int64_t dim = th_attr_int(op, g->c, "dim");
    return th_gen_remember(g, v, where, th_gen_variable(g, type->dtype, th_arena_printf(g->a, "(%s)%s", th_gen_ctype(type->dtype), index[dim])));
  }
  if (op->kind == TH_OP_rank) return th_gen_remember(g, v, where, th_gen_variable(g, type->dtype, "context->rank"));
  if (op->kind == TH_OP_uniform) {
    const char *seed = th_gen_element(g, op->operands[0], NULL), *offset = th_gen_element(g, op->operands[1], NULL);
    return th_gen_remember(g, v, where, th_gen_variable(g, type->dtype, th_arena_printf(g->a, "%s((uint64_t)%s, (uint64_t)%s, %s, (uint64_t)(%s))", type->dtype == TH_DTYPE_f64 ? "th_uniform" : "th_uniform_f",
                                         seed, offset, th_gen_dim(g, th_attr_get(op, "tag")->i), linear(g, type->dims, type->rank, index))));
  }
  if (th_op_is_reduction(op)) return th_gen_remember(g, v, where, g->reduce(g, op, index));
  if (th_op_spec_get(op->kind)->traits & TH_POINTWISE) {
    const char *x[3], *text = NULL;
    if (g->narrow_indices && op->kind == TH_OP_eq) text = index_equals(g, op, index);
    for (uint32_t i = 0; i < op->n_operands && !text; i++) x[i] = th_gen_element(g, op->operands[i], index);
    if (!text && g->narrow_indices && op->kind == TH_OP_convert && (type->dtype == TH_DTYPE_bf16 || type->dtype == TH_DTYPE_f16) && th_type_of(g->t, op->operands[0])->dtype != type->dtype)
      return th_gen_remember(g, v, where, rounded(g, type->dtype, x[0]));
    if (!text) text = pointwise(g, op, x);
    if (text) return th_gen_remember(g, v, where, th_gen_variable(g, type->dtype, text));
  }
  const char *name = mapped(g, op, index);
  if (name) return th_gen_remember(g, v, where, name);
  th_gen_fail(g, TH_ERROR(UNIMPLEMENTED, "op %s cannot stand in a generated kernel", th_op_name(op->kind)));
  return "0";
}

void th_gen_store(th_gen *g, uint32_t k, const char *const *index, const char *name) {
  th_value v = g->op->result + k;
  const th_type *type = th_type_of(g->t, v);
  const char *offset = g->flat && type->rank ? g->flat : th_gen_offset(g, type, g->t->values[v].strides, index);
  th_gen_line(g, "o%u[%s] = %s;", k, offset, th_gen_store_text(g, type->dtype, name));
}

void th_gen_put(th_gen *g, th_value v, const char *const *index, const char *name) {
  for (uint32_t k = 0; k < g->body->n_outputs; k++)
    if (g->body->outputs[k] == v) th_gen_store(g, k, index, name);
}

void th_gen_hoist(th_gen *g, const th_type *shape, const char *const *index, bool inputs_only) {
  for (uint32_t i = 0; i < g->body->n_inputs; i++)
    if (th_type_same_shape(th_type_of(g->t, g->body->inputs[i]), shape)) th_gen_element(g, g->body->inputs[i], index);
  for (size_t i = 0; i < g->body->n_ops && !inputs_only; i++) {
    const th_op *op = g->body->ops[i];
    if (op->kind != TH_OP_const && th_type_same_shape(th_type_of(g->t, op->result), shape)) th_gen_element(g, op->result, index);
  }
}
