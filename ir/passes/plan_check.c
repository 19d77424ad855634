/* Level 4 read again, apart from the planner: places, and a checker that plays the plan through with an
 * owner for each byte range. */
#include <inttypes.h>
#include <string.h>

#include "ir/executor.h"
#include "ir/passes/offsets.h"
#include "ir/passes/plan.h"
#include "ir/passes/schedule.h"

th_storage th_plan_storage(const th_trace *t, th_value v) {
  th_context *c = t->context;
  th_dim offset = th_dim_const(c, 0);
  while (t->values[v].place == TH_PLACE_ALIAS) {
    offset = th_dim_add(c, offset, t->values[v].place_offset);
    v = t->values[v].place_index;
  }
  const th_value_info *i = &t->values[v];
  if (i->place == TH_PLACE_ARENA || i->place == TH_PLACE_STAGED) offset = th_dim_add(c, offset, i->place_offset);
  return (th_storage){.place = i->place, .index = i->place == TH_PLACE_CONSTANT ? v : i->place_index, .value = v, .offset = offset};
}

static th_dim value_bytes(const th_trace *t, th_value v) { return th_extent_bytes(t->context, &t->values[v].type, t->values[v].strides); }

const th_attr *th_plan_scratch(const th_op *op) {
  return (op->kind == TH_OP_launch || op->kind == TH_OP_invoke) && !th_attr_absent(op, "scratch") ? th_attr_get(op, "scratch") : NULL;
}

typedef struct ends { th_context *c; th_dim top, *seen; size_t n_seen; } ends;

static void add_end(ends *e, th_dim offset, th_dim bytes) {
  th_dim unit = th_dim_const(e->c, TH_ARENA_ALIGN);
  if (!th_dim_divisible(e->c, bytes, TH_ARENA_ALIGN))
    bytes = th_dim_mul(e->c, th_dim_floordiv(e->c, th_dim_add(e->c, bytes, th_dim_const(e->c, TH_ARENA_ALIGN - 1)), unit), unit);
  th_dim end = th_dim_add(e->c, offset, bytes);
  for (size_t k = 0; k < e->n_seen; k++)
    if (e->seen[k] == end) return;
  e->seen[e->n_seen++] = end;
  int64_t low, high;
  th_dim_bounds(e->c, th_dim_sub(e->c, e->top, end), &low, &high);
  if (low < 0) e->top = th_dim_max(e->c, e->top, end);
}

th_dim th_plan_arena_bytes(const th_trace *t) { /* the largest end of a storage; symbolic ones lie in slots of equal ends */
  th_context *c = t->context;
  const th_graph *g = t->graphs[0];
  ends e = {.c = c, .top = th_dim_const(c, 0), .seen = TH_ARENA_ARRAY(th_context_arena(c), th_dim, t->n_values + g->n_ops)};
  for (th_value v = 0; v < t->n_values; v++)
    if (t->values[v].graph == 0 && t->values[v].place == TH_PLACE_ARENA) add_end(&e, t->values[v].place_offset, value_bytes(t, v));
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_attr *scratch = th_plan_scratch(g->ops[i]);
    if (scratch) add_end(&e, scratch->ints[0], scratch->ints[1]);
  }
  return e.top;
}

th_dim th_plan_staged_bytes(const th_trace *t) {
  int64_t top = 0, at;
  for (th_value v = 0; v < t->n_values; v++)
    if (t->values[v].graph == 0 && t->values[v].place == TH_PLACE_STAGED && th_dim_is_const(t->context, t->values[v].place_offset, &at) && at + TH_STAGED_BYTES > top) top = at + TH_STAGED_BYTES;
  return th_dim_const(t->context, top);
}

/* ---- the checker: each value that was made owns its bytes until another value is made over them ---- */

typedef struct owned { th_place place; uint32_t index; int64_t begin, end; bool alive; } owned;

typedef struct checker {
  const th_options *options;
  const th_trace *t;
  const int64_t *symbols;
  owned *of;          /* by value; of those that are no aliases */
  th_value *live;     /* owners */
  size_t n_live;
  th_value *busy;     /* operands and results of started collectives */
  size_t n_busy;
  int64_t arena;
} checker;

static th_value owner(const checker *k, th_value v) {
  while (k->t->values[v].place == TH_PLACE_ALIAS) v = k->t->values[v].place_index;
  return v;
}

static bool meet(const owned *a, const owned *b) {
  return a->place == b->place && a->index == b->index && a->begin < b->end && b->begin < a->end;
}

static th_status check_read(const checker *k, const th_op *op, th_value v, const char *where) {
  th_value o = owner(k, v);
  if (k->of[o].alive) return TH_OK;
  return TH_ERROR(INTERNAL, "plan: %s%s reads value %u, whose bytes (of value %u) were overwritten", op ? "op " : "", op ? th_op_name(op->kind) : where, v, o);
}

