/* The text of a kernel: what threads and blocks do, around the elements.
 *
 *   plain     a thread has a vector of elements
 *   rows      a team of threads has a row: rows.c
 *   columns   teams side by side, each with the columns of a tile; parts of the rows are added up by a second kernel
 *   whole     each block has a part; one block of a second kernel adds up the parts
 *
 * All sums are made in an order that depends on shapes and on how many multiprocessors the target has. */
#include <string.h>

#include "executors/cuda/cuda.h"
#include "ir/batch.h"
#include "ir/passes/plan.h"

static const th_type *type_of(const th_cuda_gen *x, th_value v) { return th_type_of(x->g.t, v); }

/* ---- the frame ---- */

void th_cuda_begin(th_cuda_gen *x) {
  x->g.s = th_strbuf_make(x->g.a);
  x->g.indent = 1;
  x->g.n_memos = x->g.n_raws = 0;
  x->g.next = 0;
  x->g.n_sizes = x->g.sizes_capacity = 0;
  x->g.sizes = NULL;
  th_gen_line(&x->g, "unsigned th_bad = 0;");
}

bool th_cuda_checks(const th_cuda_gen *x) { return strstr(th_strbuf_text(&x->g.s), "th_bad |=") || strstr(th_strbuf_text(&x->g.s), "_INT("); }

static const char *text_of(th_cuda_gen *x, int threads, bool scratch) {
  th_gen *g = &x->g;
  th_strbuf s = th_strbuf_make(g->a);
  bool simt = th_cuda_is_simt(x->options);
  th_strbuf_printf(&s, "%s __global__ void __launch_bounds__(%d) %s(", simt ? "static" : "extern \"C\"", threads, simt ? TH_KERNEL_NAME "body" : TH_KERNEL_NAME);
  /* Loads need not wait for stores, also where a result lies over an operand: an element is written by the thread that read it, after that
   * (in_place), and nobody else reads it. */
  const char *apart = "__restrict__ ";
  for (uint32_t i = 0; i < g->op->n_operands; i++) th_strbuf_printf(&s, "const %s *%sp%u, ", th_dtype_c_name(type_of(x, g->op->operands[i])->dtype), apart, i);
  for (uint32_t i = 0; i < g->op->n_results; i++) th_strbuf_printf(&s, "%s *%so%u, ", th_dtype_c_name(type_of(x, g->op->result + i)->dtype), apart, i);
  if (scratch) th_strbuf_add(&s, "unsigned char *scratch, ");
  for (size_t i = 0; i < g->n_sizes; i++) th_strbuf_printf(&s, "int64_t n%zu, ", i);
  th_strbuf_add(&s, "unsigned *th_flags) {\n");
  th_strbuf_add(&s, th_strbuf_text(&g->s));
  if (th_cuda_checks(x)) th_strbuf_add(&s, "  if (th_bad) atomicOr(th_flags, th_bad);\n");
  th_strbuf_add(&s, "}\n");
  if (simt)
    th_strbuf_printf(&s, "extern \"C\" int " TH_KERNEL_NAME "(void *const *buffers, const int64_t *sizes, const double *scalars, const void *) {\n"
                         "  return th_simt_launch(\"" TH_KERNEL_NAME "\", " TH_KERNEL_NAME "body, buffers, %u, sizes, scalars);\n}\n",
                     g->op->n_operands + g->op->n_results + scratch);
  return th_strbuf_text(&s);
}

void th_cuda_finish(th_cuda_gen *x, th_dim grid_x, th_dim grid_y, int threads, bool scratch, th_kernel_source *out) {
  out->text = text_of(x, threads, scratch);
  out->n_sizes = (uint32_t)x->g.n_sizes;
  out->sizes = x->g.sizes;
  out->grid[0] = grid_x;
  out->grid[1] = grid_y;
  out->threads = (uint32_t)threads;
}

/* ---- indices ---- */

/* The index of each of `dims` (n) that linear index `linear` stands for, later ones moving faster. `order`: NULL or which dimension is the
 * i-th of that walk. */
