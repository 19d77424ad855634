/* What a kernel would hand to another in more bytes than it is made of is computed again by its readers. */
#include "ir/passes/fuse.h"

enum { MAX_AGAIN_OPS = 24, MAX_AGAIN_LEAVES = 16, MAX_AGAIN_COSTLY = 3, AGAIN_FROM = 4096 /* elements */ };

typedef struct chain {
  uint32_t ops[MAX_AGAIN_OPS], n_ops, n_costly, n_leaves; /* positions */
  th_value leaves[MAX_AGAIN_LEAVES];
} chain;

static bool crosses(fuser *f, th_value v) { /* is it read outside of its group? */
  const users *u = &f->users[v];
  for (size_t i = 0; i < u->n; i++)
    if (f->group_of[u->ops[i]] != f->group_of[f->position[v]]) return true;
  return u->leaves;
}

static bool is_stored(fuser *f, th_value v) {
  if (f->position[v] == TH_NONE || !is_kernel(f, f->group_of[f->position[v]]) || f->users[v].leaves) return true;
  for (size_t i = 0; i < f->users[v].n; i++)
    if (!is_kernel(f, f->group_of[f->users[v].ops[i]])) return true;
  return crosses(f, v) && !th__fuse_is_again(f, v);
}

/* The ops that make v out of values that are stored (leaves), or could be at little cost. */
static bool follow(fuser *f, th_value v, int64_t numel, chain *out) {
  const th_op *op = op_of(f, v);
  uint32_t at = f->position[v];
  for (uint32_t i = 0; i < out->n_ops; i++)
    if (out->ops[i] == at) return true;
  uint32_t traits = th_op_spec_get(op->kind)->traits;
  if (out->n_ops == MAX_AGAIN_OPS || op->n_results != 1 || !(traits & TH_POINTWISE)) return false;
  if (!(traits & TH_CHEAP) && ++out->n_costly > MAX_AGAIN_COSTLY) return false;
  out->ops[out->n_ops++] = at;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    th_value w = th__fuse_behind(f, op->operands[k]);
    if (w == TH_NO_VALUE) continue;
    bool leaf = is_stored(f, w) || (!th_op_is_pointwise(op_of(f, w)) && th__numel(f->t, w) <= numel / 8); /* a sum over a row */
    if (!leaf) {
      if (!follow(f, w, numel, out)) return false;
      continue;
    }
    uint32_t i = 0;
    while (i < out->n_leaves && out->leaves[i] != w) i++;
    if (i < out->n_leaves) continue;
    if (out->n_leaves == MAX_AGAIN_LEAVES) return false;
    out->leaves[out->n_leaves++] = w;
  }
  return true;
}

static bool is_worth_it(fuser *f, th_value v) {
  const th_op *op = op_of(f, v);
  const users *u = &f->users[v];
  int64_t numel = th__numel(f->t, v), bytes = 0;
  chain found = {.n_ops = 0};
  if (!f->main->keeps || numel < AGAIN_FROM || !is_kernel(f, f->group_of[f->position[v]]) || !th_op_is_pointwise(op) || u->leaves) return false;
  for (size_t i = 0; i < u->n; i++)
    if (!is_kernel(f, f->group_of[u->ops[i]])) return false;
  if (!follow(f, v, numel, &found)) return false;
  for (uint32_t i = 0; i < found.n_leaves; i++)
    if (th__numel(f->t, found.leaves[i]) > numel / 8) bytes += th__numel(f->t, found.leaves[i]) * (int64_t)th_dtype_size(th_type_of(f->t, found.leaves[i])->dtype);
  return bytes <= numel * (int64_t)th_dtype_size(th_type_of(f->t, v)->dtype);
}

bool th__fuse_is_again(fuser *f, th_value v) {
  if (!f->again[v]) f->again[v] = is_worth_it(f, v) ? 1 : 2;
  return f->again[v] == 1;
}

void th__fuse_mark_needed(fuser *f) {
  for (uint32_t at = 0; at < f->g->n_ops; at++) {
    const th_op *op = f->g->ops[at];
    if (th__fuse_is_free(f, op) || op->n_results != 1 || !crosses(f, op->result) || !th__fuse_is_again(f, op->result)) continue;
    chain found = {.n_ops = 0};
    follow(f, op->result, th__numel(f->t, op->result), &found);
    for (uint32_t i = 0; i < found.n_leaves; i++) {
      uint32_t from = f->position[found.leaves[i]] == TH_NONE ? TH_NONE : f->group_of[f->position[found.leaves[i]]];
      const users *u = &f->users[op->result];
      for (size_t n = 0; n < u->n; n++) {
        uint32_t reader = f->group_of[u->ops[n]];
        if (from == TH_NONE || reader == from) continue;
        f->needed[found.leaves[i]] = true;
        th__fuse_add_dep(f, reader, from);
      }
    }
  }
}
