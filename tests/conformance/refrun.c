/* th-refrun: serves requests on standard input until it ends. Lines are text, payloads follow them as bytes.
 *
 *   run WORLD SEED OFFSET N TEXT_BYTES\n <text of a trace>, then for each rank N tensors
 *     answer: ok M\n, then for each rank M tensors. Torch ops are lowered first; inputs of the kinds seed and offset are
 *     not among the N tensors, they are given their numbers here.
 *   pass NAME OPTIONS TEXT_BYTES\n <text>    OPTIONS: word,word,... or -; see set_option
 *     answer: ok BYTES\n <text of the trace after the pass>
 *   wire TEXT_BYTES\n <text>
 *     answer: ok BYTES\n <text of the trace after it was encoded and decoded>
 *
 * A tensor: DTYPE RANK d0 d1 ...\n <row-major bytes>. Any failure: error BYTES\n <message>. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/ref/ref.h"
#include "executors/registry.h"

typedef struct request {
  th_arena *arena;
  char line[4096];
  th_strbuf answer;
} request;

static th_status read_bytes(void *to, size_t size) {
  return fread(to, 1, size, stdin) == size ? TH_OK : TH_ERROR(DATA_LOSS, "standard input ended inside a payload");
}

static th_status read_text(request *q, size_t size, char **out) {
  *out = th_arena_alloc(q->arena, size + 1);
  return read_bytes(*out, size);
}

static th_status read_tensor(request *q, th_ref_tensor *out) {
  char name[16], line[1024];
  int at = 0, more;
  if (!fgets(line, sizeof line, stdin) || sscanf(line, "%15s %" SCNu32 "%n", name, &out->rank, &at) != 2 || out->rank > TH_MAX_RANK)
    return TH_ERROR(INVALID_ARGUMENT, "no tensor header");
  int64_t *dims = TH_ARENA_ARRAY(q->arena, int64_t, out->rank);
  size_t n = 1;
  for (uint32_t i = 0; i < out->rank; i++, at += more) {
    if (sscanf(line + at, "%" SCNd64 "%n", &dims[i], &more) != 1) return TH_ERROR(INVALID_ARGUMENT, "bad tensor header %s", line);
    n *= (size_t)dims[i];
  }
  out->dims = dims;
  out->dtype = th_dtype_parse(name, strlen(name));
  out->data = th_arena_alloc(q->arena, n * th_dtype_size(out->dtype));
  return read_bytes(out->data, n * th_dtype_size(out->dtype));
}

static void write_tensor(request *q, const th_ref_tensor *t) {
  size_t n = th_dtype_size(t->dtype);
  th_strbuf_printf(&q->answer, "%s %u", th_dtype_name(t->dtype), t->rank);
  for (uint32_t i = 0; i < t->rank; i++) {
    th_strbuf_printf(&q->answer, " %" PRId64, t->dims[i]);
    n *= (size_t)t->dims[i];
  }
  th_strbuf_add(&q->answer, "\n");
  th_strbuf_add_bytes(&q->answer, t->data, n);
}

static bool has_torch_ops(const th_trace *t) {
  for (size_t i = 0; i < t->graphs[0]->n_ops; i++)
    if (th_op_spec_get(t->graphs[0]->ops[i]->kind)->level == TH_LEVEL_TORCH) return true;
  return false;
}

static th_status lower(const th_options *options, th_trace **trace) {
  static const char *const passes[] = {"number", "decompose"};
  for (int i = 0; i < 2 && has_torch_ops(*trace); i++) TH_TRY(th_pass_find(passes[i])->run(options, *trace, trace));
  return TH_OK;
}

static th_status serve_run(request *q) {
  uint32_t world, given;
  int64_t numbers[2];
  size_t size;
  char *text;
  if (sscanf(q->line, "run %" SCNu32 " %" SCNd64 " %" SCNd64 " %" SCNu32 " %zu", &world, &numbers[0], &numbers[1], &given, &size) != 5)
    return TH_ERROR(INVALID_ARGUMENT, "bad request %s", q->line);
  th_options options = th_options_default();
  options.world = world;
  th_context *context = th_context_create(q->arena);
  th_trace *trace;
  TH_TRY(read_text(q, size, &text));
  th_ref_tensor *tensors = TH_ARENA_ARRAY(q->arena, th_ref_tensor, (size_t)world * given);
  for (size_t i = 0; i < (size_t)world * given; i++) TH_TRY(read_tensor(q, &tensors[i]));
  TH_TRY(th_trace_parse(context, text, size, &trace));
  TH_TRY(lower(&options, &trace));
  uint32_t n = trace->graphs[0]->n_inputs, m = trace->graphs[0]->n_outputs;
  th_ref_tensor *inputs = TH_ARENA_ARRAY(q->arena, th_ref_tensor, (size_t)world * n),
                *outputs = TH_ARENA_ARRAY(q->arena, th_ref_tensor, (size_t)world * m);
  for (uint32_t r = 0; r < world; r++) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
      th_input_kind kind = trace->inputs[i].kind;
      if (kind == TH_INPUT_SEED || kind == TH_INPUT_OFFSET)
        inputs[r * n + i] = (th_ref_tensor){.dtype = TH_DTYPE_i64, .data = &numbers[kind == TH_INPUT_OFFSET]};
      else if (used < given)
        inputs[r * n + i] = tensors[r * given + used++];
      else
        return TH_ERROR(INVALID_ARGUMENT, "%u tensors were given, the trace takes more", given);
    }
    if (used != given) return TH_ERROR(INVALID_ARGUMENT, "%u tensors were given, the trace takes %u", given, used);
  }
  TH_TRY(th_ref_run(trace, world, inputs, outputs));
  th_strbuf_printf(&q->answer, "ok %u\n", m);
  for (size_t i = 0; i < (size_t)world * m; i++) write_tensor(q, &outputs[i]);
  return TH_OK;
}

static th_status set_option(th_options *o, th_group *group, const char *word) {
  static const char *const optimizers[] = {"none", "sgd", "adam", "adamw"}, *const modes[] = {"forward", "forward_backward", "train_step"},
                           *const phases[] = {"update", "accumulate", "flush"};
  for (int i = 0; i < 4; i++)
    if (!strcmp(word, optimizers[i])) return o->optimizer = (th_optimizer)i, TH_OK;
  for (int i = 0; i < 3; i++) {
    if (!strcmp(word, modes[i])) return o->mode = (th_mode)i, TH_OK;
    if (!strcmp(word, phases[i])) return o->phase = (th_phase)i, TH_OK;
  }
  if (!strncmp(word, "world=", 6))
    o->world = (uint32_t)atoi(word + 6);
  else if (!strncmp(word, "bucket=", 7))
    o->bucket_bytes = (uint64_t)atoll(word + 7);
  else if (!strncmp(word, "live=", 5))
    o->live_limit = (uint64_t)atoll(word + 5);
  else if (!strncmp(word, "chunk=", 6))
    o->chunk_bytes = (uint64_t)atoll(word + 6);
  else if (!strcmp(word, "target=cuda:simt") || !strcmp(word, "target=cuda:sm_90")) {
    o->target = (th_target){.name = "cuda", .arch = strcmp(word + 12, "simt") ? "sm_90" : "simt", .threads = 1};
    th_executors_of(&o->target, &o->executors, &o->n_executors);
  } else if (!strcmp(word, "clip"))
    o->clip = true;
  else if (!strcmp(word, "accumulates"))
    o->accumulates = true;
  else if (!strcmp(word, "loss_scale"))
    o->loss_scale = true;
  else if (!strcmp(word, "momentum"))
    group->momentum = true;
  else if (!strcmp(word, "nesterov"))
    group->nesterov = true;
  else if (!strcmp(word, "amsgrad"))
    group->amsgrad = true;
  else if (!strcmp(word, "weight_decay"))
    group->weight_decay = true;
  else
    return TH_ERROR(INVALID_ARGUMENT, "no option called %s", word);
  return TH_OK;
}

static th_status serve_pass(request *q) {
  char name[64], words[1024], *text, *rest = words;
  size_t size;
  th_group group = {0};
  th_options options = th_options_default();
  if (sscanf(q->line, "pass %63s %1023s %zu", name, words, &size) != 3) return TH_ERROR(INVALID_ARGUMENT, "bad request %s", q->line);
  TH_TRY(read_text(q, size, &text));
  for (char *word; strcmp(words, "-") && (word = strsep(&rest, ","));) TH_TRY(set_option(&options, &group, word));
  const th_pass *pass = th_pass_find(name);
  if (!pass) return TH_ERROR(INVALID_ARGUMENT, "no pass called %s", name);
  th_trace *trace;
  TH_TRY(th_trace_parse(th_context_create(q->arena), text, size, &trace));
  if (options.mode == TH_MODE_TRAIN_STEP) { /* one group for all parameters */
    for (uint32_t i = 0; i < trace->graphs[0]->n_inputs; i++)
      options.n_param_group += trace->inputs[i].kind == TH_INPUT_PARAMETER && trace->inputs[i].requires_grad;
    options.n_groups = 1;
    options.groups = &group;
    options.param_group = TH_ARENA_ARRAY(q->arena, uint32_t, options.n_param_group);
  }
  if (!pass->wanted || pass->wanted(&options)) {
    TH_TRY(pass->run(&options, trace, &trace));
    TH_TRY(th_pass_verify(&options, pass, trace));
  }
  const char *printed = th_trace_print(trace);
  th_strbuf_printf(&q->answer, "ok %zu\n%s", strlen(printed), printed);
  return TH_OK;
}

