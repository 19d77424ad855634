/* The loops around elements: one C function for a fusion. A kernel is a row of phases, each with a domain:
 *   rows     a domain with reductions whose last dimension is reduced: loop over what is kept (threads), in it the reductions,
 *            then what is computed once a row, then the elements (vectorized);
 *   columns  reductions that keep the last dimension: blocks of columns (threads), accumulators side by side;
 *   whole    reductions of everything: a fixed number of parts, added in order, whatever the number of threads;
 *   plain    results of one shape without reductions. */
#include <stdio.h>
#include <string.h>

#include "executors/cpu/codegen.h"
#include "executors/cpu/cpu.h"

enum { COLUMNS = 64, ROWS = 128 /* that are added up in f32 */, PARTS = 32, SMALL = 8192 };

static const th_type *type_of(th_gen *g, th_value v) { return th_type_of(g->t, v); }

static bool same_dims(const th_type *a, const th_type *b) { return th_type_same_shape(a, b); }

static const char *product(th_gen *g, const th_dim *dims, uint32_t n) { return th_gen_dim(g, th_dim_product(g->c, dims, n)); }

static void parallel(th_gen *g, const char *more, const char *work) {
  th_gen_line(g, "#pragma omp parallel for%s num_threads(context->threads) if (%s > %d)", more, work, SMALL);
}

/* "for (r…)" over the product of `dims`, and the index of each. */
static void open_rows(th_gen *g, const th_dim *dims, uint32_t n, const char **index) {
  const char *r = th_gen_name(g, "r"), *rest = n > 1 ? th_gen_name(g, "q") : NULL;
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", r, r, product(g, dims, n), r);
  if (n == 1) index[0] = r;
  if (n < 2) return;
  th_gen_line(g, "int64_t %s = %s;", rest, r);
  for (uint32_t i = n; i-- > 0;) {
    index[i] = th_gen_name(g, "i");
    if (i) th_gen_line(g, "const int64_t %s = %s %% %s; %s /= %s;", index[i], rest, th_gen_dim(g, dims[i]), rest, th_gen_dim(g, dims[i]));
    else th_gen_line(g, "const int64_t %s = %s;", index[0], rest);
  }
}

static void store_all(th_gen *g, const th_type *shape, const char *const *index, const bool *done) {
  const char *names[64];
  for (uint32_t k = 0; k < g->body->n_outputs && k < 64; k++)
    if (!done[k] && same_dims(type_of(g, g->body->outputs[k]), shape)) names[k] = th_gen_element(g, g->body->outputs[k], index);
  for (uint32_t k = 0; k < g->body->n_outputs && k < 64; k++)
    if (!done[k] && same_dims(type_of(g, g->body->outputs[k]), shape)) th_gen_store(g, k, index, names[k]);
}

static bool wants(th_gen *g, const th_type *shape, const bool *done) {
  for (uint32_t k = 0; k < g->body->n_outputs; k++)
    if (!done[k] && same_dims(type_of(g, g->body->outputs[k]), shape)) return true;
  return false;
}

static void mark_done(th_gen *g, const th_type *shape, bool *done) {
  for (uint32_t k = 0; k < g->body->n_outputs; k++) done[k] |= same_dims(type_of(g, g->body->outputs[k]), shape);
}

/* A loop over the last open dimension with elements in it; vectorized when nothing in it is vectorized itself. */
static void element_loop(th_gen *g, const char *prefix, th_dim size, const char *before, const th_type *shape, const char **index, uint32_t at, const bool *done) {
  size_t mark = th_gen_mark(g);
  th_strbuf outer = g->s;
  g->s = th_strbuf_make(g->a);
  const char *i = index[at] = th_gen_name(g, "i");
  g->indent++;
  store_all(g, shape, index, done);
  g->indent--;
  const char *text = th_strbuf_text(&g->s), *n = th_gen_dim(g, size);
  g->s = outer;
  bool simd = !strstr(text, "#pragma");
  if (before) th_gen_line(g, before, simd ? " simd" : "", n);
  else if (simd) th_gen_line(g, "#pragma omp simd");
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", i, i, n, i);
  th_strbuf_add(&g->s, text);
  th_gen_close(g);
  th_gen_forget(g, mark);
  (void)prefix;
}

