/* cudnn.attention as a plan calls it, against a libcudnn.so.9 that counts (fake_cudnn.c): which plan it takes, when it makes one, what it
 * hands over, and what it says where it cannot. No GPU, no wheels. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/attention.h"
#include "executors/cudnn/conv.h"
#include "executors/run/library.h"
#include "tests/cuda/fake_cudnn.h"

static int failures;
static fake_cudnn_counts *fake;

#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);    \
      failures++;                                                               \
    }                                                                           \
  } while (0)

static void expect_status(th_status status, th_code code, const char *part, int line) {
  char text[2048];
  th_status_format(status, text, sizeof text);
  if (th_status_code(status) != code || !strstr(text, part)) {
    fprintf(stderr, "FAILED line %d: wanted %s with \"%s\", have %s\n", line, th_code_name(code), part, text);
    failures++;
  }
  th_status_free(status);
}
#define STATUS(code, part, expression) expect_status((expression), TH_CODE_##code, part, __LINE__)

enum { B = 2, H = 4, HK = 2, T = 128, D = 64 };

static th_view view(uintptr_t at, th_dtype dtype, int64_t heads, int64_t rows, int64_t columns) { /* (B, rows, heads, columns) in memory; columns 0: (B, heads, rows) */
  th_view v = {.data = (void *)at, .dtype = dtype, .rank = columns ? 4 : 3, .dims = {B, heads, rows, columns}};
  if (columns) memcpy(v.strides, (int64_t[4]){rows * heads * columns, columns, heads * columns, 1}, 4 * sizeof(int64_t));
  else memcpy(v.strides, (int64_t[3]){heads * rows, rows, 1}, 3 * sizeof(int64_t));
  return v;
}

static const int64_t causal = 1;
static th_view operands[6], results[3];

static th_library_args call(bool backward, th_library_state **state) {
  th_dtype d = TH_DTYPE_bf16;
  operands[0] = view(0x1000, d, H, T, D);
  operands[1] = view(0x2000, d, HK, T, D);
  operands[2] = view(0x3000, d, HK, T, D);
  operands[3] = view(0x4000, d, H, T, D);
  operands[4] = view(0x5000, TH_DTYPE_f32, H, T, 0);
  operands[5] = view(0x6000, d, H, T, D);
  if (backward) {
    results[0] = view(0x7000, d, H, T, D);
    results[1] = view(0x8000, d, HK, T, D);
    results[2] = view(0x9000, d, HK, T, D);
  } else {
    results[0] = operands[3];
    results[1] = operands[4];
  }
  return (th_library_args){.operands = operands, .results = results, .n_operands = backward ? 6 : 3, .n_results = backward ? 3 : 2, .n_ints = 1, .ints = &causal, .alpha = 0.125,
                           .stream = (void *)0x70, .scratch = (void *)0x100000, .scratch_bytes = (size_t)1 << 30, .state = state};
}

static void *given(int64_t id) {
  for (int64_t i = 0; i < fake->n; i++)
    if (fake->ids[i] == id) return fake->data[i];
  return NULL;
}

static void drop(th_library_state **state) {
  if (*state) (*state)->release(*state);
  *state = NULL;
}

static void forward(void) {
  th_library_state *state = NULL;
  th_library_args args = call(false, &state);
  args.capturing = true;
  STATUS(FAILED_PRECONDITION, "while a CUDA graph is captured", th_lib_cudnn_attention(&args));
  EXPECT(!state);
  args.capturing = false;
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->handles == 1 && fake->plans_made == 1 && fake->packs == 1 && fake->runs == 1 && fake->streams == 1 && fake->stream == (void *)0x70);
  EXPECT(fake->n == 7 && given(TH_CUDNN_Q + 1) == (void *)0x1000 && given(TH_CUDNN_V + 1) == (void *)0x3000 && given(TH_CUDNN_OUT + 1) == (void *)0x4000);
  EXPECT(given(TH_CUDNN_LSE + 1) == (void *)0x5000 && fake->workspace == (void *)0x100000);
  EXPECT(*(float *)given(TH_CUDNN_SCALE + 1) == 0.125f && *(float *)given(TH_CUDNN_MINUS_INFINITY + 1) == -INFINITY);
  args.capturing = true; /* the same again: nothing is made */
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->plans_made == 1 && fake->packs == 1 && fake->runs == 2 && fake->streams == 1);
  args.stream = (void *)0x80;
  operands[0].data = (void *)0xa000;
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->packs == 2 && fake->streams == 2 && given(TH_CUDNN_Q + 1) == (void *)0xa000);
  operands[0].data = (void *)0xa002;
  STATUS(INVALID_ARGUMENT, "multiple of 16", th_lib_cudnn_attention(&args));
  operands[0].data = (void *)0xa000;
  fake->fail_runs = 1;
  STATUS(INTERNAL, "as asked", th_lib_cudnn_attention(&args));
  fake->fail_runs = 0;
  args.capturing = false;
  operands[0].dims[0] = operands[1].dims[0] = operands[2].dims[0] = results[0].dims[0] = results[1].dims[0] = 3; /* another batch: a second plan, the first stays */
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  args = call(false, &state);
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->plans_made == 2);
  operands[1].dims[2]--;
  STATUS(INVALID_ARGUMENT, "does not fit", th_lib_cudnn_attention(&args));
  args = call(false, &state);
  operands[2].strides[3] = 0;
  STATUS(UNIMPLEMENTED, "of v", th_lib_cudnn_attention(&args));
  drop(&state);
  EXPECT(fake->alive == 0);
}

