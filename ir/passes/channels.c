/* channels: where convolutions are wanted channels-last, the values between them are described so. A convolution's result (N, C, …) becomes
 * the (N, …, C) that lies in memory, row-major, and what is computed of it (pointwise, reductions, windows, pads) is computed of that: kernels
 * read and write side by side, and batch norm's sums over (N, …) are sums of columns. Only strides change where the two forms meet:
 *
 *   %y = conv(%x, %w) : [N, C, H, W]                 %y = conv(%x, %w)      %l = transpose(%y) {0, 2, 3, 1} : [N, H, W, C]
 *   %m = reduce_sum(%y) {0, 2, 3}            ->      %m = reduce_sum(%l) {0, 1, 2}
 *   %z = add(%y, %y)      conv(%z, %v)               %a = add(%l, %l)       %z = transpose(%a) {0, 3, 1, 2}     conv(%z, %v)
 *
 * Ops that are not known here get the first form.
 *
 * In the second form a convolution with windows of one element is a matrix product, and so are its gradients; and channels that are no
 * multiple of eight (an image's three) are filled up with zeros in the operands, where tensor cores compute and cuDNN would go without. */
#include <string.h>

#include "ir/executor.h"
#include "ir/passes/passes.h"

typedef struct channels {
  const th_options *options;
  th_rewriter r;
  th_value *last; /* by value of the old trace: its value in the second form; TH_NO_VALUE: none yet */
  th_value *places; /* by value of the old trace, of a window_max's indices: those in the second form, flat over (..., C); TH_NO_VALUE: none */
  th_value *full; /* by value of the old trace: its first form, its channels filled up; TH_NO_VALUE: none yet */
  th_context *c;
} channels;

static const th_type *old_type(const channels *p, th_value v) { return th_type_of(p->r.from, v); }

/* Dimension i of the second form is dimension order[i] of the first. */
static void order_of(uint32_t rank, int64_t *order) {
  order[0] = 0;
  for (uint32_t i = 1; i < rank; i++) order[i] = i + 1 < rank ? i + 1 : 1;
}

static int64_t place_of(uint32_t rank, int64_t dim) { return dim == 0 ? 0 : dim == 1 ? rank - 1 : dim - 1; }

/* And back. */
static void back_of(uint32_t rank, int64_t *order) {
  for (uint32_t i = 0; i < rank; i++) order[i] = place_of(rank, i);
}

static th_attr permuted(const channels *p, const th_attr *ints) {
  th_dim to[TH_MAX_RANK];
  int64_t order[TH_MAX_RANK];
  order_of(ints->count, order);
  for (uint32_t i = 0; i < ints->count; i++) to[i] = ints->ints[order[i]];
  return th_make_ints(p->c, to, ints->count);
}

static th_type permuted_type(const channels *p, const th_type *type) {
  th_dim dims[TH_MAX_RANK];
  int64_t order[TH_MAX_RANK];
  th_type out = *type;
  order_of(type->rank, order);
  for (uint32_t i = 0; i < type->rank; i++) dims[i] = type->dims[order[i]];
  out.dims = th_type_make(p->c, type->dtype, dims, type->rank).dims;
  return out;
}

/* ---- the two forms of a value ---- */

enum { POINTWISE_OPERANDS = 4 };
static th_value last(channels *p, th_value old);
static th_value pointwise_last(channels *p, const th_op *op);

static th_value first(channels *p, th_value old) {
  if (old == TH_NO_VALUE || p->r.map[old] != TH_NO_VALUE) return th_rewrite_value(&p->r, old);
  const th_op *op = p->r.from->values[old].def;
  if (p->last[old] != TH_NO_VALUE) {
    int64_t back[TH_MAX_RANK];
    back_of(old_type(p, old)->rank, back);
    p->r.map[old] = th_transpose(&p->r.b, p->last[old], back);
  } else { /* it waited for who reads it */
    for (uint32_t k = 0; k < op->n_operands; k++) first(p, op->operands[k]);
    th_rewrite_clone(&p->r, op);
  }
  return p->r.map[old];
}

