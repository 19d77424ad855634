/* Channel: collectives between the ranks of one group.
 *
 * One vtable, several back ends: `mpi` (ranks are processes, Open MPI between them), `local` (ranks are threads of
 * one process), later `nccl`. Collectives start without blocking and give a request; a request is tested or
 * waited for with a deadline and an abort flag, so that no rank waits for ever for a peer that is gone.
 *
 *     th_channel *channel;
 *     TH_TRY(th_channel_open("auto", &(th_channel_options){0}, &channel));
 *     th_segment bucket[2] = {{NULL, grad_w, 4096}, {NULL, grad_b, 64}};
 *     th_request *request;
 *     TH_TRY(th_channel_start(channel, &(th_collective_call){.kind = TH_COLLECTIVE_all_reduce, .reduce = TH_REDUCE_avg,
 *         .dtype = TH_DTYPE_f32, .segments = bucket, .segment_count = 2}, &request));
 *     ... compute, now and then th_channel_progress(channel) ...
 *     TH_TRY(th_request_wait(request, -1));
 *
 * Order: every rank of the group starts the same collectives in the same order (kind, dtype, reduction, root and
 * counts equal). The channel keeps a running fingerprint of that sequence and, given a progress page, posts each
 * collective there before it starts it, where thunder-step compares the ranks: a mismatch becomes an error naming
 * ranks and collectives instead of a hang.
 *
 * After a failed wait (deadline, abort, lost peer, mismatch) the channel is broken: later starts fail with
 * FAILED_PRECONDITION carrying the first error's text. The back end may still hold the buffers of the collectives in flight (MPI
 * cannot take one back), so they must not be freed or reused: th_channel_lost says so, and a process in that state
 * leaves by _exit, not by exit (MPI_Finalize would wait for the lost peer).
 *
 * Errors name rank, size and collective, and say what to try.
 * Threads: a channel belongs to one thread at a time; th_channel_abort may be called from any thread or from a
 * signal handler. */
#ifndef THUNDER_COLLECTIVES_CHANNEL_H
#define THUNDER_COLLECTIVES_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/base/dtype.h"
#include "ir/base/progress.h"
#include "ir/base/status.h"

typedef struct th_channel th_channel;
typedef struct th_request th_request;
typedef struct th_local_group th_local_group; /* collectives/local/local.h */

typedef enum th_collective_kind {
  TH_COLLECTIVE_all_reduce,     /* output = reduction of all inputs; `count` elements in, `count` out */
  TH_COLLECTIVE_all_gather,     /* output = inputs of rank 0, 1, ... one after the other; count in, size * count out */
  TH_COLLECTIVE_reduce_scatter, /* output = this rank's part of the reduction; size * count in, count out */
  TH_COLLECTIVE_broadcast,      /* output = root's input; count */
  TH_COLLECTIVE_barrier,        /* nobody passes before all have come; no segments */
  TH_COLLECTIVE_KIND_COUNT
} th_collective_kind;

typedef enum th_reduce {
  TH_REDUCE_sum, /* bool: or */
  TH_REDUCE_avg, /* sum / size; float and complex dtypes only */
  TH_REDUCE_max, /* not for complex; NaN wins */
  TH_REDUCE_min, /* not for complex; NaN wins */
  TH_REDUCE_COUNT
} th_reduce;

const char *th_collective_kind_name(th_collective_kind kind); /* "all_reduce"; "?" when out of range */
const char *th_reduce_name(th_reduce reduce);                 /* "sum" */

/* One tensor of a bucket. `count` is in elements and is always the smaller side (see the kinds above).
 * input NULL: in place. In place means output holds the input for all_reduce and broadcast; this rank's part of
 * output (at rank * count) holds it for all_gather; for reduce_scatter input is required. On ranks other than root
 * broadcast ignores input. Memory is the caller's and must live, untouched, until the request is waited for. */
typedef struct th_segment {
  const void *input;
  void *output;
  size_t count;
} th_segment;

