/* remat: of what waits in memory from the forward part to the backward part, some is computed again where the backward part reads it.
 *
 * Positions are those of the ops of graph 0. A value is stored when a heavy op (below, `th__is_heavy`) makes or reads it, or when one stands
 * between its maker and a reader; everything else is part of a kernel and takes no memory. From lifetimes of what is stored follows the
 * live size at each position, and the peak. A stored value that waits over the peak has a gap there, from its last reader before to its first
 * reader after; it may be made again at the end of the gap from what is alive there. Chosen is, again and again, the value with the lowest price:
 * time for bytes. Time is counted in bytes moved; products count as the bytes that could be moved meanwhile.
 *
 * By cost (GPUs): pointwise chains and sums along rows, until SHARE of the step's estimated time is spent. To a limit (options->live_limit):
 * products and library calls too, until the peak is under it or nothing is left.
 *
 * What a library call could tell in another way (gelu of a product that is kept as well) is spelled out first, for far readers; where
 * the spelled form is not chosen it goes again. Barriers keep `fuse` from putting a copy back where the original was; copies that are made in one
 * stretch between heavy ops share them with readers there, so that one kernel reads the value for all.
 *
 * After: T. Chen et al., Training Deep Nets with Sublinear Memory Cost (2016); the greedy choice by price as in M. Kirisame et al.,
 * Dynamic Tensor Rematerialization (2021), made once, at compile time. */
#include <string.h>

#include "ir/passes/passes.h"
#include "ir/passes/plan.h"

enum { LAUNCH = 4 << 20 /* bytes, in the time that a kernel more takes */, MAX_CHAIN = 96, MAX_DEPTH = 64, NARROW = 8 /* a value that much smaller may wait longer */, WORTH = 4096 /* of the peak, at least 1 of so many */ };
static const double SHARE = 0.0025;

typedef struct reads { uint32_t *at; size_t n, capacity; } reads; /* rising */

typedef struct remat {
  const th_options *options;
  const th_trace *t;
  const th_graph *g;
  th_arena *a;
  uint32_t n;               /* ops */
  uint32_t *position;       /* by value: its op; TH_NONE for inputs */
  uint32_t *heavy;          /* by op: heavy ops before it */
  th_value *root;           /* by value: what it is a view of */
  bool *stored, *is_output; /* by root */
  int64_t *bytes;           /* by root */
  reads *reads;             /* by root: positions of ops that read it, views looked through */
  uint32_t *from, *to;      /* by root: its gap, last reader before and first after; to 0: none */
  int64_t *live, *extra;    /* by position: all stored bytes; of those, what is made on the way to a copy */
  uint32_t *seen_op, *seen_leaf, now; /* by op, by root: met by the present search */
  th_rewriter r;
  th_value *late;           /* by root: in the new trace, its copy past the gap; TH_NO_VALUE: not yet */
  th_value *copy, *barred;  /* by value: its copy on the way to such, its barrier ... */
  uint32_t *copied_at;      /* ... for this position, plus 1; ... */
  uint32_t *barred_in;      /* ... in this stretch between heavy ops, plus 1 */
} remat;

typedef struct chain {
  th_value of;
  uint32_t at;              /* where it is to be */
  bool heavy_too, commits;  /* allowed to make heavy ops again; leaves are noted as read there */
  double time;              /* bytes */
  int64_t extends, transient;
  uint32_t n;
} chain;

static const th_op *def_of(const remat *m, th_value v) { return m->t->values[v].def; }
static bool is_view(const th_op *op) { return op && th_op_is_alias(op) && op->kind != TH_OP_wait; }
static bool is_given(const th_op *op) { return op->kind == TH_OP_const || op->kind == TH_OP_iota; }
static th_value viewed(const remat *m, th_value v) { const th_op *op = def_of(m, v); return op->operands[op->kind == TH_OP_barrier ? v - op->result : 0]; }

/* ---- what things cost ---- */

