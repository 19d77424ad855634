/* Level 4 traces as a serialized Executable. README.md of this folder says what each instruction carries. */
#include "executors/emit/emit.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "ir/base/half.h"
#include "ir/executor.h"
#include "ir/passes/plan.h"
#include "proto/plan.pb-c.h"

enum { NONE = 0xffffffffu, KERNEL = 1, LIBRARY, COLLECTIVE_START, COLLECTIVE_WAIT, COPY, FILL, SCALARS };
enum { EXPR_INPUT_SIZE = 9, EXPR_INTEGER, EXPR_RANK, EXPR_WORLD };

typedef struct u32s { uint32_t *at; size_t n, capacity; } u32s;
typedef struct i64s { int64_t *at; size_t n, capacity; } i64s;
typedef struct f64s { double *at; size_t n, capacity; } f64s;
typedef struct strings { char **at; size_t n, capacity; } strings;
typedef struct kernel { const char *text; const th_executor *executor; } kernel;
typedef struct blob { const char *key, *kind; const th_trace *t; const th_op *op; th_binary code; uint32_t module; } blob;

typedef struct emitter {
  const th_options *options;
  th_arena *a;
  kernel *kernels; /* distinct, over all plans */
  size_t n_kernels, kernels_capacity;
  blob *blobs;     /* of prepared library calls, likewise */
  size_t n_blobs, blobs_capacity;
  size_t n_launches, modules_capacity;
} emitter;

typedef struct writer { /* one plan */
  emitter *e;
  const th_trace *t;
  th_context *c;
  th_arena *a;
  u32s expr_kind, buffer_kind, buffer_index, buffer_offset, buffer_size, tensor_dtype, tensor_buffer, tensor_offset, tensor_dims_begin, tensor_dims, tensor_strides;
  u32s instr_kind, instr_target, instr_tensors_begin, instr_tensors, instr_outputs, instr_ints_begin, instr_ints, instr_floats_begin, instr_stream, instr_op, instr_scratch, instr_blob;
  i64s expr_a, expr_b;
  f64s instr_floats;
  strings text;
  u32s kernel_of; /* of the plan's kernels: the distinct one */
  ProtobufCBinaryData *constants;
  size_t n_constants, constants_capacity;
  uint32_t *expr_of;       /* by dimension: expression + 1 */
  size_t n_expr_of;
  uint32_t *tensor_of;     /* by value: tensor + 1 */
  uint32_t *buffer_of;     /* by value that owns bytes: buffer + 1 */
  uint32_t *borrowed;      /* by input: buffer + 1 */
  uint32_t *escaping;      /* by output slot: buffer + 1 */
  uint32_t *start_of;      /* by value: instruction of the collective that makes it + 1 */
  uint64_t fingerprint;
  uint32_t n_collectives;
} writer;

#define ADD(w, list, value) TH_PUSH((w)->a, (w)->list.at, (w)->list.n, (w)->list.capacity, (value))

static uint32_t expr(writer *w, uint32_t kind, int64_t a, int64_t b) {
  for (size_t i = 0; i < w->expr_kind.n; i++)
    if (w->expr_kind.at[i] == kind && w->expr_a.at[i] == a && w->expr_b.at[i] == b) return (uint32_t)i;
  ADD(w, expr_kind, kind);
  ADD(w, expr_a, a);
  ADD(w, expr_b, b);
  return (uint32_t)(w->expr_kind.n - 1);
}

static uint32_t expr_of(writer *w, th_dim dim) {
  if (dim >= w->n_expr_of) { /* passes made more dimensions since */
    size_t n = th_dim_count(w->c) + 64;
    uint32_t *more = TH_ARENA_ARRAY(w->a, uint32_t, n);
    if (w->n_expr_of) memcpy(more, w->expr_of, w->n_expr_of * sizeof *more);
    w->expr_of = more;
    w->n_expr_of = n;
  }
  if (w->expr_of[dim]) return w->expr_of[dim] - 1;
  th_dim_node node = th_dim_node_get(w->c, dim);
  uint32_t made = node.kind == TH_DIM_CONST || node.kind == TH_DIM_SYMBOL ? expr(w, node.kind, node.value, 0) : 0;
  if (node.kind > TH_DIM_SYMBOL) {
    uint32_t a = expr_of(w, node.a), b = expr_of(w, node.b);
    made = expr(w, node.kind, a, b);
  }
  w->expr_of[dim] = made + 1;
  return made;
}

static bool is_bound(const th_trace *t, th_dim dim) {
  th_dim_node node = th_dim_node_get(t->context, dim);
  if (node.kind == TH_DIM_SYMBOL) return th_trace_symbol(t, (uint32_t)node.value)->input != TH_NONE;
  return node.kind == TH_DIM_CONST || (is_bound(t, node.a) && is_bound(t, node.b));
}

static uint32_t constant_expr(writer *w, int64_t value) { return expr(w, TH_DIM_CONST, value, 0); }

static uint32_t text(writer *w, const char *s) {
  for (size_t i = 0; i < w->text.n; i++)
    if (!strcmp(w->text.at[i], s)) return (uint32_t)i;
  ADD(w, text, th_arena_strdup(w->a, s));
  return (uint32_t)(w->text.n - 1);
}

/* ---- buffers and tensors ---- */

