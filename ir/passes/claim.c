/* claim: composites that an executor wants whole become one library op each, whose body is the composite's lowering: what
 * it computes stays written down, for the reference executor and for readers. So do groups of ops that an executor's library does in one
 * call (a product with its bias and gelu); they stand where the last of them stood. The others are left to `decompose`.
 * absorb: the same for groups of prims (a product and what it is added to), when passes that make such have run. */
#include <string.h>

#include "ir/executor.h"
#include "ir/passes/passes.h"

typedef struct set { th_absorbed of; const th_executor *executor; uint32_t last; } set;

typedef struct claimer {
  const th_options *options;
  const th_trace *t;
  th_users users;
  uint32_t *position; /* by value: of its op, plus 1; 0 for inputs */
  uint32_t *set_of;   /* by op: set + 1 */
  set *sets;
  size_t n_sets, sets_capacity;
  th_value *inner; /* by value: in the body being written, where stamp says `now` */
  uint32_t *stamp, now;
  th_rewriter r;
} claimer;

static void find_users(claimer *k) {
  th_arena *a = th_context_arena(k->t->context);
  const th_graph *g = k->t->graphs[0];
  size_t n = k->t->n_values;
  uint32_t *count = TH_ARENA_ARRAY(a, uint32_t, n);
  const th_op ***readers = TH_ARENA_ARRAY(a, const th_op **, n);
  bool *leaves = TH_ARENA_ARRAY(a, bool, n);
  for (int fill = 0; fill < 2; fill++) {
    for (size_t v = 0; v < n && fill; v++) readers[v] = TH_ARENA_ARRAY(a, const th_op *, count[v]);
    memset(count, 0, n * sizeof *count);
    for (size_t i = 0; i < g->n_ops; i++)
      for (uint32_t m = 0; m < g->ops[i]->n_operands; m++) {
        th_value v = g->ops[i]->operands[m];
        if (v == TH_NO_VALUE) continue;
        if (fill) readers[v][count[v]] = g->ops[i];
        count[v]++;
      }
  }
  for (uint32_t o = 0; o < g->n_outputs; o++) leaves[g->outputs[o]] = true;
  for (size_t i = 0; i < g->n_ops; i++)
    for (uint32_t m = 0; m < g->ops[i]->n_results; m++) k->position[g->ops[i]->result + m] = (uint32_t)i + 1;
  k->users = (th_users){.readers = (const th_op *const *const *)readers, .n_readers = count, .leaves = leaves};
}

static uint32_t position_of(const claimer *k, const th_op *op) { return k->position[op->result] - 1; }

static bool is_member(const th_absorbed *s, const th_op *op) {
  for (uint32_t i = 0; i < s->n_ops; i++)
    if (s->ops[i] == op) return true;
  return false;
}

/* All of them free, inner values read inside alone, results read after the last of them. */
static bool holds(const claimer *k, const th_absorbed *s, uint32_t *out_last) {
  uint32_t last = 0;
  for (uint32_t i = 0; i < s->n_ops; i++) {
    uint32_t at = position_of(k, s->ops[i]);
    if (k->set_of[at]) return false;
    if (at > last) last = at;
  }
  for (uint32_t i = 0; i < s->n_ops; i++)
    for (uint32_t m = 0; m < s->ops[i]->n_results; m++) {
      th_value v = s->ops[i]->result + m;
      bool result = false;
      for (uint32_t r = 0; r < s->n_results; r++) result |= s->results[r] == v;
      if (k->users.leaves[v] && !result) return false;
      for (uint32_t u = 0; u < k->users.n_readers[v]; u++) {
        const th_op *reader = k->users.readers[v][u];
        if (!is_member(s, reader) && (!result || position_of(k, reader) < last)) return false;
      }
    }
  *out_last = last;
  return true;
}

static void find_sets(claimer *k) {
  const th_graph *g = k->t->graphs[0];
  for (size_t i = 0; i < g->n_ops; i++)
    for (uint32_t e = 0; e < k->options->n_executors && !k->set_of[i]; e++) {
      set s = {.executor = k->options->executors[e]};
      if (!g->ops[i]->n_results || !s.executor->absorbs || !s.executor->absorbs(k->options, k->t, &k->users, g->ops[i], &s.of) || !holds(k, &s.of, &s.last)) continue;
      for (uint32_t m = 1; m < s.of.n_ops; m++) /* in order */
        for (uint32_t n = m; n > 0 && position_of(k, s.of.ops[n]) < position_of(k, s.of.ops[n - 1]); n--) {
          const th_op *swap = s.of.ops[n];
          s.of.ops[n] = s.of.ops[n - 1];
          s.of.ops[n - 1] = swap;
        }
      TH_PUSH(th_context_arena(k->t->context), k->sets, k->n_sets, k->sets_capacity, s);
      for (uint32_t m = 0; m < s.of.n_ops; m++) k->set_of[position_of(k, s.of.ops[m])] = (uint32_t)k->n_sets;
    }
}

static void set_inner(claimer *k, th_value v, th_value inner) {
  k->inner[v] = inner;
  k->stamp[v] = k->now;
}

