/* What thunderrun and thunder-step share: the end of every process of a job, and where its progress pages are. */
#ifndef THUNDER_DAEMON_STEP_JOB_H
#define THUNDER_DAEMON_STEP_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Kills every process of this user whose environment carries THUNDER_JOB_ID=job, but `keep` and the caller; again until none
 * is left, at most a second. */
void th_job_end_processes(const char *job, pid_t keep);
/* Removes a directory of ours and what is in it. */
void th_job_remove(const char *directory);
/* Removes what killed steps left in `root`: this user's folders whose names begin with `prefix` and whose lock (flock) nobody
 * holds. One younger than 10 s stays: it may be about to be locked. */
void th_job_sweep(const char *root, const char *prefix);

enum { TH_JOB_PLACES = 3 };
/* Where the job's progress pages may be, in order of preference: /dev/shm, $TMPDIR, /tmp. The name also has this process's PID
 * namespace: containers that share /dev/shm may have jobs of one name. Returns false where there is no such place. */
bool th_job_pages_folder(const char *job, unsigned place, char *out, size_t size);
/* Removes a folder of pages if it is this user's alone, and the files in it; `folder_fd` is open on it. */
void th_job_pages_remove_at(int folder_fd, const char *folder);
/* Removes the job's folder wherever it is. */
void th_job_pages_remove(const char *job);

/* Where the job's PMIx server keeps its files: under /tmp whatever TMPDIR says, as the path of a socket has 108 bytes. */
void th_job_pmix_folder(const char *job, char *out, size_t size);

#endif
