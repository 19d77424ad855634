/* A plan for host memory: its instructions in order, in the calling thread. */
#include <inttypes.h>

#include "executors/run/run.h"

enum { MANY = 2048 };

static th_status run_kernel(th_run *run, size_t i) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  void *buffers[MANY];
  int64_t sizes[256];
  uint32_t begin = p->instr_tensors_begin[i], n = p->instr_tensors_begin[i + 1] - begin, first = p->instr_ints_begin[i], n_sizes = p->instr_ints_begin[i + 1] - first;
  bool scratch = p->n_instr_scratch && p->instr_scratch[i];
  if (n + scratch > MANY || n_sizes > 256) return TH_ERROR(UNIMPLEMENTED, "instruction %zu has %u tensors and %u sizes", i, n, n_sizes);
  for (uint32_t k = 0; k < n; k++) buffers[k] = run->tensors[p->instr_tensors[begin + k]];
  if (scratch) buffers[n] = run->tensors[p->instr_scratch[i] - 1];
  for (uint32_t k = 0; k < n_sizes; k++) sizes[k] = run->values[p->instr_ints[first + k]];
  int bad = run->plan->kernels[p->instr_target[i]](buffers, sizes, NULL, &run->context);
  if (!bad) return TH_OK;
  if (bad & TH_KERNEL_INDEX) return TH_ERROR(OUT_OF_RANGE, "an index is out of range (instruction %zu, captured op %d)", i, (int)p->instr_op[i]);
  return TH_ERROR(INVALID_ARGUMENT, "integer division by zero (instruction %zu, captured op %d)", i, (int)p->instr_op[i]);
}

static th_status run_library(th_run *run, size_t i) {
  th_view views[TH_RUN_VIEWS];
  int64_t ints[TH_RUN_INTS];
  th_library_args args;
  TH_TRY(th__run_library_args(run, i, views, ints, &args));
  return th_status_prefix(run->plan->functions[i](&args), "instruction %zu", i);
}

static th_status start_collective(th_run *run, size_t i) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint32_t n = p->instr_outputs[i], begin = p->instr_tensors_begin[i];
  th_segment segments[512];
  th_view in, out = {0};
  if (n > 512) return TH_ERROR(UNIMPLEMENTED, "a collective of %u tensors", n);
  for (uint32_t k = 0; k < n; k++) {
    th__run_view(run, p->instr_tensors[begin + k], &in);
    th__run_view(run, p->instr_tensors[begin + n + k], &out);
    int64_t a = th_view_numel(&in), b = th_view_numel(&out);
    segments[k] = (th_segment){.input = in.data == out.data ? NULL : in.data, .output = out.data, .count = (size_t)(a < b ? a : b)};
    if (run->context.world == 1 && in.data != out.data) th_view_copy(&in, &out, run->context.threads);
  }
  if (run->context.world == 1) return TH_OK;
  if (p->instr_ints_begin[i + 1] > p->instr_ints_begin[i] && run->values[p->instr_ints[p->instr_ints_begin[i]]] != 0)
    return TH_ERROR(UNIMPLEMENTED, "a %s along dimension %" PRId64 "; dimension 0 is supported", p->strings[p->instr_target[i]], run->values[p->instr_ints[p->instr_ints_begin[i]]]);
  th_channel *channel;
  TH_TRY(th_world_channel(&channel));
  th_collective_call call = {.kind = run->plan->collectives[i].kind, .reduce = run->plan->collectives[i].reduce, .dtype = out.dtype, .segments = segments, .segment_count = n, .op = (uint32_t)i};
  return th_channel_start(channel, &call, &run->requests[i]);
}

static th_status wait_collective(th_run *run, size_t i) {
  th_request *request = run->requests[run->plan->wire->instr_target[i]];
  run->requests[run->plan->wire->instr_target[i]] = NULL;
  return request ? th_request_wait(request, -1) : TH_OK;
}

static th_status copy_or_fill(th_run *run, size_t i) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint32_t begin = p->instr_tensors_begin[i];
  th_view a, b;
  th__run_view(run, p->instr_tensors[begin], &a);
  if (p->instr_kind[i] == TH_INSTR_COPY) {
    th__run_view(run, p->instr_tensors[begin + 1], &b);
    if (a.dtype != b.dtype || th_view_numel(&a) != th_view_numel(&b)) return TH_ERROR(INVALID_ARGUMENT, "instruction %zu copies unequal tensors", i);
    th_view_copy(&a, &b, run->context.threads);
    return TH_OK;
  }
  uint64_t raw;
  TH_TRY(th__run_fill_value(run, i, a.dtype, &raw));
  th_view from = a;
  from.data = &raw;
  for (uint32_t k = 0; k < TH_RUN_RANK; k++) from.strides[k] = 0;
  th_view_copy(&from, &a, run->context.threads);
  return TH_OK;
}

static th_status run_instruction(th_run *run, size_t i) {
  switch (run->plan->wire->instr_kind[i]) {
    case TH_INSTR_KERNEL: return run_kernel(run, i);
    case TH_INSTR_LIBRARY: return run_library(run, i);
    case TH_INSTR_START: return start_collective(run, i);
    case TH_INSTR_WAIT: return wait_collective(run, i);
    case TH_INSTR_SCALARS: return th__scalars_run(run, i);
    default: return copy_or_fill(run, i);
  }
}

th_status th__host_execute(th_run *run) {
  size_t n = run->plan->wire->n_instr_kind;
  th_status status = TH_OK;
  th__run_fill_tensors(run);
  if (!th__run_watched(run)) {
    for (size_t i = 0; i < n && !status; i++) status = run_instruction(run, i);
  } else {
    for (uint32_t i = 0; i < n && !status; i++) {
      th__region_begin(run, i);
      status = run_instruction(run, i);
      th__region_end(run, i);
    }
  }
  if (status) run->lost = th_world_lost();
  return status;
}
