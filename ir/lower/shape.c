/* Ops that move elements: views, slices, joins, repeats. */
#include "ir/lower/helpers.h"

static th_value plain(th_rule *r) { return th_convert(r->b, r->in[0], th_dtype_of(r->b, r->in[0])); }

/* A shape attribute with one -1 solved; returns the rank. */
static uint32_t shape_of(th_rule *r, const char *name, th_value x, th_dim *dims) {
  const th_attr *a = th_rule_attr(r, name);
  th_context *c = th_ctx(r->b);
  int64_t v;
  int unknown = -1;
  if (r->b->status) return 0;
  if (a->count > TH_MAX_RANK) {
    th_rule_fail(r, "%s has %u entries, at most %d", name, a->count, TH_MAX_RANK);
    return 0;
  }
  th_dim known = th_k(r->b, 1);
  for (uint32_t i = 0; i < a->count; i++) {
    dims[i] = a->ints[i];
    if (th_dim_is_const(c, dims[i], &v) && v < 0) {
      if (v != -1 || unknown >= 0) th_rule_fail(r, "%s[%u] is %lld; one entry may be -1", name, i, (long long)v);
      unknown = (int)i;
    } else {
      known = th_dim_mul(c, known, dims[i]);
    }
  }
  if (unknown >= 0 && !r->b->status) {
    th_type t = th_rule_type(r->b, x);
    th_dim n = th_type_numel(c, &t);
    if (!th_dim_exact_div(c, n, known, &dims[unknown])) {
      int64_t lo, hi, m;
      th_dim_bounds(c, known, &lo, &hi);
      if (th_dim_is_const(c, n, &m) || lo < 1) th_rule_fail(r, "the -1 in %s cannot be solved", name);
      else dims[unknown] = th_dim_floordiv(c, n, known);
    }
  }
  return a->count;
}

static void view(th_rule *r, const char *name) {
  th_dim dims[TH_MAX_RANK];
  th_value x = plain(r);
  uint32_t rank = shape_of(r, name, x, dims);
  th_rule_return(r, th_reshape(r->b, x, dims, rank));
}
void th__lower_view(th_rule *r) { view(r, "size"); }
void th__lower_reshape(th_rule *r) { view(r, "shape"); }

void th__lower_view_as(th_rule *r) {
  th_type t = th_rule_type(r->b, r->in[1]);
  th_rule_return(r, th_reshape(r->b, plain(r), t.dims, t.rank));
}

void th__lower_flatten(th_rule *r) {
  th_value x = plain(r);
  uint32_t rank = th_rank(r->b, x), n = 0;
  uint32_t from = th_wrap_dim(r->b, th_rule_int(r, "start_dim"), rank), to = th_wrap_dim(r->b, th_rule_int(r, "end_dim"), rank);
  th_dim dims[TH_MAX_RANK + 1];
  if (r->b->status) return;
  if (from > to) th_rule_fail(r, "start_dim is after end_dim");
  th_type t = th_rule_type(r->b, x);
  if (rank == 0) dims[n++] = th_k(r->b, 1);
  for (uint32_t i = 0; i < rank; i++) {
    if (i > from && i <= to) dims[n - 1] = th_dim_mul(th_ctx(r->b), dims[n - 1], t.dims[i]);
    else dims[n++] = t.dims[i];
  }
  th_rule_return(r, th_reshape(r->b, x, dims, n));
}

void th__lower_unflatten(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  const th_attr *sizes = th_rule_attr(r, "sizes");
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank), n = 0;
  th_dim dims[TH_MAX_RANK], known = th_k(r->b, 1);
  if (t.rank + sizes->count > TH_MAX_RANK) th_rule_fail(r, "the result's rank is above %d", TH_MAX_RANK);
  if (r->b->status) return;
  for (uint32_t i = 0; i < d; i++) dims[n++] = t.dims[i];
  int unknown = -1;
  for (uint32_t i = 0; i < sizes->count; i++) {
    if (th_dim_is(th_ctx(r->b), sizes->ints[i], -1)) unknown = (int)n;
    else known = th_dim_mul(th_ctx(r->b), known, sizes->ints[i]);
    dims[n++] = sizes->ints[i];
  }
  if (unknown >= 0 && !th_dim_exact_div(th_ctx(r->b), t.dims[d], known, &dims[unknown])) th_rule_fail(r, "the -1 in sizes cannot be solved");
  for (uint32_t i = d + 1; i < t.rank; i++) dims[n++] = t.dims[i];
  th_rule_return(r, th_reshape(r->b, x, dims, n));
}

