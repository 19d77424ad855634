/* What the ranks print, on thunder-step's standard output: best effort. A terminal that is paused or a reader that is slow holds
 * up nobody: what it does not take waits here, 1 MiB at most; lines beyond that are left out and counted (the ranks' log files
 * have them). Used by one thread. */
#ifndef TH_DAEMON_STEP_SHOW_H
#define TH_DAEMON_STEP_SHOW_H
#include <stddef.h>

/* log_dir: named where lines were left out. Call once, before the rest. */
void th_show_start(const char *log_dir);
/* One line without its end, of rank `rank`; on a terminal the rank stands before it. Copies text. */
void th_show_line(unsigned rank, const char *text, size_t size);
/* Descriptor that takes more when it polls POLLOUT; -1 while nothing waits. */
int th_show_fd(void);
/* Writes what the reader takes now. */
void th_show_flush(void);
/* Waits for the reader as long as it goes on taking, `quiet_seconds` at most without a byte. */
void th_show_end(double quiet_seconds);

#endif
