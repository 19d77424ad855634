/* The host's C compiler: kernels in, shared object out; parts of the kernels are compiled side by side and linked. It is run
 * without a shell in a folder of its own under $TMPDIR, which carries the process's number: thunderd removes it when a worker is killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executors/cpu/cpu.h"
#include "executors/cpu/host_compiler.h"
#include "executors/gen/parts.h"
#include "ir/base/strbuf.h"

extern char **environ;
enum { MOST_PARTS = 8 };

static th_status write_file(const char *path, const char *text, size_t size) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return TH_ERROR(UNAVAILABLE, "cannot make %s: %s; set TMPDIR to a folder with room", path, strerror(errno));
  while (size) {
    ssize_t n = write(fd, text, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      close(fd);
      return TH_ERROR(UNAVAILABLE, "cannot write %s: %s; set TMPDIR to a folder with room", path, strerror(errno));
    }
    text += n;
    size -= (size_t)n;
  }
  close(fd);
  return TH_OK;
}

static th_status read_all(th_arena *arena, const char *path, uint8_t **out, size_t *out_size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st)) {
    if (fd >= 0) close(fd);
    return TH_ERROR(UNAVAILABLE, "cannot read %s: %s", path, strerror(errno));
  }
  uint8_t *bytes = th_arena_alloc(arena, (size_t)st.st_size + 1);
  size_t have = 0;
  while (have < (size_t)st.st_size) {
    ssize_t n = read(fd, bytes + have, (size_t)st.st_size - have);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    have += (size_t)n;
  }
  close(fd);
  *out = bytes;
  *out_size = have;
  return have == (size_t)st.st_size ? TH_OK : TH_ERROR(DATA_LOSS, "%s ended early", path);
}

static const char *last_lines(th_arena *arena, const char *path) {
  uint8_t *text;
  size_t size;
  th_status status = read_all(arena, path, &text, &size);
  if (status) {
    th_status_free(status);
    return "";
  }
  size_t from = size > 1500 ? size - 1500 : 0;
  return th_arena_strndup(arena, (char *)text + from, size - from);
}

/* One run of the compiler under way. */
typedef struct command { char *in, *out, *log; pid_t pid; int error; } command;

static void start(command *c, char *const *argv) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, c->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  c->error = posix_spawnp(&c->pid, argv[0], &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
}

static th_status finish(th_arena *arena, command *c, const th_host_compiler *cc) {
  int status;
  if (c->error) return TH_ERROR(UNAVAILABLE, "cannot run the C compiler %s: %s; install gcc or clang, or name one in %s", cc->name, strerror(c->error), cc->variable);
  while (waitpid(c->pid, &status, 0) < 0)
    if (errno != EINTR) return TH_ERROR(INTERNAL, "waitpid: %s", strerror(errno));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return TH_OK;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return TH_ERROR(UNAVAILABLE, "cannot run the C compiler %s; install gcc or clang, or name one in %s", cc->name, cc->variable);
  return TH_ERROR(UNAVAILABLE, "the C compiler %s failed (%s %d):\n%s", cc->name, WIFSIGNALED(status) ? "signal" : "exit code",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), last_lines(arena, c->log));
}

/* Parts that are compiled side by side: none so small that starting a compiler is most of it. */
static size_t most_parts(const char *const *kernels, size_t n) {
  enum { LEAST_BYTES = 6000 };
  size_t bytes = 0;
  for (size_t i = 0; i < n; i++) bytes += strlen(kernels[i]);
  return bytes < 2 * LEAST_BYTES ? 1 : bytes / LEAST_BYTES > MOST_PARTS ? MOST_PARTS : bytes / LEAST_BYTES;
}