static uint32_t add_buffer(writer *w, uint32_t kind, uint32_t index, th_dim offset, th_dim size) {
  ADD(w, buffer_kind, kind);
  ADD(w, buffer_index, index);
  ADD(w, buffer_offset, expr_of(w, offset));
  ADD(w, buffer_size, expr_of(w, size));
  return (uint32_t)(w->buffer_kind.n - 1);
}

static th_dim bytes_of(writer *w, th_value v) { return th_extent_bytes(w->c, &w->t->values[v].type, w->t->values[v].strides); }

/* IEEE binary16, to nearest, ties to even; in arithmetic, because not every compiler has _Float16. */
static uint16_t half_of(double x) {
  uint16_t sign = signbit(x) ? 0x8000 : 0;
  double a = fabs(x);
  int e;
  if (isnan(x)) return sign | 0x7e00;
  if (a >= 65520) return sign | 0x7c00; /* above the largest by half a unit or more */
  if (a < 0x1p-14) return sign | (uint16_t)rint(ldexp(a, 24));
  frexp(a, &e); /* a = m * 2^e, m in [0.5, 1) */
  return sign | (uint16_t)(((e + 14) << 10) + (int)rint(ldexp(a, 11 - e)) - 1024);
}

static th_status constant_bytes(writer *w, th_value v, ProtobufCBinaryData *out) {
  const th_op *op = w->t->values[v].def;
  const th_attr *value = th_attr_get(op, "value");
  th_dtype dtype = w->t->values[v].type.dtype;
  double f = th_attr_float(w->c, op, "value");
  int64_t i = (int64_t)f;
  if (value->kind == TH_ATTR_INT) th_dim_is_const(w->c, value->i, &i);
  size_t size = th_dtype_size(dtype);
  uint8_t *bytes = th_arena_alloc(w->a, 16);
  float g = (float)f;
  switch (dtype) {
    case TH_DTYPE_f64: memcpy(bytes, &f, 8); break;
    case TH_DTYPE_f32: memcpy(bytes, &g, 4); break;
    case TH_DTYPE_bf16: {
      uint16_t h = th_to_bf16(g);
      memcpy(bytes, &h, 2);
      break;
    }
    case TH_DTYPE_f16: {
      uint16_t h = half_of(f);
      memcpy(bytes, &h, 2);
      break;
    }
    case TH_DTYPE_bool: bytes[0] = f != 0; break;
    case TH_DTYPE_i8: case TH_DTYPE_u8: case TH_DTYPE_i16: case TH_DTYPE_i32: case TH_DTYPE_i64: case TH_DTYPE_u32: case TH_DTYPE_u64: memcpy(bytes, &i, size); break;
    default: return TH_ERROR(UNIMPLEMENTED, "a constant of dtype %s", th_dtype_name(dtype));
  }
  *out = (ProtobufCBinaryData){.len = size, .data = bytes};
  return TH_OK;
}

static th_status buffer_of(writer *w, th_value owner, uint32_t *out) {
  const th_value_info *i = &w->t->values[owner];
  th_dim zero = th_dim_const(w->c, 0);
  uint32_t *slot = i->place == TH_PLACE_BORROWED ? &w->borrowed[i->place_index] : i->place == TH_PLACE_ESCAPING ? &w->escaping[i->place_index] : &w->buffer_of[owner];
  if (!*slot) switch (i->place) {
      case TH_PLACE_BORROWED: *slot = 1 + add_buffer(w, 1, i->place_index, zero, bytes_of(w, w->t->graphs[0]->inputs[i->place_index])); break;
      case TH_PLACE_ESCAPING: *slot = 1 + add_buffer(w, 2, i->place_index, zero, bytes_of(w, owner)); break;
      case TH_PLACE_ARENA: *slot = 1 + add_buffer(w, 3, 0, i->place_offset, bytes_of(w, owner)); break;
      case TH_PLACE_STAGED: *slot = 1 + add_buffer(w, 5, 0, i->place_offset, bytes_of(w, owner)); break;
      case TH_PLACE_CONSTANT: {
        ProtobufCBinaryData data;
        TH_TRY(constant_bytes(w, owner, &data));
        TH_PUSH(w->a, w->constants, w->n_constants, w->constants_capacity, data);
        *slot = 1 + add_buffer(w, 4, (uint32_t)w->n_constants - 1, zero, th_dim_const(w->c, (int64_t)data.len));
        break;
      }
      default: return TH_ERROR(INTERNAL, "emit: value %u has no place", owner);
    }
  *out = *slot - 1;
  return TH_OK;
}

static void push_tensor(writer *w, uint32_t buffer, th_dim offset, const th_type *type, const th_dim *strides, uint32_t *out) {
  if (!w->tensor_dims_begin.n) ADD(w, tensor_dims_begin, 0);
  ADD(w, tensor_dtype, (uint32_t)th_dtype_to_wire(type->dtype));
  ADD(w, tensor_buffer, buffer);
  ADD(w, tensor_offset, expr_of(w, offset));
  for (uint32_t i = 0; i < type->rank; i++) {
    ADD(w, tensor_dims, expr_of(w, type->dims[i]));
    ADD(w, tensor_strides, expr_of(w, strides[i]));
  }
  ADD(w, tensor_dims_begin, (uint32_t)w->tensor_dims.n);
  *out = (uint32_t)(w->tensor_dtype.n - 1);
}

