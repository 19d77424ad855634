#include "executors/vendor/vendor.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

th_status th_vendor_open(const char *soname, const char *hint, void **out) {
  const char *folders = getenv("THUNDER_CUDA_LIBS");
  char path[4096];
  if ((*out = dlopen(soname, RTLD_NOW | RTLD_NOLOAD))) return TH_OK;
  for (const char *at = folders; at && *at;) {
    size_t n = strcspn(at, ":");
    if (n && (size_t)snprintf(path, sizeof path, "%.*s/%s", (int)n, at, soname) < sizeof path && (*out = dlopen(path, RTLD_NOW | RTLD_GLOBAL))) return TH_OK;
    at += n + (at[n] == ':');
  }
  if ((*out = dlopen(soname, RTLD_NOW | RTLD_GLOBAL))) return TH_OK;
  const char *why = dlerror();
  return TH_ERROR(NOT_FOUND, "%s cannot be opened (%s; THUNDER_CUDA_LIBS is \"%s\"); %s", soname, why ? why : "unknown", folders ? folders : "", hint);
}

th_status th_vendor_symbols(void *library, const char *soname, const char *const *names, void **out, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!(out[i] = dlsym(library, names[i]))) return TH_ERROR(UNIMPLEMENTED, "%s has no %s; another version is needed", soname, names[i]);
  return TH_OK;
}