void th__lower_squeeze(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  int64_t which[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "dim", t.rank, which), m = 0, mask = 0;
  bool all = !th_rule_has(r, "dim");
  th_dim dims[TH_MAX_RANK];
  if (th_rule_has(r, "dim") && th_rule_attr(r, "dim")->count == 0) n = 0;
  for (uint32_t i = 0; i < n; i++) mask |= 1u << which[i];
  for (uint32_t i = 0; i < t.rank; i++)
    if (!((mask >> i & 1 || all) && th_dim_is(th_ctx(r->b), t.dims[i], 1))) dims[m++] = t.dims[i];
  th_rule_return(r, th_reshape(r->b, x, dims, m));
}

void th__lower_unsqueeze(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank + 1), n = 0;
  th_dim dims[TH_MAX_RANK + 1];
  for (uint32_t i = 0; i <= t.rank; i++) {
    if (i == d) dims[n++] = th_k(r->b, 1);
    if (i < t.rank) dims[n++] = t.dims[i];
  }
  th_rule_return(r, th_reshape(r->b, x, dims, n));
}

void th__lower_expand(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  const th_attr *size = th_rule_attr(r, "size");
  th_dim dims[TH_MAX_RANK];
  if (size->count < t.rank || size->count > TH_MAX_RANK) {
    th_rule_fail(r, "size has %u entries for a rank %u tensor", size->count, t.rank);
    return;
  }
  uint32_t lead = size->count - t.rank;
  for (uint32_t i = 0; i < size->count; i++) {
    dims[i] = size->ints[i];
    if (!th_dim_is(th_ctx(r->b), dims[i], -1)) continue;
    if (i < lead) th_rule_fail(r, "size[%u] is -1 for a new dimension", i);
    else dims[i] = t.dims[i - lead];
  }
  th_rule_return(r, th_broadcast_to(r->b, x, dims, size->count));
}

void th__lower_expand_as(th_rule *r) { th_rule_return(r, th_broadcast_like(r->b, plain(r), r->in[1])); }

void th__lower_permute(th_rule *r) {
  th_value x = plain(r);
  uint32_t rank = th_rank(r->b, x);
  int64_t p[TH_MAX_RANK];
  if (th_rule_attr(r, "dims")->count != rank) th_rule_fail(r, "dims has %u entries for a rank %u tensor", th_rule_attr(r, "dims")->count, rank);
  if (rank) th_rule_dims(r, "dims", rank, p);
  th_rule_return(r, th_transpose(r->b, x, p));
}

void th__lower_transpose(th_rule *r) {
  th_value x = plain(r);
  uint32_t rank = th_rank(r->b, x);
  uint32_t i = th_wrap_dim(r->b, th_rule_int(r, "dim0"), rank), j = th_wrap_dim(r->b, th_rule_int(r, "dim1"), rank);
  th_rule_return(r, rank ? th_swap_dims(r->b, x, i, j) : x);
}

void th__lower_t(th_rule *r) {
  th_value x = plain(r);
  uint32_t rank = th_rank(r->b, x);
  th_rule_return(r, rank < 2 ? x : th_swap_dims(r->b, x, rank - 2, rank - 1));
}

void th__lower_movedim(th_rule *r) {
  th_value x = plain(r);
  uint32_t rank = th_rank(r->b, x), next = 0;
  int64_t from[TH_MAX_RANK], to[TH_MAX_RANK], p[TH_MAX_RANK];
  uint32_t n = th_rule_dims(r, "source", rank, from), m = th_rule_dims(r, "destination", rank, to), used = 0, placed = 0;
  if (n != m) th_rule_fail(r, "source and destination have %u and %u entries", n, m);
  if (r->b->status) return;
  for (uint32_t i = 0; i < n; i++) {
    p[to[i]] = from[i];
    used |= 1u << from[i];
    placed |= 1u << to[i];
  }
  for (uint32_t i = 0; i < rank; i++) {
    if (placed >> i & 1) continue;
    while (used >> next & 1) next++;
    p[i] = next++;
  }
  th_rule_return(r, th_transpose(r->b, x, p));
}

/* ---- slices ---- */

