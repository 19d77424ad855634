/* The random numbers of the op `uniform`, once for all executors: counter-based, so that equal (seed, offset, tag, index)
 * give equal numbers on every executor, in the forward pass and when recomputed. Philox4x32-10 (Salmon et al., "Parallel
 * random numbers: as easy as 1, 2, 3", 2011). C text that compiles as it stands and can be quoted into generated code, so
 * it must stay free of preprocessor lines. Thread-safe.
 *
 *   th_uniform    53 bits in [0, 1), for f64
 *   th_uniform_f  the upper 24 of them, for f32 and, rounded, narrower dtypes */
#ifndef THUNDER_EXECUTORS_PHILOX_H
#define THUNDER_EXECUTORS_PHILOX_H

#define TH_PHILOX                                                                                                             \
  static inline double th_uniform(uint64_t seed, uint64_t offset, uint64_t tag, uint64_t i) {                                 \
    uint32_t c0 = (uint32_t)i, c1 = (uint32_t)(i >> 32) ^ (uint32_t)(offset >> 32), c2 = (uint32_t)tag, c3 = (uint32_t)offset; \
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);                                                                \
    for (int r = 0; r < 10; r++) {                                                                                            \
      uint64_t p = (uint64_t)0xD2511F53u * c0, q = (uint64_t)0xCD9E8D57u * c2;                                                \
      uint32_t n0 = (uint32_t)(q >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p >> 32) ^ c3 ^ k1;                                        \
      c0 = n0; c1 = (uint32_t)q; c2 = n2; c3 = (uint32_t)p;                                                                   \
      k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;                                                                                   \
    }                                                                                                                         \
    return (double)((uint64_t)c0 << 21 ^ (uint64_t)(c1 >> 11)) * 0x1p-53;                                                     \
  }                                                                                                                           \
  static inline float th_uniform_f(uint64_t seed, uint64_t offset, uint64_t tag, uint64_t i) {                                \
    return (float)((uint32_t)(th_uniform(seed, offset, tag, i) * 16777216.0)) * 0x1p-24f;                                     \
  }

#define TH_QUOTE_(...) #__VA_ARGS__
#define TH_QUOTE(...) TH_QUOTE_(__VA_ARGS__)

#endif
