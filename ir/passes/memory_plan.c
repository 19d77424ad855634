/* Memory plan: level 3 -> level 4. Order, lifetimes, places.
 *
 * Values fall into storages: a value, the views on it, and the results computed over it in place. Unions are made in this
 * order, each only while nobody reads the old bytes later: collectives in place; outputs that leave the plan (escaping);
 * outputs written back, computed straight into the input's buffer (else copied there at the end); results of kernels over a
 * dying operand. What is left is the arena's: lifetimes go to th_offsets_assign.
 *
 * Positions: instruction i of the order stands at i + 1; inputs are there at 0; the end of the call is n + 1. */
#include <string.h>

#include "ir/batch.h"
#include "ir/executor.h"
#include "ir/passes/offsets.h"
#include "ir/passes/plan.h"
#include "ir/passes/schedule.h"

typedef struct home { th_place place; uint32_t index; th_dim offset; } home; /* where a storage is */
typedef struct write_back { uint32_t input; th_value value; bool through_copy; } write_back;

typedef struct scratch { th_dim bytes, offset; size_t life; } scratch; /* of an op while it runs */

typedef struct planner {
  const th_options *options;
  const th_trace *t;
  th_context *c;
  th_arena *arena;
  const th_op **order;
  size_t n_ops;
  uint32_t *position;  /* by value: of the op that makes it; 0 for inputs */
  th_value *parent;    /* by value: of its storage; the storage's first value is its own parent */
  th_dim *offset;      /* by value: bytes from its storage's start (views) */
  uint32_t *last_read; /* by storage */
  home *homes;         /* by storage */
  uint32_t *wait_at;   /* by value: position where a started collective's result is ready; 0 none */
  scratch *scratch;    /* by position in the order */
  write_back *writes;
  size_t n_writes, writes_capacity;
} planner;

static th_value storage_of(planner *p, th_value v) {
  while (p->parent[v] != v) v = p->parent[v] = p->parent[p->parent[v]];
  return v;
}

static const th_value_info *info(const planner *p, th_value v) { return &p->t->values[v]; }
static th_dim bytes_of(planner *p, th_value v) { return th_extent_bytes(p->c, &info(p, v)->type, info(p, v)->strides); }

/* v is the whole of its storage's first value, laid out the same way. */
static bool is_whole(planner *p, th_value v) {
  th_value s = storage_of(p, v);
  return s == v || (th_dim_is(p->c, p->offset[v], 0) && bytes_of(p, v) == bytes_of(p, s));
}

static void read_at(planner *p, th_value v, uint32_t position) {
  th_value s = storage_of(p, v);
  if (p->last_read[s] < position) p->last_read[s] = position;
}

static void unite(planner *p, th_value storage, th_value into) {
  p->parent[storage] = into;
  if (p->last_read[into] < p->last_read[storage]) p->last_read[into] = p->last_read[storage];
}

static bool leaves(th_output_kind kind) {
  return kind == TH_OUTPUT_FRESH || kind == TH_OUTPUT_GRADIENT || kind == TH_OUTPUT_SAVED;
}

/* ---- analysis ---- */

static th_status fill_storages(planner *p) {
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_op *op = p->order[i];
    for (uint32_t k = 0; k < op->n_results; k++) {
      th_value v = op->result + k;
      p->position[v] = (uint32_t)i + 1;
      if (!info(p, v)->strides) return TH_ERROR(INTERNAL, "result %u of op %s has no strides before the memory plan", k, th_op_name(op->kind));
      int64_t least, most;
      th_dim_bounds(p->c, bytes_of(p, v), &least, &most);
      if (least > INT64_C(1) << 48) return TH_ERROR(RESOURCE_EXHAUSTED, "result %u of op %s (of captured op %u) takes at least %lld bytes", k, th_op_name(op->kind), op->origin, (long long)least);
      if (!th_op_is_alias(op)) continue;
      const th_dim *strides;
      th_dim elements;
      th_value x = op->operands[op->kind == TH_OP_barrier || op->kind == TH_OP_wait ? k : 0];
      if (!th_alias_window(p->t, op, k, info(p, x)->strides, &strides, &elements))
        return TH_ERROR(INTERNAL, "op %s needs a copy that layout did not make", th_op_name(op->kind));
      p->parent[v] = storage_of(p, x);
      p->offset[v] = th_dim_add(p->c, p->offset[x], th_dim_mul(p->c, elements, th_dim_const(p->c, (int64_t)th_dtype_size(info(p, v)->type.dtype))));
      if (op->kind == TH_OP_wait) p->wait_at[x] = (uint32_t)i + 1;
    }
  }
  return TH_OK;
}

