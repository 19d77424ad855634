/* The `local` back end: the ranks of a group are threads of one process (tests, checks of sharded traces).
 * The last rank to come to a collective carries it out for all, in rank order, so results do not depend on timing;
 * a rank that comes with another collective than the first is told so, and so are all the others. */
#ifndef THUNDER_COLLECTIVES_LOCAL_H
#define THUNDER_COLLECTIVES_LOCAL_H

#include "collectives/channel.h"

/* A group of `size` ranks. Counted: the creator and each open channel hold it. Thread-safe. */
th_status th_local_group_create(int size, th_local_group **out_group);
void th_local_group_release(th_local_group *group); /* NULL is fine */

/* Opens rank options->local_rank of options->local_group; each rank once. Use th_channel_open("local", ...). */
th_status th__channel_local_open(const th_channel_options *options, th_channel **out_channel);

#endif
