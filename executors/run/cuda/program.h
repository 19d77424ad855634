/* What a program has on one device: its loaded modules, the word that kernels report faults in, and of each plan its functions, the
 * states of its library calls and its step (graph.c). Made at the first run there. Private to executors/run.
 *
 * A plan's part is used by one call at a time, under its lock: issuing work takes microseconds, and library calls keep state. */
#ifndef THUNDER_EXECUTORS_RUN_CUDA_PROGRAM_H
#define THUNDER_EXECUTORS_RUN_CUDA_PROGRAM_H

#include "executors/run/cuda/driver.h"
#include "executors/run/run.h"

enum { TH_CUDA_RING = 4, TH_CUDA_PAGEABLE = 64 << 10 /* up to here the driver has copied pageable memory when it returns */ };

typedef struct th_cuda_graph {
  CUgraphExec exec;         /* NULL: none */
  void **seen, **captured;  /* addresses of the buffers in the last step, and in the one that was captured; NULL: none */
  int64_t *seen_values, *captured_values; /* of the expressions, where they change */
  CUstream stream;          /* of ours, to capture on */
  CUevent done;             /* the end of the last step's work; the memory that it holds is free from then on */
  CUstream last;            /* the stream that it was issued on */
  bool pending;             /* `done` was recorded */
} th_cuda_graph;

typedef struct th_cuda_plan {
  pthread_mutex_t lock;
  CUfunction *functions;         /* by kernel; NULL before the first run */
  int64_t *shared;               /* by kernel: bytes of dynamic shared memory that it may use so far */
  th_library_state **states;     /* by instruction */
  struct { void *host; CUevent event; bool used; } ring[TH_CUDA_RING]; /* pinned memory for what is staged, where that is much */
  size_t ring_bytes;
  unsigned ring_next;
  th_cuda_graph graph;
} th_cuda_plan;

struct th_cuda_program {
  const th_cuda_driver *driver;
  int32_t device;
  CUcontext context;             /* primary; retained for good */
  CUmodule *modules;
  size_t n_modules, n_plans;
  unsigned *bad;                 /* pinned, mapped: kernels or TH_KERNEL_INDEX, TH_KERNEL_DIVISION into it */
  CUdeviceptr bad_address;
  th_cuda_plan *plans;
  th_program *program;
  th_cuda_program *next;
};

typedef struct th_cuda_call { /* one run of a plan */
  th_run *run;
  const th_cuda_driver *driver;
  th_cuda_program *on;
  th_cuda_plan *plan;
  CUstream stream;
  bool capturing;
  CUevent *events;               /* of a profiled call: one before all, then two for each region */
} th_cuda_call;

/* The program's part on `device`, made at the first call. Its context need not be current. */
th_status th__cuda_program_get(th_program *program, int32_t device, th_cuda_program **out);
void th__cuda_program_free(th_cuda_program *first); /* all devices; waits for them */
/* What kernels of earlier calls reported, once. */
th_status th__cuda_program_check(th_cuda_program *on);
/* Loads the kernels of a plan; its context is current. */
th_status th__cuda_plan_prepare(th_cuda_program *on, const th_plan *plan, th_cuda_plan *out);

/* execute.c. Layout of the memory that a call wants; INVALID_ARGUMENT for an input that is written and not aligned. */
th_status th__cuda_lay_out(th_run *run);
th_status th__cuda_issue(th_cuda_call *call); /* the device's instructions on call->stream; `buffers` are filled in */

/* profile.c. A region of a call that is watched: work(call, i), its range and its times around it. */
th_status th__cuda_region(th_cuda_call *call, uint32_t region, th_status (*work)(th_cuda_call *, size_t), size_t i);
th_status th__cuda_profile_start(th_cuda_call *call);
th_status th__cuda_profile_read(th_cuda_call *call); /* waits for the stream */
void th__cuda_profile_stop(th_cuda_call *call);

/* graph.c. The instructions of a step: replayed, or captured, or issued. */
th_status th__cuda_step(th_cuda_call *call);
/* Waits for the last step of the plan and forgets its graph. The context is current, the lock is held. */
th_status th__cuda_graph_release(const th_cuda_driver *driver, th_cuda_graph *graph);
void th__cuda_graph_free(const th_cuda_driver *driver, th_cuda_graph *graph);

#endif
