#include "executors/cublaslt/cublaslt.h"

#include "executors/run/contraction.h"
#include "ir/passes/plan.h"

enum { WORKSPACE = 32 << 20 /* bytes: what cuBLAS itself takes on Hopper */ };

static bool takes_dtype(th_dtype d) { return d == TH_DTYPE_f32 || d == TH_DTYPE_f64 || d == TH_DTYPE_bf16 || d == TH_DTYPE_f16; }

static th_dim *append(th_dim *at, const th_attr *a) {
  for (uint32_t i = 0; i < a->count; i++) *at++ = a->ints[i];
  return at;
}

static bool library(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) {
  static const char *const lists[] = {"lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract"};
  th_context *c = t->context;
  if (op->kind != TH_OP_dot) return false;
  th_dtype d = th_type_of(t, op->operands[0])->dtype;
  if (!takes_dtype(d) || th_type_of(t, op->operands[1])->dtype != d || th_type_of(t, op->result)->dtype != d) return false;
  for (uint32_t i = 0; i < th_type_of(t, op->operands[0])->rank; i++)
    if (th_dim_is(c, th_type_of(t, op->operands[0])->dims[i], 0)) return false; /* nothing is contracted: a kernel fills with zeros */
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 4 * TH_MAX_RANK + 4), *at = ints;
  *at++ = th_dim_const(c, th_attr_get(op, "lhs_batch")->count);
  *at++ = th_dim_const(c, th_attr_get(op, "lhs_contract")->count);
  for (int i = 0; i < 4; i++) at = append(at, th_attr_get(op, lists[i]));
  *at++ = th_dim_const(c, TH_EPILOGUE_NONE);
  *at++ = th_dim_const(c, options->tf32);
  *out = (th_library_call){.function = "cublaslt.matmul", .ints = ints, .n_ints = (uint32_t)(at - ints), .alpha = 1, .beta = 0};
  return true;
}

/* Sizes that are known only in a call are taken as some that meet what is known of them: layouts do not depend on which. */
static int64_t sample(const th_trace *t, th_dim dim, const int64_t *symbols) { return th_dim_eval(t->context, dim, symbols); }

static const int64_t *sample_symbols(const th_trace *t) {
  static const int64_t primes[] = {37, 41, 43, 47, 53, 59, 61, 67};
  uint32_t n = th_symbol_count(t->context);
  int64_t *out = TH_ARENA_ARRAY(th_context_arena(t->context), int64_t, n + 1);
  for (uint32_t i = 0; i < n; i++) {
    const th_symbol *s = th_symbol_get(t->context, i);
    int64_t step = s->multiple > 0 ? s->multiple : 1, value = primes[i % 8] * step;
    if (value < s->min) value = (s->min + step - 1) / step * step;
    if (s->max >= 0 && value > s->max) value = s->max / step * step;
    out[i] = value;
  }
  return out;
}

static void view_of(const th_trace *t, th_value v, const th_dim *strides, const int64_t *symbols, th_view *out) {
  const th_type *type = th_type_of(t, v);
  if (!strides) strides = th_contiguous_strides(t->context, type->dims, type->rank);
  *out = (th_view){.dtype = type->dtype, .rank = type->rank};
  for (uint32_t i = 0; i < type->rank; i++) {
    out->dims[i] = sample(t, type->dims[i], symbols);
    out->strides[i] = sample(t, strides[i], symbols);
  }
}

static bool library_takes(const th_trace *t, const th_op *op, uint32_t operand, const th_dim *strides) {
  const int64_t *symbols = sample_symbols(t);
  const th_attr *list = th_attr_get(op, "ints");
  th_view operands[4], results[2];
  int64_t ints[4 * TH_MAX_RANK + 4];
  if (op->n_operands > 4 || op->n_results > 2 || th_type_of(t, op->operands[operand])->rank > TH_RUN_RANK) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) view_of(t, op->operands[k], k == operand ? strides : NULL, symbols, &operands[k]);
  for (uint32_t k = 0; k < op->n_results; k++) view_of(t, op->result + k, NULL, symbols, &results[k]);
  for (uint32_t i = 0; i < list->count; i++) ints[i] = sample(t, list->ints[i], symbols);
  return th_matmul_takes(ints, list->count, operands, op->n_operands, results, op->n_results);
}

static th_dim scratch(const th_options *options, const th_trace *t, const th_op *op) {
  (void)options, (void)op;
  return th_dim_const(t->context, WORKSPACE);
}

const th_executor th_executor_cublaslt = {.name = "cublaslt", .library = library, .library_takes = library_takes, .scratch = scratch};
