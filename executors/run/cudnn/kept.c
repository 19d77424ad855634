/* See kept.h. */
#include "executors/run/cudnn/kept.h"

#include <stdlib.h>

#include "ir/base/log.h"

/* One plan for each description that the instruction was called with (run-time sizes), newest first. None is dropped before the instruction is: a CUDA
 * graph may hold its kernels. */
typedef struct kept_plan { struct kept_plan *next; th_cudnn_plan *plan; } kept_plan;
typedef struct kept_state {
  th_library_state base;
  th_cudnn_handle *handle;
  kept_plan *plans;
} kept_state;

static void release(th_library_state *base) {
  kept_state *state = (kept_state *)base;
  for (kept_plan *p = state->plans, *next; p; p = next) {
    next = p->next;
    th_cudnn_plan_destroy(p->plan);
    free(p);
  }
  free(state);
}

static th_status prepare_state(const th_library_args *args, kept_state **out) {
  *out = (kept_state *)*args->state;
  if (*out) return TH_OK;
  kept_state *state = calloc(1, sizeof *state);
  if (!state) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for an instruction's state");
  state->base.release = release;
  th_status status = th_cudnn_handle_get(args->device, &state->handle);
  if (status) {
    free(state);
    return status;
  }
  *args->state = &state->base;
  *out = state;
  return TH_OK;
}

/* The blob's plan where it fits, else one made here. */
static th_status make_plan(const th_library_args *args, const th_cudnn_kind *kind, const void *what, th_cudnn_handle *handle, th_cudnn_plan **out) {
  char why[1024] = "none came with the program", text[512];
  if (args->blob) {
    th_status status = th_cudnn_plan_read(kind, args->blob, args->blob_size, what, handle, NULL, out);
    if (!status) return TH_OK;
    th_status_format(status, why, sizeof why);
    th_status_free(status);
  }
  th_cudnn_format(kind, what, text, sizeof text);
  th_log_level level = args->blob ? TH_LOG_WARNING : TH_LOG_INFO;
  if (level <= th_log_level_get()) th_log_write(level, "cudnn: a plan for %s is made in this process (%s)", text, why);
  return th_cudnn_plan_create(kind, what, handle, out);
}

th_status th__cudnn_kept(const th_library_args *args, const th_cudnn_kind *kind, const void *what, th_cudnn_plan **out_plan, th_cudnn_handle **out_handle) {
  kept_state *state = (kept_state *)*args->state;
  char text[512];
  for (kept_plan *p = state ? state->plans : NULL; p; p = p->next)
    if (th_cudnn_equal(kind, th_cudnn_plan_what(p->plan), what)) {
      *out_plan = p->plan;
      *out_handle = state->handle;
      return TH_OK;
    }
  if (args->capturing) {
    th_cudnn_format(kind, what, text, sizeof text);
    return TH_ERROR(FAILED_PRECONDITION, "cudnn: %s has no plan yet and none can be made while a CUDA graph is captured; run once before", text);
  }
  TH_TRY(prepare_state(args, &state));
  kept_plan *kept = calloc(1, sizeof *kept);
  if (!kept) return TH_ERROR(RESOURCE_EXHAUSTED, "cudnn: no memory for a plan");
  th_status status = make_plan(args, kind, what, state->handle, &kept->plan);
  if (status) {
    free(kept);
    return status;
  }
  kept->next = state->plans;
  state->plans = kept;
  *out_plan = kept->plan;
  *out_handle = state->handle;
  return TH_OK;
}
