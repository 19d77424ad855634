/* grad: reverse-mode differentiation. The forward ops are written out with a tape of those on a path from an input that
 * wants a gradient; then the tape is walked backwards, each op's rule adding to the gradients of its operands (Griewank
 * and Walther, 2008, chapter 3). A level 1 op without a rule of its own is replaced by its lowering on such a path.
 *
 * Forward-backward: one tangent input for each fresh floating point output, in order. Train step: the loss is the seed; with a loss
 * scale that is an input (kind state, f32) in place of 1, and, when accumulating, the number of micro-batches is another (kind
 * hyper-parameter): gradients are those of scale * loss / micro-batches.
 * The gradients become outputs of kind `gradient`, in the order of the inputs they belong to. */
#include <string.h>

#include "ir/grad/grad.h"
#include "ir/passes/loss_scale.h"
#include "ir/passes/passes.h"

static const th_vjp_rule rules[TH_OP_COUNT] = {
#define TH_OP(id, name_, level_, o_, operands_, attrs_, results_, traits_, lower_, vjp_, doc_) [TH_OP_##id] = th__vjp_##vjp_,
#include "ir/ops.def"
#undef TH_OP
};

th_vjp_rule th_vjp_rule_get(th_op_kind kind) { return rules[kind]; }

bool th_vjp_covers(const th_trace *t, const th_op *op, const bool *active) {
  switch (op->kind) {
    case TH_OP_torch_sdpa: /* no gradient for the mask, no dropout; one shape of leading dims */
      if (op->operands[3] != TH_NO_VALUE && active[3]) return false;
      if (th_attr_float(t->context, op, "dropout_p") != 0) return false;
      for (int i = 0; i < 3; i++)
        if (t->values[op->operands[i]].type.rank != t->values[op->operands[0]].type.rank) return false;
      return true;
    case TH_OP_torch_cross_entropy_loss:
      return th_dtype_is_integral(t->values[op->operands[1]].type.dtype) && th_attr_float(t->context, op, "label_smoothing") == 0 &&
             !(op->operands[2] != TH_NO_VALUE && active[2]);
    default: return true;
  }
}

struct th_differentiator {
  th_builder *b;
  const th_trace *source; /* where the graphs that attributes name are */
  bool *active;           /* (capacity) per value of the new trace */
  th_value *grads;        /* (capacity) */
  size_t capacity;
  th_op **tape;
  size_t n_tape, tape_capacity;
};

static th_arena *arena_of(const th_differentiator *d) { return th_context_arena(th_ctx(d->b)); }

static void make_room(th_differentiator *d) {
  size_t n = d->b->trace->n_values;
  if (n <= d->capacity) return;
  size_t capacity = n * 2 + 64;
  bool *active = TH_ARENA_ARRAY(arena_of(d), bool, capacity);
  th_value *grads = TH_ARENA_ARRAY(arena_of(d), th_value, capacity);
  if (d->capacity) {
    memcpy(active, d->active, d->capacity * sizeof *active);
    memcpy(grads, d->grads, d->capacity * sizeof *grads);
  }
  for (size_t i = d->capacity; i < capacity; i++) grads[i] = TH_NO_VALUE;
  d->active = active;
  d->grads = grads;
  d->capacity = capacity;
}

static bool is_active(th_differentiator *d, th_value v) {
  make_room(d);
  return v != TH_NO_VALUE && d->active[v];
}

static void set_active(th_differentiator *d, th_value v) {
  make_room(d);
  if (th_dtype_is_float(d->b->trace->values[v].type.dtype)) d->active[v] = true;
}

static void emit_graph(th_differentiator *d, const th_trace *from, uint32_t graph, th_value *map);

static th_op *clone(th_differentiator *d, const th_trace *from, const th_op *op, th_value *map) {
  th_rewriter r = {.from = from, .b = *d->b, .map = map};
  th_op *copy = th_rewrite_clone(&r, op);
  d->b->status = r.b.status;
  return copy;
}

