/* optimizer: the rest of a train step after the gradients: accumulation over micro-batches, average over ranks, clipping
 * by global norm, the update. Everything the update needs from outside becomes an input, in this order:
 *   the loss's scale (kind state), where `grad` has not made it an input already: of a flush
 *   accumulators, one per trainable parameter (kind accumulator; when gradients are accumulated)
 *   optimizer state per trainable parameter (kind state): sgd with momentum: momentum_buffer;
 *     adam, adamw: step, exp_avg, exp_avg_sq[, max_exp_avg_sq]; then, with a loss scale, the good steps in a row (ir/passes/loss_scale.h)
 *   numbers, rank-0 f64 in host memory (kind hyper-parameter): for each group lr, momentum, dampening, weight_decay (sgd)
 *     or lr, beta1, beta2, eps, weight_decay (adam, adamw); then max_norm when clipping; then, with a loss scale, its growth
 *     factor, backoff factor and growth interval; then the factor on accumulated gradients when accumulating: 1 / micro-batches; with a
 *     loss scale, which has that in the gradients already, in a flush alone: micro-batches of an update / those that there were
 * Outputs: those traced, then the gradient norm when clipping, then, with a loss scale, whether the update was skipped (bool), then
 * gradients when there is no optimizer here, then what is written back into parameters, state and accumulators. The phase `accumulate` adds to the accumulators and updates
 * nothing; `flush` updates from them without a new micro-batch.
 * With a loss scale everything that an update writes is selected: new where all gradients, averaged over the ranks, are finite, else as
 * it was. The average is the same on every rank, and of an inf or a NaN it is one: so ranks agree without another collective. */
#include <string.h>

#include "ir/lower/helpers.h"
#include "ir/passes/loss_scale.h"
#include "ir/passes/passes.h"

enum { MAX_STATE = 4, MAX_HYPER = 5 };

typedef struct param {
  uint32_t input; /* which input of graph 0 */
  th_value value, grad, accumulator;
  uint32_t n_state, accumulator_input, state_input[MAX_STATE];
  th_value state[MAX_STATE];
  const th_group *group;
  uint32_t group_number;
} param;

typedef struct outputs {
  th_value *values;
  th_output *signature;
  uint32_t n;
} outputs;

typedef struct step {
  const th_options *o;
  th_rewriter r;
  th_builder *b;
  param *params;
  uint32_t n_params;
  th_value (*hyper)[MAX_HYPER]; /* per group */
  th_value max_norm, grad_scale;
  th_loss_scale scale;
  uint32_t scale_input, good_steps_input;
  th_value finite, inverse; /* with a loss scale: are all gradients (bool); 1 / scale. Else TH_NO_VALUE */
  outputs out;
} step;

static th_value add_input(step *s, th_type type, th_input_kind kind) {
  th_trace *t = s->b->trace;
  th_value v = th_trace_add_input(t, 0, type);
  th_input *input = &t->inputs[t->graphs[0]->n_inputs - 1];
  input->kind = kind;
  input->donated = kind == TH_INPUT_STATE || kind == TH_INPUT_ACCUMULATOR;
  return v;
}

static th_value add_number(step *s) {
  th_type t = th_type_scalar(TH_DTYPE_f64);
  t.host = true;
  return add_input(s, t, TH_INPUT_HYPER);
}

static void add_output(outputs *out, th_value v, th_output signature) {
  out->signature[out->n] = signature;
  out->values[out->n++] = v;
}

static void write_back(step *s, th_value v, uint32_t input) {
  if (s->b->status) return;
  s->b->trace->inputs[input].written_by = (int32_t)s->out.n;
  s->b->trace->inputs[input].donated = true;
  add_output(&s->out, v, (th_output){.kind = TH_OUTPUT_WRITTEN, .base = input});
}

