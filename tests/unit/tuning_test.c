/* Tuning records: find, keep, the text's round trip, and every damaged line refused with its number, nothing taken; texts changed at random
 * whose checksums are right; no more records than are said. */
#include "executors/run/tuning.h"
#include "tests/unit/check.h"

static th_tuning_choice choice(uint8_t first, double us) {
  th_tuning_choice c = {{0}, us};
  for (int i = 0; i < TH_TUNING_BYTES; i++) c.bytes[i] = (uint8_t)(first + 3 * i);
  return c;
}

static void refused(const char *text, size_t size, unsigned line) {
  char want[64];
  th_tuning_choice c;
  snprintf(want, sizeof want, "line %u:", line);
  th_status status = th_tuning_read(text, size);
  CHECK(status);
  CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
  if (!strstr(th_status_message(status), want)) {
    fprintf(stderr, "\"%s\", want %s\n", th_status_message(status), want);
    exit(1);
  }
  th_status_free(status);
  CHECK(!th_tuning_find("H200; driver 1; cublasLt 2", "f:1,2", &c));
}

static unsigned line_of(const char *text, size_t at) {
  unsigned line = 1;
  for (size_t i = 0; i < at; i++) line += text[i] == '\n';
  return line;
}

/* FNV-1a, as tuning.c has it: to get past the checksums. */
static uint32_t sum(uint32_t h, const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 16777619u;
  return h;
}

/* Lines of `text` changed, dropped, doubled and cut, most with a checksum that fits. What is taken comes back from th_tuning_write. */
static void changed_at_random(const char *text) {
  uint64_t random = 88172645463325252u;
  int taken = 0;
  for (int run = 0; run < 20000; run++) {
    char out[4096], line[1024], where[1024] = "", *again;
    size_t n = 0, size;
    int lines = 0;
    for (const char *at = text; *at && lines < 6; at = strchr(at, '\n') + 1, lines++) {
      size_t length = (size_t)(strchr(at, '\n') - at), body;
      memcpy(line, at, length);
      line[length] = 0;
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      uint64_t r = random;
      if (r % 16 == 0) continue;
      body = lines && length > 9 ? length - 9 : length;
      if (r % 16 == 1) body = (r >> 8) % (body + 1);
      if (r % 16 < 4 && body) line[(r >> 16) % body] = (r >> 40) % 4 ? (char)(r >> 32) : " ,:.-0"[(r >> 48) % 6];
      line[body] = 0;
      bool place = !strncmp(line, "at ", 3);
      size_t from = place ? 3 : 0;
      if (lines && r % 16 != 2) snprintf(line + body, sizeof line - body, " %08x", sum(place ? 2166136261u : sum(2166136261u, where, strlen(where)), line + from, body - from));
      if (place) snprintf(where, sizeof where, "%.*s", (int)(body - from), line + from);
      for (int twice = r % 16 == 7; twice >= 0; twice--) n += (size_t)snprintf(out + n, sizeof out - n, "%s\n", line);
    }
    th_tuning_clear();
    th_status status = th_tuning_read(out, n);
    if (status) CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
    taken += !status;
    CHECK_OK(th_tuning_write(&again, &size));
    if (status) CHECK_TEXT(again, "thunder tuning 2\n");
    th_status_free(status);
    th_tuning_clear();
    CHECK_OK(th_tuning_read(again, size));
    free(again);
  }
  printf("changed texts: %d of 20000 taken\n", taken);
  CHECK(taken > 2000 && taken < 18000);
}

static void many(void) {
  th_tuning_choice c, a = choice(0, 1), b = choice(0, 2);
  char key[32], *first, *full;
  size_t first_size, full_size;
  th_tuning_clear();
  CHECK_OK(th_tuning_keep("A", "first", &a));
  CHECK_OK(th_tuning_write(&first, &first_size));
  th_tuning_mark(false);
  CHECK_OK(th_tuning_merge(first, first_size));
  CHECK_OK(th_tuning_keep("A", "first", &b));
  CHECK(th_tuning_changed());
  CHECK_OK(th_tuning_merge(first, first_size)); /* what is there stays */
  CHECK(th_tuning_find("A", "first", &c) && c.microseconds == 2);
  th_tuning_clear();
  for (int i = 0; i < TH_TUNING_RECORDS; i++) {
    snprintf(key, sizeof key, "k:%d", i);
    CHECK_OK(th_tuning_keep("B", key, &a));
  }
  CHECK_OK(th_tuning_keep("B", "k:7", &b)); /* known: no more than there were */
  CHECK_OK(th_tuning_write(&full, &full_size));
  CHECK_OK(th_tuning_merge(first, first_size)); /* fits no more: dropped */
  CHECK(!th_tuning_find("A", "first", &c) && th_tuning_find("B", "k:7", &c) && c.microseconds == 2);
  CHECK_OK(th_tuning_read(first, first_size)); /* goes before */
  CHECK(th_tuning_find("A", "first", &c) && !th_tuning_find("B", "k:7", &c));
  CHECK_OK(th_tuning_read(full, full_size));
  CHECK(!th_tuning_find("A", "first", &c) && th_tuning_find("B", "k:8191", &c));
  CHECK_OK(th_tuning_keep("B", "one-more", &a)); /* begun anew */
  CHECK(!th_tuning_find("B", "k:7", &c) && th_tuning_find("B", "one-more", &c));
  char *more = malloc(full_size + first_size);
  CHECK(more);
  memcpy(more, full, full_size);
  const char *rest = strchr(first, '\n') + 1;
  memcpy(more + full_size, rest, strlen(rest));
  refused(more, full_size + strlen(rest), TH_TUNING_RECORDS + 3);
  free(more);
  free(first);
  free(full);
}

