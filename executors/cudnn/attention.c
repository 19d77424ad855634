/* What an attention is: dimensions, strides in one form, what cuDNN can do of it, scratch; its numbers in a plan's bytes, its run. */
#include "executors/cudnn/attention.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "executors/cudnn/engine.h"
#include "executors/cudnn/graph.h"

void th_cudnn_attention_dims(const th_cudnn_attention *a, th_cudnn_tensor tensor, int64_t out_dims[4]) {
  bool of_keys = tensor == TH_CUDNN_K || tensor == TH_CUDNN_V || tensor == TH_CUDNN_DK || tensor == TH_CUDNN_DV;
  bool of_values = tensor == TH_CUDNN_V || tensor == TH_CUDNN_DV || tensor == TH_CUDNN_OUT || tensor == TH_CUDNN_GRAD;
  out_dims[0] = a->batch;
  out_dims[1] = of_keys ? a->key_heads : a->heads;
  out_dims[2] = of_keys ? a->keys : a->length;
  out_dims[3] = tensor == TH_CUDNN_LSE ? 1 : of_values ? a->value_size : a->size;
}

void th_cudnn_attention_normalize(th_cudnn_attention *a) {
  a->deterministic = a->deterministic && a->backward; /* forward always is */
  for (int t = 0; t < TH_CUDNN_STRIDED; t++) {
    int64_t dims[4], *strides = a->strides[t];
    if (t >= TH_CUDNN_GRAD && !a->backward) {
      memset(strides, 0, sizeof a->strides[t]);
      continue;
    }
    th_cudnn_attention_dims(a, (th_cudnn_tensor)t, dims);
    if (dims[3] == 1) strides[3] = 1;
    for (int i = 2; i >= 0; i--)
      if (dims[i] == 1) strides[i] = strides[i + 1] * dims[i + 1];
  }
}

th_status th_cudnn_attention_check(const th_cudnn_attention *given, uint32_t version) {
  static const char *const names[] = {"q", "k", "v", "out", "log-sum-exp", "grad", "dq", "dk", "dv"};
  _Static_assert(sizeof names / sizeof *names == TH_CUDNN_STRIDED, "a name a tensor");
  th_cudnn_attention copy = *given, *a = &copy;
  if (a->dtype != TH_DTYPE_f16 && a->dtype != TH_DTYPE_bf16) return TH_ERROR(UNIMPLEMENTED, "cudnn attention: of f16 and bf16, not of %s", th_dtype_name(a->dtype));
  if (a->batch < 1 || a->length < 1 || a->keys < 1 || a->size < 1 || a->value_size < 1 || a->heads < 1 || a->key_heads < 1 || a->heads % a->key_heads)
    return TH_ERROR(INVALID_ARGUMENT, "cudnn attention: batch %lld, heads %lld/%lld, length %lld x %lld, size %lld/%lld; all have to be positive and heads a multiple of key heads",
                    (long long)a->batch, (long long)a->heads, (long long)a->key_heads, (long long)a->length, (long long)a->keys, (long long)a->size, (long long)a->value_size);
  if (a->size % 8 || a->value_size % 8 || a->size > 256 || a->value_size > 256)
    return TH_ERROR(UNIMPLEMENTED, "cudnn attention: sizes of a head are multiples of 8 up to 256, not %lld and %lld", (long long)a->size, (long long)a->value_size);
  if (a->length > INT32_MAX || a->keys > INT32_MAX) return TH_ERROR(UNIMPLEMENTED, "cudnn attention: length %lld x %lld is beyond 2^31", (long long)a->length, (long long)a->keys);
  if (a->length == 1 && a->keys == 1 && a->backward) return TH_ERROR(UNIMPLEMENTED, "cudnn attention backward: not of one row and one key");
  if (a->keys % 128 && version < 91600)
    return TH_ERROR(UNIMPLEMENTED, "cudnn attention: %lld keys are not a multiple of 128, which wants cuDNN 9.16 or later; this is %u", (long long)a->keys, version);
  th_cudnn_attention_normalize(a);
  for (int t = 0; t < (a->backward ? TH_CUDNN_STRIDED : TH_CUDNN_GRAD); t++) {
    const int64_t *s = a->strides[t];
    bool half = t != TH_CUDNN_LSE;
    if (s[3] != 1 || s[0] < 0 || s[1] < 0 || s[2] < 0 || (half && (s[0] % 8 || s[1] % 8 || s[2] % 8)))
      return TH_ERROR(UNIMPLEMENTED, "cudnn attention: strides (%lld, %lld, %lld, %lld) of %s; the last has to be 1 and the others multiples of 8", (long long)s[0],
                      (long long)s[1], (long long)s[2], (long long)s[3], names[t]);
  }
  return TH_OK;
}

