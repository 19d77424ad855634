/* Regions of a plan, their times on the host, and their bytes and flops; a device's times are in cuda/profile.c. */
#include "executors/run/profile.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "executors/run/run.h"

int64_t th__now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- regions ---- */

uint32_t th_plan_region_count(const th_plan *plan) { return th_plan_instruction_count(plan) + (plan->device == TH_DEVICE_CUDA ? 2 : 0); }

void th_plan_region(const th_plan *plan, uint32_t i, th_region *out) {
  static const char *const kinds[] = {"kernel", "library", "collective", "wait", "copy", "fill", "scalars"};
  const Thunder__Wire__Plan *p = plan->wire;
  if (i >= p->n_instr_kind) {
    out->kind = out->name = i == p->n_instr_kind ? "copies in" : "copies out";
    out->op = TH_NO_OP;
    return;
  }
  uint32_t kind = p->instr_kind[i], target = p->instr_target[i];
  out->kind = out->name = kinds[kind - TH_INSTR_KERNEL];
  if (kind == TH_INSTR_KERNEL) out->name = p->kernel_symbol[target];
  if (kind == TH_INSTR_LIBRARY || kind == TH_INSTR_START) out->name = p->strings[target];
  if (kind == TH_INSTR_WAIT) out->name = p->strings[p->instr_target[target]];
  out->op = p->instr_op[i];
}

th_status th_plan_set_labels(th_plan *plan, const char *const *labels, uint32_t count) {
  if (count != th_plan_region_count(plan)) return TH_ERROR(INVALID_ARGUMENT, "plan %s has %u regions, %u labels were given", plan->wire->name, th_plan_region_count(plan), count);
  size_t bytes = count * sizeof(char *);
  for (uint32_t i = 0; i < count; i++) bytes += strlen(labels[i]) + 1;
  char **copy = malloc(bytes + 1), **none = NULL, *at = (char *)(copy + count);
  if (!copy) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the labels of a plan");
  for (uint32_t i = 0; i < count; at += strlen(at) + 1, i++) copy[i] = strcpy(at, labels[i]);
  if (!atomic_compare_exchange_strong(&plan->labels, &none, copy)) free(copy);
  return TH_OK;
}

/* ---- times ---- */

th_status th_run_set_profile(th_run *run) {
  uint32_t n = th_plan_region_count(run->plan);
  if (!run->profile) run->profile = calloc(n + 1, sizeof *run->profile);
  if (!run->profile) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the times of a call");
  for (uint32_t i = 0; i <= n; i++) run->profile[i] = (th_region_times){.device_begin = -1, .device_end = -1, .unit = ""};
  return TH_OK;
}

void th__region_begin(th_run *run, uint32_t i) {
  if (run->nvtx) {
    char **labels = atomic_load(&run->plan->labels);
    th_region region;
    th_plan_region(run->plan, i, &region);
    run->nvtx->push(labels ? labels[i] : region.name);
  }
  if (run->profile) run->profile[i].host_begin = th__now_ns();
}

void th__region_end(th_run *run, uint32_t i) {
  if (run->profile) run->profile[i].host_end = th__now_ns();
  if (run->nvtx) run->nvtx->pop();
}

void th_run_span(const th_run *run, int64_t *out_begin, int64_t *out_end) { /* behind the regions' times */
  const th_region_times *whole = &run->profile[th_plan_region_count(run->plan)];
  *out_begin = whole->host_begin;
  *out_end = whole->host_end;
}

/* ---- bytes and flops ---- */

static int64_t view_bytes(const th_run *run, uint32_t tensor) {
  th_view v;
  th__run_view(run, tensor, &v);
  int64_t n = (int64_t)th_dtype_size(v.dtype);
  for (uint32_t i = 0; i < v.rank; i++) n *= v.strides[i] || !v.dims[i] ? v.dims[i] : 1;
  return n;
}

