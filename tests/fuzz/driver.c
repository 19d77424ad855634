/* A driver for the fuzz targets where there is no libFuzzer.
 *
 *   fuzz_text [--seed N] [--runs N] [--seconds N] PATH...    mutates the golden traces (.tir) under the paths
 *   fuzz_text --replay PATH...                               gives the files to the target as they are; THUNDER_FUZZ_DUMP=1
 *                                                            prints the trace after each pass
 *   fuzz_text --write-seeds DIR PATH...                      writes the target's input for each golden trace into DIR
 *
 * Prints the seed, and of the inputs how many were read, verified and reached the passes. An input that ends the program is
 * left in crash-SEED-RUN in the working folder. Ends with 1 when fewer than a third reached the passes. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

/* What a sanitizer reports ends as other crashes do: with the input kept. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__asan_default_options(void) { return "abort_on_error=1:handle_abort=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0"; }
const char *__ubsan_default_options(void) { return "halt_on_error=1:abort_on_error=1:print_stacktrace=1"; }

enum { LARGEST = 1 << 20, MAX_SEEDS = 4096, SECONDS_EACH = 20 };
typedef struct seed { const uint8_t *data; size_t size; const char *path; } seed;

static seed seeds[MAX_SEEDS];
static size_t n_seeds;
static uint8_t now[LARGEST];
static size_t now_size;
static char crash_name[64] = "crash";

static void save(int signal_number) { /* async-signal-safe */
  int fd = open(crash_name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd >= 0) {
    ssize_t n = write(fd, now, now_size);
    (void)n;
    close(fd);
  }
  static const char text[] = "the input is in ";
  ssize_t n = write(2, text, sizeof text - 1);
  n = write(2, crash_name, strlen(crash_name));
  n = write(2, signal_number == SIGALRM ? " (it took too long)\n" : "\n", signal_number == SIGALRM ? 20 : 1);
  (void)n;
  signal(signal_number, SIG_DFL);
  raise(signal_number == SIGALRM ? SIGABRT : signal_number);
}

static bool ends_with(const char *text, const char *tail) {
  size_t n = strlen(text), k = strlen(tail);
  return n >= k && !strcmp(text + n - k, tail);
}

static uint8_t *read_file(th_arena *a, const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  if (!f) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(2);
  }
  *size = 0;
  uint8_t *bytes = th_arena_alloc(a, LARGEST + 1);
  *size = fread(bytes, 1, LARGEST, f);
  fclose(f);
  return bytes;
}

static void collect(th_arena *a, const char *path, bool as_is) {
  struct stat s;
  if (stat(path, &s)) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(2);
  }
  if (S_ISDIR(s.st_mode)) {
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
      if (names[i]->d_name[0] != '.') collect(a, th_arena_printf(a, "%s/%s", path, names[i]->d_name), as_is);
      free(names[i]);
    }
    if (n >= 0) free(names);
    return;
  }
  size_t size = 0;
  uint8_t *bytes = read_file(a, path, &size);
  seed found = {bytes, size, th_arena_strdup(a, path)};
  if (!as_is && ends_with(path, ".tir")) found.data = fuzz_seed_of(a, (char *)bytes, size, &found.size);
  /* Traces of the upper levels three times: only they go to the passes. */
  for (int i = ends_with(path, ".tir") && !strstr((char *)bytes, " strides(") && !strstr((char *)bytes, "fusion(") && !as_is ? 3 : 1; i > 0; i--)
    if (found.data && n_seeds < MAX_SEEDS) seeds[n_seeds++] = found;
}

static void give(const uint8_t *data, size_t size) {
  memmove(now, data, size);
  now_size = size;
  alarm(SECONDS_EACH);
  LLVMFuzzerTestOneInput(now, size);
  alarm(0);
}

static int write_seeds(const char *folder) {
  for (size_t i = 0; i < n_seeds; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%08" PRIx32, folder, fuzz_hash(seeds[i].data, seeds[i].size));
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(seeds[i].data, 1, seeds[i].size, f) != seeds[i].size || fclose(f)) return 1;
  }
  printf("%zu seeds\n", n_seeds);
  return 0;
}

int main(int argc, char **argv) {
  uint32_t seed_number = (uint32_t)time(NULL);
  uint64_t runs = UINT64_MAX;
  time_t end = 0;
  bool replay = false;
  const char *write_to = NULL;
  th_arena *a = th_arena_create(0);
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed_number = (uint32_t)strtoul(argv[++i], NULL, 10);
    else if (!strcmp(argv[i], "--runs") && i + 1 < argc) runs = strtoull(argv[++i], NULL, 10);
    else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) end = time(NULL) + strtol(argv[++i], NULL, 10);
    else if (!strcmp(argv[i], "--write-seeds") && i + 1 < argc) write_to = argv[++i];
    else if (!strcmp(argv[i], "--replay")) replay = true;
    else collect(a, argv[i], replay);
  }
  if (write_to) {
    int failed = write_seeds(write_to);
    th_arena_destroy(a);
    return failed;
  }
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], save);
  printf("seed %" PRIu32 ", %zu inputs to begin with\n", seed_number, n_seeds);
  fflush(stdout);
  for (size_t i = 0; i < n_seeds; i++) {
    snprintf(crash_name, sizeof crash_name, "crash-seed-%zu", i);
    give(seeds[i].data, seeds[i].size);
  }
  if (!replay) fuzz_seen = (fuzz_counts){0};
  uint32_t random = seed_number * 2654435761u + 1;
  static uint8_t buffer[LARGEST];
  for (uint64_t run = 0; !replay && n_seeds && run < runs && (!end || time(NULL) < end); run++) {
    const seed *from = &seeds[fuzz_random(&random, (uint32_t)n_seeds)];
    size_t size = from->size;
    memcpy(buffer, from->data, size);
    for (uint32_t i = fuzz_random(&random, 3) + 1; i-- > 0 && size;) size = LLVMFuzzerCustomMutator(buffer, size, LARGEST, fuzz_random(&random, 1u << 31));
    snprintf(crash_name, sizeof crash_name, "crash-%" PRIu32 "-%" PRIu64, seed_number, run);
    give(buffer, size);
  }
  printf("%" PRIu64 " inputs: %" PRIu64 " read, %" PRIu64 " verified, %" PRIu64 " reached the passes (%.0f%%), %" PRIu64 " came through them\n", fuzz_seen.inputs, fuzz_seen.parsed,
         fuzz_seen.verified, fuzz_seen.reached_passes, fuzz_seen.inputs ? 100.0 * (double)fuzz_seen.reached_passes / (double)fuzz_seen.inputs : 0, fuzz_seen.through);
  th_arena_destroy(a);
  return !replay && fuzz_seen.reached_passes * 3 < fuzz_seen.inputs;
}
