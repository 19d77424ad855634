/* Text form in: what ir/print.c writes, comments (`//` to the end of a line) left out. Types and attributes stand as written;
 * operands must be defined before. Bodies may come after the ops that own them. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/build.h"

typedef struct alias { th_value value; uint32_t base; } alias;

typedef struct parser {
  th_context *c;
  th_arena *a;
  th_trace *t;
  const char *at, *end, *text;
  th_status status;
  th_value *values; /* number in the text -> value */
  size_t n_values, values_capacity;
  alias *aliases;
  size_t n_aliases, aliases_capacity;
  int depth;
} parser;

#define FAIL(p, ...) (fail(p, TH_ERROR(INVALID_ARGUMENT, __VA_ARGS__)))

static void fail(parser *p, th_status status) {
  int line = 1;
  for (const char *s = p->text; s < p->at && s < p->end; s++) line += *s == '\n';
  if (p->status) th_status_free(status);
  else p->status = th_status_prefix(status, "line %d", line);
}

static void skip(parser *p) {
  for (;;) {
    while (p->at < p->end && isspace((unsigned char)*p->at)) p->at++;
    if (p->end - p->at < 2 || p->at[0] != '/' || p->at[1] != '/') return;
    while (p->at < p->end && *p->at != '\n') p->at++;
  }
}

static bool peek(parser *p, const char *word) {
  size_t n = strlen(word);
  skip(p);
  return !p->status && (size_t)(p->end - p->at) >= n && !memcmp(p->at, word, n) &&
         !(isalnum((unsigned char)word[n - 1]) && (size_t)(p->end - p->at) > n && (isalnum((unsigned char)p->at[n]) || p->at[n] == '_'));
}

static bool accept(parser *p, const char *word) {
  if (!peek(p, word)) return false;
  p->at += strlen(word);
  return true;
}

static void expect(parser *p, const char *word) {
  if (p->status || accept(p, word)) return;
  const char *s = p->at, *quote = strchr(word, '"') ? "'" : "\"";
  char found[64] = "";
  for (int n = 0; n < 12 && s < p->end && *s != '\n' && *s != '\r'; n++, s++) { /* what follows on the line, in part */
    size_t k = strlen(found);
    snprintf(found + k, sizeof found - k, isprint((unsigned char)*s) ? "%c" : "\\x%02x", (unsigned char)*s);
  }
  if (s == p->at) FAIL(p, "expected %s%s%s, found the end of the text", quote, word, quote);
  else FAIL(p, "expected %s%s%s, found \"%s\"", quote, word, quote, found);
}

static int64_t number(parser *p) {
  skip(p);
  bool negative = accept(p, "-");
  uint64_t v = 0;
  if (p->status || p->at >= p->end || !isdigit((unsigned char)*p->at)) {
    FAIL(p, "expected a number");
    return 0;
  }
  while (p->at < p->end && isdigit((unsigned char)*p->at)) {
    if (v > (UINT64_C(1) << 63) / 10) {
      FAIL(p, "a number is too large");
      return 0;
    }
    v = v * 10 + (uint64_t)(*p->at++ - '0');
  }
  return negative ? (int64_t)(0 - v) : (int64_t)v;
}

static uint32_t index_below(parser *p, uint32_t limit, const char *what) {
  int64_t n = number(p);
  if (!p->status && (n < 0 || n >= limit)) FAIL(p, "%s %" PRId64 " of %u", what, n, limit);
  return p->status ? 0 : (uint32_t)n;
}

static const char *name(parser *p, size_t *out_size) {
  skip(p);
  const char *start = p->at;
  while (p->at < p->end && (isalnum((unsigned char)*p->at) || *p->at == '_' || *p->at == '.')) p->at++;
  *out_size = (size_t)(p->at - start);
  if (!*out_size) FAIL(p, "expected a name");
  return start;
}

/* ---- dimension expressions ---- */

static th_dim dim(parser *p);

