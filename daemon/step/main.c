/* thunder-step: parent of a job's ranks on one node. Started by thunderrun:
 *   thunder-step JOB LOCAL LOG_DIR PARENT_PID COMMAND ARGS…
 * It reaps what its ranks leave behind, hosts their PMIx server and progress pages, writes their output to files and shows it, and
 * ends the job when a rank fails, when it is told to, or when thunderrun is gone. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/step/job.h"
#include "daemon/step/pages.h"
#include "daemon/step/pmix.h"
#include "daemon/step/register.h"
#include "daemon/step/show.h"
#include "ir/base/failpoint.h"

extern char **environ;

typedef struct rank { pid_t pid; int pipe, log; bool ended; char line[4096], last[8][512]; size_t used; unsigned n_last; } rank;

static const char *job, *directory;
static unsigned n_ranks;
static rank *ranks;
static bool ending;
static double term_at;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void end_line(unsigned i) {
  rank *r = &ranks[i];
  if (!r->used) return;
  th_show_line(i, r->line, r->used);
  snprintf(r->last[r->n_last++ % 8], sizeof r->last[0], "%.*s", (int)(r->used < 500 ? r->used : 500), r->line);
  r->used = 0;
}

static void read_rank(unsigned i) {
  rank *r = &ranks[i];
  char buffer[65536];
  ssize_t n = read(r->pipe, buffer, sizeof buffer);
  if (n <= 0 && (n == 0 || (errno != EAGAIN && errno != EINTR))) {
    end_line(i);
    close(r->pipe);
    r->pipe = -1;
  }
  for (ssize_t done = 0; r->log >= 0 && done < n;) {
    ssize_t k = write(r->log, buffer + done, (size_t)(n - done));
    if (k < 0 && errno != EINTR) {
      char text[256]; /* not on stderr: that may be a paused terminal */
      int length = snprintf(text, sizeof text, "thunder-step: the log of this rank ends here, it cannot be written: %s", strerror(errno));
      th_show_line(i, text, (size_t)length);
      close(r->log);
      r->log = -1;
    } else if (k > 0) done += k;
  }
  for (ssize_t k = 0; k < n; k++) {
    bool ends = buffer[k] == '\n' || buffer[k] == '\r';
    if (!ends) r->line[r->used++] = buffer[k];
    if (ends || r->used == sizeof r->line) end_line(i);
  }
}

static void set(char ***env, const char *name, const char *value) {
  size_t n = 0, length = strlen(name);
  for (; (*env)[n]; n++)
    if (!strncmp((*env)[n], name, length) && (*env)[n][length] == '=') break;
  bool fresh = !(*env)[n];
  if (fresh) {
    *env = realloc(*env, (n + 2) * sizeof **env);
    (*env)[n + 1] = NULL;
  } else {
    free((*env)[n]);
  }
  if (asprintf(&(*env)[n], "%s=%s", name, value) < 0) abort();
}

static void set_default(char ***env, const char *name, const char *value) {
  if (!getenv(name)) set(env, name, value);
}

static void set_number(char ***env, const char *name, unsigned value) {
  char text[24];
  snprintf(text, sizeof text, "%u", value);
  set(env, name, text);
}

static unsigned free_port(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &size)) a.sin_port = htons(29500);
  if (fd >= 0) close(fd);
  return ntohs(a.sin_port);
}