static bool is_second_kernel(const Thunder__Wire__Plan *p, size_t i) {
  if (!i || p->instr_kind[i] != TH_INSTR_KERNEL || p->instr_kind[i - 1] != TH_INSTR_KERNEL) return false;
  uint32_t a = p->instr_tensors_begin[i - 1], b = p->instr_tensors_begin[i], n = b - a;
  return n && p->instr_tensors_begin[i + 1] - b == n && !memcmp(p->instr_tensors + a, p->instr_tensors + b, n * sizeof *p->instr_tensors);
}

static int64_t region_bytes(const th_run *run, uint32_t i) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  int64_t total = 0;
  if (i < p->n_instr_kind) {
    if (p->instr_kind[i] == TH_INSTR_WAIT || is_second_kernel(p, i)) return 0;
    for (uint32_t k = p->instr_tensors_begin[i]; k < p->instr_tensors_begin[i + 1]; k++) total += view_bytes(run, p->instr_tensors[k]);
    return total;
  }
  const th_run_layout *l = &run->layout;
  if (i == p->n_instr_kind) {
    total = l->staged_total;
    for (size_t k = 0; k < p->n_input_tensor; k++) total += l->copies[k] >= 0 ? l->copy_bytes[k] : 0;
  } else {
    for (uint32_t k = 0; k < run->plan->n_escaping; k++) total += l->escaping[k] >= 0 ? run->values[p->buffer_size[run->plan->escaping[k]]] : 0;
  }
  return 2 * total;
}

static int64_t filter_elements(const th_view *w) { return w->rank && w->dims[0] ? th_view_numel(w) / w->dims[0] : 0; } /* w (O, C/groups, …) */

static int64_t attention_pairs(const th_library_args *a) {
  int64_t length = a->operands[0].dims[2], keys = a->operands[1].dims[2], pairs = length * keys;
  if (a->ints[0]) pairs = length <= keys ? length * (length + 1) / 2 : keys * (keys + 1) / 2 + (length - keys) * keys;
  return a->operands[0].dims[0] * a->operands[0].dims[1] * pairs;
}

static int64_t library_flops(const char *name, const th_library_args *a) {
  const th_view *x = a->operands, *y = a->results;
  int64_t n;
  if (!strcmp(name, "dot") || !strcmp(name, "cublaslt.matmul")) {
    n = 2 * th_view_numel(y);
    for (int64_t k = 0, at = 2 + 2 * a->ints[0]; k < a->ints[1]; k++) n *= x->dims[a->ints[at + k]];
    return n;
  }
  if (!strncmp(name, "cudnn.", 6)) name += 6;
  if (!strcmp(name, "conv")) return 2 * th_view_numel(y) * filter_elements(&x[1]);
  if (!strcmp(name, "conv_grad_x")) return 2 * th_view_numel(x) * filter_elements(&x[1]);
  if (!strcmp(name, "conv_grad_w")) return 2 * th_view_numel(&x[1]) * filter_elements(y);
  if (!strcmp(name, "attention")) return 2 * attention_pairs(a) * (x[0].dims[3] + x[2].dims[3]);
  if (!strcmp(name, "attention_backward")) return 2 * attention_pairs(a) * (3 * x[0].dims[3] + 2 * x[2].dims[3]);
  return 0;
}

void th_run_region(const th_run *run, uint32_t i, th_region_times *out) {
  const Thunder__Wire__Plan *p = run->plan->wire;
  *out = run->profile[i];
  out->bytes = region_bytes(run, i);
  if (i >= p->n_instr_kind || p->instr_kind[i] != TH_INSTR_LIBRARY) return;
  th_view views[TH_RUN_VIEWS];
  int64_t ints[TH_RUN_INTS];
  th_library_args args;
  th_status status = th__run_library_args(run, i, views, ints, &args); /* went through a moment ago */
  const char *name = p->strings[p->instr_target[i]];
  if (!status) out->flops = library_flops(name, &args);
  th_status_free(status);
  if (!out->flops) return;
  bool tf32 = (!strcmp(name, "cublaslt.matmul") || !strncmp(name, "cudnn.conv", 10)) && args.operands[0].dtype == TH_DTYPE_f32 && ints[args.n_ints - 1];
  out->unit = tf32 ? "tf32" : th_dtype_name(args.operands[0].dtype);
}
