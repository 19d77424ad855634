/* thunderd's cache against a naive model, under random operations; damage; what lies beside its files. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/common/sha256.h"
#include "daemon/thunderd/cache.h"
#include "tests/unit/unit.h"

enum { KEYS = 24, HEADER = 88, BIGGEST = 5000 };

static char place[64];
static void make_place(void) {
  snprintf(place, sizeof place, "/tmp/thunder-unit-XXXXXX");
  cr_assert_not_null(mkdtemp(place));
  setenv("THUNDER_LOG", "error", 1); /* damage is a warning */
}
static void remove_place(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", place);
  cr_assert_eq(system(command), 0);
}
TestSuite(cache, .init = make_place, .fini = remove_place, .timeout = 120);

static void digest_of(int key, uint8_t out[32]) {
  for (int i = 0; i < 32; i++) out[i] = (uint8_t)(key * 31 + i * (key + 7));
}

static uint8_t *content(int key, int version, size_t size) {
  static uint8_t bytes[BIGGEST];
  for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(key + 3 * version + (int)i * 5);
  return bytes;
}

static Thunder__Wire__CacheStatReply stat_of(const th_cache *c) {
  Thunder__Wire__CacheStatReply r = THUNDER__WIRE__CACHE_STAT_REPLY__INIT;
  th_cache_fill(c, &r);
  return r;
}

/* --- the model: entries in order of use (memory) and of storing (disk) */

typedef struct item {
  int key, version;
  size_t size;
} item;
typedef struct list {
  item items[KEYS + 1];
  int n;
} list;
typedef struct model {
  list memory; /* most recent last */
  list disk;   /* oldest first */
  size_t memory_max, disk_max;
  uint64_t hits_memory, hits_disk, misses, stores, evictions;
} model;

static int find(const list *l, int key) {
  for (int i = 0; i < l->n; i++)
    if (l->items[i].key == key) return i;
  return -1;
}
static item take(list *l, int at) {
  item it = l->items[at];
  memmove(&l->items[at], &l->items[at + 1], (size_t)(l->n - at - 1) * sizeof *l->items);
  l->n--;
  return it;
}
static size_t bytes_of(const list *l, size_t head) {
  size_t n = 0;
  for (int i = 0; i < l->n; i++) n += l->items[i].size + head;
  return n;
}
static void use(model *m, item it) {
  int at = find(&m->memory, it.key);
  if (at >= 0) take(&m->memory, at);
  m->memory.items[m->memory.n++] = it;
  while (bytes_of(&m->memory, 0) > m->memory_max && m->memory.n > 1) take(&m->memory, 0); /* the newest stays, however large */
}
static void store(model *m, item it) {
  use(m, it);
  int at = find(&m->disk, it.key);
  if (at >= 0) take(&m->disk, at);
  m->disk.items[m->disk.n++] = it;
  m->stores++;
  for (; bytes_of(&m->disk, HEADER) > m->disk_max; m->evictions++) take(&m->disk, 0);
}

/* The file of the newest entry gets a time of our own: the clock's steps are coarse, the order must not hang on them. */
static int64_t file_time;
static void newest_file(char *out, size_t size) {
  char command[256];
  snprintf(command, sizeof command, "find %s -type f -name '[0-9a-f]*' -printf '%%T@ %%p\\n' | sort -n | tail -1 | cut -d' ' -f2", place);
  FILE *f = popen(command, "r");
  out[0] = 0;
  if (fgets(out, (int)size, f)) out[strcspn(out, "\n")] = 0;
  pclose(f);
}
static void age_newest(void) {
  char path[512];
  newest_file(path, sizeof path);
  struct timespec t[2] = {{1000000000 + file_time, 0}, {1000000000 + file_time, 0}};
  file_time++;
  if (*path) cr_assert_eq(utimensat(AT_FDCWD, path, t, 0), 0);
}

