/* Where a call spends its time: by region, which is an instruction of its plan (a kernel's launch, a library call, a collective, a copy), and
 * in a plan for CUDA two more, numbered behind the instructions: what is copied to the device's memory before them and out of it after them.
 *
 * A call that is profiled gives the same bits and the same errors as one that is not. Each region is timed by the host's monotonic clock
 * (CLOCK_MONOTONIC): on the host that is its time, on a device the time to issue it. On a device it also lies between two events of the stream:
 * the call then goes launch by launch, also where a step would be a CUDA graph, and waits once, at its end. What the events see is a region's
 * work alone where the host is ahead of the device; a kernel shorter than its launch (some microseconds) is seen as long as its launch. So that
 * the host gets ahead, the arena is set to zero first, which takes milliseconds where there is much to do.
 *
 * Bytes, of the plan's shapes: each operand read once, each result written once. A dimension that is only repeated (stride 0) counts
 * once; a table that is indexed counts whole. Where an op is two kernels (parts of a sum, then the sum of the parts) the first has all of it, and the
 * second 0; so has a collective's start, and its wait 0.
 *
 * Floating-point operations, a product and a sum being two, of contractions alone; 0 for everything else:
 *   dot, cublaslt.matmul               2 * elements of the product * product of the contracted dimensions
 *   conv, conv_grad_x, conv_grad_w     2 * elements of y * C / groups * elements of a filter; y: the result, or in the gradients the operand grad
 *   attention, cudnn.attention         2 * pairs * (size of q + size of v); pairs: batch * heads * length * keys, and with `causal` only those
 *                                      with key <= position
 *   …attention_backward                2 * pairs * (3 * size of q + 2 * size of v): five products, the scores computed again
 *
 * Ranges of NVTX, named as th_plan_set_labels says, are pushed around each region and around the call when it is profiled or THUNDER_NVTX is
 * set, where a tool listens (nvtx.h). A replayed CUDA graph has the call's alone.
 *
 * Threads: as thunder.h. A call that is not profiled pays one comparison. */
#ifndef THUNDER_EXECUTORS_RUN_PROFILE_H
#define THUNDER_EXECUTORS_RUN_PROFILE_H

#include "executors/run/thunder.h"

typedef struct th_region {
  const char *kind;    /* "kernel", "library", "collective", "wait", "copy", "fill", "scalars", "copies in", "copies out" */
  const char *name;    /* a kernel's symbol, a library function, "all_reduce:sum:dp"; else the kind. Borrowed from the plan */
  uint32_t op;         /* number of the op in the captured trace; TH_NO_OP */
} th_region;
#define TH_NO_OP UINT32_MAX
uint32_t th_plan_region_count(const th_plan *plan);
void th_plan_region(const th_plan *plan, uint32_t region, th_region *out);

/* Names of the regions' ranges, `count` of them, copied. Those that were given first stay, as a call may use them. INVALID_ARGUMENT when they
 * are not one for each region. Thread-safe. */
th_status th_plan_set_labels(th_plan *plan, const char *const *labels, uint32_t count);

/* The call that begins with this run is profiled. Between th_run_begin and th_run_execute. */
th_status th_run_set_profile(th_run *run);

typedef struct th_region_times {
  int64_t host_begin, host_end;     /* ns of CLOCK_MONOTONIC; both 0: not reached */
  int64_t device_begin, device_end; /* the same clock's, to some 10 us where they lie, to 1 us how long they are; both -1: not on a device */
  int64_t bytes, flops;
  const char *unit;                 /* what the flops are of: "bf16", "tf32"; "" where there are none */
} th_region_times;
/* Of a profiled run that was executed without an error. */
void th_run_region(const th_run *run, uint32_t region, th_region_times *out);
void th_run_span(const th_run *run, int64_t *out_begin, int64_t *out_end); /* of the whole call, its wait included */

/* What a device's peak rates are made of. NOT_FOUND without a driver, UNAVAILABLE without the device. */
typedef struct th_device_attributes {
  int32_t major, minor, sms;   /* compute capability; multiprocessors */
  int32_t memory_khz, bus_bits; /* of the memory, which transfers twice a clock; 0: the driver does not say */
} th_device_attributes;
th_status th_device_attributes_get(int32_t device, th_device_attributes *out);

#endif
