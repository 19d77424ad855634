/* fuse: groups of prims become `fusion` ops, one kernel each.
 *
 * Ops are taken in order. An op joins the group of one of its operands when their domains fit (below) and no path leads from
 * the group to the op around the outside; else it starts a group. An op that reads from several groups of one shape makes
 * them one, where no path leads from one to the other around the outside. (But not numbers of a device that are slow to compute, powers of a
 * counter: one thread would compute them all in turn, where alike ones become a batch.) What costs nothing (constants, iota, broadcasts, reshapes
 * that only add or drop dimensions of size 1) belongs to no group: each body gets its own copy.
 *
 * Domains. A group without reductions has one shape. The first reduction over its shape gives it a kind: ROWS (the last
 * dimension is reduced; results of the kept shape and of the whole shape go on joining), WHOLE (to a scalar) or COLUMNS. A
 * reduction of the two last kinds swallows its producers only when nobody else reads them. Where the executor keeps sums beside elements
 * (ir/executor.h), reductions of columns and of everything join any group of their shape; what reads them is computed elsewhere. So is what
 * reads the sums of several groups: one kernel adds them all, and no sum waits for another.
 *
 * Where kernels are of a GPU, parts of a value that are put into another place of a whole (slice, perhaps negated, then pad or concat: rotary
 * embeddings, their gradients) are free as well: the kernel of the whole reads them at another index. It is never the one that makes the value.
 *
 * Groups without reductions that read a value of their shape both, as the gradients of the two factors of a product do, become one in the end,
 * if the second could be computed where the first is: the value is read once.
 *
 * Where kernels are of a GPU, what one group would hand to another is computed again by its readers, if what it is made of is stored anyway
 * and no larger: a conversion, a centered value behind its mean (batch norm in f32 of values of 16 bits), a gradient behind its mask.
 *
 * What a group must hand out is known when all ops are placed: a group with more results than a kernel has is then cut between
 * two of its ops, the first part as long as it may be. */
#include <string.h>

#include "ir/passes/fuse.h"

/* ---- kinds ---- */

static bool is_alone(const th_op *op) {
  switch (op->kind) {
    case TH_OP_argmax: case TH_OP_argmin: case TH_OP_cumsum: case TH_OP_window_max: case TH_OP_window_sum: case TH_OP_window_sum_grad: case TH_OP_window_max_grad: case TH_OP_scatter_add:
    case TH_OP_scatter_add_along: case TH_OP_scatter_along: case TH_OP_dot: case TH_OP_concat:
      return true;
    default: return false;
  }
}

static bool stays_outside(const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  if (spec->level >= TH_LEVEL_REGION || spec->traits & TH_EFFECT) return true;
  return op->kind == TH_OP_transpose || op->kind == TH_OP_slice || op->kind == TH_OP_reshape || op->kind == TH_OP_barrier || op->kind == TH_OP_wait || op->kind == TH_OP_rank;
}

static bool reduces_last(fuser *f, const th_op *op) {
  const th_attr *dims = th_attr_get(op, "dims");
  uint32_t rank = th_type_of(f->t, op->operands[0])->rank;
  for (uint32_t i = 0; i < dims->count; i++)
    if (th_dim_is(f->c, dims->ints[i], rank - 1)) return true;
  return false;
}

static kind kind_of(fuser *f, const th_op *op) {
  if (stays_outside(op)) return OUTSIDE;
  bool of_parts = false;
  for (uint32_t k = 0; k < op->n_operands && op->kind == TH_OP_concat; k++) of_parts |= op_of(f, op->operands[k]) && th__fuse_is_moved(f, op_of(f, op->operands[k]));
  if (is_alone(op) && !of_parts) return ALONE;
  if (!th_op_is_reduction(op) || !th_type_of(f->t, op->operands[0])->rank) return PLAIN;
  if (!th_type_of(f->t, op->result)->rank) return WHOLE;
  return reduces_last(f, op) ? ROWS : COLUMNS;
}

