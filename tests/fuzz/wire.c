/* The wire decoder (ir/wire_decode.c). Mutations are made on the message, by its own descriptor, and packed again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/trace.pb-c.h"
#include "tests/fuzz/fuzz.h"

typedef struct input { const uint8_t *data; size_t size; th_arena *arena; } input;
typedef Thunder__Wire__Trace message;

static th_status decode(void *user) {
  input *in = user;
  th_trace *trace;
  TH_TRY(th_trace_decode(th_context_create(in->arena), in->data, in->size, &trace));
  fuzz_trace(trace, fuzz_hash(in->data, in->size));
  return TH_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  setenv("THUNDER_VERIFY", "1", 1);
  input in = {data, size, th_arena_create((size_t)256 << 20)};
  fuzz_seen.inputs++;
  th_status_free(th_arena_guard(in.arena, decode, &in));
  th_arena_destroy(in.arena);
  return 0;
}

const uint8_t *fuzz_seed_of(th_arena *arena, const char *text, size_t length, size_t *out_size) {
  th_trace *trace;
  uint8_t *bytes = NULL;
  th_status status = th_trace_parse(th_context_create(arena), text, length, &trace);
  if (!status) status = th_trace_encode(trace, &bytes, out_size);
  if (!status) return bytes;
  th_status_free(status);
  return NULL;
}

/* ---- mutations: several may follow one another, so that tables which belong together may differ in length ---- */

static uint32_t *pick(uint32_t *random, uint32_t *table, size_t n) { return n ? &table[fuzz_random(random, (uint32_t)n)] : NULL; }

static void other_operand(message *m, uint32_t *random) { /* one value for another of its type */
  uint32_t *at = pick(random, m->operands, m->n_operands);
  if (!fuzz_random(random, 4)) at = pick(random, m->graph_outputs, m->n_graph_outputs);
  if (!at || *at >= m->n_value_type) return;
  uint32_t reach = fuzz_random(random, 64) + 1;
  for (uint32_t i = 0; i < m->n_value_type; i++) {
    uint32_t v = (*at + m->n_value_type - (reach + i) % (uint32_t)m->n_value_type) % (uint32_t)m->n_value_type;
    if (v != *at && m->value_type[v] == m->value_type[*at]) {
      *at = v;
      return;
    }
  }
}

static void other_op(message *m, uint32_t *random) {
  uint32_t *at = pick(random, m->op_name, m->n_op_name);
  if (!at || *at >= m->n_strings) return;
  th_op_kind kind = th_op_find(m->strings[*at], strlen(m->strings[*at]));
  if (kind == TH_OP_COUNT) return;
  const char *name = th_op_name(fuzz_like(random, kind));
  char **strings = realloc(m->strings, (m->n_strings + 1) * sizeof *strings);
  if (!strings) return;
  m->strings = strings;
  m->strings[m->n_strings] = strdup(name);
  *at = (uint32_t)m->n_strings++;
  for (size_t i = 0; i < m->n_value_type; i++) /* dtypes may be others now: left to inference where the graph's inputs do not say them */
    if (m->n_graph_inputs && i >= m->graph_inputs[0] && m->n_graph_name == 1) m->value_type[i] = UINT32_MAX;
}

static void flags(message *m, uint32_t *random) {
  static const uint32_t dtypes[] = {0, TH_DTYPE_bf16, TH_DTYPE_f16, TH_DTYPE_f32};
  uint32_t *at;
  switch (fuzz_random(random, 5)) {
    case 0: if ((at = pick(random, m->op_flags, m->n_op_flags))) *at ^= 1; return;
    case 1:
      if ((at = pick(random, m->op_autocast, m->n_op_autocast))) {
        th_dtype dtype = (th_dtype)dtypes[fuzz_random(random, 4)];
        *at = dtype ? (uint32_t)th_dtype_to_wire(dtype) : 0;
      }
      return;
    case 2: if ((at = pick(random, m->input_flags, m->n_input_flags))) *at ^= 1u << fuzz_random(random, 2); return;
    case 3: if ((at = pick(random, m->input_kind, m->n_input_kind))) *at = fuzz_random(random, 5); return;
    default: if (m->n_attr_kind) {
      size_t k = fuzz_random(random, (uint32_t)m->n_attr_kind);
      if (k < m->n_attr_value && m->attr_kind[k] == TH_ATTR_BOOL) m->attr_value[k] ^= 1;
    }
  }
}