/* Writes `op` out as its lowering, differentiably. The rule runs on a trace of its own, whose ops are then emitted. */
static void expand(th_differentiator *d, const th_op *op, th_value *map) {
  th_trace *scratch = th_trace_create(th_ctx(d->b));
  th_trace_add_graph(scratch, "expand");
  th_builder sb = th_builder_make(scratch, 0);
  sb.no_grad = op->no_grad;
  sb.autocast = TH_DTYPE_none;
  sb.origin = op->origin;
  th_value *in = TH_ARENA_ARRAY(arena_of(d), th_value, op->n_operands), *out = TH_ARENA_ARRAY(arena_of(d), th_value, op->n_results);
  th_value *outer = TH_ARENA_ARRAY(arena_of(d), th_value, op->n_operands);
  uint32_t n_in = 0;
  for (uint32_t i = 0; i < op->n_operands; i++) {
    in[i] = TH_NO_VALUE;
    if (op->operands[i] == TH_NO_VALUE) continue;
    const th_value_info *info = &d->b->trace->values[map[op->operands[i]]];
    if (info->def && (info->def->kind == TH_OP_torch_scalar || info->def->kind == TH_OP_weak)) { /* rules look at numbers */
      in[i] = th_trace_add_op(scratch, 0, TH_OP_weak, NULL, 0, info->def->attrs, &info->type, 1)->result;
      continue;
    }
    in[i] = th_trace_add_input(scratch, 0, info->type);
    outer[n_in++] = map[op->operands[i]];
  }
  th_fail(d->b, th_lower_op(&sb, d->source, op, in, out));
  if (d->b->status) return;
  th_value *inner = TH_ARENA_ARRAY(arena_of(d), th_value, scratch->n_values);
  for (uint32_t i = 0; i < scratch->graphs[0]->n_inputs; i++) {
    th_value v = scratch->graphs[0]->inputs[i];
    if (i < n_in) inner[v] = outer[i];
    else inner[v] = scratch->inputs[i].kind == TH_INPUT_SEED ? th_seed(d->b) : th_offset(d->b);
  }
  emit_graph(d, scratch, 0, inner);
  for (uint32_t i = 0; i < op->n_results && !d->b->status; i++) map[op->result + i] = inner[out[i]];
}

static void emit(th_differentiator *d, const th_trace *from, const th_op *op, th_value *map) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  bool any = false, any_float = false;
  bool *active = TH_ARENA_ARRAY(arena_of(d), bool, op->n_operands + 1);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    active[i] = op->operands[i] != TH_NO_VALUE && is_active(d, map[op->operands[i]]);
    any |= active[i];
  }
  for (uint32_t i = 0; i < op->n_results; i++) any_float |= th_dtype_is_float(from->values[op->result + i].type.dtype);
  d->b->no_grad = op->no_grad;
  d->b->autocast = op->autocast;
  d->b->origin = op->origin;
  if (!any || !any_float || op->no_grad || op->kind == TH_OP_torch_detach) {
    clone(d, from, op, map);
    return;
  }
  if (rules[op->kind] && th_vjp_covers(from, op, active)) {
    th_op *copy = clone(d, from, op, map);
    if (!copy) return;
    TH_PUSH(arena_of(d), d->tape, d->n_tape, d->tape_capacity, copy);
    for (uint32_t i = 0; i < op->n_results; i++) set_active(d, copy->result + i);
  } else if (spec->level == TH_LEVEL_TORCH) {
    expand(d, op, map);
  } else if (op->kind == TH_OP_call) {
    const th_graph *g = d->source->graphs[th_attr_get(op, "body")->graph];
    th_value *inner = TH_ARENA_ARRAY(arena_of(d), th_value, d->source->n_values);
    for (uint32_t i = 0; i < g->n_inputs; i++) inner[g->inputs[i]] = map[op->operands[i]];
    emit_graph(d, d->source, th_attr_get(op, "body")->graph, inner);
    for (uint32_t i = 0; i < g->n_outputs && !d->b->status; i++) map[op->result + i] = inner[g->outputs[i]];
  } else {
    th_fail(d->b, TH_ERROR(UNIMPLEMENTED, "op %s has no gradient", spec->name));
  }
}

static void emit_graph(th_differentiator *d, const th_trace *from, uint32_t graph, th_value *map) {
  const th_graph *g = from->graphs[graph];
  for (size_t i = 0; i < g->n_ops && !d->b->status; i++) emit(d, from, g->ops[i], map);
}