/* A broadcast, made anew in the second form; TH_NO_VALUE: it does not say. */
static th_value broadcast_last(channels *p, const th_op *op) {
  const th_type *type = old_type(p, op->result), *from = old_type(p, op->operands[0]);
  const th_attr *dims = th_attr_get(op, "dims");
  int64_t map[TH_MAX_RANK], whole = from->rank == type->rank;
  th_type to = permuted_type(p, type);
  for (uint32_t i = 0; i < from->rank; i++) {
    int64_t dim;
    if (!th_dim_is_const(p->c, dims->ints[i], &dim)) return TH_NO_VALUE;
    whole = whole && dim == i;
    map[i] = place_of(type->rank, dim);
  }
  if (whole) {
    for (uint32_t i = 0; i < type->rank; i++) map[i] = i;
    return th_broadcast(&p->r.b, last(p, op->operands[0]), to.dims, to.rank, map);
  }
  for (uint32_t i = 1; i < from->rank; i++)
    if (map[i] < map[i - 1]) return TH_NO_VALUE;
  return th_broadcast(&p->r.b, first(p, op->operands[0]), to.dims, to.rank, map);
}

static bool waits(const channels *p, th_value old) { return p->r.map[old] == TH_NO_VALUE && p->last[old] == TH_NO_VALUE; }

static th_value last(channels *p, th_value old) {
  if (p->last[old] != TH_NO_VALUE) return p->last[old];
  const th_op *op = p->r.from->values[old].def;
  if (waits(p, old) && op->kind != TH_OP_broadcast) return pointwise_last(p, op);
  th_value made = op && op->kind == TH_OP_broadcast ? broadcast_last(p, op) : TH_NO_VALUE;
  if (made == TH_NO_VALUE) {
    int64_t order[TH_MAX_RANK];
    order_of(old_type(p, old)->rank, order);
    made = th_transpose(&p->r.b, first(p, old), order);
  }
  return p->last[old] = made;
}

/* `op` with these operands and attributes, its results in the second form; the first of them. */
static th_value again(channels *p, const th_op *op, const th_value *operands, const th_attr *attrs) {
  th_type types[2];
  for (uint32_t i = 0; i < op->n_results; i++) types[i] = permuted_type(p, old_type(p, op->result + i));
  th_op *made = th_trace_add_op(p->r.b.trace, 0, op->kind, operands, op->n_operands, attrs, types, op->n_results);
  made->no_grad = op->no_grad;
  made->autocast = op->autocast;
  made->origin = op->origin;
  for (uint32_t i = 0; i < op->n_results; i++) p->last[op->result + i] = made->result + i;
  return made->result;
}

static th_value pointwise_last(channels *p, const th_op *op) {
  th_value operands[POINTWISE_OPERANDS];
  for (uint32_t k = 0; k < op->n_operands; k++) operands[k] = last(p, op->operands[k]);
  return again(p, op, operands, op->attrs);
}

static bool has_last(const channels *p, th_value old) { return old != TH_NO_VALUE && p->last[old] != TH_NO_VALUE; }

static bool is_image(const channels *p, th_value old) { return old_type(p, old)->rank >= 4; }

/* ---- ops ---- */

/* Those of values that wait (broadcasts, and what is made of them alone) wait too: for one that reads them, and its form. */
static bool pointwise(channels *p, const th_op *op) {
  bool any = false, all = op->n_operands > 0;
  if (!(th_op_spec_get(op->kind)->traits & TH_POINTWISE) || op->n_results != 1 || op->n_operands > POINTWISE_OPERANDS || !is_image(p, op->result)) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    any |= has_last(p, op->operands[k]);
    all &= waits(p, op->operands[k]);
  }
  if (any) pointwise_last(p, op);
  return any || all;
}