/* torch's clamping of slice bounds: a negative one counts from the end, then both are cut to [0, size]. */
static th_dim bound(th_rule *r, const char *name, th_dim size, th_dim fallback) {
  const th_attr *a = th_rule_attr(r, name);
  th_context *c = th_ctx(r->b);
  int64_t v, n, lo, hi;
  if (a->kind != TH_ATTR_INT) return fallback;
  bool cv = th_dim_is_const(c, a->i, &v), cn = th_dim_is_const(c, size, &n);
  if (cv && cn) {
    if (v < 0) v += n;
    return th_dim_const(c, v < 0 ? 0 : v > n ? n : v);
  }
  if (cv && v >= INT64_MAX / 2) return size;
  th_dim d = a->i;
  th_dim_bounds(c, d, &lo, &hi);
  if (cv ? v < 0 : hi < 0) d = th_dim_add(c, d, size);
  return th_dim_max(c, th_dim_min(c, d, size), th_dim_const(c, 0));
}

static void slice_bounds(th_rule *r, th_value x, uint32_t *dim, th_dim *start, th_dim *end, th_dim *step) {
  th_type t = th_rule_type(r->b, x);
  *dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  *step = th_rule_dim(r, "step");
  int64_t s, e;
  if (t.rank == 0) th_rule_fail(r, "a rank-0 tensor cannot be sliced");
  if (!th_dim_is_const(th_ctx(r->b), *step, &s) || s < 1) th_rule_refuse(r, "step must be a constant of at least 1");
  if (r->b->status) return;
  *start = bound(r, "start", t.dims[*dim], th_k(r->b, 0));
  *end = bound(r, "end", t.dims[*dim], t.dims[*dim]);
  if (th_dim_is_const(th_ctx(r->b), *start, &s) && th_dim_is_const(th_ctx(r->b), *end, &e) && e < s) *end = *start;
}

void th__lower_slice(th_rule *r) {
  uint32_t d = 0;
  th_dim start = 0, end = 0, step = 0;
  th_value x = plain(r);
  slice_bounds(r, x, &d, &start, &end, &step);
  th_rule_return(r, th_slice_dim(r->b, x, d, start, end, step));
}

void th__lower_narrow(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  th_dim start = th_rule_dim(r, "start");
  int64_t s;
  if (r->b->status) return;
  if (th_dim_is_const(th_ctx(r->b), start, &s) && s < 0) start = th_dim_add(th_ctx(r->b), start, t.dims[d]);
  th_rule_return(r, th_slice_dim(r->b, x, d, start, th_dim_add(th_ctx(r->b), start, th_rule_dim(r, "length")), th_k(r->b, 1)));
}

static th_dim index_of(th_rule *r, th_dim size) {
  th_dim i = th_rule_dim(r, "index");
  int64_t v, n;
  bool cv = th_dim_is_const(th_ctx(r->b), i, &v);
  if (cv && th_dim_is_const(th_ctx(r->b), size, &n) && (v >= n || v < -n))
    th_rule_fail(r, "index %lld is out of range for size %lld", (long long)v, (long long)n);
  return cv && v < 0 ? th_dim_add(th_ctx(r->b), i, size) : i;
}

static th_value drop_dim(th_builder *b, th_value x, uint32_t d) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  th_dim dims[TH_MAX_RANK];
  uint32_t n = 0;
  for (uint32_t i = 0; i < t.rank; i++)
    if (i != d) dims[n++] = t.dims[i];
  return th_reshape(b, x, dims, n);
}

void th__lower_select(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  if (t.rank == 0) th_rule_fail(r, "a rank-0 tensor cannot be indexed");
  if (r->b->status) return;
  th_dim i = index_of(r, t.dims[d]);
  th_value s = th_slice_dim(r->b, x, d, i, th_dim_add(th_ctx(r->b), i, th_k(r->b, 1)), th_k(r->b, 1));
  th_rule_return(r, drop_dim(r->b, s, d));
}

static bool constant_size(th_rule *r, th_value x, uint32_t *d, int64_t *n) {
  th_type t = th_rule_type(r->b, x);
  *d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  if (r->b->status) return false;
  if (t.rank == 0 || !th_dim_is_const(th_ctx(r->b), t.dims[*d], n)) {
    th_rule_refuse(r, "the size of dimension %u must be a constant", *d);
    return false;
  }
  return true;
}

