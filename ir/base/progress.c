#include "ir/base/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
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

static th_status check(const char *path, const th_progress *page) {
  if (page->magic == TH_PROGRESS_MAGIC && page->version == TH_PROGRESS_VERSION) return TH_OK;
  if (page->magic != TH_PROGRESS_MAGIC) return TH_ERROR(INVALID_ARGUMENT, "progress page %s: not a page of ours", path);
  return TH_ERROR(FAILED_PRECONDITION, "progress page %s: version %u, expected %u (two builds of Thunder?)", path,
                  (unsigned)page->version, TH_PROGRESS_VERSION);
}

th_status th_progress_open(const char *path, th_progress **out_progress) {
  *out_progress = NULL;
  int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return TH_ERROR(NOT_FOUND, "progress page %s: %s", path, strerror(errno));
  struct stat info;
  th_progress *page = NULL;
  if (fstat(fd, &info) == 0 && info.st_size >= (off_t)sizeof(th_progress)) page = map_file(fd);
  close(fd);
  if (!page) return TH_ERROR(INVALID_ARGUMENT, "progress page %s: not a page of %zu bytes", path, sizeof(th_progress));
  th_status status = check(path, page);
  if (status) munmap(page, sizeof *page);
  else *out_progress = page;
  return status;
}

th_status th_progress_read(const char *path, th_progress *out) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return TH_ERROR(NOT_FOUND, "progress page %s: %s", path, strerror(errno));
  struct stat info;
  bool whole = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() && pread(fd, out, sizeof *out, 0) == (ssize_t)sizeof *out;
  close(fd);
  if (!whole) return TH_ERROR(INVALID_ARGUMENT, "progress page %s: not a page of %zu bytes of this user", path, sizeof *out);
  return check(path, out);
}

void th_progress_unmap(th_progress *progress) {
  if (progress) munmap(progress, sizeof *progress);
}

static _Atomic(th_progress *) attached;
static pthread_once_t attach_once = PTHREAD_ONCE_INIT;

/* The rank's page is not its children's: one of their own takes its place, wherever the address is kept. */
static void after_fork(void) {
  mmap(attached, sizeof(th_progress), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static bool is_number(const char *name, uint32_t wanted) {
  const char *text = getenv(name);
  return text && strtoul(text, NULL, 10) == wanted;
}

static bool claim(th_progress *page) {
  int32_t owner = 0, self = (int32_t)getpid();
  if (page->world_size && !(is_number("RANK", page->rank) && is_number("WORLD_SIZE", page->world_size))) return false;
  if (atomic_compare_exchange_strong(&page->pid, &owner, self) || owner == self) return true; /* the same: it has exec'ed itself */
  if (atomic_load(&page->channel) != TH_PROGRESS_CHANNEL_none || !kill(owner, 0) || errno != ESRCH) return false;
  if (!atomic_compare_exchange_strong(&page->pid, &owner, self)) return false;
  atomic_store(&page->step, 0); /* a helper trained and has ended; the rank is who comes now */
  return true;
}

static void attach(void) {
  const char *path = getenv("THUNDER_PROGRESS");
  th_progress *page = NULL;
  if (path && *path) {
    th_status status = th_progress_open(path, &page);
    if (status) TH_LOG(WARNING, "%s; thunderctl will not see this rank's progress", th_status_message(status));
    th_status_free(status);
    if (page && !claim(page)) {
      th_progress_unmap(page);
      page = NULL;
    }
  }
  if (page) {
    attached = page;
    pthread_atfork(NULL, NULL, after_fork);
    return;
  }
  void *own = mmap(NULL, sizeof(th_progress), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  attached = own == MAP_FAILED ? NULL : own;
}

th_progress *th_progress_attach(void) {
  pthread_once(&attach_once, attach);
  return attached;
}

th_progress *th_progress_attached(void) { return attached; }

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

bool th_progress_entry(const th_progress *progress, uint64_t index, th_progress_collective *out) {
  const th_progress_collective *entry = &progress->ring[index % TH_PROGRESS_RING];
  if (atomic_load_explicit(&entry->sequence, memory_order_acquire) != index + 1) return false;
  *out = (th_progress_collective){.sequence = index + 1, .fingerprint = entry->fingerprint, .count = entry->count, .kind = entry->kind,
                                  .dtype = entry->dtype, .reduce = entry->reduce, .op = entry->op};
  atomic_thread_fence(memory_order_acquire);
  return atomic_load_explicit(&entry->sequence, memory_order_relaxed) == index + 1;
}

void th_progress_peers_set(th_progress *progress, const char *text) {
  atomic_store_explicit(&progress->peers_ns, 0, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  snprintf(progress->peers_text, sizeof progress->peers_text, "%s", text);
  atomic_store_explicit(&progress->peers_ns, now_ns(), memory_order_release);
}

bool th_progress_peers(const th_progress *progress, char *out, size_t size) {
  for (int turn = 0; turn < 100; turn++) {
    uint64_t written = atomic_load_explicit(&progress->peers_ns, memory_order_acquire);
    if (written && now_ns() - written > 2000000000u) return false;
    if (written) {
      snprintf(out, size, "%.*s", (int)sizeof progress->peers_text - 1, progress->peers_text);
      atomic_thread_fence(memory_order_acquire);
      if (atomic_load_explicit(&progress->peers_ns, memory_order_relaxed) == written) return true;
    }
  }
  return false;
}
