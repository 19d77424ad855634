#include "executors/cublaslt/cublaslt.h"

#include "executors/run/contraction.h"
#include "ir/passes/plan.h"

enum { WORKSPACE = 32 << 20 /* bytes: what cuBLAS itself takes on Hopper */ };

static bool takes_dtype(th_dtype d) { return d == TH_DTYPE_f32 || d == TH_DTYPE_f64 || d == TH_DTYPE_bf16 || d == TH_DTYPE_f16; }

static bool is_half(th_dtype d) { return d == TH_DTYPE_bf16 || d == TH_DTYPE_f16; }

static bool call_of(const th_options *options, const th_trace *t, const th_op *op, th_matmul_epilogue epilogue, th_library_call *out) {
  th_context *c = t->context;
  if (op->kind != TH_OP_dot) return false;
  th_dtype d = th_type_of(t, op->operands[0])->dtype;
  if (!takes_dtype(d) || th_type_of(t, op->operands[1])->dtype != d || th_type_of(t, op->result)->dtype != d) return false;
  for (uint32_t i = 0; i < th_type_of(t, op->operands[0])->rank; i++)
    if (th_dim_is(c, th_type_of(t, op->operands[0])->dims[i], 0)) return false; /* nothing is contracted: a kernel fills with zeros */
  th_dim *ints = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 4 * TH_MAX_RANK + 4), *at = ints;
  at = th_append_dot(c, at, op);
  *at++ = th_dim_const(c, epilogue);
  *at++ = th_dim_const(c, options->tf32);
  *out = (th_library_call){.function = "cublaslt.matmul", .ints = ints, .n_ints = (uint32_t)(at - ints), .alpha = 1, .beta = 0};
  return true;
}

static bool library(const th_options *options, const th_trace *t, const th_op *op, th_library_call *out) { return call_of(options, t, op, TH_EPILOGUE_NONE, out); }

/* ---- epilogues ----
 * Those that cuBLASLt has kernels for. Sums of columns (bias gradients) it makes in kernels of its own (13.1 on H100), slower than ours. */

/* The product has one dimension of columns, the last, and no batch. */
static bool is_plain(const th_trace *t, const th_op *dot) {
  return !th_attr_get(dot, "lhs_batch")->count && th_type_of(t, dot->operands[1])->rank == th_attr_get(dot, "rhs_contract")->count + 1 && th_type_of(t, dot->result)->rank >= 2;
}

static bool is_tanh_gelu(const th_op *op, th_op_kind kind) { return op->kind == kind && th_attr_get(op, "approximate")->s[0] == 't'; }

/* A vector over the columns, in the product's dtype: the value that `op` adds to `product`; TH_NO_VALUE where it is no such thing. */
static th_value bias_of(const th_trace *t, const th_op *op, th_value product) {
  if (op->kind != TH_OP_add) return TH_NO_VALUE;
  const th_op *wide = t->values[op->operands[op->operands[0] == product]].def;
  if (!wide || wide->kind != TH_OP_broadcast) return TH_NO_VALUE;
  const th_type *bias = th_type_of(t, wide->operands[0]), *result = th_type_of(t, op->result);
  bool fits = bias->rank == 1 && bias->dims[0] == result->dims[result->rank - 1] && th_dim_is(t->context, th_attr_get(wide, "dims")->ints[0], result->rank - 1);
  return fits ? wide->operands[0] : TH_NO_VALUE;
}

static void take(th_absorbed *s, const th_op *op) { s->ops[s->n_ops++] = op; }

static bool with_bias(const th_trace *t, const th_users *users, const th_op *dot, th_matmul_epilogue *epilogue, th_absorbed *s) {
  const th_op *add = th_only_reader(users, dot->result), *gelu = NULL;
  th_value bias = add ? bias_of(t, add, dot->result) : TH_NO_VALUE;
  if (bias == TH_NO_VALUE) return false;
  const th_op *wide = t->values[add->operands[add->operands[0] == dot->result]].def;
  if (!th_only_reader(users, wide->result)) return false;
  take(s, dot);
  take(s, wide);
  take(s, add);
  s->operands[s->n_operands++] = bias;
  for (uint32_t i = 0; i < users->n_readers[add->result] && !gelu; i++)
    if (is_tanh_gelu(users->readers[add->result][i], TH_OP_torch_gelu)) gelu = users->readers[add->result][i];
  *epilogue = TH_EPILOGUE_BIAS;
  if (gelu && (users->n_readers[add->result] > 1 || users->leaves[add->result])) { /* what goes into gelu is kept: for its gradient */
    *epilogue = TH_EPILOGUE_BIAS_GELU;
    take(s, gelu);
    s->results[s->n_results++] = gelu->result;
  }
  s->results[s->n_results++] = add->result;
  return true;
}

