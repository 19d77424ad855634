/* Scalar programs (executors/scalar.h): decoded and checked at load, run on the host. What no component changes (const, int) is set
 * once a call. */
#include "executors/scalar.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "executors/run/run.h"
#include "ir/base/half.h"

#define BAD(...) TH_ERROR(INVALID_ARGUMENT, "plan: " __VA_ARGS__)

typedef union cell { double f; int64_t i; } cell; /* floats: f; bools and integers: i (u64: its bits) */
enum { CLASS_F32, CLASS_F64, CLASS_INT, CLASSES }; /* how an op computes */
#define KEY(name, class) (TH_SCALAR_##name * CLASSES + CLASS_##class)

typedef struct op {
  uint16_t key, to, a, b, c;
  uint8_t from, result; /* dtypes */
  bool narrow;          /* the result is rounded, or wraps */
} op;
typedef struct preset { uint16_t to; uint8_t dtype; bool is_int; uint32_t expr; cell value; } preset;

struct th_scalars {
  uint32_t n_components, n_inputs, n_outputs, n_ops, n_presets;
  uint16_t *outputs; /* registers */
  uint8_t *dtypes;   /* by register */
  op *ops;
  preset *presets;
};

static int class_of(th_dtype d) { return !th_dtype_is_float(d) ? CLASS_INT : d == TH_DTYPE_f64 ? CLASS_F64 : CLASS_F32; }

static cell rounded(th_dtype dtype, cell x) {
  switch (dtype) {
    case TH_DTYPE_f32: return (cell){.f = (float)x.f};
    case TH_DTYPE_f16: return (cell){.f = th_from_f16(th_to_f16((float)x.f))};
    case TH_DTYPE_bf16: return (cell){.f = th_from_bf16(th_to_bf16((float)x.f))};
    case TH_DTYPE_bool: return (cell){.i = x.i != 0};
    case TH_DTYPE_u8: return (cell){.i = (uint8_t)x.i};
    case TH_DTYPE_i8: return (cell){.i = (int8_t)x.i};
    case TH_DTYPE_i16: return (cell){.i = (int16_t)x.i};
    case TH_DTYPE_i32: return (cell){.i = (int32_t)x.i};
    case TH_DTYPE_u32: return (cell){.i = (uint32_t)x.i};
    default: return x;
  }
}

static cell converted(th_dtype to, th_dtype from, cell x) {
  if (th_dtype_is_float(from)) {
    if (to == TH_DTYPE_bool) return (cell){.i = x.f != 0};
    if (!th_dtype_is_float(to)) { /* toward zero; what does not fit is as x86 has it */
      bool fits = x.f > -9223372036854775809.0 && x.f < 9223372036854775808.0;
      return rounded(to, (cell){.i = fits ? (int64_t)x.f : INT64_MIN});
    }
  } else if (th_dtype_is_float(to)) {
    x.f = from == TH_DTYPE_u64 ? (double)(uint64_t)x.i : (double)x.i;
  }
  return rounded(to, x);
}

static cell load(th_dtype dtype, const void *at) {
  union { uint8_t u8; int8_t i8; int16_t i16; uint16_t u16; int32_t i32; uint32_t u32; int64_t i64; float f32; double f64; } m;
  memcpy(&m, at, th_dtype_size(dtype));
  switch (dtype) {
    case TH_DTYPE_bool: return (cell){.i = m.u8 != 0};
    case TH_DTYPE_u8: return (cell){.i = m.u8};
    case TH_DTYPE_i8: return (cell){.i = m.i8};
    case TH_DTYPE_i16: return (cell){.i = m.i16};
    case TH_DTYPE_i32: return (cell){.i = m.i32};
    case TH_DTYPE_u32: return (cell){.i = m.u32};
    case TH_DTYPE_f16: return (cell){.f = th_from_f16(m.u16)};
    case TH_DTYPE_bf16: return (cell){.f = th_from_bf16(m.u16)};
    case TH_DTYPE_f32: return (cell){.f = m.f32};
    case TH_DTYPE_f64: return (cell){.f = m.f64};
    default: return (cell){.i = m.i64};
  }
}

