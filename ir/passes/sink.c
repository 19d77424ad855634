/* sink: what the backward pass reads of a pointwise chain is computed there, from what the chain starts from, instead of
 * being written by the forward pass and read again (the normalized rows of a norm; the mask of a ReLU). A chain of cheap ops (on GPUs
 * also of a few exponentials and their like: there they take less time than the memory would) moves when it has one operand of its own size, so that keeping that operand alive costs no more memory than keeping the
 * result; smaller operands (a row's mean) come along. Only readers that can be fused with the copy get one each; the pass
 * `fuse` then puts it into their kernels. Barriers on the operands keep it from putting the copy back where the original was.
 *
 * "Far" is past an op that is no part of a fusion (a matrix product, a library call, a scatter): the value would be stored. */
#include <string.h>

#include "ir/passes/passes.h"

enum { MAX_CHAIN = 32, MAX_DEPTH = 24, MAX_COSTLY = 3 };

typedef struct sinker {
  const th_trace *t;
  th_context *c;
  uint32_t max_costly;        /* ops of a chain that are not cheap */
  uint32_t *position, *heavy; /* by value: its op; by op: heavy ops before it */
  bool *stored;               /* by value: read far from where it is made, or by a heavy op */
  th_value *barred, *copy;    /* by value: its barrier, and its copy, in the present stretch between heavy ops, ... */
  uint32_t *barred_in, *copied_in; /* ... and that stretch, plus 1 */
  th_rewriter r;
} sinker;

typedef struct chain {
  const th_op *ops[MAX_CHAIN]; /* an op after those that read it */
  uint32_t n, n_costly, wide;  /* ...; operands of the result's size */
  th_value wide_value;
} chain;

bool th__is_heavy(const th_op *op) {
  switch (op->kind) {
    case TH_OP_dot: case TH_OP_conv: case TH_OP_conv_grad_x: case TH_OP_conv_grad_w: case TH_OP_scatter_add: case TH_OP_scatter_add_along:
    case TH_OP_scatter_along: case TH_OP_window_max: case TH_OP_window_sum: case TH_OP_window_sum_grad: case TH_OP_window_max_grad: case TH_OP_cumsum: case TH_OP_concat:
    case TH_OP_argmax: case TH_OP_argmin: return true;
    default: return th_op_spec_get(op->kind)->level >= TH_LEVEL_REGION || th_op_spec_get(op->kind)->traits & TH_EFFECT;
  }
}

static bool is_free(const th_op *op) { return op->kind == TH_OP_const || op->kind == TH_OP_iota || op->kind == TH_OP_broadcast; }

static bool reads_in_a_kernel(const th_op *op) {
  return th_op_is_pointwise(op) || th_op_is_reduction(op);
}

static bool is_far(const sinker *s, th_value v, size_t reader) {
  uint32_t made = s->position[v];
  return made != TH_NONE && s->heavy[reader] > s->heavy[made];
}

static void find_stored(sinker *s, bool *movable) {
  const th_graph *g = s->t->graphs[0];
  for (uint32_t o = 0; o < g->n_outputs; o++) s->stored[g->outputs[o]] = true;
  for (size_t i = 0; i < g->n_ops; i++)
    for (uint32_t k = 0; k < g->ops[i]->n_operands; k++) {
      th_value v = g->ops[i]->operands[k];
      if (v == TH_NO_VALUE || s->position[v] == TH_NONE) continue;
      if (!reads_in_a_kernel(g->ops[i]) && !is_free(g->ops[i])) s->stored[v] = true;
      else if (is_far(s, v, i)) movable[v] = true;
    }
}

/* The chain that makes v, back to values that are stored anyway, results of other ops, and inputs. */
static bool collect(const sinker *s, th_value v, bool top, int depth, chain *out) {
  const th_op *op = s->t->values[v].def;
  bool narrow = !top && th__numel(s->t, v) <= th__numel(s->t, out->ops[0]->result) / 8; /* a row's number, a bias: stored, if need be */
  bool constant = op && (op->kind == TH_OP_const || op->kind == TH_OP_iota);
  bool leaf = !op || (!top && s->stored[v]) || (narrow && !constant) || op->n_results != 1 || !(th_op_is_pointwise(op) || is_free(op));
  if (leaf) {
    if (!narrow && v != out->wide_value) out->wide++;
    if (!narrow) out->wide_value = v;
    return out->wide <= 1;
  }
  if (depth == MAX_DEPTH) return false;
  for (uint32_t i = 0; i < out->n; i++)
    if (out->ops[i] == op) return true;
  if (out->n == MAX_CHAIN || op->n_operands > 3) return false;
  if (!is_free(op) && !(th_op_spec_get(op->kind)->traits & TH_CHEAP) && ++out->n_costly > s->max_costly) return false;
  out->ops[out->n++] = op;
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (!collect(s, op->operands[k], false, depth + 1, out)) return false;
  return true;
}

static bool chain_of(const sinker *s, th_value v, chain *out) {
  const th_op *op = s->t->values[v].def;
  *out = (chain){.wide_value = TH_NO_VALUE};
  if (!op || op->n_results != 1 || !th_op_is_pointwise(op)) return false;
  const th_type *type = th_type_of(s->t, v);
  if (!collect(s, v, true, 0, out) || out->wide != 1) return false;
  const th_type *wide = th_type_of(s->t, out->wide_value);
  return th_dtype_size(wide->dtype) <= th_dtype_size(type->dtype) && th__numel(s->t, out->wide_value) <= th__numel(s->t, v);
}

