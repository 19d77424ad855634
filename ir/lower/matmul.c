/* Contractions. */
#include "ir/lower/helpers.h"

/* Operands of several float dtypes become the widest: they are there only before the autocast pass, where the program converted one of
 * them itself (PyTorch takes no others). */
static void want_same_dtype(th_rule *r, const th_value *in, uint32_t n) {
  th_dtype wide = th_dtype_of(r->b, in[0]);
  bool same = true, floats = true;
  for (uint32_t i = 0; i < n && !r->b->status; i++) {
    if (in[i] == TH_NO_VALUE) continue;
    th_dtype d = th_dtype_of(r->b, in[i]);
    same &= d == th_dtype_of(r->b, in[0]);
    floats &= th_dtype_is_float(d);
    wide = th_dtype_promote(wide, d);
  }
  if (same || r->b->status) return;
  if (!floats || in != r->in) {
    th_rule_fail(r, "operands are of several dtypes; convert them to one");
    return;
  }
  th_value *one = TH_ARENA_ARRAY(th_context_arena(th_ctx(r->b)), th_value, r->n_in + 1);
  for (uint32_t i = 0; i < r->n_in; i++) one[i] = i < n && in[i] != TH_NO_VALUE ? th_convert(r->b, in[i], wide) : in[i];
  r->in = one;
}

static bool want_rank(th_rule *r, th_value v, uint32_t rank, const char *what) {
  if (r->b->status) return false;
  if (th_rank(r->b, v) != rank) th_rule_fail(r, "%s has rank %u, want %u", what, th_rank(r->b, v), rank);
  return !r->b->status;
}

/* (…, m, k) x (…, k, n) over equal leading dims. */
static th_value matrices(th_builder *b, th_value x, th_value y) {
  if (b->status) return TH_NO_VALUE;
  uint32_t rank = th_rank(b, x), n = rank - 2;
  int64_t batch[TH_MAX_RANK], l = rank - 1, r = rank - 2;
  for (uint32_t i = 0; i < n; i++) batch[i] = i;
  return th_dot(b, x, y, batch, batch, n, &l, &r, 1);
}

void th__lower_linear(th_rule *r) {
  want_same_dtype(r, r->in, 3);
  uint32_t rx = th_rank(r->b, r->in[0]), rw = th_rank(r->b, r->in[1]);
  if (rx < 1 || rw < 1 || rw > 2) th_rule_fail(r, "input of rank %u, weight of rank %u", rx, rw);
  int64_t l = rx - 1, k = rw - 1;
  th_value y = th_dot(r->b, r->in[0], r->in[1], NULL, NULL, 0, &l, &k, 1);
  if (r->in[2] != TH_NO_VALUE) y = th_add(r->b, y, th_broadcast_like(r->b, r->in[2], y));
  th_rule_return(r, y);
}

void th__lower_mm(th_rule *r) {
  want_same_dtype(r, r->in, 2);
  if (want_rank(r, r->in[0], 2, "self") && want_rank(r, r->in[1], 2, "mat2")) th_rule_return(r, matrices(r->b, r->in[0], r->in[1]));
}

void th__lower_bmm(th_rule *r) {
  want_same_dtype(r, r->in, 2);
  if (want_rank(r, r->in[0], 3, "self") && want_rank(r, r->in[1], 3, "mat2")) th_rule_return(r, matrices(r->b, r->in[0], r->in[1]));
}

void th__lower_mv(th_rule *r) {
  want_same_dtype(r, r->in, 2);
  if (want_rank(r, r->in[0], 2, "self") && want_rank(r, r->in[1], 1, "vec"))
    th_rule_return(r, th_dot(r->b, r->in[0], r->in[1], NULL, NULL, 0, (int64_t[]){1}, (int64_t[]){0}, 1));
}

void th__lower_vdot(th_rule *r) {
  want_same_dtype(r, r->in, 2);
  if (want_rank(r, r->in[0], 1, "self") && want_rank(r, r->in[1], 1, "tensor"))
    th_rule_return(r, th_dot(r->b, r->in[0], r->in[1], NULL, NULL, 0, (int64_t[]){0}, (int64_t[]){0}, 1));
}