static void store(th_dtype dtype, cell x, void *at) {
  float f = (float)x.f;
  uint16_t h;
  switch (dtype) {
    case TH_DTYPE_f32: memcpy(at, &f, 4); break;
    case TH_DTYPE_f16: h = th_to_f16(f), memcpy(at, &h, 2); break;
    case TH_DTYPE_bf16: h = th_to_bf16(f), memcpy(at, &h, 2); break;
    default: memcpy(at, &x, th_dtype_size(dtype)); /* f64; of integers the low bytes: little-endian machines */
  }
}
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "store() writes the first bytes of an int64_t"
#endif

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

#define FLOATS(name, in_f32, in_f64)             \
  case KEY(name, F32): z.f = (in_f32); break;    \
  case KEY(name, F64): z.f = (in_f64); break;
#define BOTH(name, expression) FLOATS(name, ((expression)), ((expression)))
#define INTS(name, expression) case KEY(name, INT): z.i = (expression); break;
#define TESTS(name, op)                                               \
  case KEY(name, F32):                                                \
  case KEY(name, F64): z.i = x.f op y.f; break;                       \
  case KEY(name, INT): z.i = compare_ints(dtype, x.i, y.i) op 0; break;

/* False: integer division by zero. */
static bool run_op(const op *o, cell *r) {
  cell x = r[o->a], y = r[o->b], z = x;
  float p = (float)x.f, q = (float)y.f;
  uint64_t a = (uint64_t)x.i, b = (uint64_t)y.i;
  th_dtype dtype = (th_dtype)o->from;
  bool is_signed = dtype != TH_DTYPE_bool && dtype != TH_DTYPE_u8 && dtype != TH_DTYPE_u32 && dtype != TH_DTYPE_u64, u64 = dtype == TH_DTYPE_u64, is_bool = dtype == TH_DTYPE_bool;
  switch (o->key) {
    FLOATS(neg, -p, -x.f) INTS(neg, (int64_t)(0 - a))
    FLOATS(abs, fabsf(p), fabs(x.f)) INTS(abs, is_signed && x.i < 0 ? (int64_t)(0 - a) : x.i)
    BOTH(sign, isnan(x.f) ? x.f : (x.f > 0) - (x.f < 0)) INTS(sign, is_signed ? (x.i > 0) - (x.i < 0) : x.i != 0)
    FLOATS(exp, expf(p), exp(x.f)) FLOATS(exp2, exp2f(p), exp2(x.f)) FLOATS(expm1, expm1f(p), expm1(x.f))
    FLOATS(log, logf(p), log(x.f)) FLOATS(log2, log2f(p), log2(x.f)) FLOATS(log1p, log1pf(p), log1p(x.f))
    FLOATS(sqrt, sqrtf(p), sqrt(x.f)) FLOATS(rsqrt, 1 / sqrtf(p), 1 / sqrt(x.f)) FLOATS(reciprocal, 1 / p, 1 / x.f)
    FLOATS(sin, sinf(p), sin(x.f)) FLOATS(cos, cosf(p), cos(x.f)) FLOATS(tanh, tanhf(p), tanh(x.f))
    FLOATS(floor, floorf(p), floor(x.f)) FLOATS(ceil, ceilf(p), ceil(x.f)) FLOATS(round, nearbyintf(p), nearbyint(x.f)) FLOATS(trunc, truncf(p), trunc(x.f))
    INTS(floor, x.i) INTS(ceil, x.i) INTS(round, x.i) INTS(trunc, x.i)
    case KEY(isnan, F32):
    case KEY(isnan, F64): z.i = isnan(x.f) != 0; break;
    INTS(isnan, 0)
    case KEY(isfinite, F32):
    case KEY(isfinite, F64): z.i = isfinite(x.f) != 0; break;
    INTS(isfinite, 1)
    INTS(not, is_bool ? !x.i : ~x.i)
    case KEY(convert, F32):
    case KEY(convert, F64):
    case KEY(convert, INT): z = converted((th_dtype)o->result, dtype, x); break;
    FLOATS(add, p + q, x.f + y.f) INTS(add, is_bool ? x.i | y.i : (int64_t)(a + b))
    FLOATS(sub, p - q, x.f - y.f) INTS(sub, (int64_t)(a - b))
    FLOATS(mul, p * q, x.f * y.f) INTS(mul, (int64_t)(a * b))
    FLOATS(div, p / q, x.f / y.f)
    case KEY(div, INT):
      if (!y.i) return false;
      z.i = u64 ? (int64_t)(a / b) : y.i == -1 ? (int64_t)(0 - a) : x.i / y.i;
      break;
    FLOATS(rem, fmodf(p, q), fmod(x.f, y.f))
    case KEY(rem, INT):
      if (!y.i) return false;
      z.i = u64 ? (int64_t)(a % b) : y.i == -1 ? 0 : x.i % y.i;
      break;
    FLOATS(pow, powf(p, q), pow(x.f, y.f)) INTS(pow, int_pow(x.i, y.i))
    BOTH(max, isnan(x.f) || x.f > y.f ? x.f : y.f) INTS(max, compare_ints(dtype, x.i, y.i) > 0 ? x.i : y.i)
    BOTH(min, isnan(x.f) || x.f < y.f ? x.f : y.f) INTS(min, compare_ints(dtype, x.i, y.i) < 0 ? x.i : y.i)
    INTS(and, x.i & y.i) INTS(or, x.i | y.i) INTS(xor, x.i ^ y.i)
    TESTS(eq, ==) TESTS(ne, !=) TESTS(lt, <) TESTS(le, <=) TESTS(gt, >) TESTS(ge, >=)
    case KEY(select, F32):
    case KEY(select, F64):
    case KEY(select, INT): z = x.i ? y : r[o->c]; break;
    default: break;
  }
  r[o->to] = o->narrow ? rounded((th_dtype)o->result, z) : z;
  return true;
}

