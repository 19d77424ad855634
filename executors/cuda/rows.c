/* Kernels of rows: a team of threads has a row, a pass over it for each reduction that waits for another, one for the elements. Sums of
 * columns are kept by each thread for its columns, over all rows of a block. */
#include <string.h>

#include "executors/cuda/cuda.h"

static const th_type *type_of(const th_cuda_gen *x, th_value v) { return th_type_of(x->g.t, v); }

typedef struct th_cuda_row { const char *index[TH_MAX_RANK]; } th_cuda_row; /* of what is kept */

/* Opens the loop over the vectors of a row and a block of lanes in it; index[]: of an element. Returns how many scopes to close. */
static int open_turns(th_cuda_gen *x, const th_cuda_row *r, const char **index) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  int opened = 1;
  size_t begun = 0;
  const char *vectors = th_gen_dim(g, th_dim_floordiv(g->c, s->n_reduced, th_dim_const(g->c, s->width)));
  if (!x->first_pass) x->first_pass = g->s.length + 1;
  if (s->cached || s->n_sums || (s->turns >= 0 && s->turns <= 16)) { /* arrays have a place for each turn */
    th_gen_line(g, s->in_shared ? "#pragma unroll 4" : "#pragma unroll");
    th_gen_open(g, "for (int turn = 0; turn < %lld; turn++)", (long long)s->turns);
    begun = g->s.length;
    th_gen_line(g, "const %s j = turn * %lld + place;", g->index_type, (long long)s->team);
    if (s->turns * s->team * s->width != s->length) {
      th_gen_open(g, "if (j < %s)", vectors);
      opened++;
    }
  } else {
    th_gen_open(g, "for (%s j = place; j < %s; j += %lld)", g->index_type, vectors, (long long)s->team);
  }
  /* Names are the same in all passes: what was read at an index in one is found in the next. */
  uint32_t last = s->domain.rank - 1, kept = 0;
  const char *rest = "j";
  for (uint32_t i = 0; i < s->domain.rank; i++)
    if (!th_gen_reduces(g->c, s->rows, i)) index[i] = r->index[kept++];
  for (uint32_t i = s->domain.rank; i-- > 0;) {
    if (!th_gen_reduces(g->c, s->rows, i)) continue;
    bool first = true;
    for (uint32_t k = 0; k < i; k++) first &= !th_gen_reduces(g->c, s->rows, k) || th_dim_is(g->c, s->domain.dims[k], 1);
    const char *size = th_gen_dim(g, i == last ? th_dim_floordiv(g->c, s->domain.dims[i], th_dim_const(g->c, s->width)) : s->domain.dims[i]);
    const char *name = th_arena_printf(g->a, "j_%u", i);
    const char *text = first ? rest : th_arena_printf(g->a, "%s %% %s", rest, size);
    th_gen_line(g, i == last && s->width > 1 ? "const %s %s = (%s) * %d;" : "const %s %s = (%s);", g->index_type, name, text, s->width);
    index[i] = name;
    if (!first) {
      th_gen_line(g, "const %s rest_%u = %s / %s;", g->index_type, i, rest, size);
      rest = th_arena_printf(g->a, "rest_%u", i);
    }
  }
  if (s->in_shared) x->turn_begin = th_arena_strdup(g->a, th_strbuf_text(&g->s) + begun);
  index[last] = th_cuda_lanes_open(x, index[last], s->width);
  return opened;
}

static void close_turns(th_cuda_gen *x, int opened) {
  th_cuda_lanes_close(x);
  while (opened--) th_gen_close(&x->g);
}

/* Reductions that are made in one pass over the row. */
typedef struct pass { const th_op *ops[8]; const char *acc[8]; uint32_t n; } pass;

