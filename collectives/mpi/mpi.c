/* The `mpi` back end, built as libthunder_mpi.so and opened at run time, so that nothing else needs MPI.
 *
 * Open MPI 4 cannot abort a collective, so every one is nonblocking and polled: the waiting loop in channel.c looks
 * at the deadline and the abort flags between two MPI_Test. A collective given up stays in flight for ever; its
 * request and staging memory are never reused, and the process must leave by _exit.
 *
 * Narrow floats (f16, bf16, fp8) travel as f32: twice the bytes, one rounding. Buckets of several segments are
 * packed, so that a bucket is one collective. This file alone includes mpi.h. */
#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "collectives/backend.h"
#include "collectives/reduce.h"
#include "ir/base/log.h"

enum { INLINE_REQUESTS = 8 };

typedef struct mpi_channel {
  th_channel base;
  MPI_Comm comm; /* our own duplicate: no message of the program's can be mistaken for one of ours */
} mpi_channel;

typedef struct mpi_request {
  th_request base;
  MPI_Request *parts; /* owned */
  int part_count, part_capacity;
  char *staging; /* owned, kept between uses */
  size_t staging_size;
} mpi_request;

/* MPI of this process, when it was us who initialized it. */
static struct {
  pid_t pid; /* 0: the program did it, or nobody */
  MPI_Comm exit_comm;
  mpi_channel *world;
  bool lost;
} ours;

static MPI_Comm comm_of(const th_channel *channel) { return ((const mpi_channel *)channel)->comm; }

static th_status mpi_error(const char *call, int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return TH_ERROR(UNAVAILABLE, "%s: %s", call, text);
}

