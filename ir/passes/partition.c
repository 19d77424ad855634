/* partition: a joint trace as two. What depends on a tangent runs in the backward half; the rest in the forward half.
 *
 * Of the forward values that the backward half reads, those that are cheap to have again from others are recomputed
 * there: constants, changes of index, single cheap pointwise ops on values at hand, random masks (a function of seed and
 * offset). The others are saved: extra outputs of the forward half and, in the same order, the first inputs of the
 * backward half; the tangents follow, then sizes that none of them has. A saved input of the forward half is that input itself. */
#include <string.h>

#include "ir/passes/passes.h"

typedef struct halves {
  const th_trace *t;
  bool *late;   /* depends on a tangent */
  bool *needed; /* a forward value that the backward half reads, saved or recomputed */
  bool *saved;
  bool *again;  /* recomputed there */
} halves;

static void find_late(halves *h) {
  const th_graph *g = h->t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++) h->late[g->inputs[i]] = h->t->inputs[i].kind == TH_INPUT_TANGENT;
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    bool late = false;
    for (uint32_t k = 0; k < op->n_operands; k++) late |= op->operands[k] != TH_NO_VALUE && h->late[op->operands[k]];
    for (uint32_t k = 0; k < op->n_results; k++) h->late[op->result + k] = late;
  }
}

static bool is_input(const halves *h, th_value v) { return !h->t->values[v].def; }

/* v can be made in the backward half from nothing but constants, inputs and values saved anyway. */
static bool cheap_again(const halves *h, th_value v, int depth) {
  const th_op *op = h->t->values[v].def;
  if (!op) return true; /* inputs are saved as they are */
  if (h->saved[v]) return true;
  if (depth == 0 || op->n_results != 1) return false;
  uint32_t traits = th_op_spec_get(op->kind)->traits;
  bool cheap = op->n_operands == 0 || op->kind == TH_OP_torch_dropout_mask || op->kind == TH_OP_uniform || (traits & (TH_VIEW | TH_CHEAP)) ||
               op->kind == TH_OP_torch_to;
  if (!cheap) return false;
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (op->operands[k] != TH_NO_VALUE && !cheap_again(h, op->operands[k], depth - 1)) return false;
  return true;
}

static void recompute(halves *h, th_value v) {
  const th_op *op = h->t->values[v].def;
  if (!op) h->saved[v] = true;
  if (!op || h->saved[v] || h->again[v]) return;
  h->again[v] = true;
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (op->operands[k] != TH_NO_VALUE) recompute(h, op->operands[k]);
}

static void choose(halves *h) {
  const th_graph *g = h->t->graphs[0];
  for (size_t i = 0; i < g->n_ops; i++)
    for (uint32_t k = 0; k < g->ops[i]->n_operands; k++) {
      th_value v = g->ops[i]->operands[k];
      if (v != TH_NO_VALUE && !h->late[v] && h->late[g->ops[i]->result]) h->needed[v] = true;
    }
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (h->t->outputs[i].kind == TH_OUTPUT_GRADIENT && !h->late[g->outputs[i]]) h->needed[g->outputs[i]] = true;
  for (int pass = 0; pass < 2; pass++) /* first what must be saved, then what follows cheaply from it */
    for (size_t v = 0; v < h->t->n_values; v++) {
      if (!h->needed[v] || h->saved[v]) continue;
      bool cheap = cheap_again(h, (th_value)v, 4);
      if (pass == 0 && !cheap) h->saved[v] = true;
      if (pass == 1) recompute(h, (th_value)v);
    }
}

/* Symbols come from the inputs they came from, which may stand elsewhere now that there are no tangents. */
static void renumber_symbols(const th_trace *t, th_trace *f, const th_value *map) {
  uint32_t n = th_symbol_count(t->context);
  f->symbols = TH_ARENA_ARRAY(th_context_arena(t->context), th_symbol, n);
  for (uint32_t s = 0; s < n; s++) {
    f->symbols[s] = *th_trace_symbol(t, s);
    if (f->symbols[s].input == TH_NONE) continue;
    bool stays = t->inputs[f->symbols[s].input].kind != TH_INPUT_TANGENT;
    f->symbols[s].input = stays ? f->values[map[t->graphs[0]->inputs[f->symbols[s].input]]].index : TH_NONE;
  }
}