static void across_team(th_cuda_gen *x, const pass *p) {
  th_gen *g = &x->g;
  int64_t team = x->shape->team, warps = team / 32, teams = x->shape->rows_per_block;
  const char *shared[8];
  for (uint32_t i = 0; i < p->n; i++) {
    th_dtype dtype = type_of(x, p->ops[i]->operands[0])->dtype;
    for (int64_t m = team > 32 ? 16 : team / 2; m > 0; m /= 2)
      th_gen_line(g, "{ const %s w = __shfl_xor_sync(0xffffffffu, %s, %lld); %s }", th_gen_ctype(dtype), p->acc[i], (long long)m, th_gen_reduce_step(g, p->ops[i]->kind, dtype, p->acc[i], "w"));
  }
  if (team <= 32) return;
  for (uint32_t i = 0; i < p->n; i++) {
    shared[i] = th_gen_name(g, "h");
    th_gen_line(g, "__shared__ %s %s[%lld];", th_gen_ctype(type_of(x, p->ops[i]->operands[0])->dtype), shared[i], (long long)(warps * teams));
  }
  th_gen_line(g, "__syncthreads();");
  th_gen_open(g, "if (threadIdx.x %% 32 == 0)");
  for (uint32_t i = 0; i < p->n; i++) th_gen_line(g, "%s[threadIdx.x / 32] = %s;", shared[i], p->acc[i]);
  th_gen_close(g);
  th_gen_line(g, "__syncthreads();");
  for (uint32_t i = 0; i < p->n; i++) {
    th_dtype dtype = type_of(x, p->ops[i]->operands[0])->dtype;
    th_gen_line(g, "%s = %s;", p->acc[i], th_gen_reduce_start(p->ops[i]->kind, dtype));
    th_gen_line(g, "#pragma unroll");
    th_gen_line(g, "for (int k = 0; k < %lld; k++) { const %s w = %s[threadIdx.x / %lld * %lld + k]; %s }", (long long)warps, th_gen_ctype(dtype), shared[i], (long long)team, (long long)warps,
                th_gen_reduce_step(g, p->ops[i]->kind, dtype, p->acc[i], "w"));
  }
}

void th_cuda_across_team(th_cuda_gen *x, const th_op *op, const char *acc) {
  pass one = {.ops = {op}, .acc = {acc}, .n = 1};
  across_team(x, &one);
}

static bool of_row(const th_cuda_gen *x, const th_op *op) {
  const th_type *type = th_type_of(x->g.t, op->operands[0]);
  return th_op_is_reduction(op) && type->rank && th_type_same_shape(type, &x->shape->domain) && th_attr_equal(th_attr_get(op, "dims"), th_attr_get(x->shape->rows, "dims"));
}

static bool is_known(const th_cuda_gen *x, th_value v) {
  for (size_t i = x->g.n_memos; i-- > 0;)
    if (x->g.memos[i].value == v) return true;
  return false;
}

/* Can v be computed from what is known, without another pass? `seen`: by value, 1 yes, 2 no. */
static bool is_ready(const th_cuda_gen *x, th_value v, uint8_t *seen) {
  const th_op *op = x->g.t->values[v].def;
  if (!op || is_known(x, v)) return true;
  if (seen[v]) return seen[v] == 1;
  bool ready = !of_row(x, op);
  for (uint32_t k = 0; k < op->n_operands && ready; k++) ready = is_ready(x, op->operands[k], seen);
  seen[v] = ready ? 1 : 2;
  return ready;
}

/* Behind broadcasts and reshapes. */
static const th_op *behind(const th_cuda_gen *x, th_value v) {
  const th_op *op = x->g.t->values[v].def;
  while (op && (op->kind == TH_OP_broadcast || op->kind == TH_OP_reshape)) op = x->g.t->values[op->operands[0]].def;
  return op;
}

