/* Compiles and the worker processes they run in. A worker serves one compile at a time; one that crashes, hangs or says what
 * cannot be understood is killed, and that compile alone fails. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/common/sha256.h"
#include "daemon/thunderd/server.h"
#include "ir/base/log.h"

typedef Thunder__Wire__Envelope envelope;
enum { STARTS_MAX = 3 }; /* workers in a row that end before they are ready */

struct worker {
  worker *next;
  server *s;
  uv_process_t process;
  uv_pipe_t in, out;
  uv_timer_t timer;
  int open_handles;
  bool ready, ended, timed_out;
  th_frames frames;
  compile *serves;
  th_gather answer;
  bool answering;
};

static void schedule(server *s);

static void compile_free(server *s, compile *k) {
  for (compile **p = &s->compiles; *p; p = &(*p)->next)
    if (*p == k) {
      *p = k->next;
      break;
    }
  free(k->job);
  free(k->names);
  free(k->pass);
  free(k);
}

static connection *take_waiters(compile *k) {
  connection *list = k->waiters;
  for (connection *c = list; c; c = c->next_waiter) c->waiting = NULL;
  k->waiters = NULL;
  return list;
}

static void fail(server *s, compile *k, th_code code, const char *message, int32_t op, int32_t graph, const char *detail) {
  s->n_failed++;
  for (connection *c = take_waiters(k), *next; c; c = next) {
    next = c->next_waiter;
    answer_error(c, code, message, op, graph, detail);
  }
  compile_free(s, k);
}

/* Takes over the blob. */
static void succeed(server *s, compile *k, th_blob *blob) {
  double seconds = (double)(uv_hrtime() - k->started_ns) * 1e-9;
  uint8_t sha256[32];
  s->n_compiles += !k->dump;
  s->compile_seconds += seconds;
  if (!k->dump) th_sha256_of(blob->bytes, blob->size, sha256);
  if (!k->dump && !k->no_cache) th_cache_put(s->cache, k->digest, blob, sha256, seconds);
  Thunder__Wire__Origin origin = THUNDER__WIRE__ORIGIN__ORIGIN_COMPILED;
  for (connection *c = take_waiters(k), *next; c; c = next) {
    next = c->next_waiter;
    answer_bytes(c, blob, k->dump ? NULL : sha256, k->dump ? 0 : origin, seconds);
    origin = THUNDER__WIRE__ORIGIN__ORIGIN_JOINED;
  }
  th_blob_drop(blob);
  compile_free(s, k);
}

/* ---- workers ---- */

static void handle_closed(uv_handle_t *handle) {
  worker *w = handle->data;
  if (--w->open_handles) return;
  for (worker **p = &w->s->workers; *p; p = &(*p)->next)
    if (*p == w) {
      *p = w->next;
      break;
    }
  server *s = w->s;
  th_frames_deinit(&w->frames);
  if (w->answering) th_gather_deinit(&w->answer);
  free(w);
  schedule(s);
}

static void worker_kill(worker *w) { /* with the C compiler it runs: a worker leads a session of its own */
  if (w->process.pid > 0) kill(-w->process.pid, SIGKILL);
  uv_process_kill(&w->process, SIGKILL);
}

