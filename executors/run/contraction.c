#include "executors/run/contraction.h"

#include <string.h>

static bool put(uint32_t *seen, const int64_t *list, int64_t i, uint32_t rank, uint8_t *to) {
  int64_t d = list[i];
  if (d < 0 || d >= rank || *seen >> d & 1) return false;
  *seen |= 1u << d;
  *to = (uint8_t)d;
  return true;
}

th_status th_contraction_read(const int64_t *ints, uint32_t n_ints, const th_view *l, const th_view *r, const th_view *out, th_contraction *c) {
  memset(c, 0, sizeof *c);
  int64_t nb = n_ints >= 2 ? ints[0] : -1, nc = n_ints >= 2 ? ints[1] : -1;
  if (nb < 0 || nc < 0 || nb > TH_RUN_RANK || nc > TH_RUN_RANK || n_ints < 2 + 2 * nb + 2 * nc || nb + nc > l->rank || nb + nc > r->rank ||
      out->rank != l->rank + r->rank - nb - 2 * nc)
    return TH_ERROR(INVALID_ARGUMENT, "dot: ranks %u, %u, %u do not fit %lld batch and %lld contracted dimensions", l->rank, r->rank, out->rank,
                    (long long)nb, (long long)nc);
  const int64_t *lb = ints + 2, *rb = lb + nb, *lc = rb + nb, *rc = lc + nc;
  uint32_t rows = l->rank - (uint32_t)(nb + nc), columns = r->rank - (uint32_t)(nb + nc), in_l = 0, in_r = 0;
  for (int64_t i = 0; i < nb + nc; i++) {
    bool batch = i < nb;
    uint8_t *x = &c->lhs[batch ? i : i + rows], *y = &c->rhs[i];
    if (!put(&in_l, batch ? lb : lc, batch ? i : i - nb, l->rank, x) || !put(&in_r, batch ? rb : rc, batch ? i : i - nb, r->rank, y) ||
        l->dims[*x] != r->dims[*y])
      return TH_ERROR(INVALID_ARGUMENT, "dot: %s dimensions %lld of lhs and %lld of rhs do not fit", batch ? "batch" : "contracted",
                      (long long)(batch ? lb[i] : lc[i - nb]), (long long)(batch ? rb[i] : rc[i - nb]));
  }
  uint32_t at_l = (uint32_t)nb, at_r = (uint32_t)(nb + nc);
  for (uint32_t d = 0; d < l->rank; d++)
    if (!(in_l >> d & 1)) c->lhs[at_l++] = (uint8_t)d;
  for (uint32_t d = 0; d < r->rank; d++)
    if (!(in_r >> d & 1)) c->rhs[at_r++] = (uint8_t)d;
  for (uint32_t d = 0; d < out->rank; d++) {
    int64_t want = d < nb + rows ? l->dims[c->lhs[d]] : r->dims[c->rhs[nb + nc + d - nb - rows]];
    if (out->dims[d] != want)
      return TH_ERROR(INVALID_ARGUMENT, "dot: dimension %u of the result is %lld, want %lld", d, (long long)out->dims[d], (long long)want);
  }
  c->n_batch = (uint32_t)nb, c->n_rows = rows, c->n_contract = (uint32_t)nc, c->n_columns = columns;
  return TH_OK;
}

th_walk th_walk_group(const th_view *v, const uint8_t *dims, uint32_t n) {
  th_walk w = {1, 0, true};
  for (uint32_t i = n; i-- > 0;) {
    int64_t size = v->dims[dims[i]], stride = v->strides[dims[i]];
    if (size == 1) continue;
    if (w.size == 1) w.stride = stride;
    else if (stride != w.size * w.stride) w.one = false;
    w.size *= size;
  }
  return w;
}

static bool columns_walk(int64_t rows, int64_t row_stride, int64_t columns, int64_t column_stride, int64_t *ld) {
  *ld = rows > 1 ? rows : 1;
  if (!rows || !columns) return true;
  if ((rows > 1 && row_stride != 1) || (columns > 1 && (column_stride < rows || column_stride < 1))) return false;
  if (columns > 1) *ld = column_stride;
  return true;
}