void th__lower_outer(th_rule *r) {
  th_dtype d = th_result_type(r->b, r->in, 2);
  if (!want_rank(r, r->in[0], 1, "self") || !want_rank(r, r->in[1], 1, "vec2")) return;
  th_value x = th_convert(r->b, r->in[0], d), y = th_convert(r->b, r->in[1], d);
  th_dim dims[2] = {th_size(r->b, x, 0), th_size(r->b, y, 0)};
  th_rule_return(r, th_mul(r->b, th_broadcast(r->b, x, dims, 2, (int64_t[]){0}), th_broadcast(r->b, y, dims, 2, (int64_t[]){1})));
}

/* torch.matmul: vectors get a dimension that goes again, leading dimensions broadcast. */
void th__lower_matmul(th_rule *r) {
  th_builder *b = r->b;
  want_same_dtype(r, r->in, 2);
  th_value x = r->in[0], y = r->in[1];
  uint32_t rx = th_rank(b, x), ry = th_rank(b, y);
  if (rx == 0 || ry == 0) th_rule_fail(r, "a rank-0 operand");
  if (b->status) return;
  if (ry == 1) { /* (…, k) x (k) */
    th_rule_return(r, th_dot(b, x, y, NULL, NULL, 0, (int64_t[]){rx - 1}, (int64_t[]){0}, 1));
    return;
  }
  if (ry == 2) { /* (…, k) x (k, n): one product, whatever leads */
    th_rule_return(r, th_dot(b, x, y, NULL, NULL, 0, (int64_t[]){rx - 1}, (int64_t[]){0}, 1));
    return;
  }
  th_type tx = th_rule_type(b, x), ty = th_rule_type(b, y);
  bool vector = rx == 1;
  th_dim lead[TH_MAX_RANK], dx[TH_MAX_RANK], dy[TH_MAX_RANK], two[2];
  if (vector) {
    two[0] = th_k(b, 1);
    two[1] = tx.dims[0];
    x = th_reshape(b, x, two, 2);
    tx = th_rule_type(b, x);
  }
  uint32_t nx = tx.rank - 2, ny = ty.rank - 2, n = nx > ny ? nx : ny;
  for (uint32_t i = 0; i < n; i++) {
    th_dim a = i + nx >= n ? tx.dims[i + nx - n] : th_k(b, 1), c = i + ny >= n ? ty.dims[i + ny - n] : th_k(b, 1);
    lead[i] = th_dim_is(th_ctx(b), a, 1) ? c : a;
    if (a != c && !th_dim_is(th_ctx(b), a, 1) && !th_dim_is(th_ctx(b), c, 1)) th_rule_fail(r, "leading dimensions do not broadcast");
    dx[i] = dy[i] = lead[i];
  }
  for (uint32_t i = 0; i < 2; i++) {
    dx[n + i] = tx.dims[nx + i];
    dy[n + i] = ty.dims[ny + i];
  }
  th_value z = matrices(b, th_broadcast_to(b, x, dx, n + 2), th_broadcast_to(b, y, dy, n + 2));
  if (vector && !b->status) {
    th_type tz = th_rule_type(b, z);
    th_dim dims[TH_MAX_RANK];
    memcpy(dims, tz.dims, n * sizeof *dims);
    dims[n] = tz.dims[n + 1];
    z = th_reshape(b, z, dims, n + 1);
  }
  th_rule_return(r, z);
}

static void add_product(th_rule *r, uint32_t rank) {
  th_builder *b = r->b;
  want_same_dtype(r, r->in, 3);
  if (!want_rank(r, r->in[1], rank, "the first factor") || !want_rank(r, r->in[2], rank, "the second factor")) return;
  double beta = th_rule_float(r, "beta"), alpha = th_rule_float(r, "alpha");
  th_value y = th_mul_scalar(b, matrices(b, r->in[1], r->in[2]), alpha);
  if (beta != 0) y = th_add(b, th_mul_scalar(b, th_broadcast_like(b, r->in[0], y), beta), y);
  th_rule_return(r, y);
}
void th__lower_addmm(th_rule *r) { add_product(r, 2); }
void th__lower_baddbmm(th_rule *r) { add_product(r, 3); }
