/* thunderrun: runs a program in several ranks on this node, with torchrun's command line and environment variables. */
#define _GNU_SOURCE
#include <ctype.h>
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
    "  -n, --nproc-per-node N   ranks (default 1); cpu or auto: one for each processor\n"
    "  -m, --module             PROGRAM is a Python module\n"
    "  --no-python              PROGRAM is an executable, whatever its name\n"
    "  --log-dir DIR            where the ranks' output is kept (default: a folder under $TMPDIR, removed after success)\n"
    "  --master-addr A          MASTER_ADDR of the ranks (default: the environment's, else 127.0.0.1)\n"
    "  --master-port P          MASTER_PORT of the ranks (default: the environment's, else a free port)\n"
    "  --version, -h, --help\n"
    "As torchrun on one node: --standalone, --nnodes 1, --node-rank 0, --max-restarts 0, --role default, -r 0, --redirects 0;\n"
    "taken and without effect: --rdzv-backend, --rdzv-endpoint, --rdzv-id, --rdzv-conf, -t, --tee, --monitor-interval,\n"
    "--start-method, --local-addr. `_` may stand for `-`; PET_<NAME> gives an option's default (PET_NPROC_PER_NODE=2).\n"
    "Ranks find RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and THUNDER_JOB_ID.\n"
    "Exit code: 0, or that of the rank that failed first (128 + signal); 127 no such program; 2 wrong use.\n";

enum { NO_PYTHON = 256, LOG_DIR, NNODES, ADDR, PORT, VERSION, IGNORED, ONLY };
static const struct option options[] = {
    {"nproc-per-node", required_argument, NULL, 'n'}, {"module", no_argument, NULL, 'm'}, {"no-python", no_argument, NULL, NO_PYTHON},
    {"log-dir", required_argument, NULL, LOG_DIR}, {"nnodes", required_argument, NULL, NNODES},
    {"master-addr", required_argument, NULL, ADDR}, {"master-port", required_argument, NULL, PORT},
    {"version", no_argument, NULL, VERSION}, {"help", no_argument, NULL, 'h'},
    /* torchrun's: what says nothing on one node, and what is refused (see `only`) */
    {"standalone", no_argument, NULL, IGNORED}, {"rdzv-backend", required_argument, NULL, IGNORED}, {"rdzv-endpoint", required_argument, NULL, IGNORED},
    {"rdzv-id", required_argument, NULL, IGNORED}, {"rdzv-conf", required_argument, NULL, IGNORED}, {"tee", required_argument, NULL, 't'},
    {"monitor-interval", required_argument, NULL, IGNORED}, {"start-method", required_argument, NULL, IGNORED},
    {"local-addr", required_argument, NULL, IGNORED},
    {"node-rank", required_argument, NULL, ONLY}, {"max-restarts", required_argument, NULL, ONLY}, {"role", required_argument, NULL, ONLY},
    {"redirects", required_argument, NULL, 'r'}, {"event-log-handler", required_argument, NULL, ONLY}, {"logs-specs", required_argument, NULL, ONLY},
    {"local-ranks-filter", required_argument, NULL, ONLY}, {"duplicate-stdout-filters", required_argument, NULL, ONLY},
    {"duplicate-stderr-filters", required_argument, NULL, ONLY}, {"numa-binding", required_argument, NULL, ONLY},
    {"signals-to-handle", required_argument, NULL, ONLY}, {"shutdown-timeout", required_argument, NULL, ONLY},
    {"virtual-local-rank", no_argument, NULL, ONLY}, {"run-path", no_argument, NULL, ONLY}, {0}};

/* Options of torchrun that have one value here, or none. */
static const struct only { const char *name, *value, *why; } only[] = {
    {"node-rank", "0", "this version runs on one node"},
    {"max-restarts", "0", "this version does not start ranks again"},
    {"role", "default", "the ranks' ROLE_NAME is always \"default\""},
    {"redirects", "0", "a rank's output always goes to its log and to the terminal"},
    {"event-log-handler", "null", "there are no event log handlers"},
    {"logs-specs", NULL, "there are no plug-ins for logs"},
    {"local-ranks-filter", NULL, "the output of all ranks is shown"},
    {"duplicate-stdout-filters", NULL, "output is not filtered"},
    {"duplicate-stderr-filters", NULL, "output is not filtered"},
    {"numa-binding", NULL, "ranks are not bound; start them through numactl or taskset with --no-python"},
    {"signals-to-handle", NULL, "INT, TERM and HUP are forwarded to the ranks"},
    {"shutdown-timeout", NULL, "ranks have one second between the signal and the kill"},
    {"virtual-local-rank", NULL, "this version knows no devices"},
    {"run-path", NULL, "give the script's path itself"},
};

typedef struct wish { const char *ranks, *log_dir; bool module, no_python; } wish;