static bool walks_flat(th_gen *g, const th_type *shape) {
  for (uint32_t i = 0; i < g->body->n_inputs; i++) {
    th_value v = g->op->operands[i];
    const th_type *type = type_of(g, v);
    if (!type->rank) continue;
    if (!same_dims(type, shape) || memcmp(g->t->values[v].strides, th_contiguous_strides(g->c, type->dims, type->rank), type->rank * sizeof(th_dim))) return false;
  }
  for (uint32_t k = 0; k < g->body->n_outputs; k++) {
    const th_type *type = type_of(g, g->op->result + k);
    if (!same_dims(type, shape) || memcmp(g->t->values[g->op->result + k].strides, th_contiguous_strides(g->c, type->dims, type->rank), type->rank * sizeof(th_dim))) return false;
  }
  for (size_t i = 0; i < g->body->n_ops; i++) {
    const th_op *op = g->body->ops[i];
    bool ok = th_op_spec_get(op->kind)->traits & TH_POINTWISE || op->kind == TH_OP_const || op->kind == TH_OP_uniform;
    if (op->kind == TH_OP_broadcast || op->kind == TH_OP_reshape) ok = type_of(g, op->operands[0])->rank == 0;
    if (!ok) return false;
    const th_type *type = type_of(g, op->result);
    if (type->rank && !same_dims(type, shape)) return false;
  }
  return true;
}

static void plain(th_gen *g, const th_type *shape, bool *done) {
  const char *index[TH_MAX_RANK];
  size_t mark = th_gen_mark(g);
  uint32_t n = shape->rank;
  if (!n) {
    store_all(g, shape, index, done);
  } else if (walks_flat(g, shape)) {
    th_dim count = th_type_numel(g->c, shape);
    th_strbuf pragma = th_strbuf_make(g->a);
    th_strbuf_printf(&pragma, "#pragma omp parallel for%%s num_threads(context->threads) if (%%s > %d)", SMALL);
    size_t inner = th_gen_mark(g);
    th_strbuf outer = g->s;
    g->s = th_strbuf_make(g->a);
    g->flat = th_gen_name(g, "i");
    const char *i = g->flat;
    g->indent++;
    store_all(g, shape, index, done);
    g->indent--;
    g->flat = NULL;
    const char *text = th_strbuf_text(&g->s), *size = th_gen_dim(g, count);
    g->s = outer;
    parallel(g, strstr(text, "#pragma") ? "" : " simd", size);
    th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", i, i, size, i);
    th_strbuf_add(&g->s, text);
    th_gen_close(g);
    th_gen_forget(g, inner);
  } else if (n == 1) {
    element_loop(g, "i", shape->dims[0], th_arena_printf(g->a, "#pragma omp parallel for%%s num_threads(context->threads) if (%%s > %d)", SMALL), shape, index, 0, done);
  } else {
    parallel(g, "", product(g, shape->dims, n));
    open_rows(g, shape->dims, n - 1, index);
    th_type row = {.rank = n - 1, .dims = shape->dims};
    th_gen_hoist(g, &row, index, true);
    element_loop(g, "i", shape->dims[n - 1], NULL, shape, index, n - 1, done);
    th_gen_close(g);
  }
  th_gen_forget(g, mark);
  mark_done(g, shape, done);
}

/* Reductions of `domain` over `reduced`, the last dimension among them. */
static void rows(th_gen *g, const th_type *domain, const th_op *first, bool *done) {
  th_dim kept[TH_MAX_RANK];
  const char *outer[TH_MAX_RANK], *index[TH_MAX_RANK];
  uint32_t n_kept = 0, opened = 0, last = domain->rank - 1;
  for (uint32_t i = 0; i < domain->rank; i++)
    if (!th_gen_reduces(g->c, first, i)) kept[n_kept++] = domain->dims[i];
  th_type row = {.rank = n_kept, .dims = kept};
  size_t mark = th_gen_mark(g);
  parallel(g, "", product(g, domain->dims, domain->rank));
  open_rows(g, kept, n_kept, outer);
  th_gen_hoist(g, &row, outer, false);
  store_all(g, &row, outer, done);
  mark_done(g, &row, done);
  if (wants(g, domain, done)) {
    for (uint32_t i = 0, k = 0; i < domain->rank; i++)
      if (!th_gen_reduces(g->c, first, i)) index[i] = outer[k++];
    for (uint32_t i = 0; i < last; i++)
      if (th_gen_reduces(g->c, first, i)) {
        index[i] = th_gen_for(g, "i", domain->dims[i]);
        opened++;
      }
    element_loop(g, "i", domain->dims[last], NULL, domain, index, last, done);
    while (opened--) th_gen_close(g);
    mark_done(g, domain, done);
  }
  th_gen_close(g);
  th_gen_forget(g, mark);
}

