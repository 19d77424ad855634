/* cuDNN itself: the library and those it wants beside it, its statuses, its descriptors. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "executors/cudnn/cudnn_abi.h"
#include "executors/cudnn/plan.h"
#include "executors/vendor/vendor.h"

th__cudnn_functions th__cudnn;

/* libcuda.so.1: the driver's where there is one, else the stub. cuDNN opens it by that name and finds what is loaded. */
static th_status open_driver(const char *stub) {
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) || dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) || dlopen(stub, RTLD_NOW | RTLD_GLOBAL)) return TH_OK;
  const char *why = dlerror();
  return TH_ERROR(NOT_FOUND, "there is no libcuda.so.1, and its stand-in cannot be opened: %s", why ? why : stub);
}

/* NVRTC opens its built-ins by their bare name and its wheel has no run path, so they are loaded for it. */
static th_status open_nvrtc(void) {
  static const char hint[] = "pip install nvidia-cuda-nvrtc==13.0.88", *const name[] = {"nvrtcVersion"};
  union { void *symbol; int (*call)(int *major, int *minor); } version;
  void *library;
  char builtins[64];
  int major = 0, minor = 0;
  TH_TRY(th_vendor_open("libnvrtc.so.13", hint, &library));
  TH_TRY(th_vendor_symbols(library, "libnvrtc.so.13", name, &version.symbol, 1));
  if (version.call(&major, &minor)) return TH_ERROR(INTERNAL, "nvrtcVersion fails");
  snprintf(builtins, sizeof builtins, "libnvrtc-builtins.so.%d.%d", major, minor);
  return th_vendor_open(builtins, hint, &library);
}

static th_status open_library(const char *driver_stub) {
  static const char *const names[] = {
#define TH_CUDNN_NAME(result, name, parameters) "cudnn" #name,
      TH_CUDNN_FUNCTIONS(TH_CUDNN_NAME)
#undef TH_CUDNN_NAME
  };
  enum { COUNT = sizeof names / sizeof *names };
  union { void *symbols[COUNT]; th__cudnn_functions functions; } table;
  _Static_assert(sizeof table.symbols == sizeof table.functions, "a pointer a function");
  void *library;
  if (driver_stub) TH_TRY(open_driver(driver_stub));
  th_status status = th_status_join(open_nvrtc(), th_vendor_open("libcublasLt.so.13", "pip install nvidia-cublas==13.1.0.3", &library));
  if (status && driver_stub) return status; /* cuDNN without them finds no engine, or ends the process */
  th_status_free(status);                   /* in a rank torch has loaded what its cuDNN wants, whatever its name */
  TH_TRY(th_vendor_open("libcudnn.so.9", "pip install nvidia-cudnn-cu13==9.19.0.56", &library));
  TH_TRY(th_vendor_symbols(library, "libcudnn.so.9", names, table.symbols, COUNT));
  th__cudnn = table.functions;
  return TH_OK;
}

th_status th_cudnn_open(const char *driver_stub, uint32_t *out_version) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  *out_version = 0;
  pthread_mutex_lock(&lock);
  th_status status = th__cudnn.GetVersion ? TH_OK : open_library(driver_stub);
  pthread_mutex_unlock(&lock);
  if (!status) *out_version = (uint32_t)th__cudnn.GetVersion();
  return status;
}

static th_code code_of(cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH || status == CUDNN_STATUS_SERIALIZATION_VERSION_MISMATCH) return TH_CODE_FAILED_PRECONDITION;
  if (status == CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED) return TH_CODE_NOT_FOUND;
  if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED || status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) return TH_CODE_RESOURCE_EXHAUSTED;
  switch (status / 1000 * 1000) {
    case CUDNN_STATUS_BAD_PARAM: return TH_CODE_INVALID_ARGUMENT;
    case CUDNN_STATUS_NOT_SUPPORTED: return TH_CODE_UNIMPLEMENTED;
    default: return TH_CODE_INTERNAL;
  }
}

th_status th__cudnn_check(cudnnStatus_t status, const char *call) {
  if (status == CUDNN_STATUS_SUCCESS) return TH_OK;
  char words[1024] = "";
  th__cudnn.GetLastErrorString(words, sizeof words - 1);
  for (char *c = words; *c; c++)
    if (*c == '\n') *c = ' ';
  return th_status_create(code_of(status), __FILE__, __LINE__, "%s: %s (%d)%s%s", call, th__cudnn.GetErrorString(status), status, *words ? ": " : "", words);
}

/* ---- descriptors ---- */

cudnnBackendDescriptor_t th__cudnn_make(th__cudnn_pool *pool, int type) {
  cudnnBackendDescriptor_t made = NULL;
  if (pool->status) return NULL;
  if (pool->count == pool->capacity) {
    size_t capacity = pool->capacity ? pool->capacity * 2 : 128;
    void *items = realloc(pool->items, capacity * sizeof *pool->items);
    if (!items) {
      pool->status = TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for %zu descriptors", capacity);
      return NULL;
    }
    pool->items = items;
    pool->capacity = capacity;
  }
  pool->status = th__cudnn_check(th__cudnn.BackendCreateDescriptor(type, &made), "cudnnBackendCreateDescriptor");
  if (pool->status) return NULL;
  return pool->items[pool->count++] = made;
}

void th__cudnn_set(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, int type, int64_t count, const void *elements) {
  if (pool->status) return;
  pool->status = th_status_prefix(th__cudnn_check(th__cudnn.BackendSetAttribute(d, name, type, count, elements), "cudnnBackendSetAttribute"), "attribute %d", name);
}

void th__cudnn_set_descriptor(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, cudnnBackendDescriptor_t value) {
  th__cudnn_set(pool, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void th__cudnn_set_int(th__cudnn_pool *pool, cudnnBackendDescriptor_t d, int name, int type, int value) { th__cudnn_set(pool, d, name, type, 1, &value); }

void th__cudnn_finish(th__cudnn_pool *pool, cudnnBackendDescriptor_t d) {
  if (!pool->status) pool->status = th__cudnn_check(th__cudnn.BackendFinalize(d), "cudnnBackendFinalize");
}

void th__cudnn_pool_drop(th__cudnn_pool *pool) {
  while (pool->count) th__cudnn.BackendDestroyDescriptor(pool->items[--pool->count]);
  free(pool->items);
  th_status_free(pool->status);
  *pool = (th__cudnn_pool){0};
}