/* What a worker that was killed could not remove: its folder for the C compiler. */
static void sweep(int pid) {
  char pattern[TH_PATH_MAX];
  glob_t found;
  const char *tmp = getenv("TMPDIR");
  snprintf(pattern, sizeof pattern, "%s/thunder-cc-%d-*", tmp && *tmp ? tmp : "/tmp", pid);
  if (glob(pattern, 0, NULL, &found)) return;
  for (size_t i = 0; i < found.gl_pathc; i++) {
    struct stat st;
    int fd = open(found.gl_pathv[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); /* not what somebody else put there */
    DIR *folder = fd >= 0 && !fstat(fd, &st) && st.st_uid == geteuid() ? fdopendir(fd) : NULL;
    if (!folder) {
      if (fd >= 0) close(fd);
      continue;
    }
    for (struct dirent *file; (file = readdir(folder));) unlinkat(fd, file->d_name, 0);
    closedir(folder);
    rmdir(found.gl_pathv[i]);
  }
  globfree(&found);
}

static void worker_end(worker *w) {
  if (w->ended) return;
  w->ended = true;
  worker_kill(w);
  if (!uv_is_closing((uv_handle_t *)&w->in)) uv_close((uv_handle_t *)&w->in, handle_closed);
  if (!uv_is_closing((uv_handle_t *)&w->out)) uv_close((uv_handle_t *)&w->out, handle_closed);
  if (!uv_is_closing((uv_handle_t *)&w->timer)) uv_close((uv_handle_t *)&w->timer, handle_closed);
}

static void worker_exited(uv_process_t *process, int64_t code, int sig) {
  worker *w = process->data;
  compile *k = w->serves;
  char text[TH_PATH_MAX + 256];
  w->serves = NULL;
  sweep(process->pid);
  if (!w->ready && !w->ended && !w->s->stopping && ++w->s->failed_starts >= STARTS_MAX) {
    snprintf(text, sizeof text, "compile workers end before they are ready (%s %d); %s has their last words", sig ? "signal" : "exit code", sig ? sig : (int)code, w->s->scope.log);
    for (compile *c = w->s->compiles, *next; c; c = next) {
      next = c->next;
      if (!c->runs_in) fail(w->s, c, TH_CODE_UNAVAILABLE, text, -1, -1, NULL);
    }
    w->s->failed_starts = 0;
  }
  if (k) {
    k->runs_in = NULL;
    if (w->timed_out) snprintf(text, sizeof text, "the compile took longer than %.0f s and was ended; THUNDER_COMPILE_TIMEOUT sets the limit", w->s->compile_limit);
    else if (sig) snprintf(text, sizeof text, "the compile worker was ended by signal %d (%s); %s has its last words", sig, strsignal(sig), w->s->scope.log);
    else snprintf(text, sizeof text, "the compile worker ended with exit code %d; %s has its last words", (int)code, w->s->scope.log);
    w->s->n_timeouts += w->timed_out;
    w->s->n_crashes += !w->timed_out;
    fail(w->s, k, w->timed_out ? TH_CODE_DEADLINE_EXCEEDED : TH_CODE_UNAVAILABLE, text, -1, -1, NULL);
  }
  worker_end(w);
  uv_close((uv_handle_t *)process, handle_closed);
}

static void worker_confused(worker *w, const char *why) {
  TH_LOG(WARNING, "worker %d: %s", w->process.pid, why);
  worker_end(w);
}

static void worker_answers(worker *w, envelope *e) {
  compile *k = w->serves;
  if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_HELLO_REPLY) {
    w->ready = true;
    w->s->failed_starts = 0;
    schedule(w->s);
  } else if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_PROGRESS && k) {
    for (connection *c = k->waiters; c; c = c->next_waiter) answer_progress(c, e->progress->stage ? e->progress->stage : "", e->progress->done, e->progress->total);
  } else if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_ERROR && k) {
    Thunder__Wire__Error *x = e->error;
    w->serves = NULL;
    uv_timer_stop(&w->timer);
    k->runs_in = NULL;
    fail(w->s, k, (th_code)x->code, x->message ? x->message : "", x->has_op ? x->op : -1, x->has_graph ? x->graph : -1, x->detail);
    schedule(w->s);
  } else if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_CHUNK && k) {
    if (!w->answering) th_gather_init(&w->answer, e->chunk->total);
    w->answering = true;
    th_status status = th_gather_add(&w->answer, e->chunk);
    if (status) {
      worker_confused(w, th_status_message(status));
      th_status_free(status);
    } else if (th_gather_done(&w->answer)) {
      w->serves = NULL;
      uv_timer_stop(&w->timer);
      k->runs_in = NULL;
      th_blob *blob = th_blob_make(w->answer.bytes, w->answer.total);
      w->answering = false;
      if (blob) succeed(w->s, k, blob);
      else fail(w->s, k, TH_CODE_RESOURCE_EXHAUSTED, "no memory for the result", -1, -1, NULL);
      schedule(w->s);
    }
  } else {
    worker_confused(w, th_body_name(e->body_case));
  }
}

static void give_room(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
  worker *w = handle->data;
  buffer->base = (char *)th_frames_room(&w->frames, size);
  buffer->len = buffer->base ? size : 0;
}

