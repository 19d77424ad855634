#define _GNU_SOURCE
#include "daemon/thunderd/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/common/scope.h"
#include "daemon/common/sha256.h"
#include "ir/base/failpoint.h"
#include "ir/base/log.h"

typedef struct entry {
  struct entry *next, *prev; /* most recent first */
  uint8_t digest[32], sha256[32];
  th_blob *blob;
  double seconds;
} entry;

struct th_cache {
  char directory[TH_PATH_MAX];
  uint64_t disk_max, memory_max, disk_bytes, disk_entries, memory_bytes, memory_entries;
  uint64_t hits_memory, hits_disk, joined, misses, stores, store_failures, corrupt, evictions;
  uint8_t compiler[32]; /* which C compiler results come from; part of every key */
  bool no_disk;
  entry head; /* of the ring */
};

typedef struct header { /* of a file; little-endian machines only, the magic says so */
  char magic[8];
  uint8_t digest[32], check[32]; /* check: of all else in the file, see seal */
  uint64_t size;
  double seconds;
} header;
static const char magic[8] = "THUNDR2\n";

/* SHA-256 over digest, size, seconds and the payload's SHA-256 (which clients want by itself). */
static void seal(const header *h, const uint8_t *sha256, uint8_t *out) {
  th_sha256 hash;
  th_sha256_init(&hash);
  th_sha256_update(&hash, h->digest, sizeof h->digest);
  th_sha256_update(&hash, &h->size, sizeof h->size);
  th_sha256_update(&hash, &h->seconds, sizeof h->seconds);
  th_sha256_update(&hash, sha256, 32);
  th_sha256_finish(&hash, out);
}

th_blob *th_blob_make(uint8_t *bytes, size_t size) {
  th_blob *b = malloc(sizeof *b);
  if (b) *b = (th_blob){.holders = 1, .size = size, .bytes = bytes};
  else free(bytes);
  return b;
}

th_blob *th_blob_hold(th_blob *b) {
  b->holders++;
  return b;
}

void th_blob_drop(th_blob *b) {
  if (!b || --b->holders) return;
  free(b->bytes);
  free(b);
}

