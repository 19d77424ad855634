/* Attention in elementary operations, in the order cuDNN's fused engines know: they match whole graphs, so what stands here is a form to
 * be kept, not one of many. Below, [..] is inside the kernel ("virtual"), and sizes are (batch, heads, …):
 *
 *   forward    [s] = [q k^T] scale, masked       [e] = exp(s - [max s])       lse = [max s] + log [sum e]       out = [e / sum e] v
 *   backward   sums = [sum out * grad] one       [p] = exp of ([q k^T] scale - lse), masked                     dv = [p]^T grad
 *              [ds] = ([grad v^T] - sums) p scale        dk = [ds]^T q        dq_sums = [ds] k        dq = dq_sums
 *
 * dq is summed with atomics in f32 (dq_sums, in our scratch); without dq_sums cuDNN keeps ds in its workspace and has no need of atomics
 * (Hopper). Where query heads share a key head, dk and dv are first those of each query head and then added up.
 * Dao et al., "FlashAttention-2", 2023. */
#include "executors/cudnn/graph.h"

typedef cudnnBackendDescriptor_t descriptor;

typedef struct graph {
  th__cudnn_pool *pool;
  const th_cudnn_attention *a;
  int dtype;       /* cuDNN's, of q, k, v and what they are multiplied with */
  int64_t next_id; /* of tensors that nobody names */
  descriptor operations[32];
  int64_t count;
} graph;

static void add(graph *g, descriptor operation) {
  th__cudnn_finish(g->pool, operation);
  if (g->count < (int64_t)(sizeof g->operations / sizeof *g->operations)) g->operations[g->count++] = operation;
  else if (!g->pool->status) g->pool->status = TH_ERROR(INTERNAL, "cudnn attention: more than %lld operations", (long long)g->count);
}

/* ---- tensors ---- */

typedef enum place { MEMORY, VIRTUAL, BY_VALUE } place;

