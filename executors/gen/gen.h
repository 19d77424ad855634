/* Text of generated kernels, what the executors that write C share: one element of a value as C (element.c). Each executor writes
 * the loops around the elements, and says how inputs are read and reductions are made. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_GEN_GEN_H
#define THUNDER_EXECUTORS_GEN_GEN_H

#include "ir/executor.h"

typedef struct th_memo { th_value value; const char *index, *name; } th_memo;

typedef struct th_gen th_gen;
struct th_gen {
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
  th_memo *raws;           /* names of narrow floats that were rounded: their bits (index) */
  size_t n_raws, raws_capacity;
  int guards;              /* conditions around what is being written: what they guard must not be read outside of them */
  /* The dialect. */
  const char *index_type;  /* of indices: "int64_t" */
  bool sizes_by_name;      /* size k is "n<k>", else "sizes[<k>]" */
  const char *(*load)(th_gen *g, uint32_t k, const char *const *index); /* one element of operand k; returns a C atom */
  const char *(*reduce)(th_gen *g, const th_op *op, const char *const *index); /* a reduction's element, as a loop */
  bool (*before)(th_gen *g, const char *name, const char *definition); /* may write the definition where it is computed less often; NULL: no */
  const char *exp;         /* of an f32; NULL: "th_expf" */
  bool narrow_indices;     /* indices are compared in index_type, and rounded values are kept as bits too (kernels that gain by it) */
  void *user;              /* of those */
  th_status status;        /* the first failure */
};

void th_gen_line(th_gen *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
void th_gen_open(th_gen *g, const char *format, ...) __attribute__((format(printf, 2, 3))); /* "… {" */
void th_gen_close(th_gen *g);
/* Scopes: what was computed in one is forgotten with it. */
static inline size_t th_gen_mark(const th_gen *g) { return g->n_memos; }
static inline void th_gen_forget(th_gen *g, size_t mark) { g->n_memos = mark; }
const char *th_gen_name(th_gen *g, const char *prefix);          /* a fresh name */
const char *th_gen_dim(th_gen *g, th_dim dim);                   /* a size as C: a literal or the text of a run-time size */
const char *th_gen_ctype(th_dtype dtype);                        /* the type it is computed in */
const char *th_gen_variable(th_gen *g, th_dtype dtype, const char *text); /* "const float v7 = text;"; returns "v7" */
const char *th_gen_index(th_gen *g, const char *text);                      /* the same of an index */
/* One element of `value` at `index` (rank C atoms): writes what is needed, returns the name of a C variable or literal. */
const char *th_gen_element(th_gen *g, th_value value, const char *const *index);
const char *th_gen_key(th_gen *g, const th_type *type, const char *const *index); /* what an element is remembered by */
const char *th_gen_remember(th_gen *g, th_value value, const char *index, const char *name); /* so that it is found at that index; returns name */
/* "p<k>[…]" as a variable: the plain form of th_gen.load. */
const char *th_gen_load(th_gen *g, uint32_t k, const char *const *index);
/* "o<k>[…] = name;" for result `k` at `index`. */
void th_gen_store(th_gen *g, uint32_t k, const char *const *index, const char *name);
/* offset of `index` with `strides` */
const char *th_gen_offset(th_gen *g, const th_type *type, const th_dim *strides, const char *const *index);
/* for (…) over a dimension; returns the index variable. */
const char *th_gen_for(th_gen *g, const char *prefix, th_dim size);
void th_gen_fail(th_gen *g, th_status status);
const char *th_gen_load_text(th_gen *g, th_dtype dtype, const char *pointer, const char *offset);
const char *th_gen_store_text(th_gen *g, th_dtype dtype, const char *name);
/* Start value of a reduction; statement text "acc = …" for one more element. */
const char *th_gen_reduce_start(th_op_kind kind, th_dtype dtype);
const char *th_gen_reduce_step(th_gen *g, th_op_kind kind, th_dtype dtype, const char *acc, const char *x);
bool th_gen_reduces(th_context *context, const th_op *op, uint32_t dim);
bool th_op_is_special(const th_op *op);   /* no function of a few elements: a kernel of its own */
/* Which result of the fusion a body value is; TH_NONE: none. */
uint32_t th_gen_output_of(const th_gen *g, th_value v);

/* Stores body value `v` in each result that it is. */
void th_gen_put(th_gen *g, th_value v, const char *const *index, const char *name);
/* Values of that shape in the body, inputs alone or all, computed in the open scope, so that inner loops find them. */
void th_gen_hoist(th_gen *g, const th_type *shape, const char *const *index, bool inputs_only);

/* executor.h, fusible: prims of dtypes that C has, but control flow and convolutions. */
bool th_gen_fusible(const th_trace *trace, const th_op *op);
/* executor.h, in_place, for kernels that go over their elements, or over each row of them, and write an element where it is read last. */
bool th_gen_in_place(const th_trace *trace, const th_op *op, uint32_t operand, uint32_t result);

#endif