/* Multiply-adds, twice, of one op in a graph. */
static double flops_of(const th_trace *t, const th_op *op) {
  double n = 0;
  if (op->kind == TH_OP_library) {
    const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
    for (size_t i = 0; i < body->n_ops; i++) n += flops_of(t, body->ops[i]);
  } else if (op->kind == TH_OP_dot) {
    const th_attr *dims = th_attr_get(op, "lhs_contract");
    const th_type *x = th_type_of(t, op->operands[0]);
    n = 2.0 * (double)th__numel(t, op->result);
    for (uint32_t i = 0; i < dims->count; i++) {
      int64_t d;
      th_dim_is_const(t->context, dims->ints[i], &d);
      n *= (double)th__size(t, x->dims[d]);
    }
  } else if (op->kind == TH_OP_conv) {
    int64_t channels = th__size(t, th_type_of(t, op->operands[1])->dims[0]);
    n = 2.0 * (double)th__numel(t, op->result) * (double)th__numel(t, op->operands[1]) / (double)(channels > 0 ? channels : 1);
  }
  return n;
}

/* Floating-point operations in the time that a byte takes: of data sheets, at what is commonly reached of both (70 %, 80 %). */
static double balance(const th_options *options, th_dtype dtype) {
  bool half = dtype == TH_DTYPE_bf16 || dtype == TH_DTYPE_f16;
  if (!th_target_is_cuda(options)) return 16;
  bool ampere = !strcmp(options->target.arch, "sm_80");
  if (half) return ampere ? 120 : 180;
  return dtype == TH_DTYPE_f32 && options->tf32 ? (ampere ? 60 : 90) : 14;
}

static double time_of(const remat *m, const th_op *op) { return flops_of(m->t, op) / balance(m->options, th_type_of(m->t, op->operands[0])->dtype); }

static double step_time(const remat *m) {
  double total = 0;
  for (uint32_t i = 0; i < m->n; i++) {
    const th_op *op = m->g->ops[i];
    if (th__is_heavy(op) && op->n_operands) total += time_of(m, op);
    for (uint32_t k = 0; k < op->n_results; k++)
      if (m->root[op->result + k] == op->result + k && m->stored[op->result + k]) total += 2.0 * (double)m->bytes[op->result + k];
  }
  return total;
}

/* ---- what is stored, and how long ---- */

static void note_read(remat *m, th_value root, uint32_t at) {
  reads *x = &m->reads[root];
  size_t i = x->n;
  while (i > 0 && x->at[i - 1] > at) i--;
  if (i > 0 && x->at[i - 1] == at) return;
  TH_PUSH(m->a, x->at, x->n, x->capacity, at);
  memmove(&x->at[i + 1], &x->at[i], (x->n - 1 - i) * sizeof *x->at);
  x->at[i] = at;
}

static void analyse(remat *m) {
  memset(m->position, 0xff, m->t->n_values * sizeof *m->position);
  for (th_value v = 0; v < m->t->n_values; v++) m->root[v] = v;
  for (uint32_t i = 0; i < m->n; i++) {
    const th_op *op = m->g->ops[i];
    m->heavy[i + 1] = m->heavy[i] + th__is_heavy(op);
    for (uint32_t k = 0; k < op->n_results; k++) {
      m->position[op->result + k] = i;
      if (is_view(op)) m->root[op->result + k] = m->root[viewed(m, op->result + k)];
      m->stored[op->result + k] = th__is_heavy(op);
    }
    for (uint32_t k = 0; k < op->n_operands && !is_view(op); k++) {
      th_value r = op->operands[k] == TH_NO_VALUE ? TH_NO_VALUE : m->root[op->operands[k]];
      if (r == TH_NO_VALUE) continue;
      note_read(m, r, i);
      m->stored[r] |= def_of(m, r) && (th__is_heavy(op) || m->heavy[i] > m->heavy[m->position[r]]);
    }
  }
  for (uint32_t o = 0; o < m->g->n_outputs; o++) m->is_output[m->root[m->g->outputs[o]]] = m->stored[m->root[m->g->outputs[o]]] = true;
  for (th_value v = 0; v < m->t->n_values; v++) {
    const th_type *type = th_type_of(m->t, v);
    if (def_of(m, v) && is_given(def_of(m, v))) m->stored[v] = false;
    m->bytes[v] = type->host ? 0 : th__numel(m->t, v) * (int64_t)th_dtype_size(type->dtype);
  }
  for (uint32_t o = 0; o < m->g->n_outputs; o++) { /* computed over what it replaces */
    th_value v = m->root[m->g->outputs[o]];
    if (m->t->outputs[o].kind == TH_OUTPUT_WRITTEN && def_of(m, v) && !th__is_heavy(def_of(m, v))) m->bytes[v] = 0;
  }
}

