/* Calls over gRPC as connections: `thunderd --listen`. gRPC itself is behind daemon/grpc/grpc.h, in a library that is opened here and only then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/grpc/grpc.h"
#include "daemon/thunderd/server.h"
#include "ir/base/log.h"

enum {
  CALLS_MAX = 256,           /* at once */
  CALLS_OF_CONNECTION = 64,  /* one HTTP/2 connection's share */
  CLOSE_WAITS_MS = 2000,     /* for a peer to take the end of its call */
  PEM_BYTES_MAX = 1 << 20,
};

typedef struct call { connection c; th_grpc_call *call; uint64_t moved_ns; bool receiving, over; } call; /* moved: the peer did something, or was given something to do */

struct remote {
  server *s;
  const th_grpc_api *api;
  th_grpc *g;
  uv_poll_t poll;
  uv_timer_t timer;
  const char *tls_folder; /* borrowed */
  double call_limit;
  uint32_t calls;
  char *addresses[LISTENS_MAX];
  size_t n_addresses;
};

/* ---- a call ---- */

static void call_send(connection *c, uint8_t *frame, size_t size) {
  call *k = (call *)c;
  if (c->pending == 1) k->moved_ns = uv_hrtime();
  c->s->remote->api->send(k->call, frame, frame + 4, size - 4); /* gRPC has a length of its own */
}

static void call_read(connection *c, bool on) {
  call *k = (call *)c;
  if (!on || k->receiving) return; /* a message that was asked for comes all the same */
  k->receiving = true;
  c->s->remote->api->receive(k->call);
}

static void call_close(connection *c) {
  call *k = (call *)c;
  k->moved_ns = uv_hrtime();
  if (!k->over) c->s->remote->api->finish(k->call, c->end_code, c->end_text);
}

static const transport over_grpc = {.is_remote = true, .send = call_send, .read = call_read, .close = call_close};

static void *accepted(void *user, th_grpc_call *from, const char *peer) {
  remote *r = user;
  call *k = r->calls < CALLS_MAX ? calloc(1, sizeof *k) : NULL;
  if (!k) {
    r->s->n_refused++;
    return NULL;
  }
  char who[300];
  snprintf(who, sizeof who, "%s", peer);
  th_utf8_clean(who);
  TH_LOG(INFO, "a call of %s", who);
  connection_init(&k->c, r->s, &over_grpc);
  k->call = from;
  k->moved_ns = uv_hrtime();
  r->calls++;
  call_read(&k->c, true);
  return k;
}

static void received(void *user, const uint8_t *message, size_t size) {
  call *k = user;
  k->receiving = false;
  k->moved_ns = uv_hrtime();
  if (k->c.closing || k->c.ends) return;
  if (message) connection_received(&k->c, message, size);
  else connection_half_closed(&k->c);
  if (message && !k->c.closing && !k->c.ends && !k->c.paused) call_read(&k->c, true);
}

static void sent(void *user, bool ok) {
  call *k = user;
  k->moved_ns = uv_hrtime();
  connection_sent(&k->c, ok);
}

static void over(void *user) {
  call *k = user;
  k->over = true;
  connection_close(&k->c);
  k->c.s->remote->calls--;
  connection_deinit(&k->c);
  free(k);
}

/* No call waits for its peer for ever: for a first message, the rest of a job, the next request, an answer's reader, or the end to be taken. */
static void look_at_calls(uv_timer_t *timer) {
  remote *r = timer->data;
  char text[200];
  r->api->dispatch(r->g); /* what came while the loop was busy came in time */
  uint64_t now = uv_hrtime();
  for (connection *c = r->s->connections; c; c = c->next) {
    call *k = (call *)c;
    if (c->how != &over_grpc || k->over) continue;
    double quiet = (double)(now - k->moved_ns) * 1e-9;
    if (c->closing && quiet * 1000 > CLOSE_WAITS_MS) r->api->cancel(k->call, c->end_code ? c->end_code : TH_CODE_CANCELLED, c->end_text);
    if (c->closing || quiet < r->call_limit || (c->waiting && !c->pending)) continue;
    snprintf(text, sizeof text, "the caller %s for %.0f s; THUNDER_CALL_TIMEOUT sets the limit", c->pending ? "took no answer" : "sent nothing", quiet);
    r->s->n_refused++;
    r->api->cancel(k->call, TH_CODE_DEADLINE_EXCEEDED, text);
    connection_close(c);
  }
}

/* ---- the server ---- */

static void dispatch(uv_poll_t *poll, int status, int events) {
  remote *r = poll->data;
  (void)status, (void)events;
  r->api->dispatch(r->g);
}

