/* cudnn.attention and its gradient on a GPU against the CPU's in float, with plans made in words and on the spot, and replayed from a CUDA
 * graph. 77 where there is no GPU or no cuDNN. The wheels as for cudnn_plan_test. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/attention.h"
#include "executors/run/library.h"
#include "ir/base/half.h"
#include "executors/vendor/vendor.h"

/* ---- the driver ---- */

#define DRIVER_FUNCTIONS(F)                                                                                                                  \
  F(cuInit, (unsigned)) F(cuDeviceGet, (int *, int)) F(cuDeviceGetAttribute, (int *, int, int)) F(cuDeviceTotalMem_v2, (size_t *, int))       \
  F(cuDevicePrimaryCtxRetain, (void **, int)) F(cuCtxSetCurrent, (void *)) F(cuMemAlloc_v2, (uintptr_t *, size_t)) F(cuMemFree_v2, (uintptr_t)) \
  F(cuMemcpyHtoD_v2, (uintptr_t, const void *, size_t)) F(cuMemcpyDtoH_v2, (void *, uintptr_t, size_t)) F(cuMemsetD8_v2, (uintptr_t, unsigned char, size_t)) \
  F(cuStreamCreate, (void **, unsigned)) F(cuStreamSynchronize, (void *)) F(cuStreamBeginCapture_v2, (void *, int)) F(cuStreamEndCapture, (void *, void **)) \
  F(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long)) F(cuGraphLaunch, (void *, void *))

#define DECLARE(name, parameters) static int(*name) parameters;
DRIVER_FUNCTIONS(DECLARE)
#define LOAD(name, parameters) {#name, (void **)(void *)&name},

#define CUDA(expression)                                                              \
  do {                                                                                \
    int cuda_result = (expression);                                                   \
    if (cuda_result) {                                                                \
      fprintf(stderr, "%s:%d: %s: CUDA error %d\n", __FILE__, __LINE__, #expression, cuda_result); \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)

static void *stream;

static bool open_driver(void) {
  static const struct { const char *name; void **to; } all[] = {DRIVER_FUNCTIONS(LOAD)};
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), *context;
  int device;
  if (!library) return false;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!(*all[i].to = dlsym(library, all[i].name))) return false;
  if (cuInit(0) || cuDeviceGet(&device, 0)) return false;
  CUDA(cuDevicePrimaryCtxRetain(&context, device));
  CUDA(cuCtxSetCurrent(context));
  CUDA(cuStreamCreate(&stream, 1));
  return true;
}

static void device_words(char *buffer, size_t size) {
  enum { SM_CLOCK = 13, SMS = 16, MEMORY_CLOCK = 36, BUS = 37, L2 = 38, MAJOR = 75, MINOR = 76, SHARED = 97 };
  static const int which[] = {MAJOR, MINOR, SMS, SHARED, L2, SM_CLOCK, MEMORY_CLOCK, BUS};
  int v[8];
  size_t memory;
  for (int i = 0; i < 8; i++) CUDA(cuDeviceGetAttribute(&v[i], which[i], 0));
  CUDA(cuDeviceTotalMem_v2(&memory, 0));
  th_cudnn_device d = {.sm_major = v[0], .sm_minor = v[1], .sms = v[2], .shared_per_block_optin = v[3], .l2_bytes = v[4], .memory_bytes = (int64_t)memory, .sm_clock_khz = v[5],
                       .memory_clock_khz = v[6], .memory_bus_bits = v[7]};
  th_cudnn_device_json(&d, buffer, size);
}

/* ---- tensors: the same numbers on both sides ---- */

static float random_number(void) { /* about normal */
  static uint64_t state = 88172645463325252u;
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    sum += (float)(state >> 40) / (1 << 24) - 0.5f;
  }
  return sum * 1.7f;
}

typedef struct tensor { th_view host, device; size_t numel; } tensor; /* the host's f32; the device's bf16 (log-sum-exp: f32), equal strides */

