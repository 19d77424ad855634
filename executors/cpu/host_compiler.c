/* The host's C compiler: source in, shared object out. It is run without a shell in a folder of its own under $TMPDIR,
 * which carries the process's number: thunderd removes it when a worker is killed. */
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

extern char **environ;

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

static th_status run(th_arena *arena, char *const *argv, const char *log) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid;
  int error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ), status;
  posix_spawn_file_actions_destroy(&actions);
  if (error) return TH_ERROR(UNAVAILABLE, "cannot run the C compiler %s: %s; install gcc or clang, or name one in THUNDER_CC", argv[0], strerror(error));
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return TH_ERROR(INTERNAL, "waitpid: %s", strerror(errno));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return TH_OK;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return TH_ERROR(UNAVAILABLE, "cannot run the C compiler %s; install gcc or clang, or name one in THUNDER_CC", argv[0]);
  return TH_ERROR(UNAVAILABLE, "the C compiler %s failed (%s %d):\n%s", argv[0], WIFSIGNALED(status) ? "signal" : "exit code",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), last_lines(arena, log));
}

th_status th_cpu_compile(const th_options *options, th_arena *arena, const char *source, size_t size, uint8_t **out, size_t *out_size,
                         const char **out_kind) {
  const char *cc = getenv("THUNDER_CC"), *tmp = getenv("TMPDIR"), *arch = options->target.arch;
  char *folder = th_arena_printf(arena, "%s/thunder-cc-%d-XXXXXX", tmp && *tmp ? tmp : "/tmp", (int)getpid());
  if (!mkdtemp(folder)) return TH_ERROR(UNAVAILABLE, "cannot make a folder %s: %s; set TMPDIR", folder, strerror(errno));
  char *in = th_arena_printf(arena, "%s/k.c", folder), *so = th_arena_printf(arena, "%s/k.so", folder), *log = th_arena_printf(arena, "%s/log", folder);
  char *march = th_arena_printf(arena, "-march=%s", arch && *arch ? !strcmp(arch, "aarch64") ? "armv8.2-a" : arch : "x86-64-v3");
  char *wide = !strcmp(march, "-march=x86-64-v4") ? "-mprefer-vector-width=512" : "-O3";
  char *argv[] = {(char *)(cc && *cc ? cc : "cc"), "-std=gnu11", "-O3", wide, march, "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
                  "-w", "-pipe", "-o", so, in, "-lm", NULL};
  th_status status = write_file(in, source, size);
  if (!status) status = run(arena, argv, log);
  if (!status) status = read_all(arena, so, out, out_size);
  unlink(in);
  unlink(so);
  unlink(log);
  rmdir(folder);
  *out_kind = "elf-so";
  return status;
}
