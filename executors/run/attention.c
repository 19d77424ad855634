/* Attention without its matrix of scores: a block of query rows at a time against the keys it sees, in a buffer of a thread's
 * own (Dao et al., "FlashAttention", 2022, with whole rows of scores instead of an online softmax, since a block of rows
 * fits the cache of a CPU). The backward pass computes the scores again from the log-sum-exp of their rows.
 *
 * Query heads that share a key head are one thread's work, so gradients of keys and values are summed without locks and in
 * one order: results do not depend on the number of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "executors/run/library.h"
#include "executors/vector_math.h"

#define TH_FMAF(a, b, c) ((a) * (b) + (c)) /* fused where the clone's target has it */
TH_BITS
TH_EXPF

enum { BLOCK = 64 }; /* query rows at a time */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"), optimize("O3")))
#else
#define VECTORIZED
#endif

/* ---- rows of scores ---- */

/* Softmax of row[0, n) in place; the rest up to `width` becomes 0. Returns the log-sum-exp. */
VECTORIZED static float softmax_f32(float *row, int64_t n, int64_t width) {
  float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; j++) top = row[j] > top ? row[j] : top;
  float from = isfinite(top) ? top : 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; j++) sum += row[j] = th_expf(row[j] - from);
  float scale = sum == 0 ? 1 : 1 / sum;
#pragma omp simd
  for (int64_t j = 0; j < n; j++) row[j] *= scale;
  memset(row + n, 0, (size_t)(width - n) * sizeof *row);
  return logf(sum) + from;
}

VECTORIZED static double softmax_f64(double *row, int64_t n, int64_t width) {
  double top = -INFINITY, sum = 0;
  for (int64_t j = 0; j < n; j++) top = row[j] > top ? row[j] : top;
  double from = isfinite(top) ? top : 0;
  for (int64_t j = 0; j < n; j++) sum += row[j] = exp(row[j] - from);
  for (int64_t j = 0; j < n; j++) row[j] /= sum == 0 ? 1 : sum;
  memset(row + n, 0, (size_t)(width - n) * sizeof *row);
  return log(sum) + from;
}

/* p: scores -> softmax by their log-sum-exp; dp: gradient of p -> gradient of the scores' argument, p (dp - delta) scale. */
VECTORIZED static void backward_f32(float *p, float *dp, int64_t n, int64_t width, float lse, float delta, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    p[j] = th_expf(p[j] - lse);
    dp[j] = p[j] * (dp[j] - delta) * scale;
  }
  memset(p + n, 0, (size_t)(width - n) * sizeof *p);
  memset(dp + n, 0, (size_t)(width - n) * sizeof *dp);
}

VECTORIZED static void backward_f64(double *p, double *dp, int64_t n, int64_t width, double lse, double delta, double scale) {
  for (int64_t j = 0; j < n; j++) {
    p[j] = exp(p[j] - lse);
    dp[j] = p[j] * (dp[j] - delta) * scale;
  }
  memset(p + n, 0, (size_t)(width - n) * sizeof *p);
  memset(dp + n, 0, (size_t)(width - n) * sizeof *dp);
}

/* ---- operands ---- */

typedef struct tensor { th_view v; bool packed; const th_view *to; } tensor; /* (batch, heads, rows, columns), columns with stride 1 */

static bool rows_walk(const th_view *v) {
  return (v->strides[3] == 1 || v->dims[3] == 1) && (v->strides[2] >= v->dims[3] || v->dims[2] == 1) && v->strides[0] >= 0 && v->strides[1] >= 0;
}

static th_status take(const th_view *v, int32_t threads, tensor *out) {
  *out = (tensor){.v = *v};
  if (rows_walk(v)) return TH_OK;
  out->packed = true;
  return th_view_pack(v, threads, &out->v);
}

/* A result is written in place where it can be, else copied there by give(). */
static th_status make_room(const th_view *v, int32_t threads, tensor *out) {
  *out = (tensor){.v = *v, .to = v};
  if (rows_walk(v)) return TH_OK;
  out->packed = true;
  return th_view_pack(v, threads, &out->v);
}

