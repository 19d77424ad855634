/* Text form out (docs: IR reference; ir/parse.c reads it). One line an op:
 *   %3, %4 = name(%1, %2, _) {attr: value} : f32[s0, 4], i64[]   // user's line */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/names.h"

typedef struct printer {
  const th_trace *t;
  const th_names *names;
  th_context *c;
  th_strbuf s;
  uint32_t *number; /* value -> number in order of definition */
  uint32_t last;    /* op whose source line was printed last */
} printer;

static void print_dims(printer *p, const th_dim *dims, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (i) th_strbuf_add(&p->s, ", ");
    th_dim_print(p->c, dims[i], &p->s);
  }
}

static void print_type(printer *p, const th_type *type) {
  th_strbuf_printf(&p->s, "%s[", th_dtype_name(type->dtype));
  print_dims(p, type->dims, type->rank);
  th_strbuf_add(&p->s, "]");
  if (type->weak) th_strbuf_add(&p->s, " weak");
  if (type->host) th_strbuf_add(&p->s, " host");
  if (!type->sharding) return;
  th_strbuf_add(&p->s, " @(");
  for (uint32_t i = 0; i < th_mesh_axis_count(p->c); i++) {
    int32_t place = th_sharding_placement(p->c, type->sharding, i);
    th_strbuf_printf(&p->s, "%s%s: ", i ? ", " : "", th_mesh_axis_get(p->c, i).name);
    if (place == TH_PLACE_REPLICATED) th_strbuf_add(&p->s, "replicated");
    else if (place == TH_PLACE_PARTIAL) th_strbuf_add(&p->s, "partial");
    else th_strbuf_printf(&p->s, "shard %d", place);
  }
  th_strbuf_add(&p->s, ")");
}

static void print_value_info(printer *p, th_value v) {
  static const char *const places[] = {"", "borrowed", "escaping", "arena", "constant", "alias", "staged"};
  const th_value_info *i = &p->t->values[v];
  print_type(p, &i->type);
  if (i->strides) {
    th_strbuf_add(&p->s, " strides(");
    print_dims(p, i->strides, i->type.rank);
    th_strbuf_add(&p->s, ")");
  }
  if (i->place == TH_PLACE_NONE) return;
  th_strbuf_printf(&p->s, " %s(", places[i->place]);
  if (i->place == TH_PLACE_ALIAS) th_strbuf_printf(&p->s, "%%%u + ", p->number[i->place_index]);
  if (i->place == TH_PLACE_BORROWED || i->place == TH_PLACE_ESCAPING) th_strbuf_printf(&p->s, "%u", i->place_index);
  if (i->place == TH_PLACE_ALIAS || i->place == TH_PLACE_ARENA || i->place == TH_PLACE_STAGED) th_dim_print(p->c, i->place_offset, &p->s);
  th_strbuf_add(&p->s, ")");
}

static void print_float(printer *p, double v) {
  if (isnan(v)) th_strbuf_add(&p->s, "nan");
  else if (isinf(v)) th_strbuf_add(&p->s, v < 0 ? "-inf" : "inf");
  else {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) { /* the shortest that reads back the same */
      snprintf(text, sizeof text, "%.*g", digits, v);
      if (strtod(text, NULL) == v) break;
    }
    if (!strpbrk(text, ".e")) strcat(text, ".0");
    th_strbuf_add(&p->s, text);
  }
}

static void print_text(printer *p, const char *text) { /* in quotes, as the parser reads it */
  th_strbuf_add(&p->s, "\"");
  for (const char *c = text; *c; c++) {
    if (*c == '"' || *c == '\\') th_strbuf_printf(&p->s, "\\%c", *c);
    else if ((unsigned char)*c < 32) th_strbuf_printf(&p->s, "\\x%02x", (unsigned)(unsigned char)*c);
    else th_strbuf_add_bytes(&p->s, c, 1);
  }
  th_strbuf_add(&p->s, "\"");
}

