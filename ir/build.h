/* Builder: appends ops to a graph with types inferred, so that rules read like formulas.
 *
 * Errors are sticky: after the first failure every call does nothing and returns TH_NO_VALUE, and the status stands in
 * builder->status for whoever started the rule. Operands may be of unequal dtype or shape only where said.
 * Threads: thread-compatible. */
#ifndef THUNDER_IR_BUILD_H
#define THUNDER_IR_BUILD_H

#include "ir/trace.h"

typedef struct th_builder {
  th_trace *trace;
  uint32_t graph;
  th_status status;  /* the first failure; owned by whoever made the builder */
  bool no_grad;      /* stamped on new ops */
  th_dtype autocast; /* likewise */
  uint32_t origin;   /* likewise */
  bool scratch;      /* what is built only serves inference and is dropped */
} th_builder;

static inline th_builder th_builder_make(th_trace *trace, uint32_t graph) {
  return (th_builder){.trace = trace, .graph = graph, .origin = TH_NONE};
}
static inline th_context *th_ctx(const th_builder *b) { return b->trace->context; }

/* Infers and appends. `attrs` in spec order, NULL when the op has none; absent ones with a default are filled in.
 * Returns the op, NULL on failure. */
th_op *th_build(th_builder *b, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs);
/* The same, one result; attrs as an array. */
th_value th_build1(th_builder *b, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs);
/* Records a failure (once). */
void th_fail(th_builder *b, th_status status);
/* Result types of an op by its rule; `out_types` has room for `capacity`. For torch level ops the rule is the
 * lowering itself, run on a scratch trace. */
th_status th_infer(th_trace *trace, th_op_kind kind, const th_value *operands, uint32_t n_operands, const th_attr *attrs,
                   th_type *out_types, uint32_t capacity, uint32_t *out_count);
/* Fills defaults and checks kinds; `attrs` has spec length. */
th_status th_attrs_complete(th_context *context, th_op_kind kind, th_attr *attrs);

/* Lowers one op of level 1 into ops of lower or equal level, appended to `b`; results[] gets the values.
 * `in` are the operands in b's trace. UNIMPLEMENTED with the op's name when there is no rule. */
th_status th_lower_op(th_builder *b, const th_trace *source, const th_op *op, const th_value *in, th_value *results);

/* ---- Prims as functions. Pointwise ones want equal shapes and dtypes; th_b… broadcast (numpy rules) first. ---- */
#define TH_UNARY(name) static inline th_value th_##name(th_builder *b, th_value x) { return th_build1(b, TH_OP_##name, &x, 1, NULL); }
TH_UNARY(neg) TH_UNARY(abs) TH_UNARY(exp) TH_UNARY(log) TH_UNARY(log1p) TH_UNARY(expm1) TH_UNARY(sqrt) TH_UNARY(rsqrt)
TH_UNARY(sin) TH_UNARY(cos) TH_UNARY(tan) TH_UNARY(tanh) TH_UNARY(erf) TH_UNARY(floor) TH_UNARY(ceil) TH_UNARY(round) TH_UNARY(trunc)
TH_UNARY(sign) TH_UNARY(not) TH_UNARY(isfinite) TH_UNARY(isnan) TH_UNARY(exp2) TH_UNARY(log2) TH_UNARY(reciprocal)
TH_UNARY(asin) TH_UNARY(acos) TH_UNARY(atan) TH_UNARY(sinh) TH_UNARY(cosh) TH_UNARY(asinh) TH_UNARY(acosh) TH_UNARY(atanh)
#undef TH_UNARY
#define TH_BINARY(name)                                                                   \
  static inline th_value th_##name(th_builder *b, th_value x, th_value y) {                \
    return th_build1(b, TH_OP_##name, (th_value[]){x, y}, 2, NULL);                        \
  }