static void worker_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
  worker *w = stream->data;
  (void)buffer;
  if (n < 0) {
    uv_read_stop(stream);
    worker_kill(w); /* its exit is seen next */
    return;
  }
  th_frames_filled(&w->frames, (size_t)n);
  while (!w->ended) {
    const uint8_t *bytes;
    size_t size;
    envelope *e = NULL;
    th_status status = th_frames_next(&w->frames, &bytes, &size);
    if (!status && !bytes) return;
    if (!status) status = th_envelope_decode(bytes, size, &e);
    if (status) {
      worker_confused(w, th_status_message(status));
      th_status_free(status);
      return;
    }
    worker_answers(w, e);
    th_envelope_free(e);
  }
}

static worker *worker_start(server *s) {
  char program[TH_PATH_MAX];
  th_status status = th_program_find("thunderc", program, sizeof program);
  worker *w = status ? NULL : calloc(1, sizeof *w);
  if (!w) {
    TH_LOG(ERROR, "no worker: %s", th_status_message(status));
    th_status_free(status);
    return NULL;
  }
  w->s = s;
  th_frames_init(&w->frames);
  uv_pipe_init(s->loop, &w->in, 0);
  uv_pipe_init(s->loop, &w->out, 0);
  uv_timer_init(s->loop, &w->timer);
  w->in.data = w->out.data = w->timer.data = w->process.data = w;
  w->open_handles = 4;
  uv_stdio_container_t stdio[3] = {{.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&w->in},
                                   {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&w->out},
                                   {.flags = UV_INHERIT_FD, .data.fd = 2}};
  char *args[] = {program, "--worker", NULL};
  uv_process_options_t options = {.file = program, .args = args, .stdio = stdio, .stdio_count = 3, .flags = UV_PROCESS_DETACHED, .exit_cb = worker_exited};
  int error = uv_spawn(s->loop, &w->process, &options);
  w->next = s->workers;
  s->workers = w;
  if (error) {
    TH_LOG(ERROR, "cannot start %s: %s", program, uv_strerror(error));
    w->ended = true;
    uv_close((uv_handle_t *)&w->process, handle_closed);
    uv_close((uv_handle_t *)&w->in, handle_closed);
    uv_close((uv_handle_t *)&w->out, handle_closed);
    uv_close((uv_handle_t *)&w->timer, handle_closed);
    return NULL;
  }
  uv_read_start((uv_stream_t *)&w->out, give_room, worker_read);
  return w;
}

typedef struct write_request { uv_write_t request; uint8_t *bytes; } write_request;

static void written(uv_write_t *request, int status) {
  write_request *r = (write_request *)request;
  (void)status; /* a worker that is gone is seen by its exit */
  free(r->bytes);
  free(r);
}

static void worker_send(worker *w, envelope *e) {
  write_request *r = calloc(1, sizeof *r);
  size_t size;
  e->has_protocol = 1;
  e->protocol = TH_PROTOCOL_VERSION;
  e->build = (char *)th_build_id();
  th_status status = r ? th_frame_pack(e, &r->bytes, &size) : TH_ERROR(RESOURCE_EXHAUSTED, "no memory");
  if (status) {
    worker_confused(w, th_status_message(status));
    th_status_free(status);
    free(r);
    return;
  }
  uv_buf_t buffer = uv_buf_init((char *)r->bytes, (unsigned)size);
  if (uv_write(&r->request, (uv_stream_t *)&w->in, &buffer, 1, written)) written(&r->request, -1);
}

static void worker_send_bytes(worker *w, const uint8_t *bytes, size_t size, uint32_t part) {
  size_t at = 0;
  do {
    Thunder__Wire__Chunk chunk = THUNDER__WIRE__CHUNK__INIT;
    envelope e = THUNDER__WIRE__ENVELOPE__INIT;
    size_t n = size - at < TH_CHUNK_BYTES_MAX ? size - at : TH_CHUNK_BYTES_MAX;
    chunk.has_offset = chunk.has_total = chunk.has_bytes = chunk.has_last = chunk.has_part = 1;
    chunk.offset = at;
    chunk.total = size;
    chunk.part = part;
    chunk.bytes = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)bytes + at};
    chunk.last = at + n == size;
    e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CHUNK;
    e.chunk = &chunk;
    worker_send(w, &e);
    at += n;
  } while (at < size);
}

static void compile_too_long(uv_timer_t *timer) {
  worker *w = timer->data;
  w->timed_out = true;
  worker_kill(w);
}

