/* f16 and bf16 in memory, to and from float; rounded to nearest, halves to even. Private to executors/run. */
#ifndef THUNDER_EXECUTORS_RUN_HALF_H
#define THUNDER_EXECUTORS_RUN_HALF_H

#include <stdint.h>
#include <string.h>

static inline float th__from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t th__to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float th__from_f16(uint16_t u) {
  _Float16 h;
  memcpy(&h, &u, 2);
  return (float)h;
}

static inline uint16_t th__to_f16(float f) {
  _Float16 h = (_Float16)f;
  uint16_t u;
  memcpy(&u, &h, 2);
  return u;
}

#endif
