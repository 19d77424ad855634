/* The plan loader (executors/run/load.c) against plans that no compiler makes: real ones with entries changed at random and
 * on purpose. It may accept one (what it cannot know is whether a number is the right one), but it must not touch memory that
 * is not its own; what was accepted is asked all that a client asks before a run. */
#include "executors/emit/emit.h"
#include "executors/registry.h"
#include "executors/run/thunder.h"
#include "proto/plan.pb-c.h"
#include "tests/unit/unit.h"

typedef Thunder__Wire__Executable executable;

static th_arena *arena;
static struct {
  const char *program;
  uint8_t *bytes;
  size_t size;
} seeds[4];
enum { N_SEEDS = 4 };

typedef struct work {
  const char *program;
  th_options options;
  size_t seed;
} work;

static th_status compile(void *user) {
  work *w = user;
  char path[4096];
  size_t size;
  const char *source = getenv("THUNDER_SOURCE_DIR");
  snprintf(path, sizeof path, "%s/tests/conformance/golden/%s/capture.tir", source ? source : ".", w->program);
  const char *text = unit_read(arena, path, &size);
  th_trace *trace;
  th_plans plans;
  th_group group = {.weight_decay = true};
  th_options o = w->options;
  TH_TRY(th_trace_parse(th_context_create(arena), text, size, &trace));
  if (o.mode == TH_MODE_TRAIN_STEP) {
    for (uint32_t i = 0; i < trace->graphs[0]->n_inputs; i++)
      o.n_param_group += trace->inputs[i].kind == TH_INPUT_PARAMETER && trace->inputs[i].requires_grad;
    o.n_groups = 1;
    o.groups = &group;
    o.param_group = TH_ARENA_ARRAY(arena, uint32_t, o.n_param_group);
  }
  TH_TRY(th_pipeline_run(&o, trace, NULL, NULL, NULL, &plans));
  th_emit_plan emitted[2];
  for (size_t i = 0; i < plans.n; i++) emitted[i] = (th_emit_plan){.name = plans.names[i], .trace = plans.traces[i]};
  return th_emit(&o, emitted, plans.n, &(th_emit_report){0}, NULL, NULL, arena, &seeds[w->seed].bytes, &seeds[w->seed].size);
}

static void make_seeds(void) {
  arena = th_arena_create(0);
  th_options forward = th_options_default(), both = forward, step = forward;
  both.mode = TH_MODE_FORWARD_BACKWARD;
  step.mode = TH_MODE_TRAIN_STEP;
  step.optimizer = TH_OPTIMIZER_ADAMW;
  step.clip = true;
  step.world = 2;
  work works[N_SEEDS] = {{"symbolic", forward, 0}, {"attention", both, 1}, {"linear", step, 2}, {"equal-sizes", both, 3}};
  for (size_t i = 0; i < N_SEEDS; i++) {
    seeds[i].program = works[i].program;
    EXPECT(OK, th_arena_guard(arena, compile, &works[i]));
  }
}
static void free_seeds(void) { th_arena_destroy(arena); }
TestSuite(load, .init = make_seeds, .fini = free_seeds, .timeout = 240);

static executable *unpack(size_t seed) {
  executable *x = thunder__wire__executable__unpack(NULL, seeds[seed].size, seeds[seed].bytes);
  cr_assert_not_null(x);
  return x;
}

/* What a client does with a program before it runs it. */
static void ask(th_program *x) {
  size_t size, sum = 0;
  const char *source = th_program_source(x, &size);
  for (size_t i = 0; i < size; i++) sum += (unsigned char)source[i]; /* all of it can be read */
  for (size_t i = 0; i < th_program_plan_count(x); i++) {
    th_plan *p = th_program_plan(x, i);
    sum += strlen(th_plan_name(p)) + th_plan_predicted_peak(p) + th_plan_instruction_count(p);
    for (uint32_t k = 0; k < th_plan_input_count(p); k++) {
      sum += th_plan_input_kind(p, k);
      cr_assert_neq(th_plan_input_dtype(p, k), TH_DTYPE_none);
    }
    for (uint32_t k = 0; k < th_plan_output_count(p); k++) {
      uint32_t kind = th_plan_output_kind(p, k), base = th_plan_output_base(p, k);
      cr_assert_leq(kind, 6);
      if (kind == 1 || kind == 2 || kind == 4) cr_assert_lt(base, th_plan_input_count(p));
      if (kind == 3) cr_assert_lt(base, th_plan_output_count(p));
    }
  }
  *(volatile size_t *)&sum = sum;
}