static th_status start_rank(unsigned i, char **command, unsigned port) {
  rank *r = &ranks[i];
  size_t n = 0;
  int out[2] = {-1, -1};
  while (environ[n]) n++;
  char **env = calloc(n + 1, sizeof *env), path[4096];
  for (size_t k = 0; k < n; k++) env[k] = strdup(environ[k]);
  set(&env, "THUNDER_JOB_ID", job);
  set(&env, "TORCHELASTIC_RUN_ID", job);
  set_number(&env, "RANK", i);
  set_number(&env, "LOCAL_RANK", i);
  set_number(&env, "GROUP_RANK", 0);
  set_number(&env, "ROLE_RANK", i);
  set(&env, "ROLE_NAME", "default");
  set_number(&env, "WORLD_SIZE", n_ranks);
  set_number(&env, "LOCAL_WORLD_SIZE", n_ranks);
  set_number(&env, "GROUP_WORLD_SIZE", 1);
  set_number(&env, "ROLE_WORLD_SIZE", n_ranks);
  set(&env, "TORCHELASTIC_RESTART_COUNT", "0");
  set(&env, "TORCHELASTIC_MAX_RESTARTS", "0");
  set_default(&env, "MASTER_ADDR", "127.0.0.1");
  if (!getenv("MASTER_PORT")) set_number(&env, "MASTER_PORT", port);
  if (n_ranks > 1 && !getenv("OMP_NUM_THREADS")) { /* the node's processors, shared out */
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    set_number(&env, "OMP_NUM_THREADS", cpus > (long)n_ranks ? (unsigned)(cpus / n_ranks) : 1);
  }
  if (n_ranks > 1) set_default(&env, "PYTHONUNBUFFERED", "1");
  th_pages_path(i, path, sizeof path);
  set(&env, "THUNDER_PROGRESS", path); /* also when there is none: ours may be of the job that this one is part of */
  if (!strncmp(th_pages_folder(), "/dev/shm/", 9)) { /* what Open MPI 4 and 5 have there goes with the folder: a rank that was lost or killed leaves it */
    set_default(&env, "OMPI_MCA_btl_vader_backing_directory", th_pages_folder());
    set_default(&env, "OMPI_MCA_btl_sm_backing_directory", th_pages_folder());
  }
  TH_TRY(th_pmix_environment(i, &env));
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigemptyset(&none);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigmask(&attributes, &none);
  r->pipe = r->log = -1;
  if (n_ranks > 1) {
    snprintf(path, sizeof path, "%s/rank%u.log", directory, i);
    r->log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (r->log < 0 || pipe2(out, O_CLOEXEC)) return TH_ERROR(UNAVAILABLE, "cannot open %s: %s", path, strerror(errno));
    fcntl(out[0], F_SETPIPE_SZ, 1 << 20);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, out[1], 2);
  }
  int error = posix_spawnp(&r->pid, command[0], &actions, &attributes, command, env);
  if (out[1] >= 0) close(out[1]);
  r->pipe = out[0];
  for (size_t k = 0; env[k]; k++) free(env[k]);
  free(env);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error) {
    r->ended = true;
    return TH_ERROR(NOT_FOUND, "cannot start %s: %s", command[0], strerror(error));
  }
  th_register_rank(i, r->pid, "running");
  TH_FAILPOINT("step.rank_started");
  return TH_OK;
}

static void signal_ranks(int sig) {
  for (unsigned i = 0; i < n_ranks; i++)
    if (ranks[i].pid > 0 && !ranks[i].ended) kill(ranks[i].pid, sig);
}

static void end_job(int sig) {
  if (ending) return;
  ending = true;
  term_at = now();
  signal_ranks(sig);
}

/* Said when the job is over: a paused terminal must not keep us from ending it. */
static void blame(unsigned i, int status) {
  const rank *r = &ranks[i];
  if (WIFSIGNALED(status)) fprintf(stderr, "thunderrun: rank %u was ended by signal %d (%s)\n", i, WTERMSIG(status), strsignal(WTERMSIG(status)));
  else fprintf(stderr, "thunderrun: rank %u failed with exit code %d\n", i, WEXITSTATUS(status));
  unsigned first = r->n_last > 8 ? r->n_last - 8 : 0;
  if (r->n_last) fprintf(stderr, "  its last lines (all: %s/rank%u.log):\n", directory, i);
  for (unsigned k = first; k < r->n_last; k++) fprintf(stderr, "  | %s\n", r->last[k % 8]);
}

