/* The kernel of a batch (ir/batch.h): many small regions in one launch.
 *
 *   blocks     | component 0      | component 1 | component 2            | ...
 *   sizes      elements of each component; the first block of each, and the number of all
 *   pointers   operands of component 0, of component 1, ...; results likewise; scratch
 *
 * All of them are kernel parameters, a table that a block reads at its component's place: it finds that by binary search over the first
 * blocks. The elements are written once, from component 0's part of the body; all tensors of a component's shape are walked as one
 * dimension, so no size stands in the text. A thread has TURNS vectors, a block's worth of threads apart. Sums: a partial result of each
 * block lies in scratch; a block of the second kernel adds up those of one component, and makes what is computed from its sums. Components
 * of numbers alone (bias corrections from counters on the device) have the second kernel only, a block each.
 *
 * In simt mode the parameters are two pointers, to buffers and sizes. */
#include <string.h>

#include "executors/cuda/cuda.h"
#include "ir/batch.h"
#include "ir/passes/plan.h"

enum { MOST_WIDTH = 8, TURNS = 4, MOST_TENSORS = 64, PARAMETER_BYTES = 32764 /* of a kernel, from sm_70 on */ };

/* ---- which regions ---- */

static bool is_full(const th_trace *t, th_value v) { return th_type_of(t, v)->rank > 0; }

/* Is the operand row-major and aligned where it comes from? What its maker is asked for is known to the pass `layout` only, which copies
 * what is not as it must be. */
static bool lies_flat(const th_trace *t, th_value v) {
  for (; t->values[v].def && th_op_is_alias(t->values[v].def);) {
    const th_op *op = t->values[v].def;
    if (op->kind == TH_OP_transpose || op->kind == TH_OP_slice || op->kind == TH_OP_broadcast) return false;
    v = op->operands[op->kind == TH_OP_reshape ? 0 : v - op->result];
  }
  if (t->values[v].def || t->values[v].graph) return true;
  const th_input *input = &t->inputs[t->values[v].index];
  return !input->strides || th_strides_contiguous(t->context, th_type_of(t, v), input->strides);
}

/* Sizes are known, and one shape is all there is beside rank 0. */
static bool has_one_shape(const th_trace *t, const th_graph *body, const th_type **out) { /* NULL: numbers alone */
  int64_t size;
  size_t n = body->n_inputs;
  for (size_t i = 0; i < n + body->n_ops; i++) {
    if (i >= n && body->ops[i - n]->n_results != 1) return false;
    const th_type *type = th_type_of(t, i < n ? body->inputs[i] : body->ops[i - n]->result);
    if (!type->rank) continue;
    if (*out && !th_type_same_shape(*out, type)) return false;
    *out = type;
  }
  for (uint32_t i = 0; *out && i < (*out)->rank; i++)
    if (!th_dim_is_const(t->context, (*out)->dims[i], &size) || size <= 0) return false;
  return true;
}

/* late[op]: it is a number that is known when all elements are: a sum, or computed from one. */
static bool fill_late(const th_trace *t, const th_graph *body, bool *late, bool *out_sums) {
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *op = body->ops[i];
    bool full = th_type_of(t, op->result)->rank > 0;
    for (uint32_t k = 0; k < op->n_operands; k++)
      for (size_t m = 0; m < i; m++) late[i] |= body->ops[m]->result == op->operands[k] && late[m];
    if (th_op_is_reduction(op)) {
      if (full || !th_type_of(t, op->operands[0])->rank || late[i]) return false;
      late[i] = *out_sums = true;
    } else if (op->kind == TH_OP_broadcast || op->kind == TH_OP_reshape) {
      if (th_type_of(t, op->operands[0])->rank) return false;
    } else if (op->kind == TH_OP_const) {
      if (th_attr_get(op, "value")->kind == TH_ATTR_INT && !th_dim_is_const(t->context, th_attr_get(op, "value")->i, NULL)) return false;
    } else if (!(th_op_spec_get(op->kind)->traits & TH_POINTWISE)) {
      return false;
    }
    if (full && late[i]) return false; /* wants the sum before its elements */
  }
  return true;
}

