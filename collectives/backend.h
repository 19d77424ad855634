/* What channel.c gives to the back ends of this folder. */
#ifndef THUNDER_COLLECTIVES_BACKEND_H
#define THUNDER_COLLECTIVES_BACKEND_H

#include "collectives/channel.h"

/* Fills in the head of a back end's channel; INVALID_ARGUMENT for a bad THUNDER_COLLECTIVE_TIMEOUT. */
th_status th__channel_init(th_channel *channel, const th_channel_vtable *vtable, int rank, int size,
                           const th_channel_options *options);
/* "all_reduce 17 (ddp bucket 3) of group world on rank 0 of 2" */
void th__request_describe(const th_request *request, char *buffer, size_t size);
/* How a wait that began at `start_ns` stands: OK, ABORTED, CANCELLED; for waits beside a channel's requests. *asked_ns: 0 at first. */
th_status th__wait_check(th_channel *channel, int64_t start_ns, int64_t *asked_ns);
/* DEADLINE_EXCEEDED: "… not done after 2.000 s: rank 1 has not come to it …". */
th_status th__wait_late(const th_channel *channel, const char *what, int64_t timeout_ms);
/* Elements of all segments together. */
size_t th__call_count(const th_collective_call *call);

#endif
