/* What the last passes (layout, memory_plan), the executors' compile halves and emit share: strides of views, bytes of
 * strided values, storages and lifetimes, the predicted peak. 
 * Threads: thread-compatible. */
#ifndef THUNDER_IR_PASSES_PLAN_H
#define THUNDER_IR_PASSES_PLAN_H

#include "ir/pass.h"

/* Arena offsets are multiples of this, and so are the steps of a bucket's tensors. */
enum { TH_ARENA_ALIGN = 64 };

/* ---- Strides (strides.c) -------------------------------------------------------------------------------------------- */

/* Do the layouts `a` and `b` place every element of `dims` alike? Strides of dimensions of size 1 do not count. NULL stands
 * for row-major. */
bool th_strides_equal(th_context *context, const th_dim *dims, uint32_t rank, const th_dim *a, const th_dim *b);
bool th_strides_contiguous(th_context *context, const th_type *type, const th_dim *strides);
/* Is the layout a permutation of a row-major one: no gaps, nothing repeated? False also when that cannot be told. */
bool th_strides_dense(th_context *context, const th_type *type, const th_dim *strides);
/* Strides that hold `dims` as a reshape of a value of `from_dims`, `from_strides`, when no copy is needed. NULL otherwise. */
const th_dim *th_strides_reshape(th_context *context, const th_dim *from_dims, uint32_t from_rank, const th_dim *from_strides,
                                 const th_dim *dims, uint32_t rank);
/* Does `op` only rename its operand: a view prim (transpose, slice, broadcast, reshape), barrier or wait? */
bool th_op_is_alias(const th_op *op);
/* The window result `index` of the alias op has on its operand `index`, laid out with `strides`: strides of the result and
 * the offset in elements. False when it cannot be had without a copy (some reshapes). */
bool th_alias_window(const th_trace *trace, const th_op *op, uint32_t index, const th_dim *strides, const th_dim **out_strides,
                     th_dim *out_offset);
/* Strides the operand of a view op must have for its result to have `strides`; NULL when there are none (slice,
 * broadcast, some reshapes). */
const th_dim *th_alias_wanted(const th_trace *trace, const th_op *op, const th_dim *strides);
/* What the outside asks of output `o` (row-major strides where it says nothing else); NULL with *out_any: anything will do. */
const th_dim *th_output_asked(const th_trace *trace, uint32_t o, bool *out_any);
/* By value: the strides that its readers and the outside would have it made with, carried through views to what makes it; NULL: nobody asks. */
const th_dim **th_wanted_strides(const th_options *options, const th_trace *trace);
/* Bytes from the first to the last element of a value with these strides, both included; 0 for an empty one. */
th_dim th_extent_bytes(th_context *context, const th_type *type, const th_dim *strides);

/* ---- Level 4 (memory_plan.c, plan_memory.c) ------------------------------------------------------------------------------------------- */

/* Where a value's bytes are, aliases followed to the end. */
typedef struct th_storage {
  th_place place;   /* BORROWED, ESCAPING, ARENA, CONSTANT, STAGED */
  uint32_t index;   /* input number; output slot; 0; the value */
  th_value value;   /* the value that owns the bytes */
  th_dim offset;    /* bytes from the storage's start (ARENA, STAGED: from the arena's, the area's) */
} th_storage;
th_storage th_plan_storage(const th_trace *trace, th_value value);

/* Bytes of the arena of a level 4 trace, as an expression; those of its staged values. */
th_dim th_plan_arena_bytes(const th_trace *trace);
th_dim th_plan_staged_bytes(const th_trace *trace);
enum { TH_STAGED_BYTES = 8 }; /* of a staged value */

/* Offset in the arena and bytes (two expressions) that a launch or invoke may use while it runs; NULL: none. */
const th_attr *th_plan_scratch(const th_op *op);

typedef struct th_plan_bytes {
  int64_t borrowed, escaping, arena, constants;
  int64_t peak; /* their sum: all are held together at the end of the call */
} th_plan_bytes;
/* Bytes the plan needs with symbol i = symbols[i] (NULL: each symbol at its smallest value). */
th_plan_bytes th_plan_predict(const th_trace *trace, const int64_t *symbols);

/* `symbols`, or where that is NULL each symbol at its smallest value; the context's memory. */
const int64_t *th__smallest_symbols(const th_trace *trace, const int64_t *symbols);

/* Who takes the memory of a plan: inputs, outputs and constants by kind; of the arena what is alive when most is, by the captured op that it comes from. */
typedef enum th_memory_kind { /* the wire's numbers (plan.proto, memory_kind) */
  TH_MEMORY_PARAMETER, TH_MEMORY_BUFFER, TH_MEMORY_STATE, TH_MEMORY_ACCUMULATOR, TH_MEMORY_BATCH, TH_MEMORY_OUTPUT, TH_MEMORY_CONSTANT,
  TH_MEMORY_LIVE,      /* made by the plan, waiting to be read */
  TH_MEMORY_WORKSPACE, /* of a kernel or a library call while it runs */
  TH_MEMORY_GAP        /* of the arena: between those */
} th_memory_kind;
typedef struct th_memory_row { th_memory_kind kind; uint32_t op, count; int64_t bytes; } th_memory_row; /* op: TH_NONE where none; count: of values */
/* Rows in no particular order, on devices' plans only what is on the device, in sum th_plan_predict's peak; symbols as above. */
size_t th_plan_memory(const th_trace *trace, const int64_t *symbols, const th_memory_row **out_rows);

/* Re-derives lifetimes from the instructions alone and checks that no two values that are alive together share bytes (views,
 * and results computed in place where `in_place` allows it, aside), that offsets are aligned and inside the arena, and that
 * only donated or written inputs are written. INTERNAL naming both values otherwise. For tests and debug builds: it shares
 * no code with the planner. symbols as above. */
th_status th_plan_check(const th_options *options, const th_trace *trace, const int64_t *symbols);

th_status th_pass_claim(const th_options *options, const th_trace *in, th_trace **out);
th_status th_pass_library(const th_options *options, const th_trace *in, th_trace **out);
th_status th_pass_layout(const th_options *options, const th_trace *in, th_trace **out);
th_status th_pass_memory_plan(const th_options *options, const th_trace *in, th_trace **out);

#endif