static void columns(th_gen *g, const th_type *domain, const th_op *first, bool *done) {
  th_dim kept[TH_MAX_RANK];
  const char *outer[TH_MAX_RANK], *index[TH_MAX_RANK], *at[TH_MAX_RANK];
  uint32_t n_kept = 0, last = domain->rank - 1, opened = 0, around = 0, blocked = TH_NONE;
  int64_t block = ROWS, length;
  const th_op *ops[64];
  const char *acc[64], *sum[64];
  size_t n = 0;
  for (uint32_t i = 0; i < last; i++)
    if (!th_gen_reduces(g->c, first, i)) kept[n_kept++] = domain->dims[i];
  for (size_t i = 0; i < g->body->n_ops && n < 64; i++) {
    const th_op *op = g->body->ops[i];
    uint32_t k = th_gen_output_of(g, op->result);
    if (th_op_is_reduction(op) && same_dims(type_of(g, op->operands[0]), domain) && th_attr_equal(th_attr_get(op, "dims"), th_attr_get(first, "dims")) && k != TH_NONE && !done[k]) ops[n++] = op;
  }
  const char *size = th_gen_dim(g, domain->dims[last]);
  size_t mark = th_gen_mark(g);
  th_gen_line(g, "#pragma omp parallel for collapse(2) num_threads(context->threads) if (%s > %d)", product(g, domain->dims, domain->rank), SMALL);
  const char *r = th_gen_name(g, "r"), *b = th_gen_name(g, "b"), *w = th_gen_name(g, "w"), *j = th_gen_name(g, "j");
  th_gen_line(g, "for (int64_t %s = 0; %s < %s; %s++)", r, r, product(g, kept, n_kept), r);
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s += %d)", b, b, size, b, COLUMNS);
  th_gen_line(g, "const int64_t %s = %s - %s < %d ? %s - %s : %d;", w, size, b, COLUMNS, size, b, COLUMNS);
  const char *rest = th_gen_name(g, "q");
  th_gen_line(g, "int64_t %s = %s;", rest, r);
  for (uint32_t i = n_kept; i-- > 0;) {
    outer[i] = th_gen_name(g, "i");
    th_gen_line(g, "const int64_t %s = %s %% %s; %s /= %s;", outer[i], rest, th_gen_dim(g, kept[i]), rest, th_gen_dim(g, kept[i]));
  }
  for (size_t i = 0; i < n; i++) {
    th_dtype dtype = type_of(g, ops[i]->operands[0])->dtype;
    acc[i] = th_gen_name(g, "a");
    th_gen_line(g, "%s %s[%d]; for (int k = 0; k < %d; k++) %s[k] = %s;", th_gen_ctype(dtype), acc[i], COLUMNS, COLUMNS, acc[i], th_gen_reduce_start(ops[i]->kind, dtype));
    sum[i] = th_cpu_adds_in_blocks(g, ops[i], ROWS) ? th_gen_name(g, "a") : NULL;
    if (!sum[i]) continue;
    th_gen_line(g, "double %s[%d]; for (int k = 0; k < %d; k++) %s[k] = 0;", sum[i], COLUMNS, COLUMNS, sum[i]);
    blocked = 0;
  }
  for (uint32_t i = 0, k = 0; i < last; i++)
    if (!th_gen_reduces(g->c, first, i)) index[i] = outer[k++];
  for (uint32_t i = last; blocked != TH_NONE && i-- > 0;) { /* the innermost dimensions that are ROWS rows or less, and a part of the next */
    if (!th_gen_reduces(g->c, first, i)) continue;
    blocked = i;
    if (!th_dim_is_const(g->c, domain->dims[i], &length) || length > block) break;
    if (length) block /= length;
  }
  for (uint32_t i = 0; i < last; i++)
    if (th_gen_reduces(g->c, first, i)) {
      if (i == blocked) {
        index[i] = th_cpu_blocks(g, domain->dims[i], block);
        around = ++opened;
      } else {
        index[i] = th_gen_for(g, "k", domain->dims[i]);
      }
      opened++;
    }
  th_type lead = {.rank = last, .dims = domain->dims};
  size_t inside = th_gen_mark(g);
  th_gen_hoist(g, &lead, index, false);
  th_strbuf before = g->s;
  g->s = th_strbuf_make(g->a);
  g->indent++;
  index[last] = th_arena_printf(g->a, "(%s + %s)", b, j);
  for (size_t i = 0; i < n; i++) {
    const char *x = th_gen_element(g, ops[i]->operands[0], index);
    th_gen_line(g, "%s", th_gen_reduce_step(g, ops[i]->kind, type_of(g, ops[i]->operands[0])->dtype, th_arena_printf(g->a, "%s[%s]", acc[i], j), x));
  }
  g->indent--;
  const char *text = th_strbuf_text(&g->s);
  g->s = before;
  if (!strstr(text, "#pragma")) th_gen_line(g, "#pragma omp simd");
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", j, j, w, j);
  th_strbuf_add(&g->s, text);
  th_gen_close(g);
  for (; opened > around; opened--) th_gen_close(g);
  for (size_t i = 0; i < n; i++)
    if (sum[i]) th_gen_line(g, "for (int64_t %s = 0; %s < %s; %s++) { %s[%s] += %s[%s]; %s[%s] = 0; }", j, j, w, j, sum[i], j, acc[i], j, acc[i], j);
  while (opened--) th_gen_close(g);
  th_gen_forget(g, inside);
  th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", j, j, w, j);
  for (uint32_t i = 0; i < n_kept; i++) at[i] = outer[i];
  at[n_kept] = index[last];
  for (size_t i = 0; i < n; i++) {
    uint32_t k = th_gen_output_of(g, ops[i]->result);
    th_gen_store(g, k, at, th_arena_printf(g->a, sum[i] ? "(float)%s[%s]" : "%s[%s]", sum[i] ? sum[i] : acc[i], j));
    done[k] = true;
  }
  th_gen_close(g);
  th_gen_close(g);
  th_gen_forget(g, mark);
}

