/* Plans: made by cuDNN's heuristics, for a handle or for a device in words; written and read; run. */
#include "executors/cudnn/plan.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/cudnn_abi.h"
#include "executors/cudnn/graph.h"

/* Bytes of a plan, all numbers little-endian:
 *   "THCUDNN\n"   u32 format (1)   u32 cuDNN's version   i64 workspace   u64 bytes of JSON   i64 attention[45]   JSON
 * attention: dtype (its wire number), flags (1 backward, 2 causal, 4 deterministic), 7 sizes, 9 x 4 strides. Tensors are known by their place
 * in th_cudnn_tensor, so another order there is another format. */
enum { FORMAT = 1, NUMBERS = 9 + TH_CUDNN_STRIDED * 4, HEADER = 32 + NUMBERS * 8, ENGINES = 16 };
static const char MAGIC[8] = "THCUDNN\n";

struct th_cudnn_plan {
  th_cudnn_attention attention;
  th__cudnn_pool pool; /* owns `plan` and what it was made of */
  cudnnBackendDescriptor_t plan;
  int64_t workspace;
  /* The pointers of the last run and their variant pack: a step's buffers rarely move. */
  th__cudnn_pool pack_pool;
  cudnnBackendDescriptor_t pack;
  int64_t ids[TH_CUDNN_TENSORS];
  void *data[TH_CUDNN_TENSORS], *scratch;
  float scale, minus_infinity, one; /* what `data` points to for numbers */
};

struct th_cudnn_handle {
  pthread_mutex_t lock; /* from setting the stream to the end of the launch */
  cudnnHandle_t handle;
  void *stream;
  bool stream_set;
  int32_t device;
};

/* ---- bytes ---- */

static uint64_t get(const uint8_t *at, int n) {
  uint64_t value = 0;
  for (int i = n - 1; i >= 0; i--) value = value << 8 | at[i];
  return value;
}

static void put(uint8_t *at, uint64_t value, int n) {
  for (int i = 0; i < n; i++) at[i] = (uint8_t)(value >> 8 * i);
}

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
  *out = (th_cudnn_plan_info){0};
  if (size < HEADER || memcmp(bytes, MAGIC, sizeof MAGIC)) return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: these %zu bytes are no plan", size);
  if (get(bytes + 8, 4) != FORMAT) return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: its format is %llu, this build knows %d", (unsigned long long)get(bytes + 8, 4), FORMAT);
  if (get(bytes + 24, 8) != size - HEADER || size == HEADER)
    return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: it says %llu bytes and has %zu", (unsigned long long)get(bytes + 24, 8), size - HEADER);
  int64_t numbers[NUMBERS];
  for (int i = 0; i < NUMBERS; i++) numbers[i] = (int64_t)get(bytes + 32 + i * 8, 8);
  th_cudnn_plan_info info = {.version = (uint32_t)get(bytes + 12, 4), .workspace = (int64_t)get(bytes + 16, 8)};
  get_attention(numbers, &info.attention);
  if (info.workspace < 0) return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: its workspace has %lld bytes", (long long)info.workspace);
  *out = info;
  return TH_OK;
}

/* ---- making one ---- */

