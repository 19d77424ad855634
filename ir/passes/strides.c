#include <assert.h>
#include <string.h>

#include "ir/executor.h"
#include "ir/passes/plan.h"

bool th_strides_equal(th_context *c, const th_dim *dims, uint32_t rank, const th_dim *a, const th_dim *b) {
  if (a == b) return true;
  if (!a) a = th_contiguous_strides(c, dims, rank);
  if (!b) b = th_contiguous_strides(c, dims, rank);
  for (uint32_t i = 0; i < rank; i++) {
    if (th_dim_is(c, dims[i], 0)) return true; /* no element to place */
    if (a[i] != b[i] && !th_dim_is(c, dims[i], 1)) {
      for (uint32_t k = i + 1; k < rank; k++)
        if (th_dim_is(c, dims[k], 0)) return true;
      return false;
    }
  }
  return true;
}

bool th_strides_contiguous(th_context *c, const th_type *t, const th_dim *strides) {
  return th_strides_equal(c, t->dims, t->rank, strides, NULL);
}

bool th_strides_dense(th_context *c, const th_type *t, const th_dim *strides) {
  bool used[TH_MAX_RANK] = {false};
  if (!strides) return true;
  th_dim run = th_dim_const(c, 1);
  uint32_t left = 0;
  for (uint32_t i = 0; i < t->rank; i++) {
    if (th_dim_is(c, t->dims[i], 0)) return true;
    used[i] = th_dim_is(c, t->dims[i], 1);
    left += !used[i];
  }
  while (left) { /* the dimension whose stride is the size of what lies inside it, again and again */
    uint32_t i = 0;
    while (i < t->rank && (used[i] || strides[i] != run)) i++;
    if (i == t->rank) return false;
    used[i] = true;
    run = th_dim_mul(c, run, th_dim_max(c, t->dims[i], th_dim_const(c, 1)));
    left--;
  }
  return true;
}

const th_dim *th_strides_reshape(th_context *c, const th_dim *from, uint32_t from_rank, const th_dim *from_strides,
                                 const th_dim *dims, uint32_t rank) {
  if (th_strides_equal(c, from, from_rank, from_strides, NULL)) return th_contiguous_strides(c, dims, rank);
  for (uint32_t i = 0; i < from_rank; i++)
    if (th_dim_is(c, from[i], 0)) return th_contiguous_strides(c, dims, rank);
  /* As PyTorch's computeStride: runs of `from` that lie in one piece are matched, from the right, with dimensions of the
   * result of the same product. */
  th_dim one = th_dim_const(c, 1), *out = TH_ARENA_ARRAY(th_context_arena(c), th_dim, rank);
  uint32_t left = rank, i = from_rank;
  while (i > 0) {
    th_dim base = from_strides[i - 1], size = one, seen = one;
    for (;;) { /* one run */
      i--;
      size = th_dim_mul(c, size, from[i]);
      if (i == 0) break;
      if (th_dim_is(c, from[i - 1], 1)) continue;
      if (th_dim_is(c, size, 1)) base = from_strides[i - 1]; /* only ones so far: the run begins here */
      else if (from_strides[i - 1] != th_dim_mul(c, size, base)) break;
    }
    while (left > 0 && (seen != size || th_dim_is(c, dims[left - 1], 1))) {
      left--;
      out[left] = th_dim_mul(c, seen, base);
      seen = th_dim_mul(c, seen, dims[left]);
    }
    if (seen != size) return NULL;
  }
  for (; left > 0; left--) { /* leading ones */
    if (!th_dim_is(c, dims[left - 1], 1)) return NULL;
    out[left - 1] = one;
  }
  return out;
}

bool th_op_is_alias(const th_op *op) {
  switch (op->kind) {
    case TH_OP_transpose: case TH_OP_slice: case TH_OP_broadcast: case TH_OP_reshape: case TH_OP_barrier: case TH_OP_wait: return true;
    default: return false;
  }
}

bool th_alias_window(const th_trace *trace, const th_op *op, uint32_t index, const th_dim *strides, const th_dim **out_strides,
                     th_dim *out_offset) {
  th_context *c = trace->context;
  const th_type *x = th_type_of(trace, op->operands[index]), *y = th_type_of(trace, op->result + index);
  th_dim *out = TH_ARENA_ARRAY(th_context_arena(c), th_dim, y->rank);
  th_dim zero = th_dim_const(c, 0);
  *out_offset = zero;
  *out_strides = out;
  if (!strides) strides = th_contiguous_strides(c, x->dims, x->rank);
  switch (op->kind) {
    case TH_OP_barrier: case TH_OP_wait: *out_strides = strides; return true;
    case TH_OP_transpose: {
      const th_attr *p = th_attr_get(op, "permutation");
      for (uint32_t i = 0; i < y->rank; i++) {
        int64_t from = 0;
        if (!th_dim_is_const(c, p->ints[i], &from)) return false;
        out[i] = strides[from];
      }
      return true;
    }
    case TH_OP_slice: {
      const th_attr *start = th_attr_get(op, "start"), *step = th_attr_get(op, "stride");
      for (uint32_t i = 0; i < y->rank; i++) {
        out[i] = th_dim_mul(c, strides[i], step->ints[i]);
        *out_offset = th_dim_add(c, *out_offset, th_dim_mul(c, strides[i], start->ints[i]));
      }
      return true;
    }
    case TH_OP_broadcast: {
      const th_attr *map = th_attr_get(op, "dims");
      for (uint32_t i = 0; i < y->rank; i++) out[i] = zero;
      for (uint32_t i = 0; i < x->rank; i++) {
        int64_t to = 0;
        if (!th_dim_is_const(c, map->ints[i], &to)) return false;
        bool grows = th_dim_is(c, x->dims[i], 1) && !th_dim_is(c, y->dims[to], 1);
        out[to] = grows ? zero : strides[i];
      }
      return true;
    }
    case TH_OP_reshape: return (*out_strides = th_strides_reshape(c, x->dims, x->rank, strides, y->dims, y->rank)) != NULL;
    default: return false;
  }
}

