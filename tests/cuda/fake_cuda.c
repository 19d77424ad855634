/* libcuda.so.1 on host memory, for tests on machines without a GPU. Device memory is the caller's host memory; streams do their work at
 * once, unless one is capturing: then what is put on it is recorded, arguments copied, and a graph launch replays it. A module is an ELF
 * shared object; its kernels are functions `void name(void **parameters, unsigned grid_x, unsigned grid_y, unsigned block)`, each beside an
 * int `name_parameters`: how many there are, all of 8 bytes. One thread at a time.
 *
 * THUNDER_FAKE_CUDA_FAIL=function:n (read at cuInit), or fake_cuda_fail, makes the n-th call of that function from then on fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "executors/run/cuda/driver.h"

#define EXPORT __attribute__((visibility("default")))
enum { NAMES = 128, MANY = 64, FAILED = 719, CAPTURING = 900, INVALID = 1, NOT_FOUND = 500 };

EXPORT long fake_cuda_count(const char *name); /* calls so far; NULL: forgets all counts */
EXPORT long fake_cuda_live(void);              /* modules, streams, events, graphs and pinned memory that exist */
EXPORT void fake_cuda_fail(const char *name, long nth);

static struct { const char *name; long calls; } counts[NAMES];
static char fail_name[64];
static long fail_nth, live;

static long *count_of(const char *name) {
  for (int i = 0; i < NAMES; i++) {
    if (!counts[i].name) counts[i].name = strdup(name);
    if (!strcmp(counts[i].name, name)) return &counts[i].calls;
  }
  abort();
}

long fake_cuda_live(void) { return live; }
long fake_cuda_count(const char *name) {
  for (int i = 0; !name && i < NAMES; i++) counts[i].calls = 0;
  return name ? *count_of(name) : 0;
}
void fake_cuda_fail(const char *name, long nth) {
  snprintf(fail_name, sizeof fail_name, "%s", name ? name : "");
  fail_nth = name ? nth : 0;
}

static CUresult enter(const char *name) {
  ++*count_of(name);
  if (fail_nth && !strcmp(name, fail_name) && !--fail_nth) return strstr(name, "Alloc") ? TH_CU_OUT_OF_MEMORY : FAILED;
  return 0;
}
#define ENTER()                         \
  do {                                  \
    CUresult r_ = enter(__func__);      \
    if (r_) return r_;                  \
  } while (0)

/* ---- work: done at once or recorded ---- */

typedef void (*kernel)(void **parameters, unsigned grid_x, unsigned grid_y, unsigned block);
typedef enum work_kind { WORK_KERNEL, WORK_COPY, WORK_SET } work_kind;
typedef struct work {
  work_kind kind;
  kernel function;
  unsigned grid_x, grid_y, block, width, value;
  size_t n_parameters, bytes;
  uint64_t parameters[MANY];
  void *to;
  const void *from;
  struct work *next;
} work;
struct CUfunc_st { kernel function; int n_parameters; struct CUfunc_st *next; };
struct CUmod_st { void *library; struct CUfunc_st *functions; };
struct CUstream_st { int capturing; work *first, **last; };
struct CUgraph_st { work *first; };
struct CUgraphExec_st { work *first; };
struct CUevent_st { int recorded; unsigned flags; struct timespec at; };
struct CUctx_st { int device; };

static void perform(work *w) {
  void *parameters[MANY];
  for (size_t i = 0; i < w->n_parameters; i++) parameters[i] = &w->parameters[i];
  if (w->kind == WORK_KERNEL) w->function(parameters, w->grid_x, w->grid_y, w->block);
  if (w->kind == WORK_COPY) memcpy(w->to, w->from, w->bytes);
  for (size_t i = 0; w->kind == WORK_SET && i < w->bytes; i++) memcpy((char *)w->to + i * w->width, &w->value, w->width);
}

static CUresult put(CUstream stream, const work *w) {
  if (!stream || !stream->capturing) {
    work now = *w;
    perform(&now);
    return 0;
  }
  work *copy = malloc(sizeof *copy);
  *copy = *w;
  copy->next = NULL;
  *stream->last = copy;
  stream->last = &copy->next;
  return 0;
}

static work *copied(const work *from) {
  work *first = NULL, **last = &first;
  for (; from; from = from->next) {
    *last = malloc(sizeof **last);
    **last = *from;
    (*last)->next = NULL;
    last = &(*last)->next;
  }
  return first;
}
static void forget(work *w) {
  while (w) {
    work *next = w->next;
    free(w);
    w = next;
  }
}

