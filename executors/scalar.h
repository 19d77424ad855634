/* Programs over rank-0 values in host memory: what an instruction of kind 7 (proto/plan.proto) carries. The host runs it, whatever the
 * plan's device: step counts, bias corrections, learning rates. One program is run for each of n_components components, each with
 * inputs and outputs of its own. Shared by both halves of the executors: the compile half writes it, executors/run/scalar.c reads it.
 *
 *   instr_ints     n_components n_inputs n_outputs n_ops | n_outputs registers that are the outputs |
 *                  for each op: opcode, dtype of its operands, dtype of its result (both as on the wire), a, b, c |
 *                  extra integers, any expression; all before them are constants
 *   instr_floats   values of `const`
 *   instr_tensors  the inputs of component 0, of component 1, ... | the outputs of component 0, ...; instr_outputs is n_components * n_outputs
 *
 * Registers: 0 .. n_inputs - 1 are a component's inputs, then one for each op. An op reads registers before its own; a, b and c that it
 * does not use are 0. const: a is a float's index; int: a is an extra integer's, 0 the first. select: a is a bool, b and c are operands.
 * Comparisons, isnan and isfinite give a bool; convert gives any dtype; const and int the result's, and their operands' is not looked at;
 * all others give the dtype of their operands. Meanings: ir/ops.def. f32 is computed in float, f16 and bf16 in float and rounded, f64 in
 * double; integers wrap. An input has one dtype in all components, and an output is of its register's. */
#ifndef THUNDER_EXECUTORS_SCALAR_H
#define THUNDER_EXECUTORS_SCALAR_H

/* X(name, operands, of): of = F floats, I integers and bools, A any. Numbers are on the wire: new rows at the end. */
#define TH_SCALAR_OPS(X)                                                                                                                                   \
  X(const, 0, A) X(int, 0, A) X(neg, 1, A) X(abs, 1, A) X(sign, 1, A) X(exp, 1, F) X(exp2, 1, F) X(log, 1, F) X(log2, 1, F) X(log1p, 1, F) X(expm1, 1, F)  \
  X(sqrt, 1, F) X(rsqrt, 1, F) X(reciprocal, 1, F) X(sin, 1, F) X(cos, 1, F) X(tanh, 1, F) X(floor, 1, A) X(ceil, 1, A) X(round, 1, A) X(trunc, 1, A)      \
  X(isnan, 1, A) X(isfinite, 1, A) X(not, 1, I) X(convert, 1, A) X(add, 2, A) X(sub, 2, A) X(mul, 2, A) X(div, 2, A) X(rem, 2, A) X(pow, 2, A)             \
  X(max, 2, A) X(min, 2, A) X(and, 2, I) X(or, 2, I) X(xor, 2, I) X(eq, 2, A) X(ne, 2, A) X(lt, 2, A) X(le, 2, A) X(gt, 2, A) X(ge, 2, A) X(select, 3, A)

typedef enum th_scalar_code {
#define X(name, operands, of) TH_SCALAR_##name,
  TH_SCALAR_OPS(X)
#undef X
  TH_SCALAR_COUNT
} th_scalar_code;

enum { TH_SCALAR_HEAD = 4, TH_SCALAR_OP_INTS = 6, TH_SCALAR_REGISTERS = 512 /* n_inputs + n_ops at most */ };

#endif
