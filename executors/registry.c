#include <string.h>

#include "executors/cpu/cpu.h"
#include "executors/executor.h"

static const th_executor *const all[] = {&th_executor_cpu};

const th_executor *th_executor_find(const char *name) {
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!strcmp(all[i]->name, name)) return all[i];
  return NULL;
}

const th_executor *th_executor_of(const th_op *op) { return op->executor ? th_executor_find(op->executor) : NULL; }

const th_executor *th_executor_at(const th_options *options, uint32_t i) {
  for (uint32_t k = 0; k < options->n_executors; k++) {
    const th_executor *executor = th_executor_find(options->executors[k]);
    if (executor && i-- == 0) return executor;
  }
  return NULL;
}