typedef struct th_collective_call {
  th_collective_kind kind;
  th_reduce reduce;           /* all_reduce, reduce_scatter */
  th_dtype dtype;             /* of every segment */
  int root;                   /* broadcast */
  const th_segment *segments; /* copied by start; may be empty (the collective still counts) */
  size_t segment_count;
  uint32_t op;      /* number of the plan's op, for messages and the progress page; 0: none */
  const char *name; /* what the user would call it ("ddp bucket 3"), for messages; borrowed until the wait; may be NULL */
} th_collective_call;

typedef struct th_channel_options {
  /* Who waits how long. 0: THUNDER_COLLECTIVE_TIMEOUT seconds, or 600 s. Used by waits with timeout_ms < 0. */
  int64_t timeout_ms;
  /* Ends every wait of this channel once it is not 0; borrowed, may be NULL. */
  const atomic_int *abort_flag;
  /* Where collectives are posted and where the step process asks to stop; borrowed, may be NULL. */
  th_progress *progress;
  /* Asked about every 50 ms of a wait, by the thread that waits: a text (immortal) ends the wait with CANCELLED. May be NULL. */
  const char *(*interrupt)(void);
  const char *group; /* name of the group, for messages and the fingerprint; NULL: "world". Copied. */
  /* kind "local" */
  th_local_group *local_group; /* NULL: a group of one */
  int local_rank;
  /* kind "mpi": ranks the group must have; 0: WORLD_SIZE of the environment, else whatever MPI says. */
  int expect_size;
} th_channel_options;

typedef struct th_channel_stats {
  uint64_t index;      /* collectives started so far; the next one's index */
  uint64_t completed;  /* collectives waited for to their end */
  uint64_t bytes_sent; /* bytes this rank sends in the ring form of each: 2(n-1)/n of an all_reduce's buffer, (n-1)
                          shards of gather and scatter, the buffer of a broadcast on its root */
  uint64_t wait_ns;    /* time spent in th_request_wait and th_request_test */
  uint64_t fingerprint; /* of the sequence so far; equal on all ranks after equal sequences */
  uint64_t by_kind[TH_COLLECTIVE_KIND_COUNT];
} th_channel_stats;

/* Opens a channel over the ranks of this job. kind:
 *   "local"  rank options->local_rank of options->local_group
 *   "mpi"    all ranks of MPI_COMM_WORLD, through libthunder_mpi.so, opened now; calls MPI_Init_thread unless the
 *            program has. NOT_FOUND when that library or Open MPI is absent. Collective: all ranks open together.
 *   "auto"   THUNDER_CHANNEL when set; else a group of one when WORLD_SIZE is 1 or not set, else "mpi"
 * `options` may be NULL. The channel is the caller's; end it with th_channel_close. */
th_status th_channel_open(const char *kind, const th_channel_options *options, th_channel **out_channel);

/* Frees the channel. Requests that nobody waited for are ended first (their result is lost). NULL is fine. */
void th_channel_close(th_channel *channel);

int th_channel_rank(const th_channel *channel);
int th_channel_size(const th_channel *channel);
const char *th_channel_kind(const th_channel *channel);  /* "mpi", "local" */
const char *th_channel_group(const th_channel *channel); /* "world" */
th_channel_stats th_channel_stats_get(const th_channel *channel);

/* Starts a collective. INVALID_ARGUMENT for a call that no rank could make (dtype without that reduction, NULL
 * output, root out of range). On success *out_request is the caller's and must be waited for. */
th_status th_channel_start(th_channel *channel, const th_collective_call *call, th_request **out_request);

/* Start and wait in one; the channel's default deadline. */
th_status th_channel_run(th_channel *channel, const th_collective_call *call);
th_status th_channel_all_reduce(th_channel *channel, th_dtype dtype, th_reduce reduce, void *data, size_t count);
th_status th_channel_all_gather(th_channel *channel, th_dtype dtype, const void *input, void *output, size_t count);
th_status th_channel_reduce_scatter(th_channel *channel, th_dtype dtype, th_reduce reduce, const void *input,
                                    void *output, size_t count);