static void worker_take(worker *w, compile *k) {
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__Compile request = THUNDER__WIRE__COMPILE__INIT;
  Thunder__Wire__Dump dump = THUNDER__WIRE__DUMP__INIT;
  w->serves = k;
  k->runs_in = w;
  k->started_ns = uv_hrtime();
  if (k->dump) {
    dump.has_job_size = dump.has_names_size = 1;
    dump.job_size = k->size;
    dump.names_size = k->names_size;
    dump.pass = k->pass;
    e.body_case = THUNDER__WIRE__ENVELOPE__BODY_DUMP;
    e.dump = &dump;
  } else {
    request.has_size = 1;
    request.size = k->size;
    e.body_case = THUNDER__WIRE__ENVELOPE__BODY_COMPILE;
    e.compile = &request;
  }
  uv_timer_start(&w->timer, compile_too_long, (uint64_t)(w->s->compile_limit * 1000), 0);
  worker_send(w, &e);
  worker_send_bytes(w, k->job, k->size, 0);
  if (k->dump && k->names_size) worker_send_bytes(w, k->names, k->names_size, 1);
}

uint32_t workers_alive(const server *s) {
  uint32_t n = 0;
  for (const worker *w = s->workers; w; w = w->next) n += !w->ended;
  return n;
}

static void schedule(server *s) {
  uint32_t starting = 0, waiting = 0;
  if (s->stopping) return;
  for (compile *k = s->compiles; k; k = k->next) {
    if (k->runs_in) continue;
    worker *w = s->workers;
    while (w && (w->ended || !w->ready || w->serves)) w = w->next;
    if (w) worker_take(w, k);
    else waiting++;
  }
  for (worker *w = s->workers; w; w = w->next) starting += !w->ended && !w->ready;
  while (starting < waiting && workers_alive(s) < s->workers_max) {
    if (!worker_start(s)) {
      for (compile *k = s->compiles, *next; k; k = next) {
        next = k->next;
        if (!k->runs_in) fail(s, k, TH_CODE_UNAVAILABLE, "no compile worker could be started: is thunderc beside thunderd?", -1, -1, NULL);
      }
      return;
    }
    starting++;
  }
}

/* ---- compiles ---- */

static void wait_for(connection *c, compile *k) {
  connection **p = &k->waiters;
  while (*p) p = &(*p)->next_waiter;
  *p = c;
  c->next_waiter = NULL;
  c->waiting = k;
}

bool compile_join(connection *c, const uint8_t *digest) {
  for (compile *k = c->s->compiles; k; k = k->next)
    if (!k->dump && !k->no_cache && !memcmp(k->digest, digest, 32)) {
      ++*th_cache_joined(c->s->cache);
      wait_for(c, k);
      return true;
    }
  return false;
}

void compile_start(connection *c, bool dump, const uint8_t *digest, uint8_t *job, size_t size, uint8_t *names, size_t names_size, char *pass, bool no_cache) {
  compile *k = calloc(1, sizeof *k), **p = &c->s->compiles;
  if (!k) {
    free(job);
    free(names);
    free(pass);
    answer_error(c, TH_CODE_RESOURCE_EXHAUSTED, "no memory for a compile", -1, -1, NULL);
    return;
  }
  *k = (compile){.dump = dump, .no_cache = no_cache, .job = job, .size = size, .names = names, .names_size = names_size, .pass = pass, .started_ns = uv_hrtime()};
  if (digest) memcpy(k->digest, digest, 32);
  while (*p) p = &(*p)->next;
  *p = k;
  wait_for(c, k);
  schedule(c->s);
}

void compile_leave(connection *c) {
  compile *k = c->waiting;
  if (!k) return;
  c->waiting = NULL;
  for (connection **p = &k->waiters; *p; p = &(*p)->next_waiter)
    if (*p == c) {
      *p = c->next_waiter;
      break;
    }
  if (k->waiters) return;
  c->s->n_cancelled++;
  worker *w = k->runs_in;
  if (w) w->serves = NULL;
  compile_free(c->s, k);
  if (w) worker_end(w);
}

void workers_end(server *s) {
  for (worker *w = s->workers; w; w = w->next) {
    w->serves = NULL;
    worker_end(w);
  }
}

uint32_t compiles_counted(const server *s, bool running) {
  uint32_t n = 0;
  for (const compile *k = s->compiles; k; k = k->next) n += !!k->runs_in == running;
  return n;
}
