/* Tuning records: find, keep, the text's round trip, and every damaged line refused with its number, nothing taken. */
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
  free(text);

  th_status status = th_tuning_keep("two\nlines", "k", &a);
  CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
  th_status_free(status);
  status = th_tuning_keep("place", "a key", &a);
  CHECK_INT(th_status_code(status), TH_CODE_INVALID_ARGUMENT);
  th_status_free(status);
  th_tuning_clear();
  return 0;
}