static uint32_t read_end(const planner *p, const th_op *op, uint32_t position) { /* a started collective reads until its waits */
  for (uint32_t k = 0; op->kind == TH_OP_all_reduce_start && k < op->n_results; k++)
    if (p->wait_at[op->result + k] > position) position = p->wait_at[op->result + k];
  return position;
}

static void fill_reads(planner *p) {
  const th_graph *g = p->t->graphs[0];
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_op *op = p->order[i];
    if (op->kind == TH_OP_wait)
      for (uint32_t k = 0; k < op->n_operands; k++) read_at(p, op->operands[k], (uint32_t)i + 1);
    if (th_op_is_alias(op)) continue;
    for (uint32_t k = 0; k < op->n_operands; k++)
      if (op->operands[k] != TH_NO_VALUE) read_at(p, op->operands[k], (uint32_t)i + 1);
  }
  for (uint32_t o = 0; o < g->n_outputs; o++) { /* what is written back is wanted as it is, too */
    bool written = p->t->outputs[o].kind == TH_OUTPUT_WRITTEN && p->position[storage_of(p, g->outputs[o])] > 0;
    if (leaves(p->t->outputs[o].kind) || written) read_at(p, g->outputs[o], (uint32_t)p->n_ops + 1);
  }
}

/* ---- unions ---- */

static void collectives_in_place(planner *p) {
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_op *op = p->order[i];
    uint32_t at = (uint32_t)i + 1;
    if (op->kind != TH_OP_all_reduce && op->kind != TH_OP_all_reduce_start) continue;
    for (uint32_t k = 0; k < op->n_operands; k++) {
      th_value x = op->operands[k], y = op->result + k, s = storage_of(p, x);
      bool alone = p->last_read[s] == at && p->position[s] > 0 && info(p, s)->def->kind != TH_OP_const && is_whole(p, x);
      for (uint32_t m = 0; m < op->n_operands; m++) alone &= m == k || storage_of(p, op->operands[m]) != s;
      if (alone && th_strides_equal(p->c, info(p, x)->type.dims, info(p, x)->type.rank, info(p, x)->strides, info(p, y)->strides)) unite(p, y, s);
    }
    for (uint32_t k = 0; k < op->n_operands; k++) read_at(p, op->operands[k], read_end(p, op, at));
  }
}

static void place_escaping(planner *p) {
  const th_graph *g = p->t->graphs[0];
  for (uint32_t o = 0; o < g->n_outputs; o++) {
    if (!leaves(p->t->outputs[o].kind)) continue;
    th_value s = storage_of(p, g->outputs[o]);
    if (p->homes[s].place == TH_PLACE_NONE) p->homes[s] = (home){TH_PLACE_ESCAPING, o, 0};
  }
}

/* May result `r` of the op at position `at` be computed over the bytes of storage `s`, whose last reader it is? */
static bool over_operand(planner *p, const th_op *op, uint32_t r, th_value s, th_value like) {
  const th_executor *executor = th_executor_of(p->options, op);
  th_value y = op->result + r;
  bool found = false;
  if ((op->kind != TH_OP_fusion && op->kind != TH_OP_library) || !executor || !executor->in_place) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    th_value x = op->operands[k];
    if (storage_of(p, x) != s) continue;
    if (!is_whole(p, x) || bytes_of(p, x) != bytes_of(p, y) || info(p, x)->type.rank != info(p, y)->type.rank) return false;
    if (!th_type_same_shape(&info(p, x)->type, &info(p, y)->type)) return false;
    if (!th_strides_equal(p->c, info(p, x)->type.dims, info(p, x)->type.rank, info(p, x)->strides, info(p, y)->strides)) return false;
    if (th_dtype_size(info(p, x)->type.dtype) != th_dtype_size(info(p, y)->type.dtype)) return false;
    if (!executor->in_place(p->t, op, k, r)) return false;
    found = true;
  }
  (void)like;
  return found;
}

