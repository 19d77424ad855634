#include "ir/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TH_ARENA_ALIGN = 16, TH_ARENA_BLOCK = 64 * 1024 };

typedef struct block {
  struct block *next;
  size_t size, used;
  _Alignas(16) unsigned char bytes[];
} block;

struct th_arena {
  block *blocks;
  size_t budget, used;
  jmp_buf *guard;
  long fail_after;
};

th_arena *th_arena_create(size_t budget) {
  th_arena *arena = calloc(1, sizeof *arena);
  if (arena) {
    arena->budget = budget;
    arena->fail_after = -1;
  }
  return arena;
}

void th_arena_destroy(th_arena *arena) {
  if (!arena) return;
  for (block *b = arena->blocks, *next; b; b = next) {
    next = b->next;
    free(b);
  }
  free(arena);
}

static void *exhausted(th_arena *arena, size_t size) {
  if (arena->guard) longjmp(*arena->guard, 1);
  fprintf(stderr, "thunder: an arena could not give %zu bytes (%zu used, budget %zu) and has no guard\n", size,
          arena->used, arena->budget);
  abort();
}

void *th_arena_alloc(th_arena *arena, size_t size) {
  if (arena->fail_after >= 0 && arena->fail_after-- == 0) return exhausted(arena, size);
  if (size > SIZE_MAX / 2) return exhausted(arena, size);
  size_t rounded = (size + TH_ARENA_ALIGN - 1) & ~(size_t)(TH_ARENA_ALIGN - 1);
  if (arena->budget && rounded > arena->budget - arena->used) return exhausted(arena, size);
  block *b = arena->blocks;
  if (!b || b->size - b->used < rounded) {
    size_t wanted = rounded > TH_ARENA_BLOCK / 4 ? rounded : TH_ARENA_BLOCK;
    block *fresh = malloc(sizeof *fresh + wanted);
    if (!fresh) return exhausted(arena, size);
    fresh->size = wanted;
    fresh->used = 0;
    if (b && wanted != TH_ARENA_BLOCK) { /* a large block goes behind, so that the open one keeps filling */
      fresh->next = b->next;
      b->next = fresh;
    } else {
      fresh->next = b;
      arena->blocks = fresh;
    }
    b = fresh;
  }
  void *bytes = b->bytes + b->used;
  b->used += rounded;
  arena->used += rounded;
  return memset(bytes, 0, rounded);
}

void *th_arena_calloc(th_arena *arena, size_t count, size_t size) {
  size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return exhausted(arena, SIZE_MAX);
  return th_arena_alloc(arena, total);
}

void *th_arena_copy(th_arena *arena, const void *bytes, size_t size) {
  void *copy = th_arena_alloc(arena, size);
  return size ? memcpy(copy, bytes, size) : copy;
}

char *th_arena_strndup(th_arena *arena, const char *text, size_t length) {
  char *copy = th_arena_alloc(arena, length + 1);
  memcpy(copy, text, length);
  copy[length] = 0;
  return copy;
}

char *th_arena_strdup(th_arena *arena, const char *text) { return th_arena_strndup(arena, text, strlen(text)); }

char *th_arena_printf(th_arena *arena, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *text = th_arena_alloc(arena, (size_t)(length < 0 ? 0 : length) + 1);
  vsnprintf(text, (size_t)(length < 0 ? 0 : length) + 1, format, again);
  va_end(again);
  return text;
}

size_t th_arena_used(const th_arena *arena) { return arena->used; }
size_t th_arena_remaining(const th_arena *arena) { return arena->budget ? arena->budget - arena->used : SIZE_MAX; }

th_status th_arena_guard(th_arena *arena, th_status (*body)(void *user), void *user) {
  jmp_buf here, *outer = arena->guard;
  th_status status;
  if (setjmp(here) == 0) {
    arena->guard = &here;
    status = body(user);
  } else {
    status = TH_ERROR(RESOURCE_EXHAUSTED, "the compile needs more memory than its budget (%zu bytes used of %zu); "
                                          "raise THUNDER_COMPILE_MEMORY", arena->used, arena->budget);
  }
  arena->guard = outer;
  return status;
}

void th_arena_fail_after(th_arena *arena, long n) { arena->fail_after = n; }

void *th_arena_grow(th_arena *arena, void *items, size_t count, size_t *capacity, size_t size) {
  if (count < *capacity) return items;
  size_t wanted = *capacity ? *capacity * 2 : 8;
  void *grown = th_arena_calloc(arena, wanted, size);
  if (count) memcpy(grown, items, count * size);
  *capacity = wanted;
  return grown;
}
