/* chunk: a large product that is read row by row is made and used up a chunk of rows at a time, so that it is never stored whole.
 * It is there for the logits of a language model, (tokens, vocabulary), the largest value of a training step by far:
 *
 *   logits = dot(h, W)                        for each chunk of rows:
 *   loss of each row, dlogits = rows(logits)    logits = dot(rows of h, W)
 *   dh = dot(dlogits, W)                        loss, dlogits = rows(logits)
 *   dW = dot(dlogits^T, h)                      part of dh = dot(dlogits, W)
 *                                               dW += dot(dlogits^T, rows of h)
 *                                             loss, dh = the parts, one after the other
 *
 * `Inside` are the ops that compute rows from rows of the product (each result row from the same row of the operands), and the dots that
 * use them up. From outside they may read values that the product has no part in: by rows (a slice is read; what would be as wide as the
 * product and is cheap to make, a broadcast or an iota, is made again for each chunk) or whole. Outside, their narrow results may be read by
 * anything, since they are put together again; the wide ones by nobody. If that does not hold, the product stays as it is.
 *
 * Some op must reduce rows, as a loss does: products between layers are not at the peak of memory, and their parts would cost time.
 *
 * In a chunk all dimensions of rows are one: values are (rows, ...), whatever they were.
 *
 * dW is summed in f32 and rounded at the end: parts of 16-bit operands are products in f32 of the operands widened, which a library adds
 * to the sum so far (pass absorb). The sums of f32 parts are kept apart by barriers: as one kernel they would wait for all parts. */
#include <string.h>

#include "ir/passes/passes.h"
#include "ir/passes/plan.h"

enum { CHUNK_BYTES = 512 << 20, MIN_ROWS = 4096, MAX_CHUNKS = 16 };
typedef enum role { UNUSED, WHOLE, ROWS } role; /* how a chunk reads a value */
typedef enum use { NO_USE, JOINED, SUMMED } use; /* what becomes of a chunk's part of it */

typedef struct chunker {
  const th_trace *t;
  th_context *c;
  const th_graph *g;
  int64_t rows, columns;
  uint32_t n_chunks;
  size_t first, last;   /* of the ops inside, in graph 0 */
  bool *tainted;        /* by value: computed from the product */
  bool *inside;         /* by op */
  uint8_t *role, *lead; /* by value; its number of dimensions of rows, the first ones */
  bool reduces;         /* a row's number is made of a whole row */
  bool *again;          /* by value from outside: made anew in each chunk */
  uint8_t *use;         /* by value from inside */
  uint32_t *joined_at;  /* by value: JOINED along this dimension of the part */
  /* writing */
  th_rewriter r;
  th_value *merged;     /* by value from outside: with one dimension of rows, +1 */
  th_value *local;      /* by value: in the chunk being written */
  uint32_t *stamp, chunk;
  th_value (*parts)[MAX_CHUNKS]; /* by value that has a use; SUMMED: the sum so far, in [0] */
} chunker;

/* ---- what can be chunked ---- */

/* How many leading dimensions hold the rows; 0: they do not. */
static uint32_t lead_of(const chunker *x, const th_type *type) {
  int64_t n = 1, d;
  for (uint32_t i = 0; i < type->rank && n < x->rows; i++) {
    if (!th_dim_is_const(x->c, type->dims[i], &d) || d < 1 || d > x->rows / n) return 0;
    n *= d;
    if (n == x->rows) return i + 1;
  }
  return 0;
}

static bool is_wide(const chunker *x, th_value v) {
  const th_type *type = th_type_of(x->t, v);
  int64_t low, high;
  th_dim_bounds(x->c, th_dim_product(x->c, type->dims + x->lead[v], type->rank - x->lead[v]), &low, &high);
  return high > 1 && (high > INT64_MAX / 8 || high * 8 > x->columns);
}


static bool by_rows(chunker *x, const th_op *op, uint32_t lead);

static bool read_whole(chunker *x, th_value v) {
  if (x->tainted[v] || x->role[v] == ROWS) return false;
  x->role[v] = WHOLE;
  return true;
}

/* v is read by rows, which are its first `lead` dimensions. */
static bool read_rows(chunker *x, th_value v, uint32_t lead, bool may_be_made_again) {
  if (x->role[v] != UNUSED) return x->role[v] == ROWS && x->lead[v] == lead;
  if (!lead || x->tainted[v] || lead_of(x, th_type_of(x->t, v)) != lead) return false;
  x->role[v] = ROWS;
  x->lead[v] = (uint8_t)lead;
  const th_op *op = x->t->values[v].def;
  if (!may_be_made_again || !op) return true;
  bool is_index = op->kind == TH_OP_broadcast || op->kind == TH_OP_iota, wide = is_wide(x, v);
  if (!is_index && !(wide && th_op_is_pointwise(op))) return true;
  x->again[v] = by_rows(x, op, lead);
  return x->again[v] || !wide;
}

