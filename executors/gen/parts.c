#define _GNU_SOURCE /* CPU_COUNT */
#include "executors/gen/parts.h"

#include <sched.h>

#include "ir/base/strbuf.h"

size_t th_gen_share_out(th_arena *arena, const char *prelude, const char *const *kernels, size_t n, size_t most, const char ***out_sources, uint32_t *part_of) {
  cpu_set_t cpus;
  size_t count = sched_getaffinity(0, sizeof cpus, &cpus) ? 1 : (size_t)CPU_COUNT(&cpus);
  if (count > most) count = most;
  if (count > n) count = n;
  th_strbuf *texts = TH_ARENA_ARRAY(arena, th_strbuf, count);
  *out_sources = TH_ARENA_ARRAY(arena, const char *, count);
  for (size_t p = 0; p < count; p++) {
    texts[p] = th_strbuf_make(arena);
    th_strbuf_add(&texts[p], prelude);
  }
  for (size_t i = 0; i < n; i++) { /* the next one always to the part that has least */
    size_t least = 0;
    for (size_t p = 1; p < count; p++)
      if (texts[p].length < texts[least].length) least = p;
    th_strbuf_add(&texts[least], kernels[i]);
    if (part_of) part_of[i] = (uint32_t)least;
  }
  for (size_t p = 0; p < count; p++) (*out_sources)[p] = th_strbuf_text(&texts[p]);
  return count;
}
