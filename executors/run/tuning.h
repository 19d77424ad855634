/* Tuning: choices that were timed (an algorithm of a vendor library for one problem), for the whole process. A choice belongs to
 * where it was made (device, driver, library) and to a key that says everything the choice depends on; a choice made elsewhere is
 * never found. Text form, which is the record on disk (tuning_file.c), and what one rank could hand to others (nothing does yet):
 *   thunder tuning 2
 *   at NVIDIA H200; driver 13000; cublasLt 131000 <checksum>
 *   <key> <72 bytes in hex> <microseconds> <checksum>
 * Neither is looked at in deterministic mode (the callers' duty). Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_RUN_TUNING_H
#define THUNDER_EXECUTORS_RUN_TUNING_H

#include <stdint.h>

#include "ir/base/status.h"

enum {
  TH_TUNING_BYTES = 72,
  TH_TUNING_TEXT = 1024,   /* at most, `where` and `key` each, with their NUL */
  TH_TUNING_RECORDS = 8192 /* kept at most; one more, and the table is begun anew with it */
};

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
 * number of the line. Where both do not fit into TH_TUNING_RECORDS, what was there is dropped. */
th_status th_tuning_read(const char *text, size_t size);
/* The same the other way round: what is there stays, and where both do not fit the text is dropped. */
th_status th_tuning_merge(const char *text, size_t size);
/* Was anything kept by th_tuning_keep since th_tuning_mark(false)? */
bool th_tuning_changed(void);
void th_tuning_mark(bool changed);
/* Forgets everything. */
void th_tuning_clear(void);

/* The record on disk: <cache directory>/tuning/v2, shared by all processes of the user. Nothing that is wrong with it is an error: it is
 * said once, in a warning that names the file, and the record is made anew, or there is none.
 *
 * Reads it, once in a process: before th_tuning_find. */
void th_tuning_load(void);
/* Writes what was kept since, together with what other processes wrote meanwhile. For after a call that may have kept something: at once the
 * first time, then once in ten seconds at most; the rest is written when the process exits. Waits one second at most for another process
 * that writes. */
void th_tuning_save(void);

#endif