/* Is each row of op's result, whose first `lead` dimensions they are, computed from the same row of its operands? */
static bool by_rows(chunker *x, const th_op *op, uint32_t lead) {
  const th_type *result = th_type_of(x->t, op->result);
  if (op->n_results != 1 || lead_of(x, result) != lead) return false;
  if (th_op_is_pointwise(op)) {
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (!read_rows(x, op->operands[k], lead, true)) return false;
    return true;
  }
  if (th_op_is_reduction(op)) {
    const th_attr *dims = th_attr_get(op, "dims");
    for (uint32_t i = 0; i < dims->count; i++) {
      int64_t d = 0;
      if (!th_dim_is_const(x->c, dims->ints[i], &d) || d < lead) return false;
    }
    return read_rows(x, op->operands[0], lead, true);
  }
  switch (op->kind) {
    case TH_OP_iota: return th_attr_int(op, x->c, "dim") >= lead;
    case TH_OP_reshape: return read_rows(x, op->operands[0], lead_of(x, th_type_of(x->t, op->operands[0])), true);
    case TH_OP_broadcast: {
      const th_attr *map = th_attr_get(op, "dims");
      const th_type *from = th_type_of(x->t, op->operands[0]);
      uint32_t n = 0;
      for (uint32_t i = 0; i < from->rank; i++) {
        int64_t to = 0;
        if (!th_dim_is_const(x->c, map->ints[i], &to)) return false;
        if (to >= lead) continue;
        if (to != i || from->dims[i] != result->dims[i]) return false;
        n++;
      }
      return n == lead ? read_rows(x, op->operands[0], lead, true) : n == 0 && read_whole(x, op->operands[0]);
    }
    case TH_OP_take_along: {
      const th_type *from = th_type_of(x->t, op->operands[0]), *at = th_type_of(x->t, op->operands[1]);
      for (uint32_t i = 0; i < lead; i++)
        if (from->dims[i] != at->dims[i]) return false;
      return th_attr_int(op, x->c, "dim") >= lead && read_rows(x, op->operands[0], lead, true) && read_rows(x, op->operands[1], lead, true);
    }
    default: return false;
  }
}

static bool joins(chunker *x, const th_op *op) { /* is a tainted op one of those inside, by rows? */
  uint32_t lead = 0;
  if (op->n_results != 1) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    th_value v = op->operands[k];
    if (v == TH_NO_VALUE) return false;
    if (!x->tainted[v]) continue;
    if (x->role[v] != ROWS) return false;
    lead = x->lead[v];
  }
  if (op->kind == TH_OP_reshape) lead = lead_of(x, th_type_of(x->t, op->result));
  if (!lead || !by_rows(x, op, lead)) return false;
  x->role[op->result] = ROWS;
  x->lead[op->result] = (uint8_t)lead;
  return true;
}

/* A dot that uses a wide value up: contracts its columns (rows of the result are rows of it), or its rows with those of another value. */
static bool uses_up(chunker *x, const th_op *op) {
  if (op->kind != TH_OP_dot || th_attr_get(op, "lhs_batch")->count) return false;
  uint32_t k = x->tainted[op->operands[1]];
  th_value m = op->operands[k], other = op->operands[!k];
  if (!x->tainted[m] || x->role[m] != ROWS || x->tainted[other]) return false;
  const th_attr *mine = th_attr_get(op, k ? "rhs_contract" : "lhs_contract"), *others = th_attr_get(op, k ? "lhs_contract" : "rhs_contract");
  const th_type *type = th_type_of(x->t, other);
  uint32_t lead = x->lead[m], of_rows = 0, in_order = 0;
  for (uint32_t i = 0; i < mine->count; i++) {
    int64_t d = 0;
    th_dim_is_const(x->c, mine->ints[i], &d);
    of_rows += d < lead;
    in_order += th_dim_is(x->c, mine->ints[i], i) && th_dim_is(x->c, others->ints[i], i);
  }
  if (of_rows == 0) {
    x->use[op->result] = JOINED;
    x->joined_at[op->result] = k ? type->rank - others->count : 0; /* lhs's free dimensions come first */
    return read_whole(x, other);
  }
  if (of_rows != lead || mine->count != lead || in_order != lead || !th_dtype_is_float(type->dtype)) return false;
  x->use[op->result] = SUMMED;
  return read_rows(x, other, lead, false);
}