static th_dim dim_atom(parser *p) {
  th_dim zero = th_dim_const(p->c, 0), a, b;
  if (p->status || ++p->depth > 200) {
    FAIL(p, "an expression is nested too deeply");
    return zero;
  }
  bool min = peek(p, "min("), max = peek(p, "max(");
  if (min || max) {
    p->at += 4;
    a = dim(p);
    expect(p, ",");
    b = dim(p);
    expect(p, ")");
    a = min ? th_dim_min(p->c, a, b) : th_dim_max(p->c, a, b);
  } else if (accept(p, "(")) {
    a = dim(p);
    expect(p, ")");
  } else if (p->at + 1 < p->end && *p->at == 's' && isdigit((unsigned char)p->at[1])) {
    p->at++;
    a = th_dim_symbol(p->c, index_below(p, th_symbol_count(p->c) ? th_symbol_count(p->c) : 1, "symbol"));
    if (!th_symbol_count(p->c)) FAIL(p, "there are no symbols");
  } else {
    a = th_dim_const(p->c, number(p));
  }
  p->depth--;
  return p->status ? zero : a;
}

static th_dim dim_product(parser *p) {
  th_dim a = dim_atom(p);
  for (;;) {
    th_dim_kind kind;
    if (accept(p, "*")) kind = TH_DIM_MUL;
    else if (accept(p, "floordiv ") || accept(p, "floordiv")) kind = TH_DIM_FLOORDIV;
    else if (accept(p, "mod")) kind = TH_DIM_MOD;
    else return a;
    th_dim b = dim_atom(p);
    int64_t low, high;
    th_dim_bounds(p->c, b, &low, &high);
    if (kind != TH_DIM_MUL && low < 1) FAIL(p, "a divisor must be positive");
    if (p->status) return a;
    a = th_dim_make(p->c, kind, a, b);
  }
}

static th_dim dim(parser *p) {
  th_dim a = dim_product(p);
  for (;;) {
    if (accept(p, "+")) a = th_dim_add(p->c, a, dim_product(p));
    else if (accept(p, "-")) a = th_dim_sub(p->c, a, dim_product(p));
    else return a;
    if (p->status) return a;
  }
}

/* Dimensions up to `close`, which is taken. */
static uint32_t dims(parser *p, const char *close, th_dim *out, uint32_t capacity) {
  uint32_t n = 0;
  while (!p->status && !accept(p, close)) {
    if (n) expect(p, ",");
    if (n == capacity) FAIL(p, "more than %u dimensions", capacity);
    else out[n++] = dim(p);
  }
  return n;
}

/* ---- values ---- */

static th_value value(parser *p) {
  expect(p, "%");
  uint32_t i = index_below(p, (uint32_t)p->n_values ? (uint32_t)p->n_values : 1, "value");
  if (!p->status && !p->n_values) FAIL(p, "there is no value yet");
  return p->status ? 0 : p->values[i];
}

static void define(parser *p, uint64_t written, th_value v) {
  if (written != p->n_values) {
    FAIL(p, "value %%%" PRIu64 " should be %%%zu: values are numbered in order", written, p->n_values);
    return;
  }
  TH_PUSH(p->a, p->values, p->n_values, p->values_capacity, v);
}

static void sharding(parser *p, th_type *type) {
  int32_t placements[32];
  uint32_t n = th_mesh_axis_count(p->c);
  for (uint32_t i = 0; i < n && i < 32 && !p->status; i++) {
    size_t size;
    if (i) expect(p, ",");
    name(p, &size);
    expect(p, ":");
    if (accept(p, "replicated")) placements[i] = TH_PLACE_REPLICATED;
    else if (accept(p, "partial")) placements[i] = TH_PLACE_PARTIAL;
    else {
      expect(p, "shard");
      placements[i] = (int32_t)index_below(p, TH_MAX_RANK, "dimension");
    }
  }
  expect(p, ")");
  if (!p->status) type->sharding = th_sharding_make(p->c, placements);
}

typedef struct placed { th_type type; const th_dim *strides; th_place place; uint32_t index; th_dim offset; bool lies; } placed;