static th_status load_bytes(const uint8_t *bytes, size_t size) {
  uint8_t *copy = malloc(size ? size : 1); /* of its exact size, for AddressSanitizer */
  th_program *x = NULL;
  if (size) memcpy(copy, bytes, size);
  th_status status = th_program_load(copy, size, &x);
  free(copy);
  if (!status)
    ask(x);
  else
    cr_assert_null(x);
  th_program_free(x);
  return status;
}

static th_status load(const executable *x) {
  size_t size = thunder__wire__executable__get_packed_size(x);
  uint8_t *bytes = malloc(size);
  thunder__wire__executable__pack(x, bytes);
  th_status status = load_bytes(bytes, size);
  free(bytes);
  return status;
}

Test(load, real_plans_load) {
  for (size_t i = 0; i < N_SEEDS; i++) {
    EXPECT(OK, load_bytes(seeds[i].bytes, seeds[i].size));
    executable *x = unpack(i);
    EXPECT(OK, load(x));
    thunder__wire__executable__free_unpacked(x, NULL);
  }
}

/* x [s0, s1, 8], w [10, 8] and y [s2, s3], where s0*s1 = s2*s3; the integers are the sizes again. */
static th_status begin(int64_t s0, int64_t s1, int64_t s2, int64_t s3) {
  static float x[1024], w[80];
  static int64_t y[128];
  int64_t sizes[] = {s0, s1, s2, s3}, x_dims[] = {s0, s1, 8}, x_strides[] = {s1 * 8, 8, 1}, w_dims[] = {10, 8}, w_strides[] = {8, 1}, y_dims[] = {s2, s3}, y_strides[] = {s3, 1};
  th_tensor_in inputs[] = {{.data = &sizes[0], .dtype = TH_DTYPE_i64}, {.data = &sizes[1], .dtype = TH_DTYPE_i64}, {x, TH_DTYPE_f32, 3, x_dims, x_strides}, {w, TH_DTYPE_f32, 2, w_dims, w_strides},
                           {.data = &sizes[2], .dtype = TH_DTYPE_i64}, {.data = &sizes[3], .dtype = TH_DTYPE_i64}, {y, TH_DTYPE_i64, 2, y_dims, y_strides}};
  th_program *program;
  th_run *run = NULL;
  EXPECT(OK, th_program_load(seeds[3].bytes, seeds[3].size, &program));
  th_status status = th_run_begin(th_program_plan(program, 0), inputs, 7, &run);
  th_run_end(run);
  th_program_free(program);
  return status;
}

Test(load, sizes_that_are_assumed_equal_are_checked) {
  EXPECT(OK, begin(2, 6, 3, 4));
  EXPECT(OK, begin(4, 3, 4, 3));
  th_status status = begin(4, 3, 2, 3);
  cr_assert_not_null(strstr(th_status_message(status), "are 12 and 6"), "%s", th_status_message(status));
  EXPECT(INVALID_ARGUMENT, status);
}

/* --- at random */

static uint64_t strange(uint64_t *random, uint64_t old, uint64_t other) {
  switch (unit_random(random, 10)) {
    case 0: return 0;
    case 1: return old + 1;
    case 2: return old - 1;
    case 3: return UINT64_MAX;
    case 4: return old ^ UINT64_C(1) << unit_random(random, 63);
    case 5: return unit_random(random, 16);
    case 6: return INT64_MAX;
    case 7: return UINT64_C(1) << 63;
    default: return other;
  }
}

static size_t width_of(const ProtobufCFieldDescriptor *f) {
  switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32: return 4;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    default: return sizeof(void *);
  }
}

static void change_text(uint64_t *random, char *s) {
  if (!*s) return;
  size_t at = unit_random(random, strlen(s));
  if (unit_random(random, 4))
    s[at] = "ab_:%09"[unit_random(random, 7)];
  else
    s[at] = 0;
}

