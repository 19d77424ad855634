/* cuDNN plans for a GPU that is not there. Wants the wheels (THUNDER_CUDA_LIBS=…/nvidia/cu13/lib:…/nvidia/cudnn/lib); 77 without them.
 *   cudnn_plan_test              everything
 *   cudnn_plan_test write DIR    only the plans, as files; write-last-first: in the other order. The test runs itself so in two environments
 *                                and compares: memory that cuDNN leaves unset differs between them */
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executors/cudnn/attention.h"
#include "tests/cuda/cudnn_plans.h"

/* ---- cases ---- */

typedef enum layout { HEADS_INSIDE, PACKED, DENSE } layout; /* (B, T, H, D); q, k, v in one (B, T, 3, H, D); (B, H, T, D) */

typedef struct shape {
  const char *name;
  layout layout;
  th_dtype dtype;
  int64_t batch, heads, key_heads, length, keys, size, value_size;
  bool causal, deterministic;
} shape;

static const shape shapes[] = {
    {"gpt2", PACKED, TH_DTYPE_bf16, 32, 12, 12, 1024, 1024, 64, 64, true, false},
    {"grouped", HEADS_INSIDE, TH_DTYPE_bf16, 4, 32, 8, 4096, 4096, 64, 64, true, false},
    {"all-see-all", HEADS_INSIDE, TH_DTYPE_f16, 8, 16, 16, 512, 512, 64, 64, false, false},
    {"wide", DENSE, TH_DTYPE_bf16, 2, 16, 16, 2048, 2048, 128, 128, true, false},
    {"odd", HEADS_INSIDE, TH_DTYPE_bf16, 3, 4, 2, 77, 200, 40, 64, false, false},
    {"odd-causal", HEADS_INSIDE, TH_DTYPE_f16, 1, 4, 4, 1000, 1000, 64, 64, true, false},
    {"repeatable", HEADS_INSIDE, TH_DTYPE_bf16, 4, 8, 8, 1024, 1024, 64, 64, true, true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static th_cudnn_attention attention_of(const shape *s, bool backward) {
  th_cudnn_attention a = {.dtype = s->dtype, .backward = backward, .causal = s->causal, .deterministic = s->deterministic, .batch = s->batch, .heads = s->heads,
                          .key_heads = s->key_heads, .length = s->length, .keys = s->keys, .size = s->size, .value_size = s->value_size};
  for (int t = 0; t < TH_CUDNN_STRIDED; t++) {
    int64_t d[4], *to = a.strides[t];
    bool packed = s->layout == PACKED && (t <= TH_CUDNN_V || t >= TH_CUDNN_DQ);
    th_cudnn_attention_dims(&a, (th_cudnn_tensor)t, d);
    to[3] = 1;
    to[2] = s->layout == DENSE || t == TH_CUDNN_LSE ? d[3] : d[1] * d[3] * (packed ? 3 : 1);
    to[1] = s->layout == DENSE || t == TH_CUDNN_LSE ? d[2] * d[3] : d[3];
    to[0] = d[1] * d[2] * d[3] * (packed ? 3 : 1);
  }
  return a;
}

/* ---- without a library ---- */

static void check_descriptions(void) {
  th_cudnn_attention a = attention_of(&shapes[0], true), b = a;
  expect_status(th_cudnn_attention_check(&a, 91900), TH_CODE_OK, "", "gpt2 is fine");
  a.dtype = TH_DTYPE_f32;
  expect_status(th_cudnn_attention_check(&a, 91900), TH_CODE_UNIMPLEMENTED, "f32", "f32 is refused");
  a = b;
  a.strides[TH_CUDNN_GRAD][3] = 0;
  expect_status(th_cudnn_attention_check(&a, 91900), TH_CODE_UNIMPLEMENTED, "of grad", "an expanded gradient is refused");
  a = attention_of(&shapes[4], false);
  expect_status(th_cudnn_attention_check(&a, 91900), TH_CODE_OK, "", "200 keys in 9.19");
  expect_status(th_cudnn_attention_check(&a, 91400), TH_CODE_UNIMPLEMENTED, "200 keys", "200 keys in 9.14");
  a.key_heads = 3;
  expect_status(th_cudnn_attention_check(&a, 91900), TH_CODE_INVALID_ARGUMENT, "4/3", "heads that do not divide");
  /* Strides of extent 1 mean nothing. */
  shape one = shapes[0];
  one.batch = 1;
  a = b = attention_of(&one, false);
  b.strides[TH_CUDNN_K][0] = 7;
  b.strides[TH_CUDNN_DQ][1] = 9; /* not of the forward pass */
  th_cudnn_attention_normalize(&a);
  th_cudnn_attention_normalize(&b);
  expect(th_cudnn_equal(TH_CUDNN_ATTENTION, &a, &b), "normalized strides", "differ");
  a = attention_of(&shapes[1], true);
  size_t lse = 4u * 32 * 4096 * 4, dq = lse * 64, each = (size_t)4 * 32 * 4096 * 128 * 2;
  expect(th_cudnn_scratch_bytes(&a, 300) == 512 + lse + dq, "scratch", "with a workspace");
  expect(th_cudnn_scratch_bytes(&a, -1) == 512 + each + lse + dq, "scratch", "without one");
  a.batch = INT64_MAX / 2;
  expect(th_cudnn_scratch_bytes(&a, 0) == SIZE_MAX, "scratch", "beyond counting");
  th_cudnn_plan_info info;
  th_cudnn_attention found;
  expect_status(th_cudnn_plan_inspect(TH_CUDNN_ATTENTION, (const uint8_t *)"{}", 2, &info, &found), TH_CODE_INVALID_ARGUMENT, "no plan", "foreign bytes");
}

/* ---- plans ---- */

static void save(const char *folder, const char *name, const char *pass, const uint8_t *bytes, size_t size) {
  char path[2048];
  snprintf(path, sizeof path, "%s/%s.%s", folder, name, pass);
  FILE *f = fopen(path, "wb");
  expect(f && fwrite(bytes, 1, size, f) == size, "writes", path);
  if (f) fclose(f);
}

static void plan_one(const shape *s, bool backward, const char *device, uint32_t version, const char *folder) {
  th_cudnn_attention a = attention_of(s, backward), other = a;
  char what[128];
  uint8_t *bytes;
  size_t size;
  th_cudnn_plan *plan;
  th_cudnn_plan_info info;
  th_cudnn_attention found;
  snprintf(what, sizeof what, "%s %s", s->name, backward ? "backward" : "forward");
  double begin = now();
  th_status status = th_cudnn_plan_prepare(TH_CUDNN_ATTENTION, &a, device, &bytes, &size);
  double made = now() - begin;
  bool worked = !status;
  expect_status(status, TH_CODE_OK, "", what);
  if (!worked) return;
  save(folder, s->name, backward ? "backward" : "forward", bytes, size);
  expect_status(th_cudnn_plan_inspect(TH_CUDNN_ATTENTION, bytes, size, &info, &found), TH_CODE_OK, "", what);
  th_cudnn_attention normal = a;
  th_cudnn_attention_normalize(&normal);
  expect(info.version == version && th_cudnn_equal(TH_CUDNN_ATTENTION, &normal, &found), what, "the header says something else");
  expect(th_cudnn_scratch_bytes(&a, info.workspace) <= th_cudnn_scratch_bytes(&a, -1), what, "more scratch than the bound");
  begin = now();
  status = th_cudnn_plan_read(TH_CUDNN_ATTENTION, bytes, size, &a, NULL, device, &plan);
  printf("%-22s %7.1f ms, %6zu bytes, workspace %lld (scratch %zu, bound %zu), read in %.1f ms\n", what, made, size, (long long)info.workspace,
         th_cudnn_scratch_bytes(&a, info.workspace), th_cudnn_scratch_bytes(&a, -1), now() - begin);
  expect_status(status, TH_CODE_OK, "", "reads back");
  if (plan) expect(th_cudnn_plan_scratch_bytes(plan) == th_cudnn_scratch_bytes(&a, info.workspace), what, "scratch of the plan that was read");
  th_cudnn_plan_destroy(plan);
  /* What does not fit. */
  other.length *= 2;
  expect_status(th_cudnn_plan_read(TH_CUDNN_ATTENTION, bytes, size, &other, NULL, device, &plan), TH_CODE_FAILED_PRECONDITION, "wanted is", "another length");
  expect_status(th_cudnn_plan_read(TH_CUDNN_ATTENTION, bytes, size - 1, &a, NULL, device, &plan), TH_CODE_INVALID_ARGUMENT, "bytes", "a byte short");
  bytes[12] ^= 1; /* 91900 -> 91901 */
  expect_status(th_cudnn_plan_read(TH_CUDNN_ATTENTION, bytes, size, &a, NULL, device, &plan), TH_CODE_FAILED_PRECONDITION, "9.19.1, and this process has 9.19.0", "another version");
  free(bytes);
}

static void plan_all(const char *folder, bool last_first) {
  char device[2048];
  uint32_t version = open_cudnn();
  device_text(device, sizeof device);
  for (int i = 0; i < SHAPES && !failures; i++) {
    const shape *s = &shapes[last_first ? SHAPES - 1 - i : i];
    plan_one(s, last_first, device, version, folder);
    plan_one(s, !last_first, device, version, folder);
  }
}

/* ---- two processes that have little in common ---- */

static pid_t write_plans(const char *program, const char *folder, bool odd) {
  static char libs[4096], build[2048], home[2048], tmp[2048];
  char *here[] = {libs, build, "HOME=/", "LANG=C", NULL}, *there[] = {"LANG=de_DE.UTF-8", "LC_ALL=C.UTF-8", "TZ=Asia/Tokyo", tmp, home, libs, build, "USER=nobody", "X=1", NULL};
  char inner[2100], cwd[2048];
  pid_t child = 0;
  snprintf(libs, sizeof libs, "THUNDER_CUDA_LIBS=%s", getenv("THUNDER_CUDA_LIBS") ? getenv("THUNDER_CUDA_LIBS") : "");
  snprintf(build, sizeof build, "THUNDER_BUILD_DIR=%s", getenv("THUNDER_BUILD_DIR") ? getenv("THUNDER_BUILD_DIR") : "build");
  snprintf(home, sizeof home, "HOME=%s", folder);
  snprintf(tmp, sizeof tmp, "TMPDIR=%s/tmp", folder);
  snprintf(inner, sizeof inner, "%s/tmp", folder);
  mkdir(folder, 0700);
  mkdir(inner, 0700);
  char *arguments[] = {(char *)program, odd ? "write-last-first" : "write", (char *)folder, NULL};
  if (!getcwd(cwd, sizeof cwd) || (odd && chdir(inner))) expect(false, "changes folder", inner);
  if (posix_spawn(&child, program, NULL, NULL, arguments, odd ? there : here)) expect(false, "starts", program);
  if (odd && chdir(cwd)) expect(false, "changes folder", cwd);
  return child;
}

static void same_bytes(const char *program) {
  char base[] = "/tmp/thunder-cudnn-XXXXXX", first[64], second[64], command[256];
  if (!mkdtemp(base)) {
    expect(false, "makes a folder", base);
    return;
  }
  snprintf(first, sizeof first, "%s/a", base);
  snprintf(second, sizeof second, "%s/b", base);
  pid_t children[2] = {write_plans(program, first, false), write_plans(program, second, true)};
  for (int i = 0; i < 2; i++) {
    int result = 0;
    if (children[i]) waitpid(children[i], &result, 0);
    expect(children[i] && !result, "writes plans", i ? second : first);
  }
  int compared = 0;
  for (int i = 0; i < SHAPES && !failures; i++)
    for (int backward = 0; backward < 2; backward++, compared++) {
      snprintf(command, sizeof command, "cmp '%s/%s.%s' '%s/%s.%s'", first, shapes[i].name, backward ? "backward" : "forward", second, shapes[i].name, backward ? "backward" : "forward");
      expect(!system(command), "the same bytes in two environments", shapes[i].name);
    }
  snprintf(command, sizeof command, "rm -rf '%s'", base);
  if (failures || system(command)) fprintf(stderr, "left: %s\n", base);
  printf("%d plans are the same in two processes with different environment\n", compared);
}

int main(int argc, char **argv) {
  char self[2048];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return 1;
  self[n] = 0;
  if (argc == 3) {
    plan_all(argv[2], !strcmp(argv[1], "write-last-first"));
    return failures != 0;
  }
  check_descriptions();
  if (!have_wheels()) return failures ? 1 : 77;
  same_bytes(self);
  return failures != 0;
}
