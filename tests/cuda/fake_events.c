/* A driver on host memory: what executors/run/cublaslt uses of libcuda.so.1, with a clock that only products move. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda/fake.h"

#define EXPORT __attribute__((visibility("default")))
#define ENTER()                                   \
  do {                                            \
    if (++fake.calls == fake.fail_at) return 999; \
  } while (0)
#define MISUSE(...)                                                            \
  do {                                                                         \
    if (!fake.misuses++) snprintf(fake.misuse, sizeof fake.misuse, __VA_ARGS__); \
    return 1;                                                                  \
  } while (0)

extern fake_control fake;
EXPORT fake_control fake = {.unit = 0.3, .n_candidates = 5, .fastest = 2, .broken = -1, .last_candidate = -1};

typedef struct event { double at; bool recorded; } event;

int cuEventCreate(void **out, unsigned flags);
int cuEventDestroy_v2(void *e);
int cuEventRecord(void *e, void *stream);
int cuEventSynchronize(void *e);
int cuEventElapsedTime(float *out, void *a, void *b);
int cuMemsetD2D8Async(uint64_t to, size_t pitch, unsigned char value, size_t width, size_t height, void *stream);
int cuDeviceGet(int *out, int ordinal);
int cuDeviceGetName(char *out, int size, int device);
int cuDriverGetVersion(int *out);
int cuGetErrorName(int result, const char **out);

EXPORT int cuEventCreate(void **out, unsigned flags) {
  ENTER();
  if (flags || fake.capturing) MISUSE("cuEventCreate with flags %u%s", flags, fake.capturing ? " while capturing" : "");
  *out = calloc(1, sizeof(event));
  fake.live++;
  return 0;
}
EXPORT int cuEventDestroy_v2(void *e) {
  free(e);
  fake.live--;
  ENTER();
  return 0;
}
EXPORT int cuEventRecord(void *e, void *stream) {
  ENTER();
  if (stream != fake.stream || fake.capturing) MISUSE("cuEventRecord on another stream, or while capturing");
  *(event *)e = (event){fake.clock, true};
  return 0;
}
EXPORT int cuEventSynchronize(void *e) {
  ENTER();
  if (fake.capturing || !((event *)e)->recorded) MISUSE("cuEventSynchronize while capturing, or of an event that was not recorded");
  fake.synchronizations++;
  return 0;
}
EXPORT int cuEventElapsedTime(float *out, void *a, void *b) {
  ENTER();
  *out = (float)(((event *)b)->at - ((event *)a)->at);
  return 0;
}
EXPORT int cuMemsetD2D8Async(uint64_t to, size_t pitch, unsigned char value, size_t width, size_t height, void *stream) {
  ENTER();
  if (stream != fake.stream || pitch < width || !width || !height) MISUSE("cuMemsetD2D8Async(pitch %zu, width %zu, height %zu)", pitch, width, height);
  for (size_t i = 0; i < height; i++) memset((char *)(uintptr_t)to + i * pitch, value, width);
  fake.memsets++;
  return 0;
}
EXPORT int cuDeviceGet(int *out, int ordinal) {
  ENTER();
  *out = ordinal + 100;
  return 0;
}
EXPORT int cuDeviceGetName(char *out, int size, int device) {
  ENTER();
  if (device < 100) MISUSE("cuDeviceGetName of an ordinal");
  snprintf(out, (size_t)size, "Fake %d", device - 100);
  return 0;
}
EXPORT int cuDriverGetVersion(int *out) {
  ENTER();
  *out = 13000;
  return 0;
}
EXPORT int cuGetErrorName(int result, const char **out) {
  *out = result == 999 ? "CUDA_ERROR_UNKNOWN" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
