/* Progress page: what a rank says about itself while it runs, in shared memory.
 *
 * thunder-step makes one page a rank, fills in who it is and names its file in THUNDER_PROGRESS; the rank's runtime
 * maps it and writes counters with plain atomic stores (no system call, no message). thunder-step reads them to
 * see stalls and to compare the sequences of collectives of its ranks; in the other direction it asks the rank to
 * stop. Nothing here is needed for the job to run: without THUNDER_PROGRESS th_progress_attach gives a private page.
 *
 * A rank may be wrapped (bash -c, numactl), and what it starts inherits THUNDER_PROGRESS: the page belongs to the first
 * process that attaches it with the page's RANK and WORLD_SIZE, every other one gets a private page. A rank attaches when
 * it opens its channel or has done a training step, not when it compiles: helpers compile too. One that trained alone and
 * has ended gives the page back. A child that a rank forks has a private page in the place of the rank's.
 *
 * The page is one layout for both sides: version it (TH_PROGRESS_VERSION) when a field changes.
 * Threads: the counters are atomic; posting collectives belongs to one thread at a time. */
#ifndef THUNDER_IR_BASE_PROGRESS_H
#define THUNDER_IR_BASE_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/base/status.h"

#define TH_PROGRESS_MAGIC 0x54485047u /* "THPG" */
#define TH_PROGRESS_VERSION 2u
#define TH_PROGRESS_RING 1024 /* collectives remembered: the root of broadcasts may be that far ahead of the others */
#define TH_PROGRESS_KIND_EXIT 255 /* posted in place of a collective: this rank leaves */

/* One posted collective. `sequence` is index + 1 once the entry is complete, written last; 0: never used. */
typedef struct th_progress_collective {
  _Atomic uint64_t sequence;
  uint64_t fingerprint; /* of the sequence up to and with this one */
  uint64_t count;       /* elements, all segments together */
  uint8_t kind;         /* th_collective_kind */
  uint8_t dtype;        /* th_dtype */
  uint8_t reduce;       /* th_reduce */
  uint8_t reserved;
  uint32_t op; /* number of the plan's op; 0: none */
} th_progress_collective;

typedef enum th_progress_channel {
  TH_PROGRESS_CHANNEL_none,
  TH_PROGRESS_CHANNEL_opening, /* waits for all ranks to open it */
  TH_PROGRESS_CHANNEL_open,
} th_progress_channel;

typedef struct th_progress {
  /* who; written by thunder-step before the rank starts */
  uint32_t magic, version;
  uint32_t rank, local_rank, world_size, restart_epoch;
  char job[64];
  char host[64];
  _Atomic int32_t pid;      /* of the process that has attached the page; 0: none yet */
  _Atomic uint32_t channel; /* th_progress_channel; by the rank */
  /* written by the rank */
  _Atomic uint64_t counter;          /* grows whenever the rank gets somewhere: steps, compiles, collectives */
  _Atomic uint64_t step;             /* training steps done */
  _Atomic uint64_t collective_index; /* collectives started */
  _Atomic uint64_t collective_done;  /* collectives completed */
  _Atomic uint64_t updated_ns;       /* CLOCK_MONOTONIC of the last change */
  _Atomic uint64_t bytes_sent;
  th_progress_collective ring[TH_PROGRESS_RING]; /* entry of collective i is ring[i % TH_PROGRESS_RING] */
  /* written by thunder-step */
  _Atomic uint32_t abort; /* not 0: stop waiting for peers; abort_text says why and was written before */
  char abort_text[508];
  _Atomic uint64_t peers_ns; /* CLOCK_MONOTONIC when peers_text was written; 0: none, or it is being written */
  char peers_text[504];      /* which ranks have not come to the collective this rank waits in */
} th_progress;

/* Maps the page named by THUNDER_PROGRESS and makes it this process's; a private page without that variable, when the file
 * is not a page of this version (one warning), or when the page is another's. Never NULL unless memory is gone. The same
 * page for the whole process. Any thread. */
th_progress *th_progress_attach(void);
/* The page if it has been attached, else NULL. */
th_progress *th_progress_attached(void);

/* Adds one to the counter and notes the time. */
void th_progress_tick(th_progress *progress);
/* A training step is done. */
void th_progress_step(th_progress *progress);
/* Posts collective `index` before it starts. */
void th_progress_post(th_progress *progress, uint64_t index, uint64_t fingerprint, unsigned kind, unsigned dtype,
                      unsigned reduce, uint64_t count, uint32_t op);

/* What thunder-step says of the ranks that have not come; false when it has said nothing in the last two seconds. */
bool th_progress_peers(const th_progress *progress, char *out, size_t size);

/* --- for readers: thunder-step, thunderctl */

/* Copies collective `index`; false when it is not posted yet or is forgotten already. */
bool th_progress_entry(const th_progress *progress, uint64_t index, th_progress_collective *out);
/* Copies the page in a file of this user into *out. NOT_FOUND, INVALID_ARGUMENT (no page), FAILED_PRECONDITION (another
 * version). Reads and does not map: a file that is cut short meanwhile is an error, not a SIGBUS. */
th_status th_progress_read(const char *path, th_progress *out);

/* --- for thunder-step */

/* Creates the page's file (mode 0600; it must not exist) and maps it; the caller fills in who. */
th_status th_progress_create(const char *path, th_progress **out_progress);
/* Maps an existing page for reading and for the abort fields. */
th_status th_progress_open(const char *path, th_progress **out_progress);
void th_progress_unmap(th_progress *progress); /* NULL is fine */
/* Asks the rank to stop waiting; the first reason stays. */
void th_progress_abort(th_progress *progress, const char *reason);
/* Says which ranks have not come. */
void th_progress_peers_set(th_progress *progress, const char *text);

#endif
