#include "ir/context.h"

#include <assert.h>
#include <string.h>

/* Dimensions are kept in a normal form. A sum is ADD(ADD(t1, t2), c): terms by rising id of their monomial, the constant
 * last; a term is MUL(monomial, constant) or a monomial; a monomial is a left-leaning MUL of atoms by rising id. Every
 * arithmetic result is taken apart into terms and put together again, so equal polynomials get equal numbers. */

enum { MAX_TERMS = 24, MAX_FACTORS = 12 };

typedef struct term {
  int64_t coefficient;
  uint32_t n;
  th_dim atoms[MAX_FACTORS]; /* rising */
} term;

typedef struct poly {
  uint32_t n;
  bool overflow; /* too many terms or factors: treat the whole as one atom */
  term terms[MAX_TERMS];
} poly;

typedef struct assumption { th_dim a, b; } assumption; /* as given, rewritten by those before it */

struct th_context {
  th_arena *arena;
  const char **strings;
  size_t strings_capacity, n_strings; /* open addressing, power of two */
  th_dim_node *dims;
  size_t n_dims, dims_capacity;
  uint32_t *dim_table;
  size_t dim_table_size;
  th_symbol *symbols;
  size_t n_symbols, symbols_capacity;
  assumption *assumptions;
  size_t n_assumptions, assumptions_capacity;
  poly **rules; /* terms[0] is the others; NULL: another took its place */
  size_t n_rules, rules_capacity;
  th_mesh_axis *axes;
  size_t n_axes, axes_capacity;
  const int32_t **shardings;
  size_t n_shardings, shardings_capacity;
};

static th_dim intern_node(th_context *c, th_dim_kind kind, int64_t value, th_dim a, th_dim b);

th_context *th_context_create(th_arena *arena) {
  th_context *c = TH_ARENA_NEW(arena, th_context);
  c->arena = arena;
  c->strings_capacity = 1024;
  c->strings = TH_ARENA_ARRAY(arena, const char *, c->strings_capacity);
  c->dim_table_size = 1024;
  c->dim_table = TH_ARENA_ARRAY(arena, uint32_t, c->dim_table_size);
  const int32_t *replicated = NULL;
  TH_PUSH(arena, c->shardings, c->n_shardings, c->shardings_capacity, replicated);
  intern_node(c, TH_DIM_CONST, 0, 0, 0); /* th_dim 0 is the constant 0: zeroed memory is a valid dim */
  return c;
}

th_arena *th_context_arena(const th_context *c) { return c->arena; }

static uint64_t hash_bytes(const char *text, size_t n) { /* FNV-1a */
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
  return h;
}

const char *th_intern_n(th_context *c, const char *text, size_t length) {
  size_t mask = c->strings_capacity - 1, i = hash_bytes(text, length) & mask;
  for (; c->strings[i]; i = (i + 1) & mask)
    if (!strncmp(c->strings[i], text, length) && !c->strings[i][length]) return c->strings[i];
  const char *copy = th_arena_strndup(c->arena, text, length);
  c->strings[i] = copy;
  if (++c->n_strings * 2 > c->strings_capacity) {
    const char **old = c->strings;
    size_t n = c->strings_capacity;
    c->strings_capacity *= 2;
    c->strings = TH_ARENA_ARRAY(c->arena, const char *, c->strings_capacity);
    for (size_t k = 0; k < n; k++) {
      if (!old[k]) continue;
      size_t j = hash_bytes(old[k], strlen(old[k])) & (c->strings_capacity - 1);
      while (c->strings[j]) j = (j + 1) & (c->strings_capacity - 1);
      c->strings[j] = old[k];
    }
  }
  return copy;
}

const char *th_intern(th_context *c, const char *text) { return th_intern_n(c, text, strlen(text)); }

/* ---- dimension nodes ---- */

