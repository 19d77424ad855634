#define _GNU_SOURCE /* pipe2 */
#include "daemon/common/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/common/scope.h"
#include "daemon/common/sha256.h"

struct th_client {
  int fd;
  th_client_options options;
  char *job, *kind;
  char host[256];
  char socket[TH_SOCKET_PATH_MAX + 1];
  th_frames frames;
  Thunder__Wire__Envelope *hello;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int left_ms(double deadline) {
  double left = deadline - now();
  return left <= 0 ? 0 : left > 1e6 ? 1000000000 : (int)(left * 1000) + 1;
}

extern char **environ;

th_status th_daemon_ensure(double timeout_seconds, char *out_socket, size_t size) {
  char program[TH_PATH_MAX], text[TH_SOCKET_PATH_MAX + 2], said[1024];
  TH_TRY(th_program_find("thunderd", program, sizeof program));
  int out[2] = {-1, -1}, err[2] = {-1, -1};
  if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
    for (int i = 0; i < 2 && out[0] >= 0; i++) close(out[i]);
    return TH_ERROR(RESOURCE_EXHAUSTED, "pipe: %s", strerror(errno));
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigemptyset(&none);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, err[1], 2);
  char *argv[] = {program, "--ensure", NULL};
  pid_t pid;
  int rc = posix_spawn(&pid, program, &actions, &attributes, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(out[1]);
  close(err[1]);
  if (rc) {
    close(out[0]);
    close(err[0]);
    return TH_ERROR(UNAVAILABLE, "cannot start %s: %s", program, strerror(rc));
  }
  double deadline = now() + timeout_seconds;
  size_t n_out = 0, n_err = 0;
  bool late = false;
  struct pollfd fds[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    rc = poll(fds, 2, left_ms(deadline));
    if (rc < 0 && errno == EINTR) continue;
    if (rc <= 0) {
      late = true;
      break;
    }
    for (int i = 0; i < 2; i++) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      char bytes[512];
      ssize_t n = read(fds[i].fd, bytes, sizeof bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        fds[i].fd = -1;
        continue;
      }
      char *into = i ? said : text;
      size_t *held = i ? &n_err : &n_out, room = (i ? sizeof said : sizeof text) - 1 - *held;
      size_t take = (size_t)n < room ? (size_t)n : room;
      memcpy(into + *held, bytes, take);
      *held += take;
    }
  }
  close(out[0]);
  close(err[0]);
  if (late) kill(pid, SIGKILL);
  int wait_status = 0;
  /* A caller that ignores SIGCHLD has no status to read: then what was printed decides. */
  bool known = false;
  for (;;) {
    pid_t got = waitpid(pid, &wait_status, 0);
    if (got < 0 && errno == EINTR) continue;
    known = got == pid;
    break;
  }
  text[n_out] = said[n_err] = 0;
  text[strcspn(text, "\n")] = 0;
  said[strcspn(said, "\n")] = 0;
  if (late) return TH_ERROR(UNAVAILABLE, "%s --ensure did not end within %.0f s", program, timeout_seconds);
  if ((known && (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status))) || !*text)
    return TH_ERROR(UNAVAILABLE, "no daemon could be started: %s", *said ? said : "thunderd --ensure failed without a word");
  if ((size_t)snprintf(out_socket, size, "%s", text) >= size) return TH_ERROR(INTERNAL, "socket path too long: %s", text);
  return TH_OK;
}

/* One try: *out_fd >= 0, or errno's number in *out_errno. */
static th_status connect_once(const char *path, double deadline, int *out_fd, int *out_errno) {
  *out_fd = -1;
  *out_errno = 0;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) > TH_SOCKET_PATH_MAX)
    return TH_ERROR(INVALID_ARGUMENT, "the socket path %s takes more than %d bytes", path, TH_SOCKET_PATH_MAX);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return TH_ERROR(RESOURCE_EXHAUSTED, "socket: %s", strerror(errno));
  for (;;) {
    if (!connect(fd, (struct sockaddr *)&address, sizeof address)) break;
    /* A full backlog answers EAGAIN on unix sockets and nothing can be polled for. */
    if ((errno == EAGAIN || errno == EINTR) && now() < deadline) {
      poll(NULL, 0, 5);
      continue;
    }
    *out_errno = errno;
    close(fd);
    return TH_OK;
  }
  *out_fd = fd;
  return TH_OK;
}