static void equal_pieces(th_rule *r, th_value x, uint32_t d, int64_t n, int64_t size) {
  if (size < 1 && n > 0) th_rule_fail(r, "pieces of %lld", (long long)size);
  if (n > 0 && size > 0 && (n - 1) / size + 1 >= TH_MAX_RESULTS) th_rule_fail(r, "more than %d pieces", TH_MAX_RESULTS);
  if (r->b->status) return;
  int64_t at = 0;
  do {
    int64_t m = n - at < size ? n - at : size;
    th_rule_return(r, th_slice_dim(r->b, x, d, th_k(r->b, at), th_k(r->b, at + m), th_k(r->b, 1)));
    at += m;
  } while (at < n);
}

void th__lower_split(th_rule *r) {
  uint32_t d;
  int64_t n;
  th_value x = plain(r);
  if (constant_size(r, x, &d, &n)) equal_pieces(r, x, d, n, th_rule_int(r, "split_size"));
}

void th__lower_chunk(th_rule *r) {
  uint32_t d;
  int64_t n, chunks = th_rule_int(r, "chunks");
  th_value x = plain(r);
  if (!constant_size(r, x, &d, &n)) return;
  if (chunks < 1) th_rule_fail(r, "chunks is %lld", (long long)chunks);
  else equal_pieces(r, x, d, n, n ? (n - 1) / chunks + 1 : 0);
}

void th__lower_split_with_sizes(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  const th_attr *a = th_rule_attr(r, "split_sizes");
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  th_dim at = th_k(r->b, 0);
  if (a->count >= TH_MAX_RESULTS) th_rule_fail(r, "more than %d pieces", TH_MAX_RESULTS);
  for (uint32_t i = 0; i < a->count && !r->b->status; i++) {
    th_dim end = th_dim_add(th_ctx(r->b), at, a->ints[i]);
    th_rule_return(r, th_slice_dim(r->b, x, d, at, end, th_k(r->b, 1)));
    at = end;
  }
  if (!r->b->status && at != t.dims[d]) th_rule_fail(r, "split_sizes do not add up to the size of dimension %u", d);
}

void th__lower_unbind(th_rule *r) {
  uint32_t d;
  int64_t n;
  th_value x = plain(r);
  if (!constant_size(r, x, &d, &n)) return;
  if (n >= TH_MAX_RESULTS) th_rule_fail(r, "more than %d pieces", TH_MAX_RESULTS);
  for (int64_t i = 0; i < n && !r->b->status; i++) {
    int64_t one = 1;
    th_value before = th_slice_dim(r->b, x, d, th_k(r->b, i), th_k(r->b, i + one), th_k(r->b, 1));
    th_rule_return(r, drop_dim(r->b, before, d));
  }
}

/* ---- joins and repeats ---- */

void th__lower_cat(th_rule *r) {
  th_value *xs = TH_ARENA_ARRAY(th_context_arena(th_ctx(r->b)), th_value, r->n_in + 1);
  th_dtype d = th_result_type(r->b, r->in, r->n_in);
  uint32_t n = 0, rank = 0;
  for (uint32_t i = 0; i < r->n_in; i++) { /* torch leaves out empty vectors whatever the others' rank */
    th_type t = th_rule_type(r->b, r->in[i]);
    if (t.rank == 1 && th_dim_is(th_ctx(r->b), t.dims[0], 0)) continue;
    xs[n++] = th_convert(r->b, r->in[i], d);
    rank = t.rank;
  }
  if (n == 0 && r->n_in) {
    xs[n++] = th_convert(r->b, r->in[0], d);
    rank = 1;
  }
  if (n == 0) th_rule_fail(r, "no tensors to join");
  uint32_t dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), rank);
  th_rule_return(r, r->b->status ? TH_NO_VALUE : th_concat(r->b, xs, n, dim));
}

void th__lower_stack(th_rule *r) {
  th_value *xs = TH_ARENA_ARRAY(th_context_arena(th_ctx(r->b)), th_value, r->n_in + 1);
  if (r->n_in == 0) th_rule_fail(r, "no tensors to stack");
  if (r->b->status) return;
  th_dtype d = th_result_type(r->b, r->in, r->n_in);
  uint32_t rank = th_rank(r->b, r->in[0]), dim = th_wrap_dim(r->b, th_rule_int(r, "dim"), rank + 1);
  for (uint32_t i = 0; i < r->n_in; i++) {
    th_type t = th_rule_type(r->b, r->in[i]);
    th_dim dims[TH_MAX_RANK + 1];
    uint32_t n = 0;
    for (uint32_t k = 0; k <= t.rank; k++) {
      if (k == dim) dims[n++] = th_k(r->b, 1);
      if (k < t.rank) dims[n++] = t.dims[k];
    }
    xs[i] = th_reshape(r->b, th_convert(r->b, r->in[i], d), dims, n);
  }
  th_rule_return(r, th_concat(r->b, xs, r->n_in, dim));
}

