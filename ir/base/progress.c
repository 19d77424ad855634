#include "ir/base/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ir/base/log.h"

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static th_progress *map_file(int fd) {
  void *page = mmap(NULL, sizeof(th_progress), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return page == MAP_FAILED ? NULL : page;
}

th_status th_progress_create(const char *path, th_progress **out_progress) {
  *out_progress = NULL;
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return TH_ERROR(UNAVAILABLE, "progress page %s: cannot create it: %s", path, strerror(errno));
  th_status status = TH_OK;
  /* posix_fallocate, not ftruncate: a full tmpfs must be an error here and not a SIGBUS later */
  int error = posix_fallocate(fd, 0, sizeof(th_progress));
  th_progress *page = error ? NULL : map_file(fd);
  if (!page) {
    status = TH_ERROR(RESOURCE_EXHAUSTED, "progress page %s: cannot reserve %zu bytes: %s", path, sizeof(th_progress),
                      strerror(error ? error : errno));
    unlink(path);
  } else {
    page->magic = TH_PROGRESS_MAGIC;
    page->version = TH_PROGRESS_VERSION;
    *out_progress = page;
  }
  close(fd);
  return status;
}

th_status th_progress_open(const char *path, th_progress **out_progress) {
  *out_progress = NULL;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return TH_ERROR(NOT_FOUND, "progress page %s: %s", path, strerror(errno));
  struct stat info;
  th_progress *page = NULL;
  if (fstat(fd, &info) == 0 && info.st_size >= (off_t)sizeof(th_progress)) page = map_file(fd);
  close(fd);
  if (!page) return TH_ERROR(INVALID_ARGUMENT, "progress page %s: not a page of %zu bytes", path, sizeof(th_progress));
  if (page->magic != TH_PROGRESS_MAGIC || page->version != TH_PROGRESS_VERSION) {
    th_status status = TH_ERROR(FAILED_PRECONDITION, "progress page %s: version %u, expected %u (two builds of Thunder?)",
                                path, (unsigned)page->version, TH_PROGRESS_VERSION);
    munmap(page, sizeof *page);
    return status;
  }
  *out_progress = page;
  return TH_OK;
}

void th_progress_unmap(th_progress *progress) {
  if (progress) munmap(progress, sizeof *progress);
}

static th_progress *attached;
static pthread_once_t attach_once = PTHREAD_ONCE_INIT;

static void attach(void) {
  const char *path = getenv("THUNDER_PROGRESS");
  if (path && *path) {
    th_status status = th_progress_open(path, &attached);
    if (!status) return;
    TH_LOG(WARNING, "%s; thunderctl will not see this rank's progress", th_status_message(status));
    th_status_free(status);
  }
  void *page = mmap(NULL, sizeof(th_progress), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  attached = page == MAP_FAILED ? NULL : page;
}

th_progress *th_progress_attach(void) {
  pthread_once(&attach_once, attach);
  return attached;
}

void th_progress_tick(th_progress *progress) {
  atomic_fetch_add_explicit(&progress->counter, 1, memory_order_relaxed);
  atomic_store_explicit(&progress->updated_ns, now_ns(), memory_order_relaxed);
}

void th_progress_step(th_progress *progress) {
  atomic_fetch_add_explicit(&progress->step, 1, memory_order_relaxed);
  th_progress_tick(progress);
}

void th_progress_post(th_progress *progress, uint64_t index, uint64_t fingerprint, unsigned kind, unsigned dtype,
                      unsigned reduce, uint64_t count, uint32_t op) {
  th_progress_collective *entry = &progress->ring[index % TH_PROGRESS_RING];
  atomic_store_explicit(&entry->sequence, 0, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  entry->fingerprint = fingerprint;
  entry->count = count;
  entry->kind = (uint8_t)kind;
  entry->dtype = (uint8_t)dtype;
  entry->reduce = (uint8_t)reduce;
  entry->op = op;
  atomic_store_explicit(&entry->sequence, index + 1, memory_order_release);
  atomic_store_explicit(&progress->collective_index, index + 1, memory_order_release);
  th_progress_tick(progress);
}

void th_progress_abort(th_progress *progress, const char *reason) {
  if (atomic_load_explicit(&progress->abort, memory_order_acquire)) return;
  snprintf(progress->abort_text, sizeof progress->abort_text, "%s", reason);
  atomic_store_explicit(&progress->abort, 1, memory_order_release);
}
