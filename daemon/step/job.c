#define _GNU_SOURCE
#include "daemon/step/job.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int belongs(pid_t pid, const char *wanted, size_t length) {
  static char buffer[1 << 20];
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t n = 0;
  for (ssize_t k; fd >= 0 && n < sizeof buffer - 1 && (k = read(fd, buffer + n, sizeof buffer - 1 - n)) > 0;) n += (size_t)k;
  if (fd >= 0) close(fd);
  buffer[n] = 0;
  for (size_t at = 0; at < n; at += strlen(buffer + at) + 1)
    if (!strncmp(buffer + at, wanted, length) && !buffer[at + length]) return 1;
  return 0;
}

void th_job_end_processes(const char *job, pid_t keep) {
  char wanted[256];
  int length = snprintf(wanted, sizeof wanted, "THUNDER_JOB_ID=%s", job);
  for (int round = 0; round < 50; round++) {
    int found = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *d; proc && (d = readdir(proc));) {
      pid_t pid = (pid_t)atoi(d->d_name);
      if (pid <= 1 || pid == keep || pid == getpid() || !belongs(pid, wanted, (size_t)length)) continue;
      found += !kill(pid, SIGKILL);
    }
    if (proc) closedir(proc);
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    if (!found) return;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  }
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *f) {
  (void)s, (void)type, (void)f;
  return remove(path);
}

void th_job_remove(const char *directory) { nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

void th_job_sweep(const char *root, const char *prefix) {
  DIR *d = opendir(root);
  struct stat s;
  for (struct dirent *e; d && (e = readdir(d));) {
    if (strncmp(e->d_name, prefix, strlen(prefix))) continue;
    char path[4096];
    int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    bool old = !fstat(fd, &s) && s.st_uid == geteuid() && !(s.st_mode & 077) && time(NULL) - s.st_mtime > 10;
    if (old && !flock(fd, LOCK_EX | LOCK_NB) && snprintf(path, sizeof path, "%s/%s", root, e->d_name) < (int)sizeof path) th_job_remove(path);
    close(fd);
  }
  if (d) closedir(d);
}

/* Containers that share a file system may have jobs of one name. */
static unsigned long pid_namespace(void) {
  struct stat space = {0};
  stat("/proc/self/ns/pid", &space);
  return (unsigned long)space.st_ino;
}

void th_job_pmix_folder(const char *job, char *out, size_t size) { snprintf(out, size, "/tmp/thunder-pmix-%s-%lx", job, pid_namespace()); }

bool th_job_pages_folder(const char *job, unsigned place, char *out, size_t size) {
  const char *roots[TH_JOB_PLACES] = {"/dev/shm", getenv("TMPDIR"), "/tmp"}, *root = place < TH_JOB_PLACES ? roots[place] : NULL;
  if (!root || !*root || access(root, W_OK | X_OK)) return false;
  return snprintf(out, size, "%s/thunder-progress-%s-%lx", root, job, pid_namespace()) < (int)size;
}

void th_job_pages_remove_at(int folder_fd, const char *folder) {
  struct stat s;
  if (fstat(folder_fd, &s) || s.st_uid != geteuid() || (s.st_mode & 077)) return;
  int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *pages = fd >= 0 ? fdopendir(fd) : NULL;
  for (struct dirent *d; pages && (d = readdir(pages));)
    if (d->d_name[0] != '.') unlinkat(folder_fd, d->d_name, 0);
  if (pages) closedir(pages);
  else if (fd >= 0) close(fd);
  rmdir(folder);
}

void th_job_pages_remove(const char *job) {
  char folder[4096];
  for (unsigned place = 0; place < TH_JOB_PLACES; place++) {
    int fd = th_job_pages_folder(job, place, folder, sizeof folder) ? open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd < 0) continue;
    th_job_pages_remove_at(fd, folder);
    close(fd);
  }
}
