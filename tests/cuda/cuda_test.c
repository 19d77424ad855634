/* Plans for CUDA on a driver that works on host memory (fake_cuda.c): launch by launch, capture, replay, staging, faults of kernels,
 * failures of every call of the driver, release; all of it region by region too; what is timed is kept on disk. */
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include "executors/run/cuda/driver.h"
#include "executors/run/library.h"
#include "executors/run/profile.h"
#include "executors/run/tuning.h"
#include "ir/base/log.h"
#include "tests/cuda/plans.h"

enum { N = 5, OUTPUTS = 4, BIG = 100000, REGIONS = 11 };

static long (*calls_of)(const char *name), (*live)(void);
static void (*fail)(const char *name, long nth);
static uint8_t *image;
static size_t image_size;
static maker m;
static Thunder__Wire__Module modules[2];

/* A library function, as a vendor's room has it: result = bits 7; keeps a state, is given scratch and a blob. */
typedef struct keep { th_library_state base; int calls; } keep;
static int states, captured;
static bool chooses; /* it has timed something */
static bool profiling; /* the calls are profiled, ... */
static th_region_times seen[REGIONS], whole; /* ... and this is what the last one gave */
static void keep_free(th_library_state *s) { states--, free(s); }
static th_status seven(const th_library_args *a) {
  const th_cuda_driver *d;
  TH_TRY(th_cuda_driver_open(&d));
  CHECK(a->n_operands == 1 && a->n_results == 1 && a->operands[0].rank == 1 && a->results[0].dims[0] == N && a->ints[0] == 42 && a->alpha == 0.5 && a->device >= 0 && a->deterministic);
  CHECK(a->scratch && a->scratch_bytes == N * 4 && a->blob_size == 4 && !memcmp(a->blob, "plan", 4));
  if (!*a->state) {
    CHECK(!a->capturing);
    keep *k = calloc(1, sizeof *k);
    k->base.release = keep_free;
    *a->state = &k->base;
    states++;
  }
  ((keep *)*a->state)->calls++;
  if (chooses) CHECK_OK(th_tuning_keep("Fake", "test.seven:5", &(th_tuning_choice){.microseconds = 1}));
  captured += a->capturing;
  return TH_CUDA(d, set_32, ((CUdeviceptr)(uintptr_t)a->results[0].data, 7, N, a->stream));
}

