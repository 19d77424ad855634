/* Ops that are no function of a few elements: each is a kernel of its own, on elements of its operands. What is added to one place is added
 * in the order of the indices, by one thread, so that results are the same in every run. */
#include <string.h>

#include "executors/cuda/cuda.h"

/* A thread for each element of `dims` (n): opens its scope; index[] of it. */
static th_dim open_threads(th_cuda_gen *x, const th_dim *dims, uint32_t n, const char **index) {
  th_gen *g = &x->g;
  th_dim count = th_dim_product(g->c, dims, n);
  th_gen_line(g, "const int64_t i = (int64_t)blockIdx.x * %d + threadIdx.x;", TH_CUDA_THREADS);
  th_gen_open(g, "if (i < %s)", th_gen_dim(g, count));
  th_cuda_spread(x, "i", dims, n, NULL, index);
  return th_cuda_blocks(x, count, TH_CUDA_THREADS);
}

static void close_threads(th_cuda_gen *x, th_dim blocks, th_kernel_source *out) {
  th_gen_close(&x->g);
  th_cuda_finish(x, blocks, th_dim_const(x->g.c, 1), TH_CUDA_THREADS, false, out);
}

static void without(const th_type *type, uint32_t dim, th_dim *out) {
  for (uint32_t i = 0, k = 0; i < type->rank; i++)
    if (i != dim) out[k++] = type->dims[i];
}

static void with(uint32_t rank, uint32_t dim, const char *const *kept, const char *at, const char **index) {
  for (uint32_t i = 0, k = 0; i < rank; i++) index[i] = i == dim ? at : kept[k++];
}

