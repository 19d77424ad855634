/* The job's group of ranks as this process sees it. */
#include <pthread.h>
#include <stdlib.h>

#include "executors/run/program.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static th_channel *channel;

static int32_t number(const char *name, int32_t fallback) {
  const char *text = getenv(name);
  return text && *text ? (int32_t)strtol(text, NULL, 10) : fallback;
}

void th_world(int32_t *out_rank, int32_t *out_size) {
  *out_size = number("WORLD_SIZE", 1);
  *out_rank = *out_size > 1 ? number("RANK", 0) : 0;
}

th_status th_world_channel(th_channel **out) {
  th_status status = TH_OK;
  pthread_mutex_lock(&lock);
  if (!channel) status = th_channel_open("auto", NULL, &channel);
  *out = channel;
  pthread_mutex_unlock(&lock);
  return status;
}

th_status th_broadcast(void *data, size_t bytes) {
  int32_t rank, size;
  th_channel *c;
  th_world(&rank, &size);
  if (size == 1) return TH_OK;
  TH_TRY(th_world_channel(&c));
  return th_channel_broadcast(c, TH_DTYPE_u8, 0, data, bytes);
}

void th_abort(const char *reason) {
  if (channel) th_channel_abort(channel, reason);
}
