#include "ir/passes/loss_scale.h"

#include "ir/lower/helpers.h"

th_value th__loss_scale_add(th_trace *t) {
  th_value v = th_trace_add_input(t, 0, th_type_scalar(TH_DTYPE_f32));
  t->inputs[t->graphs[0]->n_inputs - 1].kind = TH_INPUT_STATE;
  return v;
}

th_value th__loss_scale_find(const th_trace *t) {
  const th_graph *g = t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (t->inputs[i].kind == TH_INPUT_STATE) return g->inputs[i];
  return TH_NO_VALUE;
}

/* In f64, rounded once: what GradScaler.unscale_ multiplies by. */
th_value th__loss_scale_inverse(th_builder *b, const th_loss_scale *s) {
  return th_convert(b, th_reciprocal(b, th_convert(b, s->scale, TH_DTYPE_f64)), TH_DTYPE_f32);
}

th_value th__unscale(th_builder *b, th_value x, th_value inverse) {
  th_dtype d = th_dtype_of(b, x);
  th_value wide = th_up(b, x);
  return th_convert(b, th_mul(b, wide, th_broadcast_like(b, th_convert(b, inverse, th_dtype_of(b, wide)), wide)), d);
}

th_value th__all_finite(th_builder *b, th_value x) {
  int64_t dims[TH_MAX_RANK];
  uint32_t rank = th_rank(b, x);
  th_last_dims(rank, rank, dims);
  return th_reduce(b, TH_OP_reduce_all, th_isfinite(b, x), dims, rank, false);
}

/* scale * factor as _amp_update_scale_ has it: in f64, rounded to f32. */
static th_value scaled_by(th_builder *b, th_value scale, th_value factor) {
  return th_convert(b, th_mul(b, th_convert(b, scale, TH_DTYPE_f64), factor), TH_DTYPE_f32);
}

void th__loss_scale_next(th_builder *b, const th_loss_scale *s, th_value finite, th_value *out_scale, th_value *out_good_steps) {
  th_value next = th_add_scalar(b, s->good_steps, 1), none = th_like(b, 0, s->good_steps);
  th_value at_interval = th_eq(b, th_convert(b, next, TH_DTYPE_f64), s->interval);
  th_value grown = scaled_by(b, s->scale, s->growth);
  th_value grows = th_and(b, at_interval, th_isfinite(b, grown)); /* never to infinity */
  *out_scale = th_select(b, finite, th_select(b, grows, grown, s->scale), scaled_by(b, s->scale, s->backoff));
  *out_good_steps = th_select(b, finite, th_select(b, at_interval, none, next), none);
}