static placed value_info(parser *p) {
  placed v = {.offset = th_dim_const(p->c, 0)};
  th_dim sizes[TH_MAX_RANK], strides[TH_MAX_RANK];
  size_t n;
  const char *word = name(p, &n);
  th_dtype dtype = p->status ? TH_DTYPE_none : th_dtype_parse(word, n);
  if (!p->status && dtype == TH_DTYPE_none) FAIL(p, "there is no dtype %.*s", (int)n, word);
  expect(p, "[");
  uint32_t rank = dims(p, "]", sizes, TH_MAX_RANK);
  if (p->status) return v;
  v.type = th_type_make(p->c, dtype, sizes, rank);
  v.type.weak = accept(p, "weak");
  v.type.host = accept(p, "host");
  if (accept(p, "@(")) sharding(p, &v.type);
  if (accept(p, "strides(")) {
    if (dims(p, ")", strides, TH_MAX_RANK) != rank) FAIL(p, "as many strides as dimensions are wanted");
    v.strides = th_arena_copy(p->a, strides, rank * sizeof *strides);
  }
  if (accept(p, "borrowed(")) v.place = TH_PLACE_BORROWED, v.index = index_below(p, UINT32_MAX, "place");
  else if (accept(p, "escaping(")) v.place = TH_PLACE_ESCAPING, v.index = index_below(p, UINT32_MAX, "place");
  else if (accept(p, "arena(")) v.place = TH_PLACE_ARENA, v.offset = dim(p);
  else if (accept(p, "staged(")) v.place = TH_PLACE_STAGED, v.offset = dim(p);
  else if (accept(p, "constant(")) v.place = TH_PLACE_CONSTANT;
  else if (accept(p, "alias(")) {
    expect(p, "%");
    v.place = TH_PLACE_ALIAS;
    v.index = index_below(p, UINT32_MAX, "place");
    expect(p, "+");
    v.offset = dim(p);
  }
  if (v.place) expect(p, ")");
  return v;
}

static void set_info(parser *p, th_value at, const placed *v) {
  th_value_info *i = &p->t->values[at];
  i->strides = v->strides;
  i->place = v->place;
  i->place_index = v->index;
  i->place_offset = v->offset;
  if (v->place != TH_PLACE_ALIAS) return;
  alias entry = {at, v->index};
  TH_PUSH(p->a, p->aliases, p->n_aliases, p->aliases_capacity, entry);
}

/* ---- attributes ---- */

static const char *string(parser *p) {
  th_strbuf s = th_strbuf_make(p->a);
  while (!p->status && p->at < p->end && *p->at != '"') {
    char c = *p->at++;
    if (c == '\\' && p->at < p->end) {
      unsigned byte;
      c = *p->at++;
      if (c == 'x' && p->end - p->at >= 2 && sscanf(p->at, "%2x", &byte) == 1 && byte) c = (char)byte, p->at += 2;
    }
    if (!c) FAIL(p, "a string with a NUL");
    th_strbuf_add_bytes(&s, &c, 1);
  }
  expect(p, "\"");
  return th_intern(p->c, th_strbuf_text(&s));
}

static bool looks_float(const parser *p) {
  const char *s = p->at + (p->at < p->end && *p->at == '-');
  if (p->end - s >= 3 && (!memcmp(s, "inf", 3) || !memcmp(s, "nan", 3))) return true;
  if (s >= p->end || !isdigit((unsigned char)*s)) return false;
  while (s < p->end && isdigit((unsigned char)*s)) s++;
  return s < p->end && (*s == '.' || *s == 'e');
}

