/* Context: the interned tables of one compile: strings, dimension expressions, symbols, mesh axes, shardings.
 *
 * Interning makes equality a comparison of numbers: two dimensions are equal when their th_dim are, whichever trace
 * or pass made them. All traces of a compile share one context. Memory is the context's arena.
 * Threads: thread-compatible (one compile, one thread). */
#ifndef THUNDER_IR_CONTEXT_H
#define THUNDER_IR_CONTEXT_H

#include "ir/base/arena.h"
#include "ir/base/dtype.h"
#include "ir/base/strbuf.h"

typedef struct th_context th_context;
typedef uint32_t th_dim;      /* an interned integer expression */
typedef uint32_t th_sharding; /* an interned placement over the mesh; 0: replicated */

/* Creates a context on `arena`, which must outlive it. */
th_context *th_context_create(th_arena *arena);
th_arena *th_context_arena(const th_context *context);

/* The one copy of `text` in this context: pointers of equal texts are equal. */
const char *th_intern(th_context *context, const char *text);
const char *th_intern_n(th_context *context, const char *text, size_t length);

/* ---- Dimensions -------------------------------------------------------------------------------------------------
 * Integer expressions over symbols in a normal form (a sum of products of atoms, an atom being a symbol or a
 * floordiv, mod, min or max node), so that s0*2 + s0 and 3*s0 are the same th_dim. Arithmetic is on int64; an
 * overflow saturates to INT64_MAX, which no size check accepts. */
typedef enum th_dim_kind {
  TH_DIM_CONST, TH_DIM_SYMBOL, TH_DIM_ADD, TH_DIM_SUB, TH_DIM_MUL, TH_DIM_FLOORDIV, TH_DIM_MOD, TH_DIM_MIN, TH_DIM_MAX
} th_dim_kind; /* numbers are the wire's (trace.proto, dim_kind); SUB never survives normalization */

typedef struct th_dim_node {
  th_dim_kind kind;
  int64_t value; /* CONST: the number; SYMBOL: its index */
  th_dim a, b;   /* operands of the others */
} th_dim_node;

th_dim th_dim_const(th_context *context, int64_t value);
th_dim th_dim_symbol(th_context *context, uint32_t symbol);
th_dim th_dim_make(th_context *context, th_dim_kind kind, th_dim a, th_dim b); /* the binary kinds */
#define th_dim_add(c, a, b) th_dim_make((c), TH_DIM_ADD, (a), (b))
#define th_dim_sub(c, a, b) th_dim_make((c), TH_DIM_SUB, (a), (b))
#define th_dim_mul(c, a, b) th_dim_make((c), TH_DIM_MUL, (a), (b))
#define th_dim_floordiv(c, a, b) th_dim_make((c), TH_DIM_FLOORDIV, (a), (b)) /* rounds down, b > 0 */
#define th_dim_mod(c, a, b) th_dim_make((c), TH_DIM_MOD, (a), (b))           /* sign of b */
#define th_dim_min(c, a, b) th_dim_make((c), TH_DIM_MIN, (a), (b))
#define th_dim_max(c, a, b) th_dim_make((c), TH_DIM_MAX, (a), (b))
enum { TH_MAX_ASSUMPTIONS = 256 }; /* what a trace may have, as text and on the wire */
/* Says that two expressions are equal in every call, as a guard of the capture found (a batch's positions counted from its tokens and
 * from its targets). Expressions made later have one form for both: the largest monomial of the difference is rewritten by the rest.
 * That p is divisible by k is said as (p floordiv k)*k = p. What cannot be used so (the largest monomial is a symbol, too large an
 * expression) is kept and changes nothing.
 * Before any type that has it. False when the two can never be equal. */
bool th_dim_assume(th_context *context, th_dim a, th_dim b);
size_t th_assumption_count(const th_context *context);
th_dim th_assumption_get(const th_context *context, size_t i, th_dim *out_b);
th_dim th_dim_product(th_context *context, const th_dim *dims, size_t count); /* 1 for none */

th_dim_node th_dim_node_get(const th_context *context, th_dim dim);
size_t th_dim_count(const th_context *context);
bool th_dim_is_const(const th_context *context, th_dim dim, int64_t *out_value);
bool th_dim_is(const th_context *context, th_dim dim, int64_t value);
/* Value with symbol i = symbols[i]. */
int64_t th_dim_eval(const th_context *context, th_dim dim, const int64_t *symbols);
/* Bounds from the symbols' ranges; INT64_MAX when there is no upper one. */
void th_dim_bounds(const th_context *context, th_dim dim, int64_t *out_min, int64_t *out_max);
/* True when `dim` is a multiple of `divisor` for every value of its symbols. */
bool th_dim_divisible(const th_context *context, th_dim dim, int64_t divisor);
/* exact quotient a / b when b divides a as a polynomial (or both are constants); false otherwise. */
bool th_dim_exact_div(th_context *context, th_dim a, th_dim b, th_dim *out);
/* "s0*2 + 1" */
void th_dim_print(const th_context *context, th_dim dim, th_strbuf *out);

typedef enum th_symbol_source { TH_SYMBOL_SIZE, TH_SYMBOL_INTEGER, TH_SYMBOL_RESULT } th_symbol_source;
typedef struct th_symbol {
  th_symbol_source source;
  uint32_t input;     /* graph 0's input that gives it (SIZE, INTEGER); result's value (RESULT) */
  uint32_t dimension; /* SIZE: which */
  int64_t min, max;   /* inclusive; max -1: none */
  int64_t multiple;   /* known divisor, >= 1 */
} th_symbol;
uint32_t th_symbol_add(th_context *context, th_symbol symbol);
uint32_t th_symbol_count(const th_context *context);
th_symbol *th_symbol_get(const th_context *context, uint32_t symbol);

/* ---- Mesh and sharding ------------------------------------------------------------------------------------------- */
typedef struct th_mesh_axis { const char *name; uint32_t size; } th_mesh_axis; /* size 0: given at run time */
enum { TH_PLACE_REPLICATED = -1, TH_PLACE_PARTIAL = -2 };                      /* >= 0: shard of that dimension */
uint32_t th_mesh_axis_add(th_context *context, const char *name, uint32_t size);
uint32_t th_mesh_axis_count(const th_context *context);
th_mesh_axis th_mesh_axis_get(const th_context *context, uint32_t axis);
/* The sharding with placements[i] on mesh axis i (one for each axis there is). */
th_sharding th_sharding_make(th_context *context, const int32_t *placements);
int32_t th_sharding_placement(const th_context *context, th_sharding sharding, uint32_t axis);
uint32_t th_sharding_count(const th_context *context);

#endif