static void stopped(void *user) {
  remote *r = user;
  uv_close((uv_handle_t *)&r->poll, NULL);
  uv_close((uv_handle_t *)&r->timer, NULL);
}

/* Opens libthunder_grpc.so: THUNDER_GRPC_LIBRARY; beside this program; in ../lib of it; where the dynamic linker looks. The error is
 * dlerror's text for the first file that exists, which says what is missing. */
static th_status open_library(const th_grpc_api **out) {
  const char *given = getenv("THUNDER_GRPC_LIBRARY");
  char folder[TH_PATH_MAX] = "", path[TH_PATH_MAX + 64], error[1024] = "";
  void *handle = NULL;
  ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 1);
  if (n > 0) folder[n] = 0;
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
  static const char *const places[] = {"%s/libthunder_grpc.so", "%s/../lib/libthunder_grpc.so", "libthunder_grpc.so"};
  for (int i = given && *given ? -1 : 0; i < 3 && !handle; i++) {
    if (i < 0) snprintf(path, sizeof path, "%s", given);
    else snprintf(path, sizeof path, places[i], folder);
    if (strchr(path, '/') && access(path, F_OK) && i >= 0) continue;
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never closed: gRPC's threads live in it */
    if (!handle && !*error) snprintf(error, sizeof error, "%s", dlerror());
    if (i < 0) break;
  }
  if (!handle)
    return TH_ERROR(NOT_FOUND, "--listen needs gRPC: %s. Debian 12: apt install libgrpc29 (Ubuntu 24.04: libgrpc29t64); a build makes libthunder_grpc.so where there is libgrpc-dev, "
                               "and THUNDER_GRPC_LIBRARY may name it", error);
  th_grpc_api_fn get = (th_grpc_api_fn)(uintptr_t)dlsym(handle, TH_GRPC_API);
  const th_grpc_api *api = get ? get() : NULL;
  if (!api || strcmp(api->build, th_build_id())) return TH_ERROR(FAILED_PRECONDITION, "%s is of build %s, thunderd of %s: use one installation", path, api ? api->build : "(none)", th_build_id());
  *out = api;
  return TH_OK;
}

static th_status read_text(const char *folder, const char *name, char **out) {
  char path[TH_PATH_MAX + 32];
  th_status status = TH_OK;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *f = fopen(path, "re");
  char *text = f ? calloc(1, PEM_BYTES_MAX + 1) : NULL;
  if (!f) status = TH_ERROR(NOT_FOUND, "--tls-dir: %s: %s (ca.pem, cert.pem and key.pem are wanted there)", path, strerror(errno));
  else if (!text) status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %s", path);
  else if (fread(text, 1, PEM_BYTES_MAX, f) == 0 || ferror(f)) status = TH_ERROR(INVALID_ARGUMENT, "--tls-dir: %s is empty or cannot be read", path);
  else if (!strstr(text, "-----BEGIN ")) status = TH_ERROR(INVALID_ARGUMENT, "--tls-dir: %s is no PEM file: there is no -----BEGIN line in it", path);
  if (f) fclose(f);
  if (status) free(text);
  else *out = text;
  return status;
}

/* The mode of the socket keeps others out, and that of the folder keeps others from putting a socket of theirs in its place. */
static th_status look_at_path(const server *s, const char *path) {
  char folder[TH_PATH_MAX];
  struct stat f;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  slash[slash == folder] = 0;
  if (strlen(path) > TH_SOCKET_PATH_MAX) return TH_ERROR(INVALID_ARGUMENT, "--listen unix:%s: the path has %zu bytes, a socket's may have %d", path, strlen(path), TH_SOCKET_PATH_MAX);
  if (stat(folder, &f)) return TH_ERROR(NOT_FOUND, "--listen unix:%s: %s: %s", path, folder, strerror(errno));
  if (!S_ISDIR(f.st_mode) || f.st_uid != s->scope.uid || f.st_mode & 022)
    return TH_ERROR(PERMISSION_DENIED, "--listen unix:%s: %s is not a folder that user %d alone may write to (owner %d, mode %o)", path, folder, (int)s->scope.uid, (int)f.st_uid, (unsigned)f.st_mode & 07777);
  if (lstat(path, &f)) return TH_OK;
  if (!S_ISSOCK(f.st_mode)) return TH_ERROR(ALREADY_EXISTS, "--listen unix:%s: there is something that is no socket", path);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool serves = fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address);
  if (fd >= 0) close(fd);
  if (serves) return TH_ERROR(ALREADY_EXISTS, "--listen unix:%s: somebody listens there", path);
  return TH_OK; /* left behind; gRPC removes it */
}