/* Is it a large product of rows with a matrix? Then how many chunks of how many rows it may have. */
static bool is_product(chunker *x, const th_options *options, const th_op *op) {
  if (op->kind != TH_OP_dot || th_attr_get(op, "lhs_batch")->count) return false;
  const th_attr *l = th_attr_get(op, "lhs_contract");
  const th_type *h = th_type_of(x->t, op->operands[0]), *w = th_type_of(x->t, op->operands[1]), *result = th_type_of(x->t, op->result);
  uint32_t lead = h->rank - l->count;
  if (w->rank != l->count + 1 || !lead) return false;
  for (uint32_t i = 0; i < l->count; i++) {
    int64_t d = 0;
    if (!th_dim_is_const(x->c, l->ints[i], &d) || d < lead) return false;
  }
  if (!th_dim_is_const(x->c, th_dim_product(x->c, result->dims, lead), &x->rows) || !th_dim_is_const(x->c, result->dims[lead], &x->columns)) return false;
  if (x->rows < (options->chunk_bytes ? 2 : MIN_ROWS) || x->columns < 2 || x->rows > INT64_MAX / 16 / x->columns || lead_of(x, result) != lead) return false;
  uint64_t bytes = (uint64_t)(x->rows * x->columns) * th_dtype_size(result->dtype), limit = options->chunk_bytes ? options->chunk_bytes : CHUNK_BYTES;
  if (bytes < limit / 2) return false;
  for (uint32_t n = 2; n <= MAX_CHUNKS && x->rows % n == 0; n *= 2) { /* where none is small enough, as many as there may be */
    x->n_chunks = n;
    if (bytes / n <= limit) break;
  }
  return x->n_chunks;
}

/* Finds what belongs to a chunk of the product that op `at` makes; false: it cannot be chunked. */
static bool match(chunker *x, size_t at) {
  const th_op *product = x->g->ops[at];
  uint32_t lead = lead_of(x, th_type_of(x->t, product->result));
  if (!read_rows(x, product->operands[0], lead, false) || !read_whole(x, product->operands[1])) return false;
  x->tainted[product->result] = x->inside[at] = true;
  x->role[product->result] = ROWS;
  x->lead[product->result] = (uint8_t)lead;
  x->first = x->last = at;
  for (size_t i = at + 1; i < x->g->n_ops; i++) {
    const th_op *op = x->g->ops[i];
    bool tainted = false;
    for (uint32_t k = 0; k < op->n_operands; k++) tainted |= op->operands[k] != TH_NO_VALUE && x->tainted[op->operands[k]];
    if (!tainted) continue;
    bool by_row = joins(x, op), wide = false;
    for (uint32_t k = 0; k < op->n_results; k++) x->tainted[op->result + k] = true;
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value v = op->operands[k];
      wide |= v != TH_NO_VALUE && x->tainted[v] && x->role[v] == ROWS && is_wide(x, v);
    }
    if (by_row || wide) {
      if (!by_row && !uses_up(x, op)) return false;
      x->reduces |= wide && th_op_is_reduction(op);
      x->inside[i] = true;
      x->last = i;
      continue;
    }
    for (uint32_t k = 0; k < op->n_operands; k++) { /* a narrow value that is read outside */
      th_value v = op->operands[k];
      if (v != TH_NO_VALUE && x->tainted[v] && x->role[v] == ROWS) x->use[v] = JOINED;
    }
  }
  for (uint32_t o = 0; o < x->g->n_outputs; o++) {
    th_value v = x->g->outputs[o];
    if (!x->tainted[v] || x->role[v] != ROWS) continue;
    if (is_wide(x, v)) return false;
    x->use[v] = JOINED;
  }
  return x->reduces;
}

/* ---- writing ---- */

static int64_t shifted(uint32_t lead, int64_t dim) { return dim - lead + 1; } /* a dimension behind the rows, in a chunk */

/* dims with `rows` in place of the first `lead`; the rank. */
static uint32_t with_rows(const chunker *x, const th_type *type, uint32_t lead, int64_t rows, th_dim *dims) {
  dims[0] = th_dim_const(x->c, rows);
  for (uint32_t i = lead; i < type->rank; i++) dims[i - lead + 1] = type->dims[i];
  return type->rank - lead + 1;
}

static th_value clone(chunker *x, const th_op *op);

