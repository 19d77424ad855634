#define _GNU_SOURCE
#include "daemon/step/job.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
