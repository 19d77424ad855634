/* Gradient rules (vector-Jacobian products): from the gradients of an op's results, those of its operands. One function
 * a rule, th__vjp_<name>, named in ops.def. Prims have one each where they are differentiable; a composite of level 1
 * has one where its own formula is better (fewer saved values, no overflow) than that of its lowering.
 *
 * A rule builds with v->b, reads operands and results of the forward op, and sets v->in_grad[i] for each operand i that
 * is wanted; what it leaves unset has no gradient. Gradients have the operand's dtype and shape. */
#ifndef THUNDER_IR_GRAD_GRAD_H
#define THUNDER_IR_GRAD_GRAD_H

#include "ir/lower/helpers.h"
#include "ir/pass.h"

typedef struct th_differentiator th_differentiator;

typedef struct th_vjp {
  th_builder *b;
  const th_op *op;       /* in b's trace */
  const th_value *in;    /* its operands */
  th_value out;          /* its first result */
  const th_value *grad;  /* of each result; TH_NO_VALUE: zero */
  const bool *wanted;    /* of each operand */
  th_value *in_grad;     /* of each operand; TH_NO_VALUE at the start */
  th_differentiator *d;  /* for rules that differentiate a body */
} th_vjp;

typedef void (*th_vjp_rule)(th_vjp *v);

#define TH_OP(id, name_, level_, o_, operands_, attrs_, results_, traits_, lower_, vjp_, doc_) void th__vjp_##vjp_(th_vjp *v);
#include "ir/ops.def"
#undef TH_OP
#define th__vjp_none NULL

th_vjp_rule th_vjp_rule_get(th_op_kind kind); /* NULL: none */
/* False where the op's own rule does not cover these attributes and operands, and its lowering is to be differentiated. */
bool th_vjp_covers(const th_trace *trace, const th_op *op, const bool *active_operands);

/* ---- for rules ---- */
/* Gradient of result i; a zero tensor where there is none. */
th_value th_vjp_grad(th_vjp *v, uint32_t i);
static inline bool th_vjp_want(const th_vjp *v, uint32_t i) { return i < v->op->n_operands && v->wanted[i]; }

/* v->in_grad[i] = g in operand i's dtype, summed to its shape; for the rules of torch ops, which broadcast and promote. */
static inline void th_vjp_give(th_vjp *v, uint32_t i, th_value g) {
  if (!th_vjp_want(v, i) || v->b->status) return;
  th_type t = th_rule_type(v->b, v->in[i]);
  v->in_grad[i] = th_convert(v->b, th_sum_to(v->b, g, t.dims, t.rank), t.dtype);
}

/* Differentiates graph `graph` of `source` at `in` (TH_NO_VALUE gradients of outputs are zero): runs it anew in v->b's
 * graph and goes back through it. in_grad as in th_vjp. */
void th_differentiate_body(th_vjp *v, uint32_t graph, const th_value *in, const th_value *out_grad, const bool *wanted, th_value *in_grad);
/* Where the graphs that attributes name are. */
const th_trace *th_vjp_source(const th_vjp *v);

#endif
