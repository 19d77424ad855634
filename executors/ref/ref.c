#include "executors/ref/ref.h"

#include <string.h>

#include "executors/ref/value.h"

typedef struct machine { /* all ranks */
  const th_trace *t;
  th_context *c;
  th_arena *a;
  uint32_t world;
  th_ref_value **values; /* [rank][value] */
  int64_t **symbols;     /* [rank][symbol] */
} machine;

static th_status run_graph(machine *m, uint32_t graph, const uint32_t *ranks, uint32_t n_ranks);

/* ---- mesh ---- */

typedef struct axis {
  uint32_t size, stride;
} axis;

static th_status find_axis(const machine *m, const char *name, axis *out) {
  uint32_t n = th_mesh_axis_count(m->c), known = 1;
  axis axes[32];
  if (n > 32) return TH_ERROR(UNIMPLEMENTED, "the mesh has %u axes, at most 32 are run", n);
  for (uint32_t i = 0; i < n; i++) known *= th_mesh_axis_get(m->c, i).size ? th_mesh_axis_get(m->c, i).size : 1;
  for (uint32_t i = n, stride = 1; i-- > 0;) {
    uint32_t size = th_mesh_axis_get(m->c, i).size;
    axes[i] = (axis){size ? size : m->world / known, stride};
    stride *= axes[i].size;
    if (!i && stride != m->world) return TH_ERROR(INVALID_ARGUMENT, "the mesh has %u ranks, the run %u", stride, m->world);
  }
  for (uint32_t i = 0; i < n; i++)
    if (!strcmp(th_mesh_axis_get(m->c, i).name, name)) return *out = axes[i], TH_OK;
  return TH_ERROR(INVALID_ARGUMENT, "there is no mesh axis %s", name);
}

/* ---- collectives ---- */

static th_status reduce_over(const machine *m, const th_op *op, uint32_t operand, axis on, uint32_t rank, th_ref_value *out) {
  const char *how = th_attr_get(op, "op")->s;
  bool avg = !strcmp(how, "avg");
  th_op_kind step = !strcmp(how, "max") ? TH_OP_max : !strcmp(how, "min") ? TH_OP_min : TH_OP_add;
  uint32_t first = rank - rank / on.stride % on.size * on.stride;
  const th_ref_value *x = &m->values[first][op->operands[operand]];
  *out = th_ref_value_make(m->a, x->dtype, x->dims, x->rank);
  for (uint32_t k = 0; k < on.size; k++) {
    const th_ref_value *y = &m->values[first + k * on.stride][op->operands[operand]];
    if (y->n != x->n)
      return TH_ERROR(INVALID_ARGUMENT, "op %s: ranks %u and %u bring %zu and %zu elements", th_op_name(op->kind), first, first + k * on.stride, x->n,
                      y->n);
    for (size_t i = 0; i < x->n; i++) out->cells[i] = k ? th_ref_combine(step, x->dtype, out->cells[i], y->cells[i]) : y->cells[i];
  }
  for (size_t i = 0; i < x->n; i++) {
    if (avg && th_dtype_is_float(x->dtype))
      out->cells[i].f /= on.size;
    else if (avg)
      out->cells[i].i /= on.size;
    out->cells[i] = th_ref_round(x->dtype, out->cells[i]);
  }
  return TH_OK;
}

static void copy_slices(th_ref_value *to, const th_ref_value *from, uint32_t dim, int64_t to_start, int64_t from_start, int64_t count) {
  size_t inner = 1, outer = 1;
  for (uint32_t i = 0; i < dim; i++) outer *= (size_t)from->dims[i];
  for (uint32_t i = dim + 1; i < from->rank; i++) inner *= (size_t)from->dims[i];
  for (size_t o = 0; o < outer; o++)
    memcpy(to->cells + (o * (size_t)to->dims[dim] + (size_t)to_start) * inner,
           from->cells + (o * (size_t)from->dims[dim] + (size_t)from_start) * inner, (size_t)count * inner * sizeof *to->cells);
}

