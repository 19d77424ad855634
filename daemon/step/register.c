#include "daemon/step/register.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/common/client.h"

static struct {
  const char *job, *log_dir, *progress;
  char **command;
  unsigned n;
  Thunder__Wire__RankInfo *ranks, **list;
  char (*states)[24];
  th_client *client;
  bool changed;
  time_t started;
  double tried;
} self;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void th_register_start(const char *job, char **command, const char *log_dir, const char *progress, unsigned n_ranks) {
  self.job = job;
  self.command = command;
  self.log_dir = log_dir;
  self.progress = progress;
  self.started = time(NULL);
  self.ranks = calloc(n_ranks, sizeof *self.ranks);
  self.list = calloc(n_ranks, sizeof *self.list);
  self.states = calloc(n_ranks, sizeof *self.states);
  if (!self.ranks || !self.list || !self.states) return; /* the daemon is told of no ranks */
  self.n = n_ranks;
  for (unsigned i = 0; i < n_ranks; i++) {
    Thunder__Wire__RankInfo *r = &self.ranks[i];
    thunder__wire__rank_info__init(r);
    r->has_rank = r->has_local_rank = 1;
    r->rank = r->local_rank = i;
    r->state = strcpy(self.states[i], "starting");
    self.list[i] = r;
  }
}

void th_register_rank(unsigned rank, pid_t pid, const char *state) {
  if (rank >= self.n) return;
  Thunder__Wire__RankInfo *r = &self.ranks[rank];
  if (r->pid == (uint32_t)pid && !strcmp(r->state, state)) return;
  r->has_pid = 1;
  r->pid = (uint32_t)pid;
  snprintf(self.states[rank], sizeof self.states[rank], "%s", state);
  self.changed = true;
}

static void drop(th_status status) {
  if (!status) return;
  th_status_free(status);
  th_client_close(self.client);
  self.client = NULL;
}

static th_status tell(void) {
  Thunder__Wire__JobInfo info = THUNDER__WIRE__JOB_INFO__INIT;
  char host[256] = "", cwd[4096] = "";
  gethostname(host, sizeof host - 1);
  if (!getcwd(cwd, sizeof cwd)) cwd[0] = 0;
  info.job = (char *)(uintptr_t)self.job;
  info.name = self.command[1] ? self.command[1] : self.command[0];
  info.cwd = cwd;
  info.host = host;
  info.state = "running";
  info.log_dir = (char *)(uintptr_t)self.log_dir;
  info.progress = (char *)(uintptr_t)self.progress;
  info.has_step_pid = info.has_world = info.has_nodes = info.has_started_ms = 1;
  info.step_pid = (uint32_t)getpid();
  info.world = self.n;
  info.nodes = 1;
  info.started_ms = (uint64_t)self.started * 1000;
  info.ranks = self.list;
  info.n_ranks = self.n;
  self.changed = false;
  return th_client_register_job(self.client, &info);
}

int th_register_fd(void) { return self.client ? th_client_fd(self.client) : -1; }

void th_register_turn(bool readable) {
  if (self.client && readable) {
    Thunder__Wire__Envelope *said = NULL;
    th_status status = th_client_receive(self.client, 0.2, &said);
    th_envelope_free(said);
    drop(status);
  }
  if (self.client && self.changed) drop(tell());
  if (self.client || now() - self.tried < 1) return;
  self.tried = now();
  th_client_options options = {.kind = "step", .job = self.job, .rank = -1, .timeout_seconds = 1};
  th_status status = th_client_open(&options, &self.client);
  if (status) th_status_free(status);
  else drop(tell());
}

void th_register_end(int exit_code) {
  if (!self.client) return;
  th_status_free(th_client_unregister_job(self.client, self.job, 0, exit_code));
  th_client_close(self.client);
  self.client = NULL;
}
