#include "executors/run/cuda/program.h"

#include <stdlib.h>
#include <string.h>

static void plan_free(const th_cuda_driver *d, th_cuda_plan *p, size_t n_instr) {
  for (size_t i = 0; p->states && i < n_instr; i++)
    if (p->states[i] && p->states[i]->release) p->states[i]->release(p->states[i]);
  for (size_t i = 0; i < TH_CUDA_RING; i++) {
    if (p->ring[i].event) d->event_destroy(p->ring[i].event);
    if (p->ring[i].host) d->host_free(p->ring[i].host);
  }
  th__cuda_graph_free(d, &p->graph);
  free(p->functions);
  free(p->shared);
  free(p->states);
  pthread_mutex_destroy(&p->lock);
}

void th__cuda_program_free(th_cuda_program *x) {
  while (x) {
    th_cuda_program *next = x->next;
    const th_cuda_driver *d = x->driver;
    CUcontext before = NULL;
    th_status entered = th_cuda_context_enter(d, x->context, &before);
    if (!entered) d->context_synchronize(); /* kernels may still run; of a process that ends all of this fails, and nothing is lost */
    for (size_t i = 0; i < x->n_plans; i++) plan_free(d, &x->plans[i], x->program->plans[i].wire->n_instr_kind);
    for (size_t i = 0; i < x->n_modules; i++)
      if (x->modules && x->modules[i]) d->module_unload(x->modules[i]);
    if (x->bad) d->host_free(x->bad);
    if (!entered) th_cuda_context_leave(d, x->context, before);
    th_status_free(entered);
    free(x->modules);
    free(x->plans);
    free(x);
    x = next;
  }
}

static th_status load(th_cuda_program *x) {
  const th_cuda_driver *d = x->driver;
  const Thunder__Wire__Executable *w = x->program->wire;
  x->modules = calloc(w->n_modules + 1, sizeof *x->modules);
  x->plans = calloc(x->program->n_plans + 1, sizeof *x->plans);
  if (!x->modules || !x->plans) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a program");
  for (; x->n_plans < x->program->n_plans; x->n_plans++) pthread_mutex_init(&x->plans[x->n_plans].lock, NULL);
  void *bad = NULL;
  TH_TRY(TH_CUDA(d, host_alloc, (&bad, 64, TH_CU_HOST_MAPPED | TH_CU_HOST_PORTABLE)));
  x->bad = bad;
  *x->bad = 0;
  TH_TRY(TH_CUDA(d, host_address, (&x->bad_address, bad, 0)));
  for (; x->n_modules < w->n_modules; x->n_modules++) {
    const Thunder__Wire__Module *m = w->modules[x->n_modules];
    if (strcmp(m->kind, "cubin")) continue;
    TH_TRY(th_status_prefix(TH_CUDA(d, module_load, (&x->modules[x->n_modules], m->code.data)), "module %zu (%.60s)", x->n_modules, m->name ? m->name : ""));
  }
  return TH_OK;
}

static th_status create(th_program *program, int32_t device, th_cuda_program **out) {
  const th_cuda_driver *d;
  CUdevice ordinal;
  CUcontext context, before;
  TH_TRY(th_cuda_driver_open(&d));
  TH_TRY(th_status_prefix(TH_CUDA(d, device_get, (&ordinal, device)), "cuda:%d", device));
  TH_TRY(th_status_prefix(TH_CUDA(d, primary_retain, (&context, ordinal)), "cuda:%d", device));
  TH_TRY(th_cuda_context_enter(d, context, &before));
  th_cuda_program *x = calloc(1, sizeof *x);
  th_status status = TH_OK;
  if (!x) status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a program");
  else {
    *x = (th_cuda_program){.driver = d, .device = device, .context = context, .program = program};
    status = load(x);
    if (status) th__cuda_program_free(x);
    else *out = x;
  }
  th_cuda_context_leave(d, context, before);
  return th_status_prefix(status, "cuda:%d", device);
}

th_status th__cuda_program_get(th_program *program, int32_t device, th_cuda_program **out) {
  th_status status = TH_OK;
  pthread_mutex_lock(&program->lock);
  th_cuda_program *x = program->cuda;
  while (x && x->device != device) x = x->next;
  if (!x && !(status = create(program, device, &x))) {
    x->next = program->cuda;
    program->cuda = x;
  }
  pthread_mutex_unlock(&program->lock);
  *out = status ? NULL : x;
  return status;
}

th_status th__cuda_program_check(th_cuda_program *x) {
  if (!__atomic_load_n(x->bad, __ATOMIC_RELAXED)) return TH_OK;
  unsigned bits = __atomic_exchange_n(x->bad, 0, __ATOMIC_RELAXED);
  if (bits & TH_KERNEL_INDEX) return TH_ERROR(OUT_OF_RANGE, "an index was out of range in an earlier call on cuda:%d; what kernels find is known after they have run", x->device);
  return bits ? TH_ERROR(INVALID_ARGUMENT, "an integer was divided by zero in an earlier call on cuda:%d; what kernels find is known after they have run", x->device) : TH_OK;
}

th_status th__cuda_plan_prepare(th_cuda_program *x, const th_plan *plan, th_cuda_plan *out) {
  const Thunder__Wire__Plan *p = plan->wire;
  if (out->functions) return TH_OK;
  CUfunction *functions = calloc(p->n_kernel_symbol + 1, sizeof *functions);
  if (!out->shared) out->shared = calloc(p->n_kernel_symbol + 1, sizeof *out->shared);
  if (!out->states) out->states = calloc(p->n_instr_kind + 1, sizeof *out->states);
  th_status status = functions && out->shared && out->states ? TH_OK : TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a plan's kernels");
  for (size_t i = 0; i < p->n_kernel_symbol && !status; i++)
    status = th_status_prefix(TH_CUDA(x->driver, module_function, (&functions[i], x->modules[p->kernel_module[i]], p->kernel_symbol[i])), "kernel %.60s", p->kernel_symbol[i]);
  if (status) free(functions);
  else out->functions = functions;
  return status;
}

/* ---- thunder.h ---- */

th_status th_plan_check_errors(th_plan *plan) {
  th_program *program = (th_program *)plan->program;
  th_status status = TH_OK;
  pthread_mutex_lock(&program->lock);
  for (th_cuda_program *x = program->cuda; x && !status; x = x->next) status = th__cuda_program_check(x);
  pthread_mutex_unlock(&program->lock);
  return status;
}

th_status th_plan_release(th_plan *plan) {
  th_program *program = (th_program *)plan->program;
  th_status status = TH_OK;
  pthread_mutex_lock(&program->lock);
  th_cuda_program *first = program->cuda;
  pthread_mutex_unlock(&program->lock);
  for (th_cuda_program *x = first; x; x = x->next) { /* entries are only ever put in front */
    th_cuda_plan *p = &x->plans[plan->index];
    CUcontext before;
    pthread_mutex_lock(&p->lock);
    th_status one = th_cuda_context_enter(x->driver, x->context, &before);
    if (!one) {
      one = th__cuda_graph_release(x->driver, &p->graph);
      th_cuda_context_leave(x->driver, x->context, before);
    }
    pthread_mutex_unlock(&p->lock);
    status = th_status_join(status, one);
  }
  return status;
}