static th_status add_tensor(writer *w, th_value owner, th_dim offset, const th_type *type, const th_dim *strides, uint32_t *out) {
  uint32_t buffer;
  TH_TRY(buffer_of(w, owner, &buffer));
  push_tensor(w, buffer, offset, type, strides, out);
  return TH_OK;
}

static th_status tensor_of(writer *w, th_value v, uint32_t *out) {
  if (w->tensor_of[v]) {
    *out = w->tensor_of[v] - 1;
    return TH_OK;
  }
  th_dim offset = th_dim_const(w->c, 0);
  th_value owner = v;
  for (; w->t->values[owner].place == TH_PLACE_ALIAS; owner = w->t->values[owner].place_index) offset = th_dim_add(w->c, offset, w->t->values[owner].place_offset);
  const th_value_info *i = &w->t->values[v];
  TH_TRY(add_tensor(w, owner, offset, &i->type, i->strides, out));
  w->tensor_of[v] = *out + 1;
  return TH_OK;
}

/* ---- instructions ---- */

/* The captured op that a failure of `op` names: of a kernel the only one that indexes, else the only one that divides integers, else
 * the last one. */
static uint32_t blamed(const writer *w, const th_op *op) {
  const th_attr *body = op->kind == TH_OP_launch ? th_attr_get(op, "body") : NULL;
  const th_graph *g = body ? w->t->graphs[body->graph] : NULL;
  for (int divides = 0; g && divides < 2; divides++) {
    uint32_t found = TH_NONE;
    bool several = false;
    for (size_t i = 0; i < g->n_ops; i++) {
      th_op_kind k = g->ops[i]->kind;
      bool indexes = k == TH_OP_take || k == TH_OP_take_along || k == TH_OP_scatter_add || k == TH_OP_scatter_add_along || k == TH_OP_scatter_along;
      bool is = divides ? (k == TH_OP_div || k == TH_OP_rem) && !th_dtype_is_float(th_type_of(w->t, g->ops[i]->result)->dtype) : indexes;
      if (!is || g->ops[i]->origin == TH_NONE) continue;
      several |= found != TH_NONE && found != g->ops[i]->origin;
      found = g->ops[i]->origin;
    }
    if (found != TH_NONE) return several ? op->origin : found;
  }
  return op->origin;
}

/* The bytes that memory_plan set aside for the op while it runs. */
static void add_scratch(writer *w, const th_op *op) {
  const th_attr *scratch = th_plan_scratch(op);
  uint32_t tensor = 0;
  if (scratch) {
    th_type bytes = th_type_make(w->c, TH_DTYPE_u8, &scratch->ints[1], 1);
    uint32_t buffer = add_buffer(w, 3, 0, scratch->ints[0], bytes.dims[0]);
    push_tensor(w, buffer, th_dim_const(w->c, 0), &bytes, th_contiguous_strides(w->c, bytes.dims, 1), &tensor);
    tensor++;
  }
  ADD(w, instr_scratch, tensor);
}

static void begin_instr(writer *w, uint32_t kind, uint32_t target, const th_op *op, bool results) {
  if (!w->instr_tensors_begin.n) {
    ADD(w, instr_tensors_begin, 0);
    ADD(w, instr_ints_begin, 0);
    ADD(w, instr_floats_begin, 0);
  }
  ADD(w, instr_kind, kind);
  ADD(w, instr_target, target);
  ADD(w, instr_outputs, results ? op->n_results : 0);
  ADD(w, instr_stream, 0);
  ADD(w, instr_op, blamed(w, op));
  ADD(w, instr_blob, 0);
  add_scratch(w, op);
}

static th_status add_tensors(writer *w, const th_op *op, bool operands, bool results) {
  uint32_t tensor;
  for (uint32_t i = 0; operands && i < op->n_operands; i++) {
    TH_TRY(tensor_of(w, op->operands[i], &tensor));
    ADD(w, instr_tensors, tensor);
  }
  for (uint32_t i = 0; results && i < op->n_results; i++) {
    TH_TRY(tensor_of(w, op->result + i, &tensor));
    ADD(w, instr_tensors, tensor);
  }
  return TH_OK;
}

static void end_instr(writer *w) {
  ADD(w, instr_tensors_begin, (uint32_t)w->instr_tensors.n);
  ADD(w, instr_ints_begin, (uint32_t)w->instr_ints.n);
  ADD(w, instr_floats_begin, (uint32_t)w->instr_floats.n);
}

static th_status simple(writer *w, uint32_t kind, uint32_t target, const th_op *op, bool operands) {
  begin_instr(w, kind, target, op, true);
  return add_tensors(w, op, operands, true);
}

/* The plan's number of the kernel with that source. */
static uint32_t kernel_number(writer *w, const th_executor *executor, const char *text) {
  size_t k = 0, mine = 0;
  while (k < w->e->n_kernels && (w->e->kernels[k].executor != executor || strcmp(w->e->kernels[k].text, text))) k++;
  if (k == w->e->n_kernels) {
    kernel fresh = {text, executor};
    TH_PUSH(w->a, w->e->kernels, w->e->n_kernels, w->e->kernels_capacity, fresh);
  }
  w->e->n_launches++;
  while (mine < w->kernel_of.n && w->kernel_of.at[mine] != k) mine++;
  if (mine == w->kernel_of.n) ADD(w, kernel_of, (uint32_t)k);
  return (uint32_t)mine;
}