/* One reduction of everything to a scalar, which later phases find. */
static void whole(th_gen *g, const th_op *op) {
  const th_type *domain = type_of(g, op->operands[0]);
  const char *index[TH_MAX_RANK], *T = domain->dtype == TH_DTYPE_f32 || domain->dtype == TH_DTYPE_bf16 || domain->dtype == TH_DTYPE_f16 ? "double" : th_gen_ctype(domain->dtype);
  if (op->kind != TH_OP_reduce_sum) T = th_gen_ctype(domain->dtype);
  const char *parts = th_gen_name(g, "parts"), *acc = th_gen_name(g, "a"), *c = th_gen_name(g, "c"), *start = th_gen_reduce_start(op->kind, domain->dtype);
  uint32_t n = domain->rank, last = n - 1;
  const char *lead = n > 1 ? product(g, domain->dims, last) : th_gen_dim(g, domain->dims[0]);
  th_gen_line(g, "%s %s[%d];", T, parts, PARTS);
  size_t mark = th_gen_mark(g);
  parallel(g, "", product(g, domain->dims, n));
  th_gen_open(g, "for (int64_t %s = 0; %s < %d; %s++)", c, c, PARTS, c);
  th_gen_line(g, "%s %s = %s;", T, acc, start);
  const char *r = th_gen_name(g, "r");
  th_strbuf before;
  if (n > 1) {
    th_gen_open(g, "for (int64_t %s = %s * %s / %d; %s < %s * (%s + 1) / %d; %s++)", r, lead, c, PARTS, r, lead, c, PARTS, r);
    const char *rest = th_gen_name(g, "q");
    th_gen_line(g, "int64_t %s = %s;", rest, r);
    for (uint32_t i = last; i-- > 0;) {
      index[i] = th_gen_name(g, "i");
      th_gen_line(g, "const int64_t %s = %s %% %s; %s /= %s;", index[i], rest, th_gen_dim(g, domain->dims[i]), rest, th_gen_dim(g, domain->dims[i]));
    }
    th_type row = {.rank = last, .dims = domain->dims};
    th_gen_hoist(g, &row, index, true);
  }
  before = g->s;
  g->s = th_strbuf_make(g->a);
  g->indent++;
  const char *j = index[last] = n > 1 ? th_gen_name(g, "i") : r;
  const char *x = th_gen_element(g, op->operands[0], index);
  th_gen_line(g, "%s", th_gen_reduce_step(g, op->kind, domain->dtype, acc, x));
  g->indent--;
  const char *text = th_strbuf_text(&g->s);
  g->s = before;
  const char *clause = th_cpu_reduce_clause(op->kind, domain->dtype);
  if (!strstr(text, "#pragma")) th_gen_line(g, "#pragma omp simd reduction(%s : %s)", clause, acc);
  if (n > 1) th_gen_open(g, "for (int64_t %s = 0; %s < %s; %s++)", j, j, th_gen_dim(g, domain->dims[last]), j);
  else th_gen_open(g, "for (int64_t %s = %s * %s / %d; %s < %s * (%s + 1) / %d; %s++)", r, lead, c, PARTS, r, lead, c, PARTS, r);
  th_strbuf_add(&g->s, text);
  th_gen_close(g);
  if (n > 1) th_gen_close(g);
  th_gen_line(g, "%s[%s] = %s;", parts, c, acc);
  th_gen_close(g);
  th_gen_forget(g, mark);
  const char *sum = th_gen_name(g, "a"), *name = th_gen_name(g, "v");
  th_gen_line(g, "%s %s = %s;", T, sum, start);
  th_gen_line(g, "for (int k = 0; k < %d; k++) %s", PARTS, th_gen_reduce_step(g, op->kind, domain->dtype, sum, th_arena_printf(g->a, "%s[k]", parts)));
  th_gen_line(g, "const %s %s = (%s)%s;", th_gen_ctype(domain->dtype), name, th_gen_ctype(domain->dtype), sum);
  th_memo memo = {op->result, "", name};
  TH_PUSH(g->a, g->memos, g->n_memos, g->memos_capacity, memo);
}

