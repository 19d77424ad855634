/* The tuning record on disk: each case in processes of its own (forks of this one, which never loads it): what one keeps another finds,
 * writers at once lose nothing of each other's, and no file, folder, disk or kill does more than one warning that names the record. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executors/run/tuning.h"
#include "ir/base/failpoint.h"
#include "ir/base/log.h"
#include "tests/unit/check.h"

static char folder[64], record[128], next[128], lock[128], said[128];
static const char *here = "H200; driver 1; cublasLt 2";

static th_tuning_choice choice(int of) {
  th_tuning_choice c = {{0}, 0.5 * of};
  memcpy(c.bytes, &of, sizeof of);
  return c;
}

static void keep(int from, int n) {
  char key[32];
  for (int i = from; i < from + n; i++) {
    th_tuning_choice c = choice(i);
    snprintf(key, sizeof key, "f:%d", i);
    CHECK_OK(th_tuning_keep(here, key, &c));
  }
}

static bool has(int i) {
  char key[32];
  th_tuning_choice c, want = choice(i);
  snprintf(key, sizeof key, "f:%d", i);
  if (!th_tuning_find(here, key, &c)) return false;
  CHECK(!memcmp(c.bytes, want.bytes, sizeof c.bytes) && c.microseconds == want.microseconds);
  return true;
}

/* ---- processes: what they do ends with exit(), as a program's main does ---- */

typedef struct job { int from, n; const char *failpoint; rlim_t largest; } job;

static void learn(const job *j) { /* as products are timed: load, keep, save after a call */
  if (j->failpoint) CHECK_OK(th_failpoint_configure(j->failpoint));
  if (j->largest) {
    signal(SIGXFSZ, SIG_IGN); /* as Python does */
    CHECK(!setrlimit(RLIMIT_FSIZE, &(struct rlimit){j->largest, j->largest}));
  }
  th_tuning_load();
  keep(j->from, j->n / 2);
  th_tuning_save();
  keep(j->from + j->n / 2, j->n - j->n / 2);
  th_tuning_save(); /* too early: these are written at exit */
}

static void look(const job *j) {
  th_tuning_load();
  for (int i = j->from; i < j->from + j->n; i++) CHECK(has(i));
  CHECK(!has(j->from + j->n) && !has(j->from - 1));
}

static pid_t begin(void (*body)(const job *), const job *j) {
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child) return child;
  int fd = open(said, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  th_log_fd_set(fd);
  body(j);
  exit(0);
}