TH_BINARY(add) TH_BINARY(sub) TH_BINARY(mul) TH_BINARY(div) TH_BINARY(pow) TH_BINARY(max) TH_BINARY(min) TH_BINARY(rem)
TH_BINARY(atan2) TH_BINARY(and) TH_BINARY(or) TH_BINARY(xor) TH_BINARY(shl) TH_BINARY(shr)
TH_BINARY(eq) TH_BINARY(ne) TH_BINARY(lt) TH_BINARY(le) TH_BINARY(gt) TH_BINARY(ge)
#undef TH_BINARY
static inline th_value th_select(th_builder *b, th_value pred, th_value yes, th_value no) {
  return th_build1(b, TH_OP_select, (th_value[]){pred, yes, no}, 3, NULL);
}

th_value th_convert(th_builder *b, th_value x, th_dtype dtype);        /* x itself when it has the dtype (and is not weak) */
th_value th_const(th_builder *b, double value, th_dtype dtype);        /* rank 0 */
th_value th_const_dim(th_builder *b, th_dim value, th_dtype dtype);    /* rank 0, from an expression */
th_value th_full(th_builder *b, double value, th_dtype dtype, const th_dim *dims, uint32_t rank);
th_value th_like(th_builder *b, double value, th_value x);             /* constant of x's dtype and shape */
th_value th_iota(th_builder *b, const th_dim *dims, uint32_t rank, uint32_t dim, th_dtype dtype);
/* Dimension i of x becomes dimension map[i] of the result; others are repeated; a size 1 grows. */
th_value th_broadcast(th_builder *b, th_value x, const th_dim *dims, uint32_t rank, const int64_t *map);
th_value th_broadcast_to(th_builder *b, th_value x, const th_dim *dims, uint32_t rank); /* aligned at the right */
th_value th_broadcast_like(th_builder *b, th_value x, th_value like);
th_value th_reshape(th_builder *b, th_value x, const th_dim *dims, uint32_t rank);
th_value th_transpose(th_builder *b, th_value x, const int64_t *permutation);
th_value th_swap_dims(th_builder *b, th_value x, uint32_t i, uint32_t j);
th_value th_slice(th_builder *b, th_value x, const th_dim *start, const th_dim *limit, const th_dim *stride);
th_value th_slice_dim(th_builder *b, th_value x, uint32_t dim, th_dim start, th_dim limit, th_dim stride);
th_value th_pad(th_builder *b, th_value x, th_value value, const th_dim *low, const th_dim *high, const th_dim *interior);
th_value th_concat(th_builder *b, const th_value *xs, uint32_t count, uint32_t dim);
th_value th_reverse(th_builder *b, th_value x, const int64_t *dims, uint32_t count);
th_value th_reduce(th_builder *b, th_op_kind kind, th_value x, const int64_t *dims, uint32_t count, bool keepdim);
th_value th_sum_to(th_builder *b, th_value x, const th_dim *dims, uint32_t rank); /* transpose of broadcast_to */
/* Contracts lhs_contract with rhs_contract; result dims: batch, lhs free, rhs free. */
th_value th_dot(th_builder *b, th_value lhs, th_value rhs, const int64_t *lhs_batch, const int64_t *rhs_batch, uint32_t n_batch,
                const int64_t *lhs_contract, const int64_t *rhs_contract, uint32_t n_contract);
th_value th_take(th_builder *b, th_value x, th_value indices, uint32_t dim);

/* Shape helpers. */
th_dim th_size(th_builder *b, th_value x, int64_t dim); /* negative counts from the end */
uint32_t th_rank(const th_builder *b, th_value x);
th_dtype th_dtype_of(const th_builder *b, th_value x);
/* numpy broadcasting of shapes; fails naming both. dims has room for TH_MAX_RANK. */
uint32_t th_broadcast_shapes(th_builder *b, const th_value *xs, uint32_t count, th_dim *dims);
/* PyTorch's result type of the operands (dimensioned, then rank 0, then weak numbers). */
th_dtype th_result_type(th_builder *b, const th_value *xs, uint32_t count);
/* Wraps a possibly negative dimension; fails when out of range. */
uint32_t th_wrap_dim(th_builder *b, int64_t dim, uint32_t rank);

#endif