static th_status write_all(th_client *c, const uint8_t *bytes, size_t size, double deadline) {
  while (size) {
    ssize_t n = send(c->fd, bytes, size, MSG_NOSIGNAL);
    if (n > 0) {
      bytes += n;
      size -= (size_t)n;
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      struct pollfd p = {c->fd, POLLOUT, 0};
      int ms = left_ms(deadline);
      if (ms && poll(&p, 1, ms) != 0) continue;
      return TH_ERROR(DEADLINE_EXCEEDED, "the daemon at %s does not read what is sent", c->socket);
    }
    return TH_ERROR(UNAVAILABLE, "the daemon at %s is gone: %s", c->socket, strerror(errno));
  }
  return TH_OK;
}

static th_status send_until(th_client *c, Thunder__Wire__Envelope *request, double deadline) {
  request->has_protocol = request->has_rank = request->has_epoch = 1;
  request->protocol = TH_PROTOCOL_VERSION;
  request->build = (char *)th_build_id();
  request->job = c->job;
  request->rank = c->options.rank;
  request->host = c->host;
  request->epoch = c->options.epoch;
  uint8_t *bytes;
  size_t size;
  TH_TRY(th_frame_pack(request, &bytes, &size));
  th_status status = write_all(c, bytes, size, deadline);
  free(bytes);
  if (th_status_code(status) != TH_CODE_UNAVAILABLE) return status;
  /* Who closes on us may have said why. */
  Thunder__Wire__Envelope *last;
  th_status said = th_client_receive(c, 0, &last);
  th_envelope_free(last);
  if (!said || th_status_code(said) == TH_CODE_UNAVAILABLE || th_status_code(said) == TH_CODE_DEADLINE_EXCEEDED) {
    th_status_free(said);
    return status;
  }
  th_status_free(status);
  return said;
}

th_status th_client_send(th_client *client, Thunder__Wire__Envelope *request) { return send_until(client, request, now() + 60); }

th_status th_client_receive(th_client *c, double timeout_seconds, Thunder__Wire__Envelope **out) {
  double deadline = now() + timeout_seconds;
  *out = NULL;
  for (;;) {
    const uint8_t *bytes;
    size_t size;
    TH_TRY(th_frames_next(&c->frames, &bytes, &size));
    if (bytes) {
      TH_TRY(th_envelope_decode(bytes, size, out));
      if ((*out)->body_case != THUNDER__WIRE__ENVELOPE__BODY_ERROR) return TH_OK;
      th_status status = th_error_to_status((*out)->error);
      th_envelope_free(*out);
      *out = NULL;
      return status;
    }
    uint8_t *room = th_frames_room(&c->frames, 65536);
    if (!room) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for an answer");
    ssize_t n = recv(c->fd, room, 65536, 0);
    if (n > 0) {
      th_frames_filled(&c->frames, (size_t)n);
      continue;
    }
    if (n == 0) return TH_ERROR(UNAVAILABLE, "the daemon at %s ended the connection", c->socket);
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return TH_ERROR(UNAVAILABLE, "the daemon at %s is gone: %s", c->socket, strerror(errno));
    struct pollfd p = {c->fd, POLLIN, 0};
    int ms = left_ms(deadline), rc = ms ? poll(&p, 1, ms) : 0;
    if (rc == 0) return TH_ERROR(DEADLINE_EXCEEDED, "the daemon at %s did not answer within %.3g s", c->socket, timeout_seconds);
  }
}

th_status th_client_call(th_client *client, Thunder__Wire__Envelope *request, Thunder__Wire__Envelope__BodyCase want, double timeout_seconds,
                         Thunder__Wire__Envelope **out) {
  *out = NULL;
  TH_TRY(th_client_send(client, request));
  TH_TRY(th_client_receive(client, timeout_seconds, out));
  if ((*out)->body_case == want) return TH_OK;
  th_status status = TH_ERROR(INTERNAL, "the daemon answered %s to %s, want %s", th_body_name((*out)->body_case),
                              th_body_name(request->body_case), th_body_name(want));
  th_envelope_free(*out);
  *out = NULL;
  return status;
}

