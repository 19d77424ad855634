/* Reductions as loops: sums of many f32 numbers in blocks, vectorized where nothing in them is. */
#include <inttypes.h>
#include <string.h>

#include "executors/cpu/cpu.h"

const char *th_cpu_reduce_clause(th_op_kind kind, th_dtype dtype) {
  if (kind == TH_OP_reduce_sum) return dtype == TH_DTYPE_bool ? "|" : "+";
  if (kind == TH_OP_reduce_prod) return "*";
  if (kind == TH_OP_reduce_max) return th_dtype_is_float(dtype) ? "thmax" : "max";
  if (kind == TH_OP_reduce_min) return th_dtype_is_float(dtype) ? "thmin" : "min";
  return kind == TH_OP_reduce_any ? "|" : "&";
}

bool th_cpu_adds_in_blocks(th_gen *g, const th_op *op, int64_t most) {
  const th_type *type = th_type_of(g->t, op->operands[0]);
  int64_t n = 1, size;
  if (op->kind != TH_OP_reduce_sum || strcmp(th_gen_ctype(type->dtype), "float")) return false;
  for (uint32_t i = 0; i < type->rank; i++) {
    if (!th_gen_reduces(g->c, op, i)) continue;
    if (!th_dim_is_const(g->c, type->dims[i], &size) || size > most) return true;
    n = n * size > most ? most + 1 : n * size;
  }
  return n > most;
}

/* A loop around vectorized ones that gcc must not take apart: what it unrolls before it vectorizes, it does not vectorize. */
static void keep_loop(th_gen *g) { th_gen_line(g, "#pragma GCC unroll 1"); }

static void open_blocks(th_gen *g, const char *n, int64_t block, const char **from, const char **to) {
  const char *b = *from = th_gen_name(g, "b"), *e = *to = th_gen_name(g, "e");
  keep_loop(g);
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s += %" PRId64 ")", b, b, n, b, block);
  th_gen_line(g, "const int64_t %s = %s - %s < %" PRId64 " ? %s : %s + %" PRId64 ";", e, n, b, block, n, b, block);
}

const char *th_cpu_blocks(th_gen *g, th_dim size, int64_t block) {
  const char *from, *to, *i = th_gen_name(g, "k");
  open_blocks(g, th_gen_dim(g, size), block, &from, &to);
  th_gen_open(g, "for (int64_t %s = %s; %s < %s; %s++)", i, from, i, to, i);
  return i;
}

const char *th_cpu_reduction(th_gen *g, const th_op *op, const char *const *index) {
  enum { BLOCK = 512 }; /* elements; each lane of a vector of 8 adds 64 of them in f32, and the sums of blocks are added in f64 */
  const th_type *type = th_type_of(g->t, op->operands[0]);
  const char *inner[TH_MAX_RANK], *acc = th_gen_name(g, "a"), *sum = NULL, *from = "0", *to = NULL;
  uint32_t last = TH_NONE, open = 0;
  const char *flat = g->flat;
  int64_t size;
  g->flat = NULL;
  if (th_cpu_adds_in_blocks(g, op, BLOCK)) sum = th_gen_name(g, "a");
  if (sum) th_gen_line(g, "double %s = 0;", sum);
  else th_gen_line(g, "%s %s = %s;", th_gen_ctype(type->dtype), acc, th_gen_reduce_start(op->kind, type->dtype));
  for (uint32_t i = 0, kept = 0; i < type->rank; i++)
    if (th_gen_reduces(g->c, op, i)) last = i;
    else inner[i] = index[kept++];
  size_t mark = th_gen_mark(g);
  for (uint32_t i = 0; i < type->rank && last != TH_NONE; i++)
    if (th_gen_reduces(g->c, op, i) && i != last) {
      if (sum) keep_loop(g);
      inner[i] = th_gen_for(g, "k", type->dims[i]);
      open++;
    }
  if (last != TH_NONE) to = th_gen_dim(g, type->dims[last]);
  if (sum && !(th_dim_is_const(g->c, type->dims[last], &size) && size <= BLOCK)) {
    open_blocks(g, to, BLOCK, &from, &to);
    open++;
  }
  th_strbuf before = g->s;
  g->s = th_strbuf_make(g->a);
  if (last != TH_NONE) {
    g->indent++;
    inner[last] = th_gen_name(g, "k");
  }
  const char *x = th_gen_element(g, op->operands[0], inner);
  th_gen_line(g, "%s", th_gen_reduce_step(g, op->kind, type->dtype, acc, x));
  if (last != TH_NONE) g->indent--;
  const char *text = th_strbuf_text(&g->s);
  g->s = before;
  bool simd = !strstr(text, "#pragma"); /* a simd region must not hold another one */
  if (sum) th_gen_line(g, "%s %s = 0;", simd ? "float" : "double", acc);
  if (last != TH_NONE) {
    if (simd) th_gen_line(g, "#pragma omp simd reduction(%s : %s)", th_cpu_reduce_clause(op->kind, type->dtype), acc);
    th_gen_open(g, "for (int64_t %s = %s; %s < %s; %s++)", inner[last], from, inner[last], to, inner[last]);
  }
  th_strbuf_add(&g->s, text);
  if (last != TH_NONE) th_gen_close(g);
  if (sum) th_gen_line(g, "%s += %s;", sum, acc);
  while (open--) th_gen_close(g);
  th_gen_forget(g, mark);
  g->flat = flat;
  return sum ? th_gen_variable(g, type->dtype, th_arena_printf(g->a, "(float)%s", sum)) : acc;
}