static void print_attr(printer *p, const th_attr *a) {
  switch (a->kind) {
    case TH_ATTR_INT: th_dim_print(p->c, a->i, &p->s); break;
    case TH_ATTR_FLOAT: print_float(p, a->f); break;
    case TH_ATTR_BOOL: th_strbuf_add(&p->s, a->b ? "true" : "false"); break;
    case TH_ATTR_STRING:
      print_text(p, a->s);
      break;
    case TH_ATTR_DTYPE: th_strbuf_add(&p->s, th_dtype_name(a->dtype)); break;
    case TH_ATTR_GRAPH: th_strbuf_printf(&p->s, "@%u", a->graph); break;
    case TH_ATTR_INTS:
      th_strbuf_add(&p->s, "[");
      print_dims(p, a->ints, a->count);
      th_strbuf_add(&p->s, "]");
      break;
    case TH_ATTR_BOOLS:
      th_strbuf_add(&p->s, "(");
      for (uint32_t i = 0; i < a->count; i++) th_strbuf_printf(&p->s, "%s%s", i ? ", " : "", a->bools[i] ? "true" : "false");
      th_strbuf_add(&p->s, ")");
      break;
    default: break;
  }
}

static void print_source(printer *p, const th_op *op) {
  if (!p->names || op->origin >= p->names->n_ops) return;
  const th_op_source *n = &p->names->ops[op->origin];
  if (!n->line) return;
  if (p->last < p->names->n_ops && p->names->ops[p->last].line == n->line && !strcmp(p->names->ops[p->last].file, n->file)) return;
  p->last = op->origin;
  const char *base = strrchr(n->file, '/');
  th_strbuf_printf(&p->s, "  // %s:%u: %s", base ? base + 1 : n->file, n->line, n->text);
  if (*n->scope) th_strbuf_printf(&p->s, "  (%s)", n->scope);
}

static void print_op(printer *p, const th_op *op) {
  const th_op_spec *spec = th_op_spec_get(op->kind);
  th_strbuf_add(&p->s, "  ");
  for (uint32_t i = 0; i < op->n_results; i++) th_strbuf_printf(&p->s, "%s%%%u", i ? ", " : "", p->number[op->result + i]);
  th_strbuf_printf(&p->s, "%s%s(", op->n_results ? " = " : "", spec->name);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    if (i) th_strbuf_add(&p->s, ", ");
    if (op->operands[i] == TH_NO_VALUE) th_strbuf_add(&p->s, "_");
    else th_strbuf_printf(&p->s, "%%%u", p->number[op->operands[i]]);
  }
  th_strbuf_add(&p->s, ")");
  bool any = false;
  for (uint32_t i = 0; i < spec->n_attrs; i++) {
    if (op->attrs[i].kind == TH_ATTR_ABSENT) continue;
    th_strbuf_printf(&p->s, "%s%s: ", any ? ", " : " {", spec->attrs[i].name);
    print_attr(p, &op->attrs[i]);
    any = true;
  }
  if (any) th_strbuf_add(&p->s, "}");
  if (op->n_results) th_strbuf_add(&p->s, " : ");
  for (uint32_t i = 0; i < op->n_results; i++) {
    if (i) th_strbuf_add(&p->s, ", ");
    print_value_info(p, op->result + i);
  }
  if (op->no_grad) th_strbuf_add(&p->s, " #no_grad");
  if (op->autocast) th_strbuf_printf(&p->s, " #autocast(%s)", th_dtype_name(op->autocast));
  if (op->executor) th_strbuf_printf(&p->s, " #executor(%s)", op->executor);
  print_source(p, op);
  th_strbuf_add(&p->s, "\n");
}

static void print_symbols(printer *p) {
  for (uint32_t i = 0; i < th_symbol_count(p->c); i++) {
    const th_symbol *s = th_trace_symbol(p->t, i);
    th_strbuf_printf(&p->s, "symbol s%u = ", i);
    if (s->input == TH_NONE) th_strbuf_add(&p->s, "unbound");
    else if (s->source == TH_SYMBOL_SIZE) th_strbuf_printf(&p->s, "size(%u, %u)", s->input, s->dimension);
    else if (s->source == TH_SYMBOL_INTEGER) th_strbuf_printf(&p->s, "integer(%u)", s->input);
    else th_strbuf_printf(&p->s, "result(%%%u)", p->number[s->input]);
    th_strbuf_printf(&p->s, " in [%" PRId64 ", ", s->min);
    if (s->max < 0) th_strbuf_add(&p->s, "*]");
    else th_strbuf_printf(&p->s, "%" PRId64 "]", s->max);
    if (s->multiple > 1) th_strbuf_printf(&p->s, " multiple %" PRId64, s->multiple);
    th_strbuf_add(&p->s, "\n");
  }
  for (size_t i = 0; i < th_assumption_count(p->c); i++) {
    th_dim b, a = th_assumption_get(p->c, i, &b);
    th_strbuf_add(&p->s, "assume ");
    th_dim_print(p->c, a, &p->s);
    th_strbuf_add(&p->s, " = ");
    th_dim_print(p->c, b, &p->s);
    th_strbuf_add(&p->s, "\n");
  }
}

