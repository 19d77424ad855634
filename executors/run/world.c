/* The job's group of ranks as this process sees it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "executors/run/program.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static th_channel *channel;
static pid_t owner;          /* the process that opened it, or tried */
static char failed[1024];    /* why it could not be opened: the others are past it, so it is not tried again */
static const char *(*interrupt)(void);

static int32_t number(const char *name, int32_t fallback) {
  const char *text = getenv(name);
  return text && *text ? (int32_t)strtol(text, NULL, 10) : fallback;
}

void th_world(int32_t *out_rank, int32_t *out_size) {
  *out_size = number("WORLD_SIZE", 1);
  *out_rank = *out_size > 1 ? number("RANK", 0) : 0;
}

static th_status open_world(void) {
  th_progress *page = th_progress_attach();
  th_channel_options options = {.progress = page, .interrupt = interrupt};
  if (owner && owner != getpid())
    return TH_ERROR(FAILED_PRECONDITION, "this process was forked from a rank (%d) that has collectives; they belong to that rank. Start helpers by exec (subprocess, or "
                    "multiprocessing's \"spawn\"), without RANK and WORLD_SIZE", (int)owner);
  if (channel) return TH_OK;
  if (*failed) return TH_ERROR(FAILED_PRECONDITION, "the channel could not be opened before: %s", failed);
  owner = getpid();
  if (page) atomic_store(&page->channel, TH_PROGRESS_CHANNEL_opening);
  th_status status = th_channel_open("auto", &options, &channel);
  if (page) atomic_store(&page->channel, status ? TH_PROGRESS_CHANNEL_none : TH_PROGRESS_CHANNEL_open);
  if (status) snprintf(failed, sizeof failed, "%s", th_status_message(status));
  return status;
}

th_status th_world_channel(th_channel **out) {
  pthread_mutex_lock(&lock);
  th_status status = open_world();
  *out = channel;
  pthread_mutex_unlock(&lock);
  return status;
}

void th_set_interrupt(const char *(*ask)(void)) { interrupt = ask; }

bool th_world_lost(void) { return *failed || (channel && th_channel_lost(channel)); }

th_world_counters th_world_count(void) {
  if (!channel) return (th_world_counters){0};
  th_channel_stats s = th_channel_stats_get(channel);
  return (th_world_counters){.index = s.index, .completed = s.completed, .bytes_sent = s.bytes_sent, .wait_ns = s.wait_ns, .fingerprint = s.fingerprint};
}

void th_step_done(void) {
  th_progress *page = th_progress_attach();
  if (page) th_progress_step(page);
}

th_status th_broadcast(void *data, size_t bytes) {
  int32_t rank, size;
  th_channel *c;
  th_world(&rank, &size);
  if (size == 1) return TH_OK;
  TH_TRY(th_world_channel(&c));
  return th_channel_broadcast(c, TH_DTYPE_u8, 0, data, bytes);
}