/* ---- groups ---- */

uint32_t th__fuse_whole(const fuser *f, uint32_t g) {
  while (f->groups[g].into) g = f->groups[g].into - 1;
  return g;
}

static void raise(fuser *f, uint32_t g, uint32_t height) {
  group *x = &f->groups[th__fuse_whole(f, g)];
  if (x->height >= height) return;
  x->height = height;
  for (size_t i = 0; i < x->n_readers; i++) raise(f, x->readers[i], height + 1);
}

void th__fuse_add_dep(fuser *f, uint32_t g, uint32_t on) {
  group *x = &f->groups[g];
  on = th__fuse_whole(f, on);
  if (on == g) return;
  for (size_t i = 0; i < x->n_deps; i++)
    if (x->deps[i] == on) return;
  TH_PUSH(f->a, x->deps, x->n_deps, x->deps_capacity, on);
  group *y = &f->groups[on];
  TH_PUSH(f->a, y->readers, y->n_readers, y->readers_capacity, g);
  raise(f, g, y->height + 1);
}

/* Is `to` among the readers of `from`, theirs, and so on? Looked for from below: who is asked about was made lately and has few of them,
 * while what a group reads from is, in the end, most of the program. */
static bool reaches(fuser *f, uint32_t from, uint32_t to) {
  from = th__fuse_whole(f, from);
  if (from == to) return true;
  group *x = &f->groups[from];
  if (x->mark == f->search || x->height >= f->groups[to].height) return false;
  x->mark = f->search;
  for (size_t i = 0; i < x->n_readers; i++)
    if (reaches(f, x->readers[i], to)) return true;
  return false;
}

static uint32_t producer(fuser *f, th_value operand) { /* group behind an operand; TH_NONE for inputs and constants */
  th_value v = th__fuse_behind(f, operand);
  return v == TH_NO_VALUE || f->position[v] == TH_NONE ? TH_NONE : f->group_of[f->position[v]];
}

static bool read_only_by(fuser *f, const group *x, uint32_t op, uint32_t g) {
  for (size_t i = 0; i < x->n_ops; i++) {
    const th_op *made = f->g->ops[x->ops[i]];
    for (uint32_t k = 0; k < made->n_results; k++) {
      const users *u = &f->users[made->result + k];
      if (u->leaves) return false;
      for (size_t n = 0; n < u->n; n++)
        if (u->ops[n] != op && f->group_of[u->ops[n]] != g) return false;
    }
  }
  return true;
}

/* Does `op` read in group g what its kernel knows only at the end? */
static bool reads_late(fuser *f, uint32_t g, const th_op *op) {
  for (uint32_t i = 0; i < op->n_operands; i++) {
    th_value v = op->operands[i] == TH_NO_VALUE ? TH_NO_VALUE : th__fuse_behind(f, op->operands[i]);
    uint32_t at = v == TH_NO_VALUE ? TH_NONE : f->position[v];
    if (at != TH_NONE && f->late[at] && f->group_of[at] == g) return true;
  }
  return false;
}

/* Does `op` read a value of another group of the device? */
static bool reads_elsewhere(fuser *f, uint32_t g, const th_op *op) {
  for (uint32_t i = 0; i < op->n_operands; i++) {
    uint32_t from = op->operands[i] == TH_NO_VALUE ? TH_NONE : producer(f, op->operands[i]);
    if (from != TH_NONE && from != g && !f->groups[from].host) return true;
  }
  return false;
}

static bool reduces_alike(const th_op *a, const th_op *b) { return th_attr_equal(th_attr_get(a, "dims"), th_attr_get(b, "dims")); }

static bool mixes(fuser *f, const th_op *rows, const th_op *columns) {
  return f->main->mixes && f->main->mixes(f->options, f->t, rows, columns);
}

