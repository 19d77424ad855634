#include "executors/run/tuning.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct record { char *where, *key; th_tuning_choice choice; } record;
typedef struct table { record *records; size_t n, capacity; } table; /* sorted by where, then key */

static table kept;
static atomic_bool changed; /* something was kept that is in no record */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The place of (where, key), or where it would stand. */
static size_t place(const table *t, const char *where, const char *key, bool *found) {
  size_t low = 0, high = t->n;
  *found = false;
  while (low < high && !*found) {
    size_t middle = (low + high) / 2;
    int order = strcmp(where, t->records[middle].where);
    if (!order) order = strcmp(key, t->records[middle].key);
    if (!order) *found = true, low = middle;
    else if (order < 0) high = middle;
    else low = middle + 1;
  }
  return low;
}

static th_status insert(table *t, const char *where, const char *key, const th_tuning_choice *choice) {
  bool found;
  size_t at = place(t, where, key, &found);
  if (!found) {
    if (t->n == t->capacity) {
      size_t capacity = t->capacity ? 2 * t->capacity : 64;
      record *more = realloc(t->records, capacity * sizeof *more);
      if (!more) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %zu tuning records", capacity);
      t->records = more, t->capacity = capacity;
    }
    record new = {strdup(where), strdup(key), {{0}, 0}};
    if (!new.where || !new.key) {
      free(new.where);
      free(new.key);
      return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a tuning record");
    }
    memmove(t->records + at + 1, t->records + at, (t->n - at) * sizeof *t->records);
    t->records[at] = new;
    t->n++;
  }
  t->records[at].choice = *choice;
  return TH_OK;
}

static void empty(table *t) {
  for (size_t i = 0; i < t->n; i++) {
    free(t->records[i].where);
    free(t->records[i].key);
  }
  free(t->records);
  *t = (table){0};
}

static bool printable(const char *text, char from) { /* not empty, characters from `from` on */
  size_t n = 0;
  for (; text[n]; n++)
    if (text[n] < from || text[n] > '~') return false;
  return n > 0 && n < TH_TUNING_TEXT;
}

bool th_tuning_find(const char *where, const char *key, th_tuning_choice *out) {
  bool found;
  pthread_mutex_lock(&lock);
  size_t at = place(&kept, where, key, &found);
  if (found) *out = kept.records[at].choice;
  pthread_mutex_unlock(&lock);
  return found;
}

th_status th_tuning_keep(const char *where, const char *key, const th_tuning_choice *choice) {
  if (!printable(where, ' ') || !printable(key, '!') || !strcmp(key, "at") || !isfinite(choice->microseconds) || choice->microseconds < 0)
    return TH_ERROR(INVALID_ARGUMENT, "a tuning record at \"%s\" with key \"%s\" and %g us cannot be kept", where, key, choice->microseconds);
  bool found;
  pthread_mutex_lock(&lock);
  place(&kept, where, key, &found);
  if (!found && kept.n >= TH_TUNING_RECORDS) empty(&kept); /* begun anew: what is still in use is in its users' states */
  th_status status = insert(&kept, where, key, choice);
  pthread_mutex_unlock(&lock);
  if (!status) atomic_store(&changed, true);
  return status;
}

bool th_tuning_changed(void) { return atomic_load(&changed); }
void th_tuning_mark(bool now) { atomic_store(&changed, now); }

static uint32_t checksum(const char *where, const char *line, size_t n) { /* FNV-1a */
  uint32_t h = 2166136261u;
  for (; *where; where++) h = (h ^ (uint8_t)*where) * 16777619u;
  for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)line[i]) * 16777619u;
  return h;
}

th_status th_tuning_write(char **out_text, size_t *out_size) {
  char line[TH_TUNING_TEXT + 2 * TH_TUNING_BYTES + 64];
  *out_text = NULL, *out_size = 0;
  FILE *f = open_memstream(out_text, out_size);
  if (!f) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the tuning records' text");
  fputs("thunder tuning 2\n", f);
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < kept.n; i++) {
    const record *r = &kept.records[i];
    if (!i || strcmp(r->where, r[-1].where)) fprintf(f, "at %s %08" PRIx32 "\n", r->where, checksum("", r->where, strlen(r->where)));
    int n = snprintf(line, sizeof line, "%s ", r->key);
    for (int b = 0; b < TH_TUNING_BYTES; b++) n += snprintf(line + n, sizeof line - (size_t)n, "%02x", r->choice.bytes[b]);
    n += snprintf(line + n, sizeof line - (size_t)n, " %.3f", r->choice.microseconds);
    fprintf(f, "%s %08" PRIx32 "\n", line, checksum(r->where, line, (size_t)n));
  }
  pthread_mutex_unlock(&lock);
  bool bad = ferror(f);
  if (!fclose(f) && !bad) return TH_OK;
  free(*out_text);
  *out_text = NULL, *out_size = 0;
  return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for the tuning records' text");
}

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