bool th_matrix_walk(int64_t rows, int64_t row_stride, int64_t columns, int64_t column_stride, bool *trans, int64_t *ld) {
  int64_t across;
  *trans = false;
  bool down = columns_walk(rows, row_stride, columns, column_stride, ld);
  if (down && (rows > 1 || columns <= 1)) return true;
  if (columns_walk(columns, column_stride, rows, row_stride, &across)) { /* of one row: its elements as a column, if they lie so */
    *trans = true;
    *ld = across;
    return true;
  }
  return down;
}

/* How cublaslt.matmul's epilogues use the views. */
enum { NONE, OPERAND_2, RESULT_1 };
/* of_rows: its vector is. octets: its aux is the library's own, with leading dimension and batch strides that are multiples of 8. adds: an
 * operand to the product, so that an empty product is not all there is. */
static const struct { const char *name; uint8_t operands, results, aux, vector; bool of_rows, octets, adds; } epilogues[TH_EPILOGUE_COUNT] = {
    [TH_EPILOGUE_NONE] = {"none", 2, 1, NONE, NONE, .of_rows = false},
    [TH_EPILOGUE_BIAS] = {"bias", 3, 1, NONE, OPERAND_2, .adds = true},
    [TH_EPILOGUE_GELU] = {"gelu", 2, 2, RESULT_1, NONE, .octets = true},
    [TH_EPILOGUE_BIAS_GELU] = {"bias_gelu", 3, 2, RESULT_1, OPERAND_2, .octets = true, .adds = true},
    [TH_EPILOGUE_DGELU] = {"dgelu", 3, 1, OPERAND_2, NONE, .octets = true},
    [TH_EPILOGUE_DGELU_SUM] = {"dgelu_sum", 3, 2, OPERAND_2, RESULT_1, .octets = true},
    [TH_EPILOGUE_ADD] = {"add", 3, 1, OPERAND_2, NONE, .adds = true},
    [TH_EPILOGUE_LHS_SUM] = {"lhs_sum", 2, 2, NONE, RESULT_1, .of_rows = true}};
static const char *const part_names[TH_MATMUL_PARTS] = {"lhs", "rhs", "the result", "the matrix beside the result", "the bias or sum"};

typedef enum role { BATCH, ROW, COLUMN, CONTRACTED, TAKEN } role;
typedef struct loop { role role; int64_t size, strides[TH_MATMUL_PARTS]; } loop;

/* What a search over ways to make the product looks at. `relaxed`: as if the epilogue's own layouts fitted. */
typedef struct search { loop loops[2 * TH_RUN_RANK]; uint32_t n; const loop *k; bool relaxed; int64_t best; uint32_t row, column; } search;

static int64_t times(int64_t a, int64_t b) {
  int64_t c;
  return __builtin_mul_overflow(a, b, &c) ? INT64_MAX : c;
}

static int64_t product(const th_view *v, const uint8_t *dims, uint32_t n) {
  int64_t size = 1;
  for (uint32_t i = 0; i < n; i++) size = v->dims[dims[i]] && size ? times(size, v->dims[dims[i]]) : 0;
  return size;
}

static bool overlaps(const th_view *v) { /* says yes to some that do not: dimensions that interleave */
  bool done[TH_RUN_RANK] = {0};
  int64_t span = 1, more; /* elements from the first to the last of the dimensions done */
  for (uint32_t i = 0; i < v->rank; i++)
    if (!v->dims[i]) return false;
  for (;;) {
    uint32_t least = v->rank;
    for (uint32_t i = 0; i < v->rank; i++)
      if (!done[i] && v->dims[i] > 1 && (least == v->rank || v->strides[i] < v->strides[least])) least = i;
    if (least == v->rank) return false;
    done[least] = true;
    more = times(v->dims[least] - 1, v->strides[least]);
    if (v->strides[least] < span || __builtin_add_overflow(span, more, &span)) return true;
  }
}