static th_attr attribute(parser *p, th_attr_kind wanted, uint32_t graph) {
  th_attr none = {0};
  skip(p);
  if (accept(p, "true")) return th_make_bool(true);
  if (accept(p, "false")) return th_make_bool(false);
  if (accept(p, "\"")) return (th_attr){.kind = TH_ATTR_STRING, .s = string(p)};
  if (accept(p, "@")) {
    int64_t g = number(p);
    if (g <= graph || g > 1 << 20) FAIL(p, "a body must stand after the graph of its op");
    return th_make_graph((uint32_t)g);
  }
  if (accept(p, "[")) {
    th_dim *list = NULL;
    size_t n = 0, capacity = 0;
    while (!p->status && !accept(p, "]")) {
      if (n) expect(p, ",");
      th_dim d = dim(p);
      TH_PUSH(p->a, list, n, capacity, d);
    }
    return th_make_ints(p->c, list, (uint32_t)n);
  }
  if (wanted == TH_ATTR_BOOLS && accept(p, "(")) {
    bool *list = NULL;
    size_t n = 0, capacity = 0;
    while (!p->status && !accept(p, ")")) {
      if (n) expect(p, ",");
      bool b = accept(p, "true");
      if (!b) expect(p, "false");
      TH_PUSH(p->a, list, n, capacity, b);
    }
    return (th_attr){.kind = TH_ATTR_BOOLS, .count = (uint32_t)n, .bools = list};
  }
  if (wanted == TH_ATTR_DTYPE) {
    size_t n;
    const char *word = name(p, &n);
    th_dtype dtype = p->status ? TH_DTYPE_none : th_dtype_parse(word, n);
    if (!p->status && dtype == TH_DTYPE_none) FAIL(p, "there is no dtype %.*s", (int)n, word);
    return th_make_dtype(dtype);
  }
  if (looks_float(p)) {
    char buffer[64], *stop;
    size_t n = (size_t)(p->end - p->at) < sizeof buffer - 1 ? (size_t)(p->end - p->at) : sizeof buffer - 1;
    memcpy(buffer, p->at, n);
    buffer[n] = 0;
    double v = strtod(buffer, &stop);
    p->at += stop - buffer;
    return th_make_float(v);
  }
  th_dim d = dim(p);
  return p->status ? none : th_make_dim(d);
}

/* ---- lines ---- */

static void op_line(parser *p, uint32_t graph) {
  enum { MAX_ATTRS = 16, MAX = 512 };
  uint64_t *results = NULL;
  th_value *operands = NULL;
  size_t n_results = 0, results_capacity = 0, n_operands = 0, operands_capacity = 0, n;
  th_attr attrs[MAX_ATTRS] = {0};
  while (!p->status && peek(p, "%")) {
    expect(p, "%");
    uint64_t number_ = (uint64_t)number(p);
    TH_PUSH(p->a, results, n_results, results_capacity, number_);
    if (!accept(p, ",")) {
      expect(p, "=");
      break;
    }
  }
  const char *word = name(p, &n);
  if (p->status) return;
  th_op_kind kind = th_op_find(word, n);
  if (kind == TH_OP_COUNT) {
    FAIL(p, "there is no op called \"%.*s\"", (int)(n < 80 ? n : 80), word);
    return;
  }
  const th_op_spec *spec = th_op_spec_get(kind);
  expect(p, "(");
  while (!p->status && !accept(p, ")")) {
    if (n_operands) expect(p, ",");
    th_value v = accept(p, "_") ? TH_NO_VALUE : value(p);
    if (!p->status && v != TH_NO_VALUE && p->t->values[v].graph != graph) FAIL(p, "op %s reads a value of another graph", spec->name);
    TH_PUSH(p->a, operands, n_operands, operands_capacity, v);
  }
  bool variadic = spec->n_operands && spec->operands[spec->n_operands - 1].variadic;
  uint32_t fixed = spec->n_operands - variadic;
  if (!p->status && (n_operands < fixed || (n_operands > fixed && !variadic))) FAIL(p, "op %s has %zu operands, want %s%u", spec->name, n_operands, variadic ? "at least " : "", fixed);
  for (uint32_t i = 0; i < fixed && !p->status; i++)
    if (operands[i] == TH_NO_VALUE && !spec->operands[i].optional) FAIL(p, "op %s: operand %s is absent", spec->name, spec->operands[i].name);
  if (accept(p, "{"))
    for (bool first = true; !p->status && !accept(p, "}"); first = false) {
      if (!first) expect(p, ",");
      word = name(p, &n);
      char key[64];
      snprintf(key, sizeof key, "%.*s", (int)n, word);
      int k = p->status ? -1 : th_op_attr_index(kind, key);
      if (k < 0) {
        FAIL(p, "op %s has no attribute \"%s\"", spec->name, key);
        return;
      }
      expect(p, ":");
      attrs[k] = attribute(p, spec->attrs[k].kind, graph);
    }
  if (p->status) return;
  th_status status = th_attrs_complete(p->c, kind, attrs);
  if (status) {
    fail(p, status);
    return;
  }
  th_type *types = TH_ARENA_ARRAY(p->a, th_type, n_results);
  placed *infos = TH_ARENA_ARRAY(p->a, placed, n_results);
  if (n_results) expect(p, ":");
  for (size_t i = 0; i < n_results && !p->status; i++) {
    if (i) expect(p, ",");
    infos[i] = value_info(p);
    types[i] = infos[i].type;
  }
  if (p->status) return;
  th_op *op = th_trace_add_op(p->t, graph, kind, operands, (uint32_t)n_operands, attrs, types, (uint32_t)n_results);
  op->no_grad = accept(p, "#no_grad");
  if (accept(p, "#autocast(")) {
    word = name(p, &n);
    op->autocast = p->status ? TH_DTYPE_none : th_dtype_parse(word, n);
    expect(p, ")");
  }
  if (accept(p, "#executor(")) {
    word = name(p, &n);
    if (!p->status) op->executor = th_intern_n(p->c, word, n);
    expect(p, ")");
  }
  for (size_t i = 0; i < n_results && !p->status; i++) {
    define(p, results[i], op->result + (th_value)i);
    set_info(p, op->result + (th_value)i, &infos[i]);
  }
}

