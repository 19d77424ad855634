#include "ir/executor.h"

#include <string.h>

const th_executor *th_executor_of(const th_options *options, const th_op *op) {
  for (uint32_t i = 0; op->executor && i < options->n_executors; i++)
    if (!strcmp(options->executors[i]->name, op->executor)) return options->executors[i];
  return NULL;
}

const th_executor *th_main_executor(const th_options *options) {
  for (uint32_t i = 0; i < options->n_executors; i++)
    if (options->executors[i]->fusible && !options->executors[i]->scalars) return options->executors[i];
  return NULL;
}
