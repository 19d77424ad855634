/* Connections: messages in, requests answered, messages out (proto/daemon.proto); how they travel is the transport's. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/common/sha256.h"
#include "daemon/thunderd/server.h"
#include "ir/base/log.h"

typedef Thunder__Wire__Envelope envelope;
enum {
  CHUNKS_AHEAD = 2,   /* of an answer, with the transport: a reader that takes its time holds no more memory than these */
  PROGRESS_AHEAD = 4, /* later ones are left out for a slow reader */
  ANSWERS_AHEAD = 16, /* more pending, and no further message is read */
};

/* ---- out ---- */

void connection_init(connection *c, server *s, const transport *how) {
  *c = (connection){.s = s, .how = how, .rank = -1, .next = s->connections};
  s->connections = c;
}

void connection_deinit(connection *c) {
  for (connection **p = &c->s->connections; *p; p = &(*p)->next)
    if (*p == c) {
      *p = c->next;
      break;
    }
  if (c->collecting) {
    th_gather_deinit(&c->gather);
    th_gather_deinit(&c->names);
  }
  th_envelope_free(c->registered);
  free(c->pass);
  free(c->job);
  free(c->kind);
  c->s->quiet_since_ns = uv_hrtime();
}

static void drop_answer(connection *c) {
  th_blob_drop(c->answer.blob);
  c->answer.blob = NULL;
}

void connection_close(connection *c) {
  if (c->closing) return;
  c->closing = true;
  compile_leave(c);
  drop_answer(c);
  c->how->close(c);
}

static void set_reading(connection *c, bool on) {
  if (c->closing || c->ends || c->paused != on) return;
  c->paused = !on;
  c->how->read(c, on);
}

static void end_if_done(connection *c) {
  if ((c->ends || (c->half_closed && !c->waiting)) && !c->pending && !c->answer.blob) connection_close(c);
}

static void set_end(connection *c, th_code code, const char *text) {
  set_reading(c, false);
  c->ends = true;
  c->end_code = code;
  snprintf(c->end_text, sizeof c->end_text, "%s", text);
}

void connection_end(connection *c, th_code code, const char *text) {
  if (c->closing) return;
  compile_leave(c);
  if (!c->ends) set_end(c, code, text);
  end_if_done(c);
}

static void answer(connection *c, envelope *e) {
  if (c->closing) return;
  uint8_t *frame;
  size_t size;
  e->has_protocol = e->has_rank = e->has_epoch = 1;
  e->protocol = TH_PROTOCOL_VERSION;
  e->build = (char *)th_build_id();
  e->host = c->s->scope.host;
  e->job = c->job;
  e->rank = c->rank;
  e->epoch = c->epoch;
  th_status status = th_frame_pack(e, &frame, &size);
  if (status) {
    TH_LOG(ERROR, "%s", th_status_message(status));
    c->end_code = th_status_code(status);
    snprintf(c->end_text, sizeof c->end_text, "%s", th_status_message(status));
    th_status_free(status);
    connection_close(c);
    return;
  }
  if (++c->pending >= ANSWERS_AHEAD) set_reading(c, false);
  c->how->send(c, frame, size);
}

void answer_error(connection *c, th_code code, const char *message, int32_t op, int32_t graph, const char *detail) {
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__Error error = THUNDER__WIRE__ERROR__INIT;
  error.has_code = error.has_op = error.has_graph = 1;
  error.code = (uint32_t)code;
  error.message = (char *)message;
  error.op = op;
  error.graph = graph;
  error.detail = (char *)detail;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_ERROR;
  e.error = &error;
  answer(c, &e);
}

static void refuse(connection *c, th_code code, const char *message) {
  c->s->n_refused++;
  answer_error(c, code, message, -1, -1, NULL);
}

/* An answer after which the connection is closed: what follows cannot be understood. */
static void refuse_and_end(connection *c, th_code code, const char *message) {
  refuse(c, code, message);
  drop_answer(c);
  set_end(c, code, message);
}