int main(void) {
  const char *here = "H200; driver 1; cublasLt 2", *there = "H100; driver 1; cublasLt 2";
  th_tuning_choice c, a = choice(0, 12.5), b = choice(0xf0, 0.125);
  char *text, *again;
  size_t size, again_size;

  CHECK_OK(th_tuning_write(&text, &size));
  CHECK_TEXT(text, "thunder tuning 2\n");
  CHECK_OK(th_tuning_read(text, size));
  free(text);

  CHECK_OK(th_tuning_keep(here, "f:1,2", &b));
  CHECK_OK(th_tuning_keep(here, "f:1,2", &a)); /* replaces */
  CHECK_OK(th_tuning_keep(there, "f:1,2", &b));
  for (int i = 0; i < 200; i++) {
    char key[32];
    snprintf(key, sizeof key, "g:%d", i * 37 % 200);
    CHECK_OK(th_tuning_keep(here, key, &a));
  }
  CHECK(th_tuning_find(here, "f:1,2", &c) && !memcmp(c.bytes, a.bytes, sizeof c.bytes) && c.microseconds == 12.5);
  CHECK(th_tuning_find(there, "f:1,2", &c) && !memcmp(c.bytes, b.bytes, sizeof c.bytes) && c.microseconds == 0.125);
  CHECK(!th_tuning_find(there, "f:1", &c) && !th_tuning_find("H100", "f:1,2", &c));

  CHECK_OK(th_tuning_write(&text, &size));
  CHECK_INT(strlen(text), size);
  th_tuning_clear();
  CHECK(!th_tuning_find(here, "f:1,2", &c));
  CHECK_OK(th_tuning_keep(here, "f:1,2", &b)); /* is overwritten */
  CHECK_OK(th_tuning_keep("A place", "kept", &b));
  CHECK_OK(th_tuning_read(text, size));
  CHECK(th_tuning_find(here, "f:1,2", &c) && c.microseconds == 12.5);
  CHECK(th_tuning_find("A place", "kept", &c));
  th_tuning_clear();
  CHECK_OK(th_tuning_read(text, size));
  CHECK_OK(th_tuning_write(&again, &again_size));
  CHECK_TEXT(again, text);
  free(again);

  th_tuning_clear();
  char *bad = malloc(size + 2);
  CHECK(bad);
  for (size_t i = 0; i < size; i += i < 2000 ? 1 : 97) { /* each byte changed */
    memcpy(bad, text, size + 1);
    bad[i] = bad[i] == '\n' ? ' ' : bad[i] == '7' ? '8' : '7';
    unsigned line = line_of(text, i);
    th_status status = th_tuning_read(bad, size);
    CHECK(status);
    char want[64];
    snprintf(want, sizeof want, "line %u:", line);
    if (!strstr(th_status_message(status), want)) {
      fprintf(stderr, "byte %zu: \"%s\", want %s\n", i, th_status_message(status), want);
      return 1;
    }
    th_status_free(status);
    CHECK(!th_tuning_find(here, "f:1,2", &c));
  }
  for (size_t n = 0; n < size; n += n < 500 ? 1 : 131) /* cut off */
    if (!n || text[n - 1] != '\n') refused(text, n, line_of(text, n));
  refused("thunder tuning 3\n", 17, 1);
  refused("thunder tuning 2\nf:1,2 00 1 00000000\n", 37, 2);
  refused("thunder tuning 2\nat \n", 21, 2);
  refused("thunder tuning 2\nat x 00000000\n", 31, 2);
  size_t head = (size_t)(strchr(strchr(text, '\n') + 1, '\n') + 1 - text); /* two good lines */
  memcpy(bad, text, head);
  memcpy(bad + head, "\n", 1), refused(bad, head + 1, 3);
  memcpy(bad + head, "k h t s more\n", 13), refused(bad, head + 13, 3);
  free(bad);
  changed_at_random(text);
  free(text);
  many();

  th_status status = th_tuning_keep("two\nlines", "k", &a);
  CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
  th_status_free(status);
  status = th_tuning_keep("place", "a key", &a);
  CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
  th_status_free(status);
  th_tuning_clear();
  return 0;
}