static uint32_t end_of(const remat *m, th_value root) { return m->is_output[root] ? m->n : m->reads[root].n ? m->reads[root].at[m->reads[root].n - 1] : m->position[root]; }

static bool is_alive(const remat *m, th_value root, uint32_t at) {
  if (m->to[root] && at > m->from[root] && at < m->to[root]) return false;
  return m->stored[root] && at > m->position[root] && at <= end_of(m, root);
}

static uint32_t find_peak(remat *m) {
  memset(m->live, 0, (m->n + 2) * sizeof *m->live);
  for (uint32_t i = 0; i < m->n; i++)
    for (uint32_t k = 0; k < m->g->ops[i]->n_results; k++) {
      th_value v = m->g->ops[i]->result + k;
      if (m->root[v] != v || !m->stored[v]) continue;
      m->live[i] += m->bytes[v];
      if (m->to[v]) {
        m->live[m->from[v] + 1] -= m->bytes[v];
        m->live[m->to[v]] += m->bytes[v];
      }
      m->live[end_of(m, v) + 1] -= m->bytes[v];
    }
  uint32_t peak = 0;
  for (uint32_t i = 1; i <= m->n; i++) m->live[i] += m->live[i - 1];
  for (uint32_t i = 0; i < m->n; i++) m->live[i] += m->extra[i];
  for (uint32_t i = 1; i < m->n; i++)
    if (m->live[i] > m->live[peak]) peak = i;
  return peak;
}

/* ---- chains ---- */

/* Is the value read in a kernel near `at` anyway? */
static bool is_read_near(const remat *m, th_value root, uint32_t at) {
  for (size_t i = m->reads[root].n; i-- > 0;) {
    uint32_t p = m->reads[root].at[i];
    if (m->heavy[p] < m->heavy[at]) return false;
    if (m->heavy[p] <= m->heavy[at] + 1 && p < m->n && !th__is_heavy(m->g->ops[p])) return true;
  }
  return false;
}

/* Does the chain of `c` start from v, as it is? The same answer when the chain is looked for and when it is written. */
static bool is_leaf(const remat *m, const chain *c, th_value v, bool *out_extends) {
  th_value r = m->root[v];
  *out_extends = false;
  if (!def_of(m, r)) return true;
  if (r == m->root[c->of] || is_given(def_of(m, r))) return false;
  if (is_alive(m, r, c->at)) return true;
  bool in_gap = m->to[r] && c->at < m->to[r];
  *out_extends = !in_gap && m->bytes[r] <= m->bytes[c->of] / NARROW;
  return *out_extends;
}

static void start_from(remat *m, chain *c, th_value r, bool extends) {
  if (m->seen_leaf[r] == m->now) return;
  m->seen_leaf[r] = m->now;
  if (extends) c->extends += m->bytes[r];
  if (!is_read_near(m, r, c->at)) c->time += (double)m->bytes[r];
  if (!c->commits) return;
  if (def_of(m, r)) m->stored[r] = true;
  note_read(m, r, c->at);
}

static bool follow(remat *m, chain *c, th_value v, int depth) {
  bool extends;
  if (is_leaf(m, c, v, &extends)) {
    start_from(m, c, m->root[v], extends);
    return true;
  }
  const th_op *op = def_of(m, v);
  if (is_view(op)) return follow(m, c, viewed(m, v), depth);
  uint32_t at = m->position[v];
  if (is_given(op) || m->seen_op[at] == m->now) return true;
  const th_op_spec *spec = th_op_spec_get(op->kind);
  bool heavy = th__is_heavy(op);
  if (++c->n > MAX_CHAIN || depth == MAX_DEPTH || spec->traits & TH_EFFECT || (spec->level >= TH_LEVEL_REGION && op->kind != TH_OP_library)) return false;
  if (heavy ? !c->heavy_too : !th_op_is_pointwise(op) && !th_op_is_reduction(op)) return false;
  m->seen_op[at] = m->now;
  if (heavy) c->time += time_of(m, op);
  for (uint32_t k = 0; k < op->n_results; k++) {
    th_value made = op->result + k;
    if (made == m->root[c->of]) c->time += (double)m->bytes[made];
    else if (m->stored[made]) c->time += 2.0 * (double)m->bytes[made], c->transient += m->bytes[made];
  }
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (op->operands[k] != TH_NO_VALUE && !follow(m, c, op->operands[k], depth + 1)) return false;
  return true;
}