static th_status handshake(th_client *c, double deadline) {
  Thunder__Wire__Hello hello = THUNDER__WIRE__HELLO__INIT;
  Thunder__Wire__Envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_HELLO;
  e.hello = &hello;
  hello.kind = c->kind;
  hello.has_pid = hello.has_any_build = 1;
  hello.pid = (uint32_t)getpid();
  hello.any_build = c->options.any_build;
  TH_TRY(send_until(c, &e, deadline));
  Thunder__Wire__Envelope *answer;
  TH_TRY(th_client_receive(c, deadline - now(), &answer));
  if (answer->body_case != THUNDER__WIRE__ENVELOPE__BODY_HELLO_REPLY) {
    th_status status = TH_ERROR(INTERNAL, "%s answered hello with %s", c->socket, th_body_name(answer->body_case));
    th_envelope_free(answer);
    return status;
  }
  c->hello = answer;
  return TH_OK;
}

th_status th_client_open(const th_client_options *options, th_client **out) {
  *out = NULL;
  double timeout = options->timeout_seconds > 0 ? options->timeout_seconds : 20, deadline = now() + timeout;
  const char *given = options->socket ? options->socket : getenv("THUNDER_SOCKET");
  if (given && !*given) given = NULL;
  th_client *c = calloc(1, sizeof *c);
  if (!c) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a client");
  c->fd = -1;
  c->options = *options;
  c->job = strdup(options->job ? options->job : "");
  c->kind = strdup(options->kind ? options->kind : "client");
  gethostname(c->host, sizeof c->host - 1);
  th_status status = TH_OK;
  if (!c->job || !c->kind) TH_TRY_CLEANUP(TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a client"));
  if (given) {
    if ((size_t)snprintf(c->socket, sizeof c->socket, "%s", given) >= sizeof c->socket)
      TH_TRY_CLEANUP(TH_ERROR(INVALID_ARGUMENT, "the socket path %s takes more than %d bytes", given, TH_SOCKET_PATH_MAX));
  } else {
    th_scope scope;
    TH_TRY_CLEANUP(th_scope_init(&scope, NULL));
    strcpy(c->socket, scope.socket);
  }
  for (int attempt = 0;; attempt++) {
    int error;
    TH_TRY_CLEANUP(connect_once(c->socket, deadline, &c->fd, &error));
    if (c->fd >= 0) {
      status = handshake(c, deadline);
      /* A daemon that was just leaving ends the connection: start over, as after a refusal. */
      if (th_status_code(status) != TH_CODE_UNAVAILABLE || given || !options->start || attempt >= 3) break;
      th_status_free(status);
      status = TH_OK;
      close(c->fd);
      c->fd = -1;
      th_frames_deinit(&c->frames);
      continue;
    }
    if (given || !options->start || attempt >= 3 || (error != ENOENT && error != ECONNREFUSED)) {
      status = TH_ERROR(UNAVAILABLE, "no daemon accepts at %s: %s", c->socket, strerror(error));
      break;
    }
    TH_TRY_CLEANUP(th_daemon_ensure(deadline - now(), c->socket, sizeof c->socket));
  }
cleanup:
  if (status) th_client_close(c);
  else *out = c;
  return status;
}

void th_client_close(th_client *c) {
  if (!c) return;
  if (c->fd >= 0) close(c->fd);
  th_frames_deinit(&c->frames);
  th_envelope_free(c->hello);
  free(c->job);
  free(c->kind);
  free(c);
}

const Thunder__Wire__HelloReply *th_client_hello(const th_client *client) { return client->hello->hello_reply; }
const char *th_client_socket(const th_client *client) { return client->socket; }
int th_client_fd(const th_client *client) { return client->fd; }

/* Reads Progress and Chunks up to the last one. */
static th_status receive_executable(th_client *c, double deadline, th_client_progress progress, void *user, uint8_t **out, size_t *out_size,
                                    Thunder__Wire__Origin *out_origin) {
  th_gather gather = {0};
  bool begun = false, last = false;
  uint8_t want[32], got[32];
  th_status status = TH_OK;
  Thunder__Wire__Envelope *e = NULL;
  while (!last) {
    TH_TRY_CLEANUP(th_client_receive(c, deadline - now(), &e));
    if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_PROGRESS) {
      if (progress) progress(user, e->progress->stage ? e->progress->stage : "", e->progress->done, e->progress->total);
    } else if (e->body_case == THUNDER__WIRE__ENVELOPE__BODY_CHUNK) {
      if (!begun) {
        th_gather_init(&gather, e->chunk->total);
        if (e->chunk->sha256.len != 32) TH_TRY_CLEANUP(TH_ERROR(DATA_LOSS, "an executable came without its checksum"));
        memcpy(want, e->chunk->sha256.data, 32);
        if (out_origin) *out_origin = e->chunk->origin;
        begun = true;
      }
      TH_TRY_CLEANUP(th_gather_add(&gather, e->chunk));
      last = e->chunk->last;
    } else {
      TH_TRY_CLEANUP(TH_ERROR(INTERNAL, "the daemon sent %s instead of an executable", th_body_name(e->body_case)));
    }
    th_envelope_free(e);
    e = NULL;
  }
  th_sha256_of(gather.bytes, gather.filled, got);
  if (!th_gather_done(&gather) || memcmp(want, got, 32))
    TH_TRY_CLEANUP(TH_ERROR(DATA_LOSS, "an executable of %llu bytes arrived damaged", (unsigned long long)gather.total));
  *out = gather.bytes;
  *out_size = gather.filled;
  gather.bytes = NULL;
cleanup:
  th_envelope_free(e);
  th_gather_deinit(&gather);
  return status;
}