/* A compiler that was replaced, or another one on a shared home, makes other code of the same job. */
static void name_compiler(th_cache *c) {
  const char *cc = getenv("THUNDER_CC"), *path = getenv("PATH");
  char text[2 * TH_PATH_MAX] = "", candidate[TH_PATH_MAX], real[PATH_MAX];
  struct stat s;
  cc = cc && *cc ? cc : "cc";
  while (path && *path && !strchr(cc, '/')) {
    size_t n = strcspn(path, ":");
    snprintf(candidate, sizeof candidate, "%.*s/%s", (int)n, path, cc);
    if (!access(candidate, X_OK)) break;
    *candidate = 0;
    path += n + (path[n] == ':');
  }
  if (strchr(cc, '/')) snprintf(candidate, sizeof candidate, "%s", cc);
  if (realpath(candidate, real) && !stat(real, &s))
    snprintf(text, sizeof text, "%s %lld %lld.%09ld", real, (long long)s.st_size, (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  th_sha256_of((const uint8_t *)text, strlen(text), c->compiler);
}

static void key_of(const th_cache *c, const uint8_t *digest, uint8_t *out) {
  uint8_t both[64];
  memcpy(both, digest, 32);
  memcpy(both + 32, c->compiler, 32);
  th_sha256_of(both, sizeof both, out);
}

static void path_of(const th_cache *c, const uint8_t *digest, char *out, size_t size) {
  char hex[65];
  th_hex(digest, 32, hex);
  snprintf(out, size, "%s/%.2s/%s", c->directory, hex, hex);
}

/* Calls `visit` for each file of the cache. */
static void walk(th_cache *c, void (*visit)(th_cache *c, const char *path, const struct stat *s, void *user), void *user) {
  char path[TH_PATH_MAX + 600];
  DIR *top = opendir(c->directory);
  for (struct dirent *d; top && (d = readdir(top));) {
    if (strlen(d->d_name) != 2 || d->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", c->directory, d->d_name);
    DIR *sub = opendir(path);
    for (struct dirent *f; sub && (f = readdir(sub));) {
      struct stat s;
      if (f->d_name[0] == '.') continue;
      snprintf(path, sizeof path, "%s/%s/%s", c->directory, d->d_name, f->d_name);
      if (!stat(path, &s) && S_ISREG(s.st_mode)) visit(c, path, &s, user);
    }
    if (sub) closedir(sub);
  }
  if (top) closedir(top);
}

static void count(th_cache *c, const char *path, const struct stat *s, void *user) {
  (void)path, (void)user;
  c->disk_bytes += (uint64_t)s->st_size;
  c->disk_entries++;
}

th_status th_cache_open(const char *directory, uint64_t disk_max, uint64_t memory_max, th_cache **out) {
  th_cache *c = calloc(1, sizeof *c);
  if (!c) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the cache");
  snprintf(c->directory, sizeof c->directory - 4, "%s/v1", directory);
  c->disk_max = disk_max;
  c->memory_max = memory_max;
  c->head.next = c->head.prev = &c->head;
  name_compiler(c);
  th_status status = th_directory_make(c->directory);
  struct stat s;
  if (!status && (lstat(c->directory, &s) || !S_ISDIR(s.st_mode) || s.st_uid != geteuid() || s.st_mode & 022)) /* what is in it is run as code */
    status = TH_ERROR(PERMISSION_DENIED, "%s is not a folder of user %d alone (chown it, or chmod go-w)", c->directory, (int)geteuid());
  if (status) { /* memory alone, then */
    TH_LOG(WARNING, "%s; results are kept in memory only", th_status_message(status));
    th_status_free(status);
    c->no_disk = true;
  } else {
    walk(c, count, NULL);
  }
  *out = c;
  return TH_OK;
}

static void drop(th_cache *c, entry *e) {
  e->next->prev = e->prev;
  e->prev->next = e->next;
  c->memory_bytes -= e->blob->size;
  c->memory_entries--;
  th_blob_drop(e->blob);
  free(e);
}

void th_cache_close(th_cache *c) {
  if (!c) return;
  while (c->head.next != &c->head) drop(c, c->head.next);
  free(c);
}

static entry *in_memory(th_cache *c, const uint8_t *digest) {
  for (entry *e = c->head.next; e != &c->head; e = e->next)
    if (!memcmp(e->digest, digest, 32)) return e;
  return NULL;
}

/* Takes over one hold of the blob. */
static entry *insert(th_cache *c, const uint8_t *digest, th_blob *blob, double seconds, const uint8_t *sha256) {
  entry *e = blob ? calloc(1, sizeof *e) : NULL, *old = in_memory(c, digest);
  if (old) drop(c, old);
  if (!e) {
    th_blob_drop(blob);
    return NULL;
  }
  memcpy(e->digest, digest, 32);
  memcpy(e->sha256, sha256, 32);
  e->blob = blob;
  e->seconds = seconds;
  e->next = c->head.next;
  e->prev = &c->head;
  e->next->prev = e->prev->next = e;
  c->memory_bytes += blob->size;
  c->memory_entries++;
  while (c->memory_bytes > c->memory_max && c->head.prev != e) drop(c, c->head.prev);
  return e;
}

static void show(const entry *e, bool from_disk, th_cached *out) {
  *out = (th_cached){.blob = e->blob, .seconds = e->seconds, .from_disk = from_disk};
  memcpy(out->sha256, e->sha256, 32);
}

static bool read_whole(int fd, void *out, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t n = read(fd, (char *)out + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

/* A file of the directory is gone. */
static void forget(th_cache *c, uint64_t size) {
  c->disk_bytes -= size < c->disk_bytes ? size : c->disk_bytes;
  c->disk_entries -= c->disk_entries > 0;
}

static entry *read_disk(th_cache *c, const uint8_t *digest) {
  char path[TH_PATH_MAX + 100];
  header h;
  struct stat s;
  uint8_t *bytes = NULL, sum[32], check[32];
  path_of(c, digest, path, sizeof path);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NULL;
  bool known = !fstat(fd, &s);
  bool ok = known && read_whole(fd, &h, sizeof h) && !memcmp(h.magic, magic, 8) && !memcmp(h.digest, digest, 32) && h.size == (uint64_t)s.st_size - sizeof h;
  if (ok) ok = (bytes = malloc(h.size ? h.size : 1)) && read_whole(fd, bytes, h.size);
  close(fd);
  if (ok) {
    th_sha256_of(bytes, h.size, sum);
    seal(&h, sum, check);
    ok = !memcmp(check, h.check, 32);
  }
  if (!ok) {
    TH_LOG(WARNING, "%s is damaged and was removed", path);
    free(bytes);
    if (!unlink(path) && known) forget(c, (uint64_t)s.st_size);
    c->corrupt++;
    return NULL;
  }
  return insert(c, digest, th_blob_make(bytes, h.size), h.seconds, sum);
}

bool th_cache_get(th_cache *c, const uint8_t named[32], bool counted, th_cached *out) {
  uint8_t digest[32];
  key_of(c, named, digest);
  entry *e = in_memory(c, digest);
  if (e) {
    e->next->prev = e->prev;
    e->prev->next = e->next;
    e->next = c->head.next;
    e->prev = &c->head;
    e->next->prev = e->prev->next = e;
    c->hits_memory++;
    show(e, false, out);
    return true;
  }
  e = c->no_disk ? NULL : read_disk(c, digest);
  if (!e) {
    c->misses += counted;
    return false;
  }
  c->hits_disk++;
  show(e, true, out);
  return true;
}

static bool write_whole(int fd, const void *bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t n = write(fd, (const char *)bytes + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

typedef struct oldest { char path[TH_PATH_MAX + 600]; struct timespec time; uint64_t size; } oldest;

static void find_oldest(th_cache *c, const char *path, const struct stat *s, void *user) {
  oldest *o = user;
  (void)c;
  if (*o->path && (s->st_mtim.tv_sec > o->time.tv_sec || (s->st_mtim.tv_sec == o->time.tv_sec && s->st_mtim.tv_nsec >= o->time.tv_nsec))) return;
  snprintf(o->path, sizeof o->path, "%s", path);
  o->time = s->st_mtim;
  o->size = (uint64_t)s->st_size;
}

static bool write_disk(th_cache *c, const entry *e) {
  char path[TH_PATH_MAX + 100], temporary[TH_PATH_MAX + 140], *slash;
  header h = {.size = e->blob->size, .seconds = e->seconds};
  memcpy(h.magic, magic, 8);
  memcpy(h.digest, e->digest, 32);
  seal(&h, e->sha256, h.check);
  path_of(c, e->digest, path, sizeof path);
  slash = strrchr(path, '/');
  *slash = 0;
  th_status status = th_directory_make(path);
  *slash = '/';
  if (status) {
    th_status_free(status);
    return false;
  }
  snprintf(temporary, sizeof temporary, "%.*s/.%d.%llx", (int)(slash - path), path, (int)getpid(), (unsigned long long)c->stores + c->store_failures);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  bool ok = write_whole(fd, &h, sizeof h) && write_whole(fd, e->blob->bytes, e->blob->size) && !fsync(fd);
  ok = !close(fd) && ok;
  TH_FAILPOINT("cache.rename");
  struct stat old;
  bool replaces = ok && !stat(path, &old);
  ok = ok && !rename(temporary, path);
  if (!ok) {
    TH_LOG(WARNING, "cannot store %s: %s", path, strerror(errno));
    unlink(temporary);
    return false;
  }
  if (replaces) forget(c, (uint64_t)old.st_size);
  c->disk_bytes += sizeof h + e->blob->size;
  c->disk_entries++;
  while (c->disk_bytes > c->disk_max) {
    oldest o = {{0}, {0}, 0};
    walk(c, find_oldest, &o);
    if (!*o.path || unlink(o.path)) break;
    forget(c, o.size);
    c->evictions++;
  }
  return true;
}

void th_cache_put(th_cache *c, const uint8_t named[32], th_blob *blob, const uint8_t sha256[32], double seconds) {
  uint8_t digest[32];
  key_of(c, named, digest);
  entry *e = insert(c, digest, th_blob_hold(blob), seconds, sha256);
  if (!e || c->no_disk) return;
  if (write_disk(c, e)) c->stores++;
  else c->store_failures++;
}

static void remove_file(th_cache *c, const char *path, const struct stat *s, void *user) {
  (void)s, (void)user, (void)c;
  unlink(path);
}

void th_cache_clear(th_cache *c, bool memory_only) {
  while (c->head.next != &c->head) drop(c, c->head.next);
  if (memory_only) return;
  walk(c, remove_file, NULL);
  c->disk_bytes = c->disk_entries = 0;
}

uint64_t *th_cache_joined(th_cache *c) { return &c->joined; }

void th_cache_fill(const th_cache *c, Thunder__Wire__CacheStatReply *r) {
  r->directory = (char *)c->directory;
#define SET(field, value) r->has_##field = 1, r->field = (value)
  SET(disk_bytes, c->disk_bytes); SET(disk_bytes_max, c->disk_max); SET(disk_entries, c->disk_entries);
  SET(memory_bytes, c->memory_bytes); SET(memory_bytes_max, c->memory_max); SET(memory_entries, c->memory_entries);
  SET(hits_memory, c->hits_memory); SET(hits_disk, c->hits_disk); SET(hits_joined, c->joined); SET(misses, c->misses);
  SET(stores, c->stores); SET(store_failures, c->store_failures); SET(corrupt, c->corrupt); SET(evictions, c->evictions);
#undef SET
}
