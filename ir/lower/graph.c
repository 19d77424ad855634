/* Ops that own graphs: their meaning without differentiation is the body, written in place. */
#include "ir/lower/helpers.h"
#include "ir/pass.h"

static void in_place(th_rule *r, const char *name) {
  const th_attr *body = th_rule_attr(r, name);
  const th_trace *source = r->source;
  if (body->kind != TH_ATTR_GRAPH || body->graph >= source->n_graphs) {
    th_rule_fail(r, "%s names no graph", name);
    return;
  }
  const th_graph *g = source->graphs[body->graph];
  if (g->n_inputs != r->n_in) th_rule_fail(r, "@%s takes %u inputs, the op has %u operands", g->name, g->n_inputs, r->n_in);
  if (g->n_outputs > TH_MAX_RESULTS) th_rule_fail(r, "@%s has more than %d outputs", g->name, TH_MAX_RESULTS);
  if (r->b->status) return;
  th_fail(r->b, th_inline(r->b, source, body->graph, r->in, r->out));
  r->n_out = g->n_outputs;
}

void th__lower_checkpoint(th_rule *r) { in_place(r, "body"); }
void th__lower_custom_grad(th_rule *r) { in_place(r, "fwd"); }
