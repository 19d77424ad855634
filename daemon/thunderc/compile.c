#include "daemon/thunderc/compile.h"

#include <string.h>
#include <time.h>

#include "executors/emit/emit.h"
#include "executors/registry.h"
#include "ir/names.h"
#include "proto/compile.pb-c.h"

/* ---- protobuf in the arena ---- */

static void *allocate(void *user, size_t size) { return th_arena_alloc(user, size); }
static void release(void *user, void *pointer) {
  (void)user;
  (void)pointer;
}

/* ---- options ---- */

static th_status choice(const char *what, const char *text, const char *const *names, int n, int *out) {
  for (int i = 0; i < n; i++)
    if (!strcmp(text, names[i])) {
      *out = i;
      return TH_OK;
    }
  return TH_ERROR(INVALID_ARGUMENT, "%s is \"%s\"; this compiler knows %s, %s%s%s", what, text, names[0], names[1], n > 2 ? ", " : "", n > 2 ? names[2] : "");
}

static th_status train_step(th_arena *a, const Thunder__Wire__TrainStep *m, th_options *o) {
  static const char *const phases[] = {"update", "accumulate", "flush"}, *const optimizers[] = {"none", "sgd", "adam", "adamw"};
  int phase, optimizer;
  TH_TRY(choice("train_step.phase", m->phase ? m->phase : "", phases, 3, &phase));
  TH_TRY(choice("train_step.optimizer", m->optimizer ? m->optimizer : "none", optimizers, 4, &optimizer));
  o->phase = (th_phase)phase;
  o->optimizer = (th_optimizer)optimizer;
  o->clip = m->clip;
  o->accumulates = m->accumulates;
  o->loss_scale = m->loss_scale;
  o->loss_output = m->loss_output;
  th_group *groups = TH_ARENA_ARRAY(a, th_group, m->n_groups);
  for (size_t i = 0; i < m->n_groups; i++) {
    const Thunder__Wire__Group *g = m->groups[i];
    groups[i] = (th_group){.nesterov = g->nesterov, .momentum = g->momentum, .amsgrad = g->amsgrad, .maximize = g->maximize,
                           .weight_decay = g->weight_decay, .first_step = g->first_step};
  }
  o->n_groups = (uint32_t)m->n_groups;
  o->groups = groups;
  o->n_param_group = (uint32_t)m->n_param_group;
  o->param_group = m->param_group;
  return TH_OK;
}

/* Those named, in that order; numbers in host memory are always the host's. */
static th_status executors_of(th_arena *a, const Thunder__Wire__Options *m, th_options *o) {
  if (!m->n_executors) {
    th_executors_of(&o->target, &o->executors, &o->n_executors);
    return TH_OK;
  }
  const th_executor **executors = TH_ARENA_ARRAY(a, const th_executor *, m->n_executors + 1);
  bool host = false;
  for (size_t i = 0; i < m->n_executors; i++) {
    if (!(executors[i] = th_executor_find(m->executors[i])))
      return TH_ERROR(NOT_FOUND, "executor \"%s\" is not known to this compiler; it has \"cpu\", \"cuda\", \"cublaslt\", \"cudnn\", \"host\"", m->executors[i]);
    host |= !strcmp(m->executors[i], "host");
  }
  o->n_executors = (uint32_t)m->n_executors;
  if (th_target_is_cuda(o) && !host) executors[o->n_executors++] = th_executor_find("host");
  o->executors = executors;
  return TH_OK;
}

static th_status options_of(th_arena *a, const Thunder__Wire__CompileJob *job, th_options *o) {
  static const char *const modes[] = {"forward", "forward_backward", "train_step"};
  const Thunder__Wire__Options *m = job->options;
  int mode;
  *o = th_options_default();
  if (!m) return TH_ERROR(INVALID_ARGUMENT, "the job has no options");
  TH_TRY(choice("options.mode", m->mode ? m->mode : "", modes, 3, &mode));
  o->mode = (th_mode)mode;
  o->world = m->world ? m->world : 1;
  o->deterministic = m->deterministic;
  o->tf32 = m->tf32;
  o->bucket_bytes = m->bucket_bytes;
  o->chunk_bytes = m->chunk_bytes;
  o->memory_limit = m->memory_limit;
  o->n_disabled = (uint32_t)m->n_disabled_passes;
  o->disabled = (const char *const *)m->disabled_passes;
  if (m->precision && *m->precision && strcmp(m->precision, "f32"))
    return TH_ERROR(UNIMPLEMENTED, "precision \"%s\" is not known to this compiler; autocast regions of the trace say it", m->precision);
  if (o->mode == TH_MODE_TRAIN_STEP) {
    if (!m->train_step) return TH_ERROR(INVALID_ARGUMENT, "mode is train_step, but train_step is missing");
    TH_TRY(train_step(a, m->train_step, o));
  }
  if (job->target) {
    const Thunder__Wire__Target *t = job->target;
    if (t->name) o->target.name = t->name;
    if (t->arch) o->target.arch = t->arch;
    if (t->has_threads && t->threads) o->target.threads = t->threads;
    o->target.memory = t->memory;
    o->target.sms = t->sms;
    o->target.shared = t->shared;
    o->target.l2 = t->l2;
    o->target.n_libraries = (uint32_t)t->n_library;
    o->target.libraries = (const char *const *)t->library;
  }
  if (strcmp(o->target.name, "cpu") && strcmp(o->target.name, "cuda")) return TH_ERROR(UNIMPLEMENTED, "target \"%s\": this compiler makes code for cpu and cuda", o->target.name);
  return executors_of(a, m, o);
}

