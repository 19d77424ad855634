#include "executors/ref/value.h"

#include <math.h>
#include <string.h>

th_ref_value th_ref_value_make(th_arena *arena, th_dtype dtype, const int64_t *dims, uint32_t rank) {
  th_ref_value v = {.dtype = dtype, .rank = rank, .dims = th_arena_copy(arena, dims, rank * sizeof *dims), .n = 1};
  for (uint32_t i = 0; i < rank; i++) v.n *= (size_t)dims[i];
  v.cells = TH_ARENA_ARRAY(arena, th_cell, v.n);
  return v;
}

static double from_bf16(uint16_t x) {
  uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static uint16_t to_bf16(double x) {
  float f = (float)x;
  uint32_t u;
  memcpy(&u, &f, 4);
  return isnan(f) ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#ifdef __FLT16_MAX__
static double from_f16(uint16_t x) {
  _Float16 h;
  memcpy(&h, &x, 2);
  return (double)h;
}

static uint16_t to_f16(double x) {
  _Float16 h = (_Float16)(float)x; /* through f32, as every executor computes it */
  uint16_t u;
  memcpy(&u, &h, 2);
  return u;
}
#else
#error "this compiler has no _Float16 (gcc 12 and clang 15 have)"
#endif

th_cell th_ref_round(th_dtype dtype, th_cell x) {
  switch (dtype) {
    case TH_DTYPE_f32: return (th_cell){.f = (float)x.f};
    case TH_DTYPE_f16: return (th_cell){.f = from_f16(to_f16(x.f))};
    case TH_DTYPE_bf16: return (th_cell){.f = from_bf16(to_bf16(x.f))};
    case TH_DTYPE_bool: return (th_cell){.i = x.i != 0};
    case TH_DTYPE_u8: return (th_cell){.i = (uint8_t)x.i};
    case TH_DTYPE_i8: return (th_cell){.i = (int8_t)x.i};
    case TH_DTYPE_i16: return (th_cell){.i = (int16_t)x.i};
    case TH_DTYPE_i32: return (th_cell){.i = (int32_t)x.i};
    case TH_DTYPE_u32: return (th_cell){.i = (uint32_t)x.i};
    default: return x;
  }
}

th_cell th_ref_convert(th_dtype to, th_dtype from, th_cell x) {
  if (th_dtype_is_float(from)) {
    if (to == TH_DTYPE_bool) return (th_cell){.i = x.f != 0};
    if (!th_dtype_is_float(to)) { /* toward zero; what does not fit is as x86 has it */
      bool fits = x.f > -9223372036854775809.0 && x.f < 9223372036854775808.0;
      return th_ref_round(to, (th_cell){.i = fits ? (int64_t)x.f : INT64_MIN});
    }
  } else if (th_dtype_is_float(to)) {
    x.f = from == TH_DTYPE_u64 ? (double)(uint64_t)x.i : (double)x.i;
  }
  return th_ref_round(to, x);
}

#define MEMORY(X)                                                                                                                                    \
  X(bool, uint8_t, c.i != 0, .i = m != 0)                                                                                                            \
  X(u8, uint8_t, c.i, .i = m)                                                                                                                        \
  X(i8, int8_t, c.i, .i = m) X(i16, int16_t, c.i, .i = m) X(i32, int32_t, c.i, .i = m) X(i64, int64_t, c.i, .i = m) X(u32, uint32_t, c.i, .i = m)    \
      X(u64, uint64_t, c.i, .i = (int64_t)m) X(f32, float, c.f, .f = m) X(f64, double, c.f, .f = m)                                                  \
          X(bf16, uint16_t, to_bf16(c.f), .f = from_bf16(m)) X(f16, uint16_t, to_f16(c.f), .f = from_f16(m))

th_status th_ref_load(th_arena *arena, const th_ref_tensor *t, th_ref_value *out) {
  *out = th_ref_value_make(arena, t->dtype, t->dims, t->rank);
  switch (t->dtype) {
#define X(name, type, store, load)                                                                                                                   \
  case TH_DTYPE_##name:                                                                                                                              \
    for (size_t k = 0; k < out->n; k++) {                                                                                                            \
      type m;                                                                                                                                        \
      memcpy(&m, (const char *)t->data + k * sizeof m, sizeof m);                                                                                    \
      out->cells[k] = (th_cell){load};                                                                                                               \
    }                                                                                                                                                \
    return TH_OK;
    MEMORY(X)
#undef X
    default: return TH_ERROR(UNIMPLEMENTED, "the reference executor has no %s values", th_dtype_name(t->dtype));
  }
}

th_ref_tensor th_ref_store(th_arena *arena, const th_ref_value *v) {
  th_ref_tensor t = {.dtype = v->dtype, .rank = v->rank, .dims = v->dims, .data = th_arena_calloc(arena, v->n, th_dtype_size(v->dtype))};
  switch (v->dtype) {
#define X(name, type, store, load)                                                                                                                   \
  case TH_DTYPE_##name:                                                                                                                              \
    for (size_t k = 0; k < v->n; k++) {                                                                                                              \
      th_cell c = v->cells[k];                                                                                                                       \
      type m = (type)(store);                                                                                                                        \
      memcpy((char *)t.data + k * sizeof m, &m, sizeof m);                                                                                           \
    }                                                                                                                                                \
    break;
    MEMORY(X)
#undef X
    default: break;
  }
  return t;
}

int64_t th_ref_int(const th_ref_call *call, const char *name) {
  return th_dim_eval(call->trace->context, th_attr_get(call->op, name)->i, call->symbols);
}

const int64_t *th_ref_ints(const th_ref_call *call, const char *name, uint32_t *out_count) {
  const th_attr *a = th_attr_get(call->op, name);
  int64_t *ints = TH_ARENA_ARRAY(call->arena, int64_t, a->count);
  for (uint32_t i = 0; i < a->count; i++) ints[i] = th_dim_eval(call->trace->context, a->ints[i], call->symbols);
  if (out_count) *out_count = a->count;
  return ints;
}

bool th_ref_next(int64_t *index, const int64_t *dims, uint32_t rank) {
  for (uint32_t i = rank; i-- > 0;) {
    if (++index[i] < dims[i]) return true;
    index[i] = 0;
  }
  return false;
}

size_t th_ref_at(const th_ref_value *v, const int64_t *index) {
  size_t at = 0;
  for (uint32_t i = 0; i < v->rank; i++) at = at * (size_t)v->dims[i] + (size_t)index[i];
  return at;
}