static size_t node_slot(const th_context *c, th_dim_kind kind, int64_t value, th_dim a, th_dim b) {
  uint64_t h = (uint64_t)kind * 0x9e3779b97f4a7c15u;
  h = (h ^ (uint64_t)value) * 0xbf58476d1ce4e5b9u;
  h = (h ^ a) * 0x94d049bb133111ebu;
  h = (h ^ b) * 0x9e3779b97f4a7c15u;
  h ^= h >> 31;
  size_t mask = c->dim_table_size - 1, i = h & mask;
  for (; c->dim_table[i]; i = (i + 1) & mask) {
    const th_dim_node *n = &c->dims[c->dim_table[i] - 1];
    if (n->kind == kind && n->value == value && n->a == a && n->b == b) break;
  }
  return i;
}

static th_dim intern_node(th_context *c, th_dim_kind kind, int64_t value, th_dim a, th_dim b) {
  size_t slot = node_slot(c, kind, value, a, b);
  if (c->dim_table[slot]) return c->dim_table[slot] - 1;
  th_dim_node node = {.kind = kind, .value = value, .a = a, .b = b};
  TH_PUSH(c->arena, c->dims, c->n_dims, c->dims_capacity, node);
  c->dim_table[slot] = (uint32_t)c->n_dims;
  th_dim dim = (th_dim)(c->n_dims - 1);
  if (c->n_dims * 2 > c->dim_table_size) {
    c->dim_table_size *= 2;
    c->dim_table = TH_ARENA_ARRAY(c->arena, uint32_t, c->dim_table_size);
    for (size_t i = 0; i < c->n_dims; i++) {
      const th_dim_node *n = &c->dims[i];
      c->dim_table[node_slot(c, n->kind, n->value, n->a, n->b)] = (uint32_t)i + 1;
    }
  }
  return dim;
}

th_dim th_dim_const(th_context *c, int64_t value) { return intern_node(c, TH_DIM_CONST, value, 0, 0); }
th_dim th_dim_symbol(th_context *c, uint32_t symbol) { return intern_node(c, TH_DIM_SYMBOL, symbol, 0, 0); }
th_dim_node th_dim_node_get(const th_context *c, th_dim dim) { return c->dims[dim]; }
size_t th_dim_count(const th_context *c) { return c->n_dims; }

bool th_dim_is_const(const th_context *c, th_dim dim, int64_t *out_value) {
  if (c->dims[dim].kind != TH_DIM_CONST) return false;
  if (out_value) *out_value = c->dims[dim].value;
  return true;
}

bool th_dim_is(const th_context *c, th_dim dim, int64_t value) {
  return c->dims[dim].kind == TH_DIM_CONST && c->dims[dim].value == value;
}

static int64_t sat_add(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_add_overflow(a, b, &r) ? INT64_MAX : r;
}
static int64_t sat_mul(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_mul_overflow(a, b, &r) ? INT64_MAX : r;
}
static int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) return INT64_MAX;
  if (b == -1) return a == INT64_MIN ? INT64_MAX : -a;
  int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}
static int64_t floor_mod(int64_t a, int64_t b) {
  if (b == 0) return INT64_MAX;
  if (b == -1) return 0;
  int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static void poly_add_term(poly *p, const term *t) {
  if (t->coefficient == 0) return;
  for (uint32_t i = 0; i < p->n; i++)
    if (p->terms[i].n == t->n && !memcmp(p->terms[i].atoms, t->atoms, t->n * sizeof *t->atoms)) {
      p->terms[i].coefficient = sat_add(p->terms[i].coefficient, t->coefficient);
      if (p->terms[i].coefficient == 0) p->terms[i] = p->terms[--p->n];
      return;
    }
  if (p->n == MAX_TERMS) p->overflow = true;
  else p->terms[p->n++] = *t;
}

static void to_term(const th_context *c, th_dim d, term *t) {
  const th_dim_node *n = &c->dims[d];
  if (n->kind == TH_DIM_MUL) {
    to_term(c, n->a, t);
    to_term(c, n->b, t);
  } else if (n->kind == TH_DIM_CONST) {
    t->coefficient = sat_mul(t->coefficient, n->value);
  } else if (t->n < MAX_FACTORS) {
    uint32_t i = t->n++;
    for (; i > 0 && t->atoms[i - 1] > d; i--) t->atoms[i] = t->atoms[i - 1];
    t->atoms[i] = d;
  } else {
    t->n = MAX_FACTORS + 1; /* too many */
  }
}

static void to_poly(const th_context *c, th_dim d, poly *p, int64_t scale) {
  const th_dim_node *n = &c->dims[d];
  if (n->kind == TH_DIM_ADD) {
    to_poly(c, n->a, p, scale);
    to_poly(c, n->b, p, scale);
    return;
  }
  term t = {.coefficient = scale};
  to_term(c, d, &t);
  if (t.n > MAX_FACTORS) p->overflow = true;
  else poly_add_term(p, &t);
}

static int compare_terms(const term *x, const term *y) { /* constants last */
  if ((x->n == 0) != (y->n == 0)) return x->n == 0 ? 1 : -1;
  for (uint32_t i = 0; i < x->n && i < y->n; i++)
    if (x->atoms[i] != y->atoms[i]) return x->atoms[i] < y->atoms[i] ? -1 : 1;
  return x->n < y->n ? -1 : x->n > y->n;
}

/* ---- assumptions ---- */

static bool is_symbol(const th_context *c, th_dim d) { return c->dims[d].kind == TH_DIM_SYMBOL; }

/* A quotient, remainder or limit weighs more than any product of symbols. */
static uint32_t weight(const th_context *c, const term *t) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < t->n; i++) sum += is_symbol(c, t->atoms[i]) ? 1 : MAX_FACTORS + 1;
  return sum;
}