static void give(tensor *t, int32_t threads, bool worked) {
  if (!t->packed || !t->v.data) return;
  if (t->to && worked) th_view_copy(&t->v, t->to, threads);
  free(t->v.data);
}

static char *at(const tensor *t, int64_t b, int64_t h, int64_t row) {
  return (char *)t->v.data + (b * t->v.strides[0] + h * t->v.strides[1] + row * t->v.strides[2]) * (int64_t)th_dtype_size(t->v.dtype);
}

static int64_t pitch(const tensor *t) { return t->v.dims[2] == 1 || t->v.strides[2] < t->v.dims[3] ? t->v.dims[3] : t->v.strides[2]; }

static double number_at(const th_view *v, int64_t b, int64_t h, int64_t row) {
  int64_t i = b * v->strides[0] + h * v->strides[1] + row * v->strides[2];
  return v->dtype == TH_DTYPE_f64 ? ((const double *)v->data)[i] : ((const float *)v->data)[i];
}

/* ---- products ---- */

typedef struct operand { const void *data; int64_t pitch; bool trans; } operand;

static th_status product(th_dtype dtype, operand a, operand b, void *c, int64_t ldc, int64_t m, int64_t n, int64_t k, double alpha, double beta) {
  th_gemm g = {.dtype = dtype, .trans_a = a.trans, .trans_b = b.trans, .m = m, .n = n, .k = k, .lda = a.pitch, .ldb = b.pitch, .ldc = ldc, .batch = 1,
               .a = &a.data, .b = &b.data, .c = &c, .alpha = alpha, .beta = beta};
  return th_gemm_run(&g);
}

/* ---- the two passes ---- */

typedef struct attention {
  th_dtype dtype;
  bool causal;
  double scale;
  int64_t batch, heads, key_heads, group, rows, keys, size, value_size;
  tensor q, k, v, out, grad, dq, dk, dv;
  const th_view *lse;
} attention;

typedef th_status (*work)(const attention *a, int64_t b, int64_t key_head, void *scratch);

static int64_t seen(const attention *a, int64_t last_row) { /* keys that rows up to last_row see */
  int64_t n = a->causal && last_row + 1 < a->keys ? last_row + 1 : a->keys;
  return n;
}

static th_status forward_heads(const attention *a, int64_t b, int64_t key_head, void *scores) {
  bool f64 = a->dtype == TH_DTYPE_f64;
  operand k = {at(&a->k, b, key_head, 0), pitch(&a->k), true}, v = {at(&a->v, b, key_head, 0), pitch(&a->v), false};
  for (int64_t h = key_head * a->group; h < (key_head + 1) * a->group; h++)
    for (int64_t i = 0; i < a->rows; i += BLOCK) {
      int64_t m = a->rows - i < BLOCK ? a->rows - i : BLOCK, n = seen(a, i + m - 1);
      operand q = {at(&a->q, b, h, i), pitch(&a->q), false}, p = {scores, n, false};
      TH_TRY(product(a->dtype, q, k, scores, n, m, n, a->size, a->scale, 0));
      for (int64_t r = 0; r < m; r++) {
        int64_t own = seen(a, i + r), to = b * a->lse->strides[0] + h * a->lse->strides[1] + (i + r) * a->lse->strides[2];
        if (f64) ((double *)a->lse->data)[to] = softmax_f64((double *)scores + r * n, own, n);
        else ((float *)a->lse->data)[to] = softmax_f32((float *)scores + r * n, own, n);
      }
      TH_TRY(product(a->dtype, p, v, at(&a->out, b, h, i), pitch(&a->out), m, a->value_size, n, 1, 0));
    }
  return TH_OK;
}

static double dot_rows(const attention *a, const char *x, const char *y) {
  double sum = 0;
  for (int64_t j = 0; j < a->value_size; j++)
    sum += a->dtype == TH_DTYPE_f64 ? ((const double *)x)[j] * ((const double *)y)[j] : (double)((const float *)x)[j] * ((const float *)y)[j];
  return sum;
}

