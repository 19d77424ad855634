/* Batches: fusions and launches of several components. The body of a batch of n holds them one after the other (the inputs of the first,
 * then those of the second, ...; ops and outputs likewise), and so do operands and results. Components are alike but for the sizes of
 * their values, and none reads another, so one kernel may compute them in any order; to everybody else the body is a body as any.
 * Thread-safe. */
#ifndef THUNDER_IR_BATCH_H
#define THUNDER_IR_BATCH_H

#include "ir/trace.h"

/* How many components `op` has. 1: it is no batch. */
uint32_t th_op_batch(const th_trace *trace, const th_op *op);

/* One component as an op and a body of its own: views of those of the batch. Positions of its inputs (th_value_info.index) are those in
 * the batch. */
typedef struct th_component { th_op op; th_graph body; } th_component;
th_component th_batch_component(const th_trace *trace, const th_op *op, uint32_t which);

/* Do the bodies (or views of components) compute the same but for sizes: ops, dtypes, attributes, who reads what, which values have rank 0?
 * `map` is room for a value by value of the trace; what it holds does not matter. */
bool th_bodies_alike(const th_trace *trace, const th_graph *a, const th_graph *b, th_value *map);

/* INVALID_ARGUMENT where the attribute `batch` of a fusion or launch, if it has one, says what its body is not. */
th_status th_batch_check(const th_trace *trace, const th_op *op);

#endif