static bool may_overwrite(const checker *k, const th_op *op, uint32_t r, th_value old) {
  const th_executor *executor = th_executor_of(k->options, op);
  bool found = false;
  for (uint32_t i = 0; i < op->n_operands; i++) {
    if (op->operands[i] == TH_NO_VALUE || owner(k, op->operands[i]) != old) continue;
    found = true;
    if (op->kind == TH_OP_all_reduce || (op->kind == TH_OP_all_reduce_start && i == r)) continue;
    if ((op->kind != TH_OP_launch && op->kind != TH_OP_invoke) || !executor || !executor->in_place || !executor->in_place(k->t, op, i, r)) return false;
  }
  return found;
}

static th_status check_write(checker *k, const th_op *op, uint32_t r) {
  th_value v = op->result + r;
  const th_value_info *i = &k->t->values[v];
  owned *mine = &k->of[v];
  th_context *c = k->t->context;
  int64_t bytes = th_dim_eval(c, value_bytes(k->t, v), k->symbols);
  *mine = (owned){i->place, i->place_index, 0, bytes, true};
  if (i->place == TH_PLACE_ARENA) {
    int64_t at = th_dim_eval(c, i->place_offset, k->symbols);
    *mine = (owned){i->place, 0, at, at + bytes, true};
    if (at < 0 || at % TH_ARENA_ALIGN) return TH_ERROR(INTERNAL, "plan: value %u lies at %" PRId64 ", no multiple of %d", v, at, TH_ARENA_ALIGN);
    if (at + bytes > k->arena) return TH_ERROR(INTERNAL, "plan: value %u ends at %" PRId64 ", the arena at %" PRId64, v, at + bytes, k->arena);
  } else if (i->place == TH_PLACE_BORROWED) {
    const th_input *input = &k->t->inputs[i->place_index];
    bool written = input->written_by >= 0 || input->donated;
    for (uint32_t o = 0; o < k->t->graphs[0]->n_outputs; o++)
      written |= k->t->outputs[o].kind == TH_OUTPUT_WRITTEN && k->t->outputs[o].base == i->place_index;
    if (!written) return TH_ERROR(INTERNAL, "plan: value %u is written into input %u, which is neither written back nor donated", v, i->place_index);
  } else if (i->place == TH_PLACE_CONSTANT) {
    mine->index = v;
    if (op->kind != TH_OP_const) return TH_ERROR(INTERNAL, "plan: value %u of op %s is placed among the constants", v, th_op_name(op->kind));
  } else if (i->place == TH_PLACE_STAGED) {
    int64_t at = th_dim_eval(c, i->place_offset, k->symbols);
    *mine = (owned){i->place, 0, at, at + TH_STAGED_BYTES, true};
    if (!i->type.host || bytes > TH_STAGED_BYTES) return TH_ERROR(INTERNAL, "plan: value %u of op %s is staged, but is no number in host memory", v, th_op_name(op->kind));
  } else if (i->place != TH_PLACE_ESCAPING) {
    return TH_ERROR(INTERNAL, "plan: value %u of op %s has no place", v, th_op_name(op->kind));
  }
  for (size_t n = 0; n < k->n_busy; n++)
    if (k->busy[n] != v && meet(&k->of[k->busy[n]], mine))
      return TH_ERROR(INTERNAL, "plan: op %s writes over value %u, which a collective in flight holds", th_op_name(op->kind), k->busy[n]);
  size_t kept = 0;
  for (size_t n = 0; n < k->n_live; n++) {
    th_value o = k->live[n];
    if (meet(&k->of[o], mine)) {
      if (k->t->values[o].def == op) return TH_ERROR(INTERNAL, "plan: results %u and %u of op %s overlap", o, v, th_op_name(op->kind));
      for (uint32_t m = 0; m < op->n_operands; m++)
        if (op->operands[m] != TH_NO_VALUE && owner(k, op->operands[m]) == o && !may_overwrite(k, op, r, o))
          return TH_ERROR(INTERNAL, "plan: op %s writes value %u over its operand %u, which it cannot do in place", th_op_name(op->kind), v, op->operands[m]);
      k->of[o].alive = false;
    } else {
      k->live[kept++] = o;
    }
  }
  k->n_live = kept;
  k->live[k->n_live++] = v;
  return TH_OK;
}

static owned scratch_of(const checker *k, const th_attr *scratch) {
  int64_t at = th_dim_eval(k->t->context, scratch->ints[0], k->symbols), bytes = th_dim_eval(k->t->context, scratch->ints[1], k->symbols);
  return (owned){TH_PLACE_ARENA, 0, at, at + bytes, true};
}

/* An op's scratch is nobody's that is read by it or later: what lies there is lost. */
static th_status check_scratch(checker *k, const th_op *op) {
  if (!th_plan_scratch(op)) return TH_OK;
  owned scratch = scratch_of(k, th_plan_scratch(op));
  size_t kept = 0;
  for (size_t n = 0; n < k->n_live; n++) {
    th_value o = k->live[n];
    if (!meet(&k->of[o], &scratch)) {
      k->live[kept++] = o;
      continue;
    }
    k->of[o].alive = false;
    for (uint32_t m = 0; m < op->n_operands; m++)
      if (op->operands[m] != TH_NO_VALUE && owner(k, op->operands[m]) == o) return TH_ERROR(INTERNAL, "plan: operand %u of op %s lies in the op's scratch", op->operands[m], th_op_name(op->kind));
  }
  k->n_live = kept;
  for (size_t n = 0; n < k->n_busy; n++)
    if (meet(&k->of[k->busy[n]], &scratch)) return TH_ERROR(INTERNAL, "plan: the scratch of op %s lies over value %u, which a collective in flight holds", th_op_name(op->kind), k->busy[n]);
  return TH_OK;
}