static void clear(const tensor *t, int64_t b, int64_t h) {
  for (int64_t r = 0; r < t->v.dims[2]; r++) memset(at(t, b, h, r), 0, (size_t)t->v.dims[3] * th_dtype_size(t->v.dtype));
}

static th_status backward_heads(const attention *a, int64_t b, int64_t key_head, void *scratch) {
  bool f64 = a->dtype == TH_DTYPE_f64;
  char *scores = scratch, *slopes = scores + (size_t)BLOCK * (size_t)a->keys * th_dtype_size(a->dtype);
  operand k = {at(&a->k, b, key_head, 0), pitch(&a->k), true}, v = {at(&a->v, b, key_head, 0), pitch(&a->v), true};
  clear(&a->dk, b, key_head);
  clear(&a->dv, b, key_head);
  for (int64_t h = key_head * a->group; h < (key_head + 1) * a->group; h++)
    for (int64_t i = 0; i < a->rows; i += BLOCK) {
      int64_t m = a->rows - i < BLOCK ? a->rows - i : BLOCK, n = seen(a, i + m - 1);
      operand q = {at(&a->q, b, h, i), pitch(&a->q), false}, g = {at(&a->grad, b, h, i), pitch(&a->grad), false};
      TH_TRY(product(a->dtype, q, k, scores, n, m, n, a->size, a->scale, 0));
      TH_TRY(product(a->dtype, g, v, slopes, n, m, n, a->value_size, 1, 0));
      for (int64_t r = 0; r < m; r++) {
        double lse = number_at(a->lse, b, h, i + r), delta = dot_rows(a, at(&a->grad, b, h, i + r), at(&a->out, b, h, i + r));
        if (!isfinite(lse)) lse = 0;
        if (f64) backward_f64((double *)scores + r * n, (double *)slopes + r * n, seen(a, i + r), n, lse, delta, a->scale);
        else backward_f32((float *)scores + r * n, (float *)slopes + r * n, seen(a, i + r), n, (float)lse, (float)delta, (float)a->scale);
      }
      operand p = {scores, n, true}, ds = {slopes, n, false}, ds_t = {slopes, n, true}, keys = {k.data, k.pitch, false};
      TH_TRY(product(a->dtype, p, g, at(&a->dv, b, key_head, 0), pitch(&a->dv), n, a->value_size, m, 1, 1));
      TH_TRY(product(a->dtype, ds, keys, at(&a->dq, b, h, i), pitch(&a->dq), m, a->size, n, 1, 0));
      TH_TRY(product(a->dtype, ds_t, q, at(&a->dk, b, key_head, 0), pitch(&a->dk), n, a->size, m, 1, 1));
    }
  return TH_OK;
}

static th_status run(const attention *a, work fn, size_t buffers, int32_t threads) {
  th_status failed = TH_OK;
  int64_t items = a->batch * a->key_heads;
  const char *name;
  TH_TRY(th_gemm_name(&name));
#pragma omp parallel num_threads(threads) if (items > 1 && threads > 1)
  {
    int before = threads > 1 ? th_gemm_threads(1) : 0;
    void *scratch = malloc(buffers * BLOCK * (size_t)(a->keys ? a->keys : 1) * th_dtype_size(a->dtype));
    th_status mine = scratch ? TH_OK : TH_ERROR(RESOURCE_EXHAUSTED, "attention: no memory for %d rows of %lld scores", BLOCK, (long long)a->keys);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < items; i++)
      if (!mine) mine = fn(a, i / a->key_heads, i % a->key_heads, scratch);
    free(scratch);
    if (threads > 1) th_gemm_threads(before);
#pragma omp critical(th_attention)
    failed = th_status_join(failed, mine);
  }
  return failed;
}

static bool is(const th_view *v, th_dtype dtype, int64_t b, int64_t h, int64_t rows, int64_t columns) {
  return v->dtype == dtype && v->rank == (columns < 0 ? 3 : 4) && v->dims[0] == b && v->dims[1] == h && v->dims[2] == rows && (columns < 0 || v->dims[3] == columns);
}