static uint32_t writer_of(const th_trace *t, uint32_t input) {
  if (t->inputs[input].written_by >= 0) return (uint32_t)t->inputs[input].written_by;
  for (uint32_t o = 0; o < t->graphs[0]->n_outputs; o++)
    if (t->outputs[o].kind == TH_OUTPUT_WRITTEN && t->outputs[o].base == input) return o;
  return TH_NONE;
}

/* The output's value straight into the buffer of input `i`? Its storage is made by one op, free, of the input's layout, and
 * nobody reads the old bytes from then on. */
static bool writes_straight(planner *p, uint32_t i, th_value w) {
  th_value x = p->t->graphs[0]->inputs[i], s = storage_of(p, w);
  uint32_t made = p->position[s];
  if (made == 0 || p->homes[s].place != TH_PLACE_NONE || info(p, s)->def->kind == TH_OP_const) return false;
  if (!is_whole(p, w) || !th_type_equal(&info(p, w)->type, &info(p, x)->type)) return false;
  if (!th_strides_equal(p->c, info(p, x)->type.dims, info(p, x)->type.rank, info(p, x)->strides, info(p, w)->strides)) return false;
  if (!th_strides_dense(p->c, &info(p, x)->type, info(p, x)->strides)) return false;
  if (p->last_read[x] < made) return true;
  const th_op *op = info(p, s)->def;
  return p->last_read[x] == made && over_operand(p, op, s - op->result, x, w);
}

static void place_written(planner *p) {
  const th_graph *g = p->t->graphs[0];
  uint32_t end = (uint32_t)p->n_ops + 1;
  for (uint32_t i = 0; i < g->n_inputs; i++) { /* an old value that is to be copied at the end stays until then */
    uint32_t o = writer_of(p->t, i);
    if (o == TH_NONE) continue;
    th_value w = g->outputs[o];
    if (storage_of(p, w) == g->inputs[i] && is_whole(p, w) &&
        th_strides_equal(p->c, info(p, w)->type.dims, info(p, w)->type.rank, info(p, w)->strides, info(p, g->inputs[i])->strides))
      continue; /* written with what it holds */
    write_back write = {i, w, true};
    TH_PUSH(p->arena, p->writes, p->n_writes, p->writes_capacity, write);
    if (p->position[storage_of(p, w)] == 0) read_at(p, w, end);
  }
  for (size_t k = 0; k < p->n_writes; k++) {
    write_back *write = &p->writes[k];
    th_value s = storage_of(p, write->value);
    write->through_copy = !writes_straight(p, write->input, write->value);
    if (write->through_copy) read_at(p, write->value, end);
    else p->homes[s] = (home){TH_PLACE_BORROWED, write->input, 0};
  }
}

static void place_constants(planner *p) {
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_op *op = p->order[i];
    if (op->kind != TH_OP_const || p->homes[op->result].place != TH_PLACE_NONE) continue;
    const th_attr *value = th_attr_get(op, "value");
    if (value->kind != TH_ATTR_INT || th_dim_is_const(p->c, value->i, NULL)) p->homes[op->result].place = TH_PLACE_CONSTANT;
  }
}

static void kernels_in_place(planner *p) {
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_op *op = p->order[i];
    uint32_t at = (uint32_t)i + 1, batch = th_op_batch(p->t, op);
    if (op->kind != TH_OP_fusion && op->kind != TH_OP_library) continue;
    for (uint32_t r = 0; r < op->n_results; r++) {
      th_value y = op->result + r;
      if (storage_of(p, y) != y || p->homes[y].place != TH_PLACE_NONE) continue;
      uint32_t n = op->n_operands / batch, first = r / (op->n_results / batch) * n; /* operands of the result's component */
      for (uint32_t k = first; k < first + n; k++) {
        th_value s = storage_of(p, op->operands[k]);
        if (p->position[s] == 0 || p->homes[s].place != TH_PLACE_NONE || p->last_read[s] != at || p->position[s] == at) continue;
        if (!over_operand(p, op, r, s, y)) continue;
        unite(p, y, s); /* from here on the storage is read later, or has a second maker here: no other result takes it */
        if (p->last_read[s] == at) p->last_read[s] = at + 1;
        break;
      }
    }
  }
}

/* Numbers in host memory that are no input's: each has a place of its own, the device reads them at any time. */
static void place_staged(planner *p) {
  int64_t at = 0;
  for (size_t i = 0; i < p->n_ops; i++)
    for (uint32_t k = 0; k < p->order[i]->n_results; k++) {
      th_value v = p->order[i]->result + k;
      if (!info(p, v)->type.host || storage_of(p, v) != v || p->homes[v].place != TH_PLACE_NONE) continue;
      p->homes[v] = (home){TH_PLACE_STAGED, 0, th_dim_const(p->c, at)};
      at += TH_STAGED_BYTES;
    }
}

