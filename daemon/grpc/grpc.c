/* libthunder_grpc.so: daemon/grpc/grpc.h over the C core of gRPC.
 *
 * Life of a call: one `op` is out at gRPC with each batch of operations and comes back when it is done, by way of the library's
 * thread, the list and `dispatch`. A call is counted: one for each op that is out, one until it is over.
 *
 *   request_call -> OP_ACCEPT -> { RECV_CLOSE: OP_CLOSE, at the very end }
 *                                { RECV_MESSAGE: OP_RECEIVE, one at a time, when asked for }
 *                                { SEND_MESSAGE: OP_SEND, one at a time; the others wait in the call }
 *                                { SEND_STATUS: OP_FINISH, once, when nothing waits }                        */
#define _GNU_SOURCE
#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/build_id.h"
#include "daemon/grpc/grpc.h"

enum {
  HANDSHAKE_MS = 10000,                            /* for TLS and the first HTTP/2 frames of a connection */
  KEEPALIVE_MS = 30000, KEEPALIVE_WAIT_MS = 10000, /* finds a host that went away without a word */
};

typedef enum op_kind { OP_ACCEPT, OP_RECEIVE, OP_SEND, OP_FINISH, OP_CLOSE, OP_STOPPED } op_kind;
typedef struct op { op_kind kind; th_grpc_call *call; bool ok; struct op *next; } op;
typedef struct outgoing { struct outgoing *next; grpc_byte_buffer *message; } outgoing;

struct th_grpc {
  th_grpc_options o;
  grpc_server *server;
  grpc_completion_queue *queue;
  pthread_t thread;
  bool started, stopping, destroyed;
  bool asks; /* a request_call is out */
  int fd;
  pthread_mutex_t mutex;
  op *first, **last; /* done, not yet told; under the mutex */
  op stopped;
};

struct th_grpc_call {
  th_grpc *g;
  void *user;
  grpc_call *call;
  grpc_metadata_array metadata;
  grpc_call_details details;
  op accept, receive, send, finish, close;
  uint32_t refs;
  bool quiet, over;       /* quiet: only `over` is told */
  bool finishing, status; /* asked for; and given to gRPC */
  grpc_byte_buffer *in;
  outgoing *waits, **waits_end, *goes; /* `goes` is with gRPC */
  int cancelled;
  grpc_status_code code;
  grpc_slice text;
};

/* ---- gRPC's log ---- */

/* A peer could fill the daemon's log with failed handshakes: gRPC's lines are dropped unless its own variables ask for them. The first error of a `listen`
 * is kept for its status. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool log_listens;
static char log_said[400];

static void log_line(gpr_log_func_args *line) {
  if (line->severity < GPR_LOG_SEVERITY_ERROR) return;
  pthread_mutex_lock(&log_mutex);
  if (log_listens && !*log_said) snprintf(log_said, sizeof log_said, "%s", line->message);
  pthread_mutex_unlock(&log_mutex);
}

static void log_listen(bool on) {
  pthread_mutex_lock(&log_mutex);
  log_listens = on;
  if (on) *log_said = 0;
  pthread_mutex_unlock(&log_mutex);
}

/* ---- what is done at gRPC, and telling it ---- */

static void push(th_grpc *g, op *o, bool ok) {
  o->ok = ok;
  o->next = NULL;
  pthread_mutex_lock(&g->mutex);
  bool wake = !g->first;
  *g->last = o;
  g->last = &o->next;
  pthread_mutex_unlock(&g->mutex);
  if (wake) eventfd_write(g->fd, 1);
}

static void *wait_for_grpc(void *user) {
  th_grpc *g = user;
  for (;;) {
    grpc_event e = grpc_completion_queue_next(g->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (e.type == GRPC_QUEUE_SHUTDOWN) return NULL;
    if (e.type == GRPC_OP_COMPLETE) push(g, e.tag, e.success);
  }
}

static void drop_outgoing(th_grpc_call *c) {
  while (c->waits) {
    outgoing *o = c->waits;
    c->waits = o->next;
    grpc_byte_buffer_destroy(o->message);
    free(o);
  }
  c->waits_end = &c->waits;
}

static void release(th_grpc_call *c) {
  if (--c->refs) return;
  drop_outgoing(c);
  if (c->in) grpc_byte_buffer_destroy(c->in);
  if (c->call) grpc_call_unref(c->call);
  grpc_metadata_array_destroy(&c->metadata);
  grpc_call_details_destroy(&c->details);
  grpc_slice_unref(c->text);
  free(c);
}

static void batch(th_grpc_call *c, const grpc_op *ops, size_t n, op *o) {
  c->refs++;
  if (grpc_call_start_batch(c->call, ops, n, o, NULL) != GRPC_CALL_OK) push(c->g, o, false);
}

static void call_receive(th_grpc_call *c) {
  if (c->over) return;
  grpc_op o = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->in};
  batch(c, &o, 1, &c->receive);
}