static th_status collective(machine *m, const th_op *op, uint32_t n_ranks) {
  axis on;
  if (n_ranks != m->world) return TH_ERROR(UNIMPLEMENTED, "op %s: a collective in a branch that not all ranks take", th_op_name(op->kind));
  TH_TRY(find_axis(m, th_attr_get(op, "axis")->s, &on));
  th_ref_value *results = TH_ARENA_ARRAY(m->a, th_ref_value, (size_t)m->world * op->n_results);
  for (uint32_t rank = 0; rank < m->world; rank++) {
    th_ref_value *out = &results[(size_t)rank * op->n_results];
    uint32_t at = rank / on.stride % on.size, first = rank - at * on.stride;
    if (op->kind == TH_OP_rank) {
      *out = th_ref_value_make(m->a, TH_DTYPE_i64, NULL, 0);
      out->cells[0].i = at;
    } else if (op->kind == TH_OP_all_reduce || op->kind == TH_OP_all_reduce_start) {
      for (uint32_t i = 0; i < op->n_operands; i++) TH_TRY(reduce_over(m, op, i, on, rank, &out[i]));
    } else {
      uint32_t dim = (uint32_t)th_attr_int(op, m->c, "dim");
      th_ref_value *x = &m->values[rank][op->operands[0]];
      int64_t dims[TH_MAX_RANK];
      memcpy(dims, x->dims, x->rank * sizeof *dims);
      if (op->kind == TH_OP_all_gather) {
        dims[dim] *= on.size;
        *out = th_ref_value_make(m->a, x->dtype, dims, x->rank);
        for (uint32_t k = 0; k < on.size; k++)
          copy_slices(out, &m->values[first + k * on.stride][op->operands[0]], dim, k * x->dims[dim], 0, x->dims[dim]);
      } else {
        th_ref_value sum;
        TH_TRY(reduce_over(m, op, 0, on, rank, &sum));
        dims[dim] /= on.size;
        *out = th_ref_value_make(m->a, x->dtype, dims, x->rank);
        copy_slices(out, &sum, dim, 0, at * dims[dim], dims[dim]);
      }
    }
  }
  for (uint32_t rank = 0; rank < m->world; rank++)
    for (uint32_t i = 0; i < op->n_results; i++) m->values[rank][op->result + i] = results[(size_t)rank * op->n_results + i];
  return TH_OK;
}

/* ---- one op ---- */

static th_status compute(machine *m, const th_op *op, uint32_t rank) {
  const th_ref_value **in = TH_ARENA_ARRAY(m->a, const th_ref_value *, op->n_operands);
  th_ref_value *out = TH_ARENA_ARRAY(m->a, th_ref_value, op->n_results);
  for (uint32_t i = 0; i < op->n_operands; i++) in[i] = &m->values[rank][op->operands[i]];
  for (uint32_t i = 0; i < op->n_results; i++) {
    const th_type *t = th_type_of(m->t, op->result + i);
    int64_t dims[TH_MAX_RANK];
    for (uint32_t d = 0; d < t->rank; d++)
      if ((dims[d] = th_dim_eval(m->c, t->dims[d], m->symbols[rank])) < 0)
        return TH_ERROR(INTERNAL, "op %s: a size of %lld", th_op_name(op->kind), (long long)dims[d]);
    if (th_dtype_is_complex(t->dtype) || (th_dtype_is_float(t->dtype) && th_dtype_size(t->dtype) == 1))
      return TH_ERROR(UNIMPLEMENTED, "the reference executor has no %s values", th_dtype_name(t->dtype));
    out[i] = th_ref_value_make(m->a, t->dtype, dims, t->rank);
  }
  th_ref_call call = {.arena = m->a, .trace = m->t, .op = op, .symbols = m->symbols[rank], .in = in, .out = out};
  th_status status;
  switch (op->kind) {
    case TH_OP_dot:
    case TH_OP_conv:
    case TH_OP_conv_grad_x:
    case TH_OP_conv_grad_w:
    case TH_OP_window_max:
    case TH_OP_window_sum:
    case TH_OP_window_sum_grad:
    case TH_OP_window_max_grad: status = th_ref_contraction(&call); break;
    case TH_OP_take:
    case TH_OP_take_along:
    case TH_OP_scatter_add:
    case TH_OP_scatter_add_along:
    case TH_OP_scatter_along: status = th_ref_index(&call); break;
    default: status = th_op_spec_get(op->kind)->traits & TH_POINTWISE ? th_ref_pointwise(&call) : th_ref_shape(&call);
  }
  if (status) return status;
  memcpy(&m->values[rank][op->result], out, op->n_results * sizeof *out);
  return TH_OK;
}

