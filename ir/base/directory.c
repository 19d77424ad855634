#include "ir/base/directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

th_status th_directory_cache(char *out) {
  static const struct { const char *variable, *rest; } places[] = {{"THUNDER_CACHE_DIR", ""}, {"XDG_CACHE_HOME", "/thunder"}, {"HOME", "/.cache/thunder"}};
  *out = 0;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    const char *value = getenv(places[i].variable);
    if (!value || !*value) continue;
    int n = snprintf(out, TH_PATH_MAX, "%s%s", value, places[i].rest);
    if (n < TH_PATH_MAX && *out == '/') return TH_OK;
    *out = 0;
    return TH_ERROR(FAILED_PRECONDITION, "the cache directory '%.200s%s' is not an absolute path of less than %d bytes: set THUNDER_CACHE_DIR", value, places[i].rest,
                    TH_PATH_MAX);
  }
  return TH_ERROR(FAILED_PRECONDITION, "neither THUNDER_CACHE_DIR nor XDG_CACHE_HOME nor HOME is set: nowhere to keep compiled plans");
}

th_status th_directory_make(const char *path) {
  char part[TH_PATH_MAX];
  struct stat s;
  if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part) return TH_ERROR(INVALID_ARGUMENT, "path too long: %.100s…", path);
  for (char *p = part + 1;; p++) {
    if (*p != '/' && *p) continue;
    char kept = *p;
    *p = 0;
    if (mkdir(part, 0700) && errno != EEXIST && (stat(part, &s) || !S_ISDIR(s.st_mode)))
      return TH_ERROR(FAILED_PRECONDITION, "cannot make the directory %s: %s", part, strerror(errno));
    *p = kept;
    if (!kept) break;
  }
  if (stat(path, &s) || !S_ISDIR(s.st_mode)) return TH_ERROR(FAILED_PRECONDITION, "%s is not a directory", path);
  return TH_OK;
}
