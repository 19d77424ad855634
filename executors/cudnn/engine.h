/* Inside of plan.h: what a kind of computation tells of itself (attention.c, conv.c), and cuDNN's plans of any operation graph: chosen among what its
 * heuristics offer, for a handle or for a device in words; written down and read again; run. Thread-compatible. */
#ifndef THUNDER_EXECUTORS_CUDNN_ENGINE_H
#define THUNDER_EXECUTORS_CUDNN_ENGINE_H

#include "executors/cudnn/cudnn_abi.h"
#include "executors/cudnn/plan.h"

typedef struct th__cudnn_made {
  th__cudnn_pool pool; /* owns `plan` and what it was made of */
  cudnnBackendDescriptor_t plan;
  int64_t workspace; /* bytes */
} th__cudnn_made;

/* What may be chosen. */
typedef struct th__cudnn_rules {
  int64_t workspace; /* bytes at most; negative: any */
  uint32_t refused;  /* bit n: no engine with CUDNN_NUMERICAL_NOTE n */
} th__cudnn_rules;

/* The finished operation graph of `what`, or NULL and pool->status. Its descriptors are the pool's. `handle` may be NULL. */
typedef cudnnBackendDescriptor_t (*th__cudnn_graph_fn)(th__cudnn_pool *pool, const void *what, cudnnHandle_t handle);

/* The first plan that cuDNN's heuristics (mode A, then fallback) and `rules` agree on. Exactly one of `handle` and `device_json` is given. UNIMPLEMENTED: none. */
th_status th__cudnn_choose(th__cudnn_made *made, th__cudnn_graph_fn graph, const void *what, const th__cudnn_rules *rules, cudnnHandle_t handle, const char *device_json);
/* The same from the JSON of one. */
th_status th__cudnn_load(th__cudnn_made *made, const char *json, size_t size, cudnnHandle_t handle, const char *device_json);

/* Bytes of a plan, all numbers little-endian:
 *   magic (8 bytes)   u32 format   u32 cuDNN's version   i64 workspace   u64 bytes of JSON   i64 numbers[n]   JSON */
typedef struct th__cudnn_format { char magic[9]; uint32_t number; size_t n_numbers; } th__cudnn_format;
size_t th__cudnn_header_bytes(const th__cudnn_format *format);
/* *out_bytes is malloc'ed; the JSON stands behind the header. */
th_status th__cudnn_write(const th__cudnn_made *made, const th__cudnn_format *format, const int64_t *numbers, uint8_t **out_bytes, size_t *out_size);
/* The header; INVALID_ARGUMENT where they are not such bytes. */
th_status th__cudnn_read(const uint8_t *bytes, size_t size, const th__cudnn_format *format, int64_t *out_numbers, uint32_t *out_version, int64_t *out_workspace);
/* Sets the bytes of a plan's JSON that cuDNN leaves to chance to 0, in place. `dims`: extents of the plain tensors in it, or NULL. */
void th__cudnn_scrub(char *json, size_t size, const int64_t *dims);
/* FAILED_PRECONDITION naming both where `version` is not this process's. Opens cuDNN. */
th_status th__cudnn_same_version(uint32_t version);

/* The pointers of a plan's last run and their variant pack: a step's buffers rarely move. */
enum { TH__CUDNN_POINTERS = 16 };
typedef struct th__cudnn_pack {
  th__cudnn_pool pool;
  cudnnBackendDescriptor_t pack;
  void *data[TH__CUDNN_POINTERS], *scratch;
} th__cudnn_pack;

/* Runs on `stream` with data[i] for the tensor of unique id ids[i] (the same ids each time). */
th_status th__cudnn_run(th_cudnn_handle *handle, const th__cudnn_made *made, th__cudnn_pack *pack, const int64_t *ids, void *const *data, int64_t n, void *scratch, void *stream);

cudnnHandle_t th__cudnn_handle(const th_cudnn_handle *handle); /* NULL of NULL */

/* ---- kinds ---- */

enum { TH__CUDNN_WHAT = 512, TH__CUDNN_NUMBERS = 64 }; /* bytes of a description, numbers of a header, at most */

struct th_cudnn_kind {
  th__cudnn_format format;
  size_t bytes;                                       /* of a description */
  void (*put)(const void *what, int64_t *numbers);    /* all of a normalized description: what is equal has equal numbers */
  void (*get)(const int64_t *numbers, void *what);
  void (*normalize)(void *what);                      /* NULL: they are made so */
  size_t (*text)(const void *what, char *buffer, size_t size);
  th_status (*check)(const void *what, uint32_t version);
  th__cudnn_rules (*rules)(const void *what);
  th__cudnn_graph_fn graph;
  size_t (*scratch)(const void *what, int64_t workspace);
  void (*plain)(const void *what, int64_t out_dims[4]); /* extents of the plain tensors in a plan's bytes (scrub.c); NULL: there are none */
};

struct th_cudnn_plan {
  const th_cudnn_kind *kind;
  th__cudnn_made made;
  th__cudnn_pack pack;
  float numbers[3]; /* of the host, where the pack points to them */
  union { max_align_t align; unsigned char bytes[TH__CUDNN_WHAT]; } what; /* of the kind */
};

#endif