/* body(operands from `skip` on) on `ranks`; results into the op's. */
static th_status run_body(machine *m, const th_op *op, uint32_t graph, uint32_t skip, const uint32_t *ranks, uint32_t n_ranks) {
  const th_graph *body = m->t->graphs[graph];
  for (uint32_t k = 0; k < n_ranks; k++)
    for (uint32_t i = 0; i < body->n_inputs; i++) m->values[ranks[k]][body->inputs[i]] = m->values[ranks[k]][op->operands[i + skip]];
  TH_TRY(run_graph(m, graph, ranks, n_ranks));
  for (uint32_t k = 0; k < n_ranks; k++)
    for (uint32_t i = 0; i < body->n_outputs; i++) m->values[ranks[k]][op->result + i] = m->values[ranks[k]][body->outputs[i]];
  return TH_OK;
}

static th_status run_op(machine *m, const th_op *op, const uint32_t *ranks, uint32_t n_ranks) {
  switch (op->kind) {
    case TH_OP_rank:
    case TH_OP_all_reduce:
    case TH_OP_all_reduce_start:
    case TH_OP_all_gather:
    case TH_OP_reduce_scatter: return collective(m, op, n_ranks);
    case TH_OP_wait:
    case TH_OP_barrier:
    case TH_OP_copy:
      for (uint32_t k = 0; k < n_ranks; k++)
        for (uint32_t i = 0; i < op->n_results; i++) m->values[ranks[k]][op->result + i] = m->values[ranks[k]][op->operands[i]];
      return TH_OK;
    case TH_OP_invoke:
    case TH_OP_call:
    case TH_OP_fusion:
    case TH_OP_library:
    case TH_OP_launch: return run_body(m, op, th_attr_get(op, "body")->graph, 0, ranks, n_ranks);
    case TH_OP_cond: {
      uint32_t *taken = TH_ARENA_ARRAY(m->a, uint32_t, n_ranks);
      for (int yes = 0; yes < 2; yes++) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < n_ranks; k++)
          if ((m->values[ranks[k]][op->operands[0]].cells[0].i != 0) == yes) taken[n++] = ranks[k];
        if (n) TH_TRY(run_body(m, op, th_attr_get(op, yes ? "yes" : "no")->graph, 1, taken, n));
      }
      return TH_OK;
    }
    default: break;
  }
  if (th_op_spec_get(op->kind)->level != TH_LEVEL_PRIM)
    return TH_ERROR(FAILED_PRECONDITION,
                    "op %s must be lowered (passes number and decompose) "
                    "before the reference executor runs it",
                    th_op_name(op->kind));
  for (uint32_t k = 0; k < n_ranks; k++) TH_TRY(compute(m, op, ranks[k]));
  return TH_OK;
}

/* Shapes that came out must be those that stand in the trace. */
static th_status check_results(const machine *m, const th_op *op, uint32_t rank) {
  for (uint32_t i = 0; i < op->n_results; i++) {
    const th_ref_value *v = &m->values[rank][op->result + i];
    const th_type *t = th_type_of(m->t, op->result + i);
    bool fits = v->dtype == t->dtype && v->rank == t->rank;
    for (uint32_t d = 0; fits && d < t->rank; d++) fits = v->dims[d] == th_dim_eval(m->c, t->dims[d], m->symbols[rank]);
    if (!fits)
      return TH_ERROR(INTERNAL,
                      "op %s: result %u is not of the dtype and shape that "
                      "stand in the trace",
                      th_op_name(op->kind), i);
  }
  return TH_OK;
}

static void bind_results(machine *m, const th_op *op, uint32_t rank) {
  for (uint32_t s = 0; s < th_symbol_count(m->c); s++) {
    const th_symbol *symbol = th_trace_symbol(m->t, s);
    if (symbol->source == TH_SYMBOL_RESULT && symbol->input >= op->result && symbol->input < op->result + op->n_results)
      m->symbols[rank][s] = m->values[rank][symbol->input].cells[0].i;
  }
}