/* The next message, or the end when all are gone. */
static void go_on(th_grpc_call *c) {
  grpc_op o = {0};
  if (c->over || c->goes || c->status) return;
  if (c->waits) {
    c->goes = c->waits;
    c->waits = c->goes->next;
    if (!c->waits) c->waits_end = &c->waits;
    o.op = GRPC_OP_SEND_MESSAGE;
    o.data.send_message.send_message = c->goes->message;
    batch(c, &o, 1, &c->send);
  } else if (c->finishing) {
    c->status = true;
    o.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    o.data.send_status_from_server.status = c->code;
    o.data.send_status_from_server.status_details = &c->text;
    batch(c, &o, 1, &c->finish);
  }
}

static void call_send(th_grpc_call *c, void *block, const uint8_t *message, size_t size) {
  outgoing *o = c->over || c->quiet ? NULL : calloc(1, sizeof *o);
  if (!o) {
    free(block);
    if (!c->over && !c->quiet) grpc_call_cancel_with_status(c->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory", NULL);
    return;
  }
  grpc_slice slice = grpc_slice_new_with_user_data((void *)(uintptr_t)message, size, free, block); /* no copy: gRPC frees the block */
  o->message = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  *c->waits_end = o;
  c->waits_end = &o->next;
  go_on(c);
}

static void call_finish(th_grpc_call *c, th_code code, const char *text) {
  if (c->over || c->finishing) return;
  c->quiet = c->finishing = true;
  c->code = (grpc_status_code)code;
  c->text = grpc_slice_from_copied_string(text);
  go_on(c);
}

static void call_cancel(th_grpc_call *c, th_code code, const char *text) {
  if (c->over) return;
  c->quiet = true;
  drop_outgoing(c);
  grpc_call_cancel_with_status(c->call, (grpc_status_code)code, text, NULL);
  call_finish(c, code, text); /* a server's call is over when it has sent a status, wanted or not */
}

static void request_call(th_grpc *g) {
  th_grpc_call *c = g->asks || g->stopping ? NULL : calloc(1, sizeof *c);
  if (!c) return; /* no memory: the end of a call tries again */
  c->g = g;
  c->refs = 1;
  c->accept = (op){.kind = OP_ACCEPT, .call = c};
  c->receive = (op){.kind = OP_RECEIVE, .call = c};
  c->send = (op){.kind = OP_SEND, .call = c};
  c->finish = (op){.kind = OP_FINISH, .call = c};
  c->close = (op){.kind = OP_CLOSE, .call = c};
  c->waits_end = &c->waits;
  c->text = grpc_empty_slice();
  grpc_metadata_array_init(&c->metadata);
  grpc_call_details_init(&c->details);
  if (grpc_server_request_call(g->server, &c->call, &c->details, &c->metadata, g->queue, g->queue, &c->accept) != GRPC_CALL_OK) release(c);
  else g->asks = true;
}

static void *tell_accepted(th_grpc_call *c) {
  char text[300], *peer = grpc_call_get_peer(c->call);
  grpc_auth_context *auth = grpc_call_auth_context(c->call);
  grpc_auth_property_iterator names = grpc_auth_context_find_properties_by_name(auth, GRPC_X509_CN_PROPERTY_NAME);
  const grpc_auth_property *name = auth ? grpc_auth_property_iterator_next(&names) : NULL;
  snprintf(text, sizeof text, "%s%s%.*s", peer, name ? ", " : "", name ? (int)name->value_length : 0, name ? name->value : "");
  void *user = c->g->o.events.accepted(c->g->o.user, c, text);
  grpc_auth_context_release(auth);
  gpr_free(peer);
  return user;
}

static void accepted(th_grpc_call *c) {
  th_grpc *g = c->g;
  char text[300];
  request_call(g);
  grpc_op ops[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &c->cancelled}};
  c->refs++; /* until it is over */
  batch(c, ops, 2, &c->close);
  if (grpc_slice_str_cmp(c->details.method, g->o.method)) {
    snprintf(text, sizeof text, "this server has the method %s alone, not %.*s", g->o.method, (int)(GRPC_SLICE_LENGTH(c->details.method) < 150 ? GRPC_SLICE_LENGTH(c->details.method) : 150),
             (const char *)GRPC_SLICE_START_PTR(c->details.method));
    call_finish(c, TH_CODE_UNIMPLEMENTED, text);
  } else if (g->stopping) {
    call_finish(c, TH_CODE_UNAVAILABLE, "this server is ending");
  } else if (!(c->user = tell_accepted(c))) {
    call_finish(c, TH_CODE_RESOURCE_EXHAUSTED, "this server has as many calls as it takes");
  }
}