/* ---- the choice ---- */

typedef struct choice { chain chain; uint32_t from; double price; } choice;

static bool price_of(remat *m, th_value v, uint32_t peak, bool heavy_too, choice *out) {
  const reads *x = &m->reads[v];
  uint32_t from = m->position[v], to = 0;
  for (size_t i = 0; i < x->n && !to; i++) {
    if (x->at[i] < peak) from = x->at[i];
    else to = x->at[i];
  }
  if (!to || to <= peak || from >= peak) return false;
  *out = (choice){.chain = {.of = v, .at = to, .heavy_too = heavy_too, .time = th_target_is_cuda(m->options) ? LAUNCH : 0}, .from = from};
  m->now++;
  if (!follow(m, &out->chain, v, 0) || out->chain.extends >= m->bytes[v]) return false;
  out->price = out->chain.time / (double)(m->bytes[v] - out->chain.extends);
  return true;
}

static bool choose(remat *m, uint32_t peak, bool heavy_too, choice *out) {
  bool found = false;
  for (uint32_t i = 0; i < peak; i++)
    for (uint32_t k = 0; k < m->g->ops[i]->n_results; k++) {
      th_value v = m->g->ops[i]->result + k;
      choice one;
      if (m->root[v] != v || !m->stored[v] || m->to[v] || m->is_output[v] || m->bytes[v] < m->live[peak] / WORTH || end_of(m, v) <= peak) continue;
      if (!price_of(m, v, peak, heavy_too, &one) || (found && one.price >= out->price)) continue;
      *out = one;
      found = true;
    }
  return found;
}

static void commit(remat *m, choice *x) {
  th_value v = x->chain.of;
  x->chain.commits = true;
  m->now++;
  follow(m, &x->chain, v, 0);
  m->from[v] = x->from;
  m->to[v] = x->chain.at;
  m->extra[x->chain.at] += x->chain.transient;
}

static bool choose_all(remat *m) {
  double left = th_target_is_cuda(m->options) ? SHARE * step_time(m) : 0;
  bool any = false;
  choice x;
  for (uint32_t peak = find_peak(m); left > 0 && choose(m, peak, false, &x) && x.chain.time <= left; peak = find_peak(m)) {
    left -= x.chain.time;
    commit(m, &x);
    any = true;
  }
  for (uint32_t peak; m->options->live_limit && m->live[peak = find_peak(m)] > (int64_t)m->options->live_limit && choose(m, peak, true, &x);) {
    commit(m, &x);
    any = true;
  }
  return any;
}

/* ---- spelling out ---- */

/* Result `r` of a library call is a pointwise function of its other results? Emits the ops, right where the builder stands. */
static bool spell(th_rewriter *r, const th_op *library, uint32_t result, th_value v, const th_graph *body, th_value *inner, int depth, th_value *out) {
  const th_trace *t = r->from;
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (k != result && body->outputs[k] == v) {
      *out = r->map[library->result + k];
      return true;
    }
  if (inner[v] != TH_NO_VALUE) {
    *out = inner[v];
    return true;
  }
  const th_op *op = t->values[v].def;
  if (!op || depth == MAX_DEPTH || op->n_results != 1 || op->n_operands > 3 || !(th_op_is_pointwise(op) || is_given(op) || op->kind == TH_OP_broadcast)) return false;
  th_value operands[3];
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (!spell(r, library, result, op->operands[k], body, inner, depth + 1, &operands[k])) return false;
  th_op *copy = th_trace_add_op(r->b.trace, 0, op->kind, operands, op->n_operands, op->attrs, th_type_of(t, v), 1);
  copy->origin = library->origin;
  *out = inner[v] = copy->result;
  return true;
}