static void accumulate(th_differentiator *d, th_value v, th_value g) {
  make_room(d);
  if (g == TH_NO_VALUE || d->b->status) return;
  const th_type *tv = &d->b->trace->values[v].type, *tg = &d->b->trace->values[g].type;
  if (tv->dtype != tg->dtype || !th_type_same_shape(tv, tg)) {
    const th_op *def = d->b->trace->values[v].def;
    th_fail(d->b, TH_ERROR(INTERNAL, "the gradient of a result of op %s differs from it in dtype or shape", def ? th_op_name(def->kind) : "(input)"));
    return;
  }
  th_value sum = d->grads[v] == TH_NO_VALUE ? g : th_add(d->b, d->grads[v], g);
  make_room(d);
  d->grads[v] = sum;
}

/* Walks the tape from its end down to entry `from`. */
static void go_back(th_differentiator *d, size_t from) {
  for (size_t i = d->n_tape; i-- > from && !d->b->status;) {
    th_op *op = d->tape[i];
    th_value *grad = TH_ARENA_ARRAY(arena_of(d), th_value, op->n_results), *in_grad = TH_ARENA_ARRAY(arena_of(d), th_value, op->n_operands + 1);
    bool *wanted = TH_ARENA_ARRAY(arena_of(d), bool, op->n_operands + 1), any = false;
    make_room(d);
    for (uint32_t k = 0; k < op->n_results; k++) {
      grad[k] = d->grads[op->result + k];
      any |= grad[k] != TH_NO_VALUE;
    }
    if (!any) continue;
    for (uint32_t k = 0; k < op->n_operands; k++) {
      wanted[k] = is_active(d, op->operands[k]);
      in_grad[k] = TH_NO_VALUE;
    }
    d->b->origin = op->origin;
    d->b->no_grad = false;
    d->b->autocast = TH_DTYPE_none;
    th_vjp v = {.b = d->b, .op = op, .in = op->operands, .out = op->result, .grad = grad, .wanted = wanted, .in_grad = in_grad, .d = d};
    if (grad[0] == TH_NO_VALUE) grad[0] = th_vjp_grad(&v, 0); /* rules read the first as it is */
    d->n_tape = i;
    rules[op->kind](&v);
    for (uint32_t k = 0; k < op->n_operands && !d->b->status; k++)
      if (wanted[k]) accumulate(d, op->operands[k], in_grad[k]);
    if (d->b->status) d->b->status = th_status_prefix(d->b->status, "gradient of op %s", th_op_name(op->kind));
  }
}

th_value th_vjp_grad(th_vjp *v, uint32_t i) {
  if (v->grad[i] != TH_NO_VALUE || v->b->status) return v->grad[i];
  return th_like(v->b, 0, v->out + i);
}

const th_trace *th_vjp_source(const th_vjp *v) { return v->d->source; }

void th_differentiate_body(th_vjp *v, uint32_t graph, const th_value *in, const th_value *out_grad, const bool *wanted, th_value *in_grad) {
  th_differentiator *d = v->d;
  const th_graph *g = d->source->graphs[graph];
  size_t start = d->n_tape;
  th_value *map = TH_ARENA_ARRAY(arena_of(d), th_value, d->source->n_values);
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    map[g->inputs[i]] = in[i];
    if (wanted[i]) set_active(d, in[i]);
  }
  emit_graph(d, d->source, graph, map);
  for (uint32_t i = 0; i < g->n_outputs && !d->b->status; i++)
    if (is_active(d, map[g->outputs[i]])) accumulate(d, map[g->outputs[i]], out_grad[i]);
  go_back(d, start);
  d->n_tape = start;
  make_room(d);
  for (uint32_t i = 0; i < g->n_inputs && !d->b->status; i++)
    if (wanted[i]) in_grad[i] = d->grads[in[i]];
}

/* The gradient of the loss: 1, or the scale; of a micro-batch its share, divided where (loss / n).backward() divides. */
static th_value seed_of(th_builder *b, const th_options *options, th_dtype dtype) {
  if (!options->loss_scale) return th_const(b, 1, dtype);
  th_value seed = th_convert(b, th__loss_scale_add(b->trace), dtype);
  if (options->accumulates) {
    th_type number = th_type_scalar(TH_DTYPE_f64);
    number.host = true;
    th_value n = th_trace_add_input(b->trace, 0, number);
    b->trace->inputs[b->trace->graphs[0]->n_inputs - 1].kind = TH_INPUT_HYPER;
    seed = th_div(b, seed, th_convert(b, n, dtype));
  }
  return seed;
}

