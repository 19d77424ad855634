#include "executors/run/cuda/driver.h"

#include <pthread.h>
#include <string.h>

#include "executors/vendor/vendor.h"

static const char *const symbols[] = {
#define X(function, symbol, arguments) #symbol,
    TH_CUDA_CALLS(X)
#undef X
};
static const char *const functions[] = {
#define X(function, symbol, arguments) #function,
    TH_CUDA_CALLS(X)
#undef X
};
enum { CALLS = sizeof symbols / sizeof *symbols };
_Static_assert(sizeof(th_cuda_driver) == CALLS * sizeof(void *), "the table is nothing but functions");

th_status th_cuda_driver_open(const th_cuda_driver **out) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static th_cuda_driver driver;
  static bool open;
  void *library, *found[CALLS];
  th_status status = TH_OK;
  *out = NULL;
  pthread_mutex_lock(&lock);
  if (!open) {
    status = th_vendor_open("libcuda.so.1", "it comes with the NVIDIA driver", &library);
    if (!status) status = th_vendor_symbols(library, "libcuda.so.1", symbols, found, CALLS);
    if (!status) {
      memcpy(&driver, found, sizeof driver);
      status = TH_CUDA(&driver, init, (0));
    }
    open = !status;
  }
  pthread_mutex_unlock(&lock);
  if (!status) *out = &driver;
  return status;
}

th_status th_cuda_status(const th_cuda_driver *driver, CUresult result, const char *call, const char *file, int line) {
  if (!result) return TH_OK;
  const char *name = NULL, *text = NULL;
  if (driver->error_name(result, &name) || !name) name = "an error without a name";
  if (driver->error_text(result, &text) || !text) text = "no text";
  for (size_t i = 0; i < CALLS; i++)
    if (!strcmp(functions[i], call)) call = symbols[i];
  th_code code = result == TH_CU_OUT_OF_MEMORY ? TH_CODE_RESOURCE_EXHAUSTED : result == TH_CU_NO_DEVICE || result == TH_CU_INVALID_DEVICE ? TH_CODE_UNAVAILABLE : TH_CODE_INTERNAL;
  return th_status_create(code, file, line, "%s: %s (%d): %s", call, name, result, text);
}

th_status th_cuda_context_enter(const th_cuda_driver *driver, CUcontext context, CUcontext *out_before) {
  TH_TRY(TH_CUDA(driver, context_get, (out_before)));
  return *out_before == context ? TH_OK : TH_CUDA(driver, context_set, (context));
}

void th_cuda_context_leave(const th_cuda_driver *driver, CUcontext context, CUcontext before) {
  if (before && before != context) driver->context_set(before);
}
