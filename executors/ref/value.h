/* Values of the reference executor and the ops on them. Private to
 * executors/ref. All memory is the arena's. */
#ifndef THUNDER_EXECUTORS_REF_VALUE_H
#define THUNDER_EXECUTORS_REF_VALUE_H

#include "executors/ref/ref.h"

typedef union th_cell {
  double f;
  int64_t i;
} th_cell; /* floats: f; bools and integers: i (u64: its bits) */
typedef struct th_ref_value {
  th_dtype dtype;
  uint32_t rank;
  int64_t *dims;
  size_t n;
  th_cell *cells; /* row-major */
} th_ref_value;

typedef struct th_ref_call { /* one op on one rank */
  th_arena *arena;
  const th_trace *trace;
  const th_op *op;
  const int64_t *symbols;
  const th_ref_value *const *in; /* (op->n_operands) */
  th_ref_value *out;             /* (op->n_results), dtype and dims set from the trace's
                                    types, cells zeroed */
} th_ref_call;

th_ref_value th_ref_value_make(th_arena *arena, th_dtype dtype, const int64_t *dims, uint32_t rank); /* zeroed */
th_status th_ref_load(th_arena *arena, const th_ref_tensor *tensor, th_ref_value *out);
th_ref_tensor th_ref_store(th_arena *arena, const th_ref_value *value);
th_cell th_ref_round(th_dtype dtype, th_cell x); /* to the dtype's precision or width */
th_cell th_ref_convert(th_dtype to, th_dtype from, th_cell x);
th_cell th_ref_combine(th_op_kind kind, th_dtype dtype, th_cell a, th_cell b); /* add, mul, max, min: no rounding of floats */

/* Attributes with their symbols put in. */
int64_t th_ref_int(const th_ref_call *call, const char *name);
const int64_t *th_ref_ints(const th_ref_call *call, const char *name, uint32_t *out_count); /* count may be NULL */

/* Odometer: steps `index` through `dims`; false after the last. */
bool th_ref_next(int64_t *index, const int64_t *dims, uint32_t rank);
size_t th_ref_at(const th_ref_value *value, const int64_t *index);

/* The families of ops; UNIMPLEMENTED for an op they do not know. */
th_status th_ref_pointwise(const th_ref_call *call);
th_status th_ref_shape(const th_ref_call *call);       /* const, iota, uniform, movement, reductions */
th_status th_ref_contraction(const th_ref_call *call); /* dot, conv, windows */
th_status th_ref_index(const th_ref_call *call);       /* take, scatter */

#endif