static void done(connection *c) {
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__Done body = THUNDER__WIRE__DONE__INIT;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_DONE;
  e.done = &body;
  answer(c, &e);
}

void answer_progress(connection *c, const char *stage, uint32_t at, uint32_t total) {
  if (c->pending > PROGRESS_AHEAD) return;
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__Progress p = THUNDER__WIRE__PROGRESS__INIT;
  p.stage = (char *)stage;
  p.has_done = p.has_total = 1;
  p.done = at;
  p.total = total;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_PROGRESS;
  e.progress = &p;
  answer(c, &e);
}

static void send_chunks(connection *c) {
  while (c->answer.blob && c->pending < CHUNKS_AHEAD) {
    envelope e = THUNDER__WIRE__ENVELOPE__INIT;
    Thunder__Wire__Chunk chunk = THUNDER__WIRE__CHUNK__INIT;
    th_blob *blob = c->answer.blob;
    size_t at = c->answer.at, n = blob->size - at < TH_CHUNK_BYTES_MAX ? blob->size - at : TH_CHUNK_BYTES_MAX;
    chunk.has_offset = chunk.has_total = chunk.has_bytes = chunk.has_last = 1;
    chunk.offset = at;
    chunk.total = blob->size;
    chunk.bytes = (ProtobufCBinaryData){.len = n, .data = blob->bytes + at};
    chunk.last = at + n == blob->size;
    if (at == 0 && c->answer.is_executable) {
      chunk.has_sha256 = chunk.has_origin = chunk.has_compile_seconds = 1;
      chunk.sha256 = (ProtobufCBinaryData){.len = 32, .data = c->answer.sha256};
      chunk.origin = c->answer.origin;
      chunk.compile_seconds = c->answer.seconds;
    }
    e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CHUNK;
    e.chunk = &chunk;
    answer(c, &e);
    c->answer.at += n;
    if (chunk.last) drop_answer(c);
  }
}

void answer_bytes(connection *c, th_blob *blob, const uint8_t *sha256, Thunder__Wire__Origin origin, double seconds) {
  if (c->closing) return;
  c->answer.blob = th_blob_hold(blob);
  c->answer.at = 0;
  c->answer.is_executable = sha256 != NULL;
  c->answer.origin = origin;
  c->answer.seconds = seconds;
  if (sha256) memcpy(c->answer.sha256, sha256, 32);
  send_chunks(c);
}

void connection_sent(connection *c, bool ok) {
  c->pending--;
  if (!ok) connection_close(c);
  if (c->closing) return;
  send_chunks(c);
  if (c->pending < ANSWERS_AHEAD / 2) set_reading(c, true);
  end_if_done(c);
}

/* ---- requests ---- */

static void hello(connection *c, const envelope *e) {
  char text[512];
  if (e->protocol != TH_PROTOCOL_VERSION) {
    snprintf(text, sizeof text, "this daemon speaks protocol %u, the caller %u: stop the daemon (thunderctl stop) or use one installation", TH_PROTOCOL_VERSION, e->protocol);
    refuse_and_end(c, TH_CODE_FAILED_PRECONDITION, text);
    return;
  }
  c->same_build = e->build && !strcmp(e->build, th_build_id());
  if (!c->same_build && !e->hello->any_build) {
    snprintf(text, sizeof text, "this daemon is build %s, the caller is build %.80s: stop the daemon (thunderctl stop) or use one installation", th_build_id(), e->build ? e->build : "(none)");
    refuse_and_end(c, TH_CODE_FAILED_PRECONDITION, text);
    return;
  }
  c->greeted = true;
  c->job = e->job ? strdup(e->job) : NULL;
  c->kind = e->hello->kind ? strdup(e->hello->kind) : NULL;
  c->pid = e->hello->pid;
  c->rank = e->has_rank ? e->rank : -1;
  c->epoch = e->epoch;
  envelope reply = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__HelloReply body = THUNDER__WIRE__HELLO_REPLY__INIT;
  body.has_protocol = body.has_pid = body.has_epoch = body.has_request_bytes_max = 1;
  body.protocol = TH_PROTOCOL_VERSION;
  body.build = (char *)th_build_id();
  body.pid = (uint32_t)getpid();
  body.epoch = c->s->epoch;
  body.request_bytes_max = c->s->request_max;
  reply.body_case = THUNDER__WIRE__ENVELOPE__BODY_HELLO_REPLY;
  reply.hello_reply = &body;
  answer(c, &reply);
}

