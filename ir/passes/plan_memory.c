/* What a plan of level 4 needs, in bytes: in all, and who takes it when most is alive. */
#include <stdlib.h>

#include "ir/passes/plan.h"

static th_dim value_bytes(const th_trace *t, th_value v) { return th_extent_bytes(t->context, &t->values[v].type, t->values[v].strides); }

const int64_t *th__smallest_symbols(const th_trace *t, const int64_t *symbols) {
  uint32_t n = th_symbol_count(t->context);
  int64_t *out = TH_ARENA_ARRAY(th_context_arena(t->context), int64_t, n);
  for (uint32_t i = 0; i < n; i++) out[i] = symbols ? symbols[i] : th_symbol_get(t->context, i)->min;
  return out;
}

th_plan_bytes th_plan_predict(const th_trace *t, const int64_t *symbols) {
  th_context *c = t->context;
  th_plan_bytes sum = {0};
  symbols = th__smallest_symbols(t, symbols);
  for (th_value v = 0; v < t->n_values; v++) {
    const th_value_info *i = &t->values[v];
    if (i->graph != 0 || i->type.host) continue;
    bool input = !i->def && i->place == TH_PLACE_BORROWED;
    int64_t bytes = input || i->place == TH_PLACE_ESCAPING || i->place == TH_PLACE_CONSTANT ? th_dim_eval(c, value_bytes(t, v), symbols) : 0;
    if (input) sum.borrowed += bytes;
    else if (i->place == TH_PLACE_ESCAPING) sum.escaping += bytes;
    else if (i->place == TH_PLACE_CONSTANT) sum.constants += bytes;
  }
  sum.arena = th_dim_eval(c, th_plan_arena_bytes(t), symbols);
  sum.peak = sum.borrowed + sum.escaping + sum.arena + sum.constants;
  return sum;
}

/* ---- rows ---- */

typedef struct extent { int64_t begin, end; uint32_t first, last, op; } extent; /* bytes of the arena; positions from ... to; captured op */

typedef struct rows { th_arena *a; th_memory_row *at; size_t n, capacity; } rows;

static void add(rows *r, th_memory_kind kind, uint32_t op, int64_t bytes) {
  if (bytes <= 0) return;
  for (size_t i = 0; i < r->n; i++)
    if (r->at[i].kind == kind && r->at[i].op == op) {
      r->at[i].bytes += bytes;
      r->at[i].count++;
      return;
    }
  TH_PUSH(r->a, r->at, r->n, r->capacity, ((th_memory_row){kind, op, 1, bytes}));
}

static th_memory_kind kind_of_input(th_input_kind kind) {
  switch (kind) {
    case TH_INPUT_PARAMETER: return TH_MEMORY_PARAMETER;
    case TH_INPUT_BUFFER: return TH_MEMORY_BUFFER;
    case TH_INPUT_STATE: return TH_MEMORY_STATE;
    case TH_INPUT_ACCUMULATOR: return TH_MEMORY_ACCUMULATOR;
    default: return TH_MEMORY_BATCH;
  }
}

static int by_begin(const void *a, const void *b) {
  const extent *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return (x->end < y->end) - (x->end > y->end);
}

