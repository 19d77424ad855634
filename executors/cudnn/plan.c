/* Plans of any kind: made, written and read. */
#include "executors/cudnn/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/engine.h"

enum { TEXT = 512 };

/* ---- devices ---- */

size_t th_cudnn_device_json(const th_cudnn_device *d, char *buffer, size_t size) {
  char name[32];
  snprintf(name, sizeof name, "sm_%d%d", d->sm_major, d->sm_minor);
  int n = snprintf(buffer, size,
                   "{\"deviceVer\":%d,\"multiProcessorCount\":%d,\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
                   "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerSM\":2048,\"maxThreadsPerBlock\":1024,\"regsPerBlock\":65536,\"warpSize\":32,"
                   "\"maxSharedMemoryPerBlock\":49152,\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"smClockRateKHz\":%d,"
                   "\"memClockRateKHz\":%d,\"l2CacheSize\":%lld,\"totalGlobalMem\":%lld,\"driverVer\":%d,\"supportCoopLaunch\":1,\"isTccDriver\":0,"
                   "\"pciDeviceId\":0,\"cudaDeviceId\":0,\"deviceName\":\"%s\",\"smCountOrigin\":0,\"oversizedSharedMemoryPerBlock\":0,\"memoryBusWidth\":%d}",
                   d->sm_major * 100 + d->sm_minor * 10, d->sms, d->shared_per_block_optin, d->sm_clock_khz ? d->sm_clock_khz : 1980000,
                   d->memory_clock_khz ? d->memory_clock_khz : 2619000, (long long)d->l2_bytes, (long long)d->memory_bytes,
                   d->driver_version ? d->driver_version : 13000, d->name ? d->name : name, d->memory_bus_bits ? d->memory_bus_bits : 5120);
  return n < 0 ? 0 : (size_t)n;
}

/* ---- descriptions ---- */

bool th_cudnn_equal(const th_cudnn_kind *kind, const void *a, const void *b) {
  int64_t x[TH__CUDNN_NUMBERS], y[TH__CUDNN_NUMBERS];
  kind->put(a, x);
  kind->put(b, y);
  return !memcmp(x, y, kind->format.n_numbers * sizeof *x);
}

size_t th_cudnn_format(const th_cudnn_kind *kind, const void *what, char *buffer, size_t size) { return kind->text(what, buffer, size); }

/* ---- plans ---- */

/* `what` NULL: for th_cudnn_plan_inspect. */
static th_status allocate(const th_cudnn_kind *kind, const void *what, th_cudnn_plan **out) {
  if (!(*out = calloc(1, sizeof **out))) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for a plan");
  (*out)->kind = kind;
  if (what) memcpy((*out)->what.bytes, what, kind->bytes);
  if (what && kind->normalize) kind->normalize((*out)->what.bytes);
  return TH_OK;
}

void th_cudnn_plan_destroy(th_cudnn_plan *plan) {
  if (!plan) return;
  th__cudnn_pool_drop(&plan->pack.pool);
  th__cudnn_pool_drop(&plan->made.pool);
  free(plan);
}

static th_status or_none(th_status status, th_cudnn_plan **out) {
  if (!status) return TH_OK;
  th_cudnn_plan_destroy(*out);
  *out = NULL;
  return status;
}

static th_status create(const th_cudnn_kind *kind, const void *what, cudnnHandle_t handle, const char *device_json, th_cudnn_plan **out) {
  uint32_t version;
  char text[TEXT];
  *out = NULL;
  TH_TRY(th_cudnn_open(NULL, &version));
  TH_TRY(kind->check(what, version));
  TH_TRY(allocate(kind, what, out));
  th__cudnn_rules rules = kind->rules((*out)->what.bytes);
  th_status status = th__cudnn_choose(&(*out)->made, kind->graph, (*out)->what.bytes, &rules, handle, device_json);
  if (!status) return TH_OK;
  th_cudnn_format(kind, what, text, sizeof text);
  return or_none(th_status_prefix(status, "cudnn: %s", text), out);
}

