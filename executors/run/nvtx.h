/* Ranges that a profiler shows (Nsight Systems): the part of NVTX 3's ABI that is used here, declared for ourselves, as a build needs no NVIDIA
 * headers. NVTX has no library: a tool names its own in NVTX_INJECTION64_PATH, and that fills in a table of functions. Private to
 * executors/run. Threads: thread-safe; ranges nest within a thread. */
#ifndef THUNDER_EXECUTORS_RUN_NVTX_H
#define THUNDER_EXECUTORS_RUN_NVTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TH_NVTX_CORE = 1, TH_NVTX_MODULES = 7, TH_NVTX_PUSH = 9, TH_NVTX_POP = 11, TH_NVTX_SLOTS = 16 /* the most that a module has */ };
enum { TH_NVTX_CALLBACKS = 1, TH_NVTX_VERSION_INFO = 3, TH_NVTX_VERSION = 3 }; /* numbers of export tables; NVTX's version */
typedef void (*th_nvtx_function)(void);
typedef struct th_nvtx_callbacks { /* NvtxExportTableCallbacks */
  size_t size;
  int (*function_table)(int module, th_nvtx_function ***out_table, unsigned *out_size);
} th_nvtx_callbacks;
typedef struct th_nvtx_version_info { /* NvtxExportTableVersionInfo */
  size_t size;
  uint32_t version, reserved;
  void (*set_injection_version)(uint32_t version);
} th_nvtx_version_info;
typedef const void *(*th_nvtx_export)(uint32_t table);
typedef int (*th_nvtx_initialize)(th_nvtx_export tables); /* InitializeInjectionNvtx2 of the tool's library; 0: it does not want to */

typedef struct th_nvtx {
  int (*push)(const char *name);
  int (*pop)(void);
} th_nvtx;

/* NULL: no ranges, as `wanted` is false and THUNDER_NVTX is not set, or no tool listens. The tool is asked once a process. */
const th_nvtx *th__nvtx(bool wanted);

#endif
