/* thunderctl: a look at the daemon of this scope, and its end. */
#include <stdio.h>
#include <string.h>

#include "daemon/common/client.h"
#include "daemon/common/scope.h"
#include "ir/base/progress.h"

static const char usage[] =
    "usage: thunderctl status | ls | cache [clear] | stop | socket | --version | -h, --help\n"
    "Asks the daemon of this environment; starts none.\n"
    "  status   the daemon: build, workers, compiles, cache, and where its log is\n"
    "  ls       jobs of this node, and how far their ranks are\n"
    "  cache    what is kept; `cache clear` drops it\n"
    "  stop     ends the daemon; jobs go on\n"
    "  socket   where the daemon of this environment listens\n"
    "Exit code: 0; 1 the daemon refused or broke off; 2 wrong use; 3 no daemon is running (stop: 0).\n";

static int complain(th_status status) {
  fprintf(stderr, "thunderctl: %s\n", th_status_message(status));
  th_status_free(status);
  return 1;
}

static void print_cache(const Thunder__Wire__CacheStatReply *c) {
  printf("cache      %s\n", c->directory ? c->directory : "");
  printf("  disk     %llu results, %.1f of %.0f MB\n", (unsigned long long)c->disk_entries, (double)c->disk_bytes * 1e-6, (double)c->disk_bytes_max * 1e-6);
  printf("  memory   %llu results, %.1f of %.0f MB\n", (unsigned long long)c->memory_entries, (double)c->memory_bytes * 1e-6, (double)c->memory_bytes_max * 1e-6);
  printf("  hits     %llu memory, %llu disk, %llu joined; %llu misses\n", (unsigned long long)c->hits_memory, (unsigned long long)c->hits_disk, (unsigned long long)c->hits_joined, (unsigned long long)c->misses);
  printf("  stores   %llu, failed %llu; damaged %llu, evicted %llu\n", (unsigned long long)c->stores, (unsigned long long)c->store_failures, (unsigned long long)c->corrupt, (unsigned long long)c->evictions);
}

static void print_status(const Thunder__Wire__StatusReply *s) {
  printf("daemon     pid %u on %s, up %.0f s, the %u. of its scope, %.1f MB\n", s->pid, s->host, s->uptime_seconds, s->epoch, (double)s->memory_bytes * 1e-6);
  printf("build      %s\nsocket     %s\nlog        %s\n", s->build, s->socket, s->log);
  for (size_t i = 0; i < s->n_listen; i++) printf("listen     %s\n", s->listen[i]);
  if (s->n_listen) puts("idle exit  none, it listens");
  else printf("idle exit  after %.0f s\n", s->idle_limit_seconds);
  printf("now        %u connections, %u jobs, %u of %u workers, %u compiles running, %u queued\n", s->connections, s->jobs, s->workers, s->workers_max, s->compiles_running, s->compiles_queued);
  printf("compiles   %llu in %.1f s; failed %llu, cancelled %llu, timed out %llu, workers crashed %llu\n", (unsigned long long)s->compiles, s->compile_seconds, (unsigned long long)s->compiles_failed,
         (unsigned long long)s->compiles_cancelled, (unsigned long long)s->compile_timeouts, (unsigned long long)s->worker_crashes);
  printf("requests   %llu, refused %llu\n", (unsigned long long)s->requests, (unsigned long long)s->requests_refused);
  if (s->cache) print_cache(s->cache);
}

/* A page that is missing, foreign or of another version says nothing; so does one that no process has attached yet. */
static bool read_page(const Thunder__Wire__JobInfo *j, uint32_t rank, th_progress *out) {
  char path[4200];
  if (!j->progress || !*j->progress || snprintf(path, sizeof path, "%s/rank%u", j->progress, rank) >= (int)sizeof path) return false;
  th_status status = th_progress_read(path, out);
  bool good = !status && out->rank == rank && !strncmp(out->job, j->job ? j->job : "", sizeof out->job) && out->pid != 0;
  th_status_free(status);
  return good;
}

static void print_ranks(const Thunder__Wire__JobInfo *j) {
  static th_progress page;
  uint64_t slowest = UINT64_MAX, fastest = 0;
  uint32_t slow = 0, fast = 0;
  size_t known = 0;
  for (size_t k = 0; k < j->n_ranks; k++) {
    if (!read_page(j, j->ranks[k]->rank, &page)) continue;
    known++;
    if (page.step < slowest) slowest = page.step, slow = page.rank;
    if (page.step > fastest || known == 1) fastest = page.step, fast = page.rank;
  }
  if (!known) puts("  training step unknown: no rank has run a step or a collective of Thunder's yet");
  else if (known == j->n_ranks && slowest == fastest) printf("  training step %llu on %s\n", (unsigned long long)fastest, known == 1 ? "its rank" : "all ranks");
  else if (known == 1) printf("  training step %llu (rank %u)", (unsigned long long)fastest, fast);
  else printf("  training step %llu (rank %u) to %llu (rank %u)", (unsigned long long)slowest, slow, (unsigned long long)fastest, fast);
  if (known && known < j->n_ranks) printf("; unknown of %zu rank%s\n", j->n_ranks - known, j->n_ranks - known == 1 ? "" : "s");
  else if (known && slowest != fastest) putchar('\n');
  for (size_t k = 0; k < j->n_ranks; k++) {
    const Thunder__Wire__RankInfo *r = j->ranks[k];
    printf("  rank %u  pid %u  %s", r->rank, r->pid, r->state ? r->state : "?");
    if (read_page(j, r->rank, &page)) printf("  step %llu  collective %llu\n", (unsigned long long)page.step, (unsigned long long)page.collective_index);
    else puts("  step unknown");
  }
}

