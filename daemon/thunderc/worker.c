#define _GNU_SOURCE
#include "daemon/thunderc/worker.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "daemon/common/frame.h"
#include "daemon/common/scope.h"
#include "daemon/thunderc/compile.h"
#include "ir/base/failpoint.h"

typedef Thunder__Wire__Envelope envelope;

typedef struct worker {
  int in, out;
  th_frames frames;
  double last_progress;
  bool broken; /* the daemon no longer reads */
} worker;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void send_envelope(worker *w, envelope *e) {
  uint8_t *bytes;
  size_t size, done = 0;
  e->has_protocol = 1;
  e->protocol = TH_PROTOCOL_VERSION;
  e->build = (char *)th_build_id();
  th_status status = th_frame_pack(e, &bytes, &size);
  if (status) {
    th_status_free(status);
    w->broken = true;
    return;
  }
  while (done < size && !w->broken) {
    ssize_t n = write(w->out, bytes + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) w->broken = true;
    else done += (size_t)n;
  }
  free(bytes);
}

/* The next envelope; NULL at end of input or when it cannot be read. */
static envelope *receive(worker *w) {
  const uint8_t *bytes;
  size_t size;
  for (;;) {
    th_status status = th_frames_next(&w->frames, &bytes, &size);
    envelope *e = NULL;
    if (!status && bytes) status = th_envelope_decode(bytes, size, &e);
    if (status) {
      fprintf(stderr, "thunderc: %s\n", th_status_message(status));
      th_status_free(status);
      return NULL;
    }
    if (e) return e;
    uint8_t *room = th_frames_room(&w->frames, 1 << 16);
    ssize_t n = room ? read(w->in, room, 1 << 16) : -1;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return NULL;
    th_frames_filled(&w->frames, (size_t)n);
  }
}

static void send_error(worker *w, th_status status) {
  Thunder__Wire__Error error = THUNDER__WIRE__ERROR__INIT;
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  char *text = strdup(th_status_message(status));
  unsigned graph = 0, op = 0;
  if (!text) text = strdup("no memory");
  th_utf8_clean(text);
  error.has_code = 1;
  error.code = (uint32_t)th_status_code(status);
  error.message = text;
  if (sscanf(text, "graph %u op %u", &graph, &op) == 2) error.has_graph = error.has_op = 1, error.graph = (int32_t)graph, error.op = (int32_t)op;
  else if (sscanf(text, "op %u", &op) == 1) error.has_op = 1, error.op = (int32_t)op;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_ERROR;
  e.error = &error;
  send_envelope(w, &e);
  free(text);
  th_status_free(status);
}

static void send_bytes(worker *w, const uint8_t *bytes, size_t size) {
  size_t at = 0;
  do {
    Thunder__Wire__Chunk chunk = THUNDER__WIRE__CHUNK__INIT;
    envelope e = THUNDER__WIRE__ENVELOPE__INIT;
    size_t n = size - at < TH_CHUNK_BYTES_MAX ? size - at : TH_CHUNK_BYTES_MAX;
    chunk.has_offset = chunk.has_total = chunk.has_bytes = chunk.has_last = 1;
    chunk.offset = at;
    chunk.total = size;
    chunk.bytes = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)bytes + at};
    chunk.last = at + n == size;
    e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CHUNK;
    e.chunk = &chunk;
    send_envelope(w, &e);
    at += n;
  } while (at < size && !w->broken);
}

static void progress(void *user, const char *stage, uint32_t done, uint32_t total) {
  worker *w = user;
  double t = now();
  if (t - w->last_progress < 0.05) return;
  w->last_progress = t;
  Thunder__Wire__Progress p = THUNDER__WIRE__PROGRESS__INIT;
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  p.stage = (char *)stage;
  p.has_done = p.has_total = 1;
  p.done = done;
  p.total = total;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_PROGRESS;
  e.progress = &p;
  send_envelope(w, &e);
}

