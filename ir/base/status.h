/* Statuses: how a function that can fail says so.
 *
 * A th_status is a pointer. NULL is success and costs nothing; anything else is one error with a canonical
 * code (the sixteen of gRPC), a message that carries the values at hand, the place it was made, and the
 * causes joined to it. The code tells the caller what to do: retry (unavailable), fix the input (invalid
 * argument), fix the state first (failed precondition).
 *
 * Ownership: whoever receives a non-NULL status owns it: hands it on, or ends it with th_status_free.
 * Threads: a status belongs to one thread at a time; making one is thread-safe. */
#ifndef THUNDER_IR_BASE_STATUS_H
#define THUNDER_IR_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum th_code { /* values are gRPC's, so that they cross the wire unchanged */
  TH_CODE_OK = 0,
  TH_CODE_CANCELLED = 1,
  TH_CODE_UNKNOWN = 2,
  TH_CODE_INVALID_ARGUMENT = 3,
  TH_CODE_DEADLINE_EXCEEDED = 4,
  TH_CODE_NOT_FOUND = 5,
  TH_CODE_ALREADY_EXISTS = 6,
  TH_CODE_PERMISSION_DENIED = 7,
  TH_CODE_RESOURCE_EXHAUSTED = 8,
  TH_CODE_FAILED_PRECONDITION = 9,
  TH_CODE_ABORTED = 10,
  TH_CODE_OUT_OF_RANGE = 11,
  TH_CODE_UNIMPLEMENTED = 12,
  TH_CODE_INTERNAL = 13,
  TH_CODE_UNAVAILABLE = 14,
  TH_CODE_DATA_LOSS = 15,
  TH_CODE_UNAUTHENTICATED = 16,
} th_code;

typedef struct th_status_info *th_status; /* NULL: success */

#define TH_OK ((th_status)NULL)

/* Makes a status; use TH_ERROR, which fills in file and line. Never returns NULL: when memory is gone it
 * returns a static RESOURCE_EXHAUSTED status, which th_status_free leaves alone. */
th_status th_status_create(th_code code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5), returns_nonnull));
th_status th_status_createv(th_code code, const char *file, int line, const char *format, va_list args) __attribute__((returns_nonnull));

/* TH_ERROR(INVALID_ARGUMENT, "op %s: ...", name) */
#define TH_ERROR(code, ...) th_status_create(TH_CODE_##code, __FILE__, __LINE__, __VA_ARGS__)

/* Returns early with the status of `expr`; only where nothing is owned. */
#define TH_TRY(expr)                    \
  do {                                  \
    th_status th_try_status_ = (expr);  \
    if (th_try_status_) return th_try_status_; \
  } while (0)

/* Jumps to `cleanup` with the failure kept in the local `status`. */
#define TH_TRY_CLEANUP(expr)            \
  do {                                  \
    status = (expr);                    \
    if (status) goto cleanup;           \
  } while (0)

th_code th_status_code(th_status status);          /* TH_CODE_OK for NULL */
const char *th_status_message(th_status status);   /* owned by the status; "" for NULL */
const char *th_status_file(th_status status);      /* source file that made it, base name; "" for NULL */
int th_status_line(th_status status);
const char *th_code_name(th_code code);            /* "INVALID_ARGUMENT"; "UNKNOWN" for a foreign number */
void th_status_free(th_status status);             /* NULL is fine */

/* Joins `second` to `first` as a further cause and returns the first; either may be NULL. Takes both. */
th_status th_status_join(th_status first, th_status second);

/* Puts "text: " before the message, keeping the code; takes and returns the status. NULL stays NULL. */
th_status th_status_prefix(th_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "INVALID_ARGUMENT: message (file.c:12)" into `buffer`; returns the length that was wanted, as snprintf. */
size_t th_status_format(th_status status, char *buffer, size_t size);

#endif