static bool answer_known(connection *c, const uint8_t *digest, bool counted) {
  th_cached found;
  if (!th_cache_get(c->s->cache, digest, counted, &found)) return false;
  answer_bytes(c, found.blob, found.sha256, found.from_disk ? THUNDER__WIRE__ORIGIN__ORIGIN_DISK : THUNDER__WIRE__ORIGIN__ORIGIN_MEMORY, found.seconds);
  return true;
}

static void lookup(connection *c, const Thunder__Wire__Lookup *m) {
  if (m->digest.len != 32) refuse(c, TH_CODE_INVALID_ARGUMENT, "a digest has 32 bytes");
  else if (answer_known(c, m->digest.data, true)) return;
  else if (!m->no_wait && compile_join(c, m->digest.data)) return;
  else answer_error(c, TH_CODE_NOT_FOUND, "the digest is not known", -1, -1, NULL);
}

static void collect(connection *c, Thunder__Wire__Envelope__BodyCase what, uint64_t size, uint64_t names_size) {
  char text[200];
  if (size > c->s->request_max || names_size > c->s->request_max) {
    snprintf(text, sizeof text, "the request has %llu bytes, at most %llu are accepted (THUNDER_REQUEST_MAX)", (unsigned long long)(size > names_size ? size : names_size), (unsigned long long)c->s->request_max);
    refuse_and_end(c, TH_CODE_RESOURCE_EXHAUSTED, text);
    return;
  }
  if (!size) {
    refuse(c, TH_CODE_INVALID_ARGUMENT, "the job is empty");
    return;
  }
  c->collecting = what;
  c->names_size = names_size;
  th_gather_init(&c->gather, size);
  th_gather_init(&c->names, names_size);
}

static void collected(connection *c) {
  bool dump = c->collecting == THUNDER__WIRE__ENVELOPE__BODY_DUMP;
  uint8_t digest[32], *job = c->gather.bytes, *names = c->names.bytes;
  size_t size = c->gather.total, names_size = c->names.total;
  char *pass = c->pass;
  c->collecting = 0;
  c->pass = NULL;
  if (!dump) {
    th_sha256_of(job, size, digest);
    bool wrong = memcmp(digest, c->digest, 32), known = !wrong && !c->no_cache && (answer_known(c, digest, false) || compile_join(c, digest));
    if (wrong) refuse(c, TH_CODE_INVALID_ARGUMENT, "the job's bytes do not have the digest that was named");
    if (wrong || known) {
      free(job);
      free(names);
      return;
    }
  }
  compile_start(c, dump, dump ? NULL : digest, job, size, names, names_size, pass, c->no_cache);
}

static void chunk(connection *c, const Thunder__Wire__Chunk *m) {
  if (!c->collecting) return; /* of a request that was refused or answered */
  th_status status = th_gather_add(m->part ? &c->names : &c->gather, m);
  if (status) {
    refuse_and_end(c, th_status_code(status), th_status_message(status));
    th_status_free(status);
    return;
  }
  if (th_gather_done(&c->gather) && th_gather_done(&c->names)) collected(c);
}

static uint64_t resident(void) {
  unsigned long pages = 0, unused;
  FILE *f = fopen("/proc/self/statm", "re");
  if (f && fscanf(f, "%lu %lu", &unused, &pages) != 2) pages = 0;
  if (f) fclose(f);
  return (uint64_t)pages * 4096;
}

