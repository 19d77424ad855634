#include "ir/passes/schedule.h"

#include <assert.h>

#include "ir/passes/plan.h"

typedef struct scheduler {
  const th_trace *t;
  const th_op **order;
  size_t n;
  uint32_t *index;  /* by value: 1 + index of its op in the graph; 0: an input */
  uint32_t *mark;   /* by op index: 0 not yet, 1 put off, 2 in the order */
  size_t *next;     /* by op index: 1 + the next start to go out after the same op */
  size_t *go;       /* by op index + 1: 1 + the first start that may go right after it */
} scheduler;

bool th_op_is_collective(const th_op *op) {
  return op->kind == TH_OP_all_reduce || op->kind == TH_OP_all_gather || op->kind == TH_OP_reduce_scatter ||
         op->kind == TH_OP_all_reduce_start;
}

static void put(scheduler *s, size_t i) {
  const th_op *op = s->t->graphs[0]->ops[i];
  if (s->mark[i] == 2) return;
  s->mark[i] = 2;
  for (uint32_t k = 0; k < op->n_operands; k++) { /* what was put off and is read now */
    uint32_t d = op->operands[k] == TH_NO_VALUE ? 0 : s->index[op->operands[k]];
    if (d) put(s, d - 1);
  }
  s->order[s->n++] = op;
}

const th_op **th_schedule(const th_trace *t) {
  th_arena *a = th_context_arena(t->context);
  const th_graph *g = t->graphs[0];
  scheduler s = {.t = t, .order = TH_ARENA_ARRAY(a, const th_op *, g->n_ops), .index = TH_ARENA_ARRAY(a, uint32_t, t->n_values),
                 .mark = TH_ARENA_ARRAY(a, uint32_t, g->n_ops), .next = TH_ARENA_ARRAY(a, size_t, g->n_ops + 1),
                 .go = TH_ARENA_ARRAY(a, size_t, g->n_ops + 1)};
  bool *early = TH_ARENA_ARRAY(a, bool, g->n_ops);
  size_t barrier = 0; /* 1 + index of the op after which the next collective may go: the collective before */
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    for (uint32_t k = 0; k < op->n_results; k++) s.index[op->result + k] = (uint32_t)i + 1;
    if (!th_op_is_collective(op)) continue;
    if (op->kind == TH_OP_all_reduce_start) {
      size_t after = barrier; /* 0: may go first of all */
      for (uint32_t k = 0; k < op->n_operands; k++)
        if (s.index[op->operands[k]] > after) after = s.index[op->operands[k]];
      size_t *tail = &s.go[after];
      while (*tail) tail = &s.next[*tail - 1];
      *tail = i + 1;
      early[i] = true;
      barrier = after; /* starts of one place keep their order in the list */
    } else {
      barrier = i + 1;
    }
  }
  for (size_t i = 0; i <= g->n_ops; i++) {
    if (i > 0) {
      const th_op *op = g->ops[i - 1];
      if (early[i - 1]) { /* gone out already: its list was walked at an earlier place */
      } else if (th_op_is_alias(op)) {
        if (!s.mark[i - 1]) s.mark[i - 1] = 1;
      } else {
        put(&s, i - 1);
      }
    }
    for (size_t k = s.go[i]; k; k = s.next[k - 1]) put(&s, k - 1);
  }
  for (size_t i = 0; i < g->n_ops; i++) put(&s, i); /* views and waits that only outputs read */
  assert(s.n == g->n_ops);
  return s.order;
}