th_status th_compile_options(th_context *context, const uint8_t *bytes, size_t size, th_options *out, th_trace **out_trace) {
  th_arena *a = th_context_arena(context);
  ProtobufCAllocator allocator = {allocate, release, a};
  Thunder__Wire__CompileJob *job = thunder__wire__compile_job__unpack(&allocator, size, bytes);
  if (!job) return TH_ERROR(INVALID_ARGUMENT, "the job is not a CompileJob message (%zu bytes)", size);
  if (job->version != 1) return TH_ERROR(INVALID_ARGUMENT, "the job is of version %u, this compiler reads version 1", job->version);
  if (!job->has_trace) return TH_ERROR(INVALID_ARGUMENT, "the job has no trace");
  TH_TRY(options_of(a, job, out));
  TH_TRY(th_trace_decode(context, job->trace.data, job->trace.len, out_trace));
  return th_trace_verify(*out_trace, TH_LEVEL_TORCH);
}

/* ---- compile ---- */

typedef struct watch {
  th_arena *arena;
  th_compile_progress progress;
  void *user;
  uint32_t n_passes;
  th_emit_pass *passes;
  size_t n, capacity;
  uint64_t total_ns;
} watch;

static void after_pass(void *user, const char *plan, const char *pass, const th_trace *trace, uint64_t ns) {
  watch *w = user;
  TH_PUSH(w->arena, w->passes, w->n, w->capacity, ((th_emit_pass){.name = pass, .ns = ns}));
  w->total_ns += ns;
  if (w->progress) w->progress(w->user, pass, (uint32_t)w->n, w->n_passes);
}

typedef struct request {
  th_arena *arena;
  const uint8_t *job, *names;
  size_t size, names_size;
  const char *pass;
  th_compile_progress progress;
  void *user;
  uint8_t *out;
  size_t out_size;
  th_strbuf text;
  th_names *decoded_names;
} request;

static th_status compile(void *user) {
  request *q = user;
  th_context *context = th_context_create(q->arena);
  th_options options;
  th_trace *trace;
  th_plans plans;
  watch w = {.arena = q->arena, .progress = q->progress, .user = q->user};
  while (th_pass_at(w.n_passes)) w.n_passes++;
  TH_TRY(th_compile_options(context, q->job, q->size, &options, &trace));
  TH_TRY(th_pipeline_run(&options, trace, NULL, after_pass, &w, &plans));
  th_emit_plan emitted[2];
  for (size_t i = 0; i < plans.n; i++) emitted[i] = (th_emit_plan){.name = plans.names[i], .trace = plans.traces[i]};
  uint32_t ops = 0;
  for (size_t i = 0; i < trace->n_graphs; i++) ops += (uint32_t)trace->graphs[i]->n_ops;
  th_emit_report report = {.passes = w.passes, .n_passes = w.n, .total_ns = w.total_ns, .ops = ops};
  return th_emit(&options, emitted, plans.n, &report, q->progress, q->user, q->arena, &q->out, &q->out_size);
}

th_status th_compile_job(th_arena *arena, const uint8_t *job, size_t size, th_compile_progress progress, void *user,
                         uint8_t **out_executable, size_t *out_size) {
  request q = {.arena = arena, .job = job, .size = size, .progress = progress, .user = user};
  TH_TRY(th_arena_guard(arena, compile, &q));
  *out_executable = q.out;
  *out_size = q.out_size;
  return TH_OK;
}

/* ---- dump ---- */

static void show(request *q, const char *plan, const char *pass, const th_trace *trace) {
  if (q->pass && strcmp(q->pass, pass)) return;
  th_strbuf_printf(&q->text, "// after %s (%s)\n%s\n", pass, plan, th_trace_print_named(trace, q->decoded_names));
}

static void dump_pass(void *user, const char *plan, const char *pass, const th_trace *trace, uint64_t ns) {
  (void)ns;
  show(user, plan, pass, trace);
}

static th_status dump(void *user) {
  request *q = user;
  th_context *context = th_context_create(q->arena);
  th_options options;
  th_trace *trace;
  th_plans plans;
  q->text = th_strbuf_make(q->arena);
  TH_TRY(th_compile_options(context, q->job, q->size, &options, &trace));
  if (q->names_size) TH_TRY(th_names_decode(q->arena, q->names, q->names_size, &q->decoded_names));
  show(q, options.mode == TH_MODE_TRAIN_STEP ? "step" : "forward", "capture", trace);
  return th_pipeline_run(&options, trace, q->pass && strcmp(q->pass, "capture") ? q->pass : NULL, dump_pass, q, &plans);
}

th_status th_compile_dump(th_arena *arena, const uint8_t *job, size_t job_size, const uint8_t *names, size_t names_size,
                          const char *pass, const char **out_text) {
  request q = {.arena = arena, .job = job, .size = job_size, .names = names, .names_size = names_size, .pass = pass};
  TH_TRY(th_arena_guard(arena, dump, &q));
  *out_text = th_strbuf_text(&q.text);
  return TH_OK;
}