size_t th_cudnn_attention_format(const th_cudnn_attention *a, char *buffer, size_t size) {
  int n = snprintf(buffer, size, "attention%s %s, batch %lld, heads %lld/%lld, length %lld x %lld, size %lld/%lld%s%s", a->backward ? " backward" : "",
                   th_dtype_name(a->dtype), (long long)a->batch, (long long)a->heads, (long long)a->key_heads, (long long)a->length, (long long)a->keys,
                   (long long)a->size, (long long)a->value_size, a->causal ? ", causal" : "", a->deterministic && a->backward ? ", deterministic" : "");
  return n < 0 ? 0 : (size_t)n;
}

/* ---- scratch ---- */

static bool add_product(size_t *total, size_t a, size_t b, size_t c, size_t d, size_t bytes) { /* total += a b c d bytes, and up to a multiple of 256 */
  size_t n = bytes;
  if (__builtin_mul_overflow(n, a, &n) || __builtin_mul_overflow(n, b, &n) || __builtin_mul_overflow(n, c, &n) || __builtin_mul_overflow(n, d, &n)) return false;
  if (__builtin_add_overflow(*total, n, &n) || n > SIZE_MAX - 255) return false;
  *total = (n + 255) & ~(size_t)255;
  return true;
}

size_t th_cudnn_scratch_bytes(const th_cudnn_attention *a, int64_t workspace) {
  size_t total = 0, b = (size_t)a->batch, h = (size_t)a->heads, length = (size_t)a->length, keys = (size_t)a->keys;
  bool fits = true;
  if (workspace >= 0) {
    fits = add_product(&total, (size_t)workspace, 1, 1, 1, 1);
  } else {
    total = 256;
    /* gradients of every query head, before those that share a key head are added */
    if (a->backward && a->heads != a->key_heads) fits = add_product(&total, b, h, keys, (size_t)(a->size + a->value_size), 2), total += 256;
    /* the gradient of the scores */
    if (a->backward && a->deterministic) fits = fits && add_product(&total, b, h, (length + 127) / 128 * 128, (keys + 127) / 128 * 128, 2);
  }
  if (a->backward) fits = fits && add_product(&total, b, h, length, 1, 4) && (a->deterministic || add_product(&total, b, h, length, (size_t)a->size, 4));
  return fits ? total : SIZE_MAX;
}

/* ---- plans ---- */

/* The numbers of a plan's header: dtype (its wire number), flags (1 backward, 2 causal, 4 deterministic), 7 sizes, 9 x 4 strides. Tensors are
 * known by their place in th_cudnn_tensor, so another order there is another format. */
enum { NUMBERS = 9 + TH_CUDNN_STRIDED * 4 };
_Static_assert((int)NUMBERS <= (int)TH__CUDNN_NUMBERS && sizeof(th_cudnn_attention) <= TH__CUDNN_WHAT && (int)TH_CUDNN_TENSORS <= (int)TH__CUDNN_POINTERS, "engine.h has room");

static void put(const void *what, int64_t *out) {
  const th_cudnn_attention *a = what;
  int64_t head[9] = {th_dtype_to_wire(a->dtype), a->backward + 2 * a->causal + 4 * a->deterministic, a->batch, a->heads, a->key_heads, a->length, a->keys, a->size, a->value_size};
  memcpy(out, head, sizeof head);
  memcpy(out + 9, a->strides, sizeof a->strides);
}

static void get(const int64_t *in, void *what) {
  th_cudnn_attention *a = what;
  *a = (th_cudnn_attention){.dtype = in[0] >= 0 && in[0] < 256 ? th_dtype_from_wire((int)in[0]) : TH_DTYPE_none, .backward = in[1] & 1, .causal = in[1] >> 1 & 1,
                            .deterministic = in[1] >> 2 & 1, .batch = in[2], .heads = in[3], .key_heads = in[4], .length = in[5], .keys = in[6], .size = in[7], .value_size = in[8]};
  memcpy(a->strides, in + 9, sizeof a->strides);
}