/* Strides with which value v is saved, NULL for row-major: an input stays as it lies, unless the plan writes into it (a copy is saved then). */
static const th_dim *saved_strides(const halves *h, th_value v) {
  const th_trace *t = h->t;
  if (!is_input(h, v)) return NULL;
  uint32_t input = t->values[v].index;
  for (uint32_t o = 0; o < t->graphs[0]->n_outputs; o++)
    if (t->outputs[o].kind == TH_OUTPUT_WRITTEN && t->outputs[o].base == input) return NULL;
  return t->inputs[input].strides;
}

static th_status forward_half(const halves *h, th_trace **out) {
  const th_trace *t = h->t;
  const th_graph *g = t->graphs[0];
  th_arena *a = th_context_arena(t->context);
  th_trace *f = th_trace_create(t->context);
  th_rewriter r = {.from = t, .b = th_builder_make(f, 0), .map = TH_ARENA_ARRAY(a, th_value, t->n_values)};
  for (size_t k = 0; k < t->n_graphs; k++) th_trace_add_graph(f, t->graphs[k]->name);
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    if (t->inputs[i].kind == TH_INPUT_TANGENT) continue;
    r.map[g->inputs[i]] = th_trace_add_input(f, 0, t->values[g->inputs[i]].type);
    f->values[r.map[g->inputs[i]]].name = t->values[g->inputs[i]].name;
    f->inputs[f->graphs[0]->n_inputs - 1] = t->inputs[i];
    f->inputs[f->graphs[0]->n_inputs - 1].written_by = -1; /* set below: outputs are numbered anew */
  }
  for (size_t i = 0; i < g->n_ops; i++)
    if (g->ops[i]->n_results && !h->late[g->ops[i]->result]) th_rewrite_clone(&r, g->ops[i]);
  uint32_t n = 0, room = g->n_outputs + (uint32_t)t->n_values;
  th_value *outputs = TH_ARENA_ARRAY(a, th_value, room);
  th_output *signature = TH_ARENA_ARRAY(a, th_output, room);
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (t->outputs[i].kind != TH_OUTPUT_GRADIENT) {
      if (t->outputs[i].kind == TH_OUTPUT_WRITTEN) f->inputs[f->values[r.map[g->inputs[t->outputs[i].base]]].index].written_by = (int32_t)n;
      signature[n] = t->outputs[i];
      outputs[n++] = r.map[g->outputs[i]];
    }
  for (size_t v = 0; v < t->n_values; v++)
    if (h->saved[v]) {
      signature[n] = (th_output){.kind = TH_OUTPUT_SAVED, .strides = saved_strides(h, (th_value)v)};
      outputs[n++] = r.map[v];
    }
  th_trace_set_outputs(f, 0, outputs, n);
  f->outputs = signature;
  renumber_symbols(t, f, r.map);
  *out = f;
  return r.b.status;
}

/* Symbols are bound from this half's own inputs: the first whose size is the symbol itself. One that is no size of theirs (the gradient
 * of a sum knows the shape from nowhere) comes as an integer, the last inputs, in the symbols' order. */
static void rebind_symbols(const th_trace *t, th_trace *b) {
  th_context *c = b->context;
  uint32_t n = th_symbol_count(c);
  if (!n) return;
  b->symbols = TH_ARENA_ARRAY(th_context_arena(c), th_symbol, n);
  for (uint32_t s = 0; s < n; s++) {
    bool found = false;
    b->symbols[s] = *th_symbol_get(c, s);
    for (uint32_t i = 0; i < b->graphs[0]->n_inputs && !found; i++) {
      const th_type *type = &b->values[b->graphs[0]->inputs[i]].type;
      for (uint32_t d = 0; d < type->rank && !found; d++)
        if (type->dims[d] == th_dim_symbol(c, s)) {
          b->symbols[s].source = TH_SYMBOL_SIZE;
          b->symbols[s].input = i;
          b->symbols[s].dimension = d;
          found = true;
        }
    }
    if (found) continue;
    b->symbols[s].input = TH_NONE;
    if (th_trace_symbol(t, s)->input == TH_NONE || th_trace_symbol(t, s)->source == TH_SYMBOL_RESULT) continue;
    th_trace_add_input(b, 0, (th_type){.dtype = TH_DTYPE_i64});
    b->symbols[s].source = TH_SYMBOL_INTEGER;
    b->symbols[s].input = b->graphs[0]->n_inputs - 1;
    b->inputs[b->symbols[s].input].kind = TH_INPUT_INTEGER;
  }
}

