/* Ops that read or write where other values say. */
#include <string.h>

#include "executors/ref/value.h"

static th_status bad_index(const th_ref_call *call, int64_t index, int64_t size) {
  return TH_ERROR(OUT_OF_RANGE, "op %s: index %lld is not in [0, %lld)", th_op_name(call->op->kind), (long long)index, (long long)size);
}

/* take and scatter_add: indices' dimensions stand in dim's place. */
static th_status whole_slices(const th_ref_call *call) {
  const th_ref_value *x = call->in[0], *at = call->in[1];
  bool takes = call->op->kind == TH_OP_take;
  const th_ref_value *moved = takes ? call->out : call->in[2];
  uint32_t dim = (uint32_t)th_ref_int(call, "dim");
  int64_t index[TH_MAX_RANK] = {0};
  if (!takes) memcpy(call->out->cells, x->cells, x->n * sizeof *x->cells);
  for (size_t k = 0; k < moved->n; k++, th_ref_next(index, moved->dims, moved->rank)) {
    int64_t where[TH_MAX_RANK], i = at->cells[th_ref_at(at, index + dim)].i;
    if (i < 0 || i >= x->dims[dim]) return bad_index(call, i, x->dims[dim]);
    memcpy(where, index, dim * sizeof *where);
    where[dim] = i;
    memcpy(where + dim + 1, index + dim + at->rank, (x->rank - dim - 1) * sizeof *where);
    size_t to = th_ref_at(x, where);
    if (takes)
      moved->cells[k] = x->cells[to];
    else
      call->out->cells[to] = th_ref_combine(TH_OP_add, x->dtype, call->out->cells[to], moved->cells[k]);
  }
  if (!takes)
    for (size_t k = 0; k < call->out->n; k++) call->out->cells[k] = th_ref_round(x->dtype, call->out->cells[k]);
  return TH_OK;
}

/* take_along, scatter_add_along, scatter_along */
static th_status along(const th_ref_call *call) {
  const th_ref_value *x = call->in[0], *at = call->in[1];
  uint32_t dim = (uint32_t)th_ref_int(call, "dim");
  int64_t index[TH_MAX_RANK] = {0};
  bool takes = call->op->kind == TH_OP_take_along, adds = call->op->kind == TH_OP_scatter_add_along;
  if (!takes) memcpy(call->out->cells, x->cells, x->n * sizeof *x->cells);
  for (size_t k = 0; k < at->n; k++, th_ref_next(index, at->dims, at->rank)) {
    int64_t where[TH_MAX_RANK], i = at->cells[k].i;
    if (i < 0 || i >= x->dims[dim]) return bad_index(call, i, x->dims[dim]);
    memcpy(where, index, sizeof where);
    where[dim] = i;
    size_t to = th_ref_at(x, where);
    if (takes)
      call->out->cells[k] = x->cells[to];
    else if (adds)
      call->out->cells[to] = th_ref_combine(TH_OP_add, x->dtype, call->out->cells[to], call->in[2]->cells[k]);
    else
      call->out->cells[to] = call->in[2]->cells[k];
  }
  if (adds)
    for (size_t k = 0; k < call->out->n; k++) call->out->cells[k] = th_ref_round(x->dtype, call->out->cells[k]);
  return TH_OK;
}

th_status th_ref_index(const th_ref_call *call) {
  return call->op->kind == TH_OP_take || call->op->kind == TH_OP_scatter_add ? whole_slices(call) : along(call);
}
