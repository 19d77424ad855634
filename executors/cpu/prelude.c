#include "executors/cpu/cpu.h"
#include "executors/philox.h"
#include "executors/vector_math.h"

/* Helpers of generated kernels. Approximations of f32 functions are branch-free so that loops over them vectorize; errors
 * are below 2 units in the last place (tests/conformance/test_accuracy.py). exp, log, tanh after Cephes (S. Moshier); erf after
 * N. Juffa's minimax polynomials. Only they fuse products with sums: a value that one kernel computes twice must be the same twice
 * (the gradient of amax looks for the maximum), and the same as PyTorch's. */
const char th_cpu_prelude[] =
    "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n#include <stddef.h>\n"
    "typedef struct th_kernel_context { int32_t threads, rank, world; } th_kernel_context;\n"
    TH_QUOTE(TH_BITS) "\n"
    "static inline float th_load_bf16(uint16_t x) { return th_bits_f((uint32_t)x << 16); }\n"
    "static inline uint16_t th_store_bf16(float x) { uint32_t u = th_f_bits(x); uint32_t r = (u + 0x7fff + (u >> 16 & 1)) >> 16; return x != x ? 0x7fc0 : (uint16_t)r; }\n"
    "static inline float th_load_f16(uint16_t h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }\n"
    "static inline uint16_t th_store_f16(float x) { _Float16 y = (_Float16)x; uint16_t h; memcpy(&h, &y, 2); return h; }\n"
    "#define TH_FMAF(a, b, c) __builtin_fmaf(a, b, c)\n"
    "#define TH_MAX(a, b) ((b) > (a) || (b) != (b) ? (b) : (a))\n"
    "#define TH_MIN(a, b) ((b) < (a) || (b) != (b) ? (b) : (a))\n"
    "#pragma omp declare reduction(thmax : float : omp_out = TH_MAX(omp_out, omp_in)) initializer(omp_priv = -INFINITY)\n"
    "#pragma omp declare reduction(thmin : float : omp_out = TH_MIN(omp_out, omp_in)) initializer(omp_priv = INFINITY)\n"
    "#pragma omp declare reduction(thmax : double : omp_out = TH_MAX(omp_out, omp_in)) initializer(omp_priv = -INFINITY)\n"
    "#pragma omp declare reduction(thmin : double : omp_out = TH_MIN(omp_out, omp_in)) initializer(omp_priv = INFINITY)\n"
    TH_QUOTE(TH_EXPF) "\n"
    "static inline float th_logf(float x) {\n"
    "  uint32_t small = x < 1.17549435e-38f; float v = small ? x * 8388608.0f : x; uint32_t u = th_f_bits(v);\n"
    "  int32_t e = (int32_t)(u >> 23) - 126 - (small ? 23 : 0); float m = th_bits_f((u & 0x7fffff) | 0x3f000000);\n"
    "  int32_t low = m < 0.707106781186547524f; e -= low; m = low ? m + m - 1.0f : m - 1.0f;\n"
    "  float z = m * m, p = 7.0376836292e-2f; p = TH_FMAF(p, m, -1.1514610310e-1f); p = TH_FMAF(p, m, 1.1676998740e-1f); p = TH_FMAF(p, m, -1.2420140846e-1f);\n"
    "  p = TH_FMAF(p, m, 1.4249322787e-1f); p = TH_FMAF(p, m, -1.6668057665e-1f); p = TH_FMAF(p, m, 2.0000714765e-1f); p = TH_FMAF(p, m, -2.4999993993e-1f); p = TH_FMAF(p, m, 3.3333331174e-1f);\n"
    "  float y = m * z * p, f = (float)e; y = TH_FMAF(-2.12194440e-4f, f, y); y = TH_FMAF(-0.5f, z, y); y = m + y; y = TH_FMAF(0.693359375f, f, y);\n"
    "  y = x == 0.0f ? -INFINITY : y; y = x < 0.0f ? NAN : y; return x == INFINITY || x != x ? x : y;\n}\n"
    "static inline float th_tanhf(float x) {\n"
    "  float a = __builtin_fabsf(x), z = x * x, p = -5.70498872745e-3f;\n"
    "  p = TH_FMAF(p, z, 2.06390887954e-2f); p = TH_FMAF(p, z, -5.37397155531e-2f); p = TH_FMAF(p, z, 1.33314422036e-1f); p = TH_FMAF(p, z, -3.33332819422e-1f); p = TH_FMAF(p * z, x, x);\n"
    "  float b = 1.0f - 2.0f / (th_expf(a > 10.0f ? 20.0f : a + a) + 1.0f); return x != x ? p : __builtin_copysignf(a < 0.625f ? p : b, x);\n}\n"
    "static inline float th_erff(float a) {\n"
    "  float t = __builtin_fabsf(a), s = a * a, r = TH_FMAF(-1.72853470e-5f, t, 3.83197126e-4f), u = TH_FMAF(-3.88396438e-3f, t, 2.42546219e-2f);\n"
    "  r = TH_FMAF(r, s, u); r = TH_FMAF(r, t, -1.06777877e-1f); r = TH_FMAF(r, t, -6.34846687e-1f); r = TH_FMAF(r, t, -1.28717512e-1f); r = TH_FMAF(r, t, -t);\n"
    "  r = __builtin_copysignf(1.0f - th_expf(r), a);\n"
    "  float q = -5.96761703e-4f; q = TH_FMAF(q, s, 4.99119423e-3f); q = TH_FMAF(q, s, -2.67681349e-2f); q = TH_FMAF(q, s, 1.12819925e-1f); q = TH_FMAF(q, s, -3.76125336e-1f); q = TH_FMAF(q, s, 1.28379166e-1f);\n"
    "  q = TH_FMAF(q, a, a); return t > 0.927734375f ? r : q;\n}\n"
    TH_QUOTE(TH_PHILOX) "\n"
    "#define TH_IS_MINUS_1(T, y) ((T)-1 < 0 && (y) == (T)-1)\n" /* of an unsigned type, (T)-1 is a divisor like others */
    "#define TH_DIV_INT(T, x, y) ((y) == 0 ? (th_bad |= 2, (T)0) : TH_IS_MINUS_1(T, y) ? (T)(0 - (uint64_t)(x)) : (T)((x) / (y)))\n"
    "#define TH_REM_INT(T, x, y) ((y) == 0 ? (th_bad |= 2, (T)0) : TH_IS_MINUS_1(T, y) ? (T)0 : (T)((x) % (y)))\n"
    "static inline uint64_t th_pow_int(uint64_t x, uint64_t y, int negative) {\n" /* wraps around; 1 / x towards zero, and 0 of 0 */
    "  uint64_t z = 1; if (negative) return x == 1 ? 1 : x == (uint64_t)-1 ? (y & 1 ? x : 1) : 0;\n"
    "  for (; y; y >>= 1, x *= x) if (y & 1) z *= x;\n  return z;\n}\n";