/* What lies in the arena, and when: by value that owns bytes, then what kernels use while they run. */
static size_t extents_of(const th_trace *t, const int64_t *symbols, extent *out, size_t *out_workspaces) {
  th_context *c = t->context;
  const th_graph *g = t->graphs[0];
  uint32_t *slot = TH_ARENA_ARRAY(th_context_arena(c), uint32_t, t->n_values); /* plus 1 */
  size_t n = 0;
  for (uint32_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value v = op->result + k;
      if (t->values[v].place != TH_PLACE_ARENA) continue;
      int64_t at = th_dim_eval(c, t->values[v].place_offset, symbols);
      out[n] = (extent){at, at + th_dim_eval(c, value_bytes(t, v), symbols), i, i, op->origin};
      slot[v] = (uint32_t)++n;
    }
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_storage s = op->operands[k] == TH_NO_VALUE ? (th_storage){.place = TH_PLACE_NONE} : th_plan_storage(t, op->operands[k]);
      if (s.place == TH_PLACE_ARENA) out[slot[s.value] - 1].last = i;
    }
  }
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    th_storage s = th_plan_storage(t, g->outputs[o]);
    if (s.place == TH_PLACE_ARENA) out[slot[s.value] - 1].last = (uint32_t)g->n_ops;
  }
  *out_workspaces = n;
  for (uint32_t i = 0; i < g->n_ops; i++) {
    const th_attr *scratch = th_plan_scratch(g->ops[i]);
    if (!scratch) continue;
    int64_t at = th_dim_eval(c, scratch->ints[0], symbols);
    out[n++] = (extent){at, at + th_dim_eval(c, scratch->ints[1], symbols), i, i, g->ops[i]->origin};
  }
  return n;
}

static void add_arena(rows *r, const th_trace *t, const int64_t *symbols, int64_t arena) {
  size_t n_ops = t->graphs[0]->n_ops, n_workspaces;
  extent *all = TH_ARENA_ARRAY(r->a, extent, t->n_values + n_ops), *at_peak = TH_ARENA_ARRAY(r->a, extent, t->n_values + n_ops);
  size_t n = extents_of(t, symbols, all, &n_workspaces), n_peak = 0;
  int64_t *live = TH_ARENA_ARRAY(r->a, int64_t, n_ops + 2), covered = 0, filled = 0;
  uint32_t peak = 0;
  for (size_t i = 0; i < n; i++) {
    live[all[i].first] += all[i].end - all[i].begin;
    live[all[i].last + 1] -= all[i].end - all[i].begin;
  }
  for (uint32_t i = 1; i <= n_ops; i++) {
    live[i] += live[i - 1];
    if (live[i] > live[peak]) peak = i;
  }
  for (size_t i = 0; i < n; i++)
    if (all[i].first <= peak && all[i].last >= peak) {
      all[i].last = i >= n_workspaces; /* from here on: is it a workspace? */
      at_peak[n_peak++] = all[i];
    }
  qsort(at_peak, n_peak, sizeof *at_peak, by_begin);
  for (size_t i = 0; i < n_peak; i++) { /* what is computed in place counts once */
    int64_t begin = at_peak[i].begin > covered ? at_peak[i].begin : covered;
    if (at_peak[i].end <= begin) continue;
    add(r, at_peak[i].last ? TH_MEMORY_WORKSPACE : TH_MEMORY_LIVE, at_peak[i].op, at_peak[i].end - begin);
    filled += at_peak[i].end - begin;
    covered = at_peak[i].end;
  }
  add(r, TH_MEMORY_GAP, TH_NONE, arena - filled);
}

size_t th_plan_memory(const th_trace *t, const int64_t *symbols, const th_memory_row **out_rows) {
  th_context *c = t->context;
  rows r = {.a = th_context_arena(c)};
  symbols = th__smallest_symbols(t, symbols);
  for (th_value v = 0; v < t->n_values; v++) {
    const th_value_info *i = &t->values[v];
    if (i->graph != 0 || i->type.host) continue;
    bool input = !i->def && i->place == TH_PLACE_BORROWED;
    if (!input && i->place != TH_PLACE_ESCAPING && i->place != TH_PLACE_CONSTANT) continue;
    add(&r, input ? kind_of_input(t->inputs[i->index].kind) : i->place == TH_PLACE_ESCAPING ? TH_MEMORY_OUTPUT : TH_MEMORY_CONSTANT, TH_NONE,
        th_dim_eval(c, value_bytes(t, v), symbols));
  }
  add_arena(&r, t, symbols, th_dim_eval(c, th_plan_arena_bytes(t), symbols));
  *out_rows = r.at;
  return r.n;
}