static th_status find_params(step *s) {
  const th_trace *in = s->r.from;
  const th_graph *g = in->graphs[0];
  th_arena *a = th_context_arena(in->context);
  s->params = TH_ARENA_ARRAY(a, param, g->n_inputs);
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    if (in->inputs[i].kind != TH_INPUT_PARAMETER || !in->inputs[i].requires_grad) continue;
    if (in->inputs[i].written_by >= 0 && s->o->optimizer != TH_OPTIMIZER_NONE)
      return TH_ERROR(UNIMPLEMENTED, "parameter %s (input %u) is written in place by the program itself; a step whose optimizer updates it too is not supported: write it between the steps",
                      in->values[g->inputs[i]].name ? in->values[g->inputs[i]].name : "", i);
    param *p = &s->params[s->n_params];
    *p = (param){.input = i, .value = s->r.map[g->inputs[i]], .grad = TH_NO_VALUE, .accumulator = TH_NO_VALUE};
    if (s->o->optimizer != TH_OPTIMIZER_NONE) {
      if (s->n_params >= s->o->n_param_group)
        return TH_ERROR(INVALID_ARGUMENT, "the step has more trainable parameters than the %u the optimizer's groups were given for", s->o->n_param_group);
      p->group_number = s->o->param_group[s->n_params];
      if (p->group_number >= s->o->n_groups)
        return TH_ERROR(INVALID_ARGUMENT, "parameter %u is in group %u, there are %u groups", s->n_params, p->group_number, s->o->n_groups);
      p->group = &s->o->groups[p->group_number];
    }
    s->n_params++;
  }
  if (s->o->optimizer != TH_OPTIMIZER_NONE && s->n_params != s->o->n_param_group)
    return TH_ERROR(INVALID_ARGUMENT, "the step has %u trainable parameters, the optimizer's groups were given for %u", s->n_params, s->o->n_param_group);
  for (uint32_t i = 0; in->outputs && i < g->n_outputs; i++)
    for (uint32_t k = 0; k < s->n_params && in->outputs[i].kind == TH_OUTPUT_GRADIENT; k++)
      if (s->params[k].input == in->outputs[i].base) s->params[k].grad = s->r.map[g->outputs[i]];
  return TH_OK;
}

static void add_state(step *s, param *p) {
  th_type like = s->b->trace->values[p->value].type, scalar = th_type_scalar(TH_DTYPE_f32);
  scalar.host = !s->o->loss_scale; /* a step that the device may skip is counted there */
  if (s->o->optimizer == TH_OPTIMIZER_SGD) p->n_state = p->group->momentum ? 1 : 0;
  else p->n_state = p->group->amsgrad ? 4 : 3;
  for (uint32_t k = 0; k < p->n_state; k++) {
    bool is_step = s->o->optimizer != TH_OPTIMIZER_SGD && k == 0;
    p->state[k] = add_input(s, is_step ? scalar : like, TH_INPUT_STATE);
    p->state_input[k] = s->b->trace->graphs[0]->n_inputs - 1;
    if (!is_step) s->b->trace->inputs[p->state_input[k]].strides = s->b->trace->inputs[p->input].strides;
  }
}

static void add_inputs(step *s) {
  th_trace *t = s->b->trace;
  bool update = s->o->phase != TH_PHASE_ACCUMULATE, flush = s->o->phase == TH_PHASE_FLUSH;
  if (s->o->loss_scale) {
    s->scale.scale = flush ? th__loss_scale_add(t) : th__loss_scale_find(t);
    s->scale_input = t->values[s->scale.scale].index;
  }
  for (uint32_t k = 0; k < s->n_params && s->o->accumulates; k++) {
    param *p = &s->params[k];
    p->accumulator = add_input(s, t->values[p->value].type, TH_INPUT_ACCUMULATOR);
    p->accumulator_input = t->graphs[0]->n_inputs - 1;
    t->inputs[p->accumulator_input].strides = t->inputs[p->input].strides;
  }
  if (update && s->o->optimizer != TH_OPTIMIZER_NONE) {
    for (uint32_t k = 0; k < s->n_params; k++) add_state(s, &s->params[k]);
    uint32_t n = s->o->optimizer == TH_OPTIMIZER_SGD ? 4 : 5;
    s->hyper = th_arena_calloc(th_context_arena(t->context), s->o->n_groups + 1, sizeof *s->hyper);
    for (uint32_t g = 0; g < s->o->n_groups; g++)
      for (uint32_t k = 0; k < n; k++) s->hyper[g][k] = add_number(s);
  }
  if (update && s->o->clip) s->max_norm = add_number(s);
  if (update && s->o->loss_scale) {
    s->scale.good_steps = add_input(s, th_type_scalar(TH_DTYPE_i32), TH_INPUT_STATE);
    s->good_steps_input = t->graphs[0]->n_inputs - 1;
    s->scale.growth = add_number(s);
    s->scale.backoff = add_number(s);
    s->scale.interval = add_number(s);
  }
  if (update && s->o->accumulates && (flush || !s->o->loss_scale)) s->grad_scale = add_number(s);
}

/* A rank-0 number times x, in x's dtype. */
static th_value times(th_builder *b, th_value x, th_value number) {
  return th_mul(b, x, th_broadcast_like(b, th_convert(b, number, th_dtype_of(b, x)), x));
}