static bool through_gelu(const th_trace *t, const th_users *users, const th_op *dot, th_matmul_epilogue *epilogue, th_absorbed *s) {
  const th_op *back = th_only_reader(users, dot->result);
  if (!back || !is_tanh_gelu(back, TH_OP_torch_gelu_backward) || back->operands[0] != dot->result) return false;
  if (!th_type_equal(th_type_of(t, back->operands[1]), th_type_of(t, dot->result)) || !th_type_equal(th_type_of(t, back->result), th_type_of(t, dot->result))) return false;
  take(s, dot);
  take(s, back);
  s->operands[s->n_operands++] = back->operands[1];
  s->results[s->n_results++] = back->result;
  *epilogue = TH_EPILOGUE_DGELU;
  return true;
}

/* Products of 16-bit numbers that are kept in f32, as a sum over parts of a gradient is: convert both, dot, and what is added to it. */
static bool into_f32(const th_trace *t, const th_users *users, const th_op *dot, th_matmul_epilogue *epilogue, th_absorbed *s) {
  th_dtype from = TH_DTYPE_none;
  for (int k = 0; k < 2; k++) {
    const th_op *convert = t->values[dot->operands[k]].def;
    if (!convert || convert->kind != TH_OP_convert || !th_only_reader(users, convert->result)) return false;
    th_dtype d = th_type_of(t, convert->operands[0])->dtype;
    if (!is_half(d) || (k && d != from)) return false;
    from = d;
    take(s, convert);
    s->operands[k] = convert->operands[0];
  }
  const th_op *add = th_only_reader(users, dot->result);
  take(s, dot);
  *epilogue = TH_EPILOGUE_NONE;
  s->results[s->n_results++] = dot->result;
  if (!add || add->kind != TH_OP_add) return true;
  th_value added = add->operands[add->operands[0] == dot->result];
  if (added > dot->result || (t->values[added].def && t->values[added].def->kind == TH_OP_broadcast)) return true; /* made later: another product takes this one's */
  take(s, add);
  s->operands[s->n_operands++] = added;
  s->results[0] = add->result;
  *epilogue = TH_EPILOGUE_ADD;
  return true;
}

static bool absorbs(const th_options *options, const th_trace *t, const th_users *users, const th_op *seed, th_absorbed *out) {
  th_matmul_epilogue epilogue;
  *out = (th_absorbed){.n_operands = 2};
  if (seed->kind != TH_OP_dot || !is_plain(t, seed)) return false;
  th_dtype d = th_type_of(t, seed->result)->dtype;
  if (d == TH_DTYPE_f32) return into_f32(t, users, seed, &epilogue, out) && call_of(options, t, seed, epilogue, &out->call);
  if (!is_half(d)) return false; /* gelu in these alone; f32 products stay bit for bit what they are */
  out->operands[0] = seed->operands[0];
  out->operands[1] = seed->operands[1];
  if (!with_bias(t, users, seed, &epilogue, out) && !through_gelu(t, users, seed, &epilogue, out)) return false;
  return call_of(options, t, seed, epilogue, &out->call);
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

static bool in_place(const th_trace *t, const th_op *op, uint32_t operand, uint32_t result) {
  const th_attr *ints = th_attr_get(op, "ints");
  return operand == 2 && result == 0 && th_dim_is(t->context, ints->ints[ints->count - 2], TH_EPILOGUE_ADD);
}

const th_executor th_executor_cublaslt = {.name = "cublaslt", .absorbs = absorbs, .library = library, .library_takes = library_takes, .in_place = in_place, .scratch = scratch};
