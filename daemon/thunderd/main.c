/* thunderd: the node's daemon.
 *   thunderd --ensure      starts one for this scope unless one accepts; prints its socket's path
 *   thunderd --foreground  serves here, logging to stderr (systemd, tests) */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/thunderd/server.h"
#include "ir/base/failpoint.h"
#include "ir/base/log.h"

extern char **environ;
enum { END_WAITS_MS = 1000 };

double environment_number(const char *name, double fallback) {
  const char *text = getenv(name);
  char *end;
  double v = text && *text ? strtod(text, &end) : fallback;
  return v > 0 ? v : fallback;
}

static bool accepts(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%.*s", (int)sizeof address.sun_path - 1, path); /* a scope's fits */
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool ok = fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address);
  if (fd >= 0) close(fd);
  return ok;
}

static int complain(th_status status) {
  fprintf(stderr, "thunderd: %s\n", th_status_message(status));
  th_status_free(status);
  return 1;
}

static int take_lock(const th_scope *scope, int how) {
  int fd = open(scope->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0 && flock(fd, how)) {
    close(fd);
    return -1;
  }
  return fd;
}

/* ---- serving ---- */

typedef struct listening { const char *addresses[LISTENS_MAX], *tls_folder; size_t n; } listening;

/* Who has not taken its answers by now does not hold the daemon up. */
static void end_waited(uv_timer_t *timer) {
  server *s = timer->data;
  for (connection *c = s->connections; c; c = c->next) connection_close(c);
  if (s->remote) remote_cancel(s->remote);
}

void server_stop(server *s) {
  if (s->stopping) return;
  s->stopping = true;
  unlink(s->scope.socket);
  workers_end(s);
  uv_timer_start(&s->idle, end_waited, END_WAITS_MS, 0);
  uv_unref((uv_handle_t *)&s->idle);
  if (!uv_is_closing((uv_handle_t *)&s->listener)) uv_close((uv_handle_t *)&s->listener, NULL);
  for (connection *c = s->connections; c; c = c->next) connection_end(c, TH_CODE_UNAVAILABLE, "the daemon is ending");
  if (s->remote) remote_stop(s->remote);
}

static void look_idle(uv_timer_t *timer) {
  server *s = timer->data;
  if (s->connections || s->compiles || s->remote) s->quiet_since_ns = uv_hrtime();
  else if ((double)(uv_hrtime() - s->quiet_since_ns) * 1e-9 >= s->idle_limit) {
    int lock = take_lock(&s->scope, LOCK_EX | LOCK_NB); /* somebody who starts a daemon right now finds this one */
    if (lock < 0) return;
    TH_LOG(INFO, "idle for %.0f s: ending", s->idle_limit);
    server_stop(s);
  }
  if (access(s->scope.socket, F_OK) && !s->stopping) { /* the socket was removed: nobody can find this daemon */
    TH_LOG(WARNING, "%s is gone: ending", s->scope.socket);
    server_stop(s);
  }
}

static void on_signal(uv_signal_t *handle, int sig) {
  server *s = handle->data;
  TH_LOG(INFO, "signal %d: ending", sig);
  server_stop(s);
}

static uint32_t next_epoch(const th_scope *scope) {
  char path[TH_PATH_MAX + 64];
  unsigned epoch = 0;
  snprintf(path, sizeof path, "%s/epoch", scope->directory);
  FILE *f = fopen(path, "re");
  if (f && fscanf(f, "%u", &epoch) != 1) epoch = 0;
  if (f) fclose(f);
  if ((f = fopen(path, "we"))) {
    fprintf(f, "%u\n", epoch + 1);
    fclose(f);
  }
  return epoch + 1;
}

