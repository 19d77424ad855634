/* The passes of passes.def as functions (ir/pass.h says what a pass is). */
#ifndef THUNDER_IR_PASSES_PASSES_H
#define THUNDER_IR_PASSES_PASSES_H

#include "ir/pass.h"

#define TH_PASS(name, level, wanted, why) th_status th_pass_##name(const th_options *options, const th_trace *in, th_trace **out);
#include "ir/passes/passes.def"
#undef TH_PASS

/* One torch op's lowering in its place; its results mapped and named (decompose.c). */
void th__rewrite_lower(th_rewriter *r, const th_op *op);

/* Splits a joint trace (forward-backward) in two: see partition.c. */
th_status th_partition(const th_trace *joint, th_trace **out_forward, th_trace **out_backward);

#endif