/* Checks what stands after the last space of `text` against `where` and what is before it, and cuts it off. NULL, or what is wrong. */
static const char *check(const char *where, char *text) {
  char *sum = strrchr(text, ' ');
  uint32_t want = 0;
  if (!sum || strlen(sum + 1) != 8) return "no checksum at its end";
  for (int i = 1; i <= 8; i++) {
    if (digit(sum[i]) < 0) return "no checksum at its end";
    want = want << 4 | (uint32_t)digit(sum[i]);
  }
  if (want != checksum(where, text, (size_t)(sum - text))) return "its checksum is another: the line was changed";
  *sum = 0;
  return NULL;
}

/* "key hex microseconds checksum": the key stays in `line`. NULL, or what is wrong. */
static const char *read_record(const char *where, char *line, th_tuning_choice *out) {
  const char *why = check(where, line);
  if (why) return why;
  char *hex = strchr(line, ' '), *time = hex ? strchr(hex + 1, ' ') : NULL, *end;
  if (!time) return "not a key, bytes, a time and a checksum";
  *hex = *time = 0;
  if (!printable(line, '!')) return "the key";
  if (time - hex != 2 * TH_TUNING_BYTES + 1) return "not 72 bytes in hex";
  for (int i = 0; i < TH_TUNING_BYTES; i++) {
    int high = digit(hex[1 + 2 * i]), low = digit(hex[2 + 2 * i]);
    if (high < 0 || low < 0) return "not 72 bytes in hex";
    out->bytes[i] = (uint8_t)(high << 4 | low);
  }
  out->microseconds = strtod(time + 1, &end);
  return end == time + 1 || *end || !isfinite(out->microseconds) || out->microseconds < 0 ? "the time is no number of microseconds" : NULL;
}

/* Parses all of `text`, then puts it to what is kept; `over`: in the place of what stands there under the same keys. */
static th_status take(const char *text, size_t size, bool over) {
  char where[TH_TUNING_TEXT] = "", line[TH_TUNING_TEXT + 2 * TH_TUNING_BYTES + 64];
  th_tuning_choice choice;
  table new = {0};
  th_status status = TH_OK;
  unsigned number = 0;
  for (const char *at = text, *end = text + size; !status && (at < end || !number);) {
    const char *stop = memchr(at, '\n', (size_t)(end - at)), *why = NULL;
    size_t n = (size_t)((stop ? stop : end) - at);
    number++;
    if (!stop) why = "cut off";
    else if (n >= sizeof line || memchr(at, 0, n)) why = "too long, or not text";
    else {
      memcpy(line, at, n);
      line[n] = 0;
      if (number == 1) why = strcmp(line, "thunder tuning 2") ? "want \"thunder tuning 2\"" : NULL;
      else if (!strncmp(line, "at ", 3)) {
        why = check("", line + 3);
        if (!why && !printable(line + 3, ' ')) why = "the place";
        if (!why) snprintf(where, sizeof where, "%.*s", TH_TUNING_TEXT - 1, line + 3);
      } else if (!*where) why = "a record before any \"at\"";
      else why = read_record(where, line, &choice);
      if (!why && new.n >= TH_TUNING_RECORDS) why = "there are too many before it";
      if (!why && number > 1 && strncmp(line, "at ", 3)) status = insert(&new, where, line, &choice);
    }
    if (why) status = TH_ERROR(INVALID_ARGUMENT, "tuning records, line %u: %s", number, why);
    at = stop ? stop + 1 : end;
  }
  pthread_mutex_lock(&lock);
  bool found;
  size_t absent = 0;
  for (size_t i = 0; !status && i < new.n; i++) place(&kept, new.records[i].where, new.records[i].key, &found), absent += !found;
  if (kept.n + absent > TH_TUNING_RECORDS) { /* they do not fit together: those that matter more stay */
    empty(over ? &kept : &new);
    absent = new.n;
  }
  if (!status && kept.n + absent > kept.capacity) { /* room first, so that what follows cannot stop half-way */
    record *more = realloc(kept.records, (kept.n + absent) * sizeof *more);
    if (more) kept.records = more, kept.capacity = kept.n + absent;
    else status = TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %zu tuning records", kept.n + absent);
  }
  for (size_t i = 0; !status && i < new.n; i++) {
    size_t to = place(&kept, new.records[i].where, new.records[i].key, &found);
    if (found && over) kept.records[to].choice = new.records[i].choice;
    if (found) continue;
    memmove(kept.records + to + 1, kept.records + to, (kept.n - to) * sizeof *kept.records);
    kept.records[to] = new.records[i];
    new.records[i].where = new.records[i].key = NULL; /* handed over */
    kept.n++;
  }
  pthread_mutex_unlock(&lock);
  empty(&new);
  return status;
}

th_status th_tuning_read(const char *text, size_t size) { return take(text, size, true); }
th_status th_tuning_merge(const char *text, size_t size) { return take(text, size, false); }

void th_tuning_clear(void) {
  pthread_mutex_lock(&lock);
  empty(&kept);
  pthread_mutex_unlock(&lock);
}