/* inputs: x (user), w (parameter, written), step (host, written), lr (host). step += 1; out = x * lr * step + w; w += 1. */
static void make(int64_t staged_bytes) {
  maker_init(&m, 2);
  static const float third = 1.0f / 3;
  m.p.n_constants = 1;
  m.constants[0] = (ProtobufCBinaryData){.len = 4, .data = (uint8_t *)(uintptr_t)&third};
  uint32_t x = input(&m, 0, 0, TH_DTYPE_f32, N), w = input(&m, 1, 1, TH_DTYPE_f32, N), step = input(&m, 3, 5, TH_DTYPE_f32, -1), lr = input(&m, 4, 4, TH_DTYPE_f32, -1);
  uint32_t out = output(&m, TH_DTYPE_f32, N), taken = output(&m, TH_DTYPE_f32, N), constant = output(&m, TH_DTYPE_f32, -1), sevens = output(&m, TH_DTYPE_f32, N);
  uint32_t scale = tensor(&m, TH_BUFFER_STAGED, 0, staged_bytes - 4, TH_DTYPE_f32, -1), scratch = tensor(&m, TH_BUFFER_ARENA, 0, 0, TH_DTYPE_f32, N);
  uint32_t wide = tensor(&m, TH_BUFFER_ARENA, 0, 256, TH_DTYPE_f64, -1), reduced = tensor(&m, TH_BUFFER_ARENA, 0, 512, TH_DTYPE_f32, N), from = tensor(&m, TH_BUFFER_CONSTANT, 0, 0, TH_DTYPE_f32, -1);
  uint32_t zeros = tensor(&m, TH_BUFFER_ARENA, 0, 768, TH_DTYPE_bf16, 3);
  int f = th_dtype_to_wire(TH_DTYPE_f32);
  instruction(&m, TH_INSTR_SCALARS, 0, 2, step, lr, step, scale, END);
  INTS(&m, 1, 2, 2, 3, 3, 4, TH_SCALAR_const, f, f, 0, 0, 0, TH_SCALAR_add, f, f, 0, 2, 0, TH_SCALAR_mul, f, f, 1, 3, 0);
  number(&m, 1), done(&m);
  instruction(&m, TH_INSTR_KERNEL, symbol(&m, 0, "scale_add"), 1, x, scale, w, out, END), INTS(&m, 1, 1, 32, 0, N), done(&m);
  instruction(&m, TH_INSTR_KERNEL, symbol(&m, 0, "take"), 1, x, taken, END), INTS(&m, 1, 1, 32, 50000, N), done(&m);
  m.p.instr_scratch[m.p.n_instr_scratch - 1] = scratch + 1;
  instruction(&m, TH_INSTR_FILL, 0, 1, wide, END), number(&m, 2.5), done(&m);
  instruction(&m, TH_INSTR_FILL, 0, 1, zeros, END), number(&m, 1), done(&m);
  instruction(&m, TH_INSTR_COPY, 0, 1, from, constant, END), done(&m);
  instruction(&m, TH_INSTR_LIBRARY, string(&m, "test.seven"), 1, x, sevens, END), INTS(&m, 42), number(&m, 0.5), number(&m, 0), done(&m);
  m.p.instr_scratch[m.p.n_instr_scratch - 1] = scratch + 1, m.p.instr_blob[m.p.n_instr_blob - 1] = 2;
  instruction(&m, TH_INSTR_START, string(&m, "all_reduce:sum:dp"), 1, x, reduced, END), done(&m);
  instruction(&m, TH_INSTR_WAIT, (uint32_t)m.p.n_instr_kind - 1, 0, END), done(&m);
  m.p.has_arena_size = 1, m.p.arena_size = K(&m, 1024);
  m.p.has_staged_size = 1, m.p.staged_size = K(&m, staged_bytes);
  m.p.has_deterministic = 1, m.p.deterministic = 1;
}

static th_status load(th_program **out) {
  thunder__wire__module__init(&modules[0]), thunder__wire__module__init(&modules[1]);
  modules[0].kind = (char *)"cubin", modules[0].name = (char *)"kernels", modules[0].has_code = 1, modules[0].code = (ProtobufCBinaryData){.len = image_size, .data = image};
  modules[1].kind = (char *)"cudnn-plan", modules[1].has_code = 1, modules[1].code = (ProtobufCBinaryData){.len = 4, .data = (uint8_t *)(uintptr_t)"plan"};
  return load_plan(&m, (Thunder__Wire__Module *[]){&modules[0], &modules[1]}, 2, out);
}

typedef struct trainer { /* a user of the plan */
  th_program *program;
  th_plan *plan;
  float *x, *w, *out[OUTPUTS], step, lr;
  void *held, *stream;
  int32_t device;
  int64_t held_bytes;
} trainer;

static th_status start(trainer *t) {
  *t = (trainer){.lr = 0.5f};
  TH_TRY(load(&t->program));
  t->plan = th_program_plan(t->program, 0);
  t->x = aligned_alloc(64, 64), t->w = aligned_alloc(64, 64);
  for (int i = 0; i < N; i++) t->x[i] = (float)i, t->w[i] = 100;
  return TH_OK;
}
static void forget(trainer *t) {
  for (int i = 0; i < OUTPUTS; i++) free(t->out[i]), t->out[i] = NULL;
}
static void stop(trainer *t) {
  th_program_free(t->program);
  forget(t);
  free(t->x), free(t->w), free(t->held);
}

