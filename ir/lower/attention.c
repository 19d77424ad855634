/* Attention and embeddings. */
#include <math.h>

#include "ir/lower/helpers.h"

static bool is_attention(th_rule *r) {
  for (int i = 0; i < 3 && !r->b->status; i++) {
    if (th_rank(r->b, r->in[i]) < 2) th_rule_fail(r, "%s has rank %u, want 2 or more", (const char *[]){"query", "key", "value"}[i], th_rank(r->b, r->in[i]));
    /* Of several dtypes only before the autocast pass: an operand that the program converts itself, beside one that autocast converts. */
    if (!th_dtype_is_float(th_dtype_of(r->b, r->in[i]))) th_rule_fail(r, "wants floating point operands");
  }
  return !r->b->status;
}

/* How many query heads share a head of k, which is key or value (enable_gqa); 1 when the heads are equal or there are none. */
static int64_t head_group(th_rule *r, th_value q, th_value k) {
  th_type tq = th_rule_type(r->b, q), tk = th_rule_type(r->b, k);
  int64_t hq, hk;
  if (tq.rank < 3 || tk.rank < 3 || tq.dims[tq.rank - 3] == tk.dims[tk.rank - 3]) return 1;
  if (!th_dim_is_const(th_ctx(r->b), tq.dims[tq.rank - 3], &hq) || !th_dim_is_const(th_ctx(r->b), tk.dims[tk.rank - 3], &hk)) return 1;
  return hk > 0 && hq % hk == 0 ? hq / hk : 1;
}

/* Each head of x `times` times, one after the other: torch.repeat_interleave(x, times, dim=-3). */
static th_value repeat_heads(th_builder *b, th_value x, int64_t times) {
  if (b->status || times == 1) return x;
  th_type t = th_rule_type(b, x);
  uint32_t h = t.rank - 3;
  th_dim wide[TH_MAX_RANK + 1], flat[TH_MAX_RANK];
  int64_t map[TH_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) {
    map[i] = i <= h ? i : i + 1;
    wide[map[i]] = flat[i] = t.dims[i];
  }
  wide[h + 1] = th_k(b, times);
  flat[h] = th_dim_mul(th_ctx(b), t.dims[h], th_k(b, times));
  return th_reshape(b, th_broadcast(b, x, wide, t.rank + 1, map), flat, t.rank);
}

/* The transpose of repeat_heads. */
static th_value sum_heads(th_builder *b, th_value x, int64_t times) {
  if (b->status || times == 1) return x;
  th_type t = th_rule_type(b, x);
  uint32_t h = t.rank - 3;
  th_dim wide[TH_MAX_RANK + 1];
  for (uint32_t i = 0; i < t.rank; i++) wide[i <= h ? i : i + 1] = t.dims[i];
  wide[h + 1] = th_k(b, times);
  if (!th_dim_exact_div(th_ctx(b), t.dims[h], th_k(b, times), &wide[h])) return x;
  int64_t dim = h + 1;
  return th_reduce(b, TH_OP_reduce_sum, th_reshape(b, x, wide, t.rank + 1), &dim, 1, false);
}

/* x with leading dims broadcast to `lead` (n of them). */
static th_value with_lead(th_builder *b, th_value x, const th_dim *lead, uint32_t n) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  th_dim dims[TH_MAX_RANK];
  memcpy(dims, lead, n * sizeof *dims);
  dims[n] = t.dims[t.rank - 2];
  dims[n + 1] = t.dims[t.rank - 1];
  return th_broadcast_to(b, x, dims, n + 2);
}

/* Batched contraction of x's dimension cx with y's cy, counted after the leading dims. */
static th_value product(th_builder *b, th_value x, th_value y, uint32_t n_lead, int cx, int cy) {
  int64_t batch[TH_MAX_RANK], l = n_lead + cx, r = n_lead + cy;
  for (uint32_t i = 0; i < n_lead; i++) batch[i] = i;
  return th_dot(b, x, y, batch, batch, n_lead, &l, &r, 1);
}