/* This step's gradient of p: of the micro-batch, added to what was accumulated, averaged over micro-batches and ranks. */
static void finish_gradient(step *s, param *p) {
  th_builder *b = s->b;
  if (s->o->accumulates) {
    bool flush = s->o->phase == TH_PHASE_FLUSH;
    p->grad = flush ? p->accumulator : p->grad == TH_NO_VALUE ? TH_NO_VALUE : th_add(b, p->accumulator, p->grad);
    if (p->grad == TH_NO_VALUE) return;
    if (s->o->phase == TH_PHASE_ACCUMULATE) return;
    if (s->grad_scale != TH_NO_VALUE) p->grad = times(b, p->grad, s->grad_scale);
  }
  if (s->o->world > 1 && p->grad != TH_NO_VALUE) {
    th_attr attrs[] = {th_make_string(th_ctx(b), "dp"), th_make_string(th_ctx(b), "avg")};
    p->grad = th_build1(b, TH_OP_all_reduce, &p->grad, 1, attrs);
  }
}

/* Are the gradients finite? Asked before they are divided by the scale, as PyTorch does. */
static void find_finite(step *s) {
  th_builder *b = s->b;
  for (uint32_t k = 0; k < s->n_params; k++) {
    if (s->params[k].grad == TH_NO_VALUE) continue;
    th_value finite = th__all_finite(b, s->params[k].grad);
    s->finite = s->finite == TH_NO_VALUE ? finite : th_and(b, s->finite, finite);
  }
  if (s->finite == TH_NO_VALUE) s->finite = th_const(b, 1, TH_DTYPE_bool);
  s->inverse = th__loss_scale_inverse(b, &s->scale);
}

/* The gradient g of a parameter divided by the scale, if there is one. */
static th_value unscaled(step *s, th_value g) { return s->o->loss_scale ? th__unscale(s->b, g, s->inverse) : g; }

/* torch.nn.utils.clip_grad_norm_, norm 2: g * min(1, max_norm / (norm + 1e-6)). Returns the norm. */
static th_value clip(step *s) {
  th_builder *b = s->b;
  th_dtype d = TH_DTYPE_none;
  th_value sum = TH_NO_VALUE, *squares = TH_ARENA_ARRAY(th_context_arena(b->trace->context), th_value, s->n_params);
  uint32_t n = 0;
  for (uint32_t k = 0; k < s->n_params; k++)
    if (s->params[k].grad != TH_NO_VALUE) d = th_dtype_promote(d, th_dtype_of(b, s->params[k].grad));
  if (d == TH_DTYPE_none) return th_const(b, 0, TH_DTYPE_f32);
  th_dtype wide = th_dtype_compute(d);
  for (uint32_t k = 0; k < s->n_params; k++) {
    th_value g = s->params[k].grad;
    if (g == TH_NO_VALUE) continue;
    int64_t dims[TH_MAX_RANK];
    uint32_t rank = th_rank(b, g);
    th_last_dims(rank, rank, dims);
    g = th_convert(b, unscaled(s, g), wide);
    squares[n++] = th_reduce(b, TH_OP_reduce_sum, th_mul(b, g, g), dims, rank, false);
  }
  /* All of them first: those of many parameters are added up in several kernels, and the first must not come before the last square. */
  for (uint32_t k = 0; k < n; k++) sum = k ? th_add(b, sum, squares[k]) : squares[k];
  th_value norm = th_sqrt(b, sum);
  th_value factor = th_div(b, th_convert(b, s->max_norm, wide), th_add_scalar(b, norm, 1e-6));
  factor = th_min(b, factor, th_const(b, 1, wide));
  /* Behind a barrier they are divided once more where they are read, not kept for that in f32 from the norm on. */
  if (s->o->loss_scale && !b->status) s->inverse = th_build1(b, TH_OP_barrier, &s->inverse, 1, NULL);
  for (uint32_t k = 0; k < s->n_params; k++)
    if (s->params[k].grad != TH_NO_VALUE) s->params[k].grad = times(b, unscaled(s, s->params[k].grad), factor);
  return th_convert(b, norm, d);
}

/* What an update writes: `now`, unless it is skipped. */
static th_value unless_skipped(step *s, th_value now, th_value old) {
  if (!s->o->loss_scale || s->b->status) return now;
  return th_select(s->b, th_broadcast_like(s->b, s->finite, now), now, old);
}

static void update(step *s, param *p) {
  th_builder *b = s->b;
  const th_value *h = s->hyper[p->group_number];
  const th_group *g = p->group;
  th_op *op;
  if (s->o->optimizer == TH_OPTIMIZER_SGD) {
    th_value operands[] = {p->value, p->grad, p->n_state ? p->state[0] : TH_NO_VALUE, h[0], h[1], h[2], h[3]};
    th_attr attrs[] = {th_make_bool(g->nesterov), th_make_bool(g->maximize), th_make_bool(g->weight_decay), th_make_bool(g->first_step)};
    op = th_build(b, TH_OP_torch_sgd_step, operands, 7, attrs);
  } else {
    th_value operands[] = {p->value, p->grad, p->state[0], p->state[1], p->state[2], g->amsgrad ? p->state[3] : TH_NO_VALUE, h[0], h[1], h[2], h[3], h[4]};
    th_attr attrs[] = {th_make_bool(s->o->optimizer == TH_OPTIMIZER_ADAMW), th_make_bool(g->amsgrad), th_make_bool(g->maximize), th_make_bool(g->weight_decay)};
    op = th_build(b, TH_OP_torch_adam_step, operands, 11, attrs);
  }
  if (!op) return;
  write_back(s, unless_skipped(s, op->result, p->value), p->input);
  for (uint32_t k = 0; k < p->n_state; k++) write_back(s, unless_skipped(s, op->result + 1 + k, p->state[k]), p->state_input[k]);
}

