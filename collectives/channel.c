/* The part of a channel that all back ends share: checking calls, the pool of requests, counters and fingerprints,
 * and the one waiting loop. */
#include "collectives/channel.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/backend.h"
#include "collectives/reduce.h"
#include "ir/base/failpoint.h"

static const char *const kind_names[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier"};
static const char *const reduce_names[] = {"sum", "avg", "max", "min"};

const char *th_collective_kind_name(th_collective_kind kind) {
  return (unsigned)kind < TH_COLLECTIVE_KIND_COUNT ? kind_names[kind] : "?";
}

const char *th_reduce_name(th_reduce reduce) {
  return (unsigned)reduce < TH_REDUCE_COUNT ? reduce_names[reduce] : "?";
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- fingerprint */

static uint64_t mix(uint64_t h, uint64_t value) { /* splitmix64's finisher over a running value */
  h += 0x9e3779b97f4a7c15u + value;
  h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
  h = (h ^ h >> 27) * 0x94d049bb133111ebu;
  return h ^ h >> 31;
}

uint64_t th_fingerprint_seed(const char *group) {
  uint64_t h = 0x7468756e64657221u;
  for (const char *c = group ? group : "world"; *c; c++) h = mix(h, (unsigned char)*c);
  return h;
}

static bool reduces(th_collective_kind kind) {
  return kind == TH_COLLECTIVE_all_reduce || kind == TH_COLLECTIVE_reduce_scatter;
}

uint64_t th_fingerprint_next(uint64_t fingerprint, const th_collective_call *call) {
  uint64_t h = mix(fingerprint, (uint64_t)call->kind);
  if (call->kind == TH_COLLECTIVE_barrier) return h;
  h = mix(h, (uint64_t)call->dtype);
  if (reduces(call->kind)) h = mix(h, (uint64_t)call->reduce);
  if (call->kind == TH_COLLECTIVE_broadcast) h = mix(h, (uint64_t)call->root);
  for (size_t i = 0; i < call->segment_count; i++) h = mix(h, call->segments[i].count);
  return h;
}

/* --- life of a channel */

th_status th__channel_init(th_channel *channel, const th_channel_vtable *vtable, int rank, int size,
                           const th_channel_options *options) {
  static const th_channel_options none;
  if (!options) options = &none;
  *channel = (th_channel){.vtable = vtable, .rank = rank, .size = size, .timeout_ms = options->timeout_ms,
                          .abort_flag = options->abort_flag, .progress = options->progress, .interrupt = options->interrupt};
  snprintf(channel->group, sizeof channel->group, "%s", options->group ? options->group : "world");
  if (channel->timeout_ms <= 0) {
    const char *text = getenv("THUNDER_COLLECTIVE_TIMEOUT");
    char *end = NULL;
    double seconds = text && *text ? strtod(text, &end) : 600;
    if ((end && *end) || !(seconds > 0) || seconds > 1e9)
      return TH_ERROR(INVALID_ARGUMENT, "THUNDER_COLLECTIVE_TIMEOUT=%s: expected seconds, a number above 0", text);
    channel->timeout_ms = (int64_t)(seconds * 1000) + 1;
  }
  channel->stats.fingerprint = th_fingerprint_seed(channel->group);
  return TH_OK;
}

static void free_requests(const th_channel_vtable *vtable, th_request *request) {
  while (request) {
    th_request *next = request->next;
    if (vtable->release) vtable->release(request);
    free(request->segments);
    free(request);
    request = next;
  }
}

static void unlink_live(th_request *request) {
  th_request **at = &request->channel->live;
  while (*at != request) at = &(*at)->next;
  *at = request->next;
}

/* The request has ended or is given up: back to the pool, or, when the library may still touch it, kept for ever. */
static void end_request(th_request *request) {
  th_channel *channel = request->channel;
  unlink_live(request);
  channel->vtable->finish(request, !request->done);
  if (request->done || !channel->vtable->keeps_lost) {
    request->next = channel->free;
    channel->free = request;
  }
}

void th_channel_close(th_channel *channel) {
  if (!channel) return;
  while (channel->live) {
    th_request *request = channel->live;
    if (!request->done && !channel->lost) th_status_free(th_request_wait(request, -1));
    else end_request(request);
  }
  free_requests(channel->vtable, channel->free);
  channel->free = NULL;
  channel->vtable->destroy(channel, channel->lost);
}

int th_channel_rank(const th_channel *channel) { return channel->rank; }
int th_channel_size(const th_channel *channel) { return channel->size; }
const char *th_channel_kind(const th_channel *channel) { return channel->vtable->kind; }
const char *th_channel_group(const th_channel *channel) { return channel->group; }
th_channel_stats th_channel_stats_get(const th_channel *channel) { return channel->stats; }
bool th_channel_lost(const th_channel *channel) { return channel->lost; }

void th_channel_abort(th_channel *channel, const char *reason) {
  const char *none = NULL;
  atomic_compare_exchange_strong(&channel->abort_reason, &none, reason ? reason : "aborted");
  if (channel->vtable->abort) channel->vtable->abort(channel);
}

/* --- why a wait ends early */

/* Why this wait must end early, or NULL. */
static const char *stop_reason(th_channel *channel) {
  const char *reason = atomic_load_explicit(&channel->abort_reason, memory_order_acquire);
  if (reason) return reason;
  if (channel->abort_flag && atomic_load_explicit(channel->abort_flag, memory_order_acquire))
    return "the caller asked to stop";
  if (channel->progress && atomic_load_explicit(&channel->progress->abort, memory_order_acquire))
    return channel->progress->abort_text;
  return NULL;
}

enum { INTERRUPT_NS = 50000000, VERDICT_NS = 300000000 };

th_status th__wait_check(th_channel *channel, int64_t start_ns, int64_t *asked_ns) {
  const char *reason = stop_reason(channel);
  if (reason) return TH_ERROR(ABORTED, "stopped waiting: %s", reason);
  if (!channel->interrupt) return TH_OK;
  int64_t now = now_ns();
  if (now - start_ns < INTERRUPT_NS || now - *asked_ns < INTERRUPT_NS) return TH_OK;
  *asked_ns = now;
  reason = channel->interrupt();
  return reason ? TH_ERROR(CANCELLED, "stopped waiting: %s", reason) : TH_OK;
}

th_status th__wait_late(const th_channel *channel, const char *what, int64_t timeout_ms) {
  char peers[512] = "a peer is gone, stuck, or has not come to it (see thunderctl ls)";
  if (channel->progress) th_progress_peers(channel->progress, peers, sizeof peers);
  return TH_ERROR(DEADLINE_EXCEEDED, "%s: not done after %.3f s: %s; for slow steps set THUNDER_COLLECTIVE_TIMEOUT (seconds)",
                  what, (double)timeout_ms / 1e3, peers);
}

/* A library's error may be no more than the echo of a mismatch ("message truncated"): thunder-step, which sees both sides, has
 * the better text within some milliseconds. */
static th_status with_verdict(th_channel *channel, th_status status) {
  if (!status || !channel->progress || channel->size == 1) return status;
  const char *reason = NULL;
  for (int64_t end = now_ns() + VERDICT_NS; !(reason = stop_reason(channel)) && now_ns() < end;)
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  return reason ? th_status_join(TH_ERROR(ABORTED, "stopped: %s", reason), status) : status;
}

/* --- start */

/* "all_reduce 17 (ddp bucket 3) of world on rank 0 of 2" */
void th__request_describe(const th_request *request, char *buffer, size_t size) {
  const th_channel *channel = request->channel;
  const th_collective_call *call = &request->call;
  char note[96] = "";
  if (call->name) snprintf(note, sizeof note, " (%s)", call->name);
  else if (call->op) snprintf(note, sizeof note, " (op %u)", call->op);
  snprintf(buffer, size, "%s %llu%s of group %s on rank %d of %d", th_collective_kind_name(call->kind),
           (unsigned long long)request->index, note, channel->group, channel->rank, channel->size);
}

static th_status check_call(const th_channel *channel, const th_collective_call *call) {
  if ((unsigned)call->kind >= TH_COLLECTIVE_KIND_COUNT)
    return TH_ERROR(INVALID_ARGUMENT, "unknown collective %d", (int)call->kind);
  if (call->kind == TH_COLLECTIVE_barrier) return TH_OK;
  if (reduces(call->kind)) TH_TRY(th__reduce_check(call->dtype, call->reduce));
  if (call->dtype <= TH_DTYPE_none || call->dtype >= TH_DTYPE_COUNT)
    return TH_ERROR(INVALID_ARGUMENT, "no dtype given (%d)", (int)call->dtype);
  if (call->kind == TH_COLLECTIVE_broadcast && (call->root < 0 || call->root >= channel->size))
    return TH_ERROR(INVALID_ARGUMENT, "root %d: expected 0 to %d", call->root, channel->size - 1);
  size_t width = th_dtype_size(call->dtype), total = 0;
  for (size_t i = 0; i < call->segment_count; i++) {
    const th_segment *s = &call->segments[i];
    size_t bytes;
    if (__builtin_mul_overflow(s->count, width * (size_t)channel->size, &bytes) ||
        __builtin_add_overflow(total, bytes, &total))
      return TH_ERROR(INVALID_ARGUMENT, "segment %zu: %zu elements are more than memory can hold", i, s->count);
    if (!s->count) continue;
    if (!s->output) return TH_ERROR(INVALID_ARGUMENT, "segment %zu: output is NULL", i);
    if (!s->input && call->kind == TH_COLLECTIVE_reduce_scatter)
      return TH_ERROR(INVALID_ARGUMENT, "segment %zu: reduce_scatter needs an input of its own", i);
  }
  return TH_OK;
}

static th_status take_request(th_channel *channel, const th_collective_call *call, th_request **out_request) {
  th_request *request = channel->free;
  if (request) channel->free = request->next;
  else request = calloc(1, channel->vtable->request_size);
  if (!request) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for a request");
  if (request->segment_capacity < call->segment_count) {
    th_segment *grown = realloc(request->segments, call->segment_count * sizeof *grown);
    if (!grown) {
      request->next = channel->free;
      channel->free = request;
      return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for %zu segments", call->segment_count);
    }
    request->segments = grown;
    request->segment_capacity = call->segment_count;
  }
  request->channel = channel;
  request->call = *call;
  request->call.segments = request->segments;
  request->done = false;
  request->index = channel->stats.index;
  size_t kept = 0; /* empty segments have no meaning to a back end */
  for (size_t i = 0; i < call->segment_count; i++)
    if (call->segments[i].count) request->segments[kept++] = call->segments[i];
  request->call.segment_count = kept;
  *out_request = request;
  return TH_OK;
}

size_t th__call_count(const th_collective_call *call) {
  size_t count = 0;
  for (size_t i = 0; i < call->segment_count; i++) count += call->segments[i].count;
  return count;
}

static uint64_t ring_bytes(const th_channel *channel, const th_collective_call *call) {
  if (call->kind == TH_COLLECTIVE_barrier) return 0;
  uint64_t bytes = th__call_count(call) * th_dtype_size(call->dtype), n = (uint64_t)channel->size;
  switch (call->kind) {
    case TH_COLLECTIVE_all_reduce: return 2 * (n - 1) * bytes / n;
    case TH_COLLECTIVE_broadcast: return channel->rank == call->root && n > 1 ? bytes : 0;
    default: return (n - 1) * bytes;
  }
}

static th_status fail_channel(th_channel *channel, th_status status) {
  if (!channel->lost) {
    channel->lost = true;
    snprintf(channel->lost_text, sizeof channel->lost_text, "%s", th_status_message(status));
  }
  return status;
}

th_status th_channel_start(th_channel *channel, const th_collective_call *call, th_request **out_request) {
  *out_request = NULL;
  if (channel->lost)
    return TH_ERROR(FAILED_PRECONDITION, "%s of group %s on rank %d of %d: the channel broke before: %s",
                    th_collective_kind_name(call->kind), channel->group, channel->rank, channel->size,
                    channel->lost_text);
  th_request *request = NULL;
  th_status status = check_call(channel, call);
  if (!status) status = take_request(channel, call, &request);
  if (status)
    return th_status_prefix(status, "%s %llu of group %s on rank %d of %d", th_collective_kind_name(call->kind),
                            (unsigned long long)channel->stats.index, channel->group, channel->rank, channel->size);
  channel->stats.fingerprint = th_fingerprint_next(channel->stats.fingerprint, &request->call);
  if (channel->progress)
    th_progress_post(channel->progress, request->index, channel->stats.fingerprint, (unsigned)call->kind,
                     (unsigned)call->dtype, (unsigned)call->reduce, th__call_count(&request->call), call->op);
  channel->stats.index++;
  channel->stats.by_kind[call->kind]++;
  uint64_t bytes = ring_bytes(channel, &request->call);
  channel->stats.bytes_sent += bytes;
  if (channel->progress) atomic_fetch_add_explicit(&channel->progress->bytes_sent, bytes, memory_order_relaxed);
  request->next = channel->live;
  channel->live = request;
  const char *reason = stop_reason(channel);
  status = reason ? TH_ERROR(ABORTED, "not started: %s", reason) : TH_FAILPOINT_STATUS("channel.start");
  if (!status) status = with_verdict(channel, channel->vtable->start(channel, request));
  if (status) {
    char what[192];
    th__request_describe(request, what, sizeof what);
    status = fail_channel(channel, th_status_prefix(status, "%s", what));
    end_request(request);
    return status;
  }
  *out_request = request;
  return TH_OK;
}

/* --- wait */

/* Looks once; on failure the channel is lost. */
static th_status look(th_request *request, int64_t start_ns, int64_t *asked_ns) {
  th_channel *channel = request->channel;
  th_status status = channel->vtable->test(request, &request->done);
  if (!status && request->done) {
    channel->stats.completed++;
    if (channel->progress) {
      atomic_store_explicit(&channel->progress->collective_done, channel->stats.completed, memory_order_relaxed);
      th_progress_tick(channel->progress);
    }
    return TH_OK;
  }
  if (status) {
    request->done = false;
    status = with_verdict(channel, status);
  } else {
    status = th__wait_check(channel, start_ns, asked_ns);
    if (!status) return TH_OK;
  }
  char what[192];
  th__request_describe(request, what, sizeof what);
  return fail_channel(channel, th_status_prefix(status, "%s", what));
}

/* Waits until done or `timeout_ms` are over; being late is no error here. Peers are mostly microseconds behind, so the loop
 * first looks without a pause, then gives the core away between looks, and naps once the wait has become long:
 * ranks often share cores, and a rank that spins takes them from the peer it waits for. */
static th_status wait_done(th_request *request, int64_t timeout_ms) {
  th_channel *channel = request->channel;
  int64_t start = now_ns(), end = start + timeout_ms * 1000000, now = start, asked = 0;
  th_status status = TH_OK;
  for (unsigned turn = 0; !request->done; turn++) {
    status = look(request, start, &asked);
    if (status || request->done) break;
    now = now_ns();
    if (now >= end) break;
    if (turn < 20) continue;
    int64_t waited = now - start;
    if (waited < 2000000) sched_yield();
    else if (channel->vtable->pause) channel->vtable->pause(channel, waited < 100000000 ? 100 : 1000);
    else nanosleep(&(struct timespec){0, waited < 100000000 ? 20000 : 200000}, NULL);
  }
  channel->stats.wait_ns += (uint64_t)(now_ns() - start);
  return status;
}

th_status th_request_test(th_request *request, int64_t wait_ms, bool *out_done) {
  *out_done = false;
  if (!request->done && request->channel->lost)
    return TH_ERROR(FAILED_PRECONDITION, "rank %d of %d: the channel broke before: %s", request->channel->rank,
                    request->channel->size, request->channel->lost_text);
  th_status status = wait_done(request, wait_ms > 0 ? wait_ms : 0);
  *out_done = request->done;
  return status;
}

th_status th_request_wait(th_request *request, int64_t timeout_ms) {
  th_channel *channel = request->channel;
  if (timeout_ms < 0) timeout_ms = channel->timeout_ms;
  th_status status = TH_OK;
  if (!request->done && channel->lost)
    status = TH_ERROR(FAILED_PRECONDITION, "rank %d of %d: the channel broke before: %s", channel->rank,
                      channel->size, channel->lost_text);
  if (!status) status = wait_done(request, timeout_ms);
  if (!status && !request->done) {
    char what[192];
    th__request_describe(request, what, sizeof what);
    status = fail_channel(channel, th__wait_late(channel, what, timeout_ms));
  }
  end_request(request);
  return status;
}

void th_channel_progress(th_channel *channel) {
  /* oldest first would be kinder to the network; the list is short and one test moves all of a library's requests */
  bool done;
  for (th_request *request = channel->live; request; request = request->next)
    if (!request->done && !channel->lost) {
      th_status status = th_request_test(request, 0, &done);
      if (status) { /* kept in the channel; the wait for this request says it again */
        th_status_free(status);
        return;
      }
      if (!done) return;
    }
}

/* --- one-line forms */

th_status th_channel_run(th_channel *channel, const th_collective_call *call) {
  th_request *request;
  TH_TRY(th_channel_start(channel, call, &request));
  return th_request_wait(request, -1);
}

static th_status run_one(th_channel *channel, th_collective_call call, const void *input, void *output, size_t count) {
  th_segment segment = {input, output, count};
  call.segments = &segment;
  call.segment_count = 1;
  return th_channel_run(channel, &call);
}

th_status th_channel_all_reduce(th_channel *channel, th_dtype dtype, th_reduce reduce, void *data, size_t count) {
  return run_one(channel, (th_collective_call){.kind = TH_COLLECTIVE_all_reduce, .dtype = dtype, .reduce = reduce}, NULL,
                 data, count);
}

th_status th_channel_all_gather(th_channel *channel, th_dtype dtype, const void *input, void *output, size_t count) {
  return run_one(channel, (th_collective_call){.kind = TH_COLLECTIVE_all_gather, .dtype = dtype}, input, output, count);
}

th_status th_channel_reduce_scatter(th_channel *channel, th_dtype dtype, th_reduce reduce, const void *input,
                                    void *output, size_t count) {
  return run_one(channel, (th_collective_call){.kind = TH_COLLECTIVE_reduce_scatter, .dtype = dtype, .reduce = reduce},
                 input, output, count);
}

th_status th_channel_broadcast(th_channel *channel, th_dtype dtype, int root, void *data, size_t count) {
  return run_one(channel, (th_collective_call){.kind = TH_COLLECTIVE_broadcast, .dtype = dtype, .root = root}, NULL,
                 data, count);
}

th_status th_channel_barrier(th_channel *channel) {
  return th_channel_run(channel, &(th_collective_call){.kind = TH_COLLECTIVE_barrier});
}
