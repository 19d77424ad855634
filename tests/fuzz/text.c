/* The text parser (ir/parse.c). */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

typedef struct input { const uint8_t *data; size_t size; th_arena *arena; } input;

static th_status parse(void *user) {
  input *in = user;
  th_trace *trace;
  TH_TRY(th_trace_parse(th_context_create(in->arena), (const char *)in->data, in->size, &trace));
  fuzz_trace(trace, fuzz_hash(in->data, in->size));
  return TH_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  setenv("THUNDER_VERIFY", "1", 1);
  input in = {data, size, th_arena_create((size_t)256 << 20)};
  fuzz_seen.inputs++;
  th_status_free(th_arena_guard(in.arena, parse, &in));
  th_arena_destroy(in.arena);
  return 0;
}

const uint8_t *fuzz_seed_of(th_arena *arena, const char *text, size_t length, size_t *out_size) {
  *out_size = length;
  return th_arena_copy(arena, text, length);
}

/* ---- mutations: on lines and tokens ---- */

typedef struct edit { uint8_t *data; size_t size, max; uint32_t *random; } edit;

static void replace(edit *e, size_t at, size_t length, const char *with, size_t with_length) {
  if (e->size - length + with_length > e->max) return;
  memmove(e->data + at + with_length, e->data + at + length, e->size - at - length);
  memmove(e->data + at, with, with_length);
  e->size = e->size - length + with_length;
}

static size_t line_start(const edit *e, size_t at) {
  while (at > 0 && e->data[at - 1] != '\n') at--;
  return at;
}
static size_t line_end(const edit *e, size_t at) {
  while (at < e->size && e->data[at] != '\n') at++;
  return at < e->size ? at + 1 : at;
}

/* The place of a random character for which `wanted` holds, looked for from a random start; size when there is none. */
static size_t find(edit *e, int (*wanted)(int)) {
  size_t start = fuzz_random(e->random, (uint32_t)e->size);
  for (size_t i = 0; i < e->size; i++)
    if (wanted(e->data[(start + i) % e->size])) return (start + i) % e->size;
  return e->size;
}
static int is_value(int c) { return c == '%'; }
static int is_equals(int c) { return c == '='; }
static int is_hash(int c) { return c == '#'; }

static size_t token_end(const edit *e, size_t at) {
  while (at < e->size && (isalnum(e->data[at]) || e->data[at] == '_' || e->data[at] == '.')) at++;
  return at;
}

/* The text of the type of value `number`: after its ':' where it is defined. */
static bool type_of(const edit *e, const char *value, size_t length, char *out, size_t room) {
  for (size_t at = 0; at + length + 3 < e->size; at++) {
    if (e->data[at] != '%' || (at && e->data[at - 1] != ' ' && e->data[at - 1] != '\n')) continue;
    if (memcmp(e->data + at, value, length) || isdigit(e->data[at + length])) continue;
    size_t colon = at + length, end = line_end(e, at);
    while (colon + 2 < end && !(e->data[colon] == ' ' && e->data[colon + 1] == ':' && e->data[colon + 2] == ' ')) colon++;
    size_t close = colon + 3;
    while (close < end && e->data[close] != ']') close++;
    if (close >= end || close - colon > room) return false;
    memcpy(out, e->data + colon, close - colon);
    out[close - colon] = 0;
    return true;
  }
  return false;
}

static void other_operand(edit *e) { /* one value for another of its type */
  size_t at = find(e, is_value), other = find(e, is_value);
  if (at == e->size || other == e->size) return;
  char a[256], b[256], name[32];
  size_t end = token_end(e, at + 1), other_end = token_end(e, other + 1);
  if (end - at > 16 || other_end - other > 16) return;
  if (!type_of(e, (char *)e->data + at, end - at, a, sizeof a - 1) || !type_of(e, (char *)e->data + other, other_end - other, b, sizeof b - 1) || strcmp(a, b)) return;
  memcpy(name, e->data + other, other_end - other);
  if (line_start(e, at) == at - 2) return; /* its definition */
  replace(e, at, end - at, name, other_end - other);
}

static void other_op(edit *e) {
  size_t at = find(e, is_equals);
  if (at + 2 >= e->size) return;
  size_t end = token_end(e, at + 2);
  th_op_kind kind = th_op_find((char *)e->data + at + 2, end - at - 2);
  if (kind == TH_OP_COUNT) return;
  const char *name = th_op_name(fuzz_like(e->random, kind));
  replace(e, at + 2, end - at - 2, name, strlen(name));
}

static void toggle_mark(edit *e) {
  size_t at = find(e, is_hash);
  if (at < e->size && fuzz_random(e->random, 2)) {
    replace(e, at, token_end(e, at + 1) - at, "", 0);
    return;
  }
  at = find(e, is_equals);
  if (at == e->size) return;
  at = line_end(e, at);
  if (at && e->data[at - 1] == '\n') replace(e, at - 1, 0, " #no_grad", 9);
}

