/* The cpu executor's compile half: generated C, compiled by the host's C compiler. README of the parts: element.c writes one
 * element of a value as C, codegen.c the loops around it, special.c the ops that are no function of a few elements.
 * Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CPU_CPU_H
#define THUNDER_EXECUTORS_CPU_CPU_H

#include "ir/executor.h"

extern const th_executor th_executor_cpu;

/* Text before the kernels of a module. */
extern const char th_cpu_prelude[];
/* executor.h, compile. */
th_status th_cpu_compile(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, uint8_t **out,
                         size_t *out_size, const char **out_kind);

/* ---- the generator, shared by codegen.c, element.c and special.c ---- */

typedef struct th_memo { th_value value; const char *index, *name; } th_memo;

typedef struct th_gen {
  const th_trace *t;
  const th_op *op;         /* the fusion */
  const th_graph *body;
  th_context *c;
  th_arena *a;
  th_strbuf s;             /* what is being written */
  int indent;
  uint32_t next;           /* number of the next temporary */
  th_memo *memos;          /* elements at hand in the open scopes */
  size_t n_memos, memos_capacity;
  th_dim *sizes;           /* run-time sizes the kernel reads */
  size_t n_sizes, sizes_capacity;
  const char *flat;        /* the index variable when all operands are walked as one dimension; NULL otherwise */
  th_status status;        /* the first failure */
} th_gen;

void th_gen_line(th_gen *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
void th_gen_open(th_gen *g, const char *format, ...) __attribute__((format(printf, 2, 3))); /* "… {" */
void th_gen_close(th_gen *g);
/* Scopes: what was computed in one is forgotten with it. */
static inline size_t th_gen_mark(const th_gen *g) { return g->n_memos; }
static inline void th_gen_forget(th_gen *g, size_t mark) { g->n_memos = mark; }
const char *th_gen_name(th_gen *g, const char *prefix);          /* a fresh name */
const char *th_gen_dim(th_gen *g, th_dim dim);                   /* a size as C: a literal or n<k> */
const char *th_gen_ctype(th_dtype dtype);                        /* the type it is computed in */
/* One element of `value` at `index` (rank C atoms): writes what is needed, returns the name of a C variable or literal. */
const char *th_gen_element(th_gen *g, th_value value, const char *const *index);
/* "o<k>[…] = name;" for result `k` at `index`. */
void th_gen_store(th_gen *g, uint32_t k, const char *const *index, const char *name);
/* offset of `index` with `strides` */
const char *th_gen_offset(th_gen *g, const th_type *type, const th_dim *strides, const char *const *index);
/* for (…) over a dimension; returns the index variable. */
const char *th_gen_for(th_gen *g, const char *prefix, th_dim size);
/* The same as two loops, the inner one over at most `block` of them. */
const char *th_gen_blocks(th_gen *g, th_dim size, int64_t block);
/* Row-major linear index. */
const char *th_gen_linear(th_gen *g, const th_dim *dims, uint32_t rank, const char *const *index);
void th_gen_fail(th_gen *g, th_status status);
const char *th_gen_load_text(th_gen *g, th_dtype dtype, const char *pointer, const char *offset);
const char *th_gen_store_text(th_gen *g, th_dtype dtype, const char *name);
/* Start value of a reduction; statement text "acc = …" for one more element; name of the OpenMP reduction; NULL none. */
const char *th_gen_reduce_start(th_op_kind kind, th_dtype dtype);
const char *th_gen_reduce_step(th_gen *g, th_op_kind kind, th_dtype dtype, const char *acc, const char *x);
const char *th_gen_reduce_clause(th_op_kind kind, th_dtype dtype);
/* Is it an f32 sum of more than `most` elements (or of a number not known), which is to be added in blocks? Sums of blocks are f64. */
bool th_gen_adds_in_blocks(th_gen *g, const th_op *op, int64_t most);
bool th_gen_reduces(th_context *context, const th_op *op, uint32_t dim);
bool th_op_is_reduction(const th_op *op); /* reduce_*, not argmax */
bool th_gen_is_special(const th_op *op);
void th_gen_special(th_gen *g, const th_op *op);

#endif