static th_status check_op(checker *k, const th_op *op) {
  for (uint32_t i = 0; i < op->n_operands; i++) {
    if (op->operands[i] == TH_NO_VALUE) continue;
    if (!th_op_is_alias(op) || op->kind == TH_OP_wait) TH_TRY(check_read(k, op, op->operands[i], ""));
    for (size_t n = 0; n < k->n_busy && op->kind != TH_OP_wait && !th_op_is_alias(op); n++)
      if (k->busy[n] == owner(k, op->operands[i]) && k->t->values[k->busy[n]].def && k->t->values[k->busy[n]].def->kind == TH_OP_all_reduce_start)
        return TH_ERROR(INTERNAL, "plan: op %s reads value %u before the wait for it", th_op_name(op->kind), op->operands[i]);
  }
  TH_TRY(check_scratch(k, op));
  for (uint32_t r = 0; r < op->n_results; r++)
    if (k->t->values[op->result + r].place != TH_PLACE_ALIAS) TH_TRY(check_write(k, op, r));
  if (th_plan_scratch(op)) {
    owned scratch = scratch_of(k, th_plan_scratch(op));
    for (uint32_t r = 0; r < op->n_results; r++)
      if (meet(&k->of[op->result + r], &scratch)) return TH_ERROR(INTERNAL, "plan: result %u of op %s lies in the op's scratch", r, th_op_name(op->kind));
  }
  if (op->kind == TH_OP_all_reduce_start) { /* held from now to the wait: operands, and results not in place */
    for (uint32_t i = 0; i < op->n_operands; i++) k->busy[k->n_busy++] = owner(k, op->operands[i]);
    for (uint32_t i = 0; i < op->n_results; i++)
      if (owner(k, op->result + i) == op->result + i) k->busy[k->n_busy++] = op->result + i;
  }
  if (op->kind == TH_OP_wait)
    for (uint32_t i = 0; i < op->n_operands; i++) {
      const th_op *start = k->t->values[op->operands[i]].def;
      th_value held[2] = {owner(k, op->operands[i]), start ? owner(k, start->operands[op->operands[i] - start->result]) : TH_NO_VALUE};
      size_t kept = 0;
      for (size_t n = 0; n < k->n_busy; n++)
        if (k->busy[n] != held[0] && k->busy[n] != held[1]) k->busy[kept++] = k->busy[n];
      k->n_busy = kept;
    }
  return TH_OK;
}

th_status th_plan_check(const th_options *options, const th_trace *t, const int64_t *symbols) {
  th_arena *a = th_context_arena(t->context);
  const th_graph *g = t->graphs[0];
  symbols = th__smallest_symbols(t, symbols);
  checker k = {.options = options, .t = t, .symbols = symbols, .of = TH_ARENA_ARRAY(a, owned, t->n_values), .live = TH_ARENA_ARRAY(a, th_value, t->n_values),
               .busy = TH_ARENA_ARRAY(a, th_value, 2 * t->n_values), .arena = th_dim_eval(t->context, th_plan_arena_bytes(t), symbols)};
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    th_value v = g->inputs[i];
    if (t->values[v].place != TH_PLACE_BORROWED || t->values[v].place_index != i) return TH_ERROR(INTERNAL, "plan: input %u is not placed as borrowed", i);
    k.of[v] = (owned){TH_PLACE_BORROWED, i, 0, th_dim_eval(t->context, value_bytes(t, v), symbols), true};
    k.live[k.n_live++] = v;
  }
  for (size_t i = 0; i < g->n_ops; i++) TH_TRY(check_op(&k, g->ops[i]));
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    th_output_kind kind = t->outputs[o].kind;
    th_value v = g->outputs[o];
    bool leaves = kind == TH_OUTPUT_FRESH || kind == TH_OUTPUT_GRADIENT || kind == TH_OUTPUT_SAVED;
    th_storage s = th_plan_storage(t, v);
    if (leaves) {
      TH_TRY(check_read(&k, NULL, v, "an output"));
      if (s.place != TH_PLACE_ESCAPING && !(s.place == TH_PLACE_BORROWED && kind == TH_OUTPUT_SAVED))
        return TH_ERROR(INTERNAL, "plan: output %u leaves the plan but does not lie in an escaping buffer", o);
    }
  }
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    int32_t o = t->inputs[i].written_by;
    if (o < 0) continue;
    th_storage s = th_plan_storage(t, g->outputs[o]);
    if (s.place != TH_PLACE_BORROWED || s.index != i || !k.of[s.value].alive)
      return TH_ERROR(INTERNAL, "plan: output %d is not in the buffer of input %u at the end", o, i);
  }
  return TH_OK;
}