th_status th__scalars_run(const th_run *run, size_t i) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  const th_scalars *s = run->plan->scalars[i];
  const uint32_t *in = p->instr_tensors + p->instr_tensors_begin[i], *out = in + (size_t)s->n_components * s->n_inputs;
  cell r[TH_SCALAR_REGISTERS];
  for (uint32_t k = 0; k < s->n_presets; k++) {
    const preset *q = &s->presets[k];
    r[q->to] = q->is_int ? converted((th_dtype)q->dtype, TH_DTYPE_i64, (cell){.i = run->values[q->expr]}) : q->value;
  }
  for (uint32_t c = 0; c < s->n_components; c++, in += s->n_inputs, out += s->n_outputs) {
    for (uint32_t k = 0; k < s->n_inputs; k++) r[k] = load((th_dtype)s->dtypes[k], th__run_address(run, in[k]));
    for (uint32_t k = 0; k < s->n_ops; k++)
      if (!run_op(&s->ops[k], r)) return TH_ERROR(INVALID_ARGUMENT, "integer division by zero (instruction %zu, captured op %d)", i, (int)p->instr_op[i]);
    for (uint32_t k = 0; k < s->n_outputs; k++) store((th_dtype)s->dtypes[s->outputs[k]], r[s->outputs[k]], th__run_address(run, out[k]));
  }
  return TH_OK;
}

/* ---- decoding ---- */

typedef struct reader {
  const Thunder__Wire__Plan *p;
  size_t instruction, n_ints, n_floats, n_extra;
  const uint32_t *ints;
} reader;

static th_status constant(const reader *r, size_t k, int64_t limit, const char *what, int64_t *out) {
  if (k >= r->n_ints || r->p->expr_kind[r->ints[k]] != TH_EXPR_CONST) return BAD("scalar program %zu has no constant %zu", r->instruction, k);
  *out = r->p->expr_a[r->ints[k]];
  return *out >= 0 && *out < limit ? TH_OK : BAD("scalar program %zu: %s is %" PRId64 ", want 0 to %" PRId64, r->instruction, what, *out, limit - 1);
}

