/* Log lines on stderr: "thunder[level] message". THUNDER_LOG = error | warning | info | debug (default warning).
 * Thread-safe: one write(2) a line. */
#ifndef THUNDER_IR_BASE_LOG_H
#define THUNDER_IR_BASE_LOG_H

typedef enum th_log_level { TH_LOG_ERROR, TH_LOG_WARNING, TH_LOG_INFO, TH_LOG_DEBUG } th_log_level;

/* The level in force, read from THUNDER_LOG at first use. */
th_log_level th_log_level_get(void);
void th_log_level_set(th_log_level level);
/* Sends the lines of this process to `fd` instead of stderr (-1: stderr). The descriptor stays the caller's. */
void th_log_fd_set(int fd);
/* A word put before each message, e.g. "thunderd"; borrowed, must live on. */
void th_log_name_set(const char *name);
void th_log_write(th_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define TH_LOG(level, ...)                                                                   \
  do {                                                                                       \
    if (TH_LOG_##level <= th_log_level_get()) th_log_write(TH_LOG_##level, __VA_ARGS__);     \
  } while (0)

#endif
