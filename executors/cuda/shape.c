/* What a region is as a kernel: its domain, how vectors lie in it, how many threads and blocks work on it. Decided from types and
 * layouts alone, so that the memory plan (scratch) and the text agree. */
#include <string.h>

#include "executors/cuda/cuda.h"
#include "ir/batch.h"

enum { MOST_WIDTH = 8, BLOCKS_PER_SM = 4 };

static uint32_t sms_of(const th_options *options) { return options->target.sms ? options->target.sms : 132; }

static int64_t constant(th_context *c, th_dim dim) { /* -1: not known before the call */
  int64_t value;
  return th_dim_is_const(c, dim, &value) ? value : -1;
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t power_of_two(int64_t n) { /* not below n */
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

static const th_op *special_of(const th_graph *body) {
  for (size_t i = 0; i < body->n_ops; i++)
    if (th_op_is_special(body->ops[i])) return body->ops[i];
  return NULL;
}

/* The dimension along which most bytes of the region lie side by side: that of a result's smallest stride. */
static uint32_t choose_vector_dim(const th_trace *t, const th_op *op, const th_type *domain) {
  for (uint32_t k = 0; k < op->n_results; k++) {
    const th_value_info *v = &t->values[op->result + k];
    if (!th_type_same_shape(&v->type, domain)) continue;
    for (uint32_t i = domain->rank; i-- > 0;)
      if (th_dim_is(t->context, v->strides[i], 1) && !th_dim_is(t->context, v->type.dims[i], 1)) return i;
    break;
  }
  return domain->rank ? domain->rank - 1 : 0;
}

static int choose_width(const th_trace *t, const th_op *op, const th_type *domain, th_dim along) {
  size_t size = 16;
  for (uint32_t k = 0; k < op->n_operands + op->n_results; k++) {
    const th_type *type = th_type_of(t, k < op->n_operands ? op->operands[k] : op->result + (k - op->n_operands));
    if (type->rank && th_dtype_size(type->dtype) < size && (k < op->n_operands || th_type_same_shape(type, domain))) size = th_dtype_size(type->dtype);
  }
  int width = (int)(16 / size);
  if (width > MOST_WIDTH) width = MOST_WIDTH;
  while (width > 1 && !th_dim_divisible(t->context, along, width)) width /= 2;
  return width < 1 ? 1 : width;
}

static th_dim product_where(const th_trace *t, const th_op *reduction, const th_type *domain, bool reduced) {
  th_dim n = th_dim_const(t->context, 1);
  for (uint32_t i = 0; i < domain->rank; i++)
    if (th_gen_reduces(t->context, reduction, i) == reduced) n = th_dim_mul(t->context, n, domain->dims[i]);
  return n;
}

static th_status sort_reductions(const th_trace *t, const th_graph *body, th_cuda_shape *s) {
  bool any = false;
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *op = body->ops[i];
    if (!th_op_is_reduction(op) || !th_type_of(t, op->operands[0])->rank) continue;
    if (!any) s->domain = *th_type_of(t, op->operands[0]);
    else if (!th_type_same_shape(&s->domain, th_type_of(t, op->operands[0]))) return TH_ERROR(UNIMPLEMENTED, "cuda: a region reduces values of two shapes");
    any = true;
    bool whole = !th_type_of(t, op->result)->rank;
    if (!whole && th_gen_reduces(t->context, op, s->domain.rank - 1)) {
      if (s->rows && !th_attr_equal(th_attr_get(op, "dims"), th_attr_get(s->rows, "dims"))) return TH_ERROR(UNIMPLEMENTED, "cuda: a region reduces rows in two ways");
      if (!s->rows) s->rows = op;
      continue;
    }
    if (s->n_sums == TH_CUDA_MAX_COLUMNS) return TH_ERROR(UNIMPLEMENTED, "cuda: a region has more than %d sums of columns", TH_CUDA_MAX_COLUMNS);
    if (s->n_sums && !th_attr_equal(th_attr_get(op, "dims"), th_attr_get(s->sums[0], "dims"))) return TH_ERROR(UNIMPLEMENTED, "cuda: a region reduces columns in two ways");
    s->sums[s->n_sums++] = op;
    s->kind = whole ? TH_CUDA_WHOLE : TH_CUDA_COLUMNS;
  }
  if (s->rows && s->kind == TH_CUDA_WHOLE) return TH_ERROR(UNIMPLEMENTED, "cuda: a region reduces rows and everything");
  if (s->rows) s->kind = TH_CUDA_ROWS;
  return TH_OK;
}

/* Bytes that a thread reads of a row for each of its elements. */
static int64_t bytes_per_element(const th_trace *t, const th_op *op, const th_type *domain) {
  int64_t n = 0;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    const th_type *type = th_type_of(t, op->operands[k]);
    if (type->rank && type->rank >= domain->rank && !th_dim_is(t->context, type->dims[type->rank - 1], 1)) n += (int64_t)th_dtype_size(type->dtype);
  }
  return n;
}