static void other_number(edit *e, bool small) {
  static const char *const numbers[] = {"0", "1", "2", "3", "4", "7", "16", "-1", "2147483647", "9223372036854775807", "4294967295", "99999999999999999999", "s0", "1.5", "nan"};
  size_t at = find(e, isdigit);
  if (at == e->size) return;
  size_t begin = at, end = at;
  while (begin > 0 && isdigit(e->data[begin - 1])) begin--;
  while (end < e->size && isdigit(e->data[end])) end++;
  const char *with = numbers[fuzz_random(e->random, small ? 5 : sizeof numbers / sizeof *numbers)];
  replace(e, begin, end - begin, with, strlen(with));
}

static void other_float(edit *e) {
  static const char *const floats[] = {"0.0", "1.0", "-1.5", "0.1", "1e30", "inf", "-inf", "nan"};
  size_t start = fuzz_random(e->random, (uint32_t)e->size);
  for (size_t i = 0; i + 1 < e->size; i++) {
    size_t at = (start + i) % (e->size - 1);
    if (e->data[at] != '.' || !isdigit(e->data[at + 1]) || !at || !isdigit(e->data[at - 1])) continue;
    size_t begin = at, end = at + 1;
    while (begin > 0 && (isdigit(e->data[begin - 1]) || e->data[begin - 1] == '-')) begin--;
    while (end < e->size && (isdigit(e->data[end]) || e->data[end] == 'e' || e->data[end] == '-')) end++;
    const char *with = floats[fuzz_random(e->random, sizeof floats / sizeof *floats)];
    replace(e, begin, end - begin, with, strlen(with));
    return;
  }
}

static void signature_word(edit *e) {
  static const char *const words[] = {" user", " parameter", " buffer", " state", " hyper", " saved", " tangent", " requires_grad", " donated", " seed", " written_by(0)"};
  size_t n = sizeof words / sizeof *words, w = fuzz_random(e->random, (uint32_t)n), start = fuzz_random(e->random, (uint32_t)e->size);
  const char *with = words[fuzz_random(e->random, (uint32_t)n)];
  for (size_t i = 0; i < e->size; i++) {
    size_t at = (start + i) % e->size, length = strlen(words[w]);
    if (at + length > e->size || memcmp(e->data + at, words[w], length)) continue;
    replace(e, at, length, with, strlen(with));
    return;
  }
}

static void line(edit *e) {
  size_t at = line_start(e, fuzz_random(e->random, (uint32_t)e->size)), end = line_end(e, at), to = line_start(e, fuzz_random(e->random, (uint32_t)e->size));
  char copy[4096];
  if (end - at > sizeof copy) return;
  memcpy(copy, e->data + at, end - at);
  if (fuzz_random(e->random, 2)) replace(e, to, 0, copy, end - at);
  else replace(e, at, end - at, "", 0);
}

static void byte(edit *e) {
  static const char alphabet[] = "%@#:,=(){}[]\"\\ \n0129sfmaxbwe._-+*/";
  size_t at = fuzz_random(e->random, (uint32_t)e->size);
  switch (fuzz_random(e->random, 4)) {
    case 0: e->data[at] = (uint8_t)alphabet[fuzz_random(e->random, sizeof alphabet - 1)]; break;
    case 1: e->data[at] ^= (uint8_t)(1u << fuzz_random(e->random, 8)); break;
    case 2: replace(e, at, 1, "", 0); break;
    default: e->size = at; break; /* cut off */
  }
}

static void word(edit *e) { /* a word of the grammar somewhere */
  static const char *const words[] = {"@(dp:shard 0)", "strides(1)", "arena(0)", "borrowed(0)", "escaping(0)", "constant()", "alias(%0 + 0)", "weak", "host", "#autocast(bf16)", "#executor(cpu)",
                                      "symbol s0 = size(0, 0) in [1, *]\n", "symbol s0 = integer(0) in [0, 7] multiple 2\n", "assume s0*s1 = 6\n", "assume s0*s0 = s1*3 + 1\n", "mesh dp = 2\n", "graph @1 \"b\" {\n  return\n}\n", "min(s0, 3)", "s0 floordiv 2", "(s0 mod 3)",
                                      "offset(1)", "view(0)", "gradient(0)", "// a comment\n"};
  const char *with = words[fuzz_random(e->random, sizeof words / sizeof *words)];
  size_t at = fuzz_random(e->random, (uint32_t)e->size + 1);
  while (at > 0 && at < e->size && e->data[at] != ' ' && e->data[at] != '\n') at++;
  if (!fuzz_random(e->random, 3)) at = 0;
  replace(e, at, 0, with, strlen(with));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  uint32_t random = seed * 2654435761u + 1;
  edit e = {data, size, max_size, &random};
  if (!size) return size;
  switch (fuzz_random(&random, 16)) {
    case 0: case 1: case 2: case 3: case 14: other_operand(&e); break;
    case 4: case 5: other_op(&e); break;
    case 6: case 7: other_float(&e); break;
    case 8: toggle_mark(&e); break;
    case 9: signature_word(&e); break;
    case 10: other_number(&e, true); break;
    case 11: other_number(&e, false); break;
    case 12: line(&e); break;
    case 13: word(&e); break;
    default: byte(&e); break;
  }
  return e.size;
}
