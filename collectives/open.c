/* th_channel_open: which back end, and where its library is. */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/channel.h"
#include "collectives/local/local.h"
#include "ir/base/log.h"

/* Opens libthunder_mpi.so: THUNDER_MPI_LIBRARY; beside the object this code is in (libthunder, or a program); in
 * ../lib of it; where the dynamic linker looks. dlerror's text of the first file that exists is the one that says
 * what is missing. */
/* Where Open MPI was bundled with us (make dist), its components are in lib/openmpi beside libthunder_mpi.so. */
static void name_components(const char *folder) {
  char path[4096];
  snprintf(path, sizeof path, "%s/lib/openmpi", folder);
  if (access(path, R_OK)) return;
  setenv("OPAL_PKGLIBDIR", path, 0);
  setenv("OMPI_MCA_mca_base_component_show_load_errors", "0", 0);
  snprintf(path, sizeof path, "%s/lib/pmix", folder);
  setenv("PMIX_PKGLIBDIR", path, 0);
}

static th_status open_library(void **out_handle) {
  const char *given = getenv("THUNDER_MPI_LIBRARY");
  if (given && *given) {
    *out_handle = dlopen(given, RTLD_NOW | RTLD_LOCAL);
    if (*out_handle) return TH_OK;
    return TH_ERROR(NOT_FOUND, "mpi channel: THUNDER_MPI_LIBRARY: %s", dlerror());
  }
  char folder[3072] = "", path[4096], first_error[1024] = "";
  Dl_info info;
  if (dladdr((void *)(uintptr_t)th_channel_open, &info) && info.dli_fname) {
    snprintf(folder, sizeof folder, "%s", info.dli_fname);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    else snprintf(folder, sizeof folder, ".");
  }
  if (*folder) name_components(folder);
  for (int i = 0; i < 3; i++) {
    if (i < 2 && !*folder) continue;
    if (i < 2) snprintf(path, sizeof path, i ? "%s/../lib/libthunder_mpi.so" : "%s/libthunder_mpi.so", folder);
    else snprintf(path, sizeof path, "libthunder_mpi.so");
    *out_handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*out_handle) return TH_OK;
    const char *error = dlerror();
    /* "libmpi.so.40: cannot open" says more than "libthunder_mpi.so: cannot open" */
    if (error && (!*first_error || !strstr(error, "libthunder_mpi.so: cannot open")))
      snprintf(first_error, sizeof first_error, "%s", error);
    if (error && !strstr(error, "libthunder_mpi.so: cannot open")) break;
  }
  return TH_ERROR(NOT_FOUND, "mpi channel: %s. Several ranks need Open MPI 4 (Debian, Ubuntu: apt install libopenmpi3); "
                  "THUNDER_MPI_LIBRARY may name libthunder_mpi.so", first_error);
}

static th_status open_mpi(const th_channel_options *options, th_channel **out_channel) {
  void *handle;
  TH_TRY(open_library(&handle)); /* never closed: MPI's threads and exit handlers live in it */
  th_channel_open_fn open = (th_channel_open_fn)(uintptr_t)dlsym(handle, TH_CHANNEL_MPI_OPEN);
  if (!open) return TH_ERROR(FAILED_PRECONDITION, "mpi channel: %s: another build's libthunder_mpi.so?", dlerror());
  return open(options, out_channel);
}

th_status th_channel_open(const char *kind, const th_channel_options *options, th_channel **out_channel) {
  *out_channel = NULL;
  if (!kind || !strcmp(kind, "auto")) {
    const char *chosen = getenv("THUNDER_CHANNEL"), *world = getenv("WORLD_SIZE");
    if (chosen && *chosen && strcmp(chosen, "auto")) kind = chosen;
    else kind = (world && atoi(world) > 1) ? "mpi" : "local";
  }
  if (!strcmp(kind, "local")) return th__channel_local_open(options, out_channel);
  if (!strcmp(kind, "mpi")) return open_mpi(options, out_channel);
  return TH_ERROR(INVALID_ARGUMENT, "channel kind \"%s\": expected auto, local or mpi", kind);
}