bool th_cuda_batches(const th_options *options, const th_trace *t, const th_op *op) {
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  const th_type *shape = NULL;
  bool sums = false;
  (void)options;
  if (!op->n_results || op->n_operands + op->n_results > MOST_TENSORS || body->n_ops > 256 || !has_one_shape(t, body, &shape)) return false;
  bool *late = TH_ARENA_ARRAY(th_context_arena(t->context), bool, body->n_ops);
  if (!fill_late(t, body, late, &sums)) return false;
  uint32_t n_sums = 0, n_full = 0;
  for (size_t i = 0; i < body->n_ops; i++) n_sums += th_op_is_reduction(body->ops[i]);
  for (uint32_t k = 0; k < op->n_operands + op->n_results; k++) n_full += is_full(t, k < op->n_operands ? op->operands[k] : op->result + (k - op->n_operands));
  if (n_sums > TH_CUDA_MAX_COLUMNS || !n_full != !shape) return false;
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (!t->values[body->outputs[k]].def || (!th_type_of(t, body->outputs[k])->rank && shape && !sums)) return false;
  for (uint32_t k = 0; k < op->n_operands; k++)
    if (th_type_of(t, op->operands[k])->rank && !lies_flat(t, op->operands[k])) return false;
  return true;
}

/* ---- what a batch is ---- */

typedef struct batch {
  const th_op *op;
  uint32_t n, n_in, n_out; /* components; operands and results of each */
  th_component first;
  const th_op *sums[TH_CUDA_MAX_COLUMNS];
  uint32_t n_sums;
  int width;               /* elements of a vector */
  th_dim *sizes;           /* elements (n), first blocks (n), blocks (1) */
  int64_t blocks, most;    /* of all; elements of the largest component */
} batch;

static th_value tensor(const batch *b, const th_component *part, uint32_t k) { return k < b->n_in ? part->op.operands[k] : part->op.result + (k - b->n_in); }

static batch batch_of(const th_trace *t, const th_op *op) {
  th_context *c = t->context;
  batch b = {.op = op, .n = th_op_batch(t, op), .first = th_batch_component(t, op, 0)};
  size_t size = 16;
  b.n_in = b.first.op.n_operands;
  b.n_out = b.first.op.n_results;
  for (size_t i = 0; i < b.first.body.n_ops; i++)
    if (th_op_is_reduction(b.first.body.ops[i]) && b.n_sums < TH_CUDA_MAX_COLUMNS) b.sums[b.n_sums++] = b.first.body.ops[i];
  for (uint32_t k = 0; k < b.n_in + b.n_out; k++) {
    const th_type *type = th_type_of(t, tensor(&b, &b.first, k));
    if (type->rank && th_dtype_size(type->dtype) < size) size = th_dtype_size(type->dtype);
  }
  b.width = 16 / size > MOST_WIDTH ? MOST_WIDTH : (int)(16 / size);
  b.sizes = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 2 * b.n + 1);
  for (uint32_t i = 0; i < b.n; i++) {
    th_component part = th_batch_component(t, op, i);
    int64_t count = 0, each = (int64_t)TURNS * TH_CUDA_THREADS * b.width;
    for (uint32_t k = 0; k < b.n_in + b.n_out; k++)
      if (is_full(t, tensor(&b, &part, k))) th_dim_is_const(c, th_type_numel(c, th_type_of(t, tensor(&b, &part, k))), &count);
    b.sizes[i] = th_dim_const(c, count);
    b.sizes[b.n + i] = th_dim_const(c, b.blocks);
    b.blocks += (count + each - 1) / each;
    if (count > b.most) b.most = count;
  }
  b.sizes[2 * b.n] = th_dim_const(c, b.blocks);
  return b;
}

th_dim th_cuda_batch_scratch(const th_trace *t, const th_op *op) {
  batch b = batch_of(t, op);
  return th_dim_const(t->context, b.blocks * b.n_sums * 8);
}

