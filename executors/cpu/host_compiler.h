/* The host's C or C++ compiler, run without a shell: source in, shared object out. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_CPU_HOST_COMPILER_H
#define THUNDER_EXECUTORS_CPU_HOST_COMPILER_H

#include "ir/executor.h"

typedef struct th_host_compiler {
  const char *name, *suffix;            /* "cc", "c" */
  const char *variable;                 /* of the environment, that names another: "THUNDER_CC" */
  const char *flags[25], *libraries[9]; /* NULL after the last */
} th_host_compiler;

/* `prelude` and the kernels as one shared object, parts of them compiled side by side. UNAVAILABLE with the compiler's last lines. */
th_status th_host_compile(const th_host_compiler *compiler, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *out);

#endif
