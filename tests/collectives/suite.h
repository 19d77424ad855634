/* One suite for all channel back ends. A back end gives a way to open a channel, says what it is able to, and calls
 * suite_run in each of its ranks (threads or processes); the cases know nothing else of it. Every rank computes what all
 * ranks should have, from a rule that gives each rank's data. */
#ifndef THUNDER_TESTS_COLLECTIVES_SUITE_H
#define THUNDER_TESTS_COLLECTIVES_SUITE_H

#include "collectives/channel.h"

typedef struct suite_rank suite_rank;

typedef struct suite_backend {
  const char *name;
  bool names_mismatch; /* ranks that start different collectives are told so (else: the deadline) */
  bool ends_together;  /* a rank that gives up or aborts ends the waits of all */
  bool outlives_loss;  /* another channel can be opened in this process after one was lost */
  /* Opens the next channel of this rank; all ranks open the same ones in the same order. Fills in what is the back end's own. */
  th_status (*open)(suite_rank *rank, th_channel_options *options, th_channel **out_channel);
  /* All ranks have come, by another way than a channel; NULL where there is none. */
  void (*meet)(suite_rank *rank);
} suite_backend;

struct suite_rank {
  const suite_backend *backend;
  int rank, size;
  int opened;
  void *user;
  bool lost; /* a channel was lost: leave by _exit */
};

/* Runs the case called `only`, or (NULL) all that this back end can run in one process. Ends the program with 1 where one
 * fails. Returns how many ran. */
int suite_run(suite_rank *rank, const char *only);

#endif