void th_cuda_spread(th_cuda_gen *x, const char *linear, const th_dim *dims, uint32_t n, const uint32_t *order, const char **index) {
  const char *rest = linear;
  for (uint32_t i = n; i-- > 0;) {
    uint32_t d = order ? order[i] : i;
    if (th_dim_is(x->g.c, dims[d], 1)) {
      index[d] = "0";
      continue;
    }
    bool first = true;
    for (uint32_t k = 0; k < i; k++) first &= th_dim_is(x->g.c, dims[order ? order[k] : k], 1);
    const char *size = th_gen_dim(&x->g, dims[d]);
    index[d] = first ? rest : th_gen_index(&x->g, th_arena_printf(x->g.a, "%s %% %s", rest, size));
    if (!first) rest = th_gen_index(&x->g, th_arena_printf(x->g.a, "%s / %s", rest, size));
  }
}

th_dim th_cuda_blocks(th_cuda_gen *x, th_dim items, int64_t each) {
  th_context *c = x->g.c;
  return th_dim_floordiv(c, th_dim_add(c, items, th_dim_const(c, each - 1)), th_dim_const(c, each));
}

bool th_cuda_is_sum(const th_cuda_gen *x, th_value v) {
  for (uint32_t i = 0; i < x->shape->n_sums; i++)
    if (x->shape->sums[i]->result == v) return true;
  return false;
}

/* All results of `shape` but the sums: elements first, so that what is computed over an operand is written after it was read. */
void th_cuda_store_all(th_cuda_gen *x, const th_type *shape, const char *const *index) {
  const th_graph *body = x->g.body;
  const char *names[64] = {0};
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (!th_cuda_is_sum(x, body->outputs[k]) && th_type_same_shape(type_of(x, body->outputs[k]), shape)) names[k] = th_gen_element(&x->g, body->outputs[k], index);
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (names[k]) th_cuda_store(x, k, index, names[k]);
}

const char *th_cuda_serial_reduction(th_gen *g, const th_op *op, const char *const *index) {
  const th_type *type = th_type_of(g->t, op->operands[0]);
  const char *inner[TH_MAX_RANK], *acc = th_gen_name(g, "a"), *flat = g->flat;
  uint32_t open = 0;
  g->flat = NULL;
  size_t mark = th_gen_mark(g);
  th_gen_line(g, "%s %s = %s;", th_gen_ctype(type->dtype), acc, th_gen_reduce_start(op->kind, type->dtype));
  for (uint32_t i = 0, kept = 0; i < type->rank; i++) {
    if (!th_gen_reduces(g->c, op, i)) inner[i] = index[kept++];
    else inner[i] = th_gen_for(g, "k", type->dims[i]), open++;
  }
  th_gen_line(g, "%s", th_gen_reduce_step(g, op->kind, type->dtype, acc, th_gen_element(g, op->operands[0], inner)));
  while (open--) th_gen_close(g);
  th_gen_forget(g, mark);
  g->flat = flat;
  return acc;
}

/* ---- plain ---- */

static bool walks_flat(th_cuda_gen *x, const th_type *shape) {
  th_gen *g = &x->g;
  for (uint32_t i = 0; i < g->body->n_inputs + g->body->n_outputs; i++) {
    th_value v = i < g->body->n_inputs ? g->op->operands[i] : g->op->result + (i - g->body->n_inputs);
    const th_type *type = type_of(x, v);
    if (!type->rank && i < g->body->n_inputs) continue;
    if (!th_type_same_shape(type, shape) || !th_strides_contiguous(g->c, type, g->t->values[v].strides)) return false;
    for (; g->t->values[v].place == TH_PLACE_ALIAS; v = g->t->values[v].place_index)
      if (!th_dim_divisible(g->c, g->t->values[v].place_offset, 16)) return false;
  }
  for (size_t i = 0; i < g->body->n_ops; i++) {
    const th_op *op = g->body->ops[i];
    bool ok = th_op_spec_get(op->kind)->traits & TH_POINTWISE || op->kind == TH_OP_const || op->kind == TH_OP_uniform;
    if (op->kind == TH_OP_broadcast || op->kind == TH_OP_reshape) ok = type_of(x, op->operands[0])->rank == 0;
    if (!ok || (type_of(x, op->result)->rank && !th_type_same_shape(type_of(x, op->result), shape))) return false;
  }
  return true;
}