static void backward(void) {
  th_library_state *state = NULL;
  th_library_args args = call(true, &state);
  fake->workspace_wanted = 1000;
  args.scratch_bytes = 1000;
  STATUS(RESOURCE_EXHAUSTED, "needs 267264 bytes of scratch (1000 of them cuDNN's workspace) and has 1000", th_lib_cudnn_attention_backward(&args));
  args.scratch_bytes = 1024 + B * H * T * 4 + B * H * T * D * 4;
  EXPECT(args.scratch_bytes == 267264);
  STATUS(OK, "", th_lib_cudnn_attention_backward(&args));
  EXPECT(fake->n == 14 && given(TH_CUDNN_GRAD + 1) == (void *)0x6000 && given(TH_CUDNN_DQ + 1) == (void *)0x7000 && given(TH_CUDNN_DV + 1) == (void *)0x9000);
  EXPECT(given(TH_CUDNN_ROW_SUMS + 1) == (void *)(uintptr_t)(0x100000 + 1024) && given(TH_CUDNN_DQ_SUMS + 1) == (void *)(uintptr_t)(0x100000 + 1024 + B * H * T * 4));
  EXPECT(*(float *)given(TH_CUDNN_ONE + 1) == 1);
  args.deterministic = true; /* another plan, without dq's sums */
  STATUS(OK, "", th_lib_cudnn_attention_backward(&args));
  EXPECT(fake->n == 13 && !given(TH_CUDNN_DQ_SUMS + 1));
  drop(&state);
  EXPECT(fake->alive == 0);
}

static void blobs(void) {
  th_library_state *state = NULL;
  th_library_args args = call(false, &state);
  th_cudnn_attention a = {.dtype = TH_DTYPE_bf16, .causal = true, .batch = B, .heads = H, .key_heads = HK, .length = T, .keys = T, .size = D, .value_size = D};
  for (int t = 0; t < 5; t++) {
    const th_view *v = t < 3 ? &operands[t] : &results[t - 3];
    memcpy(a.strides[t], v->strides, sizeof a.strides[t]);
  }
  a.strides[TH_CUDNN_LSE][3] = 1;
  uint8_t *bytes;
  size_t size;
  STATUS(OK, "", th_cudnn_plan_prepare(TH_CUDNN_ATTENTION, &a, "{}", &bytes, &size));
  args.blob = bytes;
  args.blob_size = size;
  int made = fake->plans_made, was_read = fake->plans_read;
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->plans_made == made && fake->plans_read == was_read + 1);
  drop(&state);
  bytes[12]--; /* another version: made here, with a line in the log */
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->plans_made == made + 1 && fake->plans_read == was_read + 1);
  STATUS(OK, "", th_lib_cudnn_attention(&args));
  EXPECT(fake->plans_made == made + 1);
  drop(&state);
  EXPECT(fake->alive == 0);
  free(bytes);
}

