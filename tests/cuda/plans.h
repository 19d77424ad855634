/* Executables made by hand, for tests of the run half: tables grow as they are asked for. Everything lives until the process ends. */
#ifndef THUNDER_TESTS_CUDA_PLANS_H
#define THUNDER_TESTS_CUDA_PLANS_H

#include <stdarg.h>

#include "executors/run/program.h"
#include "executors/run/thunder.h"
#include "executors/scalar.h"
#include "tests/unit/check.h"

enum { ROOM = 2048, END = -1 };

typedef struct maker { /* one plan */
  Thunder__Wire__Plan p;
  uint32_t tables[30][ROOM], used;
  int64_t expr_a[ROOM], expr_b[ROOM];
  double floats[ROOM];
  char *strings[8], *symbols[8];
  ProtobufCBinaryData constants[4];
} maker;

#define PUSH(m, field, value) ((m)->p.field[(m)->p.n_##field++] = (uint32_t)(value))

static inline void maker_init(maker *m, uint32_t device) {
  memset(m, 0, sizeof *m);
  thunder__wire__plan__init(&m->p);
#define TABLE(field) m->p.field = m->tables[m->used++]
  TABLE(expr_kind), TABLE(buffer_kind), TABLE(buffer_index), TABLE(buffer_offset), TABLE(buffer_size), TABLE(tensor_dtype), TABLE(tensor_buffer), TABLE(tensor_offset);
  TABLE(tensor_dims_begin), TABLE(tensor_dims), TABLE(tensor_strides), TABLE(input_tensor), TABLE(input_kind), TABLE(input_flags), TABLE(output_tensor), TABLE(output_kind), TABLE(output_base);
  TABLE(instr_kind), TABLE(instr_target), TABLE(instr_tensors_begin), TABLE(instr_tensors), TABLE(instr_outputs), TABLE(instr_ints_begin), TABLE(instr_ints), TABLE(instr_floats_begin);
  TABLE(instr_op), TABLE(kernel_module), TABLE(instr_scratch), TABLE(instr_blob);
#undef TABLE
  m->p.expr_a = m->expr_a, m->p.expr_b = m->expr_b, m->p.instr_floats = m->floats;
  m->p.strings = m->strings, m->p.kernel_symbol = m->symbols, m->p.constants = m->constants;
  m->p.name = (char *)"step";
  m->p.has_device = 1, m->p.device = device;
  PUSH(m, tensor_dims_begin, 0), PUSH(m, instr_tensors_begin, 0), PUSH(m, instr_ints_begin, 0), PUSH(m, instr_floats_begin, 0);
}

static inline uint32_t K(maker *m, int64_t value) { /* a constant expression */
  m->p.expr_a[m->p.n_expr_a++] = value;
  m->p.expr_b[m->p.n_expr_b++] = 0;
  return (PUSH(m, expr_kind, TH_EXPR_CONST), (uint32_t)m->p.n_expr_kind - 1);
}

