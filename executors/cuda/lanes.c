/* Lanes: a thread computes the elements of a vector in an unrolled loop. Operands that lie along the vector are read whole before the
 * loop, results written whole after it; what is the same in all lanes is read once before. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cuda/cuda.h"
#include "ir/passes/plan.h"

/* Do vectors of `width` elements that begin at multiples of it along dimension `dim` begin at multiples of 16 bytes (or of their own
 * size, where that is less)? */
static bool is_aligned(const th_trace *t, th_value v, uint32_t dim, int width) {
  th_context *c = t->context;
  const th_value_info *info = &t->values[v];
  int64_t item = (int64_t)th_dtype_size(info->type.dtype), bytes = item * width > 16 ? 16 : item * width;
  if (bytes & (bytes - 1)) return false;
  for (uint32_t i = 0; i < info->type.rank; i++)
    if (i != dim && !th_dim_is(c, info->type.dims[i], 1) && !th_dim_divisible(c, th_dim_mul(c, info->strides[i], th_dim_const(c, item)), bytes)) return false;
  for (; t->values[v].place == TH_PLACE_ALIAS; v = t->values[v].place_index)
    if (!th_dim_divisible(c, t->values[v].place_offset, bytes)) return false;
  return true;
}

/* Is the text the same in all lanes, and known before them? */
static bool is_once(const th_cuda_gen *x, const char *text) {
  for (const char *c = text; *c; c++) {
    if (c > text && (isalnum((unsigned char)c[-1]) || c[-1] == '_')) continue;
    if (!strncmp(c, "lane", 4) && !isalnum((unsigned char)c[4])) return false;
    if (!isalpha((unsigned char)c[0]) || !isdigit((unsigned char)c[1])) continue;
    char *end;
    unsigned long number = strtoul(c + 1, &end, 10);
    if (isalnum((unsigned char)*end) || *end == '_') continue;
    bool outside = *c == 'p' || *c == 'o' || *c == 'n' || number < x->first_name; /* operands, results, sizes */
    if (!outside && !(number < x->n_once && x->once[number])) return false;
  }
  return true;
}

static void mark_once(th_cuda_gen *x, const char *name) {
  size_t number = (size_t)strtoul(name + 1, NULL, 10);
  if (number >= x->n_once) {
    size_t n = number + 256;
    uint8_t *more = TH_ARENA_ARRAY(x->g.a, uint8_t, n);
    if (x->n_once) memcpy(more, x->once, x->n_once);
    x->once = more;
    x->n_once = n;
  }
  x->once[number] = 1;
}

enum { EVERYWHERE_SAME = -1, SCATTERED = -2 };

/* Which dimension of `v` the lanes lie along at `index`: its number where they are side by side in memory, or one of the enum. */
static int lies_along(th_cuda_gen *x, th_value v, const char *const *index) {
  th_gen *g = &x->g;
  const th_value_info *info = &g->t->values[v];
  int found = EVERYWHERE_SAME;
  if (!info->type.rank) return EVERYWHERE_SAME;
  if (g->flat) return 0;
  for (uint32_t i = 0; i < info->type.rank; i++) {
    if (th_dim_is(g->c, info->type.dims[i], 1) || th_dim_is(g->c, info->strides[i], 0)) continue;
    if (is_once(x, index[i])) continue;
    if (found != EVERYWHERE_SAME || strcmp(index[i], x->lane) || !th_dim_is(g->c, info->strides[i], 1)) return SCATTERED;
    found = (int)i;
  }
  return found >= 0 && !is_aligned(g->t, v, (uint32_t)found, x->width) ? SCATTERED : found;
}

/* `index` with the first lane in place of all. */
static const char *offset_of(th_cuda_gen *x, th_value v, const char *const *index, int along) {
  th_gen *g = &x->g;
  const th_value_info *info = &g->t->values[v];
  const char *first[TH_MAX_RANK];
  if (g->flat && info->type.rank) return x->base;
  for (uint32_t i = 0; i < info->type.rank; i++) first[i] = (int)i == along ? x->base : index[i];
  return th_gen_offset(g, &info->type, info->strides, first);
}