/* All tensors of a component's shape lie alike, without gaps, where vectors may begin. */
static th_status check_layout(const th_trace *t, const batch *b) {
  th_context *c = t->context;
  for (uint32_t i = 0; i < b->n; i++) {
    th_component part = th_batch_component(t, b->op, i);
    const th_dim *like = NULL;
    for (uint32_t k = 0; k < b->n_in + b->n_out; k++) {
      th_value v = tensor(b, &part, k);
      const th_value_info *info = &t->values[v];
      if (!info->type.rank) continue;
      if (!like) like = info->strides;
      bool ok = th_strides_dense(c, &info->type, info->strides) && th_strides_equal(c, info->type.dims, info->type.rank, info->strides, like);
      for (; t->values[v].place == TH_PLACE_ALIAS; v = t->values[v].place_index) ok &= th_dim_divisible(c, t->values[v].place_offset, 16);
      if (!ok) return TH_ERROR(INTERNAL, "cuda: tensor %u of component %u of a batch does not lie as the others do", k, i);
    }
  }
  return TH_OK;
}

/* ---- text ---- */

static const char *pointers(const th_cuda_gen *x) { return th_cuda_is_simt(x->options) ? "th_p" : "t.p"; }
static const char *sizes(const th_cuda_gen *x) { return th_cuda_is_simt(x->options) ? "th_n" : "t.n"; }

static void finish(th_cuda_gen *x, const batch *b, int64_t grid, th_kernel_source *out) {
  th_gen *g = &x->g;
  th_strbuf s = th_strbuf_make(g->a);
  bool simt = th_cuda_is_simt(x->options);
  uint32_t n_pointers = b->op->n_operands + b->op->n_results + (b->n_sums > 0), n_sizes = 2 * b->n + 1;
  if (g->n_sizes || (n_pointers + n_sizes + 1) * 8 > PARAMETER_BYTES) {
    th_gen_fail(g, TH_ERROR(INTERNAL, "cuda: a batch of %u with %u tensors%s", b->n, n_pointers, g->n_sizes ? " has a size in its text" : ""));
    return;
  }
  if (simt) th_strbuf_printf(&s, "static __global__ void __launch_bounds__(%d) " TH_KERNEL_NAME "body(void *const *th_p, const int64_t *th_n, unsigned *th_flags) {\n", TH_CUDA_THREADS);
  else th_strbuf_printf(&s, "extern \"C\" __global__ void __launch_bounds__(%d) " TH_KERNEL_NAME "(const __grid_constant__ th_table<%u, %u> t) {\n", TH_CUDA_THREADS, n_pointers, n_sizes);
  th_strbuf_add(&s, th_strbuf_text(&g->s));
  if (th_cuda_checks(x)) th_strbuf_printf(&s, "  if (th_bad) atomicOr(%s, th_bad);\n", simt ? "th_flags" : "t.flags");
  th_strbuf_add(&s, "}\n");
  if (simt)
    th_strbuf_add(&s, "extern \"C\" int " TH_KERNEL_NAME "(void *const *buffers, const int64_t *sizes, const double *scalars, const void *) {\n"
                      "  void *const table[] = {(void *)buffers, (void *)(sizes + 4)};\n"
                      "  return th_simt_launch(\"" TH_KERNEL_NAME "\", " TH_KERNEL_NAME "body, table, 2, sizes, scalars);\n}\n");
  *out = (th_kernel_source){.text = th_strbuf_text(&s), .n_sizes = n_sizes, .sizes = b->sizes, .grid = {th_dim_const(g->c, grid), th_dim_const(g->c, 1)}, .threads = TH_CUDA_THREADS};
}