th_status th_channel_broadcast(th_channel *channel, th_dtype dtype, int root, void *data, size_t count);
th_status th_channel_barrier(th_channel *channel);

/* Waits at most `wait_ms` (0: only looks) and says whether the collective is done. The request stays the caller's. */
th_status th_request_test(th_request *request, int64_t wait_ms, bool *out_done);

/* Waits until the collective is done, `timeout_ms` are over (-1: the channel's default) or the channel is aborted.
 * Ends the request in every case. DEADLINE_EXCEEDED, ABORTED, CANCELLED (options.interrupt), UNAVAILABLE (a lost peer). */
th_status th_request_wait(th_request *request, int64_t timeout_ms);

/* Lets collectives in flight move on; cheap. For step loops between two kernels. */
void th_channel_progress(th_channel *channel);

/* Ends every wait of this channel, now and later, with ABORTED; `local` ends those of all ranks of the group, other
 * back ends those of this rank (the step process ends the peers'). `reason` is a literal or otherwise immortal. */
void th_channel_abort(th_channel *channel, const char *reason);

/* True once a wait has failed: buffers may still be written to; leave by _exit. */
bool th_channel_lost(const th_channel *channel);

/* Fingerprint of a sequence of collectives: seed, then one step per collective. Counts of a bucket are added in
 * order. Not cryptographic. Thread-safe. */
uint64_t th_fingerprint_seed(const char *group);
uint64_t th_fingerprint_next(uint64_t fingerprint, const th_collective_call *call);

/* --- for back ends ------------------------------------------------------------------------------------------ */

typedef struct th_channel_vtable {
  const char *kind;
  size_t request_size; /* bytes of the back end's request, which begins with struct th_request */
  bool keeps_lost;     /* the library may touch a lost request's memory later: never reuse or free it */
  /* Begins request->call, whose segments are the request's own. */
  th_status (*start)(th_channel *channel, th_request *request);
  /* Moves on and says whether the collective has ended; outputs are complete when it has. Does not block. */
  th_status (*test)(th_request *request, bool *out_done);
  /* Sleeps up to about `microseconds` until something may have changed; NULL: the channel yields or naps itself. */
  void (*pause)(th_channel *channel, unsigned microseconds);
  /* The request goes back to the pool next (unless keeps_lost); `lost`: it had not ended. */
  void (*finish)(th_request *request, bool lost);
  void (*abort)(th_channel *channel); /* any thread; may be NULL */
  void (*release)(th_request *request); /* frees what a pooled request owns beside segments; may be NULL */
  void (*destroy)(th_channel *channel, bool lost);
} th_channel_vtable;

/* Head of every back end's request. */
struct th_request {
  th_channel *channel;
  th_request *next; /* in the channel's list of live or of free requests */
  th_collective_call call;
  th_segment *segments; /* owned; call.segments points here */
  size_t segment_capacity;
  uint64_t index; /* of this collective in its channel */
  bool done;
};

/* Head of every back end's channel. */
struct th_channel {
  const th_channel_vtable *vtable;
  int rank, size;
  char group[32];
  int64_t timeout_ms;
  const atomic_int *abort_flag;
  th_progress *progress;
  const char *(*interrupt)(void);
  th_channel_stats stats;
  th_request *live, *free; /* live: in order of start, newest first */
  bool lost;
  char lost_text[512]; /* first failure's message */
  _Atomic(const char *) abort_reason; /* NULL: not aborted */
};

/* What libthunder_mpi.so exports, by this name; options->group etc. as above. */
#define TH_CHANNEL_MPI_OPEN "th_channel_mpi_open"
typedef th_status (*th_channel_open_fn)(const th_channel_options *options, th_channel **out_channel);

#endif
