/* Folders that Thunder keeps files in. Threads: thread-safe (reads the environment). */
#ifndef THUNDER_IR_BASE_DIRECTORY_H
#define THUNDER_IR_BASE_DIRECTORY_H

#include "ir/base/status.h"

#define TH_PATH_MAX 4096

/* The cache directory of this environment into out[TH_PATH_MAX]; the rule stands in proto/daemon.proto. It is not made.
 * FAILED_PRECONDITION when there is neither a cache variable nor a HOME, or the path is not absolute or too long. */
th_status th_directory_cache(char *out);

/* Makes `path` and its parents (mode 0700). */
th_status th_directory_make(const char *path);

#endif
