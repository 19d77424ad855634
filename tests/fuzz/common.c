#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/registry.h"
#include "tests/fuzz/fuzz.h"

fuzz_counts fuzz_seen;

uint32_t fuzz_hash(const uint8_t *data, size_t size) { /* FNV-1a */
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < size; i++) h = (h ^ data[i]) * 16777619u;
  return h;
}

uint32_t fuzz_random(uint32_t *s, uint32_t below) { /* xorshift32 */
  *s ^= *s << 13;
  *s ^= *s >> 17;
  *s ^= *s << 5;
  return below ? *s % below : 0;
}

void fuzz_broken(const char *rule, const char *more) {
  fprintf(stderr, "broken: %s: %s\n", rule, more);
  abort();
}

th_op_kind fuzz_like(uint32_t *state, th_op_kind kind) {
  const th_op_spec *spec = th_op_spec_get(kind);
  uint32_t start = fuzz_random(state, TH_OP_COUNT);
  for (uint32_t i = 0; i < TH_OP_COUNT; i++) {
    const th_op_spec *o = th_op_spec_get((th_op_kind)((start + i) % TH_OP_COUNT));
    if (o->kind != kind && o->level == spec->level && o->n_operands == spec->n_operands && o->n_attrs == spec->n_attrs && o->n_results == spec->n_results &&
        (o->traits & TH_POINTWISE) == (spec->traits & TH_POINTWISE))
      return o->kind;
  }
  return kind;
}

static void must(th_status status, const char *rule) {
  if (status) fuzz_broken(rule, th_status_message(status));
}

static void round_trip(const th_trace *trace, const char *text) {
  th_arena *a = th_context_arena(trace->context);
  th_trace *again;
  must(th_trace_parse(th_context_create(a), text, strlen(text), &again), "what was printed parses");
  const char *second = th_trace_print(again);
  if (strcmp(text, second)) fuzz_broken("what was printed and parsed prints the same", second);
  if (th_trace_level(trace) >= TH_LEVEL_REGION) return;
  uint8_t *bytes;
  size_t size;
  th_status status = th_trace_encode(trace, &bytes, &size);
  if (status) { /* an unbound symbol, a claimed op, a result in host memory */
    th_status_free(status);
    return;
  }
  must(th_trace_decode(th_context_create(a), bytes, size, &again), "what was encoded decodes");
  if (strcmp(text, th_trace_print(again))) fuzz_broken("what was encoded and decoded prints the same", th_trace_print(again));
}

static th_options options_for(const th_trace *trace, uint32_t hash, th_group *group) {
  th_options o = th_options_default();
  o.mode = (th_mode)(hash % 3);
  if (hash >> 4 & 1) o.world = 2;
  if (o.mode != TH_MODE_TRAIN_STEP) return o;
  o.optimizer = (th_optimizer)(hash >> 5 & 3);
  o.clip = hash >> 7 & 1;
  *group = (th_group){.momentum = hash >> 8 & 1, .weight_decay = hash >> 9 & 1, .amsgrad = hash >> 10 & 1, .nesterov = (hash >> 8 & 1) && (hash >> 11 & 1)};
  for (uint32_t i = 0; i < trace->graphs[0]->n_inputs; i++) o.n_param_group += trace->inputs[i].kind == TH_INPUT_PARAMETER && trace->inputs[i].requires_grad;
  o.n_groups = 1;
  o.groups = group;
  o.param_group = TH_ARENA_ARRAY(th_context_arena(trace->context), uint32_t, o.n_param_group);
  return o;
}

static void print_pass(void *user, const char *plan, const char *pass, const th_trace *trace, uint64_t ns) {
  (void)user, (void)ns;
  fprintf(stderr, "// after %s (%s)\n%s\n", pass, plan, th_trace_print(trace));
}

void fuzz_trace(th_trace *trace, uint32_t hash) {
  th_level level = th_trace_level(trace);
  fuzz_seen.parsed++;
  th_status status = th_trace_verify(trace, level);
  if (status) {
    th_status_free(status);
    return;
  }
  fuzz_seen.verified++;
  round_trip(trace, th_trace_print(trace));
  th_group group = {0};
  th_plans plans;
  if (level >= TH_LEVEL_REGION) return; /* what stands below is of no job */
  th_options options = options_for(trace, hash, &group);
  fuzz_seen.reached_passes++;
  status = th_pipeline_run(&options, trace, NULL, getenv("THUNDER_FUZZ_DUMP") ? print_pass : NULL, NULL, &plans); /* verified after each pass: THUNDER_VERIFY=1 */
  if (!status) {
    fuzz_seen.through++;
    return;
  }
  if (th_status_code(status) == TH_CODE_INTERNAL) fuzz_broken("no pass breaks a trace that was verified", th_status_message(status));
  th_status_free(status);
}
