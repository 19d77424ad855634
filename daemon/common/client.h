/* Client: blocking calls to a daemon, for thunder-step, thunderrun, thunderctl and tests. Ranks do the same in Python.
 *
 * A client is one connection. Every wait has a deadline. Starting a daemon is exec'ing `thunderd --ensure`; this
 * process never forks for longer than the exec (posix_spawn). SIGPIPE is never raised.
 * Threads: a client belongs to one thread at a time. */
#ifndef THUNDER_DAEMON_COMMON_CLIENT_H
#define THUNDER_DAEMON_COMMON_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/common/frame.h"

typedef struct th_client th_client;

typedef struct th_client_options {
  const char *socket;     /* NULL: $THUNDER_SOCKET, else the scope's (daemon/common/scope.h) */
  bool start;             /* start a daemon where none accepts; ignored when a socket is given */
  bool any_build;         /* control tools: talk to a daemon of another build too */
  const char *kind;       /* "step", "run", "ctl", …; NULL: "client" */
  double timeout_seconds; /* for connecting and the handshake; 0: 20 s */
  const char *job;        /* put into every message with rank and epoch; NULL: "" */
  int rank;               /* -1: not a rank */
  uint32_t epoch;
} th_client_options;

/* Connects and shakes hands. UNAVAILABLE: nobody accepts (and start was not asked or failed); FAILED_PRECONDITION:
 * the daemon speaks another protocol or is another build; the text names both. */
th_status th_client_open(const th_client_options *options, th_client **out);
void th_client_close(th_client *client); /* NULL is fine */

/* What the daemon answered to Hello; borrowed, valid until close. */
const Thunder__Wire__HelloReply *th_client_hello(const th_client *client);
const char *th_client_socket(const th_client *client);
/* The connection, for poll() in a caller's loop: readable means th_client_receive will not wait long. */
int th_client_fd(const th_client *client);

/* Sends one message: `request` needs only its body, the header is filled in. Takes nothing. */
th_status th_client_send(th_client *client, Thunder__Wire__Envelope *request);
/* Receives one message; free it with th_envelope_free. An Error becomes its status, with *out NULL. UNAVAILABLE: the
 * daemon is gone; DEADLINE_EXCEEDED: nothing came in `timeout_seconds`. */
th_status th_client_receive(th_client *client, double timeout_seconds, Thunder__Wire__Envelope **out);
/* Send, then receive one answer whose body must be `want`. */
th_status th_client_call(th_client *client, Thunder__Wire__Envelope *request, Thunder__Wire__Envelope__BodyCase want,
                         double timeout_seconds, Thunder__Wire__Envelope **out);

typedef void (*th_client_progress)(void *user, const char *stage, uint32_t done, uint32_t total);

/* Look-up, and compile where unknown: the executable of `job` in one malloc'ed block, its checksum verified.
 * `progress` may be NULL; `out_origin` too. */
th_status th_client_compile(th_client *client, const uint8_t *job, size_t size, double timeout_seconds,
                            th_client_progress progress, void *user, uint8_t **out_executable, size_t *out_size,
                            Thunder__Wire__Origin *out_origin);

/* thunder-step: registers (or updates) the job on this connection; it stays registered while the connection is open.
 * When th_client_fd becomes readable with end of stream the daemon is gone: open (without start) each second, register
 * again. */
th_status th_client_register_job(th_client *client, Thunder__Wire__JobInfo *info);
th_status th_client_unregister_job(th_client *client, const char *job, uint32_t node_rank, int exit_code);

/* Runs `thunderd --ensure` and waits for it; returns the socket's path. */
th_status th_daemon_ensure(double timeout_seconds, char *out_socket, size_t size);

#endif
