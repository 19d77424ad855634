/* Reading and writing at indices. */
#include "ir/lower/helpers.h"

static th_value to_i64(th_rule *r, th_value index) {
  th_dtype d = th_dtype_of(r->b, index);
  if (!th_dtype_is_integral(d) || d == TH_DTYPE_bool) th_rule_fail(r, "the index is %s, want integers", th_dtype_name(d));
  return th_convert(r->b, index, TH_DTYPE_i64);
}

static uint32_t dim_of(th_rule *r, th_value x) { return th_wrap_dim(r->b, th_rule_int(r, "dim"), th_rank(r->b, x)); }

static th_value at_least_1d(th_builder *b, th_value x) {
  th_dim one = th_k(b, 1);
  return th_rank(b, x) == 0 ? th_reshape(b, x, &one, 1) : x;
}

/* x cut to the sizes of `like` in every dimension but `dim` (TH_MAX_RANK: in all). */
static th_value cut(th_rule *r, th_value x, th_value like, uint32_t dim) {
  th_builder *b = r->b;
  if (b->status) return TH_NO_VALUE;
  th_type tl = th_rule_type(b, like);
  if (th_rank(b, x) != tl.rank) {
    th_rule_fail(r, "the index has rank %u, the tensor rank %u", tl.rank, th_rank(b, x));
    return TH_NO_VALUE;
  }
  for (uint32_t i = 0; i < tl.rank && !b->status; i++)
    if (i != dim && th_size(b, x, i) != tl.dims[i]) x = th_slice_dim(b, x, i, th_k(b, 0), tl.dims[i], th_k(b, 1));
  return x;
}

static th_value along(th_rule *r, th_op_kind kind, const th_value *operands, uint32_t n, uint32_t dim) {
  return th_build1(r->b, kind, operands, n, (th_attr[]){th_make_int(th_ctx(r->b), dim)});
}

void th__lower_gather(th_rule *r) {
  th_builder *b = r->b;
  th_value x = at_least_1d(b, r->in[0]), at = at_least_1d(b, to_i64(r, r->in[1]));
  uint32_t dim = dim_of(r, x);
  th_value y = along(r, TH_OP_take_along, (th_value[]){cut(r, x, at, dim), at}, 2, dim);
  if (b->status) return;
  th_type t = th_rule_type(b, r->in[1]);
  th_rule_return(r, th_reshape(b, y, t.dims, t.rank));
}

void th__lower_index_select(th_rule *r) {
  th_builder *b = r->b;
  th_value x = at_least_1d(b, r->in[0]), at = at_least_1d(b, to_i64(r, r->in[1]));
  if (th_rank(b, at) != 1) th_rule_fail(r, "the index has rank %u, want 1", th_rank(b, at));
  th_value y = th_take(b, x, at, dim_of(r, x));
  if (b->status) return;
  th_rule_return(r, th_rank(b, r->in[0]) == 0 ? th_reshape(b, y, NULL, 0) : y);
}

/* Scatters into the part of x that the index covers, from dimension `from` on, and puts the rest behind it. */
static th_value scatter_into(th_rule *r, th_op_kind kind, th_value x, th_value at, th_value updates, uint32_t dim, uint32_t from) {
  th_builder *b = r->b;
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  for (uint32_t i = from; i < t.rank; i++) {
    th_dim n = th_size(b, at, i);
    if (i == dim || n == t.dims[i]) continue;
    th_value head = th_slice_dim(b, x, i, th_k(b, 0), n, th_k(b, 1)), rest = th_slice_dim(b, x, i, n, t.dims[i], th_k(b, 1));
    return th_concat(b, (th_value[]){scatter_into(r, kind, head, at, updates, dim, i + 1), rest}, 2, i);
  }
  return along(r, kind, (th_value[]){x, at, updates}, 3, dim);
}

static void scatter(th_rule *r, th_op_kind kind, bool number) {
  th_builder *b = r->b;
  th_value x = at_least_1d(b, r->in[0]), at = at_least_1d(b, to_i64(r, r->in[1]));
  uint32_t dim = dim_of(r, x);
  if (b->status) return;
  th_dtype d = th_dtype_of(b, x);
  if (th_rank(b, at) != th_rank(b, x)) th_rule_fail(r, "the index has rank %u, the tensor rank %u", th_rank(b, at), th_rank(b, x));
  th_value updates;
  if (number) updates = th_broadcast_like(b, th_convert(b, r->in[2], d), at);
  else {
    if (th_dtype_of(b, r->in[2]) != d) th_rule_fail(r, "src is %s, self %s", th_dtype_name(th_dtype_of(b, r->in[2])), th_dtype_name(d));
    updates = cut(r, at_least_1d(b, r->in[2]), at, TH_MAX_RANK);
  }
  th_value y = scatter_into(r, kind, x, at, updates, dim, 0);
  if (b->status) return;
  th_type t = th_rule_type(b, r->in[0]);
  th_rule_return(r, th_reshape(b, y, t.dims, t.rank));
}
void th__lower_scatter_src(th_rule *r) { scatter(r, TH_OP_scatter_along, false); }
void th__lower_scatter_value(th_rule *r) { scatter(r, TH_OP_scatter_along, true); }
void th__lower_scatter_add(th_rule *r) { scatter(r, TH_OP_scatter_add_along, false); }

void th__lower_index_add(th_rule *r) {
  th_builder *b = r->b;
  th_value x = at_least_1d(b, r->in[0]), at = at_least_1d(b, to_i64(r, r->in[1]));
  th_value updates = th_mul_scalar(b, at_least_1d(b, r->in[2]), th_rule_float(r, "alpha"));
  if (th_dtype_of(b, x) != th_dtype_of(b, updates)) th_rule_fail(r, "source is %s, self %s", th_dtype_name(th_dtype_of(b, updates)), th_dtype_name(th_dtype_of(b, x)));
  th_value y = along(r, TH_OP_scatter_add, (th_value[]){x, at, updates}, 3, dim_of(r, x));
  if (b->status) return;
  th_type t = th_rule_type(b, r->in[0]);
  th_rule_return(r, th_reshape(b, y, t.dims, t.rank));
}

void th__lower_one_hot(th_rule *r) {
  th_builder *b = r->b;
  th_value x = to_i64(r, r->in[0]);
  int64_t classes = th_rule_int(r, "num_classes"), map[TH_MAX_RANK];
  if (classes < 1) th_rule_fail(r, "num_classes is %lld; give the number of classes (it cannot depend on the data)", (long long)classes);
  if (b->status) return;
  th_type t = th_rule_type(b, x);
  th_dim dims[TH_MAX_RANK + 1];
  for (uint32_t i = 0; i < t.rank; i++) {
    dims[i] = t.dims[i];
    map[i] = i;
  }
  dims[t.rank] = th_k(b, classes);
  th_value hit = th_eq(b, th_broadcast(b, x, dims, t.rank + 1, map), th_iota(b, dims, t.rank + 1, t.rank, TH_DTYPE_i64));
  th_rule_return(r, th_convert(b, hit, TH_DTYPE_i64));
}
