#include "ir/passes/offsets.h"

#include <stdlib.h>

#include "ir/passes/plan.h"

typedef struct placed { int64_t offset, bytes; uint32_t begin, end; } placed;
typedef struct ranked { int64_t bytes; uint32_t begin; size_t index; } ranked;
typedef struct slot { th_dim bytes; uint32_t end; size_t first; } slot;

static int by_size(const void *a, const void *b) { /* large before small, then early before late */
  const ranked *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

static int64_t align_up(int64_t bytes) { return (bytes + TH_ARENA_ALIGN - 1) / TH_ARENA_ALIGN * TH_ARENA_ALIGN; }

/* The best gap for `item` among those placed (kept by rising offset). */
static int64_t best_fit(const placed *all, size_t n, const placed *item) {
  int64_t best = -1, best_gap = 0, top = 0;
  for (size_t i = 0; i < n; i++) {
    if (all[i].begin > item->end || all[i].end < item->begin) continue;
    int64_t gap = all[i].offset - top;
    if (gap >= item->bytes && (best < 0 || gap < best_gap)) {
      best = top;
      best_gap = gap;
    }
    if (all[i].offset + all[i].bytes > top) top = all[i].offset + all[i].bytes;
  }
  return best < 0 ? top : best;
}

static int64_t place_constant(th_context *c, th_lifetime *storages, const ranked *order, size_t n) {
  placed *all = TH_ARENA_ARRAY(th_context_arena(c), placed, n);
  int64_t total = 0;
  for (size_t k = 0; k < n; k++) {
    th_lifetime *s = &storages[order[k].index];
    placed item = {.bytes = align_up(order[k].bytes), .begin = s->begin, .end = s->end};
    item.offset = best_fit(all, k, &item);
    size_t i = k;
    for (; i > 0 && all[i - 1].offset > item.offset; i--) all[i] = all[i - 1];
    all[i] = item;
    if (item.offset + item.bytes > total) total = item.offset + item.bytes;
    s->offset = th_dim_const(c, item.offset);
  }
  return total;
}

static th_dim align_dim(th_context *c, th_dim bytes) {
  if (th_dim_divisible(c, bytes, TH_ARENA_ALIGN)) return bytes;
  th_dim unit = th_dim_const(c, TH_ARENA_ALIGN);
  return th_dim_mul(c, th_dim_floordiv(c, th_dim_add(c, bytes, th_dim_const(c, TH_ARENA_ALIGN - 1)), unit), unit);
}

static bool at_least(th_context *c, th_dim big, th_dim small) {
  int64_t low, high;
  if (big == small) return true;
  th_dim_bounds(c, th_dim_sub(c, big, small), &low, &high);
  return low >= 0;
}

static int by_begin(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

static th_dim place_symbolic(th_context *c, th_lifetime *storages, const ranked *order, size_t n, int64_t base) {
  th_arena *a = th_context_arena(c);
  slot *slots = TH_ARENA_ARRAY(a, slot, n);
  size_t *slot_of = TH_ARENA_ARRAY(a, size_t, n), n_slots = 0;
  for (size_t k = 0; k < n; k++) {
    const th_lifetime *s = &storages[order[k].index];
    th_dim bytes = align_dim(c, s->bytes);
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < n_slots; i++) {
      if (slots[i].end >= s->begin || !at_least(c, slots[i].bytes, bytes)) continue;
      if (slots[i].bytes == bytes) { /* no fit is better */
        best = i;
        break;
      }
      if (best == SIZE_MAX || at_least(c, slots[best].bytes, slots[i].bytes)) best = i;
    }
    if (best == SIZE_MAX) { /* a dead slot that is provably smaller grows; else a new one */
      for (size_t i = 0; i < n_slots && best == SIZE_MAX; i++)
        if (slots[i].end < s->begin && at_least(c, bytes, slots[i].bytes)) best = i;
      if (best == SIZE_MAX) best = n_slots++;
      slots[best].bytes = bytes;
    }
    slots[best].end = s->end;
    slot_of[k] = best;
  }
  th_dim top = th_dim_const(c, base), *offsets = TH_ARENA_ARRAY(a, th_dim, n_slots);
  for (size_t i = 0; i < n_slots; i++) {
    offsets[i] = top;
    top = th_dim_add(c, top, slots[i].bytes);
  }
  for (size_t k = 0; k < n; k++) storages[order[k].index].offset = offsets[slot_of[k]];
  return top;
}

th_dim th_offsets_assign(th_context *c, th_lifetime *storages, size_t count) {
  th_arena *a = th_context_arena(c);
  ranked *constant = TH_ARENA_ARRAY(a, ranked, count), *symbolic = TH_ARENA_ARRAY(a, ranked, count);
  size_t n_constant = 0, n_symbolic = 0;
  for (size_t i = 0; i < count; i++) {
    int64_t bytes;
    if (th_dim_is_const(c, storages[i].bytes, &bytes)) constant[n_constant++] = (ranked){bytes, storages[i].begin, i};
    else symbolic[n_symbolic++] = (ranked){0, storages[i].begin, i};
  }
  qsort(constant, n_constant, sizeof *constant, by_size);
  qsort(symbolic, n_symbolic, sizeof *symbolic, by_begin);
  int64_t base = place_constant(c, storages, constant, n_constant);
  return place_symbolic(c, storages, symbolic, n_symbolic, base);
}