/* A region of numbers in host memory: a program of the runtime's (executors/scalar.h). */
static th_status scalars(writer *w, const th_executor *executor, const th_op *op) {
  th_scalar_program code;
  th_status status = executor->scalars(w->e->options, w->t, op, &code);
  if (status) return th_status_prefix(status, "op %u", op->origin);
  TH_TRY(simple(w, SCALARS, NONE, op, true));
  for (size_t i = 0; i < code.n_ints; i++) ADD(w, instr_ints, expr_of(w, code.ints[i]));
  for (size_t i = 0; i < code.n_floats; i++) ADD(w, instr_floats, code.floats[i]);
  end_instr(w);
  return TH_OK;
}

static th_status launch(writer *w, const th_op *op) {
  const th_executor *executor = th_executor_of(w->e->options, op);
  th_kernel_source source;
  if (!executor) return TH_ERROR(INTERNAL, "a launch without an executor");
  if (executor->scalars) return scalars(w, executor, op);
  th_status status = executor->emit(w->e->options, w->t, op, &source);
  if (status) return th_status_prefix(status, "op %u", op->origin);
  for (const th_kernel_source *part = &source; part; part = part->next) {
    TH_TRY(simple(w, KERNEL, kernel_number(w, executor, part->text), op, true));
    if (part->threads) {
      ADD(w, instr_ints, expr_of(w, part->grid[0]));
      ADD(w, instr_ints, expr_of(w, part->grid[1]));
      ADD(w, instr_ints, constant_expr(w, part->threads));
      ADD(w, instr_ints, constant_expr(w, part->shared));
    }
    for (uint32_t i = 0; i < part->n_sizes; i++) ADD(w, instr_ints, expr_of(w, part->sizes[i]));
    end_instr(w);
  }
  return TH_OK;
}

static void layout_text(writer *w, const th_op *op, th_strbuf *s) {
  th_strbuf_printf(s, "%s %s", op->executor, th_attr_get(op, "function")->s);
  for (uint32_t k = 0; k < op->n_operands + op->n_results; k++) {
    const th_value_info *i = &w->t->values[k < op->n_operands ? op->operands[k] : op->result + (k - op->n_operands)];
    th_strbuf_printf(s, "; %s", th_dtype_name(i->type.dtype));
    for (uint32_t d = 0; d < i->type.rank; d++) th_strbuf_printf(s, " %u:%u", i->type.dims[d], i->strides[d]);
  }
  const th_attr *ints = th_attr_get(op, "ints");
  for (uint32_t k = 0; k < ints->count; k++) th_strbuf_printf(s, " %u", ints->ints[k]);
}

/* What the call is to be prepared with, as a module of its own; equal calls share it. */
static void note_blob(writer *w, const th_op *op) {
  const th_executor *executor = th_executor_of(w->e->options, op);
  if (!executor || !executor->prepare) return;
  th_strbuf key = th_strbuf_make(w->a);
  layout_text(w, op, &key);
  size_t k = 0;
  while (k < w->e->n_blobs && strcmp(w->e->blobs[k].key, th_strbuf_text(&key))) k++;
  if (k == w->e->n_blobs) TH_PUSH(w->a, w->e->blobs, w->e->n_blobs, w->e->blobs_capacity, ((blob){.key = th_strbuf_text(&key), .t = w->t, .op = op}));
  w->instr_blob.at[w->instr_blob.n - 1] = (uint32_t)k + 1; /* turned into module numbers by the caller */
}

static th_status invoke(writer *w, const th_op *op) {
  TH_TRY(simple(w, LIBRARY, text(w, th_attr_get(op, "function")->s), op, true));
  const th_attr *ints = th_attr_get(op, "ints");
  for (uint32_t i = 0; i < ints->count; i++) ADD(w, instr_ints, expr_of(w, ints->ints[i]));
  ADD(w, instr_floats, th_attr_float(w->c, op, "alpha"));
  ADD(w, instr_floats, th_attr_float(w->c, op, "beta"));
  end_instr(w);
  note_blob(w, op);
  return TH_OK;
}

static void note_collective(writer *w, const char *name, const th_op *op) { /* FNV-1a over kind, dtypes and count expressions */
  th_strbuf s = th_strbuf_make(w->a);
  th_strbuf_add(&s, name);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    const th_type *type = th_type_of(w->t, op->operands[i]);
    th_strbuf_printf(&s, ";%s:", th_dtype_name(type->dtype));
    th_dim_print(w->c, th_type_numel(w->c, type), &s);
  }
  for (const char *c = th_strbuf_text(&s); *c; c++) w->fingerprint = (w->fingerprint ^ (uint8_t)*c) * 0x100000001b3u;
  w->n_collectives++;
}

