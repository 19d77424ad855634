/* Vendor libraries, opened at run time: one build runs with and without them. What the process has already loaded (torch's) is
 * taken, never a second copy. Threads: thread-safe. */
#ifndef THUNDER_EXECUTORS_VENDOR_VENDOR_H
#define THUNDER_EXECUTORS_VENDOR_VENDOR_H

#include "ir/base/status.h"

/* The library `soname` ("libnvrtc.so.13"): as it is loaded already, else from the folders of $THUNDER_CUDA_LIBS (separated by
 * colons), else as the loader finds it. NOT_FOUND with the places that were looked at and `hint` ("pip install
 * nvidia-cuda-nvrtc==13.0.88"). Handles are never closed. */
th_status th_vendor_open(const char *soname, const char *hint, void **out);

/* Symbols by table: names[i] into out[i]. UNIMPLEMENTED naming the first that is missing. */
th_status th_vendor_symbols(void *library, const char *soname, const char *const *names, void **out, size_t n);

#endif