/* Dimensions by falling stride of the first result of that shape, the vector's last. */
static void walk_order(th_cuda_gen *x, const th_type *shape, uint32_t vector_dim, uint32_t *order) {
  const th_op *op = x->g.op;
  const th_dim *strides = NULL;
  for (uint32_t k = 0; k < op->n_results && !strides; k++)
    if (th_type_same_shape(type_of(x, op->result + k), shape)) strides = x->g.t->values[op->result + k].strides;
  for (uint32_t i = 0; i < shape->rank; i++) order[i] = i;
  for (uint32_t i = 1; i < shape->rank; i++)
    for (uint32_t k = i; k > 0; k--) {
      int64_t low, high;
      th_dim_bounds(x->g.c, th_dim_sub(x->g.c, strides[order[k]], strides[order[k - 1]]), &low, &high);
      if (!(order[k - 1] == vector_dim || (low > 0 && order[k] != vector_dim))) break;
      uint32_t swap = order[k];
      order[k] = order[k - 1];
      order[k - 1] = swap;
    }
}

/* Returns the number of blocks. */
static th_dim plain_part(th_cuda_gen *x, const th_type *shape, uint32_t vector_dim, int width) {
  th_gen *g = &x->g;
  size_t mark = th_gen_mark(g);
  const char *index[TH_MAX_RANK];
  th_dim one = th_dim_const(g->c, 1), count = th_dim_floordiv(g->c, th_type_numel(g->c, shape), th_dim_const(g->c, width));
  const char *i = th_gen_name(g, "i");
  th_gen_line(g, "const %s %s = (%s)blockIdx.x * %d + threadIdx.x;", g->index_type, i, g->index_type, TH_CUDA_THREADS);
  th_gen_open(g, "if (%s < %s)", i, th_gen_dim(g, count));
  if (!shape->rank) {
    th_cuda_lanes_open(x, i, 1);
    th_cuda_store_all(x, shape, NULL);
  } else if (walks_flat(x, shape)) {
    const char *base = width > 1 ? th_gen_index(g, th_arena_printf(g->a, "%s * %d", i, width)) : i;
    g->flat = th_cuda_lanes_open(x, base, width);
    th_cuda_store_all(x, shape, index);
    g->flat = NULL;
  } else {
    uint32_t order[TH_MAX_RANK];
    th_dim *dims = TH_ARENA_ARRAY(g->a, th_dim, shape->rank);
    walk_order(x, shape, vector_dim, order);
    memcpy(dims, shape->dims, shape->rank * sizeof *dims);
    dims[vector_dim] = th_dim_floordiv(g->c, dims[vector_dim], th_dim_const(g->c, width));
    th_cuda_spread(x, i, dims, shape->rank, order, index);
    const char *base = index[vector_dim];
    if (width > 1) base = th_gen_index(g, th_arena_printf(g->a, "%s * %d", base, width));
    index[vector_dim] = th_cuda_lanes_open(x, base, width);
    th_cuda_store_all(x, shape, index);
  }
  th_cuda_lanes_close(x);
  th_gen_close(g);
  th_gen_forget(g, mark);
  th_dim blocks = th_cuda_blocks(x, count, TH_CUDA_THREADS);
  return shape->rank ? blocks : one;
}

static void plain(th_cuda_gen *x, th_kernel_source *out) {
  th_gen *g = &x->g;
  th_dim blocks = th_dim_const(g->c, 0);
  th_cuda_begin(x);
  for (uint32_t k = 0; k < g->body->n_outputs; k++) {
    const th_type *shape = type_of(x, g->body->outputs[k]);
    bool seen = false;
    for (uint32_t m = 0; m < k; m++) seen |= th_type_same_shape(type_of(x, g->body->outputs[m]), shape);
    if (seen) continue;
    bool main = th_type_same_shape(shape, &x->shape->domain);
    uint32_t dim = main ? x->shape->vector_dim : shape->rank ? shape->rank - 1 : 0;
    blocks = th_dim_max(g->c, blocks, plain_part(x, shape, dim, main ? x->shape->width : 1));
  }
  th_cuda_finish(x, blocks, th_dim_const(g->c, 1), TH_CUDA_THREADS, false, out);
}

