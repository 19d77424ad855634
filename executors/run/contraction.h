/* Contractions as matrix products, for the run half and for the compile half that promises layouts: which dimensions are batch,
 * rows, contracted, columns; how dimensions are walked as one; and whether and how cublaslt.matmul (executors/run/library.h) walks
 * a product without copying. Of a th_view only dtype, rank, dims and strides are looked at; data may be NULL. No device, no IR.
 * Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_CONTRACTION_H
#define THUNDER_EXECUTORS_RUN_CONTRACTION_H

#include "executors/run/library.h"

/* The dimensions of a dot by their role. Result: batch, rows, columns, in this order. */
typedef struct th_contraction {
  uint32_t n_batch, n_rows, n_contract, n_columns;
  uint8_t lhs[TH_RUN_RANK]; /* numbers of lhs' dimensions: batch, rows, contracted */
  uint8_t rhs[TH_RUN_RANK]; /* of rhs': batch, contracted, columns */
} th_contraction;

/* Reads ints as those of "dot" (more may follow) and holds them against the views' dims. INVALID_ARGUMENT. */
th_status th_contraction_read(const int64_t *ints, uint32_t n_ints, const th_view *lhs, const th_view *rhs, const th_view *result,
                              th_contraction *out);

typedef struct th_walk { /* dimensions walked as one, in their order */
  int64_t size, stride;  /* elements */
  bool one;              /* false: no single stride does */
} th_walk;
th_walk th_walk_group(const th_view *view, const uint8_t *dims, uint32_t n);

/* Whether a matrix lies column after column (out_trans false: rows have stride 1) or row after row (true) without overlap;
 * out_ld: the stride of the other dimension, at least the extent of the first and 1. A stride of a dimension of size 1 is ignored. */
bool th_matrix_walk(int64_t rows, int64_t row_stride, int64_t columns, int64_t column_stride, bool *out_trans, int64_t *out_ld);

/* What takes part in cublaslt.matmul, by role. */
typedef enum th_matmul_part {
  TH_MATMUL_LHS,
  TH_MATMUL_RHS,
  TH_MATMUL_RESULT,
  TH_MATMUL_AUX,    /* shaped as the result: x of the gelu gradients, P of the gelus, what is added */
  TH_MATMUL_VECTOR, /* bias or a sum: (batch..., rows... or columns...), a bias without batch too; no gaps between its elements */
  TH_MATMUL_PARTS
} th_matmul_part;

/* How it is done: for each index of the outer loops one call of `batch` column-major products D = op(A) op(B), D of m rows and n
 * columns. Strides and leading dimensions in elements. */
typedef struct th_matmul_plan {
  const th_view *views[TH_MATMUL_PARTS]; /* the caller's, NULL where the epilogue has none */
  th_matmul_epilogue epilogue;
  bool tf32;    /* allowed */
  bool empty;   /* no product to make: every result is zeros. What follows is unset */
  bool swapped; /* D is the result's transpose: A is rhs, B is lhs; else A is lhs, B is rhs */
  bool trans_a, trans_b;
  int64_t m, n, k, batch; /* each from 1 to INT32_MAX */
  int64_t lda, ldb, ldd;
  int64_t ld_aux;         /* a multiple of 8, but of TH_EPILOGUE_ADD; 0: none */
  int64_t batch_strides[TH_MATMUL_PARTS];
  uint32_t n_outer;
  int64_t outer[TH_RUN_RANK], outer_strides[TH_RUN_RANK][TH_MATMUL_PARTS];
} th_matmul_plan;

/* operands, results, ints: as cublaslt.matmul's. Of several ways the one with the largest product in one call: batch dimensions
 * over which rhs (lhs) does not move count as rows (columns), dimensions that lie one after the other in every view are walked as
 * one, what is left over is batch, then outer loops.
 * INVALID_ARGUMENT: shapes or dtypes that do not fit; a view (named) that has no unit stride where it needs one or overlaps itself.
 * UNIMPLEMENTED: a dtype, or an epilogue (named) that these layouts do not allow. */
th_status th_matmul_plan_make(const int64_t *ints, uint32_t n_ints, const th_view *operands, uint32_t n_operands, const th_view *results,
                              uint32_t n_results, th_matmul_plan *out);

/* Whether th_matmul_plan_make would succeed. The library may still know no algorithm for what it would be asked. */
bool th_matmul_takes(const int64_t *ints, uint32_t n_ints, const th_view *operands, uint32_t n_operands, const th_view *results,
                     uint32_t n_results);

/* Walks the strided batch in the outermost loop instead: one product a call. */
void th_matmul_plan_unbatch(th_matmul_plan *plan);

#endif