static void constant(message *m, uint32_t *random) { /* the same size elsewhere too: dimension expressions are shared */
  static const double floats[] = {0, 1, -1.5, 1e-5, 1e30, 1.0 / 0.0, 0.0 / 0.0};
  if (m->n_floats && fuzz_random(random, 2)) {
    m->floats[fuzz_random(random, (uint32_t)m->n_floats)] = floats[fuzz_random(random, 7)];
  } else if (m->n_dim_kind) {
    size_t k = fuzz_random(random, (uint32_t)m->n_dim_kind);
    if (k < m->n_dim_a && m->dim_kind[k] == TH_DIM_CONST && m->dim_a[k] > 1) m->dim_a[k] = (int64_t)fuzz_random(random, 9);
  }
}

static uint64_t strange(uint32_t *random, uint64_t old, uint64_t other) {
  switch (fuzz_random(random, 10)) {
    case 0: return 0;
    case 1: return old + 1;
    case 2: return old - 1;
    case 3: return UINT64_MAX;
    case 4: return old ^ UINT64_C(1) << fuzz_random(random, 63);
    case 5: return fuzz_random(random, 16);
    case 6: return INT64_MAX;
    case 7: return UINT64_C(1) << 63;
    default: return other;
  }
}

/* Any entry of any table, found through the message's descriptor. */
static void any_entry(message *m, uint32_t *random) {
  const ProtobufCMessageDescriptor *d = &thunder__wire__trace__descriptor;
  const ProtobufCFieldDescriptor *f = &d->fields[fuzz_random(random, d->n_fields)];
  if (f->label != PROTOBUF_C_LABEL_REPEATED) { /* the version */
    m->version = fuzz_random(random, 3);
    return;
  }
  size_t *n = (size_t *)((char *)m + f->quantifier_offset);
  void *table = *(void **)((char *)m + f->offset);
  if (!*n) return;
  size_t at = fuzz_random(random, (uint32_t)*n), other = fuzz_random(random, (uint32_t)*n);
  if (!fuzz_random(random, 8)) { /* one entry less */
    if (f->type == PROTOBUF_C_TYPE_STRING) free(((char **)table)[*n - 1]);
    --*n;
    return;
  }
  switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32: ((uint32_t *)table)[at] = (uint32_t)strange(random, ((uint32_t *)table)[at], ((uint32_t *)table)[other]); return;
    case PROTOBUF_C_TYPE_SINT32: ((int32_t *)table)[at] = (int32_t)strange(random, (uint64_t)((int32_t *)table)[at], (uint64_t)((int32_t *)table)[other]); return;
    case PROTOBUF_C_TYPE_SINT64: ((int64_t *)table)[at] = (int64_t)strange(random, (uint64_t)((int64_t *)table)[at], (uint64_t)((int64_t *)table)[other]); return;
    case PROTOBUF_C_TYPE_STRING: {
      char *s = ((char **)table)[at];
      if (*s) s[fuzz_random(random, (uint32_t)strlen(s))] = "ab%\"\\\n."[fuzz_random(random, 7)];
      return;
    }
    default: return;
  }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  uint32_t random = seed * 2654435761u + 1;
  message *m = thunder__wire__trace__unpack(NULL, size, data);
  if (!m || !fuzz_random(&random, 40)) { /* bytes that are no message */
    if (m) thunder__wire__trace__free_unpacked(m, NULL);
    if (size) data[fuzz_random(&random, (uint32_t)size)] ^= (uint8_t)(1u << fuzz_random(&random, 8));
    return size;
  }
  switch (fuzz_random(&random, 12)) {
    case 0: case 1: case 2: other_operand(m, &random); break;
    case 3: case 4: other_op(m, &random); break;
    case 5: case 6: case 7: flags(m, &random); break;
    case 8: case 9: constant(m, &random); break;
    default: any_entry(m, &random); break;
  }
  size_t packed = thunder__wire__trace__get_packed_size(m);
  if (packed <= max_size) size = thunder__wire__trace__pack(m, data);
  thunder__wire__trace__free_unpacked(m, NULL);
  return size;
}