/* ---- parts ---- */

/* The second kernel: sums over parts, [sum][part][column], a thread for each column of a group of 32, eight groups of parts. */
void th_cuda_add_parts(th_cuda_gen *x, int64_t parts, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  th_kernel_source *next = TH_ARENA_NEW(g->a, th_kernel_source);
  th_cuda_begin(x);
  const char *columns = th_gen_dim(g, s->n_columns);
  th_gen_line(g, "const %s c = (%s)blockIdx.x * 32 + threadIdx.x %% 32;", g->index_type, g->index_type);
  th_gen_line(g, "const int part = threadIdx.x / 32;");
  for (uint32_t i = 0; i < s->n_sums; i++) {
    const th_op *op = s->sums[i];
    th_dtype dtype = type_of(x, op->operands[0])->dtype;
    const char *T = th_gen_ctype(dtype), *acc = th_gen_name(g, "a"), *shared = th_gen_name(g, "h"), *index[TH_MAX_RANK];
    const th_type *result = type_of(x, op->result);
    uint32_t k = th_gen_output_of(g, op->result);
    th_gen_line(g, "__shared__ %s %s[256];", T, shared);
    th_gen_line(g, "%s %s = %s;", T, acc, th_gen_reduce_start(op->kind, dtype));
    th_gen_line(g, "if (c < %s)", columns);
    th_gen_line(g, "  for (int k = part; k < %lld; k += 8) { const %s w = ((const %s *)(scratch + (int64_t)%u * 8 * %lld * %s))[(int64_t)k * %s + c]; %s }", (long long)parts, T, T, i,
                (long long)parts, columns, columns, th_gen_reduce_step(g, op->kind, dtype, acc, "w"));
    th_gen_line(g, "%s[threadIdx.x] = %s;", shared, acc);
    th_gen_line(g, "__syncthreads();");
    if (k == TH_NONE) continue;
    th_gen_open(g, "if (part == 0 && c < %s)", columns);
    th_gen_line(g, "for (int k = 1; k < 8; k++) { const %s w = %s[k * 32 + threadIdx.x]; %s }", T, shared, th_gen_reduce_step(g, op->kind, dtype, acc, "w"));
    th_cuda_spread(x, "c", result->dims, result->rank, NULL, index);
    th_gen_store(g, k, index, acc);
    th_gen_close(g);
  }
  th_cuda_finish(x, th_cuda_blocks(x, s->n_columns, 32), th_dim_const(g->c, 1), 256, true, next);
  out->next = next;
}

/* ---- columns ---- */