static bool fits(fuser *f, uint32_t g, uint32_t at, kind k) {
  group *x = &f->groups[g];
  const th_op *op = f->g->ops[at];
  const th_type *result = th_type_of(f->t, op->result);
  if (x->kind == OUTSIDE || x->kind == ALONE || k == OUTSIDE || k == ALONE || x->n_ops >= MAX_OPS || x->host != result->host) return false;
  bool keeps = f->main->keeps, late = x->n_late && reads_late(f, g, op);
  if (k == PLAIN) {
    if (x->kind == WHOLE && keeps) return late ? !result->rank && !reads_elsewhere(f, g, op) : th_type_same_shape(result, &x->shape);
    if (x->kind == COLUMNS) return keeps && !late && th_type_same_shape(result, &x->shape);
    if (late) return false;
    if (th_type_same_shape(result, &x->shape)) return true;
    return (x->kind == ROWS || x->kind == WHOLE) && th_type_same_shape(result, &x->kept);
  }
  if (late || !th_type_same_shape(th_type_of(f->t, op->operands[0]), &x->shape)) return false;
  if (x->kind == PLAIN) return k == ROWS || keeps || read_only_by(f, x, at, g);
  if (x->kind == ROWS && k == COLUMNS) return mixes(f, x->rows, op) && (!x->columns || reduces_alike(x->columns, op));
  if (x->kind == COLUMNS && k == ROWS) return mixes(f, op, x->columns);
  if (x->kind == k && k != ROWS && keeps) return x->n_late < MAX_SUMS && reduces_alike(x->columns, op);
  return x->kind == k && k == ROWS && th_attr_equal(x->dims, th_attr_get(op, "dims"));
}

/* No operand of `op` but those of groups g and `besides` is computed from g. */
static bool no_way_around(fuser *f, uint32_t g, const th_op *op, uint32_t besides) {
  for (uint32_t i = 0; i < op->n_operands; i++) {
    uint32_t from = op->operands[i] == TH_NO_VALUE ? TH_NONE : producer(f, op->operands[i]);
    f->search++;
    if (from != TH_NONE && from != g && from != besides && reaches(f, g, from)) return false;
  }
  return true;
}

static bool around(fuser *f, uint32_t g, uint32_t other) { /* a way from g back to `other` through a third group */
  f->search++;
  for (size_t i = 0; i < f->groups[other].n_readers; i++) {
    uint32_t reader = th__fuse_whole(f, f->groups[other].readers[i]);
    if (reader != g && reader != other && reaches(f, reader, g)) return true;
  }
  return false;
}

static bool joinable(fuser *f, uint32_t g, uint32_t other) {
  const group *x = &f->groups[g], *y = &f->groups[other];
  bool kinds = (x->kind == PLAIN || x->kind == ROWS) && (y->kind == PLAIN || y->kind == ROWS);
  if (x->kind == ROWS && y->kind == ROWS && !th_attr_equal(x->dims, y->dims)) return false;
  for (size_t i = 0; i < x->n_ops && kinds; i++) kinds = !th__fuse_moves_from(f, f->g->ops[x->ops[i]], other);
  for (size_t i = 0; i < y->n_ops && kinds; i++) kinds = !th__fuse_moves_from(f, f->g->ops[y->ops[i]], g);
  for (size_t i = 0; i < x->n_ops && y->n_late && kinds; i++) kinds = !reads_late(f, other, f->g->ops[x->ops[i]]);
  for (size_t i = 0; i < y->n_ops && x->n_late && kinds; i++) kinds = !reads_late(f, g, f->g->ops[y->ops[i]]);
  if (x->columns && (y->columns ? !reduces_alike(x->columns, y->columns) : y->rows && !mixes(f, y->rows, x->columns))) return false;
  if (y->columns && x->rows && !mixes(f, x->rows, y->columns)) return false;
  return kinds && x->host == y->host && !x->slow && !y->slow && x->n_late + y->n_late <= MAX_SUMS && th_type_same_shape(&x->shape, &y->shape) && x->n_ops + y->n_ops <= MAX_OPS && !around(f, g, other) && !around(f, other, g);
}

