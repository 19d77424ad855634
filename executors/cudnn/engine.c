/* See engine.h. */
#include "executors/cudnn/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ENGINES = 16, HEAD = 32 };

struct th_cudnn_handle {
  pthread_mutex_t lock; /* from setting the stream to the end of the launch */
  cudnnHandle_t handle;
  void *stream;
  bool stream_set;
  int32_t device;
};

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
static th_status finish_plan(th__cudnn_made *p, cudnnBackendDescriptor_t config, cudnnHandle_t handle, cudnnBackendDescriptor_t device) {
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

static th_status read_workspace(th__cudnn_made *p) {
  int64_t n = 0;
  TH_TRY(th__cudnn_check(th__cudnn.BackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &p->workspace),
                         "cudnnBackendGetAttribute(EXECUTION_PLAN_WORKSPACE_SIZE)"));
  return p->workspace >= 0 ? TH_OK : TH_ERROR(INTERNAL, "cudnn says that a plan needs %lld bytes of workspace", (long long)p->workspace);
}

/* Has the engine of `config` one of the numerical notes `refused`? What does not say is taken as it is. */
static bool is_refused(th__cudnn_pool *pool, cudnnBackendDescriptor_t config, uint32_t refused) {
  int notes[32];
  int64_t n = 0;
  cudnnBackendDescriptor_t engine = refused ? th__cudnn_make(pool, CUDNN_BACKEND_ENGINE_DESCRIPTOR) : NULL;
  memset(notes, -1, sizeof notes);
  if (!engine || th__cudnn.BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine)) return false;
  if (th__cudnn.BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 32, &n, notes)) return false;
  for (int64_t i = 0; i < n && i < 32; i++)
    if (notes[i] >= 0 && notes[i] < 32 && refused >> notes[i] & 1) return true;
  return false;
}

/* A plan of `config` that keeps to the rules; else p->plan stays NULL. */
static th_status try_config(th__cudnn_made *p, cudnnBackendDescriptor_t config, const th__cudnn_rules *rules, cudnnHandle_t handle, cudnnBackendDescriptor_t device) {
  if (is_refused(&p->pool, config, rules->refused)) return TH_ERROR(UNIMPLEMENTED, "an engine computes with less precision, or in another order each time");
  th_status status = finish_plan(p, config, handle, device);
  if (!status) status = read_workspace(p);
  if (!status && rules->workspace >= 0 && p->workspace > rules->workspace)
    status = TH_ERROR(UNIMPLEMENTED, "an engine wants %lld bytes of workspace, %lld are allowed", (long long)p->workspace, (long long)rules->workspace);
  if (status) p->plan = NULL;
  return status;
}

th_status th__cudnn_choose(th__cudnn_made *p, th__cudnn_graph_fn make_graph, const void *what, const th__cudnn_rules *rules, cudnnHandle_t handle, const char *device_json) {
  static const int modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
  cudnnBackendDescriptor_t device = device_json ? device_of(&p->pool, device_json) : NULL, configs[ENGINES];
  cudnnBackendDescriptor_t graph = p->pool.status ? NULL : make_graph(&p->pool, what, handle);
  th_status failed = p->pool.status;
  p->pool.status = TH_OK;
  if (failed) return failed;
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    int64_t n;
    th_status status = ask_heuristics(&p->pool, graph, device, modes[m], configs, &n);
    for (int64_t i = 0; i < n && !p->plan; i++) status = th_status_join(status, try_config(p, configs[i], rules, handle, device));
    if (p->plan) { /* the failures of those before it are of no interest */
      th_status_free(status);
      th_status_free(failed);
      return TH_OK;
    }
    failed = th_status_join(failed, status);
  }
  return failed ? failed : TH_ERROR(UNIMPLEMENTED, "cudnn %zu has no engine for this%s", th__cudnn.GetVersion(), device_json ? " on the device asked for" : "");
}

/* ---- bytes ---- */

static uint64_t get(const uint8_t *at, int n) {
  uint64_t value = 0;
  for (int i = n - 1; i >= 0; i--) value = value << 8 | at[i];
  return value;
}

static void put(uint8_t *at, uint64_t value, int n) {
  for (int i = 0; i < n; i++) at[i] = (uint8_t)(value >> 8 * i);
}

size_t th__cudnn_header_bytes(const th__cudnn_format *format) { return HEAD + format->n_numbers * 8; }