static void columns(th_cuda_gen *x, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  const th_op *first = s->sums[0];
  uint32_t last = s->domain.rank - 1, n_lead = 0, n_reduced = 0, n_kept = 0, reduced_of[TH_MAX_RANK];
  th_dim lead[TH_MAX_RANK], reduced[TH_MAX_RANK];
  const char *index[TH_MAX_RANK], *inner[TH_MAX_RANK], *outer[TH_MAX_RANK], *acc[TH_CUDA_MAX_COLUMNS];
  int64_t side = s->team, deep = s->rows_per_block;
  th_cuda_begin(x);
  for (uint32_t i = 0; i < last; i++) {
    if (th_gen_reduces(g->c, first, i)) reduced_of[n_reduced] = i, reduced[n_reduced++] = s->domain.dims[i];
    else lead[n_lead++] = s->domain.dims[i];
  }
  th_dim vectors = th_dim_floordiv(g->c, s->domain.dims[last], th_dim_const(g->c, s->width));
  const char *j = th_gen_name(g, "j"), *b = th_gen_name(g, "i"), *r = th_gen_name(g, "r"), *all = th_gen_dim(g, s->n_reduced), *n_vectors = th_gen_dim(g, vectors);
  th_gen_line(g, "const %s %s = (%s)blockIdx.x * %lld + threadIdx.x %% %lld;", g->index_type, j, g->index_type, (long long)side, (long long)side);
  th_gen_line(g, "const int deep = threadIdx.x / %lld;", (long long)side);
  th_gen_line(g, "const %s %s = blockIdx.y / %lld, chunk = blockIdx.y %% %lld;", g->index_type, b, (long long)s->chunks, (long long)s->chunks);
  th_cuda_spread(x, b, lead, n_lead, NULL, outer);
  const char *base = s->width > 1 ? th_gen_index(g, th_arena_printf(g->a, "%s * %d", j, s->width)) : j;
  for (uint32_t i = 0; i < s->n_sums; i++) {
    th_dtype dtype = type_of(x, s->sums[i]->operands[0])->dtype;
    acc[i] = th_gen_name(g, "a");
    th_gen_line(g, "%s %s[%d];", th_gen_ctype(dtype), acc[i], s->width);
    th_gen_line(g, "for (int lane = 0; lane < %d; lane++) %s[lane] = %s;", s->width, acc[i], th_gen_reduce_start(s->sums[i]->kind, dtype));
  }
  size_t mark = th_gen_mark(g);
  th_gen_line(g, "const int64_t from = (int64_t)%s * chunk / %lld, to = (int64_t)%s * (chunk + 1) / %lld;", all, (long long)s->chunks, all, (long long)s->chunks);
  th_gen_open(g, "if (%s < %s)", j, n_vectors);
  th_gen_line(g, "#pragma unroll 4");
  th_gen_open(g, "for (%s %s = from + deep; %s < to; %s += %lld)", g->index_type, r, r, r, (long long)deep);
  th_cuda_spread(x, r, reduced, n_reduced, NULL, inner);
  for (uint32_t i = 0; i < last; i++)
    if (!th_gen_reduces(g->c, first, i)) index[i] = outer[n_kept++];
  for (uint32_t i = 0; i < n_reduced; i++) index[reduced_of[i]] = inner[i];
  index[last] = th_cuda_lanes_open(x, base, s->width);
  for (uint32_t i = 0; i < s->n_sums; i++) {
    th_dtype dtype = type_of(x, s->sums[i]->operands[0])->dtype;
    th_gen_line(g, "%s", th_gen_reduce_step(g, s->sums[i]->kind, dtype, th_arena_printf(g->a, "%s[lane]", acc[i]), th_gen_element(g, s->sums[i]->operands[0], index)));
  }
  if (s->stores) th_cuda_store_all(x, &s->domain, index);
  th_cuda_lanes_close(x);
  th_gen_close(g);
  th_gen_close(g);
  th_gen_forget(g, mark);
  for (uint32_t i = 0; i < s->n_sums; i++) { /* over the teams of a block, then out */
    const th_op *op = s->sums[i];
    th_dtype dtype = type_of(x, op->operands[0])->dtype;
    const char *T = th_gen_ctype(dtype), *shared = th_gen_name(g, "h");
    uint32_t k = th_gen_output_of(g, op->result);
    th_gen_line(g, "__shared__ %s %s[%lld][%lld];", T, shared, (long long)deep, (long long)(side * s->width));
    th_gen_line(g, "for (int lane = 0; lane < %d; lane++) %s[deep][threadIdx.x %% %lld * %d + lane] = %s[lane];", s->width, shared, (long long)side, s->width, acc[i]);
    th_gen_line(g, "__syncthreads();");
    th_gen_open(g, "if (deep == 0 && %s < %s)", j, n_vectors);
    th_gen_open(g, "for (int lane = 0; lane < %d; lane++)", s->width);
    th_gen_line(g, "%s sum = %s[lane];", T, acc[i]);
    th_gen_line(g, "for (int k = 1; k < %lld; k++) { const %s w = %s[k][threadIdx.x * %d + lane]; %s }", (long long)deep, T, shared, s->width, th_gen_reduce_step(g, op->kind, dtype, "sum", "w"));
    if (s->chunks > 1) {
      const char *n = th_gen_dim(g, s->n_columns);
      th_gen_line(g, "((%s *)(scratch + (int64_t)%u * 8 * %lld * %s))[(int64_t)chunk * %s + (int64_t)%s * %s + %s + lane] = sum;", T, i, (long long)s->chunks, n, n, b, th_gen_dim(g, s->domain.dims[last]), base);
    } else if (k != TH_NONE) {
      const char *at[TH_MAX_RANK];
      for (uint32_t d = 0; d < n_lead; d++) at[d] = outer[d];
      at[n_lead] = th_arena_printf(g->a, "(%s + lane)", base);
      th_gen_store(g, k, at, "sum");
    }
    th_gen_close(g);
    th_gen_close(g);
  }
  th_dim grid_y = th_dim_mul(g->c, th_dim_product(g->c, lead, n_lead), th_dim_const(g->c, s->chunks));
  th_cuda_finish(x, th_cuda_blocks(x, vectors, side), grid_y, (int)(side * deep), s->chunks > 1, out);
  if (s->chunks > 1) th_cuda_add_parts(x, s->chunks, out);
}

