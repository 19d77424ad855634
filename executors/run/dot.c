/* Contractions as matrix products: dimensions fall into batch, free and contracted; each group is walked with one stride
 * where the layout allows, else the operand is packed. */
#include <stdlib.h>
#include <string.h>

#include "executors/run/contraction.h"

typedef struct matrix { th_view v; th_walk row, column; bool trans, packed; int64_t ld; } matrix;

static bool walkable(matrix *m) { /* row-major with a leading dimension, or stored transposed */
  th_walk r = m->row, c = m->column;
  return r.one && c.one && th_matrix_walk(c.size, c.stride, r.size, r.stride, &m->trans, &m->ld);
}

static void permute(const th_view *v, const uint8_t *order, th_view *out) {
  *out = *v;
  for (uint32_t i = 0; i < v->rank; i++) {
    out->dims[i] = v->dims[order[i]];
    out->strides[i] = v->strides[order[i]];
  }
}

static void split(matrix *m, uint32_t batch, uint32_t rows) {
  uint8_t dims[TH_RUN_RANK];
  for (uint32_t i = 0; i < m->v.rank; i++) dims[i] = (uint8_t)i;
  m->row = th_walk_group(&m->v, dims + batch, rows);
  m->column = th_walk_group(&m->v, dims + batch + rows, m->v.rank - batch - rows);
}

static th_status prepare(matrix *m, uint32_t batch, uint32_t rows, th_dtype work, int32_t threads) {
  split(m, batch, rows);
  if (m->v.dtype == work && walkable(m)) return TH_OK;
  th_view packed;
  TH_TRY(th_view_pack(&m->v, threads, &packed));
  m->v = packed;
  m->packed = true;
  split(m, batch, rows);
  return walkable(m) ? TH_OK : TH_ERROR(INTERNAL, "dot: a packed operand cannot be walked");
}

static void *batch_pointer(const th_view *v, uint32_t n, int64_t index) {
  int64_t offset = 0;
  for (uint32_t i = n; i-- > 0;) {
    offset += index % v->dims[i] * v->strides[i];
    index /= v->dims[i];
  }
  return (char *)v->data + offset * (int64_t)th_dtype_size(v->dtype);
}

static th_status multiply(matrix *a, matrix *b, matrix *c, uint32_t nb, double alpha) {
  int64_t batch = 1;
  for (uint32_t i = 0; i < nb; i++) batch *= c->v.dims[i];
  if (!batch) return TH_OK;
  void **p = malloc(3 * (size_t)batch * sizeof *p);
  if (!p) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %lld matrices", (long long)batch);
  for (int64_t i = 0; i < batch; i++) {
    p[i] = batch_pointer(&a->v, nb, i);
    p[batch + i] = batch_pointer(&b->v, nb, i);
    p[2 * batch + i] = batch_pointer(&c->v, nb, i);
  }
  th_gemm g = {.dtype = a->v.dtype, .m = a->row.size, .n = b->column.size, .k = a->column.size, .batch = batch, .alpha = alpha, .ldc = c->ld};
  if (!c->trans) {
    g.trans_a = a->trans, g.trans_b = b->trans, g.lda = a->ld, g.ldb = b->ld;
    g.a = (const void *const *)p, g.b = (const void *const *)(p + batch);
  } else { /* C' = B' A' */
    g.m = b->column.size, g.n = a->row.size;
    g.trans_a = !b->trans, g.trans_b = !a->trans, g.lda = b->ld, g.ldb = a->ld;
    g.a = (const void *const *)(p + batch), g.b = (const void *const *)p;
  }
  g.c = p + 2 * batch;
  th_status status = th_gemm_run(&g);
  free(p);
  return status;
}

th_status th_lib_dot(const th_library_args *args) {
  th_contraction r;
  if (args->n_operands != 2 || args->n_results != 1) return TH_ERROR(INVALID_ARGUMENT, "dot: wrong number of operands or results");
  const th_view *out = &args->results[0];
  TH_TRY(th_contraction_read(args->ints, args->n_ints, &args->operands[0], &args->operands[1], out, &r));
  if (args->n_ints != 2 + 2 * (r.n_batch + r.n_contract)) return TH_ERROR(INVALID_ARGUMENT, "dot: %u ints are too many", args->n_ints);
  matrix a = {0}, b = {0}, c = {.v = *out};
  permute(&args->operands[0], r.lhs, &a.v);
  permute(&args->operands[1], r.rhs, &b.v);
  th_dtype work = out->dtype == TH_DTYPE_f64 ? TH_DTYPE_f64 : TH_DTYPE_f32;
  int32_t threads = args->context->threads;
  th_status status = prepare(&a, r.n_batch, r.n_rows, work, threads);
  if (!status) status = prepare(&b, r.n_batch, r.n_contract, work, threads);
  split(&c, r.n_batch, r.n_rows);
  bool direct = out->dtype == work && walkable(&c);
  if (!status && !direct) {
    status = th_view_pack(out, threads, &c.v);
    split(&c, r.n_batch, r.n_rows);
    c.packed = !status;
    if (!status && !walkable(&c)) status = TH_ERROR(INTERNAL, "dot: a packed result cannot be walked");
  }
  if (!status) status = multiply(&a, &b, &c, r.n_batch, args->alpha);
  if (!status && c.packed) th_view_copy(&c.v, out, threads);
  if (a.packed) free(a.v.data);
  if (b.packed) free(b.v.data);
  if (c.packed) free(c.v.data);
  return status;
}
