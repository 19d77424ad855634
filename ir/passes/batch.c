/* batch: independent fusions that are alike but for sizes (the updates of all parameters, the sums of squares of all gradients, the casts of
 * all weights) become one, whose body holds them one after the other: ir/batch.h. One launch instead of hundreds of tiny ones.
 *
 * Members are taken greedily, in program order, as long as all they read is made before any of what they make is read:
 *
 *   producers of operands  <  first reader of a result        and no member reads another
 *
 * The batch stands right before that reader. Positions are those of the order as it is by then, batches made before included. */
#include <string.h>

#include "ir/batch.h"
#include "ir/executor.h"
#include "ir/passes/passes.h"
#include "ir/passes/plan.h"

enum { LEAST = 4, MOST = 400, MOST_TENSORS = 1900 /* executors/run/cuda/execute.c; the pointers are parameters of one kernel */ };

typedef struct item { /* of the order: an op, or a batch */
  const th_op *op;           /* NULL: a batch */
  const uint32_t *members;   /* ops of it, by number in graph 0, rising */
  uint32_t n;
} item;

typedef struct readers { uint32_t *ops; size_t n, capacity; } readers;

typedef struct batcher {
  const th_options *options;
  const th_trace *t;
  th_arena *a;
  const th_graph *g;
  uint32_t *class_of;   /* by op: 1 + the first op that it is like; 0: no candidate, or taken */
  uint32_t *number;     /* by value: 1 + its op; 0: an input */
  readers *readers;     /* by op */
  item *order;
  size_t n_order;
  size_t *position;     /* by op: where it stands in the order */
  bool *member;         /* by op: of the batch being gathered */
  bool any;
} batcher;

static const th_graph *body_of(const batcher *b, const th_op *op) { return b->t->graphs[th_attr_get(op, "body")->graph]; }

/* The kernel of a batch walks tensors as one dimension: what is to be made in another order (a convolution's weights, channels-last) stays alone. */
static bool made_in_order(const batcher *b, const th_op *op, const th_dim *const *wanted) {
  for (uint32_t k = 0; k < op->n_results; k++)
    if (wanted[op->result + k] && !th_strides_contiguous(b->t->context, th_type_of(b->t, op->result + k), wanted[op->result + k])) return false;
  return true;
}

static void classify(batcher *b) {
  const th_dim **wanted = th_wanted_strides(b->options, b->t);
  uint32_t *firsts = TH_ARENA_ARRAY(b->a, uint32_t, b->g->n_ops);
  th_value *map = TH_ARENA_ARRAY(b->a, th_value, b->t->n_values);
  size_t n = 0;
  for (uint32_t i = 0; i < b->g->n_ops; i++) {
    const th_op *op = b->g->ops[i];
    const th_executor *executor = op->kind == TH_OP_fusion ? th_executor_of(b->options, op) : NULL;
    if (!executor || !executor->batches || !th_attr_absent(op, "batch") || !made_in_order(b, op, wanted) || !executor->batches(b->options, b->t, op)) continue;
    for (size_t k = 0; k < n && !b->class_of[i]; k++) {
      const th_op *first = b->g->ops[firsts[k]];
      if (th_executor_of(b->options, first) == executor && th_bodies_alike(b->t, body_of(b, first), body_of(b, op), map)) b->class_of[i] = firsts[k] + 1;
    }
    if (b->class_of[i]) continue;
    b->class_of[i] = i + 1;
    firsts[n++] = i;
  }
}

static void fill_readers(batcher *b) {
  for (uint32_t i = 0; i < b->g->n_ops; i++)
    for (uint32_t k = 0; k < b->g->ops[i]->n_results; k++) b->number[b->g->ops[i]->result + k] = i + 1;
  for (uint32_t i = 0; i < b->g->n_ops; i++)
    for (uint32_t k = 0; k < b->g->ops[i]->n_operands; k++) {
      th_value v = b->g->ops[i]->operands[k];
      if (v == TH_NO_VALUE || !b->number[v]) continue;
      readers *r = &b->readers[b->number[v] - 1];
      if (!r->n || r->ops[r->n - 1] != i) TH_PUSH(b->a, r->ops, r->n, r->capacity, i);
    }
}

static void fill_positions(batcher *b) {
  for (size_t i = 0; i < b->n_order; i++) {
    if (b->order[i].op) b->position[b->order[i].members[0]] = i;
    for (uint32_t k = 0; !b->order[i].op && k < b->order[i].n; k++) b->position[b->order[i].members[k]] = i;
  }
}

/* 1 + the position of the last op that `op` reads; 0: it reads inputs only. */
static size_t last_producer(const batcher *b, uint32_t op) {
  size_t last = 0;
  for (uint32_t k = 0; k < b->g->ops[op]->n_operands; k++) {
    th_value v = b->g->ops[op]->operands[k];
    uint32_t from = v == TH_NO_VALUE ? 0 : b->number[v];
    if (from && b->position[from - 1] + 1 > last) last = b->position[from - 1] + 1;
  }
  return last;
}

static size_t first_reader(const batcher *b, uint32_t op) { /* its position; the end where there is none */
  size_t first = b->n_order;
  for (size_t k = 0; k < b->readers[op].n; k++)
    if (b->position[b->readers[op].ops[k]] < first) first = b->position[b->readers[op].ops[k]];
  return first;
}

static bool meets_member(const batcher *b, uint32_t op) { /* reads one, or is read by one */
  for (uint32_t k = 0; k < b->g->ops[op]->n_operands; k++) {
    th_value v = b->g->ops[op]->operands[k];
    if (v != TH_NO_VALUE && b->number[v] && b->member[b->number[v] - 1]) return true;
  }
  for (size_t k = 0; k < b->readers[op].n; k++)
    if (b->member[b->readers[op].ops[k]]) return true;
  return false;
}

