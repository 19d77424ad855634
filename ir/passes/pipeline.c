#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ir/passes/passes.h"
#include "ir/passes/plan.h"

#define TH_PASS(name_, level_, condition_, why_) static bool is_wanted_##name_(const th_options *options) { return condition_; }
#include "ir/passes/passes.def"
#undef TH_PASS

static const th_pass table[] = {
#define TH_PASS(name_, level_, condition_, why_) {.name = #name_, .level = TH_LEVEL_##level_, .why = why_, .run = th_pass_##name_, .wanted = is_wanted_##name_},
#include "ir/passes/passes.def"
#undef TH_PASS
};
enum { N_PASSES = sizeof table / sizeof *table };

const th_pass *th_pass_at(size_t i) { return i < N_PASSES ? &table[i] : NULL; }

const th_pass *th_pass_find(const char *name) {
  for (size_t i = 0; i < N_PASSES; i++)
    if (!strcmp(table[i].name, name)) return &table[i];
  return NULL;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool disabled(const th_options *options, const char *name) {
  for (uint32_t i = 0; i < options->n_disabled; i++)
    if (!strcmp(options->disabled[i], name)) return true;
  return false;
}

static bool verifies(void) { /* a race writes the same value twice */
  static int wanted = -1;
  if (wanted < 0) wanted = getenv("THUNDER_VERIFY") && !strcmp(getenv("THUNDER_VERIFY"), "1");
  return wanted;
}

th_status th_pass_verify(const th_options *options, const th_pass *pass, const th_trace *made) {
  th_status status = th_trace_verify(made, pass->level);
  if (!status && pass->level == TH_LEVEL_PLAN) status = th_plan_check(options, made, NULL);
  return status ? TH_ERROR(INTERNAL, "what it made breaks a rule: %s", th_status_message(status)) : TH_OK;
}

static th_status run_pass(const th_options *options, const th_pass *pass, const char *plan, const th_trace *in, th_pass_observer after,
                          void *user, th_trace **out) {
  uint64_t start = now_ns();
  th_status status = pass->run(options, in, out);
  if (status) return status;
  if (after) after(user, plan, pass->name, *out, now_ns() - start);
  return verifies() ? th_pass_verify(options, pass, *out) : TH_OK;
}

/* `why` is told which pass failed only where it is a fault of ours: users' errors speak of their program. */
static th_status blame(th_status status, const char *pass) {
  return th_status_code(status) == TH_CODE_INTERNAL ? th_status_prefix(status, "pass %s", pass) : status;
}

th_status th_pipeline_run(const th_options *options, const th_trace *in, const char *last, th_pass_observer after, void *user,
                          th_plans *out) {
  th_trace *current[2] = {(th_trace *)in, NULL};
  th_plans plans = {.n = 1, .names = {options->mode == TH_MODE_TRAIN_STEP ? "step" : "forward", "backward"}};
  if (last && !th_pass_find(last)) return TH_ERROR(INVALID_ARGUMENT, "there is no pass called \"%s\"", last);
  for (size_t i = 0; i < N_PASSES; i++) {
    const th_pass *pass = &table[i];
    if (!pass->wanted(options) || disabled(options, pass->name)) {
      if (last && !strcmp(pass->name, last)) break;
      continue;
    }
    if (!strcmp(pass->name, "forward")) { /* both halves from one joint trace */
      const th_trace *joint = current[0];
      TH_TRY(blame(run_pass(options, pass, plans.names[0], joint, after, user, &current[0]), pass->name));
      TH_TRY(blame(run_pass(options, th_pass_find("backward"), plans.names[1], joint, after, user, &current[1]), "backward"));
      plans.n = 2;
    } else if (strcmp(pass->name, "backward")) {
      for (size_t k = 0; k < plans.n; k++) TH_TRY(blame(run_pass(options, pass, plans.names[k], current[k], after, user, &current[k]), pass->name));
    }
    if (last && !strcmp(pass->name, last)) break;
  }
  plans.traces[0] = current[0];
  plans.traces[1] = current[1];
  *out = plans;
  return TH_OK;
}