static tensor make(int64_t b, int64_t h, int64_t rows, int64_t columns, bool fill) { /* (B, rows, H, columns) in memory; columns 0: (B, H, rows) */
  tensor t = {.numel = (size_t)(b * h * rows * (columns ? columns : 1))};
  th_dtype d = columns ? TH_DTYPE_bf16 : TH_DTYPE_f32;
  t.host = (th_view){.dtype = TH_DTYPE_f32, .rank = columns ? 4 : 3, .dims = {b, h, rows, columns}};
  if (columns) memcpy(t.host.strides, (int64_t[4]){rows * h * columns, columns, h * columns, 1}, 4 * sizeof(int64_t));
  else memcpy(t.host.strides, (int64_t[3]){h * rows, rows, 1}, 3 * sizeof(int64_t));
  t.host.data = calloc(t.numel, sizeof(float));
  t.device = t.host;
  t.device.dtype = d;
  uintptr_t memory;
  CUDA(cuMemAlloc_v2(&memory, t.numel * th_dtype_size(d)));
  t.device.data = (void *)memory;
  CUDA(cuMemsetD8_v2(memory, 0xff, t.numel * th_dtype_size(d))); /* NaN */
  if (fill) {
    uint16_t *rounded = malloc(t.numel * 2);
    for (size_t i = 0; i < t.numel; i++) ((float *)t.host.data)[i] = th_from_bf16(rounded[i] = th_to_bf16(random_number()));
    CUDA(cuMemcpyHtoD_v2(memory, rounded, t.numel * 2));
    free(rounded);
  }
  return t;
}

static void drop(tensor *t) {
  free(t->host.data);
  CUDA(cuMemFree_v2((uintptr_t)t->device.data));
}

/* Copies the device's numbers to out; and the largest difference, relative to the largest number. */
static double difference(const tensor *t, float *out) {
  size_t each = th_dtype_size(t->device.dtype);
  void *raw = malloc(t->numel * each);
  double top = 0, worst = 0;
  CUDA(cuMemcpyDtoH_v2(raw, (uintptr_t)t->device.data, t->numel * each));
  for (size_t i = 0; i < t->numel; i++) {
    float x = each == 2 ? th_from_bf16(((uint16_t *)raw)[i]) : ((float *)raw)[i], y = ((float *)t->host.data)[i];
    if (out) out[i] = x;
    if (fabs(y) > top) top = fabs(y);
    if (!(fabs(x - y) <= worst)) worst = fabs(x - y); /* NaN counts */
  }
  free(raw);
  return worst / top;
}

/* ---- one case ---- */

static int failures;

static void must(th_status status, const char *what) {
  char text[2048];
  if (!status) return;
  th_status_format(status, text, sizeof text);
  fprintf(stderr, "FAILED %s: %s\n", what, text);
  exit(1);
}

static void compare(const char *name, const char *what, const tensor *t, double bound) {
  double d = difference(t, NULL);
  printf("%-28s %-5s %.2e\n", name, what, d);
  if (!(d < bound)) fprintf(stderr, "FAILED %s: %s is off by %.3g of its largest number, bound %.3g\n", name, what, d, bound), failures++;
}

static void prepare(th_library_args *args, bool backward, const char *words) { /* a blob as the compile half makes it */
  th_cudnn_attention a = {.dtype = TH_DTYPE_bf16, .backward = backward, .causal = args->ints[0] != 0, .deterministic = args->deterministic, .batch = args->operands[0].dims[0],
                          .heads = args->operands[0].dims[1], .key_heads = args->operands[1].dims[1], .length = args->operands[0].dims[2], .keys = args->operands[1].dims[2],
                          .size = args->operands[0].dims[3], .value_size = args->operands[2].dims[3]};
  static const int8_t from[2][TH_CUDNN_STRIDED] = {{0, 1, 2, 8, 9, -1, -1, -1, -1}, {0, 1, 2, 3, 4, 5, 8, 9, 10}};
  for (int t = 0; t < TH_CUDNN_STRIDED; t++) {
    int at = from[backward][t];
    if (at >= 0) memcpy(a.strides[t], at < 8 ? args->operands[at].strides : args->results[at - 8].strides, sizeof a.strides[t]);
    if (t == TH_CUDNN_LSE) a.strides[t][3] = 1;
  }
  uint8_t *bytes;
  must(th_cudnn_plan_prepare(TH_CUDNN_ATTENTION, &a, words, &bytes, &args->blob_size), "prepares");
  args->blob = bytes;
}