/* Is op a sum of what is left of a row where its column is one number, as the pass `pick` makes it? *out_at: that number, all over the row. */
static bool is_pick(const th_cuda_gen *x, const th_op *op, th_value *out_value, th_value *out_at) {
  const th_op *select = x->g.t->values[op->operands[0]].def, *eq = select && select->kind == TH_OP_select ? x->g.t->values[select->operands[0]].def : NULL;
  const th_op *zero = eq && eq->kind == TH_OP_eq ? behind(x, select->operands[2]) : NULL, *column = zero ? behind(x, eq->operands[0]) : NULL;
  uint32_t last = x->shape->domain.rank - 1;
  if (op->kind != TH_OP_reduce_sum || !zero || zero->kind != TH_OP_const || !column || column->kind != TH_OP_iota || th_attr_int(column, x->g.c, "dim") != last) return false;
  const th_attr *value = th_attr_get(zero, "value"), *dims = th_attr_get(op, "dims");
  if (dims->count != 1 || !(value->kind == TH_ATTR_FLOAT ? value->f == 0 : value->kind == TH_ATTR_INT && th_dim_is(x->g.c, value->i, 0))) return false;
  *out_value = select->operands[1];
  *out_at = eq->operands[1];
  return true;
}

/* One element instead of a pass. Nobody writes over it before all have it. */
static const char *picked(th_cuda_gen *x, th_value value, th_value at) {
  th_gen *g = &x->g;
  const th_type *type = type_of(x, value);
  const char *element[TH_MAX_RANK], *acc = th_gen_name(g, "a");
  uint32_t last = type->rank - 1;
  for (uint32_t i = 0; i < last; i++) element[i] = x->row->index[i];
  element[last] = "0";
  const char *k = th_gen_element(g, at, element);
  th_gen_line(g, "%s %s = 0;", th_gen_ctype(type->dtype), acc);
  th_gen_open(g, "if ((uint64_t)%s < (uint64_t)%s)", k, th_gen_dim(g, type->dims[last]));
  size_t mark = th_gen_mark(g);
  g->guards++;
  element[last] = th_gen_index(g, th_arena_printf(g->a, "(%s)%s", g->index_type, k));
  th_gen_line(g, "%s += %s;", acc, th_gen_element(g, value, element));
  g->guards--;
  th_gen_forget(g, mark);
  th_gen_close(g);
  th_gen_line(g, x->shape->team > 32 ? "__syncthreads();" : "__syncwarp();");
  return acc;
}

/* The sum of exp(v - max) over a row whose maximum is `max`, in the body; NULL: there is none, or it waits for something else. */
static const th_op *sum_of_exps(const th_cuda_gen *x, const th_op *max) {
  for (size_t i = 0; i < x->g.body->n_ops; i++) {
    const th_op *sum = x->g.body->ops[i];
    if (sum->kind != TH_OP_reduce_sum || !of_row(x, sum)) continue;
    const th_op *exp = x->g.t->values[sum->operands[0]].def, *sub = exp && exp->kind == TH_OP_exp ? x->g.t->values[exp->operands[0]].def : NULL;
    if (sub && sub->kind == TH_OP_sub && sub->operands[0] == max->operands[0] && behind(x, sub->operands[1]) == max) return sum;
  }
  return NULL;
}

/* Rows that do not stay in registers are gone over once for both (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018):
 * the sum so far is of exp(v - maximum so far), and scaled when that rises, once for each vector. `so_far`: the maximum that `sum` belongs to. */
typedef struct online { const th_op *max, *sum; const char *maximum, *so_far, *acc; } online;

static bool is_online(const th_cuda_gen *x, const pass *p, online *out) {
  *out = (online){0};
  if (x->shape->cached && !x->shape->in_shared) return false;
  for (uint32_t i = 0; i < p->n; i++) {
    if (p->ops[i]->kind != TH_OP_reduce_max || !(out->sum = sum_of_exps(x, p->ops[i]))) continue;
    out->max = p->ops[i];
    out->maximum = p->acc[i];
    return true;
  }
  return false;
}