static void join(fuser *f, uint32_t g, uint32_t other) {
  group *x = &f->groups[g], *y = &f->groups[other];
  uint32_t *ops = TH_ARENA_ARRAY(f->a, uint32_t, x->n_ops + y->n_ops);
  size_t n = 0;
  for (size_t i = 0, k = 0; i < x->n_ops || k < y->n_ops;) ops[n++] = k == y->n_ops || (i < x->n_ops && x->ops[i] < y->ops[k]) ? x->ops[i++] : y->ops[k++];
  for (size_t k = 0; k < y->n_ops; k++) f->group_of[y->ops[k]] = g;
  x->ops = ops;
  x->n_ops = x->ops_capacity = n;
  if (y->kind == ROWS) x->kind = ROWS, x->dims = y->dims, x->kept = y->kept;
  if (!x->rows) x->rows = y->rows;
  if (!x->columns) x->columns = y->columns;
  x->n_late += y->n_late;
  y->into = g + 1;
  y->n_ops = 0;
  raise(f, g, y->height);
  for (size_t i = 0; i < y->n_readers; i++) {
    uint32_t reader = th__fuse_whole(f, y->readers[i]);
    if (reader == g) continue;
    TH_PUSH(f->a, x->readers, x->n_readers, x->readers_capacity, reader);
    raise(f, reader, x->height + 1);
  }
  for (size_t i = 0; i < y->n_deps; i++) th__fuse_add_dep(f, g, y->deps[i]);
}

static void place(fuser *f, uint32_t at) {
  const th_op *op = f->g->ops[at];
  kind k = kind_of(f, op);
  uint32_t best = TH_NONE;
  for (uint32_t i = 0; i < op->n_operands; i++) {
    uint32_t g = producer(f, op->operands[i]);
    if (g == TH_NONE || (best != TH_NONE && g <= best)) continue;
    if (fits(f, g, at, k) && no_way_around(f, g, op, g) && !th__fuse_moves_from(f, op, g)) best = g;
  }
  if (best == TH_NONE) {
    group fresh = {.kind = k, .host = op->n_results && th_type_of(f->t, op->result)->host, .shape = *th_type_of(f->t, th_op_is_reduction(op) ? op->operands[0] : op->n_results ? op->result : op->operands[0])};
    best = (uint32_t)f->n_groups;
    TH_PUSH(f->a, f->groups, f->n_groups, f->groups_capacity, fresh);
  }
  for (uint32_t i = 0; i < op->n_operands && k == PLAIN; i++) {
    uint32_t g = op->operands[i] == TH_NO_VALUE ? TH_NONE : producer(f, op->operands[i]);
    if (g != TH_NONE && g != best && joinable(f, best, g) && no_way_around(f, g, op, best) && !th__fuse_moves_from(f, op, g)) join(f, best, g);
  }
  group *x = &f->groups[best];
  bool sums = (k == COLUMNS || k == WHOLE) && f->main->keeps;
  if (k == ROWS || ((k == COLUMNS || k == WHOLE) && x->kind != ROWS)) {
    x->kind = k;
    x->dims = th_attr_get(op, "dims");
    x->kept = *th_type_of(f->t, op->result);
  }
  if (k == ROWS && !x->rows) x->rows = op;
  if (sums && !x->columns) x->columns = op;
  x->n_late += sums;
  f->late[at] = sums || (x->n_late && reads_late(f, best, op));
  x->slow |= f->main->batches && k == PLAIN && !x->host && !x->shape.rank && !(th_op_spec_get(op->kind)->traits & TH_CHEAP);
  f->group_of[at] = best;
  TH_PUSH(f->a, x->ops, x->n_ops, x->ops_capacity, at);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    uint32_t from = op->operands[i] == TH_NO_VALUE ? TH_NONE : producer(f, op->operands[i]);
    if (from != TH_NONE) th__fuse_add_dep(f, best, from);
  }
}