th_status th__cudnn_write(const th__cudnn_made *made, const th__cudnn_format *format, const int64_t *numbers, uint8_t **out_bytes, size_t *out_size) {
  static const char call[] = "cudnnBackendGetAttribute(EXECUTION_PLAN_JSON_REPRESENTATION)";
  int64_t wanted = 0, length = 0;
  size_t header = th__cudnn_header_bytes(format);
  TH_TRY(th__cudnn_check(th__cudnn.BackendGetAttribute(made->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0, &wanted, NULL), call));
  if (wanted <= 0) return TH_ERROR(INTERNAL, "cudnn's plan has %lld bytes of JSON", (long long)wanted);
  uint8_t *bytes = calloc(1, header + (size_t)wanted + 1);
  if (!bytes) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for the %lld bytes of a plan", (long long)wanted);
  th_status status = th__cudnn_check(
      th__cudnn.BackendGetAttribute(made->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, wanted, &length, bytes + header), call);
  if (status) {
    free(bytes);
    return status;
  }
  if (length < wanted) wanted = length;
  while (wanted && !bytes[header + (size_t)wanted - 1]) wanted--; /* whether its NUL is counted */
  memcpy(bytes, format->magic, 8);
  put(bytes + 8, format->number, 4);
  put(bytes + 12, th__cudnn.GetVersion(), 4);
  put(bytes + 16, (uint64_t)made->workspace, 8);
  put(bytes + 24, (uint64_t)wanted, 8);
  for (size_t i = 0; i < format->n_numbers; i++) put(bytes + HEAD + i * 8, (uint64_t)numbers[i], 8);
  *out_bytes = bytes;
  *out_size = header + (size_t)wanted;
  return TH_OK;
}

th_status th__cudnn_read(const uint8_t *bytes, size_t size, const th__cudnn_format *format, int64_t *out_numbers, uint32_t *out_version, int64_t *out_workspace) {
  size_t header = th__cudnn_header_bytes(format);
  *out_version = 0;
  *out_workspace = 0;
  if (size < header || memcmp(bytes, format->magic, 8)) return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: these %zu bytes are no plan", size);
  if (get(bytes + 8, 4) != format->number)
    return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: its format is %llu, this build knows %u", (unsigned long long)get(bytes + 8, 4), format->number);
  if (get(bytes + 24, 8) != size - header || size == header)
    return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: it says %llu bytes and has %zu", (unsigned long long)get(bytes + 24, 8), size - header);
  if (bytes[23] & 0x80) return TH_ERROR(INVALID_ARGUMENT, "cudnn plan: its workspace has %lld bytes", (long long)get(bytes + 16, 8));
  *out_version = (uint32_t)get(bytes + 12, 4);
  *out_workspace = (int64_t)get(bytes + 16, 8);
  for (size_t i = 0; i < format->n_numbers; i++) out_numbers[i] = (int64_t)get(bytes + HEAD + i * 8, 8);
  return TH_OK;
}

th_status th__cudnn_same_version(uint32_t has) {
  uint32_t version;
  TH_TRY(th_cudnn_open(NULL, &version));
  if (has == version) return TH_OK;
  return TH_ERROR(FAILED_PRECONDITION, "cudnn plan: it was made by cuDNN %u.%u.%u, and this process has %u.%u.%u", has / 10000, has / 100 % 100, has % 100, version / 10000,
                  version / 100 % 100, version % 100);
}

th_status th__cudnn_load(th__cudnn_made *p, const char *json, size_t size, cudnnHandle_t handle, const char *device_json) {
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

cudnnHandle_t th__cudnn_handle(const th_cudnn_handle *handle) { return handle ? handle->handle : NULL; }

static th_status fill(th__cudnn_pack *p, const int64_t *ids, void *const *data, int64_t n, void *scratch) {
  if (p->pack && p->scratch == scratch && !memcmp(p->data, data, (size_t)n * sizeof *data)) return TH_OK;
  th__cudnn_pool_drop(&p->pool);
  p->pack = th__cudnn_make(&p->pool, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  th__cudnn_set(&p->pool, p->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
  th__cudnn_set(&p->pool, p->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, data);
  th__cudnn_set(&p->pool, p->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &scratch);
  th__cudnn_finish(&p->pool, p->pack);
  memcpy(p->data, data, (size_t)n * sizeof *data);
  p->scratch = scratch;
  th_status status = p->pool.status;
  p->pool.status = TH_OK;
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

th_status th__cudnn_run(th_cudnn_handle *handle, const th__cudnn_made *made, th__cudnn_pack *pack, const int64_t *ids, void *const *data, int64_t n, void *scratch, void *stream) {
  TH_TRY(fill(pack, ids, data, n, scratch));
  pthread_mutex_lock(&handle->lock);
  th_status status = set_stream(handle, stream);
  if (!status) status = th__cudnn_check(th__cudnn.BackendExecute(handle->handle, made->plan, pack->pack), "cudnnBackendExecute");
  pthread_mutex_unlock(&handle->lock);
  return th_status_prefix(status, "device %d", handle->device);
}