static bool in_chain(const chain *ch, const th_op *op) {
  for (uint32_t i = 0; i < ch->n; i++)
    if (ch->ops[i] == op) return true;
  return false;
}

/* The operand v of a chain, behind a barrier; `stretch`: number of heavy ops so far. */
static th_value barred(sinker *s, th_value v, uint32_t stretch) {
  if (s->barred_in[v] == stretch + 1) return s->barred[v]; /* also for the second operand of x * x */
  th_trace *to = s->r.b.trace;
  th_value x = s->r.map[v];
  th_type type = *th_type_of(to, x);
  th_op *op = th_trace_add_op(to, 0, TH_OP_barrier, &x, 1, NULL, &type, 1);
  op->origin = to->values[x].def ? to->values[x].def->origin : TH_NONE;
  s->barred_in[v] = stretch + 1;
  return s->barred[v] = op->result;
}

/* v again, at the place now written. */
static th_value again(sinker *s, const chain *ch, uint32_t stretch) {
  th_value of[MAX_CHAIN], kept[3];
  const th_op *sorted[MAX_CHAIN];
  memcpy(sorted, ch->ops, ch->n * sizeof *sorted);
  for (uint32_t i = 1; i < ch->n; i++) /* by position: operands first */
    for (uint32_t k = i; k > 0 && s->position[sorted[k]->result] < s->position[sorted[k - 1]->result]; k--) {
      const th_op *swap = sorted[k];
      sorted[k] = sorted[k - 1];
      sorted[k - 1] = swap;
    }
  for (uint32_t i = 0; i < ch->n; i++) of[i] = s->r.map[sorted[i]->result];
  for (uint32_t i = 0; i < ch->n; i++) {
    const th_op *op = sorted[i];
    bool swapped[3] = {false};
    if (s->copied_in[op->result] == stretch + 1) { /* another chain's */
      s->r.map[op->result] = s->copy[op->result];
      continue;
    }
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value v = op->operands[k];
      kept[k] = s->r.map[v];
      swapped[k] = !(s->t->values[v].def && in_chain(ch, s->t->values[v].def));
    }
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (swapped[k]) s->r.map[op->operands[k]] = barred(s, op->operands[k], stretch);
    th_rewrite_clone(&s->r, op);
    s->copy[op->result] = s->r.map[op->result];
    s->copied_in[op->result] = stretch + 1;
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (swapped[k]) s->r.map[op->operands[k]] = kept[k];
  }
  th_value made = s->r.map[ch->ops[0]->result];
  for (uint32_t i = 0; i < ch->n; i++) s->r.map[sorted[i]->result] = of[i];
  return made;
}

th_status th_pass_sink(const th_options *options, const th_trace *in, th_trace **out) {
  const th_graph *g = in->graphs[0];
  th_arena *a = th_context_arena(in->context);
  bool *movable = TH_ARENA_ARRAY(a, bool, in->n_values);
  sinker s = {.t = in, .c = in->context, .max_costly = th_target_is_cuda(options) ? MAX_COSTLY : 0, .position = TH_ARENA_ARRAY(a, uint32_t, in->n_values), .heavy = TH_ARENA_ARRAY(a, uint32_t, g->n_ops + 1),
              .stored = TH_ARENA_ARRAY(a, bool, in->n_values), .barred = TH_ARENA_ARRAY(a, th_value, in->n_values),
              .barred_in = TH_ARENA_ARRAY(a, uint32_t, in->n_values), .copy = TH_ARENA_ARRAY(a, th_value, in->n_values),
              .copied_in = TH_ARENA_ARRAY(a, uint32_t, in->n_values), .r = th_rewrite_begin(in)};
  chain **chains = TH_ARENA_ARRAY(a, chain *, in->n_values);
  memset(s.position, 0xff, in->n_values * sizeof *s.position);
  for (size_t i = 0; i < g->n_ops; i++) {
    s.heavy[i + 1] = s.heavy[i] + th__is_heavy(g->ops[i]);
    for (uint32_t k = 0; k < g->ops[i]->n_results; k++) s.position[g->ops[i]->result + k] = (uint32_t)i;
  }
  find_stored(&s, movable);
  for (size_t i = 0; i < g->n_ops; i++) { /* in order: a chain may start from one that stays */
    th_value v = g->ops[i]->n_results == 1 ? g->ops[i]->result : TH_NO_VALUE;
    chain found;
    if (v == TH_NO_VALUE || !movable[v] || s.stored[v] || is_free(g->ops[i])) continue;
    if (chain_of(&s, v, &found)) chains[v] = th_arena_copy(a, &found, sizeof found);
    else s.stored[v] = true;
  }
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&s.r, k);
  s.r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    th_value *kept = TH_ARENA_ARRAY(a, th_value, op->n_operands);
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value v = op->operands[k];
      if (v == TH_NO_VALUE) continue;
      kept[k] = s.r.map[v];
      if (chains[v] && reads_in_a_kernel(op) && is_far(&s, v, i)) s.r.map[v] = again(&s, chains[v], s.heavy[i]);
    }
    th_rewrite_clone(&s.r, op);
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (op->operands[k] != TH_NO_VALUE) s.r.map[op->operands[k]] = kept[k];
  }
  th_rewrite_outputs(&s.r, 0);
  TH_TRY(th_rewrite_finish(&s.r, out));
  return th_pass_dce(options, *out, out); /* the originals that nobody reads now */
}