static void note_user(fuser *f, th_value v, uint32_t op) {
  v = th__fuse_behind(f, v);
  if (v == TH_NO_VALUE) return;
  users *u = &f->users[v];
  TH_PUSH(f->a, u->ops, u->n, u->capacity, op);
}

static void analyse(fuser *f) {
  for (size_t i = 0; i < f->t->n_values; i++) f->position[i] = TH_NONE;
  for (uint32_t i = 0; i < f->g->n_ops; i++)
    for (uint32_t k = 0; k < f->g->ops[i]->n_results; k++) f->position[f->g->ops[i]->result + k] = i;
  th__fuse_find_moved(f);
  for (uint32_t i = 0; i < f->g->n_ops; i++) {
    f->group_of[i] = TH_NONE;
    if (th__fuse_is_free(f, f->g->ops[i])) continue;
    for (uint32_t k = 0; k < f->g->ops[i]->n_operands; k++)
      if (f->g->ops[i]->operands[k] != TH_NO_VALUE) note_user(f, f->g->ops[i]->operands[k], i);
  }
  for (uint32_t i = 0; i < f->g->n_outputs; i++) {
    th_value v = th__fuse_behind(f, f->g->outputs[i]);
    if (v != TH_NO_VALUE) f->users[v].leaves = true;
  }
  uint32_t effect = TH_NONE;
  for (uint32_t i = 0; i < f->g->n_ops; i++) {
    if (th__fuse_is_free(f, f->g->ops[i])) continue;
    place(f, i);
    if (!(th_op_spec_get(f->g->ops[i]->kind)->traits & TH_EFFECT)) continue;
    if (effect != TH_NONE) th__fuse_add_dep(f, f->group_of[i], effect);
    effect = f->group_of[i];
  }
}

/* ---- siblings ---- */

enum { MAX_SIBLING_OPS = 64 };

static uint32_t last_op(const group *x) { return x->ops[x->n_ops - 1]; }

/* From which op on, at the latest, what group g reads is there; views and barriers are where what they read is. */
static uint32_t ready(fuser *f, uint32_t g) {
  const group *x = &f->groups[g];
  uint32_t at = 0;
  for (size_t i = 0; i < x->n_deps; i++) {
    uint32_t d = th__fuse_whole(f, x->deps[i]);
    bool view = f->groups[d].kind == OUTSIDE && th_op_spec_get(f->g->ops[f->groups[d].ops[0]]->kind)->level < TH_LEVEL_REGION;
    uint32_t there = d == g ? 0 : view ? ready(f, d) : last_op(&f->groups[d]) + 1;
    if (there > at) at = there;
  }
  return at;
}

static bool are_siblings(fuser *f, uint32_t g, uint32_t other, const th_type *type) {
  const group *x = &f->groups[g], *y = &f->groups[other];
  return g != other && x->kind == PLAIN && y->kind == PLAIN && x->n_ops + y->n_ops <= MAX_SIBLING_OPS && th_type_same_shape(&x->shape, type) && joinable(f, g, other) && ready(f, other) <= last_op(x);
}

static void join_siblings(fuser *f) {
  for (uint32_t at = 0; at < f->g->n_ops; at++) {
    const th_op *op = f->g->ops[at];
    if (th__fuse_is_free(f, op)) continue;
    for (uint32_t k = 0; k < op->n_results; k++) {
      const users *u = &f->users[op->result + k];
      if (!th_type_of(f->t, op->result + k)->rank) continue;
      for (size_t i = 0; i < u->n; i++)
        for (size_t n = i + 1; n < u->n; n++) {
          uint32_t g = th__fuse_whole(f, f->group_of[u->ops[i]]), other = th__fuse_whole(f, f->group_of[u->ops[n]]);
          if (are_siblings(f, g, other, th_type_of(f->t, op->result + k))) join(f, g, other);
        }
    }
  }
}

/* ---- cutting ---- */