static bool gather(worker *w, th_gather *g, uint64_t size) {
  th_gather_init(g, size);
  do {
    envelope *e = receive(w);
    th_status status = !e ? TH_ERROR(UNAVAILABLE, "the pipe ended in the middle of a job") : e->body_case != THUNDER__WIRE__ENVELOPE__BODY_CHUNK ? TH_ERROR(INVALID_ARGUMENT, "%s where chunks were expected", th_body_name(e->body_case)) : th_gather_add(g, e->chunk);
    th_envelope_free(e);
    if (status) {
      fprintf(stderr, "thunderc: %s\n", th_status_message(status));
      th_status_free(status);
      return false;
    }
  } while (!th_gather_done(g));
  return true;
}

static uint64_t memory_limit(void) {
  const char *text = getenv("THUNDER_COMPILE_MEMORY");
  return text && *text ? strtoull(text, NULL, 10) : (uint64_t)4 << 30;
}

/* Serves one request; false when the stream is lost. */
static bool serve(worker *w, envelope *e) {
  th_gather job, names;
  bool dump = e->body_case == THUNDER__WIRE__ENVELOPE__BODY_DUMP, compile = e->body_case == THUNDER__WIRE__ENVELOPE__BODY_COMPILE;
  if (!dump && !compile) {
    fprintf(stderr, "thunderc: a worker does not serve \"%s\"\n", th_body_name(e->body_case));
    return false;
  }
  th_gather_init(&names, 0);
  if (!gather(w, &job, dump ? e->dump->job_size : e->compile->size)) return false;
  if (dump && e->dump->names_size && !gather(w, &names, e->dump->names_size)) return false;
  th_arena *arena = th_arena_create(memory_limit() / 2);
  th_status status = arena ? TH_OK : TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a compile");
  const char *text = NULL;
  uint8_t *bytes = NULL;
  size_t size = 0;
  w->last_progress = 0;
  TH_FAILPOINT("worker.compile");
  if (!status && dump) status = th_compile_dump(arena, job.bytes, job.total, names.bytes, names.total, e->dump->pass, &text);
  else if (!status) status = th_compile_job(arena, job.bytes, job.total, progress, w, &bytes, &size);
  if (status) send_error(w, status);
  else if (dump) send_bytes(w, (const uint8_t *)text, strlen(text));
  else send_bytes(w, bytes, size);
  th_arena_destroy(arena);
  th_gather_deinit(&job);
  th_gather_deinit(&names);
  return !w->broken;
}

static void bound_self(void) {
  struct rlimit core = {0, 0}, memory = {memory_limit(), memory_limit()};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CORE, &core);
#ifndef __SANITIZE_ADDRESS__
  setrlimit(RLIMIT_AS, &memory);
#endif
  (void)memory; /* wall time is the daemon's to enforce: THUNDER_COMPILE_TIMEOUT */
  signal(SIGPIPE, SIG_IGN);
}

int th_worker_main(void) {
  bound_self();
  TH_FAILPOINT("worker.start");
  worker w = {.in = fcntl(0, F_DUPFD_CLOEXEC, 10), .out = fcntl(1, F_DUPFD_CLOEXEC, 10)};
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (w.in < 0 || w.out < 0 || null < 0) return 1;
  dup2(null, 0);
  dup2(2, 1);
  th_frames_init(&w.frames);
  Thunder__Wire__HelloReply hello = THUNDER__WIRE__HELLO_REPLY__INIT;
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  hello.has_protocol = hello.has_pid = 1;
  hello.protocol = TH_PROTOCOL_VERSION;
  hello.build = (char *)th_build_id();
  hello.pid = (uint32_t)getpid();
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_HELLO_REPLY;
  e.hello_reply = &hello;
  send_envelope(&w, &e);
  int code = 0;
  for (envelope *request; !code && !w.broken && (request = receive(&w));) {
    code = serve(&w, request) ? 0 : 1;
    th_envelope_free(request);
  }
  th_frames_deinit(&w.frames);
  return code;
}
