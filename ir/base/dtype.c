#include "ir/base/dtype.h"

#include <string.h>

typedef struct row {
  const char *name, *torch, *c_name;
  int bits, dlpack, wire;
  th_dtype_kind kind;
} row;

static const row rows[TH_DTYPE_COUNT] = {
    [TH_DTYPE_none] = {"none", "none", "void", 0, -1, 0, TH_KIND_BOOL},
#define TH_DTYPE(name, torch, bits, kind, c_type, dlpack, mpi, nccl, wire) \
  [TH_DTYPE_##name] = {#name, #torch, #c_type, bits, dlpack, wire, TH_KIND_##kind},
#include "ir/base/dtype.def"
#undef TH_DTYPE
};

static const row *row_of(th_dtype d) { return &rows[(unsigned)d < TH_DTYPE_COUNT ? d : TH_DTYPE_none]; }

const char *th_dtype_name(th_dtype d) {
  if ((unsigned)d >= TH_DTYPE_COUNT) return "?";
  const char *name = row_of(d)->name; /* `bool` may be a macro of stdbool.h */
  return d == TH_DTYPE_bool ? "bool" : name;
}
const char *th_dtype_torch_name(th_dtype d) { return d == TH_DTYPE_bool ? "bool" : row_of(d)->torch; }
const char *th_dtype_c_name(th_dtype d) { return row_of(d)->c_name; }
size_t th_dtype_size(th_dtype d) { return (size_t)row_of(d)->bits / 8; }
th_dtype_kind th_dtype_kind_of(th_dtype d) { return row_of(d)->kind; }
int th_dtype_to_wire(th_dtype d) { return row_of(d)->wire; }
int th_dtype_dlpack_code(th_dtype d) { return row_of(d)->dlpack; }

th_dtype th_dtype_parse(const char *name, size_t length) {
  for (int d = 1; d < TH_DTYPE_COUNT; d++) {
    const char *n = th_dtype_name((th_dtype)d);
    if (strlen(n) == length && !memcmp(n, name, length)) return (th_dtype)d;
  }
  return TH_DTYPE_none;
}

th_dtype th_dtype_from_wire(int wire) {
  for (int d = 1; d < TH_DTYPE_COUNT; d++)
    if (rows[d].wire == wire) return (th_dtype)d;
  return TH_DTYPE_none;
}

th_dtype th_dtype_from_dlpack(int code, int bits) {
  for (int d = 1; d < TH_DTYPE_COUNT; d++)
    if (rows[d].dlpack == code && rows[d].bits == bits) return (th_dtype)d;
  return TH_DTYPE_none;
}

th_dtype th_dtype_promote(th_dtype a, th_dtype b) {
  if (a == b || b == TH_DTYPE_none) return a;
  if (a == TH_DTYPE_none) return b;
  if (row_of(a)->kind > row_of(b)->kind) {
    th_dtype t = a;
    a = b;
    b = t;
  }
  const row *low = row_of(a), *high = row_of(b); /* kind(low) <= kind(high) */
  if (high->kind == TH_KIND_COMPLEX) {
    if (low->kind == TH_KIND_COMPLEX) return low->bits > high->bits ? a : b;
    return a == TH_DTYPE_f64 ? TH_DTYPE_c128 : b;
  }
  if (high->kind == TH_KIND_FLOAT) {
    if (low->kind != TH_KIND_FLOAT) return b;
    if (low->bits == high->bits) return TH_DTYPE_f32; /* f16 with bf16; the two fp8 */
    return low->bits > high->bits ? a : b;
  }
  if (low->kind == TH_KIND_BOOL) return b;
  if (low->kind == high->kind) return low->bits > high->bits ? a : b;
  /* unsigned with signed: the signed type that holds both, as torch does for u8 */
  if (high->bits > low->bits) return b;
  switch (low->bits) {
    case 8: return TH_DTYPE_i16;
    case 16: return TH_DTYPE_i32;
    case 32: return TH_DTYPE_i64;
    default: return TH_DTYPE_f32;
  }
}

th_dtype th_dtype_compute(th_dtype d) {
  return th_dtype_is_float(d) && row_of(d)->bits < 32 ? TH_DTYPE_f32 : d;
}