/* By weight, then by atoms from the largest: an order that products keep, so that rewriting a leading term by smaller ones ends. */
static bool leads(const th_context *c, const term *x, const term *y) {
  uint32_t a = weight(c, x), b = weight(c, y);
  if (a != b || x->n != y->n) return a != b ? a > b : x->n > y->n;
  for (uint32_t i = x->n; i-- > 0;)
    if (x->atoms[i] != y->atoms[i]) return x->atoms[i] > y->atoms[i];
  return false;
}

/* x / y; false when y does not divide it. */
static bool divide_terms(const term *x, const term *y, term *out) {
  if (y->coefficient == 0 || floor_mod(x->coefficient, y->coefficient)) return false;
  *out = (term){.coefficient = floor_div(x->coefficient, y->coefficient)};
  uint32_t k = 0;
  for (uint32_t j = 0; j < x->n; j++) {
    if (k < y->n && x->atoms[j] == y->atoms[k]) k++;
    else out->atoms[out->n++] = x->atoms[j];
  }
  return k == y->n;
}

/* False when there are too many factors. */
static bool multiply_terms(term *t, const term *by) {
  t->coefficient = sat_mul(t->coefficient, by->coefficient);
  for (uint32_t k = 0; k < by->n; k++) {
    if (t->n == MAX_FACTORS) return false;
    uint32_t m = t->n++;
    for (; m > 0 && t->atoms[m - 1] > by->atoms[k]; m--) t->atoms[m] = t->atoms[m - 1];
    t->atoms[m] = by->atoms[k];
  }
  return true;
}

static bool rewrite_once(const th_context *c, poly *p) {
  for (size_t r = 0; r < c->n_rules; r++) {
    const poly *rule = c->rules[r];
    for (uint32_t i = 0; rule && i < p->n; i++) {
      term quotient;
      if (!divide_terms(&p->terms[i], &rule->terms[0], &quotient)) continue;
      poly q = *p;
      q.terms[i] = q.terms[--q.n];
      bool fits = true;
      for (uint32_t k = 1; k < rule->n && fits; k++) {
        term t = rule->terms[k];
        fits = multiply_terms(&t, &quotient);
        if (fits) poly_add_term(&q, &t);
      }
      if (!fits || q.overflow) continue;
      *p = q;
      return true;
    }
  }
  return false;
}

static void rewrite(const th_context *c, poly *p) {
  for (int steps = 0; c->n_rules && steps < 64 && rewrite_once(c, p);) steps++;
}