static void rescale(th_cuda_gen *x, const online *o) {
  const char *exp = type_of(x, o->sum->result)->dtype == TH_DTYPE_f64 ? "exp" : x->g.exp;
  th_gen_line(&x->g, "%s *= %s == %s ? 1 : %s(%s - %s);", o->acc, o->so_far, o->maximum, exp, o->so_far, o->maximum);
}

/* A second look at the vector that the maximum was just taken of. `index`: of the row's numbers. */
static void add_exps(th_cuda_gen *x, const online *o, const char **element, const char *const *index) {
  th_gen *g = &x->g;
  const char *T = th_gen_ctype(type_of(x, o->sum->result)->dtype), *from = th_gen_name(g, "m");
  size_t mark = th_gen_mark(g);
  th_cuda_lanes_close(x);
  rescale(x, o);
  th_gen_line(g, "%s = %s;", o->so_far, o->maximum);
  th_gen_line(g, "const %s %s = %s == -INFINITY ? 0 : %s;", T, from, o->maximum, o->maximum);
  th_gen_remember(g, o->max->result, th_gen_key(g, type_of(x, o->max->result), index), from);
  element[x->shape->domain.rank - 1] = th_cuda_lanes_open(x, x->base, x->shape->width);
  th_gen_line(g, "%s += %s;", o->acc, th_gen_element(g, o->sum->operands[0], element));
  th_gen_forget(g, mark);
}

/* A reduction of the row, and all others that wait for nothing more, in one pass. */
const char *th_cuda_row_reduction(th_gen *g, const th_op *op, const char *const *index) {
  th_cuda_gen *x = th_cuda_of(g);
  if (!x->row || x->width || g->guards || !of_row(x, op)) return th_cuda_serial_reduction(g, op, index);
  pass p = {.ops = {op}, .n = 1};
  uint8_t *seen = TH_ARENA_ARRAY(g->a, uint8_t, g->t->n_values);
  th_value value, at;
  if (is_pick(x, op, &value, &at) && is_ready(x, value, seen) && is_ready(x, at, seen)) return picked(x, value, at);
  for (size_t i = 0; i < g->body->n_ops && p.n < 8; i++) {
    const th_op *other = g->body->ops[i];
    if (other != op && of_row(x, other) && !is_known(x, other->result) && is_ready(x, other->operands[0], seen) && !is_pick(x, other, &value, &at)) p.ops[p.n++] = other;
  }
  const char *element[TH_MAX_RANK];
  online o;
  for (uint32_t i = 0; i < p.n; i++) {
    th_dtype dtype = type_of(x, p.ops[i]->operands[0])->dtype;
    p.acc[i] = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = %s;", th_gen_ctype(dtype), p.acc[i], th_gen_reduce_start(p.ops[i]->kind, dtype));
  }
  bool both = is_online(x, &p, &o);
  if (both) {
    const char *T = th_gen_ctype(type_of(x, o.sum->result)->dtype);
    o.so_far = th_gen_name(g, "m");
    o.acc = th_gen_name(g, "a");
    th_gen_line(g, "%s %s = -INFINITY, %s = 0;", T, o.so_far, o.acc);
  }
  size_t mark = th_gen_mark(g);
  int opened = open_turns(x, x->row, element);
  for (uint32_t i = 0; i < p.n; i++)
    th_gen_line(g, "%s", th_gen_reduce_step(g, p.ops[i]->kind, type_of(x, p.ops[i]->operands[0])->dtype, p.acc[i], th_gen_element(g, p.ops[i]->operands[0], element)));
  if (both) {
    th_gen_forget(g, mark);
    add_exps(x, &o, element, index);
  }
  close_turns(x, opened);
  th_gen_forget(g, mark);
  across_team(x, &p);
  if (both) {
    rescale(x, &o);
    th_gen_line(g, "if (%s == -INFINITY) %s = NAN;", o.maximum, o.acc); /* as exp(v - max) would be */
    th_cuda_across_team(x, o.sum, o.acc);
    th_gen_remember(g, o.sum->result, th_gen_key(g, type_of(x, o.sum->result), index), o.acc);
  }
  for (uint32_t i = 1; i < p.n; i++) th_gen_remember(g, p.ops[i]->result, th_gen_key(g, type_of(x, p.ops[i]->result), index), p.acc[i]);
  return p.acc[0];
}