const th_dim *th_alias_wanted(const th_trace *trace, const th_op *op, const th_dim *strides) {
  th_context *c = trace->context;
  const th_type *x = th_type_of(trace, op->operands[0]), *y = th_type_of(trace, op->result);
  if (!strides) strides = th_contiguous_strides(c, y->dims, y->rank);
  switch (op->kind) {
    case TH_OP_barrier: case TH_OP_wait: return strides;
    case TH_OP_transpose: {
      const th_attr *p = th_attr_get(op, "permutation");
      th_dim *out = TH_ARENA_ARRAY(th_context_arena(c), th_dim, x->rank);
      for (uint32_t i = 0; i < y->rank; i++) {
        int64_t from = 0;
        if (!th_dim_is_const(c, p->ints[i], &from)) return NULL;
        out[from] = strides[i];
      }
      return out;
    }
    case TH_OP_reshape: return th_strides_reshape(c, y->dims, y->rank, strides, x->dims, x->rank);
    default: return NULL;
  }
}

th_dim th_extent_bytes(th_context *c, const th_type *t, const th_dim *strides) {
  th_dim size = th_dim_const(c, (int64_t)th_dtype_size(t->dtype)), zero = th_dim_const(c, 0), one = th_dim_const(c, 1);
  if (th_strides_dense(c, t, strides)) return th_dim_mul(c, th_type_numel(c, t), size);
  th_dim last = zero, smallest = one;
  for (uint32_t i = 0; i < t->rank; i++) {
    last = th_dim_add(c, last, th_dim_mul(c, th_dim_sub(c, t->dims[i], one), strides[i]));
    smallest = th_dim_mul(c, smallest, th_dim_min(c, t->dims[i], one));
  }
  return th_dim_mul(c, th_dim_mul(c, th_dim_add(c, last, one), smallest), size); /* smallest: 0 when a dimension is */
}

/* ---- what a trace asks for ---- */

const th_dim *th_output_asked(const th_trace *t, uint32_t o, bool *out_any) {
  const th_output *output = &t->outputs[o];
  const th_type *type = th_type_of(t, t->graphs[0]->outputs[o]);
  *out_any = false;
  switch (output->kind) {
    case TH_OUTPUT_FRESH: case TH_OUTPUT_GRADIENT: case TH_OUTPUT_SAVED:
      return output->strides ? output->strides : th_contiguous_strides(t->context, type->dims, type->rank);
    default: break;
  }
  for (uint32_t i = 0; i < t->graphs[0]->n_inputs; i++)
    if (t->inputs[i].written_by == (int32_t)o)
      return t->inputs[i].strides ? t->inputs[i].strides : th_contiguous_strides(t->context, type->dims, type->rank);
  *out_any = true;
  return NULL;
}

/* What a library op that lays its operands would have of row-major ones. */
static void want_operands(const th_options *options, const th_trace *t, const th_op *op, const th_dim **wanted) {
  th_arena *a = th_context_arena(t->context);
  const th_executor *executor = th_executor_of(options, op);
  if (!executor || !executor->lay) return;
  const th_dim **lie = TH_ARENA_ARRAY(a, const th_dim *, op->n_operands), **results = TH_ARENA_ARRAY(a, const th_dim *, op->n_results);
  for (uint32_t k = 0; k < op->n_operands; k++) lie[k] = th_contiguous_strides(t->context, th_type_of(t, op->operands[k])->dims, th_type_of(t, op->operands[k])->rank);
  if (!executor->lay(options, t, op, lie, results)) return;
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (!wanted[op->operands[k]]) wanted[op->operands[k]] = lie[k];
}

const th_dim **th_wanted_strides(const th_options *options, const th_trace *t) {
  const th_graph *g = t->graphs[0];
  const th_dim **wanted = TH_ARENA_ARRAY(th_context_arena(t->context), const th_dim *, t->n_values);
  bool any;
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    const th_dim *strides = th_output_asked(t, o, &any);
    th_value v = g->outputs[o];
    if (!any && !wanted[v] && th_strides_dense(t->context, th_type_of(t, v), strides)) wanted[v] = strides;
  }
  for (size_t i = g->n_ops; i-- > 0;) {
    const th_op *op = g->ops[i];
    if (op->kind == TH_OP_library) want_operands(options, t, op, wanted);
    if (!th_op_is_alias(op) || op->kind == TH_OP_wait) continue;
    if (op->kind == TH_OP_reshape && !wanted[op->result] && th_target_is_cuda(options)) /* row-major, what it is made of can be a view */
      wanted[op->result] = th_contiguous_strides(t->context, th_type_of(t, op->result)->dims, th_type_of(t, op->result)->rank);
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value x = op->operands[k];
      if (wanted[op->result + k] && !wanted[x]) wanted[x] = th_alias_wanted(t, op, wanted[op->result + k]);
    }
  }
  return wanted;
}