static void print_jobs(const Thunder__Wire__JobList *list) {
  if (!list->n_jobs) puts("no jobs");
  for (size_t i = 0; i < list->n_jobs; i++) {
    const Thunder__Wire__JobInfo *j = list->jobs[i];
    printf("%s  %s  %s  %u ranks  thunder-step %u  %s\n", j->job ? j->job : "?", j->name ? j->name : "?", j->state ? j->state : "?", j->world, j->step_pid, j->log_dir ? j->log_dir : "");
    print_ranks(j);
  }
}

/* Wrong use: the first line says what was wrong. */
static int refuse(int argc, char **argv) {
  static const char *const known[] = {"status", "ls", "cache", "stop", "socket", "--version", "--help", "-h"};
  bool is_known = false;
  for (size_t i = 0; argc > 1 && i < sizeof known / sizeof *known; i++) is_known |= !strcmp(argv[1], known[i]);
  if (argc < 2) fputs("thunderctl: a command is missing\n", stderr);
  else if (!is_known) fprintf(stderr, "thunderctl: there is no command \"%s\"\n", argv[1]);
  else if (!strcmp(argv[1], "cache") && strcmp(argv[2], "clear")) fprintf(stderr, "thunderctl: cache: there is no \"%s\"; want nothing or \"clear\"\n", argv[2]);
  else fprintf(stderr, "thunderctl: %s takes no \"%s\"\n", argv[1], argv[!strcmp(argv[1], "cache") ? 3 : 2]);
  fputs(usage, stderr);
  return 2;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  bool clears = argc == 3 && !strcmp(what, "cache") && !strcmp(argv[2], "clear");
  if (argc != 2 && !clears) return refuse(argc, argv);
  if (!strcmp(what, "--version")) return printf("thunderctl %s (%s)\n", th_version(), th_build_id()) < 0;
  if (!strcmp(what, "--help") || !strcmp(what, "-h")) return fputs(usage, stdout) < 0;
  if (!strcmp(what, "socket")) {
    th_scope scope;
    th_status status = th_scope_init(&scope, NULL);
    return status ? complain(status) : puts(scope.socket) < 0;
  }
  Thunder__Wire__Envelope e = THUNDER__WIRE__ENVELOPE__INIT, *reply = NULL;
  Thunder__Wire__Status status_request = THUNDER__WIRE__STATUS__INIT;
  Thunder__Wire__ListJobs list = THUNDER__WIRE__LIST_JOBS__INIT;
  Thunder__Wire__CacheStat stat = THUNDER__WIRE__CACHE_STAT__INIT;
  Thunder__Wire__CacheClear clear = THUNDER__WIRE__CACHE_CLEAR__INIT;
  Thunder__Wire__Stop stop = THUNDER__WIRE__STOP__INIT;
  Thunder__Wire__Envelope__BodyCase want;
  if (!strcmp(what, "status")) e.body_case = THUNDER__WIRE__ENVELOPE__BODY_STATUS, e.status = &status_request, want = THUNDER__WIRE__ENVELOPE__BODY_STATUS_REPLY;
  else if (!strcmp(what, "ls")) e.body_case = THUNDER__WIRE__ENVELOPE__BODY_LIST_JOBS, e.list_jobs = &list, want = THUNDER__WIRE__ENVELOPE__BODY_JOB_LIST;
  else if (clears) e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CACHE_CLEAR, e.cache_clear = &clear, want = THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT_REPLY;
  else if (!strcmp(what, "cache")) e.body_case = THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT, e.cache_stat = &stat, want = THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT_REPLY;
  else if (!strcmp(what, "stop")) e.body_case = THUNDER__WIRE__ENVELOPE__BODY_STOP, e.stop = &stop, want = THUNDER__WIRE__ENVELOPE__BODY_DONE;
  else return refuse(argc, argv);
  th_client *client;
  th_client_options options = {.any_build = true, .kind = "ctl", .rank = -1};
  th_status status = th_client_open(&options, &client);
  if (status && th_status_code(status) == TH_CODE_UNAVAILABLE) {
    th_status_free(status);
    puts("no daemon is running");
    return strcmp(what, "stop") ? 3 : 0;
  }
  if (!status) {
    status = th_client_call(client, &e, want, 30, &reply);
    if (!status && reply->body_case == THUNDER__WIRE__ENVELOPE__BODY_STATUS_REPLY) print_status(reply->status_reply);
    if (!status && reply->body_case == THUNDER__WIRE__ENVELOPE__BODY_JOB_LIST) print_jobs(reply->job_list);
    if (!status && reply->body_case == THUNDER__WIRE__ENVELOPE__BODY_CACHE_STAT_REPLY) print_cache(reply->cache_stat_reply);
    th_envelope_free(reply);
    th_client_close(client);
  }
  return status ? complain(status) : 0;
}
