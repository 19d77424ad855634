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

typedef struct event { const char *plan, *pass; const th_trace *trace; uint64_t ns; } event;

typedef struct observer {
  th_pass_observer after; /* NULL: nobody looks */
  void *user;
  bool waits;             /* what a pass made is kept, and told later (or never) */
  th_arena *arena;
  event *events;
  size_t n, capacity;
} observer;

static th_status run_pass(const th_options *options, const th_pass *pass, const char *plan, const th_trace *in, observer *o, th_trace **out) {
  uint64_t start = now_ns();
  th_status status = pass->run(options, in, out);
  if (status) return status;
  event made = {plan, pass->name, *out, now_ns() - start};
  if (o->waits) TH_PUSH(o->arena, o->events, o->n, o->capacity, made);
  else if (o->after) o->after(o->user, made.plan, made.pass, made.trace, made.ns);
  return verifies() ? th_pass_verify(options, pass, *out) : TH_OK;
}

static void tell(observer *o) {
  for (size_t i = 0; i < o->n && o->after; i++) o->after(o->user, o->events[i].plan, o->events[i].pass, o->events[i].trace, o->events[i].ns);
}

/* `why` is told which pass failed only where it is a fault of ours: users' errors speak of their program. */
static th_status blame(th_status status, const char *pass) {
  return th_status_code(status) == TH_CODE_INTERNAL ? th_status_prefix(status, "pass %s", pass) : status;
}

/* Passes `from` to `to` (not included) of the table on `plans`; *out_ended: `last` was among them. */
static th_status run_passes(const th_options *options, size_t from, size_t to, const char *last, observer *o, th_plans *plans, bool *out_ended) {
  *out_ended = false;
  for (size_t i = from; i < to && !*out_ended; i++) {
    const th_pass *pass = &table[i];
    *out_ended = last && !strcmp(pass->name, last);
    if (!pass->wanted(options) || disabled(options, pass->name)) continue;
    if (!strcmp(pass->name, "forward")) { /* both halves from one joint trace */
      const th_trace *joint = plans->traces[0];
      TH_TRY(blame(run_pass(options, pass, plans->names[0], joint, o, &plans->traces[0]), pass->name));
      TH_TRY(blame(run_pass(options, th_pass_find("backward"), plans->names[1], joint, o, &plans->traces[1]), "backward"));
      plans->n = 2;
    } else if (strcmp(pass->name, "backward")) {
      for (size_t k = 0; k < plans->n; k++) TH_TRY(blame(run_pass(options, pass, plans->names[k], plans->traces[k], o, &plans->traces[k]), pass->name));
    }
  }
  return TH_OK;
}

/* From the pass remat on, again and again while the plan of a step needs more than it may and gets smaller by it. What is alive at a time is
 * estimated there; how much more a plan takes (gaps in the arena, what kernels use while they run) is seen from the plan before. */
static th_status run_to_fit(const th_options *options, size_t remat, const char *last, observer *o, th_plans *plans) {
  enum { MAX_TRIES = 12, STEP = 64 /* the aim goes down by 1 of so many, at least */ };
  const th_plans start = *plans;
  th_options given = *options;
  int64_t limit = (int64_t)(options->memory_limit ? options->memory_limit : options->target.memory), aim = 0, least = INT64_MAX;
  for (int tries = 0; tries < MAX_TRIES; tries++) {
    observer mine = {.after = o->after, .user = o->user, .waits = true, .arena = o->arena};
    th_plans made = start;
    bool ended;
    TH_TRY(run_passes(&given, remat, N_PASSES, last, &mine, &made, &ended));
    bool planned = limit && made.n == 1 && options->mode == TH_MODE_TRAIN_STEP && th_trace_level(made.traces[0]) == TH_LEVEL_PLAN;
    th_plan_bytes bytes = planned ? th_plan_predict(made.traces[0], NULL) : (th_plan_bytes){0};
    if (bytes.peak < least) {
      *plans = made;
      *o = mine;
      least = bytes.peak;
    }
    if (!planned || bytes.peak <= limit || given.live_limit == 1) break;
    int64_t excess = bytes.peak - limit;
    aim = tries ? aim - (excess > aim / STEP ? excess : aim / STEP) : bytes.arena - excess;
    given.live_limit = (uint64_t)(aim > 0 ? aim : 1);
  }
  tell(o);
  return TH_OK;
}

th_status th_pipeline_run(const th_options *options, const th_trace *in, const char *last, th_pass_observer after, void *user,
                          th_plans *out) {
  th_plans plans = {.n = 1, .names = {options->mode == TH_MODE_TRAIN_STEP ? "step" : "forward", "backward"}, .traces = {(th_trace *)in}};
  observer o = {.after = after, .user = user, .arena = th_context_arena(in->context)};
  size_t remat = 0;
  bool ended;
  if (last && !th_pass_find(last)) return TH_ERROR(INVALID_ARGUMENT, "there is no pass called \"%s\"", last);
  while (strcmp(table[remat].name, "remat")) remat++;
  TH_TRY(run_passes(options, 0, remat, last, &o, &plans, &ended));
  if (!ended) TH_TRY(run_to_fit(options, remat, last, &o, &plans));
  *out = plans;
  return TH_OK;
}
