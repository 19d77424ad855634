/* cublasLt and the little of the driver that it needs here, by function pointer. Private to this room. Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_CUBLASLT_LIBRARY_H
#define THUNDER_EXECUTORS_RUN_CUBLASLT_LIBRARY_H

#include "executors/run/cublaslt/cublaslt_abi.h"
#include "executors/run/tuning.h"
#include "ir/base/status.h"

#define LT_MEMBER(field, symbol, arguments) int (*field) arguments;
typedef struct th__lt_library {
  struct { LT_FUNCTIONS(LT_MEMBER) } lt;
  struct { CU_FUNCTIONS(LT_MEMBER) } cu;
  size_t (*version)(void);
  const char *(*status_name)(int status);
} th__lt_library;
#undef LT_MEMBER

typedef struct th__lt_device { /* one for each device, from its first use to the end of the process */
  const th__lt_library *library;
  lt_handle handle;
  char where[256]; /* of its tuning records: device, driver, library */
} th__lt_device;

/* Device `number`, whose primary context is current. NOT_FOUND: no library or no driver; OUT_OF_RANGE: no such number. */
th_status th__lt_open(int32_t number, const th__lt_device **out);

/* NULL for 0, else a status naming the call: UNIMPLEMENTED where the library does not support what was asked, RESOURCE_EXHAUSTED
 * for memory, else INTERNAL. */
th_status th__lt_check(const th__lt_library *library, int status, const char *call);
th_status th__cu_check(const th__lt_library *library, int result, const char *call);

#define LT_CALL(library, field, ...) th__lt_check(library, (library)->lt.field(__VA_ARGS__), "cublasLt " #field)
#define CU_CALL(library, field, ...) th__cu_check(library, (library)->cu.field(__VA_ARGS__), "driver " #field)

#endif
