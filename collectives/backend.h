/* What channel.c gives to the back ends of this folder. */
#ifndef THUNDER_COLLECTIVES_BACKEND_H
#define THUNDER_COLLECTIVES_BACKEND_H

#include "collectives/channel.h"

/* Fills in the head of a back end's channel; INVALID_ARGUMENT for a bad THUNDER_COLLECTIVE_TIMEOUT. */
th_status th__channel_init(th_channel *channel, const th_channel_vtable *vtable, int rank, int size,
                           const th_channel_options *options);
/* "all_reduce 17 (ddp bucket 3) of group world on rank 0 of 2" */
void th__request_describe(const th_request *request, char *buffer, size_t size);
/* Elements of all segments together. */
size_t th__call_count(const th_collective_call *call);

#endif