th_status th_pass_optimizer(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  const th_graph *g = in->graphs[0];
  bool flush = options->phase == TH_PHASE_FLUSH;
  step s = {.o = options, .r = th_rewrite_begin(in), .grad_scale = TH_NO_VALUE, .finite = TH_NO_VALUE, .inverse = TH_NO_VALUE};
  s.b = &s.r.b;
  if (flush && !options->accumulates) return TH_ERROR(INVALID_ARGUMENT, "a flush without accumulated gradients");
  if (options->world > 1 && th_mesh_axis_count(in->context) == 0) th_mesh_axis_add(in->context, "dp", options->world);
  for (uint32_t i = 1; i < in->n_graphs; i++) th_rewrite_graph(&s.r, i);
  for (size_t i = 0; i < g->n_ops && !flush; i++) th_rewrite_clone(&s.r, g->ops[i]);
  TH_TRY(find_params(&s));
  if (options->loss_scale && !flush && th__loss_scale_find(s.b->trace) == TH_NO_VALUE)
    return TH_ERROR(INVALID_ARGUMENT, "a loss scale is asked for, and the trace has none: it was not differentiated with one (pass grad)");
  uint32_t room = g->n_outputs + 4 + s.n_params * (MAX_STATE + 3);
  s.out.values = TH_ARENA_ARRAY(a, th_value, room);
  s.out.signature = TH_ARENA_ARRAY(a, th_output, room);
  add_inputs(&s);
  for (uint32_t i = 0; i < g->n_outputs && !flush; i++)
    if (!in->outputs || in->outputs[i].kind != TH_OUTPUT_GRADIENT)
      add_output(&s.out, s.r.map[g->outputs[i]], in->outputs ? in->outputs[i] : (th_output){0});
  if (flush)
    for (uint32_t i = 0; i < g->n_inputs; i++) s.b->trace->inputs[i].written_by = -1;
  for (uint32_t k = 0; k < s.n_params; k++) finish_gradient(&s, &s.params[k]);
  if (options->phase == TH_PHASE_ACCUMULATE) {
    for (uint32_t k = 0; k < s.n_params; k++)
      if (s.params[k].grad != TH_NO_VALUE) write_back(&s, s.params[k].grad, s.params[k].accumulator_input);
  } else {
    if (options->loss_scale) find_finite(&s);
    if (options->clip) {
      th_value norm = clip(&s);
      if (!s.b->status) add_output(&s.out, norm, (th_output){0});
    }
    for (uint32_t k = 0; k < s.n_params && options->loss_scale && !options->clip; k++)
      if (s.params[k].grad != TH_NO_VALUE) s.params[k].grad = unscaled(&s, s.params[k].grad);
    if (options->loss_scale) {
      th_value skipped = th_not(s.b, s.finite);
      if (!s.b->status) add_output(&s.out, skipped, (th_output){0});
    }
    for (uint32_t k = 0; k < s.n_params && options->optimizer == TH_OPTIMIZER_NONE; k++)
      if (s.params[k].grad != TH_NO_VALUE) add_output(&s.out, s.params[k].grad, (th_output){.kind = TH_OUTPUT_GRADIENT, .base = s.params[k].input});
    for (uint32_t k = 0; k < s.n_params && !s.b->status; k++) {
      param *p = &s.params[k];
      if (p->grad == TH_NO_VALUE) continue;
      if (options->optimizer != TH_OPTIMIZER_NONE) update(&s, p);
      if (options->accumulates) write_back(&s, th_like(s.b, 0, p->value), p->accumulator_input);
    }
    if (options->loss_scale && !s.b->status) {
      th_value scale, good_steps;
      th__loss_scale_next(s.b, &s.scale, s.finite, &scale, &good_steps);
      write_back(&s, scale, s.scale_input);
      write_back(&s, good_steps, s.good_steps_input);
    }
  }
  if (s.b->status) return s.b->status;
  th_trace_set_outputs(s.b->trace, 0, s.out.values, s.out.n);
  s.b->trace->outputs = s.out.signature;
  return th_rewrite_finish(&s.r, out);
}