static void rows_of(const th_options *options, const th_trace *t, const th_op *op, th_cuda_shape *s) {
  th_context *c = t->context;
  uint32_t last = s->domain.rank - 1;
  s->vector_dim = last;
  s->width = choose_width(t, op, &s->domain, s->domain.dims[last]);
  s->n_rows = product_where(t, s->rows, &s->domain, false);
  s->n_reduced = product_where(t, s->rows, &s->domain, true);
  s->length = constant(c, s->n_reduced);
  s->persistent = s->n_sums > 0;
  if (s->length < 0 || !s->length) {
    s->team = TH_CUDA_THREADS;
    s->turns = -1;
  } else {
    int64_t vectors = ceil_div(s->length, s->width), each = s->n_sums ? 24 : 32; /* elements of a thread */
    s->team = least(1024, power_of_two(most(1, ceil_div(vectors * s->width, each))));
    if (s->team < 32) s->team = least(32, power_of_two(vectors));
    s->turns = ceil_div(vectors, s->team);
    s->cached = s->turns <= 16 && s->turns * s->width * bytes_per_element(t, op, &s->domain) <= (s->team > 512 ? 128 : 256);
    if (s->n_sums && s->turns * s->width > 32) s->persistent = false; /* columns of long rows: see below */
    int64_t bytes = s->length * bytes_per_element(t, op, &s->domain), room = options->target.shared ? (int64_t)options->target.shared / 2 - 2048 : 0;
    if (s->team > 512 && !s->n_sums && bytes <= room) { /* two rows on a multiprocessor, so that one computes while the other is read */
      s->in_shared = s->cached = true;
      s->team = 512;
      s->turns = ceil_div(vectors, s->team);
    }
  }
  s->rows_per_block = s->team >= TH_CUDA_THREADS ? 1 : TH_CUDA_THREADS / s->team;
  s->blocks = (s->n_sums ? 2 : BLOCKS_PER_SM) * (int64_t)sms_of(options);
  int64_t rows = constant(c, s->n_rows);
  if (rows > 0) s->blocks = most(1, least(s->blocks, ceil_div(rows, s->rows_per_block)));
}

static void columns_of(const th_options *options, const th_trace *t, const th_op *op, th_cuda_shape *s) {
  th_context *c = t->context;
  uint32_t last = s->domain.rank - 1;
  s->vector_dim = last;
  s->width = choose_width(t, op, &s->domain, s->domain.dims[last]);
  s->n_reduced = product_where(t, s->sums[0], &s->domain, true);
  s->n_columns = product_where(t, s->sums[0], &s->domain, false);
  int64_t length = constant(c, s->domain.dims[last]), reduced = constant(c, s->n_reduced), all = constant(c, s->n_columns);
  s->team = length < 0 ? 32 : most(1, least(32, power_of_two(ceil_div(length, s->width)))); /* threads side by side */
  s->rows_per_block = TH_CUDA_THREADS / s->team;
  int64_t tiles = all < 0 ? 1 : most(1, ceil_div(most(length, 1), s->team * s->width) * (length > 0 ? all / length : 1));
  s->chunks = most(1, ceil_div(BLOCKS_PER_SM * (int64_t)sms_of(options), tiles));
  if (reduced >= 0) s->chunks = most(1, least(s->chunks, ceil_div(reduced, s->rows_per_block * 4)));
}

