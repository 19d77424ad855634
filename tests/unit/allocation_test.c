/* Allocation failure, injected: the n-th allocation of the arena fails, for n = 0, 1, 2, ... until the work is done without
 * one. Each failure must come back as RESOURCE_EXHAUSTED. Under AddressSanitizer this also says that nothing is used
 * after it and nothing beside the arena is left over. */
#include <limits.h>

#include "executors/registry.h"
#include "ir/pass.h"
#include "tests/unit/unit.h"

typedef struct work {
  th_arena *arena;
  const char *text;
  size_t size;
  const uint8_t *bytes;
  size_t bytes_size;
  th_options options;
  th_group group;
} work;

static th_status parse(void *user) {
  work *w = user;
  th_trace *trace;
  return th_trace_parse(th_context_create(w->arena), w->text, w->size, &trace);
}

static th_status decode(void *user) {
  work *w = user;
  th_trace *trace;
  return th_trace_decode(th_context_create(w->arena), w->bytes, w->bytes_size, &trace);
}

static th_status pipeline(void *user) {
  work *w = user;
  th_trace *trace;
  th_plans plans;
  th_options o = w->options;
  TH_TRY(th_trace_parse(th_context_create(w->arena), w->text, w->size, &trace));
  for (uint32_t i = 0; i < trace->graphs[0]->n_inputs; i++)
    o.n_param_group += trace->inputs[i].kind == TH_INPUT_PARAMETER && trace->inputs[i].requires_grad;
  if (o.mode == TH_MODE_TRAIN_STEP) {
    o.n_groups = 1;
    o.groups = &w->group;
    o.param_group = TH_ARENA_ARRAY(w->arena, uint32_t, o.n_param_group);
  } else {
    o.n_param_group = 0;
  }
  return th_pipeline_run(&o, trace, NULL, NULL, NULL, &plans);
}

/* Fails allocation n, in growing steps once `dense` of them have been failed one by one; returns how many were failed. */
static long until_success(const char *what, th_status (*body)(void *user), work *w, long dense, uint64_t *random) {
  long failed = 0;
  for (long n = 0;; failed++) {
    w->arena = th_arena_create(0);
    th_arena_fail_after(w->arena, n);
    th_status status = th_arena_guard(w->arena, body, w);
    th_arena_destroy(w->arena);
    if (!status) break;
    cr_assert_eq(th_status_code(status), TH_CODE_RESOURCE_EXHAUSTED, "%s, allocation %ld: %s", what, n, th_status_message(status));
    th_status_free(status);
    n += n < dense ? 1 : 1 + (long)unit_random(random, (uint64_t)(n / 100));
  }
  cr_assert_gt(failed, 10, "%s", what);
  return failed;
}

typedef struct tour {
  uint64_t random;
  long failed;
  int encoded;
} tour;

static th_status encode(void *user) {
  work *w = user;
  th_trace *trace;
  uint8_t *bytes;
  TH_TRY(th_trace_parse(th_context_create(w->arena), w->text, w->size, &trace));
  if (th_trace_level(trace) >= TH_LEVEL_REGION) return TH_OK;
  TH_TRY(th_trace_encode(trace, &bytes, &w->bytes_size));
  w->bytes = bytes;
  return TH_OK;
}

static void read_both_forms(const char *path, void *user) {
  tour *t = user;
  th_arena *keep = th_arena_create(0);
  work w = {.arena = keep};
  w.text = unit_read(keep, path, &w.size);
  th_status status = th_arena_guard(keep, encode, &w);
  if (status) { /* claimed ops and unbound symbols have no wire form */
    cr_assert_eq(th_status_code(status), TH_CODE_INVALID_ARGUMENT, "%s: %s", path, th_status_message(status));
    th_status_free(status);
    w.bytes = NULL;
  }
  t->failed += until_success(path, parse, &w, LONG_MAX, &t->random);
  if (w.bytes) {
    t->failed += until_success(path, decode, &w, LONG_MAX, &t->random);
    t->encoded++;
  }
  th_arena_destroy(keep);
}

Test(allocation, reading_every_golden_trace, .timeout = 120) {
  tour t = {.random = unit_seed("allocation.reading")};
  int files = unit_golden(read_both_forms, &t);
  cr_assert_geq(files, 40);
  cr_assert_geq(t.encoded, 15);
  fprintf(stderr, "%d traces, %d of them encoded, %ld failed allocations\n", files, t.encoded, t.failed);
}

static void run_passes(const char *program, th_options options) {
  uint64_t random = unit_seed(program);
  char path[4096];
  th_arena *keep = th_arena_create(0);
  work w = {.options = options, .group = {.weight_decay = true}};
  snprintf(path, sizeof path, "%s/tests/conformance/golden/%s/capture.tir", getenv("THUNDER_SOURCE_DIR") ? getenv("THUNDER_SOURCE_DIR") : ".",
           program);
  w.text = unit_read(keep, path, &w.size);
  long failed = until_success(program, pipeline, &w, 500, &random);
  fprintf(stderr, "%s: %ld failed allocations\n", program, failed);
  th_arena_destroy(keep);
}

Test(allocation, passes_forward, .timeout = 120) { run_passes("symbolic", th_options_default()); }

Test(allocation, passes_backward, .timeout = 120) {
  th_options o = th_options_default();
  o.mode = TH_MODE_FORWARD_BACKWARD;
  run_passes("attention", o);
}

Test(allocation, passes_train_step, .timeout = 120) {
  th_options o = th_options_default();
  o.mode = TH_MODE_TRAIN_STEP;
  o.optimizer = TH_OPTIMIZER_ADAMW;
  o.clip = true;
  o.world = 2;
  run_passes("linear", o);
}
