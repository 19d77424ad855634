#include "ir/names.h"

#include "proto/trace.pb-c.h"

static void *allocate(void *user, size_t size) { return th_arena_alloc(user, size); }
static void release(void *user, void *pointer) { (void)user, (void)pointer; }

static th_status text_of(const Thunder__Wire__Names *m, const char *table, uint32_t index, const char **out) {
  if (index >= m->n_strings) return TH_ERROR(INVALID_ARGUMENT, "names: %s refers to string %u of %zu", table, index, m->n_strings);
  *out = m->strings[index];
  return TH_OK;
}

th_status th_names_decode(th_arena *a, const uint8_t *bytes, size_t size, th_names **out) {
  ProtobufCAllocator allocator = {allocate, release, a};
  Thunder__Wire__Names *m = thunder__wire__names__unpack(&allocator, size, bytes);
  if (!m) return TH_ERROR(INVALID_ARGUMENT, "the names are not a Names message (%zu bytes)", size);
  size_t n = m->n_op_file;
  if (m->n_op_line != n || m->n_op_text != n || m->n_op_scope != n)
    return TH_ERROR(INVALID_ARGUMENT, "names: tables of unequal length: file %zu, line %zu, text %zu, scope %zu", n, m->n_op_line, m->n_op_text, m->n_op_scope);
  th_op_source *ops = TH_ARENA_ARRAY(a, th_op_source, n);
  for (size_t i = 0; i < n; i++) {
    ops[i].line = m->op_line[i];
    TH_TRY(text_of(m, "op_file", m->op_file[i], &ops[i].file));
    TH_TRY(text_of(m, "op_text", m->op_text[i], &ops[i].text));
    TH_TRY(text_of(m, "op_scope", m->op_scope[i], &ops[i].scope));
  }
  const char **values = TH_ARENA_ARRAY(a, const char *, m->n_value_name);
  for (size_t i = 0; i < m->n_value_name; i++) TH_TRY(text_of(m, "value_name", m->value_name[i], &values[i]));
  *out = TH_ARENA_NEW(a, th_names);
  **out = (th_names){.n_ops = n, .n_values = m->n_value_name, .ops = ops, .values = values};
  return TH_OK;
}
