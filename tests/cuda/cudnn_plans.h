/* What the tests of cuDNN's plans for a GPU that is not there share. Included once a test. */
#ifndef THUNDER_TESTS_CUDA_CUDNN_PLANS_H
#define THUNDER_TESTS_CUDA_CUDNN_PLANS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "executors/cudnn/plan.h"
#include "executors/vendor/vendor.h"

static int failures;

static void expect(bool fine, const char *what, const char *detail) {
  if (fine) return;
  fprintf(stderr, "FAILED %s: %s\n", what, detail);
  failures++;
}

/* Ends the status; true where its code is `code` and its text has `part`. */
static void expect_status(th_status status, th_code code, const char *part, const char *what) {
  char text[2048];
  th_status_format(status, text, sizeof text);
  expect(th_status_code(status) == code && strstr(text, part), what, text);
  th_status_free(status);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void device_text(char *buffer, size_t size) {
  th_cudnn_device h100 = {.sm_major = 9, .sms = 132, .shared_per_block_optin = 232448, .l2_bytes = 52428800, .memory_bytes = 85017493504, .name = "NVIDIA H100 80GB HBM3"};
  size_t n = th_cudnn_device_json(&h100, buffer, size);
  expect(n < 1500 && n < size, "the device's text", buffer);
}

static bool have_wheels(void) {
  static const char *const all[] = {"libnvrtc.so.13", "libcublasLt.so.13", "libcudnn.so.9"};
  for (int i = 0; i < 3; i++) {
    void *library;
    char text[1024];
    th_status status = th_vendor_open(all[i], "skipped", &library);
    if (!status) continue;
    th_status_format(status, text, sizeof text);
    fprintf(stderr, "%s\n", text);
    th_status_free(status);
    return false;
  }
  return true;
}

/* Where have_wheels said so. */
static uint32_t open_cudnn(void) {
  const char *build = getenv("THUNDER_BUILD_DIR");
  char stub[2048];
  uint32_t version;
  snprintf(stub, sizeof stub, "%s/lib/cuda-stub/libcuda.so.1", build ? build : "build");
  expect_status(th_cudnn_open(stub, &version), TH_CODE_OK, "", "cuDNN opens");
  return version;
}

#endif
