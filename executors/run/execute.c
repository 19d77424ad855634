/* A call: sizes, checks, addresses; where its outputs lie. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/run/cuda/program.h"
#include "executors/run/run.h"
#include "ir/base/half.h"

static int32_t threads = 1;
int32_t th_set_threads(int32_t n) {
  int32_t before = threads;
  threads = n > 0 ? n : 1;
  return before;
}

static int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t evaluate_one(const Thunder__Wire__Plan *p, size_t i, const int64_t *v, const th_tensor_in *in, const th_kernel_context *c) {
  int64_t a = p->expr_a[i], b = p->expr_b[i];
  switch (p->expr_kind[i]) {
    case TH_EXPR_CONST: return a;
    case TH_EXPR_SYMBOL: return evaluate_one(p, p->symbol_value[a], v, in, c); /* constant, size or integer: no recursion */
    case TH_EXPR_ADD: return v[a] + v[b];
    case TH_EXPR_SUB: return v[a] - v[b];
    case TH_EXPR_MUL: return v[a] * v[b];
    case TH_EXPR_FLOORDIV: return floor_div(v[a], v[b]);
    case TH_EXPR_MOD: return v[a] - floor_div(v[a], v[b]) * v[b];
    case TH_EXPR_MIN: return v[a] < v[b] ? v[a] : v[b];
    case TH_EXPR_MAX: return v[a] > v[b] ? v[a] : v[b];
    case TH_EXPR_SIZE: return b < in[a].rank ? in[a].dims[b] : 0;
    case TH_EXPR_INTEGER: return in[a].dtype == TH_DTYPE_i64 && in[a].data ? *(const int64_t *)in[a].data : 0;
    case TH_EXPR_RANK: return c->rank;
    default: return c->world;
  }
}

static th_status evaluate(th_run *run, const th_tensor_in *inputs) {
  th_plan *plan = run->plan;
  const Thunder__Wire__Plan *p = plan->wire;
  pthread_mutex_lock(&plan->lock);
  run->values = plan->values;
  pthread_mutex_unlock(&plan->lock);
  if (run->values) return TH_OK;
  int64_t *v = malloc((p->n_expr_kind + 1) * sizeof *v);
  if (!v) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for sizes");
  for (size_t i = 0; i < p->n_expr_kind; i++) v[i] = evaluate_one(p, i, v, inputs, &run->context);
  if (!plan->dynamic) {
    pthread_mutex_lock(&plan->lock);
    if (!plan->values) plan->values = v;
    else free(v);
    run->values = plan->values;
    pthread_mutex_unlock(&plan->lock);
  } else {
    run->values = run->own_values = v;
  }
  return TH_OK;
}

static void dims_text(const int64_t *dims, uint32_t n, char *out, size_t size) {
  size_t used = (size_t)snprintf(out, size, "(");
  for (uint32_t i = 0; i < n && used < size; i++) used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, i ? ", " : "", dims[i]);
  if (used < size) snprintf(out + used, size - used, ")");
}

void th__run_view(const th_run *run, uint32_t tensor, th_view *out) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint32_t begin = p->tensor_dims_begin[tensor];
  out->data = run->tensors ? run->tensors[tensor] : NULL;
  out->dtype = th_dtype_from_wire((int)p->tensor_dtype[tensor]);
  out->rank = p->tensor_dims_begin[tensor + 1] - begin;
  for (uint32_t i = 0; i < out->rank; i++) {
    out->dims[i] = run->values[p->tensor_dims[begin + i]];
    out->strides[i] = run->values[p->tensor_strides[begin + i]];
  }
}

static th_status check_input(const th_run *run, uint32_t i, const th_tensor_in *in) {
  th_view want;
  char have[256], wanted[256];
  th__run_view(run, run->plan->wire->input_tensor[i], &want);
  if (in->dtype != want.dtype) return TH_ERROR(INVALID_ARGUMENT, "input %u is of dtype %s, the plan was made for %s", i, th_dtype_torch_name(in->dtype), th_dtype_torch_name(want.dtype));
  bool same = in->rank == want.rank, laid = true;
  for (uint32_t k = 0; same && k < want.rank; k++) {
    same = in->dims[k] == want.dims[k];
    laid &= in->dims[k] == 1 || in->strides[k] == want.strides[k];
  }
  if (same && (laid || th_view_numel(&want) == 0)) return TH_OK;
  dims_text(same ? in->strides : in->dims, in->rank, have, sizeof have);
  dims_text(same ? want.strides : want.dims, want.rank, wanted, sizeof wanted);
  return TH_ERROR(INVALID_ARGUMENT, "input %u has %s %s, the plan was made for %s", i, same ? "strides" : "shape", have, wanted);
}