static void seed_loss(th_differentiator *d, const th_options *options, const th_value *outputs, uint32_t n) {
  if (options->loss_output >= n) {
    th_fail(d->b, TH_ERROR(INVALID_ARGUMENT, "the loss is output %u, the step has %u outputs", options->loss_output, n));
    return;
  }
  th_value loss = outputs[options->loss_output];
  const th_type *t = &d->b->trace->values[loss].type;
  if (t->rank != 0 || !th_dtype_is_float(t->dtype))
    th_fail(d->b, TH_ERROR(INVALID_ARGUMENT, "the loss must be a floating point scalar; it is %s of rank %u (use .mean() or .sum())",
                           th_dtype_name(t->dtype), t->rank));
  else if (!is_active(d, loss))
    th_fail(d->b, TH_ERROR(INVALID_ARGUMENT, "the loss does not depend on any parameter that requires grad"));
  else accumulate(d, loss, seed_of(d->b, options, t->dtype));
}

/* What is given is a program, and no half of one that was differentiated already. */
static th_status check_whole(const th_trace *in) {
  const th_graph *g = in->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (in->inputs[i].kind == TH_INPUT_TANGENT || in->inputs[i].kind == TH_INPUT_SAVED || in->inputs[i].kind == TH_INPUT_ACCUMULATOR)
      return TH_ERROR(INVALID_ARGUMENT, "input %u is a tangent, a saved value or an accumulator: this trace is a part of a program that was differentiated already", i);
  for (uint32_t o = 0; o < g->n_outputs; o++)
    if (in->outputs[o].kind == TH_OUTPUT_GRADIENT || in->outputs[o].kind == TH_OUTPUT_SAVED)
      return TH_ERROR(INVALID_ARGUMENT, "output %u is a gradient or a saved value: this trace is a part of a program that was differentiated already", o);
  return TH_OK;
}

th_status th_pass_grad(const th_options *options, const th_trace *in, th_trace **out) {
  TH_TRY(check_whole(in));
  th_rewriter r = th_rewrite_begin(in);
  const th_graph *g = in->graphs[0];
  th_differentiator d = {.b = &r.b, .source = in};
  for (uint32_t i = 1; i < in->n_graphs; i++) th_rewrite_graph(&r, i);
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (in->inputs[i].requires_grad) set_active(&d, r.map[g->inputs[i]]);
  emit_graph(&d, in, 0, r.map);
  if (r.b.status) return r.b.status;
  th_arena *a = th_context_arena(in->context);
  uint32_t n = g->n_outputs, n_inputs = g->n_inputs;
  th_value *outputs = TH_ARENA_ARRAY(a, th_value, n + n_inputs);
  th_output *signature = TH_ARENA_ARRAY(a, th_output, n + n_inputs);
  for (uint32_t i = 0; i < n; i++) {
    outputs[i] = r.map[g->outputs[i]];
    if (in->outputs) signature[i] = in->outputs[i];
  }
  r.b.origin = TH_NONE;
  r.b.no_grad = false;
  r.b.autocast = TH_DTYPE_none;
  if (options->mode == TH_MODE_TRAIN_STEP) seed_loss(&d, options, outputs, n);
  else
    for (uint32_t i = 0; i < n; i++) {
      th_type t = r.b.trace->values[outputs[i]].type;
      if (signature[i].kind != TH_OUTPUT_FRESH || !th_dtype_is_float(t.dtype)) continue;
      th_value tangent = th_trace_add_input(r.b.trace, 0, t);
      r.b.trace->inputs[r.b.trace->graphs[0]->n_inputs - 1].kind = TH_INPUT_TANGENT;
      if (is_active(&d, outputs[i])) accumulate(&d, outputs[i], tangent);
    }
  go_back(&d, 0);
  if (r.b.status) return r.b.status;
  make_room(&d);
  for (uint32_t i = 0; i < n_inputs; i++) {
    th_value grad = d.grads[r.map[g->inputs[i]]];
    if (!in->inputs[i].requires_grad || grad == TH_NO_VALUE) continue;
    outputs[n] = grad;
    signature[n++] = (th_output){.kind = TH_OUTPUT_GRADIENT, .base = i};
  }
  th_trace_set_outputs(r.b.trace, 0, outputs, n);
  r.b.trace->outputs = signature;
  return th_rewrite_finish(&r, out);
}