/* __restrict__: as in kernel.c. */
static void declare_pointers(th_cuda_gen *x, const batch *b) {
  th_gen *g = &x->g;
  for (uint32_t k = 0; k < b->n_in + b->n_out; k++) {
    bool in = k < b->n_in;
    const char *T = th_dtype_c_name(th_type_of(g->t, tensor(b, &b->first, k))->dtype), *constant = in ? "const " : "";
    th_gen_line(g, "%s%s *const __restrict__ %c%u = (%s%s *)%s[%u + component * %u];", constant, T, in ? 'p' : 'o', in ? k : k - b->n_in, constant, T, pointers(x),
                in ? k : b->op->n_operands + (k - b->n_in), in ? b->n_in : b->n_out);
  }
  if (b->n_sums) th_gen_line(g, "unsigned char *const scratch = (unsigned char *)%s[%u];", pointers(x), b->op->n_operands + b->op->n_results);
}

/* The parts of sum `k`, an element for each block. */
static const char *parts_of(th_cuda_gen *x, const batch *b, uint32_t k) {
  th_dtype dtype = th_type_of(x->g.t, b->sums[k]->operands[0])->dtype;
  return th_arena_printf(x->g.a, "((%s *)(scratch + %u * 8 * %s[%u]))", th_gen_ctype(dtype), k, sizes(x), 2 * b->n);
}

/* Numbers that do not wait for a sum are read and computed once. */
static void compute_numbers(th_cuda_gen *x, const batch *b) {
  th_gen *g = &x->g;
  const th_graph *body = &b->first.body;
  bool *late = TH_ARENA_ARRAY(g->a, bool, body->n_ops), sums = false;
  fill_late(g->t, body, late, &sums);
  for (uint32_t i = 0; i < body->n_inputs; i++)
    if (!is_full(g->t, body->inputs[i])) th_gen_element(g, body->inputs[i], NULL);
  for (size_t i = 0; i < body->n_ops; i++)
    if (!late[i] && body->ops[i]->kind != TH_OP_const && !is_full(g->t, body->ops[i]->result)) th_gen_element(g, body->ops[i]->result, NULL);
}

static void elements(th_cuda_gen *x, const batch *b, const char *base, int width, const char *const *acc) {
  th_gen *g = &x->g;
  const char *index[TH_MAX_RANK] = {0};
  size_t mark = th_gen_mark(g);
  g->flat = th_cuda_lanes_open(x, base, width);
  for (uint32_t k = 0; k < b->n_sums; k++) {
    th_dtype dtype = th_type_of(g->t, b->sums[k]->operands[0])->dtype;
    th_gen_line(g, "%s", th_gen_reduce_step(g, b->sums[k]->kind, dtype, acc[k], th_gen_element(g, b->sums[k]->operands[0], index)));
  }
  th_cuda_store_all(x, &x->shape->domain, index);
  g->flat = NULL;
  th_cuda_lanes_close(x);
  th_gen_forget(g, mark);
}

static void first_kernel(th_cuda_gen *x, const batch *b, th_kernel_source *out) {
  th_gen *g = &x->g;
  const char *acc[TH_CUDA_MAX_COLUMNS], *I = g->index_type, *n = sizes(x);
  th_cuda_begin(x);
  th_gen_line(g, "int component = 0, behind = %u;", b->n);
  th_gen_open(g, "while (behind - component > 1)");
  th_gen_line(g, "const int middle = (component + behind) / 2;");
  th_gen_line(g, "if ((int64_t)blockIdx.x < %s[%u + middle]) behind = middle; else component = middle;", n, b->n);
  th_gen_close(g);
  declare_pointers(x, b);
  th_gen_line(g, "const %s count = (%s)%s[component];", I, I, n);
  th_gen_line(g, "const %s begin = (%s)(blockIdx.x - %s[%u + component]) * %d;", I, I, n, b->n, TURNS * TH_CUDA_THREADS * b->width);
  compute_numbers(x, b);
  for (uint32_t k = 0; k < b->n_sums; k++) {
    th_dtype dtype = th_type_of(g->t, b->sums[k]->operands[0])->dtype;
    acc[k] = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = %s;", th_gen_ctype(dtype), acc[k], th_gen_reduce_start(b->sums[k]->kind, dtype));
  }
  if (!x->shape->stores) th_gen_line(g, "#pragma unroll");
  th_gen_open(g, "for (int turn = 0; turn < %d; turn++)", TURNS);
  const char *base = th_gen_index(g, th_arena_printf(g->a, "begin + (turn * %d + (%s)threadIdx.x) * %d", TH_CUDA_THREADS, I, b->width));
  th_gen_open(g, "if (%s + %d <= count)", base, b->width);
  elements(x, b, base, b->width, acc);
  th_gen_close(g);
  if (b->width > 1) {
    const char *rest = th_gen_name(g, "r");
    th_gen_open(g, "else for (%s %s = %s; %s < count; %s++)", I, rest, base, rest, rest);
    elements(x, b, rest, 1, acc);
    th_gen_close(g);
  }
  th_gen_close(g);
  for (uint32_t k = 0; k < b->n_sums; k++) {
    th_cuda_across_team(x, b->sums[k], acc[k]);
    th_gen_line(g, "if (threadIdx.x == 0) %s[blockIdx.x] = %s;", parts_of(x, b, k), acc[k]);
  }
  finish(x, b, b->blocks, out);
}