/* Changes one field of `m`, found through its descriptor; the code of modules stays what it is. */
static void change(uint64_t *random, ProtobufCMessage *m) {
  const ProtobufCFieldDescriptor *f = &m->descriptor->fields[unit_random(random, m->descriptor->n_fields)];
  char *member = (char *)m + f->offset;
  if (!strcmp(f->name, "code") || f->type == PROTOBUF_C_TYPE_MESSAGE) return;
  if (f->label != PROTOBUF_C_LABEL_REPEATED) {
    protobuf_c_boolean *has = (protobuf_c_boolean *)((char *)m + f->quantifier_offset);
    if (f->type == PROTOBUF_C_TYPE_STRING) {
      if (*(char **)member && *(char **)member != f->default_value) change_text(random, *(char **)member);
    } else if (!unit_random(random, 3)) {
      if (f->type != PROTOBUF_C_TYPE_BYTES) *has = !*has;
    } else if (f->type == PROTOBUF_C_TYPE_UINT32) {
      *(uint32_t *)(void *)member = (uint32_t)strange(random, *(uint32_t *)(void *)member, 1);
    } else if (f->type == PROTOBUF_C_TYPE_UINT64) {
      *(uint64_t *)(void *)member = strange(random, *(uint64_t *)(void *)member, 1);
    }
    return;
  }
  size_t *n = (size_t *)(void *)((char *)m + f->quantifier_offset), width = width_of(f);
  char **table = (char **)(void *)member;
  if (!unit_random(random, 6)) { /* one entry more: a copy of the last, or zero */
    char *grown = realloc(*table, (*n + 1) * width);
    cr_assert_not_null(grown);
    *table = grown;
    memset(grown + *n * width, 0, width);
    if (f->type == PROTOBUF_C_TYPE_STRING)
      ((char **)(void *)grown)[*n] = strdup("");
    else if (*n && f->type != PROTOBUF_C_TYPE_BYTES)
      memcpy(grown + *n * width, grown + (*n - 1) * width, width);
    ++*n;
    return;
  }
  if (!*n) return;
  size_t at = unit_random(random, *n), other = unit_random(random, *n);
  if (!unit_random(random, 6)) { /* one entry less, or none */
    size_t keep = unit_random(random, 4) ? *n - 1 : 0;
    for (size_t i = keep; i < *n; i++) {
      if (f->type == PROTOBUF_C_TYPE_STRING) free(((char **)(void *)*table)[i]);
      if (f->type == PROTOBUF_C_TYPE_BYTES) free(((ProtobufCBinaryData *)(void *)*table)[i].data);
    }
    *n = keep;
    return;
  }
  switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32: {
      uint32_t *t = (uint32_t *)(void *)*table;
      t[at] = (uint32_t)strange(random, t[at], t[other]);
      return;
    }
    case PROTOBUF_C_TYPE_SINT64: {
      int64_t *t = (int64_t *)(void *)*table;
      t[at] = (int64_t)strange(random, (uint64_t)t[at], (uint64_t)t[other]);
      return;
    }
    case PROTOBUF_C_TYPE_STRING: change_text(random, ((char **)(void *)*table)[at]); return;
    default: return;
  }
}

Test(load, plans_changed_at_random) {
  uint64_t random = unit_seed("load");
  int codes[17] = {0}, cases = 6000;
  for (int i = 0; i < cases; i++) {
    executable *x = unpack(unit_random(&random, N_SEEDS));
    for (uint64_t k = 1 + unit_random(&random, 3); k; k--) switch (unit_random(&random, 20)) {
        case 0: change(&random, &x->base); break;
        case 1: change(&random, &x->modules[unit_random(&random, x->n_modules)]->base); break;
        default: change(&random, &x->plans[unit_random(&random, x->n_plans)]->base); break;
      }
    th_status status = load(x);
    codes[th_status_code(status)]++;
    cr_assert(!status || *th_status_message(status));
    th_status_free(status);
    thunder__wire__executable__free_unpacked(x, NULL);
  }
  fprintf(stderr, "%d cases: %d accepted, %d INVALID_ARGUMENT, %d UNIMPLEMENTED, %d UNAVAILABLE\n", cases, codes[TH_CODE_OK],
          codes[TH_CODE_INVALID_ARGUMENT], codes[TH_CODE_UNIMPLEMENTED], codes[TH_CODE_UNAVAILABLE]);
  cr_assert_eq(codes[TH_CODE_OK] + codes[TH_CODE_INVALID_ARGUMENT] + codes[TH_CODE_UNIMPLEMENTED] + codes[TH_CODE_UNAVAILABLE], cases,
               "no other code");
  cr_assert_gt(codes[TH_CODE_INVALID_ARGUMENT], cases / 4, "the changes matter");
  cr_assert_gt(codes[TH_CODE_OK], cases / 50, "and do not all stop at the first check");
}