/* p = 0 as a rule. Older rules whose leading term it rewrites say something else now, and are made again. */
static bool add_rule(th_context *c, poly *p, int depth) {
  rewrite(c, p);
  if (p->overflow || p->n == 0) return true;
  for (uint32_t i = 1; i < p->n; i++)
    if (leads(c, &p->terms[i], &p->terms[0])) {
      term t = p->terms[0];
      p->terms[0] = p->terms[i];
      p->terms[i] = t;
    }
  const term *lead = &p->terms[0];
  if (lead->n == 0) return false;
  if (lead->n == 1 && is_symbol(c, lead->atoms[0])) return true; /* a symbol has its own form everywhere */
  bool negative = lead->coefficient < 0;
  for (uint32_t i = 0; i < p->n; i++)
    if ((i == 0) == negative) p->terms[i].coefficient = sat_mul(p->terms[i].coefficient, -1);
  TH_PUSH(c->arena, c->rules, c->n_rules, c->rules_capacity, p);
  term quotient;
  for (size_t r = 0, n = c->n_rules - 1; r < n && depth < 16; r++) {
    poly *old = c->rules[r];
    if (!old || !divide_terms(&old->terms[0], lead, &quotient)) continue;
    c->rules[r] = NULL;
    for (uint32_t i = 1; i < old->n; i++) old->terms[i].coefficient = sat_mul(old->terms[i].coefficient, -1);
    add_rule(c, old, depth + 1);
  }
  return true;
}

bool th_dim_assume(th_context *c, th_dim a, th_dim b) {
  a = th_dim_add(c, a, th_dim_const(c, 0)), b = th_dim_add(c, b, th_dim_const(c, 0));
  poly *p = TH_ARENA_NEW(c->arena, poly);
  to_poly(c, a, p, 1);
  to_poly(c, b, p, -1);
  if (!add_rule(c, p, 0)) return false;
  assumption made = {a, b};
  TH_PUSH(c->arena, c->assumptions, c->n_assumptions, c->assumptions_capacity, made);
  return true;
}

size_t th_assumption_count(const th_context *c) { return c->n_assumptions; }
th_dim th_assumption_get(const th_context *c, size_t i, th_dim *out_b) { return *out_b = c->assumptions[i].b, c->assumptions[i].a; }

static th_dim from_poly(th_context *c, poly *p) {
  rewrite(c, p);
  for (uint32_t i = 1; i < p->n; i++) /* few terms: insertion sort */
    for (uint32_t j = i; j > 0 && compare_terms(&p->terms[j - 1], &p->terms[j]) > 0; j--) {
      term t = p->terms[j];
      p->terms[j] = p->terms[j - 1];
      p->terms[j - 1] = t;
    }
  if (p->n == 0) return th_dim_const(c, 0);
  th_dim sum = 0;
  for (uint32_t i = 0; i < p->n; i++) {
    const term *t = &p->terms[i];
    th_dim m;
    if (t->n == 0) {
      m = th_dim_const(c, t->coefficient);
    } else {
      m = t->atoms[0];
      for (uint32_t k = 1; k < t->n; k++) m = intern_node(c, TH_DIM_MUL, 0, m, t->atoms[k]);
      if (t->coefficient != 1) m = intern_node(c, TH_DIM_MUL, 0, m, th_dim_const(c, t->coefficient));
    }
    sum = i == 0 ? m : intern_node(c, TH_DIM_ADD, 0, sum, m);
  }
  return sum;
}

static bool poly_divisible(const th_context *c, const poly *p, int64_t divisor) {
  for (uint32_t i = 0; i < p->n; i++) {
    int64_t m = p->terms[i].coefficient;
    for (uint32_t k = 0; k < p->terms[i].n && m % divisor; k++) {
      const th_dim_node *a = &c->dims[p->terms[i].atoms[k]];
      if (a->kind == TH_DIM_SYMBOL && (size_t)a->value < c->n_symbols) m = sat_mul(m % divisor, c->symbols[a->value].multiple);
    }
    if (m % divisor) return false;
  }
  return !p->overflow;
}

bool th_dim_divisible(const th_context *c, th_dim dim, int64_t divisor) {
  if (divisor == 0) return false;
  if (divisor == 1 || divisor == -1) return true;
  poly p = {0};
  to_poly(c, dim, &p, 1);
  return poly_divisible(c, &p, divisor);
}

