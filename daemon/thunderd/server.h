/* The daemon: connections on a unix socket, compiles in worker processes, jobs, all on one libuv loop.
 * connections.c reads and answers requests; compiles.c owns workers; main.c starts, ensures and ends. */
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

typedef struct server {
  uv_loop_t *loop;
  th_scope scope;
  th_cache *cache;
  uv_pipe_t listener;
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

struct connection {
  connection *next;
  server *s;
  uv_pipe_t pipe;
  th_frames frames;
  bool greeted, same_build, closing, ends; /* ends: close once all is written */
  uint32_t writes;
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
void connection_accept(uv_stream_t *listener, int status);
void connection_close(connection *c);
void answer_error(connection *c, th_code code, const char *message, int32_t op, int32_t graph, const char *detail);
void answer_bytes(connection *c, const uint8_t *bytes, size_t size, const uint8_t *sha256, Thunder__Wire__Origin origin, double seconds);
void answer_progress(connection *c, const char *stage, uint32_t done, uint32_t total);

/* compiles.c */
/* Takes over the buffers. The connection waits for the answer. */
void compile_start(connection *c, bool dump, const uint8_t *digest, uint8_t *job, size_t size, uint8_t *names, size_t names_size, char *pass, bool no_cache);
bool compile_join(connection *c, const uint8_t *digest);
void compile_leave(connection *c); /* the connection no longer waits; the last one that leaves ends the worker */
void workers_end(server *s);
uint32_t workers_alive(const server *s);
uint32_t compiles_counted(const server *s, bool running);

/* main.c */
void server_stop(server *s);

#endif
