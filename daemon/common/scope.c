#define _GNU_SOURCE /* dladdr */
#include "daemon/common/scope.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/build_id.h"
#include "daemon/common/sha256.h"

const char *th_version(void) { return THUNDER_VERSION; }
const char *th_build_id(void) { return THUNDER_BUILD_ID; }

static const char *environment(const char *name) {
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

static void read_link(const char *path, char *out, size_t size) {
  ssize_t n = readlink(path, out, size - 1);
  out[n > 0 ? n : 0] = 0;
}

th_status th_scope_init(th_scope *scope, const char *build) {
  memset(scope, 0, sizeof *scope);
  scope->uid = geteuid();
  if (gethostname(scope->host, sizeof scope->host - 1)) return TH_ERROR(INTERNAL, "gethostname: %s", strerror(errno));
  const char *runtime = environment("THUNDER_RUNTIME_DIR");
  int n = runtime ? snprintf(scope->runtime, sizeof scope->runtime, "%s", runtime)
                  : snprintf(scope->runtime, sizeof scope->runtime, "/tmp/thunder-%u", (unsigned)scope->uid);
  if ((size_t)n >= sizeof scope->runtime || scope->runtime[0] != '/')
    return TH_ERROR(FAILED_PRECONDITION, "THUNDER_RUNTIME_DIR=%.200s: want an absolute path of less than %u bytes", runtime, TH_PATH_MAX);
  TH_TRY(th_directory_cache(scope->cache));
  char pid_ns[64], mnt_ns[64], text[TH_PATH_MAX + 1024], hex[17];
  const char *slurm = environment("SLURM_JOB_ID");
  uint8_t digest[32];
  read_link("/proc/self/ns/pid", pid_ns, sizeof pid_ns);
  read_link("/proc/self/ns/mnt", mnt_ns, sizeof mnt_ns);
  n = snprintf(text, sizeof text, "thunder-scope-1\nuid=%u\nhost=%s\nbuild=%s\nslurm=%.200s\npid_ns=%s\nmnt_ns=%s\ncache=%s\n",
               (unsigned)scope->uid, scope->host, build ? build : th_build_id(), slurm ? slurm : "", pid_ns, mnt_ns, scope->cache);
  th_sha256_of(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, digest);
  th_hex(digest, 8, hex);
  snprintf(scope->directory, sizeof scope->directory, "%s/%s", scope->runtime, hex);
  n = snprintf(scope->socket, sizeof scope->socket, "%.4000s/%s/socket", scope->runtime, hex);
  if ((size_t)n >= sizeof scope->socket)
    return TH_ERROR(FAILED_PRECONDITION, "the socket's path would take %d bytes, a unix socket allows %d: set THUNDER_RUNTIME_DIR to a shorter path than %s",
                    n, TH_SOCKET_PATH_MAX, scope->runtime);
  snprintf(scope->lock, sizeof scope->lock, "%s/lock", scope->directory);
  snprintf(scope->log, sizeof scope->log, "%s/log", scope->directory);
  return TH_OK;
}

static th_status check_directory(const char *path, uid_t uid) {
  struct stat s;
  if (mkdir(path, 0700) && errno != EEXIST)
    return TH_ERROR(PERMISSION_DENIED, "cannot make the directory %s: %s; set THUNDER_RUNTIME_DIR to a directory of yours", path, strerror(errno));
  if (lstat(path, &s)) return TH_ERROR(PERMISSION_DENIED, "cannot look at %s: %s", path, strerror(errno));
  if (!S_ISDIR(s.st_mode) || s.st_uid != uid || (s.st_mode & 077))
    return TH_ERROR(PERMISSION_DENIED,
                    "%s must be a directory of uid %u with mode 0700; it is %s of uid %u with mode %04o: remove it, or set THUNDER_RUNTIME_DIR",
                    path, (unsigned)uid, S_ISDIR(s.st_mode) ? "a directory" : "something else", (unsigned)s.st_uid, (unsigned)s.st_mode & 07777);
  return TH_OK;
}

th_status th_scope_make_directories(const th_scope *scope) {
  TH_TRY(check_directory(scope->runtime, scope->uid));
  return check_directory(scope->directory, scope->uid);
}

static bool program_at(char *out, size_t size, const char *directory, size_t length, const char *name) {
  return (size_t)snprintf(out, size, "%.*s/%s", (int)length, directory, name) < size && access(out, X_OK) == 0;
}

/* The folder part of `path`; false when it has none. */
static bool beside(char *out, size_t size, const char *path, const char *name) {
  const char *slash = strrchr(path, '/');
  return slash && program_at(out, size, path, (size_t)(slash - path), name);
}

th_status th_program_find(const char *name, char *out_path, size_t size) {
  char self[TH_PATH_MAX] = "";
  const char *bin = environment("THUNDER_BIN"), *path = environment("PATH");
  if (bin && program_at(out_path, size, bin, strlen(bin), name)) return TH_OK;
  read_link("/proc/self/exe", self, sizeof self);
  if (beside(out_path, size, self, name)) return TH_OK;
  Dl_info info;
  if (dladdr((void *)(uintptr_t)th_program_find, &info) && info.dli_fname && beside(out_path, size, info.dli_fname, name)) return TH_OK;
  for (const char *p = path; p && *p;) {
    size_t n = strcspn(p, ":");
    if (n && program_at(out_path, size, p, n, name)) return TH_OK;
    p += n + (p[n] == ':');
  }
  *out_path = 0;
  return TH_ERROR(NOT_FOUND, "the program %s was found neither in THUNDER_BIN (%s), nor beside %s, nor in PATH: is Thunder installed whole?", name,
                  bin ? bin : "not set", *self ? self : "this program");
}
