#include "executors/registry.h"

#include <string.h>

#include "executors/cpu/cpu.h"
#include "executors/cublaslt/cublaslt.h"
#include "executors/cuda/cuda.h"
#include "executors/cudnn/cudnn.h"
#include "executors/host/host.h"

static const th_executor *const all[] = {&th_executor_cpu, &th_executor_cudnn, &th_executor_cublaslt, &th_executor_cuda, &th_executor_host};
static const th_executor *const for_cpu[] = {&th_executor_cpu}, *const for_cuda[] = {&th_executor_cudnn, &th_executor_cublaslt, &th_executor_cuda, &th_executor_host};
static const th_executor *const for_simt[] = {&th_executor_cuda, &th_executor_host, &th_executor_cpu}; /* the cpu's library functions */

const th_executor *th_executor_find(const char *name) {
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!strcmp(all[i]->name, name)) return all[i];
  return NULL;
}

void th_executors_of(const th_target *target, const th_executor *const **out, uint32_t *out_n) {
  bool cuda = !strcmp(target->name, "cuda"), simt = cuda && !strcmp(target->arch, "simt");
  *out = simt ? for_simt : cuda ? for_cuda : for_cpu;
  *out_n = simt ? sizeof for_simt / sizeof *for_simt : cuda ? sizeof for_cuda / sizeof *for_cuda : 1;
}

th_options th_options_default(void) {
  return (th_options){.mode = TH_MODE_FORWARD, .world = 1, .bucket_bytes = 25 << 20, .n_executors = 1, .executors = for_cpu,
                      .target = {.name = "cpu", .arch = "x86-64-v3", .threads = 1}};
}