Test(load, bytes_changed_at_random) { /* without code: a changed shared object is no plan */
  uint64_t random = unit_seed("load.bytes");
  for (size_t seed = 0; seed < N_SEEDS; seed++) {
    executable *x = unpack(seed);
    for (size_t i = 0; i < x->n_modules; i++) x->modules[i]->code.len = x->modules[i]->source.len = 0;
    size_t size = thunder__wire__executable__get_packed_size(x);
    uint8_t *good = malloc(size), *bad = malloc(size);
    thunder__wire__executable__pack(x, good);
    EXPECT(UNAVAILABLE, load_bytes(good, size)); /* an empty object */
    for (int i = 0; i < 3000; i++) {
      memcpy(bad, good, size);
      for (uint64_t k = 1 + unit_random(&random, 4); k; k--) bad[unit_random(&random, size)] ^= (uint8_t)(1u << unit_random(&random, 8));
      th_status_free(load_bytes(bad, unit_random(&random, 4) ? size : unit_random(&random, size)));
    }
    free(good);
    free(bad);
    thunder__wire__executable__free_unpacked(x, NULL);
  }
  EXPECT(INVALID_ARGUMENT, load_bytes(NULL, 0));
}

/* --- on purpose: one thing each, refused by its name */

typedef Thunder__Wire__Plan plan;
static uint32_t instruction(const plan *p, uint32_t kind) { /* 1 kernel 2 library 3 start 4 wait 5 copy 6 fill */
  for (size_t i = 0; i < p->n_instr_kind; i++)
    if (p->instr_kind[i] == kind) return (uint32_t)i;
  cr_assert_fail("the plan has no instruction of kind %u", kind);
  return 0;
}
static void set_string(char **at, const char *text) {
  free(*at);
  *at = strdup(text);
}

static void no_version(executable *x, plan *p) { x->version = 2; }
static void no_name(executable *x, plan *p) { free(p->name), p->name = NULL; }
static void a_cubin(executable *x, plan *p) { set_string(&x->modules[0]->kind, "cubin"); }
static void no_module(executable *x, plan *p) { p->kernel_module[0] = (uint32_t)x->n_modules; }
static void no_kernel(executable *x, plan *p) { set_string(&p->kernel_symbol[0], "th_no_such_kernel"); }
static void kernel_number(executable *x, plan *p) { p->instr_target[instruction(p, 1)] = (uint32_t)p->n_kernel_symbol; }
static void no_function(executable *x, plan *p) { set_string(&p->strings[p->instr_target[instruction(p, 2)]], "dott"); }
static void no_collective(executable *x, plan *p) { set_string(&p->strings[p->instr_target[instruction(p, 3)]], "all_deduce:sum:dp"); }
static void no_reduction(executable *x, plan *p) { set_string(&p->strings[p->instr_target[instruction(p, 3)]], "all_reduce:mean:dp"); }
static void unsaid_reduction(executable *x, plan *p) { set_string(&p->strings[p->instr_target[instruction(p, 3)]], "all_reduce::dp"); }
static void waits_for_itself(executable *x, plan *p) { p->instr_target[instruction(p, 4)] = instruction(p, 4); }
static void waits_for_a_kernel(executable *x, plan *p) { p->instr_target[instruction(p, 4)] = instruction(p, 1); }
static void no_dtype(executable *x, plan *p) { p->tensor_dtype[0] = 99; }
static void no_buffer(executable *x, plan *p) { p->tensor_buffer[0] = (uint32_t)p->n_buffer_kind; }
static void buffer_kind(executable *x, plan *p) { p->buffer_kind[0] = 7; }
static void rank(executable *x, plan *p) {
  for (size_t i = 1; i < p->n_tensor_dims_begin; i++) p->tensor_dims_begin[i] = (uint32_t)p->n_tensor_dims;
}
static void falling(executable *x, plan *p) { p->tensor_dims_begin[1] = UINT32_MAX; }
static void expression(executable *x, plan *p) { p->expr_kind[0] = 13; }
static void itself(executable *x, plan *p) { p->expr_kind[3] = 2, p->expr_a[3] = 3, p->expr_b[3] = 0; }
static void no_input(executable *x, plan *p) { p->expr_kind[0] = 9, p->expr_a[0] = (int64_t)p->n_input_tensor, p->expr_b[0] = 0; }
static void minus_one(executable *x, plan *p) { p->expr_kind[0] = 9, p->expr_a[0] = 0, p->expr_b[0] = -1; }
static void arena_size(executable *x, plan *p) { p->arena_size = (uint32_t)p->n_expr_kind; }
static void no_arena_size(executable *x, plan *p) { p->has_arena_size = 0; }
static void output_kind(executable *x, plan *p) { p->output_kind[0] = 7; }
static void output_base(executable *x, plan *p) { p->output_kind[0] = 2, p->output_base[0] = (uint32_t)p->n_input_tensor; }
static void output_of_output(executable *x, plan *p) { p->output_kind[0] = 3, p->output_base[0] = (uint32_t)p->n_output_tensor; }
static void outputs_than_tensors(executable *x, plan *p) { p->instr_outputs[0] = UINT32_MAX; }