static th_status place_arena(planner *p) {
  size_t n = 0;
  th_value *of = TH_ARENA_ARRAY(p->arena, th_value, p->t->n_values);
  for (size_t i = 0; i < p->n_ops; i++)
    for (uint32_t k = 0; k < p->order[i]->n_results; k++) {
      th_value v = p->order[i]->result + k;
      if (storage_of(p, v) == v && p->homes[v].place == TH_PLACE_NONE) of[n++] = v;
    }
  th_lifetime *lives = TH_ARENA_ARRAY(p->arena, th_lifetime, n + p->n_ops);
  size_t n_scratch = 0;
  for (size_t i = 0; i < p->n_ops; i++) {
    const th_executor *executor = th_executor_of(p->options, p->order[i]);
    bool runs = p->order[i]->kind == TH_OP_fusion || p->order[i]->kind == TH_OP_library;
    p->scratch[i].bytes = runs && executor && executor->scratch ? executor->scratch(p->options, p->t, p->order[i]) : th_dim_const(p->c, 0);
    if (th_dim_is(p->c, p->scratch[i].bytes, 0)) continue;
    p->scratch[i].life = n + n_scratch++;
    lives[p->scratch[i].life] = (th_lifetime){.bytes = p->scratch[i].bytes, .begin = (uint32_t)i + 1, .end = (uint32_t)i + 1};
  }
  for (size_t i = 0; i < n; i++) {
    uint32_t begin = p->position[of[i]], end = p->last_read[of[i]];
    lives[i] = (th_lifetime){.bytes = bytes_of(p, of[i]), .begin = begin, .end = end < begin ? begin : end};
  }
  th_offsets_assign(p->c, lives, n + n_scratch);
  for (size_t i = 0; i < p->n_ops; i++)
    if (!th_dim_is(p->c, p->scratch[i].bytes, 0)) p->scratch[i].offset = lives[p->scratch[i].life].offset;
  for (size_t i = 0; i < n; i++) p->homes[of[i]] = (home){TH_PLACE_ARENA, 0, lives[i].offset};
  return TH_OK;
}

/* ---- writing ---- */

static void set_place(planner *p, th_trace *to, const th_value *map, th_value v) {
  th_value s = storage_of(p, v);
  const home *h = &p->homes[s];
  th_value_info *out = &to->values[map[v]];
  const th_op *def = info(p, v)->def;
  if (def && th_op_is_alias(def)) {
    bool each = def->kind == TH_OP_barrier || def->kind == TH_OP_wait;
    th_value x = def->operands[each ? v - def->result : 0];
    const th_dim *strides;
    th_dim elements = th_dim_const(p->c, 0);
    if (!each) th_alias_window(p->t, def, v - def->result, info(p, x)->strides, &strides, &elements);
    out->place = TH_PLACE_ALIAS;
    out->place_index = map[x];
    out->place_offset = th_dim_mul(p->c, elements, th_dim_const(p->c, (int64_t)th_dtype_size(info(p, v)->type.dtype)));
    return;
  }
  out->place = h->place;
  out->place_index = h->index;
  out->place_offset = h->place == TH_PLACE_ARENA || h->place == TH_PLACE_STAGED ? h->offset : th_dim_const(p->c, 0);
}