static void print_input(printer *p, uint32_t g, uint32_t i) {
  static const char *const kinds[] = {"user", "parameter", "buffer", "state", "hyper", "seed", "offset", "integer", "tangent", "accumulator", "saved"};
  th_value v = p->t->graphs[g]->inputs[i];
  th_strbuf_printf(&p->s, "  %%%u : ", p->number[v]);
  print_value_info(p, v);
  if (g == 0) {
    const th_input *in = &p->t->inputs[i];
    th_strbuf_printf(&p->s, " %s", kinds[in->kind]);
    if (in->requires_grad) th_strbuf_add(&p->s, " requires_grad");
    if (in->donated) th_strbuf_add(&p->s, " donated");
    if (in->written_by >= 0) th_strbuf_printf(&p->s, " written_by(%d)", in->written_by);
    if (in->strides) {
      th_strbuf_add(&p->s, " layout(");
      print_dims(p, in->strides, th_type_of(p->t, v)->rank);
      th_strbuf_add(&p->s, ")");
    }
    /* The side table numbers the captured inputs, which a backward half does not begin with. */
    if (p->names && i < p->names->n_values && *p->names->values[i] && !th_trace_is_backward_half(p->t)) th_strbuf_printf(&p->s, "  // %s", p->names->values[i]);
  }
  th_strbuf_add(&p->s, "\n");
}

static void print_output(printer *p, uint32_t g, uint32_t i) {
  static const char *const kinds[] = {"fresh", "input", "view_of_input", "view_of_output", "written", "gradient", "saved"};
  th_value v = p->t->graphs[g]->outputs[i];
  th_strbuf_printf(&p->s, "  return %%%u", p->number[v]);
  if (g == 0 && p->t->outputs) {
    const th_output *o = &p->t->outputs[i];
    th_strbuf_printf(&p->s, " %s", kinds[o->kind]);
    if (o->kind != TH_OUTPUT_FRESH && o->kind != TH_OUTPUT_SAVED) th_strbuf_printf(&p->s, "(%u)", o->base);
    if (o->strides) {
      th_strbuf_add(&p->s, " layout(");
      print_dims(p, o->strides, th_type_of(p->t, v)->rank);
      th_strbuf_add(&p->s, ")");
    }
    if (!th_dim_is(p->c, o->offset, 0)) {
      th_strbuf_add(&p->s, " offset(");
      th_dim_print(p->c, o->offset, &p->s);
      th_strbuf_add(&p->s, ")");
    }
  }
  th_strbuf_add(&p->s, "\n");
}

const char *th_trace_print_named(const th_trace *t, const th_names *names) {
  th_arena *a = th_context_arena(t->context);
  printer p = {.t = t, .names = names, .c = t->context, .s = th_strbuf_make(a), .number = TH_ARENA_ARRAY(a, uint32_t, t->n_values), .last = TH_NONE};
  uint32_t n = 0;
  for (size_t g = 0; g < t->n_graphs; g++) {
    const th_graph *graph = t->graphs[g];
    for (uint32_t i = 0; i < graph->n_inputs; i++) p.number[graph->inputs[i]] = n++;
    for (size_t i = 0; i < graph->n_ops; i++)
      for (uint32_t k = 0; k < graph->ops[i]->n_results; k++) p.number[graph->ops[i]->result + k] = n++;
  }
  for (uint32_t i = 0; i < th_mesh_axis_count(p.c); i++) th_strbuf_printf(&p.s, "mesh %s = %u\n", th_mesh_axis_get(p.c, i).name, th_mesh_axis_get(p.c, i).size);
  print_symbols(&p);
  for (uint32_t g = 0; g < t->n_graphs; g++) {
    const th_graph *graph = t->graphs[g];
    th_strbuf_printf(&p.s, "graph @%u ", g);
    print_text(&p, graph->name);
    th_strbuf_add(&p.s, " {\n");
    for (uint32_t i = 0; i < graph->n_inputs; i++) print_input(&p, g, i);
    for (size_t i = 0; i < graph->n_ops; i++) print_op(&p, graph->ops[i]);
    for (uint32_t i = 0; i < graph->n_outputs; i++) print_output(&p, g, i);
    th_strbuf_add(&p.s, "}\n");
  }
  return th_strbuf_text(&p.s);
}

const char *th_trace_print(const th_trace *t) { return th_trace_print_named(t, NULL); }