/* Repeats by a broadcast over a new dimension before each one, then a reshape. */
void th__lower_repeat(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  const th_attr *a = th_rule_attr(r, "repeats");
  th_dim wide[TH_MAX_RANK], dims[TH_MAX_RANK];
  int64_t map[TH_MAX_RANK];
  if (a->count < t.rank || a->count * 2 > TH_MAX_RANK) {
    th_rule_fail(r, "repeats has %u entries for a rank %u tensor", a->count, t.rank);
    return;
  }
  uint32_t lead = a->count - t.rank;
  for (uint32_t i = 0; i < a->count; i++) {
    th_dim size = i < lead ? th_k(r->b, 1) : t.dims[i - lead];
    wide[2 * i] = a->ints[i];
    wide[2 * i + 1] = size;
    dims[i] = th_dim_mul(th_ctx(r->b), a->ints[i], size);
    if (i >= lead) map[i - lead] = 2 * i + 1;
  }
  th_rule_return(r, th_reshape(r->b, th_broadcast(r->b, x, wide, 2 * a->count, map), dims, a->count));
}

void th__lower_repeat_interleave(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  th_dim flat = th_type_numel(th_ctx(r->b), &t);
  if (!th_rule_has(r, "dim")) {
    x = th_reshape(r->b, x, &flat, 1);
    t = th_rule_type(r->b, x);
  }
  uint32_t d = th_rule_has(r, "dim") ? th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank) : 0, n = 0;
  th_dim wide[TH_MAX_RANK + 1], dims[TH_MAX_RANK], times = th_rule_dim(r, "repeats");
  int64_t map[TH_MAX_RANK];
  if (r->b->status) return;
  for (uint32_t i = 0; i < t.rank; i++) {
    map[i] = n;
    wide[n++] = t.dims[i];
    dims[i] = t.dims[i];
    if (i == d) wide[n++] = times;
  }
  dims[d] = th_dim_mul(th_ctx(r->b), dims[d], times);
  th_rule_return(r, th_reshape(r->b, th_broadcast(r->b, x, wide, n, map), dims, t.rank));
}

void th__lower_flip(th_rule *r) {
  th_value x = plain(r);
  int64_t d[TH_MAX_RANK];
  uint32_t n = th_rule_attr(r, "dims")->count ? th_rule_dims(r, "dims", th_rank(r->b, x), d) : 0;
  th_rule_return(r, n ? th_reverse(r->b, x, d, n) : x);
}

void th__lower_roll(th_rule *r) {
  th_value x = plain(r);
  th_type given = th_rule_type(r->b, x), t = given;
  const th_attr *shifts = th_rule_attr(r, "shifts"), *dims = th_rule_attr(r, "dims");
  bool flat = dims->count == 0;
  if (flat) {
    th_dim n = th_type_numel(th_ctx(r->b), &t);
    x = th_reshape(r->b, x, &n, 1);
    if (!r->b->status) t = th_rule_type(r->b, x);
  }
  if (shifts->count != (flat ? 1 : dims->count)) th_rule_fail(r, "shifts and dims have %u and %u entries", shifts->count, dims->count);
  for (uint32_t i = 0; i < shifts->count && !r->b->status; i++) {
    int64_t d = 0;
    if (!flat && !th_dim_is_const(th_ctx(r->b), dims->ints[i], &d)) th_rule_refuse(r, "dims must be constants");
    uint32_t k = th_wrap_dim(r->b, d, t.rank);
    if (r->b->status) return;
    if (th_dim_is(th_ctx(r->b), t.dims[k], 0)) continue;
    th_dim cut = th_dim_mod(th_ctx(r->b), th_dim_sub(th_ctx(r->b), th_k(r->b, 0), shifts->ints[i]), t.dims[k]);
    if (th_dim_is(th_ctx(r->b), cut, 0)) continue;
    th_value tail = th_slice_dim(r->b, x, k, cut, t.dims[k], th_k(r->b, 1)), head = th_slice_dim(r->b, x, k, th_k(r->b, 0), cut, th_k(r->b, 1));
    x = th_concat(r->b, (th_value[]){tail, head}, 2, k);
  }
  th_rule_return(r, th_reshape(r->b, x, given.dims, given.rank));
}