static th_status collective(writer *w, const th_op *op) {
  bool reduces = op->kind != TH_OP_all_gather;
  const char *kind = op->kind == TH_OP_all_gather ? "all_gather" : op->kind == TH_OP_reduce_scatter ? "reduce_scatter" : "all_reduce";
  const char *name = th_arena_printf(w->a, "%s:%s:%s", kind, reduces ? th_attr_get(op, "op")->s : "", th_attr_get(op, "axis")->s);
  note_collective(w, name, op);
  uint32_t start = (uint32_t)w->instr_kind.n;
  TH_TRY(simple(w, COLLECTIVE_START, text(w, name), op, true));
  if (op->kind == TH_OP_all_gather || op->kind == TH_OP_reduce_scatter) ADD(w, instr_ints, expr_of(w, th_attr_get(op, "dim")->i));
  end_instr(w);
  if (op->kind == TH_OP_all_reduce_start) {
    for (uint32_t i = 0; i < op->n_results; i++) w->start_of[op->result + i] = start + 1;
    return TH_OK;
  }
  begin_instr(w, COLLECTIVE_WAIT, start, op, false);
  TH_TRY(add_tensors(w, op, false, true));
  end_instr(w);
  return TH_OK;
}

static th_status wait_for(writer *w, const th_op *op) { /* one wait for each collective whose results it names */
  for (uint32_t i = 0; i < op->n_operands; i++) {
    uint32_t start = w->start_of[op->operands[i]], tensor;
    bool earlier = false;
    for (uint32_t k = 0; k < i; k++) earlier |= w->start_of[op->operands[k]] == start;
    if (earlier || !start) continue;
    begin_instr(w, COLLECTIVE_WAIT, start - 1, op, false);
    for (uint32_t k = i; k < op->n_operands; k++)
      if (w->start_of[op->operands[k]] == start) {
        TH_TRY(tensor_of(w, op->operands[k], &tensor));
        ADD(w, instr_tensors, tensor);
      }
    end_instr(w);
  }
  return TH_OK;
}

static th_status fill(writer *w, const th_op *op) {
  if (w->t->values[op->result].place == TH_PLACE_CONSTANT) return TH_OK;
  TH_TRY(simple(w, FILL, NONE, op, false));
  if (op->kind == TH_OP_rank) ADD(w, instr_ints, expr(w, EXPR_RANK, 0, 0));
  else if (th_attr_get(op, "value")->kind == TH_ATTR_INT) ADD(w, instr_ints, expr_of(w, th_attr_get(op, "value")->i));
  else ADD(w, instr_floats, th_attr_float(w->c, op, "value"));
  end_instr(w);
  return TH_OK;
}

static th_status emit_op(writer *w, const th_op *op) {
  switch (op->kind) {
    case TH_OP_launch: return launch(w, op);
    case TH_OP_invoke: return invoke(w, op);
    case TH_OP_copy:
      TH_TRY(simple(w, COPY, NONE, op, true));
      end_instr(w);
      return TH_OK;
    case TH_OP_const: case TH_OP_rank: return fill(w, op);
    case TH_OP_all_reduce: case TH_OP_all_gather: case TH_OP_reduce_scatter: case TH_OP_all_reduce_start: return collective(w, op);
    case TH_OP_wait: return wait_for(w, op);
    case TH_OP_transpose: case TH_OP_slice: case TH_OP_broadcast: case TH_OP_reshape: case TH_OP_barrier: return TH_OK;
    default: return TH_ERROR(UNIMPLEMENTED, "op %u: %s has no instruction", op->origin, th_op_name(op->kind));
  }
}

/* ---- the plan ---- */

/* The window handed out for a view: the base's buffer with the strides and offset of the signature. */
static th_status output_tensor(writer *w, uint32_t o, uint32_t *out) {
  const th_output *output = &w->t->outputs[o];
  const th_graph *g = w->t->graphs[0];
  th_value v = g->outputs[o], base;
  if (output->kind == TH_OUTPUT_INPUT) return tensor_of(w, g->inputs[output->base], out);
  if (output->kind != TH_OUTPUT_VIEW_OF_INPUT && output->kind != TH_OUTPUT_VIEW_OF_OUTPUT) return tensor_of(w, v, out);
  base = output->kind == TH_OUTPUT_VIEW_OF_INPUT ? g->inputs[output->base] : g->outputs[output->base];
  th_storage s = th_plan_storage(w->t, base);
  const th_type *type = th_type_of(w->t, v);
  th_dim offset = th_dim_mul(w->c, output->offset, th_dim_const(w->c, (int64_t)th_dtype_size(type->dtype)));
  if (s.place != TH_PLACE_ARENA) offset = th_dim_add(w->c, offset, s.offset);
  return add_tensor(w, s.value, offset, type, output->strides ? output->strides : th_contiguous_strides(w->c, type->dims, type->rank), out);
}