/* ---- whole ---- */

static void whole(th_cuda_gen *x, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  const char *index[TH_MAX_RANK], *acc[TH_CUDA_MAX_COLUMNS];
  uint32_t rank = s->domain.rank, last = rank - 1;
  th_cuda_begin(x);
  for (uint32_t i = 0; i < s->n_sums; i++) {
    th_dtype dtype = type_of(x, s->sums[i]->operands[0])->dtype;
    acc[i] = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = %s;", th_gen_ctype(dtype), acc[i], th_gen_reduce_start(s->sums[i]->kind, dtype));
  }
  size_t mark = th_gen_mark(g);
  th_dim count = th_dim_floordiv(g->c, s->n_reduced, th_dim_const(g->c, s->width));
  const char *i = th_gen_name(g, "i");
  th_gen_open(g, "for (%s %s = (%s)blockIdx.x * %d + threadIdx.x; %s < %s; %s += (%s)gridDim.x * %d)", g->index_type, i, g->index_type, TH_CUDA_THREADS, i, th_gen_dim(g, count), i,
              g->index_type, TH_CUDA_THREADS);
  th_dim *dims = TH_ARENA_ARRAY(g->a, th_dim, rank);
  memcpy(dims, s->domain.dims, rank * sizeof *dims);
  dims[last] = th_dim_floordiv(g->c, dims[last], th_dim_const(g->c, s->width));
  th_cuda_spread(x, i, dims, rank, NULL, index);
  const char *base = s->width > 1 ? th_gen_index(g, th_arena_printf(g->a, "%s * %d", index[last], s->width)) : index[last];
  index[last] = th_cuda_lanes_open(x, base, s->width);
  for (uint32_t k = 0; k < s->n_sums; k++) {
    th_dtype dtype = type_of(x, s->sums[k]->operands[0])->dtype;
    th_gen_line(g, "%s", th_gen_reduce_step(g, s->sums[k]->kind, dtype, acc[k], th_gen_element(g, s->sums[k]->operands[0], index)));
  }
  if (s->stores) th_cuda_store_all(x, &s->domain, index);
  th_cuda_lanes_close(x);
  th_gen_close(g);
  th_gen_forget(g, mark);
  for (uint32_t k = 0; k < s->n_sums; k++) {
    th_dtype dtype = type_of(x, s->sums[k]->operands[0])->dtype;
    th_cuda_across_team(x, s->sums[k], acc[k]);
    th_gen_line(g, "if (threadIdx.x == 0) ((%s *)(scratch + %u * 8 * %lld))[blockIdx.x] = %s;", th_gen_ctype(dtype), k, (long long)s->blocks, acc[k]);
  }
  th_cuda_finish(x, th_dim_const(g->c, s->blocks), th_dim_const(g->c, 1), TH_CUDA_THREADS, true, out);
  th_kernel_source *next = TH_ARENA_NEW(g->a, th_kernel_source);
  th_cuda_begin(x);
  for (uint32_t k = 0; k < s->n_sums; k++) {
    th_dtype dtype = type_of(x, s->sums[k]->operands[0])->dtype;
    const char *T = th_gen_ctype(dtype), *a = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = %s;", T, a, th_gen_reduce_start(s->sums[k]->kind, dtype));
    th_gen_line(g, "for (int k = threadIdx.x; k < %lld; k += %d) { const %s w = ((const %s *)(scratch + %u * 8 * %lld))[k]; %s }", (long long)s->blocks, TH_CUDA_THREADS, T, T, k,
                (long long)s->blocks, th_gen_reduce_step(g, s->sums[k]->kind, dtype, a, "w"));
    th_cuda_across_team(x, s->sums[k], a);
    th_gen_remember(g, s->sums[k]->result, "", a);
  }
  th_gen_open(g, "if (threadIdx.x == 0)");
  for (uint32_t k = 0; k < g->body->n_outputs; k++)
    if (!type_of(x, g->body->outputs[k])->rank) th_gen_store(g, k, NULL, th_gen_element(g, g->body->outputs[k], NULL));
  th_gen_close(g);
  th_cuda_finish(x, th_dim_const(g->c, 1), th_dim_const(g->c, 1), TH_CUDA_THREADS, true, next);
  out->next = next;
}

