/* The compiler as a function: job bytes in (thunder.wire.CompileJob), executable bytes out (thunder.wire.Executable).
 * What a compile worker and the offline tool `thunderc` call. No driver, no device, no network.
 *
 * Memory: everything, the results too, is `arena`'s; when its budget is spent, RESOURCE_EXHAUSTED. Errors of the job begin
 * with "op <number>" where an op is to blame. Threads: thread-compatible. */
#ifndef THUNDER_DAEMON_THUNDERC_COMPILE_H
#define THUNDER_DAEMON_THUNDERC_COMPILE_H

#include "ir/pass.h"

/* Told after each pass and each step of code generation; NULL is fine. */
typedef void (*th_compile_progress)(void *user, const char *stage, uint32_t done, uint32_t total);

th_status th_compile_job(th_arena *arena, const uint8_t *job, size_t size, th_compile_progress progress, void *user,
                         uint8_t **out_executable, size_t *out_size);

/* The traces of a job as text, after the pass `pass` or (NULL) after every pass, the capture first; source lines from `names`
 * (thunder.wire.Names; size 0: none) joined in. Traces are separated by lines "// after PASS (PLAN)". */
th_status th_compile_dump(th_arena *arena, const uint8_t *job, size_t job_size, const uint8_t *names, size_t names_size,
                          const char *pass, const char **out_text);

/* The options and the verified trace of a job, for the offline tool; what the job leaves open is as th_options_default says. */
th_status th_compile_options(th_context *context, const uint8_t *job, size_t size, th_options *out, th_trace **out_trace);

#endif