static int exit_code(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "thunder-step is started by thunderrun\n");
    return 2;
  }
  job = argv[1];
  n_ranks = (unsigned)strtoul(argv[2], NULL, 10);
  directory = argv[3];
  pid_t parent = (pid_t)strtol(argv[4], NULL, 10);
  char **command = argv + 5, pmix[128];
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) return 1;
  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  sigaddset(&watched, SIGINT);
  sigaddset(&watched, SIGTERM);
  sigaddset(&watched, SIGHUP);
  sigprocmask(SIG_BLOCK, &watched, NULL);
  int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK), failed = 0, blamed = -1, blamed_status = 0;
  signal(SIGPIPE, SIG_IGN);
  th_show_start(directory);
  ranks = calloc(n_ranks + 1, sizeof *ranks);
  struct pollfd *polled = calloc(n_ranks + 4, sizeof *polled);
  th_status status = th_pages_create(job, n_ranks);
  if (status) fprintf(stderr, "thunderrun: no progress pages, so ranks that differ or hang are not named: %s\n", th_status_message(status));
  th_status_free(status);
  th_register_start(job, command, directory, th_pages_folder(), n_ranks);
  th_job_sweep("/tmp", "thunder-pmix-");
  th_job_pmix_folder(job, pmix, sizeof pmix);
  int pmix_fd = mkdir(pmix, 0700) ? -1 : open(pmix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  status = pmix_fd >= 0 && !flock(pmix_fd, LOCK_EX | LOCK_NB) ? th_pmix_start(job, n_ranks, pmix) : TH_ERROR(UNAVAILABLE, "cannot make %s: %s", pmix, strerror(errno));
  unsigned port = free_port(), left = 0;
  for (unsigned i = 0; i < n_ranks && !status; i++) {
    status = start_rank(i, command, port);
    left += !status;
  }
  if (status) {
    fprintf(stderr, "thunderrun: %s\n", th_status_message(status));
    failed = th_status_code(status) == TH_CODE_NOT_FOUND ? 127 : 1;
    th_status_free(status);
    end_job(SIGKILL);
  }
  double seen_at = 0, patience = 0; /* patience: until then ranks that were told to stop may say so and end by themselves */
  while (left) {
    polled[0] = (struct pollfd){.fd = signals, .events = POLLIN};
    for (unsigned i = 0; i < n_ranks; i++) polled[i + 1] = (struct pollfd){.fd = ranks[i].pipe > 0 ? ranks[i].pipe : -1, .events = POLLIN};
    polled[n_ranks + 1] = (struct pollfd){.fd = th_register_fd(), .events = POLLIN};
    polled[n_ranks + 2] = (struct pollfd){.fd = th_show_fd(), .events = POLLOUT};
    poll(polled, n_ranks + 3, n_ranks > 1 ? 25 : 200);
    if (polled[n_ranks + 2].revents) th_show_flush();
    if (!ending) {
      th_pages_turn();
      bool look = now() - seen_at > 0.2; /* the program's own process, when it is not the one that was started */
      if (look) seen_at = now();
      for (unsigned i = 0; look && i < n_ranks; i++)
        if (!ranks[i].ended && th_pages_pid(i)) th_register_rank(i, th_pages_pid(i), "running");
      th_register_turn(polled[n_ranks + 1].revents != 0);
    }
    for (unsigned i = 0; i < n_ranks; i++)
      if (polled[i + 1].revents) read_rank(i);
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      if (getppid() != parent) end_job(SIGTERM);
      else if (n_ranks > 1 || info.ssi_signo != SIGINT || info.ssi_pid) end_job((int)info.ssi_signo); /* a terminal's INT reaches a single rank by itself */
      if (!failed) failed = 128 + (int)info.ssi_signo;
    }
    int how;
    for (pid_t pid; (pid = waitpid(-1, &how, WNOHANG)) > 0;)
      for (unsigned i = 0; i < n_ranks; i++)
        if (ranks[i].pid == pid && !ranks[i].ended) {
          ranks[i].ended = true;
          left--;
          if (ranks[i].pipe > 0) read_rank(i);
          th_pages_ended(i, how);
          char state[24];
          snprintf(state, sizeof state, WIFSIGNALED(how) ? "signal %d" : "exited %d", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
          th_register_rank(i, pid, state);
          if (how && !ending && (blamed < 0 || th_pages_left() == (int)i)) { /* who left is the cause, who was told to stop is not */
            blamed = (int)i;
            blamed_status = how;
            failed = exit_code(how);
            if (th_pages_verdict()) patience = patience > 0 ? patience : now() + 2;
            else end_job(SIGTERM);
          }
        }
    if (patience > 0 && now() > patience) end_job(SIGTERM);
    if (getppid() != parent) end_job(SIGTERM);
    if (ending && now() - term_at > 1.0) signal_ranks(SIGKILL);
  }
  for (unsigned i = 0; i < n_ranks; i++)
    for (int k = 0; ranks[i].pipe > 0 && k < 64; k++) read_rank(i);
  th_job_end_processes(job, getpid());
  th_pages_end(!failed);
  for (unsigned i = 0; i < n_ranks; i++) end_line(i);
  th_show_end(1.0);
  if (blamed >= 0) blame((unsigned)blamed, blamed_status);
  if (th_pages_verdict() && (blamed < 0 || blamed != th_pages_left())) {
    fprintf(stderr, "thunderrun: %s\n", th_pages_verdict());
    if (!failed) failed = 1; /* results of unlike collectives are worth nothing, whatever the ranks say */
  }
  th_register_end(failed);
  th_pmix_stop();
  if (pmix_fd >= 0) th_job_remove(pmix);
  return failed;
}
