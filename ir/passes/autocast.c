/* autocast: ops recorded in an autocast region get their floating point operands converted as torch.autocast does on the
 * target's device type: to the region's dtype, to f32, or to the widest of them. f64 is left alone, as in PyTorch. */
#include <string.h>

#include "ir/passes/passes.h"

typedef enum cast { CAST_NONE, CAST_LOWER, CAST_FULL, CAST_WIDEST } cast;

/* torch/amp's list for the CPU keeps most pointwise ops, softmax and norms in the dtype they get; losses go to f32. */
static cast cpu_policy(const th_op *op) {
  uint32_t traits = th_op_spec_get(op->kind)->traits;
  if (traits & TH_LOWER_PRECISION) return CAST_LOWER;
  switch (op->kind) {
    case TH_OP_torch_mse_loss: case TH_OP_torch_l1_loss: case TH_OP_torch_smooth_l1_loss: case TH_OP_torch_huber_loss:
    case TH_OP_torch_cross_entropy_loss: case TH_OP_torch_nll_loss: case TH_OP_torch_bce_with_logits: case TH_OP_torch_binary_cross_entropy:
    case TH_OP_torch_prod:
      return CAST_FULL;
    case TH_OP_torch_cat: case TH_OP_torch_stack: return CAST_WIDEST;
    default: return CAST_NONE;
  }
}

static cast policy(const th_options *options, const th_op *op) {
  uint32_t traits = th_op_spec_get(op->kind)->traits;
  if (!strcmp(options->target.name, "cpu")) return cpu_policy(op);
  return traits & TH_LOWER_PRECISION ? CAST_LOWER : traits & TH_FULL_PRECISION ? CAST_FULL : traits & TH_WIDEST ? CAST_WIDEST : CAST_NONE;
}

/* The dtype eligible operands are converted to; none: leave them. */
static th_dtype wanted_dtype(const th_options *options, const th_rewriter *r, const th_op *op) {
  th_dtype widest = TH_DTYPE_none;
  switch (op->autocast ? policy(options, op) : CAST_NONE) {
    case CAST_NONE: return TH_DTYPE_none;
    case CAST_LOWER: return op->autocast;
    case CAST_FULL: return TH_DTYPE_f32;
    case CAST_WIDEST: break;
  }
  for (uint32_t i = 0; i < op->n_operands; i++) {
    if (op->operands[i] == TH_NO_VALUE) continue;
    const th_type *t = &r->b.trace->values[r->map[op->operands[i]]].type;
    if (th_dtype_is_float(t->dtype) && !t->weak) widest = th_dtype_promote(widest, t->dtype);
  }
  return widest;
}

static bool eligible(const th_type *t) { return th_dtype_is_float(t->dtype) && t->dtype != TH_DTYPE_f64 && !t->weak; }

/* What goes back into an input is converted to the input's dtype, as copy_ does. */
static void convert_back(th_rewriter *r, const th_trace *in) {
  const th_graph *g = in->graphs[0];
  for (uint32_t o = 0; o < g->n_outputs && !r->b.status && in->outputs; o++) {
    th_output_kind kind = in->outputs[o].kind;
    th_dtype wanted = th_type_of(in, g->outputs[o])->dtype;
    th_value v = r->map[g->outputs[o]];
    if ((kind != TH_OUTPUT_WRITTEN && kind != TH_OUTPUT_GRADIENT) || th_type_of(r->b.trace, v)->dtype == wanted) continue;
    r->b.autocast = TH_DTYPE_none;
    r->b.trace->graphs[0]->outputs[o] = th_build1(&r->b, TH_OP_torch_to, &v, 1, (th_attr[]){th_make_dtype(wanted)});
  }
}

th_status th_pass_autocast(const th_options *options, const th_trace *in, th_trace **out) {
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t g = 0; g < in->n_graphs; g++) {
    r.b.graph = g;
    for (size_t i = 0; i < in->graphs[g]->n_ops && !r.b.status; i++) {
      const th_op *op = in->graphs[g]->ops[i];
      th_rewrite_at(&r, op);
      th_dtype d = wanted_dtype(options, &r, op);
      th_value *operands = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, op->n_operands);
      bool changed = false, inputs_differ = false;
      for (uint32_t k = 0; k < op->n_operands; k++) {
        operands[k] = th_rewrite_value(&r, op->operands[k]);
        if (operands[k] == TH_NO_VALUE) continue;
        const th_type *t = &r.b.trace->values[operands[k]].type;
        inputs_differ |= !th_type_equal(t, &in->values[op->operands[k]].type);
        if (d == TH_DTYPE_none || !eligible(t) || t->dtype == d) continue;
        operands[k] = th_build1(&r.b, TH_OP_torch_to, &operands[k], 1, (th_attr[]){th_make_dtype(d)});
        changed = true;
      }
      if (!changed && !inputs_differ) {
        th_rewrite_clone(&r, op);
        continue;
      }
      th_op *now = th_build(&r.b, op->kind, operands, op->n_operands, op->attrs); /* result types follow */
      if (!now) break;
      for (uint32_t k = 0; k < op->n_results; k++) {
        th_rewrite_map(&r, op->result + k, now->result + k);
        r.b.trace->values[now->result + k].name = in->values[op->result + k].name;
      }
    }
    if (!r.b.status) th_rewrite_outputs(&r, g);
    if (g == 0) convert_back(&r, in);
  }
  return th_rewrite_finish(&r, out);
}
