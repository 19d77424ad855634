/* A libcuda.so.1 for machines without one, so that cuDNN can plan for a device that is elsewhere: it opens the driver by name, looks these
 * functions up, and loads the kernel of a plan once to see that it can. There is no device behind them: counting finds none, loading a
 * library "succeeds", and whatever would need a device says CUDA_ERROR_NO_DEVICE. (NVRTC asks cuInit; told that there is a driver it
 * would look for more of it.) Only compile workers open it, by its path: executors/cudnn/plan.h, th_cudnn_open. */
#pragma GCC visibility push(default)

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, DRIVER_VERSION = 13000 };

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuGetErrorName(int error, const char **text);
int cuGetErrorString(int error, const char **text);
int cuLibraryLoadData(void **library, const void *code, void *a, void **b, unsigned n, void *c, void **d, unsigned m);
int cuLibraryLoadFromFile(void **library, const char *path, void *a, void **b, unsigned n, void *c, void **d, unsigned m);
int cuLibraryGetKernel(void **kernel, void *library, const char *name);
int cuLibraryUnload(void *library);

int cuInit(unsigned flags) { return NO_DEVICE; }

int cuDriverGetVersion(int *version) {
  if (!version) return INVALID_VALUE;
  *version = DRIVER_VERSION;
  return SUCCESS;
}

int cuDeviceGetCount(int *count) {
  if (!count) return INVALID_VALUE;
  *count = 0;
  return SUCCESS;
}

int cuGetErrorName(int error, const char **text) {
  *text = error == SUCCESS ? "CUDA_SUCCESS" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return SUCCESS;
}

int cuGetErrorString(int error, const char **text) {
  *text = error == SUCCESS ? "no error" : "this is thunder's stand-in for the CUDA driver; it has no device";
  return SUCCESS;
}

static char a_library, a_kernel; /* their addresses are the handles */

int cuLibraryLoadData(void **library, const void *code, void *a, void **b, unsigned n, void *c, void **d, unsigned m) {
  *library = &a_library;
  return SUCCESS;
}

int cuLibraryLoadFromFile(void **library, const char *path, void *a, void **b, unsigned n, void *c, void **d, unsigned m) {
  *library = &a_library;
  return SUCCESS;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  *kernel = &a_kernel;
  return SUCCESS;
}

int cuLibraryUnload(void *library) { return SUCCESS; }

/* Looked up and not called while planning. */
#define NEEDS_A_DEVICE(name) \
  int name(void);            \
  int name(void) { return NO_DEVICE; }
NEEDS_A_DEVICE(cuCtxGetCurrent)
NEEDS_A_DEVICE(cuCtxGetLimit)
NEEDS_A_DEVICE(cuCtxPopCurrent)
NEEDS_A_DEVICE(cuCtxPushCurrent)
NEEDS_A_DEVICE(cuDeviceGet)
NEEDS_A_DEVICE(cuKernelGetAttribute)
NEEDS_A_DEVICE(cuKernelSetAttribute)
NEEDS_A_DEVICE(cuLaunchCooperativeKernel)
NEEDS_A_DEVICE(cuLaunchKernel)
NEEDS_A_DEVICE(cuLaunchKernelEx)
NEEDS_A_DEVICE(cuLinkAddData)
NEEDS_A_DEVICE(cuLinkComplete)
NEEDS_A_DEVICE(cuLinkCreate)
NEEDS_A_DEVICE(cuLinkDestroy)
NEEDS_A_DEVICE(cuOccupancyMaxPotentialClusterSize)
NEEDS_A_DEVICE(cuStreamGetCtx)