static bool is_read_outside(fuser *f, th_value v, uint32_t g) {
  const users *u = &f->users[v];
  if (u->leaves || f->needed[v]) return true;
  for (size_t i = 0; i < u->n; i++)
    if (f->group_of[u->ops[i]] != g) return !th__fuse_is_again(f, v);
  return false;
}

static size_t place_in(const group *x, uint32_t op) { /* of an op of the group */
  size_t low = 0, high = x->n_ops;
  while (low + 1 < high) *(x->ops[(low + high) / 2] <= op ? &low : &high) = (low + high) / 2;
  return low;
}

/* How many ops of group g, from the first on, are the longest kernel that hands out no more than it may. */
static size_t takes(fuser *f, uint32_t g) {
  const group *x = &f->groups[g];
  int32_t *change = TH_ARENA_ARRAY(f->a, int32_t, x->n_ops), results = 0; /* in the number of results, by the op that comes last */
  size_t best = 1;
  for (size_t i = 0; i < x->n_ops; i++)
    for (uint32_t k = 0; k < f->g->ops[x->ops[i]]->n_results; k++) {
      th_value v = f->g->ops[x->ops[i]]->result + k;
      const users *u = &f->users[v];
      size_t last = i;
      for (size_t n = 0; n < u->n; n++)
        if (f->group_of[u->ops[n]] == g && place_in(x, u->ops[n]) > last) last = place_in(x, u->ops[n]);
      change[i]++;
      if (!is_read_outside(f, v, g)) change[last]--;
    }
  for (size_t i = 0; i < x->n_ops; i++) {
    results += change[i];
    if (results <= MAX_RESULTS) best = i + 1;
  }
  return best;
}

static void cut(fuser *f, uint32_t g) {
  for (size_t n; (n = takes(f, g)) < f->groups[g].n_ops;) {
    group *x = &f->groups[g], first = {.kind = x->kind, .shape = x->shape, .kept = x->kept, .dims = x->dims};
    uint32_t made = (uint32_t)f->n_groups;
    for (size_t i = 0; i < n; i++) {
      TH_PUSH(f->a, first.ops, first.n_ops, first.ops_capacity, x->ops[i]);
      f->group_of[x->ops[i]] = made;
    }
    x->ops += n;
    x->n_ops -= n;
    TH_PUSH(f->a, f->groups, f->n_groups, f->groups_capacity, first);
    for (size_t i = 0; i < n; i++) {
      const th_op *op = f->g->ops[first.ops[i]];
      for (uint32_t k = 0; k < op->n_operands; k++) {
        uint32_t from = op->operands[k] == TH_NO_VALUE ? TH_NONE : producer(f, op->operands[k]);
        if (from != TH_NONE) th__fuse_add_dep(f, made, from);
      }
    }
    th__fuse_add_dep(f, g, made);
  }
}

/* ---- writing ---- */

typedef struct body { uint32_t graph, group; th_value operands[MAX_OPERANDS]; uint32_t n; th_status status; } body;

static th_value outer_value(fuser *f, th_value v);

static th_value copy_into(fuser *f, const th_op *op, uint32_t graph, const th_value *operands) {
  th_trace *to = f->r.b.trace;
  th_type types[2];
  for (uint32_t i = 0; i < op->n_results && i < 2; i++) types[i] = *th_type_of(f->t, op->result + i);
  th_op *copy = th_trace_add_op(to, graph, op->kind, operands, op->n_operands, op->attrs, types, op->n_results);
  copy->origin = op->origin;
  return copy->result;
}

