/* ddp: single all-reduces become buckets that start as soon as their last member is computed and are waited for where
 * the first result is read, so that they overlap the backward pass (Li et al., 2020, "PyTorch Distributed"). Members are
 * taken in the order in which they become ready; a bucket holds one dtype, one axis, one kind of reduction. */
#include <string.h>

#include "ir/passes/passes.h"

enum { MAX_MEMBERS = 512 }; /* what a collective of executors/run/execute.c takes */

typedef struct bucket {
  const th_op **members;
  size_t n, capacity;
  uint64_t bytes;
  size_t ready;      /* position of the op after which it starts */
  size_t first_read; /* of any member's result: it must have started before */
  th_op *started;
  bool waited;
} bucket;

typedef struct buckets {
  bucket **list;
  size_t n, capacity;
  uint32_t *of; /* value of the old trace (a result of an all_reduce) -> bucket + 1 */
  uint32_t *at; /* and which member */
} buckets;

static uint64_t bytes_of(const th_trace *t, th_value v) {
  int64_t n = 0, high;
  th_dim_bounds(t->context, th_type_numel(t->context, &t->values[v].type), &n, &high);
  if (high != INT64_MAX) n = high;
  return (uint64_t)n * th_dtype_size(t->values[v].type.dtype);
}

static bool fits(const th_trace *t, const bucket *b, const th_op *op) {
  const th_op *first = b->members[0];
  return t->values[first->result].type.dtype == t->values[op->result].type.dtype && th_attr_equal(&first->attrs[0], &op->attrs[0]) &&
         th_attr_equal(&first->attrs[1], &op->attrs[1]);
}

static buckets form(const th_options *options, const th_trace *t) {
  th_arena *a = th_context_arena(t->context);
  const th_graph *g = t->graphs[0];
  size_t *position = TH_ARENA_ARRAY(a, size_t, t->n_values); /* of the op that makes a value, + 1 */
  buckets all = {.of = TH_ARENA_ARRAY(a, uint32_t, t->n_values), .at = TH_ARENA_ARRAY(a, uint32_t, t->n_values)};
  size_t *first_read = TH_ARENA_ARRAY(a, size_t, t->n_values); /* position of the first op that reads it; 0: none */
  const th_op **reduces = TH_ARENA_ARRAY(a, const th_op *, g->n_ops);
  size_t n = 0;
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    bool reduce = op->kind == TH_OP_all_reduce; /* moves up to where its operand is ready */
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value x = op->operands[k];
      if (x != TH_NO_VALUE && !first_read[x]) first_read[x] = reduce ? position[x] : i + 1;
    }
    for (uint32_t k = 0; k < op->n_results; k++) position[op->result + k] = i + 1;
    if (reduce) reduces[n++] = op;
  }
  for (size_t i = 1; i < n; i++) { /* by readiness; insertion keeps equal ones in order */
    const th_op *op = reduces[i];
    size_t k = i;
    for (; k > 0 && position[reduces[k - 1]->operands[0]] > position[op->operands[0]]; k--) reduces[k] = reduces[k - 1];
    reduces[k] = op;
  }
  bucket *open = NULL;
  for (size_t i = 0; i < n; i++) {
    const th_op *op = reduces[i];
    uint64_t bytes = bytes_of(t, op->operands[0]);
    if (!open || open->n == MAX_MEMBERS || !fits(t, open, op) || (open->bytes && open->bytes + bytes > options->bucket_bytes) || position[op->operands[0]] >= open->first_read) {
      open = TH_ARENA_NEW(a, bucket);
      open->first_read = SIZE_MAX;
      TH_PUSH(a, all.list, all.n, all.capacity, open);
    }
    all.of[op->result] = (uint32_t)all.n;
    all.at[op->result] = (uint32_t)open->n;
    TH_PUSH(a, open->members, open->n, open->capacity, op);
    open->bytes += bytes;
    open->ready = position[op->operands[0]];
    if (first_read[op->result] && first_read[op->result] < open->first_read) open->first_read = first_read[op->result];
  }
  return all;
}

static void wait_for(th_rewriter *r, buckets *all, th_value v) {
  if (v == TH_NO_VALUE || !all->of[v] || r->b.status) return;
  bucket *b = all->list[all->of[v] - 1];
  if (b->waited || !b->started) return;
  b->waited = true;
  th_value *xs = TH_ARENA_ARRAY(th_context_arena(r->from->context), th_value, b->n);
  for (size_t k = 0; k < b->n; k++) xs[k] = b->started->result + (th_value)k;
  th_op *wait = th_build(&r->b, TH_OP_wait, xs, (uint32_t)b->n, NULL);
  for (size_t k = 0; wait && k < b->n; k++) th_rewrite_map(r, b->members[k]->result, wait->result + (th_value)k);
}

static void start_ready(th_rewriter *r, buckets *all, size_t position) {
  for (size_t i = 0; i < all->n; i++) {
    bucket *b = all->list[i];
    if (b->ready != position || b->started || r->b.status) continue;
    th_value *xs = TH_ARENA_ARRAY(th_context_arena(r->from->context), th_value, b->n);
    for (size_t k = 0; k < b->n; k++) {
      wait_for(r, all, b->members[k]->operands[0]);
      xs[k] = th_rewrite_value(r, b->members[k]->operands[0]);
    }
    th_rewrite_at(r, b->members[0]);
    b->started = th_build(&r->b, TH_OP_all_reduce_start, xs, (uint32_t)b->n, b->members[0]->attrs);
  }
}

th_status th_pass_ddp(const th_options *options, const th_trace *in, th_trace **out) {
  buckets all = form(options, in);
  th_rewriter r = th_rewrite_begin(in);
  const th_graph *g = in->graphs[0];
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&r, k);
  start_ready(&r, &all, 0); /* of inputs */
  for (size_t i = 0; i < g->n_ops && !r.b.status; i++) {
    const th_op *op = g->ops[i];
    if (op->kind != TH_OP_all_reduce) {
      for (uint32_t k = 0; k < op->n_operands; k++) wait_for(&r, &all, op->operands[k]);
      if (!r.b.status) th_rewrite_clone(&r, op);
    }
    start_ready(&r, &all, i + 1);
  }
  for (uint32_t i = 0; i < g->n_outputs; i++) wait_for(&r, &all, g->outputs[i]);
  for (size_t i = 0; i < all.n; i++) wait_for(&r, &all, all.list[i]->members[0]->result); /* nobody reads it: still ended */
  if (!r.b.status) th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
