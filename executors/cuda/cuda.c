#include "executors/cuda/cuda.h"

#include <string.h>

bool th_cuda_is_simt(const th_options *options) { return !strcmp(options->target.arch, "simt"); }

static bool fusible(const th_options *options, const th_trace *t, const th_op *op) {
  (void)options;
  for (uint32_t i = 0; i < op->n_results; i++)
    if (th_type_of(t, op->result + i)->host) return false;
  return th_gen_fusible(t, op);
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