static th_status write_op(planner *p, th_rewriter *r, size_t at) {
  const th_op *op = p->order[at];
  if (op->kind != TH_OP_fusion && op->kind != TH_OP_library) {
    th_rewrite_clone(r, op);
    return TH_OK;
  }
  th_trace *to = r->b.trace;
  th_value *operands = TH_ARENA_ARRAY(p->arena, th_value, op->n_operands);
  th_type *types = TH_ARENA_ARRAY(p->arena, th_type, op->n_results);
  for (uint32_t i = 0; i < op->n_operands; i++) operands[i] = r->map[op->operands[i]];
  for (uint32_t i = 0; i < op->n_results; i++) types[i] = info(p, op->result + i)->type;
  th_attr attrs[8] = {0};
  th_op_kind kind = op->kind == TH_OP_fusion ? TH_OP_launch : TH_OP_invoke;
  attrs[th_op_attr_index(kind, "body")] = *th_attr_get(op, "body");
  if (kind == TH_OP_launch) {
    attrs[th_op_attr_index(kind, "kernel")] = th_make_string(p->c, "");
    attrs[th_op_attr_index(kind, "sizes")] = th_make_ints(p->c, NULL, 0);
    attrs[th_op_attr_index(kind, "batch")] = *th_attr_get(op, "batch");
  } else {
    static const char *const kept[] = {"function", "ints", "alpha", "beta"};
    for (int i = 0; i < 4; i++) attrs[th_op_attr_index(kind, kept[i])] = *th_attr_get(op, kept[i]);
  }
  if (!th_dim_is(p->c, p->scratch[at].bytes, 0)) attrs[th_op_attr_index(kind, "scratch")] = th_make_ints(p->c, (th_dim[]){p->scratch[at].offset, p->scratch[at].bytes}, 2);
  th_op *made = th_trace_add_op(to, 0, kind, operands, op->n_operands, attrs, types, op->n_results);
  made->executor = op->executor;
  made->origin = op->origin;
  for (uint32_t i = 0; i < op->n_results; i++) {
    to->values[made->result + i].strides = info(p, op->result + i)->strides;
    th_rewrite_map(r, op->result + i, made->result + i);
  }
  return TH_OK;
}

static void write_copies(planner *p, th_rewriter *r, th_value *outputs) {
  th_trace *to = r->b.trace;
  for (size_t k = 0; k < p->n_writes; k++) {
    const write_back *w = &p->writes[k];
    if (!w->through_copy) continue;
    th_value x = p->t->graphs[0]->inputs[w->input], from = r->map[w->value];
    th_type type = info(p, x)->type;
    th_op *copy = th_trace_add_op(to, 0, TH_OP_copy, &from, 1, NULL, &type, 1);
    to->values[copy->result].strides = info(p, x)->strides;
    to->values[copy->result].place = TH_PLACE_BORROWED;
    to->values[copy->result].place_index = w->input;
    to->values[copy->result].place_offset = th_dim_const(p->c, 0);
    outputs[writer_of(p->t, w->input)] = copy->result;
  }
}

th_status th_pass_memory_plan(const th_options *options, const th_trace *in, th_trace **out) {
  th_arena *a = th_context_arena(in->context);
  const th_graph *g = in->graphs[0];
  planner p = {.options = options, .t = in, .c = in->context, .arena = a, .order = th_schedule(in), .n_ops = g->n_ops};
  p.position = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  p.parent = TH_ARENA_ARRAY(a, th_value, in->n_values);
  p.offset = TH_ARENA_ARRAY(a, th_dim, in->n_values);
  p.last_read = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  p.homes = TH_ARENA_ARRAY(a, home, in->n_values);
  p.scratch = TH_ARENA_ARRAY(a, scratch, g->n_ops);
  p.wait_at = TH_ARENA_ARRAY(a, uint32_t, in->n_values);
  for (th_value v = 0; v < in->n_values; v++) {
    p.parent[v] = v;
    p.offset[v] = th_dim_const(p.c, 0);
  }
  for (uint32_t i = 0; i < g->n_inputs; i++) p.homes[g->inputs[i]] = (home){TH_PLACE_BORROWED, i, 0};
  TH_TRY(fill_storages(&p));
  fill_reads(&p);
  collectives_in_place(&p);
  place_escaping(&p);
  place_written(&p);
  place_constants(&p);
  place_staged(&p);
  kernels_in_place(&p);
  TH_TRY(place_arena(&p));
  th_rewriter r = th_rewrite_begin(in);
  for (uint32_t i = 1; i < in->n_graphs; i++) th_rewrite_graph(&r, i);
  for (size_t i = 0; i < p.n_ops; i++) TH_TRY(write_op(&p, &r, i));
  for (uint32_t i = 0; i < g->n_inputs; i++) set_place(&p, r.b.trace, r.map, g->inputs[i]);
  for (size_t i = 0; i < p.n_ops; i++)
    for (uint32_t k = 0; k < p.order[i]->n_results; k++) set_place(&p, r.b.trace, r.map, p.order[i]->result + k);
  th_rewrite_outputs(&r, 0);
  write_copies(&p, &r, r.b.trace->graphs[0]->outputs);
  return th_rewrite_finish(&r, out);
}