/* Adds up what the teams of a block have of the columns, and writes the block's part. */
static void write_parts(th_cuda_gen *x, const char *const *sums) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  long long length = s->length, teams = s->rows_per_block, team = s->team;
  if (teams > 1) th_gen_line(g, "__shared__ __align__(16) unsigned char shared[%lld];", teams * length * 8);
  for (uint32_t i = 0; i < s->n_sums; i++) {
    const th_op *op = s->sums[i];
    th_dtype dtype = type_of(x, op->operands[0])->dtype;
    const char *T = th_gen_ctype(dtype), *parts = th_gen_name(g, "b");
    th_gen_line(g, "%s *%s = (%s *)(scratch + (int64_t)%u * 8 * %lld * %lld) + (int64_t)blockIdx.x * %lld;", T, parts, T, i, (long long)s->blocks, length, length);
    if (teams > 1) th_gen_line(g, "__syncthreads();");
    th_gen_line(g, "#pragma unroll");
    th_gen_open(g, "for (int turn = 0; turn < %lld; turn++)", (long long)s->turns);
    th_gen_line(g, "const int c = (turn * %lld + place) * %d;", team, s->width);
    th_gen_line(g, "if (c < %lld)", length);
    const char *to = teams > 1 ? th_arena_printf(g->a, "((%s *)shared)[threadIdx.x / %lld * %lld + c + lane]", T, team, length) : th_arena_printf(g->a, "%s[c + lane]", parts);
    th_gen_line(g, "  for (int lane = 0; lane < %d; lane++) %s = %s[turn][lane];", s->width, to, sums[i]);
    th_gen_close(g);
    if (teams == 1) continue;
    th_gen_line(g, "__syncthreads();");
    th_gen_open(g, "for (int c = threadIdx.x; c < %lld; c += %lld)", length, team * teams);
    th_gen_line(g, "%s sum = ((%s *)shared)[c];", T, T);
    th_gen_line(g, "for (int k = 1; k < %lld; k++) { const %s w = ((%s *)shared)[k * %lld + c]; %s }", teams, T, T, length, th_gen_reduce_step(g, op->kind, dtype, "sum", "w"));
    th_gen_line(g, "%s[c] = sum;", parts);
    th_gen_close(g);
  }
}