static cudnnBackendDescriptor_t device_of(th__cudnn_pool *pool, const char *json) {
  cudnnBackendDescriptor_t d = th__cudnn_make(pool, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  th__cudnn_set(pool, d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(json), json);
  th__cudnn_finish(pool, d);
  return pool->status ? NULL : d;
}

/* What cuDNN would try, best first, into configs[ENGINES]; *out_n of them. */
static th_status ask_heuristics(th__cudnn_pool *pool, cudnnBackendDescriptor_t graph, cudnnBackendDescriptor_t device, int mode, cudnnBackendDescriptor_t *configs, int64_t *out_n) {
  cudnnBackendDescriptor_t asked = th__cudnn_make(pool, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  *out_n = 0;
  th__cudnn_set_descriptor(pool, asked, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  th__cudnn_set_int(pool, asked, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
  if (device) th__cudnn_set_descriptor(pool, asked, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
  th__cudnn_finish(pool, asked);
  for (int i = 0; i < ENGINES; i++) configs[i] = th__cudnn_make(pool, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  if (!pool->status)
    pool->status = th__cudnn_check(th__cudnn.BackendGetAttribute(asked, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, ENGINES, out_n, configs),
                                   "cudnnBackendGetAttribute(ENGINEHEUR_RESULTS)");
  th_status status = pool->status; /* another mode may still do */
  pool->status = TH_OK;
  if (status) *out_n = 0;
  return status;
}

/* A finished plan of one configuration; where it fails the pool goes on. */
static th_status finish_plan(th_cudnn_plan *p, cudnnBackendDescriptor_t config, cudnnHandle_t handle, cudnnBackendDescriptor_t device) {
  cudnnBackendDescriptor_t plan = th__cudnn_make(&p->pool, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  th__cudnn_set_descriptor(&p->pool, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (device) th__cudnn_set_descriptor(&p->pool, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
  else th__cudnn_set(&p->pool, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  th__cudnn_finish(&p->pool, plan);
  th_status status = p->pool.status;
  p->pool.status = TH_OK;
  if (!status) p->plan = plan;
  return status;
}

static th_status read_workspace(th_cudnn_plan *p) {
  int64_t n = 0;
  TH_TRY(th__cudnn_check(th__cudnn.BackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &p->workspace),
                         "cudnnBackendGetAttribute(EXECUTION_PLAN_WORKSPACE_SIZE)"));
  return p->workspace >= 0 ? TH_OK : TH_ERROR(INTERNAL, "cudnn says that a plan needs %lld bytes of workspace", (long long)p->workspace);
}

static th_status allocate(const th_cudnn_attention *a, th_cudnn_plan **out) {
  if (!(*out = calloc(1, sizeof **out))) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for a plan");
  (*out)->attention = *a;
  th_cudnn_attention_normalize(&(*out)->attention);
  return TH_OK;
}

static th_status choose(th_cudnn_plan *p, cudnnHandle_t handle, const char *device_json) {
  static const int modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
  cudnnBackendDescriptor_t device = device_json ? device_of(&p->pool, device_json) : NULL, configs[ENGINES];
  cudnnBackendDescriptor_t graph = p->pool.status ? NULL : th__cudnn_graph(&p->pool, &p->attention, handle);
  th_status failed = p->pool.status;
  p->pool.status = TH_OK;
  if (failed) return failed;
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    int64_t n;
    th_status status = ask_heuristics(&p->pool, graph, device, modes[m], configs, &n);
    for (int64_t i = 0; i < n && !p->plan; i++) status = th_status_join(status, finish_plan(p, configs[i], handle, device));
    if (p->plan) { /* the failures of those before it are of no interest */
      th_status_free(status);
      th_status_free(failed);
      return read_workspace(p);
    }
    failed = th_status_join(failed, status);
  }
  return failed ? failed : TH_ERROR(UNIMPLEMENTED, "cudnn %zu has no engine for this%s", th__cudnn.GetVersion(), device_json ? " on the device asked for" : "");
}

static th_status create(const th_cudnn_attention *a, cudnnHandle_t handle, const char *device_json, th_cudnn_plan **out) {
  uint32_t version;
  char text[256];
  *out = NULL;
  TH_TRY(th_cudnn_open(NULL, &version));
  TH_TRY(th_cudnn_attention_check(a, version));
  TH_TRY(allocate(a, out));
  th_status status = choose(*out, handle, device_json);
  if (!status) return TH_OK;
  th_cudnn_plan_destroy(*out);
  *out = NULL;
  th_cudnn_attention_format(a, text, sizeof text);
  return th_status_prefix(status, "cudnn: %s", text);
}

th_status th_cudnn_plan_create(const th_cudnn_attention *a, th_cudnn_handle *handle, th_cudnn_plan **out) { return create(a, handle->handle, NULL, out); }

void th_cudnn_plan_destroy(th_cudnn_plan *plan) {
  if (!plan) return;
  th__cudnn_pool_drop(&plan->pack_pool);
  th__cudnn_pool_drop(&plan->pool);
  free(plan);
}

const th_cudnn_attention *th_cudnn_plan_attention(const th_cudnn_plan *plan) { return &plan->attention; }
size_t th_cudnn_plan_scratch_bytes(const th_cudnn_plan *plan) { return th_cudnn_scratch_bytes(&plan->attention, plan->workspace); }

/* ---- writing and reading ---- */

static th_status write_plan(const th_cudnn_plan *p, uint8_t **out_bytes, size_t *out_size) {
  static const char call[] = "cudnnBackendGetAttribute(EXECUTION_PLAN_JSON_REPRESENTATION)";
  int64_t wanted = 0, length = 0, numbers[NUMBERS];
  TH_TRY(th__cudnn_check(th__cudnn.BackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0, &wanted, NULL), call));
  if (wanted <= 0) return TH_ERROR(INTERNAL, "cudnn's plan has %lld bytes of JSON", (long long)wanted);
  uint8_t *bytes = calloc(1, HEADER + (size_t)wanted + 1);
  if (!bytes) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for the %lld bytes of a plan", (long long)wanted);
  th_status status = th__cudnn_check(
      th__cudnn.BackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, wanted, &length, bytes + HEADER), call);
  if (status) {
    free(bytes);
    return status;
  }
  if (length < wanted) wanted = length;
  while (wanted && !bytes[HEADER + wanted - 1]) wanted--; /* whether its NUL is counted */
  th__cudnn_scrub((char *)bytes + HEADER, (size_t)wanted, &p->attention);
  memcpy(bytes, MAGIC, sizeof MAGIC);
  put(bytes + 8, FORMAT, 4);
  put(bytes + 12, th__cudnn.GetVersion(), 4);
  put(bytes + 16, (uint64_t)p->workspace, 8);
  put(bytes + 24, (uint64_t)wanted, 8);
  put_attention(&p->attention, numbers);
  for (int i = 0; i < NUMBERS; i++) put(bytes + 32 + i * 8, (uint64_t)numbers[i], 8);
  *out_bytes = bytes;
  *out_size = HEADER + (size_t)wanted;
  return TH_OK;
}

th_status th_cudnn_plan_prepare(const th_cudnn_attention *a, const char *device_json, uint8_t **out_bytes, size_t *out_size) {
  th_cudnn_plan *plan;
  *out_bytes = NULL;
  *out_size = 0;
  TH_TRY(create(a, NULL, device_json, &plan));
  th_status status = write_plan(plan, out_bytes, out_size);
  th_cudnn_plan_destroy(plan);
  return status;
}

static th_status load(th_cudnn_plan *p, const char *json, size_t size, cudnnHandle_t handle, const char *device_json) {
  cudnnBackendDescriptor_t device = device_json ? device_of(&p->pool, device_json) : NULL;
  p->plan = th__cudnn_make(&p->pool, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  if (device_json) th__cudnn_set_descriptor(&p->pool, p->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
  else th__cudnn_set(&p->pool, p->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  th__cudnn_set(&p->pool, p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)size, json);
  th__cudnn_finish(&p->pool, p->plan);
  th_status status = p->pool.status;
  p->pool.status = TH_OK;
  return status ? status : read_workspace(p);
}

th_status th_cudnn_plan_read(const uint8_t *bytes, size_t size, const th_cudnn_attention *wanted, th_cudnn_handle *handle, const char *device_json, th_cudnn_plan **out) {
  th_cudnn_plan_info info;
  uint32_t version;
  char has[256], wants[256];
  *out = NULL;
  TH_TRY(th_cudnn_plan_inspect(bytes, size, &info));
  TH_TRY(th_cudnn_open(NULL, &version));
  if (info.version != version)
    return TH_ERROR(FAILED_PRECONDITION, "cudnn plan: it was made by cuDNN %u.%u.%u, and this process has %u.%u.%u", info.version / 10000, info.version / 100 % 100,
                    info.version % 100, version / 10000, version / 100 % 100, version % 100);
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
  th_status status = load(*out, (const char *)bytes + HEADER, size - HEADER, handle ? handle->handle : NULL, device_json);
  if (!status) return TH_OK;
  th_cudnn_plan_destroy(*out);
  *out = NULL;
  th_cudnn_attention_format(&info.attention, has, sizeof has);
  return th_status_prefix(status, "cudnn plan: %s", has);
}

/* ---- running ---- */

th_status th_cudnn_handle_get(int32_t device, th_cudnn_handle **out) {
  enum { DEVICES = 64 };
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static th_cudnn_handle *all[DEVICES];
  uint32_t version;
  *out = NULL;
  if (device < 0 || device >= DEVICES) return TH_ERROR(INVALID_ARGUMENT, "cudnn: there is no device %d", device);
  TH_TRY(th_cudnn_open(NULL, &version));
  pthread_mutex_lock(&lock);
  th_status status = TH_OK;
  if (!all[device]) {
    th_cudnn_handle *made = calloc(1, sizeof *made);
    status = made ? th__cudnn_check(th__cudnn.Create(&made->handle), "cudnnCreate") : TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for a handle");
    if (!status) {
      pthread_mutex_init(&made->lock, NULL);
      made->device = device;
      all[device] = made;
    } else {
      free(made);
    }
  }
  *out = all[device];
  pthread_mutex_unlock(&lock);
  return th_status_prefix(status, "device %d", device);
}

static size_t up(size_t n) { return (n + 255) & ~(size_t)255; }

/* The variant pack of these pointers: the last one where nothing moved. */
static th_status pack(th_cudnn_plan *p, void *const data[TH_CUDNN_STRIDED], void *scratch) {
  const th_cudnn_attention *a = &p->attention;
  char *row_sums = (char *)scratch + up((size_t)p->workspace);
  size_t row_bytes = (size_t)a->batch * (size_t)a->heads * (size_t)a->length * sizeof(float);
  void *inside[TH_CUDNN_TENSORS] = {[TH_CUDNN_ROW_SUMS] = row_sums, [TH_CUDNN_DQ_SUMS] = row_sums + up(row_bytes), [TH_CUDNN_SCALE] = &p->scale,
                                    [TH_CUDNN_MINUS_INFINITY] = &p->minus_infinity, [TH_CUDNN_ONE] = &p->one};
  void *pointers[TH_CUDNN_TENSORS];
  int64_t n = 0;
  for (int t = 0; t < TH_CUDNN_TENSORS; t++) {
    if (!th__cudnn_graph_uses(a, (th_cudnn_tensor)t)) continue;
    pointers[n] = t < TH_CUDNN_STRIDED ? data[t] : inside[t];
    p->ids[n++] = t + 1;
  }
  if (p->pack && p->scratch == scratch && !memcmp(p->data, pointers, (size_t)n * sizeof *pointers)) return TH_OK;
  th__cudnn_pool_drop(&p->pack_pool);
  p->pack = th__cudnn_make(&p->pack_pool, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  th__cudnn_set(&p->pack_pool, p->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, p->ids);
  th__cudnn_set(&p->pack_pool, p->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
  th__cudnn_set(&p->pack_pool, p->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &scratch);
  th__cudnn_finish(&p->pack_pool, p->pack);
  memcpy(p->data, pointers, (size_t)n * sizeof *pointers);
  p->scratch = scratch;
  th_status status = p->pack_pool.status;
  p->pack_pool.status = TH_OK;
  if (status) p->pack = NULL;
  return status;
}

static th_status set_stream(th_cudnn_handle *h, void *stream) {
  if (h->stream_set && h->stream == stream) return TH_OK;
  TH_TRY(th__cudnn_check(th__cudnn.SetStream(h->handle, stream), "cudnnSetStream"));
  h->stream = stream;
  h->stream_set = true;
  return TH_OK;
}

th_status th_cudnn_plan_execute(th_cudnn_plan *plan, th_cudnn_handle *handle, void *const data[TH_CUDNN_STRIDED], float scale, void *stream, void *scratch,
                                size_t scratch_bytes) {
  size_t wanted = th_cudnn_plan_scratch_bytes(plan);
  char text[256];
  th_cudnn_attention_format(&plan->attention, text, sizeof text);
  if (scratch_bytes < wanted || (wanted && !scratch))
    return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: %s: it needs %zu bytes of scratch (%lld of them cuDNN's workspace) and has %zu", text, wanted, (long long)plan->workspace, scratch_bytes);
  for (int t = 0; t < TH_CUDNN_STRIDED; t++)
    if (th__cudnn_graph_uses(&plan->attention, (th_cudnn_tensor)t) && (!data[t] || (uintptr_t)data[t] % 16))
      return TH_ERROR(INVALID_ARGUMENT, "cudnn: %s: tensor %d lies at %p, which is not a multiple of 16", text, t, data[t]);
  plan->scale = scale;
  plan->minus_infinity = -INFINITY;
  plan->one = 1;
  TH_TRY(pack(plan, data, scratch));
  pthread_mutex_lock(&handle->lock);
  th_status status = set_stream(handle, stream);
  if (!status) status = th__cudnn_check(th__cudnn.BackendExecute(handle->handle, plan->plan, plan->pack), "cudnnBackendExecute");
  pthread_mutex_unlock(&handle->lock);
  return th_status_prefix(status, "device %d: %s", handle->device, text);
}
