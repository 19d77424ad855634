/* Scalar programs (executors/scalar.h) in plans for the host: values worked out by hand, faults refused at load, speed. */
#include <math.h>
#include <time.h>

#include "tests/cuda/plans.h"

static maker m;

enum { REG = 100 }; /* an operand that is the result of op k: REG + k */
typedef struct row { int code; th_dtype from, to; int a, b, c; } row;

/* One component: inputs of these dtypes, the rows, the last one's register is the output. */
static th_status run(const row *rows, int n_rows, const th_dtype *in, const void *const *data, int n_in, double constant, int64_t integer, void *out) {
  maker_init(&m, 1);
  int64_t head[] = {1, n_in, 1, n_rows, n_in + n_rows - 1};
  th_tensor_in inputs[8] = {0};
  for (int i = 0; i < n_in; i++) {
    input(&m, 4, 0, in[i], -1);
    inputs[i] = (th_tensor_in){.data = (void *)data[i], .dtype = in[i]};
    PUSH(&m, instr_tensors, i);
  }
  uint32_t to = output(&m, rows[n_rows - 1].to, -1);
  instruction(&m, TH_INSTR_SCALARS, 0, 1, to, END);
  ints(&m, 5, head);
  for (int k = 0; k < n_rows; k++) {
    int operands[3] = {rows[k].a, rows[k].b, rows[k].c};
    for (int j = 0; j < 3; j++)
      if (operands[j] >= REG) operands[j] += n_in - REG;
    INTS(&m, rows[k].code, th_dtype_to_wire(rows[k].from), th_dtype_to_wire(rows[k].to), operands[0], operands[1], operands[2]);
  }
  INTS(&m, integer);
  number(&m, constant);
  done(&m);
  m.p.has_arena_size = 1, m.p.arena_size = K(&m, 0);
  th_program *program;
  th_run *call = NULL;
  TH_TRY(load_plan(&m, NULL, 0, &program));
  th_status status = th_run_begin(th_program_plan(program, 0), inputs, (uint32_t)n_in, &call);
  if (!status) {
    th_run_set_escaping(call, 0, out);
    status = th_run_execute(call);
  }
  th_run_end(call);
  th_program_free(program);
  return status;
}

