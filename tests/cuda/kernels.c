/* Kernels of the tests, as fake_cuda.c calls them: parameters as executors/run/kernel.h says for a cubin. */
#include <stdint.h>

#include "executors/run/kernel.h"

#define KERNEL(name, n)                                                                            \
  __attribute__((visibility("default"))) extern const int name##_parameters;                       \
  const int name##_parameters = (n);                                                               \
  __attribute__((visibility("default"))) void name(void **parameters, unsigned grid_x, unsigned grid_y, unsigned block); \
  void name(void **parameters, unsigned grid_x, unsigned grid_y, unsigned block)
#define POINTER(type, i) (*(type **)parameters[i])
#define SIZE(i) (*(int64_t *)parameters[i])

/* out = x * scale + w, and w += 1 */
KERNEL(scale_add, 6) { /* x scale w | out; n; bad */
  (void)grid_x, (void)grid_y, (void)block;
  float *x = POINTER(float, 0), *scale = POINTER(float, 1), *w = POINTER(float, 2), *out = POINTER(float, 3);
  for (int64_t i = 0; i < SIZE(4); i++) out[i] = x[i] * *scale + w[i], w[i] += 1;
}

/* out = table[index]; through its scratch */
KERNEL(take, 5) { /* x | out; scratch; n; bad: x's elements are indices below n */
  (void)grid_x, (void)grid_y, (void)block;
  float *x = POINTER(float, 0), *out = POINTER(float, 1), *scratch = POINTER(float, 2);
  for (int64_t i = 0; i < SIZE(3); i++) {
    if (x[i] < 0 || x[i] >= (float)SIZE(3)) *POINTER(unsigned, 4) |= TH_KERNEL_INDEX;
    scratch[i] = x[i];
    out[i] = scratch[i] * 10;
  }
}
