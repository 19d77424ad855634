/* The same plan, the same bytes. cuDNN writes the parameters of a plan's kernels into its JSON as they lie in memory, and parts of
 * that memory were never set: they hold what the stack held, addresses and all. Those are
 *   - what a launch fills in anyway: pointers, and numbers by value
 *   - of each plain tensor (number of dimensions, 12 extents, 12 strides; 64 bits each) the extents and strides beyond its dimensions
 * and here they become 0. A plain tensor is one of ours in float, (batch, heads, length, 1), right behind its pointer. What does
 * not look so is left alone: then the plan works as well, but its bytes may differ from those of another process.
 *
 *   …"kernelParams":{"offsets":[{"value":72,"uid":5,"update_as":"pointer"},{"value":80}, …],"rawData":"<base64>"}… */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "executors/cudnn/engine.h"

enum { EXTENTS = 12, TENSOR_BYTES = 8 + 2 * EXTENTS * 8 };

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Into out[length / 4 * 3]; returns the bytes, or 0 where it is not base64. */
static size_t decode(const char *text, size_t length, uint8_t *out) {
  size_t n = 0;
  if (length % 4) return 0;
  for (size_t i = 0; i < length; i += 4) {
    uint32_t word = 0;
    size_t pads = 0;
    for (size_t k = 0; k < 4; k++) {
      const char *at = text[i + k] == '=' ? ALPHABET : text[i + k] ? strchr(ALPHABET, text[i + k]) : NULL;
      if (!at || (text[i + k] != '=' && pads) || (text[i + k] == '=' && (k < 2 || i + 4 != length))) return 0;
      pads += text[i + k] == '=';
      word = word << 6 | (uint32_t)(at - ALPHABET);
    }
    for (size_t k = 0; k < 3 - pads; k++) out[n++] = (uint8_t)(word >> (16 - 8 * k));
  }
  return n;
}

static void encode(const uint8_t *bytes, size_t n, char *text) { /* over a text of the same length */
  for (size_t i = 0; i < n; i += 3, text += 4) {
    uint32_t word = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
    for (size_t k = 0; k < 4; k++) text[k] = k > 1 && i + k - 1 >= n ? '=' : ALPHABET[word >> (18 - 6 * k) & 63];
  }
}

static char *find(const char *text, const char *end, const char *what) { return end > text ? memmem(text, (size_t)(end - text), what, strlen(what)) : NULL; }

static size_t number_after(const char *text, const char *end, const char *key, size_t otherwise) {
  const char *at = find(text, end, key);
  return at ? (size_t)strtoull(at + strlen(key), NULL, 10) : otherwise;
}

static int64_t word_at(const uint8_t *bytes) {
  int64_t word;
  memcpy(&word, bytes, 8);
  return word;
}

static void clear_tail(uint8_t *tensor, const int64_t dims[4]) {
  const int64_t head[] = {4, dims[0], dims[1], dims[2], dims[3]};
  for (size_t i = 0; i < sizeof head / sizeof *head; i++)
    if (word_at(tensor + i * 8) != head[i]) return;
  memset(tensor + 8 + 4 * 8, 0, (EXTENTS - 4) * 8);
  memset(tensor + 8 + (EXTENTS + 4) * 8, 0, (EXTENTS - 4) * 8);
}

static void clear_parameters(const char *offsets, const char *end, uint8_t *bytes, size_t n, const int64_t *dims) {
  size_t behind_pointer = SIZE_MAX;
  for (const char *at = find(offsets, end, "{"), *close; at && (close = find(at, end, "}")); at = find(close, end, "{")) {
    size_t offset = number_after(at, close, "\"value\":", SIZE_MAX), size = number_after(at, close, "\"size\":", 0);
    bool pointer = find(at, close, "\"update_as\":\"pointer\""), value = find(at, close, "\"update_as\":\"value\"");
    if (pointer) size = 8;
    if (offset > n || size > n - offset) continue;
    if (pointer || value) memset(bytes + offset, 0, size);
    else if (dims && offset == behind_pointer && n - offset >= TENSOR_BYTES) clear_tail(bytes + offset, dims);
    behind_pointer = pointer ? offset + 8 : SIZE_MAX;
  }
}

void th__cudnn_scrub(char *json, size_t size, const int64_t *dims) {
  char *end = json + size;
  for (char *at = json; (at = find(at, end, "\"kernelParams\":{\"offsets\":[")); at++) {
    char *offsets = find(at, end, "["), *close = find(offsets, end, "]"), *raw = close ? find(close, end, "\"rawData\":\"") : NULL;
    if (!raw || raw > close + 2) continue;
    raw += strlen("\"rawData\":\"");
    char *quote = memchr(raw, '"', (size_t)(end - raw));
    uint8_t *bytes = quote ? malloc((size_t)(quote - raw) / 4 * 3 + 3) : NULL;
    size_t n = bytes ? decode(raw, (size_t)(quote - raw), bytes) : 0;
    if (n) {
      clear_parameters(offsets, close, bytes, n, dims);
      encode(bytes, n, raw);
    }
    free(bytes);
  }
}