static double f32_of(int code, float x, float y) {
  float out = -99;
  int binary = code >= TH_SCALAR_add;
  row r = {code, TH_DTYPE_f32, TH_DTYPE_f32, 0, binary, 0};
  CHECK_OK(run(&r, 1, (th_dtype[]){TH_DTYPE_f32, TH_DTYPE_f32}, (const void *[]){&x, &y}, 2, 0, 0, &out));
  return out;
}
static double f64_of(int code, double x, double y) {
  double out = -99;
  int binary = code >= TH_SCALAR_add;
  row r = {code, TH_DTYPE_f64, TH_DTYPE_f64, 0, binary, 0};
  CHECK_OK(run(&r, 1, (th_dtype[]){TH_DTYPE_f64, TH_DTYPE_f64}, (const void *[]){&x, &y}, 2, 0, 0, &out));
  return out;
}
static int64_t int_of(int code, th_dtype dtype, th_dtype to, int64_t x, int64_t y) {
  int64_t out = 0;
  int binary = code >= TH_SCALAR_add;
  row r = {code, dtype, to, 0, binary, 0};
  CHECK_OK(run(&r, 1, (th_dtype[]){dtype, dtype}, (const void *[]){&x, &y}, 2, 0, 0, &out));
  return out;
}
#define NEAR(got, want)                                                                                        \
  do {                                                                                                         \
    double got_ = (got), want_ = (want);                                                                       \
    if (!(fabs(got_ - want_) <= 1e-6 * (1 + fabs(want_))))                                                     \
      fprintf(stderr, "%s:%d: %s is %.9g, want %.9g\n", __FILE__, __LINE__, #got, got_, want_), exit(1);       \
  } while (0)

static void floats(void) {
  static const struct { int code; double x, y, want; } cases[] = {
      {TH_SCALAR_neg, 1.5, 0, -1.5}, {TH_SCALAR_abs, -2, 0, 2}, {TH_SCALAR_sign, -3, 0, -1}, {TH_SCALAR_exp, 1, 0, 2.718281828}, {TH_SCALAR_exp2, 3, 0, 8},
      {TH_SCALAR_log, 2.718281828, 0, 1}, {TH_SCALAR_log2, 8, 0, 3}, {TH_SCALAR_log1p, 0.5, 0, 0.405465108}, {TH_SCALAR_expm1, 0.5, 0, 0.648721271}, {TH_SCALAR_sqrt, 9, 0, 3},
      {TH_SCALAR_rsqrt, 4, 0, 0.5}, {TH_SCALAR_reciprocal, 4, 0, 0.25}, {TH_SCALAR_sin, 1, 0, 0.841470985}, {TH_SCALAR_cos, 1, 0, 0.540302306}, {TH_SCALAR_tanh, 1, 0, 0.761594156},
      {TH_SCALAR_floor, -1.5, 0, -2}, {TH_SCALAR_ceil, -1.5, 0, -1}, {TH_SCALAR_round, 2.5, 0, 2}, {TH_SCALAR_trunc, -1.7, 0, -1}, {TH_SCALAR_add, 1, 2, 3}, {TH_SCALAR_sub, 1, 2, -1},
      {TH_SCALAR_mul, 3, 2, 6}, {TH_SCALAR_div, 3, 2, 1.5}, {TH_SCALAR_rem, -5, 3, -2}, {TH_SCALAR_pow, 0.9, 10, 0.34867844}, {TH_SCALAR_max, 1, 2, 2}, {TH_SCALAR_min, 1, 2, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    NEAR(f32_of(cases[i].code, (float)cases[i].x, (float)cases[i].y), cases[i].want);
    NEAR(f64_of(cases[i].code, cases[i].x, cases[i].y), cases[i].want);
  }
  CHECK(isnan(f32_of(TH_SCALAR_max, NAN, 1)) && isnan(f32_of(TH_SCALAR_min, 1, NAN)) && isnan(f64_of(TH_SCALAR_max, 1, NAN)));
  CHECK(f32_of(TH_SCALAR_add, 16777216.0f, 1) == 16777216.0f); /* in float */
  CHECK(f64_of(TH_SCALAR_add, 16777216.0, 1) == 16777217.0);
  uint16_t half = 0x3f80, out = 0; /* bf16: 1 + 2^-9 is 1, 1 + 2^-7 is not */
  row r[] = {{TH_SCALAR_const, TH_DTYPE_none, TH_DTYPE_bf16, 0, 0, 0}, {TH_SCALAR_add, TH_DTYPE_bf16, TH_DTYPE_bf16, 0, REG, 0}};
  r[0].from = TH_DTYPE_bf16;
  CHECK_OK(run(r, 2, (th_dtype[]){TH_DTYPE_bf16}, (const void *[]){&half}, 1, 1.0 / 512, 0, &out));
  CHECK_INT(out, 0x3f80);
  CHECK_OK(run(r, 2, (th_dtype[]){TH_DTYPE_bf16}, (const void *[]){&half}, 1, 1.0 / 128, 0, &out));
  CHECK_INT(out, 0x3f81);
  half = 0x3c00; /* f16: 1 + 2^-10 */
  r[0].from = r[0].to = r[1].from = r[1].to = TH_DTYPE_f16;
  CHECK_OK(run(r, 2, (th_dtype[]){TH_DTYPE_f16}, (const void *[]){&half}, 1, 1.0 / 1024, 0, &out));
  CHECK_INT(out, 0x3c01);
}

static void integers(void) {
  CHECK_INT(int_of(TH_SCALAR_add, TH_DTYPE_i8, TH_DTYPE_i8, 127, 1) & 0xff, 0x80);
  CHECK_INT(int_of(TH_SCALAR_mul, TH_DTYPE_i64, TH_DTYPE_i64, INT64_MAX, 2), -2);
  CHECK_INT(int_of(TH_SCALAR_sub, TH_DTYPE_u32, TH_DTYPE_u32, 0, 1), 0xffffffff);
  CHECK_INT(int_of(TH_SCALAR_div, TH_DTYPE_i32, TH_DTYPE_i32, -7 & 0xffffffff, 2), -3 & 0xffffffff);
  CHECK_INT(int_of(TH_SCALAR_rem, TH_DTYPE_i64, TH_DTYPE_i64, -7, 2), -1);
  CHECK_INT(int_of(TH_SCALAR_div, TH_DTYPE_i64, TH_DTYPE_i64, INT64_MIN, -1), INT64_MIN);
  CHECK_INT(int_of(TH_SCALAR_pow, TH_DTYPE_i64, TH_DTYPE_i64, 3, 4), 81);
  CHECK_INT(int_of(TH_SCALAR_and, TH_DTYPE_i64, TH_DTYPE_i64, 6, 3), 2);
  CHECK_INT(int_of(TH_SCALAR_or, TH_DTYPE_i64, TH_DTYPE_i64, 6, 3), 7);
  CHECK_INT(int_of(TH_SCALAR_xor, TH_DTYPE_i64, TH_DTYPE_i64, 6, 3), 5);
  CHECK_INT(int_of(TH_SCALAR_not, TH_DTYPE_bool, TH_DTYPE_bool, 1, 0), 0);
  CHECK_INT(int_of(TH_SCALAR_not, TH_DTYPE_i64, TH_DTYPE_i64, 1, 0), -2);
  CHECK_INT(int_of(TH_SCALAR_max, TH_DTYPE_u64, TH_DTYPE_u64, -1, 5), -1);
  CHECK_INT(int_of(TH_SCALAR_max, TH_DTYPE_i64, TH_DTYPE_i64, -1, 5), 5);
  CHECK_INT(int_of(TH_SCALAR_lt, TH_DTYPE_u64, TH_DTYPE_bool, -1, 5), 0);
  CHECK_INT(int_of(TH_SCALAR_lt, TH_DTYPE_i64, TH_DTYPE_bool, -1, 5), 1);
  CHECK_INT(int_of(TH_SCALAR_eq, TH_DTYPE_i64, TH_DTYPE_bool, 5, 5), 1);
  CHECK_INT(int_of(TH_SCALAR_ne, TH_DTYPE_i64, TH_DTYPE_bool, 5, 5), 0);
  CHECK_INT(int_of(TH_SCALAR_convert, TH_DTYPE_i64, TH_DTYPE_u8, 300, 0), 44);
  CHECK_INT(int_of(TH_SCALAR_isfinite, TH_DTYPE_i64, TH_DTYPE_bool, 5, 5), 1);
  int64_t x = 1, zero = 0, out;
  row r = {TH_SCALAR_div, TH_DTYPE_i64, TH_DTYPE_i64, 0, 1, 0};
  CHECK_STATUS(run(&r, 1, (th_dtype[]){TH_DTYPE_i64, TH_DTYPE_i64}, (const void *[]){&x, &zero}, 2, 0, 0, &out), INVALID_ARGUMENT, "division by zero");
}

static void mixed(void) { /* isnan(x) ? 7 : convert(int) * c */
  float x = 2, out = 0;
  row r[] = {{TH_SCALAR_isnan, TH_DTYPE_f32, TH_DTYPE_bool, 0, 0, 0}, {TH_SCALAR_int, TH_DTYPE_i64, TH_DTYPE_i64, 0, 0, 0}, {TH_SCALAR_convert, TH_DTYPE_i64, TH_DTYPE_f32, REG + 1, 0, 0},
             {TH_SCALAR_const, TH_DTYPE_f32, TH_DTYPE_f32, 0, 0, 0}, {TH_SCALAR_mul, TH_DTYPE_f32, TH_DTYPE_f32, REG + 2, REG + 3, 0}, {TH_SCALAR_select, TH_DTYPE_f32, TH_DTYPE_f32, REG, 0, REG + 4}};
  CHECK_OK(run(r, 6, (th_dtype[]){TH_DTYPE_f32}, (const void *[]){&x}, 1, 1.5, 5, &out));
  CHECK(out == 7.5f);
  x = NAN;
  CHECK_OK(run(r, 6, (th_dtype[]){TH_DTYPE_f32}, (const void *[]){&x}, 1, 1.5, 5, &out));
  CHECK(isnan(out));
}

static void refused(void) {
  float x = 0, out;
  const void *data[] = {&x, &x};
  th_dtype f[] = {TH_DTYPE_f32, TH_DTYPE_f32}, i[] = {TH_DTYPE_i32, TH_DTYPE_i32};
  static const struct { row r; bool ints; const char *text; } cases[] = {
      {{TH_SCALAR_COUNT, TH_DTYPE_f32, TH_DTYPE_f32, 0, 0, 0}, false, "an opcode"},
      {{TH_SCALAR_add, TH_DTYPE_f32, TH_DTYPE_f32, 0, 2, 0}, false, "an operand"}, /* itself */
      {{TH_SCALAR_add, TH_DTYPE_f32, TH_DTYPE_f32, -1, 1, 0}, false, "an operand"},
      {{TH_SCALAR_neg, TH_DTYPE_f32, TH_DTYPE_f32, 0, 1, 0}, false, "an operand"},
      {{TH_SCALAR_const, TH_DTYPE_f32, TH_DTYPE_f32, 1, 0, 0}, false, "an operand"},
      {{TH_SCALAR_int, TH_DTYPE_f32, TH_DTYPE_f32, 1, 0, 0}, false, "an operand"},
      {{TH_SCALAR_add, TH_DTYPE_f64, TH_DTYPE_f64, 0, 1, 0}, false, "reads a f32 as f64"},
      {{TH_SCALAR_exp, TH_DTYPE_i32, TH_DTYPE_i32, 0, 0, 0}, true, "(exp) of i32"},
      {{TH_SCALAR_and, TH_DTYPE_f32, TH_DTYPE_f32, 0, 1, 0}, false, "(and) of f32"},
      {{TH_SCALAR_lt, TH_DTYPE_f32, TH_DTYPE_f32, 0, 1, 0}, false, "(lt) of f32 gives f32"},
      {{TH_SCALAR_select, TH_DTYPE_f32, TH_DTYPE_f32, 0, 1, 1}, false, "reads a f32 as bool"},
      {{TH_SCALAR_convert, TH_DTYPE_f32, TH_DTYPE_c64, 0, 0, 0}, false, "gives dtype"},
  };
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
    CHECK_STATUS(run(&cases[k].r, 1, cases[k].ints ? i : f, data, 2, 0, 0, &out), INVALID_ARGUMENT, cases[k].text);
}

/* As an optimizer's bias corrections: 148 components of 14 ops. */
static void speed(void) {
  enum { COMPONENTS = 148, OPS = 14 };
  static float steps[COMPONENTS];
  static th_tensor_in inputs[COMPONENTS];
  maker_init(&m, 1);
  for (int c = 0; c < COMPONENTS; c++) {
    steps[c] = (float)c;
    input(&m, 3, 1, TH_DTYPE_f32, -1);
    inputs[c] = (th_tensor_in){.data = &steps[c], .dtype = TH_DTYPE_f32};
  }
  for (int c = 0; c < COMPONENTS; c++) PUSH(&m, instr_tensors, c);
  for (int c = 0; c < COMPONENTS; c++) PUSH(&m, instr_tensors, c); /* in place */
  instruction(&m, TH_INSTR_SCALARS, 0, COMPONENTS, END);
  INTS(&m, COMPONENTS, 1, 1, OPS, OPS);
  int f = th_dtype_to_wire(TH_DTYPE_f32);
  INTS(&m, TH_SCALAR_const, f, f, 0, 0, 0, TH_SCALAR_add, f, f, 0, 1, 0, TH_SCALAR_const, f, f, 1, 0, 0, TH_SCALAR_pow, f, f, 3, 2, 0, TH_SCALAR_pow, f, f, 3, 2, 0);
  INTS(&m, TH_SCALAR_sub, f, f, 1, 4, 0, TH_SCALAR_sub, f, f, 1, 5, 0, TH_SCALAR_sqrt, f, f, 7, 0, 0, TH_SCALAR_div, f, f, 6, 8, 0, TH_SCALAR_mul, f, f, 9, 9, 0);
  INTS(&m, TH_SCALAR_add, f, f, 9, 9, 0, TH_SCALAR_mul, f, f, 9, 10, 0, TH_SCALAR_neg, f, f, 10, 0, 0, TH_SCALAR_add, f, f, 0, 1, 0);
  number(&m, 1), number(&m, 0.9), done(&m);
  m.p.has_arena_size = 1, m.p.arena_size = K(&m, 0);
  th_program *program;
  CHECK_OK(load_plan(&m, NULL, 0, &program));
  double best = 1e9;
  for (int k = 0; k < 50; k++) {
    th_run *call;
    struct timespec a, b;
    CHECK_OK(th_run_begin(th_program_plan(program, 0), inputs, COMPONENTS, &call));
    clock_gettime(CLOCK_MONOTONIC, &a);
    CHECK_OK(th_run_execute(call));
    clock_gettime(CLOCK_MONOTONIC, &b);
    th_run_end(call);
    double us = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
    if (us < best) best = us;
  }
  CHECK(steps[3] == 53);
  fprintf(stderr, "%d components of %d ops: %.1f us\n", COMPONENTS, OPS, best);
  th_program_free(program);
}

int main(void) {
  floats();
  integers();
  mixed();
  refused();
  speed();
  return 0;
}
