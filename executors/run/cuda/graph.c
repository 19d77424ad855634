/* Steps of a plan. The first call with some addresses is issued instruction by instruction, the second with the same ones is captured into
 * a CUDA graph, later ones are replays; other addresses (or sizes) begin again, and until they are captured in turn the old ones find their graph.
 * What a step is made of does not depend on the caller's allocator: small user inputs are copied in, results are copied out (execute.c), the
 * arena is held. */
#include <stdlib.h>
#include <string.h>

#include "executors/run/cuda/program.h"
#include "ir/base/log.h"

static bool same(const th_cuda_call *c, void *const *addresses, const int64_t *values) {
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  if (!addresses || memcmp(addresses, c->run->buffers, p->n_buffer_kind * sizeof *addresses)) return false;
  return !c->run->plan->dynamic || !memcmp(values, c->run->values, p->n_expr_kind * sizeof *values);
}

static th_status remember(const th_cuda_call *c, void ***addresses, int64_t **values) {
  const Thunder__Wire__Plan *p = c->run->plan->wire;
  if (!*addresses) *addresses = calloc(p->n_buffer_kind + 1, sizeof **addresses);
  if (!*values && c->run->plan->dynamic) *values = calloc(p->n_expr_kind + 1, sizeof **values);
  if (!*addresses || (c->run->plan->dynamic && !*values)) {
    free(*addresses);
    *addresses = NULL;
    return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a step's addresses");
  }
  memcpy(*addresses, c->run->buffers, p->n_buffer_kind * sizeof **addresses);
  if (*values) memcpy(*values, c->run->values, p->n_expr_kind * sizeof **values);
  return TH_OK;
}

/* The graph that was replayed last may still run: its memory is the held one, which its successor uses too. */
static th_status drop(const th_cuda_driver *d, th_cuda_graph *g) {
  th_status status = g->pending ? TH_CUDA(d, event_synchronize, (g->done)) : TH_OK;
  g->pending = false;
  if (g->exec) status = th_status_join(status, TH_CUDA(d, graph_exec_destroy, (g->exec)));
  g->exec = NULL;
  free(g->captured);
  g->captured = NULL;
  return status;
}

th_status th__cuda_graph_release(const th_cuda_driver *d, th_cuda_graph *g) {
  th_status status = drop(d, g);
  free(g->seen);
  g->seen = NULL;
  return status;
}

void th__cuda_graph_free(const th_cuda_driver *d, th_cuda_graph *g) {
  th_status_free(th__cuda_graph_release(d, g));
  if (g->stream) d->stream_destroy(g->stream);
  if (g->done) d->event_destroy(g->done);
  free(g->seen_values);
  free(g->captured_values);
  *g = (th_cuda_graph){0};
}

static th_status capture(th_cuda_call *c, th_cuda_graph *g) {
  const th_cuda_driver *d = c->driver;
  CUgraph graph = NULL;
  th_cuda_call inner = *c;
  TH_TRY(drop(d, g));
  if (!g->stream) TH_TRY(TH_CUDA(d, stream_create, (&g->stream, TH_CU_STREAM_NON_BLOCKING)));
  TH_TRY(TH_CUDA(d, capture_begin, (g->stream, TH_CU_CAPTURE_THREAD_LOCAL)));
  inner.stream = g->stream;
  inner.capturing = true;
  th_status status = th__cuda_issue(&inner);
  status = th_status_join(status, TH_CUDA(d, capture_end, (g->stream, &graph)));
  if (!status) status = TH_CUDA(d, graph_instantiate, (&g->exec, graph, 0));
  if (!status) status = remember(c, &g->captured, &g->captured_values);
  if (graph) status = th_status_join(status, TH_CUDA(d, graph_destroy, (graph)));
  if (status) status = th_status_join(status, drop(d, g));
  return status;
}

th_status th__cuda_step(th_cuda_call *c) {
  th_cuda_graph *g = &c->plan->graph;
  bool replay = g->exec && same(c, g->captured, g->captured_values);
  if (!replay && same(c, g->seen, g->seen_values)) {
    th_status status = capture(c, g);
    replay = !status;
    if (status) { /* the work itself has not begun */
      c->run->plan->no_graph = true;
      TH_LOG(WARNING, "plan %s goes on kernel by kernel, its step cannot be captured into a CUDA graph: %s", c->run->plan->wire->name, th_status_message(status));
      th_status_free(status);
    }
  }
  th_status status = replay ? TH_CUDA(c->driver, graph_launch, (g->exec, c->stream)) : th__cuda_issue(c);
  if (!status) return remember(c, &g->seen, &g->seen_values);
  free(g->seen); /* captured is only what once went through: library calls have made their states by then */
  g->seen = NULL;
  return status;
}