static th_status tensor_dtype(const reader *r, uint32_t at, th_dtype *out) {
  const Thunder__Wire__Plan *p = r->p;
  uint32_t t = p->instr_tensors[p->instr_tensors_begin[r->instruction] + at];
  *out = th_dtype_from_wire((int)p->tensor_dtype[t]);
  if (p->tensor_dims_begin[t + 1] != p->tensor_dims_begin[t]) return BAD("scalar program %zu: tensor %u is not of rank 0", r->instruction, at);
  if (th_dtype_is_complex(*out) || *out == TH_DTYPE_f8e4m3 || *out == TH_DTYPE_f8e5m2) return BAD("scalar program %zu: tensor %u is of dtype %s", r->instruction, at, th_dtype_name(*out));
  return TH_OK;
}

static th_status decode_op(const reader *r, th_scalars *s, uint32_t k) {
  static const struct { const char *name; uint8_t operands; char of; } table[] = {
#define X(name, operands, of) {#name, operands, #of[0]},
      TH_SCALAR_OPS(X)
#undef X
  };
  int64_t code, from, to, operand[3];
  uint32_t self = s->n_inputs + k;
  size_t at = TH_SCALAR_HEAD + s->n_outputs + (size_t)k * TH_SCALAR_OP_INTS;
  TH_TRY(constant(r, at, TH_SCALAR_COUNT, "an opcode", &code));
  TH_TRY(constant(r, at + 1, 256, "a dtype", &from));
  TH_TRY(constant(r, at + 2, 256, "a dtype", &to));
  int64_t limit = code == TH_SCALAR_const ? (int64_t)r->n_floats : code == TH_SCALAR_int ? (int64_t)r->n_extra : self;
  for (int j = 0; j < 3; j++) {
    TH_TRY(constant(r, at + 3 + (size_t)j, j < table[code].operands || (j == 0 && code <= TH_SCALAR_int) ? limit : 1, "an operand", &operand[j]));
  }
  th_dtype a = th_dtype_from_wire((int)from), z = th_dtype_from_wire((int)to);
  if (z == TH_DTYPE_none || th_dtype_is_complex(z) || z == TH_DTYPE_f8e4m3 || z == TH_DTYPE_f8e5m2) return BAD("scalar program %zu: op %u gives dtype %" PRId64, r->instruction, k, to);
  s->dtypes[self] = (uint8_t)z;
  if (code <= TH_SCALAR_int) {
    preset *q = &s->presets[s->n_presets++];
    *q = (preset){.to = (uint16_t)self, .dtype = (uint8_t)z, .is_int = code == TH_SCALAR_int};
    if (q->is_int) q->expr = r->ints[r->n_ints - r->n_extra + (size_t)operand[0]];
    else q->value = converted(z, TH_DTYPE_f64, (cell){.f = r->p->instr_floats[r->p->instr_floats_begin[r->instruction] + operand[0]]});
    return TH_OK;
  }
  for (int j = 0; j < table[code].operands; j++) {
    th_dtype want = code == TH_SCALAR_select && j == 0 ? TH_DTYPE_bool : a, have = (th_dtype)s->dtypes[operand[j]];
    if (have != want) return BAD("scalar program %zu: op %u (%s) reads a %s as %s", r->instruction, k, table[code].name, th_dtype_name(have), th_dtype_name(want));
  }
  bool tests = code == TH_SCALAR_isnan || code == TH_SCALAR_isfinite || (code >= TH_SCALAR_eq && code <= TH_SCALAR_ge);
  if ((table[code].of == 'F' && !th_dtype_is_float(a)) || (table[code].of == 'I' && th_dtype_is_float(a)) || (code != TH_SCALAR_convert && z != (tests ? TH_DTYPE_bool : a)))
    return BAD("scalar program %zu: op %u (%s) of %s gives %s", r->instruction, k, table[code].name, th_dtype_name(a), th_dtype_name(z));
  s->ops[s->n_ops++] = (op){.key = (uint16_t)(code * CLASSES + class_of(a)), .to = (uint16_t)self, .a = (uint16_t)operand[0], .b = (uint16_t)operand[1], .c = (uint16_t)operand[2],
                            .from = (uint8_t)a, .result = (uint8_t)z, .narrow = z != TH_DTYPE_f64 && z != TH_DTYPE_f32 && z != TH_DTYPE_i64 && z != TH_DTYPE_u64};
  return TH_OK;
}

