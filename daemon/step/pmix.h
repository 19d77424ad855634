/* The PMIx server of a job's ranks on this node, so that MPI_Init works in them. One file, pmix.c, includes PMIx's headers.
 * Threads: call from one thread. */
#ifndef THUNDER_DAEMON_STEP_PMIX_H
#define THUNDER_DAEMON_STEP_PMIX_H

#include "ir/base/status.h"

/* Starts a server for `local` ranks (all of the job) under the namespace `job`; its files go below `directory`. */
th_status th_pmix_start(const char *job, unsigned local, const char *directory);
/* Adds what rank `rank` needs to `env` (NULL-terminated, malloc'ed), which may be reallocated. */
th_status th_pmix_environment(unsigned rank, char ***env);
void th_pmix_stop(void);

#endif
