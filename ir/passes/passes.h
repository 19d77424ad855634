/* The passes of passes.def as functions (ir/pass.h says what a pass is). */
#ifndef THUNDER_IR_PASSES_PASSES_H
#define THUNDER_IR_PASSES_PASSES_H

#include "ir/pass.h"

#define TH_PASS(name, level, wanted, why) th_status th_pass_##name(const th_options *options, const th_trace *in, th_trace **out);
#include "ir/passes/passes.def"
#undef TH_PASS

/* One torch op's lowering in its place; its results mapped and named (decompose.c). */
void th__rewrite_lower(th_rewriter *r, const th_op *op);

/* A size, for what is worth it: the most that it can be, or the least where that is not known. */
static inline int64_t th__size(const th_trace *t, th_dim size) {
  int64_t low, high;
  th_dim_bounds(t->context, size, &low, &high);
  return high == INT64_MAX ? low : high;
}
/* Elements of a value, likewise. */
static inline int64_t th__numel(const th_trace *t, th_value v) { return th__size(t, th_type_numel(t->context, th_type_of(t, v))); }

/* Is the op no part of a fused kernel, but a product, a library call, a scatter, a collective …: what it reads and makes is stored (sink.c). */
bool th__is_heavy(const th_op *op);

/* Splits a joint trace (forward-backward) in two: see partition.c. */
th_status th_partition(const th_trace *joint, th_trace **out_forward, th_trace **out_backward);

#endif
