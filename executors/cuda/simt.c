/* CUDA kernels for the host: simt.h, which runs a block's threads one after another, and the host's C++ compiler. For tests: without
 * optimization a small module compiles in half the time, and a step of a tiny GPT takes a tenth longer. */
#include <stdlib.h>
#include <string.h>

#include "executors/cpu/host_compiler.h"
#include "executors/cuda/cuda.h"
#include "executors/cuda/simt_text.h"

th_status th_cuda_compile_simt(th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts, size_t *out_n_parts,
                               uint32_t *part_of, const char **out_kind) {
  const char *named = getenv("THUNDER_CXX");
  th_host_compiler cc = {.name = named && *named ? named : "c++", .variable = "THUNDER_CXX", .suffix = "cc",
                         .flags = {"-std=c++17", "-O0", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique", "-fwrapv", "-ffp-contract=off", "-fstack-clash-protection", "-w", "-pipe"}};
  th_strbuf s = th_strbuf_make(arena); /* one file: the text of simt.h has state of its own */
  th_strbuf_add(&s, "#define TH_SIMT_SHARED 233472\n"); /* bytes of dynamic shared memory that a block of sm_90 may have */
  th_strbuf_add(&s, th_simt_text);
  th_strbuf_add(&s, prelude);
  for (size_t i = 0; i < n; i++) th_strbuf_add(&s, kernels[i]);
  const char *text = th_strbuf_text(&s);
  *out_kind = "elf-so";
  *out_n_parts = 1;
  memset(part_of, 0, n * sizeof *part_of);
  return th_host_compile(&cc, arena, "", &text, 1, &parts[0]);
}