/* For far readers, what a library call makes of another of its results; what is spelled stands for what, in the new trace, goes to *out_for. */
static th_status spell_out(const th_trace *t, th_trace **out, th_value **out_for) {
  th_arena *a = th_context_arena(t->context);
  const th_graph *g = t->graphs[0];
  th_rewriter r = th_rewrite_begin(t);
  th_value *spelled = TH_ARENA_ARRAY(a, th_value, t->n_values), *inner = TH_ARENA_ARRAY(a, th_value, t->n_values);
  uint32_t *made_in = TH_ARENA_ARRAY(a, uint32_t, t->n_values), heavy = 0;
  for (size_t v = 0; v < t->n_values; v++) spelled[v] = inner[v] = TH_NO_VALUE;
  for (uint32_t k = 1; k < t->n_graphs; k++) th_rewrite_graph(&r, k);
  r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops && !r.b.status; i++) {
    const th_op *op = g->ops[i];
    th_value *kept = TH_ARENA_ARRAY(a, th_value, op->n_operands);
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value v = op->operands[k];
      if (v == TH_NO_VALUE) continue;
      kept[k] = r.map[v];
      if (spelled[v] != TH_NO_VALUE && heavy > made_in[v] + 1) r.map[v] = spelled[v];
    }
    th_rewrite_clone(&r, op);
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (op->operands[k] != TH_NO_VALUE) r.map[op->operands[k]] = kept[k];
    for (uint32_t k = 0; op->kind == TH_OP_library && op->n_results > 1 && k < op->n_results; k++) {
      const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
      th_value made;
      if (!spell(&r, op, k, body->outputs[k], body, inner, 0, &made)) continue;
      spelled[op->result + k] = made;
      made_in[op->result + k] = heavy;
    }
    heavy += th__is_heavy(op);
  }
  th_rewrite_outputs(&r, 0);
  TH_TRY(th_rewrite_finish(&r, out));
  *out_for = TH_ARENA_ARRAY(a, th_value, (*out)->n_values);
  for (size_t v = 0; v < (*out)->n_values; v++) (*out_for)[v] = TH_NO_VALUE;
  for (size_t v = 0; v < t->n_values; v++)
    if (spelled[v] != TH_NO_VALUE) (*out_for)[spelled[v]] = r.map[v];
  return TH_OK;
}

/* ---- writing ---- */

static th_value late(remat *m, th_value v, uint32_t at);

/* Is there a barrier on v that what stands at `at` may read through? */
static bool is_barred(const remat *m, th_value v, uint32_t at) { return m->barred_in[v] && m->heavy[at] <= m->barred_in[v]; /* of this stretch or the one before */ }

static th_value barred(remat *m, th_value v, uint32_t at) {
  th_trace *to = m->r.b.trace;
  th_value x = late(m, v, at);
  if (!def_of(m, m->root[v])) return x;
  if (is_barred(m, v, at)) return m->barred[v];
  th_type type = *th_type_of(to, x);
  th_op *op = th_trace_add_op(to, 0, TH_OP_barrier, &x, 1, NULL, &type, 1);
  op->origin = to->values[x].def ? to->values[x].def->origin : TH_NONE;
  m->barred_in[v] = m->heavy[at] + 1;
  return m->barred[v] = op->result;
}

/* The op that makes v, with these operands; its results are the caller's to map. */
static th_op *clone(remat *m, th_value v, const th_value *operands) {
  const th_op *op = def_of(m, v);
  th_value *kept = TH_ARENA_ARRAY(m->a, th_value, op->n_results);
  for (uint32_t k = 0; k < op->n_results; k++) kept[k] = m->r.map[op->result + k];
  th_op *copy = th_rewrite_clone_deep(&m->r, op);
  if (copy && op->n_operands) memcpy(copy->operands, operands, op->n_operands * sizeof *operands);
  for (uint32_t k = 0; k < op->n_results; k++) m->r.map[op->result + k] = kept[k];
  return copy;
}

static th_value again(remat *m, const chain *c, th_value v) {
  bool extends;
  if (is_leaf(m, c, v, &extends)) return barred(m, v, c->at);
  if (m->copied_at[v] == c->at + 1) return m->copy[v];
  const th_op *op = def_of(m, v);
  th_value *operands = TH_ARENA_ARRAY(m->a, th_value, op->n_operands);
  for (uint32_t k = 0; k < op->n_operands; k++) operands[k] = op->operands[k] == TH_NO_VALUE ? TH_NO_VALUE : again(m, c, op->operands[k]);
  const th_op *copy = clone(m, v, operands);
  for (uint32_t k = 0; copy && k < op->n_results; k++) {
    m->copy[op->result + k] = copy->result + k;
    m->copied_at[op->result + k] = c->at + 1;
  }
  return copy ? m->copy[v] : TH_NO_VALUE;
}