/* Convolutions over (2, 8, 6, 6) with 16 filters of 3x3, channels-last. */
static void convolutions(void) {
  static const int64_t ints[] = {2, 1, 1, 1, 1, 1, 1, 1, 0}, dims[3][4] = {{2, 8, 6, 6}, {16, 8, 3, 3}, {2, 16, 6, 6}};
  static th_status (*const functions[])(const th_library_args *args) = {th_lib_cudnn_conv, th_lib_cudnn_conv_grad_x, th_lib_cudnn_conv_grad_w};
  static const int order[3][3] = {{0, 1, 2}, {2, 1, 0}, {0, 2, 1}}; /* operands, result */
  th_view views[3];
  const int64_t *d[3], *s[3];
  for (int t = 0; t < 3; t++) {
    views[t] = (th_view){.data = (void *)(uintptr_t)(0x1000 * (t + 1)), .dtype = TH_DTYPE_bf16, .rank = 4};
    memcpy(views[t].dims, dims[t], sizeof dims[t]);
    memcpy(views[t].strides, (int64_t[4]){dims[t][1] * dims[t][2] * dims[t][3], 1, dims[t][3] * dims[t][1], dims[t][1]}, 4 * sizeof(int64_t));
    d[t] = views[t].dims, s[t] = views[t].strides;
  }
  for (int kind = 0; kind < 3; kind++) {
    th_library_state *state = NULL;
    th_view in[2] = {views[order[kind][0]], views[order[kind][1]]};
    th_library_args args = {.operands = in, .results = &views[order[kind][2]], .n_operands = 2, .n_results = 1, .n_ints = 9, .ints = ints, .alpha = 1, .stream = (void *)0x70,
                            .scratch = (void *)0x100000, .scratch_bytes = 1 << 20, .state = &state, .capturing = true};
    fake->workspace_wanted = 1000;
    STATUS(FAILED_PRECONDITION, "while a CUDA graph is captured", functions[kind](&args));
    args.capturing = false;
    int made = fake->plans_made, packs = fake->packs, was_read = fake->plans_read;
    STATUS(OK, "", functions[kind](&args));
    args.capturing = true;
    STATUS(OK, "", functions[kind](&args));
    EXPECT(fake->plans_made == made + 1 && fake->packs == packs + 1 && fake->n == 3 && fake->workspace == (void *)0x100000);
    for (int t = 0; t < 3; t++) EXPECT(given(t + 1) == views[t].data);
    args.scratch_bytes = 1000; /* below a multiple of 256 */
    STATUS(RESOURCE_EXHAUSTED, "1024 bytes of scratch and has 1000", functions[kind](&args));
    args.scratch_bytes = 1 << 20;
    in[0].data = (void *)0x1008;
    STATUS(INVALID_ARGUMENT, "multiple of 16", functions[kind](&args));
    in[0].data = views[order[kind][0]].data;
    in[0].dtype = TH_DTYPE_f32;
    STATUS(INVALID_ARGUMENT, "dtypes", functions[kind](&args));
    in[0].dtype = TH_DTYPE_bf16;
    args.capturing = false;
    in[1].dims[0]++;
    STATUS(INVALID_ARGUMENT, "do not fit", functions[kind](&args));
    in[1].dims[0]--;
    drop(&state);
    EXPECT(fake->alive == 0);
    /* with a plan that was brought */
    th_cudnn_conv c = {.dtype = TH_DTYPE_bf16, .kind = (th_cudnn_conv_kind)kind};
    uint8_t *bytes;
    size_t size;
    EXPECT(th_cudnn_conv_make(&c, 2, ints + 1, 1, d, s));
    STATUS(OK, "", th_cudnn_plan_prepare(TH_CUDNN_CONVOLUTION, &c, "{}", &bytes, &size));
    made = fake->plans_made;
    args.blob = bytes;
    args.blob_size = size;
    STATUS(OK, "", functions[kind](&args));
    EXPECT(fake->plans_made == made && fake->plans_read == was_read + 1);
    drop(&state);
    fake->workspace_wanted = 1 << 30; /* no plan keeps to the limit */
    args.blob = NULL;
    STATUS(UNIMPLEMENTED, "4194304 are allowed", functions[kind](&args));
    drop(&state);
    EXPECT(fake->alive == 0);
    free(bytes);
  }
}

int main(void) {
  const char *build = getenv("THUNDER_BUILD_DIR");
  char folder[2048];
  void *library;
  snprintf(folder, sizeof folder, "%s/tests/fake-cudnn", build ? build : "build");
  setenv("THUNDER_CUDA_LIBS", folder, 1);
  snprintf(folder, sizeof folder, "%s/tests/fake-cudnn/libcudnn.so.9", build ? build : "build");
  library = dlopen(folder, RTLD_NOW);
  fake = library ? dlsym(library, "fake_cudnn") : NULL;
  if (!fake) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  forward();
  backward();
  blobs();
  convolutions();
  return failures != 0;
}