/* A call; its outputs are new memory, those of the last call are gone. */
static th_status call_with(trainer *t, bool is_step, float *x, float *w) {
  int64_t dims[] = {N}, strides[] = {1};
  th_tensor_in inputs[] = {{x, TH_DTYPE_f32, 1, dims, strides}, {w, TH_DTYPE_f32, 1, dims, strides}, {.data = &t->step, .dtype = TH_DTYPE_f32}, {.data = &t->lr, .dtype = TH_DTYPE_f32}};
  th_run *run = NULL;
  void *own = NULL;
  th_status status;
  forget(t);
  TH_TRY(th_run_begin(t->plan, inputs, 4, &run));
  th_run_set_stream(run, t->device, t->stream);
  if (is_step) TH_TRY_CLEANUP(th_run_set_step(run));
  if (profiling) TH_TRY_CLEANUP(th_run_set_profile(run));
  int64_t bytes = th_run_arena(run), n;
  CHECK(bytes > 1024);
  if (!is_step) th_run_set_arena(run, own = malloc((size_t)bytes));
  else {
    if (t->held_bytes < bytes) {
      TH_TRY_CLEANUP(th_plan_release(t->plan));
      free(t->held);
      t->held = malloc((size_t)bytes), t->held_bytes = bytes;
    }
    th_run_set_arena(run, t->held);
  }
  uint32_t slot;
  for (uint32_t i = 0; th_run_escaping(run, i, &slot, &n); i++) {
    CHECK(i < OUTPUTS && slot == i);
    th_run_set_escaping(run, i, t->out[i] = malloc((size_t)n));
  }
  status = th_run_execute(run);
  if (!status && profiling) {
    CHECK_INT(th_plan_region_count(t->plan), REGIONS);
    for (uint32_t i = 0; i < REGIONS; i++) th_run_region(run, i, &seen[i]);
    th_run_span(run, &whole.host_begin, &whole.host_end);
  }
cleanup:
  th_run_end(run);
  free(own);
  return status;
}
static th_status call(trainer *t, bool is_step) { return call_with(t, is_step, t->x, t->w); }

/* The values of the k-th call (1: the first). */
static void check_values(const trainer *t, const float *x, int k, float w) {
  CHECK(t->step == (float)k);
  for (int i = 0; i < N; i++) {
    int bits;
    memcpy(&bits, &t->out[3][i], 4);
    CHECK_INT(bits, 7);
    CHECK(t->out[0][i] == x[i] * t->lr * (float)k + w);
    CHECK(t->out[1][i] == x[i] * 10);
  }
  CHECK(*t->out[2] == 1.0f / 3);
}

static void kernel_by_kernel(int64_t staged) {
  trainer t;
  make(staged);
  CHECK_OK(start(&t));
  calls_of(NULL);
  for (int k = 1; k <= 6; k++) {
    CHECK_OK(call(&t, false));
    check_values(&t, t.x, k, 99 + (float)k);
  }
  CHECK_INT(calls_of("cuLaunchKernel"), 12);
  CHECK_INT(calls_of("cuFuncSetAttribute"), 1);
  CHECK_INT(calls_of("cuModuleLoadData"), 1);
  CHECK_INT(calls_of("cuMemcpyHtoDAsync_v2"), 6);
  CHECK_INT(calls_of("cuStreamBeginCapture_v2"), 0);
  CHECK_INT(calls_of("cuMemHostAlloc"), staged > 65536 ? 5 : 1);
  CHECK_INT(states, 1);
  t.device = 1; /* has its own modules */
  CHECK_OK(call(&t, false));
  check_values(&t, t.x, 7, 106);
  CHECK_INT(calls_of("cuModuleLoadData"), 2);
  CHECK_INT(states, 2);
  stop(&t);
  CHECK_INT(states, 0);
  CHECK_INT(live(), 0);
}