static th_status write_plan(emitter *e, const th_emit_plan *in, Thunder__Wire__Plan **out) {
  const th_trace *t = in->trace;
  const th_graph *g = t->graphs[0];
  th_arena *a = e->a;
  writer *w = TH_ARENA_NEW(a, writer);
  *w = (writer){.e = e, .t = t, .c = t->context, .a = a, .fingerprint = 0xcbf29ce484222325u};
  size_t n = t->n_values;
  w->tensor_of = TH_ARENA_ARRAY(a, uint32_t, n);
  w->buffer_of = TH_ARENA_ARRAY(a, uint32_t, n);
  w->start_of = TH_ARENA_ARRAY(a, uint32_t, n);
  w->borrowed = TH_ARENA_ARRAY(a, uint32_t, g->n_inputs);
  w->escaping = TH_ARENA_ARRAY(a, uint32_t, g->n_outputs);
  Thunder__Wire__Plan *p = TH_ARENA_NEW(a, Thunder__Wire__Plan);
  thunder__wire__plan__init(p);
  p->name = (char *)in->name;
  u32s symbols = {0}, input_tensor = {0}, input_kind = {0}, input_flags = {0}, outputs = {0}, output_kind = {0}, output_base = {0};
  for (uint32_t i = 0; i < th_symbol_count(w->c); i++) {
    const th_symbol *s = th_trace_symbol(t, i);
    uint32_t value = s->input == TH_NONE ? constant_expr(w, s->min) : s->source == TH_SYMBOL_SIZE ? expr(w, EXPR_INPUT_SIZE, s->input, s->dimension) : expr(w, EXPR_INTEGER, s->input, 0);
    TH_PUSH(a, symbols.at, symbols.n, symbols.capacity, value);
  }
  u32s equal = {0};
  for (size_t i = 0; i < th_assumption_count(w->c); i++) {
    th_dim b, a_dim = th_assumption_get(w->c, i, &b);
    if (!is_bound(t, a_dim) || !is_bound(t, b)) continue; /* a backward half, of a call whose forward half was checked */
    TH_PUSH(a, equal.at, equal.n, equal.capacity, expr_of(w, a_dim));
    TH_PUSH(a, equal.at, equal.n, equal.capacity, expr_of(w, b));
  }
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    uint32_t tensor;
    TH_TRY(tensor_of(w, g->inputs[i], &tensor));
    TH_PUSH(a, input_tensor.at, input_tensor.n, input_tensor.capacity, tensor);
    TH_PUSH(a, input_kind.at, input_kind.n, input_kind.capacity, (uint32_t)t->inputs[i].kind);
    TH_PUSH(a, input_flags.at, input_flags.n, input_flags.capacity, (t->inputs[i].donated ? 1u : 0) | (t->inputs[i].requires_grad ? 2u : 0) | (th_type_of(t, g->inputs[i])->host ? 4u : 0));
  }
  for (size_t i = 0; i < g->n_ops; i++) TH_TRY(emit_op(w, g->ops[i]));
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    uint32_t tensor;
    TH_TRY(output_tensor(w, o, &tensor));
    TH_PUSH(a, outputs.at, outputs.n, outputs.capacity, tensor);
    TH_PUSH(a, output_kind.at, output_kind.n, output_kind.capacity, (uint32_t)t->outputs[o].kind);
    TH_PUSH(a, output_base.at, output_base.n, output_base.capacity, t->outputs[o].base);
  }
  if (!w->tensor_dims_begin.n) ADD(w, tensor_dims_begin, 0);
  if (!w->instr_tensors_begin.n) {
    ADD(w, instr_tensors_begin, 0);
    ADD(w, instr_ints_begin, 0);
    ADD(w, instr_floats_begin, 0);
  }
  p->has_device = 1;
  p->device = th_target_device(w->e->options);
  p->has_deterministic = 1;
  p->deterministic = w->e->options->deterministic;
  p->has_staged_size = 1;
  p->staged_size = expr_of(w, th_plan_staged_bytes(t));
  p->has_arena_size = 1;
  p->arena_size = expr_of(w, th_plan_arena_bytes(t));
  p->has_predicted_peak = 1;
  p->predicted_peak = (uint64_t)th_plan_predict(t, NULL).peak;
  const th_memory_row *rows;
  size_t n_rows = th_plan_memory(t, NULL, &rows);
  p->n_memory_kind = p->n_memory_op = p->n_memory_count = p->n_memory_bytes = n_rows;
  p->memory_kind = TH_ARENA_ARRAY(a, uint32_t, n_rows);
  p->memory_op = TH_ARENA_ARRAY(a, uint32_t, n_rows);
  p->memory_count = TH_ARENA_ARRAY(a, uint32_t, n_rows);
  p->memory_bytes = TH_ARENA_ARRAY(a, uint64_t, n_rows);
  for (size_t i = 0; i < n_rows; i++) {
    p->memory_kind[i] = (uint32_t)rows[i].kind;
    p->memory_op[i] = rows[i].op;
    p->memory_count[i] = rows[i].count;
    p->memory_bytes[i] = (uint64_t)rows[i].bytes;
  }
  p->has_collective_count = 1;
  p->collective_count = w->n_collectives;
  p->has_collective_fingerprint = 1;
  p->collective_fingerprint = (ProtobufCBinaryData){.len = 8, .data = th_arena_copy(a, &w->fingerprint, 8)};
#define SET(field) p->n_##field = w->field.n, p->field = w->field.at
  SET(expr_kind); SET(expr_a); SET(expr_b); SET(buffer_kind); SET(buffer_index); SET(buffer_offset); SET(buffer_size);
  SET(tensor_dtype); SET(tensor_buffer); SET(tensor_offset); SET(tensor_dims_begin); SET(tensor_dims); SET(tensor_strides);
  SET(instr_kind); SET(instr_target); SET(instr_tensors_begin); SET(instr_tensors); SET(instr_outputs); SET(instr_ints_begin); SET(instr_ints);
  SET(instr_floats_begin); SET(instr_floats); SET(instr_stream); SET(instr_op); SET(instr_scratch); SET(instr_blob);
