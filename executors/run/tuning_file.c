/* The tuning record on disk. In the folder `tuning` of the cache directory:
 *   v2     th_tuning_write's text. Whoever reads it needs no lock: it is replaced whole, by rename
 *   lock   held (flock) by the process that reads the record again, adds its own choices and replaces it
 *   new    the next record, until it is complete; one a lock, so what a killed process left is written over */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "executors/run/tuning.h"
#include "ir/base/directory.h"
#include "ir/base/failpoint.h"
#include "ir/base/log.h"

enum { LARGEST = 16 << 20 /* bytes; TH_TUNING_RECORDS of the longest lines take less */, LOCK_TRIES = 100, LOCK_PAUSE_MS = 10 };
static const int64_t pause_ns = 10 * (int64_t)1000000000; /* between two writes */

static struct { char folder[TH_PATH_MAX + 16], record[TH_PATH_MAX + 32], lock[TH_PATH_MAX + 32], new[TH_PATH_MAX + 32]; } paths; /* "": there is no place */
static pthread_once_t loaded = PTHREAD_ONCE_INIT;
static pthread_mutex_t saving = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int64_t saved_at; /* 0: never */
static pid_t owner;              /* a child of a fork does not write when it exits */

static void warn(th_status status, const char *what) { /* once; takes the status */
  static atomic_flag warned = ATOMIC_FLAG_INIT;
  if (!atomic_flag_test_and_set(&warned)) TH_LOG(WARNING, "the tuning record %s %s: %s", *paths.record ? paths.record : "(cache directory)/tuning", what, th_status_message(status));
  th_status_free(status);
}

static th_status failed(const char *call, const char *path) { return TH_ERROR(UNAVAILABLE, "%s of %s: %s", call, path, strerror(errno)); }

/* The record's text; *out_text stays NULL where there is none. */
static th_status read_record(char **out_text, size_t *out_size) {
  struct stat s;
  *out_text = NULL, *out_size = 0;
  int fd = open(paths.record, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* nobody writes to it, whatever it is */
  if (fd < 0) return errno == ENOENT ? TH_OK : failed("open", paths.record);
  th_status status = TH_OK;
  if (fstat(fd, &s)) status = failed("stat", paths.record);
  else if (!S_ISREG(s.st_mode) || s.st_uid != geteuid() || s.st_mode & 022)
    status = TH_ERROR(PERMISSION_DENIED, "it is not a file of user %d alone (chown it, or chmod go-w)", (int)geteuid());
  else if (s.st_size > LARGEST) status = TH_ERROR(INVALID_ARGUMENT, "it has %lld bytes, at most %d are read", (long long)s.st_size, LARGEST);
  char *text = status ? NULL : malloc((size_t)s.st_size + 1);
  if (!status && !text) status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for its %lld bytes", (long long)s.st_size);
  while (!status && *out_size < (size_t)s.st_size) {
    ssize_t n = read(fd, text + *out_size, (size_t)s.st_size - *out_size);
    if (n > 0) *out_size += (size_t)n;
    else if (!n) break; /* shorter now: what is there says whether it is whole */
    else if (errno != EINTR) status = failed("read", paths.record);
  }
  close(fd);
  if (status) free(text), *out_size = 0;
  else *out_text = text;
  return status;
}

/* Adds the record's choices to the process's, which stay where both have one. */
static th_status merge_record(void) {
  char *text;
  size_t size;
  TH_TRY(read_record(&text, &size));
  th_status status = text ? th_tuning_merge(text, size) : TH_OK;
  free(text);
  return status;
}

static th_status write_new(const char *text, size_t size) {
  int fd = open(paths.new, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return failed("open", paths.new);
  th_status status = TH_FAILPOINT_STATUS("tuning.write");
  for (size_t done = 0; !status && done < size;) {
    ssize_t n = write(fd, text + done, size - done);
    if (n >= 0) done += (size_t)n;
    else if (errno != EINTR) status = failed("write", paths.new);
  }
  if (!status && fsync(fd)) status = failed("fsync", paths.new);
  if (close(fd) && !status) status = failed("close", paths.new);
  TH_FAILPOINT("tuning.rename");
  if (!status && rename(paths.new, paths.record)) status = failed("rename", paths.new);
  if (status) unlink(paths.new);
  return status;
}

/* The lock is held until *out_fd is closed. */
static th_status take_lock(int *out_fd) {
  struct timespec pause = {0, LOCK_PAUSE_MS * 1000000};
  *out_fd = open(paths.lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (*out_fd < 0) return failed("open", paths.lock);
  for (int i = 0; i < LOCK_TRIES; i++) {
    if (!flock(*out_fd, LOCK_EX | LOCK_NB)) return TH_OK;
    if (errno != EWOULDBLOCK && errno != EINTR) break;
    nanosleep(&pause, NULL);
  }
  th_status status = errno == EWOULDBLOCK ? TH_ERROR(DEADLINE_EXCEEDED, "another process has held %s for %d ms", paths.lock, LOCK_TRIES * LOCK_PAUSE_MS) : failed("flock", paths.lock);
  close(*out_fd);
  return status;
}

static th_status replace_record(void) {
  char *text;
  size_t size;
  int lock;
  TH_TRY(th_directory_make(paths.folder));
  TH_TRY(take_lock(&lock));
  th_status_free(merge_record()); /* a damaged one is replaced */
  th_status status = th_tuning_write(&text, &size);
  if (!status) status = write_new(text, size);
  free(text);
  close(lock);
  return status;
}

static void save(bool at_exit) {
  struct timespec t;
  if (!*paths.record || !th_tuning_changed()) return;
  clock_gettime(CLOCK_MONOTONIC, &t);
  int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec, before = saved_at;
  if (!at_exit && before && now - before < pause_ns) return;
  if (pthread_mutex_trylock(&saving)) return; /* another thread does it, or the next call */
  saved_at = now;
  th_tuning_mark(false); /* before it is written: what comes after is written later */
  th_status status = replace_record();
  if (status) {
    th_tuning_mark(true);
    warn(status, "could not be written, later processes time anew what is in no older one");
  }
  pthread_mutex_unlock(&saving);
}

static void save_rest(void) {
  if (getpid() == owner) save(true);
}

static void load(void) {
  char cache[TH_PATH_MAX];
  th_status status = th_directory_cache(cache);
  if (!status) {
    snprintf(paths.folder, sizeof paths.folder, "%s/tuning", cache);
    snprintf(paths.record, sizeof paths.record, "%s/v2", paths.folder);
    snprintf(paths.lock, sizeof paths.lock, "%s/lock", paths.folder);
    snprintf(paths.new, sizeof paths.new, "%s/new", paths.folder);
    owner = getpid();
    atexit(save_rest);
    status = merge_record();
  }
  if (status) warn(status, "cannot be used and is made anew");
}

void th_tuning_load(void) { pthread_once(&loaded, load); }
void th_tuning_save(void) { save(false); }