Test(load, each_fault_by_its_name) {
  static const struct {
    void (*spoil)(executable *x, plan *p);
    th_code code;
    const char *text;
  } faults[] = {
      {no_version, TH_CODE_INVALID_ARGUMENT, "version 2"},
      {no_name, TH_CODE_INVALID_ARGUMENT, "no name"},
      {a_cubin, TH_CODE_UNIMPLEMENTED, "cubin"},
      {no_module, TH_CODE_INVALID_ARGUMENT, "kernel_module"},
      {no_kernel, TH_CODE_INVALID_ARGUMENT, "th_no_such_kernel"},
      {kernel_number, TH_CODE_INVALID_ARGUMENT, "instruction"},
      {no_function, TH_CODE_UNIMPLEMENTED, "dott"},
      {no_collective, TH_CODE_INVALID_ARGUMENT, "all_deduce"},
      {no_reduction, TH_CODE_INVALID_ARGUMENT, "all_reduce:mean:dp"},
      {unsaid_reduction, TH_CODE_INVALID_ARGUMENT, "all_reduce::dp"},
      {waits_for_itself, TH_CODE_INVALID_ARGUMENT, "instruction"},
      {waits_for_a_kernel, TH_CODE_INVALID_ARGUMENT, "instruction"},
      {no_dtype, TH_CODE_INVALID_ARGUMENT, "dtype 99"},
      {no_buffer, TH_CODE_INVALID_ARGUMENT, "tensor_buffer"},
      {buffer_kind, TH_CODE_INVALID_ARGUMENT, "buffer 0 of kind 7"},
      {rank, TH_CODE_INVALID_ARGUMENT, "more than 24 dimensions"},
      {falling, TH_CODE_INVALID_ARGUMENT, "tensor_dims_begin"},
      {expression, TH_CODE_INVALID_ARGUMENT, "expression 0 is of kind 13"},
      {itself, TH_CODE_INVALID_ARGUMENT, "expression 3"},
      {no_input, TH_CODE_INVALID_ARGUMENT, "expression 0"},
      {minus_one, TH_CODE_INVALID_ARGUMENT, "expression 0"},
      {arena_size, TH_CODE_INVALID_ARGUMENT, "arena_size"},
      {no_arena_size, TH_CODE_INVALID_ARGUMENT, "arena_size"},
      {output_kind, TH_CODE_INVALID_ARGUMENT, "output 0"},
      {output_base, TH_CODE_INVALID_ARGUMENT, "output 0"},
      {output_of_output, TH_CODE_INVALID_ARGUMENT, "output 0"},
      {outputs_than_tensors, TH_CODE_INVALID_ARGUMENT, "instruction 0"},
  };
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    executable *x = unpack(2); /* a training step on two ranks has instructions of most kinds */
    faults[i].spoil(x, x->plans[0]);
    th_status status = load(x);
    char text[1024];
    th_status_format(status, text, sizeof text);
    cr_expect(th_status_code(status) == faults[i].code && strstr(text, faults[i].text), "fault %zu: want %s with \"%s\", have %s", i,
              th_code_name(faults[i].code), faults[i].text, text);
    th_status_free(status);
    thunder__wire__executable__free_unpacked(x, NULL);
  }
}
