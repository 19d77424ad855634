/* Names: what a person reads beside a trace (proto/trace.proto, Names): source lines, module paths, names of values. They
 * are joined with ops by number, and no digest sees them. Threads: thread-compatible. */
#ifndef THUNDER_IR_NAMES_H
#define THUNDER_IR_NAMES_H

#include "ir/trace.h"

typedef struct th_op_source { const char *file, *text, *scope; uint32_t line; } th_op_source; /* "" and 0: unknown */
typedef struct th_names {
  size_t n_ops, n_values;
  const th_op_source *ops;      /* by number of the op in the captured trace (th_op.origin) */
  const char *const *values;  /* by value of the captured trace; "" unknown */
} th_names;

/* Reads a serialized Names message; `*out` is memory of `arena`. INVALID_ARGUMENT naming the table that is out of range. */
th_status th_names_decode(th_arena *arena, const uint8_t *bytes, size_t size, th_names **out);
/* As th_trace_print, each op followed by its source line (once for a run of ops of one line). names may be NULL. */
const char *th_trace_print_named(const th_trace *trace, const th_names *names);

#endif
