/* thunderrun: runs a program in several ranks on this node, with torchrun's command line and environment variables. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/common/scope.h"
#include "daemon/step/job.h"

extern char **environ;

static const char usage[] =
    "usage: thunderrun [options] PROGRAM [arguments]\n"
    "Runs PROGRAM (a Python script, or any executable) in several ranks on this node.\n"
    "  -n, --nproc-per-node N   ranks (default 1); cpu: one for each processor\n"
    "  -m, --module             PROGRAM is a Python module\n"
    "  --no-python              PROGRAM is an executable, whatever its name\n"
    "  --log-dir DIR            where the ranks' output is kept (default: a folder under $TMPDIR)\n"
    "  --standalone, --nnodes 1, --master-addr A, --master-port P   as torchrun\n"
    "  --version\n"
    "Ranks find RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and THUNDER_JOB_ID.\n";

static volatile sig_atomic_t step;
static void forward(int sig) {
  if (step > 0) kill((pid_t)step, sig);
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), k = strlen(end);
  return n > k && !strcmp(text + n - k, end);
}

int main(int argc, char **argv) {
  enum { NO_PYTHON = 256, LOG_DIR, STANDALONE, NNODES, ADDR, PORT, VERSION };
  static const struct option options[] = {{"nproc-per-node", required_argument, NULL, 'n'}, {"nproc_per_node", required_argument, NULL, 'n'}, {"module", no_argument, NULL, 'm'},
                                          {"no-python", no_argument, NULL, NO_PYTHON},      {"log-dir", required_argument, NULL, LOG_DIR},      {"standalone", no_argument, NULL, STANDALONE},
                                          {"nnodes", required_argument, NULL, NNODES},      {"master-addr", required_argument, NULL, ADDR},     {"master-port", required_argument, NULL, PORT},
                                          {"version", no_argument, NULL, VERSION},          {"help", no_argument, NULL, 'h'},                   {0}};
  const char *ranks = "1", *log_dir = NULL;
  bool module = false, no_python = false;
  char *end;
  int c;
  while ((c = getopt_long(argc, argv, "+n:mh", options, NULL)) != -1) switch (c) {
      case 'n': ranks = optarg; break;
      case 'm': module = true; break;
      case NO_PYTHON: no_python = true; break;
      case LOG_DIR: log_dir = optarg; break;
      case STANDALONE: break;
      case NNODES:
        if (strcmp(optarg, "1") && strcmp(optarg, "1:1")) {
          fprintf(stderr, "thunderrun: --nnodes %s: this version runs on one node\n", optarg);
          return 2;
        }
        break;
      case ADDR: setenv("MASTER_ADDR", optarg, 1); break;
      case PORT: setenv("MASTER_PORT", optarg, 1); break;
      case VERSION: return printf("thunderrun %s (%s)\n", th_version(), th_build_id()) < 0;
      case 'h': return fputs(usage, stdout) < 0;
      default: fputs(usage, stderr); return 2;
    }
  char count[24];
  long n = !strcmp(ranks, "cpu") || !strcmp(ranks, "auto") ? sysconf(_SC_NPROCESSORS_ONLN) : strtol(ranks, &end, 10);
  if (n < 1 || n > 4096 || (strcmp(ranks, "cpu") && strcmp(ranks, "auto") && *end)) {
    fprintf(stderr, "thunderrun: -n %s: want a number of ranks, or cpu\n", ranks);
    return 2;
  }
  if (optind == argc) {
    fputs(usage, stderr);
    return 2;
  }
  snprintf(count, sizeof count, "%ld", n);
  char job[64], folder[4096], parent[24], program[TH_PATH_MAX];
  snprintf(job, sizeof job, "%lx-%d", (unsigned long)time(NULL), (int)getpid());
  snprintf(parent, sizeof parent, "%d", (int)getpid());
  const char *tmp = getenv("TMPDIR");
  if (log_dir) snprintf(folder, sizeof folder, "%s", log_dir);
  else snprintf(folder, sizeof folder, "%s/thunder-job-%s", tmp && *tmp ? tmp : "/tmp", job);
  th_status status = th_directory_make(folder);
  if (!status) status = th_program_find("thunder-step", program, sizeof program);
  if (status) {
    fprintf(stderr, "thunderrun: %s\n", th_status_message(status));
    return 1;
  }
  bool python = !no_python && (module || ends_with(argv[optind], ".py"));
  if (python && !module && access(argv[optind], R_OK)) {
    fprintf(stderr, "thunderrun: cannot read %s: %s\n", argv[optind], strerror(errno));
    return 2;
  }
  char **args = calloc((size_t)argc + 16, sizeof *args);
  size_t k = 0;
  args[k++] = program;
  args[k++] = job;
  args[k++] = count;
  args[k++] = folder;
  args[k++] = parent;
  if (python) {
    char *venv = getenv("VIRTUAL_ENV"), *interpreter = NULL;
    if (venv && *venv && asprintf(&interpreter, "%s/bin/python", venv) > 0 && access(interpreter, X_OK)) interpreter = NULL;
    args[k++] = getenv("PYTHON_EXEC") ? getenv("PYTHON_EXEC") : interpreter ? interpreter : "python3";
    if (module) args[k++] = "-m";
  }
  for (int i = optind; i < argc; i++) args[k++] = argv[i];
  setenv("THUNDER_JOB_ID", job, 1); /* the step's too: whoever is left over is found by it */
  struct sigaction action = {.sa_handler = forward};
  sigset_t forwarded, before;
  sigemptyset(&forwarded);
  static const int kinds[] = {SIGINT, SIGTERM, SIGHUP};
  for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    sigaddset(&forwarded, kinds[i]);
    sigaction(kinds[i], &action, NULL);
  }
  sigprocmask(SIG_BLOCK, &forwarded, &before); /* one that comes early waits for the step; the step blocks them too, and reads them when it is ready */
  pid_t pid;
  int error = posix_spawn(&pid, program, NULL, NULL, args, environ), how;
  if (error) {
    fprintf(stderr, "thunderrun: cannot start %s: %s\n", program, strerror(error));
    return 1;
  }
  free(args);
  step = pid;
  sigprocmask(SIG_SETMASK, &before, NULL);
  for (pid_t got; (got = waitpid(-1, &how, 0)) != pid;) /* as PID 1 of a container it reaps others too */
    if (got < 0 && errno != EINTR) break;
  step = 0;
  if (WIFSIGNALED(how)) {
    fprintf(stderr, "thunderrun: the job's step was ended by signal %d (%s); its processes are ended\n", WTERMSIG(how), strsignal(WTERMSIG(how)));
    th_job_end_processes(job, 0);
    th_job_pages_remove(job);
  }
  int code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
  if (!log_dir && code == 0) th_job_remove(folder);
  return code;
}
