/* Contractions as matrix products: dimensions fall into batch, free and contracted; each group is walked with one stride
 * where the layout allows, else the operand is packed. */
#include <stdlib.h>
#include <string.h>

#include "executors/run/library.h"

typedef struct part { int64_t size, stride; bool one; } part; /* dimensions walked as one */

static part collapse(const th_view *v, const uint32_t *dims, uint32_t n) {
  part p = {1, 0, true};
  for (uint32_t i = n; i-- > 0;) {
    int64_t size = v->dims[dims[i]], stride = v->strides[dims[i]];
    if (size == 1) continue;
    if (p.size == 1) p.stride = stride;
    else if (stride != p.size * p.stride) p.one = false;
    p.size *= size;
  }
  return p;
}

typedef struct matrix { th_view v; part row, column; bool trans, packed; int64_t ld; } matrix;

static bool walkable(matrix *m) { /* row-major with a leading dimension, or stored transposed */
  part r = m->row, c = m->column;
  if (!r.one || !c.one) return false;
  if (c.size == 1) c.stride = 1;
  if (r.size == 1) r.stride = c.stride == 1 ? c.size : 1;
  if (c.stride == 1 && r.stride >= c.size) {
    m->trans = false;
    m->ld = r.stride > 0 ? r.stride : 1;
    return true;
  }
  if (r.stride == 1 && (c.stride >= r.size || m->column.size == 1)) {
    m->trans = true;
    m->ld = m->column.size == 1 ? r.size : c.stride;
    return true;
  }
  return false;
}

static void permute(const th_view *v, const uint32_t *order, th_view *out) {
  *out = *v;
  for (uint32_t i = 0; i < v->rank; i++) {
    out->dims[i] = v->dims[order[i]];
    out->strides[i] = v->strides[order[i]];
  }
}

static void split(matrix *m, uint32_t batch, uint32_t rows) {
  uint32_t dims[TH_RUN_RANK];
  for (uint32_t i = 0; i < m->v.rank; i++) dims[i] = i;
  m->row = collapse(&m->v, dims + batch, rows);
  m->column = collapse(&m->v, dims + batch + rows, m->v.rank - batch - rows);
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

static bool in(int64_t d, const int64_t *list, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (list[i] == d) return true;
  return false;
}

th_status th_lib_dot(const th_library_args *args) {
  if (args->n_operands != 2 || args->n_results != 1 || args->n_ints < 2) return TH_ERROR(INVALID_ARGUMENT, "dot: wrong number of operands or ints");
  int64_t nb = args->ints[0], nc = args->ints[1];
  const th_view *l = &args->operands[0], *r = &args->operands[1], *out = &args->results[0];
  if (nb < 0 || nc < 0 || args->n_ints != 2 + 2 * nb + 2 * nc || nb + nc > l->rank || nb + nc > r->rank || out->rank != l->rank + r->rank - nb - 2 * nc)
    return TH_ERROR(INVALID_ARGUMENT, "dot: ranks %u, %u, %u do not fit", l->rank, r->rank, out->rank);
  const int64_t *lb = args->ints + 2, *rb = lb + nb, *lc = rb + nb, *rc = lc + nc;
  uint32_t lo[TH_RUN_RANK], ro[TH_RUN_RANK], n = 0, k = 0;
  for (int64_t i = 0; i < nb + nc; i++) {
    int64_t x = i < nb ? lb[i] : lc[i - nb], y = i < nb ? rb[i] : rc[i - nb];
    if (x < 0 || y < 0 || x >= l->rank || y >= r->rank || l->dims[x] != r->dims[y]) return TH_ERROR(INVALID_ARGUMENT, "dot: dimensions %lld and %lld do not fit", (long long)x, (long long)y);
  }
  for (int64_t i = 0; i < nb; i++) lo[n++] = (uint32_t)lb[i], ro[k++] = (uint32_t)rb[i];
  for (uint32_t i = 0; i < l->rank; i++)
    if (!in(i, lb, nb) && !in(i, lc, nc)) lo[n++] = i;
  for (int64_t i = 0; i < nc; i++) lo[n++] = (uint32_t)lc[i], ro[k++] = (uint32_t)rc[i];
  for (uint32_t i = 0; i < r->rank; i++)
    if (!in(i, rb, nb) && !in(i, rc, nc)) ro[k++] = i;
  matrix a = {0}, b = {0}, c = {.v = *out};
  permute(l, lo, &a.v);
  permute(r, ro, &b.v);
  uint32_t lf = l->rank - (uint32_t)(nb + nc);
  th_dtype work = out->dtype == TH_DTYPE_f64 ? TH_DTYPE_f64 : TH_DTYPE_f32;
  int32_t threads = args->context->threads;
  th_status status = prepare(&a, (uint32_t)nb, lf, work, threads);
  if (!status) status = prepare(&b, (uint32_t)nb, (uint32_t)nc, work, threads);
  split(&c, (uint32_t)nb, lf);
  bool direct = out->dtype == work && walkable(&c);
  if (!status && !direct) {
    status = th_view_pack(out, threads, &c.v);
    split(&c, (uint32_t)nb, lf);
    c.packed = !status;
    if (!status && !walkable(&c)) status = TH_ERROR(INTERNAL, "dot: a packed result cannot be walked");
  }
  if (!status) status = multiply(&a, &b, &c, (uint32_t)nb, args->alpha);
  if (!status && c.packed) th_view_copy(&c.v, out, threads);
  if (a.packed) free(a.v.data);
  if (b.packed) free(b.v.data);
  if (c.packed) free(c.v.data);
  return status;
}