static void steps(int64_t staged) {
  trainer t;
  make(staged);
  CHECK_OK(start(&t));
  calls_of(NULL), captured = 0;
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 1, 100);
  CHECK_INT(calls_of("cuLaunchKernel"), 2);
  CHECK_INT(calls_of("cuGraphLaunch"), 0);
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 2, 101);
  CHECK_INT(calls_of("cuLaunchKernel"), 4); /* into the graph */
  CHECK_INT(calls_of("cuGraphLaunch"), 1);
  CHECK_INT(captured, 1);
  float *kept = t.out[0];
  t.out[0] = NULL;
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 3, 102);
  CHECK(kept[1] == 1 * 0.5f * 2 + 101); /* what was returned stays what it was */
  free(kept);
  float *x = malloc(64); /* user inputs may be anywhere */
  for (int i = 0; i < N; i++) x[i] = (float)(N - 1 - i);
  t.lr = 2; /* staged values are new in each replay */
  CHECK_OK(call_with(&t, true, x, t.w));
  check_values(&t, x, 4, 103);
  free(x);
  CHECK_INT(calls_of("cuLaunchKernel"), 4);
  CHECK_INT(calls_of("cuGraphLaunch"), 3);
  float *w = malloc(64), *old = t.w; /* another parameter: once kernel by kernel, once captured */
  for (int i = 0; i < N; i++) w[i] = 7;
  t.w = w;
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 5, 7);
  CHECK_INT(calls_of("cuLaunchKernel"), 6);
  CHECK_INT(calls_of("cuGraphLaunch"), 3);
  t.w = old; /* back: the graph is still there */
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 6, 104);
  CHECK_INT(calls_of("cuLaunchKernel"), 6);
  CHECK_INT(calls_of("cuGraphLaunch"), 4);
  t.w = w;
  for (int k = 7; k <= 9; k++) {
    CHECK_OK(call(&t, true));
    check_values(&t, t.x, k, (float)(k + 1));
  }
  CHECK_INT(calls_of("cuLaunchKernel"), 10);
  CHECK_INT(calls_of("cuGraphLaunch"), 6);
  CHECK_INT(calls_of("cuGraphInstantiateWithFlags"), 2);
  CHECK_INT(calls_of("cuGraphExecDestroy"), 1);
  CHECK_INT(calls_of("cuStreamWaitEvent"), 0);
  struct { int other[16]; } other = {0};
  t.stream = &other; /* another stream waits for the last step */
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 10, 11);
  CHECK_INT(calls_of("cuStreamWaitEvent"), 1);
  t.stream = NULL;
  CHECK_OK(call(&t, false)); /* a plain call meanwhile, with memory of its own */
  check_values(&t, t.x, 11, 12);
  CHECK_OK(th_plan_release(t.plan));
  CHECK_INT(calls_of("cuGraphExecDestroy"), 2);
  free(t.held), t.held = NULL, t.held_bytes = 0;
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 12, 13);
  free(old);
  stop(&t);
  CHECK_INT(live(), 0);
}

static void addresses(void) {
  trainer t;
  make(256);
  CHECK_OK(start(&t));
  float *x = malloc(128);
  for (int i = 0; i <= N; i++) x[i] = (float)(i % 4);
  calls_of(NULL);
  CHECK_OK(call_with(&t, false, x + 1, t.w)); /* read through an aligned copy */
  check_values(&t, x + 1, 1, 100);
  CHECK_INT(calls_of("cuMemcpyDtoDAsync_v2"), 3); /* with the plan's own copy and collective */
  for (int k = 2; k <= 4; k++) {
    CHECK_OK(call_with(&t, true, x + 1, t.w));
    check_values(&t, x + 1, k, 99 + (float)k);
  }
  CHECK_STATUS(call_with(&t, false, t.x, x + 1), INVALID_ARGUMENT, "input 1 is at an address");
  CHECK_STATUS(call_with(&t, false, t.x, x + 1), INVALID_ARGUMENT, ".clone()");
  free(x);
  t.device = 7;
  CHECK_STATUS(call(&t, false), UNAVAILABLE, "cuda:7: cuDeviceGet: CUDA_ERROR_INVALID_DEVICE");
  t.device = 0;
  stop(&t);
}

static void faults_of_kernels(void) {
  trainer t;
  make(256);
  CHECK_OK(start(&t));
  CHECK_OK(call(&t, true));
  CHECK_OK(call(&t, true));
  t.x[2] = 50;
  CHECK_OK(call(&t, true)); /* found by a replay, said by the next call */
  CHECK_STATUS(call(&t, true), OUT_OF_RANGE, "earlier call");
  CHECK(t.step == 3);
  t.x[2] = 2;
  CHECK_OK(call(&t, true));
  CHECK_OK(th_plan_check_errors(t.plan));
  t.x[2] = -1;
  CHECK_OK(call(&t, false));
  CHECK_STATUS(th_plan_check_errors(t.plan), OUT_OF_RANGE, "cuda:0");
  CHECK_OK(th_plan_check_errors(t.plan));
  stop(&t);
}