static void second_kernel(th_cuda_gen *x, const batch *b, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_graph *body = &b->first.body;
  th_cuda_begin(x);
  th_gen_line(g, "const int component = blockIdx.x;");
  declare_pointers(x, b);
  th_gen_line(g, "const int64_t from = %s[%u + component], to = %s[%u + component + 1];", sizes(x), b->n, sizes(x), b->n);
  for (uint32_t k = 0; k < b->n_sums; k++) {
    th_dtype dtype = th_type_of(g->t, b->sums[k]->operands[0])->dtype;
    const char *T = th_gen_ctype(dtype), *a = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = %s;", T, a, th_gen_reduce_start(b->sums[k]->kind, dtype));
    th_gen_line(g, "for (int64_t k = from + threadIdx.x; k < to; k += %d) { const %s w = %s[k]; %s }", TH_CUDA_THREADS, T, parts_of(x, b, k),
                th_gen_reduce_step(g, b->sums[k]->kind, dtype, a, "w"));
    th_cuda_across_team(x, b->sums[k], a);
    th_gen_remember(g, b->sums[k]->result, "", a);
  }
  th_gen_open(g, "if (threadIdx.x == 0)");
  for (uint32_t k = 0; k < body->n_outputs; k++)
    if (!is_full(g->t, body->outputs[k])) th_gen_store(g, k, NULL, th_gen_element(g, body->outputs[k], NULL));
  th_gen_close(g);
  finish(x, b, b->n, out);
}

th_status th_cuda_batch(th_cuda_gen *x, th_kernel_source *out) {
  const th_trace *t = x->g.t;
  batch b = batch_of(t, x->g.op);
  th_cuda_shape shape = {.kind = b.n_sums ? TH_CUDA_WHOLE : TH_CUDA_PLAIN, .n_sums = b.n_sums, .width = b.width, .team = TH_CUDA_THREADS, .rows_per_block = 1};
  for (uint32_t k = 0; k < b.n_in + b.n_out; k++)
    if (is_full(t, tensor(&b, &b.first, k))) shape.domain = *th_type_of(t, tensor(&b, &b.first, k)), shape.stores |= k >= b.n_in;
  memcpy(shape.sums, b.sums, sizeof shape.sums);
  TH_TRY(check_layout(t, &b));
  x->shape = &shape;
  x->g.op = &b.first.op;
  x->g.body = &b.first.body;
  x->g.index_type = b.most < (INT64_C(1) << 31) - (1 << 20) ? "int" : "int64_t";
  if (!b.blocks) { /* numbers alone */
    second_kernel(x, &b, out);
    return x->g.status;
  }
  first_kernel(x, &b, out);
  if (b.n_sums && !x->g.status) {
    th_kernel_source *next = TH_ARENA_NEW(x->g.a, th_kernel_source);
    second_kernel(x, &b, next);
    out->next = next;
  }
  return x->g.status;
}