static void along(th_cuda_gen *x, const th_op *op, th_kernel_source *out) { /* argmax, argmin, cumsum: a thread for each line */
  th_gen *g = &x->g;
  const th_type *type = th_type_of(g->t, op->operands[0]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim");
  th_dim dims[TH_MAX_RANK];
  const char *kept[TH_MAX_RANK], *index[TH_MAX_RANK];
  without(type, dim, dims);
  th_dim blocks = open_threads(x, dims, type->rank - 1, kept);
  if (op->kind == TH_OP_cumsum) {
    th_dtype dtype = th_type_of(g->t, op->result)->dtype;
    th_gen_line(g, "%s acc = 0;", dtype == TH_DTYPE_f32 ? "double" : th_gen_ctype(dtype));
    with(type->rank, dim, kept, th_gen_for(g, "k", type->dims[dim]), index);
    th_gen_line(g, "acc += %s;", th_gen_element(g, op->operands[0], index));
    th_gen_put(&x->g, op->result, index, "acc");
    th_gen_close(g);
  } else {
    th_gen_line(g, "int64_t best = 0; %s top = 0;", th_gen_ctype(type->dtype));
    with(type->rank, dim, kept, th_gen_for(g, "k", type->dims[dim]), index);
    const char *e = th_gen_element(g, op->operands[0], index);
    th_gen_line(g, "if (%s == 0 || (top == top && (%s %s top || %s != %s))) { top = %s; best = %s; }", index[dim], e, op->kind == TH_OP_argmax ? ">" : "<", e, e, e, index[dim]);
    th_gen_close(g);
    th_gen_put(&x->g, op->result, kept, "best");
  }
  close_threads(x, blocks, out);
}

static void window_max(th_cuda_gen *x, const th_op *op, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_type *type = th_type_of(g->t, op->operands[0]), *y = th_type_of(g->t, op->result);
  const th_attr *kernel = th_attr_get(op, "kernel"), *stride = th_attr_get(op, "stride"), *padding = th_attr_get(op, "padding"), *dilation = th_attr_get(op, "dilation");
  uint32_t n = kernel->count, first = type->rank - n;
  const char *index[TH_MAX_RANK], *inner[TH_MAX_RANK], *flat = "0";
  th_dim blocks = open_threads(x, y->dims, y->rank, index);
  th_gen_line(g, "int64_t best = -1; %s top = %s;", th_gen_ctype(type->dtype), th_gen_reduce_start(TH_OP_reduce_max, type->dtype));
  for (uint32_t i = 0; i < first; i++) inner[i] = index[i];
  for (uint32_t i = 0; i < n; i++) {
    const char *k = th_gen_for(g, "k", kernel->ints[i]), *q = th_gen_name(g, "q");
    th_gen_line(g, "const int64_t %s = (int64_t)%s * %s + %s * %s - %s;", q, index[first + i], th_gen_dim(g, stride->ints[i]), k, th_gen_dim(g, dilation->ints[i]), th_gen_dim(g, padding->ints[i]));
    th_gen_line(g, "if (%s < 0 || %s >= %s) continue;", q, q, th_gen_dim(g, type->dims[first + i]));
    inner[first + i] = q;
    flat = i ? th_arena_printf(g->a, "(%s) * %s + %s", flat, th_gen_dim(g, type->dims[first + i]), q) : q;
  }
  const char *e = th_gen_element(g, op->operands[0], inner);
  th_gen_line(g, "if (best < 0 || %s > top || %s != %s) { top = %s; best = %s; }", e, e, e, e, flat);
  for (uint32_t i = 0; i < n; i++) th_gen_close(g);
  th_gen_put(&x->g, op->result, index, "top");
  th_gen_put(&x->g, op->result + 1, index, "best");
  close_threads(x, blocks, out);
}

/* x's slices with updates added. A block has SLICES of them: it looks through all indices in order, collects a batch that are its own, and
 * its threads, each with elements of a slice of its own, add their updates in that order. */
static void scatter_slices(th_cuda_gen *x, const th_op *op, th_kernel_source *out) {
  enum { SLICES = 64, BATCH = 512 };
  th_gen *g = &x->g;
  const th_type *type = th_type_of(g->t, op->result), *indices = th_type_of(g->t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim"), k = th_gen_output_of(g, op->result);
  th_dim inner[TH_MAX_RANK];
  const char *index[TH_MAX_RANK], *kept[TH_MAX_RANK], *where[TH_MAX_RANK], *update[TH_MAX_RANK];
  const char *n = th_gen_dim(g, type->dims[dim]), *count = th_gen_dim(g, th_type_numel(g->c, indices)), *T = th_gen_ctype(type->dtype);
  bool is_bool = type->dtype == TH_DTYPE_bool;
  if (k == TH_NONE) {
    th_gen_fail(g, TH_ERROR(INTERNAL, "cuda: nobody reads a scatter_add"));
    return;
  }
  without(type, dim, inner);
  th_dim each = th_dim_product(g->c, inner, type->rank - 1);
  const char *elements = th_gen_dim(g, each);
  th_gen_line(g, "__shared__ int64_t position[%d], slice[%d];", BATCH, BATCH);
  th_gen_line(g, "__shared__ int warps[%d];", TH_CUDA_THREADS / 32);
  th_gen_line(g, "const int64_t low = (int64_t)blockIdx.x * %d, high = low + %d < %s ? low + %d : %s;", SLICES, SLICES, n, SLICES, n);
  th_gen_open(g, "for (int64_t e = threadIdx.x; e < (high - low) * %s; e += %d)", elements, TH_CUDA_THREADS);
  th_gen_line(g, "const int64_t at = low + e / %s, rest = e %% %s;", elements, elements);
  th_cuda_spread(x, "rest", inner, type->rank - 1, NULL, kept);
  with(type->rank, dim, kept, "at", index);
  th_gen_put(&x->g, op->result, index, th_gen_element(g, op->operands[0], index));
  th_gen_close(g);
  th_gen_forget(g, 0);
  th_gen_line(g, "int have = 0;");
  th_gen_open(g, "for (int64_t from = 0; from < %s; from += %d)", count, TH_CUDA_THREADS);
  th_gen_line(g, "const int64_t i = from + threadIdx.x;");
  th_gen_line(g, "int64_t to = -1;");
  th_gen_open(g, "if (i < %s)", count);
  th_cuda_spread(x, "i", indices->dims, indices->rank, NULL, where);
  th_gen_line(g, "to = %s;", th_gen_element(g, op->operands[1], where));
  th_gen_line(g, "if ((uint64_t)to >= (uint64_t)%s) { th_bad |= 1; to = -1; }", n);
  th_gen_close(g);
  th_gen_forget(g, 0);
  th_gen_line(g, "const bool mine = to >= low && to < high;");
  th_gen_line(g, "const unsigned hits = __ballot_sync(0xffffffffu, mine);");
  th_gen_line(g, "if (threadIdx.x %% 32 == 0) warps[threadIdx.x / 32] = __popc(hits);");
  th_gen_line(g, "__syncthreads();");
  th_gen_line(g, "int before = have, all = have;");
  th_gen_line(g, "for (int w = 0; w < %d; w++) { all += warps[w]; before += w < (int)threadIdx.x / 32 ? warps[w] : 0; }", TH_CUDA_THREADS / 32);
  th_gen_line(g, "if (mine) { const int p = before + __popc(hits & ((1u << threadIdx.x %% 32) - 1)); position[p] = i; slice[p] = to; }");
  th_gen_line(g, "have = all;");
  th_gen_line(g, "__syncthreads();");
  th_gen_open(g, "if (have > %d || (have && from + %d >= %s))", BATCH - TH_CUDA_THREADS, TH_CUDA_THREADS, count);
  th_gen_open(g, "for (int64_t e = threadIdx.x; e < %s; e += %d)", elements, TH_CUDA_THREADS);
  th_cuda_spread(x, "e", inner, type->rank - 1, NULL, kept);
  th_gen_open(g, "for (int p = 0; p < have; p++)");
  th_gen_line(g, "const int64_t at = slice[p], i = position[p];");
  th_cuda_spread(x, "i", indices->dims, indices->rank, NULL, where);
  with(type->rank, dim, kept, "at", index);
  for (uint32_t i = 0; i < dim; i++) update[i] = index[i];
  for (uint32_t i = 0; i < indices->rank; i++) update[dim + i] = where[i];
  for (uint32_t i = dim + 1; i < type->rank; i++) update[i + indices->rank - 1] = index[i];
  const char *value = th_gen_element(g, op->operands[2], update);
  th_gen_line(g, "const int64_t offset = %s;", th_gen_offset(g, type, g->t->values[g->op->result + k].strides, index));
  const char *now = th_gen_load_text(g, type->dtype, th_arena_printf(g->a, "o%u", k), "offset");
  th_gen_line(g, "const %s sum = %s %s %s;", T, now, is_bool ? "|" : "+", value);
  th_gen_line(g, "o%u[offset] = %s;", k, th_gen_store_text(g, type->dtype, "sum"));
  th_gen_close(g);
  th_gen_close(g);
  th_gen_line(g, "have = 0;");
  th_gen_line(g, "__syncthreads();");
  th_gen_close(g);
  th_gen_close(g);
  th_gen_forget(g, 0);
  th_cuda_finish(x, th_cuda_blocks(x, type->dims[dim], SLICES), th_dim_const(g->c, 1), TH_CUDA_THREADS, false, out);
}

/* First x, by one kernel; then a thread for each line of the indices, in order. */
static void scatter_elements(th_cuda_gen *x, const th_op *op, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_type *type = th_type_of(g->t, op->result), *indices = th_type_of(g->t, op->operands[1]);
  uint32_t dim = (uint32_t)th_attr_int(op, g->c, "dim"), k = th_gen_output_of(g, op->result);
  th_dim dims[TH_MAX_RANK];
  const char *kept[TH_MAX_RANK], *index[TH_MAX_RANK], *where[TH_MAX_RANK], *n = th_gen_dim(g, type->dims[dim]);
  if (k == TH_NONE) {
    th_gen_fail(g, TH_ERROR(INTERNAL, "cuda: nobody reads a scatter"));
    return;
  }
  th_dim blocks = open_threads(x, type->dims, type->rank, index);
  th_gen_put(&x->g, op->result, index, th_gen_element(g, op->operands[0], index));
  close_threads(x, blocks, out);
  th_kernel_source *next = TH_ARENA_NEW(g->a, th_kernel_source);
  th_cuda_begin(x);
  n = th_gen_dim(g, type->dims[dim]);
  without(indices, dim, dims);
  blocks = open_threads(x, dims, indices->rank - 1, kept);
  with(indices->rank, dim, kept, th_gen_for(g, "k", indices->dims[dim]), where);
  const char *to = th_gen_element(g, op->operands[1], where);
  th_gen_line(g, "if ((uint64_t)%s >= (uint64_t)%s) { th_bad |= 1; continue; }", to, n);
  with(indices->rank, dim, kept, to, index);
  const char *value = th_gen_element(g, op->operands[2], where);
  th_gen_line(g, "const int64_t offset = %s;", th_gen_offset(g, type, g->t->values[g->op->result + k].strides, index));
  if (op->kind == TH_OP_scatter_add_along)
    value = th_arena_printf(g->a, type->dtype == TH_DTYPE_bool ? "(%s | %s)" : "(%s + %s)", th_gen_load_text(g, type->dtype, th_arena_printf(g->a, "o%u", k), "offset"), value);
  th_gen_line(g, "o%u[offset] = %s;", k, th_gen_store_text(g, type->dtype, value));
  th_gen_close(g);
  close_threads(x, blocks, next);
  out->next = next;
}

th_status th_cuda_special(th_cuda_gen *x, const th_op *op, th_kernel_source *out) {
  th_cuda_begin(x);
  switch (op->kind) {
    case TH_OP_argmax: case TH_OP_argmin: case TH_OP_cumsum: along(x, op, out); break;
    case TH_OP_window_max: window_max(x, op, out); break;
    case TH_OP_scatter_add: scatter_slices(x, op, out); break;
    default: scatter_elements(x, op, out); break;
  }
  return x->g.status;
}