static int keyword(parser *p, const char *const *words, int n) {
  for (int i = 0; i < n; i++)
    if (accept(p, words[i])) return i;
  return -1;
}

static void input_line(parser *p, uint32_t graph) {
  static const char *const kinds[] = {"user", "parameter", "buffer", "state", "hyper", "seed", "offset", "integer", "tangent", "accumulator", "saved"};
  th_dim strides[TH_MAX_RANK];
  expect(p, "%");
  uint64_t written = (uint64_t)number(p);
  expect(p, ":");
  placed v = value_info(p);
  if (p->status) return;
  th_value made = th_trace_add_input(p->t, graph, v.type);
  set_info(p, made, &v);
  define(p, written, made);
  if (graph) return;
  th_input *in = &p->t->inputs[p->t->graphs[0]->n_inputs - 1];
  int kind = keyword(p, kinds, TH_INPUT_KIND_COUNT);
  if (kind < 0) FAIL(p, "an input of graph 0 needs its kind (user, parameter, …)");
  in->kind = (th_input_kind)(kind < 0 ? 0 : kind);
  in->requires_grad = accept(p, "requires_grad");
  in->donated = accept(p, "donated");
  if (accept(p, "written_by(")) {
    in->written_by = (int32_t)index_below(p, INT32_MAX, "output");
    expect(p, ")");
  }
  if (accept(p, "layout(")) {
    if (dims(p, ")", strides, TH_MAX_RANK) != v.type.rank) FAIL(p, "as many strides as dimensions are wanted");
    in->strides = th_arena_copy(p->a, strides, v.type.rank * sizeof *strides);
  }
}