th_status th_client_compile(th_client *c, const uint8_t *job, size_t size, double timeout_seconds, th_client_progress progress, void *user,
                            uint8_t **out_executable, size_t *out_size, Thunder__Wire__Origin *out_origin) {
  *out_executable = NULL;
  *out_size = 0;
  double deadline = now() + timeout_seconds;
  uint8_t digest[32];
  th_sha256_of(job, size, digest);
  Thunder__Wire__Envelope e = THUNDER__WIRE__ENVELOPE__INIT;
  Thunder__Wire__Lookup lookup = THUNDER__WIRE__LOOKUP__INIT;
  Thunder__Wire__Compile compile = THUNDER__WIRE__COMPILE__INIT;
  Thunder__Wire__Chunk chunk = THUNDER__WIRE__CHUNK__INIT;
  lookup.has_digest = 1;
  lookup.digest = (ProtobufCBinaryData){32, digest};
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_LOOKUP;
  e.lookup = &lookup;
  TH_TRY(send_until(c, &e, deadline));
  th_status status = receive_executable(c, deadline, progress, user, out_executable, out_size, out_origin);
  if (th_status_code(status) != TH_CODE_NOT_FOUND) return status;
  th_status_free(status);
  compile.has_digest = compile.has_size = 1;
  compile.digest = lookup.digest;
  compile.size = size;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_COMPILE;
  e.compile = &compile;
  TH_TRY(send_until(c, &e, deadline));
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CHUNK;
  e.chunk = &chunk;
  chunk.has_offset = chunk.has_total = chunk.has_bytes = chunk.has_last = 1;
  chunk.total = size;
  size_t offset = 0;
  do {
    size_t n = size - offset < TH_CHUNK_BYTES_MAX ? size - offset : TH_CHUNK_BYTES_MAX;
    chunk.offset = offset;
    chunk.bytes = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)job + offset};
    offset += n;
    chunk.last = offset == size;
    /* A refusal (an oversized job) closes nothing but may fill the other direction: what it says is read below. */
    TH_TRY(send_until(c, &e, deadline));
  } while (offset < size);
  return receive_executable(c, deadline, progress, user, out_executable, out_size, out_origin);
}

th_status th_client_register_job(th_client *client, Thunder__Wire__JobInfo *info) {
  Thunder__Wire__Envelope e = THUNDER__WIRE__ENVELOPE__INIT, *answer;
  Thunder__Wire__RegisterJob request = THUNDER__WIRE__REGISTER_JOB__INIT;
  request.info = info;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_REGISTER_JOB;
  e.register_job = &request;
  TH_TRY(th_client_call(client, &e, THUNDER__WIRE__ENVELOPE__BODY_DONE, 10, &answer));
  th_envelope_free(answer);
  return TH_OK;
}

th_status th_client_unregister_job(th_client *client, const char *job, uint32_t node_rank, int exit_code) {
  Thunder__Wire__Envelope e = THUNDER__WIRE__ENVELOPE__INIT, *answer;
  Thunder__Wire__UnregisterJob request = THUNDER__WIRE__UNREGISTER_JOB__INIT;
  request.job = (char *)(uintptr_t)job;
  request.has_node_rank = request.has_exit_code = 1;
  request.node_rank = node_rank;
  request.exit_code = exit_code;
  e.body_case = THUNDER__WIRE__ENVELOPE__BODY_UNREGISTER_JOB;
  e.unregister_job = &request;
  TH_TRY(th_client_call(client, &e, THUNDER__WIRE__ENVELOPE__BODY_DONE, 10, &answer));
  th_envelope_free(answer);
  return TH_OK;
}