static th_status take_arena(th_run *run) {
  th_plan *plan = run->plan;
  int64_t bytes = run->values[plan->wire->arena_size];
  if (bytes <= 0) return TH_OK;
  pthread_mutex_lock(&plan->lock);
  if (plan->arena_bytes >= (size_t)bytes) {
    run->arena = plan->arena;
    run->arena_bytes = plan->arena_bytes;
    plan->arena = NULL;
    plan->arena_bytes = 0;
  }
  pthread_mutex_unlock(&plan->lock);
  if (run->arena) return TH_OK;
  size_t rounded = ((size_t)bytes + 4095) & ~(size_t)4095;
  run->arena = aligned_alloc(4096, rounded);
  run->arena_bytes = rounded;
  return run->arena ? TH_OK : TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the plan's arena of %" PRId64 " bytes", bytes);
}

th_status th_run_begin(th_plan *plan, const th_tensor_in *inputs, uint32_t count, th_run **out) {
  const Thunder__Wire__Plan *p = plan->wire;
  if (count != p->n_input_tensor) return TH_ERROR(INVALID_ARGUMENT, "the plan takes %zu inputs, %u were given", p->n_input_tensor, count);
  th_run *run = calloc(1, sizeof *run + count * sizeof(void *));
  if (!run) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a call");
  run->plan = plan;
  run->context.threads = threads;
  th_world(&run->context.rank, &run->context.world);
  th_status status;
  TH_TRY_CLEANUP(evaluate(run, inputs));
  for (uint32_t i = 0; i < count; i++) {
    TH_TRY_CLEANUP(check_input(run, i, &inputs[i]));
    run->inputs[i] = inputs[i].data;
  }
  for (size_t i = 0; i + 1 < p->n_equal && !status; i += 2) {
    int64_t a = run->values[p->equal[i]], b = run->values[p->equal[i + 1]];
    if (a != b) status = TH_ERROR(INVALID_ARGUMENT, "sizes that are equal in every call of this plan are %" PRId64 " and %" PRId64 " (assumption %zu of the trace)", a, b, i / 2);
  }
  if (status) goto cleanup;
  run->buffers = calloc(p->n_buffer_kind + p->n_tensor_dtype + p->n_instr_kind + plan->n_escaping + 1, sizeof(void *));
  if (!run->buffers) status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a call");
  else {
    run->tensors = run->buffers + p->n_buffer_kind;
    run->requests = (th_request **)(run->tensors + p->n_tensor_dtype);
    run->outputs = (void **)(run->requests + p->n_instr_kind);
    status = plan->device == TH_DEVICE_CUDA ? th__cuda_lay_out(run) : take_arena(run);
  }
  int64_t staged = p->has_staged_size ? run->values[p->staged_size] : 0;
  if (!status && plan->device == TH_DEVICE_CUDA) staged = run->layout.staged_total;
  if (!status && staged > 0 && !(run->staged = calloc(1, (size_t)staged))) status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for staged values");
cleanup:
  if (status) th_run_end(run);
  else *out = run;
  return status;
}

bool th_run_escaping(const th_run *run, uint32_t i, uint32_t *out_slot, int64_t *out_bytes) {
  if (i >= run->plan->n_escaping) return false;
  uint32_t b = run->plan->escaping[i];
  *out_slot = run->plan->wire->buffer_index[b];
  *out_bytes = run->values[run->plan->wire->buffer_size[b]];
  return true;
}

void th_run_set_escaping(th_run *run, uint32_t i, void *data) { run->buffers[run->plan->escaping[i]] = run->outputs[i] = data; }

static void fill_buffers(th_run *run) { /* host addresses */
  const Thunder__Wire__Plan *p = run->plan->wire;
  for (size_t i = 0; i < p->n_buffer_kind; i++) {
    uint32_t index = p->buffer_index[i];
    if (p->buffer_kind[i] == TH_BUFFER_BORROWED) run->buffers[i] = run->inputs[index];
    else if (p->buffer_kind[i] == TH_BUFFER_ARENA) run->buffers[i] = run->arena ? (char *)run->arena + run->values[p->buffer_offset[i]] : NULL;
    else if (p->buffer_kind[i] == TH_BUFFER_STAGED) run->buffers[i] = run->staged ? run->staged + run->values[p->buffer_offset[i]] : NULL;
    else if (p->buffer_kind[i] == TH_BUFFER_CONSTANT) run->buffers[i] = p->constants[index].data;
  }
}

void th__run_fill_tensors(th_run *run) {
  for (uint32_t i = 0; i < run->plan->wire->n_tensor_dtype; i++) run->tensors[i] = th__run_address(run, i);
}