static void phases(th_gen *g) {
  bool *done = TH_ARENA_ARRAY(g->a, bool, g->body->n_outputs + 1);
  th_type scalar = {0};
  th_gen_hoist(g, &scalar, NULL, true);
  for (size_t i = 0; i < g->body->n_ops; i++) {
    const th_op *op = g->body->ops[i];
    if (th_op_is_special(op)) {
      th_cpu_special(g, op);
      for (uint32_t k = 0; k < g->body->n_outputs; k++)
        for (uint32_t r = 0; r < op->n_results; r++) done[k] |= g->body->outputs[k] == op->result + r;
      continue;
    }
    if (!th_op_is_reduction(op)) continue;
    const th_type *domain = type_of(g, op->operands[0]), *result = type_of(g, op->result);
    if (!domain->rank) continue;
    if (!result->rank) whole(g, op);
    else if (th_gen_reduces(g->c, op, domain->rank - 1)) {
      if (wants(g, result, done) || wants(g, domain, done)) rows(g, domain, op, done);
    } else if (th_gen_output_of(g, op->result) != TH_NONE && !done[th_gen_output_of(g, op->result)]) columns(g, domain, op, done);
  }
  for (uint32_t k = 0; k < g->body->n_outputs; k++)
    if (!done[k]) plain(g, type_of(g, g->body->outputs[k]), done);
}

th_status th_cpu_emit(const th_options *options, const th_trace *t, const th_op *op, th_kernel_source *out) {
  th_arena *a = th_context_arena(t->context);
  th_gen g = {.t = t, .op = op, .body = t->graphs[th_attr_get(op, "body")->graph], .c = t->context, .a = a, .s = th_strbuf_make(a), .index_type = "int64_t",
              .load = th_gen_load, .reduce = th_cpu_reduction};
  if (g.body->n_outputs > 64) return TH_ERROR(UNIMPLEMENTED, "cpu: a kernel has %u results, want at most 64", g.body->n_outputs);
  th_gen_open(&g, "int %s(void *const *buffers, const int64_t *sizes, const double *scalars, const th_kernel_context *context)", TH_KERNEL_NAME);
  th_gen_line(&g, "int th_bad = 0;");
  for (uint32_t i = 0; i < op->n_operands; i++)
    th_gen_line(&g, "const %s *p%u = buffers[%u];", th_dtype_c_name(th_type_of(t, op->operands[i])->dtype), i, i);
  for (uint32_t i = 0; i < op->n_results; i++)
    th_gen_line(&g, "%s *o%u = buffers[%u];", th_dtype_c_name(th_type_of(t, op->result + i)->dtype), i, op->n_operands + i);
  phases(&g);
  th_gen_line(&g, "(void)sizes, (void)scalars, (void)context;");
  th_gen_line(&g, "return th_bad;");
  th_gen_close(&g);
  if (g.status) return g.status;
  *out = (th_kernel_source){.text = th_strbuf_text(&g.s), .n_sizes = (uint32_t)g.n_sizes, .sizes = g.sizes};
  (void)options;
  return TH_OK;
}
