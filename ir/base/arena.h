/* Arena: bump allocation for one compile.
 *
 * Everything a compile makes (trace, all passes, text) lives in one arena and dies with it, so an early return
 * leaks nothing and nothing is freed by hand. Memory is zeroed.
 *
 * Allocation does not return NULL. An arena has a byte budget; when it, or the machine's memory, is spent, the
 * arena jumps to its guard (th_arena_guard), which turns that into a RESOURCE_EXHAUSTED status at the entry of
 * the compile. Without a guard it prints one line and aborts. So code between guard and failure must own
 * nothing but arena memory: that is the rule of ir/ and of the executors' compile halves.
 *
 * Threads: an arena belongs to one thread. */
#ifndef THUNDER_IR_BASE_ARENA_H
#define THUNDER_IR_BASE_ARENA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/base/status.h"

typedef struct th_arena th_arena;

/* Creates an arena that will hand out at most `budget` bytes (0: no bound). Returns NULL when memory is gone. */
th_arena *th_arena_create(size_t budget);
void th_arena_destroy(th_arena *arena); /* NULL is fine */

/* `size` zeroed bytes aligned for any type; size 0 gives a valid pointer. */
void *th_arena_alloc(th_arena *arena, size_t size);
/* count * size with the product checked. */
void *th_arena_calloc(th_arena *arena, size_t count, size_t size);
#define TH_ARENA_NEW(arena, type) ((type *)th_arena_alloc((arena), sizeof(type)))
#define TH_ARENA_ARRAY(arena, type, count) ((type *)th_arena_calloc((arena), (count), sizeof(type)))

void *th_arena_copy(th_arena *arena, const void *bytes, size_t size);
char *th_arena_strdup(th_arena *arena, const char *text);
char *th_arena_strndup(th_arena *arena, const char *text, size_t length);
char *th_arena_printf(th_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

size_t th_arena_used(const th_arena *arena);      /* bytes handed out so far */
size_t th_arena_remaining(const th_arena *arena); /* bytes left of the budget; SIZE_MAX without one */

/* Runs `body(user)` with the arena's exhaustion turned into RESOURCE_EXHAUSTED. Guards nest. */
th_status th_arena_guard(th_arena *arena, th_status (*body)(void *user), void *user);

/* Test hook: makes the n-th allocation from now fail (0 is the next); -1 turns it off. */
void th_arena_fail_after(th_arena *arena, long n);

/* Growable array in an arena: grows `*items` (elements of `size` bytes) to hold `count + 1`. */
void *th_arena_grow(th_arena *arena, void *items, size_t count, size_t *capacity, size_t size);
#define TH_PUSH(arena, items, count, capacity, value)                                                   \
  do {                                                                                                  \
    (items) = th_arena_grow((arena), (items), (count), &(capacity), sizeof *(items));                   \
    (items)[(count)++] = (value);                                                                       \
  } while (0)

#endif