th_status th__run_fill_value(const th_run *run, size_t i, th_dtype dtype, uint64_t *out) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint64_t raw = 0;
  uint16_t half;
  bool integer = p->instr_ints_begin[i + 1] > p->instr_ints_begin[i];
  int64_t n = integer ? run->values[p->instr_ints[p->instr_ints_begin[i]]] : 0;
  double f = integer ? (double)n : p->instr_floats[p->instr_floats_begin[i]];
  float g = (float)f;
  if (dtype == TH_DTYPE_f64) memcpy(&raw, &f, 8);
  else if (dtype == TH_DTYPE_f32) memcpy(&raw, &g, 4);
  else if (dtype == TH_DTYPE_bf16) half = th_to_bf16(g), memcpy(&raw, &half, 2);
  else if (dtype == TH_DTYPE_f16) half = th_to_f16(g), memcpy(&raw, &half, 2);
  else if (dtype == TH_DTYPE_bool) raw = f != 0;
  else if (th_dtype_is_integral(dtype)) raw = (uint64_t)(integer ? n : (int64_t)f);
  else return TH_ERROR(UNIMPLEMENTED, "a fill of dtype %s", th_dtype_name(dtype));
  *out = raw;
  return TH_OK;
}

th_status th__run_library_args(const th_run *run, size_t i, th_view *views, int64_t *ints, th_library_args *out) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint32_t begin = p->instr_tensors_begin[i], n = p->instr_tensors_begin[i + 1] - begin, results = p->instr_outputs[i];
  uint32_t first = p->instr_ints_begin[i], n_ints = p->instr_ints_begin[i + 1] - first;
  if (n > TH_RUN_VIEWS || n_ints > TH_RUN_INTS) return TH_ERROR(UNIMPLEMENTED, "library call %zu has %u tensors and %u ints", i, n, n_ints);
  for (uint32_t k = 0; k < n; k++) th__run_view(run, p->instr_tensors[begin + k], &views[k]);
  for (uint32_t k = 0; k < n_ints; k++) ints[k] = run->values[p->instr_ints[first + k]];
  const double *scale = p->instr_floats + p->instr_floats_begin[i];
  *out = (th_library_args){.operands = views, .results = views + n - results, .n_operands = n - results, .n_results = results, .n_ints = n_ints, .ints = ints,
                           .alpha = scale[0], .beta = scale[1], .context = &run->context, .deterministic = p->deterministic};
  return TH_OK;
}

int64_t th__view_extent(const th_view *v) {
  int64_t last = 0;
  for (uint32_t i = 0; i < v->rank; i++) {
    if (v->dims[i] == 0) return 0;
    last += (v->dims[i] - 1) * v->strides[i];
  }
  return (last + 1) * (int64_t)th_dtype_size(v->dtype);
}

static th_status execute(th_run *run) { return run->plan->device == TH_DEVICE_CUDA ? th__cuda_execute(run) : th__host_execute(run); }

th_status th_run_execute(th_run *run) {
  fill_buffers(run);
  run->nvtx = th__nvtx(run->profile);
  if (!th__run_watched(run)) return execute(run);
  th_region_times *whole = run->profile ? &run->profile[th_plan_region_count(run->plan)] : &(th_region_times){0};
  if (run->nvtx) run->nvtx->push(run->plan->wire->name);
  whole->host_begin = th__now_ns();
  th_status status = execute(run);
  whole->host_end = th__now_ns();
  if (run->nvtx) run->nvtx->pop();
  return status;
}

void th_run_output(const th_run *run, uint32_t o, th_tensor_out *out) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  uint32_t kind = p->output_kind[o], tensor = p->output_tensor[o], buffer = p->tensor_buffer[tensor];
  th_view v;
  th__run_view(run, tensor, &v);
  *out = (th_tensor_out){.present = kind == 0 || kind == 5 || kind == 6, .borrowed = p->buffer_kind[buffer] == TH_BUFFER_BORROWED, .slot = p->buffer_index[buffer],
                         .offset = run->values[p->tensor_offset[tensor]], .dtype = v.dtype, .rank = v.rank};
  memcpy(out->dims, v.dims, v.rank * sizeof *v.dims);
  memcpy(out->strides, v.strides, v.rank * sizeof *v.strides);
  if (!out->borrowed) return;
  th_view base;
  th__run_view(run, p->input_tensor[out->slot], &base);
  out->whole = out->offset == 0 && base.rank == v.rank && base.dtype == v.dtype && !memcmp(base.dims, v.dims, v.rank * sizeof *v.dims) &&
               !memcmp(base.strides, v.strides, v.rank * sizeof *v.strides);
}

void th_run_end(th_run *run) {
  if (!run) return;
  for (size_t i = 0; run->requests && i < run->plan->wire->n_instr_kind; i++)
    if (run->requests[i]) th_status_free(th_request_wait(run->requests[i], 1000));
  run->lost = run->lost || (run->requests && run->context.world > 1 && th_world_lost());
  if (run->arena && !run->lost) {
    pthread_mutex_lock(&run->plan->lock);
    if (!run->plan->arena) {
      run->plan->arena = run->arena;
      run->plan->arena_bytes = run->arena_bytes;
      run->arena = NULL;
    }
    pthread_mutex_unlock(&run->plan->lock);
    free(run->arena);
  }
  free(run->own_values);
  free(run->staged);
  free(run->layout.copies);
  free(run->profile);
  free(run->buffers);
  free(run);
}
