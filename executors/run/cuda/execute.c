/* A call of a plan for CUDA: scalar programs on the host, what they staged to the device in one copy, then the device's instructions on the
 * caller's stream. A call does not wait for its own work: only for a staging buffer, where those of the calls before are still in use.
 *
 *   the caller's memory:  arena | copy of what is staged, constants behind it | copies of inputs | results that stay in place from step to step */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "executors/run/cuda/program.h"
#include "executors/run/tuning.h"

enum { ALIGNMENT = 256, INPUT_ALIGNMENT = 16, MANY = 2048, MANY_SIZES = 1024, PLAIN_SHARED = 48 << 10, USER = 0 /* Trace.input_kind */ };
static const int64_t copied_at_most = 64 << 20; /* bytes of user inputs that a step copies, so that it does not depend on where they are */

static int64_t rounded(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static int64_t place(th_run_layout *l, int64_t bytes) {
  int64_t at = l->total;
  l->total += rounded(bytes > 0 ? bytes : 0);
  return at;
}

/* Inputs that the device reads elsewhere: small user inputs of a step, and what no kernel may assume to be aligned. */
static th_status place_copies(th_run *run) {
  const th_plan *plan = run->plan;
  const Thunder__Wire__Plan *p = plan->wire;
  th_run_layout *l = &run->layout;
  uint32_t n_inputs = (uint32_t)p->n_input_tensor;
  int64_t user_bytes = 0;
  for (uint32_t i = 0; i < n_inputs; i++) {
    l->copies[i] = -1;
    if (p->input_kind[i] == USER) user_bytes += l->copy_bytes[i];
  }
  bool steady = run->step && !plan->no_graph && user_bytes < copied_at_most;
  for (uint32_t i = 0; i < n_inputs; i++) {
    if (l->copy_bytes[i] <= 0) continue;
    bool written = plan->written[i] || (p->input_flags[i] & TH_INPUT_FLAG_DONATED), odd = (uintptr_t)run->inputs[i] % INPUT_ALIGNMENT;
    if (odd && written)
      return TH_ERROR(INVALID_ARGUMENT, "input %u is at an address (%p) that is no multiple of %d bytes, and it is written in place; give a copy of it (.clone())",
                      i, run->inputs[i], INPUT_ALIGNMENT);
    if (odd || (steady && !written && p->input_kind[i] == USER)) l->copies[i] = place(l, l->copy_bytes[i]);
  }
  return TH_OK;
}

th_status th__cuda_lay_out(th_run *run) {
  const th_plan *plan = run->plan;
  const Thunder__Wire__Plan *p = plan->wire;
  th_run_layout *l = &run->layout;
  if (!l->copies) { /* the call's first time here; a step comes again */
    size_t n_inputs = p->n_input_tensor;
    l->copies = calloc(2 * n_inputs + plan->n_escaping + p->n_constants + 1, sizeof *l->copies);
    if (!l->copies) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a call");
    l->copy_bytes = l->copies + n_inputs;
    l->escaping = l->copy_bytes + n_inputs;
    l->constants = l->escaping + plan->n_escaping;
    for (uint32_t i = 0; i < n_inputs; i++) {
      th_view v;
      if (th__input_on_host(p, i)) continue; /* nothing to copy: 0 */
      th__run_view(run, p->input_tensor[i], &v);
      l->copy_bytes[i] = th__view_extent(&v);
    }
  }
  l->total = 0;
  place(l, run->values[p->arena_size]);
  l->staged_total = p->has_staged_size && run->values[p->staged_size] > 0 ? run->values[p->staged_size] : 0;
  for (size_t i = 0; i < p->n_constants; i++) {
    l->constants[i] = (l->staged_total + 15) / 16 * 16;
    l->staged_total = l->constants[i] + (int64_t)p->constants[i].len;
  }
  l->mirror = place(l, l->staged_total);
  TH_TRY(place_copies(run));
  for (uint32_t i = 0; i < plan->n_escaping; i++) l->escaping[i] = run->step && !plan->no_graph ? place(l, run->values[p->buffer_size[plan->escaping[i]]]) : -1;
  return TH_OK;
}

/* ---- instructions ---- */

static CUdeviceptr device_address(const void *p) { return (CUdeviceptr)(uintptr_t)p; }

static th_status launch(th_cuda_call *c, size_t i) {
  const th_run *run = c->run;
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint64_t parameters[MANY + 1 + MANY_SIZES + 1]; /* packed: all are 8 bytes */
  int64_t sizes[MANY_SIZES];
  uint32_t begin = p->instr_tensors_begin[i], n = p->instr_tensors_begin[i + 1] - begin, at = 0;
  uint32_t first = p->instr_ints_begin[i], n_sizes = p->instr_ints_begin[i + 1] - first;
  if (n > MANY || n_sizes > MANY_SIZES) return TH_ERROR(UNIMPLEMENTED, "instruction %zu has %u tensors and %u sizes", i, n, n_sizes);
  for (uint32_t k = 0; k < n_sizes; k++) sizes[k] = run->values[p->instr_ints[first + k]];
  if (!sizes[0] || !sizes[1]) return TH_OK; /* nothing to compute */
  const char *name = p->kernel_symbol[p->instr_target[i]];
  bool fits = sizes[0] > 0 && sizes[0] <= INT32_MAX && sizes[1] > 0 && sizes[1] <= UINT16_MAX && sizes[2] > 0 && sizes[2] <= 1024 && sizes[3] >= 0 && sizes[3] <= INT32_MAX;
  if (!fits)
    return TH_ERROR(INVALID_ARGUMENT, "instruction %zu (%s) launches %" PRId64 " x %" PRId64 " blocks of %" PRId64 " threads with %" PRId64 " bytes of shared memory", i, name,
                    sizes[0], sizes[1], sizes[2], sizes[3]);
  for (uint32_t k = 0; k < n; k++) parameters[at++] = device_address(run->tensors[p->instr_tensors[begin + k]]);
  if (p->n_instr_scratch && p->instr_scratch[i]) parameters[at++] = device_address(run->tensors[p->instr_scratch[i] - 1]);
  for (uint32_t k = 4; k < n_sizes; k++) parameters[at++] = (uint64_t)sizes[k];
  parameters[at++] = c->on->bad_address;
  size_t packed = at * sizeof *parameters;
  void *extra[] = {TH_CU_PARAMETERS, parameters, TH_CU_PARAMETERS_SIZE, &packed, NULL};
  CUfunction function = c->plan->functions[p->instr_target[i]];
  int64_t *shared = &c->plan->shared[p->instr_target[i]];
  if (sizes[3] > PLAIN_SHARED && sizes[3] > *shared) {
    th_status status = TH_CUDA(c->driver, function_set, (function, TH_CU_FUNC_SHARED_BYTES, (int)sizes[3]));
    if (status) return th_status_prefix(status, "%s wants %" PRId64 " bytes of shared memory", name, sizes[3]);
    *shared = sizes[3];
  }
  unsigned x = (unsigned)sizes[0], y = (unsigned)sizes[1], threads = (unsigned)sizes[2], bytes = (unsigned)sizes[3];
  return th_status_prefix(TH_CUDA(c->driver, launch, (function, x, y, 1, threads, 1, 1, bytes, c->stream, NULL, extra)), "instruction %zu (%s, captured op %d)", i, name,
                          (int)p->instr_op[i]);
}

static th_status library(th_cuda_call *c, size_t i) {
  const th_run *run = c->run;
  const Thunder__Wire__Plan *p = run->plan->wire;
  th_view views[TH_RUN_VIEWS], scratch;
  int64_t ints[TH_RUN_INTS];
  th_library_args args;
  TH_TRY(th__run_library_args(run, i, views, ints, &args));
  args.stream = c->stream;
  args.device = run->device;
  args.capturing = c->capturing;
  args.state = &c->plan->states[i];
  if (p->n_instr_scratch && p->instr_scratch[i]) {
    th__run_view(run, p->instr_scratch[i] - 1, &scratch);
    args.scratch = scratch.data;
    args.scratch_bytes = (size_t)th__view_extent(&scratch);
  }
  if (p->n_instr_blob && p->instr_blob[i]) {
    const Thunder__Wire__Module *m = run->plan->program->wire->modules[p->instr_blob[i] - 1];
    args.blob = m->code.data;
    args.blob_size = m->code.len;
  }
  return th_status_prefix(run->plan->functions[i](&args), "instruction %zu (%s, captured op %d)", i, p->strings[p->instr_target[i]], (int)p->instr_op[i]);
}

/* Its elements are all of an extent of memory, each once or (stride 0) more often. */
static bool is_dense(const th_view *v) {
  int64_t run = 1;
  for (bool found = true; found;) {
    found = false;
    for (uint32_t i = 0; i < v->rank && !found; i++)
      if (v->dims[i] != 1 && v->strides[i] == run) found = true, run *= v->dims[i];
  }
  return run * (int64_t)th_dtype_size(v->dtype) == th__view_extent(v);
}

static th_status copy_bytes(th_cuda_call *c, void *to, const void *from, int64_t bytes) {
  return TH_CUDA(c->driver, copy, (device_address(to), device_address(from), (size_t)bytes, c->stream));
}

static th_status copy_views(th_cuda_call *c, size_t i, const th_view *from, const th_view *to) {
  bool alike = from->rank == to->rank;
  if (from->dtype != to->dtype || th_view_numel(from) != th_view_numel(to)) return TH_ERROR(INVALID_ARGUMENT, "instruction %zu copies unequal tensors", i);
  if (!th_view_numel(from) || from->data == to->data) return TH_OK;
  for (uint32_t k = 0; alike && k < from->rank; k++) alike = from->dims[k] == to->dims[k] && (from->dims[k] == 1 || from->strides[k] == to->strides[k]);
  if (!alike || !is_dense(from)) return TH_ERROR(UNIMPLEMENTED, "instruction %zu copies tensors that are laid out differently; on a device that takes a kernel", i);
  return th_status_prefix(copy_bytes(c, to->data, from->data, th__view_extent(from)), "instruction %zu (copy)", i);
}

static th_status fill(th_cuda_call *c, size_t i, const th_view *v) {
  const th_cuda_driver *d = c->driver;
  uint64_t raw;
  size_t size = th_dtype_size(v->dtype), n = size ? (size_t)th__view_extent(v) / size : 0;
  CUdeviceptr at = device_address(v->data);
  TH_TRY(th__run_fill_value(c->run, i, v->dtype, &raw));
  if (!n) return TH_OK;
  uint32_t low = (uint32_t)raw, high = (uint32_t)(raw >> 32);
  if (!is_dense(v) || (size == 8 && n > 1 && low != high))
    return TH_ERROR(UNIMPLEMENTED, "a fill of %zu %s, that takes a kernel on a device", n, th_dtype_name(v->dtype));
  if (size == 1) return TH_CUDA(d, set_8, (at, (uint8_t)raw, n, c->stream));
  if (size == 2) return TH_CUDA(d, set_16, (at, (uint16_t)raw, n, c->stream));
  if (size == 4) return TH_CUDA(d, set_32, (at, low, n, c->stream));
  if (low == high) return TH_CUDA(d, set_32, (at, low, 2 * n, c->stream));
  TH_TRY(TH_CUDA(d, set_32, (at, low, 1, c->stream)));
  return TH_CUDA(d, set_32, (at + 4, high, 1, c->stream));
}

static th_status collective(th_cuda_call *c, size_t i) {
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  uint32_t n = p->instr_outputs[i], begin = p->instr_tensors_begin[i];
  if (c->run->context.world > 1) return TH_ERROR(UNIMPLEMENTED, "instruction %zu: a collective of %d ranks in a plan for CUDA", i, c->run->context.world);
  for (uint32_t k = 0; k < n; k++) {
    th_view from, to;
    th__run_view(c->run, p->instr_tensors[begin + k], &from);
    th__run_view(c->run, p->instr_tensors[begin + n + k], &to);
    TH_TRY(copy_views(c, i, &from, &to));
  }
  return TH_OK;
}

static th_status instruction(th_cuda_call *c, size_t i) {
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  th_view a, b;
  switch (p->instr_kind[i]) {
    case TH_INSTR_KERNEL: return launch(c, i);
    case TH_INSTR_LIBRARY: return library(c, i);
    case TH_INSTR_START: return collective(c, i);
    case TH_INSTR_COPY:
      th__run_view(c->run, p->instr_tensors[p->instr_tensors_begin[i]], &a);
      th__run_view(c->run, p->instr_tensors[p->instr_tensors_begin[i] + 1], &b);
      return copy_views(c, i, &a, &b);
    case TH_INSTR_FILL:
      th__run_view(c->run, p->instr_tensors[p->instr_tensors_begin[i]], &a);
      return th_status_prefix(fill(c, i, &a), "instruction %zu (fill)", i);
    default: return TH_OK; /* scalars ran before; a wait has nothing to wait for on one stream */
  }
}

th_status th__cuda_issue(th_cuda_call *c) {
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  th__run_fill_tensors(c->run);
  if (th__run_watched(c->run)) {
    for (uint32_t i = 0; i < p->n_instr_kind; i++)
      if (p->instr_kind[i] != TH_INSTR_SCALARS) TH_TRY(th__cuda_region(c, i, instruction, i));
    return TH_OK;
  }
  for (size_t i = 0; i < p->n_instr_kind; i++) TH_TRY(instruction(c, i));
  return TH_OK;
}

/* ---- a call ---- */

/* Marks the end of the work put on the stream so far. Where that fails the work is waited for: nothing is pending then. */
static th_status record(th_cuda_call *c, CUevent event, bool *out_pending) {
  th_status status = TH_CUDA(c->driver, event_record, (event, c->stream));
  *out_pending = !status;
  return status ? th_status_join(status, TH_CUDA(c->driver, stream_synchronize, (c->stream))) : TH_OK;
}

/* What is staged goes to the device in one copy. Of pageable memory the driver has made its own copy when it returns, where that is little;
 * more goes through pinned buffers, each used again when its copy is done. */
static th_status upload(th_cuda_call *c) {
  th_run *run = c->run;
  const Thunder__Wire__Plan *p = run->plan->wire;
  const th_run_layout *l = &run->layout;
  const th_cuda_driver *d = c->driver;
  size_t bytes = (size_t)l->staged_total;
  CUdeviceptr to = device_address(run->device_memory + l->mirror);
  if (!bytes) return TH_OK;
  for (size_t i = 0; i < p->n_constants; i++)
    if (p->constants[i].len) memcpy(run->staged + l->constants[i], p->constants[i].data, p->constants[i].len);
  if (bytes <= TH_CUDA_PAGEABLE) return TH_CUDA(d, copy_in, (to, run->staged, bytes, c->stream));
  th_cuda_plan *own = c->plan;
  if (own->ring_bytes < bytes) {
    own->ring_bytes = 0;
    for (size_t i = 0; i < TH_CUDA_RING; i++) {
      if (own->ring[i].used) TH_TRY(TH_CUDA(d, event_synchronize, (own->ring[i].event)));
      own->ring[i].used = false;
      if (own->ring[i].host) d->host_free(own->ring[i].host);
      own->ring[i].host = NULL;
      TH_TRY(TH_CUDA(d, host_alloc, (&own->ring[i].host, bytes, TH_CU_HOST_PORTABLE)));
      if (!own->ring[i].event) TH_TRY(TH_CUDA(d, event_create, (&own->ring[i].event, TH_CU_EVENT_DISABLE_TIMING)));
    }
    own->ring_bytes = bytes;
  }
  unsigned at = own->ring_next++ % TH_CUDA_RING;
  if (own->ring[at].used) TH_TRY(TH_CUDA(d, event_synchronize, (own->ring[at].event)));
  memcpy(own->ring[at].host, run->staged, bytes);
  TH_TRY(TH_CUDA(d, copy_in, (to, own->ring[at].host, bytes, c->stream)));
  return record(c, own->ring[at].event, &own->ring[at].used);
}

/* From host addresses to the device's. What stays on the host becomes NULL, so that equal steps have equal addresses. */
static void fill_device_buffers(th_run *run) {
  const th_plan *plan = run->plan;
  const Thunder__Wire__Plan *p = plan->wire;
  const th_run_layout *l = &run->layout;
  char *base = run->device_memory;
  for (size_t i = 0; i < p->n_buffer_kind; i++) {
    uint32_t index = p->buffer_index[i];
    if (p->buffer_kind[i] == TH_BUFFER_BORROWED && th__input_on_host(p, index)) run->buffers[i] = NULL;
    else if (p->buffer_kind[i] == TH_BUFFER_BORROWED) run->buffers[i] = l->copies[index] >= 0 ? base + l->copies[index] : run->inputs[index];
    else if (p->buffer_kind[i] == TH_BUFFER_ARENA) run->buffers[i] = base + run->values[p->buffer_offset[i]];
    else if (p->buffer_kind[i] == TH_BUFFER_STAGED) run->buffers[i] = base + l->mirror + run->values[p->buffer_offset[i]];
    else if (p->buffer_kind[i] == TH_BUFFER_CONSTANT) run->buffers[i] = base + l->mirror + l->constants[index];
  }
  for (uint32_t i = 0; i < plan->n_escaping; i++) run->buffers[plan->escaping[i]] = l->escaping[i] >= 0 ? base + l->escaping[i] : run->outputs[i];
}

static th_status begin_step(th_cuda_call *c) { /* after what the last one does with the memory they share */
  th_cuda_graph *g = &c->plan->graph;
  if (!g->done) TH_TRY(TH_CUDA(c->driver, event_create, (&g->done, TH_CU_EVENT_DISABLE_TIMING)));
  return g->pending && g->last != c->stream ? TH_CUDA(c->driver, stream_wait, (c->stream, g->done, 0)) : TH_OK;
}

static th_status end_step(th_cuda_call *c) {
  c->plan->graph.last = c->stream;
  return record(c, c->plan->graph.done, &c->plan->graph.pending);
}

static th_status scalars(th_cuda_call *c) {
  th_run *run = c->run;
  bool watched = th__run_watched(run);
  th_status status = TH_OK;
  for (uint32_t i = 0; i < run->plan->wire->n_instr_kind && !status; i++) {
    if (!run->plan->scalars[i]) continue;
    if (watched) th__region_begin(run, i);
    status = th__scalars_run(run, i);
    if (watched) th__region_end(run, i);
  }
  return status;
}

static th_status copies_in(th_cuda_call *c, size_t unused) {
  th_run *run = c->run;
  const th_run_layout *l = &run->layout;
  (void)unused;
  TH_TRY(upload(c));
  for (uint32_t i = 0; i < run->plan->wire->n_input_tensor; i++)
    if (l->copies[i] >= 0) TH_TRY(copy_bytes(c, run->device_memory + l->copies[i], run->inputs[i], l->copy_bytes[i]));
  return TH_OK;
}

static th_status copies_out(th_cuda_call *c, size_t unused) {
  th_run *run = c->run;
  const th_plan *plan = run->plan;
  (void)unused;
  for (uint32_t i = 0; i < plan->n_escaping; i++) {
    int64_t at = run->layout.escaping[i], bytes = run->values[plan->wire->buffer_size[plan->escaping[i]]];
    if (at >= 0 && bytes > 0) TH_TRY(copy_bytes(c, run->outputs[i], run->device_memory + at, bytes));
  }
  return TH_OK;
}

/* What a call puts on its stream. */
static th_status issue(th_cuda_call *c) {
  th_run *run = c->run;
  uint32_t n = (uint32_t)run->plan->wire->n_instr_kind;
  bool watched = th__run_watched(run);
  TH_TRY(watched ? th__cuda_region(c, n, copies_in, 0) : copies_in(c, 0));
  fill_device_buffers(run);
  TH_TRY(run->step && !run->plan->no_graph && !run->profile ? th__cuda_step(c) : th__cuda_issue(c));
  return watched ? th__cuda_region(c, n + 1, copies_out, 0) : copies_out(c, 0);
}

static th_status execute(th_cuda_call *c) {
  th_run *run = c->run;
  const th_plan *plan = run->plan;
  const th_cuda_driver *d = c->driver;
  int capturing = 0;
  TH_TRY(th__cuda_plan_prepare(c->on, plan, c->plan));
  TH_TRY(TH_CUDA(d, stream_capturing, (c->stream, &capturing)));
  if (capturing)
    return TH_ERROR(FAILED_PRECONDITION, "the current stream is being captured into a CUDA graph; a compiled program cannot be part of it (its steps are CUDA graphs of their own)");
  if (run->layout.total && !run->device_memory) return TH_ERROR(FAILED_PRECONDITION, "the call has no memory; th_run_set_arena was not called");
  TH_TRY(scalars(c));
  if (run->step) TH_TRY(begin_step(c));
  th_status status = run->profile ? th__cuda_profile_start(c) : TH_OK;
  if (!status) status = issue(c);
  if (run->step) status = th_status_join(status, end_step(c));
  if (!run->profile) return status;
  if (!status) status = th__cuda_profile_read(c);
  th__cuda_profile_stop(c);
  return status;
}

th_status th__cuda_execute(th_run *run) {
  th_cuda_call c = {.run = run, .stream = run->stream};
  CUcontext before;
  TH_TRY(th__cuda_program_get((th_program *)run->plan->program, run->device, &c.on));
  TH_TRY(th__cuda_program_check(c.on));
  c.driver = c.on->driver;
  c.plan = &c.on->plans[run->plan->index];
  TH_TRY(th_cuda_context_enter(c.driver, c.on->context, &before));
  pthread_mutex_lock(&c.plan->lock);
  th_status status = execute(&c);
  pthread_mutex_unlock(&c.plan->lock);
  th_cuda_context_leave(c.driver, c.on->context, before);
  th_tuning_save(); /* what the call timed; of most calls nothing */
  return status;
}

/* ---- thunder.h ---- */

void th_run_set_stream(th_run *run, int32_t device, void *stream) {
  run->device = device;
  run->stream = stream;
}

th_status th_run_set_step(th_run *run) {
  if (run->plan->device != TH_DEVICE_CUDA) return TH_OK;
  run->step = true;
  return th__cuda_lay_out(run);
}

int64_t th_run_arena(const th_run *run) { return run->plan->device == TH_DEVICE_CUDA && run->layout.total ? run->layout.total + ALIGNMENT : 0; }

void th_run_set_arena(th_run *run, void *data) { run->device_memory = data ? (char *)(((uintptr_t)data + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) : NULL; }