static th_status check_views(const th_matmul_plan *p, const th_contraction *c) {
  const th_view *l = p->views[TH_MATMUL_LHS], *r = p->views[TH_MATMUL_RHS], *out = p->views[TH_MATMUL_RESULT];
  const th_view *aux = p->views[TH_MATMUL_AUX], *vector = p->views[TH_MATMUL_VECTOR];
  bool half = l->dtype == TH_DTYPE_f16 || l->dtype == TH_DTYPE_bf16;
  if (!half && l->dtype != TH_DTYPE_f32 && l->dtype != TH_DTYPE_f64)
    return TH_ERROR(UNIMPLEMENTED, "operands of %s; f32, f64, bf16 and f16 are known", th_dtype_name(l->dtype));
  if (r->dtype != l->dtype || (out->dtype != l->dtype && !(half && out->dtype == TH_DTYPE_f32)))
    return TH_ERROR(INVALID_ARGUMENT, "a product of %s and %s into %s: the operands must be alike, the result too or f32", th_dtype_name(l->dtype),
                    th_dtype_name(r->dtype), th_dtype_name(out->dtype));
  for (int i = TH_MATMUL_AUX; i <= TH_MATMUL_VECTOR; i++)
    if (p->views[i] && p->views[i]->dtype != out->dtype)
      return TH_ERROR(INVALID_ARGUMENT, "%s is %s, the result %s: they must be alike", part_names[i], th_dtype_name(p->views[i]->dtype), th_dtype_name(out->dtype));
  if (aux && (aux->rank != out->rank || memcmp(aux->dims, out->dims, out->rank * sizeof *out->dims)))
    return TH_ERROR(INVALID_ARGUMENT, "%s is not shaped as the result", part_names[TH_MATMUL_AUX]);
  if (vector) {
    uint32_t skip = c->n_batch, own = epilogues[p->epilogue].of_rows ? c->n_rows : c->n_columns;
    uint32_t from = skip + (epilogues[p->epilogue].of_rows ? 0 : c->n_rows);
    bool batched = vector->rank == skip + own, fits = batched || (vector->rank == own && epilogues[p->epilogue].vector == OPERAND_2);
    for (uint32_t i = 0; fits && i < vector->rank; i++)
      fits = vector->dims[i] == out->dims[!batched ? from + i : i < skip ? i : from + i - skip];
    if (!fits) return TH_ERROR(INVALID_ARGUMENT, "%s has the wrong shape", part_names[TH_MATMUL_VECTOR]);
  }
  for (int i = 0; i < TH_MATMUL_PARTS; i++) {
    const th_view *v = p->views[i];
    bool written = i == TH_MATMUL_RESULT || (i == TH_MATMUL_AUX && epilogues[p->epilogue].aux == RESULT_1) ||
                   (i == TH_MATMUL_VECTOR && epilogues[p->epilogue].vector == RESULT_1);
    for (uint32_t d = 0; v && d < v->rank; d++)
      if (v->dims[d] < 0 || (v->dims[d] > 1 && v->strides[d] < 0))
        return TH_ERROR(INVALID_ARGUMENT, "dimension %u of %s has size %lld and stride %lld", d, part_names[i], (long long)v->dims[d], (long long)v->strides[d]);
    if (v && written && overlaps(v)) return TH_ERROR(INVALID_ARGUMENT, "%s overlaps itself", part_names[i]);
  }
  return TH_OK;
}

static void add(search *s, role kind, int64_t size, int64_t lhs, int64_t rhs, int64_t out, int64_t aux, int64_t vector) {
  if (size != 1) s->loops[s->n++] = (loop){kind, size, {lhs, rhs, out, aux, vector}};
}

static void gather(search *s, const th_matmul_plan *p, const th_contraction *c) {
  const th_view *l = p->views[TH_MATMUL_LHS], *r = p->views[TH_MATMUL_RHS], *out = p->views[TH_MATMUL_RESULT];
  const th_view *aux = p->views[TH_MATMUL_AUX], *vector = p->views[TH_MATMUL_VECTOR];
  uint32_t nb = c->n_batch, nr = c->n_rows;
  bool of_rows = vector && epilogues[p->epilogue].of_rows, of_columns = vector && !of_rows;
  bool batched = vector && vector->rank == nb + (of_rows ? nr : c->n_columns);
  const int64_t *vs = vector ? vector->strides + (batched ? nb : 0) : NULL;
  for (uint32_t i = 0; i < nb; i++)
    add(s, BATCH, out->dims[i], l->strides[c->lhs[i]], r->strides[c->rhs[i]], out->strides[i], aux ? aux->strides[i] : 0, batched ? vector->strides[i] : 0);
  for (uint32_t i = 0; i < nr; i++)
    add(s, ROW, out->dims[nb + i], l->strides[c->lhs[nb + i]], 0, out->strides[nb + i], aux ? aux->strides[nb + i] : 0, of_rows ? vs[i] : 0);
  for (uint32_t i = 0, d = nb + nr; i < c->n_columns; i++, d++)
    add(s, COLUMN, out->dims[d], 0, r->strides[c->rhs[nb + c->n_contract + i]], out->strides[d], aux ? aux->strides[d] : 0, of_columns ? vs[i] : 0);
  for (uint32_t i = 0; i < c->n_contract; i++) {
    uint32_t x = c->lhs[nb + nr + i], y = c->rhs[nb + i];
    add(s, CONTRACTED, l->dims[x], l->strides[x], r->strides[y], 0, 0, 0);
  }
  for (uint32_t i = 0; i < s->n; i++) { /* a batch over which one operand stands still is more rows, or columns, of the other */
    loop *a = &s->loops[i];
    if (a->role != BATCH) continue;
    if (!a->strides[TH_MATMUL_RHS] && !(of_columns && a->strides[TH_MATMUL_VECTOR])) a->role = ROW;
    else if (!a->strides[TH_MATMUL_LHS] && !of_rows) a->role = COLUMN;
  }
}