th_status th_cudnn_plan_create(const th_cudnn_kind *kind, const void *what, th_cudnn_handle *handle, th_cudnn_plan **out) {
  return create(kind, what, th__cudnn_handle(handle), NULL, out);
}

const void *th_cudnn_plan_what(const th_cudnn_plan *plan) { return plan->what.bytes; }
size_t th_cudnn_plan_scratch_bytes(const th_cudnn_plan *plan) { return plan->kind->scratch(plan->what.bytes, plan->made.workspace); }

/* ---- bytes ---- */

th_status th_cudnn_plan_prepare(const th_cudnn_kind *kind, const void *what, const char *device_json, uint8_t **out_bytes, size_t *out_size) {
  th_cudnn_plan *plan;
  int64_t numbers[TH__CUDNN_NUMBERS], dims[4];
  *out_bytes = NULL;
  *out_size = 0;
  TH_TRY(create(kind, what, NULL, device_json, &plan));
  kind->put(plan->what.bytes, numbers);
  th_status status = th__cudnn_write(&plan->made, &kind->format, numbers, out_bytes, out_size);
  size_t header = th__cudnn_header_bytes(&kind->format);
  if (kind->plain) kind->plain(plan->what.bytes, dims);
  if (!status) th__cudnn_scrub((char *)*out_bytes + header, *out_size - header, kind->plain ? dims : NULL);
  th_cudnn_plan_destroy(plan);
  return status;
}

th_status th_cudnn_plan_inspect(const th_cudnn_kind *kind, const uint8_t *bytes, size_t size, th_cudnn_plan_info *out, void *out_what) {
  int64_t numbers[TH__CUDNN_NUMBERS];
  *out = (th_cudnn_plan_info){0};
  TH_TRY(th__cudnn_read(bytes, size, &kind->format, numbers, &out->version, &out->workspace));
  kind->get(numbers, out_what);
  return TH_OK;
}

/* FAILED_PRECONDITION where the plan is not of `wanted`. */
static th_status is_of(const th_cudnn_plan *plan, const void *wanted) {
  char has[TEXT], wants[TEXT];
  th_cudnn_plan *other; /* `wanted`, normalized */
  TH_TRY(allocate(plan->kind, wanted, &other));
  bool same = th_cudnn_equal(plan->kind, other->what.bytes, plan->what.bytes);
  th_cudnn_format(plan->kind, plan->what.bytes, has, sizeof has);
  th_cudnn_format(plan->kind, other->what.bytes, wants, sizeof wants);
  th_cudnn_plan_destroy(other);
  return same ? TH_OK : TH_ERROR(FAILED_PRECONDITION, "cudnn plan: it is for %s; wanted is %s%s", has, wants, strcmp(has, wants) ? "" : ", with other strides");
}

static th_status read_plan(th_cudnn_plan *plan, const uint8_t *bytes, size_t size, const void *wanted, th_cudnn_handle *handle, const char *device_json) {
  th_cudnn_plan_info info;
  char text[TEXT];
  size_t header = th__cudnn_header_bytes(&plan->kind->format);
  TH_TRY(th_cudnn_plan_inspect(plan->kind, bytes, size, &info, plan->what.bytes));
  TH_TRY(th__cudnn_same_version(info.version));
  if (wanted) TH_TRY(is_of(plan, wanted));
  th_status status = th__cudnn_load(&plan->made, (const char *)bytes + header, size - header, th__cudnn_handle(handle), device_json);
  if (!status) return TH_OK;
  th_cudnn_format(plan->kind, plan->what.bytes, text, sizeof text);
  return th_status_prefix(status, "cudnn plan: %s", text);
}

th_status th_cudnn_plan_read(const th_cudnn_kind *kind, const uint8_t *bytes, size_t size, const void *wanted, th_cudnn_handle *handle, const char *device_json,
                             th_cudnn_plan **out) {
  TH_TRY(allocate(kind, NULL, out));
  return or_none(read_plan(*out, bytes, size, wanted, handle, device_json), out);
}