static th_status build(const th_host_compiler *cc, th_arena *arena, const char *folder, const char *const *sources, size_t parts, const char *so) {
  command commands[MOST_PARTS] = {{0}}, link = {.log = th_arena_printf(arena, "%s/log", folder)};
  const char **linked = TH_ARENA_ARRAY(arena, const char *, MOST_PARTS + 32);
  size_t n_linked = 0;
  th_status status = TH_OK;
  linked[n_linked++] = cc->name;
  linked[n_linked++] = "-shared";
  linked[n_linked++] = "-o";
  linked[n_linked++] = so;
  for (size_t p = 0; p < parts && !status; p++) {
    command *c = &commands[p];
    *c = (command){.in = th_arena_printf(arena, "%s/k%zu.%s", folder, p, cc->suffix), .out = th_arena_printf(arena, "%s/k%zu.o", folder, p), .log = th_arena_printf(arena, "%s/log%zu", folder, p)};
    status = write_file(c->in, sources[p], strlen(sources[p]));
    linked[n_linked++] = c->out;
    c->error = ECANCELED;
    if (status) break;
    const char **argv = TH_ARENA_ARRAY(arena, const char *, 32 + 6);
    size_t n = 0;
    argv[n++] = cc->name;
    for (size_t i = 0; i < 24 && cc->flags[i]; i++) argv[n++] = cc->flags[i];
    argv[n++] = "-c";
    argv[n++] = "-o";
    argv[n++] = c->out;
    argv[n++] = c->in;
    start(c, (char *const *)argv);
  }
  for (size_t p = 0; p < parts; p++) {
    if (!commands[p].in || (status && commands[p].error)) continue;
    th_status ended = finish(arena, &commands[p], cc);
    if (status) th_status_free(ended);
    else status = ended;
  }
  if (!status) {
    for (size_t i = 0; i < 8 && cc->libraries[i]; i++) linked[n_linked++] = cc->libraries[i];
    start(&link, (char *const *)linked);
    status = finish(arena, &link, cc);
  }
  for (size_t p = 0; p < parts && commands[p].in; p++) {
    unlink(commands[p].in);
    unlink(commands[p].out);
    unlink(commands[p].log);
  }
  unlink(link.log);
  return status;
}

th_status th_host_compile(const th_host_compiler *cc, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *out) {
  const char *tmp = getenv("TMPDIR");
  char *folder = th_arena_printf(arena, "%s/thunder-cc-%d-XXXXXX", tmp && *tmp ? tmp : "/tmp", (int)getpid());
  if (!mkdtemp(folder)) return TH_ERROR(UNAVAILABLE, "cannot make a folder %s: %s; set TMPDIR", folder, strerror(errno));
  char *so = th_arena_printf(arena, "%s/k.so", folder);
  const char **sources;
  size_t parts = th_gen_share_out(arena, prelude, kernels, n, most_parts(kernels, n), &sources, NULL);
  th_status status = build(cc, arena, folder, sources, parts, so);
  if (!status) status = read_all(arena, so, &out->bytes, &out->size);
  unlink(so);
  rmdir(folder);
  return status;
}

th_status th_cpu_compile(const th_options *options, th_arena *arena, const char *prelude, const char *const *kernels, size_t n, th_binary *modules,
                         size_t *out_n_modules, uint32_t *module_of, const char **out_kind) {
  const char *named = getenv("THUNDER_CC"), *arch = options->target.arch;
  const char *march = th_arena_printf(arena, "-march=%s", arch && *arch ? !strcmp(arch, "aarch64") ? "armv8.2-a" : arch : "x86-64-v3");
  const char *wide = !strcmp(march, "-march=x86-64-v4") ? "-mprefer-vector-width=512" : "-O3";
  th_host_compiler cc = {.name = named && *named ? named : "cc", .variable = "THUNDER_CC", .suffix = "c",
                         .flags = {"-std=gnu11", "-O3", wide, march, "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fwrapv", "-w", "-pipe"},
                         .libraries = {"-fopenmp", "-lm"}};
  *out_kind = "elf-so";
  *out_n_modules = 1; /* the parts are linked */
  memset(module_of, 0, n * sizeof *module_of);
  return th_host_compile(&cc, arena, prelude, kernels, n, &modules[0]);
}
