/* Trace: a program in SSA form at one of four levels (torch, prims, regions, plan), with its signature.
 *
 * A trace holds graphs (graph 0 is the main one; the others are bodies of ops, referred to by index), values, and the
 * signature of graph 0: what the outside world sees of inputs and outputs. Traces are pure: a write to the outside
 * is an output that the signature ties to an input. Passes make new traces (ir/pass.h); a finished trace is not
 * changed. All memory is the context's arena. Threads: thread-compatible. */
#ifndef THUNDER_IR_TRACE_H
#define THUNDER_IR_TRACE_H

#include "ir/base/status.h"
#include "ir/context.h"
#include "ir/op.h"

enum { TH_MAX_RANK = 24 };
typedef uint32_t th_value;
#define TH_NO_VALUE UINT32_MAX /* an optional operand that is absent */
#define TH_NONE UINT32_MAX

typedef struct th_type {
  th_dtype dtype;
  bool weak;         /* a Python number: takes part in promotion by category only; rank 0 */
  bool host;         /* lives in host memory whatever the device (step counters, hyper-parameters) */
  uint32_t rank;
  const th_dim *dims; /* (rank) */
  th_sharding sharding;
} th_type;

typedef struct th_attr {
  th_attr_kind kind;
  uint32_t count; /* INTS, BOOLS */
  union {
    th_dim i;
    double f;
    bool b;
    const char *s; /* interned */
    th_dtype dtype;
    uint32_t graph;
    const th_dim *ints;
    const bool *bools;
  };
} th_attr;

typedef struct th_op {
  th_op_kind kind;
  bool no_grad;        /* recorded under no_grad: gradients stop here */
  th_dtype autocast;   /* dtype of the autocast region it was recorded in; none outside */
  const char *executor;/* who claimed it (interned); NULL nobody */
  uint32_t origin;     /* number of the op in the captured trace it comes from, for names; TH_NONE */
  uint32_t n_operands, n_results;
  th_value *operands;  /* entries may be TH_NO_VALUE */
  th_value result;     /* the first of n_results consecutive values */
  th_attr *attrs;      /* one for each entry of the spec, in its order */
} th_op;

static inline bool th_op_is_pointwise(const th_op *op) { return th_op_spec_get(op->kind)->traits & TH_POINTWISE; }
static inline bool th_op_is_reduction(const th_op *op) { return op->kind >= TH_OP_reduce_sum && op->kind <= TH_OP_reduce_all; } /* reduce_*, not argmax */

typedef enum th_place {
  TH_PLACE_NONE, TH_PLACE_BORROWED, TH_PLACE_ESCAPING, TH_PLACE_ARENA, TH_PLACE_CONSTANT, TH_PLACE_ALIAS,
  TH_PLACE_STAGED /* in host memory, made before anything runs on the device, which has a copy */
} th_place;

typedef struct th_value_info {
  th_type type;
  th_op *def;          /* NULL: an input of `graph` */
  uint32_t graph;      /* whose input it is, or whose op makes it */
  uint32_t index;      /* which input or result */
  const char *name;    /* the user's, interned; NULL none */
  const th_dim *strides; /* (rank), elements; NULL below level 3 */
  th_place place;      /* level 4 */
  uint32_t place_index;/* BORROWED input, ESCAPING output slot, ALIAS: the value it lies in */
  th_dim place_offset; /* bytes; valid when place is ARENA, STAGED or ALIAS */
} th_value_info;

typedef struct th_graph {
  const char *name;
  uint32_t n_inputs, n_outputs;
  size_t n_ops, ops_capacity, inputs_capacity;
  th_value *inputs, *outputs;
  th_op **ops;
} th_graph;

typedef enum th_input_kind { /* the wire's numbers */
  TH_INPUT_USER, TH_INPUT_PARAMETER, TH_INPUT_BUFFER, TH_INPUT_STATE, TH_INPUT_HYPER, TH_INPUT_SEED, TH_INPUT_OFFSET,
  TH_INPUT_INTEGER, TH_INPUT_TANGENT, TH_INPUT_ACCUMULATOR, TH_INPUT_SAVED, TH_INPUT_KIND_COUNT
} th_input_kind;

typedef struct th_input {
  th_input_kind kind;
  const th_dim *strides; /* elements; NULL: contiguous */
  bool donated, requires_grad;
  int32_t written_by;    /* output whose value is written back into it; -1 none */
} th_input;

typedef enum th_output_kind {
  TH_OUTPUT_FRESH, TH_OUTPUT_INPUT, TH_OUTPUT_VIEW_OF_INPUT, TH_OUTPUT_VIEW_OF_OUTPUT, TH_OUTPUT_WRITTEN,
  TH_OUTPUT_GRADIENT, TH_OUTPUT_SAVED, TH_OUTPUT_KIND_COUNT
} th_output_kind;

typedef struct th_output {
  th_output_kind kind;
  uint32_t base;         /* INPUT, VIEW_OF_*, WRITTEN, GRADIENT: which */
  const th_dim *strides; /* elements; NULL: contiguous */
  th_dim offset;         /* elements; views */
} th_output;