static void whole_of(const th_options *options, const th_trace *t, const th_op *op, th_cuda_shape *s) {
  uint32_t last = s->domain.rank - 1;
  s->vector_dim = last;
  s->width = choose_width(t, op, &s->domain, s->domain.dims[last]);
  s->team = TH_CUDA_THREADS;
  s->rows_per_block = 1;
  s->n_columns = th_dim_const(t->context, 1);
  s->n_reduced = th_type_numel(t->context, &s->domain);
  int64_t n = constant(t->context, s->n_reduced);
  s->blocks = BLOCKS_PER_SM * (int64_t)sms_of(options);
  if (n >= 0) s->blocks = most(1, least(s->blocks, ceil_div(n, TH_CUDA_THREADS * (int64_t)s->width * 4)));
}

th_status th_cuda_shape_of(const th_options *options, const th_trace *t, const th_op *op, th_cuda_shape *out) {
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  th_cuda_shape s = {.kind = TH_CUDA_PLAIN};
  if ((s.special = special_of(body))) {
    s.kind = TH_CUDA_SPECIAL;
    *out = s;
    return TH_OK;
  }
  TH_TRY(sort_reductions(t, body, &s));
  if (s.kind == TH_CUDA_PLAIN) s.domain = *th_type_of(t, body->outputs[0]);
  for (uint32_t k = 0; k < body->n_outputs; k++) s.stores |= th_type_same_shape(th_type_of(t, body->outputs[k]), &s.domain);
  switch (s.kind) {
    case TH_CUDA_ROWS:
      rows_of(options, t, op, &s);
      if (s.n_sums) {
        s.n_columns = product_where(t, s.sums[0], &s.domain, false);
        if (!s.persistent || s.length < 0 || th_dim_sub(t->context, s.n_columns, s.n_reduced) != th_dim_const(t->context, 0))
          return TH_ERROR(UNIMPLEMENTED, "cuda: a region reduces rows of this length, and columns");
      }
      break;
    case TH_CUDA_COLUMNS: columns_of(options, t, op, &s); break;
    case TH_CUDA_WHOLE: whole_of(options, t, op, &s); break;
    default:
      if (s.domain.rank) {
        s.vector_dim = choose_vector_dim(t, op, &s.domain);
        s.width = choose_width(t, op, &s.domain, s.domain.dims[s.vector_dim]);
      } else {
        s.width = 1;
      }
  }
  *out = s;
  return TH_OK;
}

/* A partial result of each sum from each part. */
th_dim th_cuda_scratch(const th_options *options, const th_trace *t, const th_op *op) {
  th_context *c = t->context;
  th_cuda_shape s;
  if (op->kind != TH_OP_fusion && op->kind != TH_OP_launch) return th_dim_const(c, 0);
  if (th_op_batch(t, op) > 1) return th_cuda_batch_scratch(t, op);
  th_status status = th_cuda_shape_of(options, t, op, &s);
  if (status) { /* emit says it */
    th_status_free(status);
    return th_dim_const(c, 0);
  }
  int64_t parts = s.kind == TH_CUDA_COLUMNS ? s.chunks : s.blocks;
  if (!s.n_sums || (s.kind == TH_CUDA_COLUMNS && parts == 1)) return th_dim_const(c, 0);
  th_dim each = th_dim_mul(c, th_dim_mul(c, s.n_columns, th_dim_const(c, parts)), th_dim_const(c, 8));
  return th_dim_mul(c, each, th_dim_const(c, s.n_sums));
}