static void compare(const th_cache *c, const model *m, int turn) {
  Thunder__Wire__CacheStatReply r = stat_of(c);
#define SAME(field, want)                                                                                                                            \
  cr_assert_eq(r.field, (uint64_t)(want), "turn %d: " #field " is %llu, want %llu", turn, (unsigned long long)r.field, (unsigned long long)(want))
  SAME(memory_entries, m->memory.n);
  SAME(memory_bytes, bytes_of(&m->memory, 0));
  SAME(disk_entries, m->disk.n);
  SAME(disk_bytes, bytes_of(&m->disk, HEADER));
  SAME(hits_memory, m->hits_memory);
  SAME(hits_disk, m->hits_disk);
  SAME(misses, m->misses);
  SAME(stores, m->stores);
  SAME(evictions, m->evictions);
  SAME(store_failures, 0);
  SAME(corrupt, 0);
}

static void look_up(th_cache *c, model *m, int key, int turn) {
  uint8_t digest[32];
  th_cached got;
  digest_of(key, digest);
  int memory = find(&m->memory, key), disk = find(&m->disk, key);
  bool found = th_cache_get(c, digest, true, &got);
  cr_assert_eq(found, memory >= 0 || disk >= 0, "turn %d, key %d: %d in memory, %d on disk", turn, key, memory, disk);
  if (!found) {
    m->misses++;
    return;
  }
  item it = memory >= 0 ? m->memory.items[memory] : m->disk.items[disk];
  if (memory >= 0)
    m->hits_memory++;
  else
    m->hits_disk++;
  cr_assert_eq(got.from_disk, memory < 0);
  cr_assert_eq(got.blob->size, it.size);
  cr_assert_eq(memcmp(got.blob->bytes, content(key, it.version, it.size), it.size), 0);
  cr_assert_eq(got.seconds, it.version + 0.25);
  use(m, it);
}

static void store_bytes(th_cache *c, const uint8_t *digest, const uint8_t *bytes, size_t size, double seconds) {
  uint8_t *copy = malloc(size + 1), sum[32];
  memcpy(copy, bytes, size);
  th_sha256_of(bytes, size, sum);
  th_blob *blob = th_blob_make(copy, size);
  th_cache_put(c, digest, blob, sum, seconds);
  cr_assert_eq(memcmp(blob->bytes, bytes, size), 0); /* ours still, whatever the cache does with its hold */
  th_blob_drop(blob);
}

Test(cache, against_a_model) {
  uint64_t random = unit_seed("cache");
  model m = {.memory_max = 12000, .disk_max = 30000};
  th_cache *c;
  EXPECT(OK, th_cache_open(place, m.disk_max, m.memory_max, &c));
  for (int turn = 0; turn < 1200; turn++) {
    int key = (int)unit_random(&random, KEYS);
    uint8_t digest[32];
    digest_of(key, digest);
    switch (unit_random(&random, 40)) {
      case 0: /* another daemon, the same directory */
        th_cache_close(c);
        EXPECT(OK, th_cache_open(place, m.disk_max, m.memory_max, &c));
        m = (model){.disk = m.disk, .memory_max = m.memory_max, .disk_max = m.disk_max};
        break;
      case 1:
        th_cache_clear(c, true);
        m.memory.n = 0;
        break;
      case 2:
        if (unit_random(&random, 3)) break;
        th_cache_clear(c, false);
        m.memory.n = m.disk.n = 0;
        break;
      case 3:
      case 4:
      case 5:
      case 6:
      case 7:
      case 8:
      case 9:
      case 10:
      case 11:
      case 12:
      case 13:
      case 14: { /* also what is there already */
        item it = {key, turn, unit_random(&random, 8) ? unit_random(&random, 3000) : unit_random(&random, 3) ? BIGGEST : 0};
        store_bytes(c, digest, content(key, turn, it.size), it.size, turn + 0.25);
        store(&m, it);
        age_newest();
        break;
      }
      default: look_up(c, &m, key, turn);
    }
    compare(c, &m, turn);
  }
  for (int key = 0; key < KEYS; key++) look_up(c, &m, key, -1);
  th_cache_close(c);
}

/* --- damage */

static void put(th_cache *c, int key, size_t size) {
  uint8_t digest[32];
  digest_of(key, digest);
  store_bytes(c, digest, content(key, 1, size), size, 1.25);
}

static bool get(th_cache *c, int key, size_t size) {
  uint8_t digest[32];
  th_cached got;
  digest_of(key, digest);
  if (!th_cache_get(c, digest, false, &got)) return false;
  cr_assert_eq(got.blob->size, size);
  cr_assert_eq(memcmp(got.blob->bytes, content(key, 1, size), size), 0, "wrong bytes came out of the cache");
  cr_assert_eq(got.seconds, 1.25);
  return true;
}

static void write_file(const char *path, const uint8_t *bytes, size_t size) {
  FILE *f = fopen(path, "wb");
  cr_assert(f && fwrite(bytes, 1, size, f) == size && !fclose(f));
}

Test(cache, damage_of_any_byte_is_a_miss) {
  enum { SIZE = 60 };
  char path[512];
  th_cache *c;
  th_arena *a = th_arena_create(0);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  put(c, 0, SIZE);
  put(c, 1, 100);
  newest_file(path, sizeof path);
  put(c, 1, 100); /* the newest again */
  char other[512];
  newest_file(other, sizeof other);
  put(c, 0, SIZE);
  newest_file(path, sizeof path);
  cr_assert_str_neq(path, other);
  size_t size, file = SIZE + HEADER, small = 100 + HEADER;
  uint8_t *good = (uint8_t *)unit_read(a, path, &size), *bad = th_arena_alloc(a, file + 8);
  cr_assert_eq(size, file);
  uint64_t corrupt = 0;
  for (size_t at = 0; at < 3 * file + 3; at++) {
    memcpy(bad, good, file);
    size = file;
    if (at < file)
      bad[at] ^= 1;
    else if (at < 2 * file)
      bad[at - file] ^= 0x80;
    else if (at < 3 * file)
      size = at - 2 * file; /* cut */
    else
      size = file + at - 3 * file + 1; /* longer */
    write_file(path, bad, size);
    th_cache_clear(c, true);
    cr_assert_not(get(c, 0, SIZE), "case %zu: damaged bytes came out", at);
    corrupt++;
    Thunder__Wire__CacheStatReply r = stat_of(c);
    cr_assert_eq(r.corrupt, corrupt);
    cr_assert_neq(access(path, F_OK), 0, "a damaged file is removed");
    cr_assert_eq(r.disk_entries, 1, "case %zu: %llu entries", at, (unsigned long long)r.disk_entries);
    if (size == file) cr_assert_eq(r.disk_bytes, small, "case %zu: %llu bytes", at, (unsigned long long)r.disk_bytes);
    if (size != file) { /* sizes are counted at open: what somebody else made of a file since is not known */
      th_cache_close(c);
      EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
      corrupt = 0;
    }
    put(c, 0, SIZE);
    th_cache_clear(c, true);
    cr_assert(get(c, 0, SIZE) && get(c, 1, 100));
    cr_assert_eq(stat_of(c).disk_bytes, file + small);
  }
  th_arena_destroy(a);
  th_cache_close(c);
}

Test(cache, another_entrys_file_is_damage) {
  char a[512], b[512], command[1200];
  th_cache *c;
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  put(c, 0, 10);
  newest_file(a, sizeof a);
  age_newest();
  put(c, 1, 10);
  newest_file(b, sizeof b);
  snprintf(command, sizeof command, "cp %s %s", b, a);
  cr_assert_eq(system(command), 0);
  th_cache_clear(c, true);
  cr_assert_not(get(c, 0, 10));
  cr_assert(get(c, 1, 10));
  th_cache_close(c);
}

Test(cache, temporary_files_are_ignored) {
  char path[512], temporary[600], *slash;
  th_cache *c;
  EXPECT(OK, th_cache_open(place, 1000, 1 << 20, &c));
  put(c, 0, 10);
  newest_file(path, sizeof path);
  slash = strrchr(path, '/');
  snprintf(temporary, sizeof temporary, "%.*s/.99.1", (int)(slash - path), path);
  static uint8_t half[700];
  write_file(temporary, half, sizeof half);
  th_cache_close(c);
  EXPECT(OK, th_cache_open(place, 1000, 1 << 20, &c));
  Thunder__Wire__CacheStatReply r = stat_of(c);
  cr_assert(r.disk_entries == 1 && r.disk_bytes == 10 + HEADER, "%llu, %llu", (unsigned long long)r.disk_entries, (unsigned long long)r.disk_bytes);
  put(c, 1, 600); /* with the half file it would be too much */
  cr_assert_eq(stat_of(c).evictions, 0);
  th_cache_clear(c, true);
  cr_assert(get(c, 0, 10) && get(c, 1, 600));
  th_cache_clear(c, false);
  cr_assert_not(get(c, 0, 10));
  th_cache_close(c);
}

Test(cache, a_folder_of_others_is_not_used) {
  char v1[128];
  th_cache *c;
  snprintf(v1, sizeof v1, "%s/v1", place);
  cr_assert_eq(mkdir(v1, 0700), 0);
  chmod(v1, 0722);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  put(c, 0, 10);
  cr_assert(get(c, 0, 10));
  Thunder__Wire__CacheStatReply r = stat_of(c);
  cr_assert(r.disk_entries == 0 && r.stores == 0 && r.store_failures == 0 && r.memory_entries == 1);
  th_cache_clear(c, true);
  cr_assert_not(get(c, 0, 10));
  th_cache_close(c);
}

Test(cache, a_failed_store_is_no_error) {
  char v1[128];
  th_cache *c;
  snprintf(v1, sizeof v1, "%s/v1", place);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  cr_assert_eq(rmdir(v1), 0);
  write_file(v1, (const uint8_t *)"x", 1); /* a file where the folder was (root may write anywhere) */
  put(c, 0, 10);
  cr_assert(get(c, 0, 10));
  cr_assert_eq(stat_of(c).store_failures, 1);
  cr_assert_eq(stat_of(c).disk_bytes, 0);
  th_cache_close(c);
}

Test(cache, another_compiler_makes_other_results) {
  th_cache *c;
  setenv("THUNDER_CC", "/bin/sh", 1);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  put(c, 0, 10);
  th_cache_close(c);
  setenv("THUNDER_CC", "/bin/ls", 1);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  cr_assert_not(get(c, 0, 10));
  th_cache_close(c);
  setenv("THUNDER_CC", "/bin/sh", 1);
  EXPECT(OK, th_cache_open(place, 1 << 20, 1 << 20, &c));
  cr_assert(get(c, 0, 10));
  th_cache_close(c);
}
