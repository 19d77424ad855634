/* What the fakes of libcublasLt.so.13 and libcuda.so.1 share with the tests: one struct, `fake` of the fake driver. */
#ifndef THUNDER_TESTS_CUDA_FAKE_H
#define THUNDER_TESTS_CUDA_FAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct fake_control {
  /* set by the test */
  long fail_at;      /* the entry point called as this one (from 1) fails; 0: none */
  void *stream;      /* every stream must be this one */
  bool capturing;    /* events and synchronization are a misuse */
  bool refuse_batch; /* no algorithm for strided batches */
  bool refuse_check; /* cublasLtMatmulAlgoCheck accepts nothing */
  int n_candidates, fastest, broken; /* broken: this candidate fails when it runs; -1: none, -2: all */
  /* counted */
  long calls, live, matmuls, heuristics, checks, synchronizations, memsets, misuses;
  int last_candidate; /* of cublasLtMatmul */
  double clock;       /* ms */
  char misuse[256];   /* the first */
} fake_control;

static inline float half_widen(uint16_t h) {
  uint32_t e = h >> 10 & 31, m = h & 1023, u;
  float f;
  if (!e) {
    f = (float)m / 16777216.0f; /* 2^-24 each */
    return h >> 15 ? -f : f;
  }
  u = (uint32_t)(h >> 15) << 31 | (e == 31 ? 255u : e + 112u) << 23 | m << 13;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t half_round(float f) { /* to nearest even; overflow is infinity */
  uint32_t u, sign, m;
  memcpy(&u, &f, 4);
  sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (u >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (u < 0x38800000) { /* below the least normal: in units of 2^-24 */
    float a;
    memcpy(&a, &u, 4);
    a += 0.5f; /* aligns the significand so that its last bit is 2^-24 */
    memcpy(&m, &a, 4);
    return (uint16_t)(sign | (m - 0x3f000000));
  }
  u += 0xfff + (u >> 13 & 1);
  return (uint16_t)(sign | (u - 0x38000000) >> 13);
}

static inline float bf16_widen(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t bf16_round(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Elements by cudaDataType (executors/run/cublaslt/cublaslt_abi.h). */
static inline double fake_load(int type, const void *p, int64_t i) {
  switch (type) {
    case 1: return ((const double *)p)[i];
    case 2: return half_widen(((const uint16_t *)p)[i]);
    case 14: return bf16_widen(((const uint16_t *)p)[i]);
    default: return ((const float *)p)[i];
  }
}
static inline void fake_store(int type, void *p, int64_t i, double x) {
  switch (type) {
    case 1: ((double *)p)[i] = x; break;
    case 2: ((uint16_t *)p)[i] = half_round((float)x); break;
    case 14: ((uint16_t *)p)[i] = bf16_round((float)x); break;
    default: ((float *)p)[i] = (float)x;
  }
}
static inline int64_t fake_size(int type) { return type == 1 ? 8 : type == 0 ? 4 : 2; }

#endif