static th_status backward_half(const halves *h, th_trace **out) {
  const th_trace *t = h->t;
  const th_graph *g = t->graphs[0];
  th_arena *a = th_context_arena(t->context);
  th_trace *b = th_trace_create(t->context);
  th_rewriter r = {.from = t, .b = th_builder_make(b, 0), .map = TH_ARENA_ARRAY(a, th_value, t->n_values)};
  for (size_t k = 0; k < t->n_graphs; k++) th_trace_add_graph(b, t->graphs[k]->name);
  for (size_t v = 0; v < t->n_values; v++)
    if (h->saved[v]) {
      r.map[v] = th_trace_add_input(b, 0, t->values[v].type);
      b->values[r.map[v]].name = t->values[v].name;
      b->inputs[b->graphs[0]->n_inputs - 1].kind = TH_INPUT_SAVED;
      b->inputs[b->graphs[0]->n_inputs - 1].strides = saved_strides(h, (th_value)v);
    }
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (t->inputs[i].kind == TH_INPUT_TANGENT) {
      r.map[g->inputs[i]] = th_trace_add_input(b, 0, t->values[g->inputs[i]].type);
      b->inputs[b->graphs[0]->n_inputs - 1] = t->inputs[i];
    }
  rebind_symbols(t, b);
  for (size_t i = 0; i < g->n_ops; i++) {
    const th_op *op = g->ops[i];
    bool wanted = false;
    for (uint32_t k = 0; k < op->n_results; k++) wanted |= h->late[op->result + k] || h->again[op->result + k];
    if (wanted) th_rewrite_clone(&r, op);
  }
  uint32_t n = 0;
  th_value *outputs = TH_ARENA_ARRAY(a, th_value, g->n_outputs);
  th_output *signature = TH_ARENA_ARRAY(a, th_output, g->n_outputs);
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (t->outputs[i].kind == TH_OUTPUT_GRADIENT) {
      signature[n] = t->outputs[i];
      outputs[n++] = r.map[g->outputs[i]];
    }
  th_trace_set_outputs(b, 0, outputs, n);
  b->outputs = signature;
  *out = b;
  return r.b.status;
}

th_status th_partition(const th_trace *joint, th_trace **out_forward, th_trace **out_backward) {
  th_arena *a = th_context_arena(joint->context);
  halves h = {.t = joint, .late = TH_ARENA_ARRAY(a, bool, joint->n_values), .needed = TH_ARENA_ARRAY(a, bool, joint->n_values),
              .saved = TH_ARENA_ARRAY(a, bool, joint->n_values), .again = TH_ARENA_ARRAY(a, bool, joint->n_values)};
  find_late(&h);
  choose(&h);
  th_trace *f, *b;
  TH_TRY(forward_half(&h, &f));
  TH_TRY(backward_half(&h, &b));
  for (uint32_t k = 1; k < joint->n_graphs; k++) { /* bodies go along */
    th_trace *both[2] = {f, b};
    for (int i = 0; i < 2; i++) {
      th_rewriter r = {.from = joint, .b = th_builder_make(both[i], k), .map = TH_ARENA_ARRAY(a, th_value, joint->n_values)};
      for (uint32_t j = 0; j < joint->graphs[k]->n_inputs; j++)
        r.map[joint->graphs[k]->inputs[j]] = th_trace_add_input(both[i], k, joint->values[joint->graphs[k]->inputs[j]].type);
      th_rewrite_graph(&r, k);
    }
  }
  *out_forward = f;
  *out_backward = b;
  return TH_OK;
}

th_status th_pass_forward(const th_options *options, const th_trace *in, th_trace **out) {
  th_trace *other;
  return th_partition(in, out, &other);
}

th_status th_pass_backward(const th_options *options, const th_trace *in, th_trace **out) {
  th_trace *other;
  return th_partition(in, &other, out);
}
