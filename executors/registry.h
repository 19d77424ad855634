/* The executors of this build. Thread-safe: a constant table. */
#ifndef THUNDER_EXECUTORS_REGISTRY_H
#define THUNDER_EXECUTORS_REGISTRY_H

#include "ir/executor.h"

/* By name; NULL when there is none. */
const th_executor *th_executor_find(const char *name);

/* The executors that a compile for the target has where none are named, in order of priority. */
void th_executors_of(const th_target *target, const th_executor *const **out, uint32_t *out_n);

/* Options of a compile where nothing else is said: forward, one rank, the cpu's executors, one thread. */
th_options th_options_default(void);

#endif