/* The members leave their places; the batch stands before the op that was at `before`. */
static void settle(batcher *b, const uint32_t *members, uint32_t n, size_t before) {
  item *order = TH_ARENA_ARRAY(b->a, item, b->n_order + 1);
  size_t k = 0;
  for (size_t i = 0; i <= b->n_order; i++) {
    if (i == before) order[k++] = (item){.members = th_arena_copy(b->a, members, n * sizeof *members), .n = n};
    if (i < b->n_order && !(b->order[i].op && b->member[b->order[i].members[0]])) order[k++] = b->order[i];
  }
  b->order = order;
  b->n_order = k;
  b->any = true;
  fill_positions(b);
}

/* Members of a batch, at most: where a class does not fit into one, all get as many, so that one kernel is compiled and not one for each number. */
static uint32_t limit(const batcher *b, uint32_t from) {
  uint32_t each = b->g->ops[from]->n_operands + b->g->ops[from]->n_results, most = each * MOST > MOST_TENSORS ? MOST_TENSORS / each : MOST, n = 0;
  for (uint32_t i = from; i < b->g->n_ops; i++) n += b->class_of[i] == b->class_of[from];
  if (!most) return 0;
  uint32_t batches = (n + most - 1) / most;
  return (n + batches - 1) / batches;
}

static void gather(batcher *b, uint32_t from) {
  uint32_t class_ = b->class_of[from], members[MOST], n = 0, most = limit(b, from);
  size_t produced = 0, read = b->n_order;
  for (uint32_t i = from; i < b->g->n_ops && n < most; i++) {
    if (b->class_of[i] != class_) continue;
    size_t p = last_producer(b, i), r = first_reader(b, i);
    if (p < produced) p = produced;
    if (r > read) r = read;
    if (p > r || meets_member(b, i)) continue;
    produced = p, read = r;
    b->member[i] = true;
    members[n++] = i;
  }
  if (n >= LEAST) settle(b, members, n, read);
  for (uint32_t k = 0; k < n; k++) {
    b->member[members[k]] = false;
    if (n >= LEAST) b->class_of[members[k]] = 0;
  }
  b->class_of[from] = 0;
}

/* ---- writing ---- */

static void write_batch(batcher *b, th_rewriter *r, const item *i) {
  th_trace *to = r->b.trace;
  uint32_t graph = (uint32_t)to->n_graphs, n_in = 0, n_out = 0;
  const th_op *first = b->g->ops[i->members[0]];
  th_value *operands = TH_ARENA_ARRAY(b->a, th_value, i->n * first->n_operands), *outputs = TH_ARENA_ARRAY(b->a, th_value, i->n * first->n_results);
  th_type *types = TH_ARENA_ARRAY(b->a, th_type, i->n * first->n_results);
  th_trace_add_graph(to, "batch");
  r->b.graph = graph;
  for (uint32_t k = 0; k < i->n; k++) th_rewrite_append_inputs(r, th_attr_get(b->g->ops[i->members[k]], "body")->graph);
  for (uint32_t k = 0; k < i->n; k++) {
    const th_op *op = b->g->ops[i->members[k]];
    th_rewrite_append_ops(r, th_attr_get(op, "body")->graph);
    for (uint32_t m = 0; m < op->n_operands; m++) operands[n_in++] = th_rewrite_value(r, op->operands[m]);
    for (uint32_t m = 0; m < op->n_results; m++) {
      types[n_out] = *th_type_of(b->t, op->result + m);
      outputs[n_out++] = r->map[body_of(b, op)->outputs[m]];
    }
  }
  th_trace_set_outputs(to, graph, outputs, n_out);
  r->b.graph = 0;
  th_op *made = th_fusion_op(to, graph, first->executor, operands, n_in, types, n_out);
  made->attrs[th_op_attr_index(TH_OP_fusion, "batch")] = th_make_int(b->t->context, i->n);
  made->origin = b->g->ops[i->members[i->n - 1]]->origin;
  for (uint32_t k = 0, at = 0; k < i->n; k++)
    for (uint32_t m = 0; m < first->n_results; m++) th_rewrite_map(r, b->g->ops[i->members[k]]->result + m, made->result + at++);
}

th_status th_pass_batch(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  size_t n = in->graphs[0]->n_ops;
  batcher b = {.options = options, .t = in, .a = a, .g = in->graphs[0], .n_order = n};
  b.class_of = TH_ARENA_ARRAY(a, uint32_t, n);
  b.number = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  b.readers = TH_ARENA_ARRAY(a, readers, n);
  b.order = TH_ARENA_ARRAY(a, item, n);
  b.position = TH_ARENA_ARRAY(a, size_t, n);
  b.member = TH_ARENA_ARRAY(a, bool, n);
  uint32_t *numbers = TH_ARENA_ARRAY(a, uint32_t, n);
  for (uint32_t i = 0; i < n; i++) {
    numbers[i] = i;
    b.order[i] = (item){.op = b.g->ops[i], .members = &numbers[i], .n = 1};
  }
  classify(&b);
  fill_readers(&b);
  fill_positions(&b);
  for (uint32_t i = 0; i < n; i++)
    if (b.class_of[i]) gather(&b, i);
  if (!b.any) {
    *out = (th_trace *)in;
    return TH_OK;
  }
  th_rewriter r = th_rewrite_begin_main(in);
  for (size_t i = 0; i < b.n_order; i++) {
    if (b.order[i].op) th_rewrite_clone_deep(&r, b.order[i].op);
    else write_batch(&b, &r, &b.order[i]);
  }
  th_rewrite_outputs(&r, 0);
  return th_rewrite_finish(&r, out);
}
