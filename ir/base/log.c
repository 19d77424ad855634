#include "ir/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static _Atomic int level_now = -1;
static _Atomic int fd_now = -1;
static const char *name_now = "thunder";

th_log_level th_log_level_get(void) {
  int level = level_now;
  if (level >= 0) return (th_log_level)level;
  const char *text = getenv("THUNDER_LOG");
  level = TH_LOG_WARNING;
  for (int i = 0; text && i < 4; i++)
    if (!strcmp(text, level_names[i])) level = i;
  level_now = level;
  return (th_log_level)level;
}

void th_log_level_set(th_log_level level) { level_now = (int)level; }
void th_log_fd_set(int fd) { fd_now = fd; }
void th_log_name_set(const char *name) { name_now = name; }

void th_log_write(th_log_level level, const char *format, ...) {
  int saved = errno;
  char line[2048];
  struct timespec t;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &t);
  gmtime_r(&t.tv_sec, &tm);
  int n = snprintf(line, sizeof line, "%s[%d] %02d:%02d:%02d.%03ldZ %s: ", name_now, (int)getpid(), tm.tm_hour, tm.tm_min,
                   tm.tm_sec, t.tv_nsec / 1000000, level_names[level]);
  va_list args;
  va_start(args, format);
  int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
  va_end(args);
  size_t length = (size_t)n + (m < 0 ? 0 : (size_t)m);
  if (length > sizeof line - 2) length = sizeof line - 2;
  line[length++] = '\n';
  int fd = fd_now;
  ssize_t ignored = write(fd < 0 ? STDERR_FILENO : fd, line, length);
  (void)ignored;
  errno = saved;
}