static void a_captured_stream(void) {
  trainer t;
  const th_cuda_driver *d;
  CUstream stream;
  CUgraph graph;
  make(256);
  CHECK_OK(start(&t));
  CHECK_OK(th_cuda_driver_open(&d));
  CHECK_OK(TH_CUDA(d, stream_create, (&stream, 0)));
  CHECK_OK(TH_CUDA(d, capture_begin, (stream, TH_CU_CAPTURE_THREAD_LOCAL)));
  t.stream = stream;
  CHECK_STATUS(call(&t, false), FAILED_PRECONDITION, "being captured");
  CHECK_OK(TH_CUDA(d, capture_end, (stream, &graph)));
  CHECK_OK(call(&t, false));
  d->graph_destroy(graph);
  stop(&t);
  d->stream_destroy(stream);
  CHECK_INT(live(), 0);
}

static void regions(void) {
  static const struct { const char *kind, *name; int64_t bytes; bool on_device; } want[REGIONS] = {
      {"scalars", "scalars", 4 * 4, false}, {"kernel", "scale_add", 3 * N * 4 + 4, true}, {"kernel", "take", 2 * N * 4, true}, {"fill", "fill", 8, true},
      {"fill", "fill", 3 * 2, true}, {"copy", "copy", 2 * 4, true}, {"library", "test.seven", 2 * N * 4, true}, {"collective", "all_reduce:sum:dp", 2 * N * 4, true},
      {"wait", "all_reduce:sum:dp", 0, false}, {"copies in", "copies in", 2 * (256 + 4 + N * 4), true}, {"copies out", "copies out", 2 * (3 * N * 4 + 4), true}};
  trainer t;
  make(256);
  CHECK_OK(start(&t));
  CHECK_OK(call(&t, true));
  long before = live();
  calls_of(NULL);
  profiling = true;
  for (int k = 2; k <= 4; k++) {
    CHECK_OK(call(&t, true));
    check_values(&t, t.x, k, 99 + (float)k);
    CHECK_INT(live(), before); /* no event is left */
    for (uint32_t i = 0; i < REGIONS; i++) {
      th_region region;
      th_plan_region(t.plan, i, &region);
      CHECK(!strcmp(region.kind, want[i].kind) && !strcmp(region.name, want[i].name) && region.op == TH_NO_OP);
      CHECK_INT(seen[i].bytes, want[i].bytes);
      CHECK(!seen[i].flops && !*seen[i].unit);
      CHECK(whole.host_begin <= seen[i].host_begin && seen[i].host_begin < seen[i].host_end && seen[i].host_end <= whole.host_end);
      if (!want[i].on_device) CHECK(seen[i].device_begin == -1 && seen[i].device_end == -1);
      else CHECK(seen[i].device_begin > 0 && seen[i].device_begin <= seen[i].device_end && seen[i].device_end <= whole.host_end);
    }
    for (uint32_t i = 2; i < 8; i++) CHECK(seen[i - 1].device_end <= seen[i].device_begin); /* one after the other */
  }
  CHECK_INT(calls_of("cuStreamSynchronize"), 3);
  CHECK_INT(calls_of("cuStreamBeginCapture_v2") + calls_of("cuGraphLaunch"), 0);
  CHECK_INT(calls_of("cuLaunchKernel"), 6);
  profiling = false; /* and graphs go on where they were */
  CHECK_OK(call(&t, true));
  check_values(&t, t.x, 5, 104);
  CHECK_INT(calls_of("cuGraphLaunch"), 1);
  CHECK_INT(calls_of("cuStreamSynchronize"), 3);
  profiling = true; /* a fault is said as ever: by the call after */
  t.x[2] = 50;
  CHECK_OK(call(&t, true));
  CHECK_STATUS(call(&t, true), OUT_OF_RANGE, "earlier call");
  profiling = false;
  const char *labels[REGIONS + 1] = {0};
  for (int i = 0; i <= REGIONS; i++) labels[i] = "label";
  CHECK_STATUS(th_plan_set_labels(t.plan, labels, REGIONS + 1), INVALID_ARGUMENT, "has 11 regions, 12 labels");
  CHECK_OK(th_plan_set_labels(t.plan, labels, REGIONS));
  CHECK_OK(th_plan_set_labels(t.plan, labels, REGIONS));
  stop(&t);
  th_device_attributes a;
  CHECK_OK(th_device_attributes_get(0, &a));
  CHECK(a.major == 9 && a.minor == 0 && a.sms == 132 && a.memory_khz == 3201000 && a.bus_bits == 6144);
  CHECK_STATUS(th_device_attributes_get(9, &a), UNAVAILABLE, "cuda:9");
  CHECK_INT(live(), 0);
}