/* One option; `said` is how the user wrote it. -1: go on; else the exit code. */
static int take(wish *w, const struct option *o, const char *said, const char *value) {
  switch (o->val) {
    case 'n': w->ranks = value; return -1;
    case 'm': w->module = true; return -1;
    case NO_PYTHON: w->no_python = true; return -1;
    case LOG_DIR: w->log_dir = value; return -1;
    case ADDR: setenv("MASTER_ADDR", value, 1); return -1;
    case PORT: setenv("MASTER_PORT", value, 1); return -1;
    case VERSION: return printf("thunderrun %s (%s)\n", th_version(), th_build_id()) < 0;
    case 'h': return fputs(usage, stdout) < 0;
    case NNODES:
      if (!strcmp(value, "1") || !strcmp(value, "1:1")) return -1;
      fprintf(stderr, "thunderrun: %s %s: this version runs on one node\n", said, value);
      return 2;
    case 'r':
    case ONLY:
      for (size_t i = 0; i < sizeof only / sizeof *only; i++) {
        if (strcmp(only[i].name, o->name)) continue;
        if (only[i].value && value && !strcmp(value, only[i].value)) return -1;
        fprintf(stderr, "thunderrun: %s%s%s: %s; leave it out%s%s\n", said, value ? " " : "", value ? value : "", only[i].why, only[i].value ? " or give " : "",
                only[i].value ? only[i].value : "");
        return 2;
      }
  }
  return -1; /* taken, without effect */
}

/* The command line, then PET_<NAME> for what it does not say, as torchrun. -1: go on; else the exit code. */
static int read_options(wish *w, int argc, char **argv) {
  bool given[sizeof options / sizeof *options] = {false};
  char said[64];
  for (int c, code;;) {
    if (optind < argc && !strncmp(argv[optind], "--", 2)) /* an option's name: `_` is `-` */
      for (char *at = argv[optind]; *at && *at != '='; at++)
        if (*at == '_') *at = '-';
    int which = -1;
    if ((c = getopt_long(argc, argv, "+n:mhr:t:", options, &which)) == -1) break;
    if (c == '?') {
      fputs(usage, stderr);
      return 2;
    }
    for (int i = 0; which < 0; i++)
      if (options[i].val == c) which = i;
    given[which] = true;
    snprintf(said, sizeof said, "--%s", options[which].name);
    if ((code = take(w, &options[which], said, optarg)) >= 0) return code;
  }
  for (int i = 0, code; options[i].name; i++) {
    snprintf(said, sizeof said, "PET_%s", options[i].name);
    for (char *at = said; *at; at++) *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
    const char *value = getenv(said);
    if (given[i] || !value || !*value || options[i].val == 'h' || options[i].val == VERSION) continue;
    bool flag = options[i].has_arg == no_argument;
    if (flag && !strcmp(value, "0")) continue;
    if ((code = take(w, &options[i], said, flag ? NULL : value)) >= 0) return code;
  }
  return -1;
}

static volatile sig_atomic_t step;
static void forward(int sig) {
  if (step > 0) kill((pid_t)step, sig);
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), k = strlen(end);
  return n > k && !strcmp(text + n - k, end);
}

enum { RANKS_MAX = 4096 };

int main(int argc, char **argv) {
  wish w = {.ranks = "1"};
  char *end;
  int code = read_options(&w, argc, argv);
  if (code >= 0) return code;
  char count[24];
  bool processors = !strcmp(w.ranks, "cpu") || !strcmp(w.ranks, "auto");
  long n = processors ? sysconf(_SC_NPROCESSORS_ONLN) : strtol(w.ranks, &end, 10);
  if (n < 1 || n > RANKS_MAX || (!processors && *end)) {
    fprintf(stderr, "thunderrun: -n %s: want a number of ranks from 1 to %d, or cpu\n", w.ranks, RANKS_MAX);
    return 2;
  }
  if (w.module && w.no_python) {
    fprintf(stderr, "thunderrun: --module and --no-python: want one of them\n");
    return 2;
  }
  if (optind == argc) {
    fputs("thunderrun: a PROGRAM is missing\n", stderr);
    fputs(usage, stderr);
    return 2;
  }
  snprintf(count, sizeof count, "%ld", n);
  char job[64], folder[4096], parent[24], program[TH_PATH_MAX];
  snprintf(job, sizeof job, "%lx-%d", (unsigned long)time(NULL), (int)getpid());
  snprintf(parent, sizeof parent, "%d", (int)getpid());
  const char *tmp = getenv("TMPDIR");
  if (w.log_dir) snprintf(folder, sizeof folder, "%s", w.log_dir);
  else snprintf(folder, sizeof folder, "%s/thunder-job-%s", tmp && *tmp ? tmp : "/tmp", job);
  th_status status = th_directory_make(folder);
  if (!status) status = th_program_find("thunder-step", program, sizeof program);
  if (status) {
    fprintf(stderr, "thunderrun: %s\n", th_status_message(status));
    return 1;
  }
  bool python = !w.no_python && (w.module || ends_with(argv[optind], ".py"));
  if (python && !w.module && access(argv[optind], R_OK)) {
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
    if (w.module) args[k++] = "-m";
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
    char pmix[128];
    th_job_pmix_folder(job, pmix, sizeof pmix);
    th_job_remove(pmix);
  }
  code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
  if (!w.log_dir && code == 0) th_job_remove(folder);
  return code;
}
