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
typedef struct th_kernel_source th_kernel_source;
struct th_kernel_source {
  const char *text;      /* one function of the signature in executors/run/kernel.h */
  uint32_t n_sizes;      /* run-time sizes the kernel reads, ... */
  const th_dim *sizes;   /* ... as expressions of the trace (instr_ints of its instruction) */
  /* Kernels of a device: their launch, and the kernel that is run after this one on the same buffers. threads 0: a host's. */
  th_dim grid[2];        /* blocks */
  uint32_t threads, shared; /* of a block; bytes of its dynamic shared memory */
  const th_kernel_source *next;
};

/* A program over numbers in host memory, as executors/scalar.h defines it. Arena memory. */
typedef struct th_scalar_program { size_t n_ints, n_floats; th_dim *ints; double *floats; } th_scalar_program;

/* A call of the runtime's function table (executors/run/library.h). Its operands and results are the op's. */
typedef struct th_library_call {
  const char *function;  /* "dot" */
  uint32_t n_ints;
  const th_dim *ints;    /* as library.h defines for the function */
  double alpha, beta;
} th_library_call;

typedef struct th_binary { uint8_t *bytes; size_t size; } th_binary;
enum { TH_MAX_PARTS = 32 };

/* Who reads each value of graph 0, for executors that look around an op. */
typedef struct th_users {
  const th_op *const *const *readers; /* by value; in order */
  const uint32_t *n_readers;          /* operands that refer to it: an op that reads it twice stands there twice */
  const bool *leaves;                 /* is an output */
} th_users;
/* The one op that reads `v`; NULL: several do, or it leaves. */
static inline const th_op *th_only_reader(const th_users *users, th_value v) { return users->n_readers[v] == 1 && !users->leaves[v] ? users->readers[v][0] : NULL; }

/* Several ops as one library call: `ops` in order, among them all that their inner values are read by. */
enum { TH_MAX_ABSORBED = 24, TH_MAX_CALL = 8 };
typedef struct th_absorbed {
  th_library_call call;
  uint32_t n_ops, n_operands, n_results;
  const th_op *ops[TH_MAX_ABSORBED];
  th_value operands[TH_MAX_CALL], results[TH_MAX_CALL];
} th_absorbed;

struct th_executor {
  const char *name; /* "cpu" */

  /* Does this executor want the torch-level composite `op` whole, as one library call? Fills *out (context memory). NULL or
   * false: no. The pass `claim` makes a library op of it whose body is the composite's lowering. */
  bool (*claims)(const th_options *options, const th_trace *trace, const th_op *op, th_library_call *out);

  /* Does this executor want ops around `seed` (a composite or prim of graph 0) together, as one library call? Values that are read
   * elsewhere must be among the results; the pass `claim` leaves alone what would have to run before one of its operands. NULL: no. */
  bool (*absorbs)(const th_options *options, const th_trace *trace, const th_users *users, const th_op *seed, th_absorbed *out);

  /* Can the prim be one library call; fills *out (context memory). NULL or false: no. */
  bool (*library)(const th_options *options, const th_trace *trace, const th_op *op, th_library_call *out);
  /* May operand `operand` of the library op be read as it lies with `strides`? NULL: anything goes. */
  bool (*library_takes)(const th_trace *trace, const th_op *op, uint32_t operand, const th_dim *strides);

  /* Is the convolution to be made of tensors that lie channels-last? The pass `channels` describes what is between such in that order. NULL: no. */
  bool (*channels_last)(const th_options *options, const th_trace *trace, const th_op *op);
  /* The strides of a library op. `operands[k]`: how operand k lies; the executor sets others where it wants a copy made before. `results[k]`: how
   * it is asked for, NULL: nobody asks; set to how the call writes it. Dims as the op says; context memory. false: library_takes, and results as
   * asked, else row-major. NULL: never. */
  bool (*lay)(const th_options *options, const th_trace *trace, const th_op *op, const th_dim **operands, const th_dim **results);

