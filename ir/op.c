#include "ir/op.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* The rows of ops.def hold operands and attributes as short texts; they are taken apart once, into static arrays. */

typedef struct row {
  const char *operands, *attrs;
} row;

#define none 0
static th_op_spec specs[TH_OP_COUNT] = {
#define TH_OP(id, name_, level_, overloads_, operands_, attrs_, results_, traits_, lower_, vjp_, doc_) \
  [TH_OP_##id] = {.kind = TH_OP_##id, .name = name_, .level = TH_LEVEL_##level_, .overloads = overloads_, \
                  .n_results = results_, .traits = traits_, .doc = doc_},
#include "ir/ops.def"
#undef TH_OP
};
#undef none

static const row rows[TH_OP_COUNT] = {
#define TH_OP(id, name_, level_, overloads_, operands_, attrs_, ...) [TH_OP_##id] = {operands_, attrs_},
#include "ir/ops.def"
#undef TH_OP
};

enum { MAX_SPECS = 2048, TEXT_SIZE = 64 * 1024, NAME_TABLE = 1024 };
static th_operand_spec operand_specs[MAX_SPECS];
static th_attr_spec attr_specs[MAX_SPECS];
static char text_pool[TEXT_SIZE];
static size_t n_operand_specs, n_attr_specs, text_used;
static uint16_t name_table[NAME_TABLE]; /* op kind + 1, open addressing */

static const char *const kind_names[] = {"absent", "int", "float", "bool", "str", "dtype", "graph", "ints", "bools", "scalar"};
const char *th_attr_kind_name(th_attr_kind kind) { return (unsigned)kind <= TH_ATTR_SCALAR ? kind_names[kind] : "?"; }

static const char *pool(const char *text, size_t n) {
  if (text_used + n + 1 > TEXT_SIZE) abort(); /* our own table outgrew its room */
  char *copy = text_pool + text_used;
  memcpy(copy, text, n);
  copy[n] = 0;
  text_used += n + 1;
  return copy;
}

static size_t hash_name(const char *s, size_t n) {
  size_t h = 5381;
  for (size_t i = 0; i < n; i++) h = h * 33 ^ (unsigned char)s[i];
  return h & (NAME_TABLE - 1);
}

static const char *next_word(const char **at, size_t *n) {
  while (**at == ' ') ++*at;
  const char *start = *at;
  while (**at && **at != ' ') ++*at;
  *n = (size_t)(*at - start);
  return start;
}

static void read_operands(th_op_spec *spec, const char *text) {
  spec->operands = operand_specs + n_operand_specs;
  size_t n;
  for (const char *w; w = next_word(&text, &n), n;) {
    th_operand_spec *o = &operand_specs[n_operand_specs++];
    o->optional = w[n - 1] == '?';
    o->variadic = w[n - 1] == '*';
    o->name = pool(w, n - (o->optional || o->variadic));
    spec->n_operands++;
  }
}

static void read_attrs(th_op_spec *spec, const char *text) {
  spec->attrs = attr_specs + n_attr_specs;
  size_t n;
  for (const char *w; w = next_word(&text, &n), n;) {
    th_attr_spec *a = &attr_specs[n_attr_specs++];
    const char *colon = memchr(w, ':', n), *end = w + n;
    const char *equals = memchr(colon, '=', (size_t)(end - colon));
    const char *kind_end = equals ? equals : end;
    a->name = pool(w, (size_t)(colon - w));
    a->optional = kind_end[-1] == '?';
    a->has_default = equals != NULL;
    a->fallback = equals ? pool(equals + 1, (size_t)(end - equals - 1)) : "";
    size_t length = (size_t)(kind_end - colon - 1) - a->optional;
    for (int k = TH_ATTR_INT; k <= TH_ATTR_SCALAR; k++)
      if (strlen(kind_names[k]) == length && !memcmp(kind_names[k], colon + 1, length)) a->kind = (th_attr_kind)k;
    if (a->kind == TH_ATTR_ABSENT) abort(); /* a typing error in ops.def */
    spec->n_attrs++;
  }
}

static void init(void) {
  for (int k = 0; k < TH_OP_COUNT; k++) {
    if (n_operand_specs + 16 > MAX_SPECS || n_attr_specs + 16 > MAX_SPECS) abort();
    read_operands(&specs[k], rows[k].operands);
    read_attrs(&specs[k], rows[k].attrs);
    size_t h = hash_name(specs[k].name, strlen(specs[k].name));
    while (name_table[h]) h = (h + 1) & (NAME_TABLE - 1);
    name_table[h] = (uint16_t)(k + 1);
  }
}

static void ensure(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init);
}

const th_op_spec *th_op_spec_get(th_op_kind kind) {
  ensure();
  return &specs[kind];
}

th_op_kind th_op_find(const char *name, size_t length) {
  ensure();
  for (size_t h = hash_name(name, length); name_table[h]; h = (h + 1) & (NAME_TABLE - 1)) {
    const th_op_spec *s = &specs[name_table[h] - 1];
    if (!strncmp(s->name, name, length) && !s->name[length]) return s->kind;
  }
  return TH_OP_COUNT;
}

int th_op_attr_index(th_op_kind kind, const char *name) {
  const th_op_spec *spec = th_op_spec_get(kind);
  for (uint32_t i = 0; i < spec->n_attrs; i++)
    if (!strcmp(spec->attrs[i].name, name)) return (int)i;
  return -1;
}