bool th_dim_exact_div(th_context *c, th_dim a, th_dim b, th_dim *out) {
  int64_t x, y;
  if (a == b && !th_dim_is(c, a, 0)) return *out = th_dim_const(c, 1), true;
  if (th_dim_is_const(c, a, &x) && th_dim_is_const(c, b, &y)) {
    if (y == 0 || floor_mod(x, y)) return false;
    return *out = th_dim_const(c, floor_div(x, y)), true;
  }
  term divisor = {.coefficient = 1};
  if (c->dims[b].kind == TH_DIM_ADD) return false;
  to_term(c, b, &divisor);
  poly p = {0}, q = {0};
  to_poly(c, a, &p, 1);
  if (p.overflow || divisor.n > MAX_FACTORS || divisor.coefficient == 0) return false;
  for (uint32_t i = 0; i < p.n; i++) {
    term r;
    if (!divide_terms(&p.terms[i], &divisor, &r)) return false;
    poly_add_term(&q, &r);
  }
  return *out = from_poly(c, &q), true;
}

/* A quotient, remainder or limit, or what it is assumed to be. */
static th_dim atom(th_context *c, th_dim_kind kind, th_dim a, th_dim b) {
  poly p = {0};
  to_poly(c, intern_node(c, kind, 0, a, b), &p, 1);
  return from_poly(c, &p);
}

th_dim th_dim_make(th_context *c, th_dim_kind kind, th_dim a, th_dim b) {
  int64_t x = 0, y = 0;
  bool ca = th_dim_is_const(c, a, &x), cb = th_dim_is_const(c, b, &y);
  switch (kind) {
    case TH_DIM_ADD:
    case TH_DIM_SUB: {
      if (ca && cb) return th_dim_const(c, kind == TH_DIM_ADD ? sat_add(x, y) : y == INT64_MIN ? INT64_MAX : sat_add(x, -y));
      poly p = {0};
      to_poly(c, a, &p, 1);
      to_poly(c, b, &p, kind == TH_DIM_ADD ? 1 : -1);
      if (p.overflow) return intern_node(c, TH_DIM_ADD, 0, a, kind == TH_DIM_ADD ? b : th_dim_mul(c, b, th_dim_const(c, -1)));
      return from_poly(c, &p);
    }
    case TH_DIM_MUL: {
      if (ca && cb) return th_dim_const(c, sat_mul(x, y));
      poly p = {0}, q = {0}, r = {0};
      to_poly(c, a, &p, 1);
      to_poly(c, b, &q, 1);
      for (uint32_t i = 0; i < p.n; i++)
        for (uint32_t j = 0; j < q.n; j++) {
          term t = p.terms[i];
          if (!multiply_terms(&t, &q.terms[j])) r.overflow = true;
          poly_add_term(&r, &t);
        }
      if (p.overflow || q.overflow || r.overflow) return intern_node(c, TH_DIM_MUL, 0, a, b); /* too large to normalize */
      return from_poly(c, &r);
    }
    case TH_DIM_FLOORDIV: {
      th_dim exact;
      if (ca && cb) return th_dim_const(c, floor_div(x, y));
      if (cb && y == 1) return a;
      if (cb && y > 0) { /* (q*y*m + r) // y: the divisible terms come out */
        poly p = {0}, whole = {0}, rest = {0};
        to_poly(c, a, &p, 1);
        for (uint32_t i = 0; i < p.n; i++) {
          term t = p.terms[i];
          if (t.n && t.coefficient % y == 0) {
            t.coefficient /= y;
            poly_add_term(&whole, &t);
          } else {
            poly_add_term(&rest, &t);
          }
        }
        if (whole.n && !p.overflow) {
          th_dim r = from_poly(c, &rest);
          return th_dim_add(c, from_poly(c, &whole), th_dim_make(c, TH_DIM_FLOORDIV, r, b));
        }
      }
      if (!ca && th_dim_exact_div(c, a, b, &exact)) return exact;
      return atom(c, kind, a, b);
    }
    case TH_DIM_MOD: {
      th_dim exact;
      if (ca && cb) return th_dim_const(c, floor_mod(x, y));
      if (cb && th_dim_divisible(c, a, y)) return th_dim_const(c, 0);
      if (!ca && th_dim_exact_div(c, a, b, &exact)) return th_dim_const(c, 0);
      return atom(c, kind, a, b);
    }
    case TH_DIM_MIN:
    case TH_DIM_MAX: {
      if (a == b) return a;
      if (ca && cb) return th_dim_const(c, (kind == TH_DIM_MIN) == (x < y) ? x : y);
      int64_t lo_a, hi_a, lo_b, hi_b;
      th_dim_bounds(c, a, &lo_a, &hi_a);
      th_dim_bounds(c, b, &lo_b, &hi_b);
      if (hi_a != INT64_MAX && hi_a <= lo_b) return kind == TH_DIM_MIN ? a : b;
      if (hi_b != INT64_MAX && hi_b <= lo_a) return kind == TH_DIM_MIN ? b : a;
      return a < b ? atom(c, kind, a, b) : intern_node(c, kind, 0, b, a);
    }
    default: break;
  }
  assert(!"th_dim_make wants a binary kind");
  return 0;
}

