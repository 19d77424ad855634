/* The cuda executor's compile half: generated CUDA C, compiled by NVRTC to a cubin, or (arch "simt") by the host's C++ compiler with
 * simt.h, which runs it without a GPU. Elements are written by executors/gen. shape.c finds out what kind of kernel a region is and how
 * it is launched, kernel.c and rows.c write it, batch.c that of many regions at once, lanes.c the elements that a thread has of a vector, special.c the ops
 * that are no function of a few elements. No header is included by the generated text: prelude.c. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUDA_CUDA_H
#define THUNDER_EXECUTORS_CUDA_CUDA_H

#include "executors/gen/gen.h"

extern const th_executor th_executor_cuda;

/* Text before the kernels of a module. */
extern const char th_cuda_prelude[];
/* executor.h. */
th_status th_cuda_emit(const th_options *options, const th_trace *trace, const th_op *op, th_kernel_source *out);
th_status th_cuda_compile(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts,
                          size_t *out_n_parts, uint32_t *part_of, const char **out_kind);
/* The same for arch "simt": simt.c. */
th_status th_cuda_compile_simt(th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts, size_t *out_n_parts,
                               uint32_t *part_of, const char **out_kind);
bool th_cuda_is_simt(const th_options *options);

/* ---- shape.c: what a region is as a kernel ---- */

typedef enum th_cuda_kind {
  TH_CUDA_PLAIN,   /* elements of one shape */
  TH_CUDA_ROWS,    /* reductions of rows (the last dimension is reduced); sums of columns may come along */
  TH_CUDA_COLUMNS, /* reductions that keep the last dimension */
  TH_CUDA_WHOLE,   /* reductions of everything */
  TH_CUDA_SPECIAL  /* one op of special.c */
} th_cuda_kind;

enum { TH_CUDA_MAX_COLUMNS = 16, TH_CUDA_THREADS = 256 };

typedef struct th_cuda_shape {
  th_cuda_kind kind;
  th_type domain;
  const th_op *special;                       /* SPECIAL: the op */
  const th_op *rows;                          /* ROWS: the first reduction of rows */
  const th_op *sums[TH_CUDA_MAX_COLUMNS];     /* reductions of columns (ROWS, COLUMNS) or of everything (WHOLE) */
  uint32_t n_sums;
  bool stores;                                /* there are results of the domain's shape */
  int width;                                  /* elements of a vector */
  uint32_t vector_dim;                        /* which dimension vectors lie along */
  /* ROWS: a row is `length` elements, held by `team` threads with `turns` vectors each; `rows_per_block` teams are a block. cached: what is
   * read of a row stays in registers. persistent: `blocks` blocks walk over all rows.
   * COLUMNS: `chunks` parts of the reduced space, a partial result each. WHOLE: `blocks` parts. */
  int64_t length, team, turns, rows_per_block, blocks, chunks;
  bool cached, in_shared, persistent; /* in_shared: what is read of a row stays in shared memory instead */
  th_dim n_rows, n_reduced, n_columns;        /* kept elements (ROWS); reduced ones; COLUMNS: kept ones */
} th_cuda_shape;

/* Fails for a body that no kernel of this executor is (UNIMPLEMENTED). */
th_status th_cuda_shape_of(const th_options *options, const th_trace *trace, const th_op *op, th_cuda_shape *out);
/* Bytes of scratch that the kernel wants. 0: none. */
th_dim th_cuda_scratch(const th_options *options, const th_trace *trace, const th_op *op);

/* ---- lanes.c: vectors ---- */

typedef struct th_cuda_loaded { uint32_t operand; const char *offset, *name; } th_cuda_loaded;

