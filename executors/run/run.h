/* One call, and what its parts share: execute.c begins and ends it, host.c or cuda/execute.c executes it, scalar.c runs its scalar
 * programs. Private to executors/run. */
#ifndef THUNDER_EXECUTORS_RUN_RUN_H
#define THUNDER_EXECUTORS_RUN_RUN_H

#include "executors/run/nvtx.h"
#include "executors/run/profile.h"
#include "executors/run/program.h"

/* Of a call of a plan for a device: where things lie in the memory that the caller gives (th_run_set_arena). Offsets in bytes, multiples
 * of 256 from its aligned start; -1: there is none. */
typedef struct th_run_layout {
  int64_t mirror, total;  /* of what is staged, constants included; of all */
  int64_t staged_total;   /* bytes that are staged, with constants */
  int64_t *constants;     /* by constant: offset in what is staged */
  int64_t *copies;        /* by input: a copy that the device reads in its place */
  int64_t *copy_bytes;
  int64_t *escaping;      /* by escaping buffer: a buffer that stays the same from step to step */
} th_run_layout;

struct th_run {
  th_plan *plan;
  const int64_t *values;  /* of expressions */
  int64_t *own_values;    /* this call's, when they change */
  void **buffers;         /* by buffer */
  void **tensors;         /* by tensor: first element */
  th_request **requests;  /* by instruction */
  void *arena;
  size_t arena_bytes;
  char *staged;           /* in host memory */
  bool lost;              /* a collective failed: its library may still use the arena */
  th_kernel_context context;
  th_region_times *profile; /* by region, then of the whole call; NULL: it is not profiled */
  const th_nvtx *nvtx;      /* ranges are pushed; NULL: not */
  /* Plans for a device. */
  int32_t device;
  void *stream;
  bool step;
  char *device_memory;    /* aligned to 256 bytes */
  void **outputs;         /* by escaping buffer: the caller's */
  th_run_layout layout;
  void *inputs[];         /* data of the inputs */
};

/* Integers that are symbols are in host memory, and what is flagged so. */
static inline bool th__input_on_host(const Thunder__Wire__Plan *p, uint32_t input) { return (p->input_flags[input] & TH_INPUT_FLAG_HOST) || p->input_kind[input] == 7; }
static inline void *th__run_address(const th_run *run, uint32_t tensor) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  return (char *)run->buffers[p->tensor_buffer[tensor]] + run->values[p->tensor_offset[tensor]];
}
void th__run_view(const th_run *run, uint32_t tensor, th_view *out); /* data: NULL before the addresses are filled in */
void th__run_fill_tensors(th_run *run);                             /* `tensors` from `buffers` */
/* The element that fill instruction `i` writes, in the first bytes of *out. */
th_status th__run_fill_value(const th_run *run, size_t i, th_dtype dtype, uint64_t *out);
/* The views (16), ints (TH_RUN_INTS) and numbers of library instruction `i`; *out points into them. What a device adds is zero. */
enum { TH_RUN_VIEWS = 16, TH_RUN_INTS = 1024 };
th_status th__run_library_args(const th_run *run, size_t i, th_view *views, int64_t *ints, th_library_args *out);
int64_t th__view_extent(const th_view *view); /* bytes from its first element to the end of its last */

/* Is anything done around each region? Asked once a call: what executes has a loop for either case. */
static inline bool th__run_watched(const th_run *run) { return run->profile || run->nvtx; }
void th__region_begin(th_run *run, uint32_t region); /* pushes its range, then reads the clock */
void th__region_end(th_run *run, uint32_t region);
int64_t th__now_ns(void); /* CLOCK_MONOTONIC */

th_status th__host_execute(th_run *run);
th_status th__cuda_execute(th_run *run);

/* Scalar programs: decoded at load (*out is to be freed also when that fails), run with `buffers` holding host addresses. */
th_status th__scalars_decode(const Thunder__Wire__Plan *p, size_t i, th_scalars **out);
void th__scalars_free(th_scalars *s);
th_status th__scalars_run(const th_run *run, size_t i);

#endif