static bool reduction(channels *p, const th_op *op) {
  if (!(th_op_spec_get(op->kind)->traits & TH_REDUCTION) || op->kind == TH_OP_argmax || op->kind == TH_OP_argmin || !has_last(p, op->operands[0])) return false;
  const th_attr *dims = th_attr_get(op, "dims");
  uint32_t rank = old_type(p, op->operands[0])->rank, n = 0;
  bool gone[TH_MAX_RANK] = {false};
  for (uint32_t i = 0; i < dims->count; i++) {
    int64_t dim;
    if (!th_dim_is_const(p->c, dims->ints[i], &dim)) return false;
    gone[place_of(rank, dim)] = true;
  }
  int64_t reduced[TH_MAX_RANK], back[TH_MAX_RANK], at[TH_MAX_RANK], kept = 0;
  for (uint32_t i = 0; i < rank; i++) {
    at[i] = kept;
    if (gone[i]) reduced[n++] = i;
    else kept++;
  }
  bool same = true;
  uint32_t k = 0;
  for (uint32_t i = 0; i < rank; i++) { /* where the dimensions that are left have gone */
    int64_t place = place_of(rank, i);
    if (gone[place]) continue;
    back[k] = at[place];
    same = same && back[k] == k;
    k++;
  }
  th_value made = th_reduce(&p->r.b, op->kind, p->last[op->operands[0]], reduced, n, false);
  th_rewrite_map(&p->r, op->result, same ? made : th_transpose(&p->r.b, made, back));
  return true;
}

/* pad and slice: a number for each dimension. */
static bool by_dimension(channels *p, const th_op *op) {
  if ((op->kind != TH_OP_pad && op->kind != TH_OP_slice) || !has_last(p, op->operands[0])) return false;
  th_attr attrs[3];
  for (uint32_t i = 0; i < 3; i++) attrs[i] = permuted(p, &op->attrs[i]);
  th_value operands[2] = {p->last[op->operands[0]], op->n_operands > 1 ? first(p, op->operands[1]) : TH_NO_VALUE};
  again(p, op, operands, attrs);
  return true;
}

/* Windows over all but the first two dimensions: over all but the first, of extent 1 along the channels. */
static bool window(channels *p, const th_op *op) {
  static const struct { const char *name; int64_t channels; } lists[] = {{"kernel", 1}, {"stride", 1}, {"padding", 0}, {"dilation", 1}};
  bool of_max = op->kind == TH_OP_window_max_grad;
  if ((op->kind != TH_OP_window_max && op->kind != TH_OP_window_sum && op->kind != TH_OP_window_sum_grad && !of_max) || !has_last(p, op->operands[0])) return false;
  if (of_max && p->places[op->operands[1]] == TH_NO_VALUE) return false;
  const th_type *x = old_type(p, op->operands[0]);
  uint32_t n = th_attr_get(op, "kernel")->count;
  th_attr attrs[5];
  th_dim ints[TH_MAX_RANK];
  if (n + 2 != x->rank) return false;
  for (int k = 0; k < 5; k++) {
    const char *name = k < 4 ? lists[k].name : "shape";
    for (uint32_t i = 0; i < n; i++) ints[i] = th_attr_get(op, name)->ints[i];
    ints[n] = k < 4 ? th_dim_const(p->c, lists[k].channels) : x->dims[1];
    attrs[th_op_attr_index(op->kind, name)] = th_make_ints(p->c, ints, n + 1);
  }
  th_value operands[2] = {p->last[op->operands[0]], of_max ? p->places[op->operands[1]] : TH_NO_VALUE};
  again(p, op, operands, attrs);
  if (op->kind != TH_OP_window_max) return true;
  th_value at = p->places[op->result + 1] = p->last[op->result + 1];
  p->last[op->result + 1] = th_div(&p->r.b, at, th_broadcast_like(&p->r.b, th_const_dim(&p->r.b, x->dims[1], old_type(p, op->result + 1)->dtype), at));
  return true;
}