typedef struct attention {
  th_value q, k, v;  /* compute dtype, equal leading dims */
  th_value scores;   /* scaled and masked */
  th_dim lead[TH_MAX_RANK];
  uint32_t n_lead;
  int64_t key_group, value_group; /* query heads that share one */
  double scale;
  bool scale_by_size; /* the scale is the head size's rsqrt, and that is no constant */
} attention;

static th_value scaled(th_builder *b, const attention *a, th_value x) {
  if (b->status || !a->scale_by_size) return th_mul_scalar(b, x, a->scale);
  th_type t = th_rule_type(b, x);
  th_value scale = th_rsqrt(b, th_const_dim(b, th_size(b, a->q, -1), t.dtype));
  return th_mul(b, x, th_broadcast(b, scale, t.dims, t.rank, NULL));
}

static th_value masked_scores(th_rule *r, th_value scores, th_value mask, bool causal) {
  th_builder *b = r->b;
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, scores);
  th_value minus = th_like(b, -INFINITY, scores);
  if (causal) {
    th_value i = th_iota(b, t.dims, t.rank, t.rank - 2, TH_DTYPE_i64), j = th_iota(b, t.dims, t.rank, t.rank - 1, TH_DTYPE_i64);
    scores = th_select(b, th_ge(b, i, j), scores, minus);
  }
  if (mask == TH_NO_VALUE) return scores;
  if (th_dtype_of(b, mask) == TH_DTYPE_bool) return th_select(b, th_broadcast_like(b, mask, scores), scores, minus);
  return th_add(b, scores, th_broadcast_like(b, th_convert(b, mask, t.dtype), scores));
}

static bool begin(th_rule *r, th_value mask, attention *a) {
  th_builder *b = r->b;
  if (!is_attention(r)) return false;
  a->key_group = head_group(r, r->in[0], r->in[1]);
  a->value_group = head_group(r, r->in[0], r->in[2]);
  if ((a->key_group > 1 || a->value_group > 1) && r->kind == TH_OP_torch_sdpa && !th_rule_bool(r, "enable_gqa"))
    th_rule_fail(r, "query has other numbers of heads than key or value; pass enable_gqa=True");
  a->q = th_up(b, r->in[0]);
  a->k = repeat_heads(b, th_up(b, r->in[1]), a->key_group);
  a->v = repeat_heads(b, th_up(b, r->in[2]), a->value_group);
  if (b->status) return false;
  th_value all[3] = {a->q, a->k, a->v};
  for (int i = 0; i < 3; i++) { /* leading dims broadcast */
    th_type t = th_rule_type(b, all[i]);
    if (t.rank - 2 > a->n_lead) {
      memmove(a->lead + (t.rank - 2 - a->n_lead), a->lead, a->n_lead * sizeof *a->lead);
      memcpy(a->lead, t.dims, (t.rank - 2 - a->n_lead) * sizeof *a->lead);
      a->n_lead = t.rank - 2;
    }
    for (uint32_t d = 0; d < t.rank - 2; d++) {
      th_dim *slot = &a->lead[a->n_lead - (t.rank - 2) + d];
      if (th_dim_is(th_ctx(b), *slot, 1)) *slot = t.dims[d];
      else if (*slot != t.dims[d] && !th_dim_is(th_ctx(b), t.dims[d], 1)) th_rule_fail(r, "leading dimensions of query, key and value do not broadcast");
    }
  }
  a->q = with_lead(b, a->q, a->lead, a->n_lead);
  a->k = with_lead(b, a->k, a->lead, a->n_lead);
  a->v = with_lead(b, a->v, a->lead, a->n_lead);
  if (b->status) return false;
  int64_t e;
  if (th_rule_has(r, "scale")) a->scale = th_rule_float(r, "scale");
  else if (th_dim_is_const(th_ctx(b), th_size(b, a->q, -1), &e)) a->scale = e > 0 ? 1 / sqrt((double)e) : 1;
  else a->scale_by_size = true;
  a->scores = scaled(b, a, product(b, a->q, a->k, a->n_lead, 1, 1));
  a->scores = masked_scores(r, a->scores, mask, th_rule_bool(r, "is_causal"));
  return !b->status;
}