/* A tensor of n elements (n < 0: rank 0) that is all of a buffer of its own; its number. */
static inline uint32_t tensor(maker *m, uint32_t kind, uint32_t index, int64_t offset, th_dtype dtype, int64_t n) {
  int64_t bytes = (n < 0 ? 1 : n) * (int64_t)th_dtype_size(dtype);
  PUSH(m, buffer_kind, kind), PUSH(m, buffer_index, index), PUSH(m, buffer_offset, K(m, offset)), PUSH(m, buffer_size, K(m, bytes));
  PUSH(m, tensor_dtype, th_dtype_to_wire(dtype)), PUSH(m, tensor_buffer, m->p.n_buffer_kind - 1), PUSH(m, tensor_offset, K(m, 0));
  if (n >= 0) PUSH(m, tensor_dims, K(m, n)), PUSH(m, tensor_strides, K(m, 1));
  PUSH(m, tensor_dims_begin, m->p.n_tensor_dims);
  return (uint32_t)m->p.n_tensor_dtype - 1;
}
static inline uint32_t input(maker *m, uint32_t kind, uint32_t flags, th_dtype dtype, int64_t n) {
  uint32_t t = tensor(m, TH_BUFFER_BORROWED, (uint32_t)m->p.n_input_tensor, 0, dtype, n);
  PUSH(m, input_tensor, t), PUSH(m, input_kind, kind), PUSH(m, input_flags, flags);
  return t;
}
static inline uint32_t output(maker *m, th_dtype dtype, int64_t n) {
  uint32_t t = tensor(m, TH_BUFFER_ESCAPING, (uint32_t)m->p.n_output_tensor, 0, dtype, n);
  PUSH(m, output_tensor, t), PUSH(m, output_kind, 0), PUSH(m, output_base, 0);
  return t;
}
static inline uint32_t symbol(maker *m, uint32_t module, const char *name) {
  PUSH(m, kernel_module, module);
  m->symbols[m->p.n_kernel_symbol] = (char *)name;
  return (uint32_t)m->p.n_kernel_symbol++;
}
static inline uint32_t string(maker *m, const char *text) {
  m->strings[m->p.n_strings] = (char *)text;
  return (uint32_t)m->p.n_strings++;
}

/* An instruction of these tensors (up to END), `outputs` of them its results; then more(m, ...) gives it ints and floats, done(m) ends it. */
static inline void instruction(maker *m, uint32_t kind, uint32_t target, uint32_t outputs, ...) {
  va_list list;
  va_start(list, outputs);
  for (int t; (t = va_arg(list, int)) != END;) PUSH(m, instr_tensors, t);
  va_end(list);
  PUSH(m, instr_kind, kind), PUSH(m, instr_target, target), PUSH(m, instr_outputs, outputs), PUSH(m, instr_op, 0xffffffffu);
  PUSH(m, instr_scratch, 0), PUSH(m, instr_blob, 0);
  PUSH(m, instr_tensors_begin, m->p.n_instr_tensors);
}
static inline void ints(maker *m, size_t n, const int64_t *values) {
  for (size_t i = 0; i < n; i++) PUSH(m, instr_ints, K(m, values[i]));
}
#define INTS(m, ...) ints((m), sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})
static inline void number(maker *m, double value) { m->p.instr_floats[m->p.n_instr_floats++] = value; }
static inline void done(maker *m) { PUSH(m, instr_ints_begin, m->p.n_instr_ints), PUSH(m, instr_floats_begin, m->p.n_instr_floats); }

static inline th_status load_plan(maker *m, Thunder__Wire__Module **modules, size_t n_modules, th_program **out) {
  Thunder__Wire__Executable x = THUNDER__WIRE__EXECUTABLE__INIT;
  Thunder__Wire__Plan *plans[] = {&m->p};
  x.has_version = 1, x.version = 1, x.n_plans = 1, x.plans = plans, x.modules = modules, x.n_modules = n_modules;
  size_t size = thunder__wire__executable__get_packed_size(&x);
  uint8_t *bytes = malloc(size);
  thunder__wire__executable__pack(&x, bytes);
  th_status status = th_program_load(bytes, size, out);
  free(bytes);
  return status;
}

/* Fails unless the status has the code and the text; ends it. */
#define CHECK_STATUS(expression, want, words)                                                                             \
  do {                                                                                                                    \
    th_status status_ = (expression);                                                                                     \
    char text_[2048];                                                                                                     \
    th_status_format(status_, text_, sizeof text_);                                                                       \
    if (th_status_code(status_) != TH_CODE_##want || !strstr(text_, (words))) {                                           \
      fprintf(stderr, "%s:%d: %s\n  is %s\n  want %s with \"%s\"\n", __FILE__, __LINE__, #expression, text_, #want, (words)); \
      exit(1);                                                                                                            \
    }                                                                                                                     \
    th_status_free(status_);                                                                                              \
  } while (0)

#endif