#define MPI_TRY(call, ...)                                \
  do {                                                    \
    int mpi_code_ = call(__VA_ARGS__);                    \
    if (mpi_code_ != MPI_SUCCESS) return mpi_error(#call, mpi_code_); \
  } while (0)

/* --- datatypes and operations */

static MPI_Datatype mpi_type(th_dtype dtype) { /* of accumulators; the column `mpi` of dtype.def */
#define NONE MPI_DATATYPE_NULL
  switch (dtype) {
#define TH_DTYPE(name, torch, bits, kind, c_type, dlpack, mpi, ...) \
  case TH_DTYPE_##name: return mpi;
#include "ir/base/dtype.def"
#undef TH_DTYPE
    default: return MPI_DATATYPE_NULL;
  }
#undef NONE
}

/* MPI_MAX leaves open what becomes of NaN; ours keeps it, as torch does. */
static void float_op(th_reduce reduce, void *input, void *inout, int *count, MPI_Datatype *type) {
  th__reduce_add(*type == MPI_DOUBLE ? TH_DTYPE_f64 : TH_DTYPE_f32, reduce, input, inout, (size_t)*count);
}
static void float_max(void *input, void *inout, int *count, MPI_Datatype *type) {
  float_op(TH_REDUCE_max, input, inout, count, type);
}
static void float_min(void *input, void *inout, int *count, MPI_Datatype *type) {
  float_op(TH_REDUCE_min, input, inout, count, type);
}

static MPI_Op op_float_max = MPI_OP_NULL, op_float_min = MPI_OP_NULL;

static th_status make_ops(void) {
  if (op_float_max == MPI_OP_NULL) MPI_TRY(MPI_Op_create, float_max, 1, &op_float_max);
  if (op_float_min == MPI_OP_NULL) MPI_TRY(MPI_Op_create, float_min, 1, &op_float_min);
  return TH_OK;
}

/* The accumulators' datatype, operation and MPI elements per element. */
typedef struct arithmetic {
  MPI_Datatype type;
  MPI_Op op;
  size_t scale;
  size_t width; /* bytes of one accumulator */
} arithmetic;

static arithmetic arithmetic_of(const th_collective_call *call) {
  th_dtype dtype = th__reduce_accumulator(call->dtype);
  arithmetic a = {.type = mpi_type(dtype), .scale = 1, .width = th_dtype_size(dtype)};
  if (th_dtype_is_complex(dtype)) {
    a.type = dtype == TH_DTYPE_c64 ? MPI_FLOAT : MPI_DOUBLE;
    a.scale = 2;
  }
  bool is_max = call->reduce == TH_REDUCE_max, is_min = call->reduce == TH_REDUCE_min;
  if (dtype == TH_DTYPE_bool) a.op = is_min ? MPI_LAND : MPI_LOR;
  else if (is_max) a.op = th_dtype_is_float(dtype) ? op_float_max : MPI_MAX;
  else if (is_min) a.op = th_dtype_is_float(dtype) ? op_float_min : MPI_MIN;
  else a.op = MPI_SUM;
  return a;
}

/* --- requests */

static th_status next_part(mpi_request *request, MPI_Request **out_part) {
  if (request->part_count == request->part_capacity) {
    int capacity = request->part_capacity ? 2 * request->part_capacity : INLINE_REQUESTS;
    MPI_Request *grown = realloc(request->parts, (size_t)capacity * sizeof *grown);
    if (!grown) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for %d MPI requests", capacity);
    request->parts = grown;
    request->part_capacity = capacity;
  }
  *out_part = &request->parts[request->part_count];
  **out_part = MPI_REQUEST_NULL;
  request->part_count++;
  return TH_OK;
}

static th_status need_staging(mpi_request *request, size_t size) {
  if (size <= request->staging_size) return TH_OK;
  free(request->staging);
  request->staging_size = 0;
  request->staging = aligned_alloc(64, (size + 63) / 64 * 64);
  if (!request->staging) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for %zu bytes of staging", size);
  request->staging_size = size;
  return TH_OK;
}

/* A reduction in place of what arrives: one segment of a dtype that MPI knows needs no staging. */
static bool is_direct(const th_collective_call *call) {
  return call->segment_count == 1 && th__reduce_accumulator(call->dtype) == call->dtype;
}

static const void *input_of(const th_segment *s) { return s->input ? s->input : s->output; }

static th_status start_all_reduce(MPI_Comm comm, mpi_request *request) {
  const th_collective_call *call = &request->base.call;
  arithmetic a = arithmetic_of(call);
  size_t count = th__call_count(call);
  const char *input = NULL;
  char *output = NULL;
  if (is_direct(call)) {
    const th_segment *s = &call->segments[0];
    output = s->output;
    input = s->input == s->output ? NULL : s->input;
  } else {
    TH_TRY(need_staging(request, count * a.width));
    char *to = request->staging;
    for (size_t i = 0; i < call->segment_count; i++) {
      th__reduce_load(call->dtype, input_of(&call->segments[i]), to, call->segments[i].count);
      to += call->segments[i].count * a.width;
    }
    output = request->staging;
  }
  size_t piece = (size_t)INT_MAX / a.scale;
  for (size_t done = 0; done < count; done += piece) {
    size_t part = count - done < piece ? count - done : piece;
    MPI_Request *slot = NULL;
    TH_TRY(next_part(request, &slot));
    MPI_TRY(MPI_Iallreduce, input ? input + done * a.width : MPI_IN_PLACE, output + done * a.width,
            (int)(part * a.scale), a.type, a.op, comm, slot);
  }
  return TH_OK;
}

static th_status too_many(size_t segment, size_t count) {
  return TH_ERROR(INVALID_ARGUMENT, "segment %zu: %zu elements are more than one MPI call takes (2^31 - 1); split it",
                  segment, count);
}

static th_status start_reduce_scatter(th_channel *channel, mpi_request *request) {
  const th_collective_call *call = &request->base.call;
  arithmetic a = arithmetic_of(call);
  size_t size = (size_t)channel->size;
  bool narrow = th__reduce_accumulator(call->dtype) != call->dtype;
  /* staging of a narrow segment: its input as f32 (size * count), then its output (count) */
  if (narrow) TH_TRY(need_staging(request, th__call_count(call) * (size + 1) * a.width));
  char *stage = request->staging;
  for (size_t i = 0; i < call->segment_count; i++) {
    const th_segment *s = &call->segments[i];
    if (s->count > (size_t)INT_MAX / a.scale) return too_many(i, s->count);
    const void *input = s->input;
    void *output = s->output;
    if (narrow) {
      th__reduce_load(call->dtype, input, stage, size * s->count);
      input = stage;
      output = stage + size * s->count * a.width;
      stage += (size + 1) * s->count * a.width;
    }
    MPI_Request *slot = NULL;
    TH_TRY(next_part(request, &slot));
    MPI_TRY(MPI_Ireduce_scatter_block, input, output, (int)(s->count * a.scale), a.type, a.op, comm_of(channel), slot);
  }
  return TH_OK;
}

static th_status start_moves(th_channel *channel, mpi_request *request) {
  const th_collective_call *call = &request->base.call;
  size_t width = th_dtype_size(call->dtype);
  for (size_t i = 0; i < call->segment_count; i++) {
    const th_segment *s = &call->segments[i];
    size_t bytes = s->count * width;
    MPI_Request *slot = NULL;
    if (call->kind == TH_COLLECTIVE_all_gather) {
      if (bytes > INT_MAX) return too_many(i, bytes);
      char *mine = (char *)s->output + (size_t)channel->rank * bytes;
      bool in_place = !s->input || s->input == mine;
      TH_TRY(next_part(request, &slot));
      MPI_TRY(MPI_Iallgather, in_place ? MPI_IN_PLACE : s->input, (int)bytes, MPI_BYTE, s->output, (int)bytes, MPI_BYTE,
              comm_of(channel), slot);
      continue;
    }
    if (channel->rank == call->root && s->input && s->input != s->output) memmove(s->output, s->input, bytes);
    for (size_t done = 0; done < bytes; done += INT_MAX) {
      size_t part = bytes - done < INT_MAX ? bytes - done : INT_MAX;
      TH_TRY(next_part(request, &slot));
      MPI_TRY(MPI_Ibcast, (char *)s->output + done, (int)part, MPI_BYTE, call->root, comm_of(channel), slot);
    }
  }
  return TH_OK;
}

static th_status mpi_start(th_channel *channel, th_request *base) {
  mpi_request *request = (mpi_request *)base;
  request->part_count = 0;
  switch (base->call.kind) {
    case TH_COLLECTIVE_all_reduce: return start_all_reduce(comm_of(channel), request);
    case TH_COLLECTIVE_reduce_scatter: return start_reduce_scatter(channel, request);
    case TH_COLLECTIVE_all_gather:
    case TH_COLLECTIVE_broadcast: return start_moves(channel, request);
    case TH_COLLECTIVE_barrier: {
      MPI_Request *slot = NULL;
      TH_TRY(next_part(request, &slot));
      MPI_TRY(MPI_Ibarrier, comm_of(channel), slot);
      return TH_OK;
    }
    case TH_COLLECTIVE_KIND_COUNT: break;
  }
  return TH_ERROR(UNIMPLEMENTED, "collective %d over MPI", (int)base->call.kind);
}

/* Results from the accumulators to the outputs. */
static void unpack(mpi_request *request, int size) {
  const th_collective_call *call = &request->base.call;
  bool scatter = call->kind == TH_COLLECTIVE_reduce_scatter;
  if (call->kind != TH_COLLECTIVE_all_reduce && !scatter) return;
  size_t width = th_dtype_size(th__reduce_accumulator(call->dtype));
  bool staged = scatter ? th__reduce_accumulator(call->dtype) != call->dtype : !is_direct(call);
  const char *from = request->staging;
  for (size_t i = 0; i < call->segment_count; i++) {
    const th_segment *s = &call->segments[i];
    if (staged && scatter) from += (size_t)size * s->count * width;
    th__reduce_store(call->dtype, call->reduce, size, staged ? from : s->output, s->output, s->count);
    if (staged) from += s->count * width;
  }
}

static th_status mpi_test(th_request *base, bool *out_done) {
  mpi_request *request = (mpi_request *)base;
  int done = 0;
  *out_done = false;
  MPI_TRY(MPI_Testall, request->part_count, request->parts, &done, MPI_STATUSES_IGNORE);
  if (done) {
    unpack(request, base->channel->size);
    *out_done = true;
  }
  return TH_OK;
}

static void mpi_finish(th_request *request, bool lost) {
  if (lost) ours.lost = true;
}

static void mpi_release(th_request *base) {
  mpi_request *request = (mpi_request *)base;
  free(request->parts);
  free(request->staging);
}

static void mpi_destroy(th_channel *channel, bool lost) {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (!lost && !finalized) MPI_Comm_free(&((mpi_channel *)channel)->comm);
  if (ours.world == (mpi_channel *)channel) ours.world = NULL;
  free(channel);
}

static const th_channel_vtable vtable = {
    .kind = "mpi",
    .request_size = sizeof(mpi_request),
    .keeps_lost = true,
    .start = mpi_start,
    .test = mpi_test,
    .finish = mpi_finish,
    .release = mpi_release,
    .destroy = mpi_destroy,
};

/* --- life of MPI in this process */

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Polls one MPI request until it is done; DEADLINE_EXCEEDED without a text of worth, or what ended a wait of this channel. */
static th_status poll_request(MPI_Request *request, double seconds, th_channel *channel) {
  double start = now_s();
  int64_t asked = 0;
  for (int done = 0;;) {
    MPI_TRY(MPI_Test, request, &done, MPI_STATUS_IGNORE);
    if (done) return TH_OK;
    if (channel) TH_TRY(th__wait_check(channel, (int64_t)(start * 1e9), &asked));
    if (now_s() - start > seconds) return TH_ERROR(DEADLINE_EXCEEDED, "not done after %.3f s", seconds);
    nanosleep(&(struct timespec){0, 50000}, NULL);
  }
}

/* At exit: MPI_Finalize waits for all ranks, also for one that sits in a collective because this one has failed. So first a barrier
 * with a short deadline; only when all have come is MPI finalized. The step process cleans up what MPI leaves. */
static void leave(void) {
  int finalized = 0;
  if (ours.pid != getpid() || ours.lost) return;
  MPI_Finalized(&finalized);
  if (finalized) return;
  mpi_channel *world = ours.world;
  if (world && (world->base.lost || atomic_load(&world->base.abort_reason))) return;
  th_progress *page = world ? world->base.progress : NULL;
  if (page) /* a rank that waits in a collective meanwhile is seen by the step process as a mismatch */
    th_progress_post(page, world->base.stats.index, ~world->base.stats.fingerprint, TH_PROGRESS_KIND_EXIT, 0, 0, 0, 0);
  MPI_Request request;
  if (MPI_Ibarrier(ours.exit_comm, &request) != MPI_SUCCESS) return;
  if (world) world->base.interrupt = NULL; /* Python is gone */
  th_status status = poll_request(&request, 1.0, world ? &world->base : NULL);
  if (!status) MPI_Finalize();
  th_status_free(status);
}

static const char all_must_come[] = "opening the channel, for which all ranks must come";

static th_status duplicate_world(th_channel *head, MPI_Comm *out_comm) {
  MPI_Request request;
  MPI_TRY(MPI_Comm_idup, MPI_COMM_WORLD, out_comm, &request);
  th_status status = poll_request(&request, (double)head->timeout_ms / 1e3, head);
  if (status) {
    ours.lost = true;
    if (th_status_code(status) != TH_CODE_DEADLINE_EXCEEDED) return status;
    th_status_free(status);
    return th__wait_late(head, all_must_come, head->timeout_ms);
  }
  MPI_TRY(MPI_Comm_set_errhandler, *out_comm, MPI_ERRORS_RETURN);
  return TH_OK;
}

/* MPI_Init_thread waits for all ranks (PMIx's fence) and cannot be told to stop: a thread of its own does it, so that the wait for that
 * thread has a deadline and can be aborted. Given up, the thread stays where it is until the process ends. */
static struct {
  bool started;
  atomic_bool done;
  int code, level;
} init;

static void *init_mpi(void *unused) {
  init.code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &init.level);
  atomic_store(&init.done, true);
  return unused;
}