/* ---- */

/* Indices fit 32 bits when no tensor of the region is larger. */
static bool is_small(const th_trace *t, const th_op *op, const th_cuda_shape *s) {
  int64_t low, high;
  for (uint32_t k = 0; k < op->n_operands + op->n_results; k++) {
    th_value v = k < op->n_operands ? op->operands[k] : op->result + (k - op->n_operands);
    th_dim_bounds(t->context, th_extent_bytes(t->context, &t->values[v].type, t->values[v].strides), &low, &high);
    if (high >= INT64_C(1) << 32 || high / (int64_t)th_dtype_size(t->values[v].type.dtype) >= (INT64_C(1) << 31) - 65536) return false;
  }
  if (s->domain.dims) th_dim_bounds(t->context, th_type_numel(t->context, &s->domain), &low, &high);
  else high = 0;
  return high < (INT64_C(1) << 31) - 65536;
}

/* The exponential of an f32: one instruction where a value of 16 bits goes in or comes out, whose rounding is larger than its error; else to the last bits. */
static const char *exponential(const th_trace *t, const th_op *op) {
  bool narrow = false;
  for (uint32_t k = 0; k < op->n_operands; k++) narrow |= th_dtype_is_float(th_type_of(t, op->operands[k])->dtype) && th_dtype_size(th_type_of(t, op->operands[k])->dtype) == 2;
  for (uint32_t k = 0; k < op->n_results; k++) narrow |= th_dtype_is_float(th_type_of(t, op->result + k)->dtype) && th_dtype_size(th_type_of(t, op->result + k)->dtype) == 2;
  return narrow ? "th_expf" : "expf";
}

th_status th_cuda_emit(const th_options *options, const th_trace *t, const th_op *op, th_kernel_source *out) {
  th_arena *a = th_context_arena(t->context);
  th_cuda_shape shape;
  th_cuda_gen x = {.g = {.t = t, .op = op, .body = t->graphs[th_attr_get(op, "body")->graph], .c = t->context, .a = a, .sizes_by_name = true, .load = th_cuda_load,
                         .reduce = th_cuda_row_reduction, .before = th_cuda_before, .exp = exponential(t, op), .narrow_indices = true},
                   .options = options, .shape = &shape};
  x.g.user = &x;
  if (th_op_batch(t, op) > 1) return th_cuda_batch(&x, out);
  TH_TRY(th_cuda_shape_of(options, t, op, &shape));
  x.g.index_type = is_small(t, op, &shape) ? "int" : "int64_t";
  *out = (th_kernel_source){0};
  if (x.g.body->n_outputs > 64) return TH_ERROR(UNIMPLEMENTED, "cuda: a kernel has %u results, want at most 64", x.g.body->n_outputs);
  switch (shape.kind) {
    case TH_CUDA_PLAIN: plain(&x, out); break;
    case TH_CUDA_ROWS: th_cuda_rows(&x, out); break;
    case TH_CUDA_COLUMNS: columns(&x, out); break;
    case TH_CUDA_WHOLE: whole(&x, out); break;
    case TH_CUDA_SPECIAL: return th_cuda_special(&x, shape.special, out);
  }
  return x.g.status;
}