static bool barrier(channels *p, const th_op *op) {
  bool any = false;
  if (op->kind != TH_OP_barrier) return false;
  for (uint32_t k = 0; k < op->n_operands; k++) any |= has_last(p, op->operands[k]);
  if (!any) return false;
  th_value *operands = TH_ARENA_ARRAY(th_context_arena(p->c), th_value, op->n_operands);
  th_type *types = TH_ARENA_ARRAY(th_context_arena(p->c), th_type, op->n_operands);
  for (uint32_t k = 0; k < op->n_operands; k++) {
    operands[k] = has_last(p, op->operands[k]) ? p->last[op->operands[k]] : first(p, op->operands[k]);
    types[k] = *th_type_of(p->r.b.trace, operands[k]);
  }
  th_op *made = th_trace_add_op(p->r.b.trace, 0, op->kind, operands, op->n_operands, op->attrs, types, op->n_results);
  made->origin = op->origin;
  for (uint32_t k = 0; k < op->n_operands; k++) {
    if (has_last(p, op->operands[k])) p->last[op->result + k] = made->result + k;
    else p->r.map[op->result + k] = made->result + k;
  }
  return true;
}

/* ---- convolutions ---- */

static bool all_are(const channels *p, const th_attr *list, int64_t value) {
  for (uint32_t i = 0; i < list->count; i++)
    if (!th_dim_is(p->c, list->ints[i], value)) return false;
  return true;
}

static th_value matrix_of(channels *p, th_value w) { /* (O, C, 1, ...) as (O, C) */
  return th_reshape(&p->r.b, first(p, w), old_type(p, w)->dims, 2);
}

/* Windows of one element, one after the other: a product over the channels. */
static bool product(channels *p, const th_op *op) {
  bool of_w = op->kind == TH_OP_conv_grad_w;
  const th_type *w = old_type(p, of_w ? op->result : op->operands[1]);
  uint32_t rank = w->rank, n = rank - 1;
  int64_t channel = rank - 1, rows[TH_MAX_RANK];
  for (uint32_t i = 2; i < rank; i++)
    if (!th_dim_is(p->c, w->dims[i], 1)) return false;
  if (!all_are(p, th_attr_get(op, "stride"), 1) || !all_are(p, th_attr_get(op, "padding"), 0) || th_attr_int(op, p->c, "groups") != 1) return false;
  th_builder *b = &p->r.b;
  if (of_w) {
    for (uint32_t i = 0; i < n; i++) rows[i] = i;
    th_value x = last(p, op->operands[0]), grad = last(p, op->operands[1]);
    th_rewrite_map(&p->r, op->result, th_reshape(b, th_dot(b, grad, x, NULL, NULL, 0, rows, rows, n), w->dims, rank));
    return true;
  }
  int64_t of_matrix = op->kind == TH_OP_conv;
  th_value x = last(p, op->operands[0]), matrix = matrix_of(p, op->operands[1]);
  p->last[op->result] = th_dot(b, x, matrix, NULL, NULL, 0, &channel, &of_matrix, 1);
  return true;
}

enum { CHANNELS = 8 };

/* Channels that are missing to a multiple of CHANNELS; 0 too where that is of no use. */
static int64_t missing(const channels *p, const th_op *op) {
  const th_type *x = old_type(p, op->operands[0]);
  int64_t n;
  if ((op->kind != TH_OP_conv && op->kind != TH_OP_conv_grad_w) || th_dtype_size(x->dtype) != 2 || th_attr_int(op, p->c, "groups") != 1 || !th_dim_is_const(p->c, x->dims[1], &n)) return 0;
  return (CHANNELS - n % CHANNELS) % CHANNELS;
}

static th_value filled_up(channels *p, th_value x, uint32_t dim, int64_t more) {
  const th_type *type = th_type_of(p->r.b.trace, x);
  th_dim none[TH_MAX_RANK], high[TH_MAX_RANK];
  for (uint32_t i = 0; i < type->rank; i++) none[i] = high[i] = th_dim_const(p->c, 0);
  high[dim] = th_dim_const(p->c, more);
  return th_pad(&p->r.b, x, th_const(&p->r.b, 0, type->dtype), none, high, none);
}

static th_value full_image(channels *p, th_value old, int64_t more) {
  if (p->full[old] != TH_NO_VALUE) return p->full[old];
  int64_t back[TH_MAX_RANK];
  uint32_t rank = old_type(p, old)->rank;
  back_of(rank, back);
  return p->full[old] = th_transpose(&p->r.b, filled_up(p, last(p, old), rank - 1, more), back);
}

