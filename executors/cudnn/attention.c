/* What an attention is: dimensions, strides in one form, what cuDNN can do of it, scratch. No library is called. */
#include <stdio.h>
#include <string.h>

#include "executors/cudnn/plan.h"

void th_cudnn_attention_dims(const th_cudnn_attention *a, th_cudnn_tensor tensor, int64_t out_dims[4]) {
  bool of_keys = tensor == TH_CUDNN_K || tensor == TH_CUDNN_V || tensor == TH_CUDNN_DK || tensor == TH_CUDNN_DV;
  bool of_values = tensor == TH_CUDNN_V || tensor == TH_CUDNN_DV || tensor == TH_CUDNN_OUT || tensor == TH_CUDNN_GRAD;
  out_dims[0] = a->batch;
  out_dims[1] = of_keys ? a->key_heads : a->heads;
  out_dims[2] = of_keys ? a->keys : a->length;
  out_dims[3] = tensor == TH_CUDNN_LSE ? 1 : of_values ? a->value_size : a->size;
}

void th_cudnn_attention_normalize(th_cudnn_attention *a) {
  a->deterministic = a->deterministic && a->backward; /* forward always is */
  for (int t = 0; t < TH_CUDNN_STRIDED; t++) {
    int64_t dims[4], *strides = a->strides[t];
    if (t >= TH_CUDNN_GRAD && !a->backward) {
      memset(strides, 0, sizeof a->strides[t]);
      continue;
    }
    th_cudnn_attention_dims(a, (th_cudnn_tensor)t, dims);
    if (dims[3] == 1) strides[3] = 1;
    for (int i = 2; i >= 0; i--)
      if (dims[i] == 1) strides[i] = strides[i + 1] * dims[i + 1];
  }
}

bool th_cudnn_attention_equal(const th_cudnn_attention *a, const th_cudnn_attention *b) {
  return a->dtype == b->dtype && a->backward == b->backward && a->causal == b->causal && a->deterministic == b->deterministic && a->batch == b->batch &&
         a->heads == b->heads && a->key_heads == b->key_heads && a->length == b->length && a->keys == b->keys && a->size == b->size &&
         a->value_size == b->value_size && !memcmp(a->strides, b->strides, sizeof a->strides);
}

th_status th_cudnn_attention_check(const th_cudnn_attention *given, uint32_t version) {
  static const char *const names[] = {"q", "k", "v", "out", "log-sum-exp", "grad", "dq", "dk", "dv"};
  _Static_assert(sizeof names / sizeof *names == TH_CUDNN_STRIDED, "a name a tensor");
  th_cudnn_attention copy = *given, *a = &copy;
  if (a->dtype != TH_DTYPE_f16 && a->dtype != TH_DTYPE_bf16) return TH_ERROR(UNIMPLEMENTED, "cudnn attention: of f16 and bf16, not of %s", th_dtype_name(a->dtype));
  if (a->batch < 1 || a->length < 1 || a->keys < 1 || a->size < 1 || a->value_size < 1 || a->heads < 1 || a->key_heads < 1 || a->heads % a->key_heads)
    return TH_ERROR(INVALID_ARGUMENT, "cudnn attention: batch %lld, heads %lld/%lld, length %lld x %lld, size %lld/%lld; all have to be positive and heads a multiple of key heads",
                    (long long)a->batch, (long long)a->heads, (long long)a->key_heads, (long long)a->length, (long long)a->keys, (long long)a->size, (long long)a->value_size);
  if (a->size % 8 || a->value_size % 8 || a->size > 256 || a->value_size > 256)
    return TH_ERROR(UNIMPLEMENTED, "cudnn attention: sizes of a head are multiples of 8 up to 256, not %lld and %lld", (long long)a->size, (long long)a->value_size);
  if (a->length > INT32_MAX || a->keys > INT32_MAX) return TH_ERROR(UNIMPLEMENTED, "cudnn attention: length %lld x %lld is beyond 2^31", (long long)a->length, (long long)a->keys);
  if (a->length == 1 && a->keys == 1 && a->backward) return TH_ERROR(UNIMPLEMENTED, "cudnn attention backward: not of one row and one key");
  if (a->keys % 128 && version < 91600)
    return TH_ERROR(UNIMPLEMENTED, "cudnn attention: %lld keys are not a multiple of 128, which wants cuDNN 9.16 or later; this is %u", (long long)a->keys, version);
  th_cudnn_attention_normalize(a);
  for (int t = 0; t < (a->backward ? TH_CUDNN_STRIDED : TH_CUDNN_GRAD); t++) {
    const int64_t *s = a->strides[t];
    bool half = t != TH_CUDNN_LSE;
    if (s[3] != 1 || s[0] < 0 || s[1] < 0 || s[2] < 0 || (half && (s[0] % 8 || s[1] % 8 || s[2] % 8)))
      return TH_ERROR(UNIMPLEMENTED, "cudnn attention: strides (%lld, %lld, %lld, %lld) of %s; the last has to be 1 and the others multiples of 8", (long long)s[0],
                      (long long)s[1], (long long)s[2], (long long)s[3], names[t]);
  }
  return TH_OK;
}