static void status_reply(connection *c) {
  server *s = c->s;
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__StatusReply r = THUNDER__WIRE__STATUS_REPLY__INIT;
  Thunder__Wire__CacheStatReply cache = THUNDER__WIRE__CACHE_STAT_REPLY__INIT;
  uint32_t connections = 0, jobs = 0;
  for (connection *k = s->connections; k; k = k->next) connections += !k->closing, jobs += k->registered != NULL;
  r.version = (char *)th_version();
  r.build = (char *)th_build_id();
  r.host = s->scope.host;
  r.socket = s->scope.socket;
  r.log = s->scope.log;
#define SET(field, value) r.has_##field = 1, r.field = (value)
  SET(protocol, TH_PROTOCOL_VERSION); SET(pid, (uint32_t)getpid()); SET(epoch, s->epoch); SET(uptime_seconds, (double)(uv_hrtime() - s->started_ns) * 1e-9);
  SET(idle_limit_seconds, s->idle_limit); SET(connections, connections); SET(jobs, jobs); SET(workers, workers_alive(s)); SET(workers_max, s->workers_max);
  SET(compiles_running, compiles_counted(s, true)); SET(compiles_queued, compiles_counted(s, false)); SET(compiles, s->n_compiles); SET(compiles_failed, s->n_failed);
  SET(compiles_cancelled, s->n_cancelled); SET(compile_timeouts, s->n_timeouts); SET(worker_crashes, s->n_crashes); SET(requests, s->n_requests);
  r.listen = remote_addresses(s->remote, &r.n_listen);
  SET(requests_refused, s->n_refused); SET(compile_seconds, s->compile_seconds); SET(memory_bytes, resident());
#undef SET
  th_cache_fill(s->cache, &cache);
  r.cache = &cache;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_STATUS_REPLY;
  e.status_reply = &r;
  answer(c, &e);
}

static void cache_reply(connection *c) {
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__CacheStatReply r = THUNDER__WIRE__CACHE_STAT_REPLY__INIT;
  th_cache_fill(c->s->cache, &r);
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT_REPLY;
  e.cache_stat_reply = &r;
  answer(c, &e);
}

static void list_jobs(connection *c) {
  envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__JobList list = THUNDER__WIRE__JOB_LIST__INIT;
  size_t n = 0;
  for (connection *k = c->s->connections; k; k = k->next) n += k->registered != NULL;
  list.jobs = calloc(n + 1, sizeof *list.jobs);
  for (connection *k = c->s->connections; k && list.jobs; k = k->next)
    if (k->registered) list.jobs[list.n_jobs++] = k->registered->register_job->info;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_JOB_LIST;
  e.job_list = &list;
  answer(c, &e);
  free(list.jobs);
}

static bool is_for_the_own_socket(Thunder__Wire__Envelope__BodyCase what) {
  return what == THUNDER__WIRE__ENVELOPE__BODY_REGISTER_JOB || what == THUNDER__WIRE__ENVELOPE__BODY_UNREGISTER_JOB || what == THUNDER__WIRE__ENVELOPE__BODY_CACHE_CLEAR ||
         what == THUNDER__WIRE__ENVELOPE__BODY_STOP;
}

