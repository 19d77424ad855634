#include "collectives/reduce.h"

#include <math.h>
#include <string.h>

static float bits_to_f32(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t f32_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* Layout of the small formats; all are sign, exponent, mantissa. `finite_only`: no infinity, NaN is all ones (e4m3fn). */
typedef struct narrow_format {
  int exponent_bits, mantissa_bits;
  bool finite_only;
} narrow_format;

static narrow_format format_of(th_dtype dtype) {
  switch (dtype) {
    case TH_DTYPE_f8e4m3: return (narrow_format){4, 3, true};
    case TH_DTYPE_f8e5m2: return (narrow_format){5, 2, false};
    default: return (narrow_format){5, 10, false};
  }
}

float th__narrow_to_f32(th_dtype dtype, uint16_t bits) {
  if (dtype == TH_DTYPE_bf16) return bits_to_f32((uint32_t)bits << 16);
  narrow_format f = format_of(dtype);
  unsigned mantissa = bits & ((1u << f.mantissa_bits) - 1);
  unsigned exponent = (bits >> f.mantissa_bits) & ((1u << f.exponent_bits) - 1);
  unsigned top = (1u << f.exponent_bits) - 1;
  int bias = (int)(top >> 1);
  float sign = bits >> (f.exponent_bits + f.mantissa_bits) & 1 ? -1.0f : 1.0f;
  if (exponent == top) {
    if (!f.finite_only) return mantissa ? NAN : sign * INFINITY;
    if (mantissa == (1u << f.mantissa_bits) - 1) return NAN;
  }
  if (!exponent) return sign * ldexpf((float)mantissa, 1 - bias - f.mantissa_bits);
  return sign * ldexpf((float)(mantissa | 1u << f.mantissa_bits), (int)exponent - bias - f.mantissa_bits);
}

uint16_t th__narrow_from_f32(th_dtype dtype, float value) {
  uint32_t bits = f32_to_bits(value);
  if (dtype == TH_DTYPE_bf16) {
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  narrow_format f = format_of(dtype);
  unsigned sign = (bits >> 31) << (f.exponent_bits + f.mantissa_bits);
  unsigned top = (1u << f.exponent_bits) - 1;
  unsigned infinity = f.finite_only ? (top << f.mantissa_bits) | ((1u << f.mantissa_bits) - 1) : top << f.mantissa_bits;
  if (value != value) return (uint16_t)(sign | infinity | (f.finite_only ? 0 : 1u << (f.mantissa_bits - 1)));
  int bias = (int)(top >> 1), exponent;
  float magnitude = fabsf(value);
  if (magnitude == 0) return (uint16_t)sign;
  if (isinf(magnitude)) return (uint16_t)(sign | infinity);
  frexpf(magnitude, &exponent); /* magnitude = 0.5..1 * 2^exponent */
  exponent -= 1;
  if (exponent < 1 - bias) exponent = 1 - bias; /* subnormal */
  /* units in the last place: rintf rounds to nearest even; a carry flows into the exponent by addition */
  unsigned units = (unsigned)rintf(ldexpf(magnitude, f.mantissa_bits - exponent));
  unsigned result = units >= 1u << f.mantissa_bits
                        ? ((unsigned)(exponent + bias) << f.mantissa_bits) + (units - (1u << f.mantissa_bits))
                        : units;
  return (uint16_t)(sign | (result > infinity ? infinity : result));
}

static bool is_narrow(th_dtype dtype) { return th_dtype_is_float(dtype) && th_dtype_size(dtype) < 4; }

th_dtype th__reduce_accumulator(th_dtype dtype) { return is_narrow(dtype) ? TH_DTYPE_f32 : dtype; }

th_status th__reduce_check(th_dtype dtype, th_reduce reduce) {
  if (dtype <= TH_DTYPE_none || dtype >= TH_DTYPE_COUNT)
    return TH_ERROR(INVALID_ARGUMENT, "no dtype given (%d)", (int)dtype);
  if ((unsigned)reduce >= TH_REDUCE_COUNT) return TH_ERROR(INVALID_ARGUMENT, "unknown reduction %d", (int)reduce);
  if (reduce == TH_REDUCE_avg && th_dtype_is_integral(dtype))
    return TH_ERROR(INVALID_ARGUMENT, "avg of %s: an average needs a float or complex dtype; sum and divide instead",
                    th_dtype_name(dtype));
  if (th_dtype_is_complex(dtype) && (reduce == TH_REDUCE_max || reduce == TH_REDUCE_min))
    return TH_ERROR(INVALID_ARGUMENT, "%s of %s: complex numbers have no order", th_reduce_name(reduce),
                    th_dtype_name(dtype));
  return TH_OK;
}

static uint16_t narrow_at(const void *data, size_t size, size_t i) {
  return size == 1 ? ((const uint8_t *)data)[i] : ((const uint16_t *)data)[i];
}

void th__reduce_load(th_dtype dtype, const void *input, void *accumulator, size_t count) {
  if (!is_narrow(dtype)) {
    if (input != accumulator && count) memmove(accumulator, input, count * th_dtype_size(dtype));
    return;
  }
  float *out = accumulator;
  size_t size = th_dtype_size(dtype);
  if (dtype == TH_DTYPE_bf16) {
    const uint16_t *in = input;
    for (size_t i = 0; i < count; i++) out[i] = bits_to_f32((uint32_t)in[i] << 16);
  } else {
    for (size_t i = 0; i < count; i++) out[i] = th__narrow_to_f32(dtype, narrow_at(input, size, i));
  }
}

/* max and min as torch has them: NaN wins. `a != a` is false for integers and folds away. */
#define REDUCE_LOOP(type, in_expr)                                             \
  do {                                                                         \
    type *a = accumulator;                                                     \
    switch (reduce) {                                                          \
      case TH_REDUCE_max:                                                      \
        for (size_t i = 0; i < count; i++) {                                   \
          type b = (in_expr);                                                  \
          a[i] = a[i] != a[i] || a[i] >= b ? a[i] : b;                         \
        }                                                                      \
        break;                                                                 \
      case TH_REDUCE_min:                                                      \
        for (size_t i = 0; i < count; i++) {                                   \
          type b = (in_expr);                                                  \
          a[i] = a[i] != a[i] || a[i] <= b ? a[i] : b;                         \
        }                                                                      \
        break;                                                                 \
      default:                                                                 \
        for (size_t i = 0; i < count; i++) a[i] = (type)(a[i] + (in_expr));    \
    }                                                                          \
  } while (0)
#define REDUCE_PLAIN(type) REDUCE_LOOP(type, ((const type *)input)[i])

void th__reduce_add(th_dtype dtype, th_reduce reduce, const void *input, void *accumulator, size_t count) {
  switch (dtype) {
    case TH_DTYPE_bool: {
      uint8_t *a = accumulator;
      const uint8_t *in = input;
      if (reduce == TH_REDUCE_min)
        for (size_t i = 0; i < count; i++) a[i] = a[i] && in[i];
      else
        for (size_t i = 0; i < count; i++) a[i] = a[i] || in[i];
      break;
    }
    case TH_DTYPE_u8: REDUCE_PLAIN(uint8_t); break;
    case TH_DTYPE_i8: REDUCE_PLAIN(int8_t); break;
    case TH_DTYPE_i16: REDUCE_PLAIN(int16_t); break;
    /* signed sums wrap, as torch's do: added as unsigned */
    case TH_DTYPE_i32:
      if (reduce == TH_REDUCE_sum) REDUCE_PLAIN(uint32_t);
      else REDUCE_PLAIN(int32_t);
      break;
    case TH_DTYPE_i64:
      if (reduce == TH_REDUCE_sum) REDUCE_PLAIN(uint64_t);
      else REDUCE_PLAIN(int64_t);
      break;
    case TH_DTYPE_u32: REDUCE_PLAIN(uint32_t); break;
    case TH_DTYPE_u64: REDUCE_PLAIN(uint64_t); break;
    case TH_DTYPE_f32: REDUCE_PLAIN(float); break;
    case TH_DTYPE_f64: REDUCE_PLAIN(double); break;
    case TH_DTYPE_c64: count *= 2; REDUCE_PLAIN(float); break;
    case TH_DTYPE_c128: count *= 2; REDUCE_PLAIN(double); break;
    case TH_DTYPE_bf16: REDUCE_LOOP(float, bits_to_f32((uint32_t)((const uint16_t *)input)[i] << 16)); break;
    case TH_DTYPE_f16: case TH_DTYPE_f8e4m3: case TH_DTYPE_f8e5m2: {
      size_t size = th_dtype_size(dtype);
      REDUCE_LOOP(float, th__narrow_to_f32(dtype, narrow_at(input, size, i)));
      break;
    }
    case TH_DTYPE_none: case TH_DTYPE_COUNT: break;
  }
}

void th__reduce_store(th_dtype dtype, th_reduce reduce, int size, const void *accumulator, void *output, size_t count) {
  bool avg = reduce == TH_REDUCE_avg;
  size_t parts = th_dtype_is_complex(dtype) ? 2 * count : count;
  if (is_narrow(dtype)) {
    const float *a = accumulator;
    size_t bytes = th_dtype_size(dtype);
    for (size_t i = 0; i < count; i++) {
      uint16_t bits = th__narrow_from_f32(dtype, avg ? a[i] / (float)size : a[i]);
      if (bytes == 1) ((uint8_t *)output)[i] = (uint8_t)bits;
      else ((uint16_t *)output)[i] = bits;
    }
  } else if (avg && (dtype == TH_DTYPE_f32 || dtype == TH_DTYPE_c64)) {
    const float *a = accumulator;
    float *out = output;
    for (size_t i = 0; i < parts; i++) out[i] = a[i] / (float)size;
  } else if (avg) {
    const double *a = accumulator;
    double *out = output;
    for (size_t i = 0; i < parts; i++) out[i] = a[i] / size;
  } else if (accumulator != output && count) {
    memmove(output, accumulator, count * th_dtype_size(dtype));
  }
}
