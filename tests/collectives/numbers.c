#include "tests/collectives/numbers.h"

#include <math.h>
#include <string.h>

uint64_t numbers_mix(uint64_t a, uint64_t b) {
  uint64_t h = (a ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu + b;
  h ^= h >> 32;
  h *= 0xc4ceb9fe1a85ec53u;
  return h ^ h >> 29;
}

static bool is_narrow(th_dtype d) { return th_dtype_is_float(d) && th_dtype_size(d) < 4; }
static th_dtype part_of(th_dtype d) { return d == TH_DTYPE_c64 ? TH_DTYPE_f32 : d == TH_DTYPE_c128 ? TH_DTYPE_f64 : d; }

/* --- narrow floats, by their definitions */

typedef struct format {
  int exponent, mantissa;
  bool has_infinity;
} format;

static format format_of(th_dtype d) {
  switch (d) {
    case TH_DTYPE_bf16: return (format){8, 7, true};
    case TH_DTYPE_f16: return (format){5, 10, true};
    case TH_DTYPE_f8e5m2: return (format){5, 2, true};
    default: return (format){4, 3, false}; /* f8e4m3fn: the largest pattern is NaN, the others are numbers */
  }
}

/* The value of a pattern without sign; where the format has infinities, theirs is the power of two after the largest number. */
static double magnitude(format f, unsigned pattern) {
  int bias = (1 << (f.exponent - 1)) - 1, e = (int)(pattern >> f.mantissa);
  double m = pattern & ((1u << f.mantissa) - 1);
  return e ? ldexp(m + ldexp(1, f.mantissa), e - bias - f.mantissa) : ldexp(m, 1 - bias - f.mantissa);
}

static unsigned sign_bit(format f) { return 1u << (f.exponent + f.mantissa); }
static unsigned beyond(format f) { return f.has_infinity ? ((1u << f.exponent) - 1) << f.mantissa : sign_bit(f) - 1; }

static double widen(th_dtype d, unsigned pattern) {
  format f = format_of(d);
  unsigned plain = pattern & (sign_bit(f) - 1);
  double v = plain > beyond(f) || (plain == beyond(f) && !f.has_infinity) ? NAN : plain == beyond(f) ? INFINITY : magnitude(f, plain);
  return pattern & sign_bit(f) ? -v : v;
}

static unsigned narrow(th_dtype d, float value) { /* nearest, ties to the even pattern */
  format f = format_of(d);
  unsigned sign = signbit(value) ? sign_bit(f) : 0, low = 0, high = beyond(f);
  if (isnan(value)) return beyond(f) | (f.has_infinity ? 1 : 0);
  double m = fabs((double)value);
  if (m >= magnitude(f, high)) return sign | high;
  while (high - low > 1) { /* magnitude(low) <= m < magnitude(high) */
    unsigned middle = (low + high) / 2;
    if (magnitude(f, middle) <= m)
      low = middle;
    else
      high = middle;
  }
  double down = m - magnitude(f, low), up = magnitude(f, high) - m;
  return sign | (down < up || (down == up && low % 2 == 0) ? low : high);
}

/* --- elements */

static uint64_t load_bits(th_dtype d, const void *p) {
  uint64_t bits = 0;
  memcpy(&bits, p, th_dtype_size(d));
  return bits;
}
static void store_bits(th_dtype d, uint64_t bits, void *p) { memcpy(p, &bits, th_dtype_size(d)); }

static double load_float(th_dtype d, const void *p) {
  float f;
  double v;
  if (is_narrow(d)) return widen(d, (unsigned)load_bits(d, p));
  if (d == TH_DTYPE_f64) return memcpy(&v, p, 8), v;
  return memcpy(&f, p, 4), (double)f;
}

static void store_float(th_dtype d, double v, void *p) {
  float f = (float)v;
  if (is_narrow(d))
    store_bits(d, narrow(d, f), p);
  else if (d == TH_DTYPE_f64)
    memcpy(p, &v, 8);
  else
    memcpy(p, &f, 4);
}

static double some_float(th_dtype d, uint64_t seed) {
  uint64_t h = numbers_mix(seed, 1);
  double sign = h & 1 ? -1 : 1;
  switch (h >> 1 & 63) {
    case 0: return NAN;
    case 1: return d == TH_DTYPE_f8e4m3 ? NAN : INFINITY;
    case 2: return d == TH_DTYPE_f8e4m3 ? NAN : -INFINITY;
    case 3: return 0;
    case 4:
    case 5: return d == TH_DTYPE_f16 ? 60000 : d == TH_DTYPE_f8e4m3 ? 448 : d == TH_DTYPE_f8e5m2 ? 57344 : 1e5; /* sums of the narrow ones overflow */
  }
  uint64_t m = h >> 8, e = h >> 40 & 7;
  switch (d) { /* full mantissas over few exponents: sums stay within 24 bits, and do not fit into the dtype */
    case TH_DTYPE_f16: return sign * ldexp((double)(m % 2047 + 1), (int)(e % 2) - 6);
    case TH_DTYPE_bf16: return sign * ldexp((double)(m % 255 + 1), (int)e - 4);
    case TH_DTYPE_f8e4m3: return sign * ldexp((double)(m % 15 + 1), (int)e - 5);
    case TH_DTYPE_f8e5m2: return sign * ldexp((double)(m % 7 + 1), (int)e - 4);
    case TH_DTYPE_f32: return sign * ldexp((double)(m % 8191 + 1), -3);
    default: return sign * ldexp((double)(m % ((UINT64_C(1) << 40) - 1) + 1), -20);
  }
}

void numbers_element(th_dtype dtype, uint64_t seed, void *out) {
  th_dtype part = part_of(dtype);
  if (part != dtype) {
    store_float(part, some_float(part, numbers_mix(seed, 2)), out);
    store_float(part, some_float(part, numbers_mix(seed, 3)), (char *)out + th_dtype_size(part));
  } else if (th_dtype_is_float(dtype)) {
    store_float(dtype, some_float(dtype, seed), out);
  } else {
    uint64_t h = numbers_mix(seed, 4);
    store_bits(dtype, dtype == TH_DTYPE_bool ? h & 1 : h, out);
  }
}

static int64_t sign_extend(th_dtype d, uint64_t bits) {
  unsigned shift = 64 - 8 * (unsigned)th_dtype_size(d);
  return (int64_t)(bits << shift) >> shift;
}

static bool better(th_dtype d, th_reduce reduce, uint64_t a, uint64_t b) { /* a before b */
  bool less = th_dtype_kind_of(d) == TH_KIND_INT ? sign_extend(d, a) < sign_extend(d, b) : a < b;
  bool more = th_dtype_kind_of(d) == TH_KIND_INT ? sign_extend(d, a) > sign_extend(d, b) : a > b;
  return reduce == TH_REDUCE_max ? more : less;
}

static void reduce_float(th_dtype d, th_reduce reduce, int size, const void *const *inputs, size_t offset, void *out) {
  double all = 0;
  for (int r = 0; r < size; r++) {
    double v = load_float(d, (const char *)inputs[r] + offset);
    if (reduce == TH_REDUCE_sum || reduce == TH_REDUCE_avg)
      all = r ? all + v : v;
    else if (!r || isnan(v) || (!isnan(all) && (reduce == TH_REDUCE_max ? v > all : v < all)))
      all = v;
  }
  if (reduce == TH_REDUCE_avg) all = d == TH_DTYPE_f64 ? all / size : (double)((float)all / (float)size); /* divided in the accumulator's dtype */
  store_float(d, all, (char *)out + offset);
}

void numbers_reduce(th_dtype dtype, th_reduce reduce, int size, const void *const *inputs, void *out) {
  th_dtype part = part_of(dtype);
  if (th_dtype_is_float(part)) {
    for (size_t offset = 0; offset < th_dtype_size(dtype); offset += th_dtype_size(part)) reduce_float(part, reduce, size, inputs, offset, out);
    return;
  }
  uint64_t all = load_bits(dtype, inputs[0]);
  for (int r = 1; r < size; r++) {
    uint64_t v = load_bits(dtype, inputs[r]);
    if (dtype == TH_DTYPE_bool)
      all = reduce == TH_REDUCE_min ? all & v : all | v;
    else if (reduce == TH_REDUCE_sum)
      all += v;
    else if (better(dtype, reduce, v, all))
      all = v;
  }
  store_bits(dtype, all, out);
}

bool numbers_same(th_dtype dtype, const void *a, const void *b) {
  th_dtype part = part_of(dtype);
  size_t width = th_dtype_size(part);
  for (size_t offset = 0; offset < th_dtype_size(dtype); offset += width) {
    const char *x = (const char *)a + offset, *y = (const char *)b + offset;
    bool both_nan = th_dtype_is_float(part) && isnan(load_float(part, x)) && isnan(load_float(part, y));
    if (!both_nan && memcmp(x, y, width)) return false;
  }
  return true;
}

bool numbers_allowed(th_dtype dtype, th_reduce reduce) {
  if (reduce == TH_REDUCE_avg) return th_dtype_is_float(dtype) || th_dtype_is_complex(dtype);
  if (reduce == TH_REDUCE_max || reduce == TH_REDUCE_min) return !th_dtype_is_complex(dtype);
  return true;
}