#undef SET
  p->n_symbol_value = symbols.n, p->symbol_value = symbols.at;
  p->n_equal = equal.n, p->equal = equal.at;
  p->n_input_tensor = input_tensor.n, p->input_tensor = input_tensor.at;
  p->n_input_kind = input_kind.n, p->input_kind = input_kind.at;
  p->n_input_flags = input_flags.n, p->input_flags = input_flags.at;
  p->n_output_tensor = outputs.n, p->output_tensor = outputs.at;
  p->n_output_kind = output_kind.n, p->output_kind = output_kind.at;
  p->n_output_base = output_base.n, p->output_base = output_base.at;
  p->n_strings = w->text.n, p->strings = w->text.at;
  p->n_constants = w->n_constants, p->constants = w->constants;
  p->n_kernel_symbol = p->n_kernel_module = w->kernel_of.n;
  p->kernel_symbol = TH_ARENA_ARRAY(a, char *, w->kernel_of.n);
  p->kernel_module = w->kernel_of.at; /* turned into module numbers by the caller */
  for (size_t i = 0; i < w->kernel_of.n; i++) p->kernel_symbol[i] = th_arena_printf(a, "th_kernel_%u", w->kernel_of.at[i]);
  *out = p;
  return TH_OK;
}

static const char *named_kernel(th_arena *a, const char *source, size_t number) { /* the name with its number, also with what is added to it */
  th_strbuf s = th_strbuf_make(a);
  size_t n = strlen(TH_KERNEL_NAME);
  for (const char *found; (found = strstr(source, TH_KERNEL_NAME)); source = found + n) {
    th_strbuf_add_bytes(&s, source, (size_t)(found - source));
    th_strbuf_printf(&s, !strncmp(found + n, "context", 7) ? TH_KERNEL_NAME : TH_KERNEL_NAME "%zu", number);
  }
  th_strbuf_add(&s, source);
  th_strbuf_add(&s, "\n");
  return th_strbuf_text(&s);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static Thunder__Wire__Module *add_module(emitter *e, Thunder__Wire__Executable *x, const char *name, const char *kind, th_binary code) {
  Thunder__Wire__Module *m = TH_ARENA_NEW(e->a, Thunder__Wire__Module);
  thunder__wire__module__init(m);
  m->name = (char *)name;
  m->kind = (char *)kind;
  m->has_code = 1;
  m->code = (ProtobufCBinaryData){.len = code.size, .data = code.bytes};
  TH_PUSH(e->a, x->modules, x->n_modules, e->modules_capacity, m);
  return m;
}

/* The kernels of one executor, compiled by a thread of their own, with an arena of their own. */
typedef struct build {
  const th_options *options;
  const th_executor *executor;
  th_arena *arena;
  const char **texts, *prelude, *kind;
  uint32_t *number, *part_of; /* by kernel: its number among all; its part */
  th_binary parts[TH_MAX_PARTS];
  size_t n, n_parts;
  pthread_t thread;
  bool started;
  th_status status;
} build;

static th_status compile_guarded(void *user) {
  build *b = user;
  return b->executor->compile(b->options, b->arena, b->prelude, b->texts, b->n, b->parts, &b->n_parts, b->part_of, &b->kind);
}

static void *compile_build(void *user) {
  build *b = user;
  b->status = th_arena_guard(b->arena, compile_guarded, b);
  return NULL;
}

/* What each executor has of kernels, as a build that is not begun. */
static size_t make_builds(emitter *e, build *builds) {
  size_t n = 0;
  for (size_t first = 0; first < e->n_kernels; first++) {
    build *b = &builds[n];
    *b = (build){.options = e->options, .executor = e->kernels[first].executor};
    bool seen = false;
    for (size_t k = 0; k < first; k++) seen |= e->kernels[k].executor == b->executor;
    if (seen) continue;
    n++;
    b->texts = TH_ARENA_ARRAY(e->a, const char *, e->n_kernels);
    b->number = TH_ARENA_ARRAY(e->a, uint32_t, e->n_kernels);
    b->part_of = TH_ARENA_ARRAY(e->a, uint32_t, e->n_kernels);
    b->prelude = b->executor->prelude(e->options);
    for (size_t k = first; k < e->n_kernels; k++)
      if (e->kernels[k].executor == b->executor) {
        b->number[b->n] = (uint32_t)k;
        b->texts[b->n++] = named_kernel(e->a, e->kernels[k].text, k);
      }
  }
  return n;
}

static th_status begin_builds(build *builds, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!(builds[i].arena = th_arena_create(0))) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory to compile %zu kernels", builds[i].n);
    builds[i].started = !pthread_create(&builds[i].thread, NULL, compile_build, &builds[i]);
    if (!builds[i].started) compile_build(&builds[i]);
  }
  return TH_OK;
}

/* Waits for all of them; `status` or the first failure. */
static th_status end_builds(build *builds, size_t n, th_status status) {
  for (size_t i = 0; i < n; i++) {
    if (builds[i].started) pthread_join(builds[i].thread, NULL);
    if (status) th_status_free(builds[i].status);
    else status = builds[i].status;
  }
  return status;
}

/* What library calls are prepared with takes as long as some kernels do (a plan of cuDNN's): meanwhile. */
static th_status prepare_blobs(void *user) {
  emitter *e = user;
  for (size_t k = 0; k < e->n_blobs; k++) {
    blob *b = &e->blobs[k];
    th_status status = th_executor_of(e->options, b->op)->prepare(e->options, b->t, b->op, e->a, &b->code, &b->kind);
    if (status) return th_status_prefix(status, "op %u", b->op->origin);
  }
  return TH_OK;
}

