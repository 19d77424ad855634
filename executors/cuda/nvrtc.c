/* NVRTC: kernels in, cubins out; parts of them side by side, one a processor. NVRTC is thread-safe and needs no GPU. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/cuda/cuda.h"
#include "executors/gen/parts.h"
#include "executors/vendor/vendor.h"

typedef struct nvrtc_program *program; /* nvrtcProgram */
static struct {
  int (*create)(program *, const char *source, const char *name, int n_headers, const char *const *headers, const char *const *names);
  int (*compile)(program, int n_options, const char *const *options);
  int (*cubin_size)(program, size_t *);
  int (*cubin)(program, char *);
  int (*log_size)(program, size_t *);
  int (*log)(program, char *);
  int (*destroy)(program *);
  const char *(*error)(int);
  int (*version)(int *, int *);
} nvrtc;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_open;

/* NVRTC opens its built-ins by name, and finds them only where the loader looks: opened here before, they are there. */
static void open_builtins(void) {
  char name[64];
  int major = 0, minor = 0;
  void *library;
  if (nvrtc.version(&major, &minor)) return;
  snprintf(name, sizeof name, "libnvrtc-builtins.so.%d.%d", major, minor);
  th_status_free(th_vendor_open(name, "it lies beside libnvrtc", &library)); /* without them a compile says so */
}

static th_status open_library(void) {
  static const char *const names[] = {"nvrtcCreateProgram", "nvrtcCompileProgram", "nvrtcGetCUBINSize", "nvrtcGetCUBIN", "nvrtcGetProgramLogSize", "nvrtcGetProgramLog", "nvrtcDestroyProgram", "nvrtcGetErrorString", "nvrtcVersion"};
  void *library;
  pthread_mutex_lock(&lock);
  th_status status = is_open ? TH_OK : th_vendor_open("libnvrtc.so.13", "it comes with PyTorch for CUDA 13, or: pip install nvidia-cuda-nvrtc==13.0.88", &library);
  if (!status && !is_open) {
    status = th_vendor_symbols(library, "libnvrtc.so.13", names, (void **)&nvrtc, sizeof names / sizeof *names);
    is_open = !status;
    if (is_open) open_builtins();
  }
  pthread_mutex_unlock(&lock);
  return status;
}

typedef struct part {
  const char *source, *arch; /* arch: the option */
  char *code, *log; /* malloc'ed */
  size_t size;
  const char *failed; /* the call that failed */
  int error;
  pthread_t thread;
  bool started;
} part;

static void *run(void *user) {
  part *p = user;
  program made = NULL;
  size_t size = 0;
  const char *given[] = {p->arch, "--std=c++17", "--device-as-default-execution-space", "--fmad=false"};
  p->failed = "nvrtcCreateProgram";
  if ((p->error = nvrtc.create(&made, p->source, "thunder.cu", 0, NULL, NULL))) return NULL;
  p->failed = "nvrtcCompileProgram";
  p->error = nvrtc.compile(made, sizeof given / sizeof *given, given);
  if (!nvrtc.log_size(made, &size) && size > 1 && (p->log = malloc(size))) nvrtc.log(made, p->log);
  if (!p->error) {
    p->failed = "nvrtcGetCUBIN";
    p->error = nvrtc.cubin_size(made, &p->size);
    if (!p->error && !(p->code = malloc(p->size + 1))) p->error = 1;
    if (!p->error) p->error = nvrtc.cubin(made, p->code);
  }
  nvrtc.destroy(&made);
  return NULL;
}

static const char *last_lines(th_arena *arena, const char *log) {
  size_t n = log ? strlen(log) : 0, from = n > 1500 ? n - 1500 : 0;
  return n ? th_arena_strdup(arena, log + from) : "";
}

th_status th_cuda_compile(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *parts,
                          size_t *out_n_parts, uint32_t *part_of, const char **out_kind) {
  if (th_cuda_is_simt(options)) return th_cuda_compile_simt(arena, prelude, kernels, n, parts, out_n_parts, part_of, out_kind);
  part all[TH_MAX_PARTS] = {{0}};
  th_status status = TH_OK;
  TH_TRY(open_library());
  const char **sources, *arch = th_arena_printf(arena, "--gpu-architecture=%s", options->target.arch);
  size_t count = th_gen_share_out(arena, prelude, kernels, n, TH_MAX_PARTS, &sources, part_of);
  for (size_t p = 0; p < count; p++) {
    all[p].source = sources[p];
    all[p].arch = arch;
    all[p].started = p + 1 < count && !pthread_create(&all[p].thread, NULL, run, &all[p]);
    if (!all[p].started) run(&all[p]);
  }
  for (size_t p = 0; p < count; p++) {
    if (all[p].started) pthread_join(all[p].thread, NULL);
    if (all[p].error && !status)
      status = TH_ERROR(UNAVAILABLE, "%s for %s: %s:\n%s", all[p].failed, options->target.arch, nvrtc.error(all[p].error), last_lines(arena, all[p].log));
    if (!status) parts[p] = (th_binary){th_arena_copy(arena, all[p].code, all[p].size), all[p].size};
    free(all[p].code);
    free(all[p].log);
  }
  *out_n_parts = count;
  *out_kind = "cubin";
  return status;
}
