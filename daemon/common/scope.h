/* Scope: which daemon a process talks to, and where that daemon lives. The rule stands in proto/daemon.proto.
 *
 * A daemon serves one uid, host, build, Slurm job, PID and mount namespace, and cache directory; another combination is
 * another socket, so two environments or versions never meet. Nothing here starts or connects to anything.
 * Threads: thread-safe (reads the environment). */
#ifndef THUNDER_DAEMON_COMMON_SCOPE_H
#define THUNDER_DAEMON_COMMON_SCOPE_H

#include <stdbool.h>
#include <sys/types.h>

#include "ir/base/directory.h"

#define TH_SOCKET_PATH_MAX 107 /* what a sockaddr_un takes */

typedef struct th_scope {
  uid_t uid;
  char host[256];
  char runtime[TH_PATH_MAX];           /* $THUNDER_RUNTIME_DIR or /tmp/thunder-<uid> */
  char directory[TH_PATH_MAX + 32];    /* <runtime>/<scope>: socket, lock, log, epoch, tmp/ */
  char socket[TH_SOCKET_PATH_MAX + 1];
  char lock[TH_PATH_MAX + 48];         /* flock'ed around start and idle exit */
  char log[TH_PATH_MAX + 48];
  char cache[TH_PATH_MAX];             /* cache directory, not made by th_scope_init */
} th_scope;

/* Version and build id of this tree, e.g. "0.1.0" and "0.1.0-5f2c…". The build id is a hash over the sources of ir,
 * executors, proto and daemon and over the build type; the file `build-id` beside the programs holds the same text. */
const char *th_version(void);
const char *th_build_id(void);

/* Fills in the scope of this process from its environment. `build` NULL: this build. Makes no directory.
 * FAILED_PRECONDITION when there is neither a HOME nor a cache variable, or the socket's path would be too long. */
th_status th_scope_init(th_scope *scope, const char *build);

/* Makes runtime and scope directories where missing and checks both: a directory, owned by this uid, mode 0700.
 * PERMISSION_DENIED says which one is not and names THUNDER_RUNTIME_DIR. */
th_status th_scope_make_directories(const th_scope *scope);

/* Path of a program of this build ("thunderd", "thunderc"): $THUNDER_BIN/<name>, else beside the running program, else
 * beside the shared object that holds this function, else the first in PATH. NOT_FOUND lists where it looked. */
th_status th_program_find(const char *name, char *out_path, size_t size);

#endif