/* v as the chunk being written reads it. */
static th_value in_chunk(chunker *x, th_value v) {
  if (x->role[v] == WHOLE) return x->r.map[v];
  if (x->stamp[v] == x->chunk + 1) return x->local[v];
  th_builder *b = &x->r.b;
  if (x->again[v]) {
    x->local[v] = clone(x, x->t->values[v].def);
  } else {
    int64_t each = x->rows / x->n_chunks;
    th_dim dims[TH_MAX_RANK];
    uint32_t rank = with_rows(x, th_type_of(x->t, v), x->lead[v], x->rows, dims);
    if (!x->merged[v]) x->merged[v] = th_reshape(b, x->r.map[v], dims, rank) + 1;
    x->local[v] = th_slice_dim(b, x->merged[v] - 1, 0, th_dim_const(x->c, x->chunk * each), th_dim_const(x->c, (x->chunk + 1) * each), th_dim_const(x->c, 1));
  }
  x->stamp[v] = x->chunk + 1;
  return x->local[v];
}

static th_value clone_dot(chunker *x, const th_op *op) {
  static const char *const lists[] = {"lhs_contract", "rhs_contract"};
  int64_t contract[2][TH_MAX_RANK];
  th_value operands[2];
  uint32_t n = 0;
  bool widens = x->use[op->result] == SUMMED && th_dtype_size(th_type_of(x->t, op->result)->dtype) < 4;
  for (int s = 0; s < 2; s++) {
    const th_attr *list = th_attr_get(op, lists[s]);
    th_value v = op->operands[s];
    uint32_t lead = x->role[v] == ROWS ? x->lead[v] : 1;
    n = 0;
    for (uint32_t i = 0; i < list->count; i++) {
      int64_t d = 0;
      th_dim_is_const(x->c, list->ints[i], &d);
      if (x->role[v] == WHOLE || d >= lead) contract[s][n++] = x->role[v] == WHOLE ? d : shifted(lead, d);
      else if (d == 0) contract[s][n++] = 0;
    }
    operands[s] = in_chunk(x, v);
    if (widens) operands[s] = th_convert(&x->r.b, operands[s], TH_DTYPE_f32);
  }
  return th_dot(&x->r.b, operands[0], operands[1], NULL, NULL, 0, contract[0], contract[1], n);
}

static th_value clone(chunker *x, const th_op *op) {
  th_builder *b = &x->r.b;
  const th_type *result = th_type_of(x->t, op->result);
  th_value in[3];
  th_dim dims[TH_MAX_RANK];
  int64_t map[TH_MAX_RANK];
  if (op->kind != TH_OP_dot)
    for (uint32_t k = 0; k < op->n_operands; k++) in[k] = in_chunk(x, op->operands[k]);
  th_rewrite_at(&x->r, op);
  if (op->kind == TH_OP_dot) return clone_dot(x, op);
  if (th_op_is_pointwise(op)) return th_build1(b, op->kind, in, op->n_operands, op->attrs);
  uint32_t lead = x->lead[op->result], rank = with_rows(x, result, lead, x->rows / x->n_chunks, dims);
  if (th_op_is_reduction(op)) {
    const th_attr *list = th_attr_get(op, "dims");
    for (uint32_t i = 0; i < list->count; i++) {
      int64_t d = 0;
      th_dim_is_const(x->c, list->ints[i], &d);
      map[i] = shifted(lead, d);
    }
    return th_reduce(b, op->kind, in[0], map, list->count, false);
  }
  switch (op->kind) {
    case TH_OP_iota: return th_iota(b, dims, rank, (uint32_t)shifted(lead, th_attr_int(op, x->c, "dim")), result->dtype);
    case TH_OP_reshape: return th_reshape(b, in[0], dims, rank);
    case TH_OP_take_along: {
      th_attr dim = th_make_int(x->c, shifted(lead, th_attr_int(op, x->c, "dim")));
      return th_build1(b, TH_OP_take_along, in, 2, &dim);
    }
    default: { /* broadcast */
      const th_attr *list = th_attr_get(op, "dims");
      uint32_t n = 0;
      for (uint32_t i = 0; i < list->count; i++) {
        int64_t d = 0;
        th_dim_is_const(x->c, list->ints[i], &d);
        if (d >= lead) map[n++] = shifted(lead, d);
        else if (d == 0) map[n++] = 0;
      }
      return th_broadcast(b, in[0], dims, rank, map);
    }
  }
}

static th_value barrier(chunker *x, th_value v) {
  th_type type = *th_type_of(x->r.b.trace, v);
  th_op *op = th_trace_add_op(x->r.b.trace, 0, TH_OP_barrier, &v, 1, NULL, &type, 1);
  op->origin = x->r.b.origin;
  return op->result;
}

