/* Ops: the table of ops.def as data. Thread-safe: made once, then constant. */
#ifndef THUNDER_IR_OP_H
#define THUNDER_IR_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum th_level { TH_LEVEL_TORCH = 1, TH_LEVEL_PRIM = 2, TH_LEVEL_REGION = 3, TH_LEVEL_PLAN = 4 } th_level;

typedef enum th_op_kind {
#define TH_OP(id, ...) TH_OP_##id,
#include "ir/ops.def"
#undef TH_OP
  TH_OP_COUNT
} th_op_kind;

typedef enum th_attr_kind { /* numbers are the wire's (trace.proto, attr_kind) */
  TH_ATTR_ABSENT, TH_ATTR_INT, TH_ATTR_FLOAT, TH_ATTR_BOOL, TH_ATTR_STRING, TH_ATTR_DTYPE, TH_ATTR_GRAPH, TH_ATTR_INTS,
  TH_ATTR_BOOLS,
  TH_ATTR_SCALAR /* in the table only: an int, a float or a bool */
} th_attr_kind;

enum { /* traits */
  TH_POINTWISE = 1,    /* result[i] depends on operands[i] alone; all shapes equal */
  TH_COMMUTES = 2,     /* a op b == b op a */
  TH_RANDOM = 4,       /* takes (seed, offset): value depends on the op's number too */
  TH_EFFECT = 8,       /* never removed, never moved over another effect (collectives) */
  TH_VIEW = 16,        /* a change of index only: can be strides instead of a copy */
  TH_REDUCTION = 32,
  TH_CHEAP = 64,       /* recomputing costs less than a store and a load */
  TH_LOWER_PRECISION = 128, /* autocast: inputs to the lower precision */
  TH_FULL_PRECISION = 256,  /* autocast: inputs to f32 */
  TH_WIDEST = 512,          /* autocast: inputs to the widest of them */
};

typedef struct th_operand_spec { const char *name; bool optional, variadic; } th_operand_spec;
typedef struct th_attr_spec {
  const char *name;
  th_attr_kind kind;
  bool optional;        /* may be absent */
  bool has_default;
  const char *fallback; /* default as text: "1e-5", "true", "none" */
} th_attr_spec;

typedef struct th_op_spec {
  th_op_kind kind;
  const char *name;     /* "torch.linear", "add" */
  th_level level;
  const char *overloads;/* ATen overloads it is captured from, space separated; "" for none */
  uint32_t n_operands;  /* entries below; a variadic one is the last */
  const th_operand_spec *operands;
  uint32_t n_attrs;
  const th_attr_spec *attrs;
  int n_results;        /* -1: depends on attributes */
  uint32_t traits;
  const char *doc;
} th_op_spec;

const th_op_spec *th_op_spec_get(th_op_kind kind);
/* TH_OP_COUNT when there is none. */
th_op_kind th_op_find(const char *name, size_t length);
/* Index of an attribute in the spec; -1 when the op has none of that name. */
int th_op_attr_index(th_op_kind kind, const char *name);
static inline const char *th_op_name(th_op_kind kind) { return th_op_spec_get(kind)->name; }
const char *th_attr_kind_name(th_attr_kind kind);

#endif
