#include "executors/host/host.h"

#include <string.h>

#include "executors/scalar.h"

static int opcode(const th_op *op) { /* -1: none */
  static const char *const names[] = {
#define X(name, operands, of) #name,
      TH_SCALAR_OPS(X)
#undef X
  };
  for (int i = 0; i < TH_SCALAR_COUNT; i++)
    if (i != TH_SCALAR_int && !strcmp(names[i], th_op_name(op->kind))) return i;
  return -1;
}

static bool fusible(const th_options *options, const th_trace *t, const th_op *op) {
  (void)options;
  return op->n_results == 1 && th_type_of(t, op->result)->host && opcode(op) >= 0;
}

/* All inputs are read before a result is written. */
static bool in_place(const th_trace *t, const th_op *op, uint32_t operand, uint32_t result) {
  (void)t, (void)op, (void)operand, (void)result;
  return true;
}

typedef struct ints { th_dim *at; size_t n, capacity; } ints;

typedef struct program {
  th_context *c;
  th_arena *a;
  ints ops, extra;
  double *floats;
  size_t n_floats, floats_capacity;
} program;

static void add(program *p, ints *to, int64_t value) { TH_PUSH(p->a, to->at, to->n, to->capacity, th_dim_const(p->c, value)); }

static void add_op(program *p, int code, th_dtype operands, th_dtype result, const uint32_t *registers, uint32_t n) {
  add(p, &p->ops, code);
  add(p, &p->ops, th_dtype_to_wire(operands));
  add(p, &p->ops, th_dtype_to_wire(result));
  for (uint32_t i = 0; i < 3; i++) add(p, &p->ops, i < n ? registers[i] : 0);
}

static void constant(program *p, const th_op *op, th_dtype dtype) {
  const th_attr *value = th_attr_get(op, "value");
  uint32_t at;
  if (value->kind == TH_ATTR_INT) {
    at = (uint32_t)p->extra.n;
    TH_PUSH(p->a, p->extra.at, p->extra.n, p->extra.capacity, value->i);
    add_op(p, TH_SCALAR_int, dtype, dtype, &at, 1);
  } else {
    at = (uint32_t)p->n_floats;
    TH_PUSH(p->a, p->floats, p->n_floats, p->floats_capacity, th_attr_float(p->c, op, "value"));
    add_op(p, TH_SCALAR_const, dtype, dtype, &at, 1);
  }
}

static th_status scalars(const th_options *options, const th_trace *t, const th_op *op, th_scalar_program *out) {
  const th_graph *body = t->graphs[th_attr_get(op, "body")->graph];
  program p = {.c = t->context, .a = th_context_arena(t->context)};
  uint32_t *register_of = TH_ARENA_ARRAY(p.a, uint32_t, t->n_values), next = 0;
  (void)options;
  for (uint32_t i = 0; i < body->n_inputs; i++) register_of[body->inputs[i]] = next++;
  for (size_t i = 0; i < body->n_ops; i++) {
    const th_op *inner = body->ops[i];
    uint32_t registers[3] = {0};
    register_of[inner->result] = next++;
    th_dtype dtype = th_type_of(t, inner->result)->dtype;
    if (inner->kind == TH_OP_const) {
      constant(&p, inner, dtype);
      continue;
    }
    if (inner->n_operands > 3 || opcode(inner) < 0) return TH_ERROR(UNIMPLEMENTED, "host: op %s over numbers in host memory", th_op_name(inner->kind));
    for (uint32_t k = 0; k < inner->n_operands; k++) registers[k] = register_of[inner->operands[k]];
    add_op(&p, opcode(inner), th_type_of(t, inner->operands[inner->n_operands - 1])->dtype, dtype, registers, inner->n_operands);
  }
  if (next > TH_SCALAR_REGISTERS) return TH_ERROR(UNIMPLEMENTED, "host: a region of %u numbers, at most %d", next, TH_SCALAR_REGISTERS);
  ints all = {0};
  add(&p, &all, 1);
  add(&p, &all, body->n_inputs);
  add(&p, &all, body->n_outputs);
  add(&p, &all, (int64_t)body->n_ops);
  for (uint32_t i = 0; i < body->n_outputs; i++) add(&p, &all, register_of[body->outputs[i]]);
  for (size_t i = 0; i < p.ops.n; i++) TH_PUSH(p.a, all.at, all.n, all.capacity, p.ops.at[i]);
  for (size_t i = 0; i < p.extra.n; i++) TH_PUSH(p.a, all.at, all.n, all.capacity, p.extra.at[i]);
  *out = (th_scalar_program){.n_ints = all.n, .n_floats = p.n_floats, .ints = all.at, .floats = p.floats};
  return TH_OK;
}

const th_executor th_executor_host = {.name = "host", .fusible = fusible, .in_place = in_place, .scalars = scalars};