static th_status serve(server *s, const listening *listens, int ready) {
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  s->idle_limit = environment_number("THUNDER_IDLE_SECONDS", 900);
  s->compile_limit = environment_number("THUNDER_COMPILE_TIMEOUT", 600);
  s->request_max = (uint64_t)environment_number("THUNDER_REQUEST_MAX", 256e6);
  s->workers_max = (uint32_t)environment_number("THUNDER_WORKERS", cpus > 0 ? (double)cpus : 1);
  s->epoch = next_epoch(&s->scope);
  s->started_ns = s->quiet_since_ns = uv_hrtime();
  TH_TRY(th_cache_open(s->scope.cache, (uint64_t)environment_number("THUNDER_CACHE_BYTES", 4e9), (uint64_t)environment_number("THUNDER_CACHE_MEMORY", 256e6), &s->cache));
  s->loop = uv_default_loop();
  if (listens->n) TH_TRY(remote_open(s, listens->addresses, listens->n, listens->tls_folder));
  uv_pipe_init(s->loop, &s->listener, 0);
  s->listener.data = s;
  unlink(s->scope.socket);
  mode_t mask = umask(0177);
  int error = uv_pipe_bind(&s->listener, s->scope.socket);
  umask(mask);
  if (!error) error = uv_listen((uv_stream_t *)&s->listener, 128, pipe_accept);
  if (error) {
    remote_free(s->remote);
    return TH_ERROR(UNAVAILABLE, "cannot listen on %s: %s", s->scope.socket, uv_strerror(error));
  }
  static uv_signal_t term, interrupt;
  uv_signal_init(s->loop, &term);
  uv_signal_init(s->loop, &interrupt);
  term.data = interrupt.data = s;
  uv_signal_start(&term, on_signal, SIGTERM);
  uv_signal_start(&interrupt, on_signal, SIGINT);
  uv_unref((uv_handle_t *)&term);
  uv_unref((uv_handle_t *)&interrupt);
  uv_timer_init(s->loop, &s->idle);
  s->idle.data = s;
  double period = s->idle_limit / 4 < 5 ? s->idle_limit / 4 : 5;
  uv_timer_start(&s->idle, look_idle, (uint64_t)(period * 1000), (uint64_t)(period * 1000) + 1);
  TH_LOG(INFO, "build %s serves %s", th_build_id(), s->scope.socket);
  TH_FAILPOINT("daemon.listening");
  if (ready >= 0) {
    if (write(ready, "ready\n", 6) != 6) TH_LOG(WARNING, "nobody waits for this daemon");
    close(ready);
  }
  uv_run(s->loop, UV_RUN_DEFAULT);
  remote_free(s->remote);
  th_cache_close(s->cache);
  return TH_OK;
}

/* ---- starting ---- */

/* What a daemon needs of its starter's environment; job, rank and session variables are none of its business. */
static bool is_kept(const char *variable) {
  static const char *const names[] = {"PATH=", "HOME=", "TMPDIR=", "LANG=", "LC_ALL=", "XDG_CACHE_HOME=", "SLURM_JOB_ID=", "LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "THUNDER_BIN=", "THUNDER_RUNTIME_DIR=",
                                      "THUNDER_CACHE_", "THUNDER_COMPILE_", "THUNDER_IDLE_SECONDS=", "THUNDER_REQUEST_MAX=", "THUNDER_WORKERS=", "THUNDER_CC=", "THUNDER_CXX=", "THUNDER_CUDA_LIBS=", "THUNDER_LOG=", "THUNDER_FAILPOINTS=", "THUNDER_VERIFY="};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strncmp(variable, names[i], strlen(names[i]))) return true;
  return false;
}

static int ensure(th_scope *scope) {
  char said[64] = "";
  int ready[2];
  close_range(3, ~0u, 0);
  int lock = take_lock(scope, LOCK_EX);
  if (lock < 0) return complain(TH_ERROR(UNAVAILABLE, "cannot lock %s: %s", scope->lock, strerror(errno)));
  if (!accepts(scope->socket)) {
    if (pipe2(ready, O_CLOEXEC)) return complain(TH_ERROR(RESOURCE_EXHAUSTED, "pipe: %s", strerror(errno)));
    size_t n = 0, kept = 0;
    while (environ[n]) n++;
    char **env = calloc(n + 1, sizeof *env);
    for (size_t i = 0; i < n && env; i++)
      if (is_kept(environ[i])) env[kept++] = environ[i];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, scope->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    posix_spawn_file_actions_adddup2(&actions, ready[1], 3);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    char *argv[] = {"thunderd", "--serve", NULL};
    pid_t pid;
    int error = env ? posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, argv, env) : ENOMEM;
    close(ready[1]);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    free(env);
    if (error) return complain(TH_ERROR(UNAVAILABLE, "cannot start a daemon: %s", strerror(error)));
    ssize_t got;
    while ((got = read(ready[0], said, sizeof said - 1)) < 0 && errno == EINTR) {}
    if (got <= 0 || strncmp(said, "ready", 5)) return complain(TH_ERROR(UNAVAILABLE, "the daemon ended before it was ready; %s says why", scope->log));
  }
  puts(scope->socket);
  return 0;
}

