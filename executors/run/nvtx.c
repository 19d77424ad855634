#include "executors/run/nvtx.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "ir/base/log.h"

/* Entries of each module's table, the unused first one included (NVTX_CBID_…_SIZE): -, core, cuda, opencl, cudart, core2, sync. */
static const unsigned sizes[TH_NVTX_MODULES] = {0, 16, 9, 15, 7, 16, 7};
static th_nvtx_function functions[TH_NVTX_MODULES][TH_NVTX_SLOTS], *tables[TH_NVTX_MODULES][TH_NVTX_SLOTS + 1];

static int function_table(int module, th_nvtx_function ***out_table, unsigned *out_size) {
  if (module <= 0 || module >= TH_NVTX_MODULES) return 0;
  for (unsigned i = 1; i < sizes[module]; i++) tables[module][i] = &functions[module][i];
  if (out_table) *out_table = tables[module];
  if (out_size) *out_size = sizes[module];
  return 1;
}

static void set_injection_version(uint32_t version) { (void)version; }

static const void *export_table(uint32_t table) {
  static const th_nvtx_callbacks callbacks = {sizeof callbacks, function_table};
  static const th_nvtx_version_info version = {sizeof version, TH_NVTX_VERSION, 0, set_injection_version};
  return table == TH_NVTX_CALLBACKS ? (const void *)&callbacks : table == TH_NVTX_VERSION_INFO ? (const void *)&version : NULL;
}

static th_nvtx nvtx;
static bool by_variable, listens;

static void start(void) {
  const char *wanted = getenv("THUNDER_NVTX"), *path = getenv("NVTX_INJECTION64_PATH");
  by_variable = wanted && *wanted;
  if (!path || !*path) return;
  void *library = dlopen(path, RTLD_LAZY), *symbol = library ? dlsym(library, "InitializeInjectionNvtx2") : NULL;
  th_nvtx_initialize initialize;
  *(void **)&initialize = symbol;
  if (!symbol || !initialize(export_table)) {
    const char *why = symbol ? "it refused" : dlerror();
    TH_LOG(WARNING, "no NVTX ranges: the library that NVTX_INJECTION64_PATH names (%s) cannot be used: %s", path, why ? why : "it has no InitializeInjectionNvtx2");
    return;
  }
  nvtx.push = (int (*)(const char *))functions[TH_NVTX_CORE][TH_NVTX_PUSH];
  nvtx.pop = (int (*)(void))functions[TH_NVTX_CORE][TH_NVTX_POP];
  listens = nvtx.push && nvtx.pop;
}

const th_nvtx *th__nvtx(bool wanted) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start);
  return listens && (wanted || by_variable) ? &nvtx : NULL;
}