/* ---- the driver's functions ---- */

#define X(function, symbol, arguments) EXPORT CUresult symbol arguments;
TH_CUDA_CALLS(X)
#undef X

static struct CUctx_st contexts[2] = {{0}, {1}};
static __thread CUcontext current;

CUresult cuInit(unsigned flags) {
  const char *text = getenv("THUNDER_FAKE_CUDA_FAIL"), *colon = text ? strchr(text, ':') : NULL;
  if (colon) {
    snprintf(fail_name, sizeof fail_name, "%.*s", (int)(colon - text), text);
    fail_nth = strtol(colon + 1, NULL, 10);
  }
  ENTER();
  return flags ? INVALID : 0;
}
CUresult cuDeviceGet(CUdevice *out, int ordinal) {
  ENTER();
  *out = ordinal;
  return ordinal >= 0 && ordinal < 2 ? 0 : TH_CU_INVALID_DEVICE;
}
CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device) { /* of an H200 */
  ENTER();
  *out = attribute == TH_CU_CAPABILITY_MAJOR ? 9 : attribute == TH_CU_CAPABILITY_MINOR ? 0 : attribute == TH_CU_MULTIPROCESSORS ? 132 : attribute == TH_CU_MEMORY_CLOCK_RATE ? 3201000 : attribute == TH_CU_MEMORY_BUS_WIDTH ? 6144 : -1;
  return device >= 0 && *out >= 0 ? 0 : INVALID;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
  ENTER();
  *out = &contexts[device];
  return 0;
}
CUresult cuCtxGetCurrent(CUcontext *out) {
  ENTER();
  *out = current;
  return 0;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER();
  current = context;
  return 0;
}
CUresult cuCtxSynchronize(void) {
  ENTER();
  return current ? 0 : 201;
}

CUresult cuModuleLoadData(CUmodule *out, const void *image) {
  ENTER();
  const Elf64_Ehdr *h = image;
  if (!current) return 201;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG)) return 200;
  size_t size = h->e_shoff + (size_t)h->e_shnum * h->e_shentsize; /* the section headers come last */
  int fd = memfd_create("fake-cubin", 0);
  static unsigned loaded;
  char path[96];
  if (fd < 0 || write(fd, image, size) != (ssize_t)size) return FAILED;
  int n = snprintf(path, sizeof path, "/proc/self");
  for (unsigned k = loaded++, i = 0; i < 16; i++, n += 2) memcpy(path + n, k >> i & 1 ? "/." : "//", 2);
  snprintf(path + n, sizeof path - (size_t)n, "/fd/%d", fd);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  close(fd);
  if (!library) return 200;
  *out = calloc(1, sizeof **out);
  (*out)->library = library;
  live++;
  return 0;
}
CUresult cuModuleUnload(CUmodule module) {
  CUresult failed = enter(__func__); /* gone all the same */
  while (module->functions) {
    CUfunction next = module->functions->next;
    free(module->functions);
    module->functions = next;
  }
  dlclose(module->library);
  free(module);
  live--;
  return failed;
}
CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name) {
  ENTER();
  char text[128];
  snprintf(text, sizeof text, "%s_parameters", name);
  void *function = dlsym(module->library, name), *n = dlsym(module->library, text);
  if (!function || !n) return NOT_FOUND;
  *out = calloc(1, sizeof **out);
  *(void **)&(*out)->function = function;
  (*out)->n_parameters = *(const int *)n;
  (*out)->next = module->functions;
  module->functions = *out;
  return 0;
}
CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  ENTER();
  return function && attribute == TH_CU_FUNC_SHARED_BYTES && value > 0 && value <= 232448 ? 0 : INVALID;
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra) {
  ENTER();
  size_t bytes = (size_t)f->n_parameters * 8;
  work w = {.kind = WORK_KERNEL, .function = f->function, .grid_x = gx, .grid_y = gy, .block = bx, .n_parameters = (size_t)f->n_parameters};
  if (!current || !gx || !gy || gz != 1 || !bx || by != 1 || bz != 1 || parameters || !extra || w.n_parameters > MANY || shared > 232448) return INVALID;
  if (extra[0] != TH_CU_PARAMETERS || extra[2] != TH_CU_PARAMETERS_SIZE || *(size_t *)extra[3] != bytes || extra[4]) return INVALID;
  memcpy(w.parameters, extra[1], bytes);
  return put(stream, &w);
}