static th_status start_mpi(th_channel *head) {
  pthread_t thread;
  sigset_t all, before;
  if (init.started) return TH_ERROR(FAILED_PRECONDITION, "MPI could not be initialized before");
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
  int error = pthread_create(&thread, NULL, init_mpi, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) return TH_ERROR(RESOURCE_EXHAUSTED, "no thread to initialize MPI: %s", strerror(error));
  init.started = true;
  int64_t asked = 0;
  for (double start = now_s(); !atomic_load(&init.done);) {
    th_status status = th__wait_check(head, (int64_t)(start * 1e9), &asked);
    if (!status && (now_s() - start) * 1e3 > (double)head->timeout_ms) status = th__wait_late(head, all_must_come, head->timeout_ms);
    if (status) {
      ours.lost = true;
      pthread_detach(thread);
      return status;
    }
    nanosleep(&(struct timespec){0, 100000}, NULL);
  }
  pthread_join(thread, NULL);
  if (init.code != MPI_SUCCESS) return mpi_error("MPI_Init_thread", init.code);
  return TH_OK;
}

static th_status initialize(th_channel *head) {
  int initialized = 0, finalized = 0, level = MPI_THREAD_SINGLE, is_main = 1;
  MPI_Finalized(&finalized);
  if (finalized) return TH_ERROR(FAILED_PRECONDITION, "the program has called MPI_Finalize already");
  MPI_Initialized(&initialized);
  if (!initialized) {
    TH_TRY(start_mpi(head));
    level = init.level;
    ours.pid = getpid();
    ours.exit_comm = MPI_COMM_NULL;
    /* parts of a nonblocking collective that fail ask this communicator, not the collective's own; its first handler ends the process */
    MPI_TRY(MPI_Comm_set_errhandler, MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    atexit(leave);
  } else {
    MPI_Query_thread(&level);
  }
  MPI_Is_thread_main(&is_main);
  if (level < MPI_THREAD_SERIALIZED && !is_main)
    return TH_ERROR(FAILED_PRECONDITION, "the program called MPI_Init without thread support, and this is not the "
                    "thread that did: call MPI_Init_thread(MPI_THREAD_MULTIPLE), or let Thunder initialize MPI");
  return TH_OK;
}

static int world_size_of_environment(void) {
  const char *text = getenv("WORLD_SIZE");
  return text ? atoi(text) : 0;
}

static th_status open_channel(const th_channel_options *options, mpi_channel *channel) {
  TH_TRY(th__channel_init(&channel->base, &vtable, 0, 0, options));
  TH_TRY(initialize(&channel->base));
  TH_TRY(make_ops());
  int rank = 0, size = 0, expected = options->expect_size;
  MPI_TRY(MPI_Comm_rank, MPI_COMM_WORLD, &rank);
  MPI_TRY(MPI_Comm_size, MPI_COMM_WORLD, &size);
  if (!expected) expected = world_size_of_environment();
  if (expected && expected != size)
    return TH_ERROR(FAILED_PRECONDITION, "MPI sees %d rank%s where the job has %d: the ranks did not find each other. "
                    "Start them with thunderrun (or mpirun), and unset OMPI_MCA_ess and OMPI_MCA_schizo in the job's "
                    "environment", size, size == 1 ? "" : "s", expected);
  channel->base.rank = rank;
  channel->base.size = size;
  if (ours.pid && ours.exit_comm == MPI_COMM_NULL) TH_TRY(duplicate_world(&channel->base, &ours.exit_comm));
  TH_TRY(duplicate_world(&channel->base, &channel->comm));
  if (!ours.world) ours.world = channel;
  return TH_OK;
}

__attribute__((visibility("default"))) th_status th_channel_mpi_open(const th_channel_options *options,
                                                                     th_channel **out_channel);

th_status th_channel_mpi_open(const th_channel_options *options, th_channel **out_channel) {
  static const th_channel_options none;
  *out_channel = NULL;
  mpi_channel *channel = calloc(1, sizeof *channel);
  if (!channel) return TH_ERROR(RESOURCE_EXHAUSTED, "out of memory for a channel");
  th_status status = open_channel(options ? options : &none, channel);
  if (status) {
    if (!ours.lost) free(channel); /* else MPI may still write to its comm */
    const char *rank = getenv("RANK");
    return th_status_prefix(status, "mpi channel on rank %s", rank ? rank : "?");
  }
  *out_channel = &channel->base;
  return TH_OK;
}