static void graph_block(parser *p) {
  static const char *const kinds[] = {"fresh", "input", "view_of_input", "view_of_output", "written", "gradient", "saved"};
  th_value *outputs = NULL;
  th_output *signature = NULL;
  size_t n = 0, capacity = 0, n_signature = 0, signature_capacity = 0;
  expect(p, "@");
  if (!p->status && (uint64_t)number(p) != p->t->n_graphs) FAIL(p, "graphs are numbered in order");
  expect(p, "\"");
  const char *label = p->status ? "" : string(p);
  expect(p, "{");
  if (p->status) return;
  uint32_t graph = (uint32_t)p->t->n_graphs;
  th_trace_add_graph(p->t, label);
  bool inputs = true;
  while (!p->status && !accept(p, "}")) {
    if (accept(p, "return")) {
      th_dim strides[TH_MAX_RANK];
      th_value v = value(p);
      th_output o = {.offset = th_dim_const(p->c, 0)};
      if (!p->status && p->t->values[v].graph != graph) FAIL(p, "graph %u returns a value of another graph", graph);
      TH_PUSH(p->a, outputs, n, capacity, v);
      if (graph || p->status) continue;
      int kind = keyword(p, kinds, TH_OUTPUT_KIND_COUNT);
      if (kind < 0) FAIL(p, "an output of graph 0 needs its kind (fresh, input(0), …)");
      o.kind = (th_output_kind)(kind < 0 ? 0 : kind);
      if (o.kind != TH_OUTPUT_FRESH && o.kind != TH_OUTPUT_SAVED) {
        expect(p, "(");
        o.base = index_below(p, UINT32_MAX, "base");
        expect(p, ")");
      }
      if (accept(p, "layout(")) {
        uint32_t rank = dims(p, ")", strides, TH_MAX_RANK);
        if (!p->status && rank != th_type_of(p->t, v)->rank) FAIL(p, "as many strides as dimensions are wanted");
        o.strides = th_arena_copy(p->a, strides, rank * sizeof *strides);
      }
      if (accept(p, "offset(")) {
        o.offset = dim(p);
        expect(p, ")");
      }
      TH_PUSH(p->a, signature, n_signature, signature_capacity, o);
      continue;
    }
    if (n) FAIL(p, "nothing may follow the outputs of a graph");
    skip(p);
    const char *start = p->at;
    if (inputs && peek(p, "%")) { /* an input is "%n :", a result "%n =" or "%n," */
      expect(p, "%");
      number(p);
      bool is_input = peek(p, ":");
      p->at = start;
      if (is_input) {
        input_line(p, graph);
        continue;
      }
    }
    inputs = false;
    op_line(p, graph);
  }
  th_trace_set_outputs(p->t, graph, outputs, (uint32_t)n);
  if (!graph) p->t->outputs = signature;
}

static void symbol_line(parser *p) {
  th_symbol s = {.min = 0, .max = -1, .multiple = 1};
  skip(p);
  if (p->at < p->end && *p->at == 's') p->at++;
  else FAIL(p, "a symbol is called s and its number");
  if (!p->status && (uint64_t)number(p) != th_symbol_count(p->c)) FAIL(p, "symbols are numbered in order");
  expect(p, "=");
  if (accept(p, "size(")) {
    s.input = index_below(p, UINT32_MAX, "input");
    expect(p, ",");
    s.dimension = index_below(p, UINT32_MAX, "dimension");
    expect(p, ")");
  } else if (accept(p, "unbound")) {
    s.input = TH_NONE;
  } else {
    expect(p, "integer(");
    s.source = TH_SYMBOL_INTEGER;
    s.input = index_below(p, UINT32_MAX, "input");
    expect(p, ")");
  }
  expect(p, "in");
  expect(p, "[");
  s.min = number(p);
  expect(p, ",");
  s.max = accept(p, "*") ? -1 : number(p);
  expect(p, "]");
  if (accept(p, "multiple")) s.multiple = number(p);
  if (p->status) return;
  if (s.min < 0 || (s.max != -1 && s.max < s.min) || s.multiple < 1) FAIL(p, "the symbol's range is empty");
  else th_symbol_add(p->c, s);
}

static void assume_line(parser *p) {
  th_dim a = dim(p);
  expect(p, "=");
  th_dim b = dim(p);
  if (p->status) return;
  if (p->t->n_graphs) FAIL(p, "assume comes before the graphs");
  else if (th_assumption_count(p->c) >= TH_MAX_ASSUMPTIONS) FAIL(p, "there are more than %d assumptions", TH_MAX_ASSUMPTIONS);
  else if (!th_dim_assume(p->c, a, b)) FAIL(p, "the two are never equal");
}

