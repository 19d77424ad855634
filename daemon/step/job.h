/* What thunderrun and thunder-step share: the end of every process of a job. */
#ifndef THUNDER_DAEMON_STEP_JOB_H
#define THUNDER_DAEMON_STEP_JOB_H

#include <sys/types.h>

/* Kills every process of this user whose environment carries THUNDER_JOB_ID=job, but `keep` and the caller; again until none
 * is left, at most a second. */
void th_job_end_processes(const char *job, pid_t keep);
/* Removes a directory of ours and what is in it. */
void th_job_remove(const char *directory);

#endif
