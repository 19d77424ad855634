/* libthunder: loads executables (proto/plan.proto) and runs their plans in this process.
 *
 * Threads: a program may be used by several threads at once; each call has its own state. Ownership: as said. */
#ifndef THUNDER_EXECUTORS_RUN_THUNDER_H
#define THUNDER_EXECUTORS_RUN_THUNDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/base/dtype.h"
#include "ir/base/status.h"

typedef struct th_program th_program;
typedef struct th_plan th_plan;

/* Reads, checks and loads `size` bytes of an Executable; nothing of `bytes` is kept. INVALID_ARGUMENT naming the table that
 * is wrong; UNAVAILABLE when the generated code cannot be loaded. */
th_status th_program_load(const uint8_t *bytes, size_t size, th_program **out);
void th_program_free(th_program *program); /* NULL is fine; no plan may be running */
size_t th_program_plan_count(const th_program *program);
th_plan *th_program_plan(th_program *program, size_t index);
/* Source of the generated code, "" when there is none; borrowed. */
const char *th_program_source(const th_program *program, size_t *out_size);

const char *th_plan_name(const th_plan *plan);
uint32_t th_plan_input_count(const th_plan *plan);
uint32_t th_plan_output_count(const th_plan *plan);
uint32_t th_plan_input_kind(const th_plan *plan, uint32_t input);
#define TH_NO_SYMBOL UINT32_MAX
uint32_t th_plan_input_symbol(const th_plan *plan, uint32_t input); /* the symbol (Trace.symbol_*) that this integer gives, else TH_NO_SYMBOL */
th_dtype th_plan_input_dtype(const th_plan *plan, uint32_t input);
int32_t th_plan_device(const th_plan *plan); /* DLPack's number: 1 host memory, 2 CUDA */
bool th_plan_input_on_host(const th_plan *plan, uint32_t input); /* in host memory whatever the plan's device */
uint32_t th_plan_output_kind(const th_plan *plan, uint32_t output);
uint32_t th_plan_output_base(const th_plan *plan, uint32_t output);
uint64_t th_plan_predicted_peak(const th_plan *plan); /* bytes, with every symbol at its smallest value */
/* Who takes the memory of a call (plan.proto, memory_kind): row i, from 0 on, until false. op: number of the captured op, UINT32_MAX none. */
typedef struct th_plan_memory_row { uint32_t kind, op, count; uint64_t bytes; } th_plan_memory_row;
bool th_plan_memory_at(const th_plan *plan, size_t i, th_plan_memory_row *out);
uint32_t th_plan_instruction_count(const th_plan *plan);
/* What kernels of earlier calls of the plan's program reported, once: OUT_OF_RANGE for an index, INVALID_ARGUMENT for a division by zero. A
 * kernel's fault is known when it has run, so a call may return before its own is; every later call asks this first. Waits for nothing:
 * complete after the device was waited for. Thread-safe; of plans for the host always TH_OK. */
th_status th_plan_check_errors(th_plan *plan);
/* Waits for the plan's last step on each device and forgets its CUDA graph: the memory that its steps were given (th_run_set_arena) is the
 * caller's again. Blocks while a call of the plan is issued. The next step begins anew. Thread-safe; nothing for plans for the host. */
th_status th_plan_release(th_plan *plan);

/* An input: a tensor in this process's memory, or on the call's device (th_run_set_stream). dims and strides (elements) are borrowed for the call. */
typedef struct th_tensor_in {
  void *data;
  th_dtype dtype;
  uint32_t rank;
  const int64_t *dims, *strides;
} th_tensor_in;

/* Where output `i` of a run lies: base 0 in a buffer that was allocated for `slot`, 1 in input `slot`. offset in bytes. */
typedef struct th_tensor_out {
  bool present, borrowed, whole; /* whole: all of the base, laid out the same way */
  uint32_t slot;
  int64_t offset;
  th_dtype dtype;
  uint32_t rank;
  int64_t dims[24], strides[24];
} th_tensor_out;