static void write_before(th_cuda_gen *x, const char *line) {
  for (int i = 1; i < x->g.indent; i++) th_strbuf_add(&x->before, "  ");
  th_strbuf_add(&x->before, line);
  th_strbuf_add(&x->before, "\n");
}

bool th_cuda_before(th_gen *g, const char *name, const char *definition) {
  th_cuda_gen *x = th_cuda_of(g);
  const char *value = strchr(definition, '=');
  if (!x->width || g->guards || !value || !is_once(x, value)) return false;
  mark_once(x, name);
  write_before(x, definition);
  return true;
}

static const char *find(const th_cuda_loaded *list, size_t n, uint32_t k, const char *offset) {
  for (size_t i = 0; i < n; i++)
    if (list[i].operand == k && !strcmp(list[i].offset, offset)) return list[i].name;
  return NULL;
}

/* Does what is read of a row stay from one pass over it to the next? */
static bool holds(const th_cuda_gen *x) { return x->row && x->shape->cached; }

/* The row's part of operand k to shared memory, all of it at once: a pass that read it itself would wait for a vector a time. Each thread copies
 * what it will read. */
static void fill(th_cuda_gen *x, uint32_t k, const char *raw, const char *to, const char *at, const char *offset) {
  const th_cuda_shape *s = x->shape;
  th_strbuf *d = x->declared;
  th_strbuf_printf(d, "    %s *%s = (%s *)(th_shared + %lld);\n", raw, to, raw, (long long)x->shared);
  bool guarded = s->turns * s->team * s->width != s->length; /* as rows.c opens a turn */
  th_strbuf_printf(d, "    #pragma unroll\n    for (int turn = 0; turn < %lld; turn++) {\n%s", (long long)s->turns, x->turn_begin);
  th_strbuf_printf(d, "      %sth_copy<%d>(%s, p%u + %s);\n%s    }\n", guarded ? "  " : "", x->width, at, k, offset, guarded ? "      }\n" : "");
  x->copies = true;
}

/* The operand's vector at `offset`, as an array of raw elements. */
static const char *vector(th_cuda_gen *x, uint32_t k, th_dtype dtype, const char *offset) {
  th_gen *g = &x->g;
  const char *raw = th_dtype_c_name(dtype), *name = find(x->loads, x->n_loads, k, offset);
  if (name) return name;
  if (holds(x) && !x->shape->in_shared && (name = find(x->held, x->n_held, k, offset))) return name;
  const char *array = th_gen_name(g, "x");
  if (holds(x) && x->shape->in_shared) {
    const char *held = find(x->held, x->n_held, k, offset), *to = held ? held : th_gen_name(g, "z");
    const char *at = th_arena_printf(g->a, "%s + (turn * %d + place) * %d", to, (int)x->shape->team, x->width);
    write_before(x, th_arena_printf(g->a, "%s %s[%d];", raw, array, x->width));
    write_before(x, th_arena_printf(g->a, "th_read(%s, (const %s *)%s);", array, raw, at));
    th_cuda_loaded load = {k, offset, array};
    TH_PUSH(g->a, x->loads, x->n_loads, x->loads_capacity, load);
    if (held) return array;
    fill(x, k, raw, to, at, offset);
    int64_t bytes = x->shape->turns * x->shape->team * x->width * (int64_t)th_dtype_size(dtype);
    x->shared += (bytes + 15) / 16 * 16;
    th_cuda_loaded keep = {k, offset, to};
    TH_PUSH(g->a, x->held, x->n_held, x->held_capacity, keep);
    return array;
  }
  if (holds(x)) {
    th_strbuf_printf(x->declared, "    %s %s[%d][%d];\n", raw, array, (int)x->shape->turns, x->width);
    name = th_arena_printf(g->a, "%s[turn]", array);
    th_cuda_loaded held = {k, offset, name};
    TH_PUSH(g->a, x->held, x->n_held, x->held_capacity, held);
  } else {
    name = array;
    write_before(x, th_arena_printf(g->a, "%s %s[%d];", raw, array, x->width));
    th_cuda_loaded load = {k, offset, name};
    TH_PUSH(g->a, x->loads, x->n_loads, x->loads_capacity, load);
  }
  write_before(x, th_arena_printf(g->a, "th_read(%s, p%u + %s);", name, k, offset));
  return name;
}