/* v as the op at `at` reads it: past its gap the copy, which is made before the first reader there. */
static th_value late(remat *m, th_value v, uint32_t at) {
  th_value r = m->root[v];
  if (!m->to[r] || at < m->to[r]) return m->r.map[v];
  if (v != r) {
    th_value x = late(m, viewed(m, v), at);
    if (def_of(m, v)->kind == TH_OP_barrier) return x;
    const th_op *view = clone(m, v, &x);
    return view ? view->result : TH_NO_VALUE;
  }
  if (m->late[r] == TH_NO_VALUE) {
    m->late[r] = again(m, &(chain){.of = r, .at = m->to[r]}, r);
    m->barred_in[r] = 0;
  }
  return m->late[r];
}

static void write_op(remat *m, uint32_t at, const th_value *stands_for) {
  const th_op *op = m->g->ops[at];
  if (op->n_results == 1 && stands_for[op->result] != TH_NO_VALUE) { /* what it is when it is not computed late */
    th_rewrite_map(&m->r, op->result, m->r.map[stands_for[op->result]]);
    return;
  }
  if (op->kind == TH_OP_barrier && op->n_operands == 1 && is_barred(m, op->operands[0], at)) {
    th_rewrite_map(&m->r, op->result, m->barred[op->operands[0]]);
    return;
  }
  th_value *kept = TH_ARENA_ARRAY(m->a, th_value, op->n_operands);
  for (uint32_t k = 0; k < op->n_operands; k++) {
    th_value v = op->operands[k];
    if (v == TH_NO_VALUE) continue;
    bool in_kernel = th_op_is_pointwise(op) || th_op_is_reduction(op); /* with the copy that is behind the barrier */
    th_value x = is_view(op) ? m->r.map[v] : in_kernel && is_barred(m, v, at) ? m->barred[v] : late(m, v, at);
    kept[k] = m->r.map[v];
    m->r.map[v] = x;
  }
  th_rewrite_clone(&m->r, op);
  for (uint32_t k = op->n_operands; k-- > 0;)
    if (op->operands[k] != TH_NO_VALUE) m->r.map[op->operands[k]] = kept[k];
}

th_status th_pass_remat(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  th_value *stands_for;
  th_trace *t;
  TH_TRY(spell_out(in, &t, &stands_for));
  size_t n = t->n_values, n_ops = t->graphs[0]->n_ops;
  remat m = {.options = options, .t = t, .g = t->graphs[0], .a = a, .n = (uint32_t)n_ops};
  m.position = TH_ARENA_ARRAY(a, uint32_t, n);
  m.heavy = TH_ARENA_ARRAY(a, uint32_t, n_ops + 1);
  m.root = TH_ARENA_ARRAY(a, th_value, n);
  m.stored = TH_ARENA_ARRAY(a, bool, n);
  m.is_output = TH_ARENA_ARRAY(a, bool, n);
  m.bytes = TH_ARENA_ARRAY(a, int64_t, n);
  m.reads = TH_ARENA_ARRAY(a, reads, n);
  m.from = TH_ARENA_ARRAY(a, uint32_t, n);
  m.to = TH_ARENA_ARRAY(a, uint32_t, n);
  m.live = TH_ARENA_ARRAY(a, int64_t, n_ops + 2);
  m.extra = TH_ARENA_ARRAY(a, int64_t, n_ops + 2);
  m.seen_op = TH_ARENA_ARRAY(a, uint32_t, n_ops);
  m.seen_leaf = TH_ARENA_ARRAY(a, uint32_t, n);
  analyse(&m);
  if (!choose_all(&m)) {
    *out = (th_trace *)in;
    return TH_OK;
  }
  m.r = th_rewrite_begin(t);
  m.late = TH_ARENA_ARRAY(a, th_value, n);
  m.copy = TH_ARENA_ARRAY(a, th_value, n);
  m.barred = TH_ARENA_ARRAY(a, th_value, n);
  m.copied_at = TH_ARENA_ARRAY(a, uint32_t, n);
  m.barred_in = TH_ARENA_ARRAY(a, uint32_t, n);
  for (size_t v = 0; v < n; v++) m.late[v] = TH_NO_VALUE;
  for (uint32_t k = 1; k < t->n_graphs; k++) th_rewrite_graph(&m.r, k);
  m.r.b.graph = 0;
  for (uint32_t i = 0; i < m.n && !m.r.b.status; i++) write_op(&m, i, stands_for);
  th_rewrite_outputs(&m.r, 0);
  TH_TRY(th_rewrite_finish(&m.r, out));
  return th_pass_dce(options, *out, out);
}
