/* What the passes know of an executor's compile half: what it can take over, and the code it makes of it. The executors
 * themselves are in executors/ (registry.h there), which includes ir/ and not the other way; the options of a compile carry
 * them to the passes. No device, no driver. An executor's run half (executors/run) never sees this header.
 * Threads: thread-compatible. */
#ifndef THUNDER_IR_EXECUTOR_H
#define THUNDER_IR_EXECUTOR_H

#include "ir/pass.h"

/* A kernel's function, as source. Two kernels with equal `text` are one; the name of the function in `text` is the
 * placeholder TH_KERNEL_NAME, which emit replaces. */
#define TH_KERNEL_NAME "th_kernel_"
typedef struct th_kernel_source {
  const char *text;      /* one function of the signature in executors/run/kernel.h */
  uint32_t n_sizes;      /* run-time sizes the kernel reads, ... */
  const th_dim *sizes;   /* ... as expressions of the trace (instr_ints of its instruction) */
  uint32_t n_scratch;    /* reserved: 0 */
} th_kernel_source;

/* A call of the runtime's function table (executors/run/library.h). Its operands and results are the op's. */
typedef struct th_library_call {
  const char *function;  /* "dot" */
  uint32_t n_ints;
  const th_dim *ints;    /* as library.h defines for the function */
  double alpha, beta;
} th_library_call;

struct th_executor {
  const char *name; /* "cpu" */

  /* Does this executor want the torch-level composite `op` whole, as one library call? Fills *out (context memory). NULL or
   * false: no. The pass `claim` makes a library op of it whose body is the composite's lowering. */
  bool (*claims)(const th_options *options, const th_trace *trace, const th_op *op, th_library_call *out);

  /* Can the prim be one library call; fills *out (context memory). NULL or false: no. */
  bool (*library)(const th_options *options, const th_trace *trace, const th_op *op, th_library_call *out);
  /* May operand `operand` of the library op be read as it lies with `strides`? NULL: anything goes. */
  bool (*library_takes)(const th_trace *trace, const th_op *op, uint32_t operand, const th_dim *strides);

  /* Can the prim stand in a fusion of this executor at all? */
  bool (*fusible)(const th_options *options, const th_trace *trace, const th_op *op);
  /* Can the ops of `ops` (graph 0, in order) be one kernel? Called while regions grow: keep it cheap. */
  bool (*fuses)(const th_options *options, const th_trace *trace, const th_op *const *ops, size_t n_ops);
  /* May result `result` of a fusion (or launch) be computed over the bytes of operand `operand` (same shape, strides, item
   * size)? False when an element is read after another one of the same bytes was written. */
  bool (*in_place)(const th_trace *trace, const th_op *op, uint32_t operand, uint32_t result);
  /* The kernel of a fusion or launch op, with the strides standing on its operands and results. */
  th_status (*emit)(const th_options *options, const th_trace *trace, const th_op *op, th_kernel_source *out);
  /* Text before the kernels of a module (helpers, includes). */
  const char *(*prelude)(const th_options *options);
  /* Compiles a module's source to code: `prelude`, then `n` kernels that know nothing of one another, so that parts of them may be
   * compiled side by side. `*out` is arena memory. UNAVAILABLE, with the compiler's last lines, when the host compiler fails or
   * is missing; `kind` is Module.kind ("elf-so"). */
  th_status (*compile)(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, uint8_t **out,
                       size_t *out_size, const char **out_kind);
};

/* Appends the library op for `call` to graph 0 of `trace`; `body` is the graph it computes. */
th_op *th_library_op(th_trace *trace, uint32_t body, const th_executor *executor, const th_library_call *call, const th_value *operands,
                     uint32_t n_operands, const th_type *types, uint32_t n_results);

/* The one of the options that claimed `op` (op->executor); NULL when none did. */
const th_executor *th_executor_of(const th_options *options, const th_op *op);

#endif
