#include "executors/cuda/cuda.h"

#include <string.h>


bool th_cuda_is_simt(const th_options *options) { return !strcmp(options->target.arch, "simt"); }

static bool plain_dtype(th_dtype d) { return !th_dtype_is_complex(d) && d != TH_DTYPE_f8e4m3 && d != TH_DTYPE_f8e5m2 && d != TH_DTYPE_none; }

static bool fusible(const th_options *options, const th_trace *t, const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  (void)options;
  if (spec->level != TH_LEVEL_PRIM || spec->traits & TH_EFFECT) return false;
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (op->operands[i] == TH_NO_VALUE || !plain_dtype(th_type_of(t, op->operands[i])->dtype)) return false;
  for (uint32_t i = 0; i < op->n_results; i++)
    if (!plain_dtype(th_type_of(t, op->result + i)->dtype) || th_type_of(t, op->result + i)->host) return false;
  switch (op->kind) {
    case TH_OP_weak: case TH_OP_cond: case TH_OP_call: case TH_OP_barrier: case TH_OP_wait: return false;
    default: return true;
  }
}

/* Rows of a length that is known and not too long for the registers of a block, and exactly the columns of those rows. */
static bool mixes(const th_options *options, const th_trace *t, const th_op *rows, const th_op *columns) {
  enum { MOST = 4096 };
  const th_type *type = th_type_of(t, rows->operands[0]);
  int64_t length = 1, size;
  (void)options;
  for (uint32_t i = 0; i < type->rank; i++) {
    bool of_row = th_gen_reduces(t->context, rows, i);
    if (of_row == th_gen_reduces(t->context, columns, i)) return false;
    if (!of_row) continue;
    if (!th_dim_is_const(t->context, type->dims[i], &size)) return false;
    length *= size;
  }
  return length > 0 && length <= MOST && th_gen_reduces(t->context, rows, type->rank - 1);
}

static const char *prelude(const th_options *options) {
  (void)options;
  return th_cuda_prelude;
}

const th_executor th_executor_cuda = {
    .name = "cuda", .fusible = fusible, .batches = th_cuda_batches, .in_place = th_gen_in_place, .emit = th_cuda_emit, .prelude = prelude, .compile = th_cuda_compile, .scratch = th_cuda_scratch,
    .keeps = true, .mixes = mixes,
};
