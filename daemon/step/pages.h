/* The progress pages of a job's ranks on this node (ir/base/progress.h), as thunder-step keeps them: one file a rank in a folder of
 * their own, in shared memory. Here the ranks are compared: where their sequences of collectives differ, or a rank has left that
 * another one waits for, every rank is told to stop, with one text that names ranks and collectives.
 *
 * The folder's name follows from the job (th_job_pages_folder in job.h), so that thunderrun can remove it when thunder-step was
 * killed. thunder-step holds a lock on it; should both be killed, the next thunder-step of this user finds it unlocked and removes
 * it. Open MPI's shared-memory files are put there too (main.c). Used by one thread. */
#ifndef THUNDER_DAEMON_STEP_PAGES_H
#define THUNDER_DAEMON_STEP_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "ir/base/status.h"

/* Makes the folder and a page for each of `n` ranks, in the first place that takes them; UNAVAILABLE names all places. The job can
 * do without: the other functions then say nothing. */
th_status th_pages_create(const char *job, unsigned n);
/* The folder, or "" when there is none; borrowed. */
const char *th_pages_folder(void);
/* The page's file of a rank, "" when there is none. */
void th_pages_path(unsigned rank, char *out, size_t size);
/* The process that has attached the page; 0: none, or it was in another PID namespace and is not there. */
pid_t th_pages_pid(unsigned rank);
/* A rank's process has ended; `how` is waitpid's status. */
void th_pages_ended(unsigned rank, int how);
/* Compares the ranks and tells those that wait whom they wait for. Cheap while nothing has changed. */
void th_pages_turn(void);
/* Why the ranks were told to stop, or NULL. */
const char *th_pages_verdict(void);
/* The rank that has left too early according to the verdict, or -1. */
int th_pages_left(void);
/* Removes the folder, after a last comparison where wanted. The verdict stays. */
void th_pages_end(bool compare);

#endif