/* A life of a plan in which the n-th call of a function fails: an error that names it, or (captures) the right values all the same. */
static bool life(const char *function, long nth) {
  trainer t;
  bool failed = false;
  int k = 0;
  float w = 99;
  CHECK_OK(start(&t));
  fail(function, nth);
  for (int i = 0; i < 5; i++) {
    th_status status = call(&t, true);
    char text[2048];
    th_status_format(status, text, sizeof text);
    if (status) {
      failed = true;
      if (!strstr(text, function)) fprintf(stderr, "%s %ld: the text is %s\n", function, nth, text), exit(1);
      CHECK(th_status_code(status) == (strstr(function, "Alloc") ? TH_CODE_RESOURCE_EXHAUSTED : TH_CODE_INTERNAL));
      k = (int)t.step, w = t.w[0] - 1;
    } else {
      k++, w++;
      check_values(&t, t.x, k, w);
    }
    th_status_free(status);
  }
  th_status status = th_plan_release(t.plan);
  failed |= status != NULL;
  th_status_free(status);
  fail(NULL, 0);
  CHECK_OK(call(&t, true)); /* and it goes on */
  check_values(&t, t.x, k + 1, t.w[0] - 1);
  stop(&t);
  if (live()) fprintf(stderr, "%s %ld: %ld things are left\n", function, nth, live()), exit(1);
  CHECK_INT(states, 0);
  return failed;
}

static void every_failure(void) {
  static const char *const names[] = {
#define X(function, symbol, arguments) #symbol,
      TH_CUDA_CALLS(X)
#undef X
  };
  int errors = 0, survived = 0;
  th_log_level_set(TH_LOG_ERROR);
  for (int kind = 0; kind < 4; kind++) {
    make(kind % 2 ? BIG : 256);
    profiling = kind >= 2;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
      for (long nth = 1; nth <= 6; nth++) life(names[i], nth) ? errors++ : survived++;
  }
  profiling = false;
  fprintf(stderr, "failing calls: %d gave an error, %d did not reach anybody\n", errors, survived);
  CHECK(errors > 200);
}

static void graphs_that_cannot_be(void) {
  static const char *const names[] = {"cuStreamCreate", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy"};
  make(256);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    trainer t;
    CHECK_OK(start(&t));
    calls_of(NULL);
    fail(names[i], 1);
    for (int k = 1; k <= 5; k++) {
      CHECK_OK(call(&t, true));
      check_values(&t, t.x, k, 99 + (float)k);
    }
    CHECK_INT(calls_of("cuGraphLaunch"), 0);
    CHECK(calls_of("cuStreamBeginCapture_v2") <= 1); /* it is not tried again */
    stop(&t);
    CHECK_INT(live(), 0);
  }
}

/* What a call timed is in the record on disk when it returns. */
static void choices(void) {
  char folder[] = "/tmp/thunder-cuda-XXXXXX", record[64], lock[64];
  struct stat s;
  trainer t;
  CHECK(mkdtemp(folder));
  snprintf(record, sizeof record, "%s/tuning/v2", folder);
  snprintf(lock, sizeof lock, "%s/tuning/lock", folder);
  setenv("THUNDER_CACHE_DIR", folder, 1);
  th_tuning_load();
  make(256);
  CHECK_OK(start(&t));
  CHECK_OK(call(&t, true));
  CHECK(stat(record, &s)); /* nothing */
  chooses = true;
  CHECK_OK(call(&t, false));
  chooses = false;
  CHECK(!stat(record, &s) && s.st_size > 0);
  stop(&t);
  CHECK(!unlink(record) && !unlink(lock));
  snprintf(record, sizeof record, "%s/tuning", folder);
  CHECK(!rmdir(record) && !rmdir(folder));
  th_tuning_clear();
}

