/* exp of f32, once for generated kernels and for the runtime's own loops: branch-free, so that a loop over it vectorizes;
 * error below 2 units in the last place. After Cephes (S. Moshier). C text that can be quoted (no preprocessor lines): who uses
 * it says what TH_FMAF(a, b, c), a * b + c, is. */
#ifndef THUNDER_EXECUTORS_VECTOR_MATH_H
#define THUNDER_EXECUTORS_VECTOR_MATH_H

#define TH_BITS                                                                                                                  \
  static inline float th_bits_f(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }                                            \
  static inline __attribute__((unused)) uint32_t th_f_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

#define TH_EXPF                                                                                                                  \
  static inline float th_expf(float x) {                                                                                         \
    float c = x > 88.7228317f ? 88.7228317f : x < -87.33654f ? -87.33654f : x;                                                   \
    float n = __builtin_rintf(c * 1.44269504f), r = TH_FMAF(n, -0.693359375f, c); r = TH_FMAF(n, 2.12194440e-4f, r);             \
    float p = 1.9875691500e-4f; p = TH_FMAF(p, r, 1.3981999507e-3f); p = TH_FMAF(p, r, 8.3334519073e-3f);                        \
    p = TH_FMAF(p, r, 4.1665795894e-2f); p = TH_FMAF(p, r, 1.6666665459e-1f); p = TH_FMAF(p, r, 5.0000001201e-1f);               \
    p = TH_FMAF(p * r, r, r) + 1.0f;                                                                                             \
    int32_t k = (int32_t)n, h = k >> 1;                                                                                          \
    float y = p * th_bits_f((uint32_t)(h + 127) << 23) * th_bits_f((uint32_t)(k - h + 127) << 23);                               \
    y = x > 88.7228317f ? __builtin_inff() : y; y = x < -87.33654f ? 0.0f : y; return x != x ? x : y;                            \
  }

#endif