static th_status look_at_address(const char *address, const char *tls_folder) {
  const char *colon = strrchr(address, ':');
  char *end = NULL;
  long port = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
  bool bare = colon && memchr(address, ':', (size_t)(colon - address)) && (*address != '[' || colon[-1] != ']');
  if (!colon || colon == address || bare || !end || *end || port < 0 || port > 65535)
    return TH_ERROR(INVALID_ARGUMENT, "--listen %s: HOST:PORT (0.0.0.0:7400, [::1]:0 for a port that is free) or unix:PATH is expected", address);
  if (!tls_folder) return TH_ERROR(INVALID_ARGUMENT, "--listen %s: nothing listens on a network without certificates: --tls-dir DIR names a folder with ca.pem, cert.pem and key.pem", address);
  return TH_OK;
}

static th_status listen_on(remote *r, const char *address, const th_grpc_tls *tls) {
  char bound[TH_PATH_MAX];
  bool is_path = !strncmp(address, "unix:", 5);
  if (is_path) TH_TRY(look_at_path(r->s, address + 5));
  mode_t mask = umask(is_path ? 0177 : 0077);
  th_status status = r->api->listen(r->g, address, is_path ? NULL : tls, bound, sizeof bound);
  umask(mask);
  if (th_status_code(status) == TH_CODE_INVALID_ARGUMENT) status = th_status_prefix(status, "--tls-dir %s", r->tls_folder);
  if (status) return status;
  if (!(r->addresses[r->n_addresses] = strdup(bound))) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for an address");
  r->n_addresses++;
  return TH_OK;
}

th_status remote_open(server *s, const char *const *listens, size_t n, const char *tls_folder) {
  th_status status = TH_OK;
  char *ca = NULL, *cert = NULL, *key = NULL;
  bool network = false;
  remote *r = NULL;
  for (size_t i = 0; i < n; i++) {
    if (!strncmp(listens[i], "unix:", 5)) continue;
    network = true;
    TH_TRY_CLEANUP(look_at_address(listens[i], tls_folder));
  }
  if (network) {
    TH_TRY_CLEANUP(read_text(tls_folder, "ca.pem", &ca));
    TH_TRY_CLEANUP(read_text(tls_folder, "cert.pem", &cert));
    TH_TRY_CLEANUP(read_text(tls_folder, "key.pem", &key));
  }
  if (!(r = calloc(1, sizeof *r))) TH_TRY_CLEANUP(TH_ERROR(RESOURCE_EXHAUSTED, "no memory"));
  r->s = s;
  r->tls_folder = tls_folder;
  r->call_limit = environment_number("THUNDER_CALL_TIMEOUT", 60);
  TH_TRY_CLEANUP(open_library(&r->api));
  th_grpc_options options = {.method = "/thunder.wire.Compiler/Call", .message_max = TH_FRAME_BYTES_MAX, .calls_max = CALLS_OF_CONNECTION, .user = r,
                             .events = {.accepted = accepted, .received = received, .sent = sent, .over = over, .stopped = stopped}};
  TH_TRY_CLEANUP(r->api->create(&options, &r->g));
  th_grpc_tls tls = {.ca = ca, .cert = cert, .key = key};
  for (size_t i = 0; i < n; i++) TH_TRY_CLEANUP(listen_on(r, listens[i], &tls));
  TH_TRY_CLEANUP(r->api->start(r->g));
  uv_poll_init(s->loop, &r->poll, r->api->fd(r->g));
  uv_timer_init(s->loop, &r->timer);
  r->poll.data = r->timer.data = r;
  uv_poll_start(&r->poll, UV_READABLE, dispatch);
  uint64_t period = r->call_limit < 4 ? (uint64_t)(r->call_limit * 250) + 1 : 1000;
  uv_timer_start(&r->timer, look_at_calls, period, period);
  s->remote = r;
  r = NULL;
cleanup:
  if (key) explicit_bzero(key, strlen(key));
  free(ca);
  free(cert);
  free(key);
  remote_free(r);
  return status;
}

void remote_stop(remote *r) { r->api->stop(r->g); }

void remote_cancel(remote *r) { r->api->cancel_all(r->g); }

void remote_free(remote *r) {
  if (!r) return;
  if (r->g) r->api->destroy(r->g);
  for (size_t i = 0; i < r->n_addresses; i++) free(r->addresses[i]);
  free(r);
}

char **remote_addresses(const remote *r, size_t *out_n) {
  *out_n = r ? r->n_addresses : 0;
  return r ? (char **)(uintptr_t)r->addresses : NULL;
}