static void finish(parser *p) { /* what refers forward */
  const th_graph *g = p->t->n_graphs ? p->t->graphs[0] : NULL;
  if (!g) {
    FAIL(p, "there is no graph");
    return;
  }
  for (size_t i = 0; i < p->n_aliases; i++) {
    if (p->aliases[i].base >= p->n_values) FAIL(p, "an alias of %%%u, which does not exist", p->aliases[i].base);
    else p->t->values[p->aliases[i].value].place_index = p->values[p->aliases[i].base];
  }
  for (uint32_t i = 0; i < g->n_inputs && !p->status; i++)
    if (p->t->inputs[i].written_by < -1 || p->t->inputs[i].written_by >= (int64_t)g->n_outputs) FAIL(p, "input %u is written by output %d of %u", i, p->t->inputs[i].written_by, g->n_outputs);
  for (uint32_t o = 0; o < g->n_outputs && !p->status; o++) {
    const th_output *out = &p->t->outputs[o];
    bool of_output = out->kind == TH_OUTPUT_VIEW_OF_OUTPUT, based = out->kind != TH_OUTPUT_FRESH && out->kind != TH_OUTPUT_SAVED;
    if (out->kind == TH_OUTPUT_GRADIENT && th_trace_is_backward_half(p->t)) continue;
    if (based && (out->base >= (of_output ? g->n_outputs : g->n_inputs) || (of_output && p->t->outputs[out->base].kind == TH_OUTPUT_VIEW_OF_OUTPUT))) FAIL(p, "output %u is based on %s %u", o, of_output ? "output" : "input", out->base);
    else if (out->kind == TH_OUTPUT_WRITTEN && p->t->inputs[out->base].written_by < 0) p->t->inputs[out->base].written_by = (int32_t)o;
  }
  for (size_t k = 0; k < p->t->n_graphs; k++)
    for (size_t i = 0; i < p->t->graphs[k]->n_ops && !p->status; i++) {
      const th_op *op = p->t->graphs[k]->ops[i];
      for (uint32_t n = 0; n < th_op_spec_get(op->kind)->n_attrs; n++)
        if (op->attrs[n].kind == TH_ATTR_GRAPH && op->attrs[n].graph >= p->t->n_graphs) FAIL(p, "op %s owns graph @%u, which does not exist", th_op_name(op->kind), op->attrs[n].graph);
    }
  for (uint32_t i = 0; i < th_symbol_count(p->c) && !p->status; i++) {
    const th_symbol *s = th_symbol_get(p->c, i);
    if (s->input != TH_NONE && (s->input >= g->n_inputs || (s->source == TH_SYMBOL_SIZE && s->dimension >= th_type_of(p->t, g->inputs[s->input])->rank))) FAIL(p, "symbol s%u comes from an input that does not give it", i);
  }
}

th_status th_trace_parse(th_context *c, const char *text, size_t length, th_trace **out) {
  parser p = {.c = c, .a = th_context_arena(c), .t = th_trace_create(c), .at = text, .end = text + length, .text = text};
  if (th_symbol_count(c)) return TH_ERROR(INTERNAL, "a trace is parsed into a context that has symbols already");
  for (;;) {
    skip(&p);
    if (p.status || p.at >= p.end) break;
    if (accept(&p, "mesh")) {
      size_t n;
      const char *axis = name(&p, &n);
      expect(&p, "=");
      uint32_t size = index_below(&p, 1 << 20, "size");
      if (!p.status) th_mesh_axis_add(c, th_intern_n(c, axis, n), size);
    } else if (accept(&p, "symbol")) {
      symbol_line(&p);
    } else if (accept(&p, "assume")) {
      assume_line(&p);
    } else {
      expect(&p, "graph");
      graph_block(&p);
    }
  }
  if (!p.status) finish(&p);
  if (p.status) return p.status;
  *out = p.t;
  return TH_OK;
}
