#define _GNU_SOURCE
#include "daemon/step/pages.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "collectives/channel.h"
#include "daemon/step/job.h"

/* A rank as the last turn saw it. */
typedef struct seen {
  th_progress *page;
  uint64_t posted, done, steps;
  uint32_t channel;
  bool ended, left; /* its process; it posted that it leaves */
  int how;
} seen;

static struct {
  char folder[4096];
  int fd; /* of the folder, locked */
  unsigned n;
  seen *ranks;
  uint64_t changed_ns, told_ns; /* when a turn last saw a change; when waiting ranks were last told */
  char verdict[508];
  int left; /* the rank that the verdict says has left */
} self = {.fd = -1, .left = -1};

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the folder ---- */

static void unmap_all(void) {
  for (unsigned i = 0; self.ranks && i < self.n; i++) th_progress_unmap(self.ranks[i].page);
  free(self.ranks);
  self.ranks = NULL;
  self.n = 0;
}

static void remove_folder(void) {
  if (self.fd >= 0) {
    th_job_pages_remove_at(self.fd, self.folder);
    close(self.fd);
  }
  self.fd = -1;
  self.folder[0] = 0;
}

static th_status create_in(const char *job, unsigned n) {
  if (mkdir(self.folder, 0700)) return TH_ERROR(UNAVAILABLE, "%s: %s", self.folder, strerror(errno));
  self.fd = open(self.folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (self.fd < 0 || flock(self.fd, LOCK_EX | LOCK_NB)) return TH_ERROR(UNAVAILABLE, "%s: %s", self.folder, strerror(errno));
  self.ranks = calloc(n, sizeof *self.ranks);
  if (!self.ranks) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %u ranks", n);
  self.n = n;
  for (unsigned i = 0; i < n; i++) {
    char path[sizeof self.folder + 32];
    th_pages_path(i, path, sizeof path);
    TH_TRY(th_progress_create(path, &self.ranks[i].page));
    th_progress *page = self.ranks[i].page;
    page->rank = page->local_rank = i;
    page->world_size = n;
    snprintf(page->job, sizeof page->job, "%s", job);
    gethostname(page->host, sizeof page->host - 1);
  }
  return TH_OK;
}

th_status th_pages_create(const char *job, unsigned n) {
  th_status status = TH_OK;
  for (unsigned place = 0; place < TH_JOB_PLACES; place++) {
    if (!th_job_pages_folder(job, place, self.folder, sizeof self.folder)) continue;
    char root[4096];
    snprintf(root, sizeof root, "%s", self.folder);
    *strrchr(root, '/') = 0;
    th_job_sweep(root, "thunder-progress-");
    th_status failed = create_in(job, n);
    if (!failed) {
      th_status_free(status);
      return TH_OK;
    }
    status = th_status_join(status, failed);
    unmap_all();
    remove_folder();
  }
  self.folder[0] = 0;
  return status ? status : TH_ERROR(UNAVAILABLE, "neither /dev/shm nor $TMPDIR nor /tmp can be written to");
}

const char *th_pages_folder(void) { return self.folder; }

void th_pages_path(unsigned rank, char *out, size_t size) {
  if (*self.folder) snprintf(out, size, "%s/rank%u", self.folder, rank);
  else *out = 0;
}

pid_t th_pages_pid(unsigned rank) {
  pid_t pid = self.ranks ? (pid_t)atomic_load(&self.ranks[rank].page->pid) : 0;
  return pid > 0 && (!kill(pid, 0) || errno != ESRCH) ? pid : 0;
}

void th_pages_ended(unsigned rank, int how) {
  if (!self.ranks) return;
  self.ranks[rank].ended = true;
  self.ranks[rank].how = how;
  self.changed_ns = 0;
}

const char *th_pages_verdict(void) { return *self.verdict ? self.verdict : NULL; }
int th_pages_left(void) { return self.left; }

/* ---- texts ---- */

static void put(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void put(char *out, size_t size, const char *format, ...) {
  size_t used = strlen(out);
  va_list args;
  va_start(args, format);
  vsnprintf(out + used, size - used, format, args);
  va_end(args);
}

static const char *plural(uint64_t n) { return n == 1 ? "" : "s"; }

static void put_done(char *out, size_t size, const seen *r) {
  put(out, size, "%llu collective%s and %llu training step%s", (unsigned long long)r->done, plural(r->done), (unsigned long long)r->steps, plural(r->steps));
}

static void put_call(char *out, size_t size, const th_progress_collective *c) {
  bool reduces = c->kind == TH_COLLECTIVE_all_reduce || c->kind == TH_COLLECTIVE_reduce_scatter;
  put(out, size, "%s", th_collective_kind_name((th_collective_kind)c->kind));
  if (c->kind == TH_COLLECTIVE_barrier) return;
  put(out, size, "%s%s of %llu %s", reduces ? " " : "", reduces ? th_reduce_name((th_reduce)c->reduce) : "", (unsigned long long)c->count, th_dtype_name((th_dtype)c->dtype));
  if (c->op) put(out, size, " (op %u)", c->op);
}

/* "rank 0", "ranks 0, 2-5", "ranks 0, 2, 4, 6 and 28 more" of those where of[i] == group. */
static void put_ranks(char *out, size_t size, const unsigned *of, unsigned group) {
  unsigned left = 0;
  for (unsigned i = 0; i < self.n; i++) left += of[i] == group;
  put(out, size, left == 1 ? "rank " : "ranks ");
  for (unsigned i = 0, shown = 0; i < self.n && left; i++) {
    if (of[i] != group) continue;
    unsigned first = i;
    while (i + 1 < self.n && of[i + 1] == group) i++;
    put(out, size, shown ? ", %u" : "%u", first);
    if (i > first) put(out, size, i == first + 1 ? ", %u" : "-%u", i);
    left -= i - first + 1;
    if (++shown < 4 || !left) continue;
    put(out, size, " and %u more", left);
    return;
  }
}

static const char what_to_do[] = "; all ranks must run the same program: the same model, and as many steps of it";

/* ---- comparison ---- */

static void stop_ranks(void) {
  for (unsigned i = 0; i < self.n; i++) th_progress_abort(self.ranks[i].page, self.verdict);
}

/* The ranks' entries of `index` are told apart: up to three kinds of them are named. */
static void say_difference(uint64_t index, bool surely_first) {
  char *out = self.verdict;
  size_t size = sizeof self.verdict - sizeof what_to_do;
  unsigned *of = calloc(self.n + 1, sizeof *of), groups = 0; /* group of each rank; 0: has no such entry */
  th_progress_collective entry, first[3];
  char told[2][128] = {"", ""};
  if (!of) return;
  for (unsigned i = 0; i < self.n; i++) {
    if (!th_progress_entry(self.ranks[i].page, index, &entry)) continue;
    for (unsigned g = 0; g < groups && !of[i]; g++)
      if (first[g].fingerprint == entry.fingerprint) of[i] = g + 1;
    if (of[i] || groups == 3) continue;
    first[groups++] = entry;
    of[i] = groups;
  }
  put(out, size, "collective %llu%s differs between ranks: ", (unsigned long long)index, surely_first ? "" : ", or an earlier one,");
  for (unsigned g = 0; g < groups; g++) {
    put(out, size, g ? ", " : "");
    put_ranks(out, size, of, g + 1);
    put(out, size, " ");
    unsigned i = 0;
    while (of[i] != g + 1) i++;
    if (first[g].kind == TH_PROGRESS_KIND_EXIT) {
      put(out, size, "left after ");
      self.left = (int)i;
      put_done(out, size, &self.ranks[i]);
    } else {
      put_call(out, size, &first[g]);
      if (g < 2) put_call(told[g], sizeof told[g], &first[g]);
    }
  }
  if (surely_first && *told[0] && !strcmp(told[0], told[1])) put(out, size, ", unlike in the sizes of their parts or in their root");
  put(out, sizeof self.verdict, "%s", what_to_do);
  free(of);
}

/* Fingerprints are of all that came before: the first index where those of `a` and `b` differ, going back from `at`. */
static uint64_t first_difference(const th_progress *a, const th_progress *b, uint64_t at, bool *out_sure) {
  th_progress_collective x, y;
  *out_sure = at == 0;
  while (at > 0 && th_progress_entry(a, at - 1, &x) && th_progress_entry(b, at - 1, &y)) {
    *out_sure = x.fingerprint == y.fingerprint;
    if (*out_sure) break;
    *out_sure = --at == 0;
  }
  return at;
}

static bool differs(void) {
  unsigned far = 0;
  for (unsigned i = 1; i < self.n; i++)
    if (self.ranks[i].posted > self.ranks[far].posted) far = i;
  for (unsigned i = 0; i < self.n; i++) {
    th_progress_collective x, y;
    uint64_t posted = self.ranks[i].posted;
    if (i == far || !posted || !th_progress_entry(self.ranks[i].page, posted - 1, &x) || !th_progress_entry(self.ranks[far].page, posted - 1, &y)) continue;
    if (x.fingerprint == y.fingerprint) continue;
    bool sure;
    uint64_t index = first_difference(self.ranks[i].page, self.ranks[far].page, posted - 1, &sure);
    say_difference(index, sure);
    return true;
  }
  return false;
}

/* A process that the rank's wrapper has left behind may still be the rank. */
static bool is_gone(unsigned i) { return self.ranks[i].left || (self.ranks[i].ended && !th_pages_pid(i)); }

static bool waits(const seen *r) { return !r->ended && !r->left && (r->channel == TH_PROGRESS_CHANNEL_opening || r->posted > r->done); }

static bool lacks_a_rank(void) {
  for (unsigned i = 0; i < self.n; i++) {
    if (!is_gone(i)) continue;
    for (unsigned k = 0; k < self.n; k++) {
      const seen *gone = &self.ranks[i], *r = &self.ranks[k];
      if (k == i || !waits(r)) continue;
      bool opening = r->channel == TH_PROGRESS_CHANNEL_opening;
      if (opening && gone->channel != TH_PROGRESS_CHANNEL_none) continue;
      if (!opening && (gone->channel == TH_PROGRESS_CHANNEL_none || r->posted <= gone->done)) continue; /* none: it had no page of ours */
      char *out = self.verdict;
      size_t size = sizeof self.verdict - sizeof what_to_do;
      th_progress_collective entry;
      self.left = (int)i;
      put(out, size, "rank %u ", i);
      if (!gone->ended) put(out, size, "has left");
      else if (WIFSIGNALED(gone->how)) put(out, size, "was ended by signal %d", WTERMSIG(gone->how));
      else put(out, size, "has ended (exit code %d)", WEXITSTATUS(gone->how));
      put(out, size, " after ");
      put_done(out, size, gone);
      put(out, size, ", rank %u waits for it ", k);
      if (opening) put(out, size, "with its first collective");
      else if (th_progress_entry(r->page, r->done, &entry)) {
        put(out, size, "in collective %llu, ", (unsigned long long)r->done);
        put_call(out, size, &entry);
      } else put(out, size, "in collective %llu", (unsigned long long)r->done);
      put(out, sizeof self.verdict, "%s", what_to_do);
      return true;
    }
  }
  return false;
}

/* For each rank that waits: who is behind it. The text stands on the rank's page and is part of its error when time is over. */
static void tell_waiting(uint64_t now) {
  for (unsigned i = 0; i < self.n; i++) {
    const seen *r = &self.ranks[i];
    if (!waits(r)) continue;
    char text[sizeof r->page->peers_text] = "";
    size_t size = sizeof text - 24; /* room for the last words */
    unsigned behind = 0;
    for (unsigned k = 0; k < self.n; k++) {
      const seen *other = &self.ranks[k];
      bool opening = r->channel == TH_PROGRESS_CHANNEL_opening;
      if (k == i || (opening ? other->channel != TH_PROGRESS_CHANNEL_none : other->posted >= r->posted)) continue;
      if (++behind > 3) continue;
      uint64_t moved = atomic_load(&other->page->updated_ns);
      put(text, size, "%srank %u has not come: ", behind > 1 ? ", " : "", k);
      if (!atomic_load(&other->page->pid)) put(text, size, "it had no collective and no training step yet");
      else {
        put_done(text, size, other);
        put(text, size, " done, nothing new for %.1f s", moved && now > moved ? (double)(now - moved) * 1e-9 : 0.0);
      }
    }
    if (behind > 3) put(text, sizeof text, ", and %u more", behind - 3);
    if (!behind) put(text, size, "all ranks have come to it");
    th_progress_peers_set(r->page, text);
  }
}

void th_pages_turn(void) {
  enum { STALLED_NS = 100000000, TELL_NS = 200000000 };
  if (!self.ranks) return;
  uint64_t now = now_ns();
  bool changed = !self.changed_ns, waiting = false;
  for (unsigned i = 0; i < self.n; i++) {
    seen *r = &self.ranks[i];
    uint64_t done = atomic_load(&r->page->collective_done), posted = atomic_load(&r->page->collective_index);
    uint32_t channel = atomic_load(&r->page->channel);
    changed |= done != r->done || posted != r->posted || channel != r->channel;
    r->steps = atomic_load(&r->page->step);
    if (posted != r->posted) {
      th_progress_collective entry;
      r->left = th_progress_entry(r->page, posted - 1, &entry) && entry.kind == TH_PROGRESS_KIND_EXIT;
    }
    r->done = done;
    r->posted = posted;
    r->channel = channel;
    waiting |= waits(r);
  }
  if (changed) self.changed_ns = now;
  if (self.n < 2 || *self.verdict) return;
  if (changed && (differs() || lacks_a_rank())) {
    stop_ranks();
    return;
  }
  if (!waiting || now - self.changed_ns < STALLED_NS || now - self.told_ns < TELL_NS) return;
  self.told_ns = now;
  tell_waiting(now);
}

void th_pages_end(bool compare) {
  self.changed_ns = 0;
  if (compare) th_pages_turn();
  unmap_all();
  remove_folder();
}