static descriptor tensor(graph *g, int dtype, int64_t id, const int64_t dims[4], const int64_t strides[4], place where) {
  static const int64_t alignment = 16;
  static const bool yes = true;
  descriptor d = th__cudnn_make(g->pool, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  th__cudnn_set_int(g->pool, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, dtype);
  th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
  th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
  th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  if (where == VIRTUAL) th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
  if (where == BY_VALUE) th__cudnn_set(g->pool, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
  th__cudnn_finish(g->pool, d);
  return d;
}

static descriptor dense(graph *g, int dtype, int64_t id, int64_t rows, int64_t columns, place where) { /* (batch, heads, rows, columns) */
  int64_t dims[4] = {g->a->batch, g->a->heads, rows, columns}, strides[4] = {g->a->heads * rows * columns, rows * columns, columns, 1};
  return tensor(g, dtype, id, dims, strides, where);
}

static descriptor argument(graph *g, th_cudnn_tensor which) {
  int64_t dims[4];
  th_cudnn_attention_dims(g->a, which, dims);
  return tensor(g, which == TH_CUDNN_LSE ? CUDNN_DATA_FLOAT : g->dtype, which + 1, dims, g->a->strides[which], MEMORY);
}

static descriptor transposed(graph *g, th_cudnn_tensor which) { /* rows and columns exchanged, by strides */
  int64_t dims[4];
  const int64_t *s = g->a->strides[which];
  th_cudnn_attention_dims(g->a, which, dims);
  return tensor(g, g->dtype, which + 1, (int64_t[4]){dims[0], dims[1], dims[3], dims[2]}, (int64_t[4]){s[0], s[1], s[3], s[2]}, MEMORY);
}

static descriptor number(graph *g, th_cudnn_tensor which) {
  static const int64_t ones[4] = {1, 1, 1, 1};
  return tensor(g, CUDNN_DATA_FLOAT, which + 1, ones, ones, BY_VALUE);
}

static descriptor scores(graph *g, int dtype) { return dense(g, dtype, g->next_id++, g->a->length, g->a->keys, VIRTUAL); }
static descriptor row(graph *g) { return dense(g, CUDNN_DATA_FLOAT, g->next_id++, g->a->length, 1, VIRTUAL); } /* a number a row of scores */

/* ---- operations; each returns its result ---- */

static descriptor pointwise_in(graph *g, int mode, descriptor x, descriptor b, descriptor select, descriptor y, int compute, int64_t axis) {
  descriptor what = th__cudnn_make(g->pool, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  th__cudnn_set_int(g->pool, what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  th__cudnn_set_int(g->pool, what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, compute);
  if (axis >= 0) th__cudnn_set(g->pool, what, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  th__cudnn_finish(g->pool, what);
  descriptor operation = th__cudnn_make(g->pool, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
  if (select) th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, select);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  add(g, operation);
  return y;
}

static descriptor pointwise(graph *g, int mode, descriptor x, descriptor b, descriptor y) { return pointwise_in(g, mode, x, b, NULL, y, CUDNN_DATA_FLOAT, -1); }

static descriptor reduce(graph *g, int by, descriptor x, descriptor y) {
  descriptor what = th__cudnn_make(g->pool, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  th__cudnn_set_int(g->pool, what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, by);
  th__cudnn_set_int(g->pool, what, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  th__cudnn_finish(g->pool, what);
  descriptor operation = th__cudnn_make(g->pool, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  add(g, operation);
  return y;
}

static descriptor matmul(graph *g, descriptor x, descriptor y, descriptor product) {
  descriptor what = th__cudnn_make(g->pool, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  th__cudnn_set_int(g->pool, what, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  th__cudnn_finish(g->pool, what);
  descriptor operation = th__cudnn_make(g->pool, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, x);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, y);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, product);
  add(g, operation);
  return product;
}

static descriptor reshape(graph *g, descriptor x, descriptor y) {
  descriptor operation = th__cudnn_make(g->pool, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  th__cudnn_set_descriptor(g->pool, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  add(g, operation);
  return y;
}

static descriptor mask(graph *g, descriptor x) { /* -inf where the key is beyond the row; x where nothing is masked */
  if (!g->a->causal) return x;
  descriptor of_row = pointwise_in(g, CUDNN_POINTWISE_GEN_INDEX, x, NULL, NULL, scores(g, CUDNN_DATA_INT32), CUDNN_DATA_INT32, 2);
  descriptor of_key = pointwise_in(g, CUDNN_POINTWISE_GEN_INDEX, x, NULL, NULL, scores(g, CUDNN_DATA_INT32), CUDNN_DATA_INT32, 3);
  descriptor seen = pointwise_in(g, CUDNN_POINTWISE_CMP_GE, of_row, of_key, NULL, scores(g, CUDNN_DATA_BOOLEAN), CUDNN_DATA_BOOLEAN, -1);
  return pointwise_in(g, CUDNN_POINTWISE_BINARY_SELECT, x, number(g, TH_CUDNN_MINUS_INFINITY), seen, scores(g, CUDNN_DATA_FLOAT), CUDNN_DATA_FLOAT, -1);
}

static descriptor turned(graph *g, descriptor x) { /* scores as (batch, heads, keys, length), rounded to what they are multiplied with */
  int64_t n = g->a->length, m = g->a->keys, dims[4] = {g->a->batch, g->a->heads, m, n}, strides[4] = {g->a->heads * n * m, n * m, 1, m};
  return reshape(g, x, tensor(g, g->dtype, g->next_id++, dims, strides, VIRTUAL));
}

/* The product into one of dk, dv; over the query heads that share a key head where there are several. */
static void product_by_key_head(graph *g, descriptor x, descriptor y, th_cudnn_tensor into) {
  int64_t dims[4];
  th_cudnn_attention_dims(g->a, into, dims);
  if (g->a->heads == g->a->key_heads) {
    matmul(g, x, y, argument(g, into));
  } else {
    descriptor each = matmul(g, x, y, dense(g, g->dtype, g->next_id++, dims[2], dims[3], VIRTUAL));
    reduce(g, CUDNN_REDUCE_TENSOR_ADD, each, argument(g, into));
  }
}

/* ---- the two passes ---- */

static void forward(graph *g) {
  descriptor q = argument(g, TH_CUDNN_Q), k_t = transposed(g, TH_CUDNN_K), v = argument(g, TH_CUDNN_V), scale = number(g, TH_CUDNN_SCALE);
  descriptor product = matmul(g, q, k_t, scores(g, CUDNN_DATA_FLOAT));
  descriptor s = mask(g, pointwise(g, CUDNN_POINTWISE_MUL, product, scale, scores(g, CUDNN_DATA_FLOAT)));
  descriptor top = reduce(g, CUDNN_REDUCE_TENSOR_MAX, s, row(g));
  descriptor below = pointwise(g, CUDNN_POINTWISE_SUB, s, top, scores(g, CUDNN_DATA_FLOAT));
  descriptor e = pointwise(g, CUDNN_POINTWISE_EXP, below, NULL, scores(g, CUDNN_DATA_FLOAT));
  descriptor sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, row(g));
  descriptor log_sum = pointwise(g, CUDNN_POINTWISE_LOG, sum, NULL, row(g));
  pointwise(g, CUDNN_POINTWISE_ADD, top, log_sum, argument(g, TH_CUDNN_LSE));
  descriptor p = pointwise(g, CUDNN_POINTWISE_DIV, e, sum, scores(g, g->dtype));
  matmul(g, p, v, argument(g, TH_CUDNN_OUT));
}

static void backward(graph *g) {
  const th_cudnn_attention *a = g->a;
  descriptor q = argument(g, TH_CUDNN_Q), k_t = transposed(g, TH_CUDNN_K), v_t = transposed(g, TH_CUDNN_V), out = argument(g, TH_CUDNN_OUT);
  descriptor grad = argument(g, TH_CUDNN_GRAD), lse = argument(g, TH_CUDNN_LSE), scale = number(g, TH_CUDNN_SCALE);

  descriptor product = pointwise(g, CUDNN_POINTWISE_MUL, grad, out, dense(g, CUDNN_DATA_FLOAT, g->next_id++, a->length, a->value_size, VIRTUAL));
  descriptor sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, product, row(g));
  descriptor sums = pointwise(g, CUDNN_POINTWISE_MUL, sum, number(g, TH_CUDNN_ONE), dense(g, CUDNN_DATA_FLOAT, TH_CUDNN_ROW_SUMS + 1, a->length, 1, MEMORY));

  descriptor s = matmul(g, q, k_t, scores(g, CUDNN_DATA_FLOAT));
  s = pointwise(g, CUDNN_POINTWISE_MUL, s, scale, scores(g, CUDNN_DATA_FLOAT));
  s = mask(g, pointwise(g, CUDNN_POINTWISE_SUB, s, lse, scores(g, CUDNN_DATA_FLOAT)));
  descriptor p = pointwise(g, CUDNN_POINTWISE_EXP, s, NULL, scores(g, CUDNN_DATA_FLOAT));
  product_by_key_head(g, turned(g, p), grad, TH_CUDNN_DV);

  descriptor ds = matmul(g, grad, v_t, scores(g, CUDNN_DATA_FLOAT));
  ds = pointwise(g, CUDNN_POINTWISE_SUB, ds, sums, scores(g, CUDNN_DATA_FLOAT));
  ds = pointwise(g, CUDNN_POINTWISE_MUL, ds, p, scores(g, CUDNN_DATA_FLOAT));
  ds = pointwise(g, CUDNN_POINTWISE_MUL, ds, scale, scores(g, CUDNN_DATA_FLOAT));
  product_by_key_head(g, turned(g, ds), q, TH_CUDNN_DK);

  int64_t dims[4];
  th_cudnn_attention_dims(a, TH_CUDNN_K, dims);
  descriptor k = reshape(g, k_t, tensor(g, g->dtype, g->next_id++, dims, a->strides[TH_CUDNN_K], VIRTUAL));
  if (a->deterministic) {
    matmul(g, ds, k, argument(g, TH_CUDNN_DQ));
  } else {
    descriptor dq_sums = matmul(g, ds, k, dense(g, CUDNN_DATA_FLOAT, TH_CUDNN_DQ_SUMS + 1, a->length, a->size, MEMORY));
    pointwise(g, CUDNN_POINTWISE_IDENTITY, dq_sums, NULL, argument(g, TH_CUDNN_DQ));
  }
}

cudnnBackendDescriptor_t th__cudnn_graph(th__cudnn_pool *pool, const th_cudnn_attention *a, cudnnHandle_t handle) {
  graph g = {.pool = pool, .a = a, .dtype = a->dtype == TH_DTYPE_f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16, .next_id = 101};
  (a->backward ? backward : forward)(&g);
  descriptor whole = th__cudnn_make(pool, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (handle) th__cudnn_set(pool, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  th__cudnn_set(pool, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g.count, g.operations);
  th__cudnn_finish(pool, whole);
  return pool->status ? NULL : whole;
}

bool th__cudnn_graph_uses(const th_cudnn_attention *a, th_cudnn_tensor tensor) {
  switch (tensor) {
    case TH_CUDNN_Q: case TH_CUDNN_K: case TH_CUDNN_V: case TH_CUDNN_OUT: case TH_CUDNN_LSE: case TH_CUDNN_SCALE: return true;
    case TH_CUDNN_MINUS_INFINITY: return a->causal;
    case TH_CUDNN_DQ_SUMS: return a->backward && !a->deterministic;
    default: return a->backward;
  }
}