const char *th_cuda_load(th_gen *g, uint32_t k, const char *const *index) {
  th_cuda_gen *x = th_cuda_of(g);
  th_value v = g->op->operands[k];
  th_dtype dtype = g->t->values[v].type.dtype;
  if (!x->width || g->guards) return th_gen_load(g, k, index);
  int along = lies_along(x, v, index);
  if (along == SCATTERED) return th_gen_load(g, k, index);
  const char *offset = offset_of(x, v, index, along);
  if (along >= 0) return th_gen_variable(g, dtype, th_gen_load_text(g, dtype, vector(x, k, dtype, offset), "lane"));
  const char *name = find(x->loads, x->n_loads, k, offset);
  if (name) return name;
  name = th_gen_name(g, "s");
  write_before(x, th_arena_printf(g->a, "const %s %s = %s;", th_gen_ctype(dtype), name, th_gen_load_text(g, dtype, th_arena_printf(g->a, "p%u", k), offset)));
  mark_once(x, name);
  th_cuda_loaded load = {k, offset, name};
  TH_PUSH(g->a, x->loads, x->n_loads, x->loads_capacity, load);
  return name;
}

const char *th_cuda_lanes_open(th_cuda_gen *x, const char *base, int width) {
  th_gen *g = &x->g;
  x->width = width;
  x->base = base;
  x->lane = width > 1 ? th_arena_printf(g->a, "(%s + lane)", base) : base;
  x->before = th_strbuf_make(g->a);
  x->kept = g->s;
  x->n_loads = x->n_stored = 0;
  x->first_name = g->next;
  if (x->n_once) memset(x->once, 0, x->n_once);
  g->s = th_strbuf_make(g->a);
  g->indent++;
  return x->lane;
}

void th_cuda_store(th_cuda_gen *x, uint32_t k, const char *const *index, const char *name) {
  th_gen *g = &x->g;
  th_value v = g->op->result + k;
  th_dtype dtype = g->t->values[v].type.dtype;
  int along = x->width > 1 ? lies_along(x, v, index) : SCATTERED;
  if (along < 0) {
    th_gen_store(g, k, index, name);
    return;
  }
  x->stored[x->n_stored] = k;
  x->stored_at[x->n_stored++] = offset_of(x, v, index, along);
  write_before(x, th_arena_printf(g->a, "%s y%u[%d];", th_dtype_c_name(dtype), k, x->width));
  th_gen_line(g, "y%u[lane] = %s;", k, th_gen_store_text(g, dtype, name));
}

void th_cuda_lanes_close(th_cuda_gen *x) {
  th_gen *g = &x->g;
  const char *lanes = th_strbuf_text(&g->s);
  g->indent--;
  g->s = x->kept;
  th_strbuf_add(&g->s, th_strbuf_text(&x->before));
  if (x->width > 1) {
    th_gen_line(g, "#pragma unroll");
    th_gen_open(g, "for (int lane = 0; lane < %d; lane++)", x->width);
    th_strbuf_add(&g->s, lanes);
    th_gen_close(g);
  } else {
    th_gen_open(g, "%s", "");
    th_gen_line(g, "enum { lane = 0 };");
    th_strbuf_add(&g->s, lanes);
    th_gen_close(g);
  }
  for (uint32_t i = 0; i < x->n_stored; i++) th_gen_line(g, "th_write(o%u + %s, y%u);", x->stored[i], x->stored_at[i], x->stored[i]);
  x->width = 0;
  x->n_loads = 0;
}
