/* What belongs to no group: each body has its own copy of it. */
#include "ir/passes/fuse.h"

static bool is_unit_reshape(fuser *f, const th_op *op) {
  const th_type *x = th_type_of(f->t, op->operands[0]), *y = th_type_of(f->t, op->result);
  uint32_t i = 0, k = 0;
  for (;;) {
    while (i < x->rank && th_dim_is(f->c, x->dims[i], 1)) i++;
    while (k < y->rank && th_dim_is(f->c, y->dims[k], 1)) k++;
    if (i == x->rank || k == y->rank) return i == x->rank && k == y->rank;
    if (x->dims[i++] != y->dims[k++]) return false;
  }
}

bool th__fuse_is_moved(const fuser *f, const th_op *op) { return op->n_results == 1 && f->position[op->result] != TH_NONE && f->moved[f->position[op->result]]; }

bool th__fuse_is_free(fuser *f, const th_op *op) {
  if (th__fuse_is_moved(f, op)) return true;
  return op->kind == TH_OP_const || op->kind == TH_OP_iota || op->kind == TH_OP_broadcast || (op->kind == TH_OP_reshape && is_unit_reshape(f, op));
}

th_value th__fuse_behind(fuser *f, th_value v) {
  while (v != TH_NO_VALUE && op_of(f, v) && th__fuse_is_free(f, op_of(f, v))) {
    const th_op *op = op_of(f, v);
    v = op->n_operands ? op->operands[0] : TH_NO_VALUE;
  }
  return v;
}

/* Does `operand` come from group g at another index? */
static bool is_moved_from(fuser *f, th_value operand, uint32_t g) {
  bool moved = false;
  th_value v = operand;
  while (v != TH_NO_VALUE && op_of(f, v) && th__fuse_is_free(f, op_of(f, v))) {
    const th_op *op = op_of(f, v);
    moved |= th__fuse_is_moved(f, op);
    v = op->n_operands ? op->operands[0] : TH_NO_VALUE;
  }
  return moved && v != TH_NO_VALUE && f->position[v] != TH_NONE && f->group_of[f->position[v]] == g;
}

bool th__fuse_moves_from(fuser *f, const th_op *op, uint32_t g) {
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (op->operands[k] != TH_NO_VALUE && is_moved_from(f, op->operands[k], g)) return true;
  return false;
}

void th__fuse_find_moved(fuser *f) {
  bool *unread = TH_ARENA_ARRAY(f->a, bool, f->g->n_ops);
  if (!f->main->keeps) return;
  for (uint32_t i = 0; i < f->g->n_ops; i++) {
    const th_op *op = f->g->ops[i], *from = op->n_operands == 1 ? op_of(f, op->operands[0]) : NULL;
    uint32_t traits = th_op_spec_get(op->kind)->traits;
    f->moved[i] = op->kind == TH_OP_slice || (from && traits & TH_POINTWISE && traits & TH_CHEAP && op->n_results == 1 && th__fuse_is_moved(f, from));
    unread[i] = true;
  }
  for (uint32_t o = 0; o < f->g->n_outputs; o++)
    if (f->position[f->g->outputs[o]] != TH_NONE) f->moved[f->position[f->g->outputs[o]]] = false;
  for (uint32_t i = (uint32_t)f->g->n_ops; i-- > 0;) {
    const th_op *op = f->g->ops[i];
    f->moved[i] &= !unread[i];
    bool whole = op->kind == TH_OP_pad || op->kind == TH_OP_concat || f->moved[i];
    for (uint32_t k = 0; k < op->n_operands; k++) {
      uint32_t at = op->operands[k] == TH_NO_VALUE ? TH_NONE : f->position[op->operands[k]];
      if (at == TH_NONE) continue;
      unread[at] = false;
      if (!whole) f->moved[at] = false;
    }
  }
  for (uint32_t i = 0; i < f->g->n_ops; i++) /* what is no longer of a part */
    if (f->moved[i] && f->g->ops[i]->kind != TH_OP_slice) f->moved[i] = th__fuse_is_moved(f, op_of(f, f->g->ops[i]->operands[0]));
}