void th_cuda_rows(th_cuda_gen *x, th_kernel_source *out) {
  th_gen *g = &x->g;
  const th_cuda_shape *s = x->shape;
  th_dim kept[TH_MAX_RANK];
  uint32_t n_kept = 0;
  th_cuda_row r = {0};
  for (uint32_t i = 0; i < s->domain.rank; i++)
    if (!th_gen_reduces(g->c, s->rows, i)) kept[n_kept++] = s->domain.dims[i];
  th_type row_shape = {.rank = n_kept, .dims = kept};
  th_cuda_begin(x);
  if (s->in_shared) th_gen_line(g, "extern __shared__ __align__(16) unsigned char th_shared[];");
  x->shared = 0;
  const char *count = th_gen_dim(g, s->n_rows), *number = th_gen_name(g, "r"), *sums[TH_CUDA_MAX_COLUMNS];
  bool many = s->rows_per_block > 1;
  th_gen_line(g, many ? "const int place = threadIdx.x %% %lld;" : "const int place = threadIdx.x;", (long long)s->team);
  for (uint32_t i = 0; i < s->n_sums; i++) {
    th_dtype dtype = type_of(x, s->sums[i]->operands[0])->dtype;
    sums[i] = th_gen_name(g, "c");
    th_gen_line(g, "%s %s[%lld][%d];", th_gen_ctype(dtype), sums[i], (long long)s->turns, s->width);
    th_gen_line(g, "for (int turn = 0; turn < %lld; turn++) for (int lane = 0; lane < %d; lane++) %s[turn][lane] = %s;", (long long)s->turns, s->width, sums[i],
                th_gen_reduce_start(s->sums[i]->kind, dtype));
  }
  const char *first = many ? th_arena_printf(g->a, "%lld", (long long)s->rows_per_block) : "1";
  if (s->persistent) th_gen_open(g, "for (int64_t block = blockIdx.x; block * %s < %s; block += gridDim.x)", first, count);
  else th_gen_open(g, "%s", "");
  if (!s->persistent) th_gen_line(g, "const int64_t block = blockIdx.x;");
  if (many) {
    th_gen_line(g, "const %s row = block * %lld + threadIdx.x / %lld;", g->index_type, (long long)s->rows_per_block, (long long)s->team);
    th_gen_line(g, "const bool live = row < %s;", count);
    th_gen_line(g, "const %s %s = live ? row : %s - 1;", g->index_type, number, count);
  } else {
    th_gen_line(g, "const %s %s = block;", g->index_type, number);
  }
  th_cuda_spread(x, number, kept, n_kept, NULL, r.index);
  th_strbuf before = g->s, declared = th_strbuf_make(g->a);
  g->s = th_strbuf_make(g->a);
  x->declared = &declared;
  x->n_held = x->first_pass = 0;
  x->row = &r;
  size_t mark = th_gen_mark(g);
  th_gen_hoist(g, &row_shape, r.index, false);
  bool row_results = false;
  for (uint32_t k = 0; k < g->body->n_outputs; k++) row_results |= !th_cuda_is_sum(x, g->body->outputs[k]) && th_type_same_shape(type_of(x, g->body->outputs[k]), &row_shape);
  if (row_results && !th_type_same_shape(&row_shape, &s->domain)) {
    th_gen_open(g, many ? "if (place == 0 && live)" : "if (place == 0)");
    th_cuda_store_all(x, &row_shape, r.index);
    th_gen_close(g);
  }
  if (s->stores || s->n_sums) {
    const char *element[TH_MAX_RANK];
    if (many) th_gen_open(g, "if (live)");
    int opened = open_turns(x, &r, element);
    for (uint32_t i = 0; i < s->n_sums; i++)
      th_gen_line(g, "%s", th_gen_reduce_step(g, s->sums[i]->kind, type_of(x, s->sums[i]->operands[0])->dtype, th_arena_printf(g->a, "%s[turn][lane]", sums[i]),
                                              th_gen_element(g, s->sums[i]->operands[0], element)));
    th_cuda_store_all(x, &s->domain, element);
    close_turns(x, opened);
    if (many) th_gen_close(g);
  }
  th_gen_forget(g, mark);
  x->row = NULL;
  const char *text = th_strbuf_text(&g->s);
  g->s = before;
  th_strbuf_add(&g->s, th_strbuf_text(&declared));
  if (x->copies) { /* after the numbers of the row, which come meanwhile */
    th_strbuf_add_bytes(&g->s, text, x->first_pass - 1);
    th_gen_line(g, "th_copies_wait();");
    text += x->first_pass - 1;
  }
  th_strbuf_add(&g->s, text);
  th_gen_close(g);
  if (s->n_sums) write_parts(x, sums);
  th_context *c = g->c;
  th_dim blocks = s->persistent ? th_dim_const(c, s->blocks) : th_cuda_blocks(x, s->n_rows, s->rows_per_block);
  th_cuda_finish(x, blocks, th_dim_const(c, 1), (int)(s->team * s->rows_per_block), s->n_sums > 0, out);
  out->shared = (uint32_t)x->shared;
  if (s->n_sums) th_cuda_add_parts(x, s->blocks, out);
}