static bool follows(const loop *outer, const loop *inner) {
  for (int v = 0; v < TH_MATMUL_PARTS; v++)
    if (outer->strides[v] != times(inner->size, inner->strides[v])) return false;
  return outer->role == inner->role && times(outer->size, inner->size) <= INT32_MAX;
}

static void merge(search *s) {
  for (uint32_t i = 0; i < s->n; i++)
    for (uint32_t j = 0; j < s->n; j++)
      if (i != j && follows(&s->loops[i], &s->loops[j])) {
        s->loops[j].size *= s->loops[i].size;
        s->loops[i] = s->loops[--s->n];
        i = UINT32_MAX; /* once more from 0 */
        break;
      }
}

/* The product of the rows and columns of two loops, with D the result or its transpose. False: it cannot be walked so. */
static bool lay(const search *s, const loop *row, const loop *column, bool swapped, th_matmul_plan *p) {
  static const loop one = {.size = 1};
  const loop *k = s->k ? s->k : &one, *a = swapped ? column : row, *b = swapped ? row : column;
  const int va = swapped ? TH_MATMUL_RHS : TH_MATMUL_LHS, vb = swapped ? TH_MATMUL_LHS : TH_MATMUL_RHS;
  p->swapped = swapped;
  p->m = a->size, p->n = b->size, p->k = k->size;
  if (!th_matrix_walk(p->m, a->strides[va], p->k, k->strides[va], &p->trans_a, &p->lda)) return false;
  if (!th_matrix_walk(p->k, k->strides[vb], p->n, b->strides[vb], &p->trans_b, &p->ldb)) return false;
  if (!columns_walk(p->m, a->strides[TH_MATMUL_RESULT], p->n, b->strides[TH_MATMUL_RESULT], &p->ldd)) return false;
  p->ld_aux = 0;
  if (s->relaxed) return true;
  if (p->views[TH_MATMUL_AUX]) {
    if (!columns_walk(p->m, a->strides[TH_MATMUL_AUX], p->n, b->strides[TH_MATMUL_AUX], &p->ld_aux)) return false;
    bool octets = epilogues[p->epilogue].octets;
    if (octets && p->n == 1) p->ld_aux = (p->ld_aux + 7) / 8 * 8;
    if (octets && p->ld_aux % 8) return false;
  }
  if (!p->views[TH_MATMUL_VECTOR]) return true;
  bool of_rows = epilogues[p->epilogue].of_rows;
  const loop *along = of_rows ? row : column;
  if ((!of_rows && !swapped) || (along->size > 1 && along->strides[TH_MATMUL_VECTOR] != 1)) return false;
  for (uint32_t i = 0; i < s->n; i++) { /* a sum over rows, or of lhs once, is made in one product */
    role r = s->loops[i].role;
    if (epilogues[p->epilogue].vector == RESULT_1 && r == (of_rows ? COLUMN : ROW) && &s->loops[i] != row && &s->loops[i] != column) return false;
  }
  return true;
}

static bool has(const search *s, role kind) {
  for (uint32_t i = 0; i < s->n; i++)
    if (s->loops[i].role == kind) return true;
  return false;
}