static void normalize(void *what) { th_cudnn_attention_normalize(what); }
static size_t text_of(const void *what, char *buffer, size_t size) { return th_cudnn_attention_format(what, buffer, size); }
static th_status check(const void *what, uint32_t version) { return th_cudnn_attention_check(what, version); }
static th__cudnn_rules rules(const void *what) { return (void)what, (th__cudnn_rules){.workspace = -1}; }
static cudnnBackendDescriptor_t graph(th__cudnn_pool *pool, const void *what, cudnnHandle_t handle) { return th__cudnn_graph(pool, what, handle); }
static size_t scratch_of(const void *what, int64_t workspace) { return th_cudnn_scratch_bytes(what, workspace); }
static void plain(const void *what, int64_t out_dims[4]) { th_cudnn_attention_dims(what, TH_CUDNN_LSE, out_dims); }

static const th_cudnn_kind KIND = {.format = {"THCUDNN\n", 1, NUMBERS}, .bytes = sizeof(th_cudnn_attention), .put = put, .get = get, .normalize = normalize, .text = text_of,
                                   .check = check, .rules = rules, .graph = graph, .scratch = scratch_of, .plain = plain};
const th_cudnn_kind *const TH_CUDNN_ATTENTION = &KIND;

/* ---- running ---- */

static size_t up(size_t n) { return (n + 255) & ~(size_t)255; }

/* The pointers of all tensors of the graph, in order, and their ids; how many. */
static int64_t pointers_of(th_cudnn_plan *p, void *const data[TH_CUDNN_STRIDED], void *scratch, int64_t ids[TH_CUDNN_TENSORS], void *out[TH_CUDNN_TENSORS]) {
  const th_cudnn_attention *a = th_cudnn_plan_what(p);
  char *row_sums = (char *)scratch + up((size_t)p->made.workspace);
  size_t row_bytes = (size_t)a->batch * (size_t)a->heads * (size_t)a->length * sizeof(float);
  void *inside[TH_CUDNN_TENSORS] = {[TH_CUDNN_ROW_SUMS] = row_sums, [TH_CUDNN_DQ_SUMS] = row_sums + up(row_bytes), [TH_CUDNN_SCALE] = &p->numbers[0],
                                    [TH_CUDNN_MINUS_INFINITY] = &p->numbers[1], [TH_CUDNN_ONE] = &p->numbers[2]};
  int64_t n = 0;
  for (int t = 0; t < TH_CUDNN_TENSORS; t++) {
    if (!th__cudnn_graph_uses(a, (th_cudnn_tensor)t)) continue;
    out[n] = t < TH_CUDNN_STRIDED ? data[t] : inside[t];
    ids[n++] = t + 1;
  }
  return n;
}

th_status th_cudnn_attention_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_STRIDED], float scale, void *stream, void *scratch,
                                     size_t scratch_bytes) {
  const th_cudnn_attention *a = th_cudnn_plan_what(plan);
  size_t wanted = th_cudnn_plan_scratch_bytes(plan);
  th_status status = TH_OK;
  char text[256];
  if (scratch_bytes < wanted || (wanted && !scratch))
    status = TH_ERROR(RESOURCE_EXHAUSTED, "it needs %zu bytes of scratch (%lld of them cuDNN's workspace) and has %zu", wanted, (long long)plan->made.workspace, scratch_bytes);
  for (int t = 0; t < TH_CUDNN_STRIDED && !status; t++)
    if (th__cudnn_graph_uses(a, (th_cudnn_tensor)t) && (!data[t] || (uintptr_t)data[t] % 16))
      status = TH_ERROR(INVALID_ARGUMENT, "tensor %d lies at %p, which is not a multiple of 16", t, data[t]);
  if (!status) {
    void *pointers[TH_CUDNN_TENSORS];
    int64_t ids[TH_CUDNN_TENSORS], n = pointers_of(plan, data, scratch, ids, pointers);
    memcpy(plan->numbers, (float[3]){scale, -INFINITY, 1}, sizeof plan->numbers);
    status = th__cudnn_run(handle, &plan->made, &plan->pack, ids, pointers, n, scratch, stream);
  }
  if (!status) return TH_OK;
  th_cudnn_attention_format(a, text, sizeof text);
  return th_status_prefix(status, "cudnn: %s", text);
}