static bool with_full_channels(channels *p, const th_op *op) {
  int64_t more = missing(p, op);
  th_attr attrs[5];
  th_builder *b = &p->r.b;
  if (!more) return false;
  bool of_w = op->kind == TH_OP_conv_grad_w;
  th_value operands[2] = {full_image(p, op->operands[0], more), of_w ? first(p, op->operands[1]) : filled_up(p, first(p, op->operands[1]), 1, more)};
  memcpy(attrs, op->attrs, th_op_spec_get(op->kind)->n_attrs * sizeof *attrs);
  if (of_w) {
    th_dim shape[TH_MAX_RANK];
    const th_attr *old = th_attr_get(op, "shape");
    for (uint32_t i = 0; i < old->count; i++) shape[i] = i == 1 ? th_dim_add(p->c, old->ints[i], th_dim_const(p->c, more)) : old->ints[i];
    attrs[th_op_attr_index(op->kind, "shape")] = th_make_ints(p->c, shape, old->count);
  }
  th_value made = th_build1(b, op->kind, operands, 2, attrs);
  if (of_w && !b->status) made = th_slice_dim(b, made, 1, th_dim_const(p->c, 0), old_type(p, op->result)->dims[1], th_dim_const(p->c, 1));
  th_rewrite_map(&p->r, op->result, made);
  if (!of_w && !b->status) last(p, op->result);
  return true;
}

static bool is_asked_for(const channels *p, const th_op *op) {
  for (uint32_t i = 0; i < p->options->n_executors; i++)
    if (p->options->executors[i]->channels_last && p->options->executors[i]->channels_last(p->options, p->r.from, op)) return true;
  return false;
}

static bool wants(const channels *p, const th_op *op) {
  return (op->kind == TH_OP_conv || op->kind == TH_OP_conv_grad_x) && is_image(p, op->result) && is_asked_for(p, op);
}

static void rewrite(channels *p, const th_op *op) {
  th_rewrite_at(&p->r, op);
  if (op->kind == TH_OP_broadcast && is_image(p, op->result)) return; /* when it is read */
  if (pointwise(p, op) || reduction(p, op) || by_dimension(p, op) || window(p, op) || barrier(p, op)) return;
  bool conv = wants(p, op) || (op->kind == TH_OP_conv_grad_w && is_image(p, op->result) && is_asked_for(p, op));
  if (conv && (product(p, op) || with_full_channels(p, op))) return;
  for (uint32_t k = 0; k < op->n_operands; k++) first(p, op->operands[k]);
  th_rewrite_clone(&p->r, op);
  if (wants(p, op)) last(p, op->result);
}

th_status th_pass_channels(const th_options *options, const th_trace *in, th_trace **out) {
  const th_graph *g = in->graphs[0];
  channels p = {.options = options, .r = th_rewrite_begin(in), .c = in->context};
  bool any = false;
  for (size_t i = 0; i < g->n_ops; i++) any |= wants(&p, g->ops[i]);
  if (!any) {
    *out = (th_trace *)in;
    return TH_OK;
  }
  p.last = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, in->n_values);
  p.full = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, in->n_values);
  p.places = TH_ARENA_ARRAY(th_context_arena(in->context), th_value, in->n_values);
  for (size_t v = 0; v < in->n_values; v++) p.last[v] = p.full[v] = p.places[v] = TH_NO_VALUE;
  for (uint32_t k = 1; k < in->n_graphs; k++) th_rewrite_graph(&p.r, k);
  p.r.b.graph = 0;
  for (size_t i = 0; i < g->n_ops && !p.r.b.status; i++) rewrite(&p, g->ops[i]);
  for (uint32_t o = 0; o < g->n_outputs && !p.r.b.status; o++) first(&p, g->outputs[o]);
  if (!p.r.b.status) th_rewrite_outputs(&p.r, 0);
  TH_TRY(th_rewrite_finish(&p.r, out));
  return th_pass_dce(options, *out, out); /* places in the first form, where only the gradient asks for them */
}
