/* String buffer: text built piece by piece in an arena. Thread-compatible. */
#ifndef THUNDER_IR_BASE_STRBUF_H
#define THUNDER_IR_BASE_STRBUF_H

#include "ir/base/arena.h"

typedef struct th_strbuf {
  th_arena *arena;
  char *text; /* always NUL-terminated once something was added; NULL before */
  size_t length, capacity;
} th_strbuf;

static inline th_strbuf th_strbuf_make(th_arena *arena) { return (th_strbuf){.arena = arena}; }
void th_strbuf_add(th_strbuf *buffer, const char *text);
void th_strbuf_add_bytes(th_strbuf *buffer, const char *text, size_t length);
void th_strbuf_printf(th_strbuf *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The text, "" when empty; owned by the arena. */
const char *th_strbuf_text(const th_strbuf *buffer);

#endif