typedef struct modules { emitter *e; build *builds; size_t n; uint32_t *of; Thunder__Wire__Executable *x; } modules; /* of: by kernel */

static th_status add_modules(void *user) {
  modules *all = user;
  emitter *e = all->e;
  Thunder__Wire__Executable *x = all->x;
  for (size_t i = 0; i < all->n; i++) {
    const build *b = &all->builds[i];
    for (size_t p = 0; p < b->n_parts; p++) {
      th_strbuf s = th_strbuf_make(e->a);
      th_strbuf_add(&s, b->prelude);
      for (size_t k = 0; k < b->n; k++)
        if (b->part_of[k] == p) {
          th_strbuf_add(&s, b->texts[k]);
          all->of[b->number[k]] = (uint32_t)x->n_modules;
        }
      Thunder__Wire__Module *m = add_module(e, x, b->executor->name, th_arena_strdup(e->a, b->kind), (th_binary){th_arena_copy(e->a, b->parts[p].bytes, b->parts[p].size), b->parts[p].size});
      m->has_source = 1;
      m->source = (ProtobufCBinaryData){.len = s.length, .data = (uint8_t *)th_strbuf_text(&s)};
    }
  }
  for (size_t k = 0; k < e->n_blobs; k++) {
    if (!e->blobs[k].code.bytes) continue; /* 0: none, the rank prepares the call itself */
    add_module(e, x, "prepared", e->blobs[k].kind, e->blobs[k].code);
    e->blobs[k].module = (uint32_t)x->n_modules;
  }
  return TH_OK;
}

/* Kernels and what library calls are prepared with, side by side. Threads and their arenas are ended here whatever happens. */
static th_status compile_all(emitter *e, uint32_t *module_of, Thunder__Wire__Executable *x) {
  build *builds = TH_ARENA_ARRAY(e->a, build, e->n_kernels + 1);
  modules all = {e, builds, make_builds(e, builds), module_of, x};
  th_status status = begin_builds(builds, all.n);
  if (!status) status = th_arena_guard(e->a, prepare_blobs, e);
  status = end_builds(builds, all.n, status);
  if (!status) status = th_arena_guard(e->a, add_modules, &all);
  for (size_t i = 0; i < all.n; i++) th_arena_destroy(builds[i].arena);
  return status;
}

th_status th_emit(const th_options *options, const th_emit_plan *plans, size_t n_plans, const th_emit_report *report,
                  th_emit_progress progress, void *user, th_arena *arena, uint8_t **out, size_t *out_size) {
  emitter e = {.options = options, .a = arena};
  uint64_t start = now_ns();
  Thunder__Wire__Executable x = THUNDER__WIRE__EXECUTABLE__INIT;
  Thunder__Wire__CompileReport r = THUNDER__WIRE__COMPILE_REPORT__INIT;
  x.has_version = 1;
  x.version = 1;
  x.plans = TH_ARENA_ARRAY(arena, Thunder__Wire__Plan *, n_plans);
  for (size_t i = 0; i < n_plans; i++) TH_TRY(write_plan(&e, &plans[i], &x.plans[x.n_plans++]));
  if (progress) progress(user, "codegen", (uint32_t)e.n_kernels, (uint32_t)e.n_kernels);
  uint32_t *module_of = TH_ARENA_ARRAY(arena, uint32_t, e.n_kernels);
  uint64_t compile = now_ns();
  if (progress) progress(user, "compile", 0, (uint32_t)e.n_kernels);
  TH_TRY(compile_all(&e, module_of, &x));
  for (size_t i = 0; i < x.n_plans; i++)
    for (size_t k = 0; k < x.plans[i]->n_kernel_module; k++) x.plans[i]->kernel_module[k] = module_of[x.plans[i]->kernel_module[k]];
  for (size_t i = 0; i < x.n_plans; i++)
    for (size_t k = 0; k < x.plans[i]->n_instr_blob; k++)
      if (x.plans[i]->instr_blob[k]) x.plans[i]->instr_blob[k] = e.blobs[x.plans[i]->instr_blob[k] - 1].module;
  r.n_pass = r.n_pass_ns = report->n_passes;
  r.pass = TH_ARENA_ARRAY(arena, char *, report->n_passes);
  r.pass_ns = TH_ARENA_ARRAY(arena, uint64_t, report->n_passes);
  for (size_t i = 0; i < report->n_passes; i++) {
    r.pass[i] = (char *)report->passes[i].name;
    r.pass_ns[i] = report->passes[i].ns;
  }
  r.has_total_ns = r.has_codegen_ns = r.has_ops = r.has_regions = r.has_distinct_kernels = 1;
  r.codegen_ns = now_ns() - compile;
  r.total_ns = report->total_ns + (now_ns() - start);
  r.ops = report->ops;
  r.regions = (uint32_t)e.n_launches;
  r.distinct_kernels = (uint32_t)e.n_kernels;
  x.report = &r;
  *out_size = thunder__wire__executable__get_packed_size(&x);
  *out = th_arena_alloc(arena, *out_size);
  thunder__wire__executable__pack(&x, *out);
  if (progress) progress(user, "done", (uint32_t)e.n_kernels, (uint32_t)e.n_kernels);
  return TH_OK;
}