typedef struct th_trace {
  th_context *context;
  size_t n_graphs, graphs_capacity;
  th_graph **graphs;
  size_t n_values, values_capacity;
  th_value_info *values;
  th_input *inputs;   /* (graphs[0]->n_inputs) */
  th_output *outputs; /* (graphs[0]->n_outputs) */
  th_symbol *symbols; /* where this trace's symbols come from, when not as the context says (a backward half); or NULL */
} th_trace;

/* Where symbol `symbol` comes from in this trace. input TH_NONE: it is not bound (and not read). */
static inline const th_symbol *th_trace_symbol(const th_trace *trace, uint32_t symbol) {
  return trace->symbols ? &trace->symbols[symbol] : th_symbol_get(trace->context, symbol);
}

th_trace *th_trace_create(th_context *context); /* no graphs yet */
/* Room for so many values at once, of a new trace: growing to them step by step would leave twice their memory behind. */
void th_trace_reserve(th_trace *trace, size_t n_values);
th_graph *th_trace_add_graph(th_trace *trace, const char *name);
th_value th_trace_add_input(th_trace *trace, uint32_t graph, th_type type);
/* Sets the outputs of a graph; copies `values`. */
void th_trace_set_outputs(th_trace *trace, uint32_t graph, const th_value *values, uint32_t count);
/* Appends an op with fresh result values of `types` (n_results); operands and attrs are copied. No inference. */
th_op *th_trace_add_op(th_trace *trace, uint32_t graph, th_op_kind kind, const th_value *operands, uint32_t n_operands,
                       const th_attr *attrs, const th_type *types, uint32_t n_results);
/* Default signature entries for graph 0 (user inputs, fresh outputs) where none are set. */
void th_trace_default_signature(th_trace *trace);

static inline const th_type *th_type_of(const th_trace *trace, th_value value) { return &trace->values[value].type; }
bool th_type_equal(const th_type *a, const th_type *b);       /* dtype, dims, weak, sharding */
bool th_type_same_shape(const th_type *a, const th_type *b);
th_type th_type_make(th_context *context, th_dtype dtype, const th_dim *dims, uint32_t rank); /* copies dims */
th_type th_type_scalar(th_dtype dtype);
th_dim th_type_numel(th_context *context, const th_type *type);
/* Row-major strides of `dims`. */
const th_dim *th_contiguous_strides(th_context *context, const th_dim *dims, uint32_t rank);

/* Attribute by name; asserts that the op's spec has it. */
const th_attr *th_attr_get(const th_op *op, const char *name);
bool th_attr_absent(const th_op *op, const char *name);
double th_attr_float(th_context *context, const th_op *op, const char *name); /* INT, FLOAT or BOOL (symbols: traced NaN) */
bool th_attr_bool(const th_op *op, const char *name);
int64_t th_attr_int(const th_op *op, th_context *context, const char *name);  /* a constant; asserts */
th_attr th_make_int(th_context *context, int64_t value);
th_attr th_make_dim(th_dim dim);
th_attr th_make_float(double value);
th_attr th_make_bool(bool value);
th_attr th_make_string(th_context *context, const char *text);
th_attr th_make_dtype(th_dtype dtype);
th_attr th_make_graph(uint32_t graph);
th_attr th_make_ints(th_context *context, const th_dim *ints, uint32_t count); /* copies */
th_attr th_make_int64s(th_context *context, const int64_t *ints, uint32_t count);
bool th_attr_equal(const th_attr *a, const th_attr *b);

/* uses[v]: how many operands and graph outputs refer to value v; arena memory. */
uint32_t *th_trace_fill_uses(const th_trace *trace);

/* Text form (docs: IR reference). Print renumbers values in order of definition; parse(print(t)) prints the same. */
const char *th_trace_print(const th_trace *trace);
th_status th_trace_parse(th_context *context, const char *text, size_t length, th_trace **out_trace);
/* Wire form. Decode checks every index, range and count before use, infers missing types and verifies. */
th_status th_trace_decode(th_context *context, const uint8_t *bytes, size_t size, th_trace **out_trace);
/* Encode writes torch ops and prims (what a job carries); regions and plans: INVALID_ARGUMENT. Its result, in arena memory,
 * decodes to a trace of the same text. */
th_status th_trace_encode(const th_trace *trace, uint8_t **out_bytes, size_t *out_size);
/* Checks the rules of `level` (structure, types by inference, legality of each op there). */
th_status th_trace_verify(const th_trace *trace, th_level level);
/* The level a trace is at: 4 where values have places, 3 where they have strides or there are fusions, 1 with torch ops, else 2. */
th_level th_trace_level(const th_trace *trace);
/* A backward half (pass `backward`): its gradients are numbered by the inputs of the forward half. Told by its inputs, which are
 * saved values, tangents and random numbers alone. */
bool th_trace_is_backward_half(const th_trace *trace);

#endif