static bool find(search *s, th_matmul_plan *p) {
  static const loop one = {.size = 1};
  th_matmul_plan at = *p;
  bool rows = has(s, ROW), columns = has(s, COLUMN);
  s->best = 0;
  for (uint32_t i = 0; i <= s->n; i++) { /* s->n: no loop, where there is none */
    if (i < s->n ? s->loops[i].role != ROW : rows) continue;
    for (uint32_t j = 0; j <= s->n; j++) {
      if (j < s->n ? s->loops[j].role != COLUMN : columns) continue;
      for (int swapped = 1; swapped >= 0; swapped--) {
        if (!lay(s, i < s->n ? &s->loops[i] : &one, j < s->n ? &s->loops[j] : &one, swapped, &at)) continue;
        int64_t size = times(at.m, at.n);
        if (size < s->best || (size == s->best && at.m <= p->m)) continue;
        s->best = size, s->row = i, s->column = j;
        *p = at;
      }
    }
  }
  return s->best > 0;
}

static th_status refuse(search *s, th_matmul_plan *p, const th_contraction *c) {
  const th_view *l = p->views[TH_MATMUL_LHS], *r = p->views[TH_MATMUL_RHS];
  s->relaxed = true;
  if (s->k && find(s, p))
    return TH_ERROR(UNIMPLEMENTED, "epilogue %s: %s", epilogues[p->epilogue].name,
                    !p->swapped && p->views[TH_MATMUL_VECTOR] && !epilogues[p->epilogue].of_rows
                        ? "the columns of the result do not have stride 1"
                        : "its matrix lies otherwise than the result or its leading dimension is no multiple of 8, its vector has gaps, or "
                          "its sum takes more than one product");
  const char *why = "no unit stride in its rows or columns, or overlapping ones";
  if (!s->k) { /* more than one contracted loop */
    bool lhs = !th_walk_group(l, c->lhs + c->n_batch + c->n_rows, c->n_contract).one;
    return TH_ERROR(INVALID_ARGUMENT, "%s cannot be walked: its contracted dimensions take more than one stride%s", part_names[lhs ? TH_MATMUL_LHS : TH_MATMUL_RHS],
                    lhs || !th_walk_group(r, c->rhs + c->n_batch, c->n_contract).one ? "" : " in the order that lhs has");
  }
  static const loop one = {.size = 1};
  bool can[3] = {false, false, false}, rows = has(s, ROW), columns = has(s, COLUMN), trans;
  int64_t ld;
  for (uint32_t i = 0; i <= s->n; i++)
    for (uint32_t j = 0; j <= s->n; j++) {
      const loop *a = i < s->n ? &s->loops[i] : &one, *b = j < s->n ? &s->loops[j] : &one;
      if ((i < s->n ? a->role != ROW : rows) || (j < s->n ? b->role != COLUMN : columns)) continue;
      can[0] |= th_matrix_walk(a->size, a->strides[TH_MATMUL_LHS], s->k->size, s->k->strides[TH_MATMUL_LHS], &trans, &ld);
      can[1] |= th_matrix_walk(s->k->size, s->k->strides[TH_MATMUL_RHS], b->size, b->strides[TH_MATMUL_RHS], &trans, &ld);
      can[2] |= th_matrix_walk(a->size, a->strides[TH_MATMUL_RESULT], b->size, b->strides[TH_MATMUL_RESULT], &trans, &ld);
    }
  for (int v = 0; v < 3; v++)
    if (!can[v]) return TH_ERROR(INVALID_ARGUMENT, "%s cannot be walked: %s", part_names[v], why);
  return TH_ERROR(INVALID_ARGUMENT, "the result cannot be walked together with lhs and rhs: %s", why);
}

