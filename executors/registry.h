/* The executors of this build. Thread-safe: a constant table. */
#ifndef THUNDER_EXECUTORS_REGISTRY_H
#define THUNDER_EXECUTORS_REGISTRY_H

#include "ir/executor.h"

/* By name; NULL when there is none. */
const th_executor *th_executor_find(const char *name);

/* Options of a compile where nothing else is said: forward, one rank, all executors of this build, one thread. */
th_options th_options_default(void);

#endif