void th__lower_sdpa(th_rule *r) {
  th_builder *b = r->b;
  attention a = {0};
  if (!begin(r, r->in[3], &a)) return;
  th_dtype d = th_dtype_of(b, r->in[0]);
  double p = th_rule_float(r, "dropout_p");
  int64_t last = a.n_lead + 1;
  th_value m = th_reduce(b, TH_OP_reduce_max, a.scores, &last, 1, false);
  m = th_select(b, th_isfinite(b, m), m, th_like(b, 0, m)); /* rows masked out altogether */
  th_value e = th_exp(b, th_sub(b, a.scores, th_spread(b, m, a.scores, &last, 1)));
  th_value sum = th_reduce(b, TH_OP_reduce_sum, e, &last, 1, false);
  th_value lse = th_add(b, th_log(b, sum), m);
  sum = th_select(b, th_eq(b, sum, th_like(b, 0, sum)), th_like(b, 1, sum), sum);
  th_value weights = th_div(b, e, th_spread(b, sum, e, &last, 1));
  if (p > 0 && !b->status) {
    th_type t = th_rule_type(b, weights);
    th_attr tag = th_rule_has(r, "tag") ? *th_rule_attr(r, "tag") : th_make_int(th_ctx(b), 0);
    th_attr attrs[] = {th_make_ints(th_ctx(b), t.dims, t.rank), th_make_float(p), tag, th_make_dtype(t.dtype)};
    weights = th_mul(b, weights, th_build1(b, TH_OP_torch_dropout_mask, NULL, 0, attrs));
  }
  th_rule_return(r, th_convert(b, product(b, weights, a.v, a.n_lead, 1, 0), d));
  th_rule_return(r, lse);
}

/* P = exp(scores - lse); dV = P' dO; dS = P (dO V' - rowsum(dO O)); dQ = scale dS K; dK = scale dS' Q. */
void th__lower_sdpa_backward(th_rule *r) {
  th_builder *b = r->b;
  attention a = {0};
  if (!begin(r, r->in[6], &a)) return;
  th_dtype d = th_dtype_of(b, r->in[0]);
  th_value out = with_lead(b, th_up(b, r->in[3]), a.lead, a.n_lead), grad = with_lead(b, th_up(b, r->in[5]), a.lead, a.n_lead);
  th_value lse = th_convert(b, r->in[4], th_dtype_compute(d));
  int64_t last = a.n_lead + 1;
  lse = th_select(b, th_isfinite(b, lse), lse, th_like(b, 0, lse));
  th_value p = th_exp(b, th_sub(b, a.scores, th_spread(b, lse, a.scores, &last, 1)));
  th_value dv = product(b, p, grad, a.n_lead, 0, 0);
  th_value row = th_reduce(b, TH_OP_reduce_sum, th_mul(b, grad, out), &last, 1, false);
  th_value dp = product(b, grad, a.v, a.n_lead, 1, 1);
  th_value ds = scaled(b, &a, th_mul(b, p, th_sub(b, dp, th_spread(b, row, dp, &last, 1))));
  th_value dq = product(b, ds, a.k, a.n_lead, 1, 0), dk = product(b, ds, a.q, a.n_lead, 0, 0);
  th_value grads[3] = {dq, sum_heads(b, dk, a.key_group), sum_heads(b, dv, a.value_group)};
  for (int i = 0; i < 3 && !b->status; i++) {
    th_type t = th_rule_type(b, r->in[i]);
    th_rule_return(r, th_convert(b, th_sum_to(b, grads[i], t.dims, t.rank), d));
  }
}

void th__lower_embedding(th_rule *r) {
  if (th_rank(r->b, r->in[0]) != 2) th_rule_fail(r, "weight has rank %u, want 2", th_rank(r->b, r->in[0]));
  if (th_rule_bool(r, "sparse")) th_rule_fail(r, "sparse gradients are not supported");
  th_rule_return(r, th_take(r->b, r->in[0], r->in[1], 0));
}
