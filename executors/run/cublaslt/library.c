#include "executors/run/cublaslt/library.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/vendor/vendor.h"

enum { MAX_DEVICES = 64 };

static th__lt_library library;
static bool loaded;
static th__lt_device devices[MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

th_status th__lt_check(const th__lt_library *l, int status, const char *call) {
  if (status == LT_SUCCESS) return TH_OK;
  const char *name = l->status_name(status);
  if (!name) name = "unknown";
  if (status == LT_NOT_SUPPORTED || status == LT_ARCH_MISMATCH) return TH_ERROR(UNIMPLEMENTED, "%s: %s (%d)", call, name, status);
  if (status == LT_ALLOC_FAILED) return TH_ERROR(RESOURCE_EXHAUSTED, "%s: %s (%d)", call, name, status);
  return TH_ERROR(INTERNAL, "%s: %s (%d)", call, name, status);
}

th_status th__cu_check(const th__lt_library *l, int result, const char *call) {
  const char *name = NULL;
  if (!result) return TH_OK;
  if (l->cu.error_name(result, &name) || !name) name = "unknown";
  if (result == 2 /* CUDA_ERROR_OUT_OF_MEMORY */) return TH_ERROR(RESOURCE_EXHAUSTED, "%s: %s (%d)", call, name, result);
  return TH_ERROR(INTERNAL, "%s: %s (%d)", call, name, result);
}

static th_status load(th__lt_library *l) {
#define NAME(field, symbol, arguments) #symbol,
  static const char *const lt_names[] = {LT_FUNCTIONS(NAME) "cublasLtGetVersion", "cublasLtGetStatusName"}, *const cu_names[] = {CU_FUNCTIONS(NAME)};
#undef NAME
  void *handle, *lt[sizeof lt_names / sizeof *lt_names], *cu[sizeof cu_names / sizeof *cu_names];
  TH_TRY(th_vendor_open("libcuda.so.1", "install NVIDIA's driver", &handle));
  TH_TRY(th_vendor_symbols(handle, "libcuda.so.1", cu_names, cu, sizeof cu / sizeof *cu));
  TH_TRY(th_vendor_open("libcublasLt.so.13", "pip install nvidia-cublas==13.1.0.3, or set THUNDER_CUDA_LIBS to its folder", &handle));
  TH_TRY(th_vendor_symbols(handle, "libcublasLt.so.13", lt_names, lt, sizeof lt / sizeof *lt));
  _Static_assert(sizeof l->lt == sizeof lt - 2 * sizeof *lt && sizeof l->cu == sizeof cu, "one pointer for each name");
  memcpy(&l->lt, lt, sizeof l->lt);
  memcpy(&l->cu, cu, sizeof l->cu);
  memcpy(&l->version, &lt[sizeof lt / sizeof *lt - 2], sizeof l->version);
  memcpy(&l->status_name, &lt[sizeof lt / sizeof *lt - 1], sizeof l->status_name);
  return TH_OK;
}

static th_status start(int32_t number, th__lt_device *d) {
  char name[128] = "";
  int device, driver;
  TH_TRY(CU_CALL(&library, device_get, &device, number));
  TH_TRY(CU_CALL(&library, device_name, name, sizeof name, device));
  TH_TRY(CU_CALL(&library, driver_version, &driver));
  name[sizeof name - 1] = 0;
  snprintf(d->where, sizeof d->where, "%s; driver %d; cublasLt %zu", name, driver, library.version());
  TH_TRY(LT_CALL(&library, create, &d->handle));
  d->library = &library; /* last: it is there */
  return TH_OK;
}

th_status th__lt_open(int32_t number, const th__lt_device **out) {
  *out = NULL;
  if (number < 0 || number >= MAX_DEVICES) return TH_ERROR(OUT_OF_RANGE, "device %d: from 0 to %d are known", number, MAX_DEVICES - 1);
  th_status status = TH_OK;
  pthread_mutex_lock(&lock);
  if (!loaded && !(status = load(&library))) loaded = true;
  if (!status && !devices[number].library) status = start(number, &devices[number]);
  pthread_mutex_unlock(&lock);
  if (!status) *out = &devices[number];
  return status;
}