/* Fills in what both passes know and checks operands q, k, v. */
static th_status begin(const th_library_args *args, uint32_t operands, uint32_t results, attention *a) {
  if (args->n_operands != operands || args->n_results != results || args->n_ints != 1) return TH_ERROR(INVALID_ARGUMENT, "attention: wrong number of operands or ints");
  const th_view *q = &args->operands[0], *k = &args->operands[1], *v = &args->operands[2];
  bool ok = q->rank == 4 && k->rank == 4 && v->rank == 4 && (q->dtype == TH_DTYPE_f32 || q->dtype == TH_DTYPE_f64);
  if (ok) {
    *a = (attention){.dtype = q->dtype, .causal = args->ints[0] != 0, .scale = args->alpha, .batch = q->dims[0], .heads = q->dims[1], .key_heads = k->dims[1],
                     .rows = q->dims[2], .keys = k->dims[2], .size = q->dims[3], .value_size = v->dims[3]};
    ok = is(k, a->dtype, a->batch, a->key_heads, a->keys, a->size) && is(v, a->dtype, a->batch, a->key_heads, a->keys, a->value_size) && a->key_heads > 0 &&
         a->heads % a->key_heads == 0;
  }
  if (!ok) return TH_ERROR(INVALID_ARGUMENT, "attention: query, key and value do not fit");
  a->group = a->heads / a->key_heads;
  return TH_OK;
}

th_status th_lib_attention(const th_library_args *args) {
  attention a = {0};
  int32_t threads = args->context->threads;
  TH_TRY(begin(args, 3, 2, &a));
  if (!is(&args->results[0], a.dtype, a.batch, a.heads, a.rows, a.value_size) || !is(&args->results[1], a.dtype, a.batch, a.heads, a.rows, -1))
    return TH_ERROR(INVALID_ARGUMENT, "attention: the results do not fit");
  a.lse = &args->results[1];
  th_status status = take(&args->operands[0], threads, &a.q);
  if (!status) status = take(&args->operands[1], threads, &a.k);
  if (!status) status = take(&args->operands[2], threads, &a.v);
  if (!status) status = make_room(&args->results[0], threads, &a.out);
  if (!status) status = run(&a, forward_heads, 1, threads);
  tensor *all[] = {&a.q, &a.k, &a.v, &a.out};
  for (int i = 0; i < 4; i++) give(all[i], threads, !status);
  return status;
}

th_status th_lib_attention_backward(const th_library_args *args) {
  attention a = {0};
  int32_t threads = args->context->threads;
  TH_TRY(begin(args, 6, 3, &a));
  const th_view *in = args->operands, *out = args->results;
  if (!is(&in[3], a.dtype, a.batch, a.heads, a.rows, a.value_size) || !is(&in[4], a.dtype, a.batch, a.heads, a.rows, -1) ||
      !is(&in[5], a.dtype, a.batch, a.heads, a.rows, a.value_size) || !is(&out[0], a.dtype, a.batch, a.heads, a.rows, a.size) ||
      !is(&out[1], a.dtype, a.batch, a.key_heads, a.keys, a.size) || !is(&out[2], a.dtype, a.batch, a.key_heads, a.keys, a.value_size))
    return TH_ERROR(INVALID_ARGUMENT, "attention_backward: the operands do not fit");
  a.lse = &in[4];
  tensor *taken[] = {&a.q, &a.k, &a.v, &a.out, &a.grad}, *made[] = {&a.dq, &a.dk, &a.dv};
  th_status status = TH_OK;
  for (int i = 0; i < 5 && !status; i++) status = take(&in[i < 4 ? i : 5], threads, taken[i]);
  for (int i = 0; i < 3 && !status; i++) status = make_room(&out[i], threads, made[i]);
  if (!status) status = run(&a, backward_heads, 2, threads);
  for (int i = 0; i < 5; i++) give(taken[i], threads, false);
  for (int i = 0; i < 3; i++) give(made[i], threads, !status);
  return status;
}
