/* The suite on `local`: each rank a thread. */
#include "collectives/local/local.h"

#include <pthread.h>

#include "tests/collectives/suite.h"
#include "tests/unit/check.h"

enum { MAX_RANKS = 4, MAX_GROUPS = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static th_local_group *groups[MAX_GROUPS]; /* the n-th channel of every rank is in groups[n] */
static pthread_barrier_t barrier;

static th_status open_rank(suite_rank *r, th_channel_options *options, th_channel **out_channel) {
  int n = r->opened++;
  CHECK(n < MAX_GROUPS);
  pthread_mutex_lock(&lock);
  if (!groups[n]) CHECK_OK(th_local_group_create(r->size, &groups[n]));
  pthread_mutex_unlock(&lock);
  options->local_group = groups[n];
  options->local_rank = r->rank;
  return th_channel_open("local", options, out_channel);
}

static void meet(suite_rank *r) {
  (void)r;
  pthread_barrier_wait(&barrier);
}

static const suite_backend backend = {
    .name = "local", .names_mismatch = true, .ends_together = true, .outlives_loss = true, .open = open_rank, .meet = meet};

static void *run_rank(void *user) {
  suite_rank *r = user;
  CHECK(suite_run(r, r->user) > 0);
  return NULL;
}

static void run(int size, const char *only) {
  pthread_t threads[MAX_RANKS];
  suite_rank ranks[MAX_RANKS];
  pthread_barrier_init(&barrier, NULL, (unsigned)size);
  for (int i = 0; i < size; i++) {
    ranks[i] = (suite_rank){.backend = &backend, .rank = i, .size = size, .user = (void *)(uintptr_t)only};
    CHECK_INT(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
  }
  for (int i = 0; i < size; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < MAX_GROUPS; i++) {
    th_local_group_release(groups[i]);
    groups[i] = NULL;
  }
  pthread_barrier_destroy(&barrier);
}

static void groups_and_ranks(void) { /* what only this back end can be asked */
  th_local_group *group = NULL;
  th_channel *a, *b;
  static const int bad[] = {0, -1, 1025};
  for (int i = 0; i < 3; i++) {
    th_status status = th_local_group_create(bad[i], &group);
    CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
    CHECK(!group);
    th_status_free(status);
  }
  th_local_group_release(NULL);
  CHECK_OK(th_local_group_create(2, &group));
  for (int rank = -1; rank < 4; rank += 3) {
    th_status status = th_channel_open("local", &(th_channel_options){.local_group = group, .local_rank = rank}, &a);
    CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
    CHECK(!a);
    th_status_free(status);
  }
  CHECK_OK(th_channel_open("local", &(th_channel_options){.local_group = group, .local_rank = 1}, &a));
  th_status status = th_channel_open("local", &(th_channel_options){.local_group = group, .local_rank = 1}, &b);
  CHECK_INT(th_status_code(status), TH_CODE_ALREADY_EXISTS);
  CHECK(!b);
  th_status_free(status);
  th_local_group_release(group); /* the channel holds it */
  th_channel_close(a);
  static const char *const timeouts[] = {"0", "-1", "x", "1e10", "5s", "nan"};
  for (int i = 0; i < 6; i++) { /* here no other thread reads the environment */
    setenv("THUNDER_COLLECTIVE_TIMEOUT", timeouts[i], 1);
    status = th_channel_open("local", NULL, &a);
    CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
    CHECK(!a);
    th_status_free(status);
  }
  setenv("THUNDER_COLLECTIVE_TIMEOUT", "0.05", 1);
  CHECK_OK(th_channel_open("local", NULL, &a)); /* a group of one */
  CHECK_INT(th_channel_size(a), 1);
  CHECK_OK(th_channel_barrier(a));
  th_channel_close(a);
  unsetenv("THUNDER_COLLECTIVE_TIMEOUT");
}

int main(int argc, char **argv) {
  const char *only = argc > 1 ? argv[1] : NULL; /* one case */
  if (!only) groups_and_ranks();
  for (int size = only ? 2 : 1; size <= MAX_RANKS; size++) run(size, only);
  puts("passed");
  return 0;
}