/* Returns true when the envelope is kept. */
static bool serve(connection *c, envelope *e) {
  if (e->body_case != THUNDER__WIRE__ENVELOPE__BODY_CHUNK) c->s->n_requests++;
  if (!c->greeted) {
    if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_HELLO) hello(c, e);
    else refuse_and_end(c, TH_CODE_FAILED_PRECONDITION, "the first message must be Hello");
    return false;
  }
  bool compiles = e->body_case == THUNDER__WIRE__ENVELOPE__BODY_LOOKUP || e->body_case == THUNDER__WIRE__ENVELOPE__BODY_COMPILE || e->body_case == THUNDER__WIRE__ENVELOPE__BODY_DUMP;
  if (compiles && !c->same_build) {
    refuse(c, TH_CODE_FAILED_PRECONDITION, "another build may not compile here");
    return false;
  }
  if (compiles && (c->waiting || c->collecting || c->answer.blob)) {
    refuse_and_end(c, TH_CODE_FAILED_PRECONDITION, "a connection carries one request at a time");
    return false;
  }
  if (c->how->is_remote && is_for_the_own_socket(e->body_case)) {
    refuse(c, TH_CODE_PERMISSION_DENIED, "jobs, the cache and the daemon's end are for its own socket alone (thunderctl on its host)");
    return false;
  }
  switch (e->body_case) {
    case THUNDER__WIRE__ENVELOPE__BODY_LOOKUP: lookup(c, e->lookup); break;
    case THUNDER__WIRE__ENVELOPE__BODY_COMPILE:
      if (e->compile->digest.len != 32) {
        refuse_and_end(c, TH_CODE_INVALID_ARGUMENT, "a digest has 32 bytes");
        break;
      }
      memcpy(c->digest, e->compile->digest.data, 32);
      c->no_cache = e->compile->no_cache;
      if (!c->no_cache && answer_known(c, c->digest, false)) break;
      collect(c, e->body_case, e->compile->size, 0);
      break;
    case THUNDER__WIRE__ENVELOPE__BODY_DUMP:
      c->no_cache = true;
      c->pass = e->dump->pass ? strdup(e->dump->pass) : NULL;
      collect(c, e->body_case, e->dump->job_size, e->dump->names_size);
      break;
    case THUNDER__WIRE__ENVELOPE__BODY_CHUNK: chunk(c, e->chunk); break;
    case THUNDER__WIRE__ENVELOPE__BODY_CANCEL:
      if (c->waiting || c->answer.blob) {
        compile_leave(c);
        drop_answer(c);
        answer_error(c, TH_CODE_CANCELLED, "the request was given up", -1, -1, NULL);
      }
      break;
    case THUNDER__WIRE__ENVELOPE__BODY_REGISTER_JOB:
      if (!e->register_job->info) {
        refuse(c, TH_CODE_INVALID_ARGUMENT, "RegisterJob without a job");
        break;
      }
      th_envelope_free(c->registered);
      c->registered = e;
      done(c);
      return true;
    case THUNDER__WIRE__ENVELOPE__BODY_UNREGISTER_JOB:
      th_envelope_free(c->registered);
      c->registered = NULL;
      done(c);
      break;
    case THUNDER__WIRE__ENVELOPE__BODY_LIST_JOBS: list_jobs(c); break;
    case THUNDER__WIRE__ENVELOPE__BODY_STATUS: status_reply(c); break;
    case THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT: cache_reply(c); break;
    case THUNDER__WIRE__ENVELOPE__BODY_CACHE_CLEAR:
      cache_reply(c);
      th_cache_clear(c->s->cache, e->cache_clear->memory_only);
      break;
    case THUNDER__WIRE__ENVELOPE__BODY_STOP:
      done(c);
      server_stop(c->s);
      break;
    default: refuse_and_end(c, TH_CODE_INVALID_ARGUMENT, "this message is no request"); break;
  }
  return false;
}

/* ---- in ---- */

void connection_received(connection *c, const uint8_t *bytes, size_t size) {
  envelope *e;
  th_status status = th_envelope_decode(bytes, size, &e);
  if (status) connection_unreadable(c, status);
  else if (!serve(c, e)) th_envelope_free(e);
}

void connection_unreadable(connection *c, th_status why) {
  refuse_and_end(c, TH_CODE_INVALID_ARGUMENT, th_status_message(why));
  th_status_free(why);
}

void connection_half_closed(connection *c) {
  c->half_closed = true;
  if (!c->greeted) refuse_and_end(c, TH_CODE_FAILED_PRECONDITION, "the first message must be Hello");
  else if (c->collecting) refuse_and_end(c, TH_CODE_INVALID_ARGUMENT, "the messages end before the job does");
  end_if_done(c);
}
