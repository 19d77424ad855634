/* A profiled call's times on the device: events on its stream before and after each region, read when the stream has been waited for once.
 *
 *   host    issue 0 | issue 1 | issue 2 | ...                    | wait
 *   stream  zeroes  e[0]  e[1] region 0 e[2]  e[3] region 1 e[4]  ...       e: c->events
 *
 * Events know no clock but their own. The last one is put at the end of the wait, which is later by what a wait takes to return. */
#include <math.h>
#include <stdlib.h>

#include "executors/run/cuda/program.h"

static uint32_t event_count(const th_cuda_call *c) { return 2 * th_plan_region_count(c->run->plan) + 1; }

static bool is_on_device(const th_cuda_call *c, uint32_t region) { /* a wait has nothing to wait for on one stream */
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  return region >= p->n_instr_kind || (p->instr_kind[region] != TH_INSTR_SCALARS && p->instr_kind[region] != TH_INSTR_WAIT);
}

th_status th__cuda_profile_start(th_cuda_call *c) {
  const th_run *run = c->run;
  uint32_t n = event_count(c);
  int64_t arena = run->values[run->plan->wire->arena_size];
  c->events = calloc(n, sizeof *c->events);
  if (!c->events) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the events of a profiled call");
  for (uint32_t i = 0; i < n; i++) TH_TRY(TH_CUDA(c->driver, event_create, (&c->events[i], 0)));
  /* Nothing lives in the arena yet. */
  if (arena > 0) TH_TRY(TH_CUDA(c->driver, set_8, ((CUdeviceptr)(uintptr_t)run->device_memory, 0, (size_t)arena, c->stream)));
  return TH_CUDA(c->driver, event_record, (c->events[0], c->stream));
}

th_status th__cuda_region(th_cuda_call *c, uint32_t region, th_status (*work)(th_cuda_call *, size_t), size_t i) {
  bool timed = c->events && is_on_device(c, region);
  th_status status = TH_OK;
  th__region_begin(c->run, region);
  if (timed) status = TH_CUDA(c->driver, event_record, (c->events[2 * region + 1], c->stream));
  if (!status) status = work(c, i);
  if (timed && !status) status = TH_CUDA(c->driver, event_record, (c->events[2 * region + 2], c->stream));
  th__region_end(c->run, region);
  return status;
}

static th_status elapsed(const th_cuda_call *c, uint32_t from, uint32_t to, int64_t *out_ns) {
  float ms;
  TH_TRY(TH_CUDA(c->driver, event_elapsed, (&ms, c->events[from], c->events[to])));
  *out_ns = llround((double)ms * 1e6);
  return TH_OK;
}

th_status th__cuda_profile_read(th_cuda_call *c) {
  uint32_t n = th_plan_region_count(c->run->plan);
  int64_t last, start;
  TH_TRY(TH_CUDA(c->driver, stream_synchronize, (c->stream)));
  start = th__now_ns();
  TH_TRY(elapsed(c, 0, event_count(c) - 1, &last)); /* of the copies out, which come last */
  start -= last;
  for (uint32_t i = 0; i < n; i++) {
    th_region_times *t = &c->run->profile[i];
    int64_t begin, length;
    if (!is_on_device(c, i)) continue;
    TH_TRY(elapsed(c, 0, 2 * i + 1, &begin));
    TH_TRY(elapsed(c, 2 * i + 1, 2 * i + 2, &length));
    t->device_begin = start + begin;
    t->device_end = t->device_begin + length;
  }
  return TH_OK;
}

void th__cuda_profile_stop(th_cuda_call *c) {
  for (uint32_t i = 0; c->events && i < event_count(c); i++)
    if (c->events[i]) c->driver->event_destroy(c->events[i]);
  free(c->events);
  c->events = NULL;
}

/* ---- profile.h ---- */

th_status th_device_attributes_get(int32_t device, th_device_attributes *out) {
  const th_cuda_driver *d;
  CUdevice ordinal;
  *out = (th_device_attributes){0};
  TH_TRY(th_cuda_driver_open(&d));
  TH_TRY(th_status_prefix(TH_CUDA(d, device_get, (&ordinal, device)), "cuda:%d", device));
  struct { int attribute; int32_t *to; } wanted[] = {{TH_CU_CAPABILITY_MAJOR, &out->major}, {TH_CU_CAPABILITY_MINOR, &out->minor}, {TH_CU_MULTIPROCESSORS, &out->sms},
                                                     {TH_CU_MEMORY_CLOCK_RATE, &out->memory_khz}, {TH_CU_MEMORY_BUS_WIDTH, &out->bus_bits}};
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
    TH_TRY(th_status_prefix(TH_CUDA(d, device_attribute, (wanted[i].to, wanted[i].attribute, ordinal)), "cuda:%d", device));
  return TH_OK;
}