static th_value inner_value(fuser *f, body *b, th_value v) {
  if (f->stamp[v] == f->now) return f->local[v];
  th_op *op = op_of(f, v);
  bool mine = op && !th__fuse_is_free(f, op) && f->group_of[f->position[v]] == b->group;
  mine |= op && !th__fuse_is_free(f, op) && is_kernel(f, f->group_of[f->position[v]]) && !is_read_outside(f, v, f->group_of[f->position[v]]);
  th_value copy;
  if (op && (mine || th__fuse_is_free(f, op))) {
    th_value *operands = TH_ARENA_ARRAY(f->a, th_value, op->n_operands);
    for (uint32_t i = 0; i < op->n_operands; i++) operands[i] = inner_value(f, b, op->operands[i]);
    copy = copy_into(f, op, b->graph, operands);
    for (uint32_t i = 0; i < op->n_results; i++) {
      f->local[op->result + i] = copy + i;
      f->stamp[op->result + i] = f->now;
    }
    return f->local[v];
  }
  th_value source = op && op->kind == TH_OP_barrier ? op->operands[0] : v; /* one read is enough, whatever kept its readers apart before */
  if (f->operand_stamp[source] == f->now) return f->operand[source];
  if (b->n == sizeof b->operands / sizeof *b->operands) {
    if (!b->status) b->status = TH_ERROR(INTERNAL, "a fusion has more than %u operands", b->n);
    return 0;
  }
  b->operands[b->n++] = outer_value(f, v);
  copy = th_trace_add_input(f->r.b.trace, b->graph, *th_type_of(f->t, v));
  f->local[v] = copy;
  f->stamp[v] = f->now;
  f->operand[source] = copy;
  f->operand_stamp[source] = f->now;
  return copy;
}

/* One op of its own as a fusion (an iota that something outside reads). */
static th_value single(fuser *f, const th_op *op, const th_value *operands) {
  th_trace *to = f->r.b.trace;
  uint32_t graph = (uint32_t)to->n_graphs;
  th_trace_add_graph(to, "fusion");
  th_value inputs[4];
  for (uint32_t i = 0; i < op->n_operands && i < 4; i++) inputs[i] = th_trace_add_input(to, graph, *th_type_of(to, operands[i]));
  th_value made = copy_into(f, op, graph, inputs);
  th_trace_set_outputs(to, graph, &made, 1);
  th_op *fusion = th_fusion_op(to, graph, f->main->name, operands, op->n_operands, th_type_of(f->t, op->result), 1);
  fusion->origin = op->origin;
  return fusion->result;
}

/* The value in the new main graph; free ops are made there when somebody outside of fusions reads them. */
static th_value outer_value(fuser *f, th_value v) {
  if (v == TH_NO_VALUE || f->r.map[v] != TH_NO_VALUE) return v == TH_NO_VALUE ? v : f->r.map[v];
  th_op *op = op_of(f, v);
  th_value operand = op->n_operands ? outer_value(f, op->operands[0]) : TH_NO_VALUE;
  th_value made = op->kind == TH_OP_iota ? single(f, op, NULL) : copy_into(f, op, 0, &operand);
  th_rewrite_map(&f->r, v, made);
  return made;
}

static th_status write_fusion(fuser *f, uint32_t g) {
  th_trace *to = f->r.b.trace;
  group *x = &f->groups[g];
  bool read = false;
  for (size_t i = 0; i < x->n_ops; i++)
    for (uint32_t k = 0; k < f->g->ops[x->ops[i]]->n_results; k++) read |= is_read_outside(f, f->g->ops[x->ops[i]]->result + k, g);
  if (!read) return TH_OK; /* its readers compute it themselves */
  body *b = TH_ARENA_NEW(f->a, body);
  *b = (body){.graph = (uint32_t)to->n_graphs, .group = g};
  f->now++;
  th_trace_add_graph(to, "fusion");
  const th_executor *executor = NULL;
  for (uint32_t i = 0; i < f->options->n_executors && !executor; i++) {
    executor = f->options->executors[i];
    for (size_t k = 0; k < x->n_ops && executor; k++)
      if (!executor->fusible || !executor->fusible(f->options, f->t, f->g->ops[x->ops[k]])) executor = NULL;
  }
  if (!executor) return TH_ERROR(UNIMPLEMENTED, "op %u: no executor takes %s of %s", f->g->ops[x->ops[0]]->origin, th_op_name(f->g->ops[x->ops[0]]->kind),
                                 th_dtype_name(th_type_of(f->t, f->g->ops[x->ops[0]]->result)->dtype));
  th_value results[2 * MAX_OPS], outputs[2 * MAX_OPS];
  th_type types[2 * MAX_OPS];
  uint32_t n = 0;
  for (size_t i = 0; i < x->n_ops; i++) {
    const th_op *op = f->g->ops[x->ops[i]];
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value v = inner_value(f, b, op->result + k);
      if (!is_read_outside(f, op->result + k, g)) continue;
      results[n] = op->result + k;
      types[n] = *th_type_of(f->t, op->result + k);
      outputs[n++] = v;
    }
  }
  if (b->status) return b->status;
  th_trace_set_outputs(to, b->graph, outputs, n);
  th_op *fusion = th_fusion_op(to, b->graph, executor->name, b->operands, b->n, types, n);
  fusion->origin = f->g->ops[x->ops[x->n_ops - 1]]->origin;
  for (uint32_t i = 0; i < n; i++) th_rewrite_map(&f->r, results[i], fusion->result + i);
  return TH_OK;
}

