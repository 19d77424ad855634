#include "ir/base/strbuf.h"

#include <stdio.h>
#include <string.h>

static void reserve(th_strbuf *b, size_t more) {
  if (b->length + more + 1 <= b->capacity) return;
  size_t capacity = b->capacity ? b->capacity : 256;
  while (capacity < b->length + more + 1) capacity *= 2;
  char *grown = th_arena_alloc(b->arena, capacity);
  if (b->length) memcpy(grown, b->text, b->length);
  b->text = grown;
  b->capacity = capacity;
}

void th_strbuf_add_bytes(th_strbuf *b, const char *text, size_t length) {
  reserve(b, length);
  memcpy(b->text + b->length, text, length);
  b->length += length;
  b->text[b->length] = 0;
}

void th_strbuf_add(th_strbuf *b, const char *text) { th_strbuf_add_bytes(b, text, strlen(text)); }

void th_strbuf_printf(th_strbuf *b, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (length > 0) {
    reserve(b, (size_t)length);
    vsnprintf(b->text + b->length, (size_t)length + 1, format, again);
    b->length += (size_t)length;
  }
  va_end(again);
}

const char *th_strbuf_text(const th_strbuf *b) { return b->text ? b->text : ""; }