/* The copy, or the lowering, of one op of a body. */
static th_status write_inner(claimer *k, const th_op *op, uint32_t body) {
  th_rewriter *r = &k->r;
  th_arena *a = th_context_arena(k->t->context);
  th_value *in = TH_ARENA_ARRAY(a, th_value, op->n_operands), *made = TH_ARENA_ARRAY(a, th_value, op->n_results);
  for (uint32_t m = 0; m < op->n_operands; m++) {
    th_value v = op->operands[m];
    if (v != TH_NO_VALUE && k->stamp[v] != k->now) {
      const th_op *def = k->t->values[v].def; /* a constant has a copy of its own */
      if (!def || def->kind != TH_OP_const) return TH_ERROR(INTERNAL, "%s reads what its library call is not given", th_op_name(op->kind));
      set_inner(k, v, th_trace_add_op(r->b.trace, body, TH_OP_const, NULL, 0, def->attrs, th_type_of(k->t, v), 1)->result);
    }
    in[m] = v == TH_NO_VALUE ? v : k->inner[v];
  }
  if (th_op_spec_get(op->kind)->level == TH_LEVEL_TORCH) {
    TH_TRY(th_lower_op(&r->b, r->from, op, in, made));
  } else {
    th_type *types = TH_ARENA_ARRAY(a, th_type, op->n_results);
    for (uint32_t m = 0; m < op->n_results; m++) types[m] = *th_type_of(k->t, op->result + m);
    th_op *copy = th_trace_add_op(r->b.trace, body, op->kind, in, op->n_operands, op->attrs, types, op->n_results);
    copy->origin = op->origin;
    for (uint32_t m = 0; m < op->n_results; m++) made[m] = copy->result + m;
  }
  for (uint32_t m = 0; m < op->n_results; m++) set_inner(k, op->result + m, made[m]);
  return TH_OK;
}

/* The library op for a set of ops, with the body written from their lowerings. */
static th_status wrap(claimer *k, const th_absorbed *s, const th_executor *executor) {
  th_rewriter *r = &k->r;
  th_trace *to = r->b.trace;
  uint32_t body = (uint32_t)to->n_graphs;
  th_value given[TH_MAX_CALL], outputs[TH_MAX_CALL];
  th_type types[TH_MAX_CALL];
  k->now++;
  th_trace_add_graph(to, s->call.function);
  for (uint32_t i = 0; i < s->n_operands; i++) {
    given[i] = r->map[s->operands[i]];
    set_inner(k, s->operands[i], th_trace_add_input(to, body, *th_type_of(to, given[i])));
  }
  r->b.graph = body;
  for (uint32_t i = 0; i < s->n_ops; i++) TH_TRY(write_inner(k, s->ops[i], body));
  r->b.graph = 0;
  for (size_t i = 0; i < to->graphs[body]->n_ops; i++)
    if (th_op_spec_get(to->graphs[body]->ops[i]->kind)->level != TH_LEVEL_PRIM)
      return TH_ERROR(INTERNAL, "the lowering of %s, which %s claims, is not made of prims", th_op_name(s->ops[0]->kind), executor->name);
  for (uint32_t i = 0; i < s->n_results; i++) {
    outputs[i] = k->inner[s->results[i]];
    types[i] = *th_type_of(to, outputs[i]);
  }
  th_trace_set_outputs(to, body, outputs, s->n_results);
  th_op *library = th_library_op(to, body, executor, &s->call, given, s->n_operands, types, s->n_results);
  library->origin = s->ops[s->n_ops - 1]->origin;
  for (uint32_t i = 0; i < s->n_results; i++) {
    th_rewrite_map(r, s->results[i], library->result + i);
    to->values[library->result + i].name = k->t->values[s->results[i]].name;
  }
  return TH_OK;
}

static th_status claim_one(claimer *k, const th_op *op) {
  th_absorbed s = {.n_ops = 1, .ops = {op}, .n_results = op->n_results};
  const th_executor *executor = NULL;
  for (uint32_t i = 0; i < k->options->n_executors && !executor && th_op_spec_get(op->kind)->level == TH_LEVEL_TORCH; i++)
    if (k->options->executors[i]->claims && k->options->executors[i]->claims(k->options, k->t, op, &s.call)) executor = k->options->executors[i];
  if (!executor) {
    th_rewrite_clone(&k->r, op);
    return TH_OK;
  }
  if (op->n_operands > TH_MAX_CALL || op->n_results > TH_MAX_CALL) return TH_ERROR(INTERNAL, "%s claims a %s of %u operands", executor->name, th_op_name(op->kind), op->n_operands);
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (op->operands[i] != TH_NO_VALUE) s.operands[s.n_operands++] = op->operands[i];
  for (uint32_t i = 0; i < op->n_results; i++) s.results[i] = op->result + i;
  return wrap(k, &s, executor);
}

th_status th_pass_absorb(const th_options *options, const th_trace *in, th_trace **out) { return th_pass_claim(options, in, out); }

th_status th_pass_claim(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  const th_graph *g = in->graphs[0];
  claimer k = {.options = options, .t = in, .position = TH_ARENA_ARRAY(a, uint32_t, in->n_values), .set_of = TH_ARENA_ARRAY(a, uint32_t, g->n_ops + 1), .r = th_rewrite_begin(in)};
  k.inner = TH_ARENA_ARRAY(a, th_value, in->n_values);
  k.stamp = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  find_users(&k);
  find_sets(&k);
  for (uint32_t i = 1; i < in->n_graphs; i++) th_rewrite_graph(&k.r, i);
  k.r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops && !k.r.b.status; i++) {
    const set *s = k.set_of[i] ? &k.sets[k.set_of[i] - 1] : NULL;
    th_rewrite_at(&k.r, g->ops[i]);
    if (s && s->last != i) continue;
    if (s) th_fail(&k.r.b, wrap(&k, &s->of, s->executor));
    else th_fail(&k.r.b, claim_one(&k, g->ops[i]));
  }
  if (!k.r.b.status) th_rewrite_outputs(&k.r, 0);
  return th_rewrite_finish(&k.r, out);
}
