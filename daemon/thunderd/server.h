/* The daemon: connections, compiles in worker processes, jobs, all on one libuv loop.
 * connections.c reads and answers requests; pipe.c is the unix socket they come over, remote.c are calls over gRPC; compiles.c
 * owns workers; main.c starts, ensures and ends. */
#ifndef THUNDER_DAEMON_THUNDERD_SERVER_H
#define THUNDER_DAEMON_THUNDERD_SERVER_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/common/frame.h"
#include "daemon/common/scope.h"
#include "daemon/thunderd/cache.h"

typedef struct connection connection;
typedef struct compile compile;
typedef struct worker worker;
typedef struct remote remote;
enum { LISTENS_MAX = 8 };

typedef struct server {
  uv_loop_t *loop;
  th_scope scope;
  th_cache *cache;
  uv_pipe_t listener;
  remote *remote; /* NULL without --listen */
  uv_timer_t idle;
  double idle_limit, compile_limit;
  uint64_t request_max, started_ns, quiet_since_ns;
  uint32_t epoch;
  bool stopping;
  connection *connections;
  compile *compiles; /* waiting and running, oldest first */
  worker *workers;
  uint32_t workers_max;
  uint64_t n_compiles, n_failed, n_cancelled, n_timeouts, n_crashes, n_requests, n_refused;
  uint32_t failed_starts;
  double compile_seconds;
} server;

/* How the messages of a connection travel. A transport allocates its connections (`connection` is its struct's first member), hands in what
 * comes by connection_received, and gives the storage up after `close`. */
typedef struct transport {
  bool is_remote; /* may compile and look, not register jobs, clear the cache or stop the daemon */
  void (*send)(connection *c, uint8_t *frame, size_t size); /* takes over `frame` (th_frame_pack); connection_sent follows, maybe at once */
  void (*read)(connection *c, bool on);                     /* whether further messages are wanted; at first they are */
  void (*close)(connection *c);                             /* called once (end_code, end_text say why); connection_deinit follows later, never from within */
} transport;

struct connection {
  connection *next;
  server *s;
  const transport *how;
  bool greeted, same_build, closing, ends; /* ends: close once all is sent */
  bool paused;                             /* the peer does not read what it is answered */
  bool half_closed;                        /* the peer sends no more, but reads */
  th_code end_code;                        /* for a transport that can say it */
  char end_text[256];
  uint32_t pending;                        /* messages given to the transport and not yet sent */
  struct { th_blob *blob; size_t at; bool is_executable; uint8_t sha256[32]; Thunder__Wire__Origin origin; double seconds; } answer; /* under way */
  char *job, *kind;
  int32_t rank;
  uint32_t epoch, pid;
  /* a request whose bytes are still coming */
  Thunder__Wire__Envelope__BodyCase collecting;
  uint8_t digest[32];
  bool no_cache;
  uint64_t names_size;
  th_gather gather, names;
  char *pass;
  compile *waiting; /* for this compile */
  connection *next_waiter;
  Thunder__Wire__Envelope *registered; /* RegisterJob */
};

struct compile {
  compile *next;
  bool dump, no_cache;
  uint8_t digest[32];
  uint8_t *job, *names;
  size_t size, names_size;
  char *pass;
  connection *waiters; /* the first is who asked */
  worker *runs_in;
  uint64_t started_ns;
};

/* connections.c */
void connection_init(connection *c, server *s, const transport *how);
void connection_deinit(connection *c);
void connection_received(connection *c, const uint8_t *bytes, size_t size); /* one message */
void connection_unreadable(connection *c, th_status why);                   /* takes the status; the connection ends with it */
void connection_sent(connection *c, bool ok);                               /* one of `pending`; not ok: the peer is gone */
void connection_half_closed(connection *c);                                 /* the peer sends no more: the connection ends with its answers */
void connection_close(connection *c);                                       /* at once */
void connection_end(connection *c, th_code code, const char *text);         /* when what is pending is sent */
void answer_error(connection *c, th_code code, const char *message, int32_t op, int32_t graph, const char *detail);
/* Holds the blob until the peer has taken it, chunk by chunk. */
void answer_bytes(connection *c, th_blob *blob, const uint8_t *sha256, Thunder__Wire__Origin origin, double seconds);
void answer_progress(connection *c, const char *stage, uint32_t done, uint32_t total);

/* pipe.c */
void pipe_accept(uv_stream_t *listener, int status);

/* remote.c */
/* Listens on "HOST:PORT" and "unix:/PATH". The first error ends it: a bad address, no library, no certificates, a port in use. Sets s->remote. */
th_status remote_open(server *s, const char *const *listens, size_t n, const char *tls_folder);
void remote_stop(remote *r);   /* no new calls; the loop's handles are closed when the last call is over */
void remote_cancel(remote *r); /* after stop: ends them */
void remote_free(remote *r);   /* after the loop has ended; NULL is fine */
char **remote_addresses(const remote *r, size_t *out_n); /* borrowed; r may be NULL */

/* compiles.c */
/* Takes over the buffers. The connection waits for the answer. */
void compile_start(connection *c, bool dump, const uint8_t *digest, uint8_t *job, size_t size, uint8_t *names, size_t names_size, char *pass, bool no_cache);
bool compile_join(connection *c, const uint8_t *digest);
void compile_leave(connection *c); /* the connection no longer waits; the last one that leaves ends the worker */
void workers_end(server *s);
uint32_t workers_alive(const server *s);
uint32_t compiles_counted(const server *s, bool running);

/* main.c */
double environment_number(const char *variable, double fallback); /* a positive number of the environment */
void server_stop(server *s);

#endif
