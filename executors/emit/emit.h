/* Emit: level 4 traces -> a serialized thunder.wire.Executable (proto/plan.proto), which a rank loads and runs.
 *
 * The traces come from the pass memory_plan: every value of graph 0 has strides and a place, every op is a launch, an
 * invoke, a copy, a fill (const, rank), a collective, or a view without an instruction. What each instruction of the
 * plan carries is written down in README.md of this folder; executors/run is its reader.
 *
 * Kernels are deduplicated over all plans of one call: two launches whose bodies print the same C function share it,
 * so a net of N equal layers compiles one layer's kernels. Each executor compiles its kernels to modules (parts that
 * are compiled side by side), source included; what a library call was prepared with is a module too. Threads: thread-compatible. */
#ifndef THUNDER_EXECUTORS_EMIT_EMIT_H
#define THUNDER_EXECUTORS_EMIT_EMIT_H

#include "ir/pass.h"

typedef struct th_emit_plan {
  const char *name;      /* "forward", "backward", "step" */
  const th_trace *trace; /* level 4, verified */
} th_emit_plan;

typedef struct th_emit_pass { /* a row of CompileReport */
  const char *name;
  uint64_t ns;
} th_emit_pass;

typedef struct th_emit_report { /* what the caller knows and the plan's report repeats; zeroes are fine */
  const th_emit_pass *passes;
  size_t n_passes;
  uint64_t total_ns; /* of the passes; codegen is added */
  uint32_t ops;      /* of the captured trace */
} th_emit_report;

/* Called from th_emit at each step that takes time: "codegen" with the number of kernels, "compile" before the host
 * compiler runs, "done" after. May be NULL. */
typedef void (*th_emit_progress)(void *user, const char *stage, uint32_t done, uint32_t total);

/* Writes the executable. `*out` is memory of `arena`. Errors: UNIMPLEMENTED or INTERNAL naming the op that cannot be
 * emitted; UNAVAILABLE with the compiler's last lines when the host compiler fails or is missing. */
th_status th_emit(const th_options *options, const th_emit_plan *plans, size_t n_plans, const th_emit_report *report,
                  th_emit_progress progress, void *user, th_arena *arena, uint8_t **out, size_t *out_size);

#endif
