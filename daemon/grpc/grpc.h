/* gRPC behind a small interface: a server, its calls, their messages as bytes. One method is served, a stream of messages each
 * way; what they mean is the caller's.
 *
 * thunderd does not link gRPC, which is fifty libraries, 20 MB and nine threads. grpc.c alone includes its headers and is
 * libthunder_grpc.so, which daemon/thunderd/remote.c opens when there is a --listen, and never closes. The library knows no libuv:
 * it has a descriptor that becomes readable when there is something to tell, and `dispatch` tells it.
 *
 * Threads: every function is for one thread, the loop's, and every event is delivered on it, from within `dispatch` and nowhere
 * else. A thread of the library's own waits for gRPC and touches nothing but a list. Signals: gRPC's threads are made with
 * all of them blocked. Forking without exec is not for a process that has opened this. */
#ifndef THUNDER_DAEMON_GRPC_GRPC_H
#define THUNDER_DAEMON_GRPC_GRPC_H

#include <stdint.h>

#include "ir/base/status.h"

typedef struct th_grpc th_grpc;           /* a server */
typedef struct th_grpc_call th_grpc_call; /* one call; valid from `accepted` to `over` */

typedef struct th_grpc_events { /* `call_user` is what `accepted` returned */
  /* A call of the method. `peer` is borrowed: address, and the common name of its certificate. NULL turns the call away with RESOURCE_EXHAUSTED. */
  void *(*accepted)(void *user, th_grpc_call *call, const char *peer);
  /* The message `receive` asked for, borrowed; NULL: the peer sends no more (it may have left, which `over` tells). */
  void (*received)(void *call_user, const uint8_t *message, size_t size);
  /* The oldest message given to `send` was taken by flow control; that is not yet «has arrived». Not ok: it was not. */
  void (*sent)(void *call_user, bool ok);
  /* The call is over: ended by `finish`, cancelled by the peer or by us, past the peer's deadline, or the connection is gone. The last event of a call. */
  void (*over)(void *call_user);
  /* After `stop`: the last call is over and nothing is listened on. The last event. */
  void (*stopped)(void *user);
} th_grpc_events;

typedef struct th_grpc_options { /* copied, but for the strings, which are borrowed for the server's life */
  const char *method;           /* "/package.Service/Method"; another one is answered with UNIMPLEMENTED */
  uint32_t message_max;         /* bytes; a larger one ends its call with RESOURCE_EXHAUSTED */
  uint32_t calls_max;           /* at once on one connection; the peer holds back what is above */
  th_grpc_events events;
  void *user;
} th_grpc_options;

typedef struct th_grpc_tls { const char *ca, *cert, *key; } th_grpc_tls; /* PEM texts; ca: who signs the clients' certificates */

typedef struct th_grpc_api {
  const char *build; /* th_build_id() of the library: another one than the caller's is not for use */
  th_status (*create)(const th_grpc_options *options, th_grpc **out);
  /* Listens on "unix:/path", or on "host:port" with `tls` (client certificates are required and verified); port 0 takes a free one. Writes what is listened
   * on. UNAVAILABLE: in use, no such host; INVALID_ARGUMENT: certificates that gRPC does not take. Before `start`. */
  th_status (*listen)(th_grpc *g, const char *address, const th_grpc_tls *tls, char *out_bound, size_t size);
  th_status (*start)(th_grpc *g);
  int (*fd)(const th_grpc *g); /* readable: call dispatch; borrowed */
  void (*dispatch)(th_grpc *g);
  void (*stop)(th_grpc *g);       /* no new calls; those under way go on; `stopped` follows */
  void (*cancel_all)(th_grpc *g); /* ends what goes on: each call is `over` soon */
  void (*destroy)(th_grpc *g);    /* no further event; calls under way are cut off; NULL is fine */

  void (*receive)(th_grpc_call *call); /* asks for one message; `received` follows unless the call is over first. Not again before that */
  /* Sends `size` bytes at `message`, which lie in the malloc'ed `block`; takes the block over. Any number may wait, in order: the caller bounds them. */
  void (*send)(th_grpc_call *call, void *block, const uint8_t *message, size_t size);
  void (*finish)(th_grpc_call *call, th_code code, const char *text); /* after what was sent; only `over` follows. Again: nothing */
  void (*cancel)(th_grpc_call *call, th_code code, const char *text); /* at once, whatever the peer reads; only `over` follows */
} th_grpc_api;

typedef const th_grpc_api *(*th_grpc_api_fn)(void);
#define TH_GRPC_API "th_grpc_api_get" /* the one symbol of libthunder_grpc.so */

#endif