typedef struct th_run th_run; /* one call */

/* Starts a call: checks the inputs against the plan, evaluates sizes. INVALID_ARGUMENT names the input. */
th_status th_run_begin(th_plan *plan, const th_tensor_in *inputs, uint32_t count, th_run **out);
/* Bytes to allocate for each escaping buffer: call with i = 0, 1, … until false. `slot` is the output it belongs to. */
bool th_run_escaping(const th_run *run, uint32_t i, uint32_t *out_slot, int64_t *out_bytes);
void th_run_set_escaping(th_run *run, uint32_t i, void *data); /* aligned to 64 bytes or as PyTorch's allocator does; on the call's device */

/* Calls of plans for a device want these too, in this order, before th_run_execute; of plans for the host they say and do nothing.
 * Inputs whose address is no multiple of 16 bytes are copied; one that is written in place is refused by th_run_begin. */
void th_run_set_stream(th_run *run, int32_t device, void *stream); /* its number; a CUstream (NULL: the legacy default stream) of its primary context */
/* This call is one of a sequence of steps that get the same memory (th_run_set_arena) for as long as it is large enough: the second with the
 * same addresses and sizes is captured into a CUDA graph, later ones are replays of it. User inputs (64 MB of them at most) are copied into that memory and
 * results out of it, so these may be elsewhere in each call. One such call of a plan at a time. */
th_status th_run_set_step(th_run *run);
/* Bytes of device memory that the call uses, alignment included; 0: none. */
int64_t th_run_arena(const th_run *run);
/* `data` stays the caller's, who keeps it until the work on the stream is done (in stream order: PyTorch's allocator does so by itself); of
 * a step until th_plan_release. Any alignment. */
void th_run_set_arena(th_run *run, void *data);

/* Executes the instructions. OUT_OF_RANGE for an index out of range in the program's data. A plan for a device: puts them on the stream and
 * returns; an error of an earlier call's kernels (th_plan_check_errors) comes back here, and then nothing was done. NOT_FOUND without a
 * driver, UNAVAILABLE without a device, RESOURCE_EXHAUSTED out of device memory, INTERNAL naming the CUDA call. */
th_status th_run_execute(th_run *run);
void th_run_output(const th_run *run, uint32_t output, th_tensor_out *out);
void th_run_end(th_run *run); /* NULL is fine */

/* Threads that kernels use; as torch.get_num_threads(). */
int32_t th_set_threads(int32_t threads); /* returns what was set before */
/* Rank and size of the job's group, from the environment (RANK, WORLD_SIZE). The channel opens at the first collective. */
void th_world(int32_t *out_rank, int32_t *out_size);
/* Broadcasts `bytes` of rank 0 to all ranks; for the client's initial state. */
th_status th_world_broadcast(void *data, size_t bytes);
/* True once a collective of this process has failed: the library under it may still read and write the tensors of that call,
 * so they must never be freed or used again (collectives/channel.h), and every later collective fails. */
bool th_world_lost(void);
/* Asked about every 50 ms while a collective is waited for, by the thread that waits: a text (immortal) ends the wait with
 * CANCELLED. Set before the first collective; this is how Ctrl-C gets through. */
void th_set_interrupt(const char *(*ask)(void));

typedef struct th_world_counters {
  uint64_t index;       /* collectives started */
  uint64_t completed;   /* collectives waited for to their end */
  uint64_t bytes_sent;  /* in the ring form of each (collectives/channel.h) */
  uint64_t wait_ns;     /* time spent waiting */
  uint64_t fingerprint; /* of the sequence; equal on all ranks after equal sequences; 0 before the first collective */
} th_world_counters;
/* Of this process's channel; zeros while there is none. By the thread that runs plans, or while none runs. */
th_world_counters th_world_count(void);
/* Says that a training step is done, on the progress page (ir/base/progress.h). */
void th_step_done(void);

#endif
