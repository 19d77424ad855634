/* Tuning: choices that were timed (an algorithm of a vendor library for one problem), for the whole process. A choice belongs to
 * where it was made (device, driver, library) and to a key that says everything the choice depends on; a choice made elsewhere is
 * never found. Text form, so that one rank's choices can be kept and handed to others (nothing does yet):
 *   thunder tuning 2
 *   at NVIDIA H200; driver 13000; cublasLt 131000 <checksum>
 *   <key> <72 bytes in hex> <microseconds> <checksum>
 * Never looked at in deterministic mode (the callers' duty). Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_TUNING_H
#define THUNDER_EXECUTORS_RUN_TUNING_H

#include <stdint.h>

#include "ir/base/status.h"

enum { TH_TUNING_BYTES = 72, TH_TUNING_TEXT = 1024 /* at most, `where` and `key` each, with their NUL */ };

typedef struct th_tuning_choice {
  uint8_t bytes[TH_TUNING_BYTES]; /* the chooser's own; whoever uses it checks it */
  double microseconds;            /* median of what was chosen */
} th_tuning_choice;

/* False: there is none. */
bool th_tuning_find(const char *where, const char *key, th_tuning_choice *out);
/* Keeps a copy; an earlier choice is replaced. `where`: one line; `key`: no spaces. INVALID_ARGUMENT, RESOURCE_EXHAUSTED. */
th_status th_tuning_keep(const char *where, const char *key, const th_tuning_choice *choice);

/* Everything that is kept, in a fixed order; *out_text (NUL-terminated, out_size bytes before that) is the caller's to free. */
th_status th_tuning_write(char **out_text, size_t *out_size);
/* Adds what th_tuning_write wrote, over what is there; all of it or, where a line is damaged, nothing: INVALID_ARGUMENT with the
 * number of the line. */
th_status th_tuning_read(const char *text, size_t size);
/* Forgets everything. */
void th_tuning_clear(void);

#endif