  /* Can the prim stand in a fusion of this executor at all? */
  bool (*fusible)(const th_options *options, const th_trace *trace, const th_op *op);
  /* Can the ops of `ops` (graph 0, in order) be one kernel? Called while regions grow: keep it cheap. */
  bool (*fuses)(const th_options *options, const th_trace *trace, const th_op *const *ops, size_t n_ops);
  /* Can the fusion be a component of a batch (ir/batch.h): one kernel for this and for others that are alike but for sizes? Asked before
   * there are layouts. NULL: no. */
  bool (*batches)(const th_options *options, const th_trace *trace, const th_op *op);
  /* May result `result` of a fusion or library op (or launch or invoke) be computed over the bytes of operand `operand` (same shape, strides, item
   * size)? False when an element is read after another one of the same bytes was written. */
  bool (*in_place)(const th_trace *trace, const th_op *op, uint32_t operand, uint32_t result);
  /* The kernel of a fusion or launch op, with the strides standing on its operands and results. */
  th_status (*emit)(const th_options *options, const th_trace *trace, const th_op *op, th_kernel_source *out);
  /* Executors of numbers in host memory (not of kernels): a fusion or launch as a program of the runtime's. NULL: emit is used. */
  th_status (*scalars)(const th_options *options, const th_trace *trace, const th_op *op, th_scalar_program *out);
  /* Text before the kernels of a module (helpers, includes). */
  const char *(*prelude)(const th_options *options);
  /* Compiles `prelude` and `n` kernels that know nothing of one another to one or more modules. `parts` has room for TH_MAX_PARTS,
   * part_of[k] gets the part of kernel k; code is arena memory. UNAVAILABLE, with the compiler's last lines, when the compiler fails
   * or is missing; `kind` is Module.kind ("elf-so"). */
  th_status (*compile)(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts,
                       size_t *out_n_parts, uint32_t *part_of, const char **out_kind);

  /* Bytes of the device's memory that a fusion or library op wants for itself while it runs, its layout known. NULL: none. */
  th_dim (*scratch)(const th_options *options, const th_trace *trace, const th_op *op);
  /* What a library call is prepared with (Plan.instr_blob); *out NULL: nothing. NULL: never anything. Arena memory. */
  th_status (*prepare)(const th_options *options, const th_trace *trace, const th_op *op, th_arena *arena, th_binary *out, const char **out_kind);
  /* Beyond one domain with reductions of rows, or of columns that nobody else needs, what the kernels can be. */
  bool keeps;    /* reductions of columns and of everything may stand beside results of the domain, and several of them in one kernel */
  /* Can a kernel reduce rows as `rows` does and columns as `columns` does (of one domain)? NULL: no. */
  bool (*mixes)(const th_options *options, const th_trace *trace, const th_op *rows, const th_op *columns);
};

/* Appends the library op for `call` to graph 0 of `trace`; `body` is the graph it computes. */
th_op *th_library_op(th_trace *trace, uint32_t body, const th_executor *executor, const th_library_call *call, const th_value *operands,
                     uint32_t n_operands, const th_type *types, uint32_t n_results);

/* The ints of a list attribute from `at` on; returns where they end. For a library call's ints. */
static inline th_dim *th_append_ints(th_dim *at, const th_attr *list) {
  for (uint32_t i = 0; i < list->count; i++) *at++ = list->ints[i];
  return at;
}
/* A dot's: counts of lhs_batch and lhs_contract, then its four lists; at most 4 * TH_MAX_RANK + 2. */
th_dim *th_append_dot(th_context *context, th_dim *at, const th_op *dot);

/* Appends a fusion of graph `body` to graph 0 of `trace`. */
th_op *th_fusion_op(th_trace *trace, uint32_t body, const char *executor, const th_value *operands, uint32_t n_operands, const th_type *types, uint32_t n_results);

/* The one of the options that makes most kernels: the first whose fusions are kernels. NULL: there is none. */
const th_executor *th_main_executor(const th_options *options);

/* The one of the options that claimed `op` (op->executor); NULL when none did. */
const th_executor *th_executor_of(const th_options *options, const th_op *op);

#endif