static void refused_at_load(void) {
  th_program *program;
  uint32_t kernel = 1; /* instructions: scalars, scale_add, ... */
  make(256), m.p.instr_tensors[m.p.instr_tensors_begin[kernel]] = 3;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "in host memory"); /* lr */
  make(256), m.p.instr_tensors[0] = 0;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "instruction 0 of kind 7");                       /* x, on the device */
  make(256), m.p.device = 3;
  CHECK_STATUS(load(&program), UNIMPLEMENTED, "device of kind 3");
  make(256), m.p.device = 1;
  CHECK_STATUS(load(&program), UNIMPLEMENTED, "cubin");
  make(256), m.p.instr_blob[6] = 1;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "blob of instruction 6");
  make(256), m.p.instr_blob[6] = 9;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "instr_blob");
  make(256), m.p.instr_scratch[6] = 99;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "instr_scratch");
  make(256), m.p.has_staged_size = 0;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "staged_size");
  make(256), m.p.staged_size = 9999;
  CHECK_STATUS(load(&program), INVALID_ARGUMENT, "staged_size");
  make(256), m.strings[0] = (char *)"dot";
  CHECK_STATUS(load(&program), UNIMPLEMENTED, "\"dot\"");
  make(256), m.symbols[0] = (char *)"nothing";
  trainer t;
  CHECK_OK(start(&t));
  CHECK_STATUS(call(&t, false), INTERNAL, "kernel nothing: cuModuleGetFunction");
  stop(&t);
}

/* Tables changed at random: a plan may be accepted, but nothing is touched that is not its own (AddressSanitizer). */
static void changed_at_random(void) {
  uint64_t random = 88172645463325252u;
  int codes[17] = {0};
  for (int i = 0; i < 2000; i++) {
    th_program *program = NULL;
    make(256);
    for (int k = 0; k < 2; k++) {
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      uint32_t *table = m.tables[random % m.used], at = (uint32_t)(random >> 8) % 16, value = (uint32_t)(random >> 32);
      table[at] = random >> 20 & 1 ? value : value % 16;
      if (!(random >> 24 & 7)) m.expr_a[(random >> 40) % m.p.n_expr_a] = (int64_t)(random >> 50) - 4096;
    }
    th_status status = load(&program);
    codes[th_status_code(status)]++;
    th_status_free(status);
    th_program_free(program);
  }
  fprintf(stderr, "changed plans: %d accepted, %d INVALID_ARGUMENT, %d UNIMPLEMENTED\n", codes[0], codes[TH_CODE_INVALID_ARGUMENT], codes[TH_CODE_UNIMPLEMENTED]);
  CHECK_INT(codes[0] + codes[TH_CODE_INVALID_ARGUMENT] + codes[TH_CODE_UNIMPLEMENTED], 2000);
}

int main(void) {
  char path[4096];
  const char *build = getenv("THUNDER_BUILD_DIR");
  if (!build) build = "build";
  snprintf(path, sizeof path, "%s/tests/fake-cuda/libcuda.so.1", build);
  void *fake = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!fake) fprintf(stderr, "%s\n", dlerror()), exit(1);
  *(void **)&calls_of = dlsym(fake, "fake_cuda_count");
  *(void **)&live = dlsym(fake, "fake_cuda_live");
  *(void **)&fail = dlsym(fake, "fake_cuda_fail");
  CHECK(calls_of && live && fail);
  snprintf(path, sizeof path, "%s/tests/fake-cuda/kernels.so", build);
  FILE *f = fopen(path, "rb");
  CHECK(f && !fseek(f, 0, SEEK_END));
  image_size = (size_t)ftell(f);
  rewind(f);
  image = malloc(image_size);
  CHECK(fread(image, 1, image_size, f) == image_size);
  fclose(f);
  CHECK_OK(th_library_add("test.seven", seven));

  trainer t; /* the driver's own start fails once */
  make(256);
  CHECK_OK(start(&t));
  fail("cuInit", 1);
  CHECK_STATUS(call(&t, false), INTERNAL, "cuInit: CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure");
  CHECK_OK(call(&t, false));
  stop(&t);

  kernel_by_kernel(256);
  kernel_by_kernel(BIG);
  steps(256);
  steps(BIG);
  addresses();
  faults_of_kernels();
  regions();
  choices();
  a_captured_stream();
  refused_at_load();
  changed_at_random();
  graphs_that_cannot_be();
  every_failure();
  free(image);
  return 0;
}