th_status th__scalars_decode(const Thunder__Wire__Plan *p, size_t i, th_scalars **out) {
  reader r = {.p = p, .instruction = i, .n_ints = p->instr_ints_begin[i + 1] - p->instr_ints_begin[i], .ints = p->instr_ints + p->instr_ints_begin[i],
              .n_floats = p->instr_floats_begin[i + 1] - p->instr_floats_begin[i]};
  uint32_t n_tensors = p->instr_tensors_begin[i + 1] - p->instr_tensors_begin[i];
  int64_t components, inputs, outputs, ops, output;
  TH_TRY(constant(&r, 0, (int64_t)n_tensors + 1, "n_components", &components));
  TH_TRY(constant(&r, 1, TH_SCALAR_REGISTERS + 1, "n_inputs", &inputs));
  TH_TRY(constant(&r, 2, (int64_t)n_tensors + 1, "n_outputs", &outputs));
  TH_TRY(constant(&r, 3, TH_SCALAR_REGISTERS + 1 - inputs, "n_ops", &ops));
  int64_t head = TH_SCALAR_HEAD + outputs + ops * TH_SCALAR_OP_INTS;
  if (head > (int64_t)r.n_ints || components * (inputs + outputs) != (int64_t)n_tensors || p->instr_outputs[i] != components * outputs)
    return BAD("scalar program %zu: %" PRId64 " components of %" PRId64 " inputs, %" PRId64 " outputs and %" PRId64 " ops do not fit %u tensors, %u of them outputs, and %zu ints", i, components,
               inputs, outputs, ops, n_tensors, p->instr_outputs[i], r.n_ints);
  r.n_extra = r.n_ints - (size_t)head;
  th_scalars *s = *out = calloc(1, sizeof *s);
  if (!s) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a scalar program");
  s->n_components = (uint32_t)components, s->n_inputs = (uint32_t)inputs, s->n_outputs = (uint32_t)outputs;
  s->outputs = calloc((size_t)outputs + 1, sizeof *s->outputs);
  s->dtypes = calloc((size_t)(inputs + ops) + 1, sizeof *s->dtypes);
  s->ops = calloc((size_t)ops + 1, sizeof *s->ops);
  s->presets = calloc((size_t)ops + 1, sizeof *s->presets);
  if (!s->outputs || !s->dtypes || !s->ops || !s->presets) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a scalar program");
  for (uint32_t k = 0; k < n_tensors - p->instr_outputs[i]; k++) {
    th_dtype dtype;
    TH_TRY(tensor_dtype(&r, k, &dtype));
    uint8_t *known = &s->dtypes[k % s->n_inputs];
    if (k < s->n_inputs) *known = (uint8_t)dtype;
    else if (*known != dtype) return BAD("scalar program %zu: input %u is of dtype %s in one component and %s in another", i, k % s->n_inputs, th_dtype_name(*known), th_dtype_name(dtype));
  }
  for (uint32_t k = 0; k < (uint32_t)ops; k++) TH_TRY(decode_op(&r, s, k));
  for (uint32_t k = 0; k < s->n_outputs; k++) {
    TH_TRY(constant(&r, TH_SCALAR_HEAD + k, inputs + ops, "an output's register", &output));
    s->outputs[k] = (uint16_t)output;
    for (uint32_t c = 0; c < s->n_components; c++) {
      th_dtype dtype;
      TH_TRY(tensor_dtype(&r, s->n_components * s->n_inputs + c * s->n_outputs + k, &dtype));
      if (dtype != s->dtypes[output]) return BAD("scalar program %zu: output %u of component %u is of dtype %s, its register of %s", i, k, c, th_dtype_name(dtype), th_dtype_name(s->dtypes[output]));
    }
  }
  return TH_OK;
}

void th__scalars_free(th_scalars *s) {
  if (!s) return;
  free(s->outputs);
  free(s->dtypes);
  free(s->ops);
  free(s->presets);
  free(s);
}
