/* A tool that listens to NVTX, as NVTX_INJECTION64_PATH names one: writes ranges to the file that FAKE_NVTX_LOG names, "+name" and "-". */
#include <stdio.h>
#include <stdlib.h>

#include "executors/run/nvtx.h"

static FILE *out;

static int push(const char *name) { return fprintf(out, "+%s\n", name), 0; }
static int pop(void) { return fputs("-\n", out), fflush(out), 0; }

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(th_nvtx_export tables);
int InitializeInjectionNvtx2(th_nvtx_export tables) {
  const th_nvtx_callbacks *callbacks = tables(TH_NVTX_CALLBACKS);
  const th_nvtx_version_info *version = tables(TH_NVTX_VERSION_INFO);
  th_nvtx_function **table;
  unsigned size;
  const char *path = getenv("FAKE_NVTX_LOG");
  if (!callbacks || callbacks->size < sizeof *callbacks || !version || version->version != 3 || !path || !(out = fopen(path, "w"))) return 0;
  version->set_injection_version(3);
  for (int module = 1; module < TH_NVTX_MODULES; module++) { /* tools look at all of them */
    if (!callbacks->function_table(module, &table, &size) || table[0] || table[size]) return 0;
    for (unsigned i = 1; i < size; i++)
      if (!table[i]) return 0;
  }
  if (!callbacks->function_table(TH_NVTX_CORE, &table, &size) || size != 16) return 0;
  *table[TH_NVTX_PUSH] = (th_nvtx_function)push;
  *table[TH_NVTX_POP] = (th_nvtx_function)pop;
  return 1;
}