static void add_part(chunker *x, th_value v, th_value part) {
  th_builder *b = &x->r.b;
  th_value *parts = x->parts[v];
  if (x->use[v] == JOINED || x->chunk == 0) {
    parts[x->chunk] = part;
    return;
  }
  th_dtype dtype = th_type_of(x->t, v)->dtype;
  bool ends = x->chunk + 1 == x->n_chunks, widened = th_type_of(b->trace, part)->dtype != dtype;
  parts[0] = th_add(b, parts[0], part);
  if (!b->status && !widened) parts[0] = barrier(x, parts[0]);
  if (!b->status && widened && ends) parts[0] = th_convert(b, parts[0], dtype);
}

static void write_chunk(chunker *x) {
  for (size_t i = x->first; i <= x->last && !x->r.b.status; i++) {
    const th_op *op = x->g->ops[i];
    if (!x->inside[i]) continue;
    th_value v = op->result;
    x->local[v] = clone(x, op);
    x->stamp[v] = x->chunk + 1;
    if (x->use[v] != NO_USE && !x->r.b.status) add_part(x, v, x->local[v]);
  }
}

static void write_chunks(chunker *x) {
  th_builder *b = &x->r.b;
  for (x->chunk = 0; x->chunk < x->n_chunks && !b->status; x->chunk++) write_chunk(x);
  for (size_t i = x->first; i <= x->last && !b->status; i++) {
    th_value v = x->g->ops[i]->result;
    if (!x->inside[i] || x->use[v] == NO_USE) continue;
    th_rewrite_at(&x->r, x->g->ops[i]);
    const th_type *type = th_type_of(x->t, v);
    th_value made = x->use[v] == SUMMED ? x->parts[v][0] : th_concat(b, x->parts[v], x->n_chunks, x->joined_at[v]);
    th_rewrite_map(&x->r, v, th_reshape(b, made, type->dims, type->rank));
  }
}

/* What is not computed from the product goes before the chunks, the rest behind them. */
static th_status rewrite(chunker *x, th_trace **out) {
  th_arena *a = th_context_arena(x->c);
  size_t n = x->t->n_values, n_late = 0;
  const th_op **late = TH_ARENA_ARRAY(a, const th_op *, x->g->n_ops);
  x->r = th_rewrite_begin(x->t);
  x->merged = TH_ARENA_ARRAY(a, th_value, n);
  x->local = TH_ARENA_ARRAY(a, th_value, n);
  x->stamp = TH_ARENA_ARRAY(a, uint32_t, n);
  x->parts = (th_value(*)[MAX_CHUNKS])TH_ARENA_ARRAY(a, th_value, n * MAX_CHUNKS);
  for (uint32_t k = 1; k < x->t->n_graphs; k++) th_rewrite_graph(&x->r, k);
  x->r.b.graph = 0;
  for (size_t i = 0; i < x->g->n_ops && !x->r.b.status; i++) {
    const th_op *op = x->g->ops[i];
    if (!x->inside[i]) {
      if (i > x->first && i < x->last && op->n_results && x->tainted[op->result]) late[n_late++] = op;
      else th_rewrite_clone(&x->r, op);
    } else if (i == x->last) {
      write_chunks(x);
      for (size_t k = 0; k < n_late; k++) th_rewrite_clone(&x->r, late[k]);
    }
  }
  if (!x->r.b.status) th_rewrite_outputs(&x->r, 0);
  return th_rewrite_finish(&x->r, out);
}

static void prepare(chunker *x) {
  th_arena *a = th_context_arena(x->c);
  size_t n = x->t->n_values;
  x->tainted = TH_ARENA_ARRAY(a, bool, n);
  x->inside = TH_ARENA_ARRAY(a, bool, x->g->n_ops);
  x->role = TH_ARENA_ARRAY(a, uint8_t, n);
  x->lead = TH_ARENA_ARRAY(a, uint8_t, n);
  x->again = TH_ARENA_ARRAY(a, bool, n);
  x->use = TH_ARENA_ARRAY(a, uint8_t, n);
  x->joined_at = TH_ARENA_ARRAY(a, uint32_t, n);
}

th_status th_pass_chunk(const th_options *options, const th_trace *in, th_trace **out) {
  for (size_t i = in->graphs[0]->n_ops; i-- > 0;) { /* from the last on: what stands before a product stays where it is */
    chunker x = {.t = in, .c = in->context, .g = in->graphs[0]};
    if (!is_product(&x, options, x.g->ops[i])) continue;
    prepare(&x);
    if (!match(&x, i)) continue;
    th_trace *made;
    TH_TRY(rewrite(&x, &made));
    in = made;
  }
  return th_pass_dce(options, in, out);
}