static CUresult copy(void *to, const void *from, size_t bytes, CUstream stream) { return put(stream, &(work){.kind = WORK_COPY, .to = to, .from = from, .bytes = bytes}); }
#define AT(address) ((void *)(uintptr_t)(address))
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  ENTER();
  return copy(AT(to), from, bytes, stream);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER();
  return copy(AT(to), AT(from), bytes, stream);
}
static CUresult set(CUdeviceptr to, unsigned width, unsigned value, size_t n, CUstream stream) { return put(stream, &(work){.kind = WORK_SET, .to = AT(to), .width = width, .value = value, .bytes = n}); }
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream) {
  ENTER();
  return set(to, 1, value, n, stream);
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, CUstream stream) {
  ENTER();
  return to % 2 ? INVALID : set(to, 2, value, n, stream);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream) {
  ENTER();
  return to % 4 ? INVALID : set(to, 4, value, n, stream);
}

CUresult cuStreamCreate(CUstream *out, unsigned flags) {
  ENTER();
  (void)flags;
  *out = calloc(1, sizeof **out);
  live++;
  return 0;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  CUresult failed = enter(__func__); /* gone all the same */
  forget(stream->first);
  free(stream);
  live--;
  return failed;
}
CUresult cuStreamSynchronize(CUstream stream) {
  ENTER();
  return stream && stream->capturing ? CAPTURING : 0;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  ENTER();
  (void)stream, (void)flags;
  return event ? 0 : INVALID;
}
CUresult cuStreamIsCapturing(CUstream stream, int *out) {
  ENTER();
  *out = stream && stream->capturing;
  return 0;
}
CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
  ENTER();
  if (!stream || stream->capturing || mode != TH_CU_CAPTURE_THREAD_LOCAL) return INVALID;
  stream->capturing = 1;
  stream->first = NULL;
  stream->last = &stream->first;
  return 0;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *out) {
  *out = NULL;
  CUresult failed = enter(__func__); /* the capture is over all the same */
  work *first = stream->first;
  stream->capturing = 0;
  stream->first = NULL;
  if (failed) forget(first);
  if (failed) return failed;
  *out = calloc(1, sizeof **out);
  (*out)->first = first;
  live++;
  return 0;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
  ENTER();
  (void)flags;
  *out = calloc(1, sizeof **out);
  (*out)->first = copied(graph->first);
  live++;
  return 0;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  ENTER();
  for (work *w = exec->first; w; w = w->next) put(stream, w);
  return 0;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) {
  CUresult failed = enter(__func__); /* gone all the same */
  forget(exec->first);
  free(exec);
  live--;
  return failed;
}
CUresult cuGraphDestroy(CUgraph graph) {
  CUresult failed = enter(__func__);
  forget(graph->first);
  free(graph);
  live--;
  return failed;
}
CUresult cuEventCreate(CUevent *out, unsigned flags) {
  ENTER();
  *out = calloc(1, sizeof **out);
  (*out)->flags = flags;
  live++;
  return 0;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  ENTER();
  (void)stream;
  event->recorded = 1;
  clock_gettime(CLOCK_MONOTONIC, &event->at);
  return 0;
}
CUresult cuEventElapsedTime(float *out, CUevent a, CUevent b) {
  ENTER();
  if (!a->recorded || !b->recorded || (a->flags | b->flags) & TH_CU_EVENT_DISABLE_TIMING) return INVALID;
  *out = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6);
  return 0;
}
CUresult cuEventSynchronize(CUevent event) {
  ENTER();
  return event->recorded ? 0 : INVALID;
}
CUresult cuEventDestroy_v2(CUevent event) {
  CUresult failed = enter(__func__); /* gone all the same */
  free(event);
  live--;
  return failed;
}
CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags) {
  ENTER();
  (void)flags;
  *out = malloc(bytes);
  live++;
  return 0;
}
CUresult cuMemFreeHost(void *host) {
  CUresult failed = enter(__func__); /* gone all the same */
  free(host);
  live--;
  return failed;
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *host, unsigned flags) {
  ENTER();
  (void)flags;
  *out = (CUdeviceptr)(uintptr_t)host;
  return 0;
}
CUresult cuGetErrorName(CUresult result, const char **out) {
  *out = result == FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : result == TH_CU_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : result == TH_CU_INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" : NULL;
  return *out ? 0 : INVALID;
}
CUresult cuGetErrorString(CUresult result, const char **out) {
  *out = result == FAILED ? "unspecified launch failure" : "out of memory";
  return 0;
}
