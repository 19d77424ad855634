#include "collectives/local/local.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/backend.h"
#include "collectives/reduce.h"

enum { MAX_SIZE = 1024, CHUNK = 2048 };

/* One collective that not all ranks have taken the end of. */
typedef struct slot {
  struct slot *next;
  uint64_t index;
  int posted, taken; /* ranks that have started it; that have seen its end */
  int first;         /* rank that came first: the others are compared with it */
  bool done;
  th_request *requests[]; /* by rank; NULL: not started */
} slot;

struct th_local_group {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int size, holders;
  slot *slots;
  bool aborted;
  const char *abort_reason;
  char mismatch[600]; /* not "": the ranks disagree */
  struct {
    bool open, left;
  } ranks[];
};

typedef struct local_channel {
  th_channel base;
  th_local_group *group;
} local_channel;

typedef struct local_request {
  th_request base;
} local_request;

static th_local_group *group_of(const th_channel *channel) { return ((const local_channel *)channel)->group; }

th_status th_local_group_create(int size, th_local_group **out_group) {
  *out_group = NULL;
  if (size < 1 || size > MAX_SIZE)
    return TH_ERROR(INVALID_ARGUMENT, "a local group of %d ranks: expected 1 to %d", size, MAX_SIZE);
  th_local_group *group = calloc(1, sizeof *group + (size_t)size * sizeof *group->ranks);
  if (!group) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for a local group of %d ranks", size);
  pthread_mutex_init(&group->lock, NULL);
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&group->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  group->size = size;
  group->holders = 1;
  *out_group = group;
  return TH_OK;
}

void th_local_group_release(th_local_group *group) {
  if (!group) return;
  pthread_mutex_lock(&group->lock);
  int left = --group->holders;
  pthread_mutex_unlock(&group->lock);
  if (left) return;
  while (group->slots) {
    slot *next = group->slots->next;
    free(group->slots);
    group->slots = next;
  }
  pthread_cond_destroy(&group->changed);
  pthread_mutex_destroy(&group->lock);
  free(group);
}

/* --- carrying out; all ranks have posted, none touches its buffers */

static char *at(const void *data, size_t offset) { return (char *)(uintptr_t)data + offset; }

static const void *input_of(const th_segment *s) { return s->input ? s->input : s->output; }

/* output[part of `to`] of every rank in [first, last) = reduction of `count` elements at `offset` of all inputs. */
static void reduce_range(th_local_group *group, slot *s, size_t segment, size_t input_offset, size_t count, int first,
                         int last) {
  const th_collective_call *call = &s->requests[0]->call;
  size_t width = th_dtype_size(call->dtype);
  double accumulator[2 * CHUNK]; /* room for CHUNK elements of the widest dtype */
  for (size_t done = 0; done < count; done += CHUNK) {
    size_t part = count - done < CHUNK ? count - done : CHUNK;
    for (int r = 0; r < group->size; r++) {
      const char *in = at(input_of(&s->requests[r]->call.segments[segment]), (input_offset + done) * width);
      if (r == 0) th__reduce_load(call->dtype, in, accumulator, part);
      else th__reduce_add(call->dtype, call->reduce, in, accumulator, part);
    }
    for (int r = first; r < last; r++)
      th__reduce_store(call->dtype, call->reduce, group->size, accumulator,
                       at(s->requests[r]->call.segments[segment].output, done * width), part);
  }
}

static void copy(void *to, const void *from, size_t bytes) {
  if (to != from && bytes) memmove(to, from, bytes);
}

static void carry_out(th_local_group *group, slot *s) {
  const th_collective_call *call = &s->requests[0]->call;
  for (size_t i = 0; i < call->segment_count; i++) {
    size_t count = call->segments[i].count, bytes = count * th_dtype_size(call->dtype);
    switch (call->kind) {
      case TH_COLLECTIVE_all_reduce:
        reduce_range(group, s, i, 0, count, 0, group->size);
        break;
      case TH_COLLECTIVE_reduce_scatter:
        for (int r = 0; r < group->size; r++) reduce_range(group, s, i, (size_t)r * count, count, r, r + 1);
        break;
      case TH_COLLECTIVE_all_gather:
        for (int from = 0; from < group->size; from++) {
          const th_segment *source = &s->requests[from]->call.segments[i];
          const void *data = source->input ? source->input : at(source->output, (size_t)from * bytes);
          for (int to = 0; to < group->size; to++)
            copy(at(s->requests[to]->call.segments[i].output, (size_t)from * bytes), data, bytes);
        }
        break;
      case TH_COLLECTIVE_broadcast:
        for (int to = 0; to < group->size; to++)
          copy(s->requests[to]->call.segments[i].output, input_of(&s->requests[call->root]->call.segments[i]), bytes);
        break;
      case TH_COLLECTIVE_barrier:
      case TH_COLLECTIVE_KIND_COUNT:
        break;
    }
  }
}

