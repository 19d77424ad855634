/* What the node's daemon is told of the job, while one is there; a job needs none. A daemon that comes later, or comes again,
 * learns of the job within a second. Used by one thread. */
#ifndef THUNDER_DAEMON_STEP_REGISTER_H
#define THUNDER_DAEMON_STEP_REGISTER_H

#include <stdbool.h>
#include <sys/types.h>

/* All borrowed, for good. `progress`: the folder of the ranks' progress pages, or "". */
void th_register_start(const char *job, char **command, const char *log_dir, const char *progress, unsigned n_ranks);
/* How rank `rank` is: "running", "exited 0", "signal 9". A change is sent with the next turn. */
void th_register_rank(unsigned rank, pid_t pid, const char *state);
/* Descriptor of the connection, -1 while there is none; readable: call th_register_turn with true. */
int th_register_fd(void);
void th_register_turn(bool readable);
void th_register_end(int exit_code);

#endif
