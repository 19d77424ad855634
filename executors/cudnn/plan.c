/* Plans of attentions: made, written and read, run. The parts that know no attention are in engine.c. */
#include "executors/cudnn/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/engine.h"
#include "executors/cudnn/graph.h"

/* The numbers of a plan's header: dtype (its wire number), flags (1 backward, 2 causal, 4 deterministic), 7 sizes, 9 x 4 strides. Tensors are
 * known by their place in th_cudnn_tensor, so another order there is another format. */
enum { NUMBERS = 9 + TH_CUDNN_STRIDED * 4 };
static const th__cudnn_format FORMAT = {"THCUDNN\n", 1, NUMBERS};

struct th_cudnn_plan {
  th_cudnn_attention attention;
  th__cudnn_made made;
  th__cudnn_pack pack;
  int64_t ids[TH_CUDNN_TENSORS];
  float scale, minus_infinity, one; /* what the pack points to for numbers */
};
_Static_assert((int)TH_CUDNN_TENSORS <= (int)TH__CUDNN_POINTERS, "a pointer a tensor");

/* ---- bytes ---- */

static void put_attention(const th_cudnn_attention *a, int64_t out[NUMBERS]) {
  int64_t head[9] = {th_dtype_to_wire(a->dtype), a->backward + 2 * a->causal + 4 * a->deterministic, a->batch, a->heads, a->key_heads, a->length, a->keys, a->size, a->value_size};
  memcpy(out, head, sizeof head);
  memcpy(out + 9, a->strides, sizeof a->strides);
}

static void get_attention(const int64_t in[NUMBERS], th_cudnn_attention *a) {
  *a = (th_cudnn_attention){.dtype = in[0] >= 0 && in[0] < 256 ? th_dtype_from_wire((int)in[0]) : TH_DTYPE_none, .backward = in[1] & 1, .causal = in[1] >> 1 & 1,
                            .deterministic = in[1] >> 2 & 1, .batch = in[2], .heads = in[3], .key_heads = in[4], .length = in[5], .keys = in[6], .size = in[7], .value_size = in[8]};
  memcpy(a->strides, in + 9, sizeof a->strides);
}

th_status th_cudnn_plan_inspect(const uint8_t *bytes, size_t size, th_cudnn_plan_info *out) {
  int64_t numbers[NUMBERS];
  *out = (th_cudnn_plan_info){0};
  TH_TRY(th__cudnn_read(bytes, size, &FORMAT, numbers, &out->version, &out->workspace));
  get_attention(numbers, &out->attention);
  return TH_OK;
}

/* ---- making one ---- */

static th_status allocate(const th_cudnn_attention *a, th_cudnn_plan **out) {
  if (!(*out = calloc(1, sizeof **out))) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for a plan");
  (*out)->attention = *a;
  th_cudnn_attention_normalize(&(*out)->attention);
  return TH_OK;
}

static cudnnBackendDescriptor_t graph_of(th__cudnn_pool *pool, const void *attention, cudnnHandle_t handle) { return th__cudnn_graph(pool, attention, handle); }

static th_status create(const th_cudnn_attention *a, cudnnHandle_t handle, const char *device_json, th_cudnn_plan **out) {
  uint32_t version;
  char text[256];
  *out = NULL;
  TH_TRY(th_cudnn_open(NULL, &version));
  TH_TRY(th_cudnn_attention_check(a, version));
  TH_TRY(allocate(a, out));
  static const th__cudnn_rules any = {.workspace = -1};
  th_status status = th__cudnn_choose(&(*out)->made, graph_of, &(*out)->attention, &any, handle, device_json);
  if (!status) return TH_OK;
  th_cudnn_plan_destroy(*out);
  *out = NULL;
  th_cudnn_attention_format(a, text, sizeof text);
  return th_status_prefix(status, "cudnn: %s", text);
}

th_status th_cudnn_plan_create(const th_cudnn_attention *a, th_cudnn_handle *handle, th_cudnn_plan **out) { return create(a, th__cudnn_handle(handle), NULL, out); }

void th_cudnn_plan_destroy(th_cudnn_plan *plan) {
  if (!plan) return;
  th__cudnn_pool_drop(&plan->pack.pool);
  th__cudnn_pool_drop(&plan->made.pool);
  free(plan);
}

const th_cudnn_attention *th_cudnn_plan_attention(const th_cudnn_plan *plan) { return &plan->attention; }
size_t th_cudnn_plan_scratch_bytes(const th_cudnn_plan *plan) { return th_cudnn_scratch_bytes(&plan->attention, plan->made.workspace); }

/* ---- writing and reading ---- */