/* --- start and test; the group's lock is held where a name ends in _locked */

static void describe_call(const th_collective_call *call, char *buffer, size_t size) {
  bool reduces = call->kind == TH_COLLECTIVE_all_reduce || call->kind == TH_COLLECTIVE_reduce_scatter;
  char root[32] = "";
  if (call->kind == TH_COLLECTIVE_broadcast) snprintf(root, sizeof root, " from rank %d", call->root);
  if (call->kind == TH_COLLECTIVE_barrier) snprintf(buffer, size, "barrier");
  else
    snprintf(buffer, size, "%s%s%s%s of %zu x %s in %zu segments", th_collective_kind_name(call->kind), reduces ? " " : "",
             reduces ? th_reduce_name(call->reduce) : "", root, th__call_count(call), th_dtype_name(call->dtype),
             call->segment_count);
}

/* Two calls that differ but are described alike: a segment of the same number has another size. */
static void describe_segment(const th_collective_call *a, int rank_a, const th_collective_call *b, int rank_b, char *buffer, size_t size) {
  for (size_t i = 0; i < a->segment_count && i < b->segment_count; i++)
    if (a->segments[i].count != b->segments[i].count) {
      snprintf(buffer, size, " (segment %zu: %zu elements on rank %d, %zu on rank %d)", i, a->segments[i].count, rank_a, b->segments[i].count, rank_b);
      return;
    }
}

static bool same_call(const th_collective_call *a, const th_collective_call *b) {
  return th_fingerprint_next(0, a) == th_fingerprint_next(0, b);
}

static slot *find_slot_locked(th_local_group *group, uint64_t index) {
  slot **place = &group->slots;
  while (*place && (*place)->index != index) place = &(*place)->next;
  if (*place) return *place;
  *place = calloc(1, sizeof **place + (size_t)group->size * sizeof *(*place)->requests);
  if (*place) **place = (slot){.index = index, .first = -1};
  return *place;
}

static th_status broken_locked(th_local_group *group) {
  if (group->mismatch[0]) return TH_ERROR(FAILED_PRECONDITION, "%s", group->mismatch);
  if (group->aborted) return TH_ERROR(ABORTED, "stopped waiting: %s", group->abort_reason);
  return TH_OK;
}

static th_status local_start(th_channel *channel, th_request *request) {
  th_local_group *group = group_of(channel);
  pthread_mutex_lock(&group->lock);
  th_status status = broken_locked(group);
  slot *s = status ? NULL : find_slot_locked(group, request->index);
  if (!status && !s) status = TH_ERROR(RESOURCE_EXHAUSTED, "out of memory");
  if (!status && s->first >= 0 && !same_call(&request->call, &s->requests[s->first]->call)) {
    char mine[128], other[128], segment[128] = "";
    const th_collective_call *first = &s->requests[s->first]->call;
    describe_call(&request->call, mine, sizeof mine);
    describe_call(first, other, sizeof other);
    if (!strcmp(mine, other)) describe_segment(first, s->first, &request->call, channel->rank, segment, sizeof segment);
    snprintf(group->mismatch, sizeof group->mismatch,
             "collective %llu differs between ranks: rank %d started %s, rank %d started %s%s; all ranks must start the "
             "same collectives in the same order", (unsigned long long)request->index, s->first, other, channel->rank,
             mine, segment);
    pthread_cond_broadcast(&group->changed);
    status = broken_locked(group);
  }
  if (!status) {
    if (s->first < 0) s->first = channel->rank;
    s->requests[channel->rank] = request;
    if (++s->posted == group->size) {
      /* nobody else writes to a full slot, and it stays in the list until all have taken its end */
      pthread_mutex_unlock(&group->lock);
      carry_out(group, s);
      pthread_mutex_lock(&group->lock);
      s->done = true;
      pthread_cond_broadcast(&group->changed);
    }
  }
  pthread_mutex_unlock(&group->lock);
  return status;
}

