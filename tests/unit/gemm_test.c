/* Matrix products whose sizes a 32-bit BLAS cannot be told: an error, before any library is called or memory is touched. */
#include <stdint.h>

#include "executors/run/library.h"
#include "tests/unit/check.h"

static void refused(th_gemm g) {
  th_status status = th_gemm_run(&g);
  CHECK(status);
  CHECK_INT(th_status_code(status), TH_CODE_OUT_OF_RANGE);
  th_status_free(status);
}

int main(void) {
  th_gemm one = {.dtype = TH_DTYPE_f32, .m = 1, .n = 1, .k = 1, .lda = 1, .ldb = 1, .ldc = 1, .batch = 1, .alpha = 1}, g;
  g = one, g.batch = (int64_t)INT32_MAX + 1, refused(g);
  g = one, g.batch = ((int64_t)1 << 32) + 1, refused(g); /* cut to 32 bits it is 1 */
  g = one, g.m = ((int64_t)1 << 32) + 1, refused(g);
  g = one, g.lda = ((int64_t)1 << 32) + 1, refused(g);
  return 0;
}
