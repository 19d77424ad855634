#include "executors/gen/gen.h"

static bool plain_dtype(th_dtype d) { return !th_dtype_is_complex(d) && d != TH_DTYPE_f8e4m3 && d != TH_DTYPE_f8e5m2 && d != TH_DTYPE_none; }

bool th_gen_fusible(const th_trace *t, const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  if (spec->level != TH_LEVEL_PRIM || spec->traits & TH_EFFECT) return false;
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (op->operands[i] == TH_NO_VALUE || !plain_dtype(th_type_of(t, op->operands[i])->dtype)) return false;
  for (uint32_t i = 0; i < op->n_results; i++)
    if (!plain_dtype(th_type_of(t, op->result + i)->dtype)) return false;
  switch (op->kind) {
    case TH_OP_weak: case TH_OP_conv: case TH_OP_conv_grad_x: case TH_OP_conv_grad_w: case TH_OP_cond: case TH_OP_call: case TH_OP_barrier: case TH_OP_wait: return false;
    default: return true;
  }
}
