#include "ir/base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct th_status_info {
  th_code code;
  int line;
  const char *file; /* static */
  char *message;
  bool fixed; /* the static out-of-memory status: never freed */
};

static struct th_status_info out_of_memory = {
    .code = TH_CODE_RESOURCE_EXHAUSTED, .file = "status.c", .message = (char *)"out of memory", .fixed = true};

static const char *const code_names[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};

const char *th_code_name(th_code code) {
  return (unsigned)code < sizeof code_names / sizeof *code_names ? code_names[code] : "UNKNOWN";
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static char *format_text(const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, format, args);
  char *text = length < 0 ? NULL : malloc((size_t)length + 1);
  if (text) vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

th_status th_status_createv(th_code code, const char *file, int line, const char *format, va_list args) {
  struct th_status_info *status = malloc(sizeof *status);
  char *message = format_text(format, args);
  if (!status || !message) {
    free(status);
    free(message);
    return &out_of_memory;
  }
  *status = (struct th_status_info){.code = code, .file = base_name(file), .line = line, .message = message};
  return status;
}

th_status th_status_create(th_code code, const char *file, int line, const char *format, ...) {
  va_list args;
  va_start(args, format);
  th_status status = th_status_createv(code, file, line, format, args);
  va_end(args);
  return status;
}

th_code th_status_code(th_status status) { return status ? status->code : TH_CODE_OK; }
const char *th_status_message(th_status status) { return status ? status->message : ""; }
const char *th_status_file(th_status status) { return status ? status->file : ""; }
int th_status_line(th_status status) { return status ? status->line : 0; }

void th_status_free(th_status status) {
  if (!status || status->fixed) return;
  free(status->message);
  free(status);
}

static th_status set_message(th_status status, char *message) {
  if (!message) return status; /* out of memory: the shorter text is still true */
  free(status->message);
  status->message = message;
  return status;
}

static char *concat3(const char *a, const char *b, const char *c) {
  size_t size = strlen(a) + strlen(b) + strlen(c) + 1;
  char *text = malloc(size);
  if (text) snprintf(text, size, "%s%s%s", a, b, c);
  return text;
}

th_status th_status_join(th_status first, th_status second) {
  if (!first) return second;
  if (second && !first->fixed) set_message(first, concat3(first->message, "; then: ", second->message));
  th_status_free(second);
  return first;
}

th_status th_status_prefix(th_status status, const char *format, ...) {
  if (!status || status->fixed) return status;
  va_list args;
  va_start(args, format);
  char *prefix = format_text(format, args);
  va_end(args);
  if (prefix) set_message(status, concat3(prefix, ": ", status->message));
  free(prefix);
  return status;
}

size_t th_status_format(th_status status, char *buffer, size_t size) {
  int length = status ? snprintf(buffer, size, "%s: %s (%s:%d)", th_code_name(status->code), status->message,
                                 status->file, status->line)
                      : snprintf(buffer, size, "OK");
  return length < 0 ? 0 : (size_t)length;
}