th_status th_cudnn_plan_prepare(const th_cudnn_attention *a, const char *device_json, uint8_t **out_bytes, size_t *out_size) {
  th_cudnn_plan *plan;
  *out_bytes = NULL;
  *out_size = 0;
  TH_TRY(create(a, NULL, device_json, &plan));
  int64_t numbers[NUMBERS];
  put_attention(&plan->attention, numbers);
  th_status status = th__cudnn_write(&plan->made, &FORMAT, numbers, out_bytes, out_size);
  size_t header = th__cudnn_header_bytes(&FORMAT);
  if (!status) th__cudnn_scrub((char *)*out_bytes + header, *out_size - header, &plan->attention);
  th_cudnn_plan_destroy(plan);
  return status;
}

th_status th_cudnn_plan_read(const uint8_t *bytes, size_t size, const th_cudnn_attention *wanted, th_cudnn_handle *handle, const char *device_json, th_cudnn_plan **out) {
  th_cudnn_plan_info info;
  size_t header = th__cudnn_header_bytes(&FORMAT);
  char has[256], wants[256];
  *out = NULL;
  TH_TRY(th_cudnn_plan_inspect(bytes, size, &info));
  TH_TRY(th__cudnn_same_version(info.version));
  if (wanted) {
    th_cudnn_attention normal = *wanted;
    th_cudnn_attention_normalize(&normal);
    if (!th_cudnn_attention_equal(&normal, &info.attention)) {
      th_cudnn_attention_format(&info.attention, has, sizeof has);
      th_cudnn_attention_format(&normal, wants, sizeof wants);
      return TH_ERROR(FAILED_PRECONDITION, "cudnn plan: it is for %s; wanted is %s%s", has, wants, strcmp(has, wants) ? "" : ", with other strides");
    }
  }
  TH_TRY(allocate(&info.attention, out));
  th_status status = th__cudnn_load(&(*out)->made, (const char *)bytes + header, size - header, th__cudnn_handle(handle), device_json);
  if (!status) return TH_OK;
  th_cudnn_plan_destroy(*out);
  *out = NULL;
  th_cudnn_attention_format(&info.attention, has, sizeof has);
  return th_status_prefix(status, "cudnn plan: %s", has);
}

/* ---- running ---- */

static size_t up(size_t n) { return (n + 255) & ~(size_t)255; }

/* The pointers of all tensors of the graph, in order, and their ids; how many. */
static int64_t pointers_of(th_cudnn_plan *p, void *const data[TH_CUDNN_STRIDED], void *scratch, void *out[TH_CUDNN_TENSORS]) {
  const th_cudnn_attention *a = &p->attention;
  char *row_sums = (char *)scratch + up((size_t)p->made.workspace);
  size_t row_bytes = (size_t)a->batch * (size_t)a->heads * (size_t)a->length * sizeof(float);
  void *inside[TH_CUDNN_TENSORS] = {[TH_CUDNN_ROW_SUMS] = row_sums, [TH_CUDNN_DQ_SUMS] = row_sums + up(row_bytes), [TH_CUDNN_SCALE] = &p->scale,
                                    [TH_CUDNN_MINUS_INFINITY] = &p->minus_infinity, [TH_CUDNN_ONE] = &p->one};
  int64_t n = 0;
  for (int t = 0; t < TH_CUDNN_TENSORS; t++) {
    if (!th__cudnn_graph_uses(a, (th_cudnn_tensor)t)) continue;
    out[n] = t < TH_CUDNN_STRIDED ? data[t] : inside[t];
    p->ids[n++] = t + 1;
  }
  return n;
}

th_status th_cudnn_plan_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_STRIDED], float scale, void *stream, void *scratch,
                                size_t scratch_bytes) {
  size_t wanted = th_cudnn_plan_scratch_bytes(plan);
  char text[256];
  th_cudnn_attention_format(&plan->attention, text, sizeof text);
  if (scratch_bytes < wanted || (wanted && !scratch))
    return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: %s: it needs %zu bytes of scratch (%lld of them cuDNN's workspace) and has %zu", text, wanted, (long long)plan->made.workspace, scratch_bytes);
  for (int t = 0; t < TH_CUDNN_STRIDED; t++)
    if (th__cudnn_graph_uses(&plan->attention, (th_cudnn_tensor)t) && (!data[t] || (uintptr_t)data[t] % 16))
      return TH_ERROR(INVALID_ARGUMENT, "cudnn: %s: tensor %d lies at %p, which is not a multiple of 16", text, t, data[t]);
  plan->scale = scale;
  plan->minus_infinity = -INFINITY;
  plan->one = 1;
  void *pointers[TH_CUDNN_TENSORS];
  int64_t n = pointers_of(plan, data, scratch, pointers);
  return th_status_prefix(th__cudnn_run(handle, &plan->made, &plan->pack, plan->ids, pointers, n, scratch, stream), "%s", text);
}
