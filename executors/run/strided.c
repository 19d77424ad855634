#include <stdlib.h>
#include <string.h>

#include "ir/base/half.h"
#include "executors/run/library.h"

int64_t th_view_numel(const th_view *v) {
  int64_t n = 1;
  for (uint32_t i = 0; i < v->rank; i++) n *= v->dims[i];
  return n;
}

#define LOOP(from_type, to_type, expression)                                          \
  for (int64_t i = 0; i < n; i++) {                                                   \
    const from_type x = ((const from_type *)from)[i * from_stride];                   \
    ((to_type *)to)[i * to_stride] = (expression);                                    \
  }

static void copy_row(th_dtype a, const void *from, int64_t from_stride, th_dtype b, void *to, int64_t to_stride, int64_t n) {
  size_t size = th_dtype_size(a);
  if (a == b && from_stride == 1 && to_stride == 1) memcpy(to, from, (size_t)n * size);
  else if (a == b && size == 1) LOOP(uint8_t, uint8_t, x)
  else if (a == b && size == 2) LOOP(uint16_t, uint16_t, x)
  else if (a == b && size == 4) LOOP(uint32_t, uint32_t, x)
  else if (a == b && size == 8) LOOP(uint64_t, uint64_t, x)
  else if (a == TH_DTYPE_bf16 && b == TH_DTYPE_f32) LOOP(uint16_t, float, th_from_bf16(x))
  else if (a == TH_DTYPE_f32 && b == TH_DTYPE_bf16) LOOP(float, uint16_t, th_to_bf16(x))
  else if (a == TH_DTYPE_f32 && b == TH_DTYPE_f64) LOOP(float, double, x)
  else if (a == TH_DTYPE_f64 && b == TH_DTYPE_f32) LOOP(double, float, (float)x)
}

/* Dimensions that lie one after the other in both views become one. */
static uint32_t merge(const th_view *a, const th_view *b, int64_t *dims, int64_t *as, int64_t *bs) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < a->rank; i++) {
    if (a->dims[i] == 1) continue;
    if (n && as[n - 1] == a->dims[i] * a->strides[i] && bs[n - 1] == a->dims[i] * b->strides[i]) {
      dims[n - 1] *= a->dims[i];
      as[n - 1] = a->strides[i];
      bs[n - 1] = b->strides[i];
      continue;
    }
    dims[n] = a->dims[i];
    as[n] = a->strides[i];
    bs[n++] = b->strides[i];
  }
  return n;
}

void th_view_copy(const th_view *from, const th_view *to, int32_t threads) {
  int64_t dims[TH_RUN_RANK], fs[TH_RUN_RANK], ts[TH_RUN_RANK], outer = 1;
  uint32_t rank = merge(from, to, dims, fs, ts);
  size_t fsize = th_dtype_size(from->dtype), tsize = th_dtype_size(to->dtype);
  if (th_view_numel(from) == 0) return;
  int64_t n = rank ? dims[rank - 1] : 1, f1 = rank ? fs[rank - 1] : 1, t1 = rank ? ts[rank - 1] : 1;
  for (uint32_t i = 0; i + 1 < rank; i++) outer *= dims[i];
  (void)threads;
#pragma omp parallel for num_threads(threads) if (outer * n > 16384 && outer > 1)
  for (int64_t r = 0; r < outer; r++) {
    int64_t rest = r, fo = 0, to_offset = 0;
    for (uint32_t i = rank > 0 ? rank - 1 : 0; i-- > 0;) {
      fo += rest % dims[i] * fs[i];
      to_offset += rest % dims[i] * ts[i];
      rest /= dims[i];
    }
    copy_row(from->dtype, (const char *)from->data + fo * (int64_t)fsize, f1, to->dtype, (char *)to->data + to_offset * (int64_t)tsize, t1, n);
  }
}

th_status th_view_pack(const th_view *view, int32_t threads, th_view *out) {
  *out = *view;
  if (view->dtype == TH_DTYPE_bf16) out->dtype = TH_DTYPE_f32;
  int64_t run = 1;
  for (uint32_t i = view->rank; i-- > 0;) {
    out->strides[i] = run;
    run *= view->dims[i];
  }
  out->data = malloc((size_t)(run ? run : 1) * th_dtype_size(out->dtype));
  if (!out->data) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a packed operand of %lld elements", (long long)run);
  th_view_copy(view, out, threads);
  return TH_OK;
}