th_dim th_dim_product(th_context *c, const th_dim *dims, size_t count) {
  th_dim p = th_dim_const(c, 1);
  for (size_t i = 0; i < count; i++) p = th_dim_mul(c, p, dims[i]);
  return p;
}

int64_t th_dim_eval(const th_context *c, th_dim dim, const int64_t *symbols) {
  const th_dim_node *n = &c->dims[dim];
  if (n->kind == TH_DIM_CONST) return n->value;
  if (n->kind == TH_DIM_SYMBOL) return symbols ? symbols[n->value] : 0;
  int64_t a = th_dim_eval(c, n->a, symbols), b = th_dim_eval(c, n->b, symbols);
  switch (n->kind) {
    case TH_DIM_ADD: return sat_add(a, b);
    case TH_DIM_SUB: return sat_add(a, -b);
    case TH_DIM_MUL: return sat_mul(a, b);
    case TH_DIM_FLOORDIV: return floor_div(a, b);
    case TH_DIM_MOD: return floor_mod(a, b);
    case TH_DIM_MIN: return a < b ? a : b;
    default: return a > b ? a : b;
  }
}

void th_dim_bounds(const th_context *c, th_dim dim, int64_t *out_min, int64_t *out_max) {
  const th_dim_node *n = &c->dims[dim];
  int64_t la, ha, lb, hb;
  switch (n->kind) {
    case TH_DIM_CONST: *out_min = *out_max = n->value; return;
    case TH_DIM_SYMBOL: {
      bool known = (size_t)n->value < c->n_symbols;
      *out_min = known ? c->symbols[n->value].min : 0;
      *out_max = known && c->symbols[n->value].max >= 0 ? c->symbols[n->value].max : INT64_MAX;
      return;
    }
    default: break;
  }
  th_dim_bounds(c, n->a, &la, &ha);
  th_dim_bounds(c, n->b, &lb, &hb);
  switch (n->kind) {
    case TH_DIM_ADD:
      *out_min = la == INT64_MIN || lb == INT64_MIN ? INT64_MIN : sat_add(la, lb);
      *out_max = ha == INT64_MAX || hb == INT64_MAX ? INT64_MAX : sat_add(ha, hb);
      return;
    case TH_DIM_MUL:
      if (la >= 0 && lb >= 0) {
        *out_min = sat_mul(la, lb);
        *out_max = ha == INT64_MAX || hb == INT64_MAX ? INT64_MAX : sat_mul(ha, hb);
      } else if (lb == hb && lb < 0 && la >= 0) { /* a term with a negative coefficient */
        *out_min = ha == INT64_MAX ? INT64_MIN : sat_mul(ha, lb);
        *out_max = sat_mul(la, lb);
      } else {
        *out_min = INT64_MIN;
        *out_max = INT64_MAX;
      }
      return;
    case TH_DIM_FLOORDIV:
      *out_min = la >= 0 && lb > 0 ? (hb == INT64_MAX ? 0 : floor_div(la, hb)) : INT64_MIN;
      *out_max = la >= 0 && lb > 0 && ha != INT64_MAX ? floor_div(ha, lb) : INT64_MAX;
      return;
    case TH_DIM_MOD:
      *out_min = lb > 0 ? 0 : INT64_MIN;
      *out_max = lb > 0 && hb != INT64_MAX ? hb - 1 : INT64_MAX;
      return;
    case TH_DIM_MIN:
      *out_min = la < lb ? la : lb;
      *out_max = ha < hb ? ha : hb;
      return;
    default:
      *out_min = la > lb ? la : lb;
      *out_max = ha > hb ? ha : hb;
      return;
  }
}

