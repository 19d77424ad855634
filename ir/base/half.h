/* f16 and bf16 in memory, to and from float; rounded to nearest, halves to even; any NaN becomes the quiet one. In integers: not every compiler has _Float16. */
#ifndef THUNDER_IR_BASE_HALF_H
#define THUNDER_IR_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float th_from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t th_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float th_from_f16(uint16_t h) {
  uint32_t exponent = h >> 10 & 31, fraction = h & 1023, u;
  float f;
  if (!exponent) { /* in units of 2^-24 */
    f = (float)fraction / 16777216.0f;
    return h >> 15 ? -f : f;
  }
  u = (uint32_t)(h >> 15) << 31 | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t th_to_f16(float f) {
  uint32_t u, sign;
  memcpy(&u, &f, 4);
  sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (u >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520: half a unit above the largest */
  if (u < 0x38800000) {                                  /* below the least normal: the sum's last bit is 2^-24 */
    float sum;
    memcpy(&sum, &u, 4);
    sum += 0.5f;
    memcpy(&u, &sum, 4);
    return (uint16_t)(sign | (u - 0x3f000000));
  }
  u += 0xfff + (u >> 13 & 1);
  return (uint16_t)(sign | (u - 0x38000000) >> 13);
}

#endif