typedef struct th_cuda_gen {
  th_gen g; /* first: g.user is this */
  const th_options *options;
  const th_cuda_shape *shape;
  /* An open block of lanes. */
  int width;               /* 0: none is open */
  const char *lane, *base; /* index text of a lane; of the first one */
  th_strbuf before, kept;  /* what is computed once for all lanes, and the text around the block */
  uint32_t first_name;     /* names from this number on are the block's ... */
  uint8_t *once;           /* ... and those marked here, by number, are computed before the lanes */
  size_t n_once;
  th_cuda_loaded *loads;
  size_t n_loads, loads_capacity;
  uint32_t stored[64], n_stored; /* results that are written as vectors after the lanes */
  const char *stored_at[64];
  const struct th_cuda_row *row; /* the row whose reductions are passes over it; NULL: none */
  /* Loads that stay in registers from one pass over a row to the next. */
  th_strbuf *declared;
  int64_t shared;          /* bytes of dynamic shared memory so far */
  const char *turn_begin;  /* in_shared: the lines that a turn begins with, its guard and the index of its vector */
  bool copies;             /* in_shared: there are copies to wait for ... */
  size_t first_pass;       /* ... here: where the first pass over a row begins in the text, plus 1; 0: none has begun */
  th_cuda_loaded *held;
  size_t n_held, held_capacity;
} th_cuda_gen;

static inline th_cuda_gen *th_cuda_of(th_gen *g) { return g->user; }
/* Opens a block over `width` elements from index text `base` on; returns the index text of a lane. What is written until the block is
 * closed is computed for each lane. */
const char *th_cuda_lanes_open(th_cuda_gen *x, const char *base, int width);
void th_cuda_lanes_close(th_cuda_gen *x);
/* Result `k` at `index`, as a vector where it lies so. */
void th_cuda_store(th_cuda_gen *x, uint32_t k, const char *const *index, const char *name);
const char *th_cuda_load(th_gen *g, uint32_t k, const char *const *index); /* th_gen.load */
bool th_cuda_before(th_gen *g, const char *name, const char *definition);  /* th_gen.before */

/* ---- special.c ---- */

th_status th_cuda_special(th_cuda_gen *x, const th_op *op, th_kernel_source *out);

/* ---- batch.c ---- */

bool th_cuda_batches(const th_options *options, const th_trace *trace, const th_op *op); /* executor.h */
th_status th_cuda_batch(th_cuda_gen *x, th_kernel_source *out);                            /* x->g.op is a batch */
th_dim th_cuda_batch_scratch(const th_trace *trace, const th_op *op);

/* ---- kernel.c: the frame of a kernel ---- */

void th_cuda_begin(th_cuda_gen *x); /* a fresh text */
/* The text with its signature (a pointer for each operand and result, scratch, sizes, flags) and its launch, into *out. */
void th_cuda_finish(th_cuda_gen *x, th_dim grid_x, th_dim grid_y, int threads, bool scratch, th_kernel_source *out);
/* The index of each of `dims` (n) that linear index `linear` stands for, later ones moving faster. `order`: NULL, or which dimension is
 * the i-th of that walk. */
void th_cuda_spread(th_cuda_gen *x, const char *linear, const th_dim *dims, uint32_t n, const uint32_t *order, const char **index);
/* All results of `shape` but the shape's sums, at `index`. */
void th_cuda_store_all(th_cuda_gen *x, const th_type *shape, const char *const *index);
/* Variable `acc` becomes `op`'s reduction over that of all threads of a team. */
void th_cuda_across_team(th_cuda_gen *x, const th_op *op, const char *acc);
/* Does the text note bad indices or divisions? */
bool th_cuda_checks(const th_cuda_gen *x);
th_dim th_cuda_blocks(th_cuda_gen *x, th_dim items, int64_t each); /* items / each, rounded up */
bool th_cuda_is_sum(const th_cuda_gen *x, th_value v);               /* is v one of the shape's sums? */
const char *th_cuda_serial_reduction(th_gen *g, const th_op *op, const char *const *index); /* as a loop of each thread's own */
/* The kernel after *out, which adds up `parts` parts of each of the shape's sums. */
void th_cuda_add_parts(th_cuda_gen *x, int64_t parts, th_kernel_source *out);

/* ---- rows.c ---- */

void th_cuda_rows(th_cuda_gen *x, th_kernel_source *out);
const char *th_cuda_row_reduction(th_gen *g, const th_op *op, const char *const *index); /* th_gen.reduce */

#endif