static void received(th_grpc_call *c) {
  grpc_byte_buffer *in = c->in;
  grpc_byte_buffer_reader reader;
  c->in = NULL;
  if (c->quiet || c->over) {
  } else if (!in) {
    c->g->o.events.received(c->user, NULL, 0);
  } else if (in->data.raw.compression != GRPC_COMPRESS_NONE || !grpc_byte_buffer_reader_init(&reader, in)) {
    call_cancel(c, TH_CODE_UNIMPLEMENTED, "compressed messages are not taken");
  } else {
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    c->g->o.events.received(c->user, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all));
    grpc_slice_unref(all);
  }
  if (in) grpc_byte_buffer_destroy(in);
}

static void tell(th_grpc *g, op *o) {
  th_grpc_call *c = o->call;
  switch (o->kind) {
    case OP_ACCEPT:
      g->asks = false;
      if (o->ok && !g->destroyed) accepted(c);
      break; /* else the server was stopped while this one waited for a call */
    case OP_RECEIVE: received(c); break;
    case OP_SEND:
      grpc_byte_buffer_destroy(c->goes->message);
      free(c->goes);
      c->goes = NULL;
      if (!c->quiet && !c->over) g->o.events.sent(c->user, o->ok);
      go_on(c);
      break;
    case OP_FINISH: break;
    case OP_CLOSE:
      c->over = true;
      drop_outgoing(c);
      if (c->user && !g->destroyed) g->o.events.over(c->user);
      if (!g->destroyed) request_call(g);
      c->refs--; /* that of a call not over; this op's own goes below */
      break;
    case OP_STOPPED:
      if (!g->destroyed) g->o.events.stopped(g->o.user);
      return;
  }
  release(c);
}

static op *take_all(th_grpc *g) {
  eventfd_t unused;
  eventfd_read(g->fd, &unused);
  pthread_mutex_lock(&g->mutex);
  op *list = g->first;
  g->first = NULL;
  g->last = &g->first;
  pthread_mutex_unlock(&g->mutex);
  return list;
}

static void server_dispatch(th_grpc *g) {
  for (op *o = take_all(g), *next; o; o = next) {
    next = o->next; /* telling may put the same op out again */
    tell(g, o);
  }
}

static int server_fd(const th_grpc *g) { return g->fd; }

/* ---- the server ---- */

static void block_signals(sigset_t *old) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, old);
}

static void server_stop(th_grpc *g) {
  if (g->stopping) return;
  g->stopping = true;
  grpc_server_shutdown_and_notify(g->server, g->queue, &g->stopped);
}

static void server_cancel_all(th_grpc *g) { grpc_server_cancel_all_calls(g->server); }

