#include "executors/registry.h"

#include <string.h>

#include "executors/cpu/cpu.h"

static const th_executor *const all[] = {&th_executor_cpu};
enum { N_ALL = sizeof all / sizeof *all };

const th_executor *th_executor_find(const char *name) {
  for (size_t i = 0; i < N_ALL; i++)
    if (!strcmp(all[i]->name, name)) return all[i];
  return NULL;
}

th_options th_options_default(void) {
  return (th_options){.mode = TH_MODE_FORWARD, .world = 1, .bucket_bytes = 25 << 20, .n_executors = N_ALL, .executors = all,
                      .target = {.name = "cpu", .arch = "x86-64-v3", .threads = 1}};
}
