/* Ops that are no function of a few elements: each is a kernel of its own, on elements of its operands. */
#include <stdio.h>
#include <string.h>

#include "executors/cpu/cpu.h"

/* Loops over all dimensions but `skip` (TH_NONE: over all); returns how many were opened. */
static uint32_t loops(th_gen *g, const th_type *type, uint32_t skip, const char **index) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < type->rank; i++)
    if (i != skip) {
      if (!n) th_gen_line(g, "#pragma omp parallel for num_threads(context->threads)");
      index[i] = th_gen_for(g, "i", type->dims[i]);
      n++;
    }
  return n;
}

static void end(th_gen *g, uint32_t n, size_t mark) {
  while (n--) th_gen_close(g);
  th_gen_forget(g, mark);
}

static void arg_extreme(th_gen *g, const th_op *op) {
  const th_type *x = th_type_of(g->t, op->operands[0]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  const char *index[TH_MAX_RANK], *kept[TH_MAX_RANK], *sign = op->kind == TH_OP_argmax ? ">" : "<";
  size_t mark = th_gen_mark(g);
  uint32_t n = loops(g, x, dim, index);
  th_gen_line(g, "int64_t best = 0; %s top = 0;", th_gen_ctype(x->dtype));
  index[dim] = th_gen_for(g, "k", x->dims[dim]);
  const char *e = th_gen_element(g, op->operands[0], index);
  th_gen_line(g, "if (%s == 0 || (top == top && (%s %s top || %s != %s))) { top = %s; best = %s; }", index[dim], e, sign, e, e, e, index[dim]);
  th_gen_close(g);
  for (uint32_t i = 0, k = 0; i < x->rank; i++)
    if (i != dim) kept[k++] = index[i];
  th_gen_put(g, op->result, kept, "best");
  end(g, n, mark);
}

static void running_sum(th_gen *g, const th_op *op) {
  const th_type *x = th_type_of(g->t, op->operands[0]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  const char *index[TH_MAX_RANK];
  size_t mark = th_gen_mark(g);
  uint32_t n = loops(g, x, dim, index);
  th_dtype dtype = th_type_of(g->t, op->result)->dtype;
  th_gen_line(g, "%s acc = 0;", dtype == TH_DTYPE_f32 ? "double" : th_gen_ctype(dtype));
  index[dim] = th_gen_for(g, "k", x->dims[dim]);
  th_gen_line(g, "acc += %s;", th_gen_element(g, op->operands[0], index));
  th_gen_put(g, op->result, index, "acc");
  th_gen_close(g);
  end(g, n, mark);
}

static void window_max(th_gen *g, const th_op *op) {
  const th_type *x = th_type_of(g->t, op->operands[0]), *y = th_type_of(g->t, op->result);
  const th_attr *kernel = th_attr_get(op, "kernel"), *stride = th_attr_get(op, "stride"), *padding = th_attr_get(op, "padding"), *dilation = th_attr_get(op, "dilation");
  uint32_t n = kernel->count, first = x->rank - n;
  const char *index[TH_MAX_RANK], *inner[TH_MAX_RANK], *flat = "0";
  size_t mark = th_gen_mark(g);
  uint32_t opened = loops(g, y, TH_NONE, index);
  th_gen_line(g, "int64_t best = -1; %s top = %s;", th_gen_ctype(x->dtype), th_gen_reduce_start(TH_OP_reduce_max, x->dtype));
  for (uint32_t i = 0; i < first; i++) inner[i] = index[i];
  for (uint32_t i = 0; i < n; i++) {
    const char *k = th_gen_for(g, "k", kernel->ints[i]), *q = th_gen_name(g, "q");
    th_gen_line(g, "const int64_t %s = %s * %s + %s * %s - %s;", q, index[first + i], th_gen_dim(g, stride->ints[i]), k, th_gen_dim(g, dilation->ints[i]), th_gen_dim(g, padding->ints[i]));
    th_gen_line(g, "if (%s < 0 || %s >= %s) continue;", q, q, th_gen_dim(g, x->dims[first + i]));
    inner[first + i] = q;
    flat = i ? th_arena_printf(g->a, "(%s) * %s + %s", flat, th_gen_dim(g, x->dims[first + i]), q) : q;
  }
  const char *e = th_gen_element(g, op->operands[0], inner);
  th_gen_line(g, "if (best < 0 || %s > top || %s != %s) { top = %s; best = %s; }", e, e, e, e, flat);
  for (uint32_t i = 0; i < n; i++) th_gen_close(g);
  th_gen_put(g, op->result, index, "top");
  th_gen_put(g, op->result + 1, index, "best");
  end(g, opened, mark);
}

/* Writes the result's first state: x itself. */
static void copy_operand(th_gen *g, const th_op *op) {
  const char *index[TH_MAX_RANK];
  size_t mark = th_gen_mark(g);
  uint32_t n = loops(g, th_type_of(g->t, op->result), TH_NONE, index);
  th_gen_put(g, op->result, index, th_gen_element(g, op->operands[0], index));
  end(g, n, mark);
}

static void change(th_gen *g, const th_op *op, const char *const *index, const char *e, bool add) {
  th_value v = op->result;
  uint32_t k = th_gen_output_of(g, v);
  const th_type *type = th_type_of(g->t, v);
  const char *offset = th_gen_name(g, "q"), *p = th_arena_printf(g->a, "o%u", k);
  if (k == TH_NONE) return;
  th_gen_line(g, "const int64_t %s = %s;", offset, th_gen_offset(g, type, g->t->values[g->op->result + k].strides, index));
  const char *now = add ? th_arena_printf(g->a, "(%s + %s)", th_gen_load_text(g, type->dtype, p, offset), e) : e;
  if (add && type->dtype == TH_DTYPE_bool) now = th_arena_printf(g->a, "(%s[%s] | %s)", p, offset, e);
  th_gen_line(g, "%s[%s] = %s;", p, offset, th_gen_store_text(g, type->dtype, now));
}

/* Each thread owns a range of x's slices and looks through all indices in order, so the order of additions is the same with
 * any number of threads. */
static void scatter_slices(th_gen *g, const th_op *op) {
  const th_type *x = th_type_of(g->t, op->result), *indices = th_type_of(g->t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  const char *where[TH_MAX_RANK], *update[TH_MAX_RANK], *index[TH_MAX_RANK], *n = th_gen_dim(g, x->dims[dim]);
  copy_operand(g, op);
  size_t mark = th_gen_mark(g);
  th_gen_line(g, "#pragma omp parallel for num_threads(context->threads)");
  th_gen_open(g, "for (int64_t part = 0; part < context->threads; part++)");
  th_gen_line(g, "const int64_t low = %s * part / context->threads, high = %s * (part + 1) / context->threads;", n, n);
  for (uint32_t i = 0; i < indices->rank; i++) where[i] = th_gen_for(g, "i", indices->dims[i]);
  const char *at = th_gen_element(g, op->operands[1], where);
  th_gen_line(g, "if ((uint64_t)%s >= (uint64_t)%s) { th_bad |= 1; continue; }", at, n);
  th_gen_line(g, "if (%s < low || %s >= high) continue;", at, at);
  uint32_t inner = 0;
  for (uint32_t i = 0; i < x->rank; i++)
    if (i != dim) {
      index[i] = th_gen_for(g, "j", x->dims[i]);
      inner++;
    }
  index[dim] = at;
  for (uint32_t i = 0; i < dim; i++) update[i] = index[i];
  for (uint32_t i = 0; i < indices->rank; i++) update[dim + i] = where[i];
  for (uint32_t i = dim + 1; i < x->rank; i++) update[i + indices->rank - 1] = index[i];
  change(g, op, index, th_gen_element(g, op->operands[2], update), true);
  for (uint32_t i = 0; i < inner + indices->rank + 1; i++) th_gen_close(g);
  th_gen_forget(g, mark);
}

static void scatter_elements(th_gen *g, const th_op *op) {
  const th_type *x = th_type_of(g->t, op->result), *indices = th_type_of(g->t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  const char *where[TH_MAX_RANK], *index[TH_MAX_RANK], *n = th_gen_dim(g, x->dims[dim]);
  copy_operand(g, op);
  size_t mark = th_gen_mark(g);
  for (uint32_t i = 0; i < indices->rank; i++) index[i] = where[i] = th_gen_for(g, "i", indices->dims[i]);
  index[dim] = th_gen_element(g, op->operands[1], where);
  th_gen_line(g, "if ((uint64_t)%s >= (uint64_t)%s) { th_bad |= 1; continue; }", index[dim], n);
  change(g, op, index, th_gen_element(g, op->operands[2], where), op->kind == TH_OP_scatter_add_along);
  for (uint32_t i = 0; i < indices->rank; i++) th_gen_close(g);
  th_gen_forget(g, mark);
}

void th_cpu_special(th_gen *g, const th_op *op) {
  switch (op->kind) {
    case TH_OP_argmax: case TH_OP_argmin: arg_extreme(g, op); break;
    case TH_OP_cumsum: running_sum(g, op); break;
    case TH_OP_window_max: window_max(g, op); break;
    case TH_OP_scatter_add: scatter_slices(g, op); break;
    default: scatter_elements(g, op); break;
  }
}
