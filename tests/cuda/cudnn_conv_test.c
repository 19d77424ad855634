/* cuDNN's plans of a ResNet's convolutions, and some others, for a GPU that is not there. Wants the wheels as cudnn_plan_test; 77 without them.
 *   cudnn_conv_test              everything
 *   cudnn_conv_test write FILE   only the plans, one after the other, into a file: the test runs itself so twice and compares */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executors/cudnn/conv.h"
#include "tests/cuda/cudnn_plans.h"

typedef struct shape {
  const char *name;
  th_dtype dtype;
  bool last, tf32, deterministic;
  uint32_t n;
  int64_t images, channels, filters, size, kernel, stride, padding, dilation, groups;
} shape;

static const shape shapes[] = {
    {"stem", TH_DTYPE_bf16, true, false, false, 2, 64, 3, 64, 224, 7, 2, 3, 1, 1},
    {"3x3", TH_DTYPE_bf16, true, false, false, 2, 64, 64, 64, 56, 3, 1, 1, 1, 1},
    {"1x1", TH_DTYPE_bf16, true, false, false, 2, 64, 64, 256, 56, 1, 1, 0, 1, 1},
    {"3x3 stride 2", TH_DTYPE_bf16, true, false, false, 2, 64, 128, 128, 56, 3, 2, 1, 1, 1},
    {"1x1 stride 2", TH_DTYPE_bf16, true, false, false, 2, 64, 256, 512, 56, 1, 2, 0, 1, 1},
    {"last", TH_DTYPE_f16, true, false, false, 2, 64, 512, 512, 7, 3, 1, 1, 1, 1},
    {"repeatable", TH_DTYPE_bf16, true, false, true, 2, 16, 64, 64, 28, 3, 1, 1, 1, 1},
    {"dilated", TH_DTYPE_bf16, true, false, false, 2, 8, 64, 64, 28, 3, 1, 2, 2, 1},
    {"grouped", TH_DTYPE_bf16, true, false, false, 2, 16, 128, 128, 28, 3, 1, 1, 1, 32},
    {"depthwise", TH_DTYPE_bf16, true, false, false, 2, 16, 96, 96, 28, 3, 1, 1, 1, 96},
    {"odd channels", TH_DTYPE_bf16, true, false, false, 2, 4, 5, 10, 13, 3, 1, 1, 1, 1},
    {"f32", TH_DTYPE_f32, false, false, false, 2, 8, 32, 32, 28, 3, 1, 1, 1, 1},
    {"f32 channels-last", TH_DTYPE_f32, true, false, false, 2, 8, 32, 32, 28, 3, 1, 1, 1, 1},
    {"tf32", TH_DTYPE_f32, true, true, false, 2, 8, 32, 32, 28, 3, 1, 1, 1, 1},
    {"tf32 channels first", TH_DTYPE_f32, false, true, false, 2, 8, 32, 32, 28, 3, 1, 1, 1, 1},
    {"line", TH_DTYPE_bf16, true, false, false, 1, 8, 64, 128, 100, 5, 2, 2, 1, 1},
    {"volume", TH_DTYPE_bf16, true, false, false, 3, 2, 16, 32, 16, 3, 1, 1, 1, 1},
    {"half channels first", TH_DTYPE_bf16, false, false, false, 2, 8, 64, 64, 28, 3, 1, 1, 1, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void lay(const int64_t *dims, uint32_t rank, bool last, int64_t *strides) {
  int64_t n = 1;
  if (last) strides[1] = n, n *= dims[1];
  for (uint32_t i = rank; i-- > 0;)
    if (i != 1 || !last) strides[i] = n, n *= dims[i];
}

static th_cudnn_conv conv_of(const shape *s, th_cudnn_conv_kind kind) {
  th_cudnn_conv c = {.dtype = s->dtype, .kind = kind, .tf32 = s->tf32, .deterministic = s->deterministic};
  int64_t out = (s->size + 2 * s->padding - s->dilation * (s->kernel - 1) - 1) / s->stride + 1, numbers[9];
  int64_t dims[3][5] = {{s->images, s->channels}, {s->filters, s->channels / s->groups}, {s->images, s->filters}}, strides[3][5];
  const int64_t *d[3] = {dims[0], dims[1], dims[2]}, *st[3] = {strides[0], strides[1], strides[2]};
  for (uint32_t i = 0; i < s->n; i++) {
    dims[0][2 + i] = s->size, dims[1][2 + i] = s->kernel, dims[2][2 + i] = out;
    numbers[i] = s->stride, numbers[s->n + i] = s->padding, numbers[2 * s->n + i] = s->dilation;
  }
  for (int t = 0; t < 3; t++) lay(dims[t], s->n + 2, s->last, strides[t]);
  expect(th_cudnn_conv_make(&c, s->n, numbers, s->groups, d, st), "makes", s->name);
  return c;
}

static void check_descriptions(void) {
  th_cudnn_conv c = conv_of(&shapes[1], TH_CUDNN_CONV), other;
  char text[512];
  th_cudnn_conv_format(&c, text, sizeof text);
  expect(!strcmp(text, "conv bf16 channels-last, x 64x64x56x56, w 64x64x3x3, y 64x64x56x56, stride 1x1, padding 1x1, dilation 1x1, groups 1"), "its name", text);
  expect_status(th_cudnn_conv_check(&c), TH_CODE_OK, "", "3x3 is fine");
  /* 1x1: a filter lies as the others do, whatever stands on extents of 1 */
  c = other = conv_of(&shapes[2], TH_CUDNN_CONV);
  expect(c.strides[TH_CUDNN_W][2] == 64 && c.strides[TH_CUDNN_W][1] == 1, "normalized", "a filter of 1x1 is channels-last");
  expect(th_cudnn_equal(TH_CUDNN_CONVOLUTION, &c, &other), "equal", "1x1");
  other.strides[TH_CUDNN_Y][0]++;
  expect(!th_cudnn_equal(TH_CUDNN_CONVOLUTION, &c, &other), "equal", "other strides");
  c.dims[TH_CUDNN_Y][3]++;
  expect_status(th_cudnn_conv_check(&c), TH_CODE_INVALID_ARGUMENT, "do not fit", "a result too wide");
  c = conv_of(&shapes[15], TH_CUDNN_CONV);
  expect(c.n == 2 && c.dims[TH_CUDNN_X][2] == 1 && c.dims[TH_CUDNN_X][3] == 100 && c.stride[0] == 1 && c.stride[1] == 2 && c.padding[0] == 0, "one dimension", "as two");
  expect(th_cudnn_conv_scratch_limit(&c) == 4 << 20, "scratch", "least");
  c = conv_of(&shapes[0], TH_CUDNN_CONV);
  expect(th_cudnn_conv_scratch_limit(&c) == 64 << 20, "scratch", "most");
  th_cudnn_plan_info info;
  th_cudnn_conv found;
  expect_status(th_cudnn_plan_inspect(TH_CUDNN_CONVOLUTION, (const uint8_t *)"{}", 2, &info, &found), TH_CODE_INVALID_ARGUMENT, "no plan", "foreign bytes");
}

static void plan_one(const shape *s, th_cudnn_conv_kind kind, const char *device, uint32_t version, FILE *into) {
  static const char *const kinds[] = {"", " grad x", " grad w"};
  th_cudnn_conv c = conv_of(s, kind), other = c;
  char what[128];
  uint8_t *bytes;
  size_t size;
  th_cudnn_plan *plan;
  th_cudnn_plan_info info;
  th_cudnn_conv found;
  snprintf(what, sizeof what, "%s%s", s->name, kinds[kind]);
  double begin = now();
  th_status status = th_cudnn_plan_prepare(TH_CUDNN_CONVOLUTION, &c, device, &bytes, &size);
  double made = now() - begin;
  bool worked = !status;
  expect_status(status, TH_CODE_OK, "", what);
  if (!worked) return;
  if (into) expect(fwrite(bytes, 1, size, into) == size, "writes", what);
  expect_status(th_cudnn_plan_inspect(TH_CUDNN_CONVOLUTION, bytes, size, &info, &found), TH_CODE_OK, "", what);
  expect(info.version == version && th_cudnn_equal(TH_CUDNN_CONVOLUTION, &c, &found), what, "the header says something else");
  expect(info.workspace <= (int64_t)th_cudnn_conv_scratch_limit(&c), what, "more scratch than the limit");
  begin = now();
  status = th_cudnn_plan_read(TH_CUDNN_CONVOLUTION, bytes, size, &c, NULL, device, &plan);
  printf("%-28s %7.1f ms, %6zu bytes, workspace %lld, read in %.1f ms\n", what, made, size, (long long)info.workspace, now() - begin);
  expect_status(status, TH_CODE_OK, "", "reads back");
  th_cudnn_plan_destroy(plan);
  other.dims[TH_CUDNN_X][0] *= 2;
  expect_status(th_cudnn_plan_read(TH_CUDNN_CONVOLUTION, bytes, size, &other, NULL, device, &plan), TH_CODE_FAILED_PRECONDITION, "wanted is", "another batch");
  expect_status(th_cudnn_plan_read(TH_CUDNN_CONVOLUTION, bytes, size - 1, &c, NULL, device, &plan), TH_CODE_INVALID_ARGUMENT, "bytes", "a byte short");
  bytes[12] ^= 1;
  expect_status(th_cudnn_plan_read(TH_CUDNN_CONVOLUTION, bytes, size, &c, NULL, device, &plan), TH_CODE_FAILED_PRECONDITION, "this process has", "another version");
  free(bytes);
}

static void plan_all(FILE *into) {
  char device[2048];
  uint32_t version = open_cudnn();
  device_text(device, sizeof device);
  for (int i = 0; i < SHAPES && !failures; i++)
    for (int kind = 0; kind < TH_CUDNN_CONV_KINDS; kind++) plan_one(&shapes[i], (th_cudnn_conv_kind)kind, device, version, into);
}

int main(int argc, char **argv) {
  char base[] = "/tmp/thunder-conv-XXXXXX", self[2048], command[6000];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return 1;
  self[n] = 0;
  if (argc == 3) {
    FILE *f = fopen(argv[2], "wb");
    if (!f) return 1;
    plan_all(f);
    fclose(f);
    return failures != 0;
  }
  check_descriptions();
  if (!have_wheels()) return failures ? 1 : 77;
  plan_all(NULL);
  if (!mkdtemp(base)) return 1;
  snprintf(command, sizeof command, "cd %s && '%s' write a >/dev/null && X=1 LANG=de_DE.UTF-8 TZ=Asia/Tokyo HOME=/ '%s' write b >/dev/null && cmp a b && rm -r %s", base, self, self, base);
  expect(!system(command), "the same bytes in two environments", base);
  return failures != 0;
}
