/* Element types; the table is dtype.def. Thread-safe: constants only. */
#ifndef THUNDER_IR_BASE_DTYPE_H
#define THUNDER_IR_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum th_dtype {
  TH_DTYPE_none = 0, /* "not given", in attributes */
#define TH_DTYPE(name, ...) TH_DTYPE_##name,
#include "ir/base/dtype.def"
#undef TH_DTYPE
  TH_DTYPE_COUNT
} th_dtype;

typedef enum th_dtype_kind { TH_KIND_BOOL, TH_KIND_UINT, TH_KIND_INT, TH_KIND_FLOAT, TH_KIND_COMPLEX } th_dtype_kind;

const char *th_dtype_name(th_dtype dtype);       /* "f32"; "none" for none; "?" when out of range */
const char *th_dtype_torch_name(th_dtype dtype); /* "float32" */
const char *th_dtype_c_name(th_dtype dtype);     /* "float" */
size_t th_dtype_size(th_dtype dtype);            /* bytes of one element */
th_dtype_kind th_dtype_kind_of(th_dtype dtype);
th_dtype th_dtype_parse(const char *name, size_t length); /* none when unknown */
int th_dtype_to_wire(th_dtype dtype);
th_dtype th_dtype_from_wire(int wire); /* none when unknown */
int th_dtype_dlpack_code(th_dtype dtype);
/* The dtype of a DLPack (code, bits); none when there is no such row. */
th_dtype th_dtype_from_dlpack(int code, int bits);

static inline bool th_dtype_is_float(th_dtype d) { return th_dtype_kind_of(d) == TH_KIND_FLOAT; }
static inline bool th_dtype_is_complex(th_dtype d) { return th_dtype_kind_of(d) == TH_KIND_COMPLEX; }
static inline bool th_dtype_is_integral(th_dtype d) { return th_dtype_kind_of(d) <= TH_KIND_INT; } /* bool too */

/* torch.promote_types: the smallest dtype both convert to. (PyTorch documentation, "Type promotion".) */
th_dtype th_dtype_promote(th_dtype a, th_dtype b);
/* The dtype in which CPU kernels compute: f32 for f16, bf16 and fp8; itself otherwise. */
th_dtype th_dtype_compute(th_dtype dtype);

#endif