static void print_dim(const th_context *c, th_dim dim, th_strbuf *out, bool parenthesize) {
  static const char *const signs[] = {[TH_DIM_ADD] = " + ", [TH_DIM_SUB] = " - ", [TH_DIM_MUL] = "*",
                                      [TH_DIM_FLOORDIV] = " floordiv ", [TH_DIM_MOD] = " mod "};
  const th_dim_node *n = &c->dims[dim];
  switch (n->kind) {
    case TH_DIM_CONST: th_strbuf_printf(out, "%lld", (long long)n->value); return;
    case TH_DIM_SYMBOL: th_strbuf_printf(out, "s%lld", (long long)n->value); return;
    case TH_DIM_MIN:
    case TH_DIM_MAX:
      th_strbuf_add(out, n->kind == TH_DIM_MIN ? "min(" : "max(");
      print_dim(c, n->a, out, false);
      th_strbuf_add(out, ", ");
      print_dim(c, n->b, out, false);
      th_strbuf_add(out, ")");
      return;
    default: break;
  }
  if (parenthesize) th_strbuf_add(out, "(");
  print_dim(c, n->a, out, n->kind != TH_DIM_ADD && c->dims[n->a].kind != TH_DIM_MUL);
  th_strbuf_add(out, signs[n->kind]);
  print_dim(c, n->b, out, n->kind != TH_DIM_ADD);
  if (parenthesize) th_strbuf_add(out, ")");
}

void th_dim_print(const th_context *c, th_dim dim, th_strbuf *out) { print_dim(c, dim, out, false); }

/* ---- symbols, mesh, shardings ---- */

uint32_t th_symbol_add(th_context *c, th_symbol symbol) {
  TH_PUSH(c->arena, c->symbols, c->n_symbols, c->symbols_capacity, symbol);
  th_dim_symbol(c, (uint32_t)c->n_symbols - 1); /* products are ordered by symbols, wherever each is first used */
  return (uint32_t)c->n_symbols - 1;
}
uint32_t th_symbol_count(const th_context *c) { return (uint32_t)c->n_symbols; }
th_symbol *th_symbol_get(const th_context *c, uint32_t symbol) { return &c->symbols[symbol]; }

uint32_t th_mesh_axis_add(th_context *c, const char *name, uint32_t size) {
  assert(c->n_shardings == 1 && "axes come before shardings");
  th_mesh_axis axis = {th_intern(c, name), size};
  TH_PUSH(c->arena, c->axes, c->n_axes, c->axes_capacity, axis);
  return (uint32_t)c->n_axes - 1;
}
uint32_t th_mesh_axis_count(const th_context *c) { return (uint32_t)c->n_axes; }
th_mesh_axis th_mesh_axis_get(const th_context *c, uint32_t axis) { return c->axes[axis]; }

th_sharding th_sharding_make(th_context *c, const int32_t *placements) {
  bool replicated = true;
  for (size_t i = 0; i < c->n_axes; i++) replicated &= placements[i] == TH_PLACE_REPLICATED;
  if (replicated) return 0;
  for (size_t s = 1; s < c->n_shardings; s++)
    if (!memcmp(c->shardings[s], placements, c->n_axes * sizeof *placements)) return (th_sharding)s;
  const int32_t *copy = th_arena_copy(c->arena, placements, c->n_axes * sizeof *placements);
  TH_PUSH(c->arena, c->shardings, c->n_shardings, c->shardings_capacity, copy);
  return (th_sharding)(c->n_shardings - 1);
}
int32_t th_sharding_placement(const th_context *c, th_sharding sharding, uint32_t axis) {
  return sharding ? c->shardings[sharding][axis] : TH_PLACE_REPLICATED;
}
uint32_t th_sharding_count(const th_context *c) { return (uint32_t)c->n_shardings; }