static th_status run_graph(machine *m, uint32_t graph, const uint32_t *ranks, uint32_t n_ranks) {
  const th_graph *g = m->t->graphs[graph];
  for (size_t i = 0; i < g->n_ops; i++) {
    TH_TRY(run_op(m, g->ops[i], ranks, n_ranks));
    for (uint32_t k = 0; k < n_ranks; k++) {
      TH_TRY(check_results(m, g->ops[i], ranks[k]));
      if (!graph) bind_results(m, g->ops[i], ranks[k]);
    }
  }
  return TH_OK;
}

/* ---- inputs ---- */

static th_status bind_symbols(machine *m, uint32_t rank, const th_ref_tensor *inputs) {
  const th_graph *g = m->t->graphs[0];
  for (uint32_t s = 0; s < th_symbol_count(m->c); s++) {
    const th_symbol *symbol = th_trace_symbol(m->t, s);
    if (symbol->input == TH_NONE || symbol->source == TH_SYMBOL_RESULT) continue;
    if (symbol->input >= g->n_inputs)
      return TH_ERROR(INVALID_ARGUMENT, "symbol s%u comes from input %u, there are %u", s, symbol->input, g->n_inputs);
    const th_ref_tensor *t = &inputs[symbol->input];
    if (symbol->source == TH_SYMBOL_SIZE) {
      if (symbol->dimension >= t->rank)
        return TH_ERROR(INVALID_ARGUMENT, "symbol s%u is dimension %u of input %u, which has rank %u", s, symbol->dimension, symbol->input, t->rank);
      m->symbols[rank][s] = t->dims[symbol->dimension];
    } else {
      m->symbols[rank][s] = m->values[rank][g->inputs[symbol->input]].cells[0].i;
    }
  }
  return TH_OK;
}

static th_status load_inputs(machine *m, uint32_t rank, const th_ref_tensor *inputs) {
  const th_graph *g = m->t->graphs[0];
  for (uint32_t i = 0; i < g->n_inputs; i++) TH_TRY(th_ref_load(m->a, &inputs[i], &m->values[rank][g->inputs[i]]));
  TH_TRY(bind_symbols(m, rank, inputs));
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const th_type *t = th_type_of(m->t, g->inputs[i]);
    bool fits = inputs[i].dtype == t->dtype && inputs[i].rank == t->rank;
    for (uint32_t d = 0; fits && d < t->rank; d++) fits = inputs[i].dims[d] == th_dim_eval(m->c, t->dims[d], m->symbols[rank]);
    if (!fits)
      return TH_ERROR(INVALID_ARGUMENT,
                      "input %u is %s of rank %u, which is not the dtype and "
                      "shape of the signature",
                      i, th_dtype_name(inputs[i].dtype), inputs[i].rank);
  }
  return TH_OK;
}

th_status th_ref_run(const th_trace *trace, uint32_t world, const th_ref_tensor *inputs, th_ref_tensor *outputs) {
  const th_graph *g = trace->graphs[0];
  th_arena *a = th_context_arena(trace->context);
  machine m = {.t = trace,
               .c = trace->context,
               .a = a,
               .world = world,
               .values = TH_ARENA_ARRAY(a, th_ref_value *, world),
               .symbols = TH_ARENA_ARRAY(a, int64_t *, world)};
  uint32_t *ranks = TH_ARENA_ARRAY(a, uint32_t, world);
  for (uint32_t r = 0; r < world; r++) {
    ranks[r] = r;
    m.values[r] = TH_ARENA_ARRAY(a, th_ref_value, trace->n_values);
    m.symbols[r] = TH_ARENA_ARRAY(a, int64_t, th_symbol_count(trace->context));
    TH_TRY(load_inputs(&m, r, inputs + (size_t)r * g->n_inputs));
  }
  TH_TRY(run_graph(&m, 0, ranks, world));
  for (uint32_t r = 0; r < world; r++)
    for (uint32_t i = 0; i < g->n_outputs; i++) outputs[(size_t)r * g->n_outputs + i] = th_ref_store(a, &m.values[r][g->outputs[i]]);
  return TH_OK;
}