th_status th_matmul_plan_make(const int64_t *ints, uint32_t n_ints, const th_view *operands, uint32_t n_operands, const th_view *results,
                              uint32_t n_results, th_matmul_plan *p) {
  th_contraction c;
  static const loop one = {.size = 1};
  memset(p, 0, sizeof *p);
  if (n_operands < 2 || !n_results || n_ints < 4) return TH_ERROR(INVALID_ARGUMENT, "%u operands, %u results, %u ints are too few", n_operands, n_results, n_ints);
  TH_TRY(th_contraction_read(ints, n_ints, &operands[0], &operands[1], &results[0], &c));
  if (n_ints != 4 + 2 * (c.n_batch + c.n_contract)) return TH_ERROR(INVALID_ARGUMENT, "%u ints: an epilogue and whether TF32 is allowed must follow a dot's", n_ints);
  if (ints[n_ints - 2] < 0 || ints[n_ints - 2] >= TH_EPILOGUE_COUNT) return TH_ERROR(INVALID_ARGUMENT, "there is no epilogue %lld", (long long)ints[n_ints - 2]);
  p->epilogue = (th_matmul_epilogue)ints[n_ints - 2];
  p->tf32 = ints[n_ints - 1];
  if (n_operands != epilogues[p->epilogue].operands || n_results != epilogues[p->epilogue].results)
    return TH_ERROR(INVALID_ARGUMENT, "epilogue %s has %u operands and %u results, not %u and %u", epilogues[p->epilogue].name, epilogues[p->epilogue].operands,
                    epilogues[p->epilogue].results, n_operands, n_results);
  int aux = epilogues[p->epilogue].aux, vector = epilogues[p->epilogue].vector;
  p->views[TH_MATMUL_LHS] = &operands[0], p->views[TH_MATMUL_RHS] = &operands[1], p->views[TH_MATMUL_RESULT] = &results[0];
  if (aux) p->views[TH_MATMUL_AUX] = aux == OPERAND_2 ? &operands[2] : &results[1];
  if (vector) p->views[TH_MATMUL_VECTOR] = vector == OPERAND_2 ? &operands[2] : &results[1];
  TH_TRY(check_views(p, &c));
  int64_t batch = product(&operands[0], c.lhs, c.n_batch), rows = product(&operands[0], c.lhs + c.n_batch, c.n_rows);
  int64_t contracted = product(&operands[0], c.lhs + c.n_batch + c.n_rows, c.n_contract), columns = product(&operands[1], c.rhs + c.n_batch + c.n_contract, c.n_columns);
  p->empty = !batch || !rows || !columns || !contracted;
  if (p->empty && batch && rows && columns && epilogues[p->epilogue].adds)
    return TH_ERROR(UNIMPLEMENTED, "epilogue %s of a product over a contracted dimension of size 0", epilogues[p->epilogue].name);
  if (p->empty && batch && rows && contracted && p->epilogue == TH_EPILOGUE_LHS_SUM) return TH_ERROR(UNIMPLEMENTED, "epilogue lhs_sum of a product without columns");
  if (p->empty) return TH_OK;
  search s = {.n = 0};
  gather(&s, p, &c);
  merge(&s);
  uint32_t n_contracted = 0;
  for (uint32_t i = 0; i < s.n; i++)
    if (s.loops[i].role == CONTRACTED) s.k = &s.loops[i], n_contracted++;
  if (n_contracted != 1) s.k = n_contracted ? NULL : &one;
  if (!s.k || !find(&s, p)) return refuse(&s, p, &c);
  if (p->m > INT32_MAX || p->n > INT32_MAX || p->k > INT32_MAX)
    return TH_ERROR(OUT_OF_RANGE, "a matrix product of %lld x %lld x %lld is too large", (long long)p->m, (long long)p->n, (long long)p->k);
  p->batch = 1;
  uint32_t inner = UINT32_MAX;
  for (uint32_t i = 0; i < s.n; i++) {
    if (i == s.row || i == s.column || s.loops[i].role == CONTRACTED) s.loops[i].role = TAKEN;
    else if (s.loops[i].size > p->batch && s.loops[i].size <= INT32_MAX && (!epilogues[p->epilogue].octets || s.loops[i].strides[TH_MATMUL_AUX] % 8 == 0)) p->batch = s.loops[i].size, inner = i;
  }
  for (uint32_t i = 0; i < s.n; i++) {
    if (i == inner) memcpy(p->batch_strides, s.loops[i].strides, sizeof p->batch_strides);
    if (i == inner || s.loops[i].role == TAKEN) continue;
    p->outer[p->n_outer] = s.loops[i].size;
    memcpy(p->outer_strides[p->n_outer++], s.loops[i].strides, sizeof p->batch_strides);
  }
  return TH_OK;
}

bool th_matmul_takes(const int64_t *ints, uint32_t n_ints, const th_view *operands, uint32_t n_operands, const th_view *results, uint32_t n_results) {
  th_matmul_plan plan;
  th_status status = th_matmul_plan_make(ints, n_ints, operands, n_operands, results, n_results, &plan);
  th_status_free(status);
  return !status;
}

void th_matmul_plan_unbatch(th_matmul_plan *p) {
  if (p->batch == 1) return;
  p->outer[p->n_outer] = p->batch;
  memcpy(p->outer_strides[p->n_outer++], p->batch_strides, sizeof p->batch_strides);
  memset(p->batch_strides, 0, sizeof p->batch_strides);
  p->batch = 1;
}