static void write_outside(fuser *f, const th_op *op) {
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (op->operands[i] != TH_NO_VALUE) outer_value(f, op->operands[i]);
  th_rewrite_clone(&f->r, op);
}

/* A group is written after all it reads from: along dependencies, in order of first ops. */
static th_status write_group(fuser *f, uint32_t g) {
  g = th__fuse_whole(f, g);
  group *x = &f->groups[g];
  if (x->written) return TH_OK;
  x->written = true;
  for (size_t i = 0; i < f->groups[g].n_deps; i++) TH_TRY(write_group(f, f->groups[g].deps[i]));
  x = &f->groups[g];
  if (x->kind != OUTSIDE) return write_fusion(f, g);
  write_outside(f, f->g->ops[x->ops[0]]);
  return TH_OK;
}

th_status th_pass_fuse(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  fuser f = {.options = options, .t = in, .c = in->context, .a = a, .g = in->graphs[0]};
  f.main = th_main_executor(options);
  if (!f.main) return TH_ERROR(UNIMPLEMENTED, "no executor was given that makes kernels: nothing can take the regions of this trace");
  f.late = TH_ARENA_ARRAY(a, bool, f.g->n_ops);
  f.moved = TH_ARENA_ARRAY(a, bool, f.g->n_ops);
  f.group_of = TH_ARENA_ARRAY(a, uint32_t, f.g->n_ops);
  f.position = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  f.users = TH_ARENA_ARRAY(a, users, in->n_values);
  f.local = TH_ARENA_ARRAY(a, th_value, in->n_values);
  f.stamp = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  f.operand = TH_ARENA_ARRAY(a, th_value, in->n_values);
  f.operand_stamp = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  analyse(&f);
  join_siblings(&f);
  f.again = TH_ARENA_ARRAY(a, uint8_t, in->n_values);
  f.needed = TH_ARENA_ARRAY(a, bool, in->n_values);
  th__fuse_mark_needed(&f);
  for (uint32_t g = 0, n = (uint32_t)f.n_groups; g < n; g++)
    if (f.groups[g].kind != OUTSIDE && f.groups[g].n_ops > 1) cut(&f, g);
  th__fuse_mark_needed(&f);
  f.r = th_rewrite_begin(in);
  for (uint32_t g = 1; g < in->n_graphs; g++) th_rewrite_graph(&f.r, g);
  for (uint32_t i = 0; i < f.g->n_ops; i++) /* in order of last ops, so that what a group waits for is near */
    if (f.group_of[i] != TH_NONE && f.groups[f.group_of[i]].ops[f.groups[f.group_of[i]].n_ops - 1] == i) TH_TRY(write_group(&f, f.group_of[i]));
  for (uint32_t i = 0; i < f.g->n_outputs; i++) outer_value(&f, f.g->outputs[i]);
  th_rewrite_outputs(&f.r, 0);
  return th_rewrite_finish(&f.r, out);
}