size_t th_cudnn_attention_format(const th_cudnn_attention *a, char *buffer, size_t size) {
  int n = snprintf(buffer, size, "attention%s %s, batch %lld, heads %lld/%lld, length %lld x %lld, size %lld/%lld%s%s", a->backward ? " backward" : "",
                   th_dtype_name(a->dtype), (long long)a->batch, (long long)a->heads, (long long)a->key_heads, (long long)a->length, (long long)a->keys,
                   (long long)a->size, (long long)a->value_size, a->causal ? ", causal" : "", a->deterministic && a->backward ? ", deterministic" : "");
  return n < 0 ? 0 : (size_t)n;
}

/* ---- scratch ---- */

static bool add_product(size_t *total, size_t a, size_t b, size_t c, size_t d, size_t bytes) { /* total += a b c d bytes, and up to a multiple of 256 */
  size_t n = bytes;
  if (__builtin_mul_overflow(n, a, &n) || __builtin_mul_overflow(n, b, &n) || __builtin_mul_overflow(n, c, &n) || __builtin_mul_overflow(n, d, &n)) return false;
  if (__builtin_add_overflow(*total, n, &n) || n > SIZE_MAX - 255) return false;
  *total = (n + 255) & ~(size_t)255;
  return true;
}

size_t th_cudnn_scratch_bytes(const th_cudnn_attention *a, int64_t workspace) {
  size_t total = 0, b = (size_t)a->batch, h = (size_t)a->heads, length = (size_t)a->length, keys = (size_t)a->keys;
  bool fits = true;
  if (workspace >= 0) {
    fits = add_product(&total, (size_t)workspace, 1, 1, 1, 1);
  } else {
    total = 256;
    /* gradients of every query head, before those that share a key head are added */
    if (a->backward && a->heads != a->key_heads) fits = add_product(&total, b, h, keys, (size_t)(a->size + a->value_size), 2), total += 256;
    /* the gradient of the scores */
    if (a->backward && a->deterministic) fits = fits && add_product(&total, b, h, (length + 127) / 128 * 128, (keys + 127) / 128 * 128, 2);
  }
  if (a->backward) fits = fits && add_product(&total, b, h, length, 1, 4) && (a->deterministic || add_product(&total, b, h, length, (size_t)a->size, 4));
  return fits ? total : SIZE_MAX;
}

/* ---- devices ---- */

size_t th_cudnn_device_json(const th_cudnn_device *d, char *buffer, size_t size) {
  char name[32];
  snprintf(name, sizeof name, "sm_%d%d", d->sm_major, d->sm_minor);
  int n = snprintf(buffer, size,
                   "{\"deviceVer\":%d,\"multiProcessorCount\":%d,\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
                   "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerSM\":2048,\"maxThreadsPerBlock\":1024,\"regsPerBlock\":65536,\"warpSize\":32,"
                   "\"maxSharedMemoryPerBlock\":49152,\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"smClockRateKHz\":%d,"
                   "\"memClockRateKHz\":%d,\"l2CacheSize\":%lld,\"totalGlobalMem\":%lld,\"driverVer\":%d,\"supportCoopLaunch\":1,\"isTccDriver\":0,"
                   "\"pciDeviceId\":0,\"cudaDeviceId\":0,\"deviceName\":\"%s\",\"smCountOrigin\":0,\"oversizedSharedMemoryPerBlock\":0,\"memoryBusWidth\":%d}",
                   d->sm_major * 100 + d->sm_minor * 10, d->sms, d->shared_per_block_optin, d->sm_clock_khz ? d->sm_clock_khz : 1980000,
                   d->memory_clock_khz ? d->memory_clock_khz : 2619000, (long long)d->l2_bytes, (long long)d->memory_bytes,
                   d->driver_version ? d->driver_version : 13000, d->name ? d->name : name, d->memory_bus_bits ? d->memory_bus_bits : 5120);
  return n < 0 ? 0 : (size_t)n;
}