static void run_case(const char *label, int64_t b, int64_t h, int64_t hk, int64_t rows, int64_t keys, int64_t size, bool causal, bool deterministic, const char *words) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", label, words ? ", in words" : "");
  tensor q = make(b, h, rows, size, true), k = make(b, hk, keys, size, true), v = make(b, hk, keys, size, true), grad = make(b, h, rows, size, true);
  tensor out = make(b, h, rows, size, false), lse = make(b, h, rows, 0, false), dq = make(b, h, rows, size, false), dk = make(b, hk, keys, size, false), dv = make(b, hk, keys, size, false);
  int64_t ints[1] = {causal};
  th_kernel_context context = {.threads = 4};
  th_view host_in[] = {q.host, k.host, v.host, out.host, lse.host, grad.host}, host_out[] = {out.host, lse.host}, host_grads[] = {dq.host, dk.host, dv.host};
  th_view in[] = {q.device, k.device, v.device, out.device, lse.device, grad.device}, outs[] = {out.device, lse.device}, grads[] = {dq.device, dk.device, dv.device};
  th_library_args host = {.operands = host_in, .results = host_out, .n_operands = 3, .n_results = 2, .n_ints = 1, .ints = ints, .alpha = 1 / sqrt((double)size), .context = &context};
  must(th_lib_attention(&host), "the CPU's attention");
  host.results = host_grads, host.n_operands = 6, host.n_results = 3;
  must(th_lib_attention_backward(&host), "the CPU's gradient");

  th_cudnn_attention bound = {.backward = true, .deterministic = deterministic, .batch = b, .heads = h, .key_heads = hk, .length = rows, .keys = keys, .size = size, .value_size = size};
  size_t scratch_bytes = th_cudnn_scratch_bytes(&bound, -1);
  uintptr_t scratch;
  CUDA(cuMemAlloc_v2(&scratch, scratch_bytes));
  CUDA(cuMemsetD8_v2(scratch, 0xff, scratch_bytes));
  th_library_state *states[2] = {NULL, NULL};
  th_library_args forward = {.operands = in, .results = outs, .n_operands = 3, .n_results = 2, .n_ints = 1, .ints = ints, .alpha = host.alpha, .context = &context, .stream = stream,
                             .scratch = (void *)scratch, .scratch_bytes = scratch_bytes, .deterministic = deterministic, .state = &states[0]};
  th_library_args backward = forward;
  backward.results = grads, backward.n_operands = 6, backward.n_results = 3, backward.state = &states[1];
  if (words) prepare(&forward, false, words), prepare(&backward, true, words);
  must(th_lib_cudnn_attention(&forward), name);
  must(th_lib_cudnn_attention_backward(&backward), name);
  CUDA(cuStreamSynchronize(stream));
  compare(name, "out", &out, 2e-2);
  compare(name, "lse", &lse, 1e-3);
  compare(name, "dq", &dq, 5e-2);
  compare(name, "dk", &dk, 5e-2);
  compare(name, "dv", &dv, 5e-2);

  /* Again from a CUDA graph, into results that were wiped. */
  float *first = malloc(dq.numel * sizeof(float)), *second = malloc(dq.numel * sizeof(float));
  void *graph, *executable;
  difference(&dq, first);
  CUDA(cuMemsetD8_v2((uintptr_t)dq.device.data, 0xff, dq.numel * 2));
  CUDA(cuMemsetD8_v2((uintptr_t)out.device.data, 0xff, out.numel * 2));
  forward.capturing = backward.capturing = true;
  CUDA(cuStreamBeginCapture_v2(stream, 1));
  must(th_lib_cudnn_attention(&forward), "captured");
  must(th_lib_cudnn_attention_backward(&backward), "captured");
  CUDA(cuStreamEndCapture(stream, &graph));
  CUDA(cuGraphInstantiateWithFlags(&executable, graph, 0));
  for (int i = 0; i < 3; i++) CUDA(cuGraphLaunch(executable, stream));
  CUDA(cuStreamSynchronize(stream));
  compare(name, "out'", &out, 2e-2);
  compare(name, "dq'", &dq, 5e-2);
  difference(&dq, second);
  if (deterministic && memcmp(first, second, dq.numel * sizeof(float))) fprintf(stderr, "FAILED %s: two runs differ\n", name), failures++;
  free(first);
  free(second);
  for (int i = 0; i < 2; i++) states[i]->release(states[i]);
  free((void *)forward.blob);
  free((void *)backward.blob);
  tensor *all[] = {&q, &k, &v, &grad, &out, &lse, &dq, &dk, &dv};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop(all[i]);
  CUDA(cuMemFree_v2(scratch));
}

int main(void) {
  void *library;
  char words[2048];
  if (!open_driver()) {
    fprintf(stderr, "skipped: no GPU\n");
    return 77;
  }
  th_status status = th_vendor_open("libcudnn.so.9", "skipped", &library);
  if (status) {
    fprintf(stderr, "%s\n", th_status_message(status));
    th_status_free(status);
    return 77;
  }
  device_words(words, sizeof words);
  for (int i = 0; i < 2; i++) {
    const char *w = i ? NULL : words;
    run_case("causal", 2, 4, 4, 256, 256, 64, true, false, w);
    run_case("grouped", 2, 8, 2, 384, 384, 64, true, false, w);
    run_case("all see all", 1, 4, 4, 128, 320, 128, false, false, w);
    run_case("odd", 3, 4, 2, 77, 200, 40, false, false, w);
    run_case("odd, causal", 1, 2, 2, 201, 201, 64, true, false, w);
    run_case("repeatable", 2, 4, 4, 512, 512, 64, true, true, w);
  }
  return failures != 0;
}