void th__lower_pad(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  const th_attr *a = th_rule_attr(r, "pad");
  th_dim low[TH_MAX_RANK], high[TH_MAX_RANK];
  if (a->count % 2 || a->count / 2 > t.rank) {
    th_rule_fail(r, "pad has %u entries for a rank %u tensor", a->count, t.rank);
    return;
  }
  for (uint32_t i = 0; i < t.rank; i++) {
    uint32_t from_end = t.rank - 1 - i;
    bool given = from_end < a->count / 2;
    low[i] = given ? a->ints[2 * from_end] : th_k(r->b, 0);
    high[i] = given ? a->ints[2 * from_end + 1] : th_k(r->b, 0);
  }
  th_rule_return(r, th_pad(r->b, x, th_const(r->b, th_rule_float(r, "value"), t.dtype), low, high, NULL));
}

/* x with the slice [start:end:step] of dim replaced: src padded to x's shape, chosen where its padding is not. */
static th_value put_slice(th_rule *r, th_value x, th_value src, uint32_t d, th_dim start, th_dim end, th_dim step) {
  th_builder *b = r->b;
  th_context *c = th_ctx(b);
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x), s = th_rule_type(b, src);
  th_dim low[TH_MAX_RANK], high[TH_MAX_RANK], interior[TH_MAX_RANK], zero = th_k(b, 0), one = th_k(b, 1);
  for (uint32_t i = 0; i < t.rank; i++) low[i] = high[i] = interior[i] = zero;
  th_dim n = s.dims[d], spread = th_dim_add(c, th_dim_mul(c, th_dim_max(c, th_dim_sub(c, n, one), zero), step), th_dim_min(c, n, one));
  low[d] = start;
  high[d] = th_dim_sub(c, th_dim_sub(c, t.dims[d], start), spread);
  interior[d] = th_dim_sub(c, step, one);
  th_value padded = th_pad(b, src, th_const(b, 0, t.dtype), low, high, interior);
  th_value at = th_iota(b, t.dims, t.rank, d, TH_DTYPE_i64);
  th_value from = th_broadcast_to(b, th_const_dim(b, start, TH_DTYPE_i64), t.dims, t.rank);
  th_value inside = th_and(b, th_ge(b, at, from), th_lt(b, at, th_broadcast_to(b, th_const_dim(b, end, TH_DTYPE_i64), t.dims, t.rank)));
  if (!th_dim_is(c, step, 1)) {
    th_value phase = th_rem(b, th_sub(b, at, from), th_broadcast_to(b, th_const_dim(b, step, TH_DTYPE_i64), t.dims, t.rank));
    inside = th_and(b, inside, th_eq(b, phase, th_like(b, 0, phase)));
  }
  return th_select(b, inside, padded, x);
}

void th__lower_slice_scatter(th_rule *r) {
  uint32_t d = 0;
  th_dim start = 0, end = 0, step = 0;
  th_value x = plain(r);
  slice_bounds(r, x, &d, &start, &end, &step);
  if (r->b->status) return;
  th_value shape = th_slice_dim(r->b, x, d, start, end, step); /* what src is expanded to; dead otherwise */
  th_value src = th_broadcast_like(r->b, th_convert(r->b, r->in[1], th_dtype_of(r->b, x)), shape);
  th_rule_return(r, put_slice(r, x, src, d, start, end, step));
}

void th__lower_select_scatter(th_rule *r) {
  th_value x = plain(r);
  th_type t = th_rule_type(r->b, x);
  uint32_t d = th_wrap_dim(r->b, th_rule_int(r, "dim"), t.rank);
  if (r->b->status) return;
  th_dim i = index_of(r, t.dims[d]), dims[TH_MAX_RANK];
  for (uint32_t k = 0; k < t.rank; k++) dims[k] = k == d ? th_k(r->b, 1) : t.dims[k];
  th_value src = th_reshape(r->b, th_convert(r->b, r->in[1], t.dtype), dims, t.rank);
  th_rule_return(r, put_slice(r, x, src, d, i, th_dim_add(th_ctx(r->b), i, th_k(r->b, 1)), th_k(r->b, 1)));
}