static int end(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

/* One process; `warns`: it says one line, with the record's name and this in it, else nothing. */
static void process(void (*body)(const job *), job j, const char *warns) {
  char text[4096] = "";
  unlink(said);
  CHECK_INT(end(begin(body, &j)), 0);
  int fd = open(said, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  CHECK(n >= 0 && n < (ssize_t)sizeof text - 1);
  if (!warns) CHECK_TEXT(text, "");
  else if (!strstr(text, warns) || !strstr(text, record) || strchr(text, '\n') != text + n - 1) fprintf(stderr, "said: %s\nwant one line with %s\n", text, warns), exit(1);
}

/* ---- files ---- */

static char *content(size_t *size) {
  int fd = open(record, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  char *text = calloc(1, 1 << 20);
  *size = (size_t)read(fd, text, 1 << 20);
  close(fd);
  return text;
}

static void put(const char *path, const char *bytes, size_t n) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n && !close(fd));
}

static void remove_all(void) {
  unlink(record), rmdir(record), unlink(next), unlink(lock);
}

static bool is_there(const char *path) {
  struct stat s;
  return !lstat(path, &s);
}

/* ---- cases ---- */

static void one_after_the_other(void) {
  struct stat s;
  process(look, (job){.n = 0}, NULL); /* no folder is made for nothing */
  CHECK(!is_there(record) && !is_there(lock));
  process(learn, (job){.n = 5}, NULL);
  CHECK(!stat(record, &s) && (s.st_mode & 0777) == 0600 && !is_there(next));
  process(look, (job){.n = 5}, NULL);
  process(learn, (job){.from = 5, .n = 4}, NULL);
  process(look, (job){.n = 9}, NULL);
  struct stat again;
  CHECK(!stat(record, &s));
  process(look, (job){.n = 9}, NULL); /* nothing new: not written */
  CHECK(!stat(record, &again) && s.st_ino == again.st_ino);
}

static void writers_at_once(void) {
  enum { WRITERS = 12, EACH = 40 };
  pid_t children[WRITERS];
  remove_all();
  for (int i = 0; i < WRITERS; i++) children[i] = begin(learn, &(job){.from = i * EACH, .n = EACH});
  for (int i = 0; i < WRITERS; i++) CHECK_INT(end(children[i]), 0);
  process(look, (job){.n = WRITERS * EACH}, NULL);
}

static void in_a_child(const job *j) { /* of a process that has loaded it and has something to write */
  th_tuning_load();
  keep(j->from, j->n);
  pid_t child = fork();
  if (!child) exit(0);
  CHECK_INT(end(child), 0);
  CHECK(!is_there(record));
}

static void damage(void) {
  size_t size, n;
  remove_all();
  process(learn, (job){.n = 20}, NULL);
  char *good = content(&n), *text = malloc(n + 100);
  struct { size_t cut; const char *head, *warns; } cases[] = {
      {0, NULL, "line 1: cut off"}, {n - 1, NULL, ": cut off"}, {n / 2, NULL, ": cut off"}, {n, "thunder tuning 1\n", "line 1: want \"thunder tuning 2\""}, {n, "thunder tuning 3\n", "line 1: "},
      {n, "\0\0\0\0", "not text"}, {n, "thunder tuning 2\nat H201", "line 2: its checksum"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    memcpy(text, good, n);
    if (cases[i].head) memcpy(text, cases[i].head, i == 5 ? 4 : strlen(cases[i].head));
    put(record, text, cases[i].cut);
    process(learn, (job){.from = 100, .n = 4}, cases[i].warns);
    process(look, (job){.from = 100, .n = 4}, NULL); /* made anew */
  }
  put(record, good, n); /* damaged after it was read: replaced without a word */
  free(text);
  text = content(&size);
  CHECK(size == n && !memcmp(text, good, n));

  CHECK(!chmod(record, 0666));
  process(look, (job){.n = 0}, "not a file of user");
  process(learn, (job){.n = 3}, "not a file of user");
  process(look, (job){.n = 3}, NULL);
  CHECK(!truncate(record, 17 << 20));
  process(learn, (job){.n = 3}, "at most 16777216 are read");
  process(look, (job){.n = 3}, NULL);
  unlink(record);
  CHECK(!mkfifo(record, 0600));
  process(learn, (job){.n = 3}, "not a file of user");
  process(look, (job){.n = 3}, NULL);
  unlink(record);
  CHECK(!mkdir(record, 0700)); /* cannot be replaced */
  process(learn, (job){.n = 3}, "not a file of user");
  CHECK(!is_there(next));
  remove_all();
  put(next, "left by one that was killed, longer than what is written", 56);
  process(learn, (job){.n = 0}, NULL);
  process(learn, (job){.n = 1}, NULL);
  process(look, (job){.n = 1}, NULL);
  free(good);
  free(text);
}

static void disk(void) {
  size_t size, n;
  remove_all();
  process(learn, (job){.n = 4}, NULL);
  char *before = content(&size), *after;
  process(learn, (job){.from = 4, .n = 100, .largest = 2048}, "write of");
  process(learn, (job){.from = 4, .n = 100, .failpoint = "tuning.write=error:8"}, "tuning.write");
  CHECK(!is_there(next));
  after = content(&n);
  CHECK(n == size && !memcmp(before, after, n));
  free(after);
  process(learn, (job){.from = 4, .n = 2, .failpoint = "tuning.write=error:8@1"}, "tuning.write"); /* room again at exit */
  process(look, (job){.n = 6}, NULL);
  free(before);

  unlink(said); /* killed with the next record half-way */
  pid_t child = begin(learn, &(job){.from = 6, .n = 2, .failpoint = "tuning.rename=kill"});
  int status = end(child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && is_there(next) && is_there(lock));
  process(look, (job){.n = 6}, NULL);
  process(learn, (job){.from = 6, .n = 2}, NULL);
  process(look, (job){.n = 8}, NULL);
  CHECK(!is_there(next));
}

static void places(void) {
  char text[256];
  int fd = open(lock, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0 && !flock(fd, LOCK_EX)); /* of a process that was stopped */
  process(learn, (job){.from = 8, .n = 1}, "has held");
  close(fd);
  process(look, (job){.n = 8}, NULL);
  remove_all();
  snprintf(text, sizeof text, "%s/tuning", folder);
  CHECK(!rmdir(text));
  put(text, "", 0); /* a file where the folder should be */
  process(look, (job){.n = 0}, "Not a directory");
  process(learn, (job){.n = 2}, "Not a directory");
  unlink(text);
  setenv("THUNDER_CACHE_DIR", "relative", 1);
  snprintf(record, sizeof record, "(cache directory)/tuning");
  process(learn, (job){.n = 2}, "not an absolute path");
}

int main(void) {
  snprintf(folder, sizeof folder, "/tmp/thunder-tuning-XXXXXX");
  CHECK(mkdtemp(folder));
  setenv("THUNDER_CACHE_DIR", folder, 1);
  unsetenv("THUNDER_LOG");
  snprintf(record, sizeof record, "%s/tuning/v2", folder);
  snprintf(next, sizeof next, "%s/tuning/new", folder);
  snprintf(lock, sizeof lock, "%s/tuning/lock", folder);
  snprintf(said, sizeof said, "%s/said", folder);
  one_after_the_other();
  writers_at_once();
  remove_all();
  process(in_a_child, (job){.n = 2}, NULL);
  process(look, (job){.n = 2}, NULL);
  damage();
  disk();
  places();
  unlink(said);
  CHECK(!rmdir(folder));
  return 0;
}