static const char usage[] =
    "usage: thunderd --ensure | --foreground | --version | --help\n"
    "       thunderd [--foreground] --listen ADDRESS [--listen ADDRESS]... [--tls-dir DIR]\n"
    "The daemon of this node: compiles programs in worker processes, keeps the results. Programs start it by themselves.\n"
    "  --ensure          start one unless one accepts; print its socket. Never listens: start a daemon that does beforehand, by --listen\n"
    "  --foreground      serve here and log to stderr\n"
    "  --listen ADDRESS  serve here, over gRPC as well (proto/daemon.proto, service Compiler), and do not end when idle:\n"
    "                    HOST:PORT (port 0: a free one; thunderctl status shows it) or unix:PATH (this user only)\n"
    "  --tls-dir DIR     for HOST:PORT: cert.pem and key.pem of this host, ca.pem of those whose certificates let clients in\n"
    "Environment: THUNDER_RUNTIME_DIR, THUNDER_CACHE_DIR, THUNDER_CACHE_BYTES (4e9), THUNDER_CACHE_MEMORY (256e6 bytes),\n"
    "THUNDER_IDLE_SECONDS (900), THUNDER_WORKERS (the CPUs), THUNDER_COMPILE_TIMEOUT (600 s), THUNDER_COMPILE_MEMORY (4294967296\n"
    "bytes), THUNDER_REQUEST_MAX (256e6 bytes), THUNDER_CC (cc), THUNDER_LOG (warning; or error, info, debug); with --listen\n"
    "THUNDER_CALL_TIMEOUT (60 s without a sign of the caller), THUNDER_GRPC_LIBRARY.\n"
    "Exit code: 0; 1 it cannot start or serve (the message says why); 2 wrong use.\n";

/* A path as it is seen from /, where the daemon works: malloc'ed. */
static char *absolute(const char *prefix, const char *path) {
  char cwd[TH_PATH_MAX], *text = NULL;
  if (*path == '/' || !getcwd(cwd, sizeof cwd)) *cwd = 0;
  if (asprintf(&text, "%s%s%s%s", prefix, cwd, *cwd ? "/" : "", path) < 0) exit(1);
  return text;
}

int main(int argc, char **argv) {
  bool is_ensure = false, foreground = false, child = false, wrong = argc < 2;
  static listening listens;
  server *s = calloc(1, sizeof *s);
  th_log_name_set("thunderd");
  for (int i = 1; i < argc && !wrong; i++) {
    const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (!strcmp(a, "--version")) return printf("thunderd %s (%s)\n", th_version(), th_build_id()) < 0;
    if (!strcmp(a, "--help")) return fputs(usage, stdout) < 0;
    if (!strcmp(a, "--ensure")) is_ensure = true;
    else if (!strcmp(a, "--foreground")) foreground = true;
    else if (!strcmp(a, "--serve")) child = true;
    else if (!strcmp(a, "--listen") && value && *value && listens.n < LISTENS_MAX) listens.addresses[listens.n++] = strncmp(value, "unix:", 5) ? value : absolute("unix:", value + 5), i++;
    else if (!strcmp(a, "--tls-dir") && value && *value && !listens.tls_folder) listens.tls_folder = absolute("", value), i++;
    else wrong = true;
  }
  if (listens.n && !is_ensure && !child) foreground = true;
  if (!s || wrong || is_ensure + foreground + child != 1) {
    fputs(usage, stderr);
    return 2;
  }
  if (is_ensure && (listens.n || listens.tls_folder))
    return complain(TH_ERROR(INVALID_ARGUMENT, "--ensure takes no --listen: it may find a daemon that somebody else started. Run `thunderd --listen ...` as a service; --ensure then finds that one"));
  if (listens.tls_folder && !listens.n) return complain(TH_ERROR(INVALID_ARGUMENT, "--tls-dir is for --listen HOST:PORT, and there is none"));
  th_status status = th_scope_init(&s->scope, NULL);
  if (!status) status = th_scope_make_directories(&s->scope);
  if (status) return complain(status);
  if (is_ensure) return ensure(&s->scope);
  if (chdir("/")) return 1;
  struct rlimit core = {0, 0};
  setrlimit(RLIMIT_CORE, &core);
  signal(SIGPIPE, SIG_IGN);
  int lock = -1;
  if (foreground) {
    lock = take_lock(&s->scope, LOCK_EX);
    if (accepts(s->scope.socket)) return complain(TH_ERROR(ALREADY_EXISTS, "a daemon serves %s already", s->scope.socket));
  }
  if (child) fcntl(3, F_SETFD, FD_CLOEXEC);
  if (lock >= 0) close(lock);
  status = serve(s, &listens, child ? 3 : -1);
  return status ? complain(status) : 0;
}
