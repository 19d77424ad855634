/* The progress page: one thread writes as a rank does, one reads as thunder-step does. A plain program, so that ThreadSanitizer
 * can run it. What is read complete (its sequence is the same before and after) must be one entry and no mixture of two. */
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ir/base/progress.h"
#include "tests/unit/check.h"

enum { POSTS = 200000 };

/* Every field of collective `i` follows from i. */
static uint64_t mark(uint64_t i) { return (i + 1) * 0x9e3779b97f4a7c15u; }

static void post(th_progress *page, uint64_t i) {
  th_progress_post(page, i, mark(i), (unsigned)(mark(i) >> 60), (unsigned)(mark(i) >> 50 & 15), (unsigned)(mark(i) >> 40 & 3), mark(i) >> 7,
                   (uint32_t)(mark(i) >> 3));
}

static void *write_all(void *user) {
  for (uint64_t i = 0; i < POSTS; i++) {
    post(user, i);
    th_progress_tick(user);
    if (i % 1000 == 0) th_progress_step(user);
  }
  return NULL;
}

static uint64_t load(_Atomic uint64_t *at) { return atomic_load_explicit(at, memory_order_acquire); }

typedef struct tally {
  uint64_t whole, torn;
} tally;

static void read_ring(th_progress *page, tally *seen) {
  uint64_t posted = load(&page->collective_index), from = posted > TH_PROGRESS_RING ? posted - TH_PROGRESS_RING : 0;
  for (uint64_t i = from; i < posted; i++) {
    th_progress_collective *e = &page->ring[i % TH_PROGRESS_RING];
    if (load(&e->sequence) != i + 1) { /* written over meanwhile */
      seen->torn++;
      continue;
    }
    uint64_t fingerprint = e->fingerprint, count = e->count;
    unsigned kind = e->kind, dtype = e->dtype, reduce = e->reduce, op = e->op;
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&e->sequence, memory_order_relaxed) != i + 1) {
      seen->torn++;
      continue;
    }
    seen->whole++;
    CHECK(fingerprint == mark(i) && count == mark(i) >> 7 && op == (uint32_t)(mark(i) >> 3));
    CHECK(kind == (unsigned)(mark(i) >> 60) && dtype == (unsigned)(mark(i) >> 50 & 15) && reduce == (unsigned)(mark(i) >> 40 & 3));
  }
}

static void ring(const char *path) {
  th_progress *mine, *theirs;
  pthread_t thread;
  tally seen = {0, 0};
  CHECK_OK(th_progress_create(path, &mine));
  CHECK_OK(th_progress_open(path, &theirs)); /* another mapping, as another process has it */
  CHECK(mine != theirs);
  CHECK_INT(pthread_create(&thread, NULL, write_all, mine), 0);
  uint64_t counter = 0, steps = 0, index = 0;
  while (index < POSTS) { /* numbers only grow */
    uint64_t c = load(&theirs->counter), s = load(&theirs->step), i = load(&theirs->collective_index);
    CHECK(c >= counter && s >= steps && i >= index);
    counter = c, steps = s, index = i;
    read_ring(theirs, &seen);
  }
  CHECK_INT(pthread_join(thread, NULL), 0);
  uint64_t before = seen.whole;
  read_ring(theirs, &seen);
  CHECK_INT(seen.whole - before, TH_PROGRESS_RING); /* at rest all of the ring is whole */
  CHECK_INT(load(&theirs->step), POSTS / 1000);
  CHECK(load(&theirs->counter) >= POSTS && load(&theirs->updated_ns) > 0);
  printf("%llu entries seen whole, %llu torn\n", (unsigned long long)seen.whole, (unsigned long long)seen.torn);
  th_progress_unmap(mine);
  th_progress_unmap(theirs);
}

static void *ask_to_stop(void *user) {
  th_progress_abort(user, "rank 3 was killed");
  return NULL;
}

static void abort_text(const char *path) { /* written before the flag: who sees the flag sees all of the text */
  th_progress *page;
  pthread_t thread;
  char longer[1000];
  CHECK_OK(th_progress_open(path, &page));
  CHECK_INT(pthread_create(&thread, NULL, ask_to_stop, page), 0);
  while (!atomic_load_explicit(&page->abort, memory_order_acquire)) nanosleep(&(struct timespec){0, 1000}, NULL);
  CHECK_TEXT(page->abort_text, "rank 3 was killed");
  CHECK_INT(pthread_join(thread, NULL), 0);
  th_progress_abort(page, "a second reason");
  CHECK_TEXT(page->abort_text, "rank 3 was killed");
  th_progress_unmap(page);
  CHECK_INT(unlink(path), 0);
  CHECK_OK(th_progress_create(path, &page));
  memset(longer, 'x', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  th_progress_abort(page, longer);
  CHECK(atomic_load(&page->abort) && strlen(page->abort_text) == sizeof page->abort_text - 1);
  th_progress_unmap(page);
  th_progress_unmap(NULL);
}

static void code(th_status status, th_code want) {
  CHECK_INT(th_status_code(status), want);
  th_status_free(status);
}

static void files(const char *path) {
  th_progress *page = (th_progress *)(uintptr_t)path;
  struct stat st;
  CHECK(!stat(path, &st) && (st.st_mode & 07777) == 0600 && st.st_size >= (off_t)sizeof(th_progress));
  code(th_progress_create(path, &page), TH_CODE_UNAVAILABLE); /* is there */
  CHECK(!page);
  code(th_progress_open("/nonexistent/page", &page), TH_CODE_NOT_FOUND);
  CHECK_INT(truncate(path, 100), 0);
  code(th_progress_open(path, &page), TH_CODE_INVALID_ARGUMENT);
  CHECK_INT(truncate(path, (off_t)sizeof(th_progress)), 0); /* zeroes but for its head */
  CHECK_OK(th_progress_open(path, &page));
  page->version++;
  th_progress_unmap(page);
  code(th_progress_open(path, &page), TH_CODE_FAILED_PRECONDITION);
  CHECK_INT(truncate(path, 0), 0);
  CHECK_INT(truncate(path, (off_t)sizeof(th_progress)), 0); /* no magic */
  code(th_progress_open(path, &page), TH_CODE_INVALID_ARGUMENT);
  CHECK(!page);
}

static void attached(const char *path) { /* last: once for a process */
  th_progress *page;
  CHECK_INT(unlink(path), 0);
  CHECK_OK(th_progress_create(path, &page));
  setenv("THUNDER_PROGRESS", path, 1);
  th_progress *mine = th_progress_attach();
  CHECK(mine && mine == th_progress_attach());
  post(mine, 0);
  CHECK_INT(load(&page->collective_index), 1);
  th_progress_unmap(page);
  CHECK_INT(unlink(path), 0);
}

int main(void) {
  char path[256];
  const char *tmp = getenv("TMPDIR");
  snprintf(path, sizeof path, "%s/thunder-progress-%d", tmp && *tmp ? tmp : "/tmp", (int)getpid());
  ring(path);
  abort_text(path);
  files(path);
  attached(path);
  puts("passed");
  return 0;
}