static th_status local_test(th_request *request, bool *out_done) {
  th_channel *channel = request->channel;
  th_local_group *group = group_of(channel);
  th_status status = TH_OK;
  *out_done = false;
  pthread_mutex_lock(&group->lock);
  slot **place = &group->slots;
  while (*place && (*place)->index != request->index) place = &(*place)->next;
  slot *s = *place;
  if (s && s->done) {
    *out_done = true;
    if (++s->taken == group->size) {
      *place = s->next;
      free(s);
    }
  } else {
    status = broken_locked(group);
    for (int r = 0; s && !status && r < group->size; r++)
      if (!s->requests[r] && group->ranks[r].left)
        status = TH_ERROR(UNAVAILABLE, "rank %d left the group before it came to this collective", r);
  }
  pthread_mutex_unlock(&group->lock);
  return status;
}

static void local_pause(th_channel *channel, unsigned microseconds) {
  th_local_group *group = group_of(channel);
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += (long)microseconds * 1000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock(&group->lock);
  pthread_cond_timedwait(&group->changed, &group->lock, &until);
  pthread_mutex_unlock(&group->lock);
}

/* A rank that gives up takes its buffers back: the collective can never be carried out, so the group is broken. */
static void local_finish(th_request *request, bool lost) {
  if (!lost) return;
  th_channel *channel = request->channel;
  th_local_group *group = group_of(channel);
  pthread_mutex_lock(&group->lock);
  if (!group->aborted) {
    group->aborted = true;
    group->abort_reason = "another rank of the group gave up waiting";
  }
  pthread_cond_broadcast(&group->changed);
  /* a collective being carried out right now still uses the buffers */
  for (slot *s = group->slots; s; s = s->next)
    while (s->index == request->index && s->posted == group->size && !s->done)
      pthread_cond_wait(&group->changed, &group->lock);
  pthread_mutex_unlock(&group->lock);
}

static void local_abort(th_channel *channel) {
  th_local_group *group = group_of(channel);
  pthread_mutex_lock(&group->lock);
  if (!group->aborted) {
    group->aborted = true;
    group->abort_reason = atomic_load(&channel->abort_reason);
  }
  pthread_cond_broadcast(&group->changed);
  pthread_mutex_unlock(&group->lock);
}

static void local_destroy(th_channel *channel, bool lost) {
  th_local_group *group = group_of(channel);
  pthread_mutex_lock(&group->lock);
  group->ranks[channel->rank].left = true;
  pthread_cond_broadcast(&group->changed);
  pthread_mutex_unlock(&group->lock);
  th_local_group_release(group);
  free(channel);
}

static const th_channel_vtable vtable = {
    .kind = "local",
    .request_size = sizeof(local_request),
    .start = local_start,
    .test = local_test,
    .pause = local_pause,
    .finish = local_finish,
    .abort = local_abort,
    .destroy = local_destroy,
};

th_status th__channel_local_open(const th_channel_options *options, th_channel **out_channel) {
  *out_channel = NULL;
  th_local_group *group = options ? options->local_group : NULL;
  int rank = group ? options->local_rank : 0;
  th_status status = TH_OK;
  if (group && (rank < 0 || rank >= group->size))
    return TH_ERROR(INVALID_ARGUMENT, "local channel: rank %d: expected 0 to %d", rank, group->size - 1);
  local_channel *channel = calloc(1, sizeof *channel);
  if (!channel) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for a channel");
  if (group) {
    pthread_mutex_lock(&group->lock);
    if (group->ranks[rank].open) {
      status = TH_ERROR(ALREADY_EXISTS, "local channel: rank %d of this group is open already", rank);
    } else {
      group->ranks[rank].open = true;
      group->holders++;
    }
    pthread_mutex_unlock(&group->lock);
  } else {
    status = th_local_group_create(1, &group);
  }
  if (!status) {
    status = th__channel_init(&channel->base, &vtable, rank, group->size, options);
    channel->group = group;
    if (!status) {
      *out_channel = &channel->base;
      return TH_OK;
    }
    th_local_group_release(group);
  }
  free(channel);
  return status;
}