static void server_destroy(th_grpc *g) {
  if (!g) return;
  g->destroyed = true;
  if (!g->started && g->server) { /* gRPC wants a shutdown before destroy even so */
    grpc_server_shutdown_and_notify(g->server, g->queue, &g->stopped);
    grpc_completion_queue_next(g->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
  }
  if (g->started && !g->stopping) {
    server_stop(g);
    server_cancel_all(g);
  }
  if (g->queue) grpc_completion_queue_shutdown(g->queue);
  if (g->started) pthread_join(g->thread, NULL);
  server_dispatch(g);
  if (g->server) grpc_server_destroy(g->server);
  if (g->queue) grpc_completion_queue_destroy(g->queue);
  if (g->fd >= 0) close(g->fd);
  pthread_mutex_destroy(&g->mutex);
  free(g);
  grpc_shutdown();
}

static th_status server_create(const th_grpc_options *options, th_grpc **out) {
  th_status status = TH_OK;
  sigset_t old;
  *out = NULL;
  th_grpc *g = calloc(1, sizeof *g);
  if (!g) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a gRPC server");
  g->o = *options;
  g->fd = -1;
  g->last = &g->first;
  g->stopped.kind = OP_STOPPED;
  pthread_mutex_init(&g->mutex, NULL);
  setenv("GRPC_ENABLE_FORK_SUPPORT", "0", 1); /* the daemon only ever execs */
  if (!getenv("GRPC_VERBOSITY") && !getenv("GRPC_TRACE")) gpr_set_log_function(log_line);
  block_signals(&old);
  grpc_init();
  grpc_arg args[] = {
#define NUMBER(name, n) {.type = GRPC_ARG_INTEGER, .key = (char *)(name), .value.integer = (int)(n)}
      NUMBER(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, options->message_max),
      NUMBER(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, options->message_max),
      NUMBER(GRPC_ARG_MAX_CONCURRENT_STREAMS, options->calls_max),
      NUMBER(GRPC_ARG_ALLOW_REUSEPORT, 0), /* or a second server would bind the same port, and each get some of the calls */
      NUMBER(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS),
      NUMBER(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
      NUMBER(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_WAIT_MS),
      NUMBER(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0), /* its result has no limit of size */
      NUMBER(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
#undef NUMBER
  };
  grpc_channel_args channel = {.num_args = sizeof args / sizeof *args, .args = args};
  g->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  g->queue = grpc_completion_queue_create_for_next(NULL);
  g->server = grpc_server_create(&channel, NULL);
  if (g->fd < 0 || !g->queue || !g->server) status = TH_ERROR(RESOURCE_EXHAUSTED, "no gRPC server could be made: %s", strerror(errno));
  else grpc_server_register_completion_queue(g->server, g->queue, NULL);
  if (status) server_destroy(g);
  else *out = g;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return status;
}

/* gRPC says 0 for any failure, so what it is for a network address is found out by trying. OK: nothing is wrong with the address. */
static th_status look_why(const char *address) {
  char host[256], *port;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
  snprintf(host, sizeof host, "%s", address);
  if (!(port = strrchr(host, ':'))) return TH_OK;
  *port++ = 0;
  size_t n = strlen(host);
  bool brackets = *host == '[' && n > 1 && host[n - 1] == ']';
  if (brackets) host[n - 1] = 0;
  int error = getaddrinfo(host + brackets, port, &hints, &found);
  if (error) return TH_ERROR(UNAVAILABLE, "cannot listen on %s: %s", address, gai_strerror(error));
  th_status status = TH_OK;
  int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol), one = 1;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 1)) status = TH_ERROR(UNAVAILABLE, "cannot listen on %s: %s", address, strerror(errno));
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return status;
}

static th_status server_listen(th_grpc *g, const char *address, const th_grpc_tls *tls, char *out_bound, size_t size) {
  sigset_t old;
  grpc_server_credentials *how;
  block_signals(&old);
  log_listen(true);
  if (tls) {
    grpc_ssl_pem_key_cert_pair pair = {.private_key = tls->key, .cert_chain = tls->cert};
    how = grpc_ssl_server_credentials_create_ex(tls->ca, &pair, 1, GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, NULL);
  } else {
    how = grpc_insecure_server_credentials_create();
  }
  int port = grpc_server_add_http2_port(g->server, address, how);
  grpc_server_credentials_release(how);
  log_listen(false);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (!port) {
    if (tls) TH_TRY(look_why(address));
    if (tls) return TH_ERROR(INVALID_ARGUMENT, "cannot listen on %s: gRPC does not take the certificates (do cert.pem and key.pem belong together?): %s", address, log_said);
    return TH_ERROR(UNAVAILABLE, "cannot listen on %s: %s", address, log_said);
  }
  const char *colon = strrchr(address, ':');
  if (tls) snprintf(out_bound, size, "%.*s:%d", (int)(colon - address), address, port);
  else snprintf(out_bound, size, "%s", address);
  return TH_OK;
}

static th_status server_start(th_grpc *g) {
  sigset_t old;
  block_signals(&old);
  grpc_server_start(g->server);
  int error = pthread_create(&g->thread, NULL, wait_for_grpc, g);
  g->started = !error;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error) return TH_ERROR(RESOURCE_EXHAUSTED, "no thread for gRPC: %s", strerror(error));
  request_call(g);
  return TH_OK;
}

static const th_grpc_api api = {
    .build = THUNDER_BUILD_ID,
    .create = server_create, .listen = server_listen, .start = server_start, .fd = server_fd, .dispatch = server_dispatch,
    .stop = server_stop, .cancel_all = server_cancel_all, .destroy = server_destroy,
    .receive = call_receive, .send = call_send, .finish = call_finish, .cancel = call_cancel,
};

const th_grpc_api *th_grpc_api_get(void);
__attribute__((visibility("default"))) const th_grpc_api *th_grpc_api_get(void) { return &api; }