/* The trace on the wire and back: the text must be what it was. */
static th_status serve_wire(request *q) {
  char *text;
  size_t size;
  uint8_t *bytes;
  th_trace *trace;
  if (sscanf(q->line, "wire %zu", &size) != 1) return TH_ERROR(INVALID_ARGUMENT, "bad request %s", q->line);
  TH_TRY(read_text(q, size, &text));
  TH_TRY(th_trace_parse(th_context_create(q->arena), text, size, &trace));
  TH_TRY(th_trace_encode(trace, &bytes, &size));
  TH_TRY(th_trace_decode(th_context_create(q->arena), bytes, size, &trace));
  const char *printed = th_trace_print(trace);
  th_strbuf_printf(&q->answer, "ok %zu\n%s", strlen(printed), printed);
  return TH_OK;
}

static th_status serve(void *user) {
  request *q = user;
  q->answer = th_strbuf_make(q->arena);
  if (!strncmp(q->line, "run ", 4)) return serve_run(q);
  if (!strncmp(q->line, "pass ", 5)) return serve_pass(q);
  if (!strncmp(q->line, "wire ", 5)) return serve_wire(q);
  return TH_ERROR(INVALID_ARGUMENT, "bad request %s", q->line);
}

int main(void) {
  request q;
  while (fgets(q.line, sizeof q.line, stdin)) {
    q.arena = th_arena_create(0);
    if (!q.arena) return 1;
    th_status status = th_arena_guard(q.arena, serve, &q);
    if (status) {
      printf("error %zu\n%s", strlen(th_status_message(status)), th_status_message(status));
      th_status_free(status);
    } else {
      fwrite(q.answer.text, 1, q.answer.length, stdout);
    }
    fflush(stdout);
    th_arena_destroy(q.arena);
  }
  return 0;
}
