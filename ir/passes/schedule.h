/* Schedule: the order in which the ops of the main graph run. Program order, but a started collective begins as early as
 * its operands allow (never before an earlier collective: all ranks start them in one order), and waits and views stand
 * right before their first reader. Memory is the context's. */
#ifndef THUNDER_IR_PASSES_SCHEDULE_H
#define THUNDER_IR_PASSES_SCHEDULE_H

#include "ir/trace.h"

/* All ops of graph 0, in order; as many as the graph has. */
const th_op **th_schedule(const th_trace *trace);
/* Is it a collective op (started and ended by itself, or all_reduce_start)? */
bool th_op_is_collective(const th_op *op);

#endif
